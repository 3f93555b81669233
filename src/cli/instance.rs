//! The one daemon that may serve a directory of Droste's.
//!
//! A running daemon holds the lock on `DROSTE_DIR/daemon.pid` as long as it lives, so a file
//! that a killed daemon left says nothing. The file has three lines: the process id, which
//! program the daemon is an instance of, and its store as `--store` takes it.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};
use store_local::LocalStoreConfig;

use super::store_uri::Surroundings;

/// How long a daemon may take to end its builds.
pub const STOP_SECONDS_MAX: i64 = 60;

/// A longer pid file is none.
const FILE_LEN_MAX: u64 = 8192;

/// A daemon that cannot be found, started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// A file of the daemon's is not to be used.
    #[error("cannot {operation} `{}`", path.display())]
    Io {
        /// What was to be done with it.
        operation: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// There is one already.
    #[error("a daemon is running already")]
    Running,
    /// The lock is held, but not by a daemon.
    #[error("`{}` does not have the process id of the daemon that is running", .0.display())]
    PidFile(PathBuf),
    /// It does not take the signal.
    #[error("cannot stop the daemon, which is process {pid}")]
    Stop {
        /// Its process id.
        pid: i32,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It has got the signal.
    #[error("the daemon, process {0}, has not ended in {STOP_SECONDS_MAX} s")]
    NotEnding(i32),
}

/// What could not be done with a file of the daemon's.
pub fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstanceError {
    let path = path.to_owned();
    move |source| InstanceError::Io {
        operation,
        path,
        source,
    }
}

/// A daemon, as its pid file describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its process.
    pub pid: Pid,
    /// The program that it runs, see [`this_program`].
    pub program: String,
    /// Its store, as `--store` takes it.
    pub store: OsString,
}

impl Instance {
    /// Whether the daemon's store is this one.
    pub fn serves(&self, store: &LocalStoreConfig) -> bool {
        // It was named without regard to the environment.
        let nothing = Surroundings {
            variable: &|_| None,
            is_root: true,
        };
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        nothing.resolve(&self.store).is_ok_and(|own| {
            own.dir == store.dir
                && real(&own.real) == real(&store.real)
                && real(&own.state) == real(&store.state)
        })
    }
}

/// Which program this process runs: its version, and the file's device, inode and time of
/// change, by which one build of it is told from the next.
pub fn this_program() -> io::Result<String> {
    let file = std::fs::metadata("/proc/self/exe")?;
    Ok(format!(
        "{} {}:{} {}.{:09}",
        env!("CARGO_PKG_VERSION"),
        file.dev(),
        file.ino(),
        file.ctime(),
        file.ctime_nsec()
    ))
}

/// Makes this process the daemon of this store, as long as the returned file is open.
///
/// # Errors
/// If there is one already, or the file cannot be written.
pub fn claim(pid_file: &Path, store: &OsStr) -> Result<File, InstanceError> {
    let dir = pid_file.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(dir).map_err(io_error("make", dir))?;
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(pid_file)
        .map_err(io_error("open", pid_file))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(InstanceError::Running),
        Err(TryLockError::Error(source)) => return Err(io_error("lock", pid_file)(source)),
    }
    let program = this_program().map_err(io_error("read", Path::new("/proc/self/exe")))?;
    let mut text = format!("{}\n{program}\n", std::process::id()).into_bytes();
    text.extend_from_slice(store.as_bytes());
    text.push(b'\n');
    file.set_len(0)
        .and_then(|()| file.write_all(&text))
        .map_err(io_error("write", pid_file))?;
    Ok(file)
}

/// The running daemon, if there is one.
///
/// # Errors
/// If the pid file cannot be read, or does not say which process it is: then one is just
/// starting or ending, or it is no daemon's.
pub fn running(pid_file: &Path) -> Result<Option<Instance>, InstanceError> {
    let file = match File::open(pid_file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result.map_err(io_error("open", pid_file))?,
    };
    match file.try_lock_shared() {
        Ok(()) => return Ok(None),
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(source)) => return Err(io_error("lock", pid_file)(source)),
    }
    let mut text = Vec::new();
    file.take(FILE_LEN_MAX)
        .read_to_end(&mut text)
        .map_err(io_error("read", pid_file))?;
    parse(&text)
        .map(Some)
        .ok_or_else(|| InstanceError::PidFile(pid_file.to_owned()))
}

fn parse(text: &[u8]) -> Option<Instance> {
    let mut lines = text.strip_suffix(b"\n")?.splitn(3, |byte| *byte == b'\n');
    let pid: i32 = str::from_utf8(lines.next()?).ok()?.parse().ok()?;
    let pid = Some(pid).filter(|pid| *pid > 0).and_then(Pid::from_raw)?;
    let program = str::from_utf8(lines.next()?).ok()?.to_owned();
    let store = OsStr::from_bytes(lines.next()?).into();
    Some(Instance {
        pid,
        program,
        store,
    })
}

/// Asks the daemon to end, and waits until it has; false if there was none.
///
/// # Errors
/// If it cannot be asked, or does not end.
pub fn stop(pid_file: &Path, waits: impl FnOnce()) -> Result<bool, InstanceError> {
    let Some(instance) = running(pid_file)? else {
        return Ok(false);
    };
    let pid = instance.pid.as_raw_nonzero().get();
    let stop_error = |errno: rustix::io::Errno| InstanceError::Stop {
        pid,
        source: errno.into(),
    };
    let process = match rustix::process::pidfd_open(instance.pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(true),
        result => result.map_err(stop_error)?,
    };
    // The number may be another process's by now; if the lock is still held, it was not when
    // the descriptor was made.
    if running(pid_file)?.as_ref() != Some(&instance) {
        return Ok(true);
    }
    match rustix::process::pidfd_send_signal(&process, Signal::TERM) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(errno) => return Err(stop_error(errno)),
    }
    waits();
    let patience = Timespec {
        tv_sec: STOP_SECONDS_MAX,
        tv_nsec: 0,
    };
    let mut polled = [PollFd::new(&process, PollFlags::IN)];
    match rustix::event::poll(&mut polled, Some(&patience)).map_err(stop_error)? {
        0 => Err(InstanceError::NotEnding(pid)),
        _ => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use store_types::StoreDir;

    #[test]
    fn a_daemon_is_running_as_long_as_its_lock_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("new/daemon.pid");
        let root = OsStr::new("/a\nb");
        assert_eq!(running(&pid_file).unwrap(), None);
        let claimed = claim(&pid_file, root).unwrap();
        let ours = running(&pid_file).unwrap().unwrap();
        assert_eq!(
            ours.pid.as_raw_nonzero().get().unsigned_abs(),
            std::process::id()
        );
        assert_eq!(ours.program, this_program().unwrap());
        assert_eq!(ours.store, root);
        let config = |root| LocalStoreConfig::in_root(Path::new(root), StoreDir::default());
        assert!(ours.serves(&config("/a\nb")));
        assert!(!ours.serves(&config("/a")));
        assert!(matches!(
            claim(&pid_file, root),
            Err(InstanceError::Running)
        ));
        drop(claimed);
        assert_eq!(running(&pid_file).unwrap(), None);
        claim(&pid_file, root).unwrap();
    }

    #[test]
    fn a_file_that_is_half_written_names_no_daemon() {
        for text in ["", "12", "12\n", "12\n0.1 1:2\n", "x\ny\nz\n", "-1\ny\nz\n"] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
        assert!(parse(b"12\n0.1 1:2\n/store\n").is_some());
    }
}
