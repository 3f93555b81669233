//! The embedded programs as store objects.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::sync::PoisonError;

use store_local::SessionRoots;
use store_types::{ContentAddress, ContentAddressMethod, References, StorePath};

use crate::Executor;
use crate::error::{BuildError, environment};

/// The name of the store object with the shims, for `PATH`.
pub(crate) const SHIMS_NAME: &str = "droste-shims";

/// The names under which the shim is found in `PATH`. Fewer than those it can stand in for:
/// who looks whether there is a `gfortran` or an `ld.gold` would find one.
const SHIM_NAMES: &[&str] = &["cc", "gcc", "c++", "g++", "clang", "clang++", "ld"];

impl Executor {
    /// The store path of an embedded program, added if need be.
    pub(crate) fn program(&self, name: &'static str) -> Result<StorePath, BuildError> {
        if let Some(path) = self
            .programs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
        {
            return Ok(path.clone());
        }
        let bytes = match name {
            "droste-runner" => self.embedded.runner,
            _ => self.embedded.shim_cc,
        };
        let path = self.add_object(name, |file| write_program(file, bytes))?;
        self.programs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name, path.clone());
        Ok(path)
    }

    /// A store object whose `bin` is to stand before the compilers in `PATH`: there
    /// the shim has their names.
    pub fn shims_package(&self) -> Result<StorePath, BuildError> {
        let path = self.add_object(SHIMS_NAME, |dir| {
            let bin = dir.join("bin");
            std::fs::create_dir_all(&bin)?;
            write_program(&bin.join("droste-shim"), self.embedded.shim_cc)?;
            for name in SHIM_NAMES {
                std::os::unix::fs::symlink("droste-shim", bin.join(name))?;
            }
            let libexec = dir.join("libexec");
            std::fs::create_dir(&libexec)?;
            for (name, program) in self.beside_shims() {
                write_program(&libexec.join(name), program)?;
            }
            Ok(())
        })?;
        self.programs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(SHIMS_NAME, path.clone());
        Ok(path)
    }

    /// What the shims need in a build by another Nix, sorted.
    fn beside_shims(&self) -> [(&'static str, &'static [u8]); 2] {
        [
            ("droste-nix", self.embedded.shim_nix),
            ("droste-runner", self.embedded.runner),
        ]
    }

    /// The path that [`shims_package`](Self::shims_package) has, whether it was added
    /// or not; computed once.
    pub(crate) fn shims_package_path(&self) -> Option<StorePath> {
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = programs.get(SHIMS_NAME) {
            return Some(path.clone());
        }
        let nar = self.shims_nar();
        let ca = ContentAddress {
            method: ContentAddressMethod::Nar,
            hash: store_types::sha256(&nar),
        };
        let path = self
            .store_dir()
            .content_addressed_path(SHIMS_NAME, &ca, &References::default())
            .ok()?;
        programs.insert(SHIMS_NAME, path.clone());
        Some(path)
    }

    /// The NAR of the shims' store object.
    fn shims_nar(&self) -> Vec<u8> {
        let beside: usize = self.beside_shims().iter().map(|(_, it)| it.len()).sum();
        let mut nar = Vec::with_capacity(self.embedded.shim_cc.len() + beside + 4096);
        let mut words = |texts: &[&[u8]]| {
            for text in texts {
                nar.extend_from_slice(&(text.len() as u64).to_le_bytes());
                nar.extend_from_slice(text);
                nar.resize(nar.len().next_multiple_of(8), 0);
            }
        };
        words(&[
            b"nix-archive-1",
            b"(",
            b"type",
            b"directory",
            b"entry",
            b"(",
            b"name",
            b"bin",
            b"node",
        ]);
        words(&[b"(", b"type", b"directory"]);
        let mut names: Vec<&str> = SHIM_NAMES.to_vec();
        names.push("droste-shim");
        names.sort_unstable();
        for name in names {
            words(&[
                b"entry",
                b"(",
                b"name",
                name.as_bytes(),
                b"node",
                b"(",
                b"type",
            ]);
            if name == "droste-shim" {
                words(&[
                    b"regular",
                    b"executable",
                    b"",
                    b"contents",
                    self.embedded.shim_cc,
                ]);
            } else {
                words(&[b"symlink", b"target", b"droste-shim"]);
            }
            words(&[b")", b")"]);
        }
        words(&[b")", b")"]);
        words(&[b"entry", b"(", b"name", b"libexec", b"node"]);
        words(&[b"(", b"type", b"directory"]);
        for (name, program) in self.beside_shims() {
            words(&[b"entry", b"(", b"name", name.as_bytes(), b"node"]);
            words(&[b"(", b"type", b"regular", b"executable", b""]);
            words(&[b"contents", program, b")", b")"]);
        }
        words(&[b")", b")", b")"]);
        nar
    }

    fn add_object(
        &self,
        name: &str,
        make: impl FnOnce(&std::path::Path) -> std::io::Result<()>,
    ) -> Result<StorePath, BuildError> {
        let workplace = self
            .prepare()
            .map_err(environment(name, "write an embedded program"))?;
        let parent = workplace
            .builds_dir
            .join(format!("program-{name}-{}", unique()));
        let make_all = || -> std::io::Result<()> {
            std::fs::DirBuilder::new().mode(0o700).create(&parent)?;
            make(&parent.join(name))
        };
        make_all().map_err(environment(name, "write an embedded program"))?;
        let dir = store_nar::fs::open_root(&parent)
            .map_err(environment(name, "write an embedded program"))?;
        // For all builds, whoever had the first.
        let _held = SessionRoots::leave();
        let info = self
            .store
            .add_tree(name, dir.as_fd(), name.as_ref(), &BTreeSet::new())
            .map_err(environment(name, "add an embedded program"))?;
        self.remove_build_dir(&parent);
        Ok(info.path)
    }
}

/// Writes an executable file with the times of a store object.
pub(crate) fn write_program(file: &std::path::Path, bytes: &[u8]) -> std::io::Result<()> {
    std::fs::write(file, bytes)?;
    std::fs::set_permissions(file, PermissionsExt::from_mode(0o555))?;
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
    let times = std::fs::FileTimes::new()
        .set_modified(time)
        .set_accessed(time);
    std::fs::File::open(file)?.set_times(times)
}

fn unique() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}
