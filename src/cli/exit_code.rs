//! Exit codes: Nix's.
//!
//! Source: nix manual, "status-build-failure"; nix 2.34 `src/libstore/build/worker.cc`,
//! checked with `nix-build -k` of failing derivations.

use droste_executor::BuildError;
use store_api::BuildStatus;

/// All went well.
pub const SUCCESS: u8 = 0;
/// Anything but a failed build, a wrong command line included.
pub const FAILURE: u8 = 1;

/// Set in every code of a failed build.
const BUILDS: u8 = 0x60;
/// Some builder failed, in whatever way.
const FAILED: u8 = 0x04;
const TIMED_OUT: u8 = 0x01;
const HASH_MISMATCH: u8 = 0x02;
const NOT_DETERMINISTIC: u8 = 0x08;

/// The code for these failures together: 100 if builders failed, 101 if some ran too
/// long, 102 if fixed outputs had other hashes, 104 if rebuilds gave other outputs,
/// or all those that apply, or-ed; 1 if none applies.
pub fn of_failures<'a>(errors: impl IntoIterator<Item = &'a BuildError>) -> u8 {
    let mut mask = 0;
    for error in errors {
        mask |= match (error, error.status()) {
            (BuildError::HashMismatch { .. }, _) => FAILED | HASH_MISMATCH,
            (_, BuildStatus::PermanentFailure | BuildStatus::InputRejected) => FAILED,
            (_, BuildStatus::TimedOut) => FAILED | TIMED_OUT,
            (_, BuildStatus::NotDeterministic) => NOT_DETERMINISTIC,
            _ => 0,
        };
    }
    match mask {
        0 => FAILURE,
        mask => BUILDS | mask,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use store_types::sha256;

    fn drv() -> String {
        "/nix/store/0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-x.drv".into()
    }

    fn failed() -> BuildError {
        BuildError::BuilderFailed {
            note: "",
            is_transient: false,
            drv: drv(),
            how: "failed with exit code 1".into(),
            log: String::new(),
        }
    }

    fn mismatch() -> BuildError {
        BuildError::HashMismatch {
            drv: drv(),
            specified: sha256(b"a").to_sri(),
            got: sha256(b"b").to_sri(),
        }
    }

    fn differs() -> BuildError {
        BuildError::NotDeterministic {
            drv: drv(),
            path: drv(),
            kept: String::new(),
        }
    }

    #[test]
    fn one_failure_has_the_code_that_the_manual_gives_it() {
        assert_eq!(of_failures([&failed()]), 100);
        assert_eq!(of_failures([&mismatch()]), 102);
        assert_eq!(of_failures([&differs()]), 104);
        let unsupported = BuildError::Rejected {
            drv: drv(),
            why: "of the system".into(),
        };
        assert_eq!(of_failures([&unsupported]), 100);
    }

    #[test]
    fn a_missing_output_and_what_follows_from_a_failure_count_for_nothing() {
        let missing = BuildError::MissingOutput {
            drv: drv(),
            output: "out".into(),
            path: drv(),
            log: String::new(),
        };
        let follows = BuildError::InputFailed {
            drv: drv(),
            input: drv(),
        };
        assert_eq!(of_failures([&missing]), 1);
        assert_eq!(of_failures([&follows]), 1);
        assert_eq!(of_failures([&follows, &failed()]), 100);
        assert_eq!(of_failures([&missing, &failed()]), 100);
        assert_eq!(of_failures([]), 1);
    }

    #[test]
    fn failures_of_several_kinds_are_told_together() {
        assert_eq!(of_failures([&failed(), &mismatch()]), 102);
        assert_eq!(of_failures([&failed(), &differs()]), 108);
        assert_eq!(of_failures([&mismatch(), &differs()]), 110);
    }
}
