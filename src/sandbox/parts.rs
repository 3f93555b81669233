//! The standard parts of a build's root: `/dev`, `/etc`, `/proc`, the network's files.
//!
//! What is in them follows Nix (`linux-derivation-builder.cc`), since builds look at it.

use std::path::Path;

use crate::request::{INSIDE_GID, INSIDE_UID, Mount, Node, Owner, Source, TmpfsSize};

/// Nodes and mounts that belong together; see [`Request::add`](crate::Request::add).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Nodes, in order.
    pub nodes: Vec<Node>,
    /// Mounts, in order.
    pub mounts: Vec<Mount>,
}

/// `/dev`: full, null, random, tty, urandom, zero (and kvm) of the host, the links fd, stdin,
/// stdout, stderr and ptmx, a tmpfs shm of half the memory, and pts of its own.
pub fn dev_nodes(kvm: bool) -> Parts {
    let mut parts = Parts {
        nodes: vec![
            Node::dir("/dev", 0o755),
            Node::dir("/dev/shm", 0o755),
            Node::dir("/dev/pts", 0o755),
        ],
        mounts: Vec::new(),
    };
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "/dev/pts/ptmx"),
    ] {
        parts
            .nodes
            .push(Node::symlink(Path::new("/dev").join(name), target));
    }
    let devices = ["full", "null", "random", "tty", "urandom", "zero"];
    for name in devices.into_iter().chain(kvm.then_some("kvm")) {
        let path = Path::new("/dev").join(name);
        parts.mounts.push(Mount::Bind {
            source: Source::Path(path.clone()),
            target: path,
            read_only: false,
            recursive: false,
            devices: true,
        });
    }
    parts.mounts.push(Mount::Tmpfs {
        target: "/dev/shm".into(),
        size: TmpfsSize::Percent(50),
        mode: 0o1777,
        owner: Owner::Spawner,
    });
    parts.mounts.push(Mount::Devpts {
        target: "/dev/pts".into(),
    });
    parts
}

/// `/proc`, fresh.
pub fn proc_mount() -> Parts {
    Parts {
        nodes: Vec::new(),
        mounts: vec![Mount::Proc {
            target: "/proc".into(),
        }],
    }
}

/// `/etc/passwd`, `/etc/group`, and, where the network is not the host's, `/etc/hosts`.
///
/// `build_dir` is the home directory named in `/etc/passwd`: `/build` in Nix.
pub fn etc_files(build_dir: &str, hosts: bool) -> Parts {
    let passwd = format!(
        "root:x:0:0:Nix build user:{build_dir}:/noshell\n\
         nixbld:x:{INSIDE_UID}:{INSIDE_GID}:Nix build user:{build_dir}:/noshell\n\
         nobody:x:65534:65534:Nobody:/:/noshell\n"
    );
    let group = format!("root:x:0:\nnixbld:!:{INSIDE_GID}:\nnogroup:x:65534:\n");
    let mut nodes = vec![
        Node::file("/etc/passwd", 0o444, passwd),
        Node::file("/etc/group", 0o444, group),
    ];
    if hosts {
        nodes.push(Node::file(
            "/etc/hosts",
            0o444,
            "127.0.0.1 localhost\n::1 localhost\n",
        ));
    }
    nodes.push(Node::dir("/etc", 0o555));
    Parts {
        nodes,
        mounts: Vec::new(),
    }
}

/// What name resolution needs in a build that has the host's network: `/etc/nsswitch.conf`, and the
/// host's `/etc/resolv.conf`, `/etc/services` and `/etc/hosts`, those that exist, read-only.
///
/// Add it before [`etc_files`], which closes `/etc`. This looks at the host's files now: a
/// `resolv.conf` that is a link is bound from where it leads.
pub fn network_files() -> Parts {
    let mut parts = Parts {
        nodes: vec![Node::file(
            "/etc/nsswitch.conf",
            0o444,
            "hosts: files dns\nservices: files\n",
        )],
        mounts: Vec::new(),
    };
    for path in ["/etc/resolv.conf", "/etc/services", "/etc/hosts"] {
        if let Ok(source) = std::fs::canonicalize(path) {
            parts.nodes.push(Node::file(path, 0o444, ""));
            parts.mounts.push(Mount::input(source, path));
        }
    }
    parts
}
