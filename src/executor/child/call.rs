//! One compiler call: from what a shim sent to the child that answers it.
//!
//! There are two ways to a child. If the call is a plain compile, its sources are
//! [scanned](super::scanned): that finds every input without running anything. Any other
//! call, and any whose child failed, is [traced](super::traced).

use std::cell::{Cell, OnceCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bstr::ByteSlice;
use shim_core::args::Reason;
use shim_core::protocol::{Call, Done, Tried};
use store_types::{Hash, StoreDir, StorePath, sha256};

use super::assemble::Command;
use super::environment::{empty_for_compiles, relevant};
use super::inputs::{absolute, base_name};
use super::outcome::InPlace;
use super::renaming::Renaming;
use super::run::{ChildRequest, IsGone, Origin};
use super::stand_in::Refusal;
use super::tools::{Compiler, child_path, environment_map};
use super::tree::{CallerTree, Found, Walker, split_last};
use super::{memo, reply, scanned, traced};
use crate::Executor;
use crate::context::{Caller, Counted};

/// Reasons that tracing cannot help.
const FINAL: &[&str] = &[
    "caller-gone",
    "child-damaged",
    "child-lost",
    "child-not-run",
    "child-odd",
    "child-unreadable",
    "copy-failed",
    "failed-slowly",
    "failed-with-older-output",
    "index-failed",
    "many-outputs",
    "modification-time",
    "no-arguments",
    "outside-of-build",
    "runner-missing",
    "temporary-directory",
    "time-macro",
    "vanished-directory",
];

/// Has the caller make the call itself, once: what came of it, if the caller tells.
pub(super) type TryInPlace<'a> = &'a dyn Fn() -> Option<Tried>;

/// A call, and who asks.
pub(super) struct Asked<'a> {
    pub(super) executor: &'a Arc<Executor>,
    pub(super) caller: &'a Caller,
    pub(super) call: &'a Call,
    pub(super) env: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) is_gone: IsGone<'a>,
    pub(super) try_in_place: TryInPlace<'a>,
    /// Whether the caller was asked to make the call itself.
    pub(super) was_tried: Cell<bool>,
    /// The files that a scan has found, if its child failed.
    pub(super) scanned: OnceCell<BTreeSet<Vec<u8>>>,
}

/// Finds or builds the child of a call.
pub(super) fn answer(
    executor: &Arc<Executor>,
    caller: &Caller,
    call: &Call,
    is_gone: IsGone<'_>,
    try_in_place: TryInPlace<'_>,
) -> Result<(Done, Origin), InPlace> {
    let (done, origin) = find(executor, caller, call, is_gone, try_in_place)?;
    // What was written when is not known.
    let has_text = |stream| rustix::fs::fstat(stream).is_ok_and(|stat| stat.st_size > 0);
    if call.is_one_stream && has_text(&done.stdout) && has_text(&done.stderr) {
        return Err(InPlace::new("interleaved-output"));
    }
    Ok((done, origin))
}

fn find(
    executor: &Arc<Executor>,
    caller: &Caller,
    call: &Call,
    is_gone: IsGone<'_>,
    try_in_place: TryInPlace<'_>,
) -> Result<(Done, Origin), InPlace> {
    let asked = Asked {
        executor,
        caller,
        call,
        env: environment_map(&call.env),
        is_gone,
        try_in_place,
        was_tried: Cell::new(false),
        scanned: OnceCell::new(),
    };
    if let Some(memo) = &call.memo {
        return memo::answer(&asked, memo);
    }
    // A driver looks for itself by this name in `PATH`, and then for its parts beside it.
    if let Some(name) = call.argv.first()
        && !name.contains(&b'/')
        && **name != *base_name(&call.exec_path)
    {
        return Err(InPlace::new("other-name"));
    }
    if let Some(names) = Renaming::made_up(call) {
        match traced::answer_with_other_names(&asked, names) {
            Ok(Some(answer)) => return Ok(answer),
            Err(reason) if asked.is_settled(&reason) => return Err(reason),
            Ok(None) | Err(_) => {}
        }
    }
    let learned = executor
        .workplace()
        .records
        .is_undeclared(&asked.words())
        .map_err(|_| InPlace::new("index-failed"))?;
    if learned {
        return traced::answer(&asked);
    }
    match scanned::answer(&asked) {
        Err(reason) if !FINAL.contains(&reason.as_str()) => traced::answer(&asked),
        answered => answered,
    }
}

impl<'a> Asked<'a> {
    /// What calls have in common that differ in nothing but files and the environment.
    pub(super) fn words(&self) -> Hash {
        let call = self.call;
        let mut text = Vec::new();
        for word in call.argv.iter().chain([&call.cwd, &call.exec_path]) {
            text.extend_from_slice(word);
            text.push(0);
        }
        sha256(&text)
    }

    /// Whether nothing else is to be tried: the caller has made the call itself, or is gone.
    pub(super) fn is_settled(&self, reason: &InPlace) -> bool {
        self.was_tried.get() || reason.as_str() == "caller-gone"
    }

    /// Counts what a scan has missed of these files, without which its child failed, and has
    /// such calls traced from now on.
    pub(super) fn learn<'f>(&self, files: impl Iterator<Item = &'f Vec<u8>>) {
        let Some(scanned) = self.scanned.get() else {
            return;
        };
        for path in files.filter(|path| !scanned.contains(*path)) {
            let counted = Counted::Undeclared(path.to_str_lossy().into_owned());
            self.executor.statistics().count(&counted);
            self.caller.count(&self.call.env, &counted);
        }
        // If it cannot be kept, the scan is tried again.
        let _ = self
            .executor
            .workplace()
            .records
            .set_undeclared(&self.words());
    }

    /// Counts a call that no other derivation can share, if its command has a hash of the outer
    /// derivation's own outputs in it.
    pub(super) fn count_not_shared(&self, command: &Command, refusal: Refusal) {
        if self.caller.stand_ins().are_meant_by(command) {
            self.caller.count_not_shared(refusal.name());
        }
    }

    /// What the caller sees of its files.
    pub(super) fn tree(&self) -> &'a CallerTree {
        self.caller.tree()
    }

    pub(super) fn store_dir(&self) -> &'a StoreDir {
        self.executor.store_dir()
    }

    /// The caller's directory, free of symlinks, of which the child will have one.
    pub(super) fn find_cwd(&self, walker: &mut Walker<'_>) -> Result<Vec<u8>, InPlace> {
        match walker.find(b"/", &self.call.cwd)? {
            Found::Dir(cwd) if walker.is_local(&cwd) => Ok(cwd),
            Found::Dir(_) => Err(InPlace::new("outside-of-build")),
            _ => Err(InPlace::new("vanished-directory")),
        }
    }

    /// The arguments for the child. A driver finds its parts by the path in `argv[0]`, or by
    /// `PATH` if that is a bare name; this is what it would find, and does not depend on
    /// `PATH`.
    pub(super) fn child_argv(&self, exec_path: &[u8]) -> Vec<Vec<u8>> {
        let mut argv = self.argv_with_name(exec_path);
        if !argv[0].contains(&b'/') {
            argv[0] = exec_path.to_vec();
        }
        argv
    }

    /// The arguments for a program that tells the name by which it was called. If that is the path
    /// of a shim that was found by `PATH`, the program gets its own, as it does in place.
    pub(super) fn argv_with_name(&self, exec_path: &[u8]) -> Vec<Vec<u8>> {
        let mut argv = self.call.argv.clone();
        if argv[0].contains(&b'/') && self.is_by_path() {
            argv[0] = exec_path.to_vec();
        }
        argv
    }

    /// Whether the shim was found by `PATH`, and does not lie in a compiler's place.
    fn is_by_path(&self) -> bool {
        if self.tree().is_host() {
            return self.tree().is_hidden(&self.call.exe);
        }
        let exe = str::from_utf8(&self.call.exe).ok();
        let object = exe.and_then(|exe| self.store_dir().split(exe));
        object.is_some_and(|(object, _)| Some(object) == self.executor.shims_package_path())
    }

    /// The environment for the compiler of a scanned call.
    pub(super) fn child_environment(
        &self,
        walker: &mut Walker<'_>,
        compiler: &Compiler,
        cwd: &[u8],
    ) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, InPlace> {
        let env = &self.env;
        let mut kept = relevant(env, compiler.words.as_ref(), compiler.is_nixpkgs);
        if compiler.is_nixpkgs {
            empty_for_compiles(&mut kept);
        }
        if env.contains_key(&b"PATH"[..]) {
            kept.insert(b"PATH".to_vec(), child_path(walker, compiler, cwd, env)?);
        }
        self.with_directories(walker, cwd, kept)
    }

    /// Adds to an environment what depends on directories.
    pub(super) fn with_directories(
        &self,
        walker: &mut Walker<'_>,
        cwd: &[u8],
        mut kept: BTreeMap<Vec<u8>, Vec<u8>>,
    ) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, InPlace> {
        let env = &self.env;
        // gcc records the directory by the name in PWD, if that leads to it.
        if let Some(pwd) = env.get(&b"PWD"[..])
            && *pwd != *cwd
            && walker.find(b"/", pwd)? == Found::Dir(cwd.to_vec())
        {
            kept.insert(b"PWD".to_vec(), pwd.clone());
        }
        // Temporary files are made there.
        for name in [&b"TMPDIR"[..], b"TMP", b"TEMP"] {
            if let Some(dir) = env.get(name)
                && !dir.is_empty()
                && !matches!(walker.find(cwd, dir), Ok(Found::Dir(_)))
            {
                return Err(InPlace::new("temporary-directory"));
            }
        }
        Ok(kept)
    }

    /// The answer of a child that a scan gave; it is built again if it is gone.
    pub(super) fn answer_by(
        &self,
        drv_path: &StorePath,
        request: impl Fn() -> Result<ChildRequest, InPlace>,
    ) -> Result<(Done, Origin), InPlace> {
        let executor = self.executor;
        let (child, origin) = executor.child(drv_path, self.is_gone, &request)?;
        match reply::reply(executor, &child) {
            Ok(done) => Ok((done, origin)),
            Err(reply::Unusable::Reason(reason)) => Err(reason),
            Err(reply::Unusable::Gone) => {
                // It was collected, or the store was changed by hand: build it again.
                executor
                    .workplace()
                    .index
                    .forget(drv_path)
                    .map_err(|_| InPlace::new("index-failed"))?;
                let (child, origin) = executor.child(drv_path, self.is_gone, &request)?;
                match reply::reply(executor, &child) {
                    Ok(done) => Ok((done, origin)),
                    Err(reply::Unusable::Reason(reason)) => Err(reason),
                    Err(reply::Unusable::Gone) => Err(InPlace::new("child-unreadable")),
                }
            }
        }
    }
}

/// Has the directory made in which the call will leave a file; true if there is a file of
/// that name.
pub(super) fn prepare_output(
    walker: &mut Walker<'_>,
    cwd: &[u8],
    output: &[u8],
) -> Result<bool, InPlace> {
    let path = absolute(cwd, output);
    let (parent, name) = split_last(&path);
    match walker.find(cwd, parent)? {
        Found::Dir(dir) if walker.is_local(&dir) && !name.is_empty() => {}
        _ => return Err(InPlace::new("output-outside-of-build")),
    }
    match walker.look(cwd, &path)? {
        Found::Missing => Ok(false),
        Found::LocalFile(_) => Ok(true),
        _ => Err(InPlace::new("output-in-the-way")),
    }
}

/// A reason of the flag tables as one that is counted.
pub(super) fn in_place(reason: &Reason) -> InPlace {
    match reason.detail() {
        Some(detail) => InPlace::with_detail(reason.name(), String::from_utf8_lossy(detail)),
        None => InPlace::new(reason.name()),
    }
}
