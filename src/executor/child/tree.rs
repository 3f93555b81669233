//! What a caller sees of its files, walked by the executor.
//!
//! A compiler resolves names through directories, symlinks and `..`; the child
//! has to resolve them the same way. So every path is walked component by
//! component, and what the walk met (directories, symlinks, files) is recorded
//! in a [`Layout`] which the child's sandbox reproduces.
//!
//! Two kinds of places exist. *Local* ones may change at any moment: a directory's
//! listing is remembered only with the directory's identity and times. In a build,
//! that is what lies below `/build`; on the host, nearly everything. *Store objects*
//! never change: listings are remembered for good. In a build, these are its inputs;
//! on the host, the places to which the store's copy of a toolchain is
//! [bound](Bind). Anything else that exists is outside the model, and the call runs
//! in place.
//!
//! Nothing of the caller is trusted here: directories are opened beneath the
//! sandbox's root without following symlinks, names never contain a slash, and
//! listings have a limit.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use store_local::LocalStore;
use store_types::{StoreDir, StorePath};

use super::host::HostCompiler;
use super::outcome::InPlace;
use super::tools::Program;

/// The build directory as the build sees it.
pub const BUILD_DIR: &[u8] = b"/build";

/// Places of the host that hold no files in the usual sense.
const KERNEL_DIRS: &[&[u8]] = &[b"/dev", b"/proc", b"/sys"];

/// More symlinks than this in one path: the kernel gives up at 40, too.
const SYMLINKS_MAX: u32 = 40;

/// A directory with more entries than this is not listed: each name is looked up.
const ENTRIES_MAX: usize = 1 << 16;

/// A directory with more entries than this that has changed is not listed again, either: a build
/// that leaves its objects beside its sources changes it with each of them.
const RELISTED_MAX: usize = 1024;

/// Until it has been found unchanged this many times.
const UNCHANGED_MIN: u8 = 32;

/// How many directories of a tree are remembered, and kept open, at most; beyond, all are
/// forgotten at once.
const DIRS_MAX: usize = 512;

/// What a directory entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symlink and its target.
    Symlink(Box<[u8]>),
    /// A device, socket or pipe.
    Other,
}

/// The names in a directory.
pub type Listing = HashMap<Box<[u8]>, Entry>;

/// A directory's identity and times; as long as they stay, so does its listing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamp {
    dev: u64,
    ino: u64,
    ctime: (i64, u64),
    mtime: (i64, u64),
}

/// How far back a time must lie for "unchanged since" to be believed: two
/// changes within one tick of the kernel's coarse clock carry the same time.
pub(super) const CLOCK_GRAIN_NANOS: i128 = 20_000_000;

pub(super) fn now_nanos() -> i128 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
}

fn nanos(time: (i64, u64)) -> i128 {
    i128::from(time.0) * 1_000_000_000 + i128::from(time.1)
}

impl Stamp {
    fn of(stat: &rustix::fs::Stat) -> Self {
        Self {
            dev: stat.st_dev,
            ino: stat.st_ino,
            ctime: (stat.st_ctime, stat.st_ctime_nsec),
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
        }
    }

    /// Whether a listing read from now on can be told from a later one.
    fn is_settled(&self, now: i128) -> bool {
        now - nanos(self.ctime) > CLOCK_GRAIN_NANOS && now - nanos(self.mtime) > CLOCK_GRAIN_NANOS
    }
}

/// A local directory as it was at one moment.
#[derive(Clone)]
pub(super) struct LocalDir {
    /// For asking what is in it without walking to it again.
    pub(super) fd: Arc<OwnedFd>,
    pub(super) stamp: Stamp,
    /// Whether the stamp tells of every change since.
    pub(super) settled: bool,
    pub(super) names: DirNames,
}

/// What is known of the names in a directory.
#[derive(Clone)]
pub(super) enum DirNames {
    /// All of them.
    Listed(Arc<Listing>),
    /// They are many, and may change with every call: each is looked up. For so many more looks
    /// at an unchanged directory it is not worth listing.
    Many(u8),
    /// It may be searched but not read, or is too large: each is looked up, and what else there
    /// is cannot be known.
    Unknown,
}

fn list(dir: impl AsFd) -> rustix::io::Result<Option<Listing>> {
    let mut listing = Listing::new();
    for entry in Dir::read_from(&dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if listing.len() == ENTRIES_MAX {
            return Ok(None);
        }
        let mut kind = entry.file_type();
        if kind == FileType::Unknown {
            let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            kind = FileType::from_raw_mode(stat.st_mode);
        }
        let entry = match kind {
            FileType::RegularFile => Entry::File,
            FileType::Directory => Entry::Dir,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&dir, name, Vec::new())?;
                Entry::Symlink(target.into_bytes().into())
            }
            _ => Entry::Other,
        };
        listing.insert(name.to_bytes().into(), entry);
    }
    Ok(Some(listing))
}

/// Store objects, listed once and for ever, or until one is found to be another.
pub struct StoreTree {
    store: Arc<LocalStore>,
    listings: Mutex<HashMap<Box<[u8]>, Arc<Listing>>>,
    programs: Mutex<HashMap<Box<[u8]>, Program>>,
}

impl StoreTree {
    /// Over what is `/nix/store` to builds.
    pub fn new(store: Arc<LocalStore>) -> Self {
        Self {
            store,
            listings: Mutex::default(),
            programs: Mutex::default(),
        }
    }

    /// Forgets all, as objects may have been replaced.
    pub fn forget(&self) {
        let unpoisoned = PoisonError::into_inner;
        self.listings.lock().unwrap_or_else(unpoisoned).clear();
        let unpoisoned = PoisonError::into_inner;
        self.programs.lock().unwrap_or_else(unpoisoned).clear();
    }

    /// Over the store in this directory.
    #[cfg(test)]
    pub fn of(root: &std::path::Path) -> Self {
        Self::new(Arc::new(
            LocalStore::open(root, StoreDir::default()).unwrap(),
        ))
    }

    /// The directory on this machine to which a path below the store directory is relative.
    pub fn dir_of(&self, relative: &[u8]) -> BorrowedFd<'_> {
        let base_name = relative.split(|byte| *byte == b'/').next();
        self.store
            .dir_of(OsStr::from_bytes(base_name.unwrap_or_default()))
    }

    /// What [`remember_program`](Self::remember_program) was told of a file.
    pub(super) fn known_program(&self, path: &[u8]) -> Option<Program> {
        let programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        programs.get(path).cloned()
    }

    /// Remembers what a file of the store is as a program.
    pub(super) fn remember_program(&self, path: &[u8], program: Program) {
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        programs.insert(path.into(), program);
    }

    /// What the store object of this base name is; `None` if there is none.
    fn root_entry(&self, base_name: &[u8]) -> Option<Entry> {
        let store = self.dir_of(base_name);
        let stat = rustix::fs::statat(store, base_name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some(match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Entry::File,
            FileType::Directory => Entry::Dir,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(store, base_name, Vec::new()).ok()?;
                Entry::Symlink(target.into_bytes().into())
            }
            _ => Entry::Other,
        })
    }

    /// The listing of a directory, named relative to the store directory and
    /// free of symlinks.
    pub fn listing(&self, relative: &[u8]) -> rustix::io::Result<Arc<Listing>> {
        let mut listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listing) = listings.get(relative) {
            return Ok(listing.clone());
        }
        let listing = Arc::new(self.listing_unremembered(relative)?);
        listings.insert(relative.into(), listing.clone());
        Ok(listing)
    }

    /// The same, for a directory that will hardly be asked for again.
    pub fn listing_unremembered(&self, relative: &[u8]) -> rustix::io::Result<Listing> {
        let dir = rustix::fs::openat2(
            self.dir_of(relative),
            relative,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )?;
        list(dir)?.ok_or(rustix::io::Errno::TOOBIG)
    }
}

/// Whose files they are.
enum World {
    /// A build's: its build directory, and the store objects among its inputs.
    Build,
    /// The host's: everything, but for these directories, which to a caller are empty.
    Host {
        hidden: Vec<Vec<u8>>,
        /// Whether the host's store directory is the one of our store.
        has_our_store: bool,
    },
}

/// The files of one running build, or those of the host.
pub struct CallerTree {
    root: OwnedFd,
    store_dir: StoreDir,
    world: World,
    dirs: Mutex<HashMap<Box<[u8]>, LocalDir>>,
}

/// A place of the host that has, in a child, what a store object has: the host's own
/// files there are the ones from which the object was made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bind {
    /// The place: an absolute path, free of symlinks, of a file or a directory.
    pub path: Vec<u8>,
    /// What lies there: a path below the store directory, as builds see it, of the same kind.
    pub object: Vec<u8>,
}

/// Where a place belongs.
enum Place<'a> {
    /// A directory above the build directory or the store.
    Above,
    /// The store directory of a build.
    Store,
    /// In a store object: the path relative to the store directory.
    InStore(Cow<'a, [u8]>),
    /// Among the files that may change.
    Local,
    /// In a directory that to the caller is empty.
    Hidden,
    /// In the store directory of the host, of which nothing is known here.
    HostStore,
    /// Among the kernel's own files.
    Kernel,
}

impl CallerTree {
    /// The files of a build: over its root directory, as its own mount namespace has it.
    pub fn build(root: OwnedFd, store_dir: StoreDir) -> Self {
        Self::new(root, store_dir, World::Build)
    }

    /// The files of the host: over its root directory. `hidden` are directories (absolute,
    /// free of symlinks) that are to look empty: those with our own shims. What lies in the
    /// host's store directory is known if that is the one of our store.
    pub fn host(
        root: OwnedFd,
        store_dir: StoreDir,
        hidden: Vec<Vec<u8>>,
        has_our_store: bool,
    ) -> Self {
        let world = World::Host {
            hidden,
            has_our_store,
        };
        Self::new(root, store_dir, world)
    }

    fn new(root: OwnedFd, store_dir: StoreDir, world: World) -> Self {
        Self {
            root,
            store_dir,
            world,
            dirs: Mutex::default(),
        }
    }

    /// Whether these are the files of the host, not those of a build.
    pub fn is_host(&self) -> bool {
        matches!(self.world, World::Host { .. })
    }

    /// Whether a path, free of symlinks, lies in a directory that to the caller is empty.
    pub fn is_hidden(&self, path: &[u8]) -> bool {
        matches!(self.place(path, &[]), Place::Hidden)
    }

    fn place<'a>(&self, path: &'a [u8], binds: &[Bind]) -> Place<'a> {
        let store = self.store_dir.as_str().as_bytes();
        let is_below = |dir: &[u8]| below(path, dir).is_some();
        match &self.world {
            World::Build if is_below(BUILD_DIR) => Place::Local,
            World::Build => match below(path, store) {
                Some(b"") => Place::Store,
                Some(relative) => Place::InStore(Cow::Borrowed(relative)),
                None => Place::Above,
            },
            World::Host {
                hidden,
                has_our_store,
            } => {
                if let Some(object) = bound(path, binds) {
                    let relative = below(&object, store).unwrap_or_default();
                    Place::InStore(Cow::Owned(relative.to_vec()))
                } else if let Some(relative) = below(path, store) {
                    match (has_our_store, relative) {
                        (false, _) => Place::HostStore,
                        (true, b"") => Place::Store,
                        (true, relative) => Place::InStore(Cow::Borrowed(relative)),
                    }
                } else if *has_our_store && path != b"/" && below(store, path).is_some() {
                    Place::Above
                } else if hidden.iter().any(|dir| is_below(dir)) {
                    // These may lie in `/dev/shm`.
                    Place::Hidden
                } else if KERNEL_DIRS.iter().any(|dir| is_below(dir)) {
                    Place::Kernel
                } else {
                    Place::Local
                }
            }
        }
    }

    /// Opens what lies at an absolute path that is free of symlinks.
    pub fn open(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let relative: &[u8] = match path.strip_prefix(b"/") {
            Some(b"") => b".",
            Some(relative) => relative,
            None => return Err(Errno::INVAL),
        };
        rustix::fs::openat2(
            &self.root,
            relative,
            flags | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        )
    }

    /// What is at a path that is free of symlinks: asked of its directory, if a walk has
    /// been there.
    pub(super) fn stat(&self, path: &[u8]) -> rustix::io::Result<rustix::fs::Stat> {
        let (dir, name) = split_last(path);
        match self.known_dir(dir) {
            Some(dir) => rustix::fs::statat(&*dir.fd, name, AtFlags::SYMLINK_NOFOLLOW),
            None => rustix::fs::fstat(self.open(path, OFlags::PATH)?),
        }
    }

    /// Closes all directories: a file system of which one is open cannot be unmounted.
    pub(super) fn let_go(&self) {
        let mut dirs = self.dirs.lock().unwrap_or_else(PoisonError::into_inner);
        dirs.clear();
    }

    fn known_dir(&self, path: &[u8]) -> Option<LocalDir> {
        let dirs = self.dirs.lock().unwrap_or_else(PoisonError::into_inner);
        dirs.get(path).cloned()
    }

    /// A local directory as it is now; `parent` is the one that it is in, as it is now, if
    /// that is a local one.
    fn dir(&self, path: &[u8], parent: Option<&LocalDir>) -> Result<LocalDir, InPlace> {
        let gone = |_| InPlace::new("vanished-directory");
        let name = split_last(path).1;
        let known = self.known_dir(path);
        // One system call for a directory that is as it was.
        if let (Some(known), Some(parent)) = (&known, parent) {
            let stat =
                rustix::fs::statat(&*parent.fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(gone)?;
            if known.settled && known.stamp == Stamp::of(&stat) {
                return self.unchanged(path, known.clone());
            }
        }
        let open = |flags: OFlags| {
            let flags = flags | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match parent {
                Some(parent) => rustix::fs::openat(&*parent.fd, name, flags, Mode::empty()),
                None => self.open(path, flags),
            }
        };
        let (fd, is_readable) = match open(OFlags::RDONLY) {
            Ok(fd) => (fd, true),
            Err(Errno::ACCESS) => (open(OFlags::PATH).map_err(gone)?, false),
            Err(error) => return Err(gone(error)),
        };
        let stat = rustix::fs::fstat(&fd).map_err(gone)?;
        // The executor may enter more than the build may.
        if stat.st_mode & 0o100 == 0 {
            return Err(InPlace::new("unreadable-directory"));
        }
        let stamp = Stamp::of(&stat);
        if let Some(known) = &known
            && known.settled
            && known.stamp == stamp
        {
            return self.unchanged(path, known.clone());
        }
        let settled = stamp.is_settled(now_nanos());
        let was_large = known.is_some_and(|known| match &known.names {
            DirNames::Listed(listing) => listing.len() > RELISTED_MAX,
            DirNames::Many(_) => true,
            DirNames::Unknown => false,
        });
        let names = match is_readable {
            true if was_large => DirNames::Many(UNCHANGED_MIN),
            true => list(&fd).map_err(gone)?.into(),
            false => DirNames::Unknown,
        };
        let dir = LocalDir {
            fd: Arc::new(fd),
            stamp,
            settled,
            names,
        };
        self.remember(path, dir.clone());
        Ok(dir)
    }

    fn remember(&self, path: &[u8], dir: LocalDir) {
        let mut dirs = self.dirs.lock().unwrap_or_else(PoisonError::into_inner);
        if dirs.len() >= DIRS_MAX {
            dirs.clear();
        }
        dirs.insert(path.into(), dir);
    }

    /// A directory that is as it was; listed, if it has been so for long.
    fn unchanged(&self, path: &[u8], mut dir: LocalDir) -> Result<LocalDir, InPlace> {
        let DirNames::Many(looks) = dir.names else {
            return Ok(dir);
        };
        dir.names = match looks.checked_sub(1) {
            Some(looks) => DirNames::Many(looks),
            // Whatever is changed from now on changes its times.
            None => dir.list()?,
        };
        self.remember(path, dir.clone());
        Ok(dir)
    }
}

impl From<Option<Listing>> for DirNames {
    fn from(listing: Option<Listing>) -> Self {
        listing.map_or(Self::Unknown, |listing| Self::Listed(Arc::new(listing)))
    }
}

impl LocalDir {
    /// All names, read now.
    fn list(&self) -> Result<DirNames, InPlace> {
        let listing = list(&*self.fd).map_err(|_| InPlace::new("vanished-directory"))?;
        Ok(listing.into())
    }

    /// The one entry of this name, looked up.
    pub(super) fn lookup(&self, name: &[u8]) -> Result<Option<Entry>, InPlace> {
        let unreadable = |_| InPlace::new("unreadable-directory");
        let stat = match rustix::fs::statat(&*self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(unreadable(error)),
        };
        let entry = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Entry::File,
            FileType::Directory => Entry::Dir,
            FileType::Symlink => {
                let target =
                    rustix::fs::readlinkat(&*self.fd, name, Vec::new()).map_err(unreadable)?;
                Entry::Symlink(target.into_bytes().into())
            }
            _ => Entry::Other,
        };
        Ok(Some(entry))
    }
}

/// What of `path` lies below `dir`: both absolute, without the slash between; empty if
/// they are the same.
fn below<'a>(path: &'a [u8], dir: &[u8]) -> Option<&'a [u8]> {
    match path.strip_prefix(dir)? {
        b"" => Some(b""),
        rest => rest.strip_prefix(b"/"),
    }
}

/// The path in the store that is bound to this one.
fn bound(path: &[u8], binds: &[Bind]) -> Option<Vec<u8>> {
    binds
        .iter()
        .find_map(|bind| match below(path, &bind.path)? {
            b"" => Some(bind.object.clone()),
            rest => Some(join(&bind.object, rest)),
        })
}

/// What a child must contain for the same walks to end in
/// the same places. Paths are absolute and free of symlinks.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// Local directories that were entered.
    pub dirs: BTreeSet<Vec<u8>>,
    /// Symlinks that were followed, with their targets as they are.
    pub links: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Where `..` led to, each behind the directory in which the relative path began.
    pub ups: BTreeSet<(Vec<u8>, Vec<u8>)>,
    /// Store paths in which something was found.
    pub store_paths: BTreeSet<StorePath>,
    /// What a child of the host has in place of the host's own files.
    pub binds: Arc<[Bind]>,
}

/// Where a walk ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// There is nothing of this name.
    Missing,
    /// A directory: its path, free of symlinks.
    Dir(Vec<u8>),
    /// A regular file that may change: its path, free of symlinks.
    LocalFile(Vec<u8>),
    /// A regular file of a store object: its path, free of symlinks, as the caller sees
    /// it (see [`Walker::object_path`]).
    StoreFile(Vec<u8>),
}

/// What walks have looked at.
pub(super) struct Observed<'a> {
    /// The names that were asked for in local directories.
    pub(super) asked: &'a HashSet<Box<[u8]>>,
    /// The directories.
    pub(super) seen: &'a HashMap<Vec<u8>, LocalDir>,
    entries: &'a HashMap<Vec<u8>, Option<Entry>>,
}

impl Observed<'_> {
    /// The entry of this name in a directory, as walks have seen it if one has asked for it;
    /// `None` if that cannot be known.
    pub(super) fn entry(&self, path: &[u8], dir: &LocalDir, name: &[u8]) -> Option<Option<Entry>> {
        match &dir.names {
            DirNames::Listed(listing) => Some(listing.get(name).cloned()),
            DirNames::Many(_) => match self.entries.get(&join(path, name)) {
                Some(entry) => Some(entry.clone()),
                None => dir.lookup(name).ok(),
            },
            DirNames::Unknown => None,
        }
    }
}

/// One call's walks: each local directory is looked at once, so that all walks of the
/// call see one state.
pub struct Walker<'a> {
    tree: &'a CallerTree,
    store: &'a StoreTree,
    is_input: &'a dyn Fn(&StorePath) -> bool,
    binds: Arc<[Bind]>,
    seen: HashMap<Vec<u8>, LocalDir>,
    /// Names that were asked for in local directories.
    asked: HashSet<Box<[u8]>>,
    /// Whether more was asked than what is there of these names.
    asked_more: bool,
    /// Single entries of directories that are not listed.
    seen_entries: HashMap<Vec<u8>, Option<Entry>>,
    /// What the walks met.
    pub layout: Layout,
}

impl<'a> Walker<'a> {
    /// Walks over the files of a caller who has the store paths that `is_input` accepts.
    pub fn new(
        tree: &'a CallerTree,
        store: &'a StoreTree,
        is_input: &'a dyn Fn(&StorePath) -> bool,
    ) -> Self {
        Self {
            tree,
            store,
            is_input,
            binds: Arc::default(),
            seen: HashMap::new(),
            asked: HashSet::new(),
            asked_more: false,
            seen_entries: HashMap::new(),
            layout: Layout::default(),
        }
    }

    /// Takes the places of a compiler of the host for store objects, from now on; a child
    /// has them all.
    pub fn bind(&mut self, compiler: &HostCompiler) {
        self.binds = compiler.binds.clone();
        self.layout.binds = compiler.binds.clone();
        self.layout.links.extend(compiler.links.iter().cloned());
        self.layout.store_paths.insert(compiler.store_path.clone());
    }

    /// The binds that walks see.
    pub fn binds(&self) -> &Arc<[Bind]> {
        &self.binds
    }

    /// The files that are walked.
    pub fn tree(&self) -> &'a CallerTree {
        self.tree
    }

    fn place<'b>(&self, path: &'b [u8]) -> Place<'b> {
        self.tree.place(path, &self.binds)
    }

    /// Whether what lies at this path (absolute, free of symlinks) may change, and
    /// outputs may be left there.
    pub fn is_local(&self, path: &[u8]) -> bool {
        matches!(self.place(path), Place::Local)
    }

    /// Where a file of a store object, found as [`Found::StoreFile`], lies in the store as
    /// builds see it. In a build that is the path itself.
    pub fn object_path(&self, path: &[u8]) -> Vec<u8> {
        bound(path, &self.binds).unwrap_or_else(|| path.to_vec())
    }

    /// A local directory, free of symlinks, as all walks of the call see it.
    pub(super) fn local_dir(&mut self, path: &[u8]) -> Result<LocalDir, InPlace> {
        if let Some(dir) = self.seen.get(path) {
            return Ok(dir.clone());
        }
        let parent = split_last(path).0;
        let parent = match path != parent && self.is_local(parent) {
            true => Some(self.local_dir(parent)?),
            false => None,
        };
        let dir = self.tree.dir(path, parent.as_ref())?;
        self.seen.insert(path.to_vec(), dir.clone());
        Ok(dir)
    }

    /// What the walks have looked at; `None` if that was more.
    pub(super) fn observed(&self) -> Option<Observed<'_>> {
        (!self.asked_more).then_some(Observed {
            asked: &self.asked,
            seen: &self.seen,
            entries: &self.seen_entries,
        })
    }

    /// The names in a directory, to be asked for nothing but these; `None` if they are not
    /// known.
    pub fn listing_for(
        &mut self,
        dir: &[u8],
        names: &[&[u8]],
    ) -> Result<Option<Arc<Listing>>, InPlace> {
        for name in names {
            self.note(name);
        }
        if let Place::Local = self.place(dir)
            && let DirNames::Many(_) = self.local_dir(dir)?.names
        {
            let mut listing = Listing::new();
            for name in names {
                if let Some(entry) = self.local_entry(dir, name)? {
                    listing.insert((*name).into(), entry);
                }
            }
            return Ok(Some(Arc::new(listing)));
        }
        self.any_listing(dir)
    }

    /// Notes that this name was asked for.
    fn note(&mut self, name: &[u8]) {
        if !self.asked.contains(name) {
            self.asked.insert(name.into());
        }
    }

    /// The names in a directory, wherever it is; `None` if they are not known.
    pub fn listing(&mut self, dir: &[u8]) -> Result<Option<Arc<Listing>>, InPlace> {
        // What is in the store never changes.
        self.asked_more |= self.is_local(dir);
        self.any_listing(dir)
    }

    fn any_listing(&mut self, dir: &[u8]) -> Result<Option<Arc<Listing>>, InPlace> {
        match self.place(dir) {
            Place::Local => {
                let mut local = self.local_dir(dir)?;
                if let DirNames::Many(_) = local.names {
                    local.names = local.list()?;
                    self.seen.insert(dir.to_vec(), local.clone());
                }
                match local.names {
                    DirNames::Listed(listing) => Ok(Some(listing)),
                    DirNames::Many(_) | DirNames::Unknown => Ok(None),
                }
            }
            Place::InStore(relative) => {
                let listing = self.store.listing(&relative);
                listing
                    .map(Some)
                    .map_err(|_| InPlace::new("unreadable-input"))
            }
            _ => Ok(None),
        }
    }

    /// What a local directory, free of symlinks, has of this name.
    pub(super) fn local_entry(
        &mut self,
        dir: &[u8],
        name: &[u8],
    ) -> Result<Option<Entry>, InPlace> {
        self.note(name);
        let local = match self.seen.get(dir) {
            Some(local) => local,
            None => &self.local_dir(dir)?,
        };
        if let DirNames::Listed(listing) = &local.names {
            return Ok(listing.get(name).cloned());
        }
        let path = join(dir, name);
        if let Some(entry) = self.seen_entries.get(&path) {
            return Ok(entry.clone());
        }
        let entry = local.lookup(name)?;
        self.seen_entries.insert(path, entry.clone());
        Ok(entry)
    }

    fn entry(&mut self, dir: &[u8], name: &[u8]) -> Result<Option<Entry>, InPlace> {
        let store = self.tree.store_dir.as_str().as_bytes();
        match self.place(dir) {
            Place::Local => self.local_entry(dir, name),
            Place::InStore(relative) => {
                let listing = self
                    .store
                    .listing(&relative)
                    .map_err(|_| InPlace::new("unreadable-input"))?;
                Ok(listing.get(name).cloned())
            }
            Place::Store => {
                let path = str::from_utf8(name)
                    .ok()
                    .and_then(|name| StorePath::from_base_name(name).ok());
                match path {
                    Some(path) if (self.is_input)(&path) => {
                        let entry = self.store.root_entry(name);
                        if entry.is_some() {
                            self.layout.store_paths.insert(path);
                        }
                        Ok(entry)
                    }
                    _ => self.outside(dir, name, "outside-of-build"),
                }
            }
            Place::Hidden => Ok(None),
            Place::HostStore => self.outside(dir, name, "store-of-the-host"),
            Place::Kernel => self.outside(dir, name, "file-of-the-kernel"),
            Place::Above => {
                let path = join(dir, name);
                let on_the_way = (path == BUILD_DIR && !self.tree.is_host())
                    || store == path
                    || (store.starts_with(&path) && store.get(path.len()) == Some(&b'/'));
                if on_the_way {
                    Ok(Some(Entry::Dir))
                } else {
                    self.outside(dir, name, "outside-of-build")
                }
            }
        }
    }

    /// What lies outside of the model may be absent, and then it is absent in
    /// the child too; what exists there cannot be declared.
    fn outside(
        &mut self,
        dir: &[u8],
        name: &[u8],
        reason: &'static str,
    ) -> Result<Option<Entry>, InPlace> {
        self.asked_more = true;
        match self.tree.open(&join(dir, name), OFlags::PATH) {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            _ => Err(InPlace::new(reason)),
        }
    }

    /// Like [`find`](Self::find), for a place that the child need not have.
    pub fn look(&mut self, base: &[u8], path: &[u8]) -> Result<Found, InPlace> {
        let layout = std::mem::take(&mut self.layout);
        let found = self.find(base, path);
        self.layout = layout;
        found
    }

    /// Walks `path` from the directory `base` (absolute, free of symlinks), and records
    /// what it meets.
    pub fn find(&mut self, base: &[u8], path: &[u8]) -> Result<Found, InPlace> {
        let mut here = if path.starts_with(b"/") {
            b"/".to_vec()
        } else {
            base.to_vec()
        };
        // The directories of the model's outside are there, so that walking would end in them.
        if path.starts_with(b"/")
            && matches!(self.place(path), Place::Above)
            && let Err(Errno::NOENT | Errno::NOTDIR) = self.tree.open(path, OFlags::PATH)
        {
            return Ok(Found::Missing);
        }
        // What is still to be walked, last component first.
        let mut todo: Vec<Box<[u8]>> = components(path);
        let mut symlinks = 0;
        let mut origin = (!path.starts_with(b"/")).then(|| base.to_vec());
        while let Some(name) = todo.pop() {
            if &*name == b".." {
                parent(&mut here);
                if let Some(origin) = &origin {
                    self.layout.ups.insert((origin.clone(), here.clone()));
                }
                continue;
            }
            match self.entry(&here, &name)? {
                None => return Ok(Found::Missing),
                Some(Entry::Dir) => {
                    here = join(&here, &name);
                    if self.is_local(&here) {
                        self.layout.dirs.insert(here.clone());
                    }
                }
                Some(Entry::Symlink(target)) => {
                    symlinks += 1;
                    if symlinks > SYMLINKS_MAX {
                        return Ok(Found::Missing);
                    }
                    if self.is_local(&here) {
                        self.layout
                            .links
                            .insert(join(&here, &name), target.to_vec());
                    }
                    origin = Some(here.clone());
                    if target.starts_with(b"/") {
                        here = b"/".to_vec();
                        origin = None;
                    }
                    todo.extend(components(&target));
                }
                Some(Entry::File) if todo.is_empty() => {
                    let file = join(&here, &name);
                    return Ok(if self.is_local(&file) {
                        Found::LocalFile(file)
                    } else {
                        Found::StoreFile(file)
                    });
                }
                Some(Entry::File) => return Ok(Found::Missing),
                Some(Entry::Other) if todo.is_empty() => return Err(InPlace::new("special-file")),
                Some(Entry::Other) => return Ok(Found::Missing),
            }
        }
        Ok(Found::Dir(here))
    }
}

/// The components of a path, last first, without empty ones and `.`.
fn components(path: &[u8]) -> Vec<Box<[u8]>> {
    path.split(|byte| *byte == b'/')
        .rev()
        .filter(|part| !matches!(*part, b"" | b"."))
        .map(Box::from)
        .collect()
}

/// `<dir>/<name>`.
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(dir.len() + 1 + name.len());
    path.extend_from_slice(dir);
    if dir != b"/" {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

fn parent(dir: &mut Vec<u8>) {
    let end = dir.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    dir.truncate(end.max(1));
}

/// The directory and the last component of a path; a path without a slash has no directory.
pub fn split_last(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(end) => (&path[..end.max(1)], &path[end + 1..]),
        None => (b"", path),
    }
}
