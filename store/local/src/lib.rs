//! A store on disk, in the layout that Nix reads and writes.
//!
//! A [`LocalStore`] lies in a directory of the machine, and its paths are those
//! of a logical directory, mostly `/nix/store`. Each directory may also be elsewhere
//! ([`LocalStoreConfig`]):
//!
//! ```text
//! ROOT/nix/store/<hash>-<name>        the objects
//! ROOT/nix/store/<hash>-<name>.lock   who makes the object holds this
//! ROOT/nix/store/tmp-droste-*/        an object being added; locked by its owner
//! ROOT/nix/var/nix/db/db.sqlite       which paths are valid, and what they refer to
//! ROOT/nix/var/nix/db/{schema,ca-schema,big-lock}
//! ROOT/nix/var/nix/db/reserved        space for a collection on a full disk
//! ROOT/nix/var/nix/{gcroots,profiles,temproots,builds,userpool}
//! ROOT/nix/var/nix/gc.lock            held while garbage is collected
//! ROOT/nix/var/nix/gc-socket/socket   where the collector is told what is needed
//! ROOT/nix/var/log/nix                logs of builds
//! ```
//!
//! # Invariants
//!
//! 1. A path is valid if and only if the database says so, and the database says
//!    so only after the object is complete at its place: whatever the moment a
//!    process is killed at, no valid path is incomplete. (This is about killed
//!    processes. After a power failure the file system decides what is left of
//!    an object, as with Nix by default.)
//! 2. All that a valid path refers to is valid (of what is [borrowed](LocalStore::borrow): as
//!    long as the lender has it).
//! 3. Who makes a path valid holds its lock, and has it as a temporary root.
//! 4. A temporary directory that nobody has locked belongs to nobody, and the
//!    next who opens the store removes it.
//!
//! Garbage may be collected at any time, by Nix or by [`LocalStore::collect_garbage`].
//!
//! Source: nix 2.8 and 2.34, `src/libstore/local-store.cc`, `gc.cc`,
//! `pathlocks.cc`, and what those versions write.

mod add;
mod borrowed;
mod build_log;
mod build_trace;
mod canonicalise;
mod config;
mod db;
mod error;
mod gc;
mod gcroots;
mod layout;
mod locks;
mod migrations;
mod optimise;
mod output;
mod roots;
mod runtime_roots;
mod schema;
mod store;
mod temp;
mod verify;

pub use add::{DRV_LEN_MAX, DerivationTurn, FileObject};
pub use build_log::{ADDED_LOG_LEN_MAX, BuildLogWriter};
pub use canonicalise::{Canonicaliser, canonicalise};
pub use config::{ConfigError, DefaultDirs, LocalStoreConfig};
pub use error::LocalError;
pub use gc::{GcAction, GcObserver, GcOptions, GcReport, Unobserved};
pub use gcroots::Roots;
pub use locks::PathLocks;
pub use optimise::OptimiseReport;
pub use output::OutputTree;
pub use roots::{EnteredRoots, SessionRoots};
pub use store::{LocalStore, Registration};
pub use verify::{Problem, VerifyReport};
