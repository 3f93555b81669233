//! The store by itself.

mod common;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::*;
use store_local::{
    FileObject, GcAction, GcOptions, LocalError, LocalStore, Problem, Registration, SessionRoots,
    Unobserved, canonicalise,
};
use store_nar::{HashModuloVariant, dump};
use store_types::{
    BuildTraceEntry, BuildTraceKey, ContentAddressMethod, Derivation, DerivationOutput, DrvOutput,
    HashAlgorithm, PathInfo, Realisation, Signature, StoreDir, StorePath, sha256,
};

#[test]
fn what_was_added_is_found_by_every_query() {
    let dir = Scratch::new();
    let store = open(&dir.join("root"));
    write_tree(&dir.join("tree"), "hello");
    let tree = add_tree(&store, &dir.join("tree"), &none());
    let text = store
        .add_text(
            "text",
            b"about the tree",
            &BTreeSet::from([tree.path.clone()]),
        )
        .unwrap();

    assert!(store.is_valid(&tree.path).unwrap());
    assert_eq!(store.path_info(&tree.path).unwrap().unwrap(), tree);
    assert_eq!(store.path_info(&text.path).unwrap().unwrap(), text);
    assert!(text.registration_time > 0);
    let both = BTreeSet::from([tree.path.clone(), text.path.clone()]);
    assert_eq!(
        store.closure(std::slice::from_ref(&text.path)).unwrap(),
        both
    );
    assert_eq!(
        store
            .closure(std::slice::from_ref(&tree.path))
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        store.referrers(&tree.path).unwrap(),
        BTreeSet::from([text.path.clone()])
    );
    assert_eq!(store.all_valid_paths().unwrap(), both);
    assert_eq!(
        store.path_from_hash_part(tree.path.hash_part()).unwrap(),
        Some(tree.path.clone())
    );
    let other = scratch_path("other");
    assert_eq!(store.path_from_hash_part(other.hash_part()).unwrap(), None);
    assert!(!store.is_valid(&other).unwrap());
    assert!(matches!(
        store.closure(&[other]),
        Err(LocalError::NotValid { .. })
    ));
    assert_eq!(
        fs::read_to_string(store.physical_path(&text.path)).unwrap(),
        "about the tree"
    );
    assert_sound(&store);

    // Added again, nothing changes.
    assert_eq!(add_tree(&store, &dir.join("tree"), &none()), tree);
    drop(store);
    let store = open(&dir.join("root"));
    assert_eq!(store.path_info(&tree.path).unwrap().unwrap(), tree);
}

#[test]
fn every_method_and_algorithm_gives_a_path_and_what_it_refuses_leaves_nothing() {
    let dir = Scratch::new();
    let store = open(&dir.join("root"));
    write_tree(&dir.join("tree"), "hello");
    let mut nar = Vec::new();
    dump(
        fs::File::open(dir.path()).unwrap().as_fd(),
        OsStr::new("tree"),
        &mut nar,
    )
    .unwrap();
    for algorithm in ["md5", "sha1", "sha256", "sha512"] {
        let algorithm = HashAlgorithm::from_name(algorithm).unwrap();
        let info = store
            .add_content_addressed(
                "x",
                ContentAddressMethod::Nar,
                algorithm,
                &none(),
                &mut &nar[..],
            )
            .unwrap();
        assert_eq!(info.nar_hash, sha256(&nar));
        assert_eq!(info.ca.unwrap().hash, algorithm.digest(&nar));
        let info = store
            .add_content_addressed(
                "x",
                ContentAddressMethod::Flat,
                algorithm,
                &none(),
                &mut &b"flat"[..],
            )
            .unwrap();
        assert_eq!(info.ca.unwrap().hash, algorithm.digest(b"flat"));
    }
    let before = store.all_valid_paths().unwrap();
    let add = |method, bytes: &[u8], references: &BTreeSet<StorePath>| {
        let algorithm = HashAlgorithm::Sha256;
        store.add_content_addressed("y", method, algorithm, references, &mut &bytes[..])
    };
    let other = BTreeSet::from([scratch_path("missing")]);
    for result in [
        add(ContentAddressMethod::Nar, &nar[..100], &none()),
        add(ContentAddressMethod::Nar, b"no archive at all", &none()),
        add(ContentAddressMethod::Nar, &nar, &other),
        add(ContentAddressMethod::Text, b"x", &other),
        add(ContentAddressMethod::Flat, b"x", &other),
        store.add_text("a/b", b"x", &none()),
        store.add_text("bad.drv", b"not a derivation", &none()),
    ] {
        assert!(result.is_err(), "{result:?}");
    }
    assert_eq!(store.all_valid_paths().unwrap(), before);
    let names = fs::read_dir(store.physical_dir()).unwrap();
    assert_eq!(names.count(), before.len() + 1, "the objects and `.links`");
    assert_sound(&store);
}

#[test]
fn an_archive_must_be_what_was_announced() {
    let dir = Scratch::new();
    let (from, to) = (open(&dir.join("from")), open(&dir.join("to")));
    write_tree(&dir.join("tree"), "hello");
    let info = add_tree(&from, &dir.join("tree"), &none());
    let mut nar = Vec::new();
    from.dump(&info.path, &mut nar).unwrap();

    let mut wrong = info.clone();
    wrong.nar_hash = sha256(b"");
    assert!(matches!(
        to.add_nar(&wrong, &mut &nar[..]),
        Err(LocalError::HashMismatch { .. })
    ));
    let mut wrong = info.clone();
    wrong.nar_size += 8;
    assert!(matches!(
        to.add_nar(&wrong, &mut &nar[..]),
        Err(LocalError::SizeMismatch { .. })
    ));
    let mut wrong = info.clone();
    wrong.path = scratch_path("elsewhere");
    assert!(matches!(
        to.add_nar(&wrong, &mut &nar[..]),
        Err(LocalError::WrongContentAddress { .. })
    ));
    let mut wrong = info.clone();
    wrong.ca = None;
    wrong.references.insert(scratch_path("missing"));
    assert!(matches!(
        to.add_nar(&wrong, &mut &nar[..]),
        Err(LocalError::ReferenceNotValid { .. })
    ));
    assert_eq!(to.all_valid_paths().unwrap(), none());
    assert!(!to.physical_path(&info.path).exists());

    for _ in 0..2 {
        let bytes = [&nar[..], b"rest"].concat();
        let mut reader = &bytes[..];
        to.add_nar(&info, &mut reader).unwrap();
        assert_eq!(reader, b"rest", "exactly one archive is read");
    }
    assert_sound(&to);
}

/// What Nix 2.34 takes for one, apart from the names that it then cannot read itself.
#[test]
fn only_signatures_are_kept_as_signatures_and_only_they_are_read() {
    let dir = Scratch::new();
    let (from, to) = (open(&dir.join("from")), open(&dir.join("to")));
    let text = from.add_text("text", b"text", &none()).unwrap();
    let mut nar = Vec::new();
    from.dump(&text.path, &mut nar).unwrap();
    let long = format!("k:{}", "A".repeat(4096));
    for odd in [
        "", "noc", ":AA==", "k:", "k:!", "a b:AA==", "a\n:AA==", &long,
    ] {
        let signatures = vec!["k:AA==".to_owned(), odd.to_owned()];
        let error = from.add_signatures(&text.path, &signatures).unwrap_err();
        assert!(matches!(error, LocalError::Signature), "{odd:?}: {error}");
        assert_eq!(error.to_string(), "signature is corrupt");
        let info = PathInfo {
            signatures,
            ..text.clone()
        };
        let error = to.add_nar(&info, &mut &nar[..]).unwrap_err();
        assert!(matches!(error, LocalError::Signature), "{odd:?}: {error}");
    }
    assert_eq!(to.all_valid_paths().unwrap(), none());
    let signatures = || from.path_info(&text.path).unwrap().unwrap().signatures;
    assert!(signatures().is_empty());
    // Each in one form only.
    let twice = [
        "k:AAAA".to_owned(),
        "k:AAAA=".to_owned(),
        "j:AB==".to_owned(),
    ];
    from.add_signatures(&text.path, &twice).unwrap();
    assert_eq!(signatures(), ["j:AA==", "k:AAAA"]);
    let many: Vec<String> = (0..1000).map(|i| format!("k{i}:AA==")).collect();
    assert!(from.add_signatures(&text.path, &many).is_err());

    // What is there already, of another version or of Nix itself.
    let database = dir.join("from/nix/var/nix/db/db.sqlite");
    let connection = rusqlite::Connection::open(database).unwrap();
    let damage = "update ValidPaths set sigs = 'noc j:AA== a b:!'";
    assert_eq!(connection.execute(damage, []).unwrap(), 1);
    assert_eq!(signatures(), ["j:AA=="]);
}

#[test]
fn paths_are_registered_together_or_not_at_all() {
    let dir = Scratch::new();
    let store = open(&dir.join("root"));
    let base = store.add_text("base", b"base", &none()).unwrap();
    let info = |name: &str, references: &[&StorePath]| {
        let mut info = base.clone();
        info.path = scratch_path(name);
        info.ca = None;
        info.references = references.iter().map(|path| (*path).clone()).collect();
        fs::write(store.physical_path(&info.path), "base").unwrap();
        Registration::new(info)
    };
    let (a, b) = (scratch_path("a"), scratch_path("b"));
    let error = store.register(&[info("a", &[&b]), info("b", &[&a])]);
    assert!(matches!(error, Err(LocalError::ReferenceCycle { .. })));
    let missing = scratch_path("missing");
    let error = store.register(&[info("a", &[&b, &base.path]), info("b", &[&missing])]);
    assert!(matches!(error, Err(LocalError::ReferenceNotValid { .. })));
    assert!(!store.is_valid(&a).unwrap());

    store
        .register(&[info("a", &[&a, &b, &base.path]), info("b", &[])])
        .unwrap();
    assert_eq!(store.closure(std::slice::from_ref(&a)).unwrap().len(), 3);
    let mut other = info("b", &[]);
    other.info.nar_hash = sha256(b"other");
    let error = store.register(&[other]);
    assert!(matches!(error, Err(LocalError::OtherContent { .. })));

    let error = store.invalidate(&BTreeSet::from([b.clone()]));
    assert!(matches!(error, Err(LocalError::StillReferenced { .. })));
    store
        .invalidate(&BTreeSet::from([a.clone(), b.clone()]))
        .unwrap();
    assert_eq!(
        store.all_valid_paths().unwrap(),
        BTreeSet::from([base.path])
    );
}

#[test]
fn derivations_are_registered_with_their_outputs() {
    let dir = Scratch::new();
    let store = open(&dir.join("root"));
    let text = derivation(store.store_dir());
    let drv = store.add_text("x.drv", &text, &none()).unwrap();
    let outputs = store.query_derivation_outputs(&drv.path).unwrap();
    let out = &outputs["out"];
    assert_eq!((outputs.len(), out.name()), (1, "x"));
    assert_eq!(
        store.valid_derivers(out).unwrap(),
        BTreeSet::from([drv.path])
    );

    let wrong = String::from_utf8(text).unwrap();
    let wrong = wrong.replace(out.hash_part(), scratch_path("x").hash_part());
    let error = store.add_text("x.drv", wrong.as_bytes(), &none());
    assert!(
        matches!(error, Err(LocalError::DerivationOutputs { .. })),
        "{error:?}"
    );
    assert_eq!(store.all_valid_paths().unwrap().len(), 1);
}

#[test]
fn a_derivation_is_read_from_no_link_from_nothing_else_and_not_without_end() {
    let dir = Scratch::new();
    let store = open(&dir.join("root"));
    let secret = dir.join("secret");
    fs::write(&secret, derivation(&StoreDir::default())).unwrap();
    let add = |name: &str, make: &dyn Fn(&std::path::Path)| {
        let at = dir.join(name);
        make(&at);
        let parent = fs::File::open(dir.path()).unwrap();
        store.add_tree(
            name,
            parent.as_fd(),
            at.file_name().unwrap().as_ref(),
            &none(),
        )
    };
    // What is named like a derivation is read before it is registered.
    let link = add("link.drv", &|at| symlink(&secret, at).unwrap()).unwrap_err();
    assert!(link.to_string().contains("cannot open"), "{link}");
    assert!(add("dir.drv", &|at| fs::create_dir(at).unwrap()).is_err());
    assert_eq!(store.all_valid_paths().unwrap(), none());

    // What is not is not read, whatever it is.
    let link = add("link", &|at| symlink("/dev/zero", at).unwrap())
        .unwrap()
        .path;
    let text = store.add_text("text", b"Derive(", &none()).unwrap().path;
    for path in [&link, &text] {
        let error = store.read_derivation(path).unwrap_err();
        assert!(matches!(error, LocalError::NoDerivation { .. }), "{error}");
    }

    // As if somebody had put them there.
    let drv = store
        .add_text("x.drv", &derivation(&StoreDir::default()), &none())
        .unwrap()
        .path;
    let place = store.physical_path(&drv);
    store.read_derivation(&drv).unwrap();
    let replaced = |make: &dyn Fn()| {
        fs::remove_file(&place).unwrap();
        make();
        store.read_derivation(&drv).unwrap_err().to_string()
    };
    let error = replaced(&|| symlink(&secret, &place).unwrap());
    assert!(error.contains("cannot open"), "{error}");
    let error = replaced(&|| {
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &place,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o444),
            0,
        )
        .unwrap();
    });
    assert!(error.contains("cannot open"), "{error}");
    let error = replaced(&|| {
        let file = fs::File::create(&place).unwrap();
        file.set_len(1 << 40).unwrap();
    });
    assert!(error.contains("is longer than"), "{error}");
}

#[test]
fn one_turn_at_a_time_has_large_derivations_in_memory() {
    let dir = Scratch::new();
    let store = open(&dir.join("root"));
    let of_len = |name: &str, len: usize| {
        let output = DerivationOutput::Floating {
            method: ContentAddressMethod::Nar,
            algorithm: HashAlgorithm::Sha256,
        };
        let drv = Derivation {
            system: "s".into(),
            builder: "/b".into(),
            outputs: [("out".to_owned(), output)].into(),
            env: [("x".into(), "x".repeat(len).into())].into(),
            ..Derivation::default()
        };
        let text = drv.to_aterm(&StoreDir::default());
        store.add_text(name, &text, &none()).unwrap().path
    };
    let large = [of_len("a.drv", 3 << 20), of_len("b.drv", 3 << 20)];
    let small = of_len("c.drv", 3);
    static RETURNED: AtomicUsize = AtomicUsize::new(0);
    store.set_return_memory(|| _ = RETURNED.fetch_add(1, Ordering::SeqCst));
    drop(store.derivation_turn().read(&small).unwrap());
    assert_eq!(RETURNED.load(Ordering::SeqCst), 0);
    let turn = store.derivation_turn();
    for drv in &large {
        turn.read(drv).unwrap();
    }
    let is_through = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let turn = store.derivation_turn();
            turn.read(&small).unwrap();
            is_through.store(true, Ordering::SeqCst);
            turn.read(&large[0]).unwrap();
        });
        while !is_through.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        assert!(!other.is_finished());
        assert_eq!(RETURNED.load(Ordering::SeqCst), 0);
        drop(turn);
        assert!(RETURNED.load(Ordering::SeqCst) >= 1);
        other.join().unwrap();
    });
}

#[test]
fn texts_are_added_together_and_may_refer_to_one_another() {
    let dir = Scratch::new();
    let store = open(&dir.join("root"));
    let first = store.add_text("first", b"1", &none()).unwrap();
    store
        .invalidate(&BTreeSet::from([first.path.clone()]))
        .unwrap();
    let references = BTreeSet::from([first.path.clone()]);
    let object = |name, bytes, references| FileObject {
        name,
        method: ContentAddressMethod::Text,
        bytes,
        nar: None,
        references,
    };
    let none = none();
    let infos = store
        .add_files(&[
            object("second", b"2", &references),
            object("first", b"1", &none),
            object("first", b"1", &none),
        ])
        .unwrap();
    assert_eq!(infos[1].path, first.path);
    assert_eq!(infos[1], infos[2]);
    assert_eq!(infos[0].references, references);
    assert_sound(&store);
}

/// What Nix since 2.35 makes of a database, beside the tables of 2.34. (Source: its
/// `src/libstore/ca-specific-schema.sql` and `local-store.cc`.)
const BUILD_TRACE_V3: &str = "
    create table BuildTraceV3 (
        id integer primary key autoincrement not null,
        drvPath text not null,
        outputName text not null,
        outputPath text not null,
        signatures text
    );
    create index IndexBuildTraceV3 on BuildTraceV3(drvPath, outputName);
    insert into SchemaMigrations values ('20251017-ca-derivations');
";

#[test]
fn build_trace_entries_are_kept_where_there_is_their_table_or_for_a_client() {
    let dir = Scratch::new();
    let root = dir.join("root");
    let store = open(&root);
    let out = store.add_text("out", b"out", &none()).unwrap().path;
    let other = store.add_text("other", b"other", &none()).unwrap().path;
    let signature = |text: &str| text.parse::<Signature>().unwrap();
    let key = BuildTraceKey {
        drv_path: StorePath::from_base_name(&format!("{}-a.drv", "0".repeat(32))).unwrap(),
        output_name: "out".to_owned(),
    };
    let mut entry = BuildTraceEntry {
        key: key.clone(),
        out_path: out.clone(),
        signatures: [signature("k:AAAA")].into(),
    };
    assert!(!store.register_build_trace(&entry).unwrap());
    assert_eq!(store.query_build_trace(&key).unwrap(), None);
    let another = open(&dir.join("another"));
    another.keep_build_trace(&entry).unwrap();
    assert_eq!(
        another.query_build_trace(&key).unwrap(),
        Some(entry.clone())
    );

    // Nix is here, and the store is open already.
    let database = rusqlite::Connection::open(root.join("nix/var/nix/db/db.sqlite")).unwrap();
    database.execute_batch(BUILD_TRACE_V3).unwrap();
    assert_eq!(store.query_build_trace(&key).unwrap(), None);
    assert!(store.register_build_trace(&entry).unwrap());
    let row = || {
        let columns =
            "select drvPath || ' ' || outputName || ' ' || outputPath || ' ' || signatures";
        let query = format!("{columns} from BuildTraceV3");
        let mut statement = database.prepare(&query).unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.collect::<Result<Vec<String>, _>>().unwrap()
    };
    let drv = key.drv_path.base_name();
    let out_text = store.store_dir().display(&out);
    assert_eq!(row(), [format!("{drv} out {out_text} k:AAAA")]);

    entry.signatures = [signature("j:/w==")].into();
    store.register_build_trace(&entry).unwrap();
    assert_eq!(row(), [format!("{drv} out {out_text} j:/w== k:AAAA")]);
    let found = store.query_build_trace(&key).unwrap().unwrap();
    assert_eq!(found.out_path, out);
    assert_eq!(found.signatures.len(), 2);

    entry.out_path = other.clone();
    assert!(matches!(
        store.register_build_trace(&entry),
        Err(LocalError::OtherRealisation { .. })
    ));
    // The entry stays when its path goes, and does not keep another from being known.
    store.invalidate(&BTreeSet::from([out.clone()])).unwrap();
    let found = store.query_build_trace(&key).unwrap().unwrap();
    assert_eq!(found.out_path, out);
    store.register_build_trace(&entry).unwrap();
    let other = store.store_dir().display(&other);
    assert_eq!(row(), [format!("{drv} out {other} j:/w==")]);
    assert!(store.query_build_trace(&key).unwrap().is_some());
    drop(store);

    // What a database says is not believed.
    database
        .execute("update BuildTraceV3 set outputPath = '/etc/passwd'", [])
        .unwrap();
    let store = open(&root);
    assert!(matches!(
        store.query_build_trace(&key),
        Err(LocalError::MalformedRow { .. })
    ));
}

#[test]
fn realisations_are_kept_and_do_not_change() {
    let dir = Scratch::new();
    let store = open(&dir.join("root"));
    let out = store.add_text("out", b"out", &none()).unwrap().path;
    let other = store.add_text("other", b"other", &none()).unwrap().path;
    let id = |text: &str| DrvOutput {
        drv_hash: sha256(text.as_bytes()),
        output_name: "out".to_owned(),
    };
    let mut realisation = Realisation {
        id: id("a"),
        out_path: out.clone(),
        signatures: vec!["k:AQ==".to_owned()],
        dependent_realisations: [(id("b"), other.clone())].into(),
    };
    assert!(matches!(
        store.register_realisation(&realisation),
        Err(LocalError::UnknownRealisation { .. })
    ));
    assert_eq!(store.query_realisation(&id("a")).unwrap(), None);
    let dependency = Realisation {
        id: id("b"),
        out_path: other.clone(),
        signatures: Vec::new(),
        dependent_realisations: [].into(),
    };
    store.register_realisation(&dependency).unwrap();
    store.register_realisation(&realisation).unwrap();
    assert_eq!(
        store.query_realisation(&id("a")).unwrap(),
        Some(realisation.clone())
    );
    realisation.signatures = vec!["j:Ag==".to_owned()];
    store.register_realisation(&realisation).unwrap();
    let found = store.query_realisation(&id("a")).unwrap().unwrap();
    assert_eq!(found.signatures, ["j:Ag==", "k:AQ=="]);
    realisation.out_path = other.clone();
    assert!(matches!(
        store.register_realisation(&realisation),
        Err(LocalError::OtherRealisation { .. })
    ));
    // With its path the realisation goes.
    store.invalidate(&BTreeSet::from([out])).unwrap();
    assert_eq!(store.query_realisation(&id("a")).unwrap(), None);
    store.invalidate(&BTreeSet::from([other])).unwrap();
}

#[test]
fn an_output_that_mentions_its_path_is_moved_to_the_path_of_its_content() {
    let dir = Scratch::new();
    let store = open(&dir.join("root"));
    let input = store.add_text("input", b"input", &none()).unwrap();
    let candidates = BTreeSet::from([input.path.clone(), scratch_path("unused")]);
    let build = |place: &str, scratch: &StorePath| {
        let at = dir.join(place);
        write_tree(
            &at,
            &format!("I am /nix/store/{scratch}, made of {}", input.path),
        );
        symlink(format!("/nix/store/{scratch}/file"), at.join("self")).unwrap();
        let variant = HashModuloVariant::WithoutOffsets;
        add_output(&store, &at, scratch, &candidates, variant).unwrap()
    };
    let rename = |seed: &str| {
        let path = scratch_path(seed);
        StorePath::from_base_name(&format!("{}-out", path.hash_part())).unwrap()
    };
    let info = build("b1", &rename("one"));
    assert_eq!(
        info.references,
        BTreeSet::from([info.path.clone(), input.path.clone()])
    );
    let physical = store.physical_path(&info.path);
    let text = fs::read_to_string(physical.join("file")).unwrap();
    assert!(text.contains(info.path.base_name()), "{text}");
    let target = fs::read_link(physical.join("self")).unwrap();
    assert!(target.to_str().unwrap().contains(info.path.base_name()));
    assert!(!dir.join("b1").exists());
    // Built again at another path, it is the same object.
    assert_eq!(build("b2", &rename("two")), info);
    assert!(!dir.join("b2").exists());
    assert_sound(&store);

    let at = dir.join("b3");
    write_tree(&at, "mentions nobody");
    let variant = HashModuloVariant::WithoutOffsets;
    let plain = add_output(&store, &at, &rename("three"), &candidates, variant).unwrap();
    assert_eq!(plain.references, none());
    assert_eq!(plain.ca.unwrap().hash, plain.nar_hash);
    assert_sound(&store);
}

#[test]
fn an_object_that_refers_to_itself_must_have_the_content_of_its_path() {
    for variant in [
        HashModuloVariant::WithoutOffsets,
        HashModuloVariant::WithOffsets,
    ] {
        let dir = Scratch::new();
        let (from, to) = (open(&dir.join("from")), open(&dir.join("to")));
        let scratch = scratch_path("one");
        let scratch = StorePath::from_base_name(&format!("{}-out", scratch.hash_part())).unwrap();
        let at = dir.join("built");
        write_tree(&at, &format!("I am /nix/store/{scratch}, twice {scratch}"));
        let mut info = add_output(&from, &at, &scratch, &none(), variant).unwrap();
        assert!(info.references.contains(&info.path));
        info.deriver = None;
        let mut nar = Vec::new();
        from.dump(&info.path, &mut nar).unwrap();

        let twice = nar.windows(5).position(|five| five == b"twice").unwrap();
        let mut other = nar.clone();
        other[twice..twice + 5].copy_from_slice(b"never");
        // Whoever sends it says what hash the archive has.
        let wrong = PathInfo {
            nar_hash: sha256(&other),
            ..info.clone()
        };
        let error = to.add_nar(&wrong, &mut &other[..]).unwrap_err();
        assert!(
            matches!(error, LocalError::ContentAddressMismatch { .. }),
            "{error}"
        );
        let words = format!("ca hash mismatch importing path '/nix/store/{}'", info.path);
        assert!(error.to_string().starts_with(&words), "{error}");
        assert_eq!(to.all_valid_paths().unwrap(), none());
        // Nor is it what a valid object is repaired with.
        to.add_nar(&info, &mut &nar[..]).unwrap();
        assert!(to.add_nar_with(&wrong, true, &mut &other[..]).is_err());
        let kept = fs::read_to_string(to.physical_path(&info.path).join("file")).unwrap();
        assert!(kept.contains("twice"), "{kept}");
        assert_sound(&to);
    }
}

#[test]
fn a_tree_is_made_canonical_whatever_its_modes_are() {
    let dir = Scratch::new();
    let at = dir.join("tree");
    write_tree(&at, "x");
    fs::hard_link(at.join("file"), at.join("hard")).unwrap();
    for (name, mode) in [("sub/run", 0o4711), ("file", 0o000), ("sub/empty", 0o000)] {
        fs::set_permissions(at.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(at.join("sub"), fs::Permissions::from_mode(0o300)).unwrap();
    let parent = fs::File::open(dir.path()).unwrap();
    let tree = OsStr::new("tree");
    let uid = fs::metadata(&at).unwrap().uid();
    canonicalise(parent.as_fd(), tree, Some(uid..=uid)).unwrap();
    for (name, mode) in [
        ("", 0o555),
        ("sub", 0o555),
        ("sub/empty", 0o555),
        ("sub/run", 0o555),
        ("sub/link", 0o777),
        ("file", 0o444),
        ("hard", 0o444),
    ] {
        let found = fs::symlink_metadata(at.join(name)).unwrap();
        assert_eq!((found.mode() & 0o7777, found.mtime()), (mode, 1), "{name}");
    }
    let error = canonicalise(parent.as_fd(), tree, Some(uid + 1..=uid + 9)).unwrap_err();
    assert!(matches!(error, LocalError::Ownership { .. }), "{error}");

    let open_to_all = dir.join("open");
    fs::create_dir(&open_to_all).unwrap();
    fs::set_permissions(&open_to_all, fs::Permissions::from_mode(0o777)).unwrap();
    let error = canonicalise(parent.as_fd(), OsStr::new("open"), None).unwrap_err();
    assert!(
        matches!(error, LocalError::WritableByOthers { .. }),
        "{error}"
    );
    fs::set_permissions(&open_to_all, fs::Permissions::from_mode(0o755)).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(open_to_all.join("socket")).unwrap();
    let error = canonicalise(parent.as_fd(), OsStr::new("open"), None).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        cause.contains("`open/socket` has an unsupported type: it is a socket"),
        "{cause}"
    );
}

#[test]
fn foreign_and_damaged_databases_are_named_with_what_to_do() {
    let message = |prepare: &dyn Fn(&std::path::Path)| {
        let dir = Scratch::new();
        drop(open(dir.path()));
        let db = dir.join("nix/var/nix/db");
        prepare(&db);
        let error = LocalStore::open(dir.path(), StoreDir::default()).unwrap_err();
        assert!(matches!(error, LocalError::Unusable { .. }), "{error:?}");
        error.to_string()
    };
    let write = |name: &'static str, text: &'static str| {
        move |db: &std::path::Path| fs::write(db.join(name), text).unwrap()
    };
    let text = message(&write("schema", "11"));
    assert!(
        text.contains("schema 11") && text.contains("another store"),
        "{text}"
    );
    let text = message(&write("schema", "many"));
    assert!(text.contains("`many`, which is not a number"), "{text}");
    let text = message(&write(
        "db.sqlite",
        "certainly not a database, but long enough for a header of one: .......................",
    ));
    assert!(text.contains("is not an SQLite database"), "{text}");
    let text = message(&|db| fs::remove_file(db.join("db.sqlite")).unwrap());
    assert!(text.contains("is missing"), "{text}");
    let text = message(&|db| {
        for file in ["db.sqlite", "db.sqlite-wal", "db.sqlite-shm"] {
            let _ = fs::remove_file(db.join(file));
        }
        let foreign = rusqlite::Connection::open(db.join("db.sqlite")).unwrap();
        foreign.execute_batch("create table Other (x)").unwrap();
    });
    assert!(text.contains("does not have Nix's tables"), "{text}");
    let text = message(&|db| {
        let path = db.join("db.sqlite");
        let mut bytes = fs::read(&path).unwrap();
        bytes[100..].fill(0x5a);
        fs::write(path, bytes).unwrap();
    });
    assert!(text.contains("is damaged"), "{text}");
}

#[test]
fn a_store_whose_making_was_broken_off_is_made_anyway() {
    let dir = Scratch::new();
    drop(open(dir.path()));
    fs::remove_file(dir.join("nix/var/nix/db/schema")).unwrap();
    fs::write(dir.join("nix/var/nix/db/schema.new"), "1").unwrap();
    let store = open(dir.path());
    store.add_text("x", b"x", &none()).unwrap();
    assert_eq!(
        fs::read_to_string(dir.join("nix/var/nix/db/schema")).unwrap(),
        "10"
    );
}

#[test]
fn temporary_directories_are_removed_unless_somebody_holds_them() {
    let dir = Scratch::new();
    drop(open(dir.path()));
    let store = dir.join("nix/store");
    for name in ["tmp-droste-1-1", "tmp-droste-2-2", "tmp-other"] {
        fs::create_dir(store.join(name)).unwrap();
        fs::write(store.join(name).join("x"), "").unwrap();
    }
    let held = fs::File::open(store.join("tmp-droste-2-2")).unwrap();
    held.lock().unwrap();
    killed(&dir);
    let _store = open(dir.path());
    assert!(!store.join("tmp-droste-1-1").exists());
    assert!(store.join("tmp-droste-2-2/x").exists());
    assert!(store.join("tmp-other/x").exists());
}

#[test]
fn a_leftover_at_a_paths_place_is_replaced() {
    let dir = Scratch::new();
    let store = open(&dir.join("root"));
    write_tree(&dir.join("tree"), "right");
    let info = add_tree(&store, &dir.join("tree"), &none());
    let text = store.add_text("text", b"text", &none()).unwrap();
    store
        .invalidate(&BTreeSet::from([info.path.clone(), text.path.clone()]))
        .unwrap();
    let place = store.physical_path(&info.path);
    fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(place.join("file")).unwrap();
    fs::remove_file(store.physical_path(&text.path)).unwrap();
    fs::create_dir(store.physical_path(&text.path)).unwrap();
    assert_eq!(add_tree(&store, &dir.join("tree"), &none()).path, info.path);
    store.add_text("text", b"text", &none()).unwrap();
    assert_sound(&store);
}

#[test]
fn verification_names_what_is_missing_or_modified() {
    let dir = Scratch::new();
    let store = open(&dir.join("root"));
    let gone = store.add_text("gone", b"gone", &none()).unwrap().path;
    let changed = store
        .add_text("changed", b"changed", &BTreeSet::from([gone.clone()]))
        .unwrap()
        .path;
    fs::remove_file(store.physical_path(&gone)).unwrap();
    let place = store.physical_path(&changed);
    fs::remove_file(&place).unwrap();
    fs::write(&place, "Changed").unwrap();
    let report = store.verify(false).unwrap();
    assert_eq!((report.checked, report.problems.len()), (2, 1));
    let report = store.verify(true).unwrap();
    assert_eq!(report.problems.len(), 2);
    for (path, problem) in report.problems {
        match problem {
            Problem::Missing { referrers } => {
                assert_eq!((path, referrers), (gone.clone(), [changed.clone()].into()));
            }
            Problem::Modified { .. } => assert_eq!(path, changed),
            other => panic!("{other:?}"),
        }
    }
}

/// What a process that is killed leaves in any case.
fn killed(dir: &Scratch) {
    fs::write(dir.join("nix/var/nix/temproots/99999999"), "").unwrap();
}

#[test]
fn a_lock_that_a_killed_process_left_is_removed_and_one_that_is_held_is_not() {
    let dir = Scratch::new();
    let store = open(dir.path());
    let held = BTreeSet::from([scratch_path("held")]);
    let _locks = store.lock_paths(&held).unwrap();
    let file = |path: &StorePath| store.physical_dir().join(format!("{path}.lock"));
    let left = file(&scratch_path("left"));
    fs::write(&left, "").unwrap();
    drop(open(dir.path()));
    assert!(left.exists(), "nobody was killed");
    killed(&dir);
    let other = open(dir.path());
    assert!(!left.exists());
    assert!(held.iter().all(|path| file(path).exists()));
    assert!(other.try_lock_paths(&held).unwrap().is_none());
}

#[test]
fn a_path_lock_excludes_others_until_it_is_dropped() {
    let dir = Scratch::new();
    let (store, other) = (open(dir.path()), open(dir.path()));
    let paths = BTreeSet::from([scratch_path("a"), scratch_path("b")]);
    let one = BTreeSet::from([scratch_path("b")]);
    let locks = store.lock_paths(&paths).unwrap();
    assert!(other.try_lock_paths(&one).unwrap().is_none());
    let released = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let _locks = other.lock_paths(&one).unwrap();
            assert!(released.load(Ordering::SeqCst));
        });
        released.store(true, Ordering::SeqCst);
        drop(locks);
        waiter.join().unwrap();
    });
    assert!(store.try_lock_paths(&paths).unwrap().is_some());
    let left = fs::read_dir(store.physical_dir()).unwrap().count();
    assert_eq!(left, 1, "only `.links` is there");
}

/// Whether a file is open more than once in this process; there is no other here.
fn is_open_twice(file: BorrowedFd<'_>) -> bool {
    let identity = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
    let ours = rustix::fs::fstat(file).map(identity);
    let open = fs::read_dir("/proc/self/fd").unwrap();
    let same = open.filter(|entry| {
        // Others come and go meanwhile.
        let path = entry.as_ref().unwrap().path();
        rustix::fs::stat(path).map(identity) == ours
    });
    same.count() > 1
}

/// Longer than a lock file is not used for.
const UNTIL_USED_AGAIN: Duration = Duration::from_millis(70);

fn open_keeping_locks(dir: &Scratch, name: &str) -> LocalStore {
    let store = open(&dir.join("root"));
    let kept = dir.join(name);
    fs::create_dir(&kept).unwrap();
    store.keep_locks(fs::File::open(kept).unwrap().into(), is_open_twice);
    store
}

#[test]
fn a_lock_file_that_is_kept_is_used_again_and_misleads_nobody_who_waited() {
    let dir = Scratch::new();
    let (store, other) = (open_keeping_locks(&dir, "kept"), open(&dir.join("root")));
    let [a, b] = ["a", "b"].map(|name| BTreeSet::from([scratch_path(name)]));
    let file = |paths: &BTreeSet<StorePath>| {
        let name = format!("{}.lock", paths.first().unwrap());
        fs::metadata(store.physical_dir().join(name)).unwrap().ino()
    };
    let locks = store.lock_paths(&a).unwrap();
    let inode = file(&a);
    drop(locks);
    let locks = store.lock_paths(&b).unwrap();
    assert_ne!(file(&b), inode, "somebody could just have found it");
    drop(locks);
    std::thread::sleep(UNTIL_USED_AGAIN);
    let locks = store.lock_paths(&b).unwrap();
    assert_eq!(file(&b), inode);
    assert!(other.try_lock_paths(&b).unwrap().is_none());
    let name = format!("{}.lock", b.first().unwrap());
    let open = fs::File::open(store.physical_dir().join(name)).unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| other.lock_paths(&b).unwrap());
        // It has the file open, and waits for it.
        let mut waits = false;
        while !waits {
            let locks = fs::read_to_string("/proc/locks").unwrap();
            let file = format!(":{inode} ");
            let mut lines = locks.lines();
            waits = lines.any(|line| line.contains("-> FLOCK") && line.contains(&file));
        }
        drop(locks);
        // What Nix looks at.
        assert_eq!(open.metadata().unwrap().len(), 1);
        let _theirs = waiter.join().unwrap();
        assert_ne!(file(&b), inode);
        assert!(store.try_lock_paths(&b).unwrap().is_none());
    });
    std::thread::sleep(UNTIL_USED_AGAIN);
    let of_second = store.lock_paths(&a).unwrap();
    let third = BTreeSet::from([scratch_path("c")]);
    let of_third = store.lock_paths(&third).unwrap();
    assert!(
        ![file(&a), file(&third)].contains(&inode),
        "it is open elsewhere"
    );
    drop((open, of_second, of_third));
    drop(other);
    let left = fs::read_dir(store.physical_dir()).unwrap().count();
    assert_eq!(left, 1, "only `.links` is there");
}

#[test]
fn whoever_keeps_lock_files_or_not_one_has_a_lock_at_a_time() {
    let dir = Scratch::new();
    let stores = [
        open_keeping_locks(&dir, "one"),
        open_keeping_locks(&dir, "two"),
        open(&dir.join("root")),
    ];
    let paths: Vec<StorePath> = ["a", "b", "c"].map(scratch_path).into();
    let held: Vec<AtomicBool> = paths.iter().map(|_| AtomicBool::new(false)).collect();
    std::thread::scope(|scope| {
        for (thread, store) in stores.iter().chain(&stores).enumerate() {
            let (paths, held) = (&paths, &held);
            scope.spawn(move || {
                let begun = Instant::now();
                for i in 0.. {
                    if begun.elapsed() > 6 * UNTIL_USED_AGAIN {
                        break;
                    }
                    let at = (i * 7 + thread * i) % paths.len();
                    let one = BTreeSet::from([paths[at].clone()]);
                    let locks = match i % 2 {
                        0 => Some(store.lock_paths(&one).unwrap()),
                        _ => store.try_lock_paths(&one).unwrap(),
                    };
                    if let Some(locks) = locks {
                        assert!(
                            !held[at].swap(true, Ordering::SeqCst),
                            "{} twice",
                            paths[at]
                        );
                        std::thread::yield_now();
                        assert!(held[at].swap(false, Ordering::SeqCst));
                        drop(locks);
                    }
                }
            });
        }
    });
    let left = fs::read_dir(stores[0].physical_dir()).unwrap().count();
    assert_eq!(left, 1, "only `.links` is there");
}

#[test]
fn many_threads_and_stores_add_the_same_and_different_objects() {
    let dir = Scratch::new();
    write_tree(&dir.join("tree"), "shared");
    let stores = [open(&dir.join("root")), open(&dir.join("root"))];
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = &stores[thread % 2];
            let dir = &dir;
            scope.spawn(move || {
                for i in 0..20 {
                    let tree = add_tree(store, &dir.join("tree"), &none());
                    let text = format!("{}", i % 10 + thread % 2);
                    store
                        .add_text("text", text.as_bytes(), &BTreeSet::from([tree.path]))
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(stores[0].all_valid_paths().unwrap().len(), 1 + 11);
    assert_sound(&stores[1]);
}

#[test]
fn temporary_roots_are_in_a_locked_file_that_goes_with_the_store() {
    let dir = Scratch::new();
    let (store, same) = (open(dir.path()), open(dir.path()));
    let (a, b) = (scratch_path("a"), scratch_path("b"));
    store.add_temp_root(&a).unwrap();
    same.add_temp_root(&b).unwrap();
    let file = dir.join(&format!("nix/var/nix/temproots/{}", std::process::id()));
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(text, format!("/nix/store/{a}\0/nix/store/{b}\0"));
    assert!(fs::File::open(&file).unwrap().try_lock().is_err());
    drop(store);
    assert!(file.exists());
    drop(same);
    assert!(!file.exists());
}

#[test]
fn what_is_held_for_a_session_is_held_until_it_ends_and_by_it_alone() {
    let dir = Scratch::new();
    let store = open(&dir.join("root"));
    let files = || {
        fs::read_dir(dir.join("root/nix/var/nix/temproots"))
            .unwrap()
            .count()
    };
    let add = |name: &str| store.add_text(name, b"text", &none()).unwrap().path;
    let collect = || {
        let options = GcOptions::new(GcAction::DeleteDead);
        let report = store.collect_garbage(&options, &mut Unobserved).unwrap();
        assert!(report.failures.is_empty());
        store.all_valid_paths().unwrap()
    };
    let (one, two) = (store.session_roots(), store.session_roots());
    assert_eq!(files(), 0, "a session that holds nothing has no file");
    let of_one = {
        let _one = one.enter();
        let inner = {
            let _two = two.enter();
            add("two")
        };
        assert!(two.contains(&inner) && !one.contains(&inner));
        // Another thread of the same session.
        let roots = SessionRoots::of_thread().unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let _roots = roots.enter();
                let _process = SessionRoots::leave();
                add("process")
            });
            thread.join().unwrap();
        });
        add("one")
    };
    assert!(SessionRoots::of_thread().is_none());
    assert_eq!((one.count(), two.count(), files()), (1, 1, 3));
    assert_eq!(collect().len(), 3);
    drop(two);
    assert_eq!(files(), 2);
    assert_eq!(collect().len(), 2);
    {
        let _one = one.enter();
        store.add_temp_root(&of_one).unwrap();
    }
    drop(one);
    let left = collect();
    assert_eq!(left.len(), 1);
    assert_eq!(left.first().unwrap().name(), "process");
    assert_eq!(files(), 1);
}

#[test]
fn indirect_roots_have_nixs_name() {
    let dir = Scratch::new();
    let store = open(dir.path());
    let link = dir.join("result");
    store.add_indirect_root(&link).unwrap();
    store.add_indirect_root(&link).unwrap();
    let auto = dir.join("nix/var/nix/gcroots/auto");
    let entries: Vec<_> = fs::read_dir(auto).unwrap().map(Result::unwrap).collect();
    assert_eq!(entries.len(), 1);
    assert_eq!(fs::read_link(entries[0].path()).unwrap(), link);
    assert_eq!(entries[0].file_name().len(), 32);
}

#[test]
fn a_collector_that_is_at_work_is_told_of_a_new_root() {
    use std::io::{BufRead, BufReader, Write};

    let dir = Scratch::new();
    let store = open(dir.path());
    let state = dir.join("nix/var/nix");
    let gc_lock = fs::File::create(state.join("gc.lock")).unwrap();
    gc_lock.lock().unwrap();
    fs::create_dir(state.join("gc-socket")).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(state.join("gc-socket/socket")).unwrap();
    let path = scratch_path("root");
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            // The first collector ends without an answer, the second answers.
            drop(listener.accept().unwrap());
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap())
                .read_line(&mut line)
                .unwrap();
            stream.write_all(b"1").unwrap();
            line
        });
        store.add_temp_root(&path).unwrap();
        assert_eq!(collector.join().unwrap(), format!("/nix/store/{path}\n"));
    });
    let file = state.join(format!("temproots/{}", std::process::id()));
    assert_eq!(
        fs::read_to_string(file).unwrap(),
        format!("/nix/store/{path}\0")
    );
}

#[test]
fn files_are_added_as_real_trees_are_whatever_lies_in_their_place() {
    let dir = Scratch::new();
    let store = open(&dir.join("root"));
    let none = none();
    let object = |name, bytes| FileObject {
        name,
        method: ContentAddressMethod::Nar,
        bytes,
        nar: None,
        references: &none,
    };
    let objects = [
        object("a.h", b"int a;"),
        object("b.h", b""),
        object("c.h", b"int c;"),
    ];
    let infos = store.add_files(&objects).unwrap();
    for (object, info) in objects.iter().zip(&infos) {
        fs::write(dir.join(object.name), object.bytes).unwrap();
        let other = open(&dir.join("other"));
        let source = fs::File::open(dir.path()).unwrap();
        let added = other.add_tree(object.name, source.as_fd(), object.name.as_ref(), &none);
        assert_eq!(added.unwrap().path, info.path);
    }
    // What killed processes left: the whole file, a part of one, a directory.
    let paths = infos.iter().map(|info| info.path.clone()).collect();
    store.invalidate(&paths).unwrap();
    let place = |n: usize| store.physical_path(&infos[n].path);
    fs::remove_file(place(1)).unwrap();
    fs::create_dir(place(1)).unwrap();
    fs::set_permissions(place(2), fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(place(2), "int").unwrap();
    let again = store.add_files(&objects).unwrap();
    assert_eq!(again.len(), infos.len());
    for (object, info) in objects.iter().zip(&again) {
        assert_eq!(
            fs::read(store.physical_path(&info.path)).unwrap(),
            object.bytes
        );
    }
    assert_sound(&store);
}

#[test]
fn threads_that_add_the_same_files_do_not_disturb_each_other() {
    let dir = Scratch::new();
    let store = open(&dir.join("root"));
    let names: Vec<String> = (0..200).map(|n| format!("{n}.h")).collect();
    let none = none();
    std::thread::scope(|scope| {
        for first in 0..4 {
            let (store, names, none) = (&store, &names, &none);
            scope.spawn(move || {
                for chunk in names[first * 20..].chunks(30) {
                    let objects: Vec<_> = chunk
                        .iter()
                        .map(|name| FileObject {
                            name,
                            method: ContentAddressMethod::Nar,
                            bytes: name.as_bytes(),
                            nar: None,
                            references: none,
                        })
                        .collect();
                    for info in store.add_files(&objects).unwrap() {
                        let text = fs::read_to_string(store.physical_path(&info.path)).unwrap();
                        assert_eq!(text, info.path.name());
                    }
                }
            });
        }
    });
    assert_sound(&store);
}
