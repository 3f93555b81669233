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
    /// An entry of the manifest's is where the sandbox itself has something.
    Taken(PathBuf, PathBuf),
    /// A child's own root could not be made: in which step.
    Root(&'static str, io::Error),
    /// A system call failed.
    File(PathBuf, io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(name) => write!(f, "`{name}` is not set"),
            Self::Manifest(error) => error.fmt(f),
            Self::Taken(path, place) => write!(
                f,
                "nothing can be created at `{}`: `{}` is the sandbox's own",
                path.display(),
                place.display()
            ),
            Self::Root(step, error) => write!(f, "cannot {step} for the child's root: {error}"),
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
