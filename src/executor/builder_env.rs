//! What a builder is started with: environment, arguments, files.
//!
//! Source: nix `src/libstore/unix/build/derivation-builder.cc` (`initEnv`) and
//! `src/libstore/build/derivation-env-desugar.cc`; checked against the
//! environment that Nix 2.8 and 2.34 give.

use std::collections::BTreeMap;

use bstr::{BString, ByteSlice};
use store_types::{
    Derivation, PlaceholderRewrites, StoreDir, StorePath, attribute_file_name, output_placeholder,
};

/// The build directory inside the sandbox.
pub const BUILD_DIR: &str = "/build";

/// What a builder gets.
#[derive(Debug, Default, PartialEq, Eq)]
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

/// The words of an attribute that is a list.
pub fn words(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
}

/// Computes what the builder of a resolved derivation gets. `impure` gives the
/// value of one of the executor's own variables.
pub fn builder_start(
    drv: &Derivation,
    around: &Surroundings<'_>,
    impure: impl Fn(&[u8]) -> Option<BString>,
) -> BuilderStart {
    let mut rewrites = PlaceholderRewrites::new();
    for (output, path) in around.scratch {
        rewrites.insert(output_placeholder(output), around.store_dir.display(path));
    }
    let mut start = BuilderStart::default();
    let mut set = |name: &str, value: &str| {
        start.env.insert(name.into(), value.into());
    };
    set("PATH", "/path-not-set");
    set("HOME", "/homeless-shelter");
    set("NIX_STORE", around.store_dir.as_str());
    set("NIX_BUILD_CORES", &around.cores.to_string());
    let list = |name: &str| -> Vec<BString> {
        let value = drv.env.get(name.as_bytes().as_bstr());
        value.map_or(Vec::new(), |value| {
            words(value).map(BString::from).collect()
        })
    };
    let as_file = list("passAsFile");
    for (name, value) in &drv.env {
        let value = rewrites.apply(value);
        if as_file.contains(name) {
            let file = attribute_file_name(name);
            let mut variable = name.clone();
            variable.extend_from_slice(b"Path");
            start
                .env
                .insert(variable, format!("{BUILD_DIR}/{file}").into());
            start.files.push((file, value));
        } else {
            start.env.insert(rewrites.apply(name), value);
        }
    }
    let mut set = |name: &str, value: &str| {
        start.env.insert(name.into(), value.into());
    };
    for name in ["NIX_BUILD_TOP", "TMPDIR", "TEMPDIR", "TMP", "TEMP", "PWD"] {
        set(name, BUILD_DIR);
    }
    if around.is_fixed {
        set("NIX_OUTPUT_CHECKED", "1");
    }
    if let Some(socket) = around.socket {
        set("NIX_REMOTE", socket);
    }
    set("NIX_LOG_FD", "2");
    set("TERM", "xterm-256color");
    if around.passes_impure {
        for name in list("impureEnvVars") {
            let value = impure(&name).unwrap_or_default();
            start.env.insert(name, value);
        }
    }
    start.args = drv.args.iter().map(|arg| rewrites.apply(arg)).collect();
    start
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
}
