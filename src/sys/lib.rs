//! Kernel operations that need `unsafe`, one thin safe function each.
//!
//! What rustix has is used from there; here is what it lacks or keeps unsafe. The functions decide
//! nothing: the order in which a sandbox calls them is `droste-sandbox`'s affair.

mod attributes;
mod fanotify;
mod fork;
mod inherited;
mod landlock;
mod lease;
mod mount;
mod notify;
mod process;
mod seccomp;
mod sockets;

pub use attributes::{InodeAttributes, inode_attributes};
pub use fanotify::ReadWatch;
pub use fork::{Fork, Namespaces, SingleThreaded, clone3, unshare};
pub use inherited::execve_as_inherited;
pub use landlock::{landlock_abi, landlock_scope_abstract_sockets};
pub use lease::{may_be_open_elsewhere, may_be_written};
pub use mount::{MountAttributes, mount_setattr};
pub use notify::{FileUser, Listener, Notification, read_c_string, read_memory};
pub use process::{
    Usage, close_from_on_exec, execve, exit_now, ignore_signals, join_new_session_keyring,
    loopback_up, personality, reset_signals, return_memory, wait_for,
};
pub use seccomp::{Instruction, seccomp_install_filter};
pub use sockets::{Credentials, peer_credentials, take_handed_over};

use rustix::io::Errno;

/// The result of a system call made by libc: −1 and `errno`, or the value.
fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result == -1 {
        Err(last_errno())
    } else {
        Ok(result)
    }
}

fn last_errno() -> Errno {
    let code = std::io::Error::last_os_error().raw_os_error();
    Errno::from_raw_os_error(code.unwrap_or(libc::EIO))
}
