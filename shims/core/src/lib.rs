//! What the compiler shims, the runner and the executor share.
//!
//! - [`protocol`]: the one message a shim sends and the one it gets back.
//! - [`manifest`]: what a child derivation tells its runner, and what the runner leaves.
//! - [`args`]: what a compiler's command line reads, writes and asks for.
//! - [`scan`]: the files that a C or C++ source can make the compiler look for.
//! - [`place`]: how a shim writes the files it was handed.
//! - [`client`]: how a caller comes to an answer.
//!
//! Everything but [`protocol`]'s sending and receiving, [`place`] and [`client`] is free of I/O. The shim
//! and the runner use only what they need of it: link-time optimisation drops the rest.

pub mod args;
pub mod client;
pub mod manifest;
pub mod place;
pub mod protocol;
pub mod scan;
#[cfg(feature = "testing")]
pub mod testing;
