//! Deriving paths: a store path, or outputs of a derivation.
//!
//! Source: Nix manual, "Store Derivation and Deriving Path"; nix
//! `src/libstore/derived-path.cc`, `outputs-spec.cc`.

use std::collections::BTreeSet;

use crate::{StoreDir, StorePath, StorePathError, store_path};

/// Which outputs of a derivation are meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutputsSpec {
    /// All of them: `*`.
    All,
    /// Those of these names; never empty. Printed sorted, separated by `,`.
    Names(BTreeSet<String>),
}

impl OutputsSpec {
    /// Whether an output of this name is among them.
    pub fn contains(&self, output: &str) -> bool {
        match self {
            Self::All => true,
            Self::Names(names) => names.contains(output),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::All);
        }
        text.split(',')
            .map(|name| is_output_name(name).then(|| name.to_owned()))
            .collect::<Option<_>>()
            .map(Self::Names)
    }

    fn print(&self) -> String {
        match self {
            Self::All => "*".to_owned(),
            Self::Names(names) => names
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(","),
        }
    }
}

/// Whether a text can name an output: it must be able to end a store path's
/// name.
pub fn is_output_name(text: &str) -> bool {
    store_path::check_name(text).is_ok()
}

/// Something that can be made valid: a store path, or outputs of a derivation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DerivedPath {
    /// A store path, to be substituted if it is not valid.
    Opaque(StorePath),
    /// Outputs of a derivation, to be built.
    Built {
        /// The derivation.
        drv: StorePath,
        /// Which of its outputs.
        outputs: OutputsSpec,
    },
}

/// Why a text is not a deriving path.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DerivedPathError {
    /// The part before the outputs is not a store path.
    #[error("cannot read a deriving path")]
    Path(#[from] StorePathError),
    /// What follows the path names no outputs.
    #[error("`{text}` does not end in `*` or in names of outputs")]
    Outputs {
        /// The whole text.
        text: String,
    },
    /// An output of an output: dynamic derivations.
    #[error(
        "`{text}` names an output of a derivation that is itself an output, which is not supported yet"
    )]
    Dynamic {
        /// The whole text.
        text: String,
    },
}

impl DerivedPath {
    /// The form of the worker protocol: `<path>`, `<drv>!*`, `<drv>!out,dev`.
    pub fn to_wire(&self, dir: &StoreDir) -> String {
        self.print(dir, '!')
    }

    /// The form of messages and command lines: like the wire's, with `^`.
    pub fn display(&self, dir: &StoreDir) -> String {
        self.print(dir, '^')
    }

    /// The inverse of [`to_wire`](Self::to_wire).
    pub fn parse_wire(dir: &StoreDir, text: &str) -> Result<Self, DerivedPathError> {
        Self::parse_with(dir, text, '!')
    }

    /// The inverse of [`display`](Self::display).
    pub fn parse(dir: &StoreDir, text: &str) -> Result<Self, DerivedPathError> {
        Self::parse_with(dir, text, '^')
    }

    /// The store path, or the derivation's.
    pub fn base_path(&self) -> &StorePath {
        match self {
            Self::Opaque(path) => path,
            Self::Built { drv, .. } => drv,
        }
    }

    fn print(&self, dir: &StoreDir, separator: char) -> String {
        match self {
            Self::Opaque(path) => dir.display(path),
            Self::Built { drv, outputs } => {
                format!("{}{separator}{}", dir.display(drv), outputs.print())
            }
        }
    }

    fn parse_with(dir: &StoreDir, text: &str, separator: char) -> Result<Self, DerivedPathError> {
        let Some((drv, outputs)) = text.rsplit_once(separator) else {
            return Ok(Self::Opaque(dir.parse(text)?));
        };
        if drv.contains(separator) {
            return Err(DerivedPathError::Dynamic {
                text: text.to_owned(),
            });
        }
        let drv = dir.parse(drv)?;
        let outputs = OutputsSpec::parse(outputs).ok_or_else(|| DerivedPathError::Outputs {
            text: text.to_owned(),
        })?;
        Ok(Self::Built { drv, outputs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRV: &str = "/nix/store/0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-hello.drv";

    #[test]
    fn both_forms_are_printed_and_parsed_back() {
        let dir = StoreDir::default();
        for suffix in ["", "!*", "!out", "!dev,out"] {
            let wire = format!("{DRV}{suffix}");
            let path = DerivedPath::parse_wire(&dir, &wire).unwrap();
            assert_eq!(path.to_wire(&dir), wire);
            let shown = wire.replace('!', "^");
            assert_eq!(path.display(&dir), shown);
            assert_eq!(DerivedPath::parse(&dir, &shown), Ok(path));
        }
    }

    #[test]
    fn outputs_without_a_name_and_outputs_of_outputs_are_refused() {
        let dir = StoreDir::default();
        for suffix in ["!", "!a,", "!*,out", "!a!b", "!a b", "^out"] {
            assert!(
                DerivedPath::parse_wire(&dir, &format!("{DRV}{suffix}")).is_err(),
                "{suffix}"
            );
        }
    }
}
