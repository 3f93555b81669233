//! A call that no scan covers: what it looks up is found out by running it once.
//!
//! The first time, the call is discovered (`discover`): its child is made of what the
//! tool looked up. From then on its *shape* (all of it but the files, and those that it names) leads to
//! [records](super::records) of what it looked up, and those to the child, if all that was
//! looked up is still as it was, and what was missing still is. That holds for calls that fail
//! as well, such as the probes of a `configure`.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use bstr::ByteSlice;
use shim_core::args::{self, Tool, Traced};
use shim_core::manifest::Entry;
use shim_core::protocol::Done;
use store_types::{Hash, StoreDir, StorePath, sha256};

use super::assemble::{Command, Made};
use super::call::{Asked, in_place, prepare_output};
use super::crash::is_undamaged;
use super::discover::{Observer, Started, normal};
use super::environment::{all_for_wrapper, empty_for_compiles, relevant_if_traced};
use super::files::{LocalFile, input_path, nar_of_file, object_name};
use super::host::HostCompiler;
use super::index::Child;
use super::inputs::{InputFile, LISTED_MTIME, absolute, base_name};
use super::memo::Declared;
use super::outcome::InPlace;
use super::records::{Query, Record};
use super::renaming::Renaming;
use super::reply::{Unusable, contents, in_memory, read_content, reply};
use super::run::{ChildRequest, IsGone, NewInput, Origin};
use super::stand_in::{Refusal, Which};
use super::tools::{find_program, path_without_shims};
use super::tree::{Found, Layout, Walker, split_last};
use super::trial::{self, Comparison};
use super::view::View;
use crate::error::{BuildError, environment};
use crate::log::LogTail;

/// A response file is no longer than this.
const RESPONSE_FILE_MAX: usize = 4 << 20;

/// How often one who waits for its turn is asked whether it still does.
const POLL: Duration = Duration::from_millis(100);

/// A call that names more than this is no probe. Whatever succeeds with a hash in its words is run
/// twice and more, which links do, and most of them have the hash in their result.
const PROBE_BYTES_MAX: u64 = 64 << 10;

/// More than this of one file is not searched for made-up names.
const SEARCHED_BYTES_MAX: u64 = 64 << 20;

/// Shapes that are being discovered, each by one at a time.
#[derive(Default)]
pub struct Turns {
    taken: Mutex<HashSet<Hash>>,
    ended: Condvar,
}

struct Turn<'a>(&'a Turns, Hash);

impl Turns {
    /// Waits until nobody else discovers this shape; `None` if the caller is gone.
    fn take(&self, shape: &Hash, is_gone: IsGone<'_>) -> Option<Turn<'_>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        while taken.contains(shape) {
            if is_gone() {
                return None;
            }
            (taken, _) = self
                .ended
                .wait_timeout(taken, POLL)
                .unwrap_or_else(PoisonError::into_inner);
        }
        taken.insert(*shape);
        Some(Turn(self, *shape))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.remove(&self.1);
        self.0.ended.notify_all();
    }
}

/// A call that is to be traced.
pub(super) struct Traceable<'a> {
    pub(super) asked: &'a Asked<'a>,
    pub(super) facts: Traced,
    pub(super) command: Command,
    /// The child's name.
    pub(super) name: String,
    /// What its program consists of, if that is the host's.
    pub(super) host: Option<Arc<HostCompiler>>,
    /// Store paths that it needs whatever it looks up.
    pub(super) tools: BTreeSet<StorePath>,
    /// The files that it replaces, absolute.
    pub(super) outputs: HashSet<Vec<u8>>,
    /// One of them that is there, as it was named.
    pub(super) older: Option<Vec<u8>>,
    /// What a call of any program declares.
    pub(super) declared: Option<Declared>,
    /// Names of the call that are others in its command, and in its child.
    pub(super) renaming: Option<Renaming>,
    pub(super) shape: Hash,
}

/// Finds or builds the child of a call for which a scan gave no answer.
pub(super) fn answer(asked: &Asked<'_>) -> Result<(Done, Origin), InPlace> {
    match answer_with_other_names(asked, Renaming::default())? {
        Some(answer) => Ok(answer),
        None => answer_of(asked, || prepare(asked, None)),
    }
}

/// The same, by a child with others for these names and the hashes of the outer derivation's own
/// outputs, if there are any. `None` if that child cannot stand for the call, which is counted.
pub(super) fn answer_with_other_names(
    asked: &Asked<'_>,
    names: Renaming,
) -> Result<Option<(Done, Origin)>, InPlace> {
    let is_renamed = Cell::new(false);
    let answer = answer_of(asked, || {
        let traceable = prepare(asked, Some(names))?;
        is_renamed.set(traceable.renaming.is_some());
        Ok(traceable)
    });
    match answer {
        Err(reason) if reason == NOT_RENAMED => Ok(None),
        Err(reason) if is_renamed.get() && !asked.is_settled(&reason) => {
            asked.caller.count_not_shared(reason.name());
            Ok(None)
        }
        answer => answer.map(Some),
    }
}

/// A file that it reads has the name in it, or something asks for it that cannot know it.
pub(super) const NAME_IN_INPUT: InPlace = InPlace::new("name-in-input");
/// Its result has the name in it, and is no text.
const NAME_IN_RESULT: InPlace = InPlace::new("name-in-result");
/// With another name the result is another one.
const NAME_MATTERS: InPlace = InPlace::new("name-matters");
/// A call with made-up names has to keep them.
const NOT_RENAMED: InPlace = InPlace::new("not-renamed");

/// Reasons of the observer's that follow from what the view holds, and from the tool.
const LASTING: &[&str] = &[
    "changed-input",
    "modification-time",
    "name-in-input",
    "script-reads",
    "unseen-lookup",
];
/// Finds or builds the child of a call of which this is what is to be traced.
pub(super) fn answer_of<'a>(
    asked: &'a Asked<'a>,
    prepare: impl FnOnce() -> Result<Traceable<'a>, InPlace>,
) -> Result<(Done, Origin), InPlace> {
    let looking = take_turn_to_look(asked)?;
    let traceable = prepare()?;
    // A build's sandbox shows all that the build sees. Of a store that the host sees it shows what
    // belongs to the program; who finds anything else there runs in place.
    let shown = match asked.tree().is_host() {
        false => None,
        true => Some(asked.executor.closure(&traceable.tools)),
    };
    let shown = shown.transpose().map_err(|_| InPlace::new("no-closure"))?;
    let is_input = |path: &StorePath| match &shown {
        Some(shown) => shown.contains(path),
        None => asked.caller.is_allowed(path),
    };
    if let Some(answer) = traceable.known_answer(&is_input)? {
        return Ok(answer);
    }
    drop(looking);
    let gone = || InPlace::new("caller-gone");
    let turns = &asked.executor.turns;
    let turn = turns
        .take(&traceable.shape, asked.is_gone)
        .ok_or_else(gone)?;
    // The one before may have left what is needed.
    let looking = take_turn_to_look(asked)?;
    if let Some(answer) = traceable.known_answer(&is_input)? {
        return Ok(answer);
    }
    drop(looking);
    let token = asked
        .executor
        .child_tokens
        .take(asked.is_gone)
        .ok_or_else(gone)?;
    let begin = Instant::now();
    let mut found = traceable.discover(&is_input)?;
    let took = begin.elapsed();
    let child = found.child.clone();
    // A second child has to have its own, and whoever makes a call itself takes what time it likes.
    drop(token);
    if traceable.renaming.is_some() {
        found = traceable.compare_with_second(found)?;
    }
    if child.result.status == Some(0) {
        traceable.keep(found)?;
    } else {
        drop(turn);
        traceable.try_in_place(found)?;
    }
    match traceable.conclude(&child) {
        Ok(done) => Ok((done, Origin::Built { took })),
        Err(Unusable::Reason(reason)) => Err(reason),
        Err(Unusable::Gone) => Err(InPlace::new("child-unreadable")),
    }
}

/// What stands in a listed directory for a file that nobody has looked at.
fn empty_file(store_dir: &StoreDir) -> StorePath {
    input_path(store_dir, &nar_of_file(b"").0, b"listed")
}

/// The look at the inputs is work, and holds what it reads.
fn take_turn_to_look<'a>(asked: &Asked<'a>) -> Result<crate::tokens::Token<'a>, InPlace> {
    asked
        .executor
        .call_tokens
        .take(asked.is_gone)
        .ok_or_else(|| InPlace::new("caller-gone"))
}

fn prepare<'a>(asked: &'a Asked<'a>, renaming: Option<Renaming>) -> Result<Traceable<'a>, InPlace> {
    let executor = asked.executor;
    let is_input = |path: &StorePath| asked.caller.is_allowed(path);
    let mut walker = Walker::new(asked.tree(), &executor.store_tree, &is_input);
    let cwd = asked.find_cwd(&mut walker)?;
    let program = find_program(executor, &mut walker, asked.call, &asked.env)?;
    args::traced_environment(&asked.call.env).map_err(|reason| in_place(&reason))?;
    let mut read = |path: &[u8]| match walker.look(&cwd, path) {
        Ok(Found::LocalFile(file)) => {
            let file_facts = executor.memory.local(asked.tree(), &file).ok()?;
            let bytes = executor
                .memory
                .bytes(asked.tree(), &file, &file_facts)
                .ok()?;
            (bytes.len() <= RESPONSE_FILE_MAX).then(|| bytes.to_vec())
        }
        _ => None,
    };
    let facts = args::traced(program.tool, &asked.call.argv, &mut read)
        .map_err(|reason| in_place(&reason))?;
    let mut env = relevant_if_traced(&asked.env, program.words.as_ref());
    if program.is_nixpkgs && program.tool == Tool::Compiler && !facts.links() {
        empty_for_compiles(&mut env);
    }
    if program.reads_anything {
        env.extend(all_for_wrapper(&asked.env));
    }
    let path = match &program.host {
        Some(host) => Some(host.path.clone()),
        None => path_without_shims(
            &asked.env,
            executor.store_dir(),
            executor.shims_package_path().as_ref(),
        ),
    };
    env.extend(path.map(|path| (b"PATH".to_vec(), path)));
    let env = asked.with_directories(&mut walker, &cwd, env)?;
    let mut older = None;
    let mut outputs = HashSet::new();
    for output in &facts.outputs {
        if prepare_output(&mut walker, &cwd, output)? {
            older.get_or_insert_with(|| output.clone());
        }
        outputs.insert(normal(&absolute(&cwd, output)));
    }
    let command = Command {
        exe: program.exec_path.clone(),
        argv: match program.tool {
            Tool::Compiler => asked.child_argv(&program.exec_path),
            // These begin their messages with the name by which they were called.
            Tool::Linker | Tool::Assembler => asked.argv_with_name(&program.exec_path),
        },
        env,
        cwd: asked.call.cwd.clone(),
        ttys: [asked.call.stdout_tty, asked.call.stderr_tty],
    };
    let named = asked.named_files(&mut walker, &cwd, &outputs)?;
    let renaming = match renaming {
        Some(names) => asked.rename(names, &command, &named)?,
        None => None,
    };
    let command = match &renaming {
        Some(names) => names.command_inside(&command),
        None => command,
    };
    let mut tools = asked.named_inputs(&command);
    tools.insert(program.store_path);
    let mut text = command.manifest(Vec::new()).print();
    if renaming.is_some() {
        // Who really has these names need not know what others are refused for.
        text.extend_from_slice(b"other names\n");
    }
    for tool in &tools {
        text.extend_from_slice(tool.base_name().as_bytes());
        text.push(b'\n');
    }
    // What is certainly read: with it, a shape has few records, though a `configure` has
    // hundreds of programs by one name.
    for (_, file) in &named {
        text.extend_from_slice(file.facts.nar_hash.bytes());
    }
    let named = facts.outputs.first().or(facts.sources.first());
    let name = named.map_or(&b"call"[..], |path| base_name(path));
    let name = match &renaming {
        Some(names) => object_name(&names.inside(Which::First, name)),
        None => object_name(name),
    };
    Ok(Traceable {
        asked,
        host: program.host,
        name,
        renaming,
        shape: sha256(&text),
        command,
        tools,
        outputs,
        older,
        declared: None,
        facts,
    })
}

impl Asked<'_> {
    /// The local files that are words of the call, with their paths.
    fn named_files(
        &self,
        walker: &mut Walker<'_>,
        cwd: &[u8],
        outputs: &HashSet<Vec<u8>>,
    ) -> Result<Vec<(Vec<u8>, LocalFile)>, InPlace> {
        let mut named = Vec::new();
        for word in &self.call.argv[1..] {
            let path = normal(&absolute(cwd, word));
            if word.starts_with(b"-") || outputs.contains(&path) {
                continue;
            }
            if let Ok(Found::LocalFile(real)) = walker.look(b"/", &path) {
                let file = self.executor.memory.local(self.tree(), &real)?;
                named.push((real, file));
            }
        }
        Ok(named)
    }

    /// What of these names and the command's hashes is to be renamed, if anything; these are the
    /// files that the call names. Why not, if there is something, is counted.
    fn rename(
        &self,
        names: Renaming,
        command: &Command,
        named: &[(Vec<u8>, LocalFile)],
    ) -> Result<Option<Renaming>, InPlace> {
        let is_made_up = !names.is_empty();
        let size: u64 = named.iter().map(|(_, file)| file.facts.nar_size).sum();
        let is_small = size <= PROBE_BYTES_MAX;
        let has_list = || self.call.argv.iter().any(|word| word.starts_with(b"@"));
        if !is_made_up && (!is_small || has_list()) {
            self.count_not_shared(command, Refusal::TRACED);
            return Ok(None);
        }
        let mut renaming = match names.with_hashes(self.caller.stand_ins(), command) {
            Ok(renaming) => renaming,
            Err(refusal) => {
                self.caller.count_not_shared(refusal.name());
                None
            }
        };
        // Before a sandbox is started for it.
        if let Some(names) = &renaming
            && is_small
        {
            for (path, file) in named {
                let bytes = self.executor.memory.bytes(self.tree(), path, file)?;
                if names.are_in(&bytes) {
                    self.caller.count_not_shared(NAME_IN_INPUT.name());
                    renaming = None;
                    break;
                }
            }
        }
        match renaming {
            None if is_made_up => Err(NOT_RENAMED),
            renaming => Ok(renaming),
        }
    }
}

/// A child that is known, or why it is of no use.
type Known = Result<Arc<Child>, InPlace>;

/// A child that was discovered.
struct Discovered {
    child: Arc<Child>,
    made: Made,
    /// What its tool has asked for, in the names that it has.
    queries: Vec<Query>,
    /// Files that a scan may have missed.
    files: Vec<Vec<u8>>,
    /// The same child with second names, if it has first ones.
    second: Option<ChildRequest>,
}

impl Traceable<'_> {
    fn new_view<'v>(&'v self, is_input: &'v dyn Fn(&StorePath) -> bool) -> View<'v> {
        let hidden = self.declared.as_ref().map(|declared| &declared.hidden);
        let hidden = hidden.cloned().unwrap_or_default();
        View::new(self.asked, is_input, self.host.as_deref(), hidden)
    }

    /// Looks for a record of which all still holds.
    fn look(&self, is_input: &dyn Fn(&StorePath) -> bool) -> Result<Option<Known>, InPlace> {
        let failed = |_| InPlace::new("index-failed");
        let executor = self.asked.executor;
        let records = executor
            .workplace()
            .records
            .get(&self.shape)
            .map_err(failed)?;
        for record in records.iter() {
            let Some(made) = self.asked_again(record, is_input) else {
                continue;
            };
            if made.path != record.drv {
                continue;
            }
            if let Some(reason) = &record.refused {
                return Ok(Some(Err(InPlace::named(reason.clone()))));
            }
            if let Some(child) = executor.known_child(&record.drv)? {
                return Ok(Some(Ok(child)));
            }
        }
        Ok(None)
    }

    /// The child that follows from what a record asked for, as it is now.
    fn asked_again(&self, record: &Record, is_input: &dyn Fn(&StorePath) -> bool) -> Option<Made> {
        let mut view = self.new_view(is_input);
        for query in &record.queries {
            let query = match &self.renaming {
                Some(names) => names.query_outside(query)?,
                None => query.clone(),
            };
            view.ask(query).ok()?;
        }
        let (made, _) = self.child_of(&view, Which::First).ok()?;
        Some(made)
    }

    /// The child of what a view holds, and the view's files. Made-up names are those of `which`.
    fn child_of(
        &self,
        view: &View<'_>,
        which: Which,
    ) -> Result<(Made, BTreeMap<Vec<u8>, InputFile>), InPlace> {
        let files = view.input_files(self.facts.preprocesses)?;
        let made = match &self.renaming {
            None => self.make(&self.command, &view.walker.layout, &files, &view.listed)?,
            Some(names) => {
                let inside = names
                    .laid_out_inside(which, &view.walker.layout, &files, &view.listed)
                    .ok_or(NAME_IN_INPUT)?;
                let command = match which {
                    Which::First => self.command.clone(),
                    Which::Second => names.command_again(&self.command),
                };
                self.make(&command, &inside.layout, &inside.files, &inside.listed)?
            }
        };
        Ok((made, files))
    }

    /// The child of this command, where these are laid out.
    fn make(
        &self,
        command: &Command,
        layout: &Layout,
        files: &BTreeMap<Vec<u8>, InputFile>,
        listed: &BTreeSet<Vec<u8>>,
    ) -> Result<Made, InPlace> {
        let (mut entries, mut inputs) = self.asked.lay_out(layout, files);
        if !listed.is_empty() {
            let source = empty_file(self.asked.store_dir());
            entries.extend(listed.iter().map(|path| Entry::File {
                path: path.clone(),
                mtime_seconds: LISTED_MTIME,
                source: self.asked.store_dir().display(&source).into_bytes(),
                executable: false,
            }));
            inputs.insert(source);
        }
        inputs.extend(self.tools.iter().cloned());
        let manifest = command.manifest(entries);
        self.asked.make_child(&self.name, manifest, inputs)
    }

    /// A path of the caller as the child with these names has it.
    fn inside<'p>(&self, which: Which, path: &'p [u8]) -> Cow<'p, [u8]> {
        match &self.renaming {
            Some(names) => names.inside(which, path),
            None => Cow::Borrowed(path),
        }
    }

    /// A text of the child as its caller has it.
    pub(super) fn outside<'t>(&self, text: &'t [u8]) -> Cow<'t, [u8]> {
        match &self.renaming {
            Some(names) => names.outside(text),
            None => Cow::Borrowed(text),
        }
    }

    /// What a view was asked for, in the child's names.
    fn queries_of(&self, view: View<'_>) -> Vec<Query> {
        let queries = view.into_queries();
        match &self.renaming {
            Some(names) => {
                let inside = |query| names.query_inside(query);
                queries.into_iter().map(inside).collect()
            }
            None => queries,
        }
    }

    /// Runs the call and lays out what it looks up.
    fn discover(&self, is_input: &dyn Fn(&StorePath) -> bool) -> Result<Discovered, InPlace> {
        let executor = self.asked.executor;
        let mut view = self.new_view(is_input);
        // What has to be there before the tool starts.
        view.ask(Query::Path(self.asked.call.cwd.clone()))?;
        for output in &self.outputs {
            view.ask(Query::Path(split_last(output).0.to_vec()))?;
        }
        if let Some(declared) = &self.declared {
            declared.begin(&mut view)?;
        }
        let (first, _) = self.child_of(&view, Which::First)?;
        let text = executor.store_dir().display(&first.path);
        let failed = |error: BuildError| executor.not_run(&first.path, &error, self.asked.is_gone);
        executor.check_inputs(&first.drv.input_srcs)?;
        let place = executor.child_place(&first).map_err(failed)?;
        let mut visible = executor
            .closure(&first.drv.input_srcs)
            .map_err(environment(&text, "query the input closure"))
            .map_err(failed)?;
        visible.extend(self.asked.caller.allowed());
        let mut sandbox = executor.child_sandbox(&first, &place, &visible);
        sandbox.watched = true;
        let kill = AtomicBool::new(false);
        let is_gone = self.asked.is_gone;
        let is_unwanted = || kill.load(Ordering::Acquire) || is_gone();
        let observer = Observer::new(
            self.asked,
            &mut view,
            self.outputs
                .iter()
                .map(|output| self.inside(Which::First, output).into_owned())
                .collect(),
            &place,
            &self.command.env,
            self.declared.as_ref(),
            self.renaming.as_ref(),
        );
        let (tell, told) = mpsc::channel();
        let mut root = None;
        let (observed, ran) = std::thread::scope(|scope| {
            let running = scope.spawn(|| {
                executor.run_sandbox(&text, sandbox, &is_unwanted, |running| {
                    root = Some(running.root().try_clone_to_owned());
                    if let Some(started) = Started::of(running) {
                        // The observer waits for it.
                        let _ = tell.send(started);
                    }
                    drop(tell);
                })
            });
            let observed = observer.run(&told, &kill);
            let ran = running.join();
            (observed, ran)
        });
        let ran = ran.map_err(|_| InPlace::new("child-lost"))?;
        let refused = match observed {
            Ok(texts) => self.depends_on_time(&mut view, &texts)?,
            Err(reason) => Some(reason),
        };
        let log = match (ran, &refused) {
            (Ok(log), _) => log,
            // It was killed for that.
            (Err(_), Some(reason)) if !LASTING.contains(&reason.name()) => {
                return Err(reason.clone());
            }
            (Err(_), Some(_)) => LogTail::default(),
            (Err(error), None) => return Err(failed(error)),
        };
        let (made, files) = self.child_of(&view, Which::First)?;
        if let Some(reason) = refused {
            return self.refuse(&made, self.queries_of(view), reason);
        }
        let request = self.request(&made, &view, &files, Which::First)?;
        executor.add_child_inputs(&request).map_err(failed)?;
        executor.check_inputs(&made.drv.input_srcs)?;
        let output = {
            let _lock = executor.lock_child(&made.path, is_gone).map_err(failed)?;
            let known = executor
                .known_outputs(&made.path, &made.drv)
                .map_err(failed)?;
            match known.get("out") {
                Some(output) if !is_undamaged(&executor.store, output) => {
                    return Err(InPlace::new("child-damaged"));
                }
                Some(output) => output.clone(),
                None => {
                    let candidates = executor
                        .closure(&made.drv.input_srcs)
                        .map_err(environment(&text, "query the input closure"))
                        .map_err(failed)?;
                    executor
                        .take_child(&made, candidates, &place, root, &log)
                        .map_err(failed)?
                }
            }
        };
        let result = executor
            .read_result(&output)
            .ok_or_else(|| InPlace::new("child-unreadable"))?;
        if result.status.is_none() {
            return self.refuse(&made, self.queries_of(view), InPlace::new("child-odd"));
        }
        if let Some(declared) = &self.declared {
            declared.count_others(self.asked, view.files.keys());
        }
        let second = match self.renaming {
            Some(_) => {
                let (made, files) = self.child_of(&view, Which::Second)?;
                Some(self.request(&made, &view, &files, Which::Second)?)
            }
            None => None,
        };
        Ok(Discovered {
            child: Arc::new(Child { output, result }),
            made,
            files: view.files.keys().cloned().collect(),
            queries: self.queries_of(view),
            second,
        })
    }

    /// Runs a child with second names, and refuses one with first names that has left something
    /// else, or names where they cannot be replaced.
    fn compare_with_second(&self, mut found: Discovered) -> Result<Discovered, InPlace> {
        let (Some(names), Some(second)) = (&self.renaming, found.second.take()) else {
            return Ok(found);
        };
        let first = self.left_by(&found.child)?;
        let is_text = |file: &LeftFile| self.facts.is_for_people(&file.path);
        let is_in_result = |first: &ChildLeft| {
            let mut files = first.files.iter();
            files.any(|file| names.have_firsts_in(&file.content) && !is_text(file))
        };
        match &first {
            Some(first) if !is_in_result(first) => {}
            _ => return self.refuse(&found.made, found.queries, NAME_IN_RESULT),
        }
        let executor = self.asked.executor;
        let path = second.made.path.clone();
        let (again, _) = executor.child(&path, self.asked.is_gone, || Ok(second))?;
        // Nobody else asks for it.
        executor
            .workplace()
            .index
            .set_aside(&path)
            .map_err(|_| InPlace::new("index-failed"))?;
        let again = self.left_by(&again)?;
        let is_same = first
            .zip(again)
            .is_some_and(|(first, again)| self.is_same_but_for_names(names, &first, &again));
        match is_same {
            true => Ok(found),
            false => self.refuse(&found.made, found.queries, NAME_MATTERS),
        }
    }

    /// Whether a child with second names has left what one with first names has.
    fn is_same_but_for_names(
        &self,
        names: &Renaming,
        first: &ChildLeft,
        second: &ChildLeft,
    ) -> bool {
        let dirs = trial::temporary_dirs(self.asked);
        let printed = first.printed.iter().zip(&second.printed);
        let mut printed = printed.map(|(first, second)| {
            trial::is_same_but_for_temporaries(&names.again(first), second, &dirs)
        });
        first.status == second.status
            && printed.all(|is_same| is_same)
            && first.files.len() == second.files.len()
            && first.files.iter().zip(&second.files).all(|(file, again)| {
                *names.again(&file.path) == *again.path
                    && file.executable == again.executable
                    && *names.again(&file.content) == *again.content
            })
    }

    /// What a child has left; `None` if it is too much to be searched.
    fn left_by(&self, child: &Child) -> Result<Option<ChildLeft>, InPlace> {
        let unreadable = || InPlace::new("child-unreadable");
        let done = match reply(self.asked.executor, child) {
            Ok(done) => done,
            Err(Unusable::Reason(reason)) => return Err(reason),
            Err(Unusable::Gone) => return Err(unreadable()),
        };
        let read =
            |content: &OwnedFd| read_content(content, SEARCHED_BYTES_MAX).map_err(|_| unreadable());
        let (Some(stdout), Some(stderr)) = (read(&done.stdout)?, read(&done.stderr)?) else {
            return Ok(None);
        };
        let mut files = Vec::new();
        for file in done.files {
            let Some(content) = read(&file.content)? else {
                return Ok(None);
            };
            files.push(LeftFile {
                path: file.path,
                executable: file.executable,
                content,
            });
        }
        Ok(Some(ChildLeft {
            status: done.status,
            printed: [stdout, stderr],
            files,
        }))
    }

    /// Remembers a child as the call's.
    fn keep(&self, found: Discovered) -> Result<(), InPlace> {
        if found.child.result.status == Some(0) {
            self.asked.learn(found.files.iter());
        }
        self.asked
            .executor
            .workplace()
            .index
            .put(&found.made.path, found.child)
            .map_err(|_| InPlace::new("index-failed"))?;
        self.remember(&found.made, found.queries, None)
    }

    /// Has the caller make the call itself, and remembers the child as the call's if it has
    /// failed in the same way.
    fn try_in_place(&self, found: Discovered) -> Result<(), InPlace> {
        let untold = || InPlace::new("failed-untold");
        self.asked.was_tried.set(true);
        let tried = (self.asked.try_in_place)().ok_or_else(untold)?;
        let reason = match trial::compare(self, &found.child, &tried)? {
            Comparison::Same => return self.keep(found),
            Comparison::ForWant => return Err(InPlace::new("failed-for-want")),
            Comparison::Interleaved => return Err(InPlace::new("interleaved-output")),
            Comparison::OnlyHere => InPlace::new("failed-in-sandbox-only"),
            Comparison::Different => InPlace::new("failed-otherwise"),
        };
        self.refuse(&found.made, found.queries, reason)
    }

    fn request(
        &self,
        made: &Made,
        view: &View<'_>,
        files: &BTreeMap<Vec<u8>, InputFile>,
        which: Which,
    ) -> Result<ChildRequest, InPlace> {
        let mut contents = Vec::new();
        if !view.listed.is_empty() {
            contents.push(NewInput {
                path: empty_file(self.asked.store_dir()),
                nar: nar_of_file(b""),
                bytes: Arc::from([]),
            });
        }
        for (path, input) in files {
            let facts = &input.file.facts;
            let name = self.inside(which, path);
            let store_path = input_path(self.asked.store_dir(), &facts.nar_hash, base_name(&name));
            if self.asked.executor.held.has(&store_path) {
                continue;
            }
            let memory = &self.asked.executor.memory;
            let bytes = memory.bytes(self.asked.tree(), path, &view.files[path])?;
            contents.push(NewInput {
                path: store_path,
                nar: (facts.nar_hash, facts.nar_size),
                bytes,
            });
        }
        Ok(ChildRequest {
            made: made.clone(),
            files: contents,
        })
    }

    /// Why the result depends on the time, if it does.
    fn depends_on_time(
        &self,
        view: &mut View<'_>,
        store_texts: &BTreeSet<Vec<u8>>,
    ) -> Result<Option<InPlace>, InPlace> {
        if !self.facts.preprocesses {
            return Ok(None);
        }
        let dates_are_fixed = self.command.env.contains_key(&b"SOURCE_DATE_EPOCH"[..]);
        let executor = self.asked.executor;
        let mut scans = Vec::new();
        for (path, file) in &view.files {
            scans.push(executor.memory.local_scan(self.asked.tree(), path, file)?);
        }
        for path in store_texts {
            if let Ok(Found::StoreFile(real)) = view.walker.look(b"/", path) {
                let object = view.walker.object_path(&real);
                scans.push(executor.memory.store_scan(
                    &executor.store_tree,
                    executor.store_dir(),
                    &object,
                )?);
            }
        }
        for scan in scans {
            if scan.date_time && !dates_are_fixed {
                return Ok(Some(InPlace::new("time-macro")));
            }
            if scan.timestamp || scan.dependency_pragma {
                return Ok(Some(InPlace::new("modification-time")));
            }
        }
        Ok(None)
    }

    /// Remembers that calls like this run in place as long as nothing changes.
    fn refuse<T>(&self, made: &Made, queries: Vec<Query>, reason: InPlace) -> Result<T, InPlace> {
        self.remember(made, queries, Some(reason.as_str().to_owned()))?;
        Err(reason)
    }

    fn remember(
        &self,
        made: &Made,
        queries: Vec<Query>,
        refused: Option<String>,
    ) -> Result<(), InPlace> {
        let record = Record {
            drv: made.path.clone(),
            queries,
            refused,
        };
        self.asked
            .executor
            .workplace()
            .records
            .put(&self.shape, record)
            .map_err(|_| InPlace::new("index-failed"))
    }

    /// The answer of a child that is known, and is still there.
    fn known_answer(
        &self,
        is_input: &dyn Fn(&StorePath) -> bool,
    ) -> Result<Option<(Done, Origin)>, InPlace> {
        let Some(known) = self.look(is_input)? else {
            return Ok(None);
        };
        let child = known?;
        match self.conclude(&child) {
            Ok(done) => Ok(Some((done, Origin::Reused))),
            Err(Unusable::Reason(reason)) => Err(reason),
            // It was collected, or the store was changed by hand.
            Err(Unusable::Gone) => Ok(None),
        }
    }

    /// The answer that a child gives.
    fn conclude(&self, child: &Child) -> Result<Done, Unusable> {
        let mut done = reply(self.asked.executor, child)?;
        if let Some(names) = &self.renaming {
            put_back(names, &mut done)
                .map_err(|_| Unusable::Reason(InPlace::new("copy-failed")))?;
        }
        if let (Some(older), 1..) = (&self.older, done.status) {
            // A compiler that fails removes an older object, and answers hold no removals.
            return Err(Unusable::Reason(InPlace::with_detail(
                "failed-with-older-output",
                older.as_bstr(),
            )));
        }
        Ok(done)
    }
}

/// A file that a child has left.
struct LeftFile {
    path: Vec<u8>,
    executable: bool,
    content: Vec<u8>,
}

/// What a child has left.
struct ChildLeft {
    status: u8,
    /// On standard output and standard error.
    printed: [Vec<u8>; 2],
    files: Vec<LeftFile>,
}

/// Puts the caller's own names in place of first ones.
fn put_back(names: &Renaming, done: &mut Done) -> std::io::Result<()> {
    for file in &mut done.files {
        file.path = names.outside(&file.path).into_owned();
    }
    for content in contents(done) {
        // Larger ones were not compared, and are not remembered.
        if let Some(bytes) = read_content(content, SEARCHED_BYTES_MAX)?
            && let Cow::Owned(restored) = names.outside(&bytes)
        {
            *content = in_memory(&restored)?;
        }
    }
    Ok(())
}
