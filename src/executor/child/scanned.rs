//! A plain compile: its inputs are found by scanning its sources.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use shim_core::args::{self, Classification, Compile, Language};
use shim_core::manifest;
use shim_core::protocol::Done;
use store_types::{StorePath, sha256};

use super::assemble::{Command, Made};
use super::call::{Asked, in_place, prepare_output};
use super::files::{input_path, object_name};
use super::host::HostKind;
use super::index::Child;
use super::inputs::{InputFile, Search, absolute, base_name, collect};
use super::outcome::InPlace;
use super::recall;
use super::run::{ChildRequest, NewInput, Origin};
use super::stand_in::home::{Home, Searched};
use super::stand_in::{Refusal, Which};
use super::tools::{Compiler, SearchPath, find_compiler, parse_search_path};
use super::tree::{BUILD_DIR, Found, Layout, Walker};
use crate::Executor;

/// What a compiler says of its search path is no longer than this.
const SEARCH_TEXT_MAX: u64 = 1 << 20;

/// Whoever waits for a child that takes longer to fail than this does not wait for more than the
/// compiler itself; if the same fails again, it is found out why.
const FAILURE_MAX: Duration = Duration::from_secs(1);

/// Finds or builds the child of a compile; other calls are refused.
pub(super) fn answer(asked: &Asked<'_>) -> Result<(Done, Origin), InPlace> {
    let Asked {
        executor,
        caller,
        call,
        env,
        is_gone,
        ..
    } = asked;
    if let Some(answer) = recall::answer(asked) {
        return Ok(answer);
    }
    // The look at the inputs is work, and holds what it reads.
    let looking = executor
        .call_tokens
        .take(is_gone)
        .ok_or_else(|| InPlace::new("caller-gone"))?;
    let tree = asked.tree();
    let is_input = |path: &_| caller.is_allowed(path);
    let mut walker = Walker::new(tree, &executor.store_tree, &is_input);
    let store_dir = executor.store_dir();
    let cwd = asked.find_cwd(&mut walker)?;
    let before = walker.layout.clone();
    let compiler = find_compiler(executor, &mut walker, call, env)?;
    let mut searched = Searched::compiler(&before, &walker.layout);
    // Other libraries do not read these.
    for name in ["LOCALE_ARCHIVE", "LOCALE_ARCHIVE_2_27"] {
        let is_elsewhere =
            |file: &Vec<u8>| !file.starts_with(executor.store_dir().as_str().as_bytes());
        if compiler.host.is_none() && env.get(name.as_bytes()).is_some_and(is_elsewhere) {
            return Err(InPlace::with_detail("environment", name));
        }
    }
    let compile = classify(&compiler.effective_argv)?;
    let outer = args::environment(&call.env, compile.language, store_dir.as_str().as_bytes())
        .map_err(|reason| in_place(&reason))?;
    // Where the compiler finds its own parts must be what it is for ever.
    for dir in compile.tool_dirs.iter().chain(&compile.sysroots) {
        match walker.find(&cwd, dir)? {
            Found::Dir(real) if !walker.is_local(&real) => {}
            // Any file that begins like it would count.
            Found::Missing if dir.starts_with(b"/") && !walker.is_local(dir) => {}
            _ => return Err(InPlace::new("tools-in-build")),
        }
    }
    let kept = asked.child_environment(&mut walker, &compiler, &cwd)?;
    let builtin = search_dirs(asked, &mut walker, &compiler, &compile, &kept)?;
    let mut dirs: Vec<Vec<u8>> = compile.include_dirs().map(<[u8]>::to_vec).collect();
    dirs.extend(outer.bracket_dirs);
    dirs.extend(outer.system_dirs);
    dirs.extend(builtin);
    let mut is_there = false;
    for output in compile.outputs() {
        is_there |= prepare_output(&mut walker, &cwd, output)?;
    }
    let forced: Vec<Vec<u8>> = compile
        .includes
        .iter()
        .chain(&compile.imacros)
        .cloned()
        .collect();
    let files = collect(
        &mut walker,
        &executor.store_tree,
        &executor.memory,
        store_dir,
        &Search {
            cwd: &cwd,
            sources: &compile.sources,
            forced: &forced,
            dirs: &dirs,
            argv: &compiler.effective_argv,
            is_cxx: matches!(compile.language, Language::Cxx | Language::PreprocessedCxx),
            dates_are_fixed: kept.contains_key(&b"SOURCE_DATE_EPOCH"[..]),
        },
    )?;
    let left_in = compile.outputs().map(parent_of);
    let named = dirs.iter().map(Vec::as_slice).chain(left_in);
    searched.add(&mut walker, &cwd, named);
    // A header that is written anew: whoever watches sees that it was read before.
    let is_input = |output: &[u8]| files.contains_key(&absolute(&cwd, output));
    if compile.preprocess_only && compile.outputs().any(is_input) {
        return Err(InPlace::new("output-is-an-input"));
    }
    let command = Command {
        exe: compiler.exec_path.clone(),
        argv: asked.child_argv(&compiler.exec_path),
        env: kept,
        cwd: call.cwd.clone(),
        ttys: [call.stdout_tty, call.stderr_tty],
    };
    // What goes to standard output has the name of what it was made from.
    let named = compile.object.as_ref().or(compile.sources.first());
    let name = object_name(base_name(&absolute(
        &cwd,
        named.map_or(b"call", Vec::as_slice),
    )));
    let mut scanned = Scanned {
        asked,
        name,
        compiler: compiler.store_path.clone(),
        layout: std::mem::take(&mut walker.layout),
        command,
        files,
    };
    // Whose text would have to be edited, and has no sections that tell where that is safe.
    let stand_ins = (!compile.preprocess_only).then(|| caller.stand_ins());
    let mut home = None;
    if let Some(stand_ins) = stand_ins {
        scanned.search(stand_ins)?;
        let argv = &compiler.effective_argv;
        home = Home::of(stand_ins, &scanned, &compile, argv, &searched)?;
    }
    for input in scanned.files.values_mut() {
        // Many calls may wait; the few that run read again, and compare.
        input.file.bytes = None;
    }
    drop(looking);
    let search = recall::Search::of(&executor.memory, &walker, &scanned.files);
    let shared = match stand_ins {
        Some(stand_ins) => scanned.answer_with_stand_ins(stand_ins, &compile, home)?,
        None => None,
    };
    let (done, origin) = match shared {
        Some(shared) => {
            recall::remember(asked, search, &compiler, &cwd, shared.drv_path, shared.home);
            (shared.done, shared.origin)
        }
        None => {
            let made = scanned.make(&scanned.command, &scanned.files, None)?;
            recall::remember(asked, search, &compiler, &cwd, made.path.clone(), None);
            scanned.answer_by(&made, &scanned.files, None, Ok)?
        }
    };
    if done.status != 0 {
        let _ = asked.scanned.set(scanned.files.keys().cloned().collect());
        // Perhaps only for lack of an input; and a compiler that fails removes an older
        // object.
        return Err(InPlace::new(match origin {
            _ if is_there => "failed-with-older-output",
            Origin::Built { took } if took > FAILURE_MAX => "failed-slowly",
            _ => "child-failed",
        }));
    }
    if compile.preprocess_only {
        asked.count_not_shared(&scanned.command, Refusal::PREPROCESSED);
    }
    Ok((done, origin))
}

/// A compile of which all inputs are known.
pub(super) struct Scanned<'a> {
    pub(super) asked: &'a Asked<'a>,
    /// The child's name.
    name: String,
    /// The store object of the compiler.
    compiler: StorePath,
    pub(super) layout: Layout,
    pub(super) command: Command,
    /// The local files, by their paths.
    pub(super) files: BTreeMap<Vec<u8>, InputFile>,
}

impl Scanned<'_> {
    /// The content of one of the files, if it is still the same.
    pub(super) fn bytes(&self, path: &[u8], input: &InputFile) -> Result<Arc<[u8]>, InPlace> {
        let memory = &self.asked.executor.memory;
        memory.bytes(self.asked.tree(), path, &input.file)
    }

    /// The child's derivation with this command and these files, perhaps in another directory.
    pub(super) fn make(
        &self,
        command: &Command,
        files: &BTreeMap<Vec<u8>, InputFile>,
        moved: Option<(&Home, Which)>,
    ) -> Result<Made, InPlace> {
        let asked = self.asked;
        let (mut entries, mut inputs) = asked.lay_out(&self.layout, files);
        inputs.insert(self.compiler.clone());
        inputs.extend(asked.named_inputs(command));
        let manifest = match moved {
            None => command.manifest(entries),
            Some((home, which)) => {
                let mut command = command.clone();
                home.move_child(&mut command, &mut entries, which);
                command.manifest(entries)
            }
        };
        asked.make_child(&self.name, manifest, inputs)
    }

    /// Finds or builds a child that [`Self::make`] gave; its files are told where they are for
    /// the caller. `edit` makes of the content of each file what `files` says that it is.
    pub(super) fn answer_by(
        &self,
        made: &Made,
        files: &BTreeMap<Vec<u8>, InputFile>,
        moved: Option<(&Home, Which)>,
        edit: impl Fn(Arc<[u8]>) -> Result<Arc<[u8]>, InPlace>,
    ) -> Result<(Done, Origin), InPlace> {
        let store_dir = self.asked.store_dir();
        let (mut done, origin) = self.asked.answer_by(&made.path, || {
            let mut contents = Vec::new();
            for ((path, input), edited) in self.files.iter().zip(files.values()) {
                let facts = &edited.file.facts;
                let store_path = input_path(store_dir, &facts.nar_hash, base_name(path));
                if self.asked.executor.held.has(&store_path) {
                    continue;
                }
                contents.push(NewInput {
                    path: store_path,
                    nar: (facts.nar_hash, facts.nar_size),
                    bytes: edit(self.bytes(path, input)?)?,
                });
            }
            Ok(ChildRequest {
                made: made.clone(),
                files: contents,
            })
        })?;
        if let Some((home, which)) = moved {
            home.move_files_back(&mut done, which);
        }
        Ok((done, origin))
    }
}

/// The directory that a path names a file in; relative if the path is.
fn parent_of(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|byte| *byte == b'/') {
        None => b".",
        Some(0) => b"/",
        Some(slash) => &path[..slash],
    }
}

fn classify(argv: &[Vec<u8>]) -> Result<Compile, InPlace> {
    match args::classify(argv) {
        Classification::Compile(compile) => Ok(*compile),
        Classification::InPlace(reason) => Err(in_place(&reason)),
    }
}

/// The directories that the compiler searches by itself.
///
/// A build's compiler has them in its store object, or not at all. Those of the host's are
/// outside of it, like `/usr/include`, and the compiler passes over those that are missing: so
/// it is asked a second time where the directories are that it has missed and the caller has.
fn search_dirs(
    asked: &Asked<'_>,
    walker: &mut Walker<'_>,
    compiler: &Compiler,
    compile: &Compile,
    env: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> Result<Vec<Vec<u8>>, InPlace> {
    if compile.language.is_preprocessed() {
        return Ok(Vec::new());
    }
    let mut argv = vec![compiler.exec_path.clone()];
    argv.extend(compile.search_flags.iter().cloned());
    for word in ["-x", compile.language.name(), "-E", "-v", "/dev/null"] {
        argv.push(word.as_bytes().to_vec());
    }
    // Where temporary files lie does not matter here, but would multiply the question.
    let is_about_files =
        |name: &[u8]| matches!(name, b"TMPDIR" | b"TMP" | b"TEMP" | b"PWD" | b"TERM");
    // Nor do the hashes of the outer derivation.
    let shared = asked.caller.stand_ins().in_environment(env);
    let command = Command {
        exe: compiler.exec_path.clone(),
        argv,
        env: shared
            .iter()
            .filter(|(name, _)| !is_about_files(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        cwd: BUILD_DIR.to_vec(),
        ttys: [None, None],
    };
    if !walker.tree().is_host() {
        let path = ask_search_path(asked, compiler, &command, &Layout::default())?;
        return Ok(path.dirs.clone());
    }
    let host = compiler.host.as_ref();
    let is_clang = match host {
        Some(host) => host.kind == HostKind::Clang,
        None => memchr::memmem::find(base_name(&compiler.exec_path), b"clang").is_some(),
    };
    if is_clang {
        // It does not say what it has looked for in vain.
        return Err(InPlace::new("search-path-of-clang"));
    }
    let whole = std::mem::take(&mut walker.layout);
    if let Some(host) = host {
        walker.bind(host);
    }
    let found = find_missed(asked, walker, compiler, &command);
    let seen = std::mem::replace(&mut walker.layout, whole);
    walker.layout.dirs.extend(seen.dirs);
    walker.layout.links.extend(seen.links);
    found
}

/// Asks, and asks again with the directories that were missed; they are in the walker's
/// layout then.
fn find_missed(
    asked: &Asked<'_>,
    walker: &mut Walker<'_>,
    compiler: &Compiler,
    command: &Command,
) -> Result<Vec<Vec<u8>>, InPlace> {
    let path = ask_search_path(asked, compiler, command, &walker.layout)?;
    let mut has_missed = false;
    for dir in &path.missing {
        has_missed |= matches!(walker.find(BUILD_DIR, dir)?, Found::Dir(_));
    }
    if !has_missed {
        return Ok(path.dirs.clone());
    }
    let path = ask_search_path(asked, compiler, command, &walker.layout)?;
    Ok(path.dirs.clone())
}

/// What a compiler says of its search path where these files are. The question is a child,
/// too, so it is asked once for each compiler, environment and set of flags.
fn ask_search_path(
    asked: &Asked<'_>,
    compiler: &Compiler,
    command: &Command,
    layout: &Layout,
) -> Result<Arc<SearchPath>, InPlace> {
    let executor = asked.executor;
    let (entries, mut inputs) = asked.lay_out(layout, &BTreeMap::new());
    inputs.insert(compiler.store_path.clone());
    inputs.extend(asked.named_inputs(command));
    let manifest = command.manifest(entries);
    let key = sha256(&manifest.print());
    if let Some(known) = executor
        .search_paths
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get(&key)
    {
        return known.clone().ok_or_else(|| InPlace::new("no-search-path"));
    }
    let made = asked.make_child("search-path", manifest, inputs)?;
    let (child, _) = executor.child(&made.path, asked.is_gone, || {
        Ok(ChildRequest {
            made: made.clone(),
            files: Vec::new(),
        })
    })?;
    let path = (child.result.status == Some(0) && child.result.stderr_len <= SEARCH_TEXT_MAX)
        .then(|| read_stderr(executor, &child))
        .flatten()
        .and_then(|text| parse_search_path(&text))
        .map(Arc::new);
    executor
        .search_paths
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(key, path.clone());
    path.ok_or_else(|| InPlace::new("no-search-path"))
}

/// What a child wrote to standard error; not more than a compiler says of its search path.
pub(super) fn read_stderr(executor: &Executor, child: &Child) -> Option<Vec<u8>> {
    use std::io::Read;
    let file = executor
        .open_in_output(&child.output, manifest::STDERR.as_bytes())
        .ok()?;
    let mut text = Vec::new();
    std::fs::File::from(file)
        .take(SEARCH_TEXT_MAX)
        .read_to_end(&mut text)
        .ok()?;
    Some(text)
}
