//! Becoming the real compiler.
//!
//! If the executor laid the shim over the compiler, the store object without it is mounted over
//! the one with it, in a mount namespace of this process alone, and the very same path is executed
//! with the very same arguments: `$0` of a wrapper script, `/proc/self/exe` and a search relative
//! to either then give what they give without the shim. If the shim was found by `PATH`, the next
//! program of its name there is executed, with the shim's directories taken out of `PATH`.

use alloc::ffi::CString;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ffi::CStr;

use droste_start::{Start, StringList, Strings};
use rustix::fs::{Access, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use shim_core::kernel_error::KernelError;
use shim_core::protocol::PLAIN_DIR;

use crate::paths::{c_string, file_name, join, parent};

const OWN_FILE: &CStr = c"/proc/self/exe";
const PATH: &[u8] = b"PATH=";

/// Where shells search if there is no `PATH`.
const DEFAULT_PATH: &[u8] = b"/usr/local/bin:/usr/bin:/bin";

/// The path of the shim's own file.
pub fn own_file() -> Result<CString, Errno> {
    rustix::fs::readlinkat(CWD, OWN_FILE, Vec::new())
}

/// Replaces this process by the real compiler; comes back with the reason if there is none.
pub fn run(start: &Start) -> String {
    let own = match rustix::fs::stat(OWN_FILE) {
        Ok(stat) => Identity::from(&stat),
        Err(error) => return format!("cannot find its own file: {}", KernelError(error)),
    };
    let file = match own_file() {
        Ok(file) => file,
        Err(error) => return format!("cannot find its own path: {}", KernelError(error)),
    };
    let plain = c_string([PLAIN_DIR.as_bytes(), file.to_bytes()].concat());
    if is_other(&plain, &own) {
        interposed(start, &own, &file, &plain)
    } else {
        by_path(start, &own, &file)
    }
}

/// The kernel follows no more (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// A file's device and inode.
#[derive(PartialEq, Eq)]
struct Identity(u64, u64);

impl Identity {
    fn of(path: &CStr) -> Option<Self> {
        rustix::fs::stat(path).ok().map(|stat| Self::from(&stat))
    }
}

impl From<&Stat> for Identity {
    fn from(stat: &Stat) -> Self {
        Self(stat.st_dev, stat.st_ino)
    }
}

fn is_other(path: &CStr, own: &Identity) -> bool {
    Identity::of(path).is_some_and(|identity| identity != *own)
}

fn interposed(start: &Start, own: &Identity, file: &CStr, plain: &CStr) -> String {
    let executed = start.executed();
    let program = match uncover(file.to_bytes()) {
        Ok(()) if is_other(executed, own) => executed,
        // Executed by another way than its path, such as a descriptor.
        Ok(()) if is_other(file, own) => file,
        // The arguments are right, only the program's own idea of its place is not.
        Ok(()) | Err(_) => plain,
    };
    execute(program, start.arguments(), start.environment())
}

/// Puts the store object without the shim in the place of the one with it, for this process and
/// what it becomes.
fn uncover(file: &[u8]) -> Result<(), Errno> {
    let object = object_of(file);
    let cwd = rustix::process::getcwd(Vec::new());
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    droste_start::unshare_user_and_mounts()?;
    // user_namespaces(7): groups may be mapped without privilege only where setgroups is denied.
    write(c"/proc/self/setgroups", "deny")?;
    let uid = uid.as_raw();
    write(c"/proc/self/uid_map", &format!("{uid} {uid} 1"))?;
    let gid = gid.as_raw();
    write(c"/proc/self/gid_map", &format!("{gid} {gid} 1"))?;
    // A namespace of another user's gets mounts as slaves, so nothing of this goes back.
    rustix::mount::mount_bind([PLAIN_DIR.as_bytes(), object].concat(), object)?;
    // The current directory is still the covered one if it lies there.
    if let Ok(cwd) = cwd
        && let Some(rest) = cwd.to_bytes().strip_prefix(object)
        && matches!(rest, [] | [b'/', ..])
    {
        rustix::process::chdir(cwd)?;
    }
    Ok(())
}

/// The store object that a file is in or is: the first directory on the way to it that is the same
/// with and without the shims. Those above it are not, whatever directory the store is.
fn object_of(file: &[u8]) -> &[u8] {
    let ends = (1..file.len()).filter(|&end| file[end] == b'/');
    let mut dirs = ends.map(|end| &file[..end]);
    let is_same = |dir: &&[u8]| {
        let with = Identity::of(&c_string(dir.to_vec()));
        with.is_some() && with == Identity::of(&c_string([PLAIN_DIR.as_bytes(), *dir].concat()))
    };
    dirs.find(is_same).unwrap_or(file)
}

/// These files take what they are given in one piece or not at all.
fn write(path: &CStr, text: &str) -> Result<(), Errno> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(file, text.as_bytes())?;
    Ok(())
}

fn by_path(start: &Start, own: &Identity, file: &CStr) -> String {
    let executed = start.executed().to_bytes();
    let name = file_name(executed);
    if name.is_empty() {
        return "has no name".to_string();
    }
    let own_dirs: Vec<Identity> = [file.to_bytes(), executed]
        .into_iter()
        .filter_map(|path| Identity::of(&c_string(parent(path).to_vec())))
        .collect();
    let is_own_dir = |dir: &[u8]| {
        let dir = if dir.is_empty() { b"." } else { dir };
        Identity::of(&c_string(dir.to_vec())).is_some_and(|identity| own_dirs.contains(&identity))
    };
    let dirs: Vec<&[u8]> = start
        .variable(b"PATH")
        .unwrap_or(DEFAULT_PATH)
        .split(|&byte| byte == b':')
        .filter(|dir| !is_own_dir(dir))
        .collect();
    let real = links(executed).iter().find_map(|link| {
        let mut files = dirs.iter().map(|dir| c_string(join(dir, file_name(link))));
        files.find(|path| is_program(path, own))
    });
    let Some(real) = real else {
        let name = String::from_utf8_lossy(name);
        return format!("there is no `{name}` but itself in PATH");
    };
    // A name without a slash is what a search in PATH leaves; a compiler repeats that search.
    let is_path = |argument: &CStr| argument.to_bytes().contains(&b'/');
    let first = start.arguments().next();
    // Under the name of a link it would find the shim, or nothing.
    let is_link = file_name(real.to_bytes()) != name;
    let first = first.map(|first| match is_link || is_path(first) {
        true => &*real,
        false => first,
    });
    let arguments: StringList = first.into_iter().chain(start.arguments().skip(1)).collect();
    let search = c_string([PATH, &dirs.join(&b':')].concat());
    let environment: StringList = start
        .environment()
        .map(|entry| match entry.to_bytes().starts_with(PATH) {
            true => &*search,
            false => entry,
        })
        .collect();
    execute(&real, arguments.as_strings(), environment.as_strings())
}

/// A path and, if it is a symlink, those that it leads to one after the other: a link of another
/// name to a shim means what that shim stands for.
fn links(path: &[u8]) -> Vec<Vec<u8>> {
    let mut links = Vec::from([path.to_vec()]);
    while links.len() <= LINKS_MAX {
        let here = &links[links.len() - 1];
        let Ok(target) = rustix::fs::readlink(c_string(here.clone()), Vec::new()) else {
            break;
        };
        let target = target.as_bytes();
        let next = match target.starts_with(b"/") {
            true => target.to_vec(),
            false => join(parent(here), target),
        };
        links.push(next);
    }
    links
}

fn is_program(path: &CStr, own: &Identity) -> bool {
    rustix::fs::stat(path).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && Identity::from(&stat) != *own
    }) && rustix::fs::access(path, Access::EXEC_OK).is_ok()
}

fn execute(program: &CStr, arguments: Strings<'_>, environment: Strings<'_>) -> String {
    let error = KernelError(droste_start::execute(program, arguments, environment));
    let program = program.to_string_lossy();
    format!("cannot execute `{program}`: {error}")
}
