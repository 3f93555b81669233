//! Tar archives as trees, and nothing outside of the tree.
//!
//! An archive is as hostile as the host that it was fetched from (GHSA-gr92-w2r5-qw5p). Each
//! entry is made by its directory's descriptor, which is reached from the tree's top one
//! component at a time, never through a symbolic link. Refused are `..`, paths through links,
//! devices, sockets and named pipes, hard links to what is not in the tree, and sparse files.
//!
//! What is made follows nix 2.34 (`src/libutil/tarfile.cc`, which has libarchive do it):
//! leading `/` do not count, a later entry replaces an earlier one, a directory that an entry
//! needs is made, of modes only the owner's `x` counts, owners and times do not.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::AtFlags;
use rustix::io::Errno;
use store_nar::fs;
use tar::{Archive, Entry, EntryType, PaxExtensions};

use crate::{Io, decompress};

/// The longest path of an entry in bytes, the kernel's own limit (path_resolution(7)).
const PATH_LEN_MAX: usize = 4096;

/// How many directories may lie in one another: a deeper tree is no store object.
const DEPTH_MAX: usize = store_nar::DEPTH_MAX;

/// The longest extended header in bytes: two paths and some short attributes, of which none
/// that is longer is of any use.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;

/// How much of a file is copied at once.
const BUFFER_BYTES: usize = 64 << 10;

/// An archive that no tree is made of.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The first entry already cannot be read.
    #[error("failed to open archive: Unrecognized archive format")]
    NoArchive(#[source] Io),
    /// A later one cannot be read.
    #[error("cannot read archive")]
    Read(#[source] Io),
    /// An entry cannot be made.
    #[error("cannot make archive member '{0}'")]
    Make(String, #[source] Io),
    /// An entry is not made.
    #[error("archive member '{0}' {1}")]
    Refused(String, &'static str),
}

/// Makes the tree of a tar archive in an empty directory: plain, or compressed with gzip,
/// bzip2, xz or zstd. A file that is empty is an archive with nothing in it.
pub fn unpack(archive: impl Read, root: BorrowedFd<'_>) -> Result<(), ArchiveError> {
    let content =
        decompress::guess(archive).map_err(|error| ArchiveError::NoArchive(error.into()))?;
    let mut archive = Archive::new(content);
    let mut tree = Tree { root, parent: None };
    let mut extensions = Extensions::default();
    let mut is_first = true;
    // Raw: the library would hold extended headers of any length in memory.
    let entries = archive
        .entries()
        .map_err(|error| ArchiveError::Read(error.into()))?;
    for entry in entries.raw(true) {
        let mut entry = entry.map_err(|error| match is_first {
            true => ArchiveError::NoArchive(error.into()),
            false => ArchiveError::Read(error.into()),
        })?;
        is_first = false;
        if extensions.take(&mut entry)? {
            continue;
        }
        make(&mut tree, entry, std::mem::take(&mut extensions))?;
    }
    Ok(())
}

/// What extended headers say of the entry after them.
#[derive(Debug, Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Extensions {
    /// Takes an entry that is not one of its own.
    fn take(&mut self, entry: &mut Entry<'_, impl Read>) -> Result<bool, ArchiveError> {
        let kind = entry.header().entry_type();
        match kind {
            EntryType::GNULongName => self.path = Some(until_nul(content(entry)?)),
            EntryType::GNULongLink => self.link = Some(until_nul(content(entry)?)),
            EntryType::XHeader => {
                let text = content(entry)?;
                for extension in PaxExtensions::new(&text) {
                    let extension = extension.map_err(|error| ArchiveError::Read(error.into()))?;
                    match extension.key_bytes() {
                        b"path" => self.path = Some(extension.value_bytes().to_vec()),
                        b"linkpath" => self.link = Some(extension.value_bytes().to_vec()),
                        // The header has no room for more than 8 GiB.
                        b"size" => return Err(refused(entry, "has an extended size")),
                        key if key.starts_with(b"GNU.sparse.") => {
                            return Err(refused(entry, "is sparse"));
                        }
                        _ => {}
                    }
                }
            }
            // What holds for all entries is nothing that counts; nor does the volume's name.
            EntryType::XGlobalHeader => {}
            _ if kind.as_byte() == b'V' => {}
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn until_nul(mut text: Vec<u8>) -> Vec<u8> {
    if let Some(end) = text.iter().position(|byte| *byte == 0) {
        text.truncate(end);
    }
    text
}

/// The content of an extended header.
fn content(entry: &mut Entry<'_, impl Read>) -> Result<Vec<u8>, ArchiveError> {
    if entry.size() > EXTENSION_BYTES_MAX {
        return Err(refused(entry, "has too long an extended header"));
    }
    let mut text = Vec::new();
    entry
        .read_to_end(&mut text)
        .map_err(|error| ArchiveError::Read(error.into()))?;
    Ok(text)
}

fn refused(entry: &Entry<'_, impl Read>, why: &'static str) -> ArchiveError {
    ArchiveError::Refused(lossy(&entry.path_bytes()), why)
}

fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn make(
    tree: &mut Tree<'_>,
    mut entry: Entry<'_, impl Read>,
    extensions: Extensions,
) -> Result<(), ArchiveError> {
    let path = extensions
        .path
        .unwrap_or_else(|| entry.path_bytes().into_owned());
    let refuse = |why| ArchiveError::Refused(lossy(&path), why);
    let failed = |error: io::Error| ArchiveError::Make(lossy(&path), error.into());
    let components = components(&path).map_err(refuse)?;
    let mut kind = entry.header().entry_type();
    if kind.is_file() && path.ends_with(b"/") {
        // So old formats tell directories.
        kind = EntryType::Directory;
    }
    let Some((name, parents)) = components.split_last() else {
        // The tree's top, which is there.
        return match kind {
            EntryType::Directory => Ok(()),
            _ => Err(refuse("has no name")),
        };
    };
    let link = extensions
        .link
        .or_else(|| entry.link_name_bytes().map(|link| link.into_owned()));
    let why = |fault: Fault| match fault {
        Fault::Refused(why) => refuse(why),
        Fault::Io(error) => failed(error),
    };
    match kind {
        EntryType::Directory => tree.directory(parents, name).map_err(why),
        EntryType::Symlink => {
            let target = link.filter(|target| !target.is_empty());
            let target = target.ok_or_else(|| refuse("is a link without a target"))?;
            let parent = tree.parent(parents).map_err(why)?;
            replacing(parent, name, || fs::make_symlink(&target, parent, name)).map_err(failed)
        }
        EntryType::Link => {
            let target = link.ok_or_else(|| refuse("is a link without a target"))?;
            let target = self::components(&target).map_err(refuse)?;
            tree.hard_link(parents, name, &target).map_err(why)
        }
        EntryType::Regular | EntryType::Continuous => {
            let mode = entry.header().mode().map_err(failed)?;
            let mode = if mode & 0o100 != 0 { 0o755 } else { 0o644 };
            let parent = tree.parent(parents).map_err(why)?;
            let file = replacing(parent, name, || fs::create_file(parent, name, mode));
            copy(&mut entry, &file.map_err(failed)?).map_err(|error| match error {
                Copy::Read(error) => ArchiveError::Read(error.into()),
                Copy::Write(error) => failed(error),
            })
        }
        EntryType::GNUSparse => Err(refuse("is sparse")),
        _ => Err(refuse("is neither a file nor a directory nor a link")),
    }
}

enum Copy {
    Read(io::Error),
    Write(io::Error),
}

fn copy(entry: &mut Entry<'_, impl Read>, file: &OwnedFd) -> Result<(), Copy> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut left = entry.size();
    while left > 0 {
        let count = entry.read(&mut buffer).map_err(Copy::Read)?;
        if count == 0 {
            return Err(Copy::Read(io::ErrorKind::UnexpectedEof.into()));
        }
        left = left.saturating_sub(count as u64);
        fs::write_all(file, &buffer[..count]).map_err(Copy::Write)?;
    }
    Ok(())
}

/// A path's components without `.` and what makes it absolute.
fn components(path: &[u8]) -> Result<Vec<OsString>, &'static str> {
    if path.len() > PATH_LEN_MAX {
        return Err("has too long a path");
    }
    if path.contains(&0) {
        return Err("has a path with a zero byte in it");
    }
    let mut components = Vec::new();
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err("has a path that contains '..'"),
            name => components.push(OsString::from_vec(name.to_vec())),
        }
    }
    if components.len() > DEPTH_MAX {
        return Err("lies too deep");
    }
    Ok(components)
}

/// Makes a node where there may be one already, which is not a directory with something in it.
fn replacing<T>(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    mut make: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    match make() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            match fs::unlink(parent, name) {
                Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                    fs::remove_dir(parent, name)?;
                }
                result => result?,
            }
            make()
        }
        made => made,
    }
}

/// Why a node cannot be made.
enum Fault {
    Refused(&'static str),
    Io(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The tree that is being made.
struct Tree<'a> {
    root: BorrowedFd<'a>,
    /// The directory that an entry was made in last: the next one is mostly there, too.
    parent: Option<(Vec<OsString>, OwnedFd)>,
}

impl Tree<'_> {
    /// Opens a directory of the tree, and makes those that are missing.
    fn parent(&mut self, path: &[OsString]) -> Result<BorrowedFd<'_>, Fault> {
        if path.is_empty() {
            return Ok(self.root);
        }
        if self.parent.as_ref().is_none_or(|(known, _)| known != path) {
            let fd = self.open(path, true)?;
            self.parent = Some((path.to_vec(), fd));
        }
        let (_, fd) = self.parent.as_ref().expect("it was opened just now");
        Ok(fd.as_fd())
    }

    fn open(&self, path: &[OsString], make_missing: bool) -> Result<OwnedFd, Fault> {
        let mut dir: Option<OwnedFd> = None;
        for name in path {
            let at = dir.as_ref().map_or(self.root, |dir| dir.as_fd());
            let opened = match fs::open_dir(at, name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && make_missing => {
                    fs::make_dir(at, name, 0o755)?;
                    fs::open_dir(at, name)
                }
                opened => opened,
            };
            dir = Some(opened.map_err(|error| match Errno::from_io_error(&error) {
                // open(2): a link is one or the other, as `O_DIRECTORY` and `O_NOFOLLOW` meet.
                Some(Errno::LOOP | Errno::NOTDIR) => {
                    Fault::Refused("lies behind what is not a directory")
                }
                _ => Fault::Io(error),
            })?);
        }
        Ok(match dir {
            Some(dir) => dir,
            None => self.root.try_clone_to_owned()?,
        })
    }

    fn directory(&mut self, parents: &[OsString], name: &OsStr) -> Result<(), Fault> {
        let parent = self.parent(parents)?;
        let is_there = fs::stat_if_exists(parent, name)?
            .is_some_and(|stat| fs::Kind::of(&stat) == fs::Kind::Directory);
        if !is_there {
            replacing(parent, name, || fs::make_dir(parent, name, 0o755))?;
        }
        Ok(())
    }

    /// A second name for a file of the tree.
    fn hard_link(
        &mut self,
        parents: &[OsString],
        name: &OsStr,
        target: &[OsString],
    ) -> Result<(), Fault> {
        let Some((target_name, target_parents)) = target.split_last() else {
            return Err(Fault::Refused("is a hard link to a directory"));
        };
        let from = match self.open(target_parents, false) {
            Err(Fault::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Fault::Refused("is a hard link to what is not there"));
            }
            from => from?,
        };
        match fs::stat_if_exists(from.as_fd(), target_name)?.map(|stat| fs::Kind::of(&stat)) {
            Some(fs::Kind::Regular | fs::Kind::Symlink) => {}
            Some(_) => return Err(Fault::Refused("is a hard link to a directory")),
            None => return Err(Fault::Refused("is a hard link to what is not there")),
        }
        if parents == target_parents && name == target_name {
            return Ok(());
        }
        let parent = self.parent(parents)?;
        // Without `AT_SYMLINK_FOLLOW` a link itself gets the name (linkat(2)).
        replacing(parent, name, || {
            rustix::fs::linkat(&from, target_name, parent, name, AtFlags::empty())
                .map_err(io::Error::from)
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain;
    use rstest::rstest;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::Path;

    /// An entry of a test's archive: kind, path, and content or link's target.
    type Member<'a> = (u8, &'a [u8], &'a [u8]);

    /// A header with a path that no careful writer would write.
    fn header(kind: u8, path: &[u8], link: &[u8], size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(EntryType::new(kind));
        header.set_size(size);
        header.set_mode(if path.ends_with(b"x") { 0o755 } else { 0o644 });
        let old = header.as_old_mut();
        old.name[..path.len()].copy_from_slice(path);
        old.linkname[..link.len()].copy_from_slice(link);
        header.set_cksum();
        header
    }

    fn archive(members: &[Member<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, path, content) in members {
            let (link, content) = match kind {
                b'1' | b'2' => (*content, &b""[..]),
                _ => (&b""[..], *content),
            };
            bytes.extend(header(*kind, path, link, content.len() as u64).as_bytes());
            bytes.extend(content);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    /// All that is in a directory, with a file's content or a link's target.
    fn listing(dir: &Path) -> Vec<String> {
        let mut lines = Vec::new();
        let mut dirs = vec![dir.to_owned()];
        while let Some(next) = dirs.pop() {
            for entry in next.read_dir().unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(dir).unwrap().display().to_string();
                let metadata = path.symlink_metadata().unwrap();
                if metadata.is_dir() {
                    lines.push(format!("{name}/"));
                    dirs.push(path);
                } else if metadata.is_symlink() {
                    lines.push(format!("{name} -> {}", path.read_link().unwrap().display()));
                } else {
                    lines.push(format!(
                        "{name}: {}",
                        std::fs::read_to_string(&path).unwrap()
                    ));
                }
            }
        }
        lines.sort();
        lines
    }

    /// What becomes of an archive in a directory of its own, `in`, beside which a file lies.
    fn unpacked_in(dir: &Path, bytes: &[u8]) -> Result<Vec<String>, String> {
        std::fs::create_dir_all(dir.join("in")).unwrap();
        std::fs::write(dir.join("outside"), "kept").unwrap();
        let root = fs::open_root(&dir.join("in")).unwrap();
        let result = unpack(bytes, root.as_fd()).map_err(|error| chain(&error));
        let around: Vec<_> = listing(dir)
            .into_iter()
            .filter(|line| !line.starts_with("in/"))
            .collect();
        assert_eq!(around, ["outside: kept"], "nothing outside has changed");
        assert_eq!(dir.join("outside").metadata().unwrap().nlink(), 1);
        result.map(|()| listing(&dir.join("in")))
    }

    fn unpacked(members: &[Member<'_>]) -> Result<Vec<String>, String> {
        let dir = tempfile::tempdir().unwrap();
        unpacked_in(dir.path(), &archive(members))
    }

    #[test]
    fn files_directories_and_links_are_made() {
        let members: &[Member<'_>] = &[
            (b'g', b"pax_global_header", b"19 comment=abcdefg\n"),
            (b'5', b"a/", b""),
            (b'0', b"a/file", b"text"),
            (b'0', b"./a/b/c/runx", b"run"),
            (b'2', b"a/link", b"/nowhere"),
            (b'1', b"a/again", b"a/file"),
            (b'\0', b"old/", b""),
            (b'7', b"/absolute", b"is not"),
        ];
        let dir = tempfile::tempdir().unwrap();
        let made = unpacked_in(dir.path(), &archive(members)).unwrap();
        assert_eq!(
            made,
            [
                "a/",
                "a/again: text",
                "a/b/",
                "a/b/c/",
                "a/b/c/runx: run",
                "a/file: text",
                "a/link -> /nowhere",
                "absolute: is not",
                "old/",
            ]
        );
        let mode = |path: &str| {
            let metadata = dir.path().join("in").join(path).metadata().unwrap();
            metadata.permissions().mode() & 0o100
        };
        assert_eq!((mode("a/file"), mode("a/b/c/runx")), (0, 0o100));
    }

    #[test]
    fn later_entries_replace_earlier_ones() {
        let made = unpacked(&[
            (b'0', b"f", b"first"),
            (b'0', b"f", b"second"),
            (b'2', b"l", b"/etc"),
            (b'0', b"l", b"file"),
            (b'2', b"d", b"/etc"),
            (b'5', b"d", b""),
            (b'0', b"d/f", b"in it"),
            (b'5', b"e", b""),
            (b'2', b"e", b"to"),
        ]);
        assert_eq!(
            made.unwrap(),
            ["d/", "d/f: in it", "e -> to", "f: second", "l: file"]
        );
    }

    #[rstest]
    #[case::parent(
        "0 ../outside evil",
        "archive member '../outside' has a path that contains '..'"
    )]
    #[case::parent_inside(
        "0 a/../../outside evil",
        "archive member 'a/../../outside' has a path that contains '..'"
    )]
    #[case::through_a_link(
        "2 a ..; 0 a/outside evil",
        "archive member 'a/outside' lies behind what is not a directory"
    )]
    #[case::through_an_absolute_link(
        "2 a /tmp; 5 a/b",
        "archive member 'a/b' lies behind what is not a directory"
    )]
    #[case::through_a_link_deeper(
        "5 d; 2 d/a ../..; 0 d/a/outside evil",
        "archive member 'd/a/outside' lies behind what is not a directory"
    )]
    #[case::hard_link_out(
        "1 a ../outside; 0 a evil",
        "archive member 'a' has a path that contains '..'"
    )]
    #[case::hard_link_through_a_link(
        "2 l ..; 1 a l/outside",
        "archive member 'a' lies behind what is not a directory"
    )]
    #[case::absolute_hard_link(
        "1 a /etc/passwd",
        "archive member 'a' is a hard link to what is not there"
    )]
    #[case::hard_link_to_a_directory(
        "5 d; 1 a d",
        "archive member 'a' is a hard link to a directory"
    )]
    #[case::character_device(
        "3 a",
        "archive member 'a' is neither a file nor a directory nor a link"
    )]
    #[case::block_device(
        "4 a",
        "archive member 'a' is neither a file nor a directory nor a link"
    )]
    #[case::pipe(
        "6 a",
        "archive member 'a' is neither a file nor a directory nor a link"
    )]
    #[case::sparse("S a", "archive member 'a' is sparse")]
    #[case::file_for_a_directory(
        "0 a/b; 0 a",
        "cannot make archive member 'a': Directory not empty"
    )]
    #[case::below_a_file(
        "0 a; 0 a/b",
        "archive member 'a/b' lies behind what is not a directory"
    )]
    #[case::no_name("0 ./; 2 . x", "archive member '.' has no name")]
    fn what_would_leave_the_tree_is_refused(#[case] members: &str, #[case] why: &str) {
        let members: Vec<Member<'_>> = members
            .split("; ")
            .map(|member| {
                let mut words = member.splitn(3, ' ').map(str::as_bytes);
                let kind = words.next().unwrap()[0];
                (
                    kind,
                    words.next().unwrap(),
                    words.next().unwrap_or_default(),
                )
            })
            .collect();
        assert_eq!(unpacked(&members).unwrap_err(), why);
    }

    #[test]
    fn a_hard_link_to_a_symbolic_link_is_one_too() {
        let made = unpacked(&[(b'2', b"l", b"../outside"), (b'1', b"a", b"l")]);
        assert_eq!(made.unwrap(), ["a -> ../outside", "l -> ../outside"]);
    }

    #[test]
    fn long_paths_come_from_extended_headers() {
        let long = [b"d/", &[b'n'; 200][..]].concat();
        let record = format!(
            "212 path={}\n",
            long.iter()
                .map(|byte| char::from(*byte))
                .collect::<String>()
        );
        assert_eq!(record.len(), 212);
        let name = String::from_utf8(long.clone()).unwrap();
        let gnu = unpacked(&[
            (b'L', b"././@LongLink", &[&long[..], b"\0"].concat()),
            (b'0', b"cut", b"text"),
            (b'0', b"next", b"own name"),
        ]);
        let pax = unpacked(&[
            (b'x', b"PaxHeaders/cut", record.as_bytes()),
            (b'0', b"cut", b"text"),
            (b'0', b"next", b"own name"),
        ]);
        let expected = [
            "d/".to_owned(),
            format!("{name}: text"),
            "next: own name".to_owned(),
        ];
        assert_eq!(gnu.unwrap(), expected);
        assert_eq!(pax.unwrap(), expected);
        let evil: &[Member<'_>] = &[(b'x', b"x", b"19 path=../outside\n"), (b'0', b"a", b"evil")];
        assert_eq!(
            unpacked(evil).unwrap_err(),
            "archive member '../outside' has a path that contains '..'"
        );
    }

    #[test]
    fn limits_have_names() {
        let deep = b"d/".repeat(DEPTH_MAX + 1);
        let long = b"12345678/".repeat(PATH_LEN_MAX / 9 + 1);
        let cases: &[(Vec<u8>, &str)] = &[(deep, "lies too deep"), (long, "has too long a path")];
        for (path, why) in cases {
            let made = unpacked(&[(b'L', b"l", path), (b'5', b"a", b"")]);
            assert!(made.unwrap_err().ends_with(why));
        }
        let dir = tempfile::tempdir().unwrap();
        let huge = header(b'x', b"h", b"", EXTENSION_BYTES_MAX + 1);
        assert_eq!(
            unpacked_in(dir.path(), huge.as_bytes()).unwrap_err(),
            "archive member 'h' has too long an extended header"
        );
    }

    #[test]
    fn what_is_no_archive_or_half_of_one_is_an_error() {
        let unpack = |bytes: &[u8]| {
            let dir = tempfile::tempdir().unwrap();
            unpacked_in(dir.path(), bytes)
        };
        assert_eq!(unpack(b"").unwrap(), [""; 0]);
        let junk = unpack(&[b'j'; 600]).unwrap_err();
        assert!(
            junk.starts_with("failed to open archive: Unrecognized archive format"),
            "{junk}"
        );
        assert!(unpack(b"junk").is_err());
        let whole = archive(&[(b'0', b"a", &[b'x'; 600])]);
        assert!(
            unpack(&whole[..1000])
                .unwrap_err()
                .starts_with("cannot read archive")
        );
    }
}
