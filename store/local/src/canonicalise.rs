//! Making a tree what every object in a store is: nothing but contents, names,
//! link targets and one executable bit.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use store_nar::fs::{self, Entry, Kind, STORE_MTIME_SECONDS, Stat};
use store_nar::{DEPTH_MAX, NarError};

use crate::LocalError;

/// Extended attributes that stay: the system puts them on every file, and does
/// not let them be removed. Source: Nix manual, setting `ignored-acls`.
const IGNORED_XATTRS: [&str; 3] = ["security.selinux", "system.nfs4_acl", "security.csm"];

/// Makes the trees of one build canonical, one after the other: its outputs may
/// share files by hard links.
///
/// All processes that could write to the trees must have ended, and until the
/// last tree is done nothing may be removed from those before it: what the
/// canonicaliser remembers of them are numbers of inodes.
#[derive(Debug)]
pub struct Canonicaliser {
    expected_uids: Option<RangeInclusive<u32>>,
    /// Device and inode of files with several names that are canonical by now.
    seen: HashSet<(u64, u64)>,
    own_uid: u32,
}

impl Canonicaliser {
    /// For trees whose files belong to these users; to anybody if it is `None`.
    pub fn new(expected_uids: Option<RangeInclusive<u32>>) -> Self {
        Self {
            expected_uids,
            seen: HashSet::new(),
            own_uid: rustix::process::geteuid().as_raw(),
        }
    }

    /// Makes the tree that `name` in `dir` is canonical, whoever built it.
    ///
    /// Files get the mode 0444, or 0555 if their owner may execute them,
    /// directories 0555, everything the modification time 1 and the calling
    /// process as its owner; set-user-id bits and extended attributes go. The
    /// order is such that a builder's directories without permissions do no harm.
    ///
    /// Refused, by name: a node that is neither a regular file nor a directory nor
    /// a symbolic link; a root that its group or everybody may write to; and what
    /// is owned by anybody but the expected users, unless it is a further hard
    /// link of a file seen before, in this tree or another one, which has its new
    /// owner already. So a builder cannot have foreign files taken over by linking
    /// them into its output.
    ///
    /// Source: nix `src/libstore/posix-fs-canonicalise.cc`.
    pub fn tree(&mut self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), LocalError> {
        let mut work = Work {
            build: self,
            path: PathBuf::from(name),
        };
        let stat = fs::stat(dir, name).map_err(work.io("examine"))?;
        if Kind::of(&stat) != Kind::Symlink && stat.st_mode & 0o022 != 0 {
            return Err(LocalError::WritableByOthers { path: work.path });
        }
        let mut stack: Vec<(OwnedFd, Vec<Entry>)> = Vec::new();
        stack.extend(work.node(dir, name, &stat)?);
        while let Some((fd, entries)) = stack.last_mut() {
            let Some(entry) = entries.pop() else {
                stack.pop();
                work.path.pop();
                continue;
            };
            work.path.push(&entry.name);
            let stat = fs::stat(fd.as_fd(), &entry.name).map_err(work.io("examine"))?;
            match work.node(fd.as_fd(), &entry.name, &stat)? {
                Some(_) if stack.len() == DEPTH_MAX => {
                    return Err(LocalError::Tree {
                        operation: "canonicalise",
                        object: name.to_string_lossy().into_owned(),
                        source: NarError::TooDeep { path: work.path },
                    });
                }
                Some(child) => stack.push(child),
                None => {
                    work.path.pop();
                }
            }
        }
        Ok(())
    }
}

/// Makes one tree canonical; see [`Canonicaliser::tree`].
pub fn canonicalise(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    expected_uids: Option<RangeInclusive<u32>>,
) -> Result<(), LocalError> {
    Canonicaliser::new(expected_uids).tree(dir, name)
}

/// One tree on its way.
struct Work<'a> {
    build: &'a mut Canonicaliser,
    /// The node, for messages.
    path: PathBuf,
}

impl Work<'_> {
    fn io(&self, operation: &'static str) -> impl FnOnce(io::Error) -> LocalError + '_ {
        LocalError::io(operation, &self.path)
    }

    /// Makes one node canonical; of a directory, what is in it.
    fn node(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        stat: &Stat,
    ) -> Result<Option<(OwnedFd, Vec<Entry>)>, LocalError> {
        let kind = Kind::of(stat);
        if let Kind::Other(kind) = kind {
            return Err(LocalError::Tree {
                operation: "canonicalise",
                object: name.to_string_lossy().into_owned(),
                source: NarError::UnsupportedNode {
                    path: self.path.clone(),
                    kind,
                },
            });
        }
        let inode = (stat.st_dev, stat.st_ino);
        let has_other_names = kind != Kind::Directory && stat.st_nlink > 1;
        if let Some(uids) = &self.build.expected_uids
            && !uids.contains(&stat.st_uid)
        {
            if has_other_names && self.build.seen.contains(&inode) {
                return Ok(None);
            }
            return Err(LocalError::Ownership {
                path: self.path.clone(),
                uid: stat.st_uid,
            });
        }
        if has_other_names && !self.build.seen.insert(inode) {
            return Ok(None);
        }
        let mut opened = None;
        if kind != Kind::Symlink {
            let mode = match kind {
                Kind::Directory => 0o555,
                _ if stat.st_mode & 0o100 != 0 => 0o555,
                _ => 0o444,
            };
            opened = Some(self.set_mode(dir, name, stat, mode)?);
        }
        if stat.st_mtime != STORE_MTIME_SECONDS {
            fs::set_store_mtime(dir, name).map_err(self.io("set the time of"))?;
        }
        if stat.st_uid != self.build.own_uid {
            fs::chown_to_self(dir, name).map_err(self.io("take over"))?;
        }
        match opened {
            Some(fd) if kind == Kind::Directory => {
                let entries = fs::list(fd.as_fd()).map_err(self.io("list"))?;
                Ok(Some((fd, entries)))
            }
            _ => Ok(None),
        }
    }

    /// Removes extended attributes and sets the mode of a file or directory.
    fn set_mode(
        &self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        stat: &Stat,
        mode: u32,
    ) -> Result<OwnedFd, LocalError> {
        let open = || -> io::Result<OwnedFd> {
            if Kind::of(stat) == Kind::Directory {
                fs::open_dir(dir, name)
            } else {
                fs::open_file(dir, name)
            }
        };
        let mut current = stat.st_mode & 0o7777;
        let mut result = open();
        if let Err(error) = &result
            && error.kind() == io::ErrorKind::PermissionDenied
        {
            let node = fs::open_node(dir, name).map_err(self.io("open"))?;
            let found = fs::stat_fd(&node).map_err(self.io("examine"))?;
            self.check_same(stat, &found)?;
            fs::set_mode_of_node(node.as_fd(), mode).map_err(self.io("set the mode of"))?;
            current = mode;
            result = open();
        }
        let fd = result.map_err(self.io("open"))?;
        self.check_same(stat, &fs::stat_fd(&fd).map_err(self.io("examine"))?)?;
        let xattrs = fs::list_xattrs(&fd).map_err(self.io("list the attributes of"))?;
        for xattr in xattrs {
            if IGNORED_XATTRS.iter().any(|ignored| xattr == *ignored) {
                continue;
            }
            // Who may not write to a file may not remove its attributes either.
            if current & 0o200 == 0 {
                current = mode | 0o200;
                fs::set_mode(&fd, current).map_err(self.io("set the mode of"))?;
            }
            fs::remove_xattr(&fd, &xattr).map_err(self.io("remove an attribute of"))?;
            // An access control list had a hand in the mode.
            current = u32::MAX;
        }
        if current != mode {
            fs::set_mode(&fd, mode).map_err(self.io("set the mode of"))?;
        }
        Ok(fd)
    }

    /// An error if the name has come to mean another node.
    fn check_same(&self, before: &Stat, now: &Stat) -> Result<(), LocalError> {
        if (before.st_dev, before.st_ino) == (now.st_dev, now.st_ino) {
            return Ok(());
        }
        Err(self.io("hold on to")(io::Error::other(
            "another node has taken its name",
        )))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, chown};
    use std::path::Path;

    use super::*;

    const BUILDER: u32 = 4242;

    /// A file in a tree of the builder's.
    fn write(dir: &Path, tree: &str, file: &str, owner: u32) {
        let tree = dir.join(tree);
        if !tree.exists() {
            std::fs::create_dir(&tree).unwrap();
            chown(&tree, Some(BUILDER), None).unwrap();
        }
        std::fs::write(tree.join(file), "content").unwrap();
        chown(tree.join(file), Some(owner), None).unwrap();
    }

    #[test]
    fn trees_of_one_build_may_share_files_of_the_builder_and_nobody_elses() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: files of several owners, because this user is not root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        write(at, "out", "a", BUILDER);
        write(at, "dev", "other", BUILDER);
        std::fs::hard_link(at.join("out/a"), at.join("dev/b")).unwrap();
        let parent = std::fs::File::open(at).unwrap();
        let mut build = Canonicaliser::new(Some(BUILDER..=BUILDER));
        build.tree(parent.as_fd(), OsStr::new("out")).unwrap();
        build.tree(parent.as_fd(), OsStr::new("dev")).unwrap();
        let shared = std::fs::metadata(at.join("dev/b")).unwrap();
        assert_eq!((shared.uid(), shared.mode() & 0o7777), (0, 0o444));

        let mut another = Canonicaliser::new(Some(BUILDER..=BUILDER));
        write(at, "foreign", "mine", BUILDER);
        write(at, "elsewhere", "theirs", BUILDER + 1);
        std::fs::hard_link(at.join("elsewhere/theirs"), at.join("foreign/link")).unwrap();
        std::fs::hard_link(at.join("elsewhere/theirs"), at.join("foreign/again")).unwrap();
        let error = another
            .tree(parent.as_fd(), OsStr::new("foreign"))
            .unwrap_err();
        assert!(matches!(error, LocalError::Ownership { .. }), "{error}");
        let theirs = std::fs::metadata(at.join("elsewhere/theirs")).unwrap();
        assert_eq!(theirs.uid(), BUILDER + 1);
    }
}
