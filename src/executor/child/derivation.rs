//! A child as a derivation: floating content-addressed, built by the runner.
//!
//! Any Nix with `ca-derivations` builds it to the same output. Everything that forms
//! the result is in it: the runner, the compiler, the inputs (as store paths, named
//! by content), and in the manifest the command, its environment, and where each
//! input lies.

use std::collections::{BTreeMap, BTreeSet};

use bstr::BString;
use store_types::{
    ContentAddressMethod, ContentAddressedPathError, Derivation, DerivationOutput, HashAlgorithm,
    StoreDir, StorePath, output_placeholder,
};

/// What a child is made of.
pub struct ChildParts<'a> {
    /// The derivation's name: the object's file name as a store object's name.
    pub name: &'a str,
    /// The system of the outer derivation.
    pub system: &'a [u8],
    /// The store path of the runner, an executable file.
    pub runner: &'a StorePath,
    /// The manifest, printed.
    pub manifest: Vec<u8>,
    /// All store paths that it needs; their closures are visible to it.
    pub inputs: BTreeSet<StorePath>,
}

/// The derivation of a child, its `.drv` file's bytes and its path.
pub fn child_derivation(
    store_dir: &StoreDir,
    parts: ChildParts<'_>,
) -> Result<(Derivation, Vec<u8>, StorePath), ContentAddressedPathError> {
    let runner = store_dir.display(parts.runner);
    let mut input_srcs = parts.inputs;
    input_srcs.insert(parts.runner.clone());
    let env: [(&str, BString); 8] = [
        ("builder", runner.clone().into()),
        ("manifest", parts.manifest.into()),
        ("name", parts.name.into()),
        ("out", output_placeholder("out").into()),
        ("outputHashAlgo", "sha256".into()),
        ("outputHashMode", "recursive".into()),
        ("passAsFile", "manifest".into()),
        ("system", parts.system.into()),
    ];
    let drv = Derivation {
        outputs: BTreeMap::from([(
            "out".to_owned(),
            DerivationOutput::Floating {
                method: ContentAddressMethod::Nar,
                algorithm: HashAlgorithm::Sha256,
            },
        )]),
        input_drvs: BTreeMap::new(),
        input_srcs,
        system: parts.system.into(),
        builder: runner.into(),
        args: Vec::new(),
        env: env
            .into_iter()
            .map(|(name, value)| (name.into(), value))
            .collect(),
    };
    let bytes = drv.to_aterm(store_dir);
    let ca = store_types::ContentAddress {
        method: ContentAddressMethod::Text,
        hash: store_types::sha256(&bytes),
    };
    let references = store_types::References::to_others(drv.references());
    let path =
        store_dir.content_addressed_path(&format!("{}.drv", parts.name), &ca, &references)?;
    Ok((drv, bytes, path))
}
