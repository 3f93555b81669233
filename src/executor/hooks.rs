//! Programs of the machine's owner that are run around builds: `pre-build-hook`,
//! `post-build-hook`, `diff-hook`.
//!
//! They are trusted as the settings are, run as whoever runs Droste (but for the one that looks at
//! what builders made), and have its environment.
//!
//! Source: nix 2.34 `src/libstore/unix/build/derivation-builder.cc` (`getPathsInSandbox`,
//! `handleDiffHook`), `src/libstore/build/derivation-building-goal.cc` (`runPostBuildHook`); Nix
//! manual, settings of these names.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use store_api::BoxError;
use store_types::StorePath;

use crate::error::{BuildError, environment};
use crate::log;
use crate::settings::{SandboxPath, Settings};
use crate::users::BuildUser;
use crate::{Executor, Monitor};

/// What a hook prints beyond this is not read. A page of paths has 100 KiB.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// Why a hook was of no use.
#[derive(Debug, thiserror::Error)]
enum HookError {
    #[error("program `{program}` cannot be run")]
    NotRun {
        program: String,
        #[source]
        source: std::io::Error,
    },
    #[error("program `{program}` {how}")]
    Failed { program: String, how: String },
    #[error("unknown pre-build hook command `{0}`")]
    UnknownCommand(String),
    #[error("it tells `{0}` for the sandbox, which is not absolute")]
    RelativePath(String),
}

fn not_run(program: &Path) -> impl FnOnce(std::io::Error) -> HookError {
    let program = program.display().to_string();
    move |source| HookError::NotRun { program, source }
}

fn check_status(program: &Path, status: ExitStatus) -> Result<(), HookError> {
    let how = match (status.code(), status.signal()) {
        (Some(0), _) => return Ok(()),
        (Some(code), _) => format!("failed with exit code {code}"),
        (None, signal) => format!("failed due to signal {}", signal.unwrap_or_default()),
    };
    let program = program.display().to_string();
    Err(HookError::Failed { program, how })
}

/// Runs it to its end; what it prints is the answer, and its standard error is ours.
fn answer(program: &Path, command: &mut Command) -> Result<String, HookError> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(not_run(program))?;
    let mut text = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout
            .take(ANSWER_BYTES_MAX)
            .read_to_end(&mut text)
            .map_err(not_run(program))?;
    }
    let status = child.wait().map_err(not_run(program))?;
    check_status(program, status)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The paths that the answer of a `pre-build-hook` tells.
fn sandbox_paths(answer: &str) -> Result<Vec<SandboxPath>, HookError> {
    let mut paths = Vec::new();
    let mut in_list = false;
    // What has no end of line is not looked at.
    for line in answer.split_inclusive('\n') {
        let Some(line) = line.strip_suffix('\n') else {
            break;
        };
        match (in_list, line) {
            (false, "extra-sandbox-paths" | "extra-chroot-dirs") => in_list = true,
            (false, _) => return Err(HookError::UnknownCommand(line.to_owned())),
            (true, "") => in_list = false,
            (true, _) => {
                let (inside, outside) = line.split_once('=').unwrap_or((line, line));
                if !inside.starts_with('/') {
                    return Err(HookError::RelativePath(line.to_owned()));
                }
                paths.push(SandboxPath {
                    inside: inside.into(),
                    outside: outside.into(),
                    optional: false,
                    read_only: false,
                });
            }
        }
    }
    Ok(paths)
}

impl Executor {
    fn hook_failed<E: Into<BoxError>>(
        text: &str,
        hook: &'static str,
    ) -> impl FnOnce(E) -> BuildError {
        let drv = text.to_owned();
        move |source| BuildError::HookFailed {
            drv,
            hook,
            source: source.into(),
        }
    }

    /// Asks the `pre-build-hook`, if there is one, what further paths a sandbox is to show.
    pub(crate) fn run_pre_build_hook(
        &self,
        settings: &Settings,
        text: &str,
        root: Option<PathBuf>,
    ) -> Result<Vec<SandboxPath>, BuildError> {
        let Some(program) = &settings.pre_build_hook else {
            return Ok(Vec::new());
        };
        let mut command = Command::new(program);
        command.arg(text).args(root);
        answer(program, &mut command)
            .and_then(|answer| sandbox_paths(&answer))
            .map_err(Self::hook_failed(text, "pre-build-hook"))
    }

    /// Runs the `post-build-hook`, if there is one; `monitor` is told what it prints.
    pub(crate) fn run_post_build_hook(
        &self,
        drv: &StorePath,
        outputs: &BTreeSet<StorePath>,
        monitor: &dyn Monitor,
    ) -> Result<(), BuildError> {
        let settings = self.settings_for(monitor);
        let Some(program) = &settings.post_build_hook else {
            return Ok(());
        };
        let text = self.store_dir().display(drv);
        monitor.outputs_made(outputs).map_err(environment(
            &text,
            "have the outputs where the hook looks for them",
        ))?;
        let paths: Vec<String> = outputs
            .iter()
            .map(|path| self.store_dir().display(path))
            .collect();
        let run = || -> Result<(), HookError> {
            let make = || -> std::io::Result<(OwnedFd, OwnedFd, OwnedFd)> {
                let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
                let again = write.try_clone()?;
                Ok((read, write, again))
            };
            let (read, write, again) = make().map_err(not_run(program))?;
            let mut command = Command::new(program);
            command
                .current_dir("/")
                .env("DRV_PATH", &text)
                .env("OUT_PATHS", paths.join(" "))
                .env("NIX_CONFIG", settings.to_nix_config())
                .stdin(Stdio::null())
                .stdout(write)
                .stderr(again);
            let mut child = command.spawn().map_err(not_run(program))?;
            // Our ends of the pipe for writing.
            drop(command);
            log::follow(
                read,
                None,
                log::Limits::default(),
                |line| {
                    monitor.post_build_line(drv, line);
                    true
                },
                || {},
            );
            let status = child.wait().map_err(not_run(program))?;
            check_status(program, status)
        };
        run().map_err(Self::hook_failed(&text, "post-build-hook"))
    }

    /// Has the `diff-hook`, if there is one, show how two outputs differ: as the build's user,
    /// since it looks at what a builder made. Its failure is told and nothing else.
    pub(crate) fn run_diff_hook(
        &self,
        user: &BuildUser,
        (old, new): (&Path, &Path),
        (drv, build_dir): (&str, &Path),
        monitor: &dyn Monitor,
    ) {
        let Some(program) = self.settings_for(monitor).diff_hook() else {
            return;
        };
        let mut command = Command::new(program);
        command.args([old, new]).arg(drv).arg(build_dir);
        command.current_dir("/").uid(user.uid).gid(user.gid);
        match answer(program, &mut command) {
            Ok(text) if text.trim_end().is_empty() => {}
            Ok(text) => monitor.note(text.trim_end()),
            Err(error) => {
                let why = crate::error::chain(&error);
                monitor.note(&format!("diff hook execution failed: {why}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_a_pre_build_hook_is_lists_that_end_with_empty_lines() {
        let paths = sandbox_paths("extra-sandbox-paths\n/a\n/b=/c\n\nextra-chroot-dirs\n/d\n/cut");
        let paths: Vec<_> = paths
            .unwrap()
            .into_iter()
            .map(|path| (path.inside, path.outside))
            .collect();
        let expected = [("/a", "/a"), ("/b", "/c"), ("/d", "/d")];
        assert_eq!(
            paths,
            expected.map(|(i, o)| (PathBuf::from(i), PathBuf::from(o)))
        );
        let error = sandbox_paths("extra-mounts\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown pre-build hook command `extra-mounts`"
        );
    }

    #[test]
    fn a_hook_that_fails_or_is_not_there_is_named() {
        let program = Path::new("/bin/sh");
        let error = answer(program, Command::new(program).args(["-c", "exit 3"])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "program `/bin/sh` failed with exit code 3"
        );
        let error = answer(program, Command::new(program).args(["-c", "kill -9 $$"])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "program `/bin/sh` failed due to signal 9"
        );
        let missing = Path::new("/no/such/program");
        let error = answer(missing, &mut Command::new(missing)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "program `/no/such/program` cannot be run"
        );
    }
}
