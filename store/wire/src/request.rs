//! What a client asks for.
//!
//! Source of numbers and field orders: nix
//! `src/libstore/include/nix/store/worker-protocol.hh`, `daemon.cc`
//! (`performOp`).

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use store_api::{BuildMode, GcRequest, VerifyRequest};
use store_types::{
    BuildTraceEntry, BuildTraceKey, ContentAddress, ContentAddressMethod, Derivation, DerivedPath,
    DrvOutput, HashAlgorithm, PathInfo, Realisation, SingleDerivedPath, StorePath,
};

use crate::codec::{NAME_LEN_MAX, Reader, STRING_LEN_MAX, WireError, Writer};
use crate::feature;
use crate::session::{
    Session, build_mode, content_address, drv_output, nar_hash, numbered, output_name,
    put_realisation, realisation, texts, time,
};

/// The settings that a client wants for its connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientOptions {
    /// Keep the build directories of failed builds.
    pub keep_failed: bool,
    /// Build on after a failure.
    pub keep_going: bool,
    /// Build when substitution fails.
    pub try_fallback: bool,
    /// 0 error … 7 vomit.
    pub verbosity: u64,
    /// How many builds at once.
    pub max_build_jobs: u64,
    /// After how many seconds without a log line a build is stopped; 0 never.
    pub max_silent_time: u64,
    /// 0 if logs of builds are to be shown.
    pub build_verbosity: u64,
    /// `NIX_BUILD_CORES`; 0 for all.
    pub build_cores: u64,
    /// Whether substituters may be used.
    pub use_substitutes: bool,
    /// Other settings by name.
    pub overrides: BTreeMap<String, String>,
}

/// What follows a request, before the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing.
    Nothing,
    /// A framed stream.
    Framed,
    /// A NAR with nothing around it.
    Nar,
    /// A NAR of so many bytes, to be asked for by
    /// [`StderrFrame::Read`](crate::StderrFrame::Read).
    Pulled(u64),
}

/// A request, without the payload that may follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the variants are Nix's operations by Nix's names"
)]
pub enum Request {
    IsValidPath(StorePath),
    QueryReferrers(StorePath),
    AddToStore {
        name: String,
        method: ContentAddressMethod,
        algorithm: HashAlgorithm,
        /// Empty before 1.25.
        references: BTreeSet<StorePath>,
        /// False before 1.25.
        repair: bool,
    },
    AddTextToStore {
        name: String,
        text: Vec<u8>,
        references: BTreeSet<StorePath>,
    },
    BuildPaths {
        paths: Vec<DerivedPath>,
        mode: BuildMode,
    },
    EnsurePath(StorePath),
    AddTempRoot(StorePath),
    /// The link's path, on the server's machine.
    AddIndirectRoot(Vec<u8>),
    SyncWithGC,
    FindRoots,
    QueryDeriver(StorePath),
    SetOptions(ClientOptions),
    CollectGarbage(GcRequest),
    QuerySubstitutablePathInfo(StorePath),
    QueryDerivationOutputs(StorePath),
    QueryAllValidPaths,
    QueryPathInfo(StorePath),
    QueryDerivationOutputNames(StorePath),
    QueryPathFromHashPart(String),
    /// Paths with their content addresses, which are not sent before 1.22.
    QuerySubstitutablePathInfos(BTreeMap<StorePath, Option<ContentAddress>>),
    QueryValidPaths {
        paths: BTreeSet<StorePath>,
        /// False before 1.27.
        substitute: bool,
    },
    QuerySubstitutablePaths(BTreeSet<StorePath>),
    QueryValidDerivers(StorePath),
    OptimiseStore,
    VerifyStore(VerifyRequest),
    BuildDerivation {
        drv_path: StorePath,
        derivation: Derivation,
        mode: BuildMode,
    },
    AddSignatures {
        path: StorePath,
        signatures: Vec<String>,
    },
    NarFromPath(StorePath),
    AddToStoreNar {
        info: PathInfo,
        repair: bool,
        dont_check_signatures: bool,
    },
    QueryMissing(Vec<DerivedPath>),
    QueryDerivationOutputMap(StorePath),
    /// Before 1.31 the id and the path alone.
    RegisterDrvOutput(Realisation),
    QueryRealisation(DrvOutput),
    /// `RegisterDrvOutput` with [`feature::REALISATION_WITH_PATH`].
    RegisterBuildTrace(BuildTraceEntry),
    /// `QueryRealisation` with [`feature::REALISATION_WITH_PATH`].
    QueryBuildTrace(BuildTraceKey),
    /// The stream: a count, then for each object its info in the form of
    /// [`Session::read_keyed_path_info`] and its NAR.
    AddMultipleToStore {
        repair: bool,
        dont_check_signatures: bool,
    },
    AddBuildLog(StorePath),
    BuildPathsWithResults {
        paths: Vec<DerivedPath>,
        mode: BuildMode,
    },
    /// The link's path, on the server's machine.
    AddPermRoot {
        path: StorePath,
        link: Vec<u8>,
    },
    /// Inside builds alone, where [`feature::SUBMIT_OUTPUT`] was agreed on.
    SubmitOutput {
        path: SingleDerivedPath,
        output: String,
    },
    /// Inside builds alone, where [`feature::ADD_TO_STORE_SCANNING`] was agreed on.
    AddToStoreScanning {
        name: String,
        method: ContentAddressMethod,
        algorithm: HashAlgorithm,
    },
}

impl Request {
    /// Nix's name and number of the operation.
    pub const fn operation(&self) -> (&'static str, u64) {
        match self {
            Self::IsValidPath(_) => ("IsValidPath", 1),
            Self::QueryReferrers(_) => ("QueryReferrers", 6),
            Self::AddToStore { .. } => ("AddToStore", 7),
            Self::AddTextToStore { .. } => ("AddTextToStore", 8),
            Self::BuildPaths { .. } => ("BuildPaths", 9),
            Self::EnsurePath(_) => ("EnsurePath", 10),
            Self::AddTempRoot(_) => ("AddTempRoot", 11),
            Self::AddIndirectRoot(_) => ("AddIndirectRoot", 12),
            Self::SyncWithGC => ("SyncWithGC", 13),
            Self::FindRoots => ("FindRoots", 14),
            Self::QueryDeriver(_) => ("QueryDeriver", 18),
            Self::SetOptions(_) => ("SetOptions", 19),
            Self::CollectGarbage(_) => ("CollectGarbage", 20),
            Self::QuerySubstitutablePathInfo(_) => ("QuerySubstitutablePathInfo", 21),
            Self::QueryDerivationOutputs(_) => ("QueryDerivationOutputs", 22),
            Self::QueryAllValidPaths => ("QueryAllValidPaths", 23),
            Self::QueryPathInfo(_) => ("QueryPathInfo", 26),
            Self::QueryDerivationOutputNames(_) => ("QueryDerivationOutputNames", 28),
            Self::QueryPathFromHashPart(_) => ("QueryPathFromHashPart", 29),
            Self::QuerySubstitutablePathInfos(_) => ("QuerySubstitutablePathInfos", 30),
            Self::QueryValidPaths { .. } => ("QueryValidPaths", 31),
            Self::QuerySubstitutablePaths(_) => ("QuerySubstitutablePaths", 32),
            Self::QueryValidDerivers(_) => ("QueryValidDerivers", 33),
            Self::OptimiseStore => ("OptimiseStore", 34),
            Self::VerifyStore(_) => ("VerifyStore", 35),
            Self::BuildDerivation { .. } => ("BuildDerivation", 36),
            Self::AddSignatures { .. } => ("AddSignatures", 37),
            Self::NarFromPath(_) => ("NarFromPath", 38),
            Self::AddToStoreNar { .. } => ("AddToStoreNar", 39),
            Self::QueryMissing(_) => ("QueryMissing", 40),
            Self::QueryDerivationOutputMap(_) => ("QueryDerivationOutputMap", 41),
            Self::RegisterDrvOutput(_) | Self::RegisterBuildTrace(_) => ("RegisterDrvOutput", 42),
            Self::QueryRealisation(_) | Self::QueryBuildTrace(_) => ("QueryRealisation", 43),
            Self::AddMultipleToStore { .. } => ("AddMultipleToStore", 44),
            Self::AddBuildLog(_) => ("AddBuildLog", 45),
            Self::BuildPathsWithResults { .. } => ("BuildPathsWithResults", 46),
            Self::AddPermRoot { .. } => ("AddPermRoot", 47),
            Self::SubmitOutput { .. } => ("SubmitOutput", 1000),
            Self::AddToStoreScanning { .. } => ("AddToStoreScanning", 1001),
        }
    }

    /// What follows this request.
    pub const fn payload(&self, session: &Session) -> Payload {
        match self {
            Self::AddToStore { .. } if session.since(25) => Payload::Framed,
            Self::AddToStore { .. } => Payload::Nar,
            Self::AddToStoreNar { info, .. } if !session.since(23) => {
                Payload::Pulled(info.nar_size)
            }
            Self::AddToStoreNar { .. }
            | Self::AddMultipleToStore { .. }
            | Self::AddBuildLog(_)
            | Self::AddToStoreScanning { .. } => Payload::Framed,
            _ => Payload::Nothing,
        }
    }

    /// Reads a request; `None` if the connection ended before it.
    pub fn read<R: Read>(s: &Session, r: &mut Reader<R>) -> Result<Option<Self>, WireError> {
        let Some(number) = r.u64_or_end("operation")? else {
            return Ok(None);
        };
        r.begin_message();
        Ok(Some(match number {
            1 => Self::IsValidPath(s.path(r, "path")?),
            6 => Self::QueryReferrers(s.path(r, "path")?),
            7 => add_to_store(s, r)?,
            8 => Self::AddTextToStore {
                name: r.name("name")?,
                text: r.bytes("text", STRING_LEN_MAX)?,
                references: s.paths(r, "references")?,
            },
            9 => Self::BuildPaths {
                paths: s.derived_paths(r)?,
                mode: build_mode(r)?,
            },
            10 => Self::EnsurePath(s.path(r, "path")?),
            11 => Self::AddTempRoot(s.path(r, "path")?),
            12 => Self::AddIndirectRoot(r.bytes("link", NAME_LEN_MAX)?),
            13 => Self::SyncWithGC,
            14 => Self::FindRoots,
            18 => Self::QueryDeriver(s.path(r, "path")?),
            19 => Self::SetOptions(client_options(r)?),
            20 => Self::CollectGarbage(gc_request(s, r)?),
            21 => Self::QuerySubstitutablePathInfo(s.path(r, "path")?),
            22 => Self::QueryDerivationOutputs(s.path(r, "path")?),
            23 => Self::QueryAllValidPaths,
            26 => Self::QueryPathInfo(s.path(r, "path")?),
            28 => Self::QueryDerivationOutputNames(s.path(r, "path")?),
            29 => Self::QueryPathFromHashPart(r.name("hash part")?),
            30 => Self::QuerySubstitutablePathInfos(r.list("paths", |r| {
                let path = s.path(r, "path")?;
                let ca = match s.since(22) {
                    true => content_address(r, "ca")?,
                    false => None,
                };
                Ok((path, ca))
            })?),
            31 => Self::QueryValidPaths {
                paths: s.paths(r, "paths")?,
                substitute: s.since(27) && r.bool("substitute")?,
            },
            32 => Self::QuerySubstitutablePaths(s.paths(r, "paths")?),
            33 => Self::QueryValidDerivers(s.path(r, "path")?),
            34 => Self::OptimiseStore,
            35 => Self::VerifyStore(VerifyRequest {
                check_contents: r.bool("checkContents")?,
                repair: r.bool("repair")?,
            }),
            36 => Self::BuildDerivation {
                drv_path: s.path(r, "drvPath")?,
                derivation: s.basic_derivation(r)?,
                mode: build_mode(r)?,
            },
            37 => Self::AddSignatures {
                path: s.path(r, "path")?,
                signatures: texts(r, "sigs")?,
            },
            38 => Self::NarFromPath(s.path(r, "path")?),
            39 => Self::AddToStoreNar {
                info: nar_info(s, r)?,
                repair: r.bool("repair")?,
                dont_check_signatures: r.bool("dontCheckSigs")?,
            },
            40 => Self::QueryMissing(s.derived_paths(r)?),
            41 => Self::QueryDerivationOutputMap(s.path(r, "path")?),
            42 if s.has(feature::REALISATION_WITH_PATH) => {
                let key = s.build_trace_key(r)?;
                let (out_path, signatures) = s.unkeyed_build_trace(r)?;
                Self::RegisterBuildTrace(BuildTraceEntry {
                    key,
                    out_path,
                    signatures,
                })
            }
            42 if s.since(31) => Self::RegisterDrvOutput(realisation(r)?),
            42 => Self::RegisterDrvOutput(Realisation::unsigned(
                drv_output(r, "output id")?,
                base_name(r, "output path")?,
            )),
            43 if s.has(feature::REALISATION_WITH_PATH) => {
                Self::QueryBuildTrace(s.build_trace_key(r)?)
            }
            43 => Self::QueryRealisation(drv_output(r, "output id")?),
            44 => Self::AddMultipleToStore {
                repair: r.bool("repair")?,
                dont_check_signatures: r.bool("dontCheckSigs")?,
            },
            45 => Self::AddBuildLog(base_name_or_path(s, r, "drvPath")?),
            46 => Self::BuildPathsWithResults {
                paths: s.derived_paths(r)?,
                mode: build_mode(r)?,
            },
            47 => Self::AddPermRoot {
                path: s.path(r, "path")?,
                link: r.bytes("link", NAME_LEN_MAX)?,
            },
            1000 if s.has(feature::SUBMIT_OUTPUT) => Self::SubmitOutput {
                path: s.single_derived_path(r)?,
                output: output_name(r, "output name")?,
            },
            1001 if s.has(feature::ADD_TO_STORE_SCANNING) => {
                let name = r.name("name")?;
                let (method, algorithm) = content_address_method(r)?;
                Self::AddToStoreScanning {
                    name,
                    method,
                    algorithm,
                }
            }
            value => {
                return Err(WireError::Number {
                    field: "operation",
                    value,
                });
            }
        }))
    }

    /// Writes a request, its number first.
    pub fn write(&self, s: &Session, w: &mut Writer) {
        w.u64(self.operation().1);
        match self {
            Self::IsValidPath(path)
            | Self::QueryReferrers(path)
            | Self::EnsurePath(path)
            | Self::AddTempRoot(path)
            | Self::QueryDeriver(path)
            | Self::QuerySubstitutablePathInfo(path)
            | Self::QueryDerivationOutputs(path)
            | Self::QueryPathInfo(path)
            | Self::QueryDerivationOutputNames(path)
            | Self::QueryValidDerivers(path)
            | Self::NarFromPath(path)
            | Self::QueryDerivationOutputMap(path) => s.put_path(w, path),
            Self::SyncWithGC | Self::FindRoots | Self::QueryAllValidPaths | Self::OptimiseStore => {
            }
            Self::AddToStore {
                name,
                method,
                algorithm,
                references,
                repair,
            } => {
                w.bytes(name);
                if s.since(25) {
                    put_content_address_method(w, *method, *algorithm);
                    s.put_paths(w, references);
                    w.bool(*repair);
                } else {
                    let is_nar = *method == ContentAddressMethod::Nar;
                    w.bool(!is_nar || *algorithm != HashAlgorithm::Sha256)
                        .bool(is_nar)
                        .bytes(algorithm.name());
                }
            }
            Self::AddTextToStore {
                name,
                text,
                references,
            } => {
                w.bytes(name).bytes(text);
                s.put_paths(w, references);
            }
            Self::BuildPaths { paths, mode } | Self::BuildPathsWithResults { paths, mode } => {
                s.put_derived_paths(w, paths);
                w.u64(*mode as u64);
            }
            Self::AddIndirectRoot(link) => {
                w.bytes(link);
            }
            Self::SetOptions(options) => put_client_options(w, options),
            Self::CollectGarbage(request) => {
                w.u64(request.action as u64);
                s.put_paths(w, &request.paths_to_delete);
                w.bool(request.ignore_liveness).u64(request.max_freed_bytes);
                w.u64(0).u64(0).u64(0);
            }
            Self::QueryPathFromHashPart(hash_part) => {
                w.bytes(hash_part);
            }
            Self::QuerySubstitutablePathInfos(paths) => {
                w.list(paths, |w, (path, ca)| {
                    s.put_path(w, path);
                    if s.since(22) {
                        w.bytes(ca.map_or_else(String::new, |ca| ca.to_string()));
                    }
                });
            }
            Self::QueryValidPaths { paths, substitute } => {
                s.put_paths(w, paths);
                if s.since(27) {
                    w.bool(*substitute);
                }
            }
            Self::QuerySubstitutablePaths(paths) => s.put_paths(w, paths),
            Self::VerifyStore(request) => {
                w.bool(request.check_contents).bool(request.repair);
            }
            Self::BuildDerivation {
                drv_path,
                derivation,
                mode,
            } => {
                s.put_path(w, drv_path);
                s.put_basic_derivation(w, derivation);
                w.u64(*mode as u64);
            }
            Self::AddSignatures { path, signatures } => {
                s.put_path(w, path);
                w.list(signatures, |w, signature| {
                    w.bytes(signature);
                });
            }
            Self::AddToStoreNar {
                info,
                repair,
                dont_check_signatures,
            } => {
                s.write_keyed_path_info(w, info);
                w.bool(*repair).bool(*dont_check_signatures);
            }
            Self::QueryMissing(paths) => s.put_derived_paths(w, paths),
            Self::RegisterDrvOutput(realisation) if s.since(31) => put_realisation(w, realisation),
            Self::RegisterDrvOutput(realisation) => {
                w.bytes(realisation.id.to_string())
                    .bytes(realisation.out_path.base_name());
            }
            Self::QueryRealisation(id) => {
                w.bytes(id.to_string());
            }
            Self::RegisterBuildTrace(entry) => {
                s.put_build_trace_key(w, &entry.key);
                s.put_unkeyed_build_trace(w, entry);
            }
            Self::QueryBuildTrace(key) => s.put_build_trace_key(w, key),
            Self::AddMultipleToStore {
                repair,
                dont_check_signatures,
            } => {
                w.bool(*repair).bool(*dont_check_signatures);
            }
            Self::AddBuildLog(path) => {
                w.bytes(path.base_name());
            }
            Self::AddPermRoot { path, link } => {
                s.put_path(w, path);
                w.bytes(link);
            }
            Self::SubmitOutput { path, output } => {
                s.put_single_derived_path(w, path);
                w.bytes(output);
            }
            Self::AddToStoreScanning {
                name,
                method,
                algorithm,
            } => {
                w.bytes(name);
                put_content_address_method(w, *method, *algorithm);
            }
        }
    }
}

fn base_name<R: Read>(r: &mut Reader<R>, field: &'static str) -> Result<StorePath, WireError> {
    let text = r.name(field)?;
    StorePath::from_base_name(&text)
        .map_err(|err| WireError::text_from(field, text.as_bytes(), err))
}

/// What Nix sends as a base name, and harmonia as a path.
fn base_name_or_path<R: Read>(
    s: &Session,
    r: &mut Reader<R>,
    field: &'static str,
) -> Result<StorePath, WireError> {
    let text = r.name(field)?;
    let parsed = match text.starts_with('/') {
        true => s.store_dir.parse(&text),
        false => StorePath::from_base_name(&text),
    };
    parsed.map_err(|err| WireError::text_from(field, text.as_bytes(), err))
}

/// `text:sha256`, `fixed:<algorithm>`, `fixed:r:<algorithm>`, `fixed:git:<algorithm>`: not quite
/// what stands in derivations.
fn content_address_method<R: Read>(
    r: &mut Reader<R>,
) -> Result<(ContentAddressMethod, HashAlgorithm), WireError> {
    let text = r.name("content address method")?;
    ContentAddressMethod::parse_with_algorithm(text.strip_prefix("fixed:").unwrap_or(&text))
        .filter(|(method, _)| text.starts_with("fixed:") != (*method == ContentAddressMethod::Text))
        .ok_or_else(|| WireError::text("content address method", text.as_bytes()))
}

fn put_content_address_method(
    w: &mut Writer,
    method: ContentAddressMethod,
    algorithm: HashAlgorithm,
) {
    let fixed = match method {
        ContentAddressMethod::Text => "",
        ContentAddressMethod::Flat | ContentAddressMethod::Nar | ContentAddressMethod::Git => {
            "fixed:"
        }
    };
    w.bytes(format!("{fixed}{}", method.with_algorithm(algorithm)));
}

fn add_to_store<R: Read>(s: &Session, r: &mut Reader<R>) -> Result<Request, WireError> {
    let name = r.name("name")?;
    if s.since(25) {
        let (method, algorithm) = content_address_method(r)?;
        return Ok(Request::AddToStore {
            name,
            method,
            algorithm,
            references: s.paths(r, "references")?,
            repair: r.bool("repair")?,
        });
    }
    let is_fixed = r.bool("fixed")?;
    let is_nar = r.u64_at_most("recursive", 1)? == 1;
    let algorithm = r.name("hash algorithm")?;
    let algorithm = HashAlgorithm::from_name(&algorithm)
        .ok_or_else(|| WireError::text("hash algorithm", algorithm.as_bytes()))?;
    // Who says it is not fixed means recursive SHA-256, whatever else it says.
    let (method, algorithm) = match (is_fixed, is_nar) {
        (false, _) => (ContentAddressMethod::Nar, HashAlgorithm::Sha256),
        (true, true) => (ContentAddressMethod::Nar, algorithm),
        (true, false) => (ContentAddressMethod::Flat, algorithm),
    };
    Ok(Request::AddToStore {
        name,
        method,
        algorithm,
        references: BTreeSet::new(),
        repair: false,
    })
}

fn nar_info<R: Read>(s: &Session, r: &mut Reader<R>) -> Result<PathInfo, WireError> {
    Ok(PathInfo {
        path: s.path(r, "path")?,
        deriver: s.optional_path(r, "deriver")?,
        nar_hash: nar_hash(r)?,
        references: s.paths(r, "references")?,
        registration_time: time(r, "registrationTime")?,
        nar_size: r.u64("narSize")?,
        ultimate: r.bool("ultimate")?,
        signatures: texts(r, "sigs")?,
        ca: content_address(r, "ca")?,
    })
}

fn gc_request<R: Read>(s: &Session, r: &mut Reader<R>) -> Result<GcRequest, WireError> {
    let request = GcRequest {
        action: numbered(r, "GC action")?,
        paths_to_delete: s.paths(r, "pathsToDelete")?,
        ignore_liveness: r.bool("ignoreLiveness")?,
        max_freed_bytes: r.u64("maxFreed")?,
    };
    for _ in 0..3 {
        r.u64("obsolete field")?;
    }
    Ok(request)
}

fn client_options<R: Read>(r: &mut Reader<R>) -> Result<ClientOptions, WireError> {
    let mut options = ClientOptions {
        keep_failed: r.bool("keepFailed")?,
        keep_going: r.bool("keepGoing")?,
        try_fallback: r.bool("tryFallback")?,
        verbosity: r.u64("verbosity")?,
        max_build_jobs: r.u64("maxBuildJobs")?,
        max_silent_time: r.u64("maxSilentTime")?,
        ..ClientOptions::default()
    };
    r.u64("useBuildHook")?;
    options.build_verbosity = r.u64("verboseBuild")?;
    r.u64("logType")?;
    r.u64("printBuildTrace")?;
    options.build_cores = r.u64("buildCores")?;
    options.use_substitutes = r.bool("useSubstitutes")?;
    options.overrides = r.list("overrides", |r| {
        let name = r.name("setting")?;
        Ok((name, r.text("setting", STRING_LEN_MAX)?))
    })?;
    Ok(options)
}

fn put_client_options(w: &mut Writer, options: &ClientOptions) {
    w.bool(options.keep_failed)
        .bool(options.keep_going)
        .bool(options.try_fallback)
        .u64(options.verbosity)
        .u64(options.max_build_jobs)
        .u64(options.max_silent_time)
        .u64(1)
        .u64(options.build_verbosity)
        .u64(0)
        .u64(0)
        .u64(options.build_cores)
        .bool(options.use_substitutes)
        .list(&options.overrides, |w, (name, value)| {
            w.bytes(name).bytes(value);
        });
}
