//! Which files of a store object are compilers that a shim can stand in for.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use store_types::StorePath;

use crate::child::tree::{Entry, StoreTree, join};

/// A directory tree deeper than this is not searched further.
const DEPTH_MAX: usize = 16;

/// The names of compiler drivers, without a target before and a version after.
const DRIVERS: &[&str] = &["cc", "gcc", "c++", "g++", "clang", "clang++"];

/// Whether a file of this name is a C or C++ compiler driver: `gcc`, `g++-12`,
/// `x86_64-linux-gnu-gcc-12.2`, `clang++`.
pub fn is_driver_name(name: &[u8]) -> bool {
    let Ok(name) = str::from_utf8(name) else {
        return false;
    };
    let is_version = |text: &str| {
        text.starts_with(|first: char| first.is_ascii_digit())
            && text
                .chars()
                .all(|char| char.is_ascii_digit() || char == '.')
    };
    let unversioned = match name.rsplit_once('-') {
        Some((before, version)) if is_version(version) => before,
        _ => name,
    };
    // A target has at least two dashes before the driver's name: `arch-os-cc`.
    let driver = match unversioned.rsplit_once('-') {
        Some((target, driver)) if target.contains('-') => driver,
        _ => unversioned,
    };
    DRIVERS.contains(&driver)
}

/// The compiler drivers in a store object: regular executable files of such a
/// name, as paths relative to the store directory.
///
/// A symlink of such a name that leads to a file of another name is left alone: a
/// shim laid over that file would stand in for more than a compiler.
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
                Entry::File if is_driver_name(&name) && is_executable(store.store_fd(), &file) => {
                    found.push(file)
                }
                _ => {}
            }
        }
    }
    found.sort();
    found.into()
}

fn is_executable(store: &OwnedFd, relative: &[u8]) -> bool {
    rustix::fs::statat(store, relative, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| stat.st_mode & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_are_known_by_name_with_target_and_version() {
        for name in [
            "cc",
            "gcc",
            "g++",
            "c++",
            "clang",
            "clang++",
            "gcc-12",
            "clang-15.0.6",
            "x86_64-linux-gnu-gcc",
            "x86_64-linux-gnu-g++-12",
            "aarch64-unknown-linux-gnu-cc",
        ] {
            assert!(is_driver_name(name.as_bytes()), "{name}");
        }
        for name in [
            "cpp",
            "gcc-ar",
            "gcc-nm-12",
            "clang-format",
            "clang-cpp",
            "cc1",
            "ccache",
            "gcov",
            "x86_64-linux-gnu-gcc-ar-12",
            "distcc",
            "my-gcc",
            "lto-gcc",
            "gcc.mk",
            "c++filt",
        ] {
            assert!(!is_driver_name(name.as_bytes()), "{name}");
        }
    }
}
