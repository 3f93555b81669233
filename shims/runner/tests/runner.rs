//! The runner as the builder of a derivation: real `/build`, real tools.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use shim_core::manifest::{Entry, Manifest};
use shim_core::protocol::Window;
use shim_core::testing::in_new_root;
use tempfile::TempDir;

/// What a run left, read from `$out`.
struct Left {
    dir: TempDir,
    status: String,
    stdout: String,
    stderr: String,
    odd: Option<String>,
}

impl Left {
    fn file(&self, path: &str) -> Option<Vec<u8>> {
        fs::read(self.path(path)).ok()
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.dir.path().join("out/files").join(path)
    }
}

fn tool(script: &str) -> Manifest {
    Manifest {
        exe: b"/bin/sh".to_vec(),
        argv: ["sh", "-c", script]
            .map(|arg| arg.as_bytes().to_vec())
            .into(),
        env: vec![b"PATH=/usr/bin:/bin".to_vec()],
        cwd: b"/build".to_vec(),
        ..Manifest::default()
    }
}

fn input(path: &str, source: &str) -> Entry {
    Entry::File {
        path: path.as_bytes().to_vec(),
        mtime_seconds: 1,
        source: source.as_bytes().to_vec(),
        executable: false,
    }
}

/// Runs the runner after `before`; `None` if there are no namespaces.
fn run(dir: TempDir, before: &str, manifest: &Manifest) -> Option<Left> {
    let at = |name: &str| dir.path().join(name);
    fs::copy(env!("CARGO_BIN_EXE_shim-runner"), at("runner")).unwrap();
    fs::write(at("manifest"), manifest.print()).unwrap();
    let script = format!("{before}\nout=/t/out manifestPath=/t/manifest /t/runner");
    let output = in_new_root(dir.path(), &script)?;
    assert!(output.status.success(), "{output:?}");
    let read = |name: &str| fs::read_to_string(at("out").join(name));
    let (status, stdout, stderr) = (read("status"), read("stdout"), read("stderr"));
    let odd = read("odd").ok();
    Some(Left {
        status: status.unwrap(),
        stdout: stdout.unwrap(),
        stderr: stderr.unwrap(),
        odd,
        dir,
    })
}

fn dir_with(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

#[test]
fn new_files_output_and_status_are_recorded() {
    let mut manifest = tool(
        "cat in/a; echo err >&2; mkdir -p new/empty; echo x > new/x; echo y > in/y; chmod 755 in/y;\
         ln -s y in/link; umask; exit 3",
    );
    manifest.layout = vec![
        Entry::Directory {
            path: b"/build/in".to_vec(),
        },
        input("/build/in/a", "/t/a"),
        Entry::Link {
            path: b"/build/in/b".to_vec(),
            target: b"a".to_vec(),
        },
    ];
    let dir = dir_with(&[("a", "content\n")]);
    let Some(left) = run(dir, "touch /build/env-vars", &manifest) else {
        return;
    };
    assert_eq!(left.status, "3\n");
    assert_eq!(left.stdout, "content\n0022\n");
    assert_eq!(left.stderr, "err\n");
    assert_eq!(left.odd, None);
    assert_eq!(left.file("build/new/x").unwrap(), b"x\n");
    assert_eq!(left.file("build/in/y").unwrap(), b"y\n");
    assert!(left.path("build/new/empty").is_dir());
    assert_eq!(
        left.path("build/in/link").read_link().unwrap(),
        Path::new("y")
    );
    for absent in ["build/in/a", "build/in/b", "build/env-vars"] {
        assert!(left.path(absent).symlink_metadata().is_err(), "{absent}");
    }
    let mode = |path| fs::metadata(left.path(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("build/in/y"), 0o755);
    assert_eq!(mode("build/new/x"), 0o644);
}

#[test]
fn the_tool_gets_exactly_its_arguments_and_environment() {
    let mut manifest =
        tool("tr '\\0' '\\n' < /proc/$$/environ | sort; ls -l /proc/self/fd/0; cat a");
    manifest.argv.push(b"odd\\ \nname".to_vec());
    manifest.argv[2].extend_from_slice(b"; printf %s \"$0\"; stat -c %Y a; pwd");
    manifest.env.push(b"A=b=c".to_vec());
    manifest.cwd = b"/build/in".to_vec();
    manifest.layout = vec![
        Entry::Directory {
            path: b"/build/in".to_vec(),
        },
        input("/build/in/a", "/t/a"),
    ];
    let Some(left) = run(dir_with(&[("a", "")]), "", &manifest) else {
        return;
    };
    assert!(
        left.stdout.starts_with("A=b=c\nPATH=/usr/bin:/bin\n"),
        "{}",
        left.stdout
    );
    assert!(left.stdout.contains("-> /dev/null"), "{}", left.stdout);
    assert!(
        left.stdout.ends_with("odd\\ \nname1\n/build/in\n"),
        "{}",
        left.stdout
    );
}

#[test]
fn a_terminal_is_a_terminal_and_changes_no_byte() {
    let mut manifest =
        tool("test -t 2 && ! test -t 1 && stty size <&2 && printf 'a\\nb\\r\\n' >&2");
    manifest.stderr_tty = Some(Window {
        rows: 24,
        columns: 132,
    });
    let Some(left) = run(dir_with(&[]), "", &manifest) else {
        return;
    };
    assert_eq!(left.status, "0\n", "{}", left.stderr);
    assert_eq!(left.stdout, "24 132\n");
    assert_eq!(left.stderr, "a\nb\r\n");
}

#[test]
fn a_killed_tool_is_recorded_by_its_signal() {
    let Some(left) = run(dir_with(&[]), "", &tool("kill -9 $$")) else {
        return;
    };
    assert_eq!(left.status, "signal 9\n");
}

#[test]
fn what_new_files_cannot_tell_is_odd() {
    let mut manifest = tool(
        "echo x >> a; rm b; mkfifo fifo; echo y > c; chmod 600 c; echo z > d; ln d e; echo > /tmp/t;\
         touch -d @1 f; chmod 755 g",
    );
    let names = ["a", "b", "f", "g", "same"];
    manifest.layout = names
        .iter()
        .map(|name| input(&format!("/build/{name}"), "/t/a"))
        .collect();
    let Some(left) = run(dir_with(&[("a", "x")]), "", &manifest) else {
        return;
    };
    let odd = left.odd.unwrap();
    let mut lines: Vec<_> = odd.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "changed: /build/a",
            // The change time tells, though the modification time was set back.
            "changed: /build/f",
            "changed: /build/g",
            "deleted: /build/b",
            "left: /tmp/t",
            "not a plain file: /build/c",
            "not a plain file: /build/d",
            "not a plain file: /build/e",
            "not a plain file: /build/fifo",
        ]
    );
}

#[test]
fn a_missing_tool_or_input_fails_the_runner() {
    let mut no_tool = tool("");
    no_tool.exe = b"/missing".to_vec();
    let mut no_input = tool("");
    no_input.layout = vec![input("/build/a", "/t/missing")];
    for manifest in [no_tool, no_input] {
        let dir = dir_with(&[]);
        fs::copy(env!("CARGO_BIN_EXE_shim-runner"), dir.path().join("runner")).unwrap();
        fs::write(dir.path().join("manifest"), manifest.print()).unwrap();
        let script = "out=/t/out manifestPath=/t/manifest /t/runner";
        let Some(output) = in_new_root(dir.path(), script) else {
            return;
        };
        assert_eq!(output.status.code(), Some(1));
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(message.contains("missing`: No such file"), "{message}");
    }
}

#[test]
fn a_compile_gives_the_bytes_of_the_plain_compiler() {
    if std::process::Command::new("gcc")
        .arg("--version")
        .output()
        .is_err()
    {
        eprintln!("skipped: there is no gcc");
        return;
    }
    let source =
        "#include \"h.h\"\n#include <stdio.h>\nint main(void) { return puts(H __FILE__); }\n";
    let argv = "gcc -g -O2 -Wall -MD -Iinc -c src/a.c -o obj/a.o";
    let mut manifest = tool("");
    manifest.exe = b"/usr/bin/gcc".to_vec();
    manifest.argv = argv.split(' ').map(|arg| arg.as_bytes().to_vec()).collect();
    manifest.cwd = b"/build/p".to_vec();
    manifest.layout = ["", "/src", "/inc", "/obj"]
        .iter()
        .map(|dir| Entry::Directory {
            path: format!("/build/p{dir}").into_bytes(),
        })
        .chain([
            input("/build/p/src/a.c", "/t/a.c"),
            input("/build/p/inc/h.h", "/t/h.h"),
        ])
        .collect();
    let before = format!(
        "mkdir -p p/src p/inc p/obj; cp /t/a.c p/src; cp /t/h.h p/inc; (cd p; PATH=/usr/bin:/bin {argv});\
         cp p/obj/a.o p/obj/a.d /t; rm -r p"
    );
    let dir = dir_with(&[("a.c", source), ("h.h", "#define H \"h\"\n")]);
    let Some(left) = run(dir, &before, &manifest) else {
        return;
    };
    assert_eq!((left.status.as_str(), left.stderr.as_str()), ("0\n", ""));
    for name in ["a.o", "a.d"] {
        let plain = fs::read(left.dir.path().join(name)).unwrap();
        assert_eq!(
            left.file(&format!("build/p/obj/{name}")),
            Some(plain),
            "{name}"
        );
    }
}
