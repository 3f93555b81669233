//! Where the parts meet: which store, which sandbox and which server an executor gets.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use droste_daemon::{ConnectionOptions, Limits, Server, Trust};
use droste_executor::{Embedded, Executor, OpenError, ServeStore, Settings};
use droste_sandbox::Spawner;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use store_client::{RemoteOptions, RemoteStore};
use store_local::{DefaultDirs, LocalError, LocalStore, LocalStoreConfig};
use store_wire::feature;

use crate::embedded;
use crate::shared_store::Host;

/// The Nix that our servers behave like; clients show it.
pub const NIX_VERSION: &str = "2.34.8";

/// Opens this store, making it if need be.
///
/// What it has borrowed lies in the machine's own store directory.
pub fn open_store(config: &LocalStoreConfig) -> Result<Arc<LocalStore>, LocalError> {
    let store = LocalStore::open_at(config)?;
    let machines = Path::new(store.store_dir().as_str());
    if machines.is_dir() && !is_same_dir(machines, store.physical_dir()) {
        // Where it may not be looked into there is nothing to borrow, and all else goes on.
        let _ = store.set_lender(machines);
    }
    Ok(Arc::new(store))
}

/// Opens this store beside another one, whose objects lie there.
pub fn open_store_beside(
    config: &LocalStoreConfig,
    lender: &Path,
) -> Result<Arc<LocalStore>, LocalError> {
    let store = LocalStore::open_at(config)?;
    store.set_lender(lender)?;
    Ok(Arc::new(store))
}

/// Opens the machine's own store, from which this one may borrow; `None` if there is none, if it
/// is this one, or if it cannot be used.
///
/// Not to be kept for long: as long as it is open, no Nix can upgrade it. Who listens at one of
/// `own` is this process.
pub fn open_host_store(store: &LocalStore, own: &[PathBuf]) -> Option<Host> {
    let machines = Path::new(store.store_dir().as_str());
    if is_same_dir(machines, store.physical_dir()) {
        return None;
    }
    let defaults = DefaultDirs::of_environment(&|name| std::env::var_os(name)).ok()?;
    let machines = LocalStoreConfig {
        dir: store.store_dir().clone(),
        root: None,
        real: machines.to_owned(),
        state: defaults.state,
        log: defaults.log,
        build_dir: None,
        read_only: false,
    };
    let state = &machines.state;
    let socket: PathBuf = match std::env::var_os("NIX_DAEMON_SOCKET_PATH") {
        Some(socket) => socket.into(),
        None => state.join("daemon-socket/socket"),
    };
    if own.iter().any(|own| is_same_dir(own, &socket)) {
        return None;
    }
    // Its daemon knows best who may write to it, and how.
    let options = RemoteOptions {
        store_dir: store.store_dir().clone(),
        // What is held is held for the connection.
        connections_max: 1,
        features: [feature::REALISATION_WITH_PATH.to_owned()].into(),
        ..RemoteOptions::default()
    };
    let daemons = RemoteStore::at_socket(socket, options);
    if daemons.hello().is_ok() {
        return Some(Host::new(Arc::new(daemons)));
    }
    if !state.join("db/db.sqlite").exists() {
        return None;
    }
    let host = LocalStore::open_as_it_is(&machines).ok()?;
    Some(Host::new(Arc::new(host)))
}

/// What the daemon's clients can take of this process: many may have connected and be silent. Of
/// the descriptors, most are left for builds.
pub fn daemon_limits() -> Limits {
    const CONNECTIONS_MAX: u64 = 4096;
    /// Of one: its socket, the file of its temporary roots, and the collector's lock and socket.
    const DESCRIPTORS_EACH: u64 = 4;
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let all = (descriptors / 2 / DESCRIPTORS_EACH).min(CONNECTIONS_MAX) as usize;
    Limits {
        connections_max: all,
        connections_of_user_max: all / 2,
        ..Limits::default()
    }
}

fn is_same_dir(one: &Path, other: &Path) -> bool {
    let id = |path: &Path| rustix::fs::stat(path).map(|stat| (stat.st_dev, stat.st_ino));
    id(one).is_ok_and(|one| id(other) == Ok(one))
}

/// Starts the process that makes sandboxes; better before threads and large memory. From then on
/// this process, and not that one, may open as many files as the system lets it.
pub fn start_spawner() -> Result<Spawner, OpenError> {
    let spawner = Spawner::start().map_err(OpenError::Spawner)?;
    raise_descriptor_limit();
    Ok(spawner)
}

/// The same, but it is started with the first sandbox, if there is one at all.
pub fn spawner_when_needed() -> Spawner {
    let spawner = Spawner::start_when_needed();
    raise_descriptor_limit();
    spawner
}

fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // With fewer, some calls run in place.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    );
}

/// An executor of this store.
pub fn open_executor(
    store: Arc<LocalStore>,
    settings: Settings,
    spawner: Spawner,
) -> Result<Arc<Executor>, OpenError> {
    let embedded = Embedded {
        shim_cc: embedded::SHIM_CC,
        runner: embedded::RUNNER,
        shim_nix: embedded::SHIM_NIX,
        builtins: embedded::BUILTINS,
    };
    Executor::open(store, settings, spawner, embedded, serve_store())
}

/// Serves a build's view of the store to whatever runs in the build.
fn serve_store() -> Box<ServeStore> {
    Box::new(|listener, store| {
        let server = Server::start(
            listener,
            Arc::new(move || store.clone()),
            connection_options(Trust::NotTrusted),
            Limits::default(),
        )?;
        Ok(Box::new(server))
    })
}

/// What clients are told, and what they may do.
pub fn connection_options(trust: Trust) -> ConnectionOptions {
    ConnectionOptions {
        trust,
        nix_version: NIX_VERSION.to_owned(),
    }
}
