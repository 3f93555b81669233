//! URLs, as far as fetching needs them (RFC 3986).

use super::failure::{Code, Fault};

/// The longest one in bytes: a proxy or a server takes no longer one.
const URL_LEN_MAX: usize = 64 << 10;

/// How a server is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
    File,
    /// Not at all.
    Other(String),
}

/// A URL without its fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub scheme: Scheme,
    /// Name and password, if there are, without escapes.
    pub user: Option<(String, Option<String>)>,
    /// In lower case, without brackets.
    pub host: String,
    pub port: u16,
    /// Path and query, with escapes.
    pub target: String,
}

impl Url {
    /// Reads one as somebody has written it.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let malformed = |why: &str| Fault::new(Code::Url, format!("URL rejected: {why}"));
        if text.len() > URL_LEN_MAX || text.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return Err(malformed("Malformed input to a URL function"));
        }
        let Some((scheme, rest)) = split_scheme(text) else {
            return Err(malformed("No scheme"));
        };
        let scheme = match &*scheme.to_ascii_lowercase() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "file" => Scheme::File,
            other => Scheme::Other(other.to_owned()),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let Some(rest) = rest.strip_prefix("//") else {
            return Err(malformed("Malformed input to a URL function"));
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, authority),
        };
        let user = user.map(|user| match user.split_once(':') {
            Some((name, password)) => (unescaped(name), Some(unescaped(password))),
            None => (unescaped(user), None),
        });
        let default_port = if scheme == Scheme::Https { 443 } else { 80 };
        let (host, port) = split_port(place, default_port).map_err(malformed)?;
        if host.is_empty() && matches!(scheme, Scheme::Http | Scheme::Https) {
            return Err(malformed("No host part in the URL"));
        }
        Ok(Self {
            scheme,
            user,
            host,
            port,
            target: normal_target(target),
        })
    }

    /// Where a `Location` header leads from here.
    pub fn join(&self, location: &str) -> Result<Self, Fault> {
        // Servers send what they should not, and are forgiven.
        let mut location = location.trim().replace(' ', "%20");
        if let Some(fragment) = location.find('#') {
            location.truncate(fragment);
        }
        if split_scheme(&location).is_some() {
            return Self::parse(&location);
        }
        let scheme = match &self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::File => "file",
            Scheme::Other(other) => other,
        };
        if location.starts_with("//") {
            return Self::parse(&format!("{scheme}:{location}"));
        }
        let path = self.target.split('?').next().unwrap_or_default();
        let target = if location.is_empty() {
            self.target.clone()
        } else if location.starts_with('/') {
            location
        } else if location.starts_with('?') {
            format!("{path}{location}")
        } else {
            let directory = path.rfind('/').map_or("/", |end| &path[..=end]);
            format!("{directory}{location}")
        };
        if target.len() > URL_LEN_MAX || target.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
            let why = "URL rejected: Malformed input to a URL function";
            return Err(Fault::new(Code::Url, why));
        }
        Ok(Self {
            target: normal_target(&target),
            ..self.clone()
        })
    }

    /// Host and, unless it is the usual one, port, as in a `Host` header.
    pub fn authority(&self) -> String {
        let usual = if self.scheme == Scheme::Https {
            443
        } else {
            80
        };
        match self.port == usual {
            true => bracketed(&self.host),
            false => self.host_and_port(),
        }
    }

    /// Host and port, as in `CONNECT`.
    pub fn host_and_port(&self) -> String {
        format!("{}:{}", bracketed(&self.host), self.port)
    }

    /// Whether what may be told to the server of one URL may be told to that of the other.
    pub fn is_same_server(&self, other: &Self) -> bool {
        (&self.scheme, &self.host, self.port) == (&other.scheme, &other.host, other.port)
    }

    /// The path of a file on this machine.
    pub fn file_path(&self) -> Option<Vec<u8>> {
        let is_local = matches!(&*self.host, "" | "localhost" | "127.0.0.1");
        let path = self.target.split('?').next().unwrap_or_default();
        (is_local && self.scheme == Scheme::File).then(|| unescaped_bytes(path))
    }
}

fn bracketed(host: &str) -> String {
    match host.contains(':') {
        true => format!("[{host}]"),
        false => host.to_owned(),
    }
}

/// The scheme and what follows its colon.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let mut bytes = scheme.bytes();
    let is_scheme = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    is_scheme.then_some((scheme, rest))
}

/// Host and port of a place.
pub fn split_port(place: &str, default_port: u16) -> Result<(String, u16), &'static str> {
    let (host, port) = if let Some(rest) = place.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or("Bad IPv6 address")?;
        // A zone is this machine's own affair.
        let address = host.split(['%']).next().unwrap_or_default();
        address
            .parse::<std::net::Ipv6Addr>()
            .map_err(|_| "Bad IPv6 address")?;
        let port = match port.is_empty() {
            true => "",
            false => port
                .strip_prefix(':')
                .ok_or("Port number was not a decimal number between 0 and 65535")?,
        };
        (address, port)
    } else {
        let (host, port) = place.split_once(':').unwrap_or((place, ""));
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte);
        if !host.bytes().all(is_host) {
            return Err("Bad hostname");
        }
        (host, port)
    };
    let port = match port.is_empty() {
        true => default_port,
        false => port
            .parse()
            .map_err(|_| "Port number was not a decimal number between 0 and 65535")?,
    };
    let host = unescaped(host).to_ascii_lowercase();
    if host
        .bytes()
        .any(|byte| byte <= b' ' || byte >= 0x7f || b"/?#@\\".contains(&byte))
    {
        return Err("Bad hostname");
    }
    Ok((host, port))
}

fn unescaped(text: &str) -> String {
    String::from_utf8_lossy(&unescaped_bytes(text)).into_owned()
}

fn unescaped_bytes(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let hex = |at: usize| char::from(*bytes.get(at)?).to_digit(16);
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match (byte, hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                plain.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    plain
}

/// A path and a query without `.` and `..` in the path, in ASCII.
fn normal_target(target: &str) -> String {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let mut segments: Vec<&str> = Vec::new();
    let mut parts = path.strip_prefix('/').unwrap_or(path).split('/').peekable();
    while let Some(part) = parts.next() {
        let is_last = parts.peek().is_none();
        match part {
            "." | ".." => {
                if part == ".." {
                    segments.pop();
                }
                if is_last {
                    segments.push("");
                }
            }
            part => segments.push(part),
        }
    }
    let mut normal = format!("/{}", segments.join("/"));
    if let Some(query) = query {
        normal.push('?');
        normal.push_str(query);
    }
    let mut ascii = String::with_capacity(normal.len());
    for byte in normal.bytes() {
        match byte.is_ascii() {
            true => ascii.push(byte.into()),
            false => ascii.push_str(&format!("%{byte:02X}")),
        }
    }
    ascii
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(url: &Url) -> String {
        format!("{:?} {} {} {}", url.scheme, url.host, url.port, url.target)
    }

    #[rstest::rstest]
    #[case::plain("http://Host/a/b?c=d/../e#f", "Http host 80 /a/b?c=d/../e")]
    #[case::no_path("https://host", "Https host 443 /")]
    #[case::query_only("http://host?x", "Http host 80 /?x")]
    #[case::port("http://host:8080/", "Http host 8080 /")]
    #[case::ipv6("http://[::1]:81/x", "Http ::1 81 /x")]
    #[case::dots("http://h/a/./b/../c/..", "Http h 80 /a/")]
    #[case::above("http://h/../../x", "Http h 80 /x")]
    #[case::other_letters("http://h/ü", "Http h 80 /%C3%BC")]
    #[case::file("file:///a/b", "File  80 /a/b")]
    #[case::other("ftp://h/x", "Other(\"ftp\") h 80 /x")]
    #[case::user("http://u%40:p:w@h/", "Http h 80 /")]
    fn parts(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(shown(&Url::parse(text).unwrap()), expected);
    }

    #[test]
    fn users_are_without_escapes() {
        let user = |text: &str| Url::parse(text).unwrap().user;
        assert_eq!(
            user("http://u%40:p:w@h/"),
            Some(("u@".into(), Some("p:w".into())))
        );
        assert_eq!(user("http://u@h/@"), Some(("u".into(), None)));
        assert_eq!(user("http://h/@"), None);
    }

    #[rstest::rstest]
    #[case::no_scheme("host/x")]
    #[case::space("http://h/a b")]
    #[case::line("http://h/a\r\nX: y")]
    #[case::no_host("http:///x")]
    #[case::bad_ipv6("http://[bad/x")]
    #[case::bad_port("http://h:99999/")]
    #[case::bad_host("http://h<>/")]
    #[case::escaped_slash("http://h%2fevil/")]
    fn what_is_none_is_refused(#[case] text: &str) {
        assert_eq!(Url::parse(text).unwrap_err().code, Code::Url);
    }

    #[rstest::rstest]
    #[case::absolute("https://other:1/x", "Https other 1 /x")]
    #[case::other_server("//other/x", "Http other 80 /x")]
    #[case::path("/x?y", "Http h 8080 /x?y")]
    #[case::relative("x", "Http h 8080 /a/x")]
    #[case::upwards("../x", "Http h 8080 /x")]
    #[case::query("?z", "Http h 8080 /a/b?z")]
    #[case::space(" /a b#f", "Http h 8080 /a%20b")]
    #[case::colon_in_a_path("./c:d", "Http h 8080 /a/c:d")]
    fn joined(#[case] location: &str, #[case] expected: &str) {
        let base = Url::parse("http://h:8080/a/b?q").unwrap();
        assert_eq!(shown(&base.join(location).unwrap()), expected);
    }

    #[test]
    fn files_are_this_machines() {
        let path = |text: &str| Url::parse(text).unwrap().file_path();
        assert_eq!(path("file:///a%20b/c").unwrap(), b"/a b/c");
        assert_eq!(path("file://localhost/a").unwrap(), b"/a");
        assert_eq!(path("file://elsewhere/a"), None);
        assert_eq!(path("http://localhost/a"), None);
    }
}
