//! Which compiler is meant, and what of the environment it reads.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use shim_core::args::{self, Classification, Compile, Tool};

use crate::{BUILD_DIR, Call, InPlace};

/// A script that is longer does more than to start a program.
const SCRIPT_BYTES_MAX: u64 = 8 << 10;

/// The compiler behind the shim, and what it is asked.
pub(crate) struct Compiler {
    /// The program that is executed.
    pub(crate) exe: PathBuf,
    /// Its arguments, the program's name first.
    pub(crate) argv: Vec<Vec<u8>>,
    /// The same as the compiler behind a script gets them.
    pub(crate) effective: Vec<Vec<u8>>,
    /// What of the environment matters.
    pub(crate) env: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) compile: Compile,
    /// All directories in which it looks for what sources include.
    pub(crate) dirs: Vec<PathBuf>,
}

/// Finds the compiler that the shim stands for, as the shim itself does.
pub(crate) fn find(call: &Call) -> Result<Compiler, InPlace> {
    let name = call.shim.file_name().unwrap_or_default();
    if args::tool_of(name.as_bytes()) != Some(Tool::Compiler) {
        return Err(InPlace::new("no compiler"));
    }
    let own = fs::canonicalize(&call.shim).map_err(InPlace::cannot("find the shim"))?;
    let is_own = |dir: &Path| {
        let real = fs::canonicalize(dir).ok();
        real.is_some() && real.as_deref() == own.parent()
    };
    let path = call.variable("PATH").unwrap_or_default();
    let mut dirs = Vec::new();
    for dir in path.split(|byte| *byte == b':') {
        let dir = Path::new(OsStr::from_bytes(dir));
        if is_own(dir) {
            continue;
        }
        match in_store(dir) {
            true => dirs.push(dir),
            // What does not exist in the child, either.
            false if dir.is_absolute() && !dir.exists() => {}
            false => return Err(InPlace::new("PATH has a directory outside of the store")),
        }
    }
    let is_program = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|found| found.is_file() && found.mode() & 0o111 != 0)
    };
    let exe = dirs.iter().map(|dir| dir.join(name)).find(is_program);
    let exe = exe.ok_or_else(|| InPlace::new("no compiler"))?;
    let mut argv = call.argv.clone();
    if let Some(first) = argv.first_mut()
        && first.contains(&b'/')
    {
        *first = exe.as_os_str().as_bytes().to_vec();
    }
    if argv.iter().any(|argument| argument.starts_with(b"@")) {
        return Err(InPlace::new("a response file"));
    }
    let mut effective = behind_script(&exe)?;
    effective.extend(argv.iter().skip(1).cloned());
    let compile = match args::classify(&effective) {
        Classification::Compile(compile) => *compile,
        Classification::InPlace(reason) => return Err(InPlace::new(reason.name())),
    };
    if compile.preprocess_only || compile.sources.len() != 1 {
        return Err(InPlace::new("no plain compile"));
    }
    // `CPATH` and its kin are among what the compiler says that it searches.
    args::environment(&call.env, compile.language, b"/nix/store")
        .map_err(|reason| InPlace::new(reason.name()))?;
    let given = compile.tool_dirs.iter().chain(&compile.sysroots);
    if !given
        .map(|dir| OsStr::from_bytes(dir))
        .all(|dir| in_store(Path::new(dir)))
    {
        return Err(InPlace::new("tools outside of the store"));
    }
    let mut env = environment(call)?;
    let joined = dirs
        .iter()
        .map(|dir| dir.as_os_str().as_bytes())
        .collect::<Vec<_>>();
    env.insert(b"PATH".to_vec(), joined.join(&b':'));
    let mut compiler = Compiler {
        exe,
        argv,
        effective,
        env,
        compile,
        dirs: Vec::new(),
    };
    compiler.dirs = search_dirs(call, &compiler)?;
    Ok(compiler)
}

fn in_store(path: &Path) -> bool {
    path.starts_with("/nix/store") && path.components().all(|part| part.as_os_str() != "..")
}

/// The compiler that a script executes, and the arguments that it puts before all others; the
/// program itself if it is none. A script that does more could do anything.
fn behind_script(exe: &Path) -> Result<Vec<Vec<u8>>, InPlace> {
    let mut text = Vec::new();
    File::open(exe)
        .and_then(|file| file.take(SCRIPT_BYTES_MAX).read_to_end(&mut text))
        .map_err(InPlace::cannot("read the compiler"))?;
    if !text.starts_with(b"#!") {
        return Ok(vec![exe.as_os_str().as_bytes().to_vec()]);
    }
    let wrapper = || InPlace::new("the compiler is a script");
    let text = String::from_utf8(text).map_err(|_| wrapper())?;
    let mut lines = text.lines().skip(1).filter(|line| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#')
    });
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return Err(wrapper());
    };
    let command = line
        .strip_prefix("exec ")
        .and_then(|line| line.trim_end().strip_suffix("\"$@\""))
        .ok_or_else(wrapper)?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/_.,:=+-@ ".contains(&byte);
    if !command.bytes().all(is_plain) {
        return Err(wrapper());
    }
    // Its own specs file is a part of the compiler, not a flag of the call's.
    let is_own_specs = |word: &&str| {
        let file = word.strip_prefix("-specs=");
        file.is_some_and(|file| in_store(Path::new(file)))
    };
    let words: Vec<Vec<u8>> = command
        .split_whitespace()
        .filter(|word| !is_own_specs(word))
        .map(|word| word.into())
        .collect();
    match words.first() {
        Some(program) if in_store(Path::new(OsStr::from_bytes(program))) => Ok(words),
        _ => Err(wrapper()),
    }
}

fn environment(call: &Call) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, InPlace> {
    let mut kept = BTreeMap::new();
    for entry in &call.env {
        let Some(equals) = entry.iter().position(|byte| *byte == b'=') else {
            continue;
        };
        let (name, value) = (&entry[..equals], &entry[equals + 1..]);
        if name == b"PWD" {
            // The compiler believes it where it leads to the directory.
            let pwd = Path::new(OsStr::from_bytes(value));
            let real = fs::canonicalize(pwd);
            if pwd != call.cwd && real.is_ok_and(|real| real == call.cwd) {
                return Err(InPlace::new("PWD is by a symbolic link"));
            }
        } else if args::is_read_by_compilers(name) {
            kept.insert(name.to_vec(), value.to_vec());
        }
    }
    for name in ["TMPDIR", "TMP", "TEMP"] {
        let dir = kept.get(name.as_bytes());
        if dir.is_some_and(|dir| !dir.is_empty() && dir != BUILD_DIR.as_bytes()) {
            return Err(InPlace::new("temporary files are elsewhere"));
        }
    }
    Ok(kept)
}

/// The directories of the flags, and those that the compiler says it searches without them.
fn search_dirs(call: &Call, compiler: &Compiler) -> Result<Vec<PathBuf>, InPlace> {
    let compile = &compiler.compile;
    let mut dirs: Vec<PathBuf> = compile
        .include_dirs()
        .map(|dir| call.cwd.join(OsStr::from_bytes(dir)))
        .collect();
    if compile.language.is_preprocessed() {
        return Ok(dirs);
    }
    let name = compiler.argv.first().map_or(&b"cc"[..], Vec::as_slice);
    let mut question = Command::new(&compiler.exe);
    std::os::unix::process::CommandExt::arg0(&mut question, OsStr::from_bytes(name));
    let flags = compile
        .search_flags
        .iter()
        .map(|flag| OsStr::from_bytes(flag));
    let answer = question
        .args(flags)
        .args(["-x", compile.language.name(), "-E", "-v", "/dev/null"])
        .env_clear()
        .envs(
            compiler
                .env
                .iter()
                .map(|(name, value)| (OsStr::from_bytes(name), OsStr::from_bytes(value))),
        )
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(InPlace::cannot("ask the compiler where it searches"))?;
    let said = answer.stderr;
    let mut lines = said.split(|byte| *byte == b'\n');
    if !answer.status.success() || !lines.any(|line| line.starts_with(b"#include ")) {
        return Err(InPlace::new("the compiler does not say where it searches"));
    }
    for line in lines {
        if line == b"End of search list." {
            return Ok(dirs);
        }
        if let Some(dir) = line.strip_prefix(b" ") {
            dirs.push(call.cwd.join(std::ffi::OsString::from_vec(dir.to_vec())));
        }
    }
    Err(InPlace::new("the compiler does not say where it searches"))
}
