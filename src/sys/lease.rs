//! Whether anybody has a file open.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::check;

/// Whether some process, this one included, has the file open for writing or mapped
/// writable, or may have (fcntl(2), "Leases": a read lease is refused then, and a lease is
/// refused where the file system has none). `file` must be open for reading only.
///
/// Stores through a mapping that is dirty already change no time, so times tell of
/// changes only where this is false.
pub fn may_be_written(file: BorrowedFd<'_>) -> bool {
    !can_have_lease(file, libc::F_RDLCK)
}

/// Whether the file is open more than this once, or may be: a write lease is refused then. `file`
/// must be ours.
pub fn may_be_open_elsewhere(file: BorrowedFd<'_>) -> bool {
    !can_have_lease(file, libc::F_WRLCK)
}

/// Takes a lease, and gives it back at once.
fn can_have_lease(file: BorrowedFd<'_>, lease: libc::c_int) -> bool {
    let set = |command: libc::c_int, argument: libc::c_int| {
        // SAFETY: the descriptor is open, and these commands take and return integers only.
        check(unsafe { libc::fcntl(file.as_raw_fd(), command, argument) }.into()).is_ok()
    };
    // Who opens the file meanwhile has the holder told by a signal, and SIGIO would end it.
    set(F_SETSIG, libc::SIGURG)
        && set(libc::F_SETLEASE, lease)
        && set(libc::F_SETLEASE, libc::F_UNLCK)
}

/// Which signal tells of a lease (fcntl(2)). SIGURG is nothing to who does not wait for it.
const F_SETSIG: libc::c_int = 10;

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

    #[test]
    fn whoever_has_the_file_open_too_is_seen() {
        let path = std::env::temp_dir().join(format!("droste-open-{}", std::process::id()));
        let options = || {
            std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .to_owned()
        };
        let ours = options().open(&path).unwrap();
        assert!(!may_be_open_elsewhere(ours.as_fd()));
        let other = std::fs::File::open(&path).unwrap();
        assert!(may_be_open_elsewhere(ours.as_fd()));
        drop(other);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn nobody_who_opens_the_file_ends_this_process() {
        let path = std::env::temp_dir().join(format!("droste-break-{}", std::process::id()));
        std::fs::write(&path, "").unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    drop(std::fs::File::options().append(true).open(&path));
                }
            });
            let mut writable = [0; 2];
            for _ in 0..50_000 {
                let reader = std::fs::File::open(&path).unwrap();
                writable[usize::from(may_be_written(reader.as_fd()))] += 1;
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            // Both were met, so there were leases to break.
            assert!(!writable.contains(&0), "{writable:?}");
        });
        std::fs::remove_file(&path).unwrap();
    }
}
