//! What an executor is told: limits, features, and which of its powers to use.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

/// How an executor builds.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where Droste keeps what belongs to no store, such as fetched packages.
    pub droste_dir: PathBuf,
    /// The system that builders run on.
    pub system: String,
    /// Further systems whose builders run here, too.
    pub extra_systems: BTreeSet<String>,
    /// The features that a derivation may require.
    pub system_features: BTreeSet<String>,
    /// Derivations that run at once; children have a limit of their own.
    pub max_jobs: usize,
    /// Children that run at once over all builds.
    pub child_jobs: usize,
    /// `NIX_BUILD_CORES`: how many processes a builder should run.
    pub cores: usize,
    /// Make compiler calls children.
    pub memo: bool,
    /// Lay the shims over the compilers in a build's input closure.
    pub interpose: bool,
    /// After a failure, go on with what does not depend on it.
    pub keep_going: bool,
    /// Keep the build directory of a build that failed.
    pub keep_failed: bool,
    /// The statically linked shell that builds see as `/bin/sh`, if there is one.
    pub sandbox_shell: Option<PathBuf>,
    /// Further host paths that builds see: path inside, path on this machine.
    pub sandbox_paths: Vec<(PathBuf, PathBuf)>,
    /// Is told what is nobody's failure, such as why a child could not run.
    pub diagnose: fn(&str),
    /// A builder that runs longer is killed.
    pub timeout: Option<Duration>,
    /// A builder that writes nothing to its log for longer is killed.
    pub max_silent_time: Option<Duration>,
    /// How many lines of a failed build's log its error repeats.
    pub log_lines: usize,
}

/// The processor and kernel of this machine as Nix names them.
pub const THIS_SYSTEM: &str = if cfg!(target_arch = "aarch64") {
    "aarch64-linux"
} else if cfg!(target_arch = "x86_64") {
    "x86_64-linux"
} else {
    "unknown-linux"
};

impl Settings {
    /// What fits this machine.
    pub fn new(droste_dir: PathBuf) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let features = [
            "benchmark",
            "big-parallel",
            "ca-derivations",
            "nixos-test",
            "recursive-nix",
        ];
        let mut system_features: BTreeSet<String> = features.map(String::from).into();
        if rustix::fs::access(
            "/dev/kvm",
            rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK,
        )
        .is_ok()
        {
            system_features.insert("kvm".into());
        }
        let extra_systems = match THIS_SYSTEM {
            "x86_64-linux" => BTreeSet::from(["i686-linux".to_owned()]),
            _ => BTreeSet::new(),
        };
        Self {
            droste_dir,
            system: THIS_SYSTEM.into(),
            extra_systems,
            system_features,
            max_jobs: cores,
            child_jobs: cores,
            cores,
            memo: true,
            interpose: true,
            keep_going: false,
            keep_failed: false,
            sandbox_shell: find_static_shell(),
            sandbox_paths: Vec::new(),
            diagnose: |_| {},
            timeout: None,
            max_silent_time: None,
            log_lines: 25,
        }
    }

    /// Whether builders for this system run here.
    pub fn runs(&self, system: &[u8]) -> bool {
        system == self.system.as_bytes()
            || self
                .extra_systems
                .iter()
                .any(|extra| extra.as_bytes() == system)
    }
}

/// Where Debian and others install a shell that needs no library.
fn find_static_shell() -> Option<PathBuf> {
    [
        "/bin/busybox",
        "/usr/bin/bash-static",
        "/bin/bash-static",
        "/usr/bin/busybox",
    ]
    .into_iter()
    .map(PathBuf::from)
    .find(|path| rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok())
}
