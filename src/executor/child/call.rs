//! One compiler call: from what a shim sent to the child that answers it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};

use rustix::fs::{MemfdFlags, SealFlags};
use shim_core::args::{self, Classification, Compile, Language, Reason};
use shim_core::manifest::{self, Entry, Manifest};
use shim_core::protocol::{self, Call, Done, NewFile};
use store_types::{StorePath, sha256};

use super::derivation::{ChildParts, child_derivation};
use super::environment::relevant;
use super::files::{input_path, object_name};
use super::index::Child;
use super::inputs::{InputFile, Search, absolute, base_name, collect};
use super::outcome::InPlace;
use super::run::{ChildRequest, IsGone, Origin};
use super::tools::{
    Compiler, child_path, environment_map, find_compiler, parse_search_dirs, store_paths_named,
};
use super::tree::{BUILD_DIR, Found, Layout, Walker};
use crate::Executor;
use crate::context::Caller;

/// What a compiler says of its search path is no longer than this.
const SEARCH_TEXT_MAX: u64 = 1 << 20;

fn in_place(reason: &Reason) -> InPlace {
    match reason.detail() {
        Some(detail) => InPlace::with_detail(reason.name(), String::from_utf8_lossy(detail)),
        None => InPlace::new(reason.name()),
    }
}

/// Finds or builds the child of a call.
pub(super) fn answer(
    executor: &Arc<Executor>,
    caller: &Caller,
    call: &Call,
    is_gone: IsGone<'_>,
) -> Result<(Done, Origin), InPlace> {
    // The look at the inputs is work, and holds what it reads.
    let looking = executor
        .call_tokens
        .take(is_gone)
        .ok_or_else(|| InPlace::new("caller-gone"))?;
    let tree = caller.tree();
    let is_input = |path: &StorePath| caller.is_allowed(path);
    let mut walker = Walker::new(tree, &executor.store_tree, &is_input);
    let store_dir = executor.store_dir();
    let Found::Dir(cwd) = walker.find(b"/", &call.cwd)? else {
        return Err(InPlace::new("vanished-directory"));
    };
    if !walker.is_local(&cwd) {
        return Err(InPlace::new("outside-of-build"));
    }
    let env = environment_map(&call.env);
    let shims = executor.shims_package_path();
    let compiler = find_compiler(
        &mut walker,
        store_dir,
        &executor.store_tree,
        shims.as_ref(),
        call,
        &env,
    )?;
    let compile = classify(&compiler.effective_argv)?;
    let outer = args::environment(&call.env, compile.language, store_dir.as_str().as_bytes())
        .map_err(|reason| in_place(&reason))?;
    // Where the compiler finds its own parts must be what it is for ever.
    for dir in compile.tool_dirs.iter().chain(&compile.sysroots) {
        match walker.find(&cwd, dir)? {
            Found::Dir(real) if real.starts_with(store_dir.as_str().as_bytes()) => {}
            // Any file that begins like it would count.
            Found::Missing if dir.starts_with(b"/") && !walker.is_local(dir) => {}
            _ => return Err(InPlace::new("tools-in-build")),
        }
    }
    let kept = child_environment(&mut walker, &compiler, &cwd, &env)?;
    let builtin = search_dirs(executor, caller, &compiler, &compile, &kept, is_gone)?;
    let mut dirs: Vec<Vec<u8>> = compile.include_dirs().map(<[u8]>::to_vec).collect();
    dirs.extend(outer.bracket_dirs);
    dirs.extend(outer.system_dirs);
    dirs.extend(builtin);
    for output in compile.outputs() {
        prepare_output(&mut walker, &cwd, output)?;
    }
    let forced: Vec<Vec<u8>> = compile
        .includes
        .iter()
        .chain(&compile.imacros)
        .cloned()
        .collect();
    let mut files = collect(
        &mut walker,
        &executor.store_tree,
        &executor.memory,
        store_dir,
        &Search {
            cwd: &cwd,
            source: &compile.source,
            forced: &forced,
            dirs: &dirs,
            argv: &compiler.effective_argv,
            is_cxx: matches!(compile.language, Language::Cxx | Language::PreprocessedCxx),
            dates_are_fixed: kept.contains_key(&b"SOURCE_DATE_EPOCH"[..]),
        },
    )?;
    for input in files.values_mut() {
        // Many calls may wait; the few that run read again, and compare.
        input.file.bytes = None;
    }
    let layout = std::mem::take(&mut walker.layout);
    let mut argv = call.argv.clone();
    if !argv[0].contains(&b'/') {
        // A driver finds its parts by the path in `argv[0]`, or by `PATH` if that is a
        // bare name; this is what it would find, and does not depend on `PATH`.
        argv[0] = compiler.exec_path.clone();
    }
    let (manifest, inputs) = make_manifest(
        executor, caller, &compiler, call, argv, &kept, layout, &files,
    )?;
    let name = object_name(base_name(&absolute(&cwd, &compile.object)));
    let (drv, drv_text, drv_path) = make_child(executor, &name, &manifest, inputs)?;
    let request = || {
        let mut contents = Vec::new();
        for (path, input) in &files {
            let store_path = input_path(store_dir, &input.file.facts.nar_hash, base_name(path));
            contents.push((store_path, executor.memory.bytes(tree, path, &input.file)?));
        }
        Ok(ChildRequest {
            drv_path: drv_path.clone(),
            drv: drv.clone(),
            drv_text: drv_text.clone(),
            files: contents,
        })
    };
    drop(looking);
    let (child, origin) = executor.child(&drv_path, is_gone, request)?;
    match reply(executor, &child) {
        Ok(done) => Ok((done, origin)),
        Err(Unusable::Reason(reason)) => Err(reason),
        Err(Unusable::Gone) => {
            // It was collected, or the store was changed by hand: build it again.
            executor
                .index
                .forget(&drv_path)
                .map_err(|_| InPlace::new("index-failed"))?;
            let (child, origin) = executor.child(&drv_path, is_gone, request)?;
            match reply(executor, &child) {
                Ok(done) => Ok((done, origin)),
                Err(Unusable::Reason(reason)) => Err(reason),
                Err(Unusable::Gone) => Err(InPlace::new("child-unreadable")),
            }
        }
    }
}

fn classify(argv: &[Vec<u8>]) -> Result<Compile, InPlace> {
    match args::classify(argv) {
        Classification::Compile(compile) => Ok(*compile),
        Classification::InPlace(reason) => Err(in_place(&reason)),
    }
}

/// The environment that the child's compiler gets.
fn child_environment(
    walker: &mut Walker<'_>,
    compiler: &Compiler,
    cwd: &[u8],
    env: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, InPlace> {
    let mut kept = relevant(env, compiler.words.as_ref());
    if env.contains_key(&b"PATH"[..]) {
        kept.insert(b"PATH".to_vec(), child_path(walker, compiler, cwd, env)?);
    }
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

/// Has the directory made in which the call will leave a file.
fn prepare_output(walker: &mut Walker<'_>, cwd: &[u8], output: &[u8]) -> Result<(), InPlace> {
    let path = absolute(cwd, output);
    let (parent, name) = super::tree::split_last(&path);
    match walker.find(cwd, parent)? {
        Found::Dir(dir) if walker.is_local(&dir) && !name.is_empty() => {}
        _ => return Err(InPlace::new("output-outside-of-build")),
    }
    match walker.find(cwd, &path)? {
        Found::Missing | Found::LocalFile(_) => Ok(()),
        _ => Err(InPlace::new("output-in-the-way")),
    }
}

fn display_env(env: &BTreeMap<Vec<u8>, Vec<u8>>) -> Vec<Vec<u8>> {
    env.iter()
        .map(|(name, value)| [name.as_slice(), b"=", value].concat())
        .collect()
}

/// The manifest of a compile, and the store paths that its child needs.
#[expect(
    clippy::too_many_arguments,
    reason = "the parts of one manifest; one call site"
)]
fn make_manifest(
    executor: &Executor,
    caller: &Caller,
    compiler: &Compiler,
    call: &Call,
    argv: Vec<Vec<u8>>,
    env: &BTreeMap<Vec<u8>, Vec<u8>>,
    layout: Layout,
    files: &BTreeMap<Vec<u8>, InputFile>,
) -> Result<(Manifest, BTreeSet<StorePath>), InPlace> {
    let store_dir = executor.store_dir();
    let mut inputs = layout.store_paths;
    inputs.insert(compiler.store_path.clone());
    // Store paths that are only named, such as in `-DPREFIX=…`, are inputs if they can be.
    let named = argv
        .iter()
        .chain(env.values())
        .flat_map(|text| store_paths_named(text, store_dir));
    inputs.extend(named.filter(|path| caller.is_allowed(path)));
    let mut entries = Vec::new();
    for path in layout.dirs {
        if path != BUILD_DIR {
            entries.push(Entry::Directory { path });
        }
    }
    for (path, target) in layout.links {
        entries.push(Entry::Link { path, target });
    }
    for (path, input) in files {
        let source = input_path(store_dir, &input.file.facts.nar_hash, base_name(path));
        entries.push(Entry::File {
            path: path.clone(),
            mtime_seconds: input.mtime,
            source: store_dir.display(&source).into_bytes(),
            executable: false,
        });
        inputs.insert(source);
    }
    let manifest = Manifest {
        exe: compiler.exec_path.clone(),
        argv,
        env: display_env(env),
        cwd: call.cwd.clone(),
        stdout_tty: call.stdout_tty,
        stderr_tty: call.stderr_tty,
        layout: entries,
    };
    Ok((manifest, inputs))
}

fn make_child(
    executor: &Executor,
    name: &str,
    manifest: &Manifest,
    inputs: BTreeSet<StorePath>,
) -> Result<(store_types::Derivation, Vec<u8>, StorePath), InPlace> {
    let runner = executor
        .program("droste-runner")
        .map_err(|_| InPlace::new("runner-missing"))?;
    let text = manifest.print();
    if text.len() > manifest::MANIFEST_BYTES_MAX {
        return Err(InPlace::new("many-inputs"));
    }
    let parts = ChildParts {
        name,
        system: executor.settings.system.as_bytes(),
        runner: &runner,
        manifest: text,
        inputs,
    };
    child_derivation(executor.store_dir(), parts).map_err(|_| InPlace::new("unnameable-output"))
}

/// The directories that the compiler searches by itself. The question is a child,
/// too, so it is asked once for each compiler, environment and set of flags.
fn search_dirs(
    executor: &Arc<Executor>,
    caller: &Caller,
    compiler: &Compiler,
    compile: &Compile,
    env: &BTreeMap<Vec<u8>, Vec<u8>>,
    is_gone: IsGone<'_>,
) -> Result<Vec<Vec<u8>>, InPlace> {
    if compile.language.is_preprocessed() {
        return Ok(Vec::new());
    }
    let store_dir = executor.store_dir();
    let mut argv = vec![compiler.exec_path.clone()];
    argv.extend(compile.search_flags.iter().cloned());
    for word in ["-x", compile.language.name(), "-E", "-v", "/dev/null"] {
        argv.push(word.as_bytes().to_vec());
    }
    // Where temporary files lie does not matter here, but would multiply the question.
    let env: BTreeMap<Vec<u8>, Vec<u8>> = env
        .iter()
        .filter(|(name, _)| {
            !matches!(
                name.as_slice(),
                b"TMPDIR" | b"TMP" | b"TEMP" | b"PWD" | b"TERM"
            )
        })
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let mut inputs = BTreeSet::from([compiler.store_path.clone()]);
    let exec_path = compiler.exec_path.as_slice();
    let named = argv
        .iter()
        .map(Vec::as_slice)
        .chain(env.values().map(Vec::as_slice))
        .chain([exec_path])
        .flat_map(|text| store_paths_named(text, store_dir));
    inputs.extend(named.filter(|path| caller.is_allowed(path)));
    let manifest = Manifest {
        exe: compiler.exec_path.clone(),
        argv,
        env: display_env(&env),
        cwd: BUILD_DIR.to_vec(),
        stdout_tty: None,
        stderr_tty: None,
        layout: Vec::new(),
    };
    let key = sha256(&manifest.print());
    if let Some(known) = executor
        .search_dirs
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get(&key)
    {
        return known
            .clone()
            .map(|dirs| dirs.to_vec())
            .ok_or_else(|| InPlace::new("no-search-path"));
    }
    let (drv, drv_text, drv_path) = make_child(executor, "search-path", &manifest, inputs)?;
    let (child, _) = executor.child(&drv_path, is_gone, || {
        Ok(ChildRequest {
            drv_path: drv_path.clone(),
            drv: drv.clone(),
            drv_text: drv_text.clone(),
            files: Vec::new(),
        })
    })?;
    let dirs = (child.result.status == Some(0) && child.result.stderr_len <= SEARCH_TEXT_MAX)
        .then(|| read_stderr(executor, &child))
        .flatten()
        .and_then(|text| parse_search_dirs(&text));
    executor
        .search_dirs
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(key, dirs.clone().map(Arc::from));
    dirs.ok_or_else(|| InPlace::new("no-search-path"))
}

fn read_stderr(executor: &Executor, child: &Child) -> Option<Vec<u8>> {
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

/// A descriptor that the build may have for the content of a store's file.
///
/// A descriptor is also a way to the file's mode and, by `/proc/self/fd`, to the file
/// itself. As root, the file is root's and the build's user can do nothing with it. As an
/// ordinary user, the build's files and the store's have one owner, so the build gets
/// a sealed copy in memory.
fn to_give_away(file: OwnedFd) -> std::io::Result<OwnedFd> {
    if rustix::process::geteuid().is_root() {
        return Ok(file);
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut copy = std::fs::File::from(rustix::fs::memfd_create("output", flags)?);
    std::io::copy(&mut std::fs::File::from(file), &mut copy)?;
    std::io::Seek::rewind(&mut copy)?;
    rustix::fs::fcntl_add_seals(
        &copy,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    Ok(copy.into())
}

/// Why a child's output does not answer a call.
enum Unusable {
    /// It says so.
    Reason(InPlace),
    /// It is not there any more.
    Gone,
}

/// The answer out of a child's output.
fn reply(executor: &Executor, child: &Child) -> Result<Done, Unusable> {
    let reason = |reason| Unusable::Reason(InPlace::new(reason));
    let Some(status) = child.result.status else {
        return Err(reason("child-odd"));
    };
    if status != 0 {
        return Err(reason("child-failed"));
    }
    if child.result.files.len() > protocol::FILES_MAX {
        return Err(reason("many-outputs"));
    }
    // A file of another length has lost its end in a crash, or was changed by hand.
    let open = |relative: &[u8], len: u64| {
        let file = executor
            .open_in_output(&child.output, relative)
            .map_err(|_| Unusable::Gone)?;
        if rustix::fs::fstat(&file).map(|stat| stat.st_size as u64) != Ok(len) {
            return Err(Unusable::Gone);
        }
        to_give_away(file).map_err(|_| reason("copy-failed"))
    };
    let mut files = Vec::new();
    for file in &child.result.files {
        let inside = super::tree::join(manifest::FILES.as_bytes(), &file.path);
        files.push(NewFile {
            path: [b"/", file.path.as_slice()].concat(),
            executable: file.executable,
            content: open(&inside, file.len)?,
        });
    }
    Ok(Done {
        status,
        stdout: open(manifest::STDOUT.as_bytes(), child.result.stdout_len)?,
        stderr: open(manifest::STDERR.as_bytes(), child.result.stderr_len)?,
        files,
    })
}
