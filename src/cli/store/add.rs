//! `droste store add`.

use std::collections::BTreeSet;
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
    /// What of it makes its path
    #[arg(long, value_enum, default_value_t = Mode::Nar)]
    mode: Mode,
    /// How that is hashed
    #[arg(long, value_enum, default_value_t = Algorithm::Sha256)]
    hash_algo: Algorithm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// The whole tree, as a NAR
    Nar,
    /// The bytes of one file
    Flat,
    /// The bytes of one file, as derivations are addressed
    Text,
    /// The whole tree, as git hashes it
    Git,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Algorithm {
    Blake3,
    Md5,
    Sha1,
    Sha256,
    Sha512,
}

impl From<Mode> for ContentAddressMethod {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Nar => Self::Nar,
            Mode::Flat => Self::Flat,
            Mode::Text => Self::Text,
            Mode::Git => Self::Git,
        }
    }
}

impl From<Algorithm> for HashAlgorithm {
    fn from(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Blake3 => Self::Blake3,
            Algorithm::Md5 => Self::Md5,
            Algorithm::Sha1 => Self::Sha1,
            Algorithm::Sha256 => Self::Sha256,
            Algorithm::Sha512 => Self::Sha512,
        }
    }
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
    let store = wiring::open_store(&context.store)?;
    let dir = store_nar::fs::open_root(parent).map_err(read_error)?;
    let info = store.add_node(
        name,
        args.mode.into(),
        args.hash_algo.into(),
        dir.as_fd(),
        node,
        &BTreeSet::new(),
    )?;
    print_line(&store.store_dir().display(&info.path))?;
    Ok(exit_code::SUCCESS)
}
