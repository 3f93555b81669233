//! The parser: bytes in, nodes out, no I/O of its own.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;

use crate::{BUFFER_LEN, DEPTH_MAX, NAME_LEN_MAX, NarError, TAG_LEN_MAX, TARGET_LEN_MAX};

/// What a parser tells of an archive, in its order.
///
/// A name is that of an entry in the directory entered last; the root's is empty.
pub(crate) trait Nodes {
    /// A directory begins.
    fn enter_directory(&mut self, name: &OsStr) -> Result<(), NarError>;
    /// The directory entered last is complete.
    fn leave_directory(&mut self) -> Result<(), NarError>;
    /// A regular file of so many bytes begins.
    fn begin_file(&mut self, name: &OsStr, executable: bool, size: u64) -> Result<(), NarError>;
    /// More of its content.
    fn file_content(&mut self, bytes: &[u8]) -> Result<(), NarError>;
    /// It is complete.
    fn end_file(&mut self) -> Result<(), NarError>;
    /// A symbolic link.
    fn symlink(&mut self, name: &OsStr, target: &[u8]) -> Result<(), NarError>;
}

/// Nodes nobody wants: the archive is only checked.
struct Discard;

impl Nodes for Discard {
    fn enter_directory(&mut self, _name: &OsStr) -> Result<(), NarError> {
        Ok(())
    }
    fn leave_directory(&mut self) -> Result<(), NarError> {
        Ok(())
    }
    fn begin_file(&mut self, _: &OsStr, _executable: bool, _size: u64) -> Result<(), NarError> {
        Ok(())
    }
    fn file_content(&mut self, _bytes: &[u8]) -> Result<(), NarError> {
        Ok(())
    }
    fn end_file(&mut self) -> Result<(), NarError> {
        Ok(())
    }
    fn symlink(&mut self, _name: &OsStr, _target: &[u8]) -> Result<(), NarError> {
        Ok(())
    }
}

/// Reads one NAR, checks it and writes the same bytes on; the count of bytes.
///
/// Not a byte more than the archive is taken from the reader, in many small
/// reads: give it one that has a buffer.
pub fn copy(reader: &mut dyn Read, writer: &mut dyn Write) -> Result<u64, NarError> {
    pull(reader, &mut Discard, Some(writer))
}

/// Drives a parser from a reader, passing the bytes on to `copy` as well.
pub(crate) fn pull(
    reader: &mut dyn Read,
    nodes: &mut dyn Nodes,
    mut copy: Option<&mut dyn Write>,
) -> Result<u64, NarError> {
    let mut parser = Parser::new();
    let mut buffer = vec![0; BUFFER_LEN];
    while !parser.is_done() {
        let wanted = parser.wanted().min(BUFFER_LEN as u64) as usize;
        let count = match reader.read(&mut buffer[..wanted]) {
            Ok(0) => return Err(parser.end_of_input()),
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(NarError::Read(error)),
        };
        parser.feed(&buffer[..count], nodes)?;
        if let Some(copy) = &mut copy {
            copy.write_all(&buffer[..count])
                .map_err(NarError::from_sink)?;
        }
    }
    Ok(parser.offset)
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Magic,
    NodeOpen,
    Type,
    Kind,
    /// `executable` or `contents`.
    FileTag,
    ExecutableValue,
    /// `contents` after `executable`.
    ContentsTag,
    ContentsLen {
        executable: bool,
    },
    Content {
        left: u64,
        padding: u8,
    },
    ContentPadding(u8),
    /// `)` of a file or symbolic link.
    NodeClose,
    TargetTag,
    Target,
    /// `entry`, or `)` of the directory.
    EntryOrClose,
    EntryOpen,
    NameTag,
    Name,
    NodeTag,
    /// `)` of the entry.
    EntryClose,
    Done,
}

impl State {
    /// The longest word allowed here.
    fn word_len_max(self) -> usize {
        match self {
            Self::Name => NAME_LEN_MAX,
            Self::Target => TARGET_LEN_MAX,
            _ => TAG_LEN_MAX,
        }
    }
}

/// The parser's state between two pieces of an archive.
pub(crate) struct Parser {
    state: State,
    /// Bytes taken so far.
    offset: u64,
    /// The begin of a word, number or padding that is not complete yet.
    pending: Vec<u8>,
    /// How long `pending` must become.
    need: usize,
    /// For each directory entered, the last name in it.
    names: Vec<Vec<u8>>,
}

impl Parser {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Magic,
            offset: 0,
            pending: Vec::with_capacity(8 + NAME_LEN_MAX + 1),
            need: 8,
            names: Vec::new(),
        }
    }

    /// Whether the archive is complete.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// How many bytes certainly still belong to the archive.
    fn wanted(&self) -> u64 {
        match self.state {
            State::Done => 0,
            State::Content { left, padding } => left.saturating_add(u64::from(padding)),
            _ => (self.need - self.pending.len()) as u64,
        }
    }

    /// The error of a stream that ends here.
    pub(crate) fn end_of_input(&self) -> NarError {
        NarError::UnexpectedEnd {
            offset: self.offset,
        }
    }

    pub(crate) fn malformed(&self, reason: impl Into<String>) -> NarError {
        NarError::Malformed {
            offset: self.offset,
            reason: reason.into(),
        }
    }

    /// Takes bytes up to the archive's end at most; how many.
    pub(crate) fn feed(&mut self, bytes: &[u8], nodes: &mut dyn Nodes) -> Result<usize, NarError> {
        let mut rest = bytes;
        while !rest.is_empty() && self.state != State::Done {
            if let State::Content { left, padding } = self.state {
                let count = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
                nodes.file_content(&rest[..count])?;
                self.offset += count as u64;
                rest = &rest[count..];
                let left = left - count as u64;
                if left == 0 {
                    nodes.end_file()?;
                    self.expect_padding(padding);
                } else {
                    self.state = State::Content { left, padding };
                }
                continue;
            }
            let count = (self.need - self.pending.len()).min(rest.len());
            self.pending.extend_from_slice(&rest[..count]);
            self.offset += count as u64;
            rest = &rest[count..];
            if self.pending.len() == self.need {
                self.complete(nodes)?;
            }
        }
        Ok(bytes.len() - rest.len())
    }

    fn expect(&mut self, state: State) {
        self.state = state;
        self.need = 8;
    }

    fn expect_padding(&mut self, padding: u8) {
        if padding == 0 {
            self.expect(State::NodeClose);
        } else {
            self.state = State::ContentPadding(padding);
            self.need = usize::from(padding);
        }
    }

    /// `pending` has the length that was needed.
    fn complete(&mut self, nodes: &mut dyn Nodes) -> Result<(), NarError> {
        if let State::ContentPadding(_) = self.state {
            self.check_zero(0)?;
            self.pending.clear();
            self.expect(State::NodeClose);
            return Ok(());
        }
        let len = u64::from_le_bytes(
            self.pending[..8]
                .try_into()
                .expect("a length was waited for"),
        );
        if let State::ContentsLen { executable } = self.state {
            // What no file can have is refused before the padding is computed.
            if i64::try_from(len).is_err() {
                return Err(self.malformed(format!("a file of {len} bytes")));
            }
            self.pending.clear();
            let padding = (len.wrapping_neg() % 8) as u8;
            nodes.begin_file(self.name(), executable, len)?;
            if len == 0 {
                nodes.end_file()?;
                self.expect_padding(padding);
            } else {
                self.state = State::Content { left: len, padding };
            }
            return Ok(());
        }
        let max = self.state.word_len_max();
        let len = match usize::try_from(len) {
            Ok(len) if len <= max => len,
            _ => {
                return Err(self.malformed(format!("a word of {len} bytes, more than {max}")));
            }
        };
        let padded = 8 + len.next_multiple_of(8);
        if self.pending.len() < padded {
            self.need = padded;
            return Ok(());
        }
        self.check_zero(8 + len)?;
        // Taken out for the time of the call, to keep its memory.
        let mut pending = std::mem::take(&mut self.pending);
        let result = self.word(&pending[8..8 + len], nodes);
        pending.clear();
        self.pending = pending;
        result
    }

    fn check_zero(&self, from: usize) -> Result<(), NarError> {
        if self.pending[from..].iter().any(|byte| *byte != 0) {
            return Err(self.malformed("padding that is not zero"));
        }
        Ok(())
    }

    fn require(&self, word: &[u8], wanted: &str) -> Result<(), NarError> {
        if word == wanted.as_bytes() {
            return Ok(());
        }
        Err(self.unexpected(word, wanted))
    }

    fn unexpected(&self, word: &[u8], wanted: &str) -> NarError {
        self.malformed(format!(
            "expected `{wanted}`, found `{}`",
            word.escape_ascii()
        ))
    }

    /// The name of the node that is being parsed; empty for the root.
    fn name(&self) -> &OsStr {
        OsStr::from_bytes(self.names.last().map_or(&[], |name| name))
    }

    fn word(&mut self, word: &[u8], nodes: &mut dyn Nodes) -> Result<(), NarError> {
        let tag = |parser: &mut Self, wanted, next| {
            parser.require(word, wanted)?;
            parser.expect(next);
            Ok(())
        };
        match self.state {
            State::Magic => tag(self, "nix-archive-1", State::NodeOpen),
            State::NodeOpen => tag(self, "(", State::Type),
            State::Type => tag(self, "type", State::Kind),
            State::Kind if self.names.len() == DEPTH_MAX => Err(self.malformed(format!(
                "NAR directory nesting exceeds maximum depth of {DEPTH_MAX}"
            ))),
            State::Kind => match word {
                b"regular" => {
                    self.expect(State::FileTag);
                    Ok(())
                }
                b"symlink" => {
                    self.expect(State::TargetTag);
                    Ok(())
                }
                b"directory" => {
                    nodes.enter_directory(self.name())?;
                    self.names.push(Vec::new());
                    self.expect(State::EntryOrClose);
                    Ok(())
                }
                _ => Err(self.unexpected(word, "regular`, `symlink` or `directory")),
            },
            State::FileTag => match word {
                b"executable" => {
                    self.expect(State::ExecutableValue);
                    Ok(())
                }
                b"contents" => {
                    self.expect(State::ContentsLen { executable: false });
                    Ok(())
                }
                _ => Err(self.unexpected(word, "executable` or `contents")),
            },
            State::ExecutableValue => tag(self, "", State::ContentsTag),
            State::ContentsTag => tag(self, "contents", State::ContentsLen { executable: true }),
            State::TargetTag => tag(self, "target", State::Target),
            State::Target => {
                if word.is_empty() || word.contains(&0) {
                    return Err(self.malformed("a link's target that is empty or has a zero byte"));
                }
                self.expect(State::NodeClose);
                nodes.symlink(self.name(), word)
            }
            State::NodeClose => {
                self.require(word, ")")?;
                self.node_done();
                Ok(())
            }
            State::EntryOrClose => match word {
                b"entry" => {
                    self.expect(State::EntryOpen);
                    Ok(())
                }
                b")" => {
                    self.names.pop();
                    self.node_done();
                    nodes.leave_directory()
                }
                _ => Err(self.unexpected(word, "entry` or `)")),
            },
            State::EntryOpen => tag(self, "(", State::NameTag),
            State::NameTag => tag(self, "name", State::Name),
            State::Name => {
                if word.is_empty()
                    || word == b"."
                    || word == b".."
                    || word.contains(&b'/')
                    || word.contains(&0)
                {
                    return Err(
                        self.malformed(format!("the name `{}` of an entry", word.escape_ascii()))
                    );
                }
                let last = self.names.last_mut().expect("a name is in a directory");
                if word <= &last[..] {
                    let (last, word) = (last.escape_ascii().to_string(), word.escape_ascii());
                    return Err(self.malformed(format!("the name `{word}` after `{last}`")));
                }
                last.clear();
                last.extend_from_slice(word);
                self.expect(State::NodeTag);
                Ok(())
            }
            State::NodeTag => tag(self, "node", State::NodeOpen),
            State::EntryClose => tag(self, ")", State::EntryOrClose),
            State::ContentsLen { .. }
            | State::Content { .. }
            | State::ContentPadding(_)
            | State::Done => {
                unreachable!("no word is waited for")
            }
        }
    }

    fn node_done(&mut self) {
        if self.names.is_empty() {
            self.state = State::Done;
        } else {
            self.expect(State::EntryClose);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &[u8]) -> Vec<u8> {
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(text);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    fn words(words: &[&[u8]]) -> Vec<u8> {
        words.iter().flat_map(|text| word(text)).collect()
    }

    fn check(nar: &[u8]) -> Result<u64, NarError> {
        copy(&mut &*nar, &mut std::io::sink())
    }

    fn nar(parts: &[&[u8]]) -> Vec<u8> {
        let mut all: Vec<&[u8]> = vec![b"nix-archive-1"];
        all.extend_from_slice(parts);
        words(&all)
    }

    const FILE: [&[u8]; 6] = [b"(", b"type", b"regular", b"contents", b"x", b")"];

    fn directory(names: &[&[u8]]) -> Vec<u8> {
        let mut parts: Vec<&[u8]> = vec![b"(", b"type", b"directory"];
        for name in names {
            parts.extend_from_slice(&[b"entry", b"(", b"name", name, b"node"]);
            parts.extend_from_slice(&FILE);
            parts.push(b")");
        }
        parts.push(b")");
        nar(&parts)
    }

    fn nested(depth: usize) -> Vec<u8> {
        let mut parts: Vec<&[u8]> = Vec::new();
        for _ in 1..depth {
            parts.extend_from_slice(&[
                b"(",
                b"type",
                b"directory",
                b"entry",
                b"(",
                b"name",
                b"d",
                b"node",
            ]);
        }
        parts.extend_from_slice(&[b"(", b"type", b"directory", b")"]);
        for _ in 1..depth {
            parts.extend_from_slice(&[b")", b")"]);
        }
        nar(&parts)
    }

    #[test]
    fn what_follows_an_archive_is_left_in_the_reader() {
        let mut bytes = nar(&FILE);
        let len = bytes.len() as u64;
        bytes.extend_from_slice(b"rest");
        let mut reader = &bytes[..];
        assert_eq!(copy(&mut reader, &mut std::io::sink()).unwrap(), len);
        assert_eq!(reader, b"rest");
    }

    #[test]
    fn every_truncation_is_an_error_and_no_panic() {
        let bytes = directory(&[b"a", b"b"]);
        assert!(check(&bytes).is_ok());
        for len in 0..bytes.len() {
            let error = check(&bytes[..len]).unwrap_err();
            assert!(
                matches!(error, NarError::UnexpectedEnd { offset } if offset == len as u64),
                "{len}: {error}"
            );
        }
    }

    #[test]
    fn every_changed_byte_outside_a_name_or_content_is_an_error() {
        let bytes = directory(&[b"abc"]);
        let mut accepted = 0;
        for i in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[i] ^= 1 << bit;
                accepted += u32::from(check(&changed).is_ok());
            }
        }
        // 4 bytes of name and content (no letter of the name is one bit away from
        // `/` or zero), and a content of 1 byte that becomes one of 3 or 5.
        assert_eq!(accepted, 4 * 8 + 2);
    }

    #[test]
    fn depth_is_limited_as_in_nix() {
        assert!(check(&nested(DEPTH_MAX)).is_ok());
        let error = check(&nested(DEPTH_MAX + 1)).unwrap_err().to_string();
        assert!(error.contains("maximum depth of 64"), "{error}");
    }

    #[test]
    fn names_that_lead_elsewhere_or_are_not_sorted_are_refused() {
        let long = [b'x'; NAME_LEN_MAX + 1];
        let bad: [&[&[u8]]; 9] = [
            &[b""],
            &[b"."],
            &[b".."],
            &[b"a/b"],
            &[b"/"],
            &[b"a\0"],
            &[b"b", b"a"],
            &[b"a", b"a"],
            &[&long],
        ];
        for names in bad {
            assert!(check(&directory(names)).is_err(), "{names:?}");
        }
        assert!(check(&directory(&[b"\xff\xfe"])).is_ok());
        assert!(check(&directory(&[&long[1..]])).is_ok());
        assert!(check(&directory(&[b"A", b"a", b"a.b", b"ab"])).is_ok());
    }

    #[test]
    fn targets_are_bounded() {
        let link = |target: &[u8]| {
            check(&nar(&[b"(", b"type", b"symlink", b"target", target, b")"])).is_ok()
        };
        assert!(link(b"x"));
        assert!(link(&[b'x'; TARGET_LEN_MAX]));
        assert!(!link(b""));
        assert!(!link(b"a\0b"));
        assert!(!link(&[b'x'; TARGET_LEN_MAX + 1]));
    }

    #[test]
    fn announced_lengths_are_neither_believed_nor_allocated() {
        for len in [u64::MAX, u64::MAX - 7, 1 << 63, (1 << 63) - 1, 1 << 40] {
            let mut bytes = nar(&[b"(", b"type", b"regular", b"contents"]);
            bytes.extend_from_slice(&len.to_le_bytes());
            bytes.extend_from_slice(b"short");
            assert!(check(&bytes).is_err(), "{len}");
            let mut bytes = nar(&[b"(", b"type"]);
            bytes.extend_from_slice(&len.to_le_bytes());
            assert!(check(&bytes).is_err(), "{len}");
        }
    }

    #[test]
    fn padding_must_be_zero() {
        let mut bytes = nar(&FILE);
        let end = bytes.len();
        // Before the last word, 16 bytes, is the padding of the content.
        bytes[end - 17] = 1;
        let error = check(&bytes).unwrap_err().to_string();
        assert!(error.contains("padding"), "{error}");
    }

    #[test]
    fn archives_the_writer_never_writes_are_refused() {
        let bad: [&[&[u8]]; 7] = [
            &[b"(", b"type", b"regular", b")"],
            &[
                b"(",
                b"type",
                b"regular",
                b"executable",
                b"x",
                b"contents",
                b"",
                b")",
            ],
            &[
                b"(",
                b"type",
                b"regular",
                b"contents",
                b"",
                b"contents",
                b"",
                b")",
            ],
            &[b"(", b"type", b"regular", b"type", b"symlink", b")"],
            &[b"(", b"type", b"fifo", b")"],
            &[b"(", b"type", b"symlink", b")"],
            &[b"(", b"contents", b"x", b"type", b"regular", b")"],
        ];
        for parts in bad {
            assert!(check(&nar(parts)).is_err(), "{parts:?}");
        }
        assert!(check(&word(b"nix-archive-2")).is_err());
    }
}
