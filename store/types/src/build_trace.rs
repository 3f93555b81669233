//! Build trace entries: which store path an output of a derivation turned out to be, by the
//! derivation's path. Nix has them since 2.35; before, realisations were by hash modulo (see
//! [`Realisation`](crate::Realisation)).
//!
//! The derivation is a resolved one, without input derivations: what an unresolved one has
//! made is what the one has made that it resolves to.
//!
//! Source: Nix manual, "Build Trace Entry"; nix 2.35 `src/libstore/realisation.cc`,
//! `binary-cache-store.cc`, `src/libutil/signature/local-keys.cc`.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Map, Value};

use crate::{Signature, StorePath, base64, is_output_name, json};

/// An output of a derivation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BuildTraceKey {
    /// The derivation, resolved.
    pub drv_path: StorePath,
    /// The output's name.
    pub output_name: String,
}

/// `<base name of the derivation>^<output name>`.
impl fmt::Display for BuildTraceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}^{}", self.drv_path, self.output_name)
    }
}

impl BuildTraceKey {
    /// Where a binary cache has what the output turned out to be:
    /// [`value_to_json`](BuildTraceEntry::value_to_json).
    pub fn cache_file(&self) -> String {
        format!(
            "build-trace-v2/{}/{}.doi",
            self.drv_path.base_name(),
            self.output_name
        )
    }
}

/// What an output of a derivation turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildTraceEntry {
    /// The output.
    pub key: BuildTraceKey,
    /// Its store path.
    pub out_path: StorePath,
    /// Who says so.
    pub signatures: BTreeSet<Signature>,
}

/// Why a text is not a build trace entry.
#[derive(Debug, thiserror::Error)]
pub enum BuildTraceError {
    /// It is not JSON.
    #[error("cannot read a build trace entry")]
    Json(#[source] serde_json::Error),
    /// A member is missing or malformed.
    #[error("member `{member}` of a build trace entry is missing or malformed")]
    Member {
        /// The member, with that which it is in.
        member: &'static str,
    },
}

fn member<T>(member: &'static str, value: Option<T>) -> Result<T, BuildTraceError> {
    value.ok_or(BuildTraceError::Member { member })
}

impl BuildTraceEntry {
    /// One that nobody has signed.
    pub fn unsigned(key: BuildTraceKey, out_path: StorePath) -> Self {
        Self {
            key,
            out_path,
            signatures: BTreeSet::new(),
        }
    }

    /// Nix's JSON: compact, members sorted, store paths as base names.
    pub fn to_json(&self) -> String {
        self.print(true)
    }

    /// The entry without its key, as a binary cache has it.
    pub fn value_to_json(&self) -> String {
        json::print_object(&self.value(true))
    }

    /// What is signed: the JSON without signatures.
    pub fn fingerprint(&self) -> String {
        self.print(false)
    }

    fn print(&self, with_signatures: bool) -> String {
        let key = [
            ("drvPath", self.key.drv_path.base_name()),
            ("outputName", &self.key.output_name),
        ];
        let key = key.map(|(name, value)| (name.to_owned(), Value::from(value)));
        json::print_object(&Map::from_iter([
            ("key".to_owned(), Value::Object(Map::from_iter(key))),
            (
                "value".to_owned(),
                Value::Object(self.value(with_signatures)),
            ),
        ]))
    }

    fn value(&self, with_signatures: bool) -> Map<String, Value> {
        let mut value = Map::new();
        value.insert("outPath".to_owned(), self.out_path.base_name().into());
        if with_signatures {
            let signatures = self.signatures.iter().map(|signature| {
                Value::Object(Map::from_iter([
                    ("keyName".to_owned(), signature.key_name.as_str().into()),
                    ("sig".to_owned(), base64::encode(&signature.bytes).into()),
                ]))
            });
            value.insert("signatures".to_owned(), signatures.collect());
        }
        value
    }

    /// The inverse of [`to_json`](Self::to_json). Members that it does not know are passed
    /// over, signatures may be missing, and be in their short form (`<key name>:<base 64>`),
    /// as Nix has it.
    pub fn from_json(text: &[u8]) -> Result<Self, BuildTraceError> {
        let whole: Value = serde_json::from_slice(text).map_err(BuildTraceError::Json)?;
        let output_name = whole["key"]["outputName"].as_str();
        let output_name = output_name.filter(|name| is_output_name(name));
        let key = BuildTraceKey {
            drv_path: member("key.drvPath", path(&whole["key"]["drvPath"]))?,
            output_name: member("key.outputName", output_name)?.to_owned(),
        };
        Self::read_value(key, &whole["value"])
    }

    /// The inverse of [`value_to_json`](Self::value_to_json), for the output that was asked for.
    pub fn from_value_json(key: BuildTraceKey, text: &[u8]) -> Result<Self, BuildTraceError> {
        let value: Value = serde_json::from_slice(text).map_err(BuildTraceError::Json)?;
        Self::read_value(key, &value)
    }

    fn read_value(key: BuildTraceKey, value: &Value) -> Result<Self, BuildTraceError> {
        let signatures = match value.get("signatures") {
            None => Some(BTreeSet::new()),
            Some(Value::Array(items)) => items.iter().map(signature).collect(),
            Some(_) => None,
        };
        Ok(Self {
            key,
            out_path: member("value.outPath", path(&value["outPath"]))?,
            signatures: member("value.signatures", signatures)?,
        })
    }
}

fn path(value: &Value) -> Option<StorePath> {
    StorePath::from_base_name(value.as_str()?).ok()
}

/// A database has signatures in their short form, with spaces between them: the name of a
/// key that has one, or a colon, cannot be read back.
fn signature(value: &Value) -> Option<Signature> {
    if let Some(text) = value.as_str() {
        return text.parse().ok();
    }
    let signature = Signature {
        key_name: value["keyName"].as_str()?.to_owned(),
        bytes: base64::decode(value["sig"].as_str()?)?,
    };
    let is_read_back = signature.to_string().parse().as_ref() == Ok(&signature)
        && !signature.key_name.contains(char::is_whitespace);
    is_read_back.then_some(signature)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q";

    fn entry(signatures: &str) -> String {
        format!(
            "{{\"key\":{{\"drvPath\":\"{PATH}-bar.drv\",\"outputName\":\"foo\"}},\
             \"value\":{{\"outPath\":\"{PATH}-foo\"{signatures}}}}}"
        )
    }

    #[test]
    fn an_entry_is_printed_as_nix_prints_it_and_read_back() {
        let text =
            entry(r#","signatures":[{"keyName":"a","sig":"AAAA"},{"keyName":"b","sig":"/w=="}]"#);
        let read = BuildTraceEntry::from_json(text.as_bytes()).unwrap();
        assert_eq!(read.to_json(), text);
        assert_eq!(read.fingerprint(), entry(""));
        assert_eq!(
            read.key.cache_file(),
            format!("build-trace-v2/{PATH}-bar.drv/foo.doi")
        );
        let value = read.value_to_json();
        let again = BuildTraceEntry::from_value_json(read.key.clone(), value.as_bytes()).unwrap();
        assert_eq!(again, read);
    }

    #[test]
    fn signatures_may_be_in_their_short_form_or_missing() {
        let short = entry(r#","signatures":["a:AAAA"]"#);
        let long = entry(r#","signatures":[{"keyName":"a","sig":"AAAA"}]"#);
        let read = |text: &str| BuildTraceEntry::from_json(text.as_bytes()).unwrap();
        assert_eq!(read(&short), read(&long));
        assert!(read(&entry("")).signatures.is_empty());
    }

    #[test]
    fn malformed_entries_are_refused_by_member() {
        let signed = |signature: &str| entry(&format!(r#","signatures":[{signature}]"#));
        for (text, reason) in [
            ("[".to_owned(), "cannot read"),
            ("{}".to_owned(), "`key.drvPath`"),
            (entry("").replace("-bar.drv", ""), "`key.drvPath`"),
            (
                entry("").replace(r#""foo""#, r#""f/o""#),
                "`key.outputName`",
            ),
            (entry("").replace("-foo", ""), "`value.outPath`"),
            (entry(r#","signatures":null"#), "`value.signatures`"),
            (signed("1"), "`value.signatures`"),
            (
                signed(r#"{"keyName":"a b","sig":"AAAA"}"#),
                "`value.signatures`",
            ),
            (
                signed(r#"{"keyName":"a:b","sig":"AAAA"}"#),
                "`value.signatures`",
            ),
        ] {
            let error = BuildTraceEntry::from_json(text.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(reason), "{text}: {error}");
        }
    }
}
