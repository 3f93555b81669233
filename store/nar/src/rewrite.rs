//! Replacing strings in a stream by others of the same length.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;

use store_types::{Hash, HashAlgorithm};

use crate::{HashPart, Hasher, NarError, RestoreWriter, Tee, dump};

/// How many places [`HashModuloVariant::WithOffsets`] remembers, 8 bytes each.
const OFFSETS_MAX: usize = 1 << 24;

/// A sink that replaces strings by others of the same length, wherever the stream
/// is cut into pieces, and passes the result on.
///
/// All strings to be replaced have one length. Places do not overlap, the
/// leftmost counts, and what was put in is not searched again. Call
/// [`finish`](Self::finish): the last bytes are held back until then.
pub struct RewritingWriter<W: Write> {
    rules: Vec<(Vec<u8>, Vec<u8>)>,
    /// The length of the strings; 0 if there are none.
    len: usize,
    /// For each byte, how far a window that ends in it may move.
    shift: Box<[usize; 256]>,
    buffer: Vec<u8>,
    /// The offset in the stream of the buffer's begin.
    position: u64,
    count: u64,
    offsets: Option<Vec<u64>>,
    inner: W,
}

impl<W: Write> RewritingWriter<W> {
    /// A sink before `inner` that makes the second of each pair of the first.
    ///
    /// # Panics
    ///
    /// If the strings are empty or not all of one length.
    pub fn new(rules: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>, inner: W) -> Self {
        let rules: Vec<_> = rules.into_iter().collect();
        let len = rules.first().map_or(0, |(from, _)| from.len());
        for (from, to) in &rules {
            assert!(
                from.len() == len && to.len() == len && len > 0,
                "strings that replace one another have one length"
            );
        }
        let mut shift = Box::new([len; 256]);
        for (from, _) in &rules {
            for (i, byte) in from.iter().enumerate() {
                let distance = &mut shift[usize::from(*byte)];
                *distance = (*distance).min(len - 1 - i);
            }
        }
        Self {
            rules,
            len,
            shift,
            buffer: Vec::new(),
            position: 0,
            count: 0,
            offsets: None,
            inner,
        }
    }

    fn recording_offsets(mut self) -> Self {
        self.offsets = Some(Vec::new());
        self
    }

    /// How many places were rewritten so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Passes on the last bytes; the inner sink and how many places there were.
    pub fn finish(mut self) -> io::Result<(W, u64)> {
        self.inner.write_all(&self.buffer)?;
        Ok((self.inner, self.count))
    }

    fn search(&mut self) -> io::Result<usize> {
        let mut start = 0;
        while start + self.len <= self.buffer.len() {
            let end = start + self.len;
            let distance = self.shift[usize::from(self.buffer[end - 1])];
            if distance > 0 {
                start += distance;
                continue;
            }
            let window = &mut self.buffer[start..end];
            let Some((_, to)) = self.rules.iter().find(|(from, _)| window == &from[..]) else {
                start += 1;
                continue;
            };
            window.copy_from_slice(to);
            self.count += 1;
            if let Some(offsets) = &mut self.offsets {
                if offsets.len() == OFFSETS_MAX {
                    return Err(io::Error::other(format!(
                        "more than {OFFSETS_MAX} references of an object to itself"
                    )));
                }
                offsets.push(self.position + start as u64);
            }
            start = end;
        }
        Ok(start)
    }
}

impl<W: Write> Write for RewritingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.len == 0 {
            self.inner.write_all(bytes)?;
            return Ok(bytes.len());
        }
        self.buffer.extend_from_slice(bytes);
        // Everything before the first window that is not complete is decided.
        let done = self.search()?;
        self.inner.write_all(&self.buffer[..done])?;
        self.buffer.drain(..done);
        self.position += done as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// How the hash of an object that contains its own hash part is taken.
///
/// The own hash part is replaced by zero bytes in both. The variants differ only
/// for objects that do contain it. Source: nix `src/libutil/references.cc`, and
/// its issue 15837.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HashModuloVariant {
    /// `|<offset>` for each place is hashed after the stream: Nix up to 2.16,
    /// and from 2.35 on.
    WithOffsets,
    /// Nothing is: Nix 2.17 to 2.34.
    #[default]
    WithoutOffsets,
}

impl HashModuloVariant {
    /// That of a version of Nix: `2.34` or with anything behind another point. `None` if it
    /// does not begin with two numbers.
    pub fn of_nix(version: &str) -> Option<Self> {
        let mut parts = version.split('.').map(str::parse::<u32>);
        let (Some(Ok(major)), Some(Ok(minor))) = (parts.next(), parts.next()) else {
            return None;
        };
        Some(match (major, minor) {
            (2, 17..=34) => Self::WithoutOffsets,
            _ => Self::WithOffsets,
        })
    }
}

/// The hash of what is written to it, modulo a hash part.
pub struct HashModuloSink {
    rewriter: RewritingWriter<Hasher>,
}

impl HashModuloSink {
    /// A sink that takes the places where `own` stands for zero bytes.
    pub fn new(algorithm: HashAlgorithm, own: &HashPart, variant: HashModuloVariant) -> Self {
        let rule = (own.to_vec(), vec![0; own.len()]);
        let rewriter = RewritingWriter::new([rule], Hasher::new(algorithm));
        Self {
            rewriter: match variant {
                HashModuloVariant::WithOffsets => rewriter.recording_offsets(),
                HashModuloVariant::WithoutOffsets => rewriter,
            },
        }
    }

    /// The hash, the length of the stream in bytes, and how often `own` stood in it.
    pub fn finish(mut self) -> (Hash, u64, u64) {
        let offsets = self.rewriter.offsets.take().unwrap_or_default();
        let finished = self.rewriter.finish();
        let (hasher, count) = finished.expect("a hasher takes everything");
        let (hash, size) = suffixed(hasher, &offsets);
        (hash, size, count)
    }
}

/// The digest after the suffix, and the length before it.
fn suffixed(mut hasher: Hasher, offsets: &[u64]) -> (Hash, u64) {
    let mut suffix_len = 0;
    for offset in offsets {
        let text = format!("|{offset}");
        suffix_len += text.len() as u64;
        hasher.update(text.as_bytes());
    }
    let (hash, size) = hasher.finish();
    (hash, size - suffix_len)
}

impl Write for HashModuloSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.rewriter.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Copies a tree with strings replaced in everything its NAR holds: contents,
/// link targets, names. The SHA-256 and the length of the copy's NAR, and how many
/// places were rewritten.
///
/// The rules are as for [`RewritingWriter::new`], none for a plain copy; the copy
/// is as [`restore`](crate::restore) makes it. A replacement that disturbs the
/// order of the names in a directory is an error.
pub fn rewrite_tree(
    from_dir: BorrowedFd<'_>,
    from: &OsStr,
    to_dir: BorrowedFd<'_>,
    to: &OsStr,
    rules: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
) -> Result<(Hash, u64, u64), NarError> {
    let mut hasher = Hasher::new(HashAlgorithm::Sha256);
    let mut restored = RestoreWriter::new(to_dir, to);
    let mut rewriter = RewritingWriter::new(rules, Tee::new(vec![&mut hasher, &mut restored]));
    dump(from_dir, from, &mut rewriter)?;
    let (_, count) = rewriter.finish().map_err(NarError::from_sink)?;
    restored.finish()?;
    let (hash, size) = hasher.finish();
    Ok((hash, size, count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use store_types::sha256;

    fn rewrite(rules: &[(&[u8], &[u8])], stream: &[u8], cut: usize) -> Vec<u8> {
        let rules = rules.iter().map(|(a, b)| (a.to_vec(), b.to_vec()));
        let mut writer = RewritingWriter::new(rules, Vec::new());
        for piece in stream.chunks(cut) {
            writer.write_all(piece).unwrap();
        }
        writer.finish().unwrap().0
    }

    #[test]
    fn places_are_rewritten_wherever_the_stream_is_cut() {
        for cut in 1..12 {
            assert_eq!(
                rewrite(
                    &[(b"abc", b"xyz"), (b"bca", b"123")],
                    b"aabcabcabca!bcab",
                    cut
                ),
                b"axyzxyzxyza!123b"
            );
        }
        assert_eq!(rewrite(&[], b"abc", 2), b"abc");
    }

    proptest! {
        #[test]
        fn rewriting_agrees_with_a_plain_search(
            stream in proptest::collection::vec(0u8..3, 0..200),
            from in proptest::collection::vec(proptest::collection::vec(0u8..3, 3), 1..4),
            cut in 1usize..20,
        ) {
            let to = [9, 9, 9];
            let rules: Vec<(&[u8], &[u8])> = from.iter().map(|from| (&from[..], &to[..])).collect();
            let mut plain = Vec::new();
            let mut i = 0;
            while i < stream.len() {
                if i + 3 <= stream.len() && from.iter().any(|from| from[..] == stream[i..i + 3]) {
                    plain.extend_from_slice(&to);
                    i += 3;
                } else {
                    plain.push(stream[i]);
                    i += 1;
                }
            }
            prop_assert_eq!(rewrite(&rules, &stream, cut), plain);
        }
    }

    #[test]
    fn versions_of_nix_are_known_by_their_first_two_numbers() {
        use HashModuloVariant::{WithOffsets, WithoutOffsets};
        for (version, variant) in [
            ("2.8", Some(WithOffsets)),
            ("2.16.2", Some(WithOffsets)),
            ("2.17", Some(WithoutOffsets)),
            ("2.34.8pre20260101_abc", Some(WithoutOffsets)),
            ("2.35.0", Some(WithOffsets)),
            ("3.20", Some(WithOffsets)),
            ("2", None),
            ("latest", None),
            ("", None),
        ] {
            assert_eq!(HashModuloVariant::of_nix(version), variant, "{version}");
        }
    }

    #[test]
    fn the_own_hash_part_counts_as_zero_bytes_with_or_without_its_offsets() {
        let own = *b"0123456789abcdfghijklmnpqrsvwxyz";
        let stream = [b"ab", &own[..], b"c", &own[..]].concat();
        let zeroed = [b"ab", &[0; 32][..], b"c", &[0; 32][..]].concat();
        let hash = |variant| {
            let mut sink = HashModuloSink::new(HashAlgorithm::Sha256, &own, variant);
            stream
                .chunks(7)
                .for_each(|piece| sink.write_all(piece).unwrap());
            sink.finish()
        };
        assert_eq!(
            hash(HashModuloVariant::WithoutOffsets),
            (sha256(&zeroed), 67, 2)
        );
        let suffixed = [&zeroed[..], b"|2|35"].concat();
        assert_eq!(
            hash(HashModuloVariant::WithOffsets),
            (sha256(&suffixed), 67, 2)
        );
    }
}
