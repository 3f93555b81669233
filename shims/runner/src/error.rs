//! Why the runner could not do its job.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use shim_core::manifest::ManifestError;

/// Why the runner could not do its job. Written by hand, as one line: the runner stays small.
pub enum Error {
    /// A variable of the derivation's is missing.
    Variable(String),
    /// The manifest is malformed.
    Manifest(ManifestError),
    /// A system call failed.
    File(PathBuf, io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(name) => write!(f, "`{name}` is not set"),
            Self::Manifest(error) => error.fmt(f),
            Self::File(path, error) => write!(f, "`{}`: {error}", path.display()),
        }
    }
}

/// Names the file that an operation was about.
pub trait Context<T> {
    /// Adds the path to the error.
    fn context(self, path: &Path) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, path: &Path) -> Result<T, Error> {
        self.map_err(|error| Error::File(path.to_owned(), error.into()))
    }
}
