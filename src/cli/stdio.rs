//! `droste daemon --stdio`: one client, on standard input and output.
//!
//! This is what `ssh-ng://` starts on the other side (`nix-daemon --stdio`). If a daemon
//! serves the same store, the client is handed on to it, so that all clients share its
//! memory and its limits; else it is served here, and the process ends with it.
//!
//! Source: nix `src/nix/unix/daemon.cc`.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use droste_daemon::{ConnectionError, ConnectionOptions, serve_streams};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use store_api::Store;

/// How often it is looked whether the process is to end.
const POLL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// How much is handed on at once.
const BUFFER_LEN: usize = 64 << 10;

/// A client on standard input and output that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum StdioError {
    /// The descriptors are not there.
    #[error("cannot use standard input and output")]
    Descriptors(#[source] io::Error),
    /// The client broke the protocol, or is gone.
    #[error("the connection on standard input and output has failed")]
    Connection(#[source] ConnectionError),
    /// One side of a connection that is handed on has failed.
    #[error("cannot hand the connection on to the daemon at `{socket}`")]
    HandOn {
        /// The daemon's socket.
        socket: String,
        /// The failure.
        #[source]
        source: io::Error,
    },
}

/// The client's two streams.
pub struct Streams {
    input: OwnedFd,
    output: OwnedFd,
}

impl Streams {
    /// Takes standard input and output away from everything else in this process, and from
    /// those that it starts: a line that is printed by mistake must not come between two
    /// messages, and a process that outlives this one must not keep the client waiting.
    ///
    /// # Errors
    /// If they are closed.
    pub fn take() -> Result<Self, StdioError> {
        let take = || -> rustix::io::Result<Self> {
            let input = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
            let output = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
            let null =
                rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
            rustix::stdio::dup2_stdin(&null)?;
            rustix::stdio::dup2_stdout(&null)?;
            Ok(Self { input, output })
        };
        take().map_err(|errno| StdioError::Descriptors(errno.into()))
    }

    /// Answers the client until it leaves or `is_ended` is set.
    ///
    /// # Errors
    /// If the client does not leave in order.
    pub fn serve(
        self,
        store: &dyn Store,
        options: &ConnectionOptions,
        is_ended: &AtomicBool,
    ) -> Result<(), StdioError> {
        let input = Waiting {
            input: self.input.as_fd(),
            is_ended,
        };
        // Who has closed what we read may still wait for the answer; who has closed what we
        // write does not.
        let is_gone = || is_ended.load(Ordering::Relaxed) || is_closed(self.output.as_fd());
        let served = serve_streams(
            input,
            Output(&self.output),
            &is_gone,
            &mut || {},
            store,
            options,
        );
        match served {
            // It was told to end, and did.
            Err(_) if is_ended.load(Ordering::Relaxed) => Ok(()),
            served => served.map_err(StdioError::Connection),
        }
    }

    /// Hands the client on to a daemon until one of them ends the connection, or `is_ended`
    /// is set.
    ///
    /// # Errors
    /// If a stream fails.
    pub fn hand_on(
        self,
        daemon: &UnixStream,
        socket: &Path,
        is_ended: &Arc<AtomicBool>,
    ) -> Result<(), StdioError> {
        let failed = |source| StdioError::HandOn {
            socket: socket.display().to_string(),
            source,
        };
        let to_daemon = daemon.try_clone().map_err(failed)?;
        let (input, is_ended) = (self.input, is_ended.clone());
        std::thread::Builder::new()
            .name("client's part".to_owned())
            .spawn(move || {
                let mut input = Waiting {
                    input: input.as_fd(),
                    is_ended: &is_ended,
                };
                // What goes wrong is seen at the other end: the daemon hears no more.
                let _ = copy(&mut input, &mut &to_daemon);
                let _ = to_daemon.shutdown(match is_ended.load(Ordering::Relaxed) {
                    true => Shutdown::Both,
                    false => Shutdown::Write,
                });
            })
            .map_err(failed)?;
        // That thread is not waited for: it may hang on a client that sends nothing more.
        let mut heard = Heard {
            daemon,
            client: self.output.as_fd(),
        };
        match copy(&mut heard, &mut Output(&self.output)) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            copied => copied.map_err(failed),
        }
    }
}

/// Whether nobody can read any more what is written there.
fn is_closed(output: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(output, PollFlags::empty())];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
    poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().intersects(gone)
}

/// Passes on what comes, as it comes.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_LEN];
    loop {
        let len = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        to.write_all(&buffer[..len])?;
    }
}

/// Standard input, which ends when this process is to end.
struct Waiting<'a> {
    input: BorrowedFd<'a>,
    is_ended: &'a AtomicBool,
}

impl Read for Waiting<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.is_ended.load(Ordering::Relaxed) {
                return Ok(0);
            }
            let mut fds = [PollFd::from_borrowed_fd(self.input, PollFlags::IN)];
            match poll(&mut fds, Some(&POLL)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => match rustix::io::read(self.input, &mut *bytes) {
                    // Whoever shares the stream with us may have made it so.
                    Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                    read => return read.map_err(io::Error::from),
                },
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// What the daemon says, as long as there is a client that can hear it. The daemon is told when
/// there is none any more, so that it ends what it does for it.
struct Heard<'a> {
    daemon: &'a UnixStream,
    client: BorrowedFd<'a>,
}

impl Read for Heard<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut fds = [
                PollFd::new(self.daemon, PollFlags::IN),
                PollFd::from_borrowed_fd(self.client, PollFlags::empty()),
            ];
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => continue,
                polled => polled?,
            };
            if !fds[1].revents().is_empty() {
                let _ = self.daemon.shutdown(Shutdown::Both);
                return Ok(0);
            }
            return (&mut &*self.daemon).read(bytes);
        }
    }
}

/// Standard output.
struct Output<'a>(&'a OwnedFd);

impl Write for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(self.0, bytes) {
                Err(rustix::io::Errno::AGAIN) => {
                    let mut fds = [PollFd::new(self.0, PollFlags::OUT)];
                    poll(&mut fds, None)?;
                }
                written => return written.map_err(io::Error::from),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streams() -> (Streams, OwnedFd, OwnedFd) {
        let (input, to_input) = rustix::pipe::pipe().unwrap();
        let (from_output, output) = rustix::pipe::pipe().unwrap();
        (Streams { input, output }, to_input, from_output)
    }

    #[test]
    fn what_is_handed_on_comes_out_on_the_other_side_until_the_daemon_has_said_all() {
        let (ours, daemons) = UnixStream::pair().unwrap();
        let (streams, to_input, from_output) = streams();
        let daemon = std::thread::spawn(move || {
            let mut heard = Vec::new();
            (&daemons).read_to_end(&mut heard).unwrap();
            (&daemons).write_all(b"answer to ").unwrap();
            (&daemons).write_all(&heard).unwrap();
        });
        rustix::io::write(&to_input, b"question").unwrap();
        drop(to_input);
        let is_ended = Arc::new(AtomicBool::new(false));
        streams
            .hand_on(&ours, Path::new("socket"), &is_ended)
            .unwrap();
        daemon.join().unwrap();
        let mut answer = Vec::new();
        std::fs::File::from(from_output)
            .read_to_end(&mut answer)
            .unwrap();
        assert_eq!(answer, b"answer to question");
    }

    #[test]
    fn the_daemon_hears_that_a_client_is_gone_that_has_asked_for_something() {
        let (ours, daemons) = UnixStream::pair().unwrap();
        let (streams, to_input, from_output) = streams();
        rustix::io::write(&to_input, b"question").unwrap();
        let daemon = std::thread::spawn(move || {
            (&daemons).read_exact(&mut [0; 8]).unwrap();
            drop((to_input, from_output));
            let mut fds = [PollFd::new(&daemons, PollFlags::empty())];
            poll(&mut fds, None).unwrap();
            fds[0].revents()
        });
        let is_ended = Arc::new(AtomicBool::new(false));
        streams
            .hand_on(&ours, Path::new("socket"), &is_ended)
            .unwrap();
        assert!(daemon.join().unwrap().contains(PollFlags::HUP));
    }

    #[test]
    fn a_client_that_says_nothing_does_not_keep_the_process_from_ending() {
        let (ours, daemons) = UnixStream::pair().unwrap();
        let (streams, _to_input, _from_output) = streams();
        let is_ended = Arc::new(AtomicBool::new(true));
        let daemon = std::thread::spawn(move || (&daemons).read(&mut [0; 1]).unwrap());
        streams
            .hand_on(&ours, Path::new("socket"), &is_ended)
            .unwrap();
        assert_eq!(daemon.join().unwrap(), 0);
    }

    #[test]
    fn only_who_has_closed_our_output_is_gone() {
        let (streams, to_input, from_output) = streams();
        drop(to_input);
        assert!(!is_closed(streams.output.as_fd()));
        drop(from_output);
        assert!(is_closed(streams.output.as_fd()));
    }
}
