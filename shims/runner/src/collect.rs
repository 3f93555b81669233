//! Finding what the tool left.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::error::{Context, Error};
use crate::layout::{LaidOut, State, work_dir};

/// Deepest directory that is looked into: a path has at most 4096 bytes (path_resolution(7)).
const DEPTH_MAX: usize = 2048;

impl LaidOut {
    /// Copies what is new to below `files`, each at its absolute path, and returns a line for
    /// each thing that a copy cannot tell.
    pub fn collect(mut self, files: &Path) -> Result<Vec<Vec<u8>>, Error> {
        let mut odd = Vec::new();
        self.directory(self.top, files, &mut odd, 0)?;
        for path in self.entries.keys() {
            // What is there, but where nothing is looked at, is not gone.
            if path.symlink_metadata().is_err() {
                odd.push(line("deleted", path));
            }
        }
        Ok(odd)
    }

    fn directory(
        &mut self,
        dir: &Path,
        files: &Path,
        odd: &mut Vec<Vec<u8>>,
        depth: usize,
    ) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            odd.push(line("too deep", dir));
            return Ok(());
        }
        let mut paths: Vec<PathBuf> = dir
            .read_dir()
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
            .context(dir)?;
        paths.sort();
        for path in paths {
            if self.ignored.contains(&path) {
                continue;
            }
            let metadata = path.symlink_metadata().context(&path)?;
            let target = below(files, &path);
            match self.entries.remove(&path) {
                Some(before) if before != State::of(&metadata) => odd.push(line("changed", &path)),
                Some(_) if !metadata.is_dir() => {}
                Some(_) => self.directory(&path, files, odd, depth + 1)?,
                // `Elsewhere` tells of it.
                None if FOR_EVERYBODY.iter().any(|shared| dir == Path::new(shared)) => {}
                None if metadata.is_dir() => {
                    make_dir(&target)?;
                    self.directory(&path, files, odd, depth + 1)?;
                }
                None => {
                    if let Some(parent) = target.parent() {
                        make_dir(parent)?;
                    }
                    if !copy(&path, &metadata, &target).context(&path)? {
                        odd.push(line("not a plain file", &path));
                    }
                }
            }
        }
        Ok(())
    }
}

fn make_dir(path: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).create(path).context(path)
}

fn below(root: &Path, absolute: &Path) -> PathBuf {
    root.join(absolute.strip_prefix("/").unwrap_or(absolute))
}

fn line(what: &str, path: &Path) -> Vec<u8> {
    let mut line = what.as_bytes().to_vec();
    line.extend_from_slice(b": ");
    // One line each, whatever is in the name.
    let name = path.as_os_str().as_bytes();
    line.extend(
        name.iter()
            .map(|&byte| if byte == b'\n' { b'?' } else { byte }),
    );
    line.push(b'\n');
    line
}

/// Copies a new file or link, if a file of its kind can be created again from the copy.
fn copy(path: &Path, metadata: &Metadata, target: &Path) -> io::Result<bool> {
    if metadata.is_symlink() {
        symlink(path.read_link()?, target)?;
        return Ok(true);
    }
    let mode = metadata.mode() & 0o7777;
    if !metadata.is_file() || metadata.nlink() != 1 || !matches!(mode, 0o644 | 0o755) {
        return Ok(false);
    }
    let mut source = File::from(rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?);
    let mut target = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(target)?;
    io::copy(&mut source, &mut target)?;
    Ok(true)
}

/// Directories in which every program may write.
const FOR_EVERYBODY: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];

/// What is in the directories for everybody: nothing may stay there.
pub struct Elsewhere(BTreeSet<PathBuf>);

impl Elsewhere {
    /// Remembers what is there.
    pub fn look() -> Self {
        let entries = FOR_EVERYBODY
            .iter()
            .filter_map(|dir| Path::new(dir).read_dir().ok());
        Self(
            entries
                .flatten()
                .flatten()
                .map(|entry| entry.path())
                .collect(),
        )
    }

    /// A line for each thing that was not there.
    pub fn what_is_new(self) -> Vec<Vec<u8>> {
        let now = Self::look();
        now.0
            .difference(&self.0)
            .filter(|path| path != &work_dir())
            .map(|path| line("left", path))
            .collect()
    }
}
