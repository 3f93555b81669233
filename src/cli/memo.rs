//! `droste memo`: one call of any program, memoized.

use std::ffi::OsString;
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FileType;
use shim_core::client::{Caller, Server};
use shim_core::place;
use shim_core::protocol::{self, Answer, Call, Done, Memo};

use super::error::{CommandError, Hint};
use super::{Context, masquerade, serving};

/// As much of a script's first line as the kernel reads (execve(2), "Interpreter scripts").
const LINE_MAX: u64 = 256;

/// Variables that are passed on whatever `--env` names, and those that begin so.
const ALWAYS_PASSED: &[&[u8]] = &[
    b"HOME",
    b"LANG",
    b"PATH",
    b"PWD",
    b"SOURCE_DATE_EPOCH",
    b"TZ",
];
const ALWAYS_PASSED_PREFIX: &[&[u8]] = &[b"DROSTE_", b"LC_"];

/// Run one call of any program, such as bison or a script, and memoize it
///
/// The program runs in a sandbox in which it finds the files that it looks for, declared or not;
/// if all that it has looked for is as it was, its results are placed without running it. It must
/// depend on nothing else: not on the time or the files' times, the network, or standard input,
/// which is empty. See `droste run` for the daemon behind it.
#[derive(Debug, Args)]
pub struct MemoArgs {
    /// Files and directories that it reads, all the same whether it does
    #[arg(long = "input", value_name = "PATH", num_args = 1.., value_parser = clap::value_parser!(OsString))]
    inputs: Vec<OsString>,
    /// Files and directories that it makes: it never sees older ones
    #[arg(long = "output", value_name = "PATH", num_args = 1.., value_parser = clap::value_parser!(OsString))]
    outputs: Vec<OsString>,
    /// The only variables that it depends on, beside PATH, PWD, HOME, LANG, LC_*, TZ, and
    /// SOURCE_DATE_EPOCH [default: all that are set, but those that tell who calls]
    #[arg(long = "env", value_name = "NAME", num_args = 1.., conflicts_with = "no_env")]
    names: Vec<String>,
    /// It depends on no variables but those
    #[arg(long)]
    no_env: bool,
    /// The program and its arguments, after `--`
    #[arg(value_name = "COMMAND", required = true, last = true)]
    command: Vec<OsString>,
}

/// Arguments that mean nothing.
#[derive(Debug, thiserror::Error)]
enum MemoError {
    #[error("a path is empty")]
    EmptyPath,
    #[error("`{}` is both an input and an output", .0.display())]
    Both(PathBuf),
    #[error("`{}` cannot be an output", .0.display())]
    NoOutput(PathBuf),
    #[error("`{0}` is no name of a variable")]
    Name(String),
    #[error("cannot run `{}`", command.display())]
    Start {
        command: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

pub fn run(context: &Context, args: &MemoArgs) -> Result<u8, CommandError> {
    check(args).hint(|| "`droste memo --help` has an explanation of the arguments")?;
    let bin = context.bin_dir();
    // A program finds no shims in its sandbox either, unless it runs in place.
    let program = masquerade::find_program(&args.command[0], |path| !path.starts_with(&bin));
    let Some(program) = program else {
        return Ok(cannot_run(args, rustix::io::Errno::NOENT.into()));
    };
    // In place, shims of compilers are of use again.
    let real = || {
        let found = masquerade::find_program(&args.command[0], |_| true);
        found.unwrap_or_else(|| program.clone())
    };
    let caller = Caller::this_process();
    if !caller.is_disabled() {
        for input in args.inputs.iter().map(Path::new) {
            if input.symlink_metadata().is_err() {
                let text = format!("droste: warning: there is no input `{}`", input.display());
                context.status().line(&text);
            }
        }
        match memoized(context, &caller, args, &program, &real) {
            Ok(status) => return Ok(status),
            Err(reason) => context
                .status()
                .detail(&format!("droste: in place: {reason}")),
        }
    }
    let Err(source) = masquerade::execute(&real(), &args.command);
    Ok(cannot_run(args, source))
}

fn check(args: &MemoArgs) -> Result<(), MemoError> {
    let plain = |path: &OsString| -> PathBuf {
        let parts = Path::new(path).components();
        parts.filter(|part| *part != Component::CurDir).collect()
    };
    let inputs: Vec<PathBuf> = args.inputs.iter().map(plain).collect();
    for path in args.inputs.iter().chain(&args.outputs) {
        if path.is_empty() {
            return Err(MemoError::EmptyPath);
        }
    }
    for output in args.outputs.iter().map(plain) {
        if output.file_name().is_none() {
            return Err(MemoError::NoOutput(output));
        }
        if inputs.contains(&output) {
            return Err(MemoError::Both(output));
        }
    }
    let is_name = |name: &&String| !name.is_empty() && !name.contains(['=', '\0']);
    match args.names.iter().find(|name| !is_name(name)) {
        Some(name) => Err(MemoError::Name(name.clone())),
        None => Ok(()),
    }
}

fn cannot_run(args: &MemoArgs, source: std::io::Error) -> u8 {
    let command = args.command[0].clone().into();
    CommandError::from(MemoError::Start { command, source }).print();
    masquerade::NOT_FOUND
}

/// Has the call done, and places its results: the exit status, or why it is to run in place.
/// `program` is what runs in a sandbox, and `real` in place.
fn memoized(
    context: &Context,
    caller: &Caller<'_>,
    args: &MemoArgs,
    program: &Path,
    real: &dyn Fn() -> PathBuf,
) -> Result<u8, String> {
    if has_input() {
        return Err("there is something on standard input".into());
    }
    let call = call(caller, args, program).map_err(|error| error.to_string())?;
    let socket = connect(context, caller)?;
    protocol::send_call(&socket, &call).map_err(|error| super::error::chain(&error))?;
    let answer = protocol::receive_answer(&socket).map_err(|error| super::error::chain(&error))?;
    let done = match answer {
        Answer::Done(done) => done,
        Answer::InPlace { reason } => return Err(String::from_utf8_lossy(&reason).into_owned()),
        Answer::Trial => {
            let status = caller.try_in_place(&socket, &call, |prepare| {
                masquerade::start(&real(), &args.command, prepare)
            });
            return status.ok_or_else(|| "it cannot be tried".into());
        }
    };
    place::place(&done.files).map_err(|error| super::error::chain(&error))?;
    for output in missing(args, &done) {
        let text = format!("droste: warning: `{}` was not made", output.display());
        context.status().line(&text);
    }
    let status = caller.finish(&done);
    status.ok_or_else(|| "standard output cannot be written".into())
}

/// The declared outputs that are not there though all went well.
fn missing<'a>(args: &'a MemoArgs, done: &Done) -> impl Iterator<Item = &'a Path> {
    let has_succeeded = done.status == 0;
    let outputs = args.outputs.iter().map(Path::new);
    outputs.filter(move |output| has_succeeded && !output.exists())
}

/// Whoever there is to do it: a build's executor, the server that the environment names, or the
/// daemon, which is started if need be.
fn connect(context: &Context, caller: &Caller<'_>) -> Result<OwnedFd, String> {
    let is_named = Server::of_build().connect().is_ok() || caller.named_server().is_some();
    if is_named {
        let (_, socket) = caller.connect().ok_or("nobody answers")?;
        return Ok(socket);
    }
    serving::connect(context).map_err(|error| super::error::chain(&error))
}

/// The call as the server gets it.
fn call(caller: &Caller<'_>, args: &MemoArgs, program: &Path) -> std::io::Result<Call> {
    let bytes = |list: &[OsString]| -> Vec<Vec<u8>> {
        list.iter().map(|text| text.clone().into_vec()).collect()
    };
    let mut argv = bytes(&args.command);
    let mut exec_path = program.as_os_str().as_bytes().to_vec();
    if let Some(words) = interpreter(program) {
        // As the kernel does: the script sees the path by which it was called, which a child
        // could not be given otherwise.
        let script = std::mem::replace(&mut exec_path, words[0].clone());
        argv.splice(..1, words.into_iter().chain([script]));
    }
    let exe = program.canonicalize()?.into_os_string().into_vec();
    let mut call = caller.call(argv, exe, exec_path)?;
    if args.no_env || !args.names.is_empty() {
        call.env.retain(|entry| is_passed(args, entry));
    }
    call.memo = Some(Memo {
        inputs: bytes(&args.inputs),
        outputs: bytes(&args.outputs),
    });
    Ok(call)
}

fn is_passed(args: &MemoArgs, entry: &[u8]) -> bool {
    let name = entry.split(|byte| *byte == b'=').next().unwrap_or_default();
    ALWAYS_PASSED.contains(&name)
        || ALWAYS_PASSED_PREFIX
            .iter()
            .any(|begin| name.starts_with(begin))
        || args.names.iter().any(|known| known.as_bytes() == name)
}

/// The interpreter of a script and its argument; `None` if it is no script.
fn interpreter(program: &Path) -> Option<Vec<Vec<u8>>> {
    let mut head = Vec::new();
    let file = File::open(program).ok()?;
    file.take(LINE_MAX).read_to_end(&mut head).ok()?;
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let end = head.iter().position(|byte| *byte == b'\n')?;
    let line = head[..end].strip_prefix(b"#!")?;
    let line = &line[line.iter().position(|byte| !is_blank(byte))?..];
    let path_len = line.iter().position(is_blank).unwrap_or(line.len());
    let (path, rest) = line.split_at(path_len);
    if !path.starts_with(b"/") {
        return None;
    }
    let mut words = vec![path.to_vec()];
    if let Some(begin) = rest.iter().position(|byte| !is_blank(byte)) {
        let end = rest.iter().rposition(|byte| !is_blank(byte))?;
        words.push(rest[begin..=end].to_vec());
    }
    Some(words)
}

/// Whether standard input may hold something for the program to read. What a terminal may be
/// asked for does not count.
fn has_input() -> bool {
    let stdin = rustix::stdio::stdin();
    let Ok(stat) = rustix::fs::fstat(stdin) else {
        // It is closed.
        return false;
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice => {
            let is_null = std::fs::metadata("/dev/null")
                .is_ok_and(|null| std::os::unix::fs::MetadataExt::rdev(&null) == stat.st_rdev);
            !is_null && !std::io::stdin().is_terminal()
        }
        FileType::RegularFile => {
            let at = rustix::fs::seek(stdin, rustix::fs::SeekFrom::Current(0));
            !at.is_ok_and(|at| at >= stat.st_size as u64)
        }
        // A pipe or socket that nobody writes to any more has ended if nothing is left in it.
        _ => {
            let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
            let now = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            let polled = rustix::event::poll(&mut fds, Some(&now));
            let events = fds[0].revents();
            !(polled.is_ok() && events.contains(PollFlags::HUP) && !events.contains(PollFlags::IN))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_called_as_the_kernel_calls_it() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("script");
        let words = |text: &str| {
            std::fs::write(&script, text).unwrap();
            let words = interpreter(&script)?;
            let words = words
                .into_iter()
                .map(|word| String::from_utf8(word).unwrap());
            Some(words.collect::<Vec<_>>())
        };
        assert_eq!(words("#!/bin/sh\n").unwrap(), ["/bin/sh"]);
        assert_eq!(
            words("#! \t/usr/bin/env  -S a b \t\nx").unwrap(),
            ["/usr/bin/env", "-S a b"]
        );
        assert_eq!(words("#!sh\n"), None);
        assert_eq!(words("#!\n"), None);
        assert_eq!(words("#!/bin/sh"), None);
        assert_eq!(words("\x7fELF\n"), None);
    }

    #[test]
    fn what_cannot_be_meant_is_an_error() {
        let error = |inputs: &[&str], outputs: &[&str]| {
            let strings = |list: &[&str]| list.iter().map(OsString::from).collect();
            let args = MemoArgs {
                inputs: strings(inputs),
                outputs: strings(outputs),
                names: Vec::new(),
                no_env: false,
                command: vec!["true".into()],
            };
            check(&args).err().map(|error| error.to_string())
        };
        assert_eq!(error(&["a", "b"], &["c", "b/d"]), None);
        assert_eq!(error(&[], &[""]).unwrap(), "a path is empty");
        assert_eq!(error(&[], &["x/.."]).unwrap(), "`x/..` cannot be an output");
        assert_eq!(
            error(&["./a//b"], &["./a/b"]).unwrap(),
            "`a/b` is both an input and an output"
        );
    }
}
