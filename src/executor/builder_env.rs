//! What a builder is started with: environment, arguments, files.
//!
//! Source: nix `src/libstore/unix/build/derivation-builder.cc` (`initEnv`) and
//! `src/libstore/build/derivation-env-desugar.cc`; checked against the
//! environment that Nix 2.8 and 2.34 give.

use std::collections::{BTreeMap, BTreeSet};

use bstr::{BString, ByteSlice};
use store_types::{
    Derivation, PlaceholderRewrites, StoreDir, StorePath, StructuredAttrs, attribute_file_name,
    output_placeholder,
};

/// The build directory inside the sandbox.
pub const BUILD_DIR: &str = "/build";

/// What a builder gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuilderStart {
    /// The environment, whole.
    pub env: BTreeMap<BString, BString>,
    /// The arguments after `argv[0]`.
    pub args: Vec<BString>,
    /// Files in the build directory: name and contents.
    pub files: Vec<(String, BString)>,
}

/// What of the executor's settings and the build's state a builder is told.
#[derive(Clone, Debug)]
pub struct Surroundings<'a> {
    /// The logical store directory.
    pub store_dir: &'a StoreDir,
    /// `NIX_BUILD_CORES`.
    pub cores: usize,
    /// Where each output is to be put.
    pub scratch: &'a BTreeMap<String, StorePath>,
    /// Whether the one output's content is known beforehand.
    pub is_fixed: bool,
    /// Whether the variables that `impureEnvVars` names are passed on.
    pub passes_impure: bool,
    /// The address of the socket for recursive builds, if there is one.
    pub socket: Option<&'a str>,
}

/// Computes what the builder of a resolved derivation without structured attributes
/// gets. `impure` gives the value of one of the executor's own variables.
pub fn builder_start(
    drv: &Derivation,
    around: &Surroundings<'_>,
    impure: impl Fn(&[u8]) -> Option<BString>,
) -> BuilderStart {
    let rewrites = around.rewrites();
    let mut start = around.first_variables();
    let as_file: BTreeSet<&[u8]> = words(drv, "passAsFile").collect();
    for (name, value) in &drv.env {
        let value = rewrites.apply(value);
        if as_file.contains(&***name) {
            let mut variable = name.clone();
            variable.extend_from_slice(b"Path");
            start.add_file(variable, attribute_file_name(name), value);
        } else {
            start.env.insert(rewrites.apply(name), value);
        }
    }
    around.add_last_variables(&mut start, words(drv, "impureEnvVars"), impure);
    start.args = drv.args.iter().map(|arg| rewrites.apply(arg)).collect();
    start
}

/// The same for a derivation with structured attributes: none of them is in the
/// environment, but two variables that tell the files that hold them.
/// `attributes` must have its outputs and graphs (see [`StructuredAttrs::for_builder`]).
pub fn structured_builder_start(
    drv: &Derivation,
    attributes: &StructuredAttrs,
    impure_names: &BTreeSet<String>,
    around: &Surroundings<'_>,
    impure: impl Fn(&[u8]) -> Option<BString>,
) -> BuilderStart {
    let rewrites = around.rewrites();
    let mut start = around.first_variables();
    for (variable, file, text) in [
        ("NIX_ATTRS_SH_FILE", ".attrs.sh", attributes.to_shell()),
        ("NIX_ATTRS_JSON_FILE", ".attrs.json", attributes.to_json()),
    ] {
        let text = rewrites.apply(text.as_bytes());
        start.add_file(variable.into(), file.to_owned(), text);
    }
    let impure_names = impure_names.iter().map(String::as_bytes);
    around.add_last_variables(&mut start, impure_names, impure);
    start.args = drv.args.iter().map(|arg| rewrites.apply(arg)).collect();
    start
}

/// The words of a plain attribute that is a list.
fn words<'a>(drv: &'a Derivation, name: &str) -> impl Iterator<Item = &'a [u8]> {
    let value = drv.env.get(name.as_bytes().as_bstr());
    value
        .into_iter()
        .flat_map(|value| value.split(u8::is_ascii_whitespace))
        .filter(|word| !word.is_empty())
}

impl BuilderStart {
    fn set(&mut self, name: &str, value: &str) {
        self.env.insert(name.into(), value.into());
    }

    /// A file in the build directory, and the variable that tells where it is.
    fn add_file(&mut self, variable: BString, file: String, contents: BString) {
        let path = format!("{BUILD_DIR}/{file}");
        self.env.insert(variable, path.into());
        self.files.push((file, contents));
    }
}

impl Surroundings<'_> {
    fn rewrites(&self) -> PlaceholderRewrites {
        let mut rewrites = PlaceholderRewrites::new();
        for (output, path) in self.scratch {
            rewrites.insert(output_placeholder(output), self.store_dir.display(path));
        }
        rewrites
    }

    /// The variables that the derivation's own win over.
    fn first_variables(&self) -> BuilderStart {
        let mut start = BuilderStart::default();
        start.set("PATH", "/path-not-set");
        start.set("HOME", "/homeless-shelter");
        start.set("NIX_STORE", self.store_dir.as_str());
        start.set("NIX_BUILD_CORES", &self.cores.to_string());
        start
    }

    /// The variables that win over the derivation's own.
    fn add_last_variables<'a>(
        &self,
        start: &mut BuilderStart,
        impure_names: impl Iterator<Item = &'a [u8]>,
        impure: impl Fn(&[u8]) -> Option<BString>,
    ) {
        for name in ["NIX_BUILD_TOP", "TMPDIR", "TEMPDIR", "TMP", "TEMP", "PWD"] {
            start.set(name, BUILD_DIR);
        }
        if self.is_fixed {
            start.set("NIX_OUTPUT_CHECKED", "1");
        }
        if self.passes_impure {
            for name in impure_names {
                let value = impure(name).unwrap_or_default();
                start.env.insert(name.into(), value);
            }
        }
        if let Some(socket) = self.socket {
            start.set("NIX_REMOTE", socket);
        }
        start.set("NIX_LOG_FD", "2");
        start.set("TERM", "xterm-256color");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(drv: &Derivation, scratch: &BTreeMap<String, StorePath>) -> BuilderStart {
        let around = Surroundings {
            store_dir: &StoreDir::default(),
            cores: 3,
            scratch,
            is_fixed: false,
            passes_impure: false,
            socket: None,
        };
        builder_start(drv, &around, |_| None)
    }

    #[test]
    fn the_derivations_variables_win_over_the_first_ones_and_lose_to_the_last() {
        let drv = Derivation {
            env: BTreeMap::from([("PATH".into(), "/p".into()), ("TERM".into(), "dumb".into())]),
            ..Derivation::default()
        };
        let start = start(&drv, &BTreeMap::new());
        assert_eq!(start.env[b"PATH".as_bstr()], "/p");
        assert_eq!(start.env[b"TERM".as_bstr()], "xterm-256color");
        assert_eq!(start.env[b"NIX_BUILD_CORES".as_bstr()], "3");
    }

    #[test]
    fn placeholders_become_scratch_paths_in_arguments_variables_and_files() {
        let out = StorePath::from_hash_and_name(&[7; 20], "x").unwrap();
        let placeholder = output_placeholder("out");
        let drv = Derivation {
            args: vec![placeholder.clone().into()],
            env: BTreeMap::from([
                ("out".into(), placeholder.clone().into()),
                ("text".into(), format!("<{placeholder}>").into()),
                ("passAsFile".into(), "text other".into()),
            ]),
            ..Derivation::default()
        };
        let path = StoreDir::default().display(&out);
        let start = start(&drv, &BTreeMap::from([("out".into(), out)]));
        assert_eq!(start.env[b"out".as_bstr()], path);
        assert_eq!(start.args, [path.as_str()]);
        // `printf text | nix-hash --type sha256 --base32 --flat /dev/stdin`
        let file = ".attr-1lf969yddshzhld7sr1vbagr07bnygg99lgl6gk5kxcnp4z9wbcq";
        assert_eq!(start.files, [(file.to_owned(), format!("<{path}>").into())]);
        assert_eq!(start.env[b"textPath".as_bstr()], format!("/build/{file}"));
        assert!(!start.env.contains_key(b"text".as_bstr()));
    }
    #[test]
    fn structured_attributes_are_in_files_only() {
        let out = StorePath::from_hash_and_name(&[7; 20], "x").unwrap();
        let path = StoreDir::default().display(&out);
        let json = format!(r#"{{"PATH":"{}/bin"}}"#, output_placeholder("out"));
        let drv = Derivation {
            env: BTreeMap::from([
                ("__json".into(), json.into()),
                ("passAsFile".into(), "PATH".into()),
                ("out".into(), "/nix/store/x".into()),
            ]),
            ..Derivation::default()
        };
        let attributes = StructuredAttrs::of(&drv).unwrap().unwrap();
        let scratch = BTreeMap::from([("out".to_owned(), out)]);
        let around = Surroundings {
            store_dir: &StoreDir::default(),
            cores: 1,
            scratch: &scratch,
            is_fixed: true,
            passes_impure: true,
            socket: None,
        };
        let names = BTreeSet::from(["TERM".to_owned(), "proxy".to_owned()]);
        let start =
            structured_builder_start(&drv, &attributes, &names, &around, |_| Some("mine".into()));
        assert_eq!(
            start.files,
            [
                (
                    ".attrs.sh".to_owned(),
                    format!("declare PATH='{path}/bin'\n").into()
                ),
                (
                    ".attrs.json".to_owned(),
                    format!(r#"{{"PATH":"{path}/bin"}}"#).into()
                ),
            ]
        );
        assert_eq!(
            start.env[b"NIX_ATTRS_SH_FILE".as_bstr()],
            "/build/.attrs.sh"
        );
        assert_eq!(start.env[b"PATH".as_bstr()], "/path-not-set");
        assert_eq!(start.env[b"proxy".as_bstr()], "mine");
        assert_eq!(start.env[b"TERM".as_bstr()], "xterm-256color");
        assert!(!start.env.contains_key(b"out".as_bstr()));
        assert!(!start.env.contains_key(b"__json".as_bstr()));
    }
}
