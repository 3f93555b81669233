//! Interpreter and library search path of ELF files.
//!
//! A file patched here must never go through `strip`: the rewritten program
//! header does not survive it.

use std::ffi::CStr;
use std::io::{self, Cursor};

use elb::{DynamicTag, Elf, ElfPatcher};

/// What `elb` lays segments out by, in bytes.
const PAGE_SIZE: u64 = 4096;

/// An ELF file that could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// It could not be read.
    #[error("cannot read it as an ELF file: {reason}")]
    Read {
        /// Why, in the ELF library's words.
        reason: String,
    },
    /// It could not be changed.
    #[error("cannot set its interpreter or library search path: {reason}")]
    Patch {
        /// Why, in the ELF library's words.
        reason: String,
    },
    /// The file could not be opened.
    #[error("cannot open it")]
    Io(#[from] io::Error),
}

/// What the dynamic linker does with a file.
#[derive(Debug, Default)]
pub(crate) struct Linkage {
    /// The program's interpreter; a library has none.
    pub interpreter: Option<String>,
    /// The libraries it needs, in its order.
    pub needed: Vec<String>,
}

/// Whether these first bytes are an ELF file's.
pub(crate) fn is_elf(head: &[u8]) -> bool {
    head.starts_with(b"\x7fELF")
}

/// Reads what the dynamic linker does with a file; nothing at all for object
/// files and static programs.
pub(crate) fn linkage(bytes: &[u8]) -> Result<Linkage, ElfError> {
    let read = |error: elb::Error| ElfError::Read {
        reason: format!("{error:?}"),
    };
    let mut file = Cursor::new(bytes);
    let elf = Elf::read_unchecked(&mut file, PAGE_SIZE).map_err(read)?;
    if elf.header.kind == elb::FileKind::Relocatable {
        return Ok(Linkage::default());
    }
    let interpreter = elf.read_interpreter(&mut file).map_err(read)?;
    let interpreter = interpreter.map(|path| path.to_string_lossy().into_owned());
    let (Some(table), Some(strings)) = (
        elf.read_dynamic_table(&mut file).map_err(read)?,
        elf.read_dynamic_string_table(&mut file).map_err(read)?,
    ) else {
        return Ok(Linkage {
            interpreter,
            needed: Vec::new(),
        });
    };
    let needed = table
        .iter()
        .filter(|(tag, _)| *tag == DynamicTag::Needed)
        .filter_map(|(_, offset)| strings.get_string(usize::try_from(*offset).ok()?))
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    Ok(Linkage {
        interpreter,
        needed,
    })
}

/// The file with another library search path (`RUNPATH`) and, for a program,
/// another interpreter.
pub(crate) fn relocate(
    bytes: Vec<u8>,
    interpreter: Option<&CStr>,
    search_path: &CStr,
) -> Result<Vec<u8>, ElfError> {
    let patch = |error: elb::Error| ElfError::Patch {
        reason: format!("{error:?}"),
    };
    let mut file = Cursor::new(bytes);
    let elf = Elf::read(&mut file, PAGE_SIZE).map_err(patch)?;
    let mut patcher = ElfPatcher::new(elf, file);
    if let Some(interpreter) = interpreter {
        patcher.set_interpreter(interpreter).map_err(patch)?;
    }
    patcher
        .set_dynamic_tag(DynamicTag::Runpath, search_path)
        .map_err(patch)?;
    Ok(patcher.finish().map_err(patch)?.into_inner())
}
