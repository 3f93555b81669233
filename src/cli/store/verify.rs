//! `droste store verify`.

use std::sync::Arc;

use clap::Args;
use store_local::{LocalStore, Problem};
use store_types::StorePath;

use super::open_existing;
use crate::cli::error::{CommandError, describe};
use crate::cli::{Context, exit_code};

/// Check that the store has what its database says; change nothing
///
/// Every object is read, and its hash compared.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Only look whether every object is there
    #[arg(long)]
    no_check_contents: bool,
    /// As nix-store has it; the default here
    #[arg(long, conflicts_with = "no_check_contents")]
    check_contents: bool,
}

pub fn run(context: &Context, args: &VerifyArgs) -> Result<u8, CommandError> {
    let store: Arc<LocalStore> = open_existing(context)?;
    let status = context.status();
    let reads = args.check_contents || !args.no_check_contents;
    status.now(match reads {
        true => "reading every object",
        false => "looking for every object",
    });
    let report = store.verify(reads)?;
    for (path, problem) in &report.problems {
        status.always(tell(&store, path, problem).trim_end().as_bytes());
    }
    let checked = report.checked;
    match report.problems.len() {
        0 => {
            status.line(&format!("{checked} store paths are as they should be"));
            Ok(exit_code::SUCCESS)
        }
        damaged => {
            status.line(&format!("{damaged} of {checked} store paths are damaged"));
            Err(CommandError::told(exit_code::FAILURE))
        }
    }
}

fn tell(store: &LocalStore, path: &StorePath, problem: &Problem) -> String {
    let path = store.store_dir().display(path);
    match problem {
        Problem::Missing { referrers } => {
            let needed: Vec<String> = referrers
                .iter()
                .map(|path| format!("`{}`", store.store_dir().display(path)))
                .collect();
            let needed = match needed.is_empty() {
                true => String::new(),
                false => format!(", but {} refer to it", needed.join(", ")),
            };
            format!("error: path `{path}` has disappeared{needed}")
        }
        Problem::Modified { wanted, found } => format!(
            "error: path `{path}` was modified: expected hash `{}`, got `{}`",
            wanted.to_sri(),
            found.to_sri()
        ),
        Problem::Unreadable(error) => describe(error),
        // Whatever else there may be once.
        other => format!("error: path `{path}` is damaged: {other:?}"),
    }
}
