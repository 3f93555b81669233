//! System calls that rustix lacks or keeps unsafe.

use core::arch::asm;
use core::ffi::CStr;

use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use rustix::thread::UnshareFlags;

use crate::Strings;

#[cfg(target_arch = "x86_64")]
mod number {
    pub const CLONE: isize = 56;
    pub const EXECVE: isize = 59;
    pub const EXIT_GROUP: isize = 231;
}

#[cfg(target_arch = "aarch64")]
mod number {
    pub const CLONE: isize = 220;
    pub const EXECVE: isize = 221;
    pub const EXIT_GROUP: isize = 94;
}

/// # Safety
/// What the call does with its arguments is sound.
unsafe fn system_call(number: isize, first: usize, second: usize, third: usize) -> isize {
    let result: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the registers are those of syscall(2); the kernel overwrites no others.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") first,
            in("rsi") second,
            in("rdx") third,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the registers are those of syscall(2); the kernel overwrites no others.
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") first => result,
            in("x1") second,
            in("x2") third,
            options(nostack),
        );
    }
    result
}

/// Replaces the program (execve(2)); comes back only with an error.
pub fn execute(program: &CStr, arguments: Strings<'_>, environment: Strings<'_>) -> Errno {
    // SAFETY: a C string and lists of such that end with a null pointer, which is what `Strings`
    // stands for, all alive through the call.
    let result = unsafe {
        system_call(
            number::EXECVE,
            program.as_ptr().addr(),
            arguments.as_ptr().addr(),
            environment.as_ptr().addr(),
        )
    };
    let code = i32::try_from(-result).unwrap_or(i32::MAX);
    Errno::from_raw_os_error(code)
}

/// Copies this process (fork(2)): the new one's id, or `None` in the new one.
///
/// # Errors
/// The kernel's.
pub fn fork() -> Result<Option<Pid>, Errno> {
    let flags = Signal::CHILD.as_raw().unsigned_abs() as usize;
    // SAFETY: without CLONE_VM, the new process has a copy of all memory, this stack included,
    // and no other argument is read with these flags (clone(2)). There is one thread (invariant
    // 1), so there is no lock that a thread holds which the copy lacks.
    let result = unsafe { system_call(number::CLONE, flags, 0, 0) };
    match i32::try_from(result) {
        Ok(code @ ..0) => Err(Errno::from_raw_os_error(-code)),
        Ok(pid) => Ok(Pid::from_raw(pid)),
        Err(_) => Err(Errno::INVAL),
    }
}

/// Ends the program at once, without a destructor (exit_group(2)).
pub fn exit(status: u8) -> ! {
    loop {
        // SAFETY: it does not return, and touches nothing of the program's.
        unsafe { system_call(number::EXIT_GROUP, status.into(), 0, 0) };
    }
}

/// Standard output, which may be closed: then what is done with it fails.
pub fn stdout() -> BorrowedFd<'static> {
    // SAFETY: the number is nobody's to close.
    unsafe { BorrowedFd::borrow_raw(1) }
}

/// Standard error, which may be closed: then what is done with it fails.
pub fn stderr() -> BorrowedFd<'static> {
    // SAFETY: the number is nobody's to close.
    unsafe { BorrowedFd::borrow_raw(2) }
}

/// Moves into new user and mount namespaces (unshare(2)).
///
/// # Errors
/// The kernel's, where such are not to be had.
pub fn unshare_user_and_mounts() -> Result<(), Errno> {
    // SAFETY: the descriptors, which are what makes this unsafe, stay shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StringList;

    #[test]
    fn what_cannot_be_executed_comes_back_with_the_reason() {
        let none = StringList::from_iter([]);
        let execute = |program| execute(program, none.as_strings(), none.as_strings());
        assert_eq!(execute(c"/proc/no such file"), Errno::NOENT);
        assert_eq!(execute(c"/"), Errno::ACCESS);
    }
}
