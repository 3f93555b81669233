//! Which of a set of store paths a stream mentions.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Write};

use store_types::{StorePath, base32};

use crate::{HashPart, hash_part};

const LEN: usize = 32;

const fn char_table() -> [bool; 256] {
    let mut table = [false; 256];
    let mut i = 0;
    while i < base32::ALPHABET.len() {
        table[base32::ALPHABET[i] as usize] = true;
        i += 1;
    }
    table
}

static IS_CHAR: [bool; 256] = char_table();

/// A sink that looks for the hash parts of candidates in what is written to it.
///
/// A name or a `/nix/store/` around the hash part is not needed. Most of a stream
/// is not looked at: the byte at the far end of a window of 32 is tested first,
/// and one that no hash part can hold moves the window beyond it. Source: nix
/// `src/libstore/references.cc`.
pub struct RefScanner {
    candidates: HashMap<HashPart, StorePath>,
    /// A bit for the first bytes of each candidate: most windows of base 32
    /// are told apart without the table.
    filter: Box<[u64; 1024]>,
    found: BTreeSet<StorePath>,
    /// The last bytes of the stream so far, fewer than a hash part.
    tail: Vec<u8>,
}

fn filter_bit(window: &[u8]) -> (usize, u64) {
    let word = u64::from_le_bytes(window[..8].try_into().expect("a window has 32 bytes"));
    let bit = word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
    ((bit / 64) as usize, 1 << (bit % 64))
}

impl RefScanner {
    /// A scanner for these candidates.
    pub fn new<'a>(candidates: impl IntoIterator<Item = &'a StorePath>) -> Self {
        let candidates: HashMap<HashPart, StorePath> = candidates
            .into_iter()
            .map(|path| (hash_part(path), path.clone()))
            .collect();
        let mut filter = Box::new([0; 1024]);
        for part in candidates.keys() {
            let (word, bit) = filter_bit(part);
            filter[word] |= bit;
        }
        Self {
            candidates,
            filter,
            found: BTreeSet::new(),
            tail: Vec::with_capacity(2 * LEN),
        }
    }

    /// The candidates seen so far.
    pub fn found(&self) -> &BTreeSet<StorePath> {
        &self.found
    }

    /// The candidates seen.
    pub fn into_found(self) -> BTreeSet<StorePath> {
        self.found
    }

    /// Takes more of the stream.
    pub fn update(&mut self, bytes: &[u8]) {
        if self.found.len() == self.candidates.len() {
            return;
        }
        // What begins in the tail ends within the first 31 bytes.
        let mut tail = std::mem::take(&mut self.tail);
        tail.extend_from_slice(&bytes[..bytes.len().min(LEN - 1)]);
        self.scan(&tail);
        self.scan(bytes);
        if bytes.len() >= LEN - 1 {
            tail.clear();
            tail.extend_from_slice(&bytes[bytes.len() - (LEN - 1)..]);
        } else {
            tail.drain(..tail.len().saturating_sub(LEN - 1));
        }
        self.tail = tail;
    }

    fn scan(&mut self, bytes: &[u8]) {
        let mut start = 0;
        while start + LEN <= bytes.len() {
            let window = &bytes[start..start + LEN];
            if let Some(at) = window.iter().rposition(|byte| !IS_CHAR[*byte as usize]) {
                start += at + 1;
                continue;
            }
            // A window of base 32: it moves on by one as long as it stays so.
            loop {
                let window = &bytes[start..start + LEN];
                let (word, bit) = filter_bit(window);
                if self.filter[word] & bit != 0
                    && let Some(path) = self.candidates.get(window)
                    && !self.found.contains(path)
                {
                    self.found.insert(path.clone());
                }
                start += 1;
                match bytes.get(start + LEN - 1) {
                    None => return,
                    Some(byte) if IS_CHAR[*byte as usize] => {}
                    Some(_) => break,
                }
            }
            start += LEN;
        }
    }
}

impl Write for RefScanner {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A sink that passes everything to several others, in their order.
pub struct Tee<'a> {
    sinks: Vec<&'a mut dyn Write>,
}

impl<'a> Tee<'a> {
    /// A sink before these.
    pub fn new(sinks: Vec<&'a mut dyn Write>) -> Self {
        Self { sinks }
    }
}

impl Write for Tee<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for sink in &mut self.sinks {
            sink.write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sinks.iter_mut().try_for_each(|sink| sink.flush())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(seed: u8) -> StorePath {
        let hash = store_types::sha256(&[seed]);
        let bytes: [u8; 20] = hash.bytes()[..20].try_into().unwrap();
        StorePath::from_hash_and_name(&bytes, "x").unwrap()
    }

    #[test]
    fn a_hash_part_is_found_wherever_the_stream_is_cut() {
        let (wanted, absent) = (path(1), path(2));
        let text = format!(
            "0123{}0123 /nix/store/{}",
            &wanted.hash_part()[..31],
            wanted
        );
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let mut scanner = RefScanner::new([&wanted, &absent]);
                scanner.update(&text.as_bytes()[..first]);
                scanner.update(&text.as_bytes()[first..second]);
                scanner.update(&text.as_bytes()[second..]);
                assert_eq!(scanner.into_found(), BTreeSet::from([wanted.clone()]));
            }
        }
    }

    proptest! {
        #[test]
        fn the_scanner_finds_exactly_what_a_plain_search_finds(
            pieces in proptest::collection::vec(
                prop_oneof![
                    "[0-9a-z]{0,40}".prop_map(String::into_bytes),
                    proptest::collection::vec(any::<u8>(), 0..40),
                    (0u8..6).prop_map(|seed| path(seed).hash_part().as_bytes().to_vec()),
                ],
                0..12,
            ),
            cut in 1usize..50,
        ) {
            let candidates: Vec<StorePath> = (0..4).map(path).collect();
            let stream = pieces.concat();
            let mut scanner = RefScanner::new(&candidates);
            for piece in stream.chunks(cut) {
                scanner.update(piece);
            }
            let plain = candidates
                .iter()
                .filter(|path| stream.windows(32).any(|window| window == path.hash_part().as_bytes()))
                .cloned()
                .collect();
            prop_assert_eq!(scanner.into_found(), plain);
        }
    }
}
