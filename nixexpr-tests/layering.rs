//! The edges between crates are those of `docs/adr/0001-layout-and-edges.md`, and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Each crate's folder, its name, and the crates of ours that it may use. A new edge is
/// a new word here, and a reason in an ADR.
const ALLOWED: &[(&str, &str, &[&str])] = &[
    ("store/types", "store-types", &[]),
    ("store/api", "store-api", &["store-types"]),
    ("store/nar", "store-nar", &["store-types"]),
    ("store/wire", "store-wire", &["store-types", "store-api"]),
    (
        "store/client",
        "store-client",
        &["store-types", "store-api", "store-wire"],
    ),
    ("store/local", "store-local", &["store-types", "store-nar"]),
    ("src/sys", "droste-sys", &[]),
    ("src/sys/start", "droste-start", &[]),
    ("src/sandbox", "droste-sandbox", &["droste-sys"]),
    ("src/settings", "droste-settings", &[]),
    ("src/toolchain", "droste-toolchain", &["store-types"]),
    (
        "src/daemon",
        "droste-daemon",
        &[
            "store-types",
            "store-api",
            "store-nar",
            "store-wire",
            "droste-sys",
        ],
    ),
    (
        "src/executor",
        "droste-executor",
        &[
            "store-types",
            "store-api",
            "store-nar",
            "store-local",
            "droste-sandbox",
            "droste-settings",
            "droste-sys",
            "shim-core",
        ],
    ),
    ("shims/core", "shim-core", &[]),
    ("shims/cc", "shim-cc", &["shim-core", "droste-start"]),
    ("shims/runner", "shim-runner", &["shim-core", "droste-sys"]),
    (
        "shims/nix",
        "shim-nix",
        &["store-types", "store-api", "store-client", "shim-core"],
    ),
    (
        "shims/builtins",
        "shim-builtins",
        &["store-types", "store-nar"],
    ),
];

/// The crates below `src/sys`.
const UNSAFE: &[&str] = &["droste-sys", "droste-start"];

/// The names in the `[dependencies]` section of a manifest.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let mut inside = false;
    let mut names = BTreeSet::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line == "[dependencies]";
        } else if inside {
            let end = line.find(['.', ' ', '=']).unwrap_or(line.len());
            names.insert(line[..end].to_owned());
        }
    }
    names
}

#[test]
fn crates_use_only_what_lies_below_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ours: BTreeMap<&str, &[&str]> =
        ALLOWED.iter().map(|(_, name, may)| (*name, *may)).collect();
    for (folder, name, allowed) in ALLOWED {
        let manifest = std::fs::read_to_string(root.join(folder).join("Cargo.toml"))
            .expect("each crate has a manifest");
        assert!(
            manifest.contains(&format!("name = \"{name}\"")),
            "{folder} is not {name}"
        );
        for used in dependencies(&manifest) {
            assert!(
                !ours.contains_key(&*used) || allowed.contains(&&*used),
                "{name} may not use {used}: see docs/adr/0001-layout-and-edges.md"
            );
        }
    }
}

#[test]
fn every_crate_is_in_the_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for parent in ["store", "src", "shims"] {
        for entry in std::fs::read_dir(root.join(parent)).expect("the folder is there") {
            let folder = format!(
                "{parent}/{}",
                entry.expect("an entry").file_name().to_string_lossy()
            );
            if root.join(&folder).join("Cargo.toml").exists() {
                assert!(
                    ALLOWED.iter().any(|(known, ..)| *known == folder),
                    "{folder} is not in the table"
                );
            }
        }
    }
}

#[test]
fn unsafe_code_is_in_one_folder() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (folder, name, _) in ALLOWED {
        let manifest = std::fs::read_to_string(root.join(folder).join("Cargo.toml"))
            .expect("each crate has a manifest");
        let may = UNSAFE.contains(name);
        assert_eq!(manifest.contains("unsafe_code"), may, "{name}");
        assert!(
            may || manifest.contains("[lints]\nworkspace = true"),
            "{name} has lints of its own"
        );
    }
}
