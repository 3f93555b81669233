//! A plain compile: its inputs are found by scanning its sources.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use shim_core::args::{self, Classification, Compile, Language};
use shim_core::manifest;
use shim_core::protocol::Done;
use store_types::sha256;

use super::assemble::Command;
use super::call::{Asked, in_place, prepare_output};
use super::files::{input_path, object_name};
use super::index::Child;
use super::inputs::{Search, absolute, base_name, collect};
use super::outcome::InPlace;
use super::run::{ChildRequest, Origin};
use super::tools::{Compiler, find_compiler, parse_search_dirs};
use super::tree::{BUILD_DIR, Found, Walker};
use crate::Executor;

/// What a compiler says of its search path is no longer than this.
const SEARCH_TEXT_MAX: u64 = 1 << 20;

/// Finds or builds the child of a compile; other calls are refused.
pub(super) fn answer(asked: &Asked<'_>) -> Result<(Done, Origin), InPlace> {
    let Asked {
        executor,
        caller,
        call,
        env,
        is_gone,
    } = asked;
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
    let shims = executor.shims_package_path();
    let compiler = find_compiler(
        &mut walker,
        store_dir,
        &executor.store_tree,
        shims.as_ref(),
        call,
        env,
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
    let kept = asked.child_environment(&mut walker, &compiler, &cwd)?;
    let builtin = search_dirs(asked, &compiler, &compile, &kept)?;
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
    let command = Command {
        exe: compiler.exec_path.clone(),
        argv: asked.child_argv(&compiler.exec_path),
        env: kept,
        cwd: call.cwd.clone(),
        ttys: [call.stdout_tty, call.stderr_tty],
    };
    let (entries, mut inputs) = asked.lay_out(&walker.layout, &files);
    inputs.insert(compiler.store_path.clone());
    inputs.extend(asked.named_inputs(&command));
    let name = object_name(base_name(&absolute(&cwd, &compile.object)));
    let made = asked.make_child(&name, &command.manifest(entries), inputs)?;
    let request = || {
        let mut contents = Vec::new();
        for (path, input) in &files {
            let store_path = input_path(store_dir, &input.file.facts.nar_hash, base_name(path));
            contents.push((store_path, executor.memory.bytes(tree, path, &input.file)?));
        }
        Ok(ChildRequest {
            made: made.clone(),
            files: contents,
        })
    };
    drop(looking);
    let (done, origin) = asked.answer_by(&made.path, request)?;
    if done.status != 0 {
        // Perhaps only for lack of an input; and a compiler that fails removes an older
        // object.
        return Err(InPlace::new(match is_there {
            true => "failed-with-older-output",
            false => "child-failed",
        }));
    }
    Ok((done, origin))
}

fn classify(argv: &[Vec<u8>]) -> Result<Compile, InPlace> {
    match args::classify(argv) {
        Classification::Compile(compile) => Ok(*compile),
        Classification::InPlace(reason) => Err(in_place(&reason)),
    }
}

/// The directories that the compiler searches by itself. The question is a child,
/// too, so it is asked once for each compiler, environment and set of flags.
fn search_dirs(
    asked: &Asked<'_>,
    compiler: &Compiler,
    compile: &Compile,
    env: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> Result<Vec<Vec<u8>>, InPlace> {
    if compile.language.is_preprocessed() {
        return Ok(Vec::new());
    }
    let executor = asked.executor;
    let mut argv = vec![compiler.exec_path.clone()];
    argv.extend(compile.search_flags.iter().cloned());
    for word in ["-x", compile.language.name(), "-E", "-v", "/dev/null"] {
        argv.push(word.as_bytes().to_vec());
    }
    // Where temporary files lie does not matter here, but would multiply the question.
    let is_about_files =
        |name: &[u8]| matches!(name, b"TMPDIR" | b"TMP" | b"TEMP" | b"PWD" | b"TERM");
    let command = Command {
        exe: compiler.exec_path.clone(),
        argv,
        env: env
            .iter()
            .filter(|(name, _)| !is_about_files(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        cwd: BUILD_DIR.to_vec(),
        ttys: [None, None],
    };
    let mut inputs = BTreeSet::from([compiler.store_path.clone()]);
    inputs.extend(asked.named_inputs(&command));
    let manifest = command.manifest(Vec::new());
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
    let made = asked.make_child("search-path", &manifest, inputs)?;
    let (child, _) = executor.child(&made.path, asked.is_gone, || {
        Ok(ChildRequest {
            made: made.clone(),
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
