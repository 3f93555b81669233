//! From what a builder submitted to its derivation's outputs.
//!
//! The objects are in the store already: they were added through the build's socket, and each was
//! checked when it was submitted. What is left is that none is missing, and what the derivation
//! demands of them.
//!
//! Source: nix `src/libstore/unix/build/derivation-builder.cc` (`checkSubmittedOutputs`).

use std::collections::BTreeMap;

use store_api::BuildMode;
use store_types::{Derivation, DerivationKind, PathInfo, StorePath};

use crate::attempt::options;
use crate::error::{BuildError, environment};
use crate::output_checks::NewOutputs;
use crate::{Executor, Settings};

/// A build that has ended well, and has submitted outputs.
pub(crate) struct Submitted<'a> {
    pub(crate) text: &'a str,
    pub(crate) drv_path: &'a StorePath,
    pub(crate) drv: &'a Derivation,
    pub(crate) kind: DerivationKind,
    pub(crate) mode: BuildMode,
    /// Of who asks.
    pub(crate) settings: &'a Settings,
    pub(crate) outputs: BTreeMap<String, StorePath>,
}

impl Executor {
    /// Registers what was submitted as the outputs; returns their paths.
    pub(crate) fn take_submitted(
        &self,
        build: &Submitted<'_>,
    ) -> Result<BTreeMap<String, StorePath>, BuildError> {
        let mut infos: BTreeMap<&str, PathInfo> = BTreeMap::new();
        for output in build.drv.outputs.keys() {
            let not_submitted = || BuildError::NotSubmitted {
                drv: build.text.to_owned(),
                output: output.clone(),
            };
            let path = build.outputs.get(output).ok_or_else(not_submitted)?;
            let info = self
                .store
                .path_info(path)
                .map_err(environment(build.text, "query an output"))?;
            infos.insert(output, info.ok_or_else(not_submitted)?);
        }
        let outputs = NewOutputs {
            executor: self,
            text: build.text,
            infos: infos.iter().map(|(output, info)| (*output, info)).collect(),
        };
        outputs.check(&options(build.text, build.drv)?)?;
        if build.mode == BuildMode::Check {
            let known = self.known_outputs(build.drv_path, build.drv)?;
            for (output, path) in &build.outputs {
                if known.get(output) != Some(path) {
                    let path = known.get(output).unwrap_or(path);
                    return Err(BuildError::NotDeterministic {
                        drv: build.text.to_owned(),
                        path: self.store_dir().display(path),
                        kept: String::new(),
                    });
                }
            }
        } else if build.kind == DerivationKind::Floating {
            let (drv_path, drv) = (build.drv_path, build.drv);
            self.register_realised(build.settings, drv_path, drv, &[], &build.outputs)?;
        }
        Ok(build.outputs.clone())
    }
}
