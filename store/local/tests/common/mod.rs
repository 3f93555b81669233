//! What several tests need.
#![allow(dead_code, reason = "not every test file uses all of it")]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use store_local::{LocalStore, OutputTree};
use store_nar::{HashModuloVariant, remove_tree};
use store_types::{
    ContentAddressMethod, Derivation, DerivationOutput, HashAlgorithm, HashModulo, PathInfo,
    StoreDir, StorePath,
};

/// A directory that goes away, read-only directories in it included.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap().keep())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let parent = fs::File::open(self.0.parent().unwrap()).unwrap();
        remove_tree(parent.as_fd(), self.0.file_name().unwrap()).unwrap();
    }
}

pub fn open(root: &Path) -> LocalStore {
    LocalStore::open(root, StoreDir::default()).unwrap()
}

pub fn none() -> BTreeSet<StorePath> {
    BTreeSet::new()
}

/// Writes a tree with a bit of everything, and a text of its own.
pub fn write_tree(at: &Path, text: &str) {
    fs::create_dir_all(at.join("sub/empty")).unwrap();
    fs::write(at.join("file"), text).unwrap();
    fs::write(at.join("sub/run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(at.join("sub/run"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(at.join("file"), fs::Permissions::from_mode(0o644)).unwrap();
    for dir in ["", "sub", "sub/empty"] {
        fs::set_permissions(at.join(dir), fs::Permissions::from_mode(0o755)).unwrap();
    }
    symlink("../file", at.join("sub/link")).unwrap();
}

pub fn add_tree(store: &LocalStore, at: &Path, references: &BTreeSet<StorePath>) -> PathInfo {
    let parent = fs::File::open(at.parent().unwrap()).unwrap();
    let name = at.file_name().unwrap();
    store
        .add_tree(name.to_str().unwrap(), parent.as_fd(), name, references)
        .unwrap()
}

/// A derivation of the name `x`, right in all but being of any use.
pub fn derivation(dir: &StoreDir) -> Vec<u8> {
    let mut drv = Derivation {
        system: "s".into(),
        builder: "/b".into(),
        outputs: [("out".to_owned(), DerivationOutput::Deferred)].into(),
        env: [("out".into(), "".into())].into(),
        ..Derivation::default()
    };
    let read = |path: &StorePath| -> Result<Derivation, std::io::Error> { panic!("{path}") };
    let hashes = HashModulo::new(dir.clone()).masked(&drv, read).unwrap();
    let path = dir
        .output_path("x", "out", &hashes.by_output["out"])
        .unwrap();
    drv.env.insert("out".into(), dir.display(&path).into());
    drv.outputs
        .insert("out".to_owned(), DerivationOutput::InputAddressed(path));
    drv.to_aterm(dir)
}

/// A path that nothing is at.
pub fn scratch_path(name: &str) -> StorePath {
    let hash = store_types::sha256(name.as_bytes());
    StorePath::from_hash_and_name(&hash.bytes()[..20].try_into().unwrap(), name).unwrap()
}

/// Adds what was built at `at` as an output that was known as `scratch`.
pub fn add_output(
    store: &LocalStore,
    at: &Path,
    scratch: &StorePath,
    candidates: &BTreeSet<StorePath>,
    variant: HashModuloVariant,
) -> Result<PathInfo, store_local::LocalError> {
    let parent = fs::File::open(at.parent().unwrap()).unwrap();
    store.add_self_referential(&OutputTree {
        dir: parent.as_fd(),
        node: at.file_name().unwrap(),
        scratch,
        method: ContentAddressMethod::Nar,
        algorithm: HashAlgorithm::Sha256,
        variant,
        candidates,
        builder_uids: None,
        records_content_address: true,
        deriver: None,
    })
}

/// That every valid path is complete, and no temporary directory is left.
pub fn assert_sound(store: &LocalStore) {
    let report = store.verify(true).unwrap();
    assert!(report.problems.is_empty(), "{report:?}");
    for entry in fs::read_dir(store.physical_dir()).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(!name.to_str().unwrap().starts_with("tmp-"), "{name:?}");
    }
}

/// The directories of the versions of Nix that are there: that on the PATH, and
/// those in `DROSTE_TEST_NIX_DIRS`.
pub fn nix_dirs() -> Vec<PathBuf> {
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let more = std::env::var_os("DROSTE_TEST_NIX_DIRS").unwrap_or_default();
    let first = std::env::split_paths(&on_path).find(|dir| dir.join("nix").exists());
    let mut dirs: Vec<PathBuf> = first.into_iter().collect();
    dirs.extend(std::env::split_paths(&more).filter(|dir| dir.join("nix").exists()));
    dirs.dedup();
    if dirs.is_empty() {
        eprintln!("skipped: no `nix` on the PATH or in DROSTE_TEST_NIX_DIRS");
    }
    dirs
}

/// A command of a Nix, with a configuration and a home of its own.
pub fn nix(dir: &Path, program: &str, home: &Path, args: &[&OsStr]) -> Command {
    let mut command = Command::new(dir.join(program));
    command
        .args(args)
        .env("HOME", home)
        .env("XDG_CACHE_HOME", home.join("cache"))
        .env("NIX_CONF_DIR", home)
        .env_remove("NIX_REMOTE")
        .env(
            "NIX_CONFIG",
            "experimental-features = nix-command ca-derivations\n\
             build-users-group =\nsubstituters =\nsandbox = true\nsandbox-fallback = false\n\
             sandbox-paths = /bin/sh=/bin/busybox\n",
        );
    command
}

/// Runs a command of a Nix on a store; its standard output.
pub fn run_nix(dir: &Path, home: &Path, store: &Path, line: &[&str]) -> String {
    let mut args: Vec<&OsStr> = line[1..].iter().map(OsStr::new).collect();
    args.extend([OsStr::new("--store"), store.as_os_str()]);
    let output = nix(dir, line[0], home, &args).output().unwrap();
    assert!(
        output.status.success(),
        "{}/{}: {}",
        dir.display(),
        line.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
