//! What can go wrong, and in which step of setting a sandbox up.

use std::fmt;
use std::path::PathBuf;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::bytes;

/// Why there is no sandbox, or why nothing more is known of one.
#[derive(Debug, Error)]
pub enum Error {
    /// The spawner's process could not be started.
    #[error("cannot start the spawner")]
    Start(#[source] std::io::Error),
    /// The spawner is gone, killed by someone, and with it all of its sandboxes.
    #[error("the spawner has died")]
    SpawnerDied,
    /// The listener of a watched sandbox could not be used.
    #[error("cannot watch the sandbox")]
    Watch(#[source] std::io::Error),
    /// The spawner could not be talked to.
    #[error("cannot {0} the spawner")]
    Channel(&'static str, #[source] std::io::Error),
    /// The request is larger than [`MESSAGE_BYTES_MAX`](crate::MESSAGE_BYTES_MAX).
    #[error("the sandbox request has {0} bytes")]
    TooLarge(usize),
    /// More descriptors than [`FDS_MAX`](crate::FDS_MAX).
    #[error("the sandbox request has {0} descriptors")]
    TooManyFds(usize),
    /// The request names a descriptor that was not passed.
    #[error("the sandbox request names descriptor {0} of {1}")]
    NoSuchFd(u32, usize),
    /// A message that is not one.
    #[error("cannot understand the spawner's message")]
    Message(#[source] postcard::Error),
    /// A step of the set-up failed.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// A pseudoterminal could not be had.
    #[error("cannot open a pseudoterminal")]
    Pty(#[source] std::io::Error),
}

/// A step of setting up a sandbox that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetupError {
    /// Which step.
    pub step: Step,
    /// The path it was about, if any.
    #[serde(with = "bytes::optional_path")]
    pub path: Option<PathBuf>,
    /// The kernel's error number (errno(3)).
    #[serde(with = "errno_as_number")]
    pub errno: Errno,
}

impl SetupError {
    pub(crate) fn new(step: Step, errno: Errno) -> Self {
        SetupError {
            step,
            path: None,
            errno,
        }
    }

    pub(crate) fn at(step: Step, path: impl Into<PathBuf>, errno: Errno) -> Self {
        SetupError {
            step,
            path: Some(path.into()),
            errno,
        }
    }
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}", self.step)?;
        if let Some(path) = &self.path {
            write!(f, " `{}`", path.display())?;
        }
        if self.step == Step::Namespaces
            && [Errno::PERM, Errno::NOSPC, Errno::INVAL].contains(&self.errno)
        {
            write!(f, " (are user namespaces allowed on this machine?)")?;
        }
        Ok(())
    }
}

impl std::error::Error for SetupError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.errno)
    }
}

/// The steps, in the order in which they are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Understand the request.
    Request,
    /// Make the process and its namespaces.
    Namespaces,
    /// Map its user and group.
    IdMap,
    /// Tie it to the spawner's life.
    DeathSignal,
    /// Start a session.
    Session,
    /// Give a terminal or pipe to the build.
    Stdio,
    /// Bring the loopback interface up.
    Loopback,
    /// Enter the shared empty network namespace.
    EnterNetwork,
    /// Set the host name.
    HostName,
    /// Cut the mounts off from those outside.
    PrivateMounts,
    /// Make or bind the root.
    Root,
    /// Make a node in the root.
    Node,
    /// Open what is to be mounted.
    MountSource,
    /// Make the place to mount it on.
    MountTarget,
    /// Mount it.
    Mount,
    /// Change the root.
    PivotRoot,
    /// Leave the old root.
    DetachOldRoot,
    /// Enter the working directory.
    WorkingDirectory,
    /// Become the build's user.
    User,
    /// Give up capabilities.
    Capabilities,
    /// Cut off abstract sockets.
    AbstractSockets,
    /// Set limits and execution domain.
    Limits,
    /// Have its lookups watched.
    Watch,
    /// Execute the program.
    Execute,
    /// Hear from the sandbox: it died before it was set up.
    Died,
    /// Find the live sandbox that a mount is for.
    FindSandbox,
    /// Enter the live sandbox.
    EnterSandbox,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Request => "understand the sandbox request",
            Step::Namespaces => "make the sandbox's namespaces",
            Step::IdMap => "map the sandbox's user and group",
            Step::DeathSignal => "tie the sandbox to the spawner's life",
            Step::Session => "start a session in the sandbox",
            Step::Stdio => "give a terminal or pipe to the build",
            Step::Loopback => "bring the sandbox's loopback interface up",
            Step::EnterNetwork => "enter the empty network namespace",
            Step::HostName => "set the sandbox's host name",
            Step::PrivateMounts => "cut the sandbox's mounts off from those outside",
            Step::Root => "make the sandbox's root",
            Step::Node => "make in the sandbox",
            Step::MountSource => "open for the sandbox",
            Step::MountTarget => "make the mount point",
            Step::Mount => "mount in the sandbox",
            Step::PivotRoot => "change the sandbox's root",
            Step::DetachOldRoot => "leave the old root",
            Step::WorkingDirectory => "enter the sandbox's working directory",
            Step::User => "become the build's user",
            Step::Capabilities => "give up capabilities",
            Step::AbstractSockets => "cut off abstract sockets",
            Step::Limits => "set limits and execution domain",
            Step::Watch => "watch the sandbox's lookups",
            Step::Execute => "execute",
            Step::Died => "set the sandbox up: it died",
            Step::FindSandbox => "find the live sandbox",
            Step::EnterSandbox => "enter the live sandbox",
        })
    }
}

/// An error number as a plain number.
mod errno_as_number {
    use rustix::io::Errno;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(errno: &Errno, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i32(errno.raw_os_error())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Errno, D::Error> {
        Ok(Errno::from_raw_os_error(i32::deserialize(deserializer)?))
    }
}
