//! Ctrl-C and its like: the first asks running builds to end, the second ends us.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// Signals cannot be handled.
#[derive(Debug, thiserror::Error)]
#[error("cannot handle signals")]
pub struct SignalError(#[source] std::io::Error);

/// The command was ended by a signal.
#[derive(Debug, thiserror::Error)]
#[error("interrupted by the user")]
pub struct Interrupted;

/// A flag that the first SIGINT, SIGTERM or SIGHUP sets. A second one has its
/// ordinary effect: sandboxes end with us, and the store is made for it.
pub fn watch() -> Result<Arc<AtomicBool>, SignalError> {
    let is_interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // In this order: at the first signal the flag is not set when it is looked at.
        flag::register_conditional_default(signal, is_interrupted.clone())
            .and_then(|_| flag::register(signal, is_interrupted.clone()))
            .map_err(SignalError)?;
    }
    Ok(is_interrupted)
}
