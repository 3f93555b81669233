//! A C/C++ toolchain for the sandbox, and real C sources to try it on.
//!
//! Debian's own packages of the machine (whatever its release) become one tree
//! that lives at a store path and needs no `/usr`, `/lib` or `/bin`:
//!
//! ```text
//! bin/            what a PATH names: wrappers of the compilers and of make,
//!                 links to everything else
//! usr/            the packages' files, one directory for /bin, /lib and /usr
//! usr/bin/*.unwrapped         the programs behind the wrappers
//! usr/lib/droste/link.specs   what the compilers add to a link
//! lib, lib64      links into usr/, for linker scripts read under --sysroot
//! share/droste/packages       `name version` of every package, sorted
//! ```
//!
//! # Invariants
//!
//! 1. The store path occurs in files and links as a plain string only, and
//!    nothing else depends on it: replacing it by another of the same length
//!    gives the tree that would have been assembled for the other.
//! 2. The same packages and store path give the same bytes.
//! 3. Every library that a file asks the dynamic linker for is in the tree.
//!
//! The crate knows no store: who calls it chooses the path and registers the
//! tree. It does not keep file times or owners in mind either; a store sets
//! them anyway.

mod assemble;
mod elf;
mod error;
mod packages;
mod recipes;
mod sources;
mod tree;

pub use assemble::Summary;
pub use elf::ElfError;
pub use error::{AssembleError, CommandError, PackagesError, SourceError};
pub use packages::{Package, Packages};
pub use recipes::{Edit, LIBZ, LUA, RECIPES, Recipe, ZSTD};
pub use sources::fetch_crate;

/// What is being done; counts begin at zero, `done == total` is the end.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// apt's lists are missing or too old: fetching new ones.
    RefreshingLists,
    /// Packages being downloaded, in bytes.
    Downloading {
        /// Bytes that are here and verified.
        done_bytes: u64,
        /// Bytes of all packages.
        total_bytes: u64,
    },
    /// Packages being unpacked.
    Unpacking {
        /// The package being unpacked.
        package: &'a str,
        /// Packages done.
        done: usize,
        /// All packages.
        total: usize,
    },
    /// Files being relocated.
    Patching {
        /// Files done.
        done: usize,
        /// All files with an interpreter or a library search path.
        total: usize,
    },
}
