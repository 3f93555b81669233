//! Making things at places in a sandbox's root, with no symbolic link followed on the way.
//!
//! The root may hold what a build left there; so every place is found from a descriptor of the root
//! by openat2(2), and is used as a descriptor from then on.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags};

use droste_sys::MountAttributes;

use crate::channel::retry;
use crate::error::{SetupError, Step};
use crate::request::{Node, Owner, Source};

/// What is at `path` in the root, as an `O_PATH` descriptor. Without `O_NOFOLLOW`, which would
/// have a link as the last component opened itself instead of refused (openat2(2),
/// `RESOLVE_NO_SYMLINKS`).
pub(crate) fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    retry(|| {
        rustix::fs::openat2(
            root,
            path,
            OFlags::PATH | OFlags::CLOEXEC | flags,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        )
    })
}

/// The directory at `path`, made with its parents if it is missing.
fn make_dirs(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    match open(root, path, OFlags::DIRECTORY) {
        Err(Errno::NOENT) => {}
        result => return result,
    }
    let mut at = open(root, Path::new("/"), OFlags::DIRECTORY)?;
    for component in path.components() {
        let name = match component {
            Component::RootDir | Component::CurDir => continue,
            Component::Normal(name) => Path::new(name),
            Component::ParentDir | Component::Prefix(_) => return Err(Errno::INVAL),
        };
        match rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            // A directory that is there already may lie where nothing can be made.
            Err(errno) if open(at.as_fd(), name, OFlags::DIRECTORY).is_err() => return Err(errno),
            Err(_) => {}
        }
        at = open(at.as_fd(), name, OFlags::DIRECTORY)?;
    }
    Ok(at)
}

/// The parent directory of `path`, made if it is missing, and the last component.
fn parent<'a>(root: BorrowedFd<'_>, path: &'a Path) -> Result<(OwnedFd, &'a OsStr), Errno> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let parent = path.parent().ok_or(Errno::INVAL)?;
    Ok((make_dirs(root, parent)?, name))
}

/// Who the build is to the file system, if files have to be given to it.
pub(crate) type BuildUser = Option<(Uid, Gid)>;

/// How much of a file is copied at once.
const BUFFER_BYTES: usize = 128 << 10;

/// Makes nodes, in order. The process has no umask.
pub(crate) fn make_nodes(
    root: BorrowedFd<'_>,
    nodes: &[Node],
    build_user: BuildUser,
) -> Result<(), SetupError> {
    let mut copier = Copier::default();
    for node in nodes {
        make_node(root, node, build_user, &mut copier)
            .map_err(|errno| SetupError::at(Step::Node, node.path(), errno))?;
    }
    Ok(())
}

/// Copies files, often hundreds, many of which lie side by side.
#[derive(Default)]
struct Copier<'n> {
    buffer: Vec<u8>,
    /// The directory of the last one.
    last: Option<(&'n Path, OwnedFd)>,
}

impl<'n> Copier<'n> {
    fn directory(&mut self, root: BorrowedFd<'_>, path: &'n Path) -> Result<&OwnedFd, Errno> {
        if !matches!(&self.last, Some((last, _)) if *last == path) {
            self.last = Some((path, make_dirs(root, path)?));
        }
        let (_, directory) = self.last.as_ref().ok_or(Errno::INVAL)?;
        Ok(directory)
    }

    fn copy(
        &mut self,
        root: BorrowedFd<'_>,
        (path, source): (&'n Path, &Path),
        (mode, mtime_seconds): (u32, i64),
        build_user: BuildUser,
    ) -> Result<(), Errno> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let source = retry(|| {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::open(source, flags, Mode::empty())
        })?;
        let stat = rustix::fs::fstat(&source)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Errno::INVAL);
        }
        let parent = self.directory(root, path.parent().ok_or(Errno::INVAL)?)?;
        let file = create(parent, name, mode)?;
        self.buffer.resize(BUFFER_BYTES, 0);
        let mut missing = stat.st_size as u64;
        while missing > 0 {
            let count = retry(|| rustix::io::read(&source, &mut *self.buffer))?;
            if count == 0 {
                // Nobody shortens a file of a store.
                return Err(Errno::IO);
            }
            write_all(&file, &self.buffer[..count])?;
            missing = missing.saturating_sub(count as u64);
        }
        if let Some((uid, gid)) = build_user {
            rustix::fs::fchown(&file, Some(uid), Some(gid))?;
        }
        let time = rustix::fs::Timespec {
            tv_sec: mtime_seconds,
            tv_nsec: 0,
        };
        rustix::fs::futimens(
            &file,
            &rustix::fs::Timestamps {
                last_access: time,
                last_modification: time,
            },
        )
    }
}

fn create(parent: impl AsFd, name: &OsStr, mode: u32) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(mode))
}

fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let written = retry(|| rustix::io::write(file, bytes))?;
        bytes = &bytes[written..];
    }
    Ok(())
}

fn make_node<'n>(
    root: BorrowedFd<'_>,
    node: &'n Node,
    build_user: BuildUser,
    copier: &mut Copier<'n>,
) -> Result<(), Errno> {
    match node {
        Node::Dir { path, mode, owner } => {
            make_dir(root, path, *mode, owner_of(*owner, build_user))
        }
        Node::File {
            path,
            mode,
            owner,
            contents,
        } => {
            let (parent, name) = parent(root, path)?;
            let file = create(&parent, name, *mode)?;
            write_all(&file, contents)?;
            if let Some((uid, gid)) = owner_of(*owner, build_user) {
                rustix::fs::fchown(&file, Some(uid), Some(gid))?;
            }
            Ok(())
        }
        Node::Copy {
            path,
            mode,
            mtime_seconds,
            source,
        } => copier.copy(root, (path, source), (*mode, *mtime_seconds), build_user),
        Node::Symlink { path, target } => {
            let (parent, name) = parent(root, path)?;
            rustix::fs::symlinkat(target, &parent, name)
        }
    }
}

pub(crate) fn owner_of(owner: Owner, build_user: BuildUser) -> BuildUser {
    match owner {
        Owner::Build => build_user,
        Owner::Spawner => None,
    }
}

fn make_dir(root: BorrowedFd<'_>, path: &Path, mode: u32, owner: BuildUser) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(mode);
    let at = if path == Path::new("/") {
        None
    } else {
        let (parent, name) = parent(root, path)?;
        match rustix::fs::mkdirat(&parent, name, mode) {
            Ok(()) if owner.is_none() => return Ok(()),
            Ok(()) | Err(Errno::EXIST) => Some((parent, name)),
            Err(errno) => return Err(errno),
        }
    };
    let (at, name) = match &at {
        None => (root, Path::new("/")),
        Some((parent, name)) => (parent.as_fd(), Path::new(name)),
    };
    let directory = retry(|| {
        rustix::fs::openat2(
            at,
            name,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS,
        )
    })?;
    if let Some((uid, gid)) = owner {
        rustix::fs::fchown(&directory, Some(uid), Some(gid))?;
    }
    rustix::fs::fchmod(&directory, mode)
}

/// Something of the host's that is to appear in a sandbox.
pub(crate) enum Material {
    /// A mount that is nowhere yet.
    Tree(OwnedFd),
    /// A symbolic link with this text.
    Symlink(std::ffi::CString),
}

/// Which mount to take and what to make of it.
#[derive(Clone, Copy)]
pub(crate) struct Take {
    pub(crate) read_only: bool,
    pub(crate) recursive: bool,
    pub(crate) devices: bool,
}

/// Clones the mount at a host path of this process's mount namespace.
pub(crate) fn take(path: &Path, how: Take) -> Result<Material, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let mut recursive = how.recursive;
    let recursively = flags | OpenTreeFlags::AT_RECURSIVE;
    let first = if recursive { recursively } else { flags };
    let tree = match rustix::mount::open_tree(CWD, path, first) {
        // In a user namespace, what is mounted beneath is locked to it.
        Err(Errno::INVAL) if !recursive => {
            recursive = true;
            rustix::mount::open_tree(CWD, path, recursively)?
        }
        result => result?,
    };
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&tree)?.st_mode);
    if kind == FileType::Symlink {
        let text = rustix::fs::readlinkat(&tree, "", Vec::new())?;
        return Ok(Material::Symlink(text));
    }
    let attributes = MountAttributes {
        read_only: how.read_only,
        no_suid: true,
        no_dev: !how.devices,
    };
    droste_sys::mount_setattr(&tree, attributes, recursive)?;
    Ok(Material::Tree(tree))
}

/// The same for what a descriptor refers to, found again by its name: a mount can be cloned only
/// from the mount namespace one is in, and the descriptor comes from another.
pub(crate) fn take_fd(fd: BorrowedFd<'_>, how: Take) -> Result<Material, Errno> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let name = rustix::fs::readlink(link, Vec::new())?;
    let path = Path::new(OsStr::from_bytes(name.to_bytes()));
    let wanted = rustix::fs::fstat(fd)?;
    let material = take(path, how)?;
    if let Material::Tree(tree) = &material {
        let found = rustix::fs::fstat(tree)?;
        if (found.st_dev, found.st_ino) != (wanted.st_dev, wanted.st_ino) {
            return Err(Errno::STALE);
        }
    }
    Ok(material)
}

/// Opens the source of a bind mount.
pub(crate) fn take_source(
    source: &Source,
    fds: &[OwnedFd],
    how: Take,
) -> Result<Material, SetupError> {
    match source {
        Source::Path(path) => {
            take(path, how).map_err(|errno| SetupError::at(Step::MountSource, path, errno))
        }
        Source::Fd(index) => fds
            .get(*index as usize)
            .ok_or(Errno::BADF)
            .and_then(|fd| take_fd(fd.as_fd(), how))
            .map_err(|errno| {
                SetupError::at(Step::MountSource, format!("descriptor {index}"), errno)
            }),
    }
}

/// Puts it at `target`, which is made if it is missing.
pub(crate) fn put(
    root: BorrowedFd<'_>,
    material: &Material,
    target: &Path,
) -> Result<(), SetupError> {
    let at = |step| move |errno| SetupError::at(step, target, errno);
    match material {
        Material::Symlink(text) => {
            let (parent, name) = parent(root, target).map_err(at(Step::MountTarget))?;
            rustix::fs::symlinkat(text, &parent, name).map_err(at(Step::MountTarget))
        }
        Material::Tree(tree) => {
            let place = match open(root, target, OFlags::empty()) {
                Err(Errno::NOENT) => make_mount_point(root, tree.as_fd(), target),
                result => result,
            };
            let place = place.map_err(at(Step::MountTarget))?;
            rustix::mount::move_mount(
                tree,
                "",
                &place,
                "",
                MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
            )
            .map_err(at(Step::Mount))
        }
    }
}

fn make_mount_point(
    root: BorrowedFd<'_>,
    tree: BorrowedFd<'_>,
    target: &Path,
) -> Result<OwnedFd, Errno> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(tree)?.st_mode);
    if kind == FileType::Directory {
        return make_dirs(root, target);
    }
    let (parent, name) = parent(root, target)?;
    drop(create(&parent, name, 0o644)?);
    open(parent.as_fd(), Path::new(name), OFlags::empty())
}
