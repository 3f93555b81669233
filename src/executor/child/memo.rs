//! Calls of any program, whose caller declares what it reads and what it leaves.
//!
//! Such a call is [traced](super::traced) as compilers' are, so what it reads is known whatever
//! was declared. The declared inputs are part of its child even if it does not read them, and of
//! the declared outputs it never sees an older version: it would be an input of its own
//! successor. What it cannot have told anybody from is its business: the time, the files' times
//! and owners, random numbers, the network (a child has none).

use std::collections::{BTreeMap, BTreeSet, HashSet};

use shim_core::args::Traced;
use shim_core::protocol::{Done, Memo};
use store_types::sha256;

use super::assemble::Command;
use super::call::Asked;
use super::discover::normal;
use super::files::object_name;
use super::inputs::{absolute, base_name};
use super::outcome::InPlace;
use super::records::Query;
use super::run::Origin;
use super::stand_in::Refusal;
use super::tools::{host_path, path_without_shims};
use super::traced::{self, Traceable};
use super::tree::{Found, Walker, join, split_last};
use super::view::{Hidden, View};
use crate::context::Counted;

/// Variables that say where and how a command was called, and on which no result may depend.
const NOISE: &[&[u8]] = &[
    b"COLORFGBG",
    b"DBUS_SESSION_BUS_ADDRESS",
    b"DESKTOP_SESSION",
    b"DESKTOP_STARTUP_ID",
    b"INVOCATION_ID",
    b"JOURNAL_STREAM",
    b"MAKEFLAGS",
    b"MAKELEVEL",
    b"MAKEOVERRIDES",
    b"MAKE_TERMERR",
    b"MAKE_TERMOUT",
    b"MFLAGS",
    b"NINJA_STATUS",
    b"NIX_LOG_FD",
    b"OLDPWD",
    b"SHLVL",
    b"STY",
    b"TERM_SESSION_ID",
    b"TMUX",
    b"TMUX_PANE",
    b"WINDOW",
    b"WINDOWID",
    b"XAUTHORITY",
    b"_",
];

/// The same, by how their names begin.
const NOISE_BY_PREFIX: &[&[u8]] = &[b"DROSTE_", b"SSH_", b"XDG_SESSION_"];

/// Python's compiled modules. They name the times of their sources, which children do not have,
/// so there they are of no use.
const PYTHON_CACHE_VARIABLE: &[u8] = b"PYTHONDONTWRITEBYTECODE";

/// Names in declared directories, at most.
const DECLARED_MAX: usize = 1 << 16;

/// Directories in directories, at most.
const DEPTH_MAX: usize = 256;

/// Where the host's shell is. A child that has no such directory gets the sandbox's own shell.
const BIN: &[u8] = b"/bin";

/// Finds or builds the child of a call of any program.
pub(super) fn answer(asked: &Asked<'_>, memo: &Memo) -> Result<(Done, Origin), InPlace> {
    traced::answer_of(asked, || prepare(asked, memo))
}

fn prepare<'a>(asked: &'a Asked<'a>, memo: &Memo) -> Result<Traceable<'a>, InPlace> {
    let is_input = |path: &store_types::StorePath| asked.caller.is_allowed(path);
    let mut walker = Walker::new(asked.tree(), &asked.executor.store_tree, &is_input);
    let cwd = asked.find_cwd(&mut walker)?;
    let exe = find_program(asked, &mut walker, &cwd)?;
    let env = environment(asked, &mut walker, &cwd)?;
    let (declared, older) = Declared::new(&mut walker, &cwd, memo)?;
    let command = Command {
        exe,
        argv: asked.call.argv.clone(),
        env,
        cwd: asked.call.cwd.clone(),
        ttys: [asked.call.stdout_tty, asked.call.stderr_tty],
    };
    asked.count_not_shared(&command, Refusal::TRACED);
    let mut tools = asked.named_inputs(&command);
    if let Ok(Found::StoreFile(real)) = walker.look(b"/", &command.exe)
        && let Ok(real) = String::from_utf8(real)
        && let Some((object, _)) = asked.store_dir().split(&real)
    {
        tools.insert(object);
    }
    let name = declared.outputs.first().unwrap_or(&command.exe);
    Ok(Traceable {
        asked,
        name: object_name(base_name(name)),
        shape: sha256(&shape(&command, &tools, memo)),
        command,
        tools,
        host: None,
        outputs: declared.outputs.iter().cloned().collect(),
        older,
        declared: Some(declared),
        renaming: None,
        facts: Traced {
            kind: "memo",
            ..Traced::default()
        },
    })
}

/// Everything of a call that is not a file.
fn shape(command: &Command, tools: &BTreeSet<store_types::StorePath>, memo: &Memo) -> Vec<u8> {
    let mut text = b"memo\0".to_vec();
    for paths in [&memo.inputs, &memo.outputs] {
        for path in paths {
            text.extend_from_slice(path);
            text.push(0);
        }
        text.push(0);
    }
    text.extend_from_slice(&command.manifest(Vec::new()).print());
    for tool in tools {
        text.extend_from_slice(tool.base_name().as_bytes());
        text.push(b'\n');
    }
    text
}

/// What is executed, as a path that a child can have.
fn find_program(
    asked: &Asked<'_>,
    walker: &mut Walker<'_>,
    cwd: &[u8],
) -> Result<Vec<u8>, InPlace> {
    let path = normal(&absolute(cwd, &asked.call.exec_path));
    let real = match walker.look(b"/", &path)? {
        Found::LocalFile(real) => real,
        Found::StoreFile(real) => {
            let object = str::from_utf8(&real)
                .ok()
                .and_then(|real| asked.store_dir().split(real));
            let shims = asked.executor.shims_package_path();
            // Which memoizes its calls by itself.
            if object.map(|(object, _)| object) == shims {
                return Err(InPlace::new("shim"));
            }
            real
        }
        Found::Missing | Found::Dir(_) => return Err(InPlace::new("no-program")),
    };
    let has_parents = path.split(|byte| *byte == b'/').any(|part| part == b"..");
    Ok(if has_parents { real } else { path })
}

/// The environment as the program gets it: all of it, but for what is noise.
fn environment(
    asked: &Asked<'_>,
    walker: &mut Walker<'_>,
    cwd: &[u8],
) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, InPlace> {
    let executor = asked.executor;
    let is_noise = |name: &[u8]| {
        NOISE.contains(&name) || NOISE_BY_PREFIX.iter().any(|begin| name.starts_with(begin))
    };
    let env = asked.env.iter().filter(|(name, _)| !is_noise(name));
    let env = env.map(|(name, value)| (name.clone(), value.clone()));
    let mut env = asked.with_directories(walker, cwd, env.collect())?;
    let path = match asked.tree().is_host() {
        true => host_path(asked.tree(), &asked.env),
        false => {
            let shims = executor.shims_package_path();
            path_without_shims(&asked.env, executor.store_dir(), shims.as_ref())
        }
    };
    env.extend(path.map(|path| (b"PATH".to_vec(), path)));
    env.entry(PYTHON_CACHE_VARIABLE.to_vec())
        .or_insert_with(|| b"1".to_vec());
    Ok(env)
}

/// What the caller declares, as absolute paths.
pub(super) struct Declared {
    inputs: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
    /// Directories in which a file that is read should be declared: the call's, and those in
    /// which there is something declared.
    tree: BTreeSet<Vec<u8>>,
    /// What the program is not to see.
    pub(super) hidden: Hidden,
}

impl Declared {
    /// Also an output that is there as a file, as it was named.
    fn new(
        walker: &mut Walker<'_>,
        cwd: &[u8],
        memo: &Memo,
    ) -> Result<(Self, Option<Vec<u8>>), InPlace> {
        let absolute = |path: &Vec<u8>| normal(&absolute(cwd, path));
        let mut declared = Self {
            inputs: memo.inputs.iter().map(absolute).collect(),
            outputs: memo.outputs.iter().map(absolute).collect(),
            tree: BTreeSet::from([cwd.to_vec()]),
            hidden: Hidden::of_any_program(),
        };
        let paths = declared.inputs.iter().chain(&declared.outputs);
        let dirs = paths.map(|path| split_last(path).0.to_vec());
        declared.tree.extend(dirs.filter(|dir| dir != b"/"));
        let mut older = None;
        for (output, named) in declared.outputs.iter().zip(&memo.outputs) {
            let outside = || InPlace::with_detail("output-outside", display(named));
            let (parent, name) = split_last(output);
            if name.is_empty() || name == b".." {
                return Err(outside());
            }
            check_place(walker, parent).ok_or_else(outside)?;
            let mut names = vec![output.clone()];
            if let Found::Dir(real) = walker.look(b"/", parent)? {
                names.push(join(&real, name));
            }
            match walker.look(b"/", output)? {
                Found::Dir(real) if walker.is_local(&real) => {
                    names.push(real);
                    declared.hidden.add_below(names);
                }
                Found::LocalFile(_) => {
                    older.get_or_insert_with(|| named.clone());
                    declared.hidden.add(names);
                }
                Found::Missing => declared.hidden.add(names),
                Found::Dir(_) | Found::StoreFile(_) => return Err(outside()),
            }
        }
        Ok((declared, older))
    }

    /// Takes what has to be there before the program starts into a view: no files.
    pub(super) fn begin(&self, view: &mut View<'_>) -> Result<(), InPlace> {
        if view.walker.tree().is_host() {
            view.ask(Query::Path(BIN.to_vec()))?;
        }
        for output in &self.outputs {
            view.ask(Query::Path(output.clone()))?;
        }
        Ok(())
    }

    /// Takes the declared inputs into a view; of directories, what is in them.
    pub(super) fn take_into(&self, view: &mut View<'_>) -> Result<(), InPlace> {
        let mut seen = HashSet::new();
        let mut todo: Vec<(Vec<u8>, usize)> =
            self.inputs.iter().map(|path| (path.clone(), 0)).collect();
        while let Some((path, depth)) = todo.pop() {
            if depth > DEPTH_MAX || seen.len() > DECLARED_MAX {
                return Err(InPlace::new("many-inputs"));
            }
            if view.hides(&path) || !seen.insert(path.clone()) {
                continue;
            }
            view.ask(Query::Path(path.clone()))?;
            let Found::Dir(real) = view.walker.look(b"/", &path)? else {
                continue;
            };
            // Only what was named may be a link to a directory: others may lead in circles.
            if !view.walker.is_local(&real) || (depth > 0 && real != path) {
                continue;
            }
            view.ask(Query::List(real.clone()))?;
            if let Some(listing) = view.walker.listing(&real)? {
                let mut names: Vec<_> = listing.keys().collect();
                names.sort();
                todo.extend(names.iter().map(|name| (join(&real, name), depth + 1)));
            }
        }
        Ok(())
    }

    /// Counts those of these files that the program has looked up and nobody has declared.
    pub(super) fn count_others<'f>(
        &self,
        asked: &Asked<'_>,
        files: impl Iterator<Item = &'f Vec<u8>>,
    ) {
        let declared = |path: &[u8]| self.inputs.iter().any(|input| is_below(path, input));
        let is_in_tree = |path: &[u8]| self.tree.iter().any(|dir| is_below(path, dir));
        for path in files.filter(|path| is_in_tree(path) && !declared(path)) {
            let counted = Counted::Undeclared(display(path));
            asked.executor.statistics().count(&counted);
            asked.caller.count(&asked.call.env, &counted);
        }
    }
}

fn is_below(path: &[u8], dir: &[u8]) -> bool {
    path.strip_prefix(dir)
        .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

fn display(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// `None` unless files can be made in this directory, or in one that can be made there.
fn check_place(walker: &mut Walker<'_>, dir: &[u8]) -> Option<()> {
    match walker.look(b"/", dir).ok()? {
        Found::Dir(real) => walker.is_local(&real).then_some(()),
        Found::Missing if dir != b"/" => check_place(walker, split_last(dir).0),
        _ => None,
    }
}
