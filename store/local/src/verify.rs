//! Checking that the objects are what the database says.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use store_nar::{dump_and_hash, fs, rewrite_tree};
use store_types::{Hash, PathInfo, StorePath};

use crate::add::OBJECT;
use crate::gc::LINKS;
use crate::store::rename_tree;
use crate::{LocalError, LocalStore};

/// What is wrong with a valid path.
#[derive(Debug)]
#[non_exhaustive]
pub enum Problem {
    /// There is no object.
    Missing {
        /// The valid paths that refer to it, itself apart.
        referrers: BTreeSet<StorePath>,
    },
    /// The object has other content.
    Modified {
        /// The NAR hash that it should have.
        wanted: Hash,
        /// The NAR hash that it has.
        found: Hash,
    },
    /// The object could not be read.
    Unreadable(LocalError),
}

/// What a verification found.
#[derive(Debug, Default)]
pub struct VerifyReport {
    /// How many paths were looked at.
    pub checked: usize,
    /// What is wrong, by path.
    pub problems: Vec<(StorePath, Problem)>,
    /// The names of files in the directory of links whose content is not what their name says.
    /// Only looked for where contents are checked.
    pub links: Vec<OsString>,
}

impl VerifyReport {
    /// Whether all is as it should be.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty() && self.links.is_empty()
    }
}

impl LocalStore {
    /// Checks that the object of every valid path is there and, with
    /// `check_contents`, has the hash it should have. Nothing is changed.
    pub fn verify(&self, check_contents: bool) -> Result<VerifyReport, LocalError> {
        let mut report = VerifyReport::default();
        if check_contents {
            report.links = self.damaged_links()?;
        }
        for path in self.all_valid_paths()? {
            // Gone meanwhile: somebody collects garbage.
            let Some(info) = self.path_info(&path)? else {
                continue;
            };
            report.checked += 1;
            let name = OsStr::new(path.base_name());
            let problem = match fs::stat_if_exists(self.dir_of(name), name) {
                Ok(None) => {
                    let mut referrers = self.referrers(&path)?;
                    referrers.remove(&path);
                    Some(Problem::Missing { referrers })
                }
                Ok(Some(_)) if check_contents => match dump_and_hash(self.dir_of(name), name) {
                    Ok((found, _)) if found == info.nar_hash => None,
                    Ok((found, _)) => Some(Problem::Modified {
                        wanted: info.nar_hash,
                        found,
                    }),
                    Err(error) => Some(Problem::Unreadable(LocalError::tree("read", &path)(error))),
                },
                Ok(Some(_)) => None,
                Err(error) => {
                    let error = LocalError::io("examine", self.physical_path(&path))(error);
                    Some(Problem::Unreadable(error))
                }
            };
            report
                .problems
                .extend(problem.map(|problem| (path, problem)));
        }
        Ok(report)
    }

    /// The names of links to other content than they say. A file that cannot be read is one.
    fn damaged_links(&self) -> Result<Vec<OsString>, LocalError> {
        let path = self.physical_dir().join(LINKS);
        let dir = match fs::open_dir(self.store_fd(), OsStr::new(LINKS)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            dir => dir.map_err(LocalError::io("open", &path))?,
        };
        let mut damaged = Vec::new();
        for entry in fs::list(dir.as_fd()).map_err(LocalError::io("list", &path))? {
            match dump_and_hash(dir.as_fd(), &entry.name) {
                Ok((hash, _)) if entry.name == *hash.to_base32() => {}
                // Gone meanwhile: somebody collects garbage.
                _ if matches!(fs::stat_if_exists(dir.as_fd(), &entry.name), Ok(None)) => {}
                _ => damaged.push(entry.name),
            }
        }
        Ok(damaged)
    }

    /// Takes a file out of the directory of links, so that nothing more becomes a name of it. The
    /// objects that have it already keep it.
    pub fn remove_damaged_link(&self, name: &OsStr) -> Result<(), LocalError> {
        self.layout.check_writable("remove a link")?;
        let path = self.physical_dir().join(LINKS);
        let dir = fs::open_dir(self.store_fd(), OsStr::new(LINKS))
            .map_err(LocalError::io("open", &path))?;
        match fs::unlink(dir.as_fd(), name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(LocalError::io("remove", path.join(name))(error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Makes those of these paths invalid that have no object and that nothing else needs; they
    /// come back.
    pub fn forget_missing(
        &self,
        missing: &BTreeSet<StorePath>,
    ) -> Result<BTreeSet<StorePath>, LocalError> {
        let mut forgotten = BTreeSet::new();
        // One that only forgotten ones refer to can go after them.
        loop {
            let before = forgotten.len();
            for path in missing.difference(&forgotten.clone()) {
                let _lock = self.lock_paths(&BTreeSet::from([path.clone()]))?;
                let name = OsStr::new(path.base_name());
                let is_missing = matches!(fs::stat_if_exists(self.dir_of(name), name), Ok(None));
                let mut referrers = self.referrers(path)?;
                referrers.remove(path);
                if is_missing && referrers.is_empty() && self.is_valid(path)? {
                    self.invalidate(&BTreeSet::from([path.clone()]))?;
                    forgotten.insert(path.clone());
                }
            }
            if forgotten.len() == before {
                return Ok(forgotten);
            }
        }
    }

    /// Puts a canonical tree in the place of a valid path's object, which is broken or gone, and
    /// registers what `info` says of it; what was signed of the old one counts no more if its hash
    /// is another. The caller must hold the path's lock.
    pub fn replace_object(
        &self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        info: &PathInfo,
    ) -> Result<(), LocalError> {
        let path = &info.path;
        let Some(present) = self.path_info(path)? else {
            return Err(LocalError::NotValid { path: path.clone() });
        };
        let temp = self.temp_dir()?;
        let (new, old) = (OsStr::new(OBJECT), OsStr::new("old"));
        let place = OsStr::new(path.base_name());
        let failed = |error| LocalError::io("replace", self.physical_path(path))(error);
        match rename_tree(dir, name, temp.fd(), new) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                rewrite_tree(dir, name, temp.fd(), new, [])
                    .map_err(LocalError::tree("copy", path))?;
            }
            moved => moved.map_err(failed)?,
        }
        if fs::stat_if_exists(self.store_fd(), place)
            .map_err(failed)?
            .is_some()
        {
            rename_tree(self.store_fd(), place, temp.fd(), old).map_err(failed)?;
        }
        rename_tree(temp.fd(), new, self.store_fd(), place).map_err(failed)?;
        if present.nar_hash == info.nar_hash {
            return Ok(());
        }
        self.register_anew(info)
    }
}
