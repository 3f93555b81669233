//! The directories of a store, and who has it open.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use store_nar::fs::{self, FlockOperation};

use crate::db::Db;
use crate::locks::SpareLocks;
use crate::migrations::is_upgradable;
use crate::schema::{CA_SCHEMA, SCHEMA};
use crate::{LocalError, LocalStoreConfig};

/// How long to wait between two attempts to get a lock that cannot be waited for.
const LOCK_POLL: Duration = Duration::from_millis(20);

/// The length of `db/reserved`, in bytes. A collection on a full disk begins with removing it,
/// since the database needs space.
const RESERVED_LEN: u64 = 8 << 20;

/// The directories of a store.
pub(crate) struct Layout {
    /// Where they are, with no symbolic link on the way to the root.
    pub(crate) config: LocalStoreConfig,
    /// `ROOT/nix/store`.
    pub(crate) store: PathBuf,
    /// `ROOT/nix/var/nix`.
    pub(crate) state: PathBuf,
    /// `ROOT/nix/var/log/nix`.
    pub(crate) log: PathBuf,
    pub(crate) store_fd: OwnedFd,
    pub(crate) state_fd: OwnedFd,
    pub(crate) spare_locks: OnceLock<SpareLocks>,
}

impl Layout {
    /// Opens the directories, making those that are missing unless the store is read-only.
    pub(crate) fn open(config: &LocalStoreConfig) -> Result<Self, LocalError> {
        let mut config = config.clone();
        let makes = !config.read_only;
        if let Some(root) = config.root.take() {
            if makes {
                std::fs::create_dir_all(&root)
                    .map_err(LocalError::io("make the directory", &root))?;
            }
            let real = root
                .canonicalize()
                .map_err(LocalError::io("resolve", &root))?;
            for dir in [&mut config.real, &mut config.state, &mut config.log] {
                if let Ok(inside) = dir.strip_prefix(&root) {
                    *dir = real.join(inside);
                }
            }
            config.root = Some(real);
        }
        let root = config.root.clone();
        let (store_fd, store) = open_below(root.as_deref(), &config.real, makes)?;
        let (state_fd, state) = open_below(root.as_deref(), &config.state, makes)?;
        config.real.clone_from(&store);
        config.state.clone_from(&state);
        if makes {
            for name in ["db", "temproots", "builds", "userpool"] {
                ensure_dir(&state_fd, &state, name)?;
            }
            for name in ["gcroots", "profiles"] {
                let fd = ensure_dir(&state_fd, &state, name)?;
                ensure_dir(&fd, &state.join(name), "per-user")?;
            }
            ensure_dir(&store_fd, &store, ".links")?;
            // One that is elsewhere is made by who first has a log to write.
            if root
                .as_deref()
                .is_some_and(|root| config.log.starts_with(root))
            {
                open_below(root.as_deref(), &config.log, makes)?;
            }
        }
        Ok(Self {
            store,
            log: config.log.clone(),
            state,
            config,
            store_fd,
            state_fd,
            spare_locks: OnceLock::new(),
        })
    }

    /// What names the store to people.
    fn place(&self) -> PathBuf {
        self.config.place().to_owned()
    }

    /// An error if nothing may be written.
    pub(crate) fn check_writable(&self, operation: &'static str) -> Result<(), LocalError> {
        match self.config.read_only {
            true => Err(LocalError::ReadOnly {
                operation,
                place: self.place(),
            }),
            false => Ok(()),
        }
    }

    fn db_dir(&self) -> Result<(OwnedFd, PathBuf), LocalError> {
        let path = self.state.join("db");
        let dir = fs::open_dir(self.state_fd.as_fd(), OsStr::new("db"))
            .map_err(LocalError::io("open", &path))?;
        Ok((dir, path))
    }

    /// Sets space aside that a collection on a full disk can begin with. Who has none left goes on
    /// without.
    pub(crate) fn reserve_space(&self) {
        let reserve = || -> Option<()> {
            let name = OsStr::new("reserved");
            let (dir, _) = self.db_dir().ok()?;
            let present = fs::stat_if_exists(dir.as_fd(), name).ok()?;
            if present.is_none_or(|stat| stat.st_size != RESERVED_LEN as i64) {
                let _ = fs::unlink(dir.as_fd(), name);
                let file = fs::create_file(dir.as_fd(), name, 0o600).ok()?;
                if fs::allocate(&file, RESERVED_LEN).is_err() {
                    let _ = fs::unlink(dir.as_fd(), name);
                }
            }
            Some(())
        };
        reserve();
    }

    /// Opens the database of a store that nobody writes to.
    fn open_db_read_only(&self) -> Result<Db, LocalError> {
        let (dir, db_dir) = self.db_dir()?;
        match self.schema(dir.as_fd())? {
            Some(SCHEMA) => Db::open_immutable(&self.place(), &db_dir.join("db.sqlite")),
            Some(found) => Err(self.wrong_schema(found)),
            None => Err(LocalError::Unusable {
                root: self.place(),
                reason: format!("its database `{}` is not there", db_dir.display()),
                advice: "leave out `read-only` to make it",
                source: None,
            }),
        }
    }

    /// Opens the database, making it in a store that has none, and bringing it up to date where Nix
    /// does that. The descriptor holds the lock that says that the store is open; one that is
    /// read-only has none.
    pub(crate) fn open_db(&self) -> Result<(Db, Option<OwnedFd>), LocalError> {
        if self.config.read_only {
            return Ok((self.open_db_read_only()?, None));
        }
        let (dir, db_dir) = self.db_dir()?;
        let lock_path = db_dir.join("big-lock");
        let big_lock = fs::open_lock_file(dir.as_fd(), OsStr::new("big-lock"))
            .map_err(LocalError::io("open", &lock_path))?;
        let lock =
            |operation| fs::lock(&big_lock, operation).map_err(LocalError::io("lock", &lock_path));
        lock(FlockOperation::LockShared)?;
        let path = db_dir.join("db.sqlite");
        loop {
            match self.schema(dir.as_fd())? {
                Some(SCHEMA) => break,
                Some(found) if !is_upgradable(found) => return Err(self.wrong_schema(found)),
                Some(_) | None => {}
            }
            // Another process that makes the store holds the lock for reading
            // (Nix does it so), so it must not be waited for: look again instead.
            lock(FlockOperation::Unlock)?;
            if !lock(FlockOperation::NonBlockingLockExclusive)? {
                std::thread::sleep(LOCK_POLL);
                lock(FlockOperation::LockShared)?;
                continue;
            }
            match self.schema(dir.as_fd())? {
                None => {
                    Db::create(&self.place(), &path)?;
                    write_number(dir.as_fd(), &db_dir, "ca-schema", CA_SCHEMA)?;
                    write_number(dir.as_fd(), &db_dir, "schema", SCHEMA)?;
                }
                Some(found) if is_upgradable(found) => {
                    Db::upgrade(&self.place(), &path, found)?;
                    write_number(dir.as_fd(), &db_dir, "schema", SCHEMA)?;
                }
                Some(_) => {}
            }
            lock(FlockOperation::LockShared)?;
        }
        self.reserve_space();
        Ok((Db::open(&self.place(), &path)?, Some(big_lock)))
    }

    /// Why a store with this number in `schema` is left alone.
    fn wrong_schema(&self, found: u32) -> LocalError {
        let path = self.state.join("db/db.sqlite");
        LocalError::Unusable {
            root: self.place(),
            reason: format!(
                "its database `{}` has schema {found}, and this program knows {SCHEMA}",
                path.display()
            ),
            advice: match found {
                // Of Berkeley DB, and of one file a path.
                0..5 => "let Nix 0.12 upgrade it first, and then Nix 1.11",
                5 => "let Nix 1.11 upgrade it first",
                _ if found < SCHEMA => "leave out `read-only` to bring it up to date",
                _ => "use the program that made it, or another store directory",
            },
            source: None,
        }
    }

    /// The number in the file `schema`, if there is such a file.
    fn schema(&self, dir: BorrowedFd<'_>) -> Result<Option<u32>, LocalError> {
        let path = self.state.join("db/schema");
        let file = match fs::open_file(dir, OsStr::new("schema")) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(LocalError::io("open", path)(error)),
        };
        let mut buffer = [0; 32];
        let count = fs::read(&file, &mut buffer).map_err(LocalError::io("read", &path))?;
        let text = String::from_utf8_lossy(&buffer[..count]).trim().to_owned();
        match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(LocalError::Unusable {
                root: self.place(),
                reason: format!("`{}` holds `{text}`, which is not a number", path.display()),
                advice: "restore the file (Nix writes `10`), or use another store directory",
                source: None,
            }),
        }
    }
}

/// Opens a directory, making it if it is missing and is to be made: below the root with no
/// symbolic link on the way, elsewhere wherever links lead. Its real place comes back, too.
fn open_below(
    root: Option<&Path>,
    dir: &Path,
    makes: bool,
) -> Result<(OwnedFd, PathBuf), LocalError> {
    let inside = root.and_then(|root| Some((root, dir.strip_prefix(root).ok()?)));
    let Some((root, inside)) = inside else {
        if makes {
            std::fs::create_dir_all(dir).map_err(LocalError::io("make the directory", dir))?;
        }
        let dir = dir.canonicalize().map_err(LocalError::io("resolve", dir))?;
        let fd = fs::open_root(&dir).map_err(LocalError::io("open", &dir))?;
        return Ok((fd, dir));
    };
    let mut path = root.to_owned();
    let mut fd = fs::open_root(&path).map_err(LocalError::io("open", &path))?;
    for part in inside {
        fd = match (makes, part.to_str()) {
            (true, Some(part)) => ensure_dir(&fd, &path, part)?,
            _ => fs::open_dir(fd.as_fd(), part)
                .map_err(LocalError::io("open the directory", path.join(part)))?,
        };
        path.push(part);
    }
    Ok((fd, path))
}

/// Makes a directory if it is missing, and opens it; a symbolic link is an error.
fn ensure_dir(parent: &OwnedFd, parent_path: &Path, name: &str) -> Result<OwnedFd, LocalError> {
    let path = parent_path.join(name);
    let name = OsStr::new(name);
    match fs::make_dir(parent.as_fd(), name, 0o755) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(LocalError::io("make the directory", path)(error));
        }
        Ok(()) | Err(_) => {}
    }
    fs::open_dir(parent.as_fd(), name).map_err(LocalError::io("open the directory", path))
}

/// Writes a number to a file, whole or not at all.
fn write_number(
    dir: BorrowedFd<'_>,
    dir_path: &Path,
    name: &str,
    number: u32,
) -> Result<(), LocalError> {
    let temporary = format!("{name}.new");
    let write = || -> io::Result<()> {
        match fs::unlink(dir, OsStr::new(&temporary)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let file = fs::create_file(dir, OsStr::new(&temporary), 0o644)?;
        fs::write_all(&file, number.to_string().as_bytes())?;
        fs::rename(dir, OsStr::new(&temporary), dir, OsStr::new(name))
    };
    write().map_err(LocalError::io("write", dir_path.join(name)))
}
