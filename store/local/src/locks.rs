//! Locks on store paths, by the protocol that Nix uses.
//!
//! Who makes a path holds `<path>.lock`. Letting go means to remove the file and
//! then to write a byte into it: a process that waited for the lock sees from the
//! byte that what it has locked is no longer the file of that name.
//!
//! To make a file for each lock, and to remove it, can take a disk longer than all else that a small
//! build does there. So a process may keep some that it has let go of ([`SpareLocks`]): then the file is
//! moved away instead of removed, and moved to the next path that is locked. Nobody can be misled:
//! as long as it is not locked by us there is a byte in it.
//!
//! Source: nix `src/libstore/unix/pathlocks.cc`.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use store_nar::fs::{self, FlockOperation, Stat};
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
    if let Some(fd) = layout
        .spare_locks
        .get()
        .and_then(|spare| spare.take(layout, name))
    {
        return Ok(Some(fd));
    }
    let error = |operation| LocalError::io(operation, layout.store.join(name));
    loop {
        let fd = fs::open_lock_file(layout.store_fd.as_fd(), name).map_err(error("open"))?;
        if !fs::lock(&fd, operation).map_err(error("lock"))? {
            return Ok(None);
        }
        let stat = fs::stat_fd(&fd).map_err(error("examine"))?;
        let named = fs::stat_if_exists(layout.store_fd.as_fd(), name).map_err(error("examine"))?;
        let is_it = |named: Stat| (named.st_dev, named.st_ino) == (stat.st_dev, stat.st_ino);
        if stat.st_size == 0 && named.is_some_and(is_it) {
            return Ok(Some(fd));
        }
        // Stale: whoever had it has removed it, or taken it elsewhere, since it was opened.
    }
}

impl Drop for PathLocks {
    fn drop(&mut self) {
        for (name, fd) in self.held.drain(..) {
            let fd = match self.layout.spare_locks.get() {
                Some(spare) => match spare.keep(&self.layout, &name, fd) {
                    Ok(()) => continue,
                    Err(fd) => fd,
                },
                None => fd,
            };
            // A file that stays, or lacks its byte, is only found and locked again.
            if fs::unlink(self.layout.store_fd.as_fd(), &name).is_ok() {
                mark_stale(&fd);
            }
        }
    }
}

/// Whoever waits for the lock sees by this that it is no longer that of the name.
fn mark_stale(fd: &OwnedFd) {
    if fs::set_len(fd, 1).is_err() {
        let _ = fs::write_all(fd, b"d");
    }
}

/// How many files are kept.
const SPARE_MAX: usize = 64;

/// How long a file is not used. Who has found it by its old name, but has it not open yet, is not
/// seen: it would wait for another path, and take its lock for the old one's if we were killed.
const SPARE_AGE_MIN: Duration = Duration::from_millis(50);

/// Lock files for which there is no path at the moment.
pub(crate) struct SpareLocks {
    dir: OwnedFd,
    may_be_open_elsewhere: fn(BorrowedFd<'_>) -> bool,
    /// And since when; the oldest first.
    free: Mutex<VecDeque<(OsString, OwnedFd, Instant)>>,
    next: AtomicU64,
}

impl SpareLocks {
    /// They are kept in this directory, which is nobody else's.
    pub(crate) fn new(dir: OwnedFd, may_be_open_elsewhere: fn(BorrowedFd<'_>) -> bool) -> Self {
        Self {
            dir,
            may_be_open_elsewhere,
            free: Mutex::default(),
            next: AtomicU64::new(0),
        }
    }

    /// One of them, as the lock file of this name, locked; `None` if it has to be got as without.
    fn take(&self, layout: &Layout, name: &OsStr) -> Option<OwnedFd> {
        let (spare, fd) = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            let (_, _, since) = free.front()?;
            if since.elapsed() < SPARE_AGE_MIN {
                return None;
            }
            let (spare, fd, _) = free.pop_front()?;
            (spare, fd)
        };
        let take = || {
            // Whoever still waits for the path that it was for would wait for this one.
            let is_ours = fs::lock(&fd, FlockOperation::NonBlockingLockExclusive)?
                && !(self.may_be_open_elsewhere)(fd.as_fd());
            if is_ours {
                fs::set_len(&fd, 0)?;
                let (from, to) = (self.dir.as_fd(), layout.store_fd.as_fd());
                if fs::rename_no_replace(from, &spare, to, name).is_ok() {
                    return Ok(true);
                }
                mark_stale(&fd);
            }
            Ok::<bool, std::io::Error>(false)
        };
        if matches!(take(), Ok(true)) {
            return Some(fd);
        }
        let _ = fs::unlink(self.dir.as_fd(), &spare);
        None
    }

    /// Lets go of a lock file and keeps it; gives it back if it is not to be kept.
    fn keep(&self, layout: &Layout, name: &OsStr, fd: OwnedFd) -> Result<(), OwnedFd> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() >= SPARE_MAX {
            return Err(fd);
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let spare = OsString::from(format!("spare-lock-{number}"));
        let (from, to) = (layout.store_fd.as_fd(), self.dir.as_fd());
        if fs::rename_no_replace(from, name, to, &spare).is_err() {
            return Err(fd);
        }
        // First of all, for what follows may fail.
        mark_stale(&fd);
        let let_go = || {
            // Somebody may have put another file there.
            let (moved, ours) = (fs::stat(to, &spare)?, fs::stat_fd(&fd)?);
            let is_it = (moved.st_dev, moved.st_ino) == (ours.st_dev, ours.st_ino);
            Ok::<bool, std::io::Error>(is_it && fs::lock(&fd, FlockOperation::Unlock)?)
        };
        if matches!(let_go(), Ok(true)) {
            free.push_back((spare, fd, Instant::now()));
        } else {
            let _ = fs::unlink(to, &spare);
        }
        Ok(())
    }
}
