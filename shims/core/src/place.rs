//! How a shim writes the files it was handed.
//!
//! It does what the compiler would have done with the caller's own privileges and umask, or
//! nothing at all: whatever is not plainly the same as what a compiler would leave is an error
//! before the first write, and an error later takes back what was written. The caller then runs
//! the real compiler.

use alloc::string::String;
use alloc::vec::Vec;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::kernel_error::KernelError;
use crate::protocol::NewFile;

/// Why the files could not be placed. None of them is there.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// What is at the place would not become what a compiler makes of it.
    #[error("`{path}` is not a plain file of the caller's")]
    Odd {
        /// The place.
        path: String,
    },
    /// A system call failed.
    #[error("cannot write `{path}`")]
    Write {
        /// The place.
        path: String,
        /// The kernel's reason.
        #[source]
        source: KernelError,
    },
}

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// Writes every file, each a private copy with a fresh modification time, or none.
///
/// A file already there must be a regular one of the caller's, with one link and with the mode
/// that a new one would get. A directory that is missing is made.
///
/// # Errors
/// When a place is odd or a write fails.
pub fn place(files: &[NewFile]) -> Result<(), PlaceError> {
    for file in files {
        check(file)?;
    }
    let mut made = Vec::new();
    for (index, file) in files.iter().enumerate() {
        if let Err(error) = write(file, &mut made) {
            for written in &files[..=index] {
                let _ = rustix::fs::unlink(&*written.path);
            }
            for dir in made.iter().rev() {
                let _ = rustix::fs::rmdir(*dir);
            }
            let (path, source) = (text(&file.path), error.into());
            return Err(PlaceError::Write { path, source });
        }
    }
    Ok(())
}

fn mode(file: &NewFile) -> Mode {
    Mode::from_raw_mode(if file.executable { 0o777 } else { 0o666 })
}

fn check(file: &NewFile) -> Result<(), PlaceError> {
    let stat = match rustix::fs::statat(CWD, &*file.path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => {
            let (path, source) = (text(&file.path), error.into());
            return Err(PlaceError::Write { path, source });
        }
    };
    let plain = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && stat.st_nlink == 1
        && stat.st_uid == rustix::process::geteuid().as_raw()
        && Mode::from_raw_mode(stat.st_mode) == mode(file) - mask();
    if plain {
        Ok(())
    } else {
        let path = text(&file.path);
        Err(PlaceError::Odd { path })
    }
}

/// The mask of modes, which there is no way to read without setting it (umask(2)).
fn mask() -> Mode {
    let mask = rustix::process::umask(Mode::empty());
    rustix::process::umask(mask);
    mask
}

/// Writes a file; directories that it makes for it are added to `made`, the outermost first.
fn write<'f>(file: &'f NewFile, made: &mut Vec<&'f [u8]>) -> Result<(), Errno> {
    match rustix::fs::unlink(&*file.path) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = match rustix::fs::open(&*file.path, flags, mode(file)) {
        Err(Errno::NOENT) => {
            make_parents(&file.path, made)?;
            rustix::fs::open(&*file.path, flags, mode(file))?
        }
        target => target?,
    };
    copy(file.content.as_fd(), target.as_fd())
}

fn make_parents<'f>(path: &'f [u8], made: &mut Vec<&'f [u8]>) -> Result<(), Errno> {
    let slash = path.iter().rposition(|&byte| byte == b'/');
    let parent = &path[..slash.ok_or(Errno::NOENT)?];
    match rustix::fs::mkdir(parent, Mode::from_raw_mode(0o777)) {
        Ok(()) => made.push(parent),
        Err(Errno::NOENT) => {
            make_parents(parent, made)?;
            rustix::fs::mkdir(parent, Mode::from_raw_mode(0o777))?;
            made.push(parent);
        }
        // Another was faster.
        Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Copies all of `source` from its offset 0, whatever its current offset: the descriptor's offset
/// is shared with whoever sent it.
fn copy(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut at = 0;
    // Shares the blocks where the file system can (copy_file_range(2)).
    loop {
        match rustix::fs::copy_file_range(source, Some(&mut at), target, None, 1 << 30) {
            // Where it copies nothing at all, there may be something to read all the same.
            Ok(0) if at > 0 => return Ok(()),
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            // Not for these two: the rest is read and written.
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::BADF) => {
                break;
            }
            Err(error) => return Err(error),
        }
    }
    copy_from(at, source, target).1
}

/// Writes all of `source` to something that was open before: how many bytes, and whether it was
/// all of them.
pub(crate) fn print(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> (u64, Result<(), Errno>) {
    copy_from(0, source, target)
}

fn copy_from(
    mut at: u64,
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
) -> (u64, Result<(), Errno>) {
    let mut buffer = [0; 16 << 10];
    loop {
        let count = match rustix::io::pread(source, &mut buffer, at) {
            Ok(0) => return (at, Ok(())),
            Ok(count) => count,
            Err(Errno::INTR) => continue,
            Err(error) => return (at, Err(error)),
        };
        let (written, result) = write_all(target, &buffer[..count]);
        at += written as u64;
        if result.is_err() {
            return (at, result);
        }
    }
}

/// Writes `bytes`: how many, and whether it was all of them.
pub(crate) fn write_all(target: BorrowedFd<'_>, bytes: &[u8]) -> (usize, Result<(), Errno>) {
    let mut written = 0;
    while written < bytes.len() {
        match rustix::io::write(target, &bytes[written..]) {
            Ok(count) => written += count,
            Err(Errno::INTR) => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::fd::OwnedFd;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::Path;

    use rstest::rstest;

    use super::*;

    fn content(text: &str) -> OwnedFd {
        let mut file = tempfile::tempfile().unwrap();
        // The offset is left at the end on purpose.
        file.write_all(text.as_bytes()).unwrap();
        file.into()
    }

    fn new_file(path: &Path, executable: bool, text: &str) -> NewFile {
        NewFile {
            path: path.as_os_str().as_bytes().to_vec(),
            executable,
            content: content(text),
        }
    }

    #[test]
    fn files_are_written_with_the_mode_of_a_compiler() {
        let dir = tempfile::tempdir().unwrap();
        let (object, tool) = (dir.path().join("a.o"), dir.path().join("tool"));
        let big = "x".repeat(300_000);
        fs::write(&object, "old").unwrap();
        place(&[new_file(&object, false, &big), new_file(&tool, true, "")]).unwrap();
        assert_eq!(fs::read_to_string(&object).unwrap(), big);
        assert_eq!(fs::read_to_string(&tool).unwrap(), "");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&object) & 0o700, 0o600);
        assert_eq!(mode(&tool) & 0o700, 0o700);
    }

    #[test]
    fn a_file_replaced_is_a_new_file() {
        let dir = tempfile::tempdir().unwrap();
        let object = dir.path().join("a.o");
        fs::write(&object, "old").unwrap();
        let reader = fs::File::open(&object).unwrap();
        place(&[new_file(&object, false, "new")]).unwrap();
        let inode = |metadata: fs::Metadata| metadata.ino();
        assert_ne!(
            inode(reader.metadata().unwrap()),
            inode(fs::metadata(&object).unwrap())
        );
    }

    #[rstest]
    #[case::a_link(|path: &Path| symlink("elsewhere", path).unwrap())]
    #[case::a_directory(|path: &Path| fs::create_dir(path).unwrap())]
    #[case::a_second_name(|path: &Path| {
        fs::write(path, "old").unwrap();
        fs::hard_link(path, path.with_extension("other")).unwrap();
    })]
    #[case::another_mode(|path: &Path| {
        fs::write(path, "old").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o400)).unwrap();
    })]
    fn nothing_is_written_if_one_place_is(#[case] make: fn(&Path)) {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("a.o"), dir.path().join("a.d"));
        make(&second);
        let files = [new_file(&first, false, "x"), new_file(&second, false, "x")];
        assert!(matches!(place(&files), Err(PlaceError::Odd { .. })));
        assert!(!first.exists());
    }

    #[test]
    fn a_failure_takes_back_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let first = dir.path().join("new/inner/a.o");
        let second = first.join("a.d");
        let files = [new_file(&first, false, "x"), new_file(&second, false, "x")];
        assert!(matches!(place(&files), Err(PlaceError::Write { .. })));
        assert!(!dir.path().join("new").exists());
    }

    #[test]
    fn directories_that_are_missing_are_made() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["new/a", "new/inner/b", "c"].map(|path| dir.path().join(path));
        place(&paths.each_ref().map(|path| new_file(path, false, "x"))).unwrap();
        for path in paths {
            assert_eq!(fs::read_to_string(path).unwrap(), "x");
        }
    }
}
