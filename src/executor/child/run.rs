//! Runs a child that is not known yet, once, however many ask for it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use droste_sandbox::{Network, Node, Owner, Request, Root, Running, Stdio, TmpfsSize};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use shim_core::manifest::{self, Entry, Manifest};
use store_api::BuildMode;
use store_local::FileObject;
use store_types::{ContentAddressMethod, DerivationKind, Hash, StorePath};

use super::assemble::Made;
use super::crash::is_undamaged;
use super::index::Child;
use super::outcome::{ChildFile, ChildResult, InPlace};
use crate::Executor;
use crate::build_dir::ScratchDir;
use crate::builder_env::{BUILD_DIR, Surroundings, builder_start};
use crate::error::{BuildError, environment};
use crate::log::{self, LogTail};
use crate::outputs::{Produced, open_dir_in};
use crate::users::BuildUser;

/// A child leaves at most this many files; more are not worth replaying.
const FILES_MAX: usize = 1024;

/// The status file of a child is no longer than this.
const STATUS_LEN_MAX: usize = 64;

/// How a child came to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It ran for this call.
    Built {
        /// How long that took, without waiting for its turn.
        took: Duration,
    },
    /// It was there, or ran for another call that came first.
    Reused,
}

/// A child that is to be run, if it is not known.
pub(crate) struct ChildRequest {
    /// Its derivation.
    pub(super) made: Made,
    /// Inputs that may not be in the store yet. Those that are [`Held`] are not among them.
    pub files: Vec<NewInput>,
}

/// A file that a child needs in the store.
pub(crate) struct NewInput {
    pub(super) path: StorePath,
    /// Hash and size of its NAR.
    pub(super) nar: (Hash, u64),
    pub(super) bytes: Arc<[u8]>,
}

/// Inputs that this process has seen in the store and holds there: neither the store nor the
/// caller's files need be asked for them again.
#[derive(Default)]
pub struct Held(Mutex<HashSet<StorePath>>);

/// More are not remembered.
const HELD_MAX: usize = 1 << 20;

impl Held {
    pub(super) fn has(&self, path: &StorePath) -> bool {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.contains(path)
    }

    fn add(&self, paths: impl Iterator<Item = StorePath>) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() > HELD_MAX {
            held.clear();
        }
        held.extend(paths);
    }

    /// Forgets them all: one may have been taken out of the store by force.
    fn forget(&self) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.clear();
    }
}

/// Where a child runs.
pub(super) struct ChildPlace {
    pub(super) scratch: BTreeMap<String, StorePath>,
    pub(super) user: BuildUser,
    /// Where its output lies on its way into the store.
    dir: ScratchDir,
}

/// One who waits for a child: whether it still does.
pub(crate) type IsGone<'a> = &'a (dyn Fn() -> bool + Sync);

type Answer = Result<Arc<Child>, InPlace>;

#[derive(Default)]
struct Waiting {
    answer: Mutex<Option<Answer>>,
    answered: Condvar,
    /// How many wait for the answer, apart from the one who builds.
    others: AtomicUsize,
}

impl Waiting {
    /// Waits for the answer of the one who builds.
    fn wait(&self, is_gone: IsGone<'_>) -> Answer {
        self.others.fetch_add(1, Ordering::AcqRel);
        let mut answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        let result = loop {
            if let Some(answer) = &*answer {
                break answer.clone();
            }
            if is_gone() {
                break Err(InPlace::new("caller-gone"));
            }
            (answer, _) = self
                .answered
                .wait_timeout(answer, POLL)
                .unwrap_or_else(PoisonError::into_inner);
        };
        self.others.fetch_sub(1, Ordering::AcqRel);
        result
    }
}

/// How often one who waits is asked whether it still does.
const POLL: Duration = Duration::from_millis(100);

/// The children that run right now, by derivation.
#[derive(Default)]
pub struct InFlight(Mutex<HashMap<StorePath, Arc<Waiting>>>);

/// Answers those who wait, whatever happens to the one who builds.
struct Building<'a> {
    in_flight: &'a InFlight,
    drv_path: &'a StorePath,
    waiting: Arc<Waiting>,
    answer: Option<Answer>,
}

impl Drop for Building<'_> {
    fn drop(&mut self) {
        let answer = self
            .answer
            .take()
            .unwrap_or_else(|| Err(InPlace::new("child-lost")));
        self.in_flight
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(self.drv_path);
        *self
            .waiting
            .answer
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(answer);
        self.waiting.answered.notify_all();
    }
}

impl Executor {
    /// What this child left: from memory, from another call that runs it now, or by
    /// running it. `request` is only called in the last case. A child that nobody
    /// waits for any more is killed: its caller may have been, and what it holds is
    /// needed by others.
    pub(crate) fn child(
        self: &Arc<Self>,
        drv_path: &StorePath,
        is_gone: IsGone<'_>,
        request: impl FnOnce() -> Result<ChildRequest, InPlace>,
    ) -> Result<(Arc<Child>, Origin), InPlace> {
        if let Some(child) = self.known_child(drv_path)? {
            return Ok((child, Origin::Reused));
        }
        let waiting = {
            let mut in_flight = self
                .in_flight
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if let Some(waiting) = in_flight.get(drv_path).cloned() {
                drop(in_flight);
                return waiting.wait(is_gone).map(|child| (child, Origin::Reused));
            }
            let waiting = Arc::new(Waiting::default());
            in_flight.insert(drv_path.clone(), waiting.clone());
            waiting
        };
        let is_unwanted = {
            let waiting = waiting.clone();
            move || is_gone() && waiting.others.load(Ordering::Acquire) == 0
        };
        let mut building = Building {
            in_flight: &self.in_flight,
            drv_path,
            waiting,
            answer: None,
        };
        // Another may have ended between the first look and the entry.
        let answer = match self.known_child(drv_path)? {
            Some(child) => Ok((child, Origin::Reused)),
            None => self.run_child(drv_path, request, &is_unwanted),
        };
        building.answer = Some(answer.clone().map(|(child, _)| child));
        drop(building);
        answer
    }

    /// Tells why a child did not run, unless it was killed because nobody waits for it.
    pub(super) fn not_run(
        &self,
        drv_path: &StorePath,
        error: &BuildError,
        is_unwanted: IsGone<'_>,
    ) -> InPlace {
        if is_unwanted() {
            return InPlace::new("caller-gone");
        }
        self.held.forget();
        (self.settings.diagnose)(&format!(
            "child `{drv_path}` did not run: {}",
            error.chain()
        ));
        InPlace::new("child-not-run")
    }

    /// What is remembered of a child. If its output was damaged by a crash, it is forgotten.
    pub(super) fn known_child(&self, drv_path: &StorePath) -> Result<Option<Arc<Child>>, InPlace> {
        // Without a memory, every call runs in place.
        let failed = |_| InPlace::new("index-failed");
        let Some(child) = self.workplace().index.get(drv_path).map_err(failed)? else {
            return Ok(None);
        };
        if self
            .workplace()
            .crashes
            .is_sound(&self.store, &child.output)
        {
            self.workplace().index.note_use(drv_path);
            return Ok(Some(child));
        }
        self.workplace().index.forget(drv_path).map_err(failed)?;
        Ok(None)
    }

    /// An error if one of these inputs was damaged by a crash.
    pub(super) fn check_inputs(&self, inputs: &BTreeSet<StorePath>) -> Result<(), InPlace> {
        let damaged = |path: &&StorePath| !self.workplace().crashes.is_sound(&self.store, path);
        match inputs.iter().find(damaged) {
            None => Ok(()),
            Some(path) => {
                (self.settings.diagnose)(&format!(
                    "store path `{path}` is damaged; calls that need it run in place"
                ));
                Err(InPlace::new("input-damaged"))
            }
        }
    }

    /// Takes an output out of the store that has not the content that the store says, so
    /// that it can be built again; whether that was possible.
    fn remove_damaged(&self, output: &StorePath) -> bool {
        (self.settings.diagnose)(&format!(
            "store path `{output}` is damaged and is built again"
        ));
        let paths = BTreeSet::from([output.clone()]);
        let removed = self.store.lock_paths(&paths).and_then(|_lock| {
            self.store.invalidate(&paths)?;
            self.store.remove_invalid(output)
        });
        removed.is_ok()
    }

    fn run_child(
        self: &Arc<Self>,
        drv_path: &StorePath,
        request: impl FnOnce() -> Result<ChildRequest, InPlace>,
        is_unwanted: IsGone<'_>,
    ) -> Result<(Arc<Child>, Origin), InPlace> {
        let gone = || InPlace::new("caller-gone");
        let _token = self.child_tokens.take(is_unwanted).ok_or_else(gone)?;
        let request = &request()?;
        let failed = |error: BuildError| self.not_run(drv_path, &error, is_unwanted);
        self.add_child_inputs(request).map_err(failed)?;
        self.check_inputs(&request.made.drv.input_srcs)?;
        // Nix may have built it, or a memory was lost.
        let known = self
            .known_outputs(&request.made.path, &request.made.drv)
            .map_err(failed)?;
        let (output, origin) = match known.get("out") {
            Some(output) if is_undamaged(&self.store, output) => (output.clone(), Origin::Reused),
            // The store says that it has it, so it cannot be built in its place.
            Some(output) if !self.remove_damaged(output) => {
                return Err(InPlace::new("child-damaged"));
            }
            _ => {
                let begin = Instant::now();
                let output = self.build_child(request, is_unwanted).map_err(failed)?;
                let took = begin.elapsed();
                (output, Origin::Built { took })
            }
        };
        let result = self
            .read_result(&output)
            .ok_or_else(|| InPlace::new("child-unreadable"))?;
        let child = Arc::new(Child { output, result });
        self.workplace()
            .index
            .put(&request.made.path, child.clone())
            .map_err(|_| InPlace::new("index-failed"))?;
        Ok((child, origin))
    }

    pub(super) fn add_child_inputs(&self, request: &ChildRequest) -> Result<(), BuildError> {
        let text = self.store_dir().display(&request.made.path);
        let none = BTreeSet::new();
        let references = request.made.drv.references();
        let sources = request.files.iter().map(|file| FileObject {
            name: file.path.name(),
            method: ContentAddressMethod::Nar,
            bytes: &file.bytes,
            nar: Some(file.nar),
            references: &none,
        });
        let drv = FileObject {
            name: request.made.path.name(),
            method: ContentAddressMethod::Text,
            bytes: &request.made.text,
            nar: None,
            references: &references,
        };
        let objects: Vec<FileObject<'_>> = sources.chain([drv]).collect();
        let infos = self
            .store
            .add_files(&objects)
            .map_err(environment(&text, "add the child's inputs"))?;
        debug_assert!(
            infos
                .iter()
                .zip(&request.files)
                .all(|(info, file)| info.path == file.path)
        );
        self.held
            .add(request.files.iter().map(|file| file.path.clone()));
        Ok(())
    }

    /// Runs the child's builder in a sandbox that shows it its inputs, and takes its
    /// output into the store.
    fn build_child(
        self: &Arc<Self>,
        request: &ChildRequest,
        is_unwanted: IsGone<'_>,
    ) -> Result<StorePath, BuildError> {
        let made = &request.made;
        let _lock = self.lock_child(&made.path, is_unwanted)?;
        if let Some(output) = self.known_outputs(&made.path, &made.drv)?.remove("out") {
            return Ok(output);
        }
        let text = self.store_dir().display(&made.path);
        // What is laid out beforehand need not be mounted: each mount is made, and taken down.
        let mut inputs = self
            .closure(&made.visible)
            .map_err(environment(&text, "query the input closure"))?;
        let place = self.child_place(made)?;
        let mut sandbox = self.child_sandbox(made, &place, &inputs);
        self.lay_out_beforehand(&mut sandbox, &made.manifest);
        // Those have no references.
        inputs.extend(made.drv.input_srcs.iter().cloned());
        let mut root = None;
        let log = self.run_sandbox(&text, sandbox, is_unwanted, |running| {
            root = Some(running.root().try_clone_to_owned());
        })?;
        self.take_child(made, inputs, &place, root, &log)
    }

    /// Locks a child against other processes that build it.
    pub(super) fn lock_child(
        &self,
        drv_path: &StorePath,
        is_unwanted: IsGone<'_>,
    ) -> Result<store_local::PathLocks, BuildError> {
        let text = self.store_dir().display(drv_path);
        let locked = BTreeSet::from([drv_path.clone()]);
        loop {
            let lock = self
                .store
                .try_lock_paths(&locked)
                .map_err(environment(&text, "lock the derivation"))?;
            if let Some(lock) = lock {
                return Ok(lock);
            }
            if is_unwanted() {
                return Err(BuildError::Cancelled {
                    drv: text,
                    why: "nobody waits for it any more",
                });
            }
            std::thread::sleep(POLL);
        }
    }

    /// Makes the place where a child runs.
    pub(super) fn child_place(self: &Arc<Self>, made: &Made) -> Result<ChildPlace, BuildError> {
        let text = self.store_dir().display(&made.path);
        let name = made.path.derivation_name().unwrap_or_default();
        let scratch = self.scratch_paths(&made.path, name, &made.drv, &text)?;
        let user = self.acquire_user(&text)?;
        let dir = self.make_scratch_dir(&text)?;
        Ok(ChildPlace { scratch, user, dir })
    }

    /// The sandbox of a child that sees these store paths. Its root is in memory: there are
    /// hundreds of files in it, often, and all are gone a moment later.
    pub(super) fn child_sandbox(
        &self,
        made: &Made,
        place: &ChildPlace,
        inputs: &BTreeSet<StorePath>,
    ) -> Request {
        let around = Surroundings {
            store_dir: self.store_dir(),
            cores: 1,
            scratch: &place.scratch,
            is_fixed: false,
            passes_impure: false,
            socket: None,
        };
        let start = builder_start(&made.drv, &around, |_| None);
        let root = Root::Tmpfs {
            size: TmpfsSize::Default,
        };
        let how = (Network::None, &self.settings);
        let mut sandbox = self.base_request(root, &place.user, &made.drv, how);
        let dirs = [
            Node::dir("/tmp", 0o1777),
            Node::build_dir(self.store_dir().as_str(), 0o1775),
            Node::build_dir(BUILD_DIR, 0o700),
        ];
        sandbox.nodes.splice(0..0, dirs);
        sandbox.args = start.args;
        sandbox.env = start.env.into_iter().collect();
        for (name, contents) in start.files {
            sandbox.nodes.push(Node::File {
                path: std::path::Path::new(BUILD_DIR).join(name),
                mode: 0o644,
                owner: Owner::Build,
                contents,
            });
        }
        self.add_inputs(&mut sandbox, inputs);
        sandbox
    }

    /// Runs a child's sandbox to its end. `started` is called when it runs, and may be the
    /// one who lets it go on.
    pub(super) fn run_sandbox(
        &self,
        text: &str,
        mut sandbox: Request,
        is_unwanted: IsGone<'_>,
        started: impl FnOnce(&Running),
    ) -> Result<LogTail, BuildError> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(environment(text, "make a pipe"))?;
        sandbox.stdio = [Stdio::Null, Stdio::Fd(0), Stdio::Fd(0)];
        let running = self
            .spawner
            .spawn(&sandbox, &[write.as_fd()])
            .map_err(environment(text, "start the child"))?;
        drop(write);
        started(&running);
        let kill_if_unwanted = || {
            if is_unwanted() {
                // If that fails, the sandbox has ended.
                let _ = running.kill();
            }
        };
        let log = log::follow(
            read,
            None,
            log::Limits {
                tail_lines: self.settings.log_lines,
                bytes_max: 0,
            },
            |_| true,
            kill_if_unwanted,
        );
        let status = running
            .wait()
            .map_err(environment(text, "wait for the child"))?;
        if !status.success() {
            return Err(BuildError::BuilderFailed {
                note: "",
                is_transient: false,
                drv: text.to_owned(),
                how: crate::unit::describe_exit(status.exit),
                log: log.for_error(),
            });
        }
        Ok(log)
    }

    /// Lays the files of a child out in its root, so that the runner finds them there, and takes
    /// them for what it would have made.
    fn lay_out_beforehand(&self, sandbox: &mut Request, manifest: &Manifest) {
        let has_own_root = !manifest.is_in_work_dir();
        let mut dirs = BTreeSet::new();
        let mut copies = Vec::new();
        for entry in &manifest.layout {
            let Entry::File {
                path,
                mtime_seconds,
                source,
                executable,
            } = entry
            else {
                continue;
            };
            let object = str::from_utf8(source).ok();
            let Some((object, _)) = object.and_then(|text| self.store_dir().split(text)) else {
                continue;
            };
            let inside = Path::new(OsStr::from_bytes(path));
            let path = if has_own_root && !inside.starts_with(BUILD_DIR) {
                Path::new(manifest::PREPARED_ROOT).join(inside.strip_prefix("/").unwrap_or(inside))
            } else {
                inside.to_owned()
            };
            let is_made = |dir: &&Path| ![BUILD_DIR, "/tmp", "/"].map(Path::new).contains(dir);
            let parents = path.ancestors().skip(1);
            dirs.extend(parents.take_while(is_made).map(Path::to_owned));
            copies.push(Node::Copy {
                path,
                mode: if *executable { 0o755 } else { 0o644 },
                mtime_seconds: *mtime_seconds,
                source: self.store.physical_path(&object),
            });
        }
        if has_own_root {
            dirs.insert(manifest::PREPARED_ROOT.into());
        }
        let build_dir = |path| Node::build_dir(path, 0o755);
        sandbox.nodes.extend(dirs.into_iter().map(build_dir));
        sandbox.nodes.extend(copies);
        sandbox.nodes.push(Node::File {
            path: manifest::LAID_OUT.into(),
            mode: 0o644,
            owner: Owner::Build,
            contents: Default::default(),
        });
    }

    /// Takes the output of a child that ran in `place`, with this root, into the store.
    pub(super) fn take_child(
        &self,
        made: &Made,
        candidates: BTreeSet<StorePath>,
        place: &ChildPlace,
        root: Option<std::io::Result<OwnedFd>>,
        log: &LogTail,
    ) -> Result<StorePath, BuildError> {
        let text = self.store_dir().display(&made.path);
        let outputs = root
            .unwrap_or_else(|| Err(std::io::ErrorKind::NotFound.into()))
            .and_then(|root| Ok(open_dir_in(&root, self.store_dir().as_str())?))
            .map_err(environment(&text, "open the outputs"))?;
        let mut outputs = self.take_outputs(&Produced {
            text: &text,
            drv_path: &made.path,
            name: made.path.derivation_name().unwrap_or_default(),
            drv: &made.drv,
            kind: DerivationKind::Floating,
            mode: BuildMode::Normal,
            is_locked: false,
            scratch: &place.scratch,
            candidates,
            made: outputs,
            own: &|| Ok(place.dir.path().to_owned()),
            checked_by: None,
            is_elsewhere: true,
            user: &place.user,
            log,
        })?;
        outputs
            .remove("out")
            .ok_or_else(|| BuildError::NoSuchOutput {
                drv: text,
                output: "out".into(),
            })
    }

    /// Opens a file of a child's output, at a path relative to the output.
    pub(crate) fn open_in_output(
        &self,
        output: &StorePath,
        relative: &[u8],
    ) -> rustix::io::Result<OwnedFd> {
        let path = super::tree::join(output.base_name().as_bytes(), relative);
        rustix::fs::openat2(
            self.store_tree.dir_of(&path),
            &*path,
            OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )
    }

    /// Reads what the runner left; `None` if that is no runner's work.
    pub(super) fn read_result(&self, output: &StorePath) -> Option<ChildResult> {
        let len = |name: &str| -> Option<u64> {
            let file = self.open_in_output(output, name.as_bytes()).ok()?;
            Some(rustix::fs::fstat(&file).ok()?.st_size as u64)
        };
        let status = {
            let file = self
                .open_in_output(output, manifest::STATUS.as_bytes())
                .ok()?;
            let mut bytes = [0; STATUS_LEN_MAX];
            let read = rustix::io::read(&file, &mut bytes).ok()?;
            let text = str::from_utf8(&bytes[..read]).ok()?.trim_end();
            // A call that was killed is not replayed.
            text.parse::<u8>().ok()
        };
        let odd = self
            .open_in_output(output, manifest::ODD.as_bytes())
            .is_ok();
        let mut files = Vec::new();
        let simple = self.list_files(output, &mut files).unwrap_or(false);
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Some(ChildResult {
            status: status.filter(|_| simple && !odd),
            stdout_len: len(manifest::STDOUT)?,
            stderr_len: len(manifest::STDERR)?,
            files,
        })
    }

    /// The files below the output's `files/`; false if there is anything else that
    /// had to be replayed.
    fn list_files(
        &self,
        output: &StorePath,
        files: &mut Vec<ChildFile>,
    ) -> rustix::io::Result<bool> {
        let root = super::tree::join(output.base_name().as_bytes(), manifest::FILES.as_bytes());
        let mut dirs: Vec<Vec<u8>> = vec![Vec::new()];
        let mut simple = true;
        while let Some(dir) = dirs.pop() {
            let path = if dir.is_empty() {
                root.clone()
            } else {
                super::tree::join(&root, &dir)
            };
            let listing = match self.store_tree.listing_unremembered(&path) {
                Ok(listing) => listing,
                // A call that left nothing has no such directory.
                Err(rustix::io::Errno::NOENT) if dir.is_empty() => return Ok(true),
                Err(error) => return Err(error),
            };
            if listing.is_empty() && !dir.is_empty() {
                // An empty directory would have to be made.
                simple = false;
            }
            for (name, entry) in listing {
                let path = if dir.is_empty() {
                    name.to_vec()
                } else {
                    super::tree::join(&dir, &name)
                };
                match entry {
                    super::tree::Entry::Dir => dirs.push(path),
                    super::tree::Entry::File if files.len() < FILES_MAX => {
                        let inside = super::tree::join(manifest::FILES.as_bytes(), &path);
                        let stat = rustix::fs::fstat(self.open_in_output(output, &inside)?)?;
                        files.push(ChildFile {
                            path,
                            executable: stat.st_mode & 0o100 != 0,
                            len: stat.st_size as u64,
                        });
                    }
                    _ => simple = false,
                }
            }
        }
        Ok(simple)
    }
}
