//! Real Nix as the judge: of what Droste wrote, and as the writer of stores that
//! Droste goes on with.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use common::*;
use store_local::LocalStore;
use store_nar::HashModuloVariant;
use store_types::{
    ContentAddressMethod, HashAlgorithm, NarInfo, PathInfo, PublicKeys, SecretKey, StorePath,
};

/// Fills a store with objects of every kind; the last refers to all others.
fn fill(store: &LocalStore, dir: &Path, variant: HashModuloVariant) -> Vec<PathInfo> {
    write_tree(&dir.join("tree"), "hello");
    let tree = add_tree(store, &dir.join("tree"), &none());
    let text = store
        .add_text("text", b"about it", &BTreeSet::from([tree.path.clone()]))
        .unwrap();
    let drv = derivation(store.store_dir());
    let drv = store.add_text("x.drv", &drv, &none()).unwrap();
    let scratch = scratch_path("own");
    let at = dir.join("own");
    write_tree(
        &at,
        &format!("{scratch} {} {} {}", tree.path, text.path, drv.path),
    );
    let candidates = [&tree, &text, &drv].map(|info| info.path.clone()).into();
    let own = add_output(store, &at, &scratch, &candidates, variant).unwrap();
    assert_eq!(own.references.len(), 4);
    vec![tree, text, drv, own]
}

/// How a Nix hashes references of an object to itself.
fn variant_of(version: &str) -> Option<HashModuloVariant> {
    let number = version.rsplit(' ').next()?;
    if number.starts_with("2.8.") {
        Some(HashModuloVariant::WithOffsets)
    } else if number.starts_with("2.34.") {
        Some(HashModuloVariant::WithoutOffsets)
    } else {
        None
    }
}

fn names(dir: &Path) -> (Scratch, String) {
    let version = String::from_utf8(
        std::process::Command::new(dir.join("nix"))
            .arg("--version")
            .output()
            .unwrap()
            .stdout,
    )
    .unwrap();
    (Scratch::new(), version.trim().to_owned())
}

#[test]
fn nix_accepts_lists_and_copies_what_was_written() {
    for nix in nix_dirs() {
        let (dir, version) = names(&nix);
        let root = dir.join("root");
        let store = open(&root);
        // Nix checks content addresses of what it copies, each version by its variant.
        let variant = variant_of(&version).unwrap_or(HashModuloVariant::WithoutOffsets);
        let infos = fill(&store, dir.path(), variant);
        let last = infos.last().unwrap();
        let home = dir.path();

        run_nix(
            &nix,
            home,
            &root,
            &["nix-store", "--verify", "--check-contents"],
        );
        let full = store.store_dir().display(&last.path);
        let json = run_nix(
            &nix,
            home,
            &root,
            &["nix", "path-info", "-r", "--json", &full],
        );
        for info in &infos {
            // Nix prints paths in full or as base names, and hashes in SRI form.
            assert!(json.contains(info.path.base_name()), "{version}: {json}");
            let hash = info.nar_hash.to_sri();
            let legacy = info.nar_hash.to_prefixed_base32();
            assert!(
                json.contains(&hash) || json.contains(&legacy),
                "{version}: {json}"
            );
            let ca = info.ca.unwrap();
            assert!(
                json.contains(&ca.to_string()) || json.contains(&ca.hash.to_sri()),
                "{version}: {json}"
            );
        }
        let deriver = run_nix(
            &nix,
            home,
            &root,
            &["nix-store", "--query", "--referrers", &full],
        );
        assert_eq!(deriver.trim(), full, "{version}");

        let copied = dir.join("copy");
        run_nix(&nix, home, &copied, &["nix-store", "--init"]);
        let from = root.to_str().unwrap();
        let to = copied.to_str().unwrap();
        run_nix(
            &nix,
            home,
            &root,
            &[
                "nix",
                "copy",
                "--no-check-sigs",
                "--from",
                from,
                "--to",
                to,
                &full,
            ],
        );
        let copy = open(&copied);
        assert_sound(&copy);
        assert_eq!(copy.all_valid_paths().unwrap().len(), infos.len());
        for info in &infos {
            let found = copy.path_info(&info.path).unwrap().unwrap();
            assert_eq!(
                (found.nar_hash, found.nar_size, &found.references, found.ca),
                (info.nar_hash, info.nar_size, &info.references, info.ca),
                "{version}"
            );
        }
    }
}

#[test]
fn a_store_that_nix_wrote_is_gone_on_with_and_back() {
    for nix in nix_dirs() {
        let (dir, version) = names(&nix);
        let root = dir.join("root");
        let home = dir.path();
        write_tree(&dir.join("tree"), "by nix");
        let tree_path = dir.join("tree");
        let tree = run_nix(
            &nix,
            home,
            &root,
            &["nix-store", "--add", tree_path.to_str().unwrap()],
        );
        let expression = dir.join("x.nix");
        fs::write(
            &expression,
            r#"derivation { name = "x"; system = "s"; builder = builtins.toFile "b" "b"; }"#,
        )
        .unwrap();
        let drv = run_nix(
            &nix,
            home,
            &root,
            &["nix-instantiate", expression.to_str().unwrap()],
        );

        let store = open(&root);
        assert_sound(&store);
        let parse = |text: &str| store.store_dir().parse(text.trim()).unwrap();
        let (tree, drv) = (parse(&tree), parse(&drv));
        let info = store.path_info(&tree).unwrap().unwrap();
        assert_eq!(add_tree(&store, &tree_path, &none()), info, "{version}");
        let outputs = store.query_derivation_outputs(&drv).unwrap();
        let out = run_nix(
            &nix,
            home,
            &root,
            &[
                "nix-store",
                "--query",
                "--outputs",
                &store.store_dir().display(&drv),
            ],
        );
        assert_eq!(outputs["out"], parse(&out), "{version}");
        let closure: BTreeSet<StorePath> = run_nix(
            &nix,
            home,
            &root,
            &[
                "nix-store",
                "--query",
                "--requisites",
                &store.store_dir().display(&drv),
            ],
        )
        .lines()
        .map(parse)
        .collect();
        assert_eq!(store.closure(std::slice::from_ref(&drv)).unwrap(), closure);

        // The same derivation, added by Droste elsewhere, is the same object.
        let other = open(&dir.join("other"));
        let inputs: Vec<StorePath> = closure
            .iter()
            .filter(|path| **path != drv)
            .cloned()
            .collect();
        for path in &inputs {
            let mut nar = Vec::new();
            store.dump(path, &mut nar).unwrap();
            let info = store.path_info(path).unwrap().unwrap();
            other.add_nar(&info, &mut &nar[..]).unwrap();
        }
        let text = fs::read(store.physical_path(&drv)).unwrap();
        let again = other
            .add_text("x.drv", &text, &inputs.into_iter().collect())
            .unwrap();
        assert_eq!(again.path, drv, "{version}");
        assert_eq!(other.query_derivation_outputs(&drv).unwrap(), outputs);

        fill(&store, &dir.join("more"), HashModuloVariant::WithoutOffsets);
        drop(store);
        run_nix(
            &nix,
            home,
            &root,
            &["nix-store", "--verify", "--check-contents"],
        );
        // Back in Nix's hands, and in every other Nix's.
        for other in nix_dirs() {
            run_nix(
                &other,
                home,
                &root,
                &["nix-store", "--add", expression.to_str().unwrap()],
            );
            assert_sound(&open(&root));
        }
    }
}

#[test]
fn self_references_are_hashed_as_by_the_nix_of_each_variant() {
    for nix in nix_dirs() {
        let (dir, version) = names(&nix);
        let Some(variant) = variant_of(&version) else {
            eprintln!("skipped: the variant of {version} is not listed here");
            continue;
        };
        let (root, home) = (dir.join("root"), dir.path());
        let store = open(&root);
        let scratch = scratch_path("self");
        // An object at a path that does not follow from its content.
        let at = dir.join("built");
        write_tree(&at, &format!("{scratch} and {scratch}"));
        let parent = fs::File::open(dir.path()).unwrap();
        let name = std::ffi::OsStr::new("built");
        use std::os::fd::AsFd;
        store_local::canonicalise(parent.as_fd(), name, None).unwrap();
        let (nar_hash, nar_size) = store_nar::dump_and_hash(parent.as_fd(), name).unwrap();
        store
            .move_into_store(parent.as_fd(), name, &scratch)
            .unwrap();
        store
            .register(&[store_local::Registration::new(PathInfo {
                path: scratch.clone(),
                nar_hash,
                nar_size,
                references: BTreeSet::from([scratch.clone()]),
                deriver: None,
                registration_time: 0,
                ultimate: false,
                signatures: Vec::new(),
                ca: None,
            })])
            .unwrap();
        let full = store.store_dir().display(&scratch);
        run_nix(
            &nix,
            home,
            &root,
            &[
                "nix",
                "store",
                "make-content-addressed",
                &full,
                "--to",
                root.to_str().unwrap(),
            ],
        );
        let made: Vec<StorePath> = store
            .all_valid_paths()
            .unwrap()
            .into_iter()
            .filter(|path| *path != scratch)
            .collect();

        let mine = open(&dir.join("mine"));
        write_tree(&at, &format!("{scratch} and {scratch}"));
        let info = add_output(&mine, &at, &scratch, &none(), variant).unwrap();
        assert_eq!(made, std::slice::from_ref(&info.path), "{version}");
        let theirs = store.path_info(&info.path).unwrap().unwrap();
        assert_eq!(
            (theirs.nar_hash, theirs.ca),
            (info.nar_hash, info.ca),
            "{version}"
        );
    }
}

#[test]
fn nix_collects_garbage_but_no_temporary_roots() {
    for nix in nix_dirs() {
        let (dir, version) = names(&nix);
        let (root, home) = (dir.join("root"), dir.path());
        let store = open(&root);
        let kept = store.add_text("kept", b"kept", &none()).unwrap().path;
        // A path whose process has ended.
        let dead = {
            let other = scratch_path("dead");
            fs::write(store.physical_path(&other), "kept").unwrap();
            let mut info = store.path_info(&kept).unwrap().unwrap();
            info.path = other.clone();
            info.ca = None;
            store
                .register(&[store_local::Registration::new(info)])
                .unwrap();
            other
        };
        run_nix(&nix, home, &root, &["nix-store", "--gc"]);
        assert!(store.is_valid(&kept).unwrap(), "{version}");
        assert!(store.physical_path(&kept).exists(), "{version}");
        assert!(!store.is_valid(&dead).unwrap(), "{version}");
        drop(store);
        run_nix(&nix, home, &root, &["nix-store", "--gc"]);
        let store = open(&root);
        assert_eq!(store.all_valid_paths().unwrap(), none(), "{version}");
        store.add_text("kept", b"kept", &none()).unwrap();
        assert_sound(&store);
    }
}

#[test]
fn realisations_go_to_nix_and_come_from_it() {
    if !Path::new("/bin/busybox").exists() {
        eprintln!("skipped: no `/bin/busybox` for the sandbox");
        return;
    }
    for nix in nix_dirs() {
        let (dir, version) = names(&nix);
        let (root, home) = (dir.join("root"), dir.path());
        let expression = dir.join("ca.nix");
        fs::write(
            &expression,
            r#"derivation {
                name = "ca"; system = builtins.currentSystem; builder = "/bin/sh";
                args = [ "-c" "echo hello > $out" ];
                __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";
            }"#,
        )
        .unwrap();
        let file = expression.to_str().unwrap();
        let drv = run_nix(&nix, home, &root, &["nix-instantiate", file]);
        let output = nix_command_that_may_fail(&nix, home, &root, file);
        if let Err(reason) = output {
            eprintln!("skipped: {version} cannot build in a sandbox here: {reason}");
            continue;
        }
        let store = open(&root);
        let connection = rusqlite::Connection::open(root.join("nix/var/nix/db/db.sqlite")).unwrap();
        let id: String = connection
            .query_row(
                "select drvPath || '!' || outputName from Realisations",
                [],
                |row| row.get(0),
            )
            .unwrap();
        let realisation = store
            .query_realisation(&id.parse().unwrap())
            .unwrap()
            .unwrap();
        assert_eq!(realisation.out_path.name(), "ca", "{version}");

        // The other way: a store with the derivation, its output and what it
        // realises, all from Droste, has nothing to build.
        let mine_root = dir.join("mine");
        let mine = open(&mine_root);
        let drv = store.store_dir().parse(drv.trim()).unwrap();
        for path in [&drv, &realisation.out_path] {
            let mut nar = Vec::new();
            store.dump(path, &mut nar).unwrap();
            let info = store.path_info(path).unwrap().unwrap();
            mine.add_nar(&info, &mut &nar[..]).unwrap();
        }
        mine.register_realisation(&realisation).unwrap();
        drop(mine);
        let out = run_nix(
            &nix,
            home,
            &mine_root,
            &["nix-build", "-j0", "--no-out-link", file],
        );
        assert_eq!(
            out.trim(),
            store.store_dir().display(&realisation.out_path),
            "{version}"
        );
    }
}

fn nix_command_that_may_fail(
    dir: &Path,
    home: &Path,
    root: &Path,
    file: &str,
) -> Result<(), String> {
    let args = ["--no-out-link", file, "--store", root.to_str().unwrap()];
    let args: Vec<&std::ffi::OsStr> = args.iter().map(std::ffi::OsStr::new).collect();
    let output = nix(dir, "nix-build", home, &args).output().unwrap();
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn nix_gives_the_same_paths_for_every_method_and_algorithm() {
    for nix in nix_dirs() {
        let (dir, version) = names(&nix);
        if version.contains(" 2.8") {
            eprintln!("skipped: {version} has no git hashing");
            continue;
        }
        let tree = dir.join("tree");
        std::fs::create_dir_all(tree.join("sub")).unwrap();
        std::fs::write(tree.join("file"), b"hello").unwrap();
        std::fs::write(tree.join("sub/other"), b"more").unwrap();
        std::os::unix::fs::symlink("file", tree.join("link")).unwrap();
        let store = open(&dir.join("root"));
        let mut nar = Vec::new();
        let parent = std::fs::File::open(dir.path()).unwrap();
        store_nar::dump(parent.as_fd(), std::ffi::OsStr::new("tree"), &mut nar).unwrap();
        for method in [
            ContentAddressMethod::Flat,
            ContentAddressMethod::Nar,
            ContentAddressMethod::Git,
        ] {
            for algorithm in HashAlgorithm::ALL {
                if !method.allows(algorithm) {
                    continue;
                }
                let (mode, path, dump): (_, _, &[u8]) = match method {
                    ContentAddressMethod::Flat => ("flat", tree.join("file"), b"hello"),
                    ContentAddressMethod::Nar => ("nar", tree.clone(), &nar),
                    ContentAddressMethod::Git => ("git", tree.clone(), &nar),
                    ContentAddressMethod::Text => unreachable!("not among them"),
                };
                let name = format!("by-{mode}-{}", algorithm.name());
                let references = std::collections::BTreeSet::new();
                let added =
                    store.add_content_addressed(&name, method, algorithm, &references, &mut &*dump);
                let features = "nix-command git-hashing blake3-hashes";
                let theirs = run_nix(
                    &nix,
                    dir.path(),
                    &dir.join("theirs"),
                    &[
                        "nix",
                        "--extra-experimental-features",
                        features,
                        "store",
                        "add",
                        "--mode",
                        mode,
                        "--hash-algo",
                        algorithm.name(),
                        "--name",
                        &name,
                        path.to_str().unwrap(),
                    ],
                );
                let ours = added.unwrap();
                assert_eq!(store.store_dir().display(&ours.path), theirs.trim());
                // And Nix reads the address that we wrote, and finds that it is right.
                let json = run_nix(
                    &nix,
                    dir.path(),
                    &dir.join("root"),
                    &[
                        "nix",
                        "--extra-experimental-features",
                        features,
                        "store",
                        "verify",
                        "--no-trust",
                        theirs.trim(),
                    ],
                );
                assert_eq!(json, "");
            }
        }
    }
}

/// A secret key that this Nix made, and the file that it is in.
fn generate_key(nix: &Path, dir: &Path, name: &str) -> (SecretKey, String) {
    let arguments = ["key", "generate-secret", "--key-name", name].map(std::ffi::OsStr::new);
    let output = common::nix(nix, "nix", dir, &arguments).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let file = dir.join(name);
    fs::write(&file, &text).unwrap();
    (
        text.trim().parse().unwrap(),
        file.to_str().unwrap().to_owned(),
    )
}

#[test]
fn keys_and_signatures_are_nixs() {
    for nix in nix_dirs() {
        let (dir, version) = names(&nix);
        let root = dir.join("root");
        let store = open(&root);
        let variant = variant_of(&version).unwrap_or(HashModuloVariant::WithoutOffsets);
        let infos = fill(&store, dir.path(), variant);
        let (key, file) = generate_key(&nix, dir.path(), "test-1");
        assert_eq!(
            key.to_secret_text(),
            fs::read_to_string(&file).unwrap().trim()
        );
        let arguments = ["key", "convert-secret-to-public"].map(std::ffi::OsStr::new);
        let output = common::nix(&nix, "nix", dir.path(), &arguments)
            .stdin(fs::File::open(&file).unwrap())
            .output()
            .unwrap();
        let public = String::from_utf8(output.stdout).unwrap();
        assert_eq!(key.public_key().to_string(), public.trim(), "{version}");

        let last = store.store_dir().display(&infos.last().unwrap().path);
        run_nix(
            &nix,
            dir.path(),
            &root,
            &["nix", "store", "sign", "-k", &file, "-r", &last],
        );
        let keys: PublicKeys = [key.public_key()].into_iter().collect();
        for info in &infos {
            let theirs = store.path_info(&info.path).unwrap().unwrap();
            let mut ours = info.clone();
            ours.sign(store.store_dir(), &key);
            assert_eq!(ours.signatures, theirs.signatures, "{version}");
            assert!(theirs.is_signed_by(store.store_dir(), &keys));
            assert!(!info.is_signed_by(store.store_dir(), &keys));
        }
    }
}

#[test]
fn a_cache_that_nix_wrote_is_printed_to_the_same_bytes() {
    for nix in nix_dirs() {
        let (dir, version) = names(&nix);
        let root = dir.join("root");
        let store = open(&root);
        let variant = variant_of(&version).unwrap_or(HashModuloVariant::WithoutOffsets);
        let infos = fill(&store, dir.path(), variant);
        let (key, file) = generate_key(&nix, dir.path(), "test-1");
        let keys: PublicKeys = [key.public_key()].into_iter().collect();
        let last = store.store_dir().display(&infos.last().unwrap().path);
        for compression in ["xz", "none"] {
            let cache = dir.join(compression);
            let url = format!(
                "file://{}?compression={compression}&secret-key={file}",
                cache.display()
            );
            let from = root.to_str().unwrap();
            run_nix(
                &nix,
                dir.path(),
                &root,
                &[
                    "nix",
                    "copy",
                    "--from",
                    from,
                    "--to",
                    &url,
                    "--no-check-sigs",
                    &last,
                ],
            );
            for info in &infos {
                let name = format!("{}.narinfo", info.path.hash_part());
                let text = fs::read_to_string(cache.join(name)).unwrap();
                let found = NarInfo::parse(store.store_dir(), &text).unwrap();
                assert_eq!(found.print(store.store_dir()), text, "{version}");
                assert_eq!(found.compression, compression);
                assert_eq!(found.info.references, info.references);
                assert_eq!(
                    (found.info.nar_hash, found.info.ca),
                    (info.nar_hash, info.ca)
                );
                assert!(found.info.is_signed_by(store.store_dir(), &keys));
                let archive = fs::read(cache.join(&found.url)).unwrap();
                assert_eq!(found.file_size, Some(archive.len() as u64));
                assert_eq!(found.file_hash, Some(store_types::sha256(&archive)));
            }
        }
    }
}

#[test]
fn a_cache_that_we_wrote_is_read_by_nix_if_its_key_is_trusted() {
    for nix in nix_dirs() {
        let (dir, version) = names(&nix);
        let store = open(&dir.join("root"));
        let variant = variant_of(&version).unwrap_or(HashModuloVariant::WithoutOffsets);
        let infos = fill(&store, dir.path(), variant);
        let key = SecretKey::from_seed("ours-1", &[42; 32]).unwrap();
        let other = SecretKey::from_seed("ours-1", &[43; 32]).unwrap();
        let cache = dir.join("cache");
        fs::create_dir_all(cache.join("nar")).unwrap();
        fs::write(cache.join("nix-cache-info"), "StoreDir: /nix/store\n").unwrap();
        for info in &infos {
            let mut nar = Vec::new();
            store.dump(&info.path, &mut nar).unwrap();
            let hash = store_types::sha256(&nar);
            let url = format!("nar/{}.nar", hash.to_base32());
            fs::write(cache.join(&url), &nar).unwrap();
            let mut narinfo = NarInfo {
                info: PathInfo {
                    // As if it were input-addressed: only the signature vouches for it.
                    ca: None,
                    ..info.clone()
                },
                url,
                compression: "none".to_owned(),
                file_hash: Some(hash),
                file_size: Some(nar.len() as u64),
            };
            narinfo.info.sign(store.store_dir(), &key);
            let name = format!("{}.narinfo", info.path.hash_part());
            fs::write(cache.join(name), narinfo.print(store.store_dir())).unwrap();
        }
        let last = store.store_dir().display(&infos.last().unwrap().path);
        let copy = |to: &str, key: &SecretKey| {
            let to = dir.join(to);
            let url = format!("file://{}", cache.display());
            let public = key.public_key().to_string();
            let line = [
                "copy",
                "--from",
                &url,
                "--to",
                to.to_str().unwrap(),
                &last,
                "--option",
                "trusted-public-keys",
                &public,
            ]
            .map(std::ffi::OsStr::new);
            common::nix(&nix, "nix", dir.path(), &line)
                .output()
                .unwrap()
        };
        let refused = copy("other", &other);
        assert!(!refused.status.success(), "{version}");
        let copied = copy("trusting", &key);
        let error = String::from_utf8_lossy(&copied.stderr);
        assert!(copied.status.success(), "{version}: {error}");
        let copied = open(&dir.join("trusting"));
        assert_sound(&copied);
        for info in &infos {
            let found = copied.path_info(&info.path).unwrap().unwrap();
            assert_eq!(found.nar_hash, info.nar_hash);
            assert!(
                found.is_signed_by(store.store_dir(), &[key.public_key()].into_iter().collect())
            );
        }
    }
}
