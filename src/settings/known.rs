//! The settings that Nix 2.8, 2.26 and 2.34 have.

/// The form of a setting's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true`, `yes` or `1`; `false`, `no` or `0`.
    Bool,
    /// A number below 2^32, with K, M, G, T or without.
    Unsigned32,
    /// A number below 2^64, with K, M, G, T or without.
    Unsigned64,
    /// A number that may be negative, with K, M, G, T or without.
    Signed64,
    /// A number below 2^32, or `auto` for the number of processors.
    Jobs,
    /// Any text.
    Text,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A path, not empty.
    AnyPath,
    /// An absolute path.
    Path,
    /// An absolute path or nothing.
    OptionalPath,
    /// Words in order, to which `extra-NAME` adds.
    List,
    /// Words without an order, to which `extra-NAME` adds.
    Set,
    /// Paths in order; `extra-NAME` is not known.
    Paths,
    /// Paths without an order; `extra-NAME` is not known.
    PathSet,
    /// `NAME=VALUE` pairs, to which `extra-NAME` adds.
    Map,
    /// Names of experimental features, to which `extra-NAME` adds.
    Features,
    /// `INSIDE=OUTSIDE?`, to which `extra-NAME` adds.
    SandboxPaths,
    /// The URL of a store.
    Store,
    /// URLs of stores in order, to which `extra-NAME` adds.
    Stores,
    /// URLs of stores without an order, to which `extra-NAME` adds.
    StoreSet,
    /// A list in JSON.
    Json,
}

impl Kind {
    /// Whether `extra-NAME` adds to the value.
    pub const fn is_appendable(self) -> bool {
        matches!(
            self,
            Self::List
                | Self::Set
                | Self::Map
                | Self::Features
                | Self::SandboxPaths
                | Self::Stores
                | Self::StoreSet
        )
    }
}

/// What a setting is when nobody has set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    /// Always this, as it would be written.
    Fixed(&'static str),
    /// It depends on the machine and on who runs there.
    Computed,
}

/// A setting.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Its name.
    pub name: &'static str,
    /// The form of its value.
    pub kind: Kind,
    /// What it is when nobody has set it.
    pub default: Default,
    /// Its other names.
    pub aliases: &'static [&'static str],
    /// The experimental feature without which it is ignored.
    pub feature: Option<&'static str>,
}

const fn row(
    name: &'static str,
    kind: Kind,
    default: Default,
    aliases: &'static [&'static str],
    feature: Option<&'static str>,
) -> Known {
    Known {
        name,
        kind,
        default,
        aliases,
        feature,
    }
}

const SANDBOX: &[&str] = &["true", "relaxed", "false"];
const LINT: &[&str] = &["ignore", "warn", "fatal"];
const PROFILER: &[&str] = &["disabled", "flamegraph"];

/// The experimental features of Nix 2.34.
///
/// Source: nix `src/libutil/experimental-features.cc`.
pub const fn experimental_features() -> &'static [&'static str] {
    &[
        "auto-allocate-uids",
        "blake3-hashes",
        "ca-derivations",
        "cgroups",
        "configurable-impure-env",
        "daemon-trust-override",
        "dynamic-derivations",
        "external-builders",
        "fetch-closure",
        "fetch-tree",
        "flakes",
        "git-hashing",
        "impure-derivations",
        "local-overlay-store",
        "mounted-ssh-store",
        "nix-command",
        "parse-toml-timestamps",
        "pipe-operators",
        "read-only-local-store",
        "recursive-nix",
        "verified-fetches",
    ]
}

/// All settings, sorted by name. `repeat` and `enforce-determinism` are of 2.8 only.
///
/// The defaults are those of 2.34.8 in its own build; where Droste has others, see
/// [`Config::set_default`](crate::Config::set_default).
#[rustfmt::skip]
pub const KNOWN: &[Known] = &[
    row("abort-on-warn", Kind::Bool, Default::Fixed("false"), &[], None),
    row("accept-flake-config", Kind::Bool, Default::Fixed("false"), &[], Some("flakes")),
    row("access-tokens", Kind::Map, Default::Fixed(""), &[], None),
    row("allow-dirty", Kind::Bool, Default::Fixed("true"), &[], None),
    row("allow-dirty-locks", Kind::Bool, Default::Fixed("false"), &[], Some("flakes")),
    row("allow-import-from-derivation", Kind::Bool, Default::Fixed("true"), &[], None),
    row("allow-new-privileges", Kind::Bool, Default::Fixed("false"), &[], None),
    row("allow-symlinked-store", Kind::Bool, Default::Computed, &[], None),
    row("allow-unsafe-native-code-during-evaluation", Kind::Bool, Default::Fixed("false"), &[], None),
    row("allowed-impure-host-deps", Kind::PathSet, Default::Fixed(""), &[], None),
    row("allowed-uris", Kind::List, Default::Fixed(""), &[], None),
    row("allowed-users", Kind::List, Default::Fixed("*"), &[], None),
    row("always-allow-substitutes", Kind::Bool, Default::Fixed("false"), &[], None),
    row("auto-allocate-uids", Kind::Bool, Default::Fixed("false"), &[], Some("auto-allocate-uids")),
    row("auto-optimise-store", Kind::Bool, Default::Fixed("false"), &[], None),
    row("bash-prompt", Kind::Text, Default::Fixed(""), &[], None),
    row("bash-prompt-prefix", Kind::Text, Default::Fixed(""), &[], None),
    row("bash-prompt-suffix", Kind::Text, Default::Fixed(""), &[], None),
    row("build-dir", Kind::OptionalPath, Default::Fixed(""), &[], None),
    row("build-hook", Kind::List, Default::Fixed(""), &[], None),
    row("build-poll-interval", Kind::Unsigned32, Default::Fixed("5"), &[], None),
    row("build-users-group", Kind::Text, Default::Computed, &[], None),
    row("builders", Kind::Text, Default::Computed, &[], None),
    row("builders-use-substitutes", Kind::Bool, Default::Fixed("false"), &[], None),
    row("commit-lock-file-summary", Kind::Text, Default::Fixed(""), &["commit-lockfile-summary"], Some("flakes")),
    row("compress-build-log", Kind::Bool, Default::Fixed("true"), &["build-compress-log"], None),
    row("connect-timeout", Kind::Unsigned64, Default::Fixed("15"), &[], None),
    row("cores", Kind::Unsigned32, Default::Fixed("0"), &["build-cores"], None),
    row("debugger-on-trace", Kind::Bool, Default::Fixed("false"), &[], None),
    row("debugger-on-warn", Kind::Bool, Default::Fixed("false"), &[], None),
    row("diff-hook", Kind::OptionalPath, Default::Fixed(""), &[], None),
    row("download-attempts", Kind::Unsigned32, Default::Fixed("5"), &[], None),
    row("download-buffer-size", Kind::Unsigned64, Default::Fixed("1048576"), &[], None),
    row("download-speed", Kind::Unsigned32, Default::Fixed("0"), &[], None),
    row("enforce-determinism", Kind::Bool, Default::Fixed("true"), &[], None),
    row("eval-attrset-update-layer-rhs-threshold", Kind::Unsigned32, Default::Fixed("16"), &[], None),
    row("eval-cache", Kind::Bool, Default::Fixed("true"), &[], None),
    row("eval-profile-file", Kind::AnyPath, Default::Fixed("nix.profile"), &[], None),
    row("eval-profiler", Kind::Choice(PROFILER), Default::Fixed("disabled"), &[], None),
    row("eval-profiler-frequency", Kind::Unsigned32, Default::Fixed("99"), &[], None),
    row("eval-system", Kind::Text, Default::Fixed(""), &[], None),
    row("experimental-features", Kind::Features, Default::Fixed(""), &[], None),
    row("external-builders", Kind::Json, Default::Fixed("[]"), &[], None),
    row("extra-platforms", Kind::Set, Default::Computed, &[], None),
    row("fallback", Kind::Bool, Default::Fixed("false"), &["build-fallback"], None),
    row("filter-syscalls", Kind::Bool, Default::Fixed("true"), &[], None),
    row("flake-registry", Kind::Text, Default::Fixed("https://channels.nixos.org/flake-registry.json"), &[], Some("flakes")),
    row("fsync-metadata", Kind::Bool, Default::Fixed("true"), &[], None),
    row("fsync-store-paths", Kind::Bool, Default::Fixed("false"), &[], None),
    row("gc-reserved-space", Kind::Signed64, Default::Fixed("8388608"), &[], None),
    row("hashed-mirrors", Kind::List, Default::Fixed(""), &[], None),
    row("http-connections", Kind::Unsigned64, Default::Fixed("25"), &["binary-caches-parallel-connections"], None),
    row("http2", Kind::Bool, Default::Fixed("true"), &[], None),
    row("id-count", Kind::Unsigned32, Default::Fixed("8388608"), &[], None),
    row("ignore-try", Kind::Bool, Default::Fixed("false"), &[], None),
    row("ignored-acls", Kind::Set, Default::Fixed("security.csm security.selinux system.nfs4_acl"), &[], None),
    row("impersonate-linux-26", Kind::Bool, Default::Fixed("false"), &["build-impersonate-linux-26"], None),
    row("impure-env", Kind::Map, Default::Fixed(""), &[], Some("configurable-impure-env")),
    row("json-log-path", Kind::OptionalPath, Default::Fixed(""), &[], None),
    row("keep-build-log", Kind::Bool, Default::Fixed("true"), &["build-keep-log"], None),
    row("keep-derivations", Kind::Bool, Default::Fixed("true"), &["gc-keep-derivations"], None),
    row("keep-env-derivations", Kind::Bool, Default::Fixed("false"), &["env-keep-derivations"], None),
    row("keep-failed", Kind::Bool, Default::Fixed("false"), &[], None),
    row("keep-going", Kind::Bool, Default::Fixed("false"), &[], None),
    row("keep-outputs", Kind::Bool, Default::Fixed("false"), &["gc-keep-outputs"], None),
    row("lint-absolute-path-literals", Kind::Choice(LINT), Default::Fixed("ignore"), &[], None),
    row("lint-short-path-literals", Kind::Choice(LINT), Default::Fixed("ignore"), &[], None),
    row("lint-url-literals", Kind::Choice(LINT), Default::Fixed("ignore"), &[], None),
    row("log-lines", Kind::Unsigned64, Default::Fixed("25"), &[], None),
    row("max-build-log-size", Kind::Unsigned64, Default::Fixed("0"), &["build-max-log-size"], None),
    row("max-call-depth", Kind::Unsigned32, Default::Fixed("10000"), &[], None),
    row("max-free", Kind::Unsigned64, Default::Fixed("9223372036854775807"), &[], None),
    row("max-jobs", Kind::Jobs, Default::Computed, &["build-max-jobs"], None),
    row("max-silent-time", Kind::Signed64, Default::Fixed("0"), &["build-max-silent-time"], None),
    row("max-substitution-jobs", Kind::Unsigned32, Default::Fixed("16"), &["substitution-max-jobs"], None),
    row("min-free", Kind::Unsigned64, Default::Fixed("0"), &[], None),
    row("min-free-check-interval", Kind::Unsigned64, Default::Fixed("5"), &[], None),
    row("nar-buffer-size", Kind::Unsigned64, Default::Fixed("33554432"), &[], None),
    row("narinfo-cache-meta-ttl", Kind::Unsigned32, Default::Fixed("604800"), &[], None),
    row("narinfo-cache-negative-ttl", Kind::Unsigned32, Default::Fixed("3600"), &[], None),
    row("narinfo-cache-positive-ttl", Kind::Unsigned32, Default::Fixed("2592000"), &[], None),
    row("netrc-file", Kind::Path, Default::Computed, &[], None),
    row("nix-path", Kind::List, Default::Fixed(""), &[], None),
    row("nix-shell-always-looks-for-shell-nix", Kind::Bool, Default::Fixed("true"), &[], None),
    row("nix-shell-shebang-arguments-relative-to-script", Kind::Bool, Default::Fixed("true"), &[], None),
    row("plugin-files", Kind::Paths, Default::Fixed(""), &[], None),
    row("post-build-hook", Kind::Text, Default::Fixed(""), &[], None),
    row("pre-build-hook", Kind::Text, Default::Fixed(""), &[], None),
    row("preallocate-contents", Kind::Bool, Default::Fixed("false"), &[], None),
    row("print-missing", Kind::Bool, Default::Fixed("true"), &[], None),
    row("pure-eval", Kind::Bool, Default::Fixed("false"), &[], None),
    row("repeat", Kind::Unsigned64, Default::Fixed("0"), &["build-repeat"], None),
    row("require-drop-supplementary-groups", Kind::Bool, Default::Computed, &[], None),
    row("require-sigs", Kind::Bool, Default::Fixed("true"), &[], None),
    row("restrict-eval", Kind::Bool, Default::Fixed("false"), &[], None),
    row("run-diff-hook", Kind::Bool, Default::Fixed("false"), &[], None),
    row("sandbox", Kind::Choice(SANDBOX), Default::Fixed("true"), &["build-use-chroot", "build-use-sandbox"], None),
    row("sandbox-build-dir", Kind::Path, Default::Fixed("/build"), &[], None),
    row("sandbox-dev-shm-size", Kind::Text, Default::Fixed("50%"), &[], None),
    row("sandbox-fallback", Kind::Bool, Default::Fixed("true"), &[], None),
    row("sandbox-paths", Kind::SandboxPaths, Default::Computed, &["build-chroot-dirs", "build-sandbox-paths"], None),
    row("secret-key-files", Kind::List, Default::Fixed(""), &[], None),
    row("show-trace", Kind::Bool, Default::Fixed("false"), &[], None),
    row("ssl-cert-file", Kind::OptionalPath, Default::Computed, &[], None),
    row("stalled-download-timeout", Kind::Unsigned64, Default::Fixed("300"), &[], None),
    row("start-id", Kind::Unsigned32, Default::Fixed("872415232"), &[], None),
    row("store", Kind::Store, Default::Computed, &[], None),
    row("substitute", Kind::Bool, Default::Fixed("true"), &["build-use-substitutes"], None),
    row("substituters", Kind::Stores, Default::Fixed("https://cache.nixos.org/"), &["binary-caches"], None),
    row("sync-before-registering", Kind::Bool, Default::Fixed("false"), &[], None),
    row("system", Kind::Text, Default::Computed, &[], None),
    row("system-features", Kind::Set, Default::Computed, &[], None),
    row("tarball-ttl", Kind::Unsigned32, Default::Fixed("3600"), &[], None),
    row("timeout", Kind::Signed64, Default::Fixed("0"), &["build-timeout"], None),
    row("trace-function-calls", Kind::Bool, Default::Fixed("false"), &[], None),
    row("trace-import-from-derivation", Kind::Bool, Default::Fixed("false"), &[], None),
    row("trace-verbose", Kind::Bool, Default::Fixed("false"), &[], None),
    row("trust-tarballs-from-git-forges", Kind::Bool, Default::Fixed("true"), &[], None),
    row("trusted-public-keys", Kind::List, Default::Fixed("cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="), &["binary-cache-public-keys"], None),
    row("trusted-substituters", Kind::StoreSet, Default::Fixed(""), &["trusted-binary-caches"], None),
    row("trusted-users", Kind::List, Default::Fixed("root"), &[], None),
    row("upgrade-nix-store-path-url", Kind::Text, Default::Fixed("https://github.com/NixOS/nixpkgs/raw/master/nixos/modules/installer/tools/nix-fallback-paths.nix"), &[], None),
    row("use-case-hack", Kind::Bool, Default::Fixed("false"), &[], None),
    row("use-cgroups", Kind::Bool, Default::Fixed("false"), &[], None),
    row("use-registries", Kind::Bool, Default::Fixed("true"), &[], Some("flakes")),
    row("use-sqlite-wal", Kind::Bool, Default::Fixed("true"), &[], None),
    row("use-xdg-base-directories", Kind::Bool, Default::Fixed("false"), &[], None),
    row("user-agent-suffix", Kind::Text, Default::Fixed(""), &[], None),
    row("warn-dirty", Kind::Bool, Default::Fixed("true"), &[], None),
    row("warn-large-path-threshold", Kind::Unsigned64, Default::Fixed("0"), &[], None),
    row("warn-short-path-literals", Kind::Bool, Default::Fixed("false"), &[], None),
];

/// The setting of this name or alias, and whether it is to be added to.
pub fn find(name: &str) -> Option<(&'static Known, bool)> {
    let by_name = |name: &str| {
        KNOWN
            .iter()
            .find(|known| known.name == name || known.aliases.contains(&name))
    };
    // `extra-platforms` is a setting, and no addition to `platforms`.
    match by_name(name) {
        Some(known) => Some((known, false)),
        None => by_name(name.strip_prefix("extra-")?)
            .filter(|known| known.kind.is_appendable())
            .map(|known| (known, true)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Value;

    #[test]
    fn names_are_sorted_and_no_name_or_alias_is_there_twice() {
        let names: Vec<_> = KNOWN.iter().map(|known| known.name).collect();
        assert!(names.is_sorted());
        let mut all: Vec<_> = KNOWN
            .iter()
            .flat_map(|known| known.aliases.iter().chain([&known.name]))
            .collect();
        let len = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), len);
    }

    #[test]
    fn every_default_is_a_value_and_every_feature_exists() {
        for known in KNOWN {
            if let Default::Fixed(text) = known.default {
                Value::parse(known.name, known.kind, text, 1, &mut |text| {
                    panic!("{text}")
                })
                .unwrap();
            }
            if let Some(feature) = known.feature {
                assert!(experimental_features().contains(&feature));
            }
        }
    }

    #[test]
    fn names_aliases_and_additions_are_told_apart() {
        let found = |name| find(name).map(|(known, is_added)| (known.name, is_added));
        assert_eq!(found("build-cores"), Some(("cores", false)));
        assert_eq!(found("extra-platforms"), Some(("extra-platforms", false)));
        assert_eq!(
            found("extra-extra-platforms"),
            Some(("extra-platforms", true))
        );
        assert_eq!(
            found("extra-build-sandbox-paths"),
            Some(("sandbox-paths", true))
        );
        for unknown in [
            "extra-sandbox",
            "extra-plugin-files",
            "extra-",
            "",
            "extra-nonsense",
        ] {
            assert_eq!(found(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn the_documentation_lists_every_setting() {
        let text = include_str!("../../docs/settings.md");
        for known in KNOWN {
            let row = format!("| `{}` |", known.name);
            assert!(text.contains(&row), "{row}");
        }
    }
}
