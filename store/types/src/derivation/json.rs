//! Derivations as JSON: what `nix derivation show` prints, and `nix derivation add` reads.
//!
//! The shapes differ in how they name store objects and outputs; a derivation is read in the newest
//! shape and in that with full paths, which has no `version`, each as its Nix reads it. Structured
//! attributes are JSON inside the derivation's text, and a member of their own in the newest shape.
//!
//! JSON holds no other bytes than UTF-8. A derivation that has some in its arguments or
//! environment is not printed but in the oldest shape, whose Nix does not look.
//!
//! Source: nix 2.34 `src/libstore/derivations.cc` (`adl_serializer<Derivation>`) and
//! `src/nix/derivation-show.cc`; nix 2.26 `Derivation::toJSON`; nix 2.8
//! `src/nix/show-derivation.cc`.

use std::collections::BTreeMap;

use bstr::BString;
use serde_json::{Map, Value};

use super::structured_attrs::STRUCTURED_ATTRS_NAME;
use super::{Derivation, DerivationOutput, InputOutputs, StructuredAttrs, output_path_name};
use crate::{
    ContentAddress, ContentAddressMethod, ContentAddressedPathError, Hash, HashAlgorithm,
    NESTING_MAX, References, StoreDir, StorePath, StorePathError, is_output_name, json,
};

/// The version that is written in the newest shape, and read.
const VERSION: u64 = 4;

/// How the `nix derivation show` of some version prints derivations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DerivationJsonShape {
    /// Nix since 2.33: base names of store paths, inputs together, hashes in the SRI form,
    /// the path of a fixed output left out; the derivations are a member of the whole.
    #[default]
    Version4,
    /// Nix 2.23 to 2.29: full paths, the derivations are the whole.
    FullPaths,
    /// Nix 2.4 to 2.17, `nix show-derivation`: members in an order of their own, method
    /// and algorithm of an output in one, structured attributes as the variable that they
    /// are; always with lines.
    Nix28,
}

/// Why a derivation is not printed as JSON.
#[derive(Debug, thiserror::Error)]
pub enum DerivationToJsonError {
    /// It has bytes that no JSON holds.
    #[error("{what} of derivation `{drv}` is not UTF-8, so there is no JSON of it")]
    NotUtf8 {
        /// The derivation.
        drv: StorePath,
        /// What of it.
        what: String,
    },
    /// Its structured attributes are no JSON object.
    #[error("derivation `{drv}` has structured attributes that cannot be read")]
    StructuredAttrs {
        /// The derivation.
        drv: StorePath,
        /// The cause.
        #[source]
        source: super::DerivationOptionsError,
    },
    /// The path is no derivation's.
    #[error("`{path}` is no path of a derivation")]
    Name {
        /// The path.
        path: StorePath,
    },
}

/// Why a text is not the JSON of a derivation.
#[derive(Debug, thiserror::Error)]
pub enum DerivationFromJsonError {
    /// It is no JSON, or is nested too deep.
    #[error("it is not JSON")]
    Json(#[source] serde_json::Error),
    /// A member is missing or of the wrong kind.
    #[error("member `{member}` must be {wanted}")]
    Member {
        /// The member, with those that it is in.
        member: String,
        /// What it must be.
        wanted: &'static str,
    },
    /// The version is not the one that is known.
    #[error("it has version {found} of the format, and only version {VERSION} is known")]
    Version {
        /// What stood there.
        found: String,
    },
    /// A store path is malformed.
    #[error("member `{member}` has no base name of a store path")]
    Path {
        /// The member, with those that it is in.
        member: String,
        /// The cause.
        #[source]
        source: StorePathError,
    },
    /// A whole store path is malformed.
    #[error("member `{member}` has no store path")]
    FullPath {
        /// The member, with those that it is in.
        member: String,
        /// The cause.
        #[source]
        source: StorePathError,
    },
    /// A fixed output has another path than follows from its hash.
    #[error("output `{output}` has not the path that follows from its hash, `{expected}`")]
    OtherPath {
        /// The output's name.
        output: String,
        /// The path that follows.
        expected: String,
    },
    /// The members of an output do not go together.
    #[error(
        "output `{output}` has {members}, not the members of an output: `path`; `method` and \
         `hash` (before 2.30 also `hashAlgo` and `path`); `method` and `hashAlgo`, with or without \
         `impure`; or none"
    )]
    Output {
        /// The output's name.
        output: String,
        /// Its members.
        members: String,
    },
    /// The derivation's or an output's name cannot be part of a store path.
    #[error("output `{output}` of a derivation `{name}` cannot have a path")]
    OutputPath {
        /// The derivation's name.
        name: String,
        /// The output's name.
        output: String,
        /// The cause.
        #[source]
        source: ContentAddressedPathError,
    },
    /// The environment has the variable that structured attributes are kept in.
    #[error("`env.__json` is for structured attributes, which are the member `structuredAttrs`")]
    ReservedVariable,
}

impl DerivationJsonShape {
    /// All that is printed for these derivations, without a line end. `is_pretty` is
    /// for lines and indentation, which one of the shapes always has.
    pub fn print<'a>(
        self,
        dir: &StoreDir,
        drvs: impl IntoIterator<Item = (&'a StorePath, &'a Derivation)>,
        is_pretty: bool,
    ) -> Result<Vec<u8>, DerivationToJsonError> {
        if self == Self::Nix28 {
            return Ok(nix28::print(dir, drvs));
        }
        let mut all = Map::new();
        for (path, drv) in drvs {
            let name = path
                .derivation_name()
                .ok_or_else(|| DerivationToJsonError::Name { path: path.clone() })?;
            all.insert(self.path(dir, path), self.derivation(dir, name, path, drv)?);
        }
        let whole = match self {
            Self::Version4 => Value::Object(Map::from_iter([
                ("derivations".to_owned(), Value::Object(all)),
                ("version".to_owned(), VERSION.into()),
            ])),
            Self::FullPaths | Self::Nix28 => Value::Object(all),
        };
        Ok(json::print(&whole, is_pretty).into_bytes())
    }

    fn path(self, dir: &StoreDir, path: &StorePath) -> String {
        match self {
            Self::Version4 => path.base_name().to_owned(),
            Self::FullPaths | Self::Nix28 => dir.display(path),
        }
    }

    fn derivation(
        self,
        dir: &StoreDir,
        name: &str,
        path: &StorePath,
        drv: &Derivation,
    ) -> Result<Value, DerivationToJsonError> {
        let text = |bytes: &BString, what: &dyn Fn() -> String| match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(DerivationToJsonError::NotUtf8 {
                drv: path.clone(),
                what: what(),
            }),
        };
        let mut members = Map::new();
        let mut member = |name: &str, value: Value| members.insert(name.to_owned(), value);
        member("name", name.into());
        let outputs = drv
            .outputs
            .iter()
            .map(|(name, output)| (name.clone(), self.output(dir, output)));
        member("outputs", Value::Object(outputs.collect()));

        let srcs = drv.input_srcs.iter().map(|src| self.path(dir, src).into());
        let srcs = Value::Array(srcs.collect());
        let drvs = drv
            .input_drvs
            .iter()
            .map(|(path, node)| (self.path(dir, path), input(node)));
        let drvs = Value::Object(drvs.collect());
        if self == Self::Version4 {
            let inputs = Map::from_iter([("drvs".to_owned(), drvs), ("srcs".to_owned(), srcs)]);
            member("inputs", inputs.into());
            member("version", VERSION.into());
        } else {
            member("inputSrcs", srcs);
            member("inputDrvs", drvs);
        }

        let system = text(&drv.system, &|| "the system".to_owned())?;
        member("system", system.into());
        let builder = text(&drv.builder, &|| "the builder".to_owned())?;
        member("builder", builder.into());
        let mut args: Vec<Value> = Vec::new();
        for (i, arg) in drv.args.iter().enumerate() {
            args.push(text(arg, &|| format!("argument {i}"))?.into());
        }
        member("args", args.into());

        // Before 2.30 it was left where it was.
        let is_apart = self == Self::Version4;
        let mut env = Map::new();
        for (name, value) in &drv.env {
            if is_apart && name == STRUCTURED_ATTRS_NAME {
                continue;
            }
            let key = text(name, &|| {
                format!("the name of environment variable `{name}`")
            })?;
            let value = text(value, &|| format!("environment variable `{name}`"))?;
            env.insert(key, value.into());
        }
        member("env", env.into());
        if is_apart {
            let attrs = StructuredAttrs::of(drv).map_err(|source| {
                DerivationToJsonError::StructuredAttrs {
                    drv: path.clone(),
                    source,
                }
            })?;
            if let Some(attrs) = attrs {
                member("structuredAttrs", attrs.into_json());
            }
        }
        Ok(members.into())
    }

    fn output(self, dir: &StoreDir, output: &DerivationOutput) -> Value {
        let mut members = Map::new();
        let mut member = |name: &str, value: Value| members.insert(name.to_owned(), value);
        match output {
            DerivationOutput::InputAddressed(path) => {
                member("path", self.path(dir, path).into());
            }
            DerivationOutput::Fixed { ca, path } => {
                member("method", ca.method.name().into());
                if self == Self::Version4 {
                    member("hash", ca.hash.to_sri().into());
                } else {
                    member("path", dir.display(path).into());
                    member("hashAlgo", ca.hash.algorithm().name().into());
                    member("hash", ca.hash.to_hex().into());
                }
            }
            DerivationOutput::Floating { method, algorithm } => {
                member("method", method.name().into());
                member("hashAlgo", algorithm.name().into());
            }
            DerivationOutput::Deferred => {}
            DerivationOutput::Impure { method, algorithm } => {
                member("method", method.name().into());
                member("hashAlgo", algorithm.name().into());
                member("impure", true.into());
            }
        }
        members.into()
    }
}

/// Recurses as deep as a derivation is nested: at most [`NESTING_MAX`].
fn input(node: &InputOutputs) -> Value {
    let outputs = node.outputs.iter().map(|name| Value::from(name.as_str()));
    let dynamic = node
        .dynamic_outputs
        .iter()
        .map(|(name, child)| (name.clone(), input(child)));
    Value::Object(Map::from_iter([
        (
            "dynamicOutputs".to_owned(),
            Value::Object(dynamic.collect()),
        ),
        ("outputs".to_owned(), Value::Array(outputs.collect())),
    ]))
}

impl Derivation {
    /// Reads one derivation in the newest shape, or, if it has no version, in that of Nix 2.23 to
    /// 2.29, and the name that it has there. Unknown members are passed over, but in outputs.
    ///
    /// It is not said that its outputs have the paths that follow from it: see
    /// [`fill_in_output_paths`](Self::fill_in_output_paths).
    pub fn from_json(
        dir: &StoreDir,
        text: &[u8],
    ) -> Result<(String, Self), DerivationFromJsonError> {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let whole: Value = serde_json::from_slice(text).map_err(DerivationFromJsonError::Json)?;
        let whole = Members::of(&whole, "")?;
        let name = whole.string("name")?;
        let shape = match whole.map.get("version") {
            Some(version) if *version == VERSION => DerivationJsonShape::Version4,
            Some(version) => {
                return Err(DerivationFromJsonError::Version {
                    found: version.to_string(),
                });
            }
            None if whole.map.contains_key("inputDrvs") => DerivationJsonShape::FullPaths,
            None => return Err(wrong("version", "there")),
        };
        let is_new = shape == DerivationJsonShape::Version4;
        let mut drv = Self::default();
        for (output, value) in whole.members("outputs")?.map {
            let at = format!("outputs.{output}");
            if !is_output_name(output) {
                return Err(wrong(&at, "named as an output can be"));
            }
            let members = Members::of(value, &at)?;
            let value = shape.read_output(dir, (&name, output), &members)?;
            drv.outputs.insert(output.clone(), value);
        }
        let (srcs, drvs) = if is_new {
            let inputs = whole.members("inputs")?;
            (inputs.item("srcs")?, inputs.item("drvs")?)
        } else {
            (whole.item("inputSrcs")?, whole.item("inputDrvs")?)
        };
        for (i, src) in srcs.array()?.iter().enumerate() {
            let at = format!("{}[{i}]", srcs.at);
            drv.input_srcs
                .insert(shape.parse_path(dir, &string(src, &at)?, &at)?);
        }
        for (path, value) in drvs.members()?.map {
            let at = format!("{}.{path}", drvs.at);
            let path = shape.parse_path(dir, path, &at)?;
            if !path.is_derivation() {
                return Err(wrong(&at, "named like a `.drv` file"));
            }
            let node = read_input(value, &at, NESTING_MAX)?;
            if node.is_empty() {
                return Err(wrong(&at, "an input of which some output is named"));
            }
            drv.input_drvs.insert(path, node);
        }
        drv.system = whole.string("system")?.into();
        drv.builder = whole.string("builder")?.into();
        for (i, arg) in whole.array("args")?.iter().enumerate() {
            drv.args.push(string(arg, &format!("args[{i}]"))?.into());
        }
        for (name, value) in whole.members("env")?.map {
            if is_new && name.as_bytes() == STRUCTURED_ATTRS_NAME {
                return Err(DerivationFromJsonError::ReservedVariable);
            }
            let value = string(value, &format!("env.{name}"))?;
            drv.env.insert(name.as_str().into(), value.into());
        }
        if is_new && let Some(attrs) = whole.map.get("structuredAttrs") {
            let attrs = attrs
                .as_object()
                .ok_or_else(|| wrong("structuredAttrs", OBJECT))?;
            let printed = json::print_object(attrs);
            drv.env.insert(STRUCTURED_ATTRS_NAME.into(), printed.into());
        } else if StructuredAttrs::of(&drv).is_err() {
            return Err(wrong("env.__json", "the JSON of an object"));
        }
        Ok((name, drv))
    }
}

const OBJECT: &str = "an object";
const ARRAY: &str = "an array";
const STRING: &str = "a string";

fn wrong(member: &str, wanted: &'static str) -> DerivationFromJsonError {
    DerivationFromJsonError::Member {
        member: member.to_owned(),
        wanted,
    }
}

fn string(value: &Value, at: &str) -> Result<String, DerivationFromJsonError> {
    let text = value.as_str().ok_or_else(|| wrong(at, STRING))?;
    Ok(text.to_owned())
}

/// An object that must be one, and the way to it.
struct Members<'a> {
    map: &'a Map<String, Value>,
    at: String,
}

impl<'a> Members<'a> {
    fn of(value: &'a Value, at: &str) -> Result<Self, DerivationFromJsonError> {
        match value {
            Value::Object(map) => Ok(Self {
                map,
                at: at.to_owned(),
            }),
            _ if at.is_empty() => Err(wrong("(all of it)", OBJECT)),
            _ => Err(wrong(at, OBJECT)),
        }
    }

    fn way(&self, name: &str) -> String {
        match self.at.is_empty() {
            true => name.to_owned(),
            false => format!("{}.{name}", self.at),
        }
    }

    fn get(&self, name: &str) -> Result<&'a Value, DerivationFromJsonError> {
        self.map
            .get(name)
            .ok_or_else(|| wrong(&self.way(name), "there"))
    }

    fn item(&self, name: &str) -> Result<Item<'a>, DerivationFromJsonError> {
        Ok(Item {
            value: self.get(name)?,
            at: self.way(name),
        })
    }

    fn members(&self, name: &str) -> Result<Members<'a>, DerivationFromJsonError> {
        self.item(name)?.members()
    }

    fn array(&self, name: &str) -> Result<&'a [Value], DerivationFromJsonError> {
        self.item(name)?.array()
    }

    fn string(&self, name: &str) -> Result<String, DerivationFromJsonError> {
        string(self.get(name)?, &self.way(name))
    }
}

/// A member, and the way to it.
struct Item<'a> {
    value: &'a Value,
    at: String,
}

impl<'a> Item<'a> {
    fn members(&self) -> Result<Members<'a>, DerivationFromJsonError> {
        Members::of(self.value, &self.at)
    }

    fn array(&self) -> Result<&'a [Value], DerivationFromJsonError> {
        match self.value {
            Value::Array(items) => Ok(items),
            _ => Err(wrong(&self.at, ARRAY)),
        }
    }
}

/// What of a derivation is an input, nested at most this deep.
fn read_input(
    value: &Value,
    at: &str,
    depth_max: usize,
) -> Result<InputOutputs, DerivationFromJsonError> {
    let members = Members::of(value, at)?;
    let mut node = InputOutputs::default();
    let output_name = |name: &str| match is_output_name(name) {
        true => Ok(name.to_owned()),
        false => Err(wrong(at, "an input whose outputs are named as they can be")),
    };
    for (i, name) in members.array("outputs")?.iter().enumerate() {
        let name = string(name, &format!("{at}.outputs[{i}]"))?;
        node.outputs.insert(output_name(&name)?);
    }
    for (name, child) in members.members("dynamicOutputs")?.map {
        let Some(depth_max) = depth_max.checked_sub(1) else {
            return Err(wrong(at, "nested less deep"));
        };
        let at = format!("{at}.dynamicOutputs.{name}");
        let child = read_input(child, &at, depth_max)?;
        if child.is_empty() {
            return Err(wrong(&at, "an input of which some output is named"));
        }
        node.dynamic_outputs.insert(output_name(name)?, child);
    }
    Ok(node)
}

impl DerivationJsonShape {
    fn parse_path(
        self,
        dir: &StoreDir,
        text: &str,
        at: &str,
    ) -> Result<StorePath, DerivationFromJsonError> {
        let member = at.to_owned();
        match self {
            Self::Version4 => StorePath::from_base_name(text)
                .map_err(|source| DerivationFromJsonError::Path { member, source }),
            Self::FullPaths | Self::Nix28 => dir
                .parse(text)
                .map_err(|source| DerivationFromJsonError::FullPath { member, source }),
        }
    }

    fn read_output(
        self,
        dir: &StoreDir,
        (drv_name, output): (&str, &str),
        members: &Members<'_>,
    ) -> Result<DerivationOutput, DerivationFromJsonError> {
        let method = || {
            let text = members.string("method")?;
            ContentAddressMethod::from_name(&text)
                .ok_or_else(|| wrong(&members.way("method"), "`text`, `flat`, `nar` or `git`"))
        };
        let algorithm = || {
            let text = members.string("hashAlgo")?;
            HashAlgorithm::from_name(&text)
                .ok_or_else(|| wrong(&members.way("hashAlgo"), "a hash algorithm"))
        };
        let path = || {
            let at = members.way("path");
            self.parse_path(dir, &members.string("path")?, &at)
        };
        let fixed = |ca: ContentAddress| {
            let path_name = output_path_name(drv_name, output);
            let path = dir
                .content_addressed_path(&path_name, &ca, &References::default())
                .map_err(|source| DerivationFromJsonError::OutputPath {
                    name: drv_name.to_owned(),
                    output: output.to_owned(),
                    source,
                })?;
            Ok((ca, path))
        };
        // Sorted.
        let names: Vec<&str> = BTreeMap::from_iter(members.map)
            .into_keys()
            .map(|name| &**name)
            .collect();
        match (self, &names[..]) {
            (_, ["path"]) => Ok(DerivationOutput::InputAddressed(path()?)),
            (Self::Version4, ["hash", "method"]) => {
                let method = method()?;
                let hash = Hash::parse_sri(&members.string("hash")?)
                    .map_err(|_| wrong(&members.way("hash"), "a hash like `sha256-<base 64>`"))?;
                let (ca, path) = fixed(ContentAddress { method, hash })?;
                Ok(DerivationOutput::Fixed { ca, path })
            }
            (Self::FullPaths, ["hash", "hashAlgo", "method", "path"]) => {
                let method = method()?;
                let hash = Hash::parse_unprefixed(algorithm()?, &members.string("hash")?)
                    .map_err(|_| wrong(&members.way("hash"), "a hash of that algorithm"))?;
                let (ca, expected) = fixed(ContentAddress { method, hash })?;
                let path = path()?;
                if path != expected {
                    return Err(DerivationFromJsonError::OtherPath {
                        output: output.to_owned(),
                        expected: dir.display(&expected),
                    });
                }
                Ok(DerivationOutput::Fixed { ca, path })
            }
            (_, ["hashAlgo", "method"]) => Ok(DerivationOutput::Floating {
                method: method()?,
                algorithm: algorithm()?,
            }),
            (_, ["hashAlgo", "impure", "method"]) => Ok(DerivationOutput::Impure {
                method: method()?,
                algorithm: algorithm()?,
            }),
            (_, []) => Ok(DerivationOutput::Deferred),
            _ => Err(DerivationFromJsonError::Output {
                output: output.to_owned(),
                members: format!("`{}`", names.join("`, `")),
            }),
        }
    }
}

/// What `nix show-derivation` of 2.8 prints: members in the order in which they are
/// written down, bytes as they are.
mod nix28 {
    use super::*;

    enum Item {
        Text(Vec<u8>),
        True,
        List(Vec<Item>),
        Object(Vec<(Vec<u8>, Item)>),
    }

    impl<T: AsRef<[u8]>> From<T> for Item {
        fn from(text: T) -> Self {
            Self::Text(text.as_ref().to_vec())
        }
    }

    fn member(name: &str, value: impl Into<Item>) -> (Vec<u8>, Item) {
        (name.as_bytes().to_vec(), value.into())
    }

    pub(super) fn print<'a>(
        dir: &StoreDir,
        drvs: impl IntoIterator<Item = (&'a StorePath, &'a Derivation)>,
    ) -> Vec<u8> {
        let all = drvs
            .into_iter()
            .map(|(path, drv)| (dir.display(path).into_bytes(), derivation(dir, drv)));
        let mut out = Vec::new();
        print_item(&mut out, &Item::Object(all.collect()), 0);
        out
    }

    fn derivation(dir: &StoreDir, drv: &Derivation) -> Item {
        let list = |items: Vec<Item>| Item::List(items);
        let outputs = drv.outputs.iter().map(|(name, output)| {
            let [path, algorithm, hash] = output.to_strings(dir);
            let mut members = Vec::new();
            if !path.is_empty() {
                members.push(member("path", path));
            }
            if !algorithm.is_empty() {
                members.push(member("hashAlgo", algorithm));
            }
            match output {
                DerivationOutput::Impure { .. } => {
                    members.push((b"impure".to_vec(), Item::True));
                }
                _ if !hash.is_empty() => members.push(member("hash", hash)),
                _ => {}
            }
            (name.as_bytes().to_vec(), Item::Object(members))
        });
        let input_drvs = drv.input_drvs.iter().map(|(path, node)| {
            let outputs = node.outputs.iter().map(Item::from);
            (dir.display(path).into_bytes(), list(outputs.collect()))
        });
        let env = drv
            .env
            .iter()
            .map(|(name, value)| (name.to_vec(), Item::from(value)));
        let srcs = drv.input_srcs.iter().map(|path| dir.display(path).into());
        Item::Object(vec![
            (b"outputs".to_vec(), Item::Object(outputs.collect())),
            (b"inputSrcs".to_vec(), list(srcs.collect())),
            (b"inputDrvs".to_vec(), Item::Object(input_drvs.collect())),
            member("system", &drv.system),
            member("builder", &drv.builder),
            (
                b"args".to_vec(),
                list(drv.args.iter().map(Item::from).collect()),
            ),
            (b"env".to_vec(), Item::Object(env.collect())),
        ])
    }

    /// Recurses four levels deep.
    fn print_item(out: &mut Vec<u8>, item: &Item, indent: usize) {
        let next_line = |out: &mut Vec<u8>, indent: usize| {
            out.push(b'\n');
            out.extend(std::iter::repeat_n(b' ', indent));
        };
        match item {
            Item::Text(text) => print_text(out, text),
            Item::True => out.extend(b"true"),
            Item::List(items) => {
                out.push(b'[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    next_line(out, indent + 2);
                    print_item(out, item, indent + 2);
                }
                if !items.is_empty() {
                    next_line(out, indent);
                }
                out.push(b']');
            }
            Item::Object(members) => {
                out.push(b'{');
                for (i, (name, item)) in members.iter().enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    next_line(out, indent + 2);
                    print_text(out, name);
                    out.extend(b": ");
                    print_item(out, item, indent + 2);
                }
                if !members.is_empty() {
                    next_line(out, indent);
                }
                out.push(b'}');
            }
        }
    }

    fn print_text(out: &mut Vec<u8>, text: &[u8]) {
        out.push(b'"');
        for byte in text {
            match byte {
                b'"' | b'\\' => out.extend([b'\\', *byte]),
                b'\n' => out.extend(b"\\n"),
                b'\r' => out.extend(b"\\r"),
                b'\t' => out.extend(b"\\t"),
                0..32 => out.extend(format!("\\u{byte:04x}").bytes()),
                other => out.push(*other),
            }
        }
        out.push(b'"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = concat!(
        r#"{"args":["-c"],"builder":"/bin/sh","env":{"out":""},"inputs":{"drvs":{},"srcs":[]},"#,
        r#""name":"x","outputs":{"out":{}},"system":"s","version":4}"#
    );

    fn read(text: &str) -> Result<(String, Derivation), DerivationFromJsonError> {
        Derivation::from_json(&StoreDir::default(), text.as_bytes())
    }

    fn path(name: &str) -> StorePath {
        StorePath::from_base_name(&format!("0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-{name}")).unwrap()
    }

    /// What each of them refuses is seen with Nix itself in the case `formats`.
    #[rstest::rstest]
    #[case::no_object("{", "[{", "not JSON")]
    #[case::version("version\":4", "version\":3", "version 3")]
    #[case::kind(r#"["-c"]"#, r#"[1]"#, "`args[0]` must be a string")]
    #[case::missing(r#""system":"s","#, "", "`system` must be there")]
    #[case::output_members(r#"{"out":{}}"#, r#"{"out":{"x":1}}"#, "output `out` has `x`")]
    #[case::output_name(r#"{"out":{}}"#, r#"{"a/b":{}}"#, "`outputs.a/b` must be named")]
    #[case::full_path(r#""srcs":[]"#, r#""srcs":["/nix/store/x"]"#, "`inputs.srcs[0]`")]
    #[case::reserved(r#"{"out":""}"#, r#"{"__json":"{}"}"#, "`env.__json`")]
    #[case::attributes_that_are_none(r#""inputs":{"drvs":{},"srcs":[]},"name":"x","outputs":{"out":{}},"system":"s","version":4"#, r#""inputDrvs":{},"inputSrcs":[],"name":"x","outputs":{},"system":"s","env":{"__json":"1"}"#, "`env.__json` must be")]
    #[case::no_version(r#","version":4"#, "", "`version` must be there")]
    #[case::attributes(r#""name""#, r#""structuredAttrs":[],"name""#, "must be an object")]
    fn what_is_not_a_derivation_is_refused_by_member(
        #[case] from: &str,
        #[case] to: &str,
        #[case] reason: &str,
    ) {
        assert!(read(MINIMAL).is_ok());
        let error = read(&MINIMAL.replacen(from, to, 1)).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }

    #[test]
    fn bytes_that_are_no_text_are_named_and_the_oldest_shape_has_them() {
        let (_, mut drv) = read(MINIMAL).unwrap();
        drv.env.insert("bytes".into(), b"\xff\n\x01".into());
        let (dir, path) = (StoreDir::default(), path("x.drv"));
        let error = DerivationJsonShape::Version4.print(&dir, [(&path, &drv)], false);
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with("environment variable `"), "{error}");
        let printed = DerivationJsonShape::Nix28.print(&dir, [(&path, &drv)], true);
        let printed = printed.unwrap();
        let expected = b"\"bytes\": \"\xff\\n\\u0001\"";
        assert!(printed.windows(expected.len()).any(|part| part == expected));
    }

    #[test]
    fn dynamic_inputs_are_read_to_a_limit() {
        let nested = |depth: usize| {
            let (open, close) = (r#"{"outputs":[],"dynamicOutputs":{"a":"#, "}}");
            let node = format!(
                r#"{}{{"outputs":["out"],"dynamicOutputs":{{}}}}{}"#,
                open.repeat(depth),
                close.repeat(depth)
            );
            let drvs = format!(r#""drvs":{{"{}":{node}}}"#, path("a.drv"));
            read(&MINIMAL.replace(r#""drvs":{}"#, &drvs))
        };
        // A level is two in JSON, which is read 127 deep.
        assert!(nested(60).unwrap().1.has_dynamic_inputs());
        assert!(nested(NESTING_MAX + 1).is_err());
    }
}
