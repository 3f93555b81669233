//! Why a store did not do what it was asked for.

use std::io;

use store_types::StorePath;

/// Any error, as a cause.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a store did not do what it was asked for.
///
/// A build that fails is no error but a [`BuildResult`](crate::BuildResult).
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// This store, or this view of it, does not do this for this client.
    #[error("operation `{operation}` is not allowed in this store")]
    Refused {
        /// Nix's name of the operation, like `CollectGarbage`.
        operation: &'static str,
    },
    /// This store does not do this for this path.
    #[error("operation `{operation}` is not allowed on `{path}`")]
    PathRefused {
        /// Nix's name of the operation.
        operation: &'static str,
        /// The path.
        path: StorePath,
    },
    /// A path that must be valid is not.
    #[error("path `{path}` is not valid")]
    NotValid {
        /// The path.
        path: StorePath,
    },
    /// What the client sent contradicts itself: a hash, size, name, reference.
    #[error("{what}")]
    BadRequest {
        /// What is wrong, naming the object.
        what: String,
    },
    /// An object is neither content-addressed nor signed by a trusted key.
    #[error("cannot add path `{path}` because it lacks a signature by a trusted key")]
    Untrusted {
        /// The path.
        path: StorePath,
    },
    /// The server of another store says that it did not do it.
    #[error("{message}")]
    Remote {
        /// Its words.
        message: String,
        /// The exit status it suggests (before protocol 1.26), else 1.
        exit_status: u64,
    },
    /// The file system or a stream failed.
    #[error("cannot {action}")]
    Io {
        /// What was tried, naming the object: "read `/nix/…`".
        action: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Something below the store failed.
    #[error("cannot {action}")]
    Failed {
        /// What was tried, naming the object.
        action: String,
        /// The cause.
        #[source]
        source: BoxError,
    },
}

impl StoreError {
    /// An [`Io`](Self::Io) error, for `map_err`.
    pub fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    /// A [`Failed`](Self::Failed) error, for `map_err`.
    pub fn failed<E: Into<BoxError>>(action: impl Into<String>) -> impl FnOnce(E) -> Self {
        let action = action.into();
        move |source| Self::Failed {
            action,
            source: source.into(),
        }
    }
}
