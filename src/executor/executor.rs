//! The executor of one store: what all its builds share.

use std::collections::{BTreeSet, HashMap};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use droste_sandbox::Spawner;
use store_api::{BoxError, Store};
use store_local::{LocalStore, LocalStoreConfig};
use store_types::{Derivation, DrvOutput, Hash, HashModulo, StoreDir, StorePath};

use crate::Monitor;
use crate::auto_gc::AutoGc;
use crate::build_dir::LeftDir;
use crate::child::files::FileMemory;
use crate::child::host::HostCompilers;
use crate::child::recall::Recall;
use crate::child::run::{Held, InFlight};
use crate::child::tools::SearchPath;
use crate::child::traced::Turns;
use crate::child::tree::StoreTree;
use crate::error::{BuildError, environment};
use crate::jobs::Jobs;
use crate::seen::Seen;
use crate::settings::Settings;
use crate::statistics::Statistics;
use crate::tokens::Tokens;
use crate::workplace::{Workplace, remove_abandoned};

/// Programs that an executor lays into sandboxes; they are part of its own binary.
#[derive(Clone, Copy, Debug)]
pub struct Embedded {
    /// The C and C++ compiler shim, a static executable.
    pub shim_cc: &'static [u8],
    /// The builder of children, a static executable.
    pub runner: &'static [u8],
    /// What the shim becomes in a build by another Nix, a static executable.
    pub shim_nix: &'static [u8],
    /// The builders that derivations name as `builtin:…`, a static executable.
    pub builtins: &'static [u8],
}

/// Serves a store to the clients of a socket until the returned handle is dropped.
pub type ServeStore =
    dyn Fn(UnixListener, Arc<dyn Store>) -> std::io::Result<Box<dyn Send + Sync>> + Send + Sync;

/// An executor that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The sandbox's helper process did not start.
    #[error("cannot start the sandbox's helper process")]
    Spawner(#[source] droste_sandbox::Error),
    /// Nothing can be built there.
    #[error("the store in `{}` is read-only, and nothing can be built in it", path.display())]
    ReadOnly {
        /// The store.
        path: PathBuf,
    },
    /// A directory or file of ours is not usable.
    #[error("cannot use `{}`", path.display())]
    State {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: BoxError,
    },
}

/// Builds derivations of one store.
pub struct Executor {
    pub(crate) store: Arc<LocalStore>,
    pub(crate) settings: Settings,
    pub(crate) spawner: Spawner,
    pub(crate) embedded: Embedded,
    pub(crate) serve_store: Box<ServeStore>,
    /// Where processes have directories for their builds.
    builds: PathBuf,
    /// Where Droste keeps what it knows of the store.
    droste_state: PathBuf,
    workplace: OnceLock<Workplace>,
    preparing: Mutex<()>,
    /// Those of its directories that are empty, and nobody's.
    pub(crate) free_dirs: Mutex<Vec<PathBuf>>,
    /// Those in which there is what one build has left for the next.
    pub(crate) left_dirs: Mutex<Vec<LeftDir>>,
    pub(crate) turns: Turns,
    pub(crate) store_tree: StoreTree,
    pub(crate) memory: FileMemory,
    seen: Seen,
    pub(crate) recall: Recall,
    pub(crate) host_compilers: HostCompilers,
    /// Builders of derivations.
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) child_tokens: Tokens,
    /// Calls whose inputs are being looked for.
    pub(crate) call_tokens: Tokens,
    pub(crate) in_flight: InFlight,
    /// Inputs of children.
    pub(crate) held: Held,
    /// Compiler drivers by store object.
    pub(crate) drivers: Mutex<HashMap<StorePath, Arc<[Vec<u8>]>>>,
    /// Store paths of the embedded programs, once they are added.
    pub(crate) programs: Mutex<HashMap<&'static str, StorePath>>,
    /// The compilers' own search paths, by the hash of the question; `None` for one
    /// that gave no answer.
    pub(crate) search_paths: Mutex<HashMap<Hash, Option<Arc<SearchPath>>>>,
    statistics: Statistics,
    pub(crate) auto_gc: AutoGc,
    modulo: Mutex<HashModulo>,
}

/// Where Droste keeps what it knows of a store: beside the store's state where that is Nix's
/// `var/nix`, and in it where it is elsewhere.
pub fn droste_state_dir(config: &LocalStoreConfig) -> PathBuf {
    match config.state.file_name() {
        Some(name) if name == "nix" => config.state.with_file_name("droste"),
        _ => config.state.join("droste"),
    }
}

pub(crate) fn state_error<E: Into<BoxError>>(path: &Path) -> impl FnOnce(E) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::State {
        path,
        source: source.into(),
    }
}

impl Executor {
    /// An executor for a store. `spawner` must have been started by this process;
    /// `serve_store` is what answers clients of recursive builds.
    pub fn open(
        store: Arc<LocalStore>,
        settings: Settings,
        spawner: Spawner,
        embedded: Embedded,
        serve_store: Box<ServeStore>,
    ) -> Result<Arc<Self>, OpenError> {
        if store.config().read_only {
            return Err(OpenError::ReadOnly {
                path: store.config().place().to_owned(),
            });
        }
        let of_settings = settings.build_dir.as_ref();
        let builds = match of_settings.or(store.config().build_dir.as_ref()) {
            Some(dir) => dir.clone(),
            None => store.state_dir().join("builds"),
        };
        std::fs::create_dir_all(&builds).map_err(state_error(&builds))?;
        remove_abandoned(&builds).map_err(state_error(&builds))?;
        let droste_state = droste_state_dir(store.config());
        std::fs::create_dir_all(&droste_state).map_err(state_error(&droste_state))?;
        store.set_auto_optimise(settings.nix.flag("auto-optimise-store"));
        store.set_return_memory(droste_sys::return_memory);
        Ok(Arc::new(Self {
            jobs: Jobs::new(settings.max_jobs),
            auto_gc: AutoGc::default(),
            child_tokens: Tokens::new(settings.child_jobs),
            call_tokens: Tokens::new(2 * settings.child_jobs),
            modulo: Mutex::new(HashModulo::new(store.store_dir().clone())),
            store_tree: StoreTree::new(store.clone()),
            store,
            settings,
            spawner,
            embedded,
            serve_store,
            builds,
            workplace: OnceLock::new(),
            preparing: Mutex::default(),
            free_dirs: Mutex::default(),
            left_dirs: Mutex::default(),
            turns: Turns::default(),
            memory: FileMemory::default(),
            seen: Seen::default(),
            recall: Recall::default(),
            host_compilers: HostCompilers::new(droste_state.join("host-compilers")),
            in_flight: InFlight::default(),
            held: Held::default(),
            drivers: Mutex::default(),
            programs: Mutex::default(),
            search_paths: Mutex::default(),
            statistics: Statistics::new(&droste_state),
            droste_state,
        }))
    }

    /// Looks at inputs, which are held. If one is not the object that it was, all that is
    /// remembered by paths of the store is forgotten.
    pub(crate) fn recognise(&self, inputs: &BTreeSet<StorePath>) {
        if self.seen.are_the_same(&self.store, inputs) {
            return;
        }
        self.store_tree.forget();
        self.memory.forget_store();
        let mut drivers = self.drivers.lock().unwrap_or_else(PoisonError::into_inner);
        drivers.clear();
    }

    /// The store it builds in.
    pub fn store(&self) -> &Arc<LocalStore> {
        &self.store
    }

    /// How it was told to build.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How to build for this one: as it wants, or as the executor was told.
    pub(crate) fn settings_for<'a>(&'a self, monitor: &'a dyn Monitor) -> &'a Settings {
        monitor.settings().unwrap_or(&self.settings)
    }

    /// What is needed to build, made when that is first asked for: a command that finds everything
    /// valid needs none of it.
    ///
    /// # Errors
    /// If it cannot be made; the next one tries again.
    pub(crate) fn prepare(&self) -> Result<&Workplace, OpenError> {
        if let Some(workplace) = self.workplace.get() {
            return Ok(workplace);
        }
        let _turn = self
            .preparing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(workplace) = self.workplace.get() {
            return Ok(workplace);
        }
        let (store, spawner) = (&self.store, &self.spawner);
        let made = Workplace::open(store, spawner, &self.builds, &self.droste_state)?;
        Ok(self.workplace.get_or_init(|| made))
    }

    /// The same, which a build that runs, or a compiler call, has asked for already.
    pub(crate) fn workplace(&self) -> &Workplace {
        self.workplace
            .get()
            .expect("it was prepared before the builder was started")
    }

    /// What became of all calls.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// The logical store directory.
    pub fn store_dir(&self) -> &StoreDir {
        self.store.store_dir()
    }

    /// The id under which Nix keeps what an output turned out to be.
    pub(crate) fn realisation_id(
        &self,
        drv_path: &StorePath,
        drv: &Derivation,
        output: &str,
    ) -> Result<DrvOutput, BuildError> {
        let text = self.store_dir().display(drv_path);
        let mut modulo = self.modulo.lock().unwrap_or_else(PoisonError::into_inner);
        modulo
            .realisation_id(drv, output, |input| self.load(input))
            .map_err(environment(&text, "hash the derivation"))?
            .ok_or_else(|| BuildError::NoSuchOutput {
                drv: text,
                output: output.to_owned(),
            })
    }

    /// Checks that a derivation's output paths are those that follow from it, and
    /// that its path follows from its text.
    pub(crate) fn check_derivation(
        &self,
        drv_path: &StorePath,
        drv: &Derivation,
    ) -> Result<(), BuildError> {
        let text = || self.store_dir().display(drv_path);
        let mut modulo = self.modulo.lock().unwrap_or_else(PoisonError::into_inner);
        drv.check_output_paths(drv_path, &mut modulo, |input| self.load(input))
            .map_err(|source| BuildError::Malformed {
                drv: text(),
                source: source.into(),
            })
    }

    /// The closure of these paths, themselves included.
    pub(crate) fn closure(
        &self,
        paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeSet<StorePath>, store_local::LocalError> {
        let paths: Vec<StorePath> = paths.iter().cloned().collect();
        self.store.closure(&paths)
    }

    /// Removes a build directory, whatever is in it.
    pub(crate) fn remove_build_dir(&self, path: &Path) {
        // What cannot be removed now is removed by whoever opens the store next.
        let _ = remove_dir(path);
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        if let Some(Workplace { builds_dir, .. }) = self.workplace.get() {
            self.remove_build_dir(builds_dir);
            let _ = self.spawner.forget_scratch(builds_dir);
        }
    }
}

/// Removes what is in a directory of ours.
pub(crate) fn empty_dir(path: &Path) -> Result<(), BoxError> {
    let dir = store_nar::fs::open_root(path)?;
    let dir = std::os::fd::AsFd::as_fd(&dir);
    for entry in store_nar::fs::list(dir)? {
        store_nar::remove_tree(dir, &entry.name)?;
    }
    Ok(())
}

pub(crate) fn remove_dir(path: &Path) -> Result<(), BoxError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let parent = store_nar::fs::open_root(parent)?;
    Ok(store_nar::remove_tree(
        std::os::fd::AsFd::as_fd(&parent),
        name,
    )?)
}
