//! A build's log: read from its terminal, kept in a file, its end remembered.

use std::collections::VecDeque;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};

/// A line longer than this is cut into several: a build that never ends a line
/// must not fill the memory.
const LINE_LEN_MAX: usize = 64 << 10;

/// What remains of a log.
#[derive(Debug, Default)]
pub struct LogTail {
    lines: VecDeque<Vec<u8>>,
    /// It was longer than allowed, and was not read to its end.
    pub is_too_long: bool,
}

impl LogTail {
    /// The last lines as an error shows them; empty if there were none.
    pub fn for_error(&self) -> String {
        if self.lines.is_empty() {
            return String::new();
        }
        let mut text = format!(";\n       last {} log lines:", self.lines.len());
        for line in &self.lines {
            text.push_str("\n       > ");
            text.push_str(&String::from_utf8_lossy(line));
        }
        text
    }
}

/// How often it is asked whether to go on.
const POLL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};

/// How much of a log there may be, and how much of it is kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// How many of the last lines are kept.
    pub tail_lines: usize,
    /// After more bytes than this, the rest is not read; 0 for no limit.
    pub bytes_max: u64,
}

/// Reads a terminal (or pipe) to its end, line by line; `file` gets it as it is. `on_line` says
/// whether what it is given is a line of the log; `on_pause` is called now and then, whether there is
/// output or not.
pub fn follow(
    terminal: OwnedFd,
    file: Option<&mut dyn Write>,
    limits: Limits,
    mut on_line: impl FnMut(&[u8]) -> bool,
    mut on_pause: impl FnMut(),
) -> LogTail {
    let mut file = file;
    let mut tail = LogTail::default();
    let mut pending = Vec::new();
    let mut take = |line: &[u8]| {
        if !on_line(line) {
            return;
        }
        if tail.lines.len() == limits.tail_lines {
            tail.lines.pop_front();
        }
        if limits.tail_lines > 0 {
            tail.lines.push_back(line.to_vec());
        }
    };
    let mut buffer = [0; 8192];
    let mut returned = false;
    let mut bytes: u64 = 0;
    let mut is_too_long = false;
    loop {
        let mut polled = [PollFd::new(&terminal, PollFlags::IN)];
        if matches!(rustix::event::poll(&mut polled, Some(&POLL)), Ok(0)) {
            on_pause();
            continue;
        }
        // A terminal whose other side is closed gives EIO, a pipe gives its end.
        let read = match rustix::io::read(terminal.as_fd(), &mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                on_pause();
                read
            }
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => break,
        };
        bytes = bytes.saturating_add(read as u64);
        if limits.bytes_max > 0 && bytes > limits.bytes_max {
            is_too_long = true;
            break;
        }
        if let Some(file) = file.as_mut() {
            // A log that cannot be kept fails no build.
            let _ = file.write_all(&buffer[..read]);
        }
        for byte in &buffer[..read] {
            if std::mem::take(&mut returned) && *byte != b'\n' {
                pending.clear();
            }
            if *byte == b'\n' || pending.len() == LINE_LEN_MAX {
                take(&pending);
                pending.clear();
            }
            match byte {
                b'\n' => {}
                // A progress bar that is drawn again: its last state counts. Nix 2.34 loses lines
                // that end so, too.
                b'\r' => returned = true,
                _ => pending.push(*byte),
            }
        }
    }
    if !pending.is_empty() {
        take(&pending);
    }
    tail.is_too_long = is_too_long;
    tail
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow_text(text: &[u8], lines_max: usize) -> (Vec<Vec<u8>>, LogTail) {
        let (read, write) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&write, text).unwrap();
        drop(write);
        let mut lines = Vec::new();
        let tail = follow(
            read,
            None,
            Limits {
                tail_lines: lines_max,
                bytes_max: 0,
            },
            |line| {
                lines.push(line.to_vec());
                line != b"@"
            },
            || {},
        );
        (lines, tail)
    }

    #[test]
    fn lines_are_told_one_by_one_and_the_last_ones_are_kept() {
        let (lines, tail) = follow_text(b"one\ntwo\r\n10%\r20%\nlast", 2);
        assert_eq!(lines, [&b"one"[..], b"two", b"20%", b"last"]);
        assert_eq!(
            tail.for_error(),
            ";\n       last 2 log lines:\n       > 20%\n       > last"
        );
    }

    #[test]
    fn what_is_no_line_of_the_log_is_not_among_the_last_ones() {
        let (_, tail) = follow_text(b"one\n@\n", 1);
        assert!(tail.for_error().ends_with("> one"), "{tail:?}");
    }

    #[test]
    fn what_is_kept_is_what_the_builder_wrote() {
        let text = [b"a\rb\r\n@\n".to_vec(), vec![b'y'; LINE_LEN_MAX + 10]].concat();
        let (read, write) = rustix::pipe::pipe().unwrap();
        let written = text.clone();
        // More than a pipe holds.
        let writer = std::thread::spawn(move || {
            let mut file = std::fs::File::from(write);
            file.write_all(&written).unwrap();
        });
        let mut kept = Vec::new();
        follow(read, Some(&mut kept), Limits::default(), |_| true, || {});
        writer.join().unwrap();
        assert_eq!(kept, text);
    }

    #[test]
    fn a_log_is_not_read_beyond_its_limit() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&write, &[b'x'; 101]).unwrap();
        // The other end stays open: only the limit ends it.
        let limits = Limits {
            tail_lines: 5,
            bytes_max: 100,
        };
        assert!(follow(read, None, limits, |_| true, || {}).is_too_long);
        let (read, write) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&write, &[b'x'; 100]).unwrap();
        drop(write);
        assert!(!follow(read, None, limits, |_| true, || {}).is_too_long);
    }

    #[test]
    fn a_builder_that_said_nothing_adds_nothing_to_its_error() {
        assert_eq!(follow_text(b"", 5).1.for_error(), "");
    }
}
