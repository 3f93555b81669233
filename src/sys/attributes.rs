//! What a file system keeps of an inode beside what stat(2) tells and extended attributes.

use std::ffi::c_long;
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, ioctl, opcode};

/// `FS_IOC_GETFLAGS` and `FS_IOC_GETVERSION` are numbered for a long, and write an int
/// (ioctl_iflags(2)).
const GET_FLAGS: Opcode = opcode::read::<c_long>(b'f', 1);
const GET_VERSION: Opcode = opcode::read::<c_long>(b'v', 1);
/// `FS_IOC_FSGETXATTR`, and its `struct fsxattr` (linux/fs.h).
const GET_EXTENDED: Opcode = opcode::read::<Extended>(b'X', 31);
type Extended = [u32; 7];

/// Those of one inode, as far as its file system has such: flags (chattr(1)), version, project and
/// allocation hints. Its owner can change most of them, and who makes something below it may
/// inherit them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InodeAttributes {
    flags: Option<u32>,
    version: Option<u32>,
    extended: Option<Extended>,
}

/// Reads them.
pub fn inode_attributes(file: impl AsFd) -> Result<InodeAttributes, Errno> {
    let file = file.as_fd();
    // SAFETY: these calls write one int, for which there is room, or fail.
    let flags = unsafe { ioctl(file, Getter::<GET_FLAGS, u32>::new()) };
    // SAFETY: likewise.
    let version = unsafe { ioctl(file, Getter::<GET_VERSION, u32>::new()) };
    // SAFETY: this one writes a `struct fsxattr`, which is 28 bytes long, or fails.
    let extended = unsafe { ioctl(file, Getter::<GET_EXTENDED, Extended>::new()) };
    Ok(InodeAttributes {
        flags: if_known(flags)?,
        version: if_known(version)?,
        extended: if_known(extended)?,
    })
}

/// Nothing where the file system does not know of such.
fn if_known<T>(result: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(None),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::IFlags;

    use super::*;

    #[test]
    fn a_flag_that_was_set_is_seen() {
        let path = std::env::temp_dir().join(format!("droste-attributes-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        let directory = std::fs::File::open(&path).unwrap();
        let before = inode_attributes(&directory).unwrap();
        assert_eq!(inode_attributes(&directory).unwrap(), before);
        match rustix::fs::ioctl_getflags(&directory) {
            Ok(flags) => {
                assert_eq!(before.flags, Some(flags.bits()));
                rustix::fs::ioctl_setflags(&directory, flags | IFlags::NODUMP).unwrap();
                assert_ne!(inode_attributes(&directory).unwrap(), before);
            }
            Err(_) => assert_eq!(before.flags, None),
        }
        std::fs::remove_dir(&path).unwrap();
    }
}
