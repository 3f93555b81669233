//! The process that becomes the build: from a copy of the spawner in new namespaces to the
//! program, in one straight line.
//!
//! There are two ways to the same end.
//!
//! * A spawner that is root makes the process without a user namespace. Everything is
//!   mounted as root, so the mounts belong to nothing that the build could ever have a say in; then
//!   it enters a user namespace that maps just the build's user, whose maps the spawner writes.
//! * An ordinary user can mount only in a user namespace, so the process starts in one.
//!
//! Nothing here returns: the end is the program or `_exit`.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{CWD, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags,
};
use rustix::process::{Resource, Rlimit, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets, LinkNameSpaceType};

use droste_sys::{Instruction, Listener, Namespaces};

use crate::channel::{self, Progress, retry};
use crate::error::{SetupError, Step};
use crate::place::{self, Material, Places, Take};
use crate::request::{
    INSIDE_GID, INSIDE_UID, Mount, Network, OnDisk, Personality, Request, Root, Stdio, TmpfsSize,
};

/// `ADDR_NO_RANDOMIZE` and `PER_LINUX32` (personality(2)).
const ADDR_NO_RANDOMIZE: u32 = 0x0004_0000;
const PER_LINUX32: u32 = 0x0008;

/// More capabilities than there will be: asking for a bit that the kernel does not know ends
/// the loop that drops them.
const CAPABILITY_BITS_MAX: u32 = 64;

/// What the process is born with.
pub(crate) struct Birth<'a> {
    pub(crate) request: &'a Request,
    /// The request's descriptors.
    pub(crate) fds: &'a [OwnedFd],
    /// To the spawner.
    pub(crate) status: BorrowedFd<'a>,
    pub(crate) dev_null: BorrowedFd<'a>,
    /// Of watched sandboxes.
    pub(crate) watching_filter: &'a [Instruction],
    /// An empty network namespace to enter.
    pub(crate) empty_network: Option<BorrowedFd<'a>>,
    /// It was made in a user namespace (the second way above).
    pub(crate) in_user_namespace: bool,
    pub(crate) descriptor_limit: Rlimit,
    /// Abstract sockets can be and must be cut off.
    pub(crate) scope_abstract_sockets: bool,
}

/// Becomes the program, or tells the spawner why not and exits.
pub(crate) fn run(birth: &Birth<'_>) -> ! {
    let Err(error) = become_program(birth);
    let _ = channel::send(birth.status, &Progress::Failed(error), &[], true);
    droste_sys::exit_now(127)
}

fn become_program(birth: &Birth<'_>) -> Result<Infallible, SetupError> {
    let request = birth.request;
    if birth.in_user_namespace {
        await_word(birth.status, Step::IdMap)?;
    }
    tie_to_spawner(birth.status)?;
    droste_sys::reset_signals();
    rustix::process::setsid().map_err(failed(Step::Session))?;
    rustix::process::umask(Mode::empty());
    if !birth.in_user_namespace {
        give_stdio(birth)?;
    }
    match (birth.empty_network, request.network) {
        (Some(network), _) => {
            rustix::thread::move_into_link_name_space(network, Some(LinkNameSpaceType::Network))
                .map_err(failed(Step::EnterNetwork))?;
        }
        (None, Network::Isolated | Network::None) => {
            droste_sys::loopback_up().map_err(failed(Step::Loopback))?;
        }
        (None, Network::Host) => {}
    }
    rustix::system::sethostname(b"localhost").map_err(failed(Step::HostName))?;
    rustix::system::setdomainname(b"(none)").map_err(failed(Step::HostName))?;

    let namespaces = set_up_mounts(birth)?;
    rustix::process::chdir(&request.cwd)
        .map_err(|errno| SetupError::at(Step::WorkingDirectory, &request.cwd, errno))?;
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed(Step::PivotRoot))?;

    if !birth.in_user_namespace {
        // Afterwards nobody may change the groups any more (`setgroups` is `deny`).
        match rustix::thread::set_thread_groups(&[]) {
            // Denied in the user namespace that the spawner itself is in, and then for good.
            Ok(()) | Err(Errno::PERM) => {}
            Err(errno) => return Err(SetupError::new(Step::User, errno)),
        }
        droste_sys::unshare(Namespaces::USER).map_err(failed(Step::Namespaces))?;
    }
    let mut fds = vec![root.as_fd()];
    fds.extend(namespaces.iter().map(AsFd::as_fd));
    let ready = Progress::Ready {
        awaits_id_map: !birth.in_user_namespace,
    };
    channel::send(birth.status, &ready, &fds, true)
        .map_err(|_| SetupError::new(Step::DeathSignal, Errno::PIPE))?;
    if !birth.in_user_namespace {
        await_word(birth.status, Step::IdMap)?;
    }
    give_up_privileges(birth)?;
    // A change of credentials clears it (PR_SET_PDEATHSIG, prctl(2)).
    tie_to_spawner(birth.status)?;

    set_limits(birth).map_err(failed(Step::Limits))?;
    set_stdio(birth).map_err(failed(Step::Stdio))?;
    droste_sys::close_from_on_exec(3).map_err(failed(Step::Execute))?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    execute(birth)
}

fn failed(step: Step) -> impl Fn(Errno) -> SetupError {
    move |errno| SetupError::new(step, errno)
}

/// Waits for the spawner's word that the maps are written.
fn await_word(status: BorrowedFd<'_>, step: Step) -> Result<(), SetupError> {
    let mut word = [0];
    match retry(|| rustix::io::read(status, &mut word)) {
        Ok(1) => Ok(()),
        Ok(_) => Err(SetupError::new(step, Errno::PIPE)),
        Err(errno) => Err(SetupError::new(step, errno)),
    }
}

/// From here on the end of the spawner is the end of this process. It may have ended just before.
fn tie_to_spawner(status: BorrowedFd<'_>) -> Result<(), SetupError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(failed(Step::DeathSignal))?;
    let mut fds = [PollFd::new(&status, PollFlags::empty())];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    retry(|| rustix::event::poll(&mut fds, Some(&at_once))).map_err(failed(Step::DeathSignal))?;
    if fds[0].revents().contains(PollFlags::HUP) {
        return Err(SetupError::new(Step::DeathSignal, Errno::PIPE));
    }
    Ok(())
}

/// Terminals and pipes belong to whoever made them; `/dev/stderr` is opened anew by the build.
fn give_stdio(birth: &Birth<'_>) -> Result<(), SetupError> {
    let (uid, gid) = build_user(birth.request);
    for fd in stdio(birth) {
        let kind = rustix::fs::FileType::from_raw_mode(
            rustix::fs::fstat(fd).map_err(failed(Step::Stdio))?.st_mode,
        );
        if kind == rustix::fs::FileType::Fifo || rustix::termios::isatty(fd) {
            rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(failed(Step::Stdio))?;
        }
    }
    Ok(())
}

fn build_user(request: &Request) -> (Uid, Gid) {
    (
        Uid::from_raw(request.host_uid),
        Gid::from_raw(request.host_gid),
    )
}

fn stdio<'a>(birth: &'a Birth<'_>) -> [BorrowedFd<'a>; 3] {
    birth.request.stdio.map(|stdio| match stdio {
        Stdio::Null => birth.dev_null,
        // The spawner has checked the numbers.
        Stdio::Fd(index) => birth.fds[index as usize].as_fd(),
    })
}

fn set_stdio(birth: &Birth<'_>) -> Result<(), Errno> {
    let [stdin, stdout, stderr] = stdio(birth);
    rustix::stdio::dup2_stdin(stdin)?;
    rustix::stdio::dup2_stdout(stdout)?;
    rustix::stdio::dup2_stderr(stderr)
}

/// Makes the root and everything in it, and makes it `/`. Returns the namespaces that later mounts
/// need: this mount namespace and, where there are others than the spawner's, the user namespace
/// and a mount namespace that still sees the host.
fn set_up_mounts(birth: &Birth<'_>) -> Result<Vec<OwnedFd>, SetupError> {
    let request = birth.request;
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
    )
    .map_err(failed(Step::PrivateMounts))?;

    let mut namespaces = Vec::new();
    if request.allow_new_mounts {
        let open = |kind| {
            let path = format!("/proc/self/ns/{kind}");
            rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .map_err(failed(Step::Namespaces))
        };
        if birth.in_user_namespace {
            let (user, host_view) = (open("user")?, open("mnt")?);
            droste_sys::unshare(Namespaces::MOUNT).map_err(failed(Step::Namespaces))?;
            namespaces = vec![open("mnt")?, user, host_view];
        } else {
            namespaces = vec![open("mnt")?];
        }
    }

    let build_user = (!birth.in_user_namespace).then(|| build_user(request));
    let root = make_root(&request.root, build_user)?;
    let mut places = Places::new(root.as_fd());
    place::make_nodes(&mut places, &request.nodes, build_user)?;
    for mount in &request.mounts {
        let material = match mount {
            Mount::Bind {
                source,
                read_only,
                recursive,
                devices,
                ..
            } => {
                let how = Take {
                    read_only: *read_only,
                    recursive: *recursive,
                    devices: *devices,
                };
                place::take_source(source, birth.fds, how)?
            }
            _ => Material::Tree(
                new_file_system(mount, build_user)
                    .map_err(|errno| SetupError::at(Step::Mount, mount.target(), errno))?,
                true,
            ),
        };
        place::put(&mut places, &material, mount.target())?;
    }

    // The old root comes to lie upon the new one and is taken off it (pivot_root(2)).
    rustix::process::fchdir(&root).map_err(failed(Step::PivotRoot))?;
    rustix::process::pivot_root(".", ".").map_err(failed(Step::PivotRoot))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(failed(Step::DetachOldRoot))?;
    rustix::process::chdir("/").map_err(failed(Step::PivotRoot))?;
    Ok(namespaces)
}

/// The root, mounted over `/`: this process's own root lies beneath, so that host paths still mean
/// the host's files.
fn make_root(root: &Root, build_user: place::BuildUser) -> Result<OwnedFd, SetupError> {
    let tree = match root {
        Root::Directories(_) => {
            let owner = build_user.map(|(_, gid)| (Uid::ROOT, gid));
            tmpfs(TmpfsSize::Default, 0o750, owner)
        }
        Root::Tmpfs { size } => tmpfs(*size, 0o755, None),
    }
    .map_err(failed(Step::Root))?;
    rustix::mount::move_mount(&tree, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(failed(Step::Root))?;
    if let Root::Directories(directories) = root {
        let mut places = Places::new(tree.as_fd());
        for OnDisk { source, target } in directories {
            let how = Take {
                read_only: false,
                recursive: false,
                devices: false,
            };
            let material = place::take(source, how)
                .map_err(|errno| SetupError::at(Step::Root, source, errno))?;
            if let Material::Symlink(_) = material {
                return Err(SetupError::at(Step::Root, source, Errno::LOOP));
            }
            place::put(&mut places, &material, target)?;
        }
    }
    Ok(tree)
}

fn new_file_system(mount: &Mount, build_user: place::BuildUser) -> Result<OwnedFd, Errno> {
    match mount {
        Mount::Tmpfs {
            size, mode, owner, ..
        } => tmpfs(*size, *mode, place::owner_of(*owner, build_user)),
        Mount::Proc { .. } => mount_new("proc", &[], true),
        Mount::Devpts { .. } => {
            let options = [("mode", "0620"), ("ptmxmode", "0666")];
            mount_new(
                "devpts",
                &options.map(|(key, value)| (key, value.to_owned())),
                false,
            )
        }
        Mount::Bind { .. } => Err(Errno::INVAL),
    }
}

fn tmpfs(size: TmpfsSize, mode: u32, owner: place::BuildUser) -> Result<OwnedFd, Errno> {
    let mut options = vec![("mode", format!("{mode:o}"))];
    match size {
        TmpfsSize::Default => {}
        TmpfsSize::Bytes(bytes) => options.push(("size", bytes.to_string())),
        TmpfsSize::Percent(percent) => options.push(("size", format!("{percent}%"))),
    }
    if let Some((uid, gid)) = owner {
        options.push(("uid", uid.as_raw().to_string()));
        options.push(("gid", gid.as_raw().to_string()));
    }
    mount_new("tmpfs", &options, true)
}

/// A new file system, mounted nowhere yet (fsopen(2)).
fn mount_new(kind: &str, options: &[(&str, String)], no_dev: bool) -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        rustix::mount::fsconfig_set_string(context.as_fd(), *key, value.as_str())?;
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID;
    if no_dev {
        attributes |= MountAttrFlags::MOUNT_ATTR_NODEV;
    }
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn give_up_privileges(birth: &Birth<'_>) -> Result<(), SetupError> {
    for bit in 0..CAPABILITY_BITS_MAX {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(SetupError::new(Step::Capabilities, errno)),
        }
    }
    let (uid, gid) = (Uid::from_raw(INSIDE_UID), Gid::from_raw(INSIDE_GID));
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(failed(Step::User))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(failed(Step::User))?;
    rustix::thread::clear_ambient_capability_set().map_err(failed(Step::Capabilities))?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none).map_err(failed(Step::Capabilities))?;
    // What is checked is what is so, not what was asked for.
    if (
        rustix::process::getuid(),
        rustix::process::geteuid(),
        rustix::process::getegid(),
    ) != (uid, uid, gid)
    {
        return Err(SetupError::new(Step::User, Errno::PERM));
    }
    if birth.scope_abstract_sockets {
        droste_sys::landlock_scope_abstract_sockets().map_err(failed(Step::AbstractSockets))?;
    }
    Ok(())
}

fn set_limits(birth: &Birth<'_>) -> Result<(), Errno> {
    rustix::process::setrlimit(Resource::Nofile, birth.descriptor_limit)?;
    let core = rustix::process::getrlimit(Resource::Core);
    rustix::process::setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: core.maximum,
        },
    )?;
    droste_sys::personality(match birth.request.personality {
        Personality::Linux => ADDR_NO_RANDOMIZE,
        Personality::Linux32 => ADDR_NO_RANDOMIZE | PER_LINUX32,
    })
}

fn execute(birth: &Birth<'_>) -> Result<Infallible, SetupError> {
    let request = birth.request;
    let c_string = |bytes: &[u8]| {
        CString::new(bytes)
            .map_err(|_| SetupError::at(Step::Execute, &request.program, Errno::INVAL))
    };
    let program = c_string(request.program.as_os_str().as_bytes())?;
    let mut arguments = vec![c_string(&request.argv0)?];
    for argument in &request.args {
        arguments.push(c_string(argument)?);
    }
    let mut environment = Vec::with_capacity(request.env.len());
    for (name, value) in &request.env {
        environment.push(c_string(&bstr::concat([
            name.as_slice(),
            b"=",
            value.as_slice(),
        ]))?);
    }
    if request.watched {
        // From here on only calls that are not watched, until the listener is where it is listened to.
        let listener = Listener::install(birth.watching_filter).map_err(failed(Step::Watch))?;
        channel::send(birth.status, &Progress::Watched, &[listener.as_fd()], true)
            .map_err(|_| SetupError::new(Step::Watch, Errno::PIPE))?;
        // Closed here at once, or its end would not be noticed by a call that waits.
        drop(listener);
    }
    droste_sys::execve(&program, &arguments, &environment)
        .map_err(|errno| SetupError::at(Step::Execute, &request.program, errno))
}

/// Later mounts, made by a process of its own that enters the live sandbox.
pub(crate) mod later {
    use super::*;

    /// What was kept of the sandbox.
    pub(crate) struct Live<'a> {
        pub(crate) root: BorrowedFd<'a>,
        /// As returned by the set-up.
        pub(crate) namespaces: &'a [OwnedFd],
    }

    /// Mounts the host path `source` at `target`. Changes this process's namespaces for good.
    pub(crate) fn mount(live: &Live<'_>, source: &Path, target: &Path) -> Result<(), SetupError> {
        rustix::process::umask(Mode::empty());
        let enter = |namespace: &OwnedFd, kind| {
            rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind))
                .map_err(failed(Step::EnterSandbox))
        };
        let (sandbox, rest) = live
            .namespaces
            .split_first()
            .ok_or(SetupError::new(Step::FindSandbox, Errno::OPNOTSUPP))?;
        if let [user, host_view] = rest {
            enter(user, LinkNameSpaceType::User)?;
            enter(host_view, LinkNameSpaceType::Mount)?;
        }
        let how = Take {
            read_only: true,
            recursive: false,
            devices: false,
        };
        let material = place::take(source, how)
            .map_err(|errno| SetupError::at(Step::MountSource, source, errno))?;
        enter(sandbox, LinkNameSpaceType::Mount)?;
        place::put(&mut Places::new(live.root), &material, target)
    }
}
