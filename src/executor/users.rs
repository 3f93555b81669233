//! A user of its own for each running build.
//!
//! As root, builds get user ids out of the range that Nix uses for automatically
//! allocated ones (`start-id`, `id-count`), and mark them in the same place in the same way
//! (`<state>/userpool2/slot-<n>`, locked while in use), so that no two builds on a
//! store share one. Where `build-users-group` names a group, they get its members
//! instead (`<state>/userpool/<uid>`). An ordinary user has only its own id.
//!
//! Source: nix `src/libstore/unix/user-lock.cc`.

use std::os::fd::OwnedFd;
use std::path::Path;

use droste_settings::Accounts;
use rustix::fs::{FlockOperation, Mode, OFlags};

/// The first id of Nix's range.
const FIRST_ID: u32 = 872_415_232;

/// How many ids it has.
const ID_COUNT: u32 = 128 * IDS_PER_SLOT;

/// Each build may use this many ids; we use the first.
const IDS_PER_SLOT: u32 = 65_536;

/// Where builds of root get their users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildUsers {
    /// Ids that belong to nobody.
    Allocated {
        /// The first.
        first: u32,
        /// How many there are.
        count: u32,
    },
    /// The members of this group, by `/etc/group`.
    Group(String),
}

impl Default for BuildUsers {
    fn default() -> Self {
        Self::Allocated {
            first: FIRST_ID,
            count: ID_COUNT,
        }
    }
}

/// A build that can have no user.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// A directory or file that tells who is in use is not usable, or accounts cannot be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// There is no such group.
    #[error("the group `{0}` specified in `build-users-group` does not exist")]
    NoGroup(String),
    /// Nobody is in it.
    #[error("the build users group `{0}` has no members")]
    NoMembers(String),
    /// All of them build.
    #[error("all {count} build users are in use; consider {more}")]
    AllInUse {
        /// How many there are.
        count: usize,
        /// How there would be more.
        more: String,
    },
}

/// A user and group that no other build has.
#[derive(Debug)]
pub struct BuildUser {
    /// The user id on this machine.
    pub uid: u32,
    /// The group id on this machine.
    pub gid: u32,
    /// Holds the lock on the user.
    _lock: Option<OwnedFd>,
}

impl BuildUser {
    /// A free user.
    pub fn acquire(state_dir: &Path, users: &BuildUsers) -> Result<Self, UsersError> {
        let uid = rustix::process::geteuid();
        if !uid.is_root() {
            return Ok(Self {
                uid: uid.as_raw(),
                gid: rustix::process::getegid().as_raw(),
                _lock: None,
            });
        }
        match users {
            BuildUsers::Allocated { first, count } => Self::allocate(state_dir, *first, *count),
            BuildUsers::Group(name) => Self::of_group(
                state_dir,
                name,
                &Accounts::read().map_err(std::io::Error::other)?,
            ),
        }
    }

    fn allocate(state_dir: &Path, first: u32, count: u32) -> Result<Self, UsersError> {
        let pool = Pool::open(state_dir.join("userpool2"))?;
        for slot in 0..count / IDS_PER_SLOT {
            let Some(id) = first.checked_add(slot * IDS_PER_SLOT) else {
                break;
            };
            if let Some(lock) = pool.lock(&format!("slot-{slot}"))? {
                return Ok(Self {
                    uid: id,
                    gid: id,
                    _lock: Some(lock),
                });
            }
        }
        Err(UsersError::AllInUse {
            count: (count / IDS_PER_SLOT) as usize,
            more: "a larger `id-count`".to_owned(),
        })
    }

    fn of_group(state_dir: &Path, name: &str, accounts: &Accounts) -> Result<Self, UsersError> {
        let group = accounts
            .group(name)
            .ok_or_else(|| UsersError::NoGroup(name.to_owned()))?;
        // A member without an account is none.
        let members: Vec<u32> = group
            .members
            .iter()
            .filter_map(|member| accounts.user(member))
            .map(|user| user.uid)
            .filter(|uid| *uid != 0)
            .collect();
        if members.is_empty() {
            return Err(UsersError::NoMembers(name.to_owned()));
        }
        let pool = Pool::open(state_dir.join("userpool"))?;
        let count = members.len();
        for uid in members {
            if let Some(lock) = pool.lock(&uid.to_string())? {
                return Ok(Self {
                    uid,
                    gid: group.gid,
                    _lock: Some(lock),
                });
            }
        }
        Err(UsersError::AllInUse {
            count,
            more: format!("creating additional users and adding them to the `{name}` group"),
        })
    }
}

/// A directory with a file for each user, locked while the user builds.
struct Pool(std::path::PathBuf);

impl Pool {
    fn open(dir: std::path::PathBuf) -> std::io::Result<Self> {
        match rustix::fs::mkdir(&dir, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(Self(dir)),
            Err(error) => Err(error.into()),
        }
    }

    fn lock(&self, name: &str) -> std::io::Result<Option<OwnedFd>> {
        let file = rustix::fs::open(
            self.0.join(name),
            OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o600),
        )?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts::parse(
            b"root:x:0:0::/:/bin/sh\nb1:x:30001:30000::/:/x\nb2:x:30002:30000::/:/x\n",
            b"root:x:0:\nbuilders:x:30000:b1,b2,nobody-knows\nempty:x:7:\n",
        )
    }

    #[test]
    fn each_build_has_a_member_of_the_group_to_itself() {
        let dir = tempfile::tempdir().unwrap();
        let acquire = || BuildUser::of_group(dir.path(), "builders", &accounts());
        let (first, second) = (acquire().unwrap(), acquire().unwrap());
        assert_eq!((first.uid, first.gid), (30001, 30000));
        assert_eq!((second.uid, second.gid), (30002, 30000));
        assert!(matches!(
            acquire(),
            Err(UsersError::AllInUse { count: 2, .. })
        ));
        drop(first);
        assert_eq!(acquire().unwrap().uid, 30001);
    }

    #[test]
    fn a_group_must_be_there_and_have_members() {
        let dir = tempfile::tempdir().unwrap();
        let error = |name| BuildUser::of_group(dir.path(), name, &accounts()).unwrap_err();
        assert!(matches!(error("no-such"), UsersError::NoGroup(_)));
        assert!(matches!(error("empty"), UsersError::NoMembers(_)));
    }

    #[test]
    fn allocated_ids_are_those_of_the_range_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let acquire = || BuildUser::allocate(dir.path(), 1000, 2 * IDS_PER_SLOT);
        let (first, second) = (acquire().unwrap(), acquire().unwrap());
        assert_eq!((first.uid, second.uid), (1000, 1000 + IDS_PER_SLOT));
        assert!(matches!(
            acquire(),
            Err(UsersError::AllInUse { count: 2, .. })
        ));
    }
}
