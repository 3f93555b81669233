//! The spawner: one thread, one loop over its sockets and its sandboxes.
//!
//! It never waits for one sandbox, so a slow set-up holds nobody up. It trusts the process that
//! started it, and takes nothing else from a sandbox than three kinds of message before the
//! program is executed.
//!
//! # Life of a sandbox
//! `Spawn` → clone3 → (user namespace at once: maps) → `Ready` → (user namespace just now: maps) →
//! (watched: `Watched`, passed on) → end of file on the status socket, which exec closes: `Started` → pidfd readable: `Exited`.
//! `Failed` or an early death instead: `Failed`, and reaped in silence.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::SocketType;
use rustix::process::{Resource, Rlimit, Signal};
use rustix::thread::{CapabilitySet, LinkNameSpaceType};

use droste_sys::{Fork, Instruction, Namespaces, SingleThreaded};

use crate::channel::{self, ChannelError, Command, Progress, Reply, retry};
use crate::error::{SetupError, Step};
use crate::init::{self, Birth, later};
use crate::launch::{Exit, ExitStatus};
use crate::request::{INSIDE_GID, INSIDE_UID, Network, Request, Stdio};
use crate::{filter, remove_tree};

/// Landlock's interface that knows the scope of abstract sockets.
const LANDLOCK_ABI_SCOPES: u32 = 6;

/// Runs until the process that started it is gone. The exit status.
pub(crate) fn run() -> i32 {
    let mut spawner = match Spawner::new() {
        Ok(spawner) => spawner,
        Err(errno) => {
            eprintln!("droste: cannot be a spawner: {errno}");
            return 1;
        }
    };
    let outcome = spawner.serve();
    spawner.end();
    match outcome {
        Ok(()) => 0,
        Err(errno) => {
            eprintln!("droste: the spawner ends: {errno}");
            1
        }
    }
}

struct Spawner {
    single: SingleThreaded,
    control: OwnedFd,
    dev_null: OwnedFd,
    watching_filter: Vec<Instruction>,
    /// It can mount and map without a user namespace of its own.
    privileged: bool,
    can_scope_sockets: bool,
    /// It can go to another network namespace and come back.
    can_share_network: bool,
    /// Made when first needed.
    empty_network: Option<OwnedFd>,
    sandboxes: BTreeMap<u64, Sandbox>,
    /// Processes that mount into live sandboxes.
    helpers: Vec<(i32, OwnedFd)>,
    scratch: BTreeSet<PathBuf>,
    /// The limit on descriptors that this process was started with, and sandboxes get.
    descriptor_limit: Rlimit,
}

struct Sandbox {
    pid: i32,
    pidfd: OwnedFd,
    /// Until the program is executed.
    status: Option<OwnedFd>,
    /// Until the caller is gone.
    reply: Option<OwnedFd>,
    root: Option<OwnedFd>,
    namespaces: Vec<OwnedFd>,
    identity: (u32, u32),
    /// `Failed` has been said: nothing more is to be said.
    failed: bool,
}

/// What to look at next.
enum Event {
    Command,
    Status(u64),
    Ended(u64),
    CallerGone(u64),
    HelperEnded(usize),
}

impl Spawner {
    fn new() -> Result<Spawner, Errno> {
        let stdin = rustix::stdio::stdin();
        if rustix::net::sockopt::socket_type(stdin)? != SocketType::SEQPACKET {
            return Err(Errno::PROTOTYPE);
        }
        let single = SingleThreaded::check()?;
        let control = rustix::io::fcntl_dupfd_cloexec(stdin, 3)?;
        let dev_null =
            rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        rustix::stdio::dup2_stdin(&dev_null)?;
        // A ^C at the terminal is for the caller, whose end is then seen in good order.
        droste_sys::ignore_signals();
        let _ = rustix::process::setsid();
        let _ = rustix::thread::set_name(c"droste-spawner");
        // Not every kernel has keyrings; where there are none, there is nothing to leave.
        let _ = droste_sys::join_new_session_keyring();
        let own_limit = rustix::process::getrlimit(Resource::Nofile);
        let descriptor_limit = Rlimit {
            current: std::env::args().nth(2).and_then(|max| max.parse().ok()),
            maximum: own_limit.maximum,
        };
        // Several descriptors a sandbox; if it cannot be raised, fewer run at once.
        let _ = rustix::process::setrlimit(
            Resource::Nofile,
            Rlimit {
                current: descriptor_limit.maximum,
                maximum: descriptor_limit.maximum,
            },
        );
        let capabilities = rustix::thread::capabilities(None)?.effective;
        let can_scope_sockets = droste_sys::landlock_abi() >= LANDLOCK_ABI_SCOPES;
        let needed = CapabilitySet::SYS_ADMIN
            | CapabilitySet::SETUID
            | CapabilitySet::SETGID
            | CapabilitySet::CHOWN;
        let privileged = rustix::process::geteuid().is_root() && capabilities.contains(needed);
        // All that it makes inherits both; to translate a filter takes longer than a process does
        // to become a program.
        rustix::thread::set_no_new_privs(true)?;
        droste_sys::seccomp_install_filter(&filter::program()).inspect_err(|errno| {
            eprintln!("droste: cannot install the system call filter: {errno}");
        })?;
        Ok(Spawner {
            single,
            control,
            dev_null,
            watching_filter: filter::watching_program(),
            privileged,
            can_scope_sockets,
            // Root in a user namespace has the capabilities, but not over the network outside.
            can_share_network: privileged && can_scope_sockets && reenter_network().is_ok(),
            empty_network: None,
            sandboxes: BTreeMap::new(),
            helpers: Vec::new(),
            scratch: BTreeSet::new(),
            descriptor_limit,
        })
    }

    fn serve(&mut self) -> Result<(), Errno> {
        loop {
            for event in self.next_events()? {
                match event {
                    Event::Command => match channel::receive(self.control.as_fd(), false) {
                        Ok((command, fds)) => self.obey(command, fds),
                        Err(ChannelError::Closed) => return Ok(()),
                        Err(ChannelError::Io(Errno::AGAIN)) => {}
                        Err(ChannelError::Io(errno)) => return Err(errno),
                        // Its answer socket is closed with it, which the caller notices.
                        Err(ChannelError::TooLarge(_) | ChannelError::Message(_)) => {}
                    },
                    Event::Status(id) => self.hear(id),
                    Event::Ended(id) => self.reap(id),
                    Event::CallerGone(id) => {
                        if let Some(sandbox) = self.sandboxes.get_mut(&id) {
                            sandbox.reply = None;
                            sandbox.kill();
                        }
                    }
                    Event::HelperEnded(index) => {
                        if let Some((pid, _)) = self.helpers.get(index)
                            && !matches!(droste_sys::wait_for(*pid), Ok(None))
                        {
                            self.helpers.remove(index);
                        }
                    }
                }
            }
        }
    }

    /// Waits until something happens. Helpers come last and backwards, since their indices change
    /// when one is removed.
    fn next_events(&self) -> Result<Vec<Event>, Errno> {
        let mut events = vec![Event::Command];
        let mut fds = vec![PollFd::new(&self.control, PollFlags::IN)];
        for (id, sandbox) in &self.sandboxes {
            if let Some(status) = &sandbox.status {
                events.push(Event::Status(*id));
                fds.push(PollFd::new(status, PollFlags::IN));
            }
            events.push(Event::Ended(*id));
            fds.push(PollFd::new(&sandbox.pidfd, PollFlags::IN));
            if let Some(reply) = &sandbox.reply {
                events.push(Event::CallerGone(*id));
                fds.push(PollFd::new(reply, PollFlags::empty()));
            }
        }
        for (index, (_, pidfd)) in self.helpers.iter().enumerate().rev() {
            events.push(Event::HelperEnded(index));
            fds.push(PollFd::new(pidfd, PollFlags::IN));
        }
        retry(|| rustix::event::poll(&mut fds, None))?;
        let happened = fds.iter().map(|fd| !fd.revents().is_empty());
        let happened: Vec<bool> = happened.collect();
        let mut happened = happened.into_iter();
        events.retain(|_| happened.next() == Some(true));
        Ok(events)
    }

    fn obey(&mut self, command: Command<'_>, mut fds: Vec<OwnedFd>) {
        match command {
            Command::WatchScratch(directory) => {
                self.scratch.insert(directory);
            }
            Command::ForgetScratch(directory) => {
                self.scratch.remove(&directory);
            }
            Command::Spawn { id, request } => {
                if fds.is_empty() {
                    return;
                }
                let reply = fds.remove(0);
                self.scratch.extend(request.scratch_dirs.iter().cloned());
                match self.spawn(&request, &fds) {
                    Ok(mut sandbox) => {
                        sandbox.reply = Some(reply);
                        self.sandboxes.insert(id, sandbox);
                    }
                    Err(error) => say(reply.as_fd(), &Reply::Failed(error), &[]),
                }
            }
            Command::MountInto { id, source, target } => {
                if fds.is_empty() {
                    return;
                }
                let reply = fds.remove(0);
                if let Err(error) = self.mount_into(id, &source, &target, reply.as_fd()) {
                    say(reply.as_fd(), &Reply::Failed(error), &[]);
                }
            }
        }
    }

    fn spawn(&mut self, request: &Request, fds: &[OwnedFd]) -> Result<Sandbox, SetupError> {
        for stdio in request.stdio {
            if let Stdio::Fd(index) = stdio
                && index as usize >= fds.len()
            {
                return Err(SetupError::new(Step::Request, Errno::BADF));
            }
        }
        let failed = |errno| SetupError::new(Step::Namespaces, errno);
        let share_network = request.network == Network::None && self.can_share_network;
        if share_network && self.empty_network.is_none() {
            self.empty_network = Some(new_network().map_err(failed)?);
        }
        let mut namespaces =
            Namespaces::MOUNT | Namespaces::PID | Namespaces::IPC | Namespaces::UTS;
        if !self.privileged {
            namespaces = namespaces | Namespaces::USER;
        }
        if request.network != Network::Host && !share_network {
            namespaces = namespaces | Namespaces::NETWORK;
        }
        let (status, sandbox_status) = channel::pair().map_err(failed)?;
        match droste_sys::clone3(&self.single, namespaces).map_err(failed)? {
            Fork::Child => init::run(&Birth {
                request,
                fds,
                status: sandbox_status.as_fd(),
                dev_null: self.dev_null.as_fd(),
                watching_filter: &self.watching_filter,
                empty_network: if share_network {
                    self.empty_network.as_ref().map(AsFd::as_fd)
                } else {
                    None
                },
                in_user_namespace: !self.privileged,
                descriptor_limit: self.descriptor_limit,
                scope_abstract_sockets: self.can_scope_sockets
                    && (share_network || request.network == Network::Host),
            }),
            Fork::Parent { pid, pidfd } => {
                let sandbox = Sandbox {
                    pid,
                    pidfd,
                    status: Some(status),
                    reply: None,
                    root: None,
                    namespaces: Vec::new(),
                    identity: (request.host_uid, request.host_gid),
                    failed: false,
                };
                if !self.privileged
                    && let Err(error) = sandbox.map_ids()
                {
                    // The caller is told now, the process reaped here: it has done nothing yet.
                    sandbox.kill();
                    sandbox.wait();
                    return Err(error);
                }
                Ok(sandbox)
            }
        }
    }

    /// Takes what a sandbox that is being set up says.
    fn hear(&mut self, id: u64) {
        let Some(sandbox) = self.sandboxes.get_mut(&id) else {
            return;
        };
        let Some(status) = &sandbox.status else {
            return;
        };
        match channel::receive(status.as_fd(), false) {
            Ok((Progress::Ready { awaits_id_map }, mut fds)) if !fds.is_empty() => {
                sandbox.root = Some(fds.remove(0));
                sandbox.namespaces = fds;
                if awaits_id_map && let Err(error) = sandbox.map_ids() {
                    sandbox.fail(error);
                }
            }
            Ok((Progress::Watched, fds)) if fds.len() == 1 => {
                // No copy stays here: it must end with the caller's.
                if let Some(reply) = &sandbox.reply {
                    say(reply.as_fd(), &Reply::Watched, &[fds[0].as_fd()]);
                }
            }
            Ok((Progress::Failed(error), _)) => sandbox.fail(error),
            Err(ChannelError::Closed) => sandbox.started(),
            Err(ChannelError::Io(Errno::AGAIN)) => {}
            Ok(_) | Err(_) => sandbox.fail(SetupError::new(Step::Died, Errno::PROTO)),
        }
    }

    fn reap(&mut self, id: u64) {
        // What it said before it ended comes first.
        while let Some(sandbox) = self.sandboxes.get(&id)
            && sandbox.status.is_some()
        {
            self.hear(id);
        }
        let Some(sandbox) = self.sandboxes.get_mut(&id) else {
            return;
        };
        let usage = match droste_sys::wait_for(sandbox.pid) {
            Ok(None) => return,
            Ok(Some(usage)) => Some(usage),
            Err(_) => None,
        };
        if let (Some(usage), Some(reply), false) = (usage, &sandbox.reply, sandbox.failed) {
            let status = ExitStatus {
                exit: match usage.status {
                    code @ 0.. => Exit::Code(code),
                    signal => Exit::Signal(-signal),
                },
                user_time: usage.user_time,
                system_time: usage.system_time,
                resident_bytes_max: usage.resident_bytes_max,
            };
            say(reply.as_fd(), &Reply::Exited(status), &[]);
        }
        self.sandboxes.remove(&id);
    }

    fn mount_into(
        &mut self,
        id: u64,
        source: &Path,
        target: &Path,
        reply: BorrowedFd<'_>,
    ) -> Result<(), SetupError> {
        let not_there = SetupError::new(Step::FindSandbox, Errno::SRCH);
        let sandbox = self.sandboxes.get(&id).ok_or(not_there.clone())?;
        let live = later::Live {
            root: sandbox.root.as_ref().ok_or(not_there)?.as_fd(),
            namespaces: &sandbox.namespaces,
        };
        // A process of its own: entering a user namespace cannot be undone.
        match droste_sys::clone3(&self.single, Namespaces::NONE)
            .map_err(|errno| SetupError::new(Step::EnterSandbox, errno))?
        {
            Fork::Child => {
                let answer = match later::mount(&live, source, target) {
                    Ok(()) => Reply::Mounted,
                    Err(error) => Reply::Failed(error),
                };
                say(reply, &answer, &[]);
                droste_sys::exit_now(0)
            }
            Fork::Parent { pid, pidfd } => {
                self.helpers.push((pid, pidfd));
                Ok(())
            }
        }
    }

    /// Leaves nothing: first the processes, with which their mounts go, then what they wrote.
    fn end(&mut self) {
        for sandbox in self.sandboxes.values() {
            sandbox.kill();
        }
        for sandbox in self.sandboxes.values() {
            sandbox.wait();
        }
        // Descriptors of roots keep file systems alive.
        self.sandboxes.clear();
        for (pid, pidfd) in &self.helpers {
            wait(*pid, pidfd);
        }
        for directory in &self.scratch {
            if let Err(errno) = remove_tree(directory)
                && errno != Errno::NOENT
            {
                eprintln!("droste: cannot remove `{}`: {errno}", directory.display());
            }
        }
    }
}

impl Sandbox {
    /// Maps the build's user and group, and lets the process go on.
    fn map_ids(&self) -> Result<(), SetupError> {
        let (uid, gid) = self.identity;
        for (file, text) in [
            ("setgroups", "deny".to_owned()),
            ("uid_map", format!("{INSIDE_UID} {uid} 1\n")),
            ("gid_map", format!("{INSIDE_GID} {gid} 1\n")),
        ] {
            let path = format!("/proc/{}/{file}", self.pid);
            let write = || {
                let flags = OFlags::WRONLY | OFlags::CLOEXEC;
                let file = rustix::fs::open(&path, flags, Mode::empty())?;
                rustix::io::write(&file, text.as_bytes())
            };
            write().map_err(|errno| SetupError::at(Step::IdMap, &path, errno))?;
        }
        let Some(status) = &self.status else {
            return Ok(());
        };
        retry(|| rustix::net::send(status, b"g", rustix::net::SendFlags::NOSIGNAL))
            .map_err(|errno| SetupError::new(Step::IdMap, errno))?;
        Ok(())
    }

    /// The status socket has been closed, by exec or by death.
    fn started(&mut self) {
        self.status = None;
        if self.failed {
            return;
        }
        let Some(root) = &self.root else {
            self.fail(SetupError::new(Step::Died, Errno::SRCH));
            return;
        };
        if let Some(reply) = &self.reply {
            say(
                reply.as_fd(),
                &Reply::Started { pid: self.pid },
                &[self.pidfd.as_fd(), root.as_fd()],
            );
        }
    }

    fn fail(&mut self, error: SetupError) {
        self.status = None;
        if !self.failed
            && let Some(reply) = self.reply.take()
        {
            say(reply.as_fd(), &Reply::Failed(error), &[]);
        }
        self.failed = true;
        self.kill();
    }

    fn kill(&self) {
        // It fails only if there is nothing left to kill.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    fn wait(&self) {
        wait(self.pid, &self.pidfd);
    }
}

/// Waits for the end of a child. The end of PID 1 comes after that of all in its namespace.
fn wait(pid: i32, pidfd: &OwnedFd) {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    let _ = retry(|| rustix::event::poll(&mut fds, None));
    let _ = droste_sys::wait_for(pid);
}

/// Tells the caller something, who may be gone.
fn say(reply: BorrowedFd<'_>, message: &Reply, fds: &[BorrowedFd<'_>]) {
    let _ = channel::send(reply, message, fds, false);
}

fn open_network() -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open("/proc/self/ns/net", flags, Mode::empty())
}

/// Enters the network namespace one is in: nothing changes, if one may.
fn reenter_network() -> Result<(), Errno> {
    let own = open_network()?;
    rustix::thread::move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Network))
}

/// A network namespace in which nothing is up.
fn new_network() -> Result<OwnedFd, Errno> {
    let own = open_network()?;
    droste_sys::unshare(Namespaces::NETWORK)?;
    let new = open_network();
    rustix::thread::move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Network))?;
    new
}
