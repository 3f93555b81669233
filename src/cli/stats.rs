//! `droste stats`: what became of compiler calls, over all builds of a store.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use clap::Args;
use droste_executor::child::index::Index;
use droste_executor::statistics::{Statistics, Totals};
use droste_executor::{ChildCounts, droste_state_dir};
use serde::Serialize;
use store_local::LocalStore;

use super::error::CommandError;
use super::{Context, exit_code, print, serving};
use crate::wiring;

/// Print what became of compiler calls, over all builds of this store
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Print it as JSON
    #[arg(long)]
    json: bool,
    /// Print it as `ccache --print-stats` does: a name, a tab, a number
    #[arg(long, conflicts_with = "json")]
    print_stats: bool,
    /// Set all counters to zero instead
    #[arg(short, long, conflicts_with_all = ["json", "print_stats"])]
    zero: bool,
}

/// The daemon could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[error("the daemon cannot write its statistics: {0}")]
struct DaemonStatisticsError(String);

pub fn run(context: &Context, args: &StatsArgs) -> Result<u8, CommandError> {
    let state = droste_state_dir(&context.store);
    let statistics = Statistics::new(&state);
    if args.zero {
        // The daemon first: it would add what it has counted before.
        tell_daemon(context, b"zero")?;
        if state.is_dir() {
            statistics.zero()?;
        }
        return Ok(exit_code::SUCCESS);
    }
    tell_daemon(context, b"flush")?;
    let totals = statistics.read()?;
    let size = Size::of(context)?;
    print(&if args.json {
        to_json(&totals, &size)
    } else if args.print_stats {
        to_ccache_lines(&totals, &size)
    } else {
        to_text(&totals, &size)
    })?;
    Ok(exit_code::SUCCESS)
}

/// Has the daemon, if one is running, write what it has counted, or forget it.
fn tell_daemon(context: &Context, request: &[u8]) -> Result<(), CommandError> {
    let Some(socket) = serving::connect_running(context) else {
        return Ok(());
    };
    // One that ends at this moment writes its statistics by itself.
    let report = serving::control(&socket, request).unwrap_or_default();
    match report.is_empty() {
        true => Ok(()),
        false => {
            let text = String::from_utf8_lossy(&report).into_owned();
            Err(DaemonStatisticsError(text).into())
        }
    }
}

/// What the memo holds.
#[derive(Debug, Default)]
struct Size {
    children: u64,
    objects: u64,
    bytes: u64,
}

impl Size {
    fn of(context: &Context) -> Result<Self, CommandError> {
        if !context.store.real.is_dir() {
            return Ok(Self::default());
        }
        let store: std::sync::Arc<LocalStore> = wiring::open_store(&context.store)?;
        let (objects, bytes) = store.size()?;
        let index = droste_state_dir(store.config()).join("children.sqlite");
        let children = match index.exists() {
            true => Index::open(&index)?.count()?,
            false => 0,
        };
        Ok(Self {
            children,
            objects,
            bytes,
        })
    }
}

fn to_text(totals: &Totals, size: &Size) -> String {
    let calls = &totals.calls;
    let answered = calls.built + calls.reused + calls.substituted;
    let all = answered + calls.in_place;
    let mut text = String::new();
    let mut line = |name: &str, value: u64, of: u64| {
        text.push_str(&format!("{name:<24}{value:>10}"));
        if of > 0 {
            text.push_str(&format!(" {:>5.1} %", value as f64 * 100.0 / of as f64));
        }
        text.push('\n');
    };
    line("compiler calls", all, 0);
    line("  reused", calls.reused, all);
    if calls.substituted > 0 {
        line("  substituted", calls.substituted, all);
    }
    line("  built", calls.built, all);
    line("  in place", calls.in_place, all);
    for (reason, count) in by_count(&calls.in_place_reasons) {
        line(&format!("    {reason}"), count, all);
    }
    for (path, count) in by_count(&calls.undeclared_inputs) {
        line(&format!("undeclared input {path}"), count, 0);
    }
    if calls.failed > 0 {
        line("ended as failures", calls.failed, all);
    }
    line("children remembered", size.children, 0);
    line("objects in the store", size.objects, 0);
    text.push_str(&format!(
        "{:<24}{:>10}\n",
        "size of the store",
        bytes_text(size.bytes)
    ));
    if totals.zeroed_seconds > 0 {
        text.push_str(&format!(
            "{:<24}{:>10}\n",
            "set to zero",
            ago(totals.zeroed_seconds)
        ));
    }
    text
}

/// The most frequent first.
fn by_count(reasons: &BTreeMap<String, u64>) -> Vec<(&str, u64)> {
    let mut all: Vec<(&str, u64)> = reasons
        .iter()
        .map(|(reason, count)| (reason.as_str(), *count))
        .collect();
    all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    all
}

pub fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

fn ago(seconds: u64) -> String {
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let past = then.elapsed().unwrap_or_default().as_secs();
    match past {
        0..60 => format!("{past} s ago"),
        60..3600 => format!("{} min ago", past / 60),
        3600..86400 => format!("{} h ago", past / 3600),
        _ => format!("{} days ago", past / 86400),
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct StatsJson<'a> {
    calls: CallsJson,
    in_place_reasons: &'a BTreeMap<String, u64>,
    undeclared_inputs: &'a BTreeMap<String, u64>,
    children: u64,
    store_objects: u64,
    store_bytes: u64,
    updated_seconds: u64,
    zeroed_seconds: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CallsJson {
    built: u64,
    reused: u64,
    substituted: u64,
    in_place: u64,
    failed: u64,
}

fn to_json(totals: &Totals, size: &Size) -> String {
    let calls = &totals.calls;
    let json = StatsJson {
        calls: CallsJson {
            built: calls.built,
            reused: calls.reused,
            substituted: calls.substituted,
            in_place: calls.in_place,
            failed: calls.failed,
        },
        in_place_reasons: &calls.in_place_reasons,
        undeclared_inputs: &calls.undeclared_inputs,
        children: size.children,
        store_objects: size.objects,
        store_bytes: size.bytes,
        updated_seconds: totals.updated_seconds,
        zeroed_seconds: totals.zeroed_seconds,
    };
    // Text keys and numbers always have a form in JSON.
    serde_json::to_string_pretty(&json).unwrap_or_default() + "\n"
}

/// All that ccache prints. Source: `ccache --print-stats` of 4.7.5 and its manual, "Cache
/// statistics".
const CCACHE_NAMES: &[&str] = &[
    "autoconf_test",
    "bad_compiler_arguments",
    "bad_output_file",
    "cache_miss",
    "cache_size_kibibyte",
    "called_for_link",
    "called_for_preprocessing",
    "cleanups_performed",
    "compile_failed",
    "compiler_check_failed",
    "compiler_produced_empty_output",
    "compiler_produced_no_output",
    "compiler_produced_stdout",
    "could_not_find_compiler",
    "could_not_use_modules",
    "could_not_use_precompiled_header",
    "direct_cache_hit",
    "direct_cache_miss",
    "error_hashing_extra_file",
    "files_in_cache",
    "internal_error",
    "local_storage_hit",
    "local_storage_miss",
    "local_storage_read_hit",
    "local_storage_read_miss",
    "local_storage_write",
    "missing_cache_file",
    "multiple_source_files",
    "no_input_file",
    "output_to_stdout",
    "preprocessed_cache_hit",
    "preprocessed_cache_miss",
    "preprocessor_error",
    "recache",
    "remote_storage_error",
    "remote_storage_hit",
    "remote_storage_miss",
    "remote_storage_read_hit",
    "remote_storage_read_miss",
    "remote_storage_timeout",
    "remote_storage_write",
    "stats_updated_timestamp",
    "stats_zeroed_timestamp",
    "unsupported_code_directive",
    "unsupported_compiler_option",
    "unsupported_environment_variable",
    "unsupported_source_language",
];

/// What ccache calls a reason to run in place; the reason comes without its detail.
fn ccache_name(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "link" | "relink" => "called_for_link",
        "preprocess-only" | "preprocess" | "dependencies" => "called_for_preprocessing",
        "several-sources" => "multiple_source_files",
        "no-source" | "stdin" | "not-a-compile" => "no_input_file",
        "output-to-stdout" => "output_to_stdout",
        "missing-argument" | "no-arguments" => "bad_compiler_arguments",
        "output-outside-of-build" | "output-in-the-way" => "bad_output_file",
        "precompiled-header" => "could_not_use_precompiled_header",
        "modules" => "could_not_use_modules",
        "environment" => "unsupported_environment_variable",
        "language" | "assembler" => "unsupported_source_language",
        "time-macro" | "computed-include" => "unsupported_code_directive",
        "unknown-compiler" => "could_not_find_compiler",
        "child-failed" => "compile_failed",
        "child-lost" | "child-not-run" | "index-failed" | "child-unreadable" => "internal_error",
        "child-damaged" => "missing_cache_file",
        "unknown-flag" | "pass-through" | "plugin" | "profile" | "save-temps" | "dump"
        | "wrapper" | "specs" | "verbose" | "host-processor" | "offload" | "response-file"
        | "search-path" | "assembly-output" | "syntax-only" | "clock" | "random" | "kept-state" => {
            "unsupported_compiler_option"
        }
        _ => return None,
    })
}

fn ccache_counters(calls: &ChildCounts) -> BTreeMap<&'static str, u64> {
    let mut counters: BTreeMap<&str, u64> = CCACHE_NAMES.iter().map(|name| (*name, 0)).collect();
    let mut add = |name: &'static str, count: u64| *counters.entry(name).or_default() += count;
    let hits = calls.reused + calls.substituted;
    for name in ["direct_cache_hit", "local_storage_hit"] {
        add(name, hits);
    }
    for name in ["cache_miss", "direct_cache_miss", "local_storage_miss"] {
        add(name, calls.built);
    }
    add("compile_failed", calls.failed);
    for (reason, count) in &calls.in_place_reasons {
        let name = reason.split(':').next().unwrap_or_default();
        if let Some(name) = ccache_name(name) {
            add(name, *count);
        }
    }
    counters
}

fn to_ccache_lines(totals: &Totals, size: &Size) -> String {
    let mut counters = ccache_counters(&totals.calls);
    counters.insert("cache_size_kibibyte", size.bytes / 1024);
    counters.insert("files_in_cache", size.children);
    counters.insert("stats_updated_timestamp", totals.updated_seconds);
    counters.insert("stats_zeroed_timestamp", totals.zeroed_seconds);
    counters
        .iter()
        .map(|(name, value)| format!("{name}\t{value}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals() -> Totals {
        let reasons = [("link", 2), ("unknown-flag:-fnew", 1), ("caller-gone", 1)];
        Totals {
            calls: ChildCounts {
                built: 30,
                reused: 66,
                failed: 3,
                in_place: 4,
                in_place_reasons: reasons.map(|(name, count)| (name.to_owned(), count)).into(),
                ..ChildCounts::default()
            },
            updated_seconds: 1_700_000_001,
            zeroed_seconds: 0,
        }
    }

    #[test]
    fn the_text_has_the_documented_form() {
        let size = Size {
            children: 31,
            objects: 120,
            bytes: 5 << 20,
        };
        assert_eq!(
            to_text(&totals(), &size),
            "\
compiler calls                 100
  reused                        66  66.0 %
  built                         30  30.0 %
  in place                       4   4.0 %
    link                         2   2.0 %
    caller-gone                  1   1.0 %
    unknown-flag:-fnew           1   1.0 %
ended as failures                3   3.0 %
children remembered             31
objects in the store           120
size of the store          5.0 MiB
"
        );
    }

    #[test]
    fn an_empty_memo_has_counters_that_are_all_zero() {
        let lines = to_ccache_lines(&Totals::default(), &Size::default());
        assert_eq!(lines.lines().count(), CCACHE_NAMES.len());
        assert!(lines.lines().all(|line| line.ends_with("\t0")), "{lines}");
        assert!(to_text(&Totals::default(), &Size::default()).starts_with("compiler calls"));
    }

    #[test]
    fn counters_have_ccaches_names_where_they_mean_the_same() {
        let lines = to_ccache_lines(&totals(), &Size::default());
        for line in [
            "direct_cache_hit\t66",
            "cache_miss\t30",
            "called_for_link\t2",
            "unsupported_compiler_option\t1",
            "compile_failed\t3",
            "preprocessed_cache_hit\t0",
            "stats_updated_timestamp\t1700000001",
        ] {
            assert!(
                lines.lines().any(|known| known == line),
                "{line} in {lines}"
            );
        }
    }
}
