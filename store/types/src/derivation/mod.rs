//! Derivations: what is built, by which program, from which inputs.

use std::collections::{BTreeMap, BTreeSet};

use bstr::BString;

use crate::{ContentAddress, ContentAddressMethod, HashAlgorithm, StorePath};

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

/// A derivation. Its name is not part of it, but of its store path.
///
/// The "basic" derivation of the worker protocol is one without input
/// derivations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Derivation {
    /// The outputs by name.
    pub outputs: BTreeMap<String, DerivationOutput>,
    /// The derivations whose outputs are inputs, and which outputs.
    pub input_drvs: BTreeMap<StorePath, BTreeSet<String>>,
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
