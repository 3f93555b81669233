//! Requests and results of the operations that keep a store in order.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use store_types::StorePath;

use crate::UnknownNumber;

/// What a garbage collection does. The numbers are the worker protocol's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GcAction {
    /// Tell which paths are reachable from roots.
    ReturnLive = 0,
    /// Tell which paths are not.
    ReturnDead = 1,
    /// Delete the paths that are not.
    DeleteDead = 2,
    /// Delete the paths of the request.
    DeleteSpecific = 3,
}

impl TryFrom<u64> for GcAction {
    type Error = UnknownNumber;

    fn try_from(number: u64) -> Result<Self, UnknownNumber> {
        [
            Self::ReturnLive,
            Self::ReturnDead,
            Self::DeleteDead,
            Self::DeleteSpecific,
        ]
        .into_iter()
        .find(|action| *action as u64 == number)
        .ok_or(UnknownNumber {
            number,
            kind: "garbage collection action",
        })
    }
}

/// A garbage collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GcRequest {
    /// What to do.
    pub action: GcAction,
    /// Delete paths even if roots reach them (only with
    /// [`GcAction::DeleteSpecific`]).
    pub ignore_liveness: bool,
    /// The paths of [`GcAction::DeleteSpecific`].
    pub paths_to_delete: BTreeSet<StorePath>,
    /// Stop when this many bytes are free; `u64::MAX` for no limit.
    pub max_freed_bytes: u64,
}

/// What a garbage collection found or did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GcResult {
    /// The live, dead or deleted paths.
    pub paths: BTreeSet<StorePath>,
    /// How many bytes were set free, or would be.
    pub bytes_freed: u64,
}

/// How much a message matters: Nix's verbosity from which on it is shown. The numbers are the worker
/// protocol's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MessageLevel {
    /// Something is wrong.
    Error = 0,
    /// Something is worth knowing.
    Notice = 2,
    /// What is done; what Nix shows if nobody says otherwise.
    Info = 3,
}

/// Who is told what is being done, and found: texts for people, without line ends.
pub type Tell<'a> = &'a mut (dyn FnMut(MessageLevel, &str) + Send);

/// Garbage collector roots: for each path, the links that keep it.
pub type Roots = BTreeMap<StorePath, BTreeSet<PathBuf>>;

/// A verification of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyRequest {
    /// Hash every object, too.
    pub check_contents: bool,
    /// Mend what is damaged.
    pub repair: bool,
}
