//! Accepting connections: a thread for each, no more than allowed, and an end
//! on demand.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use droste_sys::{Credentials, peer_credentials};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use store_api::Store;
use store_wire::{
    MESSAGE_BYTES_MAX, RemoteError, Session, SharedBudget, StderrFrame, Trust, Version, Writer,
};

use crate::connection::{ConnectionOptions, Wait, is_hung_up, linger, serve_within};

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
    /// Connections of one user at a time, so that there is a place for others.
    pub connections_of_user_max: usize,
    /// How long a client may take for each message of the handshake.
    pub handshake_timeout: Duration,
    /// How long a client may leave what is sent to it unread before it counts as
    /// gone.
    pub write_timeout: Duration,
    /// How long a client may pause within a request.
    pub request_timeout: Duration,
    /// What all requests may hold while they are read and answered, in bytes, small ones not
    /// counted; who asks for more is refused.
    pub requests_bytes_max: u64,
    /// What those of one user may.
    pub requests_of_user_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A build with -j64 whose compilers each hold a connection or two.
            connections_max: 256,
            connections_of_user_max: 256,
            handshake_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(600),
            request_timeout: Duration::from_secs(120),
            // The largest requests that there are four times over, twice.
            requests_bytes_max: 8 * MESSAGE_BYTES_MAX,
            requests_of_user_bytes_max: 4 * MESSAGE_BYTES_MAX,
        }
    }
}

/// Makes the store that a connection is served from.
pub type MakeStore = Arc<dyn Fn() -> Arc<dyn Store> + Send + Sync>;

/// How a client is served.
pub struct Admitted {
    /// The store that it sees.
    pub store: Arc<dyn Store>,
    /// What it is told of itself, and may do.
    pub trust: Trust,
}

/// Decides who is served, and how. An `Err` is what a client is told that is not.
pub type Admit = Arc<dyn Fn(&Credentials) -> Result<Admitted, String> + Send + Sync>;

/// Listening sockets and their connections. Dropping it stops it.
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
    /// With the user of each.
    streams: HashMap<u64, (Arc<UnixStream>, u32)>,
    /// How many each user has, and what their requests hold.
    of_users: HashMap<u32, (usize, Arc<SharedBudget>)>,
}

impl Connections {
    fn remove(&mut self, id: u64) {
        let Some((_, uid)) = self.streams.remove(&id) else {
            return;
        };
        if let Entry::Occupied(mut count) = self.of_users.entry(uid) {
            count.get_mut().0 -= 1;
            if count.get().0 == 0 {
                count.remove();
            }
        }
    }
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
        self.shared.lock().remove(self.id);
        self.shared.one_ended.notify_all();
    }
}

impl Server {
    /// Accepts connections of everybody from now on, in threads of their own.
    pub fn start(
        listener: UnixListener,
        make_store: MakeStore,
        options: ConnectionOptions,
        limits: Limits,
    ) -> io::Result<Self> {
        let trust = options.trust;
        let admit = move |_: &Credentials| {
            let store = make_store();
            Ok(Admitted { store, trust })
        };
        let version = options.nix_version;
        Self::start_for(vec![listener], Arc::new(admit), version, limits)
    }

    /// The same, of those who are admitted, on several sockets.
    pub fn start_for(
        listeners: Vec<UnixListener>,
        admit: Admit,
        nix_version: String,
        limits: Limits,
    ) -> io::Result<Self> {
        for listener in &listeners {
            listener.set_nonblocking(true)?;
        }
        let (wake, woken) = UnixStream::pair()?;
        let shared = Arc::new(Shared::default());
        let acceptor = Acceptor {
            listeners,
            woken,
            shared: shared.clone(),
            admit,
            nix_version: nix_version.into(),
            limits,
            budget: SharedBudget::new(limits.requests_bytes_max),
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
        for (stream, _) in connections.streams.values() {
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
    listeners: Vec<UnixListener>,
    woken: UnixStream,
    shared: Arc<Shared>,
    admit: Admit,
    nix_version: Arc<str>,
    limits: Limits,
    budget: Arc<SharedBudget>,
    refused: VecDeque<(Instant, Arc<UnixStream>)>,
}

impl Acceptor {
    fn run(mut self) {
        while !self.shared.lock().is_stopping {
            let patience = (!self.refused.is_empty()).then_some(REFUSED_KEPT);
            let mut on: Vec<BorrowedFd<'_>> =
                self.listeners.iter().map(UnixListener::as_fd).collect();
            on.push(self.woken.as_fd());
            self.wait(&on, patience);
            let now = Instant::now();
            self.refused
                .retain(|(since, _)| now.duration_since(*since) < REFUSED_KEPT);
            for number in 0..self.listeners.len() {
                self.accept(number);
            }
        }
    }

    fn accept(&mut self, number: usize) {
        match self.listeners[number].accept() {
            Ok((stream, _)) => self.accepted(stream),
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.wait(&[self.woken.as_fd()], Some(ACCEPT_PAUSE)),
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
        let stream = Arc::new(stream);
        match self.start(&stream) {
            Ok(None) => {}
            Ok(Some(reason)) => self.refuse(stream, reason),
            Err(err) => self.refuse(stream, format!("cannot start a connection: {err}")),
        }
    }

    /// Starts a connection's thread; what is said instead if there are too many.
    fn start(&self, stream: &Arc<UnixStream>) -> io::Result<Option<String>> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(self.limits.handshake_timeout))?;
        stream.set_write_timeout(Some(self.limits.write_timeout))?;
        let peer = peer_credentials(stream.as_fd())?;
        let mut connections = self.shared.lock();
        let all = connections.streams.len();
        let of_user = connections.of_users.get(&peer.uid);
        let of_user = of_user.map_or(0, |(count, _)| *count);
        if all >= self.limits.connections_max {
            return Ok(Some(format!("there are {all} connections already")));
        }
        if of_user >= self.limits.connections_of_user_max {
            let uid = peer.uid;
            return Ok(Some(format!(
                "there are {of_user} connections of user {uid} already"
            )));
        }
        connections.last_id += 1;
        let id = connections.last_id;
        connections.streams.insert(id, (stream.clone(), peer.uid));
        let (count, budget) = connections.of_users.entry(peer.uid).or_insert_with(|| {
            let max = self.limits.requests_of_user_bytes_max;
            (0, SharedBudget::part_of(&self.budget, max))
        });
        *count += 1;
        let budget = budget.clone();
        drop(connections);
        let listed = Listed {
            shared: self.shared.clone(),
            id,
        };
        let admit = self.admit.clone();
        let nix_version = self.nix_version.clone();
        let served = stream.clone();
        let request_timeout = self.limits.request_timeout;
        thread::Builder::new()
            .name("connection".to_owned())
            .spawn(move || {
                let listed = listed;
                serve(
                    &served,
                    &peer,
                    &admit,
                    &nix_version,
                    request_timeout,
                    budget,
                );
                drop(listed);
            })?;
        Ok(None)
    }

    /// Tells the client that there is no place for it, and keeps the connection for a while.
    fn refuse(&mut self, stream: Arc<UnixStream>, reason: String) {
        // A fresh socket's buffer has room for these bytes; who closed it already
        // needs no answer.
        let _ = stream
            .set_nonblocking(true)
            .and_then(|()| (&*stream).write_all(&refusal(reason)));
        // If it were closed at once, with the client's greeting unread, the
        // client would see a broken connection and not the reason.
        self.refused.push_back((Instant::now(), stream));
        if self.refused.len() > REFUSED_MAX {
            self.refused.pop_front();
        }
    }
}

/// A connection from its begin to its end.
fn serve(
    stream: &UnixStream,
    peer: &Credentials,
    admit: &Admit,
    nix_version: &str,
    request_timeout: Duration,
    budget: Arc<SharedBudget>,
) {
    let admitted = match admit(peer) {
        Ok(admitted) => admitted,
        Err(reason) => {
            // Who does not listen is told nothing, and that is all.
            let _ = (&*stream).write_all(&refusal(reason));
            linger(stream);
            return;
        }
    };
    let options = ConnectionOptions {
        trust: admitted.trust,
        nix_version: nix_version.to_owned(),
    };
    let ended = serve_within(
        stream,
        stream,
        &|| is_hung_up(stream),
        &mut |wait| {
            // Between two requests a client may take its time.
            let timeout = (wait == Wait::Rest).then_some(request_timeout);
            let _ = stream.set_read_timeout(timeout);
        },
        Some(budget),
        &*admitted.store,
        &options,
    );
    // The client was told what went wrong, as far as it listens; it concerns nobody
    // else.
    if ended.is_err() {
        linger(stream);
    }
}

/// What a client is told that is not served, without waiting for anything it sends: in the form of
/// the oldest version, a server's part of the handshake depends on nothing.
fn refusal(reason: String) -> Vec<u8> {
    let session = Session::new(Version::MINIMUM, Default::default());
    let mut w = Writer::new();
    w.u64(store_wire::MAGIC_OF_SERVER)
        .u64(Version::MINIMUM.to_wire());
    StderrFrame::Error(RemoteError::new(reason)).write(&session, &mut w);
    w.into_bytes()
}
