//! The answer to a call out of a child's output.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, SealFlags};
use shim_core::manifest;
use shim_core::protocol::{self, Done, NewFile};

use super::index::Child;
use super::outcome::InPlace;
use super::tree::join;
use crate::Executor;

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
    let mut copy = File::from(rustix::fs::memfd_create("output", flags)?);
    std::io::copy(&mut File::from(file), &mut copy)?;
    seal(copy)
}

/// Why a child's output does not answer a call.
pub(super) enum Unusable {
    /// It says so.
    Reason(InPlace),
    /// It is not there any more.
    Gone,
}

/// The answer out of a child's output.
pub(super) fn reply(executor: &Executor, child: &Child) -> Result<Done, Unusable> {
    let reason = |reason| Unusable::Reason(InPlace::new(reason));
    let Some(status) = child.result.status else {
        return Err(reason("child-odd"));
    };
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
        let inside = join(manifest::FILES.as_bytes(), &file.path);
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

/// The descriptors of an answer: its files in order, then standard output and standard error.
pub(super) fn contents(done: &mut Done) -> Vec<&mut OwnedFd> {
    let files = done.files.iter_mut().map(|file| &mut file.content);
    files.chain([&mut done.stdout, &mut done.stderr]).collect()
}

/// Reads a file and leaves its offset alone: who gets it reads from there.
pub(super) fn read_content(content: &OwnedFd, max: u64) -> std::io::Result<Option<Vec<u8>>> {
    let file = File::from(content.try_clone()?);
    let len = file.metadata()?.len();
    if len > max {
        return Ok(None);
    }
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(Some(bytes))
}

/// A sealed file in memory.
pub(super) fn in_memory(bytes: &[u8]) -> std::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(rustix::fs::memfd_create("restored", flags)?);
    file.write_all(bytes)?;
    seal(file)
}

/// Makes of a file in memory one that never changes, to be read from its beginning.
fn seal(mut file: File) -> std::io::Result<OwnedFd> {
    file.rewind()?;
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    Ok(file.into())
}
