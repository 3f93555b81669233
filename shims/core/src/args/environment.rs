//! What the environment makes a compiler read or write.

use super::{Language, Reason};

/// What of the environment matters beyond being passed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// Directories of `CPATH`: searched after the `-I` ones.
    pub bracket_dirs: Vec<Vec<u8>>,
    /// Directories of `C_INCLUDE_PATH` or `CPLUS_INCLUDE_PATH`: searched after the `-isystem` ones.
    pub system_dirs: Vec<Vec<u8>>,
}

/// Variables that make a compiler write other files, or run other programs or with other
/// arguments (gcc(1) "Environment variables", Clang's driver). Whatever their value.
const REFUSED: &[&str] = &[
    "CCC_OVERRIDE_OPTIONS",
    "CC_LOG_DIAGNOSTICS",
    "CC_PRINT_HEADERS",
    "CC_PRINT_INTERNAL_STAT",
    "CC_PRINT_OPTIONS",
    "CC_PRINT_PROC_STAT",
    "CLANG_CRASH_DIAGNOSTICS_DIR",
    "COLLECT_GCC",
    "COLLECT_GCC_OPTIONS",
    // A file, a program or a socket that answers for modules.
    "CXX_MODULE_MAPPER",
    "DEPENDENCIES_OUTPUT",
    "EXTRA_CLANG_CFLAGS",
    "GCC_COMPARE_DEBUG",
    "GCC_EXTRA_DIAGNOSTIC_OUTPUT",
    "GCC_SPECS",
    "LD_AUDIT",
    "LD_DEBUG_OUTPUT",
    "LD_PROFILE",
    "QA_OVERRIDE_GCC3_OPTIONS",
    "SUNPRO_DEPENDENCIES",
];

/// Lists of places from which a compiler or its libraries load code or data. A child has nothing
/// there but what lies in the store.
const IN_STORE: &[&str] = &[
    "COMPILER_PATH",
    "GCC_EXEC_PREFIX",
    "GCONV_PATH",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LOCPATH",
    "NLSPATH",
];

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
    "GCC_EXTRA_DIAGNOSTIC_OUTPUT",
    "GCC_URLS",
    "LANG",
    "LANGUAGE",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    // nixpkgs' C library.
    "LOCALE_ARCHIVE",
    "LOCALE_ARCHIVE_2_27",
    "LOCPATH",
    "NO_COLOR",
    "OBJC_INCLUDE_PATH",
    "OBJCPLUS_INCLUDE_PATH",
    // The assembler reads its options by getopt(3).
    "POSIXLY_CORRECT",
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

/// Whether a compiler, its passes or the libraries that they use read this variable.
pub fn is_read_by_compilers(name: &[u8]) -> bool {
    let is = |known: &&str| known.as_bytes() == name;
    let begins = |prefix: &&str| name.starts_with(prefix.as_bytes());
    READ_BY_COMPILERS.iter().any(is) || READ_BY_PREFIX.iter().any(begins)
}

/// Reads an environment of `NAME=VALUE` entries for a compile of `language`.
///
/// `store_dir` is `/nix/store`, without a slash at the end.
///
/// # Errors
/// [`Reason::Environment`] with the variable's name.
pub fn environment<E: AsRef<[u8]>>(
    entries: &[E],
    language: Language,
    store_dir: &[u8],
) -> Result<Environment, Reason> {
    let mut found = Environment::default();
    for entry in entries {
        let entry = entry.as_ref();
        let Some(equals) = entry.iter().position(|&byte| byte == b'=') else {
            continue;
        };
        let (name, value) = (&entry[..equals], &entry[equals + 1..]);
        let is = |list: &[&str]| list.iter().any(|known| known.as_bytes() == name);
        if is(REFUSED) {
            return Err(Reason::Environment(name.to_vec()));
        }
        let cxx = matches!(language, Language::Cxx | Language::PreprocessedCxx);
        match name {
            b"CPATH" => found.bracket_dirs.extend(directories(value)),
            b"C_INCLUDE_PATH" if !cxx => found.system_dirs.extend(directories(value)),
            b"CPLUS_INCLUDE_PATH" if cxx => found.system_dirs.extend(directories(value)),
            _ if is(IN_STORE) => {
                // The dynamic linker separates by spaces as well.
                // An empty place in a list is the current directory.
                let is_empty = !value.is_empty()
                    && value
                        .split(|byte| b":;".contains(byte))
                        .any(<[u8]>::is_empty);
                let outside = is_empty
                    || value
                        .split(|byte| b": ;".contains(byte))
                        .filter(|place| !place.is_empty())
                        .any(|place| !is_in_store(place, store_dir));
                if outside {
                    return Err(Reason::Environment(name.to_vec()));
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

/// Variables that make a traced call write to files that stay, or behave as no trace of its files
/// can tell.
const REFUSED_IF_TRACED: &[&str] = &[
    "CCC_ADD_ARGS",
    "CCC_OVERRIDE_OPTIONS",
    "CC_LOG_DIAGNOSTICS",
    "CC_LOG_DIAGNOSTICS_FILE",
    "CC_PRINT_HEADERS",
    "CC_PRINT_INTERNAL_STAT",
    "CC_PRINT_OPTIONS",
    "CC_PRINT_PROC_STAT",
    // A file, a program or a socket that answers for modules.
    "CXX_MODULE_MAPPER",
    "DEPENDENCIES_OUTPUT",
    "EXTRA_CLANG_CFLAGS",
    "GCC_COMPARE_DEBUG",
    "LD_AUDIT",
    "LD_DEBUG",
    "LD_DEBUG_OUTPUT",
    // A library that is loaded into the call can do anything; fakeroot's talks to a server.
    "LD_PRELOAD",
    "LD_PROFILE",
    "LD_SHOW_AUXV",
    "LD_TRACE_LOADED_OBJECTS",
    "LLD_REPRODUCE",
    "QA_OVERRIDE_GCC3_OPTIONS",
    "SUNPRO_DEPENDENCIES",
];

/// Whether a call with this environment of `NAME=VALUE` entries can be a child whose files are
/// traced.
///
/// Only what a trace cannot see is refused. All else has to be in the child's key.
///
/// # Errors
/// [`Reason::CalledByCompiler`] for a part of a compiler's call, [`Reason::HostProcessor`] and the
/// like for flags that a wrapper script takes from the environment, [`Reason::Environment`] with
/// the variable's name for all else.
pub fn traced_environment<E: AsRef<[u8]>>(entries: &[E]) -> Result<(), Reason> {
    for entry in entries {
        let entry = entry.as_ref();
        let Some(equals) = entry.iter().position(|&byte| byte == b'=') else {
            continue;
        };
        let (name, value) = (&entry[..equals], &entry[equals + 1..]);
        if matches!(name, b"COLLECT_GCC" | b"COLLECT_GCC_OPTIONS") {
            return Err(Reason::CalledByCompiler);
        }
        let refused = REFUSED_IF_TRACED
            .iter()
            .any(|known| known.as_bytes() == name);
        // The dynamic linker takes an empty value for none; a compiler does not.
        if refused && !(value.is_empty() && name.starts_with(b"LD_")) {
            return Err(Reason::Environment(name.to_vec()));
        }
        // Flags for nixpkgs' wrappers. Names and numbers among them do no harm.
        if name.starts_with(b"NIX_") && memchr::memchr(b'-', value).is_some() {
            for word in value.split(u8::is_ascii_whitespace) {
                super::traced::check_word(word)?;
            }
        }
    }
    Ok(())
}

/// The flags that nixpkgs' compiler wrapper takes from the environment: the words of
/// `NIX_CFLAGS_COMPILE` and of its variants for a target or a place.
pub fn wrapper_flags<E: AsRef<[u8]>>(entries: &[E]) -> Vec<Vec<u8>> {
    entries
        .iter()
        .filter_map(|entry| {
            let entry = entry.as_ref();
            let equals = entry.iter().position(|&byte| byte == b'=')?;
            let (name, value) = (&entry[..equals], &entry[equals + 1..]);
            let wanted = name.starts_with(b"NIX_CFLAGS_COMPILE")
                || name.starts_with(b"NIX_CXXSTDLIB_COMPILE");
            wanted.then_some(value)
        })
        .flat_map(|value| value.split(u8::is_ascii_whitespace))
        .filter(|word| !word.is_empty())
        .map(<[u8]>::to_vec)
        .collect()
}

/// The entries of a search list; an empty one is the current directory.
fn directories(value: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    value
        .split(|&byte| byte == b':')
        .map(|dir| if dir.is_empty() { b"." } else { dir }.to_vec())
}

fn is_in_store(path: &[u8], store_dir: &[u8]) -> bool {
    path.strip_prefix(store_dir)
        .is_some_and(|rest| rest.starts_with(b"/"))
        && !path.split(|&byte| byte == b'/').any(|part| part == b"..")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const STORE: &[u8] = b"/nix/store";

    #[test]
    fn include_lists_are_those_of_the_language() {
        let entries = [
            "CPATH=/a::b",
            "C_INCLUDE_PATH=/c",
            "CPLUS_INCLUDE_PATH=/d",
            "HOME=/homeless-shelter",
        ];
        let c = environment(&entries, Language::C, STORE).unwrap();
        assert_eq!(c.bracket_dirs, [b"/a".as_slice(), b".", b"b"]);
        assert_eq!(c.system_dirs, [b"/c"]);
        let cxx = environment(&entries, Language::Cxx, STORE).unwrap();
        assert_eq!(cxx.system_dirs, [b"/d"]);
    }

    #[rstest]
    #[case::writes("DEPENDENCIES_OUTPUT=x")]
    #[case::preload_outside("LD_PRELOAD=/build/x.so")]
    #[case::preload_beside("LD_PRELOAD=/nix/store/x/a.so /build/x.so")]
    #[case::library_path_here("LD_LIBRARY_PATH=/nix/store/x/lib:lib")]
    #[case::out_of_the_store("COMPILER_PATH=/nix/store/../../build")]
    fn a_variable_is_refused(#[case] entry: &str) {
        let name = entry.split('=').next().unwrap().as_bytes().to_vec();
        assert_eq!(
            environment(&[entry], Language::C, STORE),
            Err(Reason::Environment(name))
        );
    }

    #[test]
    fn store_paths_are_accepted() {
        let entries = [
            "LD_LIBRARY_PATH=/nix/store/a/lib:/nix/store/b/lib",
            "LD_PRELOAD=",
        ];
        assert!(environment(&entries, Language::C, STORE).is_ok());
    }

    #[rstest]
    #[case::appends_to_nothing("DEPENDENCIES_OUTPUT=", Reason::Environment(b"DEPENDENCIES_OUTPUT".into()))]
    #[case::appends("DEPENDENCIES_OUTPUT=x", Reason::Environment(b"DEPENDENCIES_OUTPUT".into()))]
    #[case::preloads("LD_PRELOAD=libfakeroot.so", Reason::Environment(b"LD_PRELOAD".into()))]
    #[case::part_of_a_call("COLLECT_GCC=gcc", Reason::CalledByCompiler)]
    #[case::processor("NIX_CFLAGS_COMPILE=-O2 -march=native", Reason::HostProcessor)]
    #[case::random("NIX_LDFLAGS=--build-id=uuid", Reason::Random)]
    #[case::random_by_driver("NIX_CFLAGS_LINK=-Wl,--build-id=uuid", Reason::Random)]
    fn a_traced_call_is_refused(#[case] entry: &str, #[case] reason: Reason) {
        assert_eq!(traced_environment(&["A=b", entry]), Err(reason));
    }

    #[test]
    fn a_traced_call_may_have_what_is_looked_up_or_only_read() {
        let entries = [
            "COMPILER_PATH=/build/tools",
            "CPATH=/build/include",
            "LD_LIBRARY_PATH=/build/lib",
            "LD_PRELOAD=",
            "LIBRARY_PATH=lib",
            "NIX_CFLAGS_COMPILE=-frandom-seed=x -isystem /a",
            "CFLAGS=-march=native",
            "SOURCE_DATE_EPOCH=1",
        ];
        assert_eq!(traced_environment(&entries), Ok(()));
    }

    #[test]
    fn the_wrapper_s_flags_are_split_into_words() {
        let entries = [
            "NIX_CFLAGS_COMPILE=  -isystem /a  -O2",
            "NIX_CFLAGS_COMPILE_x86_64=-g",
            "NIX_LDFLAGS=-L/x",
        ];
        let words = ["-isystem", "/a", "-O2", "-g"].map(|word| word.as_bytes().to_vec());
        assert_eq!(wrapper_flags(&entries), words);
    }
}
