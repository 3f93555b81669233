//! `droste-remote`: `droste remote`, under a name without spaces and arguments, which is all that
//! every Nix can be told of a remote builder's program.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The status of a shell whose command was not found.
const NOT_FOUND: u8 = 127;

fn main() -> ExitCode {
    let program = beside().unwrap_or_else(|| PathBuf::from("droste"));
    let error = Command::new(&program)
        .arg("remote")
        .args(std::env::args_os().skip(1))
        .exec();
    eprintln!(
        "droste-remote: cannot run `{}`, which should be beside this program: {error}",
        program.display()
    );
    ExitCode::from(NOT_FOUND)
}

/// The program that this one was installed with.
fn beside() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    let program = own.parent().map(|dir: &Path| dir.join("droste"))?;
    program.exists().then_some(program)
}
