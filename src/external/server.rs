//! The daemon's side: a thread for each build that is asked for.

use std::ffi::OsStr;
use std::io::{self, BufReader, BufWriter, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use droste_executor::{Executor, Monitor, UnitOutcome};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use store_api::{BoxError, BuildMode, BuilderMessage, Store, StoreError};
use store_types::StorePath;
use store_wire::FramedWriter;

use super::message::{Reply, RequestError, read_request};
use crate::cli::error::chain;
use crate::shared_store::SharedStore;

/// How many builds may be under way. Nix has its own limit, which is below.
const CONNECTIONS_MAX: usize = 256;

/// How long a client may take to send what it wants, or to read what it is sent.
const PATIENCE: Duration = Duration::from_secs(600);

/// How often the server looks whether it is to end.
const POLL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};

/// Makes the store that a connection is served from.
pub type MakeStore = Arc<dyn Fn() -> SharedStore + Send + Sync>;

/// A listening socket and its builds. Dropping it cancels them.
pub struct ExternalBuilds {
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    executor: Arc<Executor>,
    make_store: MakeStore,
    is_stopping: AtomicBool,
    connections: AtomicUsize,
}

/// Counts a connection for as long as it is served.
struct Counted(Arc<Shared>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A build that comes to nothing, apart from the builder's own end.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("cannot read what is to be built")]
    Request(#[from] RequestError),
    #[error("cannot use the machine's store")]
    Store(#[from] StoreError),
    #[error("{}", match paths.as_slice() {
        [path] => format!("`{path}` is an input, and is not valid in the daemon's store or the machine's: \
            Nix and the daemon must use one store"),
        paths => format!("{} inputs are not valid in the daemon's store or the machine's, such as `{}`: \
            Nix and the daemon must use one store", paths.len(), paths[0]),
    })]
    NotValid { paths: Vec<String> },
    #[error(transparent)]
    Build(#[from] droste_executor::BuildError),
}

impl ExternalBuilds {
    /// Accepts connections from now on.
    ///
    /// # Errors
    /// If there can be no thread for that.
    pub fn start(
        listener: UnixListener,
        executor: Arc<Executor>,
        make_store: MakeStore,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            executor,
            make_store,
            is_stopping: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
        });
        let accepting = std::thread::Builder::new()
            .name("external".to_owned())
            .spawn({
                let shared = shared.clone();
                move || accept(&listener, &shared)
            })?;
        Ok(Self {
            shared,
            accepting: Some(accepting),
        })
    }

    /// How many builds are under way.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Drop for ExternalBuilds {
    fn drop(&mut self) {
        self.shared.is_stopping.store(true, Ordering::Relaxed);
        if let Some(accepting) = self.accepting.take() {
            // A panic there has been reported already.
            let _ = accepting.join();
        }
    }
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    let mut threads: Vec<(UnixStream, JoinHandle<()>)> = Vec::new();
    while !shared.is_stopping.load(Ordering::Relaxed) {
        threads.retain(|(_, thread)| !thread.is_finished());
        let mut fds = [PollFd::new(listener, PollFlags::IN)];
        // Woken for nothing, it looks and waits again.
        let _ = poll(&mut fds, Some(&POLL));
        let Ok((stream, _)) = listener.accept() else {
            continue;
        };
        let before = shared.connections.fetch_add(1, Ordering::Relaxed);
        let counted = Counted(shared.clone());
        if before >= CONNECTIONS_MAX {
            let text = format!("there are {CONNECTIONS_MAX} builds already");
            // Who does not read it sees the end of the connection.
            let _ = Reply::Failed(text).write(&mut &stream);
            continue;
        }
        let Ok(kept) = stream.try_clone() else {
            // Without a descriptor nothing can be built.
            continue;
        };
        let served = std::thread::Builder::new()
            .name("external build".to_owned())
            .spawn(move || {
                // The client was told what went wrong, as far as it listens.
                let _ = serve(&counted.0, &stream);
            });
        threads.extend(served.map(|thread| (kept, thread)));
    }
    for (stream, _) in &threads {
        // Nobody waits for a client that neither sends nor reads. It may have gone.
        let _ = stream.shutdown(Shutdown::Both);
    }
    for (_, thread) in threads {
        let _ = thread.join();
    }
}

fn serve(shared: &Shared, stream: &UnixStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let client = Client {
        out: Mutex::new(BufWriter::new(stream)),
        stream,
        is_stopping: &shared.is_stopping,
        is_gone: AtomicBool::new(false),
    };
    let end = match build(shared, stream, &client) {
        Ok(reply) => reply,
        Err(error) => Reply::Failed(chain(&error)),
    };
    client.send(&end)?;
    stream.shutdown(Shutdown::Write)
}

fn build(shared: &Shared, stream: &UnixStream, client: &Client<'_>) -> Result<Reply, ServeError> {
    let store = (shared.make_store)();
    let dir = store.store_dir().clone();
    let build = read_request(&mut BufReader::new(stream), &dir)?;
    let valid = store.query_valid_paths(&build.inputs, false)?;
    let missing = build.inputs.difference(&valid);
    let paths: Vec<String> = missing.map(|path| dir.display(path)).collect();
    if !paths.is_empty() {
        return Err(ServeError::NotValid { paths });
    }
    let mut take = |output: &str, made: BorrowedFd<'_>, name: &OsStr| -> Result<(), BoxError> {
        let mut out = client.lock();
        Reply::Output(output.to_owned()).write(&mut *out)?;
        let mut framed = FramedWriter::new(&mut *out);
        store_nar::dump(made.as_fd(), name, &mut framed)?;
        framed.finish()?;
        Ok(())
    };
    let exit = shared.executor.build_external(&build, client, &mut take)?;
    Ok(Reply::Ended(exit))
}

/// Who waits for a build.
struct Client<'a> {
    out: Mutex<BufWriter<&'a UnixStream>>,
    stream: &'a UnixStream,
    is_stopping: &'a AtomicBool,
    is_gone: AtomicBool,
}

impl<'a> Client<'a> {
    fn lock(&self) -> MutexGuard<'_, BufWriter<&'a UnixStream>> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, reply: &Reply) -> io::Result<()> {
        let mut out = self.lock();
        reply
            .write(&mut *out)
            .and_then(|()| out.flush())
            .inspect_err(|_| self.is_gone.store(true, Ordering::Relaxed))
    }
}

impl Monitor for Client<'_> {
    fn started(&self, _drv: &StorePath, _mode: BuildMode) {}

    fn log_line(&self, _drv: &StorePath, line: &[u8]) {
        // That nobody reads it shows in `is_cancelled`.
        let _ = self.send(&Reply::Line(line.to_owned()));
    }

    /// The other Nix reads the builder's log, and understands it.
    fn builder_message(&self, drv: &StorePath, _message: &BuilderMessage, line: &[u8]) {
        self.log_line(drv, line);
    }

    fn post_build_line(&self, _drv: &StorePath, _line: &[u8]) {}

    fn finished(&self, _outcome: &UnitOutcome) {}

    fn note(&self, text: &str) {
        let _ = self.send(&Reply::Note(text.to_owned()));
    }

    fn is_cancelled(&self) -> bool {
        if self.is_gone.load(Ordering::Relaxed) || self.is_stopping.load(Ordering::Relaxed) {
            return true;
        }
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
        let mut fds = [PollFd::new(self.stream, PollFlags::empty())];
        poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().intersects(gone)
    }
}
