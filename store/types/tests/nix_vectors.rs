//! Derivations that Nix 2.34.8 made and built, with what it recorded of them:
//! `vectors/*.drv`, resolved ones among them; `vectors/realisations.txt`, lines
//! of hash modulo, output and store path from its database; `vectors/attrs.json`
//! and `attrs.sh`, which the builder of `attrs` found.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use store_types::{
    Derivation, DerivationParseError, DrvOutput, Hash, HashModulo, PathInfo, PlaceholderRewrites,
    StoreDir, StorePath, StructuredAttrs, output_placeholder,
};

fn vector(name: &str) -> Vec<u8> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    fs::read(dir.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn read(path: &StorePath) -> Result<Derivation, DerivationParseError> {
    Derivation::parse(&StoreDir::default(), &vector(path.base_name()))
}

fn derivations() -> BTreeMap<StorePath, Derivation> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.ends_with(".drv"))
        .map(|name| {
            let path = StorePath::from_base_name(&name).unwrap();
            let drv = read(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
            (path, drv)
        })
        .collect()
}

fn realisations() -> BTreeMap<DrvOutput, StorePath> {
    let text = String::from_utf8(vector("realisations.txt")).unwrap();
    text.lines()
        .map(|line| {
            let [hash, output, path] = line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("`{line}` is no realisation");
            };
            let id = format!("{hash}!{output}").parse().unwrap();
            (id, StorePath::from_base_name(path).unwrap())
        })
        .collect()
}

#[test]
fn every_derivation_keeps_its_bytes_its_path_and_its_output_paths() {
    let dir = StoreDir::default();
    let derivations = derivations();
    assert_eq!(derivations.len(), 10);
    for (path, drv) in derivations {
        let name = path.derivation_name().unwrap();
        assert_eq!(drv.to_aterm(&dir), vector(path.base_name()), "{path}");
        assert_eq!(drv.drv_path(&dir, name).as_ref(), Ok(&path));
        drv.check_output_paths(&path, &mut HashModulo::new(dir.clone()), read)
            .unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

#[test]
fn realisations_have_the_ids_that_nix_gave_them() {
    let recorded = realisations();
    let mut modulo = HashModulo::new(StoreDir::default());
    let mut seen = BTreeSet::new();
    for (path, drv) in derivations() {
        for output in drv.outputs.keys() {
            let id = modulo.realisation_id(&drv, output, read).unwrap().unwrap();
            let Some(out_path) = recorded.get(&id) else {
                // Nobody asked for it, so Nix recorded only the resolved one's.
                assert_eq!(
                    (path.base_name(), output.as_str()),
                    ("30ps0x4djgffhrn4a1cfm0n0v5m6rx8x-ca3.drv", "dev")
                );
                continue;
            };
            assert!(out_path.name().starts_with(path.derivation_name().unwrap()));
            seen.insert(id);
        }
        assert_eq!(modulo.realisation_id(&drv, "none", read).unwrap(), None);
    }
    assert_eq!(seen, recorded.into_keys().collect());
}

#[test]
fn resolving_gives_the_derivation_that_nix_built() {
    let dir = StoreDir::default();
    let recorded = realisations();
    let derivations = derivations();
    let mut resolved_count = 0;
    for (path, drv) in &derivations {
        if !drv.is_resolution_needed().unwrap() {
            continue;
        }
        resolved_count += 1;
        let name = path.derivation_name().unwrap();
        let mut modulo = HashModulo::new(dir.clone());
        let resolved = drv
            .resolve(&dir, name, |input, output| {
                let input = read(input.as_opaque()?).unwrap();
                let id = modulo.realisation_id(&input, output, read).unwrap();
                recorded.get(&id?).cloned()
            })
            .unwrap();
        let resolved_path = resolved.drv_path(&dir, name).unwrap();
        assert_eq!(derivations.get(&resolved_path), Some(&resolved), "{path}");
    }
    assert_eq!(resolved_count, 3);
}

#[test]
fn the_builder_finds_the_structured_attributes_that_nix_wrote() {
    let dir = StoreDir::default();
    let path = StorePath::from_base_name("58y9y7fcs1663fb3if68zzmhsgfx33xc-attrs.drv").unwrap();
    let drv = read(&path).unwrap();
    let dep = PathInfo {
        path: StorePath::from_base_name("z4asv3j07d89ywjf8fxkn7sg6mf5s9q5-dep").unwrap(),
        nar_hash: Hash::parse_prefixed(
            "sha256:00kjynz8n03652qccs76ivsvark3pr3dfr6w1ba3x7bx83kcknvv",
        )
        .unwrap(),
        nar_size: 120,
        references: BTreeSet::new(),
        deriver: None,
        registration_time: 0,
        ultimate: true,
        signatures: Vec::new(),
        ca: None,
    };
    let mut outputs = BTreeMap::new();
    let mut rewrites = PlaceholderRewrites::new();
    for (name, output) in &drv.outputs {
        let path = dir.display(output.path().unwrap());
        rewrites.insert(output_placeholder(name), path.as_str());
        outputs.insert(name.clone(), path);
    }
    let graph = serde_json::Value::Array(vec![dep.to_graph_json(&dir, 120)]);
    let attrs = StructuredAttrs::of(&drv)
        .unwrap()
        .unwrap()
        .for_builder(&outputs, [("g".to_owned(), graph)].into());
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    assert_eq!(
        rewrites.apply(attrs.to_json().as_bytes()),
        text(vector("attrs.json"))
    );
    assert_eq!(
        rewrites.apply(attrs.to_shell().as_bytes()),
        text(vector("attrs.sh"))
    );
}
