//! Making processes and namespaces.

use std::mem::size_of;
use std::ops::BitOr;
use std::os::fd::{FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::thread::UnshareFlags;

use crate::check;

/// A set of kinds of namespaces (namespaces(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespaces(u32);

impl Namespaces {
    /// No new namespace.
    pub const NONE: Namespaces = Namespaces(0);
    /// Users and groups.
    pub const USER: Namespaces = Namespaces(libc::CLONE_NEWUSER as u32);
    /// Mounts.
    pub const MOUNT: Namespaces = Namespaces(libc::CLONE_NEWNS as u32);
    /// Process ids.
    pub const PID: Namespaces = Namespaces(libc::CLONE_NEWPID as u32);
    /// System V IPC and POSIX message queues.
    pub const IPC: Namespaces = Namespaces(libc::CLONE_NEWIPC as u32);
    /// Host name.
    pub const UTS: Namespaces = Namespaces(libc::CLONE_NEWUTS as u32);
    /// Network.
    pub const NETWORK: Namespaces = Namespaces(libc::CLONE_NEWNET as u32);
}

impl BitOr for Namespaces {
    type Output = Namespaces;

    fn bitor(self, other: Namespaces) -> Namespaces {
        Namespaces(self.0 | other.0)
    }
}

/// Evidence that this process has one thread, and the promise to start no other: only then is the
/// copy that [`clone3`] makes a sound program, free to allocate and to take locks.
#[derive(Debug)]
pub struct SingleThreaded(());

impl SingleThreaded {
    /// Counts the threads (proc(5), `/proc/self/task`). The caller starts none afterwards.
    pub fn check() -> Result<SingleThreaded, Errno> {
        let tasks = std::fs::read_dir("/proc/self/task").map_err(|_| Errno::NOSYS)?;
        if tasks.count() == 1 {
            Ok(SingleThreaded(()))
        } else {
            Err(Errno::DEADLK)
        }
    }
}

/// Which of the two one is.
#[derive(Debug)]
pub enum Fork {
    /// The new process.
    Child,
    /// The old one.
    Parent {
        /// The new process's id.
        pid: i32,
        /// The same as a descriptor, closed on exec.
        pidfd: OwnedFd,
    },
}

/// Copies this process into new namespaces, like fork(2): clone3(2) with `CLONE_PIDFD` and
/// `SIGCHLD`.
pub fn clone3(_single: &SingleThreaded, namespaces: Namespaces) -> Result<Fork, Errno> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: clone_args is plain integers, for which all zeros is a value.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = u64::from(namespaces.0) | libc::CLONE_PIDFD as u64;
    arguments.pidfd = &raw mut pidfd as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: the arguments live through the call and have the size given. No CLONE_VM: the child
    // has a copy of the memory and its own stack in it. The process has one thread (`_single`), so
    // no lock is held by a thread that the copy lacks.
    let pid = check(unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut arguments,
            size_of::<libc::clone_args>(),
        )
    })?;
    if pid == 0 {
        return Ok(Fork::Child);
    }
    // SAFETY: the kernel has just opened it for us, and nobody else knows it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Fork::Parent {
        pid: pid as i32,
        pidfd,
    })
}

/// Moves this process into new namespaces (unshare(2)). Descriptor tables stay shared.
pub fn unshare(namespaces: Namespaces) -> Result<(), Errno> {
    let flags = UnshareFlags::from_bits_retain(namespaces.0);
    // SAFETY: what makes it unsafe is CLONE_FILES, which is no namespace.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}
