//! The store: opening it, asking it, registering in it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, Row, params};
use store_nar::{fs, remove_tree};
use store_types::{
    BuildTraceEntry, DrvOutput, HashAlgorithm, HashModulo, PathInfo, Realisation, Signature,
    StoreDir, StorePath,
};

use crate::borrowed::Borrowing;
use crate::build_trace::check_entry;
use crate::db::{Db, DbError};
use crate::layout::Layout;
use crate::locks::SpareLocks;
use crate::roots::{SessionRoots, TempRoots};
use crate::temp::{TempDir, remove_leftovers};
use crate::{LocalError, LocalStoreConfig, PathLocks};

/// What makes a path valid.
#[derive(Clone, Debug)]
pub struct Registration {
    /// What is known of the path. A registration time of 0 means now.
    pub info: PathInfo,
    /// Of a derivation: its outputs whose paths are known, by name. They are
    /// believed; the methods that add objects find and check them.
    pub derivation_outputs: Vec<(String, StorePath)>,
}

impl Registration {
    /// Of a path that is no derivation.
    pub fn new(info: PathInfo) -> Self {
        Self {
            info,
            derivation_outputs: Vec::new(),
        }
    }
}

/// A store on disk that is open.
///
/// All methods may be called from any thread. Queries and registrations of one
/// `LocalStore` wait for one another.
pub struct LocalStore {
    pub(crate) dir: StoreDir,
    pub(crate) layout: Arc<Layout>,
    db: Db,
    temp_roots: Arc<TempRoots>,
    pub(crate) borrowing: Borrowing,
    /// For the output paths of derivations that are added.
    pub(crate) modulo: Mutex<HashModulo>,
    auto_optimise: AtomicBool,
    /// Held by who adds files without locking their paths.
    pub(crate) adding: Mutex<()>,
    /// Held by who has large derivations in memory.
    pub(crate) large_derivations: Mutex<()>,
    /// What is done when they are not any more.
    pub(crate) return_memory: OnceLock<fn()>,
    /// Says that the store is open, so that no other process upgrades it.
    _big_lock: Option<OwnedFd>,
}

impl std::fmt::Debug for LocalStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalStore")
            .field("place", &self.layout.config.place())
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

impl LocalStore {
    /// Opens the store in `root`, making it if it is not there, and removes what
    /// killed processes left in it.
    ///
    /// `root` is what follows `--store` in Nix's commands: the objects are in
    /// `root/nix/store`, whatever `dir` their paths begin with.
    pub fn open(root: &Path, dir: StoreDir) -> Result<Self, LocalError> {
        Self::open_at(&LocalStoreConfig::in_root(root, dir))
    }

    /// The same for a store in any directories.
    ///
    /// # Errors
    /// Also if the store is of another logical directory than `config` says.
    pub fn open_at(config: &LocalStoreConfig) -> Result<Self, LocalError> {
        let store = Self::open_as_it_is(config)?;
        if !config.read_only {
            // To look for it means to list all objects; who was killed has left temporary roots.
            let dead = store.dead_processes()?;
            if !dead.is_empty() {
                remove_leftovers(&store.layout)?;
                store.forget(dead);
            }
        }
        Ok(store)
    }

    /// The same for a store that others look after: nothing is removed.
    pub fn open_as_it_is(config: &LocalStoreConfig) -> Result<Self, LocalError> {
        let dir = config.dir.clone();
        let layout = Arc::new(Layout::open(config)?);
        let (db, big_lock) = layout.open_db()?;
        let any = db.read_one("look for a path", |connection| {
            let mut statement = connection.prepare("select path from ValidPaths limit 1")?;
            Ok(statement.query_row([], |row| row.get(0)).optional()?)
        })?;
        if let Some(found) = any.filter(|path: &String| dir.parse(path).is_err()) {
            return Err(LocalError::OtherStoreDir {
                place: layout.config.place().to_owned(),
                dir: dir.to_string(),
                found,
            });
        }
        Ok(Self {
            temp_roots: TempRoots::of_process(&layout)?,
            modulo: Mutex::new(HashModulo::new(dir.clone())),
            adding: Mutex::default(),
            large_derivations: Mutex::default(),
            return_memory: OnceLock::new(),
            auto_optimise: AtomicBool::new(false),
            borrowing: db.read_one("look for borrowed paths", |connection| {
                Ok(Borrowing::of(connection)?)
            })?,
            dir,
            layout,
            db,
            _big_lock: big_lock,
        })
    }

    /// The logical directory of the paths.
    pub fn store_dir(&self) -> &StoreDir {
        &self.dir
    }

    /// Where the store lies. Its directories are absolute, and no symbolic links.
    pub fn config(&self) -> &LocalStoreConfig {
        &self.layout.config
    }

    /// The directory that the objects lie in: `ROOT/nix/store`.
    pub fn physical_dir(&self) -> &Path {
        &self.layout.store
    }

    /// The directory of the store's state: `ROOT/nix/var/nix`.
    pub fn state_dir(&self) -> &Path {
        &self.layout.state
    }

    /// The directory of logs: `ROOT/nix/var/log/nix`.
    pub fn log_dir(&self) -> &Path {
        &self.layout.log
    }

    /// [`physical_dir`](Self::physical_dir), open.
    pub fn store_fd(&self) -> BorrowedFd<'_> {
        self.layout.store_fd.as_fd()
    }

    pub(crate) fn db(&self) -> &Db {
        &self.db
    }

    /// Whether the path is valid.
    pub fn is_valid(&self, path: &StorePath) -> Result<bool, LocalError> {
        let text = self.dir.display(path);
        self.db.read_one("look for a path", |connection| {
            self.is_valid_row(connection, path, &text)
        })
    }

    /// Which of these paths are valid.
    pub fn valid_among(
        &self,
        paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeSet<StorePath>, LocalError> {
        self.db.read("look for paths", |connection| {
            let mut valid = BTreeSet::new();
            for path in paths {
                if self.is_valid_row(connection, path, &self.dir.display(path))? {
                    valid.insert(path.clone());
                }
            }
            Ok(valid)
        })
    }

    /// What is known of a path; `None` if it is not valid.
    pub fn path_info(&self, path: &StorePath) -> Result<Option<PathInfo>, LocalError> {
        self.db
            .read("query a path", |connection| self.info(connection, path))
    }

    /// What is known of those of these paths that are valid.
    pub fn path_infos<'a>(
        &self,
        paths: impl IntoIterator<Item = &'a StorePath, IntoIter: Clone>,
    ) -> Result<BTreeMap<StorePath, PathInfo>, LocalError> {
        let paths = paths.into_iter();
        self.db.read("query paths", |connection| {
            let mut infos = BTreeMap::new();
            for path in paths.clone() {
                if let Some(info) = self.info(connection, path)? {
                    infos.insert(path.clone(), info);
                }
            }
            Ok(infos)
        })
    }

    /// These paths and all that they refer to, directly or not. A path that is
    /// not valid is an error.
    pub fn closure(&self, paths: &[StorePath]) -> Result<BTreeSet<StorePath>, LocalError> {
        self.db.read("query a closure", |connection| {
            let mut closure = BTreeSet::new();
            let mut statement = connection.prepare_cached(
                "with recursive Closure(id) as (
                   select ?1 union select reference from Refs join Closure on referrer = id
                 ) select id, path from ValidPaths join Closure using (id)",
            )?;
            for path in paths {
                if closure.contains(path) {
                    continue;
                }
                let Some(id) = path_id(connection, &self.dir.display(path))? else {
                    return Err(LocalError::NotValid { path: path.clone() }.into());
                };
                let mut rows = statement.query([id])?;
                while let Some(row) = rows.next()? {
                    let path = self.parse(row.get_ref(1)?.as_str().unwrap_or_default())?;
                    if closure.contains(&path) {
                        continue;
                    }
                    if self.is_lost(connection, row.get(0)?, &path)? {
                        return Err(LocalError::NotValid { path }.into());
                    }
                    closure.insert(path);
                }
            }
            Ok(closure)
        })
    }

    /// The valid paths that refer to this one; itself, too, if it does.
    pub fn referrers(&self, path: &StorePath) -> Result<BTreeSet<StorePath>, LocalError> {
        self.paths_where(
            "query referrers",
            "select path from ValidPaths join Refs on referrer = id
             where reference = (select id from ValidPaths where path = ?1)",
            &self.dir.display(path),
        )
    }

    /// The valid derivations that have this path, valid or not, as an output.
    pub fn valid_derivers(&self, path: &StorePath) -> Result<BTreeSet<StorePath>, LocalError> {
        self.paths_where(
            "query derivers",
            "select v.path from ValidPaths v join DerivationOutputs d on d.drv = v.id
             where d.path = +?1",
            &self.dir.display(path),
        )
    }

    /// All valid paths.
    pub fn all_valid_paths(&self) -> Result<BTreeSet<StorePath>, LocalError> {
        self.paths_where(
            "query all paths",
            "select path from ValidPaths where path > ?1",
            "",
        )
    }

    /// How many valid paths there are, and the size of their NARs together, in bytes.
    pub fn size(&self) -> Result<(u64, u64), LocalError> {
        let row = self.db.read_one("query the store's size", |connection| {
            Ok(connection.query_row(
                "select count(*), coalesce(sum(narSize), 0) from ValidPaths",
                [],
                |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
            )?)
        })?;
        Ok((
            u64::try_from(row.0).unwrap_or(0),
            u64::try_from(row.1).unwrap_or(0),
        ))
    }

    /// The valid path with this hash part, if there is one.
    pub fn path_from_hash_part(&self, hash_part: &str) -> Result<Option<StorePath>, LocalError> {
        let prefix = format!("{}/{hash_part}", self.dir);
        let found = self.db.read_one("look for a hash part", |connection| {
            Ok(connection
                .prepare_cached(
                    "select path from ValidPaths where path >= ?1 order by path limit 1",
                )?
                .query_row([&prefix], |row| row.get::<_, String>(0))
                .optional()?)
        })?;
        match found {
            Some(text) => {
                let path = self.parse(&text)?;
                Ok((path.hash_part() == hash_part).then_some(path))
            }
            None => Ok(None),
        }
    }

    /// The outputs of a valid derivation whose paths are known, by name.
    pub fn query_derivation_outputs(
        &self,
        drv: &StorePath,
    ) -> Result<BTreeMap<String, StorePath>, LocalError> {
        let text = self.dir.display(drv);
        self.db
            .read_one("query a derivation's outputs", |connection| {
                let mut statement = connection.prepare_cached(
                    "select d.id, d.path from DerivationOutputs d join ValidPaths v on d.drv = v.id
                 where v.path = +?1",
                )?;
                let mut rows = statement.query([&text])?;
                let mut outputs = BTreeMap::new();
                while let Some(row) = rows.next()? {
                    let (name, path): (String, String) = (row.get(0)?, row.get(1)?);
                    outputs.insert(name, self.parse(&path)?);
                }
                Ok(outputs)
            })
    }

    /// Makes paths valid, all or none.
    ///
    /// The objects must be complete at their places, and the caller must hold the
    /// paths' locks. Paths may refer to one another, but not in a circle, and to
    /// themselves; all else they refer to must be valid. One that is valid
    /// already must have the same NAR hash, and gains signatures.
    pub fn register(&self, registrations: &[Registration]) -> Result<(), LocalError> {
        self.register_with(registrations, |_| Ok(()))
    }

    /// [`register`](Self::register), and, in the same transaction, what these outputs of
    /// content-addressed derivations turned out to be: as [`Self::register_realisation`] and
    /// [`Self::register_build_trace`] do it.
    pub fn register_realised(
        &self,
        registrations: &[Registration],
        realised: &[(Realisation, Option<BuildTraceEntry>)],
    ) -> Result<(), LocalError> {
        for (realisation, entry) in realised {
            check_signatures(&realisation.signatures)?;
            entry.as_ref().map_or(Ok(()), check_entry)?;
        }
        self.register_with(registrations, |tx| {
            for (realisation, entry) in realised {
                self.insert_realisation(tx, realisation)?;
                if let Some(entry) = entry {
                    self.insert_build_trace(tx, entry)?;
                }
            }
            Ok(())
        })
    }

    /// [`register`](Self::register), and something more in the same transaction.
    pub(crate) fn register_with(
        &self,
        registrations: &[Registration],
        also: impl Fn(&Connection) -> Result<(), DbError>,
    ) -> Result<(), LocalError> {
        check_acyclic(registrations)?;
        for registration in registrations {
            let info = &registration.info;
            check_signatures(&info.signatures)?;
            if info.signatures.len() > SIGNATURES_MAX {
                let path = info.path.clone();
                return Err(LocalError::ManySignatures { path });
            }
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(1, |elapsed| elapsed.as_secs() as i64);
        self.db.write("register paths", |tx| {
            let mut ids = Vec::with_capacity(registrations.len());
            for registration in registrations {
                ids.push(self.insert_path(tx, &registration.info, now)?);
            }
            let mut insert_reference = tx.prepare_cached(
                "insert or ignore into Refs (referrer, reference) values (?1, ?2)",
            )?;
            let mut insert_output = tx.prepare_cached(
                "insert or replace into DerivationOutputs (drv, id, path) values (?1, ?2, ?3)",
            )?;
            for (registration, id) in registrations.iter().zip(ids) {
                let info = &registration.info;
                for reference in &info.references {
                    let Some(reference_id) = path_id(tx, &self.dir.display(reference))? else {
                        return Err(LocalError::ReferenceNotValid {
                            path: info.path.clone(),
                            reference: reference.clone(),
                        }
                        .into());
                    };
                    insert_reference.execute(params![id, reference_id])?;
                }
                for (name, path) in &registration.derivation_outputs {
                    insert_output.execute(params![id, name, self.dir.display(path)])?;
                }
            }
            also(tx)
        })?;
        if self.auto_optimise.load(Ordering::Relaxed) {
            let paths = registrations
                .iter()
                .map(|registration| &registration.info.path);
            self.optimise_registered(paths);
        }
        Ok(())
    }

    /// Whether files of what is registered from now on become names of files with the same content
    /// that the store has: Nix's `auto-optimise-store`.
    pub fn set_auto_optimise(&self, on: bool) {
        self.auto_optimise.store(on, Ordering::Relaxed);
    }

    /// Registers what is known of a valid path whose object is another now.
    pub(crate) fn register_anew(&self, info: &PathInfo) -> Result<(), LocalError> {
        self.db.write("register a path anew", |tx| {
            let text = self.dir.display(&info.path);
            let Some(id) = path_id(tx, &text)? else {
                return Err(LocalError::NotValid {
                    path: info.path.clone(),
                }
                .into());
            };
            tx.prepare_cached(
                "update ValidPaths set hash = ?2, narSize = ?3, sigs = ?4 where id = ?1",
            )?
            .execute(params![
                id,
                info.nar_hash.to_prefixed_hex(),
                info.nar_size as i64,
                joined(&[], &info.signatures),
            ])?;
            tx.prepare_cached("delete from Refs where referrer = ?1")?
                .execute([id])?;
            for reference in &info.references {
                let Some(reference_id) = path_id(tx, &self.dir.display(reference))? else {
                    return Err(LocalError::ReferenceNotValid {
                        path: info.path.clone(),
                        reference: reference.clone(),
                    }
                    .into());
                };
                tx.prepare_cached(
                    "insert or ignore into Refs (referrer, reference) values (?1, ?2)",
                )?
                .execute([id, reference_id])?;
            }
            Ok(())
        })
    }

    /// Adds signatures to a valid path.
    pub fn add_signatures(
        &self,
        path: &StorePath,
        signatures: &[String],
    ) -> Result<(), LocalError> {
        check_signatures(signatures)?;
        self.db.write("add signatures", |tx| {
            let Some(info) = self.info(tx, path)? else {
                return Err(LocalError::NotValid { path: path.clone() }.into());
            };
            if info.signatures.len() + signatures.len() > SIGNATURES_MAX {
                return Err(LocalError::ManySignatures { path: path.clone() }.into());
            }
            tx.prepare_cached("update ValidPaths set sigs = ?2 where path = ?1")?
                .execute(params![
                    self.dir.display(path),
                    joined(&info.signatures, signatures)
                ])?;
            Ok(())
        })
    }

    /// Makes paths invalid, all or none. Their objects stay; nothing that stays
    /// valid may refer to them.
    pub fn invalidate(&self, paths: &BTreeSet<StorePath>) -> Result<(), LocalError> {
        self.db.write("invalidate paths", |tx| {
            let mut referrers = tx.prepare_cached(
                "select path from ValidPaths join Refs on referrer = id
                 where reference = (select id from ValidPaths where path = ?1)",
            )?;
            for path in paths {
                let mut found = BTreeSet::new();
                self.collect(&mut referrers, [self.dir.display(path)], &mut found)?;
                if let Some(referrer) = found.into_iter().find(|referrer| !paths.contains(referrer))
                {
                    return Err(LocalError::StillReferenced {
                        path: path.clone(),
                        referrer,
                    }
                    .into());
                }
            }
            // First what the paths refer to: a path that another refers to cannot go.
            for statement in [
                "delete from Refs where referrer = (select id from ValidPaths where path = ?1)",
                "delete from ValidPaths where path = ?1",
            ] {
                let mut statement = tx.prepare_cached(statement)?;
                for path in paths {
                    statement.execute([self.dir.display(path)])?;
                }
            }
            Ok(())
        })
    }

    /// Keeps what an output of a derivation turned out to be. Its path must be
    /// valid, and so must what it depends on; another path for an output that is
    /// known already is an error, the same again gains signatures.
    pub fn register_realisation(&self, realisation: &Realisation) -> Result<(), LocalError> {
        check_signatures(&realisation.signatures)?;
        self.db.write("register a realisation", |tx| {
            self.insert_realisation(tx, realisation)
        })
    }

    fn insert_realisation(
        &self,
        tx: &Connection,
        realisation: &Realisation,
    ) -> Result<(), DbError> {
        let id = &realisation.id;
        let row_id = match self.realisation(tx, id)? {
            Some((_, present)) if present.out_path != realisation.out_path => {
                return Err(LocalError::OtherRealisation {
                    id: id.to_string(),
                    present: present.out_path,
                    wanted: realisation.out_path.clone(),
                }
                .into());
            }
            Some((row_id, present)) => {
                tx.prepare_cached("update Realisations set signatures = ?2 where id = ?1")?
                    .execute(params![
                        row_id,
                        joined(&present.signatures, &realisation.signatures).unwrap_or_default()
                    ])?;
                row_id
            }
            None => {
                let Some(path) = path_id(tx, &self.dir.display(&realisation.out_path))? else {
                    return Err(LocalError::NotValid {
                        path: realisation.out_path.clone(),
                    }
                    .into());
                };
                tx.prepare_cached(
                    "insert into Realisations (drvPath, outputName, outputPath, signatures)
                     values (?1, ?2, ?3, ?4)",
                )?
                .execute(params![
                    id.drv_hash.to_prefixed_hex(),
                    id.output_name,
                    path,
                    // Nix stops at a null here.
                    joined(&[], &realisation.signatures).unwrap_or_default()
                ])?;
                tx.last_insert_rowid()
            }
        };
        for dependency in realisation.dependent_realisations.keys() {
            let Some((dependency_id, _)) = self.realisation(tx, dependency)? else {
                return Err(LocalError::UnknownRealisation {
                    id: id.to_string(),
                    dependency: dependency.to_string(),
                }
                .into());
            };
            tx.prepare_cached(
                "insert into RealisationsRefs (referrer, realisationReference)
                 select ?1, ?2 where not exists (
                   select * from RealisationsRefs
                   where referrer = ?1 and realisationReference = ?2)",
            )?
            .execute(params![row_id, dependency_id])?;
        }
        Ok(())
    }

    /// What an output turned out to be, if known.
    pub fn query_realisation(&self, id: &DrvOutput) -> Result<Option<Realisation>, LocalError> {
        self.db.read("query a realisation", |connection| {
            let Some((row_id, mut realisation)) = self.realisation(connection, id)? else {
                return Ok(None);
            };
            let mut statement = connection.prepare_cached(
                "select r.drvPath || '!' || r.outputName, v.path from RealisationsRefs x
                 join Realisations r on x.realisationReference = r.id
                 join ValidPaths v on r.outputPath = v.id where x.referrer = +?1",
            )?;
            let mut rows = statement.query([row_id])?;
            while let Some(row) = rows.next()? {
                let (text, path): (String, String) = (row.get(0)?, row.get(1)?);
                let dependency = text.parse().map_err(|_| LocalError::MalformedRow {
                    row: id.to_string(),
                    column: "dependency",
                    value: text,
                })?;
                realisation
                    .dependent_realisations
                    .insert(dependency, self.parse(&path)?);
            }
            Ok(Some(realisation))
        })
    }

    /// Keeps a path from being collected as garbage as long as this process has
    /// the store open, or as the [session](Self::session_roots) lasts that the thread works for.
    /// To be called before it is asked whether the path is valid.
    pub fn add_temp_root(&self, path: &StorePath) -> Result<(), LocalError> {
        if self.layout.config.read_only {
            // Nothing is deleted there.
            return Ok(());
        }
        match self.temp_roots.of_thread() {
            Some(session) => session.add(&self.dir, path),
            None => self.temp_roots.add(&self.dir, path),
        }
    }

    /// Temporary roots for one client; none yet.
    pub fn session_roots(&self) -> SessionRoots {
        self.temp_roots.session()
    }

    /// Makes the target of a symbolic link outside the store a root as long as
    /// the link is there. `link` must be absolute.
    pub fn add_indirect_root(&self, link: &Path) -> Result<(), LocalError> {
        use std::os::unix::ffi::OsStrExt;
        self.layout.check_writable("make a root")?;
        let bytes = link.as_os_str().as_bytes();
        let name = HashAlgorithm::Sha1.digest(bytes).to_base32();
        let path = self.layout.state.join("gcroots/auto").join(&name);
        let make = || -> io::Result<()> {
            let gcroots = fs::open_dir(self.layout.state_fd.as_fd(), OsStr::new("gcroots"))?;
            let auto = OsStr::new("auto");
            match fs::make_dir(gcroots.as_fd(), auto, 0o755) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let auto = fs::open_dir(gcroots.as_fd(), auto)?;
            match fs::make_symlink(bytes, auto.as_fd(), OsStr::new(&name)) {
                // The name says what it points to.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                other => other,
            }
        };
        make().map_err(LocalError::io("make the root", path))
    }

    /// A directory for what is being added. If this process is killed, whoever opens the store next
    /// knows that something of it may be there.
    pub(crate) fn temp_dir(&self) -> Result<TempDir, LocalError> {
        self.layout.check_writable("add an object")?;
        self.temp_roots.announce()?;
        TempDir::new(&self.layout)
    }

    /// Locks paths, waiting for whoever has one of them.
    pub fn lock_paths(&self, paths: &BTreeSet<StorePath>) -> Result<PathLocks, LocalError> {
        self.temp_roots.announce()?;
        let locks = PathLocks::acquire(&self.layout, paths, true)?;
        Ok(locks.expect("who waits for locks gets them"))
    }

    /// Locks paths; `None` if somebody else has one of them.
    pub fn try_lock_paths(
        &self,
        paths: &BTreeSet<StorePath>,
    ) -> Result<Option<PathLocks>, LocalError> {
        self.temp_roots.announce()?;
        PathLocks::acquire(&self.layout, paths, false)
    }

    /// From now on this is called when a large derivation is not in memory any more: it gives back to
    /// the kernel what the allocator keeps. The first one counts.
    pub fn set_return_memory(&self, give_back: fn()) {
        let _ = self.return_memory.set(give_back);
    }

    /// From now on lock files are kept in this directory, to be used again; it must be nobody
    /// else's, and stay. `may_be_open_elsewhere` says of a file of ours whether another process, or
    /// this one a second time, has it open.
    ///
    /// The first directory counts.
    pub fn keep_locks(&self, dir: OwnedFd, may_be_open_elsewhere: fn(BorrowedFd<'_>) -> bool) {
        let spare = SpareLocks::new(dir, may_be_open_elsewhere);
        let _ = self.layout.spare_locks.set(spare);
    }

    /// Moves a canonical tree to a path's place, in place of what a killed process may have left
    /// there; from another file system it is copied. The caller must hold the path's lock; a path
    /// that is valid is an error.
    pub fn move_into_store(
        &self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        path: &StorePath,
    ) -> Result<(), LocalError> {
        self.remove_invalid(path)?;
        let to = OsStr::new(path.base_name());
        let failed = |error| LocalError::io("move into place", self.physical_path(path))(error);
        match rename_tree(dir, name, self.store_fd(), to) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                let temp = self.temp_dir()?;
                store_nar::rewrite_tree(dir, name, temp.fd(), to, [])
                    .map_err(LocalError::tree("copy", path))?;
                rename_tree(temp.fd(), to, self.store_fd(), to).map_err(failed)
            }
            moved => moved.map_err(failed),
        }
    }

    /// Removes what lies at the place of a path that is not valid, if anything
    /// does. The caller must hold the path's lock.
    pub fn remove_invalid(&self, path: &StorePath) -> Result<(), LocalError> {
        if self.is_valid(path)? {
            return Err(LocalError::AlreadyValid { path: path.clone() });
        }
        remove_tree(self.store_fd(), OsStr::new(path.base_name()))
            .map_err(LocalError::tree("remove", path))
    }

    /// Writes a valid path's NAR.
    pub fn dump(&self, path: &StorePath, sink: &mut dyn Write) -> Result<(), LocalError> {
        if !self.is_valid(path)? {
            return Err(LocalError::NotValid { path: path.clone() });
        }
        let name = OsStr::new(path.base_name());
        store_nar::dump(self.dir_of(name), name, sink).map_err(LocalError::tree("dump", path))
    }

    /// Opens the regular file that a path is, for reading.
    pub(crate) fn open_object(&self, path: &StorePath) -> Result<std::fs::File, LocalError> {
        let name = OsStr::new(path.base_name());
        let open = || -> io::Result<OwnedFd> {
            let fd = fs::open_file(self.dir_of(name), name)?;
            match fs::Kind::of(&fs::stat_fd(&fd)?) {
                fs::Kind::Regular => Ok(fd),
                _ => Err(io::ErrorKind::InvalidInput.into()),
            }
        };
        open()
            .map(std::fs::File::from)
            .map_err(LocalError::io("open", self.physical_path(path)))
    }

    /// Whether a path has a row, and is not lost.
    fn is_valid_row(
        &self,
        connection: &Connection,
        path: &StorePath,
        text: &str,
    ) -> Result<bool, DbError> {
        Ok(match path_id(connection, text)? {
            Some(id) => !self.is_lost(connection, id, path)?,
            None => false,
        })
    }

    pub(crate) fn parse(&self, text: &str) -> Result<StorePath, LocalError> {
        self.dir.parse(text).map_err(|_| LocalError::MalformedRow {
            row: text.to_owned(),
            column: "path",
            value: text.to_owned(),
        })
    }

    fn collect(
        &self,
        statement: &mut rusqlite::Statement<'_>,
        params: impl rusqlite::Params,
        into: &mut BTreeSet<StorePath>,
    ) -> Result<(), DbError> {
        let mut rows = statement.query(params)?;
        while let Some(row) = rows.next()? {
            into.insert(self.parse(row.get_ref(0)?.as_str().unwrap_or_default())?);
        }
        Ok(())
    }

    fn paths_where(
        &self,
        operation: &'static str,
        query: &str,
        param: &str,
    ) -> Result<BTreeSet<StorePath>, LocalError> {
        self.db.read_one(operation, |connection| {
            let mut paths = BTreeSet::new();
            let mut statement = connection.prepare_cached(query)?;
            self.collect(&mut statement, [param], &mut paths)?;
            Ok(paths)
        })
    }

    fn info(&self, connection: &Connection, path: &StorePath) -> Result<Option<PathInfo>, DbError> {
        let text = self.dir.display(path);
        let row = connection
            .prepare_cached(
                "select id, hash, registrationTime, deriver, narSize, ultimate, sigs, ca
                 from ValidPaths where path = ?1",
            )?
            .query_row([&text], |row| {
                Ok((row.get::<_, i64>(0)?, PathRow::read(row)?))
            })
            .optional()?;
        let Some((id, row)) = row else {
            return Ok(None);
        };
        if self.is_lost(connection, id, path)? {
            return Ok(None);
        }
        let mut references = BTreeSet::new();
        let mut statement = connection.prepare_cached(
            "select path from Refs join ValidPaths on reference = id where referrer = +?1",
        )?;
        self.collect(&mut statement, [id], &mut references)?;
        Ok(Some(row.into_info(&self.dir, path, references)?))
    }

    /// The row of a path that is valid from now on: its number.
    fn insert_path(&self, tx: &Connection, info: &PathInfo, now: i64) -> Result<i64, DbError> {
        let text = self.dir.display(&info.path);
        let Some(id) = path_id(tx, &text)? else {
            tx.prepare_cached(
                "insert into ValidPaths
                 (path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca)
                 values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(path_columns(&self.dir, &text, info, now))?;
            return Ok(tx.last_insert_rowid());
        };
        if self.is_borrowed(tx, id)? {
            self.give_back(tx, id, &info.path)?;
            tx.prepare_cached(
                "update ValidPaths set hash = ?2, registrationTime = ?3, deriver = ?4,
                 narSize = ?5, ultimate = ?6, sigs = ?7, ca = ?8 where path = ?1",
            )?
            .execute(path_columns(&self.dir, &text, info, now))?;
            return Ok(id);
        }
        let present = self
            .info(tx, &info.path)?
            .ok_or_else(|| LocalError::NotValid {
                path: info.path.clone(),
            })?;
        if present.nar_hash != info.nar_hash {
            return Err(LocalError::OtherContent {
                path: info.path.clone(),
                present: Box::new(present.nar_hash),
                wanted: Box::new(info.nar_hash),
            }
            .into());
        }
        tx.prepare_cached(
            "update ValidPaths set narSize = ?2, ultimate = ?3, sigs = ?4,
             ca = coalesce(?5, ca) where path = ?1",
        )?
        .execute(params![
            text,
            info.nar_size as i64,
            (info.ultimate || present.ultimate).then_some(1),
            joined(&present.signatures, &info.signatures),
            info.ca.map(|ca| ca.to_string()),
        ])?;
        Ok(id)
    }

    /// A realisation without what it depends on, and its row.
    fn realisation(
        &self,
        connection: &Connection,
        id: &DrvOutput,
    ) -> Result<Option<(i64, Realisation)>, DbError> {
        let row = connection
            .prepare_cached(
                "select r.id, v.path, r.signatures from Realisations r
                 join ValidPaths v on r.outputPath = v.id
                 where r.drvPath = +?1 and r.outputName = +?2",
            )?
            .query_row(
                params![id.drv_hash.to_prefixed_hex(), id.output_name],
                |row| {
                    Ok((
                        row.get::<_, i64>(0)?,
                        row.get::<_, String>(1)?,
                        row.get::<_, Option<String>>(2)?,
                    ))
                },
            )
            .optional()?;
        let Some((row_id, path, signatures)) = row else {
            return Ok(None);
        };
        let realisation = Realisation {
            id: id.clone(),
            out_path: self.parse(&path)?,
            signatures: split(signatures.as_deref()),
            dependent_realisations: BTreeMap::new(),
        };
        Ok(Some((row_id, realisation)))
    }
}

/// Gives a tree another name that nothing has.
pub(crate) fn rename_tree(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    to_dir: BorrowedFd<'_>,
    to: &OsStr,
) -> io::Result<()> {
    let stat = fs::stat(dir, name)?;
    // To move a directory is to write to it: its parent is an entry of it.
    let is_read_only = fs::Kind::of(&stat) == fs::Kind::Directory
        && stat.st_mode & 0o200 == 0
        && !rustix::process::geteuid().is_root();
    if !is_read_only {
        return fs::rename_no_replace(dir, name, to_dir, to);
    }
    let fd = fs::open_dir(dir, name)?;
    fs::set_mode(&fd, stat.st_mode & 0o7777 | 0o200)?;
    let renamed = fs::rename_no_replace(dir, name, to_dir, to);
    fs::set_mode(&fd, stat.st_mode & 0o7777)?;
    renamed
}

/// The columns of `ValidPaths` after the path.
struct PathRow {
    hash: String,
    registration_time: i64,
    deriver: Option<String>,
    nar_size: Option<i64>,
    ultimate: Option<i64>,
    sigs: Option<String>,
    ca: Option<String>,
}

impl PathRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            hash: row.get(1)?,
            registration_time: row.get(2)?,
            deriver: row.get(3)?,
            nar_size: row.get(4)?,
            ultimate: row.get(5)?,
            sigs: row.get(6)?,
            ca: row.get(7)?,
        })
    }

    fn into_info(
        self,
        dir: &StoreDir,
        path: &StorePath,
        references: BTreeSet<StorePath>,
    ) -> Result<PathInfo, LocalError> {
        let malformed = |column, value: &str| LocalError::MalformedRow {
            row: path.to_string(),
            column,
            value: value.to_owned(),
        };
        let nar_hash = store_types::Hash::parse_prefixed(&self.hash)
            .map_err(|_| malformed("hash", &self.hash))?;
        let deriver = match &self.deriver {
            Some(text) if !text.is_empty() => {
                Some(dir.parse(text).map_err(|_| malformed("deriver", text))?)
            }
            _ => None,
        };
        let ca = match &self.ca {
            Some(text) if !text.is_empty() => Some(
                text.parse()
                    .map_err(|_| malformed("content address", text))?,
            ),
            _ => None,
        };
        let nar_size = self.nar_size.unwrap_or(0);
        Ok(PathInfo {
            path: path.clone(),
            nar_hash,
            nar_size: u64::try_from(nar_size)
                .map_err(|_| malformed("size", &nar_size.to_string()))?,
            references,
            deriver,
            registration_time: self.registration_time,
            ultimate: self.ultimate == Some(1),
            signatures: split(self.sigs.as_deref()),
            ca,
        })
    }
}

/// The values of `ValidPaths`, from the path on.
fn path_columns(
    dir: &StoreDir,
    text: &str,
    info: &PathInfo,
    now: i64,
) -> impl rusqlite::Params + use<> {
    let time = match info.registration_time {
        0 => now,
        time => time,
    };
    (
        text.to_owned(),
        info.nar_hash.to_prefixed_hex(),
        time,
        info.deriver.as_ref().map(|path| dir.display(path)),
        info.nar_size as i64,
        info.ultimate.then_some(1),
        joined(&[], &info.signatures),
        info.ca.map(|ca| ca.to_string()),
    )
}

pub(crate) fn path_id(connection: &Connection, path: &str) -> Result<Option<i64>, rusqlite::Error> {
    connection
        .prepare_cached("select id from ValidPaths where path = ?1")?
        .query_row([path], |row| row.get(0))
        .optional()
}

/// The longest signature that is kept, in bytes; one of Ed25519 by a key with a long name is a fifth
/// of it.
const SIGNATURE_LEN_MAX: usize = 1024;
/// How many signatures of a path can be added to.
const SIGNATURES_MAX: usize = 256;

/// A signature as Nix prints it; `None` for a text that would not be read as one, and so make the
/// path unusable for each Nix that reads it.
fn canonical(text: &str) -> Option<String> {
    let is_odd = |symbol: char| symbol.is_whitespace() || symbol.is_control();
    if text.len() > SIGNATURE_LEN_MAX {
        return None;
    }
    let signature: Signature = text.parse().ok()?;
    (!signature.key_name.contains(is_odd)).then(|| signature.to_string())
}

/// An error if one of these is no signature.
pub(crate) fn check_signatures(signatures: &[String]) -> Result<(), LocalError> {
    match signatures.iter().all(|text| canonical(text).is_some()) {
        true => Ok(()),
        false => Err(LocalError::Signature),
    }
}

/// Those of these texts that are signatures, as many as are kept.
pub(crate) fn kept_signatures(texts: &[String]) -> Vec<String> {
    let kept = texts.iter().filter_map(|text| canonical(text));
    kept.take(SIGNATURES_MAX).collect()
}

/// The signatures in a row of the database; what is none is left out.
fn split(text: Option<&str>) -> Vec<String> {
    text.unwrap_or_default()
        .split_ascii_whitespace()
        .filter_map(canonical)
        .collect()
}

/// Signatures as the database has them: in order, none twice; nothing for none.
fn joined(present: &[String], more: &[String]) -> Option<String> {
    let all = present.iter().chain(more);
    let all: BTreeSet<String> = all.filter_map(|text| canonical(text)).collect();
    let text = all.into_iter().collect::<Vec<_>>().join(" ");
    (!text.is_empty()).then_some(text)
}

/// An error if these paths refer to one another in a circle.
fn check_acyclic(registrations: &[Registration]) -> Result<(), LocalError> {
    let infos: BTreeMap<&StorePath, &PathInfo> = registrations
        .iter()
        .map(|registration| (&registration.info.path, &registration.info))
        .collect();
    // Whether all that a path leads to has been looked at.
    let mut done: BTreeMap<&StorePath, bool> = BTreeMap::new();
    for root in infos.keys() {
        if done.contains_key(root) {
            continue;
        }
        done.insert(root, false);
        let mut stack = vec![(*root, infos[root].references.iter())];
        while let Some((path, references)) = stack.last_mut() {
            let path = *path;
            let Some(reference) = references.next() else {
                done.insert(path, true);
                stack.pop();
                continue;
            };
            let Some(info) = infos.get(reference) else {
                continue;
            };
            match done.get(reference) {
                Some(true) => {}
                Some(false) if reference == path => {}
                Some(false) => {
                    return Err(LocalError::ReferenceCycle {
                        path: path.clone(),
                        reference: reference.clone(),
                    });
                }
                None => {
                    done.insert(reference, false);
                    stack.push((reference, info.references.iter()));
                }
            }
        }
    }
    Ok(())
}
