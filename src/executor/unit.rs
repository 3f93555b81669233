//! One derivation: from its `.drv` file to registered outputs.
//!
//! The order of things follows Nix's: resolve, look whether the outputs are valid,
//! lock, look again, run the builder, take the outputs into the store. Nothing is
//! visible under a final path before it is complete, and nothing is registered
//! before all outputs of the derivation are accepted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bstr::{BString, ByteSlice};
use droste_sandbox::{
    Exit, ExitStatus, Mount, Network, Node, Personality, Pty, Request, Root, Stdio, Step,
    dev_nodes, etc_files, network_files, proc_mount,
};
use store_api::{BuildMode, BuildResult, BuildStatus};
use store_types::{
    Derivation, DerivationKind, DerivationOptions, DerivationOutput, Hash, HashAlgorithm,
    OutputsSpec, Realisation, StorePath, output_path_name,
};

use crate::builder_env::{
    BUILD_DIR, BuilderStart, Surroundings, builder_start, structured_builder_start,
};
use crate::child::service::Shims;
use crate::context::{BuildContext, ChildCounts};
use crate::error::{BuildError, environment};
use crate::graphs::Graphs;
use crate::log::{self, LogTail};
use crate::outputs::Produced;
use crate::users::BuildUser;
use crate::{Executor, Monitor};

/// What became of one derivation.
#[derive(Debug)]
pub struct UnitOutcome {
    /// The derivation.
    pub drv: StorePath,
    /// As Nix's clients are told.
    pub result: BuildResult,
    /// Why it failed, if it did.
    pub error: Option<BuildError>,
    /// The wanted outputs that are valid.
    pub outputs: BTreeMap<String, StorePath>,
    /// Its compiler calls.
    pub children: ChildCounts,
    /// How long it took, waiting for locks included.
    pub wall: Duration,
}

/// How a builder's run ended.
pub(crate) struct Ran {
    pub(crate) status: ExitStatus,
    pub(crate) log: LogTail,
    /// A compiler that a shim was laid over was opened for something else than execution.
    pub(crate) compiler_was_read: bool,
    pub(crate) started: SystemTime,
    pub(crate) ended: SystemTime,
}

/// The directory of one running build, removed with it.
pub(crate) struct BuildDir {
    executor: Arc<Executor>,
    path: PathBuf,
    keep: bool,
}

impl BuildDir {
    /// The sandbox's root.
    pub(crate) fn root(&self) -> PathBuf {
        self.path.join("root")
    }

    /// The store directory in the sandbox's root, where outputs appear.
    pub(crate) fn store(&self, store_dir: &str) -> PathBuf {
        self.root().join(store_dir.trim_start_matches('/'))
    }

    /// The build directory on this machine.
    pub(crate) fn build(&self) -> PathBuf {
        self.root().join(BUILD_DIR.trim_start_matches('/'))
    }

    /// A directory for our own temporary files, which the build cannot see.
    pub(crate) fn own(&self) -> PathBuf {
        self.path.join("own")
    }

    /// Keeps the directory.
    pub(crate) fn keep(&mut self) -> &Path {
        self.keep = true;
        &self.path
    }
}

impl Drop for BuildDir {
    fn drop(&mut self) {
        if !self.keep {
            self.executor.remove_build_dir(&self.path);
        }
        let _ = self.executor.spawner.forget_scratch(&self.path);
    }
}

impl Executor {
    /// Makes outputs of one derivation valid; its input derivations have been
    /// realised already. Never fails: what went wrong is part of the outcome.
    pub(crate) fn realise(
        self: &Arc<Self>,
        drv_path: &StorePath,
        wanted: &OutputsSpec,
        mode: BuildMode,
        monitor: &dyn Monitor,
    ) -> UnitOutcome {
        let begun = std::time::Instant::now();
        let mut children = ChildCounts::default();
        let mut result = BuildResult::new(BuildStatus::Built, "");
        let made = self.load(drv_path).and_then(|drv| {
            self.realise_loaded(
                drv_path,
                &drv,
                wanted,
                mode,
                monitor,
                &mut result,
                &mut children,
            )
        });
        let (outputs, error) = match made {
            Ok(outputs) => (outputs, None),
            Err(error) => {
                result.status = error.status();
                result.error_msg = error.chain();
                (BTreeMap::new(), Some(error))
            }
        };
        UnitOutcome {
            drv: drv_path.clone(),
            result,
            error,
            outputs,
            children,
            wall: begun.elapsed(),
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one call site; the last two are where results go"
    )]
    fn realise_loaded(
        self: &Arc<Self>,
        drv_path: &StorePath,
        drv: &Derivation,
        wanted: &OutputsSpec,
        mode: BuildMode,
        monitor: &dyn Monitor,
        result: &mut BuildResult,
        children: &mut ChildCounts,
    ) -> Result<BTreeMap<String, StorePath>, BuildError> {
        let text = self.store_dir().display(drv_path);
        if let OutputsSpec::Names(names) = wanted
            && let Some(output) = names.iter().find(|name| !drv.outputs.contains_key(*name))
        {
            return Err(BuildError::NoSuchOutput {
                drv: text,
                output: output.clone(),
            });
        }
        let known = self.known_outputs(drv_path, drv)?;
        let is_wanted = |name: &String| wanted.contains(name);
        let all_valid = |known: &BTreeMap<String, StorePath>| {
            drv.outputs
                .keys()
                .filter(|name| is_wanted(name))
                .all(|name| known.contains_key(name))
        };
        if mode == BuildMode::Normal && all_valid(&known) {
            result.status = BuildStatus::AlreadyValid;
            self.fill_built_outputs(drv_path, drv, &known, result)?;
            return Ok(known);
        }
        if mode != BuildMode::Normal && !drv.outputs.keys().all(|name| known.contains_key(name)) {
            return Err(BuildError::NothingToCheck { drv: text });
        }
        let name = drv_path
            .derivation_name()
            .ok_or_else(|| BuildError::Rejected {
                drv: text.clone(),
                why: "its name does not end in `.drv`".into(),
            })?;
        let kind = drv.kind().map_err(|source| BuildError::Malformed {
            drv: text.clone(),
            source: source.into(),
        })?;
        // What the builder gets: a derivation without input derivations.
        let resolved = self.resolve(drv_path, name, drv, monitor)?;
        // Nix may resolve fixed derivations, too, and does so where it has content-addressed
        // ones: then they are not built again for inputs that came out the same.
        let needs_file = !drv.input_drvs.is_empty() && kind != DerivationKind::InputAddressed;
        let (resolved_path, resolved_text);
        let (path, resolved_kind) = if needs_file {
            // As Nix does: the resolved derivation has a file and realisations of its own.
            resolved_path = self
                .store
                .add_text(
                    &format!("{name}.drv"),
                    &resolved.to_aterm(self.store_dir()),
                    &resolved.references(),
                )
                .map_err(environment(&text, "add the resolved derivation"))?
                .path;
            resolved_text = self.store_dir().display(&resolved_path);
            let kind = resolved.kind().map_err(|source| BuildError::Malformed {
                drv: resolved_text.clone(),
                source: source.into(),
            })?;
            (&resolved_path, kind)
        } else {
            (drv_path, kind)
        };
        if needs_file && mode == BuildMode::Normal {
            let known = self.known_outputs(path, &resolved)?;
            if all_valid(&known) {
                result.status = BuildStatus::ResolvesToAlreadyValid;
                self.register_realisations(drv_path, drv, &known)?;
                self.fill_built_outputs(drv_path, drv, &known, result)?;
                return Ok(known);
            }
        }
        let made = self.build_resolved(
            path,
            name,
            &resolved,
            resolved_kind,
            mode,
            monitor,
            result,
            children,
        )?;
        if needs_file {
            self.register_realisations(drv_path, drv, &made)?;
        }
        self.fill_built_outputs(drv_path, drv, &made, result)?;
        Ok(made)
    }

    /// Reads a derivation of the store and checks that it is what its path says.
    pub(crate) fn load(&self, drv_path: &StorePath) -> Result<Derivation, BuildError> {
        let text = self.store_dir().display(drv_path);
        let valid = self
            .store
            .is_valid(drv_path)
            .map_err(environment(&text, "query the store"))?;
        if !valid {
            return Err(BuildError::NoDerivation {
                drv: text,
                store: self.store.physical_dir().to_owned(),
            });
        }
        let bytes = std::fs::read(self.store.physical_path(drv_path))
            .map_err(environment(&text, "read the file"))?;
        Derivation::parse(self.store_dir(), &bytes).map_err(|source| BuildError::Malformed {
            drv: text,
            source: source.into(),
        })
    }

    /// The outputs that are valid, by name.
    pub(crate) fn known_outputs(
        &self,
        drv_path: &StorePath,
        drv: &Derivation,
    ) -> Result<BTreeMap<String, StorePath>, BuildError> {
        let text = self.store_dir().display(drv_path);
        let mut known = BTreeMap::new();
        for (name, output) in &drv.outputs {
            let path = match output {
                DerivationOutput::InputAddressed(path) | DerivationOutput::Fixed { path, .. } => {
                    Some(path.clone())
                }
                DerivationOutput::Floating { .. } | DerivationOutput::Deferred => {
                    let id = self.realisation_id(drv_path, drv, name)?;
                    self.store
                        .query_realisation(&id)
                        .map_err(environment(&text, "query the store"))?
                        .map(|realisation| realisation.out_path)
                }
                DerivationOutput::Impure { .. } => None,
            };
            if let Some(path) = path
                && self
                    .store
                    .is_valid(&path)
                    .map_err(environment(&text, "query the store"))?
            {
                known.insert(name.clone(), path);
            }
        }
        Ok(known)
    }

    fn fill_built_outputs(
        &self,
        drv_path: &StorePath,
        drv: &Derivation,
        made: &BTreeMap<String, StorePath>,
        result: &mut BuildResult,
    ) -> Result<(), BuildError> {
        for (name, path) in made {
            let realisation = self.realisation(drv_path, drv, name, path)?;
            result.built_outputs.insert(name.clone(), realisation);
        }
        Ok(())
    }

    pub(crate) fn realisation(
        &self,
        drv_path: &StorePath,
        drv: &Derivation,
        output: &str,
        path: &StorePath,
    ) -> Result<Realisation, BuildError> {
        Ok(Realisation {
            id: self.realisation_id(drv_path, drv, output)?,
            out_path: path.clone(),
            signatures: Vec::new(),
            dependent_realisations: BTreeMap::new(),
        })
    }

    fn register_realisations(
        &self,
        drv_path: &StorePath,
        drv: &Derivation,
        made: &BTreeMap<String, StorePath>,
    ) -> Result<(), BuildError> {
        let text = self.store_dir().display(drv_path);
        if drv.kind().is_ok_and(|kind| kind == DerivationKind::Impure) {
            return Ok(());
        }
        for (name, path) in made {
            let realisation = self.realisation(drv_path, drv, name, path)?;
            self.store
                .register_realisation(&realisation)
                .map_err(environment(
                    &text,
                    "register what its output turned out to be",
                ))?;
        }
        Ok(())
    }

    /// The derivation with its inputs' outputs in place of its input derivations.
    fn resolve(
        self: &Arc<Self>,
        drv_path: &StorePath,
        name: &str,
        drv: &Derivation,
        monitor: &dyn Monitor,
    ) -> Result<Derivation, BuildError> {
        let text = self.store_dir().display(drv_path);
        let mut built: BTreeMap<(StorePath, String), StorePath> = BTreeMap::new();
        for (input, outputs) in &drv.input_drvs {
            let loaded = self.load(input)?;
            let mut known = self.known_outputs(input, &loaded)?;
            if outputs.iter().any(|output| !known.contains_key(output)) {
                // The plan took it for valid before this output was wanted, or it was
                // collected since.
                let wanted = OutputsSpec::Names(outputs.clone());
                let outcome = self.realise(input, &wanted, BuildMode::Normal, monitor);
                if outcome.error.is_some() {
                    return Err(BuildError::InputFailed {
                        drv: text,
                        input: self.store_dir().display(input),
                    });
                }
                known = outcome.outputs;
            }
            for output in outputs {
                if let Some(path) = known.get(output) {
                    built.insert((input.clone(), output.clone()), path.clone());
                }
            }
        }
        for input in &drv.input_srcs {
            if !self
                .store
                .is_valid(input)
                .map_err(environment(&text, "query the store"))?
            {
                return Err(BuildError::MissingInput {
                    drv: text,
                    input: self.store_dir().display(input),
                });
            }
        }
        drv.resolve(self.store_dir(), name, |input, output| {
            built.get(&(input.clone(), output.to_owned())).cloned()
        })
        .map_err(|source| BuildError::Malformed {
            drv: text,
            source: source.into(),
        })
    }

    /// Builds a derivation that has no input derivations left.
    #[expect(
        clippy::too_many_arguments,
        reason = "one call site; the last two are where results go"
    )]
    fn build_resolved(
        self: &Arc<Self>,
        drv_path: &StorePath,
        name: &str,
        drv: &Derivation,
        kind: DerivationKind,
        mode: BuildMode,
        monitor: &dyn Monitor,
        result: &mut BuildResult,
        children: &mut ChildCounts,
    ) -> Result<BTreeMap<String, StorePath>, BuildError> {
        let text = self.store_dir().display(drv_path);
        let options = options(&text, drv)?;
        self.check_buildable(&text, drv, &options)?;
        let locked: BTreeSet<StorePath> = match kind {
            DerivationKind::InputAddressed | DerivationKind::Fixed => drv
                .outputs
                .values()
                .filter_map(|output| output.path().cloned())
                .collect(),
            // The final path is not known: two builds of the same derivation wait for
            // each other at the derivation.
            _ => BTreeSet::from([drv_path.clone()]),
        };
        let _locks = self
            .store
            .lock_paths(&locked)
            .map_err(environment(&text, "lock the output paths"))?;
        if mode == BuildMode::Normal {
            let known = self.known_outputs(drv_path, drv)?;
            if drv.outputs.keys().all(|name| known.contains_key(name)) {
                result.status = BuildStatus::AlreadyValid;
                return Ok(known);
            }
        }
        let scratch = self.scratch_paths(drv_path, name, drv, mode, &text)?;
        let inputs = self
            .closure(&drv.input_srcs)
            .map_err(environment(&text, "query the input closure"))?;
        monitor.started(drv_path);
        let user = self.acquire_user(&text)?;
        let mut interpose = self.settings.interpose;
        let (ran, context, mut dir) = loop {
            let context = Arc::new(BuildContext::new(inputs.clone()));
            let dir = self.make_build_dir(&text, &user)?;
            let ran = self.run(
                &text, drv_path, drv, &options, kind, &scratch, &context, &dir, &user, interpose,
                monitor,
            );
            children.add(&context.take_counts());
            match &ran {
                // Whatever came of it, the build has seen bytes that are not the compiler's.
                Ok(ran) if ran.compiler_was_read && interpose => {
                    let why =
                        "its compiler was read, not run; building again without shims over it";
                    monitor.note(&format!("{text}: {why}"));
                    children.count_in_place("compiler-was-read");
                    interpose = false;
                }
                _ => break (ran, context, dir),
            }
        };
        let produced = ran.and_then(|ran| {
            result.times_built = 1;
            let seconds = |time: SystemTime| {
                time.duration_since(UNIX_EPOCH)
                    .map_or(0, |since| since.as_secs() as i64)
            };
            result.start_time = seconds(ran.started);
            result.stop_time = seconds(ran.ended);
            result.cpu_user = Some(ran.status.user_time);
            result.cpu_system = Some(ran.status.system_time);
            if !ran.status.success() {
                return Err(BuildError::BuilderFailed {
                    drv: text.clone(),
                    how: describe_exit(ran.status.exit),
                    log: ran.log.for_error(),
                });
            }
            self.take_outputs(&Produced {
                text: &text,
                drv_path,
                name,
                drv,
                kind,
                mode,
                scratch: &scratch,
                candidates: context.allowed(),
                dir: &dir,
                user: &user,
                log: &ran.log,
            })
        });
        if produced.is_err() && self.settings.keep_failed {
            let kept = dir.keep().to_owned();
            monitor.note(&format!("keeping build directory `{}`", kept.display()));
        }
        let made = produced?;
        result.status = BuildStatus::Built;
        Ok(made)
    }

    fn check_buildable(
        &self,
        text: &str,
        drv: &Derivation,
        options: &DerivationOptions,
    ) -> Result<(), BuildError> {
        let outside = [
            ("__noChroot", options.no_chroot),
            ("__impureHostDeps", !options.impure_host_deps.is_empty()),
        ];
        if let Some((attribute, _)) = outside.into_iter().find(|(_, is_set)| *is_set) {
            return Err(BuildError::WantsOutside {
                drv: text.to_owned(),
                attribute,
            });
        }
        if drv.system == "builtin" || drv.builder.starts_with(b"builtin:") {
            return Err(BuildError::Unsupported {
                drv: text.to_owned(),
                what: format!("builder `{}`", drv.builder),
            });
        }
        let required = &options.required_system_features;
        let available = &self.settings.system_features;
        if !self.settings.runs(&drv.system) || !required.is_subset(available) {
            let list = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(", ");
            return Err(BuildError::WrongSystem {
                drv: text.to_owned(),
                system: drv.system.to_string(),
                required: list(required),
                ours: self.settings.system.clone(),
                available: list(available),
            });
        }
        Ok(())
    }

    /// Where the builder is to put each output: the final path where that is known,
    /// else (and where the final path is taken) a path made up from it.
    pub(crate) fn scratch_paths(
        &self,
        drv_path: &StorePath,
        name: &str,
        drv: &Derivation,
        mode: BuildMode,
        text: &str,
    ) -> Result<BTreeMap<String, StorePath>, BuildError> {
        let mut scratch = BTreeMap::new();
        for (output, kind) in &drv.outputs {
            let path = match kind.path() {
                // In the sandbox the final path is free even while it is valid outside.
                Some(path) if mode == BuildMode::Normal || mode == BuildMode::Check => path.clone(),
                _ => {
                    let kind = format!("rewrite:{}:name:{output}", drv_path.base_name());
                    // Builders can see the path, so it must be the one that Nix takes.
                    let zero =
                        Hash::new(HashAlgorithm::Sha256, &[0; 32]).expect("a SHA-256 has 32 bytes");
                    self.store_dir()
                        .make_path(&kind, &zero, &output_path_name(name, output))
                        .map_err(|source| BuildError::Malformed {
                            drv: text.to_owned(),
                            source: source.into(),
                        })?
                }
            };
            scratch.insert(output.clone(), path);
        }
        Ok(scratch)
    }

    pub(crate) fn acquire_user(&self, text: &str) -> Result<BuildUser, BuildError> {
        BuildUser::acquire(self.store.state_dir())
            .map_err(environment(text, "get a user to build as"))?
            .ok_or_else(|| BuildError::Environment {
                drv: text.to_owned(),
                action: "get a user to build as",
                source: "all of them are in use".into(),
            })
    }

    /// Makes the directory of one build: nobody else's, empty, and gone with us.
    pub(crate) fn make_build_dir(
        self: &Arc<Self>,
        text: &str,
        user: &BuildUser,
    ) -> Result<BuildDir, BuildError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let make = || -> std::io::Result<BuildDir> {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = self.builds_dir.join(number.to_string());
            let private = |path: &Path| std::fs::DirBuilder::new().mode(0o700).create(path);
            private(&path)?;
            let dir = BuildDir {
                executor: self.clone(),
                path,
                keep: false,
            };
            self.spawner
                .watch_scratch(&dir.path)
                .map_err(std::io::Error::other)?;
            private(&dir.own())?;
            let open = |path: &Path, mode: u32| -> std::io::Result<()> {
                std::fs::DirBuilder::new().recursive(true).create(path)?;
                std::fs::set_permissions(path, PermissionsExt::from_mode(mode))
            };
            open(&dir.root(), 0o755)?;
            open(&dir.root().join("tmp"), 0o1777)?;
            let store = dir.store(self.store_dir().as_str());
            open(&store, 0o1775)?;
            private(&dir.build())?;
            if rustix::process::geteuid().is_root() {
                // The store directory is the group's, as Nix has it; the root is closed to others.
                std::os::unix::fs::chown(dir.root(), None, Some(user.gid))?;
                std::os::unix::fs::chown(&store, None, Some(user.gid))?;
                std::fs::set_permissions(&store, PermissionsExt::from_mode(0o1775))?;
                std::os::unix::fs::chown(dir.build(), Some(user.uid), Some(user.gid))?;
            }
            std::fs::set_permissions(dir.root(), PermissionsExt::from_mode(0o750))?;
            Ok(dir)
        };
        make().map_err(environment(text, "make the build directory"))
    }

    /// The parts of a sandbox that do not depend on the derivation's content.
    pub(crate) fn base_request(
        &self,
        dir: &BuildDir,
        user: &BuildUser,
        drv: &Derivation,
        network: Network,
    ) -> Request {
        let program = PathBuf::from(drv.builder.to_os_str_lossy().into_owned());
        let mut request = Request::new(Root::Directory(dir.root()), program);
        request.host_uid = user.uid;
        request.host_gid = user.gid;
        request.cwd = BUILD_DIR.into();
        request.network = network;
        if drv.system == "i686-linux" && self.settings.system == "x86_64-linux" {
            request.personality = Personality::Linux32;
        }
        request.add(dev_nodes(self.settings.system_features.contains("kvm")));
        request.add(proc_mount());
        if network == Network::Host {
            request.add(network_files());
        }
        request.add(etc_files(BUILD_DIR, network != Network::Host));
        request
    }

    /// Binds store objects read-only at their place.
    pub(crate) fn add_inputs<'a>(
        &self,
        request: &mut Request,
        inputs: impl IntoIterator<Item = &'a StorePath>,
    ) {
        for input in inputs {
            request.mounts.push(Mount::input(
                self.store.physical_path(input),
                self.store_dir().display(input),
            ));
        }
    }

    /// Runs a builder to its end.
    #[expect(
        clippy::too_many_arguments,
        reason = "the state of one build; one call site"
    )]
    fn run(
        self: &Arc<Self>,
        text: &str,
        drv_path: &StorePath,
        drv: &Derivation,
        options: &DerivationOptions,
        kind: DerivationKind,
        scratch: &BTreeMap<String, StorePath>,
        context: &Arc<BuildContext>,
        dir: &BuildDir,
        user: &BuildUser,
        interpose: bool,
        monitor: &dyn Monitor,
    ) -> Result<Ran, BuildError> {
        let network = if kind.is_sandboxed() {
            Network::Isolated
        } else {
            Network::Host
        };
        let wants_socket = options.required_system_features.contains("recursive-nix");
        let socket = format!("unix://{BUILD_DIR}/.nix-socket");
        let around = Surroundings {
            store_dir: self.store_dir(),
            cores: self.settings.cores,
            scratch,
            is_fixed: kind == DerivationKind::Fixed,
            passes_impure: !kind.is_sandboxed(),
            socket: wants_socket.then_some(&*socket),
        };
        let inputs = context.allowed();
        let start = self.start_of(text, drv, options, &around, &inputs)?;
        let mut request = self.base_request(dir, user, drv, network);
        request.args = start.args;
        request.env = start.env.into_iter().collect();
        for (name, contents) in start.files {
            request.nodes.push(Node::File {
                path: Path::new(BUILD_DIR).join(name),
                mode: 0o644,
                owner: droste_sandbox::Owner::Build,
                contents,
            });
        }
        if let Some(shell) = &self.settings.sandbox_shell {
            request.mounts.push(Mount::input(shell, "/bin/sh"));
        }
        for (inside, outside) in &self.settings.sandbox_paths {
            request.mounts.push(Mount::Bind {
                source: droste_sandbox::Source::Path(outside.clone()),
                target: inside.clone(),
                read_only: true,
                recursive: true,
                devices: false,
            });
        }
        self.add_inputs(&mut request, &inputs);
        request.allow_new_mounts = wants_socket;
        // A fixed output's builder has the network: its calls are nobody's children.
        let shims = if self.settings.memo && kind.is_sandboxed() {
            self.open_shims(text, &mut request, dir, context, interpose)?
        } else {
            None
        };
        let recursive = if wants_socket {
            Some(self.open_recursive(text, dir, user, context)?)
        } else {
            None
        };
        let (master, slave) =
            Pty::open().map_err(environment(text, "open a terminal for the log"))?;
        request.stdio = [Stdio::Null, Stdio::Fd(0), Stdio::Fd(0)];
        let started = SystemTime::now();
        let running = self
            .spawner
            .spawn(&request, &[slave.as_fd()])
            .map_err(|error| not_started(text, drv, error))?;
        drop(slave);
        let running = Arc::new(running);
        context
            .set_running(self.clone(), running.clone())
            .map_err(environment(text, "look into the sandbox"))?;
        let mut file = self.open_log(drv_path);
        let log = log::follow(
            master,
            file.as_mut(),
            self.settings.log_lines,
            |line| monitor.log_line(drv_path, line),
            || {
                if monitor.is_cancelled() {
                    // If that fails, the sandbox has ended.
                    let _ = running.kill();
                }
            },
        );
        let status = running
            .wait()
            .map_err(environment(text, "wait for the builder"))?;
        let ended = SystemTime::now();
        // Nobody is left who could ask; what still runs for it is of no use.
        let compiler_was_read = shims.is_some_and(Shims::stop);
        if let Some(recursive) = recursive {
            recursive.stop();
        }
        if monitor.is_cancelled() {
            return Err(BuildError::Cancelled {
                drv: text.to_owned(),
                why: "nobody waits for it any more",
            });
        }
        Ok(Ran {
            status,
            log,
            compiler_was_read,
            started,
            ended,
        })
    }

    /// What the builder is started with.
    fn start_of(
        &self,
        text: &str,
        drv: &Derivation,
        options: &DerivationOptions,
        around: &Surroundings<'_>,
        inputs: &BTreeSet<StorePath>,
    ) -> Result<BuilderStart, BuildError> {
        let impure = |name: &[u8]| {
            std::env::var_os(&*name.to_os_str_lossy()).map(|value| BString::from(os_bytes(value)))
        };
        let graphs = Graphs::new(self, text, options, inputs);
        let Some(attributes) = &options.structured_attrs else {
            let mut start = builder_start(drv, around, impure);
            let files = graphs.as_files()?.into_iter();
            start
                .files
                .extend(files.map(|(name, contents)| (name, contents.into())));
            return Ok(start);
        };
        let outputs = around
            .scratch
            .iter()
            .map(|(output, path)| (output.clone(), self.store_dir().display(path)))
            .collect();
        let attributes = attributes.for_builder(&outputs, graphs.as_attributes()?);
        let impure_names = &options.impure_env_vars;
        Ok(structured_builder_start(
            drv,
            &attributes,
            impure_names,
            around,
            impure,
        ))
    }

    fn open_log(&self, drv_path: &StorePath) -> Option<File> {
        let path = log::log_file(self.store.log_dir(), drv_path);
        std::fs::create_dir_all(path.parent()?).ok()?;
        // A log that cannot be kept fails no build.
        File::create(path).ok()
    }
}

/// What the attributes of a derivation ask for.
pub(crate) fn options(text: &str, drv: &Derivation) -> Result<DerivationOptions, BuildError> {
    DerivationOptions::of(drv).map_err(|source| BuildError::Malformed {
        drv: text.to_owned(),
        source: source.into(),
    })
}

/// Why there is no builder: it is none, or the machine gives no sandbox.
fn not_started(text: &str, drv: &Derivation, error: droste_sandbox::Error) -> BuildError {
    match error {
        droste_sandbox::Error::Setup(setup) if setup.step == Step::Execute => {
            BuildError::BuilderNotExecuted {
                drv: text.to_owned(),
                builder: drv.builder.to_string(),
                source: setup.errno.into(),
            }
        }
        error => environment(text, "start the builder")(error),
    }
}

fn os_bytes(text: std::ffi::OsString) -> Vec<u8> {
    std::os::unix::ffi::OsStringExt::into_vec(text)
}

/// How a builder ended, in Nix's words.
pub(crate) fn describe_exit(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("failed with exit code {code}"),
        Exit::Signal(signal) => {
            let name = rustix::process::Signal::from_named_raw(signal)
                .map(|signal| format!(" ({signal:?})"));
            format!("failed due to signal {signal}{}", name.unwrap_or_default())
        }
    }
}
