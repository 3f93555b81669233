//! The directories of a store, and who has it open.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use store_nar::fs::{self, FlockOperation};

use crate::LocalError;
use crate::db::Db;
use crate::schema::{CA_SCHEMA, SCHEMA};

/// How long to wait between two attempts to get a lock that cannot be waited for.
const LOCK_POLL: Duration = Duration::from_millis(20);

/// The directories of a store.
pub(crate) struct Layout {
    /// `ROOT`, absolute.
    pub(crate) root: PathBuf,
    /// `ROOT/nix/store`.
    pub(crate) store: PathBuf,
    /// `ROOT/nix/var/nix`.
    pub(crate) state: PathBuf,
    /// `ROOT/nix/var/log/nix`.
    pub(crate) log: PathBuf,
    pub(crate) store_fd: OwnedFd,
    pub(crate) state_fd: OwnedFd,
}

impl Layout {
    /// Opens the directories, making those that are missing.
    pub(crate) fn open(root: &Path) -> Result<Self, LocalError> {
        std::fs::create_dir_all(root).map_err(LocalError::io("make the directory", root))?;
        let root = root
            .canonicalize()
            .map_err(LocalError::io("resolve", root))?;
        let root_fd = fs::open_root(&root).map_err(LocalError::io("open", &root))?;
        let nix = ensure_dir(&root_fd, &root, "nix")?;
        let nix_path = root.join("nix");
        let store_fd = ensure_dir(&nix, &nix_path, "store")?;
        let var = ensure_dir(&nix, &nix_path, "var")?;
        let var_path = nix_path.join("var");
        let state_fd = ensure_dir(&var, &var_path, "nix")?;
        let state = var_path.join("nix");
        for name in ["db", "temproots", "builds", "userpool"] {
            ensure_dir(&state_fd, &state, name)?;
        }
        for name in ["gcroots", "profiles"] {
            let fd = ensure_dir(&state_fd, &state, name)?;
            ensure_dir(&fd, &state.join(name), "per-user")?;
        }
        let log = ensure_dir(&var, &var_path, "log")?;
        ensure_dir(&log, &var_path.join("log"), "nix")?;
        let store = nix_path.join("store");
        let links = ensure_dir(&store_fd, &store, ".links")?;
        drop(links);
        Ok(Self {
            store,
            log: var_path.join("log/nix"),
            state,
            root,
            store_fd,
            state_fd,
        })
    }

    /// Opens the database, making it in a store that has none. The descriptor
    /// holds the lock that says that the store is open.
    pub(crate) fn open_db(&self) -> Result<(Db, OwnedFd), LocalError> {
        let db_dir = self.state.join("db");
        let dir = fs::open_dir(self.state_fd.as_fd(), OsStr::new("db"))
            .map_err(LocalError::io("open", &db_dir))?;
        let lock_path = db_dir.join("big-lock");
        let big_lock = fs::open_lock_file(dir.as_fd(), OsStr::new("big-lock"))
            .map_err(LocalError::io("open", &lock_path))?;
        let lock =
            |operation| fs::lock(&big_lock, operation).map_err(LocalError::io("lock", &lock_path));
        lock(FlockOperation::LockShared)?;
        let path = db_dir.join("db.sqlite");
        while self.schema(dir.as_fd())?.is_none() {
            // Another process that makes the store holds the lock for reading
            // (Nix does it so), so it must not be waited for: look again instead.
            lock(FlockOperation::Unlock)?;
            if !lock(FlockOperation::NonBlockingLockExclusive)? {
                std::thread::sleep(LOCK_POLL);
                lock(FlockOperation::LockShared)?;
                continue;
            }
            if self.schema(dir.as_fd())?.is_none() {
                Db::create(&self.root, &path)?;
                write_number(dir.as_fd(), &db_dir, "ca-schema", CA_SCHEMA)?;
                write_number(dir.as_fd(), &db_dir, "schema", SCHEMA)?;
            }
            lock(FlockOperation::LockShared)?;
        }
        match self.schema(dir.as_fd())? {
            Some(SCHEMA) | None => {}
            Some(found) => {
                return Err(LocalError::Unusable {
                    root: self.root.clone(),
                    reason: format!(
                        "its database `{}` has schema {found}, and this program knows {SCHEMA}",
                        path.display()
                    ),
                    advice: if found < SCHEMA {
                        "let Nix upgrade it by any command on this store"
                    } else {
                        "use the program that made it, or another store directory"
                    },
                    source: None,
                });
            }
        }
        Ok((Db::open(&self.root, &path)?, big_lock))
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
                root: self.root.clone(),
                reason: format!("`{}` holds `{text}`, which is not a number", path.display()),
                advice: "restore the file (Nix writes `10`), or use another store directory",
                source: None,
            }),
        }
    }
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
