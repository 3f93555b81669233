//! Deriving paths: a store path, or outputs of a derivation, which may itself be an
//! output of a derivation.
//!
//! Source: Nix manual, "Store Derivation and Deriving Path"; nix
//! `src/libstore/derived-path.cc`, `outputs-spec.cc`.

use std::collections::BTreeSet;

use crate::derivation::{computed_placeholder, upstream_placeholder};
use crate::{StoreDir, StorePath, StorePathError, store_path};

/// How many outputs of outputs may be within each other. Nix has no limit; each level
/// is a build of what was built before.
pub const NESTING_MAX: usize = 64;

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

/// One store object: a store path, or an output of a derivation, which may itself be
/// an output, and so on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SingleDerivedPath {
    /// Where it begins: the object, or the derivation that the first output is one of.
    pub base: StorePath,
    /// An output of that derivation, an output of the derivation which that output
    /// is, and so on; at most one more than [`NESTING_MAX`].
    pub outputs: Vec<String>,
}

impl From<StorePath> for SingleDerivedPath {
    fn from(base: StorePath) -> Self {
        Self {
            base,
            outputs: Vec::new(),
        }
    }
}

impl SingleDerivedPath {
    /// An output of the derivation that this is.
    pub fn output(&self, output: &str) -> Self {
        let mut path = self.clone();
        path.outputs.push(output.to_owned());
        path
    }

    /// The store path, if it is known without building.
    pub fn as_opaque(&self) -> Option<&StorePath> {
        self.outputs.is_empty().then_some(&self.base)
    }

    /// The derivation and which output of it this is; `None` for a store path.
    pub fn split_last(&self) -> Option<(Self, &str)> {
        let (output, outputs) = self.outputs.split_last()?;
        let drv = Self {
            base: self.base.clone(),
            outputs: outputs.to_vec(),
        };
        Some((drv, output))
    }

    /// What stands for it as long as its path is not known; `None` for a store path, and
    /// for an output of what is no derivation.
    pub fn placeholder(&self) -> Option<String> {
        let (first, others) = self.outputs.split_first()?;
        others
            .iter()
            .try_fold(upstream_placeholder(&self.base, first)?, |drv, output| {
                computed_placeholder(&drv, output)
            })
    }

    /// The form of messages and command lines: `<path>^out^out`.
    pub fn display(&self, dir: &StoreDir) -> String {
        self.append_outputs(dir.display(&self.base), '^')
    }

    /// The same without the store directory.
    pub fn display_base_name(&self) -> String {
        self.append_outputs(self.base.to_string(), '^')
    }

    fn append_outputs(&self, mut text: String, separator: char) -> String {
        for output in &self.outputs {
            text.push(separator);
            text.push_str(output);
        }
        text
    }
}

/// Something that can be made valid: a store path, or outputs of a derivation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DerivedPath {
    /// A store path, to be substituted if it is not valid.
    Opaque(StorePath),
    /// Outputs of a derivation, to be built.
    Built {
        /// The derivation: a path, or an output that is one.
        drv: SingleDerivedPath,
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
    /// An output of an output of an output, and so on.
    #[error("there are more than {NESTING_MAX} outputs within each other")]
    Nesting,
}

impl DerivedPath {
    /// The form of the worker protocol: `<path>`, `<drv>!*`, `<drv>!out,dev`,
    /// `<drv>!out!out`.
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

    /// The store path, or that of the derivation that is to be built first.
    pub fn base_path(&self) -> &StorePath {
        match self {
            Self::Opaque(path) => path,
            Self::Built { drv, .. } => &drv.base,
        }
    }

    fn print(&self, dir: &StoreDir, separator: char) -> String {
        match self {
            Self::Opaque(path) => dir.display(path),
            Self::Built { drv, outputs } => {
                let drv = drv.append_outputs(dir.display(&drv.base), separator);
                format!("{drv}{separator}{}", outputs.print())
            }
        }
    }

    fn parse_with(dir: &StoreDir, text: &str, separator: char) -> Result<Self, DerivedPathError> {
        let Some((drv, outputs)) = text.rsplit_once(separator) else {
            return Ok(Self::Opaque(dir.parse(text)?));
        };
        let mut parts = drv.split(separator);
        let mut drv = SingleDerivedPath::from(dir.parse(parts.next().unwrap_or_default())?);
        let wrong = || DerivedPathError::Outputs {
            text: text.to_owned(),
        };
        for output in parts {
            if drv.outputs.len() == NESTING_MAX {
                return Err(DerivedPathError::Nesting);
            }
            if !is_output_name(output) {
                return Err(wrong());
            }
            drv.outputs.push(output.to_owned());
        }
        let outputs = OutputsSpec::parse(outputs).ok_or_else(wrong)?;
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
        for suffix in ["", "!*", "!out", "!dev,out", "!a!b!*", "!a!b,c"] {
            let wire = format!("{DRV}{suffix}");
            let path = DerivedPath::parse_wire(&dir, &wire).unwrap();
            assert_eq!(path.to_wire(&dir), wire);
            let shown = wire.replace('!', "^");
            assert_eq!(path.display(&dir), shown);
            assert_eq!(DerivedPath::parse(&dir, &shown), Ok(path));
        }
    }

    #[test]
    fn outputs_without_a_name_and_all_outputs_of_several_are_refused() {
        let dir = StoreDir::default();
        for suffix in [
            "!", "!a,", "!*,out", "!a!", "!!a", "!a,b!c", "!*!c", "!a b", "^out",
        ] {
            assert!(
                DerivedPath::parse_wire(&dir, &format!("{DRV}{suffix}")).is_err(),
                "{suffix}"
            );
        }
    }

    #[test]
    fn outputs_are_nested_to_a_limit() {
        let dir = StoreDir::default();
        let nested = |depth| DerivedPath::parse_wire(&dir, &format!("{DRV}{}", "!a".repeat(depth)));
        assert!(nested(NESTING_MAX + 1).is_ok());
        assert_eq!(nested(NESTING_MAX + 2), Err(DerivedPathError::Nesting));
        assert_eq!(nested(1_000_000), Err(DerivedPathError::Nesting));
    }
}
