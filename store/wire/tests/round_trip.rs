//! Every message at every version: what is written is read back, to the last
//! byte.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::strategy::Union;
use store_api::{
    BuildMode, BuildResult, BuildStatus, GcAction, GcRequest, GcResult, KeyedBuildResult, Missing,
    VerifyRequest,
};
use store_types::{
    BuildTraceEntry, BuildTraceKey, ContentAddress, ContentAddressMethod, Derivation,
    DerivationOutput, DerivedPath, DrvOutput, Hash, HashAlgorithm, OutputsSpec, PathInfo,
    Realisation, SingleDerivedPath, StorePath,
};
use store_wire::{
    ActivityField, ClientOptions, Reader, RemoteError, Request, Response, Session, StderrFrame,
    SubstitutablePathInfo, Version, Writer, feature,
};

fn session() -> impl Strategy<Value = Session> {
    let features = [feature::ADD_TO_STORE_SCANNING, feature::SUBMIT_OUTPUT];
    (Version::MINIMUM.minor..=Version::LATEST.minor).prop_map(move |minor| Session {
        features: features.map(String::from).into(),
        ..Session::new(Version::new(minor), Default::default())
    })
}

fn single_derived_path() -> impl Strategy<Value = SingleDerivedPath> {
    (path(), vec("[a-z]{1,5}", 0..4))
        .prop_map(|(base, outputs)| SingleDerivedPath { base, outputs })
}

fn path() -> impl Strategy<Value = StorePath> {
    (any::<[u8; 20]>(), "[a-z+?=]{1,20}(\\.drv)?")
        .prop_map(|(hash, name)| StorePath::from_hash_and_name(&hash, &name).unwrap())
}

fn paths() -> impl Strategy<Value = BTreeSet<StorePath>> {
    btree_set(path(), 0..4)
}

fn algorithm() -> impl Strategy<Value = HashAlgorithm> {
    prop::sample::select(vec![
        HashAlgorithm::Md5,
        HashAlgorithm::Sha1,
        HashAlgorithm::Sha256,
        HashAlgorithm::Sha512,
    ])
}

fn method() -> impl Strategy<Value = ContentAddressMethod> {
    prop::sample::select(vec![
        ContentAddressMethod::Text,
        ContentAddressMethod::Flat,
        ContentAddressMethod::Nar,
    ])
}

fn sha256() -> impl Strategy<Value = Hash> {
    any::<[u8; 32]>().prop_map(|bytes| Hash::new(HashAlgorithm::Sha256, &bytes).unwrap())
}

fn ca() -> impl Strategy<Value = ContentAddress> {
    (method(), algorithm(), any::<Vec<u8>>()).prop_map(|(method, algorithm, bytes)| {
        ContentAddress {
            method,
            hash: algorithm.digest(&bytes),
        }
    })
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    vec(any::<String>(), 0..3)
}

fn info() -> impl Strategy<Value = PathInfo> {
    (
        (path(), sha256(), any::<u64>(), paths()),
        (
            option::of(path()),
            0..i64::MAX,
            any::<bool>(),
            texts(),
            option::of(ca()),
        ),
    )
        .prop_map(|((path, nar_hash, nar_size, references), rest)| {
            let (deriver, registration_time, ultimate, signatures, ca) = rest;
            PathInfo {
                path,
                nar_hash,
                nar_size,
                references,
                deriver,
                registration_time,
                ultimate,
                signatures,
                ca,
            }
        })
}

fn derived_path() -> impl Strategy<Value = DerivedPath> {
    let names = option::of(btree_set("[a-z]{1,5}", 1..3));
    (path(), names, vec("[a-z]{1,5}", 0..3), 0..3).prop_map(|(path, names, nested, kind)| {
        let outputs = match (kind, names) {
            // Before 1.30 a derivation alone cannot be named.
            (0, _) if !path.is_derivation() => return DerivedPath::Opaque(path),
            (1, Some(names)) => OutputsSpec::Names(names),
            _ => OutputsSpec::All,
        };
        let drv = match path.is_derivation() {
            true => path,
            false => StorePath::from_base_name(&format!("{path}.drv")).unwrap(),
        };
        let drv = SingleDerivedPath {
            base: drv,
            outputs: nested,
        };
        DerivedPath::Built { drv, outputs }
    })
}

fn derived_paths() -> impl Strategy<Value = Vec<DerivedPath>> {
    vec(derived_path(), 0..3)
}

fn drv_output() -> impl Strategy<Value = DrvOutput> {
    (sha256(), "[a-z]{1,5}").prop_map(|(drv_hash, output_name)| DrvOutput {
        drv_hash,
        output_name,
    })
}

fn realisation() -> impl Strategy<Value = Realisation> {
    (
        drv_output(),
        path(),
        texts(),
        btree_map(drv_output(), path(), 0..2),
    )
        .prop_map(
            |(id, out_path, signatures, dependent_realisations)| Realisation {
                id,
                out_path,
                signatures,
                dependent_realisations,
            },
        )
}

fn output() -> impl Strategy<Value = DerivationOutput> {
    prop_oneof![
        path().prop_map(DerivationOutput::InputAddressed),
        (ca(), path()).prop_map(|(ca, path)| DerivationOutput::Fixed { ca, path }),
        (method(), algorithm())
            .prop_map(|(method, algorithm)| DerivationOutput::Floating { method, algorithm }),
        (method(), algorithm())
            .prop_map(|(method, algorithm)| DerivationOutput::Impure { method, algorithm }),
        Just(DerivationOutput::Deferred),
    ]
}

fn derivation() -> impl Strategy<Value = Derivation> {
    let bytes = || vec(any::<u8>(), 0..20);
    (
        btree_map("[a-z]{1,5}", output(), 0..3),
        paths(),
        (bytes(), bytes(), vec(bytes(), 0..3)),
        btree_map(bytes(), bytes(), 0..3),
    )
        .prop_map(
            |(outputs, input_srcs, (system, builder, args), env)| Derivation {
                outputs,
                input_drvs: BTreeMap::new(),
                input_srcs,
                system: system.into(),
                builder: builder.into(),
                args: args.into_iter().map(Into::into).collect(),
                env: env.into_iter().map(|(k, v)| (k.into(), v.into())).collect(),
            },
        )
}

fn mode() -> impl Strategy<Value = BuildMode> {
    prop::sample::select(vec![BuildMode::Normal, BuildMode::Repair, BuildMode::Check])
}

fn gc_action() -> impl Strategy<Value = GcAction> {
    (0u64..4).prop_map(|number| GcAction::try_from(number).unwrap())
}

fn client_options() -> impl Strategy<Value = ClientOptions> {
    (
        any::<(bool, bool, bool, u64, u64, u64)>(),
        any::<(u64, u64, bool)>(),
        btree_map(any::<String>(), any::<String>(), 0..3),
    )
        .prop_map(|(first, second, overrides)| ClientOptions {
            keep_failed: first.0,
            keep_going: first.1,
            try_fallback: first.2,
            verbosity: first.3,
            max_build_jobs: first.4,
            max_silent_time: first.5,
            build_verbosity: second.0,
            build_cores: second.1,
            use_substitutes: second.2,
            overrides,
        })
}

/// Requests whose every member exists at every version.
fn request() -> impl Strategy<Value = Request> {
    let of_path = [
        Request::IsValidPath,
        Request::QueryReferrers,
        Request::EnsurePath,
        Request::AddTempRoot,
        Request::QueryDeriver,
        Request::QuerySubstitutablePathInfo,
        Request::QueryDerivationOutputs,
        Request::QueryPathInfo,
        Request::QueryDerivationOutputNames,
        Request::QueryValidDerivers,
        Request::NarFromPath,
        Request::QueryDerivationOutputMap,
        Request::AddBuildLog,
    ];
    let mut all: Vec<BoxedStrategy<Request>> = of_path
        .into_iter()
        .map(|of: fn(StorePath) -> Request| path().prop_map(of).boxed())
        .collect();
    all.extend([
        Just(Request::SyncWithGC).boxed(),
        Just(Request::FindRoots).boxed(),
        Just(Request::QueryAllValidPaths).boxed(),
        Just(Request::OptimiseStore).boxed(),
        (any::<String>(), any::<Vec<u8>>(), paths())
            .prop_map(|(name, text, references)| Request::AddTextToStore {
                name,
                text,
                references,
            })
            .boxed(),
        (derived_paths(), mode())
            .prop_map(|(paths, mode)| Request::BuildPaths { paths, mode })
            .boxed(),
        (derived_paths(), mode())
            .prop_map(|(paths, mode)| Request::BuildPathsWithResults { paths, mode })
            .boxed(),
        any::<Vec<u8>>().prop_map(Request::AddIndirectRoot).boxed(),
        client_options().prop_map(Request::SetOptions).boxed(),
        (gc_action(), any::<bool>(), paths(), any::<u64>())
            .prop_map(
                |(action, ignore_liveness, paths_to_delete, max_freed_bytes)| {
                    Request::CollectGarbage(GcRequest {
                        action,
                        ignore_liveness,
                        paths_to_delete,
                        max_freed_bytes,
                    })
                },
            )
            .boxed(),
        any::<String>()
            .prop_map(Request::QueryPathFromHashPart)
            .boxed(),
        paths().prop_map(Request::QuerySubstitutablePaths).boxed(),
        any::<(bool, bool)>()
            .prop_map(|(check_contents, repair)| {
                Request::VerifyStore(VerifyRequest {
                    check_contents,
                    repair,
                })
            })
            .boxed(),
        (path(), derivation(), mode())
            .prop_map(|(drv_path, derivation, mode)| Request::BuildDerivation {
                drv_path,
                derivation,
                mode,
            })
            .boxed(),
        (path(), texts())
            .prop_map(|(path, signatures)| Request::AddSignatures { path, signatures })
            .boxed(),
        (info(), any::<bool>(), any::<bool>())
            .prop_map(
                |(info, repair, dont_check_signatures)| Request::AddToStoreNar {
                    info,
                    repair,
                    dont_check_signatures,
                },
            )
            .boxed(),
        derived_paths().prop_map(Request::QueryMissing).boxed(),
        drv_output().prop_map(Request::QueryRealisation).boxed(),
        any::<(bool, bool)>()
            .prop_map(
                |(repair, dont_check_signatures)| Request::AddMultipleToStore {
                    repair,
                    dont_check_signatures,
                },
            )
            .boxed(),
        (path(), any::<Vec<u8>>())
            .prop_map(|(path, link)| Request::AddPermRoot { path, link })
            .boxed(),
        (single_derived_path(), "[a-z]{1,8}")
            .prop_map(|(path, output)| Request::SubmitOutput { path, output })
            .boxed(),
        (any::<String>(), method(), algorithm())
            .prop_map(|(name, method, algorithm)| Request::AddToStoreScanning {
                name,
                method,
                algorithm,
            })
            .boxed(),
    ]);
    Union::new(all)
}

/// Requests of which older versions leave something out, as those send them.
fn request_by_version() -> impl Strategy<Value = (Session, Request)> {
    let add = (
        any::<String>(),
        method(),
        algorithm(),
        paths(),
        any::<bool>(),
    );
    prop_oneof![
        (session(), add).prop_map(|(s, (name, method, algorithm, references, repair))| {
            let is_new = s.since(25);
            let request = Request::AddToStore {
                name,
                method: match method {
                    ContentAddressMethod::Text if !is_new => ContentAddressMethod::Flat,
                    method => method,
                },
                algorithm,
                references: if is_new { references } else { BTreeSet::new() },
                repair: is_new && repair,
            };
            (s, request)
        }),
        (session(), paths(), any::<bool>()).prop_map(|(s, paths, substitute)| {
            let substitute = s.since(27) && substitute;
            (s, Request::QueryValidPaths { paths, substitute })
        }),
        (session(), btree_map(path(), option::of(ca()), 0..3)).prop_map(|(s, mut paths)| {
            if !s.since(22) {
                paths.values_mut().for_each(|ca| *ca = None);
            }
            (s, Request::QuerySubstitutablePathInfos(paths))
        }),
        (session(), realisation()).prop_map(|(s, mut realisation)| {
            if !s.since(31) {
                realisation.signatures.clear();
                realisation.dependent_realisations.clear();
            }
            (s, Request::RegisterDrvOutput(realisation))
        }),
    ]
}

fn build_result(s: &Session) -> impl Strategy<Value = BuildResult> + use<> {
    let s = s.clone();
    (
        (0u64..15).prop_map(|number| BuildStatus::try_from(number).unwrap()),
        any::<String>(),
        (any::<u64>(), any::<bool>(), 0..i64::MAX, 0..i64::MAX),
        option::of((0..1u64 << 50).prop_map(Duration::from_micros)),
        vec(realisation(), 0..3),
    )
        .prop_map(move |(status, error_msg, times, cpu, outputs)| {
            let mut result = BuildResult::new(status, error_msg);
            if s.since(29) {
                (
                    result.times_built,
                    result.is_non_deterministic,
                    result.start_time,
                    result.stop_time,
                ) = times;
            }
            if s.since(37) {
                (result.cpu_user, result.cpu_system) = (cpu, cpu.map(|time| time / 2));
                result.cpu_system = result
                    .cpu_system
                    .map(|time| Duration::from_micros(time.as_micros() as u64));
            }
            if s.since(28) {
                result.built_outputs = outputs
                    .into_iter()
                    .map(|output| (output.id.output_name.clone(), output))
                    .collect();
            }
            result
        })
}

fn substitutable() -> impl Strategy<Value = SubstitutablePathInfo> {
    (option::of(path()), paths(), any::<u64>(), any::<u64>()).prop_map(
        |(deriver, references, download_size_bytes, nar_size_bytes)| SubstitutablePathInfo {
            deriver,
            references,
            download_size_bytes,
            nar_size_bytes,
        },
    )
}

/// A reply, with a request that it may answer.
fn reply(s: Session) -> impl Strategy<Value = (Session, Request, Response)> {
    let p = StorePath::from_hash_and_name(&[0; 20], "x").unwrap();
    let mode = BuildMode::Normal;
    let session = s.clone();
    let with = move |request: Request| {
        let s = session.clone();
        move |response: Response| (s.clone(), request.clone(), response)
    };
    let add = Request::AddToStore {
        name: String::new(),
        method: ContentAddressMethod::Nar,
        algorithm: HashAlgorithm::Sha256,
        references: BTreeSet::new(),
        repair: false,
    };
    let id = DrvOutput {
        drv_hash: store_types::sha256(b""),
        output_name: "out".to_owned(),
    };
    let since_31 = s.since(31);
    let asked = id.clone();
    Union::new([
        Just(Response::Nothing)
            .prop_map(with(Request::NarFromPath(p.clone())))
            .boxed(),
        any::<bool>()
            .prop_map(Response::Bool)
            .prop_map(with(Request::IsValidPath(p.clone())))
            .boxed(),
        if s.since(25) {
            info()
                .prop_map(Response::PathInfo)
                .prop_map(with(add))
                .boxed()
        } else {
            path().prop_map(Response::Path).prop_map(with(add)).boxed()
        },
        option::of(path())
            .prop_map(Response::OptionalPath)
            .prop_map(with(Request::QueryDeriver(p.clone())))
            .boxed(),
        paths()
            .prop_map(Response::Paths)
            .prop_map(with(Request::QueryAllValidPaths))
            .boxed(),
        btree_set("[a-z]{1,5}", 0..3)
            .prop_map(Response::Names)
            .prop_map(with(Request::QueryDerivationOutputNames(p.clone())))
            .boxed(),
        btree_map("[a-z]{1,5}", option::of(path()), 0..3)
            .prop_map(Response::OutputMap)
            .prop_map(with(Request::QueryDerivationOutputMap(p.clone())))
            .boxed(),
        option::of(info())
            .prop_map({
                let p = p.clone();
                move |mut info| {
                    info.iter_mut().for_each(|info| info.path = p.clone());
                    Response::OptionalPathInfo(info)
                }
            })
            .prop_map(with(Request::QueryPathInfo(p.clone())))
            .boxed(),
        option::of(substitutable())
            .prop_map(Response::SubstitutablePathInfo)
            .prop_map(with(Request::QuerySubstitutablePathInfo(p.clone())))
            .boxed(),
        btree_map(path(), substitutable(), 0..3)
            .prop_map(Response::SubstitutablePathInfos)
            .prop_map(with(Request::QuerySubstitutablePathInfos(BTreeMap::new())))
            .boxed(),
        build_result(&s)
            .prop_map(Response::BuildResult)
            .prop_map(with(Request::BuildDerivation {
                drv_path: p.clone(),
                derivation: Derivation::default(),
                mode,
            }))
            .boxed(),
        vec((derived_path(), build_result(&s)), 0..3)
            .prop_map(|results| {
                Response::KeyedBuildResults(
                    results
                        .into_iter()
                        .map(|(path, result)| KeyedBuildResult { path, result })
                        .collect(),
                )
            })
            .prop_map(with(Request::BuildPathsWithResults {
                paths: Vec::new(),
                mode,
            }))
            .boxed(),
        (paths(), paths(), paths(), any::<u64>(), any::<u64>())
            .prop_map(|(will_build, will_substitute, unknown, download, nar)| {
                Response::Missing(Missing {
                    will_build,
                    will_substitute,
                    unknown,
                    download_size_bytes: download,
                    nar_size_bytes: nar,
                })
            })
            .prop_map(with(Request::QueryMissing(Vec::new())))
            .boxed(),
        option::of(realisation())
            .prop_map(move |mut found| {
                if let Some(found) = found.as_mut().filter(|_| !since_31) {
                    found.id = asked.clone();
                    found.signatures.clear();
                    found.dependent_realisations.clear();
                }
                Response::Realisation(found)
            })
            .prop_map(with(Request::QueryRealisation(id)))
            .boxed(),
        btree_map(path(), btree_set("/[a-z]{1,5}", 1..3), 0..3)
            .prop_map(|roots| {
                let links = |links: BTreeSet<String>| links.into_iter().map(Into::into).collect();
                Response::Roots(roots.into_iter().map(|(p, l)| (p, links(l))).collect())
            })
            .prop_map(with(Request::FindRoots))
            .boxed(),
        (paths(), any::<u64>())
            .prop_map(|(paths, bytes_freed)| Response::GcResult(GcResult { paths, bytes_freed }))
            .prop_map(with(Request::CollectGarbage(GcRequest {
                action: GcAction::ReturnDead,
                ignore_liveness: false,
                paths_to_delete: BTreeSet::new(),
                max_freed_bytes: 0,
            })))
            .boxed(),
    ])
}

fn frame() -> impl Strategy<Value = StderrFrame> {
    let fields = || {
        vec(
            prop_oneof![
                any::<u64>().prop_map(ActivityField::Number),
                any::<Vec<u8>>().prop_map(ActivityField::Text),
            ],
            0..3,
        )
    };
    prop_oneof![
        any::<Vec<u8>>().prop_map(StderrFrame::Next),
        any::<u64>().prop_map(StderrFrame::Read),
        any::<Vec<u8>>().prop_map(StderrFrame::Write),
        Just(StderrFrame::Last),
        (
            any::<u64>(),
            any::<Vec<u8>>(),
            any::<(u64, u64, u64)>(),
            fields()
        )
            .prop_map(|(id, text, (level, kind, parent), fields)| {
                StderrFrame::StartActivity {
                    id,
                    level,
                    kind,
                    text,
                    fields,
                    parent,
                }
            }),
        any::<u64>().prop_map(|id| StderrFrame::StopActivity { id }),
        (any::<u64>(), any::<u64>(), fields()).prop_map(|(id, kind, fields)| StderrFrame::Result {
            id,
            kind,
            fields
        }),
    ]
}

fn check_request(session: &Session, request: Request) -> Result<(), TestCaseError> {
    let mut w = Writer::new();
    request.write(session, &mut w);
    let bytes = w.into_bytes();
    prop_assert_eq!(bytes.len() % 8, 0);
    let mut reader = Reader::new(&bytes[..]);
    let read = Request::read(session, &mut reader).unwrap();
    prop_assert_eq!(read, Some(request));
    prop_assert_eq!(reader.into_inner(), &b""[..]);
    for len in [1, bytes.len() / 2, bytes.len() - 1] {
        let mut reader = Reader::new(&bytes[..len]);
        prop_assert!(Request::read(session, &mut reader).is_err());
    }
    Ok(())
}

/// Source: nix `src/libstore/worker-protocol.cc`, `remote-store.cc`.
#[test]
fn what_exists_inside_builds_alone_has_the_bytes_of_nix_and_needs_its_feature() {
    let plain = Session::new(Version::LATEST, Default::default());
    let mut inside = plain.clone();
    inside.features = [feature::ADD_TO_STORE_SCANNING, feature::SUBMIT_OUTPUT]
        .map(String::from)
        .into();
    let base = StorePath::from_hash_and_name(&[0; 20], "a.drv").unwrap();
    let base_text = inside.store_dir.display(&base);
    let submit = Request::SubmitOutput {
        path: SingleDerivedPath {
            base,
            outputs: vec!["first".into(), "second".into()],
        },
        output: "out".into(),
    };
    let add = Request::AddToStoreScanning {
        name: "thing".into(),
        method: ContentAddressMethod::Nar,
        algorithm: HashAlgorithm::Sha256,
    };
    let mut expected = [Writer::new(), Writer::new()];
    expected[0].u64(1000).u64(1).u64(1).u64(0).bytes(base_text);
    expected[0].bytes("first").bytes("second").bytes("out");
    expected[1].u64(1001).bytes("thing").bytes("fixed:r:sha256");
    for (request, expected) in [submit, add].into_iter().zip(expected) {
        let mut w = Writer::new();
        request.write(&inside, &mut w);
        let bytes = w.into_bytes();
        assert_eq!(bytes, expected.into_bytes());
        let mut reader = Reader::new(&bytes[..]);
        assert_eq!(Request::read(&inside, &mut reader).unwrap(), Some(request));
        assert!(Request::read(&plain, &mut Reader::new(&bytes[..])).is_err());
    }
}

/// Source: nix `src/libstore/worker-protocol.cc` (`UnkeyedRealisation`, `BuildResult`).
#[test]
fn realisations_by_path_have_the_bytes_of_nix_and_need_their_feature() {
    let plain = Session::new(Version::LATEST, Default::default());
    let mut by_path = plain.clone();
    let name = feature::REALISATION_WITH_PATH.into();
    by_path.features.insert(name);
    let store_path = |name| StorePath::from_hash_and_name(&[0; 20], name).unwrap();
    let key = BuildTraceKey {
        drv_path: store_path("a.drv"),
        output_name: "dev".into(),
    };
    let signature = format!("key:{}==", "A".repeat(86));
    let entry = BuildTraceEntry {
        key: key.clone(),
        out_path: store_path("a-dev"),
        signatures: [signature.parse().unwrap()].into(),
    };
    let drv_path = plain.store_dir.display(&key.drv_path);
    let out_path = plain.store_dir.display(&entry.out_path);
    let mut expected = [Writer::new(), Writer::new()];
    expected[0].u64(42).bytes(&drv_path).bytes("dev");
    expected[0].bytes(&out_path).u64(1).bytes(&signature);
    expected[1].u64(43).bytes(&drv_path).bytes("dev");
    let query = Request::QueryBuildTrace(key.clone());
    for (request, expected) in [Request::RegisterBuildTrace(entry.clone()), query.clone()]
        .into_iter()
        .zip(expected)
    {
        let mut w = Writer::new();
        request.write(&by_path, &mut w);
        let bytes = w.into_bytes();
        assert_eq!(bytes, expected.into_bytes());
        let mut reader = Reader::new(&bytes[..]);
        assert_eq!(Request::read(&by_path, &mut reader).unwrap(), Some(request));
        assert!(Request::read(&plain, &mut Reader::new(&bytes[..])).is_err());
    }
    let mut result = BuildResult::new(BuildStatus::Built, "");
    let realisation = Realisation {
        id: DrvOutput {
            // It is not sent.
            drv_hash: Hash::new(HashAlgorithm::Sha256, &[0; 32]).unwrap(),
            output_name: "dev".into(),
        },
        out_path: entry.out_path.clone(),
        signatures: Vec::new(),
        dependent_realisations: BTreeMap::new(),
    };
    result.built_outputs.insert("dev".into(), realisation);
    let mut expected = [Writer::new(), Writer::new(), Writer::new()];
    expected[0].u64(1).bytes(&out_path).u64(1).bytes(&signature);
    expected[1].u64(0);
    // Status, message, times, and the processor's times.
    expected[2].u64(0).bytes("");
    for _ in 0..6 {
        expected[2].u64(0);
    }
    expected[2].u64(1).bytes("dev").bytes(&out_path).u64(0);
    let build = Request::BuildDerivation {
        drv_path: key.drv_path,
        derivation: Derivation::default(),
        mode: BuildMode::Normal,
    };
    let responses = [
        (Response::BuildTrace(Some(entry)), &query),
        (Response::BuildTrace(None), &query),
        (Response::BuildResult(result), &build),
    ];
    for ((response, request), expected) in responses.into_iter().zip(expected) {
        let mut w = Writer::new();
        response.write(&by_path, &mut w);
        let bytes = w.into_bytes();
        assert_eq!(bytes, expected.into_bytes());
        let read = Response::read(request, &by_path, &mut Reader::new(&bytes[..]));
        assert_eq!(read.unwrap(), response);
    }
}

#[test]
fn a_path_of_outputs_without_end_is_refused() {
    let mut inside = Session::new(Version::LATEST, Default::default());
    inside.features.insert(feature::SUBMIT_OUTPUT.into());
    let mut w = Writer::new();
    w.u64(1000);
    for _ in 0..1000 {
        w.u64(1);
    }
    let bytes = w.into_bytes();
    assert!(Request::read(&inside, &mut Reader::new(&bytes[..])).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_request_comes_back(session in session(), request in request()) {
        check_request(&session, request)?;
    }

    #[test]
    fn requests_that_older_versions_send_shorter_come_back((session, request) in request_by_version()) {
        check_request(&session, request)?;
    }

    #[test]
    fn every_reply_comes_back((session, request, response) in session().prop_flat_map(reply)) {
        let mut w = Writer::new();
        response.write(&session, &mut w);
        let bytes = w.into_bytes();
        let mut reader = Reader::new(&bytes[..]);
        let read = Response::read(&request, &session, &mut reader).unwrap();
        prop_assert_eq!(read, response);
        prop_assert_eq!(reader.into_inner(), &b""[..]);
    }

    #[test]
    fn every_frame_comes_back(session in session(), frame in frame()) {
        let mut w = Writer::new();
        frame.write(&session, &mut w);
        let bytes = w.into_bytes();
        let mut reader = Reader::new(&bytes[..]);
        prop_assert_eq!(StderrFrame::read(&session, &mut reader).unwrap(), frame);
        prop_assert_eq!(reader.into_inner(), &b""[..]);
    }

    #[test]
    fn errors_come_back_in_the_form_of_their_version(
        session in session(),
        level in 0u64..8,
        message: String,
        traces in texts(),
        status: u64,
    ) {
        let is_new = session.since(26);
        let error = StderrFrame::Error(RemoteError {
            level: if is_new { level } else { 0 },
            message,
            traces: if is_new { traces } else { Vec::new() },
            exit_status: if is_new { 1 } else { status },
        });
        let mut w = Writer::new();
        error.write(&session, &mut w);
        let bytes = w.into_bytes();
        prop_assert_eq!(StderrFrame::read(&session, &mut Reader::new(&bytes[..])).unwrap(), error);
    }

    #[test]
    fn no_bytes_make_a_reader_panic(session in session(), bytes: Vec<u8>, request in request()) {
        let _ = Request::read(&session, &mut Reader::new(&bytes[..]));
        let _ = Response::read(&request, &session, &mut Reader::new(&bytes[..]));
        let _ = StderrFrame::read(&session, &mut Reader::new(&bytes[..]));
    }
}
