//! `droste external-builder`: what Nix runs to have one builder run.
//!
//! Source: the Nix manual, "external-builders"; nix
//! `src/libstore/unix/build/external-derivation-builder.cc`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use bstr::BString;
use clap::Args;
use droste_executor::{BuilderStart, Exit, ExternalBuild};
use serde::Deserialize;
use shim_core::client::Server;
use store_types::{StoreDir, StorePath, StorePathError};
use store_wire::{FramedReader, WireError};

use super::error::{CommandError, Hint};
use super::serving::{self, ServingError};
use super::{Context, exit_code};
use crate::external::message::{FILES_BYTES_MAX, Reply, write_request};

/// The version of the description that Nix gives.
const VERSION: u64 = 1;

/// The longest description; Nix's has the whole environment and input closure.
const DESCRIPTION_LEN_MAX: u64 = 256 << 20;

/// Run one builder for this machine's Nix, which has Droste among its external builders
///
/// For `external-builders = [{"systems":["x86_64-linux"],"program":"/path/to/droste","args":["external-builder"]}]`
/// in nix.conf, with `experimental-features = external-builders`. The work is done by the daemon,
/// which is started if it does not run. Where Nix has build users, a daemon of root's is to run
/// (`droste daemon --external-socket PATH --external-group GROUP`), and `args` is
/// `["external-builder","--socket","PATH"]`.
#[derive(Debug, Args)]
pub struct ExternalBuilderArgs {
    /// Where the daemon listens; by default in Droste's own directory
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// What is to be built, as Nix describes it
    #[arg(value_name = "BUILD.json")]
    description: PathBuf,
}

impl ExternalBuilderArgs {
    /// Whether a socket is named, so that nothing else need be found.
    pub fn has_socket(&self) -> bool {
        self.socket.is_some()
    }
}

#[derive(Debug, thiserror::Error)]
enum ExternalError {
    #[error("cannot tell Nix that the builder starts")]
    Handshake(#[source] io::Error),
    #[error("cannot read `{}`", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{}` does not describe a build", path.display())]
    Description {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("`{}` describes a build in version {version}; known is {VERSION}", path.display())]
    Version { path: PathBuf, version: u64 },
    #[error("builds run in `/build`, not in `{0}`")]
    BuildDir(String),
    #[error("`{0}` is not a store path")]
    StorePath(String, #[source] StorePathError),
    #[error("`{0}` is not a store directory")]
    StoreDir(String),
    #[error("`{}` is more than a file", .0.display())]
    NoFile(PathBuf),
    #[error("the files in `{}` have more than {FILES_BYTES_MAX} bytes", .0.display())]
    TooMuch(PathBuf),
    #[error("there is no daemon to build it")]
    NoDaemon(#[source] ServingError),
    #[error("no daemon listens at `{}`", socket.display())]
    NoSocket {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot tell the daemon what to build")]
    Send(#[source] io::Error),
    #[error("the daemon has ended, or does not answer")]
    Answer(#[from] WireError),
    #[error("{0}")]
    Failed(String),
    #[error("the daemon has an output `{0}`, which was not asked for")]
    Output(String),
    #[error("cannot make `{}`", path.display())]
    Restore {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("cannot pass on the log")]
    Log(#[source] io::Error),
}

/// What Nix says of a build.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Description {
    builder: String,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    tmp_dir: PathBuf,
    tmp_dir_in_sandbox: String,
    store_dir: String,
    real_store_dir: PathBuf,
    system: String,
    input_paths: Vec<String>,
    outputs: BTreeMap<String, String>,
}

/// What is looked at first.
#[derive(Debug, Deserialize)]
struct Versioned {
    version: u64,
}

pub fn run(context: Option<&Context>, args: &ExternalBuilderArgs) -> Result<u8, CommandError> {
    // Nix reads from here on what the builder writes; what comes before it only logs.
    let mut out = io::stdout().lock();
    out.write_all(b"\x02\n")
        .and_then(|()| out.flush())
        .map_err(ExternalError::Handshake)?;
    let description = read_description(&args.description)?;
    let dir = StoreDir::new(&description.store_dir)
        .ok_or_else(|| ExternalError::StoreDir(description.store_dir.clone()))?;
    let build = to_build(&description, &dir)?;
    let daemon = connect(context, args.socket.as_deref())?;
    write_request(&mut BufWriter::new(&daemon), &dir, &build).map_err(ExternalError::Send)?;
    let exit = follow(&daemon, &build, &description.real_store_dir, &mut out)?;
    Ok(end_like(exit))
}

fn connect(context: Option<&Context>, socket: Option<&Path>) -> Result<UnixStream, CommandError> {
    let connected: OwnedFd = match (socket, context) {
        (Some(socket), _) => Server::of_host(socket.to_owned())
            .connect()
            .map_err(|source| ExternalError::NoSocket {
                socket: socket.to_owned(),
                source: source.into(),
            })
            .hint(|| "`droste daemon --external-socket PATH` listens at one")?,
        (None, Some(context)) => {
            serving::connect_to(context, context.external_socket()).map_err(|error| {
                let hint = error.hint(context);
                CommandError::from(ExternalError::NoDaemon(error)).with_hint(hint)
            })?
        }
        (None, None) => unreachable!("without a socket there is a context"),
    };
    Ok(connected.into())
}

fn read_description(path: &Path) -> Result<Description, ExternalError> {
    let failed = |source| ExternalError::Read {
        path: path.to_owned(),
        source,
    };
    let invalid = |source| ExternalError::Description {
        path: path.to_owned(),
        source,
    };
    let mut text = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(DESCRIPTION_LEN_MAX).read_to_end(&mut text))
        .map_err(failed)?;
    let Versioned { version } = serde_json::from_slice(&text).map_err(invalid)?;
    if version != VERSION {
        return Err(ExternalError::Version {
            path: path.to_owned(),
            version,
        });
    }
    serde_json::from_slice(&text).map_err(invalid)
}

fn to_build(description: &Description, dir: &StoreDir) -> Result<ExternalBuild, ExternalError> {
    if description.tmp_dir_in_sandbox != "/build" {
        let other = description.tmp_dir_in_sandbox.clone();
        return Err(ExternalError::BuildDir(other));
    }
    let path = |text: &String| -> Result<StorePath, ExternalError> {
        dir.parse(text)
            .map_err(|source| ExternalError::StorePath(text.clone(), source))
    };
    let env = description.env.iter();
    Ok(ExternalBuild {
        builder: description.builder.clone().into(),
        system: description.system.clone(),
        start: BuilderStart {
            env: env
                .map(|(name, value)| (name.clone().into(), value.clone().into()))
                .collect(),
            args: description.args.iter().cloned().map(Into::into).collect(),
            files: read_files(&description.tmp_dir)?,
        },
        inputs: description
            .input_paths
            .iter()
            .map(path)
            .collect::<Result<_, _>>()?,
        outputs: description
            .outputs
            .iter()
            .map(|(name, text)| Ok((name.clone(), path(text)?)))
            .collect::<Result<_, ExternalError>>()?,
        // Nix says it to the builder, and does not say it otherwise.
        is_fixed: description
            .env
            .get("NIX_OUTPUT_CHECKED")
            .is_some_and(|value| value == "1"),
    })
}

/// What Nix has put into the build directory: attributes and graphs, as files.
fn read_files(dir: &Path) -> Result<Vec<(String, BString)>, ExternalError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| ExternalError::Read { path, source }
    };
    let mut files = Vec::new();
    let mut left = FILES_BYTES_MAX;
    for entry in std::fs::read_dir(dir).map_err(failed(dir))? {
        let entry = entry.map_err(failed(dir))?;
        let path = entry.path();
        let is_file = entry.file_type().map_err(failed(&path))?.is_file();
        let name = entry.file_name().into_string();
        let (true, Ok(name)) = (is_file, name) else {
            return Err(ExternalError::NoFile(path));
        };
        let mut contents = Vec::new();
        let len = std::fs::File::open(&path)
            .and_then(|file| file.take(left + 1).read_to_end(&mut contents))
            .map_err(failed(&path))? as u64;
        left = left
            .checked_sub(len)
            .ok_or_else(|| ExternalError::TooMuch(dir.to_owned()))?;
        files.push((name, contents.into()));
    }
    Ok(files)
}

/// Passes on the log and makes the outputs, until the builder has ended.
fn follow(
    daemon: &UnixStream,
    build: &ExternalBuild,
    real_store_dir: &Path,
    log: &mut impl Write,
) -> Result<Exit, ExternalError> {
    let mut input = BufReader::with_capacity(64 << 10, daemon);
    loop {
        match Reply::read(&mut input)? {
            Reply::Line(mut line) => {
                line.push(b'\n');
                log.write_all(&line)
                    .and_then(|()| log.flush())
                    .map_err(ExternalError::Log)?;
            }
            // Standard error is the log, too.
            Reply::Note(text) => eprintln!("{text}"),
            Reply::Failed(text) => return Err(ExternalError::Failed(text)),
            Reply::Output(name) => {
                let Some(path) = build.outputs.get(&name) else {
                    return Err(ExternalError::Output(name));
                };
                let mut nar = BufReader::new(FramedReader::new(&mut input));
                restore(&mut nar, real_store_dir, path).map_err(|source| {
                    ExternalError::Restore {
                        path: real_store_dir.join(path.base_name()),
                        source,
                    }
                })?;
            }
            Reply::Ended(exit) => return Ok(exit),
        }
    }
}

/// Makes an output where Nix takes it, and reads the stream to its end.
fn restore(
    nar: &mut impl Read,
    real_store_dir: &Path,
    path: &StorePath,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let dir = store_nar::fs::open_root(real_store_dir)?;
    let name = OsStr::new(path.base_name());
    if let Err(error) = store_nar::restore(nar, dir.as_fd(), name) {
        let _ = store_nar::remove_tree(dir.as_fd(), name);
        return Err(error.into());
    }
    match io::copy(nar, &mut io::sink())? {
        0 => Ok(()),
        _ => Err("there is more than one object".into()),
    }
}

/// Ends as the builder did, so that Nix says the same of it.
fn end_like(exit: Exit) -> u8 {
    match exit {
        Exit::Code(code) => u8::try_from(code).unwrap_or(exit_code::FAILURE),
        Exit::Signal(signal) => {
            if let Some(signal) = rustix::process::Signal::from_named_raw(signal) {
                let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
            }
            // It was one that does not end a process.
            exit_code::FAILURE
        }
    }
}
