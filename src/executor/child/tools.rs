//! Which compiler a call means, and where that compiler looks by itself.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use rustix::fs::{Access, Mode, OFlags, ResolveFlags};
use shim_core::args::{Tool, tool_of};
use shim_core::protocol::Call;
use store_types::{StoreDir, StorePath};

use super::environment::variables;
use super::host::{Destination, HostCompiler};
use super::inputs::absolute;
use super::outcome::InPlace;
use super::tree::{CallerTree, Found, StoreTree, Walker, join, split_last};
use super::wrapper::{is_any_nixpkgs_wrapper, is_nixpkgs_wrapper, simple_wrapper};
use crate::Executor;

/// A script longer than this is no compiler's wrapper.
const SCRIPT_LEN_MAX: u64 = 256 << 10;

/// How many wrappers may lead from one to the next.
const WRAPPERS_MAX: usize = 8;

/// How many scripts one of nixpkgs' wrappers may name.
const SCRIPTS_MAX: usize = 256;

/// The programs that a compiler driver looks for in `PATH`, if it does not find
/// them in its own directories. Source: gcc manual, "Environment Variables Affecting
/// GCC"; `gcc -print-prog-name=as` of a Debian gcc.
const SUBPROGRAMS: [&str; 7] = [
    "as",
    "ld",
    "objcopy",
    "cc1",
    "cc1plus",
    "collect2",
    "lto-wrapper",
];

/// Strings that only the drivers of gcc and clang contain: a variable by which gcc tells
/// its passes of the options, one by which clang is told of more, and the library that
/// clang is in where its driver is but a start.
const DRIVER_MARKS: &[&str] = &[
    "COLLECT_GCC_OPTIONS",
    "CCC_OVERRIDE_OPTIONS",
    "libclang-cpp.so",
];

/// Strings that linkers contain: what they call themselves in their own words (mold is
/// "compatible with GNU ld"). LLVM's is a program for several names.
const LINKER_MARKS: &[&str] = &["GNU ld", "GNU gold", "lld is a generic driver"];

/// The same of an assembler.
const ASSEMBLER_MARKS: &[&str] = &["GNU assembler"];

/// Interpreters whose scripts can be wrappers.
const SHELLS: &[&str] = &["sh", "bash", "dash", "ash", "busybox"];

/// Variables by which a shell runs or does other things than its script says.
const READ_BY_SHELLS: &[&str] = &[
    "BASHOPTS",
    "BASH_COMPAT",
    "BASH_ENV",
    "BASH_XTRACEFD",
    "CDPATH",
    "ENV",
    "GLOBIGNORE",
    "POSIXLY_CORRECT",
    "SHELLOPTS",
];

/// Flags that a wrapper may not add: with them, the same call has another result elsewhere, or
/// the next time.
///
/// With the dash: nixpkgs' wrappers have a comment on `march/mtune=native`, which they take away.
const IMPURE_FLAGS: &[&str] = &[
    "-march=native",
    "-mcpu=native",
    "-mtune=native",
    "-build-id=uuid",
];

/// A larger file is no compiler driver.
const PROGRAM_LEN_MAX: u64 = 512 << 20;

/// What a file of the store is as a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// The driver of gcc or clang, of which is known what it reads of the environment.
    Driver,
    /// A linker.
    Linker,
    /// An assembler.
    Assembler,
    /// A shell script, and its text.
    Script(Arc<[u8]>),
    /// Anything else.
    Other,
}

impl Program {
    /// Whether this is the program that it is called as.
    fn is(&self, tool: Tool) -> bool {
        matches!(
            (self, tool),
            (Self::Driver, Tool::Compiler)
                | (Self::Linker, Tool::Linker)
                | (Self::Assembler, Tool::Assembler)
        )
    }
}

/// The compiler of a call.
#[derive(Clone)]
pub struct Compiler {
    /// What is executed: an absolute path, symlinks and all.
    pub exec_path: Vec<u8>,
    /// The store object that it is in.
    pub store_path: StorePath,
    /// The arguments that the driver gets, its own name first: those of the call, and
    /// those that wrappers add.
    pub effective_argv: Vec<Vec<u8>>,
    /// The words of its wrappers that can be variables; `None` if it is a driver itself.
    pub words: Option<HashSet<Vec<u8>>>,
    /// Whether nixpkgs' wrapper is among its wrappers.
    pub is_nixpkgs: bool,
    /// What it consists of, if it is the host's.
    pub host: Option<Arc<HostCompiler>>,
}

/// The environment as a map; later entries win, as `getenv` would not have it, but
/// no shell exports a name twice.
pub fn environment_map(env: &[Vec<u8>]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    env.iter()
        .filter_map(|entry| {
            let equals = entry.iter().position(|byte| *byte == b'=')?;
            Some((entry[..equals].to_vec(), entry[equals + 1..].to_vec()))
        })
        .collect()
}

/// A program as it is called: perhaps a wrapper, which nobody looks behind.
#[derive(Clone)]
pub struct CalledProgram {
    /// What is executed: an absolute path, symlinks and all.
    pub exec_path: Vec<u8>,
    /// The store object that it is in.
    pub store_path: StorePath,
    /// The file of the store that it is: a path free of symlinks.
    pub real: Vec<u8>,
    /// What it is by the name it is called by, or else by its own.
    pub tool: Tool,
    /// The words of the script, if it is one, and of those it names; see
    /// [`relevant_if_traced`](super::environment::relevant_if_traced).
    pub words: Option<HashSet<Vec<u8>>>,
    /// Whether it may read variables that it does not name.
    pub reads_anything: bool,
    /// Whether it is one of nixpkgs' wrappers.
    pub is_nixpkgs: bool,
    /// What it consists of, if it is the host's.
    pub host: Option<Arc<HostCompiler>>,
}

/// Finds the compiler that a shim stands in for, and the call behind its wrappers.
///
/// A shim laid over a compiler has that compiler's path. One that was found by
/// `PATH` lies in the store object `shims`, and means the next program of its name
/// in `PATH` that does not.
pub fn find_compiler(
    executor: &Executor,
    walker: &mut Walker<'_>,
    call: &Call,
    env: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> Result<Compiler, InPlace> {
    let (store, store_dir) = (&executor.store_tree, executor.store_dir());
    let called = locate(executor, walker, call, env)?;
    let unwrapped = unwrap(walker, store, store_dir, &called.real, call, env)?;
    if unwrapped.end != Program::Driver {
        return Err(InPlace::new("unknown-compiler"));
    }
    Ok(Compiler {
        effective_argv: unwrapped.argv,
        words: unwrapped.words,
        is_nixpkgs: unwrapped.is_nixpkgs,
        exec_path: called.exec_path,
        store_path: called.store_path,
        host: called.host,
    })
}

/// Finds the program that a shim stands in for, for a call whose files are traced: wrappers
/// stay what they are, since the files that they read are traced as well.
///
/// # Errors
/// `unknown-compiler` if its name is not that of a tool, or if it is neither a shell script nor
/// what its name says; a reason of the file system.
pub fn find_program(
    executor: &Executor,
    walker: &mut Walker<'_>,
    call: &Call,
    env: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> Result<CalledProgram, InPlace> {
    let located = locate(executor, walker, call, env)?;
    identify(
        walker,
        &executor.store_tree,
        executor.store_dir(),
        located,
        call,
        env,
    )
}

/// Tells what a program is.
fn identify(
    walker: &mut Walker<'_>,
    store: &StoreTree,
    store_dir: &StoreDir,
    located: Located,
    call: &Call,
    env: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> Result<CalledProgram, InPlace> {
    let unknown = || InPlace::new("unknown-compiler");
    let Located {
        exec_path,
        store_path,
        real,
        host,
    } = located;
    let tool = tool_of(split_last(&exec_path).1)
        .or_else(|| tool_of(split_last(&real).1))
        .ok_or_else(unknown)?;
    let mut reads_anything = false;
    let mut is_nixpkgs = false;
    let words = match (store.program(store_dir, &real)?, tool) {
        (Program::Script(script), _) => {
            check_shell_environment(env)?;
            // What it does is known if it is followed to its end; of nixpkgs' it is known
            // what they read.
            is_nixpkgs = is_any_nixpkgs_wrapper(&script)
                && !has_hook(walker, store_dir, &script)
                && leads_to_drivers(walker, store, store_dir, &script, env)?;
            reads_anything = !is_nixpkgs
                && !unwrap(walker, store, store_dir, &real, call, env)
                    .is_ok_and(|behind| behind.end.is(tool));
            Some(script_words(walker, store, store_dir, &real, env)?)
        }
        (program, _) if program.is(tool) => None,
        _ => return Err(unknown()),
    };
    Ok(CalledProgram {
        exec_path,
        store_path,
        real,
        tool,
        words,
        reads_anything,
        is_nixpkgs,
        host,
    })
}

/// Where a program is.
struct Located {
    exec_path: Vec<u8>,
    store_path: StorePath,
    real: Vec<u8>,
    host: Option<Arc<HostCompiler>>,
}

/// Finds the file that a shim stands in for.
fn locate(
    executor: &Executor,
    walker: &mut Walker<'_>,
    call: &Call,
    env: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> Result<Located, InPlace> {
    let unknown = || InPlace::new("unknown-compiler");
    if call.exec_path.is_empty() {
        return Err(unknown());
    }
    if walker.tree().is_host() {
        return locate_on_host(executor, walker, call, env);
    }
    let store_dir = executor.store_dir();
    let shims = executor.shims_package_path();
    let mut exec_path = absolute(&call.cwd, &call.exec_path);
    let exe = String::from_utf8(call.exe.clone()).map_err(|_| unknown())?;
    let (exe_path, _) = store_dir.split(&exe).ok_or_else(unknown)?;
    if Some(&exe_path) == shims.as_ref() {
        let name = split_last(&exec_path).1.to_vec();
        exec_path = next_in_path(walker, store_dir, &exe_path, &name, &call.cwd, env)?
            .ok_or_else(unknown)?;
    }
    locate_in_store(executor, walker, exec_path)
}

/// The same for a program in the store.
fn locate_in_store(
    executor: &Executor,
    walker: &mut Walker<'_>,
    exec_path: Vec<u8>,
) -> Result<Located, InPlace> {
    let unknown = || InPlace::new("unknown-compiler");
    let Found::StoreFile(real) = walker.find(b"/", &exec_path)? else {
        return Err(unknown());
    };
    let text = str::from_utf8(&real).map_err(|_| unknown())?;
    let (store_path, _) = executor.store_dir().split(text).ok_or_else(unknown)?;
    Ok(Located {
        exec_path,
        store_path,
        real,
        host: None,
    })
}

/// The same for a call outside of any derivation: what is meant is a program of the host.
/// From then on the walker sees in its place what the store has of it.
fn locate_on_host(
    executor: &Executor,
    walker: &mut Walker<'_>,
    call: &Call,
    env: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> Result<Located, InPlace> {
    let unknown = || InPlace::new("unknown-compiler");
    let mut exec_path = absolute(&call.cwd, &call.exec_path);
    if walker.tree().is_hidden(&call.exe) {
        let name = split_last(&exec_path).1.to_vec();
        exec_path = next_on_host(walker, &name, &call.cwd, env)?.ok_or_else(unknown)?;
    }
    if let Found::StoreFile(_) = walker.look(b"/", &exec_path)? {
        return locate_in_store(executor, walker, exec_path);
    }
    refuse_relative_programs(walker, &call.cwd, env)?;
    let path = host_path(walker.tree(), env).unwrap_or_default();
    let into = Destination {
        store: &executor.store,
        crashes: &executor.workplace().crashes,
        diagnose: executor.settings.diagnose,
    };
    let compiler = executor.host_compilers.get(&into, &exec_path, &path)?;
    walker.bind(&compiler);
    let Found::StoreFile(place) = walker.find(b"/", &exec_path)? else {
        // It was replaced a moment ago.
        return Err(InPlace::new("compiler-changes"));
    };
    Ok(Located {
        exec_path,
        store_path: compiler.store_path.clone(),
        real: walker.object_path(&place),
        host: Some(compiler),
    })
}

/// Refuses calls with parts of a compiler in directories of `PATH` that are another for each
/// directory of a caller.
fn refuse_relative_programs(
    walker: &mut Walker<'_>,
    cwd: &[u8],
    env: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> Result<(), InPlace> {
    for entry in path_entries(env).filter(|entry| !entry.starts_with(b"/")) {
        for name in SUBPROGRAMS {
            let file = join(&absolute(cwd, entry), name.as_bytes());
            if walker.look(b"/", &file)? != Found::Missing {
                return Err(InPlace::new("programs-in-build"));
            }
        }
    }
    Ok(())
}

/// The first program of this name in `PATH` that is not one of our shims.
fn next_on_host(
    walker: &mut Walker<'_>,
    name: &[u8],
    cwd: &[u8],
    env: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> Result<Option<Vec<u8>>, InPlace> {
    for entry in path_entries(env) {
        let file = join(&absolute(cwd, entry), name);
        let real = match walker.look(b"/", &file) {
            Ok(Found::LocalFile(real) | Found::StoreFile(real)) => real,
            Ok(_) => continue,
            // If it is a program all the same, it is the one.
            Err(reason) => match rustix::fs::access(&*file, Access::EXEC_OK) {
                Ok(()) => return Err(reason),
                Err(_) => continue,
            },
        };
        let stat = walker
            .tree()
            .open(&real, OFlags::PATH)
            .and_then(rustix::fs::fstat);
        if stat.is_ok_and(|stat| stat.st_mode & 0o111 != 0) {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// `PATH` on the host, without the directories of our own shims; `None` if there is none.
pub fn host_path(tree: &CallerTree, env: &BTreeMap<Vec<u8>, Vec<u8>>) -> Option<Vec<u8>> {
    let path = env.get(&b"PATH"[..])?;
    let entries = path.split(|byte| *byte == b':');
    let kept: Vec<&[u8]> = entries.filter(|entry| !tree.is_hidden(entry)).collect();
    Some(kept.join(&b':'))
}

/// `PATH` as a traced child gets it: as it is, but for the directories with our own shims.
/// `None` if there is none.
pub fn path_without_shims(
    env: &BTreeMap<Vec<u8>, Vec<u8>>,
    store_dir: &StoreDir,
    shims: Option<&StorePath>,
) -> Option<Vec<u8>> {
    let path = env.get(&b"PATH"[..])?;
    let is_shims = |entry: &[u8]| {
        let object = str::from_utf8(entry)
            .ok()
            .and_then(|entry| store_dir.split(entry));
        object.is_some_and(|(object, _)| Some(&object) == shims)
    };
    let kept: Vec<&[u8]> = path
        .split(|byte| *byte == b':')
        .filter(|entry| !is_shims(entry))
        .collect();
    Some(kept.join(&b':'))
}

fn path_entries(env: &BTreeMap<Vec<u8>, Vec<u8>>) -> impl Iterator<Item = &[u8]> {
    let path: &[u8] = env.get(&b"PATH"[..]).map_or(b"", Vec::as_slice);
    path.split(|byte| *byte == b':')
        .map(|entry| if entry.is_empty() { b"." } else { entry })
}

fn next_in_path(
    walker: &mut Walker<'_>,
    store_dir: &StoreDir,
    shims: &StorePath,
    name: &[u8],
    cwd: &[u8],
    env: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> Result<Option<Vec<u8>>, InPlace> {
    for entry in path_entries(env) {
        let file = join(&absolute(cwd, entry), name);
        let Ok(Found::StoreFile(real)) = walker.look(b"/", &file) else {
            continue;
        };
        let inside = str::from_utf8(&real)
            .ok()
            .and_then(|real| store_dir.split(real));
        if inside.is_some_and(|(path, _)| path != *shims) {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// What is known of the call behind a chain of wrappers.
struct Unwrapped {
    /// The arguments that the driver gets, its own name first.
    argv: Vec<Vec<u8>>,
    /// The variables that the wrappers read; `None` if there is no wrapper.
    words: Option<HashSet<Vec<u8>>>,
    /// The program behind them.
    end: Program,
    /// Whether the last of them is one of nixpkgs'.
    is_nixpkgs: bool,
}

/// Follows the wrappers of a call to the program behind them.
fn unwrap(
    walker: &mut Walker<'_>,
    store: &StoreTree,
    store_dir: &StoreDir,
    real: &[u8],
    call: &Call,
    env: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> Result<Unwrapped, InPlace> {
    let unknown = || InPlace::new("unknown-compiler");
    let mut found = Unwrapped {
        argv: call.argv.clone(),
        words: None,
        end: Program::Other,
        is_nixpkgs: false,
    };
    if found.argv.is_empty() {
        return Err(InPlace::new("no-arguments"));
    }
    let mut program = real.to_vec();
    for _ in 0..WRAPPERS_MAX {
        let script = match store.program(store_dir, &program)? {
            Program::Script(script) => script,
            end => return Ok(Unwrapped { end, ..found }),
        };
        check_shell_environment(env)?;
        let words = found.words.get_or_insert_default();
        if is_nixpkgs_wrapper(&script) {
            words.extend(script_words(walker, store, store_dir, &program, env)?);
            found.is_nixpkgs = true;
            if !leads_to_drivers(walker, store, store_dir, &script, env)? {
                return Err(unknown());
            }
            // A hook may use anything, and words with these are expanded by the shell.
            let added = shim_core::args::wrapper_flags(&call.env);
            let is_glob = |word: &Vec<u8>| word.iter().any(|byte| b"*?[".contains(byte));
            if has_hook(walker, store_dir, &script) || added.iter().any(is_glob) {
                return Err(unknown());
            }
            // Its own flags come behind those of the call.
            found.argv.extend(added);
            found.end = Program::Driver;
            return Ok(found);
        }
        let invocation = simple_wrapper(&script, &found.argv[1..], env).ok_or_else(unknown)?;
        words.extend(invocation.variables);
        let path = if invocation.command.starts_with(b"/") {
            Some(invocation.command.clone())
        } else if invocation.command.contains(&b'/') {
            None
        } else {
            first_in_path(walker, &invocation.command, &call.cwd, env)?
        };
        let Found::StoreFile(next) = walker.find(b"/", &path.ok_or_else(unknown)?)? else {
            return Err(unknown());
        };
        program = next;
        // A wrapper's own specs file in the store is a part of the compiler, not a flag of
        // the call.
        let is_own_specs = |arg: &[u8]| {
            let file = arg.strip_prefix(b"-specs=").unwrap_or_default();
            let own = simple_wrapper(&script, &[], env).map(|own| own.args);
            file.starts_with(store_dir.as_str().as_bytes())
                && own.is_some_and(|own| own.iter().any(|word| word == arg))
        };
        found.argv = vec![invocation.command];
        found
            .argv
            .extend(invocation.args.into_iter().filter(|arg| !is_own_specs(arg)));
    }
    Err(unknown())
}

/// Whether the compilers that a script names are drivers, perhaps behind simple wrappers.
fn leads_to_drivers(
    walker: &mut Walker<'_>,
    store: &StoreTree,
    store_dir: &StoreDir,
    script: &[u8],
    env: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> Result<bool, InPlace> {
    for mut named in store_files_named(script, store_dir) {
        if tool_of(split_last(&named).1) != Some(Tool::Compiler) {
            continue;
        }
        let mut wrappers = 0;
        while let Ok(Found::StoreFile(file)) = walker.look(b"/", &named) {
            let script = match store.program(store_dir, &file)? {
                Program::Driver => break,
                Program::Script(script) => script,
                _ => return Ok(false),
            };
            wrappers += 1;
            named = match simple_wrapper(&script, &[], env) {
                Some(call) if call.command.starts_with(b"/") && wrappers < WRAPPERS_MAX => {
                    call.command
                }
                _ => return Ok(false),
            };
        }
    }
    Ok(true)
}

/// Whether one of the hooks is there that nixpkgs' wrappers source if they are.
fn has_hook(walker: &mut Walker<'_>, store_dir: &StoreDir, script: &[u8]) -> bool {
    store_files_named(script, store_dir)
        .into_iter()
        .filter(|named| named.ends_with(b"-hook"))
        .any(|named| matches!(walker.look(b"/", &named), Ok(Found::StoreFile(_))))
}

/// Refuses what makes a shell do other things than its script says.
fn check_shell_environment(env: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<(), InPlace> {
    let is_set = |name: &&str| {
        env.get(name.as_bytes())
            .is_some_and(|value| !value.is_empty())
    };
    if let Some(name) = READ_BY_SHELLS.iter().find(|name| is_set(name)) {
        return Err(InPlace::with_detail("environment", name));
    }
    if env.keys().any(|name| name.starts_with(b"BASH_FUNC_")) {
        return Err(InPlace::with_detail("environment", "BASH_FUNC_"));
    }
    Ok(())
}

/// The program that a name means: the first of that name in `PATH`.
fn first_in_path(
    walker: &mut Walker<'_>,
    name: &[u8],
    cwd: &[u8],
    env: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> Result<Option<Vec<u8>>, InPlace> {
    for entry in path_entries(env) {
        let file = join(&absolute(cwd, entry), name);
        match walker.look(b"/", &file)? {
            Found::StoreFile(_) => return Ok(Some(file)),
            Found::Missing | Found::Dir(_) => {}
            Found::LocalFile(_) => return Ok(None),
        }
    }
    Ok(None)
}

/// The words of a script, and of the scripts in the store that it names.
fn script_words(
    walker: &mut Walker<'_>,
    store: &StoreTree,
    store_dir: &StoreDir,
    script: &[u8],
    env: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> Result<HashSet<Vec<u8>>, InPlace> {
    let mut all = HashSet::new();
    let is_marked = match store.program(store_dir, script)? {
        Program::Script(text) => is_any_nixpkgs_wrapper(&text),
        _ => false,
    };
    let mut scripts = vec![script.to_vec()];
    let mut seen: HashSet<Vec<u8>> = scripts.iter().cloned().collect();
    while let Some(path) = scripts.pop() {
        let Program::Script(text) = store.program(store_dir, &path)? else {
            continue;
        };
        if IMPURE_FLAGS
            .iter()
            .any(|flag| memchr::memmem::find(&text, flag.as_bytes()).is_some())
        {
            return Err(InPlace::new("impure-wrapper"));
        }
        match simple_wrapper(&text, &[], env) {
            Some(simple) => all.extend(simple.variables),
            None => {
                let is_sourced = memchr::memmem::find(&path, b"/nix-support/").is_some();
                let is_of_nixpkgs = is_any_nixpkgs_wrapper(&text) || (is_marked && is_sourced);
                all.extend(variables(&text, is_of_nixpkgs));
            }
        }
        for named in store_files_named(&text, store_dir) {
            // A directory, or a file that is not there, is nothing to be read.
            let Ok(Found::StoreFile(file)) = walker.look(b"/", &named) else {
                continue;
            };
            if seen.len() > SCRIPTS_MAX {
                return Err(InPlace::new("unknown-compiler"));
            }
            if seen.insert(file.clone()) {
                scripts.push(file);
            }
        }
    }
    Ok(all)
}

impl StoreTree {
    /// What a file is as a program; `path` is absolute and free of symlinks. Found out
    /// once.
    pub fn program(&self, store_dir: &StoreDir, path: &[u8]) -> Result<Program, InPlace> {
        if let Some(known) = self.known_program(path) {
            return Ok(known);
        }
        let program = self
            .inspect(store_dir, path)
            .map_err(|_| InPlace::new("unknown-compiler"))?;
        self.remember_program(path, program.clone());
        Ok(program)
    }

    fn inspect(&self, store_dir: &StoreDir, path: &[u8]) -> std::io::Result<Program> {
        use std::io::Read;
        let relative = &path[store_dir.as_str().len() + 1..];
        let fd = rustix::fs::openat2(
            self.dir_of(relative),
            relative,
            OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )?;
        let mut file = std::fs::File::from(fd);
        let len = file.metadata()?.len();
        let mut head = [0; 4];
        let is_elf = len > 4 && {
            file.read_exact(&mut head)?;
            head == *b"\x7fELF"
        };
        if len
            > if is_elf {
                PROGRAM_LEN_MAX
            } else {
                SCRIPT_LEN_MAX
            }
        {
            return Ok(Program::Other);
        }
        let mut bytes = if len > 4 { head.to_vec() } else { Vec::new() };
        file.read_to_end(&mut bytes)?;
        if is_elf {
            let has_any = |marks: &[&str]| {
                marks
                    .iter()
                    .any(|mark| memchr::memmem::find(&bytes, mark.as_bytes()).is_some())
            };
            return Ok(if has_any(DRIVER_MARKS) {
                Program::Driver
            } else if has_any(LINKER_MARKS) {
                Program::Linker
            } else if has_any(ASSEMBLER_MARKS) {
                Program::Assembler
            } else {
                Program::Other
            });
        }
        let Some(line) = bytes.strip_prefix(b"#!") else {
            // A text that a script may read commands from.
            let is_text = !bytes[..bytes.len().min(64)].contains(&0);
            return Ok(if is_text {
                Program::Script(bytes.into())
            } else {
                Program::Other
            });
        };
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let interpreter = line
            .split(u8::is_ascii_whitespace)
            .find(|word| !word.is_empty())
            .unwrap_or_default();
        let name = split_last(interpreter).1;
        let is_shell = SHELLS.iter().any(|shell| shell.as_bytes() == name);
        Ok(if is_shell {
            Program::Script(bytes.into())
        } else {
            Program::Other
        })
    }
}

/// Paths below the store directory that occur in a text.
fn store_files_named(text: &[u8], store_dir: &StoreDir) -> Vec<Vec<u8>> {
    let prefix = format!("{store_dir}/");
    let prefix = prefix.as_bytes();
    let is_path_byte = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-._?=/@%~".contains(byte);
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = memchr::memmem::find(rest, prefix) {
        let path = &rest[start..];
        let end = path
            .iter()
            .position(|byte| !is_path_byte(byte))
            .unwrap_or(path.len());
        let inside = &path[prefix.len()..end];
        if !inside.is_empty() && !inside.split(|byte| *byte == b'/').any(|part| part == b"..") {
            found.push(path[..end].to_vec());
        }
        rest = &path[prefix.len()..];
    }
    found
}

/// The store paths whose full path occurs in a text.
pub fn store_paths_named(text: &[u8], store_dir: &StoreDir) -> Vec<StorePath> {
    store_files_named(text, store_dir)
        .iter()
        .filter_map(|path| Some(store_dir.split(str::from_utf8(path).ok()?)?.0))
        .collect()
}

/// `PATH` as the child gets it, and nothing that the child could find elsewhere.
///
/// A wrapper script may call anything, so it gets the whole list; a compiler's
/// driver gets the directories in which one of its subprograms lies. A directory of
/// the build that holds such a program cannot be declared. Of the host's compilers it is
/// known what they take from there.
pub fn child_path(
    walker: &mut Walker<'_>,
    compiler: &Compiler,
    cwd: &[u8],
    env: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> Result<Vec<u8>, InPlace> {
    if let Some(host) = &compiler.host {
        return Ok(host.path.clone());
    }
    let is_host = walker.tree().is_host();
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut found: HashSet<&str> = HashSet::new();
    for entry in path_entries(env) {
        let path = absolute(cwd, entry);
        let real = match walker.look(b"/", &path) {
            Ok(Found::Dir(real)) => real,
            Ok(_) => continue,
            Err(_) => return Err(InPlace::new("programs-outside-of-build")),
        };
        let subprograms = SUBPROGRAMS.map(str::as_bytes);
        // Whether there is anything matters to wrappers.
        let listing = match compiler.words {
            Some(_) => walker.listing(&real)?,
            None => walker.listing_for(&real, &subprograms)?,
        };
        let Some(listing) = listing else {
            continue;
        };
        let has = |name: &&&str| listing.contains_key(name.as_bytes());
        let mut subprograms = SUBPROGRAMS.iter().filter(has).copied().peekable();
        let has_subprogram = subprograms.peek().is_some();
        let is_local = walker.is_local(&real);
        // The machine's own, which come after those of the store, are found by nobody.
        if is_local && is_host && subprograms.all(|name| found.contains(name)) {
            continue;
        }
        let counts = has_subprogram || (compiler.words.is_some() && !listing.is_empty());
        if counts && is_local {
            return Err(InPlace::new("programs-in-build"));
        }
        if counts {
            found.extend(SUBPROGRAMS.iter().filter(has));
            walker.find(b"/", &path)?;
            kept.push(entry);
        }
    }
    Ok(kept.join(&b':'))
}

/// What a compiler says of its search path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SearchPath {
    /// The directories, in order.
    pub dirs: Vec<Vec<u8>>,
    /// Directories that would be among them if they were there.
    pub missing: Vec<Vec<u8>>,
}

/// Reads what a compiler prints on standard error for `-E -v`; `None` if that is no answer.
pub fn parse_search_path(stderr: &[u8]) -> Option<SearchPath> {
    let mut path = SearchPath::default();
    let mut inside = false;
    let mut complete = false;
    for line in stderr.split(|byte| *byte == b'\n') {
        let missing = line.strip_prefix(b"ignoring nonexistent directory \"");
        if line.starts_with(b"#include ") && line.ends_with(b"search starts here:") {
            inside = true;
        } else if line == b"End of search list." {
            complete = inside;
            inside = false;
        } else if inside && let Some(dir) = line.strip_prefix(b" ") {
            let dir = dir.strip_suffix(b" (framework directory)").unwrap_or(dir);
            path.dirs.push(dir.to_vec());
        } else if let Some(dir) = missing.and_then(|rest| rest.strip_suffix(b"\"")) {
            path.missing.push(dir.to_vec());
        }
    }
    complete.then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_directories_are_those_between_the_two_headings_and_the_end() {
        let text = b"ignoring nonexistent directory \"/x\"\n\
            #include \"...\" search starts here:\n /q\n\
            #include <...> search starts here:\n /s/include\n /s/../y\n\
            End of search list.\nmore\n";
        let path = parse_search_path(text).unwrap();
        assert_eq!(path.dirs, [&b"/q"[..], b"/s/include", b"/s/../y"]);
        assert_eq!(path.missing, [b"/x"]);
        assert_eq!(
            parse_search_path(b"#include <...> search starts here:\n /s\n"),
            None
        );
    }

    #[test]
    fn store_paths_are_found_wherever_they_stand_in_a_text() {
        let dir = StoreDir::default();
        let hash = "0mdqa9w1p6cmli6976v4wi0sw9r4p5pr";
        let text = format!(
            "-I/nix/store/{hash}-a/include:/nix/store/{hash}-b \"/nix/store/{hash}-c/../d\""
        );
        let names: Vec<_> = store_paths_named(text.as_bytes(), &dir)
            .iter()
            .map(|path| path.name().to_owned())
            .collect();
        assert_eq!(names, ["a", "b"]);
    }

    const TOOLS: &str = "0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-tools";
    const SHIMS: &str = "1mdqa9w1p6cmli6976v4wi0sw9r4p5pr-droste-shims";

    fn open(path: &std::path::Path) -> std::os::fd::OwnedFd {
        rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    /// Asks what the program `name` is that lies among these files of a store object.
    fn ask(
        files: &[(&str, &[u8])],
        name: &str,
        env: &[(&str, &str)],
    ) -> Result<CalledProgram, String> {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("nix/store");
        std::fs::create_dir_all(dir.path().join("build")).unwrap();
        std::fs::create_dir_all(store.join(TOOLS).join("bin")).unwrap();
        for (file, content) in files {
            std::fs::write(store.join(TOOLS).join("bin").join(file), content).unwrap();
        }
        let store_dir = StoreDir::default();
        let tree = CallerTree::build(open(dir.path()), store_dir.clone());
        let store = StoreTree::of(dir.path());
        let is_input = |_: &StorePath| true;
        let mut walker = Walker::new(&tree, &store, &is_input);
        let path = format!("/nix/store/{TOOLS}/bin/{name}");
        let located = Located {
            exec_path: path.clone().into_bytes(),
            store_path: store_dir.split(&path).unwrap().0,
            real: path.into_bytes(),
            host: None,
        };
        let env = env
            .iter()
            .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
            .collect();
        let call = Call {
            exec_path: located.exec_path.clone(),
            argv: vec![name.into()],
            cwd: b"/build".to_vec(),
            ..Call::default()
        };
        identify(&mut walker, &store, &store_dir, located, &call, &env)
            .map_err(|reason| reason.to_string())
    }

    #[test]
    fn a_program_is_what_its_name_and_its_bytes_say() {
        let driver: &[u8] = b"\x7fELF...COLLECT_GCC_OPTIONS";
        let linker: &[u8] = b"\x7fELF...GNU ld %s";
        for (name, content, tool) in [
            ("gcc", driver, Some(Tool::Compiler)),
            ("x86_64-linux-gnu-g++-12", driver, Some(Tool::Compiler)),
            ("gfortran", driver, Some(Tool::Compiler)),
            ("ld.bfd", linker, Some(Tool::Linker)),
            ("ld", driver, None),
            ("gcc", linker, None),
            ("gcc", b"\x7fELF...ccache", None),
            ("gcc-ar", driver, None),
            ("cc", b"#!/usr/bin/python3\n", None),
        ] {
            let found = ask(&[(name, content)], name, &[]);
            assert_eq!(found.as_ref().ok().map(|found| found.tool), tool, "{name}");
            match found {
                Ok(found) => assert!(found.words.is_none(), "{name}"),
                Err(reason) => assert_eq!(reason, "unknown-compiler"),
            }
        }
    }

    #[test]
    fn a_wrapper_stays_a_wrapper_whose_words_are_known() {
        let hook = format!("#!/bin/sh\n. /nix/store/{TOOLS}/bin/hook\nexec gcc $FLAGS \"$@\"\n");
        let files: [(&str, &[u8]); 2] = [("ld", hook.as_bytes()), ("hook", b"echo $HOOKED\n")];
        let found = ask(&files, "ld", &[]).unwrap();
        assert_eq!(found.tool, Tool::Linker);
        let words = found.words.unwrap();
        for word in ["FLAGS", "HOOKED"] {
            assert!(words.contains(word.as_bytes()), "{word}");
        }
        let native: &[u8] = b"#!/bin/sh\nexec gcc -march=native \"$@\"\n";
        let refused = ask(&[("cc", native)], "cc", &[]);
        assert_eq!(refused.err().as_deref(), Some("impure-wrapper"));
        let refused = ask(&files, "ld", &[("BASH_ENV", "/build/x")]);
        assert_eq!(refused.err().as_deref(), Some("environment:BASH_ENV"));
    }

    #[test]
    fn a_wrapper_that_is_followed_to_its_end_reads_what_it_names_and_others_anything() {
        let driver: &[u8] = b"\x7fELF...COLLECT_GCC_OPTIONS";
        let simple = format!("#!/bin/sh\nexec /nix/store/{TOOLS}/bin/driver $FLAGS \"$@\"\n");
        let sourcing = format!("#!/bin/sh\n. /x\nexec /nix/store/{TOOLS}/bin/driver \"$@\"\n");
        let nixpkgs = "#!/bin/sh\n. /x/nix-support/hook\nexec gcc $NIX_CFLAGS_COMPILE\n";
        let wrong_end = format!("#!/bin/sh\nexec /nix/store/{TOOLS}/bin/other \"$@\"\n");
        for (script, reads_anything) in [
            (simple.as_str(), false),
            (nixpkgs, false),
            (&sourcing, true),
            (&wrong_end, true),
        ] {
            let files: [(&str, &[u8]); 3] = [
                ("gcc", script.as_bytes()),
                ("driver", driver),
                ("other", b"\x7fELF...GNU ld %s"),
            ];
            let found = ask(&files, "gcc", &[]).unwrap();
            assert_eq!(found.reads_anything, reads_anything, "{script}");
        }
        assert!(!ask(&[("gcc", driver)], "gcc", &[]).unwrap().reads_anything);
    }

    #[test]
    fn a_traced_child_finds_no_shims() {
        let store_dir = StoreDir::default();
        let shims = store_dir.split(&format!("/nix/store/{SHIMS}")).unwrap().0;
        let path = format!("/nix/store/{SHIMS}/bin:/usr/bin::/nix/store/{TOOLS}/bin");
        let env = BTreeMap::from([(b"PATH".to_vec(), path.into_bytes())]);
        let kept = path_without_shims(&env, &store_dir, Some(&shims)).unwrap();
        let expected = format!("/usr/bin::/nix/store/{TOOLS}/bin");
        assert_eq!(kept, expected.as_bytes());
        assert_eq!(path_without_shims(&BTreeMap::new(), &store_dir, None), None);
    }
}
