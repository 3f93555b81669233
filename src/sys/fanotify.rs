//! Noticing that a file is opened to be read, and not to be executed.

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::check;

/// Room for some hundred events at once.
const BUFFER_LEN: usize = 16 << 10;

/// Watches files for being opened other than for execution (fanotify(7)).
///
/// Needs no privilege: only the files that were named are watched, and nothing is
/// learnt of who opens them. Readable when there is something to
/// [`drain`](Self::drain).
#[derive(Debug)]
pub struct ReadWatch(OwnedFd);

impl ReadWatch {
    /// A watch of no file yet (fanotify_init(2)).
    pub fn new() -> io::Result<Self> {
        let flags =
            libc::FAN_CLASS_NOTIF | libc::FAN_REPORT_FID | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK;
        // SAFETY: the call takes two integers and returns a new descriptor or -1.
        let fd = check(unsafe { libc::syscall(libc::SYS_fanotify_init, flags, libc::O_RDONLY) })?;
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Watches this file, whatever the mounts through which it is opened
    /// (fanotify_mark(2)).
    pub fn add(&self, file: &Path) -> io::Result<()> {
        let path = CString::new(file.as_os_str().as_bytes())?;
        let mask: u64 = libc::FAN_OPEN | libc::FAN_OPEN_EXEC;
        // SAFETY: the path is a string that ends in a zero byte and lives through the call;
        // the other arguments are integers.
        let result = unsafe {
            libc::fanotify_mark(
                self.0.as_raw_fd(),
                libc::FAN_MARK_ADD,
                mask,
                libc::AT_FDCWD,
                path.as_ptr(),
            )
        };
        check(result.into())?;
        Ok(())
    }

    /// Takes what has happened so far; true if a watched file was opened other than
    /// for execution, or if that cannot be excluded because events were lost.
    pub fn drain(&self) -> io::Result<bool> {
        let mut buffer = vec![0u8; BUFFER_LEN];
        let mut was_read = false;
        loop {
            let len = match rustix::io::read(&self.0, &mut buffer[..]) {
                Ok(0) | Err(rustix::io::Errno::AGAIN) => return Ok(was_read),
                Ok(len) => len,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let mut events = &buffer[..len];
            while events.len() >= size_of::<libc::fanotify_event_metadata>() {
                // The event begins with its length (u32); its mask (u64) is at offset 8.
                let field = |at: usize, len: usize| {
                    events[at..at + len]
                        .iter()
                        .rev()
                        .fold(0, |n, b| n << 8 | u64::from(*b))
                };
                let (event_len, mask) = if cfg!(target_endian = "little") {
                    (field(0, 4) as usize, field(8, 8))
                } else {
                    return Err(io::ErrorKind::Unsupported.into());
                };
                was_read |= mask & libc::FAN_Q_OVERFLOW != 0;
                was_read |= mask & libc::FAN_OPEN != 0 && mask & libc::FAN_OPEN_EXEC == 0;
                match events.get(event_len.max(1)..) {
                    Some(rest) => events = rest,
                    None => break,
                }
            }
        }
    }
}

impl AsFd for ReadWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn reading_a_program_is_noticed_and_running_it_is_not() {
        let dir = std::env::temp_dir().join(format!("droste-read-watch-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let program = dir.join("program");
        std::fs::copy("/bin/true", &program).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let watch = ReadWatch::new().unwrap();
        watch.add(&program).unwrap();
        for _ in 0..10 {
            assert!(
                std::process::Command::new(&program)
                    .status()
                    .unwrap()
                    .success()
            );
        }
        assert!(!watch.drain().unwrap(), "execution was taken for reading");
        std::fs::read(&program).unwrap();
        assert!(watch.drain().unwrap(), "reading was not noticed");
        std::fs::metadata(&program).unwrap();
        assert!(
            !watch.drain().unwrap(),
            "a look at its metadata was taken for reading"
        );
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
