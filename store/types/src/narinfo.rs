//! The `.narinfo` files of binary caches.
//!
//! ```text
//! StorePath: <full path>
//! URL: <of the archive, relative to the cache or absolute>
//! Compression: <of the archive; bzip2 if missing or empty>
//! FileHash: sha256:<base 32 of the compressed archive>       (optional)
//! FileSize: <bytes>                                          (optional)
//! NarHash: sha256:<base 32>
//! NarSize: <bytes, not 0>
//! References: <base names, separated by spaces>
//! Deriver: <base name, or `unknown-deriver`>                 (optional)
//! Sig: <signature>                                           (any number)
//! CA: <content address>                                      (optional)
//! ```
//!
//! Each line ends in a line feed. Keys that are not known are passed over; of a key that
//! stands twice the last counts, but for `References` and `CA`, which may not.
//!
//! Source: nix `src/libstore/nar-info.cc`.

use std::collections::BTreeSet;

use crate::{Hash, HashAlgorithm, PathInfo, Signature, StoreDir, StorePath};

/// The longest `.narinfo` that is read, in bytes: one with ten thousand references is
/// a tenth of it.
pub const NARINFO_LEN_MAX: usize = 8 << 20;

/// What a binary cache says of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NarInfo {
    /// What is known of the path. Neither its registration time nor whether it is
    /// ultimate is in the file.
    pub info: PathInfo,
    /// Where the archive is: relative to the cache, or absolute.
    pub url: String,
    /// How it is compressed: `xz`, `zstd`, `none` and so on.
    pub compression: String,
    /// The SHA-256 of the file at `url`.
    pub file_hash: Option<Hash>,
    /// The length of that file in bytes.
    pub file_size: Option<u64>,
}

/// Why a text is not a `.narinfo`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NarInfoError {
    /// Longer than [`NARINFO_LEN_MAX`].
    #[error("a narinfo of {len} bytes, more than {max}", max = NARINFO_LEN_MAX)]
    TooLong {
        /// How long it is.
        len: usize,
    },
    /// Not lines of the form `Key: value`.
    #[error("line {line} of the narinfo should be `Key: value` and end in a line feed")]
    Line {
        /// Which line, from 1.
        line: usize,
    },
    /// A value that the key does not allow.
    #[error("`{key}` of the narinfo, in line {line}, is malformed: `{value}`")]
    Value {
        /// The key.
        key: &'static str,
        /// Which line, from 1.
        line: usize,
        /// What stands there.
        value: String,
    },
    /// A key that may stand once only.
    #[error("`{key}` stands twice in the narinfo")]
    Twice {
        /// The key.
        key: &'static str,
    },
    /// A key without which it is none.
    #[error("`{key}` of the narinfo is missing or empty")]
    Missing {
        /// The key.
        key: &'static str,
    },
}

impl NarInfo {
    /// Nix's text, its signatures in order.
    pub fn print(&self, dir: &StoreDir) -> String {
        let info = &self.info;
        let mut text = String::new();
        let mut line = |key: &str, value: &str| {
            text.push_str(key);
            text.push_str(": ");
            text.push_str(value);
            text.push('\n');
        };
        line("StorePath", &dir.display(&info.path));
        line("URL", &self.url);
        line("Compression", &self.compression);
        if let Some(hash) = &self.file_hash {
            line("FileHash", &hash.to_prefixed_base32());
        }
        if let Some(size) = self.file_size.filter(|size| *size != 0) {
            line("FileSize", &size.to_string());
        }
        line("NarHash", &info.nar_hash.to_prefixed_base32());
        line("NarSize", &info.nar_size.to_string());
        let references: Vec<&str> = info.references.iter().map(StorePath::base_name).collect();
        line("References", &references.join(" "));
        if let Some(deriver) = &info.deriver {
            line("Deriver", deriver.base_name());
        }
        for signature in in_order(&info.signatures) {
            line("Sig", &signature);
        }
        if let Some(ca) = &info.ca {
            line("CA", &ca.to_string());
        }
        text
    }

    /// Reads what [`print`](Self::print) and Nix write.
    ///
    /// As in Nix, a key reaches to the next colon and a value from the second byte after
    /// it to the next line feed. Other hashes than SHA-256, which Nix reads and cannot
    /// write, are refused.
    pub fn parse(dir: &StoreDir, text: &str) -> Result<Self, NarInfoError> {
        if text.len() > NARINFO_LEN_MAX {
            return Err(NarInfoError::TooLong { len: text.len() });
        }
        let mut fields = Fields::default();
        let (mut rest, mut line) = (text, 1);
        while !rest.is_empty() {
            let malformed = NarInfoError::Line { line };
            let Some((key, after)) = rest.split_once(':') else {
                return Err(malformed);
            };
            let Some((value, next)) = after.get(1..).and_then(|text| text.split_once('\n')) else {
                return Err(malformed);
            };
            fields.take(dir, key, value, line)?;
            (rest, line) = (next, line + 1);
        }
        fields.finish()
    }
}

/// Signatures as Nix orders them; what is none is left out.
fn in_order(signatures: &[String]) -> impl Iterator<Item = String> {
    let parsed: BTreeSet<Signature> = signatures
        .iter()
        .filter_map(|signature| signature.parse().ok())
        .collect();
    parsed.into_iter().map(|signature| signature.to_string())
}

#[derive(Default)]
struct Fields {
    path: Option<StorePath>,
    url: String,
    compression: String,
    file_hash: Option<Hash>,
    file_size: Option<u64>,
    nar_hash: Option<Hash>,
    nar_size: u64,
    references: BTreeSet<StorePath>,
    deriver: Option<StorePath>,
    signatures: Vec<String>,
    ca: Option<crate::ContentAddress>,
}

impl Fields {
    fn take(
        &mut self,
        dir: &StoreDir,
        key: &str,
        value: &str,
        line: usize,
    ) -> Result<(), NarInfoError> {
        let bad = |key| NarInfoError::Value {
            key,
            line,
            value: value.to_owned(),
        };
        let hash = |key| {
            Hash::parse_any(value)
                .ok()
                .filter(|hash| hash.algorithm() == HashAlgorithm::Sha256)
                .ok_or_else(|| bad(key))
        };
        let number = |key| {
            let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
            let parsed = is_number.then(|| value.parse::<u64>().ok()).flatten();
            parsed.ok_or_else(|| bad(key))
        };
        let path = |key, name| StorePath::from_base_name(name).map_err(|_| bad(key));
        match key {
            "StorePath" => self.path = Some(dir.parse(value).map_err(|_| bad("StorePath"))?),
            "URL" => value.clone_into(&mut self.url),
            "Compression" => value.clone_into(&mut self.compression),
            "FileHash" => self.file_hash = Some(hash("FileHash")?),
            "FileSize" => self.file_size = Some(number("FileSize")?).filter(|size| *size != 0),
            "NarHash" => self.nar_hash = Some(hash("NarHash")?),
            "NarSize" => self.nar_size = number("NarSize")?,
            "References" => {
                if !self.references.is_empty() {
                    return Err(NarInfoError::Twice { key: "References" });
                }
                for name in value.split(' ').filter(|name| !name.is_empty()) {
                    self.references.insert(path("References", name)?);
                }
            }
            "Deriver" if value == "unknown-deriver" => {}
            "Deriver" => self.deriver = Some(path("Deriver", value)?),
            "Sig" => {
                let signature: Signature = value.parse().map_err(|_| bad("Sig"))?;
                self.signatures.push(signature.to_string());
            }
            "CA" => {
                if self.ca.is_some() {
                    return Err(NarInfoError::Twice { key: "CA" });
                }
                if !value.is_empty() {
                    self.ca = Some(value.parse().map_err(|_| bad("CA"))?);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(self) -> Result<NarInfo, NarInfoError> {
        let missing = |key| NarInfoError::Missing { key };
        let path = self.path.ok_or_else(|| missing("StorePath"))?;
        let nar_hash = self.nar_hash.ok_or_else(|| missing("NarHash"))?;
        if self.url.is_empty() {
            return Err(missing("URL"));
        }
        if self.nar_size == 0 {
            return Err(missing("NarSize"));
        }
        let compression = match self.compression.is_empty() {
            true => "bzip2".to_owned(),
            false => self.compression,
        };
        Ok(NarInfo {
            info: PathInfo {
                path,
                nar_hash,
                nar_size: self.nar_size,
                references: self.references,
                deriver: self.deriver,
                registration_time: 0,
                ultimate: false,
                signatures: in_order(&self.signatures).collect(),
                ca: self.ca,
            },
            url: self.url,
            compression,
            file_hash: self.file_hash,
            file_size: self.file_size,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUIRED: &str = "StorePath: /nix/store/0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-a\n\
        URL: nar/x.nar\n\
        NarHash: sha256:00mrvrvdhbq0x97wc66a3hxcdvj1zyrhlzzpv9xfbgf6wjv2r8gv\n\
        NarSize: 6\n";

    fn parse(text: &str) -> Result<NarInfo, NarInfoError> {
        NarInfo::parse(&StoreDir::default(), text)
    }

    fn required() -> String {
        let hash = crate::sha256(b"hello\n").to_prefixed_base32();
        REQUIRED.replace(
            "sha256:00mrvrvdhbq0x97wc66a3hxcdvj1zyrhlzzpv9xfbgf6wjv2r8gv",
            &hash,
        )
    }

    #[test]
    fn the_file_is_printed_as_nix_prints_it_and_read_back() {
        let dir = StoreDir::default();
        let hash = crate::sha256(b"hello\n").to_prefixed_base32();
        let text = format!(
            "StorePath: /nix/store/0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-a\n\
             URL: nar/x.nar.xz\n\
             Compression: xz\n\
             FileHash: {hash}\n\
             FileSize: 5\n\
             NarHash: {hash}\n\
             NarSize: 6\n\
             References: 0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-a 0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-b\n\
             Deriver: 0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-a.drv\n\
             Sig: a:AA==\n\
             Sig: b:AAE=\n\
             CA: fixed:r:{hash}\n"
        );
        let info = parse(&text).unwrap();
        assert_eq!(info.info.references.len(), 2);
        assert_eq!(info.print(&dir), text);
    }

    #[test]
    fn what_is_not_required_may_be_missing() {
        let info = parse(&required()).unwrap();
        assert_eq!(info.compression, "bzip2");
        assert_eq!(info.info.deriver, None);
        let more = required() + "Compression: \nDeriver: unknown-deriver\nNew: x\nFileSize: 0\n";
        assert_eq!(parse(&more).unwrap(), info);
        for key in ["StorePath", "URL", "NarHash", "NarSize"] {
            let text: String = required()
                .split_inclusive('\n')
                .filter(|line| !line.starts_with(key))
                .collect();
            assert_eq!(parse(&text), Err(NarInfoError::Missing { key }));
        }
    }

    #[test]
    fn hashes_are_read_in_every_form() {
        let hash = crate::sha256(b"hello\n");
        for form in [
            hash.to_prefixed_hex(),
            hash.to_sri(),
            hash.to_sri().replace('-', ":"),
        ] {
            let text = required().replace(&hash.to_prefixed_base32(), &form);
            assert_eq!(parse(&text).unwrap().info.nar_hash, hash, "{form}");
        }
    }

    #[test]
    fn what_nix_takes_for_corrupt_is_refused() {
        for more in [
            "no colon\n",
            "Key: no line feed",
            "Key:",
            "NarSize: -1\n",
            "NarSize: +6\n",
            "NarSize: 0\n",
            "NarSize: 18446744073709551616\n",
            "FileSize: x\n",
            "NarHash: sha256:00\n",
            "FileHash: sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709\n",
            "StorePath: /elsewhere/0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-a\n",
            "References: /nix/store/0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-a\n",
            "References: 0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-a\nReferences: \n",
            "Deriver: \n",
            "Sig: none\n",
            "CA: none\n",
            "URL: \n",
        ] {
            assert!(parse(&(required() + more)).is_err(), "{more}");
        }
    }
}
