//! Transfers from servers of these tests' own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::client::Client;
use super::download::Download;
use super::failure::{Code, Failure};
use super::netrc::Netrc;
use crate::request::Limits;

/// A server that has this many answers, one a connection, and then no more. It remembers what
/// it was asked.
struct Server {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn new(answers: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let lines = BufReader::new(&stream).lines();
                let head: Vec<String> = lines
                    .map(Result::unwrap)
                    .take_while(|line| !line.is_empty())
                    .filter(|line| {
                        ["GET", "Host", "Range", "Authorization"]
                            .iter()
                            .any(|begin| line.starts_with(begin))
                    })
                    .collect();
                log.lock().unwrap().push(head.join("; "));
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        Self { address, asked }
    }

    fn url(&self, rest: &str) -> String {
        format!("http://{}/{rest}", self.address)
    }

    /// What it was asked, without its own address.
    fn asked(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        let own = format!("; Host: {}", self.address);
        asked
            .iter()
            .map(|head| head.replace(&own, "").replace(" HTTP/1.1", ""))
            .collect()
    }
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn redirect(to: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")
}

fn client(netrc: &str) -> Client {
    let limits = Limits {
        stalled_timeout: Some(Duration::from_millis(300)),
        attempts: 3,
        ..Limits::default()
    };
    Client::with(limits, Netrc::parse(netrc))
}

/// What a transfer makes of a URL.
fn fetched(client: &Client, url: &str) -> Result<String, Failure> {
    let mut text = String::new();
    let mut download = Download::new(client, url);
    download.sleep = |_| {};
    match download.read_to_string(&mut text) {
        Ok(_) => Ok(text),
        Err(error) => Err(*error.into_inner().unwrap().downcast().unwrap()),
    }
}

#[test]
fn a_transfer_goes_on_where_it_broke_off() {
    let server = Server::new(vec![
        "HTTP/1.1 503 Later\r\nContent-Length: 0\r\n\r\n".into(),
        "HTTP/1.1 200 OK\r\nAccept-Ranges: bytes\r\nContent-Length: 10\r\n\r\n0123".into(),
        "HTTP/1.1 206 Part\r\nContent-Range: bytes 4-9/10\r\nContent-Length: 6\r\n\r\n456789"
            .into(),
    ]);
    assert_eq!(
        fetched(&client(""), &server.url("x")).unwrap(),
        "0123456789"
    );
    assert_eq!(
        server.asked(),
        ["GET /x", "GET /x", "GET /x; Range: bytes=4-"]
    );
}

#[test]
fn what_goes_on_elsewhere_is_not_taken() {
    let part =
        "HTTP/1.1 206 Part\r\nContent-Range: bytes 3-9/10\r\nContent-Length: 7\r\n\r\n3456789";
    for other in [ok("0123456789"), part.to_owned()] {
        let server = Server::new(vec![
            "HTTP/1.1 200 OK\r\nAccept-Ranges: bytes\r\nContent-Length: 10\r\n\r\n0123".into(),
            other.clone(),
            other,
        ]);
        let failure = fetched(&client(""), &server.url("x")).unwrap_err();
        assert_eq!(failure.fault.code, Code::Range);
    }
}

#[test]
fn without_ranges_half_a_file_is_a_failure() {
    let server = Server::new(vec![
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123".into(),
    ]);
    let failure = fetched(&client(""), &server.url("x")).unwrap_err();
    assert_eq!((failure.status, failure.fault.code), (200, Code::Partial));
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn there_are_so_many_attempts_and_no_more() {
    let answer = "HTTP/1.1 500 Broken\r\nContent-Length: 4\r\n\r\nwhy\n";
    let server = Server::new(vec![answer.into(); 4]);
    let failure = fetched(&client(""), &server.url("x")).unwrap_err();
    assert_eq!(
        (failure.status, failure.body.as_deref()),
        (500, Some("why\n"))
    );
    assert_eq!(server.asked().len(), 3);
}

#[test]
fn credentials_are_for_their_host_alone() {
    // One address of this machine is another host than the next.
    let listener = TcpListener::bind("127.0.0.2:0").unwrap();
    let other = listener.local_addr().unwrap();
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        for line in BufReader::new(&stream).lines() {
            let line = line.unwrap();
            if line.is_empty() {
                break;
            }
            head.push(line);
        }
        stream.write_all(ok("there").as_bytes()).unwrap();
        head
    });
    let server = Server::new(vec![
        redirect("/again"),
        redirect(&format!("http://{other}/x")),
    ]);
    let netrc = "machine 127.0.0.1 login user password secret";
    assert_eq!(fetched(&client(netrc), &server.url("x")).unwrap(), "there");
    let credentials = "Authorization: Basic dXNlcjpzZWNyZXQ=";
    assert_eq!(
        server.asked(),
        [
            format!("GET /x; {credentials}"),
            format!("GET /again; {credentials}")
        ]
    );
    let head = asked.join().unwrap();
    assert!(
        !head.iter().any(|line| line.starts_with("Authorization")),
        "{head:?}"
    );
}

#[test]
fn a_password_in_a_url_stays_with_its_server() {
    let second = Server::new(vec![ok("there"), ok("there")]);
    let first = Server::new(vec![redirect(&second.url("x"))]);
    let url = first.url("x").replace("http://", "http://user:secret@");
    assert_eq!(fetched(&client(""), &url).unwrap(), "there");
    assert_eq!(
        first.asked(),
        ["GET /x; Authorization: Basic dXNlcjpzZWNyZXQ="]
    );
    assert_eq!(second.asked(), ["GET /x"]);
}

#[test]
fn redirects_end() {
    let server = Server::new(vec![redirect("/x"); 12]);
    let failure = fetched(&client(""), &server.url("x")).unwrap_err();
    assert_eq!((failure.status, failure.fault.code), (302, Code::Redirects));
    assert_eq!(server.asked().len(), 11);
}

#[rstest::rstest]
#[case::file("file:///etc/passwd", Code::Protocol)]
#[case::other("ftp://127.0.0.1/", Code::Protocol)]
#[case::malformed("http://[", Code::Url)]
#[case::control_character("/x\ty", Code::Url)]
fn redirects_to_elsewhere_are_refused(#[case] to: &str, #[case] code: Code) {
    let server = Server::new(vec![redirect(to)]);
    let failure = fetched(&client(""), &server.url("x")).unwrap_err();
    assert_eq!((failure.status, failure.fault.code), (302, code));
}

#[test]
fn a_server_that_hangs_is_left() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // Connections are accepted by the kernel, and by nobody else.
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let failure = fetched(&client(""), &url).unwrap_err();
    assert_eq!((failure.status, failure.fault.code), (0, Code::TimedOut));
}

#[test]
fn nobody_there_is_a_failure_to_connect() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let failure = fetched(&client(""), &url).unwrap_err();
    assert_eq!(failure.fault.code, Code::NoConnection);
}

#[test]
fn files_of_this_machine_are_read() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a b"), "text").unwrap();
    let url = format!("file://{}/a%20b", dir.path().display());
    assert_eq!(fetched(&client(""), &url).unwrap(), "text");
    let failure = fetched(&client(""), "file:///nowhere/at/all").unwrap_err();
    assert_eq!(failure.fault.code, Code::File);
    assert!(
        failure
            .to_string()
            .contains("Could not read a file:// file (37) Could not open file /nowhere/at/all")
    );
}

/// What a whole build makes of a URL with these mirrors, as `out` of a directory of its own.
fn built(
    dir: &std::path::Path,
    ca: (store_types::ContentAddressMethod, &str),
    env: &[(&str, &str)],
    mirrors: &[String],
) -> Result<String, String> {
    let env: Vec<(&str, &[u8])> = env
        .iter()
        .map(|(name, value)| (*name, value.as_bytes()))
        .collect();
    let mut request = crate::request::tests::request("fetchurl", &dir.join("out"), &env);
    let (method, content) = ca;
    let ca = store_types::ContentAddress {
        method,
        hash: store_types::sha256(content.as_bytes()),
    };
    let path = store_types::StorePath::from_hash_and_name(&[7; 20], "x").unwrap();
    let output = store_types::DerivationOutput::Fixed { ca, path };
    request.drv.outputs.insert("out".into(), output);
    request.hashed_mirrors = mirrors.to_vec();
    request.limits.attempts = 1;
    super::fetch(&request).map_err(|error| crate::chain(&error))?;
    Ok(std::fs::read_to_string(dir.join("out")).unwrap())
}

#[test]
fn mirrors_are_asked_by_hash_and_before_the_url() {
    use store_types::ContentAddressMethod::{Flat, Nar};
    let hex = store_types::sha256(b"text").to_hex();
    let gone = "HTTP/1.1 404 Gone\r\nContent-Length: 0\r\n\r\n".to_owned();
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123".to_owned();
    let dir = tempfile::tempdir().unwrap();
    let server = Server::new(vec![gone, cut, ok("text"), ok("again"), ok("tree")]);
    let url = server.url("file");
    let mirrors = [server.url("a/"), server.url("b"), server.url("c")];
    let env = [("url", &*url)];
    let fetched = |method| {
        let _ = std::fs::remove_file(dir.path().join("out"));
        built(dir.path(), (method, "text"), &env, &mirrors).unwrap()
    };
    assert_eq!(fetched(Flat), "text");
    // One that has it is enough, and only files have such hashes.
    assert_eq!(fetched(Flat), "again");
    assert_eq!(fetched(Nar), "tree");
    assert_eq!(
        server.asked(),
        [
            format!("GET /a/sha256/{hex}"),
            format!("GET /b/sha256/{hex}"),
            format!("GET /c/sha256/{hex}"),
            format!("GET /a/sha256/{hex}"),
            "GET /file".to_owned(),
        ]
    );
}

#[test]
fn half_of_what_a_mirror_has_is_not_the_begin_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123".to_owned();
    let server = Server::new(vec![cut, ok("ab")]);
    let url = server.url("file");
    let method = store_types::ContentAddressMethod::Flat;
    let made = built(
        dir.path(),
        (method, "ab"),
        &[("url", &url)],
        &[server.url("")],
    );
    assert_eq!(made.unwrap(), "ab");
}

#[test]
fn only_what_has_the_network_is_fetched() {
    let dir = tempfile::tempdir().unwrap();
    let request = crate::request::tests::request("fetchurl", dir.path(), &[("url", b"file:///")]);
    assert!(matches!(
        super::fetch(&request),
        Err(super::FetchError::NotFixed)
    ));
}
