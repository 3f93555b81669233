//! One request, and where it leads.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::connection::Connection;
use super::failure::{Code, Failure, Fault, plain};
use super::netrc::Netrc;
use super::proxy::{self, Proxy};
use super::response::{self, Head};
use super::tls::Trust;
use super::url::{Scheme, Url};
use crate::request::Limits;

/// How often a server may send its client elsewhere; Nix's limit.
const REDIRECTS_MAX: usize = 10;

/// How much of what a server says to a failure is read.
const ERROR_BODY_BYTES_MAX: u64 = 64 << 10;

/// How much is read ahead.
const BUFFER_BYTES: usize = 64 << 10;

/// Credentials, where the executor has put them.
const NETRC: &str = "netrc";

/// Some servers give other files to what they take for a browser; curl is what they know.
const USER_AGENT: &str = concat!("curl/8.14.1 Droste/", env!("CARGO_PKG_VERSION"));

/// What all requests of a build share.
pub struct Client {
    pub limits: Limits,
    trust: Trust,
    netrc: Netrc,
}

/// The content of a URL, from an offset on.
pub struct Opened {
    pub content: Box<dyn Read>,
    pub status: u16,
    /// Whether it can be gone on with where it breaks off.
    pub can_resume: bool,
}

impl Client {
    /// With what lies in the working directory.
    pub fn new(limits: Limits) -> Self {
        Self::with(limits, Netrc::read(Path::new(NETRC)))
    }

    /// With these credentials.
    pub fn with(limits: Limits, netrc: Netrc) -> Self {
        Self {
            limits,
            trust: Trust::default(),
            netrc,
        }
    }

    /// Asks for a URL's content from an offset on, and follows where the server leads.
    pub fn open(&self, text: &str, offset: u64) -> Result<Opened, Failure> {
        let failed = |status: u16, fault: Fault| Failure {
            url: text.to_owned(),
            status,
            fault,
            body: None,
        };
        let first = Url::parse(text).map_err(|fault| failed(0, fault))?;
        if first.scheme == Scheme::File {
            return open_file(&first).map_err(|fault| failed(0, fault));
        }
        let mut here = first.clone();
        let mut status = 0;
        let mut was_secret = false;
        for _ in 0..=REDIRECTS_MAX {
            check_scheme(&here, status != 0).map_err(|fault| failed(status, fault))?;
            // A redirect must not have a password told to everybody on the way.
            let is_secret = here.scheme == Scheme::Https;
            let credentials = match was_secret && !is_secret {
                true => None,
                false => self.credentials(&here),
            };
            was_secret |= is_secret;
            let (head, content) = self
                .ask(&here, credentials.as_deref(), offset)
                .map_err(|(answered, fault)| failed(answered, fault))?;
            status = head.status;
            if let Some(location) = head.location() {
                let mut next = here.join(location).map_err(|fault| failed(status, fault))?;
                if next.user.is_none() && next.is_same_server(&first) {
                    next.user = first.user.clone();
                }
                here = next;
                continue;
            }
            return self.answer(head, content, offset, &failed);
        }
        let text = format!("Maximum ({REDIRECTS_MAX}) redirects followed");
        Err(failed(status, Fault::new(Code::Redirects, text)))
    }

    fn answer(
        &self,
        head: Head,
        content: Result<Box<dyn Read>, Fault>,
        offset: u64,
        failed: &dyn Fn(u16, Fault) -> Failure,
    ) -> Result<Opened, Failure> {
        let status = head.status;
        if !head.is_success() {
            let mut failure = failed(status, Fault::new(Code::Ok, ""));
            if let Ok(content) = content {
                let mut body = Vec::new();
                // As far as it comes.
                let _ = content.take(ERROR_BODY_BYTES_MAX).read_to_end(&mut body);
                let body = String::from_utf8_lossy(&body).into_owned();
                failure.body = Some(body).filter(|body| !body.is_empty());
            }
            return Err(failure);
        }
        let content = content.map_err(|fault| failed(status, fault))?;
        let is_encoded = head.is_encoded();
        if offset > 0 && (status != 206 || head.range_begin() != Some(offset) || is_encoded) {
            let text = "HTTP server does not seem to support byte ranges. Cannot resume.";
            return Err(failed(status, Fault::new(Code::Range, text)));
        }
        Ok(Opened {
            content,
            status,
            can_resume: head.header("accept-ranges") == Some("bytes") && !is_encoded,
        })
    }

    /// What this very host is told of who asks.
    fn credentials(&self, url: &Url) -> Option<String> {
        let (name, password) = match &url.user {
            Some((name, Some(password))) => (&**name, &**password),
            Some((name, None)) => match self.netrc.find(&url.host, Some(name)) {
                Some((_, password)) => (&**name, password),
                None => (&**name, ""),
            },
            None => self.netrc.find(&url.host, None)?,
        };
        Some(basic(name, password))
    }

    /// Asks one server. The number is the answer's status, if there was one.
    #[expect(
        clippy::type_complexity,
        reason = "a head, a body, and why either is missing"
    )]
    fn ask(
        &self,
        url: &Url,
        credentials: Option<&str>,
        offset: u64,
    ) -> Result<(Head, Result<Box<dyn Read>, Fault>), (u16, Fault)> {
        let unanswered = |fault| (0, fault);
        let proxy = proxy::find(url, |name| std::env::var(name).ok()).map_err(unanswered)?;
        let proxy = proxy.as_ref();
        let mut connection =
            Connection::open(url, proxy, &self.trust, &self.limits).map_err(unanswered)?;
        let stalled = self.limits.stalled_seconds();
        connection
            .write_all(request(url, proxy, credentials, offset).as_bytes())
            .and_then(|()| connection.flush())
            .map_err(|error| (0, Fault::sending(&error, stalled)))?;
        let mut stream = BufReader::with_capacity(BUFFER_BYTES, connection);
        let head = Head::read(&mut stream, stalled).map_err(unanswered)?;
        let content = response::body(&head, stream, stalled);
        Ok((head, content))
    }
}

fn check_scheme(url: &Url, is_redirect: bool) -> Result<(), Fault> {
    let scheme = match &url.scheme {
        Scheme::Http | Scheme::Https => return Ok(()),
        Scheme::File => "file",
        Scheme::Other(other) => other,
    };
    let where_ = if is_redirect {
        "disabled in redirect"
    } else {
        "not supported"
    };
    Err(Fault::new(
        Code::Protocol,
        format!("Protocol \"{scheme}\" {where_}"),
    ))
}

/// The text of a request.
fn request(url: &Url, proxy: Option<&Proxy>, credentials: Option<&str>, offset: u64) -> String {
    let authority = url.authority();
    // A proxy is told the whole URL, unless it is a tunnel (RFC 9112, 3.2.2).
    let asks_proxy = proxy.filter(|_| url.scheme == Scheme::Http);
    let target = match asks_proxy {
        Some(_) => format!("http://{authority}{}", url.target),
        None => url.target.clone(),
    };
    let mut text = format!(
        "GET {target} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: {USER_AGENT}\r\n\
         Accept: */*\r\nConnection: close\r\n"
    );
    let mut header = |name: &str, value: &str| text.push_str(&format!("{name}: {value}\r\n"));
    if offset > 0 {
        header("Range", &format!("bytes={offset}-"));
    } else {
        header("Accept-Encoding", "deflate, gzip, zstd");
    }
    if let Some(credentials) = credentials {
        header("Authorization", credentials);
    }
    if let Some((name, password)) = asks_proxy.and_then(|proxy| proxy.user.as_ref()) {
        let value = basic(name, password.as_deref().unwrap_or_default());
        header("Proxy-Authorization", &value);
    }
    text.push_str("\r\n");
    text
}

fn open_file(url: &Url) -> Result<Opened, Fault> {
    let path = url.file_path();
    let path = path.ok_or_else(|| Fault::new(Code::Url, "URL rejected: Bad file:// URL"))?;
    let path = Path::new(OsStr::from_bytes(&path));
    let open = File::open(path).and_then(|file| match file.metadata()?.is_dir() {
        true => Err(std::io::ErrorKind::IsADirectory.into()),
        false => Ok(file),
    });
    let file = open.map_err(|error| {
        let text = format!("Could not open file {}: {}", path.display(), plain(&error));
        Fault::new(Code::File, text)
    })?;
    Ok(Opened {
        content: Box::new(file),
        status: 0,
        can_resume: false,
    })
}

/// The value of a header with credentials (RFC 7617).
pub fn basic(name: &str, password: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("Basic ");
    for chunk in format!("{name}:{password}").as_bytes().chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or_default());
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let digit = DIGITS[(group >> (18 - 6 * at)) as usize & 63];
            text.push(if at > chunk.len() { '=' } else { digit.into() });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_in_base64() {
        assert_eq!(basic("user", "secret"), "Basic dXNlcjpzZWNyZXQ=");
        assert_eq!(basic("", ""), "Basic Og==");
        assert_eq!(basic("a", "b"), "Basic YTpi");
    }

    #[test]
    fn a_request_is_for_its_server_or_for_the_proxy() {
        let lines = |text: String| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let proxy = Proxy {
            host: "p".into(),
            port: 1,
            user: Some(("u".into(), None)),
        };
        let http = Url::parse("http://[::1]:81/x?y").unwrap();
        let direct = lines(request(&http, None, None, 0));
        assert_eq!(direct[..2], ["GET /x?y HTTP/1.1", "Host: [::1]:81"]);
        let resumed = lines(request(&http, None, Some("Basic x"), 7));
        assert!(resumed.contains(&"Range: bytes=7-".to_owned()));
        assert!(resumed.contains(&"Authorization: Basic x".to_owned()));
        assert!(
            !resumed
                .iter()
                .any(|line| line.starts_with("Accept-Encoding"))
        );
        let proxied = lines(request(&http, Some(&proxy), None, 0));
        assert_eq!(proxied[0], "GET http://[::1]:81/x?y HTTP/1.1");
        assert!(proxied.contains(&"Proxy-Authorization: Basic dTo=".to_owned()));
        let https = Url::parse("https://h/").unwrap();
        let tunnelled = lines(request(&https, Some(&proxy), None, 0));
        assert_eq!(tunnelled[..2], ["GET / HTTP/1.1", "Host: h"]);
        assert!(!tunnelled.iter().any(|line| line.starts_with("Proxy-")));
    }
}
