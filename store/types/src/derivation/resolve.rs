//! Placeholders for paths that are not known yet, and their replacement.
//!
//! Source: nix 2.34 `src/libstore/derivations.cc`, `downstream-placeholder.cc`.

use std::collections::HashMap;

use bstr::BString;

use super::aterm::{InputsByHash, print_modulo};
use super::{Derivation, DerivationKind, DerivationKindError, DerivationOutput, output_path_name};
use crate::store_path::fold;
use crate::{
    Hash, HashAlgorithm, SingleDerivedPath, StoreDir, StorePath, StorePathError, base32, sha256,
};

/// A placeholder's length: `/` and the digits of a SHA-256.
const PLACEHOLDER_LEN: usize = 1 + base32::encoded_len(32);

fn placeholder(clear_text: &str) -> String {
    format!("/{}", sha256(clear_text.as_bytes()).to_base32())
}

/// What stands for a derivation's own output in its builder's arguments and
/// environment.
pub fn output_placeholder(output: &str) -> String {
    placeholder(&format!("nix-output:{output}"))
}

/// What stands for an output of an input derivation whose path is not known
/// beforehand; `None` if `drv` is no derivation's path.
pub fn upstream_placeholder(drv: &StorePath, output: &str) -> Option<String> {
    let name = output_path_name(drv.derivation_name()?, output);
    Some(placeholder(&format!(
        "nix-upstream-output:{}:{name}",
        drv.hash_part()
    )))
}

/// What stands for an output of a derivation that is itself an output, of which this is
/// the placeholder; `None` if that is no placeholder.
pub fn computed_placeholder(drv_placeholder: &str, output: &str) -> Option<String> {
    let digits = drv_placeholder.strip_prefix('/')?;
    let hash = Hash::parse_unprefixed(HashAlgorithm::Sha256, digits).ok()?;
    Some(placeholder(&format!(
        "nix-computed-output:{}:{output}",
        base32::encode(&fold(hash.bytes()))
    )))
}

/// Replacements of placeholders, made all at once.
#[derive(Clone, Debug, Default)]
pub struct PlaceholderRewrites(HashMap<Vec<u8>, Vec<u8>>);

impl PlaceholderRewrites {
    /// No replacements.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces a placeholder, as [`output_placeholder`] and
    /// [`upstream_placeholder`] make them, by this text from now on.
    pub fn insert(&mut self, placeholder: String, text: impl Into<Vec<u8>>) {
        debug_assert_eq!(placeholder.len(), PLACEHOLDER_LEN);
        self.0.insert(placeholder.into_bytes(), text.into());
    }

    /// Whether nothing would be replaced.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// These bytes with every placeholder replaced. One pass, whatever the number
    /// of placeholders; what was put in is not searched again.
    pub fn apply(&self, bytes: &[u8]) -> BString {
        let mut out = Vec::with_capacity(bytes.len());
        let mut rest = bytes;
        while let Some(slash) = rest.iter().position(|byte| *byte == b'/') {
            out.extend_from_slice(&rest[..slash]);
            rest = &rest[slash..];
            let found = rest
                .get(..PLACEHOLDER_LEN)
                .and_then(|candidate| self.0.get(candidate));
            match found {
                Some(text) => {
                    out.extend_from_slice(text);
                    rest = &rest[PLACEHOLDER_LEN..];
                }
                None => {
                    out.push(b'/');
                    rest = &rest[1..];
                }
            }
        }
        out.extend_from_slice(rest);
        out.into()
    }
}

/// Why a derivation cannot be resolved.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The path of an input is not known.
    #[error("output `{output}` of input derivation `{}` is not known", .drv.display_base_name())]
    Unknown {
        /// The input derivation.
        drv: SingleDerivedPath,
        /// Its output.
        output: String,
    },
    /// An output's name cannot be part of a path.
    #[error("output `{output}` cannot have a path")]
    Name {
        /// The output.
        output: String,
        /// The cause.
        #[source]
        source: StorePathError,
    },
}

impl Derivation {
    /// Whether the derivation must be resolved before it is built: it has dynamic
    /// inputs, or has input derivations and is deferred, floating or impure. A fixed
    /// one may be resolved, but need not.
    pub fn is_resolution_needed(&self) -> Result<bool, DerivationKindError> {
        let kind = self.kind()?;
        let needs_paths = !self.input_drvs.is_empty()
            && match kind {
                DerivationKind::InputAddressed | DerivationKind::Fixed => false,
                DerivationKind::Deferred | DerivationKind::Floating | DerivationKind::Impure => {
                    true
                }
            };
        Ok(needs_paths || self.has_dynamic_inputs())
    }

    /// The same derivation with the outputs of its input derivations in their
    /// place: placeholders are replaced in builder, arguments and environment,
    /// and deferred outputs get their paths.
    ///
    /// `name` is the derivation's, without `.drv`. `built` knows the paths of
    /// outputs of input derivations.
    pub fn resolve(
        &self,
        dir: &StoreDir,
        name: &str,
        mut built: impl FnMut(&SingleDerivedPath, &str) -> Option<StorePath>,
    ) -> Result<Self, ResolveError> {
        let mut resolved = Self {
            outputs: self.outputs.clone(),
            input_srcs: self.input_srcs.clone(),
            system: self.system.clone(),
            ..Self::default()
        };
        let mut rewrites = PlaceholderRewrites::new();
        for (drv, outputs) in self.inputs() {
            for output in outputs {
                let path = built(&drv, output).ok_or_else(|| ResolveError::Unknown {
                    drv: drv.clone(),
                    output: output.clone(),
                })?;
                if let Some(placeholder) = drv.output(output).placeholder() {
                    rewrites.insert(placeholder, dir.display(&path));
                }
                resolved.input_srcs.insert(path);
            }
        }
        resolved.builder = rewrites.apply(&self.builder);
        resolved.args = self.args.iter().map(|arg| rewrites.apply(arg)).collect();
        for (name, value) in &self.env {
            resolved
                .env
                .entry(rewrites.apply(name))
                .or_insert_with(|| rewrites.apply(value));
        }
        resolved.fill_in_deferred(dir, name)?;
        Ok(resolved)
    }

    /// Gives deferred outputs their paths; there are no input derivations left.
    fn fill_in_deferred(&mut self, dir: &StoreDir, drv_name: &str) -> Result<(), ResolveError> {
        let is_deferred = |output: &DerivationOutput| *output == DerivationOutput::Deferred;
        if !self.outputs.values().any(is_deferred) {
            return Ok(());
        }
        let hash = sha256(&print_modulo(self, dir, &InputsByHash::new(), true));
        for (name, output) in &mut self.outputs {
            if !is_deferred(output) {
                continue;
            }
            let path =
                dir.output_path(drv_name, name, &hash)
                    .map_err(|source| ResolveError::Name {
                        output: name.clone(),
                        source,
                    })?;
            self.env
                .insert(name.as_str().into(), dir.display(&path).into());
            *output = DerivationOutput::InputAddressed(path);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first as `builtins.placeholder "out"` gives it; the second from a
    /// derivation that Nix 2.34 instantiated.
    #[test]
    fn placeholders_are_nixs() {
        assert_eq!(
            output_placeholder("out"),
            "/1rz4g4znpzjwh1xymhjpm42vipw92pr73vdgl6xs1hycac8kf2n9"
        );
        let drv = StorePath::from_base_name("8aqryym4qwi0wz3wdbsfk2zaliz3ylln-ca.drv").unwrap();
        assert_eq!(
            upstream_placeholder(&drv, "out").unwrap(),
            "/17x1iqbnzw0l0dy54h8910lgd65cwmk2q8s6a2dqzp7xzfpyrpmp"
        );
    }

    #[test]
    fn only_whole_placeholders_are_replaced_and_all_of_them() {
        let mut rewrites = PlaceholderRewrites::new();
        let out = output_placeholder("out");
        rewrites.insert(out.clone(), "/nix/store/x");
        let text = format!("a{out}{out}/bin:/{out} {}/", &out[..50]);
        assert_eq!(
            rewrites.apply(text.as_bytes()),
            format!(
                "a/nix/store/x/nix/store/x/bin://nix/store/x {}/",
                &out[..50]
            )
        );
    }

    #[test]
    fn an_input_without_a_path_is_named() {
        let drv = StorePath::from_base_name("8aqryym4qwi0wz3wdbsfk2zaliz3ylln-ca.drv").unwrap();
        let mut derivation = Derivation::default();
        derivation
            .outputs
            .insert("out".to_owned(), DerivationOutput::Deferred);
        derivation
            .input_drvs
            .insert(drv.clone(), ["out".to_owned()].into());
        assert_eq!(derivation.is_resolution_needed(), Ok(true));
        assert_eq!(
            derivation.resolve(&StoreDir::default(), "x", |_, _| None),
            Err(ResolveError::Unknown {
                drv: drv.into(),
                output: "out".to_owned()
            })
        );
    }
}
