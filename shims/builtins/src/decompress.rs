//! Compressed streams.

use std::io::{self, BufRead, BufReader, Read};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::StreamingDecoder;

/// How much is read ahead.
const BUFFER_BYTES: usize = 64 << 10;

/// The formats, by what they begin with.
const MAGICS: &[(&[u8], Format)] = &[
    (b"\x1f\x8b", Format::Gzip),
    (b"BZh", Format::Bzip2),
    (b"\xfd7zXZ\0", Format::Xz),
    (b"\x28\xb5\x2f\xfd", Format::Zstd),
];

/// The longest of them.
const MAGIC_BYTES: usize = 6;

/// A compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// RFC 1952, of any number of members.
    Gzip,
    /// Of any number of streams.
    Bzip2,
    /// Of any number of streams.
    Xz,
    /// RFC 8878, of any number of frames.
    Zstd,
}

/// The content of a stream in this format.
pub fn reader<'a>(format: Format, stream: impl Read + 'a) -> Box<dyn Read + 'a> {
    let buffered = BufReader::with_capacity(BUFFER_BYTES, stream);
    match format {
        Format::Gzip => Box::new(MultiGzDecoder::new(buffered)),
        Format::Bzip2 => Box::new(MultiBzDecoder::new(buffered)),
        Format::Xz => Box::new(XzReader::new(buffered, true)),
        Format::Zstd => Box::new(Frames::new(buffered)),
    }
}

/// The content of a stream in whatever format its first bytes tell; that of none is itself.
pub fn guess<'a>(mut stream: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut begin = Vec::with_capacity(MAGIC_BYTES);
    stream
        .by_ref()
        .take(MAGIC_BYTES as u64)
        .read_to_end(&mut begin)?;
    let format = MAGICS.iter().find(|(magic, _)| begin.starts_with(magic));
    let whole = io::Cursor::new(begin).chain(stream);
    Ok(match format {
        Some((_, format)) => reader(*format, whole),
        None => Box::new(BufReader::with_capacity(BUFFER_BYTES, whole)),
    })
}

/// Frames of zstd, one after the other.
struct Frames<R: BufRead> {
    frame: Option<StreamingDecoder<R, ruzstd::decoding::FrameDecoder>>,
    /// The stream between two frames.
    rest: Option<R>,
}

impl<R: BufRead> Frames<R> {
    fn new(stream: R) -> Self {
        Self {
            frame: None,
            rest: Some(stream),
        }
    }
}

/// The magic numbers of frames without content (RFC 8878, 3.1.2), but for the last four bits.
const SKIPPABLE: u32 = 0x184d_2a50;

/// Skips frames without content; whether there is another one.
fn find_frame(stream: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let begin = stream.fill_buf()?;
        if begin.is_empty() {
            return Ok(false);
        }
        // A magic number that lies across the buffer's end is the decoder's to read.
        let Some(magic) = begin.first_chunk::<4>() else {
            return Ok(true);
        };
        if u32::from_le_bytes(*magic) & !0xf != SKIPPABLE {
            return Ok(true);
        }
        let mut head = [0; 8];
        stream.read_exact(&mut head)?;
        let [.., a, b, c, d] = head;
        let length = u64::from(u32::from_le_bytes([a, b, c, d]));
        if io::copy(&mut stream.by_ref().take(length), &mut io::sink())? < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if let Some(frame) = &mut self.frame {
                let count = frame.read(buffer)?;
                if count > 0 {
                    return Ok(count);
                }
                let told = frame.decoder.get_checksum_from_data();
                if told.is_some() && told != frame.decoder.get_calculated_checksum() {
                    let why = "a zstd frame's checksum is wrong";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, why));
                }
                self.rest = self.frame.take().map(StreamingDecoder::into_inner);
            }
            let Some(rest) = &mut self.rest else {
                return Ok(0);
            };
            if !find_frame(rest)? {
                return Ok(0);
            }
            let Some(rest) = self.rest.take() else {
                return Ok(0);
            };
            self.frame = Some(StreamingDecoder::new(rest).map_err(io::Error::other)?);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // `printf 'hello\n' | gzip -n` and the like, twice each: the content is two lines.
    const GZIP: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xcb\x48\xcd\xc9\xc9\xe7\x02\x00\x20\x30\x3a\x36\x06\x00\x00\x00";
    const BZIP2: &[u8] = b"BZh91AY&SY\xc1\xc0\x80\xe2\x00\x00\x01\x41\x00\x00\x10\x02\x44\xa0\x00\x30\xcd\x00\xc3\x46\x29\x97\x17\x72\x45\x38\x50\x90\xc1\xc0\x80\xe2";
    const XZ: &[u8] = b"\xfd\x37\x7a\x58\x5a\x00\x00\x04\xe6\xd6\xb4\x46\x02\x00\x21\x01\x16\x00\x00\x00\x74\x2f\xe5\xa3\x01\x00\x05\x68\x65\x6c\x6c\x6f\x0a\x00\x00\x00\xa5\x60\x97\xf1\x94\xf6\xfd\xe0\x00\x01\x1e\x06\xc1\x2f\xa4\x1d\x1f\xb6\xf3\x7d\x01\x00\x00\x00\x00\x04\x59\x5a";
    const ZSTD: &[u8] =
        b"\x28\xb5\x2f\xfd\x04\x58\x31\x00\x00\x68\x65\x6c\x6c\x6f\x0a\x53\x88\xbd\x91";

    #[rstest::rstest]
    #[case::gzip(GZIP, Format::Gzip)]
    #[case::bzip2(BZIP2, Format::Bzip2)]
    #[case::xz(XZ, Format::Xz)]
    #[case::zstd(ZSTD, Format::Zstd)]
    fn each_format_is_told_by_its_beginning_and_read_to_its_end(
        #[case] stream: &[u8],
        #[case] format: Format,
    ) {
        let twice = [stream, stream].concat();
        let mut text = String::new();
        guess(&twice[..])
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "hello\nhello\n");
        let half = &stream[..stream.len() - 5];
        let error = reader(format, half).read_to_end(&mut Vec::new());
        assert!(error.is_err(), "half a stream has no end");
        let mut wrong = stream.to_vec();
        // The text itself, or what stands for it: its last line's end.
        let at = wrong.iter().rposition(|byte| *byte == b'h').unwrap_or(12);
        wrong[at] ^= 1;
        let error = reader(format, &wrong[..]).read_to_end(&mut Vec::new());
        assert!(error.is_err(), "checksums are looked at");
    }

    #[test]
    fn what_is_not_compressed_is_itself() {
        for text in ["", "BZ", "hello\n"] {
            let mut read = String::new();
            guess(text.as_bytes())
                .unwrap()
                .read_to_string(&mut read)
                .unwrap();
            assert_eq!(read, text);
        }
    }

    #[test]
    fn frames_without_content_are_skipped() {
        let skippable = b"\x51\x2a\x4d\x18\x03\0\0\0abc";
        let stream = [ZSTD, skippable, ZSTD, skippable].concat();
        let mut text = String::new();
        reader(Format::Zstd, &stream[..])
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "hello\nhello\n");
        let cut = [ZSTD, &skippable[..9]].concat();
        assert!(
            reader(Format::Zstd, &cut[..])
                .read_to_end(&mut Vec::new())
                .is_err()
        );
    }
}
