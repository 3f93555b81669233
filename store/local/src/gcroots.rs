//! What must not be collected: links, what processes use, and what they are about to use.
//!
//! Source: nix 2.8 and 2.34, `src/libstore/gc.cc`, `indirect-root-store.cc`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use store_nar::fs::{self, Entry, FlockOperation, Kind};
use store_types::StorePath;

use crate::{LocalError, LocalStore, runtime_roots};

/// For each path, where it is kept: links, `{temp:PID}`, or files below `/proc`.
pub type Roots = BTreeMap<StorePath, BTreeSet<PathBuf>>;

/// What stands for a root that only its owner may know.
const CENSORED: &str = "{censored}";
/// The directories of links, in the store's state.
const LINK_DIRS: [&str; 2] = ["gcroots", "profiles"];
/// How deep directories of links may lie in one another. A user may make them, and one that is
/// deeper is no accident.
const DEPTH_MAX: usize = 64;
/// The longest file of temporary roots that is read, in bytes.
const TEMP_ROOTS_LEN_MAX: u64 = 1 << 30;

impl LocalStore {
    /// All roots. With `censor`, what processes use is not told from where.
    ///
    /// Nothing is changed, but for files of temporary roots that processes left that are gone.
    pub fn find_roots(&self, censor: bool) -> Result<Roots, LocalError> {
        let mut roots = self.link_roots(false)?;
        for (path, places) in self.runtime_roots()?.into_iter().chain(self.temp_roots()?) {
            let known = roots.entry(path).or_default();
            match censor {
                true => drop(known.insert(CENSORED.into())),
                false => known.extend(places),
            }
        }
        Ok(roots)
    }

    /// All but the temporary ones. With `remove_stale`, indirect roots go whose links are gone.
    pub(crate) fn roots(&self, remove_stale: bool) -> Result<Roots, LocalError> {
        let mut roots = self.link_roots(remove_stale)?;
        for (path, places) in self.runtime_roots()? {
            roots.entry(path).or_default().extend(places);
        }
        Ok(roots)
    }

    /// Makes a link to a path, which is then a root as long as the link is there; a link to a path
    /// of the store that is there already is replaced. `link` must be absolute.
    ///
    /// The link names the path as it is in the store's logical directory, since that is where Nix
    /// looks: in a store that lies elsewhere it leads nowhere, but is a root.
    pub fn add_perm_root(&self, path: &StorePath, link: &Path) -> Result<(), LocalError> {
        let refuse = |reason| LocalError::RootRefused {
            link: link.to_owned(),
            reason,
        };
        if self.in_store(link.as_os_str().as_bytes()).is_some()
            || link.starts_with(self.physical_dir())
        {
            return Err(refuse("it lies in the store itself"));
        }
        let (Some(parent), Some(name)) = (link.parent(), link.file_name()) else {
            return Err(refuse("it has no name"));
        };
        self.add_temp_root(path)?;
        if !self.is_valid(path)? {
            return Err(LocalError::NotValid { path: path.clone() });
        }
        let failed = |error| LocalError::io("make the link", link)(error);
        std::fs::create_dir_all(parent).map_err(LocalError::io("make the directory", parent))?;
        // Where the directory is, whatever links lead there: that is what the root has to name.
        let parent = parent.canonicalize().map_err(failed)?;
        let dir = fs::open_root(&parent).map_err(failed)?;
        if let Some(stat) = fs::stat_if_exists(dir.as_fd(), name).map_err(failed)? {
            let is_ours = Kind::of(&stat) == Kind::Symlink
                && self
                    .in_store(&fs::read_link(dir.as_fd(), name).map_err(failed)?)
                    .is_some();
            if !is_ours {
                return Err(refuse("there is something else at its place"));
            }
        }
        let mut temporary = OsString::from(name);
        temporary.push(format!(".tmp-{}", std::process::id()));
        let place = || -> io::Result<()> {
            match fs::unlink(dir.as_fd(), &temporary) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let target = self.dir.display(path);
            fs::make_symlink(target.as_bytes(), dir.as_fd(), &temporary)?;
            fs::rename(dir.as_fd(), &temporary, dir.as_fd(), name)
        };
        place().map_err(failed)?;
        self.add_indirect_root(&parent.join(name))
    }

    /// The store path that a link's target names, if it is in the logical directory.
    pub(crate) fn in_store(&self, target: &[u8]) -> Option<Option<StorePath>> {
        let dir = self.dir.as_str().as_bytes();
        let inside = target.strip_prefix(dir)?.strip_prefix(b"/")?;
        let name = inside
            .split(|byte| *byte == b'/')
            .next()
            .unwrap_or_default();
        let name = std::str::from_utf8(name).ok();
        Some(name.and_then(|name| StorePath::from_base_name(name).ok()))
    }

    /// What links keep.
    fn link_roots(&self, remove_stale: bool) -> Result<Roots, LocalError> {
        let mut walk = Walk {
            store: self,
            remove_stale,
            roots: Roots::new(),
        };
        for name in LINK_DIRS {
            let path = self.state_dir().join(name);
            match fs::open_dir(self.layout.state_fd.as_fd(), OsStr::new(name)) {
                Ok(dir) => walk.directory(dir, path)?,
                Err(error) if is_passed_over(&error) => {}
                Err(error) => return Err(LocalError::io("open", path)(error)),
            }
        }
        Ok(walk.roots)
    }

    /// What processes of this machine use, as far as it may be seen.
    fn runtime_roots(&self) -> Result<Roots, LocalError> {
        let mut roots = Roots::new();
        for (path, places) in runtime_roots::find(&self.dir, self.physical_dir()) {
            if self.is_valid(&path)? {
                roots.insert(path, places);
            }
        }
        Ok(roots)
    }

    /// The files of processes that ended without removing theirs, locked. What cannot be looked at
    /// (another user's) is passed over.
    pub(crate) fn dead_processes(&self) -> Result<Vec<(OsString, OwnedFd)>, LocalError> {
        let path = self.state_dir().join("temproots");
        let list = || -> io::Result<(OwnedFd, Vec<Entry>)> {
            let dir = fs::open_dir(self.layout.state_fd.as_fd(), OsStr::new("temproots"))?;
            let entries = fs::list(dir.as_fd())?;
            Ok((dir, entries))
        };
        let (dir, entries) = list().map_err(LocalError::io("list", path))?;
        let mut dead = Vec::new();
        for Entry { name, .. } in entries {
            let is_a_number = name.as_bytes().iter().all(u8::is_ascii_digit);
            if is_a_number
                && let Ok(file) = fs::open_to_write(dir.as_fd(), &name)
                && fs::lock(&file, FlockOperation::NonBlockingLockExclusive).unwrap_or(false)
            {
                dead.push((name, file));
            }
        }
        Ok(dead)
    }

    /// Removes these files. One that stays is found again.
    pub(crate) fn forget(&self, dead: Vec<(OsString, OwnedFd)>) {
        let dir = fs::open_dir(self.layout.state_fd.as_fd(), OsStr::new("temproots"));
        for (name, file) in dead {
            let _ = dir
                .as_ref()
                .map(|dir| remove_locked(dir.as_fd(), &name, &file));
        }
    }

    /// What processes have announced that they need, valid or not. Files of processes that are
    /// gone are removed.
    pub(crate) fn temp_roots(&self) -> Result<Roots, LocalError> {
        let dir_path = self.state_dir().join("temproots");
        let dir = fs::open_dir(self.layout.state_fd.as_fd(), OsStr::new("temproots"))
            .map_err(LocalError::io("open", &dir_path))?;
        let mut roots = Roots::new();
        for Entry { name, .. } in
            fs::list(dir.as_fd()).map_err(LocalError::io("list", &dir_path))?
        {
            // A package manager's mark that the directory is to stay.
            if name.as_bytes().starts_with(b".") {
                continue;
            }
            let path = dir_path.join(&name);
            let read = || -> io::Result<Vec<u8>> {
                match fs::stat_if_exists(dir.as_fd(), &name)? {
                    Some(stat) if Kind::of(&stat) == Kind::Regular => {}
                    _ => return Ok(Vec::new()),
                }
                let fd = fs::open_to_write(dir.as_fd(), &name)?;
                // Only if its process is gone.
                if fs::lock(&fd, FlockOperation::NonBlockingLockExclusive)? {
                    remove_locked(dir.as_fd(), &name, &fd)?;
                    return Ok(Vec::new());
                }
                let mut bytes = Vec::new();
                std::fs::File::from(fd)
                    .take(TEMP_ROOTS_LEN_MAX)
                    .read_to_end(&mut bytes)?;
                Ok(bytes)
            };
            let bytes = match read() {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(LocalError::io("read", path)(error)),
            };
            let place = PathBuf::from(format!("{{temp:{}}}", name.display()));
            // What follows the last NUL is being written.
            let end = bytes.iter().rposition(|byte| *byte == 0).unwrap_or(0);
            for text in bytes[..end].split(|byte| *byte == 0) {
                if let Some(Some(path)) = self.in_store(text) {
                    roots.entry(path).or_default().insert(place.clone());
                }
            }
        }
        Ok(roots)
    }
}

/// Removes a file of temporary roots that nobody else has locked. Who has just made it sees by the
/// mark that it has to make it again.
fn remove_locked(dir: BorrowedFd<'_>, name: &OsStr, file: &OwnedFd) -> io::Result<()> {
    fs::unlink(dir, name)?;
    fs::write_all(file, b"d")
}

/// What keeps nobody from collecting: it is not there, or is not for us.
fn is_passed_over(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    // ELOOP: a link where a directory was.
    matches!(
        errno,
        Some(Errno::NOENT | Errno::ACCESS | Errno::NOTDIR | Errno::LOOP)
    )
}

/// A search for links.
struct Walk<'a> {
    store: &'a LocalStore,
    remove_stale: bool,
    roots: Roots,
}

impl Walk<'_> {
    fn directory(&mut self, dir: OwnedFd, path: PathBuf) -> Result<(), LocalError> {
        let list = |dir: &OwnedFd, path: &Path| {
            fs::list(dir.as_fd()).map_err(LocalError::io("list", path))
        };
        let mut stack = vec![(list(&dir, &path)?, dir, path)];
        while let Some((entries, dir, path)) = stack.last_mut() {
            let Some(entry) = entries.pop() else {
                stack.pop();
                continue;
            };
            let path = path.join(&entry.name);
            match self.entry(dir, &entry, &path) {
                Ok(None) => {}
                Ok(Some(_)) if stack.len() == DEPTH_MAX => {
                    return Err(LocalError::RootRefused {
                        link: path,
                        reason: "it lies too deep in the directories of roots",
                    });
                }
                Ok(Some(child)) => stack.push((list(&child, &path)?, child, path)),
                Err(error) if is_passed_over(&error) => {}
                Err(error) => return Err(LocalError::io("look for roots in", path)(error)),
            }
        }
        Ok(())
    }

    /// Notes what one entry keeps; of a directory, opens it.
    fn entry(&mut self, dir: &OwnedFd, entry: &Entry, path: &Path) -> io::Result<Option<OwnedFd>> {
        let kind = match entry.kind {
            Some(kind) => kind,
            None => Kind::of(&fs::stat(dir.as_fd(), &entry.name)?),
        };
        match kind {
            Kind::Directory => return fs::open_dir(dir.as_fd(), &entry.name).map(Some),
            Kind::Symlink => self.link(dir, &entry.name, path)?,
            // The name alone keeps the path of that name.
            Kind::Regular => {
                let name = entry.name.to_str();
                let named = name.and_then(|name| StorePath::from_base_name(name).ok());
                self.found(named, path)?;
            }
            Kind::Other(_) => {}
        }
        Ok(None)
    }

    fn link(&mut self, dir: &OwnedFd, name: &OsStr, path: &Path) -> io::Result<()> {
        let target = fs::read_link(dir.as_fd(), name)?;
        if let Some(named) = self.store.in_store(&target) {
            return self.found(named, path);
        }
        // A link to a link that lies anywhere, like a user's `result`.
        let target = PathBuf::from(OsString::from_vec(target));
        let target = path.parent().unwrap_or(path).join(target);
        match std::fs::symlink_metadata(&target) {
            Ok(found) if found.is_symlink() => {
                let second = std::fs::read_link(&target)?;
                if let Some(named) = self.store.in_store(second.as_os_str().as_bytes()) {
                    self.found(named, &target)?;
                }
            }
            Ok(_) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                let auto = self.store.state_dir().join("gcroots/auto");
                if self.remove_stale && path.starts_with(auto) {
                    fs::unlink(dir.as_fd(), name)?;
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn found(&mut self, named: Option<StorePath>, place: &Path) -> io::Result<()> {
        if let Some(path) = named
            && self.store.is_valid(&path).map_err(io::Error::other)?
        {
            self.roots.entry(path).or_default().insert(place.to_owned());
        }
        Ok(())
    }
}
