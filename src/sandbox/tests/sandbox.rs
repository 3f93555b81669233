//! The sandbox as seen from inside and from outside.
//!
//! One executable in several roles, told apart by its first argument: the runner of the tests, the
//! spawner, the program inside the sandbox (`inside`), and a process that starts sandboxes and is
//! then killed (`owner`). As root every test runs twice, as root and as an ordinary user; the second
//! time in a copy of this executable that a plain user can read.

mod inside;
mod watching;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio as ProcessStdio};
use std::time::Duration;

use droste_sandbox::{
    Error, Exit, ExitStatus, Mount, Network, Node, OnDisk, Owner, Parts, Personality, Pty, Request,
    Root, Running, Source, Spawner, Stdio, Step, TmpfsSize, dev_nodes, etc_files, network_files,
    proc_mount,
};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Of builds where the tests run as root.
const HOST_ID: u32 = 872_415_232;
/// The ordinary user of the second round.
const ORDINARY_ID: u32 = 54_321;
/// How long something may take that has to happen, before a test fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(60);

type Test = (&'static str, fn(&Context));

const TESTS: &[Test] = &[
    (
        "a_build_sees_what_nix_shows_it",
        a_build_sees_what_nix_shows_it,
    ),
    (
        "a_build_is_refused_what_nix_refuses",
        a_build_is_refused_what_nix_refuses,
    ),
    (
        "nothing_of_the_host_is_visible",
        nothing_of_the_host_is_visible,
    ),
    (
        "writes_reach_the_writable_bind_and_no_input",
        writes_reach_the_writable_bind_and_no_input,
    ),
    ("stdio_is_what_was_passed", stdio_is_what_was_passed),
    (
        "the_log_is_a_terminal_in_raw_mode",
        the_log_is_a_terminal_in_raw_mode,
    ),
    (
        "a_thirty_two_bit_personality_is_set",
        a_thirty_two_bit_personality_is_set,
    ),
    (
        "exit_status_signal_and_processor_time_are_told",
        exit_status_signal_and_processor_time_are_told,
    ),
    (
        "processes_left_behind_end_with_the_program",
        processes_left_behind_end_with_the_program,
    ),
    ("kill_and_drop_end_a_sandbox", kill_and_drop_end_a_sandbox),
    (
        "each_fault_names_its_step_and_path",
        each_fault_names_its_step_and_path,
    ),
    (
        "no_link_in_the_root_leads_a_mount_astray",
        no_link_in_the_root_leads_a_mount_astray,
    ),
    ("a_link_as_a_source_is_copied", a_link_as_a_source_is_copied),
    (
        "a_later_mount_covers_an_earlier_one",
        a_later_mount_covers_an_earlier_one,
    ),
    ("a_passed_descriptor_is_bound", a_passed_descriptor_is_bound),
    (
        "later_mounts_appear_in_the_live_sandbox",
        later_mounts_appear_in_the_live_sandbox,
    ),
    (
        "later_mounts_need_to_be_asked_for",
        later_mounts_need_to_be_asked_for,
    ),
    (
        "the_root_descriptor_shows_what_the_build_sees",
        the_root_descriptor_shows_what_the_build_sees,
    ),
    (
        "a_large_request_arrives_whole",
        a_large_request_arrives_whole,
    ),
    (
        "copies_are_files_of_the_build_with_their_own_time",
        copies_are_files_of_the_build_with_their_own_time,
    ),
    ("threads_share_a_spawner", threads_share_a_spawner),
    (
        "two_hundred_starts_leak_no_descriptor",
        two_hundred_starts_leak_no_descriptor,
    ),
    (
        "with_the_hosts_network_abstract_sockets_are_cut_off",
        with_the_hosts_network_abstract_sockets_are_cut_off,
    ),
    (
        "the_owners_death_leaves_nothing",
        the_owners_death_leaves_nothing,
    ),
    (
        "no_moment_of_the_owners_death_leaves_anything",
        no_moment_of_the_owners_death_leaves_anything,
    ),
    (
        "without_user_namespaces_the_error_says_so",
        without_user_namespaces_the_error_says_so,
    ),
    (
        "the_spawners_death_ends_its_sandboxes",
        the_spawners_death_ends_its_sandboxes,
    ),
    (
        "forgotten_scratch_directories_stay",
        forgotten_scratch_directories_stay,
    ),
    (
        "every_lookup_is_seen_also_of_threads_and_descendants",
        watching::every_lookup_is_seen_also_of_threads_and_descendants,
    ),
    (
        "what_cannot_be_told_is_said_to_be_so",
        watching::what_cannot_be_told_is_said_to_be_so,
    ),
    (
        "a_file_made_while_its_lookup_waits_is_found",
        watching::a_file_made_while_its_lookup_waits_is_found,
    ),
    (
        "a_file_can_be_made_in_a_root_of_the_programs_own",
        watching::a_file_can_be_made_in_a_root_of_the_programs_own,
    ),
    ("a_lookup_can_be_refused", watching::a_lookup_can_be_refused),
    (
        "a_watched_build_is_refused_the_same",
        watching::a_watched_build_is_refused_the_same,
    ),
    (
        "a_watched_sandbox_has_no_ring_and_its_other_abis_are_watched",
        watching::a_watched_sandbox_has_no_ring_and_its_other_abis_are_watched,
    ),
    (
        "the_end_of_a_watched_sandbox_ends_the_watching",
        watching::the_end_of_a_watched_sandbox_ends_the_watching,
    ),
    (
        "without_a_watcher_lookups_fail_and_nothing_hangs",
        watching::without_a_watcher_lookups_fail_and_nothing_hangs,
    ),
    (
        "a_watched_program_that_is_missing_is_an_error",
        watching::a_watched_program_that_is_missing_is_an_error,
    ),
    (
        "many_threads_lookups_are_seen_each",
        watching::many_threads_lookups_are_seen_each,
    ),
];

fn main() -> ExitCode {
    droste_sandbox::run_if_spawner();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("inside") => {
            inside::run(&arguments[1..]);
            ExitCode::SUCCESS
        }
        Some("owner") => own(Path::new(&arguments[1])),
        Some("busy_owner") => own_busily(Path::new(&arguments[1])),
        Some("try") => {
            let context = Context::new(rustix::process::geteuid().is_root());
            match context.spawner.spawn(&context.child(&["exit", "0"]), &[]) {
                Ok(_) => println!("started"),
                Err(error) => println!("{}", chain(&error)),
            }
            ExitCode::SUCCESS
        }
        _ => {
            let mut names = arguments
                .iter()
                .filter(|argument| !argument.starts_with('-'));
            run_tests(names.next().map_or("", String::as_str))
        }
    }
}

fn run_tests(filter: &str) -> ExitCode {
    let root = rustix::process::geteuid().is_root();
    let who = if root {
        "as root"
    } else {
        "as an ordinary user"
    };
    let mut failed = Vec::new();
    for (name, test) in TESTS.iter().filter(|(name, _)| name.contains(filter)) {
        let outcome = catch_unwind(AssertUnwindSafe(|| test(&Context::new(root))));
        let word = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!("test {name} {who} ... {word}");
        if outcome.is_err() {
            failed.push(*name);
        }
    }
    if !failed.is_empty() {
        println!("failed {who}: {failed:?}");
    }
    let others = if root {
        run_as_ordinary_user(filter)
    } else {
        if std::env::var_os("DROSTE_TEST_SECOND_ROUND").is_none() {
            println!("skipped: the tests as root, because this user is not");
        }
        true
    };
    if failed.is_empty() && others {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run_as_ordinary_user(filter: &str) -> bool {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let open = PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path(), open).expect("permissions");
    let copy = directory.path().join("sandbox-test");
    std::fs::copy("/proc/self/exe", &copy).expect("copied");
    let status = Command::new(&copy)
        .arg(filter)
        .uid(ORDINARY_ID)
        .gid(ORDINARY_ID)
        .env("DROSTE_TEST_SECOND_ROUND", "1")
        .env_remove("TMPDIR")
        .current_dir("/")
        .status();
    status.expect("it starts").success()
}

/// What a test has: a spawner, a directory of its own, and who it is.
struct Context {
    spawner: Spawner,
    directory: tempfile::TempDir,
    root: bool,
}

impl Context {
    fn new(root: bool) -> Context {
        let directory = tempfile::Builder::new()
            .prefix("droste-sandbox-test-")
            .tempdir();
        Context {
            spawner: Spawner::start().expect("a spawner"),
            directory: directory.expect("a temporary directory"),
            root,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn host_ids(&self) -> (u32, u32) {
        if self.root {
            (HOST_ID, HOST_ID + 1)
        } else {
            (ORDINARY_ID, ORDINARY_ID)
        }
    }

    /// As a build has it: fresh directories of the host's in the root, an input, a build directory.
    fn build(&self, arguments: &[&str]) -> Request {
        let root = self.path("root");
        match droste_sandbox::remove_tree(&root) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => panic!("{errno}"),
        }
        let build = self.path("build");
        let input = self.path("input");
        let on_disk = ["nix", "tmp"].map(|name| OnDisk {
            source: root.join(name),
            target: Path::new("/").join(name),
        });
        let sources = on_disk.iter().map(|directory| &directory.source);
        for directory in sources.chain([&build, &input]) {
            std::fs::create_dir_all(directory).expect("created");
        }
        std::fs::write(input.join("file"), "input").expect("written");
        let (uid, gid) = self.host_ids();
        std::os::unix::fs::chown(&build, Some(uid), Some(gid)).expect("given to the build");
        let mut request = Request::new(Root::Directories(on_disk.into()), "/bin/program");
        request.nodes.push(Node::dir("/tmp", 0o1777));
        request.nodes.push(Node::build_dir("/nix/store", 0o1775));
        request
            .mounts
            .push(Mount::input(input, "/nix/store/0-input"));
        request.mounts.push(Mount::writable(build, "/build"));
        request.cwd = "/build".into();
        self.program(&mut request, arguments);
        request.add(dev_nodes(false)).add(proc_mount());
        request.add(etc_files("/build", true));
        request
    }

    /// As a compiler call has it: nothing but a tmpfs.
    fn child(&self, arguments: &[&str]) -> Request {
        let root = Root::Tmpfs {
            size: TmpfsSize::Bytes(64 << 20),
        };
        let mut request = Request::new(root, "/bin/program");
        request.network = Network::None;
        self.program(&mut request, arguments);
        request.add(proc_mount());
        request
    }

    /// This executable as the program, with the host's C library for it.
    fn program(&self, request: &mut Request, arguments: &[&str]) {
        let program = std::fs::canonicalize("/proc/self/exe").expect("a path");
        request.mounts.push(Mount::input(program, "/bin/program"));
        for library in ["/usr/lib", "/usr/lib64", "/lib", "/lib64"] {
            if std::fs::symlink_metadata(library).is_ok() {
                request.mounts.push(Mount::input(library, library));
            }
        }
        (request.host_uid, request.host_gid) = self.host_ids();
        request.args = vec!["inside".into()];
        request
            .args
            .extend(arguments.iter().map(|argument| (*argument).into()));
        request.env = vec![("NAME".into(), "value".into())];
    }

    /// Runs it to its end with pipes; what it wrote to both.
    fn output(&self, request: &Request) -> (ExitStatus, String) {
        let (running, mut reader) = self.start(request);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("text");
        (running.wait().expect("a status"), text)
    }

    fn start(&self, request: &Request) -> (Running, BufReader<std::fs::File>) {
        let (reader, writer) = pipe();
        let mut request = request.clone();
        request.stdio = [Stdio::Null, Stdio::Fd(0), Stdio::Fd(0)];
        let running = self.spawner.spawn(&request, &[writer.as_fd()]);
        let running = running.unwrap_or_else(|error| panic!("{}", chain(&error)));
        drop(writer);
        (running, BufReader::new(reader.into()))
    }

    /// What the program inside found out, by name.
    fn facts(&self, request: &Request) -> BTreeMap<String, String> {
        let (status, text) = self.output(request);
        assert!(status.success(), "{status:?}: {text}");
        let facts = text.lines().map(|line| {
            let (name, value) = line.split_once('=').unwrap_or_else(|| panic!("{line}"));
            (name.to_owned(), value.to_owned())
        });
        facts.collect()
    }
}

/// A root has directories closed to writing, which a temporary directory cannot remove by itself.
impl Drop for Context {
    fn drop(&mut self) {
        let _ = droste_sandbox::remove_tree(self.directory.path());
    }
}

fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe")
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

fn assert_facts(facts: &BTreeMap<String, String>, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        let found = facts.get(*name).map(String::as_str);
        assert_eq!(found, Some(*value), "{name}");
    }
}

/// Waits until the condition holds.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::yield_now();
    }
}

/// Whether the process is there and not dead.
fn is_alive(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]);
    !matches!(state, Some(b'Z' | b'X') | None)
}

fn a_build_sees_what_nix_shows_it(context: &Context) {
    let mut request = context.build(&["facts"]);
    request.argv0 = "builder".into();
    let facts = context.facts(&request);
    assert_facts(
        &facts,
        &[
            ("argv0", "builder"),
            ("pid", "1"),
            ("Uid", "1000 1000 1000 1000"),
            ("Gid", "100 100 100 100"),
            ("cwd", "/build"),
            ("env", "NAME=value"),
            ("Umask", "0022"),
            ("hostname", "localhost"),
            ("domainname", "(none)"),
            (
                "passwd",
                "root:x:0:0:Nix build user:/build:/noshell|nixbld:x:1000:100:Nix build user:/build:/noshell|nobody:x:65534:65534:Nobody:/:/noshell",
            ),
            ("group", "root:x:0:|nixbld:!:100:|nogroup:x:65534:"),
            ("hosts", "127.0.0.1 localhost|::1 localhost"),
            ("etc", "group hosts passwd"),
            ("etc_mode", "555"),
            ("tmp_mode", "1777"),
            (
                "dev",
                "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero",
            ),
            ("dev_null", "works"),
            ("new_terminal", "/dev/pts/0"),
            ("store", "0-input"),
            ("root", "bin build dev etc nix proc tmp"),
            ("interfaces", "lo"),
            ("loopback", "127.0.0.1"),
            ("processes", "1"),
            ("personality", "00040000"),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
            ("CapInh", "0000000000000000"),
            ("CapPrm", "0000000000000000"),
            ("CapEff", "0000000000000000"),
            ("CapBnd", "0000000000000000"),
            ("CapAmb", "0000000000000000"),
            // SIGPIPE, by the runtime of the program itself.
            ("SigIgn", "0000000000001000"),
            ("SigBlk", "0000000000000000"),
            ("core_limit", "0"),
            ("stdin", "/dev/null"),
            ("descriptors", "0 1 2"),
            (
                "controlling_terminal",
                "No such device or address (os error 6)",
            ),
            ("session", "1 1"),
            ("reopened_stderr", "works"),
        ],
    );
    if context.root {
        assert_facts(&facts, &[("Groups", "")]);
    }
    // `nosuid` everywhere, `nodev` everywhere but where devices are the purpose.
    let mut seen = 0;
    for (name, options) in &facts {
        let Some(place) = name.strip_prefix("mount ") else {
            continue;
        };
        let options: BTreeSet<&str> = options.split(',').collect();
        seen += 1;
        assert!(options.contains("nosuid"), "{place}: {options:?}");
        let devices = place.starts_with("/dev/") && place != "/dev/shm";
        assert_eq!(!options.contains("nodev"), devices, "{place}: {options:?}");
        let input = ["/nix/store/", "/usr", "/bin"]
            .iter()
            .any(|input| place.starts_with(input));
        assert_eq!(options.contains("ro"), input, "{place}: {options:?}");
    }
    assert!(seen >= 10, "{facts:?}");
}

fn a_build_is_refused_what_nix_refuses(context: &Context) {
    for request in [context.build(&["refusals"]), context.child(&["refusals"])] {
        let mut request = request;
        request.add(Parts {
            nodes: vec![Node::build_dir("/work", 0o755)],
            mounts: Vec::new(),
        });
        request.cwd = "/work".into();
        let facts = context.facts(&request);
        assert_facts(
            &facts,
            &[
                ("chmod 4755", "EPERM"),
                ("chmod 2755", "EPERM"),
                ("fchmod 4755", "EPERM"),
                ("fchmodat 4755", "EPERM"),
                ("chmod 755", "ok"),
                ("setxattr", "ENOTSUP"),
                ("getxattr", "ENOTSUP"),
                ("listxattr", "ENOTSUP"),
                ("fremovexattr", "ENOTSUP"),
                ("setuid 0", "EINVAL"),
                ("mount", "EPERM"),
                ("unmount", "EPERM"),
                ("mknod", "EPERM"),
                ("chroot", "EPERM"),
                ("sethostname", "EPERM"),
            ],
        );
    }
}

fn nothing_of_the_host_is_visible(context: &Context) {
    let secret = context.path("secret");
    std::fs::write(&secret, "secret").expect("written");
    let outside = std::process::id().to_string();
    let secret = secret.to_str().expect("UTF-8");
    for request in [
        context.build(&["outside", secret, &outside]),
        context.child(&["outside", secret, &outside]),
    ] {
        let facts = context.facts(&request);
        assert_facts(
            &facts,
            &[
                ("secret", "ENOENT"),
                ("secret through proc", "ENOENT"),
                ("signal", "ESRCH"),
                ("connect", "ENETUNREACH"),
                ("parent", "0"),
            ],
        );
    }
}

fn writes_reach_the_writable_bind_and_no_input(context: &Context) {
    let request = context.build(&["writes"]);
    let facts = context.facts(&request);
    assert_facts(
        &facts,
        &[
            ("/build/new", "ok"),
            ("/nix/store/new", "ok"),
            ("/nix/store/0-input/new", "EROFS"),
            ("/nix/store/0-input/file", "EROFS"),
            ("/usr/lib/new", "EROFS"),
            ("/dev/shm/new", "ok"),
            ("/tmp/new", "ok"),
        ],
    );
    if context.root {
        assert_facts(&facts, &[("/new", "EACCES"), ("/etc/passwd", "EACCES")]);
    }
    let file = context.path("build/new");
    let metadata = std::fs::metadata(&file).expect("there");
    assert_eq!((metadata.uid(), metadata.gid()), context.host_ids());
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o644);
    assert_eq!(
        std::fs::read(context.path("input/file")).expect("there"),
        b"input"
    );
    assert!(context.path("root/nix/store/new").exists());
}

fn stdio_is_what_was_passed(context: &Context) {
    let mut request = context.child(&["copy"]);
    request.stdio = [Stdio::Fd(1), Stdio::Fd(2), Stdio::Fd(0)];
    let (error_reader, error_writer) = pipe();
    let (reader, writer) = pipe();
    let input = context.path("input-file");
    std::fs::write(&input, "some input").expect("written");
    let input = std::fs::File::open(&input).expect("opened");
    let fds = [error_writer.as_fd(), input.as_fd(), writer.as_fd()];
    let running = context.spawner.spawn(&request, &fds).expect("a sandbox");
    drop((error_writer, writer));
    let read = |reader: OwnedFd| {
        let mut text = String::new();
        std::fs::File::from(reader)
            .read_to_string(&mut text)
            .expect("text");
        text
    };
    assert_eq!(read(error_reader), "some input");
    assert_eq!(read(reader), "10 bytes");
    assert!(running.wait().expect("a status").success());
}

fn the_log_is_a_terminal_in_raw_mode(context: &Context) {
    let (master, slave) = Pty::open().expect("a pseudoterminal");
    let mut request = context.build(&["terminal"]);
    request.stdio = [Stdio::Null, Stdio::Fd(0), Stdio::Fd(0)];
    let running = context
        .spawner
        .spawn(&request, &[slave.as_fd()])
        .expect("a sandbox");
    drop(slave);
    let mut text = Vec::new();
    let mut buffer = [0; 1024];
    // The end of the last slave is EIO to its master.
    while let Ok(length @ 1..) = rustix::io::read(&master, &mut buffer) {
        text.extend_from_slice(&buffer[..length]);
    }
    let text = String::from_utf8(text).expect("UTF-8");
    assert_eq!(text, "terminal true true\nno controlling terminal\n");
    assert!(running.wait().expect("a status").success());
}

fn a_thirty_two_bit_personality_is_set(context: &Context) {
    if std::env::consts::ARCH != "x86_64" {
        println!("skipped: there is no 32-bit personality to compare on this architecture");
        return;
    }
    let mut request = context.build(&["facts"]);
    request.personality = Personality::Linux32;
    let facts = context.facts(&request);
    assert_facts(&facts, &[("personality", "00040008"), ("machine", "i686")]);
}

fn exit_status_signal_and_processor_time_are_told(context: &Context) {
    let (status, _) = context.output(&context.child(&["exit", "7"]));
    assert_eq!(status.exit, Exit::Code(7));
    assert!(!status.success());
    // PID 1 cannot kill itself by a signal it has no handler for, but it can fault.
    let (status, _) = context.output(&context.child(&["fault"]));
    assert!(matches!(status.exit, Exit::Signal(_)), "{status:?}");
    let (status, _) = context.output(&context.child(&["busy"]));
    let used = status.user_time + status.system_time;
    assert!(used >= Duration::from_millis(50), "{status:?}");
    assert!(status.resident_bytes_max > 1 << 20, "{status:?}");
}

fn processes_left_behind_end_with_the_program(context: &Context) {
    let request = context.build(&["leave_a_process"]);
    let (running, mut reader) = context.start(&request);
    // The end of the pipe comes only when the process left behind has ended too.
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("text");
    assert_eq!(text, "left\n");
    assert!(running.wait().expect("a status").success());
}

fn kill_and_drop_end_a_sandbox(context: &Context) {
    let (running, mut reader) = context.start(&context.child(&["wait"]));
    let mut line = String::new();
    reader.read_line(&mut line).expect("a line");
    assert_eq!(
        running.wait_timeout(Duration::ZERO).expect("no error"),
        None
    );
    running.kill().expect("killed");
    assert_eq!(running.wait().expect("a status").exit, Exit::Signal(9));
    running.kill().expect("once more is no error");
    assert_eq!(running.wait().expect("the same").exit, Exit::Signal(9));

    let (running, mut reader) = context.start(&context.child(&["wait"]));
    reader.read_line(&mut line).expect("a line");
    let pid = running.pid();
    assert!(is_alive(pid));
    drop(running);
    eventually("a dropped sandbox ends", || !is_alive(pid));
}

fn each_fault_names_its_step_and_path(context: &Context) {
    let fails = |request: &Request| match context.spawner.spawn(request, &[]) {
        Err(Error::Setup(error)) => (error.step, error.path, error.errno),
        other => panic!("{other:?}"),
    };
    let path = |path: &str| Some(PathBuf::from(path));

    let mut request = context.child(&[]);
    request.program = "/bin/absent".into();
    assert_eq!(
        fails(&request),
        (Step::Execute, path("/bin/absent"), Errno::NOENT)
    );

    let mut request = context.child(&[]);
    request
        .mounts
        .push(Mount::input("/absent/source", "/target"));
    assert_eq!(
        fails(&request),
        (Step::MountSource, path("/absent/source"), Errno::NOENT)
    );

    let mut request = context.child(&[]);
    request
        .mounts
        .push(Mount::input("/etc/passwd", "/usr/lib/absent/file"));
    assert_eq!(
        fails(&request),
        (Step::MountTarget, path("/usr/lib/absent/file"), Errno::ROFS)
    );

    let mut request = context.child(&[]);
    request.nodes.push(Node::file("/a/../b", 0o644, ""));
    assert_eq!(fails(&request).0, Step::Node);

    let mut request = context.child(&[]);
    request.nodes.push(Node::file("/twice", 0o644, ""));
    request.nodes.push(Node::file("/twice", 0o644, ""));
    assert_eq!(fails(&request), (Step::Node, path("/twice"), Errno::EXIST));

    let mut request = context.child(&[]);
    request.cwd = "/absent".into();
    assert_eq!(
        fails(&request),
        (Step::WorkingDirectory, path("/absent"), Errno::NOENT)
    );

    let mut request = context.child(&[]);
    for (source, errno) in [("/absent/root", Errno::NOENT), ("/proc/self", Errno::LOOP)] {
        request.root = Root::Directories(vec![OnDisk {
            source: source.into(),
            target: "/nix".into(),
        }]);
        assert_eq!(fails(&request), (Step::Root, path(source), errno));
    }

    let mut request = context.child(&[]);
    request.args.push("nul\0byte".into());
    assert_eq!(fails(&request).0, Step::Execute);

    if !context.root {
        let mut request = context.child(&[]);
        request.host_uid = 0;
        assert_eq!(fails(&request).0, Step::IdMap);
    }

    let mut request = context.child(&[]);
    request.stdio[0] = Stdio::Fd(3);
    let error = context
        .spawner
        .spawn(&request, &[])
        .expect_err("no such descriptor");
    assert!(matches!(error, Error::NoSuchFd(3, 0)), "{error:?}");

    // And the spawner is as good as before.
    let (status, _) = context.output(&context.child(&["exit", "0"]));
    assert!(status.success());
}

fn no_link_in_the_root_leads_a_mount_astray(context: &Context) {
    let elsewhere = context.path("elsewhere");
    std::fs::create_dir(&elsewhere).expect("created");
    let fails = |change: &dyn Fn(&mut Request)| {
        let mut request = context.build(&["exit", "0"]);
        let link = |to: &Path, name| {
            std::os::unix::fs::symlink(to, context.path("root").join(name)).expect("linked");
        };
        link(&elsewhere, "nix/link");
        link(Path::new("/etc"), "nix/inner");
        change(&mut request);
        match context.spawner.spawn(&request, &[]) {
            Err(Error::Setup(error)) => (error.step, error.errno),
            other => panic!("{other:?}"),
        }
    };
    for target in ["/nix/link/file", "/nix/link", "/nix/inner/file"] {
        let error = fails(&|request| request.mounts.push(Mount::input("/etc/passwd", target)));
        assert_eq!(error, (Step::MountTarget, Errno::LOOP), "{target}");
    }
    for path in ["/nix/link/file", "/nix/inner/file"] {
        let error = fails(&|request| request.nodes.push(Node::file(path, 0o644, "")));
        assert_eq!(error, (Step::Node, Errno::LOOP), "{path}");
    }
    assert_eq!(std::fs::read_dir(&elsewhere).expect("there").count(), 0);
}

fn a_link_as_a_source_is_copied(context: &Context) {
    let link = context.path("link");
    std::os::unix::fs::symlink("/absent/target", &link).expect("linked");
    let mut request = context.child(&["read_link", "/nix/store/1-link"]);
    request.mounts.push(Mount::input(link, "/nix/store/1-link"));
    assert_eq!(context.output(&request).1, "/absent/target");
}

fn a_later_mount_covers_an_earlier_one(context: &Context) {
    let over = context.path("over");
    std::fs::write(&over, "laid over").expect("written");
    let mut request = context.build(&["cat", "/nix/store/0-input/file"]);
    request
        .mounts
        .push(Mount::input(&over, "/nix/store/0-input/file"));
    assert_eq!(context.output(&request).1, "laid over");
    assert_eq!(
        std::fs::read(context.path("input/file")).expect("there"),
        b"input"
    );
}

fn a_passed_descriptor_is_bound(context: &Context) {
    let file = context.path("file");
    std::fs::write(&file, "by descriptor").expect("written");
    let opened = rustix::fs::open(&file, OFlags::PATH, Mode::empty()).expect("opened");
    let mut request = context.child(&["cat", "/target"]);
    let (reader, writer) = pipe();
    request.stdio = [Stdio::Null, Stdio::Fd(1), Stdio::Fd(1)];
    request.mounts.push(Mount::Bind {
        source: Source::Fd(0),
        target: "/target".into(),
        read_only: true,
        recursive: false,
        devices: false,
    });
    let fds = [opened.as_fd(), writer.as_fd()];
    let running = context.spawner.spawn(&request, &fds).expect("a sandbox");
    assert!(running.wait().expect("a status").success());
    drop(writer);
    let mut text = String::new();
    std::fs::File::from(reader)
        .read_to_string(&mut text)
        .expect("text");
    assert_eq!(text, "by descriptor");

    // Another file under the same name is not the one that was passed.
    std::fs::remove_file(&file).expect("removed");
    std::fs::write(&file, "another").expect("written");
    let (_reader, writer) = pipe();
    let error = context
        .spawner
        .spawn(&request, &[opened.as_fd(), writer.as_fd()]);
    assert!(matches!(error, Err(Error::Setup(error)) if error.step == Step::MountSource));
}

fn later_mounts_appear_in_the_live_sandbox(context: &Context) {
    let directory = context.path("added");
    std::fs::create_dir(&directory).expect("created");
    std::fs::write(directory.join("file"), "added").expect("written");
    let file = context.path("added-file");
    std::fs::write(&file, "a file").expect("written");
    let link = context.path("added-link");
    std::os::unix::fs::symlink("1-directory/file", &link).expect("linked");

    for mut request in [context.build(&["shell"]), context.child(&["shell"])] {
        request.allow_new_mounts = true;
        let (commands, to_program) = pipe();
        let (from_program, answers) = pipe();
        request.stdio = [Stdio::Fd(0), Stdio::Fd(1), Stdio::Fd(1)];
        request.nodes.push(Node::symlink("/tmp-link", "/tmp"));
        let fds = [commands.as_fd(), answers.as_fd()];
        let running = context.spawner.spawn(&request, &fds);
        let running = running.unwrap_or_else(|error| panic!("{}", chain(&error)));
        let mut to_program = std::fs::File::from(to_program);
        let mut from_program = BufReader::new(std::fs::File::from(from_program));
        let mut ask = |command: &str| {
            writeln!(to_program, "{command}").expect("written");
            let mut line = String::new();
            from_program.read_line(&mut line).expect("a line");
            line.trim_end().to_owned()
        };
        assert_eq!(ask("cat /nix/store/1-directory/file"), "ENOENT");
        let mount = |source: &Path, target: &str| {
            running
                .mount_into(source, Path::new(target))
                .unwrap_or_else(|error| panic!("{}", chain(&error)));
        };
        mount(&directory, "/nix/store/1-directory");
        mount(&file, "/nix/store/2-file");
        mount(&link, "/nix/store/3-link");
        assert_eq!(ask("cat /nix/store/1-directory/file"), "added");
        assert_eq!(ask("cat /nix/store/2-file"), "a file");
        assert_eq!(ask("cat /nix/store/3-link"), "added");
        assert_eq!(ask("write /nix/store/1-directory/new"), "EROFS");
        assert_eq!(ask("write /nix/store/2-file"), "EROFS");
        assert_eq!(ask(&format!("cat {}", file.display())), "ENOENT");

        match running.mount_into(&file, Path::new("/tmp-link/file")) {
            Err(Error::Setup(error)) => {
                assert_eq!((error.step, error.errno), (Step::MountTarget, Errno::LOOP));
            }
            other => panic!("{other:?}"),
        }
        match running.mount_into(Path::new("/absent"), Path::new("/nix/store/4")) {
            Err(Error::Setup(error)) => {
                assert_eq!((error.step, error.errno), (Step::MountSource, Errno::NOENT));
            }
            other => panic!("{other:?}"),
        }
        drop(to_program);
        assert!(running.wait().expect("a status").success());
        match running.mount_into(&file, Path::new("/nix/store/5")) {
            Err(Error::Setup(error)) => assert_eq!(error.step, Step::FindSandbox),
            other => panic!("{other:?}"),
        }
    }
}

fn later_mounts_need_to_be_asked_for(context: &Context) {
    let (running, _reader) = context.start(&context.child(&["wait"]));
    match running.mount_into(Path::new("/etc/passwd"), Path::new("/file")) {
        Err(Error::Setup(error)) => assert_eq!(error.step, Step::FindSandbox),
        other => panic!("{other:?}"),
    }
}

fn the_root_descriptor_shows_what_the_build_sees(context: &Context) {
    let (running, mut reader) = context.start(&context.build(&["make_link_and_wait"]));
    let mut line = String::new();
    reader.read_line(&mut line).expect("a line");
    let read = |path: &str| {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let file = rustix::fs::openat2(running.root(), path, flags, Mode::empty(), resolve)?;
        let mut text = String::new();
        std::fs::File::from(file)
            .read_to_string(&mut text)
            .expect("text");
        Ok(text)
    };
    assert_eq!(read("/nix/store/0-input/file").as_deref(), Ok("input"));
    assert_eq!(read("/build/link").as_deref(), Ok("input"));
    assert_eq!(
        read("/build/passwd").map(|text| text.lines().count()),
        Ok(3)
    );
    assert_eq!(read("/root"), Err(Errno::NOENT));
}

fn a_large_request_arrives_whole(context: &Context) {
    let mut request = context.child(&["checksum", "/large"]);
    let contents: Vec<u8> = (0..3_000_000_u32)
        .map(|n| (n.wrapping_mul(n) >> 7) as u8)
        .collect();
    let expected: u64 = contents.iter().map(|byte| u64::from(*byte)).sum();
    request.nodes.push(Node::File {
        path: "/large".into(),
        mode: 0o640,
        owner: Owner::Build,
        contents: contents.into(),
    });
    assert_eq!(context.output(&request).1, format!("{expected}"));
}

fn copies_are_files_of_the_build_with_their_own_time(context: &Context) {
    let dir = tempfile::tempdir().expect("a directory");
    let source = dir.path().join("source");
    let link = dir.path().join("link");
    std::fs::write(&source, vec![b'x'; 300_000]).expect("written");
    std::os::unix::fs::symlink(&source, &link).expect("linked");
    let copy = |path: &str, source: &Path| Node::Copy {
        path: path.into(),
        mode: 0o755,
        mtime_seconds: 77,
        source: source.to_owned(),
    };
    let mut request = context.child(&["checksum", "/build/deep/a"]);
    request.nodes.push(copy("/build/deep/a", &source));
    request.nodes.push(copy("/build/deep/b", &source));
    let sum = 300_000 * u64::from(b'x');
    assert_eq!(context.output(&request).1, format!("{sum}"));
    let mut request = context.child(&["stat", "/build/deep/b"]);
    request.nodes.push(copy("/build/deep/b", &source));
    assert_eq!(context.output(&request).1, "1000:100 755 300000 77");
    // What is followed could be exchanged.
    let mut request = context.child(&["exit", "0"]);
    request.nodes.push(copy("/build/a", &link));
    assert!(context.spawner.spawn(&request, &[]).is_err());
}

fn threads_share_a_spawner(context: &Context) {
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                for run in 0..10 {
                    let code = (thread * 10 + run).to_string();
                    let (status, _) = context.output(&context.child(&["exit", &code]));
                    assert_eq!(status.exit, Exit::Code(thread * 10 + run));
                }
            });
        }
    });
}

fn two_hundred_starts_leak_no_descriptor(context: &Context) {
    let count = |pid: u32| {
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("readable");
        fds.count()
    };
    let mut request = context.child(&["exit", "0"]);
    request.allow_new_mounts = true;
    let counts = || {
        (
            count(std::process::id()),
            count(context.spawner.pid().expect("started")),
        )
    };
    // The first one makes what is made once.
    context.output(&request);
    let before = counts();
    for run in 0..200 {
        if run % 10 == 0 {
            request.program = "/absent".into();
            context
                .spawner
                .spawn(&request, &[])
                .expect_err("no program");
            request.program = "/bin/program".into();
        }
        let running = context.spawner.spawn(&request, &[]).expect("a sandbox");
        assert!(running.wait().expect("a status").success());
    }
    // The spawner closes in its own time what has ended.
    let no_more = || {
        let (ours, spawners) = counts();
        ours <= before.0 && spawners <= before.1
    };
    eventually("there are no more descriptors", no_more);
}

fn with_the_hosts_network_abstract_sockets_are_cut_off(context: &Context) {
    let name = format!("droste-sandbox-test-{}", std::process::id());
    use std::os::linux::net::SocketAddrExt;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).expect("a name");
    let _listener = UnixListener::bind_addr(&address).expect("bound");
    let mut request = context.build(&["abstract_socket", &name]);
    request.network = Network::Host;
    let facts = context.facts(&request);
    if droste_sys::landlock_abi() >= 6 {
        assert_facts(
            &facts,
            &[("abstract socket", "EPERM"), ("own abstract socket", "ok")],
        );
    } else {
        println!("skipped: this kernel's Landlock does not know scopes");
    }
    let own =
        |name: &str| std::fs::read_link(format!("/proc/self/ns/{name}")).expect("a namespace");
    assert_eq!(facts["net"].as_bytes(), own("net").as_os_str().as_bytes());
    let parts = network_files();
    assert!(
        parts
            .nodes
            .iter()
            .any(|node| node.path() == Path::new("/etc/nsswitch.conf"))
    );

    for network in [Network::Isolated, Network::None] {
        let mut request = context.build(&["abstract_socket", &name]);
        request.network = network;
        let facts = context.facts(&request);
        assert_ne!(facts["abstract socket"], "ok");
        assert_ne!(facts["net"].as_bytes(), own("net").as_os_str().as_bytes());
    }
}

/// The process that is killed: two sandboxes, scratch directories, and their pids told.
fn own(directory: &Path) -> ExitCode {
    let spawner = Spawner::start().expect("a spawner");
    let context = Context {
        spawner,
        directory: tempfile::tempdir_in(directory).expect("a temporary directory"),
        root: rustix::process::geteuid().is_root(),
    };
    let mut build = context.build(&["leave_scratch_and_wait"]);
    build.scratch_dirs = vec![context.directory.path().to_owned()];
    build.allow_new_mounts = true;
    let (first, mut first_reader) = context.start(&build);
    let (second, mut second_reader) = context.start(&context.child(&["wait"]));
    let watched = directory.join("watched");
    std::fs::create_dir(&watched).expect("created");
    context.spawner.watch_scratch(&watched).expect("watched");
    let forgotten = directory.join("forgotten");
    std::fs::create_dir(&forgotten).expect("created");
    context.spawner.watch_scratch(&forgotten).expect("watched");
    context
        .spawner
        .forget_scratch(&forgotten)
        .expect("forgotten");
    let mut line = String::new();
    first_reader.read_line(&mut line).expect("a line");
    second_reader.read_line(&mut line).expect("a line");
    println!(
        "{} {} {}",
        context.spawner.pid().expect("started"),
        first.pid(),
        second.pid()
    );
    loop {
        std::thread::park();
    }
}

/// Starts an owner in the directory; it, and the pids of its spawner and two sandboxes.
fn start_owner(directory: &Path) -> (std::process::Child, Vec<i32>) {
    let mut owner = Command::new("/proc/self/exe")
        .arg("owner")
        .arg(directory)
        .stdout(ProcessStdio::piped())
        .spawn()
        .expect("an owner");
    let mut line = String::new();
    let stdout = owner.stdout.as_mut().expect("piped");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    let pids = line
        .split_whitespace()
        .map(|pid| pid.parse().expect("a pid"));
    let pids: Vec<i32> = pids.collect();
    assert_eq!(pids.len(), 3, "{line}");
    assert!(pids.iter().all(|pid| is_alive(*pid)));
    (owner, pids)
}

/// No mount of any process still shows this directory.
fn mounts_of(directory: &Path) -> Vec<String> {
    let name = directory
        .file_name()
        .expect("a name")
        .to_str()
        .expect("UTF-8");
    let mut found = Vec::new();
    for process in std::fs::read_dir("/proc").expect("proc").flatten() {
        if let Ok(mounts) = std::fs::read_to_string(process.path().join("mountinfo")) {
            found.extend(
                mounts
                    .lines()
                    .filter(|line| line.contains(name))
                    .map(String::from),
            );
        }
    }
    found
}

fn the_owners_death_leaves_nothing(context: &Context) {
    let directory = context.directory.path();
    let (mut owner, pids) = start_owner(directory);
    assert!(!mounts_of(directory).is_empty());
    let held = std::fs::read_dir(directory).expect("readable").count();
    assert_eq!(held, 3, "scratch, watched, forgotten");
    owner.kill().expect("killed");
    owner.wait().expect("dead");
    eventually("the sandboxes end", || {
        pids.iter().all(|pid| !is_alive(*pid))
    });
    let left = std::fs::read_dir(directory).expect("readable").flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["forgotten"]);
    assert_eq!(mounts_of(directory), Vec::<String>::new());
}

/// Starts and drops sandboxes until it is killed.
fn own_busily(directory: &Path) -> ExitCode {
    let executable = directory.join("spawner");
    std::fs::copy("/proc/self/exe", &executable).expect("copied");
    let context = Context {
        spawner: Spawner::start_from(&executable).expect("a spawner"),
        directory: tempfile::tempdir_in(directory).expect("a temporary directory"),
        root: rustix::process::geteuid().is_root(),
    };
    context
        .spawner
        .watch_scratch(context.directory.path())
        .expect("watched");
    println!("ready");
    let mut running = std::collections::VecDeque::new();
    loop {
        let scratch = directory.join(format!("scratch-{}", running.len()));
        let mut request = context.child(&["wait", directory.to_str().expect("UTF-8")]);
        request.scratch_dirs = vec![scratch.clone()];
        request.allow_new_mounts = true;
        let sandbox = context.spawner.spawn(&request, &[]).expect("a sandbox");
        std::fs::create_dir_all(scratch.join("a/b")).expect("created");
        sandbox
            .mount_into(&scratch, Path::new("/mnt"))
            .expect("mounted");
        running.push_back(sandbox);
        if running.len() > 3 {
            running.pop_front();
        }
    }
}

fn no_moment_of_the_owners_death_leaves_anything(context: &Context) {
    let mut seed = u64::from(std::process::id());
    for round in 0..25 {
        let directory = context.path(&format!("round-{round}"));
        std::fs::create_dir(&directory).expect("created");
        let mut owner = Command::new("/proc/self/exe")
            .arg("busy_owner")
            .arg(&directory)
            .stdout(ProcessStdio::piped())
            .spawn()
            .expect("an owner");
        let stdout = owner.stdout.as_mut().expect("piped");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let delay = Duration::from_micros(seed >> 49);
        std::thread::sleep(delay);
        owner.kill().expect("killed");
        owner.wait().expect("dead");
        eventually(&format!("nothing is left, killed after {delay:?}"), || {
            processes_naming(&directory).is_empty()
        });
        let left = std::fs::read_dir(&directory).expect("readable").flatten();
        let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
        assert_eq!(left, ["spawner"], "killed after {delay:?}");
        assert_eq!(mounts_of(&directory), Vec::<String>::new());
    }
}

/// Processes, other than this one, that were started from there or have it as an argument.
fn processes_naming(directory: &Path) -> Vec<PathBuf> {
    let name = directory.to_str().expect("UTF-8");
    let mut found = Vec::new();
    for process in std::fs::read_dir("/proc").expect("proc").flatten() {
        let process = process.path();
        let started_from = std::fs::read_link(process.join("exe")).unwrap_or_default();
        let arguments = std::fs::read(process.join("cmdline")).unwrap_or_default();
        if started_from.starts_with(directory) || String::from_utf8_lossy(&arguments).contains(name)
        {
            found.push(process);
        }
    }
    found
}

fn without_user_namespaces_the_error_says_so(context: &Context) {
    // A user namespace of its own, in which the limit on further ones is 0.
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" try";
    let executable = context.path("executable");
    std::fs::copy("/proc/self/exe", &executable).expect("copied");
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .arg(&executable)
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => return println!("skipped: there is no `unshare` ({error})"),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.starts_with(
            "cannot make the sandbox's namespaces (are user namespaces allowed on this machine?): "
        ),
        "{output:?}"
    );
}

fn the_spawners_death_ends_its_sandboxes(context: &Context) {
    let directory = context.directory.path();
    let (mut owner, pids) = start_owner(directory);
    let spawner = rustix::process::Pid::from_raw(pids[0]).expect("a pid");
    rustix::process::kill_process(spawner, rustix::process::Signal::KILL).expect("killed");
    eventually("the sandboxes end", || {
        pids.iter().all(|pid| !is_alive(*pid))
    });
    assert_eq!(mounts_of(directory), Vec::<String>::new());
    owner.kill().expect("killed");
    owner.wait().expect("dead");

    let (running, mut reader) = context.start(&context.child(&["wait"]));
    reader.read_line(&mut String::new()).expect("a line");
    let spawner = context.spawner.pid().expect("started").cast_signed();
    let spawner = rustix::process::Pid::from_raw(spawner).expect("a pid");
    rustix::process::kill_process(spawner, rustix::process::Signal::KILL).expect("killed");
    assert!(matches!(running.wait(), Err(Error::SpawnerDied)));
    let error = context.spawner.spawn(&context.child(&["wait"]), &[]);
    assert!(matches!(error, Err(Error::SpawnerDied)));
}

fn forgotten_scratch_directories_stay(context: &Context) {
    let scratch = context.path("scratch");
    std::fs::create_dir(&scratch).expect("created");
    let spawner = Spawner::start().expect("another spawner");
    let mut request = context.child(&["exit", "0"]);
    request.scratch_dirs = vec![scratch.clone()];
    let running = spawner.spawn(&request, &[]).expect("a sandbox");
    assert!(running.wait().expect("a status").success());
    assert!(scratch.exists(), "the end of a sandbox removes nothing");
    spawner.forget_scratch(&scratch).expect("forgotten");
    drop((running, spawner));
    assert!(scratch.exists());

    let spawner = Spawner::start().expect("another spawner");
    spawner.watch_scratch(&scratch).expect("watched");
    drop(spawner);
    assert!(!scratch.exists());
}
