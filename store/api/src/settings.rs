//! What a client wants for everything that it asks for.

use std::collections::BTreeMap;

/// Settings of Nix's that a client has chosen, by name, with the values that `nix.conf` would have.
///
/// Source: nix `src/libstore/daemon.cc` (`ClientSettings`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientSettings {
    /// What every client may choose for itself: `keep-failed`, `keep-going`, `fallback`,
    /// `max-jobs`, `max-silent-time`, `cores` and `substitute` have fields of their own in the
    /// protocol.
    pub own: BTreeMap<&'static str, String>,
    /// All others. Of these, a client that is not trusted may choose those that are
    /// [free](Self::is_free), and substituters that are trusted.
    pub others: BTreeMap<String, String>,
    /// Whether the client is trusted.
    pub is_trusted: bool,
}

impl ClientSettings {
    /// Whether every client may set this of the [others](Self::others): it concerns nobody else.
    pub fn is_free(name: &str, value: &str) -> bool {
        match name {
            "timeout" | "max-silent-time" | "build-poll-interval" | "connect-timeout" => true,
            "builders" => value.is_empty(),
            _ => false,
        }
    }

    /// Nix's words for a client that may not set this.
    pub fn restricted(name: &str) -> String {
        format!(
            "ignoring the client-specified setting '{name}', because it is a restricted setting and you are not a trusted user"
        )
    }
}
