//! Payloads whose length must be known before they are sent.

use std::fs::File;
use std::io::{self, Read, Seek};

use store_wire::Writer;

/// What of a payload is held in memory.
const IN_MEMORY_MAX: usize = 1 << 20;

/// Reads a payload to its end into a temporary file without a name, and tells
/// its length in bytes.
pub(crate) fn spool(dump: &mut dyn Read) -> io::Result<(Spooled, u64)> {
    let mut start = Vec::new();
    let len = dump.take(IN_MEMORY_MAX as u64).read_to_end(&mut start)?;
    if len < IN_MEMORY_MAX {
        return Ok((Spooled::Memory(io::Cursor::new(start)), len as u64));
    }
    let mut file = tempfile::tempfile()?;
    io::Write::write_all(&mut file, &start)?;
    let rest = io::copy(dump, &mut file)?;
    file.rewind()?;
    Ok((Spooled::File(file), len as u64 + rest))
}

/// A payload that was read to its end.
pub(crate) enum Spooled {
    Memory(io::Cursor<Vec<u8>>),
    File(File),
}

impl Read for Spooled {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Memory(memory) => memory.read(bytes),
            Self::File(file) => file.read(bytes),
        }
    }
}

/// What stands before and after the content of a NAR of one regular file.
pub(crate) fn nar_around_file(len: u64) -> (Vec<u8>, Vec<u8>) {
    let mut before = Writer::new();
    for word in ["nix-archive-1", "(", "type", "regular", "contents"] {
        before.bytes(word);
    }
    before.u64(len);
    let mut after = Writer::new();
    after.raw(&[0; 7][..(len.next_multiple_of(8) - len) as usize]);
    after.bytes(")");
    (before.into_bytes(), after.into_bytes())
}
