//! What a server answers.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use store_api::{BuildResult, GcResult, KeyedBuildResult, Missing, Roots};
use store_types::{BuildTraceEntry, PathInfo, Realisation, StorePath};

use crate::codec::{NAME_LEN_MAX, Reader, WireError, Writer};
use crate::request::Request;
use crate::session::{Session, output_name, put_realisation, realisation};

/// What a substituter knows of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubstitutablePathInfo {
    /// The derivation it was made by.
    pub deriver: Option<StorePath>,
    /// What it refers to.
    pub references: BTreeSet<StorePath>,
    /// Bytes to download; 0 if unknown.
    pub download_size_bytes: u64,
    /// Bytes of the NAR; 0 if unknown.
    pub nar_size_bytes: u64,
}

/// A reply, after [`StderrFrame::Last`](crate::StderrFrame::Last).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// No bytes at all: `SetOptions`, `AddToStoreNar`, `AddMultipleToStore`,
    /// `RegisterDrvOutput`; and `NarFromPath`, whose NAR follows as it is.
    Nothing,
    /// A truth value, or the 1 of operations that only succeed.
    Bool(bool),
    /// A path: `AddTextToStore`, and `AddToStore` before 1.25.
    Path(StorePath),
    /// A path or none.
    OptionalPath(Option<StorePath>),
    /// A set of paths.
    Paths(BTreeSet<StorePath>),
    /// Names of outputs.
    Names(BTreeSet<String>),
    /// Paths of outputs.
    OutputMap(BTreeMap<String, Option<StorePath>>),
    /// An added path: `AddToStore` since 1.25, `AddToStoreScanning`.
    PathInfo(PathInfo),
    /// A path's info, or none if it is not valid.
    OptionalPathInfo(Option<PathInfo>),
    /// A substituter's info of one path.
    SubstitutablePathInfo(Option<SubstitutablePathInfo>),
    /// Substituters' info of several paths.
    SubstitutablePathInfos(BTreeMap<StorePath, SubstitutablePathInfo>),
    /// How a build ended.
    BuildResult(BuildResult),
    /// How builds ended.
    KeyedBuildResults(Vec<KeyedBuildResult>),
    /// What would be built and substituted.
    Missing(Missing),
    /// The realisation asked for, or none; before 1.31 its path alone.
    Realisation(Option<Realisation>),
    /// The same, by the derivation's path.
    BuildTrace(Option<BuildTraceEntry>),
    /// Garbage collector roots.
    Roots(Roots),
    /// What a garbage collection did.
    GcResult(GcResult),
    /// A link that was made: `AddPermRoot`.
    Link(PathBuf),
}

impl Response {
    /// Writes the reply.
    pub fn write(&self, s: &Session, w: &mut Writer) {
        match self {
            Self::Nothing => {}
            Self::Bool(value) => {
                w.bool(*value);
            }
            Self::Path(path) => s.put_path(w, path),
            Self::OptionalPath(path) => s.put_optional_path(w, path.as_ref()),
            Self::Paths(paths) => s.put_paths(w, paths),
            Self::Names(names) => {
                w.list(names, |w, name| {
                    w.bytes(name);
                });
            }
            Self::OutputMap(outputs) => {
                w.list(outputs, |w, (name, path)| {
                    w.bytes(name);
                    s.put_optional_path(w, path.as_ref());
                });
            }
            Self::PathInfo(info) => s.write_keyed_path_info(w, info),
            Self::OptionalPathInfo(info) => {
                w.bool(info.is_some());
                if let Some(info) = info {
                    s.put_path_info(w, info);
                }
            }
            Self::SubstitutablePathInfo(info) => {
                w.bool(info.is_some());
                if let Some(info) = info {
                    put_substitutable(s, w, info);
                }
            }
            Self::SubstitutablePathInfos(infos) => {
                w.list(infos, |w, (path, info)| {
                    s.put_path(w, path);
                    put_substitutable(s, w, info);
                });
            }
            Self::BuildResult(result) => s.put_build_result(w, result),
            Self::KeyedBuildResults(results) => {
                w.list(results, |w, result| s.put_keyed_build_result(w, result));
            }
            Self::Missing(missing) => {
                s.put_paths(w, &missing.will_build);
                s.put_paths(w, &missing.will_substitute);
                s.put_paths(w, &missing.unknown);
                w.u64(missing.download_size_bytes)
                    .u64(missing.nar_size_bytes);
            }
            Self::Realisation(found) => {
                w.list(found.as_slice(), |w, found| {
                    if s.since(31) {
                        put_realisation(w, found);
                    } else {
                        s.put_path(w, &found.out_path);
                    }
                });
            }
            Self::BuildTrace(found) => {
                w.bool(found.is_some());
                if let Some(found) = found {
                    s.put_unkeyed_build_trace(w, found);
                }
            }
            Self::Roots(roots) => {
                w.u64(roots.values().map(|links| links.len() as u64).sum());
                for (path, links) in roots {
                    for link in links {
                        w.bytes(link.as_os_str().as_bytes());
                        s.put_path(w, path);
                    }
                }
            }
            Self::GcResult(result) => {
                s.put_paths(w, &result.paths);
                w.u64(result.bytes_freed).u64(0);
            }
            Self::Link(link) => {
                w.bytes(link.as_os_str().as_bytes());
            }
        }
    }

    /// Reads the reply to a request. For `NarFromPath`, what comes before the
    /// NAR: nothing.
    pub fn read<R: Read>(
        request: &Request,
        s: &Session,
        r: &mut Reader<R>,
    ) -> Result<Self, WireError> {
        r.begin_message();
        Ok(match request {
            Request::SetOptions(_)
            | Request::AddToStoreNar { .. }
            | Request::AddMultipleToStore { .. }
            | Request::RegisterDrvOutput(_)
            | Request::RegisterBuildTrace(_)
            | Request::NarFromPath(_) => Self::Nothing,
            Request::IsValidPath(_)
            | Request::BuildPaths { .. }
            | Request::EnsurePath(_)
            | Request::AddTempRoot(_)
            | Request::AddIndirectRoot(_)
            | Request::SyncWithGC
            | Request::OptimiseStore
            | Request::VerifyStore(_)
            | Request::AddSignatures { .. }
            | Request::AddBuildLog(_)
            | Request::SubmitOutput { .. } => Self::Bool(r.bool("reply")?),
            Request::AddToStoreScanning { .. } => Self::PathInfo(s.read_keyed_path_info(r)?),
            Request::AddToStore { .. } if s.since(25) => Self::PathInfo(s.read_keyed_path_info(r)?),
            Request::AddToStore { .. } | Request::AddTextToStore { .. } => {
                Self::Path(s.path(r, "path")?)
            }
            Request::QueryDeriver(_) | Request::QueryPathFromHashPart(_) => {
                Self::OptionalPath(s.optional_path(r, "path")?)
            }
            Request::QueryReferrers(_)
            | Request::QueryDerivationOutputs(_)
            | Request::QueryAllValidPaths
            | Request::QueryValidPaths { .. }
            | Request::QuerySubstitutablePaths(_)
            | Request::QueryValidDerivers(_) => Self::Paths(s.paths(r, "paths")?),
            Request::QueryDerivationOutputNames(_) => {
                Self::Names(r.list("names", |r| output_name(r, "name"))?)
            }
            Request::QueryDerivationOutputMap(_) => Self::OutputMap(r.list("outputs", |r| {
                let name = output_name(r, "name")?;
                Ok((name, s.optional_path(r, "path")?))
            })?),
            Request::QueryPathInfo(path) => Self::OptionalPathInfo(match r.bool("valid")? {
                true => Some(s.path_info(r, path.clone())?),
                false => None,
            }),
            Request::QuerySubstitutablePathInfo(_) => {
                Self::SubstitutablePathInfo(match r.bool("found")? {
                    true => Some(substitutable(s, r)?),
                    false => None,
                })
            }
            Request::QuerySubstitutablePathInfos(_) => {
                Self::SubstitutablePathInfos(r.list("infos", |r| {
                    let path = s.path(r, "path")?;
                    Ok((path, substitutable(s, r)?))
                })?)
            }
            Request::BuildDerivation { .. } => Self::BuildResult(s.build_result(r)?),
            Request::BuildPathsWithResults { .. } => {
                Self::KeyedBuildResults(r.list("results", |r| s.keyed_build_result(r))?)
            }
            Request::QueryMissing(_) => Self::Missing(Missing {
                will_build: s.paths(r, "willBuild")?,
                will_substitute: s.paths(r, "willSubstitute")?,
                unknown: s.paths(r, "unknown")?,
                download_size_bytes: r.u64("downloadSize")?,
                nar_size_bytes: r.u64("narSize")?,
            }),
            Request::QueryRealisation(id) => {
                let mut found: Vec<Realisation> = r.list("realisations", |r| {
                    if s.since(31) {
                        return realisation(r);
                    }
                    Ok(Realisation::unsigned(id.clone(), s.path(r, "path")?))
                })?;
                Self::Realisation(found.drain(..).next())
            }
            Request::QueryBuildTrace(key) => Self::BuildTrace(match r.bool("build trace")? {
                false => None,
                true => {
                    let (out_path, signatures) = s.unkeyed_build_trace(r)?;
                    Some(BuildTraceEntry {
                        key: key.clone(),
                        out_path,
                        signatures,
                    })
                }
            }),
            Request::FindRoots => {
                let pairs: Vec<(PathBuf, StorePath)> = r.list("roots", |r| {
                    let link =
                        PathBuf::from(std::ffi::OsString::from_vec(r.bytes("link", NAME_LEN_MAX)?));
                    Ok((link, s.path(r, "path")?))
                })?;
                let mut roots = Roots::new();
                for (link, path) in pairs {
                    roots.entry(path).or_default().insert(link);
                }
                Self::Roots(roots)
            }
            Request::CollectGarbage(_) => {
                let result = GcResult {
                    paths: s.paths(r, "paths")?,
                    bytes_freed: r.u64("bytesFreed")?,
                };
                r.u64("obsolete field")?;
                Self::GcResult(result)
            }
            Request::AddPermRoot { .. } => Self::Link(PathBuf::from(std::ffi::OsString::from_vec(
                r.bytes("link", NAME_LEN_MAX)?,
            ))),
        })
    }
}

fn put_substitutable(s: &Session, w: &mut Writer, info: &SubstitutablePathInfo) {
    s.put_optional_path(w, info.deriver.as_ref());
    s.put_paths(w, &info.references);
    w.u64(info.download_size_bytes).u64(info.nar_size_bytes);
}

fn substitutable<R: Read>(
    s: &Session,
    r: &mut Reader<R>,
) -> Result<SubstitutablePathInfo, WireError> {
    Ok(SubstitutablePathInfo {
        deriver: s.optional_path(r, "deriver")?,
        references: s.paths(r, "references")?,
        download_size_bytes: r.u64("downloadSize")?,
        nar_size_bytes: r.u64("narSize")?,
    })
}
