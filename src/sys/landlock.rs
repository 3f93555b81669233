//! Landlock (landlock(7)), as far as a sandbox needs it.

use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::io::Errno;

use crate::check;

/// `struct landlock_ruleset_attr` as of ABI 6.
#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// `LANDLOCK_CREATE_RULESET_VERSION`.
const CREATE_RULESET_VERSION: u32 = 1;
/// `LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET`.
const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1;

/// Version of the kernel's Landlock interface; 0 where there is none
/// (landlock_create_ruleset(2)).
pub fn landlock_abi() -> u32 {
    // SAFETY: with this flag the attribute is a null pointer of size 0 and nothing is read.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            ptr::null::<RulesetAttr>(),
            0_usize,
            CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(version).unwrap_or(0)
}

/// Forbids this thread, for good, to connect to abstract Unix sockets of processes that are not
/// under the same restriction. Needs ABI 6 and no_new_privs.
pub fn landlock_scope_abstract_sockets() -> Result<(), Errno> {
    let attr = RulesetAttr {
        handled_access_fs: 0,
        handled_access_net: 0,
        scoped: SCOPE_ABSTRACT_UNIX_SOCKET,
    };
    // SAFETY: `attr` lives through the call and has the size given.
    let ruleset = check(unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const attr,
            size_of::<RulesetAttr>(),
            0_u32,
        )
    })?;
    // SAFETY: the kernel has just opened it for us, and nobody else knows it.
    let ruleset = unsafe { OwnedFd::from_raw_fd(ruleset as RawFd) };
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0_u32) })?;
    Ok(())
}
