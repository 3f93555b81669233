//! Values: text in, meaning out, and back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::known::{Kind, experimental_features};

/// What a setting is set to.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `true` or `false`.
    Bool(bool),
    /// A number; each kind has bounds of its own.
    Number(i128),
    /// Any text, a path among others.
    Text(String),
    /// No text, where there may be none.
    None,
    /// Words, in order.
    List(Vec<String>),
    /// Words, each once, sorted.
    Set(BTreeSet<String>),
    /// `NAME=VALUE` pairs.
    Map(BTreeMap<String, String>),
    /// What builds see of the machine, by the place where they see it.
    SandboxPaths(BTreeMap<String, SandboxPath>),
    /// A list in JSON.
    Json(serde_json::Value),
}

/// One of `sandbox-paths`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxPath {
    /// The file or directory on this machine.
    pub source: String,
    /// Whether it may be missing.
    pub optional: bool,
}

/// A text that is no value of its setting. The messages are Nix's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// It is neither `true` nor `false`.
    #[error("Boolean setting '{name}' has invalid value '{text}'")]
    Bool {
        /// The setting's name.
        name: &'static str,
        /// What it should be set to.
        text: String,
    },
    /// It is no number, or one out of bounds.
    #[error("setting '{name}' has invalid value '{text}'")]
    Number {
        /// The setting's name.
        name: &'static str,
        /// What it should be set to.
        text: String,
    },
    /// It is neither `auto` nor a number.
    #[error("configuration setting '{name}' should be 'auto' or an integer")]
    Jobs {
        /// The setting's name.
        name: &'static str,
    },
    /// It is none of the words that the setting may be.
    #[error("option '{name}' has invalid value '{text}'")]
    Choice {
        /// The setting's name.
        name: &'static str,
        /// What it should be set to.
        text: String,
    },
    /// It is empty.
    #[error("setting '{name}' is a path and paths cannot be empty")]
    EmptyPath {
        /// The setting's name.
        name: &'static str,
    },
    /// It does not begin with a slash.
    #[error("not an absolute path: \"{text}\"")]
    RelativePath {
        /// The path.
        text: String,
    },
    /// It is not the JSON that it should be.
    #[error("parsing setting '{name}': {reason}")]
    Json {
        /// The setting's name.
        name: &'static str,
        /// Why not.
        reason: String,
    },
    /// It names no store.
    #[error("Cannot parse Nix store '{text}'")]
    Store {
        /// What should name one.
        text: String,
    },
}

/// The words of a text, as Nix tells them apart.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split([' ', '\t', '\n', '\r'])
        .filter(|word| !word.is_empty())
}

impl Value {
    /// Reads a value of this kind. `warn` is told what is left out.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(
        name: &'static str,
        kind: Kind,
        text: &str,
        processors: u32,
        warn: &mut dyn FnMut(String),
    ) -> Result<Self, ValueError> {
        let owned = || text.to_owned();
        Ok(match kind {
            Kind::Bool => match text {
                "true" | "yes" | "1" => Self::Bool(true),
                "false" | "no" | "0" => Self::Bool(false),
                _ => {
                    return Err(ValueError::Bool {
                        name,
                        text: owned(),
                    });
                }
            },
            Kind::Unsigned32 => Self::Number(i128::from(
                with_unit(text, u32::MAX.into(), true)
                    .map(|number| number as u32)
                    .ok_or_else(|| ValueError::Number {
                        name,
                        text: owned(),
                    })?,
            )),
            Kind::Unsigned64 => Self::Number(i128::from(
                with_unit(text, u64::MAX, true).ok_or_else(|| ValueError::Number {
                    name,
                    text: owned(),
                })?,
            )),
            Kind::Signed64 => Self::Number(i128::from(
                with_unit(text, i64::MAX as u64, false)
                    .map(u64::cast_signed)
                    .ok_or_else(|| ValueError::Number {
                        name,
                        text: owned(),
                    })?,
            )),
            Kind::Jobs if text == "auto" => Self::Number(processors.max(1).into()),
            Kind::Jobs => Self::Number(
                integer(text, u32::MAX.into(), true)
                    .map(i128::from)
                    .ok_or(ValueError::Jobs { name })?,
            ),
            Kind::Text => Self::Text(owned()),
            Kind::Choice(choices) => match choices.contains(&text) {
                true => Self::Text(owned()),
                false => {
                    return Err(ValueError::Choice {
                        name,
                        text: owned(),
                    });
                }
            },
            Kind::AnyPath | Kind::Path if text.is_empty() => {
                return Err(ValueError::EmptyPath { name });
            }
            Kind::OptionalPath if text.is_empty() => Self::None,
            Kind::AnyPath => Self::Text(owned()),
            Kind::Path | Kind::OptionalPath => Self::Text(canonical(text)?),
            Kind::List | Kind::Paths => Self::List(words(text).map(str::to_owned).collect()),
            Kind::Set | Kind::PathSet => Self::Set(words(text).map(str::to_owned).collect()),
            Kind::Map => {
                let mut map = BTreeMap::new();
                for (key, value) in words(text).filter_map(|word| word.split_once('=')) {
                    map.entry(key.to_owned())
                        .or_insert_with(|| value.to_owned());
                }
                Self::Map(map)
            }
            Kind::Features => {
                let mut features = BTreeSet::new();
                for word in words(text).collect::<BTreeSet<_>>() {
                    match word {
                        "flakes" => features.extend(["flakes", "fetch-tree"].map(str::to_owned)),
                        "no-url-literals" => warn(format!(
                            "experimental feature '{word}' has been stabilized and renamed; use 'lint-url-literals = fatal' setting instead"
                        )),
                        _ if experimental_features().contains(&word) => {
                            features.insert(word.to_owned());
                        }
                        _ => warn(format!("unknown experimental feature '{word}'")),
                    }
                }
                Self::Set(features)
            }
            Kind::SandboxPaths => {
                let mut paths = BTreeMap::new();
                // In the order of the words, of which the last for a place counts.
                for word in words(text).collect::<BTreeSet<_>>() {
                    let (word, optional) = match word.strip_suffix('?') {
                        Some(word) => (word, true),
                        None => (word, false),
                    };
                    let (inside, source) = word.split_once('=').unwrap_or((word, word));
                    let source = source.to_owned();
                    paths.insert(inside.to_owned(), SandboxPath { source, optional });
                }
                Self::SandboxPaths(paths)
            }
            Kind::Store => Self::Text(store(text)?),
            Kind::Stores => Self::List(words(text).map(store).collect::<Result<_, _>>()?),
            Kind::StoreSet => Self::Set(words(text).map(store).collect::<Result<_, _>>()?),
            Kind::Json => Self::Json(
                serde_json::from_str(text)
                    .map_err(|error| error.to_string())
                    .and_then(|value: serde_json::Value| match value.is_array() {
                        true => Ok(value),
                        false => Err("it is not a list".to_owned()),
                    })
                    .map_err(|reason| ValueError::Json { name, reason })?,
            ),
        })
    }

    /// Adds what `extra-NAME` names. Of what has a name, the first stays.
    pub(crate) fn append(&mut self, more: Self) {
        match (self, more) {
            (Self::List(list), Self::List(more)) => list.extend(more),
            (Self::Set(set), Self::Set(more)) => set.extend(more),
            (Self::Map(map), Self::Map(more)) => {
                for (key, value) in more {
                    map.entry(key).or_insert(value);
                }
            }
            (Self::SandboxPaths(map), Self::SandboxPaths(more)) => {
                for (key, value) in more {
                    map.entry(key).or_insert(value);
                }
            }
            (value, more) => *value = more,
        }
    }

    /// As in `nix config show --json`.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Bool(value) => (*value).into(),
            Self::Number(value) => match u64::try_from(*value) {
                Ok(value) => value.into(),
                Err(_) => (*value as i64).into(),
            },
            Self::Text(text) => text.as_str().into(),
            Self::None => serde_json::Value::Null,
            Self::List(list) => list.iter().map(String::as_str).collect(),
            Self::Set(set) => set.iter().map(String::as_str).collect(),
            Self::Map(map) => map
                .iter()
                .map(|(key, value)| (key.clone(), serde_json::Value::from(value.as_str())))
                .collect(),
            Self::SandboxPaths(paths) => paths
                .iter()
                .map(|(inside, path)| {
                    let value =
                        serde_json::json!({ "source": path.source, "optional": path.optional });
                    (inside.clone(), value)
                })
                .collect(),
            Self::Json(value) => value.clone(),
        }
    }
}

/// As in `nix.conf`: what is written there reads as the same value.
impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let join = |f: &mut std::fmt::Formatter<'_>, words: &mut dyn Iterator<Item = String>| {
            for (i, word) in words.enumerate() {
                f.write_str(if i == 0 { "" } else { " " })?;
                f.write_str(&word)?;
            }
            Ok(())
        };
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Number(value) => write!(f, "{value}"),
            Self::Text(text) => f.write_str(text),
            Self::None => Ok(()),
            Self::List(list) => join(f, &mut list.iter().cloned()),
            Self::Set(set) => join(f, &mut set.iter().cloned()),
            Self::Map(map) => join(
                f,
                &mut map.iter().map(|(key, value)| format!("{key}={value}")),
            ),
            Self::SandboxPaths(paths) => join(
                f,
                &mut paths.iter().map(|(inside, path)| {
                    let mark = if path.optional { "?" } else { "" };
                    match *inside == path.source && !(inside.is_empty() && mark.is_empty()) {
                        true => format!("{inside}{mark}"),
                        false => format!("{inside}={}{mark}", path.source),
                    }
                }),
            ),
            Self::Json(value) => write!(f, "{value}"),
        }
    }
}

/// A number with nothing around it, up to a bound: a sign, then digits.
fn integer(text: &str, max: u64, is_unsigned: bool) -> Option<u64> {
    let (is_negative, digits) = match text.as_bytes().first()? {
        b'-' if is_unsigned => return None,
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match is_negative {
        true if number <= max + 1 => Some(number.wrapping_neg()),
        false if number <= max => Some(number),
        _ => None,
    }
}

/// A number with one of the letters K, M, G and T, or without. What is too large with its
/// letter wraps around, as in Nix.
fn with_unit(text: &str, max: u64, is_unsigned: bool) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()?.to_ascii_uppercase() {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        b'T' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    integer(digits, max, is_unsigned).map(|number| number.wrapping_mul(1 << shift))
}

/// An absolute path without `.`, `..` and needless slashes; links are not followed.
pub(crate) fn canonical(text: &str) -> Result<String, ValueError> {
    if !Path::new(text).is_absolute() {
        let text = text.to_owned();
        return Err(ValueError::RelativePath { text });
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    Ok(format!("/{}", parts.join("/")))
}

/// A store's URL in the form in which two for the same store are the same text.
fn store(text: &str) -> Result<String, ValueError> {
    let (base, query) = match text.split_once('?') {
        Some((base, query)) => (base, query),
        None => (text, ""),
    };
    let mut parameters: BTreeMap<&str, &str> = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        if let Some((key, value)) = pair.split_once('=') {
            parameters.entry(key).or_insert(value);
        }
    }
    let has_none = parameters.is_empty();
    let mut url = match base {
        "" | "auto" => "auto".to_owned(),
        "daemon" if has_none => "daemon".to_owned(),
        "daemon" => "unix://".to_owned(),
        "local" if has_none => "local".to_owned(),
        "local" => "local://".to_owned(),
        _ => match base.split_once(':') {
            Some((scheme, rest)) if is_scheme(scheme) => {
                format!("{scheme}://{}", rest.strip_prefix("//").unwrap_or(rest))
            }
            // Relative to where we are.
            _ if base.contains('/') => {
                let path = std::path::absolute(base).ok();
                let path = path.as_deref().and_then(Path::to_str).unwrap_or(base);
                format!("local://{}", canonical(path)?)
            }
            _ => {
                let text = text.to_owned();
                return Err(ValueError::Store { text });
            }
        },
    };
    for (i, (key, value)) in parameters.iter().enumerate() {
        url.push(if i == 0 { '?' } else { '&' });
        url.push_str(key);
        url.push('=');
        url.push_str(value);
    }
    Ok(url)
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    fn parse(kind: Kind, text: &str) -> Result<Value, ValueError> {
        Value::parse("x", kind, text, 7, &mut |_| {})
    }

    #[rstest]
    #[case("5", Some(5))]
    #[case("+5", Some(5))]
    #[case("007", Some(7))]
    #[case("1K", Some(1024))]
    #[case("1k", Some(1024))]
    #[case("2G", Some(2 << 30))]
    #[case("3T", Some(3 << 40))]
    #[case("18446744073709551615", Some(i128::from(u64::MAX)))]
    #[case("18446744073709551616", None)]
    #[case("-1", None)]
    #[case("", None)]
    #[case("K", None)]
    #[case("1 K", None)]
    #[case("1KB", None)]
    #[case("1X", None)]
    #[case("0x10", None)]
    #[case("1é", None)]
    fn a_size_has_a_unit_or_none(#[case] text: &str, #[case] want: Option<i128>) {
        assert_eq!(
            parse(Kind::Unsigned64, text).ok(),
            want.map(Value::Number),
            "{text}"
        );
    }

    #[test]
    fn times_may_be_negative_and_jobs_have_no_unit() {
        assert_eq!(parse(Kind::Signed64, "-1"), Ok(Value::Number(-1)));
        assert_eq!(
            parse(Kind::Signed64, "-9223372036854775808"),
            Ok(Value::Number(i128::from(i64::MIN)))
        );
        assert!(parse(Kind::Signed64, "9223372036854775808").is_err());
        assert_eq!(parse(Kind::Jobs, "auto"), Ok(Value::Number(7)));
        assert_eq!(parse(Kind::Jobs, "0"), Ok(Value::Number(0)));
        assert!(parse(Kind::Jobs, "1K").is_err());
        assert!(parse(Kind::Unsigned32, "4294967296").is_err());
        assert_eq!(parse(Kind::Unsigned32, "4G"), Ok(Value::Number(0)));
    }

    #[test]
    fn sandbox_paths_have_a_source_and_may_be_optional() {
        let Ok(Value::SandboxPaths(paths)) = parse(Kind::SandboxPaths, "/a=/b? /c /d? /a=/a")
        else {
            panic!();
        };
        let path = |source: &str, optional| SandboxPath {
            source: source.to_owned(),
            optional,
        };
        let want = [
            ("/a", path("/b", true)),
            ("/c", path("/c", false)),
            ("/d", path("/d", true)),
        ];
        let want = want.map(|(inside, path)| (inside.to_owned(), path));
        assert_eq!(paths, want.into());
    }

    #[test]
    fn paths_are_made_canonical_and_must_be_absolute() {
        assert_eq!(
            parse(Kind::Path, "/a//b/./c/../d/"),
            Ok(Value::Text("/a/b/d".into()))
        );
        assert_eq!(parse(Kind::OptionalPath, ""), Ok(Value::None));
        assert!(parse(Kind::Path, "").is_err());
        assert!(parse(Kind::OptionalPath, "a").is_err());
    }

    const KINDS: [Kind; 17] = [
        Kind::Bool,
        Kind::Unsigned32,
        Kind::Unsigned64,
        Kind::Signed64,
        Kind::Jobs,
        Kind::Text,
        Kind::Choice(&["a", "b"]),
        Kind::AnyPath,
        Kind::Path,
        Kind::OptionalPath,
        Kind::List,
        Kind::Set,
        Kind::Map,
        Kind::Features,
        Kind::SandboxPaths,
        Kind::Stores,
        Kind::Json,
    ];

    proptest! {
        #[test]
        fn what_is_printed_reads_as_the_same_value(
            kind in prop::sample::select(&KINDS[..]),
            text in "([ -~]|true|flakes|[0-9]{1,20}[KMGT]?|/|=|é){0,12}",
        ) {
            if let Ok(value) = parse(kind, &text) {
                prop_assert_eq!(parse(kind, &value.to_string()), Ok(value));
            }
        }

        #[test]
        fn no_text_is_worth_a_panic(kind in prop::sample::select(&KINDS[..]), text: String) {
            let _ = parse(kind, &text).map(|value| value.to_json().to_string());
        }
    }
}
