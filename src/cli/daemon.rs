//! `droste daemon`: serves the store to Nix's commands and others, and compiler calls to shims.

use std::fs::Permissions;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use droste_daemon::{ConnectionOptions, Limits, Server, Trust};
use droste_executor::{Executor, Settings, Shims};
use droste_settings::Accounts;
use rustix::fs::{Mode, OFlags};
use shim_core::client::Server as SocketServer;
use store_api::{Store, StoreError};
use store_client::{RemoteOptions, RemoteStore};

use super::build::SettingsArgs;
use super::error::CommandError;
use super::instance::{self, InstanceError};
use super::stdio::Streams;
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

/// Where the machine's own daemon listens.
const MACHINES_SOCKET: &str = "/nix/var/nix/daemon-socket/socket";

/// How often statistics are written.
const FLUSH: Duration = Duration::from_secs(1);

/// Serve the store to Nix's commands and others, and the host's compiler calls, until stopped
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DaemonArgs {
    #[command(subcommand)]
    command: Option<DaemonCommand>,
    /// Where to listen to Nix's commands [default: $DROSTE_DIR/daemon.socket]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Serve the machine's own store, with all of its daemon at this socket but builds, which are
    /// Droste's: PATH, `unix://PATH`, `unix://PATH?root=DIR` for a store in a directory, or `auto`
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
    /// Leave the terminal and everything else of whoever started it
    #[arg(long, hide = true)]
    detach: bool,
    /// Go on without `nix.conf` if it is faulty: who runs a compiler has nothing to do with it
    #[arg(long, hide = true)]
    despite_nix_conf: bool,
    #[command(flatten)]
    settings: SettingsArgs,
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
    #[error("cannot serve at `{}`", socket.display())]
    Serve {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
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
        .arg(&context.store_root);
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
    let pid_file = context.pid_file();
    let _claim = instance::claim(&pid_file, &context.store_root).map_err(|error| match error {
        InstanceError::Running => {
            CommandError::from(error).with_hint("`droste daemon stop` ends it")
        }
        error => error.into(),
    })?;
    let spawner = wiring::start_spawner()?;
    let machines = args.proxy.as_deref().map(Machines::parse);
    let store = match &machines {
        Some(machines) => wiring::open_store_beside(&context.store_root, &machines.store_dir())?,
        None => wiring::open_store(&context.store_root)?,
    };
    let root = store.root().to_owned();
    let executor = wiring::open_executor(store, settings, spawner)?;
    let is_ended = interrupt::watch()?;
    let default = context.droste_dir.join("daemon.socket");
    let socket = args.socket.clone().unwrap_or(default);
    let server = match &machines {
        Some(machines) => serve_machines_store(&executor, &socket, machines)?,
        None => serve_store(&executor, &socket)?,
    };
    let builds_socket = context.builds_socket();
    let builds = serve_builds(&executor, &builds_socket)?;
    let external_socket = match &args.external_socket {
        Some(socket) => socket.clone(),
        None => context.external_socket(),
    };
    let external = serve_external(&executor, &external_socket, args.external_group.as_deref())?;
    let calls_socket = context.calls_socket();
    let calls = serve_calls(context, &executor, &calls_socket)?;
    let status = context.status();
    status.line(&match &machines {
        Some(machines) => format!(
            "serving the store of the daemon at `{}`, builds apart; for Nix: --store 'unix://{}{}'",
            machines.socket.display(),
            socket.display(),
            machines.query()
        ),
        None => format!(
            "serving the store in `{0}`; for Nix: --store 'unix://{1}?root={0}'",
            root.display(),
            socket.display()
        ),
    });
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
    status.detail("ending");
    // First, so that nobody connects any more to whom nobody will listen. The sockets may be
    // gone already. The pid file stays: a lock on a file that has lost its name would exclude
    // nobody.
    let _ = std::fs::remove_file(&calls_socket);
    let _ = std::fs::remove_file(&builds_socket);
    let _ = std::fs::remove_file(&external_socket);
    let _ = std::fs::remove_file(&socket);
    calls.stop();
    drop(external);
    builds.stop();
    server.stop();
    let _ = executor.statistics().flush();
    Ok(exit_code::SUCCESS)
}

/// Serves one client on standard input and output. Who is there cannot be seen, so it is
/// trusted: to let only those in who are is the business of whoever made the connection.
fn serve_stdio(context: &Context, args: &DaemonArgs) -> Result<u8, CommandError> {
    let mut settings = args.settings.to_settings(context, &[])?;
    settings.diagnose = |text| eprintln!("droste: {text}");
    let streams = Streams::take()?;
    let is_ended = interrupt::watch()?;
    if let Some((daemon, socket)) = connect_to_running(context) {
        streams.hand_on(&daemon, &socket, &is_ended)?;
        return Ok(exit_code::SUCCESS);
    }
    let spawner = wiring::start_spawner()?;
    let store = wiring::open_store(&context.store_root)?;
    let executor = wiring::open_executor(store, settings, spawner)?;
    let open = OpenStore::new(executor.clone());
    let options = wiring::connection_options(Trust::Trusted);
    let served = streams.serve(&open, &options, &is_ended);
    let _ = executor.statistics().flush();
    served?;
    Ok(exit_code::SUCCESS)
}

/// A connection to the daemon of this store that is running, if one is and listens at its
/// usual place.
fn connect_to_running(context: &Context) -> Option<(UnixStream, PathBuf)> {
    let running = instance::running(&context.pid_file()).ok()??;
    if !serving::is_same_dir(&running.store_root, &context.store_root) {
        return None;
    }
    let socket = context.droste_dir.join("daemon.socket");
    let connected = SocketServer::of_host(socket.clone()).connect().ok()?;
    Some((connected.into(), socket))
}

/// Where the machine's own daemon is, and its store.
struct Machines {
    socket: PathBuf,
    /// The directory of a store that is not the root's.
    root: Option<PathBuf>,
}

impl Machines {
    /// What follows `--proxy`.
    fn parse(text: &str) -> Self {
        if text == "auto" {
            let socket = std::env::var_os("NIX_DAEMON_SOCKET_PATH");
            return Self {
                socket: socket.unwrap_or_else(|| MACHINES_SOCKET.into()).into(),
                root: None,
            };
        }
        let text = text.strip_prefix("unix://").unwrap_or(text);
        let (socket, root) = match text.split_once("?root=") {
            Some((socket, root)) => (socket, Some(root.into())),
            None => (text, None),
        };
        Self {
            socket: socket.into(),
            root,
        }
    }

    fn store_dir(&self) -> PathBuf {
        let root = self.root.as_deref().unwrap_or(Path::new("/"));
        root.join("nix/store")
    }

    /// What a client must say as well.
    fn query(&self) -> String {
        let root = self.root.as_ref();
        root.map_or_else(String::new, |root| format!("?root={}", root.display()))
    }

    /// The store, with one connection, which holds what its client holds.
    fn open(&self) -> RemoteStore {
        let options = RemoteOptions {
            connections_max: 1,
            ..RemoteOptions::default()
        };
        RemoteStore::at_socket(&self.socket, options)
    }
}

/// Serves the machine's store by Nix's protocol; who is trusted there is trusted here.
fn serve_machines_store(
    executor: &Arc<Executor>,
    socket: &Path,
    machines: &Machines,
) -> Result<Server, DaemonError> {
    let (_, hello) = machines
        .open()
        .hello()
        .map_err(|source| DaemonError::Machines {
            socket: machines.socket.clone(),
            source,
        })?;
    let options = ConnectionOptions {
        trust: match hello.trust {
            Trust::NotTrusted => Trust::NotTrusted,
            // An old daemon does not say, and refuses what it does not allow.
            Trust::Trusted | Trust::Unknown => Trust::Trusted,
        },
        ..wiring::connection_options(Trust::Unknown)
    };
    let executor = executor.clone();
    let machines = Machines {
        socket: machines.socket.clone(),
        root: machines.root.clone(),
    };
    let make_store =
        move || -> Arc<dyn Store> { Arc::new(ProxyStore::new(machines.open(), executor.clone())) };
    listen(socket)
        .and_then(|listener| {
            Server::start(listener, Arc::new(make_store), options, Limits::default())
        })
        .map_err(|source| DaemonError::Serve {
            socket: socket.to_owned(),
            source,
        })
}

/// Serves the store by Nix's protocol.
fn serve_store(executor: &Arc<Executor>, socket: &Path) -> Result<Server, DaemonError> {
    let open: Arc<dyn Store> = Arc::new(OpenStore::new(executor.clone()));
    listen(socket)
        .and_then(|listener| {
            // The socket is its owner's: whoever can connect is the one the store belongs to.
            let options = wiring::connection_options(Trust::Trusted);
            Server::start(
                listener,
                Arc::new(move || open.clone()),
                options,
                Limits::default(),
            )
        })
        .map_err(|source| DaemonError::Serve {
            socket: socket.to_owned(),
            source,
        })
}

/// Serves Nix's own builders, whose inputs are in the machine's store.
fn serve_builds(executor: &Arc<Executor>, socket: &Path) -> Result<Server, DaemonError> {
    let executor = executor.clone();
    let make_store = move || -> Arc<dyn Store> {
        let host = wiring::open_host_store(executor.store());
        Arc::new(SharedStore::new(executor.clone(), host))
    };
    listen(socket)
        .and_then(|listener| {
            // The socket is its owner's, as the other one is.
            let options = wiring::connection_options(Trust::Trusted);
            Server::start(listener, Arc::new(make_store), options, Limits::default())
        })
        .map_err(|source| DaemonError::Serve {
            socket: socket.to_owned(),
            source,
        })
}

/// Serves what Nix starts for its external builders.
fn serve_external(
    executor: &Arc<Executor>,
    socket: &Path,
    group: Option<&str>,
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
            let host = wiring::open_host_store(executor.store());
            SharedStore::new(executor.clone(), host)
        }
    };
    listen(socket)
        .and_then(|listener| {
            if gid.is_some() {
                std::os::unix::fs::chown(socket, None, gid)?;
                std::fs::set_permissions(socket, Permissions::from_mode(0o660))?;
            }
            ExternalBuilds::start(listener, executor.clone(), Arc::new(make_store))
        })
        .map_err(|source| DaemonError::Serve {
            socket: socket.to_owned(),
            source,
        })
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
    listen(socket)
        .and_then(|listener| executor.open_host_shims(listener, hidden))
        .map_err(|source| DaemonError::Serve {
            socket: socket.to_owned(),
            source,
        })
}

/// Listens where nobody does; a socket that was left there is replaced.
fn listen(socket: &Path) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(socket) {
        Ok(metadata) if !std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type()) => {
            return Err(io::Error::other("there is a file that is no socket"));
        }
        Ok(_) if SocketServer::of_host(socket.to_owned()).connect().is_ok() => {
            return Err(io::Error::other("somebody else listens there"));
        }
        Ok(_) => std::fs::remove_file(socket)?,
        Err(_) => {}
    }
    let (Some(dir), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // The path may be longer than a socket's address can be.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = match dir.as_os_str().is_empty() {
        true => Path::new("."),
        false => dir,
    };
    let dir = rustix::fs::open(dir, flags, Mode::empty())?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name);
    let listener = UnixListener::bind(short)?;
    std::fs::set_permissions(socket, Permissions::from_mode(0o600))?;
    Ok(listener)
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
        instance.store_root.display()
    ))?;
    Ok(exit_code::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_was_left_is_replaced_and_another_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        drop(listen(&socket).unwrap());
        let listening = listen(&socket).unwrap();
        assert!(listen(&socket).is_err());
        drop(listening);
        let file = dir.path().join("file");
        std::fs::write(&file, "precious").unwrap();
        assert!(listen(&file).is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    }
}
