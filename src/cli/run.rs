//! `droste run`: a command of this machine whose compiler calls are children.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use clap::Args;
use droste_executor::ChildCounts;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, Signal};
use shim_core::client;

use super::error::{CommandError, Hint};
use super::report::children_text;
use super::serving::{self, ServingError};
use super::{Context, masquerade};

/// Reasons to run in place that are the store's failures.
const STORE_FAILURES: &[&str] = &[
    "child-damaged",
    "child-lost",
    "child-not-run",
    "compiler-damaged",
    "compiler-not-imported",
    "copy-failed",
    "index-failed",
    "input-damaged",
    "runner-missing",
];

/// Where commands are looked for without a `PATH` (execvp(3)).
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Signals that are passed on to the command.
const PASSED_ON: [(i32, Signal); 4] = [
    (signal_hook::consts::SIGHUP, Signal::HUP),
    (signal_hook::consts::SIGTERM, Signal::TERM),
    (signal_hook::consts::SIGUSR1, Signal::USR1),
    (signal_hook::consts::SIGUSR2, Signal::USR2),
];

/// Signals that a terminal sends to the command, too.
const OF_TERMINALS: [(i32, Signal); 2] = [
    (signal_hook::consts::SIGINT, Signal::INT),
    (signal_hook::consts::SIGQUIT, Signal::QUIT),
];

/// Run a command of this machine, such as `make -j8`, and memoize its compiler calls
///
/// The command finds shims in PATH before its compilers. What they leave, and what they
/// print, is what the compilers would. A daemon does the work; it is started if it is not
/// there, and ends when it is idle (after 10 minutes, or $DROSTE_IDLE_SECONDS).
/// DROSTE_DISABLE=1 runs the command without all this.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The command and its arguments
    #[arg(
        value_name = "COMMAND",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    command: Vec<OsString>,
}

/// A command that cannot be run.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("cannot run `{}`", command.display())]
    Start {
        command: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot wait for the command")]
    Wait(#[source] io::Error),
}

pub fn run(context: &Context, args: &RunArgs) -> Result<u8, CommandError> {
    if client::Caller::this_process().is_disabled() {
        return plain(&args.command);
    }
    let session = match Session::begin(context) {
        Err(SessionError::Serving(error @ ServingError::OtherStore(_))) => {
            return Err(error)
                .hint(|| "`droste daemon stop` ends it; another `DROSTE_DIR` has another daemon");
        }
        Err(error) => {
            let text = super::error::chain(&error);
            context
                .status()
                .always(format!("droste: warning: compiler calls run in place: {text}").as_bytes());
            return plain(&args.command);
        }
        Ok(session) => session,
    };
    let mut command = Command::new(&args.command[0]);
    command
        .args(&args.command[1..])
        .env("PATH", &session.path)
        .env(client::SOCKET_VARIABLE, context.calls_socket())
        .env(client::SESSION_VARIABLE, &session.key);
    let status = run_to_its_end(&mut command, &args.command[0])?;
    session.end(context);
    Ok(pass_on(status))
}

/// Becomes the command, as if Droste were not there.
fn plain(command: &[OsString]) -> Result<u8, CommandError> {
    let program = masquerade::find_program(&command[0], |_| true)
        .unwrap_or_else(|| PathBuf::from(&command[0]));
    let Err(source) = masquerade::execute(&program, command);
    Ok(cannot_start(&command[0], source))
}

/// Tells that a command does not start, and returns what a shell would.
fn cannot_start(command: &OsStr, source: io::Error) -> u8 {
    let code = match source.kind() {
        io::ErrorKind::NotFound => 127,
        _ => 126,
    };
    let command = command.into();
    CommandError::from(RunError::Start { command, source }).print();
    code
}

/// What a command has of the daemon.
struct Session {
    socket: OwnedFd,
    /// The marker of the one warning (see `shim_core::client`): a file without a name, so that
    /// it needs no place and leaves no trace.
    _marker: OwnedFd,
    key: String,
    path: OsString,
}

/// A command that cannot have its calls answered.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Serving(#[from] ServingError),
    #[error("cannot lay the shims out in `{}`", dir.display())]
    Shims {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot make a file in memory")]
    Marker(#[source] rustix::io::Errno),
}

impl Session {
    fn begin(context: &Context) -> Result<Self, SessionError> {
        let marker = rustix::fs::memfd_create("droste-warned", MemfdFlags::CLOEXEC)
            .map_err(SessionError::Marker)?;
        let key = format!("/proc/{}/fd/{}", std::process::id(), marker.as_raw_fd());
        let socket = serving::connect(context)?;
        serving::control(&socket, format!("session {key}").as_bytes())
            .map_err(ServingError::from)?;
        let search = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
        let bin = masquerade::lay_shims(&context.bin_dir(), &search).map_err(|source| {
            SessionError::Shims {
                dir: context.bin_dir(),
                source,
            }
        })?;
        let mut path = bin.into_os_string();
        if !search.is_empty() {
            path.push(":");
            path.push(search);
        }
        Ok(Self {
            socket,
            _marker: marker,
            key,
            path,
        })
    }

    fn end(self, context: &Context) {
        let status = context.status();
        // If the daemon has gone, the shims have warned of it.
        let Ok(report) = serving::control(&self.socket, b"end") else {
            return;
        };
        let report = String::from_utf8_lossy(&report);
        let rows = report.lines().filter_map(|line| {
            let (name, count) = line.split_once('\t')?;
            Some((name.to_owned(), count.parse().ok()?))
        });
        let counts = ChildCounts::from_rows(rows);
        let failures: u64 = STORE_FAILURES
            .iter()
            .filter_map(|reason| counts.in_place_reasons.get(*reason))
            .sum();
        if failures > 0 {
            let text = format!(
                "droste: warning: {failures} compiler calls ran in place because of failures: see `{}`",
                context.daemon_log().display()
            );
            status.always(text.as_bytes());
        }
        let text = children_text(&counts);
        if !text.is_empty() {
            status.line(&format!("droste: {text}"));
        }
        for (reason, count) in &counts.in_place_reasons {
            status.detail(&format!("  in place: {count} × {reason}"));
        }
        for (path, count) in &counts.undeclared_inputs {
            status.detail(&format!("  undeclared input: {count} × {path}"));
        }
    }
}

/// Runs a command, and passes signals on to it as long as it runs.
fn run_to_its_end(command: &mut Command, name: &OsStr) -> Result<ExitStatus, CommandError> {
    let (mut received, sent) = UnixStream::pair().map_err(RunError::Wait)?;
    let mut all = PASSED_ON.to_vec();
    all.extend(OF_TERMINALS);
    let mut streams = Vec::new();
    for (number, signal) in all {
        let (ours, theirs) = UnixStream::pair().map_err(RunError::Wait)?;
        signal_hook::low_level::pipe::register(number, theirs).map_err(RunError::Wait)?;
        streams.push((ours, signal));
    }
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(source) => return Err(CommandError::told(cannot_start(name, source))),
    };
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let process = pid
        .ok_or(rustix::io::Errno::SRCH)
        .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()))
        .map_err(|errno| RunError::Wait(errno.into()))?;
    let is_ours_alone = !is_in_foreground();
    let passing = std::thread::spawn(move || {
        loop {
            let mut fds: Vec<PollFd<'_>> = streams
                .iter()
                .map(|(stream, _)| PollFd::new(stream, PollFlags::IN))
                .collect();
            fds.push(PollFd::new(&received, PollFlags::IN));
            if !matches!(
                rustix::event::poll(&mut fds, None),
                Ok(_) | Err(rustix::io::Errno::INTR)
            ) {
                return;
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            for (index, (stream, signal)) in streams.iter_mut().enumerate() {
                if !ready[index] {
                    continue;
                }
                let _ = stream.read(&mut [0; 64]);
                let is_of_terminal = OF_TERMINALS.iter().any(|(_, known)| known == signal);
                if !is_of_terminal || is_ours_alone {
                    // It may have ended just now.
                    let _ = rustix::process::pidfd_send_signal(&process, *signal);
                }
            }
            if ready[streams.len()] {
                let _ = received.read(&mut [0]);
                return;
            }
        }
    });
    let status = child.wait().map_err(RunError::Wait)?;
    drop(sent);
    let _ = passing.join();
    Ok(status)
}

/// Whether a terminal sends its signals to us, and then to the command as well.
fn is_in_foreground() -> bool {
    let Ok(terminal) = std::fs::File::open("/dev/tty") else {
        return false;
    };
    rustix::termios::tcgetpgrp(&terminal).is_ok_and(|group| group == rustix::process::getpgrp())
}

/// The command's exit status as ours; if it was killed by a signal, so are we.
fn pass_on(status: ExitStatus) -> u8 {
    if let Some(code) = status.code() {
        // A process's exit status has eight bits.
        return u8::try_from(code & 0xff).unwrap_or(u8::MAX);
    }
    let signal = status.signal().unwrap_or(signal_hook::consts::SIGKILL);
    let _ = signal_hook::low_level::emulate_default_handler(signal);
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}
