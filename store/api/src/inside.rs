//! What a store can be asked for from inside a build alone.

use std::io::Read;

use store_types::{ContentAddressMethod, HashAlgorithm, PathInfo, SingleDerivedPath};

use crate::StoreError;

/// The view that a build has of a store: what it may ask beyond [`Store`](crate::Store).
///
/// Source: nix `src/libstore/include/nix/store/submit-store.hh`.
pub trait BuildStore: Send + Sync {
    /// Whether the build may use all of the store that there is for builds (`recursive-nix`), and
    /// not only add to it.
    fn builds_inside(&self) -> bool;

    /// Whether the build may submit outputs (`builder-rpc-v0`).
    fn submits(&self) -> bool;

    /// Adds an object by its content, given as `add_content_addressed` takes it; its references
    /// are those that the content mentions, of all that the build may see.
    #[doc(alias = "AddToStoreScanning")]
    fn add_scanning(
        &self,
        name: &str,
        method: ContentAddressMethod,
        algorithm: HashAlgorithm,
        dump: &mut dyn Read,
    ) -> Result<PathInfo, StoreError>;

    /// Makes an object that was added an output of the derivation that is being built.
    #[doc(alias = "SubmitOutput")]
    fn submit_output(&self, path: &SingleDerivedPath, output: &str) -> Result<(), StoreError>;
}
