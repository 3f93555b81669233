//! Every operation, by a client of every version.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use droste_daemon::{Limits, ServeAccess, ServeError, Trust, serve_connection, serve_over_ssh};
use store_api::{BuildMode, BuildStatus, GcAction, GcRequest, Store, VerifyRequest};
use store_types::{
    ContentAddressMethod, Derivation, DerivationOutput, DrvOutput, HashAlgorithm, PathInfo,
    Realisation, StorePath, sha256,
};
use store_wire::{ActivityField, ClientOptions, Request, Response, StderrFrame, Version, Writer};

use support::{Client, DirStore, add_script, all_of, nar_of_file, options, serve};

/// A client connected to a thread that serves it.
fn connected(store: &Arc<DirStore>, trust: Trust, version: Version) -> Client {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let store = store.clone();
    thread::spawn(move || serve_connection(theirs, &*store, &options(trust)));
    Client::connect(ours, version).unwrap()
}

fn versions() -> impl Iterator<Item = Version> {
    (Version::MINIMUM.minor..=Version::LATEST.minor).map(Version::new)
}

fn add_flat(name: &str, method: ContentAddressMethod) -> Request {
    Request::AddToStore {
        name: name.to_owned(),
        method,
        algorithm: HashAlgorithm::Sha256,
        references: BTreeSet::new(),
        repair: false,
    }
}

fn path_of(response: Response) -> StorePath {
    match response {
        Response::Path(path) => path,
        Response::PathInfo(info) => info.path,
        other => panic!("{other:?}"),
    }
}

fn info_of_nar(path: &StorePath, nar: &[u8]) -> PathInfo {
    PathInfo {
        path: path.clone(),
        nar_hash: sha256(nar),
        nar_size: nar.len() as u64,
        references: BTreeSet::new(),
        deriver: None,
        registration_time: 7,
        ultimate: true,
        signatures: Vec::new(),
        ca: None,
    }
}

#[test]
fn a_client_of_each_version_adds_asks_and_gets_back_what_it_added() {
    for version in versions() {
        let store = DirStore::new();
        let mut client = connected(&store, Trust::Trusted, version);
        assert_eq!(client.session.version, version);
        let set = client.call(Request::SetOptions(ClientOptions::default()), b"");
        assert_eq!(set, Ok(Response::Nothing));

        let nar = nar_of_file(b"content");
        let as_nar = client
            .call(add_flat("as-nar", ContentAddressMethod::Nar), &nar)
            .unwrap();
        let as_nar = path_of(as_nar);
        // Before 1.25 flat files were sent as NARs, too.
        let sent = if client.session.since(25) {
            b"content".to_vec()
        } else {
            nar.clone()
        };
        let flat = client
            .call(add_flat("flat", ContentAddressMethod::Flat), &sent)
            .unwrap();
        let flat = path_of(flat);
        assert_eq!(
            store.paths(),
            BTreeSet::from([as_nar.clone(), flat.clone()])
        );

        let other = StorePath::from_hash_and_name(&[1; 20], "other").unwrap();
        let add_nar = Request::AddToStoreNar {
            info: info_of_nar(&other, &nar),
            repair: false,
            dont_check_signatures: true,
        };
        assert_eq!(client.call(add_nar, &nar), Ok(Response::Nothing));
        for path in [&as_nar, &flat, &other] {
            let info = match client
                .call(Request::QueryPathInfo(path.clone()), b"")
                .unwrap()
            {
                Response::OptionalPathInfo(Some(info)) => info,
                other => panic!("{other:?}"),
            };
            assert_eq!(Some(&info), store.query_path_info(path).unwrap().as_ref());
            assert_eq!((info.nar_hash, &info.path), (sha256(&nar), path));
            let got = client.call(Request::NarFromPath(path.clone()), b"");
            assert_eq!(got, Ok(Response::Nothing));
            assert_eq!(client.nar(), nar);
        }
        assert_eq!(store.leftovers(), Vec::<String>::new());
    }
}

#[test]
fn several_objects_in_one_stream_are_added_and_a_bad_one_leaves_the_connection_usable() {
    for version in versions().filter(|version| version.minor >= 32) {
        let store = DirStore::new();
        let mut client = connected(&store, Trust::Trusted, version);
        let nar = nar_of_file(b"content");
        let path = |i| StorePath::from_hash_and_name(&[i; 20], "x").unwrap();
        let stream = |hashed: &[u8]| {
            let mut w = Writer::new();
            w.u64(2);
            for i in 1..3 {
                let info = info_of_nar(&path(i), if i == 2 { hashed } else { &nar });
                client.session.write_keyed_path_info(&mut w, &info);
                w.raw(&nar);
            }
            w.into_bytes()
        };
        let (bad, good) = (stream(b"something else"), stream(&nar));
        let request = || Request::AddMultipleToStore {
            repair: false,
            dont_check_signatures: true,
        };
        let error = client.call(request(), &bad).unwrap_err();
        assert!(
            error.message.contains("unpack") || error.message.contains("hash"),
            "{error}"
        );
        assert_eq!(store.paths(), BTreeSet::from([path(1)]));
        assert_eq!(client.call(request(), &good), Ok(Response::Nothing));
        assert_eq!(store.paths(), BTreeSet::from([path(1), path(2)]));
        assert!(!store.query_path_info(&path(2)).unwrap().unwrap().ultimate);
    }
}

#[test]
fn an_object_that_the_store_refuses_early_does_not_put_the_connection_out_of_step() {
    for version in versions() {
        let store = DirStore::new();
        let mut client = connected(&store, Trust::NotTrusted, version);
        let nar = nar_of_file(&vec![0; 1 << 20]);
        let path = StorePath::from_hash_and_name(&[1; 20], "x").unwrap();
        let request = || Request::AddToStoreNar {
            info: info_of_nar(&path, &nar),
            repair: false,
            dont_check_signatures: true,
        };
        let error = client.call(request(), &nar).unwrap_err();
        assert!(error.message.contains("signature"), "{version:?}: {error}");
        let valid = client.call(Request::IsValidPath(path.clone()), b"");
        assert_eq!(valid, Ok(Response::Bool(false)));
    }
}

#[test]
fn an_early_error_is_sent_while_the_client_still_sends() {
    let store = DirStore::new();
    let mut client = connected(&store, Trust::NotTrusted, Version::LATEST);
    let path = StorePath::from_hash_and_name(&[1; 20], "x").unwrap();
    let request = Request::AddToStoreNar {
        info: info_of_nar(&path, &nar_of_file(b"")),
        repair: false,
        dont_check_signatures: true,
    };
    // The request, but of its framed stream only the first bytes.
    let mut w = Writer::new();
    request.write(&client.session, &mut w);
    client.send_raw(&w.into_bytes());
    let error = client.reply(&request, b"").unwrap_err();
    assert!(error.message.contains("signature"), "{error}");
    client.send_raw(&[0; 8]);
    let valid = client.call(Request::IsValidPath(path), b"");
    assert_eq!(valid, Ok(Response::Bool(false)));
}

#[test]
fn log_lines_arrive_while_the_build_runs() {
    for version in versions() {
        let store = DirStore::new();
        let mut client = connected(&store, Trust::Trusted, version);
        let fifo = store.root.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status();
        assert!(made.unwrap().success());
        // The build ends only when somebody has read its first line.
        let script = format!(
            "echo one; read x < {}; echo two; echo x > $out",
            fifo.display()
        );
        let drv = add_script(&mut client, "noisy", &script);
        let request = Request::BuildPaths {
            paths: all_of(&drv),
            mode: BuildMode::Normal,
        };
        client.send(&request, b"");
        let line = |text: &str| vec![ActivityField::Text(text.into())];
        let mut seen = Vec::new();
        while !seen.iter().any(|frame| {
            matches!(frame, StderrFrame::Result { kind: 101, fields, .. } if *fields == line("one"))
        }) {
            seen.push(client.frame());
        }
        assert!(
            matches!(&seen[0], StderrFrame::StartActivity { kind: 105, .. }),
            "{seen:?}"
        );
        std::fs::write(&fifo, "go\n").unwrap();
        assert_eq!(client.reply(&request, b""), Ok(Response::Bool(true)));
        assert!(
            client.frames.iter().any(|frame| {
                matches!(frame, StderrFrame::Result { fields, .. } if *fields == line("two"))
            }),
            "{:?}",
            client.frames
        );
    }
}

#[test]
fn a_build_that_fails_is_an_error_of_build_paths_and_a_result_of_the_other_operations() {
    let store = DirStore::new();
    let mut client = connected(&store, Trust::Trusted, Version::LATEST);
    let drv = add_script(&mut client, "bad", "exit 3");
    let (paths, mode) = (all_of(&drv), BuildMode::Normal);
    let error = client.call(
        Request::BuildPaths {
            paths: paths.clone(),
            mode,
        },
        b"",
    );
    assert!(error.unwrap_err().message.contains("exit status: 3"));
    let results = match client
        .call(Request::BuildPathsWithResults { paths, mode }, b"")
        .unwrap()
    {
        Response::KeyedBuildResults(results) => results,
        other => panic!("{other:?}"),
    };
    assert_eq!(results[0].result.status, BuildStatus::PermanentFailure);
    let derivation = Derivation::parse(
        &client.session.store_dir,
        &std::fs::read(store.physical().join(drv.base_name())).unwrap(),
    );
    let request = Request::BuildDerivation {
        drv_path: drv,
        derivation: derivation.unwrap(),
        mode,
    };
    match client.call(request, b"").unwrap() {
        Response::BuildResult(result) => assert!(!result.is_success()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_client_that_goes_away_cancels_its_build() {
    let store = DirStore::new();
    let (server, socket) = serve(&store, Trust::Trusted, Limits::default());
    let stream = UnixStream::connect(socket).unwrap();
    let mut client = Client::connect(stream, Version::LATEST).unwrap();
    let drv = add_script(&mut client, "endless", "echo started; exec sleep 1000");
    client.send(
        &Request::BuildPaths {
            paths: all_of(&drv),
            mode: BuildMode::Normal,
        },
        b"",
    );
    client.frame();
    drop(client);
    while server.connections() > 0 {
        thread::yield_now();
    }
    assert!(store.cancelled.load(Ordering::SeqCst));
}

#[test]
fn stopping_the_server_cancels_builds_and_ends_idle_connections() {
    let store = DirStore::new();
    let (server, socket) = serve(&store, Trust::Trusted, Limits::default());
    let connect = || Client::connect(UnixStream::connect(&socket).unwrap(), Version::LATEST);
    let _idle = connect().unwrap();
    let mut building = connect().unwrap();
    let drv = add_script(&mut building, "endless", "echo started; exec sleep 1000");
    building.send(
        &Request::BuildPaths {
            paths: all_of(&drv),
            mode: BuildMode::Normal,
        },
        b"",
    );
    building.frame();
    assert_eq!(server.connections(), 2);
    assert_eq!(server.stop(), 0);
    assert!(store.cancelled.load(Ordering::SeqCst));
    assert!(UnixStream::connect(&socket).is_err());
}

#[test]
fn what_needs_trust_is_refused_without_it_and_the_connection_goes_on() {
    let store = DirStore::new();
    let mut client = connected(&store, Trust::NotTrusted, Version::LATEST);
    let drv = add_script(&mut client, "x", "true");
    let derivation = Derivation::parse(
        &client.session.store_dir,
        &std::fs::read(store.physical().join(drv.base_name())).unwrap(),
    )
    .unwrap();
    let realisation = Realisation {
        id: DrvOutput {
            drv_hash: sha256(b""),
            output_name: "out".to_owned(),
        },
        out_path: drv.clone(),
        signatures: Vec::new(),
        dependent_realisations: BTreeMap::new(),
    };
    for (request, text) in [
        (
            Request::BuildPaths {
                paths: all_of(&drv),
                mode: BuildMode::Repair,
            },
            "repairing is not allowed because you are not in 'trusted-users'",
        ),
        (
            Request::BuildDerivation {
                drv_path: StorePath::from_base_name(&format!("{}-no-derivation", "0".repeat(32)))
                    .unwrap(),
                derivation: derivation.clone(),
                mode: BuildMode::Normal,
            },
            "no-derivation' is not a valid derivation path",
        ),
        (
            Request::BuildDerivation {
                drv_path: drv.clone(),
                derivation,
                mode: BuildMode::Normal,
            },
            "not privileged to build input-addressed derivations",
        ),
        (
            Request::RegisterDrvOutput(realisation.clone()),
            "RegisterDrvOutput",
        ),
        (Request::AddBuildLog(drv.clone()), "privileged to add logs"),
        (
            Request::AddPermRoot {
                path: drv.clone(),
                link: b"/x".to_vec(),
            },
            "privileged to create perm roots",
        ),
        (Request::AddIndirectRoot(b"relative".to_vec()), "absolute"),
        (
            Request::VerifyStore(VerifyRequest {
                check_contents: false,
                repair: true,
            }),
            "privileged to repair paths",
        ),
        (
            Request::CollectGarbage(GcRequest {
                action: GcAction::DeleteSpecific,
                ignore_liveness: true,
                paths_to_delete: BTreeSet::new(),
                max_freed_bytes: u64::MAX,
            }),
            "liveness",
        ),
    ] {
        let error = client
            .call(request, b"the payload, if there is one")
            .unwrap_err();
        assert!(error.message.contains(text), "{error}");
    }
    let found = client.call(Request::QueryRealisation(realisation.id), b"");
    assert_eq!(found, Ok(Response::Realisation(None)));
}

#[test]
fn settings_reach_the_store_with_who_sets_them_and_warnings_come_back_unless_nobody_wants_them() {
    let wanted = |verbosity| ClientOptions {
        keep_failed: true,
        verbosity,
        max_build_jobs: u64::MAX,
        max_silent_time: 7,
        build_cores: 3,
        overrides: BTreeMap::from([("sandbox".to_owned(), "false".to_owned())]),
        ..ClientOptions::default()
    };
    for (trust, verbosity, warnings) in [
        (Trust::Trusted, 3, 0),
        (Trust::NotTrusted, 3, 1),
        (Trust::NotTrusted, 0, 0),
    ] {
        let store = DirStore::new();
        let mut client = connected(&store, trust, Version::LATEST);
        let set = client.call(Request::SetOptions(wanted(verbosity)), b"");
        assert_eq!(set, Ok(Response::Nothing));
        assert_eq!(client.frames.len(), warnings);
        for frame in &client.frames {
            let StderrFrame::Next(text) = frame else {
                panic!("{frame:?}");
            };
            let text = String::from_utf8_lossy(text);
            assert!(text.contains("restricted setting"), "{text}");
        }
        let settings = store.settings.lock().unwrap();
        assert_eq!(settings.is_trusted, trust == Trust::Trusted);
        assert_eq!(settings.own["keep-failed"], "true");
        assert_eq!(settings.own["keep-going"], "false");
        assert_eq!(settings.own["max-jobs"], u32::MAX.to_string());
        assert_eq!(settings.own["max-silent-time"], "7");
        assert_eq!(settings.own["cores"], "3");
        assert_eq!(settings.others["sandbox"], "false");
    }
}

#[test]
fn the_limits_of_the_serve_protocol_are_those_of_what_is_built_next() {
    let store = DirStore::new();
    let mut w = Writer::new();
    // The greeting; no paths, and how to build them: silent and running for at most so many seconds,
    // with so long a log, so often, each time the same, and to be kept.
    w.u64(0x390c_9deb).u64(2 << 8 | 7);
    w.u64(6).u64(0).u64(11).u64(12).u64(13).u64(0).u64(0).u64(1);
    let input = w.into_bytes();
    let (mut output, mut log) = (Vec::new(), Vec::new());
    let access = ServeAccess::Write;
    serve_over_ssh(&input[..], &mut output, &mut log, &*store, access).unwrap();
    let settings = store.settings.lock().unwrap();
    assert!(settings.is_trusted);
    assert_eq!(settings.own["max-silent-time"], "11");
    assert_eq!(settings.own["keep-failed"], "true");
    assert_eq!(settings.others["timeout"], "12");
    assert_eq!(settings.others["max-build-log-size"], "13");
    assert_eq!(log, b"");
}

/// What the serve protocol answers to these commands, after the greeting.
fn over_ssh(
    store: &DirStore,
    access: ServeAccess,
    commands: Writer,
) -> (Result<(), ServeError>, Vec<u8>) {
    let mut w = Writer::new();
    w.u64(0x390c_9deb).u64(2 << 8 | 7);
    let input = [w.into_bytes(), commands.into_bytes()].concat();
    let mut output = Vec::new();
    let served = serve_over_ssh(&input[..], &mut output, &mut Vec::new(), store, access);
    (served, output.split_off(16))
}

#[test]
fn an_object_comes_over_the_serve_protocol_in_the_order_in_which_nix_sends_it() {
    let dir = store_types::StoreDir::default();
    let [path, deriver] = [(5, "x"), (6, "x.drv")].map(|(byte, name)| {
        StorePath::from_hash_and_name(&[byte; 20], name).expect("it is a name")
    });
    let nar = nar_of_file(b"content");
    let mut w = Writer::new();
    // AddToStoreNar: path, deriver, narHash, references, registrationTime, narSize, ultimate, sigs, ca.
    w.u64(9)
        .bytes(dir.display(&path))
        .bytes(dir.display(&deriver));
    w.bytes(sha256(&nar).to_hex());
    w.u64(1).bytes(dir.display(&path));
    w.u64(7).u64(nar.len() as u64).u64(1).u64(0).bytes("");
    let mut commands = w.into_bytes();
    commands.extend(&nar);
    let with_nar = || {
        let mut w = Writer::new();
        w.raw(&commands);
        w
    };

    let store = DirStore::new();
    let (served, _) = over_ssh(&store, ServeAccess::Read, with_nar());
    let refusal = served.unwrap_err().to_string();
    assert_eq!(refusal, "importing paths is not allowed");
    assert_eq!(store.paths(), BTreeSet::new());

    let (served, answer) = over_ssh(&store, ServeAccess::Write, with_nar());
    served.unwrap();
    assert_eq!(answer, 1_u64.to_le_bytes());
    let info = store.query_path_info(&path).unwrap().unwrap();
    assert_eq!(info.deriver, Some(deriver));
    assert_eq!(info.references, BTreeSet::from([path]));
    assert_eq!(info.nar_hash, sha256(&nar));
}

#[test]
fn who_may_only_read_gets_closures_with_and_without_the_outputs_and_builds_nothing() {
    let store = DirStore::new();
    let mut client = connected(&store, Trust::Trusted, Version::LATEST);
    let drv = add_script(&mut client, "x", "echo > $out");
    client
        .call(
            Request::BuildPaths {
                paths: all_of(&drv),
                mode: BuildMode::Normal,
            },
            b"",
        )
        .unwrap();
    let dir = store_types::StoreDir::default();
    for (include_outputs, count) in [(false, 1), (true, 2)] {
        let mut w = Writer::new();
        // QueryClosure, without a lock.
        w.u64(7).bool(include_outputs);
        w.u64(1).bytes(dir.display(&drv));
        let (served, answer) = over_ssh(&store, ServeAccess::Read, w);
        served.unwrap();
        assert_eq!(answer[..8], u64::to_le_bytes(count), "{include_outputs}");
    }
    let mut w = Writer::new();
    w.u64(6).u64(1).bytes(format!("{}!out", dir.display(&drv)));
    w.u64(0).u64(0).u64(0).u64(0).u64(0).u64(0);
    let (served, answer) = over_ssh(&store, ServeAccess::Read, w);
    let refusal = served.unwrap_err().to_string();
    assert_eq!(refusal, "building paths is not allowed");
    assert_eq!(answer, b"");
}

#[test]
fn an_untrusted_clients_derivation_is_built_under_its_true_path() {
    let store = DirStore::new();
    let mut client = connected(&store, Trust::NotTrusted, Version::LATEST);
    let derivation = Derivation {
        outputs: BTreeMap::from([(
            "out".to_owned(),
            DerivationOutput::Floating {
                method: ContentAddressMethod::Nar,
                algorithm: HashAlgorithm::Sha256,
            },
        )]),
        system: "x86_64-linux".into(),
        builder: "/bin/sh".into(),
        ..Derivation::default()
    };
    let true_path = derivation.drv_path(&client.session.store_dir, "x").unwrap();
    let claimed = StorePath::from_hash_and_name(&[9; 20], "x.drv").unwrap();
    let request = Request::BuildDerivation {
        drv_path: claimed.clone(),
        derivation,
        mode: BuildMode::Normal,
    };
    client.call(request, b"").unwrap();
    assert_eq!(store.paths(), BTreeSet::from([true_path]));
}

#[test]
fn the_remaining_questions_are_answered_at_every_version() {
    for version in versions() {
        let store = DirStore::new();
        let mut client = connected(&store, Trust::Trusted, version);
        let drv = add_script(&mut client, "x", "true");
        let out = StorePath::from_hash_and_name(&[7; 20], "x").unwrap();
        let only_drv = BTreeSet::from([drv.clone()]);
        let realisation = Realisation {
            id: DrvOutput {
                drv_hash: sha256(b"drv"),
                output_name: "out".to_owned(),
            },
            out_path: out.clone(),
            signatures: Vec::new(),
            dependent_realisations: BTreeMap::new(),
        };
        let outputs = BTreeMap::from([("out".to_owned(), Some(out.clone()))]);
        let hash_part = drv.hash_part().to_owned();
        for (request, response) in [
            (
                Request::QueryAllValidPaths,
                Response::Paths(only_drv.clone()),
            ),
            (
                Request::QueryValidPaths {
                    paths: BTreeSet::from([drv.clone(), out.clone()]),
                    substitute: false,
                },
                Response::Paths(only_drv.clone()),
            ),
            (
                Request::QueryDerivationOutputMap(drv.clone()),
                Response::OutputMap(outputs),
            ),
            (
                Request::QueryDerivationOutputs(drv.clone()),
                Response::Paths(BTreeSet::from([out.clone()])),
            ),
            (
                Request::QueryDerivationOutputNames(drv.clone()),
                Response::Names(BTreeSet::from(["out".to_owned()])),
            ),
            (
                Request::QueryPathFromHashPart(hash_part),
                Response::OptionalPath(Some(drv.clone())),
            ),
            (
                Request::QueryDeriver(drv.clone()),
                Response::OptionalPath(None),
            ),
            (
                Request::QueryPathInfo(out.clone()),
                Response::OptionalPathInfo(None),
            ),
            (Request::AddTempRoot(drv.clone()), Response::Bool(true)),
            (
                Request::AddIndirectRoot(b"/x".to_vec()),
                Response::Bool(true),
            ),
            (Request::SyncWithGC, Response::Bool(true)),
            (Request::EnsurePath(drv.clone()), Response::Bool(true)),
            (Request::OptimiseStore, Response::Bool(true)),
            (
                Request::RegisterDrvOutput(realisation.clone()),
                Response::Nothing,
            ),
            (
                Request::QueryRealisation(realisation.id.clone()),
                Response::Realisation(Some(realisation)),
            ),
            (
                Request::FindRoots,
                Response::Roots(store.find_roots(true).unwrap()),
            ),
            (
                Request::QueryMissing(all_of(&drv)),
                Response::Missing(store.query_missing(&all_of(&drv)).unwrap()),
            ),
            (
                Request::QuerySubstitutablePathInfos(BTreeMap::from([(out.clone(), None)])),
                Response::SubstitutablePathInfos(BTreeMap::new()),
            ),
        ] {
            let name = request.operation().0;
            assert_eq!(
                client.call(request, b""),
                Ok(response),
                "{name} {version:?}"
            );
        }
        let error = client.call(Request::EnsurePath(out), b"").unwrap_err();
        assert!(error.message.contains("is not valid"), "{error}");
    }
}
