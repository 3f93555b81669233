//! A root directory of the child's own, for files at any path.
//!
//! A builder may create files in `/build` only. In a user namespace of its own it may mount, and
//! so put together another root: a file system in memory, with what a program needs of the
//! sandbox's in it. The user stays who it was, and the tool is executed without capabilities.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use droste_sys::{MountAttributes, Namespaces};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};
use shim_core::manifest::{Manifest, PREPARED_ROOT};

use crate::error::{Context, Error};
use crate::layout::{LaidOut, State, work_dir};

/// What the sandbox shows of the kernel's.
const KERNEL_DIRS: [&str; 2] = ["/dev", "/proc"];
/// Where nothing may be created though the child does not have it: programs know it as the
/// kernel's.
const KERNEL_DIR_MISSING: &str = "/sys";

/// Makes the root and enters it. `out` is the derivation's output. If files are laid out
/// already, the directory that has them becomes the root.
pub fn enter(manifest: &Manifest, out: &Path, is_laid_out: bool) -> Result<LaidOut, Error> {
    let store = out.parent().unwrap_or(out);
    become_mounter()?;
    let root = match is_laid_out {
        true => prepared_root().map_err(failed("take the prepared directory")),
        false => new_root().map_err(failed("make a file system")),
    }?;
    let mut laid_out = LaidOut {
        top: Path::new("/"),
        entries: BTreeMap::new(),
        ignored: BTreeSet::new(),
        taken: vec![KERNEL_DIR_MISSING.into()],
        is_laid_out,
    };
    let mut builder = Builder {
        root: root.as_fd(),
        laid_out: &mut laid_out,
    };
    builder.directory(Path::new("/tmp"))?;
    for place in [store].into_iter().chain(KERNEL_DIRS.map(Path::new)) {
        builder.show_directory(place)?;
        builder.laid_out.ignored.insert(place.into());
        builder.laid_out.taken.push(place.into());
    }
    builder.show_directory(work_dir())?;
    builder.etc()?;
    if !manifest.layout.iter().any(|entry| is_in_bin(entry.path())) {
        builder.shell()?;
    }
    change_root(&root).map_err(failed("change the directory"))?;
    // Only now, after the umask.
    let tmp = Path::new("/tmp");
    std::fs::set_permissions(tmp, Permissions::from_mode(0o1777)).context(tmp)?;
    let before = LaidOut::work_dir(manifest, is_laid_out)?;
    laid_out.ignored.extend(before.ignored);
    Ok(laid_out)
}

/// Shows a file or directory at another path too, read-only.
pub fn bind(source: &Path, target: &Path) -> io::Result<()> {
    let tree = take(source).map_err(|errno| {
        // The error's place is the target; this one has to be told, too.
        io::Error::other(format!(
            "`{}`: {}",
            source.display(),
            io::Error::from(errno)
        ))
    })?;
    let attributes = MountAttributes {
        read_only: true,
        no_suid: true,
        no_dev: true,
    };
    droste_sys::mount_setattr(&tree, attributes, true)?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&tree)?.st_mode);
    if let Err(error) = make_mount_point(CWD, target, kind)
        && error != Errno::EXIST
    {
        return Err(error.into());
    }
    put(&tree, CWD, target)?;
    Ok(())
}

fn failed<E: Into<io::Error>>(step: &'static str) -> impl Fn(E) -> Error {
    move |error| Error::Root(step, error.into())
}

fn is_in_bin(path: &[u8]) -> bool {
    Path::new(OsStr::from_bytes(path)).starts_with("/bin")
}

/// Gets this process into namespaces where it may mount and is the user that it was.
fn become_mounter() -> Result<(), Error> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    droste_sys::unshare(Namespaces::USER | Namespaces::MOUNT)
        .map_err(failed("make a user namespace"))?;
    let maps = || {
        // user_namespaces(7): groups may be mapped without privilege only where setgroups is
        // denied.
        std::fs::write("/proc/self/setgroups", "deny")?;
        let (uid, gid) = (uid.as_raw(), gid.as_raw());
        std::fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
        std::fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))
    };
    maps().map_err(failed("map the user"))?;
    let flags = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    rustix::mount::mount_change("/", flags).map_err(failed("cut off the mounts"))
}

/// A new file system in memory, mounted over `/`, under which this process still has the old one.
fn new_root() -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "mode", "0755")?;
    rustix::mount::fsconfig_create(context.as_fd())?;
    let root = rustix::mount::fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV,
    )?;
    put(&root, CWD, Path::new("/"))?;
    Ok(root)
}

/// The directory in which the sandbox's maker has laid files out, mounted over `/` likewise.
fn prepared_root() -> Result<OwnedFd, Errno> {
    let root = take(Path::new(PREPARED_ROOT))?;
    put(&root, CWD, Path::new("/"))?;
    Ok(root)
}

/// What is at a path, and everything mounted beneath it, as something to mount elsewhere.
/// Mounts of a less privileged namespace can be taken with all beneath them only
/// (mount_namespaces(7)).
fn take(source: &Path) -> Result<OwnedFd, Errno> {
    rustix::mount::open_tree(
        CWD,
        source,
        OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE,
    )
}

fn put(tree: &OwnedFd, at: BorrowedFd<'_>, target: &Path) -> Result<(), Errno> {
    rustix::mount::move_mount(
        tree,
        "",
        at,
        target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
}

fn make_mount_point(at: BorrowedFd<'_>, path: &Path, kind: FileType) -> Result<(), Errno> {
    if kind == FileType::Directory {
        return rustix::fs::mkdirat(at, path, Mode::from_raw_mode(0o755));
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    rustix::fs::openat(at, path, flags, Mode::from_raw_mode(0o644)).map(drop)
}

/// Makes the new root `/`, and nothing but it (pivot_root(2), "pivot_root(".", ".")").
fn change_root(root: &OwnedFd) -> Result<(), Errno> {
    rustix::process::fchdir(root)?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")
}

/// Puts what is the sandbox's into the new root, while it is not `/` yet.
struct Builder<'a> {
    root: BorrowedFd<'a>,
    laid_out: &'a mut LaidOut,
}

/// The same path below the new root.
fn inside(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

impl Builder<'_> {
    /// Makes a directory and those that lead to it.
    fn directory(&mut self, path: &Path) -> Result<(), Error> {
        let mut parents: Vec<&Path> = path.ancestors().collect();
        parents.pop();
        for path in parents.into_iter().rev() {
            match make_mount_point(self.root, inside(path), FileType::Directory) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno).context(path),
            }
            self.laid_out
                .entries
                .insert(path.to_owned(), State::Directory);
        }
        Ok(())
    }

    /// Shows a directory of the sandbox's at its path.
    fn show_directory(&mut self, path: &Path) -> Result<(), Error> {
        self.directory(path)?;
        take(path)
            .and_then(|tree| put(&tree, self.root, inside(path)))
            .context(path)
    }

    /// `/bin/sh`, if the sandbox has one.
    fn shell(&mut self) -> Result<(), Error> {
        let path = Path::new("/bin/sh");
        if !path.exists() {
            return Ok(());
        }
        self.directory(Path::new("/bin"))?;
        make_mount_point(self.root, inside(path), FileType::RegularFile)
            .and_then(|()| take(path))
            .and_then(|tree| put(&tree, self.root, inside(path)))
            .context(path)?;
        self.laid_out.ignored.insert(path.into());
        Ok(())
    }

    /// The files of `/etc`: copies, since others may be created beside them.
    fn etc(&mut self) -> Result<(), Error> {
        let etc = Path::new("/etc");
        self.directory(etc)?;
        let Ok(entries) = etc.read_dir() else {
            return Ok(());
        };
        let paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        for path in paths {
            // A file that cannot be read is of no use to the tool either.
            let Ok(mut source) = File::open(&path) else {
                continue;
            };
            if !path.symlink_metadata().context(&path)?.is_file() {
                continue;
            }
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let mode = Mode::from_raw_mode(0o444);
            let target = rustix::fs::openat(self.root, inside(&path), flags, mode);
            let mut target = File::from(target.context(&path)?);
            io::copy(&mut source, &mut target).context(&path)?;
            let state = State::of(&target.metadata().context(&path)?);
            self.laid_out.entries.insert(path.clone(), state);
            self.laid_out.taken.push(path);
        }
        Ok(())
    }
}
