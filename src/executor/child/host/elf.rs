//! What the head of a file says of it as a program.
//!
//! Only what is asked here is read: whether it is ELF, and which loader it names. Source:
//! System V ABI, "Program Header"; elf(5).

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

/// A loader's path is no longer than this (`PATH_MAX`).
const INTERPRETER_LEN_MAX: u64 = 4096;

/// More program headers than this has no program.
const HEADERS_MAX: u64 = 4096;

/// `p_type` of the segment with the loader's path.
const PT_INTERP: u64 = 3;

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// An ELF file, and the loader that it names.
    Elf { interpreter: Option<Vec<u8>> },
    /// A text that begins with `#!`.
    Script,
    /// Anything else, damaged ELF files among them.
    Other,
}

/// Looks at a file.
pub(super) fn format(file: &File) -> io::Result<Format> {
    let mut head = Vec::new();
    file.take(64).read_to_end(&mut head)?;
    if head.starts_with(b"#!") {
        return Ok(Format::Script);
    }
    if !head.starts_with(b"\x7fELF") {
        return Ok(Format::Other);
    }
    match interpreter(file, &head) {
        Ok(interpreter) => Ok(Format::Elf { interpreter }),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Format::Other),
        Err(error) => Err(error),
    }
}

/// How numbers are written in a file.
#[derive(Clone, Copy)]
struct Layout {
    is_64: bool,
    is_big_endian: bool,
}

impl Layout {
    /// The number of `len` bytes at this offset.
    fn number(self, bytes: &[u8], at: usize, len: usize) -> io::Result<u64> {
        let bytes = bytes.get(at..at + len).ok_or_else(damaged)?;
        let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        Ok(if self.is_big_endian {
            bytes.iter().fold(0, add)
        } else {
            bytes.iter().rev().fold(0, add)
        })
    }

    /// A number of the file's own word length, at the one or the other offset.
    fn word(self, bytes: &[u8], at_32: usize, at_64: usize) -> io::Result<u64> {
        if self.is_64 {
            self.number(bytes, at_64, 8)
        } else {
            self.number(bytes, at_32, 4)
        }
    }
}

fn damaged() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

fn interpreter(file: &File, head: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let layout = Layout {
        is_64: match head.get(4) {
            Some(1) => false,
            Some(2) => true,
            _ => return Err(damaged()),
        },
        is_big_endian: match head.get(5) {
            Some(1) => false,
            Some(2) => true,
            _ => return Err(damaged()),
        },
    };
    let table = layout.word(head, 28, 32)?;
    let (at_size, at_count) = if layout.is_64 { (54, 56) } else { (42, 44) };
    let size = layout.number(head, at_size, 2)?;
    let count = layout.number(head, at_count, 2)?;
    let needed = if layout.is_64 { 56 } else { 32 };
    if count == 0 {
        return Ok(None);
    }
    if count > HEADERS_MAX || !(needed..=256).contains(&size) {
        return Err(damaged());
    }
    let mut header = vec![0; size as usize];
    for index in 0..count {
        let at = table.checked_add(index * size).ok_or_else(damaged)?;
        read_at(file, &mut header, at)?;
        if layout.number(&header, 0, 4)? != PT_INTERP {
            continue;
        }
        let offset = layout.word(&header, 4, 8)?;
        let len = layout.word(&header, 16, 32)?;
        if !(2..=INTERPRETER_LEN_MAX).contains(&len) {
            return Err(damaged());
        }
        let mut path = vec![0; len as usize];
        read_at(file, &mut path, offset)?;
        path.truncate(
            path.iter()
                .position(|byte| *byte == 0)
                .ok_or_else(damaged)?,
        );
        if !path.starts_with(b"/") {
            return Err(damaged());
        }
        return Ok(Some(path));
    }
    Ok(None)
}

fn read_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    match file.read_exact_at(bytes, at) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(damaged()),
        // An offset that no file can have.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Err(damaged()),
        read => read,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    fn of(bytes: &[u8]) -> Format {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        format(&file).unwrap()
    }

    /// A 64-bit little-endian file with one segment.
    fn elf(kind: u32, offset: u64, len: u64) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(32, 0);
        bytes.extend_from_slice(&64u64.to_le_bytes());
        bytes.resize(54, 0);
        bytes.extend_from_slice(&[56, 0, 1, 0]);
        bytes.resize(64, 0);
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.resize(72, 0);
        bytes.extend_from_slice(&offset.to_le_bytes());
        bytes.resize(96, 0);
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.resize(120, 0);
        bytes.extend_from_slice(b"/lib/ld.so\0");
        bytes
    }

    #[test]
    fn the_loader_that_a_program_names_is_read() {
        let interpreter = Some(b"/lib/ld.so".to_vec());
        assert_eq!(of(&elf(3, 120, 11)), Format::Elf { interpreter });
        assert_eq!(of(&elf(1, 120, 11)), Format::Elf { interpreter: None });
        assert_eq!(of(b"#!/bin/sh\n"), Format::Script);
    }

    #[test]
    fn damaged_programs_are_no_programs() {
        for bytes in [
            &b""[..],
            b"\x7fELF",
            b"\x7fELF\x09\x09",
            b"text",
            &elf(3, 120, 0),
            &elf(3, 120, 10),
            &elf(3, 120, 12),
            &elf(3, u64::MAX, 11),
            &elf(3, 120, u64::MAX),
            &elf(3, 119, 12),
            &elf(3, 120, 11)[..100],
        ] {
            assert_eq!(of(bytes), Format::Other, "{bytes:?}");
        }
        // The table of segments lies beyond all that a number can say.
        let mut bytes = elf(3, 120, 11);
        bytes[32..40].fill(0xff);
        assert_eq!(of(&bytes), Format::Other);
    }
}
