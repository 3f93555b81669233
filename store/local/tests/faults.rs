//! What is left when an operation stops anywhere: at every file-system call and
//! every step of a transaction, and at any moment of a process that is killed.

mod common;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{PoisonError, RwLock};

use common::*;
use store_local::{FileObject, LocalError, LocalStore, OutputTree};
use store_nar::HashModuloVariant;
use store_nar::fs::fault;
use store_types::{ContentAddressMethod, HashAlgorithm, StoreDir};

/// A process that is started has all locks of this one until it executes its program, and so those
/// of directories that have been let go of meanwhile: then they are somebody's, and stay.
static NO_FORK: RwLock<()> = RwLock::new(());

/// More calls than any of the operations makes.
const CALLS_MAX: u64 = 2000;

/// Runs an operation on a new store, which fails from the n-th call on, for n = 0,
/// 1, … until it succeeds; after each failure the store must be sound when it is
/// opened again, and the operation must succeed then.
fn fail_everywhere(
    prepare: impl Fn(&Path),
    operation: impl Fn(&LocalStore, &Path) -> Result<(), LocalError>,
) {
    for calls in 0..CALLS_MAX {
        let _nobody_else = NO_FORK.read().unwrap_or_else(PoisonError::into_inner);
        let dir = Scratch::new();
        prepare(dir.path());
        let root = dir.join("root");
        let store = open(&root);
        fault::fail_after(calls);
        let result = operation(&store, dir.path());
        // Dropped while everything fails, as a killed process cleans up nothing.
        drop(store);
        let failed = fault::disarm();
        let store = open(&root);
        assert_sound(&store);
        if result.is_ok() {
            assert!(calls > 10, "the faults are injected");
            // The last calls may be those that only clean up.
            if !failed {
                return;
            }
            continue;
        }
        prepare(dir.path());
        operation(&store, dir.path()).unwrap_or_else(|error| panic!("after {calls}: {error:?}"));
        assert_sound(&store);
    }
    panic!("the operation never succeeds");
}

#[test]
fn a_tree_is_added_wholly_or_not_at_all() {
    fail_everywhere(
        |dir| {
            if !dir.join("tree").exists() {
                write_tree(&dir.join("tree"), "x");
            }
        },
        |store, dir| {
            let parent = fs::File::open(dir).unwrap();
            let name = OsStr::new("tree");
            store.add_tree("tree", parent.as_fd(), name, &none())?;
            Ok(())
        },
    );
}

#[test]
fn texts_are_added_wholly_or_not_at_all() {
    fail_everywhere(
        |_| {},
        |store, _| {
            let none = none();
            let object = |name, bytes| FileObject {
                name,
                method: ContentAddressMethod::Text,
                bytes,
                nar: None,
                references: &none,
            };
            store.add_files(&[object("a", b"a"), object("b", b"b")])?;
            Ok(())
        },
    );
}

#[test]
fn an_output_is_added_wholly_or_not_at_all() {
    let scratch = scratch_path("out");
    fail_everywhere(
        |dir| {
            if !dir.join("built").exists() {
                write_tree(&dir.join("built"), &format!("I am {scratch}"));
            }
        },
        |store, dir| {
            let parent = fs::File::open(dir).unwrap();
            store.add_self_referential(&OutputTree {
                dir: parent.as_fd(),
                node: OsStr::new("built"),
                scratch: &scratch,
                method: ContentAddressMethod::Nar,
                algorithm: HashAlgorithm::Sha256,
                variant: HashModuloVariant::WithoutOffsets,
                candidates: &none(),
                builder_uids: None,
                records_content_address: true,
                deriver: None,
            })?;
            Ok(())
        },
    );
}

#[test]
fn opening_a_new_store_may_stop_anywhere() {
    for calls in 0..CALLS_MAX {
        let _nobody_else = NO_FORK.read().unwrap_or_else(PoisonError::into_inner);
        let dir = Scratch::new();
        fault::fail_after(calls);
        let result = LocalStore::open(dir.path(), StoreDir::default()).map(drop);
        fault::disarm();
        let store = open(dir.path());
        store.add_text("x", b"x", &none()).unwrap();
        assert_sound(&store);
        if result.is_ok() {
            return;
        }
    }
    panic!("opening never succeeds");
}

const CHILD: &str = "DROSTE_TEST_ADDER";

/// The process that is killed: adds until then.
#[test]
fn child_that_adds_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD) else {
        return;
    };
    let dir = Path::new(&dir);
    let store = open(&dir.join("root"));
    let seed = std::process::id();
    for i in 0.. {
        let at = dir.join(format!("built-{seed}-{i}"));
        write_tree(&at, &format!("{seed} {i}"));
        let tree = add_tree(&store, &at, &none());
        store
            .add_text(
                "text",
                at.as_os_str().as_encoded_bytes(),
                &BTreeSet::from([tree.path]),
            )
            .unwrap();
        let scratch = scratch_path(&format!("{seed}-{i}"));
        fs::write(at.join("own"), scratch.base_name()).unwrap();
        let variant = HashModuloVariant::WithoutOffsets;
        add_output(&store, &at, &scratch, &none(), variant).unwrap();
    }
}

#[test]
fn killed_at_any_moment_a_process_leaves_a_sound_store() {
    let dir = Scratch::new();
    let mut added = 0;
    for round in 0..12u64 {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "child_that_adds_until_it_is_killed"])
            .env(CHILD, dir.path())
            .stdout(Stdio::null());
        let mut child = {
            let _alone = NO_FORK.write().unwrap_or_else(PoisonError::into_inner);
            command.spawn().unwrap()
        };
        // Not a time to be kept, only moments that differ.
        std::thread::sleep(std::time::Duration::from_millis(40 + round * 17));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = open(&dir.join("root"));
        assert_sound(&store);
        added = store.all_valid_paths().unwrap().len();
    }
    assert!(added > 0, "the child adds something");
}
