//! Running a call for the first time, and finding out what it looks up.
//!
//! The sandbox is [watched](droste_sandbox::Listener): each system call that names a file
//! waits until it has been looked at here. If the caller has something of that name, it is
//! laid out in the sandbox before the call goes on. In the end the [`View`] holds all that
//! the tool could see and all that it missed, and the child made of that has the same result.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use droste_sandbox::{FileUser, Intent, Listener, Lookup, Notification, Running, lookups, root_of};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use rustix::io::Errno;
use shim_core::args::records_times;
use shim_core::manifest::LAID;
use store_types::StoreDir;

use super::call::Asked;
use super::environment::named_but_dropped;
use super::inputs::{INPUT_MTIME, LISTED_MTIME};
use super::interpreter::{interpreter, script};
use super::memo::Declared;
use super::outcome::InPlace;
use super::records::Query;
use super::renaming::Renaming;
use super::run::ChildPlace;
use super::stand_in::Which;
use super::traced::NAME_IN_INPUT;
use super::tree::{Entry, Found, join, split_last};
use super::view::View;

/// The kernel's own files: a sandbox has its own.
const SAME_EVERYWHERE: &[&[u8]] = &[b"/dev", b"/proc", b"/sys"];

/// Among them, where files can be anybody's.
const DEVICES: &[u8] = b"/dev";

/// What is below these names in `/proc` is not the kernel's, but what a process has.
const OF_PROCESSES: &[&[u8]] = &[b"cwd", b"root", b"exe", b"map_files"];

/// Something else than a child has would be found.
const OF_THE_KERNEL: InPlace = InPlace::new("file-of-the-kernel");

/// Files of the host that a compiler of it finds by itself and does without: with them it
/// would depend on what else is installed.
const NEVER_SHOWN: &[&[u8]] = &[b"/etc/ld.so.cache", b"/etc/ld.so.preload"];

/// How many symlinks may lead from one to the next.
const LINKS_MAX: usize = 40;

/// How many interpreters may lead from one to the next.
const INTERPRETERS_MAX: usize = 4;

/// Answers the lookups of one sandbox.
pub(super) struct Observer<'a, 'v> {
    asked: &'a Asked<'a>,
    view: &'v mut View<'a>,
    /// Files that the call replaces: a stale one is not shown to who only looks at it.
    outputs: HashSet<Vec<u8>>,
    place: &'v ChildPlace,
    /// Paths that are laid out in the sandbox.
    laid: HashSet<Vec<u8>>,
    /// How much of the view is laid out.
    laid_of: [usize; 4],
    /// Those among them that are only names, so far.
    listed: HashSet<Vec<u8>>,
    /// What a call of any program declares, as long as it is not laid out.
    declared: Option<&'v Declared>,
    /// Names that are others in the sandbox. What is asked of the view, and what is in it, has
    /// those of the caller; all else here has those of the sandbox.
    renaming: Option<&'v Renaming>,
    /// Files that are not shown.
    never_shown: &'static [&'static [u8]],
    root: Option<OwnedFd>,
    /// The environment of the tool.
    env: &'v BTreeMap<Vec<u8>, Vec<u8>>,
    store_texts: BTreeSet<Vec<u8>>,
    /// What was looked at or read, each with whether it was read, since something was last
    /// changed: there is nothing more to be laid out for these.
    settled: HashSet<(Vec<u8>, bool)>,
    odd: Option<InPlace>,
}

/// A sandbox that has started.
pub(super) struct Started {
    pub(super) listener: Listener,
    /// The runner's process; what it looks up is no part of the call.
    pub(super) runner: i32,
}

impl Started {
    /// The watched sandbox of this process.
    pub(super) fn of(running: &Running) -> Option<Self> {
        Some(Self {
            listener: running.take_listener()?,
            runner: running.pid(),
        })
    }
}

impl<'a, 'v> Observer<'a, 'v> {
    /// An observer of a sandbox in which what the view holds is laid out already.
    pub(super) fn new(
        asked: &'a Asked<'a>,
        view: &'v mut View<'a>,
        outputs: HashSet<Vec<u8>>,
        place: &'v ChildPlace,
        env: &'v BTreeMap<Vec<u8>, Vec<u8>>,
        declared: Option<&'v Declared>,
        renaming: Option<&'v Renaming>,
    ) -> Self {
        let layout = &view.walker.layout;
        let laid = layout.dirs.iter().chain(layout.links.keys());
        let laid = laid.chain(view.files.keys()).chain(&view.listed);
        let inside = |path: &Vec<u8>| inside(renaming, path).into_owned();
        Self {
            asked,
            laid: laid.map(inside).collect(),
            laid_of: view.extent(),
            listed: view.listed.iter().map(inside).collect(),
            declared,
            renaming,
            never_shown: match declared {
                None => NEVER_SHOWN,
                Some(_) => &[],
            },
            view,
            outputs,
            place,
            root: None,
            env,
            store_texts: BTreeSet::new(),
            settled: HashSet::new(),
            odd: None,
        }
    }

    /// Answers until all processes of the sandbox have ended. `kill` is set as soon as
    /// the result is of no use any more; the reason is returned. Else the files of store
    /// objects that were read and may be texts.
    pub(super) fn run(
        mut self,
        started: &mpsc::Receiver<Started>,
        kill: &AtomicBool,
    ) -> Result<BTreeSet<Vec<u8>>, InPlace> {
        // A sandbox that did not start has another to tell why.
        let Ok(Started { listener, runner }) = started.recv() else {
            return Ok(self.store_texts);
        };
        let failed = |error: Errno| InPlace::with_detail("cannot-watch", error);
        let (never, _writer) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed)?;
        while let Some(call) = listener.receive(never.as_fd()).map_err(failed)? {
            if call.pid == runner {
                self.serve_runner(&listener, &call);
            } else if self.odd.is_none() {
                self.serve(&listener, &call);
            }
            match &self.odd {
                None => listener.allow(&call).map_err(failed)?,
                Some(_) => {
                    kill.store(true, Ordering::Release);
                    listener.refuse(&call, Errno::IO).map_err(failed)?;
                }
            }
        }
        self.odd.map_or(Ok(self.store_texts), Err)
    }

    /// The runner asks, when the tool has ended, what was laid out meanwhile.
    fn serve_runner(&mut self, listener: &Listener, call: &Notification) {
        let is_question = |lookup: &Lookup| match lookup {
            Lookup::Path { path, .. } => path == LAID.as_bytes(),
            _ => false,
        };
        let Ok(found) = lookups(listener, call) else {
            return;
        };
        if !found.iter().any(is_question) {
            return;
        }
        let mut list = Vec::new();
        for path in &self.laid {
            list.extend_from_slice(path);
            list.push(0);
        }
        let written = root_of(listener, call)
            .map_err(|_| Errno::SRCH)
            .and_then(|root| {
                self.as_build(|| write_new(&root, LAID.as_bytes(), &list, false, INPUT_MTIME))
            });
        if written.is_err() {
            self.odd = Some(InPlace::new("cannot-lay-out"));
        }
    }

    fn serve(&mut self, listener: &Listener, call: &Notification) {
        let Ok(found) = lookups(listener, call) else {
            return;
        };
        if found.is_empty() {
            return;
        }
        if self.root.is_none() {
            match root_of(listener, call) {
                Ok(root) => self.root = Some(root),
                Err(_) => return,
            }
        }
        if let Some(declared) = self.declared.take() {
            let taken = declared.take_into(self.view).and_then(|()| self.lay_out());
            if let Err(reason) = taken {
                self.odd.get_or_insert(reason);
            }
        }
        for lookup in found {
            let is_known = |path: &[u8]| self.renaming.is_none_or(|names| !names.are_in(path));
            let served = match lookup {
                // Words cannot have told it.
                Lookup::Path { path, .. } | Lookup::List { path } if !is_known(&path) => {
                    Err(NAME_IN_INPUT)
                }
                Lookup::Path { path, intent, .. } => self.once(normal(&path), intent),
                Lookup::List { path } => self.list(normal(&path)),
                Lookup::Unreadable | Lookup::Other => Err(InPlace::new("unseen-lookup")),
            };
            if let Err(reason) = served {
                self.odd.get_or_insert(reason);
            }
        }
    }

    /// A compiler looks for the same headers in the same directories again and again.
    fn once(&mut self, path: Vec<u8>, intent: Intent) -> Result<(), InPlace> {
        if !matches!(intent, Intent::Look | Intent::Read) {
            self.settled.clear();
            return self.path(&path, intent);
        }
        let looked = (path, intent == Intent::Read);
        if !self.settled.contains(&looked) {
            self.path(&looked.0, intent)?;
            self.settled.insert(looked);
        }
        Ok(())
    }

    fn path(&mut self, path: &[u8], intent: Intent) -> Result<(), InPlace> {
        self.path_behind(path, intent, 0)
    }

    /// The same, behind this many symlinks that led nowhere in the sandbox.
    fn path_behind(&mut self, path: &[u8], intent: Intent, links: usize) -> Result<(), InPlace> {
        if links > LINKS_MAX {
            // The kernel follows no more either.
            return Ok(());
        }
        let is_below = |dir: &&&[u8]| is_below(path, dir);
        if self.never_shown.contains(&path) {
            return Ok(());
        }
        if SAME_EVERYWHERE.iter().find(is_below).is_some() && leads_elsewhere(path) {
            return Err(OF_THE_KERNEL);
        }
        if intent == Intent::Read && may_be_text(path) {
            self.store_texts.insert(path.to_vec());
        }
        if let Some(object) = store_object(path, self.asked.store_dir()) {
            self.ask(Query::Path(object.to_vec()))?;
            return match intent {
                Intent::Execute => self.check_script(path),
                _ => Ok(()),
            };
        }
        if self.view.hides(path) && intent != Intent::Execute {
            // What is there is what the call has made so far.
            return self.ask_parent(path);
        }
        if self.is_listed_only(path, false) {
            if matches!(
                intent,
                Intent::Modify | Intent::Remove | Intent::Overwrite | Intent::Replace
            ) {
                return Err(InPlace::with_detail("changed-input", display(path)));
            }
            self.ask(Query::Path(path.to_vec()))?;
        }
        if self.is_here(path) {
            let follows = !matches!(intent, Intent::Remove | Intent::Replace | Intent::CreateNew);
            if follows && let Some(end) = self.open_end(path) {
                return self.path_behind(&end, intent, links + 1);
            }
            return match intent {
                // It fails, as it does for the caller.
                Intent::Look | Intent::Read | Intent::CreateNew => Ok(()),
                Intent::Execute => {
                    self.check_script(path)?;
                    self.ask_interpreters(path)
                }
                _ if self.is_laid(path) => {
                    Err(InPlace::with_detail("changed-input", display(path)))
                }
                _ => Ok(()),
            };
        }
        if SAME_EVERYWHERE.iter().find(is_below).is_some() {
            // Whatever lies in `/dev/shm`, for one, is its caller's.
            return match is_below(&&DEVICES) {
                true => self.ask(Query::Path(path.to_vec())),
                false => Ok(()),
            };
        }
        match intent {
            Intent::Look | Intent::Remove if self.outputs.contains(path) => self.ask_parent(path),
            Intent::Look | Intent::Read | Intent::Remove => {
                self.ask(Query::Path(path.to_vec()))?;
                self.check_change(path, intent)
            }
            Intent::Execute => {
                self.ask(Query::Path(path.to_vec()))?;
                self.check_script(path)?;
                self.ask_interpreters(path)
            }
            Intent::Modify => {
                self.ask(Query::Path(path.to_vec()))?;
                self.check_change(path, intent)
            }
            Intent::Overwrite | Intent::Replace | Intent::CreateNew => {
                let may_be_there = intent != Intent::CreateNew;
                if self.is_free(path, may_be_there)? {
                    self.ask_parent(path)
                } else {
                    self.ask(Query::Path(path.to_vec()))?;
                    self.check_change(path, intent)
                }
            }
        }
    }

    /// Refuses what would change something that was just laid out.
    fn check_change(&self, path: &[u8], intent: Intent) -> Result<(), InPlace> {
        // What must not be there is left as it is.
        let is_change = matches!(
            intent,
            Intent::Modify | Intent::Remove | Intent::Overwrite | Intent::Replace
        );
        if is_change && self.is_here(path) {
            return Err(InPlace::with_detail("changed-input", display(path)));
        }
        Ok(())
    }

    /// Whether a file can be made at this path without anybody seeing what was there: it is
    /// missing, or, if that `may_be_there`, a plain file.
    fn is_free(&mut self, path: &[u8], may_be_there: bool) -> Result<bool, InPlace> {
        let (parent, name) = split_last(path);
        if !self.view.walker.is_local(&self.outside(parent)) {
            // A directory such as `/tmp`, of which every sandbox has one.
            let path = self.outside(path).into_owned();
            return Ok(self.view.walker.look(b"/", &path)? == Found::Missing);
        }
        let parent = &self.outside(parent).into_owned();
        let name = &*self.outside(name).into_owned();
        let Found::Dir(dir) = self.view.walker.look(b"/", parent)? else {
            return Ok(true);
        };
        if !self.view.walker.is_local(&dir) {
            return Ok(true);
        }
        Ok(match self.view.walker.local_entry(&dir, name)? {
            None => true,
            Some(Entry::File) => may_be_there,
            Some(_) => false,
        })
    }

    fn ask_parent(&mut self, path: &[u8]) -> Result<(), InPlace> {
        let parent = split_last(path).0;
        if self.is_here(parent) {
            return Ok(());
        }
        self.ask(Query::Path(parent.to_vec()))
    }

    /// A script must not name a variable that the caller has and the child has not.
    fn check_script(&self, path: &[u8]) -> Result<(), InPlace> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let Some(Ok(file)) = self
            .root
            .as_ref()
            .map(|root| open_below(root, path, flags, true))
        else {
            return Ok(());
        };
        let Some(script) = script(file) else {
            return Ok(());
        };
        match named_but_dropped(&script, &self.asked.env, self.env)
            .into_iter()
            .min()
        {
            Some(name) => Err(InPlace::with_detail("script-reads", display(&name))),
            None => Ok(()),
        }
    }

    /// The kernel opens the interpreters of what it executes by itself.
    fn ask_interpreters(&mut self, path: &[u8]) -> Result<(), InPlace> {
        let mut path = path.to_vec();
        for _ in 0..INTERPRETERS_MAX {
            let Some(root) = &self.root else {
                return Ok(());
            };
            let head = match open_below(root, &path, OFlags::RDONLY | OFlags::NONBLOCK, true) {
                Ok(file) => interpreter(file),
                Err(_) => return Ok(()),
            };
            let Some(next) = head else {
                return Ok(());
            };
            if !next.starts_with(b"/") {
                return Err(InPlace::new("unseen-lookup"));
            }
            self.path(&normal(&next), Intent::Read)?;
            path = next;
        }
        Ok(())
    }

    fn list(&mut self, path: Vec<u8>) -> Result<(), InPlace> {
        if store_object(&path, self.asked.store_dir()).is_some()
            || SAME_EVERYWHERE.iter().any(|dir| is_below(&path, dir))
        {
            return Ok(());
        }
        self.ask(Query::List(path))
    }

    fn ask(&mut self, query: Query) -> Result<(), InPlace> {
        let query = match self.renaming {
            Some(names) => names.query_outside(&query).ok_or(NAME_IN_INPUT)?,
            None => query,
        };
        if self.view.has_answered(&query) {
            return Ok(());
        }
        let path = match &query {
            Query::Path(path) | Query::List(path) => display(path),
        };
        self.view
            .ask(query)
            .map_err(|reason| InPlace::with_detail(reason.as_str(), path))?;
        self.lay_out()
    }

    /// Lays out what the view has got since the last time.
    fn lay_out(&mut self) -> Result<(), InPlace> {
        let extent = self.view.extent();
        if extent == self.laid_of {
            return Ok(());
        }
        self.laid_of = extent;
        let Some(root) = &self.root else {
            return Ok(());
        };
        let failed = |error| InPlace::with_detail("cannot-lay-out", error);
        let renaming = self.renaming;
        let layout = &self.view.walker.layout;
        for dir in layout.dirs.iter().map(|dir| inside(renaming, dir)) {
            if self.laid.contains(&*dir) {
                continue;
            }
            match self.as_build(|| make_dir(root, &dir)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        for (path, target) in &layout.links {
            let path = inside(renaming, path);
            if !self.laid.contains(&*path) {
                self.as_build(|| make_link(root, &path, &inside(renaming, target)))
                    .map_err(failed)?;
            }
        }
        for path in self.view.listed.iter().map(|path| inside(renaming, path)) {
            if !self.laid.contains(&*path) {
                match self.as_build(|| write_new(root, &path, &[], false, LISTED_MTIME)) {
                    // One that the call itself has replaced.
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(failed(error)),
                }
                self.listed.insert(path.into_owned());
                // Of these there was nothing to be seen before.
                self.settled.clear();
            }
        }
        for (real, file) in &self.view.files {
            let path = inside(renaming, real);
            let is_listed = self.listed.remove(&*path);
            if is_listed {
                self.as_build(|| remove(root, &path)).map_err(failed)?;
            }
            if is_listed || !self.laid.contains(&*path) {
                let memory = &self.asked.executor.memory;
                let bytes = memory.bytes(self.view.walker.tree(), real, file)?;
                if records_times(&bytes) {
                    return Err(InPlace::new("modification-time"));
                }
                if renaming.is_some_and(|names| names.are_in(&bytes)) {
                    return Err(NAME_IN_INPUT);
                }
                self.as_build(|| write_new(root, &path, &bytes, file.executable, INPUT_MTIME))
                    .map_err(failed)?;
            }
        }
        let layout = &self.view.walker.layout;
        let new = layout.dirs.iter().chain(layout.links.keys());
        let new = new.chain(self.view.files.keys()).chain(&self.view.listed);
        self.laid
            .extend(new.map(|path| inside(renaming, path).into_owned()));
        Ok(())
    }

    /// A path of the sandbox as the caller has it.
    fn outside<'p>(&self, path: &'p [u8]) -> Cow<'p, [u8]> {
        match self.renaming {
            Some(names) => names.outside(path),
            None => Cow::Borrowed(path),
        }
    }

    /// Does this as the user of the build.
    fn as_build<T>(&self, act: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        let user = &self.place.user;
        let _as_user = FileUser::enter(user.uid, user.gid)?;
        act()
    }

    fn is_here(&self, path: &[u8]) -> bool {
        self.root.as_ref().is_some_and(|root| {
            open_below(root, path, OFlags::PATH | OFlags::NOFOLLOW, true).is_ok()
        })
    }

    /// Where a symlink at this path leads, if there is nothing yet: those in a compiler of
    /// the host lead to files of the host, those that the tool made to anywhere.
    fn open_end(&self, path: &[u8]) -> Option<Vec<u8>> {
        let root = self.root.as_ref()?;
        let is_missing = matches!(
            open_below(root, path, OFlags::PATH, true),
            Err(Errno::NOENT)
        );
        if !is_missing && !self.is_listed_only(path, true) {
            return None;
        }
        let link = open_below(root, path, OFlags::PATH | OFlags::NOFOLLOW, true).ok()?;
        let target = rustix::fs::readlinkat(&link, "", Vec::new()).ok()?;
        let target = target.as_bytes();
        Some(match target.starts_with(b"/") {
            true => normal(target),
            false => normal(&join(split_last(path).0, target)),
        })
    }

    /// Whether there is only a name at this path, or if that is a link and it `follows`, where
    /// it leads.
    fn is_listed_only(&self, path: &[u8], follows: bool) -> bool {
        if self.listed.is_empty() {
            return false;
        }
        let mut flags = OFlags::PATH;
        flags.set(OFlags::NOFOLLOW, !follows);
        self.root
            .as_ref()
            .and_then(|root| open_below(root, path, flags, true).ok())
            .and_then(|fd| rustix::fs::fstat(fd).ok())
            .is_some_and(|stat| stat.st_mtime == LISTED_MTIME && stat.st_size == 0)
    }

    /// Whether what is at this path was laid out by us, under whatever name.
    fn is_laid(&self, path: &[u8]) -> bool {
        let real = self
            .root
            .as_ref()
            .and_then(|root| open_below(root, path, OFlags::PATH | OFlags::NOFOLLOW, true).ok())
            .and_then(|fd| rustix::fs::fstat(fd).ok());
        let Some(real) = real else {
            return true;
        };
        // Nothing that the tool made has this time, and it cannot change ours unseen.
        self.laid.contains(path) || [INPUT_MTIME, LISTED_MTIME].contains(&real.st_mtime)
    }
}

/// A path of the caller as the sandbox has it.
fn inside<'p>(renaming: Option<&Renaming>, path: &'p [u8]) -> Cow<'p, [u8]> {
    match renaming {
        Some(names) => names.inside(Which::First, path),
        None => Cow::Borrowed(path),
    }
}

/// Whether a file of this name may hold text that is compiled.
fn may_be_text(path: &[u8]) -> bool {
    let name = split_last(path).1;
    let is_binary = [&b".a"[..], b".gch", b".gmo", b".mo", b".o", b".so"]
        .iter()
        .any(|suffix| name.ends_with(suffix));
    !is_binary && !name.windows(4).any(|part| part == b".so.")
}

fn display(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// Whether a path of the kernel's leads to files of somebody else's: through the directories and
/// descriptors of a process, or out of it.
fn leads_elsewhere(path: &[u8]) -> bool {
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let through = |at: usize| {
        let is_last = at + 1 == parts.len();
        match parts[at] {
            b".." => true,
            // A descriptor itself may be anything that is open.
            b"fd" => at + 2 < parts.len(),
            part => OF_PROCESSES.contains(&part) && !is_last,
        }
    };
    (0..parts.len()).any(through)
}

fn is_below(path: &[u8], dir: &[u8]) -> bool {
    path.strip_prefix(dir)
        .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// The path of the store object that a path is in.
fn store_object<'p>(path: &'p [u8], store_dir: &StoreDir) -> Option<&'p [u8]> {
    let store = store_dir.as_str().as_bytes();
    let rest = path.strip_prefix(store)?.strip_prefix(b"/")?;
    let len = rest.iter().position(|byte| *byte == b'/');
    Some(&path[..path.len() - rest.len() + len.unwrap_or(rest.len())])
}

/// A path without empty and `.` parts. A `..` stays, since what it means depends on links.
pub(super) fn normal(path: &[u8]) -> Vec<u8> {
    let mut normal = Vec::with_capacity(path.len());
    for part in path.split(|byte| *byte == b'/') {
        if !matches!(part, b"" | b".") {
            normal.push(b'/');
            normal.extend_from_slice(part);
        }
    }
    if normal.is_empty() {
        normal.push(b'/');
    }
    normal
}

fn open_below(root: &OwnedFd, path: &[u8], flags: OFlags, links: bool) -> Result<OwnedFd, Errno> {
    let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    if !links {
        resolve |= ResolveFlags::NO_SYMLINKS;
    }
    let relative = match path.strip_prefix(b"/") {
        Some(b"") | None => b".",
        Some(relative) => relative,
    };
    rustix::fs::openat2(
        root,
        relative,
        flags | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )
}

fn parent_of<'p>(root: &OwnedFd, path: &'p [u8]) -> Result<(OwnedFd, &'p [u8]), Errno> {
    let (parent, name) = split_last(path);
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    Ok((open_below(root, parent, flags, false)?, name))
}

fn make_dir(root: &OwnedFd, path: &[u8]) -> Result<(), Errno> {
    let (parent, name) = parent_of(root, path)?;
    rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))
}

fn make_link(root: &OwnedFd, path: &[u8], target: &[u8]) -> Result<(), Errno> {
    let (parent, name) = parent_of(root, path)?;
    rustix::fs::symlinkat(target, &parent, name)
}

fn remove(root: &OwnedFd, path: &[u8]) -> Result<(), Errno> {
    let (parent, name) = parent_of(root, path)?;
    rustix::fs::unlinkat(&parent, name, AtFlags::empty())
}

fn write_new(
    root: &OwnedFd,
    path: &[u8],
    bytes: &[u8],
    executable: bool,
    mtime: i64,
) -> Result<(), Errno> {
    let (parent, name) = parent_of(root, path)?;
    let mode = if executable { 0o755 } else { 0o644 };
    let file = rustix::fs::openat(
        &parent,
        name,
        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::from_raw_mode(mode),
    )?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let written = rustix::io::write(&file, rest)?;
        rest = &rest[written..];
    }
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
    let time = Timespec {
        tv_sec: mtime,
        tv_nsec: 0,
    };
    rustix::fs::futimens(
        &file,
        &Timestamps {
            last_access: time,
            last_modification: time,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_kernel_that_lead_out_of_it_are_told() {
        for path in [
            "/proc/self/cwd/inc",
            "/proc/thread-self/root/usr",
            "/proc/self/task/7/cwd/x.h",
            "/proc/self/fd/3/x.h",
            "/dev/fd/3/x.h",
            "/dev/fd/../cwd/inc",
            "/proc/../home",
        ] {
            assert!(leads_elsewhere(path.as_bytes()), "{path}");
        }
        for path in [
            "/dev/null",
            "/dev/fd/3",
            "/proc/self/exe",
            "/proc/self/fd",
            "/proc/self/cwd",
            "/proc/cpuinfo",
            "/sys/devices/system/cpu/online",
        ] {
            assert!(!leads_elsewhere(path.as_bytes()), "{path}");
        }
    }
}
