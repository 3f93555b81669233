//! What the executor tells a builtin builder.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bstr::ByteSlice;
use store_types::{Derivation, StoreDir};

use crate::FileError;

/// What is to be built. As arguments:
///
/// ```text
/// BUILDER derivation=FILE store=DIR output.NAME=PATH…
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
        ];
        let request = Request::read(args.iter().map(OsString::from)).unwrap();
        assert_eq!(request.builder, "x");
        assert_eq!(request.needed("a").unwrap(), b"b");
        assert_eq!(request.out().unwrap(), Path::new("/nix/store/a=b"));
        let error = request.needed("c").unwrap_err();
        assert_eq!(error.to_string(), "attribute 'c' missing");
        let error = Request::read(["x", "y=z"].map(OsString::from).into_iter());
        assert!(matches!(error, Err(RequestError::Argument(_))));
    }
}
