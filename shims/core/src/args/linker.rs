//! What a linker's words write, and what no trace shows of them.

use super::Reason;
use super::traced::{Files, native};

/// Options of linkers that take the next word where they have no `=`, and whose word is no file
/// that is read. Sources: ld(1), ld.lld(1), `ld.gold --help`.
const VALUES: &[&str] = &[
    "A",
    "G",
    "O",
    "Tbss",
    "Tdata",
    "Ttext",
    "Ttext-segment",
    "a",
    "architecture",
    "assert",
    "auxiliary",
    "b",
    "defsym",
    "dynamic-linker",
    "e",
    "entry",
    "f",
    "filter",
    "fini",
    "format",
    "h",
    "hash-style",
    "init",
    "library-path",
    "L",
    "m",
    "oformat",
    "plugin-opt",
    "rpath",
    "rpath-link",
    "soname",
    "section-start",
    "sysroot",
    "u",
    "undefined",
    "wrap",
    "y",
    "trace-symbol",
    "z",
    "Y",
    "I",
    "image-base",
    "fuse-ld",
    "sort-section",
    "unresolved-symbols",
];

/// Options by which a linker writes files.
const WRITTEN: &[&str] = &["o", "output", "Map", "dependency-file", "out-implib"];

/// Reads the words of a linker's call, the program's name not among them.
///
/// The words of `-Wl,` and `-Xlinker` are some of such a call's.
pub(super) fn linker_words(words: &[Vec<u8>], files: &mut Files) -> Result<bool, Reason> {
    let mut makes_output = false;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        check(word)?;
        let Some(option) = word.strip_prefix(b"-").filter(|rest| !rest.is_empty()) else {
            files.read(word);
            continue;
        };
        let option = option.strip_prefix(b"-").unwrap_or(option);
        let (name, value) = match option.iter().position(|&byte| byte == b'=') {
            Some(at) => (&option[..at], Some(&option[at + 1..])),
            None => (option, None),
        };
        let is = |list: &[&str]| list.iter().any(|known| known.as_bytes() == name);
        if is(WRITTEN) {
            let Some(value) = value.or_else(|| words.next().map(Vec::as_slice)) else {
                return Err(Reason::MissingArgument(word.clone()));
            };
            makes_output |= matches!(name, b"o" | b"output");
            files.written(value);
        } else if is(VALUES) {
            let value = value.or_else(|| words.next().map(Vec::as_slice));
            if let Some(value) = value {
                // `-plugin-opt` passes options on, with or without dashes.
                check(&[b"-", value.strip_prefix(b"-").unwrap_or(value)].concat())?;
            }
        } else if let Some(value) = value {
            files.read(value);
        } else if let Some(library) = name.strip_prefix(b"l") {
            files.library(library);
        }
    }
    Ok(makes_output)
}

/// Refuses what makes a link depend on more than files and words.
fn check(word: &[u8]) -> Result<(), Reason> {
    let Some(option) = word.strip_prefix(b"-") else {
        return Ok(());
    };
    let option = option.strip_prefix(b"-").unwrap_or(option);
    let begins = |prefixes: &[&str]| {
        prefixes
            .iter()
            .any(|prefix| option.starts_with(prefix.as_bytes()))
    };
    if native(word) {
        Err(Reason::HostProcessor)
    } else if option == b"build-id=uuid" {
        Err(Reason::Random)
    } else if begins(&["stats", "time-trace", "time-passes", "perf"]) {
        Err(Reason::Dump)
    } else if begins(&[
        "incremental",
        "thinlto-cache",
        "cache-dir",
        "cache_path_lto",
    ]) || begins(&["plugin-opt=cache-dir", "plugin-opt=cache-policy"])
    {
        Err(Reason::KeptState)
    } else if option == b"insert-timestamp" {
        Err(Reason::Clock)
    } else if option == b"run" {
        // mold runs a command whose linker it is.
        Err(Reason::NotACompile)
    } else {
        Ok(())
    }
}
