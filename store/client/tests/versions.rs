//! Every operation against our own server, by a client of every version.

#[path = "../../../src/daemon/tests/support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use droste_daemon::{Limits, Trust};
use store_api::{
    BuildMode, BuildObserver, BuildResult, BuildStatus, GcAction, GcRequest, Silent, Store,
    StoreError, VerifyRequest,
};
use store_client::{ClientError, RemoteOptions, RemoteStore, Streams, UnixSocket};
use store_types::{
    ContentAddressMethod, Derivation, DerivationOutput, DerivedPath, DrvOutput, HashAlgorithm,
    OutputsSpec, PathInfo, Realisation, SingleDerivedPath, StorePath, sha256,
};
use store_wire::{ClientOptions, RemoteError, Session, StderrFrame, Version, Writer};

use support::{DirStore, nar_of_file, serve};

fn versions() -> impl Iterator<Item = Version> {
    (Version::MINIMUM.minor..=Version::LATEST.minor).map(Version::new)
}

fn of_version(version: Version) -> RemoteOptions {
    RemoteOptions {
        version,
        settings: Some(ClientOptions::default()),
        ..RemoteOptions::default()
    }
}

/// Runs a test with a client of each version and a store of its own.
fn with_each_version(trust: Trust, test: impl Fn(Version, &Arc<DirStore>, &RemoteStore)) {
    for version in versions() {
        println!("version 1.{}", version.minor);
        let store = DirStore::new();
        let (_server, socket) = serve(&store, trust, Limits::default());
        test(
            version,
            &store,
            &RemoteStore::at_socket(socket, of_version(version)),
        );
    }
}

fn info_of(name: &str, nar: &[u8]) -> PathInfo {
    PathInfo {
        path: StorePath::from_hash_and_name(&[1; 20], name).unwrap(),
        nar_hash: sha256(nar),
        nar_size: nar.len() as u64,
        references: BTreeSet::new(),
        deriver: None,
        registration_time: 7,
        ultimate: false,
        signatures: Vec::new(),
        ca: None,
    }
}

fn nar_of(store: &dyn Store, path: &StorePath) -> Vec<u8> {
    let mut nar = Vec::new();
    store.nar_from_path(path, &mut nar).unwrap();
    nar
}

fn add(
    store: &dyn Store,
    name: &str,
    method: ContentAddressMethod,
    mut dump: &[u8],
) -> Result<PathInfo, StoreError> {
    let (algorithm, references) = (HashAlgorithm::Sha256, BTreeSet::new());
    store.add_content_addressed(name, method, algorithm, &references, false, &mut dump)
}

/// A derivation that runs a script.
fn script(name: &str, script: &str) -> Derivation {
    let out = StorePath::from_hash_and_name(&[7; 20], name).unwrap();
    Derivation {
        outputs: BTreeMap::from([("out".to_owned(), DerivationOutput::InputAddressed(out))]),
        system: "x86_64-linux".into(),
        builder: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        ..Derivation::default()
    }
}

fn add_script(store: &dyn Store, name: &str, text: &str) -> DerivedPath {
    let text = script(name, text).to_aterm(store.store_dir());
    let added = add(
        store,
        &format!("{name}.drv"),
        ContentAddressMethod::Text,
        &text,
    );
    DerivedPath::Built {
        drv: added.unwrap().path.into(),
        outputs: OutputsSpec::All,
    }
}

#[derive(Default)]
struct Seen(Vec<String>);

impl BuildObserver for Seen {
    fn started(&mut self, drv: &StorePath, _mode: BuildMode) {
        self.0.push(format!("started {}", drv.name()));
    }

    fn log_line(&mut self, drv: &StorePath, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        self.0.push(format!("{}: {line}", drv.name()));
    }

    fn finished(&mut self, drv: &StorePath, _result: &BuildResult) {
        self.0.push(format!("finished {}", drv.name()));
    }
}

#[test]
fn what_is_added_in_each_way_comes_back_at_every_version() {
    with_each_version(Trust::Trusted, |_, store, remote| {
        let content = vec![b'x'; 300_001];
        let nar = nar_of_file(&content);
        let mut added = BTreeSet::new();
        for (name, method, dump) in [
            ("as-nar", ContentAddressMethod::Nar, &nar),
            ("flat", ContentAddressMethod::Flat, &content),
            ("text", ContentAddressMethod::Text, &content),
        ] {
            let info = add(remote, name, method, dump).unwrap();
            assert_eq!(
                Some(&info),
                store.query_path_info(&info.path).unwrap().as_ref()
            );
            assert_eq!(nar_of(remote, &info.path), nar);
            added.insert(info.path);
        }
        let info = info_of("nar", &nar);
        let mut stream = (&nar[..]).chain(&b"what follows"[..]);
        remote.add_nar(&info, false, false, &mut stream).unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "what follows");
        assert_eq!(
            remote.query_path_info(&info.path).unwrap(),
            Some(info.clone())
        );
        added.insert(info.path);
        assert_eq!(remote.query_all_valid_paths().unwrap(), added);
        assert_eq!(store.leftovers(), Vec::<String>::new());
    });
}

#[test]
fn several_objects_are_added_in_one_stream_or_one_by_one() {
    with_each_version(Trust::Trusted, |_, store, remote| {
        let nar = nar_of_file(&vec![7; 100_000]);
        let infos: Vec<_> = (0..5)
            .map(|n| PathInfo {
                path: StorePath::from_hash_and_name(&[n; 20], "object").unwrap(),
                ..info_of("object", &nar)
            })
            .collect();
        let mut open = |_: &PathInfo| Ok(Box::new(&nar[..]) as Box<dyn Read + '_>);
        remote
            .add_multiple(&infos[..2], false, false, &mut open)
            .unwrap();
        remote
            .add_multiple(&infos, false, false, &mut open)
            .unwrap();
        assert_eq!(store.paths().len(), 5);

        let absent = [info_of("absent", &nar)];
        let mut open = |_: &PathInfo| {
            let what = "no object".to_owned();
            Err(StoreError::BadRequest { what })
        };
        let err = remote
            .add_multiple(&absent, false, false, &mut open)
            .unwrap_err();
        assert_eq!(err.to_string(), "no object");
        assert_eq!(remote.query_all_valid_paths().unwrap().len(), 5);
    });
}

#[test]
fn every_question_has_its_answer_at_every_version() {
    with_each_version(Trust::Trusted, |version, store, remote| {
        let (session, hello) = remote.hello().unwrap();
        assert_eq!(session.version, version);
        assert_eq!(
            hello.nix_version,
            if version.minor >= 33 { "2.34.8" } else { "" }
        );
        let path = add(remote, "file", ContentAddressMethod::Flat, b"x")
            .unwrap()
            .path;
        let drv = add_script(remote, "asked", "exit 1");
        let DerivedPath::Built {
            drv: SingleDerivedPath { base: drv_path, .. },
            ..
        } = &drv
        else {
            unreachable!()
        };
        let absent = StorePath::from_hash_and_name(&[9; 20], "absent").unwrap();
        let both = BTreeSet::from([path.clone(), absent.clone()]);
        assert!(remote.is_valid_path(&path).unwrap());
        assert!(!remote.is_valid_path(&absent).unwrap());
        assert_eq!(remote.query_path_info(&absent).unwrap(), None);
        let valid = remote.query_valid_paths(&both, true).unwrap();
        assert_eq!(valid, BTreeSet::from([path.clone()]));
        assert!(remote.query_substitutable_paths(&both).unwrap().is_empty());
        assert!(remote.query_referrers(&path).unwrap().is_empty());
        assert!(remote.query_valid_derivers(&path).unwrap().is_empty());
        let found = remote.query_path_from_hash_part(path.hash_part()).unwrap();
        assert_eq!(found.as_ref(), Some(&path));
        let outputs = remote.query_derivation_output_map(drv_path).unwrap();
        assert_eq!(
            outputs,
            store.query_derivation_output_map(drv_path).unwrap()
        );
        let missing = remote.query_missing(std::slice::from_ref(&drv)).unwrap();
        assert_eq!(missing.will_build, BTreeSet::from([drv_path.clone()]));
        let infos = BTreeMap::from([(path.clone(), None)]);
        assert!(
            remote
                .query_substitutable_path_infos(&infos)
                .unwrap()
                .is_empty()
        );

        remote
            .add_signatures(&path, &["key:c2ln".to_owned()])
            .unwrap();
        let info = remote.query_path_info(&path).unwrap().unwrap();
        assert_eq!(info.signatures, ["key:c2ln"]);
        remote.ensure_path(&path).unwrap();
        remote.ensure_path(&absent).unwrap_err();
        remote.add_temp_root(&path).unwrap();
        remote.add_indirect_root("/x/result".as_ref()).unwrap();
        assert_eq!(
            remote.find_roots(true).unwrap(),
            store.find_roots(true).unwrap()
        );
        remote.optimise(&mut |_, _| {}).unwrap();
        assert!(
            !remote
                .verify(VerifyRequest::default(), &mut |_, _| {})
                .unwrap()
        );
        let gc = GcRequest {
            action: GcAction::ReturnDead,
            ignore_liveness: false,
            paths_to_delete: BTreeSet::new(),
            max_freed_bytes: u64::MAX,
        };
        let collected = remote.collect_garbage(&gc, &mut |_, _| {}).unwrap();
        assert_eq!(
            collected.paths,
            store.collect_garbage(&gc, &mut |_, _| {}).unwrap().paths
        );
        assert!(collected.paths.contains(&path));

        let log = remote.add_build_log(drv_path, &mut &b"log"[..]);
        assert_eq!(log.is_ok(), version.minor >= 32);
        let realisation = Realisation {
            id: DrvOutput {
                drv_hash: sha256(b"drv"),
                output_name: "out".to_owned(),
            },
            out_path: path.clone(),
            signatures: Vec::new(),
            dependent_realisations: BTreeMap::new(),
        };
        let registered = remote.register_realisation(&realisation);
        assert_eq!(registered.is_ok(), version.minor >= 27);
        let found = remote.query_realisation(&realisation.id).unwrap();
        assert_eq!(found.is_some(), version.minor >= 27);
    });
}

#[test]
fn builds_are_told_of_while_they_run_and_what_became_of_each_at_every_version() {
    with_each_version(Trust::Trusted, |version, _, remote| {
        let good = add_script(remote, "good", "echo one; echo two; echo > $out");
        let bad = add_script(remote, "bad", "echo oh; exit 3");
        let mut seen = Seen::default();
        let asked = [good.clone(), bad.clone()];
        let results = remote
            .build_paths(&asked, BuildMode::Normal, &mut seen)
            .unwrap();
        assert_eq!(
            seen.0,
            [
                "started good.drv",
                "good.drv: one",
                "good.drv: two",
                "finished good.drv",
                "started bad.drv",
                "bad.drv: oh",
                "finished bad.drv",
            ]
        );
        assert_eq!((&results[0].path, &results[1].path), (&good, &bad));
        assert_eq!(results[0].result.status, BuildStatus::Built);
        let failed = &results[1].result;
        assert_eq!(
            failed.status,
            match version.minor {
                34.. => BuildStatus::PermanentFailure,
                _ => BuildStatus::MiscFailure,
            }
        );
        assert!(failed.error_msg.contains("exit status: 3"), "{failed:?}");

        let drv_path = StorePath::from_hash_and_name(&[3; 20], "sent.drv").unwrap();
        let drv = script("sent", "echo hello; echo > $out");
        let mut seen = Seen::default();
        let result = remote.build_derivation(&drv_path, &drv, BuildMode::Normal, &mut seen);
        assert_eq!(result.unwrap().status, BuildStatus::Built);
        assert_eq!(seen.0[1], "sent.drv: hello");
    });
}

/// An observer that gives up.
struct Leaving;

impl BuildObserver for Leaving {
    fn started(&mut self, _drv: &StorePath, _mode: BuildMode) {}
    fn log_line(&mut self, _drv: &StorePath, _line: &[u8]) {}
    fn finished(&mut self, _drv: &StorePath, _result: &BuildResult) {}
    fn is_cancelled(&mut self) -> bool {
        true
    }
}

#[test]
fn a_build_that_nobody_waits_for_any_more_is_ended_with_its_connection() {
    let store = DirStore::new();
    let (_server, socket) = serve(&store, Trust::Trusted, Limits::default());
    let remote = RemoteStore::at_socket(socket, RemoteOptions::default());
    let drv = add_script(&remote, "endless", "exec sleep 1000");
    let err = remote
        .build_paths(&[drv], BuildMode::Normal, &mut Leaving)
        .unwrap_err();
    assert!(matches!(&err, StoreError::Failed { source, .. }
        if matches!(source.downcast_ref(), Some(ClientError::Cancelled))));
    while !store.cancelled.load(Ordering::SeqCst) {
        thread::yield_now();
    }
    assert!(remote.query_all_valid_paths().is_ok());
}

#[test]
fn an_error_of_the_server_leaves_its_connection_usable_at_every_version() {
    with_each_version(Trust::NotTrusted, |version, store, remote| {
        let nar = nar_of_file(&vec![7; 3_000_000]);
        let info = info_of("unsigned", &nar);
        let mut stream = &nar[..];
        let err = remote.add_nar(&info, false, true, &mut stream).unwrap_err();
        assert!(err.to_string().contains("lacks a signature"), "{err}");
        assert!(stream.is_empty(), "what follows a NAR is read next");
        let mut wrong = info_of("wrong", &nar);
        wrong.nar_hash = sha256(b"other");
        wrong.signatures = vec!["key:c2ln".to_owned()];
        let err = remote
            .add_nar(&wrong, false, true, &mut &nar[..])
            .unwrap_err();
        assert!(err.to_string().contains("hash mismatch"), "{err}");
        let err = add(
            remote,
            "broken",
            ContentAddressMethod::Nar,
            &nar_of_file(b"x")[..64],
        );
        assert!(err.is_err());
        assert!(remote.query_all_valid_paths().unwrap().is_empty());
        assert_eq!(
            store.leftovers(),
            Vec::<String>::new(),
            "1.{}",
            version.minor
        );
    });
}

#[test]
fn a_payload_that_breaks_off_is_never_ended_as_if_it_were_whole() {
    struct Breaking(usize);
    impl Read for Breaking {
        fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::ErrorKind::Other.into());
            }
            let len = bytes.len().min(self.0);
            bytes[..len].fill(b'x');
            self.0 -= len;
            Ok(len)
        }
    }
    with_each_version(Trust::Trusted, |_, store, remote| {
        let added = remote.add_content_addressed(
            "half",
            ContentAddressMethod::Flat,
            HashAlgorithm::Sha256,
            &BTreeSet::new(),
            false,
            &mut Breaking(200_000),
        );
        assert!(matches!(added, Err(StoreError::Failed { .. })), "{added:?}");
        assert!(remote.query_all_valid_paths().unwrap().is_empty());
        assert!(store.paths().is_empty());
    });
}

#[test]
fn connections_are_shared_by_threads_and_made_again_when_their_server_has_gone() {
    let store = DirStore::new();
    let (server, socket) = serve(&store, Trust::Trusted, Limits::default());
    let made = Arc::new(AtomicUsize::new(0));
    let counted = made.clone();
    let at = socket.clone();
    let connect = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        store_client::Connect::connect(&UnixSocket::new(&at))
    };
    let options = RemoteOptions {
        connections_max: 3,
        ..RemoteOptions::default()
    };
    let remote = RemoteStore::new(connect, options);
    thread::scope(|scope| {
        for n in 0..12 {
            let remote = &remote;
            scope.spawn(move || {
                for m in 0..20 {
                    let name = format!("file-{n}-{m}");
                    add(remote, &name, ContentAddressMethod::Flat, b"x").unwrap();
                }
            });
        }
    });
    assert!(made.load(Ordering::SeqCst) <= 3);
    assert_eq!(remote.query_all_valid_paths().unwrap().len(), 240);
    server.stop();
    std::fs::remove_file(&socket).unwrap();
    let err = remote.query_all_valid_paths().unwrap_err();
    assert!(matches!(err, StoreError::Failed { .. }), "{err}");
    let (_server, _) = serve(&store, Trust::Trusted, Limits::default());
    assert_eq!(remote.query_all_valid_paths().unwrap().len(), 240);
}

/// A server that does as it is told: one connection.
fn scripted(
    act: impl FnOnce(&mut Session, UnixStream) + Send + 'static,
) -> (RemoteStore, thread::JoinHandle<()>) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let serving = thread::spawn(move || {
        let _dir = dir;
        let (stream, _) = listener.accept().unwrap();
        let mut reader = store_wire::Reader::new(stream.try_clone().unwrap());
        let mut output = stream.try_clone().unwrap();
        let hello = store_wire::Hello {
            nix_version: "2.34".to_owned(),
            trust: Trust::Trusted,
        };
        let mut session = store_wire::handshake_as_server(
            &mut reader,
            &mut output,
            &hello,
            &BTreeSet::new(),
            &Default::default(),
        )
        .unwrap();
        send(&session, &mut output, &StderrFrame::Last).unwrap();
        act(&mut session, stream);
    });
    (
        RemoteStore::at_socket(socket, RemoteOptions::default()),
        serving,
    )
}

fn send(session: &Session, mut out: impl Write, frame: &StderrFrame) -> io::Result<()> {
    let mut w = Writer::new();
    frame.write(session, &mut w);
    out.write_all(&w.into_bytes())
}

#[test]
fn a_server_that_talks_more_than_fits_into_its_socket_before_it_reads_is_listened_to() {
    let (remote, serving) = scripted(|session, mut stream| {
        let message = StderrFrame::Next(vec![b'm'; 100_000]);
        for _ in 0..100 {
            send(session, &stream, &message).unwrap();
        }
        let refused = StderrFrame::Error(RemoteError::new("enough"));
        send(session, &stream, &refused).unwrap();
        io::copy(&mut stream, &mut io::sink()).unwrap();
    });
    // Far more than a socket takes.
    let nar = nar_of_file(&vec![1; 20_000_000]);
    let err = remote.add_nar(&info_of("large", &nar), false, false, &mut &nar[..]);
    assert_eq!(err.unwrap_err().to_string(), "enough");
    drop(remote);
    serving.join().unwrap();
}

#[test]
fn an_early_error_ends_the_sending() {
    let sent = Arc::new(Mutex::new(0));
    let counted = sent.clone();
    let (remote, serving) = scripted(move |session, mut stream| {
        let refused = StderrFrame::Error(RemoteError::new("no space"));
        send(session, &stream, &refused).unwrap();
        *counted.lock().unwrap() = io::copy(&mut stream, &mut io::sink()).unwrap();
    });
    let nar = nar_of_file(&vec![1; 50_000_000]);
    let err = remote.add_nar(&info_of("large", &nar), false, false, &mut &nar[..]);
    assert_eq!(err.unwrap_err().to_string(), "no space");
    drop(remote);
    serving.join().unwrap();
    let sent = *sent.lock().unwrap();
    assert!(
        sent < 2_000_000,
        "{sent} bytes were sent to a server that wants none"
    );
}

#[test]
fn the_last_words_of_a_server_that_has_closed_its_connection_are_read() {
    let (remote, serving) = scripted(|session, stream| {
        let refused = StderrFrame::Error(RemoteError::new("going down"));
        send(session, &stream, &refused).unwrap();
        stream.shutdown(std::net::Shutdown::Both).unwrap();
    });
    let nar = nar_of_file(&vec![1; 20_000_000]);
    let mut stream = &nar[..];
    let err = remote.add_nar(&info_of("large", &nar), false, false, &mut stream);
    serving.join().unwrap();
    let err = err.unwrap_err();
    let mut text = err.to_string();
    let mut cause = std::error::Error::source(&err);
    while let Some(err) = cause {
        text = format!("{text}: {err}");
        cause = err.source();
    }
    assert!(text.contains("going down"), "{text}");
}

#[test]
fn a_server_that_sends_nonsense_is_an_error_and_is_not_asked_again() {
    for nonsense in [7u64.to_le_bytes().to_vec(), vec![0xff; 64], {
        let mut w = Writer::new();
        w.u64(0x616c_7473).u64(u64::MAX);
        w.into_bytes()
    }] {
        let (remote, serving) = scripted(move |_, mut stream| {
            stream.write_all(&nonsense).unwrap();
            io::copy(&mut stream, &mut io::sink()).unwrap();
        });
        let err = remote.query_all_valid_paths().unwrap_err();
        assert!(matches!(err, StoreError::Failed { .. }), "{err}");
        // Its only connection is closed: the thread sees its end.
        serving.join().unwrap();
    }
}

#[test]
fn any_pair_of_streams_will_do() {
    let store = DirStore::new();
    let served = store.clone();
    let connect = move || {
        let (ours, theirs) = UnixStream::pair()?;
        let served = served.clone();
        thread::spawn(move || {
            let options = support::options(Trust::Trusted);
            droste_daemon::serve_connection(theirs, &*served, &options)
        });
        Streams::socket(ours)
    };
    let remote = RemoteStore::new(connect, RemoteOptions::default());
    let path = add(&remote, "file", ContentAddressMethod::Flat, b"x")
        .unwrap()
        .path;
    assert_eq!(store.paths(), BTreeSet::from([path.clone()]));
    let absent = PathBuf::from("/nonexistent/socket");
    let nobody = RemoteStore::at_socket(absent, RemoteOptions::default());
    let results = remote.build_paths(&[DerivedPath::Opaque(path)], BuildMode::Normal, &mut Silent);
    assert!(results.unwrap()[0].result.is_success());
    let err = nobody.query_all_valid_paths().unwrap_err();
    assert!(matches!(&err, StoreError::Failed { source, .. }
        if matches!(source.downcast_ref(), Some(ClientError::Connect(_)))));
}
