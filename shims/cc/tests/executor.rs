//! The shim with an executor at the other end of its socket.

mod shim;

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Output;
use std::thread;

use shim_core::protocol::{
    Answer, Call, Done, Ended, NewFile, Tried, receive_call, receive_tried, send_answer,
    send_report,
};
use shim_core::testing::in_new_root;
use tempfile::TempDir;

/// The one warning.
const CLOSED: &str = "droste: warning: compiler calls run in place: `/.droste/socket`: \
                      shim connection closed in the middle of a message\n";

/// A compiler that is told from the executor by its output.
const REAL: &str = "#!/bin/sh\necho real \"$@\"\nexit 9\n";

fn content(text: &str) -> OwnedFd {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.into()
}

fn done(status: u8, files: &[(&str, &str)]) -> Answer {
    let file = |&(path, text): &(&str, &str)| NewFile {
        path: path.as_bytes().to_vec(),
        executable: false,
        content: content(text),
    };
    Answer::Done(Done {
        status,
        stdout: content("out\n"),
        stderr: content("err\n"),
        files: files.iter().map(file).collect(),
    })
}

/// Runs `script`, where `cc` is the shim, with an executor that treats its first call by `serve`.
fn run(
    script: &str,
    serve: impl FnOnce(&UnixStream, Call) + Send + 'static,
) -> Option<(TempDir, Output)> {
    let dir = tempfile::tempdir().unwrap();
    for sub in ["droste", "shims", "real", "w"] {
        fs::create_dir(dir.path().join(sub)).unwrap();
    }
    fs::write(dir.path().join("droste/warned"), "").unwrap();
    fs::copy(shim::file(), dir.path().join("shims/cc")).unwrap();
    fs::write(dir.path().join("real/cc"), REAL).unwrap();
    let mode = fs::metadata(dir.path().join("shims/cc"))
        .unwrap()
        .permissions();
    fs::set_permissions(dir.path().join("real/cc"), mode).unwrap();
    let listener = UnixListener::bind(dir.path().join("droste/socket")).unwrap();
    thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let call = receive_call(&socket).unwrap().unwrap();
        serve(&socket, call);
    });
    let script = format!(
        "mount --bind /t/droste /.droste; cd /t/w; export PATH=/t/shims:/t/real:$PATH\n{script}"
    );
    let output = in_new_root(dir.path(), &script)?;
    Some((dir, output))
}

fn is_real(output: &Output, arguments: &str) -> bool {
    output.status.code() == Some(9) && output.stdout == format!("real {arguments}\n").as_bytes()
}

fn text(dir: &TempDir, path: &str) -> Option<String> {
    fs::read_to_string(dir.path().join(path)).ok()
}

#[test]
fn the_results_are_placed_and_told() {
    let Some((dir, output)) = run("A=1 cc -c a.c", |socket, call| {
        assert_eq!(call.argv, [b"cc".as_slice(), b"-c", b"a.c"]);
        assert_eq!(call.cwd, b"/t/w");
        assert_eq!(call.exe, b"/t/shims/cc");
        assert_eq!(call.exec_path, b"/t/shims/cc");
        assert!(call.env.contains(&b"A=1".to_vec()));
        assert_eq!((call.stdout_tty, call.stderr_tty), (None, None));
        let files = [("/t/w/a.o", "object"), ("/t/w/a.d", "")];
        send_answer(socket, &done(3, &files)).unwrap();
    }) else {
        return;
    };
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert_eq!(output.stdout, b"out\n");
    assert_eq!(output.stderr, b"err\n");
    assert_eq!(text(&dir, "w/a.o").as_deref(), Some("object"));
    assert_eq!(text(&dir, "w/a.d").as_deref(), Some(""));
}

#[test]
fn under_limits_the_compiler_itself_runs() {
    for limit in [
        "ulimit -f 100",
        "ulimit -v 4000000",
        "ulimit -t 9",
        "umask 777",
    ] {
        let Some((_dir, output)) = run(&format!("{limit}; cc -c a.c"), |socket, _| {
            send_answer(socket, &done(3, &[])).unwrap();
        }) else {
            return;
        };
        assert!(is_real(&output, "-c a.c"), "{limit}: {output:?}");
    }
}

#[test]
fn a_refusal_runs_the_compiler_in_silence() {
    let Some((_dir, output)) = run("cc -E a.c", |socket, _| {
        let reason = b"preprocess-only".to_vec();
        send_answer(socket, &Answer::InPlace { reason }).unwrap();
    }) else {
        return;
    };
    assert!(is_real(&output, "-E a.c"), "{output:?}");
    assert_eq!(output.stderr, b"");
}

/// Has the shim try its call, and checks what it tells of that.
fn trial(script: &str, expected: Tried, reason: &'static str) -> Option<Output> {
    let (tell, told) = std::sync::mpsc::channel();
    let (_dir, output) = run(script, move |socket, _| {
        send_answer(socket, &Answer::Trial).unwrap();
        tell.send(receive_tried(socket)).unwrap();
        send_report(socket, reason.as_bytes()).unwrap();
    })?;
    assert_eq!(told.recv().unwrap().unwrap(), expected);
    Some(output)
}

fn tried(ended: Ended, stdout: &str, stderr: &str) -> Tried {
    Tried {
        ended,
        stdout: stdout.into(),
        stderr: stderr.into(),
    }
}

#[test]
fn a_trial_runs_the_compiler_and_tells_what_came_of_it() {
    let expected = tried(Ended::Exited(9), "real -c a.c\n", "");
    let Some(output) = trial("cc -c a.c", expected, "") else {
        return;
    };
    assert!(is_real(&output, "-c a.c"), "{output:?}");
    assert_eq!(output.stderr, b"");
}

#[test]
fn a_trial_has_two_streams_or_one() {
    let real = "printf '#!/bin/sh\\necho o; echo e >&2; echo p; exit 2\\n' > /t/real/cc";
    let expected = tried(Ended::Exited(2), "o\np\n", "e\n");
    let Some(output) = trial(&format!("{real}; cc -c a.c"), expected, "") else {
        return;
    };
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(output.stdout, b"o\np\n");
    assert_eq!(output.stderr, b"e\n");
    let expected = tried(Ended::Exited(2), "o\ne\np\n", "");
    let output = trial(&format!("{real}; cc -c a.c 2>&1"), expected, "").unwrap();
    assert_eq!(output.stdout, b"o\ne\np\n");
    assert_eq!(output.stderr, b"");
}

#[test]
fn a_trial_on_a_terminal_has_one() {
    let real = "printf '#!/bin/sh\\nstty size; test -t 2 || exit 3; echo e >&2; exit 4\\n'";
    let script = format!(
        "{real} > /t/real/cc; script -qec 'stty rows 7 cols 99; cc -c a.c < /dev/tty' /dev/null"
    );
    // Both streams are one terminal.
    let expected = tried(Ended::Exited(4), "7 99\ne\n", "");
    let Some(output) = trial(&script, expected, "") else {
        return;
    };
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert_eq!(output.stdout, b"7 99\r\ne\r\n");
}

#[test]
fn a_compiler_that_is_killed_in_a_trial_kills_the_shim() {
    let real = "printf '#!/bin/sh\\nkill -SEGV $$\\n' > /t/real/cc";
    let expected = tried(Ended::Killed(11), "", "");
    let Some(output) = trial(&format!("{real}; exec cc -c a.c"), expected, "why") else {
        return;
    };
    assert_eq!(output.status.signal(), Some(11), "{output:?}");
}

#[test]
fn a_trial_that_nobody_hears_of_is_the_compiler_all_the_same() {
    let Some((_dir, output)) = run("DROSTE_VERBOSE=1 cc -c a.c", |socket, _| {
        send_answer(socket, &Answer::Trial).unwrap();
    }) else {
        return;
    };
    assert!(is_real(&output, "-c a.c"), "{output:?}");
    assert_eq!(output.stderr, b"");
    let expected = tried(Ended::Exited(9), "real -c a.c\n", "");
    let output = trial("DROSTE_VERBOSE=1 cc -c a.c", expected, "failed-otherwise").unwrap();
    assert_eq!(output.stderr, b"droste: in place: failed-otherwise\n");
}

#[test]
fn a_refusal_is_told_to_whoever_asks() {
    let Some((_dir, output)) = run("DROSTE_VERBOSE=1 cc -E a.c", |socket, _| {
        let reason = b"preprocess-only".to_vec();
        send_answer(socket, &Answer::InPlace { reason }).unwrap();
    }) else {
        return;
    };
    assert_eq!(output.stderr, b"droste: in place: preprocess-only\n");
}

#[test]
fn an_executor_that_dies_is_no_harm() {
    let Some((_dir, output)) = run("cc -c a.c", |_, _| {}) else {
        return;
    };
    assert!(is_real(&output, "-c a.c"), "{output:?}");
    assert_eq!(output.stderr, CLOSED.as_bytes());
}

#[test]
fn an_executor_that_has_died_is_warned_of_once() {
    // The listener goes with the first call.
    let Some((_dir, output)) = run("for x in a b c; do cc -c $x.c || :; done", |_, _| {}) else {
        return;
    };
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("real -c b.c\nreal -c c.c\n"));
    assert_eq!(output.stderr, CLOSED.as_bytes());
}

#[test]
fn who_cannot_tell_whether_there_was_a_warning_warns() {
    let Some((_dir, output)) = run("rm /.droste/warned; cc -c a.c || cc -c b.c", |_, _| {}) else {
        return;
    };
    let warnings = String::from_utf8_lossy(&output.stderr).lines().count();
    assert_eq!(warnings, 2, "{output:?}");
}

#[test]
fn outside_of_builds_the_environment_names_the_executor() {
    let script = "umount /.droste; export DROSTE_SOCKET=/t/droste/socket; cc -c a.c";
    let Some((_dir, output)) = run(script, |socket, _| {
        send_answer(socket, &done(3, &[])).unwrap();
    }) else {
        return;
    };
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert_eq!(output.stdout, b"out\n");
}

#[test]
fn a_shim_that_is_turned_off_is_the_compiler() {
    let script = "rm /.droste/socket; export DROSTE_SOCKET=/t/none; DROSTE_DISABLE=1 cc -c a.c";
    let Some((_dir, output)) = run(script, |_, _| {}) else {
        return;
    };
    assert!(is_real(&output, "-c a.c"), "{output:?}");
    assert_eq!(output.stderr, b"");
}

#[test]
fn an_executor_that_dies_in_the_middle_of_its_answer_is_no_harm() {
    let Some((dir, output)) = run("cc -c a.c", |mut socket, _| {
        socket.write_all(b"DRS3\x20\0\0\0\x02\0\x01").unwrap();
    }) else {
        return;
    };
    assert!(is_real(&output, "-c a.c"), "{output:?}");
    assert!(is_empty(&dir.path().join("w")));
}

#[test]
fn no_socket_is_no_harm() {
    let Some((_dir, output)) = run("rm /.droste/socket; cc -c a.c", |_, _| {}) else {
        return;
    };
    assert!(is_real(&output, "-c a.c"), "{output:?}");
}

#[test]
fn a_place_that_is_odd_runs_the_compiler_before_anything_is_written() {
    let Some((dir, output)) = run("ln -s x a.d; cc -c a.c", |socket, _| {
        let files = [("/t/w/a.o", "object"), ("/t/w/a.d", "")];
        send_answer(socket, &done(0, &files)).unwrap();
    }) else {
        return;
    };
    assert!(is_real(&output, "-c a.c"), "{output:?}");
    assert_eq!(text(&dir, "w/a.o"), None);
    assert_eq!(text(&dir, "w/x"), None);
}

#[test]
fn a_terminal_is_told_with_its_size() {
    let Some((_dir, output)) = run(
        "script -qec 'stty rows 7 cols 99; cc -c a.c 2>/dev/null' /dev/null",
        |socket, call| {
            let window = call.stdout_tty.map(|window| (window.rows, window.columns));
            let status = u8::from(window != Some((7, 99)) || call.stderr_tty.is_some());
            send_answer(socket, &done(status, &[])).unwrap();
        },
    ) else {
        return;
    };
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

fn is_empty(dir: &Path) -> bool {
    dir.read_dir().unwrap().next().is_none()
}
