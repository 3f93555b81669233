//! A store behind a daemon's socket, or behind any pair of streams: the client's
//! side of the worker protocol, blocking.
//!
//! [`RemoteStore`] is a [`Store`](store_api::Store) whose every method is an
//! operation of the protocol, for servers of versions 1.21 (Nix 2.3) to 1.38
//! (Nix 2.24 and later). It holds a few connections and uses each for one
//! operation at a time; a [`Connect`] makes new ones.
//!
//! # Invariants
//!
//! 1. A connection is used again only if both sides are in step: the reply was
//!    read to its end, or the server's error was. After anything else (a broken
//!    stream, bytes that are no message, a payload that could not be sent whole)
//!    it is closed, and the next operation makes another.
//! 2. Payloads are streamed: no object is held in memory. While one is sent, the
//!    server is listened to, so that neither side waits for the other for ever
//!    and an early error ends the sending.
//! 3. No length that the server announces is trusted (see `store_wire`).
//!
//! What it does not do: it opens no file of the store, and starts no server but
//! the one that its [`Connect`] starts.

mod channel;
mod connect;
mod connection;
mod error;
mod log;
mod pool;
mod remote;
mod spool;

pub use connect::{Connect, Streams, UnixSocket};
pub use error::ClientError;
pub use remote::{Messages, OpenNar, RemoteOptions, RemoteStore};
