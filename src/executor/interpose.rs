//! Which files of a store object a shim can stand in for: compilers and linkers.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use shim_core::args::{Tool, tool_of};
use store_types::StorePath;

use crate::child::tree::{Entry, StoreTree, join};

/// A directory tree deeper than this is not searched further.
const DEPTH_MAX: usize = 16;

/// The compilers' drivers and the linkers in a store object: regular executable files of
/// such a [name](tool_of), as paths relative to the store directory.
///
/// A symlink of such a name that leads to a file of another name is left alone: a
/// shim laid over that file would stand in for more than a compiler. So LLVM's linker has
/// none: its `ld.lld` leads to `lld`.
pub fn find_drivers(store: &StoreTree, path: &StorePath) -> Arc<[Vec<u8>]> {
    let mut found = Vec::new();
    let mut dirs = vec![(path.base_name().as_bytes().to_vec(), 0)];
    while let Some((dir, depth)) = dirs.pop() {
        let Ok(listing) = store.listing_unremembered(&dir) else {
            continue;
        };
        for (name, entry) in listing {
            let file = join(&dir, &name);
            match entry {
                Entry::Dir if depth < DEPTH_MAX => dirs.push((file, depth + 1)),
                Entry::File
                    if tool_of(&name).is_some_and(Tool::has_shim)
                        && is_executable(store.dir_of(&file), &file) =>
                {
                    found.push(file);
                }
                _ => {}
            }
        }
    }
    found.sort();
    found.into()
}

fn is_executable(store: BorrowedFd<'_>, relative: &[u8]) -> bool {
    rustix::fs::statat(store, relative, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| stat.st_mode & 0o111 != 0)
}
