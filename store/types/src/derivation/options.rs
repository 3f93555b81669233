//! Options of a derivation: what its attributes tell the executor.
//!
//! Source: nix 2.34 `src/libstore/derivation-options.cc`; Nix manual, "Advanced
//! Attributes".

use std::collections::{BTreeMap, BTreeSet};

use bstr::{BString, ByteSlice};
use serde_json::Value;

use super::{Derivation, StructuredAttrs};
use crate::sha256;

/// What the outputs of a derivation may be and refer to.
///
/// References are full store paths or names of outputs of the same derivation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutputChecks {
    /// References of an output to itself do not count among its requisites.
    pub ignores_self_references: bool,
    /// The largest NAR, in bytes.
    pub max_size_bytes: Option<u64>,
    /// The largest sum of the NARs of its closure, in bytes.
    pub max_closure_size_bytes: Option<u64>,
    /// What it may refer to; `None` for anything.
    pub allowed_references: Option<BTreeSet<String>>,
    /// What it may not refer to.
    pub disallowed_references: BTreeSet<String>,
    /// What may be in its closure; `None` for anything.
    pub allowed_requisites: Option<BTreeSet<String>>,
    /// What may not be in its closure.
    pub disallowed_requisites: BTreeSet<String>,
}

/// What the attributes of a derivation tell the executor.
///
/// Read them from a resolved derivation: placeholders are not looked into.
#[derive(Clone, Debug, PartialEq)]
pub struct DerivationOptions {
    /// The structured attributes, if the derivation has them.
    pub structured_attrs: Option<StructuredAttrs>,
    /// `passAsFile`: variables whose values go to files, see [`attribute_file_name`].
    /// Empty with structured attributes.
    pub pass_as_file: BTreeSet<BString>,
    /// `exportReferencesGraph`: files or attributes, and the paths in the store
    /// whose closures they describe.
    pub export_references_graph: BTreeMap<String, BTreeSet<String>>,
    /// `requiredSystemFeatures`, with `ca-derivations` added where output paths
    /// are not known beforehand.
    pub required_system_features: BTreeSet<String>,
    /// `impureEnvVars`: variables that are taken from outside, if the build may
    /// reach the network.
    pub impure_env_vars: BTreeSet<String>,
    /// `__impureHostDeps`: paths of the machine to be seen in the sandbox.
    pub impure_host_deps: BTreeSet<String>,
    /// `preferLocalBuild`.
    pub prefer_local_build: bool,
    /// `allowSubstitutes`.
    pub allow_substitutes: bool,
    /// `__noChroot`: the build wants no sandbox.
    pub no_chroot: bool,
    /// `unsafeDiscardReferences`: outputs that are not scanned for references.
    pub unsafe_discard_references: BTreeSet<String>,
    checks: Checks,
}

#[derive(Clone, Debug, PartialEq)]
enum Checks {
    SameForAll(OutputChecks),
    ByOutput(BTreeMap<String, OutputChecks>),
}

/// Why the attributes of a derivation make no sense.
#[derive(Debug, thiserror::Error)]
pub enum DerivationOptionsError {
    /// The structured attributes are no JSON object.
    #[error("cannot read the structured attributes (`__json`)")]
    StructuredAttrs(#[source] serde_json::Error),
    /// An attribute has the wrong type.
    #[error("attribute `{name}` must be {wanted}")]
    Type {
        /// The attribute's name.
        name: String,
        /// What it must be.
        wanted: &'static str,
    },
    /// `exportReferencesGraph` has a file without a path.
    #[error("attribute `exportReferencesGraph` must be pairs of a file name and a path")]
    OddGraph,
    /// `exportReferencesGraph` has a name that cannot be a file's.
    #[error("attribute `exportReferencesGraph` has `{name}`, which cannot name a file")]
    GraphName {
        /// The name.
        name: String,
    },
}

/// The name of the file, in the build's directory, that holds the value of a
/// variable of `passAsFile`. The file's path is in the variable `<name>Path`.
pub fn attribute_file_name(variable: &[u8]) -> String {
    format!(".attr-{}", sha256(variable).to_base32())
}

impl DerivationOptions {
    /// Those of a derivation.
    pub fn of(drv: &Derivation) -> Result<Self, DerivationOptionsError> {
        let structured_attrs = StructuredAttrs::of(drv)?;
        let attributes = match &structured_attrs {
            Some(attrs) => Attributes::Structured(attrs),
            None => Attributes::Plain(drv),
        };
        let set = |name| Ok(attributes.set(name)?.unwrap_or_default());

        let mut required_system_features: BTreeSet<String> = set("requiredSystemFeatures")?;
        if drv.outputs.values().any(|output| output.path().is_none()) {
            required_system_features.insert("ca-derivations".to_owned());
        }
        let pass_as_file = match (&structured_attrs, drv.env.get(b"passAsFile".as_slice())) {
            (None, Some(names)) => words(names).map(BString::from).collect(),
            _ => BTreeSet::new(),
        };
        Ok(Self {
            pass_as_file,
            export_references_graph: attributes.graphs()?,
            required_system_features,
            impure_env_vars: set("impureEnvVars")?,
            impure_host_deps: set("__impureHostDeps")?,
            prefer_local_build: attributes.flag("preferLocalBuild")?.unwrap_or(false),
            allow_substitutes: attributes.flag("allowSubstitutes")?.unwrap_or(true),
            no_chroot: attributes.flag("__noChroot")?.unwrap_or(false),
            unsafe_discard_references: attributes.discarded_references()?,
            checks: attributes.checks()?,
            structured_attrs,
        })
    }

    /// Whether the attributes are structured.
    pub fn is_structured(&self) -> bool {
        self.structured_attrs.is_some()
    }

    /// The checks for one output.
    pub fn output_checks_of(&self, output: &str) -> OutputChecks {
        match &self.checks {
            Checks::SameForAll(checks) => checks.clone(),
            Checks::ByOutput(checks) => checks.get(output).cloned().unwrap_or_default(),
        }
    }
}

/// The words of a plain attribute.
fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| b" \t\n\r".contains(byte))
        .filter(|word| !word.is_empty())
}

enum Attributes<'a> {
    Plain(&'a Derivation),
    Structured(&'a StructuredAttrs),
}

type Found<T> = Result<T, DerivationOptionsError>;

fn wrong_type<T>(name: &str, wanted: &'static str) -> Found<T> {
    Err(DerivationOptionsError::Type {
        name: name.to_owned(),
        wanted,
    })
}

impl Attributes<'_> {
    fn set(&self, name: &str) -> Found<Option<BTreeSet<String>>> {
        match self {
            Self::Plain(drv) => match drv.env.get(name.as_bytes()) {
                Some(text) => match text.to_str() {
                    Ok(text) => Ok(Some(
                        words(text.as_bytes())
                            .map(|word| word.to_str_lossy().into_owned())
                            .collect(),
                    )),
                    Err(_) => wrong_type(name, "UTF-8"),
                },
                None => Ok(None),
            },
            Self::Structured(attrs) => attrs.get(name).map(|v| string_set(name, v)).transpose(),
        }
    }

    fn flag(&self, name: &str) -> Found<Option<bool>> {
        match self {
            Self::Plain(drv) => Ok(drv.env.get(name.as_bytes()).map(|value| value == "1")),
            Self::Structured(attrs) => match attrs.get(name) {
                None => Ok(None),
                Some(Value::Bool(value)) => Ok(Some(*value)),
                Some(_) => wrong_type(name, "true or false"),
            },
        }
    }

    fn graphs(&self) -> Found<BTreeMap<String, BTreeSet<String>>> {
        const NAME: &str = "exportReferencesGraph";
        let mut graphs = BTreeMap::new();
        match self {
            Self::Plain(drv) => {
                let text = drv.env.get(NAME.as_bytes());
                let Ok(text) = text.map_or(Ok(""), |text| text.to_str()) else {
                    return wrong_type(NAME, "UTF-8");
                };
                let mut words = words(text.as_bytes()).map(|w| w.to_str_lossy().into_owned());
                while let Some(name) = words.next() {
                    let path = words.next().ok_or(DerivationOptionsError::OddGraph)?;
                    if !is_graph_name(&name) {
                        return Err(DerivationOptionsError::GraphName { name });
                    }
                    graphs.insert(name, BTreeSet::from([path]));
                }
            }
            Self::Structured(attrs) => {
                // Nix passes over one that is no object, too.
                if let Some(Value::Object(members)) = attrs.get(NAME) {
                    for (name, value) in members {
                        let mut paths = BTreeSet::new();
                        flatten(NAME, value, &mut paths)?;
                        graphs.insert(name.clone(), paths);
                    }
                }
            }
        }
        Ok(graphs)
    }

    fn discarded_references(&self) -> Found<BTreeSet<String>> {
        const NAME: &str = "unsafeDiscardReferences";
        let mut outputs = BTreeSet::new();
        if let Self::Structured(attrs) = self {
            for (output, value) in object(NAME, attrs.get(NAME))? {
                match value {
                    Value::Bool(true) => _ = outputs.insert(output.clone()),
                    Value::Bool(false) => {}
                    _ => return wrong_type(NAME, "an object of true and false"),
                }
            }
        }
        Ok(outputs)
    }

    fn checks(&self) -> Found<Checks> {
        const NAME: &str = "outputChecks";
        match self {
            Self::Plain(_) => Ok(Checks::SameForAll(OutputChecks {
                ignores_self_references: true,
                max_size_bytes: None,
                max_closure_size_bytes: None,
                allowed_references: self.set("allowedReferences")?,
                disallowed_references: self.set("disallowedReferences")?.unwrap_or_default(),
                allowed_requisites: self.set("allowedRequisites")?,
                disallowed_requisites: self.set("disallowedRequisites")?.unwrap_or_default(),
            })),
            Self::Structured(attrs) => {
                let mut by_output = BTreeMap::new();
                for (output, value) in object(NAME, attrs.get(NAME))? {
                    by_output.insert(output.clone(), checks_of(value)?);
                }
                Ok(Checks::ByOutput(by_output))
            }
        }
    }
}

fn checks_of(value: &Value) -> Found<OutputChecks> {
    let Value::Object(members) = value else {
        return wrong_type("outputChecks", "an object of objects");
    };
    let set = |name| members.get(name).map(|v| string_set(name, v)).transpose();
    let size = |name| match members.get(name) {
        None => Ok(None),
        Some(value) => match value.as_u64() {
            Some(size) => Ok(Some(size)),
            None => wrong_type(name, "a number of bytes"),
        },
    };
    Ok(OutputChecks {
        ignores_self_references: false,
        max_size_bytes: size("maxSize")?,
        max_closure_size_bytes: size("maxClosureSize")?,
        allowed_references: set("allowedReferences")?,
        disallowed_references: set("disallowedReferences")?.unwrap_or_default(),
        allowed_requisites: set("allowedRequisites")?,
        disallowed_requisites: set("disallowedRequisites")?.unwrap_or_default(),
    })
}

fn object<'a>(
    name: &str,
    value: Option<&'a Value>,
) -> Found<impl Iterator<Item = (&'a String, &'a Value)>> {
    match value {
        None => Ok(None.into_iter().flatten()),
        Some(Value::Object(members)) => Ok(Some(members).into_iter().flatten()),
        Some(_) => wrong_type(name, "an object"),
    }
}

fn string_set(name: &str, value: &Value) -> Found<BTreeSet<String>> {
    let strings = value.as_array().and_then(|items| {
        let items = items.iter().map(|item| Some(item.as_str()?.to_owned()));
        items.collect()
    });
    strings.map_or_else(|| wrong_type(name, "a list of strings"), Ok)
}

/// Recurses as deep as the value, which its parser limits.
fn flatten(name: &str, value: &Value, into: &mut BTreeSet<String>) -> Found<()> {
    match value {
        Value::String(text) => _ = into.insert(text.clone()),
        Value::Array(items) => {
            for item in items {
                flatten(name, item, into)?;
            }
        }
        _ => return wrong_type(name, "an object of strings and lists of strings"),
    }
    Ok(())
}

fn is_graph_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(env: &[(&str, &str)]) -> Derivation {
        Derivation {
            env: env
                .iter()
                .map(|(k, v)| ((*k).into(), (*v).into()))
                .collect(),
            ..Derivation::default()
        }
    }

    #[test]
    fn plain_flags_are_true_only_for_1() {
        let options = DerivationOptions::of(&with(&[
            ("preferLocalBuild", "true"),
            ("allowSubstitutes", ""),
            ("__noChroot", "1"),
        ]))
        .unwrap();
        assert!(!options.prefer_local_build && !options.allow_substitutes && options.no_chroot);
        let none = DerivationOptions::of(&with(&[])).unwrap();
        assert!(!none.prefer_local_build && none.allow_substitutes && !none.no_chroot);
    }

    #[test]
    fn structured_attributes_hide_the_plain_ones() {
        let options = DerivationOptions::of(&with(&[
            ("__json", r#"{"preferLocalBuild":true,"unsafeDiscardReferences":{"out":true,"dev":false},"exportReferencesGraph":{"g":["/a",["/b"]]}}"#),
            ("passAsFile", "x"),
            ("requiredSystemFeatures", "kvm"),
        ]))
        .unwrap();
        assert!(options.prefer_local_build);
        assert!(options.pass_as_file.is_empty());
        assert!(options.required_system_features.is_empty());
        assert_eq!(options.unsafe_discard_references, ["out".to_owned()].into());
        assert_eq!(
            options.export_references_graph["g"],
            ["/a".to_owned(), "/b".to_owned()].into()
        );
    }

    #[rstest::rstest]
    #[case::no_json("__json", "{", "structured attributes")]
    #[case::no_object("__json", "[]", "structured attributes")]
    #[case::flag("__json", r#"{"__noChroot":1}"#, "true or false")]
    #[case::set("__json", r#"{"requiredSystemFeatures":"kvm"}"#, "list of strings")]
    #[case::size(
        "__json",
        r#"{"outputChecks":{"out":{"maxSize":-1}}}"#,
        "number of bytes"
    )]
    #[case::odd("exportReferencesGraph", "a", "pairs")]
    #[case::name("exportReferencesGraph", "../a /nix/store/x", "name a file")]
    fn attributes_of_the_wrong_type_are_named(
        #[case] name: &str,
        #[case] value: &str,
        #[case] reason: &str,
    ) {
        let error = DerivationOptions::of(&with(&[(name, value)])).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }

    #[test]
    fn a_variable_passed_as_a_file_has_a_hashed_file_name() {
        assert_eq!(
            attribute_file_name(b"big"),
            format!(".attr-{}", sha256(b"big").to_base32())
        );
    }
}
