//! `droste daemon`: serves the store to Nix's commands and others, and compiler calls to shims.

use std::fs::Permissions;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use droste_daemon::{Admit, Server, Trust};
use droste_executor::{Executor, Settings, Shims};
use droste_settings::Accounts;
use rustix::fs::Access;
use shim_core::client::Server as SocketServer;
use store_api::{Store, StoreError};
use store_client::{RemoteOptions, RemoteStore};
use store_local::{DefaultDirs, LocalStoreConfig};
use store_types::{StoreDir, StoreKind, StoreReference};
use store_wire::feature;

use super::build::SettingsArgs;
use super::doors::{self, DoorError, FOR_OWNER, Porter};
use super::error::{CommandError, Hint};
use super::instance::{self, InstanceError};
use super::report::Verbosity;
use super::stdio::Streams;
use super::store_uri::Surroundings;
use super::{Context, exit_code, interrupt, print_line, serving};
use crate::external::server::ExternalBuilds;
use crate::open_store::OpenStore;
use crate::proxy_store::ProxyStore;
use crate::shared_store::SharedStore;
use crate::wiring;

/// How often the daemon looks whether it is to end.
const POLL: Duration = Duration::from_millis(100);

/// How long directories stay open after a call, for the next one.
const QUIET: Duration = Duration::from_secs(1);

/// Where Nix's daemon listens, below the directory of a store's state.
const SOCKET_IN_STATE: &str = "daemon-socket/socket";

/// How often statistics are written.
const FLUSH: Duration = Duration::from_secs(1);

/// Serve the store to Nix's commands and others, and the host's compiler calls, until stopped
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DaemonArgs {
    #[command(subcommand)]
    command: Option<DaemonCommand>,
    /// Where to listen to Nix's commands, besides $DROSTE_DIR/daemon.socket [default:
    /// $NIX_DAEMON_SOCKET_PATH; for root the socket of Nix's daemon for that store,
    /// DIR/nix/var/nix/daemon-socket/socket]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Serve the machine's own store, with all of its daemon at this socket but builds, which are
    /// Droste's: PATH, `daemon`, `unix://PATH`, or `unix://PATH?root=DIR` and the like for a store
    /// that is not in its usual place
    #[arg(long, value_name = "SOCKET", conflicts_with = "stdio")]
    proxy: Option<String>,
    /// End when there has been nothing to do for so long
    #[arg(long, value_name = "SECONDS")]
    idle_seconds: Option<u64>,
    /// Listen here, too, to the programs that Nix starts for its `external-builders`
    #[arg(long, value_name = "PATH", conflicts_with = "stdio")]
    external_socket: Option<PathBuf>,
    /// Let this group's members connect there: Nix's build users
    #[arg(long, value_name = "GROUP", requires = "external_socket")]
    external_group: Option<String>,
    /// Serve one client on standard input and output, as `nix-daemon --stdio` does: through
    /// the daemon that serves the store, if one does, else until the client leaves
    #[arg(long, conflicts_with_all = ["socket", "idle_seconds", "detach"])]
    stdio: bool,
    #[command(flatten)]
    trust: TrustArgs,
    /// Leave the terminal and everything else of whoever started it
    #[arg(long, hide = true)]
    detach: bool,
    /// Go on without `nix.conf` if it is faulty: who runs a compiler has nothing to do with it
    #[arg(long, hide = true)]
    despite_nix_conf: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Whom to trust.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct TrustArgs {
    /// Trust all clients, whoever they are
    #[arg(long)]
    force_trusted: bool,
    /// Trust no client, whoever it is
    #[arg(long)]
    force_untrusted: bool,
    /// Trust those of `trusted-users`; on standard input, everybody
    #[arg(long)]
    default_trust: bool,
}

impl TrustArgs {
    fn forced(&self) -> Option<Trust> {
        match (self.force_trusted, self.force_untrusted) {
            (true, _) => Some(Trust::Trusted),
            (_, true) => Some(Trust::NotTrusted),
            _ => None,
        }
    }
}

#[derive(Debug, Subcommand)]
enum DaemonCommand {
    Stop(StopArgs),
    Status(StatusArgs),
}

/// End the running daemon, if there is one
#[derive(Debug, Args)]
pub struct StopArgs {}

/// Print which daemon is running; fail if none is
#[derive(Debug, Args)]
pub struct StatusArgs {}

/// A daemon that cannot serve.
#[derive(Debug, thiserror::Error)]
enum DaemonError {
    #[error(transparent)]
    Door(#[from] DoorError),
    #[error("cannot serve clients")]
    Start(#[source] io::Error),
    #[error("cannot use the daemon at `{}`", socket.display())]
    Machines {
        socket: PathBuf,
        #[source]
        source: StoreError,
    },
    #[error("cannot read which groups there are")]
    Accounts(#[source] io::Error),
    #[error("there is no group `{0}`")]
    NoGroup(String),
    #[error("`{0}` names no daemon's socket")]
    NoDaemon(String),
    #[error("cannot leave the session of whoever started the daemon")]
    Detach(#[source] io::Error),
    #[error("cannot make `{}`", dir.display())]
    Directory {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
}

pub fn run(context: &Context, args: &DaemonArgs) -> Result<u8, CommandError> {
    match &args.command {
        None if args.detach => detach(context, args),
        None if args.stdio => serve_stdio(context, args),
        None => serve(context, args),
        Some(DaemonCommand::Stop(_)) => stop(context),
        Some(DaemonCommand::Status(_)) => status(context),
    }
}

/// Starts the program anew with nothing of its parent's but standard error and the
/// environment: a descriptor that is kept open may be a pipe that somebody reads to its end.
fn detach(context: &Context, args: &DaemonArgs) -> Result<u8, CommandError> {
    rustix::process::setsid()
        .and_then(|_| droste_sys::close_from_on_exec(3))
        .and_then(|()| rustix::process::chdir("/"))
        .map_err(|errno| DaemonError::Detach(errno.into()))?;
    let mut command = std::process::Command::new("/proc/self/exe");
    command
        .arg("daemon")
        .arg("--despite-nix-conf")
        .arg("--store")
        .arg(context.store.to_argument());
    if let Some(seconds) = args.idle_seconds {
        command.arg("--idle-seconds").arg(seconds.to_string());
    }
    Err(DaemonError::Detach(command.exec()).into())
}

fn serve(context: &Context, args: &DaemonArgs) -> Result<u8, CommandError> {
    let mut settings = match args.settings.to_settings(context, &[]) {
        Err(error) if args.despite_nix_conf => {
            error.print();
            Settings::new(context.droste_dir.clone())
        }
        settings => settings?,
    };
    settings.diagnose = |text| eprintln!("droste: {text}");
    let handed_over = doors::handed_over().map_err(DaemonError::Door)?;
    let pid_file = context.pid_file();
    let _claim =
        instance::claim(&pid_file, &context.store.to_argument()).map_err(|error| match error {
            InstanceError::Running => {
                CommandError::from(error).with_hint("`droste daemon stop` ends it")
            }
            error => error.into(),
        })?;
    let spawner = wiring::start_spawner()?;
    let machines = args.proxy.as_deref().map(Machines::parse).transpose()?;
    let store = match &machines {
        Some(machines) => {
            // What is built beside it is for it.
            let mut ours = context.store.clone();
            ours.dir.clone_from(&machines.dir);
            wiring::open_store_beside(&ours, &machines.real)?
        }
        None => wiring::open_store(&context.store)?,
    };
    let config = store.config().clone();
    let executor = wiring::open_executor(store, settings, spawner)?;
    let is_ended = interrupt::watch()?;
    let porter = Porter::new(
        executor.settings(),
        args.trust.forced(),
        context.verbosity == Verbosity::Verbose,
    );
    let own = context.droste_dir.join("daemon.socket");
    let further = match handed_over.is_empty() {
        true => socket_for_clients(args, &executor).filter(|socket| *socket != own),
        false => None,
    };
    let mut listeners = handed_over;
    let mut own_places: Vec<PathBuf> = listeners
        .iter()
        .filter_map(|listener| Some(listener.local_addr().ok()?.as_pathname()?.to_owned()))
        .collect();
    own_places.extend(further.clone());
    listeners.push(listen(&own, FOR_OWNER)?);
    if let Some(socket) = &further {
        let mode = doors::mode_for_clients(&executor.settings().nix);
        let listening = listen(socket, mode).hint(|| "`--socket PATH` names another place")?;
        listeners.push(listening);
    }
    let server = match &machines {
        Some(machines) => serve_machines_store(&executor, listeners, porter, machines)?,
        None => serve_store(&executor, listeners, porter)?,
    };
    let builds_socket = context.builds_socket();
    let builds = serve_builds(&executor, &builds_socket, own_places.clone())?;
    let external_socket = match &args.external_socket {
        Some(socket) => socket.clone(),
        None => context.external_socket(),
    };
    let external = serve_external(
        &executor,
        &external_socket,
        args.external_group.as_deref(),
        own_places,
    )?;
    let calls_socket = context.calls_socket();
    let calls = serve_calls(context, &executor, &calls_socket)?;
    let status = context.status();
    let socket = further.as_ref().unwrap_or(&own).display();
    status.line(&match &machines {
        Some(machines) => format!(
            "serving the store of the daemon at `{}`, builds apart; for Nix: --store 'unix://{socket}{}'",
            machines.socket.display(),
            machines.query
        ),
        None if is_machines(&config) => {
            format!("serving this machine's store; for Nix: --store 'unix://{socket}'")
        }
        None => format!(
            "serving the store in `{}`; for Nix: --store 'unix://{socket}?{}'",
            config.place().display(),
            config.query()
        ),
    });
    doors::notify("READY=1");
    let idle_max = args.idle_seconds.map(Duration::from_secs);
    let mut flushed = Instant::now();
    while !is_ended.load(Ordering::Relaxed) {
        std::thread::sleep(POLL);
        calls.let_go_after(QUIET);
        if server.connections() == 0
            && builds.connections() == 0
            && external.connections() == 0
            && let (Some(idle), Some(max)) = (calls.idle_for(), idle_max)
            && idle >= max
        {
            break;
        }
        if flushed.elapsed() >= FLUSH {
            // What cannot be written now may be written later.
            let _ = executor.statistics().flush();
            flushed = Instant::now();
        }
    }
    doors::notify("STOPPING=1");
    status.detail("ending");
    // First, so that nobody connects any more to whom nobody will listen. The sockets may be
    // gone already. The pid file stays: a lock on a file that has lost its name would exclude
    // nobody.
    let _ = std::fs::remove_file(&calls_socket);
    let _ = std::fs::remove_file(&builds_socket);
    let _ = std::fs::remove_file(&external_socket);
    let _ = std::fs::remove_file(&own);
    if let Some(socket) = &further {
        let _ = std::fs::remove_file(socket);
    }
    calls.stop();
    drop(external);
    builds.stop();
    server.stop();
    let _ = executor.statistics().flush();
    Ok(exit_code::SUCCESS)
}

/// Where the clients of Nix's daemon look for it, besides the socket of our own: nowhere for a
/// daemon that serves compilers, or that has another daemon there.
fn socket_for_clients(args: &DaemonArgs, executor: &Executor) -> Option<PathBuf> {
    if let Some(socket) = &args.socket {
        return Some(socket.clone());
    }
    if args.despite_nix_conf || args.proxy.is_some() {
        return None;
    }
    let named = std::env::var_os("NIX_DAEMON_SOCKET_PATH").filter(|path| !path.is_empty());
    named.map(PathBuf::from).or_else(|| {
        let is_root = rustix::process::geteuid().is_root();
        is_root.then(|| executor.store().state_dir().join(SOCKET_IN_STATE))
    })
}

/// Whether a store is what Nix takes for this machine's if nothing else is said.
fn is_machines(config: &LocalStoreConfig) -> bool {
    let machines = DefaultDirs::default();
    config.dir == machines.store
        && config.real == Path::new(config.dir.as_str())
        && config.state == machines.state
}

/// Serves one client on standard input and output. Who is there cannot be seen, so it is
/// trusted: to let only those in who are is the business of whoever made the connection.
fn serve_stdio(context: &Context, args: &DaemonArgs) -> Result<u8, CommandError> {
    let mut settings = args.settings.to_settings(context, &[])?;
    settings.diagnose = |text| eprintln!("droste: {text}");
    let streams = Streams::take()?;
    let is_ended = interrupt::watch()?;
    let trust = args.trust.forced().unwrap_or(Trust::Trusted);
    if let Some((daemon, socket)) = connect_to_running(context) {
        match trust {
            Trust::NotTrusted => {
                // The daemon trusts us, so it is us who must know better.
                let dir = context.store.dir.clone();
                let store = serving::store_behind(daemon, socket, dir);
                let options = wiring::connection_options(trust);
                streams.serve(&store, &options, &is_ended)?;
            }
            _ => streams.hand_on(&daemon, &socket, &is_ended)?,
        }
        return Ok(exit_code::SUCCESS);
    }
    let spawner = wiring::start_spawner()?;
    let store = wiring::open_store(&context.store)?;
    let executor = wiring::open_executor(store, settings, spawner)?;
    let open = OpenStore::new(executor.clone());
    let options = wiring::connection_options(trust);
    let served = streams.serve(&open, &options, &is_ended);
    let _ = executor.statistics().flush();
    served?;
    Ok(exit_code::SUCCESS)
}

/// A connection to the daemon of this store that is running: one of this `DROSTE_DIR`, or, if the
/// store is somebody else's, the one that serves it to others.
fn connect_to_running(context: &Context) -> Option<(UnixStream, PathBuf)> {
    let connect = |socket: PathBuf| {
        let connected = SocketServer::of_host(socket.clone()).connect().ok()?;
        Some((connected.into(), socket))
    };
    if let Ok(Some(running)) = instance::running(&context.pid_file())
        && running.serves(&context.store)
    {
        return connect(context.droste_dir.join("daemon.socket"));
    }
    let state = &context.store.state;
    let is_ours = rustix::fs::access(state.join("db"), Access::WRITE_OK).is_ok();
    let is_there = state.exists();
    (is_there && !is_ours)
        .then(|| connect(state.join(SOCKET_IN_STATE)))
        .flatten()
}

/// Where the machine's own daemon is, and its store.
#[derive(Clone)]
struct Machines {
    socket: PathBuf,
    /// The directory that its paths begin with.
    dir: StoreDir,
    /// Where its objects lie.
    real: PathBuf,
    /// What a client must say as well, with its `?`.
    query: String,
}

impl Machines {
    /// What follows `--proxy`.
    fn parse(text: &str) -> Result<Self, CommandError> {
        let surroundings = Surroundings {
            variable: &|name| std::env::var_os(name),
            is_root: false,
        };
        let reference = StoreReference::parse(text)?;
        let socket = match reference.kind {
            StoreKind::Auto | StoreKind::Daemon { socket: None } => surroundings.daemon_socket()?,
            StoreKind::Daemon {
                socket: Some(socket),
            }
            | StoreKind::Local { root: Some(socket) } => socket.into(),
            StoreKind::Local { root: None } | StoreKind::Other { .. } => {
                return Err(DaemonError::NoDaemon(text.to_owned()).into());
            }
        };
        let defaults = surroundings.defaults()?;
        let (config, _) = LocalStoreConfig::new(None, &reference.params, &defaults)?;
        let query = text.split_once('?').map_or("", |(_, query)| query);
        Ok(Self {
            socket,
            dir: config.dir,
            real: config.real,
            query: match query.is_empty() {
                true => String::new(),
                false => format!("?{query}"),
            },
        })
    }

    /// The store, with one connection, which holds what its client holds.
    fn open(&self) -> RemoteStore {
        let options = RemoteOptions {
            connections_max: 1,
            store_dir: self.dir.clone(),
            features: [feature::REALISATION_WITH_PATH.to_owned()].into(),
            ..RemoteOptions::default()
        };
        RemoteStore::at_socket(&self.socket, options)
    }
}

/// Serves the machine's store by Nix's protocol; who is not trusted there is not trusted here.
fn serve_machines_store(
    executor: &Arc<Executor>,
    listeners: Vec<UnixListener>,
    porter: Porter,
    machines: &Machines,
) -> Result<Server, DaemonError> {
    let (_, hello) = machines
        .open()
        .hello()
        .map_err(|source| DaemonError::Machines {
            socket: machines.socket.clone(),
            source,
        })?;
    let most = match hello.trust {
        Trust::NotTrusted => Trust::NotTrusted,
        // An old daemon does not say, and refuses what it does not allow.
        Trust::Trusted | Trust::Unknown => Trust::Trusted,
    };
    let executor = executor.clone();
    let machines = machines.clone();
    let make_store =
        move || -> Arc<dyn Store> { Arc::new(ProxyStore::new(machines.open(), executor.clone())) };
    start(listeners, porter.admit(most, make_store))
}

/// Serves the store by Nix's protocol.
fn serve_store(
    executor: &Arc<Executor>,
    listeners: Vec<UnixListener>,
    porter: Porter,
) -> Result<Server, DaemonError> {
    let porter = porter.with_user_dirs(executor.store().state_dir());
    let executor = executor.clone();
    let make_store = move || -> Arc<dyn Store> { Arc::new(OpenStore::new(executor.clone())) };
    start(listeners, porter.admit(Trust::Trusted, make_store))
}

fn start(listeners: Vec<UnixListener>, admit: Admit) -> Result<Server, DaemonError> {
    let version = wiring::NIX_VERSION.to_owned();
    Server::start_for(listeners, admit, version, wiring::daemon_limits())
        .map_err(DaemonError::Start)
}

/// Serves Nix's own builders, whose inputs are in the machine's store. Whoever listens at `own` is
/// not the machine's daemon but this one.
fn serve_builds(
    executor: &Arc<Executor>,
    socket: &Path,
    own: Vec<PathBuf>,
) -> Result<Server, DaemonError> {
    let executor = executor.clone();
    let make_store = move || -> Arc<dyn Store> {
        let host = wiring::open_host_store(executor.store(), &own);
        Arc::new(SharedStore::new(executor.clone(), host))
    };
    // The socket is its owner's: whoever can connect is the one the store belongs to.
    let options = wiring::connection_options(Trust::Trusted);
    let listener = listen(socket, FOR_OWNER)?;
    Server::start(
        listener,
        Arc::new(make_store),
        options,
        wiring::daemon_limits(),
    )
    .map_err(DaemonError::Start)
}

/// Serves what Nix starts for its external builders.
fn serve_external(
    executor: &Arc<Executor>,
    socket: &Path,
    group: Option<&str>,
    own: Vec<PathBuf>,
) -> Result<ExternalBuilds, DaemonError> {
    let gid = match group {
        Some(name) => Some(
            Accounts::read()
                .map_err(DaemonError::Accounts)?
                .group(name)
                .ok_or_else(|| DaemonError::NoGroup(name.to_owned()))?
                .gid,
        ),
        None => None,
    };
    let make_store = {
        let executor = executor.clone();
        move || {
            let host = wiring::open_host_store(executor.store(), &own);
            SharedStore::new(executor.clone(), host)
        }
    };
    let listener = listen(socket, FOR_OWNER)?;
    if gid.is_some() {
        std::os::unix::fs::chown(socket, None, gid)
            .and_then(|()| std::fs::set_permissions(socket, Permissions::from_mode(0o660)))
            .map_err(doors::not_served(socket))?;
    }
    ExternalBuilds::start(listener, executor.clone(), Arc::new(make_store))
        .map_err(DaemonError::Start)
}

/// Serves the compiler calls of commands on this machine.
fn serve_calls(
    context: &Context,
    executor: &Arc<Executor>,
    socket: &Path,
) -> Result<Shims, DaemonError> {
    let bin = context.bin_dir();
    let hidden = std::fs::create_dir_all(&bin)
        .and_then(|()| bin.canonicalize())
        .map_err(|source| DaemonError::Directory { dir: bin, source })?;
    let hidden = vec![hidden.as_os_str().as_bytes().to_vec()];
    let listener = listen(socket, FOR_OWNER)?;
    executor
        .open_host_shims(listener, hidden)
        .map_err(DaemonError::Start)
}

fn listen(socket: &Path, mode: u32) -> Result<UnixListener, DaemonError> {
    doors::listen(socket, mode)
        .map_err(doors::not_served(socket))
        .map_err(DaemonError::Door)
}

fn stop(context: &Context) -> Result<u8, CommandError> {
    let status = context.status();
    let waits = || status.now("waiting for the daemon to end its builds");
    let stopped = instance::stop(&context.pid_file(), waits).map_err(|error| match error {
        InstanceError::NotEnding(_) => {
            CommandError::from(error).with_hint("`kill -9` ends it; the store is made for that")
        }
        error => error.into(),
    })?;
    status.clear();
    status.line(match stopped {
        true => "the daemon has ended",
        false => "no daemon is running",
    });
    Ok(exit_code::SUCCESS)
}

fn status(context: &Context) -> Result<u8, CommandError> {
    let Some(instance) = instance::running(&context.pid_file())? else {
        print_line("no daemon is running")?;
        return Ok(exit_code::FAILURE);
    };
    print_line(&format!(
        "process {} serves the store in `{}`",
        instance.pid.as_raw_nonzero(),
        instance.store.display()
    ))?;
    Ok(exit_code::SUCCESS)
}
