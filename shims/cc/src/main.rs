//! Stands where a C or C++ compiler is expected.
//!
//! It tells the executor the call, and either writes what the executor hands back or becomes the
//! real compiler. It decides nothing about the call itself, and whatever goes wrong on its side
//! ends in the real compiler as well: see `docs/adr/0007-what-a-shim-decides.md`.
//!
//! A hit lives for a fraction of a millisecond, less than a C library takes to start, so there is
//! none: see `droste_start`.

#![no_main]
#![cfg_attr(panic = "abort", no_std)]

extern crate alloc;

mod another_nix;
mod in_place;
mod paths;

use alloc::format;
use alloc::vec::Vec;
use core::ffi::CStr;

use droste_start::{Start, exit, fork, stderr, stdout};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit, umask};
use shim_core::client::Caller;
use shim_core::kernel_error::KernelError;
use shim_core::protocol::Call;

droste_start::program!(main, become_compiler);

fn main(start: &Start) -> u8 {
    let environment = start.environment().map(|entry| entry.to_bytes().to_vec());
    let caller = Caller::new(environment, stdout(), stderr());
    if !caller.is_disabled() && !is_confined() {
        ask(start, &caller);
    }
    become_compiler(start)
}

/// Comes back only if that fails.
fn become_compiler(start: &Start) -> u8 {
    let error = in_place::run(start);
    let _ = rustix::io::write(stderr(), format!("droste: {error}\n").as_bytes());
    // What a shell says when there is no such command.
    127
}

/// Whether the caller has limits on which the compiler itself could fail, or no place for what it
/// prints. A child has none of them, and to write what it left could fail in the compiler's place.
fn is_confined() -> bool {
    let is_closed = |descriptor| rustix::io::fcntl_getfd(descriptor) == Err(Errno::BADF);
    let is_silenced = is_closed(stdout()) || is_closed(stderr());
    let limited = [Resource::Fsize, Resource::As, Resource::Data, Resource::Cpu]
        .into_iter()
        .any(|resource| getrlimit(resource).current.is_some());
    // The compiler could not open its own temporary files again.
    let mask = umask(Mode::empty());
    umask(mask);
    is_silenced || limited || mask.intersects(Mode::RWXU)
}

/// Has the executor do the call, and ends as the compiler would; comes back if the compiler itself
/// has to run.
fn ask(start: &Start, caller: &Caller<'_>) {
    // First, so that a build without an executor costs no more than this.
    let Some((server, socket)) = caller.connect() else {
        another_nix::hand_over(start);
        return;
    };
    // A compiler has its own words for a directory that is not there.
    let Ok(call) = call(start, caller) else {
        return;
    };
    let status = caller.take_over(&server, &socket, &call, |prepare| match fork()? {
        Some(compiler) => Ok(compiler),
        None => {
            if let Err(error) = prepare() {
                let error = KernelError(error);
                let text = format!("droste: cannot redirect the compiler's output: {error}\n");
                let _ = rustix::io::write(stderr(), text.as_bytes());
                exit(127);
            }
            exit(become_compiler(start))
        }
    });
    if let Some(status) = status {
        exit(status);
    }
}

fn call(start: &Start, caller: &Caller<'_>) -> Result<Call, Errno> {
    let bytes = |string: &CStr| string.to_bytes().to_vec();
    let arguments: Vec<_> = start.arguments().map(bytes).collect();
    let exe = in_place::own_file()?.into_bytes();
    caller.call(arguments, exe, bytes(start.executed()))
}
