//! Objects that lie with another store.

mod common;

use std::collections::BTreeSet;
use std::fs;

use common::*;
use store_local::{LocalError, LocalStore, Registration};
use store_types::{PathInfo, StorePath};

/// A store that borrows, its lender, and a text of the lender's that refers to a tree of it.
fn borrowing(dir: &Scratch) -> (LocalStore, LocalStore, PathInfo, PathInfo) {
    let lender = open(&dir.join("lender"));
    write_tree(&dir.join("tree"), "lent");
    let tree = add_tree(&lender, &dir.join("tree"), &none());
    let references = BTreeSet::from([tree.path.clone()]);
    let text = lender.add_text("text", b"about it", &references).unwrap();
    let store = open(&dir.join("store"));
    store.set_lender(lender.physical_dir()).unwrap();
    (store, lender, tree, text)
}

fn nar(store: &LocalStore, path: &StorePath) -> Vec<u8> {
    let mut nar = Vec::new();
    store.dump(path, &mut nar).unwrap();
    nar
}

/// What garbage collection does to an object.
fn collect(store: &LocalStore, path: &StorePath) {
    let paths = BTreeSet::from([path.clone()]);
    store.invalidate(&paths).unwrap();
    store.remove_invalid(path).unwrap();
}

#[test]
fn what_is_borrowed_is_valid_and_is_not_copied() {
    let dir = Scratch::new();
    let (store, lender, tree, text) = borrowing(&dir);
    assert!(!store.is_valid(&tree.path).unwrap());
    // In any order; what it refers to must come with it.
    assert!(matches!(
        store.borrow(std::slice::from_ref(&text)),
        Err(LocalError::ReferenceNotValid { .. })
    ));
    assert!(!store.is_valid(&text.path).unwrap());
    store.borrow(&[text.clone(), tree.clone()]).unwrap();
    store.borrow(&[text.clone(), tree.clone()]).unwrap();
    assert_eq!(store.path_info(&text.path).unwrap().unwrap(), text);
    assert_eq!(
        store.closure(std::slice::from_ref(&text.path)).unwrap(),
        BTreeSet::from([tree.path.clone(), text.path.clone()])
    );
    for path in [&tree.path, &text.path] {
        assert_eq!(store.physical_path(path), lender.physical_path(path));
        assert!(!store.physical_dir().join(path.base_name()).exists());
        assert_eq!(nar(&store, path), nar(&lender, path));
    }
    let own = store
        .add_text("own", b"of our own", &BTreeSet::from([text.path.clone()]))
        .unwrap();
    assert!(
        store
            .physical_path(&own.path)
            .starts_with(store.config().place())
    );
    assert!(store.verify(true).unwrap().problems.is_empty());

    let missing = PathInfo {
        path: scratch_path("missing"),
        ..tree
    };
    assert!(matches!(
        store.borrow(&[missing]),
        Err(LocalError::NotLent { .. })
    ));
}

#[test]
fn what_the_lender_has_collected_is_not_valid_and_may_come_again() {
    let dir = Scratch::new();
    let (store, lender, tree, text) = borrowing(&dir);
    store.borrow(&[tree.clone(), text.clone()]).unwrap();
    let nars = [nar(&lender, &tree.path), nar(&lender, &text.path)];
    collect(&lender, &text.path);
    assert!(!store.is_valid(&text.path).unwrap());
    assert_eq!(store.path_info(&text.path).unwrap(), None);
    assert!(store.is_valid(&tree.path).unwrap());
    assert!(matches!(
        store.closure(std::slice::from_ref(&text.path)),
        Err(LocalError::NotValid { .. })
    ));

    // As an object of our own …
    store.add_nar(&text, &mut &nars[1][..]).unwrap();
    assert_eq!(
        store.physical_path(&text.path),
        store.physical_dir().join(text.path.base_name())
    );
    assert_eq!(nar(&store, &text.path), nars[1]);
    // … or borrowed again, even with another content, as an input-addressed path may have.
    collect(&lender, &tree.path);
    assert!(!store.is_valid(&tree.path).unwrap());
    let place = lender.physical_dir().join(tree.path.base_name());
    fs::write(&place, "something else").unwrap();
    let (nar_hash, nar_size) = store_nar::dump_and_hash(
        lender.store_fd(),
        std::ffi::OsStr::new(tree.path.base_name()),
    )
    .unwrap();
    let other = PathInfo {
        nar_hash,
        nar_size,
        ca: None,
        ..tree.clone()
    };
    lender
        .register(&[Registration::new(other.clone())])
        .unwrap();
    store.borrow(std::slice::from_ref(&other)).unwrap();
    assert_eq!(
        store.path_info(&tree.path).unwrap().unwrap().nar_hash,
        nar_hash
    );
    assert_eq!(
        fs::read(store.physical_path(&tree.path)).unwrap(),
        b"something else"
    );
}

#[test]
fn what_is_registered_again_without_an_object_of_our_own_stays_borrowed() {
    let dir = Scratch::new();
    let (store, lender, tree, text) = borrowing(&dir);
    store.borrow(&[tree.clone(), text.clone()]).unwrap();
    // As a build does whose output turns out to be this.
    let built = PathInfo {
        ultimate: true,
        deriver: Some(scratch_path("built.drv")),
        ..text.clone()
    };
    store.register(&[Registration::new(built.clone())]).unwrap();
    let known = store.path_info(&text.path).unwrap().unwrap();
    assert!(known.ultimate);
    assert_eq!(known.references, text.references);
    collect(&lender, &text.path);
    assert!(!store.is_valid(&text.path).unwrap());
}

#[test]
fn without_its_lender_a_store_has_not_what_it_borrowed() {
    let dir = Scratch::new();
    let (store, lender, tree, text) = borrowing(&dir);
    store.borrow(&[tree.clone(), text]).unwrap();
    drop(store);
    let store = open(&dir.join("store"));
    assert!(!store.is_valid(&tree.path).unwrap());
    assert_eq!(
        store
            .valid_among(&BTreeSet::from([tree.path.clone()]))
            .unwrap(),
        none()
    );
    store.set_lender(lender.physical_dir()).unwrap();
    assert!(store.is_valid(&tree.path).unwrap());
}
