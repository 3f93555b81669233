//! Which kind of program a name means.

/// A kind of program whose calls can be children.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tool {
    /// A driver for compilers: `gcc`, `clang++`, `gfortran`.
    Compiler,
    /// A linker: `ld`, `ld.gold`, `mold`.
    Linker,
    /// The assembler, `as`.
    Assembler,
}

impl Tool {
    /// Whether a shim stands in for it where it is called by name.
    ///
    /// None does for the assembler: builds have it called by the compiler's driver, where it is
    /// a part of a call that is known already, and each such call would cost a process.
    pub fn has_shim(self) -> bool {
        !matches!(self, Self::Assembler)
    }
}

/// The compilers' names, without a target before and a version after.
const COMPILERS: &[&str] = &[
    "c++", "c89", "c99", "cc", "clang", "clang++", "f77", "f95", "g++", "gcc", "gfortran",
];

/// The linkers' names, without a target before.
const LINKERS: &[&str] = &["ld", "ld.bfd", "ld.gold", "ld.lld", "ld.mold", "mold"];

/// The tool that a program's name means: `gcc`, `g++-12`, `x86_64-linux-gnu-ld.bfd`.
///
/// `name` is the last part of a path. Programs that are only named after one, such as `gcc-ar`,
/// `clang-format` or `ld-linux.so.2`, are none.
pub fn tool_of(name: &[u8]) -> Option<Tool> {
    let name = str::from_utf8(name).ok()?;
    let is_version = |text: &str| {
        text.starts_with(|first: char| first.is_ascii_digit())
            && text
                .chars()
                .all(|char| char.is_ascii_digit() || char == '.')
    };
    let (unversioned, has_version) = match name.rsplit_once('-') {
        Some((before, version)) if is_version(version) => (before, true),
        _ => (name, false),
    };
    // A target has at least one dash before the program's name: `arch-os-cc`.
    let program = match unversioned.rsplit_once('-') {
        Some((target, program)) if target.contains('-') => program,
        _ => unversioned,
    };
    if COMPILERS.contains(&program) {
        return Some(Tool::Compiler);
    }
    if program == "ld.lld" || (!has_version && LINKERS.contains(&program)) {
        return Some(Tool::Linker);
    }
    (!has_version && program == "as").then_some(Tool::Assembler)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    fn compilers_are_known_with_target_and_version(
        #[values(
            "cc",
            "gcc",
            "g++",
            "c++",
            "c89",
            "c99",
            "clang",
            "clang++",
            "gfortran",
            "gcc-12",
            "clang-15.0.6",
            "x86_64-linux-gnu-gcc",
            "x86_64-linux-gnu-gcc-12",
            "x86_64-linux-gnu-g++-12",
            "x86_64-unknown-linux-gnu-clang++",
            "aarch64-unknown-linux-gnu-cc",
            "arm-none-eabi-gfortran-13.2"
        )]
        name: &str,
    ) {
        assert_eq!(tool_of(name.as_bytes()), Some(Tool::Compiler));
    }

    #[rstest]
    fn linkers_are_known_with_target(
        #[values(
            "ld",
            "ld.bfd",
            "ld.gold",
            "ld.lld",
            "ld.lld-15",
            "mold",
            "ld.mold",
            "x86_64-linux-gnu-ld",
            "x86_64-unknown-linux-gnu-ld.bfd"
        )]
        name: &str,
    ) {
        assert_eq!(tool_of(name.as_bytes()), Some(Tool::Linker));
    }

    #[test]
    fn assemblers_are_known_but_have_no_shim() {
        assert_eq!(tool_of(b"as"), Some(Tool::Assembler));
        assert_eq!(tool_of(b"x86_64-linux-gnu-as"), Some(Tool::Assembler));
        assert!(!Tool::Assembler.has_shim());
        assert!(Tool::Compiler.has_shim() && Tool::Linker.has_shim());
    }

    #[rstest]
    fn what_is_only_named_after_a_tool_is_none(
        #[values(
            "",
            "-",
            "cpp",
            "cc1",
            "ccache",
            "distcc",
            "gcov",
            "gcc-ar",
            "gcc-nm-12",
            "gcc-ranlib",
            "x86_64-linux-gnu-gcc-ar",
            "x86_64-linux-gnu-gcc-ar-12",
            "clang-cpp",
            "clang-format",
            "clang-tidy-15",
            "lto-gcc",
            "my-gcc",
            "gcc.mk",
            "c++filt",
            "collect2",
            "ldd",
            "lld",
            "wasm-ld",
            "ld.so",
            "ld-2.31",
            "ld-2.31.so",
            "ld-linux-x86-64.so.2",
            "ld.hugetlbfs",
            "gas",
            "llvm-as",
            "as-needed"
        )]
        name: &str,
    ) {
        assert_eq!(tool_of(name.as_bytes()), None);
    }

    #[test]
    fn a_name_that_is_no_text_is_none() {
        assert_eq!(tool_of(b"gcc\xff"), None);
    }
}
