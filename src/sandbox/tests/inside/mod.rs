//! The program inside the sandbox: it does what its first argument says and prints what came of it,
//! mostly as lines `name=value`.

use std::io::{BufRead, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Signal};
use rustix::pty::OpenptFlags;
use rustix::thread::Uid;

pub fn run(arguments: &[String]) {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match *arguments {
        ["facts"] => facts(),
        ["refusals"] => refusals(),
        ["outside", secret, pid] => outside(secret, pid.parse().expect("a pid")),
        ["writes"] => writes(),
        ["copy"] => copy(),
        ["terminal"] => terminal(),
        ["exit", code] => std::process::exit(code.parse().expect("a number")),
        ["fault"] => std::process::abort(),
        ["busy"] => busy(),
        ["leave_a_process"] => {
            let mut command = Command::new("/bin/program");
            let child = command.args(["inside", "park"]).spawn();
            // Left, not waited for: that is the point.
            std::mem::forget(child.expect("it starts"));
            println!("left");
        }
        ["park"] => park(),
        ["wait"] | ["wait", _] => {
            println!("waiting");
            park();
        }
        ["leave_scratch_and_wait"] => {
            std::fs::create_dir_all("/build/a/b").expect("created");
            std::fs::write("/build/a/b/file", "x").expect("written");
            let closed = PermissionsExt::from_mode(0o000);
            std::fs::set_permissions("/build/a", closed).expect("closed");
            println!("waiting");
            park();
        }
        ["make_link_and_wait"] => {
            let link = |text, name| std::os::unix::fs::symlink(text, name).expect("linked");
            link("/nix/store/0-input/file", "/build/link");
            link("/etc/passwd", "/build/passwd");
            println!("waiting");
            park();
        }
        ["read_link", path] => {
            print!("{}", std::fs::read_link(path).expect("a link").display());
        }
        ["cat", path] => print!("{}", std::fs::read_to_string(path).expect("a file")),
        ["shell"] => shell(),
        ["stat", path] => {
            use std::os::unix::fs::MetadataExt;
            let stat = std::fs::symlink_metadata(path).expect("a file");
            print!(
                "{}:{} {:o} {} {}",
                stat.uid(),
                stat.gid(),
                stat.mode() & 0o7777,
                stat.len(),
                stat.mtime()
            );
        }
        ["checksum", path] => {
            let contents = std::fs::read(path).expect("a file");
            print!(
                "{}",
                contents.iter().map(|byte| u64::from(*byte)).sum::<u64>()
            );
        }
        ["lookups"] => lookups(),
        ["lookups_in_nothing"] => {
            std::fs::create_dir("gone").expect("created");
            std::env::set_current_dir("gone").expect("entered");
            std::fs::remove_dir("/build/gone").expect("removed");
            std::fs::metadata("file").expect_err("there is nothing");
            let result = rustix::process::chroot("/");
            println!("chroot={}", outcome(result.map_err(Into::into)));
        }
        ["many_lookups", threads, each] => {
            let number = |text: &str| text.parse::<u32>().expect("a number");
            std::thread::scope(|scope| {
                for thread in 0..number(threads) {
                    scope.spawn(move || {
                        for each in 0..number(each) {
                            look(&format!("/many/{thread}/{each}"));
                        }
                    });
                }
            });
            println!("done");
        }
        ["cat_in_a_root_of_its_own", path] => {
            root_of_its_own();
            print!("{}", std::fs::read_to_string(path).expect("a file"));
        }
        ["look", path] => println!("{}", look(path)),
        ["look_again", path] => println!("{}\n{}", look(path), look(path)),
        ["descendant", path] => {
            look(path);
        }
        ["descendant", path, ref more @ ..] => {
            look(path);
            descend(more);
        }
        ["abstract_socket", name] => abstract_socket(name),
        _ => panic!("what is {arguments:?}?"),
    }
}

fn park() {
    loop {
        std::thread::park();
    }
}

fn outcome<T>(result: std::io::Result<T>) -> &'static str {
    let Err(error) = result else {
        return "ok";
    };
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::PERM) => "EPERM",
        Some(Errno::NOTSUP) => "ENOTSUP",
        Some(Errno::INVAL) => "EINVAL",
        Some(Errno::NOENT) => "ENOENT",
        Some(Errno::SRCH) => "ESRCH",
        Some(Errno::ROFS) => "EROFS",
        Some(Errno::ACCESS) => "EACCES",
        Some(Errno::NOSYS) => "ENOSYS",
        Some(Errno::XDEV) => "EXDEV",
        Some(Errno::NETUNREACH) => "ENETUNREACH",
        Some(Errno::CONNREFUSED) => "ECONNREFUSED",
        _ => panic!("{error}"),
    }
}

fn names(directory: &str) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = names
        .map(|name| name.into_string().expect("UTF-8"))
        .collect();
    names.sort();
    names
}

fn joined_lines(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().collect::<Vec<_>>().join("|")
}

fn mode(path: &str) -> u32 {
    let metadata = std::fs::metadata(path).expect("there");
    metadata.permissions().mode() & 0o7777
}

fn facts() {
    // First of all, before this opens anything itself.
    let mut descriptors = names("/proc/self/fd");
    descriptors.retain(|name| Path::new("/proc/self/fd").join(name).is_symlink());
    println!("descriptors={}", descriptors.join(" "));
    println!("argv0={}", std::env::args().next().unwrap_or_default());
    println!("pid={}", std::process::id());
    println!(
        "cwd={}",
        std::env::current_dir().expect("a directory").display()
    );
    let env: Vec<String> = std::env::vars()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    println!("env={}", env.join(" "));
    let status = std::fs::read_to_string("/proc/self/status").expect("proc");
    for line in status.lines() {
        let (name, value) = line.split_once(':').expect("a field");
        let value: Vec<&str> = value.split_whitespace().collect();
        println!("{name}={}", value.join(" "));
    }
    let uname = rustix::system::uname();
    println!("hostname={}", uname.nodename().to_string_lossy());
    println!("domainname={}", uname.domainname().to_string_lossy());
    println!("machine={}", uname.machine().to_string_lossy());
    for name in ["passwd", "group", "hosts"] {
        println!("{name}={}", joined_lines(&format!("/etc/{name}")));
    }
    println!("etc={}", names("/etc").join(" "));
    println!("etc_mode={:o}", mode("/etc"));
    println!("tmp_mode={:o}", mode("/tmp"));
    println!("dev={}", names("/dev").join(" "));
    println!("store={}", names("/nix/store").join(" "));
    // The test's own program needs a C library, which is no part of the sandbox.
    let mut root = names("/");
    root.retain(|name| !["usr", "lib", "lib64"].contains(&name.as_str()));
    println!("root={}", root.join(" "));
    let devices = std::fs::write("/dev/null", "x").and_then(|()| {
        let mut bytes = [0; 8];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        std::fs::File::open("/dev/zero")?.read_exact(&mut bytes)
    });
    println!(
        "dev_null={}",
        devices.map_or_else(|error| error.to_string(), |()| "works".into())
    );
    println!("new_terminal={}", new_terminal());
    let interfaces = std::fs::read_to_string("/proc/net/dev").expect("proc");
    let interfaces = interfaces.lines().filter_map(|line| line.split_once(':'));
    let interfaces: Vec<&str> = interfaces.map(|(name, _)| name.trim()).collect();
    println!("interfaces={}", interfaces.join(" "));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
    let address = listener.local_addr().expect("an address");
    TcpStream::connect(address).expect("the loopback interface is up");
    println!("loopback={}", address.ip());
    let mut processes = names("/proc");
    processes.retain(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    println!("processes={}", processes.join(" "));
    println!("personality={}", joined_lines("/proc/self/personality"));
    let core = rustix::process::getrlimit(Resource::Core);
    println!("core_limit={}", core.current.map_or(-1, u64::cast_signed));
    let stdin = std::fs::read_link("/proc/self/fd/0").expect("proc");
    println!("stdin={}", stdin.display());
    let terminal = std::fs::File::open("/dev/tty").expect_err("no controlling terminal");
    println!("controlling_terminal={terminal}");
    let session = rustix::process::getsid(None).expect("a session");
    let group = rustix::process::getpgrp();
    println!(
        "session={} {}",
        session.as_raw_nonzero(),
        group.as_raw_nonzero()
    );
    let reopened = std::fs::OpenOptions::new().write(true).open("/dev/stderr");
    println!(
        "reopened_stderr={}",
        reopened.map_or_else(|error| error.to_string(), |_| "works".into())
    );
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("proc");
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        println!("mount {}={}", fields[4], fields[5]);
    }
}

fn new_terminal() -> String {
    let open = || -> rustix::io::Result<String> {
        let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        rustix::pty::unlockpt(&master)?;
        let name = rustix::pty::ptsname(&master, Vec::new())?;
        rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty())?;
        Ok(name.to_string_lossy().into_owned())
    };
    open().unwrap_or_else(|errno| errno.to_string())
}

fn refusals() {
    let file = std::fs::File::create("file").expect("created");
    let tell = |name: &str, result: rustix::io::Result<()>| {
        println!("{name}={}", outcome(result.map_err(Into::into)));
    };
    let chmod = |mode| rustix::fs::chmod("file", Mode::from_raw_mode(mode));
    tell("chmod 4755", chmod(0o4755));
    tell("chmod 2755", chmod(0o2755));
    tell("chmod 755", chmod(0o755));
    tell(
        "fchmod 4755",
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o4755)),
    );
    let mode = Mode::from_raw_mode(0o4755);
    tell(
        "fchmodat 4755",
        rustix::fs::chmodat(CWD, "file", mode, AtFlags::empty()),
    );
    tell(
        "setxattr",
        rustix::fs::setxattr("file", "user.a", b"x", XattrFlags::empty()),
    );
    let mut buffer = [0_u8; 16];
    tell(
        "getxattr",
        rustix::fs::getxattr("file", "user.a", &mut buffer).map(drop),
    );
    tell(
        "listxattr",
        rustix::fs::listxattr("file", &mut buffer).map(drop),
    );
    tell("fremovexattr", rustix::fs::fremovexattr(&file, "user.a"));
    tell("setuid 0", rustix::thread::set_thread_uid(Uid::ROOT));
    let flags = rustix::mount::MountFlags::empty();
    tell(
        "mount",
        rustix::mount::mount("none", "/proc", "tmpfs", flags, None),
    );
    tell(
        "unmount",
        rustix::mount::unmount("/proc", rustix::mount::UnmountFlags::DETACH),
    );
    let device = rustix::fs::makedev(1, 3);
    let kind = FileType::CharacterDevice;
    tell(
        "mknod",
        rustix::fs::mknodat(CWD, "device", kind, Mode::RWXU, device),
    );
    tell("chroot", rustix::process::chroot("/proc"));
    tell("sethostname", rustix::system::sethostname(b"other"));
}

fn outside(secret: &str, pid: i32) {
    println!("secret={}", outcome(std::fs::File::open(secret)));
    let through_proc = format!("/proc/1/root{secret}");
    println!(
        "secret through proc={}",
        outcome(std::fs::File::open(through_proc))
    );
    let pid = Pid::from_raw(pid).expect("a pid");
    let signal = rustix::process::kill_process(pid, Signal::KILL);
    println!("signal={}", outcome(signal.map_err(Into::into)));
    let address = (Ipv4Addr::new(192, 0, 2, 1), 9);
    println!("connect={}", outcome(TcpStream::connect(address)));
    println!("parent={}", std::os::unix::process::parent_id());
}

fn writes() {
    for path in [
        "/build/new",
        "/nix/store/new",
        "/nix/store/0-input/new",
        "/nix/store/0-input/file",
        "/usr/lib/new",
        "/dev/shm/new",
        "/tmp/new",
        "/new",
        "/etc/passwd",
    ] {
        println!("{path}={}", outcome(std::fs::write(path, "changed")));
    }
}

/// Standard input to standard error, and what that was to standard output.
fn copy() {
    let length = std::io::copy(&mut std::io::stdin(), &mut std::io::stderr()).expect("copied");
    print!("{length} bytes");
}

fn terminal() {
    let out = rustix::termios::isatty(std::io::stdout().as_fd());
    let error = rustix::termios::isatty(std::io::stderr().as_fd());
    println!("terminal {out} {error}");
    if std::fs::File::open("/dev/tty").is_err() {
        println!("no controlling terminal");
    }
}

/// A tenth of a second of the processor's time.
fn busy() {
    use rustix::time::{ClockId, clock_gettime};
    loop {
        let used = clock_gettime(ClockId::ProcessCPUTime);
        if used.tv_sec > 0 || used.tv_nsec > 100_000_000 {
            return;
        }
    }
}

fn shell() {
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("text");
        let answer = match line.split_once(' ').expect("a command and a path") {
            ("cat", path) => match std::fs::read_to_string(path) {
                Ok(text) => text,
                Err(error) => outcome::<()>(Err(error)).to_owned(),
            },
            ("write", path) => outcome(std::fs::write(path, "x")).to_owned(),
            _ => panic!("what is {line}?"),
        };
        println!("{answer}");
        std::io::stdout().flush().expect("flushed");
    }
}

/// Enters a new root directory in new namespaces, as this user.
fn root_of_its_own() {
    use droste_sys::Namespaces;
    use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    droste_sys::unshare(Namespaces::USER | Namespaces::MOUNT).expect("namespaces");
    for (file, text) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{uid} {uid} 1")),
        ("gid_map", format!("{gid} {gid} 1")),
    ] {
        std::fs::write(format!("/proc/self/{file}"), text).expect("written");
    }
    let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    rustix::mount::mount_change("/", private).expect("private");
    rustix::mount::mount("none", "/build", "tmpfs", MountFlags::empty(), None).expect("mounted");
    std::fs::create_dir("/build/work").expect("created");
    std::env::set_current_dir("/build").expect("entered");
    rustix::process::pivot_root(".", ".").expect("another root");
    rustix::mount::unmount(".", UnmountFlags::DETACH).expect("unmounted");
    std::env::set_current_dir("/work").expect("entered");
}

fn look(path: &str) -> &'static str {
    outcome(std::fs::metadata(path).map(drop))
}

fn descend(paths: &[&str]) {
    let mut command = Command::new("/bin/program");
    let status = command.args(["inside", "descendant"]).args(paths).status();
    assert!(status.expect("it starts").success());
}

/// Every kind of lookup once.
fn lookups() {
    std::fs::create_dir("dir").expect("created");
    let file = std::fs::write("new", "x").and_then(|()| std::fs::File::open("new"));
    assert_eq!(
        file.and_then(|file| file.metadata()).expect("a file").len(),
        1
    );
    std::fs::OpenOptions::new()
        .append(true)
        .open("new")
        .expect("opened");
    std::fs::File::create_new("exclusive").expect("created");
    look("missing");
    std::fs::symlink_metadata("missing-link").expect_err("missing");
    std::os::unix::fs::symlink("text", "link").expect("linked");
    std::fs::read_link("link").expect("a link");
    std::fs::hard_link("new", "hard").expect("linked");
    std::fs::rename("hard", "renamed").expect("renamed");
    std::fs::remove_file("link").expect("removed");
    let dir = std::fs::File::open("dir").expect("opened");
    let found = rustix::fs::statat(&dir, "by-descriptor", AtFlags::empty());
    assert_eq!(found.expect_err("missing"), Errno::NOENT);
    // An open file, but no directory.
    let null = std::fs::File::open("new").expect("opened");
    let found = rustix::fs::statat(&null, "name", AtFlags::empty());
    assert_eq!(found.expect_err("no directory"), Errno::NOTDIR);
    assert_eq!(names("/build").len(), 4);
    std::env::set_current_dir("dir").expect("entered");
    look("../by-directory");
    let thread = std::thread::spawn(|| look("/from-a-thread"));
    thread.join().expect("it ends");
    descend(&["/from-a-child", "/from-a-grandchild"]);
    Command::new("/missing-program")
        .status()
        .expect_err("missing");
    println!("done");
}

fn abstract_socket(name: &str) {
    let connect = |name: &str| {
        let address = SocketAddr::from_abstract_name(name).expect("a name");
        outcome(UnixStream::connect_addr(&address))
    };
    println!("abstract socket={}", connect(name));
    let address = SocketAddr::from_abstract_name("own").expect("a name");
    let _listener = UnixListener::bind_addr(&address).expect("bound");
    println!("own abstract socket={}", connect("own"));
    let network = std::fs::read_link("/proc/self/ns/net").expect("proc");
    println!("net={}", network.display());
}
