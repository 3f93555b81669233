//! The files that a C or C++ source can make the compiler look for.
//!
//! A scan depends on the bytes alone, not on macros or on what is defined: every branch of every
//! conditional counts. It may report too much (a directive in a comment), never too little:
//! what it cannot decide is a flag of [`Scan`]. The exceptions are words that only the
//! preprocessor puts together: an assembler directive from several strings, and a name of the
//! time's macros from more pieces than two.

mod comments;
mod macros;
mod scanner;
mod times;

pub use macros::{Definition, definitions};
pub(crate) use times::mentions_time;

pub use scanner::{HasIncludeUses, has_include_uses, scan};

/// What asks for a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Directive {
    /// `#include`
    Include,
    /// `#include_next`: searched from the directory after the current file's.
    IncludeNext,
    /// `#import`: like `#include`, but once.
    Import,
    /// `#embed`: searched in the current file's directory, then in `--embed-dir`s.
    Embed,
    /// `__has_include`, `__has_include_next` and `__has_embed`: existence matters, not content.
    Has,
    /// `#line 1 "…"` and `# 1 "…"`: named relative to the *current* directory and not searched;
    /// a diagnostic prints lines of it if it is there.
    Line,
}

/// A file that a source names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Include {
    /// What asks for it.
    pub directive: Directive,
    /// `<…>` instead of `"…"`: the including file's directory and `-iquote` are not searched.
    pub angled: bool,
    /// The name between the delimiters; may be absolute.
    pub name: Vec<u8>,
}

/// A file that a source names by a macro: `#include FT_FREETYPE_H`. What the macro can stand
/// for, [`definitions`] tells.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacroInclude {
    /// What asks for it.
    pub directive: Directive,
    /// The macro.
    pub name: Vec<u8>,
}

/// What a source can ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// The files it names, sorted, each once.
    pub includes: Vec<Include>,
    /// The macros it includes by, sorted, each once.
    pub macro_includes: Vec<MacroInclude>,
    /// `#include` (or `#import`, `#embed`) of something other than a literal name or a macro's:
    /// which files it opens cannot be told from the text.
    pub computed_include: bool,
    /// `__has_include` or `#line` with something other than a literal name: the compiler cannot
    /// be asked which files it looked for, so the call runs in place.
    pub computed_has_include: bool,
    /// Macros that stand for `__has_include` and its kin, sorted, each once. What they ask
    /// for, wherever they are used, [`has_include_uses`] tells.
    pub has_include_aliases: Vec<Vec<u8>>,
    /// Perhaps an assembler directive that reads a file (`.incbin`, `.include`).
    pub incbin: bool,
    /// Perhaps `__DATE__` or `__TIME__`, or what may become one by `##`: the result depends on the time unless
    /// `SOURCE_DATE_EPOCH` is set.
    pub date_time: bool,
    /// Perhaps `__TIMESTAMP__`, or what may become it by `##`: the result depends on the source's modification time.
    pub timestamp: bool,
    /// Perhaps `#pragma once` or `#import`: two files count as the same one if their size,
    /// modification time and content are equal, so that times matter where contents are equal.
    pub once: bool,
    /// Perhaps `#pragma GCC pch_preprocess`: reads a precompiled header.
    pub pch_pragma: bool,
    /// Perhaps `#pragma GCC dependency`: compares modification times.
    pub dependency_pragma: bool,
    /// Perhaps a C++20 module declaration or import; means nothing in C.
    pub modules: bool,
}
