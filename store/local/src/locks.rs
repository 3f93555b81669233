//! Locks on store paths, by the protocol that Nix uses.
//!
//! Who makes a path holds `<path>.lock`. Letting go means to remove the file and
//! then to write a byte into it: a process that waited for the lock sees from the
//! byte that what it has locked is no longer the file of that name.
//!
//! Source: nix `src/libstore/unix/pathlocks.cc`.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use store_nar::fs::{self, FlockOperation};
use store_types::StorePath;

use crate::LocalError;
use crate::layout::Layout;

/// Locks on store paths, given back when dropped.
///
/// Two of them on one path exclude each other even in one thread: whoever holds
/// one must not call what takes it again.
pub struct PathLocks {
    layout: Arc<Layout>,
    held: Vec<(OsString, OwnedFd)>,
}

impl PathLocks {
    /// Locks all these paths, in their order; `None` if one is locked elsewhere
    /// and `wait` is false.
    pub(crate) fn acquire(
        layout: &Arc<Layout>,
        paths: &BTreeSet<StorePath>,
        wait: bool,
    ) -> Result<Option<Self>, LocalError> {
        layout.check_writable("lock paths")?;
        let mut locks = Self {
            layout: Arc::clone(layout),
            held: Vec::with_capacity(paths.len()),
        };
        // Sorted, as everybody does it: so there is no deadlock.
        for path in paths {
            let name = OsString::from(format!("{}.lock", path.base_name()));
            match lock_file(layout, &name, wait)? {
                Some(fd) => locks.held.push((name, fd)),
                None => return Ok(None),
            }
        }
        Ok(Some(locks))
    }
}

fn lock_file(layout: &Layout, name: &OsStr, wait: bool) -> Result<Option<OwnedFd>, LocalError> {
    let operation = if wait {
        FlockOperation::LockExclusive
    } else {
        FlockOperation::NonBlockingLockExclusive
    };
    let error = |operation| LocalError::io(operation, layout.store.join(name));
    loop {
        let fd = fs::open_lock_file(layout.store_fd.as_fd(), name).map_err(error("open"))?;
        if !fs::lock(&fd, operation).map_err(error("lock"))? {
            return Ok(None);
        }
        let stat = fs::stat_fd(&fd).map_err(error("examine"))?;
        if stat.st_size == 0 {
            return Ok(Some(fd));
        }
        // Stale: whoever had it has removed it since it was opened.
    }
}

impl Drop for PathLocks {
    fn drop(&mut self) {
        for (name, fd) in self.held.drain(..) {
            // A file that stays, or lacks its byte, is only found and locked again.
            if fs::unlink(self.layout.store_fd.as_fd(), &name).is_ok() {
                let _ = fs::write_all(&fd, b"d");
            }
        }
    }
}
