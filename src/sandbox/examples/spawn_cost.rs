//! What starting a sandbox costs: minimum and median wall time of one start, run and wait of a
//! static program that does nothing, for several kinds of sandbox, beside a plain process.
//!
//! `cargo run --release -p droste-sandbox --example spawn_cost [RUNS] [PROGRAM] [INPUTS]`; PROGRAM
//! must need nothing but itself and is run as `true` (by default /bin/busybox, static). With INPUTS
//! it makes only sandboxes of children with so many inputs, as the executor makes them: what
//! `nixexpr-tests/bench` compares with the kernel's own cost.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use droste_sandbox::{
    Mount, Network, Node, OnDisk, Request, Root, Spawner, TmpfsSize, dev_nodes, etc_files,
    proc_mount,
};

fn main() {
    droste_sandbox::run_if_spawner();
    let mut arguments = std::env::args().skip(1);
    let runs = arguments.next().and_then(|runs| runs.parse().ok());
    let runs: usize = runs.unwrap_or(300);
    let program = arguments
        .next()
        .unwrap_or_else(|| "/bin/busybox".to_owned());
    let program = Path::new(&program);

    if let Some(inputs) = arguments.next() {
        let inputs: usize = inputs.parse().expect("a number of inputs");
        let spawner = Spawner::start().expect("a spawner");
        return measure("a child", runs, || {
            let root = tempfile::tempdir().expect("a directory");
            // Others have to get through it: the sandbox's user is not this one.
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(root.path(), open).expect("it is ours");
            let request = child_of(program, root.path(), inputs);
            let running = spawner.spawn(&request, &[]).expect("a sandbox");
            assert!(running.wait().expect("it ends").success());
            drop(running);
            droste_sandbox::remove_tree(root.path()).expect("it can be removed");
        });
    }

    measure("posix_spawn", runs, || {
        let status = Command::new(program).arg0("true").env_clear().status();
        assert!(status.expect("it starts").success());
    });
    let spawner = Spawner::start().expect("a spawner");
    let sandboxes: [(&str, Request); 5] = [
        (
            "tmpfs root, 1 bind, no network",
            tmpfs_root(program, Network::None, 1),
        ),
        (
            "tmpfs root, 1 bind, own network",
            tmpfs_root(program, Network::Isolated, 1),
        ),
        (
            "tmpfs root, 30 binds, no network",
            tmpfs_root(program, Network::None, 30),
        ),
        ("a child: 30 binds, proc, dev, 100 files", child(program)),
        ("the same, own network", {
            let mut request = child(program);
            request.network = Network::Isolated;
            request
        }),
    ];
    for (name, request) in &sandboxes {
        measure(name, runs, || {
            let running = spawner.spawn(request, &[]).expect("a sandbox");
            assert!(running.wait().expect("it ends").success());
        });
    }
}

fn tmpfs_root(program: &Path, network: Network, binds: usize) -> Request {
    let root = Root::Tmpfs {
        size: TmpfsSize::Default,
    };
    let mut request = Request::new(root, "/bin/true");
    request.network = network;
    request.mounts.push(Mount::input(program, "/bin/true"));
    for number in 1..binds {
        let target = format!("/nix/store/{number}");
        request.mounts.push(Mount::input(program, target));
    }
    request
}

/// What the executor asks for, with a directory on disk, and the inputs as files.
fn child_of(program: &Path, root: &Path, inputs: usize) -> Request {
    let on_disk = vec![OnDisk {
        source: root.to_owned(),
        target: "/nix/store".into(),
    }];
    let mut request = Request::new(Root::Directories(on_disk), "/nix/store/0");
    request.network = Network::None;
    request.cwd = "/build".into();
    request.add(dev_nodes(false)).add(proc_mount());
    request.add(etc_files("/build", true));
    request.nodes.push(Node::build_dir("/build", 0o700));
    request
        .nodes
        .push(Node::file("/build/input", 0o444, b"some text\n".to_vec()));
    for number in 0..inputs {
        let target = format!("/nix/store/{number}");
        request.mounts.push(Mount::input(program, target));
    }
    request
}

fn child(program: &Path) -> Request {
    let mut request = tmpfs_root(program, Network::None, 30);
    request.add(dev_nodes(false)).add(proc_mount());
    request.add(etc_files("/build", true));
    request.nodes.push(Node::build_dir("/build", 0o700));
    for number in 0..100 {
        let path = format!("/build/include/{number}.h");
        request
            .nodes
            .push(Node::file(path, 0o444, vec![b'x'; 8 << 10]));
    }
    request
}

fn measure(name: &str, runs: usize, mut once: impl FnMut()) {
    let mut times: Vec<Duration> = (0..runs)
        .map(|_| {
            let start = Instant::now();
            once();
            start.elapsed()
        })
        .collect();
    times.sort();
    let milliseconds = |time: &Duration| time.as_secs_f64() * 1e3;
    println!(
        "{name:40} min {:6.2} ms   median {:6.2} ms",
        milliseconds(&times[0]),
        milliseconds(&times[times.len() / 2]),
    );
}
