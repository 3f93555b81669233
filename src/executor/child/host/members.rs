//! Gathers files of the host, as they would be found from a path.
//!
//! Nothing here judges what belongs to a compiler (see [`super::parts`]); it follows
//! symlinks, lists directories, finds the libraries that programs load, and notes what it
//! saw.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};

use super::super::outcome::InPlace;
use super::super::tree::{join, split_last};
use super::ask::{Stream, ask};
use super::elf::{self, Format};
use super::stamp::{Facts, Stamp, stamp};

/// The kernel follows no more symlinks in one path.
const SYMLINKS_MAX: usize = 40;

/// A compiler of more files than this is none.
const NODES_MAX: usize = 1 << 18;

/// Directories deeper than this are not listed; a NAR allows 64.
const DEPTH_MAX: usize = 60;

/// What will be in the store object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    /// A directory.
    Dir,
    /// A regular file as it was seen.
    File(Stamp),
    /// A symlink.
    Link(Vec<u8>),
}

/// Where a path leads.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The path, free of symlinks.
    pub(super) path: Vec<u8>,
    pub(super) kind: FileType,
    /// The symlinks on the way, with their targets.
    links: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Files that belong together.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// What goes into the store, by absolute path free of symlinks. Directories above a
    /// node need not be there.
    pub(super) nodes: BTreeMap<Vec<u8>, Node>,
    /// What a child sees of it: files and directories among `nodes`, none below another.
    pub(super) roots: BTreeSet<Vec<u8>>,
    /// Symlinks by which the roots are reached, with their targets.
    pub(super) links: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What was seen.
    pub(super) facts: Facts,
    /// Directories in which a change may be one of what belongs together.
    pub(super) dirs: BTreeSet<Vec<u8>>,
    /// Programs whose libraries were found.
    loaded: BTreeSet<Vec<u8>>,
    /// The loader of the first program, for those that name none.
    loader: Option<Vec<u8>>,
}

impl Members {
    /// Follows a path, and notes the symlinks; `None` if it leads nowhere.
    pub(super) fn walk(&mut self, path: &[u8]) -> Option<Place> {
        let components = |path: &[u8]| -> Vec<Vec<u8>> {
            let parts = path.split(|byte| *byte == b'/').rev();
            parts
                .filter(|part| !matches!(*part, b"" | b"."))
                .map(<[u8]>::to_vec)
                .collect()
        };
        let mut here = b"/".to_vec();
        let mut kind = FileType::Directory;
        let mut todo = components(path);
        let mut links = Vec::new();
        while let Some(name) = todo.pop() {
            if name == b".." {
                here = split_last(&here).0.to_vec();
                continue;
            }
            let next = join(&here, &name);
            let Some((seen, stat)) = stamp(&next) else {
                self.facts.note(&next, None);
                self.dirs.insert(here);
                return None;
            };
            kind = FileType::from_raw_mode(stat.st_mode);
            if kind == FileType::Symlink {
                self.facts.note(&next, Some(seen));
                self.dirs.insert(here.clone());
                let target = read_link(&next)?;
                if links.len() == SYMLINKS_MAX {
                    return None;
                }
                if target.starts_with(b"/") {
                    here = b"/".to_vec();
                }
                todo.extend(components(&target));
                links.push((next, target));
            } else {
                here = next;
            }
        }
        // A path that ends in `..` names a directory, whatever came before it.
        if path.ends_with(b"..") {
            kind = FileType::Directory;
        }
        Some(Place {
            path: here,
            kind,
            links,
        })
    }

    /// Adds a regular file, if the path leads to one; where it lies.
    pub(super) fn add_file(&mut self, path: &[u8]) -> Result<Option<Vec<u8>>, InPlace> {
        let Some(place) = self.walk(path) else {
            return Ok(None);
        };
        if place.kind != FileType::RegularFile {
            return Ok(None);
        }
        self.links.extend(place.links);
        self.add_root(&place.path)?;
        Ok(Some(place.path))
    }

    /// Adds a directory and all that is in it, if the path leads to one.
    pub(super) fn add_dir(&mut self, path: &[u8]) -> Result<Option<Vec<u8>>, InPlace> {
        let Some(place) = self.walk(path) else {
            return Ok(None);
        };
        if place.kind != FileType::Directory {
            return Ok(None);
        }
        self.links.extend(place.links);
        self.add_root(&place.path)?;
        Ok(Some(place.path))
    }

    fn add_root(&mut self, path: &[u8]) -> Result<(), InPlace> {
        if self.is_inside(path) {
            return Ok(());
        }
        // What was added before and lies in it is now a part of it.
        let prefix = join(path, b"");
        self.roots.retain(|root| !root.starts_with(&prefix));
        self.roots.insert(path.to_vec());
        self.dirs.insert(split_last(path).0.to_vec());
        self.add_tree(path)
    }

    /// Whether a path, free of symlinks, lies in what was added.
    pub(super) fn is_inside(&self, path: &[u8]) -> bool {
        let mut dir = path;
        loop {
            if self.roots.contains(dir) {
                return true;
            }
            if dir == b"/" {
                return false;
            }
            dir = split_last(dir).0;
        }
    }

    /// Adds what lies at a path, symlinks as they are.
    fn add_tree(&mut self, path: &[u8]) -> Result<(), InPlace> {
        let mut todo = vec![(path.to_vec(), 0)];
        while let Some((path, depth)) = todo.pop() {
            if self.nodes.len() >= NODES_MAX || depth > DEPTH_MAX {
                return Err(InPlace::new("large-compiler"));
            }
            let unreadable = |_| InPlace::new("compiler-unreadable");
            let (seen, stat) = stamp(&path).ok_or_else(|| InPlace::new("compiler-changes"))?;
            self.facts.note(&path, Some(seen));
            let node = match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => Node::File(seen),
                FileType::Symlink => {
                    Node::Link(read_link(&path).ok_or_else(|| InPlace::new("compiler-changes"))?)
                }
                FileType::Directory => {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                    let dir = rustix::fs::open(to_path(&path), flags, Mode::empty())
                        .map_err(unreadable)?;
                    for entry in rustix::fs::Dir::new(dir).map_err(unreadable)? {
                        let entry = entry.map_err(unreadable)?;
                        let name = entry.file_name().to_bytes();
                        if !matches!(name, b"." | b"..") {
                            todo.push((join(&path, name), depth + 1));
                        }
                    }
                    self.dirs.insert(path.clone());
                    Node::Dir
                }
                // Nothing reads a socket or a device in a compiler's directory.
                _ => continue,
            };
            self.nodes.insert(path, node);
        }
        Ok(())
    }

    /// Adds files of one directory as a directory in which nothing else is: for a place
    /// that many packages share. The names are relative to it.
    pub(super) fn add_some(
        &mut self,
        dir: &[u8],
        files: impl IntoIterator<Item = Vec<u8>>,
    ) -> Result<(), InPlace> {
        if self.is_inside(dir) {
            return Ok(());
        }
        for file in files {
            let path = join(dir, &file);
            let Some((seen, stat)) = stamp(&path) else {
                continue;
            };
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                continue;
            }
            self.facts.note(&path, Some(seen));
            self.nodes.insert(path, Node::File(seen));
            self.roots.insert(dir.to_vec());
        }
        Ok(())
    }

    /// The names in a directory; none if it cannot be read. A change of it is noticed.
    pub(super) fn list(&mut self, dir: &[u8]) -> Vec<Vec<u8>> {
        self.facts.note(dir, stamp(dir).map(|(seen, _)| seen));
        let Ok(entries) = std::fs::read_dir(to_path(dir)) else {
            return Vec::new();
        };
        let names = entries.flatten().take(NODES_MAX);
        let mut names: Vec<Vec<u8>> = names
            .map(|entry| entry.file_name().as_bytes().to_vec())
            .collect();
        names.sort();
        names
    }

    /// What a file is; the path is free of symlinks.
    pub(super) fn format(&self, path: &[u8]) -> Result<Format, InPlace> {
        open(path)
            .and_then(|file| elf::format(&file))
            .map_err(|_| InPlace::new("compiler-unreadable"))
    }

    /// Adds a program, and all libraries that the host's loader finds for it.
    pub(super) fn add_program(&mut self, path: &[u8]) -> Result<Option<Vec<u8>>, InPlace> {
        let Some(real) = self.add_file(path)? else {
            return Ok(None);
        };
        self.add_libraries(&real)?;
        Ok(Some(real))
    }

    /// Adds the libraries of a program or library; the path is free of symlinks.
    ///
    /// The loader itself is asked. In a child it has no `/etc/ld.so.cache`, so it is asked
    /// a second time without; a program whose libraries depend on that cannot run in a
    /// child. Source: ld.so(8), `--list`, `--inhibit-cache`.
    fn add_libraries(&mut self, real: &[u8]) -> Result<(), InPlace> {
        if !self.loaded.insert(real.to_vec()) {
            return Ok(());
        }
        let Format::Elf { interpreter } = self.format(real)? else {
            return Ok(());
        };
        let is_library = interpreter.is_none();
        let Some(loader) = interpreter.or_else(|| self.loader.clone()) else {
            return Ok(());
        };
        self.loader.get_or_insert_with(|| loader.clone());
        let Some(loader_file) = self.add_file(&loader)? else {
            return Err(InPlace::new("compiler-library"));
        };
        let Some(text) = ask(&loader, &[b"--list", real], b"", Stream::Out) else {
            // What is no library, such as a static program, is not listed.
            if is_library {
                return Ok(());
            }
            return Err(InPlace::new("compiler-library"));
        };
        let found = parse_libraries(&text);
        if split_last(&loader_file).1.starts_with(b"ld-linux") {
            let args: &[&[u8]] = &[b"--inhibit-cache", b"--list", real];
            let text = ask(&loader, args, b"", Stream::Out);
            if text.map(|text| parse_libraries(&text)) != Some(found.clone()) {
                return Err(InPlace::new("compiler-library"));
            }
        }
        for library in found {
            let file = self.add_file(&library)?;
            if file.is_none() {
                return Err(InPlace::new("compiler-library"));
            }
        }
        Ok(())
    }
}

/// The paths in what `ld.so --list` prints:
///
/// ```text
///     linux-vdso.so.1 (0x00007f6222a7f000)
///     libz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f62227f2000)
///     libx.so => not found
///     /lib64/ld-linux-x86-64.so.2 (0x00007f6222a81000)
/// ```
fn parse_libraries(text: &[u8]) -> BTreeSet<Vec<u8>> {
    let mut found = BTreeSet::new();
    for line in text.split(|byte| *byte == b'\n') {
        let line = line.trim_ascii();
        let Some(end) = memchr::memmem::rfind(line, b" (0x") else {
            continue;
        };
        let line = &line[..end];
        let path = match memchr::memmem::find(line, b" => ") {
            Some(at) => &line[at + 4..],
            None => line,
        };
        if path.starts_with(b"/") {
            found.insert(path.to_vec());
        }
    }
    found
}

pub(super) fn to_path(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}

/// Opens a file of the host for reading; a pipe at its place does not hold us.
pub(super) fn open(path: &[u8]) -> std::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW;
    Ok(rustix::fs::open(to_path(path), flags, Mode::empty())?.into())
}

fn read_link(path: &[u8]) -> Option<Vec<u8>> {
    let target = rustix::fs::readlink(to_path(path), Vec::new()).ok()?;
    Some(target.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn bytes(path: &Path) -> Vec<u8> {
        path.as_os_str().as_bytes().to_vec()
    }

    #[test]
    fn a_path_is_followed_through_links_and_what_was_seen_is_noted() {
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(dir.path()).unwrap();
        std::fs::create_dir(root.join("real")).unwrap();
        std::fs::write(root.join("real/gcc-12"), "x").unwrap();
        symlink("real/../real", root.join("bin")).unwrap();
        symlink("gcc-12", root.join("real/gcc")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let mut members = Members::default();
        let file = members.add_file(&bytes(&root.join("bin/gcc"))).unwrap();
        assert_eq!(file, Some(bytes(&root.join("real/gcc-12"))));
        let nowhere = [
            root.join("loop"),
            root.join("none/x"),
            root.join("bin/gcc/x"),
        ];
        for path in nowhere {
            assert_eq!(members.add_file(&bytes(&path)).unwrap(), None);
        }
        assert!(members.facts.hold());
        std::fs::remove_file(root.join("bin")).unwrap();
        assert!(!members.facts.hold());
    }

    #[test]
    fn a_file_that_appears_where_none_was_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let mut members = Members::default();
        let path = bytes(&dir.path().join("gcc"));
        assert_eq!(members.add_file(&path).unwrap(), None);
        assert!(members.facts.hold());
        std::fs::write(dir.path().join("gcc"), "").unwrap();
        assert!(!members.facts.hold());
    }

    #[test]
    fn a_directory_holds_what_was_added_before_and_what_is_not_a_file_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(dir.path()).unwrap();
        let lib = root.join("lib");
        std::fs::create_dir_all(lib.join("include")).unwrap();
        std::fs::write(lib.join("cc1"), "x").unwrap();
        symlink("../elsewhere", lib.join("libx.so")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(lib.join("socket")).unwrap();
        let mut members = Members::default();
        members.add_file(&bytes(&lib.join("cc1"))).unwrap();
        members.add_dir(&bytes(&lib)).unwrap();
        members.add_file(&bytes(&lib.join("cc1"))).unwrap();
        assert_eq!(members.roots, BTreeSet::from([bytes(&lib)]));
        let names: Vec<_> = members
            .nodes
            .keys()
            .map(|path| split_last(path).1.to_vec())
            .collect();
        assert_eq!(names, [&b"lib"[..], b"cc1", b"include", b"libx.so"]);
    }

    #[test]
    fn libraries_are_the_paths_that_the_loader_lists() {
        let text = b"\tlinux-vdso.so.1 (0x00007f6222a7f000)\n\
            \tlibz.so.1 => /lib/with (0x1) space/libz.so.1 (0x00007f62227f2000)\n\
            \tlibx.so => not found\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f6222a81000)\nrubbish\n";
        let expected = [
            &b"/lib/with (0x1) space/libz.so.1"[..],
            b"/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(parse_libraries(text), expected.map(<[u8]>::to_vec).into());
    }
}
