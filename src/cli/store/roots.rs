//! `droste store roots`.

use clap::Args;

use super::{open_existing, parse_path};
use crate::cli::error::CommandError;
use crate::cli::{Context, exit_code, print};

/// List what is kept when garbage is collected, and what keeps it
///
/// A line has a link, a file of a process below /proc or {temp:PID} for what a running process
/// has announced, and the store path that it keeps. What other users' processes use is seen by root
/// only.
#[derive(Debug, Args)]
pub struct RootsArgs {
    /// Only tell what keeps these store paths: roots that reach them
    paths: Vec<String>,
}

pub fn run(context: &Context, args: &RootsArgs) -> Result<u8, CommandError> {
    let store = open_existing(context)?;
    let mut wanted = Vec::new();
    for text in &args.paths {
        wanted.push(parse_path(&store, text)?);
    }
    let mut lines = String::new();
    for (path, places) in store.find_roots(false)? {
        if !wanted.is_empty() {
            // What is only about to be made refers to nothing yet.
            let reaches = match store.is_valid(&path)? {
                true => store
                    .closure(std::slice::from_ref(&path))?
                    .iter()
                    .any(|reached| wanted.contains(reached)),
                false => wanted.contains(&path),
            };
            if !reaches {
                continue;
            }
        }
        let path = store.store_dir().display(&path);
        for place in places {
            lines.push_str(&format!("{} -> {path}\n", place.display()));
        }
    }
    print(&lines)?;
    Ok(exit_code::SUCCESS)
}
