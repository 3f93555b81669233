//! Signatures of paths and realisations, and, with the feature `signatures`, the
//! Ed25519 keys that make and check them.
//!
//! Source: nix `src/libutil/signature/local-keys.cc`.

use std::fmt;
use std::str::FromStr;

use crate::base64;

/// A name before a colon and what the digits after it stand for.
fn split(text: &str) -> Option<(&str, Vec<u8>)> {
    let (name, digits) = text.split_once(':')?;
    let bytes = base64::decode(digits)?;
    (!name.is_empty() && !bytes.is_empty()).then_some((name, bytes))
}

/// A text that is not a signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a signature: want `<key name>:<base 64>`")]
pub struct SignatureParseError {
    text: String,
}

/// A signature and the name of the key that made it: `<key name>:<base 64>`.
///
/// How long it is says nothing yet: one that has not 64 bytes verifies nowhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature {
    /// The key's name.
    pub key_name: String,
    /// The signature.
    pub bytes: Vec<u8>,
}

impl FromStr for Signature {
    type Err = SignatureParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = split(text).map(|(name, bytes)| Self {
            key_name: name.to_owned(),
            bytes,
        });
        parsed.ok_or_else(|| SignatureParseError {
            text: text.to_owned(),
        })
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.key_name, base64::encode(&self.bytes))
    }
}

#[cfg(feature = "signatures")]
pub use keys::{KeyError, PublicKey, PublicKeys, SecretKey};

#[cfg(feature = "signatures")]
mod keys {
    use std::collections::BTreeMap;
    use std::fmt;
    use std::str::FromStr;

    use ed25519_dalek::Signer;

    use super::{Signature, split};
    use crate::{BuildTraceEntry, PathInfo, Realisation, StoreDir, base64};

    /// A text that is not a key. It is not shown: it may be a secret one.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
    pub enum KeyError {
        /// Not `<name>:<base 64>`.
        #[error("the key is not of the form `<name>:<base 64>`")]
        Form,
        /// Too few bytes or too many.
        #[error("the key has {found} bytes, not {wanted}")]
        Length {
            /// How many there should be.
            wanted: usize,
            /// How many there are.
            found: usize,
        },
        /// Not a point of the curve.
        #[error("the key is none of Ed25519")]
        Value,
        /// A secret key whose second half is not its public key.
        #[error("the two halves of the secret key do not belong together")]
        Halves,
    }

    fn sized<const LEN: usize>(text: &str) -> Result<(&str, [u8; LEN]), KeyError> {
        let (name, bytes) = split(text).ok_or(KeyError::Form)?;
        let found = bytes.len();
        let bytes = bytes
            .try_into()
            .map_err(|_| KeyError::Length { wanted: LEN, found })?;
        Ok((name, bytes))
    }

    /// A key that checks signatures: `<name>:<base 64 of 32 bytes>`.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct PublicKey {
        name: String,
        key: ed25519_dalek::VerifyingKey,
    }

    impl PublicKey {
        /// The key's name.
        pub fn name(&self) -> &str {
            &self.name
        }

        /// Whether the key of this name made the signature of this text.
        pub fn verify(&self, text: &[u8], signature: &Signature) -> bool {
            let Ok(bytes) = <[u8; 64]>::try_from(&signature.bytes[..]) else {
                return false;
            };
            let signed = ed25519_dalek::Signature::from_bytes(&bytes);
            // Strict: like libsodium, no keys and points that verify anything.
            signature.key_name == self.name && self.key.verify_strict(text, &signed).is_ok()
        }
    }

    impl FromStr for PublicKey {
        type Err = KeyError;

        fn from_str(text: &str) -> Result<Self, KeyError> {
            let (name, bytes) = sized::<32>(text)?;
            let key =
                ed25519_dalek::VerifyingKey::from_bytes(&bytes).map_err(|_| KeyError::Value)?;
            Ok(Self {
                name: name.to_owned(),
                key,
            })
        }
    }

    impl fmt::Display for PublicKey {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{}:{}", self.name, base64::encode(self.key.as_bytes()))
        }
    }

    /// A key that signs: `<name>:<base 64 of the 32 bytes of the seed and the 32 of the
    /// public key>`. The file of `nix key generate-secret` holds one, with or without a
    /// line's end.
    #[derive(Clone)]
    pub struct SecretKey {
        name: String,
        key: ed25519_dalek::SigningKey,
    }

    /// Shows the name alone.
    impl fmt::Debug for SecretKey {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("SecretKey")
                .field("name", &self.name)
                .finish_non_exhaustive()
        }
    }

    impl SecretKey {
        /// The key that follows from 32 random bytes; `None` if the name is empty or has
        /// a colon.
        pub fn from_seed(name: &str, seed: &[u8; 32]) -> Option<Self> {
            (!name.is_empty() && !name.contains(':')).then(|| Self {
                name: name.to_owned(),
                key: ed25519_dalek::SigningKey::from_bytes(seed),
            })
        }

        /// The key's name.
        pub fn name(&self) -> &str {
            &self.name
        }

        /// The text to keep, which is secret.
        pub fn to_secret_text(&self) -> String {
            let bytes = self.key.to_keypair_bytes();
            format!("{}:{}", self.name, base64::encode(&bytes))
        }

        /// The key for those who check.
        pub fn public_key(&self) -> PublicKey {
            PublicKey {
                name: self.name.clone(),
                key: self.key.verifying_key(),
            }
        }

        /// Signs a text.
        pub fn sign(&self, text: &[u8]) -> Signature {
            Signature {
                key_name: self.name.clone(),
                bytes: self.key.sign(text).to_bytes().to_vec(),
            }
        }
    }

    impl FromStr for SecretKey {
        type Err = KeyError;

        fn from_str(text: &str) -> Result<Self, KeyError> {
            let (name, bytes) = sized::<64>(text)?;
            let key = ed25519_dalek::SigningKey::from_keypair_bytes(&bytes)
                .map_err(|_| KeyError::Halves)?;
            Ok(Self {
                name: name.to_owned(),
                key,
            })
        }
    }

    /// The keys that are trusted, by name. Of two of one name the first counts, as in Nix.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct PublicKeys {
        keys: BTreeMap<String, PublicKey>,
    }

    impl PublicKeys {
        /// Whether there are none.
        pub fn is_empty(&self) -> bool {
            self.keys.is_empty()
        }

        /// Whether one of these keys made one of these signatures of the text.
        pub fn verify_any<'a>(
            &self,
            text: &[u8],
            signatures: impl IntoIterator<Item = &'a String>,
        ) -> bool {
            signatures
                .into_iter()
                .filter_map(|signature| signature.parse::<Signature>().ok())
                .any(|signature| {
                    let key = self.keys.get(&signature.key_name);
                    key.is_some_and(|key| key.verify(text, &signature))
                })
        }
    }

    impl Extend<PublicKey> for PublicKeys {
        fn extend<I: IntoIterator<Item = PublicKey>>(&mut self, keys: I) {
            for key in keys {
                self.keys.entry(key.name.clone()).or_insert(key);
            }
        }
    }

    impl FromIterator<PublicKey> for PublicKeys {
        fn from_iter<I: IntoIterator<Item = PublicKey>>(keys: I) -> Self {
            let mut all = Self::default();
            all.extend(keys);
            all
        }
    }

    impl PathInfo {
        /// Adds this key's signature; none if the size is not known.
        pub fn sign(&mut self, dir: &StoreDir, key: &SecretKey) {
            if let Some(text) = self.fingerprint(dir) {
                let signature = key.sign(text.as_bytes()).to_string();
                if !self.signatures.contains(&signature) {
                    self.signatures.push(signature);
                }
            }
        }

        /// Whether one of these keys has signed it.
        pub fn is_signed_by(&self, dir: &StoreDir, keys: &PublicKeys) -> bool {
            self.fingerprint(dir)
                .is_some_and(|text| keys.verify_any(text.as_bytes(), &self.signatures))
        }
    }

    impl BuildTraceEntry {
        /// Adds this key's signature.
        pub fn sign(&mut self, key: &SecretKey) {
            self.signatures
                .insert(key.sign(self.fingerprint().as_bytes()));
        }

        /// Whether one of these keys has signed it.
        pub fn is_signed_by(&self, keys: &PublicKeys) -> bool {
            let texts: Vec<String> = self.signatures.iter().map(Signature::to_string).collect();
            keys.verify_any(self.fingerprint().as_bytes(), &texts)
        }
    }

    impl Realisation {
        /// Adds this key's signature.
        pub fn sign(&mut self, key: &SecretKey) {
            let signature = key.sign(self.fingerprint().as_bytes()).to_string();
            if !self.signatures.contains(&signature) {
                self.signatures.push(signature);
            }
        }

        /// Whether one of these keys has signed it.
        pub fn is_signed_by(&self, keys: &PublicKeys) -> bool {
            keys.verify_any(self.fingerprint().as_bytes(), &self.signatures)
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn what_a_key_signed_only_its_public_key_verifies() {
            let key = SecretKey::from_seed("test-1", &[7; 32]).unwrap();
            let other = SecretKey::from_seed("test-1", &[8; 32]).unwrap();
            let signature = key.sign(b"text");
            assert!(key.public_key().verify(b"text", &signature));
            assert!(!key.public_key().verify(b"texts", &signature));
            assert!(!other.public_key().verify(b"text", &signature));
            let renamed = Signature {
                key_name: "test-2".to_owned(),
                ..signature.clone()
            };
            assert!(!key.public_key().verify(b"text", &renamed));
            let cut = Signature {
                bytes: signature.bytes[1..].to_vec(),
                ..signature.clone()
            };
            assert!(!key.public_key().verify(b"text", &cut));

            let keys: PublicKeys = [key.public_key(), other.public_key()].into_iter().collect();
            assert!(keys.verify_any(b"text", &["x:AA==".to_owned(), signature.to_string()]));
            assert!(!keys.verify_any(b"text", &[other.sign(b"text").to_string()]));
        }

        /// The key and what it makes of the entry are from nix 2.35,
        /// `src/libstore-tests/realisation.cc` and `data/realisation/simple-sig.json`.
        #[test]
        fn a_build_trace_entry_is_signed_as_nix_signs_it() {
            let key = "test-key:tU7tTvLcScf8pmz/eTV0BEtLmRsPpZfKaRcd0nCN+pysBZPHSeg61/u2oc7mIOewfuAY1V1BiX32homTaDJ2Jw==";
            let key: SecretKey = key.parse().unwrap();
            let path = "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q";
            let text = format!(
                "{{\"key\":{{\"drvPath\":\"{path}-bar.drv\",\"outputName\":\"foo\"}},\
                 \"value\":{{\"outPath\":\"{path}-foo\"}}}}"
            );
            let mut entry = BuildTraceEntry::from_json(text.as_bytes()).unwrap();
            assert_eq!(entry.fingerprint(), text);
            let keys: PublicKeys = [key.public_key()].into_iter().collect();
            assert!(!entry.is_signed_by(&keys));
            entry.sign(&key);
            assert!(entry.is_signed_by(&keys));
            let signature = entry.signatures.first().unwrap().to_string();
            assert_eq!(
                signature,
                "test-key:WsjxK4/EI74COtzMDI+VCjQU9O4FydK0+YeY1CE5hUevogd+T+CPvNXza7oog3GTMS+ZlBwsC2S3ppwusKnJDg=="
            );
        }

        #[test]
        fn keys_are_printed_and_parsed_back() {
            let key = SecretKey::from_seed("a.b-1", &[1; 32]).unwrap();
            let parsed: SecretKey = key.to_secret_text().parse().unwrap();
            assert_eq!(parsed.to_secret_text(), key.to_secret_text());
            assert!(!format!("{key:?}").contains(&key.to_secret_text()[6..]));
            let public = key.public_key();
            assert_eq!(public.to_string().parse(), Ok(public.clone()));
            assert!(SecretKey::from_seed("", &[1; 32]).is_none());
            assert!(SecretKey::from_seed("a:b", &[1; 32]).is_none());
            let error = public.to_string().parse::<SecretKey>().unwrap_err();
            assert_eq!(
                error,
                KeyError::Length {
                    wanted: 64,
                    found: 32
                }
            );
            let mut halves = key.key.to_keypair_bytes();
            halves[63] ^= 1;
            let text = format!("n:{}", base64::encode(&halves));
            assert!(text.parse::<SecretKey>().is_err());
            for text in ["", ":AA==", "name", "name:", "name:!"] {
                assert_eq!(text.parse::<PublicKey>(), Err(KeyError::Form), "{text}");
            }
        }
    }
}
