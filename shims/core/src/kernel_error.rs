//! The kernel's reasons, as errors that need no standard library.

use core::error::Error;
use core::fmt;

use rustix::io::Errno;

/// Why a system call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelError(pub Errno);

/// The words of strerror(3) for what callers meet.
const WORDS: &[(Errno, &str)] = &[
    (Errno::ACCESS, "Permission denied"),
    (Errno::CONNREFUSED, "Connection refused"),
    (Errno::CONNRESET, "Connection reset by peer"),
    (Errno::DQUOT, "Disk quota exceeded"),
    (Errno::FBIG, "File too large"),
    (Errno::IO, "Input/output error"),
    (Errno::ISDIR, "Is a directory"),
    (Errno::LOOP, "Too many levels of symbolic links"),
    (Errno::MFILE, "Too many open files"),
    (Errno::NAMETOOLONG, "File name too long"),
    (Errno::NFILE, "Too many open files in system"),
    (Errno::NOENT, "No such file or directory"),
    (Errno::NOEXEC, "Exec format error"),
    (Errno::NOSPC, "No space left on device"),
    (Errno::NOTDIR, "Not a directory"),
    (Errno::PERM, "Operation not permitted"),
    (Errno::PIPE, "Broken pipe"),
    (Errno::ROFS, "Read-only file system"),
    (Errno::TOOBIG, "Argument list too long"),
    (Errno::TXTBSY, "Text file busy"),
];

impl fmt::Display for KernelError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.0.raw_os_error();
        match WORDS.iter().find(|(errno, _)| *errno == self.0) {
            Some((_, words)) => write!(formatter, "{words} (os error {code})"),
            None => write!(formatter, "os error {code}"),
        }
    }
}

impl Error for KernelError {}

impl From<Errno> for KernelError {
    fn from(errno: Errno) -> Self {
        Self(errno)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_those_of_the_standard_library() {
        for (errno, _) in WORDS {
            let expected = std::io::Error::from(*errno).to_string();
            assert_eq!(KernelError(*errno).to_string(), expected);
        }
    }
}
