//! Garbage collection: what stays, what goes, who is asked.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::Path;

use common::*;
use proptest::prelude::*;
use store_local::{GcAction, GcObserver, GcOptions, LocalError, LocalStore, Unobserved};
use store_nar::fs::fault;
use store_types::{HashAlgorithm, PathInfo, StorePath};

/// A number in place of a NAR's file, so that all differ.
fn nar_of(text: &str) -> Vec<u8> {
    let mut nar = Vec::new();
    for word in [
        "nix-archive-1",
        "(",
        "type",
        "regular",
        "contents",
        text,
        ")",
    ] {
        nar.extend((word.len() as u64).to_le_bytes());
        nar.extend(word.as_bytes());
        nar.extend(&[0; 8][..word.len().wrapping_neg() % 8]);
    }
    nar
}

/// Adds a path like one that came from elsewhere.
fn add(
    store: &LocalStore,
    name: &str,
    refs: &[&StorePath],
    deriver: Option<&StorePath>,
) -> StorePath {
    let nar = nar_of(name);
    let path = scratch_path(name);
    let info = PathInfo {
        path: path.clone(),
        nar_hash: HashAlgorithm::Sha256.digest(&nar),
        nar_size: nar.len() as u64,
        references: refs.iter().map(|path| (*path).clone()).collect(),
        deriver: deriver.cloned(),
        registration_time: 0,
        ultimate: false,
        signatures: Vec::new(),
        ca: None,
    };
    store.add_nar(&info, &mut &nar[..]).unwrap();
    path
}

/// Adds with `f`, and forgets that this process needs what it has added.
fn in_new_store<T>(root: &Path, f: impl FnOnce(&LocalStore) -> T) -> (LocalStore, T) {
    let result = f(&open(root));
    (open(root), result)
}

fn root(store: &LocalStore, name: &str, path: &StorePath) {
    let link = store.state_dir().join("gcroots").join(name);
    symlink(store.store_dir().display(path), link).unwrap();
}

fn collect(store: &LocalStore, options: &GcOptions) -> BTreeSet<StorePath> {
    let report = store.collect_garbage(options, &mut Unobserved).unwrap();
    assert!(report.failures.is_empty(), "{report:?}");
    report.paths
}

fn delete_dead() -> GcOptions {
    GcOptions::new(GcAction::DeleteDead)
}

/// What a path keeps: its references, and its deriver if that is asked for.
fn model(
    nodes: &[(Vec<usize>, Option<usize>)],
    roots: &BTreeSet<usize>,
    keep_outputs: bool,
    keep_derivations: bool,
) -> BTreeSet<usize> {
    let mut alive = roots.clone();
    loop {
        let before = alive.len();
        for (node, (references, deriver)) in nodes.iter().enumerate() {
            if alive.contains(&node) {
                alive.extend(references);
                alive.extend(deriver.filter(|_| keep_derivations));
            }
            if keep_outputs && deriver.is_some_and(|deriver| alive.contains(&deriver)) {
                alive.insert(node);
            }
        }
        if alive.len() == before {
            return alive;
        }
    }
}

/// A graph: what each node refers to and was built by, all before it.
fn graphs() -> impl Strategy<Value = Vec<(Vec<usize>, Option<usize>)>> {
    let node = (
        proptest::collection::vec(any::<usize>(), 0..3),
        any::<Option<usize>>(),
    );
    proptest::collection::vec(node, 1..12).prop_map(|nodes| {
        let before = |number: usize, at: usize| (at > 0).then(|| number % at.max(1));
        nodes
            .into_iter()
            .enumerate()
            .map(|(at, (references, deriver))| {
                let references = references.into_iter().filter_map(|one| before(one, at));
                (
                    references.collect(),
                    deriver.and_then(|one| before(one, at)),
                )
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_roots_reach_stays_and_nothing_else(
        nodes in graphs(),
        chosen in proptest::collection::btree_set(0usize..12, 0..4),
        keep_outputs: bool,
        keep_derivations: bool,
    ) {
        let dir = Scratch::new();
        let (store, paths) = in_new_store(&dir.join("root"), |store| {
            let mut paths: Vec<StorePath> = Vec::new();
            for (at, (references, deriver)) in nodes.iter().enumerate() {
                let references: Vec<&StorePath> =
                    references.iter().map(|one| &paths[*one]).collect();
                let deriver = deriver.map(|one| &paths[one]);
                let path = add(store, &format!("n{at}"), &references, deriver);
                paths.push(path);
            }
            paths
        });
        let chosen: BTreeSet<usize> = chosen.into_iter().filter(|one| *one < nodes.len()).collect();
        for one in &chosen {
            root(&store, &format!("r{one}"), &paths[*one]);
        }
        let alive = model(&nodes, &chosen, keep_outputs, keep_derivations);
        let of = |wanted: bool| -> BTreeSet<StorePath> {
            (0..nodes.len())
                .filter(|one| alive.contains(one) == wanted)
                .map(|one| paths[one].clone())
                .collect()
        };
        let with = |action| GcOptions { keep_outputs, keep_derivations, ..GcOptions::new(action) };
        prop_assert_eq!(collect(&store, &with(GcAction::ReturnLive)), of(true));
        prop_assert_eq!(collect(&store, &with(GcAction::ReturnDead)), of(false));
        let measured = GcOptions { measure: true, ..with(GcAction::ReturnDead) };
        let expected = store.collect_garbage(&measured, &mut Unobserved).unwrap().bytes_freed;
        let report = store.collect_garbage(&with(GcAction::DeleteDead), &mut Unobserved).unwrap();
        prop_assert_eq!(report.paths, of(false));
        prop_assert_eq!(report.bytes_freed, expected);
        prop_assert_eq!(store.all_valid_paths().unwrap(), of(true));
        assert_sound(&store);
        let left = fs::read_dir(store.physical_dir()).unwrap().count();
        prop_assert_eq!(left, of(true).len() + 1, "the objects and .links");
    }
}

#[test]
fn every_kind_of_root_keeps_its_path() {
    let dir = Scratch::new();
    let (store, paths) = in_new_store(&dir.join("root"), |store| {
        ["link", "indirect", "profile", "file", "dead"].map(|name| add(store, name, &[], None))
    });
    let [link, indirect, profile, file, dead] = &paths;
    fs::create_dir(store.state_dir().join("gcroots/deep")).unwrap();
    root(&store, "deep/link", link);
    let result = dir.join("result");
    store.add_perm_root(indirect, &result).unwrap();
    let state = store.state_dir().to_owned();
    symlink(store.store_dir().display(profile), state.join("profiles/p")).unwrap();
    fs::write(state.join("gcroots").join(file.base_name()), "").unwrap();
    fs::write(state.join("gcroots/no-path"), "").unwrap();
    symlink("/nonexistent", state.join("gcroots/elsewhere")).unwrap();
    symlink(dir.join("gone"), state.join("gcroots/auto/stale")).unwrap();
    drop(store);
    let store = open(&dir.join("root"));
    let roots = store.find_roots(false).unwrap();
    assert_eq!(
        roots[indirect].iter().next().unwrap(),
        &result.canonicalize_parent()
    );
    assert!(
        state.join("gcroots/auto/stale").is_symlink(),
        "asking changes nothing"
    );
    assert_eq!(
        collect(&store, &delete_dead()),
        BTreeSet::from([dead.clone()])
    );
    assert!(!state.join("gcroots/auto/stale").is_symlink());
    assert!(state.join("gcroots/elsewhere").is_symlink());
    fs::remove_file(&result).unwrap();
    assert_eq!(
        collect(&store, &delete_dead()),
        BTreeSet::from([indirect.clone()])
    );
    assert!(store.is_valid(file).unwrap() && store.is_valid(profile).unwrap());
}

trait CanonicalizeParent {
    fn canonicalize_parent(&self) -> std::path::PathBuf;
}

impl CanonicalizeParent for std::path::PathBuf {
    fn canonicalize_parent(&self) -> std::path::PathBuf {
        self.parent()
            .unwrap()
            .canonicalize()
            .unwrap()
            .join(self.file_name().unwrap())
    }
}

#[test]
fn a_root_replaces_only_a_root() {
    let dir = Scratch::new();
    let store = open(&dir.join("root"));
    let (one, other) = (
        add(&store, "one", &[], None),
        add(&store, "other", &[], None),
    );
    let result = dir.join("result");
    store.add_perm_root(&one, &result).unwrap();
    store.add_perm_root(&other, &result).unwrap();
    assert_eq!(
        fs::read_link(&result).unwrap(),
        Path::new(&store.store_dir().display(&other))
    );
    fs::remove_file(&result).unwrap();
    fs::write(&result, "mine").unwrap();
    let refused = store.add_perm_root(&one, &result).unwrap_err();
    assert!(
        matches!(refused, LocalError::RootRefused { .. }),
        "{refused}"
    );
    assert_eq!(fs::read(&result).unwrap(), b"mine");
    let inside = store.physical_dir().join("result");
    assert!(store.add_perm_root(&one, &inside).is_err());
    assert!(
        store
            .add_perm_root(&scratch_path("none"), &dir.join("r"))
            .is_err()
    );
}

#[test]
fn what_is_no_object_goes_unless_somebody_has_it() {
    let dir = Scratch::new();
    let (store, _) = in_new_store(&dir.join("root"), |_| ());
    let at = |name: &str| store.physical_dir().join(name);
    let invalid = scratch_path("invalid");
    write_tree(&at(invalid.base_name()), "x");
    fs::write(at("junk"), "junk").unwrap();
    fs::create_dir(at("tmp-1-1")).unwrap();
    fs::create_dir(at("tmp-2-2")).unwrap();
    let locked = fs::File::open(at("tmp-2-2")).unwrap();
    locked.lock().unwrap();
    // As good as a name of somebody's: what has the hash part of a temporary root.
    let needed = scratch_path("needed");
    let process = open(&dir.join("root"));
    process.add_temp_root(&needed).unwrap();
    let lock = format!("{}.lock", needed.base_name());
    fs::write(at(&lock), "").unwrap();
    fs::write(at(".links/unused"), "1234").unwrap();
    let report = store
        .collect_garbage(&delete_dead(), &mut Unobserved)
        .unwrap();
    assert_eq!(report.paths, BTreeSet::from([invalid.clone()]));
    assert_eq!(report.strangers.len(), 2);
    assert_eq!(report.links_removed, 1);
    assert!(!at("junk").exists() && !at("tmp-1-1").exists() && !at(invalid.base_name()).exists());
    assert!(at("tmp-2-2").exists() && at(&lock).exists());
}

#[test]
fn specific_paths_go_only_if_nothing_needs_them() {
    let dir = Scratch::new();
    let (store, (low, high)) = in_new_store(&dir.join("root"), |store| {
        let low = add(store, "low", &[], None);
        let high = add(store, "high", &[&low], None);
        (low, high)
    });
    let delete = |paths: &[&StorePath], ignore_liveness| {
        let options = GcOptions {
            paths_to_delete: paths.iter().map(|path| (*path).clone()).collect(),
            ignore_liveness,
            ..GcOptions::new(GcAction::DeleteSpecific)
        };
        store.collect_garbage(&options, &mut Unobserved)
    };
    let error = delete(&[&low], false).unwrap_err();
    assert!(
        matches!(&error, LocalError::StillAlive { keeper: Some(keeper), .. } if *keeper == high),
        "{error}"
    );
    root(&store, "r", &high);
    assert!(delete(&[&low, &high], false).is_err());
    assert!(delete(&[&low], true).is_err());
    assert_eq!(delete(&[&low, &high], true).unwrap().paths.len(), 2);
    assert!(store.all_valid_paths().unwrap().is_empty());
}

#[test]
fn it_stops_when_enough_is_free() {
    let dir = Scratch::new();
    let (store, _) = in_new_store(&dir.join("root"), |store| {
        for name in ["a", "b", "c", "d"] {
            add(store, name, &[], None);
        }
    });
    let options = GcOptions {
        max_freed_bytes: 1,
        ..delete_dead()
    };
    let report = store.collect_garbage(&options, &mut Unobserved).unwrap();
    assert_eq!((report.bytes_freed, report.is_partial), (2, true));
    assert_eq!(store.all_valid_paths().unwrap().len(), 2);
    let nothing = GcOptions {
        max_freed_bytes: 0,
        ..delete_dead()
    };
    assert!(collect(&store, &nothing).is_empty());
}

#[test]
fn what_is_dear_is_kept_up_to_a_size() {
    let dir = Scratch::new();
    let (store, paths) = in_new_store(&dir.join("root"), |store| {
        let shared = add(store, "shared", &[], None);
        let [new, middle, old] =
            ["new", "middle", "old"].map(|name| add(store, name, &[&shared], None));
        [new, middle, old, shared]
    });
    let size = |path: &StorePath| store.path_info(path).unwrap().unwrap().nar_size;
    let options = GcOptions {
        keep: paths[..3].to_vec(),
        keep_bytes_max: size(&paths[0]) + size(&paths[1]) + size(&paths[3]),
        ..delete_dead()
    };
    let report = store.collect_garbage(&options, &mut Unobserved).unwrap();
    assert_eq!(report.paths, BTreeSet::from([paths[2].clone()]));
    assert_eq!(report.kept, (2, options.keep_bytes_max));
}

/// Asks as an adder does, in the middle of a collection.
struct Adder<'a> {
    store: &'a LocalStore,
    path: StorePath,
    asked: bool,
}

impl GcObserver for Adder<'_> {
    fn is_cancelled(&mut self) -> bool {
        if !std::mem::replace(&mut self.asked, true) {
            let socket = self.store.state_dir().join("gc-socket/socket");
            let mut socket = UnixStream::connect(socket).unwrap();
            let mut answer = [0];
            socket.write_all(b"garbage\n").unwrap();
            socket.read_exact(&mut answer).unwrap();
            let line = format!("{}\n", self.store.store_dir().display(&self.path));
            // In pieces, as a stream may come.
            socket.write_all(&line.as_bytes()[..10]).unwrap();
            socket.write_all(&line.as_bytes()[10..]).unwrap();
            socket.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"1");
        }
        false
    }
}

#[test]
fn what_is_asked_for_in_the_middle_stays_with_all_that_it_refers_to() {
    let dir = Scratch::new();
    let (store, (low, high)) = in_new_store(&dir.join("root"), |store| {
        let low = add(store, "low", &[], None);
        let high = add(store, "high", &[&low], None);
        add(store, "other", &[], None);
        (low, high)
    });
    let mut adder = Adder {
        store: &store,
        path: high.clone(),
        asked: false,
    };
    let report = store.collect_garbage(&delete_dead(), &mut adder).unwrap();
    assert!(adder.asked);
    assert_eq!(report.paths, BTreeSet::from([scratch_path("other")]));
    assert_eq!(
        store.all_valid_paths().unwrap(),
        BTreeSet::from([low, high])
    );
}

#[test]
fn a_collection_may_stop_anywhere() {
    for calls in 0..2000 {
        let dir = Scratch::new();
        let (store, kept) = in_new_store(&dir.join("root"), |store| {
            let low = add(store, "low", &[], None);
            let kept = add(store, "kept", &[&low], None);
            add(store, "dead", &[&low], None);
            write_tree(&dir.join("tree"), "x");
            add_tree(store, &dir.join("tree"), &none());
            kept
        });
        root(&store, "r", &kept);
        fault::fail_after(calls);
        let result = store.collect_garbage(&delete_dead(), &mut Unobserved);
        drop(store);
        let failed = fault::disarm();
        let store = open(&dir.join("root"));
        assert_sound(&store);
        assert!(store.is_valid(&kept).unwrap());
        if let Ok(report) = result
            && !failed
        {
            assert!(
                calls > 30 && report.failures.is_empty(),
                "{calls} {report:?}"
            );
            assert_eq!(store.all_valid_paths().unwrap().len(), 2);
            return;
        }
        store
            .collect_garbage(&delete_dead(), &mut Unobserved)
            .unwrap();
        assert_sound(&store);
        assert_eq!(store.all_valid_paths().unwrap().len(), 2);
        assert_eq!(fs::read_dir(store.physical_dir()).unwrap().count(), 3);
    }
    panic!("the collection never succeeds");
}
