//! The shim's message: one request, one answer, over a connected stream socket.
//!
//! Why not the Nix worker protocol: a hit has to cost one round trip, and the answer carries
//! open files instead of bytes, so that the shim writes with its own privileges and the
//! executor never resolves a path inside the build's directories to write there.
//!
//! A frame is `DRS3`, the body's length (u32), the body. Numbers are little-endian; a string is
//! its length (u32) and its bytes. Bodies:
//!
//! ```text
//! call     = 1 tty:window tty:window one-stream:u8 cwd exe exec-path n:u32 arg* n:u32 env*
//! done     = 2 status:u8 n:u32 (executable:u8 path)*      descriptors: stdout stderr file*
//! in-place = 3 reason
//! control  = 4 text
//! report   = 5 text
//! memo     = 6 n:u32 input* n:u32 output* and then what follows the 1 of a call
//! trial    = 7
//! tried    = 8 killed:u8 status:u8 stdout stderr
//! window   = 0 | 1 rows:u16 columns:u16
//! ```
//!
//! `control` and `report` are for the command line, outside of builds: a request about the server
//! itself, and its answer. `memo` is a call of any program, with what it is declared to read and to
//! leave.
//!
//! `trial` answers a call that has failed in its sandbox: the shim runs the real compiler, sends
//! `tried`, waits for a `report` (why the call counts as one in place, if it does), and only then
//! prints. What was printed travels as bytes, so that nothing is read from a descriptor of a
//! build's.
//!
//! The descriptors travel as `SCM_RIGHTS` (unix(7)) in batches of at most
//! [`DESCRIPTORS_PER_MESSAGE`]: the first with the frame, each further one with a single byte
//! after it, since the kernel wants at least one byte of data and takes at most 253 of them.

use alloc::vec;
use alloc::vec::Vec;
use core::mem::MaybeUninit;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::kernel_error::KernelError;

/// Where a build finds the socket for its shims.
pub const SOCKET_PATH: &str = "/.droste/socket";

/// Where a build finds the marker of the one warning (see [`crate::client`]).
pub const MARKER_PATH: &str = "/.droste/warned";

/// Where a build finds the store objects that have shims laid over them, without the shims:
/// `/.droste/plain/nix/store/<base name>/…`.
pub const PLAIN_DIR: &str = "/.droste/plain";

/// Longest body of a frame, in bytes. An `execve` on Linux takes at most 6 MiB of arguments and
/// environment together (execve(2), "Limits on size of arguments and environment").
pub const BODY_BYTES_MAX: usize = 16 << 20;

/// Most arguments, and most environment entries, of one call.
pub const STRINGS_MAX: usize = 1 << 20;

/// Most bytes on each of a tried call's two streams; who prints more is not compared.
pub const TRIED_BYTES_MAX: usize = 1 << 20;

/// Most files that one answer may place.
pub const FILES_MAX: usize = 4096;

/// Descriptors in one message (the kernel's limit is `SCM_MAX_FD`, 253).
pub const DESCRIPTORS_PER_MESSAGE: usize = 250;

/// What is received at once, in bytes; nearly all answers fit.
const SHORT_FRAME_BYTES: usize = 4 << 10;

const MAGIC: [u8; 4] = *b"DRS3";
const HEADER_BYTES: usize = 8;
const TAG_CALL: u8 = 1;
const TAG_DONE: u8 = 2;
const TAG_IN_PLACE: u8 = 3;
const TAG_CONTROL: u8 = 4;
const TAG_REPORT: u8 = 5;
const TAG_MEMO: u8 = 6;
const TAG_TRIAL: u8 = 7;
const TAG_TRIED: u8 = 8;

/// The size of a terminal's window, in characters; `0` where it was never set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Lines.
    pub rows: u16,
    /// Characters in a line. GCC cuts its excerpts of source lines to it.
    pub columns: u16,
}

/// A compiler call as the shim saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// The arguments, the program's name first.
    pub argv: Vec<Vec<u8>>,
    /// The environment, each `NAME=VALUE`, in the order it was passed.
    pub env: Vec<Vec<u8>>,
    /// The current directory, absolute.
    pub cwd: Vec<u8>,
    /// The shim's own file, all symbolic links resolved (`/proc/self/exe`).
    pub exe: Vec<u8>,
    /// The path that was passed to `execve` (`AT_EXECFN`, getauxval(3)): may be relative to
    /// `cwd` and may be a symbolic link. Empty if unknown.
    pub exec_path: Vec<u8>,
    /// The window of the terminal that standard output is, if it is one.
    pub stdout_tty: Option<Window>,
    /// The window of the terminal that standard error is, if it is one.
    pub stderr_tty: Option<Window>,
    /// Whether both are one file, so that it matters in which order something is written to them.
    pub is_one_stream: bool,
    /// Set if it is not a compiler call, but one of any program.
    pub memo: Option<Memo>,
}

/// What the caller declares of a program of which nothing else is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memo {
    /// Files and directories that it reads, relative to its directory.
    pub inputs: Vec<Vec<u8>>,
    /// Files and directories that it replaces, relative to its directory.
    pub outputs: Vec<Vec<u8>>,
}

/// A file for the shim to write.
#[derive(Debug)]
pub struct NewFile {
    /// Absolute path in the build's view.
    pub path: Vec<u8>,
    /// Whether it is created with mode 0777 or 0666 (less the caller's umask).
    pub executable: bool,
    /// The content, readable from offset 0.
    pub content: OwnedFd,
}

/// The result of a call that the executor took over.
#[derive(Debug)]
pub struct Done {
    /// The exit status.
    pub status: u8,
    /// What to write to standard output, readable from offset 0.
    pub stdout: OwnedFd,
    /// What to write to standard error, readable from offset 0.
    pub stderr: OwnedFd,
    /// The files to write before.
    pub files: Vec<NewFile>,
}

/// The executor's answer to a call.
#[derive(Debug)]
pub enum Answer {
    /// The call has been done; what is left is to place its results.
    Done(Done),
    /// The shim shall run the real compiler.
    InPlace {
        /// Why, as a stable name such as `link` (see [`crate::args::Reason::name`]).
        reason: Vec<u8>,
    },
    /// The shim shall run the real compiler, and tell what came of it.
    Trial,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this status.
    Exited(u8),
    /// By this signal.
    Killed(u8),
}

/// What came of a call that its caller has made itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// How it ended.
    pub ended: Ended,
    /// What it wrote to standard output; if both are one file, to either.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error; if both are one file, nothing.
    pub stderr: Vec<u8>,
}

/// Why a message could not be sent, received or understood.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The kernel refused.
    #[error("cannot {operation} on the shim socket")]
    Socket {
        /// `send` or `receive`.
        operation: &'static str,
        /// The kernel's reason.
        #[source]
        source: KernelError,
    },
    /// The peer closed the connection in the middle of a message.
    #[error("shim connection closed in the middle of a message")]
    Closed,
    /// The message does not begin as one.
    #[error("not a shim message")]
    Magic,
    /// A limit of this module is exceeded.
    #[error("shim message: `{what}` is {value}, more than {max}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        value: usize,
        /// How large it may be.
        max: usize,
    },
    /// The body ends early, goes on too long or has an impossible value.
    #[error("shim message: malformed `{field}`")]
    Malformed {
        /// The part that is wrong.
        field: &'static str,
    },
    /// The number of descriptors is not the one the body announces.
    #[error("shim message: {got} descriptors instead of {expected}")]
    Descriptors {
        /// How many came.
        got: usize,
        /// How many were announced.
        expected: usize,
    },
}

fn limit(what: &'static str, value: usize, max: usize) -> Result<(), ProtocolError> {
    if value > max {
        return Err(ProtocolError::TooLarge { what, value, max });
    }
    Ok(())
}

struct Writer(Vec<u8>);

impl Writer {
    fn new() -> Self {
        let mut bytes = Vec::with_capacity(8192);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[0; 4]);
        Self(bytes)
    }

    fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    fn length(&mut self, value: usize) {
        // Anything that does not fit is far beyond BODY_BYTES_MAX, which `finish` checks.
        self.0
            .extend_from_slice(&u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes());
    }

    fn string(&mut self, value: &[u8]) {
        self.length(value.len());
        self.0.extend_from_slice(value);
    }

    fn strings(&mut self, what: &'static str, list: &[Vec<u8>]) -> Result<(), ProtocolError> {
        limit(what, list.len(), STRINGS_MAX)?;
        self.length(list.len());
        for string in list {
            self.string(string);
        }
        Ok(())
    }

    fn window(&mut self, value: Option<Window>) {
        match value {
            None => self.u8(0),
            Some(window) => {
                self.u8(1);
                self.0.extend_from_slice(&window.rows.to_le_bytes());
                self.0.extend_from_slice(&window.columns.to_le_bytes());
            }
        }
    }

    fn finish(mut self) -> Result<Vec<u8>, ProtocolError> {
        let body = self.0.len() - HEADER_BYTES;
        limit("body", body, BODY_BYTES_MAX)?;
        let body = u32::try_from(body).map_err(|_| ProtocolError::Malformed { field: "body" })?;
        self.0[4..HEADER_BYTES].copy_from_slice(&body.to_le_bytes());
        Ok(self.0)
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize, field: &'static str) -> Result<&'a [u8], ProtocolError> {
        let (head, tail) = self
            .0
            .split_at_checked(count)
            .ok_or(ProtocolError::Malformed { field })?;
        self.0 = tail;
        Ok(head)
    }

    fn u8(&mut self, field: &'static str) -> Result<u8, ProtocolError> {
        Ok(self.take(1, field)?[0])
    }

    fn bool(&mut self, field: &'static str) -> Result<bool, ProtocolError> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(ProtocolError::Malformed { field }),
        }
    }

    fn u16(&mut self, field: &'static str) -> Result<u16, ProtocolError> {
        let bytes = self.take(2, field)?;
        Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    fn length(&mut self, field: &'static str) -> Result<usize, ProtocolError> {
        let bytes = self.take(4, field)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
    }

    fn bytes(&mut self, field: &'static str) -> Result<&'a [u8], ProtocolError> {
        let length = self.length(field)?;
        self.take(length, field)
    }

    fn string(&mut self, field: &'static str) -> Result<Vec<u8>, ProtocolError> {
        let bytes = self.bytes(field)?;
        // Everything here ends up as a C string or a path.
        if bytes.contains(&0) {
            return Err(ProtocolError::Malformed { field });
        }
        Ok(bytes.to_vec())
    }

    fn strings(&mut self, field: &'static str) -> Result<Vec<Vec<u8>>, ProtocolError> {
        let count = self.length(field)?;
        limit(field, count, STRINGS_MAX)?;
        // Each string takes at least its length, so a false count cannot reserve much.
        let mut strings = Vec::with_capacity(count.min(self.0.len() / 4));
        for _ in 0..count {
            strings.push(self.string(field)?);
        }
        Ok(strings)
    }

    fn window(&mut self, field: &'static str) -> Result<Option<Window>, ProtocolError> {
        if !self.bool(field)? {
            return Ok(None);
        }
        Ok(Some(Window {
            rows: self.u16(field)?,
            columns: self.u16(field)?,
        }))
    }

    fn end(self, field: &'static str) -> Result<(), ProtocolError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(ProtocolError::Malformed { field })
        }
    }
}

impl Call {
    /// The whole frame of this call.
    ///
    /// # Errors
    /// When a limit of this module is exceeded.
    pub fn to_frame(&self) -> Result<Vec<u8>, ProtocolError> {
        let mut writer = Writer::new();
        match &self.memo {
            None => writer.u8(TAG_CALL),
            Some(memo) => {
                writer.u8(TAG_MEMO);
                writer.strings("inputs", &memo.inputs)?;
                writer.strings("outputs", &memo.outputs)?;
            }
        }
        writer.window(self.stdout_tty);
        writer.window(self.stderr_tty);
        writer.u8(u8::from(self.is_one_stream));
        writer.string(&self.cwd);
        writer.string(&self.exe);
        writer.string(&self.exec_path);
        writer.strings("arguments", &self.argv)?;
        writer.strings("environment", &self.env)?;
        writer.finish()
    }

    /// Reads the body of a call's frame.
    ///
    /// # Errors
    /// When it is not exactly one call, exceeds a limit, has no arguments or a relative `cwd`.
    pub fn from_body(body: &[u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader(body);
        let memo = match reader.u8("tag")? {
            TAG_CALL => None,
            TAG_MEMO => Some(Memo {
                inputs: reader.strings("inputs")?,
                outputs: reader.strings("outputs")?,
            }),
            _ => return Err(ProtocolError::Malformed { field: "tag" }),
        };
        let stdout_tty = reader.window("stdout")?;
        let stderr_tty = reader.window("stderr")?;
        let is_one_stream = match reader.u8("streams")? {
            0 => false,
            1 => true,
            _ => return Err(ProtocolError::Malformed { field: "streams" }),
        };
        let cwd = reader.string("cwd")?;
        let exe = reader.string("exe")?;
        let exec_path = reader.string("exec path")?;
        let argv = reader.strings("arguments")?;
        let env = reader.strings("environment")?;
        reader.end("call")?;
        if argv.is_empty() {
            return Err(ProtocolError::Malformed { field: "arguments" });
        }
        for (path, field) in [(&cwd, "cwd"), (&exe, "exe")] {
            if !path.starts_with(b"/") {
                return Err(ProtocolError::Malformed { field });
            }
        }
        Ok(Self {
            argv,
            env,
            cwd,
            exe,
            exec_path,
            stdout_tty,
            stderr_tty,
            is_one_stream,
            memo,
        })
    }
}

/// Sends a call.
///
/// # Errors
/// When it exceeds a limit or the socket fails.
pub fn send_call(socket: impl AsFd, call: &Call) -> Result<(), ProtocolError> {
    send(socket.as_fd(), &call.to_frame()?, &[])
}

/// What may come to a server.
#[derive(Debug)]
pub enum Request {
    /// A compiler call.
    Call(Call),
    /// Something about the server itself.
    Control(Vec<u8>),
}

/// Receives a request; `None` when the peer closed the connection instead. Descriptors that come
/// with it are closed.
///
/// # Errors
/// When the socket fails or the message is not a request within the limits.
pub fn receive_request(socket: impl AsFd) -> Result<Option<Request>, ProtocolError> {
    let Some(body) = receive_body(socket.as_fd(), None)? else {
        return Ok(None);
    };
    if body.first() != Some(&TAG_CONTROL) {
        return Call::from_body(&body).map(|call| Some(Request::Call(call)));
    }
    let mut reader = Reader(&body[1..]);
    let text = reader.string("control")?;
    reader.end("control")?;
    Ok(Some(Request::Control(text)))
}

/// Receives a call; `None` when the peer closed the connection instead.
///
/// # Errors
/// When the socket fails or the message is not a call within the limits.
pub fn receive_call(socket: impl AsFd) -> Result<Option<Call>, ProtocolError> {
    match receive_request(socket)? {
        Some(Request::Call(call)) => Ok(Some(call)),
        Some(Request::Control(_)) => Err(ProtocolError::Malformed { field: "tag" }),
        None => Ok(None),
    }
}

fn send_text(socket: BorrowedFd<'_>, tag: u8, text: &[u8]) -> Result<(), ProtocolError> {
    let mut writer = Writer::new();
    writer.u8(tag);
    writer.string(text);
    send(socket, &writer.finish()?, &[])
}

/// Asks a server about itself.
///
/// # Errors
/// When the text exceeds a limit or the socket fails.
pub fn send_control(socket: impl AsFd, text: &[u8]) -> Result<(), ProtocolError> {
    send_text(socket.as_fd(), TAG_CONTROL, text)
}

/// Answers what [`send_control`] asked.
///
/// # Errors
/// When the text exceeds a limit or the socket fails.
pub fn send_report(socket: impl AsFd, text: &[u8]) -> Result<(), ProtocolError> {
    send_text(socket.as_fd(), TAG_REPORT, text)
}

/// Receives the answer to [`send_control`].
///
/// # Errors
/// When the socket fails or closes, or the message is no report within the limits.
pub fn receive_report(socket: impl AsFd) -> Result<Vec<u8>, ProtocolError> {
    let body = receive_body(socket.as_fd(), None)?.ok_or(ProtocolError::Closed)?;
    let mut reader = Reader(&body);
    if reader.u8("tag")? != TAG_REPORT {
        return Err(ProtocolError::Malformed { field: "tag" });
    }
    let text = reader.string("report")?;
    reader.end("report")?;
    Ok(text)
}

/// Sends what came of a call.
///
/// # Errors
/// When it exceeds a limit or the socket fails.
pub fn send_tried(socket: impl AsFd, tried: &Tried) -> Result<(), ProtocolError> {
    let mut writer = Writer::new();
    writer.u8(TAG_TRIED);
    let (is_killed, status) = match tried.ended {
        Ended::Exited(status) => (false, status),
        Ended::Killed(signal) => (true, signal),
    };
    writer.u8(u8::from(is_killed));
    writer.u8(status);
    for text in [&tried.stdout, &tried.stderr] {
        limit("output", text.len(), TRIED_BYTES_MAX)?;
        writer.string(text);
    }
    send(socket.as_fd(), &writer.finish()?, &[])
}

/// Receives what came of a call.
///
/// # Errors
/// When the socket fails or closes, or the message is none of this kind within the limits.
pub fn receive_tried(socket: impl AsFd) -> Result<Tried, ProtocolError> {
    let body = receive_body(socket.as_fd(), None)?.ok_or(ProtocolError::Closed)?;
    let mut reader = Reader(&body);
    if reader.u8("tag")? != TAG_TRIED {
        return Err(ProtocolError::Malformed { field: "tag" });
    }
    let ended = match reader.bool("killed")? {
        false => Ended::Exited,
        true => Ended::Killed,
    };
    let ended = ended(reader.u8("status")?);
    let mut output = || {
        let text = reader.bytes("output")?;
        limit("output", text.len(), TRIED_BYTES_MAX)?;
        Ok::<_, ProtocolError>(text.to_vec())
    };
    let (stdout, stderr) = (output()?, output()?);
    reader.end("tried")?;
    Ok(Tried {
        ended,
        stdout,
        stderr,
    })
}

/// Sends an answer with its descriptors.
///
/// # Errors
/// When it exceeds a limit or the socket fails.
pub fn send_answer(socket: impl AsFd, answer: &Answer) -> Result<(), ProtocolError> {
    let mut writer = Writer::new();
    match answer {
        Answer::InPlace { reason } => {
            writer.u8(TAG_IN_PLACE);
            writer.string(reason);
            send(socket.as_fd(), &writer.finish()?, &[])
        }
        Answer::Trial => {
            writer.u8(TAG_TRIAL);
            send(socket.as_fd(), &writer.finish()?, &[])
        }
        Answer::Done(done) => {
            limit("files", done.files.len(), FILES_MAX)?;
            writer.u8(TAG_DONE);
            writer.u8(done.status);
            writer.length(done.files.len());
            let mut descriptors = vec![done.stdout.as_fd(), done.stderr.as_fd()];
            for file in &done.files {
                writer.u8(u8::from(file.executable));
                writer.string(&file.path);
                descriptors.push(file.content.as_fd());
            }
            send(socket.as_fd(), &writer.finish()?, &descriptors)
        }
    }
}

/// Receives the answer to a call.
///
/// # Errors
/// When the socket fails or closes, or the message is not an answer within the limits. A process
/// that may not hold as many descriptors as come gets an error as well (recvmsg(2), `MSG_CTRUNC`).
pub fn receive_answer(socket: impl AsFd) -> Result<Answer, ProtocolError> {
    let socket = socket.as_fd();
    let mut descriptors = Vec::new();
    let body = receive_body(socket, Some(&mut descriptors))?.ok_or(ProtocolError::Closed)?;
    let mut reader = Reader(&body);
    match reader.u8("tag")? {
        TAG_IN_PLACE => {
            let reason = reader.string("reason")?;
            reader.end("answer")?;
            Ok(Answer::InPlace { reason })
        }
        TAG_TRIAL => {
            reader.end("answer")?;
            Ok(Answer::Trial)
        }
        TAG_DONE => {
            let status = reader.u8("status")?;
            let count = reader.length("files")?;
            limit("files", count, FILES_MAX)?;
            let mut files = Vec::new();
            for _ in 0..count {
                let executable = reader.bool("executable")?;
                let path = reader.string("path")?;
                if !path.starts_with(b"/") {
                    return Err(ProtocolError::Malformed { field: "path" });
                }
                files.push((path, executable));
            }
            reader.end("answer")?;
            let expected = count + 2;
            while descriptors.len() < expected {
                let mut byte = [0u8];
                if receive_some(socket, &mut byte, Some(&mut descriptors))? == 0 {
                    break;
                }
            }
            if descriptors.len() != expected {
                let got = descriptors.len();
                return Err(ProtocolError::Descriptors { got, expected });
            }
            let mut descriptors = descriptors.into_iter();
            let mut next = || {
                descriptors
                    .next()
                    .ok_or(ProtocolError::Descriptors { got: 0, expected })
            };
            let (stdout, stderr) = (next()?, next()?);
            let files = files
                .into_iter()
                .map(|(path, executable)| {
                    next().map(|content| NewFile {
                        path,
                        executable,
                        content,
                    })
                })
                .collect::<Result<_, _>>()?;
            Ok(Answer::Done(Done {
                status,
                stdout,
                stderr,
                files,
            }))
        }
        _ => Err(ProtocolError::Malformed { field: "tag" }),
    }
}

fn send(
    socket: BorrowedFd<'_>,
    frame: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), ProtocolError> {
    let mut batches = descriptors.chunks(DESCRIPTORS_PER_MESSAGE);
    send_all(socket, frame, batches.next().unwrap_or(&[]))?;
    for batch in batches {
        send_all(socket, b"+", batch)?;
    }
    Ok(())
}

fn send_all(
    socket: BorrowedFd<'_>,
    mut bytes: &[u8],
    mut descriptors: &[BorrowedFd<'_>],
) -> Result<(), ProtocolError> {
    let mut space =
        [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_PER_MESSAGE))];
    while !bytes.is_empty() {
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            // The space is made for the largest batch, so this cannot be refused.
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        match sendmsg(
            socket,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        ) {
            Ok(sent) => {
                bytes = &bytes[sent..];
                descriptors = &[];
            }
            Err(Errno::INTR) => {}
            Err(error) => {
                return Err(ProtocolError::Socket {
                    operation: "send",
                    source: error.into(),
                });
            }
        }
    }
    Ok(())
}

/// Receives a frame, at once if it is a short one: bytes after it are lost. There are none but
/// those that carry descriptors, since each side waits for what the other one sends. Where none are
/// expected, none are taken.
///
/// Memory is used for what has come, not for what is announced.
fn receive_body(
    socket: BorrowedFd<'_>,
    mut descriptors: Option<&mut Vec<OwnedFd>>,
) -> Result<Option<Vec<u8>>, ProtocolError> {
    let mut frame = vec![0; SHORT_FRAME_BYTES];
    let mut filled = 0;
    let taken = descriptors.as_deref_mut();
    if !receive_at_least(HEADER_BYTES, socket, &mut frame, &mut filled, taken)? {
        return Ok(None);
    }
    if frame[..4] != MAGIC {
        return Err(ProtocolError::Magic);
    }
    let length = u32::from_le_bytes([frame[4], frame[5], frame[6], frame[7]]) as usize;
    limit("body", length, BODY_BYTES_MAX)?;
    let end = HEADER_BYTES + length;
    loop {
        frame.resize(end.min(2 * filled.max(SHORT_FRAME_BYTES)), 0);
        let len = frame.len();
        let taken = descriptors.as_deref_mut();
        receive_at_least(len.min(end), socket, &mut frame, &mut filled, taken)?;
        if filled >= end {
            break;
        }
    }
    frame.truncate(end);
    frame.drain(..HEADER_BYTES);
    Ok(Some(frame))
}

/// Receives into `buffer` until `filled` is `count` or more; `false` when the connection ended
/// before the first byte.
fn receive_at_least(
    count: usize,
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    filled: &mut usize,
    mut descriptors: Option<&mut Vec<OwnedFd>>,
) -> Result<bool, ProtocolError> {
    while *filled < count {
        let taken = descriptors.as_deref_mut();
        match receive_some(socket, &mut buffer[*filled..], taken)? {
            0 if *filled == 0 => return Ok(false),
            0 => return Err(ProtocolError::Closed),
            received => *filled += received,
        }
    }
    Ok(true)
}

fn receive_some(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    descriptors: Option<&mut Vec<OwnedFd>>,
) -> Result<usize, ProtocolError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    // Without space, the kernel closes what comes (recvmsg(2), `MSG_CTRUNC`).
    let space = match descriptors {
        Some(_) => &mut space[..],
        None => &mut [],
    };
    let mut control = RecvAncillaryBuffer::new(space);
    let received = loop {
        match recvmsg(
            socket,
            &mut [IoSliceMut::new(buffer)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Ok(received) => break received,
            Err(Errno::INTR) => {}
            Err(error) => {
                return Err(ProtocolError::Socket {
                    operation: "receive",
                    source: error.into(),
                });
            }
        }
    };
    let Some(descriptors) = descriptors else {
        return Ok(received.bytes);
    };
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(batch) = message {
            descriptors.extend(batch);
        }
    }
    let expected = FILES_MAX + 2;
    if received.flags.contains(ReturnFlags::CTRUNC) || descriptors.len() > expected {
        let got = descriptors.len();
        return Err(ProtocolError::Descriptors { got, expected });
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, Write};
    use std::os::unix::net::UnixStream;

    use proptest::prelude::*;

    use super::*;

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(1u8.., 0..40)
    }

    fn window() -> impl Strategy<Value = Option<Window>> {
        proptest::option::of(
            any::<(u16, u16)>().prop_map(|(rows, columns)| Window { rows, columns }),
        )
    }

    fn memo() -> impl Strategy<Value = Option<Memo>> {
        let paths = || proptest::collection::vec(bytes(), 0..5);
        proptest::option::of((paths(), paths()))
            .prop_map(|memo| memo.map(|(inputs, outputs)| Memo { inputs, outputs }))
    }

    fn call() -> impl Strategy<Value = Call> {
        (
            proptest::collection::vec(bytes(), 1..20),
            proptest::collection::vec(bytes(), 0..20),
            bytes(),
            bytes(),
            bytes(),
            window(),
            window(),
            any::<bool>(),
            memo(),
        )
            .prop_map(
                |(argv, env, cwd, exe, exec_path, stdout_tty, stderr_tty, is_one_stream, memo)| {
                    Call {
                        argv,
                        env,
                        cwd: [b"/".as_slice(), &cwd].concat(),
                        exe: [b"/".as_slice(), &exe].concat(),
                        exec_path,
                        stdout_tty,
                        stderr_tty,
                        is_one_stream,
                        memo,
                    }
                },
            )
    }

    fn file(content: &str) -> OwnedFd {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content.as_bytes()).unwrap();
        file.rewind().unwrap();
        file.into()
    }

    fn read(descriptor: OwnedFd) -> String {
        let mut text = String::new();
        File::from(descriptor).read_to_string(&mut text).unwrap();
        text
    }

    proptest! {
        #[test]
        fn a_call_survives_the_round_trip(call in call()) {
            let frame = call.to_frame().unwrap();
            prop_assert_eq!(Call::from_body(&frame[HEADER_BYTES..]).unwrap(), call);
        }

        #[test]
        fn no_body_makes_the_reader_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Call::from_body(&body);
        }

        #[test]
        fn a_cut_call_is_refused(call in call(), cut in 1usize..200) {
            let frame = call.to_frame().unwrap();
            let body = &frame[HEADER_BYTES..];
            let end = body.len().saturating_sub(cut);
            prop_assert!(Call::from_body(&body[..end]).is_err());
        }
    }

    #[test]
    fn a_call_of_several_megabytes_passes_through_a_socket() {
        let (near, far) = UnixStream::pair().unwrap();
        let call = Call {
            argv: vec![vec![b'x'; 100_000]; 60],
            cwd: b"/build".to_vec(),
            exe: b"/bin/cc".to_vec(),
            ..Call::default()
        };
        let sent = call.clone();
        let sender = std::thread::spawn(move || send_call(&near, &sent).unwrap());
        assert_eq!(receive_call(&far).unwrap(), Some(call));
        sender.join().unwrap();
        assert_eq!(receive_call(&far).unwrap(), None);
    }

    #[test]
    fn more_files_than_one_message_takes_arrive_in_order() {
        let (near, far) = UnixStream::pair().unwrap();
        let files = (0..300)
            .map(|index| NewFile {
                path: format!("/build/{index}").into_bytes(),
                executable: index % 2 == 1,
                content: file(&index.to_string()),
            })
            .collect();
        let answer = Answer::Done(Done {
            status: 3,
            stdout: file("out"),
            stderr: file("err"),
            files,
        });
        let sender = std::thread::spawn(move || send_answer(&near, &answer).unwrap());
        let Answer::Done(done) = receive_answer(&far).unwrap() else {
            panic!("not done");
        };
        sender.join().unwrap();
        assert_eq!(done.status, 3);
        assert_eq!(read(done.stdout), "out");
        assert_eq!(read(done.stderr), "err");
        assert_eq!(done.files.len(), 300);
        for (index, file) in done.files.into_iter().enumerate() {
            assert_eq!(file.path, format!("/build/{index}").into_bytes());
            assert_eq!(file.executable, index % 2 == 1);
            assert_eq!(read(file.content), index.to_string());
        }
    }

    #[test]
    fn what_came_of_a_call_is_told_byte_for_byte_and_within_limits() {
        let (near, far) = UnixStream::pair().unwrap();
        send_answer(&far, &Answer::Trial).unwrap();
        assert!(matches!(receive_answer(&near).unwrap(), Answer::Trial));
        for ended in [Ended::Exited(1), Ended::Killed(11)] {
            let tried = Tried {
                ended,
                stdout: b"\0\xff".to_vec(),
                stderr: Vec::new(),
            };
            send_tried(&near, &tried).unwrap();
            assert_eq!(receive_tried(&far).unwrap(), tried);
        }
        let long = Tried {
            ended: Ended::Exited(1),
            stdout: Vec::new(),
            stderr: vec![b'x'; TRIED_BYTES_MAX + 1],
        };
        let refused = send_tried(&near, &long);
        assert!(matches!(refused, Err(ProtocolError::TooLarge { .. })));
        (&near).write_all(b"DRS3\x04\0\0\0\x08\x02\0\0").unwrap();
        let odd = receive_tried(&far);
        assert!(matches!(odd, Err(ProtocolError::Malformed { .. })));
    }

    #[test]
    fn an_answer_cut_by_the_peer_is_an_error() {
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(b"DRS3\x10\0\0\0\x02").unwrap();
        drop(near);
        assert!(matches!(receive_answer(&far), Err(ProtocolError::Closed)));
    }

    #[test]
    fn an_answer_without_its_descriptors_is_an_error() {
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(b"DRS3\x06\0\0\0\x02\0\0\0\0\0").unwrap();
        drop(near);
        assert!(matches!(
            receive_answer(&far),
            Err(ProtocolError::Descriptors {
                got: 0,
                expected: 2
            })
        ));
    }

    #[test]
    fn an_oversized_body_is_refused_before_it_is_read() {
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(b"DRS3\xff\xff\xff\xff").unwrap();
        assert!(matches!(
            receive_call(&far),
            Err(ProtocolError::TooLarge { what: "body", .. })
        ));
    }
}
