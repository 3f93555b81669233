//! Logs of builds, kept where Nix keeps them and finds them: `LOG/drvs/<2>/<rest>.drv`, or the
//! same compressed as `….drv.bz2`. The log's name begins with two characters of the derivation's.
//!
//! Source: nix 2.34, `src/libstore/local-fs-store.cc`, `local-store.cc` (`addBuildLog`),
//! `build/derivation-building-goal.cc`.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use bzip2::Compression;
use bzip2::read::BzDecoder;
use bzip2::write::BzEncoder;
use store_nar::fs;
use store_types::StorePath;

use crate::{LocalError, LocalStore};

/// The directory of logs in the log directory.
const DRVS: &str = "drvs";

/// The end of a compressed log's name.
const BZ2: &str = ".bz2";

/// The longest log that is taken from a client, in bytes. A client that may send one is trusted,
/// but need not be right.
pub const ADDED_LOG_LEN_MAX: u64 = 4 << 30;

/// Where a derivation's log is.
struct Place {
    /// The directory in [`DRVS`].
    first: String,
    /// The file in that, uncompressed.
    rest: String,
}

impl Place {
    fn of(drv: &StorePath) -> Self {
        // A base name begins with 32 characters of one byte.
        let (first, rest) = drv.base_name().split_at(2);
        Self {
            first: first.to_owned(),
            rest: rest.to_owned(),
        }
    }
}

/// A log that is being written. Dropped, it writes the end as [`BuildLogWriter::finish`] does, and
/// says nothing if it cannot.
pub struct BuildLogWriter(Kept);

enum Kept {
    Plain(File),
    /// To be compressed, and not more than a compressor's smallest block yet. The largest one takes
    /// 8 MB of memory, cleared: more than all else that a short build costs, for a log that is most
    /// often empty.
    Short {
        file: File,
        bytes: Vec<u8>,
    },
    Compressed(Box<BzEncoder<File>>),
    /// Its end is written, or can never be.
    Ended,
}

/// The size of the smallest block that bzip2 can compress as a whole, in bytes.
const SHORT_LOG_LEN_MAX: usize = 100_000;

/// Nothing at all, compressed.
const EMPTY_BZ2: [u8; 14] = *b"BZh9\x17\x72\x45\x38\x50\x90\0\0\0\0";

impl Write for BuildLogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Kept::Plain(file) => return file.write(bytes),
            Kept::Short { bytes: kept, .. } if kept.len() + bytes.len() <= SHORT_LOG_LEN_MAX => {
                kept.extend_from_slice(bytes);
                return Ok(bytes.len());
            }
            Kept::Compressed(encoder) => return encoder.write(bytes),
            Kept::Short { .. } | Kept::Ended => {}
        }
        let Kept::Short { file, bytes: kept } = std::mem::replace(&mut self.0, Kept::Ended) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let mut encoder = Box::new(BzEncoder::new(file, Compression::best()));
        encoder.write_all(&kept)?;
        let written = encoder.write(bytes)?;
        self.0 = Kept::Compressed(encoder);
        Ok(written)
    }

    /// What is compressed may wait in memory all the same: a block is compressed as a whole.
    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Kept::Plain(file) => file.flush(),
            Kept::Short { .. } | Kept::Compressed(_) | Kept::Ended => Ok(()),
        }
    }
}

impl BuildLogWriter {
    /// Writes the end, without which a compressed log cannot be read.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        match std::mem::replace(&mut self.0, Kept::Ended) {
            Kept::Plain(mut file) => file.flush(),
            Kept::Short { mut file, bytes } if bytes.is_empty() => file.write_all(&EMPTY_BZ2),
            Kept::Short { file, bytes } => {
                let mut encoder = BzEncoder::new(file, Compression::fast());
                encoder.write_all(&bytes)?;
                encoder.finish().map(drop)
            }
            Kept::Compressed(encoder) => encoder.finish().map(drop),
            Kept::Ended => Ok(()),
        }
    }
}

impl Drop for BuildLogWriter {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

impl LocalStore {
    /// Begins the log of a derivation; an earlier one is gone.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn create_build_log(
        &self,
        drv: &StorePath,
        compress: bool,
    ) -> Result<BuildLogWriter, LocalError> {
        let place = Place::of(drv);
        let dir = self.make_log_dir(&place)?;
        let compressed = format!("{}{BZ2}", place.rest);
        // The other one, too: Nix reads what is not compressed if both are there.
        for name in [&place.rest, &compressed] {
            match fs::unlink(dir.as_fd(), OsStr::new(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(self.log_error("remove", &place, name)(error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        let name = match compress {
            true => &compressed,
            false => &place.rest,
        };
        let file = fs::create_file(dir.as_fd(), OsStr::new(name), 0o644)
            .map_err(self.log_error("make", &place, name))?;
        Ok(writer(file, compress))
    }

    /// Keeps the log of a build that was made elsewhere, compressed, unless there is one already.
    ///
    /// # Errors
    /// If it cannot be written, or is longer than [`ADDED_LOG_LEN_MAX`].
    pub fn add_build_log(&self, drv: &StorePath, log: &mut dyn Read) -> Result<(), LocalError> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let place = Place::of(drv);
        let name = OsString::from(format!("{}{BZ2}", place.rest));
        let error = |operation| self.log_error(operation, &place, &name);
        if self.build_log(drv)?.is_some() {
            return Ok(());
        }
        let dir = self.make_log_dir(&place)?;
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let temporary = OsString::from(format!(
            "{}{BZ2}.tmp.{}-{number}",
            place.rest,
            std::process::id()
        ));
        let mut write = || -> io::Result<()> {
            match fs::unlink(dir.as_fd(), &temporary) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let file = fs::create_file(dir.as_fd(), &temporary, 0o644)?;
            let mut writer = writer(file, true);
            let copied = io::copy(&mut log.take(ADDED_LOG_LEN_MAX + 1), &mut writer)?;
            if copied > ADDED_LOG_LEN_MAX {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            writer.finish()?;
            fs::rename(dir.as_fd(), &temporary, dir.as_fd(), &name)
        };
        let written = write().map_err(error("write"));
        if written.is_err() {
            // What stays is no log to anybody.
            let _ = fs::unlink(dir.as_fd(), &temporary);
        }
        written
    }

    /// The log of a derivation, uncompressed, if there is one.
    ///
    /// # Errors
    /// If there is one that cannot be opened.
    pub fn build_log(&self, drv: &StorePath) -> Result<Option<Box<dyn Read>>, LocalError> {
        let place = Place::of(drv);
        let flat = drv.base_name();
        let in_two = format!("{DRVS}/{}", place.first);
        // Nix 1 had all logs in one directory.
        for (dir, base) in [(in_two.as_str(), place.rest.as_str()), (DRVS, flat)] {
            let Some(dir) = self.open_log_dir(dir)? else {
                continue;
            };
            for suffix in ["", BZ2] {
                let name = format!("{base}{suffix}");
                match fs::open_file(dir.as_fd(), OsStr::new(&name)) {
                    Ok(file) if suffix.is_empty() => return Ok(Some(Box::new(File::from(file)))),
                    Ok(file) => {
                        let file = io::BufReader::new(File::from(file));
                        return Ok(Some(Box::new(BzDecoder::new(file))));
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(self.log_error("open", &place, &name)(error)),
                }
            }
        }
        Ok(None)
    }

    fn log_error(
        &self,
        operation: &'static str,
        place: &Place,
        name: impl AsRef<OsStr>,
    ) -> impl FnOnce(io::Error) -> LocalError {
        let dir = self.layout.log.join(DRVS).join(&place.first);
        LocalError::io(operation, dir.join(name.as_ref()))
    }

    /// A directory below that of logs, if it is there.
    fn open_log_dir(&self, inside: &str) -> Result<Option<OwnedFd>, LocalError> {
        let open = || -> io::Result<OwnedFd> {
            let mut fd = fs::open_root(&self.layout.log)?;
            for part in inside.split('/') {
                fd = fs::open_dir(fd.as_fd(), OsStr::new(part))?;
            }
            Ok(fd)
        };
        match open() {
            Ok(fd) => Ok(Some(fd)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(LocalError::io("open", self.layout.log.join(inside))(error)),
        }
    }

    fn make_log_dir(&self, place: &Place) -> Result<OwnedFd, LocalError> {
        let log = &self.layout.log;
        let path: PathBuf = log.join(DRVS).join(&place.first);
        self.layout.check_writable("keep a log")?;
        let make = || -> io::Result<OwnedFd> {
            std::fs::create_dir_all(log)?;
            let mut fd = fs::open_root(log)?;
            for part in [DRVS, &place.first] {
                match fs::make_dir(fd.as_fd(), OsStr::new(part), 0o755) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(error);
                    }
                    Ok(()) | Err(_) => {}
                }
                fd = fs::open_dir(fd.as_fd(), OsStr::new(part))?;
            }
            Ok(fd)
        };
        make().map_err(LocalError::io("make the directory", path))
    }
}

fn writer(file: OwnedFd, compress: bool) -> BuildLogWriter {
    let file = File::from(file);
    BuildLogWriter(match compress {
        true => Kept::Short {
            file,
            bytes: Vec::new(),
        },
        false => Kept::Plain(file),
    })
}
