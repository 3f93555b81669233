//! The trait.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::Path;

use store_types::{
    BuildTraceEntry, BuildTraceKey, ContentAddressMethod, Derivation, DerivedPath, DrvOutput,
    HashAlgorithm, PathInfo, Realisation, StoreDir, StorePath,
};

use crate::{
    BuildMode, BuildObserver, BuildResult, BuildStore, ClientSettings, GcRequest, GcResult,
    KeyedBuildResult, Roots, StoreError, Tell, VerifyRequest,
};

/// What would have to be done to make some paths valid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Derivations that would be built.
    pub will_build: BTreeSet<StorePath>,
    /// Paths that would be substituted.
    pub will_substitute: BTreeSet<StorePath>,
    /// Paths that can be neither built nor substituted.
    pub unknown: BTreeSet<StorePath>,
    /// Bytes that would be downloaded.
    pub download_size_bytes: u64,
    /// Bytes that the downloads would take as NARs.
    pub nar_size_bytes: u64,
}

/// A store as its clients see it; a restricted view of a store is one, too.
///
/// No method has a default: who wraps a store must decide about each of them.
pub trait Store: Send + Sync {
    /// The logical directory of its paths.
    fn store_dir(&self) -> &StoreDir;

    /// Sets what holds for all that is asked for from now on; a store that is the same for many
    /// clients ignores it. Returns what the client is to be warned of, such as settings that it
    /// may not choose.
    fn set_settings(&self, settings: &ClientSettings) -> Result<Vec<String>, StoreError>;

    /// Whether the client's Nix takes the hash of a content-addressed object with the places where it
    /// refers to itself. So, then, are the outputs of derivations that it gives whole: it checks
    /// them. Said once, before anything else.
    fn set_hashes_offsets(&self, client_does: bool);

    /// Whether the path is valid.
    fn is_valid_path(&self, path: &StorePath) -> Result<bool, StoreError>;

    /// What is known of a path; `None` if it is not valid.
    fn query_path_info(&self, path: &StorePath) -> Result<Option<PathInfo>, StoreError>;

    /// Which of these paths are valid; with `substitute`, after an attempt to
    /// substitute those that are not.
    fn query_valid_paths(
        &self,
        paths: &BTreeSet<StorePath>,
        substitute: bool,
    ) -> Result<BTreeSet<StorePath>, StoreError>;

    /// All valid paths.
    fn query_all_valid_paths(&self) -> Result<BTreeSet<StorePath>, StoreError>;

    /// Which of these paths could be substituted.
    fn query_substitutable_paths(
        &self,
        paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeSet<StorePath>, StoreError>;

    /// The valid paths that refer to this one.
    fn query_referrers(&self, path: &StorePath) -> Result<BTreeSet<StorePath>, StoreError>;

    /// The valid path with this hash part.
    fn query_path_from_hash_part(&self, hash_part: &str) -> Result<Option<StorePath>, StoreError>;

    /// The valid derivations that have this path as an output.
    fn query_valid_derivers(&self, path: &StorePath) -> Result<BTreeSet<StorePath>, StoreError>;

    /// The outputs of a valid derivation by name, with their paths where known.
    fn query_derivation_output_map(
        &self,
        drv: &StorePath,
    ) -> Result<BTreeMap<String, Option<StorePath>>, StoreError>;

    /// What an output turned out to be, if known.
    fn query_realisation(&self, id: &DrvOutput) -> Result<Option<Realisation>, StoreError>;

    /// Keeps what an output of a derivation turned out to be. Another path for an
    /// output that is known already is an error.
    fn register_realisation(&self, realisation: &Realisation) -> Result<(), StoreError>;

    /// What an output turned out to be, if known, by the path of its derivation, as Nix since 2.35
    /// asks for it.
    fn query_build_trace(&self, key: &BuildTraceKey)
    -> Result<Option<BuildTraceEntry>, StoreError>;

    /// Like [`register_realisation`](Self::register_realisation), by the path of its derivation.
    fn register_build_trace(&self, entry: &BuildTraceEntry) -> Result<(), StoreError>;

    /// Writes a valid path's NAR.
    fn nar_from_path(&self, path: &StorePath, out: &mut dyn Write) -> Result<(), StoreError>;

    /// Adds an object whose path follows from its content. `dump` is a NAR for
    /// [`ContentAddressMethod::Nar`] and [`ContentAddressMethod::Git`], else the bytes of
    /// one regular file; it is read to its end, which is where the client's data ends. With `repair`, an
    /// object that is valid already is written anew.
    fn add_content_addressed(
        &self,
        name: &str,
        method: ContentAddressMethod,
        algorithm: HashAlgorithm,
        references: &BTreeSet<StorePath>,
        repair: bool,
        dump: &mut dyn Read,
    ) -> Result<PathInfo, StoreError>;

    /// Adds an object under the path of `info`, which must match the NAR. With
    /// `check_signatures`, one that is not content-addressed needs the signature
    /// of a trusted key. Reads exactly one NAR, even if the path is valid already.
    fn add_nar(
        &self,
        info: &PathInfo,
        repair: bool,
        check_signatures: bool,
        nar: &mut dyn Read,
    ) -> Result<(), StoreError>;

    /// Adds signatures to a valid path.
    fn add_signatures(&self, path: &StorePath, signatures: &[String]) -> Result<(), StoreError>;

    /// Makes a path valid, by substitution if it is not.
    fn ensure_path(&self, path: &StorePath) -> Result<(), StoreError>;

    /// Keeps a path from being collected as long as this process lives.
    fn add_temp_root(&self, path: &StorePath) -> Result<(), StoreError>;

    /// Makes the target of this link, which lies outside the store, a root.
    fn add_indirect_root(&self, link: &Path) -> Result<(), StoreError>;

    /// Makes a link to a valid path, which is a root as long as the link is there; only a link
    /// to a path of the store may be replaced.
    fn add_perm_root(&self, path: &StorePath, link: &Path) -> Result<(), StoreError>;

    /// All garbage collector roots; with `censor`, without naming those that an
    /// ordinary user could not see.
    fn find_roots(&self, censor: bool) -> Result<Roots, StoreError>;

    /// Makes paths valid. An error is returned only if it could not be found out
    /// what became of them.
    fn build_paths(
        &self,
        paths: &[DerivedPath],
        mode: BuildMode,
        observer: &mut dyn BuildObserver,
    ) -> Result<Vec<KeyedBuildResult>, StoreError>;

    /// Builds a derivation that need not be valid itself; its inputs must be.
    /// `derivation` has no input derivations.
    fn build_derivation(
        &self,
        drv_path: &StorePath,
        derivation: &Derivation,
        mode: BuildMode,
        observer: &mut dyn BuildObserver,
    ) -> Result<BuildResult, StoreError>;

    /// What would have to be done to make these paths valid.
    fn query_missing(&self, paths: &[DerivedPath]) -> Result<Missing, StoreError>;

    /// Keeps the log of a build that was made elsewhere.
    fn add_build_log(&self, drv: &StorePath, log: &mut dyn Read) -> Result<(), StoreError>;

    /// Collects garbage, or tells what it is.
    fn collect_garbage(&self, request: &GcRequest, tell: Tell<'_>) -> Result<GcResult, StoreError>;

    /// Replaces files of the same content by hard links to one.
    fn optimise(&self, tell: Tell<'_>) -> Result<(), StoreError>;

    /// Checks the store, and tells what is wrong; true if errors remain.
    fn verify(&self, request: VerifyRequest, tell: Tell<'_>) -> Result<bool, StoreError>;

    /// What a build's view of a store has beyond this; `None` for all other stores.
    fn of_build(&self) -> Option<&dyn BuildStore>;
}

/// A compile-time check: the trait must stay object safe.
const _: fn(&dyn Store) = |_| ();
