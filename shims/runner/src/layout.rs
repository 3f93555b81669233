//! Creating a child's files, and remembering them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use shim_core::manifest::{Entry, LAID, LAID_OUT, MANIFEST_BYTES_MAX, Manifest, WORK_DIR};

use crate::error::{Context, Error};
use crate::root;

/// How much of a file is copied at once.
const BUFFER_BYTES: usize = 256 << 10;

/// What was there before the tool ran.
pub struct LaidOut {
    /// The directory in which everything new is looked for.
    pub top: &'static Path,
    /// What the manifest lists and what else is there, as it was when it was ready.
    pub entries: BTreeMap<PathBuf, State>,
    /// What is not looked at: what Nix put into the work directory, and what is mounted.
    pub ignored: BTreeSet<PathBuf>,
    /// Where the sandbox has something of its own and nothing can be created.
    pub taken: Vec<PathBuf>,
    /// Whether the files are there already.
    pub is_laid_out: bool,
}

/// What makes a difference visible. The change time cannot be set back.
#[derive(PartialEq, Eq)]
pub enum State {
    /// A directory. What is in it is looked at for itself.
    Directory,
    /// A file or link.
    Other {
        inode: u64,
        mode: u32,
        size: u64,
        modified: (i64, i64),
        changed: (i64, i64),
    },
}

impl State {
    /// The state of what is at a path, not following a link.
    pub fn of(metadata: &Metadata) -> Self {
        if metadata.is_dir() {
            return Self::Directory;
        }
        Self::Other {
            inode: metadata.ino(),
            mode: metadata.mode(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The directory below which a child's files are.
pub fn work_dir() -> &'static Path {
    Path::new(OsStr::from_bytes(WORK_DIR))
}

/// Whether the sandbox's maker has laid the files out; the tool does not see the mark.
pub fn is_laid_out() -> Result<bool, Error> {
    let mark = Path::new(LAID_OUT);
    match std::fs::remove_file(mark) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).context(mark),
    }
}

impl LaidOut {
    /// The work directory alone, before the manifest's entries are created.
    pub fn work_dir(manifest: &Manifest, is_laid_out: bool) -> Result<Self, Error> {
        let work_dir = work_dir();
        let in_work_dir = |entry: &Entry| {
            let path = Path::new(OsStr::from_bytes(entry.path()));
            let first = path.strip_prefix(work_dir).ok()?.components().next()?;
            Some(work_dir.join(first))
        };
        let mut ours = BTreeSet::new();
        if is_laid_out {
            ours.extend(manifest.layout.iter().filter_map(in_work_dir));
        }
        let mut ignored = BTreeSet::new();
        for entry in work_dir.read_dir().context(work_dir)? {
            let path = entry.context(work_dir)?.path();
            if !ours.contains(&path) {
                ignored.insert(path);
            }
        }
        Ok(Self {
            top: work_dir,
            entries: BTreeMap::new(),
            ignored,
            taken: Vec::new(),
            is_laid_out,
        })
    }

    /// Creates the entries, in order. Nothing may be in their places, but a directory may, and
    /// files that are laid out already.
    pub fn create(&mut self, entries: &[Entry]) -> Result<(), Error> {
        let mut buffer = vec![0; BUFFER_BYTES];
        for entry in entries {
            let path = Path::new(OsStr::from_bytes(entry.path()));
            if let Some(place) = self.taken.iter().find(|place| path.starts_with(place)) {
                // An entry that says no more than what is so anyway.
                if matches!(entry, Entry::Directory { .. }) && is_directory(path) {
                    continue;
                }
                return Err(Error::Taken(path.to_owned(), place.clone()));
            }
            if self.is_laid_out && matches!(entry, Entry::File { .. }) {
                self.take_parents(path);
                let state = existing(entry, path).context(path)?;
                self.entries.insert(path.to_owned(), state);
                continue;
            }
            let state = match create_one(entry, path, &mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.make_parents(path)?;
                    create_one(entry, path, &mut buffer)
                }
                result => result,
            };
            match state.context(path)? {
                Some(state) => self.entries.insert(path.to_owned(), state).is_some(),
                None => self.ignored.insert(path.to_owned()),
            };
        }
        Ok(())
    }

    /// Takes the directories that lead to a file that is laid out. They are no results.
    fn take_parents(&mut self, path: &Path) {
        for parent in path.ancestors().skip(1) {
            if parent == self.top || self.entries.contains_key(parent) {
                break;
            }
            self.entries.insert(parent.to_owned(), State::Directory);
        }
    }

    /// Makes the directories that lead to a path, those that are missing. They are no results.
    fn make_parents(&mut self, path: &Path) -> Result<(), Error> {
        let mut missing = Vec::new();
        for parent in path.ancestors().skip(1) {
            // Through links: an entry may lie behind one.
            if parent.exists() {
                break;
            }
            missing.push(parent);
        }
        for parent in missing.into_iter().rev() {
            make_dir(parent).context(parent)?;
            self.entries.insert(parent.to_owned(), State::Directory);
        }
        Ok(())
    }
}

fn is_directory(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.is_dir())
}

fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o755).create(path)
}

impl LaidOut {
    /// Takes for inputs what was laid out while the tool ran. Whoever did that also saw whether
    /// the tool changed it; that it is still there is seen here.
    pub fn take_later_ones(&mut self) -> Result<(), Error> {
        let list = Path::new(LAID);
        let mut text = Vec::new();
        match File::open(list) {
            Ok(file) => file
                .take(MANIFEST_BYTES_MAX as u64)
                .read_to_end(&mut text)
                .context(list)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error).context(list),
        };
        self.ignored.insert(list.to_owned());
        for path in text
            .split(|byte| *byte == 0)
            .filter(|path| !path.is_empty())
        {
            let path = Path::new(OsStr::from_bytes(path));
            let state = match path.symlink_metadata() {
                Ok(metadata) => State::of(&metadata),
                Err(_) => State::Directory,
            };
            self.entries.insert(path.to_owned(), state);
        }
        Ok(())
    }
}

/// Creates an entry; its state, if there is any use in looking at it later.
fn create_one(entry: &Entry, path: &Path, buffer: &mut [u8]) -> io::Result<Option<State>> {
    match entry {
        Entry::Directory { .. } => match make_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_directory(path) => {
                Ok(Some(State::Directory))
            }
            result => result.map(|()| Some(State::Directory)),
        },
        Entry::Link { target, .. } => {
            symlink(OsStr::from_bytes(target), path)?;
            Ok(Some(State::of(&path.symlink_metadata()?)))
        }
        Entry::File {
            mtime_seconds,
            source,
            executable,
            ..
        } => {
            let source = open_source(source)?;
            let mut target = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(if *executable { 0o755 } else { 0o644 })
                .open(path)?;
            copy(source, &mut target, buffer)?;
            target.set_modified(time(*mtime_seconds)?)?;
            Ok(Some(State::of(&target.metadata()?)))
        }
        Entry::Bind { source, .. } => {
            root::bind(Path::new(OsStr::from_bytes(source)), path)?;
            Ok(None)
        }
    }
}

/// The state of a file that is there already, if it is as the entry says.
fn existing(entry: &Entry, path: &Path) -> io::Result<State> {
    let metadata = path.symlink_metadata()?;
    let is_same = match entry {
        Entry::File {
            mtime_seconds,
            executable,
            ..
        } => {
            metadata.is_file()
                && (metadata.mtime(), metadata.mtime_nsec()) == (*mtime_seconds, 0)
                && metadata.mode() & 0o7777 == if *executable { 0o755 } else { 0o644 }
        }
        _ => false,
    };
    match is_same {
        true => Ok(State::of(&metadata)),
        false => Err(io::ErrorKind::AlreadyExists.into()),
    }
}

fn open_source(path: &[u8]) -> io::Result<File> {
    let path = Path::new(OsStr::from_bytes(path));
    File::open(path).map_err(|error| {
        // The error's place is the entry's path; this one has to be told, too.
        io::Error::other(format!("`{}`: {error}", path.display()))
    })
}

/// Copies the rest of a file that nobody changes, with as few calls as there can be: most files
/// are small, and there are hundreds of them.
fn copy(mut source: File, target: &mut File, buffer: &mut [u8]) -> io::Result<()> {
    let mut missing = source.metadata()?.len();
    while missing > 0 {
        let count = match source.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        target.write_all(&buffer[..count])?;
        missing = missing.saturating_sub(count as u64);
    }
    Ok(())
}

fn time(seconds: i64) -> io::Result<SystemTime> {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    }
    .ok_or(io::ErrorKind::InvalidInput.into())
}
