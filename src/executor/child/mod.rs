//! Compiler calls as children.
//!
//! A shim sends the call ([`service`], `call`); its arguments are classified (by
//! `shim-core`), its inputs found by [walking](tree) and [lexing](files) what the
//! search could touch ([`inputs`]), and all of it becomes a [`derivation`]. Its path
//! is the key of the [`index`]: a hit starts no process and builds no sandbox. A miss
//! runs the child in a sandbox of its own ([`run`]).

mod assemble;
mod call;
pub mod crash;
pub mod derivation;
mod discover;
pub mod environment;
pub mod files;
pub mod host;
pub mod index;
pub mod inputs;
mod interpreter;
mod memo;
pub mod outcome;
pub mod recall;
pub mod records;
mod renaming;
mod reply;
pub mod run;
mod scanned;
pub mod service;
pub mod stand_in;
pub mod tools;
pub mod traced;
pub mod tree;
mod trial;
mod view;
mod wrapper;
