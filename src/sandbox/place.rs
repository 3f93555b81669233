//! Making things at places in a sandbox's root, with no symbolic link followed on the way.
//!
//! The root may hold what a build left there; so every place is found from a descriptor of the root
//! by openat2(2), and is used as a descriptor from then on.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

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

/// The places of one root. Many lie side by side, so the directory of the last one is kept.
pub(crate) struct Places<'r> {
    root: BorrowedFd<'r>,
    last: Option<(PathBuf, OwnedFd)>,
}

impl<'r> Places<'r> {
    pub(crate) fn new(root: BorrowedFd<'r>) -> Self {
        Self { root, last: None }
    }

    /// The directory at `path`, made with its parents if it is missing.
    fn directory(&mut self, path: &Path) -> Result<BorrowedFd<'_>, Errno> {
        if path == Path::new("/") {
            return Ok(self.root);
        }
        if !matches!(&self.last, Some((last, _)) if last == path) {
            let directory = self.open_directory(path)?;
            self.last = Some((path.to_owned(), directory));
        }
        let (_, directory) = self.last.as_ref().ok_or(Errno::INVAL)?;
        Ok(directory.as_fd())
    }

    fn open_directory(&mut self, path: &Path) -> Result<OwnedFd, Errno> {
        match open(self.root, path, OFlags::DIRECTORY) {
            Err(Errno::NOENT) => {
                let (parent, name) = self.parent(path)?;
                make_or_find_dir(parent, name)
            }
            result => result,
        }
    }

    /// The parent directory of `path`, made if it is missing, and the last component.
    fn parent<'p>(&mut self, path: &'p Path) -> Result<(BorrowedFd<'_>, &'p OsStr), Errno> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let parent = path.parent().ok_or(Errno::INVAL)?;
        Ok((self.directory(parent)?, name))
    }

    /// What is at `path`, made as an empty directory or file if it is missing.
    fn mount_point(&mut self, path: &Path, is_directory: bool) -> Result<OwnedFd, Errno> {
        if path == Path::new("/") {
            return open(self.root, path, OFlags::DIRECTORY);
        }
        let (parent, name) = self.parent(path)?;
        if is_directory {
            return make_or_find_dir(parent, name);
        }
        create(parent, name, 0o644).or_else(|errno| find(parent, name, OFlags::empty(), errno))
    }
}

fn make_or_find_dir(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) => open(parent, Path::new(name), OFlags::DIRECTORY),
        Err(errno) => find(parent, name, OFlags::DIRECTORY, errno),
    }
}

/// What could not be made: it may be there already, perhaps where nothing can be made.
fn find(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    flags: OFlags,
    not_made: Errno,
) -> Result<OwnedFd, Errno> {
    open(parent, Path::new(name), flags).map_err(|errno| match not_made {
        Errno::EXIST => errno,
        _ => not_made,
    })
}

/// Who the build is to the file system, if files have to be given to it.
pub(crate) type BuildUser = Option<(Uid, Gid)>;

/// How much of a file is copied at once.
const BUFFER_BYTES: usize = 128 << 10;

/// Makes nodes, in order. The process has no umask.
pub(crate) fn make_nodes(
    places: &mut Places<'_>,
    nodes: &[Node],
    build_user: BuildUser,
) -> Result<(), SetupError> {
    let mut buffer = Vec::new();
    for node in nodes {
        make_node(places, node, build_user, &mut buffer)
            .map_err(|errno| SetupError::at(Step::Node, node.path(), errno))?;
    }
    Ok(())
}

/// Copies a file of the host.
fn copy(
    places: &mut Places<'_>,
    (path, source): (&Path, &Path),
    (mode, mtime_seconds): (u32, i64),
    build_user: BuildUser,
    buffer: &mut Vec<u8>,
) -> Result<(), Errno> {
    let source = retry(|| {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(source, flags, Mode::empty())
    })?;
    let stat = rustix::fs::fstat(&source)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    let (parent, name) = places.parent(path)?;
    let file = create(parent, name, mode)?;
    buffer.resize(BUFFER_BYTES, 0);
    let mut missing = stat.st_size as u64;
    while missing > 0 {
        let count = retry(|| rustix::io::read(&source, &mut **buffer))?;
        if count == 0 {
            // Nobody shortens a file of a store.
            return Err(Errno::IO);
        }
        write_all(&file, &buffer[..count])?;
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

fn make_node(
    places: &mut Places<'_>,
    node: &Node,
    build_user: BuildUser,
    buffer: &mut Vec<u8>,
) -> Result<(), Errno> {
    match node {
        Node::Dir { path, mode, owner } => {
            make_dir(places, path, *mode, owner_of(*owner, build_user))
        }
        Node::File {
            path,
            mode,
            owner,
            contents,
        } => {
            let (parent, name) = places.parent(path)?;
            let file = create(parent, name, *mode)?;
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
        } => {
            let how = (*mode, *mtime_seconds);
            copy(places, (path, source), how, build_user, buffer)
        }
        Node::Symlink { path, target } => {
            let (parent, name) = places.parent(path)?;
            rustix::fs::symlinkat(target, parent, name)
        }
    }
}

pub(crate) fn owner_of(owner: Owner, build_user: BuildUser) -> BuildUser {
    match owner {
        Owner::Build => build_user,
        Owner::Spawner => None,
    }
}

fn make_dir(
    places: &mut Places<'_>,
    path: &Path,
    mode: u32,
    owner: BuildUser,
) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(mode);
    let (at, name) = if path == Path::new("/") {
        (places.root, path)
    } else {
        let (parent, name) = places.parent(path)?;
        match rustix::fs::mkdirat(parent, name, mode) {
            Ok(()) if owner.is_none() => return Ok(()),
            Ok(()) | Err(Errno::EXIST) => (parent, Path::new(name)),
            Err(errno) => return Err(errno),
        }
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
    /// A mount that is nowhere yet, and whether it is a directory's.
    Tree(OwnedFd, bool),
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
    Ok(Material::Tree(tree, kind == FileType::Directory))
}

/// The same for what a descriptor refers to, found again by its name: a mount can be cloned only
/// from the mount namespace one is in, and the descriptor comes from another.
pub(crate) fn take_fd(fd: BorrowedFd<'_>, how: Take) -> Result<Material, Errno> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let name = rustix::fs::readlink(link, Vec::new())?;
    let path = Path::new(OsStr::from_bytes(name.to_bytes()));
    let wanted = rustix::fs::fstat(fd)?;
    let material = take(path, how)?;
    if let Material::Tree(tree, _) = &material {
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
    places: &mut Places<'_>,
    material: &Material,
    target: &Path,
) -> Result<(), SetupError> {
    let at = |step| move |errno| SetupError::at(step, target, errno);
    match material {
        Material::Symlink(text) => {
            let (parent, name) = places.parent(target).map_err(at(Step::MountTarget))?;
            rustix::fs::symlinkat(text, parent, name).map_err(at(Step::MountTarget))
        }
        Material::Tree(tree, is_directory) => {
            let place = places
                .mount_point(target, *is_directory)
                .map_err(at(Step::MountTarget))?;
            rustix::mount::move_mount(
                tree,
                "",
                &place,
                "",
                MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
            )
            .map_err(at(Step::Mount))?;
            // What was kept may lie beneath it now, unless it is where it lies.
            if matches!(&places.last, Some((last, _)) if Some(&**last) != target.parent()) {
                places.last = None;
            }
            Ok(())
        }
    }
}
