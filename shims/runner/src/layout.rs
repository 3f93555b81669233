//! Creating a child's files, and remembering them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use shim_core::manifest::{Entry, LAID, MANIFEST_BYTES_MAX, WORK_DIR};

use crate::error::{Context, Error};

/// What was there before the tool ran.
pub struct LaidOut {
    /// What the manifest lists, as it was when it was ready.
    pub entries: BTreeMap<PathBuf, State>,
    /// What Nix put into the work directory: not looked at.
    pub ignored: BTreeSet<PathBuf>,
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

/// Creates the entries, in order. Nothing may be in their places.
pub fn create(entries: &[Entry]) -> Result<LaidOut, Error> {
    let work_dir = work_dir();
    let mut ignored = BTreeSet::new();
    for entry in work_dir.read_dir().context(work_dir)? {
        ignored.insert(entry.context(work_dir)?.path());
    }
    for entry in entries {
        let path = Path::new(OsStr::from_bytes(entry.path()));
        create_one(entry, path)?;
    }
    let mut states = BTreeMap::new();
    for entry in entries {
        let path = Path::new(OsStr::from_bytes(entry.path()));
        let metadata = path.symlink_metadata().context(path)?;
        states.insert(path.to_owned(), State::of(&metadata));
    }
    Ok(LaidOut {
        entries: states,
        ignored,
    })
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

fn create_one(entry: &Entry, path: &Path) -> Result<(), Error> {
    match entry {
        Entry::Directory { .. } => std::fs::create_dir(path).context(path),
        Entry::Link { target, .. } => symlink(OsStr::from_bytes(target), path).context(path),
        Entry::File {
            mtime_seconds,
            source,
            executable,
            ..
        } => {
            let source = Path::new(OsStr::from_bytes(source));
            let mut content = File::open(source).context(source)?;
            let mut target = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(if *executable { 0o755 } else { 0o644 })
                .open(path)
                .context(path)?;
            io::copy(&mut content, &mut target)
                .and_then(|_| target.set_modified(time(*mtime_seconds)?))
                .context(path)
        }
    }
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
