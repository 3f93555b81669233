//! `droste daemon`.
//!
//! A running daemon holds the lock on `DROSTE_DIR/daemon.pid` as long as it lives and
//! has its process id in it, so a file that a killed daemon left says nothing.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::{Args, Subcommand};
use droste_daemon::{Limits, Server, Trust};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};
use store_api::Store;

use super::build::SettingsArgs;
use super::error::{CommandError, Hint};
use super::interrupt;
use super::{Context, exit_code};
use crate::open_store::OpenStore;
use crate::wiring;

/// How often the daemon looks whether it is to end.
const POLL: Duration = Duration::from_millis(100);

/// How long a daemon may take to end its builds.
const STOP_SECONDS_MAX: i64 = 60;

/// A pid file is no longer than this.
const PID_LEN_MAX: u64 = 32;

/// Serve the store to Nix's commands and others, until stopped
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DaemonArgs {
    #[command(subcommand)]
    command: Option<DaemonCommand>,
    /// Where to listen [default: $DROSTE_DIR/daemon.socket]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(Debug, Subcommand)]
enum DaemonCommand {
    Stop(StopArgs),
}

/// End the running daemon, if there is one
#[derive(Debug, Args)]
pub struct StopArgs {}

/// A daemon that cannot be started or stopped.
#[derive(Debug, thiserror::Error)]
enum DaemonError {
    #[error("cannot {operation} `{}`", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("a daemon is running already")]
    Running,
    #[error("cannot serve the store at `{}`", socket.display())]
    Serve {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{}` does not have the process id of the daemon that is running", .0.display())]
    PidFile(PathBuf),
    #[error("cannot stop the daemon, which is process {pid}")]
    Stop {
        pid: i32,
        #[source]
        source: io::Error,
    },
    #[error("the daemon, process {0}, has not ended in {STOP_SECONDS_MAX} s")]
    NotEnding(i32),
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DaemonError {
    let path = path.to_owned();
    move |source| DaemonError::Io {
        operation,
        path,
        source,
    }
}

fn pid_file(context: &Context) -> PathBuf {
    context.droste_dir.join("daemon.pid")
}

pub fn run(context: &Context, args: &DaemonArgs) -> Result<u8, CommandError> {
    match &args.command {
        None => serve(context, args),
        Some(DaemonCommand::Stop(_)) => stop(context),
    }
}

fn serve(context: &Context, args: &DaemonArgs) -> Result<u8, CommandError> {
    let settings = args.settings.to_settings(context)?;
    let pid_file = pid_file(context);
    let _claim = claim(&pid_file).map_err(|error| match error {
        DaemonError::Running => CommandError::from(error).with_hint("`droste daemon stop` ends it"),
        error => error.into(),
    })?;
    let spawner = wiring::start_spawner()?;
    let store = wiring::open_store(&context.store_root)?;
    let root = store.root().to_owned();
    let executor = wiring::open_executor(store, settings, spawner)?;
    let is_ended = interrupt::watch()?;
    let default = context.droste_dir.join("daemon.socket");
    let socket = args.socket.clone().unwrap_or(default);
    let open: Arc<dyn Store> = Arc::new(OpenStore::new(executor));
    let server = listen(&socket)
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
            socket: socket.clone(),
            source,
        })?;
    let status = context.status();
    status.line(&format!(
        "serving the store in `{0}`; for Nix: --store 'unix://{1}?root={0}'",
        root.display(),
        socket.display()
    ));
    while !is_ended.load(Ordering::Relaxed) {
        std::thread::sleep(POLL);
    }
    status.detail("ending");
    server.stop();
    // It may be gone already; who comes next replaces it. The pid file stays: a lock on a file
    // that has lost its name would exclude nobody.
    let _ = std::fs::remove_file(&socket);
    Ok(exit_code::SUCCESS)
}

/// Listens where nobody does; a socket that was left there is replaced.
fn listen(socket: &Path) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(socket) {
        Ok(metadata) if !std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type()) => {
            return Err(io::Error::other("there is a file that is no socket"));
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(socket).is_ok() => {
            return Err(io::Error::other("somebody else listens there"));
        }
        Ok(_) => std::fs::remove_file(socket)?,
        Err(_) => {}
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Makes this process the daemon, as long as the returned file is open.
fn claim(pid_file: &Path) -> Result<File, DaemonError> {
    let dir = pid_file.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(dir).map_err(io_error("make", dir))?;
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(pid_file)
        .map_err(io_error("open", pid_file))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(DaemonError::Running),
        Err(TryLockError::Error(source)) => return Err(io_error("lock", pid_file)(source)),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(io_error("write", pid_file))?;
    Ok(file)
}

/// The process id of the running daemon.
fn running(pid_file: &Path) -> Result<Option<Pid>, DaemonError> {
    let file = match File::open(pid_file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result.map_err(io_error("open", pid_file))?,
    };
    match file.try_lock_shared() {
        Ok(()) => return Ok(None),
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(source)) => return Err(io_error("lock", pid_file)(source)),
    }
    let mut text = String::new();
    file.take(PID_LEN_MAX)
        .read_to_string(&mut text)
        .map_err(io_error("read", pid_file))?;
    let pid = text
        .trim_end()
        .parse()
        .ok()
        .filter(|pid| *pid > 0)
        .and_then(Pid::from_raw);
    pid.map(Some)
        .ok_or_else(|| DaemonError::PidFile(pid_file.to_owned()))
}

fn stop(context: &Context) -> Result<u8, CommandError> {
    let status = context.status();
    let pid_file = pid_file(context);
    let Some(pid) = running(&pid_file)? else {
        status.line("no daemon is running");
        return Ok(exit_code::SUCCESS);
    };
    let number = pid.as_raw_nonzero().get();
    let stop_error = |errno: rustix::io::Errno| DaemonError::Stop {
        pid: number,
        source: errno.into(),
    };
    let process = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => None,
        result => Some(result.map_err(stop_error)?),
    };
    // The number may be another process's by now; if the lock is still held, it was not when
    // the descriptor was made.
    if let Some(process) = process
        && running(&pid_file)? == Some(pid)
    {
        match rustix::process::pidfd_send_signal(&process, Signal::TERM) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(errno) => return Err(stop_error(errno).into()),
        }
        status.now("waiting for the daemon to end its builds");
        let patience = Timespec {
            tv_sec: STOP_SECONDS_MAX,
            tv_nsec: 0,
        };
        let mut polled = [PollFd::new(&process, PollFlags::IN)];
        let ended = rustix::event::poll(&mut polled, Some(&patience)).map_err(stop_error)?;
        if ended == 0 {
            return Err(DaemonError::NotEnding(number))
                .hint(|| "`kill -9` ends it; the store is made for that");
        }
    }
    status.clear();
    status.line("the daemon has ended");
    Ok(exit_code::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_running_as_long_as_its_lock_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("new/daemon.pid");
        assert_eq!(running(&pid_file).unwrap(), None);
        let claimed = claim(&pid_file).unwrap();
        let ours = Pid::from_raw(std::process::id().try_into().unwrap());
        assert_eq!(running(&pid_file).unwrap(), ours);
        assert!(matches!(claim(&pid_file), Err(DaemonError::Running)));
        drop(claimed);
        assert_eq!(running(&pid_file).unwrap(), None);
        claim(&pid_file).unwrap();
    }

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
