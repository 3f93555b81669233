//! A tree of the file system as a NAR.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use store_types::{Hash, HashAlgorithm, StorePath};

use crate::fs::{self, Entry, Kind};
use crate::{BUFFER_LEN, DEPTH_MAX, Hasher, NarError, RefScanner, Tee};

/// Room kept free for a file's content, so that no tiny reads happen.
const READ_LEN_MIN: usize = 8 * 1024;

/// Writes the NAR of what `name` in `dir` is.
///
/// A file is executable if its owner may execute it. Device nodes, sockets and
/// named pipes are an error, and so is a file that grows or shrinks meanwhile.
/// On an error, what was written so far is not an archive.
pub fn dump(dir: BorrowedFd<'_>, name: &OsStr, sink: &mut dyn Write) -> Result<(), NarError> {
    let mut dumper = Dumper {
        out: Out {
            buffer: vec![0; BUFFER_LEN].into_boxed_slice(),
            used: 0,
            sink,
        },
        path: PathBuf::new(),
        stack: Vec::new(),
    };
    dumper.out.word(b"nix-archive-1")?;
    let root = Entry {
        name: name.to_owned(),
        kind: None,
    };
    if let Some(frame) = dumper.node(dir, &root, 0)? {
        dumper.stack.push(frame);
    }
    while let Some(frame) = dumper.stack.pop() {
        dumper.continue_directory(frame)?;
    }
    dumper.out.flush()
}

/// The SHA-256 and the length of the NAR of what `name` in `dir` is.
pub fn dump_and_hash(dir: BorrowedFd<'_>, name: &OsStr) -> Result<(Hash, u64), NarError> {
    hash_tree(dir, name, HashAlgorithm::Sha256)
}

/// The hash by any algorithm, and the length, of the NAR of what `name` in `dir` is.
pub fn hash_tree(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    algorithm: HashAlgorithm,
) -> Result<(Hash, u64), NarError> {
    let mut hasher = Hasher::new(algorithm);
    dump(dir, name, &mut hasher)?;
    Ok(hasher.finish())
}

/// The SHA-256 and the length of the NAR of what `name` in `dir` is, and which of
/// the candidates it mentions, all of one read.
pub fn scan_tree<'a>(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    candidates: impl IntoIterator<Item = &'a StorePath>,
) -> Result<(Hash, u64, BTreeSet<StorePath>), NarError> {
    let mut hasher = Hasher::new(HashAlgorithm::Sha256);
    let mut scanner = RefScanner::new(candidates);
    dump(dir, name, &mut Tee::new(vec![&mut hasher, &mut scanner]))?;
    let (hash, size) = hasher.finish();
    Ok((hash, size, scanner.into_found()))
}

/// A directory of which some entries are written.
struct Frame {
    fd: OwnedFd,
    /// What is still to be written, the next one last.
    entries: Vec<Entry>,
}

struct Dumper<'a> {
    out: Out<'a>,
    /// The node being written, for messages.
    path: PathBuf,
    stack: Vec<Frame>,
}

impl Dumper<'_> {
    fn io(&self, operation: &'static str) -> impl FnOnce(io::Error) -> NarError + '_ {
        move |source| NarError::Io {
            operation,
            path: self.path.clone(),
            source,
        }
    }

    /// Writes a node that lies in `depth` directories; of a directory only the
    /// begin, returning the rest.
    fn node(
        &mut self,
        dir: BorrowedFd<'_>,
        entry: &Entry,
        depth: usize,
    ) -> Result<Option<Frame>, NarError> {
        self.path.push(&entry.name);
        if depth == DEPTH_MAX {
            return Err(NarError::TooDeep {
                path: self.path.clone(),
            });
        }
        let kind = match entry.kind {
            Some(kind) => kind,
            None => Kind::of(&fs::stat(dir, &entry.name).map_err(self.io("examine"))?),
        };
        self.out.word(b"(")?;
        self.out.word(b"type")?;
        match kind {
            Kind::Regular => self.regular(dir, &entry.name)?,
            Kind::Symlink => {
                let target = fs::read_link(dir, &entry.name).map_err(self.io("read the link"))?;
                for word in [&b"symlink"[..], b"target", &target, b")"] {
                    self.out.word(word)?;
                }
            }
            Kind::Directory => {
                self.out.word(b"directory")?;
                let fd = fs::open_dir(dir, &entry.name).map_err(self.io("open"))?;
                let mut entries = fs::list(fd.as_fd()).map_err(self.io("list"))?;
                entries.sort_unstable_by(|a, b| b.name.as_bytes().cmp(a.name.as_bytes()));
                return Ok(Some(Frame { fd, entries }));
            }
            Kind::Other(kind) => return Err(self.unsupported(kind)),
        }
        self.path.pop();
        Ok(None)
    }

    /// Writes entries of a directory up to and including the next that is a
    /// directory itself, which is then on top of the stack.
    fn continue_directory(&mut self, mut frame: Frame) -> Result<(), NarError> {
        // One that was a directory has been left since: the path names this one.
        while let Some(entry) = frame.entries.pop() {
            for word in [&b"entry"[..], b"(", b"name", entry.name.as_bytes(), b"node"] {
                self.out.word(word)?;
            }
            let depth = self.stack.len() + 1;
            if let Some(child) = self.node(frame.fd.as_fd(), &entry, depth)? {
                self.stack.push(frame);
                self.stack.push(child);
                return Ok(());
            }
            self.out.word(b")")?;
        }
        self.out.word(b")")?;
        self.path.pop();
        if !self.stack.is_empty() {
            self.out.word(b")")?;
        }
        Ok(())
    }

    fn regular(&mut self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), NarError> {
        let file = fs::open_file(dir, name).map_err(self.io("open"))?;
        let stat = fs::stat_fd(&file).map_err(self.io("examine"))?;
        if let Kind::Other(kind) = Kind::of(&stat) {
            return Err(self.unsupported(kind));
        }
        self.out.word(b"regular")?;
        if stat.st_mode & 0o100 != 0 {
            self.out.word(b"executable")?;
            self.out.word(b"")?;
        }
        self.out.word(b"contents")?;
        let announced = u64::try_from(stat.st_size).unwrap_or(0);
        self.out.bytes(&announced.to_le_bytes())?;
        let changed = |path: &PathBuf| NarError::Changed {
            path: path.clone(),
            announced,
        };
        let mut left = announced;
        // Reads once more when nothing is left, to see the end.
        loop {
            let free = self.out.free(READ_LEN_MIN)?;
            let count = fs::read(&file, free).map_err(|source| NarError::Io {
                operation: "read",
                path: self.path.clone(),
                source,
            })?;
            if count == 0 {
                break;
            }
            left = left
                .checked_sub(count as u64)
                .ok_or_else(|| changed(&self.path))?;
            self.out.used += count;
        }
        if left != 0 {
            return Err(changed(&self.path));
        }
        self.out.pad(announced)?;
        self.out.word(b")")
    }

    fn unsupported(&self, kind: &'static str) -> NarError {
        NarError::UnsupportedNode {
            path: self.path.clone(),
            kind,
        }
    }
}

/// The sink with a buffer before it, into which files are read directly.
struct Out<'a> {
    buffer: Box<[u8]>,
    used: usize,
    sink: &'a mut dyn Write,
}

impl Out<'_> {
    fn flush(&mut self) -> Result<(), NarError> {
        self.sink
            .write_all(&self.buffer[..self.used])
            .map_err(NarError::from_sink)?;
        self.used = 0;
        Ok(())
    }

    /// At least `least` bytes of room.
    fn free(&mut self, least: usize) -> Result<&mut [u8], NarError> {
        if self.buffer.len() - self.used < least {
            self.flush()?;
        }
        Ok(&mut self.buffer[self.used..])
    }

    /// Bytes that fit the buffer: names, targets, words.
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), NarError> {
        self.free(bytes.len())?[..bytes.len()].copy_from_slice(bytes);
        self.used += bytes.len();
        Ok(())
    }

    fn pad(&mut self, len: u64) -> Result<(), NarError> {
        self.bytes(&[0; 8][..(len.wrapping_neg() % 8) as usize])
    }

    fn word(&mut self, word: &[u8]) -> Result<(), NarError> {
        self.bytes(&(word.len() as u64).to_le_bytes())?;
        self.bytes(word)?;
        self.pad(word.len() as u64)
    }
}
