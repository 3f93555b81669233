//! Clients that send what they should not, stop in the middle, or come in
//! crowds.

mod support;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use droste_daemon::{ConnectionError, Limits, Trust, serve_streams};
use proptest::prelude::*;
use store_api::{BuildMode, Store};
use store_types::{ContentAddressMethod, HashAlgorithm, PathInfo, StorePath, sha256};
use store_wire::{FramedWriter, Request, Response, Session, StderrFrame, Version, Writer};

use support::{Client, DirStore, add_script, all_of, nar_of_file, options, serve};

/// Serves these bytes, and returns what was answered.
fn serve_bytes(store: &DirStore, input: &[u8]) -> (Result<(), ConnectionError>, Vec<u8>) {
    let mut output = Vec::new();
    let options = options(Trust::Trusted);
    let ended = serve_streams(input, &mut output, &|| false, &mut || {}, store, &options);
    (ended, output)
}

fn greeting(version: Version) -> Vec<u8> {
    let mut w = Writer::new();
    w.u64(0x6e69_7863).u64(version.to_wire());
    if version.minor >= 38 {
        w.u64(0);
    }
    w.u64(0).u64(0);
    w.into_bytes()
}

/// What a client sends in a session with every kind of payload, with the places
/// where one message ends and the next begins.
fn session_bytes(version: Version) -> (Vec<u8>, BTreeSet<usize>) {
    let session = Session::new(version, Default::default());
    let nar = nar_of_file(b"content");
    let path = StorePath::from_hash_and_name(&[1; 20], "x").unwrap();
    let info = PathInfo {
        path: path.clone(),
        nar_hash: sha256(&nar),
        nar_size: nar.len() as u64,
        references: BTreeSet::new(),
        deriver: None,
        registration_time: 0,
        ultimate: false,
        signatures: vec!["key:c2ln".to_owned()],
        ca: None,
    };
    let mut several = Writer::new();
    several.u64(1);
    session.write_keyed_path_info(&mut several, &info);
    several.raw(&nar);
    let add = Request::AddToStore {
        name: "a".to_owned(),
        method: ContentAddressMethod::Nar,
        algorithm: HashAlgorithm::Sha256,
        references: BTreeSet::new(),
        repair: false,
    };
    let add_nar = Request::AddToStoreNar {
        info,
        repair: false,
        dont_check_signatures: false,
    };
    let mut messages = vec![
        (Request::QueryPathInfo(path.clone()), vec![]),
        (add, nar.clone()),
        (add_nar, nar),
        (Request::NarFromPath(path.clone()), vec![]),
        (
            Request::BuildPaths {
                paths: all_of(&path),
                mode: BuildMode::Normal,
            },
            vec![],
        ),
    ];
    if session.since(32) {
        let request = Request::AddMultipleToStore {
            repair: false,
            dont_check_signatures: false,
        };
        messages.push((request, several.into_bytes()));
    }

    let mut bytes = greeting(version);
    let mut ends = BTreeSet::from([bytes.len()]);
    for (request, payload) in messages {
        let mut w = Writer::new();
        request.write(&session, &mut w);
        bytes.extend(w.into_bytes());
        match request.payload(&session) {
            store_wire::Payload::Nothing => {}
            store_wire::Payload::Nar => bytes.extend(payload),
            store_wire::Payload::Pulled(_) => {
                let mut w = Writer::new();
                w.bytes(payload);
                bytes.extend(w.into_bytes());
            }
            store_wire::Payload::Framed => {
                let mut framed = FramedWriter::new(Vec::new());
                framed.write_all(&payload).unwrap();
                bytes.extend(framed.finish().unwrap());
            }
        }
        ends.insert(bytes.len());
    }
    (bytes, ends)
}

#[test]
fn a_session_cut_at_any_byte_ends_in_order_only_between_two_messages() {
    for version in [Version::MINIMUM, Version::new(23), Version::LATEST] {
        let (bytes, ends) = session_bytes(version);
        let store = DirStore::new();
        let (whole, _) = serve_bytes(&store, &bytes);
        whole.unwrap();
        assert_eq!(store.paths().len(), 2);
        for len in 0..bytes.len() {
            let store = DirStore::new();
            let (ended, _) = serve_bytes(&store, &bytes[..len]);
            assert_eq!(
                ended.is_ok(),
                ends.contains(&len),
                "{version:?} {len} {ended:?}"
            );
            assert_eq!(store.leftovers(), Vec::<String>::new());
        }
    }
}

#[test]
fn a_session_with_any_number_made_huge_ends_without_a_panic_or_a_large_allocation() {
    for version in [Version::MINIMUM, Version::new(23), Version::LATEST] {
        let (bytes, _) = session_bytes(version);
        for at in (0..bytes.len()).step_by(8) {
            for huge in [u64::MAX, u64::MAX - 7, u64::MAX - 8, 1 << 63, 1 << 40] {
                let mut bytes = bytes.clone();
                bytes[at..at + 8].copy_from_slice(&u64::to_le_bytes(huge));
                // Whether it is an error depends on what the number is.
                let (ended, _) = serve_bytes(&DirStore::new(), &bytes);
                drop(ended);
            }
        }
    }
}

#[test]
fn what_is_no_request_is_answered_with_an_error_that_says_so() {
    let store = DirStore::new();
    for (bytes, text) in [
        (999u64.to_le_bytes().to_vec(), "'operation' cannot be 999"),
        (
            {
                let mut w = Writer::new();
                w.u64(1).bytes("/etc/passwd");
                w.into_bytes()
            },
            "it is not in the store directory",
        ),
        (
            [1u64.to_le_bytes(), (u64::MAX - 7).to_le_bytes()].concat(),
            "more than",
        ),
    ] {
        let input = [greeting(Version::LATEST), bytes].concat();
        let (ended, output) = serve_bytes(&store, &input);
        assert!(
            matches!(ended, Err(ConnectionError::Request(_))),
            "{ended:?}"
        );
        let output = String::from_utf8_lossy(&output).into_owned();
        assert!(output.contains(text), "{output}");
    }
}

#[test]
fn who_does_not_speak_the_protocol_or_only_an_older_one_is_turned_away() {
    let store = DirStore::new();
    let (ended, output) = serve_bytes(&store, b"GET / HTTP/1.1\r\n\r\n");
    assert!(matches!(ended, Err(ConnectionError::Handshake(_))));
    assert_eq!(output, b"");
    for version in [Version::new(20), Version { major: 2, minor: 0 }] {
        let (ended, output) = serve_bytes(&store, &greeting(version));
        assert!(matches!(ended, Err(ConnectionError::Handshake(_))));
        assert!(String::from_utf8_lossy(&output).contains("is not supported"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn random_bytes_after_the_greeting_end_without_a_panic(
        operation in 0u64..50,
        minor in Version::MINIMUM.minor..=Version::LATEST.minor,
        bytes: Vec<u8>,
    ) {
        let mut input = greeting(Version::new(minor));
        input.extend(operation.to_le_bytes());
        input.extend(bytes);
        let _ = serve_bytes(&DirStore::new(), &input);
    }

    #[test]
    fn a_session_with_any_bytes_changed_ends_without_a_panic(
        minor in Version::MINIMUM.minor..=Version::LATEST.minor,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (mut bytes, _) = session_bytes(Version::new(minor));
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = serve_bytes(&DirStore::new(), &bytes);
    }
}

#[test]
fn a_client_that_dies_in_a_payload_leaves_nothing_behind_and_disturbs_nobody() {
    let store = DirStore::new();
    let (server, socket) = serve(&store, Trust::Trusted, Limits::default());
    let connect = || UnixStream::connect(&socket).unwrap();
    let mut other = Client::connect(connect(), Version::LATEST).unwrap();
    let (bytes, _) = session_bytes(Version::LATEST);
    for len in (0..bytes.len()).step_by(97) {
        connect().write_all(&bytes[..len]).unwrap();
    }
    while server.connections() > 1 {
        thread::yield_now();
    }
    assert_eq!(store.leftovers(), Vec::<String>::new());
    let answer = other.call(Request::QueryAllValidPaths, b"");
    assert_eq!(answer, Ok(Response::Paths(store.paths())));
}

#[test]
fn of_200_connections_at_once_those_that_have_a_place_are_served_and_the_others_told_why_not() {
    const PLACES: usize = 50;
    let store = DirStore::new();
    let limits = Limits {
        connections_max: PLACES,
        ..Limits::default()
    };
    let (server, socket) = serve(&store, Trust::Trusted, limits);
    let outcomes: Vec<_> = (0..200)
        .map(|_| {
            let socket = socket.clone();
            thread::spawn(move || {
                Client::connect(UnixStream::connect(socket).unwrap(), Version::LATEST)
            })
        })
        .collect::<Vec<_>>()
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect();
    let mut clients = Vec::new();
    for outcome in outcomes {
        match outcome {
            Ok(client) => clients.push(client),
            Err(store_wire::HandshakeError::Refused(err)) => {
                assert!(err.message.contains("connections already"), "{err}");
            }
            Err(err) => panic!("{err:?}"),
        }
    }
    assert_eq!(clients.len(), PLACES);
    for client in &mut clients {
        let answer = client.call(Request::QueryAllValidPaths, b"");
        assert_eq!(answer, Ok(Response::Paths(BTreeSet::new())));
    }
    // Who leaves makes room.
    clients.pop();
    while server.connections() == PLACES {
        thread::yield_now();
    }
    Client::connect(UnixStream::connect(&socket).unwrap(), Version::LATEST).unwrap();
}

/// What this process has in memory, in bytes.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = resident.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<usize>().unwrap() << 10
}

#[test]
fn among_1000_clients_that_misbehave_a_proper_one_is_served_at_once() {
    const CLIENTS: usize = 1000;
    // Both ends of each are in this process.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if limit.maximum.is_some_and(|most| most < 4096) {
        println!("skipped: this process may not open 4096 files");
        return;
    }
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        ..limit
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let store = DirStore::new();
    let limits = Limits {
        connections_max: 2 * CLIENTS,
        connections_of_user_max: CLIENTS + 2,
        ..Limits::default()
    };
    let (server, socket) = serve(&store, Trust::Trusted, limits);
    let connect = || UnixStream::connect(&socket).unwrap();
    let mut builder = Client::connect(connect(), Version::LATEST).unwrap();
    // Enough for an answer that does not go into a socket's buffer.
    for number in 0..200 {
        add_script(&mut builder, &format!("{number:0200}"), "true");
    }
    let before = resident_bytes();
    let crowd: Vec<UnixStream> = (0..CLIENTS)
        .map(|number| {
            let mut stream = connect();
            match number % 4 {
                // Says nothing.
                0 => {}
                // Stops within the greeting.
                1 => stream.write_all(&greeting(Version::LATEST)[..12]).unwrap(),
                // Stops within an addition.
                2 => {
                    let (bytes, _) = session_bytes(Version::LATEST);
                    stream.write_all(&bytes[..bytes.len() / 2]).unwrap();
                }
                // Asks and asks, and never reads.
                _ => {
                    stream.set_nonblocking(true).unwrap();
                    let mut bytes = greeting(Version::LATEST);
                    let question = Request::QueryAllValidPaths.operation().1.to_le_bytes();
                    bytes.extend(question.repeat(1000));
                    // As far as it is taken.
                    let _ = stream.write(&bytes);
                }
            }
            stream
        })
        .collect();
    while server.connections() < CLIENTS + 1 {
        thread::yield_now();
    }
    let begun = std::time::Instant::now();
    let mut proper = Client::connect(connect(), Version::LATEST).unwrap();
    assert!(proper.call(Request::QueryAllValidPaths, b"").is_ok());
    let added = add_script(&mut proper, "proper", "true");
    let taken = begun.elapsed();
    assert!(taken < std::time::Duration::from_secs(10), "{taken:?}");
    // Who was there before is not disturbed.
    let seen = builder.call(Request::IsValidPath(added), b"");
    assert_eq!(seen, Ok(Response::Bool(true)));
    // One more than a user may have.
    let refused = Client::connect(connect(), Version::LATEST);
    let Err(store_wire::HandshakeError::Refused(why)) = refused else {
        panic!("{CLIENTS} clients and three were let in");
    };
    assert!(why.message.contains("connections of user"), "{why}");
    let each = resident_bytes().saturating_sub(before) / CLIENTS;
    println!("{each} bytes for each connection, {taken:?} for the proper client");
    assert!(each < 512 << 10, "{each} bytes for each connection");
    drop(crowd);
    while server.connections() > 2 {
        thread::yield_now();
    }
}

#[test]
fn a_client_that_sends_nothing_is_dropped_after_the_handshakes_time() {
    let store = DirStore::new();
    let limits = Limits {
        handshake_timeout: std::time::Duration::from_millis(50),
        ..Limits::default()
    };
    let (_server, socket) = serve(&store, Trust::Trusted, limits);
    let mut silent = UnixStream::connect(&socket).unwrap();
    let mut read = Vec::new();
    silent.read_to_end(&mut read).unwrap();
    assert_eq!(read, b"");
    // After the handshake a client may be silent for as long as it likes. (On a busy
    // machine the first tries may themselves be too slow.)
    let mut client = loop {
        let stream = UnixStream::connect(&socket).unwrap();
        if let Ok(client) = Client::connect(stream, Version::LATEST) {
            break client;
        }
    };
    thread::sleep(std::time::Duration::from_millis(100));
    assert!(client.call(Request::QueryAllValidPaths, b"").is_ok());
}

#[test]
fn a_client_that_pauses_within_a_request_is_dropped() {
    let store = DirStore::new();
    let limits = Limits {
        request_timeout: std::time::Duration::from_millis(50),
        ..Limits::default()
    };
    let (server, socket) = serve(&store, Trust::Trusted, limits);
    let stream = UnixStream::connect(&socket).unwrap();
    let mut client = Client::connect(stream, Version::LATEST).unwrap();
    assert!(client.call(Request::QueryAllValidPaths, b"").is_ok());
    client.send_raw(&1u64.to_le_bytes());
    while server.connections() > 0 {
        thread::yield_now();
    }
}

#[test]
fn what_the_requests_of_a_user_and_of_all_hold_is_bounded() {
    let whole = 20 << 20;
    for (of_user, all) in [(whole, whole * 9), (whole * 9, whole)] {
        let store = DirStore::new();
        let limits = Limits {
            requests_bytes_max: all,
            requests_of_user_bytes_max: of_user,
            ..Limits::default()
        };
        let (server, socket) = serve(&store, Trust::Trusted, limits);
        let connect = || {
            let stream = UnixStream::connect(&socket).unwrap();
            Client::connect(stream, Version::LATEST).unwrap()
        };
        // `AddTextToStore`, which ends within a text of this length.
        let begin = |client: &mut Client, len: u64| {
            let mut w = Writer::new();
            w.u64(8).bytes("x").u64(len);
            client.send_raw(&w.into_bytes());
            client.send_raw(&vec![b'x'; 1 << 20]);
        };
        let text = |len: usize| Request::AddTextToStore {
            name: "x".to_owned(),
            text: vec![b'x'; len],
            references: BTreeSet::new(),
        };
        // What was answered is held no more.
        let mut small = connect();
        for _ in 0..4 {
            assert!(small.call(text(15 << 20), b"").is_ok());
        }
        // The last one is given back by the time that the next is answered.
        assert!(small.call(text(1000), b"").is_ok());
        let mut first = connect();
        begin(&mut first, 15 << 20);
        let mut second = connect();
        begin(&mut second, 15 << 20);
        match second.frame() {
            StderrFrame::Error(error) if error.message.contains("no room") => {}
            other => panic!("{other:?}"),
        }
        // Small requests are served all the same.
        assert!(small.call(text(1000), b"").is_ok());
        drop(first);
        while server.connections() > 1 {
            thread::yield_now();
        }
        assert!(small.call(text(15 << 20), b"").is_ok());
    }
}

#[test]
fn a_client_that_has_closed_its_sending_half_still_gets_its_answers() {
    let store = DirStore::new();
    let (_server, socket) = serve(&store, Trust::Trusted, Limits::default());
    let stream = UnixStream::connect(&socket).unwrap();
    let mut client = Client::connect(stream.try_clone().unwrap(), Version::LATEST).unwrap();
    let drv = support::add_script(&mut client, "slow", "sleep 0.1; echo x > $out");
    let request = Request::BuildPaths {
        paths: all_of(&drv),
        mode: BuildMode::Normal,
    };
    client.send(&request, b"");
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.reply(&request, b""), Ok(Response::Bool(true)));
    let _: Arc<dyn Store> = store;
}
