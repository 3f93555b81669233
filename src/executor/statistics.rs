//! What became of all compiler calls of a memo, over many processes.
//!
//! Calls are counted in memory; [`Statistics::flush`] adds what was counted since to a
//! small database beside the index of children. Counters may be lost, with a crash or with
//! the file; nothing depends on them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, params};

use crate::context::{ChildCounts, Counted};

/// A change of the tables' meaning changes their names.
const SCHEMA: &str = "
    pragma journal_mode = wal;
    pragma synchronous = off;
    create table if not exists Counters1 (
        name text primary key not null,
        value integer not null
    ) without rowid;
    create table if not exists Times1 (
        name text primary key not null,
        seconds integer not null
    ) without rowid;
";

/// Another process writes for no longer than this.
const BUSY_MAX: Duration = Duration::from_secs(5);

/// Counters that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the statistics `{}`", path.display())]
pub struct StatisticsError {
    path: PathBuf,
    #[source]
    source: rusqlite::Error,
}

/// All counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// What became of compiler calls.
    pub calls: ChildCounts,
    /// When they were last added to, in seconds since 1970; 0 for never.
    pub updated_seconds: u64,
    /// When they were last set to zero, in the same way.
    pub zeroed_seconds: u64,
}

/// The counters of one memo.
pub struct Statistics {
    path: PathBuf,
    pending: Mutex<ChildCounts>,
}

impl Statistics {
    /// The counters of the store with this state directory; nothing is opened yet.
    pub fn new(droste_state: &Path) -> Self {
        Self {
            path: droste_state.join("statistics.sqlite"),
            pending: Mutex::default(),
        }
    }

    /// Counts one call.
    pub(crate) fn count(&self, counted: &Counted) {
        self.pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .count(counted);
    }

    fn error(&self) -> impl Fn(rusqlite::Error) -> StatisticsError {
        |source| StatisticsError {
            path: self.path.clone(),
            source,
        }
    }

    fn open(&self) -> rusqlite::Result<Connection> {
        let database = Connection::open(&self.path)?;
        database.busy_timeout(BUSY_MAX)?;
        database.execute_batch(SCHEMA)?;
        Ok(database)
    }

    /// Adds what was counted since the last time to the database.
    ///
    /// # Errors
    /// If it cannot be written; what was counted is kept for the next time.
    pub fn flush(&self) -> Result<(), StatisticsError> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if *pending == ChildCounts::default() {
            return Ok(());
        }
        let rows = pending.rows();
        let write = || {
            let mut database = self.open()?;
            let change = database.transaction()?;
            for (name, value) in &rows {
                change.execute(
                    "insert into Counters1 (name, value) values (?1, ?2)
                     on conflict (name) do update set value = value + ?2",
                    params![name, i64::try_from(*value).unwrap_or(i64::MAX)],
                )?;
            }
            set_time(&change, "updated")?;
            change.commit()
        };
        write().map_err(self.error())?;
        *pending = ChildCounts::default();
        Ok(())
    }

    /// Reads the database, without what was not yet flushed.
    ///
    /// # Errors
    /// If there is one that cannot be read.
    pub fn read(&self) -> Result<Totals, StatisticsError> {
        let read = || {
            if !self.path.exists() {
                return Ok(Totals::default());
            }
            let database = self.open()?;
            let mut query = database.prepare("select name, value from Counters1")?;
            let rows: Vec<(String, i64)> = query
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<_>>()?;
            let rows = rows
                .into_iter()
                .map(|(name, value)| (name, u64::try_from(value).unwrap_or(0)));
            Ok(Totals {
                calls: ChildCounts::from_rows(rows),
                updated_seconds: time(&database, "updated")?,
                zeroed_seconds: time(&database, "zeroed")?,
            })
        };
        read().map_err(self.error())
    }

    /// Sets all counters to zero.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub fn zero(&self) -> Result<(), StatisticsError> {
        *self.pending.lock().unwrap_or_else(PoisonError::into_inner) = ChildCounts::default();
        let write = || {
            let mut database = self.open()?;
            let change = database.transaction()?;
            change.execute("delete from Counters1", [])?;
            change.execute("delete from Times1", [])?;
            set_time(&change, "zeroed")?;
            change.commit()
        };
        write().map_err(self.error())
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _ = self.flush();
    }
}

fn set_time(database: &Connection, name: &str) -> rusqlite::Result<()> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs());
    database.execute(
        "insert or replace into Times1 (name, seconds) values (?1, ?2)",
        params![name, i64::try_from(now).unwrap_or(i64::MAX)],
    )?;
    Ok(())
}

fn time(database: &Connection, name: &str) -> rusqlite::Result<u64> {
    let seconds: Option<i64> = database
        .query_row(
            "select seconds from Times1 where name = ?1",
            [name],
            |row| row.get(0),
        )
        .optional()?;
    Ok(seconds
        .and_then(|seconds| u64::try_from(seconds).ok())
        .unwrap_or(0))
}

/// The prefix of a row that counts a reason to run in place.
const IN_PLACE: &str = "in-place:";

/// What the names of the counters of undeclared inputs begin with.
const UNDECLARED: &str = "undeclared-input:";

impl ChildCounts {
    /// Each count that is not zero, by a name.
    pub fn rows(&self) -> BTreeMap<String, u64> {
        let plain = [
            ("built", self.built),
            ("reused", self.reused),
            ("substituted", self.substituted),
            ("failed", self.failed),
        ];
        let plain = plain.map(|(name, count)| (name.to_owned(), count));
        let reasons = self
            .in_place_reasons
            .iter()
            .map(|(reason, count)| (format!("{IN_PLACE}{reason}"), *count));
        let undeclared = self
            .undeclared_inputs
            .iter()
            .map(|(path, count)| (format!("{UNDECLARED}{path}"), *count));
        plain
            .into_iter()
            .chain(reasons)
            .chain(undeclared)
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// The counts that have these [`rows`](Self::rows); unknown names are left out.
    pub fn from_rows(rows: impl IntoIterator<Item = (String, u64)>) -> Self {
        let mut counts = Self::default();
        for (name, count) in rows {
            match name.as_str() {
                "built" => counts.built = count,
                "reused" => counts.reused = count,
                "substituted" => counts.substituted = count,
                "failed" => counts.failed = count,
                name => {
                    if let Some(reason) = name.strip_prefix(IN_PLACE) {
                        counts.in_place += count;
                        counts.in_place_reasons.insert(reason.to_owned(), count);
                    } else if let Some(path) = name.strip_prefix(UNDECLARED) {
                        counts.undeclared_inputs.insert(path.to_owned(), count);
                    }
                }
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::outcome::InPlace;

    fn in_place(reason: &'static str) -> Counted {
        Counted::InPlace(InPlace::new(reason))
    }

    #[test]
    fn what_two_processes_count_is_added_up_until_it_is_set_to_zero() {
        let dir = tempfile::tempdir().unwrap();
        let first = Statistics::new(dir.path());
        let second = Statistics::new(dir.path());
        assert_eq!(first.read().unwrap(), Totals::default());
        first.count(&Counted::Built { failed: true });
        first.count(&in_place("link"));
        second.count(&Counted::Reused { failed: false });
        second.count(&in_place("link"));
        first.flush().unwrap();
        drop(second);
        let totals = first.read().unwrap();
        let expected = ChildCounts {
            built: 1,
            reused: 1,
            failed: 1,
            in_place: 2,
            in_place_reasons: BTreeMap::from([("link".to_owned(), 2)]),
            ..ChildCounts::default()
        };
        assert_eq!(totals.calls, expected);
        assert!(totals.updated_seconds > 0);
        assert_eq!(totals.zeroed_seconds, 0);
        first.zero().unwrap();
        let totals = first.read().unwrap();
        assert_eq!(totals.calls, ChildCounts::default());
        assert!(totals.zeroed_seconds > 0);
    }

    #[test]
    fn what_cannot_be_written_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let statistics = Statistics::new(&dir.path().join("later"));
        statistics.count(&Counted::Reused { failed: false });
        assert!(statistics.flush().is_err());
        std::fs::create_dir(dir.path().join("later")).unwrap();
        statistics.flush().unwrap();
        assert_eq!(statistics.read().unwrap().calls.reused, 1);
    }
}
