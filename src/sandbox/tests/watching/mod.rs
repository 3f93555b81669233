//! Sandboxes whose lookups are watched.

use std::collections::BTreeSet;
use std::io::{BufRead, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::Command;

use droste_sandbox::{
    Error, Exit, FileUser, Intent, Listener, Lookup, Mount, Node, Notification, Request, Running,
    Step, lookups, root_of,
};
use rustix::fs::{Mode, OFlags};

use super::{Context, pipe};

/// Answers every call as `answer` does, until the sandbox has ended; what was looked up.
fn watch(
    running: &Running,
    mut answer: impl FnMut(&Listener, &Notification, &Lookup),
) -> Vec<Lookup> {
    let listener = running.take_listener().expect("it is watched");
    assert!(running.take_listener().is_none(), "only once");
    let (stop, _writer) = pipe();
    let mut seen = Vec::new();
    while let Some(call) = receive(&listener, stop.as_fd()) {
        let Ok(found) = lookups(&listener, &call) else {
            continue;
        };
        for lookup in &found {
            answer(&listener, &call, lookup);
        }
        seen.extend(found);
        listener.allow(&call).expect("allowed");
    }
    seen
}

fn receive(listener: &Listener, stop: BorrowedFd<'_>) -> Option<Notification> {
    listener.receive(stop).expect("received")
}

/// With a writable `/build` of its own, and watched.
fn watched(context: &Context, arguments: &[&str]) -> Request {
    let mut request = context.child(arguments);
    request.watched = true;
    request.nodes.push(Node::build_dir("/build", 0o755));
    request.cwd = "/build".into();
    request
}

fn look(path: &str) -> Lookup {
    to(path, Intent::Look)
}

fn read(path: &str) -> Lookup {
    to(path, Intent::Read)
}

fn to(path: &str, intent: Intent) -> Lookup {
    Lookup::Path {
        path: path.into(),
        intent,
        follows: true,
    }
}

fn to_link(path: &str, intent: Intent) -> Lookup {
    Lookup::Path {
        path: path.into(),
        intent,
        follows: false,
    }
}

fn list(path: &str) -> Lookup {
    Lookup::List { path: path.into() }
}

fn text(lookup: &Lookup) -> String {
    match lookup {
        Lookup::Path {
            path,
            intent,
            follows,
        } => {
            let path = String::from_utf8_lossy(path);
            format!("{intent:?} {path}, {follows}")
        }
        Lookup::List { path } => format!("List {}", String::from_utf8_lossy(path)),
        other => format!("{other:?}"),
    }
}

#[track_caller]
fn assert_seen(seen: &[Lookup], expected: &[Lookup]) {
    for lookup in expected {
        let seen: Vec<String> = seen.iter().map(text).collect();
        assert!(
            seen.contains(&text(lookup)),
            "{} is missing in {seen:#?}",
            text(lookup)
        );
    }
}

pub fn every_lookup_is_seen_also_of_threads_and_descendants(context: &Context) {
    let (running, mut reader) = context.start(&watched(context, &["lookups"]));
    let seen = watch(&running, |_, _, _| {});
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("text");
    assert_eq!(text, "done\n");
    assert!(running.wait().expect("a status").success());
    use Intent::*;
    assert_seen(
        &seen,
        &[
            to_link("/build/dir", CreateNew),
            to("/build/new", Overwrite),
            to("/build/new", Modify),
            read("/build/new"),
            to_link("/build/exclusive", CreateNew),
            look("/build/missing"),
            to_link("/build/missing-link", Look),
            to_link("/build/link", CreateNew),
            to_link("/build/link", Look),
            to_link("/build/link", Remove),
            to_link("/build/hard", CreateNew),
            to_link("/build/hard", Remove),
            to_link("/build/renamed", Replace),
            // Relative to a descriptor, and then to another working directory.
            look("/build/dir/by-descriptor"),
            look("/build/dir"),
            look("/build/dir/../by-directory"),
            list("/build"),
            look("/from-a-thread"),
            to("/bin/program", Execute),
            look("/from-a-child"),
            look("/from-a-grandchild"),
            to("/missing-program", Execute),
        ],
    );
    // What a descriptor alone is about is no lookup: the program asked for its own size.
    let expected = !seen
        .iter()
        .any(|lookup| matches!(lookup, Lookup::Unreadable | Lookup::Other));
    assert!(expected, "{seen:?}");
}

pub fn what_cannot_be_told_is_said_to_be_so(context: &Context) {
    let (running, mut reader) = context.start(&watched(context, &["lookups_in_nothing"]));
    let seen = watch(&running, |_, _, _| {});
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("text");
    assert_eq!(text, "chroot=EPERM\n");
    assert_seen(&seen, &[Lookup::Unreadable, Lookup::Other]);
}

pub fn a_file_made_while_its_lookup_waits_is_found(context: &Context) {
    found_just_in_time(context, &["cat", "/build/late"], "/build/late");
}

pub fn a_file_can_be_made_in_a_root_of_the_programs_own(context: &Context) {
    let arguments = ["cat_in_a_root_of_its_own", "late"];
    found_just_in_time(context, &arguments, "/work/late");
}

/// The program reads the file, which is only made while it asks for it.
fn found_just_in_time(context: &Context, arguments: &[&str], path: &str) {
    let request = watched(context, arguments);
    let (uid, gid) = (request.host_uid, request.host_gid);
    let (running, mut reader) = context.start(&request);
    let mut made = 0;
    watch(&running, |listener, call, lookup| {
        if *lookup == read(path) {
            let root = root_of(listener, call).expect("it waits");
            let _user = FileUser::enter(uid, gid).expect("that user");
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
            let mode = Mode::from_raw_mode(0o644);
            let file = rustix::fs::openat(&root, &path[1..], flags, mode).expect("made");
            std::fs::File::from(file)
                .write_all(b"just in time")
                .expect("written");
            made += 1;
        }
    });
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("text");
    assert_eq!(text, "just in time");
    assert_eq!(made, 1);
}

pub fn a_lookup_can_be_refused(context: &Context) {
    let (running, mut reader) = context.start(&watched(context, &["look", "/build"]));
    let listener = running.take_listener().expect("it is watched");
    let (stop, _writer) = pipe();
    while let Some(call) = receive(&listener, stop.as_fd()) {
        match lookups(&listener, &call).expect("it waits").as_slice() {
            [lookup] if *lookup == look("/build") => {
                listener.refuse(&call, rustix::io::Errno::XDEV)
            }
            _ => listener.allow(&call),
        }
        .expect("answered");
    }
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("text");
    assert_eq!(text, "EXDEV\n");
}

pub fn a_watched_build_is_refused_the_same(context: &Context) {
    let plain = context.output(&context.build(&["refusals"])).1;
    let mut request = context.build(&["refusals"]);
    request.watched = true;
    let (running, mut reader) = context.start(&request);
    watch(&running, |_, _, _| {});
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("text");
    assert_eq!(text, plain);
}

pub fn a_watched_sandbox_has_no_ring_and_its_other_abis_are_watched(context: &Context) {
    let perl = Path::new("/usr/bin/perl");
    if perl.exists() {
        let mut request = watched(context, &[]);
        request.mounts.push(Mount::input(perl, "/bin/perl"));
        request.program = "/bin/perl".into();
        request.add(droste_sandbox::dev_nodes(false));
        // io_uring_setup, and stat as x32 has it.
        let script = r#"for $n (425, 0x40000004) { $b = "\0" x 200; $! = 0; $p = "/x32";
            syscall($n, $p, $b); print $! + 0, "\n" }"#;
        request.args = vec!["-e".into(), script.into()];
        let (running, mut reader) = context.start(&request);
        let seen = watch(&running, |_, _, _| {});
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("text");
        assert_eq!(text, "38\n38\n", "ENOSYS");
        assert!(!seen.contains(&look("/x32")));
    } else {
        println!("skipped: the ring, because there is no perl");
    }
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    // A 64-bit program that makes a call of i386: access("/i386", 0), then exit.
    let source = ".globl _start\n_start: mov $33,%eax; mov $path,%ebx; xor %ecx,%ecx; int $0x80\n\
                  mov $1,%eax; xor %ebx,%ebx; int $0x80\n.data\npath: .asciz \"/i386\"\n";
    let (file, program) = (context.path("a.s"), context.path("i386"));
    std::fs::write(&file, source).expect("written");
    let compiler = Command::new("gcc")
        .args(["-nostdlib", "-static", "-no-pie", "-o"])
        .args([&program, &file])
        .status();
    if !compiler.is_ok_and(|status| status.success()) {
        return println!("skipped: i386, because there is no gcc");
    }
    let mut request = watched(context, &[]);
    request.mounts.push(Mount::input(program, "/bin/i386"));
    request.program = "/bin/i386".into();
    let (running, _reader) = context.start(&request);
    let seen = watch(&running, |_, _, _| {});
    let exit = running.wait().expect("a status").exit;
    if exit == Exit::Code(0) {
        assert_seen(&seen, &[look("/i386")]);
    } else {
        println!("skipped: i386, because this kernel does not have it ({exit:?})");
    }
}

pub fn the_end_of_a_watched_sandbox_ends_the_watching(context: &Context) {
    let (running, mut reader) = context.start(&watched(context, &["wait"]));
    let listener = running.take_listener().expect("it is watched");
    let (stop, _writer) = pipe();
    let (listener, stop) = (&listener, &stop);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(move || {
            while let Some(call) = receive(listener, stop.as_fd()) {
                listener.allow(&call).expect("allowed");
            }
        });
        let mut line = String::new();
        reader.read_line(&mut line).expect("a line");
        assert_eq!(line, "waiting\n");
        running.kill().expect("killed");
        watcher.join().expect("it ends");
    });
    assert_eq!(running.wait().expect("a status").exit, Exit::Signal(9));

    // Also while a call waits, and by a word from elsewhere while none does.
    let (running, _reader) = context.start(&watched(context, &["wait"]));
    let listener = running.take_listener().expect("it is watched");
    let call = receive(&listener, stop.as_fd()).expect("a call");
    assert!(listener.is_waiting(&call));
    let (word, writer) = pipe();
    rustix::io::write(&writer, b"x").expect("written");
    assert_eq!(receive(&listener, word.as_fd()), None);
    running.kill().expect("killed");
    running.wait().expect("a status");
    assert_eq!(lookups(&listener, &call), Err(droste_sandbox::Gone));
    listener.allow(&call).expect("no error");
    assert_eq!(receive(&listener, stop.as_fd()), None);
}

pub fn without_a_watcher_lookups_fail_and_nothing_hangs(context: &Context) {
    let (running, mut reader) = context.start(&watched(context, &["look_again", "/build"]));
    let listener = running.take_listener().expect("it is watched");
    let (stop, _writer): (OwnedFd, OwnedFd) = pipe();
    loop {
        let call = receive(&listener, stop.as_fd()).expect("a call");
        let found = lookups(&listener, &call).expect("it waits");
        if found == [look("/build")] {
            break;
        }
        listener.allow(&call).expect("allowed");
    }
    drop(listener);
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("text");
    assert_eq!(text, "ENOSYS\nENOSYS\n");
    running.wait().expect("a status");
}

pub fn a_watched_program_that_is_missing_is_an_error(context: &Context) {
    let mut request = watched(context, &[]);
    request.program = "/missing".into();
    match context.spawner.spawn(&request, &[]) {
        Err(Error::Setup(error)) => assert_eq!(error.step, Step::Execute),
        other => panic!("{other:?}"),
    }
    let plain = context.child(&["exit", "0"]);
    let running = context.spawner.spawn(&plain, &[]).expect("a sandbox");
    assert!(running.take_listener().is_none());
}

pub fn many_threads_lookups_are_seen_each(context: &Context) {
    let (running, mut reader) = context.start(&watched(context, &["many_lookups", "8", "100"]));
    let seen = watch(&running, |_, _, _| {});
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("text");
    assert_eq!(text, "done\n");
    let seen: BTreeSet<Vec<u8>> = seen
        .into_iter()
        .filter_map(|lookup| match lookup {
            Lookup::Path { path, .. } => Some(path),
            _ => None,
        })
        .collect();
    for thread in 0..8 {
        for number in 0..100 {
            let path = format!("/many/{thread}/{number}");
            assert!(seen.contains(path.as_bytes()), "{path}");
        }
    }
}
