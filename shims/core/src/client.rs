//! The caller's side of a call: whom to ask, and what to do with the answer.
//!
//! Whatever goes wrong here ends in the real compiler, which the caller then becomes. A server
//! that was named but does not answer is worth a warning, and one only for a whole build: whoever
//! starts the build provides a *marker*, an empty file that the first caller with something to
//! warn of makes one byte long. (A hole takes no room, so that works on a full disk.)

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::place;
use crate::protocol::{self, Answer, Call, Done, ProtocolError, Window};

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

/// Whether no server is to be asked.
pub fn is_disabled() -> bool {
    std::env::var_os(DISABLE_VARIABLE).is_some_and(|value| !value.is_empty() && value != "0")
}

/// Who answers calls.
#[derive(Clone, Debug)]
pub struct Server {
    socket: PathBuf,
    marker: Option<PathBuf>,
}

impl Server {
    /// The server of the build that this process is in.
    pub fn of_build() -> Self {
        Self {
            socket: protocol::SOCKET_PATH.into(),
            marker: Some(protocol::MARKER_PATH.into()),
        }
    }

    /// A server of the host.
    pub fn of_host(socket: PathBuf) -> Self {
        Self {
            socket,
            marker: std::env::var_os(SESSION_VARIABLE).map(PathBuf::from),
        }
    }

    /// The server that the environment names.
    pub fn named() -> Option<Self> {
        let socket = std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty())?;
        Some(Self::of_host(socket.into()))
    }

    /// Connects to it.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(&self) -> Result<OwnedFd, Errno> {
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        if self.socket.as_os_str().len() <= ADDRESS_BYTES_MAX {
            rustix::net::connect(&socket, &SocketAddrUnix::new(&self.socket)?)?;
            return Ok(socket);
        }
        let (Some(dir), Some(name)) = (self.socket.parent(), self.socket.file_name()) else {
            return Err(Errno::NAMETOOLONG);
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(dir, flags, Mode::empty())?;
        let short = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name);
        rustix::net::connect(&socket, &SocketAddrUnix::new(&short)?)?;
        Ok(socket)
    }

    /// Tells, once for a whole build, that calls run in place, and why.
    pub fn warn(&self, why: &dyn std::error::Error) {
        let is_first = self
            .marker
            .as_ref()
            .is_none_or(|marker| mark(marker).unwrap_or(true));
        if is_first {
            eprintln!(
                "droste: warning: compiler calls run in place: `{}`: {}",
                self.socket.display(),
                chain(why)
            );
        }
    }
}

/// An error and its causes.
fn chain(error: &dyn std::error::Error) -> String {
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
fn mark(marker: &Path) -> Result<bool, Errno> {
    let file = rustix::fs::open(marker, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
    if rustix::fs::fstat(&file)?.st_size > 0 {
        return Ok(false);
    }
    rustix::fs::ftruncate(&file, 1)?;
    Ok(true)
}

/// Connects to whoever answers this process's calls; `None` if nobody does, which has then been
/// told if it is worth telling.
pub fn connect() -> Option<(Server, OwnedFd)> {
    let build = Server::of_build();
    let server = match build.connect() {
        Ok(socket) => return Some((build, socket)),
        Err(Errno::NOENT | Errno::NOTDIR) => Server::named()?,
        Err(error) => {
            build.warn(&error);
            return None;
        }
    };
    match server.connect() {
        Ok(socket) => Some((server, socket)),
        Err(error) => {
            server.warn(&error);
            None
        }
    }
}

/// This process as a call of the program `exe` (free of symlinks), executed by `exec_path`.
///
/// # Errors
/// When there is no current directory.
pub fn call(argv: Vec<Vec<u8>>, exe: PathBuf, exec_path: Vec<u8>) -> std::io::Result<Call> {
    let entry = |(name, value): (OsString, OsString)| {
        let mut entry = name.into_vec();
        entry.push(b'=');
        entry.extend_from_slice(value.as_bytes());
        entry
    };
    Ok(Call {
        argv,
        env: std::env::vars_os().map(entry).collect(),
        cwd: std::env::current_dir()?.into_os_string().into_vec(),
        exe: exe.into_os_string().into_vec(),
        exec_path,
        stdout_tty: window(rustix::stdio::stdout()),
        stderr_tty: window(rustix::stdio::stderr()),
        memo: None,
    })
}

/// The size of the terminal, if it is one.
fn window(descriptor: BorrowedFd<'_>) -> Option<Window> {
    if !rustix::termios::isatty(descriptor) {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(descriptor).ok()?;
    Some(Window {
        rows: size.ws_row,
        columns: size.ws_col,
    })
}

/// Has a server do the call, and writes what comes of it: the exit status to end with. `None` if
/// the call is to run in place.
pub fn take_over(server: &Server, socket: &OwnedFd, call: &Call) -> Option<u8> {
    let answer = ask(socket, call).inspect_err(|error| server.warn(error));
    let reason = match answer {
        Ok(Answer::Done(done)) => match place::place(&done.files) {
            Ok(()) => match finish(&done) {
                Some(status) => return Some(status),
                None => "standard output cannot be written".to_owned(),
            },
            Err(error) => chain(&error),
        },
        Ok(Answer::InPlace { reason }) => String::from_utf8_lossy(&reason).into_owned(),
        Err(_) => return None,
    };
    if std::env::var_os(VERBOSE_VARIABLE).is_some() {
        eprintln!("droste: in place: {reason}");
    }
    None
}

fn ask(socket: &OwnedFd, call: &Call) -> Result<Answer, ProtocolError> {
    protocol::send_call(socket, call)?;
    protocol::receive_answer(socket)
}

/// The exit status to end with; `None` if nothing can be printed, of which a compiler has words of
/// its own.
fn finish(done: &Done) -> Option<u8> {
    let (printed, out) = place::copy_some(done.stdout.as_fd(), rustix::stdio::stdout());
    if out.is_err() && printed == 0 {
        return None;
    }
    // A compiler does not care whether its messages arrive.
    let _ = place::copy(done.stderr.as_fd(), rustix::stdio::stderr());
    match (done.status, out) {
        (0, Err(_)) => Some(1),
        (status, _) => Some(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_all_who_mark_a_marker_one_is_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let marker = dir.path().join("marker");
        assert_eq!(mark(&marker), Err(Errno::NOENT));
        std::fs::write(&marker, "").unwrap();
        let firsts = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| mark(&marker).unwrap()))
                .collect();
            all.into_iter()
                .filter_map(|thread| thread.join().unwrap().then_some(()))
                .count()
        });
        assert_eq!(firsts, 1);
        assert_eq!(mark(&marker), Ok(false));
    }

    #[test]
    fn a_socket_whose_path_is_too_long_for_an_address_is_reached() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let server = Server {
            socket: deep.join("s"),
            marker: None,
        };
        assert_eq!(server.connect().unwrap_err(), Errno::NOENT);
        let short = dir.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&short).unwrap();
        std::fs::rename(&short, &server.socket).unwrap();
        server.connect().unwrap();
        drop(listener);
        assert_eq!(server.connect().unwrap_err(), Errno::CONNREFUSED);
    }
}
