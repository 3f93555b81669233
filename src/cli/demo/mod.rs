//! `droste demo`: what Droste is for, shown on the real sources of Lua.
//!
//! One new store; in it the same project is built again and again, and what is built
//! with memoization is compared with what is built without it. A build that was made
//! before is made again as `droste build --rebuild` does it, which compares the outputs
//! bit by bit.

mod project;
mod table;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use clap::Args;
use droste_executor::{BuildError, Monitor, Settings, UnitOutcome};
use droste_sandbox::Spawner;
use droste_toolchain::LUA;
use store_api::BuildMode;
use store_local::{LocalStore, LocalStoreConfig};
use store_types::{DerivedPath, OutputsSpec, StoreDir, StorePath};

use super::error::{CommandError, Hint, describe};
use super::interrupt::{self, Interrupted};
use super::report::{Reporter, Status, seconds};
use super::{Context, exit_code, print, toolchain, workshop};
use crate::wiring;
use project::{Project, Variant};
use table::Row;

/// Build Lua five times, and show what was not done again
///
/// Makes a store of its own, in $DROSTE_DIR/demo/store unless --store names one that is not
/// there yet. Needs Debian's packages, cargo and no Nix.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// How many compiles may run at once [default: as many as there are processors]
    #[arg(short = 'j', long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    max_jobs: Option<u16>,
}

/// Nix's program that checks a store.
const JUDGE: &str = "nix-store";

/// A demonstration that cannot be held.
#[derive(Debug, thiserror::Error)]
enum DemoError {
    #[error("cannot {operation} `{}`", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{}` is there already, and the demonstration needs a new store", .0.display())]
    NotNew(PathBuf),
    #[error("another demonstration is running")]
    Running,
    #[error("the build of `{0}` ended without telling how")]
    Lost(String),
}

/// What went wrong although every build ended well.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Finding {
    #[error("{0}: the outputs are not the same bytes as without memoization")]
    OtherBytes(&'static str),
    #[error("cold: no compile became a child")]
    NoChildren,
    #[error("warm: {0} children were built, and all should have been reused")]
    WarmBuilt(u64),
    #[error(
        "one function body changed: {0} children were built, and two should have been, a compile and the link"
    )]
    EditBuilt(u64),
    #[error("`{JUDGE} --verify --check-contents` found the store damaged")]
    Damaged,
}

pub fn run(context: &Context, args: &DemoArgs) -> Result<u8, CommandError> {
    let status = context.status();
    let begun = Instant::now();
    let spawner = wiring::start_spawner()?;
    let (root, _lock) = new_store_root(context)?;
    let store = wiring::open_store(&LocalStoreConfig::in_root(&root, StoreDir::default()))?;
    status.line(&format!("a new store in `{}`", root.display()));
    // First what needs cargo: whoever has none should not wait for a toolchain.
    status.now("fetching the sources of Lua");
    LUA.fetch(&context.cache_dir())?;
    let toolchain = toolchain::import(context, &store, &status)?;
    let project = Project::prepare(&LUA, &context.cache_dir(), &store, toolchain)?;
    status.line(&format!(
        "the sources of {} {}, from crate `{}`",
        LUA.name, LUA.version, LUA.crate_name
    ));
    let mut settings = Settings::new(context.droste_dir.clone());
    if let Some(jobs) = args.max_jobs {
        (settings.cores, settings.child_jobs) = (jobs.into(), jobs.into());
    }
    let is_cancelled = interrupt::watch()?;
    let demo = Demo {
        store: &store,
        project: &project,
        spawner: &spawner,
        settings,
        status: &status,
        is_cancelled,
    };
    let rows = demo.rows()?;
    print(&table::print(&rows))?;
    let mut findings = findings(&rows);
    match is_verified_by_nix(&root, &status) {
        Some(true) => status.line(&format!(
            "`{JUDGE} --verify --check-contents` finds the store in order"
        )),
        Some(false) => findings.push(Finding::Damaged),
        None => status.line(&format!(
            "`{JUDGE}` is not installed, so Nix has not verified the store"
        )),
    }
    status.line(&format!("all in {}", seconds(begun.elapsed())));
    if findings.is_empty() {
        return Ok(exit_code::SUCCESS);
    }
    for finding in &findings {
        status.always(describe(finding).trim_end().as_bytes());
    }
    Err(CommandError::told(exit_code::FAILURE))
}

/// A directory for a new store, and what keeps other demonstrations out of it.
fn new_store_root(context: &Context) -> Result<(PathBuf, File), CommandError> {
    let error = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| DemoError::Io {
            operation,
            path,
            source,
        }
    };
    let dir = context.droste_dir.join("demo");
    std::fs::create_dir_all(&dir).map_err(error("make", &dir))?;
    let lock_file = dir.join("lock");
    let lock = File::create(&lock_file).map_err(error("make", &lock_file))?;
    lock.try_lock().map_err(|_| DemoError::Running)?;
    if context.is_store_given {
        let place = context.store.place().to_owned();
        let root = context.store.root.clone();
        return match root.filter(|root| root.symlink_metadata().is_err()) {
            Some(root) => Ok((root, lock)),
            None => Err(DemoError::NotNew(place))
                .hint(|| "without `--store` it makes one that is its own"),
        };
    }
    let root = dir.join("store");
    workshop::remove(&root).map_err(error("remove", &root))?;
    Ok((root, lock))
}

/// The five runs, and the two that they are compared with.
struct Demo<'a> {
    store: &'a Arc<LocalStore>,
    project: &'a Project,
    spawner: &'a Spawner,
    settings: Settings,
    status: &'a Status,
    is_cancelled: Arc<AtomicBool>,
}

impl Demo<'_> {
    fn rows(&self) -> Result<Vec<Row>, CommandError> {
        let original = self.project.derivation(self.store, Variant::Original)?;
        let mut rows = Vec::new();
        self.status.line("memo off:");
        let off = self.build(&original, BuildMode::Normal, false)?;
        rows.push(Row::reference("memo off", &off));
        for name in ["cold", "warm"] {
            self.status
                .line(&format!("{name}, to be compared with memo off:"));
            let again = self.build(&original, BuildMode::Check, true)?;
            rows.push(Row::new(name, &again.outcome, again.is_same));
        }
        for (name, variant) in [
            ("one function body changed", Variant::BodyEdit),
            ("a comment in one header changed", Variant::CommentEdit),
        ] {
            let drv = self.project.derivation(self.store, variant)?;
            self.status.line(&format!("{name}:"));
            let memo = self.build(&drv, BuildMode::Normal, true)?;
            self.status.line("the same with memo off, to compare:");
            let off = self.build(&drv, BuildMode::Check, false)?;
            rows.push(Row::new(name, &memo.outcome, off.is_same));
        }
        Ok(rows)
    }

    /// One run, by an executor that knows only what is on disk.
    fn build(&self, drv: &StorePath, mode: BuildMode, memo: bool) -> Result<Built, CommandError> {
        let settings = Settings {
            memo,
            ..self.settings.clone()
        };
        let executor = wiring::open_executor(self.store.clone(), settings, self.spawner.clone())?;
        let reporter = Reporter::new(self.status, false, self.is_cancelled.clone());
        let wanted = [DerivedPath::Built {
            drv: drv.clone().into(),
            outputs: OutputsSpec::All,
        }];
        let outcomes = reporter.during(|| executor.build(&wanted, mode, &reporter))?;
        if self.is_cancelled.load(Ordering::Relaxed) {
            return Err(Interrupted.into());
        }
        let text = self.store.store_dir().display(drv);
        let mut outcome = outcomes
            .into_iter()
            .find(|outcome| outcome.drv.as_opaque() == Some(drv))
            .ok_or(DemoError::Lost(text))?;
        let is_same = match outcome.error.take() {
            None => true,
            Some(error @ BuildError::NotDeterministic { .. }) => {
                reporter.note(&error.to_string());
                false
            }
            Some(error) => return Err(error.into()),
        };
        Ok(Built { outcome, is_same })
    }
}

/// How a run ended.
struct Built {
    outcome: UnitOutcome,
    /// Whether the outputs are those that were there already, if there were any.
    is_same: bool,
}

/// What should have been otherwise.
fn findings(rows: &[Row]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = rows
        .iter()
        .filter(|row| row.is_same == Some(false))
        .map(|row| Finding::OtherBytes(row.name))
        .collect();
    let built = |index: usize| rows.get(index).map_or(0, |row| row.children.built);
    if built(1) == 0 {
        findings.push(Finding::NoChildren);
    }
    if built(2) != 0 {
        findings.push(Finding::WarmBuilt(built(2)));
    }
    // The file that was changed, and the program that it is linked into.
    if built(3) != 2 {
        findings.push(Finding::EditBuilt(built(3)));
    }
    findings
}

/// What Nix thinks of the store; `None` where there is no Nix.
fn is_verified_by_nix(root: &Path, status: &Status) -> Option<bool> {
    status.now("Nix verifies the store");
    let output = Command::new(JUDGE)
        .args(["--verify", "--check-contents", "--store"])
        .arg(root)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    if !output.status.success() {
        status.always(
            String::from_utf8_lossy(&output.stderr)
                .trim_end()
                .as_bytes(),
        );
    }
    Some(output.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;
    use droste_executor::ChildCounts;
    use std::time::Duration;

    fn row(name: &'static str, built: u64, is_same: Option<bool>) -> Row {
        Row {
            name,
            wall: Duration::ZERO,
            children: ChildCounts {
                built,
                ..ChildCounts::default()
            },
            is_same,
        }
    }

    fn rows(built: [u64; 5], warm_is_same: bool) -> Vec<Row> {
        vec![
            row("memo off", built[0], None),
            row("cold", built[1], Some(true)),
            row("warm", built[2], Some(warm_is_same)),
            row("body", built[3], Some(true)),
            row("comment", built[4], Some(true)),
        ]
    }

    #[test]
    fn all_is_well_if_warm_builds_nothing_and_an_edit_builds_one_file_and_the_program() {
        assert_eq!(findings(&rows([0, 34, 0, 2, 34], true)), []);
    }

    #[test]
    fn what_is_not_well_is_named() {
        assert_eq!(
            findings(&rows([0, 0, 2, 3, 33], false)),
            [
                Finding::OtherBytes("warm"),
                Finding::NoChildren,
                Finding::WarmBuilt(2),
                Finding::EditBuilt(3)
            ]
        );
    }
}
