//! System calls that wait for another process's word (seccomp_unotify(2)).

use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use crate::seccomp::{Instruction, with_program};
use crate::{check, last_errno};

/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP` (Linux 6.6).
const SYNC_WAKE_UP: u64 = 1;
/// Longest string that is read at once, in bytes: a page, beyond which nothing may be mapped.
const PAGE_BYTES: u64 = 4096;

/// One system call that waits for an answer (`struct seccomp_notif`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification {
    /// What the answer is for.
    pub id: u64,
    /// The calling thread, as this process's PID namespace numbers it; 0 if it does not see it.
    pub pid: i32,
    /// The call's number, in the ABI `arch`.
    pub number: u32,
    /// `AUDIT_ARCH_*` (seccomp(2)).
    pub arch: u32,
    /// Its arguments, as the registers have them.
    pub arguments: [u64; 6],
}

/// Where the calls arrive for which a filter has said `SECCOMP_RET_USER_NOTIF`.
///
/// When the last copy of its descriptor is closed, calls that wait and all later ones fail with
/// ENOSYS. Readable when a call waits.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl From<OwnedFd> for Listener {
    /// Takes a listener's descriptor that came from another process. Calls are handed over
    /// on the processor they are made on, where the kernel can do that.
    fn from(fd: OwnedFd) -> Self {
        // SAFETY: this ioctl takes a plain number. Where it fails, only time is lost.
        unsafe {
            libc::ioctl(
                fd.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS,
                SYNC_WAKE_UP,
            )
        };
        Listener(fd)
    }
}

impl From<Listener> for OwnedFd {
    fn from(listener: Listener) -> Self {
        listener.0
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Listener {
    /// Installs a filter on this thread for good (seccomp(2), `SECCOMP_FILTER_FLAG_NEW_LISTENER`).
    /// Needs no_new_privs. Only signals that kill interrupt a call that somebody has
    /// received, where the kernel can do that (Linux 5.19). `EBUSY` if this thread is watched
    /// already.
    pub fn install(program: &[Instruction]) -> Result<Listener, Errno> {
        let install = |flags: libc::c_ulong| {
            with_program(program, |program| {
                // SAFETY: `program` points to instructions that live through the call; the
                // kernel copies and checks them.
                check(unsafe {
                    libc::syscall(
                        libc::SYS_seccomp,
                        libc::SECCOMP_SET_MODE_FILTER,
                        flags,
                        program,
                    )
                })
            })
        };
        let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
        let fd = match install(flags | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
            Err(Errno::INVAL) => install(flags)?,
            result => result?,
        };
        // SAFETY: the kernel has just opened it for us, and nobody else knows it.
        Ok(Listener(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
    }

    /// Waits for the next call. `None` when `stop` has something to say, or when every
    /// process under the filter has ended.
    ///
    /// For one thread at a time: of two, one could wait here without an end.
    pub fn receive(&self, stop: BorrowedFd<'_>) -> Result<Option<Notification>, Errno> {
        loop {
            let mut fds = [
                PollFd::new(&self.0, PollFlags::IN),
                PollFd::from_borrowed_fd(stop, PollFlags::IN),
            ];
            match rustix::event::poll(&mut fds, None) {
                Err(Errno::INTR) => continue,
                result => result?,
            };
            if !fds[1].revents().is_empty() {
                return Ok(None);
            }
            if !fds[0].revents().contains(PollFlags::IN) {
                return Ok(None);
            }
            // SAFETY: plain integers, for which all zeros is a value; the kernel insists on it.
            let mut notification: libc::seccomp_notif = unsafe { std::mem::zeroed() };
            // SAFETY: this ioctl writes a seccomp_notif, and `notification` is one.
            let result = unsafe {
                libc::ioctl(
                    self.0.as_raw_fd(),
                    libc::SECCOMP_IOCTL_NOTIF_RECV,
                    &raw mut notification,
                )
            };
            match check(result.into()) {
                // The caller was killed or interrupted in between.
                Err(Errno::NOENT | Errno::INTR) => {}
                Err(errno) => return Err(errno),
                Ok(_) => {
                    return Ok(Some(Notification {
                        id: notification.id,
                        pid: notification.pid.cast_signed(),
                        number: notification.data.nr.cast_unsigned(),
                        arch: notification.data.arch,
                        arguments: notification.data.args,
                    }));
                }
            }
        }
    }

    /// Lets the call be made. What its pointers point to may have changed since it was
    /// looked at. No error if the caller is gone.
    pub fn allow(&self, call: &Notification) -> Result<(), Errno> {
        self.answer(libc::seccomp_notif_resp {
            id: call.id,
            val: 0,
            error: 0,
            flags: libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
        })
    }

    /// Lets the call fail without being made. No error if the caller is gone.
    pub fn refuse(&self, call: &Notification, errno: Errno) -> Result<(), Errno> {
        self.answer(libc::seccomp_notif_resp {
            id: call.id,
            val: 0,
            error: -errno.raw_os_error(),
            flags: 0,
        })
    }

    fn answer(&self, mut answer: libc::seccomp_notif_resp) -> Result<(), Errno> {
        // SAFETY: this ioctl reads a seccomp_notif_resp, and `answer` is one.
        let result = unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_SEND,
                &raw mut answer,
            )
        };
        match check(result.into()) {
            Err(Errno::NOENT) => Ok(()),
            result => result.map(drop),
        }
    }

    /// Whether the call still waits for its answer. Only if it does afterwards, what was
    /// read by its `pid` was the caller's.
    pub fn is_waiting(&self, call: &Notification) -> bool {
        let id = call.id;
        // SAFETY: this ioctl reads a number of 64 bits, and `id` is one.
        let result = unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_ID_VALID,
                &raw const id,
            )
        };
        check(result.into()).is_ok()
    }
}

/// Reads memory of a process or thread (process_vm_readv(2)): as many bytes as are there, up to
/// the buffer's length. `EFAULT` if there are none.
pub fn read_memory(pid: i32, address: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
    let local = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let address = usize::try_from(address).map_err(|_| Errno::FAULT)?;
    let remote = libc::iovec {
        iov_base: std::ptr::without_provenance_mut(address),
        iov_len: buffer.len(),
    };
    // SAFETY: `local` is the buffer, which nobody else has; `remote` is an address of the other
    // process's, which the kernel checks.
    let read = unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
    if read < 0 {
        return Err(last_errno());
    }
    usize::try_from(read).map_err(|_| Errno::IO)
}

/// Reads a string of a process or thread up to its zero byte, which is left out. `None` if there
/// is no zero byte among the first `limit` bytes.
pub fn read_c_string(pid: i32, address: u64, limit: usize) -> Result<Option<Vec<u8>>, Errno> {
    let mut string = Vec::new();
    while string.len() < limit {
        let start = string.len();
        let at = address.checked_add(start as u64).ok_or(Errno::FAULT)?;
        // A read never goes beyond a page: the next one may not be there.
        let to_page_end = usize::try_from(PAGE_BYTES - at % PAGE_BYTES).unwrap_or(1);
        let len = to_page_end.min(limit - start);
        string.resize(start + len, 0);
        let read = read_memory(pid, at, &mut string[start..])?;
        string.truncate(start + read);
        if let Some(end) = string[start..].iter().position(|&byte| byte == 0) {
            string.truncate(start + end);
            return Ok(Some(string));
        }
        if read == 0 {
            return Err(Errno::FAULT);
        }
    }
    Ok(None)
}

/// Files are found and made as this user and group by the thread that holds it (setfsuid(2),
/// setfsgid(2)), until it is dropped: in a file system that belongs to a user namespace, not even
/// root may make files as a user that is not mapped there.
#[derive(Debug)]
pub struct FileUser {
    before: (libc::uid_t, libc::gid_t),
    /// The ids are the thread's.
    _not_send: std::marker::PhantomData<*const ()>,
}

impl FileUser {
    /// Changes this thread's ids. `EPERM` if it may not.
    pub fn enter(uid: u32, gid: u32) -> Result<FileUser, Errno> {
        let user = FileUser {
            before: (set_fs_uid(u32::MAX), set_fs_gid(u32::MAX)),
            _not_send: std::marker::PhantomData,
        };
        // The group first: only root may change it.
        set_fs_gid(gid);
        set_fs_uid(uid);
        // The calls tell what was before, and no error; an impossible id changes nothing.
        if (set_fs_uid(u32::MAX), set_fs_gid(u32::MAX)) == (uid, gid) {
            Ok(user)
        } else {
            Err(Errno::PERM)
        }
    }
}

impl Drop for FileUser {
    fn drop(&mut self) {
        let (uid, gid) = self.before;
        set_fs_uid(uid);
        set_fs_gid(gid);
    }
}

fn set_fs_uid(uid: libc::uid_t) -> libc::uid_t {
    // SAFETY: plain integers. The calls of the C library are the thread's alone, too.
    let before = unsafe { libc::setfsuid(uid) };
    before.cast_unsigned()
}

fn set_fs_gid(gid: libc::gid_t) -> libc::gid_t {
    // SAFETY: as above.
    let before = unsafe { libc::setfsgid(gid) };
    before.cast_unsigned()
}

const _: () = assert!(size_of::<libc::seccomp_notif>() == 80);

#[cfg(test)]
mod tests {
    use super::*;

    fn own_pid() -> i32 {
        std::process::id().cast_signed()
    }

    #[test]
    fn a_string_is_read_across_pages_and_up_to_the_limit() {
        let mut memory = vec![b'x'; 3 * 4096];
        memory.push(0);
        let address = memory.as_ptr() as u64;
        let read = |at: usize, limit| read_c_string(own_pid(), address + at as u64, limit);
        assert_eq!(read(0, 3 * 4096), Ok(None));
        let whole = read(0, 3 * 4096 + 1).unwrap().unwrap();
        assert_eq!(whole, memory[..3 * 4096]);
        assert_eq!(read(3 * 4096, 1), Ok(Some(Vec::new())));
        assert_eq!(read(3 * 4096 - 2, 100), Ok(Some(b"xx".to_vec())));
        assert_eq!(read_c_string(own_pid(), 8, 100), Err(Errno::FAULT));
        assert_eq!(read_c_string(own_pid(), u64::MAX, 100), Err(Errno::FAULT));
    }

    #[test]
    fn files_are_made_as_the_user_that_was_entered() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        if !rustix::process::geteuid().is_root() {
            assert_eq!(FileUser::enter(0, 0).unwrap_err(), Errno::PERM);
            eprintln!("skipped: changing to another user, because this one is not root");
            return;
        }
        let dir = std::env::temp_dir().join(format!("droste-file-user-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o777)).unwrap();
        {
            let _user = FileUser::enter(1234, 2345).unwrap();
            std::fs::write(dir.join("a"), "").unwrap();
        }
        std::fs::write(dir.join("b"), "").unwrap();
        let owner = |name: &str| {
            let metadata = dir.join(name).metadata().unwrap();
            (metadata.uid(), metadata.gid())
        };
        assert_eq!(owner("a"), (1234, 2345));
        assert_eq!(owner("b"), (0, 0));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
