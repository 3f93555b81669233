//! How stores are named: what follows `--store`.
//!
//! Source: nix 2.34, `src/libstore/store-reference.cc`, `src/libutil/url.cc`.

use std::collections::BTreeMap;

/// A longer reference is none, in bytes.
pub const STORE_REFERENCE_LEN_MAX: usize = 64 << 10;

/// The scheme of stores on disk.
const LOCAL: &str = "local";

/// The scheme of stores behind a daemon's socket.
const UNIX: &str = "unix";

/// A text that names no store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreReferenceError {
    /// `%` is not followed by two hexadecimal digits, or what they give is not text.
    #[error("`{text}` has a `%` that does not stand for a character")]
    Percent {
        /// The part of the reference.
        text: String,
    },
    /// It is longer than [`STORE_REFERENCE_LEN_MAX`].
    #[error("the name of a store has more than {STORE_REFERENCE_LEN_MAX} bytes")]
    TooLong,
}

/// What kind of a store is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// `auto`, or nothing: on disk where that may be written to, else the daemon's.
    Auto,
    /// `local`, `local://DIR`, or a directory: a store on disk.
    Local {
        /// The directory that goes before all others, as it was written. It may be relative.
        root: Option<String>,
    },
    /// `daemon` or `unix://PATH`: the store behind a daemon's socket.
    Daemon {
        /// The socket, if it is not the usual one.
        socket: Option<String>,
    },
    /// A store of another scheme, such as `ssh-ng`.
    Other {
        /// The scheme.
        scheme: String,
    },
}

/// A store and its parameters, as users name them.
///
/// ```
/// use store_types::{StoreKind, StoreReference};
///
/// let reference = StoreReference::parse("local?root=/mnt&store=/x/store").unwrap();
/// assert_eq!(reference.kind, StoreKind::Local { root: None });
/// assert_eq!(reference.params["store"], "/x/store");
/// let reference = StoreReference::parse("/mnt?read-only=true").unwrap();
/// assert_eq!(reference.kind, StoreKind::Local { root: Some("/mnt".into()) });
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreReference {
    /// What kind of a store.
    pub kind: StoreKind,
    /// What follows `?`, decoded. Of a name that comes twice the last counts.
    pub params: BTreeMap<String, String>,
}

impl StoreReference {
    /// Reads a reference. A word that has no meaning of its own is a directory (Nix wants a slash
    /// in it).
    pub fn parse(text: &str) -> Result<Self, StoreReferenceError> {
        if text.len() > STORE_REFERENCE_LEN_MAX {
            return Err(StoreReferenceError::TooLong);
        }
        let (base, query) = match text.split_once('?') {
            Some((base, query)) => (base, query),
            None => (text, ""),
        };
        let kind = match (base, base.split_once("://")) {
            ("" | "auto", _) => StoreKind::Auto,
            ("local", _) => StoreKind::Local { root: None },
            ("daemon", _) => StoreKind::Daemon { socket: None },
            (_, Some((LOCAL, rest))) => StoreKind::Local {
                root: not_empty(rest)?,
            },
            (_, Some((UNIX, rest))) => StoreKind::Daemon {
                socket: not_empty(rest)?,
            },
            (_, Some((scheme, _))) => StoreKind::Other {
                scheme: scheme.to_owned(),
            },
            (dir, None) => StoreKind::Local {
                root: Some(dir.to_owned()),
            },
        };
        let mut params = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            params.insert(decode(name)?, decode(value)?);
        }
        Ok(Self { kind, params })
    }
}

fn not_empty(text: &str) -> Result<Option<String>, StoreReferenceError> {
    Some(text)
        .filter(|text| !text.is_empty())
        .map(decode)
        .transpose()
}

/// Replaces `%` and two hexadecimal digits by their byte.
fn decode(text: &str) -> Result<String, StoreReferenceError> {
    let wrong = || StoreReferenceError::Percent {
        text: text.to_owned(),
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || {
            let digit = rest.next().and_then(|byte| char::from(byte).to_digit(16));
            digit.ok_or_else(wrong)
        };
        let value = digit()? * 16 + digit()?;
        bytes.push(u8::try_from(value).map_err(|_| wrong())?);
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

/// Text such that it can be a parameter's value: `%` and two digits for all but letters, digits
/// and what is never special.
pub fn encode_store_param(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> StoreKind {
        StoreReference::parse(text).unwrap().kind
    }

    fn local(root: Option<&str>) -> StoreKind {
        StoreKind::Local {
            root: root.map(str::to_owned),
        }
    }

    fn daemon(socket: Option<&str>) -> StoreKind {
        StoreKind::Daemon {
            socket: socket.map(str::to_owned),
        }
    }

    #[test]
    fn every_form_of_nix_is_read() {
        for text in ["", "auto", "auto?state=/x", "?state=/x"] {
            assert_eq!(kind(text), StoreKind::Auto, "{text}");
        }
        for text in ["local", "local?root=/x", "local://", "local://?root=/x"] {
            assert_eq!(kind(text), local(None), "{text}");
        }
        assert_eq!(kind("local:///a%20b?state=/x"), local(Some("/a b")));
        for text in ["/x", "/x?real=/y"] {
            assert_eq!(kind(text), local(Some("/x")), "{text}");
        }
        assert_eq!(kind("./x"), local(Some("./x")));
        assert_eq!(kind("x"), local(Some("x")));
        assert_eq!(kind("/a%20b"), local(Some("/a%20b")));
        for text in ["daemon", "daemon?root=/x", "unix://", "unix://?root=/x"] {
            assert_eq!(kind(text), daemon(None), "{text}");
        }
        assert_eq!(kind("unix:///run/s?root=/x"), daemon(Some("/run/s")));
        assert_eq!(
            kind("ssh-ng://host"),
            StoreKind::Other {
                scheme: "ssh-ng".to_owned()
            }
        );
    }

    #[test]
    fn parameters_are_decoded_and_encoded() {
        let value = "/a b&c=d?%é";
        let text = format!("local?root={}&x&store=/y", encode_store_param(value));
        let params = StoreReference::parse(&text).unwrap().params;
        let expected = [("root", value), ("store", "/y"), ("x", "")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(params, BTreeMap::from(expected));
    }

    #[test]
    fn what_stands_for_no_character_is_refused() {
        for text in [
            "local?root=%4",
            "local?root=%zz",
            "local?root=%ff",
            "unix:///%",
        ] {
            assert!(
                matches!(
                    StoreReference::parse(text),
                    Err(StoreReferenceError::Percent { .. })
                ),
                "{text}"
            );
        }
        let long = "x".repeat(STORE_REFERENCE_LEN_MAX + 1);
        assert_eq!(
            StoreReference::parse(&long),
            Err(StoreReferenceError::TooLong)
        );
    }
}
