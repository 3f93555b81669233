//! What two sides agreed on, and the values whose form depends on it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::time::Duration;

use store_api::{BuildMode, BuildResult, BuildStatus, KeyedBuildResult, UnknownNumber};
use store_types::{
    BuildTraceEntry, BuildTraceKey, ContentAddress, Derivation, DerivationOutput, DerivedPath,
    DrvOutput, Hash, HashAlgorithm, NESTING_MAX, OutputsSpec, PathInfo, Realisation, Signature,
    SingleDerivedPath, StoreDir, StorePath, is_output_name,
};

use crate::codec::{NAME_LEN_MAX, Reader, STRING_LEN_MAX, WireError, Writer};
use crate::feature;

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 1 in all versions.
    pub major: u8,
    /// Counts the changes.
    pub minor: u8,
}

impl Version {
    /// The newest version spoken, that of Nix 2.24 and later.
    pub const LATEST: Self = Self::new(38);
    /// The oldest version spoken, that of Nix 2.3.
    pub const MINIMUM: Self = Self::new(21);

    /// Version 1.`minor`.
    pub const fn new(minor: u8) -> Self {
        Self { major: 1, minor }
    }

    /// The number of the handshake.
    pub const fn to_wire(self) -> u64 {
        (self.major as u64) << 8 | self.minor as u64
    }

    /// The inverse of [`to_wire`](Self::to_wire); higher bits mean nothing.
    pub const fn from_wire(number: u64) -> Self {
        Self {
            major: (number >> 8) as u8,
            minor: number as u8,
        }
    }
}

/// What two sides agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The lower of both versions.
    pub version: Version,
    /// The features that both named (since 1.38).
    pub features: BTreeSet<String>,
    /// The directory of the store paths in messages. It is not sent: both sides
    /// must have been configured alike.
    pub store_dir: StoreDir,
}

impl Session {
    /// Whether the Nix on the other side takes the hash of a content-addressed object with the places
    /// where it refers to itself: up to 2.16 and from 2.35 on. 2.15 and 2.16 speak the version of 2.17,
    /// and are taken for that.
    pub fn hashes_offsets(&self) -> bool {
        let last_old = Version {
            major: 1,
            minor: 34,
        };
        self.version <= last_old || self.has(feature::REALISATION_WITH_PATH)
    }

    /// A session without features.
    pub fn new(version: Version, store_dir: StoreDir) -> Self {
        Self {
            version,
            features: BTreeSet::new(),
            store_dir,
        }
    }

    /// Whether the version is 1.`minor` or later.
    pub const fn since(&self, minor: u8) -> bool {
        self.version.minor >= minor
    }

    /// Whether this feature was agreed on.
    pub fn has(&self, feature: &str) -> bool {
        self.features.contains(feature)
    }

    pub(crate) fn put_path(&self, w: &mut Writer, path: &StorePath) {
        w.bytes(self.store_dir.display(path));
    }

    pub(crate) fn path<R: Read>(
        &self,
        r: &mut Reader<R>,
        field: &'static str,
    ) -> Result<StorePath, WireError> {
        let text = r.name(field)?;
        self.store_dir
            .parse(&text)
            .map_err(|err| WireError::text_from(field, text.as_bytes(), err))
    }

    pub(crate) fn put_optional_path(&self, w: &mut Writer, path: Option<&StorePath>) {
        w.bytes(path.map_or_else(String::new, |path| self.store_dir.display(path)));
    }

    pub(crate) fn optional_path<R: Read>(
        &self,
        r: &mut Reader<R>,
        field: &'static str,
    ) -> Result<Option<StorePath>, WireError> {
        let text = r.name(field)?;
        if text.is_empty() {
            return Ok(None);
        }
        self.store_dir
            .parse(&text)
            .map(Some)
            .map_err(|err| WireError::text_from(field, text.as_bytes(), err))
    }

    pub(crate) fn put_paths(&self, w: &mut Writer, paths: &BTreeSet<StorePath>) {
        w.list(paths, |w, path| self.put_path(w, path));
    }

    pub(crate) fn paths<R: Read>(
        &self,
        r: &mut Reader<R>,
        field: &'static str,
    ) -> Result<BTreeSet<StorePath>, WireError> {
        r.list(field, |r| self.path(r, field))
    }

    /// Path info without its path, in the form of this version.
    pub(crate) fn put_path_info(&self, w: &mut Writer, info: &PathInfo) {
        self.put_optional_path(w, info.deriver.as_ref());
        w.bytes(info.nar_hash.to_hex());
        self.put_paths(w, &info.references);
        w.u64(info.registration_time.max(0) as u64)
            .u64(info.nar_size)
            .bool(info.ultimate)
            .list(&info.signatures, |w, signature| {
                w.bytes(signature);
            })
            .bytes(info.ca.map_or_else(String::new, |ca| ca.to_string()));
    }

    pub(crate) fn path_info<R: Read>(
        &self,
        r: &mut Reader<R>,
        path: StorePath,
    ) -> Result<PathInfo, WireError> {
        Ok(PathInfo {
            path,
            deriver: self.optional_path(r, "deriver")?,
            nar_hash: nar_hash(r)?,
            references: self.paths(r, "references")?,
            registration_time: time(r, "registrationTime")?,
            nar_size: r.u64("narSize")?,
            ultimate: r.bool("ultimate")?,
            signatures: texts(r, "signatures")?,
            ca: content_address(r, "ca")?,
        })
    }

    /// Path info with its path before it, as within `AddMultipleToStore`'s
    /// stream.
    pub fn read_keyed_path_info<R: Read>(&self, r: &mut Reader<R>) -> Result<PathInfo, WireError> {
        let path = self.path(r, "path")?;
        self.path_info(r, path)
    }

    /// The inverse of [`read_keyed_path_info`](Self::read_keyed_path_info).
    pub fn write_keyed_path_info(&self, w: &mut Writer, info: &PathInfo) {
        self.put_path(w, &info.path);
        self.put_path_info(w, info);
    }

    /// Before 1.30 a path of a derivation alone meant all its outputs.
    pub(crate) fn put_derived_path(&self, w: &mut Writer, path: &DerivedPath) {
        let text = match path {
            DerivedPath::Built {
                drv,
                outputs: OutputsSpec::All,
            } if !self.since(30) && drv.as_opaque().is_some() => drv.display(&self.store_dir),
            path => path.to_wire(&self.store_dir),
        };
        w.bytes(text);
    }

    pub(crate) fn derived_path<R: Read>(
        &self,
        r: &mut Reader<R>,
    ) -> Result<DerivedPath, WireError> {
        let text = r.name("derived path")?;
        match DerivedPath::parse_wire(&self.store_dir, &text) {
            Ok(DerivedPath::Opaque(drv)) if !self.since(30) && drv.is_derivation() => {
                Ok(DerivedPath::Built {
                    drv: drv.into(),
                    outputs: OutputsSpec::All,
                })
            }
            Ok(path) => Ok(path),
            Err(err) => Err(WireError::text_from("derived path", text.as_bytes(), err)),
        }
    }

    pub(crate) fn put_derived_paths(&self, w: &mut Writer, paths: &[DerivedPath]) {
        w.list(paths, |w, path| self.put_derived_path(w, path));
    }

    pub(crate) fn derived_paths<R: Read>(
        &self,
        r: &mut Reader<R>,
    ) -> Result<Vec<DerivedPath>, WireError> {
        r.list("derived paths", |r| self.derived_path(r))
    }

    /// The base with a 0 before it, and for each output a 1 before all that it is an output of,
    /// and its name after.
    pub(crate) fn put_single_derived_path(&self, w: &mut Writer, path: &SingleDerivedPath) {
        for _ in &path.outputs {
            w.u64(1);
        }
        w.u64(0);
        self.put_path(w, &path.base);
        for output in &path.outputs {
            w.bytes(output);
        }
    }

    pub(crate) fn single_derived_path<R: Read>(
        &self,
        r: &mut Reader<R>,
    ) -> Result<SingleDerivedPath, WireError> {
        let field = "derived path";
        let mut depth = 0;
        while r.u64_at_most(field, 1)? == 1 {
            depth += 1;
            if depth > NESTING_MAX {
                let value = depth as u64;
                return Err(WireError::Number { field, value });
            }
        }
        let base = self.path(r, field)?;
        let outputs = (0..depth).map(|_| output_name(r, field));
        Ok(SingleDerivedPath {
            base,
            outputs: outputs.collect::<Result<_, _>>()?,
        })
    }

    pub(crate) fn put_build_result(&self, w: &mut Writer, result: &BuildResult) {
        w.u64(result.status as u64).bytes(&result.error_msg);
        if self.since(29) {
            w.u64(result.times_built)
                .bool(result.is_non_deterministic)
                .u64(result.start_time.max(0) as u64)
                .u64(result.stop_time.max(0) as u64);
        }
        if self.since(37) {
            for time in [result.cpu_user, result.cpu_system] {
                match time {
                    Some(time) => w.u64(1).u64(time.as_micros().min(i64::MAX as u128) as u64),
                    None => w.u64(0),
                };
            }
        }
        if self.has(feature::REALISATION_WITH_PATH) {
            w.list(&result.built_outputs, |w, (name, realisation)| {
                w.bytes(name);
                self.put_path(w, &realisation.out_path);
                // Signatures would be of another text.
                w.u64(0);
            });
        } else if self.since(28) {
            w.list(&result.built_outputs, |w, (_, realisation)| {
                w.bytes(realisation.id.to_string());
                put_realisation(w, realisation);
            });
        }
    }

    pub(crate) fn build_result<R: Read>(
        &self,
        r: &mut Reader<R>,
    ) -> Result<BuildResult, WireError> {
        let status = numbered::<BuildStatus, R>(r, "status")?;
        let message = r.bytes("errorMsg", STRING_LEN_MAX)?;
        let mut result = BuildResult::new(status, String::from_utf8_lossy(&message));
        if self.since(29) {
            result.times_built = r.u64("timesBuilt")?;
            result.is_non_deterministic = r.bool("isNonDeterministic")?;
            result.start_time = time(r, "startTime")?;
            result.stop_time = time(r, "stopTime")?;
        }
        if self.since(37) {
            result.cpu_user = optional_micros(r, "cpuUser")?;
            result.cpu_system = optional_micros(r, "cpuSystem")?;
        }
        if self.has(feature::REALISATION_WITH_PATH) {
            result.built_outputs = r.list("builtOutputs", |r| {
                let output_name = output_name(r, "builtOutputs")?;
                let (out_path, _) = self.unkeyed_build_trace(r)?;
                // The derivation's hash is not sent.
                let drv_hash = Hash::new(HashAlgorithm::Sha256, &[0; 32]).expect("it has 32 bytes");
                let id = DrvOutput {
                    drv_hash,
                    output_name: output_name.clone(),
                };
                Ok((output_name, Realisation::unsigned(id, out_path)))
            })?;
        } else if self.since(28) {
            result.built_outputs = r.list("builtOutputs", |r| {
                let id = drv_output(r, "builtOutputs")?;
                Ok((id.output_name, realisation(r)?))
            })?;
        }
        Ok(result)
    }

    /// What an output turned out to be, without which output.
    pub(crate) fn put_unkeyed_build_trace(&self, w: &mut Writer, entry: &BuildTraceEntry) {
        self.put_path(w, &entry.out_path);
        w.list(&entry.signatures, |w, signature| {
            w.bytes(signature.to_string());
        });
    }

    pub(crate) fn unkeyed_build_trace<R: Read>(
        &self,
        r: &mut Reader<R>,
    ) -> Result<(StorePath, BTreeSet<Signature>), WireError> {
        let out_path = self.path(r, "outPath")?;
        let signatures = r.list("signatures", |r| {
            let text = r.name("signatures")?;
            text.parse()
                .map_err(|err| WireError::text_from("signatures", text.as_bytes(), err))
        })?;
        Ok((out_path, signatures))
    }

    pub(crate) fn put_build_trace_key(&self, w: &mut Writer, key: &BuildTraceKey) {
        self.put_path(w, &key.drv_path);
        w.bytes(&key.output_name);
    }

    pub(crate) fn build_trace_key<R: Read>(
        &self,
        r: &mut Reader<R>,
    ) -> Result<BuildTraceKey, WireError> {
        Ok(BuildTraceKey {
            drv_path: self.path(r, "drvPath")?,
            output_name: output_name(r, "outputName")?,
        })
    }

    pub(crate) fn put_keyed_build_result(&self, w: &mut Writer, keyed: &KeyedBuildResult) {
        self.put_derived_path(w, &keyed.path);
        self.put_build_result(w, &keyed.result);
    }

    pub(crate) fn keyed_build_result<R: Read>(
        &self,
        r: &mut Reader<R>,
    ) -> Result<KeyedBuildResult, WireError> {
        Ok(KeyedBuildResult {
            path: self.derived_path(r)?,
            result: self.build_result(r)?,
        })
    }

    /// A derivation without input derivations.
    pub(crate) fn put_basic_derivation(&self, w: &mut Writer, drv: &Derivation) {
        w.list(&drv.outputs, |w, (name, output)| {
            w.bytes(name);
            for text in output.to_strings(&self.store_dir) {
                w.bytes(text);
            }
        });
        self.put_paths(w, &drv.input_srcs);
        w.bytes(&drv.system)
            .bytes(&drv.builder)
            .list(&drv.args, |w, arg| {
                w.bytes(arg);
            })
            .list(&drv.env, |w, (name, value)| {
                w.bytes(name).bytes(value);
            });
    }

    pub(crate) fn basic_derivation<R: Read>(
        &self,
        r: &mut Reader<R>,
    ) -> Result<Derivation, WireError> {
        Ok(Derivation {
            outputs: r.list("outputs", |r| {
                let name = output_name(r, "output name")?;
                Ok((name, self.derivation_output(r)?))
            })?,
            input_drvs: BTreeMap::new(),
            input_srcs: self.paths(r, "inputSrcs")?,
            system: r.bytes("platform", NAME_LEN_MAX)?.into(),
            builder: r.bytes("builder", NAME_LEN_MAX)?.into(),
            args: r.list("args", |r| Ok(r.bytes("args", STRING_LEN_MAX)?.into()))?,
            env: r.list("env", |r| {
                let name = r.bytes("env", NAME_LEN_MAX)?.into();
                Ok((name, r.bytes("env", STRING_LEN_MAX)?.into()))
            })?,
        })
    }

    fn derivation_output<R: Read>(&self, r: &mut Reader<R>) -> Result<DerivationOutput, WireError> {
        let path = r.name("output path")?;
        let method = r.name("output method")?;
        let hash = r.name("output hash")?;
        DerivationOutput::from_strings(&self.store_dir, &path, &method, &hash)
            .map_err(|err| WireError::text_from("output", path.as_bytes(), err))
    }
}

/// A SHA-256, in any of the forms Nix takes; Nix itself sends hexadecimal
/// digits.
pub(crate) fn nar_hash<R: Read>(r: &mut Reader<R>) -> Result<Hash, WireError> {
    let text = r.name("narHash")?;
    let digits = text.strip_prefix("sha256:").unwrap_or(&text);
    Hash::parse_unprefixed(HashAlgorithm::Sha256, digits)
        .map_err(|err| WireError::text_from("narHash", text.as_bytes(), err))
}

pub(crate) fn content_address<R: Read>(
    r: &mut Reader<R>,
    field: &'static str,
) -> Result<Option<ContentAddress>, WireError> {
    let text = r.name(field)?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|err| WireError::text_from(field, text.as_bytes(), err))
}

pub(crate) fn texts<R: Read>(
    r: &mut Reader<R>,
    field: &'static str,
) -> Result<Vec<String>, WireError> {
    r.list(field, |r| r.name(field))
}

/// Seconds since 1970.
pub(crate) fn time<R: Read>(r: &mut Reader<R>, field: &'static str) -> Result<i64, WireError> {
    Ok(r.u64_at_most(field, i64::MAX as u64)? as i64)
}

fn optional_micros<R: Read>(
    r: &mut Reader<R>,
    field: &'static str,
) -> Result<Option<Duration>, WireError> {
    match r.u64_at_most(field, 1)? {
        0 => Ok(None),
        _ => Ok(Some(Duration::from_micros(
            r.u64_at_most(field, i64::MAX as u64)?,
        ))),
    }
}

/// A value that the protocol has as a number.
pub(crate) fn numbered<T: TryFrom<u64, Error = UnknownNumber>, R: Read>(
    r: &mut Reader<R>,
    field: &'static str,
) -> Result<T, WireError> {
    let value = r.u64(field)?;
    T::try_from(value).map_err(|_| WireError::Number { field, value })
}

pub(crate) fn build_mode<R: Read>(r: &mut Reader<R>) -> Result<BuildMode, WireError> {
    numbered(r, "build mode")
}

pub(crate) fn output_name<R: Read>(
    r: &mut Reader<R>,
    field: &'static str,
) -> Result<String, WireError> {
    let name = r.name(field)?;
    if is_output_name(&name) {
        Ok(name)
    } else {
        Err(WireError::text(field, name.as_bytes()))
    }
}

pub(crate) fn drv_output<R: Read>(
    r: &mut Reader<R>,
    field: &'static str,
) -> Result<DrvOutput, WireError> {
    let text = r.name(field)?;
    text.parse().map_err(|err: store_types::RealisationError| {
        WireError::text_from(field, text.as_bytes(), err)
    })
}

pub(crate) fn put_realisation(w: &mut Writer, realisation: &Realisation) {
    w.bytes(realisation.to_json());
}

pub(crate) fn realisation<R: Read>(r: &mut Reader<R>) -> Result<Realisation, WireError> {
    let text = r.bytes("realisation", STRING_LEN_MAX)?;
    Realisation::from_json(&text).map_err(|err| WireError::text_from("realisation", &text, err))
}
