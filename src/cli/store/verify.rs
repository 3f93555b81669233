//! `droste store verify`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use clap::Args;
use store_local::{LocalStore, Problem, VerifyReport};
use store_types::StorePath;

use super::open_existing;
use crate::cli::build::SettingsArgs;
use crate::cli::error::{CommandError, describe};
use crate::cli::interrupt::{self, Interrupted};
use crate::cli::report::Reporter;
use crate::cli::{Context, exit_code};
use crate::wiring;

/// Check that the store has what its database says
///
/// Every object is read, and its hash compared. Nothing is changed without --repair.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Only look whether every object is there
    #[arg(long)]
    no_check_contents: bool,
    /// As nix-store has it; the default here
    #[arg(long, conflicts_with = "no_check_contents")]
    check_contents: bool,
    /// Build again what is broken, forget what has disappeared and is needed by nothing, and
    /// remove damaged links
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    settings: SettingsArgs,
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
    for link in &report.links {
        let link = store.physical_dir().join(".links").join(link);
        status.always(format!("error: link `{}` was modified", link.display()).as_bytes());
    }
    let checked = report.checked;
    if report.is_sound() {
        status.line(&format!("{checked} store paths are as they should be"));
        return Ok(exit_code::SUCCESS);
    }
    if args.repair {
        return repair(context, args, store, &report);
    }
    let damaged = report.problems.len();
    status.line(&format!("{damaged} of {checked} store paths are damaged"));
    status.line("hint: `--repair` builds them again");
    Err(CommandError::told(exit_code::FAILURE))
}

fn repair(
    context: &Context,
    args: &VerifyArgs,
    store: Arc<LocalStore>,
    found: &VerifyReport,
) -> Result<u8, CommandError> {
    let settings = args.settings.to_settings(context, &[])?;
    let executor = wiring::open_executor(store.clone(), settings, wiring::spawner_when_needed())?;
    let status = context.status();
    let is_cancelled = interrupt::watch()?;
    let reporter = Reporter::new(&status, false, is_cancelled.clone());
    let report = reporter.during(|| executor.repair(found, &reporter))?;
    for (_, error) in &report.failures {
        status.always(describe(error).trim_end().as_bytes());
    }
    status.line(&format!(
        "{} store paths repaired, {} forgotten, {} links removed",
        report.repaired.len(),
        report.forgotten.len(),
        report.links_removed
    ));
    if is_cancelled.load(Ordering::Relaxed) {
        return Err(Interrupted.into());
    }
    match report.failures.is_empty() {
        true => Ok(exit_code::SUCCESS),
        false => Err(CommandError::told(exit_code::FAILURE)),
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
