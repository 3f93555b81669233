//! By what a file of the host is recognised as the one that was read.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::Stat;

/// A file's identity, size and times. With every change of its content or mode its change
/// time moves on (stat(2)), and another file at its place has another inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: (i64, u64),
    ctime: (i64, u64),
}

impl Stamp {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            dev: stat.st_dev,
            ino: stat.st_ino,
            size: stat.st_size as u64,
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
            ctime: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    /// The numbers, one after the other, for a hash.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let times = [self.mtime, self.ctime];
        [self.dev, self.ino, self.size]
            .into_iter()
            .chain(times.into_iter().flat_map(|(s, ns)| [s as u64, ns]))
            .flat_map(u64::to_le_bytes)
            .collect()
    }

    /// When the file was changed last, in nanoseconds since 1970.
    fn changed_nanos(&self) -> i128 {
        let nanos = |(s, ns): (i64, u64)| i128::from(s) * 1_000_000_000 + i128::from(ns);
        nanos(self.ctime).max(nanos(self.mtime))
    }
}

/// The stamp of what lies at a path, a symlink itself included; `None` if there is nothing
/// or it cannot be seen.
pub(super) fn stamp(path: &[u8]) -> Option<(Stamp, Stat)> {
    let stat = rustix::fs::lstat(Path::new(OsStr::from_bytes(path))).ok()?;
    Some((Stamp::of(&stat), stat))
}

/// What was seen at the host's paths while a compiler was looked at: as long as all of it
/// stays, so does what was found out.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts(BTreeMap<Vec<u8>, Option<Stamp>>);

impl Facts {
    /// Notes what lies at a path.
    pub(super) fn note(&mut self, path: &[u8], stamp: Option<Stamp>) {
        self.0.insert(path.to_vec(), stamp);
    }

    /// Whether all is as it was noted.
    pub(super) fn hold(&self) -> bool {
        self.0
            .iter()
            .all(|(path, seen)| stamp(path).map(|(now, _)| now) == *seen)
    }

    /// When the youngest of the files was changed, in nanoseconds since 1970.
    pub(super) fn changed_nanos(&self) -> i128 {
        let times = self.0.values().flatten().map(Stamp::changed_nanos);
        times.max().unwrap_or_default()
    }
}
