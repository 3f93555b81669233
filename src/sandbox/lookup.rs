//! What a call that waits is about to look up.
//!
//! It is read from the caller's registers, memory and `/proc` while the caller waits. Another
//! thread of its can change all of that before the kernel looks itself, so this tells what a
//! program that does not set out to hide its lookups looks up.
//!
//! Not seen are the files that the kernel opens by itself: the interpreter of a script or of a
//! dynamic program ([`Intent::Execute`]), and the links and directories on the way.

use std::os::fd::OwnedFd;

use droste_sys::{Listener, Notification, read_c_string, read_memory};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::calls::{self, Call};

/// Longest path, its zero byte included (`PATH_MAX`, path_resolution(7)).
const PATH_BYTES_MAX: usize = 4096;

/// What a call is about to look up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The file of this name.
    Path {
        /// Absolute, as the caller's mount namespace has it; `.`, `..` and links are still in it.
        path: Vec<u8>,
        /// What for.
        intent: Intent,
        /// A link as its last part is followed.
        follows: bool,
    },
    /// The names in a directory.
    List {
        /// Absolute, free of links.
        path: Vec<u8>,
    },
    /// It looks something up that could not be found out: the directory it starts at has been
    /// deleted, its memory cannot be read.
    Unreadable,
    /// It does something else than to look up a path, or changes what paths mean: mounts,
    /// chroot(2), files by handle.
    Other,
}

/// What a path is looked up for. The file need not be there in any of these cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// To see whether and what it is: stat(2), access(2), readlink(2), chdir(2), open(2) with
    /// `O_PATH`, the source of link(2).
    Look,
    /// To read what it holds: open(2) for reading.
    Read,
    /// To execute it.
    Execute,
    /// To write it anew: open(2) with `O_CREAT` and `O_TRUNC`, or creat(2). Nothing of what it
    /// holds is read.
    Overwrite,
    /// To change it, or to make it with nothing in it if it is missing: open(2) for writing in
    /// other ways, truncate(2), chmod(2), chown(2), utime(2).
    Modify,
    /// To make it, and to fail if it is there: open(2) with `O_EXCL`, mkdir(2), mknod(2),
    /// symlink(2), the target of link(2), rename without replacing.
    CreateNew,
    /// To take it away: unlink(2), rmdir(2), the source of rename(2).
    Remove,
    /// To put another in its place: the target of rename(2), both sides of an exchange.
    Replace,
}

/// The caller has ended, or its call was interrupted: nothing waits for an answer any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

/// What the call is about to look up: nothing, one thing, or two in the order of its arguments.
///
/// Nothing is looked up by a call that fails before (the path is too long, the directory's
/// descriptor is none), or that is about a descriptor alone (`AT_EMPTY_PATH`).
pub fn lookups(listener: &Listener, call: &Notification) -> Result<Vec<Lookup>, Gone> {
    let Some(kind) = calls::call(call.arch, call.number) else {
        return Ok(vec![Lookup::Other]);
    };
    let result = Caller(call).lookups(kind);
    // What was read was another process's if the caller's id has been given to one in between.
    if listener.is_waiting(call) {
        Ok(result.unwrap_or_else(|_| vec![Lookup::Unreadable]))
    } else {
        Err(Gone)
    }
}

/// `/` as the caller sees it, as an `O_PATH` descriptor: what openat2(2) finds from it with
/// `RESOLVE_IN_ROOT` is what the caller would find. To make files there, one may have to be the
/// user that the caller is ([`FileUser`](crate::FileUser)).
pub fn root_of(listener: &Listener, call: &Notification) -> Result<OwnedFd, Gone> {
    let path = format!("/proc/{}/root", call.pid);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(path, flags, Mode::empty());
    match root {
        Ok(root) if listener.is_waiting(call) => Ok(root),
        _ => Err(Gone),
    }
}

/// Something of the caller's could not be read.
struct Unreadable;

/// Where a path is looked up from.
enum Start {
    /// This directory, or not a directory but a file.
    At(Vec<u8>),
    /// Nowhere: the descriptor is none.
    Nowhere,
}

struct Caller<'a>(&'a Notification);

/// The `At` flags of a call (openat(2)): `AT_SYMLINK_NOFOLLOW`.
const NO_FOLLOW: u32 = 0x100;
/// `AT_SYMLINK_FOLLOW`.
const FOLLOW: u32 = 0x400;
/// `AT_EMPTY_PATH`.
const EMPTY_PATH: u32 = 0x1000;
/// `AT_FDCWD`.
const WORKING_DIRECTORY: i32 = -100;
/// inotify(7): `IN_DONT_FOLLOW`.
const INOTIFY_NO_FOLLOW: u32 = 0x0200_0000;
/// rename(2): `RENAME_NOREPLACE` and `RENAME_EXCHANGE`.
const RENAME_NO_REPLACE: u32 = 1;
const RENAME_EXCHANGE: u32 = 2;
/// openat2(2): `RESOLVE_IN_ROOT`.
const RESOLVE_IN_ROOT: u64 = 0x10;

impl Caller<'_> {
    fn lookups(&self, call: Call) -> Result<Vec<Lookup>, Unreadable> {
        use Intent::*;
        let [first, second, third, fourth, fifth, _] = self.0.arguments;
        let cwd = WORKING_DIRECTORY;
        let follows = |flags: u64| flags as u32 & NO_FOLLOW == 0;
        let one = |directory: i32, path: u64, intent, follows| {
            Ok(self
                .path(directory, path, intent, follows)?
                .into_iter()
                .collect())
        };
        let two = |source: Option<Lookup>, target: Option<Lookup>| {
            Ok(source.into_iter().chain(target).collect())
        };
        match call {
            Call::Open => {
                let (intent, follows) = opened(second as u32);
                one(cwd, first, intent, follows)
            }
            Call::OpenAt => {
                let (intent, follows) = opened(third as u32);
                one(fd(first), second, intent, follows)
            }
            Call::OpenAt2 => self.openat2(fd(first), second, third),
            Call::Creat => one(cwd, first, Overwrite, true),
            Call::Look => one(cwd, first, Look, true),
            Call::LookAtLink => one(cwd, first, Look, false),
            Call::LookAt => one(fd(first), second, Look, follows(fourth)),
            Call::Statx | Call::OpenTree => one(fd(first), second, Look, follows(third)),
            Call::FAccessAt => one(fd(first), second, Look, true),
            Call::ReadLinkAt => one(fd(first), second, Look, false),
            Call::Execve => one(cwd, first, Execute, true),
            Call::ExecveAt => self.execveat(fd(first), second, fifth as u32),
            Call::List => Ok(match self.start(fd(first))? {
                Start::At(path) => vec![Lookup::List { path }],
                Start::Nowhere => Vec::new(),
            }),
            Call::Make => one(cwd, first, CreateNew, false),
            Call::MakeAt => one(fd(first), second, CreateNew, false),
            Call::Remove => one(cwd, first, Remove, false),
            Call::RemoveAt => one(fd(first), second, Remove, false),
            Call::Rename => two(
                self.path(cwd, first, Remove, false)?,
                self.path(cwd, second, Replace, false)?,
            ),
            Call::RenameAt | Call::RenameAt2 => {
                let flags = if call == Call::RenameAt2 {
                    fifth as u32
                } else {
                    0
                };
                let (from, to) = match flags {
                    flags if flags & RENAME_EXCHANGE != 0 => (Replace, Replace),
                    flags if flags & RENAME_NO_REPLACE != 0 => (Remove, CreateNew),
                    _ => (Remove, Replace),
                };
                two(
                    self.path(fd(first), second, from, false)?,
                    self.path(fd(third), fourth, to, false)?,
                )
            }
            Call::Link => two(
                self.path(cwd, first, Look, false)?,
                self.path(cwd, second, CreateNew, false)?,
            ),
            Call::LinkAt => two(
                self.path(fd(first), second, Look, fifth as u32 & FOLLOW != 0)?,
                self.path(fd(third), fourth, CreateNew, false)?,
            ),
            Call::Symlink => one(cwd, second, CreateNew, false),
            Call::SymlinkAt => one(fd(second), third, CreateNew, false),
            Call::Modify => one(cwd, first, Modify, true),
            Call::ModifyLink => one(cwd, first, Modify, false),
            Call::FChmodAt => one(fd(first), second, Modify, true),
            Call::ModifyAt => one(fd(first), second, Modify, follows(fourth)),
            Call::FChownAt | Call::SetFileAttributes => {
                one(fd(first), second, Modify, follows(fifth))
            }
            Call::FileAttributes => one(fd(first), second, Look, follows(fifth)),
            Call::NameToHandle => one(fd(first), second, Look, fifth as u32 & FOLLOW != 0),
            Call::InotifyAdd => one(cwd, second, Look, third as u32 & INOTIFY_NO_FOLLOW == 0),
            Call::Other => Ok(vec![Lookup::Other]),
        }
    }

    fn openat2(&self, directory: i32, path: u64, how: u64) -> Result<Vec<Lookup>, Unreadable> {
        // `struct open_how`: flags, mode and resolve, and what later kernels add.
        let mut bytes = [0; 24];
        if !matches!(read_memory(self.0.pid, how, &mut bytes), Ok(24)) {
            return Err(Unreadable);
        }
        let word = |at: usize| {
            bytes[at..at + 8]
                .iter()
                .rev()
                .fold(0, |n, b| n << 8 | u64::from(*b))
        };
        let (intent, follows) = opened(word(0) as u32);
        if word(16) & RESOLVE_IN_ROOT == 0 {
            let lookup = self.path(directory, path, intent, follows)?;
            return Ok(lookup.into_iter().collect());
        }
        // There the directory is `/`; what `..` and links mean is not what they mean elsewhere.
        let Some(path) = self.string(path)? else {
            return Ok(Vec::new());
        };
        if path.split(|&byte| byte == b'/').any(|part| part == b"..") {
            return Err(Unreadable);
        }
        let inside = path.iter().position(|&byte| byte != b'/');
        let inside = &path[inside.unwrap_or(path.len())..];
        Ok(match self.start(directory)? {
            Start::At(start) => vec![Lookup::Path {
                path: join(start, inside),
                intent,
                follows,
            }],
            Start::Nowhere => Vec::new(),
        })
    }

    fn execveat(&self, directory: i32, path: u64, flags: u32) -> Result<Vec<Lookup>, Unreadable> {
        let lookup = self.path(directory, path, Intent::Execute, flags & NO_FOLLOW == 0)?;
        if lookup.is_some() || flags & EMPTY_PATH == 0 {
            return Ok(lookup.into_iter().collect());
        }
        // The file is open already; but its interpreter is not.
        Ok(match self.start(directory)? {
            Start::At(path) => vec![Lookup::Path {
                path,
                intent: Intent::Execute,
                follows: false,
            }],
            Start::Nowhere => Vec::new(),
        })
    }

    /// The lookup of a path relative to a directory, if the call comes as far as that.
    fn path(
        &self,
        directory: i32,
        address: u64,
        intent: Intent,
        follows: bool,
    ) -> Result<Option<Lookup>, Unreadable> {
        let Some(path) = self.string(address)? else {
            return Ok(None);
        };
        let path = match path.first() {
            // The call is about the descriptor alone, or fails.
            None => return Ok(None),
            Some(b'/') => path,
            Some(_) => match self.start(directory)? {
                Start::At(start) => join(start, &path),
                Start::Nowhere => return Ok(None),
            },
        };
        Ok(Some(Lookup::Path {
            path,
            intent,
            follows,
        }))
    }

    /// A path in the caller's memory; `None` if there is none (some calls take a null pointer) or
    /// if it is longer than any path.
    fn string(&self, address: u64) -> Result<Option<Vec<u8>>, Unreadable> {
        if address == 0 {
            return Ok(None);
        }
        read_c_string(self.0.pid, address, PATH_BYTES_MAX).map_err(|_| Unreadable)
    }

    /// The directory that relative paths start at.
    fn start(&self, directory: i32) -> Result<Start, Unreadable> {
        let pid = self.0.pid;
        let link = if directory == WORKING_DIRECTORY {
            format!("/proc/{pid}/cwd")
        } else if directory < 0 {
            return Ok(Start::Nowhere);
        } else {
            format!("/proc/{pid}/fd/{directory}")
        };
        match rustix::fs::readlink(link, Vec::with_capacity(256)) {
            Ok(target) => {
                let target = target.into_bytes();
                if !target.starts_with(b"/") {
                    // A socket or the like: no directory.
                    Ok(Start::Nowhere)
                } else if target.ends_with(b" (deleted)") {
                    Err(Unreadable)
                } else {
                    Ok(Start::At(target))
                }
            }
            Err(Errno::NOENT) if directory != WORKING_DIRECTORY => Ok(Start::Nowhere),
            Err(_) => Err(Unreadable),
        }
    }
}

/// The kernel looks at the lower half of the register only.
fn fd(argument: u64) -> i32 {
    (argument as u32).cast_signed()
}

fn join(mut directory: Vec<u8>, path: &[u8]) -> Vec<u8> {
    if directory.last() != Some(&b'/') {
        directory.push(b'/');
    }
    directory.extend_from_slice(path);
    directory
}

/// What a file is opened for (open(2)), and whether a link is followed.
fn opened(flags: u32) -> (Intent, bool) {
    let flags = OFlags::from_bits_retain(flags);
    let has = |bits| flags.contains(bits);
    let follows = !has(OFlags::NOFOLLOW);
    if has(OFlags::PATH) || has(OFlags::TMPFILE) {
        return (Intent::Look, follows);
    }
    if has(OFlags::CREATE | OFlags::EXCL) {
        return (Intent::CreateNew, false);
    }
    let reads_only = !flags.intersects(OFlags::WRONLY | OFlags::RDWR);
    let intent = match (has(OFlags::CREATE), has(OFlags::TRUNC)) {
        (true, true) => Intent::Overwrite,
        (false, false) if reads_only => Intent::Read,
        _ => Intent::Modify,
    };
    (intent, follows)
}
