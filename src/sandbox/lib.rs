//! The build sandbox, the same for a whole build and for one compiler call.
//!
//! A [`Request`] says as plain data what the sandbox holds; a [`Spawner`], a small process of its
//! own, makes sandboxes of requests and watches over them; a [`Running`] is one of them.
//!
//! A [watched](Request::watched) sandbox asks its starter about every file that its program looks
//! for ([`Listener`], [`lookups`]); what is not there can be put there before it is missed.
//!
//! It exists apart from the executor because a process with many threads and much memory is a bad
//! parent: starting from it is slow, and what it dies of must not leave a build running. It knows
//! no store and no derivation.
//!
//! # Invariants
//! 1. Nothing is visible inside but what the request names.
//! 2. The program has no capability, no way to a new one, and no user but its own.
//! 3. If the caller, the spawner or PID 1 dies, every process and every mount of the sandbox ends.
//! 4. No symbolic link is followed on the way to a place in the root.
//!
//! Needs Linux 5.12 (mount_setattr(2)).

mod bytes;
mod calls;
mod channel;
mod error;
mod filter;
mod init;
mod launch;
mod lookup;
mod parts;
mod place;
mod pty;
mod remove;
mod request;
mod spawner;

pub use channel::{FDS_MAX, MESSAGE_BYTES_MAX};
pub use droste_sys::{FileUser, Listener, Notification};
pub use error::{Error, SetupError, Step};
pub use launch::{Exit, ExitStatus, Running, SPAWNER_ARG, Spawner};
pub use lookup::{Gone, Intent, Lookup, lookups, root_of};
pub use parts::{Parts, dev_nodes, etc_files, network_files, proc_mount};
pub use pty::Pty;
pub use remove::remove_tree;
pub use request::{
    INSIDE_GID, INSIDE_UID, Mount, Network, Node, OnDisk, Owner, Personality, Request, Root,
    Source, Stdio, TmpfsSize,
};

/// Becomes the spawner, and never returns, if this process was started as one
/// ([`SPAWNER_ARG`] as its first argument). The first thing that `main` does.
pub fn run_if_spawner() {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|arg| arg == SPAWNER_ARG)
    {
        std::process::exit(spawner::run());
    }
}
