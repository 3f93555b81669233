//! The caller's side: starting the spawner, asking it for sandboxes, and holding on to one.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use droste_sys::Listener;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Resource, Signal, getrlimit};
use serde::{Deserialize, Serialize};

use crate::channel::{self, ChannelError, Command, FDS_MAX, Reply};
use crate::error::Error;
use crate::request::{Mount, Request, Source};

/// The first argument that makes this executable the spawner; see [`run_if_spawner`](crate::run_if_spawner).
pub const SPAWNER_ARG: &str = "__droste-spawner";

/// A small process that starts sandboxes for this one and watches over them.
///
/// Cheap to clone and usable from any thread. When the last clone and the last [`Running`] are
/// gone, or this process dies in whatever way, the spawner kills every sandbox, removes the scratch
/// directories that were not forgotten, and ends.
#[derive(Clone, Debug)]
pub struct Spawner {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    executable: PathBuf,
    /// How many files builds may open: as many as this process when it decided to have a spawner.
    descriptors_max: Option<u64>,
    process: OnceLock<Process>,
    /// Held while it is started; what it will be told to watch.
    scratch: Mutex<BTreeSet<PathBuf>>,
    next_id: AtomicU64,
}

/// The spawner, running.
#[derive(Debug)]
struct Process {
    /// None only while it is dropped.
    control: Option<OwnedFd>,
    child: Mutex<Child>,
}

impl Process {
    fn start(executable: &Path, descriptors_max: Option<u64>) -> Result<Self, Error> {
        let (ours, theirs) = channel::pair().map_err(|errno| Error::Start(errno.into()))?;
        let child = std::process::Command::new(executable)
            .arg(SPAWNER_ARG)
            .args(descriptors_max.map(|max| max.to_string()))
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .map_err(Error::Start)?;
        Ok(Self {
            control: Some(ours),
            child: Mutex::new(child),
        })
    }

    fn send(&self, command: &Command<'_>, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let control = self.control.as_ref().ok_or(Error::SpawnerDied)?;
        channel::send(control.as_fd(), command, fds, true)
            .map_err(|error| channel_error("write to", error))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // End of file is what ends the spawner; it is waited for, so that after the last handle
        // nothing of a sandbox is left.
        self.control = None;
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = child.wait();
    }
}

impl Inner {
    /// The process, started if it is not there yet.
    fn process(&self) -> Result<&Process, Error> {
        if let Some(process) = self.process.get() {
            return Ok(process);
        }
        let scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(process) = self.process.get() {
            return Ok(process);
        }
        let process = Process::start(&self.executable, self.descriptors_max)?;
        for directory in scratch.iter() {
            process.send(&Command::WatchScratch(directory.clone()), &[])?;
        }
        Ok(self.process.get_or_init(|| process))
    }

    fn send(&self, command: &Command<'_>, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        self.process()?.send(command, fds)
    }

    /// Tells the spawner what to watch or not, now or when it starts.
    fn tell(
        &self,
        command: Command<'_>,
        remember: impl FnOnce(&mut BTreeSet<PathBuf>),
    ) -> Result<(), Error> {
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        match self.process.get() {
            Some(process) => process.send(&command, &[]),
            None => {
                remember(&mut scratch);
                Ok(())
            }
        }
    }
}

impl Spawner {
    /// Starts it: this very executable once more, with [`SPAWNER_ARG`] and how many files builds
    /// may open (if that is limited), an empty environment and a socket as standard input.
    ///
    /// Call it early: memory and descriptors of this process do not matter to the spawner, but the
    /// mount and network namespaces it has now are those that the sandboxes are made from.
    pub fn start() -> Result<Spawner, Error> {
        Spawner::start_from(Path::new("/proc/self/exe"))
    }

    /// The same, but it starts when the first sandbox is asked for: there may never be one. What it
    /// [watches](Spawner::watch_scratch) is watched from then on.
    pub fn start_when_needed() -> Spawner {
        Spawner::new(Path::new("/proc/self/exe"))
    }

    /// The same with another executable, whose `main` calls
    /// [`run_if_spawner`](crate::run_if_spawner): for tests under the standard harness, which has
    /// a `main` of its own.
    pub fn start_from(executable: &Path) -> Result<Spawner, Error> {
        let spawner = Spawner::new(executable);
        spawner.inner.process()?;
        Ok(spawner)
    }

    fn new(executable: &Path) -> Spawner {
        Spawner {
            inner: Arc::new(Inner {
                executable: executable.to_owned(),
                descriptors_max: getrlimit(Resource::Nofile).current,
                process: OnceLock::new(),
                scratch: Mutex::default(),
                next_id: AtomicU64::new(0),
            }),
        }
    }

    /// The spawner's process id, if it has been started.
    pub fn pid(&self) -> Option<u32> {
        let child = self.inner.process.get()?.child.lock();
        Some(child.unwrap_or_else(PoisonError::into_inner).id())
    }

    /// Starts one sandbox and returns when its program has been executed. `fds` are those that the
    /// request names by index; they may be closed afterwards.
    ///
    /// # Errors
    /// [`Error::Setup`] says which step failed; then nothing is left of the sandbox.
    pub fn spawn(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Running, Error> {
        if fds.len() > FDS_MAX {
            return Err(Error::TooManyFds(fds.len()));
        }
        let named = request.stdio.iter().filter_map(|stdio| match stdio {
            crate::Stdio::Fd(index) => Some(*index),
            crate::Stdio::Null => None,
        });
        let bound = request.mounts.iter().filter_map(|mount| match mount {
            Mount::Bind {
                source: Source::Fd(index),
                ..
            } => Some(*index),
            _ => None,
        });
        if let Some(index) = named
            .chain(bound)
            .find(|index| *index as usize >= fds.len())
        {
            return Err(Error::NoSuchFd(index, fds.len()));
        }
        let (ours, theirs) = channel::pair().map_err(|errno| Error::Start(errno.into()))?;
        let id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
        let mut all = vec![theirs.as_fd()];
        all.extend_from_slice(fds);
        self.inner.send(
            &Command::Spawn {
                id,
                request: Box::new(Cow::Borrowed(request)),
            },
            &all,
        )?;
        drop(theirs);
        let (mut reply, mut fds) = receive(&ours)?;
        let mut listener = None;
        if matches!(reply, Reply::Watched) {
            listener = Some(let_it_start(fds, &ours)?);
            (reply, fds) = receive(&ours)?;
        }
        let fds = <[OwnedFd; 2]>::try_from(fds);
        match (reply, fds) {
            (Reply::Started { pid }, Ok([pidfd, root])) => Ok(Running {
                listener: Mutex::new(listener),
                spawner: Arc::clone(&self.inner),
                id,
                pid,
                pidfd,
                root,
                reply: ours,
                exit: Mutex::new(None),
            }),
            (Reply::Failed(error), _) => Err(Error::Setup(error)),
            _ => Err(Error::SpawnerDied),
        }
    }

    /// Has the spawner remove this host directory, whatever is in it, when it ends.
    pub fn watch_scratch(&self, directory: &Path) -> Result<(), Error> {
        let command = Command::WatchScratch(directory.to_owned());
        self.inner.tell(command, |scratch| {
            scratch.insert(directory.to_owned());
        })
    }

    /// Takes back [`watch_scratch`](Spawner::watch_scratch) or a request's `scratch_dirs`: the
    /// directory has been removed, or is to be kept.
    pub fn forget_scratch(&self, directory: &Path) -> Result<(), Error> {
        let command = Command::ForgetScratch(directory.to_owned());
        self.inner.tell(command, |scratch| {
            scratch.remove(directory);
        })
    }
}

/// A sandbox whose program runs or has run. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    spawner: Arc<Inner>,
    id: u64,
    pid: i32,
    pidfd: OwnedFd,
    root: OwnedFd,
    listener: Mutex<Option<Listener>>,
    reply: OwnedFd,
    exit: Mutex<Option<ExitStatus>>,
}

impl Running {
    /// Process id outside of the sandbox's PID 1.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// `/` as the build sees it, as an `O_PATH` descriptor: what openat2(2) finds from it
    /// with `RESOLVE_IN_ROOT` is what the build would find. Taken before the program was executed.
    /// When the sandbox has ended, only what lies in the root itself is found, no mount.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Where the calls of a sandbox arrive that is [`watched`](Request::watched); only once, and
    /// `None` if it is not. That of executing the request's program has been allowed already.
    ///
    /// Every call has to be answered, and soon: it waits. When the listener is dropped, those that
    /// wait and all later ones fail with ENOSYS, so the sandbox is of no use any more.
    /// [`Listener::receive`] gives `None` when the sandbox has ended.
    pub fn take_listener(&self) -> Option<Listener> {
        let mut listener = self.listener.lock();
        let listener = listener.as_mut().unwrap_or_else(PoisonError::get_mut);
        listener.take()
    }

    /// Waits until the program and every other process of the sandbox have ended. Gives the same
    /// answer every time.
    pub fn wait(&self) -> Result<ExitStatus, Error> {
        loop {
            if let Some(status) = self.poll(None)? {
                return Ok(status);
            }
        }
    }

    /// Like [`wait`](Running::wait), but not longer than this.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<ExitStatus>, Error> {
        self.poll(Some(timeout))
    }

    fn poll(&self, timeout: Option<Duration>) -> Result<Option<ExitStatus>, Error> {
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        if let Some(status) = *self.exit.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(Some(status));
        }
        // Polled without the lock, so that a waiting thread does not hold up one that only looks.
        let mut fds = [PollFd::new(&self.reply, PollFlags::IN)];
        channel::retry(|| rustix::event::poll(&mut fds, timeout.as_ref()))
            .map_err(|errno| Error::Channel("wait for", errno.into()))?;
        let mut exit = self.exit.lock().unwrap_or_else(PoisonError::into_inner);
        if exit.is_none() {
            match channel::receive::<Reply>(self.reply.as_fd(), false) {
                Ok((Reply::Exited(status), _)) => *exit = Some(status),
                Ok(_) => return Err(Error::SpawnerDied),
                Err(ChannelError::Io(rustix::io::Errno::AGAIN)) => {}
                Err(error) => return Err(channel_error("read from", error)),
            }
        }
        Ok(*exit)
    }

    /// Kills every process of the sandbox. No error if they have ended already.
    pub fn kill(&self) -> Result<(), Error> {
        match rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(Error::Channel("kill a sandbox of", errno.into())),
        }
    }

    /// Makes a host path visible in the live sandbox at `target`, read-only; a symbolic link is
    /// copied. The request must have had `allow_new_mounts`. The mount point is made if it is
    /// missing; no symbolic link on the way to it is followed.
    pub fn mount_into(&self, source: &Path, target: &Path) -> Result<(), Error> {
        let (ours, theirs) = channel::pair().map_err(|errno| Error::Start(errno.into()))?;
        self.spawner.send(
            &Command::MountInto {
                id: self.id,
                source: PathBuf::from(source),
                target: PathBuf::from(target),
            },
            &[theirs.as_fd()],
        )?;
        drop(theirs);
        match receive(&ours)?.0 {
            Reply::Mounted => Ok(()),
            Reply::Failed(error) => Err(Error::Setup(error)),
            Reply::Started { .. } | Reply::Watched | Reply::Exited(_) => Err(Error::SpawnerDied),
        }
    }
}

/// Readable when the sandbox has ended (or the spawner has died), so that
/// [`wait`](Running::wait) will not block.
impl AsFd for Running {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reply.as_fd()
    }
}

/// How a sandbox ended, and what it used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// How PID 1 ended.
    pub exit: Exit,
    /// Processor time in user mode, of PID 1 and what it or its end waited for.
    pub user_time: Duration,
    /// Processor time in the kernel, likewise.
    pub system_time: Duration,
    /// Largest resident set of one process, in bytes.
    pub resident_bytes_max: u64,
}

impl ExitStatus {
    /// It exited with status 0.
    pub fn success(&self) -> bool {
        self.exit == Exit::Code(0)
    }
}

/// How a process ended (wait(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// By itself, with this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// Allows the first call of a watched sandbox, which executes the program. After that nobody
/// waits for the caller until it takes the listener.
fn let_it_start(fds: Vec<OwnedFd>, reply: &OwnedFd) -> Result<Listener, Error> {
    let failed = |errno: rustix::io::Errno| Error::Watch(errno.into());
    let [listener] = <[OwnedFd; 1]>::try_from(fds).map_err(|_| Error::SpawnerDied)?;
    let listener = Listener::from(listener);
    // If there is none, it has died, and the reply says why.
    if let Some(call) = listener.receive(reply.as_fd()).map_err(failed)? {
        listener.allow(&call).map_err(failed)?;
    }
    Ok(listener)
}

fn receive(socket: &OwnedFd) -> Result<(Reply, Vec<OwnedFd>), Error> {
    channel::receive(socket.as_fd(), true).map_err(|error| channel_error("read from", error))
}

fn channel_error(what: &'static str, error: ChannelError) -> Error {
    match error {
        ChannelError::Io(errno) => Error::Channel(what, errno.into()),
        ChannelError::TooLarge(bytes) => Error::TooLarge(bytes),
        ChannelError::Message(error) => Error::Message(error),
        ChannelError::Closed => Error::SpawnerDied,
    }
}
