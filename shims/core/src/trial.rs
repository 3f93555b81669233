//! A call that its caller makes itself, and of which it then tells what came.

use alloc::vec::Vec;

use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal, WaitOptions};

use crate::place::write_all;
use crate::protocol::{Call, Ended, TRIED_BYTES_MAX, Tried, Window};
use crate::terminal;

/// What a call has left beside its files.
pub(crate) struct Outcome {
    ended: Ended,
    /// Whether all that was printed was kept.
    is_whole: bool,
    pub(crate) stdout: OwnedFd,
    /// The same file if both streams are one.
    pub(crate) stderr: Option<OwnedFd>,
}

impl Outcome {
    /// What there is to tell; `None` if it is too much.
    pub(crate) fn to_tell(&self) -> Option<Tried> {
        if !self.is_whole {
            return None;
        }
        Some(Tried {
            ended: self.ended,
            stdout: read(self.stdout.as_fd())?,
            stderr: match &self.stderr {
                Some(stderr) => read(stderr.as_fd())?,
                None => Vec::new(),
            },
        })
    }

    /// The status to exit with. If a signal has ended the compiler, it ends this process.
    pub(crate) fn status(&self) -> u8 {
        match self.ended {
            Ended::Exited(status) => status,
            Ended::Killed(number) => {
                if let Some(signal) = Signal::from_named_raw(number.into()) {
                    // Whatever there is to be examined, the compiler has left it.
                    let limit = rustix::process::getrlimit(Resource::Core);
                    let none = Rlimit {
                        current: Some(0),
                        ..limit
                    };
                    let _ = rustix::process::setrlimit(Resource::Core, none);
                    let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
                }
                // What a shell says of such a command.
                128 + number
            }
        }
    }
}

/// Runs the compiler with its streams kept. `start` makes a process that calls what it is given
/// and then becomes the compiler.
pub(crate) fn run(
    call: &Call,
    start: impl FnOnce(&dyn Fn() -> Result<(), Errno>) -> Result<Pid, Errno>,
) -> Result<Outcome, Errno> {
    if ignores_ends_of_children() {
        return Err(Errno::CHILD);
    }
    let this = rustix::process::getpid();
    let (stdout, out) = Stream::new(call.stdout_tty)?;
    let (stderr, err) = match call.is_one_stream {
        true => (None, None),
        false => Stream::new(call.stderr_tty).map(|(stderr, err)| (Some(stderr), Some(err)))?,
    };
    let pid = start(&|| {
        rustix::stdio::dup2_stdout(&out)?;
        rustix::stdio::dup2_stderr(err.as_ref().unwrap_or(&out))?;
        // Who ends a shim means the compiler.
        rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
        match rustix::process::getppid() == Some(this) {
            true => Ok(()),
            false => Err(Errno::SRCH),
        }
    })?;
    // A terminal that is open here would have no end.
    drop((out, err));
    let streams = [Some(&stdout), stderr.as_ref()];
    let is_whole = drain(streams.into_iter().flatten(), pid);
    let status = loop {
        match rustix::process::waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => break status,
            Ok(None) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    };
    let byte = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
    let ended = match (status.exit_status(), status.terminating_signal()) {
        (Some(status), _) => Ended::Exited(byte(status)),
        (None, signal) => Ended::Killed(byte(signal.unwrap_or_default())),
    };
    Ok(Outcome {
        ended,
        is_whole,
        stdout: stdout.kept,
        stderr: stderr.map(|stream| stream.kept),
    })
}

/// One of the compiler's streams.
struct Stream {
    /// What was printed, in memory.
    kept: OwnedFd,
    /// Where what the compiler prints is read, if it does not go to the memory itself.
    terminal: Option<OwnedFd>,
}

impl Stream {
    /// A stream, and what the compiler writes to.
    fn new(tty: Option<Window>) -> Result<(Self, OwnedFd), Errno> {
        let kept = rustix::fs::memfd_create("printed", MemfdFlags::CLOEXEC)?;
        // Several processes write there.
        rustix::fs::fcntl_setfl(&kept, OFlags::APPEND)?;
        let (terminal, written) = match tty {
            Some(window) => {
                let (master, slave) = terminal::open(window)?;
                (Some(master), slave)
            }
            None => (None, rustix::io::fcntl_dupfd_cloexec(&kept, 3)?),
        };
        Ok((Self { kept, terminal }, written))
    }
}

/// Whether the ends of this process's children are told to nobody (waitpid(2), "ECHILD"); proc(5)
/// has the signals that are ignored as a number.
fn ignores_ends_of_children() -> bool {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mut text = [0; 4 << 10];
    let read = rustix::fs::open(c"/proc/self/status", flags, Mode::empty())
        .and_then(|file| rustix::io::read(file, &mut text));
    let Ok(len) = read else {
        return true;
    };
    let lines = text[..len].split(|&byte| byte == b'\n');
    let ignored = lines
        .filter_map(|line| line.strip_prefix(b"SigIgn:\t"))
        .next();
    let ignored = ignored.and_then(|number| core::str::from_utf8(number).ok());
    let ignored = ignored.and_then(|number| u64::from_str_radix(number, 16).ok());
    let bit = 1 << (Signal::CHILD.as_raw() - 1);
    ignored.is_none_or(|ignored| ignored & bit != 0)
}

/// Keeps what comes from terminals until nobody has them open any more, or the compiler has ended:
/// others may have it open for good. False if something was lost.
fn drain<'s>(streams: impl Iterator<Item = &'s Stream>, compiler: Pid) -> bool {
    let mut is_whole = true;
    let mut open: Vec<(&OwnedFd, BorrowedFd<'_>)> = streams
        .filter_map(|stream| Some((stream.terminal.as_ref()?, stream.kept.as_fd())))
        .collect();
    if open.is_empty() {
        return true;
    }
    let ended = rustix::process::pidfd_open(compiler, PidfdFlags::empty()).ok();
    let mut buffer = [0; 4 << 10];
    loop {
        let mut fds: Vec<PollFd<'_>> = open
            .iter()
            .map(|(master, _)| PollFd::new(*master, PollFlags::IN))
            .collect();
        if let Some(ended) = &ended {
            fds.push(PollFd::new(ended, PollFlags::IN));
        }
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return false,
        }
        let mut ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let has_ended = ended.is_some() && ready.pop() == Some(true);
        let has_text = ready.contains(&true);
        let mut ready = ready.into_iter();
        open.retain(|(master, kept)| {
            if !ready.next().unwrap_or_default() {
                return true;
            }
            match rustix::io::read(*master, &mut buffer) {
                // All of its users are gone (pty(7)), as it is with an error.
                Ok(0) => false,
                Ok(count) => {
                    is_whole &= write_all(*kept, &buffer[..count]).1.is_ok();
                    true
                }
                Err(error) => error == Errno::INTR,
            }
        });
        if open.is_empty() || (has_ended && !has_text) {
            return is_whole;
        }
    }
}

/// All that a file has, unless it is more than can be told.
fn read(file: BorrowedFd<'_>) -> Option<Vec<u8>> {
    let len = usize::try_from(rustix::fs::fstat(file).ok()?.st_size).ok()?;
    if len > TRIED_BYTES_MAX {
        return None;
    }
    let mut bytes = alloc::vec![0; len];
    let mut filled = 0;
    while filled < len {
        match rustix::io::pread(file, &mut bytes[filled..], filled as u64) {
            Ok(0) => return None,
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    Some(bytes)
}
