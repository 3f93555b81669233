//! Features of the protocol, by the names that both sides of a handshake send.
//!
//! Source: nix `src/libstore/include/nix/store/worker-protocol.hh`.

/// The operation [`AddToStoreScanning`](crate::Request::AddToStoreScanning).
pub const ADD_TO_STORE_SCANNING: &str = "add-to-store-scanning";

/// The operation [`SubmitOutput`](crate::Request::SubmitOutput).
pub const SUBMIT_OUTPUT: &str = "submit-output";

/// Clients do not send `SetOptions`, which would have no effect.
pub const DISABLE_SET_OPTIONS: &str = "disable-set-options";

/// Realisations are keyed by the path of their derivation. This changes the messages of
/// `QueryRealisation`, `RegisterDrvOutput` and results of builds, and no other.
pub const REALISATION_WITH_PATH: &str = "realisation-with-path-not-hash";
