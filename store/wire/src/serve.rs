//! The serve protocol, `nix-store --serve`: what Nix speaks over `ssh://`, Nix 2.3 among them.
//!
//! ```text
//! client                        server
//! 0x390c9deb version       →
//!                          ←    0x5452eecb version
//! command, its fields      →
//!                          ←    its result
//! …
//! ```
//!
//! There is no place for errors and logs in it: they go to the server's standard error, and an
//! error ends the connection.
//!
//! Source: nix `src/libstore/serve-protocol.cc`, `serve-protocol-connection.cc`,
//! `src/nix/nix-store/nix-store.cc` (`opServe`).

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use store_api::BuildResult;
use store_types::{Derivation, DerivedPath, PathInfo, StoreDir, StorePath};

use crate::codec::{Reader, WireError, Writer};
use crate::handshake::HandshakeError;
use crate::session::{Session, Version, content_address, nar_hash, put_realisation, texts, time};

const MAGIC_OF_CLIENT: u64 = 0x390c_9deb;
const MAGIC_OF_SERVER: u64 = 0x5452_eecb;

/// The major version, and the newest minor one that is spoken.
const MAJOR: u64 = 2;
const MINOR: u64 = 7;

/// The oldest minor version that is spoken: the first with `AddToStoreNar`.
const MINOR_MIN: u64 = 5;

/// What two sides agreed on.
#[derive(Clone, Debug)]
pub struct ServeSession {
    minor: u64,
    /// Of a version of the worker protocol that has paths in the same form.
    forms: Session,
}

/// How a client wants something built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServeBuildOptions {
    /// After how many seconds without a log line it is to be stopped; 0 for never.
    pub max_silent_seconds: u64,
    /// After how many seconds it is to be stopped; 0 for never.
    pub timeout_seconds: u64,
    /// How long its log may be, in bytes; 0 for any length.
    pub log_bytes_max: u64,
    /// Keep the directory of a build that failed.
    pub keep_failed: bool,
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServeRequest {
    /// Which of these are valid.
    QueryValidPaths {
        /// Hold them as long as the connection is open.
        lock: bool,
        /// Substitute those that are not.
        substitute: bool,
        /// The paths.
        paths: BTreeSet<StorePath>,
    },
    /// What is known of these.
    QueryPathInfos(BTreeSet<StorePath>),
    /// The NAR of this one.
    DumpStorePath(StorePath),
    /// Make these valid.
    BuildPaths {
        /// What.
        paths: Vec<DerivedPath>,
        /// How.
        options: ServeBuildOptions,
    },
    /// All that these refer to.
    QueryClosure {
        /// Outputs of derivations, too.
        include_outputs: bool,
        /// The paths.
        paths: BTreeSet<StorePath>,
    },
    /// Build this derivation without input derivations.
    BuildDerivation {
        /// Its path.
        drv_path: StorePath,
        /// What it is.
        derivation: Derivation,
        /// How.
        options: ServeBuildOptions,
    },
    /// Add this; its NAR follows.
    AddToStoreNar(PathInfo),
}

impl ServeSession {
    /// The server's part of the greeting.
    pub fn greet<R: Read>(
        reader: &mut Reader<R>,
        out: &mut impl Write,
        store_dir: StoreDir,
    ) -> Result<Self, HandshakeError> {
        let magic = reader.u64("magic number")?;
        if magic != MAGIC_OF_CLIENT {
            return Err(HandshakeError::Magic { magic });
        }
        let mut w = Writer::new();
        w.u64(MAGIC_OF_SERVER).u64(MAJOR << 8 | MINOR);
        send(out, w)?;
        let version = reader.u64("version")?;
        let minor = version & 0xff;
        if version >> 8 != MAJOR || minor < MINOR_MIN {
            return Err(HandshakeError::Version {
                version: Version::from_wire(version),
            });
        }
        Ok(Self {
            minor: minor.min(MINOR),
            forms: Session::new(Version::MINIMUM, store_dir),
        })
    }

    /// Reads a command; `None` if the client has left.
    pub fn read<R: Read>(&self, r: &mut Reader<R>) -> Result<Option<ServeRequest>, WireError> {
        let s = &self.forms;
        r.begin_message();
        let Some(command) = r.u64_or_end("command")? else {
            return Ok(None);
        };
        Ok(Some(match command {
            1 => ServeRequest::QueryValidPaths {
                lock: r.bool("lock")?,
                substitute: r.bool("substitute")?,
                paths: s.paths(r, "paths")?,
            },
            2 => ServeRequest::QueryPathInfos(s.paths(r, "paths")?),
            3 => ServeRequest::DumpStorePath(s.path(r, "path")?),
            6 => ServeRequest::BuildPaths {
                paths: s.derived_paths(r)?,
                options: self.build_options(r)?,
            },
            7 => ServeRequest::QueryClosure {
                include_outputs: r.bool("includeOutputs")?,
                paths: s.paths(r, "paths")?,
            },
            8 => ServeRequest::BuildDerivation {
                drv_path: s.path(r, "drvPath")?,
                derivation: s.basic_derivation(r)?,
                options: self.build_options(r)?,
            },
            9 => ServeRequest::AddToStoreNar(self.path_info(r)?),
            // ImportPaths and ExportPaths are of clients before 2.5.
            value => {
                return Err(WireError::Number {
                    field: "command",
                    value,
                });
            }
        }))
    }

    fn build_options<R: Read>(&self, r: &mut Reader<R>) -> Result<ServeBuildOptions, WireError> {
        let mut options = ServeBuildOptions {
            max_silent_seconds: r.u64("maxSilentTime")?,
            timeout_seconds: r.u64("buildTimeout")?,
            log_bytes_max: r.u64("maxLogSize")?,
            keep_failed: false,
        };
        // How often to build, and whether each time must give the same: no Nix of today does that.
        r.u64("nrRepeats")?;
        r.bool("enforceDeterminism")?;
        if self.minor >= 7 {
            options.keep_failed = r.bool("keepFailed")?;
        }
        Ok(options)
    }

    fn path_info<R: Read>(&self, r: &mut Reader<R>) -> Result<PathInfo, WireError> {
        let s = &self.forms;
        let path = s.path(r, "path")?;
        let deriver = s.optional_path(r, "deriver")?;
        Ok(PathInfo {
            path,
            nar_hash: nar_hash(r)?,
            deriver,
            references: s.paths(r, "references")?,
            registration_time: time(r, "registrationTime")?,
            nar_size: r.u64("narSize")?,
            ultimate: r.bool("ultimate")?,
            signatures: texts(r, "signatures")?,
            ca: content_address(r, "ca")?,
        })
    }

    /// Writes paths, as `QueryValidPaths` and `QueryClosure` are answered.
    pub fn put_paths(&self, w: &mut Writer, paths: &BTreeSet<StorePath>) {
        self.forms.put_paths(w, paths);
    }

    /// Writes what is known of a path, as `QueryPathInfos` is answered; an empty text ends the
    /// list.
    pub fn put_path_info(&self, w: &mut Writer, info: &PathInfo) {
        self.forms.put_path(w, &info.path);
        self.forms.put_optional_path(w, info.deriver.as_ref());
        self.forms.put_paths(w, &info.references);
        // The size of a download, then that of the NAR.
        w.u64(info.nar_size).u64(info.nar_size);
        w.bytes(info.nar_hash.to_prefixed_base32())
            .bytes(info.ca.map_or_else(String::new, |ca| ca.to_string()))
            .list(&info.signatures, |w, signature| {
                w.bytes(signature);
            });
    }

    /// Writes how a derivation's build ended.
    pub fn put_build_result(&self, w: &mut Writer, result: &BuildResult) {
        w.u64(result.status as u64)
            .bytes(&result.error_msg)
            .u64(result.times_built)
            .bool(result.is_non_deterministic)
            .u64(result.start_time.max(0) as u64)
            .u64(result.stop_time.max(0) as u64);
        if self.minor >= 6 {
            w.list(&result.built_outputs, |w, (_, realisation)| {
                w.bytes(realisation.id.to_string());
                put_realisation(w, realisation);
            });
        }
    }
}

fn send(out: &mut impl Write, w: Writer) -> io::Result<()> {
    out.write_all(&w.into_bytes())?;
    out.flush()
}
