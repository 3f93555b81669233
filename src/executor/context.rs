//! Who makes calls: a running build, as those who serve its sockets see it, or the host.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use droste_sandbox::Running;
use shim_core::client;
use store_local::LocalStore;
use store_types::StorePath;

use crate::Executor;
use crate::child::outcome::InPlace;
use crate::child::stand_in::StandIns;
use crate::child::tree::CallerTree;

/// Valid paths that are remembered at most; beyond, all are forgotten at once.
const VALID_MAX: usize = 1 << 16;

/// What became of a build's compiler calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChildCounts {
    /// Children that ran for this build.
    pub built: u64,
    /// Children whose result was there already.
    pub reused: u64,
    /// Children whose result came from a substituter.
    pub substituted: u64,
    /// Calls among all these that ended as failures.
    pub failed: u64,
    /// Calls that ran in place.
    pub in_place: u64,
    /// Why, by reason.
    pub in_place_reasons: BTreeMap<String, u64>,
    /// Why children can be used by their own outer derivation only, by reason.
    pub not_shared_reasons: BTreeMap<String, u64>,
    /// Files that a scan did not find and without which a child failed.
    pub undeclared_inputs: BTreeMap<String, u64>,
}

impl ChildCounts {
    /// Counts one more for a reason to run in place.
    pub fn count_in_place(&mut self, reason: &str) {
        self.in_place += 1;
        *self.in_place_reasons.entry(reason.to_owned()).or_default() += 1;
    }

    /// Counts one more call.
    pub(crate) fn count(&mut self, counted: &Counted) {
        match counted {
            Counted::Built { failed } => {
                self.built += 1;
                self.failed += u64::from(*failed);
            }
            Counted::Reused { failed } => {
                self.reused += 1;
                self.failed += u64::from(*failed);
            }
            Counted::InPlace(reason) => self.count_in_place(reason.as_str()),
            Counted::Undeclared(path) => {
                *self.undeclared_inputs.entry(path.clone()).or_default() += 1;
            }
        }
    }

    /// Adds another build's counts.
    pub fn add(&mut self, other: &Self) {
        self.built += other.built;
        self.reused += other.reused;
        self.substituted += other.substituted;
        self.failed += other.failed;
        self.in_place += other.in_place;
        for (reason, count) in &other.in_place_reasons {
            *self.in_place_reasons.entry(reason.clone()).or_default() += count;
        }
        for (reason, count) in &other.not_shared_reasons {
            *self.not_shared_reasons.entry(reason.clone()).or_default() += count;
        }
        for (path, count) in &other.undeclared_inputs {
            *self.undeclared_inputs.entry(path.clone()).or_default() += count;
        }
    }

    /// Counts one more call whose child only its own outer derivation can use.
    pub(crate) fn count_not_shared(&mut self, reason: &str) {
        *self
            .not_shared_reasons
            .entry(reason.to_owned())
            .or_default() += 1;
    }
}

/// Something that happened to one call.
#[derive(Debug)]
pub(crate) enum Counted {
    /// A child ran for it; whether the call ended as a failure.
    Built { failed: bool },
    /// A child was there for it; whether the call ended as a failure.
    Reused { failed: bool },
    /// It ran in place.
    InPlace(InPlace),
    /// Not a call: a file that one has needed and that was not found before it ran.
    Undeclared(String),
}

/// Who makes compiler calls.
#[derive(Clone)]
pub(crate) enum Caller {
    /// A build, from its sandbox.
    Build(Arc<BuildContext>),
    /// A command on the host, outside of any derivation.
    Host(Arc<HostContext>),
}

impl Caller {
    /// What the caller sees of its files.
    pub(crate) fn tree(&self) -> &CallerTree {
        match self {
            Self::Build(build) => &build.live().tree,
            Self::Host(host) => &host.tree,
        }
    }

    /// Whether the caller may see this store path. What is bound to a place of the host is not
    /// asked for by its store path.
    pub(crate) fn is_allowed(&self, path: &StorePath) -> bool {
        match self {
            Self::Build(build) => build.is_allowed(path),
            Self::Host(host) => host.is_valid(path),
        }
    }

    /// The store paths that a build may see. The host may see all, which is too many to be
    /// shown.
    pub(crate) fn allowed(&self) -> BTreeSet<StorePath> {
        match self {
            Self::Build(build) => build.allowed(),
            Self::Host(_) => BTreeSet::new(),
        }
    }

    /// What stands for the hashes of the caller's own outputs.
    pub(crate) fn stand_ins(&self) -> &StandIns {
        match self {
            Self::Build(build) => &build.stand_ins,
            Self::Host(host) => &host.stand_ins,
        }
    }

    /// Counts a call that could not have stand-ins.
    pub(crate) fn count_not_shared(&self, reason: &str) {
        if let Self::Build(build) = self {
            build.counts().count_not_shared(reason);
        }
    }

    /// Counts what became of a call with this environment.
    pub(crate) fn count(&self, env: &[Vec<u8>], counted: &Counted) {
        match self {
            Self::Build(build) => build.counts().count(counted),
            Self::Host(host) => host.count(env, counted),
        }
    }
}

/// The host, whose commands may call at any time.
pub(crate) struct HostContext {
    pub(crate) tree: CallerTree,
    /// None: it has no outputs.
    stand_ins: StandIns,
    /// Our store, if it is the host's, too.
    store: Option<Arc<LocalStore>>,
    /// Store paths that were found valid.
    valid: Mutex<HashSet<StorePath>>,
    /// The counts of commands that have asked for theirs, by the value of the variable
    /// that all their calls have in their environments.
    sessions: Mutex<HashMap<Vec<u8>, ChildCounts>>,
}

impl HostContext {
    /// The host with these files, and our store, if it is the host's.
    pub(crate) fn new(tree: CallerTree, store: Option<Arc<LocalStore>>) -> Self {
        Self {
            tree,
            store,
            valid: Mutex::default(),
            stand_ins: StandIns::new([]),
            sessions: Mutex::default(),
        }
    }

    /// Whether this is a valid path of our store, and of the host's. What has been one is one as
    /// long as it is there.
    fn is_valid(&self, path: &StorePath) -> bool {
        let Some(store) = &self.store else {
            return false;
        };
        let known = || self.valid.lock().unwrap_or_else(PoisonError::into_inner);
        if known().contains(path) {
            return store.physical_path(path).symlink_metadata().is_ok();
        }
        let is_valid = store.is_valid(path).unwrap_or(false);
        if is_valid {
            let mut known = known();
            if known.len() >= VALID_MAX {
                known.clear();
            }
            known.insert(path.clone());
        }
        is_valid
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<Vec<u8>, ChildCounts>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the calls of a command apart from now on.
    pub(crate) fn begin_session(&self, key: &[u8]) {
        self.sessions()
            .insert(key.to_owned(), ChildCounts::default());
    }

    /// The calls of a command so far; they are no longer counted apart.
    pub(crate) fn end_session(&self, key: &[u8]) -> ChildCounts {
        self.sessions().remove(key).unwrap_or_default()
    }

    fn count(&self, env: &[Vec<u8>], counted: &Counted) {
        let key = env.iter().find_map(|entry| {
            entry
                .strip_prefix(client::SESSION_VARIABLE.as_bytes())?
                .strip_prefix(b"=")
        });
        if let Some(key) = key
            && let Some(counts) = self.sessions().get_mut(key)
        {
            counts.count(counted);
        }
    }
}

/// The sandbox of a build that runs.
pub(crate) struct Live {
    executor: Arc<Executor>,
    running: Arc<Running>,
    /// What the build sees of its files.
    pub(crate) tree: CallerTree,
}

/// One running build.
pub(crate) struct BuildContext {
    allowed: RwLock<BTreeSet<StorePath>>,
    live: OnceLock<Live>,
    counts: Mutex<ChildCounts>,
    stand_ins: StandIns,
    /// Where it puts its outputs.
    own: BTreeSet<StorePath>,
    /// Whether what becomes valid for it appears in its sandbox.
    shows_new: bool,
    /// The outputs that it has submitted.
    submitted: Mutex<BTreeMap<String, StorePath>>,
}

impl BuildContext {
    /// A build that sees these store paths, and does not run yet. It makes those of `own`; with
    /// `shows_new`, its sandbox must let new paths in.
    pub(crate) fn new(
        inputs: BTreeSet<StorePath>,
        stand_ins: StandIns,
        own: BTreeSet<StorePath>,
        shows_new: bool,
    ) -> Self {
        Self {
            own,
            shows_new,
            submitted: Mutex::default(),
            stand_ins,
            allowed: RwLock::new(inputs),
            live: OnceLock::new(),
            counts: Mutex::default(),
        }
    }

    /// The store paths that the build may see and its outputs may refer to: its
    /// input closure, and what was added or built for it since.
    pub(crate) fn allowed(&self) -> BTreeSet<StorePath> {
        self.allowed
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether the build may see this path.
    pub(crate) fn is_allowed(&self, path: &StorePath) -> bool {
        self.allowed
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(path)
    }

    /// Shows the build the closure of a valid path, and lets its outputs refer to it.
    pub(crate) fn allow(&self, closure: &BTreeSet<StorePath>) -> Result<(), droste_sandbox::Error> {
        for path in closure {
            // One writer at a time: the same path must not be mounted twice.
            let mut allowed = self.allowed.write().unwrap_or_else(PoisonError::into_inner);
            if allowed.contains(path) {
                continue;
            }
            // An object at the place of its output would be in the builder's way.
            if self.shows_new && !self.own.contains(path) {
                let live = self.live();
                let inside = live.executor.store_dir().display(path);
                live.running
                    .mount_into(&live.executor.store.physical_path(path), inside.as_ref())?;
            }
            allowed.insert(path.clone());
        }
        Ok(())
    }

    /// Makes an object an output; false if there is one already.
    pub(crate) fn submit(&self, output: &str, path: &StorePath) -> bool {
        let mut submitted = self
            .submitted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if submitted.contains_key(output) {
            return false;
        }
        submitted.insert(output.to_owned(), path.clone());
        true
    }

    /// The outputs that were submitted.
    pub(crate) fn submitted(&self) -> BTreeMap<String, StorePath> {
        let submitted = self.submitted.lock();
        submitted.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The builder runs now.
    pub(crate) fn set_running(
        &self,
        executor: Arc<Executor>,
        running: Arc<Running>,
    ) -> std::io::Result<()> {
        let root = running.root().try_clone_to_owned()?;
        let tree = CallerTree::build(root, executor.store_dir().clone());
        let _ = self.live.set(Live {
            executor,
            running,
            tree,
        });
        Ok(())
    }

    /// The build's sandbox. Its first processes may ask before we have heard that it
    /// runs, so this waits until then.
    pub(crate) fn live(&self) -> &Live {
        self.live.wait()
    }

    fn counts(&self) -> MutexGuard<'_, ChildCounts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counts so far.
    pub(crate) fn take_counts(&self) -> ChildCounts {
        std::mem::take(&mut *self.counts())
    }
}
