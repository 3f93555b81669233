//! The builders that derivations name instead of a program: `builtin:fetchurl`,
//! `builtin:buildenv` and `builtin:unpack-channel`.
//!
//! The executor runs this program in a sandbox like any other builder's, in its place
//! (docs/adr/0015-builtin-builders.md): what it gets are the builder's environment and the
//! derivation, and all that it can reach is what a builder could.
//!
//! What the builders do, and the texts of their failures, are those of Nix 2.34
//! (`src/libstore/builtins/`).

mod archive;
mod buildenv;
mod channel;
mod decompress;
mod fetch;
mod request;

use std::error::Error;
use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use rustix::fs::Mode;

use request::{Request, RequestError};

fn main() -> ExitCode {
    rustix::process::umask(Mode::from_raw_mode(0o022));
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let request = Request::read(std::env::args_os().skip(1))?;
    match &*request.builder {
        "fetchurl" => fetch::fetch(&request)?,
        "buildenv" => buildenv::build(&request)?,
        "unpack-channel" => channel::unpack(&request)?,
        _ => return Err(RequestError::NoSuchBuilder(request.builder).into()),
    }
    Ok(())
}

/// An error and its causes in a line, as Nix has them.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// What goes on though something is amiss.
fn warn(text: &str) {
    eprintln!("warning: {text}");
}

/// What the kernel says, without the number that Rust adds.
#[derive(Debug)]
struct Io(std::io::Error);

impl std::fmt::Display for Io {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = self.0.to_string();
        match text.rfind(" (os error ") {
            Some(end) => f.write_str(&text[..end]),
            None => f.write_str(&text),
        }
    }
}

impl Error for Io {}

impl<E: Into<std::io::Error>> From<E> for Io {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

/// A file that an operation failed on.
#[derive(Debug, thiserror::Error)]
#[error("{action} \"{path}\"")]
struct FileError {
    action: &'static str,
    path: String,
    #[source]
    source: Io,
}

impl FileError {
    fn new<E: Into<Io>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        let path = path.display().to_string();
        move |source| Self {
            action,
            path,
            source: source.into(),
        }
    }
}

/// Opens a directory that one of the paths of this program's own names.
fn open_dir(path: &Path) -> Result<std::os::fd::OwnedFd, FileError> {
    store_nar::fs::open_root(path).map_err(FileError::new("cannot open directory", path))
}

/// Whether this is the name of one entry of a directory.
fn is_entry_name(name: &OsStr) -> bool {
    let mut components = Path::new(name).components();
    matches!(components.next(), Some(std::path::Component::Normal(first)) if first == name)
        && components.next().is_none()
}
