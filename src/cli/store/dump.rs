//! `droste store dump`.

use std::io::{BufWriter, Write};

use clap::Args;

use super::{not_valid, open_existing, parse_path};
use crate::cli::error::{CommandError, Hint};
use crate::cli::{Context, OutputError, exit_code, is_stdout_terminal};

/// Write an object of the store to standard output as a NAR
#[derive(Debug, Args)]
pub struct DumpArgs {
    /// A store path, as it is inside builds or on this machine
    path: String,
}

/// It would be of no use.
#[derive(Debug, thiserror::Error)]
#[error("a NAR is not for reading on a terminal")]
struct TerminalError;

pub fn run(context: &Context, args: &DumpArgs) -> Result<u8, CommandError> {
    let store = open_existing(context)?;
    let path = parse_path(&store, &args.path)?;
    if !store.is_valid(&path)? {
        return Err(not_valid(&store, &path).into());
    }
    if is_stdout_terminal() {
        return Err(TerminalError)
            .hint(|| "send it to a file: `droste store dump PATH > FILE.nar`");
    }
    let mut out = BufWriter::new(std::io::stdout().lock());
    store.dump(&path, &mut out)?;
    out.flush().map_err(OutputError)?;
    Ok(exit_code::SUCCESS)
}
