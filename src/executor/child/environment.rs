//! Which of a build's environment variables a compiler call depends on.
//!
//! A child sees only the variables chosen here, so a choice can cost a hit, but
//! never make a wrong object believed: what a child does not see cannot have
//! formed its result. It could make a child differ from the plain call, though:
//! variables that redirect a compiler's file accesses have been refused before (by
//! [`shim_core::args::environment`]).

use std::collections::{BTreeMap, HashSet};

use shim_core::args::is_read_by_compilers;
use shim_core::client::SESSION_VARIABLE;

use super::wrapper::is_any_nixpkgs_wrapper;

/// Words of a shell with which a line begins that assigns to all variables that it names.
const ASSIGN_ALL: &[&str] = &[
    "declare",
    "for",
    "local",
    "mapfile",
    "read",
    "readarray",
    "typeset",
];

/// Variables of nixpkgs' wrappers that only links get, and their variants for a role. They have
/// the outer derivation's name in them, and with it its version. Source: `cc-wrapper.sh`.
const FOR_LINKS: &[&str] = &["NIX_CFLAGS_LINK", "NIX_CXXSTDLIB_LINK", "NIX_LDFLAGS"];

/// Variables that are decided by the caller, who knows the files, and those that a shell sets.
const DECIDED_BY_CALLER: &[&[u8]] = &[b"PATH", b"PWD", b"OLDPWD", b"_", b"SHLVL"];

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
/// names of their variables out of `NIX_` and more, so with one all of those count.
pub fn relevant(
    env: &BTreeMap<Vec<u8>, Vec<u8>>,
    named_by_wrapper: Option<&HashSet<Vec<u8>>>,
    is_nixpkgs: bool,
) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let is = |names: &[&str], name: &[u8]| names.iter().any(|known| known.as_bytes() == name);
    let mut kept = BTreeMap::new();
    for (name, value) in env {
        let by_compiler = is_read_by_compilers(name);
        let by_wrapper = named_by_wrapper.is_some_and(|words| {
            let is_composed = name.starts_with(b"NIX_") && !is(NOT_FOR_WRAPPERS, name);
            words.contains(name) || (is_nixpkgs && is_composed)
        });
        if DECIDED_BY_CALLER.contains(&&**name) {
            continue;
        }
        if by_compiler || by_wrapper {
            kept.insert(name.clone(), value.clone());
        }
    }
    kept
}

/// What linkers, and the drivers that call them, read beside what compilers do. Sources: ld(1), "ENVIRONMENT"; gcc manual, "Environment Variables
/// Affecting GCC"; the calls of `getenv` in GCC's `collect2` and `lto-wrapper` and in BFD.
const READ_BY_LINKERS: &[&str] = &[
    "BINUTILS_ROOT",
    "COLLECT_NO_DEMANGLE",
    "GNUTARGET",
    // Where Clang looks for a user's configuration.
    "HOME",
    "LDEMULATION",
    "LD_RUN_PATH",
    "LIBRARY_PATH",
    "LPATH",
    // `lto-wrapper` runs it.
    "MAKE",
    "MACOSX_DEPLOYMENT_TARGET",
    "SDKROOT",
    "XDG_CONFIG_HOME",
];

/// Variables of compilers and linkers whose names begin so.
const READ_BY_PREFIX_IF_TRACED: &[&str] =
    &["CCC_", "CLANG_", "GCC_", "LLD_", "LLVM_", "MOLD_", "NIX_"];

/// The variables that a traced call depends on, as far as is known before it runs: those of
/// compilers and linkers, of nixpkgs' wrappers, which any of a call's programs can be, and
/// those that its wrapper names.
///
/// The scripts that it has run in the end may name more: see [`named_but_dropped`].
pub fn relevant_if_traced(
    env: &BTreeMap<Vec<u8>, Vec<u8>>,
    named_by_wrapper: Option<&HashSet<Vec<u8>>>,
) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut kept = relevant(env, named_by_wrapper, false);
    for (name, value) in env {
        let is_read = READ_BY_LINKERS
            .iter()
            .any(|known| known.as_bytes() == &**name)
            || READ_BY_PREFIX_IF_TRACED
                .iter()
                .any(|prefix| name.starts_with(prefix.as_bytes()));
        let is_needless = NOT_FOR_WRAPPERS
            .iter()
            .any(|known| known.as_bytes() == &**name);
        if is_read && !is_needless {
            kept.insert(name.clone(), value.clone());
        }
    }
    kept
}

/// The variables that a traced call through a wrapper depends on of which it is not known what
/// it reads: a script can source files that are no scripts, and execute programs that ask for
/// anything. So it is all that there are.
pub fn all_for_wrapper(env: &BTreeMap<Vec<u8>, Vec<u8>>) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let is_ours =
        |name: &[u8]| DECIDED_BY_CALLER.contains(&name) || name == SESSION_VARIABLE.as_bytes();
    env.iter()
        .filter(|(name, _)| !is_ours(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// The variables that a script names, that are set, and that a child did not get: if there are
/// any, the script may have read one, and the child is not to be believed.
pub fn named_but_dropped(
    script: &[u8],
    env: &BTreeMap<Vec<u8>, Vec<u8>>,
    kept: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> HashSet<Vec<u8>> {
    variables(script, is_any_nixpkgs_wrapper(script))
        .into_iter()
        .filter(|word| {
            env.contains_key(word)
                && !kept.contains_key(word)
                && !DECIDED_BY_CALLER.contains(&&**word)
        })
        .collect()
}

/// The words of a script that can name variables of its environment.
///
/// What nixpkgs' wrappers read is in upper case. Their other words are those of comments, and
/// variables of their own, such as `name`, which every build has in its environment, too: they
/// count only if they are expanded and nowhere assigned.
pub fn variables(script: &[u8], is_of_nixpkgs: bool) -> HashSet<Vec<u8>> {
    let mut all = words(script);
    if !is_of_nixpkgs {
        return all;
    }
    let (mut assigned, mut expanded) = (HashSet::new(), HashSet::new());
    for line in script.split(|byte| *byte == b'\n') {
        let line = line.trim_ascii();
        let first = line
            .split(u8::is_ascii_whitespace)
            .next()
            .unwrap_or_default();
        if ASSIGN_ALL.iter().any(|word| word.as_bytes() == first) {
            assigned.extend(words(line));
        }
        // In arithmetic, a name alone is expanded.
        if first == b"let" || memchr::memmem::find(line, b"((").is_some() {
            expanded.extend(words(line));
        }
        for (start, end) in spans(line) {
            let before = line[..start].trim_ascii_end();
            let is_expanded = before.len() == start
                && [&b"$"[..], b"${", b"${!", b"${#"]
                    .iter()
                    .any(|mark| before.ends_with(mark));
            let rest = &line[end..];
            let is_assigned =
                rest.starts_with(b"+=") || (rest.starts_with(b"=") && !rest.starts_with(b"=="));
            if is_expanded {
                expanded.insert(line[start..end].to_vec());
            } else if is_assigned {
                assigned.insert(line[start..end].to_vec());
            }
        }
    }
    all.retain(|word| {
        !word.iter().any(u8::is_ascii_lowercase)
            || (expanded.contains(word) && !assigned.contains(word))
    });
    all
}

/// Where the words of a line begin and end.
fn spans(line: &[u8]) -> Vec<(usize, usize)> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut spans = Vec::new();
    let mut at = 0;
    while at < line.len() {
        let len = line[at..].iter().take_while(|byte| is_word(**byte)).count();
        if len > 0 {
            spans.push((at, at + len));
        }
        at += len + 1;
    }
    spans
}

/// Takes away what nixpkgs' wrappers pass on to links only; the variables stay, empty.
///
/// With `NIX_DEBUG` they print what they do.
pub fn empty_for_compiles(env: &mut BTreeMap<Vec<u8>, Vec<u8>>) {
    if env.contains_key(&b"NIX_DEBUG"[..]) {
        return;
    }
    for (name, value) in env {
        let is_for_links = FOR_LINKS
            .iter()
            .any(|prefix| name.starts_with(prefix.as_bytes()));
        if is_for_links {
            value.clear();
        }
    }
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
            relevant(&all, None, false),
            env(&[("LC_ALL", "C"), ("TERM", "dumb")])
        );
    }

    #[test]
    fn a_traced_call_sees_what_linkers_and_nixpkgs_wrappers_read() {
        let all = env(&[
            ("LC_ALL", "C"),
            ("LIBRARY_PATH", "/a"),
            ("LD_RUN_PATH", "/b"),
            ("NIX_BUILD_CORES", "2"),
            ("NIX_LDFLAGS_FOR_TARGET", "-L/c"),
            ("PATH", "/bin"),
            ("flags", "-O"),
            ("src", "/nix/store/y"),
        ]);
        let words = words(b"exec gcc $flags");
        let kept = relevant_if_traced(&all, Some(&words));
        let names: Vec<_> = kept
            .keys()
            .map(|name| str::from_utf8(name).unwrap())
            .collect();
        let expected = [
            "LC_ALL",
            "LD_RUN_PATH",
            "LIBRARY_PATH",
            "NIX_LDFLAGS_FOR_TARGET",
            "flags",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn a_wrapper_of_which_nothing_is_known_sees_all() {
        let all = env(&[("EXTRA", "1"), ("PATH", "/bin"), ("DROSTE_SESSION", "7")]);
        assert_eq!(all_for_wrapper(&all), env(&[("EXTRA", "1")]));
    }

    #[test]
    fn nixpkgs_wrappers_do_not_read_their_own_variables_and_compiles_nothing_for_links() {
        let wrapper = b"# out of it\nfor name in x; do\nNIX_LDFLAGS=$name; done\nflags=1\n\
            source /x/nix-support/y; $SDKROOT ${extra-} $flags (( level > 1 ))";
        let all = env(&[
            ("NIX_LDFLAGS", "-L/a-1.0"),
            ("SDKROOT", "/s"),
            ("extra", "-O"),
            ("flags", "-O"),
            ("level", "1"),
            ("name", "a-1.0"),
            ("out", "/nix/store/x"),
        ]);
        let dropped = named_but_dropped(wrapper, &all, &BTreeMap::new());
        let expected = [&b"NIX_LDFLAGS"[..], b"SDKROOT", b"extra", b"level"].map(<[u8]>::to_vec);
        assert_eq!(dropped, HashSet::from(expected));
        let mut kept = env(&[
            ("NIX_LDFLAGS_FOR_BUILD", "-L/x"),
            ("NIX_CFLAGS_COMPILE", "-O"),
        ]);
        empty_for_compiles(&mut kept);
        assert_eq!(
            kept,
            env(&[("NIX_LDFLAGS_FOR_BUILD", ""), ("NIX_CFLAGS_COMPILE", "-O")])
        );
    }

    #[test]
    fn a_script_that_names_a_variable_that_its_child_lacks_is_told() {
        let all = env(&[
            ("src", "/x"),
            ("PATH", "/bin"),
            ("LANG", "C"),
            ("other", "1"),
        ]);
        let kept = relevant_if_traced(&all, None);
        let named = named_but_dropped(b"echo $src ${LANG} $PATH ${unset-}", &all, &kept);
        assert_eq!(Vec::from_iter(named), [b"src"]);
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
        assert_eq!(relevant(&all, Some(&words), true), expected);
        let expected = env(&[("flags", "-O")]);
        assert_eq!(relevant(&all, Some(&words), false), expected);
    }
}
