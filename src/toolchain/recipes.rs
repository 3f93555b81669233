//! How ordinary C projects build: data for the demo and the tests.
//!
//! A recipe's script is run by `bash` in a derivation whose PATH is the
//! toolchain's `bin` and whose environment has `src` (the sources, read-only),
//! `makefile` (the file with [`Recipe::makefile`]), `out` and, as always,
//! `NIX_BUILD_TOP` and `NIX_BUILD_CORES`. It copies the sources to
//! `$NIX_BUILD_TOP/<name>`, builds them with the makefile, installs `bin`,
//! `lib` and `include` to `$out`, and runs what it built.
//!
//! The makefiles are our own and do what such projects' makefiles do: one
//! compile a source file with `-MMD`, an archive, a program linked to it.

/// A C project and its build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// The project's name.
    pub name: &'static str,
    /// The project's own version.
    pub version: &'static str,
    /// The crate that ships the sources.
    pub crate_name: &'static str,
    /// That crate's version, exact.
    pub crate_version: &'static str,
    /// Where the sources are in the crate.
    pub subdir: &'static str,
    /// The makefile's text.
    pub makefile: &'static str,
    /// The text of the builder's script.
    pub script: &'static str,
    /// A source file with a function body that can be changed alone.
    pub source_to_touch: &'static str,
    /// A header many sources include.
    pub header_to_touch: &'static str,
}

/// Lua 5.4: 32 sources, an archive and an interpreter.
pub const LUA: Recipe = Recipe {
    name: "lua",
    version: "5.4.9",
    crate_name: "lua-src",
    crate_version: "551.1.0",
    subdir: "lua-5.4.9",
    makefile: include_str!("recipes/lua.mk"),
    script: include_str!("recipes/lua.sh"),
    source_to_touch: "lmathlib.c",
    header_to_touch: "lobject.h",
};

/// zlib: 15 sources, an archive, a shared library and a test program.
pub const LIBZ: Recipe = Recipe {
    name: "zlib",
    version: "1.3.2",
    crate_name: "libz-sys",
    crate_version: "1.1.31",
    subdir: "src/zlib",
    makefile: include_str!("recipes/zlib.mk"),
    script: include_str!("recipes/zlib.sh"),
    source_to_touch: "adler32.c",
    header_to_touch: "zutil.h",
};

/// zstd: sources in several directories, one of them assembly, an archive and
/// a test program.
pub const ZSTD: Recipe = Recipe {
    name: "zstd",
    version: "1.5.7",
    crate_name: "zstd-sys",
    crate_version: "2.1.3",
    subdir: "zstd/lib",
    makefile: include_str!("recipes/zstd.mk"),
    script: include_str!("recipes/zstd.sh"),
    source_to_touch: "common/entropy_common.c",
    header_to_touch: "common/error_private.h",
};

/// All of them.
pub const RECIPES: &[Recipe] = &[LUA, LIBZ, ZSTD];
