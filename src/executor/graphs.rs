//! References graphs: what `exportReferencesGraph` tells a builder about the closures
//! of its inputs.
//!
//! Source: nix 2.34 `src/libstore/store-api.cc` (`exportReferences`),
//! `src/libstore/misc.cc` (`pathInfoToJSON`); checked against what Nix 2.34 gives.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use store_types::{DerivationOptions, PathInfo, StorePath, print_references_graph};

use crate::Executor;
use crate::error::{BuildError, environment};

/// The graphs of one derivation.
pub(crate) struct Graphs<'a> {
    executor: &'a Executor,
    /// The derivation, as messages name it.
    text: &'a str,
    options: &'a DerivationOptions,
    /// Its input closure.
    inputs: &'a BTreeSet<StorePath>,
}

impl<'a> Graphs<'a> {
    pub(crate) fn new(
        executor: &'a Executor,
        text: &'a str,
        options: &'a DerivationOptions,
        inputs: &'a BTreeSet<StorePath>,
    ) -> Self {
        Self {
            executor,
            text,
            options,
            inputs,
        }
    }

    /// As files: name and contents.
    pub(crate) fn as_files(&self) -> Result<Vec<(String, String)>, BuildError> {
        let dir = self.executor.store_dir();
        let print = |(file, paths): (&String, &BTreeSet<String>)| {
            let infos = self.infos(&self.members(paths)?)?;
            Ok((file.clone(), print_references_graph(dir, infos.values())))
        };
        self.options
            .export_references_graph
            .iter()
            .map(print)
            .collect()
    }

    /// As structured attributes.
    pub(crate) fn as_attributes(&self) -> Result<BTreeMap<String, Value>, BuildError> {
        let dir = self.executor.store_dir();
        let mut attributes = BTreeMap::new();
        for (name, paths) in &self.options.export_references_graph {
            let infos = self.infos(&self.members(paths)?)?;
            let mut items = Vec::new();
            for (path, info) in &infos {
                // All of it is among the members, too.
                let closure = self.closure(path)?;
                let sizes = closure.iter().filter_map(|path| infos.get(path));
                let size = sizes.map(|info| info.nar_size).sum();
                items.push(info.to_graph_json(dir, size));
            }
            attributes.insert(name.clone(), Value::Array(items));
        }
        Ok(attributes)
    }

    /// The closures of these paths; of derivations among them, also those of their
    /// outputs.
    fn members(&self, paths: &BTreeSet<String>) -> Result<BTreeSet<StorePath>, BuildError> {
        let mut members = BTreeSet::new();
        for text in paths {
            members.extend(self.closure(&self.input(text)?)?);
        }
        let drvs: Vec<StorePath> = members
            .iter()
            .filter(|path| path.is_derivation())
            .cloned()
            .collect();
        for drv in drvs {
            for output in self.executor.load(&drv)?.outputs.values() {
                let Some(path) = output.path() else {
                    return Err(BuildError::Unsupported {
                        drv: self.text.to_owned(),
                        what: "a references graph of content-addressed derivations".to_owned(),
                    });
                };
                members.extend(self.closure(path)?);
            }
        }
        Ok(members)
    }

    /// The store path that this is, or lies in; it must be an input.
    fn input(&self, text: &str) -> Result<StorePath, BuildError> {
        let Some((path, _)) = self.executor.store_dir().split(text) else {
            return Err(BuildError::Malformed {
                drv: self.text.to_owned(),
                source: format!("`{text}` in `exportReferencesGraph` is not in the store").into(),
            });
        };
        if !self.inputs.contains(&path) {
            return Err(BuildError::Rejected {
                drv: self.text.to_owned(),
                why: format!("`{text}` in `exportReferencesGraph` is not in its input closure"),
            });
        }
        Ok(path)
    }

    fn closure(&self, path: &StorePath) -> Result<BTreeSet<StorePath>, BuildError> {
        self.executor
            .closure(&BTreeSet::from([path.clone()]))
            .map_err(environment(self.text, "query a closure"))
    }

    fn infos(
        &self,
        paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeMap<StorePath, PathInfo>, BuildError> {
        self.executor
            .store
            .path_infos(paths)
            .map_err(environment(self.text, "query the store"))
    }
}
