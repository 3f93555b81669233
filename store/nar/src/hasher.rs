//! Any of Nix's hash algorithms as a sink.

use std::io;

use sha2::Digest;
use store_types::{Hash, HashAlgorithm};

enum State {
    Md5(md5::Md5),
    Sha1(sha1::Sha1),
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
    Blake3(Box<blake3::Hasher>),
}

/// The hash of what is written to it, with the count of bytes.
pub struct Hasher {
    state: State,
    size: u64,
}

impl Hasher {
    /// A hasher that has taken nothing yet.
    pub fn new(algorithm: HashAlgorithm) -> Self {
        let state = match algorithm {
            HashAlgorithm::Md5 => State::Md5(md5::Md5::new()),
            HashAlgorithm::Sha1 => State::Sha1(sha1::Sha1::new()),
            HashAlgorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            HashAlgorithm::Sha512 => State::Sha512(sha2::Sha512::new()),
            HashAlgorithm::Blake3 => State::Blake3(Box::new(blake3::Hasher::new())),
        };
        Self { state, size: 0 }
    }

    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        match &mut self.state {
            State::Md5(state) => state.update(bytes),
            State::Sha1(state) => state.update(bytes),
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
            State::Blake3(state) => {
                state.update(bytes);
            }
        }
    }

    /// The digest, and how many bytes it covers.
    pub fn finish(self) -> (Hash, u64) {
        let (algorithm, digest) = match self.state {
            State::Md5(state) => (HashAlgorithm::Md5, state.finalize().to_vec()),
            State::Sha1(state) => (HashAlgorithm::Sha1, state.finalize().to_vec()),
            State::Sha256(state) => (HashAlgorithm::Sha256, state.finalize().to_vec()),
            State::Sha512(state) => (HashAlgorithm::Sha512, state.finalize().to_vec()),
            State::Blake3(state) => (HashAlgorithm::Blake3, state.finalize().as_bytes().to_vec()),
        };
        let hash = Hash::new(algorithm, &digest).expect("a digest has its algorithm's length");
        (hash, self.size)
    }
}

impl io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
