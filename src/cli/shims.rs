//! `droste shims`.

use clap::Args;
use droste_executor::Settings;

use super::error::CommandError;
use super::{Context, exit_code, print_line};
use crate::wiring;

/// Add the compiler shims to the store, for the PATH of builds, and print their path
///
/// The path's `bin` has cc, gcc, c++, g++, clang and clang++. Put before the compilers
/// in a build's PATH, each stands in for the next program of its name there. Builds by
/// `droste build` do not need them: it lays the shims over the compilers.
#[derive(Debug, Args)]
pub struct ShimsArgs {
    /// Tell nothing but the path and errors
    #[arg(long)]
    print_path: bool,
}

pub fn run(context: &Context, args: &ShimsArgs) -> Result<u8, CommandError> {
    let store = wiring::open_store(&context.store)?;
    let settings = Settings::new(context.droste_dir.clone());
    let executor = wiring::open_executor(store, settings, wiring::start_spawner()?)?;
    let path = executor.shims_package()?;
    print_line(&executor.store_dir().display(&path))?;
    if !args.print_path {
        context
            .status()
            .line("note: put its `bin` before the compilers in a build's PATH");
    }
    Ok(exit_code::SUCCESS)
}
