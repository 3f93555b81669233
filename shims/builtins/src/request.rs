//! What the executor tells a builtin builder.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bstr::ByteSlice;
use store_types::{Derivation, StoreDir};

use crate::FileError;

/// What is to be built. As arguments:
///
/// ```text
/// BUILDER derivation=FILE store=DIR output.NAME=PATH…
///     [hashed-mirror=URL]… [connect-timeout=SECONDS] [stalled-download-timeout=SECONDS]
///     [download-attempts=NUMBER]
/// ```
///
/// The derivation is read from a file, and not from the environment: there is no variable
/// that somebody else could have set, or that is too long.
#[derive(Debug)]
pub struct Request {
    /// Which builder, without `builtin:`.
    pub builder: String,
    /// The resolved derivation.
    pub drv: Derivation,
    /// Where each output goes.
    outputs: BTreeMap<String, PathBuf>,
    /// Where files are to be had by their hashes.
    pub hashed_mirrors: Vec<String>,
    /// For what is fetched.
    pub limits: Limits,
}

/// How long to wait for servers, and how often to ask them. Nix's settings of these names, with
/// the same defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For a connection; `None` for as long as it takes.
    pub connect_timeout: Option<Duration>,
    /// For the next byte; `None` for as long as it takes.
    pub stalled_timeout: Option<Duration>,
    /// How often a transfer is tried.
    pub attempts: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect_timeout: Some(Duration::from_secs(15)),
            stalled_timeout: Some(Duration::from_secs(300)),
            attempts: 5,
        }
    }
}

impl Limits {
    /// For messages.
    pub fn stalled_seconds(&self) -> u64 {
        self.stalled_timeout.map_or(0, |timeout| timeout.as_secs())
    }
}

/// 0 is no limit.
fn seconds(number: u32) -> Option<Duration> {
    (number > 0).then(|| Duration::from_secs(number.into()))
}

/// A request or a derivation that nothing can be built from.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The executor and this program are not of the same version.
    #[error("malformed argument '{0}'")]
    Argument(String),
    /// The derivation cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The derivation cannot be parsed.
    #[error("malformed derivation")]
    Derivation(#[source] store_types::DerivationParseError),
    /// There is none of that name.
    #[error("unsupported builtin builder '{0}'")]
    NoSuchBuilder(String),
    /// The derivation lacks an attribute.
    #[error("attribute '{0}' missing")]
    NoAttribute(&'static str),
    /// The derivation has no output `out`.
    #[error("'builtin:{0}' requires an 'out' output")]
    NoOut(String),
}

impl Request {
    /// From the program's arguments.
    pub fn read(args: impl Iterator<Item = OsString>) -> Result<Self, RequestError> {
        let mut builder = None;
        let mut file = None;
        let mut store_dir = StoreDir::default();
        let mut outputs = BTreeMap::new();
        let mut hashed_mirrors = Vec::new();
        let mut limits = Limits::default();
        for arg in args {
            let malformed = || RequestError::Argument(arg.to_string_lossy().into_owned());
            let Some((key, value)) = arg.as_bytes().split_once_str("=") else {
                builder = Some(arg.to_str().ok_or_else(malformed)?.to_owned());
                continue;
            };
            let value = OsStr::from_bytes(value);
            match key.to_str().map_err(|_| malformed())? {
                "derivation" => file = Some(PathBuf::from(value)),
                "store" => {
                    let text = value.to_str().ok_or_else(malformed)?;
                    store_dir = StoreDir::new(text).ok_or_else(malformed)?;
                }
                "hashed-mirror" => {
                    hashed_mirrors.push(value.to_str().ok_or_else(malformed)?.to_owned());
                }
                key @ ("connect-timeout" | "stalled-download-timeout" | "download-attempts") => {
                    let number = value.to_str().and_then(|text| text.parse().ok());
                    let number: u32 = number.ok_or_else(malformed)?;
                    match key {
                        "connect-timeout" => limits.connect_timeout = seconds(number),
                        "stalled-download-timeout" => limits.stalled_timeout = seconds(number),
                        _ => limits.attempts = number,
                    }
                }
                key => {
                    let name = key.strip_prefix("output.").ok_or_else(malformed)?;
                    outputs.insert(name.to_owned(), PathBuf::from(value));
                }
            }
        }
        let missing = |what: &str| RequestError::Argument(what.to_owned());
        let file = file.ok_or_else(|| missing("derivation="))?;
        let text = std::fs::read(&file).map_err(FileError::new("cannot read", &file))?;
        Ok(Self {
            builder: builder.ok_or_else(|| missing(""))?,
            drv: Derivation::parse(&store_dir, &text).map_err(RequestError::Derivation)?,
            outputs,
            hashed_mirrors,
            limits,
        })
    }

    /// An attribute, if the derivation has it.
    pub fn attribute(&self, name: &str) -> Option<&[u8]> {
        self.drv
            .env
            .get(name.as_bytes().as_bstr())
            .map(|value| &***value)
    }

    /// An attribute that the derivation must have.
    pub fn needed(&self, name: &'static str) -> Result<&[u8], RequestError> {
        self.attribute(name).ok_or(RequestError::NoAttribute(name))
    }

    /// Where the output `out` goes.
    pub fn out(&self) -> Result<&Path, RequestError> {
        let out = self.outputs.get("out");
        Ok(out.ok_or_else(|| RequestError::NoOut(self.builder.clone()))?)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A request without a derivation's file.
    pub fn request(builder: &str, out: &Path, env: &[(&str, &[u8])]) -> Request {
        Request {
            builder: builder.to_owned(),
            drv: Derivation {
                env: env
                    .iter()
                    .map(|(name, value)| ((*name).into(), (*value).into()))
                    .collect(),
                ..Derivation::default()
            },
            outputs: BTreeMap::from([("out".to_owned(), out.to_owned())]),
            hashed_mirrors: Vec::new(),
            limits: Limits::default(),
        }
    }

    #[test]
    fn the_arguments_name_builder_derivation_and_outputs() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("drv");
        let drv = Derivation {
            builder: "builtin:x".into(),
            env: BTreeMap::from([("a".into(), "b".into())]),
            ..Derivation::default()
        };
        std::fs::write(&file, drv.to_aterm(&StoreDir::default())).unwrap();
        let args = [
            "x".to_owned(),
            format!("derivation={}", file.display()),
            "store=/nix/store".to_owned(),
            "output.out=/nix/store/a=b".to_owned(),
            "hashed-mirror=http://h/?a=b".to_owned(),
            "connect-timeout=0".to_owned(),
            "download-attempts=1".to_owned(),
        ];
        let request = Request::read(args.iter().map(OsString::from)).unwrap();
        assert_eq!(request.builder, "x");
        assert_eq!(request.needed("a").unwrap(), b"b");
        assert_eq!(request.out().unwrap(), Path::new("/nix/store/a=b"));
        assert_eq!(request.hashed_mirrors, ["http://h/?a=b"]);
        let limits = Limits {
            connect_timeout: None,
            attempts: 1,
            ..Limits::default()
        };
        assert_eq!(request.limits, limits);
        let error = request.needed("c").unwrap_err();
        assert_eq!(error.to_string(), "attribute 'c' missing");
        let error = Request::read(["x", "y=z"].map(OsString::from).into_iter());
        assert!(matches!(error, Err(RequestError::Argument(_))));
    }
}
