//! `droste store optimise`.

use std::sync::atomic::Ordering;

use clap::Args;

use super::open_existing;
use crate::cli::error::CommandError;
use crate::cli::interrupt::{self, Interrupted};
use crate::cli::stats::bytes_text;
use crate::cli::{Context, exit_code};

/// Keep files of the same content once, under all their names
///
/// As `nix-store --optimise` does it, by hard links to files in `.links`.
#[derive(Debug, Args)]
pub struct OptimiseArgs {}

pub fn run(context: &Context, _args: &OptimiseArgs) -> Result<u8, CommandError> {
    let store = open_existing(context)?;
    let status = context.status();
    let is_interrupted = interrupt::watch()?;
    let report = store.optimise(&mut |path| {
        status.now(&format!("optimising `{path}`"));
        is_interrupted.load(Ordering::Relaxed)
    })?;
    if report.links_damaged > 0 {
        status.line(&format!(
            "{} shared files were damaged: `droste store verify` says where",
            report.links_damaged
        ));
    }
    status.line(&format!(
        "{} freed by linking {} files",
        bytes_text(report.bytes_freed),
        report.files_linked
    ));
    match report.is_partial {
        true => Err(Interrupted.into()),
        false => Ok(exit_code::SUCCESS),
    }
}
