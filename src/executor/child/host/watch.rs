//! Hears of changes to directories of the host.
//!
//! The kernel puts an event into the queue before the call that changes a file returns, so
//! an empty queue says that nothing was changed since: one read(2) in place of a thousand
//! stat(2). What it cannot say is told in `docs/adr/0009-outside-a-derivation.md`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

/// One compiler is watched in at most this many directories; the kernel has a limit for
/// each user, which others need, too.
const DIRS_MAX: usize = 512;

/// A queue of events about directories.
pub(super) struct Watch {
    queue: Option<OwnedFd>,
    /// How often something was heard. Locked while the queue is read, so that nobody finds
    /// it empty whose events another has taken and not counted yet.
    heard: Mutex<u64>,
}

impl Watch {
    /// An empty one. If the kernel gives none, nothing can be watched.
    pub(super) fn new() -> Self {
        Self {
            queue: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok(),
            heard: Mutex::new(0),
        }
    }

    /// Listens for changes of what lies in these directories, from now on; whether it can.
    /// Of a directory that is not there, the next above it is watched.
    pub(super) fn listen(&self, dirs: &BTreeSet<Vec<u8>>) -> bool {
        let Some(queue) = &self.queue else {
            return false;
        };
        let changes = WatchFlags::ATTRIB
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MODIFY
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        dirs.len() <= DIRS_MAX
            && dirs.iter().all(|dir| {
                let dir = Path::new(OsStr::from_bytes(dir));
                dir.ancestors()
                    .find_map(|dir| match inotify::add_watch(queue, dir, changes) {
                        Err(Errno::NOENT | Errno::NOTDIR) => None,
                        added => Some(added.is_ok()),
                    })
                    == Some(true)
            })
    }

    /// How often something was heard up to now; equal answers say that nothing was between
    /// them.
    pub(super) fn heard(&self) -> u64 {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = &self.queue {
            let mut events = [0; 4096];
            loop {
                match rustix::io::read(queue, &mut events) {
                    Ok(_) => *heard += 1,
                    Err(Errno::INTR) => {}
                    Err(_) => break,
                }
            }
        }
        *heard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_in_a_directory_are_heard_and_looks_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "a").unwrap();
        let missing = dir.path().join("missing");
        let watch = Watch::new();
        let dirs = [dir.path().join("missing/bin"), dir.path().to_owned()];
        let dirs = dirs.map(|dir| dir.as_os_str().as_bytes().to_vec());
        if !watch.listen(&dirs.into()) {
            eprintln!("skipped: the kernel watches no directories here");
            return;
        }
        let quiet = watch.heard();
        std::fs::read(&file).unwrap();
        std::fs::metadata(&file).unwrap();
        assert_eq!(watch.heard(), quiet);
        let changes: [&dyn Fn(); 4] = [
            &|| std::fs::write(&file, "b").unwrap(),
            &|| std::fs::create_dir(&missing).unwrap(),
            &|| std::fs::rename(&file, dir.path().join("other")).unwrap(),
            &|| std::fs::remove_dir(&missing).unwrap(),
        ];
        for change in changes {
            let before = watch.heard();
            change();
            assert_ne!(watch.heard(), before);
            let after = watch.heard();
            assert_eq!(watch.heard(), after);
        }
    }
}
