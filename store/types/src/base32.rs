//! Nix's base 32: 5 bits a character, least significant first, printed backwards.
//!
//! Source: Nix manual, "Store Path Specification"; `src/libutil/base-nix-32.cc`.

/// The alphabet: digits and letters without `e`, `o`, `t`, `u`.
pub const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

const fn reverse() -> [u8; 256] {
    let mut table = [0xff; 256];
    let mut i = 0;
    while i < 32 {
        table[ALPHABET[i] as usize] = i as u8;
        i += 1;
    }
    table
}

static REVERSE: [u8; 256] = reverse();

/// How many characters `len` bytes take.
pub const fn encoded_len(len: usize) -> usize {
    (len * 8).div_ceil(5)
}

/// Whether this byte is a character of the alphabet.
pub fn is_char(byte: u8) -> bool {
    REVERSE[byte as usize] != 0xff
}

/// Bytes as text.
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(encoded_len(bytes.len()));
    for n in (0..encoded_len(bytes.len())).rev() {
        let bit = n * 5;
        let (byte, shift) = (bit / 8, bit % 8);
        let low = u16::from(bytes[byte]);
        let high = u16::from(bytes.get(byte + 1).copied().unwrap_or(0));
        let digit = ((low | high << 8) >> shift) & 0x1f;
        text.push(ALPHABET[digit as usize] as char);
    }
    text
}

/// Text as `len` bytes; `None` if the length is not [`encoded_len`]`(len)`, a
/// character is not of the alphabet, or bits beyond the last byte are set.
pub fn decode(text: &str, len: usize) -> Option<Vec<u8>> {
    if text.len() != encoded_len(len) {
        return None;
    }
    let mut bytes = vec![0u8; len];
    for (n, character) in text.bytes().rev().enumerate() {
        let digit = REVERSE[character as usize];
        if digit == 0xff {
            return None;
        }
        let bit = n * 5;
        let (byte, shift) = (bit / 8, bit % 8);
        let wide = u16::from(digit) << shift;
        bytes[byte] |= wide as u8;
        let carry = (wide >> 8) as u8;
        match bytes.get_mut(byte + 1) {
            Some(next) => *next |= carry,
            None if carry != 0 => return None,
            None => {}
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_sha256_is_printed_as_nix_prints_it() {
        let digest = crate::sha256(b"");
        assert_eq!(
            encode(digest.bytes()),
            "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73"
        );
    }

    #[test]
    fn what_is_encoded_decodes_to_itself() {
        for len in [0, 1, 4, 5, 16, 20, 32, 64] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 37 + 11) as u8).collect();
            assert_eq!(decode(&encode(&bytes), len), Some(bytes));
        }
    }

    #[test]
    fn excess_bits_and_foreign_characters_are_refused() {
        assert_eq!(decode("zz", 1), None);
        assert_eq!(decode("0e", 1), None);
        assert_eq!(decode("0", 1), None);
    }
}
