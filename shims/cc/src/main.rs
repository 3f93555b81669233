//! Stands where a C or C++ compiler is expected.
//!
//! It tells the executor the call, and either writes what the executor hands back or becomes the
//! real compiler. It decides nothing about the call itself, and whatever goes wrong on its side
//! ends in the real compiler as well: see `docs/adr/0007-what-a-shim-decides.md`.

mod in_place;

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::ExitCode;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use shim_core::place;
use shim_core::protocol::{self, Answer, Call, Done, Window};

fn main() -> ExitCode {
    let reason = match ask() {
        Ok(Answer::Done(done)) => match place::place(&done.files) {
            Ok(()) => return finish(&done),
            Err(error) => error.to_string(),
        },
        Ok(Answer::InPlace { reason }) => String::from_utf8_lossy(&reason).into_owned(),
        Err(reason) => reason,
    };
    if std::env::var_os("DROSTE_VERBOSE").is_some() {
        eprintln!("droste: in place: {reason}");
    }
    let Err(error) = in_place::run();
    eprintln!("droste: {error}");
    // What a shell says when there is no such command.
    ExitCode::from(127)
}

fn ask() -> Result<Answer, String> {
    // First, so that a build without an executor costs no more than this.
    let socket = connect().map_err(|error| format!("{}: {error}", protocol::SOCKET_PATH))?;
    let call = call().map_err(|error| format!("cannot describe the call: {error}"))?;
    protocol::send_call(&socket, &call).map_err(|error| error.to_string())?;
    protocol::receive_answer(&socket).map_err(|error| error.to_string())
}

fn connect() -> Result<OwnedFd, Errno> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(protocol::SOCKET_PATH)?)?;
    Ok(socket)
}

fn call() -> std::io::Result<Call> {
    let entry = |(name, value): (OsString, OsString)| {
        let mut entry = name.into_vec();
        entry.push(b'=');
        entry.extend_from_slice(value.as_bytes());
        entry
    };
    Ok(Call {
        argv: std::env::args_os().map(OsString::into_vec).collect(),
        env: std::env::vars_os().map(entry).collect(),
        cwd: std::env::current_dir()?.into_os_string().into_vec(),
        exe: in_place::own_file()?.into_os_string().into_vec(),
        exec_path: rustix::param::linux_execfn().to_bytes().to_vec(),
        stdout_tty: window(rustix::stdio::stdout()),
        stderr_tty: window(rustix::stdio::stderr()),
    })
}

/// The size of the terminal, if it is one.
fn window(descriptor: BorrowedFd<'_>) -> Option<Window> {
    if !rustix::termios::isatty(descriptor) {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(descriptor).ok()?;
    Some(Window {
        rows: size.ws_row,
        columns: size.ws_col,
    })
}

fn finish(done: &Done) -> ExitCode {
    let out = place::copy(done.stdout.as_fd(), rustix::stdio::stdout());
    // A compiler does not care whether its messages arrive.
    let _ = place::copy(done.stderr.as_fd(), rustix::stdio::stderr());
    match (done.status, out) {
        (0, Err(_)) => ExitCode::FAILURE,
        (status, _) => ExitCode::from(status),
    }
}

/// What a function returns that comes back only if it failed.
type Never = Result<Infallible, String>;
