//! What a compile could read: every file that its search could touch.
//!
//! As in the executor, no preprocessor runs: each file is lexed for the names that it includes,
//! under whatever condition, each name is looked for in every directory of the search path, and
//! every match is an input. The compiler then sees in the child the same candidates as here.
//! What the executor follows further (macros that stand for names, symbolic links) is a reason to
//! run in place.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use shim_core::args::Language;
use shim_core::scan::{Directive, scan};

use crate::compiler::Compiler;
use crate::{BUILD_DIR, Call, InPlace};

/// A search that touches more files than this runs in place.
const FILES_MAX: usize = 10_000;

/// A file that is larger runs in place.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// What a child must see.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Inputs {
    /// Files of the build, by their paths, with their contents.
    pub(crate) files: BTreeMap<PathBuf, Vec<u8>>,
    /// Directories of the build.
    pub(crate) dirs: BTreeSet<PathBuf>,
    /// Paths in the store that were found.
    pub(crate) in_store: BTreeSet<PathBuf>,
}

/// Where a path leads.
enum Found {
    Missing,
    Local(PathBuf),
    Store(PathBuf),
}

struct Collector {
    /// The directory of the build.
    root: PathBuf,
    cwd: PathBuf,
    dirs: Vec<PathBuf>,
    is_cxx: bool,
    dates_are_fixed: bool,
    inputs: Inputs,
    /// Files to be followed, each with the directory through which it was found.
    queue: Vec<(PathBuf, PathBuf)>,
    reached: BTreeSet<(PathBuf, PathBuf)>,
    has_once: bool,
}

/// Collects what a compile could read.
pub(crate) fn collect(call: &Call, compiler: &Compiler) -> Result<Inputs, InPlace> {
    let compile = &compiler.compile;
    let mut collector = Collector {
        root: BUILD_DIR.into(),
        cwd: call.cwd.clone(),
        dirs: compiler.dirs.clone(),
        is_cxx: matches!(compile.language, Language::Cxx | Language::PreprocessedCxx),
        dates_are_fixed: compiler.env.contains_key(&b"SOURCE_DATE_EPOCH"[..]),
        inputs: Inputs::default(),
        queue: Vec::new(),
        reached: BTreeSet::new(),
        has_once: false,
    };
    let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
    for output in compile.outputs() {
        let output = call.cwd.join(path(output));
        let parent = output.parent().unwrap_or(Path::new("/"));
        let name = output
            .file_name()
            .ok_or_else(|| InPlace::new("an odd output"))?;
        collector.directory(parent)?;
        if fs::symlink_metadata(parent.join(name)).is_ok_and(|found| !found.is_file()) {
            return Err(InPlace::new("the output is no file"));
        }
    }
    let forced = compile.includes.iter().chain(&compile.imacros);
    collector.run(
        &path(&compile.sources[0]),
        forced.map(|name| path(name)).collect(),
    )
}

impl Collector {
    fn run(mut self, source: &Path, forced: Vec<PathBuf>) -> Result<Inputs, InPlace> {
        let cwd = self.cwd.clone();
        self.directory(&cwd)?;
        for dir in self.dirs.clone() {
            match self.look(&dir)? {
                Found::Local(dir) if dir.is_dir() => self.directory(&dir)?,
                Found::Local(_) => return Err(InPlace::new("a file is searched for headers")),
                Found::Store(dir) => _ = self.inputs.in_store.insert(dir),
                Found::Missing => {}
            }
        }
        if !self.candidate(&cwd, source, true)? {
            return Err(InPlace::new("no source"));
        }
        for name in &forced {
            self.probe(Some(&cwd), name, true)?;
        }
        self.probe(None, Path::new("stdc-predef.h"), true)?;
        while let Some((dir, file)) = self.queue.pop() {
            self.follow(&dir, &file)?;
        }
        let contents: BTreeSet<&Vec<u8>> = self.inputs.files.values().collect();
        if self.has_once && contents.len() < self.inputs.files.len() {
            // Which of them count as one depends on times.
            return Err(InPlace::new("two headers of the same content"));
        }
        Ok(self.inputs)
    }

    /// Follows what a file includes.
    fn follow(&mut self, dir: &Path, file: &Path) -> Result<(), InPlace> {
        let scan = match self.inputs.files.get(file) {
            Some(content) => scan(content),
            None => scan(&read(file)?),
        };
        let computed = scan.computed_include
            || scan.computed_has_include
            || !scan.macro_includes.is_empty()
            || !scan.has_include_aliases.is_empty();
        let reasons = [
            (computed, "computed-include"),
            (scan.modules && self.is_cxx, "modules"),
            (scan.date_time && !self.dates_are_fixed, "time-macro"),
            (
                scan.timestamp || scan.dependency_pragma,
                "modification-time",
            ),
            (scan.incbin, "incbin"),
            (scan.pch_pragma, "precompiled-header"),
        ];
        if let Some((_, reason)) = reasons.into_iter().find(|(found, _)| *found) {
            return Err(InPlace::new(format!("{reason} in {}", file.display())));
        }
        self.has_once |= scan.once;
        for include in &scan.includes {
            let name = Path::new(OsStr::from_bytes(&include.name));
            let from = (!include.angled).then_some(dir);
            match include.directive {
                Directive::Include | Directive::IncludeNext | Directive::Import => {
                    self.probe(from, name, true)?;
                }
                Directive::Embed | Directive::Has => self.probe(from, name, false)?,
                // Named for the reader of a message, who is shown its lines.
                Directive::Line => {
                    let cwd = self.cwd.clone();
                    self.candidate(&cwd, name, false)?;
                }
            }
        }
        Ok(())
    }

    /// Takes every match of a name.
    fn probe(&mut self, from: Option<&Path>, name: &Path, is_text: bool) -> Result<(), InPlace> {
        if name.is_absolute() {
            self.candidate(Path::new("/"), name, is_text)?;
            return Ok(());
        }
        if let Some(from) = from {
            self.candidate(from, name, is_text)?;
        }
        for dir in self.dirs.clone() {
            self.candidate(&dir, name, is_text)?;
        }
        Ok(())
    }

    /// Takes the file of this name in this directory, if there is one.
    fn candidate(&mut self, base: &Path, name: &Path, is_text: bool) -> Result<bool, InPlace> {
        let asked = base.join(name);
        // Taken in place of the header, be that there or not.
        for suffix in ["gch", "pch"] {
            let mut precompiled = asked.clone().into_os_string();
            precompiled.push(".");
            precompiled.push(suffix);
            if !matches!(self.look(Path::new(&precompiled))?, Found::Missing) {
                return Err(InPlace::new("precompiled-header"));
            }
        }
        let (path, is_local) = match self.look(&asked)? {
            Found::Missing => return Ok(false),
            Found::Local(path) => (path, true),
            Found::Store(path) => (path, false),
        };
        let stat = fs::metadata(&path).map_err(InPlace::cannot("examine an input"))?;
        if stat.is_dir() {
            // It stops no search; it must be there.
            if is_local {
                self.directory(&path)?;
            }
            return Ok(false);
        }
        if !stat.is_file() {
            return Err(InPlace::new("special-file"));
        }
        if is_local {
            let parent = path.parent().unwrap_or(Path::new("/")).to_owned();
            self.directory(&parent)?;
            if !self.inputs.files.contains_key(&path) {
                self.inputs.files.insert(path.clone(), read(&path)?);
            }
        } else {
            self.inputs.in_store.insert(path.clone());
        }
        if self.reached.len() >= FILES_MAX {
            return Err(InPlace::new("many-inputs"));
        }
        let dir = asked.parent().unwrap_or(Path::new("/")).to_owned();
        if is_text && self.reached.insert((dir.clone(), path.clone())) {
            self.queue.push((dir, path));
        }
        Ok(true)
    }

    /// Makes a directory of the build, and all that it lies in, one of the child's.
    fn directory(&mut self, dir: &Path) -> Result<(), InPlace> {
        match self.look(dir)? {
            Found::Local(dir) if dir.is_dir() => {
                let parents = dir.ancestors().take_while(|parent| *parent != self.root);
                self.inputs.dirs.extend(parents.map(Path::to_owned));
                Ok(())
            }
            _ => Err(InPlace::new("a directory outside of the build")),
        }
    }

    /// Walks a path as the kernel does. A symbolic link of the build's ends it.
    fn look(&mut self, path: &Path) -> Result<Found, InPlace> {
        let mut walked = PathBuf::from("/");
        let mut parts = path.components().peekable();
        while let Some(part) = parts.next() {
            match part {
                Component::RootDir | Component::CurDir | Component::Prefix(_) => continue,
                Component::ParentDir => {
                    walked.pop();
                    continue;
                }
                Component::Normal(name) => walked.push(name),
            }
            if walked.starts_with("/nix/store") && walked.components().count() > 3 {
                let rest: PathBuf = parts.collect();
                let path = walked.join(rest);
                self.inputs.in_store.insert(path.clone());
                return Ok(match fs::canonicalize(&path) {
                    Ok(real) if real.starts_with("/nix/store") => Found::Store(real),
                    Ok(_) => return Err(InPlace::new("outside-of-build")),
                    Err(_) => Found::Missing,
                });
            }
            let Ok(stat) = fs::symlink_metadata(&walked) else {
                return Ok(Found::Missing);
            };
            let is_inside = walked.starts_with(&self.root);
            if stat.is_symlink() {
                return Err(InPlace::new("symbolic-link"));
            }
            let has_more = parts.peek().is_some();
            if has_more && !stat.is_dir() {
                return Ok(Found::Missing);
            }
            if has_more && is_inside && walked != self.root {
                // By way of it the next `..` must be found.
                self.inputs.dirs.insert(walked.clone());
            }
        }
        match walked.starts_with(&self.root) {
            true => Ok(Found::Local(walked)),
            false => Err(InPlace::new("outside-of-build")),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, InPlace> {
    let failed = || InPlace::cannot::<std::io::Error>(format!("read `{}`", path.display()));
    let stat = fs::metadata(path).map_err(failed())?;
    if stat.len() > FILE_BYTES_MAX {
        return Err(InPlace::new("large-input"));
    }
    fs::read(path).map_err(failed())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of what a compile of `main.c` could read, in a build of these files, or why it
    /// runs in place.
    fn inputs(files: &[(&str, &str)], dirs: &[&str]) -> Result<Vec<String>, String> {
        let temp = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(temp.path()).unwrap();
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match text.strip_prefix("-> ") {
                Some(target) => std::os::unix::fs::symlink(target, path).unwrap(),
                None => fs::write(path, text).unwrap(),
            }
        }
        let collector = Collector {
            cwd: root.clone(),
            dirs: dirs.iter().map(|dir| root.join(dir)).collect(),
            root: root.clone(),
            is_cxx: false,
            dates_are_fixed: false,
            inputs: Inputs::default(),
            queue: Vec::new(),
            reached: BTreeSet::new(),
            has_once: false,
        };
        let found = collector.run(Path::new("main.c"), Vec::new());
        let names = |path: &PathBuf| {
            path.strip_prefix(&root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        };
        found
            .map(|inputs| inputs.files.keys().map(names).collect())
            .map_err(|reason| reason.0)
    }

    #[test]
    fn every_match_on_the_path_is_an_input_and_not_only_the_first() {
        let files = [
            (
                "main.c",
                "#include <a.h>\n#if __has_include(\"only.h\")\n#endif\n",
            ),
            ("x/a.h", ""),
            ("y/a.h", "#include \"b.h\"\n"),
            ("y/b.h", ""),
            ("only.h", "#include \"not-followed.h\"\n"),
            ("not-followed.h", ""),
            ("z/a.h", ""),
        ];
        let expected = ["main.c", "only.h", "x/a.h", "y/a.h", "y/b.h"];
        assert_eq!(inputs(&files, &["x", "y", "missing"]).unwrap(), expected);
    }

    #[test]
    fn what_is_not_followed_runs_in_place() {
        let reason = |text, more: &[(&str, &str)]| {
            inputs(&[&[("main.c", text)], more].concat(), &["."]).unwrap_err()
        };
        for (text, expected) in [
            ("#include NAME\n", "computed-include"),
            ("const char *d = __DATE__;\n", "time-macro"),
            ("__asm__(\".incbin \\\"x\\\"\");\n", "incbin"),
        ] {
            assert!(reason(text, &[]).starts_with(expected), "{text}");
        }
        let include = "#include \"a.h\"\n";
        assert_eq!(
            reason(include, &[("a.h", "-> b.h"), ("b.h", "")]),
            "symbolic-link"
        );
        assert_eq!(reason(include, &[("a.h.gch", "")]), "precompiled-header");
        assert_eq!(
            reason("#include \"/etc/passwd\"\n", &[]),
            "outside-of-build"
        );
        let once = [("a.h", "#pragma once\n"), ("sub/a.h", "#pragma once\n")];
        let text = "#include \"a.h\"\n#include \"sub/a.h\"\n";
        assert_eq!(reason(text, &once), "two headers of the same content");
    }

    #[test]
    fn the_directories_by_way_of_which_a_header_is_found_are_there() {
        let files = [
            ("main.c", "#include \"sub/deep/../b.h\"\n"),
            ("sub/b.h", ""),
            ("sub/deep/other.h", ""),
        ];
        assert_eq!(inputs(&files, &[]).unwrap(), ["main.c", "sub/b.h"]);
    }
}
