//! What a store knows of a valid path.

use std::collections::BTreeSet;

use crate::{ContentAddress, Hash, References, StorePath};

/// What a store knows of a valid path.
///
/// Source: nix `src/libstore/path-info.hh`, `ValidPathInfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathInfo {
    /// The path.
    pub path: StorePath,
    /// The SHA-256 of the object's NAR.
    pub nar_hash: Hash,
    /// The NAR's length in bytes.
    pub nar_size: u64,
    /// The paths that the object refers to, itself included if it does.
    pub references: BTreeSet<StorePath>,
    /// The derivation that the object was made by, if known. It need not be valid.
    pub deriver: Option<StorePath>,
    /// When the path became valid, in seconds since 1970.
    pub registration_time: i64,
    /// Whether this store built the object itself.
    pub ultimate: bool,
    /// Signatures, `<key name>:<base 64>`.
    pub signatures: Vec<String>,
    /// How the path follows from the content, if it does.
    pub ca: Option<ContentAddress>,
}

impl PathInfo {
    /// The references as content addressing counts them: itself apart.
    pub fn references_apart_from_self(&self) -> References {
        let mut others = self.references.clone();
        let has_self = others.remove(&self.path);
        References { others, has_self }
    }
}
