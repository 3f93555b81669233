//! File trees as bytes: NAR archives, their hashes, and what is searched for
//! and replaced in them.
//!
//! Everything here streams. No function holds more than a buffer of a file, none
//! recurses, none follows a symbolic link, and every access is relative to a
//! directory's file descriptor. [`mod@fs`] is the only place that calls the
//! kernel's file-system interface; the local store uses it too.
//!
//! # The format
//!
//! ```text
//! nar       = str("nix-archive-1") node
//! node      = str("(") str("type") body str(")")
//! body      = str("regular") [ str("executable") str("") ] str("contents") str(bytes)
//!           | str("symlink") str("target") str(bytes)
//!           | str("directory") entry*
//! entry     = str("entry") str("(") str("name") str(bytes) str("node") node str(")")
//! str(s)    = length of s as u64, little endian; s; zero bytes up to a multiple of 8
//! ```
//!
//! Entries are in strictly ascending bytewise order of their names. The parser
//! accepts exactly what the writer writes.
//!
//! Source: Nix manual, "Nix Archive (NAR) format"; the limits are those of nix
//! 2.34.7 and later, `src/libutil/archive.cc`.

mod dump;
mod error;
pub mod fs;
mod git;
mod hasher;
mod parse;
mod remove;
mod restore;
mod rewrite;
mod scan;

pub use dump::{dump, dump_and_hash, hash_tree, scan_tree};
pub use error::NarError;
pub use git::{GIT_TREES_LEN_MAX, GitHasher, git_hash_tree};
pub use hasher::Hasher;
pub use parse::copy;
pub use remove::{measure_tree, remove_tree, remove_tree_measured};
pub use restore::{RestoreWriter, restore};
pub use rewrite::{HashModuloSink, HashModuloVariant, RewritingWriter, rewrite_tree};
pub use scan::{RefScanner, Tee};

/// The 32 characters of a store path that tell it from others.
pub type HashPart = [u8; 32];

/// How many directories may lie in one another, the outermost included. In the 64th nothing may
/// lie: Nix counts every node.
pub const DEPTH_MAX: usize = 64;
/// The longest name of a directory entry in bytes.
pub const NAME_LEN_MAX: usize = 255;
/// The longest target of a symbolic link in bytes.
pub const TARGET_LEN_MAX: usize = 4095;
/// The longest word of the format itself in bytes.
pub(crate) const TAG_LEN_MAX: usize = 32;
/// Buffers of 64 KiB: larger ones fall out of the processor's caches.
pub(crate) const BUFFER_LEN: usize = 64 * 1024;

/// A store path's hash part as bytes.
pub fn hash_part(path: &store_types::StorePath) -> HashPart {
    path.hash_part()
        .as_bytes()
        .try_into()
        .expect("a store path's hash part has 32 characters")
}
