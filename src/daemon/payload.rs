//! What follows a request, as streams for the store.

use std::io::{self, Read, Write};

use store_wire::{NAME_LEN_MAX, Reader, Session, StderrFrame, WireError};

use crate::connection::{ConnectionError, send_frame};

/// How much is asked for at once.
const PULL_LEN_MAX: u64 = 64 << 10;

/// A payload that the client sends piece by piece when asked (before 1.23).
pub(crate) struct PullReader<'a, R, W> {
    reader: &'a mut Reader<R>,
    output: &'a mut W,
    session: &'a Session,
    /// What may still be asked for: a client that is asked for more than it has
    /// breaks the connection.
    left: u64,
    piece: io::Cursor<Vec<u8>>,
    error: Option<ConnectionError>,
}

impl<'a, R: Read, W: Write> PullReader<'a, R, W> {
    pub(crate) fn new(
        reader: &'a mut Reader<R>,
        output: &'a mut W,
        session: &'a Session,
        len: u64,
    ) -> Self {
        Self {
            reader,
            output,
            session,
            left: len,
            piece: io::Cursor::default(),
            error: None,
        }
    }

    /// What broke the connection, if something did.
    pub(crate) fn into_error(self) -> Option<ConnectionError> {
        self.error
    }

    fn pull(&mut self) -> Result<(), ConnectionError> {
        let wanted = self.left.min(PULL_LEN_MAX);
        send_frame(self.output, self.session, &StderrFrame::Read(wanted))
            .map_err(ConnectionError::Write)?;
        self.reader.begin_message();
        let piece = self.reader.bytes("payload", wanted)?;
        if piece.is_empty() {
            return Err(WireError::End { field: "payload" }.into());
        }
        self.left -= piece.len() as u64;
        self.piece = io::Cursor::new(piece);
        Ok(())
    }
}

impl<R: Read, W: Write> Read for PullReader<'_, R, W> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.piece.position() == self.piece.get_ref().len() as u64 && self.left > 0 {
            if self.error.is_none() {
                self.error = self.pull().err();
            }
            if self.error.is_some() {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
        }
        self.piece.read(bytes)
    }
}

/// The content of a NAR of one regular file: before 1.25 flat objects were sent
/// so.
pub(crate) fn only_file<R: Read>(nar: &mut R) -> io::Result<io::Take<&mut R>> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "this is not one regular file");
    let mut reader = Reader::new(nar);
    let mut keyword = |wanted: &[&str]| {
        let text = reader
            .text("NAR", NAME_LEN_MAX)
            .map_err(|err| io::Error::new(io::ErrorKind::InvalidData, err))?;
        match wanted.contains(&text.as_str()) {
            true => Ok(text),
            false => Err(malformed()),
        }
    };
    for wanted in ["nix-archive-1", "(", "type", "regular"] {
        keyword(&[wanted])?;
    }
    if keyword(&["executable", "contents"])? == "executable" {
        keyword(&[""])?;
        keyword(&["contents"])?;
    }
    let len = reader
        .u64("contents")
        .map_err(|err| io::Error::new(io::ErrorKind::InvalidData, err))?;
    Ok(reader.into_inner().take(len))
}

/// Ends the log before the first byte: a NAR follows it with no length, so an
/// error can be told only as long as none was sent.
pub(crate) struct AfterLog<'a, W: Write> {
    output: &'a mut W,
    session: &'a Session,
    pub(crate) has_begun: bool,
}

impl<'a, W: Write> AfterLog<'a, W> {
    pub(crate) fn new(output: &'a mut W, session: &'a Session) -> Self {
        Self {
            output,
            session,
            has_begun: false,
        }
    }
}

impl<W: Write> Write for AfterLog<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.has_begun {
            self.has_begun = true;
            send_frame(self.output, self.session, &StderrFrame::Last)?;
        }
        self.output.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}
