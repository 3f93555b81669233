//! Connections to servers, directly or through a proxy.

use std::io::{self, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use super::client::basic;
use super::failure::{Code, Fault, plain};
use super::proxy::Proxy;
use super::response::Head;
use super::tls::{TlsStream, Trust};
use super::url::{Scheme, Url};
use crate::request::Limits;

/// A stream of bytes to a server and back.
pub enum Connection {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

impl Connection {
    /// To the server of this URL.
    pub fn open(
        url: &Url,
        proxy: Option<&Proxy>,
        trust: &Trust,
        limits: &Limits,
    ) -> Result<Self, Fault> {
        let stream = match proxy {
            None => connect(&url.host, url.port, Code::NoHost, limits)?,
            Some(proxy) => {
                let stream = connect(&proxy.host, proxy.port, Code::NoProxy, limits)?;
                if url.scheme == Scheme::Https {
                    ask_for_tunnel(&stream, url, proxy, limits)?;
                }
                stream
            }
        };
        Ok(match url.scheme {
            Scheme::Https => Self::Tls(Box::new(trust.connect(stream, &url.host)?)),
            _ => Self::Plain(stream),
        })
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// Connects to the first address of a host that answers. The name is looked up by the C
/// library, whose own code for files and DNS is in static programs, too (glibc 2.34).
fn connect(host: &str, port: u16, unknown: Code, limits: &Limits) -> Result<TcpStream, Fault> {
    let begun = Instant::now();
    let no_host = || {
        let what = if unknown == Code::NoProxy {
            "proxy"
        } else {
            "host"
        };
        Fault::new(unknown, format!("Could not resolve {what}: {host}"))
    };
    let addresses = (host, port).to_socket_addrs().map_err(|_| no_host())?;
    let mut fault = no_host();
    for address in addresses {
        let left = limits.connect_timeout.map(|timeout| {
            let left = timeout.saturating_sub(begun.elapsed());
            // Not nothing, which the library refuses.
            left.max(Duration::from_millis(1))
        });
        let connected = match left {
            None => TcpStream::connect(address),
            Some(left) => TcpStream::connect_timeout(&address, left),
        };
        match connected.and_then(|stream| prepared(stream, limits)) {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                let is_late = error.kind() == io::ErrorKind::TimedOut;
                let (code, why) = match is_late {
                    true => (Code::TimedOut, "Timeout was reached".to_owned()),
                    false if error.kind() == io::ErrorKind::ConnectionRefused => {
                        (Code::NoConnection, "Could not connect to server".to_owned())
                    }
                    false => (Code::NoConnection, plain(&error)),
                };
                let after = begun.elapsed().as_millis();
                let text = format!("Failed to connect to {host}:{port} after {after} ms: {why}");
                fault = Fault::new(code, text);
            }
        }
    }
    Err(fault)
}

fn prepared(stream: TcpStream, limits: &Limits) -> io::Result<TcpStream> {
    stream.set_read_timeout(limits.stalled_timeout)?;
    stream.set_write_timeout(limits.stalled_timeout)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Has a proxy pass on what is said from now on (RFC 9110, 9.3.6).
fn ask_for_tunnel(
    mut stream: &TcpStream,
    url: &Url,
    proxy: &Proxy,
    limits: &Limits,
) -> Result<(), Fault> {
    let place = url.host_and_port();
    let mut text = format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n");
    if let Some((name, password)) = &proxy.user {
        let value = basic(name, password.as_deref().unwrap_or_default());
        text.push_str(&format!("Proxy-Authorization: {value}\r\n"));
    }
    text.push_str("\r\n");
    let stalled = limits.stalled_seconds();
    stream
        .write_all(text.as_bytes())
        .map_err(|error| Fault::sending(&error, stalled))?;
    // Byte by byte: what follows the head is the server's.
    let head = Head::read(&mut BufReader::with_capacity(1, stream), stalled)?;
    if (200..300).contains(&head.status) {
        return Ok(());
    }
    let text = format!("CONNECT tunnel failed, response {}", head.status);
    Err(Fault::new(Code::Receive, text))
}
