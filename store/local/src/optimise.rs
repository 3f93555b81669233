//! Files, and symbolic links, of the same content become names of one.
//!
//! `.links/<hash>` is that file, where the hash is the SHA-256 of the NAR of the file alone, in base
//! 32: it covers the executable bit, so that no file gets the permissions of another.
//!
//! A name is replaced by renaming, so there is no moment without it. Unlike Nix, a file in `.links`
//! is read before anything is replaced by it: one that is damaged is removed.
//!
//! Source: nix 2.34, `src/libstore/optimise-store.cc`.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::io::Errno;
use store_nar::fs::{self, Entry, Kind, Stat};
use store_nar::{DEPTH_MAX, NarError, dump_and_hash};
use store_types::{Hash, StorePath};

use crate::gc::LINKS;
use crate::temp::TempDir;
use crate::{LocalError, LocalStore};

/// What became of a store's files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OptimiseReport {
    /// How many files are names of another now.
    pub files_linked: u64,
    /// How long they were together, in bytes.
    pub bytes_freed: u64,
    /// How many files in `.links` were damaged, and are gone from there.
    pub links_damaged: u64,
    /// How many store paths were looked at.
    pub paths: usize,
    /// Whether it ended early, because it was told to.
    pub is_partial: bool,
}

struct Optimiser<'a> {
    store: &'a LocalStore,
    links: OwnedFd,
    temp: TempDir,
    temp_count: u64,
    /// The inodes of files in the directory of links.
    linked: HashSet<u64>,
    /// Those whose content was looked at.
    sound: HashSet<Hash>,
    report: OptimiseReport,
}

impl LocalStore {
    /// Replaces files of the same content in valid paths by names of one file.
    pub fn optimise(
        &self,
        is_cancelled: &mut dyn FnMut(&StorePath) -> bool,
    ) -> Result<OptimiseReport, LocalError> {
        self.layout.check_writable("optimise the store")?;
        let mut optimiser = self.optimiser()?;
        optimiser.know_links()?;
        for path in self.all_valid_paths()? {
            if is_cancelled(&path) {
                optimiser.report.is_partial = true;
                break;
            }
            self.add_temp_root(&path)?;
            let name = OsStr::new(path.base_name());
            // Collected meanwhile, or another store's.
            let is_here = matches!(fs::stat_if_exists(self.store_fd(), name), Ok(Some(_)));
            if is_here && self.is_valid(&path)? {
                optimiser.tree(&path)?;
                optimiser.report.paths += 1;
            }
        }
        Ok(optimiser.report)
    }

    fn optimiser(&self) -> Result<Optimiser<'_>, LocalError> {
        let links_path = self.physical_dir().join(LINKS);
        match fs::make_dir(self.store_fd(), OsStr::new(LINKS), 0o755) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(LocalError::io("make the directory", links_path)(error));
            }
            Ok(()) | Err(_) => {}
        }
        Ok(Optimiser {
            store: self,
            links: fs::open_dir(self.store_fd(), OsStr::new(LINKS))
                .map_err(LocalError::io("open", &links_path))?,
            temp: self.temp_dir()?,
            temp_count: 0,
            linked: HashSet::new(),
            sound: HashSet::new(),
            report: OptimiseReport::default(),
        })
    }

    /// The same for some paths that have just been registered, and are held. What cannot be
    /// linked stays as it is.
    pub(crate) fn optimise_registered<'a>(&self, paths: impl Iterator<Item = &'a StorePath>) {
        let mut optimiser = match self.optimiser() {
            Ok(optimiser) => optimiser,
            // There may be no room.
            Err(_) => return,
        };
        for path in paths {
            let name = OsStr::new(path.base_name());
            // Another store's, if it is borrowed.
            if matches!(fs::stat_if_exists(self.store_fd(), name), Ok(Some(_))) {
                let _ = optimiser.tree(path);
            }
        }
    }
}

impl Optimiser<'_> {
    /// Looks which files are linked already, and need not be read.
    fn know_links(&mut self) -> Result<(), LocalError> {
        let path = self.store.physical_dir().join(LINKS);
        for entry in fs::list(self.links.as_fd()).map_err(LocalError::io("list", &path))? {
            if let Ok(Some(stat)) = fs::stat_if_exists(self.links.as_fd(), &entry.name) {
                self.linked.insert(stat.st_ino);
            }
        }
        Ok(())
    }

    fn tree(&mut self, path: &StorePath) -> Result<(), LocalError> {
        let mut at = PathBuf::from(path.base_name());
        let store = self.store.store_fd();
        let name = OsStr::new(path.base_name());
        let mut stack: Vec<(OwnedFd, Vec<Entry>)> = Vec::new();
        stack.extend(self.node(store, name, &at, true)?);
        while let Some((fd, entries)) = stack.last_mut() {
            let Some(entry) = entries.pop() else {
                stack.pop();
                at.pop();
                continue;
            };
            at.push(&entry.name);
            let child = self.node(fd.as_fd(), &entry.name, &at, false)?;
            match child {
                Some(_) if stack.len() == DEPTH_MAX => {
                    let source = NarError::TooDeep { path: at };
                    return Err(LocalError::tree("optimise", path)(source));
                }
                Some(child) => stack.push(child),
                None => {
                    at.pop();
                }
            }
        }
        Ok(())
    }

    /// Deals with a file; of a directory, what is in it.
    fn node(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        at: &std::path::Path,
        is_top: bool,
    ) -> Result<Option<(OwnedFd, Vec<Entry>)>, LocalError> {
        let full = || self.store.physical_dir().join(at);
        let stat = fs::stat(dir, name).map_err(LocalError::io("examine", full()))?;
        match Kind::of(&stat) {
            Kind::Directory => {
                let fd = fs::open_dir(dir, name).map_err(LocalError::io("open", full()))?;
                let entries = fs::list(fd.as_fd()).map_err(LocalError::io("list", full()))?;
                return Ok(Some((fd, entries)));
            }
            // One that may be written to is not as it was added.
            Kind::Regular if stat.st_mode & 0o200 != 0 => return Ok(None),
            Kind::Regular | Kind::Symlink if !self.linked.contains(&stat.st_ino) => {}
            _ => return Ok(None),
        }
        let (hash, _) = dump_and_hash(dir, name).map_err(LocalError::tree("read", at.display()))?;
        match self.file(dir, name, &stat, hash, is_top) {
            Ok(()) => {}
            // The directory is as large, or the file has as many names, as the file system allows;
            // or a collector has removed the link just now.
            Err(error) if is_passed_over(&error) => {}
            Err(error) => return Err(LocalError::io("link", full())(error)),
        }
        Ok(None)
    }

    fn file(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        stat: &Stat,
        hash: Hash,
        is_top: bool,
    ) -> io::Result<()> {
        let link = OsString::from(hash.to_base32());
        if let Some(found) = fs::stat_if_exists(self.links.as_fd(), &link)?
            && found.st_ino != stat.st_ino
            && !self.is_sound(&link, hash)
        {
            fs::unlink(self.links.as_fd(), &link)?;
            self.report.links_damaged += 1;
        }
        match fs::link(dir, name, self.links.as_fd(), &link) {
            Ok(()) => {
                self.sound.insert(hash);
                self.linked.insert(stat.st_ino);
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let found = fs::stat(self.links.as_fd(), &link)?;
        if found.st_ino == stat.st_ino || !self.is_sound(&link, hash) {
            return Ok(());
        }
        let temp = OsString::from(self.temp_count.to_string());
        self.temp_count += 1;
        fs::link(self.links.as_fd(), &link, self.temp.fd(), &temp)?;
        let replaced = self.replace(&temp, dir, name, is_top);
        if replaced.is_err() {
            // If it stays, it goes with its directory.
            let _ = fs::unlink(self.temp.fd(), &temp);
        }
        replaced?;
        self.linked.insert(found.st_ino);
        self.report.files_linked += 1;
        self.report.bytes_freed += u64::try_from(stat.st_size).unwrap_or(0);
        Ok(())
    }

    fn is_sound(&mut self, link: &OsStr, hash: Hash) -> bool {
        if self.sound.contains(&hash) {
            return true;
        }
        let is_file = fs::stat(self.links.as_fd(), link).is_ok_and(|stat| match Kind::of(&stat) {
            Kind::Regular => stat.st_mode & 0o222 == 0,
            kind => kind == Kind::Symlink,
        });
        let is_sound = is_file
            && dump_and_hash(self.links.as_fd(), link).is_ok_and(|(found, _)| found == hash);
        if is_sound {
            self.sound.insert(hash);
        }
        is_sound
    }

    /// Puts the link in the place of a file; its directory is as before then.
    fn replace(
        &self,
        temp: &OsStr,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        is_top: bool,
    ) -> io::Result<()> {
        // The store's own directory stays as it is.
        let toggles = !is_top && !rustix::process::geteuid().is_root();
        if toggles {
            fs::set_mode(dir, 0o755)?;
        }
        let renamed = fs::rename(self.temp.fd(), temp, dir, name);
        if toggles {
            fs::set_mode(dir, 0o555)?;
        }
        if !is_top {
            fs::set_store_mtime_fd(dir)?;
        }
        renamed
    }
}

fn is_passed_over(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MLINK | Errno::NOSPC | Errno::NOENT))
}
