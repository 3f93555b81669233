//! What a derivation demands of its outputs: `allowedReferences` and its kin, and
//! the limits of `outputChecks`.
//!
//! Source: nix 2.34 `src/libstore/build/derivation-check.cc`; Nix manual, "Advanced
//! Attributes".

use std::collections::{BTreeMap, BTreeSet};

use store_types::{DerivationOptions, OutputChecks, PathInfo, StorePath};

use crate::Executor;
use crate::error::{BuildError, environment, lines};

/// The outputs of one build, not registered yet.
pub(crate) struct NewOutputs<'a> {
    pub(crate) executor: &'a Executor,
    /// The derivation, as messages name it.
    pub(crate) text: &'a str,
    /// What is going to be registered, by output.
    pub(crate) infos: BTreeMap<&'a str, &'a PathInfo>,
}

/// A closure with the sum of its NARs.
struct Closure {
    paths: BTreeSet<StorePath>,
    size_bytes: u64,
}

impl NewOutputs<'_> {
    /// Fails for the first output that is not as demanded.
    pub(crate) fn check(&self, options: &DerivationOptions) -> Result<(), BuildError> {
        for (output, info) in &self.infos {
            let checks = options.output_checks_of(output);
            self.check_size(info, &checks)?;
            self.check_references(output, info, &checks)?;
            self.check_closure(output, info, &checks)?;
        }
        Ok(())
    }

    fn check_size(&self, info: &PathInfo, checks: &OutputChecks) -> Result<(), BuildError> {
        match checks.max_size_bytes {
            Some(max) if info.nar_size > max => {
                Err(self.too_large("path", info, info.nar_size, max))
            }
            _ => Ok(()),
        }
    }

    fn check_references(
        &self,
        output: &str,
        info: &PathInfo,
        checks: &OutputChecks,
    ) -> Result<(), BuildError> {
        self.check_paths(
            output,
            &info.references,
            checks.allowed_references.as_ref(),
            &checks.disallowed_references,
        )
    }

    fn check_closure(
        &self,
        output: &str,
        info: &PathInfo,
        checks: &OutputChecks,
    ) -> Result<(), BuildError> {
        if checks.max_closure_size_bytes.is_none()
            && checks.allowed_requisites.is_none()
            && checks.disallowed_requisites.is_empty()
        {
            return Ok(());
        }
        let mut closure = self.closure(info)?;
        if let Some(max) = checks.max_closure_size_bytes
            && closure.size_bytes > max
        {
            return Err(self.too_large("closure of path", info, closure.size_bytes, max));
        }
        if checks.ignores_self_references {
            closure.paths.remove(&info.path);
        }
        self.check_paths(
            output,
            &closure.paths,
            checks.allowed_requisites.as_ref(),
            &checks.disallowed_requisites,
        )
    }

    fn check_paths(
        &self,
        output: &str,
        used: &BTreeSet<StorePath>,
        allowed: Option<&BTreeSet<String>>,
        disallowed: &BTreeSet<String>,
    ) -> Result<(), BuildError> {
        let mut forbidden = BTreeSet::new();
        if let Some(allowed) = allowed {
            forbidden.extend(used.difference(&self.named(allowed)?).cloned());
        }
        forbidden.extend(used.intersection(&self.named(disallowed)?).cloned());
        if forbidden.is_empty() {
            return Ok(());
        }
        Err(BuildError::ForbiddenReferences {
            drv: self.text.to_owned(),
            output: output.to_owned(),
            paths: lines(self.executor.store_dir(), forbidden.iter()),
        })
    }

    /// The paths that a check names: store paths, and outputs by their names.
    fn named(&self, names: &BTreeSet<String>) -> Result<BTreeSet<StorePath>, BuildError> {
        let find = |name: &String| {
            let path = self.executor.store_dir().parse(name).ok();
            path.or_else(|| Some(self.infos.get(&**name)?.path.clone()))
                .ok_or_else(|| BuildError::BadCheck {
                    drv: self.text.to_owned(),
                    name: name.clone(),
                })
        };
        names.iter().map(find).collect()
    }

    /// The closure of an output that is not registered yet, itself included.
    fn closure(&self, info: &PathInfo) -> Result<Closure, BuildError> {
        let new: BTreeMap<&StorePath, &PathInfo> = self
            .infos
            .values()
            .map(|info| (&info.path, *info))
            .collect();
        let mut todo = vec![&info.path];
        let mut size_bytes: u64 = 0;
        let mut paths = BTreeSet::new();
        let mut old = BTreeSet::new();
        while let Some(path) = todo.pop() {
            match new.get(path) {
                Some(info) if paths.insert(path.clone()) => {
                    size_bytes = size_bytes.saturating_add(info.nar_size);
                    todo.extend(&info.references);
                }
                Some(_) => {}
                None => _ = old.insert(path.clone()),
            }
        }
        let failed = |action| environment(self.text, action);
        let old = self
            .executor
            .closure(&old)
            .map_err(failed("query the closure"))?;
        let known = self
            .executor
            .store
            .path_infos(&old)
            .map_err(failed("query the store"))?;
        for info in known.values() {
            size_bytes = size_bytes.saturating_add(info.nar_size);
        }
        paths.extend(old);
        Ok(Closure { paths, size_bytes })
    }

    fn too_large(
        &self,
        what: &'static str,
        info: &PathInfo,
        size_bytes: u64,
        max: u64,
    ) -> BuildError {
        BuildError::TooLarge {
            drv: self.text.to_owned(),
            path: self.executor.store_dir().display(&info.path),
            what,
            size_bytes,
            size_bytes_max: max,
        }
    }
}
