//! `builtin:unpack-channel`: an archive with one directory in it, under another name.
//!
//! Source: nix 2.34 `src/libstore/builtins/unpack-channel.cc`.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use crate::archive::{self, ArchiveError};
use crate::request::{Request, RequestError};
use crate::{FileError, is_entry_name, open_dir};

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("channelName is not allowed to contain filesystem separators, got {0}")]
    Name(String),
    #[error("channel tarball '{0}' is empty")]
    Empty(String),
    #[error("channel tarball '{0}' contains more than one file")]
    SeveralFiles(String),
}

pub fn unpack(request: &Request) -> Result<(), ChannelError> {
    let out = request.out()?;
    let name = OsStr::from_bytes(request.needed("channelName")?);
    let src = Path::new(OsStr::from_bytes(request.needed("src")?));
    if !is_entry_name(name) {
        return Err(ChannelError::Name(name.display().to_string()));
    }
    DirBuilder::new()
        .mode(0o755)
        .create(out)
        .map_err(FileError::new("creating directory", out))?;
    let tarball = File::open(src).map_err(FileError::new("cannot open", src))?;
    let dir = open_dir(out)?;
    archive::unpack(tarball, dir.as_fd())?;
    let entries =
        store_nar::fs::list(dir.as_fd()).map_err(FileError::new("cannot read directory", out))?;
    match &entries[..] {
        [] => Err(ChannelError::Empty(src.display().to_string())),
        [entry] => {
            store_nar::fs::rename(dir.as_fd(), &entry.name, dir.as_fd(), name)
                .map_err(FileError::new("failed to rename to", &out.join(name)))?;
            Ok(())
        }
        _ => Err(ChannelError::SeveralFiles(src.display().to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain;
    use crate::request::tests::request;

    fn unpacked(name: &str, files: &[&str]) -> Result<Vec<String>, String> {
        let dir = tempfile::tempdir().unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        for file in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(1);
            header.set_mode(0o644);
            builder.append_data(&mut header, file, &b"x"[..]).unwrap();
        }
        let src = dir.path().join("src.tar");
        std::fs::write(&src, builder.into_inner().unwrap()).unwrap();
        let out = dir.path().join("out");
        let env: &[(&str, &[u8])] = &[
            ("src", src.to_str().unwrap().as_bytes()),
            ("channelName", name.as_bytes()),
        ];
        unpack(&request("unpack-channel", &out, env))
            .map_err(|error| chain(&error).replace(dir.path().to_str().unwrap(), ""))?;
        let entries = out.read_dir().unwrap();
        Ok(entries
            .map(|entry| entry.unwrap().file_name().display().to_string())
            .collect())
    }

    #[rstest::rstest]
    #[case::renamed("nixos", &["a/b", "a/c"], Ok("nixos"))]
    #[case::the_same_name("a", &["a/b"], Ok("a"))]
    #[case::a_file("nixos", &["a"], Ok("nixos"))]
    #[case::two("nixos", &["a/b", "c"], Err("channel tarball '/src.tar' contains more than one file"))]
    #[case::none("nixos", &[], Err("channel tarball '/src.tar' is empty"))]
    #[case::separator("a/b", &["a/b"], Err("channelName is not allowed to contain filesystem separators, got a/b"))]
    #[case::parent("..", &["a/b"], Err("channelName is not allowed to contain filesystem separators, got .."))]
    fn a_channel_is_one_entry_with_the_name_asked_for(
        #[case] name: &str,
        #[case] files: &[&str],
        #[case] expected: Result<&str, &str>,
    ) {
        let expected = expected
            .map(|name| vec![name.to_owned()])
            .map_err(str::to_owned);
        assert_eq!(unpacked(name, files), expected);
    }
}
