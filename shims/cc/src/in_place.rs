//! Becoming the real compiler.
//!
//! If the executor laid the shim over the compiler, the store object without it is mounted over
//! the one with it, in a mount namespace of this process alone, and the very same path is executed
//! with the very same arguments: `$0` of a wrapper script, `/proc/self/exe` and a search relative
//! to either then give what they give without the shim. If the shim was found by `PATH`, the next
//! program of its name there is executed, with the shim's directories taken out of `PATH`.

use std::ffi::{CString, OsStr, OsString};
use std::fs::Metadata;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use droste_sys::Namespaces;
use rustix::fs::Access;
use shim_core::protocol::PLAIN_DIR;

use crate::Never;

const STORE_DIR: &str = "/nix/store/";
const OWN_FILE: &str = "/proc/self/exe";

/// The path of the shim's own file.
pub fn own_file() -> std::io::Result<PathBuf> {
    std::fs::read_link(OWN_FILE)
}

/// Replaces this process by the real compiler.
///
/// # Errors
/// When there is none.
pub fn run() -> Never {
    let own = Identity::of(Path::new(OWN_FILE)).ok_or("cannot find its own file")?;
    let file = own_file().map_err(|error| format!("{OWN_FILE}: {error}"))?;
    let plain = below(Path::new(PLAIN_DIR), &file);
    if Identity::of(&plain).is_some_and(|identity| identity != own) {
        interposed(&own, &file, &plain)
    } else {
        by_path(&own, &file)
    }
}

/// A file's device and inode.
#[derive(PartialEq, Eq)]
struct Identity(u64, u64);

impl Identity {
    fn of(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().map(|file| Self::from(&file))
    }
}

impl From<&Metadata> for Identity {
    fn from(file: &Metadata) -> Self {
        Self(file.dev(), file.ino())
    }
}

fn below(root: &Path, absolute: &Path) -> PathBuf {
    let mut path = root.as_os_str().to_owned();
    path.push(absolute);
    path.into()
}

fn interposed(own: &Identity, file: &Path, plain: &Path) -> Never {
    let is_real = |path: &Path| Identity::of(path).is_some_and(|identity| identity != *own);
    let executed = OsStr::from_bytes(rustix::param::linux_execfn().to_bytes());
    let program = match uncover(file) {
        Ok(()) if is_real(Path::new(executed)) => executed,
        // Executed by another way than its path, such as a descriptor.
        Ok(()) if is_real(file) => file.as_os_str(),
        // The arguments are right, only the program's own idea of its place is not.
        Ok(()) | Err(_) => plain.as_os_str(),
    };
    execute(program, std::env::args_os().collect(), None)
}

/// Puts the store object without the shim in the place of the one with it, for this process and
/// what it becomes.
fn uncover(file: &Path) -> std::io::Result<()> {
    let object = file
        .strip_prefix(STORE_DIR)
        .ok()
        .and_then(|rest| rest.iter().next())
        .map(|base| Path::new(STORE_DIR).join(base))
        .ok_or(std::io::ErrorKind::NotFound)?;
    let cwd = std::env::current_dir();
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    droste_sys::unshare(Namespaces::USER | Namespaces::MOUNT)?;
    // user_namespaces(7): groups may be mapped without privilege only where setgroups is denied.
    std::fs::write("/proc/self/setgroups", "deny")?;
    let uid = uid.as_raw();
    std::fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    let gid = gid.as_raw();
    std::fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
    // A namespace of another user's gets mounts as slaves, so nothing of this goes back.
    rustix::mount::mount_bind(below(Path::new(PLAIN_DIR), &object), &object)?;
    // The current directory is still the covered one if it lies there.
    if let Ok(cwd) = cwd
        && cwd.starts_with(&object)
    {
        std::env::set_current_dir(cwd)?;
    }
    Ok(())
}

fn by_path(own: &Identity, file: &Path) -> Never {
    let executed = Path::new(OsStr::from_bytes(rustix::param::linux_execfn().to_bytes()));
    let name = executed.file_name().ok_or("has no name")?;
    let own_dirs: Vec<Identity> = [file, executed]
        .into_iter()
        .filter_map(|path| Identity::of(&parent(path)))
        .collect();
    let search = std::env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> = std::env::split_paths(&search)
        .filter(|dir| {
            let dir = if dir.as_os_str().is_empty() {
                Path::new(".")
            } else {
                dir
            };
            Identity::of(dir).is_none_or(|identity| !own_dirs.contains(&identity))
        })
        .collect();
    let real = dirs
        .iter()
        .map(|dir| dir.join(name))
        .find(|path| is_program(path, own))
        .ok_or_else(|| format!("there is no `{}` but itself in PATH", name.display()))?;
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    // A name without a slash is what a search in PATH leaves; a compiler repeats that search.
    if let Some(first) = arguments.first_mut()
        && first.as_bytes().contains(&b'/')
    {
        *first = real.clone().into_os_string();
    }
    let environment = std::env::vars_os()
        .map(|(name, value)| {
            let mut entry = name;
            let is_path = entry == "PATH";
            entry.push("=");
            match is_path {
                true => entry.push(std::env::join_paths(&dirs).unwrap_or_default()),
                false => entry.push(value),
            }
            entry
        })
        .collect();
    execute(real.as_os_str(), arguments, Some(environment))
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(dir) if dir.as_os_str().is_empty() => PathBuf::from("."),
        Some(dir) => dir.to_owned(),
        None => PathBuf::from("/"),
    }
}

fn is_program(path: &Path, own: &Identity) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.is_file() && Identity::from(&file) != *own)
        && rustix::fs::access(path, Access::EXEC_OK).is_ok()
}

fn execute(program: &OsStr, arguments: Vec<OsString>, environment: Option<Vec<OsString>>) -> Never {
    let string = |text: OsString| CString::new(text.into_vec()).map_err(|error| error.to_string());
    let strings = |list: Vec<OsString>| list.into_iter().map(string).collect::<Result<Vec<_>, _>>();
    let name = program.display().to_string();
    let program = string(program.to_owned())?;
    let arguments = strings(arguments)?;
    let environment = environment.map(strings).transpose()?;
    droste_sys::execve_as_inherited(&program, &arguments, environment.as_deref())
        .map_err(|error| format!("cannot execute `{name}`: {error}"))
}
