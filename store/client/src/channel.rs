//! Two descriptors that never block by themselves: who waits, waits for both
//! directions, or for a time only.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// Makes the reads and writes of a descriptor return instead of waiting.
pub(crate) fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = fcntl_getfl(&fd)?;
    Ok(fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?)
}

/// Waits for any of these, or for so long. Whether something came of it.
fn wait(fds: &mut [PollFd<'_>], patience: Option<Duration>) -> io::Result<bool> {
    let patience = patience
        .map(Timespec::try_from)
        .transpose()
        .map_err(|_| io::ErrorKind::InvalidInput)?;
    match poll(fds, patience.as_ref()) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// What the server sends.
pub(crate) struct Input {
    fd: OwnedFd,
    /// When waiting ends with an error.
    pub(crate) deadline: Option<Instant>,
}

impl Input {
    pub(crate) const fn new(fd: OwnedFd) -> Self {
        Self { fd, deadline: None }
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether there is something to read, an end included, within this time.
    pub(crate) fn is_readable(&self, patience: Duration) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        wait(&mut fds, Some(patience))
    }
}

impl Read for Input {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            match rustix::io::read(&self.fd, &mut *bytes) {
                Ok(len) => return Ok(len),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    let left = self
                        .deadline
                        .map(|deadline| deadline.saturating_duration_since(Instant::now()));
                    if left.is_some_and(|left| left.is_zero()) {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    wait(&mut [PollFd::new(&self.fd, PollFlags::IN)], left)?;
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// What the server reads.
pub(crate) struct Output {
    fd: OwnedFd,
}

/// What stopped a writer for now.
pub(crate) enum Blocked {
    /// The server has something to say.
    Readable,
    /// Nothing any more.
    Writable,
}

impl Output {
    pub(crate) const fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Writes what the server takes now; 0 if nothing.
    pub(crate) fn write_some(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(&self.fd, bytes) {
                Ok(0) if !bytes.is_empty() => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => return Ok(len),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(0),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Waits until the server takes or says something.
    pub(crate) fn wait_with(&self, input: &Input) -> io::Result<Blocked> {
        let mut fds = [
            PollFd::new(&self.fd, PollFlags::OUT),
            PollFd::from_borrowed_fd(input.as_fd(), PollFlags::IN),
        ];
        wait(&mut fds, None)?;
        // First, for what it says may be that it takes no more.
        Ok(match fds[1].revents().is_empty() {
            true => Blocked::Writable,
            false => Blocked::Readable,
        })
    }
}

impl Write for Output {
    /// Waits without listening: for the few bytes of a handshake.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.write_some(bytes)? {
                0 if !bytes.is_empty() => {
                    wait(&mut [PollFd::new(&self.fd, PollFlags::OUT)], None)?;
                }
                len => return Ok(len),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
