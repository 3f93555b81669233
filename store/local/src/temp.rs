//! Directories for objects that are being added.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use store_nar::fs::{self, FlockOperation};
use store_nar::remove_tree;
use store_types::StorePath;

use crate::layout::Layout;
use crate::{LocalError, PathLocks};

/// How the names begin. Nix's collector spares locked directories named `tmp-…`;
/// only those of Droste are known to be locked as long as they are used.
const PREFIX: &str = "tmp-droste-";

static COUNTER: AtomicU64 = AtomicU64::new(0);

/// A locked directory in the store directory, removed when dropped.
pub(crate) struct TempDir {
    layout: Arc<Layout>,
    name: OsString,
    fd: OwnedFd,
}

impl TempDir {
    pub(crate) fn new(layout: &Arc<Layout>) -> Result<Self, LocalError> {
        layout.check_writable("add an object")?;
        let store = layout.store_fd.as_fd();
        loop {
            let name = OsString::from(format!(
                "{PREFIX}{}-{}",
                std::process::id(),
                COUNTER.fetch_add(1, Ordering::Relaxed)
            ));
            let make = || -> io::Result<Option<OwnedFd>> {
                match fs::make_dir(store, &name, 0o700) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
                    other => other?,
                }
                // Before it is locked, one who cleans up may lock and remove it.
                let fd = match fs::open_dir(store, &name) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    other => other?,
                };
                if !fs::lock(&fd, FlockOperation::NonBlockingLockExclusive)? {
                    return Ok(None);
                }
                let inode = fs::stat_fd(&fd)?.st_ino;
                let named = fs::stat_if_exists(store, &name)?;
                Ok(named.is_some_and(|stat| stat.st_ino == inode).then_some(fd))
            };
            match make() {
                Ok(Some(fd)) => {
                    return Ok(Self {
                        layout: Arc::clone(layout),
                        name,
                        fd,
                    });
                }
                Ok(None) => {}
                Err(error) => {
                    let path = layout.store.join(&name);
                    return Err(LocalError::io("make the directory", path)(error));
                }
            }
        }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // What stays is not locked, and the next who opens the store removes it.
        let _ = remove_tree(self.layout.store_fd.as_fd(), &self.name);
    }
}

/// Removes what killed processes left: temporary directories and locks that nobody
/// holds. What cannot be removed (another user's) stays.
pub(crate) fn remove_leftovers(layout: &Arc<Layout>) -> Result<(), LocalError> {
    let store = layout.store_fd.as_fd();
    let entries = fs::list(store).map_err(LocalError::io("list", &layout.store))?;
    for entry in entries {
        if entry.name.as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            let _ = remove_if_abandoned(store, &entry.name);
        }
        let locked = entry
            .name
            .to_str()
            .and_then(|name| name.strip_suffix(".lock"));
        if let Some(Ok(path)) = locked.map(StorePath::from_base_name) {
            // To take a lock that nobody holds and to give it back removes its file.
            let _ = PathLocks::acquire(layout, &BTreeSet::from([path]), false);
        }
    }
    Ok(())
}

fn remove_if_abandoned(store: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let fd = fs::open_dir(store, name)?;
    if fs::lock(&fd, FlockOperation::NonBlockingLockExclusive)? {
        remove_tree(store, name).map_err(io::Error::other)?;
    }
    Ok(())
}
