//! Connections: the server's side of the worker protocol.
//!
//! [`serve_connection`] answers one client out of any [`Store`]; whether
//! that is a whole store or the restricted view that a build gets is not known
//! here. [`Server`] accepts connections, each in a thread of its own.
//!
//! What a client sends is hostile until it has been read: malformed input
//! ends that one connection, with an error for the client where one can
//! still be sent.
//!
//! Source: nix `src/libstore/daemon.cc`.
//!
//! [`Store`]: store_api::Store

mod connection;
mod forward;
mod inside;
mod operations;
mod payload;
mod serve;
mod server;

pub use connection::{ConnectionError, ConnectionOptions, serve_connection, serve_streams};
pub use droste_sys::Credentials;
pub use serve::{ServeAccess, ServeError, serve_over_ssh};
pub use server::{Admit, Admitted, Limits, Server};
pub use store_wire::Trust;
