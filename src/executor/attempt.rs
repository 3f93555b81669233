//! One build: from a derivation without input derivations to registered outputs.
//!
//! The order of things follows Nix's: lock, look whether the outputs are valid by
//! now, run the builder, take the outputs into the store. Nothing is visible under
//! a final path before it is complete, and nothing is registered before all
//! outputs of the derivation are accepted.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bstr::{BString, ByteSlice};
use droste_sandbox::{
    Exit, ExitStatus, Mount, Network, Node, Personality, Pty, Request, Root, Running, Stdio, Step,
    dev_nodes, etc_files, network_files, proc_mount,
};
use store_api::{BuildMode, BuildStatus};
use store_local::{BuildLogWriter, LocalError, PathLocks};
use store_types::{
    Derivation, DerivationKind, DerivationOptions, DerivationOutput, Hash, HashAlgorithm,
    StorePath, output_path_name, output_placeholder,
};

use crate::build_dir::BuildDir;
use crate::builder_env::{
    BUILD_DIR, BuilderStart, Surroundings, builder_start, structured_builder_start,
};
use crate::builtin::builtin_name;
use crate::child::service::Shims;
use crate::child::stand_in::StandIns;
use crate::context::BuildContext;
use crate::error::{BuildError, environment};
use crate::graphs::Graphs;
use crate::jobs::{Job, Started};
use crate::log::{self, LogTail};
use crate::log_message;
use crate::outputs::{Produced, open_dir};
use crate::restricted::{OuterBuild, Recursive, SOCKET};
use crate::settings::{BUILDER_RPC, SandboxMode, SandboxPath};
use crate::submitted::Submitted;
use crate::unit::{Asked, Tally};
use crate::users::{BuildUser, UsersError};
use crate::{Executor, Monitor, Settings};

/// How long to wait before asking again for a lock that somebody else holds.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// How long all build users may belong to builds that wait for builds inside them before that
/// counts as the end of it. Such a build may just be about to go on.
const STUCK_MAX: Duration = Duration::from_secs(10);

/// A disk with less space than this counts as full. As in Nix.
const DISK_FULL_BYTES: u64 = 8 << 20;

/// A derivation without input derivations that is to be built.
pub(crate) struct Attempt<'a> {
    executor: &'a Arc<Executor>,
    drv_path: &'a StorePath,
    /// The same for messages.
    text: String,
    name: &'a str,
    drv: &'a Derivation,
    kind: DerivationKind,
    options: DerivationOptions,
    mode: BuildMode,
    /// Another Nix has planned the build, and gives it.
    is_given: bool,
    /// What the builder is started with, if that is given, too: then the other Nix also has the log.
    start: Option<&'a BuilderStart>,
    asked: &'a Asked,
    monitor: &'a dyn Monitor,
}

/// What an attempt's runs of the builder have in common.
pub(crate) struct Setting {
    /// Where the builder is to put each output.
    pub(crate) scratch: BTreeMap<String, StorePath>,
    /// The input closure.
    inputs: BTreeSet<StorePath>,
    pub(crate) user: BuildUser,
}

/// One run of the builder.
pub(crate) struct Run<'a> {
    attempt: &'a Attempt<'a>,
    pub(crate) setting: &'a Setting,
    context: &'a Arc<BuildContext>,
    pub(crate) dir: &'a BuildDir,
    job: &'a Arc<Job>,
    /// Whether shims are laid over the compilers.
    interpose: bool,
}

/// What serves a running build.
struct Services {
    shims: Option<Shims>,
    recursive: Option<Recursive>,
}

/// How a builder's run ended.
pub(crate) struct Ran {
    pub(crate) status: ExitStatus,
    pub(crate) log: LogTail,
    /// After what it was killed, if it was for taking too long.
    timed_out: Option<String>,
    /// A compiler that a shim was laid over was opened for something else than execution.
    compiler_was_read: bool,
    started: SystemTime,
    ended: SystemTime,
}

impl<'a> Attempt<'a> {
    pub(crate) fn new(
        executor: &'a Arc<Executor>,
        drv_path: &'a StorePath,
        name: &'a str,
        drv: &'a Derivation,
        kind: DerivationKind,
        mode: BuildMode,
        (asked, monitor): (&'a Asked, &'a dyn Monitor),
    ) -> Result<Self, BuildError> {
        let text = executor.store_dir().display(drv_path);
        Ok(Self {
            options: options(&text, drv)?,
            executor,
            drv_path,
            text,
            name,
            drv,
            kind,
            mode,
            is_given: false,
            start: None,
            asked,
            monitor,
        })
    }

    /// The same, if another Nix has planned the build: then it is that one's affair how many run,
    /// and what is to be done with the outputs.
    pub(crate) fn given(self, is_given: bool) -> Self {
        Self { is_given, ..self }
    }

    /// The same, if another Nix also says what the builder is started with.
    pub(crate) fn started_with(self, start: &'a BuilderStart) -> Self {
        Self {
            is_given: true,
            start: Some(start),
            ..self
        }
    }

    /// How it is to be built.
    fn settings(&self) -> &Settings {
        self.executor.settings_for(self.monitor)
    }

    /// Makes all outputs valid.
    pub(crate) fn build(
        &self,
        tally: &mut Tally,
    ) -> Result<BTreeMap<String, StorePath>, BuildError> {
        self.check_buildable()?;
        self.executor.collect_if_needed(self.monitor);
        let locked = self.to_lock();
        let _locks = self.lock(&locked)?;
        if self.mode == BuildMode::Normal {
            let known = self.executor.known_outputs(self.drv_path, self.drv)?;
            if known.len() == self.drv.outputs.len() {
                tally.result.status = BuildStatus::AlreadyValid;
                return Ok(known);
            }
        }
        let made = self.run_builder(&locked, tally, |run, ran, tally| {
            run.take_outputs(ran, tally)
        })?;
        if self.is_given {
            return Ok(made);
        }
        // While the outputs are locked: nobody builds them again before it has ended.
        self.executor.run_post_build_hook(
            self.drv_path,
            &made.values().cloned().collect(),
            self.monitor,
        )?;
        Ok(made)
    }

    /// Runs the builder, again if need be, and lets `take` have what came of it. These paths are
    /// locked meanwhile.
    pub(crate) fn run_builder<T>(
        &self,
        locked: &BTreeSet<StorePath>,
        tally: &mut Tally,
        mut take: impl FnMut(&Run<'_>, &Ran, &mut Tally) -> Result<T, BuildError>,
    ) -> Result<T, BuildError> {
        let (mut job, setting) = self.begin(locked)?;
        self.executor
            .prepare()
            .map_err(environment(&self.text, "get ready to build"))?;
        self.monitor.started(self.drv_path, self.mode);
        tally.started = Some(self.drv_path.clone());
        let mut interpose = self.settings().interpose;
        loop {
            let stand_ins = StandIns::new(setting.scratch.values());
            let context = Arc::new(BuildContext::new(
                setting.inputs.clone(),
                stand_ins,
                setting.scratch.values().cloned().collect(),
                self.builds_inside(),
            ));
            let dir = self.executor.make_build_dir(&self.text, &setting.user)?;
            let run = Run {
                attempt: self,
                setting: &setting,
                context: &context,
                dir: &dir,
                job: &job,
                interpose,
            };
            let ran = run.to_end();
            tally.children.add(&context.take_counts());
            if interpose && ran.as_ref().is_ok_and(|ran| ran.compiler_was_read) {
                // Whatever came of it, the build has seen bytes that are not the compiler's.
                let why = "its compiler was read, not run; building again without shims over it";
                self.monitor.note(&format!("{}: {why}", self.text));
                tally.children.count_in_place("compiler-was-read");
                interpose = false;
                job = self.start_job(locked)?;
                continue;
            }
            let made = ran.and_then(|ran| take(&run, &ran, tally));
            // A builtin builder's has what the executor put there for it alone.
            let may_keep = builtin_name(self.drv).is_none();
            if made.is_err() && self.settings().keep_failed && may_keep {
                let kept = dir.keep_failed(&self.text)?;
                self.monitor
                    .note(&format!("keeping build directory `{}`", kept.display()));
            }
            return made;
        }
    }

    pub(crate) fn check_buildable(&self) -> Result<(), BuildError> {
        let (drv, options, settings) = (self.drv, &self.options, self.settings());
        let required = &options.required_system_features;
        if settings.max_jobs == 0 && !self.is_given {
            return Err(BuildError::NoJobs {
                drv: self.text.clone(),
            });
        }
        let available = &settings.system_features;
        let runs = builtin_name(drv).is_some() || settings.runs(&drv.system);
        let mut reasons = Vec::new();
        if !runs {
            reasons.push(format!(
                "platform mismatch; required system: `{}`; current system: `{}`",
                drv.system, settings.system
            ));
        }
        if !required.is_subset(available) {
            let list = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(", ");
            reasons.push(format!(
                "missing system features; required features: {{{}}}; available features: {{{}}}",
                list(required),
                list(available)
            ));
        }
        if !reasons.is_empty() {
            return Err(BuildError::WrongSystem {
                drv: self.text.clone(),
                why: reasons.join("; reason: "),
            });
        }
        let may_submit = matches!(self.kind, DerivationKind::Fixed | DerivationKind::Floating);
        if self.submits() && !may_submit {
            let why = "derivation uses the `builder-rpc-v0` feature, which may only be used with \
                       content-addressing derivations";
            return Err(BuildError::Rejected {
                drv: self.text.clone(),
                why: why.into(),
            });
        }
        if options.no_chroot && settings.sandbox == SandboxMode::Enabled {
            return Err(BuildError::WantsOutside {
                drv: self.text.clone(),
            });
        }
        Ok(())
    }

    /// Whether the outputs are locked while the builder runs, and not only when they are taken.
    fn locks_outputs(&self) -> bool {
        let is_known = matches!(
            self.kind,
            DerivationKind::InputAddressed | DerivationKind::Fixed
        );
        // What it adds, or has built, may have the path of its own output.
        is_known && !self.has_socket()
    }

    /// What is locked while the builder runs, with the names that Nix locks: the outputs, or, where
    /// their paths are not known yet, what stands for them.
    ///
    /// Source: nix 2.34 `src/libstore/build/derivation-building-goal.cc`.
    fn to_lock(&self) -> BTreeSet<StorePath> {
        let outputs = self.drv.outputs.iter();
        if self.locks_outputs() {
            return outputs
                .filter_map(|(_, output)| output.path().cloned())
                .collect();
        }
        let names = outputs.map(|(name, _)| format!("{}.{name}", self.drv_path.base_name()));
        names
            .map(|name| StorePath::from_base_name(&name))
            .collect::<Result<_, _>>()
            // Too long for a name.
            .unwrap_or_else(|_| BTreeSet::from([self.drv_path.clone()]))
    }

    fn lock(&self, paths: &BTreeSet<StorePath>) -> Result<PathLocks, BuildError> {
        let share = &self.asked.share;
        let mut blocked = None;
        let mut is_told = false;
        loop {
            let locks = self
                .executor
                .store
                .try_lock_paths(paths)
                .map_err(environment(&self.text, "lock the output paths"))?;
            if let Some(locks) = locks {
                return Ok(locks);
            }
            blocked.get_or_insert_with(|| share.blocked_on(paths));
            if share.is_circle(paths) {
                return Err(BuildError::Rejected {
                    drv: self.text.clone(),
                    why: "it is being built, and that build waits for this one".into(),
                });
            }
            if !is_told {
                let why = "waiting for somebody else who builds it";
                self.monitor.note(&format!("{}: {why}", self.text));
                is_told = true;
            }
            if self.monitor.is_cancelled() {
                return Err(self.cancelled());
            }
            std::thread::sleep(LOCK_POLL);
        }
    }

    /// The names and kinds of the outputs, and what the names of their paths are.
    fn outputs(&self) -> BTreeMap<String, (String, DerivationOutput)> {
        let outputs = self.drv.outputs.iter();
        outputs
            .map(|(name, output)| {
                let path_name = output_path_name(self.name, name);
                (name.clone(), (path_name, output.clone()))
            })
            .collect()
    }

    fn cancelled(&self) -> BuildError {
        BuildError::Cancelled {
            drv: self.text.clone(),
            why: "nobody waits for it any more",
        }
    }

    /// A job, when it is this build's turn.
    fn start_job(&self, locked: &BTreeSet<StorePath>) -> Result<Started, BuildError> {
        let share = &self.asked.share;
        if self.is_given {
            return Ok(share.start_uncounted(locked));
        }
        share
            .start(locked, || self.monitor.is_cancelled())
            .ok_or_else(|| self.cancelled())
    }

    /// A job, and all that it takes besides. Who waits for a user has no job meanwhile: those who
    /// have the users may need it to end.
    fn begin(&self, locked: &BTreeSet<StorePath>) -> Result<(Started, Setting), BuildError> {
        let executor = self.executor;
        let scratch = executor.scratch_paths(self.drv_path, self.name, self.drv, &self.text)?;
        let inputs = self.hold_inputs()?;
        let failed = |error| environment(&self.text, "get a user to build as")(error);
        let mut is_told = false;
        let mut stuck_since = None;
        loop {
            let job = self.start_job(locked)?;
            let count = match executor.free_user() {
                Ok(user) => {
                    let setting = Setting {
                        scratch,
                        inputs,
                        user,
                    };
                    return Ok((job, setting));
                }
                Err(UsersError::AllInUse { count, .. }) => count,
                Err(error) => return Err(failed(error)),
            };
            drop(job);
            if !is_told {
                let why = "waiting for a free user to build as";
                self.monitor.note(&format!("{}: {why}", self.text));
                is_told = true;
            }
            // Each of those that wait has one.
            if executor.jobs.waiting() < count {
                stuck_since = None;
            } else if stuck_since.get_or_insert_with(Instant::now).elapsed() > STUCK_MAX {
                return Err(BuildError::NoUserLeft {
                    drv: self.text.clone(),
                    count,
                });
            }
            std::thread::sleep(LOCK_POLL);
        }
    }

    /// The input closure, which no garbage collector takes from now on.
    fn hold_inputs(&self) -> Result<BTreeSet<StorePath>, BuildError> {
        for input in &self.drv.input_srcs {
            self.executor
                .store
                .add_temp_root(input)
                .map_err(environment(&self.text, "hold an input"))?;
        }
        // After that: what was collected before is missed here.
        let closure = match self.executor.closure(&self.drv.input_srcs) {
            Err(LocalError::NotValid { path }) => {
                return Err(BuildError::MissingInput {
                    drv: self.text.clone(),
                    input: self.executor.store_dir().display(&path),
                });
            }
            closure => closure.map_err(environment(&self.text, "query the input closure"))?,
        };
        self.executor.recognise(&closure);
        Ok(closure)
    }

    /// Whether the builder is to see this machine, as one without a sandbox would.
    ///
    /// In a store that is not where its name says, no builder could find its inputs without one.
    fn sees_machine(&self) -> bool {
        let executor = self.executor;
        let is_elsewhere =
            executor.store.physical_dir() != Path::new(executor.store_dir().as_str());
        let is_asked = match self.settings().sandbox {
            SandboxMode::Enabled => false,
            SandboxMode::Relaxed => !self.kind.is_sandboxed() || self.options.no_chroot,
            SandboxMode::Disabled => true,
        };
        is_asked && !is_elsewhere && builtin_name(self.drv).is_none()
    }

    /// Whether it may ask for builds, and for all that Nix gives a build to use.
    fn builds_inside(&self) -> bool {
        let features = &self.options.required_system_features;
        features.contains("recursive-nix")
    }

    /// Whether it may submit outputs.
    fn submits(&self) -> bool {
        let features = &self.options.required_system_features;
        features.contains(BUILDER_RPC)
    }

    /// Whether it must, since it is not told where to put any.
    fn must_submit(&self) -> bool {
        self.submits() && !self.builds_inside()
    }

    pub(crate) fn has_socket(&self) -> bool {
        self.builds_inside() || self.submits()
    }
}

/// A derivation whose builder is not told where its outputs are.
fn without_outputs(drv: &Derivation) -> Derivation {
    let is_output = |name: &BString| {
        let name = std::str::from_utf8(name);
        name.is_ok_and(|name| drv.outputs.contains_key(name))
    };
    let mut untold = drv.clone();
    untold.env.retain(|name, _| !is_output(name));
    untold
}

impl Run<'_> {
    /// Runs the builder.
    fn to_end(&self) -> Result<Ran, BuildError> {
        let Attempt { executor, text, .. } = self.attempt;
        let mut request = self.request()?;
        let services = self.open_services(&mut request)?;
        self.dir
            .fit(&request)
            .map_err(environment(text, "make the build directory"))?;
        let (master, slave) =
            Pty::open().map_err(environment(text, "open a terminal for the log"))?;
        request.stdio = [Stdio::Null, Stdio::Fd(0), Stdio::Fd(0)];
        let started = SystemTime::now();
        let running = executor
            .spawner
            .spawn(&request, &[slave.as_fd()])
            .map_err(|error| self.not_started(error))?;
        drop(slave);
        let running = Arc::new(running);
        self.context
            .set_running((*executor).clone(), running.clone())
            .map_err(environment(text, "look into the sandbox"))?;
        let (log, timed_out) = self.follow(master, &running);
        let status = running
            .wait()
            .map_err(environment(text, "wait for the builder"))?;
        // A hook that looks at the directory afterwards may leave something that has it open.
        if self.attempt.mode != BuildMode::Check {
            self.dir.has_ended(&request);
        }
        let ended = SystemTime::now();
        // What it still waits for is of no use, and others may go on.
        self.job.end();
        let compiler_was_read = services.stop();
        if self.attempt.monitor.is_cancelled() {
            return Err(self.attempt.cancelled());
        }
        Ok(Ran {
            status,
            log,
            timed_out,
            compiler_was_read,
            started,
            ended,
        })
    }

    /// The sandbox, without what serves it.
    fn request(&self) -> Result<Request, BuildError> {
        let Attempt {
            executor,
            text,
            drv,
            kind,
            ..
        } = self.attempt;
        let network = if kind.is_sandboxed() && !self.attempt.sees_machine() {
            Network::Isolated
        } else {
            Network::Host
        };
        let start = self.start()?;
        let mut request = executor.base_request(
            self.dir.root(executor.store_dir().as_str()),
            &self.setting.user,
            drv,
            (network, self.attempt.settings()),
        );
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
        if self.attempt.sees_machine() {
            self.add_machine(&mut request)?;
        }
        self.add_host_paths(&mut request)?;
        executor.add_inputs(&mut request, &self.setting.inputs);
        if let Some(name) = builtin_name(drv) {
            let outputs = &self.setting.scratch;
            let own = (self.dir, &self.attempt.settings().downloads);
            executor.add_builtin(&mut request, text, (name, drv), outputs, own)?;
        }
        request.allow_new_mounts = self.attempt.builds_inside();
        Ok(request)
    }

    /// All that is at the top of this machine, but what the build has of its own: the store (its
    /// inputs alone, and its outputs), its directory, and `/proc` of its processes.
    fn add_machine(&self, request: &mut Request) -> Result<(), BuildError> {
        let text = &self.attempt.text;
        let own = [
            "/proc",
            BUILD_DIR,
            self.attempt.executor.store_dir().as_str(),
        ];
        let entries = std::fs::read_dir("/").map_err(environment(text, "list the machine"))?;
        for entry in entries {
            let path = entry.map_err(environment(text, "list the machine"))?.path();
            if own.iter().any(|own| Path::new(own).starts_with(&path)) {
                continue;
            }
            request.nodes.retain(|node| !node.path().starts_with(&path));
            request
                .mounts
                .retain(|mount| !mount.target().starts_with(&path));
            request.mounts.push(Mount::Bind {
                source: droste_sandbox::Source::Path(path.clone()),
                target: path,
                read_only: false,
                recursive: true,
                devices: true,
            });
        }
        Ok(())
    }

    /// What the settings, the derivation and the `pre-build-hook` have of this machine.
    fn add_host_paths(&self, request: &mut Request) -> Result<(), BuildError> {
        let Attempt { executor, text, .. } = self.attempt;
        let settings = self.attempt.settings();
        let mut paths: BTreeMap<PathBuf, SandboxPath> = BTreeMap::new();
        let shell = settings.sandbox_shell.iter().map(|shell| SandboxPath {
            inside: "/bin/sh".into(),
            outside: shell.clone(),
            optional: false,
            read_only: true,
        });
        let sees_machine = self.attempt.sees_machine();
        let configured = shell
            .chain(settings.sandbox_paths.iter().cloned())
            .filter(|_| !sees_machine);
        let root = Some(self.dir.path().to_owned()).filter(|_| !sees_machine);
        let all = configured
            .chain(self.impure_host_deps()?)
            .chain(executor.run_pre_build_hook(settings, text, root)?);
        paths.extend(all.map(|path| (path.inside.clone(), path)));
        if paths.contains_key(Path::new("/dev")) {
            request
                .nodes
                .retain(|node| !node.path().starts_with("/dev"));
            request
                .mounts
                .retain(|mount| !mount.target().starts_with("/dev"));
        }
        let mut objects = BTreeSet::new();
        for path in paths.into_values() {
            let mut source = path.outside;
            if let Some(object) = self.store_object(&source)? {
                source = match source.strip_prefix(executor.store_dir().display(&object)) {
                    Ok(rest) if !rest.as_os_str().is_empty() => {
                        executor.store.physical_path(&object).join(rest)
                    }
                    _ => executor.store.physical_path(&object),
                };
                objects.insert(object);
            }
            match std::fs::symlink_metadata(&source) {
                Ok(_) => {}
                Err(error) if path.optional && error.kind() == std::io::ErrorKind::NotFound => {
                    continue;
                }
                Err(error) => {
                    return Err(BuildError::NoSandboxPath {
                        drv: text.clone(),
                        path: source,
                        source: error.into(),
                    });
                }
            }
            request.mounts.push(Mount::Bind {
                source: droste_sandbox::Source::Path(source),
                target: path.inside,
                read_only: path.read_only,
                recursive: true,
                devices: true,
            });
        }
        let closure = executor
            .closure(&objects)
            .map_err(environment(text, "query the closure of a sandbox path"))?;
        // The build may be one of a path that its own shell needs.
        let outputs: BTreeSet<&StorePath> = self.setting.scratch.values().collect();
        let more = closure
            .iter()
            .filter(|path| !outputs.contains(path) && !self.setting.inputs.contains(*path));
        executor.add_inputs(request, more);
        Ok(())
    }

    /// The valid store object that a path of this machine is, or lies in.
    fn store_object(&self, path: &Path) -> Result<Option<StorePath>, BuildError> {
        let Attempt { executor, text, .. } = self.attempt;
        let Ok(rest) = path.strip_prefix(executor.store_dir().as_str()) else {
            return Ok(None);
        };
        let Some(name) = rest.components().next() else {
            return Ok(None);
        };
        let Some(object) = name
            .as_os_str()
            .to_str()
            .and_then(|name| StorePath::from_base_name(name).ok())
        else {
            return Ok(None);
        };
        let is_valid = executor
            .store
            .is_valid(&object)
            .map_err(environment(text, "query the store"))?;
        Ok(Some(object).filter(|_| is_valid))
    }

    /// The paths that the derivation asks for, if the settings allow all of them. Symbolic links
    /// are not followed: nobody is told of what they may not see.
    fn impure_host_deps(&self) -> Result<Vec<SandboxPath>, BuildError> {
        let Attempt { text, options, .. } = self.attempt;
        let allowed = &self.attempt.settings().allowed_impure_host_deps;
        let wanted = options.impure_host_deps.iter().map(|path| {
            let inside = clean(Path::new(path));
            let is_allowed =
                inside.is_absolute() && allowed.iter().any(|dir| inside.starts_with(clean(dir)));
            if !is_allowed {
                return Err(BuildError::HostPathRefused {
                    drv: text.clone(),
                    path: path.clone(),
                });
            }
            Ok(SandboxPath {
                outside: inside.clone(),
                inside,
                optional: true,
                read_only: false,
            })
        });
        wanted.collect()
    }

    /// What the builder is started with.
    fn start(&self) -> Result<BuilderStart, BuildError> {
        if let Some(start) = self.attempt.start {
            return Ok(start.clone());
        }
        let Attempt {
            executor,
            text,
            drv,
            kind,
            options,
            ..
        } = self.attempt;
        let socket = format!("unix://{BUILD_DIR}/{SOCKET}");
        let (none, untold);
        let (drv, scratch) = if self.attempt.must_submit() {
            none = BTreeMap::new();
            untold = without_outputs(drv);
            (&untold, &none)
        } else {
            (*drv, &self.setting.scratch)
        };
        let around = Surroundings {
            store_dir: executor.store_dir(),
            cores: self.attempt.settings().cores,
            scratch,
            is_fixed: *kind == DerivationKind::Fixed,
            passes_impure: !kind.is_sandboxed(),
            socket: self.attempt.has_socket().then_some(&*socket),
        };
        let impure = |name: &[u8]| {
            let set = std::str::from_utf8(name).ok();
            match set.and_then(|name| self.attempt.settings().impure_env.get(name)) {
                Some(value) => Some(value.as_str().into()),
                None => std::env::var_os(&*name.to_os_str_lossy())
                    .map(|value| BString::from(os_bytes(value))),
            }
        };
        let graphs = Graphs::new(executor, text, options, &self.setting.inputs);
        let Some(attributes) = &options.structured_attrs else {
            let mut start = builder_start(drv, &around, impure);
            for (name, contents) in graphs.as_files()? {
                start.files.push((name, contents.into()));
            }
            return Ok(start);
        };
        let outputs = drv.outputs.keys().map(|output| {
            let path = scratch.get(output);
            let place = path.map(|path| executor.store_dir().display(path));
            let place = place.unwrap_or_else(|| output_placeholder(output));
            (output.clone(), place)
        });
        let outputs = outputs.collect();
        let attributes = attributes.for_builder(&outputs, graphs.as_attributes()?);
        let impure_names = &options.impure_env_vars;
        Ok(structured_builder_start(
            drv,
            &attributes,
            impure_names,
            &around,
            impure,
        ))
    }

    fn open_services(&self, request: &mut Request) -> Result<Services, BuildError> {
        let Attempt { executor, text, .. } = self.attempt;
        // A fixed output's builder has the network: its calls are nobody's children.
        // Nor does a builtin one call a compiler.
        let is_program = builtin_name(self.attempt.drv).is_none();
        // Nor is a call somebody's child that can see any file of the machine.
        let is_closed = self.attempt.kind.is_sandboxed() && !self.attempt.sees_machine();
        let has_shims = self.attempt.settings().memo && is_closed && is_program;
        let shims = if has_shims {
            executor.open_shims(text, request, self.dir, self.context, self.interpose)?
        } else {
            None
        };
        let recursive = if self.attempt.has_socket() {
            let user = &self.setting.user;
            let build = OuterBuild {
                context: self.context.clone(),
                job: self.job.clone(),
                outputs: match self.attempt.submits() {
                    true => self.attempt.outputs(),
                    false => BTreeMap::new(),
                },
                builds_inside: self.attempt.builds_inside(),
            };
            Some(executor.open_recursive(text, self.dir, user, build)?)
        } else {
            None
        };
        Ok(Services { shims, recursive })
    }

    /// Why there is no builder: it is none, or the machine gives no sandbox.
    fn not_started(&self, error: droste_sandbox::Error) -> BuildError {
        match error {
            droste_sandbox::Error::Setup(setup) if setup.step == Step::Execute => {
                BuildError::BuilderNotExecuted {
                    drv: self.attempt.text.clone(),
                    builder: self.attempt.drv.builder.to_string(),
                    source: setup.errno.into(),
                }
            }
            error => environment(&self.attempt.text, "start the builder")(error),
        }
    }

    /// Reads the builder's log to its end, and kills it if nobody waits for it or if it
    /// takes too long: then the second value says after what.
    fn follow(&self, master: OwnedFd, running: &Running) -> (LogTail, Option<String>) {
        let Attempt {
            executor,
            drv_path,
            monitor,
            ..
        } = self.attempt;
        let settings = self.attempt.settings();
        // A log that cannot be kept fails no build.
        let mut kept = match settings.keep_build_log && self.attempt.start.is_none() {
            true => executor
                .store
                .create_build_log(drv_path, settings.compress_build_log)
                .ok(),
            false => None,
        };
        let begun = Instant::now();
        let heard = Cell::new(begun);
        let timed_out = RefCell::new(None);
        let is_over = |since: Instant, limit: Option<Duration>| {
            limit.filter(|limit| since.elapsed() > *limit)
        };
        let log = log::follow(
            master,
            kept.as_mut().map(|kept| kept as &mut dyn std::io::Write),
            log::Limits {
                tail_lines: settings.log_lines,
                bytes_max: settings.max_build_log_size,
            },
            |line| {
                heard.set(Instant::now());
                match log_message::parse(line) {
                    Some(message) => monitor.builder_message(drv_path, &message, line),
                    None => {
                        monitor.log_line(drv_path, line);
                        return true;
                    }
                }
                false
            },
            || {
                if let Some(limit) = is_over(begun, settings.timeout) {
                    timed_out.replace(Some(format!("{} seconds", limit.as_secs())));
                } else if let Some(limit) = is_over(heard.get(), settings.max_silent_time) {
                    let after = format!("{} seconds of silence", limit.as_secs());
                    timed_out.replace(Some(after));
                }
                if monitor.is_cancelled() || timed_out.borrow().is_some() {
                    // If that fails, the sandbox has ended.
                    let _ = running.kill();
                }
            },
        );
        if log.is_too_long {
            let _ = running.kill();
        }
        let _ = kept.map(BuildLogWriter::finish);
        (log, timed_out.into_inner())
    }

    /// Whether there is next to no space left, now that the builder has failed.
    fn is_disk_full(&self) -> bool {
        let executor = self.attempt.executor;
        [executor.store.physical_dir(), &self.dir.build()]
            .into_iter()
            .filter_map(|dir| rustix::fs::statvfs(dir).ok())
            .any(|fs| fs.f_bavail.saturating_mul(fs.f_frsize) < DISK_FULL_BYTES)
    }

    /// Whether the builder came to an end of its own; if not, it has failed.
    pub(crate) fn check_ended(&self, ran: &Ran) -> Result<(), BuildError> {
        let attempt = self.attempt;
        if let Some(after) = &ran.timed_out {
            return Err(BuildError::TimedOut {
                drv: attempt.text.clone(),
                after: after.clone(),
                log: ran.log.for_error(),
            });
        }
        if ran.log.is_too_long {
            return Err(BuildError::LogTooLong {
                drv: attempt.text.clone(),
                bytes_max: attempt.settings().max_build_log_size,
                log: ran.log.for_error(),
            });
        }
        Ok(())
    }

    /// The directory that has what the builder made.
    pub(crate) fn open_made(&self) -> Result<OwnedFd, BuildError> {
        open_dir(&self.dir.store()).map_err(environment(&self.attempt.text, "open the outputs"))
    }

    /// Takes the outputs into the store, if the builder succeeded.
    fn take_outputs(
        &self,
        ran: &Ran,
        tally: &mut Tally,
    ) -> Result<BTreeMap<String, StorePath>, BuildError> {
        let attempt = self.attempt;
        let seconds = |time: SystemTime| {
            time.duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs() as i64)
        };
        let result = &mut tally.result;
        result.times_built = 1;
        result.start_time = seconds(ran.started);
        result.stop_time = seconds(ran.ended);
        result.cpu_user = Some(ran.status.user_time);
        result.cpu_system = Some(ran.status.system_time);
        self.check_ended(ran)?;
        if !ran.status.success() {
            let is_full = self.is_disk_full();
            return Err(BuildError::BuilderFailed {
                // Of the network nobody knows what it does the next time.
                is_transient: is_full || !attempt.kind.is_sandboxed(),
                note: match is_full {
                    true => "\nnote: build failure may have been caused by lack of free disk space",
                    false => "",
                },
                drv: attempt.text.clone(),
                how: describe_exit(ran.status.exit),
                log: ran.log.for_error(),
            });
        }
        let submitted = self.context.submitted();
        if attempt.must_submit() || !submitted.is_empty() {
            let made = attempt.executor.take_submitted(&Submitted {
                text: &attempt.text,
                drv_path: attempt.drv_path,
                drv: attempt.drv,
                kind: attempt.kind,
                mode: attempt.mode,
                settings: attempt.settings(),
                outputs: submitted,
            })?;
            result.status = BuildStatus::Built;
            return Ok(made);
        }
        let made = attempt.executor.take_outputs(&Produced {
            text: &attempt.text,
            drv_path: attempt.drv_path,
            name: attempt.name,
            drv: attempt.drv,
            kind: attempt.kind,
            mode: attempt.mode,
            is_locked: attempt.locks_outputs(),
            scratch: &self.setting.scratch,
            candidates: self.context.allowed(),
            made: self.open_made()?,
            own: &|| self.dir.own().map(Path::to_owned),
            checked_by: Some((self.dir.build(), attempt.monitor)),
            is_elsewhere: false,
            user: &self.setting.user,
            log: &ran.log,
        })?;
        result.status = BuildStatus::Built;
        Ok(made)
    }
}

impl Services {
    /// Ends them: nobody is left who could ask, and what still runs for the build is of
    /// no use. Whether a compiler was read.
    fn stop(self) -> bool {
        let compiler_was_read = self.shims.is_some_and(Shims::stop);
        if let Some(recursive) = self.recursive {
            recursive.stop();
        }
        compiler_was_read
    }
}

impl Executor {
    /// Where the builder is to put each output: the final path where that is known,
    /// else (and where the final path is taken) a path made up from it.
    pub(crate) fn scratch_paths(
        &self,
        drv_path: &StorePath,
        name: &str,
        drv: &Derivation,
        text: &str,
    ) -> Result<BTreeMap<String, StorePath>, BuildError> {
        let mut scratch = BTreeMap::new();
        for (output, kind) in &drv.outputs {
            let path = match kind.path() {
                // In the sandbox the final path is free even while it is valid outside.
                Some(path) => path.clone(),
                None => {
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

    /// The parts of a sandbox that do not depend on the derivation's content.
    pub(crate) fn base_request(
        &self,
        root: Root,
        user: &BuildUser,
        drv: &Derivation,
        (network, settings): (Network, &Settings),
    ) -> Request {
        let program = PathBuf::from(drv.builder.to_os_str_lossy().into_owned());
        let mut request = Request::new(root, program);
        request.host_uid = user.uid;
        request.host_gid = user.gid;
        request.cwd = BUILD_DIR.into();
        request.network = network;
        if drv.system == "i686-linux" && settings.system == "x86_64-linux" {
            request.personality = Personality::Linux32;
        }
        request.add(dev_nodes(settings.system_features.contains("kvm")));
        request.add(proc_mount());
        if network == Network::Host {
            request.add(network_files());
            // A link is bound from where it leads, as Nix does.
            let certificates = settings.downloads.ssl_cert_file.as_deref();
            if let Some(source) = certificates.and_then(|path| path.canonicalize().ok()) {
                request.nodes.push(Node::file(CERTIFICATES, 0o444, ""));
                request.mounts.push(Mount::input(source, CERTIFICATES));
            }
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
}

/// Where builds with the network find certificates of authorities. Source: nix 2.34,
/// `src/libstore/unix/build/linux-derivation-builder.cc`.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What the attributes of a derivation ask for.
pub(crate) fn options(text: &str, drv: &Derivation) -> Result<DerivationOptions, BuildError> {
    DerivationOptions::of(drv).map_err(|source| BuildError::Malformed {
        drv: text.to_owned(),
        source: source.into(),
    })
}

/// A path without `.` and `..`, not looked at.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::ParentDir => _ = clean.pop(),
            std::path::Component::CurDir => {}
            other => clean.push(other),
        }
    }
    clean
}

fn os_bytes(text: std::ffi::OsString) -> Vec<u8> {
    std::os::unix::ffi::OsStringExt::into_vec(text)
}

/// What signals are called, from the first. Source: glibc manual, "Signal Messages".
const SIGNALS: [&str; 31] = [
    "Hangup",
    "Interrupt",
    "Quit",
    "Illegal instruction",
    "Trace/breakpoint trap",
    "Aborted",
    "Bus error",
    "Floating point exception",
    "Killed",
    "User defined signal 1",
    "Segmentation fault",
    "User defined signal 2",
    "Broken pipe",
    "Alarm clock",
    "Terminated",
    "Stack fault",
    "Child exited",
    "Continued",
    "Stopped (signal)",
    "Stopped",
    "Stopped (tty input)",
    "Stopped (tty output)",
    "Urgent I/O condition",
    "CPU time limit exceeded",
    "File size limit exceeded",
    "Virtual timer expired",
    "Profiling timer expired",
    "Window changed",
    "I/O possible",
    "Power failure",
    "Bad system call",
];

/// How a builder ended, in Nix's words.
pub(crate) fn describe_exit(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("failed with exit code {code}"),
        Exit::Signal(signal) => {
            let name = usize::try_from(signal)
                .ok()
                .and_then(|signal| SIGNALS.get(signal.checked_sub(1)?))
                .map(|name| format!(" ({name})"));
            format!("failed due to signal {signal}{}", name.unwrap_or_default())
        }
    }
}
