//! Store paths: the base name of a store object, and the directory it is in.
//!
//! Source: Nix manual, "Store Path Specification" (`protocols/store-path.md`);
//! nix `src/libstore/path.cc`.

use std::fmt;
use std::sync::Arc;

use crate::{Hash, base32, sha256};

/// Length of the hash part in characters: 160 bits of base 32.
const HASH_PART_LEN: usize = 32;

/// The longest name Nix accepts, so that `<hash>-<name>.lock` is a file name.
const NAME_LEN_MAX: usize = 211;

/// The base name of a store object: `<32 base-32 digits>-<name>`.
///
/// Ordered bytewise by the base name, as Nix sorts sets of paths.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorePath(Arc<str>);

/// A text that is not a store path, and why.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a store path: {reason}")]
pub struct StorePathError {
    text: String,
    reason: &'static str,
}

pub(crate) fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("its name is empty");
    }
    if name.len() > NAME_LEN_MAX {
        return Err("its name has more than 211 characters");
    }
    if name == "." || name == ".." || name.starts_with(".-") || name.starts_with("..-") {
        return Err("its name is `.` or `..`, or begins like one");
    }
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._?=".contains(&byte);
    if !name.bytes().all(valid) {
        return Err("its name has a character other than letters, digits and `+-._?=`");
    }
    Ok(())
}

impl StorePath {
    /// From `<hash part>-<name>`, without a directory.
    pub fn from_base_name(text: &str) -> Result<Self, StorePathError> {
        let reject = |reason| StorePathError {
            text: text.to_owned(),
            reason,
        };
        let bytes = text.as_bytes();
        if bytes.len() <= HASH_PART_LEN || bytes[HASH_PART_LEN] != b'-' {
            return Err(reject(
                "it does not begin with a hash of 32 characters and `-`",
            ));
        }
        if !bytes[..HASH_PART_LEN]
            .iter()
            .all(|byte| base32::is_char(*byte))
        {
            return Err(reject(
                "its hash has a character that is not of Nix's base 32",
            ));
        }
        check_name(&text[HASH_PART_LEN + 1..]).map_err(reject)?;
        Ok(Self(text.into()))
    }

    /// From the 20 bytes of the hash and a name.
    pub fn from_hash_and_name(hash: &[u8; 20], name: &str) -> Result<Self, StorePathError> {
        check_name(name).map_err(|reason| StorePathError {
            text: name.to_owned(),
            reason,
        })?;
        Ok(Self(format!("{}-{name}", base32::encode(hash)).into()))
    }

    /// The 32 characters before the name.
    pub fn hash_part(&self) -> &str {
        &self.0[..HASH_PART_LEN]
    }

    /// The name after the hash part.
    pub fn name(&self) -> &str {
        &self.0[HASH_PART_LEN + 1..]
    }

    /// `<hash part>-<name>`.
    pub fn base_name(&self) -> &str {
        &self.0
    }

    /// Whether the name ends in `.drv`.
    pub fn is_derivation(&self) -> bool {
        self.name().ends_with(".drv")
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The logical directory of a store, `/nix/store` but for few: part of every
/// path's hash, whatever directory of the machine the objects lie in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreDir(Arc<str>);

impl Default for StoreDir {
    fn default() -> Self {
        Self("/nix/store".into())
    }
}

impl fmt::Display for StoreDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StoreDir {
    /// An absolute directory without a trailing slash; `None` for others.
    pub fn new(dir: &str) -> Option<Self> {
        let canonical = dir.starts_with('/')
            && dir.len() > 1
            && dir[1..]
                .split('/')
                .all(|part| !matches!(part, "" | "." | ".."));
        canonical.then(|| Self(dir.into()))
    }

    /// The directory as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The full path: `/nix/store/<base name>`.
    pub fn display(&self, path: &StorePath) -> String {
        format!("{}/{}", self.0, path.base_name())
    }

    /// A full path directly in this directory; anything below it is an error.
    pub fn parse(&self, text: &str) -> Result<StorePath, StorePathError> {
        match self.strip(text) {
            Some(base_name) => StorePath::from_base_name(base_name),
            None => Err(StorePathError {
                text: text.to_owned(),
                reason: "it is not in the store directory",
            }),
        }
    }

    /// The store path that a path lies in or is, and what follows it (empty, or
    /// beginning with `/`).
    pub fn split<'a>(&self, text: &'a str) -> Option<(StorePath, &'a str)> {
        let inside = self.strip(text)?;
        let end = inside.find('/').unwrap_or(inside.len());
        let path = StorePath::from_base_name(&inside[..end]).ok()?;
        Some((path, &inside[end..]))
    }

    fn strip<'a>(&self, text: &'a str) -> Option<&'a str> {
        text.strip_prefix(&*self.0)?.strip_prefix('/')
    }

    /// The store path of a fingerprint: `<kind>:<inner hash>:<store dir>:<name>`
    /// hashed and folded to 20 bytes.
    ///
    /// `kind` is `source…`, `text…` or `output:<id>`.
    pub fn make_path(
        &self,
        kind: &str,
        inner: &Hash,
        name: &str,
    ) -> Result<StorePath, StorePathError> {
        let fingerprint = format!("{kind}:{}:{}:{name}", inner.to_prefixed_hex(), self.0);
        let digest = sha256(fingerprint.as_bytes());
        StorePath::from_hash_and_name(&fold(digest.bytes()), name)
    }
}

/// Folds a digest to 20 bytes by XOR.
pub(crate) fn fold(digest: &[u8]) -> [u8; 20] {
    let mut folded = [0; 20];
    for (i, byte) in digest.iter().enumerate() {
        folded[i % 20] ^= byte;
    }
    folded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_parsed_only_directly_in_its_store() {
        let dir = StoreDir::default();
        let text = "/nix/store/0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-hello-1.0";
        let path = dir.parse(text).unwrap();
        assert_eq!(
            (path.name(), dir.display(&path).as_str()),
            ("hello-1.0", text)
        );
        let below = format!("{text}/bin");
        assert_eq!(dir.split(&below), Some((path, "/bin")));
        assert!(dir.parse(&below).is_err());
        assert!(dir.parse("/nix/stores/x").is_err());
    }

    #[test]
    fn names_nix_refuses_are_refused() {
        let hash = "0mdqa9w1p6cmli6976v4wi0sw9r4p5pr";
        for name in [
            "",
            ".",
            "..",
            ".-x",
            "..-x",
            "a/b",
            "a b",
            "ä",
            &"x".repeat(212),
        ] {
            assert!(
                StorePath::from_base_name(&format!("{hash}-{name}")).is_err(),
                "{name}"
            );
        }
        for name in ["a", ".a", "...", "A+b-._?=9", &"x".repeat(211)] {
            assert!(
                StorePath::from_base_name(&format!("{hash}-{name}")).is_ok(),
                "{name}"
            );
        }
        assert!(StorePath::from_base_name("0mdqa9w1p6cmli6976v4wi0sw9r4p5pe-x").is_err());
    }
}
