//! Removing a directory that a build has written to.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::channel::retry;

/// One directory on the way down.
struct Level {
    /// Its name in the one above.
    name: CString,
    /// Device and inode number of the one above.
    above: (u64, u64),
    /// Directories in it that are still to be removed.
    rest: Vec<CString>,
}

/// Removes a directory, or a file, with all that is in it, and stays on its file system.
///
/// No symbolic link is followed, not even as the last component of `path`; depth is limited by
/// memory alone. Nothing else may be at work in the tree: directories are opened up (0700) as
/// needed, and the way back up is checked, but a tree that changes may be left standing with an
/// error.
///
/// # Errors
/// The first thing that could not be removed; `NOENT` if there is nothing at `path`.
pub fn remove_tree(path: &Path) -> Result<(), Errno> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let name = CString::new(name.as_encoded_bytes()).map_err(|_| Errno::INVAL)?;
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = rustix::fs::openat(CWD, parent, flags, Mode::empty())?;
    let mut levels: Vec<Level> = Vec::new();
    let mut next = Some(name);
    loop {
        if let Some(name) = next.take() {
            if !remove_one(at.as_fd(), &name)? {
                let above = identity(at.as_fd())?;
                at = enter(at.as_fd(), &name)?;
                let rest = remove_files(at.as_fd())?;
                levels.push(Level { name, above, rest });
            }
        } else {
            let Some(level) = levels.pop() else {
                return Ok(());
            };
            at = open_directory(at.as_fd(), c"..", ResolveFlags::empty())?;
            if identity(at.as_fd())? != level.above {
                return Err(Errno::STALE);
            }
            rustix::fs::unlinkat(&at, &level.name, AtFlags::REMOVEDIR)?;
        }
        next = levels.last_mut().and_then(|level| level.rest.pop());
    }
}

/// Removes a file or an empty directory; false for a directory that is not empty.
fn remove_one(at: BorrowedFd<'_>, name: &CStr) -> Result<bool, Errno> {
    match rustix::fs::unlinkat(at, name, AtFlags::empty()) {
        Ok(()) => return Ok(true),
        // POSIX says PERM for directories, Linux ISDIR.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    match rustix::fs::unlinkat(at, name, AtFlags::REMOVEDIR) {
        Ok(()) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn identity(directory: BorrowedFd<'_>) -> Result<(u64, u64), Errno> {
    let stat = rustix::fs::fstat(directory)?;
    Ok((stat.st_dev, stat.st_ino))
}

fn open_directory(
    at: BorrowedFd<'_>,
    name: &CStr,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    retry(|| {
        rustix::fs::openat2(
            at,
            name,
            flags,
            Mode::empty(),
            resolve | ResolveFlags::NO_SYMLINKS,
        )
    })
}

/// Opens a directory to read and to remove from.
fn enter(at: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV;
    let directory = match open_directory(at, name, resolve) {
        Err(Errno::ACCESS) => {
            let stat = rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                return Err(Errno::NOTDIR);
            }
            rustix::fs::chmodat(at, name, Mode::RWXU, AtFlags::empty())?;
            open_directory(at, name, resolve)?
        }
        result => result?,
    };
    // What is missing for it shows when something is removed.
    let _ = rustix::fs::fchmod(&directory, Mode::RWXU);
    Ok(directory)
}

/// Removes what is not a directory, and the empty directories; the names of the others.
fn remove_files(directory: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut entries = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if ![c".", c".."].contains(&entry.file_name()) {
            entries.push(entry.file_name().to_owned());
        }
    }
    let mut rest = Vec::new();
    for name in entries {
        if !remove_one(directory, &name)? {
            rest.push(name);
        }
    }
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn removes_closed_directories_and_leaves_what_links_point_to() {
        let around = tempfile::tempdir().expect("a temporary directory");
        let kept = around.path().join("kept");
        std::fs::create_dir(&kept).expect("created");
        std::fs::write(kept.join("file"), "x").expect("written");
        let tree = around.path().join("tree");
        for directory in ["a/b/c", "a/d", "e"] {
            std::fs::create_dir_all(tree.join(directory)).expect("created");
        }
        std::fs::write(tree.join("a/b/c/file"), "x").expect("written");
        std::fs::write(tree.join("e/file"), "x").expect("written");
        symlink(&kept, tree.join("a/link")).expect("linked");
        for closed in ["a/b/c", "a/b", "e"] {
            let closed = tree.join(closed);
            std::fs::set_permissions(closed, PermissionsExt::from_mode(0o000)).expect("closed");
        }
        remove_tree(&tree).expect("removed");
        assert!(!tree.exists());
        assert_eq!(std::fs::read(kept.join("file")).expect("kept"), b"x");
        assert_eq!(remove_tree(&tree), Err(Errno::NOENT));
    }

    #[test]
    fn depth_is_no_limit() {
        let around = tempfile::tempdir().expect("a temporary directory");
        let tree = around.path().join("tree");
        std::fs::create_dir(&tree).expect("created");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let mut at = rustix::fs::open(&tree, flags, Mode::empty()).expect("opened");
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "directory", Mode::RWXU).expect("created");
            at = rustix::fs::openat(&at, "directory", flags, Mode::empty()).expect("opened");
        }
        remove_tree(&tree).expect("removed");
        assert!(!tree.exists());
    }

    #[test]
    fn a_link_is_removed_and_not_followed() {
        let around = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(around.path().join("kept")).expect("created");
        symlink("kept", around.path().join("link")).expect("linked");
        remove_tree(&around.path().join("link")).expect("removed");
        assert!(around.path().join("kept").exists());
        assert!(!around.path().join("link").is_symlink());
    }
}
