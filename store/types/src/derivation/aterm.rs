//! Derivations as bytes: the format of `.drv` files.
//!
//! ```text
//! drv    = 'Derive(' body | 'DrvWithVersion("xp-dyn-drv",' body
//! body   = list(output) ',' list(input) ',' list(string) ',' string ',' string ','
//!          list(string) ',' list('(' string ',' string ')') ')'
//! output = '(' string ',' string ',' string ',' string ')'   name, path, algorithm, hash
//! input  = '(' string ',' node ')'                           derivation, what of it
//! node   = list(string)                                      outputs
//!        | '(' list(string) ',' list('(' string ',' node ')') ')'
//! list(x) = '[' [ x *( ',' x ) ] ']'
//! ```
//!
//! The second form of a node says of which outputs, being derivations, outputs are
//! inputs; it is used where there are such, and `DrvWithVersion` where a node of that
//! form is in the derivation.
//!
//! Everything that is a set or a map is sorted bytewise. A string is in double
//! quotes; `\"`, `\\`, `\n`, `\r` and `\t` are its only escapes.
//!
//! That is how it is printed. Derivations that others write, such as a builder whose output is
//! one, need not be so, and what Nix reads is read: any order, any escape (`\x` is `x`), commas
//! that are missing or stand before the first item, something behind the end. Of outputs of one
//! name the first counts, of variables and input derivations the last. So a derivation's text is
//! not always what is printed of it, and the hash of one is not the hash of the other.
//!
//! What 2.36 refuses and 2.34 does not is refused: paths of the store in another spelling than
//! their own, input derivations of which nothing is an input. So is what no store can hold:
//! output names that can be no part of a path, input derivations that are not named like one.
//!
//! Source: nix 2.34 `src/libstore/derivations.cc`, 2.36 `src/libstore/derivation/aterm.cc`; Nix
//! manual, "Derivation ATerm format".

use std::collections::{BTreeMap, BTreeSet};

use bstr::{BString, ByteSlice};
use serde_json::{Map, Value};

use super::structured_attrs::STRUCTURED_ATTRS_NAME;
use super::{Derivation, DerivationOutput, InputOutputs};
use crate::{
    ContentAddress, ContentAddressMethod, Hash, NESTING_MAX, StoreDir, StorePath, is_output_name,
};

/// How a derivation begins.
const TRADITIONAL: &str = "Derive(";

/// How one begins that has a version.
const VERSIONED: &str = "DrvWithVersion(";

/// The version of those with dynamic inputs.
const DYNAMIC: &str = "xp-dyn-drv";

/// Why bytes are not a derivation.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DerivationParseError {
    /// The bytes are not what Nix reads.
    #[error("malformed derivation at byte {offset}: {reason}")]
    Malformed {
        /// Where, counted from 0.
        offset: usize,
        /// What is wrong there.
        reason: String,
    },
    /// The derivation is of a version that is not known.
    #[error("unknown derivation ATerm format version `{version}`")]
    Version {
        /// The version; at most its first 32 bytes.
        version: String,
    },
}

impl Derivation {
    /// Reads the content of a `.drv` file.
    pub fn parse(dir: &StoreDir, bytes: &[u8]) -> Result<Self, DerivationParseError> {
        Parser { bytes, at: 0, dir }.derivation()
    }

    /// The content of the `.drv` file, as Nix writes it.
    pub fn to_aterm(&self, dir: &StoreDir) -> Vec<u8> {
        let inputs = self
            .input_drvs
            .iter()
            .map(|(path, node)| (dir.display(path), node));
        print(self, dir, inputs, false)
    }
}

/// Prints a derivation with these names for its input derivations. With `mask`,
/// the paths of its outputs are left out, and the environment variables named
/// like them are empty.
pub(super) fn print<'a>(
    drv: &Derivation,
    dir: &StoreDir,
    inputs: impl Iterator<Item = (String, &'a InputOutputs)>,
    mask: bool,
) -> Vec<u8> {
    let mut out = match drv.has_dynamic_inputs() {
        true => format!("{VERSIONED}\"{DYNAMIC}\",").into_bytes(),
        false => TRADITIONAL.into(),
    };
    print_list(&mut out, drv.outputs.iter(), |out, (name, output)| {
        let [path, algorithm, hash] = output.to_strings(dir);
        let path = if mask { "" } else { path.as_str() };
        out.push(b'(');
        print_strings(out, [name.as_str(), path, &algorithm, &hash]);
        out.push(b')');
    });
    out.push(b',');
    print_list(&mut out, inputs, |out, (path, node)| {
        print_keyed_node(out, &path, node);
    });
    out.push(b',');
    print_list(&mut out, drv.input_srcs.iter(), |out, path| {
        print_string(out, dir.display(path).as_bytes());
    });
    out.push(b',');
    print_strings(&mut out, [&drv.system, &drv.builder]);
    out.push(b',');
    print_list(&mut out, drv.args.iter(), |out, arg| print_string(out, arg));
    out.push(b',');
    print_list(&mut out, drv.env.iter(), |out, (name, value)| {
        let is_output =
            || std::str::from_utf8(name).is_ok_and(|name| drv.outputs.contains_key(name));
        let value: &[u8] = if mask && is_output() { b"" } else { value };
        out.push(b'(');
        print_strings(out, [name.as_slice(), value]);
        out.push(b')');
    });
    out.push(b')');
    out
}

/// Recurses as deep as what is read is nested: at most [`NESTING_MAX`].
fn print_keyed_node(out: &mut Vec<u8>, key: &str, node: &InputOutputs) {
    let print_outputs = |out: &mut Vec<u8>| {
        print_list(out, node.outputs.iter(), |out, name| {
            print_string(out, name.as_bytes());
        });
    };
    out.push(b'(');
    print_string(out, key.as_bytes());
    out.push(b',');
    if node.dynamic_outputs.is_empty() {
        print_outputs(out);
    } else {
        out.push(b'(');
        print_outputs(out);
        out.push(b',');
        print_list(out, node.dynamic_outputs.iter(), |out, (output, child)| {
            print_keyed_node(out, output, child);
        });
        out.push(b')');
    }
    out.push(b')');
}

fn print_list<T>(
    out: &mut Vec<u8>,
    items: impl Iterator<Item = T>,
    mut print_item: impl FnMut(&mut Vec<u8>, T),
) {
    out.push(b'[');
    for (i, item) in items.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        print_item(out, item);
    }
    out.push(b']');
}

fn print_strings<T: AsRef<[u8]>>(out: &mut Vec<u8>, strings: impl IntoIterator<Item = T>) {
    for (i, string) in strings.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        print_string(out, string.as_ref());
    }
}

fn print_string(out: &mut Vec<u8>, string: &[u8]) {
    out.push(b'"');
    for byte in string {
        match byte {
            b'"' => out.extend(b"\\\""),
            b'\\' => out.extend(b"\\\\"),
            b'\n' => out.extend(b"\\n"),
            b'\r' => out.extend(b"\\r"),
            b'\t' => out.extend(b"\\t"),
            other => out.push(*other),
        }
    }
    out.push(b'"');
}

struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
    dir: &'a StoreDir,
}

type Parsed<T> = Result<T, DerivationParseError>;

fn malformed<T>(offset: usize, reason: impl Into<String>) -> Parsed<T> {
    Err(DerivationParseError::Malformed {
        offset,
        reason: reason.into(),
    })
}

impl Parser<'_> {
    fn derivation(mut self) -> Parsed<Derivation> {
        let mut drv = Derivation::default();
        let is_dynamic = self.begin()?;
        self.list(|parser| {
            let (name, output) = parser.output()?;
            drv.outputs.entry(name).or_insert(output);
            Ok(())
        })?;
        self.expect(",")?;
        self.list(|parser| {
            let (path, node) = parser.input(is_dynamic)?;
            drv.input_drvs.insert(path, node);
            Ok(())
        })?;
        self.expect(",")?;
        self.list(|parser| {
            drv.input_srcs.insert(parser.store_path()?);
            Ok(())
        })?;
        self.expect(",")?;
        drv.system = self.string()?;
        self.expect(",")?;
        drv.builder = self.string()?;
        self.expect(",")?;
        self.list(|parser| {
            drv.args.push(parser.string()?);
            Ok(())
        })?;
        self.expect(",")?;
        self.list(|parser| {
            parser.expect("(")?;
            let name = parser.string()?;
            parser.expect(",")?;
            let start = parser.at;
            let value = parser.string()?;
            parser.expect(")")?;
            if name == STRUCTURED_ATTRS_NAME
                && let Err(error) = serde_json::from_slice::<Map<String, Value>>(&value)
            {
                return malformed(start, format!("structured attributes: {error}"));
            }
            drv.env.insert(name, value);
            Ok(())
        })?;
        self.expect(")")?;
        Ok(drv)
    }

    /// Whether dynamic inputs may follow.
    fn begin(&mut self) -> Parsed<bool> {
        if self.bytes.starts_with(VERSIONED.as_bytes()) {
            self.expect(VERSIONED)?;
            let version = self.string()?;
            if version != DYNAMIC {
                return Err(DerivationParseError::Version {
                    version: version[..version.len().min(32)].as_bstr().to_string(),
                });
            }
            self.expect(",")?;
            return Ok(true);
        }
        self.expect(TRADITIONAL)?;
        Ok(false)
    }

    fn output(&mut self) -> Parsed<(String, DerivationOutput)> {
        let start = self.at;
        self.expect("(")?;
        let name = self.output_name()?;
        self.expect(",")?;
        let path = self.text()?;
        self.expect(",")?;
        let algorithm = self.text()?;
        self.expect(",")?;
        let hash = self.text()?;
        self.expect(")")?;
        match DerivationOutput::from_strings(self.dir, &path, &algorithm, &hash) {
            Ok(output) => Ok((name, output)),
            Err(reason) => malformed(start, format!("output `{name}`: {reason}")),
        }
    }

    fn input(&mut self, is_dynamic: bool) -> Parsed<(StorePath, InputOutputs)> {
        self.expect("(")?;
        let start = self.at;
        let path = self.store_path()?;
        if !path.is_derivation() {
            return malformed(
                start,
                format!("input derivation `{path}` is no `.drv` file"),
            );
        }
        self.expect(",")?;
        let start = self.at;
        let node = self.node(if is_dynamic { NESTING_MAX } else { 0 })?;
        if node.is_empty() {
            return malformed(start, format!("no output of input `{path}` is named"));
        }
        self.expect(")")?;
        Ok((path, node))
    }

    /// What of a derivation is an input, nested at most this deep.
    fn node(&mut self, depth_max: usize) -> Parsed<InputOutputs> {
        if self.bytes.get(self.at) != Some(&b'(') {
            return Ok(self.outputs()?.into());
        }
        let start = self.at;
        let Some(depth_max) = depth_max.checked_sub(1) else {
            return malformed(
                start,
                format!(
                    "dynamic inputs, which only `DrvWithVersion` may have, \
                     and at most {NESTING_MAX} within each other"
                ),
            );
        };
        self.expect("(")?;
        let mut node = InputOutputs::from(self.outputs()?);
        self.expect(",")?;
        self.list(|parser| {
            parser.expect("(")?;
            let output = parser.output_name()?;
            parser.expect(",")?;
            let start = parser.at;
            let child = parser.node(depth_max)?;
            if child.is_empty() {
                return malformed(start, format!("no output of output `{output}` is named"));
            }
            parser.expect(")")?;
            node.dynamic_outputs.insert(output, child);
            Ok(())
        })?;
        self.expect(")")?;
        Ok(node)
    }

    fn outputs(&mut self) -> Parsed<BTreeSet<String>> {
        let mut outputs = BTreeSet::new();
        self.list(|parser| {
            outputs.insert(parser.output_name()?);
            Ok(())
        })?;
        Ok(outputs)
    }

    fn expect(&mut self, token: &str) -> Parsed<()> {
        if !self.bytes[self.at..].starts_with(token.as_bytes()) {
            return malformed(self.at, format!("expected `{token}`"));
        }
        self.at += token.len();
        Ok(())
    }

    fn list(&mut self, mut item: impl FnMut(&mut Self) -> Parsed<()>) -> Parsed<()> {
        self.expect("[")?;
        loop {
            match self.bytes.get(self.at) {
                // Nix asks for it nowhere.
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => {}
            }
            item(self)?;
        }
    }

    fn string(&mut self) -> Parsed<BString> {
        let start = self.at;
        self.expect("\"")?;
        let mut string = Vec::new();
        loop {
            let rest = &self.bytes[self.at..];
            let Some(plain) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\')) else {
                return malformed(start, "a string has no end");
            };
            string.extend_from_slice(&rest[..plain]);
            self.at += plain + 1;
            if rest[plain] == b'"' {
                return Ok(string.into());
            }
            string.push(match self.bytes.get(self.at) {
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(byte) => *byte,
                None => return malformed(start, "a string has no end"),
            });
            self.at += 1;
        }
    }

    fn text(&mut self) -> Parsed<String> {
        let start = self.at;
        match String::from_utf8(self.string()?.into()) {
            Ok(text) => Ok(text),
            Err(_) => malformed(start, "a name or path is not UTF-8"),
        }
    }

    fn store_path(&mut self) -> Parsed<StorePath> {
        let start = self.at;
        let text = self.text()?;
        match self.dir.parse(&text) {
            Ok(path) => Ok(path),
            Err(error) => malformed(start, error.to_string()),
        }
    }

    fn output_name(&mut self) -> Parsed<String> {
        let start = self.at;
        let name = self.text()?;
        if !is_output_name(&name) {
            return malformed(start, format!("`{name}` cannot name an output"));
        }
        Ok(name)
    }
}

/// Why three strings are not an output of a derivation.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DerivationOutputError {
    /// The path is not a store path.
    #[error(transparent)]
    Path(crate::StorePathError),
    /// The method or algorithm is unknown.
    #[error("`{text}` is not a known hash algorithm, with or without `r:` or `text:`")]
    Algorithm {
        /// What stood there.
        text: String,
    },
    /// The hash is not one of the algorithm.
    #[error("`{text}` is not a `{algorithm}` hash")]
    Hash {
        /// What stood there.
        text: String,
        /// The algorithm's name.
        algorithm: &'static str,
    },
    /// A path is given though it follows from a content not known yet.
    #[error("a path although the content is not known beforehand")]
    PathOfFloating,
}

impl DerivationOutput {
    /// From the three strings of derivations and of the worker protocol: path,
    /// method and algorithm, hash (in hexadecimal, but other digits are read, too).
    pub fn from_strings(
        dir: &StoreDir,
        path: &str,
        method_and_algorithm: &str,
        hash: &str,
    ) -> Result<Self, DerivationOutputError> {
        let parse_path = || dir.parse(path).map_err(DerivationOutputError::Path);
        if method_and_algorithm.is_empty() {
            // What stands for the hash is not looked at.
            return match path {
                "" => Ok(Self::Deferred),
                _ => Ok(Self::InputAddressed(parse_path()?)),
            };
        }
        let (method, algorithm) = ContentAddressMethod::parse_with_algorithm(method_and_algorithm)
            .ok_or_else(|| DerivationOutputError::Algorithm {
                text: method_and_algorithm.to_owned(),
            })?;
        match hash {
            "" | "impure" if !path.is_empty() => Err(DerivationOutputError::PathOfFloating),
            "" => Ok(Self::Floating { method, algorithm }),
            "impure" => Ok(Self::Impure { method, algorithm }),
            _ => {
                let hash = Hash::parse_unprefixed(algorithm, hash).map_err(|_| {
                    DerivationOutputError::Hash {
                        text: hash.to_owned(),
                        algorithm: algorithm.name(),
                    }
                })?;
                Ok(Self::Fixed {
                    ca: ContentAddress { method, hash },
                    path: parse_path()?,
                })
            }
        }
    }

    /// The inverse of [`from_strings`](Self::from_strings).
    pub fn to_strings(&self, dir: &StoreDir) -> [String; 3] {
        let none = String::new;
        match self {
            Self::InputAddressed(path) => [dir.display(path), none(), none()],
            Self::Fixed { ca, path } => [
                dir.display(path),
                ca.method.with_algorithm(ca.hash.algorithm()),
                ca.hash.to_hex(),
            ],
            Self::Floating { method, algorithm } => {
                [none(), method.with_algorithm(*algorithm), none()]
            }
            Self::Deferred => [none(), none(), none()],
            Self::Impure { method, algorithm } => [
                none(),
                method.with_algorithm(*algorithm),
                "impure".to_owned(),
            ],
        }
    }
}

/// Inputs named by hashes modulo instead of paths.
pub(super) type InputsByHash = BTreeMap<String, InputOutputs>;

/// Prints a derivation with hashes in the place of its input derivations.
pub(super) fn print_modulo(
    drv: &Derivation,
    dir: &StoreDir,
    inputs: &InputsByHash,
    mask: bool,
) -> Vec<u8> {
    let inputs = inputs.iter().map(|(hash, node)| (hash.clone(), node));
    print(drv, dir, inputs, mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Parsed<Derivation> {
        Derivation::parse(&StoreDir::default(), text.as_bytes())
    }

    const HASH: &str = "0mdqa9w1p6cmli6976v4wi0sw9r4p5pr";

    fn minimal() -> String {
        format!(
            concat!(
                r#"Derive([("out","/nix/store/{0}-x","","")],[("/nix/store/{0}-a.drv",["dev","out"])],"#,
                r#"["/nix/store/{0}-src"],"x86_64-linux","/bin/sh",["-c","a\"b\\c\nd\re\tf"],[("A","1"),("B","")])"#
            ),
            HASH
        )
    }

    #[test]
    fn a_derivation_is_read_and_printed_to_the_same_bytes() {
        let text = minimal();
        let drv = parse(&text).unwrap();
        assert_eq!(drv.args[1], "a\"b\\c\nd\re\tf");
        assert_eq!(drv.input_drvs.values().next().unwrap().outputs.len(), 2);
        assert_eq!(drv.to_aterm(&StoreDir::default()), text.as_bytes());
    }

    #[rstest::rstest]
    #[case::truncated(")", "", "expected `)`")]
    #[case::no_outputs_of_an_input(r#"["dev","out"]"#, "[]", "no output of input")]
    #[case::input_is_no_derivation("-a.drv", "-a", "no `.drv`")]
    #[case::path_in_another_store(
        "/nix/store/0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-src",
        "/usr",
        "not in the store"
    )]
    #[case::white_space("],[", "], [", "expected")]
    #[case::unknown_algorithm(r#"-x","","""#, r#"-x","r:blake9","00""#, "blake9")]
    #[case::short_hash(r#"-x","","""#, r#"-x","sha1","00""#, "`sha1` hash")]
    #[case::path_of_floating(r#"-x","","""#, r#"-x","r:sha256","""#, "content is not known")]
    #[case::output_name(r#""out""#, r#""o/t""#, "cannot name an output")]
    fn malformed_derivations_are_refused_with_place_and_reason(
        #[case] from: &str,
        #[case] to: &str,
        #[case] reason: &str,
    ) {
        let text = minimal();
        let at = text.rfind(from).unwrap();
        let changed = format!("{}{to}{}", &text[..at], &text[at + from.len()..]);
        let error = parse(&changed).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        assert!(error.contains("at byte"), "{error}");
    }

    /// The left side is in the derivation as it is printed.
    #[rstest::rstest]
    #[case::something_behind_the_end(")])", ")])\n")]
    #[case::unsorted(r#"("A","1"),("B","")"#, r#"("B",""),("A","1")"#)]
    #[case::duplicates(r#""dev","out""#, r#""out","dev","out""#)]
    #[case::the_last_variable_counts(r#"("A","1")"#, r#"("A","0"),("A","1")"#)]
    #[case::the_first_output_counts(r#"-x","","")]"#, r#"-x","",""),("out","","","")]"#)]
    #[case::needless_escape("-c", r"\-\c")]
    #[case::plain_line_end(r"\n", "\n")]
    #[case::missing_comma(r#""dev","out""#, r#""dev""out""#)]
    #[case::early_comma("[(\"A\"", "[,(\"A\"")]
    #[case::hash_of_nothing(r#"-x","","""#, r#"-x","","00""#)]
    fn what_nix_reads_is_read_and_printed_as_nix_prints_it(#[case] from: &str, #[case] to: &str) {
        let text = minimal();
        assert_eq!(text.matches(from).count(), 1);
        let drv = parse(&text.replace(from, to)).unwrap();
        assert_eq!(drv.to_aterm(&StoreDir::default()), text.as_bytes());
    }

    #[test]
    fn structured_attributes_that_are_no_object_are_refused() {
        let text = minimal().replace(r#"("A","1")"#, r#"("__json","[1]")"#);
        let error = parse(&text).unwrap_err().to_string();
        assert!(error.contains("structured attributes"), "{error}");
        assert!(parse(&text.replace("[1]", "{ }")).is_ok());
    }

    fn dynamic(node: &str) -> String {
        let plain = r#"["dev","out"]"#;
        let text = minimal().replace(plain, node);
        text.replace("Derive(", r#"DrvWithVersion("xp-dyn-drv","#)
    }

    #[test]
    fn dynamic_inputs_are_read_and_printed_to_the_same_bytes() {
        let text = dynamic(r#"(["dev"],[("a",["out"]),("b",([],[("c",["dev","out"])]))])"#);
        let drv = parse(&text).unwrap();
        assert!(drv.has_dynamic_inputs());
        let inputs: Vec<String> = drv
            .inputs()
            .into_iter()
            .map(|(drv, outputs)| format!("{}{outputs:?}", drv.outputs.join("^")))
            .collect();
        let expected = [r#"{"dev"}"#, r#"a{"out"}"#, r#"b^c{"dev", "out"}"#];
        assert_eq!(inputs, expected);
        assert_eq!(drv.to_aterm(&StoreDir::default()), text.as_bytes());
    }

    #[rstest::rstest]
    #[case::nothing("([],[])", "no output of input")]
    #[case::nothing_of_an_output(r#"([],[("a",[])])"#, "no output of output `a`")]
    #[case::truncated(r#"([],[("a",["out"])]"#, "expected `)`")]
    fn malformed_dynamic_inputs_are_refused(#[case] node: &str, #[case] reason: &str) {
        let error = parse(&dynamic(node)).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }

    #[rstest::rstest]
    #[case::without_dynamic_inputs(r#"["out"]"#)]
    #[case::empty_list(r#"(["out"],[])"#)]
    fn the_other_version_may_have_no_dynamic_inputs(#[case] node: &str) {
        let drv = parse(&dynamic(node)).unwrap();
        assert!(!drv.has_dynamic_inputs());
        let printed = drv.to_aterm(&StoreDir::default());
        assert_eq!(printed, minimal().replace(r#""dev","#, "").into_bytes());
    }

    #[test]
    fn dynamic_inputs_need_their_version_and_no_other_version_is_known() {
        let text = dynamic(r#"([],[("a",["out"])])"#);
        let traditional = text.replace(r#"DrvWithVersion("xp-dyn-drv","#, "Derive(");
        let error = parse(&traditional).unwrap_err().to_string();
        assert!(error.contains("only `DrvWithVersion` may have"), "{error}");
        let unknown = text.replace("xp-dyn-drv", "xp-other");
        assert!(matches!(
            parse(&unknown),
            Err(DerivationParseError::Version { version }) if version == "xp-other"
        ));
    }

    #[test]
    fn dynamic_inputs_are_nested_to_a_limit() {
        let nested = |depth: usize| {
            let (open, close) = (r#"([],[("a","#, ")])");
            dynamic(&format!(
                "{}[\"out\"]{}",
                open.repeat(depth),
                close.repeat(depth)
            ))
        };
        assert!(parse(&nested(NESTING_MAX)).is_ok());
        assert!(parse(&nested(NESTING_MAX + 1)).is_err());
        assert!(parse(&nested(100_000)).is_err());
    }

    #[test]
    fn every_prefix_of_a_derivation_is_refused() {
        let text = minimal();
        for end in 0..text.len() {
            assert!(parse(&text[..end]).is_err(), "{end}");
        }
    }
}
