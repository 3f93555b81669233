//! Putting right what a verification has found broken: by building it again.
//!
//! Source: nix 2.34, `src/libstore/local-store.cc` (`verifyStore`), `build/entry-points.cc`
//! (`repairPath`).

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::sync::Arc;

use store_api::{BoxError, BuildMode};
use store_local::{LocalError, Problem, VerifyReport};
use store_types::{DerivedPath, OutputsSpec, StorePath};

use crate::error::BuildError;
use crate::{Executor, Monitor};

/// Why an object stays broken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// Nobody knows how it was made: it was added, not built.
    #[error("path `{path}` cannot be repaired: no derivation is known that builds it")]
    NoDeriver {
        /// The path, in full.
        path: String,
    },
    /// The derivation that built it is gone.
    #[error("path `{path}` cannot be repaired: `{deriver}`, which built it, is not valid")]
    DeriverNotValid {
        /// The path, in full.
        path: String,
        /// The derivation, in full.
        deriver: String,
    },
    /// Something that the build needs is broken, too.
    #[error("path `{path}` cannot be repaired: `{input}`, which it is built from, is broken")]
    Input {
        /// The path, in full.
        path: String,
        /// What is broken, in full.
        input: String,
    },
    /// It lies in another store.
    #[error("path `{path}` cannot be repaired here: it is borrowed from another store")]
    Borrowed {
        /// The path, in full.
        path: String,
    },
    /// It was built again, but not to this path.
    #[error("path `{path}` cannot be repaired: `{deriver}` builds something else")]
    OtherOutput {
        /// The path, in full.
        path: String,
        /// The derivation, in full.
        deriver: String,
    },
    /// It was to be built again.
    #[error("path `{path}` cannot be repaired")]
    Build {
        /// The path, in full.
        path: String,
        /// Why not.
        #[source]
        source: Box<BuildError>,
    },
    /// It could not be found out.
    #[error("path `{path}` cannot be repaired")]
    Store {
        /// The path, in full.
        path: String,
        /// Why not.
        #[source]
        source: BoxError,
    },
}

/// What became of broken objects.
#[derive(Debug, Default)]
pub struct RepairReport {
    /// What is sound now.
    pub repaired: BTreeSet<StorePath>,
    /// What had disappeared, was needed by nothing, and is not valid any more. As in Nix.
    pub forgotten: BTreeSet<StorePath>,
    /// How many damaged files have been taken out of the directory of links.
    pub links_removed: usize,
    /// What is as broken as before.
    pub failures: Vec<(StorePath, RepairError)>,
}

impl Executor {
    /// Puts right what a verification has found, as far as that can be: what has disappeared and
    /// is needed by nothing is forgotten, damaged links are removed, and all else is built again
    /// by its deriver, from inputs that are sound.
    ///
    /// An object that is not addressed by its content and that comes out otherwise than before is
    /// registered as it is now; as in Nix.
    ///
    /// # Errors
    /// If the store cannot be asked or written. What cannot be repaired is no error, but part of
    /// the report.
    pub fn repair(
        self: &Arc<Self>,
        found: &VerifyReport,
        monitor: &dyn Monitor,
    ) -> Result<RepairReport, LocalError> {
        let mut report = RepairReport::default();
        for link in &found.links {
            self.store.remove_damaged_link(link)?;
            report.links_removed += 1;
        }
        let missing: BTreeSet<StorePath> = found
            .problems
            .iter()
            .filter(|(_, problem)| matches!(problem, Problem::Missing { .. }))
            .map(|(path, _)| path.clone())
            .collect();
        report.forgotten = self.store.forget_missing(&missing)?;
        let mut broken: BTreeSet<StorePath> = found
            .problems
            .iter()
            .map(|(path, _)| path.clone())
            .filter(|path| !report.forgotten.contains(path))
            .collect();
        // What others are built from goes first: a round repairs all that needs nothing broken.
        let mut waiting: Vec<StorePath> = broken.iter().cloned().collect();
        loop {
            let mut postponed = Vec::new();
            let mut has_progress = false;
            for path in std::mem::take(&mut waiting) {
                match self.repair_path(&path, &broken, monitor) {
                    Ok(()) => {
                        has_progress = true;
                        broken.remove(&path);
                        report.repaired.insert(path);
                    }
                    Err(error @ RepairError::Input { .. }) => postponed.push((path, error)),
                    Err(error) => report.failures.push((path, error)),
                }
            }
            if !has_progress || monitor.is_cancelled() {
                report.failures.extend(postponed);
                break;
            }
            waiting.extend(postponed.into_iter().map(|(path, _)| path));
        }
        report
            .failures
            .sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(report)
    }

    /// Builds one path again.
    fn repair_path(
        self: &Arc<Self>,
        path: &StorePath,
        broken: &BTreeSet<StorePath>,
        monitor: &dyn Monitor,
    ) -> Result<(), RepairError> {
        let text = self.store_dir().display(path);
        let unknown = |source: BoxError| RepairError::Store {
            path: text.clone(),
            source,
        };
        // Repaired with another output of its derivation.
        if self.is_sound(path).map_err(unknown)? {
            return Ok(());
        }
        if !self
            .store
            .physical_path(path)
            .starts_with(self.store.physical_dir())
        {
            return Err(RepairError::Borrowed { path: text });
        }
        let info = self
            .store
            .path_info(path)
            .map_err(|error| unknown(error.into()))?;
        let Some(drv) = info.and_then(|info| info.deriver) else {
            return Err(RepairError::NoDeriver { path: text });
        };
        let deriver = self.store_dir().display(&drv);
        if !self
            .store
            .is_valid(&drv)
            .map_err(|error| unknown(error.into()))?
        {
            return Err(RepairError::DeriverNotValid {
                path: text,
                deriver,
            });
        }
        let failed = |source: BuildError| RepairError::Build {
            path: text.clone(),
            source: Box::new(source),
        };
        let needed = match broken.contains(&drv) {
            true => [drv.clone()].into(),
            false => self.needed_by(&drv).map_err(failed)?,
        };
        if let Some(input) = needed.intersection(broken).find(|input| *input != path) {
            return Err(RepairError::Input {
                path: text,
                input: self.store_dir().display(input),
            });
        }
        let wanted = DerivedPath::Built {
            drv: drv.into(),
            outputs: OutputsSpec::All,
        };
        let outcomes = self
            .build(&[wanted], BuildMode::Repair, monitor)
            .map_err(failed)?;
        if let Some(error) = outcomes.into_iter().find_map(|outcome| outcome.error) {
            return Err(failed(error));
        }
        match self.is_sound(path).map_err(unknown)? {
            true => Ok(()),
            false => Err(RepairError::OtherOutput {
                path: text,
                deriver,
            }),
        }
    }

    /// All that a derivation is built from, as far as it is valid: its inputs with what they refer
    /// to, and the derivations themselves.
    fn needed_by(&self, drv_path: &StorePath) -> Result<BTreeSet<StorePath>, BuildError> {
        let text = self.store_dir().display(drv_path);
        let drv = self.load(drv_path)?;
        let mut roots = BTreeSet::from([drv_path.clone()]);
        for input in drv.input_drvs.keys() {
            let outputs = self.known_outputs(input, &self.load(input)?)?;
            roots.extend(outputs.into_values());
        }
        self.closure(&roots).map_err(crate::error::environment(
            &text,
            "query what it is built from",
        ))
    }

    /// Whether a valid path's object is there, with the content that it should have.
    pub(crate) fn is_sound(&self, path: &StorePath) -> Result<bool, BoxError> {
        let Some(info) = self.store.path_info(path)? else {
            return Ok(false);
        };
        let name = OsStr::new(path.base_name());
        let found = store_nar::dump_and_hash(self.store.dir_of(name), name);
        Ok(found.is_ok_and(|(hash, _)| hash == info.nar_hash))
    }
}
