//! Stands where a C or C++ compiler is expected.
//!
//! It tells the executor the call, and either writes what the executor hands back or becomes the
//! real compiler. It decides nothing about the call itself, and whatever goes wrong on its side
//! ends in the real compiler as well: see `docs/adr/0007-what-a-shim-decides.md`.

mod in_place;

use std::convert::Infallible;
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;

use rustix::fs::Mode;
use rustix::process::{Resource, getrlimit, umask};
use shim_core::client;
use shim_core::protocol::Call;

fn main() -> ExitCode {
    if !client::is_disabled()
        && !is_confined()
        && let Some(status) = ask()
    {
        return ExitCode::from(status);
    }
    let Err(error) = in_place::run();
    eprintln!("droste: {error}");
    // What a shell says when there is no such command.
    ExitCode::from(127)
}

/// Whether the caller has limits on which the compiler itself could fail, or no place for what it
/// prints. A child has none of them, and to write what it left could fail in the compiler's place.
fn is_confined() -> bool {
    let is_silenced = droste_sys::was_closed(1) || droste_sys::was_closed(2);
    let limited = [Resource::Fsize, Resource::As, Resource::Data, Resource::Cpu]
        .into_iter()
        .any(|resource| getrlimit(resource).current.is_some());
    // The compiler could not open its own temporary files again.
    let mask = umask(Mode::empty());
    umask(mask);
    is_silenced || limited || mask.intersects(Mode::RWXU)
}

fn ask() -> Option<u8> {
    // First, so that a build without an executor costs no more than this.
    let (server, socket) = client::connect()?;
    // A compiler has its own words for a directory that is not there.
    let call = call().ok()?;
    client::take_over(&server, &socket, &call)
}

fn call() -> std::io::Result<Call> {
    client::call(
        std::env::args_os().map(OsStringExt::into_vec).collect(),
        in_place::own_file()?,
        rustix::param::linux_execfn().to_bytes().to_vec(),
    )
}

/// What a function returns that comes back only if it failed.
type Never = Result<Infallible, String>;
