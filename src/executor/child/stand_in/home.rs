//! Build directories that carry a version: `/build/zstd-1.5.6`.
//!
//! A compile that cannot know the name of the directory below `/build` in which all of it
//! lies has its child in another one, always the same. Without debug information, a compiler
//! is told of its directory by `getcwd` alone, and writes it nowhere; a result that has the
//! child's directory in it all the same is refused.

use std::collections::HashMap;

use memchr::memmem;
use shim_core::args::Compile;
use shim_core::manifest::Entry;
use store_types::Hash;

use super::answer::SEARCHED_MAX;
use super::{StandIns, Which};
use crate::child::assemble::Command;
use crate::child::outcome::InPlace;
use crate::child::scanned::Scanned;
use crate::child::tree::BUILD_DIR;

/// Where children with first stand-ins lie.
const FIRST_HOME: &[u8] = b"/build/source";

/// Where children with second stand-ins lie: a path of another length.
const SECOND_HOME: &[u8] = b"/build/another-place";

/// Of each directory's name, in which contents it is, by the hashes of their NARs.
pub(super) type Named = HashMap<Vec<u8>, HashMap<Hash, bool>>;

/// The directory that a compile lies in.
pub(in crate::child) struct Home(Vec<u8>);

impl Home {
    /// The directory of a compile that cannot know its name.
    pub(super) fn of(
        stand_ins: &StandIns,
        scanned: &Scanned<'_>,
        compile: &Compile,
    ) -> Result<Option<Self>, InPlace> {
        let command = &scanned.command;
        let Some(home) = home_of(&command.cwd) else {
            return Ok(None);
        };
        let home = Self(home.to_vec());
        let is_known = home.0 == FIRST_HOME
            || compile.debug
            || compile.intermediate_code
            || home.is_known_to(command)
            || !home.is_all_of(scanned)
            || home.is_named_in_files(stand_ins, scanned)?;
        Ok((!is_known).then_some(home))
    }

    /// The name with the slash before it: what any path to it ends with, or has in it.
    fn name(&self) -> &[u8] {
        &self.0[BUILD_DIR.len()..]
    }

    fn names(&self, text: &[u8]) -> bool {
        memmem::find(text, self.name()).is_some()
    }

    /// Whether the command has the name in it, or asks for paths.
    fn is_known_to(&self, command: &Command) -> bool {
        let asks = |word: &[u8]| {
            [&b"/build/"[..], b"absolute"]
                .iter()
                .any(|text| memmem::find(word, text).is_some())
        };
        let mut env = command.env.iter();
        command
            .argv
            .iter()
            .any(|word| self.names(word) || asks(word))
            || env.any(|(name, value)| name != b"PWD" && self.names(value))
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
        let mut unknown = Vec::new();
        {
            let mut named = stand_ins.named();
            let known = named.entry(self.0.clone()).or_default();
            for (path, input) in &scanned.files {
                match known.get(&input.file.facts.nar_hash) {
                    Some(true) => return Ok(true),
                    Some(false) => {}
                    None => unknown.push((path, input)),
                }
            }
        }
        for (path, input) in unknown {
            let is_named = self.names(&scanned.bytes(path, input)?);
            let mut named = stand_ins.named();
            let known = named.entry(self.0.clone()).or_default();
            if known.len() >= SEARCHED_MAX {
                known.clear();
            }
            known.insert(input.file.facts.nar_hash, is_named);
            if is_named {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What follows the directory in a path within it; a slash first, or nothing.
    fn within<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        path.strip_prefix(self.0.as_slice())
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
        entries: &mut [Entry],
        which: Which,
    ) {
        self.moved(&mut command.cwd, which);
        if let Some(pwd) = command.env.get_mut(&b"PWD"[..]) {
            self.moved(pwd, which);
        }
        for entry in entries {
            match entry {
                Entry::Directory { path }
                | Entry::Link { path, .. }
                | Entry::File { path, .. }
                | Entry::Bind { path, .. } => self.moved(path, which),
            }
        }
    }

    /// Where a path of the child lies for the caller.
    pub(in crate::child) fn move_back(&self, path: &mut Vec<u8>, which: Which) {
        let child = Self(place(which).to_vec());
        if let Some(rest) = child.within(path) {
            *path = [self.0.as_slice(), rest].concat();
        }
    }
}

fn place(which: Which) -> &'static [u8] {
    match which {
        Which::First => FIRST_HOME,
        Which::Second => SECOND_HOME,
    }
}

/// Whether something that a moved child left tells where it was.
pub(super) fn is_told(bytes: &[u8]) -> bool {
    memmem::find(bytes, FIRST_HOME).is_some()
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
        let home = Home(b"/build/zstd-1.5.6".to_vec());
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
