//! Why a derivation was not built.

use std::path::PathBuf;

use store_api::{BoxError, BuildStatus};
use store_types::StorePath;

/// One derivation's failure. Full store paths are given as text, since the store
/// directory is part of what users look for in a message.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The `.drv` file is not there.
    #[error("derivation `{drv}` is not valid in store `{store}`")]
    NoDerivation {
        /// The derivation.
        drv: String,
        /// The store's directory on this machine.
        store: PathBuf,
    },
    /// The `.drv` file cannot be understood.
    #[error("derivation `{drv}` is malformed")]
    Malformed {
        /// The derivation.
        drv: String,
        /// The cause.
        #[source]
        source: BoxError,
    },
    /// An output is wanted that the derivation does not have.
    #[error("derivation `{drv}` does not have output `{output}`")]
    NoSuchOutput {
        /// The derivation.
        drv: String,
        /// The output.
        output: String,
    },
    /// A source is missing.
    #[error(
        "input `{input}` of derivation `{drv}` is not valid in this store, and no derivation makes it"
    )]
    MissingInput {
        /// The derivation.
        drv: String,
        /// The input.
        input: String,
    },
    /// Another system or feature is required.
    #[error("cannot build `{drv}`; reason: {why}")]
    WrongSystem {
        /// The derivation.
        drv: String,
        /// What it requires and what there is.
        why: String,
    },
    /// An output was to be submitted.
    #[error("builder for `{drv}` failed to submit output path for `{output}`")]
    NotSubmitted {
        /// The derivation.
        drv: String,
        /// The output.
        output: String,
    },
    /// There is no user to build as, and there will be none.
    #[error(
        "derivation `{drv}` cannot be built: all {count} build users belong to builds that wait for builds inside them"
    )]
    NoUserLeft {
        /// The derivation.
        drv: String,
        /// How many users there are.
        count: usize,
    },
    /// Something in the derivation is not supported.
    #[error("derivation `{drv}` needs {what}, which is not supported yet")]
    Unsupported {
        /// The derivation.
        drv: String,
        /// What is needed.
        what: String,
    },
    /// The derivation contradicts itself.
    #[error("derivation `{drv}` cannot be built: {why}")]
    Rejected {
        /// The derivation.
        drv: String,
        /// The contradiction.
        why: String,
    },
    /// It wants more of the machine than a sandbox shows.
    #[error(
        "derivation `{drv}` has `__noChroot` set, but that's not allowed when `sandbox` is `true`"
    )]
    WantsOutside {
        /// The derivation.
        drv: String,
    },
    /// It wants a path of the machine that is not allowed.
    #[error(
        "derivation `{drv}` requested impure path `{path}`, \
         but it was not in allowed-impure-host-deps"
    )]
    HostPathRefused {
        /// The derivation.
        drv: String,
        /// The path.
        path: String,
    },
    /// A path that the settings have for the sandbox is not there.
    #[error("`{}`, which `sandbox-paths` has, cannot be shown to derivation `{drv}`", path.display())]
    NoSandboxPath {
        /// The derivation.
        drv: String,
        /// The path on this machine.
        path: PathBuf,
        /// The cause.
        #[source]
        source: BoxError,
    },
    /// A program that the settings have around builds failed.
    #[error("the {hook} for derivation `{drv}` failed")]
    HookFailed {
        /// The derivation.
        drv: String,
        /// The setting that names it.
        hook: &'static str,
        /// How.
        #[source]
        source: BoxError,
    },
    /// It would not be the same again, but what needs it is to be.
    #[error("pure derivation `{drv}` depends on impure derivation `{input}`")]
    DependsOnImpure {
        /// The derivation.
        drv: String,
        /// Its input.
        input: String,
    },
    /// The builder wrote too much.
    #[error(
        "building of `{drv}` killed after writing more than {bytes_max} bytes of log output{log}"
    )]
    LogTooLong {
        /// The derivation.
        drv: String,
        /// What is allowed.
        bytes_max: u64,
        /// The last lines of its log.
        log: String,
    },
    /// The builder is no program that runs here.
    #[error("builder `{builder}` of derivation `{drv}` cannot be executed")]
    BuilderNotExecuted {
        /// The derivation.
        drv: String,
        /// The program.
        builder: String,
        /// The kernel's error.
        #[source]
        source: BoxError,
    },
    /// The builder ended in any way but success.
    #[error("cannot build `{drv}`; reason: builder {how}{log}{note}")]
    BuilderFailed {
        /// The derivation.
        drv: String,
        /// How it ended.
        how: String,
        /// The last lines of its log, set off for reading; may be empty.
        log: String,
        /// What may have been at fault but the builder; may be empty.
        note: &'static str,
        /// It may succeed the next time.
        is_transient: bool,
    },
    /// The builder ran, or was silent, for too long.
    #[error("building of `{drv}` timed out after {after}{log}")]
    TimedOut {
        /// The derivation.
        drv: String,
        /// After what: `2 seconds`, `2 seconds of silence`.
        after: String,
        /// The last lines of its log.
        log: String,
    },
    /// An output was not made.
    #[error(
        "builder for `{drv}` failed to produce output path for output `{output}` at `{path}`{log}"
    )]
    MissingOutput {
        /// The derivation.
        drv: String,
        /// The output.
        output: String,
        /// Where it should be.
        path: String,
        /// The last lines of the log.
        log: String,
    },
    /// An output is nothing that a store can hold.
    #[error("output `{output}` of derivation `{drv}` cannot be taken into the store{log}")]
    BadOutput {
        /// The derivation.
        drv: String,
        /// The output.
        output: String,
        /// The last lines of the log.
        log: String,
        /// The cause.
        #[source]
        source: BoxError,
    },
    /// A fixed output has another content.
    #[error(
        "hash mismatch in fixed-output derivation `{drv}`:\n         specified: {specified}\n            got:    {got}"
    )]
    HashMismatch {
        /// The derivation.
        drv: String,
        /// The hash in the derivation, in SRI form.
        specified: String,
        /// The hash of what was built.
        got: String,
    },
    /// An output refers to what it may not refer to.
    #[error(
        "output `{output}` of derivation `{drv}` is not allowed to refer to the following paths:\n{paths}"
    )]
    ForbiddenReferences {
        /// The derivation.
        drv: String,
        /// The output.
        output: String,
        /// The forbidden paths, one a line.
        paths: String,
    },
    /// An output, or its closure, is larger than the derivation allows.
    #[error(
        "{what} `{path}` of derivation `{drv}` is too large at {size_bytes} bytes; \
         limit is {size_bytes_max} bytes"
    )]
    TooLarge {
        /// The derivation.
        drv: String,
        /// The output's path.
        path: String,
        /// What of it is too large.
        what: &'static str,
        /// Its size, as NARs.
        size_bytes: u64,
        /// The limit.
        size_bytes_max: u64,
    },
    /// A check of the outputs names what is neither a store path nor an output.
    #[error(
        "derivation `{drv}` output check contains output name `{name}`, \
         but this is not a valid output of this derivation"
    )]
    BadCheck {
        /// The derivation.
        drv: String,
        /// The name.
        name: String,
    },
    /// Outputs refer to each other in a circle.
    #[error("cycle detected in build of `{drv}` in the references of outputs {outputs}")]
    OutputCycle {
        /// The derivation.
        drv: String,
        /// The outputs.
        outputs: String,
    },
    /// A second run gave something else.
    #[error("derivation `{drv}` may not be deterministic: output `{path}` differs{kept}")]
    NotDeterministic {
        /// The derivation.
        drv: String,
        /// The output.
        path: String,
        /// Where the differing output was kept, if it was.
        kept: String,
    },
    /// A rebuild is asked for, but there is nothing to compare with.
    #[error("some outputs of `{drv}` are not valid, so checking is not possible")]
    NothingToCheck {
        /// The derivation.
        drv: String,
    },
    /// A derivation that is an output was not made.
    #[error("failed to obtain derivation of `{drv}`")]
    NotObtained {
        /// The output.
        drv: String,
    },
    /// An input failed.
    #[error("cannot build `{drv}`; reason: dependency failed: `{input}`")]
    InputFailed {
        /// The derivation.
        drv: String,
        /// The failed input derivation.
        input: String,
    },
    /// It was not built because something else had failed, or on request.
    #[error("derivation `{drv}` was not built: {why}")]
    Cancelled {
        /// The derivation.
        drv: String,
        /// Why.
        why: &'static str,
    },
    /// Nothing may be built here.
    #[error(
        "unable to start the build of `{drv}`: `max-jobs` is 0, and there are no remote builders"
    )]
    NoJobs {
        /// The derivation.
        drv: String,
    },
    /// The machine, not the derivation, is at fault.
    #[error("cannot {action} for derivation `{drv}`")]
    Environment {
        /// The derivation.
        drv: String,
        /// What failed.
        action: &'static str,
        /// The cause.
        #[source]
        source: BoxError,
    },
}

impl BuildError {
    /// The status that Nix's clients are told.
    pub fn status(&self) -> BuildStatus {
        match self {
            Self::TimedOut { .. } => BuildStatus::TimedOut,
            Self::LogTooLong { .. } => BuildStatus::LogLimitExceeded,
            Self::BuilderFailed {
                is_transient: true, ..
            } => BuildStatus::TransientFailure,
            Self::BuilderFailed { .. } | Self::BuilderNotExecuted { .. } => {
                BuildStatus::PermanentFailure
            }
            Self::NoDerivation { .. }
            | Self::NoSuchOutput { .. }
            | Self::Environment { .. }
            | Self::Cancelled { .. }
            | Self::NoJobs { .. }
            | Self::NoUserLeft { .. }
            | Self::NothingToCheck { .. }
            | Self::Malformed { .. }
            | Self::WantsOutside { .. }
            | Self::HostPathRefused { .. }
            | Self::NoSandboxPath { .. }
            | Self::HookFailed { .. }
            | Self::DependsOnImpure { .. }
            | Self::MissingInput { .. } => BuildStatus::MiscFailure,
            Self::WrongSystem { .. } | Self::Unsupported { .. } | Self::Rejected { .. } => {
                BuildStatus::InputRejected
            }
            Self::MissingOutput { .. }
            | Self::NotSubmitted { .. }
            | Self::BadOutput { .. }
            | Self::HashMismatch { .. }
            | Self::ForbiddenReferences { .. }
            | Self::TooLarge { .. }
            | Self::BadCheck { .. }
            | Self::OutputCycle { .. } => BuildStatus::OutputRejected,
            Self::NotDeterministic { .. } => BuildStatus::NotDeterministic,
            Self::InputFailed { .. } | Self::NotObtained { .. } => BuildStatus::DependencyFailed,
        }
    }

    /// The message with all its causes.
    pub fn chain(&self) -> String {
        chain(self)
    }

    /// The same in Nix's words and quotes, as users and programs look for them in what its clients
    /// print; those indent all lines but the first.
    pub(crate) fn for_client(&self) -> String {
        match self {
            Self::BuilderFailed {
                drv,
                how,
                log,
                note,
                ..
            } => {
                let log = unindented(log);
                let log = match log.strip_prefix(";\nlast") {
                    Some(lines) => {
                        format!("\nLast{lines}\nFor full logs, run:\n  nix log {drv}")
                    }
                    None => log,
                };
                format!("Cannot build '{drv}'.\nReason: builder {how}.{log}{note}")
            }
            Self::WrongSystem { drv, why } => {
                format!("Cannot build '{drv}'.\nReason: {}", in_quotes(why))
            }
            Self::InputFailed { drv, input } => {
                format!("Cannot build '{drv}'.\nReason: dependency failed: '{input}'.")
            }
            // Nix has the log behind all else, too.
            Self::BadOutput {
                drv,
                output,
                log,
                source,
            } => {
                let cause = in_quotes(&chain(&**source));
                let log = unindented(log);
                format!(
                    "output '{output}' of derivation '{drv}' cannot be taken into the store: {cause}{log}"
                )
            }
            _ => in_quotes(&self.chain()),
        }
    }
}

/// Text for clients, with Nix's quotes; not in lines of a log, which are the builder's.
pub(crate) fn in_quotes(text: &str) -> String {
    let lines: Vec<String> = unindented(text)
        .split('\n')
        .map(|line| match line.starts_with("> ") {
            true => line.to_owned(),
            false => line.replace('`', "'"),
        })
        .collect();
    lines.join("\n")
}

/// Text whose lines are indented as far as below "error: ", as clients do it themselves.
fn unindented(text: &str) -> String {
    text.replace("\n       ", "\n")
}

/// An error's message with all its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Wraps what the machine could not do into a [`BuildError`].
pub fn environment<E: Into<BoxError>>(
    drv: &str,
    action: &'static str,
) -> impl FnOnce(E) -> BuildError {
    let drv = drv.to_owned();
    move |source| BuildError::Environment {
        drv,
        action,
        source: source.into(),
    }
}

/// A set of store paths, one a line, indented.
pub fn lines<'a>(
    store_dir: &store_types::StoreDir,
    paths: impl Iterator<Item = &'a StorePath>,
) -> String {
    paths
        .map(|path| format!("  {}", store_dir.display(path)))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_in_nixs_words() {
        let drv = "/nix/store/0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-x.drv".to_owned();
        let failed = |log: &str| BuildError::BuilderFailed {
            drv: drv.clone(),
            how: "failed with exit code 7".into(),
            log: log.into(),
            note: "",
            is_transient: false,
        };
        let log = ";\n       last 1 log lines:\n       > a `word`";
        assert_eq!(
            failed(log).for_client(),
            format!(
                "Cannot build '{drv}'.\nReason: builder failed with exit code 7.\n\
                 Last 1 log lines:\n> a `word`\nFor full logs, run:\n  nix log {drv}"
            )
        );
        assert_eq!(
            failed("").for_client(),
            format!("Cannot build '{drv}'.\nReason: builder failed with exit code 7.")
        );
        let mismatch = BuildError::HashMismatch {
            drv: drv.clone(),
            specified: "sha256-A".into(),
            got: "sha256-B".into(),
        };
        assert_eq!(
            mismatch.for_client(),
            format!(
                "hash mismatch in fixed-output derivation '{drv}':\n  specified: sha256-A\n     got:    sha256-B"
            )
        );
    }
}
