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

use std::fs;
use std::path::{Path, PathBuf};

use crate::SourceError;
use crate::sources::{fetch_crate, io_error};

/// A change of one place in one source file, for runs that show what is built
/// again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The file, relative to the sources.
    pub file: &'static str,
    /// A text that occurs in it once.
    pub from: &'static str,
    /// What replaces it; it has as many lines.
    pub to: &'static str,
}

impl Edit {
    /// Makes the change in a directory of sources.
    ///
    /// Fails if the file does not have the text exactly once.
    pub fn apply(&self, sources: &Path) -> Result<(), SourceError> {
        let path = sources.join(self.file);
        let old = fs::read_to_string(&path).map_err(io_error("read", &path))?;
        if old.matches(self.from).count() != 1 {
            return Err(SourceError::Edit {
                path,
                text: self.from,
            });
        }
        let new = old.replace(self.from, self.to);
        fs::write(&path, new).map_err(io_error("write", &path))
    }
}

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
    /// A change of one function's body that changes its object file.
    pub body_edit: Edit,
    /// A change of a comment in a header that many sources include.
    pub comment_edit: Edit,
}

impl Recipe {
    /// The directory of the sources, which nobody should write to; fetched
    /// through cargo if `cache_dir` has them not.
    pub fn fetch(&self, cache_dir: &Path) -> Result<PathBuf, SourceError> {
        Ok(fetch_crate(self.crate_name, self.crate_version, cache_dir)?.join(self.subdir))
    }
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
    body_edit: Edit {
        file: "lmathlib.c",
        from: "l_mathop(sin)(luaL_checknumber(L, 1))",
        to: "l_mathop(sin)(luaL_checknumber(L, 1) + 0.5 - 0.5)",
    },
    comment_edit: Edit {
        file: "lobject.h",
        from: "Type definitions for Lua objects",
        to: "Type definitions for all Lua objects",
    },
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
    body_edit: Edit {
        file: "compress.c",
        from: "(sourceLen >> 25) + 13;",
        to: "(sourceLen >> 25) + 14;",
    },
    comment_edit: Edit {
        file: "zutil.h",
        from: "internal interface and configuration of the compression library",
        to: "internal interface and configuration of the library",
    },
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
    body_edit: Edit {
        file: "common/entropy_common.c",
        from: "{ return FSE_VERSION_NUMBER; }",
        to: "{ return FSE_VERSION_NUMBER + 1; }",
    },
    comment_edit: Edit {
        file: "common/error_private.h",
        from: "this module is expected to remain private",
        to: "this module is to remain private",
    },
};

/// All of them.
pub const RECIPES: &[Recipe] = &[LUA, LIBZ, ZSTD];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_is_made_once_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.c");
        let edit = Edit {
            file: "a.c",
            from: "one",
            to: "two",
        };
        fs::write(&path, "one;").unwrap();
        edit.apply(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two;");
        for ambiguous in ["one one", "two"] {
            fs::write(&path, ambiguous).unwrap();
            assert!(edit.apply(dir.path()).is_err(), "{ambiguous}");
        }
    }

    #[test]
    fn edits_keep_the_line_numbers() {
        for recipe in RECIPES {
            for edit in [recipe.body_edit, recipe.comment_edit] {
                assert_eq!(edit.from.lines().count(), edit.to.lines().count());
                assert_ne!(edit.from, edit.to);
            }
        }
    }
}
