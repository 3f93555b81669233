//! Adding objects: written beside their place, hashed, moved, registered.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::sync::{MutexGuard, PoisonError};

use store_nar::{
    GitHasher, HashModuloSink, HashModuloVariant, Hasher, NarError, RestoreWriter, Tee, copy, dump,
    dump_and_hash, fs, git_hash_tree, hash_part, remove_tree,
};
use store_types::{
    ContentAddress, ContentAddressMethod, Derivation, DerivationKind, Hash, HashAlgorithm,
    PathInfo, References, StorePath, sha256,
};

use crate::{LocalError, LocalStore, Registration};

/// The name of an object in its temporary directory.
pub(crate) const OBJECT: &str = "x";
/// Pieces that a flat file is copied in, in bytes.
const PIECE_LEN: usize = 64 * 1024;
/// The longest `.drv` that is read, in bytes: a derivation with a hundred thousand inputs is not
/// half of it. Parsed, one can take eight times as much.
pub const DRV_LEN_MAX: u64 = 32 << 20;
/// Of longer ones, in bytes, there is a [turn](DerivationTurn) to wait for: far more than nearly
/// all that there are.
const DRV_LEN_SHARED_MAX: u64 = 2 << 20;

/// An object that is one file, not executable, and held in memory: a derivation, a source.
#[derive(Clone, Copy, Debug)]
pub struct FileObject<'a> {
    /// The object's name.
    pub name: &'a str,
    /// How its content is hashed for its path.
    pub method: ContentAddressMethod,
    /// The content.
    pub bytes: &'a [u8],
    /// Hash and size of its NAR, if they are known. They are believed.
    pub nar: Option<(Hash, u64)>,
    /// What it refers to.
    pub references: &'a BTreeSet<StorePath>,
}

impl LocalStore {
    /// Adds an object whose path follows from its content.
    ///
    /// `source` is a NAR for [`ContentAddressMethod::Nar`] and
    /// [`ContentAddressMethod::Git`] (exactly one is read,
    /// in small reads: give it a buffer), else the bytes of one regular file, read
    /// to the end. The object may not refer to itself.
    pub fn add_content_addressed(
        &self,
        name: &str,
        method: ContentAddressMethod,
        algorithm: HashAlgorithm,
        references: &BTreeSet<StorePath>,
        source: &mut dyn Read,
    ) -> Result<PathInfo, LocalError> {
        self.add_addressed(name, method, algorithm, references, false, source)
    }

    /// The same; with `repair`, an object that is valid, but not what it should be, is replaced.
    pub fn add_addressed(
        &self,
        name: &str,
        method: ContentAddressMethod,
        algorithm: HashAlgorithm,
        references: &BTreeSet<StorePath>,
        repair: bool,
        source: &mut dyn Read,
    ) -> Result<PathInfo, LocalError> {
        let temp = self.temp_dir()?;
        let tree = LocalError::tree("add", name);
        let (hash, nar_hash, nar_size) = match method {
            ContentAddressMethod::Nar => {
                let mut hasher = Hasher::new(algorithm);
                let mut nar_hasher = Hasher::new(HashAlgorithm::Sha256);
                let mut restored = RestoreWriter::new(temp.fd(), OsStr::new(OBJECT));
                let mut sinks: Vec<&mut dyn Write> = vec![&mut nar_hasher, &mut restored];
                if algorithm != HashAlgorithm::Sha256 {
                    sinks.push(&mut hasher);
                }
                copy(source, &mut Tee::new(sinks))
                    .and_then(|_| restored.finish())
                    .map_err(tree)?;
                let (nar_hash, nar_size) = nar_hasher.finish();
                let hash = match algorithm {
                    HashAlgorithm::Sha256 => nar_hash,
                    _ => hasher.finish().0,
                };
                (hash, nar_hash, nar_size)
            }
            ContentAddressMethod::Git => {
                let mut hasher =
                    GitHasher::new(algorithm).map_err(LocalError::tree("add", name))?;
                let mut nar_hasher = Hasher::new(HashAlgorithm::Sha256);
                let mut restored = RestoreWriter::new(temp.fd(), OsStr::new(OBJECT));
                let sinks: Vec<&mut dyn Write> = vec![&mut nar_hasher, &mut hasher, &mut restored];
                let hash = copy(source, &mut Tee::new(sinks))
                    .and_then(|_| restored.finish())
                    .and_then(|()| hasher.finish())
                    .map_err(tree)?;
                let (nar_hash, nar_size) = nar_hasher.finish();
                (hash, nar_hash, nar_size)
            }
            ContentAddressMethod::Flat | ContentAddressMethod::Text => {
                let mut hasher = Hasher::new(algorithm);
                write_flat(temp.fd(), source, &mut hasher).map_err(|source| {
                    LocalError::tree("add", name)(NarError::Io {
                        operation: "write",
                        path: name.into(),
                        source,
                    })
                })?;
                let (nar_hash, nar_size) =
                    dump_and_hash(temp.fd(), OsStr::new(OBJECT)).map_err(tree)?;
                (hasher.finish().0, nar_hash, nar_size)
            }
        };
        let ca = ContentAddress { method, hash };
        let info = self.addressed(name, ca, References::to_others(references.clone()))?;
        let info = PathInfo {
            nar_hash,
            nar_size,
            ..info
        };
        if repair {
            self.repair_from(temp.fd(), &info)?;
        }
        self.finish_add(temp.fd(), info)
    }

    /// If a path is valid, but its object is not what it should be, puts that of a temporary
    /// directory in its place.
    fn repair_from(&self, dir: BorrowedFd<'_>, info: &PathInfo) -> Result<(), LocalError> {
        let path = &info.path;
        self.add_temp_root(path)?;
        let _locks = self.lock_paths(&BTreeSet::from([path.clone()]))?;
        let Some(present) = self.path_info(path)? else {
            return Ok(());
        };
        let name = OsStr::new(path.base_name());
        let found = dump_and_hash(self.dir_of(name), name);
        if found.is_ok_and(|(hash, _)| hash == present.nar_hash) {
            return Ok(());
        }
        self.replace_object(dir, OsStr::new(OBJECT), info)
    }

    /// Adds a copy of the tree that `node` in `dir` is, as `nix-store --add` does:
    /// addressed by the SHA-256 of its NAR. What is hashed is what is copied.
    pub fn add_tree(
        &self,
        name: &str,
        dir: BorrowedFd<'_>,
        node: &OsStr,
        references: &BTreeSet<StorePath>,
    ) -> Result<PathInfo, LocalError> {
        let method = ContentAddressMethod::Nar;
        self.add_node(name, method, HashAlgorithm::Sha256, dir, node, references)
    }

    /// Adds a copy of what `node` in `dir` is, addressed as asked for, as `nix store add` does.
    /// What is hashed is what is copied. For [`ContentAddressMethod::Flat`] and
    /// [`ContentAddressMethod::Text`] it must be a regular file, which is not executable in the
    /// store.
    pub fn add_node(
        &self,
        name: &str,
        method: ContentAddressMethod,
        algorithm: HashAlgorithm,
        dir: BorrowedFd<'_>,
        node: &OsStr,
        references: &BTreeSet<StorePath>,
    ) -> Result<PathInfo, LocalError> {
        let tree = LocalError::tree("add", name);
        if !method.is_nar_on_the_wire() {
            let stat = fs::stat(dir, node).map_err(LocalError::io("examine", node))?;
            if fs::Kind::of(&stat) != fs::Kind::Regular {
                return Err(LocalError::NoFile {
                    name: name.to_owned(),
                });
            }
            let file = fs::open_file(dir, node).map_err(LocalError::io("open", node))?;
            let mut file = std::fs::File::from(file);
            return self.add_content_addressed(name, method, algorithm, references, &mut file);
        }
        let temp = self.temp_dir()?;
        let mut nar_hasher = Hasher::new(HashAlgorithm::Sha256);
        let mut restored = RestoreWriter::new(temp.fd(), OsStr::new(OBJECT));
        let mut sinks: Vec<&mut dyn Write> = vec![&mut nar_hasher, &mut restored];
        let mut hasher = None;
        let mut git_hasher = None;
        if method == ContentAddressMethod::Git {
            let new = GitHasher::new(algorithm).map_err(LocalError::tree("add", name))?;
            sinks.push(git_hasher.insert(new));
        } else if algorithm != HashAlgorithm::Sha256 {
            sinks.push(hasher.insert(Hasher::new(algorithm)));
        }
        dump(dir, node, &mut Tee::new(sinks))
            .and_then(|()| restored.finish())
            .map_err(LocalError::tree("add", name))?;
        let (nar_hash, nar_size) = nar_hasher.finish();
        let hash = match (git_hasher, hasher) {
            (Some(hasher), _) => hasher.finish().map_err(tree)?,
            (None, Some(hasher)) => hasher.finish().0,
            (None, None) => nar_hash,
        };
        let ca = ContentAddress { method, hash };
        let info = self.addressed(name, ca, References::to_others(references.clone()))?;
        self.finish_add(
            temp.fd(),
            PathInfo {
                nar_hash,
                nar_size,
                ..info
            },
        )
    }

    /// Adds a text, like a derivation's; see [`add_files`](Self::add_files).
    pub fn add_text(
        &self,
        name: &str,
        bytes: &[u8],
        references: &BTreeSet<StorePath>,
    ) -> Result<PathInfo, LocalError> {
        let object = FileObject {
            name,
            method: ContentAddressMethod::Text,
            bytes,
            nar: None,
            references,
        };
        let mut infos = self.add_files(&[object])?;
        Ok(infos.remove(0))
    }

    /// Adds files in one transaction, in any order, hashed with SHA-256. They may refer to one
    /// another. The outputs of derivations are registered with them, and must have
    /// the paths that follow.
    ///
    /// A file is written without a name and gets its place when it is whole, so there are neither
    /// locks nor temporary directories where nobody else adds the same: to make and remove them
    /// takes longer than all the rest.
    pub fn add_files(&self, objects: &[FileObject<'_>]) -> Result<Vec<PathInfo>, LocalError> {
        self.layout.check_writable("add an object")?;
        let mut registrations = Vec::with_capacity(objects.len());
        let mut texts = BTreeMap::new();
        for object in objects {
            let (nar_hash, nar_size) = object.nar.unwrap_or_else(|| nar_of_file(object.bytes));
            let ca = ContentAddress {
                method: object.method,
                hash: match object.method {
                    ContentAddressMethod::Nar => nar_hash,
                    ContentAddressMethod::Flat | ContentAddressMethod::Text => sha256(object.bytes),
                    ContentAddressMethod::Git => git_blob(object.bytes),
                },
            };
            let references = References::to_others(object.references.clone());
            let mut info = self.addressed(object.name, ca, references)?;
            (info.nar_hash, info.nar_size) = (nar_hash, nar_size);
            texts.insert(info.path.clone(), object.bytes);
            registrations.push(Registration::new(info));
        }
        for Registration {
            info,
            derivation_outputs,
        } in &mut registrations
        {
            *derivation_outputs = self.derivation_outputs(&info.path, &texts)?;
        }
        let paths: BTreeSet<StorePath> = registrations
            .iter()
            .map(|registration| registration.info.path.clone())
            .collect();
        for path in &paths {
            self.add_temp_root(path)?;
        }
        if self.valid_among(&paths)?.len() < paths.len() {
            let (mut missing, mut taken) = (Vec::new(), Vec::new());
            {
                // Of threads that add the same, one does, and the next finds it.
                let _adding = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
                let mut valid = self.valid_among(&paths)?;
                for (object, registration) in objects.iter().zip(&registrations) {
                    let path = &registration.info.path;
                    // Of two with the same path the first is written.
                    if !valid.insert(path.clone()) {
                        continue;
                    }
                    match self.place_file(path, object.bytes)? {
                        true => missing.push(registration.clone()),
                        false => taken.push((object, registration)),
                    }
                }
                if taken.is_empty() {
                    self.register(&missing)?;
                }
            }
            if !taken.is_empty() {
                let locked = taken.iter().map(|(_, taken)| taken.info.path.clone());
                let locked: BTreeSet<StorePath> = locked.collect();
                let _locks = self.lock_paths(&locked)?;
                let valid = self.valid_among(&locked)?;
                for (object, registration) in taken {
                    let path = &registration.info.path;
                    if valid.contains(path) {
                        continue;
                    }
                    // It is not valid before it is registered, and nobody else may touch it
                    // before that.
                    self.remove_invalid(path)?;
                    write_text(self.store_fd(), OsStr::new(path.base_name()), object.bytes)
                        .map_err(LocalError::io("write", self.physical_path(path)))?;
                    missing.push(registration.clone());
                }
                self.register(&missing)?;
            }
        }
        let infos = self.path_infos(&paths)?;
        registrations
            .into_iter()
            .map(|registration| {
                let path = registration.info.path;
                let info = infos.get(&path).cloned();
                info.ok_or(LocalError::NotValid { path })
            })
            .collect()
    }

    /// Puts a file at the place of a path that is not valid; false if that has to be done under
    /// a lock. A file that another process has put there just now is as good: nobody puts any
    /// there before it is whole, but [`add_files`](Self::add_files) under its lock.
    fn place_file(&self, path: &StorePath, bytes: &[u8]) -> Result<bool, LocalError> {
        let name = OsStr::new(path.base_name());
        let failed = |error| LocalError::io("write", self.physical_path(path))(error);
        let nameless = match fs::create_nameless(self.store_fd(), 0o444) {
            Ok(file) => file,
            Err(error) if is_full(&error) => return Err(failed(error)),
            // There is none on this file system.
            Err(_) => return Ok(false),
        };
        let write = || {
            fs::write_all(&nameless, bytes)?;
            fs::set_mode(&nameless, 0o444)?;
            fs::set_store_mtime_fd(&nameless)
        };
        write().map_err(failed)?;
        match fs::name_file(&nameless, self.store_fd(), name) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Ok(self.is_there_already(name, bytes).unwrap_or(false))
            }
            Err(error) if is_full(&error) => Err(failed(error)),
            // There is no `/proc`.
            Err(_) => Ok(false),
        }
    }

    /// Whether a file of the store directory is what [`place_file`](Self::place_file) leaves.
    fn is_there_already(&self, name: &OsStr, bytes: &[u8]) -> io::Result<bool> {
        let stat = fs::stat(self.store_fd(), name)?;
        let is_alike = fs::Kind::of(&stat) == fs::Kind::Regular
            && stat.st_mode & 0o7777 == 0o444
            && stat.st_mtime == 1
            && usize::try_from(stat.st_size) == Ok(bytes.len());
        if !is_alike {
            return Ok(false);
        }
        let file = fs::open_file(self.store_fd(), name)?;
        let mut buffer = vec![0; PIECE_LEN];
        let mut rest = bytes;
        loop {
            let count = fs::read(&file, &mut buffer)?;
            match rest.strip_prefix(&buffer[..count]) {
                Some(left) if count > 0 => rest = left,
                Some(left) => return Ok(left.is_empty()),
                None => return Ok(false),
            }
        }
    }

    /// Adds an object under the path of `info`, which its NAR must match in hash
    /// and size; what it refers to must be valid. If `info` has a content address,
    /// the path must follow from it and it from the content: of an object that refers to
    /// itself, in either [variant](HashModuloVariant).
    ///
    /// Exactly one NAR is read, in small reads, even if the path is valid already.
    pub fn add_nar(&self, info: &PathInfo, nar: &mut dyn Read) -> Result<(), LocalError> {
        self.add_nar_with(info, false, nar)
    }

    /// The same; with `repair`, an object that is valid, but not what it should be, is replaced.
    pub fn add_nar_with(
        &self,
        info: &PathInfo,
        repair: bool,
        nar: &mut dyn Read,
    ) -> Result<(), LocalError> {
        let path = &info.path;
        self.add_temp_root(path)?;
        if !repair && self.is_valid(path)? {
            copy(nar, &mut io::sink()).map_err(LocalError::tree("add", path))?;
            return Ok(());
        }
        let temp = self.temp_dir()?;
        let mut hasher = Hasher::new(HashAlgorithm::Sha256);
        let mut restored = RestoreWriter::new(temp.fd(), OsStr::new(OBJECT));
        copy(nar, &mut Tee::new(vec![&mut hasher, &mut restored]))
            .and_then(|_| restored.finish())
            .map_err(LocalError::tree("add", path))?;
        let (hash, size) = hasher.finish();
        if hash != info.nar_hash {
            return Err(LocalError::HashMismatch {
                path: path.clone(),
                wanted: Box::new(info.nar_hash),
                found: Box::new(hash),
            });
        }
        if size != info.nar_size {
            return Err(LocalError::SizeMismatch {
                path: path.clone(),
                wanted: info.nar_size,
                found: size,
            });
        }
        self.check_content_address(info, temp.fd())?;
        if repair {
            self.repair_from(temp.fd(), info)?;
        }
        self.finish_add(temp.fd(), info.clone())?;
        Ok(())
    }

    /// An error if a content address and the object, or the path, do not agree.
    fn check_content_address(
        &self,
        info: &PathInfo,
        dir: BorrowedFd<'_>,
    ) -> Result<(), LocalError> {
        let references = info.references_apart_from_self();
        let Some(ca) = info.ca else {
            return Ok(());
        };
        let computed = self
            .addressed(info.path.name(), ca, references.clone())?
            .path;
        if computed != info.path {
            return Err(LocalError::WrongContentAddress {
                path: info.path.clone(),
                computed,
            });
        }
        let (name, object) = (info.path.name(), OsStr::new(OBJECT));
        let found = match ca.method {
            ContentAddressMethod::Nar if references.has_self => {
                // Which of the two is meant depends on the Nix that made it, and is not said. No
                // path follows from any other address of what refers to itself.
                let own = hash_part(&info.path);
                let algorithm = ca.hash.algorithm();
                let sink = |variant| HashModuloSink::new(algorithm, &own, variant);
                let mut plain = sink(HashModuloVariant::WithoutOffsets);
                let mut with_offsets = sink(HashModuloVariant::WithOffsets);
                let mut both = Tee::new(vec![&mut plain, &mut with_offsets]);
                dump(dir, object, &mut both).map_err(LocalError::tree("hash", name))?;
                let plain = plain.finish().0;
                match with_offsets.finish().0 {
                    other if other == ca.hash => other,
                    _ => plain,
                }
            }
            ContentAddressMethod::Git => git_hash(name, dir, object, ca.hash.algorithm())?,
            ContentAddressMethod::Flat | ContentAddressMethod::Text | ContentAddressMethod::Nar => {
                let mut hasher = Hasher::new(ca.hash.algorithm());
                feed_content(name, ca.method, dir, object, &mut hasher)?;
                hasher.finish().0
            }
        };
        if found != ca.hash {
            return Err(LocalError::ContentAddressMismatch {
                path: self.dir.display(&info.path),
                wanted: Box::new(ca.hash),
                found: Box::new(found),
            });
        }
        Ok(())
    }

    /// What follows from a content address; the NAR's hash and size are for the
    /// caller to fill in.
    pub(crate) fn addressed(
        &self,
        name: &str,
        ca: ContentAddress,
        references: References,
    ) -> Result<PathInfo, LocalError> {
        let path = self
            .dir
            .content_addressed_path(name, &ca, &references)
            .map_err(|source| LocalError::ContentAddress {
                name: name.to_owned(),
                source,
            })?;
        let mut all = references.others;
        if references.has_self {
            all.insert(path.clone());
        }
        Ok(PathInfo {
            path,
            nar_hash: ca.hash,
            nar_size: 0,
            references: all,
            deriver: None,
            registration_time: 0,
            ultimate: false,
            signatures: Vec::new(),
            ca: Some(ca),
        })
    }

    /// Moves the object of a temporary directory to its place and registers it,
    /// unless the path is valid; what is known of the path then.
    pub(crate) fn finish_add(
        &self,
        dir: BorrowedFd<'_>,
        info: PathInfo,
    ) -> Result<PathInfo, LocalError> {
        self.finish_add_node(dir, OsStr::new(OBJECT), info)
    }

    /// [`finish_add`](Self::finish_add) of a node of any name.
    pub(crate) fn finish_add_node(
        &self,
        dir: BorrowedFd<'_>,
        node: &OsStr,
        info: PathInfo,
    ) -> Result<PathInfo, LocalError> {
        let path = info.path.clone();
        self.add_temp_root(&path)?;
        // Who builds a derivation has its lock, and may add it meanwhile.
        if let Some(present) = self.path_info(&path)? {
            return Ok(present);
        }
        let _locks = self.lock_paths(&BTreeSet::from([path.clone()]))?;
        if let Some(present) = self.path_info(&path)? {
            return Ok(present);
        }
        self.move_into_store(dir, node, &path)?;
        let register = || {
            self.register(&[self.registration(info)?])?;
            self.path_info(&path)?
                .ok_or_else(|| LocalError::NotValid { path: path.clone() })
        };
        register().inspect_err(|_| {
            // It is not valid, so nobody uses it; what stays, the next adder removes.
            if let Ok(false) = self.is_valid(&path) {
                let _ = remove_tree(self.store_fd(), OsStr::new(path.base_name()));
            }
        })
    }

    /// What registers an object that is complete at its place: with its outputs, if it is a
    /// derivation, which it must be if its name is one's.
    pub fn registration(&self, info: PathInfo) -> Result<Registration, LocalError> {
        Ok(Registration {
            derivation_outputs: self.derivation_outputs(&info.path, &BTreeMap::new())?,
            info,
        })
    }

    /// The outputs whose paths a derivation names, which must follow from it; none
    /// of what is no `.drv`. What is not in `texts` is read from the store.
    fn derivation_outputs(
        &self,
        path: &StorePath,
        texts: &BTreeMap<StorePath, &[u8]>,
    ) -> Result<Vec<(String, StorePath)>, LocalError> {
        if !path.is_derivation() {
            return Ok(Vec::new());
        }
        let turn = self.derivation_turn();
        let derivation = match texts.get(path) {
            Some(bytes) => self.parse_derivation(path, bytes)?,
            None => self.parse_derivation(path, &turn.text_of_any(path)?)?,
        };
        let known: Vec<(String, StorePath)> = derivation
            .outputs
            .iter()
            .filter_map(|(name, output)| Some((name.clone(), output.path()?.clone())))
            .collect();
        // Nothing to check in one that only names how its outputs are hashed.
        let names_no_path = matches!(
            derivation.kind(),
            Ok(DerivationKind::Floating | DerivationKind::Impure)
        );
        if !names_no_path {
            let mut modulo = self.modulo.lock().unwrap_or_else(PoisonError::into_inner);
            let read = |input: &StorePath| match texts.get(input) {
                Some(bytes) => self.parse_derivation(input, bytes),
                None if !self.is_valid(input)? => {
                    let path = input.clone();
                    Err(LocalError::NotValid { path })
                }
                // Not in a turn: others wait for `modulo` in theirs. It is one thread's as well.
                None => self.parse_derivation(input, &self.read_derivation_file(input)?),
            };
            derivation
                .check_output_paths(path, &mut modulo, read)
                .map_err(|source| LocalError::DerivationOutputs {
                    path: path.clone(),
                    source: Box::new(source),
                })?;
        }
        Ok(known)
    }

    /// The derivation of a valid path. Whoever adds to the store can have put anything there:
    /// see [`DerivationTurn::text`].
    pub fn read_derivation(&self, path: &StorePath) -> Result<Derivation, LocalError> {
        self.derivation_turn().read(path)
    }

    /// To read derivations one after the other.
    pub fn derivation_turn(&self) -> DerivationTurn<'_> {
        let store = self;
        let held = OnceCell::new();
        DerivationTurn { store, held }
    }

    fn read_derivation_file(&self, path: &StorePath) -> Result<Vec<u8>, LocalError> {
        self.read_text_of(path, self.open_object(path)?)
    }

    fn read_text_of(&self, path: &StorePath, file: File) -> Result<Vec<u8>, LocalError> {
        let mut text = Vec::new();
        file.take(DRV_LEN_MAX + 1)
            .read_to_end(&mut text)
            .map_err(LocalError::io("read", self.physical_path(path)))?;
        match text.len() as u64 > DRV_LEN_MAX {
            true => Err(LocalError::LongDerivation { path: path.clone() }),
            false => Ok(text),
        }
    }

    fn parse_derivation(&self, path: &StorePath, text: &[u8]) -> Result<Derivation, LocalError> {
        Derivation::parse(&self.dir, text).map_err(|source| LocalError::Derivation {
            path: path.clone(),
            source,
        })
    }
}

/// Reads derivations for one request. Parsed, a derivation takes several times the memory of its
/// text, and who asks for it sends a few bytes: so of all turns, one at a time has large ones in
/// memory, from the first that it reads until it ends. Then what the allocator keeps of it is given
/// back, or each thread that ever had some would keep as much.
pub struct DerivationTurn<'a> {
    store: &'a LocalStore,
    held: OnceCell<MutexGuard<'a, ()>>,
}

impl DerivationTurn<'_> {
    /// The derivation of a valid path.
    pub fn read(&self, path: &StorePath) -> Result<Derivation, LocalError> {
        self.store.parse_derivation(path, &self.text(path)?)
    }

    /// The text of the derivation of a valid path, at most [`DRV_LEN_MAX`] bytes. Only the regular
    /// file that the object itself is, and that is named like a derivation, is read: not what a
    /// link leads to, and nothing that has no end.
    pub fn text(&self, path: &StorePath) -> Result<Vec<u8>, LocalError> {
        if !path.is_derivation() {
            return Err(LocalError::NoDerivation { path: path.clone() });
        }
        // What is not valid may be anything.
        if !self.store.is_valid(path)? {
            return Err(LocalError::NotValid { path: path.clone() });
        }
        self.text_of_any(path)
    }

    /// The same, whether the path is valid or not.
    fn text_of_any(&self, path: &StorePath) -> Result<Vec<u8>, LocalError> {
        let store = self.store;
        let file = store.open_object(path)?;
        let stat =
            fs::stat_fd(&file).map_err(LocalError::io("examine", store.physical_path(path)))?;
        if stat.st_size as u64 > DRV_LEN_SHARED_MAX {
            let large = &store.large_derivations;
            self.held
                .get_or_init(|| large.lock().unwrap_or_else(PoisonError::into_inner));
        }
        store.read_text_of(path, file)
    }
}

impl Drop for DerivationTurn<'_> {
    fn drop(&mut self) {
        if let (Some(_), Some(give_back)) = (self.held.get(), self.store.return_memory.get()) {
            give_back();
        }
    }
}

/// The hash of an object as git has it.
pub(crate) fn git_hash(
    name: &str,
    dir: BorrowedFd<'_>,
    node: &OsStr,
    algorithm: HashAlgorithm,
) -> Result<Hash, LocalError> {
    git_hash_tree(dir, node, algorithm).map_err(LocalError::tree("hash", name))
}

/// Writes what a method hashes to a sink; what git hashes is no stream.
pub(crate) fn feed_content(
    name: &str,
    method: ContentAddressMethod,
    dir: BorrowedFd<'_>,
    node: &OsStr,
    sink: &mut dyn Write,
) -> Result<(), LocalError> {
    if method == ContentAddressMethod::Nar {
        return dump(dir, node, sink).map_err(LocalError::tree("hash", name));
    }
    let stat = fs::stat(dir, node).map_err(LocalError::io("examine", node))?;
    if fs::Kind::of(&stat) != fs::Kind::Regular || stat.st_mode & 0o100 != 0 {
        return Err(LocalError::NotFlat {
            name: name.to_owned(),
        });
    }
    let mut read = || -> io::Result<()> {
        let file = fs::open_file(dir, node)?;
        let mut buffer = vec![0; PIECE_LEN];
        loop {
            match fs::read(&file, &mut buffer)? {
                0 => return Ok(()),
                count => sink.write_all(&buffer[..count])?,
            }
        }
    };
    read().map_err(LocalError::io("hash", node))
}

/// Copies a stream to a file of a temporary directory and to a hasher.
fn write_flat(dir: BorrowedFd<'_>, source: &mut dyn Read, hasher: &mut Hasher) -> io::Result<()> {
    let file = fs::create_file(dir, OsStr::new(OBJECT), 0o444)?;
    let mut buffer = vec![0; PIECE_LEN];
    loop {
        let count = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..count]);
        fs::write_all(&file, &buffer[..count])?;
    }
    fs::set_mode(&file, 0o444)?;
    fs::set_store_mtime_fd(&file)
}

/// Whether there is no room, which is so for whatever way to write.
fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::ReadOnlyFilesystem
    )
}

fn write_text(dir: BorrowedFd<'_>, name: &OsStr, bytes: &[u8]) -> io::Result<()> {
    let file = fs::create_file(dir, name, 0o444)?;
    fs::write_all(&file, bytes)?;
    fs::set_mode(&file, 0o444)?;
    fs::set_store_mtime_fd(&file)
}

/// The SHA-256 that git has for a file of this content.
fn git_blob(bytes: &[u8]) -> Hash {
    let mut hasher = Hasher::new(HashAlgorithm::Sha256);
    hasher.update(format!("blob {}\0", bytes.len()).as_bytes());
    hasher.update(bytes);
    hasher.finish().0
}

/// The hash and length of the NAR of a file that is not executable.
fn nar_of_file(bytes: &[u8]) -> (Hash, u64) {
    let mut hasher = Hasher::new(HashAlgorithm::Sha256);
    let mut string = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
        hasher.update(&[0; 8][..bytes.len().wrapping_neg() % 8]);
    };
    for word in ["nix-archive-1", "(", "type", "regular", "contents"] {
        string(word.as_bytes());
    }
    string(bytes);
    string(b")");
    hasher.finish()
}
