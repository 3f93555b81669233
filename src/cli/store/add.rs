//! `droste store add`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use store_types::{ContentAddressMethod, HashAlgorithm};

use crate::cli::error::{CommandError, Hint};
use crate::cli::{Context, exit_code, print_line};
use crate::wiring;

/// Add a file or directory to the store, and print its path there
#[derive(Debug, Args)]
pub struct AddArgs {
    /// The file or directory
    path: PathBuf,
    /// The name part of the store path [default: the file's own name]
    #[arg(short, long)]
    name: Option<String>,
    /// What of it makes its path: the whole tree, or the bytes of one file
    #[arg(long, value_enum, default_value_t = Mode::Nar)]
    mode: Mode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    Nar,
    Flat,
}

/// What cannot be added.
#[derive(Debug, thiserror::Error)]
enum AddError {
    #[error("cannot read `{}`", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{}` has no name of its own", .0.display())]
    NoName(PathBuf),
    #[error("the name of `{}` is not text", .0.display())]
    NameIsNotText(PathBuf),
}

pub fn run(context: &Context, args: &AddArgs) -> Result<u8, CommandError> {
    let read_error = |source| AddError::Read {
        path: args.path.clone(),
        source,
    };
    let mut path = std::path::absolute(&args.path).map_err(read_error)?;
    if path.file_name().is_none() {
        // It ends in `..`.
        path = path.canonicalize().map_err(read_error)?;
    }
    path.symlink_metadata().map_err(read_error)?;
    let (Some(parent), Some(node)) = (path.parent(), path.file_name()) else {
        return Err(AddError::NoName(args.path.clone())).hint(|| "give it one with `--name`");
    };
    let name = match (&args.name, node.to_str()) {
        (Some(name), _) => name,
        (None, Some(name)) => name,
        (None, None) => {
            return Err(AddError::NameIsNotText(args.path.clone()))
                .hint(|| "give it one with `--name`");
        }
    };
    let store = wiring::open_store(&context.store_root)?;
    let references = BTreeSet::new();
    let info = match args.mode {
        Mode::Nar => {
            let dir = store_nar::fs::open_root(parent).map_err(read_error)?;
            store.add_tree(name, dir.as_fd(), node, &references)?
        }
        Mode::Flat => {
            let mut file = File::open(&path).map_err(read_error)?;
            if !file.metadata().map_err(read_error)?.is_file() {
                return Err(read_error(io::Error::other("it is no regular file")).into());
            }
            let method = ContentAddressMethod::Flat;
            store.add_content_addressed(
                name,
                method,
                HashAlgorithm::Sha256,
                &references,
                &mut file,
            )?
        }
    };
    print_line(&store.store_dir().display(&info.path))?;
    Ok(exit_code::SUCCESS)
}
