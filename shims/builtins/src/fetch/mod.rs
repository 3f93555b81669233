//! `builtin:fetchurl`: a file, or the tree of an archive, from the network.
//!
//! Only for outputs whose content is known beforehand, or that are impure: nothing else has the
//! network. What is fetched is written as it comes; the executor checks its hash.
//!
//! HTTP/1.1 is spoken here, one request a connection, because of what a general client does
//! not give: time-outs of a transfer that stalls and not of one that takes long, going on
//! where a transfer broke off, credentials that belong to one host, and failures that tell
//! apart what curl does, whose words Nix's users know.
//!
//! Source: nix 2.34 `src/libstore/builtins/fetchurl.cc` and `filetransfer.cc`.

mod client;
mod connection;
mod download;
mod failure;
mod netrc;
mod proxy;
mod response;
#[cfg(test)]
mod tests;
mod tls;
mod url;

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bstr::ByteSlice;
use store_types::{ContentAddressMethod, DerivationKind, DerivationOutput};

use crate::decompress::{self, Format};
use crate::request::{Request, RequestError};
use crate::{FileError, open_dir};
use client::Client;
use download::Download;

/// How much of an archive is read ahead.
const BUFFER_BYTES: usize = 64 << 10;

/// Why nothing was fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("'builtin:fetchurl' must be a fixed-output or impure derivation")]
    NotFixed,
    /// In curl's words.
    #[error("{0}")]
    Download(io::Error),
    #[error("cannot unpack '{0}'")]
    Unpack(String, #[source] store_nar::NarError),
}

pub fn fetch(request: &Request) -> Result<(), FetchError> {
    let out = request.out()?;
    match request.drv.kind() {
        Ok(DerivationKind::Fixed | DerivationKind::Impure) => {}
        _ => return Err(FetchError::NotFixed),
    }
    let url = request.needed("url")?.to_str_lossy().into_owned();
    let client = Client::new(request.limits.clone());
    let how = How {
        client: &client,
        out,
        unpack: request.attribute("unpack") == Some(b"1"),
        is_xz: url.ends_with(".xz"),
        executable: request.attribute("executable") == Some(b"1"),
    };
    for mirrored in mirrored(request) {
        if how.fetch(&mirrored).is_ok() {
            return Ok(());
        }
        // What there is of it is not what the next one begins with.
        if out.is_dir() {
            std::fs::remove_dir_all(out).map_err(FileError::new("cannot remove", out))?;
        } else if out.symlink_metadata().is_ok() {
            std::fs::remove_file(out).map_err(FileError::new("cannot remove", out))?;
        }
    }
    how.fetch(&url)
}

/// Where mirrors have files by their hashes: `MIRROR/ALGORITHM/HEX`.
fn mirrored(request: &Request) -> Vec<String> {
    match request.drv.outputs.get("out") {
        Some(DerivationOutput::Fixed { ca, .. }) if ca.method == ContentAddressMethod::Flat => {
            let (algorithm, hex) = (ca.hash.algorithm().name(), ca.hash.to_hex());
            let mirrors = request.hashed_mirrors.iter();
            mirrors
                .map(|mirror| format!("{}/{algorithm}/{hex}", mirror.trim_end_matches('/')))
                .collect()
        }
        _ => Vec::new(),
    }
}

/// What is made of what comes.
struct How<'a> {
    client: &'a Client,
    out: &'a Path,
    unpack: bool,
    is_xz: bool,
    executable: bool,
}

impl How<'_> {
    fn fetch(&self, url: &str) -> Result<(), FetchError> {
        let out = self.out;
        let mut download = Download::new(self.client, url);
        if self.unpack {
            self.unpack(url, download)?;
        } else {
            let mut file = File::create_new(out).map_err(FileError::new("cannot create", out))?;
            io::copy(&mut download, &mut file).map_err(FetchError::Download)?;
        }
        if self.executable {
            std::fs::set_permissions(out, PermissionsExt::from_mode(0o755))
                .map_err(FileError::new("cannot make executable", out))?;
        }
        Ok(())
    }

    /// Makes the tree of a NAR.
    fn unpack(&self, url: &str, download: Download<'_>) -> Result<(), FetchError> {
        let stream: Box<dyn Read> = match self.is_xz {
            true => decompress::reader(Format::Xz, download),
            false => Box::new(download),
        };
        let (Some(parent), Some(name)) = (self.out.parent(), self.out.file_name()) else {
            return Err(RequestError::NoOut("fetchurl".into()).into());
        };
        let dir = open_dir(parent)?;
        let mut stream = BufReader::with_capacity(BUFFER_BYTES, stream);
        store_nar::restore(&mut stream, dir.as_fd(), name)
            .map_err(|error| FetchError::Unpack(url.to_owned(), error))?;
        Ok(())
    }
}
