//! One connection: handshake, then requests until the client leaves.

use std::collections::BTreeSet;
use std::error::Error;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use store_api::{MessageLevel, Store, StoreError};
use store_wire::{
    HandshakeError, Hello, Reader, RemoteError, Request, Response, Session, SharedBudget,
    StderrFrame, Trust, Version, WireError, Writer, feature, handshake_as_server,
};

use crate::{inside, operations};

/// How much is read and written at once.
const BUFFER_LEN: usize = 64 << 10;

/// How long a client may go on sending after an error.
const LINGER: Duration = Duration::from_secs(1);

/// What a server says to its clients and lets them do.
#[derive(Clone, Debug)]
pub struct ConnectionOptions {
    /// Only a [`Trust::Trusted`] client may repair, skip signature checks, add
    /// logs and realisations, and build input-addressed derivations that it
    /// sends itself.
    pub trust: Trust,
    /// The Nix version to behave like, which clients show.
    pub nix_version: String,
}

/// Why a connection ended before its client left in order.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// There was no connection.
    #[error("cannot greet the client")]
    Handshake(#[from] HandshakeError),
    /// The client sent what is no request.
    #[error("cannot read the client's request")]
    Request(#[from] WireError),
    /// The client is gone.
    #[error("cannot answer the client")]
    Write(#[source] io::Error),
    /// The payload of a request ended or broke off before its end.
    #[error("cannot read what belongs to the client's `{operation}`")]
    Payload {
        /// Nix's name of the operation.
        operation: &'static str,
        /// The failure.
        #[source]
        source: io::Error,
    },
    /// The store failed when part of the answer was sent already.
    #[error("cannot complete the answer to the client's `{operation}`")]
    Answer {
        /// Nix's name of the operation.
        operation: &'static str,
        /// The failure.
        #[source]
        source: StoreError,
    },
}

/// Answers a client until it leaves. An error concerns this connection alone.
pub fn serve_connection(
    stream: UnixStream,
    store: &dyn Store,
    options: &ConnectionOptions,
) -> Result<(), ConnectionError> {
    let served = serve_streams(
        &stream,
        &stream,
        &|| is_hung_up(&stream),
        &mut || {},
        store,
        options,
    );
    if served.is_err() {
        linger(&stream);
    }
    served
}

/// Reads what a client still sends after an error, for a moment: a socket that
/// is closed with unread bytes breaks the client's writing, and it would never
/// come to read the error.
pub(crate) fn linger(stream: &UnixStream) {
    let deadline = Instant::now() + LINGER;
    let mut forgotten = [0; 4096];
    let _ = stream.shutdown(Shutdown::Write);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            return;
        }
        match (&*stream).read(&mut forgotten) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// Whether the other side has closed the connection altogether. Half a close
/// is none: who has sent everything may still wait for the answer.
pub(crate) fn is_hung_up(stream: &UnixStream) -> bool {
    let mut fds = [PollFd::new(stream, PollFlags::empty())];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
    poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().intersects(gone)
}

/// The features that are offered outside of builds.
const OUTSIDE_FEATURES: [&str; 1] = [feature::REALISATION_WITH_PATH];

/// Like [`serve_connection`], over any two streams. `is_hung_up` is asked
/// during builds; `on_ready` is called after the handshake.
pub fn serve_streams(
    input: impl Read,
    output: impl Write + Send,
    is_hung_up: &(dyn Fn() -> bool + Sync),
    on_ready: &mut dyn FnMut(),
    store: &dyn Store,
    options: &ConnectionOptions,
) -> Result<(), ConnectionError> {
    let mut is_ready = false;
    let mut on_wait = |_: Wait| {
        if !std::mem::replace(&mut is_ready, true) {
            on_ready();
        }
    };
    serve_within(
        input,
        output,
        is_hung_up,
        &mut on_wait,
        None,
        store,
        options,
    )
}

/// What is waited for from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// The next request, if there is one, or what belongs to the one that was read.
    Client,
    /// The rest of a request that has begun.
    Rest,
}

/// The same, with what messages hold taken from a budget that connections share. `on_wait` is
/// called first after the handshake.
pub(crate) fn serve_within(
    input: impl Read,
    output: impl Write + Send,
    is_hung_up: &(dyn Fn() -> bool + Sync),
    on_wait: &mut dyn FnMut(Wait),
    budget: Option<Arc<SharedBudget>>,
    store: &dyn Store,
    options: &ConnectionOptions,
) -> Result<(), ConnectionError> {
    let mut reader =
        Reader::new(BufReader::with_capacity(BUFFER_LEN, input)).sharing(budget.clone());
    let mut output = BufWriter::with_capacity(BUFFER_LEN, output);
    let hello = Hello {
        nix_version: options.nix_version.clone(),
        trust: options.trust,
    };
    let features = store
        .of_build()
        .map_or(&OUTSIDE_FEATURES[..], inside::features);
    let features: BTreeSet<String> = features.iter().copied().map(String::from).collect();
    let session = handshake_as_server(
        &mut reader,
        &mut output,
        &hello,
        &features,
        store.store_dir(),
    )
    .inspect_err(|err| {
        if matches!(err, HandshakeError::Version { .. }) {
            // In the form of the oldest version; whether the client reads it is
            // its own affair.
            let session = Session::new(Version::MINIMUM, store.store_dir().clone());
            let frame = StderrFrame::Error(RemoteError::new(err.to_string()));
            let _ = send_frame(&mut output, &session, &frame);
        }
    })?;
    store.set_hashes_offsets(session.hashes_offsets());
    on_wait(Wait::Client);
    let mut connection = Connection {
        session,
        reader,
        budget,
        output,
        is_hung_up,
        store,
        trusted: options.trust == Trust::Trusted,
        verbosity: MessageLevel::Info as u64,
    };
    connection.send_frame(&StderrFrame::Last)?;
    loop {
        // What a client sends is a whole request, or nothing for as long as it likes.
        let has_begun = connection.reader.inner().fill_buf();
        let has_begun = has_begun.is_ok_and(|bytes| !bytes.is_empty());
        if has_begun {
            on_wait(Wait::Rest);
        }
        let read = Request::read(&connection.session, &mut connection.reader);
        if has_begun {
            on_wait(Wait::Client);
        }
        match read {
            Ok(Some(request)) => {
                operations::answer(&mut connection, request)?;
                connection.reader.begin_message();
            }
            Ok(None) => return Ok(()),
            Err(err) => {
                // Where the next request begins is not known any more.
                connection.send_error(&err)?;
                return Err(err.into());
            }
        }
    }
}

/// A connection after its handshake.
pub(crate) struct Connection<'a, R: Read, W: Write> {
    pub(crate) session: Session,
    pub(crate) reader: Reader<BufReader<R>>,
    pub(crate) budget: Option<Arc<SharedBudget>>,
    pub(crate) output: BufWriter<W>,
    pub(crate) is_hung_up: &'a (dyn Fn() -> bool + Sync),
    pub(crate) store: &'a dyn Store,
    pub(crate) trusted: bool,
    /// What the client wants shown: what has no higher level.
    pub(crate) verbosity: u64,
}

impl<R: Read, W: Write> Connection<'_, R, W> {
    /// Sends a frame at once.
    pub(crate) fn send_frame(&mut self, frame: &StderrFrame) -> Result<(), ConnectionError> {
        send_frame(&mut self.output, &self.session, frame).map_err(ConnectionError::Write)
    }

    /// Sends an error in place of a reply.
    pub(crate) fn send_error(
        &mut self,
        err: &(dyn Error + 'static),
    ) -> Result<(), ConnectionError> {
        let text = for_client(err, &self.session);
        self.send_frame(&StderrFrame::Error(RemoteError::new(text)))
    }

    /// Sends the reply, after the end of the log.
    pub(crate) fn send_response(&mut self, response: &Response) -> Result<(), ConnectionError> {
        let mut w = Writer::new();
        StderrFrame::Last.write(&self.session, &mut w);
        response.write(&self.session, &mut w);
        self.output
            .write_all(&w.into_bytes())
            .and_then(|()| self.output.flush())
            .map_err(ConnectionError::Write)
    }
}

/// Writes a frame and flushes.
pub(crate) fn send_frame(
    output: &mut impl Write,
    session: &Session,
    frame: &StderrFrame,
) -> io::Result<()> {
    let mut w = Writer::new();
    frame.write(session, &mut w);
    output.write_all(&w.into_bytes())?;
    output.flush()
}

/// An error and its causes with Nix's quotes, as clients show them.
pub(crate) fn for_client(err: &(dyn Error + 'static), session: &Session) -> String {
    match err.downcast_ref() {
        Some(StoreError::NotValid { path }) => {
            format!("path '{}' is not valid", session.store_dir.display(path))
        }
        Some(StoreError::Untrusted { path }) => format!(
            "cannot add path '{}' because it lacks a signature by a trusted key",
            session.store_dir.display(path)
        ),
        // Another server's words are as they are.
        Some(StoreError::Remote { .. }) => chain(err),
        _ => chain(err).replace('`', "'"),
    }
}

/// An error and its causes.
pub(crate) fn chain(err: &dyn Error) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(err) = cause {
        text.push_str(": ");
        text.push_str(&err.to_string());
        cause = err.source();
    }
    text
}
