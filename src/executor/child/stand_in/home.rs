//! Directories of which a compile need not know: `/build/zstd-1.5.6`, or a checkout.
//!
//! A compile that cannot know the name of the directory in which all of its own files lie has its
//! child in another one, always the same. Without debug information, a compiler is told of its
//! directory by `getcwd` alone, and writes it nowhere; a result that has the child's directory
//! in it all the same is refused.

use std::collections::{BTreeSet, HashMap};

use memchr::memmem;
use shim_core::args::Compile;
use shim_core::manifest::Entry;
use shim_core::protocol::Done;
use store_types::{Hash, sha256};

use super::answer::SEARCHED_MAX;
use super::{StandIns, Which};
use crate::child::assemble::Command;
use crate::child::inputs::absolute;
use crate::child::outcome::InPlace;
use crate::child::scanned::Scanned;
use crate::child::tree::{BUILD_DIR, Found, Layout, Walker, split_last};

/// Where children with first stand-ins lie.
const FIRST_HOME: &[u8] = b"/build/source";

/// Where children with second stand-ins lie: a path of another length.
const SECOND_HOME: &[u8] = b"/build/another-place";

/// A directory that every child has.
const EVERYWHERE: &[u8] = b"/tmp";

/// Whether a directory's name is in a content: by the hashes of the name and of the content's NAR.
pub(super) type Named = HashMap<(Hash, Hash), bool>;

/// What a compile of the host has found without regard to its own directory, and what not. All
/// paths are free of symlinks.
#[derive(Default)]
pub(in crate::child) struct Searched {
    /// What was met on the way to the compiler.
    met: BTreeSet<Vec<u8>>,
    /// Directories that are searched, or in which something is left, and named by absolute paths.
    absolute: Vec<Vec<u8>>,
    /// The same of relative paths.
    relative: Vec<Vec<u8>>,
}

impl Searched {
    /// The walk to the compiler, which was made when `before` had been met.
    pub(in crate::child) fn compiler(before: &Layout, layout: &Layout) -> Self {
        let dirs = layout.dirs.difference(&before.dirs);
        let is_new = |link: &&Vec<u8>| !before.links.contains_key(*link);
        let links = layout.links.keys().filter(is_new);
        Self {
            met: dirs.chain(links).cloned().collect(),
            ..Self::default()
        }
    }

    /// Adds directories that a compile in `cwd` searches, or leaves something in; those that are
    /// there.
    pub(in crate::child) fn add<'d>(
        &mut self,
        walker: &mut Walker<'_>,
        cwd: &[u8],
        dirs: impl Iterator<Item = &'d [u8]>,
    ) {
        for dir in dirs {
            let Ok(Found::Dir(real)) = walker.look(cwd, dir) else {
                continue;
            };
            match dir.starts_with(b"/") {
                true => self.absolute.push(real),
                false => self.relative.push(real),
            }
        }
    }
}

/// The directory that a compile lies in.
#[derive(Clone)]
pub(in crate::child) struct Home {
    path: Vec<u8>,
    /// Where in `path` what is looked for in texts begins: any absolute path to the directory has
    /// it in it.
    name_at: usize,
}

impl Home {
    /// The directory of a compile that cannot know its name.
    pub(in crate::child) fn of(
        stand_ins: &StandIns,
        scanned: &Scanned<'_>,
        compile: &Compile,
        argv: &[Vec<u8>],
        searched: &Searched,
    ) -> Result<Option<Self>, InPlace> {
        let command = &scanned.command;
        if compile.debug || compile.intermediate_code || has_relative_system_dir(command, argv) {
            return Ok(None);
        }
        let home = match scanned.asked.tree().is_host() {
            true => Self::on_host(scanned, searched),
            false => Self::in_build(scanned, searched),
        };
        let Some(home) = home else {
            return Ok(None);
        };
        let is_known =
            home.is_known_to(command, argv) || home.is_named_in_files(stand_ins, scanned)?;
        Ok((!is_known).then_some(home))
    }

    /// The directory below `/build` in which all local files are, and outside of which nothing is
    /// looked for among these.
    fn in_build(scanned: &Scanned<'_>, searched: &Searched) -> Option<Self> {
        let home = Self {
            path: home_of(&scanned.command.cwd)?.to_vec(),
            name_at: BUILD_DIR.len(),
        };
        let mut dirs = searched.absolute.iter().chain(&searched.relative);
        let mut ups = scanned.layout.ups.iter();
        let is_apart = home.is_all_of(scanned)
            && !dirs.any(|dir| is_in(&home.path, dir) && *dir != home.path)
            && !ups.any(|(from, up)| is_in(from, BUILD_DIR) && home.within(up).is_none());
        is_apart.then_some(home)
    }

    /// The directory in which all files are, and all places that relative paths lead through,
    /// but what is found by absolute paths: directories that are searched by such, and what
    /// they have.
    fn on_host(scanned: &Scanned<'_>, searched: &Searched) -> Option<Self> {
        let layout = &scanned.layout;
        let command = &scanned.command;
        let temporary = [&b"TMPDIR"[..], b"TMP", b"TEMP"];
        let temporary = temporary.iter().filter_map(|name| command.env.get(*name));
        let temporary = temporary.filter(|dir| **dir != EVERYWHERE);
        let mut fixed: Vec<&[u8]> = searched.absolute.iter().map(Vec::as_slice).collect();
        fixed.extend(layout.binds.iter().map(|bind| &*bind.path));
        fixed.extend(temporary.map(Vec::as_slice));
        let is_fixed = |path: &[u8]| {
            let mut dirs = fixed.iter();
            path == EVERYWHERE
                || searched.met.contains(path)
                || dirs.any(|dir| is_in(path, dir) || is_in(dir, path))
        };
        let mut path = command.cwd.clone();
        let met = layout.dirs.iter().chain(layout.links.keys());
        let met = met.chain(scanned.files.keys()).filter(|met| !is_fixed(met));
        for met in met {
            // What it lies in was only passed.
            if !is_in(&path, met) {
                path = common_dir(&path, met).to_vec();
            }
        }
        let (fixed_ups, ups): (Vec<_>, Vec<_>) =
            layout.ups.iter().partition(|(from, _)| is_fixed(from));
        for place in searched.relative.iter().chain(ups.iter().map(|(_, up)| up)) {
            path = common_dir(&path, place).to_vec();
        }
        let home = Self { path, name_at: 0 };
        let is_apart = home.path != b"/"
            && (home.path == FIRST_HOME || !is_in(FIRST_HOME, &home.path))
            && !fixed
                .iter()
                .any(|dir| home.within(dir).is_some() || is_in(&home.path, dir))
            && !fixed_ups.iter().any(|(_, up)| is_in(&home.path, up))
            && layout
                .links
                .iter()
                .all(|(link, target)| home.keeps(link, target));
        is_apart.then_some(home)
    }

    /// Whether a symlink leads to the same place if the directory has another one. One that is in
    /// it and relative does: where `..` leads to is known.
    fn keeps(&self, link: &[u8], target: &[u8]) -> bool {
        let is_inside = self.within(link).is_some();
        if is_inside && !target.starts_with(b"/") {
            return true;
        }
        // Not into it, nor to a directory that it is in.
        let place = lexically(&absolute(split_last(link).0, target));
        self.within(&place).is_none() && (place == b"/" || !is_in(&self.path, &place))
    }

    /// What any path to it has in it.
    fn name(&self) -> &[u8] {
        &self.path[self.name_at..]
    }

    fn names(&self, text: &[u8]) -> bool {
        memmem::find(text, self.name()).is_some()
    }

    /// Whether the command, or what wrappers make of its arguments, has the name in it, or that of
    /// another place in `/build`, or asks for paths.
    fn is_known_to(&self, command: &Command, argv: &[Vec<u8>]) -> bool {
        let has = |text: &[u8], what: &[u8]| memmem::find(text, what).is_some();
        let names_any =
            |text: &[u8]| self.names(text) || has(text, b"/build/") || text.ends_with(BUILD_DIR);
        let is_own = |name: &[u8]| matches!(name, b"PWD" | b"TMPDIR" | b"TMP" | b"TEMP");
        let mut env = command.env.iter().filter(|(name, _)| !is_own(name));
        let mut words = command.argv.iter().chain(argv).chain([&command.exe]);
        words.any(|word| names_any(word) || has(word, b"absolute"))
            || env.any(|(_, value)| names_any(value))
    }

    /// Whether all local files are in it.
    fn is_all_of(&self, scanned: &Scanned<'_>) -> bool {
        let layout = &scanned.layout;
        let mut dirs = layout.dirs.iter().filter(|dir| **dir != BUILD_DIR);
        let mut paths = layout.links.keys().chain(scanned.files.keys());
        let mut targets = layout.links.values();
        layout.binds.is_empty()
            && dirs.all(|dir| self.within(dir).is_some())
            && paths.all(|path| self.within(path).is_some())
            && targets.all(|target| !self.names(target) && !target.starts_with(BUILD_DIR))
    }

    fn is_named_in_files(
        &self,
        stand_ins: &StandIns,
        scanned: &Scanned<'_>,
    ) -> Result<bool, InPlace> {
        let name = sha256(self.name());
        let mut unknown = Vec::new();
        {
            let known = stand_ins.named();
            for (path, input) in &scanned.files {
                match known.get(&(name, input.file.facts.nar_hash)) {
                    Some(true) => return Ok(true),
                    Some(false) => {}
                    None => unknown.push((path, input)),
                }
            }
        }
        for (path, input) in unknown {
            let bytes = scanned.bytes(path, input)?;
            let is_named = self.names(&bytes)
                || (self.path != FIRST_HOME && memmem::find(&bytes, FIRST_HOME).is_some());
            let mut known = stand_ins.named();
            if known.len() >= SEARCHED_MAX {
                known.clear();
            }
            known.insert((name, input.file.facts.nar_hash), is_named);
            if is_named {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What follows the directory in a path within it; a slash first, or nothing.
    fn within<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        path.strip_prefix(self.path.as_slice())
            .filter(|rest| rest.is_empty() || rest.starts_with(b"/"))
    }

    /// Where a path of the caller lies in the child.
    fn moved(&self, path: &mut Vec<u8>, which: Which) {
        if let Some(rest) = self.within(path) {
            *path = [place(which), rest].concat();
        }
    }

    /// Moves a command and what is laid out for it.
    pub(in crate::child) fn move_child(
        &self,
        command: &mut Command,
        entries: &mut Vec<Entry>,
        which: Which,
    ) {
        self.moved(&mut command.cwd, which);
        if let Some(pwd) = command.env.get_mut(&b"PWD"[..]) {
            self.moved(pwd, which);
        }
        // Where temporary files lie is told in messages alone, which are looked at; what a
        // terminal can do matters where there is one.
        let is_seen = command.ttys.iter().any(Option::is_some);
        let is_of_place = |name: &[u8]| {
            matches!(name, b"TMPDIR" | b"TMP" | b"TEMP")
                || (!is_seen && matches!(name, b"TERM" | b"COLORTERM"))
        };
        command.env.retain(|name, _| !is_of_place(name));
        // The directories that it lies in, unless they are there for something else, too.
        let is_above = |path: &[u8]| is_in(&self.path, path) && path != self.path;
        let others: Vec<Vec<u8>> = entries
            .iter()
            .map(|entry| entry.path().to_vec())
            .filter(|path| self.within(path).is_none() && !is_above(path))
            .collect();
        entries.retain(|entry| {
            let path = entry.path();
            !is_above(path) || others.iter().any(|other| is_in(other, path))
        });
        for entry in &mut *entries {
            match entry {
                Entry::Directory { path }
                | Entry::Link { path, .. }
                | Entry::File { path, .. }
                | Entry::Bind { path, .. } => self.moved(path, which),
            }
        }
        // As if it had been there from the beginning.
        let kind = |entry: &Entry| match entry {
            Entry::Directory { .. } => 0,
            Entry::Link { .. } => 1,
            Entry::File { .. } => 2,
            Entry::Bind { .. } => 3,
        };
        entries.sort_by(|a, b| (kind(a), a.path()).cmp(&(kind(b), b.path())));
    }

    /// Whether the child lies elsewhere than its caller. If not, its files may tell where it was.
    pub(super) fn is_other(&self) -> bool {
        self.path != FIRST_HOME
    }

    /// Whether something that a moved child left tells where it was: its files, or what it printed.
    pub(super) fn is_told(&self, (files, printed): (&[Vec<u8>], &[Vec<u8>])) -> bool {
        let has = |bytes: &[u8], text: &[u8]| memmem::find(bytes, text).is_some();
        let is_other = self.is_other();
        let mut all = files.iter().chain(printed);
        (is_other && all.any(|bytes| has(bytes, FIRST_HOME)))
            || printed.iter().any(|bytes| has(bytes, b"/tmp/"))
    }

    /// Has what a child left placed where the caller is.
    pub(in crate::child) fn move_files_back(&self, done: &mut Done, which: Which) {
        for file in &mut done.files {
            self.move_back(&mut file.path, which);
        }
    }

    /// Where a path of the child lies for the caller.
    fn move_back(&self, path: &mut Vec<u8>, which: Which) {
        let child = Self {
            path: place(which).to_vec(),
            name_at: 0,
        };
        if let Some(rest) = child.within(path) {
            *path = [self.path.as_slice(), rest].concat();
        }
    }
}

fn place(which: Which) -> &'static [u8] {
    match which {
        Which::First => FIRST_HOME,
        Which::Second => SECOND_HOME,
    }
}

/// Whether a directory of system headers is named by a relative path: of these headers GCC tells
/// the absolute path where that is shorter.
fn has_relative_system_dir(command: &Command, argv: &[Vec<u8>]) -> bool {
    const FLAGS: [&[u8]; 4] = [b"-isystem", b"-idirafter", b"-iwithprefix", b"-cxx-isystem"];
    const VARIABLES: [&[u8]; 3] = [
        b"C_INCLUDE_PATH",
        b"CPLUS_INCLUDE_PATH",
        b"OBJC_INCLUDE_PATH",
    ];
    let is_relative = |dir: &[u8]| !dir.starts_with(b"/");
    let by_flag = |argv: &[Vec<u8>]| {
        argv.iter().enumerate().any(|(at, word)| {
            let attached = FLAGS.iter().find_map(|flag| word.strip_prefix(*flag));
            attached.is_some_and(|dir| match dir {
                b"" => argv.get(at + 1).is_some_and(|dir| is_relative(dir)),
                dir => is_relative(dir),
            })
        })
    };
    let by_variable = |name: &[u8]| {
        let value = command.env.get(name);
        value.is_some_and(|value| value.split(|byte| *byte == b':').any(is_relative))
    };
    by_flag(&command.argv) || by_flag(argv) || VARIABLES.into_iter().any(by_variable)
}

/// A path without `.` and `..`, as it reads.
fn lexically(path: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(kept.pop()),
            part => kept.push(part),
        }
    }
    [b"/", kept.join(&b'/').as_slice()].concat()
}

/// Whether a path is a directory or lies in it: both absolute and free of symlinks.
fn is_in(path: &[u8], dir: &[u8]) -> bool {
    let rest = path.strip_prefix(dir);
    dir == b"/" || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// The innermost directory that both paths are, or lie in.
fn common_dir<'p>(one: &'p [u8], other: &[u8]) -> &'p [u8] {
    let mut dir = one;
    while !is_in(other, dir) {
        dir = split_last(dir).0;
    }
    dir
}

/// The directory below `/build` that a path lies in.
fn home_of(path: &[u8]) -> Option<&[u8]> {
    let below = path.strip_prefix(BUILD_DIR)?.strip_prefix(b"/")?;
    let name = below.split(|byte| *byte == b'/').next()?;
    (!name.is_empty() && name != b"." && name != b"..")
        .then(|| &path[..BUILD_DIR.len() + 1 + name.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_below_that_of_the_build_is_taken() {
        for (path, home) in [
            ("/build/zstd-1.5.6", Some("/build/zstd-1.5.6")),
            ("/build/zstd-1.5.6/lib/common", Some("/build/zstd-1.5.6")),
            ("/build", None),
            ("/build/", None),
            ("/build/..", None),
            ("/builds/x", None),
            ("/tmp/x", None),
        ] {
            assert_eq!(home_of(path.as_bytes()), home.map(str::as_bytes), "{path}");
        }
    }

    #[test]
    fn paths_go_to_the_child_and_come_back() {
        let home = Home {
            path: b"/build/zstd-1.5.6".to_vec(),
            name_at: BUILD_DIR.len(),
        };
        for which in [Which::First, Which::Second] {
            for path in ["/build/zstd-1.5.6", "/build/zstd-1.5.6/a/b.o"] {
                let mut moved = path.as_bytes().to_vec();
                home.moved(&mut moved, which);
                assert_ne!(moved, path.as_bytes());
                home.move_back(&mut moved, which);
                assert_eq!(moved, path.as_bytes());
            }
            for path in ["/build", "/build/zstd-1.5.60/a", "/tmp/build/zstd-1.5.6"] {
                let mut moved = path.as_bytes().to_vec();
                home.moved(&mut moved, which);
                assert_eq!(moved, path.as_bytes());
            }
        }
    }
}
