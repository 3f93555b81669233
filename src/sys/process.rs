//! What a process does to itself and learns of its children.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::{check, last_errno};

/// How a child ended, and what it used (wait4(2), getrusage(2)).
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Its exit status, or the negative number of the signal that ended it.
    pub status: i32,
    /// Processor time in user mode.
    pub user_time: Duration,
    /// Processor time in the kernel.
    pub system_time: Duration,
    /// Largest resident set, in bytes.
    pub resident_bytes_max: u64,
}

/// Reaps the child `pid` if it has ended (wait4(2) with `WNOHANG`).
pub fn wait_for(pid: i32) -> Result<Option<Usage>, Errno> {
    let mut status = 0;
    // SAFETY: rusage is plain integers, for which all zeros is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to locals of the right types.
    let reaped = unsafe { libc::wait4(pid, &raw mut status, libc::WNOHANG, &raw mut usage) };
    if check(reaped.into())? == 0 {
        return Ok(None);
    }
    let status = if libc::WIFSIGNALED(status) {
        -libc::WTERMSIG(status)
    } else {
        libc::WEXITSTATUS(status)
    };
    Ok(Some(Usage {
        status,
        user_time: duration(usage.ru_utime),
        system_time: duration(usage.ru_stime),
        resident_bytes_max: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
    }))
}

fn duration(time: libc::timeval) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u64::try_from(time.tv_usec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(micros)
}

/// Replaces the program (execve(2)); comes back only with an error.
pub fn execve(
    program: &CStr,
    arguments: &[CString],
    environment: &[CString],
) -> Result<Infallible, Errno> {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        let strings = strings.iter().map(|string| string.as_ptr());
        strings.chain([ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: C strings and null-terminated lists of such, all alive through the call.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    Err(last_errno())
}

/// Gives back to the kernel what the allocator keeps of memory that was freed, of all threads
/// (malloc_trim(3)). Other C libraries than GNU's keep little.
pub fn return_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes an integer, and the allocator has its own locks.
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Ends this process at once: no destructor, no buffer, no exit handler (_exit(2)).
pub fn exit_now(status: i32) -> ! {
    // SAFETY: it does not return, and touches nothing of the program's.
    unsafe { libc::_exit(status) }
}

/// Sets the execution domain (personality(2)).
pub fn personality(persona: u32) -> Result<(), Errno> {
    // SAFETY: a plain integer.
    check(unsafe { libc::personality(persona.into()) }.into())?;
    Ok(())
}

/// `struct sigaction` as the kernel has it on x86-64 and AArch64, the default action.
#[repr(C)]
#[derive(Default)]
struct DefaultAction {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}

/// Signals are numbered from 1 to this (signal(7)).
const SIGNAL_MAX: libc::c_int = 64;

/// Puts every signal back to its default action and unblocks all: exec keeps ignored signals
/// ignored, and Rust's runtime ignores SIGPIPE (signal(7)). The two that the C library keeps for
/// itself are included, since a parent may have ignored them too.
pub fn reset_signals() {
    let default = DefaultAction::default();
    for signal in 1..=SIGNAL_MAX {
        // SAFETY: the struct has the kernel's layout and lives through the call; the default action
        // is no function. It fails for SIGKILL and SIGSTOP, which nobody can have changed.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                &raw const default,
                ptr::null_mut::<DefaultAction>(),
                size_of::<u64>(),
            )
        };
    }
    let none = 0_u64;
    // SAFETY: a signal set is 64 bits to the kernel, and `none` lives through the call.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            ptr::null_mut::<u64>(),
            size_of::<u64>(),
        )
    };
}

/// Ignores the signals by which a terminal or a shell ends a whole group of processes: SIGHUP,
/// SIGINT, SIGQUIT and SIGTERM (signal(2)).
pub fn ignore_signals() {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
        // SAFETY: to ignore is no function of ours.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Marks all descriptors from `first` on to be closed by exec (close_range(2), Linux 5.11).
pub fn close_from_on_exec(first: RawFd) -> Result<(), Errno> {
    // SAFETY: plain integers; nothing is closed yet.
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            RawFd::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    })?;
    Ok(())
}

/// Brings the interface `lo` of this network namespace up (netdevice(7)).
pub fn loopback_up() -> Result<(), Errno> {
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: ifreq is integers and a union of such, for which all zeros is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_LOOPBACK | libc::IFF_RUNNING) as i16;
    // SAFETY: this ioctl reads an ifreq, and `request` is one.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    check(result.into())?;
    Ok(())
}

/// Leaves the session keyring that was inherited for an empty one, so that the keys of the user's
/// login are out of reach (keyctl(2), `KEYCTL_JOIN_SESSION_KEYRING`).
pub fn join_new_session_keyring() -> Result<(), Errno> {
    // SAFETY: a null name asks for an anonymous keyring.
    check(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_JOIN_SESSION_KEYRING,
            ptr::null::<libc::c_char>(),
        )
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resident_kib() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    #[test]
    #[cfg(target_env = "gnu")]
    fn memory_that_other_threads_have_freed_is_given_back() {
        // Small pieces, with one between them that stays, so that no heap can shrink by itself.
        let fill = || {
            let pieces: Vec<Vec<u8>> = (0..400_000).map(|_| vec![1; 100]).collect();
            (vec![1; 100], pieces.len())
        };
        let threads: Vec<_> = (0..2).map(|_| std::thread::spawn(fill)).collect();
        let kept: Vec<_> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();
        let before = resident_kib();
        return_memory();
        let after = resident_kib();
        assert!(after + 20_000 < before, "{before} KiB, and {after} after");
        drop(kept);
    }
}
