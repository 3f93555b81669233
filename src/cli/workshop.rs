//! A directory for trees that are to become store objects: on the store's file
//! system, for one process at a time, and empty at the beginning.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use store_local::LocalStore;

/// The directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} `{}`", path.display())]
pub struct WorkshopError {
    operation: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The directory; empty again when this is dropped.
#[derive(Debug)]
pub struct Workshop {
    dir: PathBuf,
    _lock: File,
}

impl Workshop {
    /// Waits until no other process uses the store's, and removes what processes that
    /// were killed have left in it.
    pub fn open(store: &LocalStore) -> Result<Self, WorkshopError> {
        let ours = droste_executor::droste_state_dir(store.config());
        let error = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| WorkshopError {
                operation,
                path,
                source,
            }
        };
        std::fs::create_dir_all(&ours).map_err(error("make", &ours))?;
        let lock_file = ours.join("workshop.lock");
        let lock = File::create(&lock_file).map_err(error("make", &lock_file))?;
        lock.lock().map_err(error("lock", &lock_file))?;
        let dir = ours.join("workshop");
        remove(&dir).map_err(error("remove", &dir))?;
        std::fs::create_dir(&dir).map_err(error("make", &dir))?;
        Ok(Self { dir, _lock: lock })
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        // What cannot be removed now is removed by whoever comes next.
        let _ = remove(&self.dir);
    }
}

/// Removes a tree, if it is there.
pub fn remove(dir: &Path) -> io::Result<()> {
    match droste_sandbox::remove_tree(dir) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
