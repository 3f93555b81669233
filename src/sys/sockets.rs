//! Sockets that others have made, and who is at their other end.

use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use crate::check;

/// The first descriptor that systemd hands over, `SD_LISTEN_FDS_START` of sd_listen_fds(3).
const FIRST_HANDED_OVER: RawFd = 3;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Who made the connection (`SO_PEERCRED` of unix(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The process; 0 if it is in no PID namespace that this process sees.
    pub pid: i32,
    /// Its effective user at that time.
    pub uid: u32,
    /// Its effective group at that time.
    pub gid: u32,
}

/// Who made a connection. (rustix has the process as a number that cannot be 0, which it is for
/// a client in another container.)
pub fn peer_credentials(socket: BorrowedFd<'_>) -> Result<Credentials, Errno> {
    let mut found = libc::ucred {
        pid: 0,
        uid: u32::MAX,
        gid: u32::MAX,
    };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the descriptor is open; the kernel writes at most `len` bytes, which the variable
    // has room for, and all bytes are values of its fields.
    let asked = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut len,
        )
    };
    check(asked.into())?;
    Ok(Credentials {
        pid: found.pid,
        uid: found.uid,
        gid: found.gid,
    })
}

/// The descriptors that a service manager has handed over at the start, which no program that is
/// executed from now on gets; sd_listen_fds(3). Only the first call has them.
///
/// # Errors
/// If one is not open.
pub fn take_handed_over(count: usize) -> Result<Vec<OwnedFd>, Errno> {
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let last = RawFd::try_from(count)
        .ok()
        .and_then(|count| FIRST_HANDED_OVER.checked_add(count))
        .ok_or(Errno::BADF)?;
    let mut taken = Vec::new();
    for descriptor in FIRST_HANDED_OVER..last {
        // SAFETY: the call takes and returns integers only.
        let set = unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
        check(set.into())?;
        // SAFETY: it is open, as the last call has shown, and was so before this program began:
        // nothing in it can own it. It is taken once, as `TAKEN` sees to.
        taken.push(unsafe { OwnedFd::from_raw_fd(descriptor) });
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_other_end_of_a_pair_is_this_process() {
        let (one, _other) = UnixStream::pair().unwrap();
        let found = peer_credentials(one.as_fd()).unwrap();
        assert_eq!(u32::try_from(found.pid).unwrap(), std::process::id());
        assert_eq!(found.uid, rustix::process::geteuid().as_raw());
        assert_eq!(found.gid, rustix::process::getegid().as_raw());
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(peer_credentials(file.as_fd()), Err(Errno::NOTSOCK));
    }
}
