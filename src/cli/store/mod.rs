//! `droste store`: the store itself, as the Nix commands of the same names see it.

mod add;
mod dump;
mod gc;
mod log;
mod optimise;
mod path_info;
mod roots;
mod verify;

use std::sync::Arc;

use clap::{Args, Subcommand};
use store_local::LocalStore;
use store_types::StorePath;

use super::Context;
use super::error::{CommandError, Hint};
use super::store_arg::{StoreArgError, StorePlace};
use crate::wiring;

/// Look into the store, add to it, and keep it in order
#[derive(Debug, Args)]
pub struct StoreArgs {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    Add(add::AddArgs),
    PathInfo(path_info::PathInfoArgs),
    Dump(dump::DumpArgs),
    Gc(gc::GcArgs),
    Delete(gc::DeleteArgs),
    Log(log::LogArgs),
    Roots(roots::RootsArgs),
    Optimise(optimise::OptimiseArgs),
    Verify(verify::VerifyArgs),
}

/// What a command cannot find in the store.
#[derive(Debug, thiserror::Error)]
pub enum MissingError {
    /// There is no store.
    #[error("there is no store in `{}`", .0.display())]
    Store(std::path::PathBuf),
    /// The path is not valid.
    #[error("path `{path}` is not valid in the store in `{}`", root.display())]
    Path {
        /// The full path.
        path: String,
        /// The store's directory.
        root: std::path::PathBuf,
    },
}

pub fn run(context: &Context, args: &StoreArgs) -> Result<u8, CommandError> {
    match &args.command {
        StoreCommand::Add(args) => add::run(context, args),
        StoreCommand::PathInfo(args) => path_info::run(context, args),
        StoreCommand::Dump(args) => dump::run(context, args),
        StoreCommand::Gc(args) => gc::run(context, args),
        StoreCommand::Delete(args) => gc::delete(context, args),
        StoreCommand::Log(args) => log::run(context, args),
        StoreCommand::Roots(args) => roots::run(context, args),
        StoreCommand::Optimise(args) => optimise::run(context, args),
        StoreCommand::Verify(args) => verify::run(context, args),
    }
}

/// Opens the store, which must be there: asking for something in a store that was
/// just made because of a typing error helps nobody.
pub fn open_existing(context: &Context) -> Result<Arc<LocalStore>, CommandError> {
    let config = &context.store;
    if !config.real.is_dir() {
        return Err(MissingError::Store(config.place().to_owned())).hint(|| match context.is_store_given {
            true if config.root.is_none() => "`store=`, `real=` or `NIX_STORE_DIR` say where it is",
            true => "`--store DIR` names the directory that has `nix/store` in it",
            false => "`--store DIR` names another; `droste run`, `droste build -f` or `droste toolchain import` makes one",
        });
    }
    Ok(wiring::open_store(config)?)
}

/// Reads a store path as the user typed it.
pub fn parse_path(store: &LocalStore, text: &str) -> Result<StorePath, StoreArgError> {
    let place = StorePlace {
        dir: store.store_dir(),
        physical: store.physical_dir(),
    };
    place.path(text)
}

/// That a path is not valid.
pub fn not_valid(store: &LocalStore, path: &StorePath) -> MissingError {
    MissingError::Path {
        path: store.store_dir().display(path),
        root: store.config().place().to_owned(),
    }
}
