//! The command line: what was typed, what it means, and how it ends.
//!
//! Results go to standard output, everything else to standard error.

mod build;
mod cc;
mod child;
mod config;
mod daemon;
mod demo;
mod derivation;
mod doors;
pub(crate) mod error;
mod exit_code;
mod expressions;
mod external_builder;
mod instance;
mod interrupt;
mod masquerade;
mod memo;
mod nix_conf;
mod remote;
mod report;
mod run;
mod serving;
mod shims;
mod stats;
mod stdio;
mod store;
mod store_arg;
mod store_uri;
mod toolchain;
mod why;
mod workshop;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use store_local::LocalStoreConfig;

use error::{CommandError, Hint};
use report::{Status, Verbosity};
use store_uri::{StoreUriError, Surroundings};

/// A Nix store-compatible executor that looks inside the build
#[derive(Debug, Parser)]
#[command(
    name = "droste",
    version,
    propagate_version = true,
    disable_help_subcommand = true
)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Default, Args)]
struct GlobalArgs {
    /// The store: the directory that it lies in, or as Nix names it
    /// (`local?root=…&store=…&state=…&log=…&real=…`, `auto`) [default: $DROSTE_DIR/store]
    #[arg(
        long,
        value_name = "DIR",
        global = true,
        help_heading = "Options of every command"
    )]
    store: Option<OsString>,
    /// Tell more, such as why compiler calls ran in place
    #[arg(
        short,
        long,
        global = true,
        conflicts_with = "quiet",
        help_heading = "Options of every command"
    )]
    verbose: bool,
    /// Tell nothing but errors
    #[arg(long, global = true, help_heading = "Options of every command")]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Build(build::BuildArgs),
    Run(run::RunArgs),
    Cc(cc::CcArgs),
    Memo(memo::MemoArgs),
    Stats(stats::StatsArgs),
    Store(store::StoreArgs),
    Derivation(derivation::DerivationArgs),
    Child(child::ChildArgs),
    Why(why::WhyArgs),
    Toolchain(toolchain::ToolchainArgs),
    Shims(shims::ShimsArgs),
    Daemon(daemon::DaemonArgs),
    Config(config::ConfigArgs),
    Remote(remote::RemoteArgs),
    ExternalBuilder(external_builder::ExternalBuilderArgs),
    Demo(demo::DemoArgs),
}

/// What was meant by the options that every command takes.
#[derive(Debug)]
struct Context {
    /// Where everything of Droste's lives.
    droste_dir: PathBuf,
    /// Where the store lies.
    store: LocalStoreConfig,
    /// Whether the store was named on the command line.
    is_store_given: bool,
    verbosity: Verbosity,
}

/// A directory that has no default on this machine.
#[derive(Debug, thiserror::Error)]
enum DirectoryError {
    #[error(
        "there is no place for Droste's files: `DROSTE_DIR`, `XDG_STATE_HOME` and `HOME` are not set"
    )]
    None,
    #[error("cannot find out the current directory")]
    Current(#[source] std::io::Error),
}

impl Context {
    fn new(global: &GlobalArgs) -> Result<Self, CommandError> {
        let variable = |name: &str| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let is_root = rustix::process::geteuid().is_root();
        let droste_dir = droste_dir(variable, is_root)
            .ok_or(DirectoryError::None)
            .hint(|| "set `DROSTE_DIR` to a directory of yours")?;
        let absolute = |path: &Path| std::path::absolute(path).map_err(DirectoryError::Current);
        let droste_dir = absolute(&droste_dir)?;
        let surroundings = Surroundings {
            variable: &|name| std::env::var_os(name),
            is_root,
        };
        let store = match &global.store {
            Some(named) => surroundings
                .resolve(named)
                .map_err(StoreUriError::into_command_error)?,
            None => {
                let dir = surroundings.defaults()?.store;
                LocalStoreConfig::in_root(&droste_dir.join("store"), dir)
            }
        };
        Ok(Self {
            droste_dir,
            store,
            is_store_given: global.store.is_some(),
            verbosity: match (global.quiet, global.verbose) {
                (true, _) => Verbosity::Quiet,
                (false, false) => Verbosity::Normal,
                (false, true) => Verbosity::Verbose,
            },
        })
    }

    /// Where packages and crates that were fetched are kept.
    fn cache_dir(&self) -> PathBuf {
        self.droste_dir.join("cache")
    }

    /// Where the daemon's process id is.
    fn pid_file(&self) -> PathBuf {
        self.droste_dir.join("daemon.pid")
    }

    /// What a daemon that was started by another command has to say.
    fn daemon_log(&self) -> PathBuf {
        self.droste_dir.join("daemon.log")
    }

    /// Where the daemon listens to shims.
    fn calls_socket(&self) -> PathBuf {
        self.droste_dir.join("calls.socket")
    }

    /// Where the daemon listens to `droste remote`.
    fn builds_socket(&self) -> PathBuf {
        self.droste_dir.join("builds.socket")
    }

    /// Where the daemon listens to `droste external-builder`.
    fn external_socket(&self) -> PathBuf {
        self.droste_dir.join("external.socket")
    }

    /// Where the shims for this machine's commands lie.
    fn bin_dir(&self) -> PathBuf {
        self.droste_dir.join("bin")
    }

    /// Where progress is told.
    fn status(&self) -> Status {
        Status::new(self.verbosity)
    }
}

/// `DROSTE_DIR`, or its default. Relative paths in `XDG_STATE_HOME` do not count.
///
/// Source: XDG Base Directory Specification.
fn droste_dir(variable: impl Fn(&str) -> Option<PathBuf>, is_root: bool) -> Option<PathBuf> {
    if let Some(dir) = variable("DROSTE_DIR") {
        return Some(dir);
    }
    if is_root {
        return Some("/var/lib/droste".into());
    }
    let state = variable("XDG_STATE_HOME")
        .filter(|dir| dir.is_absolute())
        .or_else(|| variable("HOME").map(|home| home.join(".local/state")))?;
    Some(state.join("droste"))
}

/// Parses the command line, does what it says, and tells how that went.
pub fn main() -> ExitCode {
    if let Some(args) = cc::plainly_typed() {
        let context = Context::new(&GlobalArgs::default());
        return end(context.and_then(|context| cc::run(&context, &args)));
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to standard output and is no failure.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() {
                exit_code::FAILURE
            } else {
                exit_code::SUCCESS
            });
        }
    };
    if let Command::ExternalBuilder(args) = &cli.command
        && args.has_socket()
    {
        // A build user has no directory of its own.
        return end(external_builder::run(None, args));
    }
    end(Context::new(&cli.global).and_then(|context| run(&context, &cli.command)))
}

fn end(result: Result<u8, CommandError>) -> ExitCode {
    ExitCode::from(result.unwrap_or_else(|error| {
        error.print();
        error.code()
    }))
}

fn run(context: &Context, command: &Command) -> Result<u8, CommandError> {
    match command {
        Command::Build(args) => build::run(context, args),
        Command::Run(args) => run::run(context, args),
        Command::Cc(args) => cc::run(context, args),
        Command::Memo(args) => memo::run(context, args),
        Command::Stats(args) => stats::run(context, args),
        Command::Store(args) => store::run(context, args),
        Command::Derivation(args) => derivation::run(context, args),
        Command::Child(args) => child::run(context, args),
        Command::Why(args) => why::run(context, args),
        Command::Toolchain(args) => toolchain::run(context, args),
        Command::Shims(args) => shims::run(context, args),
        Command::Daemon(args) => daemon::run(context, args),
        Command::Config(args) => config::run(context, args),
        Command::Remote(args) => remote::run(context, args),
        Command::ExternalBuilder(args) => external_builder::run(Some(context), args),
        Command::Demo(args) => demo::run(context, args),
    }
}

/// Standard output cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
struct OutputError(#[source] std::io::Error);

/// Writes a result.
fn print(text: &str) -> Result<(), OutputError> {
    print_bytes(text.as_bytes())
}

/// Writes a result that may be no text.
fn print_bytes(bytes: &[u8]) -> Result<(), OutputError> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(OutputError)
}

/// Writes a result, and ends the line.
fn print_line(text: &str) -> Result<(), OutputError> {
    print(&format!("{text}\n"))
}

/// Whether results go to somebody who looks at them.
fn is_stdout_terminal() -> bool {
    std::io::stdout().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn droste_dir_is_found_as_documented() {
        let with = |set: &[(&str, &str)], is_root: bool| {
            let set: Vec<(String, String)> = set
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect();
            let dir = droste_dir(
                |name| {
                    set.iter()
                        .find(|(known, _)| known == name)
                        .map(|(_, value)| value.into())
                },
                is_root,
            );
            dir.map(|dir| dir.display().to_string())
        };
        let home = ("HOME", "/home/me");
        assert_eq!(
            with(&[home], false).as_deref(),
            Some("/home/me/.local/state/droste")
        );
        assert_eq!(with(&[home], true).as_deref(), Some("/var/lib/droste"));
        let state = ("XDG_STATE_HOME", "/state");
        assert_eq!(
            with(&[home, state], false).as_deref(),
            Some("/state/droste")
        );
        assert_eq!(
            with(&[home, ("XDG_STATE_HOME", "state")], false).as_deref(),
            Some("/home/me/.local/state/droste")
        );
        assert_eq!(
            with(&[home, state, ("DROSTE_DIR", "/d")], true).as_deref(),
            Some("/d")
        );
        assert_eq!(with(&[], false), None);
    }
}
