//! Content addresses, and the store paths that follow from them.
//!
//! Source: Nix manual, "Content-Addressing Store Objects" and "Store Path
//! Specification"; nix `src/libstore/content-address.cc`, `store-dir-config.cc`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::{Hash, HashAlgorithm, StoreDir, StorePath, StorePathError, sha256};

/// What of a file system object is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContentAddressMethod {
    /// The bytes of one regular file; the object may have references, but not
    /// to itself. Derivations are addressed so.
    Text,
    /// The bytes of one regular file that is not executable.
    Flat,
    /// The object's NAR ("recursive").
    Nar,
    /// The object as git hashes it: a blob or a tree, by SHA-1 or SHA-256. Nix has it
    /// behind its feature `git-hashing`. Whether the object itself is executable or a
    /// symbolic link is not hashed; that is in the tree that would hold it.
    Git,
}

impl ContentAddressMethod {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Text, Self::Flat, Self::Nar, Self::Git];

    /// What stands before the algorithm in a derivation's output: `text:`,
    /// nothing, `r:` or `git:`.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Text => "text:",
            Self::Flat => "",
            Self::Nar => "r:",
            Self::Git => "git:",
        }
    }

    /// The name in JSON: `text`, `flat`, `nar`, `git`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Flat => "flat",
            Self::Nar => "nar",
            Self::Git => "git",
        }
    }

    /// The inverse of [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.name() == name)
    }

    /// `<prefix><algorithm>`, as in derivations and the worker protocol:
    /// `r:sha256`, `sha1`, `text:sha256`, `git:sha1`.
    pub fn with_algorithm(self, algorithm: HashAlgorithm) -> String {
        format!("{}{}", self.prefix(), algorithm.name())
    }

    /// The inverse of [`with_algorithm`](Self::with_algorithm).
    pub fn parse_with_algorithm(text: &str) -> Option<(Self, HashAlgorithm)> {
        let (method, name) = if let Some(name) = text.strip_prefix("text:") {
            (Self::Text, name)
        } else if let Some(name) = text.strip_prefix("r:") {
            (Self::Nar, name)
        } else if let Some(name) = text.strip_prefix("git:") {
            (Self::Git, name)
        } else {
            (Self::Flat, text)
        };
        Some((method, HashAlgorithm::from_name(name)?))
    }

    /// Whether objects can be hashed so: text only by SHA-256, and as git does only by
    /// SHA-1 and SHA-256.
    pub const fn allows(self, algorithm: HashAlgorithm) -> bool {
        match self {
            Self::Text => matches!(algorithm, HashAlgorithm::Sha256),
            Self::Git => matches!(algorithm, HashAlgorithm::Sha1 | HashAlgorithm::Sha256),
            Self::Flat | Self::Nar => true,
        }
    }

    /// Whether an object is handed on as its NAR, else as the bytes of its one file.
    ///
    /// Source: nix `src/libstore/content-address.cc`, `getFileIngestionMethod`.
    pub const fn is_nar_on_the_wire(self) -> bool {
        match self {
            Self::Text | Self::Flat => false,
            Self::Nar | Self::Git => true,
        }
    }
}

/// How an object's content was hashed, and the hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentAddress {
    /// What was hashed.
    pub method: ContentAddressMethod,
    /// The hash of it.
    pub hash: Hash,
}

/// Nix's form: `text:sha256:<base 32>`, `fixed:<algorithm>:<base 32>`,
/// `fixed:r:<algorithm>:<base 32>`, `fixed:git:<algorithm>:<base 32>`.
impl fmt::Display for ContentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.method {
            ContentAddressMethod::Text => "text",
            ContentAddressMethod::Flat => "fixed",
            ContentAddressMethod::Nar => "fixed:r",
            ContentAddressMethod::Git => "fixed:git",
        };
        write!(f, "{kind}:{}", self.hash.to_prefixed_base32())
    }
}

/// A text that is not a content address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a content address")]
pub struct ContentAddressParseError {
    text: String,
}

impl FromStr for ContentAddress {
    type Err = ContentAddressParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (method, hash) = if let Some(hash) = text.strip_prefix("fixed:r:") {
            (ContentAddressMethod::Nar, hash)
        } else if let Some(hash) = text.strip_prefix("fixed:git:") {
            (ContentAddressMethod::Git, hash)
        } else if let Some(hash) = text.strip_prefix("fixed:") {
            (ContentAddressMethod::Flat, hash)
        } else if let Some(hash) = text.strip_prefix("text:") {
            (ContentAddressMethod::Text, hash)
        } else {
            return Err(ContentAddressParseError {
                text: text.to_owned(),
            });
        };
        match Hash::parse_prefixed(hash) {
            Ok(hash) => Ok(Self { method, hash }),
            Err(_) => Err(ContentAddressParseError {
                text: text.to_owned(),
            }),
        }
    }
}

/// What an object refers to, when its own path is not known yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// Other store objects.
    pub others: BTreeSet<StorePath>,
    /// Whether the object refers to itself.
    pub has_self: bool,
}

impl References {
    /// References to other objects only.
    pub fn to_others(others: BTreeSet<StorePath>) -> Self {
        Self {
            others,
            has_self: false,
        }
    }

    /// Whether there are none at all.
    pub fn is_empty(&self) -> bool {
        self.others.is_empty() && !self.has_self
    }
}

/// Why a content address has no store path.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContentAddressedPathError {
    /// The object's name cannot be part of a store path.
    #[error("cannot name a content-addressed path")]
    Name(#[from] StorePathError),
    /// Only `text` and `r:sha256` objects may have references.
    #[error("`{name}` is addressed by `{method}` and may have no references")]
    References {
        /// The object's name.
        name: String,
        /// The method and algorithm, like `r:sha1`.
        method: String,
    },
    /// A text object cannot refer to itself.
    #[error("`{name}` is addressed as text and may not refer to itself")]
    TextRefersToItself {
        /// The object's name.
        name: String,
    },
    /// A text object is hashed by SHA-256, one of git by SHA-1 or SHA-256.
    #[error("`{name}` is addressed by `{method}`, which has no such algorithm")]
    Algorithm {
        /// The object's name.
        name: String,
        /// The method and algorithm, like `git:md5`.
        method: String,
    },
}

impl StoreDir {
    /// The store path of an object of this name, content and references.
    pub fn content_addressed_path(
        &self,
        name: &str,
        ca: &ContentAddress,
        references: &References,
    ) -> Result<StorePath, ContentAddressedPathError> {
        let sha256_used = ca.hash.algorithm() == HashAlgorithm::Sha256;
        let kind = match ca.method {
            ContentAddressMethod::Text if references.has_self => {
                return Err(ContentAddressedPathError::TextRefersToItself {
                    name: name.to_owned(),
                });
            }
            method if !method.allows(ca.hash.algorithm()) => {
                return Err(ContentAddressedPathError::Algorithm {
                    name: name.to_owned(),
                    method: method.with_algorithm(ca.hash.algorithm()),
                });
            }
            ContentAddressMethod::Text => "text",
            ContentAddressMethod::Nar if sha256_used => "source",
            _ if !references.is_empty() => {
                return Err(ContentAddressedPathError::References {
                    name: name.to_owned(),
                    method: ca.method.with_algorithm(ca.hash.algorithm()),
                });
            }
            ContentAddressMethod::Flat | ContentAddressMethod::Nar | ContentAddressMethod::Git => {
                let inner = sha256(format!("{}:", fixed_fingerprint(ca)).as_bytes());
                return Ok(self.make_path("output:out", &inner, name)?);
            }
        };
        let mut kind = kind.to_owned();
        for reference in &references.others {
            kind.push(':');
            kind.push_str(&self.display(reference));
        }
        if references.has_self {
            kind.push_str(":self");
        }
        Ok(self.make_path(&kind, &ca.hash, name)?)
    }
}

/// `fixed:out:<method><algorithm>:<hex>`, which begins both the fingerprint of a
/// fixed output's path and its hash modulo.
pub(crate) fn fixed_fingerprint(ca: &ContentAddress) -> String {
    format!(
        "fixed:out:{}{}",
        ca.method.prefix(),
        ca.hash.to_prefixed_hex()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hash {
        sha256(b"hello\n")
    }

    #[test]
    fn every_form_of_content_address_is_printed_and_parsed_back() {
        for (method, text) in [
            (ContentAddressMethod::Text, "text:sha256:"),
            (ContentAddressMethod::Flat, "fixed:sha256:"),
            (ContentAddressMethod::Nar, "fixed:r:sha256:"),
            (ContentAddressMethod::Git, "fixed:git:sha256:"),
        ] {
            let ca = ContentAddress {
                method,
                hash: hello(),
            };
            assert_eq!(ca.to_string(), format!("{text}{}", hello().to_base32()));
            assert_eq!(ca.to_string().parse(), Ok(ca));
        }
        for text in ["", "fixed", "fixed:sha256:00", "git:sha1:0", "fixed:git:x"] {
            assert!(text.parse::<ContentAddress>().is_err(), "{text}");
        }
    }

    /// As printed by `nix-store --print-fixed-path`.
    #[test]
    fn a_flat_fixed_output_has_nixs_path() {
        let ca = ContentAddress {
            method: ContentAddressMethod::Flat,
            hash: hello(),
        };
        let path = StoreDir::default()
            .content_addressed_path("fodflat", &ca, &References::default())
            .unwrap();
        assert!(path.base_name().starts_with("sbs6m3f1m6"), "{path}");
    }

    #[test]
    fn references_are_refused_where_nix_refuses_them() {
        let dir = StoreDir::default();
        let own = References {
            has_self: true,
            ..References::default()
        };
        let path_of =
            |method, hash| dir.content_addressed_path("x", &ContentAddress { method, hash }, &own);
        assert!(path_of(ContentAddressMethod::Nar, hello()).is_ok());
        let sha1 = HashAlgorithm::Sha1.digest(b"");
        assert!(path_of(ContentAddressMethod::Nar, sha1).is_err());
        assert!(path_of(ContentAddressMethod::Flat, hello()).is_err());
        assert!(path_of(ContentAddressMethod::Text, hello()).is_err());
        assert!(path_of(ContentAddressMethod::Git, sha1).is_err());
    }
}
