//! All settings, what they are, and where that comes from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use crate::file::{Assignment, FileError};
use crate::known::{Default, KNOWN, Kind, Known, find};
use crate::value::{SandboxPath, Value, ValueError};

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody has set it.
    Default,
    /// A line of a file, or of `NIX_CONFIG`.
    File {
        /// Which.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// The command line.
    CommandLine,
    /// The client of a daemon.
    Client,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::CommandLine => f.write_str("command line"),
            Self::Client => f.write_str("client"),
        }
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file is malformed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A setting cannot be what it is set to.
    #[error("{why} (from {origin})")]
    Value {
        /// Why not.
        why: ValueError,
        /// Who has set it.
        origin: Origin,
    },
}

/// A setting's value, with its origins: the last who has set it, and those who added to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Assigned {
    /// The value.
    pub value: Value,
    /// Never empty.
    pub origins: Vec<Origin>,
}

impl Assigned {
    /// Whether somebody has set it.
    pub fn is_set(&self) -> bool {
        self.origins != [Origin::Default]
    }
}

/// The values of all known settings.
#[derive(Clone, Debug)]
pub struct Config {
    values: BTreeMap<&'static str, Assigned>,
    /// Names that were set and are no settings'.
    unknown: BTreeSet<String>,
    warnings: Vec<String>,
    processors: u32,
    /// `NIX_PATH` is set, and goes before `nix-path` in files.
    pub(crate) has_nix_path: bool,
}

impl Config {
    /// All settings as they are on a machine with so many processors if nobody sets them. What
    /// depends on more than that is empty until [`set_default`](Self::set_default).
    pub fn new(processors: u32) -> Self {
        let values = KNOWN.iter().map(|known| {
            let text = match (known.default, known.kind) {
                (Default::Fixed(text), _) => text,
                (Default::Computed, Kind::Bool) => "false",
                (Default::Computed, Kind::Path) => "/",
                (Default::Computed, Kind::Jobs) => "auto",
                (Default::Computed, _) => "",
            };
            let value = Value::parse(known.name, known.kind, text, processors, &mut |_| {});
            let value = value.expect("every default is a value, as a test says");
            let origins = vec![Origin::Default];
            (known.name, Assigned { value, origins })
        });
        Self {
            values: values.collect(),
            unknown: BTreeSet::new(),
            warnings: Vec::new(),
            processors,
            has_nix_path: false,
        }
    }

    /// Says what a setting is when nobody sets it.
    ///
    /// # Errors
    /// If it cannot be that.
    pub fn set_default(&mut self, name: &str, text: &str) -> Result<(), ConfigError> {
        self.assign(name, text, Origin::Default)
    }

    /// Sets `name`, which may be an alias or have `extra-` before it. An unknown name is kept
    /// for [`take_warnings`](Self::take_warnings).
    ///
    /// # Errors
    /// If it cannot be set to that.
    pub fn set(&mut self, name: &str, text: &str, origin: Origin) -> Result<(), ConfigError> {
        self.assign(name, text, origin)
    }

    /// Sets what a file says: first the experimental features, since others depend on them.
    ///
    /// # Errors
    /// If something cannot be what it is set to.
    pub fn apply(&mut self, assignments: &[Assignment]) -> Result<(), ConfigError> {
        let is_of_features = |name: &str| {
            matches!(
                name,
                "experimental-features" | "extra-experimental-features"
            )
        };
        let is_of_path = |name: &str| matches!(name, "nix-path" | "extra-nix-path");
        let (features, others): (Vec<_>, Vec<_>) = assignments
            .iter()
            .filter(|assignment| !(self.has_nix_path && is_of_path(&assignment.name)))
            .partition(|assignment| is_of_features(&assignment.name));
        for assignment in features.into_iter().chain(others) {
            let origin = Origin::File {
                path: assignment.path.clone(),
                line: assignment.line,
            };
            self.assign(&assignment.name, &assignment.value, origin)?;
        }
        Ok(())
    }

    fn assign(&mut self, name: &str, text: &str, origin: Origin) -> Result<(), ConfigError> {
        let Some((known, is_added)) = find(name) else {
            self.unknown.insert(name.to_owned());
            return Ok(());
        };
        if let Some(feature) = known.feature
            && origin != Origin::Default
            && !self.has_feature(feature)
        {
            self.warnings.push(format!(
                "Ignoring setting '{}' because experimental feature '{feature}' is not enabled",
                known.name
            ));
            return Ok(());
        }
        let warnings = &mut self.warnings;
        let mut warn = |text| warnings.push(text);
        let value = Value::parse(known.name, known.kind, text, self.processors, &mut warn)
            .map_err(|why| ConfigError::Value {
                why,
                origin: origin.clone(),
            })?;
        let assigned = self
            .values
            .get_mut(known.name)
            .expect("all known settings are there");
        match is_added {
            true => {
                assigned.value.append(value);
                assigned.origins.push(origin);
            }
            false => {
                *assigned = Assigned {
                    value,
                    origins: vec![origin],
                };
            }
        }
        Ok(())
    }

    /// Shows builds one more file or directory, in place of what they saw there. Other than in
    /// text, the paths may have spaces in them.
    pub fn add_sandbox_path(&mut self, inside: String, source: String, origin: Origin) {
        let assigned = self
            .values
            .get_mut("sandbox-paths")
            .expect("all known settings are there");
        if let Value::SandboxPaths(paths) = &mut assigned.value {
            let optional = false;
            paths.insert(inside, SandboxPath { source, optional });
            assigned.origins.push(origin);
        }
    }

    pub(crate) fn warn(&mut self, text: String) {
        self.warnings.push(text);
    }

    /// What the user should know, each once: first in the order in which it was found, then
    /// names that are unknown.
    pub fn take_warnings(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        for warning in std::mem::take(&mut self.warnings) {
            if !all.contains(&warning) {
                all.push(warning);
            }
        }
        let unknown = std::mem::take(&mut self.unknown);
        all.extend(
            unknown
                .iter()
                .map(|name| format!("unknown setting '{name}'")),
        );
        all
    }

    /// All settings by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Known, &Assigned)> {
        KNOWN.iter().map(|known| (known, &self.values[known.name]))
    }

    /// A setting by its name.
    ///
    /// # Panics
    /// If there is no such setting.
    pub fn get(&self, name: &str) -> &Assigned {
        self.values.get(name).expect("the setting is known")
    }

    /// A setting by its name or alias, if there is one.
    pub fn find(&self, name: &str) -> Option<(&'static Known, &Assigned)> {
        match find(name)? {
            (known, false) => Some((known, &self.values[known.name])),
            (_, true) => None,
        }
    }

    /// A setting's value, if somebody has set it.
    pub fn if_set(&self, name: &str) -> Option<&Value> {
        Some(self.get(name))
            .filter(|assigned| assigned.is_set())
            .map(|assigned| &assigned.value)
    }

    /// A setting of [`Kind::Bool`].
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.get(name).value, Value::Bool(true))
    }

    /// A setting that is a number; what is negative counts as 0.
    pub fn number(&self, name: &str) -> u64 {
        match self.get(name).value {
            Value::Number(number) => u64::try_from(number).unwrap_or(0),
            _ => 0,
        }
    }

    /// A setting that is a text or a path; empty if it is none.
    pub fn text(&self, name: &str) -> &str {
        match &self.get(name).value {
            Value::Text(text) => text,
            _ => "",
        }
    }

    /// A path, if the setting names one.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        Some(self.text(name))
            .filter(|text| !text.is_empty())
            .map(PathBuf::from)
    }

    /// A setting that is a list or a set of words.
    pub fn words(&self, name: &str) -> Vec<String> {
        match &self.get(name).value {
            Value::List(list) => list.clone(),
            Value::Set(set) => set.iter().cloned().collect(),
            _ => Vec::new(),
        }
    }

    /// A setting of [`Kind::Map`].
    pub fn map(&self, name: &str) -> BTreeMap<String, String> {
        match &self.get(name).value {
            Value::Map(map) => map.clone(),
            _ => BTreeMap::new(),
        }
    }

    /// The setting `sandbox-paths`.
    pub fn sandbox_paths(&self) -> &BTreeMap<String, SandboxPath> {
        match &self.get("sandbox-paths").value {
            Value::SandboxPaths(paths) => paths,
            _ => unreachable!("that is its kind"),
        }
    }

    /// Whether an experimental feature is enabled.
    pub fn has_feature(&self, feature: &str) -> bool {
        match &self.get("experimental-features").value {
            Value::Set(features) => features.contains(feature),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(lines: &[(&str, &str)]) -> Config {
        let mut config = Config::new(4);
        let assignments: Vec<Assignment> = lines
            .iter()
            .enumerate()
            .map(|(index, (name, value))| Assignment {
                name: name.to_string(),
                value: value.to_string(),
                path: "/f".into(),
                line: index + 1,
            })
            .collect();
        config.apply(&assignments).unwrap();
        config
    }

    #[test]
    fn the_last_line_counts_and_extra_adds_to_what_is_there() {
        let config = config(&[
            ("system-features", "b a"),
            ("extra-system-features", "c a"),
            ("build-cores", "3"),
            ("cores", "4"),
            ("trusted-users", "a"),
            ("extra-trusted-users", "b a"),
        ]);
        assert_eq!(config.words("system-features"), ["a", "b", "c"]);
        assert_eq!(config.words("trusted-users"), ["a", "b", "a"]);
        assert_eq!(config.number("cores"), 4);
        let line = |line| Origin::File {
            path: "/f".into(),
            line,
        };
        assert_eq!(config.get("system-features").origins, [line(1), line(2)]);
        assert!(!config.get("timeout").is_set());
    }

    #[test]
    fn settings_of_features_need_them_wherever_in_a_file_they_stand() {
        let lines = [
            ("accept-flake-config", "true"),
            ("impure-env", "a=b"),
            ("experimental-features", "flakes"),
        ];
        let mut config = config(&lines);
        assert!(config.flag("accept-flake-config"));
        assert!(config.map("impure-env").is_empty());
        assert_eq!(
            config.take_warnings(),
            [
                "Ignoring setting 'impure-env' because experimental feature 'configurable-impure-env' is not enabled"
            ]
        );
    }

    #[test]
    fn unknown_names_are_told_once_and_sorted() {
        let mut config = config(&[("foo", "1"), ("extra-sandbox", "x"), ("foo", "2")]);
        assert_eq!(
            config.take_warnings(),
            ["unknown setting 'extra-sandbox'", "unknown setting 'foo'"]
        );
        assert!(config.take_warnings().is_empty());
    }

    #[test]
    fn an_error_says_where_the_value_comes_from() {
        let mut config = Config::new(1);
        let error = config
            .set("cores", "many", Origin::CommandLine)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "setting 'cores' has invalid value 'many' (from command line)"
        );
    }

    #[test]
    fn what_files_say_of_nix_path_does_not_count_beside_the_variable() {
        let mut config = Config::new(1);
        config.has_nix_path = true;
        config
            .apply(&[Assignment {
                name: "extra-nix-path".into(),
                value: "a".into(),
                path: "/f".into(),
                line: 1,
            }])
            .unwrap();
        assert!(config.words("nix-path").is_empty());
    }
}
