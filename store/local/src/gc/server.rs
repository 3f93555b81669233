//! Who needs a path while garbage is collected says so here.
//!
//! The collector holds `gc.lock`, so others cannot; they connect to `gc-socket/socket`, send full
//! store paths, each with a newline, and wait for a `1` after each. From then on the path, and
//! whatever else has its hash part (locks, scratch directories), is kept. While the path is being
//! deleted, the answer waits.
//!
//! Source: nix `src/libstore/gc.cc`.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use store_nar::fs::{self, FlockOperation};
use store_types::{StoreDir, StorePath};

use crate::LocalError;
use crate::layout::Layout;

/// The directory in the store's state, and the socket in it.
const DIR: &str = "gc-socket";
const SOCKET: &str = "socket";
/// The name that a socket has before it takes the place of the last one.
const NEW_SOCKET: &str = "socket.new";
/// More than one process adds paths at a time, but not as many; further ones wait to be accepted.
const CLIENTS_MAX: usize = 512;
/// The longest line, in bytes: more than any path can have.
const LINE_LEN_MAX: usize = 8192;

#[derive(Default)]
struct State {
    /// The hash parts of temporary roots.
    temp_roots: HashSet<String>,
    /// The hash part of what is being deleted.
    condemned: Option<String>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    released: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a path, after waiting for the end of its deletion.
    fn keep(&self, path: &StorePath) {
        let mut state = self.lock();
        state.temp_roots.insert(path.hash_part().to_owned());
        while state.condemned.as_deref() == Some(path.hash_part()) {
            state = self
                .released
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A path that is being deleted: until this is dropped, who asks for it waits.
pub(super) struct Condemned<'a>(&'a Shared);

impl Drop for Condemned<'_> {
    fn drop(&mut self) {
        self.0.lock().condemned = None;
        self.0.released.notify_all();
    }
}

/// The socket of a collection, served until it is dropped.
pub(super) struct RootServer {
    shared: Arc<Shared>,
    /// Closed to end the thread.
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// Makes sure that there is a socket: old Nix takes a missing one for an error, and one that
/// nobody listens to for a collection that is about to begin.
pub(super) fn prepare(layout: &Layout) -> Result<(), LocalError> {
    let path = layout.state.join(DIR).join(SOCKET);
    let prepare = || -> io::Result<()> {
        // A collector of Nix's fails if it finds one between removing the old and making its own.
        let lock = fs::open_lock_file(layout.state_fd.as_fd(), OsStr::new("gc.lock"))?;
        if !fs::lock(&lock, FlockOperation::NonBlockingLockShared)? {
            // It makes it, or has made it.
            return Ok(());
        }
        let dir = open_dir(layout)?;
        if fs::stat_if_exists(dir.as_fd(), OsStr::new(SOCKET))?.is_none() {
            match UnixListener::bind(in_dir(&dir, SOCKET)) {
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    };
    prepare().map_err(LocalError::io("make the socket", path))
}

fn open_dir(layout: &Layout) -> io::Result<OwnedFd> {
    match fs::make_dir(layout.state_fd.as_fd(), OsStr::new(DIR), 0o755) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    fs::open_dir(layout.state_fd.as_fd(), OsStr::new(DIR))
}

/// The path of the directory may be longer than the address of a socket.
fn in_dir(dir: &OwnedFd, name: &str) -> String {
    format!("/proc/self/fd/{}/{name}", dir.as_raw_fd())
}

impl RootServer {
    /// Listens. The caller holds `gc.lock`, so nobody else does.
    pub(super) fn start(layout: &Layout, dir: StoreDir) -> Result<Self, LocalError> {
        let path = layout.state.join(DIR).join(SOCKET);
        let listen = || -> io::Result<UnixListener> {
            let dir = open_dir(layout)?;
            match fs::unlink(dir.as_fd(), OsStr::new(NEW_SOCKET)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let new = in_dir(&dir, NEW_SOCKET);
            let listener = UnixListener::bind(&new)?;
            listener.set_nonblocking(true)?;
            // Whoever may add to the store may say what is needed.
            std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o666))?;
            let (from, to) = (OsStr::new(NEW_SOCKET), OsStr::new(SOCKET));
            fs::rename(dir.as_fd(), from, dir.as_fd(), to)?;
            Ok(listener)
        };
        let listener = listen().map_err(LocalError::io("listen on", &path))?;
        let (stopped, stop) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|error| LocalError::io("listen on", &path)(error.into()))?;
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("gc-roots".to_owned())
            .spawn(move || serve(&listener, &stopped, &for_thread, &dir))
            .map_err(LocalError::io("start a thread for", &path))?;
        Ok(Self {
            shared,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Keeps what is named by the files of temporary roots.
    pub(super) fn add_temp_roots<'a>(&self, paths: impl IntoIterator<Item = &'a StorePath>) {
        let hash_parts = paths.into_iter().map(|path| path.hash_part().to_owned());
        self.shared.lock().temp_roots.extend(hash_parts);
    }

    /// Whether somebody needs the path, or one with its hash part.
    pub(super) fn is_temp_root(&self, path: &StorePath) -> bool {
        self.shared.lock().temp_roots.contains(path.hash_part())
    }

    /// Has whoever asks for the path from now on wait; `None` if somebody has asked already.
    pub(super) fn condemn(&self, path: &StorePath) -> Option<Condemned<'_>> {
        let mut state = self.shared.lock();
        if state.temp_roots.contains(path.hash_part()) {
            return None;
        }
        state.condemned = Some(path.hash_part().to_owned());
        Some(Condemned(&self.shared))
    }
}

impl Drop for RootServer {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // What it panicked of has been printed.
            let _ = thread.join();
        }
    }
}

/// One that adds paths.
struct Client {
    stream: UnixStream,
    /// The beginning of a line.
    pending: Vec<u8>,
}

/// Answers until the other end of `stopped` is closed; then those that are waiting find the
/// collection over.
fn serve(listener: &UnixListener, stopped: &OwnedFd, shared: &Shared, dir: &StoreDir) {
    let mut clients: Vec<Client> = Vec::new();
    loop {
        let is_full = clients.len() >= CLIENTS_MAX;
        let (is_stopped, is_asked, ready) = {
            let mut polled = vec![PollFd::new(stopped, PollFlags::IN)];
            let flags = match is_full {
                true => PollFlags::empty(),
                false => PollFlags::IN,
            };
            polled.push(PollFd::new(listener, flags));
            polled.extend(
                clients
                    .iter()
                    .map(|client| PollFd::new(&client.stream, PollFlags::IN)),
            );
            match poll(&mut polled, None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return,
            }
            let ready: Vec<bool> = polled[2..]
                .iter()
                .map(|polled| !polled.revents().is_empty())
                .collect();
            (
                !polled[0].revents().is_empty(),
                !polled[1].revents().is_empty(),
                ready,
            )
        };
        if is_stopped {
            return;
        }
        let mut ready = ready.into_iter();
        clients.retain_mut(|client| {
            !ready.next().unwrap_or(false) || client.answer(shared, dir).is_ok()
        });
        if is_asked
            && !is_full
            && let Ok((stream, _)) = listener.accept()
            && stream.set_nonblocking(true).is_ok()
        {
            clients.push(Client {
                stream,
                pending: Vec::new(),
            });
        }
    }
}

impl Client {
    /// Answers what has come; an error if there will be no more.
    fn answer(&mut self, shared: &Shared, dir: &StoreDir) -> io::Result<()> {
        let mut buffer = [0; 4096];
        let count = match self.stream.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        };
        for byte in &buffer[..count] {
            if *byte != b'\n' {
                if self.pending.len() == LINE_LEN_MAX {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                self.pending.push(*byte);
                continue;
            }
            let line = std::mem::take(&mut self.pending);
            let path = std::str::from_utf8(&line).ok();
            if let Some(path) = path.and_then(|text| dir.parse(text).ok()) {
                shared.keep(&path);
            }
            // What is no path is answered as Nix does it: it keeps nothing. Who does not read
            // the answers is not waited for.
            self.stream.write_all(b"1")?;
        }
        Ok(())
    }
}
