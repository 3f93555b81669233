//! `droste toolchain import`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, Subcommand};
use droste_toolchain::{Packages, PackagesError, Progress};
use store_local::{LocalStore, OutputTree};
use store_nar::HashModuloVariant;
use store_types::{
    ContentAddressMethod, HashAlgorithm, Sha256Hasher, StorePath, StorePathError, sha256,
};

use super::error::{CommandError, Hint};
use super::report::{Status, seconds};
use super::workshop::Workshop;
use super::{Context, exit_code, print_line};
use crate::wiring;

/// Compilers for builds, without a Nix package collection
#[derive(Debug, Args)]
pub struct ToolchainArgs {
    #[command(subcommand)]
    command: ToolchainCommand,
}

#[derive(Debug, Subcommand)]
enum ToolchainCommand {
    Import(ImportArgs),
}

/// Make a C and C++ toolchain out of this machine's Debian packages, add it to the store,
/// and print its path
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Tell nothing but the path and errors
    #[arg(long)]
    print_path: bool,
}

/// What of a toolchain cannot be remembered or added.
#[derive(Debug, thiserror::Error)]
enum ImportError {
    #[error("cannot {operation} `{}`", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{name}` cannot be the toolchain's name")]
    Name {
        name: String,
        #[source]
        source: StorePathError,
    },
}

pub fn run(context: &Context, args: &ToolchainArgs) -> Result<u8, CommandError> {
    let ToolchainCommand::Import(args) = &args.command;
    let status = match args.print_path {
        true => Status::new(super::Verbosity::Quiet),
        false => context.status(),
    };
    let store = wiring::open_store(&context.store)?;
    let path = import(context, &store, &status)?;
    print_line(&store.store_dir().display(&path))?;
    Ok(exit_code::SUCCESS)
}

/// The store path of the toolchain of this machine's packages, which is made if it is
/// not in the store.
pub fn import(
    context: &Context,
    store: &LocalStore,
    status: &Status,
) -> Result<StorePath, CommandError> {
    let mut tell = |progress: Progress<'_>| status.now(&progress_text(&progress));
    let packages = match Packages::fetch(&context.cache_dir(), &mut tell) {
        Err(error @ PackagesError::Apt(droste_toolchain::CommandError::Missing { .. })) => {
            return Err(error)
                .hint(|| "a toolchain can be imported only where Debian's packages can be had");
        }
        result => result?,
    };
    let memory = remembered_in(context, &packages);
    if let Some(path) = read_memory(&memory)
        && store.is_valid(&path)?
    {
        status.clear();
        status.line(&format!(
            "found the toolchain of these {} packages",
            packages.packages().len()
        ));
        return Ok(path);
    }
    let begun = Instant::now();
    let workshop = Workshop::open(store)?;
    let name = packages.toolchain_name();
    // Until the content is known; only its length matters.
    let scratch = store
        .store_dir()
        .make_path("output:out", &sha256(name.as_bytes()), &name);
    let scratch = scratch.map_err(|source| ImportError::Name { name, source })?;
    let tree = workshop.dir().join("tree");
    let summary = packages.assemble(&tree, &store.store_dir().display(&scratch), &mut tell)?;
    status.now("adding the toolchain to the store");
    let dir = store_nar::fs::open_root(workshop.dir()).map_err(|source| ImportError::Io {
        operation: "open",
        path: workshop.dir().to_owned(),
        source,
    })?;
    let info = store.add_self_referential(&OutputTree {
        dir: dir.as_fd(),
        node: OsStr::new("tree"),
        scratch: &scratch,
        method: ContentAddressMethod::Nar,
        algorithm: HashAlgorithm::Sha256,
        variant: HashModuloVariant::WithoutOffsets,
        candidates: &BTreeSet::new(),
        builder_uids: None,
        records_content_address: false,
        deriver: None,
    })?;
    remember(&memory, &info.path)?;
    status.clear();
    status.line(&format!(
        "made a toolchain of {} packages ({} programs relocated, {} MB) in {}",
        summary.packages,
        summary.patched,
        summary.size_bytes / 1_000_000,
        seconds(begun.elapsed())
    ));
    Ok(info.path)
}

fn progress_text(progress: &Progress<'_>) -> String {
    match progress {
        Progress::RefreshingLists => "fetching Debian's package lists".to_owned(),
        Progress::Downloading {
            done_bytes,
            total_bytes,
        } => format!(
            "downloading packages: {} of {} MB",
            done_bytes / 1_000_000,
            total_bytes / 1_000_000
        ),
        Progress::Unpacking {
            package,
            done,
            total,
        } => format!("unpacking packages: {done} of {total}, {package}"),
        Progress::Patching { done, total } => format!("relocating programs: {done} of {total}"),
    }
}

/// The file that tells which store path these packages have become. What is made of
/// them may change with the version of Droste.
fn remembered_in(context: &Context, packages: &Packages) -> PathBuf {
    let mut hasher = Sha256Hasher::new();
    hasher.update(concat!(env!("CARGO_PKG_VERSION"), "\n").as_bytes());
    for package in packages.packages() {
        hasher.update(format!("{} {}\n", package.name, package.version).as_bytes());
    }
    context
        .droste_dir
        .join("toolchains")
        .join(hasher.finish().0.to_base32())
}

fn read_memory(file: &Path) -> Option<StorePath> {
    // What cannot be read is not known.
    let text = std::fs::read_to_string(file).ok()?;
    StorePath::from_base_name(text.trim_end()).ok()
}

fn remember(file: &Path, path: &StorePath) -> Result<(), ImportError> {
    let write = || -> io::Result<()> {
        let dir = file.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(dir)?;
        let mut new = tempfile::NamedTempFile::new_in(dir)?;
        writeln!(new, "{}", path.base_name())?;
        new.persist(file)?;
        Ok(())
    };
    write().map_err(|source| ImportError::Io {
        operation: "write",
        path: file.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_toolchain_is_remembered_until_the_file_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("toolchains/some-hash");
        assert_eq!(read_memory(&file), None);
        let path = StorePath::from_base_name("0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-toolchain").unwrap();
        remember(&file, &path).unwrap();
        assert_eq!(read_memory(&file), Some(path));
        std::fs::write(&file, "garbage").unwrap();
        assert_eq!(read_memory(&file), None);
    }

    #[test]
    fn progress_is_told_in_words() {
        let text = progress_text(&Progress::Downloading {
            done_bytes: 3_500_000,
            total_bytes: 61_000_000,
        });
        assert_eq!(text, "downloading packages: 3 of 61 MB");
    }
}
