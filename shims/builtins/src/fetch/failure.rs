//! Failures of a transfer: which one, in whose words, and whether to try again.

use std::fmt;
use std::io;

/// What went wrong, by curl's numbers (libcurl-errors(3)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Ok = 0,
    Protocol = 1,
    Url = 3,
    NoProxy = 5,
    NoHost = 6,
    NoConnection = 7,
    Partial = 18,
    TimedOut = 28,
    Range = 33,
    Tls = 35,
    File = 37,
    Redirects = 47,
    Nothing = 52,
    Send = 55,
    Receive = 56,
    Certificate = 60,
    Encoding = 61,
    CaFile = 77,
}

impl Code {
    /// curl's words (curl_easy_strerror(3), 8.14).
    fn text(self) -> &'static str {
        match self {
            Self::Ok => "No error",
            Self::Protocol => "Unsupported protocol",
            Self::Url => "URL using bad/illegal format or missing URL",
            Self::NoProxy => "Could not resolve proxy name",
            Self::NoHost => "Could not resolve hostname",
            Self::NoConnection => "Could not connect to server",
            Self::Partial => "Transferred a partial file",
            Self::TimedOut => "Timeout was reached",
            Self::Range => "Requested range was not delivered by the server",
            Self::Tls => "SSL connect error",
            Self::File => "Could not read a file:// file",
            Self::Redirects => "Number of redirects hit maximum amount",
            Self::Nothing => "Server returned nothing (no headers, no data)",
            Self::Send => "Failed sending data to the peer",
            Self::Receive => "Failure when receiving data from the peer",
            Self::Certificate => "SSL peer certificate or SSH remote key was not OK",
            Self::Encoding => "Unrecognized or bad HTTP Content or Transfer-Encoding",
            Self::CaFile => "Problem with the SSL CA cert (path? access rights?)",
        }
    }
}

/// A failure before it is known for which URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub code: Code,
    pub detail: String,
}

impl Fault {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
        }
    }

    /// Of a connection that was to be read from.
    pub fn reading(error: &io::Error, stalled_seconds: u64) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::stalled(stalled_seconds),
            _ => Self::new(Code::Receive, format!("Recv failure: {}", plain(error))),
        }
    }

    /// Of a connection that was to be written to.
    pub fn sending(error: &io::Error, stalled_seconds: u64) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::stalled(stalled_seconds),
            _ => Self::new(Code::Send, format!("Send failure: {}", plain(error))),
        }
    }

    fn stalled(seconds: u64) -> Self {
        let text = "Operation too slow. Less than 1 bytes/sec transferred the last";
        Self::new(Code::TimedOut, format!("{text} {seconds} seconds"))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({}) {}",
            self.code.text(),
            self.code as i32,
            self.detail
        )
    }
}

impl std::error::Error for Fault {}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> Self {
        io::Error::other(fault)
    }
}

/// What the kernel says.
pub fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// Whether there is any use in trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hope {
    None,
    Later,
    /// The server wants to be left alone for a while.
    MuchLater,
}

/// A transfer that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    pub url: String,
    /// Of HTTP, or 0 if there was no answer.
    pub status: u16,
    pub fault: Fault,
    /// What the server had to say to it.
    pub body: Option<String>,
}

impl Failure {
    /// As Nix has it.
    pub fn hope(&self) -> Hope {
        match self.status {
            429 => return Hope::MuchLater,
            408 => {}
            400..=499 | 501 | 505 | 511 => return Hope::None,
            _ => {}
        }
        match self.fault.code {
            Code::Protocol
            | Code::Url
            | Code::File
            | Code::Redirects
            | Code::Encoding
            | Code::CaFile
            // Nix tries again, but who is not trusted now is not trusted in a second either.
            | Code::Certificate => Hope::None,
            _ => Hope::Later,
        }
    }
}

/// A longer answer is shown only if it is a page for people.
const BODY_SHOWN_MAX: usize = 1024;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unable to download '{}': ", self.url)?;
        match (self.status, self.fault.code) {
            (0, _) => self.fault.fmt(f)?,
            (status, Code::Ok) => write!(f, "HTTP error {status}")?,
            (status, code) => write!(f, "HTTP error {status} (curl error: {})", code.text())?,
        }
        match &self.body {
            Some(body) if body.len() < BODY_SHOWN_MAX || body.contains("<html>") => {
                write!(
                    f,
                    "\n\nresponse body:\n\n{}",
                    body.trim_end_matches(['\r', '\n'])
                )
            }
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(status: u16, code: Code) -> Failure {
        Failure {
            url: "http://h/x".into(),
            status,
            fault: Fault::new(code, "detail"),
            body: None,
        }
    }

    #[test]
    fn failures_speak_as_nix_does() {
        let with_body = Failure {
            body: Some("gone\n".into()),
            ..failure(404, Code::Ok)
        };
        let cases = [
            (
                failure(0, Code::NoConnection),
                "unable to download 'http://h/x': Could not connect to server (7) detail",
            ),
            (
                failure(404, Code::Ok),
                "unable to download 'http://h/x': HTTP error 404",
            ),
            (
                failure(200, Code::Partial),
                "unable to download 'http://h/x': HTTP error 200 (curl error: Transferred a partial file)",
            ),
            (
                with_body,
                "unable to download 'http://h/x': HTTP error 404\n\nresponse body:\n\ngone",
            ),
        ];
        for (failure, text) in cases {
            assert_eq!(failure.to_string(), text);
        }
        let long = Failure {
            body: Some("x".repeat(BODY_SHOWN_MAX)),
            ..failure(500, Code::Ok)
        };
        assert_eq!(
            long.to_string(),
            "unable to download 'http://h/x': HTTP error 500"
        );
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for (status, code, hope) in [
            (404, Code::Ok, Hope::None),
            (401, Code::Ok, Hope::None),
            (408, Code::Ok, Hope::Later),
            (429, Code::Ok, Hope::MuchLater),
            (500, Code::Ok, Hope::Later),
            (501, Code::Ok, Hope::None),
            (302, Code::Redirects, Hope::None),
            (200, Code::Partial, Hope::Later),
            (0, Code::NoHost, Hope::Later),
            (0, Code::Url, Hope::None),
            (0, Code::Certificate, Hope::None),
        ] {
            assert_eq!(failure(status, code).hope(), hope, "{status} {code:?}");
        }
    }
}
