//! `-f FILE -A ATTR`: derivations out of Nix expressions, by Nix itself.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, FromArgMatches};

use super::report::Status;

/// The program that evaluates.
const PROGRAM: &str = "nix-instantiate";

/// What Nix needs for derivations whose outputs are content-addressed; no harm to
/// others.
const NIX_CONFIG: &str = "extra-experimental-features = ca-derivations";

/// A line that `nix-instantiate` always writes, which is of no use here.
const ROOT_WARNING: &str = "you did not specify '--add-root'";

/// One file with the attributes that are wanted of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression {
    file: PathBuf,
    /// None: the file's value itself.
    attributes: Vec<String>,
}

/// All files that were given.
#[derive(Clone, Debug, Default)]
pub struct Expressions(pub Vec<Expression>);

/// Why there is no derivation.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// There is no Nix on this machine.
    #[error("`{PROGRAM}` is not installed, and only Nix can evaluate Nix expressions")]
    Missing,
    /// It could not be started.
    #[error("cannot start `{PROGRAM}`")]
    Start(#[source] std::io::Error),
    /// It failed.
    #[error("cannot evaluate `{}`: `{PROGRAM}` failed with {status}", file.display())]
    Failed {
        /// The expression.
        file: PathBuf,
        /// How it ended.
        status: std::process::ExitStatus,
    },
    /// There is no such file.
    #[error("there is no file `{}`", .0.display())]
    NoSuchFile(PathBuf),
    /// Its answer is not text.
    #[error("`{PROGRAM}` gave something else than paths for `{}`", .0.display())]
    NotText(PathBuf),
}

impl Expression {
    /// The derivations, as `nix-instantiate` prints them: `PATH.drv` or
    /// `PATH.drv!OUTPUT`. They are added to the store, which is named as `--store` has it.
    pub fn instantiate(&self, store: &OsStr, status: &Status) -> Result<Vec<String>, EvalError> {
        if !self.file.exists() {
            return Err(EvalError::NoSuchFile(self.file.clone()));
        }
        let mut command = Command::new(PROGRAM);
        command
            .arg("--store")
            .arg(store)
            .arg(file_argument(&self.file));
        for attribute in &self.attributes {
            command.arg("-A").arg(attribute);
        }
        let config = match std::env::var("NIX_CONFIG") {
            Ok(config) => format!("{config}\n{NIX_CONFIG}"),
            Err(_) => NIX_CONFIG.to_owned(),
        };
        command.env("NIX_CONFIG", config).stdin(Stdio::null());
        let output = command.output().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => EvalError::Missing,
            _ => EvalError::Start(error),
        })?;
        for line in output.stderr.split_inclusive(|byte| *byte == b'\n') {
            if !String::from_utf8_lossy(line).contains(ROOT_WARNING) {
                status.clear();
                // Where there is no standard error, there is nobody to tell.
                let _ = std::io::stderr().write_all(line);
            }
        }
        if !output.status.success() {
            return Err(EvalError::Failed {
                file: self.file.clone(),
                status: output.status,
            });
        }
        let text =
            String::from_utf8(output.stdout).map_err(|_| EvalError::NotText(self.file.clone()))?;
        Ok(text
            .lines()
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect())
    }
}

/// A name that Nix takes for a file, whatever it looks like.
fn file_argument(file: &Path) -> OsString {
    if file.is_absolute() || file.starts_with(".") || file.starts_with("..") {
        return file.into();
    }
    Path::new(".").join(file).into()
}

impl clap::Args for Expressions {
    fn augment_args(command: clap::Command) -> clap::Command {
        command
            .arg(
                Arg::new("file")
                    .short('f')
                    .long("file")
                    .value_name("FILE.nix")
                    .value_parser(clap::value_parser!(PathBuf))
                    .action(ArgAction::Append)
                    .help("Build what this Nix expression evaluates to; needs nix-instantiate"),
            )
            .arg(
                Arg::new("attr")
                    .short('A')
                    .long("attr")
                    .value_name("ATTR")
                    .action(ArgAction::Append)
                    .requires("file")
                    .help("Of the expression before it, build this attribute"),
            )
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Expressions {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let indexed = |name: &str| matches.indices_of(name).into_iter().flatten();
        let files = matches.get_many::<PathBuf>("file").into_iter().flatten();
        let mut expressions: Vec<(usize, Expression)> = indexed("file")
            .zip(files)
            .map(|(index, file)| {
                let expression = Expression {
                    file: file.clone(),
                    attributes: Vec::new(),
                };
                (index, expression)
            })
            .collect();
        let is_only = expressions.len() == 1;
        let attributes = matches.get_many::<String>("attr").into_iter().flatten();
        for (index, attribute) in indexed("attr").zip(attributes) {
            let owner = expressions
                .iter_mut()
                .rev()
                .find(|(file, _)| *file < index || is_only);
            let Some((_, expression)) = owner else {
                let text =
                    format!("`-A {attribute}` must follow the `-f FILE.nix` that it belongs to\n");
                return Err(clap::Error::raw(ErrorKind::ArgumentConflict, text));
            };
            expression.attributes.push(attribute.clone());
        }
        Ok(Self(
            expressions
                .into_iter()
                .map(|(_, expression)| expression)
                .collect(),
        ))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Args as _;

    fn parse(arguments: &[&str]) -> Result<Vec<Expression>, clap::Error> {
        let command = Expressions::augment_args(clap::Command::new("test").no_binary_name(true));
        let matches = command.try_get_matches_from(arguments)?;
        Expressions::from_arg_matches(&matches).map(|expressions| expressions.0)
    }

    fn expression(file: &str, attributes: &[&str]) -> Expression {
        Expression {
            file: file.into(),
            attributes: attributes
                .iter()
                .map(|attribute| attribute.to_string())
                .collect(),
        }
    }

    #[test]
    fn an_attribute_belongs_to_the_file_before_it() {
        let parsed = parse(&[
            "-f", "a.nix", "-A", "x", "-A", "y", "-f", "b.nix", "-f", "c.nix", "-A", "z",
        ]);
        assert_eq!(
            parsed.unwrap(),
            [
                expression("a.nix", &["x", "y"]),
                expression("b.nix", &[]),
                expression("c.nix", &["z"])
            ]
        );
    }

    #[test]
    fn an_attribute_before_the_only_file_belongs_to_it() {
        assert_eq!(
            parse(&["-A", "x", "-f", "a.nix"]).unwrap(),
            [expression("a.nix", &["x"])]
        );
    }

    #[test]
    fn an_attribute_without_a_file_is_refused() {
        assert!(parse(&["-A", "x"]).is_err());
        assert!(parse(&["-A", "x", "-f", "a.nix", "-f", "b.nix"]).is_err());
    }

    #[test]
    fn a_plain_name_is_given_as_a_path() {
        assert_eq!(file_argument(Path::new("a.nix")), "./a.nix");
        assert_eq!(file_argument(Path::new("./a.nix")), "./a.nix");
        assert_eq!(file_argument(Path::new("/a.nix")), "/a.nix");
    }
}
