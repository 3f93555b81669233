//! Databases of older Nixes, and stores that may not be written to.

mod common;

use std::fs;
use std::path::Path;

use common::*;
use rusqlite::Connection;
use store_local::{LocalError, LocalStore, LocalStoreConfig, Registration};
use store_types::{StoreDir, StorePath};

fn db(root: &Path) -> Connection {
    Connection::open(root.join("nix/var/nix/db/db.sqlite")).unwrap()
}

/// Makes the database of a store what it was when `schema` was the newest.
fn degrade(root: &Path, schema: u32) {
    let connection = db(root);
    let mut columns = Vec::new();
    if schema < 10 {
        columns.push("ca");
    }
    if schema < 8 {
        columns.extend(["sigs", "ultimate"]);
    }
    for column in columns {
        let statement = format!("alter table ValidPaths drop column {column}");
        connection.execute_batch(&statement).unwrap();
    }
    if schema < 9 {
        connection
            .execute_batch(
                "create table FailedPaths (path text primary key not null, time integer not null);
                 insert into FailedPaths values ('/nix/store/x', 1);",
            )
            .unwrap();
    }
    connection
        .execute_batch("drop trigger DeleteSelfRefsViaRealisations")
        .unwrap();
    for table in ["RealisationsRefs", "Realisations", "SchemaMigrations"] {
        connection
            .execute_batch(&format!("drop table {table}"))
            .unwrap();
    }
    let _ = fs::remove_file(root.join("nix/var/nix/db/ca-schema"));
    fs::write(root.join("nix/var/nix/db/schema"), schema.to_string()).unwrap();
}

/// The columns of all tables, and the rows of paths.
fn describe(root: &Path) -> Vec<String> {
    let connection = db(root);
    let mut described = Vec::new();
    for query in [
        "select m.name || '.' || c.name || ' ' || c.type from sqlite_master m
         join pragma_table_info(m.name) c where m.type = 'table' order by m.name, c.cid",
        "select name || ' on ' || tbl_name from sqlite_master
         where type in ('index', 'trigger') and sql is not null order by name",
        "select path || hash || narSize || quote(deriver) || quote(ultimate) || quote(sigs) || quote(ca)
         from ValidPaths order by path",
        "select migration from SchemaMigrations order by migration",
    ] {
        let mut statement = connection.prepare(query).unwrap();
        let rows = statement.query_map([], |row| row.get::<_, String>(0));
        described.extend(rows.unwrap().map(Result::unwrap));
    }
    described
}

/// A store with some paths, of this schema.
fn old_store(root: &Path, things: &Path, schema: u32) -> Vec<StorePath> {
    let store = open(root);
    write_tree(&things.join("tree"), "hello");
    let tree = add_tree(&store, &things.join("tree"), &none());
    let drv = store
        .add_text("x.drv", &derivation(store.store_dir()), &none())
        .unwrap();
    drop(store);
    degrade(root, schema);
    vec![tree.path, drv.path]
}

fn copy(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp")
        .args(["-a"])
        .args([from, to])
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn an_older_database_becomes_what_nix_makes_of_it() {
    for schema in 6..10 {
        let dir = Scratch::new();
        let root = dir.join("root");
        let paths = old_store(&root, dir.path(), schema);
        for (number, nix) in nix_dirs().into_iter().enumerate() {
            let theirs = dir.join(&format!("theirs-{number}"));
            let ours = dir.join(&format!("ours-{number}"));
            copy(&root, &theirs);
            copy(&root, &ours);
            let verify = ["nix-store", "--verify", "--check-contents"];
            run_nix(&nix, dir.path(), &theirs, &verify);
            drop(open(&ours));
            // What 2.34 has, and 2.8 has not.
            let is_newer = |line: &String| {
                line.starts_with("SchemaMigrations")
                    || line.starts_with("DeleteSelfRefsViaRealisations")
                    || line.starts_with("IndexRealisationsRefsRealisationReference")
                    || line.starts_with("20220326")
            };
            let described = |root| -> Vec<String> {
                let lines = describe(root).into_iter();
                lines.filter(|line| !is_newer(line)).collect()
            };
            // Made by 2.8 only in a file of its own.
            db(&theirs)
                .execute_batch("create table if not exists SchemaMigrations (migration text)")
                .unwrap();
            assert_eq!(described(&ours), described(&theirs), "{schema} {nix:?}");
            run_nix(&nix, dir.path(), &ours, &verify);
        }
        let store = open(&root);
        assert_eq!(
            store.all_valid_paths().unwrap(),
            paths.into_iter().collect()
        );
        assert_sound(&store);
        drop(store);
        let number = fs::read_to_string(root.join("nix/var/nix/db/schema")).unwrap();
        assert_eq!(number, "10");
    }
}

#[test]
fn an_upgrade_that_was_broken_off_goes_on() {
    let dir = Scratch::new();
    let root = dir.join("root");
    old_store(&root, dir.path(), 7);
    // All but the number.
    let connection = db(&root);
    connection
        .execute_batch(
            "alter table ValidPaths add column ultimate integer;
             alter table ValidPaths add column sigs text;
             drop table FailedPaths",
        )
        .unwrap();
    drop(connection);
    assert_sound(&open(&root));
}

#[test]
fn databases_before_sqlite_and_newer_ones_are_left_alone() {
    for (schema, advice) in [
        (4, "Nix 0.12"),
        (5, "Nix 1.11"),
        (11, "another store directory"),
    ] {
        let dir = Scratch::new();
        drop(open(dir.path()));
        let file = dir.join("nix/var/nix/db/schema");
        fs::write(&file, schema.to_string()).unwrap();
        let error = LocalStore::open(dir.path(), StoreDir::default()).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(&format!("schema {schema}")) && text.contains(advice),
            "{text}"
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), schema.to_string());
    }
}

#[test]
fn realisations_of_nix_2_4_are_taken_over() {
    let dir = Scratch::new();
    let root = dir.join("root");
    let paths = old_store(&root, dir.path(), 10);
    let hash = store_types::sha256(b"x").to_prefixed_hex();
    db(&root)
        .execute_batch(&format!(
            "create table Realisations (
                drvPath text not null, outputName text not null, outputPath integer not null,
                signatures text, primary key (drvPath, outputName),
                foreign key (outputPath) references ValidPaths(id) on delete cascade
             );
             insert into Realisations select '{hash}', 'out', id, null from ValidPaths limit 1"
        ))
        .unwrap();
    fs::write(root.join("nix/var/nix/db/ca-schema"), "1").unwrap();
    let store = open(&root);
    let id = format!("{hash}!out").parse().unwrap();
    let found = store.query_realisation(&id).unwrap().unwrap();
    assert!(paths.contains(&found.out_path));
    assert_sound(&store);
}

/// All files of a store with their times.
fn listing(root: &Path) -> Vec<String> {
    let output = std::process::Command::new("find")
        .arg(root)
        .args(["-printf", "%p %s %T@ %C@\n"])
        .output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_read_only_store_is_read_and_nothing_else() {
    let dir = Scratch::new();
    let root = dir.join("root");
    let store = open(&root);
    write_tree(&dir.join("tree"), "hello");
    let tree = add_tree(&store, &dir.join("tree"), &none());
    drop(store);
    let config = LocalStoreConfig {
        read_only: true,
        ..LocalStoreConfig::in_root(&root, StoreDir::default())
    };
    let before = listing(&root);
    let store = LocalStore::open_at(&config).unwrap();
    assert_eq!(store.path_info(&tree.path).unwrap().unwrap(), {
        let mut info = tree.clone();
        info.registration_time = store
            .path_info(&tree.path)
            .unwrap()
            .unwrap()
            .registration_time;
        info
    });
    store.add_temp_root(&tree.path).unwrap();
    assert!(store.verify(true).unwrap().problems.is_empty());
    let errors = [
        store.add_text("text", b"x", &none()).unwrap_err(),
        store
            .register(&[Registration::new(tree.clone())])
            .unwrap_err(),
        store.optimise(&mut |_| false).unwrap_err(),
        store.add_indirect_root(Path::new("/x")).unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, LocalError::ReadOnly { .. }), "{error:?}");
    }
    drop(store);
    assert_eq!(listing(&root), before);

    // One that would have to be changed first is not used.
    degrade(&root, 9);
    let error = LocalStore::open_at(&config).unwrap_err().to_string();
    assert!(error.contains("leave out `read-only`"), "{error}");
    let missing = LocalStoreConfig {
        read_only: true,
        ..LocalStoreConfig::in_root(&dir.join("missing"), StoreDir::default())
    };
    assert!(LocalStore::open_at(&missing).is_err());
    assert!(!dir.join("missing").exists());
}

#[test]
fn a_store_of_another_directory_is_not_mistaken() {
    let dir = Scratch::new();
    let other = StoreDir::new("/x/store").unwrap();
    let store = LocalStore::open(dir.path(), other.clone()).unwrap();
    store.add_text("text", b"x", &none()).unwrap();
    drop(store);
    let error = LocalStore::open(dir.path(), StoreDir::default()).unwrap_err();
    assert!(
        matches!(&error, LocalError::OtherStoreDir { found, .. } if found.starts_with("/x/store/")),
        "{error:?}"
    );
    assert_sound(&LocalStore::open(dir.path(), other).unwrap());
}

#[test]
fn a_tree_on_another_file_system_is_copied_into_the_store() {
    use std::ffi::OsStr;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;
    let dir = Scratch::new();
    let Ok(elsewhere) = tempfile::tempdir_in("/dev/shm") else {
        eprintln!("skipped: no /dev/shm");
        return;
    };
    if elsewhere.path().metadata().unwrap().dev() == dir.path().metadata().unwrap().dev() {
        eprintln!("skipped: /dev/shm is no other file system");
        return;
    }
    let store = open(&dir.join("root"));
    write_tree(&elsewhere.path().join("tree"), "hello");
    let parent = fs::File::open(elsewhere.path()).unwrap();
    store_local::canonicalise(parent.as_fd(), OsStr::new("tree"), None).unwrap();
    let (hash, _) = store_nar::dump_and_hash(parent.as_fd(), OsStr::new("tree")).unwrap();
    let path = scratch_path("moved");
    let locks = store.lock_paths(&[path.clone()].into()).unwrap();
    store
        .move_into_store(parent.as_fd(), OsStr::new("tree"), &path)
        .unwrap();
    drop(locks);
    let name = OsStr::new(path.base_name());
    let (moved, _) = store_nar::dump_and_hash(store.store_fd(), name).unwrap();
    assert_eq!(moved, hash);
    let stat = fs::metadata(store.physical_path(&path).join("file")).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.mtime()), (0o444, 1));
    store_nar::remove_tree(parent.as_fd(), OsStr::new("tree")).unwrap();
}
