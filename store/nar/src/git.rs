//! A tree of the file system as git hashes it.
//!
//! ```text
//! blob   = "blob " length "\0" content of a file, or target of a symbolic link
//! tree   = "tree " length "\0" entry*
//! entry  = mode " " name "\0" hash        mode = 100644 | 100755 | 120000 | 40000
//! ```
//!
//! Entries are in bytewise order of their names, where a directory's name counts as
//! if a `/` followed. There is an entry for a directory without any, which git itself
//! never makes. The object's own mode is in no hash.
//!
//! Source: git, `Documentation/gitformat-*`, `tree.c`; nix `src/libutil/git.cc`.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

use store_types::{Hash, HashAlgorithm};

use crate::parse::{Nodes, Parser};
use crate::{Hasher, NarError, dump};

/// How long the tree objects of the directories that lie in one another may be
/// together, in bytes: they begin with their length, so they are held until they are
/// complete. A directory of a million files takes 50 MiB.
pub const GIT_TREES_LEN_MAX: usize = 1 << 30;

/// A sink for one NAR that takes the hash of its tree as a git object.
///
/// No more is held than a file's begin and the entries of the directories entered.
pub struct GitHasher {
    parser: Parser,
    trees: Trees,
}

impl GitHasher {
    /// A hasher by SHA-1 or SHA-256; an error for others.
    pub fn new(algorithm: HashAlgorithm) -> Result<Self, NarError> {
        match algorithm {
            HashAlgorithm::Sha1 | HashAlgorithm::Sha256 => Ok(Self {
                parser: Parser::new(),
                trees: Trees {
                    algorithm,
                    directories: Vec::new(),
                    len: 0,
                    file: None,
                    root: None,
                },
            }),
            HashAlgorithm::Md5 | HashAlgorithm::Sha512 | HashAlgorithm::Blake3 => {
                Err(NarError::GitAlgorithm {
                    algorithm: algorithm.name(),
                })
            }
        }
    }

    /// The hash of the blob or tree; an error if the archive is not complete.
    pub fn finish(self) -> Result<Hash, NarError> {
        match self.trees.root {
            Some(hash) if self.parser.is_done() => Ok(hash),
            _ => Err(self.parser.end_of_input()),
        }
    }
}

impl Write for GitHasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self
            .parser
            .feed(bytes, &mut self.trees)
            .map_err(io::Error::other)?;
        if taken < bytes.len() {
            let error = self.parser.malformed("bytes after the archive's end");
            return Err(io::Error::other(error));
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The hash of what `name` in `dir` is as a git object, by SHA-1 or SHA-256.
pub fn git_hash_tree(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    algorithm: HashAlgorithm,
) -> Result<Hash, NarError> {
    let mut hasher = GitHasher::new(algorithm)?;
    dump(dir, name, &mut hasher)?;
    hasher.finish()
}

/// What git keeps of a node's mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Regular,
    Executable,
    Symlink,
    Directory,
}

impl Mode {
    const fn text(self) -> &'static str {
        match self {
            Self::Regular => "100644",
            Self::Executable => "100755",
            Self::Symlink => "120000",
            Self::Directory => "40000",
        }
    }
}

struct TreeEntry {
    /// The name; a directory's with the `/` that it is sorted by.
    key: Vec<u8>,
    mode: Mode,
    hash: Hash,
}

impl TreeEntry {
    fn name(&self) -> &[u8] {
        match self.mode {
            Mode::Directory => &self.key[..self.key.len() - 1],
            Mode::Regular | Mode::Executable | Mode::Symlink => &self.key,
        }
    }

    /// Its bytes in the tree object.
    fn len(&self) -> usize {
        self.mode.text().len() + 1 + self.name().len() + 1 + self.hash.bytes().len()
    }
}

struct Directory {
    name: Vec<u8>,
    entries: Vec<TreeEntry>,
}

struct File {
    name: Vec<u8>,
    mode: Mode,
    hasher: Hasher,
}

struct Trees {
    algorithm: HashAlgorithm,
    /// The directories entered.
    directories: Vec<Directory>,
    /// The bytes of all their entries.
    len: usize,
    file: Option<File>,
    root: Option<Hash>,
}

impl Trees {
    fn object(&self, kind: &str, len: u64) -> Hasher {
        let mut hasher = Hasher::new(self.algorithm);
        hasher.update(format!("{kind} {len}\0").as_bytes());
        hasher
    }

    fn node(&mut self, name: Vec<u8>, mode: Mode, hash: Hash) -> Result<(), NarError> {
        let Some(directory) = self.directories.last_mut() else {
            self.root = Some(hash);
            return Ok(());
        };
        let mut key = name;
        if mode == Mode::Directory {
            key.push(b'/');
        }
        let entry = TreeEntry { key, mode, hash };
        self.len += entry.len();
        if self.len > GIT_TREES_LEN_MAX {
            return Err(NarError::GitTreesTooLong {
                name: entry.name().escape_ascii().to_string(),
            });
        }
        directory.entries.push(entry);
        Ok(())
    }
}

impl Nodes for Trees {
    fn enter_directory(&mut self, name: &OsStr) -> Result<(), NarError> {
        self.directories.push(Directory {
            name: name.as_bytes().to_vec(),
            entries: Vec::new(),
        });
        Ok(())
    }

    fn leave_directory(&mut self) -> Result<(), NarError> {
        let mut directory = self.directories.pop().expect("a directory was entered");
        directory
            .entries
            .sort_unstable_by(|one, other| one.key.cmp(&other.key));
        let len: usize = directory.entries.iter().map(TreeEntry::len).sum();
        self.len -= len;
        let mut hasher = self.object("tree", len as u64);
        for entry in &directory.entries {
            hasher.update(entry.mode.text().as_bytes());
            hasher.update(b" ");
            hasher.update(entry.name());
            hasher.update(b"\0");
            hasher.update(entry.hash.bytes());
        }
        self.node(directory.name, Mode::Directory, hasher.finish().0)
    }

    fn begin_file(&mut self, name: &OsStr, executable: bool, size: u64) -> Result<(), NarError> {
        self.file = Some(File {
            name: name.as_bytes().to_vec(),
            mode: match executable {
                true => Mode::Executable,
                false => Mode::Regular,
            },
            hasher: self.object("blob", size),
        });
        Ok(())
    }

    fn file_content(&mut self, bytes: &[u8]) -> Result<(), NarError> {
        let file = self.file.as_mut().expect("a file was begun");
        file.hasher.update(bytes);
        Ok(())
    }

    fn end_file(&mut self) -> Result<(), NarError> {
        let file = self.file.take().expect("a file was begun");
        self.node(file.name, file.mode, file.hasher.finish().0)
    }

    fn symlink(&mut self, name: &OsStr, target: &[u8]) -> Result<(), NarError> {
        let mut hasher = self.object("blob", target.len() as u64);
        hasher.update(target);
        self.node(name.as_bytes().to_vec(), Mode::Symlink, hasher.finish().0)
    }
}
