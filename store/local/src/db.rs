//! The database's connection: pragmas, transactions, errors.
//!
//! Where tables are joined, parameters are written `+?1`: the bundled SQLite has `STAT4`, and plans
//! such a statement anew for each value that a column is compared with by itself (sqlite3_prepare(3)).
//! That takes longer than the query.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use store_nar::fs;

use crate::schema::{CA_TABLES, PROBES, TABLES};
use crate::{LocalError, migrations};

/// How long one attempt waits for another process's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);
/// How many attempts there are; a process may be stopped in a transaction.
const BUSY_ATTEMPTS: usize = 5;
/// Statements kept prepared: more than there are.
const STATEMENTS_MAX: usize = 64;

/// A database that is open.
pub(crate) struct Db {
    path: PathBuf,
    connection: Mutex<Connection>,
    read_only: bool,
}

/// An error inside a transaction: of the database, or of what was asked for.
pub(crate) enum DbError {
    Sqlite(rusqlite::Error),
    Local(LocalError),
}

impl From<rusqlite::Error> for DbError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<LocalError> for DbError {
    fn from(error: LocalError) -> Self {
        Self::Local(error)
    }
}

impl Db {
    /// Makes the tables in a database that has none, or whose making was broken off.
    pub(crate) fn create(root: &Path, path: &Path) -> Result<(), LocalError> {
        let create = || -> Result<(), rusqlite::Error> {
            let mut connection = connect(path, OpenFlags::SQLITE_OPEN_CREATE)?;
            let tx = connection.transaction_with_behavior(TransactionBehavior::Exclusive)?;
            tx.execute_batch(TABLES)?;
            tx.execute_batch(CA_TABLES)?;
            tx.commit()
        };
        create().map_err(|error| unusable(root, path, error))
    }

    /// Brings a database up to date that has this number in the file `schema`.
    pub(crate) fn upgrade(root: &Path, path: &Path, schema: u32) -> Result<(), LocalError> {
        let upgrade = || migrations::upgrade(&mut connect(path, OpenFlags::empty())?, schema);
        upgrade().map_err(|error| unusable(root, path, error))
    }

    /// Opens a database that nobody writes to, without a lock and without files beside it.
    pub(crate) fn open_immutable(root: &Path, path: &Path) -> Result<Self, LocalError> {
        use std::os::unix::ffi::OsStrExt;
        let mut uri = String::from("file:");
        for byte in path.as_os_str().as_bytes() {
            uri.push_str(&format!("%{byte:02X}"));
        }
        uri.push_str("?immutable=1");
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_URI;
        let open = || -> Result<Connection, rusqlite::Error> {
            let connection = Connection::open_with_flags(&uri, flags)?;
            for (_, probe) in PROBES {
                connection.prepare(probe)?;
            }
            Ok(connection)
        };
        let connection = open().map_err(|error| unusable(root, path, error))?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        Ok(Self {
            path: path.to_owned(),
            connection: Mutex::new(connection),
            read_only: true,
        })
    }

    /// Opens a database, and makes sure that it is one of Nix's.
    pub(crate) fn open(root: &Path, path: &Path) -> Result<Self, LocalError> {
        if !path.exists() {
            return Err(LocalError::Unusable {
                root: root.to_owned(),
                reason: format!("its database `{}` is missing", path.display()),
                advice: "restore it, or use another store directory",
                source: None,
            });
        }
        let open = || -> Result<Connection, rusqlite::Error> {
            let mut connection = connect(path, OpenFlags::empty())?;
            let has_realisations: bool = connection.query_row(
                "select count(*) = 2 from sqlite_master
                 where type = 'table' and name in ('Realisations', 'RealisationsRefs')",
                [],
                |row| row.get(0),
            )?;
            for (_, probe) in PROBES {
                connection.prepare(probe)?;
            }
            // A store of a Nix without the feature has no tables for realisations, and Nix 2.4 had
            // others.
            let is_old = migrations::has_unnumbered_realisations(&connection)?;
            if !has_realisations || is_old {
                let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                if migrations::has_unnumbered_realisations(&tx)? {
                    migrations::number_realisations(&tx)?;
                }
                tx.execute_batch(CA_TABLES)?;
                tx.commit()?;
            }
            Ok(connection)
        };
        let connection = open().map_err(|error| unusable(root, path, error))?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        Ok(Self {
            path: path.to_owned(),
            connection: Mutex::new(connection),
            read_only: false,
        })
    }

    /// Runs queries; all that one call asks for is of one state of the database.
    pub(crate) fn read<T>(
        &self,
        operation: &'static str,
        mut body: impl FnMut(&Connection) -> Result<T, DbError>,
    ) -> Result<T, LocalError> {
        self.attempt(operation, |connection| {
            let tx = Begun::new(connection, "begin deferred")?;
            body(tx.connection)
        })
    }

    /// Runs one query that needs no transaction around it.
    pub(crate) fn read_one<T>(
        &self,
        operation: &'static str,
        mut body: impl FnMut(&Connection) -> Result<T, DbError>,
    ) -> Result<T, LocalError> {
        self.attempt(operation, |connection| body(connection))
    }

    /// Runs a transaction that writes: all of it, or nothing.
    pub(crate) fn write<T>(
        &self,
        operation: &'static str,
        mut body: impl FnMut(&Connection) -> Result<T, DbError>,
    ) -> Result<T, LocalError> {
        if self.read_only {
            return Err(LocalError::ReadOnly {
                operation,
                place: self.path.clone(),
            });
        }
        let fault = || fs::fault_point().map_err(LocalError::io(operation, &self.path));
        self.attempt(operation, |connection| {
            fault()?;
            // Immediate: one that turns from reading to writing could fail however
            // long it waits.
            let tx = Begun::new(connection, "begin immediate")?;
            let value = body(tx.connection)?;
            fault()?;
            tx.commit()?;
            fault()?;
            Ok(value)
        })
    }

    fn attempt<T>(
        &self,
        operation: &'static str,
        mut body: impl FnMut(&mut Connection) -> Result<T, DbError>,
    ) -> Result<T, LocalError> {
        // A panic in a transaction has rolled it back.
        let mut connection = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut attempts = 1;
        loop {
            match body(&mut connection) {
                Ok(value) => return Ok(value),
                Err(DbError::Local(error)) => return Err(error),
                Err(DbError::Sqlite(error))
                    if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                        && attempts < BUSY_ATTEMPTS =>
                {
                    attempts += 1;
                }
                Err(DbError::Sqlite(source)) => {
                    return Err(LocalError::Database {
                        operation,
                        path: self.path.clone(),
                        source,
                    });
                }
            }
        }
    }
}

/// A transaction, rolled back unless it is committed. rusqlite's has its own statements parsed anew
/// each time, which takes longer than what is between them.
struct Begun<'c> {
    connection: &'c Connection,
}

impl<'c> Begun<'c> {
    fn new(connection: &'c Connection, begin: &str) -> Result<Self, rusqlite::Error> {
        connection.prepare_cached(begin)?.execute([])?;
        Ok(Self { connection })
    }

    fn commit(self) -> Result<(), rusqlite::Error> {
        // If that fails there may still be a transaction, and if not, there is none to roll back.
        self.connection.prepare_cached("commit")?.execute([])?;
        Ok(())
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        // SQLite itself has rolled back after some errors.
        if !self.connection.is_autocommit() {
            let rollback = self.connection.prepare_cached("rollback");
            let _ = rollback.and_then(|mut rollback| rollback.execute([]));
        }
    }
}

/// Opens the file with Nix's settings: write-ahead log, no waiting for the disk
/// but at checkpoints, foreign keys enforced.
fn connect(path: &Path, extra: OpenFlags) -> Result<Connection, rusqlite::Error> {
    // One connection is used by one thread at a time, behind a mutex of ours.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | extra;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let mode: String = connection.query_row("pragma main.journal_mode", [], |row| row.get(0))?;
    if mode != "wal" {
        connection.query_row("pragma main.journal_mode = wal", [], |_| Ok(()))?;
    }
    connection.execute_batch(
        "pragma synchronous = normal;
         pragma foreign_keys = 1;",
    )?;
    // Answers with the new value.
    connection.query_row("pragma wal_autocheckpoint = 40000", [], |_| Ok(()))?;
    Ok(connection)
}

fn unusable(root: &Path, path: &Path, error: rusqlite::Error) -> LocalError {
    let (reason, advice) = match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => (
            "is not an SQLite database",
            "restore it, or use another store directory",
        ),
        Some(ErrorCode::DatabaseCorrupt) => (
            "is damaged",
            "restore it, or delete it together with `schema` and register the paths again",
        ),
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            ("cannot be opened", "check who owns it and its directory")
        }
        Some(ErrorCode::ReadOnly) => ("cannot be written", "check who owns it and its directory"),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (
            "is locked by another process",
            "try again when that has ended",
        ),
        Some(ErrorCode::Unknown) => (
            "does not have Nix's tables",
            "use the program that made it, or another store directory",
        ),
        _ => ("failed", "try again, or use another store directory"),
    };
    LocalError::Unusable {
        root: root.to_owned(),
        reason: format!("its database `{}` {reason}", path.display()),
        advice,
        source: Some(Box::new(error)),
    }
}
