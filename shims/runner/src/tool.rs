//! Running the tool.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};

use shim_core::manifest::{Manifest, STDERR, STDOUT};
use shim_core::protocol::Window;
use shim_core::terminal;

use crate::error::{Context, Error};

/// Runs the tool to its end and says how it ended, as `status` has it.
pub fn run(manifest: &Manifest, out: &Path) -> Result<String, Error> {
    let text = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
    let mut command = Command::new(text(&manifest.exe));
    let mut argv = manifest.argv.iter();
    if let Some(name) = argv.next() {
        command.arg0(text(name));
    }
    command.args(argv.map(|argument| text(argument)));
    command.env_clear();
    for entry in &manifest.env {
        if let Some(equals) = entry.iter().position(|&byte| byte == b'=') {
            command.env(text(&entry[..equals]), text(&entry[equals + 1..]));
        }
    }
    command.current_dir(text(&manifest.cwd));
    command.stdin(Stdio::null());
    let (stdout, out_reader) = output(&out.join(STDOUT), manifest.stdout_tty)?;
    let (stderr, err_reader) = output(&out.join(STDERR), manifest.stderr_tty)?;
    command.stdout(stdout).stderr(stderr);
    let exe = text(&manifest.exe);
    let mut child = command.spawn().context(Path::new(&exe))?;
    // Holds the terminals open otherwise, and their readers would never see an end.
    drop(command);
    let status = child.wait().context(Path::new(&exe))?;
    for reader in [out_reader, err_reader].into_iter().flatten() {
        let result = reader.join().map_err(|_| io::ErrorKind::Other.into());
        result.and_then(|copied| copied).context(out)?;
    }
    Ok(match (status.code(), status.signal()) {
        (Some(code), _) => format!("{code}\n"),
        (None, Some(signal)) => format!("signal {signal}\n"),
        (None, None) => unreachable!("a process that was waited for has ended in one of two ways"),
    })
}

type Reader = Option<JoinHandle<io::Result<()>>>;

/// What the tool writes to, and if it is a terminal, the thread that reads it into the file.
fn output(path: &Path, tty: Option<Window>) -> Result<(Stdio, Reader), Error> {
    let mut file = OpenOptions::new()
        .append(true)
        .create_new(true)
        .open(path)
        .context(path)?;
    let Some(window) = tty else {
        return Ok((file.into(), None));
    };
    let (master, slave) = terminal::open(window).context(path)?;
    let mut master = File::from(master);
    let reader = thread::spawn(move || {
        let mut buffer = [0; 8192];
        loop {
            match master.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => file.write_all(&buffer[..count])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // All of its users are gone (pty(7)).
                Err(error)
                    if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) =>
                {
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    });
    Ok((slave.into(), Some(reader)))
}
