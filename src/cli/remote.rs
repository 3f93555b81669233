//! `droste remote`: what Nix runs as its remote builder, a pipe to the daemon.
//!
//! Nix starts one of these for each derivation that it has built; the daemon is one, so it is the
//! daemon that knows what runs.

use std::io;
use std::os::unix::net::UnixStream;

use clap::Args;
use droste_daemon::{ServeAccess, ServeError, serve_over_ssh};

use super::error::{CommandError, Hint};
use super::serving::{self, ServingError};
use super::stdio::Streams;
use super::{Context, exit_code, interrupt};

/// Be the remote builder of this machine's Nix: pass what it says on to the daemon
///
/// For `builders = ssh-ng://localhost?remote-program=/path/to/droste-remote x86_64-linux` in
/// nix.conf, and for `ssh-ng://HOST` and `ssh://HOST` on another machine. The work is done by the
/// daemon, which is started if it does not run.
#[derive(Debug, Args)]
pub struct RemoteArgs {
    /// Serve standard input and output, for `ssh-ng://`: what Nix tells every such program
    #[arg(long)]
    stdio: bool,
    /// Speak the older serve protocol, for `ssh://` and Nix 2.3
    #[arg(long, conflicts_with = "stdio")]
    serve: bool,
    /// Accept objects and build; without it, the serve protocol serves reads alone
    #[arg(long, requires = "serve")]
    write: bool,
}

#[derive(Debug, thiserror::Error)]
enum RemoteError {
    #[error(
        "`--stdio` or `--serve` is missing: this program serves a client on its standard input and output"
    )]
    NotAsked,
    #[error("there is no daemon to pass builds to")]
    NoDaemon(#[source] ServingError),
    #[error("cannot serve the client")]
    Serve(#[from] ServeError),
}

pub fn run(context: &Context, args: &RemoteArgs) -> Result<u8, CommandError> {
    if !args.stdio && !args.serve {
        return Err(RemoteError::NotAsked)
            .hint(|| "Nix runs it by itself: see `droste remote --help`");
    }
    let daemon = serving::connect_to(context, context.builds_socket()).map_err(|error| {
        let hint = error.hint(context);
        CommandError::from(RemoteError::NoDaemon(error)).with_hint(hint)
    })?;
    match args.serve {
        true => {
            let access = match args.write {
                true => ServeAccess::Write,
                false => ServeAccess::Read,
            };
            serve(context, daemon.into(), access).map_err(RemoteError::Serve)?
        }
        false => {
            let is_ended = interrupt::watch()?;
            Streams::take()?.hand_on(&daemon.into(), &context.builds_socket(), &is_ended)?;
        }
    }
    Ok(exit_code::SUCCESS)
}

/// Speaks the serve protocol with the client, and the worker protocol with the daemon. The serve
/// protocol has no place for logs: they go to standard error.
fn serve(context: &Context, daemon: UnixStream, access: ServeAccess) -> Result<(), ServeError> {
    let dir = context.store.dir.clone();
    let store = serving::store_behind(daemon, context.builds_socket(), dir);
    serve_over_ssh(
        io::stdin().lock(),
        io::stdout().lock(),
        &mut io::stderr(),
        &store,
        access,
    )
}
