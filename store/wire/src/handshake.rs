//! The first messages of a connection.
//!
//! ```text
//! client                                server
//! 0x6e697863 version               →
//!                                  ←    0x6478696f version
//! features (since 1.38)            →
//!                                  ←    features (since 1.38)
//! CPU affinity: 0, or 1 and a mask →
//! reserve space                    →
//!                                  ←    Nix version (since 1.33)
//!                                  ←    trust (since 1.35)
//!                                  ←    log frames, the last one Last
//! ```
//!
//! Source: nix `src/libstore/worker-protocol-connection.cc`.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use store_types::StoreDir;

use crate::codec::{Reader, WireError, Writer};
use crate::session::{Session, Version, texts};
use crate::stderr::{RemoteError, StderrFrame};

const MAGIC_OF_CLIENT: u64 = 0x6e69_7863;
/// A server's first number.
pub const MAGIC_OF_SERVER: u64 = 0x6478_696f;

/// Whether a server trusts its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The server does not say.
    Unknown = 0,
    /// The client may do everything.
    Trusted = 1,
    /// The client may do only what cannot harm others.
    NotTrusted = 2,
}

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The Nix version that it behaves like; empty before 1.33.
    pub nix_version: String,
    /// Whether it trusts the client.
    pub trust: Trust,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The other side's bytes are no handshake.
    #[error("the handshake failed")]
    Wire(#[from] WireError),
    /// The connection failed.
    #[error("cannot answer the handshake")]
    Io(#[from] io::Error),
    /// The other side does not speak this protocol.
    #[error("the other side does not speak the worker protocol: it began with {magic:#x}")]
    Magic {
        /// Its first number.
        magic: u64,
    },
    /// The other side's version is too old, or of another major version.
    #[error("protocol version {}.{} is not supported", .version.major, .version.minor)]
    Version {
        /// Its version.
        version: Version,
    },
    /// The server refused.
    #[error("the server refused the connection")]
    Refused(#[source] RemoteError),
}

fn send(out: &mut impl Write, w: Writer) -> io::Result<()> {
    out.write_all(&w.into_bytes())?;
    out.flush()
}

/// A version that can be spoken, or an error.
fn agreed(version: Version, own: Version) -> Result<Version, HandshakeError> {
    if version.major != own.major || version < Version::MINIMUM {
        return Err(HandshakeError::Version { version });
    }
    Ok(version.min(own))
}

/// The server's side, up to where log frames may follow: the caller ends the
/// handshake with [`StderrFrame::Last`] or an error.
pub fn handshake_as_server<R: Read>(
    reader: &mut Reader<R>,
    out: &mut impl Write,
    hello: &Hello,
    features: &BTreeSet<String>,
    store_dir: &StoreDir,
) -> Result<Session, HandshakeError> {
    let magic = reader.u64("magic number")?;
    if magic != MAGIC_OF_CLIENT {
        return Err(HandshakeError::Magic { magic });
    }
    let mut w = Writer::new();
    w.u64(MAGIC_OF_SERVER).u64(Version::LATEST.to_wire());
    send(out, w)?;

    let version = Version::from_wire(reader.u64("version")?);
    let mut session = Session::new(agreed(version, Version::LATEST)?, store_dir.clone());
    if session.since(38) {
        let theirs = texts(reader, "features")?;
        session.features = theirs
            .into_iter()
            .filter(|feature| features.contains(feature))
            .collect();
        let mut w = Writer::new();
        w.list(features, |w, feature| {
            w.bytes(feature);
        });
        send(out, w)?;
    }
    if reader.bool("CPU affinity")? {
        reader.u64("CPU affinity")?;
    }
    reader.u64("reserve space")?;

    let mut w = Writer::new();
    if session.since(33) {
        w.bytes(&hello.nix_version);
    }
    if session.since(35) {
        w.u64(hello.trust as u64);
    }
    send(out, w)?;
    Ok(session)
}

/// The client's side, to the end.
pub fn handshake_as_client<R: Read>(
    reader: &mut Reader<R>,
    out: &mut impl Write,
    own: Version,
    features: &BTreeSet<String>,
    store_dir: &StoreDir,
) -> Result<(Session, Hello), HandshakeError> {
    let mut w = Writer::new();
    w.u64(MAGIC_OF_CLIENT).u64(own.to_wire());
    send(out, w)?;

    let magic = reader.u64("magic number")?;
    if magic != MAGIC_OF_SERVER {
        return Err(HandshakeError::Magic { magic });
    }
    let version = Version::from_wire(reader.u64("version")?);
    let mut session = Session::new(agreed(version, own)?, store_dir.clone());
    if session.since(38) {
        let mut w = Writer::new();
        w.list(features, |w, feature| {
            w.bytes(feature);
        });
        send(out, w)?;
        let theirs = texts(reader, "features")?;
        session.features = theirs
            .into_iter()
            .filter(|feature| features.contains(feature))
            .collect();
    }
    let mut w = Writer::new();
    w.u64(0).u64(0);
    send(out, w)?;

    let mut hello = Hello {
        nix_version: String::new(),
        trust: Trust::Unknown,
    };
    if session.since(33) {
        hello.nix_version = reader.name("Nix version")?;
    }
    if session.since(35) {
        hello.trust = match reader.u64_at_most("trust", 2)? {
            0 => Trust::Unknown,
            1 => Trust::Trusted,
            _ => Trust::NotTrusted,
        };
    }
    loop {
        match StderrFrame::read(&session, reader)? {
            StderrFrame::Last => return Ok((session, hello)),
            StderrFrame::Error(error) => return Err(HandshakeError::Refused(error)),
            _ => {}
        }
    }
}
