//! What clients inside a build may ask for, and what is agreed on with them.
//!
//! Source: nix `src/libstore/daemon.cc` (`performOp`, `processConnection`), `worker-protocol.cc`.

use store_api::BuildStore;
use store_wire::feature;

/// What all of them may ask for. `SetOptions`, which Nix does not let those that only submit ask
/// for, has no effect here: Nix before 2.36 sends it unasked.
const OPERATIONS: [&str; 7] = [
    "AddToStore",
    "AddMultipleToStore",
    "AddToStoreNar",
    "AddToStoreScanning",
    "AddTempRoot",
    "IsValidPath",
    "SetOptions",
];

/// The features that are offered.
pub(crate) fn features(store: &dyn BuildStore) -> &'static [&'static str] {
    match (store.builds_inside(), store.submits()) {
        (true, false) => &[
            feature::ADD_TO_STORE_SCANNING,
            feature::DISABLE_SET_OPTIONS,
            feature::REALISATION_WITH_PATH,
        ],
        // Nix's version of the protocol for builds that only submit.
        _ => &[
            feature::ADD_TO_STORE_SCANNING,
            feature::DISABLE_SET_OPTIONS,
            feature::REALISATION_WITH_PATH,
            feature::SUBMIT_OUTPUT,
        ],
    }
}

/// Whether an operation, by Nix's name, may be asked for.
pub(crate) fn permits(store: &dyn BuildStore, operation: &str) -> bool {
    match operation {
        "SubmitOutput" => store.submits(),
        _ => store.builds_inside() || OPERATIONS.contains(&operation),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use store_api::StoreError;
    use store_types::{ContentAddressMethod, HashAlgorithm, PathInfo, SingleDerivedPath};

    use super::*;

    struct View {
        builds_inside: bool,
        submits: bool,
    }

    impl BuildStore for View {
        fn builds_inside(&self) -> bool {
            self.builds_inside
        }

        fn submits(&self) -> bool {
            self.submits
        }

        fn add_scanning(
            &self,
            _name: &str,
            _method: ContentAddressMethod,
            _algorithm: HashAlgorithm,
            _dump: &mut dyn Read,
        ) -> Result<PathInfo, StoreError> {
            let operation = "AddToStoreScanning";
            Err(StoreError::Refused { operation })
        }

        fn submit_output(&self, _: &SingleDerivedPath, _: &str) -> Result<(), StoreError> {
            let operation = "SubmitOutput";
            Err(StoreError::Refused { operation })
        }
    }

    fn view(builds_inside: bool, submits: bool) -> View {
        View {
            builds_inside,
            submits,
        }
    }

    #[test]
    fn a_build_that_only_submits_may_add_and_no_more() {
        let only = view(false, true);
        for operation in [
            "AddToStore",
            "AddToStoreScanning",
            "SubmitOutput",
            "SetOptions",
        ] {
            assert!(permits(&only, operation), "{operation}");
        }
        for operation in [
            "BuildPaths",
            "BuildPathsWithResults",
            "QueryPathInfo",
            "QueryMissing",
            "NarFromPath",
            "AddTextToStore",
            "AddBuildLog",
        ] {
            assert!(!permits(&only, operation), "{operation}");
        }
    }

    #[test]
    fn a_build_that_may_ask_for_builds_submits_only_if_it_may() {
        assert!(permits(&view(true, false), "BuildPaths"));
        assert!(!permits(&view(true, false), "SubmitOutput"));
        assert!(permits(&view(true, true), "BuildPaths"));
        assert!(permits(&view(true, true), "SubmitOutput"));
        assert!(!features(&view(true, false)).contains(&feature::SUBMIT_OUTPUT));
        assert!(features(&view(true, true)).contains(&feature::SUBMIT_OUTPUT));
    }

    /// Source: nix `src/libstore/worker-protocol.cc` (`builderRpcV0`).
    #[test]
    fn who_only_submits_is_offered_what_nix_offers() {
        let nix = [
            "add-to-store-scanning",
            "disable-set-options",
            "realisation-with-path-not-hash",
            "submit-output",
        ];
        assert_eq!(features(&view(false, true)), nix);
    }
}
