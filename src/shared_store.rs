//! Our store beside the machine's own, for a Nix of this machine that has Droste as its builder.
//!
//! That Nix has the inputs of a build in the machine's store, and puts the outputs there. So the
//! inputs are not copied but [borrowed](store_local::LocalStore::borrow), and held there as long
//! as the client is connected. And Nix copies outputs, not their closures: what an output refers
//! to and is new, such as a child's output, is added to the machine's store before Nix is told
//! that the build is done.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use droste_executor::Executor;
use store_api::{
    BuildMode, BuildObserver, BuildResult, BuildStore, ClientSettings, GcRequest, GcResult,
    KeyedBuildResult, Missing, Roots, Store, StoreError, Tell, VerifyRequest,
};
use store_client::RemoteStore;
use store_local::LocalStore;
use store_types::{
    BuildTraceEntry, BuildTraceKey, ContentAddressMethod, Derivation, DerivationOutput,
    DerivedPath, DrvOutput, HashAlgorithm, PathInfo, Realisation, StoreDir, StorePath,
};

use crate::open_store::OpenStore;

/// What is needed of the machine's own store.
pub trait HostStore: Send + Sync {
    /// What is known of a path; `None` if it is not valid.
    fn path_info(&self, path: &StorePath) -> Result<Option<PathInfo>, StoreError>;

    /// Keeps a path from being collected as long as this is open.
    fn hold(&self, path: &StorePath) -> Result<(), StoreError>;

    /// Adds an object without asking for signatures.
    fn add(&self, info: &PathInfo, nar: &mut dyn Read) -> Result<(), StoreError>;
}

impl HostStore for LocalStore {
    fn path_info(&self, path: &StorePath) -> Result<Option<PathInfo>, StoreError> {
        self.path_info(path)
            .map_err(StoreError::failed("query the machine's store"))
    }

    fn hold(&self, path: &StorePath) -> Result<(), StoreError> {
        self.add_temp_root(path)
            .map_err(StoreError::failed("hold a path of the machine's store"))
    }

    fn add(&self, info: &PathInfo, nar: &mut dyn Read) -> Result<(), StoreError> {
        self.add_nar(info, nar).map_err(StoreError::failed(format!(
            "add `{}` to the machine's store",
            info.path
        )))
    }
}

/// By its daemon. What is held is held for a connection, so there should be one only.
impl HostStore for RemoteStore {
    fn path_info(&self, path: &StorePath) -> Result<Option<PathInfo>, StoreError> {
        self.query_path_info(path)
    }

    fn hold(&self, path: &StorePath) -> Result<(), StoreError> {
        self.add_temp_root(path)
    }

    fn add(&self, info: &PathInfo, nar: &mut dyn Read) -> Result<(), StoreError> {
        self.add_nar(info, false, false, nar)
    }
}

/// The machine's own store, and what of it is held.
pub struct Host {
    store: Arc<dyn HostStore>,
    /// Valid paths, borrowed and held with their closures: nobody collects them, so there is no
    /// need to ask again.
    held: Mutex<HashSet<StorePath>>,
}

impl Host {
    /// This store.
    pub fn new(store: Arc<dyn HostStore>) -> Self {
        Self {
            store,
            held: Mutex::default(),
        }
    }

    fn held(&self) -> MutexGuard<'_, HashSet<StorePath>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Our store for one client, and the machine's.
pub struct SharedStore {
    own: OpenStore,
    executor: Arc<Executor>,
    /// `None` where there is none to be had: then all is copied.
    host: Option<Host>,
}

impl SharedStore {
    /// The store that this executor builds in, beside the machine's.
    pub fn new(executor: Arc<Executor>, host: Option<Host>) -> Self {
        Self {
            own: OpenStore::new(executor.clone()),
            executor,
            host,
        }
    }

    fn store(&self) -> &LocalStore {
        self.executor.store()
    }

    /// Makes those of these paths valid that the machine's store has.
    pub fn borrow<'a>(
        &self,
        paths: impl IntoIterator<Item = &'a StorePath>,
    ) -> Result<(), StoreError> {
        let Some(host) = &self.host else {
            return Ok(());
        };
        let _roots = self.own.hold_for_client();
        let mut todo: Vec<StorePath> = {
            let held = host.held();
            let unknown = paths.into_iter().filter(|path| !held.contains(*path));
            unknown.cloned().collect()
        };
        let mut infos: BTreeMap<StorePath, PathInfo> = BTreeMap::new();
        let mut seen: HashSet<StorePath> = HashSet::new();
        while let Some(path) = todo.pop() {
            if !seen.insert(path.clone()) || host.held().contains(&path) {
                continue;
            }
            // Held before it is asked whether it is valid, so that it stays so.
            host.store.hold(&path)?;
            if let Some(info) = host.store.path_info(&path)?
                && self.store().is_lent(&path)
            {
                todo.extend(info.references.iter().cloned());
                infos.insert(path, info);
            }
        }
        // All that a valid path refers to is valid; but who collects garbage may have come
        // between two answers.
        loop {
            let is_there =
                |path: &StorePath| infos.contains_key(path) || host.held().contains(path);
            let incomplete: Vec<StorePath> = infos
                .values()
                .filter(|info| !info.references.iter().all(is_there))
                .map(|info| info.path.clone())
                .collect();
            if incomplete.is_empty() {
                break;
            }
            for path in incomplete {
                infos.remove(&path);
            }
        }
        let lent: Vec<PathInfo> = infos.into_values().collect();
        if lent.is_empty() {
            return Ok(());
        }
        self.store()
            .borrow(&lent)
            .map_err(StoreError::failed("borrow from the machine's store"))?;
        host.held().extend(lent.into_iter().map(|info| info.path));
        Ok(())
    }

    /// Adds to the machine's store what these outputs refer to and it does not have; the outputs
    /// themselves are added by who asked for them.
    fn deliver<'a>(
        &self,
        outputs: impl IntoIterator<Item = &'a StorePath>,
    ) -> Result<(), StoreError> {
        let Some(Host { store: host, .. }) = self.host.as_ref() else {
            return Ok(());
        };
        let outputs: BTreeSet<StorePath> = outputs.into_iter().cloned().collect();
        let mut done: BTreeSet<StorePath> = outputs.clone();
        // Each path twice: first to look at what it refers to, then to be added after that.
        let mut todo: Vec<(StorePath, bool)> = Vec::new();
        for output in &outputs {
            let info = self.info(output)?;
            todo.extend(info.references.into_iter().map(|path| (path, false)));
        }
        while let Some((path, is_ready)) = todo.pop() {
            if is_ready {
                self.add_to_host(&**host, &path)?;
                continue;
            }
            if !done.insert(path.clone()) {
                continue;
            }
            host.hold(&path)?;
            if host.path_info(&path)?.is_some() {
                continue;
            }
            let info = self.info(&path)?;
            todo.push((path, true));
            todo.extend(info.references.into_iter().map(|path| (path, false)));
        }
        Ok(())
    }

    fn info(&self, path: &StorePath) -> Result<PathInfo, StoreError> {
        self.own
            .query_path_info(path)?
            .ok_or_else(|| StoreError::NotValid { path: path.clone() })
    }

    fn add_to_host(&self, host: &dyn HostStore, path: &StorePath) -> Result<(), StoreError> {
        let info = self.info(path)?;
        let (mut reader, writer) =
            io::pipe().map_err(StoreError::io(format!("pass on `{path}`")))?;
        std::thread::scope(|scope| {
            let dumped = scope.spawn(move || {
                let mut writer = writer;
                self.own.nar_from_path(path, &mut writer)
            });
            let added = host.add(&info, &mut reader);
            // The writer ends if it still writes.
            drop(reader);
            let dumped = dumped
                .join()
                .unwrap_or(Err(StoreError::NotValid { path: path.clone() }));
            added.and(dumped)
        })
    }

    /// Takes over what the machine knows of outputs whose paths follow from nothing but their
    /// content, as far as it has them.
    pub fn take_over(
        &self,
        known: &BTreeMap<StorePath, BTreeMap<String, StorePath>>,
    ) -> Result<(), StoreError> {
        for (drv_path, outputs) in known {
            if outputs.is_empty() || !self.own.is_valid_path(drv_path)? {
                continue;
            }
            let drv = self.load(drv_path)?;
            let mut to_know = BTreeMap::new();
            for (name, path) in outputs {
                let follows_from_content = matches!(
                    drv.outputs.get(name),
                    Some(DerivationOutput::Floating { .. } | DerivationOutput::Deferred)
                );
                if follows_from_content && self.own.is_valid_path(path)? {
                    to_know.insert(name.clone(), path.clone());
                }
            }
            self.executor
                .take_over(drv_path, &drv, &to_know)
                .map_err(StoreError::failed("take over what the machine knows"))?;
        }
        Ok(())
    }

    /// See [`OpenStore::set_checked_by`].
    pub fn set_checked_by(&self, hashes_offsets: bool) {
        self.own.set_checked_by(hashes_offsets);
    }

    /// The log of a derivation's last build here, if it is kept.
    pub fn build_log(&self, drv: &StorePath) -> Option<Box<dyn Read>> {
        self.store().build_log(drv).ok().flatten()
    }

    /// The derivation of a valid path.
    pub fn load(&self, drv: &StorePath) -> Result<Derivation, StoreError> {
        self.own.load(drv)
    }

    /// Adds outputs to the machine's store, after what they refer to.
    pub fn deliver_outputs(&self, result: &BuildResult) -> Result<(), StoreError> {
        let outputs = result.built_outputs.values();
        self.deliver_all(
            outputs
                .map(|realisation| realisation.out_path.clone())
                .collect(),
        )
    }

    /// The same by their paths.
    pub fn deliver_all(&self, outputs: BTreeSet<StorePath>) -> Result<(), StoreError> {
        let Some(Host { store: host, .. }) = self.host.as_ref() else {
            return Ok(());
        };
        self.deliver(&outputs)?;
        // Outputs of one derivation may refer to each other, without cycles.
        let mut left = outputs;
        while let Some(path) = left.first().cloned() {
            let mut next = path;
            while let Some(before) = self
                .info(&next)?
                .references
                .into_iter()
                .find(|path| *path != next && left.contains(path))
            {
                next = before;
            }
            host.hold(&next)?;
            if host.path_info(&next)?.is_none() {
                self.add_to_host(&**host, &next)?;
            }
            left.remove(&next);
        }
        Ok(())
    }

    fn deliver_result(&self, result: &BuildResult) -> Result<(), StoreError> {
        let outputs = result.built_outputs.values();
        self.deliver(outputs.map(|realisation| &realisation.out_path))
    }
}

#[deny(clippy::missing_trait_methods)]
impl Store for SharedStore {
    fn store_dir(&self) -> &StoreDir {
        self.own.store_dir()
    }

    fn set_settings(&self, settings: &ClientSettings) -> Result<Vec<String>, StoreError> {
        self.own.set_settings(settings)
    }

    fn set_hashes_offsets(&self, client_does: bool) {
        self.own.set_hashes_offsets(client_does);
    }

    fn is_valid_path(&self, path: &StorePath) -> Result<bool, StoreError> {
        self.own.is_valid_path(path)
    }

    fn query_path_info(&self, path: &StorePath) -> Result<Option<PathInfo>, StoreError> {
        self.own.query_path_info(path)
    }

    fn query_valid_paths(
        &self,
        paths: &BTreeSet<StorePath>,
        substitute: bool,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        self.borrow(paths)?;
        self.own.query_valid_paths(paths, substitute)
    }

    fn query_all_valid_paths(&self) -> Result<BTreeSet<StorePath>, StoreError> {
        self.own.query_all_valid_paths()
    }

    fn query_substitutable_paths(
        &self,
        paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        self.own.query_substitutable_paths(paths)
    }

    fn query_referrers(&self, path: &StorePath) -> Result<BTreeSet<StorePath>, StoreError> {
        self.own.query_referrers(path)
    }

    fn query_path_from_hash_part(&self, hash_part: &str) -> Result<Option<StorePath>, StoreError> {
        self.own.query_path_from_hash_part(hash_part)
    }

    fn query_valid_derivers(&self, path: &StorePath) -> Result<BTreeSet<StorePath>, StoreError> {
        self.own.query_valid_derivers(path)
    }

    fn query_derivation_output_map(
        &self,
        drv: &StorePath,
    ) -> Result<BTreeMap<String, Option<StorePath>>, StoreError> {
        self.borrow([drv])?;
        self.own.query_derivation_output_map(drv)
    }

    fn query_realisation(&self, id: &DrvOutput) -> Result<Option<Realisation>, StoreError> {
        self.own.query_realisation(id)
    }

    fn register_realisation(&self, realisation: &Realisation) -> Result<(), StoreError> {
        self.own.register_realisation(realisation)
    }

    fn query_build_trace(
        &self,
        key: &BuildTraceKey,
    ) -> Result<Option<BuildTraceEntry>, StoreError> {
        self.own.query_build_trace(key)
    }

    fn register_build_trace(&self, entry: &BuildTraceEntry) -> Result<(), StoreError> {
        self.own.register_build_trace(entry)
    }

    fn nar_from_path(&self, path: &StorePath, out: &mut dyn Write) -> Result<(), StoreError> {
        self.own.nar_from_path(path, out)
    }

    fn add_content_addressed(
        &self,
        name: &str,
        method: ContentAddressMethod,
        algorithm: HashAlgorithm,
        references: &BTreeSet<StorePath>,
        repair: bool,
        dump: &mut dyn Read,
    ) -> Result<PathInfo, StoreError> {
        self.borrow(references)?;
        self.own
            .add_content_addressed(name, method, algorithm, references, repair, dump)
    }

    fn add_nar(
        &self,
        info: &PathInfo,
        repair: bool,
        check_signatures: bool,
        nar: &mut dyn Read,
    ) -> Result<(), StoreError> {
        self.own.add_nar(info, repair, check_signatures, nar)
    }

    fn add_signatures(&self, path: &StorePath, signatures: &[String]) -> Result<(), StoreError> {
        self.own.add_signatures(path, signatures)
    }

    fn ensure_path(&self, path: &StorePath) -> Result<(), StoreError> {
        self.borrow([path])?;
        self.own.ensure_path(path)
    }

    fn add_temp_root(&self, path: &StorePath) -> Result<(), StoreError> {
        self.own.add_temp_root(path)
    }

    fn add_indirect_root(&self, link: &Path) -> Result<(), StoreError> {
        self.own.add_indirect_root(link)
    }

    fn add_perm_root(&self, path: &StorePath, link: &Path) -> Result<(), StoreError> {
        self.own.add_perm_root(path, link)
    }

    fn find_roots(&self, censor: bool) -> Result<Roots, StoreError> {
        self.own.find_roots(censor)
    }

    fn build_paths(
        &self,
        paths: &[DerivedPath],
        mode: BuildMode,
        observer: &mut dyn BuildObserver,
    ) -> Result<Vec<KeyedBuildResult>, StoreError> {
        self.borrow(paths.iter().map(|path| match path {
            DerivedPath::Opaque(path) => path,
            DerivedPath::Built { drv, .. } => &drv.base,
        }))?;
        let results = self.own.build_paths(paths, mode, observer)?;
        for keyed in &results {
            self.deliver_result(&keyed.result)?;
        }
        Ok(results)
    }

    fn build_derivation(
        &self,
        drv_path: &StorePath,
        derivation: &Derivation,
        mode: BuildMode,
        observer: &mut dyn BuildObserver,
    ) -> Result<BuildResult, StoreError> {
        self.borrow(&derivation.input_srcs)?;
        let result = self
            .own
            .build_derivation(drv_path, derivation, mode, observer)?;
        self.deliver_result(&result)?;
        Ok(result)
    }

    fn query_missing(&self, paths: &[DerivedPath]) -> Result<Missing, StoreError> {
        self.own.query_missing(paths)
    }

    fn add_build_log(&self, drv: &StorePath, log: &mut dyn Read) -> Result<(), StoreError> {
        self.own.add_build_log(drv, log)
    }

    fn collect_garbage(&self, request: &GcRequest, tell: Tell<'_>) -> Result<GcResult, StoreError> {
        self.own.collect_garbage(request, tell)
    }

    fn optimise(&self, tell: Tell<'_>) -> Result<(), StoreError> {
        self.own.optimise(tell)
    }

    fn verify(&self, request: VerifyRequest, tell: Tell<'_>) -> Result<bool, StoreError> {
        self.own.verify(request, tell)
    }

    fn of_build(&self) -> Option<&dyn BuildStore> {
        None
    }
}
