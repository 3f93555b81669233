//! Garbage collection: what no root reaches goes.
//!
//! A collector holds `gc.lock` alone, so that no root comes into being without its knowledge: who
//! needs a path tells it by its socket ([`server`]). It looks for roots ([`LocalStore::roots`]),
//! marks what they reach in a picture of the database ([`graph`]), and deletes the rest, what
//! refers to a path before the path.
//!
//! # How a path goes
//!
//! 1. Under a lock that the socket's server takes, too: is it a temporary root by now? Then it
//!    stays, and all that it reaches. Else it is *condemned*: who asks for it has to wait.
//! 2. Its row goes, unless something valid refers to it.
//! 3. Its object is moved into a locked directory of ours, and is condemned no longer: its place is
//!    free for whoever makes it again.
//! 4. The object is removed there, relative to open directories, so nothing that happens to names
//!    meanwhile leads anywhere else (CVE-2025-46415).
//!
//! Whenever it is killed, what is valid is complete: a row goes before the object is touched. What
//! lies about then is not valid, and goes with the next collection, or when the store is opened.
//!
//! Source: nix 2.8 and 2.34, `src/libstore/gc.cc`.

mod graph;
mod links;
mod server;

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::time::Duration;

use store_nar::fs::{self, FlockOperation, Kind};
use store_nar::{measure_tree, remove_tree_measured};
use store_types::StorePath;

use crate::temp::TempDir;
use crate::{LocalError, LocalStore};
use graph::Graph;
pub(crate) use links::LINKS;
use server::RootServer;

/// How long to wait between two attempts to get the collector's lock.
const LOCK_POLL: Duration = Duration::from_millis(20);

/// What a collection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GcAction {
    /// Tell what roots reach.
    ReturnLive,
    /// Tell what they do not.
    ReturnDead,
    /// Delete that.
    DeleteDead,
    /// Delete some paths, if no root reaches them.
    DeleteSpecific,
}

/// A collection.
#[derive(Clone, Debug)]
pub struct GcOptions {
    /// What it does.
    pub action: GcAction,
    /// The paths of [`GcAction::DeleteSpecific`].
    pub paths_to_delete: BTreeSet<StorePath>,
    /// With [`GcAction::DeleteSpecific`]: only temporary roots count.
    pub ignore_liveness: bool,
    /// It stops when more bytes than this are free.
    pub max_freed_bytes: u64,
    /// Whether a derivation keeps its outputs (Nix's setting `keep-outputs`).
    pub keep_outputs: bool,
    /// Whether an output keeps its derivation (Nix's setting `keep-derivations`).
    pub keep_derivations: bool,
    /// Paths that are as good as roots, the dearest first, as long as what they keep that no root
    /// does is not larger than `keep_bytes_max`.
    pub keep: Vec<StorePath>,
    /// The sum of NARs that `keep` may keep, in bytes.
    pub keep_bytes_max: u64,
    /// Whether to find out what would be freed if nothing is deleted.
    pub measure: bool,
}

impl GcOptions {
    /// Of this action, with no limit, and what Nix keeps by default.
    pub fn new(action: GcAction) -> Self {
        Self {
            action,
            paths_to_delete: BTreeSet::new(),
            ignore_liveness: false,
            max_freed_bytes: u64::MAX,
            keep_outputs: false,
            keep_derivations: true,
            keep: Vec::new(),
            keep_bytes_max: u64::MAX,
            measure: false,
        }
    }
}

/// What a collection found or did.
#[derive(Debug, Default)]
pub struct GcReport {
    /// The live, dead or deleted paths, valid or not.
    pub paths: BTreeSet<StorePath>,
    /// How many bytes were set free, or would be, as Nix counts them: the lengths of files.
    pub bytes_freed: u64,
    /// What had no business in the store's directory, was named like no store path, and was
    /// deleted or would be.
    pub strangers: BTreeSet<OsString>,
    /// How many unused names of shared files were removed.
    pub links_removed: u64,
    /// How many bytes shared files save now.
    pub links_save_bytes: u64,
    /// How many of `keep` were kept, and the sum of NARs that only they keep, in bytes.
    pub kept: (usize, u64),
    /// What could not be removed: its path is not valid any more.
    pub failures: Vec<LocalError>,
    /// Whether it ended early, by its limit or because it was told to.
    pub is_partial: bool,
}

/// Who is told what a collection does, and may end it.
pub trait GcObserver {
    /// Another process collects; this one waits.
    fn waiting(&mut self) {}
    /// Something in the store's directory is about to be deleted.
    fn deleting(&mut self, _name: &OsStr) {}
    /// Whether to stop. What was deleted until then stays so.
    fn is_cancelled(&mut self) -> bool {
        false
    }
}

/// An observer that does nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl GcObserver for Unobserved {}

/// Why something was not deleted, or that it was.
enum Fate {
    Deleted,
    /// Somebody needs it.
    Alive,
}

/// A collection that deletes.
struct Collector<'a> {
    store: &'a LocalStore,
    server: &'a RootServer,
    trash: TempDir,
    trashed: u64,
    max_freed_bytes: u64,
    report: GcReport,
}

impl LocalStore {
    /// Collects garbage, or tells what it is.
    pub fn collect_garbage(
        &self,
        options: &GcOptions,
        observer: &mut dyn GcObserver,
    ) -> Result<GcReport, LocalError> {
        self.layout.check_writable("collect garbage")?;
        let deletes = matches!(
            options.action,
            GcAction::DeleteDead | GcAction::DeleteSpecific
        );
        if deletes {
            self.release_reserve();
        }
        server::prepare(&self.layout)?;
        let Some(_lock) = self.lock_for_collection(observer)? else {
            return Ok(GcReport {
                is_partial: true,
                ..GcReport::default()
            });
        };
        let server = RootServer::start(&self.layout, self.dir.clone())?;
        let specific = options.action == GcAction::DeleteSpecific;
        let ignores_liveness = specific && options.ignore_liveness;
        let roots = match ignores_liveness {
            true => BTreeSet::new(),
            false => self.roots(deletes)?.into_keys().collect(),
        };
        let temp_roots: BTreeSet<StorePath> = self.temp_roots()?.into_keys().collect();
        server.add_temp_roots(&temp_roots);
        // With these, a path that is to go whatever keeps it would take its derivation along.
        let (keep_outputs, keep_derivations) = match ignores_liveness {
            true => (false, false),
            false => (options.keep_outputs, options.keep_derivations),
        };
        let mut graph = self.graph(keep_outputs, keep_derivations)?;
        graph.mark(roots.iter().chain(&temp_roots));
        let kept = graph.mark_within(&options.keep, options.keep_bytes_max);
        if !deletes {
            let mut report = self.tell(options, &graph, &server)?;
            report.kept = kept;
            return Ok(report);
        }
        let mut collector = Collector {
            store: self,
            server: &server,
            trash: self.temp_dir()?,
            trashed: 0,
            max_freed_bytes: options.max_freed_bytes,
            report: GcReport {
                kept,
                ..GcReport::default()
            },
        };
        match specific {
            true => collector.delete_specific(&mut graph, &options.paths_to_delete, observer)?,
            false if options.max_freed_bytes > 0 => collector.delete_dead(&mut graph, observer)?,
            false => collector.report.is_partial = true,
        }
        let Collector { mut report, .. } = collector;
        (report.links_removed, report.links_save_bytes) = self.remove_unused_links()?;
        Ok(report)
    }

    /// `gc.lock`, held alone; `None` if the observer does not want to wait any longer.
    fn lock_for_collection(
        &self,
        observer: &mut dyn GcObserver,
    ) -> Result<Option<std::os::fd::OwnedFd>, LocalError> {
        let path = self.layout.state.join("gc.lock");
        let fd = fs::open_lock_file(self.layout.state_fd.as_fd(), OsStr::new("gc.lock"))
            .map_err(LocalError::io("open", &path))?;
        let mut has_told = false;
        while !fs::lock(&fd, FlockOperation::NonBlockingLockExclusive)
            .map_err(LocalError::io("lock", &path))?
        {
            if observer.is_cancelled() {
                return Ok(None);
            }
            if !std::mem::replace(&mut has_told, true) {
                observer.waiting();
            }
            std::thread::sleep(LOCK_POLL);
        }
        Ok(Some(fd))
    }

    /// Removes the file that Nix keeps beside the database, so that there is room for the
    /// journal of what is deleted on a disk that is full. Whoever opens the store next makes it again.
    fn release_reserve(&self) {
        let db = fs::open_dir(self.layout.state_fd.as_fd(), OsStr::new("db"));
        // Without one there is nothing to release.
        let _ = db.and_then(|db| fs::unlink(db.as_fd(), OsStr::new("reserved")));
    }

    /// What is in the store's directory, by name, without the directory of links.
    fn entries(&self) -> Result<Vec<OsString>, LocalError> {
        let entries =
            fs::list(self.store_fd()).map_err(LocalError::io("list", self.physical_dir()))?;
        Ok(entries
            .into_iter()
            .map(|entry| entry.name)
            .filter(|name| name != LINKS)
            .collect())
    }

    /// What is live or dead.
    fn tell(
        &self,
        options: &GcOptions,
        graph: &Graph,
        server: &RootServer,
    ) -> Result<GcReport, LocalError> {
        let mut report = GcReport::default();
        let wants_live = options.action == GcAction::ReturnLive;
        report.paths.extend(graph.paths(wants_live).cloned());
        for name in self.entries()? {
            let path = store_path(&name);
            if let Some(path) = path
                && !graph.contains(&path)
                && server.is_temp_root(&path) == wants_live
            {
                report.paths.insert(path);
            } else if !wants_live && store_path(&name).is_none() && !self.is_in_use(&name) {
                report.strangers.insert(name);
            }
        }
        if options.measure && !wants_live {
            let names = report.paths.iter().map(|path| OsStr::new(path.base_name()));
            let strangers = report.strangers.iter().map(OsString::as_os_str);
            report.bytes_freed = names
                .chain(strangers)
                .map(|name| measure_tree(self.store_fd(), name))
                .sum();
        }
        Ok(report)
    }

    /// Whether this is a temporary directory that somebody has locked.
    fn is_in_use(&self, name: &OsStr) -> bool {
        if !name.as_encoded_bytes().starts_with(b"tmp-") {
            return false;
        }
        match fs::open_dir(self.store_fd(), name) {
            // Who cannot be asked is spared.
            Ok(fd) => !fs::lock(&fd, FlockOperation::NonBlockingLockExclusive).unwrap_or(false),
            Err(_) => {
                fs::stat(self.store_fd(), name).is_ok_and(|stat| Kind::of(&stat) == Kind::Directory)
            }
        }
    }
}

fn store_path(name: &OsStr) -> Option<StorePath> {
    StorePath::from_base_name(name.to_str()?).ok()
}

impl Collector<'_> {
    /// Whether to stop here.
    fn is_done(&mut self, observer: &mut dyn GcObserver) -> bool {
        if self.report.bytes_freed > self.max_freed_bytes || observer.is_cancelled() {
            self.report.is_partial = true;
        }
        self.report.is_partial
    }

    fn delete_dead(
        &mut self,
        graph: &mut Graph,
        observer: &mut dyn GcObserver,
    ) -> Result<(), LocalError> {
        // What is named like nothing, and what is not valid, is of use to nobody.
        for name in self.store.entries()? {
            if self.is_done(observer) {
                return Ok(());
            }
            match store_path(&name) {
                Some(path) if graph.contains(&path) => {}
                Some(path) => {
                    self.delete(&path, graph, observer)?;
                }
                None if self.store.is_in_use(&name) => {}
                None => {
                    observer.deleting(&name);
                    match remove_tree_measured(self.store.store_fd(), &name) {
                        Ok(freed) => self.report.bytes_freed += freed,
                        Err(error) => self.fail(&name, error),
                    }
                    self.report.strangers.insert(name);
                }
            }
        }
        for path in graph.dead_in_order() {
            if self.is_done(observer) {
                return Ok(());
            }
            // It may have come back to life meanwhile.
            if !graph.is_alive(&path) {
                self.delete(&path, graph, observer)?;
            }
        }
        Ok(())
    }

    fn delete_specific(
        &mut self,
        graph: &mut Graph,
        paths: &BTreeSet<StorePath>,
        observer: &mut dyn GcObserver,
    ) -> Result<(), LocalError> {
        for wanted in paths {
            if self.report.paths.contains(wanted) {
                continue;
            }
            let still_alive = |keeper: Option<&StorePath>| LocalError::StillAlive {
                path: wanted.clone(),
                keeper: keeper.filter(|keeper| *keeper != wanted).cloned(),
            };
            if graph.is_alive(wanted) {
                return Err(still_alive(None));
            }
            let dependents = graph.dependents_in_order(wanted);
            if let Some(other) = dependents
                .iter()
                .find(|path| !paths.contains(path) && !self.report.paths.contains(path))
            {
                return Err(still_alive(Some(other)));
            }
            for path in dependents {
                if self.report.paths.contains(&path) {
                    continue;
                }
                if self.is_done(observer) {
                    return Ok(());
                }
                if let Fate::Alive = self.delete(&path, graph, observer)? {
                    return Err(still_alive(Some(&path)));
                }
            }
        }
        Ok(())
    }

    /// Deletes what is at a store path, valid or not, unless it is needed by now.
    fn delete(
        &mut self,
        path: &StorePath,
        graph: &mut Graph,
        observer: &mut dyn GcObserver,
    ) -> Result<Fate, LocalError> {
        let Some(condemned) = self.server.condemn(path) else {
            graph.mark([path]);
            return Ok(Fate::Alive);
        };
        let is_known = graph.contains(path);
        // A path that became valid since is somebody's, who has it as a temporary root.
        if !is_known && self.store.is_valid(path)? {
            return Ok(Fate::Alive);
        }
        let name = OsStr::new(path.base_name());
        observer.deleting(name);
        if is_known && !self.store.forget_unreferenced(path)? {
            // Something was registered that refers to it.
            graph.mark([path]);
            return Ok(Fate::Alive);
        }
        self.report.paths.insert(path.clone());
        let trashed = OsString::from(self.trashed.to_string());
        self.trashed += 1;
        let moved = self.move_away(name, &trashed);
        drop(condemned);
        match moved {
            Ok(true) => match remove_tree_measured(self.trash.fd(), &trashed) {
                Ok(freed) => self.report.bytes_freed += freed,
                Err(error) => self.fail(name, error),
            },
            Ok(false) => {}
            Err(error) => self.report.failures.push(LocalError::io(
                "delete",
                self.store.physical_dir().join(name),
            )(error)),
        }
        Ok(Fate::Deleted)
    }

    /// Moves an object into the directory of what is to be removed; false if there is none.
    fn move_away(&self, name: &OsStr, to: &OsStr) -> std::io::Result<bool> {
        let store = self.store.store_fd();
        let Some(stat) = fs::stat_if_exists(store, name)? else {
            return Ok(false);
        };
        // To move a directory is to write to it: its parent is an entry of it.
        if Kind::of(&stat) == Kind::Directory
            && stat.st_mode & 0o200 == 0
            && !rustix::process::geteuid().is_root()
        {
            let fd = fs::open_dir(store, name)?;
            fs::set_mode(&fd, stat.st_mode & 0o7777 | 0o200)?;
        }
        fs::rename_no_replace(store, name, self.trash.fd(), to)?;
        Ok(true)
    }

    fn fail(&mut self, name: &OsStr, error: store_nar::NarError) {
        let object = name.to_string_lossy();
        self.report
            .failures
            .push(LocalError::tree("delete", object)(error));
    }
}
