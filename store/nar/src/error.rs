//! Why a tree could not be read, written or parsed.

use std::io;
use std::path::PathBuf;

/// Why a tree could not be read, written or parsed.
#[derive(Debug, thiserror::Error)]
pub enum NarError {
    /// The file system refused something.
    #[error("cannot {operation} `{path}`", path = path.display())]
    Io {
        /// What was tried, like `open`.
        operation: &'static str,
        /// On what; relative to where the operation began, whose name comes first.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Neither a regular file nor a directory nor a symbolic link.
    #[error("`{path}` has an unsupported type: it is a {kind}, and a store holds only regular files, directories and symbolic links", path = path.display())]
    UnsupportedNode {
        /// The node.
        path: PathBuf,
        /// What it is, like `socket`.
        kind: &'static str,
    },
    /// A file's length is not what it was when reading began.
    #[error("`{path}` changed while it was read: it had {announced} bytes", path = path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// Its length when it was opened, in bytes.
        announced: u64,
    },
    /// More directories in one another than an archive may have.
    #[error("`{path}` is nested in {max} directories, which is one too many", path = path.display(), max = crate::DEPTH_MAX)]
    TooDeep {
        /// The directory that is one too deep.
        path: PathBuf,
    },
    /// An archive that the format does not allow.
    #[error("malformed NAR at byte {offset}: {reason}")]
    Malformed {
        /// Where, counted from the archive's begin.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// The stream ended inside the archive.
    #[error("the NAR ends at byte {offset}, before it is complete")]
    UnexpectedEnd {
        /// How many bytes there were.
        offset: u64,
    },
    /// Git hashes by SHA-1 and SHA-256 only.
    #[error("git objects are not hashed by `{algorithm}`")]
    GitAlgorithm {
        /// The algorithm's name.
        algorithm: &'static str,
    },
    /// Directories whose tree objects would take too much memory.
    #[error("the directories that hold `{name}` are more than {max} bytes as git objects", max = crate::GIT_TREES_LEN_MAX)]
    GitTreesTooLong {
        /// The entry that is one too many.
        name: String,
    },
    /// The stream that the archive comes from failed.
    #[error("cannot read the NAR")]
    Read(#[source] io::Error),
    /// The stream that the archive goes to failed.
    #[error("cannot write the NAR")]
    Write(#[source] io::Error),
}

impl NarError {
    /// For a failure of a sink: what a [`RestoreWriter`](crate::RestoreWriter)
    /// found wrong comes through [`io::Write`] as an inner error, and is that again.
    pub(crate) fn from_sink(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(inner) => inner,
            Err(error) => Self::Write(error),
        }
    }
}
