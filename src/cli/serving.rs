//! The daemon behind `droste run` and `droste cc`: started when it is missing, replaced when it
//! runs another build of this program, and asked about itself.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use shim_core::client::Server;
use shim_core::protocol::{self, ProtocolError};
use store_client::{Connect, RemoteOptions, RemoteStore, Streams, UnixSocket};
use store_types::StoreDir;

use super::Context;
use super::instance::{self, InstanceError, io_error};

/// Without a word from anybody, a daemon ends after this time without work.
const IDLE_SECONDS: u64 = 600;

/// The variable that says otherwise.
const IDLE_VARIABLE: &str = "DROSTE_IDLE_SECONDS";

/// What a daemon keeps of the environment of whoever starts it: of the last ones, where the
/// machine's own store and its settings are.
const KEPT_VARIABLES: [&str; 12] = [
    "HOME",
    "PATH",
    "TMPDIR",
    "NIX_CONF_DIR",
    "NIX_CONFIG",
    "NIX_DAEMON_SOCKET_PATH",
    "NIX_LOG_DIR",
    "NIX_STATE_DIR",
    "NIX_STORE_DIR",
    "NIX_USER_CONF_FILES",
    "XDG_CONFIG_DIRS",
    "XDG_CONFIG_HOME",
];

/// How long a daemon may take to start, or to make room for the next.
const START_MAX: Duration = Duration::from_secs(30);

/// How often to look whether it has started.
const POLL: Duration = Duration::from_millis(5);

/// A log that is longer is begun anew with the next daemon.
const LOG_LEN_MAX: u64 = 1 << 20;

/// How much of the log an error repeats.
const LOG_TOLD_MAX: u64 = 2000;

/// No daemon answers.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    /// The pid file, the log, or an old daemon is in the way.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// The program cannot be started again.
    #[error("cannot start the daemon")]
    Start(#[source] io::Error),
    /// It did start, and ended at once.
    #[error("the daemon does not start: {0}")]
    Ended(String),
    /// It runs, but does not listen.
    #[error("the daemon has not answered in {} s", START_MAX.as_secs())]
    Silent,
    /// It serves something else.
    #[error("the daemon that is running serves the store in `{}`", .0.display())]
    OtherStore(PathBuf),
    /// It says something strange, or nothing.
    #[error("the daemon does not answer")]
    Protocol(#[from] ProtocolError),
}

impl ServingError {
    /// What now.
    pub fn hint(&self, context: &Context) -> String {
        match self {
            Self::OtherStore(store) => format!(
                "name that store (`--store {}`), stop the daemon (`droste daemon stop`), or have \
                 another one for this store, with another $DROSTE_DIR",
                store.display()
            ),
            Self::Instance(_) | Self::Start(_) => format!(
                "`{}` is the daemon's directory; $DROSTE_DIR names another",
                context.droste_dir.display()
            ),
            Self::Ended(_) | Self::Silent | Self::Protocol(_) => {
                format!("what it said is in `{}`", context.daemon_log().display())
            }
        }
    }
}

/// A connection to a daemon of this program and store, which is started if need be.
///
/// # Errors
/// If there is none to be had.
pub fn connect(context: &Context) -> Result<OwnedFd, ServingError> {
    connect_to(context, context.calls_socket())
}

/// The same, to one of its sockets.
///
/// # Errors
/// If there is none to be had.
pub fn connect_to(context: &Context, socket: PathBuf) -> Result<OwnedFd, ServingError> {
    let server = Server::of_host(socket);
    let pid_file = context.pid_file();
    let program =
        instance::this_program().map_err(io_error("read", Path::new("/proc/self/exe")))?;
    let deadline = Instant::now() + START_MAX;
    let mut started: Option<Started> = None;
    loop {
        match instance::running(&pid_file) {
            Ok(Some(found)) if !found.serves(&context.store) => {
                return Err(ServingError::OtherStore(found.store.into()));
            }
            Ok(Some(found)) if found.program != program => {
                instance::stop(&pid_file, || {})?;
                continue;
            }
            Ok(Some(_)) => {
                if let Ok(socket) = server.connect() {
                    return Ok(socket);
                }
            }
            Ok(None) => match &mut started {
                None => started = Some(start(context)?),
                Some(one) => {
                    if one.has_ended() {
                        if !one.is_lost() {
                            return Err(ServingError::Ended(one.last_words()));
                        }
                        // Whoever else was starting one has won, and has ended as well.
                        started = None;
                    }
                }
            },
            // It is just writing it.
            Err(InstanceError::PidFile(_)) => {}
            Err(error) => return Err(error.into()),
        }
        if Instant::now() >= deadline {
            return Err(ServingError::Silent);
        }
        std::thread::sleep(POLL);
    }
}

/// The store of a daemon, by this connection first and, if that breaks, by others.
pub fn store_behind(daemon: UnixStream, socket: PathBuf, store_dir: StoreDir) -> RemoteStore {
    let first = Mutex::new(Some(daemon));
    let socket = UnixSocket::new(socket);
    let connect = move || {
        let first = first.lock().unwrap_or_else(PoisonError::into_inner).take();
        match first {
            Some(daemon) => Streams::socket(daemon),
            None => socket.connect(),
        }
    };
    let options = RemoteOptions {
        // What it holds for the client, it holds for the connection.
        connections_max: 1,
        store_dir,
        // Warnings about settings.
        messages: Some(Arc::new(|text: &[u8]| {
            let _ = io::stderr().write_all(&[text, b"\n"].concat());
        })),
        ..RemoteOptions::default()
    };
    RemoteStore::new(connect, options)
}

/// A connection to the daemon that is running, whatever it is; `None` if there is none.
pub fn connect_running(context: &Context) -> Option<OwnedFd> {
    Server::of_host(context.calls_socket()).connect().ok()
}

/// Asks the daemon, and returns what it says.
///
/// # Errors
/// If it does not answer.
pub fn control(socket: &OwnedFd, request: &[u8]) -> Result<Vec<u8>, ProtocolError> {
    protocol::send_control(socket, request)?;
    protocol::receive_report(socket)
}

/// A daemon that was started here.
struct Started {
    process: Child,
    log: File,
    /// Where its part of the log begins.
    begin: u64,
}

fn start(context: &Context) -> Result<Started, ServingError> {
    let dir = &context.droste_dir;
    std::fs::create_dir_all(dir).map_err(io_error("make", dir))?;
    let path = context.daemon_log();
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .open(&path)
        .map_err(io_error("open", &path))?;
    let mut begin = log.metadata().map_err(io_error("read", &path))?.len();
    if begin > LOG_LEN_MAX && log.set_len(0).is_ok() {
        begin = 0;
    }
    let stderr = log.try_clone().map_err(io_error("open", &path))?;
    let idle = std::env::var(IDLE_VARIABLE)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(IDLE_SECONDS)
        // With none, it would end before it is reached.
        .max(1);
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("daemon")
        .arg("--detach")
        .arg("--store")
        .arg(context.store.to_argument())
        .arg("--idle-seconds")
        .arg(idle.to_string())
        .env_clear()
        .env("DROSTE_DIR", dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr);
    for name in KEPT_VARIABLES {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    let process = command.spawn().map_err(ServingError::Start)?;
    Ok(Started {
        process,
        log,
        begin,
    })
}

impl Started {
    fn has_ended(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }

    /// Whether it ended because another one was there first.
    fn is_lost(&mut self) -> bool {
        self.last_words()
            .contains(&InstanceError::Running.to_string())
    }

    /// What it wrote, without what an error says anyway.
    fn last_words(&mut self) -> String {
        let mut text = Vec::new();
        let read = self
            .log
            .seek(SeekFrom::Start(self.begin))
            .and_then(|_| (&self.log).take(LOG_TOLD_MAX).read_to_end(&mut text));
        let text = String::from_utf8_lossy(&text);
        let text = text.trim().trim_start_matches("error: ");
        match read {
            Ok(_) if !text.is_empty() => {
                let lines: Vec<&str> = text.lines().map(str::trim).collect();
                lines.join("; ")
            }
            _ => "it said nothing".to_owned(),
        }
    }
}
