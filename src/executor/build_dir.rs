//! The directories of what runs: a build's, with what of its sandbox's root is on disk; a child has
//! its root in memory, and only a directory for its outputs on their way into the store.
//!
//! ```text
//! <state>/builds/droste-<pid>-<time>/<number>/
//!     build/    the build directory, the builder's own
//!     store/    the store directory: where outputs appear, and inputs are mounted
//!     tmp/      `/tmp`
//! <state>/builds/droste-<pid>-<time>/<number>/
//!               our temporary files, if there are any
//! ```
//!
//! They are few, and the numbered ones, which no build can see, are used again, since a disk takes
//! longer for a directory than a kernel for a namespace. (ext4 without a journal looks at all inodes
//! of the last minutes that were freed before it takes a new one.) So is what is in them, emptied but
//! for mount points, after a build that could have given nobody a part in it: see [`is_closed`].

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError};

use droste_sandbox::{Mount, Network, OnDisk, Request, Root, Source, dev_nodes};
use droste_sys::{InodeAttributes, inode_attributes};
use rustix::fs::{Gid, Mode, Timespec, Timestamps, UTIME_NOW, Uid};
use store_api::BoxError;
use store_nar::fs::{
    Entry, Kind, Stat, list, list_xattrs, open_dir as open_below, open_root, stat_fd,
    stat_if_exists,
};
use store_nar::remove_tree;
use store_types::StoreDir;

use crate::Executor;
use crate::builder_env::BUILD_DIR;
use crate::error::{BuildError, environment};
use crate::executor::empty_dir;
use crate::outputs::open_dir;
use crate::users::{BuildUser, UsersError};

/// A directory for temporary files, which no build can see, empty again when it is dropped.
pub(crate) struct ScratchDir {
    executor: Arc<Executor>,
    path: PathBuf,
    /// It is not to be emptied: this is in it, for a build.
    left: Option<Left>,
}

impl ScratchDir {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// The directories of one running build, gone with it, or left for the next one.
pub(crate) struct BuildDir {
    all: ScratchDir,
    own: OnceLock<ScratchDir>,
    /// What the last build has left here.
    left: Left,
    /// The mount points in the store directory, once there is nobody any more who could write into
    /// any of these directories.
    may_be_left: OnceLock<BTreeSet<OsString>>,
}

/// What a build leaves for the next one: its directories, with nothing in them but mount points.
pub(crate) struct LeftDir {
    path: PathBuf,
    left: Left,
}

struct Left {
    /// Directories in `store`.
    mount_points: BTreeSet<OsString>,
    /// What the directories looked like when they were new: `tmp`, `build`, `store`. If one has
    /// changed, all are made anew, since a builder could see it. `None` if that cannot be told.
    looks: Option<[Looks; 3]>,
}

/// What a builder could see of a directory in which there is nothing, and change. Modes, owners and
/// times are set.
#[derive(PartialEq, Eq)]
struct Looks {
    bytes: i64,
    attributes: InodeAttributes,
    /// Their names and values. No system call sets one, but a ring may (io_uring), and what is made
    /// in a directory inherits its access control list.
    extended: Vec<(OsString, Vec<u8>)>,
}

impl Looks {
    fn of(directory: &OwnedFd) -> std::io::Result<Looks> {
        let mut extended = Vec::new();
        for name in list_xattrs(directory)? {
            let mut value = vec![0; XATTR_BYTES_MAX];
            let len = rustix::fs::fgetxattr(directory, &name, &mut value[..])?;
            value.truncate(len);
            extended.push((name, value));
        }
        extended.sort();
        Ok(Looks {
            bytes: stat_fd(directory)?.st_size,
            attributes: inode_attributes(directory)?,
            extended,
        })
    }
}

/// `XATTR_SIZE_MAX` (linux/limits.h).
const XATTR_BYTES_MAX: usize = 64 << 10;

/// File systems of which it is known that an inode has nothing else that its owner can change. Magic
/// numbers from statfs(2).
const KNOWN_FILE_SYSTEMS: [u32; 5] = [EXT, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x0102_1994];

/// ext2 to ext4. A directory's size counts blocks there; elsewhere it counts names.
const EXT: u32 = 0x0000_ef53;

fn file_system(directory: &OwnedFd) -> std::io::Result<u32> {
    Ok(rustix::fs::fstatfs(directory)?.f_type as u32)
}

/// What these look like, if they may be used again and it can be told.
fn looks([tmp, build, store]: [&OwnedFd; 3]) -> Option<[Looks; 3]> {
    let is_known = file_system(build).is_ok_and(|kind| KNOWN_FILE_SYSTEMS.contains(&kind));
    if !is_known || !rustix::process::geteuid().is_root() {
        return None;
    }
    let of = |directory| Looks::of(directory).ok();
    Some([of(tmp)?, of(build)?, of(store)?])
}

/// Of this moment, as a new directory's.
const NOW: Timestamps = {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_NOW,
    };
    Timestamps {
        last_access: now,
        last_modification: now,
    }
};

const TMP: &str = "tmp";
const STORE: &str = "store";
const BUILD: &str = "build";

impl BuildDir {
    /// Where they are.
    pub(crate) fn path(&self) -> &Path {
        self.all.path()
    }

    /// The store directory of the sandbox, where outputs appear.
    pub(crate) fn store(&self) -> PathBuf {
        self.path().join(STORE)
    }

    /// The build directory on this machine.
    pub(crate) fn build(&self) -> PathBuf {
        self.path().join(BUILD)
    }

    /// The root of the sandbox.
    pub(crate) fn root(&self, store_dir: &str) -> Root {
        let on_disk = |source: PathBuf, target: &str| OnDisk {
            source,
            target: target.into(),
        };
        Root::Directories(vec![
            on_disk(self.path().join(TMP), "/tmp"),
            on_disk(self.build(), BUILD_DIR),
            on_disk(self.store(), store_dir),
        ])
    }

    /// A directory for our own files, which the build sees only where they are mounted.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(crate) fn own(&self) -> std::io::Result<&Path> {
        if let Some(own) = self.own.get() {
            return Ok(own.path());
        }
        let made = self.all.executor.scratch_dir()?;
        Ok(self.own.get_or_init(|| made).path())
    }

    /// Moves the build directory to where it stays, and where everybody may look at it.
    pub(crate) fn keep_failed(&self, text: &str) -> Result<PathBuf, BuildError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let keep = || -> std::io::Result<PathBuf> {
            let builds = self.all.executor.store.state_dir().join("builds");
            let dir = loop {
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                let dir = builds.join(format!("nix-{}-{number}", std::process::id()));
                match std::fs::DirBuilder::new().mode(0o755).create(&dir) {
                    Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                    made => {
                        made?;
                        break dir;
                    }
                }
            };
            let kept = dir.join(BUILD_DIR.trim_start_matches('/'));
            std::fs::rename(self.build(), &kept)?;
            // An ordinary user's builder could have put a link in its place.
            let made = open_dir(&kept)?;
            rustix::fs::fchmod(&made, rustix::fs::Mode::from_raw_mode(0o755))?;
            Ok(kept)
        };
        keep().map_err(environment(text, "keep the build directory"))
    }

    /// Makes them fit a sandbox that is asked for: what an earlier build has left in the store
    /// directory, and this one is not to see, is removed.
    pub(crate) fn fit(&self, request: &Request) -> std::io::Result<()> {
        if self.left.mount_points.is_empty() {
            return Ok(());
        }
        // Of an object that was deleted and made again since, it may be a file's.
        let is_directory = |path: &Path| path.symlink_metadata().is_ok_and(|of| of.is_dir());
        let wanted = inputs(request, self.all.executor.store_dir());
        let directories = wanted.iter().filter(|(_, source)| is_directory(source));
        let is_same = directories.map(|(name, _)| *name).eq(self
            .left
            .mount_points
            .iter()
            .map(OsString::as_os_str));
        if is_same {
            return Ok(());
        }
        // In a directory from which some were removed, others could be listed in another order.
        let store = open_dir(&self.store())?;
        for name in &self.left.mount_points {
            store_nar::fs::remove_dir(store.as_fd(), name)?;
        }
        Ok(())
    }

    /// The sandbox that was asked for has ended, and all its processes.
    pub(crate) fn has_ended(&self, request: &Request) {
        let executor = &self.all.executor;
        let builds_dir = &executor.workplace().builds_dir;
        let is_closed = is_closed(request, executor.store.physical_dir(), builds_dir);
        if is_closed && self.left.looks.is_some() {
            let inputs = inputs(request, executor.store_dir());
            let names = inputs.keys().map(|name| name.to_os_string()).collect();
            let _ = self.may_be_left.set(names);
        }
    }

    /// Tidies up for the next build; nothing if there is something that is not as it was.
    fn leave(&self, inputs: &BTreeSet<OsString>) -> Result<Option<Left>, BoxError> {
        let all = open_root(self.path())?;
        let open = |name: &str| open_below(all.as_fd(), name.as_ref());
        let (tmp, build, store) = (open(TMP)?, open(BUILD)?, open(STORE)?);
        let keeps_mount_points = file_system(&build)? == EXT;
        for directory in [&tmp, &build] {
            for entry in list(directory.as_fd())? {
                remove_tree(directory.as_fd(), &entry.name)?;
            }
        }
        let mut mount_points = BTreeSet::new();
        for Entry { name, .. } in list(store.as_fd())? {
            let stat = stat_if_exists(store.as_fd(), &name)?;
            let is_mount_point = |stat: &Stat| {
                Kind::of(stat) == Kind::Directory
                    && stat.st_uid == rustix::process::geteuid().as_raw()
            };
            if keeps_mount_points
                && inputs.contains(&name)
                && stat.as_ref().is_some_and(is_mount_point)
            {
                mount_points.insert(name);
            } else {
                remove_tree(store.as_fd(), &name)?;
            }
        }
        let looks = looks([&tmp, &build, &store]);
        let is_as_it_was = looks.is_some() && looks == self.left.looks;
        Ok(is_as_it_was.then_some(Left {
            mount_points,
            looks,
        }))
    }
}

impl Drop for BuildDir {
    fn drop(&mut self) {
        if let Some(inputs) = self.may_be_left.get() {
            self.all.left = self.leave(inputs).ok().flatten();
        }
    }
}

/// What a sandbox has in its store directory: names there, and what is mounted.
fn inputs<'r>(request: &'r Request, store_dir: &StoreDir) -> BTreeMap<&'r OsStr, &'r Path> {
    let store_dir = Path::new(store_dir.as_str());
    let mounts = request.mounts.iter();
    let inputs = mounts.filter_map(|mount| match mount {
        Mount::Bind {
            source: Source::Path(source),
            target,
            ..
        } if target.parent() == Some(store_dir) => Some((target.file_name()?, &**source)),
        _ => None,
    });
    inputs.collect()
}

/// Whether what runs in this sandbox can have passed a descriptor to nobody: to whom it did, he
/// could write into a directory that it had.
///
/// It passes one through a socket. There is none of others in a network of its own, in our own
/// files, which nobody reads descriptors from, in an object of the store, in a file, or in memory.
/// And it must be somebody else than us, who owns the mount points.
fn is_closed(request: &Request, store: &Path, ours: &Path) -> bool {
    let devices = dev_nodes(true).mounts;
    let is_known = |mount: &Mount| match mount {
        Mount::Tmpfs { .. } | Mount::Proc { .. } | Mount::Devpts { .. } => true,
        Mount::Bind {
            source: Source::Path(path),
            ..
        } => {
            path.parent() == Some(store)
                || path.starts_with(ours)
                || devices.contains(mount)
                || path.symlink_metadata().is_ok_and(|of| of.is_file())
        }
        Mount::Bind { .. } => false,
    };
    request.network == Network::Isolated
        && request.host_uid != rustix::process::geteuid().as_raw()
        && request.mounts.iter().all(is_known)
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.path);
        if let Some(left) = self.left.take() {
            let free = &self.executor.left_dirs;
            let mut free = free.lock().unwrap_or_else(PoisonError::into_inner);
            free.push(LeftDir { path, left });
            return;
        }
        match empty_dir(&path) {
            Ok(()) => self
                .executor
                .free_dirs
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(path),
            Err(_) => self.executor.remove_build_dir(&path),
        }
    }
}

fn private(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().mode(0o700).create(path)
}

impl Executor {
    pub(crate) fn acquire_user(&self, text: &str) -> Result<BuildUser, BuildError> {
        self.free_user()
            .map_err(environment(text, "get a user to build as"))
    }

    /// The same, saying why there is none.
    pub(crate) fn free_user(&self) -> Result<BuildUser, UsersError> {
        BuildUser::acquire(self.store.state_dir(), &self.settings.users)
    }

    /// Makes a directory: nobody else's, empty, and gone with us.
    pub(crate) fn make_scratch_dir(self: &Arc<Self>, text: &str) -> Result<ScratchDir, BuildError> {
        self.scratch_dir()
            .map_err(environment(text, "make a directory for temporary files"))
    }

    fn scratch_dir(self: &Arc<Self>) -> std::io::Result<ScratchDir> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let free = self
            .free_dirs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let path = match free {
            Some(path) => path,
            None => {
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                let workplace = self.prepare().map_err(std::io::Error::other)?;
                let path = workplace.builds_dir.join(number.to_string());
                private(&path)?;
                path
            }
        };
        Ok(self.scratch_dir_at(path))
    }

    fn scratch_dir_at(self: &Arc<Self>, path: PathBuf) -> ScratchDir {
        ScratchDir {
            executor: self.clone(),
            path,
            left: None,
        }
    }

    /// Makes the directories of one build: nobody else's, and gone with us. `tmp` and `build` are
    /// empty, `store` is when the directories [fit](BuildDir::fit) the sandbox.
    pub(crate) fn make_build_dir(
        self: &Arc<Self>,
        text: &str,
        user: &BuildUser,
    ) -> Result<BuildDir, BuildError> {
        let make = || -> std::io::Result<BuildDir> {
            let free = &self.left_dirs;
            let free = free.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let (all, left) = match free {
                Some(LeftDir { path, left }) => (self.scratch_dir_at(path), Some(left)),
                None => (self.scratch_dir()?, None),
            };
            let open = |name: &str| -> std::io::Result<OwnedFd> {
                let path = all.path().join(name);
                if left.is_none() {
                    private(&path)?;
                }
                Ok(open_dir(&path)?)
            };
            let (tmp, build, store) = (open(TMP)?, open(BUILD)?, open(STORE)?);
            let left = match left {
                Some(left) => left,
                None => Left {
                    mount_points: BTreeSet::new(),
                    looks: looks([&tmp, &build, &store]),
                },
            };
            if rustix::process::geteuid().is_root() {
                let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
                rustix::fs::fchown(&build, Some(uid), Some(gid))?;
                // The store directory is the group's, as Nix has it.
                rustix::fs::fchown(&store, None, Some(gid))?;
            }
            for (directory, mode) in [(&tmp, 0o1777), (&build, 0o700), (&store, 0o1775)] {
                rustix::fs::fchmod(directory, Mode::from_raw_mode(mode))?;
                rustix::fs::futimens(directory, &NOW)?;
            }
            Ok(BuildDir {
                all,
                own: OnceLock::new(),
                left,
                may_be_left: OnceLock::new(),
            })
        };
        make().map_err(environment(text, "make the build directory"))
    }
}

#[cfg(test)]
mod tests {
    use droste_sandbox::{TmpfsSize, etc_files, proc_mount};

    use super::*;

    fn closed_request() -> Request {
        let size = TmpfsSize::Default;
        let mut request = Request::new(Root::Tmpfs { size }, "/bin/sh");
        request.host_uid = rustix::process::geteuid().as_raw() + 1;
        request.add(dev_nodes(true));
        request.add(proc_mount());
        request.add(etc_files(BUILD_DIR, true));
        for (source, target) in [
            ("/store/1-input", "/nix/store/1-input"),
            ("/ours/7/socket", "/build/.droste/socket"),
            ("/etc/passwd", "/bin/sh"),
        ] {
            request.mounts.push(Mount::input(source, target));
        }
        request
    }

    #[test]
    fn a_sandbox_is_closed_only_if_nothing_in_it_leads_to_others() {
        let is_closed = |change: &dyn Fn(&mut Request)| {
            let mut request = closed_request();
            change(&mut request);
            is_closed(&request, "/store".as_ref(), "/ours".as_ref())
        };
        assert!(is_closed(&|_| {}));
        assert!(!is_closed(&|request| request.network = Network::Host));
        assert!(!is_closed(&|request| request.network = Network::None));
        assert!(!is_closed(&|request| {
            request.host_uid = rustix::process::geteuid().as_raw();
        }));
        for source in [
            "/etc",
            "/store",
            "/store/1-input/link/socket",
            "/no/such/file",
            // The same device at another place is not known.
            "/dev/fuse",
            "/dev/log",
        ] {
            let is_closed = is_closed(&|request| {
                request.mounts.push(Mount::input(source, "/mnt"));
            });
            assert!(!is_closed, "{source}");
        }
        assert!(!is_closed(&|request| {
            let mut mount = Mount::input("", "/mnt");
            if let Mount::Bind { source, .. } = &mut mount {
                *source = Source::Fd(0);
            }
            request.mounts.push(mount);
        }));
    }
}
