//! The command line as users see it: what it prints, and how it exits.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use store_local::LocalStore;
use store_types::{Derivation, DerivationOutput, HashModulo, StoreDir, StorePath};

/// Droste's directory for one test.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn dir(&self) -> &Path {
        self.0.path()
    }

    fn store_root(&self) -> PathBuf {
        self.dir().join("store")
    }

    fn store(&self) -> LocalStore {
        LocalStore::open(&self.store_root(), StoreDir::default()).unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_droste"));
        command
            .args(arguments)
            .env_clear()
            .env("DROSTE_DIR", self.dir())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Run {
        Run::new(self.command(arguments).output().unwrap(), self.dir())
    }
}

/// How a command ended, with Droste's directory as `DIR` in what it wrote.
struct Run {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Run {
    fn new(output: Output, dir: &Path) -> Self {
        let text = |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).unwrap();
            text.replace(dir.to_str().unwrap(), "DIR")
        };
        Self {
            code: output.status.code(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }

    #[track_caller]
    fn fails(&self, code: i32, err: &str) {
        assert_eq!(
            (self.err.as_str(), self.out.as_str(), self.code),
            (err, "", Some(code))
        );
    }

    #[track_caller]
    fn succeeds(&self, out: &str) {
        assert_eq!(
            (self.out.as_str(), self.code),
            (out, Some(0)),
            "{}",
            self.err
        );
    }
}

/// Whether builds have a shell here; says so if not.
fn has_shell() -> bool {
    let has = [
        "/bin/busybox",
        "/usr/bin/busybox",
        "/usr/bin/bash-static",
        "/bin/bash-static",
    ]
    .iter()
    .any(|path| Path::new(path).exists());
    if !has {
        eprintln!(
            "skipped: there is no static shell for builds (install busybox-static or bash-static)"
        );
    }
    has
}

/// Adds an input-addressed derivation that runs a shell script; its path and its output's.
fn add_script(store: &LocalStore, name: &str, script: &str) -> (String, String) {
    let dir = store.store_dir().clone();
    let system = format!("{}-linux", std::env::consts::ARCH);
    let mut drv = Derivation {
        outputs: [("out".to_owned(), DerivationOutput::Deferred)].into(),
        system: system.into(),
        builder: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        env: [("out".into(), "".into())].into(),
        ..Derivation::default()
    };
    let none = |path: &StorePath| -> Result<Derivation, std::fmt::Error> {
        panic!("no inputs, but {path}")
    };
    let hashes = HashModulo::new(dir.clone()).masked(&drv, none).unwrap();
    let out = dir
        .output_path(name, "out", &hashes.by_output["out"])
        .unwrap();
    drv.env.insert("out".into(), dir.display(&out).into());
    drv.outputs.insert(
        "out".to_owned(),
        DerivationOutput::InputAddressed(out.clone()),
    );
    let info = store
        .add_text(
            &format!("{name}.drv"),
            &drv.to_aterm(&dir),
            &BTreeSet::new(),
        )
        .unwrap();
    (dir.display(&info.path), dir.display(&out))
}

#[test]
fn help_lists_the_commands() {
    Home::new().run(&["--help"]).succeeds(
        "A Nix store-compatible executor that looks inside the build

Usage: droste [OPTIONS] <COMMAND>

Commands:
  build             Build derivations, and make every compile a derivation of its own
  run               Run a command of this machine, such as `make -j8`, and memoize its compiler calls
  cc                Run one compiler call, and memoize it: CC=\"droste cc gcc\"
  memo              Run one call of any program, such as bison or a script, and memoize it
  stats             Print what became of compiler calls, over all builds of this store
  store             Look into the store, add to it, and keep it in order
  derivation        Show derivations as JSON, and add them
  child             Look at the children that compiler calls became
  why               Tell why a compiler call was not in memory: the nearest earlier one, and what differs
  toolchain         Compilers for builds, without a Nix package collection
  shims             Add the compiler shims to the store, for the PATH of builds, and print their path
  daemon            Serve the store to Nix's commands and others, and the host's compiler calls, until stopped
  config            Show settings
  remote            Be the remote builder of this machine's Nix: pass what it says on to the daemon
  external-builder  Run one builder for this machine's Nix, which has Droste among its external builders
  demo              Build Lua five times, and show what was not done again

Options:
  -h, --help     Print help
  -V, --version  Print version

Options of every command:
      --store <DIR>  The store: the directory that it lies in, or as Nix names it (`local?root=…&store=…&state=…&log=…&real=…`, `auto`) [default: $DROSTE_DIR/store]
  -v, --verbose      Tell more, such as why compiler calls ran in place
      --quiet        Tell nothing but errors
",
    );
}

#[test]
fn a_wrong_command_line_is_explained() {
    let home = Home::new();
    home.run(&["bogus"]).fails(
        1,
        "error: unrecognized subcommand 'bogus'

Usage: droste [OPTIONS] <COMMAND>

For more information, try '--help'.
",
    );
    home.run(&["build"]).fails(
        1,
        "error: the following required arguments were not provided:
  <PATH.drv[^OUTPUT]…[^OUTPUTS]>...

Usage: droste build <PATH.drv[^OUTPUT]…[^OUTPUTS]>...

For more information, try '--help'.
",
    );
    let run = home.run(&["build", "-j", "x", "x.drv"]);
    assert_eq!(run.code, Some(1));
    assert!(
        run.err
            .starts_with("error: configuration setting 'max-jobs' should be 'auto' or an integer"),
        "{}",
        run.err
    );
}

#[test]
fn a_store_that_is_not_there_is_not_made() {
    let home = Home::new();
    let drv = "/nix/store/0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-x.drv";
    for arguments in [
        &["build", drv][..],
        &["store", "path-info", drv],
        &["store", "verify"],
    ] {
        home.run(arguments).fails(
            1,
            "error: there is no store in `DIR/store`\n\
             hint: `--store DIR` names another; `droste run`, `droste build -f` or `droste toolchain import` makes one\n",
        );
    }
    home.run(&["store", "dump", drv, "--store", "/no/such/dir"])
        .fails(
            1,
            "error: there is no store in `/no/such/dir`\n\
         hint: `--store DIR` names the directory that has `nix/store` in it\n",
        );
    assert!(!home.store_root().exists());
}

#[test]
fn without_a_home_there_is_no_default_store() {
    if rustix::process::geteuid().is_root() {
        eprintln!("skipped: root's default does not depend on the environment");
        return;
    }
    let home = Home::new();
    let output = home
        .command(&["store", "verify"])
        .env_remove("DROSTE_DIR")
        .output()
        .unwrap();
    Run::new(output, home.dir()).fails(
        1,
        "error: there is no place for Droste's files: `DROSTE_DIR`, `XDG_STATE_HOME` and `HOME` are not set\n\
         hint: set `DROSTE_DIR` to a directory of yours\n",
    );
}

#[test]
fn what_cannot_be_built_is_told_from_the_path_alone() {
    let home = Home::new();
    drop(home.store());
    home.run(&["build", "no-such.drv"]).fails(
        1,
        "error: `no-such.drv` is not a path of the store, and there is no such file\n",
    );
    home.run(&["build", "/nix/store/0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-x"])
        .fails(
            1,
            "error: `/nix/store/0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-x` is not a derivation: \
         its name does not end in `.drv`\n",
        );
    home.run(&["build", "/nix/store/0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-x.drv^"]).fails(
        1,
        "error: `/nix/store/0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-x.drv^` does not end in `*` or in names of outputs\n",
    );
    home.run(&["build", "/nix/store/x.drv"]).fails(
        1,
        "error: `/nix/store/x.drv` is not a store path\n       \
         because: `x.drv` is not a store path: it does not begin with a hash of 32 characters and `-`\n",
    );
    for name in ["x.drv", "x.nix"] {
        std::fs::write(home.dir().join(name), "").unwrap();
    }
    let path = |name: &str| home.dir().join(name).display().to_string();
    home.run(&["build", &path("x.drv")]).fails(
        1,
        "error: `DIR/x.drv` is not in the store: it is neither below `/nix/store` nor below \
         `DIR/store/nix/store`\n\
         hint: a derivation is built in the store that it and its inputs are in: copy them with \
         `nix copy --to DIR/store`, or name their store with `--store DIR`\n",
    );
    home.run(&["build", &path("x.nix")]).fails(
        1,
        "error: `DIR/x.nix` is not in the store: it is neither below `/nix/store` nor below \
         `DIR/store/nix/store`\n\
         hint: `droste build -f DIR/x.nix` builds what a Nix expression evaluates to\n",
    );
}

#[test]
fn a_derivation_that_is_not_in_the_store_is_named() {
    let home = Home::new();
    drop(home.store());
    home.run(&["build", "/nix/store/0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-x.drv"]).fails(
        1,
        "error: derivation `/nix/store/0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-x.drv` is not valid in store \
         `DIR/store/nix/store`\n\
         hint: `--store DIR` says which store is meant\n",
    );
}

#[test]
fn an_expression_needs_nix() {
    let home = Home::new();
    let file = home.dir().join("x.nix");
    let file = file.to_str().unwrap();
    home.run(&["build", "-f", file])
        .fails(1, "error: there is no file `DIR/x.nix`\n");
    std::fs::write(file, "{ }").unwrap();
    let output = home
        .command(&["build", "-f", file])
        .env("PATH", "/no/such/dir")
        .output()
        .unwrap();
    Run::new(output, home.dir()).fails(
        1,
        "error: `nix-instantiate` is not installed, and only Nix can evaluate Nix expressions\n\
         hint: install Nix (Debian: `apt-get install nix-bin`), or give `droste build` a `.drv` file\n",
    );
}

#[test]
fn objects_are_added_found_and_dumped() {
    let home = Home::new();
    let file = home.dir().join("hello.txt");
    std::fs::write(&file, "hi\n").unwrap();
    // The paths that `nix store add` gives this file.
    let path = "/nix/store/5klx9pxl1c90q0j01ph753cpfm5dz3as-hello.txt\n";
    home.run(&["store", "add", file.to_str().unwrap()])
        .succeeds(path);
    home.run(&["store", "add", "--mode", "flat", file.to_str().unwrap()])
        .succeeds("/nix/store/q6fyiz481z6l13rs7wg2cz7id7gz74zv-hello.txt\n");
    let path = path.trim_end();
    home.run(&["store", "path-info", "-r", path])
        .succeeds(&format!("{path}\n"));
    home.run(&["store", "path-info", "-S", path])
        .succeeds(&format!("{path}\t120\n"));
    let json = home.run(&["store", "path-info", "--json", path]);
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(json[path]["narSize"], 120);
    assert_eq!(json[path]["references"], serde_json::json!([]));
    let physical = home.store_root().join(&path[1..]);
    let dump = home.run(&["store", "dump", physical.to_str().unwrap()]);
    assert_eq!((dump.out.len(), dump.code), (120, Some(0)));
    home.run(&["store", "path-info", "/nix/store/0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-x"]).fails(
        1,
        "error: path `/nix/store/0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-x` is not valid in the store in `DIR/store`\n",
    );
    let none = home.dir().join("none");
    home.run(&["store", "add", none.to_str().unwrap()]).fails(
        1,
        "error: cannot read `DIR/none`\n       because: No such file or directory (os error 2)\n",
    );
}

#[test]
fn a_damaged_object_is_found_when_contents_are_checked() {
    let home = Home::new();
    let file = home.dir().join("hello.txt");
    std::fs::write(&file, "hi\n").unwrap();
    let path = home.run(&["store", "add", file.to_str().unwrap()]).out;
    let physical = home
        .store_root()
        .join(path.trim_end().trim_start_matches('/'));
    let run = home.run(&["store", "verify", "--check-contents"]);
    assert_eq!(
        (run.err.as_str(), run.code),
        ("1 store paths are as they should be\n", Some(0))
    );
    std::fs::remove_file(&physical).unwrap();
    std::fs::write(&physical, "ho\n").unwrap();
    let run = home.run(&["store", "verify", "--no-check-contents"]);
    assert_eq!(run.code, Some(0));
    let run = home.run(&["store", "verify"]);
    assert_eq!(run.code, Some(1));
    assert!(
        run.err
            .contains("-hello.txt` was modified: expected hash `sha256-"),
        "{}",
        run.err
    );
    std::fs::remove_file(&physical).unwrap();
    let run = home.run(&["store", "verify"]);
    assert_eq!(run.code, Some(1));
    assert!(
        run.err.contains("-hello.txt` has disappeared\n"),
        "{}",
        run.err
    );
}

#[test]
fn a_build_prints_its_outputs_and_then_finds_them() {
    if !has_shell() {
        return;
    }
    let home = Home::new();
    let (drv, out) = add_script(&home.store(), "good", "echo some output; echo hi > $out");
    let physical = home.store_root().join(&drv[1..]);
    let run = home.run(&["build", "-L", physical.to_str().unwrap()]);
    run.succeeds(&format!("{out}\n"));
    let lines: Vec<&str> = run.err.lines().collect();
    assert_eq!(lines[..2], ["building good", "good> some output"]);
    assert!(lines[2].starts_with("built good in "), "{}", run.err);
    assert_eq!(
        lines[3..],
        ["note: `/nix/store` is `DIR/store/nix/store` on this machine"]
    );
    let run = home.run(&["build", "--quiet", "--json", &drv]);
    assert_eq!(run.err, "");
    let mut json: serde_json::Value = serde_json::from_str(&run.out).unwrap();
    assert!(json[0]["wallSeconds"].take().is_number());
    assert_eq!(
        json,
        serde_json::json!([{
            "drvPath": drv,
            "outputs": { "out": out },
            "status": "alreadyValid",
            "children": { "built": 0, "reused": 0, "substituted": 0, "inPlace": 0 },
            "inPlaceReasons": {},
            "notSharedReasons": {},
            "undeclaredInputs": {},
            "wallSeconds": null,
        }])
    );
}

#[test]
fn a_failed_build_is_told_with_its_log_and_nixs_exit_code() {
    if !has_shell() {
        return;
    }
    let home = Home::new();
    let store = home.store();
    let (bad, _) = add_script(&store, "bad", "echo one; echo two; exit 3");
    let run = home.run(&["build", "--quiet", "--log-lines", "1", &bad]);
    run.fails(
        100,
        &format!(
            "error: cannot build `{bad}`; reason: builder failed with exit code 3;\n       \
             last 1 log lines:\n       > two\n\
             hint: `--print-build-logs` shows the whole log, `--keep-failed` keeps the build directory\n"
        ),
    );
    let (nothing, out) = add_script(&store, "nothing", "exit 0");
    home.run(&["build", "--quiet", &nothing]).fails(
        1,
        &format!("error: builder for `{nothing}` failed to produce output path for output `out` at `{out}`\n"),
    );
    let run = home.run(&["build", "--quiet", "--keep-going", "--json", &nothing, &bad]);
    assert_eq!(run.code, Some(100));
    let json: serde_json::Value = serde_json::from_str(&run.out).unwrap();
    let of = |index: usize| {
        (
            json[index]["drvPath"].as_str(),
            json[index]["status"].as_str(),
        )
    };
    assert_eq!(of(0), (Some(&*nothing), Some("failed")));
    assert_eq!(of(1), (Some(&*bad), Some("failed")));
    assert!(
        json[1]["error"]
            .as_str()
            .unwrap()
            .contains("failed with exit code 3")
    );
}

#[test]
fn a_rebuild_compares_and_needs_something_to_compare_with() {
    if !has_shell() {
        return;
    }
    let home = Home::new();
    let store = home.store();
    let (drv, out) = add_script(
        &store,
        "fickle",
        "read x < /proc/sys/kernel/random/uuid; echo $x > $out",
    );
    home.run(&["build", "--quiet", "--rebuild", &drv]).fails(
        1,
        &format!(
            "error: some outputs of `{drv}` are not valid, so checking is not possible\n\
             hint: build it without `--rebuild` first\n"
        ),
    );
    home.run(&["build", "--quiet", &drv])
        .succeeds(&format!("{out}\n"));
    home.run(&["build", "--quiet", "--rebuild", &drv]).fails(
        104,
        &format!("error: derivation `{drv}` may not be deterministic: output `{out}` differs\n"),
    );
}

#[test]
fn an_interrupted_build_ends_at_once_and_leaves_nothing() {
    if !has_shell() {
        return;
    }
    let home = Home::new();
    let (drv, out) = add_script(&home.store(), "endless", "while true; do :; done");
    let mut command = home.command(&["build", &drv]);
    let mut running = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut err = BufReader::new(running.stderr.take().unwrap()).lines();
    assert_eq!(err.next().unwrap().unwrap(), "building endless");
    let pid = rustix::process::Pid::from_child(&running);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let rest: Vec<String> = err.map(Result::unwrap).collect();
    assert_eq!(running.wait().unwrap().code(), Some(1));
    assert_eq!(
        rest.last().map(String::as_str),
        Some("error: interrupted by the user")
    );
    assert!(!home.store_root().join(&out[1..]).exists());
    let builds = std::fs::read_dir(home.store_root().join("nix/var/nix/builds")).unwrap();
    assert_eq!(builds.count(), 0);
}

#[test]
fn a_daemon_serves_until_it_is_stopped() {
    let home = Home::new();
    let run = home.run(&["daemon", "stop"]);
    assert_eq!(
        (run.err.as_str(), run.code),
        ("no daemon is running\n", Some(0))
    );
    let mut running = home
        .command(&["daemon"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut err = BufReader::new(running.stderr.take().unwrap()).lines();
    let serving = err.next().unwrap().unwrap();
    assert!(serving.starts_with("serving the store in "), "{serving}");
    home.run(&["daemon"]).fails(
        1,
        "error: a daemon is running already\nhint: `droste daemon stop` ends it\n",
    );
    let run = home.run(&["daemon", "stop"]);
    assert_eq!(
        (run.err.as_str(), run.code),
        ("the daemon has ended\n", Some(0))
    );
    assert_eq!(running.wait().unwrap().code(), Some(0));
    assert!(!home.dir().join("daemon.socket").exists());
}

#[test]
fn a_child_that_never_was_is_not_shown() {
    let home = Home::new();
    drop(home.store());
    home.run(&["child", "show", "lapi.o"]).fails(
        1,
        "error: no child has `lapi.o` in the name of its derivation or output\n\
         hint: a child is remembered once a compile was built with `--memo on`\n",
    );
}

#[test]
fn an_empty_memo_has_statistics_and_none_is_made_for_them() {
    let home = Home::new();
    let run = home.run(&["stats", "--print-stats"]);
    assert_eq!((run.err.as_str(), run.code), ("", Some(0)));
    assert!(run.out.contains("direct_cache_hit\t0\n"), "{}", run.out);
    assert!(run.out.lines().all(|line| line.ends_with("\t0")));
    home.run(&["stats", "--zero"]).succeeds("");
    home.run(&["stats"]).succeeds(
        "\
compiler calls                   0
  reused                         0
  built                          0
  in place                       0
children remembered              0
objects in the store             0
size of the store              0 B
",
    );
    let entries = std::fs::read_dir(home.dir()).unwrap();
    assert_eq!(entries.count(), 0);
}

#[test]
fn a_command_runs_as_it_is_when_droste_is_turned_off() {
    let home = Home::new();
    let script = "echo out; echo \"$PATH\" >&2; exit 3";
    let output = home
        .command(&["run", "--", "sh", "-c", script])
        .env("DROSTE_DISABLE", "1")
        .env("PATH", "/bin:/usr/bin")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(output.stdout, b"out\n");
    assert_eq!(output.stderr, b"/bin:/usr/bin\n");
    let output = home
        .command(&["cc", "no-such-compiler", "-c"])
        .env("DROSTE_DISABLE", "1")
        .env("PATH", "/bin:/usr/bin")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(127));
    assert!(String::from_utf8_lossy(&output.stderr).contains("`no-such-compiler`"));
    let entries = std::fs::read_dir(home.dir()).unwrap();
    assert_eq!(entries.count(), 0);
}

#[test]
fn no_daemon_is_a_status_too() {
    let run = Home::new().run(&["daemon", "status"]);
    assert_eq!(
        (run.out.as_str(), run.err.as_str(), run.code),
        ("no daemon is running\n", "", Some(1))
    );
}
