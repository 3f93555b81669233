//! The store as a build with `recursive-nix` or `builder-rpc-v0` sees it through its socket.
//!
//! A build may see its input closure, what it adds, and what is built for it, and
//! nothing else; whatever it asks beyond that is refused or answered as if it were
//! not there. Every reference in what it adds must be to something it may see:
//! Nix checks only that it is valid, so that a build could read any path of the
//! store through a derivation of its own making.
//!
//! Source: nix `src/libstore/restricted-store.cc`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use store_api::{
    BoxError, BuildMode, BuildObserver, BuildProgress, BuildResult, BuildStatus, BuildStore,
    BuilderMessage, ClientSettings, GcRequest, GcResult, KeyedBuildResult, Missing, Roots, Store,
    StoreError, Tell, VerifyRequest,
};
use store_local::{EnteredRoots, SessionRoots};
use store_nar::RefScanner;
use store_types::{
    BuildTraceEntry, BuildTraceKey, ContentAddressMethod, Derivation, DerivationKind,
    DerivationOutput, DerivedPath, DrvOutput, HashAlgorithm, OutputsSpec, PathInfo, Realisation,
    SingleDerivedPath, StoreDir, StorePath,
};

use crate::attempt::options;
use crate::build_dir::BuildDir;
use crate::child::service::listen;
use crate::context::BuildContext;
use crate::error::{BuildError, environment, in_quotes};
use crate::jobs::{Job, Share};
use crate::unit::UnitOutcome;
use crate::users::BuildUser;
use crate::{Executor, Monitor, Settings};

/// The socket's name in the build directory.
pub(crate) const SOCKET: &str = ".nix-socket";

/// A build, as its socket sees it.
pub(crate) struct OuterBuild {
    pub(crate) context: Arc<BuildContext>,
    pub(crate) job: Arc<Job>,
    /// The outputs that it may submit: for each the name of its path, and what it must be.
    pub(crate) outputs: BTreeMap<String, (String, DerivationOutput)>,
    /// Whether it may ask for builds, and for all that there is besides.
    pub(crate) builds_inside: bool,
}

/// The open socket of one build.
pub(crate) struct Recursive {
    served: Box<dyn Send + Sync>,
}

impl Recursive {
    /// Closes the socket and its connections.
    pub(crate) fn stop(self) {
        drop(self.served);
    }
}

impl Executor {
    /// Opens the socket of a build that requires `recursive-nix` or `builder-rpc-v0`.
    pub(crate) fn open_recursive(
        self: &Arc<Self>,
        text: &str,
        dir: &BuildDir,
        user: &BuildUser,
        build: OuterBuild,
    ) -> Result<Recursive, BuildError> {
        let open = || -> std::io::Result<Recursive> {
            let socket = dir.build().join(SOCKET);
            let listener = listen(&socket)?;
            if rustix::process::geteuid().is_root() {
                std::os::unix::fs::lchown(socket, Some(user.uid), Some(user.gid))?;
            }
            let store = Arc::new(RestrictedStore {
                executor: self.clone(),
                build,
                realisations: Mutex::default(),
                roots: SessionRoots::of_thread(),
            });
            Ok(Recursive {
                served: (self.serve_store)(listener, store)?,
            })
        };
        open().map_err(environment(text, "open the socket for recursive builds"))
    }
}

/// How many derivations may have to be made within each other before it is known what a
/// build asks for. Each is made by what was checked before.
const CHECK_DEPTH_MAX: usize = 64;

/// What of a request was checked.
#[derive(Default)]
struct Checked {
    seen: BTreeSet<SingleDerivedPath>,
    depth: usize,
}

/// What one build may see of the store.
struct RestrictedStore {
    executor: Arc<Executor>,
    build: OuterBuild,
    /// What was built through this socket.
    realisations: Mutex<BTreeMap<DrvOutput, Realisation>>,
    /// For whom the build is made, if for a client: all that is made for it is held as long.
    roots: Option<SessionRoots>,
}

fn failed<E: Into<BoxError>>(action: &str) -> impl FnOnce(E) -> StoreError {
    StoreError::failed(action.to_owned())
}

impl RestrictedStore {
    fn refuse<T>(&self, operation: &'static str) -> Result<T, StoreError> {
        Err(StoreError::Refused { operation })
    }

    fn hold_for_client(&self) -> Option<EnteredRoots> {
        self.roots.as_ref().map(SessionRoots::enter)
    }

    fn check_allowed(&self, path: &StorePath) -> Result<(), StoreError> {
        if self.build.context.is_allowed(path) {
            Ok(())
        } else {
            Err(StoreError::NotValid { path: path.clone() })
        }
    }

    fn check_references(
        &self,
        references: &BTreeSet<StorePath>,
        own: Option<&StorePath>,
    ) -> Result<(), StoreError> {
        references
            .iter()
            .filter(|path| Some(*path) != own)
            .try_for_each(|path| self.check_allowed(path))
    }

    /// Shows the build a path that has become valid for it.
    fn show(&self, path: &StorePath) -> Result<(), StoreError> {
        let closure = self
            .executor
            .store
            .closure(std::slice::from_ref(path))
            .map_err(failed("query the closure of a new path"))?;
        self.build
            .context
            .allow(&closure)
            .map_err(failed("show the build a new path"))
    }

    /// What the build is told of a path: nothing that it could not know.
    fn censor(info: PathInfo) -> PathInfo {
        PathInfo {
            deriver: None,
            registration_time: 0,
            ultimate: false,
            signatures: Vec::new(),
            ..info
        }
    }

    /// Checks that a derivation, and all that it depends on, reads only what the
    /// build may see, and that none of it reaches the network for the build.
    ///
    /// What is an output of a derivation is made for that, as it is for the build that
    /// follows: only then is it known what it reads.
    fn check_derivation(
        &self,
        drv: &SingleDerivedPath,
        checked: &mut Checked,
        observer: &mut dyn BuildObserver,
    ) -> Result<(), StoreError> {
        checked.depth += 1;
        if checked.depth > CHECK_DEPTH_MAX {
            let what = format!(
                "more than {CHECK_DEPTH_MAX} derivations would have to be made one after the \
                 other to know what `{}` is",
                drv.display(self.store_dir())
            );
            return Err(StoreError::BadRequest { what });
        }
        let mut todo = vec![drv.clone()];
        while let Some(path) = todo.pop() {
            if !checked.seen.insert(path.clone()) {
                continue;
            }
            let path = match path.split_last() {
                None => path.base,
                Some((outer, output)) => self.make(&outer, output, checked, observer)?,
            };
            self.check_allowed(&path)?;
            let drv = self
                .executor
                .load(&path)
                .map_err(failed("read a derivation"))?;
            for input in &drv.input_srcs {
                self.check_allowed(input)?;
            }
            let sandboxed = drv.kind().is_ok_and(DerivationKind::is_sandboxed);
            let known = self
                .executor
                .known_outputs(&path, &drv)
                .map_err(failed("query the store"))?;
            let all_valid = drv.outputs.keys().all(|output| known.contains_key(output));
            if all_valid {
                continue;
            }
            if !sandboxed {
                return Err(StoreError::PathRefused {
                    operation: "build a derivation with access to the network",
                    path,
                });
            }
            let text = self.store_dir().display(&path);
            let asked = options(&text, &drv).map_err(failed("read a derivation"))?;
            if asked.no_chroot || !asked.impure_host_deps.is_empty() {
                // `sandbox = relaxed` is meant for what the machine's user builds.
                return Err(StoreError::PathRefused {
                    operation: "build a derivation that asks for more than a sandbox has",
                    path,
                });
            }
            todo.extend(drv.inputs().into_iter().map(|(input, _)| input));
        }
        checked.depth -= 1;
        Ok(())
    }

    /// Makes an output that is to be a derivation.
    fn make(
        &self,
        outer: &SingleDerivedPath,
        output: &str,
        checked: &mut Checked,
        observer: &mut dyn BuildObserver,
    ) -> Result<StorePath, StoreError> {
        self.check_derivation(outer, checked, observer)?;
        let wanted = [DerivedPath::Built {
            drv: outer.clone(),
            outputs: OutputsSpec::Names([output.to_owned()].into()),
        }];
        let results = self.build_checked(&wanted, observer)?;
        let result = results.into_iter().next().map(|keyed| keyed.result);
        let text = outer.output(output).display(self.store_dir());
        let lost = || StoreError::BadRequest {
            what: format!("failed to obtain derivation of `{text}`"),
        };
        let mut result = result.ok_or_else(lost)?;
        match result.built_outputs.remove(output) {
            Some(realisation) if realisation.out_path.is_derivation() => Ok(realisation.out_path),
            Some(realisation) => Err(StoreError::BadRequest {
                what: format!("`{text}` is no derivation, but `{}`", realisation.out_path),
            }),
            None if result.error_msg.is_empty() => Err(lost()),
            None => Err(StoreError::Failed {
                action: format!("obtain derivation of `{text}`"),
                source: result.error_msg.into(),
            }),
        }
    }

    /// Builds what was checked before, and shows the build what came of it.
    fn build_checked(
        &self,
        paths: &[DerivedPath],
        observer: &mut dyn BuildObserver,
    ) -> Result<Vec<KeyedBuildResult>, StoreError> {
        let executor = &self.executor;
        let mode = BuildMode::Normal;
        let results =
            executor.build_with_share(self.build.job.share(), None, paths, mode, observer)?;
        for result in &results {
            for realisation in result.result.built_outputs.values() {
                self.show(&realisation.out_path)?;
                let mut realisations = self
                    .realisations
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                realisations.insert(realisation.id.clone(), realisation.clone());
            }
        }
        Ok(results)
    }
}

/// What a client is told of an outcome.
fn for_client(outcome: &UnitOutcome) -> BuildResult {
    let mut result = outcome.result.clone();
    result.error_msg = match &outcome.error {
        Some(error) if error.chain() == result.error_msg => error.for_client(),
        // It has the words of another.
        _ => in_quotes(&result.error_msg),
    };
    result
}

/// Passes what happens to a protocol client's observer.
struct ForwardTo<'a> {
    settings: Option<&'a Settings>,
    observer: Mutex<&'a mut dyn BuildObserver>,
}

impl Monitor for ForwardTo<'_> {
    fn started(&self, drv: &StorePath, mode: BuildMode) {
        self.observer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .started(drv, mode);
    }

    fn resolved(&self, drv: &StorePath, resolved: &StorePath) {
        self.observer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .resolved(drv, resolved);
    }

    fn log_line(&self, drv: &StorePath, line: &[u8]) {
        self.observer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .log_line(drv, line);
    }

    fn builder_message(&self, drv: &StorePath, message: &BuilderMessage, _line: &[u8]) {
        self.observer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .builder_message(drv, message);
    }

    fn progress(&self, progress: BuildProgress) {
        self.observer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .progress(progress);
    }

    fn dependency_failed(&self, outcome: &UnitOutcome) {
        self.observer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .dependency_failed(&for_client(outcome).error_msg);
    }

    fn outputs_made(&self, outputs: &BTreeSet<StorePath>) -> Result<(), StoreError> {
        self.observer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .outputs_made(outputs)
    }

    fn post_build_line(&self, drv: &StorePath, line: &[u8]) {
        self.observer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .post_build_line(drv, line);
    }

    fn finished(&self, outcome: &UnitOutcome) {
        if let Some(started) = &outcome.started {
            let mut observer = self.observer.lock().unwrap_or_else(PoisonError::into_inner);
            observer.finished(started, &outcome.result);
        }
    }

    fn note(&self, text: &str) {
        self.observer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .note(text);
    }

    fn settings(&self) -> Option<&Settings> {
        self.settings
    }

    fn is_cancelled(&self) -> bool {
        self.observer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_cancelled()
    }
}

impl Executor {
    /// Builds for a client of the worker protocol: one result for each path that was
    /// asked for, in that order.
    pub fn build_for_client(
        self: &Arc<Self>,
        paths: &[DerivedPath],
        mode: BuildMode,
        observer: &mut dyn BuildObserver,
    ) -> Result<Vec<KeyedBuildResult>, StoreError> {
        self.build_as_wanted(None, paths, mode, observer)
    }

    /// The same, as this client wants it.
    pub fn build_as_wanted(
        self: &Arc<Self>,
        settings: Option<&Settings>,
        paths: &[DerivedPath],
        mode: BuildMode,
        observer: &mut dyn BuildObserver,
    ) -> Result<Vec<KeyedBuildResult>, StoreError> {
        let jobs_max = settings.unwrap_or(&self.settings).max_jobs;
        let share = self.jobs.share(jobs_max);
        self.build_with_share(share, settings, paths, mode, observer)
    }

    fn build_with_share(
        self: &Arc<Self>,
        share: Share,
        settings: Option<&Settings>,
        paths: &[DerivedPath],
        mode: BuildMode,
        observer: &mut dyn BuildObserver,
    ) -> Result<Vec<KeyedBuildResult>, StoreError> {
        let monitor = ForwardTo {
            settings,
            observer: Mutex::new(observer),
        };
        // What no derivation makes is there, or fails for itself.
        let mut missing = BTreeSet::new();
        let mut wanted = Vec::with_capacity(paths.len());
        for path in paths {
            match path {
                DerivedPath::Opaque(opaque) => {
                    if !self
                        .store
                        .is_valid(opaque)
                        .map_err(failed("query a path"))?
                    {
                        missing.insert(opaque);
                    }
                }
                DerivedPath::Built { .. } => wanted.push(path.clone()),
            }
        }
        let outcomes = self
            .build_with(share, &wanted, mode, &monitor)
            .map_err(failed("build"))?;
        let by_drv: BTreeMap<&SingleDerivedPath, &UnitOutcome> = outcomes
            .iter()
            .map(|outcome| (&outcome.drv, outcome))
            .collect();
        Ok(paths
            .iter()
            .map(|path| {
                let result = match path {
                    DerivedPath::Opaque(path) if missing.contains(path) => BuildResult::new(
                        BuildStatus::NoSubstituters,
                        format!(
                            "path '{}' is required, but there is no substituter that can build it",
                            self.store_dir().display(path)
                        ),
                    ),
                    DerivedPath::Opaque(_) => BuildResult::new(BuildStatus::AlreadyValid, ""),
                    DerivedPath::Built { drv, outputs } => match by_drv.get(drv) {
                        Some(outcome) => {
                            let mut result = for_client(outcome);
                            result
                                .built_outputs
                                .retain(|name, _| outputs.contains(name));
                            result
                        }
                        None => BuildResult::new(BuildStatus::MiscFailure, "the build was lost"),
                    },
                };
                KeyedBuildResult {
                    path: path.clone(),
                    result,
                }
            })
            .collect())
    }
}

impl Executor {
    /// Builds for a trusted client a derivation without input derivations that it gives, as it
    /// is. What it reads must be valid.
    pub fn build_given_for_client(
        self: &Arc<Self>,
        settings: Option<&Settings>,
        drv_path: &StorePath,
        drv: &Derivation,
        mode: BuildMode,
        observer: &mut dyn BuildObserver,
    ) -> BuildResult {
        let monitor = ForwardTo {
            settings,
            observer: Mutex::new(observer),
        };
        let outcome = self.realise_given(drv_path, drv, mode, &monitor);
        monitor.finished(&outcome);
        for_client(&outcome)
    }
}

impl Store for RestrictedStore {
    fn store_dir(&self) -> &StoreDir {
        self.executor.store_dir()
    }

    /// All clients of a build share its view, and none of them may change how its inner builds
    /// are built; as in Nix.
    fn set_settings(&self, _settings: &ClientSettings) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    /// All that is made for a build is hashed in one way.
    fn set_hashes_offsets(&self, _client_does: bool) {}

    fn is_valid_path(&self, path: &StorePath) -> Result<bool, StoreError> {
        Ok(self.build.context.is_allowed(path))
    }

    fn query_path_info(&self, path: &StorePath) -> Result<Option<PathInfo>, StoreError> {
        if !self.build.context.is_allowed(path) {
            return Ok(None);
        }
        let info = self
            .executor
            .store
            .path_info(path)
            .map_err(failed("query a path"))?;
        Ok(info.map(Self::censor))
    }

    fn query_valid_paths(
        &self,
        paths: &BTreeSet<StorePath>,
        _substitute: bool,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        Ok(paths
            .iter()
            .filter(|path| self.build.context.is_allowed(path))
            .cloned()
            .collect())
    }

    fn query_all_valid_paths(&self) -> Result<BTreeSet<StorePath>, StoreError> {
        Ok(self.build.context.allowed())
    }

    fn query_substitutable_paths(
        &self,
        _paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        Ok(BTreeSet::new())
    }

    fn query_referrers(&self, _path: &StorePath) -> Result<BTreeSet<StorePath>, StoreError> {
        Ok(BTreeSet::new())
    }

    fn query_path_from_hash_part(&self, _hash_part: &str) -> Result<Option<StorePath>, StoreError> {
        self.refuse("query a path by its hash part")
    }

    fn query_valid_derivers(&self, _path: &StorePath) -> Result<BTreeSet<StorePath>, StoreError> {
        Ok(BTreeSet::new())
    }

    fn query_derivation_output_map(
        &self,
        drv: &StorePath,
    ) -> Result<BTreeMap<String, Option<StorePath>>, StoreError> {
        let _roots = self.hold_for_client();
        self.check_allowed(drv)?;
        let loaded = self
            .executor
            .load(drv)
            .map_err(failed("read a derivation"))?;
        let mut known = self
            .executor
            .known_outputs(drv, &loaded)
            .map_err(failed("query the store"))?;
        Ok(loaded
            .outputs
            .iter()
            .map(|(name, output)| {
                let path = output.path().cloned();
                // What a floating output turned out to be is known to whom it was built for.
                let path = path.or_else(|| {
                    known
                        .remove(name)
                        .filter(|path| self.build.context.is_allowed(path))
                });
                (name.clone(), path)
            })
            .collect())
    }

    fn query_realisation(&self, id: &DrvOutput) -> Result<Option<Realisation>, StoreError> {
        Ok(self
            .realisations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(id)
            .cloned())
    }

    fn register_realisation(&self, _realisation: &Realisation) -> Result<(), StoreError> {
        self.refuse("register a realisation")
    }

    fn query_build_trace(
        &self,
        key: &BuildTraceKey,
    ) -> Result<Option<BuildTraceEntry>, StoreError> {
        let mut outputs = self.query_derivation_output_map(&key.drv_path)?;
        let out_path = outputs.remove(&key.output_name).flatten();
        Ok(out_path.map(|out_path| BuildTraceEntry::unsigned(key.clone(), out_path)))
    }

    fn register_build_trace(&self, _entry: &BuildTraceEntry) -> Result<(), StoreError> {
        self.refuse("register a realisation")
    }

    fn nar_from_path(&self, path: &StorePath, out: &mut dyn Write) -> Result<(), StoreError> {
        self.check_allowed(path)?;
        self.executor
            .store
            .dump(path, out)
            .map_err(failed("read a path"))
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
        if repair {
            return self.refuse("repair a path");
        }
        self.check_references(references, None)?;
        let info = self
            .executor
            .store
            .add_content_addressed(name, method, algorithm, references, dump)
            .map_err(failed("add a path"))?;
        self.show(&info.path)?;
        Ok(Self::censor(info))
    }

    fn add_nar(
        &self,
        info: &PathInfo,
        repair: bool,
        _check_signatures: bool,
        nar: &mut dyn Read,
    ) -> Result<(), StoreError> {
        let _roots = self.hold_for_client();
        if repair {
            return self.refuse("repair a path");
        }
        self.check_references(&info.references, Some(&info.path))?;
        // Only what proves itself: a build has no trusted signatures.
        let Some(ca) = &info.ca else {
            return Err(StoreError::Untrusted {
                path: info.path.clone(),
            });
        };
        let expected = self
            .store_dir()
            .content_addressed_path(info.path.name(), ca, &info.references_apart_from_self())
            .map_err(failed("compute the path of an object"))?;
        if expected != info.path {
            return Err(StoreError::BadRequest {
                what: format!("`{}` is not the path of its content address", info.path),
            });
        }
        if info.references.contains(&info.path) {
            return self.refuse("add a path that refers to itself");
        }
        // The content address is recomputed from the content, whatever was said of it.
        let info = Self::censor(info.clone());
        self.executor
            .store
            .add_nar(&info, nar)
            .map_err(failed("add a path"))?;
        self.show(&info.path)
    }

    fn add_signatures(&self, _path: &StorePath, _signatures: &[String]) -> Result<(), StoreError> {
        self.refuse("add signatures")
    }

    fn ensure_path(&self, path: &StorePath) -> Result<(), StoreError> {
        self.check_allowed(path)
    }

    fn add_temp_root(&self, _path: &StorePath) -> Result<(), StoreError> {
        // All that the build may see is held by the executor as long as it runs.
        Ok(())
    }

    fn add_indirect_root(&self, _link: &Path) -> Result<(), StoreError> {
        Ok(())
    }

    fn add_perm_root(&self, _path: &StorePath, _link: &Path) -> Result<(), StoreError> {
        self.refuse("make a root")
    }

    fn find_roots(&self, _censor: bool) -> Result<Roots, StoreError> {
        Ok(Roots::new())
    }

    fn build_paths(
        &self,
        paths: &[DerivedPath],
        mode: BuildMode,
        observer: &mut dyn BuildObserver,
    ) -> Result<Vec<KeyedBuildResult>, StoreError> {
        let _roots = self.hold_for_client();
        if mode != BuildMode::Normal {
            return self.refuse("repair or check a build");
        }
        let _waiting = self.build.job.wait();
        let mut checked = Checked::default();
        for path in paths {
            match path {
                DerivedPath::Opaque(path) => self.check_allowed(path)?,
                DerivedPath::Built { drv, .. } => {
                    self.check_derivation(drv, &mut checked, observer)?;
                }
            }
        }
        self.build_checked(paths, observer)
    }

    fn build_derivation(
        &self,
        _drv_path: &StorePath,
        _derivation: &Derivation,
        _mode: BuildMode,
        _observer: &mut dyn BuildObserver,
    ) -> Result<BuildResult, StoreError> {
        let _roots = self.hold_for_client();
        self.refuse("build a derivation that is not in the store")
    }

    fn query_missing(&self, paths: &[DerivedPath]) -> Result<Missing, StoreError> {
        let _roots = self.hold_for_client();
        let is_allowed = |path: &&DerivedPath| self.build.context.is_allowed(path.base_path());
        let (allowed, others): (Vec<_>, Vec<_>) = paths.iter().partition(is_allowed);
        let allowed: Vec<DerivedPath> = allowed.into_iter().cloned().collect();
        let mut missing = self.executor.missing(&allowed)?;
        // What an output turned out to be is known to whom it was built for.
        missing
            .will_build
            .retain(|path| self.build.context.is_allowed(path));
        missing
            .unknown
            .extend(others.into_iter().map(|path| path.base_path().clone()));
        Ok(missing)
    }

    fn add_build_log(&self, _drv: &StorePath, _log: &mut dyn Read) -> Result<(), StoreError> {
        self.refuse("add a build log")
    }

    fn collect_garbage(
        &self,
        _request: &GcRequest,
        _tell: Tell<'_>,
    ) -> Result<GcResult, StoreError> {
        Ok(GcResult::default())
    }

    /// There is nothing to do for who sees only this, as in Nix.
    fn optimise(&self, _tell: Tell<'_>) -> Result<(), StoreError> {
        Ok(())
    }

    /// Nothing is wrong with what is seen here, as in Nix.
    fn verify(&self, _request: VerifyRequest, _tell: Tell<'_>) -> Result<bool, StoreError> {
        Ok(false)
    }

    fn of_build(&self) -> Option<&dyn BuildStore> {
        Some(self)
    }
}

impl BuildStore for RestrictedStore {
    fn builds_inside(&self) -> bool {
        self.build.builds_inside
    }

    fn submits(&self) -> bool {
        !self.build.outputs.is_empty()
    }

    fn add_scanning(
        &self,
        name: &str,
        method: ContentAddressMethod,
        algorithm: HashAlgorithm,
        dump: &mut dyn Read,
    ) -> Result<PathInfo, StoreError> {
        let io = |action: &str| StoreError::io(format!("{action} `{name}`"));
        let dir = self
            .executor
            .make_scratch_dir(name)
            .map_err(failed("make a directory for what is added"))?;
        let mut file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(dir.path().join("dump"))
            .map_err(io("keep"))?;
        let mut scanner = RefScanner::new(&self.build.context.allowed());
        let mut bytes = vec![0; 64 << 10];
        loop {
            let len = match dump.read(&mut bytes) {
                Ok(0) => break,
                Ok(len) => len,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(io("read")(error)),
            };
            scanner.write_all(&bytes[..len]).map_err(io("scan"))?;
            file.write_all(&bytes[..len]).map_err(io("keep"))?;
        }
        file.rewind().map_err(io("keep"))?;
        let references = scanner.into_found();
        self.add_content_addressed(name, method, algorithm, &references, false, &mut file)
    }

    fn submit_output(&self, path: &SingleDerivedPath, output: &str) -> Result<(), StoreError> {
        let text = path.display(self.store_dir());
        let bad = |why: &str| StoreError::BadRequest {
            what: format!("attempted to submit `{text}` for output `{output}`, {why}"),
        };
        let Some(path) = path.as_opaque() else {
            return Err(bad("which is no store path"));
        };
        let Some((name, expected)) = self.build.outputs.get(output) else {
            return Err(bad("which the derivation does not have"));
        };
        self.check_allowed(path)?;
        let info = self
            .executor
            .store
            .path_info(path)
            .map_err(failed("query a path"))?
            .ok_or_else(|| StoreError::NotValid { path: path.clone() })?;
        if path.name() != name {
            return Err(bad(&format!("which must be named `{name}`")));
        }
        let is_right = match (expected, info.ca) {
            (DerivationOutput::Fixed { path: fixed, .. }, _) => path == fixed,
            (DerivationOutput::Floating { method, algorithm }, Some(ca)) => {
                (ca.method, ca.hash.algorithm()) == (*method, *algorithm)
            }
            _ => false,
        };
        if !is_right {
            return Err(bad("which does not have its content address"));
        }
        if info.references.contains(path) {
            return Err(bad("which refers to itself"));
        }
        match self.build.context.submit(output, path) {
            true => Ok(()),
            false => Err(StoreError::BadRequest {
                what: format!("attempted to submit duplicate output `{output}`, as `{text}`"),
            }),
        }
    }
}

impl Executor {
    /// What would have to be done to make these paths valid.
    pub fn missing(&self, paths: &[DerivedPath]) -> Result<Missing, StoreError> {
        let mut missing = Missing::default();
        let mut todo: Vec<DerivedPath> = paths.to_vec();
        let mut seen = BTreeSet::new();
        while let Some(path) = todo.pop() {
            let (drv, outputs) = match path {
                DerivedPath::Opaque(path) => {
                    if !self.store.is_valid(&path).map_err(failed("query a path"))? {
                        missing.unknown.insert(path);
                    }
                    continue;
                }
                DerivedPath::Built { drv, outputs } => (drv, outputs),
            };
            let drv_path = match drv.split_last() {
                None => drv.base,
                Some((outer, output)) => match self.known_output(&drv)? {
                    Some(drv_path) => drv_path,
                    // What it will be is not known before this is built.
                    None => {
                        todo.push(DerivedPath::Built {
                            drv: outer,
                            outputs: OutputsSpec::Names([output.to_owned()].into()),
                        });
                        continue;
                    }
                },
            };
            if !seen.insert(drv_path.clone()) {
                continue;
            }
            let Ok(drv) = self.load(&drv_path) else {
                missing.unknown.insert(drv_path);
                continue;
            };
            let known = self
                .known_outputs(&drv_path, &drv)
                .map_err(failed("query the store"))?;
            if drv
                .outputs
                .keys()
                .filter(|name| outputs.contains(name))
                .all(|name| known.contains_key(name))
            {
                continue;
            }
            missing.will_build.insert(drv_path);
            todo.extend(
                drv.inputs()
                    .into_iter()
                    .map(|(drv, outputs)| DerivedPath::Built {
                        drv,
                        outputs: OutputsSpec::Names(outputs.clone()),
                    }),
            );
        }
        Ok(missing)
    }

    /// The store path that an output is, if that is known and valid.
    fn known_output(&self, path: &SingleDerivedPath) -> Result<Option<StorePath>, StoreError> {
        let mut found = path.base.clone();
        for output in &path.outputs {
            let Ok(drv) = self.load(&found) else {
                return Ok(None);
            };
            let mut known = self
                .known_outputs(&found, &drv)
                .map_err(failed("query the store"))?;
            match known.remove(output) {
                Some(path) => found = path,
                None => return Ok(None),
            }
        }
        Ok(Some(found))
    }
}
