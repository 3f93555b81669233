//! Files of the same content, kept once.

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;

use common::*;
use store_local::LocalStore;
use store_nar::fs::fault;

/// A store with two trees that share files, and one that stands alone.
fn fill(store: &LocalStore, dir: &Scratch) {
    for (tree, text) in [("one", "same"), ("two", "same"), ("three", "other")] {
        let at = dir.join(tree);
        if !at.exists() {
            write_tree(&at, text);
        }
        add_tree(store, &at, &none());
    }
    store.add_text("text", b"same", &none()).unwrap();
}

/// What lies at each place: how many names it has, mode and time.
fn listing(store: &LocalStore) -> Vec<(String, u64, u32, i64)> {
    let mut found = Vec::new();
    let mut todo = vec![store.physical_dir().to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            let data = entry.path().symlink_metadata().unwrap();
            let place = entry
                .path()
                .strip_prefix(store.physical_dir())
                .unwrap()
                .display()
                .to_string();
            if place != ".links" {
                found.push((
                    place,
                    if data.is_dir() { 0 } else { data.nlink() },
                    data.mode(),
                    data.mtime(),
                ));
            }
            if data.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn links_names_modes_and_times_are_those_that_nix_makes() {
    for nix in nix_dirs() {
        let dir = Scratch::new();
        let [ours, theirs] = ["ours", "theirs"].map(|name| {
            let store = open(&dir.join(name));
            fill(&store, &dir);
            store
        });
        run_nix(
            &nix,
            dir.path(),
            &dir.join("theirs"),
            &["nix-store", "--optimise"],
        );
        let report = ours.optimise(&mut |_| false).unwrap();
        assert_eq!(listing(&ours), listing(&theirs), "{}", nix.display());
        assert!(
            report.files_linked >= 3 && report.bytes_freed > 0,
            "{report:?}"
        );
        let again = ours.optimise(&mut |_| false).unwrap();
        assert_eq!((again.files_linked, again.bytes_freed), (0, 0));
        assert_sound(&ours);
    }
}

#[test]
fn nothing_is_replaced_by_a_damaged_link() {
    let dir = Scratch::new();
    let store = open(&dir.join("root"));
    fill(&store, &dir);
    store.optimise(&mut |_| false).unwrap();
    for entry in fs::read_dir(store.physical_dir().join(".links")).unwrap() {
        let link = entry.unwrap().path();
        if link.is_symlink() {
            continue;
        }
        let len = fs::metadata(&link).unwrap().len();
        fs::remove_file(&link).unwrap();
        fs::write(&link, vec![b'#'; len as usize]).unwrap();
        fs::set_permissions(&link, std::os::unix::fs::PermissionsExt::from_mode(0o444)).unwrap();
    }
    let report = store.optimise(&mut |_| false).unwrap();
    assert!(report.links_damaged > 0, "{report:?}");
    assert_sound(&store);
}

#[test]
fn it_may_stop_anywhere() {
    for calls in 0..2000 {
        let dir = Scratch::new();
        let store = open(&dir.join("root"));
        fill(&store, &dir);
        fault::fail_after(calls);
        let result = store.optimise(&mut |_| false);
        drop(store);
        let failed = fault::disarm();
        let store = open(&dir.join("root"));
        assert_sound(&store);
        if result.is_ok() && !failed {
            assert!(calls > 30);
            return;
        }
        store.optimise(&mut |_| false).unwrap();
        assert_sound(&store);
    }
    panic!("it never succeeds");
}
