//! The system calls that find a file by its name, or the names in a directory, by ABI.
//!
//! What a call does with which argument is for [`lookup`](crate::lookup). Calls on extended
//! attributes are not here, since no build may make them at all (see [`filter`](crate::filter)),
//! and neither is connecting to a socket by its path.

/// What a call does with its arguments; calls that do the same share a name. `At` is for those that
/// have a directory's descriptor first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// open
    Open,
    /// openat
    OpenAt,
    /// openat2
    OpenAt2,
    /// creat
    Creat,
    /// stat, access, chdir, statfs: the path comes first, and a link is followed
    Look,
    /// lstat, readlink: the path comes first
    LookAtLink,
    /// newfstatat, faccessat2: flags are the fourth
    LookAt,
    /// statx: flags are the third
    Statx,
    /// faccessat: no flags
    FAccessAt,
    /// readlinkat
    ReadLinkAt,
    /// execve
    Execve,
    /// execveat
    ExecveAt,
    /// getdents: by descriptor
    List,
    /// mkdir, mknod
    Make,
    /// mkdirat, mknodat
    MakeAt,
    /// unlink, rmdir
    Remove,
    /// unlinkat
    RemoveAt,
    /// rename
    Rename,
    /// renameat
    RenameAt,
    /// renameat2
    RenameAt2,
    /// link
    Link,
    /// linkat
    LinkAt,
    /// symlink
    Symlink,
    /// symlinkat
    SymlinkAt,
    /// truncate, chmod, chown, utime, utimes: the path comes first, and a link is followed
    Modify,
    /// lchown
    ModifyLink,
    /// fchmodat, futimesat: no flags
    FChmodAt,
    /// fchmodat2, utimensat: flags are the fourth
    ModifyAt,
    /// fchownat: flags are the fifth
    FChownAt,
    /// name_to_handle_at
    NameToHandle,
    /// inotify_add_watch: the path is the second
    InotifyAdd,
    /// open_tree, open_tree_attr: flags are the third
    OpenTree,
    /// file_getattr: flags are the fifth
    FileAttributes,
    /// file_setattr: flags are the fifth
    SetFileAttributes,
    /// chroot, pivot_root, the mount calls, setns, fanotify_mark, open_by_handle_at and their like:
    /// they find files in other ways, or change what a path means
    Other,
}

/// The calls of one ABI, by number.
pub(crate) struct Abi {
    /// `AUDIT_ARCH_*` (seccomp(2)).
    pub(crate) arch: u32,
    /// Numbers with one of these bits are of a variant whose calls are not told apart here.
    pub(crate) variant_bits: u32,
    /// Which calls have which numbers.
    pub(crate) calls: &'static [(Call, &'static [u32])],
}

/// io_uring_setup: the same number everywhere. What a ring does would go unseen.
pub(crate) const IO_URING_SETUP: u32 = 425;

/// What the call is, if it is one of the above.
pub(crate) fn call(arch: u32, number: u32) -> Option<Call> {
    let abi = ABIS.iter().find(|abi| abi.arch == arch)?;
    let mut calls = abi.calls.iter();
    let (call, _) = calls.find(|(_, numbers)| numbers.contains(&number))?;
    Some(*call)
}

#[cfg(target_arch = "x86_64")]
pub(crate) const ABIS: &[Abi] = &[
    // x86-64; `__X32_SYSCALL_BIT` makes it x32.
    Abi {
        arch: 0xC000_003E,
        variant_bits: 0x4000_0000,
        calls: &[
            (Call::Open, &[2]),
            (Call::OpenAt, &[257]),
            (Call::OpenAt2, &[437]),
            (Call::Creat, &[85]),
            (Call::Look, &[4, 21, 80, 137]),
            (Call::LookAtLink, &[6, 89]),
            (Call::LookAt, &[262, 439]),
            (Call::Statx, &[332]),
            (Call::FAccessAt, &[269]),
            (Call::ReadLinkAt, &[267]),
            (Call::Execve, &[59]),
            (Call::ExecveAt, &[322]),
            (Call::List, &[78, 217]),
            (Call::Make, &[83, 133]),
            (Call::MakeAt, &[258, 259]),
            (Call::Remove, &[87, 84]),
            (Call::RemoveAt, &[263]),
            (Call::Rename, &[82]),
            (Call::RenameAt, &[264]),
            (Call::RenameAt2, &[316]),
            (Call::Link, &[86]),
            (Call::LinkAt, &[265]),
            (Call::Symlink, &[88]),
            (Call::SymlinkAt, &[266]),
            (Call::Modify, &[76, 90, 92, 132, 235]),
            (Call::ModifyLink, &[94]),
            (Call::FChmodAt, &[268, 261]),
            (Call::ModifyAt, &[452, 280]),
            (Call::FChownAt, &[260]),
            (Call::NameToHandle, &[303]),
            (Call::InotifyAdd, &[254]),
            (Call::OpenTree, &[428, 467]),
            (Call::FileAttributes, &[468]),
            (Call::SetFileAttributes, &[469]),
            (
                Call::Other,
                &[
                    161, 155, 165, 166, 134, 163, 167, 168, 179, 301, 304, 433, 429, 442, 308,
                ],
            ),
        ],
    },
    // i386.
    Abi {
        arch: 0x4000_0003,
        variant_bits: 0,
        calls: &[
            (Call::Open, &[5]),
            (Call::OpenAt, &[295]),
            (Call::OpenAt2, &[437]),
            (Call::Creat, &[8]),
            (Call::Look, &[106, 195, 18, 33, 12, 99, 268]),
            (Call::LookAtLink, &[107, 196, 84, 85]),
            (Call::LookAt, &[300, 439]),
            (Call::Statx, &[383]),
            (Call::FAccessAt, &[307]),
            (Call::ReadLinkAt, &[305]),
            (Call::Execve, &[11]),
            (Call::ExecveAt, &[358]),
            (Call::List, &[141, 220, 89]),
            (Call::Make, &[39, 14]),
            (Call::MakeAt, &[296, 297]),
            (Call::Remove, &[10, 40]),
            (Call::RemoveAt, &[301]),
            (Call::Rename, &[38]),
            (Call::RenameAt, &[302]),
            (Call::RenameAt2, &[353]),
            (Call::Link, &[9]),
            (Call::LinkAt, &[303]),
            (Call::Symlink, &[83]),
            (Call::SymlinkAt, &[304]),
            (Call::Modify, &[92, 193, 15, 182, 212, 30, 271]),
            (Call::ModifyLink, &[16, 198]),
            (Call::FChmodAt, &[306, 299]),
            (Call::ModifyAt, &[452, 320, 412]),
            (Call::FChownAt, &[298]),
            (Call::NameToHandle, &[341]),
            (Call::InotifyAdd, &[292]),
            (Call::OpenTree, &[428, 467]),
            (Call::FileAttributes, &[468]),
            (Call::SetFileAttributes, &[469]),
            (
                Call::Other,
                &[
                    61, 217, 21, 22, 52, 86, 51, 87, 115, 131, 339, 342, 433, 429, 442, 346,
                ],
            ),
        ],
    },
];

#[cfg(target_arch = "aarch64")]
pub(crate) const ABIS: &[Abi] = &[
    // AArch64.
    Abi {
        arch: 0xC000_00B7,
        variant_bits: 0,
        calls: &[
            (Call::OpenAt, &[56]),
            (Call::OpenAt2, &[437]),
            (Call::Look, &[49, 43]),
            (Call::LookAt, &[79, 439]),
            (Call::Statx, &[291]),
            (Call::FAccessAt, &[48]),
            (Call::ReadLinkAt, &[78]),
            (Call::Execve, &[221]),
            (Call::ExecveAt, &[281]),
            (Call::List, &[61]),
            (Call::MakeAt, &[34, 33]),
            (Call::RemoveAt, &[35]),
            (Call::RenameAt, &[38]),
            (Call::RenameAt2, &[276]),
            (Call::LinkAt, &[37]),
            (Call::SymlinkAt, &[36]),
            (Call::Modify, &[45]),
            (Call::FChmodAt, &[53]),
            (Call::ModifyAt, &[452, 88]),
            (Call::FChownAt, &[54]),
            (Call::NameToHandle, &[264]),
            (Call::InotifyAdd, &[27]),
            (Call::OpenTree, &[428, 467]),
            (Call::FileAttributes, &[468]),
            (Call::SetFileAttributes, &[469]),
            (
                Call::Other,
                &[
                    51, 41, 40, 39, 89, 224, 225, 60, 263, 265, 433, 429, 442, 268,
                ],
            ),
        ],
    },
    // 32-bit Arm.
    Abi {
        arch: 0x4000_0028,
        variant_bits: 0,
        calls: &[
            (Call::Open, &[5]),
            (Call::OpenAt, &[322]),
            (Call::OpenAt2, &[437]),
            (Call::Creat, &[8]),
            (Call::Look, &[106, 195, 33, 12, 99, 266]),
            (Call::LookAtLink, &[107, 196, 85]),
            (Call::LookAt, &[327, 439]),
            (Call::Statx, &[397]),
            (Call::FAccessAt, &[334]),
            (Call::ReadLinkAt, &[332]),
            (Call::Execve, &[11]),
            (Call::ExecveAt, &[387]),
            (Call::List, &[141, 217]),
            (Call::Make, &[39, 14]),
            (Call::MakeAt, &[323, 324]),
            (Call::Remove, &[10, 40]),
            (Call::RemoveAt, &[328]),
            (Call::Rename, &[38]),
            (Call::RenameAt, &[329]),
            (Call::RenameAt2, &[382]),
            (Call::Link, &[9]),
            (Call::LinkAt, &[330]),
            (Call::Symlink, &[83]),
            (Call::SymlinkAt, &[331]),
            (Call::Modify, &[92, 193, 15, 182, 212, 269]),
            (Call::ModifyLink, &[16, 198]),
            (Call::FChmodAt, &[333, 326]),
            (Call::ModifyAt, &[452, 348]),
            (Call::FChownAt, &[325]),
            (Call::NameToHandle, &[370]),
            (Call::InotifyAdd, &[317]),
            (Call::OpenTree, &[428, 467]),
            (Call::FileAttributes, &[468]),
            (Call::SetFileAttributes, &[469]),
            (
                Call::Other,
                &[
                    61, 218, 21, 52, 86, 51, 87, 115, 131, 368, 371, 433, 429, 442, 375,
                ],
            ),
        ],
    },
];
