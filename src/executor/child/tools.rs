//! Which compiler a call means, and where that compiler looks by itself.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use shim_core::protocol::Call;
use store_types::{StoreDir, StorePath};

use super::environment::words;
use super::inputs::absolute;
use super::outcome::InPlace;
use super::tree::{Found, StoreTree, Walker, join, split_last};

/// A script longer than this is no compiler's wrapper.
const SCRIPT_LEN_MAX: usize = 256 << 10;

/// How many scripts may lead from one to the next.
const SCRIPTS_MAX: usize = 32;

/// The programs that a compiler driver looks for in `PATH`, if it does not find
/// them in its own directories. Source: gcc manual, "Environment Variables Affecting
/// GCC"; `gcc -print-prog-name=as` of a Debian gcc.
const SUBPROGRAMS: &[&str] = &[
    "as",
    "ld",
    "objcopy",
    "cc1",
    "cc1plus",
    "collect2",
    "lto-wrapper",
];

/// The compiler of a call.
#[derive(Clone)]
pub struct Compiler {
    /// What is executed: an absolute path, symlinks and all.
    pub exec_path: Vec<u8>,
    /// The store object that it is in.
    pub store_path: StorePath,
    /// The words of the script, if it is one.
    pub words: Option<Arc<HashSet<Vec<u8>>>>,
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

/// Finds the compiler that a shim stands in for.
///
/// A shim laid over a compiler has that compiler's path. One that was found by
/// `PATH` lies in the store object `shims`, and means the next program of its name
/// in `PATH` that does not.
pub fn find_compiler(
    walker: &mut Walker<'_>,
    store_dir: &StoreDir,
    store: &StoreTree,
    shims: Option<&StorePath>,
    call: &Call,
    env: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> Result<Compiler, InPlace> {
    let unknown = || InPlace::new("unknown-compiler");
    if call.exec_path.is_empty() {
        return Err(unknown());
    }
    let mut exec_path = absolute(&call.cwd, &call.exec_path);
    let exe = String::from_utf8(call.exe.clone()).map_err(|_| unknown())?;
    let (exe_path, _) = store_dir.split(&exe).ok_or_else(unknown)?;
    if Some(&exe_path) == shims {
        let name = split_last(&exec_path).1.to_vec();
        exec_path = next_in_path(walker, store_dir, &exe_path, &name, &call.cwd, env)?
            .ok_or_else(unknown)?;
    }
    let Found::StoreFile(real) = walker.find(b"/", &exec_path)? else {
        return Err(unknown());
    };
    let text = str::from_utf8(&real).map_err(|_| unknown())?;
    let (store_path, _) = store_dir.split(text).ok_or_else(unknown)?;
    Ok(Compiler {
        words: script_words(store, store_dir, &real)?,
        exec_path,
        store_path,
    })
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

/// The words of a script and of the scripts in the store that it names; `None` for
/// a program that is none.
fn script_words(
    store: &StoreTree,
    store_dir: &StoreDir,
    real: &[u8],
) -> Result<Option<Arc<HashSet<Vec<u8>>>>, InPlace> {
    if let Some(known) = store.known_words(real) {
        return Ok(known);
    }
    let mut all = None;
    let mut todo = vec![real.to_vec()];
    let mut seen: HashSet<Vec<u8>> = todo.iter().cloned().collect();
    while let Some(path) = todo.pop() {
        let Some(script) = read_script(store, store_dir, &path)? else {
            continue;
        };
        all.get_or_insert_with(HashSet::new).extend(words(&script));
        for named in store_files_named(&script, store_dir) {
            if seen.len() >= SCRIPTS_MAX {
                return Err(InPlace::new("unknown-compiler"));
            }
            if seen.insert(named.clone()) {
                todo.push(named);
            }
        }
    }
    let all = all.map(Arc::new);
    store.remember_words(real, all.clone());
    Ok(all)
}

/// The text of a file of the store, if it is one that an interpreter reads; of the
/// first file it must have `#!`, of others it is enough that they are text.
fn read_script(
    store: &StoreTree,
    store_dir: &StoreDir,
    path: &[u8],
) -> Result<Option<Vec<u8>>, InPlace> {
    let relative = &path[store_dir.as_str().len() + 1..];
    let Ok(fd) = rustix::fs::openat2(
        store.store_fd(),
        relative,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
        ResolveFlags::BENEATH,
    ) else {
        return Ok(None);
    };
    let mut bytes = Vec::with_capacity(4096);
    loop {
        match rustix::io::read(&fd, rustix::buffer::spare_capacity(&mut bytes)) {
            Ok(0) => break,
            Ok(_) if bytes.len() > SCRIPT_LEN_MAX => return Ok(None),
            // Binaries have zero bytes near their begin.
            Ok(_) if bytes[..bytes.len().min(64)].contains(&0) => return Ok(None),
            Ok(_) => bytes.reserve(4096),
            // A directory.
            Err(_) => return Ok(None),
        }
    }
    Ok(Some(bytes))
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
/// the build that holds such a program cannot be declared.
pub fn child_path(
    walker: &mut Walker<'_>,
    compiler: &Compiler,
    cwd: &[u8],
    env: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> Result<Vec<u8>, InPlace> {
    let mut kept: Vec<&[u8]> = Vec::new();
    for entry in path_entries(env) {
        let path = absolute(cwd, entry);
        let real = match walker.look(b"/", &path) {
            Ok(Found::Dir(real)) => real,
            Ok(_) => continue,
            Err(_) => return Err(InPlace::new("programs-outside-of-build")),
        };
        let Some(listing) = walker.listing(&real)? else {
            continue;
        };
        let has_subprogram = SUBPROGRAMS
            .iter()
            .any(|name| listing.contains_key(name.as_bytes()));
        let is_local = real.starts_with(super::tree::BUILD_DIR);
        let counts = has_subprogram || (compiler.words.is_some() && !listing.is_empty());
        if counts && is_local {
            return Err(InPlace::new("programs-in-build"));
        }
        if counts {
            walker.find(b"/", &path)?;
            kept.push(entry);
        }
    }
    Ok(kept.join(&b':'))
}

/// The directories that a compiler says it searches, from what it prints on
/// standard error for `-E -v`.
pub fn parse_search_dirs(stderr: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut dirs = Vec::new();
    let mut inside = false;
    let mut complete = false;
    for line in stderr.split(|byte| *byte == b'\n') {
        if line.starts_with(b"#include ") && line.ends_with(b"search starts here:") {
            inside = true;
        } else if line == b"End of search list." {
            complete = inside;
            inside = false;
        } else if inside && let Some(dir) = line.strip_prefix(b" ") {
            let dir = dir.strip_suffix(b" (framework directory)").unwrap_or(dir);
            dirs.push(dir.to_vec());
        }
    }
    complete.then_some(dirs)
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
        assert_eq!(
            parse_search_dirs(text).unwrap(),
            [&b"/q"[..], b"/s/include", b"/s/../y"]
        );
        assert_eq!(
            parse_search_dirs(b"#include <...> search starts here:\n /s\n"),
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
}
