//! Hashes: an algorithm and its digest, in the texts Nix uses for them.

use std::fmt;

use sha2::Digest;

use crate::{base32, base64};

/// The hash algorithms of content addresses and of a derivation's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HashAlgorithm {
    /// MD5, 16 bytes.
    Md5,
    /// SHA-1, 20 bytes.
    Sha1,
    /// SHA-256, 32 bytes.
    Sha256,
    /// SHA-512, 64 bytes.
    Sha512,
    /// BLAKE3, 32 bytes; Nix since 2.30, behind its feature `blake3-hashes`.
    Blake3,
}

impl HashAlgorithm {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Md5,
        Self::Sha1,
        Self::Sha256,
        Self::Sha512,
        Self::Blake3,
    ];

    /// The name in derivations and URLs: `md5`, `sha1`, `sha256`, `sha512`, `blake3`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
            Self::Blake3 => "blake3",
        }
    }

    /// The inverse of [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
    }

    /// The digest's length in bytes.
    pub const fn digest_len(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 | Self::Blake3 => 32,
            Self::Sha512 => 64,
        }
    }

    /// The digest of these bytes.
    pub fn digest(self, bytes: &[u8]) -> Hash {
        let digest: Vec<u8> = match self {
            Self::Md5 => md5::Md5::digest(bytes).to_vec(),
            Self::Sha1 => sha1::Sha1::digest(bytes).to_vec(),
            Self::Sha256 => sha2::Sha256::digest(bytes).to_vec(),
            Self::Sha512 => sha2::Sha512::digest(bytes).to_vec(),
            Self::Blake3 => blake3::hash(bytes).as_bytes().to_vec(),
        };
        Hash::new(self, &digest).expect("a digest has its algorithm's length")
    }
}

/// A digest together with its algorithm.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash {
    algorithm: HashAlgorithm,
    bytes: [u8; 64],
}

/// A text that is not a hash.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not a {wanted} hash")]
pub struct HashParseError {
    text: String,
    wanted: &'static str,
}

impl Hash {
    /// From raw digest bytes; `None` if the length is not the algorithm's.
    pub fn new(algorithm: HashAlgorithm, digest: &[u8]) -> Option<Self> {
        if digest.len() != algorithm.digest_len() {
            return None;
        }
        let mut bytes = [0; 64];
        bytes[..digest.len()].copy_from_slice(digest);
        Some(Self { algorithm, bytes })
    }

    /// The algorithm.
    pub const fn algorithm(&self) -> HashAlgorithm {
        self.algorithm
    }

    /// The digest.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.digest_len()]
    }

    /// Lower-case hexadecimal digits, no prefix.
    pub fn to_hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        // Formatting each byte takes several times as long as hashing what they are of.
        let digits = |byte: &u8| {
            [
                DIGITS[usize::from(byte >> 4)],
                DIGITS[usize::from(byte & 15)],
            ]
        };
        let digits = self.bytes().iter().flat_map(digits);
        digits.map(char::from).collect()
    }

    /// Nix base 32, no prefix.
    pub fn to_base32(&self) -> String {
        base32::encode(self.bytes())
    }

    /// `<algorithm>:<hex>`.
    pub fn to_prefixed_hex(&self) -> String {
        format!("{}:{}", self.algorithm.name(), self.to_hex())
    }

    /// `<algorithm>:<base 32>`, the form of narinfo files and path info.
    pub fn to_prefixed_base32(&self) -> String {
        format!("{}:{}", self.algorithm.name(), self.to_base32())
    }

    /// `<algorithm>-<base 64>`, the SRI form of Nix's messages and of
    /// `path-info --json`.
    pub fn to_sri(&self) -> String {
        format!("{}-{}", self.algorithm.name(), base64::encode(self.bytes()))
    }

    /// Hexadecimal (either case), base 32 or base 64 digits of a known algorithm, told
    /// apart by their length.
    pub fn parse_unprefixed(algorithm: HashAlgorithm, text: &str) -> Result<Self, HashParseError> {
        let len = algorithm.digest_len();
        let bytes = if text.len() == 2 * len {
            decode_hex(text)
        } else if text.len() == len.div_ceil(3) * 4 {
            base64::decode(text)
        } else {
            base32::decode(text, len)
        };
        bytes
            .and_then(|bytes| Self::new(algorithm, &bytes))
            .ok_or_else(|| HashParseError {
                text: text.to_owned(),
                wanted: algorithm.name(),
            })
    }

    /// `<algorithm>:<hex, base 32 or base 64>`.
    pub fn parse_prefixed(text: &str) -> Result<Self, HashParseError> {
        let (name, digits) = text.split_once(':').unwrap_or((text, ""));
        match HashAlgorithm::from_name(name) {
            Some(algorithm) => Self::parse_unprefixed(algorithm, digits),
            None => Err(HashParseError {
                text: text.to_owned(),
                wanted: "prefixed",
            }),
        }
    }

    /// Any form with its algorithm: as [`parse_prefixed`](Self::parse_prefixed), or
    /// `<algorithm>-<base 64>`.
    ///
    /// Source: nix `src/libutil/hash.cc`, `parseAnyPrefixed`.
    pub fn parse_any(text: &str) -> Result<Self, HashParseError> {
        if text.contains(':') {
            return Self::parse_prefixed(text);
        }
        Self::parse_sri(text)
    }

    /// `<algorithm>-<base 64>`, the inverse of [`to_sri`](Self::to_sri).
    pub fn parse_sri(text: &str) -> Result<Self, HashParseError> {
        let parsed = text.split_once('-').and_then(|(name, digits)| {
            let algorithm = HashAlgorithm::from_name(name)?;
            Self::new(algorithm, &base64::decode(digits)?)
        });
        parsed.ok_or_else(|| HashParseError {
            text: text.to_owned(),
            wanted: "prefixed",
        })
    }
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let nibble = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    text.as_bytes()
        .chunks(2)
        .map(|pair| Some(nibble(pair[0])? << 4 | nibble(*pair.get(1)?)?))
        .collect()
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_prefixed_hex())
    }
}

/// The SHA-256 of these bytes.
pub fn sha256(bytes: &[u8]) -> Hash {
    HashAlgorithm::Sha256.digest(bytes)
}

/// SHA-256 of what is written to it, with the count of bytes.
#[derive(Clone, Default)]
pub struct Sha256Hasher {
    hasher: sha2::Sha256,
    size: u64,
}

impl Sha256Hasher {
    /// An empty hasher.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
    }

    /// The digest, and how many bytes it covers.
    pub fn finish(self) -> (Hash, u64) {
        let digest = self.hasher.finalize();
        let hash = Hash::new(HashAlgorithm::Sha256, &digest).expect("SHA-256 has 32 bytes");
        (hash, self.size)
    }
}

impl std::io::Write for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_form_of_a_digest_is_nixs() {
        let hash = sha256(b"hello\n");
        assert_eq!(
            hash.to_hex(),
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
        );
        assert_eq!(
            hash.to_sri(),
            "sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM="
        );
        assert_eq!(Hash::parse_prefixed(&hash.to_prefixed_hex()).unwrap(), hash);
        assert_eq!(
            Hash::parse_prefixed(&hash.to_prefixed_base32()).unwrap(),
            hash
        );
        assert_eq!(Hash::parse_any(&hash.to_sri()).unwrap(), hash);
    }

    #[test]
    fn a_hash_of_the_wrong_length_is_refused() {
        assert!(Hash::parse_prefixed("sha256:00").is_err());
        assert!(Hash::parse_any("sha256-00").is_err());
        assert!(Hash::parse_any("sha256").is_err());
        assert!(Hash::parse_prefixed("sha3:00").is_err());
    }
}
