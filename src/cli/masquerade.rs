//! Standing in for compilers: the directory of shims, and the programs behind them.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use rustix::io::Errno;
use rustix::process::Pid;
use shim_core::args::{Tool, tool_of};
use store_types::sha256;

use crate::embedded;

/// The shim's file among the links to it.
const SHIM: &str = "droste-shim";

/// What a shell returns for a command that is not there.
pub const NOT_FOUND: u8 = 127;

/// Makes a directory with a shim for each compiler that this `PATH` has, and returns its
/// path. A name that the `PATH` does not have gets none: whoever looks whether there is a
/// `clang` is to find none.
///
/// # Errors
/// If it cannot be written.
pub fn lay_shims(bin: &Path, search: &OsStr) -> io::Result<PathBuf> {
    let names = compilers(search, bin);
    // By content: such a directory never changes, and all who want the same share it.
    let mut key = sha256(embedded::SHIM_CC).bytes().to_vec();
    for name in &names {
        key.extend_from_slice(name.as_bytes());
        key.push(0);
    }
    let dir = bin.join(&sha256(&key).to_hex()[..32]);
    if dir.is_dir() {
        return Ok(dir);
    }
    std::fs::create_dir_all(bin)?;
    let new = tempfile::Builder::new().prefix("new-").tempdir_in(bin)?;
    let shim = new.path().join(SHIM);
    std::fs::write(&shim, embedded::SHIM_CC)?;
    let all = std::os::unix::fs::PermissionsExt::from_mode;
    std::fs::set_permissions(&shim, all(0o555))?;
    for name in &names {
        std::os::unix::fs::symlink(SHIM, new.path().join(name))?;
    }
    std::fs::set_permissions(new.path(), all(0o755))?;
    match std::fs::rename(new.path(), &dir) {
        Ok(()) => {
            let _moved = new.keep();
            Ok(dir)
        }
        // Another was faster.
        Err(_) if dir.is_dir() => Ok(dir),
        Err(error) => Err(error),
    }
}

/// The names of the compilers in a `PATH`, without what lies below `bin`.
fn compilers(search: &OsStr, bin: &Path) -> BTreeSet<OsString> {
    let mut names = BTreeSet::new();
    for dir in std::env::split_paths(search) {
        // A relative directory is another one with every change of directory.
        if !dir.is_absolute() || dir.starts_with(bin) {
            continue;
        }
        let Ok(entries) = std::fs::read_dir(&dir) else {
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if tool_of(name.as_bytes()).is_some_and(Tool::has_shim)
                && !names.contains(&name)
                && is_program(&entry.path())
            {
                names.insert(name);
            }
        }
    }
    names
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.is_file())
        && rustix::fs::access(path, Access::EXEC_OK).is_ok()
}

/// The program that a command names, as execvp(3) finds it, among those that are `wanted`.
pub fn find_program(name: &OsStr, wanted: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return Some(name.into());
    }
    let search = std::env::var_os("PATH")?;
    std::env::split_paths(&search)
        .map(|dir| match dir.as_os_str().is_empty() {
            true => Path::new(".").join(name),
            false => dir.join(name),
        })
        .find(|path| is_program(path) && wanted(path))
}

/// Becomes a program, with everything that this process was started with.
///
/// # Errors
/// Always, if it comes back.
pub fn execute(program: &Path, arguments: &[OsString]) -> io::Result<Infallible> {
    let string = |text: &OsStr| CString::new(text.to_owned().into_vec());
    let program = string(program.as_os_str())?;
    let arguments = arguments
        .iter()
        .map(|argument| string(argument))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(droste_sys::execve_as_inherited(&program, &arguments, None)?)
}

/// Makes a process that prepares itself and then becomes a program, as [`execute`] does.
///
/// # Errors
/// If there is none to be had.
pub fn start(
    program: &Path,
    arguments: &[OsString],
    prepare: &dyn Fn() -> Result<(), Errno>,
) -> Result<Pid, Errno> {
    let single = droste_sys::SingleThreaded::check()?;
    match droste_sys::clone3(&single, droste_sys::Namespaces::NONE)? {
        droste_sys::Fork::Parent { pid, .. } => Pid::from_raw(pid).ok_or(Errno::INVAL),
        droste_sys::Fork::Child => {
            let prepared = prepare().map_err(io::Error::from);
            let Err(error) = prepared.and_then(|()| execute(program, arguments));
            eprintln!("droste: cannot run `{}`: {error}", program.display());
            std::process::exit(NOT_FOUND.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shims_have_the_names_of_the_compilers_in_the_path_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let (tools, bin) = (dir.path().join("tools"), dir.path().join("bin"));
        std::fs::create_dir(&tools).unwrap();
        for (name, mode) in [
            ("gcc", 0o755),
            ("g++-12", 0o755),
            ("make", 0o755),
            ("cc", 0o644),
        ] {
            let file = tools.join(name);
            std::fs::write(&file, "").unwrap();
            let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(file, permissions).unwrap();
        }
        let search = std::env::join_paths([&tools, Path::new("relative"), &bin]).unwrap();
        let shims = lay_shims(&bin, &search).unwrap();
        let names = |dir: &Path| -> BTreeSet<OsString> {
            let entries = std::fs::read_dir(dir).unwrap();
            entries.map(|entry| entry.unwrap().file_name()).collect()
        };
        assert_eq!(
            names(&shims),
            [SHIM, "g++-12", "gcc"].map(OsString::from).into()
        );
        let search = std::env::join_paths([&shims, &tools]).unwrap();
        assert_eq!(lay_shims(&bin, &search).unwrap(), shims);
        assert_eq!(names(&bin).len(), 1);
    }
}
