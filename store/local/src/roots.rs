//! Temporary roots: what a running process needs is not collected as garbage.
//!
//! A process keeps a locked file `temproots/<pid>` of NUL-terminated paths, and
//! writes to it only while no collection can begin. While one runs, the
//! collector is told by its socket as well.
//!
//! What a daemon does for one client is held for that client alone, in a file of another number:
//! [`SessionRoots`]. A thread says whose it works for by entering those; what a thread holds that
//! has entered none is held until the process ends.
//!
//! Source: nix `src/libstore/gc.cc`.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use store_nar::fs::{self, FlockOperation};
use store_types::{StoreDir, StorePath};

use crate::LocalError;
use crate::layout::Layout;

/// How long to wait for a collector that has its lock but not its socket yet, or
/// is about to end.
const COLLECTOR_POLL: Duration = Duration::from_millis(10);
/// After how many such waits it counts as dead or of a Nix without a socket.
const COLLECTOR_POLLS_MAX: usize = 60_000;
/// The step from a number that is taken to the next that is tried: no process has
/// numbers as high, so that no other process wants them.
const NUMBER_STEP: u64 = 1 << 22;
/// The last number tried; Nix reads the names as 32-bit numbers.
const NUMBER_MAX: u64 = i32::MAX as u64;

/// How many numbers are tried for a session's file: only other processes' files can be in the way.
const SESSION_NUMBERS_TRIED: u64 = 4096;

/// The temporary roots of this process, or of a session of it, in one store.
pub(crate) struct TempRoots {
    layout: Arc<Layout>,
    id: StoreId,
    is_session: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    file: Option<(OwnedFd, OsString)>,
    gc_lock: Option<OwnedFd>,
    socket: Option<UnixStream>,
    known: HashSet<StorePath>,
}

/// The device and inode of a store's state directory.
type StoreId = (u64, u64);

/// A file belongs to a process, which may have the store open twice.
static OPEN: Mutex<BTreeMap<StoreId, Weak<TempRoots>>> = Mutex::new(BTreeMap::new());

impl TempRoots {
    /// Those of this process in this store.
    pub(crate) fn of_process(layout: &Arc<Layout>) -> Result<Arc<Self>, LocalError> {
        let stat =
            fs::stat_fd(&layout.state_fd).map_err(LocalError::io("examine", &layout.state))?;
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, roots| roots.strong_count() > 0);
        let id = (stat.st_dev, stat.st_ino);
        if let Some(roots) = open.get(&id).and_then(Weak::upgrade) {
            return Ok(roots);
        }
        let roots = Arc::new(Self {
            layout: Arc::clone(layout),
            id,
            is_session: false,
            state: Mutex::default(),
        });
        open.insert(id, Arc::downgrade(&roots));
        Ok(roots)
    }

    /// Those of a session in the same store.
    pub(crate) fn session(&self) -> SessionRoots {
        SessionRoots(Arc::new(Self {
            layout: Arc::clone(&self.layout),
            id: self.id,
            is_session: true,
            state: Mutex::default(),
        }))
    }

    /// Those of the session that this thread works for, if it is one in the same store.
    pub(crate) fn of_thread(&self) -> Option<Arc<Self>> {
        ENTERED.with_borrow(|entered| {
            let of_thread = entered.last()?.as_ref()?;
            (of_thread.id == self.id).then(|| Arc::clone(of_thread))
        })
    }

    /// Makes the file, if it is not there yet: what stays of it tells that this process was killed.
    pub(crate) fn announce(&self) -> Result<(), LocalError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.file.is_none() {
            state.file = Some(open_file(&self.layout, self.is_session)?);
        }
        Ok(())
    }

    /// Keeps a path from being collected until this is dropped.
    pub(crate) fn add(&self, dir: &StoreDir, path: &StorePath) -> Result<(), LocalError> {
        let mut guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *guard;
        if state.known.contains(path) {
            return Ok(());
        }
        let layout = &self.layout;
        let lock_path = layout.state.join("gc.lock");
        let file = match &state.file {
            Some((file, _)) => file,
            None => &state.file.insert(open_file(layout, self.is_session)?).0,
        };
        let gc_lock = match &state.gc_lock {
            Some(gc_lock) => gc_lock,
            None => {
                let fd = fs::open_lock_file(layout.state_fd.as_fd(), OsStr::new("gc.lock"))
                    .map_err(LocalError::io("open", &lock_path))?;
                state.gc_lock.insert(fd)
            }
        };
        let text = dir.display(path);
        let write = || {
            fs::write_all(file, format!("{text}\0").as_bytes())
                .map_err(LocalError::io("write to", layout.state.join("temproots")))
        };
        for _ in 0..COLLECTOR_POLLS_MAX {
            if fs::lock(gc_lock, FlockOperation::NonBlockingLockShared)
                .map_err(LocalError::io("lock", &lock_path))?
            {
                let written = write();
                fs::lock(gc_lock, FlockOperation::Unlock)
                    .map_err(LocalError::io("unlock", &lock_path))?;
                written?;
                state.known.insert(path.clone());
                return Ok(());
            }
            if state.socket.is_none() {
                state.socket = connect(layout);
            }
            let told = state.socket.as_mut().is_some_and(|socket| {
                let mut answer = [0];
                socket.write_all(format!("{text}\n").as_bytes()).is_ok()
                    && socket.read_exact(&mut answer).is_ok()
                    && answer == *b"1"
            });
            if told {
                write()?;
                state.known.insert(path.clone());
                return Ok(());
            }
            state.socket = None;
            std::thread::sleep(COLLECTOR_POLL);
        }
        Err(LocalError::CollectorSilent { path: lock_path })
    }
}

/// A collector's socket, if there is one. Its path may be longer than the address
/// of a socket, so it is reached through a descriptor.
fn connect(layout: &Layout) -> Option<UnixStream> {
    let dir = fs::open_dir(layout.state_fd.as_fd(), OsStr::new("gc-socket")).ok()?;
    UnixStream::connect(format!("/proc/self/fd/{}/socket", dir.as_raw_fd())).ok()
}

/// The numbers that a file may have: this process's own first, or numbers that no process has.
fn numbers(is_session: bool) -> Box<dyn Iterator<Item = u64>> {
    static SESSIONS: AtomicU64 = AtomicU64::new(0);
    let process = u64::from(std::process::id());
    if !is_session {
        return Box::new((process..=NUMBER_MAX).step_by(NUMBER_STEP as usize));
    }
    // Far from those of other processes.
    let first = process * SESSION_NUMBERS_TRIED + SESSIONS.fetch_add(1, Ordering::Relaxed);
    let number = move |tried| NUMBER_STEP + (first + tried) % (NUMBER_MAX - NUMBER_STEP);
    Box::new((0..SESSION_NUMBERS_TRIED).map(number))
}

/// Makes and locks a file of this process.
fn open_file(layout: &Layout, is_session: bool) -> Result<(OwnedFd, OsString), LocalError> {
    let dir_path = layout.state.join("temproots");
    let dir = fs::open_dir(layout.state_fd.as_fd(), OsStr::new("temproots"))
        .map_err(LocalError::io("open", &dir_path))?;
    let mut numbers = numbers(is_session).peekable();
    while let Some(&number) = numbers.peek() {
        let name = OsString::from(number.to_string());
        let try_number = || -> io::Result<Option<OwnedFd>> {
            let fd = fs::open_lock_file(dir.as_fd(), &name)?;
            if !fs::lock(&fd, FlockOperation::NonBlockingLockExclusive)? {
                return Ok(None);
            }
            // Left behind by a process of the same number, or, if a collector was
            // at it meanwhile, marked and removed: then it is made anew.
            let stat = fs::stat_fd(&fd)?;
            if stat.st_size == 0 {
                let named = fs::stat_if_exists(dir.as_fd(), &name)?;
                if named.is_some_and(|named| named.st_ino == stat.st_ino) {
                    return Ok(Some(fd));
                }
            } else {
                match fs::unlink(dir.as_fd(), &name) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    Ok(()) | Err(_) => {}
                }
            }
            Err(io::ErrorKind::Interrupted.into())
        };
        match try_number() {
            Ok(Some(fd)) => return Ok((fd, name)),
            // Held by a living process of another PID namespace, or another session.
            Ok(None) => drop(numbers.next()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(LocalError::io("make", dir_path.join(&name))(error)),
        }
    }
    Err(LocalError::io("find a free name in", dir_path)(
        io::ErrorKind::AlreadyExists.into(),
    ))
}

impl Drop for TempRoots {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, name)) = state.file.take() {
            let dir = fs::open_dir(self.layout.state_fd.as_fd(), OsStr::new("temproots"));
            // One that stays is not locked, and any collector removes it.
            let _ = dir.and_then(|dir| fs::unlink(dir.as_fd(), &name));
        }
    }
}

thread_local! {
    /// What this thread has entered, the innermost last; `None` is the process.
    static ENTERED: RefCell<Vec<Option<Arc<TempRoots>>>> = const { RefCell::new(Vec::new()) };
}

/// Temporary roots that are held until the last clone of this is dropped, and not longer: those of
/// one client of a daemon, and of what is built for it.
#[derive(Clone)]
pub struct SessionRoots(Arc<TempRoots>);

impl SessionRoots {
    /// What this thread holds from now on is held by these, until what is returned is dropped.
    pub fn enter(&self) -> EnteredRoots {
        EnteredRoots::new(Some(Arc::clone(&self.0)))
    }

    /// Those that this thread has entered, for another thread that works for it.
    pub fn of_thread() -> Option<Self> {
        ENTERED.with_borrow(|entered| entered.last()?.clone().map(Self))
    }

    /// What this thread holds from now on is held until the process ends, until what is returned
    /// is dropped: what is used for others as well.
    pub fn leave() -> EnteredRoots {
        EnteredRoots::new(None)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        let state = self.0.state.lock();
        state.unwrap_or_else(PoisonError::into_inner).known.len()
    }

    /// Whether a path is one of them.
    pub fn contains(&self, path: &StorePath) -> bool {
        let state = self.0.state.lock();
        let state = state.unwrap_or_else(PoisonError::into_inner);
        state.known.contains(path)
    }
}

/// Says whose a thread's temporary roots are; see [`SessionRoots`].
#[must_use = "it ends when this is dropped"]
pub struct EnteredRoots {
    /// It is this thread's.
    _not_send: PhantomData<*const ()>,
}

impl EnteredRoots {
    fn new(roots: Option<Arc<TempRoots>>) -> Self {
        ENTERED.with_borrow_mut(|entered| entered.push(roots));
        Self {
            _not_send: PhantomData,
        }
    }
}

impl Drop for EnteredRoots {
    fn drop(&mut self) {
        // The roots' own end is not within the borrow.
        let left = ENTERED.with_borrow_mut(Vec::pop);
        drop(left);
    }
}
