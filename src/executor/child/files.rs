//! Files of the build: each content is read, hashed and lexed once.
//!
//! A file is known again by device, inode, size and both times, but only if
//! those were already older than the clock's grain when it was read: a file
//! changed twice within one tick looks unchanged. Nor may anybody have had it open for
//! writing: stores through a mapping change the times once, and then no more.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::fs::{FileType, OFlags};
use shim_core::scan::{Definition, HasIncludeUses, Scan, definitions, has_include_uses, scan};
use store_types::{
    ContentAddress, ContentAddressMethod, Hash, References, Sha256Hasher, StoreDir, StorePath,
};

use super::outcome::InPlace;
use super::tree::{CLOCK_GRAIN_NANOS, CallerTree, StoreTree, now_nanos};

/// A larger input is not worth copying into a sandbox.
const FILE_SIZE_MAX: u64 = 64 << 20;

/// Magic numbers of file systems (statfs(2)) on which a store to a mapped page changes the
/// file's times: ext4 (and 2, 3), XFS, Btrfs, F2FS.
const HONEST_FILE_SYSTEMS: &[u64] = &[0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010];

/// A file of the system that has not changed for so long has no dirty pages.
const LEFT_ALONE_NANOS: i128 = 600_000_000_000;

/// How many files are remembered at most; beyond, all are forgotten at once.
const FACTS_MAX: usize = 1 << 20;

/// A file at a moment: whoever has the same has the same content, if the times had settled.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FileId {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: (i64, u64),
    ctime: (i64, u64),
}

impl FileId {
    pub(super) fn of(stat: &rustix::fs::Stat) -> Self {
        Self {
            dev: stat.st_dev,
            ino: stat.st_ino,
            size: stat.st_size as u64,
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
            ctime: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

/// What is known of one content.
#[derive(Debug)]
pub struct Facts {
    /// SHA-256 of the file's NAR (as a file that is not executable).
    pub nar_hash: Hash,
    /// Size of that NAR in bytes.
    pub nar_size: u64,
    /// What the lexer found in it, once somebody has asked: objects are not text.
    pub(super) scan: OnceLock<Arc<Scan>>,
}

/// A file of the build as it was at one moment.
#[derive(Clone)]
pub struct LocalFile {
    /// What is known of its content.
    pub facts: Arc<Facts>,
    /// Its content, if it was read just now.
    pub bytes: Option<Arc<[u8]>>,
    /// Which file it was, and when.
    pub(super) id: FileId,
    /// Seconds of its modification time.
    pub mtime: i64,
    /// Device and inode.
    pub inode: (u64, u64),
    /// Whether its owner may execute it.
    pub executable: bool,
}

impl LocalFile {
    fn new(stat: &rustix::fs::Stat, facts: Arc<Facts>, bytes: Option<Arc<[u8]>>) -> Self {
        Self {
            facts,
            bytes,
            id: FileId::of(stat),
            mtime: stat.st_mtime,
            inode: (stat.st_dev, stat.st_ino),
            executable: stat.st_mode & 0o100 != 0,
        }
    }
}

/// Whether a file is the system's and has not changed for so long that a change from now on
/// changes its times, whoever has it open: an ordinary user cannot find out who that is. A
/// store through a mapping leaves the times alone only until the kernel has written the page
/// back (`vm.dirty_expire_centisecs`, proc_sys_vm(5): 30 s unless somebody says otherwise).
fn is_left_alone(stat: &rustix::fs::Stat, unchanged_nanos: i128) -> bool {
    stat.st_uid == 0
        && stat.st_mode & 0o022 == 0
        && !rustix::process::geteuid().is_root()
        && unchanged_nanos > LEFT_ALONE_NANOS
}

/// A file, by its NAR hash or its path in the store, and a macro's name.
type MacroInFile = (Vec<u8>, Vec<u8>);

/// The memory of contents, shared by all builds.
#[derive(Default)]
pub struct FileMemory {
    by_id: Mutex<HashMap<FileId, Arc<Facts>>>,
    /// Of each device, whether a file's times tell of all changes.
    devices: Mutex<HashMap<u64, bool>>,
    scans: Mutex<HashMap<Hash, Arc<Scan>>>,
    store_scans: Mutex<HashMap<Box<[u8]>, Arc<Scan>>>,
    /// The values of macros, by where and which: a NAR hash, or a path in the store.
    definitions: Mutex<HashMap<MacroInFile, Arc<[Definition]>>>,
    /// The uses of macros that stand for `__has_include`.
    uses: Mutex<HashMap<MacroInFile, Arc<HasIncludeUses>>>,
}

/// What is known of a macro in a file, found out once.
fn remembered<T: ?Sized>(
    known: &Mutex<HashMap<MacroInFile, Arc<T>>>,
    key: MacroInFile,
    find: impl FnOnce() -> Result<Arc<T>, InPlace>,
) -> Result<Arc<T>, InPlace> {
    if let Some(known) = known
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get(&key)
    {
        return Ok(known.clone());
    }
    let found = find()?;
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    if known.len() >= FACTS_MAX {
        known.clear();
    }
    known.insert(key, found.clone());
    Ok(found)
}

/// The NAR of a regular file: what goes before its contents, and after.
fn nar_around(len: u64) -> (Vec<u8>, &'static [u8]) {
    let mut head = Vec::with_capacity(112);
    for token in ["nix-archive-1", "(", "type", "regular", "contents"] {
        head.extend_from_slice(&(token.len() as u64).to_le_bytes());
        head.extend_from_slice(token.as_bytes());
        head.resize(head.len().next_multiple_of(8), 0);
    }
    head.extend_from_slice(&len.to_le_bytes());
    (head, b"\x01\0\0\0\0\0\0\0)\0\0\0\0\0\0\0")
}

/// Hash and size of the NAR of a regular file with these contents.
pub fn nar_of_file(contents: &[u8]) -> (Hash, u64) {
    let (head, tail) = nar_around(contents.len() as u64);
    let padding = contents.len().next_multiple_of(8) - contents.len();
    let mut hasher = Sha256Hasher::new();
    hasher.update(&head);
    hasher.update(contents);
    hasher.update(&[0; 8][..padding]);
    hasher.update(tail);
    hasher.finish()
}

/// The store path of a file with this NAR hash.
pub fn input_path(store_dir: &StoreDir, nar_hash: &Hash, name: &[u8]) -> StorePath {
    let ca = ContentAddress {
        method: ContentAddressMethod::Nar,
        hash: *nar_hash,
    };
    store_dir
        .content_addressed_path(&object_name(name), &ca, &References::default())
        .expect("a sanitised name without references has a path")
}

/// A file name as the name of a store object: foreign characters become `_`.
pub fn object_name(name: &[u8]) -> String {
    let valid = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-._?=".contains(byte);
    let mut text: String = name
        .iter()
        .take(128)
        .map(|byte| if valid(byte) { *byte as char } else { '_' })
        .collect();
    if text.is_empty() || text.starts_with('.') {
        text.insert(0, '_');
    }
    text
}

fn read_all(fd: impl AsFd, size: u64) -> Result<Vec<u8>, InPlace> {
    let unreadable = |_| InPlace::new("unreadable-input");
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(size as usize + 1)
        .map_err(|_| InPlace::new("large-input"))?;
    while bytes.len() as u64 <= size {
        let read = rustix::io::read(&fd, rustix::buffer::spare_capacity(&mut bytes))
            .map_err(unreadable)?;
        if read == 0 {
            break;
        }
    }
    if bytes.len() as u64 != size {
        return Err(InPlace::new("changed-while-read"));
    }
    Ok(bytes)
}

/// A file of a store object; `path` is absolute and free of symlinks.
fn read_store_file(
    store: &StoreTree,
    store_dir: &StoreDir,
    path: &[u8],
) -> Result<Vec<u8>, InPlace> {
    let unreadable = |_| InPlace::new("unreadable-input");
    let relative = &path[store_dir.as_str().len() + 1..];
    let fd = rustix::fs::openat2(
        store.dir_of(relative),
        relative,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        rustix::fs::Mode::empty(),
        rustix::fs::ResolveFlags::BENEATH | rustix::fs::ResolveFlags::NO_SYMLINKS,
    )
    .map_err(unreadable)?;
    let size = rustix::fs::fstat(&fd).map_err(unreadable)?.st_size as u64;
    if size > FILE_SIZE_MAX {
        return Err(InPlace::new("large-input"));
    }
    read_all(&fd, size)
}

impl FileMemory {
    /// Reads a file of the build, at a path free of symlinks.
    pub fn local(&self, tree: &CallerTree, path: &[u8]) -> Result<LocalFile, InPlace> {
        let gone = |_| InPlace::new("unreadable-input");
        let stat = tree.stat(path).map_err(gone)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(InPlace::new("special-file"));
        }
        // The executor may read more than the build may.
        if stat.st_mode & 0o400 == 0 {
            return Err(InPlace::new("unreadable-input"));
        }
        let known = self
            .by_id
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&FileId::of(&stat))
            .cloned();
        if let Some(facts) = known {
            return Ok(LocalFile::new(&stat, facts, None));
        }
        // `O_NONBLOCK`: a pipe laid in place of the file must not hold us.
        let fd = tree
            .open(path, OFlags::RDONLY | OFlags::NONBLOCK)
            .map_err(gone)?;
        // In this order: who opens the file for writing after the first changes its times,
        // and the second tells whether that was too short a while ago to be told.
        let may_be_written = droste_sys::may_be_written(fd.as_fd());
        let now = now_nanos();
        let stat = rustix::fs::fstat(&fd).map_err(gone)?;
        let id = FileId::of(&stat);
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(InPlace::new("special-file"));
        }
        if id.size > FILE_SIZE_MAX {
            return Err(InPlace::new("large-input"));
        }
        let bytes: Arc<[u8]> = read_all(&fd, id.size)?.into();
        let (nar_hash, nar_size) = nar_of_file(&bytes);
        let facts = Arc::new(Facts {
            nar_hash,
            nar_size,
            scan: OnceLock::new(),
        });
        let ctime = i128::from(id.ctime.0) * 1_000_000_000 + i128::from(id.ctime.1);
        let mtime = i128::from(id.mtime.0) * 1_000_000_000 + i128::from(id.mtime.1);
        let settled = now - ctime > CLOCK_GRAIN_NANOS && now - mtime > CLOCK_GRAIN_NANOS;
        let may_be_written = may_be_written && !is_left_alone(&stat, now - ctime);
        if settled && !may_be_written && self.has_honest_times(&fd, id.dev) {
            let mut by_id = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
            if by_id.len() >= FACTS_MAX {
                by_id.clear();
            }
            by_id.insert(id, facts.clone());
        }
        Ok(LocalFile::new(&stat, facts, Some(bytes)))
    }

    /// Whether a file with this identity and these times has a content that is known.
    pub(super) fn is_known(&self, id: &FileId) -> bool {
        let by_id = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
        by_id.contains_key(id)
    }

    /// Whether the file system changes a file's times with every change of its content,
    /// through mappings, too. tmpfs does not; of others it is not known.
    fn has_honest_times(&self, fd: &OwnedFd, dev: u64) -> bool {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        *devices.entry(dev).or_insert_with(|| {
            rustix::fs::fstatfs(fd)
                .is_ok_and(|stat| HONEST_FILE_SYSTEMS.contains(&(stat.f_type as u64)))
        })
    }

    /// The bytes behind [`LocalFile`] again, if they are still the same.
    pub fn bytes(
        &self,
        tree: &CallerTree,
        path: &[u8],
        file: &LocalFile,
    ) -> Result<Arc<[u8]>, InPlace> {
        if let Some(bytes) = &file.bytes {
            return Ok(bytes.clone());
        }
        let gone = |_| InPlace::new("unreadable-input");
        let fd = tree
            .open(path, OFlags::RDONLY | OFlags::NONBLOCK)
            .map_err(gone)?;
        let stat = rustix::fs::fstat(&fd).map_err(gone)?;
        if stat.st_size as u64 > FILE_SIZE_MAX {
            return Err(InPlace::new("large-input"));
        }
        let bytes = read_all(&fd, stat.st_size as u64)?;
        if nar_of_file(&bytes).0 != file.facts.nar_hash {
            return Err(InPlace::new("changed-while-read"));
        }
        Ok(bytes.into())
    }

    /// What the lexer finds in a file of the build.
    pub fn local_scan(
        &self,
        tree: &CallerTree,
        path: &[u8],
        file: &LocalFile,
    ) -> Result<Arc<Scan>, InPlace> {
        if let Some(scan) = file.facts.scan.get() {
            return Ok(scan.clone());
        }
        let known = |scans: &Mutex<HashMap<Hash, Arc<Scan>>>| {
            let scans = scans.lock().unwrap_or_else(PoisonError::into_inner);
            scans.get(&file.facts.nar_hash).cloned()
        };
        let scan = match known(&self.scans) {
            Some(scan) => scan,
            None => {
                let scan = Arc::new(scan(&self.bytes(tree, path, file)?));
                let mut scans = self.scans.lock().unwrap_or_else(PoisonError::into_inner);
                if scans.len() >= FACTS_MAX {
                    scans.clear();
                }
                scans.insert(file.facts.nar_hash, scan.clone());
                scan
            }
        };
        Ok(file.facts.scan.get_or_init(|| scan).clone())
    }

    /// The values that a file of the build gives to a macro.
    pub fn local_definitions(
        &self,
        tree: &CallerTree,
        path: &[u8],
        file: &LocalFile,
        name: &[u8],
    ) -> Result<Arc<[Definition]>, InPlace> {
        let key = (file.facts.nar_hash.bytes().to_vec(), name.to_vec());
        remembered(&self.definitions, key, || {
            Ok(definitions(&self.bytes(tree, path, file)?, name).into())
        })
    }

    /// What a file of the build uses a macro for that stands for `__has_include`.
    pub fn local_uses(
        &self,
        tree: &CallerTree,
        path: &[u8],
        file: &LocalFile,
        alias: &[u8],
    ) -> Result<Arc<HasIncludeUses>, InPlace> {
        let key = (file.facts.nar_hash.bytes().to_vec(), alias.to_vec());
        remembered(&self.uses, key, || {
            Ok(has_include_uses(&self.bytes(tree, path, file)?, alias).into())
        })
    }

    /// The same for a file of a store object.
    pub fn store_uses(
        &self,
        store: &StoreTree,
        store_dir: &StoreDir,
        path: &[u8],
        alias: &[u8],
    ) -> Result<Arc<HasIncludeUses>, InPlace> {
        let key = (path.to_vec(), alias.to_vec());
        remembered(&self.uses, key, || {
            Ok(has_include_uses(&read_store_file(store, store_dir, path)?, alias).into())
        })
    }

    /// The values that a file of a store object gives to a macro.
    pub fn store_definitions(
        &self,
        store: &StoreTree,
        store_dir: &StoreDir,
        path: &[u8],
        name: &[u8],
    ) -> Result<Arc<[Definition]>, InPlace> {
        let key = (path.to_vec(), name.to_vec());
        remembered(&self.definitions, key, || {
            Ok(definitions(&read_store_file(store, store_dir, path)?, name).into())
        })
    }

    /// Forgets what is known by paths in the store, as objects may have been replaced.
    pub fn forget_store(&self) {
        let mut scans = self
            .store_scans
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        scans.clear();
        drop(scans);
        let mut definitions = self
            .definitions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        definitions.clear();
        drop(definitions);
        let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        uses.clear();
    }

    /// What the lexer found in a file of a store object; `path` is absolute and
    /// free of symlinks.
    pub fn store_scan(
        &self,
        store: &StoreTree,
        store_dir: &StoreDir,
        path: &[u8],
    ) -> Result<Arc<Scan>, InPlace> {
        if let Some(scan) = self
            .store_scans
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(path)
        {
            return Ok(scan.clone());
        }
        let scan = Arc::new(scan(&read_store_file(store, store_dir, path)?));
        let mut scans = self
            .store_scans
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        scans.insert(path.into(), scan.clone());
        Ok(scan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nar_of_a_file_is_hashed_as_nix_hashes_it() {
        // `printf 'hello\n' > x; nix-hash --type sha256 x`
        let (hash, size) = nar_of_file(b"hello\n");
        assert_eq!(size, 120);
        assert_eq!(
            hash.to_hex(),
            "1c37d01af40be2e80691de3cc3df44377a699afbb17c68f080964b2fd071fc13"
        );
    }

    #[test]
    fn any_file_name_becomes_the_name_of_a_store_object() {
        for (name, expected) in [
            (&b"lapi.c"[..], "lapi.c"),
            (b".hidden", "_.hidden"),
            (b"a b\xff", "a_b_"),
            (b"", "_"),
        ] {
            assert_eq!(object_name(name), expected);
        }
    }
}
