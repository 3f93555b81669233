//! `builtin:buildenv`: a tree of symbolic links into packages.
//!
//! A directory of one package is a link to it; one of several packages is a directory of
//! links. Where two packages have the same file, the one with the smaller priority has it,
//! and it is an error if these are equal.
//!
//! Source: nix 2.34 `src/libstore/builtins/buildenv.cc`. Names are taken in their order here,
//! and in the file system's there: which of several failures is told first may differ, and
//! nothing else.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::{DirBuilder, File, Metadata};
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use bstr::ByteSlice;

use crate::request::{Request, RequestError};
use crate::{FileError, warn};

/// The longest list of packages that a package brings along, in bytes.
const PROPAGATED_BYTES_MAX: u64 = 4 << 20;

/// The priority of the first package that another one brings along.
const FIRST_PROPAGATED_PRIORITY: i32 = 1000;

/// Why there is no environment.
#[derive(Debug, thiserror::Error)]
pub enum BuildEnvError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    File(#[from] FileError),
    /// The attribute `derivations` is not what `nix-env` makes.
    #[error("attribute 'derivations' is malformed: {0}")]
    Packages(String),
    #[error(
        "Unable to build profile. There is a conflict for the following files:\n\n  \"{}\"\n  \"{}\"",
        .first.display(), .second.display()
    )]
    Conflict { first: PathBuf, second: PathBuf },
    #[error("collision between \"{}\" and non-directory \"{}\"", .0.display(), .1.display())]
    NonDirectory(PathBuf, PathBuf),
    #[error("collision between non-directory '{}' and directory '{}'", .0.display(), .1.display())]
    Directory(PathBuf, PathBuf),
    /// A list that nobody wrote by hand.
    #[error("\"{}\" is longer than {PROPAGATED_BYTES_MAX} bytes", .0.display())]
    TooLong(PathBuf),
}

/// An installed package; in the order in which they are linked.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Package {
    priority: i32,
    path: PathBuf,
}

pub fn build(request: &Request) -> Result<(), BuildEnvError> {
    let out = request.out()?;
    let mut packages = packages(request.needed("derivations")?)?;
    packages.sort();
    make_dir(out)?;
    let mut profile = Profile::default();
    for package in packages {
        profile.add(out, &package)?;
    }
    profile.add_propagated(out)?;
    let manifest = request.needed("manifest")?;
    link(
        Path::new(OsStr::from_bytes(manifest)),
        &out.join("manifest.nix"),
    )?;
    Ok(())
}

/// The active ones of `derivations`: for each its state, its priority, how many outputs it
/// has, and these.
fn packages(text: &[u8]) -> Result<Vec<Package>, BuildEnvError> {
    let malformed = |what: &str| BuildEnvError::Packages(what.to_owned());
    let mut words = text
        .split(|byte| b" \t\n\r".contains(byte))
        .filter(|word| !word.is_empty());
    let mut packages = Vec::new();
    while let Some(active) = words.next() {
        let mut number = |what: &str| {
            let word = words
                .next()
                .ok_or_else(|| malformed(&format!("no {what}")))?;
            let number = word.to_str().ok().and_then(|word| word.parse::<i32>().ok());
            number.ok_or_else(|| malformed(&format!("'{}' is no {what}", word.as_bstr())))
        };
        let priority = number("priority")?;
        let outputs = number("number of outputs")?;
        for _ in 0..outputs {
            let path = words
                .next()
                .ok_or_else(|| malformed("fewer outputs than announced"))?;
            if active != b"false" {
                packages.push(Package {
                    priority,
                    path: PathBuf::from(OsStr::from_bytes(path)),
                });
            }
        }
    }
    Ok(packages)
}

/// The tree so far.
#[derive(Default)]
struct Profile {
    /// Of each link.
    priorities: HashMap<PathBuf, i32>,
    /// The packages that are in it.
    done: BTreeSet<PathBuf>,
    /// Those that the packages in it bring along.
    postponed: BTreeSet<PathBuf>,
}

impl Profile {
    fn add(&mut self, out: &Path, package: &Package) -> Result<(), BuildEnvError> {
        if !self.done.insert(package.path.clone()) {
            return Ok(());
        }
        self.link_all(&package.path, out, package.priority)?;
        for path in propagated(&package.path)? {
            if !self.done.contains(&path) {
                self.postponed.insert(path);
            }
        }
        Ok(())
    }

    /// Adds what packages bring along; whoever comes first wins.
    fn add_propagated(&mut self, out: &Path) -> Result<(), BuildEnvError> {
        let mut priority = FIRST_PROPAGATED_PRIORITY;
        while !self.postponed.is_empty() {
            for path in std::mem::take(&mut self.postponed) {
                self.add(out, &Package { priority, path })?;
                priority += 1;
            }
        }
        Ok(())
    }

    /// Links what is in one directory from another. How deep it goes is bounded by the length
    /// of a path and the number of links in it (path_resolution(7)).
    fn link_all(&mut self, from: &Path, to: &Path, priority: i32) -> Result<(), BuildEnvError> {
        let entries = match from.read_dir() {
            Err(error) if error.kind() == ErrorKind::NotADirectory => {
                let why = "in the user environment because it's not a directory";
                warn(&format!("not including \"{}\" {why}", from.display()));
                return Ok(());
            }
            entries => entries.map_err(FileError::new("cannot read directory", from))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(FileError::new("cannot read directory", from))?;
            names.push(entry.file_name());
        }
        names.sort();
        for name in names {
            // Not matched by `*`.
            if name.as_bytes().starts_with(b".") {
                continue;
            }
            self.link_one(from.join(&name), &to.join(&name), priority)?;
        }
        Ok(())
    }

    fn link_one(
        &mut self,
        source: PathBuf,
        target: &Path,
        priority: i32,
    ) -> Result<(), BuildEnvError> {
        let Some(found) = if_exists(source.metadata(), &source)? else {
            warn(&format!("skipping dangling symlink '{}'", target.display()));
            return Ok(());
        };
        if is_left_out(&source) {
            return Ok(());
        }
        match if_exists(target.symlink_metadata(), target)? {
            None => {}
            Some(there) if there.is_dir() => {
                if !found.is_dir() {
                    return Err(BuildEnvError::Directory(source, target.to_owned()));
                }
                return self.link_all(&source, target, priority);
            }
            Some(_) if found.is_dir() => return self.merge(source, target, priority),
            Some(_) => {
                let before = self.priorities.get(target).copied().unwrap_or_default();
                if before == priority {
                    let first = target
                        .read_link()
                        .map_err(FileError::new("cannot read link", target))?;
                    return Err(BuildEnvError::Conflict {
                        first,
                        second: source,
                    });
                }
                if before < priority {
                    return Ok(());
                }
                unlink(target)?;
            }
        }
        link(&source, target)?;
        self.priorities.insert(target.to_owned(), priority);
        Ok(())
    }

    /// A directory where a link is: becomes one with what is in both.
    fn merge(
        &mut self,
        source: PathBuf,
        target: &Path,
        priority: i32,
    ) -> Result<(), BuildEnvError> {
        let other = target
            .canonicalize()
            .map_err(FileError::new("cannot resolve", target))?;
        if !other.is_dir() {
            return Err(BuildEnvError::NonDirectory(source, other));
        }
        unlink(target)?;
        make_dir(target)?;
        let before = self.priorities.get(target).copied().unwrap_or_default();
        self.link_all(&other, target, before)?;
        self.link_all(&source, target, priority)
    }
}

/// What packages do not share: useless there, or in each of them.
fn is_left_out(source: &Path) -> bool {
    const ENDS: &[&str] = &[
        "/propagated-build-inputs",
        "/nix-support",
        "/perllocal.pod",
        "/info/dir",
        "/log",
        "/manifest.nix",
        "/manifest.json",
    ];
    let path = source.as_os_str().as_bytes();
    ENDS.iter().any(|end| path.ends_with(end.as_bytes()))
}

/// The packages that a package brings along.
fn propagated(package: &Path) -> Result<Vec<PathBuf>, BuildEnvError> {
    let file = package.join("nix-support/propagated-user-env-packages");
    let mut text = Vec::new();
    let read = File::open(&file)
        .and_then(|open| open.take(PROPAGATED_BYTES_MAX + 1).read_to_end(&mut text));
    match read {
        Err(error) if is_absence(error.kind()) => return Ok(Vec::new()),
        read => read.map_err(FileError::new("cannot read", &file))?,
    };
    if text.len() as u64 > PROPAGATED_BYTES_MAX {
        return Err(BuildEnvError::TooLong(file));
    }
    Ok(text
        .split(|byte| b" \n".contains(byte))
        .filter(|word| !word.is_empty())
        .map(|word| PathBuf::from(OsStr::from_bytes(word)))
        .collect())
}

fn is_absence(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn if_exists(found: std::io::Result<Metadata>, path: &Path) -> Result<Option<Metadata>, FileError> {
    match found {
        Err(error) if is_absence(error.kind()) => Ok(None),
        found => found
            .map(Some)
            .map_err(FileError::new("getting status of", path)),
    }
}

fn make_dir(path: &Path) -> Result<(), FileError> {
    DirBuilder::new()
        .mode(0o755)
        .create(path)
        .map_err(FileError::new("creating directory", path))
}

fn link(source: &Path, target: &Path) -> Result<(), FileError> {
    symlink(source, target).map_err(FileError::new("creating symlink", target))
}

fn unlink(path: &Path) -> Result<(), FileError> {
    std::fs::remove_file(path).map_err(FileError::new("cannot unlink", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain;
    use crate::request::tests::request;

    /// A directory with packages of these files (`name/path`, or `name/path -> target`).
    fn packages_with(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let (path, target) = match file.split_once(" -> ") {
                Some((path, target)) => (path, Some(target)),
                None => (*file, None),
            };
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            match target {
                Some(target) => symlink(target, &path).unwrap(),
                None => std::fs::write(&path, file).unwrap(),
            }
        }
        dir
    }

    /// Every link below `out`, relative to the packages' directory.
    fn links(dir: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut dirs = vec![dir.join("out")];
        while let Some(next) = dirs.pop() {
            for entry in next.read_dir().unwrap() {
                let path = entry.unwrap().path();
                let name = path
                    .strip_prefix(dir.join("out"))
                    .unwrap()
                    .display()
                    .to_string();
                match path.read_link() {
                    Ok(target) => {
                        let target = target
                            .strip_prefix(dir)
                            .unwrap_or(&target)
                            .display()
                            .to_string();
                        found.push(format!("{name} -> {target}"));
                    }
                    Err(_) => dirs.push(path),
                }
            }
        }
        found.retain(|link| link != "manifest.nix -> /manifest");
        found.sort();
        found
    }

    /// Builds from `active priority package` triples.
    fn built(dir: &Path, packages: &[(&str, i32, &str)]) -> Result<Vec<String>, String> {
        let text: String = packages
            .iter()
            .map(|(active, priority, name)| {
                format!("{active} {priority} 1 {}\n", dir.join(name).display())
            })
            .collect();
        let env: &[(&str, &[u8])] = &[("derivations", text.as_bytes()), ("manifest", b"/manifest")];
        build(&request("buildenv", &dir.join("out"), env))
            .map(|()| links(dir))
            .map_err(|error| chain(&error).replace(&*dir.to_string_lossy(), ""))
    }

    #[test]
    fn a_directory_of_one_package_is_a_link_and_one_of_two_is_not() {
        let dir = packages_with(&[
            "a/bin/x",
            "a/lib/l",
            "b/bin/y",
            "b/.hidden",
            "b/log",
            "b/info/dir",
        ]);
        assert_eq!(
            built(dir.path(), &[("true", 5, "a"), ("true", 5, "b")]).unwrap(),
            [
                "bin/x -> a/bin/x",
                "bin/y -> b/bin/y",
                "info -> b/info",
                "lib -> a/lib"
            ]
        );
    }

    #[test]
    fn the_smaller_priority_wins_whoever_comes_first_and_what_is_not_active_is_not_there() {
        let dir = packages_with(&["a/bin/x", "b/bin/x", "c/bin/x"]);
        for order in [["a", "b", "c"], ["c", "b", "a"]] {
            let packages = order.map(|name| match name {
                "a" => ("true", 7, "a"),
                "b" => ("yes", -1, "b"),
                _ => ("false", -2, "c"),
            });
            assert_eq!(built(dir.path(), &packages).unwrap(), ["bin/x -> b/bin/x"]);
            std::fs::remove_dir_all(dir.path().join("out")).unwrap();
        }
    }

    #[test]
    fn equal_priorities_are_a_conflict() {
        let dir = packages_with(&["a/bin/x", "b/bin/x"]);
        assert_eq!(
            built(dir.path(), &[("true", 5, "b"), ("true", 5, "a")]).unwrap_err(),
            "Unable to build profile. There is a conflict for the following files:\n\n  \
             \"/a/bin/x\"\n  \"/b/bin/x\""
        );
    }

    #[test]
    fn a_file_and_a_directory_of_the_same_name_collide() {
        let dir = packages_with(&["a/x/y", "b/x", "c/x/z"]);
        let built = |packages: &[(&str, i32, &str)]| {
            let _ = std::fs::remove_dir_all(dir.path().join("out"));
            built(dir.path(), packages).unwrap_err()
        };
        assert_eq!(
            built(&[("true", 1, "a"), ("true", 2, "c"), ("true", 3, "b")]),
            "collision between non-directory '/b/x' and directory '/out/x'"
        );
        assert_eq!(
            built(&[("true", 1, "b"), ("true", 2, "a")]),
            "collision between \"/a/x\" and non-directory \"/b/x\""
        );
    }

    #[test]
    fn packages_bring_others_along_behind_all_that_are_installed() {
        let dir = packages_with(&["a/bin/x", "b/bin/x", "b/bin/y", "c/bin/y", "c/bin/z"]);
        for (name, others) in [("a", "b /nowhere-but-known"), ("b", "c a"), ("c", "b")] {
            let support = dir.path().join(name).join("nix-support");
            std::fs::create_dir(&support).unwrap();
            let text = others
                .split(' ')
                .map(|other| dir.path().join(other).display().to_string())
                .collect::<Vec<_>>()
                .join("\n");
            std::fs::write(support.join("propagated-user-env-packages"), text).unwrap();
        }
        let error = built(dir.path(), &[("true", 5, "a")]).unwrap_err();
        assert_eq!(
            error,
            "cannot read directory \"/nowhere-but-known\": No such file or directory"
        );
        std::fs::remove_dir_all(dir.path().join("out")).unwrap();
        let support = dir
            .path()
            .join("a/nix-support/propagated-user-env-packages");
        std::fs::write(support, dir.path().join("b").display().to_string()).unwrap();
        assert_eq!(
            built(dir.path(), &[("true", 5, "a")]).unwrap(),
            ["bin/x -> a/bin/x", "bin/y -> b/bin/y", "bin/z -> c/bin/z"]
        );
    }

    #[test]
    fn links_are_followed_and_those_to_nowhere_are_left_out() {
        let dir = packages_with(&[
            "a/bin/x",
            "b/bin -> ../a/bin",
            "c/bin/y",
            "c/gone -> nowhere",
            "d",
        ]);
        assert_eq!(
            built(
                dir.path(),
                &[("true", 1, "b"), ("true", 2, "c"), ("true", 3, "d")]
            )
            .unwrap(),
            ["bin/x -> a/bin/x", "bin/y -> c/bin/y"]
        );
    }

    #[rstest::rstest]
    #[case::no_priority("true", "no priority")]
    #[case::bad_priority("true x 1 /a", "'x' is no priority")]
    #[case::no_outputs("true 1 2 /a", "fewer outputs than announced")]
    fn a_malformed_list_is_refused(#[case] text: &str, #[case] why: &str) {
        let error = packages(text.as_bytes()).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("attribute 'derivations' is malformed: {why}")
        );
    }
}
