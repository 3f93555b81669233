//! `droste derivation`: derivations as JSON, as the Nix commands of the same names have it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use clap::{Args, Subcommand, ValueEnum};
use store_local::{LocalError, LocalStore};
use store_types::{Derivation, DerivationJsonShape, HashModulo, StorePath};

use super::error::{CommandError, Hint};
use super::store::{not_valid, open_existing, parse_path};
use super::{Context, exit_code, is_stdout_terminal, print_bytes, print_line};
use crate::wiring;

/// The longest JSON that is read, in bytes: as long as a `.drv` may be.
const JSON_LEN_MAX: u64 = 256 << 20;

/// Show derivations as JSON, and add them
#[derive(Debug, Args)]
pub struct DerivationArgs {
    #[command(subcommand)]
    command: DerivationCommand,
}

#[derive(Debug, Subcommand)]
enum DerivationCommand {
    Show(ShowArgs),
    Add(AddArgs),
}

/// Print derivations of the store as JSON, byte for byte as `nix derivation show` does
#[derive(Debug, Args)]
struct ShowArgs {
    /// Derivations, or what they have built, as inside builds or on this machine
    #[arg(required = true)]
    paths: Vec<String>,
    /// Print all derivations that they need, too
    #[arg(short, long)]
    recursive: bool,
    /// Print it as the command of this version of Nix does
    #[arg(long, value_enum, value_name = "VERSION", default_value_t = Like::V2_34)]
    like: Like,
    /// Print it with lines [default: on a terminal, and for the older versions always]
    #[arg(long, overrides_with = "no_pretty")]
    pretty: bool,
    /// Print all in one line
    #[arg(long)]
    no_pretty: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Like {
    /// 2.4 to 2.17: `nix show-derivation`
    #[value(name = "2.8")]
    V2_8,
    /// 2.23 to 2.29
    #[value(name = "2.26")]
    V2_26,
    /// 2.33 and later
    #[value(name = "2.34")]
    V2_34,
}

/// Add a derivation that is read from standard input as JSON, and print its path
///
/// It is one derivation in the form that `nix derivation show` of 2.33 or later prints as a
/// member of `derivations`, or in that of 2.23 to 2.29. Where the path of an output can be known and
/// is left out, it is filled in, with the environment variable of its name, which must be there and
/// empty.
#[derive(Debug, Args)]
struct AddArgs {
    /// Only print the path
    #[arg(long)]
    dry_run: bool,
}

/// What cannot be shown or added.
#[derive(Debug, thiserror::Error)]
enum DerivationError {
    #[error("it is not known what has built `{0}`")]
    NoDeriver(String),
    #[error("cannot read standard input")]
    Input(#[source] io::Error),
    #[error("more than {} MiB of JSON are not read", JSON_LEN_MAX >> 20)]
    TooLong,
    #[error("standard input does not have the JSON of a derivation")]
    Json(#[source] store_types::DerivationFromJsonError),
    #[error("derivation `{name}` cannot be added")]
    Outputs {
        name: String,
        #[source]
        source: store_types::OutputPathError<LocalError>,
    },
    #[error("derivation `{name}` cannot have a path")]
    Path {
        name: String,
        #[source]
        source: store_types::ContentAddressedPathError,
    },
}

pub fn run(context: &Context, args: &DerivationArgs) -> Result<u8, CommandError> {
    match &args.command {
        DerivationCommand::Show(args) => show(context, args),
        DerivationCommand::Add(args) => add(context, args),
    }
}

fn show(context: &Context, args: &ShowArgs) -> Result<u8, CommandError> {
    let store = open_existing(context)?;
    let mut paths = BTreeSet::new();
    for text in &args.paths {
        let path = parse_path(&store, text)?;
        paths.insert(derivation_of(&store, path)?);
    }
    if args.recursive {
        let roots: Vec<StorePath> = paths.into_iter().collect();
        paths = store.closure(&roots)?;
        paths.retain(StorePath::is_derivation);
    }
    let mut drvs = BTreeMap::new();
    for path in paths {
        let drv = store.read_derivation(&path)?;
        drvs.insert(path, drv);
    }
    let (shape, is_pretty) = match args.like {
        Like::V2_8 => (DerivationJsonShape::Nix28, true),
        Like::V2_26 => (DerivationJsonShape::FullPaths, true),
        Like::V2_34 => (DerivationJsonShape::Version4, is_stdout_terminal()),
    };
    let is_pretty = !args.no_pretty && (args.pretty || is_pretty);
    let mut text = shape.print(store.store_dir(), &drvs, is_pretty)?;
    text.push(b'\n');
    print_bytes(&text)?;
    Ok(exit_code::SUCCESS)
}

/// The path if it is a derivation's, else that of a derivation that has built it.
fn derivation_of(store: &LocalStore, path: StorePath) -> Result<StorePath, CommandError> {
    if !path.is_derivation() {
        return match store.valid_derivers(&path)?.pop_first() {
            Some(deriver) => Ok(deriver),
            None => Err(DerivationError::NoDeriver(store.store_dir().display(&path)).into()),
        };
    }
    match store.is_valid(&path)? {
        true => Ok(path),
        false => Err(not_valid(store, &path).into()),
    }
}

fn add(context: &Context, args: &AddArgs) -> Result<u8, CommandError> {
    let mut text = Vec::new();
    io::stdin()
        .lock()
        .take(JSON_LEN_MAX + 1)
        .read_to_end(&mut text)
        .map_err(DerivationError::Input)?;
    if text.len() as u64 > JSON_LEN_MAX {
        return Err(DerivationError::TooLong.into());
    }
    let store = wiring::open_store(&context.store)?;
    let dir = store.store_dir();
    let (name, mut drv) = Derivation::from_json(dir, &text)
        .map_err(DerivationError::Json)
        .hint(|| "`droste derivation show PATH` prints one, in its member `derivations`")?;
    let failed = |source| DerivationError::Outputs {
        name: name.clone(),
        source,
    };
    let mut modulo = HashModulo::new(dir.clone());
    let read = |input: &StorePath| store.read_derivation(input);
    drv.fill_in_output_paths(&name, &mut modulo, read)
        .map_err(failed)?;
    let path = drv
        .drv_path(dir, &name)
        .map_err(|source| DerivationError::Path {
            name: name.clone(),
            source,
        })?;
    drv.check_output_paths(&path, &mut modulo, read)
        .map_err(failed)?;
    if !args.dry_run {
        store.add_text(path.name(), &drv.to_aterm(dir), &drv.references())?;
    }
    print_line(&dir.display(&path))?;
    Ok(exit_code::SUCCESS)
}
