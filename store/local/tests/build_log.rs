//! Logs of builds: written, compressed or not, and read again.

mod common;

use std::fs;
use std::io::{Read, Write};

use common::*;
use store_local::{LocalError, LocalStore};
use store_types::StorePath;

fn drv() -> StorePath {
    scratch_path("x.drv")
}

fn read(store: &LocalStore, drv: &StorePath) -> Option<String> {
    let mut text = String::new();
    let mut log = store.build_log(drv).unwrap()?;
    log.read_to_string(&mut text).unwrap();
    Some(text)
}

fn write(store: &LocalStore, text: &str, compress: bool) {
    let mut log = store.create_build_log(&drv(), compress).unwrap();
    log.write_all(text.as_bytes()).unwrap();
    log.finish().unwrap();
}

/// The names of the logs that are there.
fn names(store: &LocalStore) -> Vec<String> {
    let drv = drv();
    let dir = store.log_dir().join("drvs").join(&drv.base_name()[..2]);
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn the_newest_log_is_read_and_the_others_are_gone() {
    let root = Scratch::new();
    let store = open(root.path());
    assert_eq!(read(&store, &drv()), None);
    let rest = drv().base_name()[2..].to_owned();
    for (text, compress) in [("one\n", true), ("two\n", false), ("three\n", true)] {
        write(&store, text, compress);
        assert_eq!(read(&store, &drv()).as_deref(), Some(text));
        let name = match compress {
            true => format!("{rest}.bz2"),
            false => rest.clone(),
        };
        assert_eq!(names(&store), [name]);
    }
}

#[test]
fn compressed_logs_of_any_length_are_read_again() {
    let root = Scratch::new();
    let store = open(root.path());
    for len in [0, 1, 99_990, 100_000, 100_001, 1_000_003] {
        let text: String = ('a'..='z').cycle().take(len).collect();
        for is_dropped in [false, true] {
            let mut log = store.create_build_log(&drv(), true).unwrap();
            for part in text.as_bytes().chunks(999) {
                log.write_all(part).unwrap();
            }
            match is_dropped {
                true => drop(log),
                false => log.finish().unwrap(),
            }
            assert!(read(&store, &drv()) == Some(text.clone()), "{len} bytes");
            // Nix writes an empty stream, too, where nothing was said.
            let file = store.log_dir().join("drvs").join(&drv().base_name()[..2]);
            let bytes = fs::read(file.join(&names(&store)[0])).unwrap();
            assert!(bytes.starts_with(b"BZh"), "{len} bytes");
        }
    }
}

#[test]
fn a_log_of_somebody_else_is_kept_if_there_is_none() {
    let root = Scratch::new();
    let store = open(root.path());
    let long = "line\n".repeat(200_000);
    store.add_build_log(&drv(), &mut long.as_bytes()).unwrap();
    assert_eq!(read(&store, &drv()).as_ref(), Some(&long));
    store
        .add_build_log(&drv(), &mut "other".as_bytes())
        .unwrap();
    assert_eq!(read(&store, &drv()), Some(long));
    assert_eq!(names(&store).len(), 1);
}

#[test]
fn a_log_that_breaks_off_is_not_kept() {
    struct Breaks;
    impl Read for Breaks {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::ConnectionReset.into())
        }
    }
    let root = Scratch::new();
    let store = open(root.path());
    let error = store.add_build_log(&drv(), &mut Breaks).unwrap_err();
    assert!(matches!(error, LocalError::Io { .. }), "{error}");
    assert_eq!(read(&store, &drv()), None);
    assert!(names(&store).is_empty());
}

#[test]
fn a_link_in_the_place_of_a_log_is_not_followed() {
    let root = Scratch::new();
    let store = open(root.path());
    write(&store, "log", true);
    let precious = root.join("precious");
    fs::write(&precious, "precious").unwrap();
    let dir = store.log_dir().join("drvs").join(&drv().base_name()[..2]);
    let file = dir.join(&names(&store)[0]);
    fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink(&precious, &file).unwrap();
    assert!(store.build_log(&drv()).is_err());
    write(&store, "log", true);
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    assert_eq!(read(&store, &drv()).as_deref(), Some("log"));
}

#[test]
fn logs_of_the_first_nix_are_found() {
    let root = Scratch::new();
    let store = open(root.path());
    let dir = store.log_dir().join("drvs");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join(drv().base_name()), "old").unwrap();
    assert_eq!(read(&store, &drv()).as_deref(), Some("old"));
}
