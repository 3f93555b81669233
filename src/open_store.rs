//! The whole store, as a client of the daemon's sees it.
//!
//! What a client may not do because it is not trusted is refused before it comes here.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::{BufReader, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use droste_executor::{Executor, Settings, Unmonitored, chain};
use store_api::{
    BoxError, BuildMode, BuildObserver, BuildResult, BuildStore, ClientSettings, GcRequest,
    GcResult, KeyedBuildResult, MessageLevel, Missing, Roots, Store, StoreError, Tell,
    VerifyRequest,
};
use store_local::{
    DerivationTurn, EnteredRoots, GcAction, GcObserver, GcOptions, LocalError, LocalStore, Problem,
    SessionRoots,
};
use store_nar::HashModuloVariant;
use store_types::{
    BuildTraceEntry, BuildTraceKey, ContentAddressMethod, Derivation, DerivedPath, DrvOutput,
    HashAlgorithm, HashModulo, PathInfo, Realisation, StoreDir, StorePath,
};

/// How many temporary roots a client can ask for: more than a client of Nix's has reason to, which
/// gets one for all that it adds or builds unasked.
const ROOTS_OF_CLIENT_MAX: usize = 1 << 17;
/// How many all clients can: several hundred MB of paths at most.
const ROOTS_OF_CLIENTS_MAX: usize = 1 << 20;

/// How many of them there are.
static ROOTS_OF_CLIENTS: AtomicUsize = AtomicUsize::new(0);

/// Read ahead of what is added, in bytes.
const BUFFER_LEN: usize = 64 << 10;

/// A store without restrictions for one client, and the executor that builds in it.
pub struct OpenStore {
    executor: Arc<Executor>,
    /// What the client wants instead of the executor's own.
    settings: Mutex<Option<Arc<Settings>>>,
    /// How its own Nix hashes what refers to itself, if it has said so.
    self_references: Mutex<Option<HashModuloVariant>>,
    /// That holds for all builds, and not only for what the client gives whole.
    checks_all: AtomicBool,
    /// What is held for it.
    roots: SessionRoots,
    /// How many of those it has asked for.
    roots_asked_for: AtomicUsize,
}

impl Drop for OpenStore {
    fn drop(&mut self) {
        ROOTS_OF_CLIENTS.fetch_sub(*self.roots_asked_for.get_mut(), Ordering::Relaxed);
    }
}

/// Tells what a collection does, in Nix's words.
struct Course<'a> {
    dir: &'a StoreDir,
    tell: Tell<'a>,
}

impl GcObserver for Course<'_> {
    fn waiting(&mut self) {
        let text = "waiting for the big garbage collector lock...";
        (self.tell)(MessageLevel::Info, text);
    }

    fn deleting(&mut self, name: &OsStr) {
        let text = format!(
            "deleting '{}/{}'",
            self.dir.as_str(),
            name.to_string_lossy()
        );
        (self.tell)(MessageLevel::Info, &text);
    }
}

/// A size as Nix tells it, in KiB at least.
fn size(bytes: u64) -> String {
    let mut size = bytes as f64 / 1024.0;
    let mut units = "KMGTPE".chars();
    let mut unit = 'K';
    for next in units.by_ref() {
        unit = next;
        if size < 1024.0 {
            break;
        }
        if unit != 'E' {
            size /= 1024.0;
        }
    }
    format!("{size:.1} {unit}iB")
}

/// An error with what was being done.
fn failed<E: Into<BoxError>>(action: &str) -> impl FnOnce(E) -> StoreError {
    StoreError::failed(action.to_owned())
}

impl OpenStore {
    /// The store that this executor builds in.
    pub fn new(executor: Arc<Executor>) -> Self {
        let roots = executor.store().session_roots();
        Self {
            executor,
            settings: Mutex::default(),
            self_references: Mutex::default(),
            checks_all: AtomicBool::new(false),
            roots,
            roots_asked_for: AtomicUsize::new(0),
        }
    }

    /// What is done until the result is dropped holds paths for this client, until this store is
    /// dropped.
    pub(crate) fn hold_for_client(&self) -> EnteredRoots {
        self.roots.enter()
    }

    /// How the client wants things built, if it has said so.
    pub(crate) fn settings(&self) -> Option<Arc<Settings>> {
        let settings = self.settings.lock();
        settings.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How the client wants built what it gives whole, and checks.
    fn settings_for_given(&self) -> Option<Arc<Settings>> {
        let variant = self.self_references.lock();
        let variant = *variant.unwrap_or_else(PoisonError::into_inner);
        let settings = self.settings();
        let now = settings.as_deref().unwrap_or(self.executor.settings());
        match variant {
            Some(variant) if variant != now.self_references => Some(Arc::new(Settings {
                self_references: variant,
                ..now.clone()
            })),
            _ => settings,
        }
    }

    /// All that is built is checked by a Nix that takes hashes with offsets, or by one that does not.
    pub fn set_checked_by(&self, hashes_offsets: bool) {
        self.checks_all.store(true, Ordering::Relaxed);
        self.set_hashes_offsets(hashes_offsets);
    }

    fn store(&self) -> &LocalStore {
        self.executor.store()
    }

    /// By what an output is kept whose path is not known before it is built; of a derivation that
    /// is valid.
    fn realisation_id(&self, key: &BuildTraceKey) -> Result<Option<DrvOutput>, StoreError> {
        if !key.drv_path.is_derivation() || !self.is_valid_path(&key.drv_path)? {
            return Ok(None);
        }
        let turn = self.store().derivation_turn();
        let loaded = self.load_in(&turn, &key.drv_path)?;
        match loaded.outputs.get(&key.output_name) {
            Some(output) if output.path().is_none() => HashModulo::new(self.store_dir().clone())
                .realisation_id(&loaded, &key.output_name, |input| {
                    self.load_in(&turn, input)
                })
                .map_err(failed("hash a derivation")),
            _ => Ok(None),
        }
    }

    /// What is wrong with a path, in Nix's words.
    fn describe(&self, path: &StorePath, problem: &Problem) -> String {
        let path = self.store_dir().display(path);
        match problem {
            Problem::Missing { referrers } if referrers.is_empty() => {
                format!("path '{path}' disappeared")
            }
            Problem::Missing { .. } => {
                format!("path '{path}' disappeared, but it still has valid referrers!")
            }
            Problem::Modified { wanted, found } => format!(
                "path '{path}' was modified! expected hash '{}', got '{}'",
                wanted.to_prefixed_base32(),
                found.to_prefixed_base32()
            ),
            Problem::Unreadable(error) => {
                format!(
                    "\x1b[31;1merror:\x1b[0m cannot read path '{path}': {}",
                    chain(error)
                )
            }
            other => format!("path '{path}' is damaged: {other:?}"),
        }
    }

    fn check_valid(&self, path: &StorePath) -> Result<(), StoreError> {
        match self.is_valid_path(path)? {
            true => Ok(()),
            false => Err(StoreError::NotValid { path: path.clone() }),
        }
    }

    /// The derivation of a valid path.
    pub(crate) fn load(&self, drv: &StorePath) -> Result<Derivation, StoreError> {
        self.load_in(&self.store().derivation_turn(), drv)
    }

    fn load_in(
        &self,
        turn: &DerivationTurn<'_>,
        drv: &StorePath,
    ) -> Result<Derivation, StoreError> {
        match turn.read(drv) {
            Err(LocalError::NotValid { path }) => Err(StoreError::NotValid { path }),
            read => read.map_err(failed(&format!("read derivation `{drv}`"))),
        }
    }
}

#[deny(clippy::missing_trait_methods)]
impl Store for OpenStore {
    fn store_dir(&self) -> &StoreDir {
        self.executor.store_dir()
    }

    fn set_hashes_offsets(&self, client_does: bool) {
        let variant = match client_does {
            true => HashModuloVariant::WithOffsets,
            false => HashModuloVariant::WithoutOffsets,
        };
        let mut known = self.self_references.lock();
        *known
            .as_deref_mut()
            .unwrap_or_else(|poisoned| poisoned.get_mut()) = Some(variant);
    }

    fn set_settings(&self, wanted: &ClientSettings) -> Result<Vec<String>, StoreError> {
        let now = self.settings();
        let now = now.as_deref().unwrap_or(self.executor.settings());
        let (settings, warnings) = now.for_client(wanted);
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = Some(settings.into());
        Ok(warnings)
    }

    fn is_valid_path(&self, path: &StorePath) -> Result<bool, StoreError> {
        self.store().is_valid(path).map_err(failed("query a path"))
    }

    fn query_path_info(&self, path: &StorePath) -> Result<Option<PathInfo>, StoreError> {
        self.store().path_info(path).map_err(failed("query a path"))
    }

    fn query_valid_paths(
        &self,
        paths: &BTreeSet<StorePath>,
        _substitute: bool,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        self.store()
            .valid_among(paths)
            .map_err(failed("query paths"))
    }

    fn query_all_valid_paths(&self) -> Result<BTreeSet<StorePath>, StoreError> {
        self.store()
            .all_valid_paths()
            .map_err(failed("query all paths"))
    }

    fn query_substitutable_paths(
        &self,
        _paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        Ok(BTreeSet::new())
    }

    fn query_referrers(&self, path: &StorePath) -> Result<BTreeSet<StorePath>, StoreError> {
        self.store()
            .referrers(path)
            .map_err(failed("query referrers"))
    }

    fn query_path_from_hash_part(&self, hash_part: &str) -> Result<Option<StorePath>, StoreError> {
        self.store()
            .path_from_hash_part(hash_part)
            .map_err(failed("query a hash part"))
    }

    fn query_valid_derivers(&self, path: &StorePath) -> Result<BTreeSet<StorePath>, StoreError> {
        self.store()
            .valid_derivers(path)
            .map_err(failed("query derivers"))
    }

    fn query_derivation_output_map(
        &self,
        drv: &StorePath,
    ) -> Result<BTreeMap<String, Option<StorePath>>, StoreError> {
        let turn = self.store().derivation_turn();
        let loaded = self.load_in(&turn, drv)?;
        let mut modulo = HashModulo::new(self.store_dir().clone());
        let mut outputs = BTreeMap::new();
        for (name, output) in &loaded.outputs {
            let path = match output.path() {
                Some(path) => Some(path.clone()),
                None => {
                    let id = modulo
                        .realisation_id(&loaded, name, |input| self.load_in(&turn, input))
                        .map_err(failed("hash a derivation"))?;
                    let realisation = id.map(|id| self.query_realisation(&id)).transpose()?;
                    realisation
                        .flatten()
                        .map(|realisation| realisation.out_path)
                }
            };
            outputs.insert(name.clone(), path);
        }
        Ok(outputs)
    }

    fn query_realisation(&self, id: &DrvOutput) -> Result<Option<Realisation>, StoreError> {
        self.store()
            .query_realisation(id)
            .map_err(failed("query a realisation"))
    }

    fn register_realisation(&self, realisation: &Realisation) -> Result<(), StoreError> {
        self.store()
            .register_realisation(realisation)
            .map_err(failed("register a realisation"))
    }

    /// Of a valid derivation, from what is kept by its hash, too.
    fn query_build_trace(
        &self,
        key: &BuildTraceKey,
    ) -> Result<Option<BuildTraceEntry>, StoreError> {
        let entry = self
            .store()
            .query_build_trace(key)
            .map_err(failed("query a realisation"))?;
        if entry.is_some() {
            return Ok(entry);
        }
        let realisation = match self.realisation_id(key)? {
            Some(id) => self.query_realisation(&id)?,
            None => None,
        };
        // Signatures of the hash say nothing of the path.
        Ok(realisation
            .map(|realisation| BuildTraceEntry::unsigned(key.clone(), realisation.out_path)))
    }

    /// Kept where Nix since 2.35 looks, and by the hash of the derivation, if both paths are valid.
    fn register_build_trace(&self, entry: &BuildTraceEntry) -> Result<(), StoreError> {
        if let Some(id) = self.realisation_id(&entry.key)?
            && (self.is_valid_path(&entry.out_path)? || self.query_realisation(&id)?.is_some())
        {
            self.register_realisation(&Realisation::unsigned(id, entry.out_path.clone()))?;
        }
        self.store()
            .keep_build_trace(entry)
            .map_err(failed("register a realisation"))
    }

    fn nar_from_path(&self, path: &StorePath, mut out: &mut dyn Write) -> Result<(), StoreError> {
        self.check_valid(path)?;
        self.store()
            .dump(path, &mut out)
            .map_err(failed("read an object"))
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
        let _roots = self.hold_for_client();
        self.executor.collect_if_needed(&Unmonitored);
        let mut dump = BufReader::with_capacity(BUFFER_LEN, dump);
        let info = self
            .store()
            .add_addressed(name, method, algorithm, references, repair, &mut dump)
            .map_err(failed("add an object"))?;
        std::io::copy(&mut dump, &mut std::io::sink())
            .map_err(StoreError::io("read an object to its end"))?;
        Ok(info)
    }

    fn add_nar(
        &self,
        info: &PathInfo,
        repair: bool,
        check_signatures: bool,
        nar: &mut dyn Read,
    ) -> Result<(), StoreError> {
        let _roots = self.hold_for_client();
        // What is not content-addressed needs the signature of a key that is trusted here, or
        // a client that says it has checked it.
        let settings = self.settings();
        let settings = settings.as_deref().unwrap_or(self.executor.settings());
        let needs_signature = check_signatures && settings.requires_signatures();
        if needs_signature
            && info.ca.is_none()
            && !info.is_signed_by(self.store_dir(), &settings.trusted_public_keys)
            && (repair || !self.is_valid_path(&info.path)?)
        {
            return Err(StoreError::Untrusted {
                path: info.path.clone(),
            });
        }
        let _roots = self.hold_for_client();
        self.executor.collect_if_needed(&Unmonitored);
        self.store()
            .add_nar_with(info, repair, nar)
            .map_err(failed("add an object"))
    }

    fn add_signatures(&self, path: &StorePath, signatures: &[String]) -> Result<(), StoreError> {
        self.store()
            .add_signatures(path, signatures)
            .map_err(failed("add signatures"))
    }

    fn ensure_path(&self, path: &StorePath) -> Result<(), StoreError> {
        self.check_valid(path)
    }

    fn add_temp_root(&self, path: &StorePath) -> Result<(), StoreError> {
        let _roots = self.hold_for_client();
        if !self.roots.contains(path) {
            let too_many = || StoreError::BadRequest {
                what: "there are too many temporary roots already".to_owned(),
            };
            if self.roots_asked_for.load(Ordering::Relaxed) >= ROOTS_OF_CLIENT_MAX {
                return Err(too_many());
            }
            if ROOTS_OF_CLIENTS.fetch_add(1, Ordering::Relaxed) >= ROOTS_OF_CLIENTS_MAX {
                ROOTS_OF_CLIENTS.fetch_sub(1, Ordering::Relaxed);
                return Err(too_many());
            }
            self.roots_asked_for.fetch_add(1, Ordering::Relaxed);
        }
        self.store()
            .add_temp_root(path)
            .map_err(failed("add a temporary root"))
    }

    fn add_indirect_root(&self, link: &Path) -> Result<(), StoreError> {
        let _roots = self.hold_for_client();
        self.store()
            .add_indirect_root(link)
            .map_err(failed("add a root"))
    }

    fn add_perm_root(&self, path: &StorePath, link: &Path) -> Result<(), StoreError> {
        let _roots = self.hold_for_client();
        self.store()
            .add_perm_root(path, link)
            .map_err(failed("add a root"))
    }

    fn find_roots(&self, censor: bool) -> Result<Roots, StoreError> {
        self.store()
            .find_roots(censor)
            .map_err(failed("find roots"))
    }

    fn build_paths(
        &self,
        paths: &[DerivedPath],
        mode: BuildMode,
        observer: &mut dyn BuildObserver,
    ) -> Result<Vec<KeyedBuildResult>, StoreError> {
        let _roots = self.hold_for_client();
        let settings = match self.checks_all.load(Ordering::Relaxed) {
            true => self.settings_for_given(),
            false => self.settings(),
        };
        self.executor
            .build_as_wanted(settings.as_deref(), paths, mode, observer)
    }

    fn build_derivation(
        &self,
        drv_path: &StorePath,
        derivation: &Derivation,
        mode: BuildMode,
        observer: &mut dyn BuildObserver,
    ) -> Result<BuildResult, StoreError> {
        let _roots = self.hold_for_client();
        let settings = self.settings_for_given();
        Ok(self.executor.build_given_for_client(
            settings.as_deref(),
            drv_path,
            derivation,
            mode,
            observer,
        ))
    }

    fn query_missing(&self, paths: &[DerivedPath]) -> Result<Missing, StoreError> {
        let _roots = self.hold_for_client();
        self.executor.missing(paths)
    }

    fn add_build_log(&self, drv: &StorePath, log: &mut dyn Read) -> Result<(), StoreError> {
        self.store()
            .add_build_log(drv, log)
            .map_err(failed("keep a log"))
    }

    fn collect_garbage(&self, request: &GcRequest, tell: Tell<'_>) -> Result<GcResult, StoreError> {
        let action = match request.action {
            store_api::GcAction::ReturnLive => GcAction::ReturnLive,
            store_api::GcAction::ReturnDead => GcAction::ReturnDead,
            store_api::GcAction::DeleteDead => GcAction::DeleteDead,
            store_api::GcAction::DeleteSpecific => GcAction::DeleteSpecific,
        };
        let settings = self.settings();
        let nix = &settings.as_deref().unwrap_or(self.executor.settings()).nix;
        let options = GcOptions {
            paths_to_delete: request.paths_to_delete.clone(),
            ignore_liveness: request.ignore_liveness,
            max_freed_bytes: request.max_freed_bytes,
            keep_outputs: nix.flag("keep-outputs"),
            keep_derivations: nix.flag("keep-derivations"),
            ..GcOptions::new(action)
        };
        if !request.ignore_liveness {
            tell(MessageLevel::Info, "finding garbage collector roots...");
        }
        let deletes = match action {
            GcAction::DeleteDead => {
                tell(MessageLevel::Info, "deleting garbage...");
                true
            }
            GcAction::DeleteSpecific => true,
            GcAction::ReturnLive | GcAction::ReturnDead => {
                tell(MessageLevel::Info, "determining live/dead paths...");
                false
            }
        };
        let mut course = Course {
            dir: self.store_dir(),
            tell,
        };
        let report = self
            .store()
            .collect_garbage(&options, &mut course)
            .map_err(|error| match error {
                LocalError::StillAlive { path, keeper } => {
                    let keeper = keeper.map(|path| {
                        let path = self.store_dir().display(&path);
                        format!("; it is needed by '{path}'")
                    });
                    // Nix's words, and what it does not say.
                    let why = format!(
                        "Cannot delete path '{}' since it is still alive. To find out why, use: \
                         nix-store --query --roots and nix-store --query --referrers{}",
                        self.store_dir().display(&path),
                        keeper.unwrap_or_default()
                    );
                    StoreError::BadRequest { what: why }
                }
                error => failed("collect garbage")(error),
            })?;
        if deletes {
            (course.tell)(MessageLevel::Info, "deleting unused links...");
            let saved = size(report.links_save_bytes);
            let note = format!("note: hard linking is currently saving {saved}");
            (course.tell)(MessageLevel::Info, &note);
        }
        if let Some(failure) = report.failures.into_iter().next() {
            return Err(failed("collect garbage")(failure));
        }
        Ok(GcResult {
            paths: report.paths,
            bytes_freed: report.bytes_freed,
        })
    }

    fn optimise(&self, tell: Tell<'_>) -> Result<(), StoreError> {
        let _roots = self.hold_for_client();
        let report = self
            .store()
            .optimise(&mut |_| false)
            .map_err(failed("optimise the store"))?;
        let freed = size(report.bytes_freed);
        let text = format!(
            "{freed} freed by hard-linking {} files",
            report.files_linked
        );
        tell(MessageLevel::Info, &text);
        Ok(())
    }

    fn verify(&self, request: VerifyRequest, tell: Tell<'_>) -> Result<bool, StoreError> {
        let _roots = self.hold_for_client();
        tell(MessageLevel::Info, "reading the Nix store...");
        tell(MessageLevel::Info, "checking path existence...");
        if request.check_contents {
            tell(MessageLevel::Info, "checking link hashes...");
            tell(MessageLevel::Info, "checking store hashes...");
        }
        let report = self
            .store()
            .verify(request.check_contents)
            .map_err(failed("verify the store"))?;
        for link in &report.links {
            let link = self.store().physical_dir().join(".links").join(link);
            tell(
                MessageLevel::Error,
                &format!("link '{}' was modified!", link.display()),
            );
        }
        for (path, problem) in &report.problems {
            tell(MessageLevel::Error, &self.describe(path, problem));
        }
        if !request.repair {
            return Ok(!report.is_sound());
        }
        let repaired = self
            .executor
            .repair(&report, &Unmonitored)
            .map_err(failed("repair the store"))?;
        for (path, error) in &repaired.failures {
            let (path, why) = (self.store_dir().display(path), chain(error));
            let text = format!("\x1b[31;1merror:\x1b[0m cannot repair path '{path}'\n       {why}");
            tell(MessageLevel::Error, &text);
        }
        Ok(!repaired.failures.is_empty())
    }

    fn of_build(&self) -> Option<&dyn BuildStore> {
        None
    }
}
