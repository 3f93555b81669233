//! Questions that the host's own programs answer about themselves.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

/// A program that does not answer in this time has no answer.
const TIME_MAX: Duration = Duration::from_secs(20);

/// An answer is no longer than this.
const ANSWER_LEN_MAX: usize = 1 << 20;

/// Where the answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    /// On standard output.
    Out,
    /// On standard error.
    Err,
}

/// Runs a program of the host and returns what it writes; `None` if it cannot be run,
/// fails, or says or takes too much. It gets no more of an environment than `PATH`.
pub(super) fn ask(program: &[u8], args: &[&[u8]], path: &[u8], stream: Stream) -> Option<Vec<u8>> {
    let (mut reader, writer) = std::io::pipe().ok()?;
    let mut command = Command::new(OsStr::from_bytes(program));
    command
        .args(args.iter().map(|arg| OsStr::from_bytes(arg)))
        .env_clear()
        .env("PATH", OsStr::from_bytes(path))
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::null());
    match stream {
        Stream::Out => command.stdout(writer).stderr(Stdio::null()),
        Stream::Err => command.stderr(writer).stdout(Stdio::null()),
    };
    let mut child = Killed(command.spawn().ok()?);
    // It holds an end of the pipe.
    drop(command);
    let deadline = Instant::now() + TIME_MAX;
    let mut answer = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).ok()?;
        let mut fds = [PollFd::new(&reader, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&left)) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return None,
        }
        let mut buffer = [0; 4096];
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
        if answer.len() > ANSWER_LEN_MAX {
            return None;
        }
    }
    // Nearly always it has ended by now.
    loop {
        match child.0.try_wait() {
            Ok(Some(status)) => return status.success().then_some(answer),
            Ok(None) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            _ => return None,
        }
    }
}

/// A process that does not outlive its question.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Both fail if it has ended and was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_program_that_succeeds_has_an_answer() {
        let sh = |script: &[u8], stream| ask(b"/bin/sh", &[b"-c", script], b"/x", stream);
        assert_eq!(sh(b"echo $PATH", Stream::Out).unwrap(), b"/x\n");
        assert_eq!(sh(b"echo a; echo b >&2", Stream::Err).unwrap(), b"b\n");
        assert_eq!(sh(b"echo a; exit 1", Stream::Out), None);
        assert_eq!(sh(b"kill -9 $$", Stream::Out), None);
        assert_eq!(ask(b"/nonexistent", &[], b"", Stream::Out), None);
    }

    #[test]
    fn a_program_that_says_too_much_is_ended() {
        let endless = b"while :; do echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; done";
        assert_eq!(ask(b"/bin/sh", &[b"-c", endless], b"", Stream::Out), None);
    }
}
