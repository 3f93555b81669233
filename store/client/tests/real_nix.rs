//! Real Nix as the server: the one on the PATH, and the one whose directory of
//! programs `DROSTE_TEST_NIX_234` names. What is not there is skipped, and says so.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use store_api::{
    BuildMode, BuildObserver, BuildResult, BuildStatus, GcAction, GcRequest, Store, StoreError,
    VerifyRequest,
};
use store_client::{RemoteOptions, RemoteStore, Streams};
use store_types::{
    ContentAddressMethod, Derivation, DerivationOutput, DerivedPath, HashAlgorithm, HashModulo,
    OutputsSpec, PathInfo, SingleDerivedPath, StorePath, sha256,
};
use store_wire::{ClientOptions, Version, Writer};

/// A Nix, by its directory of programs, with a place for its files.
struct Nix {
    bin: PathBuf,
    home: tempfile::TempDir,
}

/// Each Nix there is.
fn nixes() -> Vec<Nix> {
    let on_path = std::env::var_os("PATH")
        .and_then(|path| std::env::split_paths(&path).find(|dir| dir.join("nix-daemon").exists()));
    if on_path.is_none() {
        println!("skipped for the Nix on the PATH: there is none");
    }
    let other = std::env::var_os("DROSTE_TEST_NIX_234").map(PathBuf::from);
    if other.is_none() {
        println!("skipped for Nix 2.34: DROSTE_TEST_NIX_234 does not name its directory");
    }
    on_path
        .into_iter()
        .chain(other)
        .map(|bin| Nix {
            bin,
            home: tempfile::tempdir().unwrap(),
        })
        .collect()
}

impl Nix {
    fn command(&self, program: &str) -> Command {
        let home = self.home.path();
        let mut command = Command::new(self.bin.join(program));
        command
            .current_dir(home)
            .env_clear()
            .env("HOME", home)
            .env("NIX_CONF_DIR", home)
            .env("NIX_STATE_DIR", home.join("state"))
            .env("NIX_REMOTE", "local")
            .env("PATH", format!("{}:/usr/bin:/bin", self.bin.display()))
            .env(
                "NIX_CONFIG",
                "experimental-features = nix-command ca-derivations\nsubstituters =\n\
                 build-users-group =\nsandbox = true\nsandbox-paths = /bin /lib /lib64 /usr",
            );
        command
    }

    /// Its store, by a daemon of ours for each connection.
    fn store(&self, minor: u8) -> RemoteStore {
        let root = self.home.path().join("root");
        std::fs::create_dir_all(&root).unwrap();
        let nix = Nix {
            bin: self.bin.clone(),
            home: tempfile::tempdir_in(self.home.path()).unwrap(),
        };
        let connect = move || {
            let mut command = nix.command("nix-daemon");
            command.args(["--stdio", "--store"]).arg(&root);
            Streams::spawn(command.stderr(Stdio::null()))
        };
        let options = RemoteOptions {
            version: Version::new(minor),
            settings: Some(ClientOptions {
                max_build_jobs: 1,
                ..ClientOptions::default()
            }),
            ..RemoteOptions::default()
        };
        RemoteStore::new(connect, options)
    }
}

/// The versions at which messages change.
const VERSIONS: [u8; 11] = [21, 22, 24, 25, 27, 29, 31, 32, 34, 36, 38];

fn with_each_nix_and_version(test: impl Fn(&Nix, &RemoteStore, u8)) {
    for nix in nixes() {
        for minor in VERSIONS {
            let store = nix.store(minor);
            let (session, hello) = store.hello().unwrap();
            println!(
                "{}: 1.{} of 1.{minor}, Nix `{}`",
                nix.bin.display(),
                session.version.minor,
                hello.nix_version
            );
            // An older one has been spoken before.
            if session.version.minor == minor {
                test(&nix, &store, minor);
            }
        }
    }
}

fn nar_of_file(content: &[u8]) -> Vec<u8> {
    let mut w = Writer::new();
    for word in ["nix-archive-1", "(", "type", "regular", "contents"] {
        w.bytes(word);
    }
    w.bytes(content).bytes(")");
    w.into_bytes()
}

fn add(
    store: &dyn Store,
    name: &str,
    method: ContentAddressMethod,
    references: &BTreeSet<StorePath>,
    mut dump: &[u8],
) -> Result<PathInfo, StoreError> {
    let algorithm = HashAlgorithm::Sha256;
    store.add_content_addressed(name, method, algorithm, references, false, &mut dump)
}

#[derive(Default)]
struct Lines(Vec<String>);

impl BuildObserver for Lines {
    fn started(&mut self, drv: &StorePath, _mode: BuildMode) {
        self.0.push(format!("started {}", drv.name()));
    }

    fn log_line(&mut self, _drv: &StorePath, line: &[u8]) {
        self.0.push(String::from_utf8_lossy(line).into_owned());
    }

    fn finished(&mut self, drv: &StorePath, _result: &BuildResult) {
        self.0.push(format!("finished {}", drv.name()));
    }
}

/// A derivation of outputs that are addressed by its inputs.
fn script(store: &dyn Store, name: &str, outputs: &[&str], text: &str) -> Derivation {
    let mut drv = Derivation {
        outputs: outputs
            .iter()
            .map(|name| ((*name).to_owned(), DerivationOutput::Deferred))
            .collect(),
        system: "x86_64-linux".into(),
        builder: "/bin/sh".into(),
        args: vec!["-c".into(), text.into()],
        env: outputs
            .iter()
            .map(|name| ((*name).into(), "".into()))
            .collect(),
        ..Derivation::default()
    };
    let hashes = HashModulo::new(store.store_dir().clone())
        .masked(&drv, |_| {
            Err::<Derivation, _>(io::Error::other("no inputs"))
        })
        .unwrap();
    for output in outputs {
        let path = store
            .store_dir()
            .output_path(name, output, &hashes.by_output[*output])
            .unwrap();
        let text = store.store_dir().display(&path);
        drv.env.insert((*output).into(), text.into());
        let known = DerivationOutput::InputAddressed(path);
        drv.outputs.insert((*output).to_owned(), known);
    }
    drv
}

fn add_drv(store: &dyn Store, name: &str, drv: &Derivation) -> DerivedPath {
    let text = drv.to_aterm(store.store_dir());
    let method = ContentAddressMethod::Text;
    let added = add(
        store,
        &format!("{name}.drv"),
        method,
        &drv.references(),
        &text,
    );
    DerivedPath::Built {
        drv: added.unwrap().path.into(),
        outputs: OutputsSpec::All,
    }
}

#[test]
fn real_nix_takes_what_is_added_and_gives_it_back() {
    with_each_nix_and_version(|_, store, version| {
        let content = format!("content {version}").into_bytes().repeat(30_000);
        let nar = nar_of_file(&content);
        let none = BTreeSet::new();
        let mut paths = Vec::new();
        for (name, method, dump) in [
            ("as-nar", ContentAddressMethod::Nar, &nar),
            ("flat", ContentAddressMethod::Flat, &content),
            ("text", ContentAddressMethod::Text, &content),
        ] {
            let info = add(store, name, method, &none, dump).unwrap();
            assert_eq!(
                (info.nar_hash, info.nar_size),
                (sha256(&nar), nar.len() as u64)
            );
            paths.push(info.path);
        }
        let references = BTreeSet::from([paths[0].clone()]);
        let refers = add(
            store,
            "refers",
            ContentAddressMethod::Text,
            &references,
            b"text",
        );
        let refers = refers.unwrap();
        assert_eq!(refers.references, references);
        assert!(
            store
                .query_referrers(&paths[0])
                .unwrap()
                .contains(&refers.path)
        );

        let seed = [version; 20];
        let info = PathInfo {
            path: StorePath::from_hash_and_name(&seed, "as-it-is").unwrap(),
            nar_hash: sha256(&nar),
            nar_size: nar.len() as u64,
            references,
            deriver: None,
            registration_time: 7,
            ultimate: false,
            signatures: vec!["key-1:c2ln".to_owned()],
            ca: None,
        };
        store.add_nar(&info, false, false, &mut &nar[..]).unwrap();
        let found = store.query_path_info(&info.path).unwrap().unwrap();
        assert_eq!(
            (&found.references, &found.signatures, found.nar_hash),
            (&info.references, &info.signatures, info.nar_hash)
        );
        paths.push(info.path);
        for path in &paths {
            let mut got = Vec::new();
            store.nar_from_path(path, &mut got).unwrap();
            assert_eq!(got, nar);
            let found = store.query_path_from_hash_part(path.hash_part()).unwrap();
            assert_eq!(found.as_ref(), Some(path));
        }
        // Some of them are valid from the round before.
        let infos: Vec<_> = (0..3)
            .map(|n| PathInfo {
                path: StorePath::from_hash_and_name(&[100 + 5 * n + version; 20], "many").unwrap(),
                ..info_of(&nar)
            })
            .collect();
        let mut open = |_: &PathInfo| Ok(Box::new(&nar[..]) as Box<dyn Read + '_>);
        store.add_multiple(&infos, false, false, &mut open).unwrap();
        store
            .add_signatures(&paths[0], &["key-2:c2ln".to_owned()])
            .unwrap();
        let found = store.query_path_info(&paths[0]).unwrap().unwrap();
        assert_eq!(found.signatures, ["key-2:c2ln"]);
        store.add_temp_root(&paths[0]).unwrap();
        store.ensure_path(&paths[0]).unwrap();
        let absent = StorePath::from_hash_and_name(&[9; 20], "absent").unwrap();
        store.ensure_path(&absent).unwrap_err();
        assert!(store.nar_from_path(&absent, &mut io::sink()).is_err());
        let both = BTreeSet::from([paths[0].clone(), absent]);
        assert_eq!(store.query_valid_paths(&both, false).unwrap().len(), 1);
        assert!(store.query_substitutable_paths(&both).unwrap().is_empty());
        assert!(store.query_all_valid_paths().unwrap().len() >= paths.len());
    });
}

fn info_of(nar: &[u8]) -> PathInfo {
    PathInfo {
        path: StorePath::from_hash_and_name(&[0; 20], "x").unwrap(),
        nar_hash: sha256(nar),
        nar_size: nar.len() as u64,
        references: BTreeSet::new(),
        deriver: None,
        registration_time: 0,
        ultimate: false,
        signatures: Vec::new(),
        ca: None,
    }
}

#[test]
fn real_nix_builds_and_tells_its_log() {
    with_each_nix_and_version(|_, store, version| {
        let text = format!("echo line {version}; echo out > $out; echo dev > $dev");
        let good = script(store, "good", &["dev", "out"], &text);
        let good_path = add_drv(store, "good", &good);
        let bad = script(
            store,
            "bad",
            &["out"],
            &format!("echo no {version}; exit 7"),
        );
        let bad_path = add_drv(store, "bad", &bad);
        let DerivedPath::Built {
            drv: SingleDerivedPath { base: drv, .. },
            ..
        } = &good_path
        else {
            unreachable!()
        };
        let missing = store
            .query_missing(std::slice::from_ref(&good_path))
            .unwrap();
        assert_eq!(missing.will_build, BTreeSet::from([drv.clone()]));
        let outputs = store.query_derivation_output_map(drv).unwrap();
        let expected: BTreeMap<_, _> = good
            .outputs
            .iter()
            .map(|(name, output)| (name.clone(), output.path().cloned()))
            .collect();
        assert_eq!(outputs, expected);

        let mut seen = Lines::default();
        let asked = [good_path.clone()];
        let results = store
            .build_paths(&asked, BuildMode::Normal, &mut seen)
            .unwrap();
        assert_eq!(results[0].result.status, BuildStatus::Built, "{results:?}");
        let line = format!("line {version}");
        assert_eq!(seen.0, ["started good.drv", &line, "finished good.drv"]);
        for path in expected.values().flatten() {
            assert!(store.is_valid_path(path).unwrap());
            let info = store.query_path_info(path).unwrap().unwrap();
            assert_eq!(info.deriver.as_ref(), Some(drv));
            let derivers = store.query_valid_derivers(path).unwrap();
            assert_eq!(derivers, BTreeSet::from([drv.clone()]));
        }

        let mut seen = Lines::default();
        let asked = [bad_path.clone(), good_path];
        let results = store
            .build_paths(&asked, BuildMode::Normal, &mut seen)
            .unwrap();
        let statuses: Vec<_> = results
            .iter()
            .map(|keyed| keyed.result.is_success())
            .collect();
        assert_eq!(statuses, [false, true], "{results:?}");
        assert!(results[0].result.error_msg.contains("7"), "{results:?}");
        assert!(seen.0.contains(&format!("no {version}")), "{:?}", seen.0);

        let sent_drv = StorePath::from_hash_and_name(&[3; 20], "sent.drv").unwrap();
        let text = format!("echo sent {version}; echo > $out");
        let sent = script(store, "sent", &["out"], &text);
        let mut seen = Lines::default();
        let result = store.build_derivation(&sent_drv, &sent, BuildMode::Normal, &mut seen);
        let result = result.unwrap();
        assert_eq!(result.status, BuildStatus::Built, "{result:?}");
        assert!(seen.0.contains(&format!("sent {version}")), "{:?}", seen.0);
    });
}

#[test]
fn real_nix_keeps_its_store_in_order_for_a_client() {
    with_each_nix_and_version(|nix, store, version| {
        let none = BTreeSet::new();
        let text = format!("garbage {version}").into_bytes();
        let info = add(store, "garbage", ContentAddressMethod::Flat, &none, &text).unwrap();
        assert!(
            !store
                .verify(VerifyRequest::default(), &mut |_, _| {})
                .unwrap()
        );
        store.optimise(&mut |_, _| {}).unwrap();
        let link = nix.home.path().join(format!("link-{version}"));
        std::os::unix::fs::symlink(store.store_dir().display(&info.path), &link).unwrap();
        store.add_indirect_root(&link).unwrap();
        let roots = store.find_roots(false).unwrap();
        assert!(
            roots
                .get(&info.path)
                .is_some_and(|links| links.contains(&link)),
            "{roots:?}"
        );
        if version >= 34 {
            let drv = script(store, "logged", &["out"], "exit 1");
            let DerivedPath::Built {
                drv: SingleDerivedPath { base: drv, .. },
                ..
            } = add_drv(store, "logged", &drv)
            else {
                unreachable!()
            };
            store.add_build_log(&drv, &mut &b"a log"[..]).unwrap();
        }
        let gc = |action| GcRequest {
            action,
            ignore_liveness: false,
            paths_to_delete: BTreeSet::new(),
            max_freed_bytes: u64::MAX,
        };
        let live = store
            .collect_garbage(&gc(GcAction::ReturnLive), &mut |_, _| {})
            .unwrap();
        assert!(live.paths.contains(&info.path));
        std::fs::remove_file(&link).unwrap();
        // In a new connection: this one holds a temporary root.
        drop(
            nix.store(version)
                .collect_garbage(&gc(GcAction::ReturnDead), &mut |_, _| {})
                .unwrap(),
        );
    });
}
