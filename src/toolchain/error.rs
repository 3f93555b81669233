//! What can go wrong, by operation.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Output, Stdio};

use crate::elf::ElfError;

/// How much of a failed program's standard error is kept, in bytes, from its
/// end: the reason is in the last lines.
const STDERR_LEN_MAX: usize = 4096;

/// A program that could not be run to a good end.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It is not installed.
    #[error("`{program}` is not installed")]
    Missing {
        /// The program's name.
        program: String,
    },
    /// It could not be started.
    #[error("cannot start `{program}`")]
    Start {
        /// The program's name.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It failed.
    #[error("`{program}` failed with {status}: {stderr}")]
    Failed {
        /// The program's name.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote to standard error.
        stderr: String,
    },
}

/// Packages could not be found or fetched.
#[derive(Debug, thiserror::Error)]
pub enum PackagesError {
    /// `apt-get`, `apt-cache` or `dpkg-deb` failed.
    #[error("cannot read or fetch Debian packages with apt")]
    Apt(#[source] CommandError),
    /// apt's lists do not have a package that is needed.
    #[error(
        "apt knows no package `{}`; check the sources in `/etc/apt` and run `apt-get update` as root",
        names.join("`, `")
    )]
    Unknown {
        /// The packages' names.
        names: Vec<String>,
    },
    /// A package's metadata lacks a field, or has one that makes no sense.
    #[error("apt's record of `{package}` has no usable `{field}`")]
    Record {
        /// The package's name.
        package: String,
        /// The field's name.
        field: &'static str,
    },
    /// A package is not what apt's signed lists say.
    #[error("`{}` is not the file that apt's lists describe; delete it and try again", path.display())]
    Mismatch {
        /// The downloaded file.
        path: PathBuf,
    },
    /// A file of the cache directory.
    #[error("cannot {operation} `{}`", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// The tree could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// The given path cannot be a store path's.
    #[error("`{path}` cannot be the tree's path: {reason}")]
    StorePath {
        /// The path.
        path: String,
        /// Why.
        reason: &'static str,
    },
    /// A package could not be unpacked.
    #[error("cannot unpack `{}`", path.display())]
    Unpack {
        /// The package's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: CommandError,
    },
    /// A program could not be relocated.
    #[error("cannot relocate `{}`", path.display())]
    Elf {
        /// The program, relative to the tree.
        path: PathBuf,
        /// Why.
        #[source]
        source: ElfError,
    },
    /// A file that every toolchain has is not in the packages.
    #[error("the packages have no `{path}`")]
    Missing {
        /// The file, relative to the tree.
        path: String,
    },
    /// Libraries that files need are not in the tree.
    #[error("libraries are missing from the packages: {}", list(missing))]
    Unresolved {
        /// (file, library it needs), sorted.
        missing: Vec<(String, String)>,
    },
    /// A file of the tree.
    #[error("cannot {operation} `{}`", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// A crate's sources could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// `cargo` failed.
    #[error("cannot fetch the sources of crate `{name}` {version} with cargo")]
    Cargo {
        /// The crate's name.
        name: String,
        /// Its version.
        version: String,
        /// Why.
        #[source]
        source: CommandError,
    },
    /// A name or version that is none.
    #[error("`{name}` {version} cannot be a crate's name and version")]
    Name {
        /// The crate's name.
        name: String,
        /// Its version.
        version: String,
    },
    /// A text to be changed is not in the file exactly once.
    #[error("`{}` does not have `{text}` exactly once", path.display())]
    Edit {
        /// The file.
        path: PathBuf,
        /// The text.
        text: &'static str,
    },
    /// A file of the cache or of the sources.
    #[error("cannot {operation} `{}`", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

fn list(missing: &[(String, String)]) -> String {
    let lines: Vec<String> = missing
        .iter()
        .map(|(file, library)| format!("`{file}` needs `{library}`"))
        .collect();
    lines.join(", ")
}

/// Runs a program to its end; its standard output if it succeeded.
pub(crate) fn run(command: &mut Command) -> Result<Vec<u8>, CommandError> {
    let output = run_any(command)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(failed(command, &output))
}

/// Runs a program to its end, whatever that is, with nothing on its standard
/// input and messages in English.
pub(crate) fn run_any(command: &mut Command) -> Result<Output, CommandError> {
    let output = command.stdin(Stdio::null()).env("LC_ALL", "C").output();
    output.map_err(|source| start_error(command, source))
}

/// The error of a program that did not start.
pub(crate) fn start_error(command: &Command, source: io::Error) -> CommandError {
    let program = name(command);
    match source.kind() {
        io::ErrorKind::NotFound => CommandError::Missing { program },
        _ => CommandError::Start { program, source },
    }
}

/// The error of a program that failed.
pub(crate) fn failed(command: &Command, output: &Output) -> CommandError {
    let from = output.stderr.len().saturating_sub(STDERR_LEN_MAX);
    CommandError::Failed {
        program: name(command),
        status: output.status,
        stderr: String::from_utf8_lossy(&output.stderr[from..])
            .trim()
            .to_owned(),
    }
}

fn name(command: &Command) -> String {
    let program: OsString = command.get_program().to_owned();
    program.to_string_lossy().into_owned()
}
