//! A scanned compile with stand-ins: its child, and what the caller is given of it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};

use shim_core::args::Compile;
use shim_core::protocol::{Done, NewFile};
use store_types::{Hash, StorePath};

use super::home::Home;
use super::verdict::{Left, Verdict, is_same_but_for_stand_ins, look};
use super::{Mapping, Refusal, SEED_FLAG, StandIns, Which};
use crate::child::assemble::{Command, Made};
use crate::child::files::{Facts, nar_of_file};
use crate::child::inputs::{InputFile, base_name};
use crate::child::outcome::InPlace;
use crate::child::reply::{contents, in_memory, read_content, reply};
use crate::child::run::Origin;
use crate::child::scanned::Scanned;

/// More than this is not held in memory to be looked at.
const LEFT_BYTES_MAX: u64 = 64 << 20;

/// Contents that are remembered at most; beyond, all are forgotten at once.
pub(super) const SEARCHED_MAX: usize = 1 << 18;

/// Variables that only a link reads, as nixpkgs' wrappers use them: `$out` is in them in every
/// build.
const READ_BY_LINKS: &[u8] = b"NIX_LDFLAGS";

/// What is in one content: the hashes of its NARs with first and second stand-ins, if any.
pub(super) type Searched = Result<Option<(Hash, Hash)>, Refusal>;

/// An answer that others can have as well.
pub(in crate::child) struct Shared {
    pub(in crate::child) done: Done,
    pub(in crate::child) origin: Origin,
    /// The child that gave it.
    pub(in crate::child) drv_path: StorePath,
    /// The caller's directory in place of which it has another one.
    pub(in crate::child) home: Option<Home>,
}

/// A compile with stand-ins.
struct Version<'a> {
    command: Command,
    files: Cow<'a, BTreeMap<Vec<u8>, InputFile>>,
    /// Whether anything was replaced.
    is_other: bool,
    /// Whether more than the length of a whole hash can have gone into the result.
    knows_hash: bool,
}

impl StandIns {
    /// What is in a file of the build.
    fn search(
        &self,
        scanned: &Scanned<'_>,
        path: &[u8],
        file: &InputFile,
    ) -> Result<Searched, InPlace> {
        if self.is_empty() {
            return Ok(Ok(None));
        }
        let nar_hash = file.file.facts.nar_hash;
        let known = || self.searched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(searched) = known().get(&nar_hash) {
            return Ok(*searched);
        }
        let bytes = scanned.bytes(path, file)?;
        let hash = |which| {
            let replaced = self.replace(which).apply(&bytes)?;
            Ok(replaced.map(|bytes| nar_of_file(&bytes).0))
        };
        let searched = match (hash(Which::First), hash(Which::Second)) {
            (Ok(first), Ok(second)) => Ok(first.zip(second)),
            (Err(refusal), _) | (_, Err(refusal)) => Err(refusal),
        };
        let mut known = known();
        if known.len() >= SEARCHED_MAX {
            known.clear();
        }
        known.insert(nar_hash, searched);
        Ok(searched)
    }

    /// Whether none of these texts has anything of a hash in it.
    fn is_free<'t>(&self, mut texts: impl Iterator<Item = &'t [u8]>) -> bool {
        texts.all(|text| self.to_first.hits(text).is_ok_and(|hits| hits.is_empty()))
    }

    /// The compile with these stand-ins; `None` if there is nothing to replace, and it `is_moved`
    /// nowhere.
    fn version<'s>(
        &self,
        scanned: &'s Scanned<'_>,
        which: Which,
        is_moved: bool,
    ) -> Result<Result<Option<Version<'s>>, Refusal>, InPlace> {
        let mut files = Cow::Borrowed(&scanned.files);
        let mut knows_hash = false;
        for (path, input) in &scanned.files {
            let (first, second) = match self.search(scanned, path, input)? {
                Ok(None) => continue,
                Ok(Some(hashes)) => hashes,
                Err(refusal) => return Ok(Err(refusal)),
            };
            knows_hash = true;
            let facts = &input.file.facts;
            let replaced = Facts {
                nar_hash: match which {
                    Which::First => first,
                    Which::Second => second,
                },
                nar_size: facts.nar_size,
                scan: facts.scan.clone(),
            };
            if let Some(input) = files.to_mut().get_mut(path) {
                input.file.facts = Arc::new(replaced);
            }
        }
        let command = match self.command(scanned, which, &mut knows_hash) {
            Ok(command) => command,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let is_other = knows_hash || command.is_some();
        if !is_other && !is_moved {
            return Ok(Ok(None));
        }
        let command = command.unwrap_or_else(|| scanned.command.clone());
        let layout = &scanned.layout;
        let links = layout
            .links
            .iter()
            .flat_map(|(path, target)| [path, target]);
        let paths = scanned.files.keys().chain(&layout.dirs).chain(links);
        if !self.is_free(paths.map(Vec::as_slice).chain([&*scanned.command.cwd])) {
            return Ok(Err(Refusal::PATH));
        }
        Ok(Ok(Some(Version {
            command,
            files,
            is_other,
            knows_hash,
        })))
    }

    /// The command with these stand-ins; `None` if there is nothing to replace.
    fn command(
        &self,
        scanned: &Scanned<'_>,
        which: Which,
        knows_hash: &mut bool,
    ) -> Result<Option<Command>, Refusal> {
        let mapping = self.replace(which);
        let mut command = scanned.command.clone();
        let mut is_other = false;
        let mut replace = |text: &mut Vec<u8>, counts: bool| -> Result<(), Refusal> {
            let hits = mapping.hits(text)?;
            if !hits.is_empty() {
                is_other = true;
                *knows_hash |= counts && hits.iter().any(super::Hit::is_whole);
                *text = mapping.applied(text)?;
            }
            Ok(())
        };
        for arg in &mut command.argv {
            replace(arg, true)?;
        }
        for (name, value) in &mut command.env {
            replace(value, !name.starts_with(READ_BY_LINKS))?;
        }
        Ok(is_other.then_some(command))
    }

    /// Whether a command has one of the hashes in it, or a beginning of one.
    pub(in crate::child) fn are_meant_by(&self, command: &Command) -> bool {
        let is_hit = |text: &Vec<u8>| {
            self.to_first
                .hits(text)
                .map_or(true, |hits| !hits.is_empty())
        };
        command.argv.iter().any(is_hit) || command.env.values().any(is_hit)
    }

    /// The environment with first stand-ins, where that can be had.
    pub(in crate::child) fn in_environment(
        &self,
        env: &BTreeMap<Vec<u8>, Vec<u8>>,
    ) -> BTreeMap<Vec<u8>, Vec<u8>> {
        env.iter()
            .map(|(name, value)| {
                let replaced = self.to_first.apply(value).ok().flatten();
                (name.clone(), replaced.unwrap_or_else(|| value.clone()))
            })
            .collect()
    }
}

/// Why a compile with stand-ins would be refused whatever it gives.
fn refused_by_flags(compile: &Compile, command: &Command) -> Option<Refusal> {
    if compile.intermediate_code {
        return Some(Refusal::INTERMEDIATE_CODE);
    }
    // Clang does not record its flags.
    let is_clang = memchr::memmem::find(base_name(&command.exe), b"clang").is_some();
    let words = || command.argv.iter().chain(command.env.values());
    let has = |text: &[u8]| words().any(|word| memchr::memmem::find(word, text).is_some());
    let is_recorded = compile.debug && !is_clang && !has(b"-gno-record-gcc-switches");
    (is_recorded && has(SEED_FLAG)).then_some(Refusal::DEBUG_STRINGS)
}

impl Scanned<'_> {
    /// Looks for hashes in all files, as long as what was just read is held.
    pub(in crate::child) fn search(&self, stand_ins: &StandIns) -> Result<(), InPlace> {
        for (path, input) in &self.files {
            // What it found is remembered.
            let _ = stand_ins.search(self, path, input)?;
        }
        Ok(())
    }

    /// The answer of a child with stand-ins; `None` if the call has nothing of the outer
    /// derivation's own hashes in it, or cannot have stand-ins, which is counted.
    pub(in crate::child) fn answer_with_stand_ins(
        &self,
        stand_ins: &StandIns,
        compile: &Compile,
        home: Option<Home>,
    ) -> Result<Option<Shared>, InPlace> {
        let answer = match stand_ins.version(self, Which::First, home.is_some())? {
            Ok(None) => return Ok(None),
            Ok(Some(first)) => match refused_by_flags(compile, &self.command) {
                None => self.answer_by_version(stand_ins, &first, home)?,
                Some(refusal) => Err(refusal),
            },
            Err(refusal) => Err(refusal),
        };
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(refusal) => {
                self.asked.caller.count_not_shared(refusal.name());
                Ok(None)
            }
        }
    }

    fn answer_by_version(
        &self,
        stand_ins: &StandIns,
        first: &Version<'_>,
        home: Option<Home>,
    ) -> Result<Result<Shared, Refusal>, InPlace> {
        let index = &self.asked.executor.workplace().index;
        let failed = |_| InPlace::new("index-failed");
        let moved = home.as_ref().map(|home| (home, Which::First));
        let made = self.make(&first.command, &first.files, moved)?;
        let known = match first.is_other {
            true => index.verdict(&made.path).map_err(failed)?,
            false => Some(Verdict::Restore(Vec::new())),
        };
        if let Some(Verdict::Refused(refusal)) = known {
            return Ok(Err(refusal));
        }
        let silent = match &home {
            Some(home) if !first.is_other => self.without_terminals(first, home)?,
            _ => None,
        };
        let known_silent = match &silent {
            Some(silent) => self.known_silent(silent, home.as_ref())?,
            None => None,
        };
        let is_silent = known_silent.is_some();
        let (mut done, origin) = match known_silent {
            Some(done) => (done, Origin::Reused),
            None => self.run(stand_ins, &made, first, Which::First, home.as_ref())?,
        };
        let drv_path = match &silent {
            Some(silent) if is_silent => silent.path.clone(),
            _ => made.path.clone(),
        };
        let shared = |done| Shared {
            done,
            origin,
            drv_path,
            home: home.clone(),
        };
        // Why it failed is not known yet; it is not used.
        if done.status != 0 {
            return Ok(Ok(shared(done)));
        }
        if let Some(silent) = silent
            && !is_silent
            && let Some(child) = index.get(&made.path).map_err(failed)?
            && child.result.is_silent()
        {
            index.put_beside(&silent.path, child).map_err(failed)?;
        }
        // Not a part of the verdict: the same child may be that of a compile which lies there.
        if let Some(home) = &home {
            let files = match home.is_other() {
                true => &*done.files,
                false => &[],
            };
            let left = read(files, &done).map_err(|_| InPlace::new("child-unreadable"))?;
            let refusal = match left {
                Some(left) if !home.is_told(left.split_at(files.len())) => None,
                Some(_) => Some(Refusal::DIRECTORY),
                None => Some(Refusal::LARGE),
            };
            if let Some(refusal) = refusal {
                index.set_aside(&made.path).map_err(failed)?;
                return Ok(Err(refusal));
            }
        }
        let to_restore = match known {
            // One that was built again is looked at again.
            Some(Verdict::Restore(to_restore)) if origin == Origin::Reused || !first.is_other => {
                to_restore
            }
            _ => {
                let looked = self.look(stand_ins, first, &done, home.as_ref())?;
                let verdict = match &looked {
                    Ok(to_restore) => Verdict::Restore(to_restore.clone()),
                    Err(refusal) => Verdict::Refused(*refusal),
                };
                index.put_verdict(&made.path, &verdict).map_err(failed)?;
                match looked {
                    Ok(to_restore) => to_restore,
                    Err(refusal) => {
                        index.set_aside(&made.path).map_err(failed)?;
                        return Ok(Err(refusal));
                    }
                }
            }
        };
        restore(stand_ins.restore(), &mut done, &to_restore)
            .map_err(|_| InPlace::new("copy-failed"))?;
        Ok(Ok(shared(done)))
    }

    /// The same child without terminals, if it has any.
    ///
    /// Compilers look at a terminal to form their messages, and at nothing else. So of a compile
    /// that prints nothing on one, nothing depends on it.
    fn without_terminals(
        &self,
        version: &Version<'_>,
        home: &Home,
    ) -> Result<Option<Made>, InPlace> {
        if version.command.ttys == [None, None] {
            return Ok(None);
        }
        let command = Command {
            ttys: [None, None],
            ..version.command.clone()
        };
        let moved = Some((home, Which::First));
        self.make(&command, &version.files, moved).map(Some)
    }

    /// What a child has left that is known and has printed nothing.
    fn known_silent(&self, made: &Made, home: Option<&Home>) -> Result<Option<Done>, InPlace> {
        let executor = self.asked.executor;
        let child = executor.known_child(&made.path)?;
        let Some(child) = child.filter(|child| child.result.is_silent()) else {
            return Ok(None);
        };
        let Ok(mut done) = reply(executor, &child) else {
            return Ok(None);
        };
        if let Some(home) = home {
            home.move_files_back(&mut done, Which::First);
        }
        Ok(Some(done))
    }

    /// Finds or builds the child of a version.
    fn run(
        &self,
        stand_ins: &StandIns,
        made: &Made,
        version: &Version<'_>,
        which: Which,
        home: Option<&Home>,
    ) -> Result<(Done, Origin), InPlace> {
        let moved = home.map(|home| (home, which));
        self.answer_by(made, &version.files, moved, |bytes| {
            match stand_ins.replace(which).apply(&bytes) {
                Ok(Some(replaced)) => Ok(replaced.into()),
                Ok(None) => Ok(bytes),
                // It was searched before, and without this.
                Err(_) => Err(InPlace::new("changed-while-read")),
            }
        })
    }

    /// Whether every derivation can use this child, and what has to be restored.
    fn look(
        &self,
        stand_ins: &StandIns,
        first: &Version<'_>,
        done: &Done,
        home: Option<&Home>,
    ) -> Result<Result<Vec<usize>, Refusal>, InPlace> {
        let unreadable = |_| InPlace::new("child-unreadable");
        let Some(left) = read(&done.files, done).map_err(unreadable)? else {
            return Ok(Err(Refusal::LARGE));
        };
        let command = &first.command;
        let words: Vec<&[u8]> = command
            .argv
            .iter()
            .chain(command.env.values())
            .map(Vec::as_slice)
            .collect();
        let to_restore = match look(stand_ins, &words, &left) {
            Ok(to_restore) => to_restore,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if !first.knows_hash && to_restore.is_empty() {
            return Ok(Ok(to_restore));
        }
        let second = match stand_ins.version(self, Which::Second, home.is_some())? {
            Ok(Some(second)) => second,
            Ok(None) => return Ok(Err(Refusal::DIFFERENT)),
            Err(refusal) => return Ok(Err(refusal)),
        };
        let moved = home.map(|home| (home, Which::Second));
        let made = self.make(&second.command, &second.files, moved)?;
        let (done_again, _) = self.run(stand_ins, &made, &second, Which::Second, home)?;
        let index = &self.asked.executor.workplace().index;
        index
            .set_aside(&made.path)
            .map_err(|_| InPlace::new("index-failed"))?;
        let paths = |done: &Done| -> Vec<(Vec<u8>, bool)> {
            done.files
                .iter()
                .map(|file| (file.path.clone(), file.executable))
                .collect()
        };
        if done_again.status != done.status || paths(&done_again) != paths(done) {
            return Ok(Err(Refusal::DIFFERENT));
        }
        let Some(left_again) = read(&done_again.files, &done_again).map_err(unreadable)? else {
            return Ok(Err(Refusal::LARGE));
        };
        Ok(is_same_but_for_stand_ins(stand_ins, &left, &left_again).map(|()| to_restore))
    }
}

/// These files of a child, and what it printed; `None` if it is too much.
fn read(files: &[NewFile], done: &Done) -> std::io::Result<Option<Left>> {
    let mut left = Left::new();
    let files = files.iter().map(|file| &file.content);
    let mut allowed = LEFT_BYTES_MAX;
    for content in files.chain([&done.stdout, &done.stderr]) {
        let Some(bytes) = read_content(content, allowed)? else {
            return Ok(None);
        };
        allowed -= bytes.len() as u64;
        left.push(bytes);
    }
    Ok(Some(left))
}

/// Puts the hashes back where a verdict says that they are.
fn restore(mapping: &Mapping, done: &mut Done, which: &[usize]) -> std::io::Result<()> {
    let mut contents = contents(done);
    for number in which {
        let damaged = || std::io::Error::from(std::io::ErrorKind::InvalidData);
        let content: &mut OwnedFd = contents.get_mut(*number).ok_or_else(damaged)?;
        let bytes = read_content(content, LEFT_BYTES_MAX)?.ok_or_else(damaged)?;
        let restored = mapping.applied(&bytes).map_err(|_| damaged())?;
        *content = in_memory(&restored)?;
    }
    Ok(())
}
