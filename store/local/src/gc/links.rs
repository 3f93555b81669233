//! The directory of shared files, `.links`.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};

use store_nar::fs::{self, Kind};

use crate::{LocalError, LocalStore};

/// Its name in the store's directory.
pub(crate) const LINKS: &str = ".links";

impl LocalStore {
    /// The directory of shared files; `None` if there is none.
    pub(crate) fn links(&self) -> Result<Option<OwnedFd>, LocalError> {
        match fs::open_dir(self.store_fd(), OsStr::new(LINKS)) {
            Ok(fd) => Ok(Some(fd)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(LocalError::io("open", self.physical_dir().join(LINKS))(
                error,
            )),
        }
    }

    /// Removes the names there that are the only ones of their files: how many, and how many
    /// bytes the others save.
    pub(crate) fn remove_unused_links(&self) -> Result<(u64, u64), LocalError> {
        let Some(links) = self.links()? else {
            return Ok((0, 0));
        };
        let path = self.physical_dir().join(LINKS);
        let (mut removed, mut saved) = (0, 0u128);
        for entry in fs::list(links.as_fd()).map_err(LocalError::io("list", &path))? {
            let failed = |operation| LocalError::io(operation, path.join(&entry.name));
            let Some(stat) =
                fs::stat_if_exists(links.as_fd(), &entry.name).map_err(failed("examine"))?
            else {
                continue;
            };
            if Kind::of(&stat) == Kind::Directory {
                continue;
            }
            if stat.st_nlink > 1 {
                let size = u128::try_from(stat.st_size).unwrap_or(0);
                // Of these names, one is here, and one there would be in any case.
                saved += (u128::from(stat.st_nlink) - 2) * size;
                continue;
            }
            match fs::unlink(links.as_fd(), &entry.name) {
                Ok(()) => removed += 1,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed("remove")(error)),
            }
        }
        Ok((removed, u64::try_from(saved).unwrap_or(u64::MAX)))
    }
}
