//! The directory of one running build.
//!
//! ```text
//! <state>/builds/droste-<pid>-<n>/<number>/
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
use crate::users::BuildUser;

/// The directory of one running build, removed with it.
pub(crate) struct BuildDir {
    executor: Arc<Executor>,
    path: PathBuf,
    keep: bool,
}

impl BuildDir {
    /// The sandbox's root.
    pub(crate) fn root(&self) -> PathBuf {
        self.path.join("root")
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
        self.path.join("own")
    }

    /// Keeps the directory.
    pub(crate) fn keep(&mut self) -> &Path {
        self.keep = true;
        &self.path
    }
}

impl Drop for BuildDir {
    fn drop(&mut self) {
        if !self.keep {
            self.executor.remove_build_dir(&self.path);
        }
        let _ = self.executor.spawner.forget_scratch(&self.path);
    }
}

impl Executor {
    pub(crate) fn acquire_user(&self, text: &str) -> Result<BuildUser, BuildError> {
        BuildUser::acquire(self.store.state_dir())
            .map_err(environment(text, "get a user to build as"))?
            .ok_or_else(|| BuildError::Environment {
                drv: text.to_owned(),
                action: "get a user to build as",
                source: "all of them are in use".into(),
            })
    }

    /// Makes the directory of one build: nobody else's, empty, and gone with us.
    pub(crate) fn make_build_dir(
        self: &Arc<Self>,
        text: &str,
        user: &BuildUser,
    ) -> Result<BuildDir, BuildError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let make = || -> std::io::Result<BuildDir> {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = self.builds_dir.join(number.to_string());
            let private = |path: &Path| std::fs::DirBuilder::new().mode(0o700).create(path);
            private(&path)?;
            let dir = BuildDir {
                executor: self.clone(),
                path,
                keep: false,
            };
            self.spawner
                .watch_scratch(&dir.path)
                .map_err(std::io::Error::other)?;
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
