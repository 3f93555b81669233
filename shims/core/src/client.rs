//! The caller's side of a call: whom to ask, and what to do with the answer.
//!
//! Whatever goes wrong here ends in the real compiler, which the caller then becomes. A server
//! that was named but does not answer is worth a warning, and one only for a whole build: whoever
//! starts the build provides a *marker*, an empty file that the first caller with something to
//! warn of makes one byte long. (A hole takes no room, so that works on a full disk.)

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::error::Error;
#[cfg(feature = "std")]
use std::os::unix::ffi::OsStringExt;
#[cfg(feature = "std")]
use std::path::PathBuf;

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::Pid;

use crate::kernel_error::KernelError;
use crate::protocol::{self, Answer, Call, Done, ProtocolError, Window};
use crate::{place, trial};

/// Set (to anything but `0`), it turns callers into the real compiler.
pub const DISABLE_VARIABLE: &str = "DROSTE_DISABLE";

/// Outside of builds, the path of the server's socket.
pub const SOCKET_VARIABLE: &str = "DROSTE_SOCKET";

/// Outside of builds, the marker's path, by which the server also knows the calls of one
/// `droste run`.
pub const SESSION_VARIABLE: &str = "DROSTE_SESSION";

/// Set, callers tell why they run in place.
pub const VERBOSE_VARIABLE: &str = "DROSTE_VERBOSE";

/// A longer path does not fit in a socket's address (unix(7)).
const ADDRESS_BYTES_MAX: usize = 107;

/// Who answers calls.
#[derive(Clone, Debug)]
pub struct Server {
    socket: Vec<u8>,
    /// The marker, if it is not the environment's.
    marker: Option<&'static str>,
}

impl Server {
    /// The server of the build that this process is in.
    pub fn of_build() -> Self {
        Self {
            socket: protocol::SOCKET_PATH.into(),
            marker: Some(protocol::MARKER_PATH),
        }
    }

    /// A server of the host.
    #[cfg(feature = "std")]
    pub fn of_host(socket: PathBuf) -> Self {
        Self::at(socket.into_os_string().into_vec())
    }

    /// A server of the host, listening at this path.
    fn at(socket: Vec<u8>) -> Self {
        let marker = None;
        Self { socket, marker }
    }

    /// Connects to it.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(&self) -> Result<OwnedFd, Errno> {
        let socket = socket()?;
        self.connect_by(&socket)?;
        Ok(socket)
    }

    fn connect_by(&self, socket: &OwnedFd) -> Result<(), Errno> {
        if self.socket.len() <= ADDRESS_BYTES_MAX {
            return rustix::net::connect(socket, &SocketAddrUnix::new(&*self.socket)?);
        }
        let slash = self.socket.iter().rposition(|&byte| byte == b'/');
        let (dir, name) = self.socket.split_at(slash.ok_or(Errno::NAMETOOLONG)? + 1);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(dir, flags, Mode::empty())?;
        let mut short = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
        short.extend_from_slice(name);
        rustix::net::connect(socket, &SocketAddrUnix::new(short)?)
    }
}

fn socket() -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
}

/// An error and its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Marks the marker; true if nobody has before.
fn mark(marker: &[u8]) -> Result<bool, Errno> {
    let file = rustix::fs::open(marker, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
    if rustix::fs::fstat(&file)?.st_size > 0 {
        return Ok(false);
    }
    rustix::fs::ftruncate(&file, 1)?;
    Ok(true)
}

/// A process that makes calls.
#[derive(Clone, Debug)]
pub struct Caller<'c> {
    /// Its environment, each entry `NAME=VALUE`.
    environment: Vec<Vec<u8>>,
    stdout: BorrowedFd<'c>,
    stderr: BorrowedFd<'c>,
}

#[cfg(feature = "std")]
impl Caller<'static> {
    /// This process.
    pub fn this_process() -> Self {
        let entries = std::env::vars_os().map(|(name, value)| {
            let mut entry = name;
            entry.push("=");
            entry.push(value);
            entry.into_vec()
        });
        Self::new(entries, rustix::stdio::stdout(), rustix::stdio::stderr())
    }
}

impl<'c> Caller<'c> {
    /// A process with this environment, of which entries without a name are left out.
    pub fn new(
        environment: impl Iterator<Item = Vec<u8>>,
        stdout: BorrowedFd<'c>,
        stderr: BorrowedFd<'c>,
    ) -> Self {
        Self {
            environment: environment
                .filter(|entry| entry.iter().skip(1).any(|&byte| byte == b'='))
                .collect(),
            stdout,
            stderr,
        }
    }

    fn variable(&self, name: &str) -> Option<&[u8]> {
        self.environment.iter().find_map(|entry| {
            let value = entry.strip_prefix(name.as_bytes())?;
            value.strip_prefix(b"=")
        })
    }

    /// Whether no server is to be asked.
    pub fn is_disabled(&self) -> bool {
        self.variable(DISABLE_VARIABLE)
            .is_some_and(|value| !value.is_empty() && value != b"0")
    }

    /// The server that the environment names.
    pub fn named_server(&self) -> Option<Server> {
        let socket = self.variable(SOCKET_VARIABLE)?;
        (!socket.is_empty()).then(|| Server::at(socket.to_owned()))
    }

    /// Connects to whoever answers this process's calls; `None` if nobody does, which has then
    /// been told if it is worth telling.
    pub fn connect(&self) -> Option<(Server, OwnedFd)> {
        let build = Server::of_build();
        let warn = |server: &Server, error| self.warn(server, &KernelError(error));
        let socket = socket().map_err(|error| warn(&build, error)).ok()?;
        match build.connect_by(&socket) {
            Ok(()) => return Some((build, socket)),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(error) => {
                warn(&build, error);
                return None;
            }
        }
        let server = self.named_server()?;
        match server.connect_by(&socket) {
            Ok(()) => Some((server, socket)),
            Err(error) => {
                warn(&server, error);
                None
            }
        }
    }

    /// Tells, once for a whole build, that calls run in place, and why.
    pub fn warn(&self, server: &Server, why: &dyn Error) {
        let marker = match server.marker {
            Some(marker) => Some(marker.as_bytes()),
            None => self.variable(SESSION_VARIABLE),
        };
        if marker.is_none_or(|marker| mark(marker).unwrap_or(true)) {
            let socket = String::from_utf8_lossy(&server.socket);
            let why = chain(why);
            self.tell(&format!(
                "warning: compiler calls run in place: `{socket}`: {why}"
            ));
        }
    }

    /// Writes a line of Droste's own to standard error.
    fn tell(&self, text: &str) {
        // In one piece, since other processes write there as well.
        let _ = place::write_all(self.stderr, format!("droste: {text}\n").as_bytes());
    }

    /// This process as a call of the program `exe` (free of symlinks), executed by `exec_path`.
    ///
    /// # Errors
    /// When there is no current directory.
    pub fn call(
        &self,
        argv: Vec<Vec<u8>>,
        exe: Vec<u8>,
        exec_path: Vec<u8>,
    ) -> Result<Call, Errno> {
        let cwd = rustix::process::getcwd(Vec::new())?.into_bytes();
        // In a directory outside of the root, it begins with `(unreachable)` (getcwd(2)).
        if !cwd.starts_with(b"/") {
            return Err(Errno::NOENT);
        }
        Ok(Call {
            argv,
            env: self.environment.clone(),
            cwd,
            exe,
            exec_path,
            stdout_tty: window(self.stdout),
            stderr_tty: window(self.stderr),
            is_one_stream: is_one_file(self.stdout, self.stderr),
            memo: None,
        })
    }

    /// Has a server do the call, and writes what comes of it: the exit status to end with. `None`
    /// if the call is to run in place.
    ///
    /// Where only the real compiler can tell, `start` makes a process that calls what it is given
    /// and then becomes it.
    pub fn take_over(
        &self,
        server: &Server,
        socket: &OwnedFd,
        call: &Call,
        start: impl FnOnce(&dyn Fn() -> Result<(), Errno>) -> Result<Pid, Errno>,
    ) -> Option<u8> {
        let answer = ask(socket, call).inspect_err(|error| self.warn(server, error));
        let done = match answer.ok()? {
            Answer::Done(done) => done,
            Answer::InPlace { reason } => {
                self.tell_in_place(&reason);
                return None;
            }
            Answer::Trial => return self.try_in_place(socket, call, start),
        };
        let reason = match place::place(&done.files) {
            Ok(()) => match self.finish(&done) {
                Some(status) => return Some(status),
                None => "standard output cannot be written".to_owned(),
            },
            Err(error) => chain(&error),
        };
        self.tell_in_place(reason.as_bytes());
        None
    }

    /// Tells whoever wants to know that, and why, a call runs in place.
    fn tell_in_place(&self, reason: &[u8]) {
        if self.variable(VERBOSE_VARIABLE).is_some() {
            self.tell(&format!("in place: {}", String::from_utf8_lossy(reason)));
        }
    }

    /// Makes the call in place, and tells the server what came of it before anybody else. The
    /// exit status to end with; `None` if it was not made, or nobody can tell how it ended.
    ///
    /// `start` is as in [`Self::take_over`].
    pub fn try_in_place(
        &self,
        socket: &OwnedFd,
        call: &Call,
        start: impl FnOnce(&dyn Fn() -> Result<(), Errno>) -> Result<Pid, Errno>,
    ) -> Option<u8> {
        let outcome = trial::run(call, start).ok()?;
        if let Some(tried) = outcome.to_tell()
            && protocol::send_tried(socket, &tried).is_ok()
            && let Ok(reason) = protocol::receive_report(socket)
            && !reason.is_empty()
        {
            self.tell_in_place(&reason);
        }
        let (_, out) = place::print(outcome.stdout.as_fd(), self.stdout);
        if let Some(stderr) = &outcome.stderr {
            let _ = place::print(stderr.as_fd(), self.stderr);
        }
        match (outcome.status(), out) {
            (0, Err(_)) => Some(1),
            (status, _) => Some(status),
        }
    }

    /// Prints what a call has printed: the exit status to end with; `None` if nothing can be
    /// printed, of which a compiler has words of its own.
    pub fn finish(&self, done: &Done) -> Option<u8> {
        let (printed, out) = place::print(done.stdout.as_fd(), self.stdout);
        if out.is_err() && printed == 0 {
            return None;
        }
        // A compiler does not care whether its messages arrive.
        let _ = place::print(done.stderr.as_fd(), self.stderr);
        match (done.status, out) {
            (0, Err(_)) => Some(1),
            (status, _) => Some(status),
        }
    }
}

/// The size of the terminal, if it is one.
fn window(descriptor: BorrowedFd<'_>) -> Option<Window> {
    let size = rustix::termios::tcgetwinsize(descriptor).ok()?;
    Some(Window {
        rows: size.ws_row,
        columns: size.ws_col,
    })
}

fn is_one_file(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    let file = |descriptor| {
        let stat = rustix::fs::fstat(descriptor).ok()?;
        Some((stat.st_dev, stat.st_ino))
    };
    file(one).is_some_and(|found| file(other) == Some(found))
}

fn ask(socket: &OwnedFd, call: &Call) -> Result<Answer, ProtocolError> {
    protocol::send_call(socket, call)?;
    protocol::receive_answer(socket)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    fn caller(entries: &[&str]) -> Caller<'static> {
        let entries = entries.iter().map(|entry| entry.as_bytes().to_vec());
        Caller::new(entries, rustix::stdio::stdout(), rustix::stdio::stderr())
    }

    #[test]
    fn a_caller_knows_its_variables() {
        let one = caller(&["odd", "=odd", "DROSTE_DISABLE=0", "DROSTE_SOCKET=/a=b"]);
        assert!(!one.is_disabled());
        assert_eq!(one.named_server().unwrap().socket, b"/a=b");
        assert_eq!(one.environment.len(), 2);
        let other = caller(&["DROSTE_DISABLE=1", "DROSTE_SOCKET="]);
        assert!(other.is_disabled());
        assert!(other.named_server().is_none());
    }

    #[test]
    fn of_all_who_mark_a_marker_one_is_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marker");
        let marker = path.as_os_str().as_bytes();
        assert_eq!(mark(marker), Err(Errno::NOENT));
        std::fs::write(&path, "").unwrap();
        let firsts = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| mark(marker).unwrap()))
                .collect();
            all.into_iter()
                .filter_map(|thread| thread.join().unwrap().then_some(()))
                .count()
        });
        assert_eq!(firsts, 1);
        assert_eq!(mark(marker), Ok(false));
    }

    #[test]
    fn a_socket_whose_path_is_too_long_for_an_address_is_reached() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let long = deep.join("s");
        let server = Server::of_host(long.clone());
        assert_eq!(server.connect().unwrap_err(), Errno::NOENT);
        let short = dir.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&short).unwrap();
        std::fs::rename(&short, &long).unwrap();
        server.connect().unwrap();
        drop(listener);
        assert_eq!(server.connect().unwrap_err(), Errno::CONNREFUSED);
    }
}
