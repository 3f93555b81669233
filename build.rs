//! Builds the shims, the runner and the builtin builders, which the `droste` program carries in itself.
//!
//! They are static, since a build's root has no libraries for them, and the same bytes for the
//! same source and compiler wherever the checkout is: the runner's store path is part of every
//! child's identity. So they are built by a Cargo of their own, with flags and a profile of their
//! own and none of the settings of the build around it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the inner Cargo needs from the environment.
const VARIABLES: &[&str] = &[
    "CARGO_HOME",
    "CARGO_MAKEFLAGS",
    "HOME",
    "LIBRARY_PATH",
    "PATH",
    "RUSTC",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TMPDIR",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// Where it gets its packages, by the beginnings of the variables' names.
const SOURCES: &[&str] = &[
    "CARGO_HTTP_",
    "CARGO_NET_",
    "CARGO_REGISTR",
    "CARGO_SOURCE_",
];

/// What the shims are made of.
const INPUTS: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "build.rs",
    "shims/cc/Cargo.toml",
    "shims/cc/build.rs",
    "shims/cc/src",
    "shims/core/Cargo.toml",
    "shims/core/src",
    "shims/runner/Cargo.toml",
    "shims/runner/src",
    "shims/builtins/Cargo.toml",
    "shims/builtins/src",
    "shims/nix/Cargo.toml",
    "shims/nix/src",
    "src/sys",
    "store/api/Cargo.toml",
    "store/api/src",
    "store/client/Cargo.toml",
    "store/client/src",
    "store/nar/Cargo.toml",
    "store/nar/src",
    "store/types/Cargo.toml",
    "store/types/src",
    "store/wire/Cargo.toml",
    "store/wire/src",
];

/// The programs: package, profile, and the variable that tells the crate where it is.
fn programs() -> [(&'static str, &'static str, &'static str); 4] {
    // These are part of no child's identity, and take long to optimize.
    let large = match variable("OPT_LEVEL").to_str() {
        Some("0" | "1") => "builtins-quick",
        _ => "builtins",
    };
    [
        ("shim-cc", "shim", "DROSTE_SHIM_CC"),
        ("shim-runner", "shim", "DROSTE_RUNNER"),
        ("shim-builtins", large, "DROSTE_BUILTINS"),
        ("shim-nix", large, "DROSTE_SHIM_NIX"),
    ]
}

fn main() {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let target_dir = PathBuf::from(variable("OUT_DIR")).join("shims");
    let target = variable("TARGET");
    for input in INPUTS {
        println!("cargo::rerun-if-changed={input}");
    }
    // One by one, or the runner's libraries would bring the standard library into the shim.
    for (package, profile, _) in programs() {
        let status = Command::new(variable("CARGO"))
            .current_dir(&root)
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| is_passed_on(name)))
            .env("CARGO_ENCODED_RUSTFLAGS", rust_flags(&root))
            // Set, so that a user's configuration does not name one.
            .env("RUSTC_WRAPPER", "")
            .env("RUSTC_WORKSPACE_WRAPPER", "")
            .args(["build", "--quiet", "--locked", "--profile", profile])
            .args(["--package", package])
            .arg("--target")
            .arg(&target)
            .arg("--target-dir")
            .arg(&target_dir)
            .status()
            .expect("Cargo can be run again");
        assert!(status.success(), "`{package}` does not build");
    }
    let built = target_dir.join(target);
    for (package, profile, name) in programs() {
        let program = built.join(profile).join(package);
        println!("cargo::rustc-env={name}={}", program.display());
    }
}

fn variable(name: &str) -> OsString {
    std::env::var_os(name).unwrap_or_else(|| panic!("Cargo sets `{name}`"))
}

fn is_passed_on(name: &OsString) -> bool {
    let name = name.to_string_lossy();
    VARIABLES.contains(&&*name) || SOURCES.iter().any(|prefix| name.starts_with(prefix))
}

fn rust_flags(root: &Path) -> OsString {
    let cargo_home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| {
            let home = std::env::var_os("HOME")?;
            Some(Path::new(&home).join(".cargo"))
        });
    let mut flags: Vec<OsString> = [
        "-Ctarget-feature=+crt-static",
        // Nothing to relocate at each start.
        "-Crelocation-model=static",
        "-Clink-arg=-Wl,--build-id=none",
    ]
    .map(OsString::from)
    .into();
    let places = [(Some(root.to_owned()), "/droste"), (cargo_home, "/cargo")];
    for (place, name) in places {
        if let Some(place) = place {
            let mut flag = OsString::from("--remap-path-prefix=");
            flag.push(place);
            flag.push("=");
            flag.push(name);
            flags.push(flag);
        }
    }
    flags.join("\u{1f}".as_ref())
}
