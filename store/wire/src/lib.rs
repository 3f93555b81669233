//! The Nix worker protocol: bytes in, values out, and back.
//!
//! The same code serves the server, clients and tests. [`Reader`] and
//! [`Writer`] know numbers, padded strings and lists, and every limit;
//! [`Request`], [`Response`] and [`StderrFrame`] are the messages;
//! [`Session`] is what of the handshake shapes them. Payloads (NARs, framed
//! streams) follow a message and are read by [`FramedReader`] and
//! [`NarReader`].
//!
//! Versions 1.21 (Nix 2.3) to 1.38 (Nix 2.24 and later) are spoken, and of the later [`feature`]s
//! those that add operations. Nothing here
//! opens a socket, and nothing allocates by an announced length.
//!
//! Source: Nix manual, "Nix Daemon Protocol"; nix
//! `src/libstore/worker-protocol.cc`, `daemon.cc`, `remote-store.cc`.

mod codec;
pub mod feature;
mod framed;
mod handshake;
mod nar_end;
mod request;
mod response;
mod serve;
mod session;
mod stderr;

pub use codec::{
    ITEM_BYTES, LIST_LEN_MAX, MESSAGE_BYTES_FREE, MESSAGE_BYTES_MAX, NAME_LEN_MAX, Reader,
    STRING_LEN_MAX, SharedBudget, WireError, Writer,
};
pub use framed::{FramedReader, FramedWriter};
pub use handshake::{
    HandshakeError, Hello, MAGIC_OF_SERVER, Trust, handshake_as_client, handshake_as_server,
};
pub use nar_end::NarReader;
pub use request::{ClientOptions, Payload, Request};
pub use response::{Response, SubstitutablePathInfo};
pub use serve::{ServeBuildOptions, ServeRequest, ServeSession};
pub use session::{Session, Version};
pub use stderr::{ActivityField, RemoteError, StderrFrame};
