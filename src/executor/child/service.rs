//! The sockets for shims, a build's or the host's: laying shims out, accepting their calls.
//!
//! The host's socket also takes a few requests of the command line (`protocol::Request`):
//!
//! - `session KEY`: calls with this value of the session's variable are counted apart, as
//!   long as the connection is open; `end` then asks for the counts, a line each, name and
//!   number with a tab between;
//! - `flush`: has the statistics written; `zero`: has them set to zero.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use droste_sandbox::{Mount, Source};
use droste_sys::ReadWatch;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::UCred;
use shim_core::protocol::{self, Answer, Call, Request};
use store_types::StorePath;

use super::call::answer;
use super::outcome::InPlace;
use super::run::Origin;
use super::tree::CallerTree;
use crate::Executor;
use crate::context::{BuildContext, Caller, Counted, HostContext};
use crate::error::{BuildError, environment};
use crate::programs::{SHIMS_NAME, write_program};
use crate::statistics::StatisticsError;
use crate::unit::BuildDir;

/// Calls of one socket that are served at once; further ones wait to be accepted.
const CALLS_MAX: usize = 2048;

/// Callers of one socket that make calls themselves, at once, while what has come of these in the
/// sandbox is held for them; further calls that fail are not compared.
const TRIALS_MAX: usize = 64;

/// How long to wait where there is nothing to wait for.
const PAUSE: Duration = Duration::from_millis(20);

/// How long calls of the host may take to end when the socket is closed.
const FINISH_MAX: Duration = Duration::from_secs(10);

/// A shim that does not send its call, or take its answer, in this time is given up.
const IO_TIMEOUT: Duration = Duration::from_secs(30);

/// The open socket of one build's shims, or of the host's.
pub struct Shims {
    stop: OwnedFd,
    thread: Option<std::thread::JoinHandle<()>>,
    /// Watches the shims that were laid over compilers.
    reads: Option<Arc<ReadWatch>>,
    was_read: Arc<AtomicBool>,
    activity: Arc<Activity>,
    /// Whose calls they are, if not a build's.
    host: Option<Arc<HostContext>>,
}

/// What a socket's clients do.
struct Activity {
    /// Calls that are served.
    calls: AtomicUsize,
    /// Calls among them that their callers make themselves.
    trials: AtomicUsize,
    /// Commands that have their calls counted.
    sessions: AtomicUsize,
    /// When the last of either ended.
    last_end: Mutex<Instant>,
}

impl Activity {
    fn new() -> Self {
        Self {
            calls: AtomicUsize::new(0),
            trials: AtomicUsize::new(0),
            sessions: AtomicUsize::new(0),
            last_end: Mutex::new(Instant::now()),
        }
    }
}

impl Shims {
    /// How long there has been nothing to do; `None` if there is.
    pub fn idle_for(&self) -> Option<Duration> {
        let is_idle = self.activity.calls.load(Ordering::Acquire) == 0
            && self.activity.sessions.load(Ordering::Acquire) == 0;
        let last_end = self
            .activity
            .last_end
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        is_idle.then(|| last_end.elapsed())
    }

    /// Closes what is open of the host's directories if no call has been served for this
    /// long: until then, file systems that calls have looked into cannot be unmounted.
    pub fn let_go_after(&self, quiet: Duration) {
        let last_end = *self
            .activity
            .last_end
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = &self.host
            && self.activity.calls.load(Ordering::Acquire) == 0
            && last_end.elapsed() >= quiet
        {
            host.tree.let_go();
        }
    }

    /// Closes the socket; calls of a build that are still served end by themselves, those
    /// of the host get some time. To be called when the build has ended. True if the build
    /// has read a shim, which to it was a compiler.
    pub fn stop(mut self) -> bool {
        self.end();
        // What cannot be known is taken for the worse.
        let last = |reads: Arc<ReadWatch>| reads.drain().unwrap_or(true);
        self.reads.take().is_some_and(last) || self.was_read.load(Ordering::Acquire)
    }

    fn end(&mut self) {
        let _ = rustix::io::write(&self.stop, b"x");
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Shims {
    fn drop(&mut self) {
        self.end();
    }
}

impl Executor {
    /// Opens the shims' socket in a build's root, and has the shims laid over the
    /// compilers among its inputs.
    pub(crate) fn open_shims(
        self: &Arc<Self>,
        text: &str,
        request: &mut droste_sandbox::Request,
        dir: &BuildDir,
        context: &Arc<BuildContext>,
        interpose: bool,
    ) -> Result<Option<Shims>, BuildError> {
        let inputs = context.allowed();
        // Its path takes a hash of all shims: not for builds that have nothing of that name.
        let may_have = inputs.iter().any(|path| path.name() == SHIMS_NAME);
        let shims_package = may_have.then(|| self.shims_package_path()).flatten();
        let by_path = shims_package
            .as_ref()
            .is_some_and(|path| inputs.contains(path));
        let reads = if interpose {
            self.lay_shims(text, request, dir, &inputs, shims_package.as_ref())?
                .map(Arc::new)
        } else {
            None
        };
        if reads.is_none() && !by_path {
            return Ok(None);
        }
        let listener =
            lay_socket(request, dir).map_err(environment(text, "open the socket for shims"))?;
        self.accept_calls(Caller::Build(context.clone()), listener, reads)
            .map(Some)
            .map_err(environment(text, "open the socket for shims"))
    }

    /// Serves shims that stand outside of any derivation, from now on. `hidden` are
    /// directories (absolute, free of symlinks) that are to look empty to them: those
    /// that hold our shims.
    ///
    /// # Errors
    /// If what calls need on disk cannot be had, the root directory opened or a thread started.
    pub fn open_host_shims(
        self: &Arc<Self>,
        listener: UnixListener,
        hidden: Vec<Vec<u8>>,
    ) -> std::io::Result<Shims> {
        self.prepare().map_err(std::io::Error::other)?;
        let root = rustix::fs::open(
            "/",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let store_dir = self.store_dir();
        let has_our_store = rustix::fs::stat(store_dir.as_str()).is_ok_and(|theirs| {
            let ours = rustix::fs::fstat(self.store.store_fd());
            ours.is_ok_and(|ours| (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino))
        });
        let tree = CallerTree::host(root, store_dir.clone(), hidden, has_our_store);
        let store = has_our_store.then(|| self.store.clone());
        let caller = Caller::Host(Arc::new(HostContext::new(tree, store)));
        self.accept_calls(caller, listener, None)
    }

    fn accept_calls(
        self: &Arc<Self>,
        caller: Caller,
        listener: UnixListener,
        reads: Option<Arc<ReadWatch>>,
    ) -> std::io::Result<Shims> {
        let (stopped, stop) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let was_read = Arc::new(AtomicBool::new(false));
        let activity = Arc::new(Activity::new());
        let host = match &caller {
            Caller::Host(host) => Some(host.clone()),
            Caller::Build(_) => None,
        };
        let accept = Accept {
            executor: self.clone(),
            caller,
            listener,
            stopped,
            reads: reads.clone(),
            was_read: was_read.clone(),
            activity: activity.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("shims".into())
            .spawn(move || accept.run())?;
        Ok(Shims {
            stop,
            thread: Some(thread),
            reads,
            was_read,
            activity,
            host,
        })
    }

    /// Has a shim mounted over each compiler driver among these store paths, and the
    /// plain store objects beside, for calls that run in place. `None` if there is no
    /// compiler, or if this machine does not have what it takes.
    fn lay_shims(
        &self,
        text: &str,
        request: &mut droste_sandbox::Request,
        dir: &BuildDir,
        inputs: &BTreeSet<StorePath>,
        shims_package: Option<&StorePath>,
    ) -> Result<Option<ReadWatch>, BuildError> {
        let with_drivers: Vec<(&StorePath, Arc<[Vec<u8>]>)> = inputs
            .iter()
            .filter(|path| Some(*path) != shims_package)
            .map(|path| (path, self.drivers_of(path)))
            .filter(|(_, drivers)| !drivers.is_empty())
            .collect();
        if with_drivers.is_empty() {
            return Ok(None);
        }
        // Without the first, nobody would notice that the build reads the shim; without the
        // second, a call that runs in place would not see its compiler at its own path.
        let Ok(watch) = ReadWatch::new() else {
            return Ok(None);
        };
        if !nested_namespaces_are_allowed() {
            return Ok(None);
        }
        // A file of this build alone: who opens it is of this build.
        let lay_out = || -> std::io::Result<PathBuf> {
            let shim = dir.own()?.join("shim");
            write_program(&shim, self.embedded.shim_cc)?;
            watch.add(&shim)?;
            Ok(shim)
        };
        let shim = lay_out().map_err(environment(text, "lay the shim out"))?;
        for (path, drivers) in with_drivers {
            let inside = self.store_dir().display(path);
            request.mounts.push(Mount::input(
                self.store.physical_path(path),
                format!("{}{inside}", protocol::PLAIN_DIR),
            ));
            for driver in drivers.iter() {
                let driver = OsStr::from_bytes(driver);
                request.mounts.push(Mount::Bind {
                    source: Source::Path(shim.clone()),
                    target: Path::new(self.store_dir().as_str()).join(driver),
                    read_only: true,
                    recursive: false,
                    devices: false,
                });
            }
        }
        Ok(Some(watch))
    }

    /// The compiler drivers in a store object, found once.
    fn drivers_of(&self, path: &StorePath) -> Arc<[Vec<u8>]> {
        if let Some(known) = self
            .drivers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(path)
        {
            return known.clone();
        }
        let found = crate::interpose::find_drivers(&self.store_tree, path);
        self.drivers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(path.clone(), found.clone());
        found
    }
}

/// Whether processes in a sandbox may make user namespaces of their own, as far as the
/// kernel tells. AppArmor's switch is the one of Ubuntu.
fn nested_namespaces_are_allowed() -> bool {
    let number = |file: &str| {
        std::fs::read_to_string(file)
            .ok()?
            .trim()
            .parse::<u64>()
            .ok()
    };
    number("/proc/sys/user/max_user_namespaces").is_none_or(|max| max > 1)
        && number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").is_none_or(|on| on == 0)
}

/// A listening socket of the build's. The path may be longer than a socket's address can be, so its
/// directory is named by descriptor.
pub(crate) fn listen(path: &Path) -> std::io::Result<UnixListener> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    let fd = rustix::fs::open(
        parent,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let short = std::path::PathBuf::from(format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&fd)
    ));
    let listener = UnixListener::bind(short.join(name))?;
    rustix::fs::chmodat(
        &fd,
        name,
        Mode::from_raw_mode(0o666),
        rustix::fs::AtFlags::empty(),
    )?;
    Ok(listener)
}

/// Makes the shims' socket, and the marker of the one warning, which all of a build's users may
/// mark, and has them mounted.
fn lay_socket(
    request: &mut droste_sandbox::Request,
    dir: &BuildDir,
) -> std::io::Result<UnixListener> {
    let (socket, marker) = (dir.own()?.join("socket"), dir.own()?.join("warned"));
    let listener = listen(&socket)?;
    std::fs::File::create(&marker)?;
    std::fs::set_permissions(&marker, PermissionsExt::from_mode(0o666))?;
    request
        .mounts
        .push(Mount::writable(socket, protocol::SOCKET_PATH));
    request
        .mounts
        .push(Mount::writable(marker, protocol::MARKER_PATH));
    Ok(listener)
}

/// Accepts the calls of one socket's shims.
struct Accept {
    executor: Arc<Executor>,
    caller: Caller,
    listener: UnixListener,
    stopped: OwnedFd,
    reads: Option<Arc<ReadWatch>>,
    was_read: Arc<AtomicBool>,
    activity: Arc<Activity>,
}

impl Accept {
    fn run(&self) {
        if self.listener.set_nonblocking(true).is_err() {
            return;
        }
        loop {
            let mut fds = vec![
                PollFd::new(&self.listener, PollFlags::IN),
                PollFd::new(&self.stopped, PollFlags::IN),
            ];
            if let Some(reads) = &self.reads {
                fds.push(PollFd::from_borrowed_fd(reads.as_fd(), PollFlags::IN));
            }
            match rustix::event::poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
            if !fds[1].revents().is_empty() {
                break;
            }
            // Taken as they come, so that none is lost for lack of room.
            if let Some(reads) = &self.reads
                && reads.drain().unwrap_or(true)
            {
                self.was_read.store(true, Ordering::Release);
            }
            if self.activity.calls.load(Ordering::Relaxed) >= CALLS_MAX {
                std::thread::sleep(PAUSE);
                continue;
            }
            match self.listener.accept() {
                Ok((stream, _)) => self.serve(stream),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                // Out of descriptors or memory: shims in the queue wait, and we do not spin.
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
        if let Caller::Host(_) = self.caller {
            self.finish();
        }
    }

    /// Serves who has connected already, and lets calls come to their end.
    fn finish(&self) {
        while let Ok((stream, _)) = self.listener.accept() {
            self.serve(stream);
        }
        let deadline = Instant::now() + FINISH_MAX;
        while self.activity.calls.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
            std::thread::sleep(PAUSE);
        }
    }

    fn serve(&self, stream: UnixStream) {
        let call = Guard::new(&self.activity, |activity| &activity.calls);
        let (executor, caller) = (self.executor.clone(), self.caller.clone());
        // If no thread can be had, the shim finds its connection closed.
        let _ = std::thread::Builder::new()
            .name("call".into())
            .spawn(move || serve(&executor, &caller, &stream, call));
    }
}

/// Counts one client as long as it lives.
struct Guard {
    activity: Arc<Activity>,
    counter: fn(&Activity) -> &AtomicUsize,
}

impl Guard {
    fn new(activity: &Arc<Activity>, counter: fn(&Activity) -> &AtomicUsize) -> Self {
        counter(activity).fetch_add(1, Ordering::AcqRel);
        Self {
            activity: activity.clone(),
            counter,
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        *self
            .activity
            .last_end
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Instant::now();
        (self.counter)(&self.activity).fetch_sub(1, Ordering::AcqRel);
    }
}

/// Serves one connection, which `guard` counts as a call.
fn serve(executor: &Arc<Executor>, caller: &Caller, stream: &UnixStream, guard: Guard) {
    let ready = stream
        .set_nonblocking(false)
        .and_then(|()| stream.set_read_timeout(Some(IO_TIMEOUT)))
        .and_then(|()| stream.set_write_timeout(Some(IO_TIMEOUT)));
    if ready.is_err() {
        return;
    }
    let seen = match caller {
        Caller::Build(_) => Ok(()),
        Caller::Host(_) => match Peer::of(stream) {
            Some(peer) if peer.is_own_user() => peer.check_view(),
            // The socket is its owner's alone.
            _ => return,
        },
    };
    // A client that sends anything else is no shim of ours; it gets no answer.
    match (protocol::receive_request(stream), caller) {
        (Ok(Some(Request::Call(call))), _) => {
            serve_call(executor, caller, stream, &call, seen, &guard.activity);
        }
        (Ok(Some(Request::Control(text))), Caller::Host(host)) => {
            let session = Guard::new(&guard.activity, |activity| &activity.sessions);
            drop(guard);
            let _session = session;
            serve_control(executor, host, stream, text);
        }
        _ => {}
    }
}

fn serve_call(
    executor: &Arc<Executor>,
    caller: &Caller,
    stream: &UnixStream,
    call: &Call,
    seen: Result<(), InPlace>,
    activity: &Arc<Activity>,
) {
    // A caller that was killed has closed its end.
    let is_gone = || {
        let mut fds = [PollFd::new(stream, PollFlags::empty())];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        rustix::event::poll(&mut fds, Some(&now)).is_ok()
            && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
    };
    let was_tried = Cell::new(false);
    let try_in_place = || {
        let _trial = Guard::new(activity, |activity| &activity.trials);
        if activity.trials.load(Ordering::Acquire) > TRIALS_MAX {
            return None;
        }
        was_tried.set(true);
        protocol::send_answer(stream, &Answer::Trial).ok()?;
        // It takes as long as the compiler takes; to tell of it does not.
        let mut fds = [PollFd::new(stream, PollFlags::IN)];
        while rustix::event::poll(&mut fds, None).is_err_and(|error| error == Errno::INTR) {}
        protocol::receive_tried(stream).ok()
    };
    let answered = seen.and_then(|()| answer(executor, caller, call, &is_gone, &try_in_place));
    let (answer, counted) = match answered {
        Ok((done, origin)) => {
            let failed = done.status != 0;
            let counted = match origin {
                Origin::Built { .. } => Counted::Built { failed },
                Origin::Reused => Counted::Reused { failed },
            };
            (Answer::Done(done), counted)
        }
        Err(reason) => {
            let text = reason.as_str().as_bytes().to_vec();
            (Answer::InPlace { reason: text }, Counted::InPlace(reason))
        }
    };
    // Before the answer: once the shim has it, the build may end and the counts be read.
    caller.count(&call.env, &counted);
    executor.statistics().count(&counted);
    let _ = match answer {
        Answer::InPlace { reason } if was_tried.get() => protocol::send_report(stream, &reason),
        _ if was_tried.get() => protocol::send_report(stream, b""),
        answer => protocol::send_answer(stream, &answer),
    };
}

/// Serves a client that asks about the server itself, until it goes.
fn serve_control(executor: &Executor, host: &HostContext, stream: &UnixStream, mut text: Vec<u8>) {
    let mut session: Option<Vec<u8>> = None;
    loop {
        let report = match text.as_slice() {
            b"flush" => text_of(executor.statistics().flush()),
            b"zero" => text_of(executor.statistics().zero()),
            b"end" => {
                let counts = session.take().map(|key| host.end_session(&key));
                let rows = counts.unwrap_or_default().rows();
                rows.iter()
                    .map(|(name, count)| format!("{name}\t{count}\n"))
                    .collect()
            }
            text => match text.strip_prefix(b"session ") {
                Some(key) => {
                    host.begin_session(key);
                    session = Some(key.to_vec());
                    String::new()
                }
                None => break,
            },
        };
        if protocol::send_report(stream, report.as_bytes()).is_err() {
            break;
        }
        // A session lasts as long as its command runs.
        if stream.set_read_timeout(None).is_err() {
            break;
        }
        match protocol::receive_request(stream) {
            Ok(Some(Request::Control(next))) => text = next,
            _ => break,
        }
    }
    if let Some(key) = session {
        host.end_session(&key);
    }
}

/// Nothing, or what went wrong.
fn text_of(result: Result<(), StatisticsError>) -> String {
    result.map_or_else(|error| error.to_string(), |()| String::new())
}

/// Who is at the other end of the host's socket.
struct Peer(UCred);

impl Peer {
    fn of(stream: &UnixStream) -> Option<Self> {
        rustix::net::sockopt::socket_peercred(stream).ok().map(Self)
    }

    fn is_own_user(&self) -> bool {
        self.0.uid == rustix::process::geteuid()
    }

    /// Whether paths mean the same to the caller as to us: it may be in a container that
    /// the socket was shown to.
    fn check_view(&self) -> Result<(), InPlace> {
        let other = || InPlace::new("other-root");
        let dir = format!("/proc/{}", self.0.pid.as_raw_nonzero());
        let link = |path: String| std::fs::read_link(path).ok();
        let mounts = link(format!("{dir}/ns/mnt")).ok_or_else(other)?;
        let id = |path: &str| {
            let stat = rustix::fs::stat(path).ok()?;
            Some((stat.st_dev, stat.st_ino))
        };
        let root = id(&format!("{dir}/root")).ok_or_else(other)?;
        if link("/proc/self/ns/mnt".into()) == Some(mounts) && id("/") == Some(root) {
            Ok(())
        } else {
            Err(other())
        }
    }
}
