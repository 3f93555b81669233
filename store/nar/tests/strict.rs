//! What is an archive and what is none, with real Nix 2.34 as the judge: each archive below is
//! given to `nix-store --restore` and to us. Where there is no such Nix, it is skipped, and says
//! so.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use store_nar::{DEPTH_MAX, NAME_LEN_MAX, TARGET_LEN_MAX, restore};

/// Words as an archive has them.
fn words<T: AsRef<[u8]>>(words: impl IntoIterator<Item = T>) -> Vec<u8> {
    let mut out = Vec::new();
    for word in words {
        let word = word.as_ref();
        out.extend((word.len() as u64).to_le_bytes());
        out.extend(word);
        out.resize(out.len().next_multiple_of(8), 0);
    }
    out
}

fn archive(node: &[&[u8]]) -> Vec<u8> {
    words([&[&b"nix-archive-1"[..]], node].concat())
}

/// A file with these words between its type and its end.
fn file(inside: &[&str]) -> Vec<u8> {
    let inside = inside.iter().map(|word| word.as_bytes());
    let node: Vec<&[u8]> = [&b"("[..], b"type", b"regular"]
        .into_iter()
        .chain(inside)
        .chain([&b")"[..]])
        .collect();
    archive(&node)
}

fn link(target: &[u8]) -> Vec<u8> {
    archive(&[b"(", b"type", b"symlink", b"target", target, b")"])
}

/// A directory of empty files with these names.
fn directory(names: &[&[u8]]) -> Vec<u8> {
    let mut node: Vec<&[u8]> = vec![b"(", b"type", b"directory"];
    for name in names {
        node.extend([&b"entry"[..], b"(", b"name", name, b"node"]);
        node.extend([&b"("[..], b"type", b"regular", b"contents", b"", b")", b")"]);
    }
    node.push(b")");
    archive(&node)
}

/// A directory with one entry of these words.
fn entry(inside: &[&str]) -> Vec<u8> {
    let mut node: Vec<&[u8]> = vec![b"(", b"type", b"directory", b"entry", b"("];
    node.extend(inside.iter().map(|word| word.as_bytes()));
    node.extend([&b")"[..], b")"]);
    archive(&node)
}

const EMPTY: [&str; 5] = ["(", "type", "directory", ")", ""];

fn nested(depth: usize) -> Vec<u8> {
    around(depth - 1, &[b"(", b"type", b"directory", b")"])
}

const FILE: &[&[u8]] = &[b"(", b"type", b"regular", b"contents", b"x", b")"];
const LINK: &[&[u8]] = &[b"(", b"type", b"symlink", b"target", b"x", b")"];

/// A node in so many directories.
fn around(depth: usize, inner: &[&[u8]]) -> Vec<u8> {
    let mut node: Vec<&[u8]> = Vec::new();
    for _ in 0..depth {
        node.extend([&b"("[..], b"type", b"directory", b"entry", b"("]);
        node.extend([&b"name"[..], b"d", b"node"]);
    }
    node.extend(inner);
    for _ in 0..depth {
        node.extend([&b")"[..], b")"]);
    }
    archive(&node)
}

/// An archive with the byte at the first place of a pattern, plus some, changed.
fn damaged(mut archive: Vec<u8>, pattern: &[u8], plus: usize) -> Vec<u8> {
    let at = archive
        .windows(pattern.len())
        .position(|part| part == pattern)
        .unwrap();
    archive[at + plus] ^= 1;
    archive
}

fn archives() -> Vec<(&'static str, Vec<u8>)> {
    let plain = || file(&["contents", "text"]);
    let node = &EMPTY[..4];
    let with_node = |before: &[&'static str], after: &[&'static str]| {
        entry(&[before, &["node"], node, after].concat())
    };
    vec![
        ("file", plain()),
        ("empty file", file(&["contents", ""])),
        ("executable", file(&["executable", "", "contents", "text"])),
        ("link", link(b"target")),
        ("directory", directory(&[b"a", b"b"])),
        ("empty directory", directory(&[])),
        ("nothing", Vec::new()),
        ("other version", damaged(plain(), b"nix-archive-1", 12)),
        (
            "length of the version",
            damaged(plain(), b"nix-archive-1", 13),
        ),
        ("something behind", [plain(), b"more".to_vec()].concat()),
        ("another archive behind", [plain(), plain()].concat()),
        ("cut", plain()[..plain().len() - 8].to_vec()),
        ("cut in a word", plain()[..plain().len() - 7].to_vec()),
        ("padding of a word", damaged(plain(), b"regular", 7)),
        ("padding of contents", damaged(plain(), b"text", 5)),
        (
            "padding of a name",
            damaged(directory(&[b"name-of-it"]), b"name-of-it", 12),
        ),
        (
            "padding of a target",
            damaged(link(b"target-of-it"), b"target-of-it", 13),
        ),
        (
            "value of executable",
            file(&["executable", "x", "contents", "text"]),
        ),
        (
            "executable twice",
            file(&["executable", "", "executable", "", "contents", "x"]),
        ),
        (
            "executable behind contents",
            file(&["contents", "x", "executable", ""]),
        ),
        ("executable without contents", file(&["executable", ""])),
        ("contents twice", file(&["contents", "x", "contents", "y"])),
        ("no contents", file(&[])),
        (
            "unknown word in a file",
            file(&["mode", "x", "contents", "x"]),
        ),
        ("target in a file", file(&["contents", "x", "target", "x"])),
        ("type twice", file(&["type", "regular", "contents", "x"])),
        ("no type", archive(&[b"(", b"contents", b"x", b")"])),
        ("unknown type", archive(&[b"(", b"type", b"fifo", b")"])),
        (
            "no parenthesis",
            archive(&[b"type", b"regular", b"contents", b"x"]),
        ),
        (
            "link without target",
            archive(&[b"(", b"type", b"symlink", b")"]),
        ),
        (
            "contents in a link",
            archive(&[b"(", b"type", b"symlink", b"contents", b"x", b")"]),
        ),
        ("empty target", link(b"")),
        ("null byte in a target", link(b"a\0b")),
        ("longest target", link(&[b'x'; TARGET_LEN_MAX])),
        ("too long target", link(&[b'x'; TARGET_LEN_MAX + 1])),
        ("absolute target", link(b"/etc/passwd")),
        ("empty name", directory(&[b""])),
        ("dot", directory(&[b"."])),
        ("dots", directory(&[b".."])),
        ("three dots", directory(&[b"..."])),
        ("slash in a name", directory(&[b"a/b"])),
        ("slash before a name", directory(&[b"/a"])),
        ("null byte in a name", directory(&[b"a\0b"])),
        ("name that is no text", directory(&[b"\xff\n"])),
        ("longest name", directory(&[&[b'x'; NAME_LEN_MAX]])),
        ("too long name", directory(&[&[b'x'; NAME_LEN_MAX + 1]])),
        ("unsorted", directory(&[b"b", b"a"])),
        ("twice", directory(&[b"a", b"a"])),
        ("sorted as bytes", directory(&[b"A", b"a", b"\xc3\xbc"])),
        ("not sorted as bytes", directory(&[b"a", b"A"])),
        ("prefix first", directory(&[b"a", b"a.", b"aa"])),
        ("prefix last", directory(&[b"aa", b"a"])),
        ("deepest", nested(DEPTH_MAX)),
        ("too deep", nested(DEPTH_MAX + 1)),
        ("much too deep", nested(100_000)),
        ("deepest file", around(DEPTH_MAX - 1, FILE)),
        ("too deep file", around(DEPTH_MAX, FILE)),
        ("deepest link", around(DEPTH_MAX - 1, LINK)),
        ("too deep link", around(DEPTH_MAX, LINK)),
        ("entry", with_node(&["name", "a"], &[])),
        ("entry without a name", with_node(&[], &[])),
        ("entry without a node", entry(&["name", "a"])),
        ("empty entry", entry(&[])),
        (
            "node before name",
            entry(&[&["node"], node, &["name", "a"]].concat()),
        ),
        ("name twice", with_node(&["name", "a", "name", "b"], &[])),
        (
            "node twice",
            entry(&[&["name", "a", "node"], node, &["node"], node].concat()),
        ),
        (
            "unknown word in an entry",
            with_node(&["name", "a", "x", "y"], &[]),
        ),
        (
            "word behind the node of an entry",
            with_node(&["name", "a"], &["x"]),
        ),
        (
            "unknown word in a directory",
            archive(&[b"(", b"type", b"directory", b"x", b")"]),
        ),
        ("contents without an end", {
            let mut archive = words(["nix-archive-1", "(", "type", "regular", "contents"]);
            archive.extend(u64::MAX.to_le_bytes());
            archive
        }),
        ("contents of nearly 2^64 bytes", {
            let mut archive = words(["nix-archive-1", "(", "type", "regular", "contents"]);
            archive.extend((u64::MAX - 7).to_le_bytes());
            archive.extend(b"text\0\0\0\0");
            archive
        }),
        ("name of nearly 2^64 bytes", {
            let begin = [
                "nix-archive-1",
                "(",
                "type",
                "directory",
                "entry",
                "(",
                "name",
            ];
            let mut archive = words(begin);
            archive.extend((u64::MAX - 7).to_le_bytes());
            archive
        }),
    ]
}

/// What we refuse by design, and Nix takes.
const BY_DESIGN: [&str; 0] = [];

/// `nix-store` of 2.34, which has the limits that ours are from.
fn nix_store() -> Option<PathBuf> {
    let dirs = std::env::var_os("DROSTE_TEST_NIX_DIRS").unwrap_or_default();
    let found = std::env::split_paths(&dirs)
        .map(|dir| dir.join("nix-store"))
        .find(|program| {
            let version = Command::new(program).arg("--version").output();
            version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(" 2.34."))
        });
    if found.is_none() {
        eprintln!("skipped: DROSTE_TEST_NIX_DIRS has no `nix-store` of Nix 2.34");
    }
    found
}

fn nix_takes(program: &Path, home: &Path, archive: &[u8], to: &Path) -> bool {
    let mut child = Command::new(program)
        .arg("--restore")
        .arg(to)
        .env("HOME", home)
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // It may have seen enough.
    let _ = child.stdin.take().unwrap().write_all(archive);
    child.wait().unwrap().success()
}

#[test]
fn what_nix_restores_is_restored_and_what_it_refuses_is_refused() {
    let Some(program) = nix_store() else { return };
    let dir = tempfile::tempdir().unwrap();
    let parent = File::open(dir.path()).unwrap();
    let mut differences = Vec::new();
    for (number, (name, archive)) in archives().into_iter().enumerate() {
        let theirs = dir.path().join(format!("theirs-{number}"));
        let is_theirs = nix_takes(&program, dir.path(), &archive, &theirs);
        let ours = format!("ours-{number}");
        let restored = restore(&mut &archive[..], parent.as_fd(), OsStr::new(&ours));
        let wanted = is_theirs && !BY_DESIGN.contains(&name);
        if restored.is_ok() != wanted || (BY_DESIGN.contains(&name) && !is_theirs) {
            differences.push(format!("{name}: Nix {is_theirs}, ours {restored:?}"));
        }
        if restored.is_ok() {
            let mut dumped = Vec::new();
            store_nar::dump(parent.as_fd(), OsStr::new(&ours), &mut dumped).unwrap();
            assert_eq!(dumped, archive[..dumped.len()], "{name}");
        }
    }
    assert_eq!(differences, Vec::<String>::new());
}
