//! Accepting connections: a thread for each, no more than allowed, and an end
//! on demand.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use store_api::Store;
use store_wire::{RemoteError, Session, StderrFrame, Version, Writer};

use crate::connection::{ConnectionOptions, is_hung_up, linger, serve_streams};

/// How many refused connections are kept open so that their clients can read
/// why they were refused.
const REFUSED_MAX: usize = 256;

/// For how long.
const REFUSED_KEPT: Duration = Duration::from_secs(10);

/// How long accepting pauses when the process has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long [`Server::stop`] waits for the store to notice that its clients are
/// gone.
const STOP_WAIT: Duration = Duration::from_secs(10);

/// Bounds on what clients can take of this process.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time; further ones are refused with an error.
    pub connections_max: usize,
    /// How long a client may take for each message of the handshake.
    pub handshake_timeout: Duration,
    /// How long a client may leave what is sent to it unread before it counts as
    /// gone.
    pub write_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A build with -j64 whose compilers each hold a connection or two.
            connections_max: 256,
            handshake_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(600),
        }
    }
}

/// Makes the store that a connection is served from.
pub type MakeStore = Arc<dyn Fn() -> Arc<dyn Store> + Send + Sync>;

/// A listening socket and its connections. Dropping it stops it.
pub struct Server {
    shared: Arc<Shared>,
    /// Closing it wakes the accept loop.
    wake: Option<UnixStream>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    connections: Mutex<Connections>,
    one_ended: Condvar,
}

#[derive(Default)]
struct Connections {
    is_stopping: bool,
    last_id: u64,
    streams: HashMap<u64, UnixStream>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Connections> {
        // Nothing is done under the lock that could leave the map half changed.
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a connection off the list when its thread ends, however it ends.
struct Listed {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.shared.lock().streams.remove(&self.id);
        self.shared.one_ended.notify_all();
    }
}

impl Server {
    /// Accepts connections from now on, in threads of their own.
    pub fn start(
        listener: UnixListener,
        make_store: MakeStore,
        options: ConnectionOptions,
        limits: Limits,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let (wake, woken) = UnixStream::pair()?;
        let shared = Arc::new(Shared::default());
        let acceptor = Acceptor {
            listener,
            woken,
            shared: shared.clone(),
            make_store,
            options: Arc::new(options),
            limits,
            refused: VecDeque::new(),
        };
        let accepting = thread::Builder::new()
            .name("accept".to_owned())
            .spawn(move || acceptor.run())?;
        Ok(Self {
            shared,
            wake: Some(wake),
            accepting: Some(accepting),
        })
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.shared.lock().streams.len()
    }

    /// Ends accepting, closes all connections, which cancels their builds, and
    /// waits until their threads have ended. Returns how many were still within
    /// the store after ten seconds; those end when the store returns.
    pub fn stop(mut self) -> usize {
        self.end()
    }

    fn end(&mut self) -> usize {
        let Some(accepting) = self.accepting.take() else {
            return 0;
        };
        self.shared.lock().is_stopping = true;
        self.wake = None;
        // A panic there has been reported already; there is nothing to add.
        let _ = accepting.join();
        let mut connections = self.shared.lock();
        for stream in connections.streams.values() {
            // It may have been closed by the client.
            let _ = stream.shutdown(Shutdown::Both);
        }
        let deadline = Instant::now() + STOP_WAIT;
        while !connections.streams.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            connections = self
                .shared
                .one_ended
                .wait_timeout(connections, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        connections.streams.len()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

struct Acceptor {
    listener: UnixListener,
    woken: UnixStream,
    shared: Arc<Shared>,
    make_store: MakeStore,
    options: Arc<ConnectionOptions>,
    limits: Limits,
    refused: VecDeque<(Instant, UnixStream)>,
}

impl Acceptor {
    fn run(mut self) {
        while !self.shared.lock().is_stopping {
            let patience = (!self.refused.is_empty()).then_some(REFUSED_KEPT);
            self.wait(&[self.listener.as_fd(), self.woken.as_fd()], patience);
            let now = Instant::now();
            self.refused
                .retain(|(since, _)| now.duration_since(*since) < REFUSED_KEPT);
            match self.listener.accept() {
                Ok((stream, _)) => self.accepted(stream),
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.wait(&[self.woken.as_fd()], Some(ACCEPT_PAUSE)),
            }
        }
    }

    fn wait(&self, on: &[BorrowedFd<'_>], patience: Option<Duration>) {
        let mut fds: Vec<_> = on
            .iter()
            .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
            .collect();
        let patience = patience.and_then(|patience| Timespec::try_from(patience).ok());
        // Woken for nothing, the loop looks and waits again.
        let _ = poll(&mut fds, patience.as_ref());
    }

    fn accepted(&mut self, stream: UnixStream) {
        match self.start(&stream) {
            Ok(true) => {}
            Ok(false) => {
                let most = self.limits.connections_max;
                self.refuse(stream, format!("there are {most} connections already"));
            }
            Err(err) => self.refuse(stream, format!("cannot start a connection: {err}")),
        }
    }

    /// Starts a connection's thread; `false` if there are too many.
    fn start(&self, stream: &UnixStream) -> io::Result<bool> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(self.limits.handshake_timeout))?;
        stream.set_write_timeout(Some(self.limits.write_timeout))?;
        let served = stream.try_clone()?;
        let kept = stream.try_clone()?;
        let mut connections = self.shared.lock();
        if connections.streams.len() >= self.limits.connections_max {
            return Ok(false);
        }
        connections.last_id += 1;
        let id = connections.last_id;
        connections.streams.insert(id, kept);
        drop(connections);
        let listed = Listed {
            shared: self.shared.clone(),
            id,
        };
        let make_store = self.make_store.clone();
        let options = self.options.clone();
        thread::Builder::new()
            .name("connection".to_owned())
            .spawn(move || {
                let listed = listed;
                let store = make_store();
                let ended = serve_streams(
                    &served,
                    &served,
                    &|| is_hung_up(&served),
                    &mut || {
                        // Between two requests a client may take its time.
                        let _ = served.set_read_timeout(None);
                    },
                    &*store,
                    &options,
                );
                // The client was told what went wrong, as far as it listens; it
                // concerns nobody else.
                if ended.is_err() {
                    linger(&served);
                }
                drop(listed);
            })?;
        Ok(true)
    }

    /// Tells the client that there is no place for it, without waiting for
    /// anything it sends: in the form of the oldest version, a server's part of
    /// the handshake depends on nothing.
    fn refuse(&mut self, stream: UnixStream, reason: String) {
        let session = Session::new(Version::MINIMUM, Default::default());
        let mut w = Writer::new();
        w.u64(store_wire::MAGIC_OF_SERVER)
            .u64(Version::MINIMUM.to_wire());
        StderrFrame::Error(RemoteError::new(reason)).write(&session, &mut w);
        // A fresh socket's buffer has room for these bytes; who closed it already
        // needs no answer.
        let _ = stream
            .set_nonblocking(true)
            .and_then(|()| (&stream).write_all(&w.into_bytes()));
        // If it were closed at once, with the client's greeting unread, the
        // client would see a broken connection and not the reason.
        self.refused.push_back((Instant::now(), stream));
        if self.refused.len() > REFUSED_MAX {
            self.refused.pop_front();
        }
    }
}
