//! What watching lookups costs: wall time of one stat(2) of a missing file, plain, allowed at
//! once, and read out before.
//!
//! `cargo run --release -p droste-sandbox --example watch_cost [CALLS]`

use std::os::fd::AsFd;
use std::time::Instant;

use droste_sandbox::{Listener, Mount, Notification, Request, Root, Spawner, TmpfsSize, lookups};

/// What is done with a call before it is allowed.
type Look = fn(&Listener, &Notification);

fn main() {
    droste_sandbox::run_if_spawner();
    let mut arguments = std::env::args().skip(1);
    let calls = arguments.next().unwrap_or_else(|| "20000".to_owned());
    if let Some(kind) = arguments.next() {
        return look_up(&kind, calls.parse().expect("a number"));
    }
    let spawner = Spawner::start().expect("a spawner");
    let rows: [(&str, Option<Look>); 3] = [
        ("not watched", None),
        ("allowed at once", Some(|_, _| {})),
        (
            "read out",
            Some(|listener, call| {
                let _ = lookups(listener, call);
            }),
        ),
    ];
    for path in ["/an/absolute/path", "relative"] {
        for (name, look) in rows {
            println!("{path:18} {name}");
            let request = request(&calls, path, look.is_some());
            let running = spawner
                .spawn(&request, &[std::io::stdout().as_fd()])
                .expect("a sandbox");
            if let (Some(look), Some(listener)) = (look, running.take_listener()) {
                let (stop, _writer) = rustix::pipe::pipe().expect("a pipe");
                while let Some(call) = listener.receive(stop.as_fd()).expect("received") {
                    look(&listener, &call);
                    listener.allow(&call).expect("allowed");
                }
            }
            assert!(running.wait().expect("it ends").success());
        }
    }
}

/// This program once more, to make that many calls.
fn request(calls: &str, path: &str, watched: bool) -> Request {
    let size = TmpfsSize::Default;
    let mut request = Request::new(Root::Tmpfs { size }, "/bin/program");
    let program = std::env::current_exe().expect("a path");
    request.mounts.push(Mount::input(program, "/bin/program"));
    for library in ["/usr/lib", "/usr/lib64", "/lib", "/lib64"] {
        if std::fs::symlink_metadata(library).is_ok() {
            request.mounts.push(Mount::input(library, library));
        }
    }
    request.args = vec![calls.into(), path.into()];
    request.watched = watched;
    request.stdio[1] = droste_sandbox::Stdio::Fd(0);
    request
}

fn look_up(path: &str, calls: u32) {
    let start = Instant::now();
    for _ in 0..calls {
        rustix::fs::stat(path).expect_err("missing");
    }
    let microseconds = start.elapsed().as_secs_f64() * 1e6 / f64::from(calls);
    println!("{microseconds:30.2} µs");
}
