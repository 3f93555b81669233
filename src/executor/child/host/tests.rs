//! Against the compilers of the machine that runs the tests.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use store_types::StoreDir;

use super::*;

struct World {
    dir: tempfile::TempDir,
    store: LocalStore,
    compilers: HostCompilers,
    crashes: Crashes,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(&dir.path().join("root"), StoreDir::default()).unwrap();
    let compilers = HostCompilers::new(dir.path().join("host-compilers"));
    let crashes = Crashes::open(dir.path(), &dir.path().join("db")).unwrap();
    World {
        dir,
        store,
        compilers,
        crashes,
    }
}

impl World {
    fn destination(&self) -> Destination<'_> {
        Destination {
            store: &self.store,
            crashes: &self.crashes,
            diagnose: |text| eprintln!("{text}"),
        }
    }

    fn get(&self, program: &Path, path: &str) -> Result<Arc<HostCompiler>, InPlace> {
        let program = program.as_os_str().as_bytes();
        self.compilers
            .get(&self.destination(), program, path.as_bytes())
    }
}

const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The path of a program of the host that is a compiler's driver.
fn host_driver(name: &str) -> Option<PathBuf> {
    let path = PATH.split(':').map(|dir| Path::new(dir).join(name));
    let found = path.into_iter().find(|path| path.exists());
    let is_elf = |path: &PathBuf| std::fs::read(path).is_ok_and(|b| b.starts_with(b"\x7fELF"));
    let found = found.filter(is_elf);
    if found.is_none() {
        eprintln!("skipped: there is no driver `{name}` in {PATH}");
    }
    found
}

/// What a compiler of the host consists of; nothing is taken into a store.
fn parts(program: &Path, path: &str) -> (Parts, Members) {
    let mut members = Members::default();
    let program = program.as_os_str().as_bytes();
    let parts = find_parts(&mut members, program, path.as_bytes()).unwrap();
    (parts, members)
}

fn has(members: &Members, place: &Path) -> bool {
    members.nodes.contains_key(place.as_os_str().as_bytes())
}

fn answer(program: &Path, question: &str) -> PathBuf {
    let output = Command::new(program).arg(question).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    std::fs::canonicalize(text.trim()).unwrap()
}

#[test]
fn the_hosts_gcc_consists_of_all_that_it_runs() {
    let Some(gcc) = host_driver("gcc") else {
        return;
    };
    let (found, members) = parts(&gcc, PATH);
    assert_eq!(found.kind, HostKind::Gcc);
    assert!(found.name.starts_with("host-gcc-"));
    assert_eq!(
        std::fs::canonicalize(&gcc).unwrap().as_os_str().as_bytes(),
        found.real
    );
    for question in [
        "-print-prog-name=cc1",
        "-print-prog-name=collect2",
        "-print-prog-name=lto-wrapper",
        "-print-file-name=crtbegin.o",
        "-print-file-name=libgcc.a",
    ] {
        assert!(has(&members, &answer(&gcc, question)), "{question}");
    }
    // What programs are made from is no part of the compiler.
    let crt1 = answer(&gcc, "-print-file-name=crt1.o");
    for place in [Path::new("/usr/include/stdio.h"), &crt1] {
        assert!(!has(&members, place), "{place:?}");
    }
    if let Some(cxx) = host_driver("g++") {
        assert_eq!(parts(&cxx, PATH).1.nodes, members.nodes);
    }
}

#[test]
fn the_hosts_clang_consists_of_its_own_headers_too() {
    let Some(clang) = host_driver("clang") else {
        return;
    };
    let (found, members) = parts(&clang, PATH);
    assert_eq!(found.kind, HostKind::Clang);
    let header = answer(&clang, "-print-resource-dir").join("include/stddef.h");
    assert!(has(&members, &header));
}

#[test]
fn scripts_and_what_is_no_program_are_not_taken() {
    let world = world();
    let dir = world.dir.path();
    let file = |name: &str, text: &[u8]| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    symlink("loop", dir.join("loop")).unwrap();
    for (program, reason) in [
        (file("script", b"#!/bin/sh\nexec gcc \"$@\"\n"), "wrapper"),
        (file("text", b"hello"), "unknown-compiler"),
        (file("empty", b""), "unknown-compiler"),
        (file("damaged", b"\x7fELF\x02\x01"), "unknown-compiler"),
        (dir.to_owned(), "unknown-compiler"),
        (dir.join("loop"), "unknown-compiler"),
        (dir.join("missing"), "unknown-compiler"),
        (PathBuf::from("/dev/null"), "unknown-compiler"),
    ] {
        let answer = world.get(&program, PATH);
        assert_eq!(answer.unwrap_err().as_str(), reason, "{program:?}");
    }
}

/// A directory for what must not look as if it were a child's own `/tmp`.
fn host_dir() -> Option<tempfile::TempDir> {
    let root = option_env!("CARGO_TARGET_TMPDIR").unwrap_or("/var/tmp");
    let dir = tempfile::tempdir_in(root);
    if dir.is_err() {
        eprintln!("skipped: `{root}` cannot be written");
    }
    dir.ok()
}

#[test]
fn a_program_that_changes_is_taken_again_at_the_very_next_call() {
    let Some(dir) = host_dir() else {
        return;
    };
    let world = world();
    let program = dir.path().join("tool");
    std::fs::copy("/bin/true", &program).unwrap();
    let first = world.get(&program, PATH).unwrap();
    assert_eq!(first.kind, HostKind::Other);
    // The object mirrors the host's paths, and nothing that a child has besides lies in it.
    let place = first.real.strip_prefix(b"/").unwrap();
    let copy = world
        .store
        .physical_path(&first.store_path)
        .join(members::to_path(place));
    assert_eq!(
        std::fs::read(copy).unwrap(),
        std::fs::read(&program).unwrap()
    );
    for (path, _) in &first.links {
        let is_inside = |bind: &Bind| path.starts_with(&bind.path);
        assert!(!first.binds.iter().any(is_inside), "a link lies in a bind");
    }
    assert_eq!(
        world.get(&program, PATH).unwrap().store_path,
        first.store_path
    );
    // The same size, another content.
    let mut bytes = std::fs::read(&program).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&program, &bytes).unwrap();
    let second = world.get(&program, PATH).unwrap();
    assert_ne!(second.store_path, first.store_path);
    // Another file by the same name, through a link.
    let other = dir.path().join("other");
    std::fs::copy("/bin/false", &other).unwrap();
    std::fs::remove_file(&program).unwrap();
    symlink("other", &program).unwrap();
    let third = world.get(&program, PATH).unwrap();
    assert_ne!(third.store_path, second.store_path);
    assert!(third.links.iter().any(|(_, target)| target == b"other"));
    // The first content again is the first object again.
    std::fs::remove_file(&program).unwrap();
    std::fs::copy("/bin/true", &program).unwrap();
    assert_eq!(
        world.get(&program, PATH).unwrap().store_path,
        first.store_path
    );
    std::fs::remove_file(&program).unwrap();
    let gone = world.get(&program, PATH).unwrap_err();
    assert_eq!(gone.as_str(), "unknown-compiler");
}

#[test]
fn an_assembler_that_appears_earlier_in_path_is_noticed_and_is_a_part() {
    let (Some(gcc), Some(dir)) = (host_driver("gcc"), host_dir()) else {
        return;
    };
    let output = Command::new(&gcc)
        .arg("-print-prog-name=as")
        .output()
        .unwrap();
    if output.stdout != b"as\n" {
        eprintln!("skipped: this gcc does not look for `as` in PATH");
        return;
    }
    let own = dir.path().join("not-yet/bin");
    let path = format!("{}:{PATH}", own.display());
    let (before, members) = parts(&gcc, &path);
    assert!(members.facts.hold());
    std::fs::create_dir_all(&own).unwrap();
    std::fs::copy("/bin/true", own.join("as")).unwrap();
    assert!(!members.facts.hold());
    let (after, members) = parts(&gcc, &path);
    assert!(has(&members, &own.join("as")));
    assert!(after.path.starts_with(own.as_os_str().as_bytes()));
    assert!(!before.path.starts_with(own.as_os_str().as_bytes()));
}

#[test]
fn the_next_process_does_not_read_a_compiler_again_unless_its_object_is_gone() {
    let Some(dir) = host_dir() else {
        return;
    };
    let world = world();
    let program = dir.path().join("tool");
    std::fs::copy("/bin/true", &program).unwrap();
    let first = world.get(&program, PATH).unwrap();
    let record = std::fs::read_to_string(&world.compilers.record).unwrap();
    assert_eq!(record.lines().count(), 1);
    let next = HostCompilers::new(world.compilers.record.clone());
    let get = |compilers: &HostCompilers| {
        let program = program.as_os_str().as_bytes();
        compilers
            .get(&world.destination(), program, PATH.as_bytes())
            .unwrap()
    };
    assert_eq!(get(&next).store_path, first.store_path);
    let unchanged = std::fs::read_to_string(&world.compilers.record).unwrap();
    assert_eq!(unchanged, record, "it was imported again");
    // A damaged record is none, and a path that is not valid is made again.
    std::fs::write(&world.compilers.record, format!("rubbish\n{record}abc")).unwrap();
    let object = BTreeSet::from([first.store_path.clone()]);
    world.store.invalidate(&object).unwrap();
    let next = HostCompilers::new(world.compilers.record.clone());
    assert_eq!(get(&next).store_path, first.store_path);
    assert!(world.store.is_valid(&first.store_path).unwrap());
}
