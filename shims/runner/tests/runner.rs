//! The runner as the builder of a derivation: real `/build`, real tools.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rstest::rstest;
use shim_core::manifest::{Entry, LAID_OUT, Manifest, PREPARED_ROOT, WORK_DIR};
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

fn directory(path: &str) -> Entry {
    Entry::Directory {
        path: path.as_bytes().to_vec(),
    }
}

fn link(path: &str, target: &str) -> Entry {
    Entry::Link {
        path: path.as_bytes().to_vec(),
        target: target.as_bytes().to_vec(),
    }
}

fn bind(path: &str, source: &str) -> Entry {
    Entry::Bind {
        path: path.as_bytes().to_vec(),
        source: source.as_bytes().to_vec(),
    }
}

/// What a program of the machine's needs, as binds and links: `/t`, in which `$out` is, stands for
/// the store.
const MACHINE: &str = "mkdir /t/usr; mount --rbind /usr /t/usr";

fn machine() -> Vec<Entry> {
    let mut entries = vec![bind("/usr", "/t/usr")];
    for name in ["bin", "lib", "lib64"] {
        if fs::symlink_metadata(format!("/{name}")).is_ok_and(|found| found.is_symlink()) {
            entries.push(link(&format!("/{name}"), &format!("usr/{name}")));
        }
    }
    entries
}

/// Whether `/bin` and its like are links, as they have to be for the above.
fn has_merged_usr() -> bool {
    let merged = fs::symlink_metadata("/bin").is_ok_and(|found| found.is_symlink());
    if !merged {
        eprintln!("skipped: `/bin` is no link to `/usr/bin`");
    }
    merged
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

/// A script that lays out what the manifest would have the runner copy, and takes the sources away.
fn lay_out(manifest: &Manifest) -> String {
    let mut script = format!("touch {LAID_OUT}; mkdir -p {PREPARED_ROOT}");
    let work_dir = str::from_utf8(WORK_DIR).unwrap();
    for entry in &manifest.layout {
        if let Entry::File {
            path,
            mtime_seconds,
            source,
            executable,
        } = entry
        {
            let (path, source) = (
                str::from_utf8(path).unwrap(),
                str::from_utf8(source).unwrap(),
            );
            let is_inside = manifest.is_in_work_dir() || Path::new(path).starts_with(work_dir);
            let place = if is_inside {
                path.to_owned()
            } else {
                format!("{PREPARED_ROOT}{path}")
            };
            let mode = if *executable { "755" } else { "644" };
            script.push_str(&format!(
                "; p={place}; mkdir -p ${{p%/*}}; cp {source} $p; chmod {mode} $p; touch -d @{mtime_seconds} $p"
            ));
        }
    }
    format!("{script}; rm -f /t/a /t/b /t/c /t/d")
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
fn files_that_are_laid_out_already_are_inputs_and_not_copied() {
    let mut manifest =
        tool("ls -A . deep; cat deep/in/a; echo new > deep/in/new; echo x > deep/in/b");
    manifest.layout = vec![
        directory("/build/empty"),
        input("/build/deep/in/a", "/t/a"),
        input("/build/deep/in/b", "/t/b"),
    ];
    let before = format!("touch /build/env-vars; {}", lay_out(&manifest));
    let dir = dir_with(&[("a", "a\n"), ("b", "b\n")]);
    let Some(left) = run(dir, &before, &manifest) else {
        return;
    };
    assert_eq!((left.status.as_str(), left.stderr.as_str()), ("0\n", ""));
    assert_eq!(left.stdout, ".:\ndeep\nempty\nenv-vars\n\ndeep:\nin\na\n");
    assert_eq!(left.odd.as_deref(), Some("changed: /build/deep/in/b\n"));
    assert_eq!(
        left.file("build/deep/in/new").as_deref(),
        Some(&b"new\n"[..])
    );
    for absent in ["build/deep/in/a", "build/env-vars", "build/empty"] {
        assert!(left.path(absent).symlink_metadata().is_err(), "{absent}");
    }
}

#[test]
fn files_that_are_laid_out_in_another_way_than_the_manifest_says_fail_the_runner() {
    let mut manifest = tool("true");
    manifest.layout = vec![input("/build/a", "/t/a")];
    let right = lay_out(&manifest);
    for wrong in ["touch -d @2 /build/a", "chmod 755 /build/a", "rm /build/a"] {
        let dir = dir_with(&[("a", "a\n")]);
        fs::copy(env!("CARGO_BIN_EXE_shim-runner"), dir.path().join("runner")).unwrap();
        fs::write(dir.path().join("manifest"), manifest.print()).unwrap();
        let script = format!("{right}; {wrong}; out=/t/out manifestPath=/t/manifest /t/runner");
        let Some(output) = in_new_root(dir.path(), &script) else {
            return;
        };
        assert!(!output.status.success(), "{wrong}");
    }
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

/// Compiles once plainly and once as a child, both in the directory `p` of `base`, and compares.
fn compare_compiles(base: &str, before: &str, layout: Vec<Entry>) {
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
    manifest.cwd = format!("{base}/p").into_bytes();
    manifest.layout = layout;
    let dirs = ["", "/src", "/inc", "/obj"];
    let dirs = dirs.map(|dir| directory(&format!("{base}/p{dir}")));
    manifest.layout.extend(dirs);
    manifest.layout.extend([
        input(&format!("{base}/p/src/a.c"), "/t/a.c"),
        input(&format!("{base}/p/inc/h.h"), "/t/h.h"),
    ]);
    let before = format!(
        "{before}\ncd {base}\n\
         mkdir -p p/src p/inc p/obj; cp /t/a.c p/src; cp /t/h.h p/inc; (cd p; PATH=/usr/bin:/bin {argv});\
         cp p/obj/a.o p/obj/a.d /t; rm -r p; cd /build"
    );
    let dir = dir_with(&[("a.c", source), ("h.h", "#define H \"h\"\n")]);
    let Some(left) = run(dir, &before, &manifest) else {
        return;
    };
    assert_eq!((left.status.as_str(), left.stderr.as_str()), ("0\n", ""));
    assert_eq!(left.odd, None);
    for name in ["a.o", "a.d"] {
        let plain = fs::read(left.dir.path().join(name)).unwrap();
        let child = left.file(&format!("{}/p/obj/{name}", &base[1..]));
        assert_eq!(child, Some(plain), "{name}");
    }
}

#[test]
fn a_compile_gives_the_bytes_of_the_plain_compiler() {
    compare_compiles("/build", "", Vec::new());
}

#[test]
fn a_compile_elsewhere_gives_the_bytes_of_the_plain_compiler() {
    if has_merged_usr() {
        // A place that is not the machine's own.
        let before = format!("{MACHINE}; mount -t tmpfs none /srv");
        compare_compiles("/srv", &before, machine());
    }
}

#[rstest]
#[case::copied_by_the_runner(false)]
#[case::laid_out_by_the_sandbox(true)]
fn files_lie_anywhere_and_new_ones_are_found_anywhere(#[case] is_laid_out: bool) {
    if !has_merged_usr() {
        return;
    }
    let mut manifest = tool(
        "cat /home/u/p/a /opt/deep/in/b /usr/new/include/c.h; cat /etc/x/conf; stat -c '%Y %a' a;\
         echo new > new; mkdir -p /home/u/p/sub/empty; echo top > /top; echo opt > /opt/deep/new;\
         echo build > /build/new; echo left > /tmp/left; echo kept > /tmp/checkout/new;\
         grep -c MemTotal /proc/meminfo; id -u; pwd; ls / /tmp; ls -l /proc/self/fd | wc -l",
    );
    manifest.cwd = b"/home/u/p".to_vec();
    manifest.layout = machine();
    // The parts of `/usr`, so that there can be something beside them.
    let parts = fs::read_dir("/usr").unwrap();
    let parts = parts.map(|part| part.unwrap().file_name().into_string().unwrap());
    let parts = parts.filter(|part| !Path::new("/usr").join(part).is_symlink());
    let parts = parts.map(|part| bind(&format!("/usr/{part}"), &format!("/t/usr/{part}")));
    manifest.layout.splice(..1, parts);
    manifest.layout.extend([
        directory("/tmp"),
        directory("/home"),
        directory("/home/u/p"),
        input("/home/u/p/a", "/t/a"),
        input("/opt/deep/in/b", "/t/b"),
        input("/usr/new/include/c.h", "/t/c"),
        input("/etc/x/conf", "/t/d"),
        input("/tmp/checkout/a", "/t/a"),
        input("/build/in", "/t/a"),
    ]);
    let files = [("a", "a\n"), ("b", "b\n"), ("c", "c\n"), ("d", "d\n")];
    let mut before = format!("{MACHINE}; touch /build/env-vars");
    if is_laid_out {
        before = format!("{before}; {}", lay_out(&manifest));
    }
    let Some(left) = run(dir_with(&files), &before, &manifest) else {
        return;
    };
    assert_eq!((left.status.as_str(), left.stderr.as_str()), ("0\n", ""));
    let mut names = String::new();
    for name in [
        "bin", "build", "dev", "etc", "home", "lib", "lib64", "opt", "proc", "t",
    ] {
        if name != "lib" && name != "lib64" || fs::symlink_metadata(format!("/{name}")).is_ok() {
            names.push_str(name);
            names.push('\n');
        }
    }
    assert_eq!(
        left.stdout,
        format!(
            "a\nb\nc\nd\n1 644\n1\n0\n/home/u/p\n/:\n{names}tmp\ntop\nusr\n\n/tmp:\ncheckout\nleft\n5\n"
        )
    );
    assert_eq!(left.odd.as_deref(), Some("left: /tmp/left\n"));
    for (path, text) in [
        ("home/u/p/new", "new\n"),
        ("top", "top\n"),
        ("opt/deep/new", "opt\n"),
        ("build/new", "build\n"),
        ("tmp/checkout/new", "kept\n"),
    ] {
        assert_eq!(left.file(path).as_deref(), Some(text.as_bytes()), "{path}");
    }
    assert!(left.path("home/u/p/sub/empty").is_dir());
    for absent in [
        "home/u/p/a",
        "opt/deep/in",
        "usr",
        "etc",
        "build/in",
        "build/env-vars",
        "t",
    ] {
        assert!(left.path(absent).symlink_metadata().is_err(), "{absent}");
    }
}

#[test]
fn what_new_files_cannot_tell_is_odd_in_a_root_of_its_own() {
    if !has_merged_usr() {
        return;
    }
    let mut manifest = tool(
        "echo x >> /srv/a; rm /srv/b; rm -r /srv/dir; rm -f /etc/passwd; (echo > /usr/x) 2>&-;\
         (touch /usr/bin/sh) 2>&- && echo touched",
    );
    manifest.cwd = b"/srv".to_vec();
    manifest.layout = machine();
    manifest.layout.extend([
        input("/srv/a", "/t/a"),
        input("/srv/b", "/t/a"),
        directory("/srv/dir"),
    ]);
    let Some(left) = run(dir_with(&[("a", "a")]), MACHINE, &manifest) else {
        return;
    };
    assert_eq!(left.stdout, "", "a bind is read-only");
    let odd = left.odd.unwrap();
    let mut lines: Vec<_> = odd.lines().collect();
    lines.sort_unstable();
    let mut expected = vec!["changed: /srv/a"];
    if Path::new("/etc/passwd").is_file() {
        expected.push("deleted: /etc/passwd");
    }
    expected.extend(["deleted: /srv/b", "deleted: /srv/dir"]);
    assert_eq!(lines, expected);
}

#[test]
fn the_sandboxs_own_places_are_not_for_files() {
    if !has_merged_usr() {
        return;
    }
    for (entry, place) in [
        (input("/proc/x", "/t/a"), "/proc"),
        (input("/dev/x", "/t/a"), "/dev"),
        (directory("/sys"), "/sys"),
        (directory("/t/new"), "/t"),
        (input("/etc/passwd", "/t/a"), "/etc/passwd"),
        (bind("/t/x", "/t/a"), "/t"),
    ] {
        let mut manifest = tool("");
        manifest.cwd = b"/".to_vec();
        manifest.layout = vec![directory("/dev"), entry];
        let dir = dir_with(&[("a", "")]);
        fs::copy(env!("CARGO_BIN_EXE_shim-runner"), dir.path().join("runner")).unwrap();
        fs::write(dir.path().join("manifest"), manifest.print()).unwrap();
        let script = "out=/t/out manifestPath=/t/manifest /t/runner";
        let Some(output) = in_new_root(dir.path(), script) else {
            return;
        };
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        let end = format!("`{place}` is the sandbox's own\n");
        assert!(message.ends_with(&end), "{message}");
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn a_shell_is_there_unless_the_manifest_has_another() {
    // Whatever the sandbox has; it may lack what it needs to run.
    let mut manifest = tool("");
    manifest.exe = b"/usr/busybox".to_vec();
    manifest.argv = ["ls", "/bin"].map(|arg| arg.as_bytes().to_vec()).into();
    manifest.cwd = b"/".to_vec();
    manifest.layout = vec![bind("/usr/busybox", "/t/busybox")];
    let busybox = Path::new("/bin/busybox");
    if !busybox.exists() {
        eprintln!("skipped: there is no busybox");
        return;
    }
    let with = || {
        let dir = dir_with(&[("a", "")]);
        fs::copy(busybox, dir.path().join("busybox")).unwrap();
        dir
    };
    let Some(left) = run(with(), "", &manifest) else {
        return;
    };
    assert_eq!((left.stdout.as_str(), left.stderr.as_str()), ("sh\n", ""));
    manifest.layout.push(input("/bin/other", "/t/a"));
    let left = run(with(), "", &manifest).expect("there are namespaces");
    assert_eq!(left.stdout, "other\n");
}
