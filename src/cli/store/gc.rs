//! `droste store gc` and `droste store delete`.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, ValueEnum};
use droste_executor::child::index::Index;
use droste_executor::{Settings, droste_state_dir};
use store_local::{GcAction, GcObserver, GcOptions, GcReport, LocalStore};

use super::{open_existing, parse_path};
use crate::cli::build::OptionArgs;
use crate::cli::error::{CommandError, describe};
use crate::cli::interrupt::{self, Interrupted};
use crate::cli::report::Status;
use crate::cli::stats::bytes_text;
use crate::cli::{Context, exit_code, nix_conf, print};

/// Delete what no root reaches
///
/// Roots are `result` links (droste build --out-link, nix-build), profiles, what processes use, and
/// what running builds need: `droste store roots` lists them. Children are kept by nothing but
/// --children-max. Builds may go on meanwhile, and Nix may use the store.
#[derive(Debug, Args)]
pub struct GcArgs {
    /// Only tell what would be deleted, a path a line, and how much that would free
    #[arg(short = 'n', long, visible_alias = "print-dead")]
    dry_run: bool,
    /// Only list what is live, a path a line
    #[arg(long, conflicts_with = "dry_run")]
    print_live: bool,
    /// Stop when this much is free: a number of bytes, or one with K, M, G or T
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_freed: Option<u64>,
    /// Keep the children used last, with what they need, up to this size: a number of bytes, or
    /// one with K, M, G or T
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    children_max: Option<u64>,
    #[command(flatten)]
    keep: KeepArgs,
}

/// Delete store paths, if nothing needs them
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Store paths, as they are inside builds or on this machine
    #[arg(required = true)]
    paths: Vec<String>,
    /// Delete them even if roots reach them; what refers to them must go, too
    #[arg(long)]
    ignore_liveness: bool,
    #[command(flatten)]
    keep: KeepArgs,
}

/// Nix's settings of the same names.
#[derive(Debug, Args)]
struct KeepArgs {
    /// Whether live derivations keep their outputs [default: what nix.conf says, or false]
    #[arg(long, value_name = "true|false")]
    keep_outputs: Option<Switch>,
    /// Whether live outputs keep their derivations [default: what nix.conf says, or true]
    #[arg(long, value_name = "true|false")]
    keep_derivations: Option<Switch>,
    #[command(flatten)]
    options: OptionArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    True,
    False,
}

/// A number of bytes, with a unit of Nix's or none.
fn parse_size(text: &str) -> Result<u64, String> {
    let (number, shift) = match text.char_indices().last() {
        Some((at, unit)) if unit.is_ascii_alphabetic() => {
            let shift = match unit.to_ascii_uppercase() {
                'K' => 10,
                'M' => 20,
                'G' => 30,
                'T' => 40,
                _ => return Err(format!("`{unit}` is none of K, M, G and T")),
            };
            (&text[..at], shift)
        }
        _ => (text, 0),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "a size is a number, perhaps with K, M, G or T".to_owned())?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "that is too large".to_owned())
}

/// Tells what is deleted, and stops when the user wants it.
struct Progress<'a> {
    store: &'a LocalStore,
    status: &'a Status,
    is_interrupted: Arc<AtomicBool>,
}

impl GcObserver for Progress<'_> {
    fn waiting(&mut self) {
        self.status
            .line("waiting for another process that collects garbage");
    }

    fn deleting(&mut self, name: &OsStr) {
        let text = format!("deleting `{}/{}`", self.store.store_dir(), name.display());
        self.status.now(&text);
        self.status.detail(&text);
    }

    fn is_cancelled(&mut self) -> bool {
        self.is_interrupted.load(Ordering::Relaxed)
    }
}

impl KeepArgs {
    fn options(&self, context: &Context, action: GcAction) -> Result<GcOptions, CommandError> {
        let defaults = Settings::new(context.droste_dir.clone());
        let config = nix_conf::read(&defaults, self.options.pairs())?;
        let is_on = |given: Option<Switch>, name: &str| match given {
            Some(switch) => switch == Switch::True,
            None => config.flag(name),
        };
        Ok(GcOptions {
            keep_outputs: is_on(self.keep_outputs, "keep-outputs"),
            keep_derivations: is_on(self.keep_derivations, "keep-derivations"),
            ..GcOptions::new(action)
        })
    }
}

pub fn run(context: &Context, args: &GcArgs) -> Result<u8, CommandError> {
    let store = open_existing(context)?;
    let action = match (args.dry_run, args.print_live) {
        (true, _) => GcAction::ReturnDead,
        (_, true) => GcAction::ReturnLive,
        _ => GcAction::DeleteDead,
    };
    let mut options = GcOptions {
        measure: args.dry_run,
        ..args.keep.options(context, action)?
    };
    if let Some(max) = args.max_freed {
        options.max_freed_bytes = max;
    }
    let mut children = 0;
    if let Some(max) = args.children_max {
        let index_file = droste_state_dir(store.config()).join("children.sqlite");
        if index_file.exists() {
            options.keep = Index::open(&index_file)?.outputs_last_used_first()?;
        }
        children = options.keep.len();
        options.keep_bytes_max = max;
    }
    let report = collect(context, &store, &options)?;
    if action == GcAction::DeleteDead {
        tell_deleted(context, &report);
    } else {
        let mut lines = String::new();
        for path in &report.paths {
            lines.push_str(&format!("{}\n", store.store_dir().display(path)));
        }
        for name in &report.strangers {
            lines.push_str(&format!("{}/{}\n", store.store_dir(), name.display()));
        }
        print(&lines)?;
        if args.dry_run {
            let count = report.paths.len() + report.strangers.len();
            let freed = bytes_text(report.bytes_freed);
            context
                .status()
                .line(&format!("{count} paths would be deleted, {freed} freed"));
        }
    }
    if args.children_max.is_some() {
        let (count, size) = report.kept;
        context.status().line(&format!(
            "{count} of {children} children kept, {} with what they need",
            bytes_text(size)
        ));
    }
    Ok(exit_code::SUCCESS)
}

pub fn delete(context: &Context, args: &DeleteArgs) -> Result<u8, CommandError> {
    let store = open_existing(context)?;
    let mut options = GcOptions {
        ignore_liveness: args.ignore_liveness,
        ..args.keep.options(context, GcAction::DeleteSpecific)?
    };
    for text in &args.paths {
        options.paths_to_delete.insert(parse_path(&store, text)?);
    }
    let report = collect(context, &store, &options)?;
    tell_deleted(context, &report);
    Ok(exit_code::SUCCESS)
}

fn collect(
    context: &Context,
    store: &LocalStore,
    options: &GcOptions,
) -> Result<GcReport, CommandError> {
    let status = context.status();
    let is_interrupted = interrupt::watch()?;
    let mut progress = Progress {
        store,
        status: &status,
        is_interrupted: Arc::clone(&is_interrupted),
    };
    status.now("looking for roots");
    let report = store.collect_garbage(options, &mut progress)?;
    for failure in &report.failures {
        status.always(describe(failure).trim_end().as_bytes());
    }
    if is_interrupted.load(Ordering::Relaxed) {
        tell_deleted(context, &report);
        return Err(Interrupted.into());
    }
    Ok(report)
}

fn tell_deleted(context: &Context, report: &GcReport) {
    let status = context.status();
    if report.links_save_bytes > 0 {
        let saved = bytes_text(report.links_save_bytes);
        status.line(&format!("files that are shared save {saved}"));
    }
    let count = report.paths.len() + report.strangers.len();
    let freed = bytes_text(report.bytes_freed);
    status.line(&format!("{count} store paths deleted, {freed} freed"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_the_units_that_nix_has() {
        assert_eq!(parse_size("17"), Ok(17));
        assert_eq!(parse_size("2k"), Ok(2048));
        assert_eq!(parse_size("3G"), Ok(3 << 30));
        for wrong in ["", "G", "1x", "-1", "99999999T", "1.5G", "ä"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
