//! What the machine's processes use: programs, open files, mapped files, directories they are in,
//! and what their environments name.
//!
//! Only what this user may see of other processes counts; root sees all. Besides paths in the
//! logical directory those in the physical one are looked for, which Nix does not do.
//!
//! Source: nix 2.8, `src/libstore/gc.cc`; proc(5).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use store_types::{StoreDir, StorePath};

/// The most that is read of a file below `/proc`, in bytes: more than a process can have mappings
/// or environment by the kernel's defaults.
const FILE_LEN_MAX: u64 = 64 << 20;

/// Programs that the kernel starts by itself.
const KERNEL_HELPERS: [&str; 3] = ["modprobe", "fbsplash", "poweroff_cmd"];

/// The store paths, valid or not, and where they were seen.
pub(crate) fn find(dir: &StoreDir, physical: &Path) -> BTreeMap<StorePath, BTreeSet<PathBuf>> {
    let mut search = Search {
        prefixes: vec![dir.as_str().as_bytes(), physical.as_os_str().as_bytes()],
        found: BTreeMap::new(),
    };
    search.prefixes.dedup();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let is_process = process
            .file_name()
            .as_bytes()
            .iter()
            .all(u8::is_ascii_digit);
        if is_process {
            search.process(&process.path());
        }
    }
    for helper in KERNEL_HELPERS {
        let file = Path::new("/proc/sys/kernel").join(helper);
        search.text(&file);
    }
    search.found
}

struct Search<'a> {
    prefixes: Vec<&'a [u8]>,
    found: BTreeMap<StorePath, BTreeSet<PathBuf>>,
}

impl Search<'_> {
    /// What one process uses; one that ends meanwhile, or is another user's, uses nothing.
    fn process(&mut self, process: &Path) {
        for link in ["exe", "cwd"] {
            self.link(&process.join(link));
        }
        let descriptors = std::fs::read_dir(process.join("fd"));
        for descriptor in descriptors.into_iter().flatten().flatten() {
            self.link(&descriptor.path());
        }
        self.text(&process.join("maps"));
        self.text(&process.join("environ"));
    }

    fn link(&mut self, link: &Path) {
        if let Ok(target) = std::fs::read_link(link) {
            let target = target.as_os_str().as_bytes();
            if self
                .prefixes
                .iter()
                .any(|prefix| target.starts_with(prefix))
            {
                self.scan(target, link);
            }
        }
    }

    fn text(&mut self, file: &Path) {
        let mut bytes = Vec::new();
        let read =
            File::open(file).and_then(|open| open.take(FILE_LEN_MAX).read_to_end(&mut bytes));
        // What was read before an error counts.
        drop(read);
        self.scan(&bytes, file);
    }

    fn scan(&mut self, bytes: &[u8], place: &Path) {
        for path in store_paths(&self.prefixes, bytes) {
            self.found.entry(path).or_default().insert(place.to_owned());
        }
    }
}

/// What in these bytes looks like a path in one of these directories.
fn store_paths(prefixes: &[&[u8]], bytes: &[u8]) -> Vec<StorePath> {
    let mut paths = Vec::new();
    for prefix in prefixes {
        let mut rest = bytes;
        while let Some(at) = memchr::memmem::find(rest, prefix) {
            rest = &rest[at + prefix.len()..];
            let Some(name) = rest.strip_prefix(b"/") else {
                continue;
            };
            let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-._?=".contains(byte);
            let len = name.iter().take_while(|byte| is_of_name(byte)).count();
            let name = String::from_utf8_lossy(&name[..len]);
            paths.extend(StorePath::from_base_name(&name));
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_wherever_they_stand_in_a_text() {
        let hash = "0".repeat(32);
        let text = format!(
            "PATH=/nix/store/{hash}-a/bin:/nix/store/{hash}-b\0X=/root/nix/store/{hash}-c.drv!out\0\
             /nix/store/short /nix/store"
        );
        let prefixes: [&[u8]; 2] = [b"/nix/store", b"/root/nix/store"];
        let names: BTreeSet<String> = store_paths(&prefixes, text.as_bytes())
            .iter()
            .map(|path| path.name().to_owned())
            .collect();
        assert_eq!(names, ["a", "b", "c.drv"].map(str::to_owned).into());
    }
}
