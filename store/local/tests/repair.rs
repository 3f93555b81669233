//! Broken objects: found, replaced, forgotten.

mod common;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use common::*;
use store_local::{LocalError, LocalStore, Problem};
use store_types::{ContentAddressMethod, HashAlgorithm, PathInfo, StorePath};

fn add(store: &LocalStore, name: &str, text: &str, references: &[&StorePath]) -> PathInfo {
    let references = references.iter().map(|path| (*path).clone()).collect();
    store.add_text(name, text.as_bytes(), &references).unwrap()
}

/// Gives a file another content, as a new file: others may be names of the old one.
fn damage(file: &Path) {
    fs::remove_file(file).unwrap();
    fs::write(file, "damaged").unwrap();
}

fn broken(store: &LocalStore) -> Vec<StorePath> {
    let report = store.verify(true).unwrap();
    report.problems.into_iter().map(|(path, _)| path).collect()
}

#[test]
fn what_is_gone_is_forgotten_if_nothing_that_stays_needs_it() {
    let dir = Scratch::new();
    let store = open(dir.path());
    let base = add(&store, "base", "1", &[]);
    let middle = add(&store, "middle", "2", &[&base.path]);
    let top = add(&store, "top", "3", &[&middle.path]);
    let needed = add(&store, "needed", "4", &[]);
    let user = add(&store, "user", "5", &[&needed.path]);
    let mut gone = BTreeSet::new();
    for info in [&base, &middle, &top, &needed] {
        fs::remove_file(store.physical_path(&info.path)).unwrap();
        gone.insert(info.path.clone());
    }
    // One that is there is not forgotten, whoever asks.
    let asked = &gone | &[user.path.clone()].into();
    let forgotten = store.forget_missing(&asked).unwrap();
    let expected = [&base, &middle, &top].map(|info| info.path.clone());
    assert_eq!(forgotten, expected.into());
    assert_eq!(broken(&store), std::slice::from_ref(&needed.path));
    let report = store.verify(false).unwrap();
    assert!(matches!(
        &report.problems[0].1,
        Problem::Missing { referrers } if *referrers == [user.path.clone()].into()
    ));
}

#[test]
fn an_object_is_replaced_with_what_is_known_of_it() {
    let dir = Scratch::new();
    let store = open(&dir.join("root"));
    write_tree(&dir.join("tree"), "hello");
    let tree = add_tree(&store, &dir.join("tree"), &none());
    store
        .add_signatures(&tree.path, &["key:AA==".to_owned()])
        .unwrap();
    let parent = fs::File::open(dir.path()).unwrap();
    let replace = |info: &PathInfo| {
        let _locks = store.lock_paths(&[info.path.clone()].into()).unwrap();
        store.replace_object(parent.as_fd(), OsStr::new("tree"), info)
    };
    store_local::canonicalise(parent.as_fd(), OsStr::new("tree"), None).unwrap();

    // The same again: the signature still counts.
    let object = store.physical_path(&tree.path);
    store_nar::remove_tree(store.store_fd(), OsStr::new(tree.path.base_name())).unwrap();
    assert_eq!(broken(&store), std::slice::from_ref(&tree.path));
    replace(&tree).unwrap();
    assert!(object.join("sub/run").exists() && !dir.join("tree").exists());
    assert_sound(&store);
    let found = store.path_info(&tree.path).unwrap().unwrap();
    assert_eq!(found.signatures, ["key:AA=="]);

    // Something else, with a reference: what is known of the old one is gone.
    let other = add(&store, "other", "1", &[]);
    write_tree(&dir.join("tree"), "something else");
    store_local::canonicalise(parent.as_fd(), OsStr::new("tree"), None).unwrap();
    let (nar_hash, nar_size) =
        store_nar::dump_and_hash(parent.as_fd(), OsStr::new("tree")).unwrap();
    let changed = PathInfo {
        nar_hash,
        nar_size,
        references: [other.path.clone()].into(),
        ..tree.clone()
    };
    replace(&changed).unwrap();
    assert_sound(&store);
    let found = store.path_info(&tree.path).unwrap().unwrap();
    assert_eq!(
        (found.nar_hash, found.nar_size, found.references),
        (nar_hash, nar_size, changed.references)
    );
    assert!(found.signatures.is_empty());

    let error = replace(&PathInfo {
        path: scratch_path("none"),
        ..tree
    });
    assert!(matches!(error, Err(LocalError::NotValid { .. })));
}

#[test]
fn a_damaged_object_is_replaced_by_who_adds_it_to_repair_it() {
    let dir = Scratch::new();
    let store = open(dir.path());
    let info = add(&store, "text", "hello", &[]);
    let file = store.physical_path(&info.path);
    let add = |repair| {
        let (method, algorithm) = (ContentAddressMethod::Text, HashAlgorithm::Sha256);
        store.add_addressed(
            "text",
            method,
            algorithm,
            &none(),
            repair,
            &mut &b"hello"[..],
        )
    };
    damage(&file);
    add(false).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "damaged");
    add(true).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "hello");
    assert_sound(&store);

    let mut nar = Vec::new();
    store.dump(&info.path, &mut nar).unwrap();
    damage(&file);
    store.add_nar(&info, &mut &nar[..]).unwrap();
    assert_eq!(broken(&store), std::slice::from_ref(&info.path));
    store.add_nar_with(&info, true, &mut &nar[..]).unwrap();
    assert_sound(&store);
}

#[test]
fn damaged_links_are_found_and_removed() {
    let dir = Scratch::new();
    let store = open(dir.path());
    add(&store, "one", "the same", &[]);
    add(&store, "two", "the same", &[]);
    store.optimise(&mut |_| false).unwrap();
    assert!(store.verify(true).unwrap().is_sound());
    let links = store.physical_dir().join(".links");
    let name = fs::read_dir(&links).unwrap().next().unwrap().unwrap();
    damage(&name.path());
    fs::write(links.join("no-hash"), "").unwrap();
    let mut found = store.verify(true).unwrap().links;
    found.sort();
    let mut expected = vec![name.file_name(), "no-hash".into()];
    expected.sort();
    assert_eq!(found, expected);
    assert!(store.verify(false).unwrap().links.is_empty());
    for name in &found {
        store.remove_damaged_link(name).unwrap();
        // Somebody else was faster.
        store.remove_damaged_link(name).unwrap();
    }
    assert!(store.verify(true).unwrap().is_sound());
    assert_eq!(fs::read_dir(&links).unwrap().count(), 0);
}

#[test]
fn what_is_added_is_linked_if_that_is_wanted() {
    use std::os::unix::fs::MetadataExt;
    let dir = Scratch::new();
    let store = open(&dir.join("root"));
    let inode = |info: &PathInfo, name: &str| {
        let file = store.physical_path(&info.path).join(name);
        fs::metadata(file).unwrap().ino()
    };
    let tree = |name: &str, text: &str| {
        write_tree(&dir.join(name), text);
        add_tree(&store, &dir.join(name), &none())
    };
    let (one, two) = (tree("one", "x"), tree("two", "x"));
    assert_ne!(inode(&one, "file"), inode(&two, "file"));
    store.set_auto_optimise(true);
    let (three, four) = (tree("three", "x"), tree("four", "x"));
    assert_eq!(inode(&three, "file"), inode(&four, "file"));
    assert_eq!(inode(&three, "sub/run"), inode(&four, "sub/run"));
    assert_sound(&store);
}
