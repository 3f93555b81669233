//! A build that another Nix runs.
//!
//! If it may ask that Nix for builds (`recursive-nix`), there is a socket, and beside the shims a
//! program that has the call built by way of it. That needs more than there is here.

use alloc::vec::Vec;

use droste_start::{Start, StringList};

use crate::in_place::own_file;
use crate::paths::{c_string, parent};

/// Where the program lies, from the directory above the shims'.
const PROGRAM: &[u8] = b"/libexec/droste-nix";

/// Becomes that program; comes back if there is nothing of the kind.
pub fn hand_over(start: &Start) {
    let socket = start.variable(b"NIX_REMOTE").unwrap_or_default();
    if !socket.starts_with(b"unix://") {
        return;
    }
    let Ok(own) = own_file() else { return };
    let program: Vec<u8> = [parent(parent(own.to_bytes())), PROGRAM].concat();
    let program = c_string(program);
    let arguments: StringList = [&*program, start.executed()]
        .into_iter()
        .chain(start.arguments())
        .collect();
    let _ = droste_start::execute(&program, arguments.as_strings(), start.environment());
}
