//! One connection, one operation at a time.

use std::io::{self, BufReader, Read, Write};
use std::time::{Duration, Instant};

use store_wire::{
    Hello, NarReader, Reader, RemoteError, Request, Response, Session, StderrFrame, WireError,
    Writer, handshake_as_client,
};

use crate::channel::{Blocked, Input, Output, set_nonblocking};
use crate::connect::{StartedServer, Streams};
use crate::error::ClientError;
use crate::log::Log;
use crate::remote::RemoteOptions;

/// How much is read and sent at once.
const BUFFER_LEN: usize = 64 << 10;

/// How often an observer is asked whether anybody waits for a build.
const CANCEL_POLL: Duration = Duration::from_millis(250);

/// How long a server may take for the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(60);

/// A connection after its handshake. Fields end in this order: a server that was
/// started for it ends when its streams have.
pub(crate) struct Connection {
    pub(crate) session: Session,
    pub(crate) hello: Hello,
    reader: Reader<BufReader<Input>>,
    output: Output,
    _server: Option<StartedServer>,
    /// Which settings the server has, counted by the pool.
    pub(crate) settings: u64,
}

impl Connection {
    /// Greets the server.
    pub(crate) fn open(streams: Streams, options: &RemoteOptions) -> Result<Self, ClientError> {
        set_nonblocking(&streams.input).map_err(ClientError::Connect)?;
        set_nonblocking(&streams.output).map_err(ClientError::Connect)?;
        let mut input = Input::new(streams.input);
        input.deadline = Some(Instant::now() + HANDSHAKE_TIMEOUT);
        let mut output = Output::new(streams.output);
        let mut reader = Reader::new(BufReader::with_capacity(BUFFER_LEN, input));
        let (session, hello) = handshake_as_client(
            &mut reader,
            &mut output,
            options.version,
            &options.features,
            &options.store_dir,
        )?;
        reader.inner().get_mut().deadline = None;
        Ok(Self {
            session,
            hello,
            reader,
            output,
            _server: streams.server,
            settings: 0,
        })
    }

    /// Whether the server has closed it, or said something that was not asked for.
    pub(crate) fn is_stale(&mut self) -> bool {
        let input = self.reader.inner();
        !input.buffer().is_empty() || input.get_ref().is_readable(Duration::ZERO).unwrap_or(true)
    }

    /// An operation without a payload.
    pub(crate) fn call(
        &mut self,
        request: &Request,
        log: &mut Log<'_>,
    ) -> Result<Response, ClientError> {
        self.send_request(request, log)?;
        self.reply(request, log)
    }

    /// `AddToStoreNar` before 1.23: the server asks for the payload piece by piece.
    pub(crate) fn call_pulled(
        &mut self,
        request: &Request,
        payload: &mut dyn Read,
        log: &mut Log<'_>,
    ) -> Result<Response, ClientError> {
        self.send_request(request, log)?;
        let mut piece = vec![0; BUFFER_LEN];
        loop {
            match self.frame(log)? {
                StderrFrame::Read(wanted) => {
                    let len = wanted.min(BUFFER_LEN as u64) as usize;
                    let len = read_some(payload, &mut piece[..len])?;
                    if len == 0 {
                        return Err(ClientError::Payload(io::ErrorKind::UnexpectedEof.into()));
                    }
                    let mut w = Writer::new();
                    w.bytes(&piece[..len]);
                    self.send(&w.into_bytes(), log, &mut None)?;
                }
                StderrFrame::Last => return self.response(request),
                StderrFrame::Error(error) => {
                    drain(payload)?;
                    return Err(error.into());
                }
                other => log.frame(other),
            }
        }
    }

    /// An operation that a framed stream follows.
    pub(crate) fn call_framed(
        &mut self,
        request: &Request,
        payload: &mut dyn Read,
        log: &mut Log<'_>,
    ) -> Result<Response, ClientError> {
        self.send_request(request, log)?;
        let mut early = None;
        let mut chunk = vec![0; BUFFER_LEN];
        while early.is_none() {
            let len = read_full(payload, &mut chunk[8..])?;
            if len == 0 {
                break;
            }
            chunk[..8].copy_from_slice(&(len as u64).to_le_bytes());
            self.listen(log, &mut early)?;
            if early.is_none() {
                self.send(&chunk[..8 + len], log, &mut early)?;
            }
        }
        // Not before all of it was read: the end of the stream says that this was
        // all, unless the server does not want it anyhow.
        if early.is_some() {
            drain(payload)?;
        }
        self.send(&[0; 8], log, &mut early)?;
        match early {
            Some(error) => Err(error.into()),
            None => self.reply(request, log),
        }
    }

    /// `AddToStore` before 1.25: the payload follows as it is, and the server says
    /// nothing before its end. An error before it leaves us out of step.
    pub(crate) fn call_bare(
        &mut self,
        request: &Request,
        payload: &mut dyn Read,
        log: &mut Log<'_>,
    ) -> Result<Response, ClientError> {
        self.send_request(request, log)?;
        let mut piece = vec![0; BUFFER_LEN];
        let mut early = None;
        while early.is_none() {
            let len = read_some(payload, &mut piece)?;
            if len == 0 {
                return self.reply(request, log);
            }
            self.send(&piece[..len], log, &mut early)?;
        }
        drain(payload)?;
        Err(early.map_or(ClientError::Cancelled, ClientError::Early))
    }

    /// `NarFromPath`: a NAR with nothing around it follows the log's end.
    pub(crate) fn call_for_nar(
        &mut self,
        request: &Request,
        out: &mut dyn Write,
        log: &mut Log<'_>,
    ) -> Result<(), ClientError> {
        self.call(request, log)?;
        let mut nar = NarReader::new(self.reader.inner());
        let mut piece = vec![0; BUFFER_LEN];
        loop {
            let len = match nar.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(len) => len,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    let field = "NAR";
                    return Err(WireError::Io { field, source }.into());
                }
            };
            out.write_all(&piece[..len]).map_err(ClientError::Sink)?;
        }
    }

    fn send_request(&mut self, request: &Request, log: &mut Log<'_>) -> Result<(), ClientError> {
        let mut w = Writer::new();
        request.write(&self.session, &mut w);
        let mut early = None;
        self.send(&w.into_bytes(), log, &mut early)?;
        early.map_or(Ok(()), |error| Err(ClientError::Early(error)))
    }

    /// Sends all of these bytes, taking what the server says meanwhile.
    fn send(
        &mut self,
        mut bytes: &[u8],
        log: &mut Log<'_>,
        early: &mut Option<RemoteError>,
    ) -> Result<(), ClientError> {
        while !bytes.is_empty() {
            let len = match self.output.write_some(bytes) {
                Ok(len) => len,
                // It has said why, and left.
                Err(_) if early.is_some() => {
                    return early
                        .take()
                        .map_or(Ok(()), |error| Err(ClientError::Early(error)));
                }
                Err(err) => return Err(self.last_words(err, log)),
            };
            bytes = &bytes[len..];
            if len > 0 {
                continue;
            }
            let blocked = match self.reader.inner().buffer().is_empty() {
                true => self.output.wait_with(self.reader.inner().get_ref()),
                false => Ok(Blocked::Readable),
            };
            if let Blocked::Readable = blocked.map_err(ClientError::Send)? {
                self.early_frame(log, early)?;
            }
        }
        Ok(())
    }

    /// Why the server takes no more: it may have said so before it left.
    fn last_words(&mut self, err: io::Error, log: &mut Log<'_>) -> ClientError {
        let mut early = None;
        match self.listen(log, &mut early) {
            Ok(()) | Err(_) if early.is_some() => {
                early.map_or(ClientError::Send(err), ClientError::Early)
            }
            _ => ClientError::Send(err),
        }
    }

    /// Takes what the server has said so far, without waiting for more.
    fn listen(
        &mut self,
        log: &mut Log<'_>,
        early: &mut Option<RemoteError>,
    ) -> Result<(), ClientError> {
        while early.is_none() && self.has_input(Duration::ZERO)? {
            self.early_frame(log, early)?;
        }
        Ok(())
    }

    fn early_frame(
        &mut self,
        log: &mut Log<'_>,
        early: &mut Option<RemoteError>,
    ) -> Result<(), ClientError> {
        match self.frame_now()? {
            StderrFrame::Error(error) if early.is_none() => *early = Some(error),
            StderrFrame::Error(_) => return Err(ClientError::Frame { frame: "Error" }),
            StderrFrame::Last => return Err(ClientError::Frame { frame: "Last" }),
            StderrFrame::Read(_) => return Err(ClientError::Frame { frame: "Read" }),
            other => log.frame(other),
        }
        Ok(())
    }

    fn has_input(&mut self, patience: Duration) -> Result<bool, ClientError> {
        let input = self.reader.inner();
        if !input.buffer().is_empty() {
            return Ok(true);
        }
        input.get_ref().is_readable(patience).map_err(|source| {
            let field = "frame";
            WireError::Io { field, source }.into()
        })
    }

    fn frame_now(&mut self) -> Result<StderrFrame, ClientError> {
        self.reader.begin_message();
        Ok(StderrFrame::read(&self.session, &mut self.reader)?)
    }

    /// The next frame, as long as anybody waits for it.
    fn frame(&mut self, log: &mut Log<'_>) -> Result<StderrFrame, ClientError> {
        while !self.has_input(CANCEL_POLL)? {
            if log.is_cancelled() {
                return Err(ClientError::Cancelled);
            }
        }
        self.frame_now()
    }

    fn reply(&mut self, request: &Request, log: &mut Log<'_>) -> Result<Response, ClientError> {
        loop {
            match self.frame(log)? {
                StderrFrame::Last => return self.response(request),
                StderrFrame::Error(error) => return Err(error.into()),
                StderrFrame::Read(_) => return Err(ClientError::Frame { frame: "Read" }),
                StderrFrame::Write(_) => return Err(ClientError::Frame { frame: "Write" }),
                other => log.frame(other),
            }
        }
    }

    fn response(&mut self, request: &Request) -> Result<Response, ClientError> {
        Ok(Response::read(request, &self.session, &mut self.reader)?)
    }
}

fn read_some(payload: &mut dyn Read, bytes: &mut [u8]) -> Result<usize, ClientError> {
    loop {
        match payload.read(bytes) {
            Ok(len) => return Ok(len),
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(ClientError::Payload(err)),
        }
    }
}

/// Fills the buffer, or as much of it as the payload still has.
fn read_full(payload: &mut dyn Read, bytes: &mut [u8]) -> Result<usize, ClientError> {
    let mut filled = 0;
    while filled < bytes.len() {
        match read_some(payload, &mut bytes[filled..])? {
            0 => break,
            len => filled += len,
        }
    }
    Ok(filled)
}

/// The caller's stream ends where the payload does, whatever the server said.
fn drain(payload: &mut dyn Read) -> Result<(), ClientError> {
    io::copy(payload, &mut io::sink())
        .map(|_| ())
        .map_err(ClientError::Payload)
}
