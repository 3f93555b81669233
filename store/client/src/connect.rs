//! How connections are made.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

/// How long a server that was started for a connection may take to end after it.
const CHILD_WAIT: Duration = Duration::from_secs(5);

/// How often it is looked whether it has.
const CHILD_POLL: Duration = Duration::from_millis(2);

/// A pair of streams to a server. They are made non-blocking, and so is whatever
/// else shares their descriptions.
pub struct Streams {
    pub(crate) input: OwnedFd,
    pub(crate) output: OwnedFd,
    pub(crate) server: Option<StartedServer>,
}

impl Streams {
    /// Streams that the caller has opened: what the server sends, and what it reads.
    pub fn new(input: impl Into<OwnedFd>, output: impl Into<OwnedFd>) -> Self {
        Self {
            input: input.into(),
            output: output.into(),
            server: None,
        }
    }

    /// Both directions of a connected socket.
    pub fn socket(stream: UnixStream) -> io::Result<Self> {
        Ok(Self::new(stream.try_clone()?, stream))
    }

    /// Starts a program that serves its standard input and output, like
    /// `nix-daemon --stdio`. With the connection its streams are closed; should it
    /// not have ended five seconds later, it is killed.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(input), Some(output)) = (child.stdout.take(), child.stdin.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        Ok(Self {
            input: input.into(),
            output: output.into(),
            server: Some(StartedServer(child)),
        })
    }
}

/// A server process that ends with its connection.
pub(crate) struct StartedServer(Child);

impl Drop for StartedServer {
    fn drop(&mut self) {
        let deadline = Instant::now() + CHILD_WAIT;
        while let Ok(None) = self.0.try_wait() {
            if Instant::now() >= deadline {
                // It may have ended just now.
                let _ = self.0.kill();
                let _ = self.0.wait();
                return;
            }
            thread::sleep(CHILD_POLL);
        }
    }
}

/// Makes connections to one server. Any `Fn() -> io::Result<Streams>` does.
pub trait Connect: Send + Sync {
    /// Makes one.
    fn connect(&self) -> io::Result<Streams>;
}

impl<F: Fn() -> io::Result<Streams> + Send + Sync> Connect for F {
    fn connect(&self) -> io::Result<Streams> {
        self()
    }
}

/// Connects to a daemon's socket.
#[derive(Clone, Debug)]
pub struct UnixSocket(PathBuf);

impl UnixSocket {
    /// The socket at this path, which may be longer than an address can be.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }
}

impl Connect for UnixSocket {
    fn connect(&self) -> io::Result<Streams> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let socket = rustix::fs::open(&self.0, flags, Mode::empty())?;
        let short = format!("/proc/self/fd/{}", socket.as_raw_fd());
        Streams::socket(UnixStream::connect(Path::new(&short))?)
    }
}
