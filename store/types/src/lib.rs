//! The nouns of a Nix store and their formats: bytes in, values out.
//!
//! This crate opens no file and no socket. What is written here was checked
//! against real Nix (2.8 and 2.34); the facts' sources are named where they
//! are used.

pub mod base32;
mod hash;
mod store_path;

pub use hash::{Hash, HashAlgorithm, HashParseError, Sha256Hasher, sha256};
pub use store_path::{StoreDir, StorePath, StorePathError};
