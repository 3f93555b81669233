//! What the compiler shim becomes in a build that another Nix runs and that may ask for builds
//! (`recursive-nix`): it has the call built as a derivation, by way of that Nix's socket.
//!
//! ```text
//! droste-nix SHIM ARGV0 ARGUMENTS...
//! ```
//!
//! It does what the executor does for a plain compile, with less: the call is classified by
//! `shim_core::args`, its inputs are found by `shim_core::scan` and added to the store as one
//! object, and a content-addressed derivation that has them, the compiler and the runner as
//! sources is built. What was built before is found by Nix. Whatever is not understood, or goes
//! wrong, ends in the compiler itself, as if neither of the two programs were there.
//!
//! There is no memory between two calls and nobody to share one, so a call that is found costs
//! some conversations with Nix, and a miss all that Nix needs for a build: see
//! `docs/adr/0016-protocol-inside-builds.md`.

mod child;
mod compiler;
mod inputs;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use shim_core::client::{DISABLE_VARIABLE, VERBOSE_VARIABLE};

/// The directory of a build, in which all of its own files are.
const BUILD_DIR: &str = "/build";

/// Why the compiler itself runs.
#[derive(Debug)]
struct InPlace(String);

impl InPlace {
    fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }

    /// For `map_err`: what could not be done.
    fn cannot<E: fmt::Display>(action: impl Into<String>) -> impl FnOnce(E) -> Self {
        let action = action.into();
        move |error| Self(format!("cannot {action}: {error}"))
    }
}

impl fmt::Display for InPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The call.
struct Call {
    /// The path by which the shim was executed.
    shim: PathBuf,
    /// The program's name first.
    argv: Vec<Vec<u8>>,
    /// Each `NAME=VALUE`.
    env: Vec<Vec<u8>>,
    cwd: PathBuf,
}

impl Call {
    fn variable(&self, name: &str) -> Option<&[u8]> {
        self.env.iter().find_map(|entry| {
            let value = entry.strip_prefix(name.as_bytes())?;
            value.strip_prefix(b"=")
        })
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let Some(shim) = arguments.next().map(PathBuf::from) else {
        eprintln!("droste: this program is started by a compiler shim");
        return ExitCode::FAILURE;
    };
    let arguments: Vec<OsString> = arguments.collect();
    match answer(&shim, &arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => become_compiler(&shim, &arguments, &reason),
    }
}

fn answer(shim: &Path, arguments: &[OsString]) -> Result<(), InPlace> {
    let env = std::env::vars_os().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        name.into_vec()
    });
    let call = Call {
        shim: shim.to_owned(),
        argv: arguments
            .iter()
            .map(|argument| argument.as_bytes().to_vec())
            .collect(),
        env: env.collect(),
        cwd: std::env::current_dir().map_err(InPlace::cannot("find the current directory"))?,
    };
    let compiler = compiler::find(&call)?;
    let found = inputs::collect(&call, &compiler)?;
    let store = child::Store::connect(&call)?;
    child::answer(&call, &store, &compiler, &found)
}

/// The shim finds the compiler, and asks nobody.
fn become_compiler(shim: &Path, arguments: &[OsString], reason: &InPlace) -> ExitCode {
    if std::env::var_os(VERBOSE_VARIABLE).is_some() {
        eprintln!("droste: in place: {reason}");
    }
    let name = arguments
        .first()
        .map_or(OsStr::new("cc"), OsString::as_os_str);
    let error = Command::new(shim)
        .arg0(name)
        .args(arguments.iter().skip(1))
        .env(DISABLE_VARIABLE, "1")
        .exec();
    eprintln!("droste: cannot execute `{}`: {error}", shim.display());
    ExitCode::from(127)
}
