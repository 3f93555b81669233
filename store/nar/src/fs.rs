//! The file-system calls of a store: one function per kernel operation, relative
//! to a directory's descriptor, never through a symbolic link in the last
//! component.
//!
//! All of the store's file access goes through here, so that tests can make the
//! n-th call fail (feature `testing`, module `fault`).

use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, Timespec};

pub use rustix::fs::{FlockOperation, Stat};

/// The modification time of everything in a store, in seconds since 1970.
pub const STORE_MTIME_SECONDS: i64 = 1;

/// Failures on demand, for tests.
///
/// The counter belongs to the thread: tests that run at the same time do not
/// disturb one another.
#[cfg(any(test, feature = "testing"))]
pub mod fault {
    use std::cell::Cell;
    use std::io;

    thread_local! {
        static CALLS_LEFT: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// Lets `calls` more calls of this thread succeed; all after them fail, those
    /// that clean up included, as if the process had been killed.
    pub fn fail_after(calls: u64) {
        CALLS_LEFT.set(Some(calls));
    }

    /// Lets all calls succeed again; whether any had failed.
    pub fn disarm() -> bool {
        CALLS_LEFT.replace(None) == Some(0)
    }

    /// One call: passes, or fails with `EIO`.
    pub fn point() -> io::Result<()> {
        match CALLS_LEFT.get() {
            None => Ok(()),
            Some(0) => Err(rustix::io::Errno::IO.into()),
            Some(left) => {
                CALLS_LEFT.set(Some(left - 1));
                // The last one allowed leaves the counter at 0, which is also how
                // `disarm` knows that the limit was reached.
                Ok(())
            }
        }
    }
}

#[cfg(not(any(test, feature = "testing")))]
mod fault {
    #[inline(always)]
    pub(super) fn point() -> std::io::Result<()> {
        Ok(())
    }
}

/// A place where a test may let an operation fail that is not a file-system
/// call, like a database transaction.
pub fn fault_point() -> io::Result<()> {
    fault::point()
}

const CLOSE: OFlags = OFlags::CLOEXEC;

/// The kind of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Anything else, by its name.
    Other(&'static str),
}

impl Kind {
    fn from_file_type(file_type: FileType) -> Self {
        match file_type {
            FileType::RegularFile => Self::Regular,
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            FileType::Fifo => Self::Other("named pipe"),
            FileType::Socket => Self::Other("socket"),
            FileType::CharacterDevice => Self::Other("character device"),
            FileType::BlockDevice => Self::Other("block device"),
            FileType::Unknown => Self::Other("node of an unknown kind"),
        }
    }

    /// From a `stat` result.
    pub fn of(stat: &Stat) -> Self {
        Self::from_file_type(FileType::from_raw_mode(stat.st_mode))
    }
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name; neither `.` nor `..`.
    pub name: OsString,
    /// The kind, if the file system tells it in the listing.
    pub kind: Option<Kind>,
}

/// Opens a directory by its path; symbolic links in the path are followed, so
/// only for paths that the user named.
pub fn open_root(path: &Path) -> io::Result<OwnedFd> {
    fault::point()?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | CLOSE;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Opens a directory for listing.
pub fn open_dir(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    fault::point()?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | CLOSE;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// Opens a directory for listing; one that another file system is mounted on is
/// refused (`EXDEV`).
pub fn open_dir_same_mount(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    fault::point()?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | CLOSE;
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    Ok(rustix::fs::openat2(
        dir,
        name,
        flags,
        Mode::empty(),
        resolve,
    )?)
}

/// Opens a file for reading; does not wait for a named pipe's other end.
pub fn open_file(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    fault::point()?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | CLOSE;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// Opens a node only to name it: no permission on the node itself is needed.
pub fn open_node(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    fault::point()?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | CLOSE;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// Makes a file for writing that must not exist yet.
pub fn create_file(dir: BorrowedFd<'_>, name: &OsStr, mode: u32) -> io::Result<OwnedFd> {
    fault::point()?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | CLOSE;
    Ok(rustix::fs::openat(
        dir,
        name,
        flags,
        Mode::from_raw_mode(mode),
    )?)
}

/// Makes a file for writing that has no name yet (open(2), `O_TMPFILE`): it is gone if nobody
/// [names](name_file) it.
///
/// # Errors
/// Some file systems have no such files.
pub fn create_nameless(dir: BorrowedFd<'_>, mode: u32) -> io::Result<OwnedFd> {
    fault::point()?;
    let flags = OFlags::WRONLY | OFlags::TMPFILE | CLOSE;
    let mode = Mode::from_raw_mode(mode);
    Ok(rustix::fs::openat(dir, ".", flags, mode)?)
}

/// Gives a nameless file its name, and fails with `EEXIST` if that is taken.
pub fn name_file(fd: impl AsFd, dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    fault::point()?;
    // By descriptor it would take a privilege (linkat(2), `AT_EMPTY_PATH`).
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    let flags = AtFlags::SYMLINK_FOLLOW;
    Ok(rustix::fs::linkat(rustix::fs::CWD, path, dir, name, flags)?)
}

/// Gives a node another name, and fails with `EEXIST` if that is taken.
pub fn link(
    from_dir: BorrowedFd<'_>,
    from: &OsStr,
    to_dir: BorrowedFd<'_>,
    to: &OsStr,
) -> io::Result<()> {
    fault::point()?;
    let flags = AtFlags::empty();
    Ok(rustix::fs::linkat(from_dir, from, to_dir, to, flags)?)
}

/// Opens a file for reading and writing, making it if it does not exist.
pub fn open_lock_file(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    fault::point()?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | CLOSE;
    Ok(rustix::fs::openat(
        dir,
        name,
        flags,
        Mode::from_raw_mode(0o600),
    )?)
}

/// Opens a file that exists for reading and writing.
pub fn open_to_write(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    fault::point()?;
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | CLOSE;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// Gives a file this length, with space on the disk.
pub fn allocate(fd: impl AsFd, len: u64) -> io::Result<()> {
    fault::point()?;
    let flags = rustix::fs::FallocateFlags::empty();
    Ok(rustix::fs::fallocate(fd, flags, 0, len)?)
}

/// Makes a directory.
pub fn make_dir(dir: BorrowedFd<'_>, name: &OsStr, mode: u32) -> io::Result<()> {
    fault::point()?;
    Ok(rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(mode))?)
}

/// Makes a symbolic link.
pub fn make_symlink(target: &[u8], dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    fault::point()?;
    Ok(rustix::fs::symlinkat(OsStr::from_bytes(target), dir, name)?)
}

/// Where a symbolic link points.
pub fn read_link(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Vec<u8>> {
    fault::point()?;
    Ok(rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes())
}

/// What a name stands for; a symbolic link is itself.
pub fn stat(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Stat> {
    fault::point()?;
    Ok(rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// [`stat`], with `None` for what does not exist.
pub fn stat_if_exists(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<Stat>> {
    match stat(dir, name) {
        Ok(stat) => Ok(Some(stat)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a descriptor stands for.
pub fn stat_fd(fd: impl AsFd) -> io::Result<Stat> {
    fault::point()?;
    Ok(rustix::fs::fstat(fd)?)
}

/// All entries of a directory, in the file system's order.
pub fn list(dir: BorrowedFd<'_>) -> io::Result<Vec<Entry>> {
    fault::point()?;
    rustix::fs::seek(dir, rustix::fs::SeekFrom::Start(0))?;
    let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
    let mut iter = RawDir::new(dir, &mut buffer);
    let mut entries = Vec::new();
    while let Some(entry) = iter.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        entries.push(Entry {
            name: OsString::from_vec(name.to_vec()),
            kind: match entry.file_type() {
                FileType::Unknown => None,
                known => Some(Kind::from_file_type(known)),
            },
        });
    }
    Ok(entries)
}

/// Reads up to a buffer's length; 0 at the end.
pub fn read(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    fault::point()?;
    Ok(rustix::io::retry_on_intr(|| {
        rustix::io::read(&fd, &mut *buffer)
    })?)
}

/// Writes all of it.
pub fn write_all(fd: impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    fault::point()?;
    while !bytes.is_empty() {
        match rustix::io::retry_on_intr(|| rustix::io::write(&fd, bytes))? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => bytes = &bytes[written..],
        }
    }
    Ok(())
}

/// Renames; a file, or an empty directory in place of a directory, is replaced.
pub fn rename(
    from_dir: BorrowedFd<'_>,
    from: &OsStr,
    to_dir: BorrowedFd<'_>,
    to: &OsStr,
) -> io::Result<()> {
    fault::point()?;
    Ok(rustix::fs::renameat(from_dir, from, to_dir, to)?)
}

/// Cuts a file off, or lengthens it with zeros.
pub fn set_len(fd: impl AsFd, len: u64) -> io::Result<()> {
    fault::point()?;
    Ok(rustix::fs::ftruncate(fd, len)?)
}

/// Renames, and fails with `EEXIST` if the new name is taken.
pub fn rename_no_replace(
    from_dir: BorrowedFd<'_>,
    from: &OsStr,
    to_dir: BorrowedFd<'_>,
    to: &OsStr,
) -> io::Result<()> {
    fault::point()?;
    Ok(rustix::fs::renameat_with(
        from_dir,
        from,
        to_dir,
        to,
        RenameFlags::NOREPLACE,
    )?)
}

/// Removes a name that is not a directory.
pub fn unlink(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    fault::point()?;
    Ok(rustix::fs::unlinkat(dir, name, AtFlags::empty())?)
}

/// Removes an empty directory.
pub fn remove_dir(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    fault::point()?;
    Ok(rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?)
}

/// Sets the permission bits of an open file or directory.
pub fn set_mode(fd: impl AsFd, mode: u32) -> io::Result<()> {
    fault::point()?;
    Ok(rustix::fs::fchmod(fd, Mode::from_raw_mode(mode))?)
}

/// Sets the permission bits of what [`open_node`] opened; not of a symbolic link.
///
/// The kernel has `fchmodat2` for this only since 6.6; the descriptor's entry in
/// `/proc` leads to the very node, whatever happened to its name.
pub fn set_mode_of_node(node: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    fault::point()?;
    let path = format!("/proc/self/fd/{}", node.as_raw_fd());
    Ok(rustix::fs::chmod(path, Mode::from_raw_mode(mode))?)
}

fn store_times() -> rustix::fs::Timestamps {
    rustix::fs::Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: STORE_MTIME_SECONDS,
            tv_nsec: 0,
        },
    }
}

/// Sets the modification time to that of everything in a store.
pub fn set_store_mtime(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    fault::point()?;
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    Ok(rustix::fs::utimensat(dir, name, &store_times(), flags)?)
}

/// [`set_store_mtime`] of an open file or directory.
pub fn set_store_mtime_fd(fd: impl AsFd) -> io::Result<()> {
    fault::point()?;
    Ok(rustix::fs::futimens(fd, &store_times())?)
}

/// Gives a node to the calling process's effective user and group.
pub fn chown_to_self(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    fault::point()?;
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    Ok(rustix::fs::chownat(dir, name, Some(uid), Some(gid), flags)?)
}

/// The names of an open file's extended attributes; none where the file system
/// has no such thing.
pub fn list_xattrs(fd: impl AsFd) -> io::Result<Vec<OsString>> {
    fault::point()?;
    let mut names = vec![0u8; XATTR_LIST_LEN_MAX];
    match rustix::fs::flistxattr(fd, &mut names[..]) {
        Ok(len) => names.truncate(len),
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    }
    Ok(names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| OsString::from_vec(name.to_vec()))
        .collect())
}

/// The kernel's own limit (`XATTR_LIST_MAX`, xattr(7)).
const XATTR_LIST_LEN_MAX: usize = 64 * 1024;

/// Removes an extended attribute of an open file.
pub fn remove_xattr(fd: impl AsFd, name: &OsStr) -> io::Result<()> {
    fault::point()?;
    Ok(rustix::fs::fremovexattr(fd, name)?)
}

/// Takes or gives back an advisory lock; `false` if it is held elsewhere and the
/// operation is one that does not wait.
pub fn lock(fd: impl AsFd, operation: FlockOperation) -> io::Result<bool> {
    fault::point()?;
    match rustix::io::retry_on_intr(|| rustix::fs::flock(&fd, operation)) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
