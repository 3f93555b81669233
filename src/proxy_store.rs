//! The machine's own store behind its daemon, with builds that are ours: what
//! `droste daemon --proxy` serves.
//!
//! Every operation is passed to the machine's daemon, on a connection of this
//! client's own, except builds. For those the derivations and all of their inputs
//! that the machine has are borrowed (see [`SharedStore`]), Droste's executor
//! builds in its own store, and the outputs are added to the machine's, with what
//! they refer to, before the client is told.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use droste_executor::Executor;
use store_api::{
    BuildMode, BuildObserver, BuildProgress, BuildResult, BuildStore, BuilderMessage,
    ClientSettings, GcRequest, GcResult, KeyedBuildResult, Missing, Roots, Store, StoreError, Tell,
    VerifyRequest,
};
use store_client::RemoteStore;
use store_types::{
    BuildTraceEntry, BuildTraceKey, ContentAddressMethod, Derivation, DerivationKind, DerivedPath,
    DrvOutput, HashAlgorithm, PathInfo, Realisation, StoreDir, StorePath,
};
use store_wire::{Hello, Trust};

use crate::shared_store::{Host, SharedStore};

/// The machine's store for one client.
pub struct ProxyStore {
    machines: Arc<RemoteStore>,
    shared: SharedStore,
}

impl ProxyStore {
    /// This store, with the builds of this executor, which must have its directory as
    /// the lender of its own store. Temporary roots live as long as the remote store's
    /// connection, so it should have one only.
    pub fn new(machines: RemoteStore, executor: Arc<Executor>) -> Self {
        let machines = Arc::new(machines);
        let host = Host::new(machines.clone());
        Self {
            shared: SharedStore::new(executor, Some(host)),
            machines,
        }
    }

    /// Borrows what building these takes: the derivations that are not built, and
    /// what the machine has of the others' outputs and of their own.
    fn borrow_for(&self, paths: &[DerivedPath]) -> Result<(), StoreError> {
        let wanted: Vec<&StorePath> = paths.iter().map(DerivedPath::base_path).collect();
        self.shared.borrow(wanted.iter().copied())?;
        let missing = self.machines.query_missing(paths)?;
        for path in &missing.will_substitute {
            // What cannot be had after all is built.
            let _ = self.machines.ensure_path(path);
        }
        // The inputs of what is to be built; and what was asked for, which may be
        // built already.
        let mut drvs: BTreeSet<StorePath> = wanted
            .into_iter()
            .filter(|path| path.is_derivation())
            .cloned()
            .collect();
        for drv in &missing.will_build {
            drvs.extend(self.shared.load(drv)?.input_drvs.into_keys());
        }
        let mut known: BTreeMap<StorePath, BTreeMap<String, StorePath>> = BTreeMap::new();
        for drv in drvs {
            let outputs = self.machines.query_derivation_output_map(&drv)?;
            let outputs = outputs.into_iter();
            let outputs = outputs.filter_map(|(name, path)| Some((name, path?)));
            known.insert(drv, outputs.collect());
        }
        self.shared
            .borrow(known.values().flat_map(BTreeMap::values))?;
        self.shared.take_over(&known)
    }

    /// Tells the machine's store what came of outputs whose paths nobody knew before.
    fn register(&self, drv: &Derivation, result: &BuildResult) -> Result<(), StoreError> {
        if drv.kind().is_ok_and(|kind| kind == DerivationKind::Impure) {
            return Ok(());
        }
        for (name, realisation) in &result.built_outputs {
            let is_known = drv
                .outputs
                .get(name)
                .is_none_or(|output| output.path().is_some());
            if !is_known {
                self.machines.register_realisation(realisation)?;
            }
        }
        Ok(())
    }
}

/// Passes on what happens, and has the machine's store keep up.
struct Observer<'a> {
    proxy: &'a ProxyStore,
    client: &'a mut dyn BuildObserver,
    /// What was built.
    started: BTreeSet<StorePath>,
}

impl<'a> Observer<'a> {
    fn new(proxy: &'a ProxyStore, client: &'a mut dyn BuildObserver) -> Self {
        Self {
            proxy,
            client,
            started: BTreeSet::new(),
        }
    }

    /// Adds the logs to the machine's, if its daemon lets us. Were it only tried, the connection could
    /// end, and with it all that is held for the client.
    fn hand_logs_on(self) {
        let may = match self.proxy.machines.hello() {
            Ok((_, Hello { trust, .. })) => match trust {
                Trust::Trusted => true,
                // It is too old to say, and trusts root.
                Trust::Unknown => rustix::process::geteuid().is_root(),
                Trust::NotTrusted => false,
            },
            Err(_) => false,
        };
        for drv in self.started.into_iter().filter(|_| may) {
            if let Some(mut log) = self.proxy.shared.build_log(&drv) {
                let _ = self.proxy.machines.add_build_log(&drv, &mut log);
            }
        }
    }
}

#[deny(clippy::missing_trait_methods)]
impl BuildObserver for Observer<'_> {
    fn started(&mut self, drv: &StorePath, mode: BuildMode) {
        self.started.insert(drv.clone());
        self.client.started(drv, mode);
    }

    fn resolved(&mut self, drv: &StorePath, resolved: &StorePath) {
        self.client.resolved(drv, resolved);
    }

    fn log_line(&mut self, drv: &StorePath, line: &[u8]) {
        self.client.log_line(drv, line);
    }

    fn builder_message(&mut self, drv: &StorePath, message: &BuilderMessage) {
        self.client.builder_message(drv, message);
    }

    fn progress(&mut self, progress: BuildProgress) {
        self.client.progress(progress);
    }

    fn message(&mut self, text: &[u8]) {
        self.client.message(text);
    }

    fn dependency_failed(&mut self, error: &str) {
        self.client.dependency_failed(error);
    }

    fn outputs_made(&mut self, outputs: &BTreeSet<StorePath>) -> Result<(), StoreError> {
        self.proxy.shared.deliver_all(outputs.clone())?;
        self.client.outputs_made(outputs)
    }

    fn post_build_line(&mut self, drv: &StorePath, line: &[u8]) {
        self.client.post_build_line(drv, line);
    }

    fn note(&mut self, text: &str) {
        self.client.note(text);
    }

    fn finished(&mut self, drv: &StorePath, result: &BuildResult) {
        self.client.finished(drv, result);
    }

    fn is_cancelled(&mut self) -> bool {
        self.client.is_cancelled()
    }
}

/// Whether a root's name tells what some process does: it is one that the process has announced,
/// or uses.
fn is_of_process(link: &Path) -> bool {
    let link = link.as_os_str().as_encoded_bytes();
    link.starts_with(b"{") || link.starts_with(b"/proc/")
}

#[deny(clippy::missing_trait_methods)]
impl Store for ProxyStore {
    fn store_dir(&self) -> &StoreDir {
        self.machines.store_dir()
    }

    /// For what is built here, and for what the machine's daemon does.
    fn set_settings(&self, settings: &ClientSettings) -> Result<Vec<String>, StoreError> {
        self.machines.set_settings(settings)?;
        self.shared.set_settings(settings)
    }

    /// It is the machine's daemon that checks outputs.
    fn set_hashes_offsets(&self, _client_does: bool) {}

    fn is_valid_path(&self, path: &StorePath) -> Result<bool, StoreError> {
        self.machines.is_valid_path(path)
    }

    fn query_path_info(&self, path: &StorePath) -> Result<Option<PathInfo>, StoreError> {
        self.machines.query_path_info(path)
    }

    fn query_valid_paths(
        &self,
        paths: &BTreeSet<StorePath>,
        substitute: bool,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        self.machines.query_valid_paths(paths, substitute)
    }

    fn query_all_valid_paths(&self) -> Result<BTreeSet<StorePath>, StoreError> {
        self.machines.query_all_valid_paths()
    }

    fn query_substitutable_paths(
        &self,
        paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        self.machines.query_substitutable_paths(paths)
    }

    fn query_referrers(&self, path: &StorePath) -> Result<BTreeSet<StorePath>, StoreError> {
        self.machines.query_referrers(path)
    }

    fn query_path_from_hash_part(&self, hash_part: &str) -> Result<Option<StorePath>, StoreError> {
        self.machines.query_path_from_hash_part(hash_part)
    }

    fn query_valid_derivers(&self, path: &StorePath) -> Result<BTreeSet<StorePath>, StoreError> {
        self.machines.query_valid_derivers(path)
    }

    fn query_derivation_output_map(
        &self,
        drv: &StorePath,
    ) -> Result<BTreeMap<String, Option<StorePath>>, StoreError> {
        self.machines.query_derivation_output_map(drv)
    }

    fn query_realisation(&self, id: &DrvOutput) -> Result<Option<Realisation>, StoreError> {
        self.machines.query_realisation(id)
    }

    fn register_realisation(&self, realisation: &Realisation) -> Result<(), StoreError> {
        self.machines.register_realisation(realisation)
    }

    fn query_build_trace(
        &self,
        key: &BuildTraceKey,
    ) -> Result<Option<BuildTraceEntry>, StoreError> {
        self.machines.query_build_trace(key)
    }

    fn register_build_trace(&self, entry: &BuildTraceEntry) -> Result<(), StoreError> {
        self.machines.register_build_trace(entry)
    }

    fn nar_from_path(&self, path: &StorePath, out: &mut dyn Write) -> Result<(), StoreError> {
        self.machines.nar_from_path(path, out)
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
        self.machines
            .add_content_addressed(name, method, algorithm, references, repair, dump)
    }

    fn add_nar(
        &self,
        info: &PathInfo,
        repair: bool,
        check_signatures: bool,
        nar: &mut dyn Read,
    ) -> Result<(), StoreError> {
        self.machines.add_nar(info, repair, check_signatures, nar)
    }

    fn add_signatures(&self, path: &StorePath, signatures: &[String]) -> Result<(), StoreError> {
        self.machines.add_signatures(path, signatures)
    }

    fn ensure_path(&self, path: &StorePath) -> Result<(), StoreError> {
        self.machines.ensure_path(path)
    }

    fn add_temp_root(&self, path: &StorePath) -> Result<(), StoreError> {
        self.machines.add_temp_root(path)
    }

    fn add_indirect_root(&self, link: &Path) -> Result<(), StoreError> {
        self.machines.add_indirect_root(link)
    }

    fn add_perm_root(&self, path: &StorePath, link: &Path) -> Result<(), StoreError> {
        self.machines.add_perm_root(path, link).map(drop)
    }

    fn find_roots(&self, censor: bool) -> Result<Roots, StoreError> {
        let roots = self.machines.find_roots(censor)?;
        // That daemon judges us, and not our client.
        let shown = |link: PathBuf| match censor && is_of_process(&link) {
            true => PathBuf::from("{censored}"),
            false => link,
        };
        let censored = roots
            .into_iter()
            .map(|(path, links)| (path, links.into_iter().map(shown).collect()));
        Ok(censored.collect())
    }

    /// To mend what is damaged in the machine's store is left to its daemon.
    fn build_paths(
        &self,
        paths: &[DerivedPath],
        mode: BuildMode,
        observer: &mut dyn BuildObserver,
    ) -> Result<Vec<KeyedBuildResult>, StoreError> {
        let is_build = |path: &DerivedPath| matches!(path, DerivedPath::Built { .. });
        if mode == BuildMode::Repair || !paths.iter().any(is_build) {
            return self.machines.build_paths(paths, mode, observer);
        }
        for path in paths.iter().filter(|path| !is_build(path)) {
            self.machines.ensure_path(path.base_path())?;
        }
        self.shared.set_checked_by(self.machines.hashes_offsets()?);
        self.borrow_for(paths)?;
        let mut observer = Observer::new(self, observer);
        let results = self.shared.build_paths(paths, mode, &mut observer)?;
        for keyed in &results {
            if let DerivedPath::Built { drv, .. } = &keyed.path {
                self.shared.deliver_outputs(&keyed.result)?;
                let mut made = Some(drv.base.clone());
                for output in &drv.outputs {
                    made = match made {
                        // Where that failed, there is nothing to register.
                        None => None,
                        Some(outer) => self
                            .shared
                            .query_derivation_output_map(&outer)?
                            .remove(output)
                            .flatten(),
                    };
                }
                if let Some(drv) = made.filter(|_| keyed.result.is_success()) {
                    self.register(&self.shared.load(&drv)?, &keyed.result)?;
                }
            }
        }
        observer.hand_logs_on();
        Ok(results)
    }

    fn build_derivation(
        &self,
        drv_path: &StorePath,
        derivation: &Derivation,
        mode: BuildMode,
        observer: &mut dyn BuildObserver,
    ) -> Result<BuildResult, StoreError> {
        if mode == BuildMode::Repair {
            return self
                .machines
                .build_derivation(drv_path, derivation, mode, observer);
        }
        let known = derivation
            .outputs
            .values()
            .filter_map(|output| output.path());
        self.shared.set_checked_by(self.machines.hashes_offsets()?);
        self.shared.borrow(known)?;
        let mut observer = Observer::new(self, observer);
        let result = self
            .shared
            .build_derivation(drv_path, derivation, mode, &mut observer)?;
        self.shared.deliver_outputs(&result)?;
        self.register(derivation, &result)?;
        observer.hand_logs_on();
        Ok(result)
    }

    fn query_missing(&self, paths: &[DerivedPath]) -> Result<Missing, StoreError> {
        self.machines.query_missing(paths)
    }

    fn add_build_log(&self, drv: &StorePath, log: &mut dyn Read) -> Result<(), StoreError> {
        self.machines.add_build_log(drv, log)
    }

    fn collect_garbage(&self, request: &GcRequest, tell: Tell<'_>) -> Result<GcResult, StoreError> {
        self.machines.collect_garbage(request, tell)
    }

    fn optimise(&self, tell: Tell<'_>) -> Result<(), StoreError> {
        self.machines.optimise(tell)
    }

    fn verify(&self, request: VerifyRequest, tell: Tell<'_>) -> Result<bool, StoreError> {
        self.machines.verify(request, tell)
    }

    fn of_build(&self) -> Option<&dyn BuildStore> {
        None
    }
}
