//! Removing a tree that somebody hostile may have made.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use crate::fs::{self, Entry, Kind};
use crate::{DEPTH_MAX, NarError};

/// How often a directory that does not become empty is listed again without
/// anything having been moved up.
const LISTINGS_MAX: usize = 100;

/// Removes what `name` in `dir` is, with all that is in it; that nothing is there
/// is no error.
///
/// Every step is relative to an open directory, so that a name that becomes a
/// symbolic link meanwhile leads nowhere (CVE-2025-46415). Nothing is recursive
/// and few descriptors are open at a time, however deep the tree is: what lies
/// deeper than 64 directories is first moved up. Directories without
/// permissions are given them. A mount point inside is an error.
pub fn remove_tree(dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), NarError> {
    remove(dir, name, None)
}

/// [`remove_tree`], and how many bytes that sets free, as Nix counts them: the lengths of what is
/// no directory and has one name, or two, of which one is then taken to lie among the store's
/// links.
///
/// Source: nix `src/libutil/unix/file-system.cc`.
pub fn remove_tree_measured(dir: BorrowedFd<'_>, name: &OsStr) -> Result<u64, NarError> {
    let mut freed = 0;
    remove(dir, name, Some(&mut freed))?;
    Ok(freed)
}

/// How many bytes [`remove_tree_measured`] would set free; nothing is changed. What cannot be
/// read, or lies deeper than an object of a store can, is not counted.
pub fn measure_tree(dir: BorrowedFd<'_>, name: &OsStr) -> u64 {
    let mut size = 0;
    let mut stack = Vec::new();
    if let Ok(Some(stat)) = fs::stat_if_exists(dir, name) {
        size += freed_by(&stat);
        if Kind::of(&stat) == Kind::Directory {
            stack.extend(frame_of(dir, name));
        }
    }
    while let Some(frame) = stack.last_mut() {
        let Some(entry) = frame.entries.pop() else {
            stack.pop();
            continue;
        };
        let Ok(Some(stat)) = fs::stat_if_exists(frame.fd.as_fd(), &entry.name) else {
            continue;
        };
        size += freed_by(&stat);
        if Kind::of(&stat) == Kind::Directory && stack.len() < DEPTH_MAX {
            let child = stack
                .last()
                .and_then(|frame| frame_of(frame.fd.as_fd(), &entry.name));
            stack.extend(child);
        }
    }
    size
}

fn frame_of(dir: BorrowedFd<'_>, name: &OsStr) -> Option<Frame> {
    let fd = fs::open_dir_same_mount(dir, name).ok()?;
    let entries = fs::list(fd.as_fd()).ok()?;
    Some(Frame { fd, entries })
}

fn freed_by(stat: &fs::Stat) -> u64 {
    if Kind::of(stat) == Kind::Directory || stat.st_nlink > 2 {
        return 0;
    }
    u64::try_from(stat.st_size).unwrap_or(0)
}

fn remove(dir: BorrowedFd<'_>, name: &OsStr, mut freed: Option<&mut u64>) -> Result<(), NarError> {
    let mut path = PathBuf::from(name);
    match fs::stat_if_exists(dir, name) {
        Ok(None) => return Ok(()),
        Ok(Some(stat)) if Kind::of(&stat) != Kind::Directory => {
            ignore_missing(fs::unlink(dir, name)).map_err(io_error("remove", &path))?;
            if let Some(freed) = freed {
                *freed += freed_by(&stat);
            }
            return Ok(());
        }
        Ok(Some(_)) => {}
        Err(error) => return Err(io_error("examine", &path)(error)),
    }
    let mut lifted = 0u64;
    let mut stuck = 0;
    while stuck < LISTINGS_MAX {
        let lifted_before = lifted;
        let Some(root) = open_writable(dir, name, &path)? else {
            return Ok(());
        };
        empty(&root, &mut path, &mut lifted, freed.as_deref_mut())?;
        match ignore_missing(fs::remove_dir(dir, name)) {
            Ok(()) => return Ok(()),
            // What was lifted is emptied in the next round.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                stuck += usize::from(lifted == lifted_before);
            }
            Err(error) => return Err(io_error("remove", &path)(error)),
        }
    }
    Err(NarError::Io {
        operation: "empty",
        path,
        source: io::ErrorKind::DirectoryNotEmpty.into(),
    })
}

fn io_error<'a>(
    operation: &'static str,
    path: &'a std::path::Path,
) -> impl FnOnce(io::Error) -> NarError + 'a {
    move |source| NarError::Io {
        operation,
        path: path.to_owned(),
        source,
    }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Opens a directory whose entries are to be removed, with the permissions for
/// that; `None` if it is gone.
fn open_writable(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    path: &std::path::Path,
) -> Result<Option<OwnedFd>, NarError> {
    let open = || -> io::Result<OwnedFd> {
        let fd = match fs::open_dir_same_mount(dir, name) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let node = fs::open_node(dir, name)?;
                if Kind::of(&fs::stat_fd(&node)?) != Kind::Directory {
                    return Err(rustix::io::Errno::NOTDIR.into());
                }
                fs::set_mode_of_node(node.as_fd(), 0o700)?;
                fs::open_dir_same_mount(dir, name)?
            }
            other => other?,
        };
        let stat = fs::stat_fd(&fd)?;
        if stat.st_mode & 0o700 != 0o700 {
            fs::set_mode(&fd, 0o700)?;
        }
        Ok(fd)
    };
    match open() {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("open", path)(error)),
    }
}

struct Frame {
    fd: OwnedFd,
    entries: Vec<Entry>,
}

/// Removes all that is in a directory, but for what is lifted into it from too
/// deep below.
fn empty(
    root: &OwnedFd,
    path: &mut PathBuf,
    lifted: &mut u64,
    mut freed: Option<&mut u64>,
) -> Result<(), NarError> {
    let entries = fs::list(root.as_fd()).map_err(io_error("list", path))?;
    let root = root.try_clone().map_err(io_error("open", path))?;
    let mut stack = vec![Frame { fd: root, entries }];
    while let Some(frame) = stack.last_mut() {
        let Some(entry) = frame.entries.pop() else {
            stack.pop();
            if let Some(parent) = stack.last_mut() {
                let name = path.file_name().unwrap_or_default().to_owned();
                match ignore_missing(fs::remove_dir(parent.fd.as_fd(), &name)) {
                    Ok(()) => {}
                    // Somebody fills it meanwhile: the outermost will be listed again.
                    Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                    Err(error) => return Err(io_error("remove", path)(error)),
                }
                path.pop();
            }
            continue;
        };
        path.push(&entry.name);
        let is_directory = match entry.kind {
            Some(kind) => kind == Kind::Directory,
            None => match fs::stat_if_exists(frame.fd.as_fd(), &entry.name) {
                Ok(stat) => stat.is_some_and(|stat| Kind::of(&stat) == Kind::Directory),
                Err(error) => return Err(io_error("examine", path)(error)),
            },
        };
        if !is_directory {
            if let Some(freed) = freed.as_deref_mut()
                && let Ok(Some(stat)) = fs::stat_if_exists(frame.fd.as_fd(), &entry.name)
            {
                *freed += freed_by(&stat);
            }
            ignore_missing(fs::unlink(frame.fd.as_fd(), &entry.name))
                .map_err(io_error("remove", path))?;
            path.pop();
            continue;
        }
        let Some(fd) = open_writable(frame.fd.as_fd(), &entry.name, path)? else {
            path.pop();
            continue;
        };
        if stack.len() == DEPTH_MAX {
            drop(fd);
            lift(&stack, &entry.name, path, lifted)?;
            path.pop();
            continue;
        }
        let entries = fs::list(fd.as_fd()).map_err(io_error("list", path))?;
        stack.push(Frame { fd, entries });
    }
    Ok(())
}

/// Moves a directory of the innermost frame into the outermost one.
fn lift(
    stack: &[Frame],
    name: &OsStr,
    path: &std::path::Path,
    lifted: &mut u64,
) -> Result<(), NarError> {
    let (Some(root), Some(last)) = (stack.first(), stack.last()) else {
        return Ok(());
    };
    loop {
        let new_name = OsString::from(format!(".lifted-{lifted}"));
        *lifted += 1;
        match fs::rename_no_replace(last.fd.as_fd(), name, root.fd.as_fd(), &new_name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return ignore_missing(other).map_err(io_error("move", path)),
        }
    }
}
