//! Which shim is tested.

/// The program's file: in the tests of `droste`, the shim that it carries; else a build for tests,
/// which differs in that the standard library catches panics.
pub fn file() -> &'static str {
    option_env!("DROSTE_SHIM_CC")
        .or(option_env!("CARGO_BIN_EXE_shim-cc"))
        .expect("Cargo sets one of them")
}
