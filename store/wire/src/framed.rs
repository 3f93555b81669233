//! Framed streams: chunks of raw bytes, each after its length, ended by 0.
//!
//! Source: nix `src/libutil/include/nix/util/serialise.hh`, `FramedSource`.

use std::io::{self, Read, Write};

/// The longest chunk that is sent.
const CHUNK_LEN: usize = 64 << 10;

/// Reads a framed stream; its end is the end of this reader.
///
/// A chunk may announce any length: nothing is allocated for it. Who stops
/// before the end calls [`drain`](Self::drain), else the connection is out of
/// step.
pub struct FramedReader<'a, R: Read> {
    inner: &'a mut R,
    chunk_left: u64,
    ended: bool,
    broken: bool,
}

impl<'a, R: Read> FramedReader<'a, R> {
    /// A reader at the first chunk's length.
    pub fn new(inner: &'a mut R) -> Self {
        Self {
            inner,
            chunk_left: 0,
            ended: false,
            broken: false,
        }
    }

    /// Reads and forgets what is left of the stream.
    pub fn drain(&mut self) -> io::Result<()> {
        if self.broken {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        io::copy(self, &mut io::sink()).map(|_| ())
    }
}

impl<R: Read> Read for FramedReader<'_, R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if bytes.is_empty() || self.ended {
            return Ok(0);
        }
        if self.chunk_left == 0 {
            let mut len = [0; 8];
            self.inner
                .read_exact(&mut len)
                .inspect_err(|_| self.broken = true)?;
            self.chunk_left = u64::from_le_bytes(len);
            if self.chunk_left == 0 {
                self.ended = true;
                return Ok(0);
            }
        }
        let len = (bytes.len() as u64).min(self.chunk_left) as usize;
        match self.inner.read(&mut bytes[..len]) {
            Ok(0) => {
                self.broken = true;
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            Ok(len) => {
                self.chunk_left -= len as u64;
                Ok(len)
            }
            Err(err) => {
                self.broken = err.kind() != io::ErrorKind::Interrupted;
                Err(err)
            }
        }
    }
}

/// Writes a framed stream.
pub struct FramedWriter<W: Write> {
    inner: W,
    chunk: Vec<u8>,
}

impl<W: Write> FramedWriter<W> {
    /// A writer of a stream that is empty so far.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            chunk: Vec::new(),
        }
    }

    fn send(&mut self) -> io::Result<()> {
        if !self.chunk.is_empty() {
            self.inner
                .write_all(&(self.chunk.len() as u64).to_le_bytes())?;
            self.inner.write_all(&self.chunk)?;
            self.chunk.clear();
        }
        Ok(())
    }

    /// Writes the end of the stream.
    pub fn finish(mut self) -> io::Result<W> {
        self.send()?;
        self.inner.write_all(&[0; 8])?;
        self.inner.flush()?;
        Ok(self.inner)
    }
}

impl<W: Write> Write for FramedWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(CHUNK_LEN - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..len]);
        if self.chunk.len() == CHUNK_LEN {
            self.send()?;
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()?;
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_framed_stream_comes_back_and_ends_where_it_ends(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..10),
        ) {
            let mut writer = FramedWriter::new(Vec::new());
            for piece in &pieces {
                writer.write_all(piece).unwrap();
                writer.flush().unwrap();
            }
            let mut bytes = writer.finish().unwrap();
            bytes.push(42);
            let mut rest = &bytes[..];
            let mut read = Vec::new();
            FramedReader::new(&mut rest).read_to_end(&mut read).unwrap();
            prop_assert_eq!(read, pieces.concat());
            prop_assert_eq!(rest, &[42][..]);
        }
    }

    #[test]
    fn a_chunk_of_announced_2_to_the_64_minus_8_bytes_ends_with_the_connection() {
        let mut bytes = (u64::MAX - 7).to_le_bytes().to_vec();
        bytes.extend_from_slice(b"only this");
        let mut rest = &bytes[..];
        let mut reader = FramedReader::new(&mut rest);
        let mut read = Vec::new();
        let err = reader.read_to_end(&mut read).unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(read, b"only this");
        assert!(reader.drain().is_err());
    }
}
