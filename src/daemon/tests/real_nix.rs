//! Real Nix as the client: the one on the PATH, and the one whose directory of
//! programs `DROSTE_TEST_NIX_234` names. What is not there is skipped, and says so.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::thread;

use droste_daemon::{Limits, Server, Trust, serve_streams};

use store_types::{
    ContentAddress, ContentAddressMethod, Derivation, DerivationOutput, HashAlgorithm, References,
    StoreDir, StorePath, sha256,
};
use store_wire::{Request, Response, Version};
use support::{Client, DirStore, options, serve};

/// A Nix, by its directory of programs, with a place for its files.
struct Nix {
    bin: PathBuf,
    home: tempfile::TempDir,
}

impl Nix {
    fn command(&self, program: &str) -> Command {
        let home = self.home.path();
        let mut command = Command::new(self.bin.join(program));
        command
            .current_dir(home)
            .env_clear()
            .env("HOME", home)
            .env("NIX_CONF_DIR", home)
            .env("NIX_STATE_DIR", home.join("state"))
            .env("PATH", format!("{}:/usr/bin:/bin", self.bin.display()))
            .env(
                "NIX_CONFIG",
                "experimental-features = nix-command\nsubstituters =\nbuild-users-group =",
            );
        command
    }

    fn run(&self, program: &str, args: &[&str]) -> Output {
        let output = self.command(program).args(args).output().unwrap();
        println!("{program} {args:?}: {output:?}");
        output
    }

    /// The standard output of a run that must succeed.
    fn ok(&self, program: &str, args: &[&str]) -> String {
        let output = self.run(program, args);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).trim_end().to_owned()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Each Nix there is.
fn nixes() -> Vec<Nix> {
    let on_path = std::env::var_os("PATH")
        .and_then(|path| std::env::split_paths(&path).find(|dir| dir.join("nix-store").exists()));
    if on_path.is_none() {
        println!("skipped for the Nix on the PATH: there is none");
    }
    let other = std::env::var_os("DROSTE_TEST_NIX_234").map(PathBuf::from);
    if other.is_none() {
        println!("skipped for Nix 2.34: DROSTE_TEST_NIX_234 does not name its directory");
    }
    on_path
        .into_iter()
        .chain(other)
        .map(|bin| Nix {
            bin,
            home: tempfile::tempdir().unwrap(),
        })
        .collect()
}

fn served() -> (Arc<DirStore>, Server, String) {
    let store = DirStore::new();
    let (server, socket) = serve(&store, Trust::Trusted, Limits::default());
    let url = format!(
        "unix://{}?root={}",
        socket.display(),
        store.root.path().display()
    );
    (store, server, url)
}

/// A program that passes its standard input and output on to a thread here that
/// serves the store.
fn serve_by_program(store: &Arc<DirStore>) -> PathBuf {
    let dir = store.root.path();
    let program = dir.join("program");
    let (to, from) = (dir.join("to"), dir.join("from"));
    let made = Command::new("mkfifo").args([&to, &from]).status();
    assert!(made.unwrap().success());
    let script = format!(
        "#!/bin/sh\nexec 3<&0\ncat <&3 >{} &\nexec cat {}\n",
        to.display(),
        from.display()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let store = store.clone();
    thread::spawn(move || {
        loop {
            let input = fs::File::open(&to).unwrap();
            let output = fs::OpenOptions::new().write(true).open(&from).unwrap();
            let options = options(Trust::Trusted);
            let served = serve_streams(input, output, &|| false, &mut || {}, &*store, &options);
            println!("served by program: {served:?}");
        }
    });
    program
}

/// A directory with a file, an executable and a link.
fn tree(in_dir: &Path) -> PathBuf {
    let tree = in_dir.join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("file"), vec![b'x'; 300_000]).unwrap();
    fs::write(tree.join("run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(tree.join("run"), PermissionsExt::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("file", tree.join("link")).unwrap();
    tree
}

#[test]
fn real_nix_adds_files_and_asks_about_them() {
    for nix in nixes() {
        let (store, _server, url) = served();
        let tree = tree(nix.home.path());
        let path = nix.ok(
            "nix-store",
            &["--store", &url, "--add", tree.to_str().unwrap()],
        );
        assert!(path.ends_with("-tree"), "{path}");
        let base_name = path.strip_prefix("/nix/store/").unwrap();
        assert_eq!(
            fs::read(store.physical().join(base_name).join("file")).unwrap(),
            vec![b'x'; 300_000]
        );
        let file = tree.join("file");
        let flat = nix.ok(
            "nix-store",
            &[
                "--store",
                &url,
                "--add-fixed",
                "sha256",
                file.to_str().unwrap(),
            ],
        );
        let query = |args: &[&str]| nix.ok("nix-store", &[&["--store", &url, "-q"], args].concat());
        let hash = query(&["--hash", &path]);
        assert!(hash.starts_with("sha256:"), "{hash}");
        assert_eq!(query(&["--references", &path]), "");
        assert_eq!(query(&["--referrers", &path]), "");
        assert_eq!(query(&["--requisites", &flat]), flat);
        let info = nix.ok("nix", &["path-info", "--store", &url, "-s", &path]);
        assert!(info.starts_with(&path), "{info}");
        let all = nix.ok("nix", &["path-info", "--store", &url, "--all"]);
        assert_eq!(all.lines().count(), 2, "{all}");
        let gone = path.replace("-tree", "-gone");
        assert!(
            !nix.run("nix", &["path-info", "--store", &url, &gone])
                .status
                .success()
        );
        let verified = nix.run(
            "nix",
            &["store", "verify", "--no-trust", "--store", &url, &path],
        );
        assert!(verified.status.success(), "{}", text(&verified.stderr));
    }
}

#[test]
fn real_nix_copies_closures_to_and_from() {
    for nix in nixes() {
        let (store, _server, url) = served();
        let chroot = nix.home.path().join("other");
        let other = chroot.to_str().unwrap();
        tree(nix.home.path());
        let expr = "derivation { name = \"x\"; system = \"x\"; builder = \"x\"; src = ./tree; }";
        let drv = nix.ok("nix-instantiate", &["--store", other, "-E", expr]);
        let copy = |from: &str, to: &str| {
            let args = [
                "copy",
                "--no-check-sigs",
                "--derivation",
                "--from",
                from,
                "--to",
                to,
                &drv,
            ];
            nix.ok("nix", &args)
        };
        copy(other, &url);
        // The derivation and the tree that it refers to.
        assert_eq!(store.paths().len(), 2);

        // Once with the store's files beside the socket, once with nothing but the
        // connection: by `ssh-ng`, which runs a program for this host.
        let program = serve_by_program(&store);
        let by_program = format!("ssh-ng://localhost?remote-program={}", program.display());
        for (from, name) in [(&url, "by-files"), (&by_program, "by-connection")] {
            let back = nix.home.path().join(name);
            let back = back.to_str().unwrap();
            copy(from, back);
            nix.ok(
                "nix-store",
                &["--store", back, "--verify", "--check-contents"],
            );
            for question in ["--hash", "--references"] {
                assert_eq!(
                    nix.ok("nix-store", &["--store", back, "-q", question, &drv]),
                    nix.ok("nix-store", &["--store", other, "-q", question, &drv]),
                );
            }
        }
    }
}

#[test]
fn real_nix_builds_shows_the_log_and_the_error() {
    for nix in nixes() {
        let (store, _server, url) = served();
        let derivation = |script: &str| {
            format!(
                "derivation {{ name = \"built\"; system = builtins.currentSystem; \
                 builder = \"/bin/sh\"; args = [ \"-c\" ''{script}'' ]; }}"
            )
        };
        let build = |script: &str| {
            let args = ["--store", &url, "--no-out-link", "-E", &derivation(script)];
            nix.run("nix-build", &args)
        };
        let good = build("echo a line of the log; echo done > $out");
        assert!(good.status.success(), "{}", text(&good.stderr));
        let log = text(&good.stderr);
        assert!(log.contains("building '/nix/store/"), "{log}");
        assert!(log.contains("a line of the log"), "{log}");
        let out = text(&good.stdout);
        let base_name = out.trim_end().strip_prefix("/nix/store/").unwrap();
        assert_eq!(
            fs::read(store.physical().join(base_name)).unwrap(),
            b"done\n"
        );

        let bad = build("echo last words; exit 3");
        assert!(!bad.status.success());
        let log = text(&bad.stderr);
        assert!(
            log.contains("last words") && log.contains("exit status: 3"),
            "{log}"
        );

        // `nix build` asks by BuildPathsWithResults, and shows logs with -L.
        let expr = derivation("echo another log; echo again > $out; # 2");
        let args = [
            "build",
            "--store",
            &url,
            "--impure",
            "--no-link",
            "-L",
            "--expr",
            &expr,
        ];
        let built = nix.run("nix", &args);
        assert!(built.status.success(), "{}", text(&built.stderr));
        assert!(
            text(&built.stderr).contains("another log"),
            "{}",
            text(&built.stderr)
        );
    }
}

/// A derivation that Nix, too, takes for well-formed.
fn fixed_output(dir: &StoreDir, name: &str) -> Derivation {
    let ca = ContentAddress {
        method: ContentAddressMethod::Flat,
        hash: sha256(b"output"),
    };
    let path = dir
        .content_addressed_path(name, &ca, &References::default())
        .unwrap();
    Derivation {
        env: [("out".into(), dir.display(&path).into())].into(),
        outputs: [("out".to_owned(), DerivationOutput::Fixed { ca, path })].into(),
        system: "x86_64-linux".into(),
        builder: "/bin/sh".into(),
        ..Derivation::default()
    }
}

/// The other way round: our client's requests, answered by Nix's daemon and by
/// ours.
#[test]
fn nixs_daemon_and_ours_answer_alike() {
    for nix in nixes() {
        let (theirs, theirs_end) = UnixStream::pair().unwrap();
        let daemon_end = OwnedFd::from(theirs_end);
        let chroot = nix.home.path().join("daemon");
        let mut daemon = nix
            .command("nix-daemon")
            .args(["--stdio", "--store", chroot.to_str().unwrap()])
            .stdin(daemon_end.try_clone().unwrap())
            .stdout(daemon_end)
            .spawn()
            .unwrap();
        let mut theirs = Client::connect(theirs, Version::LATEST).unwrap();

        let store = DirStore::new();
        let (_server, socket) = serve(&store, Trust::Trusted, Limits::default());
        let ours = UnixStream::connect(socket).unwrap();
        let mut ours = Client::connect(ours, theirs.session.version).unwrap();
        assert_eq!(ours.session, theirs.session);

        let nar = support::nar_of_file(b"content");
        let add = |name: &str, method, references| Request::AddToStore {
            name: name.to_owned(),
            method,
            algorithm: HashAlgorithm::Sha256,
            references,
            repair: false,
        };
        let path = StorePath::from_base_name("arsn3ym4k9p5pi2yp6a7bdrfi2mcslx6-x").unwrap();
        let nobody = StorePath::from_hash_and_name(&[3; 20], "nobody").unwrap();
        let dir = StoreDir::default();
        let fixed = fixed_output(&dir, "fixed");
        let drv = fixed.drv_path(&dir, "fixed").unwrap();
        let drv_text = fixed.to_aterm(&dir);
        let none = BTreeSet::new;
        for (request, payload) in [
            (
                add("fixed.drv", ContentAddressMethod::Text, none()),
                &drv_text[..],
            ),
            (add("flat", ContentAddressMethod::Flat, none()), b"content"),
            (add("nar", ContentAddressMethod::Nar, none()), &nar),
            (
                add("text", ContentAddressMethod::Text, [drv.clone()].into()),
                b"text",
            ),
            (
                add("bad", ContentAddressMethod::Nar, none()),
                b"this is not a NAR",
            ),
            (Request::QueryAllValidPaths, b""),
            (Request::QueryPathInfo(drv.clone()), b""),
            (Request::QueryPathInfo(path), b""),
            (Request::IsValidPath(nobody.clone()), b""),
            (Request::EnsurePath(drv.clone()), b""),
            (Request::QueryReferrers(drv.clone()), b""),
            (Request::QueryDerivationOutputMap(drv.clone()), b""),
            (Request::QueryMissing(support::all_of(&drv)), b""),
            (
                Request::QueryPathFromHashPart(drv.hash_part().to_owned()),
                b"",
            ),
            (
                Request::QueryValidPaths {
                    paths: [drv.clone(), nobody.clone()].into(),
                    substitute: false,
                },
                b"",
            ),
            (Request::QueryDeriver(nobody), b""),
            (Request::NarFromPath(drv.clone()), b""),
        ] {
            let is_nar = matches!(request, Request::NarFromPath(_));
            let mut answers = [&mut ours, &mut theirs].map(|client| {
                let answer = client.call(request.clone(), payload);
                let nar = if is_nar { client.nar() } else { Vec::new() };
                (answer.map_err(|_| "some error"), nar)
            });
            for (answer, _) in &mut answers {
                if let Ok(Response::PathInfo(info) | Response::OptionalPathInfo(Some(info))) =
                    answer
                {
                    info.registration_time = 0;
                }
            }
            assert_eq!(answers[0], answers[1], "{request:?}");
        }
        drop(theirs);
        daemon.wait().unwrap();
    }
}

#[test]
fn real_nix_reads_why_it_is_refused() {
    for nix in nixes() {
        let store = DirStore::new();
        let limits = Limits {
            connections_max: 0,
            ..Limits::default()
        };
        let (_server, socket) = serve(&store, Trust::Trusted, limits);
        let url = format!(
            "unix://{}?root={}",
            socket.display(),
            store.root.path().display()
        );
        let refused = nix.run("nix", &["path-info", "--store", &url, "--all"]);
        assert!(!refused.status.success());
        let log = text(&refused.stderr);
        assert!(log.contains("connections already"), "{log}");
    }
}
