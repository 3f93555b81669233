//! What a server answers: HTTP/1.1 (RFC 9112), as strictly as its bytes deserve.

use std::io::{self, BufRead, Read};

use flate2::read::{DeflateDecoder, ZlibDecoder};

use super::failure::{Code, Fault};
use crate::decompress::{self, Format};

/// The longest head of an answer in bytes, curl's limit for all headers together.
const HEAD_BYTES_MAX: u64 = 300 << 10;

/// The largest number of headers in an answer.
const HEADERS_MAX: usize = 1000;

/// The longest line between two chunks in bytes: a number, and extensions nobody uses.
const CHUNK_LINE_BYTES_MAX: u64 = 16 << 10;

/// How many answers that are none yet (RFC 9110, 15.2) may come before one that is.
const INTERIM_MAX: usize = 10;

/// The begin of an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub status: u16,
    headers: Vec<(String, String)>,
}

impl Head {
    /// Reads the first one that is more than a sign of life.
    pub fn read(stream: &mut impl BufRead, stalled_seconds: u64) -> Result<Self, Fault> {
        for _ in 0..INTERIM_MAX {
            let head = Self::read_one(stream, stalled_seconds)?;
            if !(100..200).contains(&head.status) {
                return Ok(head);
            }
        }
        Err(Fault::new(Code::Receive, "Too many interim responses"))
    }

    fn read_one(stream: &mut impl BufRead, stalled_seconds: u64) -> Result<Self, Fault> {
        let mut text = Vec::new();
        let mut limited = stream.take(HEAD_BYTES_MAX);
        loop {
            let before = text.len();
            let count = limited
                .read_until(b'\n', &mut text)
                .map_err(|error| Fault::reading(&error, stalled_seconds))?;
            let line = &text[before..];
            if count == 0 || !line.ends_with(b"\n") {
                return Err(match (text.is_empty(), limited.limit()) {
                    (true, _) => Fault::new(Code::Nothing, "Empty reply from server"),
                    (false, 0) => Fault::new(
                        Code::Receive,
                        format!("Too large response headers: more than {HEAD_BYTES_MAX}"),
                    ),
                    _ if !text.starts_with(b"HTTP/") => no_http(),
                    _ => Fault::new(Code::Receive, "Connection closed within the headers"),
                });
            }
            if before == 0 && !line.starts_with(b"HTTP/") {
                return Err(no_http());
            }
            if matches!(line, b"\n" | b"\r\n") {
                break;
            }
        }
        let mut headers = vec![httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Response::new(&mut headers);
        let weird = |why: String| Fault::new(Code::Receive, format!("Weird response: {why}"));
        let mut config = httparse::ParserConfig::default();
        // What a server gets wrong elsewhere is not held against the rest.
        config.ignore_invalid_headers_in_responses(true);
        config.allow_spaces_after_header_name_in_responses(true);
        match config.parse_response(&mut parsed, &text) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err(weird("cut off".into())),
            Err(error) => return Err(weird(error.to_string())),
        }
        Ok(Self {
            status: parsed.code.unwrap_or_default(),
            headers: parsed
                .headers
                .iter()
                .map(|header| {
                    let value = String::from_utf8_lossy(header.value);
                    (header.name.to_ascii_lowercase(), value.trim().to_owned())
                })
                .collect(),
        })
    }

    /// The first header of a name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let headers = self.headers.iter();
        headers
            .filter(move |(known, _)| known == name)
            .map(|(_, value)| &**value)
    }

    /// Where it sends its reader instead.
    pub fn location(&self) -> Option<&str> {
        match self.status {
            301 | 302 | 303 | 307 | 308 => self.header("location"),
            _ => None,
        }
    }

    /// Whether it is what was asked for.
    pub fn is_success(&self) -> bool {
        matches!(self.status, 200 | 201 | 204 | 206 | 304)
    }

    /// Whether the body is compressed on its way.
    pub fn is_encoded(&self) -> bool {
        !matches!(
            self.header("content-encoding"),
            None | Some("" | "identity")
        )
    }

    /// Where the part begins that this is an answer with.
    pub fn range_begin(&self) -> Option<u64> {
        let range = self.header("content-range")?.strip_prefix("bytes")?;
        range.trim_start().split('-').next()?.parse().ok()
    }

    fn framing(&self) -> Result<Framing, Fault> {
        if matches!(self.status, 204 | 304) {
            return Ok(Framing::Length(0));
        }
        let bad = |text: String| Fault::new(Code::Encoding, text);
        if let Some(encoding) = self.header("transfer-encoding") {
            return match encoding.eq_ignore_ascii_case("chunked") {
                true => Ok(Framing::Chunked(Chunk::Line)),
                false => Err(bad(format!("Unsupported transfer encoding '{encoding}'"))),
            };
        }
        let mut lengths = self.all("content-length");
        let Some(first) = lengths.next() else {
            return Ok(Framing::UntilEnd);
        };
        let is_number = !first.is_empty() && first.bytes().all(|byte| byte.is_ascii_digit());
        match first.parse() {
            Ok(length) if is_number && lengths.all(|other| other == first) => {
                Ok(Framing::Length(length))
            }
            _ => Err(Fault::new(Code::Receive, "Invalid Content-Length: value")),
        }
    }
}

fn no_http() -> Fault {
    Fault::new(Code::Protocol, "Received HTTP/0.9 when not allowed")
}

/// How the end of a body is known.
#[derive(Debug, PartialEq, Eq)]
enum Framing {
    /// So many bytes are left.
    Length(u64),
    Chunked(Chunk),
    /// By the connection's end.
    UntilEnd,
    /// It was reached.
    Done,
}

/// Where in chunks.
#[derive(Debug, PartialEq, Eq)]
enum Chunk {
    /// Before a line with a length.
    Line,
    /// So many bytes of this one are left.
    Data(u64),
    /// Before the end of a chunk's last line.
    End,
}

/// A body as it is sent. Its errors have a [`Fault`] in them.
struct Raw<R> {
    stream: R,
    framing: Framing,
    stalled_seconds: u64,
}

/// The body of an answer, without what it was wrapped in on its way.
pub fn body<'a>(
    head: &Head,
    stream: impl BufRead + 'a,
    stalled_seconds: u64,
) -> Result<Box<dyn Read + 'a>, Fault> {
    let raw = Raw {
        stream,
        framing: head.framing()?,
        stalled_seconds,
    };
    let encodings = head.header("content-encoding").unwrap_or_default();
    let mut content: Box<dyn Read + 'a> = Box::new(raw);
    if matches!(head.status, 204 | 304) {
        return Ok(content);
    }
    for encoding in encodings.rsplit(',').map(str::trim) {
        content = match &*encoding.to_ascii_lowercase() {
            "" | "identity" => content,
            "gzip" | "x-gzip" => decompress::reader(Format::Gzip, content),
            "zstd" => decompress::reader(Format::Zstd, content),
            "deflate" => Box::new(deflated(content)?),
            other => {
                let text = format!("Unrecognized content encoding type '{other}'");
                return Err(Fault::new(Code::Encoding, text));
            }
        };
    }
    Ok(content)
}

/// What servers call deflate is zlib's format, or is not (RFC 9110, 8.4.1.2).
fn deflated<'a>(mut stream: Box<dyn Read + 'a>) -> Result<Box<dyn Read + 'a>, Fault> {
    let mut begin = Vec::new();
    let read = stream.by_ref().take(2).read_to_end(&mut begin);
    read.map_err(|error| fault_of(error, 0))?;
    let is_zlib = matches!(&begin[..], [method, flags]
        if method & 0x0f == 8 && u16::from_be_bytes([*method, *flags]) % 31 == 0);
    let whole = io::Cursor::new(begin).chain(stream);
    Ok(match is_zlib {
        true => Box::new(ZlibDecoder::new(whole)),
        false => Box::new(DeflateDecoder::new(whole)),
    })
}

/// The fault in an error of a body; of one without it, that its content is malformed.
pub fn fault_of(error: io::Error, stalled_seconds: u64) -> Fault {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = error
        .get_ref()
        .map(|inner| inner as &(dyn std::error::Error + 'static));
    while let Some(error) = cause {
        if let Some(fault) = error.downcast_ref::<Fault>() {
            return fault.clone();
        }
        cause = error.source();
    }
    if error.raw_os_error().is_some() {
        return Fault::reading(&error, stalled_seconds);
    }
    let text = format!("Error while processing content unencoding: {error}");
    Fault::new(Code::Encoding, text)
}

impl<R: BufRead> Raw<R> {
    /// Reads what is there of the body, at most so many bytes.
    fn take(&mut self, buffer: &mut [u8], most: u64) -> io::Result<usize> {
        let length = buffer
            .len()
            .min(usize::try_from(most).unwrap_or(usize::MAX));
        loop {
            return match self.stream.read(&mut buffer[..length]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(Fault::reading(&error, self.stalled_seconds).into()),
                read => read,
            };
        }
    }

    fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        (&mut self.stream)
            .take(CHUNK_LINE_BYTES_MAX)
            .read_until(b'\n', &mut line)
            .map_err(|error| Fault::reading(&error, self.stalled_seconds))?;
        match line.pop() {
            Some(b'\n') => {}
            Some(_) if line.len() as u64 + 1 == CHUNK_LINE_BYTES_MAX => {
                return Err(malformed_chunk().into());
            }
            _ => return Err(partial(None).into()),
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(line)
    }
}

fn malformed_chunk() -> Fault {
    Fault::new(
        Code::Receive,
        "Illegal or missing hexadecimal sequence in chunked-encoding",
    )
}

fn partial(left: Option<u64>) -> Fault {
    let text = match left {
        Some(left) => format!("end of response with {left} bytes missing"),
        None => "transfer closed with outstanding read data remaining".to_owned(),
    };
    Fault::new(Code::Partial, text)
}

fn chunk_length(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| b"; \t".contains(byte)).next()?;
    let text = std::str::from_utf8(digits).ok()?;
    let is_hex = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| u64::from_str_radix(text, 16).ok())?
}

impl<R: BufRead> Read for Raw<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match self.framing {
                Framing::Done | Framing::Length(0) => return Ok(0),
                Framing::Length(left) => {
                    let count = self.take(buffer, left)?;
                    if count == 0 {
                        return Err(partial(Some(left)).into());
                    }
                    self.framing = Framing::Length(left - count as u64);
                    return Ok(count);
                }
                Framing::UntilEnd => {
                    let count = self.take(buffer, u64::MAX)?;
                    if count == 0 {
                        self.framing = Framing::Done;
                    }
                    return Ok(count);
                }
                Framing::Chunked(Chunk::Line) => {
                    let line = self.line()?;
                    let length = chunk_length(&line).ok_or_else(malformed_chunk)?;
                    self.framing = match length {
                        0 => {
                            let mut trailer = 0;
                            loop {
                                let line = self.line()?;
                                trailer += line.len() as u64;
                                if line.is_empty() {
                                    break;
                                }
                                if trailer > HEAD_BYTES_MAX {
                                    return Err(malformed_chunk().into());
                                }
                            }
                            Framing::Done
                        }
                        length => Framing::Chunked(Chunk::Data(length)),
                    };
                }
                Framing::Chunked(Chunk::Data(left)) => {
                    let count = self.take(buffer, left)?;
                    if count == 0 {
                        return Err(partial(None).into());
                    }
                    self.framing = Framing::Chunked(match left - count as u64 {
                        0 => Chunk::End,
                        left => Chunk::Data(left),
                    });
                    return Ok(count);
                }
                Framing::Chunked(Chunk::End) => {
                    if !self.line()?.is_empty() {
                        return Err(malformed_chunk().into());
                    }
                    self.framing = Framing::Chunked(Chunk::Line);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The status and the body of an answer, or why there is none.
    fn read(answer: &[u8]) -> Result<(u16, String), Fault> {
        let mut stream = answer;
        let head = Head::read(&mut stream, 9)?;
        let mut text = String::new();
        body(&head, stream, 9)?
            .read_to_string(&mut text)
            .map_err(|error| fault_of(error, 9))?;
        Ok((head.status, text))
    }

    #[rstest::rstest]
    #[case::length("200 OK\r\nContent-Length: 4\r\n\r\nbodyrest", "body")]
    #[case::same_length_twice(
        "200 OK\r\nContent-Length: 4\r\ncontent-length: 4\r\n\r\nbody",
        "body"
    )]
    #[case::until_the_end("200 OK\r\n\r\nbody", "body")]
    #[case::chunks(
        "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nbo\r\n02\r\ndy\r\n0\r\nTrailer: x\r\n\r\nrest",
        "body"
    )]
    #[case::chunks_win(
        "200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        "body"
    )]
    #[case::no_content("204 No Content\r\nContent-Length: 4\r\n\r\n", "")]
    #[case::no_reason("200\r\nContent-Length: 0\r\n\r\n", "")]
    #[case::bare_lines("200 OK\nContent-Length: 4\n\nbody", "body")]
    #[case::bad_header("200 OK\r\nA B: c\r\n: d\r\nContent-Length : 4\r\n\r\nbody", "body")]
    #[case::interim(
        "103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
        "body"
    )]
    fn bodies(#[case] answer: &str, #[case] expected: &str) {
        let (_, text) = read(format!("HTTP/1.1 {answer}").as_bytes()).unwrap();
        assert_eq!(text, expected);
    }

    #[rstest::rstest]
    #[case::nothing("", Code::Nothing)]
    #[case::no_http("220 ftp\r\n\r\n", Code::Protocol)]
    #[case::no_http_and_no_line("\0\0\0", Code::Protocol)]
    #[case::half_a_head("HTTP/1.1 200 OK\r\nContent", Code::Receive)]
    #[case::bad_status("HTTP/1.1 abc OK\r\n\r\n", Code::Receive)]
    #[case::half_a_body("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nbody", Code::Partial)]
    #[case::bad_length("HTTP/1.1 200 OK\r\nContent-Length: +4\r\n\r\nbody", Code::Receive)]
    #[case::two_lengths(
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 3\r\n\r\nbody",
        Code::Receive
    )]
    #[case::bad_chunk(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        Code::Receive
    )]
    #[case::huge_chunk(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\n",
        Code::Receive
    )]
    #[case::long_chunk(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nbody\r\n0\r\n\r\n",
        Code::Receive
    )]
    #[case::half_a_chunk(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbody",
        Code::Partial
    )]
    #[case::no_last_chunk(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n",
        Code::Partial
    )]
    #[case::other_encoding(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        Code::Encoding
    )]
    #[case::unknown_content("HTTP/1.1 200 OK\r\nContent-Encoding: br\r\n\r\n", Code::Encoding)]
    #[case::no_gzip(
        "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nthis is no gzip",
        Code::Encoding
    )]
    fn malformed_answers_are_faults(#[case] answer: &str, #[case] code: Code) {
        assert_eq!(read(answer.as_bytes()).unwrap_err().code, code);
    }

    #[test]
    fn heads_have_limits() {
        let long = format!("HTTP/1.1 200 OK\r\n{}", "X: y\r\n".repeat(100_000));
        assert!(
            read(long.as_bytes())
                .unwrap_err()
                .detail
                .starts_with("Too large")
        );
        let many = format!(
            "HTTP/1.1 200 OK\r\n{}\r\n",
            "X:y\r\n".repeat(HEADERS_MAX + 1)
        );
        assert!(
            read(many.as_bytes())
                .unwrap_err()
                .detail
                .starts_with("Weird response")
        );
        let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(INTERIM_MAX + 1);
        assert!(
            read(interim.as_bytes())
                .unwrap_err()
                .detail
                .starts_with("Too many")
        );
        let line = "x".repeat(CHUNK_LINE_BYTES_MAX as usize);
        let chunk = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;{line}\r\n");
        assert_eq!(read(chunk.as_bytes()).unwrap_err().code, Code::Receive);
    }

    #[test]
    fn encoded_bodies_are_decoded_and_those_that_are_cut_off_are_partial() {
        use std::io::Write;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"body").unwrap();
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        zlib.write_all(b"body").unwrap();
        let mut raw = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        raw.write_all(b"body").unwrap();
        for (name, bytes) in [
            ("gzip", gzip.finish().unwrap()),
            ("X-GZip", {
                let mut gzip =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gzip.write_all(b"body").unwrap();
                gzip.finish().unwrap()
            }),
            ("deflate", zlib.finish().unwrap()),
            ("deflate", raw.finish().unwrap()),
        ] {
            let length = bytes.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Encoding: {name}\r\nContent-Length: {length}\r\n\r\n"
            );
            let answer = [head.as_bytes(), &bytes].concat();
            assert_eq!(read(&answer).unwrap().1, "body", "{name}");
            let cut = read(&answer[..answer.len() - 1]).unwrap_err();
            assert_eq!(cut.code, Code::Partial, "{name}");
        }
    }

    #[test]
    fn parts_tell_where_they_begin() {
        let mut answer = &b"HTTP/1.1 206 Part\r\nContent-Range: bytes 17-20/21\r\n\r\n"[..];
        assert_eq!(Head::read(&mut answer, 9).unwrap().range_begin(), Some(17));
    }
}
