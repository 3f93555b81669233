//! The sections of an object file, as far as they tell what a text in one is.
//!
//! Source: elf(5); System V ABI, "Object Files".

use std::ops::Range;

/// `SHT_PROGBITS`: what the section holds is the program's matter.
const PROGBITS: u32 = 1;
/// `SHT_NOBITS`: it holds nothing in the file.
const NOBITS: u32 = 8;
/// `SHF_ALLOC`: it is in memory when the program runs.
const ALLOC: u64 = 0x2;
/// `SHF_COMPRESSED`.
const COMPRESSED: u64 = 0x800;

/// More sections than this are not looked at.
const SECTIONS_MAX: usize = 1 << 20;

/// One section.
pub(super) struct Section<'a> {
    name: &'a [u8],
    kind: u32,
    flags: u64,
    /// Where its contents are in the file.
    pub(super) range: Range<usize>,
}

impl Section<'_> {
    /// Whether its contents are data of the program, each at a place that was decided
    /// without them. Not so symbol names and debug information, which are sorted.
    pub(super) fn is_plain_data(&self) -> bool {
        let is_in_memory = self.flags & ALLOC != 0;
        let is_text_in_order = matches!(self.name, b".comment" | b".GCC.command.line");
        self.kind == PROGBITS && !self.is_compressed() && (is_in_memory || is_text_in_order)
    }

    /// Whether its contents cannot be looked at.
    pub(super) fn is_compressed(&self) -> bool {
        self.flags & COMPRESSED != 0 || self.name.starts_with(b".zdebug")
    }

    /// Whether it is debug information.
    pub(super) fn is_debug(&self) -> bool {
        self.name.starts_with(b".debug")
    }

    /// Whether it is a compiler's intermediate code.
    pub(super) fn is_intermediate_code(&self) -> bool {
        [&b".gnu.lto"[..], b".gnu.debuglto", b".llvm.lto", b".llvmbc"]
            .iter()
            .any(|begin| self.name.starts_with(begin))
    }
}

fn number(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    let mut le = [0; 8];
    le[..len].copy_from_slice(bytes.get(at..at.checked_add(len)?)?);
    Some(u64::from_le_bytes(le))
}

/// All sections of a 64-bit little-endian ELF file; `None` if it is none, or malformed.
pub(super) fn sections(bytes: &[u8]) -> Option<Vec<Section<'_>>> {
    if !bytes.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let size = |at, len| usize::try_from(number(bytes, at, len)?).ok();
    let (table, entry_len) = (size(0x28, 8)?, size(0x3a, 2)?);
    let (mut count, mut names) = (size(0x3c, 2)?, size(0x3e, 2)?);
    if entry_len < 0x40 {
        return None;
    }
    // Numbers that are too large are in the first section.
    if count == 0 {
        count = size(table.checked_add(0x20)?, 8)?;
    }
    if names == 0xffff {
        names = size(table.checked_add(0x28)?, 4)?;
    }
    if count > SECTIONS_MAX {
        return None;
    }
    let header = |index: usize| table.checked_add(index.checked_mul(entry_len)?);
    let range = |header: usize| {
        let (start, len) = (
            size(header.checked_add(0x18)?, 8)?,
            size(header.checked_add(0x20)?, 8)?,
        );
        Some(start..start.checked_add(len)?)
    };
    let names = bytes.get(range(header(names)?)?)?;
    let mut sections = Vec::with_capacity(count);
    for index in 0..count {
        let header = header(index)?;
        let name = names.get(size(header, 4)?..)?;
        let kind = number(bytes, header.checked_add(4)?, 4)? as u32;
        let range = range(header)?;
        // The first entry is no section; its fields may hold the counts.
        let is_in_file = kind != NOBITS && index != 0;
        if is_in_file && range.end > bytes.len() {
            return None;
        }
        sections.push(Section {
            name: &name[..name.iter().position(|byte| *byte == 0)?],
            kind,
            flags: number(bytes, header.checked_add(8)?, 8)?,
            range: if is_in_file { range } else { 0..0 },
        });
    }
    Some(sections)
}
