//! A NAR as a tree of the file system.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use crate::parse::{Nodes, Parser, pull};
use crate::{NarError, fs};

/// Reads one NAR and makes its tree as `name` in `parent`, where nothing of that
/// name may be; the count of bytes.
///
/// Files and directories get the modes (0444, 0555) and the modification time (1)
/// of a store. Not a byte more than the archive is taken from the reader, in many
/// small reads: give it one that has a buffer. After an error a part of the tree
/// may be there, for [`remove_tree`](crate::remove_tree).
pub fn restore(
    reader: &mut dyn Read,
    parent: BorrowedFd<'_>,
    name: &OsStr,
) -> Result<u64, NarError> {
    pull(reader, &mut Restorer::new(parent, name), None)
}

/// [`restore`] for an archive that is written piece by piece.
pub struct RestoreWriter<'a> {
    parser: Parser,
    restorer: Restorer<'a>,
}

impl<'a> RestoreWriter<'a> {
    /// A writer that makes the tree as `name` in `parent`.
    pub fn new(parent: BorrowedFd<'a>, name: &OsStr) -> Self {
        Self {
            parser: Parser::new(),
            restorer: Restorer::new(parent, name),
        }
    }

    /// An error if the archive is not complete.
    pub fn finish(self) -> Result<(), NarError> {
        if self.parser.is_done() {
            Ok(())
        } else {
            Err(self.parser.end_of_input())
        }
    }
}

impl Write for RestoreWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self
            .parser
            .feed(bytes, &mut self.restorer)
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

/// Makes the nodes that a parser tells of.
struct Restorer<'a> {
    parent: BorrowedFd<'a>,
    root_name: OsString,
    /// The directories entered.
    stack: Vec<OwnedFd>,
    /// The file being written, and its mode.
    file: Option<(OwnedFd, u32)>,
    /// The node being made, for messages.
    path: PathBuf,
}

impl<'a> Restorer<'a> {
    fn new(parent: BorrowedFd<'a>, root_name: &OsStr) -> Self {
        Self {
            parent,
            root_name: root_name.to_owned(),
            stack: Vec::new(),
            file: None,
            path: PathBuf::new(),
        }
    }

    /// Where a node of this name goes.
    fn place<'n>(&'n mut self, name: &'n OsStr) -> (BorrowedFd<'n>, &'n OsStr) {
        match self.stack.last() {
            None => {
                self.path.push(&self.root_name);
                (self.parent, &self.root_name)
            }
            Some(directory) => {
                self.path.push(name);
                (directory.as_fd(), name)
            }
        }
    }

    fn io(&self, operation: &'static str) -> impl FnOnce(io::Error) -> NarError + '_ {
        move |source| NarError::Io {
            operation,
            path: self.path.clone(),
            source,
        }
    }
}

impl Nodes for Restorer<'_> {
    fn enter_directory(&mut self, name: &OsStr) -> Result<(), NarError> {
        let (dir, name) = self.place(name);
        let made = fs::make_dir(dir, name, 0o700).and_then(|()| fs::open_dir(dir, name));
        let fd = made.map_err(self.io("make the directory"))?;
        self.stack.push(fd);
        Ok(())
    }

    fn leave_directory(&mut self) -> Result<(), NarError> {
        let fd = self.stack.pop().expect("a directory was entered");
        fs::set_mode(&fd, 0o555)
            .and_then(|()| fs::set_store_mtime_fd(&fd))
            .map_err(self.io("set mode and time of"))?;
        self.path.pop();
        Ok(())
    }

    fn begin_file(&mut self, name: &OsStr, executable: bool, _size: u64) -> Result<(), NarError> {
        let mode = if executable { 0o555 } else { 0o444 };
        let (dir, name) = self.place(name);
        let made = fs::create_file(dir, name, mode);
        let fd = made.map_err(self.io("make"))?;
        self.file = Some((fd, mode));
        Ok(())
    }

    fn file_content(&mut self, bytes: &[u8]) -> Result<(), NarError> {
        let (fd, _) = self.file.as_ref().expect("a file was begun");
        fs::write_all(fd, bytes).map_err(self.io("write"))
    }

    fn end_file(&mut self) -> Result<(), NarError> {
        let (fd, mode) = self.file.take().expect("a file was begun");
        // The mode again: what it was made with went through the umask.
        fs::set_mode(&fd, mode)
            .and_then(|()| fs::set_store_mtime_fd(&fd))
            .map_err(self.io("set mode and time of"))?;
        self.path.pop();
        Ok(())
    }

    fn symlink(&mut self, name: &OsStr, target: &[u8]) -> Result<(), NarError> {
        let (dir, name) = self.place(name);
        let made =
            fs::make_symlink(target, dir, name).and_then(|()| fs::set_store_mtime(dir, name));
        made.map_err(self.io("make the link"))?;
        self.path.pop();
        Ok(())
    }
}
