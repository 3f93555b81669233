//! Takes files of the host into the store, as one object.
//!
//! The object's tree mirrors the host's: what lies at `/usr/bin/gcc-12` is its
//! `usr/bin/gcc-12`. It is streamed as a NAR, so nothing is copied twice.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufReader, BufWriter, Read, Write};

use store_types::{ContentAddressMethod, HashAlgorithm, StorePath};

use super::super::outcome::InPlace;
use super::Destination;
use super::members::{Node, open};
use super::stamp::Stamp;

/// Pieces in which files are read, in bytes.
const PIECE_LEN: usize = 64 << 10;

/// A node below its directory.
enum Tree<'a> {
    Dir(BTreeMap<&'a [u8], Tree<'a>>),
    File { path: &'a [u8], seen: Stamp },
    Link(&'a [u8]),
}

/// Adds an object of these nodes (by absolute path) to the store.
///
/// # Errors
/// A file that is not any more what was seen, cannot be read, or a store that does not
/// take the object.
pub(super) fn import(
    into: &Destination<'_>,
    name: &str,
    nodes: &BTreeMap<Vec<u8>, Node>,
) -> Result<StorePath, InPlace> {
    let tree = tree(nodes).ok_or_else(|| InPlace::new("compiler-changes"))?;
    let failed = |_| InPlace::new("compiler-not-imported");
    let (reader, writer) = io::pipe().map_err(failed)?;
    std::thread::scope(|scope| {
        let written = scope.spawn(move || {
            let mut nar = Nar(BufWriter::with_capacity(PIECE_LEN, writer));
            nar.words(&[b"nix-archive-1"])?;
            nar.tree(&tree)?;
            nar.0.flush()
        });
        let added = into.store.add_content_addressed(
            name,
            ContentAddressMethod::Nar,
            HashAlgorithm::Sha256,
            &BTreeSet::new(),
            &mut BufReader::with_capacity(PIECE_LEN, reader),
        );
        match written.join() {
            // Then the store got no whole archive either.
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                Err(InPlace::new("compiler-changes"))
            }
            Ok(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(InPlace::new("compiler-unreadable"))
            }
            _ => added.map(|info| info.path).map_err(|error| {
                (into.diagnose)(&format!(
                    "the compiler `{name}` was not taken into the store: {}",
                    chain(&error)
                ));
                InPlace::new("compiler-not-imported")
            }),
        }
    })
}

/// An error and its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// The nodes in their directories; `None` if one lies below what is no directory.
fn tree(nodes: &BTreeMap<Vec<u8>, Node>) -> Option<Tree<'_>> {
    let mut root = Tree::Dir(BTreeMap::new());
    for (path, node) in nodes {
        let mut here = &mut root;
        for name in path.split(|byte| *byte == b'/') {
            if name.is_empty() {
                continue;
            }
            let Tree::Dir(entries) = here else {
                return None;
            };
            here = entries
                .entry(name)
                .or_insert_with(|| Tree::Dir(BTreeMap::new()));
        }
        match node {
            Node::Dir => {}
            Node::File(seen) => *here = Tree::File { path, seen: *seen },
            Node::Link(target) => *here = Tree::Link(target),
        }
    }
    Some(root)
}

/// Writes a NAR. Source: Nix manual, "Nix Archive (NAR) format".
struct Nar<W: Write>(W);

impl<W: Write> Nar<W> {
    fn words(&mut self, words: &[&[u8]]) -> io::Result<()> {
        for word in words {
            self.0.write_all(&(word.len() as u64).to_le_bytes())?;
            self.0.write_all(word)?;
            self.pad(word.len() as u64)?;
        }
        Ok(())
    }

    fn pad(&mut self, len: u64) -> io::Result<()> {
        let padding = len.next_multiple_of(8) - len;
        self.0.write_all(&[0; 8][..padding as usize])
    }

    fn tree(&mut self, tree: &Tree<'_>) -> io::Result<()> {
        self.words(&[b"(", b"type"])?;
        match tree {
            Tree::Dir(entries) => {
                self.words(&[b"directory"])?;
                for (name, entry) in entries {
                    self.words(&[b"entry", b"(", b"name", name, b"node"])?;
                    self.tree(entry)?;
                    self.words(&[b")"])?;
                }
            }
            Tree::File { path, seen } => self.file(path, *seen)?,
            Tree::Link(target) => self.words(&[b"symlink", b"target", target])?,
        }
        self.words(&[b")"])
    }

    fn file(&mut self, path: &[u8], seen: Stamp) -> io::Result<()> {
        let changed = || io::Error::from(io::ErrorKind::InvalidData);
        let mut file = open(path)?;
        let stat = rustix::fs::fstat(&file)?;
        if Stamp::of(&stat) != seen {
            return Err(changed());
        }
        self.words(&[b"regular"])?;
        if stat.st_mode & 0o100 != 0 {
            self.words(&[b"executable", b""])?;
        }
        self.words(&[b"contents"])?;
        let len = stat.st_size as u64;
        self.0.write_all(&len.to_le_bytes())?;
        if io::copy(&mut (&mut file).take(len), &mut self.0)? != len {
            return Err(changed());
        }
        self.pad(len)
    }
}
