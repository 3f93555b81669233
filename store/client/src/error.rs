//! Why an operation failed.

use std::io;

use store_api::StoreError;
use store_wire::{HandshakeError, RemoteError, Version, WireError};

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is nobody to connect to.
    #[error("cannot connect to the other store")]
    Connect(#[source] io::Error),
    /// The server and we did not get to the first operation.
    #[error("cannot greet the other store")]
    Handshake(#[from] HandshakeError),
    /// The server sent what is no reply, or nothing more.
    #[error("cannot read the other store's reply")]
    Reply(#[from] WireError),
    /// The server sent a frame that has no place there.
    #[error("the other store sent a frame `{frame}` that has no place there")]
    Frame {
        /// The kind of frame.
        frame: &'static str,
    },
    /// The connection broke while something was sent.
    #[error("cannot send to the other store")]
    Send(#[source] io::Error),
    /// What was to be sent could not be read.
    #[error("cannot read what is to be sent")]
    Payload(#[source] io::Error),
    /// What was received could not be written.
    #[error("cannot write what was received")]
    Sink(#[source] io::Error),
    /// The server says that the operation failed.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The server says that the operation failed, before it was asked for as a
    /// whole: where it reads on is not known.
    #[error(transparent)]
    Early(RemoteError),
    /// The server is too old for this.
    #[error("the other store speaks version 1.{} only, which does not have this", .version.minor)]
    TooOld {
        /// The server's version.
        version: Version,
    },
    /// The server has agreed on another form of this.
    #[error("the other store keeps what outputs turned out to be by their derivations' paths")]
    ByPath,
    /// The server has not agreed on what this takes.
    #[error("the other store does not offer `{feature}`")]
    NoFeature {
        /// The feature of the protocol.
        feature: &'static str,
    },
    /// Nobody waits for the result any more.
    #[error("interrupted")]
    Cancelled,
}

impl ClientError {
    /// Whether the connection can be used for another operation: the server told
    /// the end of this one, or never heard of it.
    pub(crate) const fn is_in_step(&self) -> bool {
        matches!(
            self,
            Self::Remote(_) | Self::TooOld { .. } | Self::NoFeature { .. } | Self::ByPath
        )
    }

    /// The error as that of a store; the server's own words stay as they are.
    pub(crate) fn in_store(self, operation: &'static str) -> StoreError {
        match self {
            Self::Remote(error) | Self::Early(error) => StoreError::Remote {
                message: error.message,
                exit_status: error.exit_status,
            },
            error => StoreError::Failed {
                action: format!("do `{operation}` in the other store"),
                source: error.into(),
            },
        }
    }
}
