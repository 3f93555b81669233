//! What is believed of store objects after a crash.
//!
//! A store object is valid as soon as the database says so, and its bytes may still be in
//! the kernel's memory then. After a power failure some may be lost; a process that was killed
//! may have been killed for a reason. So each executor leaves a mark from its first build on. Whoever
//! finds the mark of one that is gone counts a crash, and from then on no object is used before
//! its hash was compared, once for each crash. As long as there was none, nothing is compared.
//!
//! On disk, below `var/droste`:
//!
//! ```text
//! crashes              how many there were; locked while marks are looked at
//! running/<pid>-<n>    a mark; locked as long as its process lives
//! children.sqlite      the table Sound: which objects were found sound after which crash
//! ```

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rusqlite::{Connection, OptionalExtension, params};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use store_local::LocalStore;
use store_types::StorePath;

/// A change of the table's meaning changes its name.
const SCHEMA: &str = "
    pragma journal_mode = wal;
    pragma synchronous = normal;
    create table if not exists Sound (
        path text primary key not null,
        crashes integer not null
    ) without rowid;
";

/// The number of crashes has no more digits.
const DIGITS_MAX: u64 = 20;

/// How many names are tried for a mark.
const NAMES_MAX: u32 = 100;

/// Crashes that cannot be counted.
#[derive(Debug, thiserror::Error)]
pub enum CrashError {
    /// A file of the marks is not usable.
    #[error("cannot use `{}`", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The database is not usable.
    #[error("cannot use the database `{}`", path.display())]
    Database {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: rusqlite::Error,
    },
}

/// The crashes of one store's executors, and what was found sound since.
pub struct Crashes {
    mark: PathBuf,
    _lock: OwnedFd,
    count: u64,
    sound: Mutex<HashSet<StorePath>>,
    /// `None` as long as nothing needs to be remembered.
    database: Option<Mutex<Connection>>,
}

impl Crashes {
    /// Counts the crashes since the last time, and leaves a mark. `dir` is the store's
    /// `var/droste`, `database` a file in it.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn open(dir: &Path, database: &Path) -> Result<Self, CrashError> {
        let file_error = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| CrashError::File { path, source }
        };
        let counter = dir.join("crashes");
        let running = dir.join("running");
        std::fs::create_dir_all(&running).map_err(file_error(&running))?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&counter)
            .map_err(file_error(&counter))?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)
            .map_err(|errno| file_error(&counter)(errno.into()))?;
        let mut count = read_count(&mut file).map_err(file_error(&counter))?;
        let dead = dead_marks(&running).map_err(file_error(&running))?;
        if !dead.is_empty() {
            count = count.saturating_add(1);
            write_count(&mut file, count).map_err(file_error(&counter))?;
        }
        for mark in dead {
            std::fs::remove_file(&mark).map_err(file_error(&mark))?;
        }
        let (mark, lock) = leave_mark(&running).map_err(file_error(&running))?;
        let database = match count {
            0 => None,
            _ => Some(Mutex::new(open_database(database).map_err(|source| {
                CrashError::Database {
                    path: database.to_owned(),
                    source,
                }
            })?)),
        };
        Ok(Self {
            mark,
            _lock: lock,
            count,
            sound: Mutex::default(),
            database,
        })
    }

    /// Whether a valid object has the content that the store says, as far as a crash may
    /// have changed that. Looked at once.
    pub fn is_sound(&self, store: &LocalStore, path: &StorePath) -> bool {
        let Some(database) = &self.database else {
            return true;
        };
        let is_known = |sound: &Mutex<HashSet<StorePath>>| {
            let sound = sound.lock().unwrap_or_else(PoisonError::into_inner);
            sound.contains(path)
        };
        if is_known(&self.sound) {
            return true;
        }
        let is_sound = self.was_sound(database, path) || {
            let is_undamaged = is_undamaged(store, path);
            if is_undamaged {
                self.remember(database, path);
            }
            is_undamaged
        };
        if is_sound {
            let mut sound = self.sound.lock().unwrap_or_else(PoisonError::into_inner);
            sound.insert(path.clone());
        }
        is_sound
    }

    /// What cannot be read is not known; it is looked at again then.
    fn was_sound(&self, database: &Mutex<Connection>, path: &StorePath) -> bool {
        let database = database.lock().unwrap_or_else(PoisonError::into_inner);
        let row: rusqlite::Result<Option<i64>> = database
            .prepare_cached("select crashes from Sound where path = ?")
            .and_then(|mut query| {
                query
                    .query_row([path.base_name()], |row| row.get(0))
                    .optional()
            });
        matches!(row, Ok(Some(count)) if u64::try_from(count) == Ok(self.count))
    }

    fn remember(&self, database: &Mutex<Connection>, path: &StorePath) {
        let database = database.lock().unwrap_or_else(PoisonError::into_inner);
        let count = i64::try_from(self.count).unwrap_or(i64::MAX);
        // If that fails, it is looked at again.
        let _ = database
            .prepare_cached("insert or replace into Sound (path, crashes) values (?, ?)")
            .and_then(|mut insert| insert.execute(params![path.base_name(), count]));
    }
}

impl Drop for Crashes {
    fn drop(&mut self) {
        // If that fails, a crash is counted, and more is compared than need be.
        let _ = std::fs::remove_file(&self.mark);
    }
}

/// Whether a valid object has the content that the store says.
pub fn is_undamaged(store: &LocalStore, path: &StorePath) -> bool {
    let name = OsStr::new(path.base_name());
    let hash = store_nar::dump_and_hash(store.dir_of(name), name);
    match (store.path_info(path), hash) {
        (Ok(Some(info)), Ok((hash, _))) => info.nar_hash == hash,
        _ => false,
    }
}

fn open_database(path: &Path) -> rusqlite::Result<Connection> {
    let database = Connection::open(path)?;
    database.busy_timeout(std::time::Duration::from_secs(60))?;
    database.execute_batch(SCHEMA)?;
    Ok(database)
}

/// An empty file is 0; one that is damaged is a crash of its own, and begins anew.
fn read_count(file: &mut File) -> io::Result<u64> {
    let mut bytes = Vec::new();
    file.take(DIGITS_MAX + 2).read_to_end(&mut bytes)?;
    if bytes.is_empty() {
        return Ok(0);
    }
    let text = str::from_utf8(&bytes).unwrap_or_default();
    Ok(text.trim_end().parse().unwrap_or(1))
}

fn write_count(file: &mut File, count: u64) -> io::Result<()> {
    file.rewind()?;
    // Never shorter than what was there.
    file.write_all(format!("{count:020}\n").as_bytes())?;
    file.sync_data()
}

/// The marks of processes that are gone.
fn dead_marks(running: &Path) -> io::Result<Vec<PathBuf>> {
    let mut dead = Vec::new();
    for entry in std::fs::read_dir(running)? {
        let path = entry?.path();
        match rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
            Ok(mark) => {
                if rustix::fs::flock(&mark, FlockOperation::NonBlockingLockExclusive).is_ok() {
                    dead.push(path);
                }
            }
            // It ended just now, as it should.
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(dead)
}

fn leave_mark(running: &Path) -> io::Result<(PathBuf, OwnedFd)> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    for attempt in 0..NAMES_MAX {
        let path = running.join(format!("{}-{attempt}", std::process::id()));
        match rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600)) {
            Ok(mark) => {
                rustix::fs::flock(&mark, FlockOperation::LockExclusive)?;
                return Ok((path, mark));
            }
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(io::Error::other("no free name for a mark"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::os::unix::fs::PermissionsExt;
    use store_types::StoreDir;

    struct World {
        dir: tempfile::TempDir,
        store: LocalStore,
    }

    impl World {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().join("root");
            let store = LocalStore::open(&root, StoreDir::default()).unwrap();
            Self { dir, store }
        }

        fn open(&self) -> Crashes {
            Crashes::open(self.dir.path(), &self.dir.path().join("db.sqlite")).unwrap()
        }

        /// As if a process had been killed.
        fn crash(&self) {
            std::fs::write(self.dir.path().join("running/1-0"), "").unwrap();
        }

        fn add(&self, text: &str) -> StorePath {
            let info = self.store.add_text("x", text.as_bytes(), &BTreeSet::new());
            info.unwrap().path
        }

        fn damage(&self, path: &StorePath) {
            let file = self.store.physical_path(path);
            let mode = |mode| std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&file, mode(0o644)).unwrap();
            std::fs::write(&file, "damaged").unwrap();
            std::fs::set_permissions(&file, mode(0o444)).unwrap();
        }
    }

    #[test]
    fn nothing_is_compared_as_long_as_nobody_crashed() {
        let world = World::new();
        let path = world.add("a");
        world.damage(&path);
        for _ in 0..2 {
            let (one, other) = (world.open(), world.open());
            assert!(one.is_sound(&world.store, &path));
            assert!(other.is_sound(&world.store, &path));
        }
    }

    #[test]
    fn after_a_crash_what_is_damaged_is_found_and_what_is_sound_is_remembered() {
        let world = World::new();
        let (damaged, sound) = (world.add("a"), world.add("b"));
        drop(world.open());
        world.crash();
        world.damage(&damaged);
        let crashes = world.open();
        assert!(!crashes.is_sound(&world.store, &damaged));
        assert!(crashes.is_sound(&world.store, &sound));
        drop(crashes);
        // What was compared is believed, by this process and the next ones.
        world.damage(&sound);
        let crashes = world.open();
        assert!(crashes.is_sound(&world.store, &sound));
        assert!(!crashes.is_sound(&world.store, &damaged));
        drop(crashes);
        // Until the next crash.
        world.crash();
        assert!(!world.open().is_sound(&world.store, &sound));
    }

    #[test]
    fn a_counter_that_is_damaged_counts_as_a_crash() {
        let world = World::new();
        let path = world.add("a");
        drop(world.open());
        std::fs::write(world.dir.path().join("crashes"), b"\xff\xfe").unwrap();
        world.damage(&path);
        let crashes = world.open();
        assert!(!crashes.is_sound(&world.store, &path));
    }

    #[test]
    fn one_who_runs_has_not_crashed() {
        let world = World::new();
        let first = world.open();
        let second = world.open();
        assert_eq!((first.count, second.count), (0, 0));
        drop(first);
        assert_eq!(world.open().count, 0);
        world.crash();
        assert_eq!(world.open().count, 1);
        assert_eq!(world.open().count, 1);
    }
}
