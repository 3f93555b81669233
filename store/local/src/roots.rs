//! Temporary roots: what a running process needs is not collected as garbage.
//!
//! A process keeps a locked file `temproots/<pid>` of NUL-terminated paths, and
//! writes to it only while no collection can begin. While one runs, the
//! collector is told by its socket as well.
//!
//! Nix has a process for each client, with which its roots go. Here clients share one: what is held
//! for them is held *in passing* ([`RootScope`]), in a file of its own, and goes when all have gone
//! ([`PassingHold`]) that were there when it was held last. Who uses a path that another has held
//! holds it again, so it is there as long as its last user.
//!
//! Source: nix `src/libstore/gc.cc`.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
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

/// The temporary roots of this process in one store.
///
/// In passing, a path is held by who asks for it, and in the other way for all that the process
/// remembers: both may be said of one.
pub(crate) struct TempRoots {
    layout: Arc<Layout>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lasting_file: Option<RootsFile>,
    passing_file: Option<RootsFile>,
    gc_lock: Option<OwnedFd>,
    socket: Option<UnixStream>,
    lasting: HashSet<StorePath>,
    /// What is held in passing, and when that was last asked for.
    passing: HashMap<StorePath, u64>,
    /// When those who are there began.
    holds: BTreeSet<u64>,
    /// Counts all that has a time here.
    clock: u64,
}

/// A locked file of roots, and its name.
struct RootsFile(OwnedFd, OsString);

/// How long what a thread holds is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootScope {
    /// As long as the process has the store open.
    Lasting,
    /// As long as one of those is there who are there now; where nobody is, like
    /// [`Lasting`](Self::Lasting).
    Passing,
}

thread_local! {
    static SCOPE: Cell<RootScope> = const { Cell::new(RootScope::Lasting) };
}

impl RootScope {
    /// That of this thread, which is [`Lasting`](Self::Lasting) at first.
    pub fn current() -> Self {
        SCOPE.get()
    }

    /// Sets it for this thread until the guard is dropped.
    pub fn enter(self) -> EnteredScope {
        EnteredScope {
            before: SCOPE.replace(self),
            of_thread: PhantomData,
        }
    }
}

/// Gives the thread its scope back.
#[must_use]
pub struct EnteredScope {
    before: RootScope,
    of_thread: PhantomData<*const ()>,
}

impl Drop for EnteredScope {
    fn drop(&mut self) {
        SCOPE.set(self.before);
    }
}

/// Somebody for whom things are held in passing.
pub struct PassingHold {
    roots: Arc<TempRoots>,
    since: u64,
}

impl Drop for PassingHold {
    fn drop(&mut self) {
        self.roots.release(self.since);
    }
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
            state: Mutex::default(),
        });
        open.insert(id, Arc::downgrade(&roots));
        Ok(roots)
    }

    /// Somebody is there from now on.
    pub(crate) fn hold(self: &Arc<Self>) -> PassingHold {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.clock += 1;
        let since = state.clock;
        state.holds.insert(since);
        PassingHold {
            roots: Arc::clone(self),
            since,
        }
    }

    /// Somebody who came then has gone.
    fn release(&self, since: u64) {
        let mut guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *guard;
        state.holds.remove(&since);
        let oldest = state.holds.first().copied().unwrap_or(u64::MAX);
        let kept = state.passing.values().filter(|at| **at >= oldest).count();
        // Those that stay are written anew: not for a few that go.
        if state.passing.len() - kept <= kept || !self.forget(state, oldest).unwrap_or(false) {
            // Another time.
            return;
        }
        state.passing.retain(|_, at| *at >= oldest);
    }

    /// Replaces the file by one without what was held before `oldest`; whether that could be: not
    /// while somebody collects, who may be reading it.
    fn forget(&self, state: &mut State, oldest: u64) -> Result<bool, LocalError> {
        let layout = &self.layout;
        let lock_path = layout.state.join("gc.lock");
        let Some(gc_lock) = &state.gc_lock else {
            return Ok(false);
        };
        if !fs::lock(gc_lock, FlockOperation::NonBlockingLockShared)
            .map_err(LocalError::io("lock", &lock_path))?
        {
            return Ok(false);
        }
        let replace = || -> Result<Option<RootsFile>, LocalError> {
            let kept = state.passing.iter().filter(|(_, at)| **at >= oldest);
            let text: String = kept
                .map(|(path, _)| format!("{}\0", layout.config.dir.display(path)))
                .collect();
            if text.is_empty() {
                return Ok(None);
            }
            let new = open_file(layout)?;
            match fs::write_all(&new.0, text.as_bytes()) {
                Ok(()) => Ok(Some(new)),
                Err(error) => {
                    self.remove(new);
                    Err(LocalError::io("write to", layout.state.join("temproots"))(
                        error,
                    ))
                }
            }
        };
        let replaced = replace();
        let unlocked = fs::lock(gc_lock, FlockOperation::Unlock);
        let new = replaced?;
        let old = std::mem::replace(&mut state.passing_file, new);
        if let Some(old) = old {
            self.remove(old);
        }
        unlocked.map_err(LocalError::io("unlock", &lock_path))?;
        Ok(true)
    }

    fn remove(&self, file: RootsFile) {
        let dir = fs::open_dir(self.layout.state_fd.as_fd(), OsStr::new("temproots"));
        // One that stays is not locked, and any collector removes it.
        let _ = dir.and_then(|dir| fs::unlink(dir.as_fd(), &file.1));
    }

    /// Keeps a path from being collected, as long as the thread's scope says.
    pub(crate) fn add(&self, dir: &StoreDir, path: &StorePath) -> Result<(), LocalError> {
        let mut guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *guard;
        if state.lasting.contains(path) {
            return Ok(());
        }
        let in_passing = RootScope::current() == RootScope::Passing && !state.holds.is_empty();
        state.clock += 1;
        let now = state.clock;
        if in_passing && let Some(at) = state.passing.get_mut(path) {
            *at = now;
            return Ok(());
        }
        let layout = &self.layout;
        let lock_path = layout.state.join("gc.lock");
        let file = match in_passing {
            true => &mut state.passing_file,
            false => &mut state.lasting_file,
        };
        let file = match file {
            Some(file) => &file.0,
            None => &file.insert(open_file(layout)?).0,
        };
        let mut known = || match in_passing {
            true => drop(state.passing.insert(path.clone(), now)),
            false => drop(state.lasting.insert(path.clone())),
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
                known();
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
                known();
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

/// Makes and locks a file of this process's.
fn open_file(layout: &Layout) -> Result<RootsFile, LocalError> {
    let dir_path = layout.state.join("temproots");
    let dir = fs::open_dir(layout.state_fd.as_fd(), OsStr::new("temproots"))
        .map_err(LocalError::io("open", &dir_path))?;
    let mut number = u64::from(std::process::id());
    while number <= NUMBER_MAX {
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
            Ok(Some(fd)) => return Ok(RootsFile(fd, name)),
            // Held by this process, or by a living one of another PID namespace.
            Ok(None) => number += NUMBER_STEP,
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
        let files = [state.lasting_file.take(), state.passing_file.take()];
        for file in files.into_iter().flatten() {
            self.remove(file);
        }
    }
}
