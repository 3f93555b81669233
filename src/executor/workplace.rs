//! What a process has on disk while it builds: a directory for its builds, and the memory of
//! children.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use droste_sandbox::Spawner;
use rustix::fs::{FlockOperation, Mode, OFlags};
use store_api::BoxError;
use store_local::LocalStore;

use crate::child::crash::Crashes;
use crate::child::index::Index;
use crate::child::records::Records;
use crate::executor::{OpenError, remove_dir, state_error};
use crate::outputs::open_dir;

/// All of it.
pub(crate) struct Workplace {
    /// Build directories of this process.
    pub(crate) builds_dir: PathBuf,
    _builds_lock: OwnedFd,
    pub(crate) index: Index,
    /// What traced calls looked up.
    pub(crate) records: Records,
    pub(crate) crashes: Crashes,
}

impl Workplace {
    pub(crate) fn open(
        store: &LocalStore,
        spawner: &Spawner,
        builds: &Path,
        droste_state: &Path,
    ) -> Result<Self, OpenError> {
        let index_file = droste_state.join("children.sqlite");
        let index = Index::open(&index_file).map_err(state_error(&index_file))?;
        let records = Records::open(&index_file).map_err(state_error(&index_file))?;
        let crashes =
            Crashes::open(droste_state, &index_file).map_err(state_error(droste_state))?;
        let (builds_dir, builds_lock) = claim_builds_dir(builds).map_err(state_error(builds))?;
        let opened = spawner
            .watch_scratch(&builds_dir)
            .map_err(OpenError::Spawner)
            .and_then(|()| open_dir(&builds_dir).map_err(state_error(&builds_dir)));
        match opened {
            Ok(dir) => store.keep_locks(dir, droste_sys::may_be_open_elsewhere),
            Err(error) => {
                // It is empty, but for its lock.
                let _ = remove_dir(&builds_dir);
                return Err(error);
            }
        }
        Ok(Self {
            builds_dir,
            _builds_lock: builds_lock,
            index,
            records,
            crashes,
        })
    }
}

/// A directory for the builds of this process, with a locked file that tells that
/// the process lives.
fn claim_builds_dir(builds: &Path) -> Result<(PathBuf, OwnedFd), BoxError> {
    use std::os::unix::fs::DirBuilderExt;
    for _ in 0..100 {
        // A name that nobody has had before: who removes what the last one of that name has left
        // may still be about it.
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let nanos = now.map_or(0, |now| now.as_nanos() as u64);
        let dir = builds.join(format!("droste-{}-{nanos:x}", std::process::id()));
        match std::fs::DirBuilder::new().mode(0o711).create(&dir) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
            made => made?,
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let lock = match rustix::fs::open(dir.join("lock"), flags, Mode::from_raw_mode(0o600)) {
            // Somebody took the directory, still empty, for one of a process that died; and another
            // one of this process may have made it again.
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::EXIST) => continue,
            lock => lock?,
        };
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
        // Somebody could have locked it first, for want of an owner, and removed it all.
        let locked = rustix::fs::fstat(&lock)?;
        match rustix::fs::stat(dir.join("lock")) {
            Ok(there) if (there.st_dev, there.st_ino) == (locked.st_dev, locked.st_ino) => {
                return Ok((dir, lock));
            }
            Ok(_) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err("no free name for a build directory".into())
}

/// Removes what processes that died have left.
pub(crate) fn remove_abandoned(builds: &Path) -> Result<(), BoxError> {
    for entry in std::fs::read_dir(builds)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with("droste-") {
            continue;
        }
        match rustix::fs::open(
            entry.path().join("lock"),
            OFlags::RDWR | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(lock) => {
                if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                    remove_dir(&entry.path())?;
                }
            }
            // Somebody is just making it, or died doing so; an empty directory is of no harm.
            Err(rustix::io::Errno::NOENT) => {
                let _ = std::fs::remove_dir(entry.path());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_was_claimed_is_not_taken_for_an_abandoned_one() {
        let builds = tempfile::tempdir().expect("a directory for the test");
        let builds = builds.path();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        remove_abandoned(builds).expect("what is abandoned can be removed");
                        let (dir, lock) = claim_builds_dir(builds).expect("there is a free name");
                        std::thread::yield_now();
                        assert!(dir.join("lock").exists(), "{} is gone", dir.display());
                        std::fs::create_dir(dir.join("0")).expect("a build has its directory");
                        drop(lock);
                    }
                });
            }
        });
    }
}
