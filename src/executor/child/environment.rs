//! Which of a build's environment variables a compiler call depends on.
//!
//! A child sees only the variables chosen here, so a choice can cost a hit, but
//! never make a wrong object believed: what a child does not see cannot have
//! formed its result. It could make a child differ from the plain call, though:
//! variables that redirect a compiler's file accesses have been refused before (by
//! [`shim_core::args::environment`]).

use std::collections::{BTreeMap, HashSet};

/// Variables that a compiler driver, its passes and the C library's messages
/// read. Sources: gcc manual, "Environment Variables Affecting GCC"; clang manual,
/// "Environment variables"; `GCC_URLS`, `TERM_URLS`: gcc manual, "Diagnostic
/// Message Formatting Options".
const READ_BY_COMPILERS: &[&str] = &[
    "CLICOLOR",
    "CLICOLOR_FORCE",
    "COLORTERM",
    "COLUMNS",
    "COMPILER_PATH",
    "CPATH",
    "CPLUS_INCLUDE_PATH",
    "C_INCLUDE_PATH",
    "FORCE_SOURCE_DATE",
    "GCC_COLORS",
    "GCC_EXEC_PREFIX",
    "GCC_URLS",
    "LANG",
    "LANGUAGE",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LOCPATH",
    "NO_COLOR",
    "OBJC_INCLUDE_PATH",
    "OBJCPLUS_INCLUDE_PATH",
    "SOURCE_DATE_EPOCH",
    "TEMP",
    "TERM",
    "TERM_URLS",
    "TMP",
    "TMPDIR",
    "TZ",
];

/// Variables whose names begin so are read, too.
const READ_BY_PREFIX: &[&str] = &["LC_"];

/// Variables that every Nix build has and that differ between machines or runs
/// without a meaning to a wrapper script, unless it names them.
const NOT_FOR_WRAPPERS: &[&str] = &[
    "NIX_BUILD_CORES",
    "NIX_LOG_FD",
    "NIX_REMOTE",
    "NIX_SSL_CERT_FILE",
];

/// The variables that a compiler's call depends on.
///
/// `named_by_wrapper` holds the words of the script, if the compiler is one: what
/// it can read of the environment it has to name. Wrappers of nixpkgs build the
/// names of their variables out of `NIX_` and more, so all of those count.
pub fn relevant(
    env: &BTreeMap<Vec<u8>, Vec<u8>>,
    named_by_wrapper: Option<&HashSet<Vec<u8>>>,
) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let is = |names: &[&str], name: &[u8]| names.iter().any(|known| known.as_bytes() == name);
    let mut kept = BTreeMap::new();
    for (name, value) in env {
        let by_compiler = is(READ_BY_COMPILERS, name)
            || READ_BY_PREFIX
                .iter()
                .any(|prefix| name.starts_with(prefix.as_bytes()));
        let by_wrapper = named_by_wrapper.is_some_and(|words| {
            words.contains(name) || (name.starts_with(b"NIX_") && !is(NOT_FOR_WRAPPERS, name))
        });
        // These are decided by the caller, who knows the files.
        if matches!(&**name, b"PATH" | b"PWD" | b"OLDPWD" | b"_" | b"SHLVL") {
            continue;
        }
        if by_compiler || by_wrapper {
            kept.insert(name.clone(), value.clone());
        }
    }
    kept
}

/// The words of a script that could name a variable.
pub fn words(script: &[u8]) -> HashSet<Vec<u8>> {
    script
        .split(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_')
        .filter(|word| word.first().is_some_and(|first| !first.is_ascii_digit()))
        .map(<[u8]>::to_vec)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<Vec<u8>, Vec<u8>> {
        pairs
            .iter()
            .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
            .collect()
    }

    #[test]
    fn a_plain_compiler_sees_only_what_compilers_read() {
        let all = env(&[
            ("LC_ALL", "C"),
            ("out", "/nix/store/x"),
            ("NIX_CFLAGS_COMPILE", "-O"),
            ("TERM", "dumb"),
        ]);
        assert_eq!(
            relevant(&all, None),
            env(&[("LC_ALL", "C"), ("TERM", "dumb")])
        );
    }

    #[test]
    fn a_wrapper_sees_what_it_names_and_what_nixpkgs_wrappers_compose() {
        let all = env(&[
            ("out", "/nix/store/x"),
            ("flags", "-O"),
            ("NIX_CFLAGS_COMPILE_x86_64", "-O"),
            ("NIX_BUILD_CORES", "7"),
        ]);
        let words = words(b"#!/bin/sh\nexec gcc ${flags-} \"$@\"");
        let expected = env(&[("flags", "-O"), ("NIX_CFLAGS_COMPILE_x86_64", "-O")]);
        assert_eq!(relevant(&all, Some(&words)), expected);
    }
}
