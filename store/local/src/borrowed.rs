//! Objects that lie in another store's directory.
//!
//! A store may *borrow* objects from a store with the same logical directory, such as the
//! machine's own: the database has a row for them, as for all that is valid, and a row in a table
//! of Droste's, `DrosteBorrowed`, but the object lies with the *lender*. So an input of a build
//! need not be copied, and what is built from it may refer to it.
//!
//! The lender may collect what it lends, at any time that nobody holds it there. A borrowed path
//! is valid as long as the lender has it, and is borrowed anew, with what the lender then says of
//! it, or added as an object of this store's own.
//!
//! Nix does not know the table: to its `--verify`, borrowed paths have disappeared.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::{Connection, OptionalExtension};
use store_nar::fs;
use store_types::{PathInfo, StorePath};

use crate::db::DbError;
use crate::store::{kept_signatures, path_id};
use crate::{LocalError, LocalStore, Registration};

/// The table; what it says is lost if Nix deletes the path.
const TABLE: &str = "create table if not exists DrosteBorrowed (
    id integer primary key not null,
    foreign key (id) references ValidPaths(id) on delete cascade
)";

/// The other store's directory of objects.
struct Lender {
    path: PathBuf,
    fd: OwnedFd,
}

/// What a store knows of its borrowing.
#[derive(Default)]
pub(crate) struct Borrowing {
    lender: OnceLock<Lender>,
    /// Whether the database has the table.
    has_table: AtomicBool,
}

impl Borrowing {
    /// Of a store with this database.
    pub(crate) fn of(connection: &Connection) -> Result<Self, rusqlite::Error> {
        let has_table = connection.query_row(
            "select count(*) from sqlite_master where type = 'table' and name = 'DrosteBorrowed'",
            [],
            |row| row.get::<_, i64>(0),
        )? > 0;
        Ok(Self {
            lender: OnceLock::new(),
            has_table: AtomicBool::new(has_table),
        })
    }

    /// The lender, if it has an object of this name.
    fn lender_of(&self, base_name: &OsStr) -> Option<&Lender> {
        self.lender.get().filter(|lender| {
            matches!(
                fs::stat_if_exists(lender.fd.as_fd(), base_name),
                Ok(Some(_))
            )
        })
    }

    fn lender_has(&self, path: &StorePath) -> bool {
        self.lender_of(OsStr::new(path.base_name())).is_some()
    }
}

impl LocalStore {
    /// Objects that this store does not have may lie in `directory`, another store's directory
    /// of objects, from now on. A store has one lender at most: a second call is ignored.
    pub fn set_lender(&self, directory: &Path) -> Result<(), LocalError> {
        let fd = fs::open_root(directory).map_err(LocalError::io("open", directory))?;
        let path = directory.to_owned();
        // Whoever was first has it.
        let _ = self.borrowing.lender.set(Lender { path, fd });
        Ok(())
    }

    /// Whether the lender has an object at this path.
    pub fn is_lent(&self, path: &StorePath) -> bool {
        self.borrowing.lender_has(path)
    }

    /// Makes paths valid whose objects the lender has, all or none; those of which this store has
    /// a valid object of its own stay as they are. What they refer to must be among them or valid.
    ///
    /// What `infos` say is believed: the lender's database vouches for it.
    pub fn borrow(&self, infos: &[PathInfo]) -> Result<(), LocalError> {
        if let Some(info) = infos
            .iter()
            .find(|info| !self.borrowing.lender_has(&info.path))
        {
            return Err(LocalError::NotLent {
                path: info.path.clone(),
            });
        }
        if !self.borrowing.has_table.load(Ordering::Acquire) {
            self.db().write("prepare for borrowing", |tx| {
                tx.execute_batch(TABLE)?;
                Ok(())
            })?;
            self.borrowing.has_table.store(true, Ordering::Release);
        }
        let paths: BTreeSet<StorePath> = infos.iter().map(|info| info.path.clone()).collect();
        for path in &paths {
            self.add_temp_root(path)?;
        }
        let locks = self.lock_paths(&paths)?;
        let known = self.path_infos(&paths)?;
        // What is valid and borrowed may have been made again, with another content.
        let missing: Vec<&PathInfo> = infos
            .iter()
            .filter(|info| match known.get(&info.path) {
                Some(known) => {
                    known.nar_hash != info.nar_hash
                        && !self.has_own(OsStr::new(info.path.base_name()))
                }
                None => true,
            })
            .collect();
        for info in missing
            .iter()
            .filter(|info| !known.contains_key(&info.path))
        {
            // An object of our own would hide the lender's; it is not valid.
            self.remove_invalid(&info.path)?;
        }
        let registrations: Vec<Registration> = missing
            .iter()
            .map(|info| {
                let mut info = (*info).clone();
                // What its database has and is no signature says nothing.
                info.signatures = kept_signatures(&info.signatures);
                Registration::new(info)
            })
            .collect();
        self.register_with(&registrations, |tx| {
            let mut insert =
                tx.prepare_cached("insert or ignore into DrosteBorrowed (id) values (?1)")?;
            for info in &missing {
                if let Some(id) = path_id(tx, &self.dir.display(&info.path))? {
                    insert.execute([id])?;
                }
            }
            Ok(())
        })?;
        drop(locks);
        Ok(())
    }

    /// The directory in which the object of this base name lies, or would lie.
    pub fn dir_of(&self, base_name: &OsStr) -> BorrowedFd<'_> {
        self.lending(base_name)
            .map_or(self.store_fd(), |lender| lender.fd.as_fd())
    }

    /// Where the object of a path is, or would be: in this store, or with the lender.
    pub fn physical_path(&self, path: &StorePath) -> PathBuf {
        let name = OsStr::new(path.base_name());
        self.lending(name)
            .map_or(&self.layout.store, |lender| &lender.path)
            .join(name)
    }

    /// The lender, if it has the object of this name and this store does not.
    fn lending(&self, base_name: &OsStr) -> Option<&Lender> {
        // A store without a lender, which is most, looks at nothing.
        self.borrowing.lender.get()?;
        match self.has_own(base_name) {
            true => None,
            false => self.borrowing.lender_of(base_name),
        }
    }

    /// Whether a path with a row is lost: borrowed, and the lender does not have it any more.
    pub(crate) fn is_lost(
        &self,
        connection: &Connection,
        id: i64,
        path: &StorePath,
    ) -> Result<bool, rusqlite::Error> {
        Ok(self.is_borrowed(connection, id)? && !self.borrowing.lender_has(path))
    }

    /// Whether the object of the path with this row lies with the lender.
    pub(crate) fn is_borrowed(
        &self,
        connection: &Connection,
        id: i64,
    ) -> Result<bool, rusqlite::Error> {
        if !self.borrowing.has_table.load(Ordering::Acquire) {
            return Ok(false);
        }
        let found = connection
            .prepare_cached("select 1 from DrosteBorrowed where id = ?1")?
            .query_row([id], |_| Ok(()))
            .optional()?;
        Ok(found.is_some())
    }

    /// Forgets what is known of a borrowed path, before it is registered anew. It is no longer
    /// borrowed if this store has an object of its own there now. Its row stays, since others may
    /// refer to it.
    pub(crate) fn give_back(
        &self,
        tx: &Connection,
        id: i64,
        path: &StorePath,
    ) -> Result<(), DbError> {
        tx.prepare_cached("delete from Refs where referrer = ?1")?
            .execute([id])?;
        if self.has_own(OsStr::new(path.base_name())) {
            tx.prepare_cached("delete from DrosteBorrowed where id = ?1")?
                .execute([id])?;
        }
        Ok(())
    }

    /// Whether an object of this name lies in this store, and not with the lender. What cannot be
    /// found out counts as one.
    fn has_own(&self, base_name: &OsStr) -> bool {
        !matches!(fs::stat_if_exists(self.store_fd(), base_name), Ok(None))
    }
}
