//! `droste cc`: one compiler call, as a shim makes it.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use clap::Args;
use shim_core::client::{Caller, Server};

use super::error::CommandError;
use super::{Context, masquerade, serving};

/// Run one compiler call, and memoize it: CC="droste cc gcc"
///
/// It ends as the compiler does, and prints what the compiler prints. See `droste run` for
/// the daemon behind it.
#[derive(Debug, Args)]
pub struct CcArgs {
    /// The compiler and its arguments
    #[arg(
        value_name = "COMPILER",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    command: Vec<OsString>,
}

/// There is no such compiler.
#[derive(Debug, thiserror::Error)]
#[error("cannot run `{}`", command.display())]
struct CompilerError {
    command: PathBuf,
    #[source]
    source: std::io::Error,
}

/// The command of `droste cc COMMAND…`, if that is what was typed and nothing else needs to be
/// understood of it: a compiler is called often.
pub fn plainly_typed() -> Option<CcArgs> {
    let mut arguments = std::env::args_os().skip(1);
    (arguments.next()? == "cc").then_some(())?;
    let command: Vec<OsString> = arguments.collect();
    let first = command.first()?;
    (!first.as_bytes().starts_with(b"-")).then_some(CcArgs { command })
}

pub fn run(context: &Context, args: &CcArgs) -> Result<u8, CommandError> {
    let bin = context.bin_dir();
    // A shim in front of the compiler would only do the same.
    let program = masquerade::find_program(&args.command[0], |path| !is_shim(path, &bin));
    let Some(program) = program else {
        return Ok(cannot_run(
            &args.command[0],
            rustix::io::Errno::NOENT.into(),
        ));
    };
    let caller = Caller::this_process();
    if !caller.is_disabled()
        && let Some(status) = ask(context, &caller, &program, &args.command)
    {
        return Ok(status);
    }
    let Err(source) = masquerade::execute(&program, &args.command);
    Ok(cannot_run(&args.command[0], source))
}

fn cannot_run(command: &OsString, source: std::io::Error) -> u8 {
    let command = command.into();
    CommandError::from(CompilerError { command, source }).print();
    masquerade::NOT_FOUND
}

fn is_shim(path: &Path, bin: &Path) -> bool {
    match (path.canonicalize(), bin.canonicalize()) {
        (Ok(path), Ok(bin)) => path.starts_with(bin),
        _ => false,
    }
}

/// Has the call done by whoever there is to do it: a build's executor, the server that the
/// environment names, or the daemon, which is started if need be.
fn ask(context: &Context, caller: &Caller<'_>, program: &Path, command: &[OsString]) -> Option<u8> {
    let is_named = Server::of_build().connect().is_ok() || caller.named_server().is_some();
    let (server, socket) = if is_named {
        caller.connect()?
    } else {
        let server = Server::of_host(context.calls_socket());
        match serving::connect(context) {
            Ok(socket) => (server, socket),
            Err(error) => {
                caller.warn(&server, &error);
                return None;
            }
        }
    };
    let argv = command
        .iter()
        .map(|argument| argument.clone().into_vec())
        .collect();
    let exe = program.canonicalize().ok()?.into_os_string().into_vec();
    let exec_path = program.as_os_str().as_bytes().to_vec();
    // A compiler has its own words for a directory that is not there.
    let call = caller.call(argv, exe, exec_path).ok()?;
    caller.take_over(&server, &socket, &call, |prepare| {
        masquerade::start(program, command, prepare)
    })
}
