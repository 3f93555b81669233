//! Builds for a Nix that has Droste among its `external-builders`: that Nix plans, lays out the
//! files, and takes the outputs; a builder is run here.
//!
//! The program that Nix starts ([`cli::external_builder`](crate::cli)) passes what Nix wants to the
//! daemon, which has the store, the memo of children and the sandboxes, over a socket of its own.

pub mod message;
pub mod server;
