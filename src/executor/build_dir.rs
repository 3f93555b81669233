//! The directories of what runs: a build's, with what of its sandbox's root is on disk; a child has
//! its root in memory, and only a directory for its outputs on their way into the store.
//!
//! ```text
//! <state>/builds/droste-<pid>-<time>/<number>/
//!     build/    the build directory, the builder's own
//!     store/    the store directory: where outputs appear, and inputs are mounted
//!     tmp/      `/tmp`
//! <state>/builds/droste-<pid>-<time>/<number>/
//!               our temporary files, if there are any
//! ```
//!
//! They are few, and the numbered ones, which no build can see, are used again, since a disk takes
//! longer for a directory than a kernel for a namespace. (ext4 without a journal looks at all inodes
//! of the last minutes that were freed before it takes a new one.)

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError};

use droste_sandbox::{OnDisk, Root};

use crate::Executor;
use crate::builder_env::BUILD_DIR;
use crate::error::{BuildError, environment};
use crate::executor::empty_dir;
use crate::outputs::open_dir;
use crate::users::{BuildUser, UsersError};

/// A directory for temporary files, which no build can see, empty again when it is dropped.
pub(crate) struct ScratchDir {
    executor: Arc<Executor>,
    path: PathBuf,
}

impl ScratchDir {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// The directories of one running build, removed with it.
pub(crate) struct BuildDir {
    all: ScratchDir,
    own: OnceLock<ScratchDir>,
}

impl BuildDir {
    /// Where they are.
    pub(crate) fn path(&self) -> &Path {
        self.all.path()
    }

    /// The store directory of the sandbox, where outputs appear.
    pub(crate) fn store(&self) -> PathBuf {
        self.path().join("store")
    }

    /// The build directory on this machine.
    pub(crate) fn build(&self) -> PathBuf {
        self.path().join("build")
    }

    /// The root of the sandbox.
    pub(crate) fn root(&self, store_dir: &str) -> Root {
        let on_disk = |source: PathBuf, target: &str| OnDisk {
            source,
            target: target.into(),
        };
        Root::Directories(vec![
            on_disk(self.path().join("tmp"), "/tmp"),
            on_disk(self.build(), BUILD_DIR),
            on_disk(self.store(), store_dir),
        ])
    }

    /// A directory for our own files, which the build sees only where they are mounted.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(crate) fn own(&self) -> std::io::Result<&Path> {
        if let Some(own) = self.own.get() {
            return Ok(own.path());
        }
        let made = self.all.executor.scratch_dir()?;
        Ok(self.own.get_or_init(|| made).path())
    }

    /// Moves the build directory to where it stays, and where everybody may look at it.
    pub(crate) fn keep_failed(&self, text: &str) -> Result<PathBuf, BuildError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let keep = || -> std::io::Result<PathBuf> {
            let builds = self.all.executor.store.state_dir().join("builds");
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
        match empty_dir(&self.path) {
            Ok(()) => self
                .executor
                .free_dirs
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(std::mem::take(&mut self.path)),
            Err(_) => self.executor.remove_build_dir(&self.path),
        }
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
        self.scratch_dir()
            .map_err(environment(text, "make a directory for temporary files"))
    }

    fn scratch_dir(self: &Arc<Self>) -> std::io::Result<ScratchDir> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let free = self
            .free_dirs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let path = match free {
            Some(path) => path,
            None => {
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                let path = self.builds_dir.join(number.to_string());
                private(&path)?;
                path
            }
        };
        Ok(ScratchDir {
            executor: self.clone(),
            path,
        })
    }

    /// Makes the directories of one build: nobody else's, empty, and gone with us.
    pub(crate) fn make_build_dir(
        self: &Arc<Self>,
        text: &str,
        user: &BuildUser,
    ) -> Result<BuildDir, BuildError> {
        let dir = BuildDir {
            all: self.make_scratch_dir(text)?,
            own: OnceLock::new(),
        };
        let make = || -> std::io::Result<BuildDir> {
            let open = |path: &Path, mode: u32| -> std::io::Result<()> {
                std::fs::create_dir(path)?;
                std::fs::set_permissions(path, PermissionsExt::from_mode(mode))
            };
            open(&dir.path().join("tmp"), 0o1777)?;
            private(&dir.build())?;
            private(&dir.store())?;
            if rustix::process::geteuid().is_root() {
                // The store directory is the group's, as Nix has it.
                std::os::unix::fs::chown(dir.store(), None, Some(user.gid))?;
                std::os::unix::fs::chown(dir.build(), Some(user.uid), Some(user.gid))?;
            }
            std::fs::set_permissions(dir.store(), PermissionsExt::from_mode(0o1775))?;
            Ok(dir)
        };
        make().map_err(environment(text, "make the build directory"))
    }
}
