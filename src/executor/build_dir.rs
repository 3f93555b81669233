//! The directories of what runs: a build's, with the root of its sandbox; a child has its root in
//! memory, and only a directory for its outputs on their way into the store.
//!
//! ```text
//! <state>/builds/droste-<pid>-<time>/<number>/
//!     root/             the sandbox's root
//!     root/build/       the build directory, the builder's own
//!     root/nix/store/   where outputs appear, and inputs are mounted
//!     own/              our temporary files
//! ```

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Executor;
use crate::builder_env::BUILD_DIR;
use crate::error::{BuildError, environment};
use crate::outputs::open_dir;
use crate::users::{BuildUser, UsersError};

/// A directory for temporary files, which no build can see, removed with it.
pub(crate) struct ScratchDir {
    executor: Arc<Executor>,
    path: PathBuf,
}

impl ScratchDir {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// The directory of one running build, removed with it.
pub(crate) struct BuildDir(ScratchDir);

impl BuildDir {
    /// The sandbox's root.
    pub(crate) fn root(&self) -> PathBuf {
        self.0.path.join("root")
    }

    /// The store directory in the sandbox's root, where outputs appear.
    pub(crate) fn store(&self, store_dir: &str) -> PathBuf {
        self.root().join(store_dir.trim_start_matches('/'))
    }

    /// The build directory on this machine.
    pub(crate) fn build(&self) -> PathBuf {
        self.root().join(BUILD_DIR.trim_start_matches('/'))
    }

    /// A directory for our own temporary files, which the build cannot see.
    pub(crate) fn own(&self) -> PathBuf {
        self.0.path.join("own")
    }

    /// Moves the build directory to where it stays, and where everybody may look at it.
    pub(crate) fn keep_failed(&self, text: &str) -> Result<PathBuf, BuildError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let keep = || -> std::io::Result<PathBuf> {
            let builds = self.0.executor.store.state_dir().join("builds");
            let dir = loop {
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                let dir = builds.join(format!("nix-{}-{number}", std::process::id()));
                match std::fs::DirBuilder::new().mode(0o755).create(&dir) {
                    Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                    made => {
                        made?;
                        break dir;
                    }
                }
            };
            let kept = dir.join(BUILD_DIR.trim_start_matches('/'));
            std::fs::rename(self.build(), &kept)?;
            // An ordinary user's builder could have put a link in its place.
            let made = open_dir(&kept)?;
            rustix::fs::fchmod(&made, rustix::fs::Mode::from_raw_mode(0o755))?;
            Ok(kept)
        };
        keep().map_err(environment(text, "keep the build directory"))
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        self.executor.remove_build_dir(&self.path);
        let _ = self.executor.spawner.forget_scratch(&self.path);
    }
}

fn private(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().mode(0o700).create(path)
}

impl Executor {
    pub(crate) fn acquire_user(&self, text: &str) -> Result<BuildUser, BuildError> {
        self.free_user()
            .map_err(environment(text, "get a user to build as"))
    }

    /// The same, saying why there is none.
    pub(crate) fn free_user(&self) -> Result<BuildUser, UsersError> {
        BuildUser::acquire(self.store.state_dir(), &self.settings.users)
    }

    /// Makes a directory: nobody else's, empty, and gone with us.
    pub(crate) fn make_scratch_dir(self: &Arc<Self>, text: &str) -> Result<ScratchDir, BuildError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let make = || -> std::io::Result<ScratchDir> {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = self.builds_dir.join(number.to_string());
            private(&path)?;
            let dir = ScratchDir {
                executor: self.clone(),
                path,
            };
            self.spawner
                .watch_scratch(&dir.path)
                .map_err(std::io::Error::other)?;
            Ok(dir)
        };
        make().map_err(environment(text, "make a directory for temporary files"))
    }

    /// Makes the directory of one build: nobody else's, empty, and gone with us.
    pub(crate) fn make_build_dir(
        self: &Arc<Self>,
        text: &str,
        user: &BuildUser,
    ) -> Result<BuildDir, BuildError> {
        let dir = BuildDir(self.make_scratch_dir(text)?);
        let make = || -> std::io::Result<BuildDir> {
            private(&dir.own())?;
            let open = |path: &Path, mode: u32| -> std::io::Result<()> {
                std::fs::DirBuilder::new().recursive(true).create(path)?;
                std::fs::set_permissions(path, PermissionsExt::from_mode(mode))
            };
            open(&dir.root(), 0o755)?;
            open(&dir.root().join("tmp"), 0o1777)?;
            let store = dir.store(self.store_dir().as_str());
            open(&store, 0o1775)?;
            private(&dir.build())?;
            if rustix::process::geteuid().is_root() {
                // The store directory is the group's, as Nix has it; the root is closed to others.
                std::os::unix::fs::chown(dir.root(), None, Some(user.gid))?;
                std::os::unix::fs::chown(&store, None, Some(user.gid))?;
                std::fs::set_permissions(&store, PermissionsExt::from_mode(0o1775))?;
                std::os::unix::fs::chown(dir.build(), Some(user.uid), Some(user.gid))?;
            }
            std::fs::set_permissions(dir.root(), PermissionsExt::from_mode(0o750))?;
            Ok(dir)
        };
        make().map_err(environment(text, "make the build directory"))
    }
}
