//! The frames before a reply: log lines, activities, errors.
//!
//! Source: nix `src/libstore/worker-protocol-connection.cc`
//! (`processStderrReturn`), `daemon.cc` (`TunnelLogger`).

use std::fmt;
use std::io::Read;

use crate::codec::{Reader, STRING_LEN_MAX, WireError, Writer};
use crate::session::Session;

const NEXT: u64 = 0x6f6c_6d67;
const READ: u64 = 0x6461_7461;
const WRITE: u64 = 0x6461_7416;
const LAST: u64 = 0x616c_7473;
const ERROR: u64 = 0x6378_7470;
const START_ACTIVITY: u64 = 0x5354_5254;
const STOP_ACTIVITY: u64 = 0x5354_4f50;
const RESULT: u64 = 0x5253_4c54;

/// An error of the other side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteError {
    /// 0 error, 1 warning, … 7 vomit. Since 1.26, else 0.
    pub level: u64,
    /// The text.
    pub message: String,
    /// What was being done, innermost first. Since 1.26.
    pub traces: Vec<String>,
    /// The exit status that is suggested. Before 1.26, else 1.
    pub exit_status: u64,
}

impl RemoteError {
    /// An error with a text alone.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            exit_status: 1,
            ..Self::default()
        }
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for RemoteError {}

/// A detail of an activity or of its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActivityField {
    /// A number.
    Number(u64),
    /// A text.
    Text(Vec<u8>),
}

/// A frame before a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StderrFrame {
    /// Something for the client's stderr.
    Next(Vec<u8>),
    /// The server wants at most so many bytes of the payload; the client answers
    /// with a padded string of at least one.
    Read(u64),
    /// A piece of a payload for the client.
    Write(Vec<u8>),
    /// The reply follows.
    Last,
    /// The operation failed; no reply follows.
    Error(RemoteError),
    /// An activity begins.
    StartActivity {
        /// Its number.
        id: u64,
        /// From which verbosity on it is shown.
        level: u64,
        /// Nix's `ActivityType`, 105 for a build.
        kind: u64,
        /// A text for people.
        text: Vec<u8>,
        /// Details, by kind.
        fields: Vec<ActivityField>,
        /// The activity it is a part of; 0 for none.
        parent: u64,
    },
    /// An activity ended.
    StopActivity {
        /// Its number.
        id: u64,
    },
    /// An activity has a result.
    Result {
        /// Its number.
        id: u64,
        /// Nix's `ResultType`, 101 for a line of a build's log.
        kind: u64,
        /// Details, by kind.
        fields: Vec<ActivityField>,
    },
}

impl StderrFrame {
    /// Reads a frame.
    pub fn read<R: Read>(session: &Session, r: &mut Reader<R>) -> Result<Self, WireError> {
        let text = |r: &mut Reader<R>| r.bytes("log text", STRING_LEN_MAX);
        let number = r.u64("frame")?;
        Ok(match number {
            NEXT => Self::Next(text(r)?),
            READ => Self::Read(r.u64("bytes wanted")?),
            WRITE => Self::Write(text(r)?),
            LAST => Self::Last,
            ERROR => Self::Error(read_error(session, r)?),
            START_ACTIVITY => Self::StartActivity {
                id: r.u64("activity")?,
                level: r.u64("activity level")?,
                kind: r.u64("activity type")?,
                text: text(r)?,
                fields: read_fields(r)?,
                parent: r.u64("activity parent")?,
            },
            STOP_ACTIVITY => Self::StopActivity {
                id: r.u64("activity")?,
            },
            RESULT => Self::Result {
                id: r.u64("activity")?,
                kind: r.u64("result type")?,
                fields: read_fields(r)?,
            },
            value => {
                return Err(WireError::Number {
                    field: "frame",
                    value,
                });
            }
        })
    }

    /// Writes a frame.
    pub fn write(&self, session: &Session, w: &mut Writer) {
        match self {
            Self::Next(text) => w.u64(NEXT).bytes(text),
            Self::Read(len) => w.u64(READ).u64(*len),
            Self::Write(bytes) => w.u64(WRITE).bytes(bytes),
            Self::Last => w.u64(LAST),
            Self::Error(error) if session.since(26) => w
                .u64(ERROR)
                .bytes("Error")
                .u64(error.level)
                .bytes("Error")
                .bytes(&error.message)
                .u64(0)
                .list(&error.traces, |w, trace| {
                    w.u64(0).bytes(trace);
                }),
            Self::Error(error) => w.u64(ERROR).bytes(&error.message).u64(error.exit_status),
            Self::StartActivity {
                id,
                level,
                kind,
                text,
                fields,
                parent,
            } => {
                w.u64(START_ACTIVITY)
                    .u64(*id)
                    .u64(*level)
                    .u64(*kind)
                    .bytes(text);
                write_fields(w, fields);
                w.u64(*parent)
            }
            Self::StopActivity { id } => w.u64(STOP_ACTIVITY).u64(*id),
            Self::Result { id, kind, fields } => {
                w.u64(RESULT).u64(*id).u64(*kind);
                write_fields(w, fields);
                w
            }
        };
    }
}

fn read_error<R: Read>(session: &Session, r: &mut Reader<R>) -> Result<RemoteError, WireError> {
    let text = |r: &mut Reader<R>| {
        let bytes = r.bytes("error", STRING_LEN_MAX)?;
        Ok::<_, WireError>(String::from_utf8_lossy(&bytes).into_owned())
    };
    if !session.since(26) {
        return Ok(RemoteError {
            message: text(r)?,
            exit_status: r.u64("exit status")?,
            ..RemoteError::default()
        });
    }
    r.name("error type")?;
    let level = r.u64("error level")?;
    r.name("error name")?;
    let message = text(r)?;
    r.u64_at_most("error position", 0)?;
    let traces = r.list("error traces", |r| {
        r.u64_at_most("trace position", 0)?;
        text(r)
    })?;
    Ok(RemoteError {
        level,
        message,
        traces,
        exit_status: 1,
    })
}

fn read_fields<R: Read>(r: &mut Reader<R>) -> Result<Vec<ActivityField>, WireError> {
    r.list("activity fields", |r| {
        Ok(match r.u64_at_most("field type", 1)? {
            0 => ActivityField::Number(r.u64("field")?),
            _ => ActivityField::Text(r.bytes("field", STRING_LEN_MAX)?),
        })
    })
}

fn write_fields(w: &mut Writer, fields: &[ActivityField]) {
    w.list(fields, |w, field| {
        match field {
            ActivityField::Number(number) => w.u64(0).u64(*number),
            ActivityField::Text(text) => w.u64(1).bytes(text),
        };
    });
}
