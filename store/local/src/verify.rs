//! Checking that the objects are what the database says.

use std::collections::BTreeSet;
use std::ffi::OsStr;

use store_nar::{dump_and_hash, fs};
use store_types::{Hash, StorePath};

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
}

impl LocalStore {
    /// Checks that the object of every valid path is there and, with
    /// `check_contents`, has the hash it should have. Nothing is changed.
    pub fn verify(&self, check_contents: bool) -> Result<VerifyReport, LocalError> {
        let mut report = VerifyReport::default();
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
}
