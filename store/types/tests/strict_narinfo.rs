//! What is a narinfo and what is none, with real Nix 2.34 as the judge: each text below is given
//! to `nix path-info` in a binary cache, and to us. Where there is no such Nix, it is skipped, and
//! says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use store_types::{NarInfo, StoreDir, StorePath};

const HASH: &str = "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";

fn narinfo(path: &StorePath) -> String {
    let (path, other) = (path.base_name(), "0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-a");
    format!(
        "StorePath: /nix/store/{path}\nURL: nar/x.nar\nCompression: none\nFileHash: {HASH}\n\
         FileSize: 5\nNarHash: {HASH}\nNarSize: 6\nReferences: {path} {other}\n\
         Deriver: {other}.drv\nSig: a:AAAA\nCA: fixed:r:{HASH}\n"
    )
}

/// What a line that begins so becomes; `None` takes it away. The path of the narinfo stands for
/// `PATH`.
const CHANGES: &[(&str, Option<&str>)] = &[
    ("StorePath", None),
    ("StorePath", Some("StorePath: PATH")),
    ("StorePath", Some("StorePath: /nix/store//PATH")),
    ("StorePath", Some("StorePath: /nix/store/PATH/")),
    ("StorePath", Some("StorePath: /gnu/store/PATH")),
    ("StorePath", Some("StorePath: ")),
    ("URL", None),
    ("URL", Some("URL: ")),
    ("URL", Some("URL: /etc/passwd")),
    ("URL", Some("URL:nar/x.nar")),
    ("Compression", None),
    ("Compression", Some("Compression: ")),
    ("Compression", Some("Compression: rot13")),
    ("FileHash", None),
    ("FileHash", Some("FileHash: ")),
    ("FileHash", Some("FileHash: x")),
    ("FileSize", None),
    ("FileSize", Some("FileSize: 0")),
    ("FileSize", Some("FileSize: -1")),
    ("FileSize", Some("FileSize: x")),
    ("FileSize", Some("FileSize: 18446744073709551616")),
    ("NarHash", None),
    ("NarHash", Some("NarHash: ")),
    (
        "NarHash",
        Some("NarHash: sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    ),
    (
        "NarHash",
        Some("NarHash: sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="),
    ),
    (
        "NarHash",
        Some("NarHash: 0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73"),
    ),
    ("NarHash", Some("NarHash: sha256:0mdqa9w1p6cmli")),
    ("NarHash", Some("NarHash: sha3:0mdqa9w1p6cmli")),
    ("NarSize", None),
    ("NarSize", Some("NarSize: 0")),
    ("NarSize", Some("NarSize: 6x")),
    ("NarSize", Some("NarSize:  6")),
    ("NarSize", Some("NarSize: +6")),
    ("NarSize", Some("NarSize: 0x6")),
    ("NarSize", Some("NarSize: 1\nNarSize: 2")),
    ("References", None),
    ("References", Some("References: ")),
    ("References", Some("References: PATH PATH")),
    ("References", Some("References:  PATH  PATH ")),
    ("References", Some("References: /nix/store/PATH")),
    ("References", Some("References: x")),
    ("References", Some("References: PATH\nReferences: PATH")),
    ("References", Some("References: \nReferences: PATH")),
    ("Deriver", None),
    ("Deriver", Some("Deriver: unknown-deriver")),
    ("Deriver", Some("Deriver: PATH")),
    ("Deriver", Some("Deriver: ")),
    ("Deriver", Some("Deriver: x")),
    ("Deriver", Some("Deriver: PATH\nDeriver: PATH")),
    ("Sig", None),
    ("Sig", Some("Sig: ")),
    ("Sig", Some("Sig: a")),
    ("Sig", Some("Sig: a:")),
    ("Sig", Some("Sig: :AAAA")),
    ("Sig", Some("Sig: a:!")),
    ("Sig", Some("Sig: a:AAAA\nSig: a:AAAA")),
    ("Sig", Some("Sig: a b:AAAA")),
    ("CA", None),
    ("CA", Some("CA: ")),
    ("CA", Some("CA: x")),
    ("CA", Some("CA: fixed:x")),
    ("CA", Some("CA: text:PATH")),
    ("CA", Some("CA: \nCA: ")),
    ("CA", Some("Unknown: x")),
    ("CA", Some("unknown")),
    ("CA", Some("")),
    ("CA", Some(": x")),
    ("CA", Some("CA:")),
    ("CA", Some("X: \u{fc}")),
    ("CA", Some("X: a\r")),
    ("CA", Some("X: y")),
];

/// What we refuse by design, and Nix takes.
const BY_DESIGN: &[&str] = &[
    // Other spellings of what has one.
    "StorePath: /nix/store//PATH",
    "StorePath: /nix/store/PATH/",
    "NarSize: +6",
];

/// `nix` of 2.34.
fn nix() -> Option<PathBuf> {
    let dirs = std::env::var_os("DROSTE_TEST_NIX_DIRS").unwrap_or_default();
    let found = std::env::split_paths(&dirs)
        .map(|dir| dir.join("nix"))
        .find(|program| {
            let version = Command::new(program).arg("--version").output();
            version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(" 2.34."))
        });
    if found.is_none() {
        eprintln!("skipped: DROSTE_TEST_NIX_DIRS has no `nix` of Nix 2.34");
    }
    found
}

fn nix_takes(program: &Path, dir: &Path, path: &StorePath) -> bool {
    Command::new(program)
        .args(["--extra-experimental-features", "nix-command", "path-info"])
        .arg("--store")
        .arg(format!("file://{}", dir.display()))
        .arg(StoreDir::default().display(path))
        .env("HOME", dir)
        .env_remove("NIX_REMOTE")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .success()
}

#[test]
fn what_nix_reads_from_a_cache_is_read_and_what_it_refuses_is_refused() {
    let Some(program) = nix() else { return };
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("nix-cache-info"), "StoreDir: /nix/store\n").unwrap();
    let store_dir = StoreDir::default();
    let path_of = |number: u8| StorePath::from_hash_and_name(&[number; 20], "x").unwrap();
    let plain = |number: u8| narinfo(&path_of(number));
    let mut cases = vec![
        ("plain".to_owned(), plain(0)),
        ("nothing".to_owned(), String::new()),
        ("no line end".to_owned(), plain(2).trim_end().to_owned()),
        (
            "line ends of another kind".to_owned(),
            plain(3).replace('\n', "\r\n"),
        ),
        ("empty line behind it".to_owned(), plain(4) + "\n"),
    ];
    for (key, line) in CHANGES {
        let number = u8::try_from(cases.len()).unwrap();
        let path = path_of(number);
        let text: String = plain(number)
            .lines()
            .filter_map(
                |present| match (present.starts_with(&format!("{key}:")), line) {
                    (false, _) => Some(format!("{present}\n")),
                    (true, None) => None,
                    (true, Some(line)) => Some(line.replace("PATH", path.base_name()) + "\n"),
                },
            )
            .collect();
        let name = line.map_or_else(|| format!("no {key}"), str::to_owned);
        cases.push((name, text));
    }
    let mut differences = Vec::new();
    for (number, (name, text)) in cases.iter().enumerate() {
        let path = path_of(u8::try_from(number).unwrap());
        let file = dir.path().join(format!("{}.narinfo", path.hash_part()));
        fs::write(file, text).unwrap();
        let theirs = nix_takes(&program, dir.path(), &path);
        // Nix refuses the narinfo of another path as well.
        let parsed = NarInfo::parse(&store_dir, text);
        let ours = parsed.as_ref().is_ok_and(|parsed| parsed.info.path == path);
        let is_by_design = BY_DESIGN.contains(&name.as_str());
        if ours != (theirs && !is_by_design) || (is_by_design && !theirs) {
            differences.push(format!("{name:?}: Nix {theirs}, ours {parsed:?}"));
        }
    }
    assert_eq!(differences, Vec::<String>::new());
}
