//! What the compiler shims, the runner and the executor share.
//!
//! - [`protocol`]: the one message a shim sends and the one it gets back.
//! - [`manifest`]: what a child derivation tells its runner, and what the runner leaves.
//! - [`args`]: what a compiler's command line reads, writes and asks for.
//! - [`scan`]: the files that a C or C++ source can make the compiler look for.
//! - [`place`]: how a shim writes the files it was handed.
//! - [`client`]: how a caller comes to an answer.
//! - [`terminal`]: a terminal for a program whose output is kept.
//! - [`kernel_error`]: why a system call failed, in words.
//!
//! Everything but [`protocol`]'s sending and receiving, [`place`], [`client`] and [`terminal`] is
//! free of I/O.
//!
//! A shim has no standard library (see `droste_start`), so it uses this crate without the feature
//! `std`, which adds [`args`], [`scan`] and [`manifest`].

#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

#[cfg(feature = "std")]
pub mod args;
pub mod client;
pub mod kernel_error;
#[cfg(feature = "std")]
pub mod manifest;
pub mod place;
pub mod protocol;
#[cfg(feature = "std")]
pub mod scan;
pub mod terminal;
#[cfg(feature = "testing")]
pub mod testing;
mod trial;
