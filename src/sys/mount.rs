//! Mount attributes.

use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

use crate::check;

/// Attributes to set on a mount; those it has already stay (mount_setattr(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountAttributes {
    /// Nothing can be written through it.
    pub read_only: bool,
    /// Set-user-ID and set-group-ID bits and file capabilities do not count.
    pub no_suid: bool,
    /// Device nodes do not work.
    pub no_dev: bool,
}

/// Sets attributes on the mount that `mount` is a descriptor of, and with `recursive` on all
/// mounts beneath it (mount_setattr(2), Linux 5.12).
pub fn mount_setattr(
    mount: impl AsFd,
    attributes: MountAttributes,
    recursive: bool,
) -> Result<(), Errno> {
    let mut set = 0;
    for (wanted, bit) in [
        (attributes.read_only, libc::MOUNT_ATTR_RDONLY),
        (attributes.no_suid, libc::MOUNT_ATTR_NOSUID),
        (attributes.no_dev, libc::MOUNT_ATTR_NODEV),
    ] {
        if wanted {
            set |= bit;
        }
    }
    let attr = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the path is an empty C string, `attr` lives through the call and has the size given,
    // and the descriptor is open as long as `mount` is borrowed.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    })?;
    Ok(())
}
