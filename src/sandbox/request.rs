//! What a sandbox is to be: plain data, written down by the caller and acted on by another process.
//!
//! Nothing here touches the system. Paths "inside" are absolute paths as the build sees them; paths
//! "on the host" are as the process that started the spawner sees them. No length here comes from
//! a build; the limits of the channel ([`MESSAGE_BYTES_MAX`](crate::MESSAGE_BYTES_MAX),
//! [`FDS_MAX`](crate::FDS_MAX)) hold for the whole request.

use std::path::{Path, PathBuf};

use bstr::BString;
use serde::{Deserialize, Serialize};

use crate::bytes;

/// The user that a build sees itself as.
pub const INSIDE_UID: u32 = 1000;
/// The group that a build sees itself in.
pub const INSIDE_GID: u32 = 100;

/// One sandbox and the one program that runs in it as PID 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// What becomes `/`.
    pub root: Root,
    /// Files, directories and symlinks made in the root before `mounts` are mounted on it, in order.
    /// Missing parent directories are made, 0755.
    pub nodes: Vec<Node>,
    /// Mounts made after the nodes, in order; a later one may lie in or over an earlier one. A
    /// missing mount point is made, as a directory or an empty file according to what is mounted.
    pub mounts: Vec<Mount>,
    /// The program, a path inside.
    #[serde(with = "bytes::path")]
    pub program: PathBuf,
    /// `argv[0]`.
    pub argv0: BString,
    /// `argv[1]` and following.
    pub args: Vec<BString>,
    /// The whole environment, name and value; nothing is inherited.
    pub env: Vec<(BString, BString)>,
    /// The working directory, a path inside.
    #[serde(with = "bytes::path")]
    pub cwd: PathBuf,
    /// The user outside that is [`INSIDE_UID`] inside. Only a spawner that runs as root may name
    /// another user than its own.
    pub host_uid: u32,
    /// The group outside that is [`INSIDE_GID`] inside. Only a spawner that runs as root may name
    /// another group than its own.
    pub host_gid: u32,
    /// Which network the build sees.
    pub network: Network,
    /// The execution domain: `PER_LINUX32` for 32-bit systems on a 64-bit kernel, else the plain
    /// one. Address space randomization is off in both.
    pub personality: Personality,
    /// What become descriptors 0, 1 and 2.
    pub stdio: [Stdio; 3],
    /// Keep what [`Running::mount_into`](crate::Running::mount_into) needs. It costs one more mount
    /// namespace where the spawner is not root.
    pub allow_new_mounts: bool,
    /// Every call of the program and its descendants that finds a file by name waits until the
    /// [`Listener`](crate::Listener) from [`Running::take_listener`](crate::Running::take_listener)
    /// answers it. There is no io_uring then, and no x32.
    pub watched: bool,
    /// Host directories that are of use to this build alone: the spawner removes them, whatever
    /// is in them, when it ends or the process that started it dies. They stay registered when the build has
    /// ended, until [`Spawner::forget_scratch`](crate::Spawner::forget_scratch).
    #[serde(with = "bytes::paths")]
    pub scratch_dirs: Vec<PathBuf>,
}

impl Request {
    /// A request with nothing in its root: `argv[0]` is the base name of the program, no
    /// environment, working directory `/`, no network, `/dev/null` on 0, 1 and 2, and the caller's
    /// own user and group as the ones outside.
    pub fn new(root: Root, program: impl Into<PathBuf>) -> Self {
        let program = program.into();
        let argv0 = program
            .file_name()
            .map(|name| BString::from(std::os::unix::ffi::OsStrExt::as_bytes(name)))
            .unwrap_or_default();
        Request {
            root,
            nodes: Vec::new(),
            mounts: Vec::new(),
            program,
            argv0,
            args: Vec::new(),
            env: Vec::new(),
            cwd: PathBuf::from("/"),
            host_uid: rustix::process::geteuid().as_raw(),
            host_gid: rustix::process::getegid().as_raw(),
            network: Network::Isolated,
            personality: Personality::Linux,
            stdio: [Stdio::Null, Stdio::Null, Stdio::Null],
            allow_new_mounts: false,
            watched: false,
            scratch_dirs: Vec::new(),
        }
    }

    /// Appends the nodes and mounts of a standard part.
    pub fn add(&mut self, parts: crate::Parts) -> &mut Self {
        self.nodes.extend(parts.nodes);
        self.mounts.extend(parts.mounts);
        self
    }
}

/// What becomes `/` of the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Root {
    /// A new tmpfs that vanishes with the sandbox, and on it, writable, directories of the host, in
    /// order: what the build writes there stays. `/` itself is 0750 and of the build's group. A disk
    /// takes longer for the other files of a root than all else does.
    Directories(Vec<OnDisk>),
    /// A new tmpfs that vanishes with the sandbox; `/` itself is 0755.
    Tmpfs {
        /// Its limit; the kernel's default is half of the memory.
        size: TmpfsSize,
    },
}

/// A directory of the host in a root that is else in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnDisk {
    /// Which, on the host.
    #[serde(with = "bytes::path")]
    pub source: PathBuf,
    /// Where, inside.
    #[serde(with = "bytes::path")]
    pub target: PathBuf,
}

/// Limit of a tmpfs (tmpfs(5), option `size`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TmpfsSize {
    /// The kernel's default.
    #[default]
    Default,
    /// In bytes.
    Bytes(u64),
    /// In percent of the memory.
    Percent(u8),
}

/// Who owns a node.
///
/// A spawner that is not root owns nothing but its own user, so there everything is the build's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Owner {
    /// The user the build runs as.
    Build,
    /// The spawner's user: root where it is root, whom the build sees as `nobody`.
    Spawner,
}

/// One thing to make in the root. It must not exist, except for a directory, which is then only
/// given its owner and mode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Node {
    /// A directory.
    Dir {
        /// Where, inside.
        #[serde(with = "bytes::path")]
        path: PathBuf,
        /// Permission bits, exactly (no umask).
        mode: u32,
        /// Its owner.
        owner: Owner,
    },
    /// A regular file.
    File {
        /// Where, inside.
        #[serde(with = "bytes::path")]
        path: PathBuf,
        /// Permission bits, exactly (no umask).
        mode: u32,
        /// Its owner.
        owner: Owner,
        /// Its bytes.
        contents: BString,
    },
    /// A regular file of the build's, with the content that a file of the host has.
    Copy {
        /// Where, inside.
        #[serde(with = "bytes::path")]
        path: PathBuf,
        /// Permission bits, exactly (no umask).
        mode: u32,
        /// Seconds of its modification time.
        mtime_seconds: i64,
        /// The file on the host, which is no symlink.
        #[serde(with = "bytes::path")]
        source: PathBuf,
    },
    /// A symbolic link.
    Symlink {
        /// Where, inside.
        #[serde(with = "bytes::path")]
        path: PathBuf,
        /// Its text, never looked at.
        #[serde(with = "bytes::path")]
        target: PathBuf,
    },
}

impl Node {
    /// A directory of the spawner's.
    pub fn dir(path: impl Into<PathBuf>, mode: u32) -> Self {
        Node::Dir {
            path: path.into(),
            mode,
            owner: Owner::Spawner,
        }
    }

    /// A directory of the build's.
    pub fn build_dir(path: impl Into<PathBuf>, mode: u32) -> Self {
        Node::Dir {
            path: path.into(),
            mode,
            owner: Owner::Build,
        }
    }

    /// A file of the spawner's.
    pub fn file(path: impl Into<PathBuf>, mode: u32, contents: impl Into<BString>) -> Self {
        Node::File {
            path: path.into(),
            mode,
            owner: Owner::Spawner,
            contents: contents.into(),
        }
    }

    /// A symbolic link.
    pub fn symlink(path: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Node::Symlink {
            path: path.into(),
            target: target.into(),
        }
    }

    /// Where it is made, inside.
    pub fn path(&self) -> &Path {
        match self {
            Node::Dir { path, .. }
            | Node::File { path, .. }
            | Node::Copy { path, .. }
            | Node::Symlink { path, .. } => path,
        }
    }
}

/// Where a bind mount comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A path on the host. A symbolic link as its last component is not followed but copied to the
    /// target as a link.
    Path(#[serde(with = "bytes::path")] PathBuf),
    /// The passed descriptor with this index (`O_PATH` is enough): a file or directory that the
    /// host's mount namespace shows under some name.
    Fd(u32),
}

/// One mount. All are `nosuid`; all but [`Bind`](Mount::Bind) with `devices` and
/// [`Devpts`](Mount::Devpts) are `nodev`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mount {
    /// A file or directory of the host.
    Bind {
        /// Which.
        source: Source,
        /// Where, inside.
        #[serde(with = "bytes::path")]
        target: PathBuf,
        /// The build cannot write through it.
        read_only: bool,
        /// With what is mounted beneath it. A spawner that is not root is not allowed to leave that
        /// out where there is something, and then takes it along.
        recursive: bool,
        /// Device nodes work.
        devices: bool,
    },
    /// A new tmpfs.
    Tmpfs {
        /// Where, inside.
        #[serde(with = "bytes::path")]
        target: PathBuf,
        /// Its limit.
        size: TmpfsSize,
        /// Permission bits of its top directory.
        mode: u32,
        /// Owner of its top directory.
        owner: Owner,
    },
    /// A new proc(5) of the sandbox's PID namespace, at `/proc` as a rule.
    Proc {
        /// Where, inside.
        #[serde(with = "bytes::path")]
        target: PathBuf,
    },
    /// A new instance of devpts, at `/dev/pts` as a rule: mode 0620, its `ptmx` 0666.
    Devpts {
        /// Where, inside.
        #[serde(with = "bytes::path")]
        target: PathBuf,
    },
}

impl Mount {
    /// A read-only bind of a host path.
    pub fn input(source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Mount::Bind {
            source: Source::Path(source.into()),
            target: target.into(),
            read_only: true,
            recursive: false,
            devices: false,
        }
    }

    /// A writable bind of a host path.
    pub fn writable(source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Mount::Bind {
            source: Source::Path(source.into()),
            target: target.into(),
            read_only: false,
            recursive: false,
            devices: false,
        }
    }

    /// Where it is mounted, inside.
    pub fn target(&self) -> &Path {
        match self {
            Mount::Bind { target, .. }
            | Mount::Tmpfs { target, .. }
            | Mount::Proc { target }
            | Mount::Devpts { target } => target,
        }
    }
}

/// Which network a build sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// A namespace of its own with nothing but `lo`, up.
    Isolated,
    /// No interface that is up. Cheaper than [`Isolated`](Network::Isolated) where the spawner is
    /// root and the kernel scopes abstract sockets (Landlock ABI 6, Linux 6.12): then one empty
    /// namespace serves all such sandboxes, which cannot reach each other in it. Elsewhere the
    /// same as `Isolated`.
    None,
    /// The host's, for fixed-output builds. Abstract Unix sockets of processes outside are out of
    /// reach where the kernel has Landlock ABI 6.
    Host,
}

/// Execution domain (personality(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Personality {
    /// The kernel's own.
    Linux,
    /// `PER_LINUX32`: uname(2) tells a 32-bit machine; for `i686-linux` on x86-64.
    Linux32,
}

/// What becomes one of the first three descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdio {
    /// `/dev/null`.
    Null,
    /// The passed descriptor with this index. Terminals and pipes are given to the build's user
    /// (where the spawner is root), or else `/dev/stderr` could not be opened inside.
    Fd(u32),
}
