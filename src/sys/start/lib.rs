//! What a program without a C library begins with.
//!
//! A static program spends most of its start in the C library: glibc asks the processor for its
//! features and caches some fifty times, and on a virtual machine each question is an exit to the
//! hypervisor. A program that lives for less than that does without: [`program!`](crate::program)
//! gives it an entry, memory, and an end.
//!
//! Nothing is changed before the program's function runs, neither the disposition of a signal nor
//! a descriptor, so what it executes in its own place gets what it got itself.
//!
//! # Invariants
//! 1. The program has one thread and no signal handlers.
//! 2. It does not change its arguments or its environment.

#![no_std]

extern crate alloc;

mod arena;
mod calls;
#[doc(hidden)]
pub mod entry;
#[doc(hidden)]
pub mod memory;
mod strings;

pub use arena::Arena;
pub use calls::{execute, exit, fork, stderr, stdout, unshare_user_and_mounts};
pub use entry::Start;
pub use strings::{StringList, Strings};
