//! Garbage that is collected when there is little space: Nix's `min-free` and `max-free`.
//!
//! Source: nix 2.34, `src/libstore/gc.cc` (`autoGC`).

use std::sync::{Mutex, TryLockError};
use std::time::{Duration, Instant};

use store_local::{GcAction, GcOptions, Unobserved};

use crate::{Executor, Monitor};

/// What is known of the space on the store's disk.
#[derive(Default)]
pub(crate) struct AutoGc(Mutex<State>);

#[derive(Default)]
struct State {
    checked: Option<Instant>,
    /// How much was free after the last collection, in bytes.
    free_after: Option<u64>,
}

/// A collection is not repeated before this part of what it has left free is in use again, since
/// it found nothing more.
const REPEAT_PERCENT: u64 = 97;

impl Executor {
    /// Collects garbage if less than `min-free` bytes are free on the store's disk, until
    /// `max-free` are. While somebody else does so, or shortly after somebody has looked, nothing
    /// happens.
    ///
    /// A collection that fails is told, and is nobody's failure.
    pub fn collect_if_needed(&self, monitor: &dyn Monitor) {
        let nix = &self.settings.nix;
        let bytes = |name| nix.number(name);
        let (min, max) = (bytes("min-free"), bytes("max-free"));
        if min == 0 {
            return;
        }
        let mut state = match self.auto_gc.0.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let interval = Duration::from_secs(bytes("min-free-check-interval"));
        let is_recent = |checked: Instant| checked.elapsed() < interval;
        if state.checked.is_some_and(is_recent) {
            return;
        }
        state.checked = Some(Instant::now());
        let Some(free) = self.free_bytes() else {
            return;
        };
        let is_the_same = |after: u64| free > after / 100 * REPEAT_PERCENT;
        if free >= min || free >= max || state.free_after.is_some_and(is_the_same) {
            return;
        }
        let wanted = max - free;
        monitor.note(&format!("collecting garbage to free {wanted} bytes"));
        let options = GcOptions {
            max_freed_bytes: wanted,
            keep_outputs: nix.flag("keep-outputs"),
            keep_derivations: nix.flag("keep-derivations"),
            ..GcOptions::new(GcAction::DeleteDead)
        };
        match self.store.collect_garbage(&options, &mut Unobserved) {
            Ok(report) => {
                let count = report.paths.len();
                let freed = report.bytes_freed;
                monitor.note(&format!("{count} store paths deleted, {freed} bytes freed"));
            }
            Err(error) => monitor.note(&format!("cannot collect garbage: {error}")),
        }
        state.free_after = self.free_bytes();
        state.checked = Some(Instant::now());
    }

    fn free_bytes(&self) -> Option<u64> {
        let fs = rustix::fs::statvfs(self.store.physical_dir()).ok()?;
        Some(fs.f_bavail.saturating_mul(fs.f_frsize))
    }
}
