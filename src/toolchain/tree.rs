//! File-system steps on a tree that nobody else writes to.
//!
//! The tree's files come out of verified packages into a directory of the
//! caller's own; no build has touched them.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use crate::AssembleError;
use crate::error::{failed, start_error};

/// Maps an I/O error of this operation on this path.
pub(crate) fn io_error<'a>(
    operation: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> AssembleError + 'a {
    move |source| AssembleError::Io {
        operation,
        path: path.to_owned(),
        source,
    }
}

/// What lies in a tree that is neither a directory nor anything special.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Link,
}

/// Every file and link below `root`, relative to it, sorted.
pub(crate) fn walk(root: &Path) -> Result<Vec<(PathBuf, Kind)>, AssembleError> {
    let mut found = Vec::new();
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        let path = root.join(&dir);
        for entry in fs::read_dir(&path).map_err(io_error("list", &path))? {
            let entry = entry.map_err(io_error("list", &path))?;
            let kind = entry.file_type().map_err(io_error("list", &path))?;
            let relative = dir.join(entry.file_name());
            if kind.is_dir() {
                dirs.push(relative);
            } else if kind.is_symlink() {
                found.push((relative, Kind::Link));
            } else if kind.is_file() {
                found.push((relative, Kind::File));
            }
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// Unpacks a package into `root`, through links to directories that are there.
pub(crate) fn unpack(deb: &Path, root: &Path, excludes: &[&str]) -> Result<(), AssembleError> {
    let error = |source| AssembleError::Unpack {
        path: deb.to_owned(),
        source,
    };
    let mut reader = Command::new("dpkg-deb");
    reader.arg("--fsys-tarfile").arg(deb).stdin(Stdio::null());
    let mut child = reader
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| error(start_error(&reader, source)))?;
    let mut writer = Command::new("tar");
    writer
        .args(["-x", "--no-same-owner", "--keep-directory-symlink", "-C"])
        .arg(root)
        .args(
            excludes
                .iter()
                .map(|pattern| format!("--exclude={pattern}")),
        )
        .env("LC_ALL", "C");
    if let Some(archive) = child.stdout.take() {
        writer.stdin(archive);
    }
    let written = writer.output();
    // `dpkg-deb` ends by itself once nobody can read from it: the command has
    // kept its end of the pipe.
    writer.stdin(Stdio::null());
    let read = child.wait_with_output();
    let written = written.map_err(|source| error(start_error(&writer, source)))?;
    let read = read.map_err(|source| error(start_error(&reader, source)))?;
    for (command, output) in [(&writer, written), (&reader, read)] {
        if !output.status.success() {
            return Err(error(failed(command, &output)));
        }
    }
    Ok(())
}

/// Makes absolute links relative and removes those that lead nowhere in the
/// tree.
pub(crate) fn settle_links(root: &Path) -> Result<(), AssembleError> {
    let links = || -> Result<Vec<PathBuf>, AssembleError> {
        let all = walk(root)?.into_iter();
        Ok(all
            .filter(|(_, kind)| *kind == Kind::Link)
            .map(|(path, _)| path)
            .collect())
    };
    for link in links()? {
        let path = root.join(&link);
        let target = fs::read_link(&path).map_err(io_error("read", &path))?;
        if let Ok(target) = target.strip_prefix("/") {
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
            relative_link(root, &link, target)?;
        }
    }
    // Removing a link can leave others that led through it.
    let inside = root.canonicalize().map_err(io_error("open", root))?;
    loop {
        let mut removed = false;
        for link in links()? {
            let path = root.join(&link);
            if !path.canonicalize().is_ok_and(|to| to.starts_with(&inside)) {
                fs::remove_file(&path).map_err(io_error("remove", &path))?;
                removed = true;
            }
        }
        if !removed {
            return Ok(());
        }
    }
}

/// Links `link` to `target`, both relative to the tree.
pub(crate) fn relative_link(root: &Path, link: &Path, target: &Path) -> Result<(), AssembleError> {
    let ups = link.components().count().saturating_sub(1);
    let mut relative: PathBuf = std::iter::repeat_n(Component::ParentDir, ups).collect();
    relative.push(target);
    let path = root.join(link);
    symlink(relative, &path).map_err(io_error("create", &path))
}

/// Removes a file, link or directory if it is there.
pub(crate) fn remove(path: &Path) -> Result<(), AssembleError> {
    let result = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// The first bytes of a file, at most `len`.
pub(crate) fn head(path: &Path, len: u64) -> Result<Vec<u8>, AssembleError> {
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(len).read_to_end(&mut bytes))
        .map_err(io_error("read", path))?;
    Ok(bytes)
}

/// Writes an executable file in place of whatever has this name; other links
/// to the old file keep what they had.
pub(crate) fn write_executable(path: &Path, content: &[u8]) -> Result<(), AssembleError> {
    remove(path)?;
    fs::write(path, content).map_err(io_error("write", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .map_err(io_error("change the mode of", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_links_stay_in_the_tree_and_dangling_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("usr/lib/x")).unwrap();
        fs::write(root.join("usr/lib/file"), "").unwrap();
        symlink("usr/lib", root.join("lib")).unwrap();
        symlink("/lib/file", root.join("usr/lib/x/good")).unwrap();
        symlink("/etc/passwd", root.join("usr/lib/gone")).unwrap();
        symlink("gone", root.join("usr/lib/a-gone-too")).unwrap();
        symlink("../../../../../../../../etc", root.join("usr/outside")).unwrap();
        settle_links(root).unwrap();
        let left: Vec<_> = walk(root)
            .unwrap()
            .into_iter()
            .map(|(path, _)| path)
            .collect();
        let expected = ["lib", "usr/lib/file", "usr/lib/x/good"];
        assert_eq!(left, expected.map(PathBuf::from));
        assert_eq!(
            fs::read_link(root.join("usr/lib/x/good")).unwrap(),
            Path::new("../../../lib/file")
        );
    }
}
