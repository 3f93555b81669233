//! Builds as a store sees them: mode, progress, result.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::StoreError;
use store_types::{DerivedPath, Realisation, StorePath};

/// A number of the worker protocol that stands for nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{number} is no {kind}")]
pub struct UnknownNumber {
    /// The number.
    pub number: u64,
    /// What it should have been.
    pub kind: &'static str,
}

/// How to build. The numbers are the worker protocol's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BuildMode {
    /// Make what is not valid.
    #[default]
    Normal = 0,
    /// Make again what is valid but damaged.
    Repair = 1,
    /// Make again what is valid, and compare.
    Check = 2,
}

impl BuildMode {
    /// What is done with a derivation then, in Nix's words, which its path follows.
    pub fn words(self) -> &'static str {
        match self {
            Self::Normal => "building",
            Self::Check => "checking outputs of",
            Self::Repair => "repairing outputs of",
        }
    }
}

impl TryFrom<u64> for BuildMode {
    type Error = UnknownNumber;

    fn try_from(number: u64) -> Result<Self, UnknownNumber> {
        [Self::Normal, Self::Repair, Self::Check]
            .into_iter()
            .find(|mode| *mode as u64 == number)
            .ok_or(UnknownNumber {
                number,
                kind: "build mode",
            })
    }
}

/// How a build ended. The numbers are the worker protocol's.
///
/// Source: nix `src/libstore/build-result.hh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BuildStatus {
    /// The builder ran, and its outputs are valid.
    Built = 0,
    /// The outputs were substituted.
    Substituted = 1,
    /// The outputs were valid already.
    AlreadyValid = 2,
    /// The builder failed.
    PermanentFailure = 3,
    /// The derivation cannot be built as it is.
    InputRejected = 4,
    /// An output is missing, forbidden, or has another hash than it should.
    OutputRejected = 5,
    /// It may succeed another time.
    TransientFailure = 6,
    /// It failed before (no Nix of today says this).
    CachedFailure = 7,
    /// It took too long, or was silent for too long.
    TimedOut = 8,
    /// Any other failure.
    MiscFailure = 9,
    /// An input could not be built.
    DependencyFailed = 10,
    /// The log grew too long.
    LogLimitExceeded = 11,
    /// A second run gave other outputs.
    NotDeterministic = 12,
    /// The resolved derivation's outputs were valid already.
    ResolvesToAlreadyValid = 13,
    /// No substituter has it, and it may not be built.
    NoSubstituters = 14,
}

impl BuildStatus {
    const ALL: [Self; 15] = [
        Self::Built,
        Self::Substituted,
        Self::AlreadyValid,
        Self::PermanentFailure,
        Self::InputRejected,
        Self::OutputRejected,
        Self::TransientFailure,
        Self::CachedFailure,
        Self::TimedOut,
        Self::MiscFailure,
        Self::DependencyFailed,
        Self::LogLimitExceeded,
        Self::NotDeterministic,
        Self::ResolvesToAlreadyValid,
        Self::NoSubstituters,
    ];

    /// Whether the outputs are valid now.
    pub const fn is_success(self) -> bool {
        matches!(
            self,
            Self::Built | Self::Substituted | Self::AlreadyValid | Self::ResolvesToAlreadyValid
        )
    }
}

impl TryFrom<u64> for BuildStatus {
    type Error = UnknownNumber;

    fn try_from(number: u64) -> Result<Self, UnknownNumber> {
        Self::ALL
            .into_iter()
            .find(|status| *status as u64 == number)
            .ok_or(UnknownNumber {
                number,
                kind: "build status",
            })
    }
}

/// How a build ended, and what it left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildResult {
    /// How it ended.
    pub status: BuildStatus,
    /// What went wrong, for people; empty on success.
    pub error_msg: String,
    /// How often the builder ran.
    pub times_built: u64,
    /// Whether several runs gave different outputs.
    pub is_non_deterministic: bool,
    /// When the builder started, in seconds since 1970; 0 if it did not.
    pub start_time: i64,
    /// When the builder ended, in seconds since 1970; 0 if it did not run.
    pub stop_time: i64,
    /// Time on the processor outside the kernel, if measured.
    pub cpu_user: Option<Duration>,
    /// Time on the processor inside the kernel, if measured.
    pub cpu_system: Option<Duration>,
    /// The outputs by name.
    pub built_outputs: BTreeMap<String, Realisation>,
}

impl BuildResult {
    /// A result without outputs, times and runs.
    pub fn new(status: BuildStatus, error_msg: impl Into<String>) -> Self {
        Self {
            status,
            error_msg: error_msg.into(),
            times_built: 0,
            is_non_deterministic: false,
            start_time: 0,
            stop_time: 0,
            cpu_user: None,
            cpu_system: None,
            built_outputs: BTreeMap::new(),
        }
    }

    /// Whether the outputs are valid now.
    pub const fn is_success(&self) -> bool {
        self.status.is_success()
    }
}

/// A result, and what had been asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyedBuildResult {
    /// What had been asked for.
    pub path: DerivedPath,
    /// What came of it.
    pub result: BuildResult,
}

/// Who is told what happens during builds. Builds that run at the same time
/// tell it one after the other.
pub trait BuildObserver: Send {
    /// A builder starts, in this mode.
    fn started(&mut self, drv: &StorePath, mode: BuildMode);

    /// A derivation is built as another: with the outputs of its input derivations in their place.
    fn resolved(&mut self, _drv: &StorePath, _resolved: &StorePath) {}

    /// A builder wrote a line to its log; the line's end is not part of it.
    fn log_line(&mut self, drv: &StorePath, line: &[u8]);

    /// A builder wrote a line to its log that is none, but a message of this meaning.
    fn builder_message(&mut self, _drv: &StorePath, _message: &BuilderMessage) {}

    /// How far the builds are, that were asked for together.
    fn progress(&mut self, _progress: BuildProgress) {}

    /// Something that the server of a store wants shown, without a line end.
    fn message(&mut self, _text: &[u8]) {}

    /// Something that was needed for what was asked for has failed: its error, which is not in the
    /// result.
    fn dependency_failed(&mut self, _error: &str) {}

    /// Outputs are valid, and the program that is run after builds is about to be told: whoever keeps
    /// them in another store has them there first.
    ///
    /// # Errors
    /// If they cannot be had there; that fails the build.
    fn outputs_made(&mut self, _outputs: &BTreeSet<StorePath>) -> Result<(), StoreError> {
        Ok(())
    }

    /// The program that is run after builds wrote a line; the line's end is not part of it.
    fn post_build_line(&mut self, _drv: &StorePath, _line: &[u8]) {}

    /// Something worth a line to the user, such as where a failed build's directory is kept.
    fn note(&mut self, _text: &str) {}

    /// A builder that had started has ended.
    fn finished(&mut self, drv: &StorePath, result: &BuildResult);

    /// Whether nobody waits for the builds any more, so that they are to be
    /// killed. Asked at least once a second while builders run.
    fn is_cancelled(&mut self) -> bool {
        false
    }
}

/// How far builds are that were asked for together; how many run shows in those that have started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BuildProgress {
    /// How many derivations are built, or were found to be.
    pub done: u64,
    /// How many there are to be done, as far as it is known, with those that are, and without those
    /// that have failed.
    pub expected: u64,
    /// How many have failed, or cannot be built since others have.
    pub failed: u64,
}

/// What a builder says to Nix, in a line of its log that begins with `@nix`. A builder is believed in
/// nothing but what it does itself.
///
/// Source: nix `src/libutil/logging.cc` (`handleJSONLogMessage`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuilderMessage {
    /// What it does from now on.
    Phase(String),
    /// Something for the user.
    Text {
        /// From which verbosity on it is shown: 0 errors, 1 warnings, … 7.
        level: u64,
        /// What.
        text: String,
    },
    /// It begins a download.
    Start {
        /// Its number; builders choose them.
        id: u64,
        /// From which verbosity on it is shown.
        level: u64,
        /// A text for people.
        text: String,
        /// Nix's details.
        fields: Vec<MessageField>,
    },
    /// It has ended a download.
    Stop {
        /// Its number.
        id: u64,
    },
    /// How far a download is.
    Result {
        /// Its number.
        id: u64,
        /// Nix's number of the kind of result.
        kind: u64,
        /// Nix's details.
        fields: Vec<MessageField>,
    },
    /// It is understood, and not for builders to say.
    Ignored,
}

/// A detail of a [`BuilderMessage`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessageField {
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
}

/// An observer that does nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl BuildObserver for Silent {
    fn started(&mut self, _drv: &StorePath, _mode: BuildMode) {}

    fn log_line(&mut self, _drv: &StorePath, _line: &[u8]) {}

    fn finished(&mut self, _drv: &StorePath, _result: &BuildResult) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_number_on_the_wire_and_no_other_has() {
        for (number, status) in (0..).zip(BuildStatus::ALL) {
            assert_eq!(BuildStatus::try_from(number), Ok(status));
        }
        assert!(BuildStatus::try_from(15).is_err());
        assert!(BuildMode::try_from(3).is_err());
    }
}
