//! Where a NAR ends that is followed by something else.

use std::io::{self, Read};

/// The longest keyword of a NAR is `nix-archive-1`.
const KEYWORD_LEN_MAX: usize = 13;

/// Passes the bytes of one NAR through; its end is the end of this reader.
///
/// Before protocol 1.23 NARs were sent with nothing around them. This tells
/// only where one ends: parentheses are counted, and data is told from
/// keywords. Whether it is a NAR is for its parser to say. Who stops early calls
/// [`drain`](Self::drain).
pub struct NarReader<'a, R: Read> {
    inner: &'a mut R,
    /// A token that was read ahead, and how much of it was passed on.
    token: Vec<u8>,
    passed: usize,
    /// What is left of a data string that is passed through.
    data_left: u64,
    state: State,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// The next string is a keyword, this deep.
    Keyword(u64),
    /// The next string is data, this deep.
    Data(u64),
    Ended,
    /// Where it ends cannot be told any more.
    Broken,
}

impl<'a, R: Read> NarReader<'a, R> {
    /// A reader at a NAR's first byte.
    pub fn new(inner: &'a mut R) -> Self {
        Self {
            inner,
            token: Vec::new(),
            passed: 0,
            data_left: 0,
            state: State::Keyword(0),
        }
    }

    /// Reads and forgets what is left of the NAR.
    pub fn drain(&mut self) -> io::Result<()> {
        io::copy(self, &mut io::sink()).map(|_| ())
    }

    /// Reads the next token into `token`, or its length only if it is data.
    fn next_token(&mut self) -> io::Result<()> {
        let mut len = [0; 8];
        self.inner.read_exact(&mut len)?;
        self.token.clear();
        self.token.extend_from_slice(&len);
        self.passed = 0;
        let len = u64::from_le_bytes(len);
        match self.state {
            State::Data(depth) => {
                self.data_left = len.checked_next_multiple_of(8).ok_or_else(malformed)?;
                self.state = State::Keyword(depth);
            }
            State::Keyword(depth) => {
                if len > KEYWORD_LEN_MAX as u64 {
                    return Err(malformed());
                }
                let mut keyword = [0; KEYWORD_LEN_MAX.next_multiple_of(8)];
                let padded = &mut keyword[..(len as usize).next_multiple_of(8)];
                self.inner.read_exact(padded)?;
                self.token.extend_from_slice(padded);
                self.state = match &padded[..len as usize] {
                    b"(" => State::Keyword(depth.checked_add(1).ok_or_else(malformed)?),
                    b")" => match depth {
                        0 => return Err(malformed()),
                        1 => State::Ended,
                        depth => State::Keyword(depth - 1),
                    },
                    b"contents" | b"executable" | b"target" | b"name" => State::Data(depth),
                    b"nix-archive-1" | b"type" | b"regular" | b"symlink" | b"directory"
                    | b"entry" | b"node" => State::Keyword(depth),
                    _ => return Err(malformed()),
                };
            }
            State::Ended => {}
            State::Broken => return Err(malformed()),
        }
        Ok(())
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "this is not a NAR")
}

impl<R: Read> Read for NarReader<'_, R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        if self.passed == self.token.len() && self.data_left == 0 {
            if self.state == State::Ended {
                return Ok(0);
            }
            self.next_token()
                .inspect_err(|_| self.state = State::Broken)?;
        }
        let token = &self.token[self.passed..];
        if !token.is_empty() {
            let len = token.len().min(bytes.len());
            bytes[..len].copy_from_slice(&token[..len]);
            self.passed += len;
            return Ok(len);
        }
        let len = self.data_left.min(bytes.len() as u64) as usize;
        match self.inner.read(&mut bytes[..len])? {
            0 => {
                self.state = State::Broken;
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            len => {
                self.data_left -= len as u64;
                Ok(len)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Writer;

    fn nar() -> Vec<u8> {
        let mut w = Writer::new();
        for text in [
            "nix-archive-1",
            "(",
            "type",
            "directory",
            "entry",
            "(",
            "name",
            ")",
            "node",
            "(",
            "type",
            "regular",
            "executable",
            "",
            "contents",
            "( \" contents",
            ")",
            ")",
            "entry",
            "(",
            "name",
            "z",
            "node",
            "(",
            "type",
            "symlink",
            "target",
            ")",
            ")",
            ")",
            ")",
        ] {
            w.bytes(text);
        }
        w.into_bytes()
    }

    #[test]
    fn the_end_of_a_nar_is_found_whatever_its_data_looks_like() {
        let mut bytes = nar();
        bytes.extend_from_slice(b"next");
        let mut rest = &bytes[..];
        let mut read = Vec::new();
        NarReader::new(&mut rest).read_to_end(&mut read).unwrap();
        assert_eq!(read, nar());
        assert_eq!(rest, b"next");
    }

    #[test]
    fn a_nar_cut_at_any_byte_is_an_error() {
        let bytes = nar();
        for len in 0..bytes.len() {
            assert!(NarReader::new(&mut &bytes[..len]).drain().is_err(), "{len}");
        }
    }

    #[test]
    fn what_is_no_nar_and_lengths_that_overflow_are_errors() {
        let mut w = Writer::new();
        w.bytes("contents").u64(u64::MAX - 2);
        for bytes in [
            b"\x01\0\0\0\0\0\0\0x\0\0\0\0\0\0\0".to_vec(),
            w.into_bytes(),
        ] {
            let err = NarReader::new(&mut &bytes[..]).drain().unwrap_err();
            assert_eq!(err.kind(), io::ErrorKind::InvalidData);
        }
    }
}
