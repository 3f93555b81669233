//! Realisations: which store path an output of a derivation turned out to be.
//!
//! Source: nix 2.34 `src/libstore/realisation.cc`. Since 2.35 Nix keys them by
//! the derivation's path instead: see [`BuildTraceEntry`](crate::BuildTraceEntry).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use crate::json::{quote, quote_all};
use crate::{Hash, StorePath, is_output_name};

/// An output of a derivation, named by the derivation's hash modulo.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DrvOutput {
    /// The derivation's hash modulo.
    pub drv_hash: Hash,
    /// The output's name.
    pub output_name: String,
}

/// `sha256:<hex>!<output name>`.
impl fmt::Display for DrvOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}!{}",
            self.drv_hash.to_prefixed_hex(),
            self.output_name
        )
    }
}

impl FromStr for DrvOutput {
    type Err = RealisationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text.split_once('!').and_then(|(hash, output_name)| {
            Some(Self {
                drv_hash: Hash::parse_prefixed(hash).ok()?,
                output_name: is_output_name(output_name).then(|| output_name.to_owned())?,
            })
        });
        parsed.ok_or_else(|| RealisationError::Id {
            text: text.to_owned(),
        })
    }
}

/// The store path that an output of a derivation turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Realisation {
    /// The output.
    pub id: DrvOutput,
    /// Its store path.
    pub out_path: StorePath,
    /// Signatures, `<key name>:<base 64>`.
    pub signatures: Vec<String>,
    /// The realisations it was made with (filled by Nix before 2.34 only).
    pub dependent_realisations: BTreeMap<DrvOutput, StorePath>,
}

/// Why a text is not a realisation.
#[derive(Debug, thiserror::Error)]
pub enum RealisationError {
    /// The id is malformed.
    #[error("`{text}` does not name an output of a derivation: want `sha256:<hash>!<output>`")]
    Id {
        /// What stood there.
        text: String,
    },
    /// It is not JSON.
    #[error("cannot read a realisation")]
    Json(#[source] serde_json::Error),
    /// A member is missing or of the wrong kind.
    #[error("member `{member}` of a realisation is missing or malformed")]
    Member {
        /// The member's name.
        member: &'static str,
    },
}

impl Realisation {
    /// One that nobody has signed, with nothing that it was made with.
    pub fn unsigned(id: DrvOutput, out_path: StorePath) -> Self {
        Self {
            id,
            out_path,
            signatures: Vec::new(),
            dependent_realisations: BTreeMap::new(),
        }
    }

    /// Nix's JSON: compact, members sorted, store paths as base names.
    pub fn to_json(&self) -> String {
        let dependent: Vec<String> = self
            .dependent_realisations
            .iter()
            .map(|(id, path)| format!("{}:{}", quote(&id.to_string()), quote(path.base_name())))
            .collect();
        format!(
            "{{\"dependentRealisations\":{{{}}},\"id\":{},\"outPath\":{},\"signatures\":{}}}",
            dependent.join(","),
            quote(&self.id.to_string()),
            quote(self.out_path.base_name()),
            quote_all(&self.signatures),
        )
    }

    /// What is signed: the JSON without signatures.
    pub fn fingerprint(&self) -> String {
        let mut unsigned = self.clone();
        unsigned.signatures.clear();
        let json = unsigned.to_json();
        // The last member.
        json.replace(",\"signatures\":[]", "")
    }

    /// The inverse of [`to_json`](Self::to_json); members it does not know are
    /// passed over, as Nix does.
    pub fn from_json(text: &[u8]) -> Result<Self, RealisationError> {
        let value: Value = serde_json::from_slice(text).map_err(RealisationError::Json)?;
        let malformed = |member| RealisationError::Member { member };
        let path = |value: &Value| StorePath::from_base_name(value.as_str()?).ok();

        let id = value["id"].as_str().ok_or(malformed("id"))?.parse()?;
        let out_path = path(&value["outPath"]).ok_or(malformed("outPath"))?;
        let signatures = match &value["signatures"] {
            Value::Null => Some(Vec::new()),
            Value::Array(texts) => texts.iter().map(|t| Some(t.as_str()?.to_owned())).collect(),
            _ => None,
        }
        .ok_or(malformed("signatures"))?;
        let dependent_realisations = match &value["dependentRealisations"] {
            Value::Null => Some(BTreeMap::new()),
            Value::Object(members) => members
                .iter()
                .map(|(id, value)| Some((id.parse().ok()?, path(value)?)))
                .collect(),
            _ => None,
        }
        .ok_or(malformed("dependentRealisations"))?;
        Ok(Self {
            id,
            out_path,
            signatures,
            dependent_realisations,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_realisation_is_printed_as_nix_prints_it_and_read_back() {
        let text = concat!(
            r#"{"dependentRealisations":{"sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03!dev":"0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-x"},"#,
            r#""id":"sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03!out","#,
            r#""outPath":"0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-ca","signatures":["k:AA=="]}"#
        );
        let realisation = Realisation::from_json(text.as_bytes()).unwrap();
        assert_eq!(realisation.id.output_name, "out");
        assert_eq!(realisation.to_json(), text);
    }

    #[test]
    fn malformed_realisations_are_refused_by_member() {
        for (text, member) in [
            ("{}", "id"),
            (r#"{"id":1}"#, "id"),
            (r#"{"id":"sha256:00!out"}"#, "does not name"),
            ("[", "cannot read"),
        ] {
            let error = Realisation::from_json(text.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(member), "{text}: {error}");
        }
    }
}
