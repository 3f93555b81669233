//! What the kernel opens by itself when it executes a file.
//!
//! Sources: execve(2), "Interpreter scripts"; elf(5), `PT_INTERP`.

use std::os::fd::OwnedFd;

/// As much of a script's first line as the kernel reads (`BINPRM_BUF_SIZE`).
const LINE_MAX: usize = 256;

/// Longest path (limits.h, `PATH_MAX`).
const PATH_MAX: u64 = 4096;

/// A longer script is looked at in part.
const SCRIPT_MAX: u64 = 256 << 10;

const PT_INTERP: u32 = 3;

/// The interpreter of a script or of a dynamically linked program; `None` if it has none or
/// cannot be read.
pub(super) fn interpreter(file: OwnedFd) -> Option<Vec<u8>> {
    let head = read_at(&file, 0, LINE_MAX as u64)?;
    if let Some(line) = head.strip_prefix(b"#!") {
        let word = line
            .split(|byte| *byte == b'\n')
            .next()?
            .split(|byte| matches!(byte, b' ' | b'\t'))
            .find(|word| !word.is_empty())?;
        return Some(word.to_vec());
    }
    if !head.starts_with(b"\x7fELF") {
        return None;
    }
    let elf = Elf {
        is_64: *head.get(4)? == 2,
        is_little: *head.get(5)? == 1,
    };
    let (table, entry_len, entries) = match elf.is_64 {
        true => (elf.number(&head, 32, 8)?, 54, 56),
        false => (elf.number(&head, 28, 4)?, 42, 44),
    };
    let entry_len = elf.number(&head, entry_len, 2)?;
    let entries = elf.number(&head, entries, 2)?;
    for i in 0..entries {
        let entry = read_at(&file, table.checked_add(i * entry_len)?, entry_len)?;
        if elf.number(&entry, 0, 4)? != u64::from(PT_INTERP) {
            continue;
        }
        let (offset, len) = match elf.is_64 {
            true => (elf.number(&entry, 8, 8)?, elf.number(&entry, 32, 8)?),
            false => (elf.number(&entry, 4, 4)?, elf.number(&entry, 16, 4)?),
        };
        let mut path = read_at(&file, offset, len.min(PATH_MAX))?;
        let end = path.iter().position(|byte| *byte == 0);
        path.truncate(end.unwrap_or(path.len()));
        return Some(path);
    }
    None
}

/// The text of a file if it is a script, as far as it is worth looking at.
pub(super) fn script(file: OwnedFd) -> Option<Vec<u8>> {
    let text = read_at(&file, 0, SCRIPT_MAX)?;
    text.starts_with(b"#!").then_some(text)
}

struct Elf {
    is_64: bool,
    is_little: bool,
}

impl Elf {
    fn number(&self, bytes: &[u8], offset: usize, len: usize) -> Option<u64> {
        let bytes = bytes.get(offset..offset + len)?;
        let add = |sum, byte: &u8| sum << 8 | u64::from(*byte);
        Some(match self.is_little {
            true => bytes.iter().rev().fold(0, add),
            false => bytes.iter().fold(0, add),
        })
    }
}

/// As many bytes as there are, up to `len`.
fn read_at(file: &OwnedFd, offset: u64, len: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(len).ok()?];
    let read = rustix::io::pread(file, &mut bytes, offset).ok()?;
    bytes.truncate(read);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;

    fn of(bytes: &[u8]) -> Option<Vec<u8>> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        interpreter(file.into())
    }

    #[test]
    fn a_script_names_its_interpreter_in_its_first_line() {
        assert_eq!(of(b"#!/bin/sh\n/bin/no").unwrap(), b"/bin/sh");
        assert_eq!(of(b"#! \t/usr/bin/env python3\n").unwrap(), b"/usr/bin/env");
        assert_eq!(of(b"#!\nx"), None);
        assert_eq!(of(b"echo\n"), None);
        assert_eq!(of(b""), None);
    }

    #[test]
    fn a_program_names_its_interpreter_and_a_damaged_one_does_not() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let found = interpreter(File::open("/proc/self/exe").unwrap().into()).unwrap();
        assert!(
            std::path::Path::new(std::ffi::OsStr::new(str::from_utf8(&found).unwrap())).exists()
        );
        assert_eq!(of(&own[..60]), None);
        let mut broken = own[..4096].to_vec();
        broken[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(of(&broken), None);
    }
}
