//! Derivations: what is built, by which program, from which inputs.

mod aterm;
mod json;
mod modulo;
mod options;
mod resolve;
mod structured_attrs;

use std::collections::{BTreeMap, BTreeSet};

use bstr::BString;

use crate::{
    ContentAddress, ContentAddressMethod, ContentAddressedPathError, HashAlgorithm, References,
    SingleDerivedPath, StoreDir, StorePath, sha256,
};

pub use aterm::{DerivationOutputError, DerivationParseError};
pub use json::{DerivationFromJsonError, DerivationJsonShape, DerivationToJsonError};
pub use modulo::{HashModulo, HashModuloError, HashesModulo, OutputPathError};
pub use options::{DerivationOptions, DerivationOptionsError, OutputChecks, attribute_file_name};
pub use resolve::{
    PlaceholderRewrites, ResolveError, computed_placeholder, output_placeholder,
    upstream_placeholder,
};
pub use structured_attrs::StructuredAttrs;

/// One output of a derivation, as far as its path is known beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DerivationOutput {
    /// The path follows from the derivation.
    InputAddressed(StorePath),
    /// The content is known beforehand, and so is the path.
    Fixed {
        /// The content that the output must have.
        ca: ContentAddress,
        /// The path that follows from it.
        path: StorePath,
    },
    /// The path will follow from the content.
    Floating {
        /// What of the output will be hashed.
        method: ContentAddressMethod,
        /// How.
        algorithm: HashAlgorithm,
    },
    /// Input-addressed, with inputs whose paths are not known yet.
    Deferred,
    /// Like floating, but made anew each time, with access to the network.
    Impure {
        /// What of the output will be hashed.
        method: ContentAddressMethod,
        /// How.
        algorithm: HashAlgorithm,
    },
}

impl DerivationOutput {
    /// The path, where it is known beforehand.
    pub fn path(&self) -> Option<&StorePath> {
        match self {
            Self::InputAddressed(path) | Self::Fixed { path, .. } => Some(path),
            Self::Floating { .. } | Self::Deferred | Self::Impure { .. } => None,
        }
    }
}

/// What of a derivation is an input of another one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InputOutputs {
    /// The outputs that are inputs themselves.
    pub outputs: BTreeSet<String>,
    /// The outputs that are derivations, of which outputs are inputs in turn; nested
    /// at most [`NESTING_MAX`](crate::NESTING_MAX) deep.
    pub dynamic_outputs: BTreeMap<String, InputOutputs>,
}

impl InputOutputs {
    /// Whether nothing is meant.
    pub fn is_empty(&self) -> bool {
        self.outputs.is_empty() && self.dynamic_outputs.is_empty()
    }
}

/// Plain outputs.
impl From<BTreeSet<String>> for InputOutputs {
    fn from(outputs: BTreeSet<String>) -> Self {
        Self {
            outputs,
            dynamic_outputs: BTreeMap::new(),
        }
    }
}

impl<const N: usize> From<[String; N]> for InputOutputs {
    fn from(outputs: [String; N]) -> Self {
        BTreeSet::from(outputs).into()
    }
}

/// A derivation. Its name is not part of it, but of its store path.
///
/// The "basic" derivation of the worker protocol is one without input
/// derivations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Derivation {
    /// The outputs by name.
    pub outputs: BTreeMap<String, DerivationOutput>,
    /// The derivations whose outputs are inputs, and which outputs.
    pub input_drvs: BTreeMap<StorePath, InputOutputs>,
    /// Store objects that are inputs as they are.
    pub input_srcs: BTreeSet<StorePath>,
    /// The system to build on, like `x86_64-linux`.
    pub system: BString,
    /// The program to run.
    pub builder: BString,
    /// Its arguments, without `argv[0]`.
    pub args: Vec<BString>,
    /// Its environment.
    pub env: BTreeMap<BString, BString>,
}

/// What kind of outputs a derivation has. Kinds cannot be mixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DerivationKind {
    /// The paths follow from the derivation.
    InputAddressed,
    /// Input-addressed, with inputs whose paths are not known yet.
    Deferred,
    /// One output of a content known beforehand.
    Fixed,
    /// The paths will follow from the content.
    Floating,
    /// Floating, made anew each time.
    Impure,
}

impl DerivationKind {
    /// Whether builds may not reach the network.
    pub const fn is_sandboxed(self) -> bool {
        !matches!(self, Self::Fixed | Self::Impure)
    }
}

/// Why the outputs of a derivation do not fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DerivationKindError {
    /// There is none.
    #[error("a derivation must have an output")]
    NoOutputs,
    /// They are of several kinds.
    #[error("a derivation cannot have outputs of several kinds")]
    Mixed,
    /// A fixed output is not the only one, or is not named `out`.
    #[error("a fixed output must be the only one, and be named `out`")]
    FixedNotAlone,
    /// Floating outputs have several hash algorithms.
    #[error("all outputs must have the same hash algorithm")]
    MixedAlgorithms,
}

/// The name of an output's store path: the derivation's name, and the output's
/// unless that is `out`.
pub fn output_path_name(drv_name: &str, output: &str) -> String {
    match output {
        "out" => drv_name.to_owned(),
        _ => format!("{drv_name}-{output}"),
    }
}

impl StorePath {
    /// The name of the derivation that this path is a `.drv` file of.
    pub fn derivation_name(&self) -> Option<&str> {
        self.name().strip_suffix(".drv")
    }
}

impl Derivation {
    /// The kind of its outputs.
    pub fn kind(&self) -> Result<DerivationKind, DerivationKindError> {
        let mut found = None;
        for (name, output) in &self.outputs {
            let (kind, algorithm) = match output {
                DerivationOutput::InputAddressed(_) => (DerivationKind::InputAddressed, None),
                DerivationOutput::Deferred => (DerivationKind::Deferred, None),
                DerivationOutput::Fixed { .. } if name == "out" && self.outputs.len() == 1 => {
                    (DerivationKind::Fixed, None)
                }
                DerivationOutput::Fixed { .. } => return Err(DerivationKindError::FixedNotAlone),
                DerivationOutput::Floating { algorithm, .. } => {
                    (DerivationKind::Floating, Some(algorithm))
                }
                DerivationOutput::Impure { .. } => (DerivationKind::Impure, None),
            };
            match found {
                None => found = Some((kind, algorithm)),
                Some((other, _)) if other != kind => return Err(DerivationKindError::Mixed),
                Some((_, other)) if other != algorithm => {
                    return Err(DerivationKindError::MixedAlgorithms);
                }
                Some(_) => {}
            }
        }
        found
            .map(|(kind, _)| kind)
            .ok_or(DerivationKindError::NoOutputs)
    }

    /// The derivations whose outputs are inputs, with those outputs: input derivations,
    /// and dynamic ones, each after the one that it is an output of.
    pub fn inputs(&self) -> Vec<(SingleDerivedPath, &BTreeSet<String>)> {
        let mut inputs = Vec::new();
        for (drv, node) in &self.input_drvs {
            let mut todo = vec![(SingleDerivedPath::from(drv.clone()), node)];
            while let Some((drv, node)) = todo.pop() {
                for (output, child) in node.dynamic_outputs.iter().rev() {
                    todo.push((drv.output(output), child));
                }
                if !node.outputs.is_empty() {
                    inputs.push((drv, &node.outputs));
                }
            }
        }
        inputs
    }

    /// Whether some input is an output of a derivation that is itself an output.
    pub fn has_dynamic_inputs(&self) -> bool {
        self.input_drvs
            .values()
            .any(|node| !node.dynamic_outputs.is_empty())
    }

    /// What the `.drv` file refers to: input derivations and sources.
    pub fn references(&self) -> BTreeSet<StorePath> {
        self.input_drvs
            .keys()
            .chain(&self.input_srcs)
            .cloned()
            .collect()
    }

    /// The path of the `.drv` file. `name` is the derivation's, without `.drv`.
    pub fn drv_path(
        &self,
        dir: &StoreDir,
        name: &str,
    ) -> Result<StorePath, ContentAddressedPathError> {
        let ca = ContentAddress {
            method: ContentAddressMethod::Text,
            hash: sha256(&self.to_aterm(dir)),
        };
        let references = References::to_others(self.references());
        dir.content_addressed_path(&format!("{name}.drv"), &ca, &references)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_that_do_not_fit_together_are_refused() {
        let floating = |algorithm| DerivationOutput::Floating {
            method: ContentAddressMethod::Nar,
            algorithm,
        };
        let kind = |outputs: &[(&str, DerivationOutput)]| {
            let outputs = outputs
                .iter()
                .map(|(name, o)| ((*name).to_owned(), o.clone()));
            Derivation {
                outputs: outputs.collect(),
                ..Derivation::default()
            }
            .kind()
        };
        let sha256 = floating(HashAlgorithm::Sha256);
        assert_eq!(kind(&[]), Err(DerivationKindError::NoOutputs));
        assert_eq!(
            kind(&[("a", sha256.clone()), ("b", DerivationOutput::Deferred)]),
            Err(DerivationKindError::Mixed)
        );
        assert_eq!(
            kind(&[("a", sha256.clone()), ("b", floating(HashAlgorithm::Sha1))]),
            Err(DerivationKindError::MixedAlgorithms)
        );
        assert_eq!(
            kind(&[("a", sha256.clone()), ("b", sha256)]),
            Ok(DerivationKind::Floating)
        );
        let hash = crate::sha256(b"");
        let fixed = DerivationOutput::Fixed {
            ca: ContentAddress {
                method: ContentAddressMethod::Flat,
                hash,
            },
            path: StorePath::from_hash_and_name(&[0; 20], "x").unwrap(),
        };
        assert_eq!(kind(&[("out", fixed.clone())]), Ok(DerivationKind::Fixed));
        assert_eq!(
            kind(&[("dev", fixed)]),
            Err(DerivationKindError::FixedNotAlone)
        );
    }
}
