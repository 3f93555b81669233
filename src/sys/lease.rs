//! Whether anybody has a file open for writing.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::check;

/// Whether some process, this one included, has the file open for writing or mapped
/// writable, or may have (fcntl(2), "Leases": a read lease is refused then, and a lease is
/// refused where the file system has none). `file` must be open for reading only.
///
/// Stores through a mapping that is dirty already change no time, so times tell of
/// changes only where this is false.
pub fn may_be_written(file: BorrowedFd<'_>) -> bool {
    let set = |lease: libc::c_int| {
        // SAFETY: the descriptor is open, and the call takes and returns integers only.
        check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, lease) }.into()).is_ok()
    };
    !(set(libc::F_RDLCK) && set(libc::F_UNLCK))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_writer_is_seen_as_long_as_it_has_the_file_open() {
        let path = std::env::temp_dir().join(format!("droste-lease-{}", std::process::id()));
        let writer = std::fs::File::create(&path).unwrap();
        let reader = std::fs::File::open(&path).unwrap();
        assert!(may_be_written(reader.as_fd()));
        drop(writer);
        // A process that another test starts has it open as well, until it executes its program.
        let is_free = || {
            (0..1000).any(|_| {
                let is_free = !may_be_written(reader.as_fd());
                if !is_free {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                is_free
            })
        };
        assert!(is_free());
        assert!(is_free(), "the lease was not given back");
        std::fs::remove_file(&path).unwrap();
    }
}
