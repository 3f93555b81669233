//! Trees of the file system: round trips, refusals, and real Nix as the judge.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use proptest::prelude::*;
use store_nar::{DEPTH_MAX, NarError, RestoreWriter, dump, dump_and_hash, remove_tree, restore};
use store_nar::{copy, git_hash_tree, rewrite_tree};
use store_types::HashAlgorithm;

fn open(path: &Path) -> fs::File {
    fs::File::open(path).unwrap()
}

fn dump_of(dir: &Path, name: &str) -> Result<Vec<u8>, NarError> {
    let mut bytes = Vec::new();
    dump(open(dir).as_fd(), OsStr::new(name), &mut bytes)?;
    Ok(bytes)
}

fn write(path: PathBuf, content: &[u8], mode: u32) {
    fs::write(&path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A tree with all there can be in one.
fn sample(dir: &Path) -> PathBuf {
    let tree = dir.join("tree");
    fs::create_dir_all(tree.join("sub/empty")).unwrap();
    write(tree.join("file"), b"content", 0o644);
    write(tree.join("padded"), b"12345678", 0o644);
    write(tree.join("empty"), b"", 0o644);
    write(tree.join("run"), b"#!/bin/sh\n", 0o755);
    write(tree.join("group-only"), b"not executable for Nix", 0o610);
    write(tree.join("sub/large"), &vec![7; 300_001], 0o600);
    symlink("../file", tree.join("sub/link")).unwrap();
    symlink("x".repeat(4000), tree.join("long-link")).unwrap();
    let odd = OsString::from_vec(b"\xff\xfe name".to_vec());
    fs::write(tree.join(odd), b"odd").unwrap();
    for name in ["A", "a", "a.b", "a-b", "ab", "Z"] {
        fs::write(tree.join(name), name).unwrap();
    }
    tree
}

fn commands(name: &str) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> =
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    dirs.extend(
        std::env::var_os("DROSTE_TEST_NIX_DIRS")
            .iter()
            .flat_map(std::env::split_paths),
    );
    let mut found: Vec<PathBuf> = dirs
        .into_iter()
        .map(|dir| dir.join(name))
        .filter(|path| path.exists())
        .collect();
    found.dedup();
    if found.is_empty() {
        eprintln!("skipped: no `{name}` on the PATH or in DROSTE_TEST_NIX_DIRS");
    }
    found
}

#[test]
fn a_restored_tree_has_the_same_archive_and_a_stores_modes_and_times() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path());
    let bytes = dump_of(dir.path(), "tree").unwrap();
    let count = restore(
        &mut &bytes[..],
        open(dir.path()).as_fd(),
        OsStr::new("copy"),
    )
    .unwrap();
    assert_eq!(count, bytes.len() as u64);
    assert_eq!(dump_of(dir.path(), "copy").unwrap(), bytes);
    for (name, mode) in [
        ("", 0o555),
        ("sub", 0o555),
        ("file", 0o444),
        ("run", 0o555),
        ("group-only", 0o444),
        ("sub/link", 0o777),
    ] {
        let found = fs::symlink_metadata(dir.path().join("copy").join(name)).unwrap();
        assert_eq!((found.mode() & 0o7777, found.mtime()), (mode, 1), "{name}");
    }
    let error = restore(
        &mut &bytes[..],
        open(dir.path()).as_fd(),
        OsStr::new("copy"),
    );
    assert!(
        matches!(error, Err(NarError::Io { .. })),
        "nothing is overwritten"
    );
}

#[test]
fn an_archive_written_in_pieces_is_restored_like_one_that_is_read() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path());
    let bytes = dump_of(dir.path(), "tree").unwrap();
    for cut in [1, 7, 8, 100, 65536] {
        let parent = open(dir.path());
        let name = format!("copy-{cut}");
        let mut writer = RestoreWriter::new(parent.as_fd(), OsStr::new(&name));
        for piece in bytes.chunks(cut) {
            writer.write_all(piece).unwrap();
        }
        writer.finish().unwrap();
        assert_eq!(dump_of(dir.path(), &name).unwrap(), bytes);
    }
    let parent = open(dir.path());
    let mut writer = RestoreWriter::new(parent.as_fd(), OsStr::new("half"));
    writer.write_all(&bytes[..bytes.len() - 1]).unwrap();
    assert!(writer.finish().is_err());
    let mut writer = RestoreWriter::new(parent.as_fd(), OsStr::new("more"));
    assert!(writer.write_all(&[&bytes[..], b"x"].concat()).is_err());
}

#[test]
fn nodes_a_store_cannot_hold_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("tree/sub")).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(dir.path().join("tree/sub/s")).unwrap();
    let error = dump_of(dir.path(), "tree").unwrap_err().to_string();
    assert!(
        error.contains("`tree/sub/s` has an unsupported type: it is a socket"),
        "{error}"
    );
    drop(socket);
    fs::remove_file(dir.path().join("tree/sub/s")).unwrap();
    let pipe = dir.path().join("tree/pipe");
    assert!(Command::new("mkfifo").arg(pipe).status().unwrap().success());
    let error = dump_of(dir.path(), "tree").unwrap_err().to_string();
    assert!(
        error.contains("`tree/pipe` has an unsupported type: it is a named pipe"),
        "{error}"
    );
}

#[test]
fn trees_are_dumped_as_deep_as_they_can_be_restored() {
    let dir = tempfile::tempdir().unwrap();
    let deep = |count: usize| dir.path().join(vec!["d"; count].join("/"));
    fs::create_dir_all(deep(DEPTH_MAX)).unwrap();
    let bytes = dump_of(dir.path(), "d").unwrap();
    copy(&mut &bytes[..], &mut std::io::sink()).unwrap();
    let too_deep = || matches!(dump_of(dir.path(), "d"), Err(NarError::TooDeep { .. }));
    fs::create_dir(deep(DEPTH_MAX + 1)).unwrap();
    assert!(too_deep());
    fs::remove_dir(deep(DEPTH_MAX + 1)).unwrap();
    fs::write(deep(DEPTH_MAX + 1), "").unwrap();
    assert!(too_deep());
}

#[test]
fn a_tree_is_removed_however_deep_and_unreadable_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let parent = open(dir.path());
    // Deeper than a path can be long: made by moving trees into one another.
    let chain = vec!["d"; 500].join("/");
    fs::create_dir_all(dir.path().join("tree").join(&chain)).unwrap();
    for i in 0..20 {
        let outer = dir.path().join(format!("outer-{i}"));
        fs::create_dir_all(outer.join(&chain)).unwrap();
        fs::write(outer.join("f"), "").unwrap();
        fs::rename(dir.path().join("tree"), outer.join(&chain).join("tree")).unwrap();
        fs::rename(outer, dir.path().join("tree")).unwrap();
    }
    for (name, mode) in [("locked", 0o000), ("read-only", 0o555)] {
        let inner = dir.path().join("tree").join(name);
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("f"), "").unwrap();
        fs::set_permissions(&inner, fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::create_dir(dir.path().join("elsewhere")).unwrap();
    fs::write(dir.path().join("elsewhere/kept"), "").unwrap();
    symlink("../elsewhere", dir.path().join("tree/link")).unwrap();
    fs::create_dir(dir.path().join("tree/.lifted-0")).unwrap();

    remove_tree(parent.as_fd(), OsStr::new("tree")).unwrap();
    assert!(!dir.path().join("tree").exists());
    assert!(dir.path().join("elsewhere/kept").exists());
    remove_tree(parent.as_fd(), OsStr::new("tree")).unwrap();
    symlink("elsewhere", dir.path().join("link")).unwrap();
    remove_tree(parent.as_fd(), OsStr::new("link")).unwrap();
    assert!(dir.path().join("elsewhere/kept").exists());
}

/// CVE-2025-46415: who may write to what is removed exchanges directories for links meanwhile.
#[test]
fn a_tree_that_changes_while_it_is_removed_leads_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let precious = dir.path().join("elsewhere/sub/sub/f");
    fs::create_dir_all(precious.parent().unwrap()).unwrap();
    fs::write(&precious, "precious").unwrap();
    let parent = open(dir.path());
    let (tree, aside) = (dir.path().join("tree"), dir.path().join("aside"));
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Each step fails when the other one was there first.
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = fs::rename(tree.join("sub"), &aside);
                let _ = symlink("../elsewhere/sub", tree.join("sub"));
                let _ = fs::remove_file(tree.join("sub"));
                let _ = fs::rename(&aside, tree.join("sub"));
                let _ = fs::rename(tree.join("sub/sub"), &aside);
                let _ = symlink("../../elsewhere/sub", tree.join("sub/sub"));
                let _ = fs::remove_dir_all(&aside);
            }
        });
        for _ in 0..300 {
            let _ = fs::create_dir_all(tree.join("sub/sub/sub"));
            let _ = fs::File::create_new(tree.join("sub/sub/g"));
            // It may fail; it may not go elsewhere.
            let _ = remove_tree(parent.as_fd(), OsStr::new("tree"));
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(fs::read(&precious).unwrap(), b"precious");
}

#[test]
fn contents_links_and_names_are_rewritten_alike() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("old-name"), "an old word, an old wo").unwrap();
    symlink("old-name", tree.join("zlink")).unwrap();
    let parent = open(dir.path());
    let (hash, size, count) = rewrite_tree(
        parent.as_fd(),
        OsStr::new("tree"),
        parent.as_fd(),
        OsStr::new("copy"),
        [(b"old".to_vec(), b"new".to_vec())],
    )
    .unwrap();
    assert_eq!(count, 4);
    let copy = dir.path().join("copy");
    assert_eq!(
        fs::read_to_string(copy.join("zlink")).unwrap(),
        "an new word, an new wo"
    );
    assert_eq!(
        dump_and_hash(parent.as_fd(), OsStr::new("copy")).unwrap(),
        (hash, size)
    );
}

#[test]
fn real_nix_dumps_hashes_and_restores_the_same() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path());
    let bytes = dump_of(dir.path(), "tree").unwrap();
    for nix_store in commands("nix-store") {
        let output = Command::new(&nix_store)
            .args(["--dump", "tree"])
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{nix_store:?}: {output:?}");
        assert!(output.stdout == bytes, "{nix_store:?} dumps other bytes");
        let _ = remove_tree(open(dir.path()).as_fd(), OsStr::new("restored"));
        let mut child = Command::new(&nix_store)
            .args(["--restore", "restored"])
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(dump_of(dir.path(), "restored").unwrap(), bytes);
    }
    let (hash, _) = dump_and_hash(open(dir.path()).as_fd(), OsStr::new("tree")).unwrap();
    for nix_hash in commands("nix-hash") {
        let output = Command::new(&nix_hash)
            .args(["--type", "sha256", "tree"])
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8(output.stdout).unwrap().trim(),
            hash.to_hex()
        );
    }
}

#[derive(Clone, Debug)]
enum Node {
    File(Vec<u8>, bool),
    Link(String),
    Directory(Vec<(Vec<u8>, Node)>),
}

fn make(path: &Path, node: &Node) {
    match node {
        Node::File(content, executable) => write(
            path.to_owned(),
            content,
            if *executable { 0o755 } else { 0o644 },
        ),
        Node::Link(target) => symlink(target, path).unwrap(),
        Node::Directory(entries) => {
            fs::create_dir(path).unwrap();
            for (name, node) in entries {
                let place = path.join(OsString::from_vec(name.clone()));
                if place.symlink_metadata().is_err() {
                    make(&place, node);
                }
            }
        }
    }
}

fn any_node() -> impl Strategy<Value = Node> {
    let name = proptest::collection::vec(
        any::<u8>().prop_filter("not in names", |byte| !b"\0/".contains(byte)),
        1..12,
    )
    .prop_filter("not a name", |name| name != b"." && name != b"..");
    let leaf = prop_oneof![
        (proptest::collection::vec(any::<u8>(), 0..40), any::<bool>())
            .prop_map(|(content, executable)| Node::File(content, executable)),
        "[a-z/.]{1,20}".prop_map(Node::Link),
    ];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        proptest::collection::vec((name.clone(), inner), 0..6).prop_map(Node::Directory)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_tree_comes_back_from_its_archive(node in any_node()) {
        let dir = tempfile::tempdir().unwrap();
        make(&dir.path().join("tree"), &node);
        let bytes = dump_of(dir.path(), "tree").unwrap();
        let parent = open(dir.path());
        restore(&mut &bytes[..], parent.as_fd(), OsStr::new("copy")).unwrap();
        prop_assert_eq!(&dump_of(dir.path(), "copy").unwrap(), &bytes);
        let mut passed = Vec::new();
        copy(&mut &bytes[..], &mut passed).unwrap();
        prop_assert_eq!(passed, bytes);
        remove_tree(parent.as_fd(), OsStr::new("copy")).unwrap();
    }

    #[test]
    fn a_damaged_archive_is_an_error_or_a_sound_tree(
        node in any_node(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let dir = tempfile::tempdir().unwrap();
        make(&dir.path().join("tree"), &node);
        let mut bytes = dump_of(dir.path(), "tree").unwrap();
        for (index, value) in damage {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        fs::create_dir(dir.path().join("inside")).unwrap();
        let parent = open(&dir.path().join("inside"));
        if let Ok(count) = restore(&mut &bytes[..], parent.as_fd(), OsStr::new("copy")) {
            let again = dump_of(&dir.path().join("inside"), "copy").unwrap();
            prop_assert_eq!(again, &bytes[..count as usize]);
        }
    }
}

/// Runs a program that must succeed; its standard output without the line's end.
fn output_of(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn git_hashes_a_tree_as_we_do() {
    if commands("git").is_empty() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tree = sample(dir.path());
    // What git orders otherwise than a NAR: a directory among files that begin alike.
    fs::create_dir(tree.join("a.d")).unwrap();
    fs::write(tree.join("a.d/x"), b"in a directory").unwrap();
    fs::write(tree.join("a.d-"), b"before it").unwrap();
    fs::write(tree.join("a.d0"), b"after it").unwrap();
    // It has no empty directories.
    fs::remove_dir(tree.join("sub/empty")).unwrap();
    let git = |format: &str, arguments: &[&str]| {
        let mut command = Command::new("git");
        command
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .arg("--git-dir")
            .arg(dir.path().join(format))
            .arg("--work-tree")
            .arg(&tree)
            .args(["-c", "core.autocrlf=false"])
            .args(arguments);
        output_of(&mut command)
    };
    for algorithm in [HashAlgorithm::Sha1, HashAlgorithm::Sha256] {
        let name = algorithm.name();
        git(name, &["init", "-q", &format!("--object-format={name}")]);
        git(name, &["add", "-A"]);
        let ours = |dir: &Path, name: &str| {
            git_hash_tree(open(dir).as_fd(), OsStr::new(name), algorithm)
                .unwrap()
                .to_hex()
        };
        assert_eq!(ours(dir.path(), "tree"), git(name, &["write-tree"]));
        let file = tree.join("run");
        let file = file.to_str().unwrap();
        assert_eq!(ours(&tree, "run"), git(name, &["hash-object", file]));
    }
}

#[test]
fn nix_hashes_a_tree_as_we_do_for_git() {
    let dir = tempfile::tempdir().unwrap();
    let tree = sample(dir.path());
    for nix in commands("nix") {
        let version = output_of(Command::new(&nix).arg("--version"));
        if version.contains(" 2.8") {
            eprintln!("skipped: {version} has no git hashing");
            continue;
        }
        for (name, algorithm) in [
            ("sha1", HashAlgorithm::Sha1),
            ("sha256", HashAlgorithm::Sha256),
        ] {
            for path in [
                "tree",
                "tree/run",
                "tree/file",
                "tree/sub",
                "tree/sub/empty",
                "tree/sub/link",
            ] {
                let path = dir.path().join(path);
                let theirs = output_of(
                    Command::new(&nix)
                        .env("HOME", dir.path())
                        .args(["--extra-experimental-features", "nix-command git-hashing"])
                        .args([
                            "hash", "path", "--mode", "git", "--format", "base16", "--algo", name,
                        ])
                        .arg(&path),
                );
                let parent = open(path.parent().unwrap());
                let ours = git_hash_tree(parent.as_fd(), path.file_name().unwrap(), algorithm);
                assert_eq!(ours.unwrap().to_hex(), theirs, "{}", tree.display());
            }
        }
    }
}

#[test]
fn git_hashes_by_no_other_algorithm() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path());
    let error = git_hash_tree(
        open(dir.path()).as_fd(),
        OsStr::new("tree"),
        HashAlgorithm::Blake3,
    );
    assert!(matches!(
        error,
        Err(NarError::GitAlgorithm {
            algorithm: "blake3"
        })
    ));
}
