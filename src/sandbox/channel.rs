//! The messages between the caller's process, the spawner and a sandbox being set up, and how they
//! travel: one `SOCK_SEQPACKET` datagram each, with descriptors beside it (unix(7)); a large one in
//! a memory file whose descriptor comes first.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::bytes;
use crate::error::SetupError;
use crate::launch::ExitStatus;
use crate::request::Request;

/// Largest message, the contents of all its nodes included, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 256 << 20;
/// Most descriptors passed with one request; the kernel's own limit is 253 (unix(7), `SCM_RIGHTS`).
pub const FDS_MAX: usize = 240;

/// Larger messages travel in a memory file: a datagram has to fit the socket's buffer.
const INLINE_BYTES_MAX: usize = 32 << 10;
/// First byte of a datagram that holds the message.
const INLINE: u8 = 0;
/// First byte of a datagram whose first descriptor is a memory file that holds the message.
const IN_MEMORY_FILE: u8 = 1;

/// What the caller tells the spawner. The first descriptor is the socket for the answer, except
/// for the scratch messages, which have none.
#[derive(Serialize, Deserialize)]
pub(crate) enum Command<'a> {
    /// Start a sandbox; the request's descriptors follow. Answers: `Watched` if that was asked for,
    /// `Started` or `Failed`, then `Exited`.
    Spawn {
        id: u64,
        request: Box<Cow<'a, Request>>,
    },
    /// Mount a host path in the live sandbox `id`. Answers: `Mounted` or `Failed`.
    MountInto {
        id: u64,
        #[serde(with = "bytes::path")]
        source: PathBuf,
        #[serde(with = "bytes::path")]
        target: PathBuf,
    },
    /// Remove this directory on death.
    WatchScratch(#[serde(with = "bytes::path")] PathBuf),
    /// Do not remove it any more.
    ForgetScratch(#[serde(with = "bytes::path")] PathBuf),
}

/// What the spawner answers, on a socket that is for one command alone.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// The program is about to be executed, which will be the first call to wait for an answer.
    /// Descriptor: the listener.
    Watched,
    /// The program runs. Descriptors: its pidfd, its root.
    Started { pid: i32 },
    /// It does not.
    Failed(SetupError),
    /// It has ended, and every process of its PID namespace with it.
    Exited(ExitStatus),
    /// The mount is there.
    Mounted,
}

/// What a sandbox being set up tells the spawner. End of file afterwards says that the program was
/// executed.
#[derive(Serialize, Deserialize)]
pub(crate) enum Progress {
    /// Everything but the change of user is done. Descriptors: the root, the mount namespace, and
    /// where a user namespace was there from the start, that and the mount namespace of the host's
    /// view; the last three only with `allow_new_mounts`.
    Ready {
        /// It has entered a user namespace just now, and waits for its maps and a byte.
        awaits_id_map: bool,
    },
    /// Its lookups wait for answers from now on. Descriptor: the listener.
    Watched,
    /// A step failed.
    Failed(SetupError),
}

/// Why a message was not sent or received.
#[derive(Debug)]
pub(crate) enum ChannelError {
    /// The system's error.
    Io(Errno),
    /// Longer than [`MESSAGE_BYTES_MAX`].
    TooLarge(usize),
    /// Not a message.
    Message(postcard::Error),
    /// The other side is gone.
    Closed,
}

impl From<Errno> for ChannelError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => ChannelError::Closed,
            errno => ChannelError::Io(errno),
        }
    }
}

/// A connected pair of sockets, closed on exec.
pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
}

/// Sends one message. `wait`: until the other side has room, else `Errno::AGAIN`.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    message: &impl Serialize,
    fds: &[BorrowedFd<'_>],
    wait: bool,
) -> Result<(), ChannelError> {
    let mut datagram = vec![INLINE];
    datagram = postcard::to_extend(message, datagram).map_err(ChannelError::Message)?;
    if datagram.len() <= INLINE_BYTES_MAX {
        return send_datagram(socket, &datagram, fds, wait);
    }
    if datagram.len() > MESSAGE_BYTES_MAX {
        return Err(ChannelError::TooLarge(datagram.len()));
    }
    let file = rustix::fs::memfd_create("droste-request", MemfdFlags::CLOEXEC)?;
    let mut rest = &datagram[1..];
    while !rest.is_empty() {
        let written = retry(|| rustix::io::write(&file, rest))?;
        rest = &rest[written..];
    }
    let mut all = vec![file.as_fd()];
    all.extend_from_slice(fds);
    send_datagram(socket, &[IN_MEMORY_FILE], &all, wait)
}

fn send_datagram(
    socket: BorrowedFd<'_>,
    datagram: &[u8],
    fds: &[BorrowedFd<'_>],
    wait: bool,
) -> Result<(), ChannelError> {
    let mut flags = SendFlags::NOSIGNAL;
    if !wait {
        flags |= SendFlags::DONTWAIT;
    }
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX + 2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(ChannelError::Io(Errno::TOOMANYREFS));
    }
    retry(|| rustix::net::sendmsg(socket, &[IoSlice::new(datagram)], &mut ancillary, flags))?;
    Ok(())
}

/// Receives one message and its descriptors, closed on exec.
pub(crate) fn receive<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
    wait: bool,
) -> Result<(T, Vec<OwnedFd>), ChannelError> {
    let mut flags = RecvFlags::CMSG_CLOEXEC;
    if !wait {
        flags |= RecvFlags::DONTWAIT;
    }
    // The spawner receives just after it has forked, when each page that it writes to is copied:
    // one buffer, of which only what comes is written.
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; INLINE_BYTES_MAX]);
    }
    BUFFER.with_borrow_mut(|buffer| receive_into(buffer, socket, flags))
}

fn receive_into<T: DeserializeOwned>(
    datagram: &mut [u8],
    socket: BorrowedFd<'_>,
    flags: RecvFlags,
) -> Result<(T, Vec<OwnedFd>), ChannelError> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX + 2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = retry(|| {
        rustix::net::recvmsg(
            socket,
            &mut [IoSliceMut::new(datagram)],
            &mut ancillary,
            flags,
        )
    })?;
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    match datagram[..received.bytes].split_first() {
        None => Err(ChannelError::Closed),
        Some((&IN_MEMORY_FILE, [])) if !fds.is_empty() => {
            let file = fds.remove(0);
            let contents = read_memory_file(file.as_fd())?;
            let message = postcard::from_bytes(&contents).map_err(ChannelError::Message)?;
            Ok((message, fds))
        }
        Some((_, body)) => {
            let message = postcard::from_bytes(body).map_err(ChannelError::Message)?;
            Ok((message, fds))
        }
    }
}

fn read_memory_file(file: BorrowedFd<'_>) -> Result<Vec<u8>, ChannelError> {
    let length = usize::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(usize::MAX);
    if length > MESSAGE_BYTES_MAX {
        return Err(ChannelError::TooLarge(length));
    }
    let mut contents = vec![0; length];
    let mut at = 0;
    while at < length {
        let read = retry(|| rustix::io::pread(file, &mut contents[at..], at as u64))?;
        if read == 0 {
            return Err(ChannelError::Closed);
        }
        at += read;
    }
    Ok(contents)
}

/// Once more after a signal.
pub(crate) fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
