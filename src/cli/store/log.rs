//! `droste store log`.

use std::io::Read as _;

use clap::Args;
use store_types::StorePath;

use super::{open_existing, parse_path};
use crate::cli::error::{CommandError, Hint};
use crate::cli::{Context, exit_code, print_bytes};

/// Print the logs of builds, as `nix log` does
///
/// Of a path that is no derivation, that of the derivation that it was built by.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// Store paths, as they are inside builds or on this machine
    #[arg(required = true)]
    paths: Vec<String>,
}

/// A log that cannot be printed.
#[derive(Debug, thiserror::Error)]
enum LogError {
    #[error("there is no log of `{0}`")]
    None(String),
    #[error("cannot read the log of `{drv}`")]
    Read {
        drv: String,
        #[source]
        source: std::io::Error,
    },
}

pub fn run(context: &Context, args: &LogArgs) -> Result<u8, CommandError> {
    let store = open_existing(context)?;
    for text in &args.paths {
        let path = parse_path(&store, text)?;
        let drv: Option<StorePath> = match path.is_derivation() {
            true => Some(path.clone()),
            false => store.path_info(&path)?.and_then(|info| info.deriver),
        };
        let log = drv.as_ref().map(|drv| store.build_log(drv)).transpose()?;
        let shown = store.store_dir().display(drv.as_ref().unwrap_or(&path));
        let Some(mut log) = log.flatten() else {
            return Err(LogError::None(shown)).hint(
                || "logs are kept of what is built in this store, unless `keep-build-log` is off",
            );
        };
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = log.read(&mut buffer).map_err(|source| LogError::Read {
                drv: shown.clone(),
                source,
            })?;
            if read == 0 {
                break;
            }
            print_bytes(&buffer[..read])?;
        }
    }
    Ok(exit_code::SUCCESS)
}
