//! The programs that `droste` carries in itself (built by `build.rs`): static, for the machine
//! that `droste` is built for.

/// The C and C++ compiler shim.
pub const SHIM_CC: &[u8] = include_bytes!(env!("DROSTE_SHIM_CC"));

/// The builder of child derivations.
pub const RUNNER: &[u8] = include_bytes!(env!("DROSTE_RUNNER"));

/// What the shim becomes in a build by another Nix.
pub const SHIM_NIX: &[u8] = include_bytes!(env!("DROSTE_SHIM_NIX"));

/// The builders that derivations name as `builtin:…`.
pub const BUILTINS: &[u8] = include_bytes!(env!("DROSTE_BUILTINS"));
