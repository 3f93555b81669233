//! A user of its own for each running build.
//!
//! As root, builds get user ids out of the range that Nix uses for automatically
//! allocated ones, and mark them in the same place in the same way
//! (`<state>/userpool2/slot-<n>`, locked while in use), so that no two builds on a
//! store share one. An ordinary user has only its own id.
//!
//! Source: nix `src/libstore/unix/user-lock.cc`; settings `start-id`, `id-count`.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags};

/// The first id of Nix's range.
const FIRST_ID: u32 = 872_415_232;

/// Each build may use this many ids; we use the first.
const IDS_PER_SLOT: u32 = 65_536;

/// How many builds can have ids at once.
const SLOTS: u32 = 128;

/// A user and group that no other build has.
#[derive(Debug)]
pub struct BuildUser {
    /// The user id on this machine.
    pub uid: u32,
    /// The group id on this machine.
    pub gid: u32,
    /// Holds the lock on the slot.
    _slot: Option<OwnedFd>,
}

impl BuildUser {
    /// A free user; `None` if all slots are taken.
    pub fn acquire(state_dir: &Path) -> rustix::io::Result<Option<Self>> {
        let uid = rustix::process::geteuid();
        if !uid.is_root() {
            return Ok(Some(Self {
                uid: uid.as_raw(),
                gid: rustix::process::getegid().as_raw(),
                _slot: None,
            }));
        }
        let pool = state_dir.join("userpool2");
        match rustix::fs::mkdir(&pool, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        for slot in 0..SLOTS {
            let file = rustix::fs::open(
                pool.join(format!("slot-{slot}")),
                OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC,
                Mode::from_raw_mode(0o600),
            )?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    let id = FIRST_ID + slot * IDS_PER_SLOT;
                    return Ok(Some(Self {
                        uid: id,
                        gid: id,
                        _slot: Some(file),
                    }));
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}
