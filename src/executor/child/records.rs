//! The memory of traced calls: from what a call looks like to what it looked up.
//!
//! A call that was traced is known by its *shape*: everything of it that is not a file.
//! For each shape a few records say which names the call looked up, and which child came
//! of it. A record proves nothing by itself: its names are looked up again, the child's
//! derivation is made of what is found, and only if that is the recorded one has nothing
//! changed that the call could have seen, including what was not there.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, params};
use store_types::{Hash, StorePath};

/// A change of the tables' meaning changes their names.
const SCHEMA: &str = "
    pragma journal_mode = wal;
    pragma synchronous = normal;
    create table if not exists Traced2 (
        shape text not null,
        drv text not null,
        used integer not null,
        queries blob not null,
        refused text,
        primary key (shape, drv)
    ) without rowid;
    create table if not exists Undeclared2 (words text primary key not null) without rowid;
";

/// So many records are kept of one shape: as many states of a source tree can be
/// switched between without a miss.
const RECORDS_MAX: usize = 16;

/// Shapes held in memory; beyond, all are read again.
const SHAPES_MAX: usize = 1 << 17;

/// Something that a call asked the file system for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Query {
    /// What is at this absolute path.
    Path(Vec<u8>),
    /// What is in the directory at this absolute path.
    List(Vec<u8>),
}

/// One call of a shape, as it was.
#[derive(Debug, PartialEq, Eq)]
pub struct Record {
    /// The child that it became.
    pub drv: StorePath,
    /// What it asked for, in order.
    pub queries: Vec<Query>,
    /// Why the child's result does not stand for the call's, if so.
    pub refused: Option<String>,
}

/// A memory that cannot be opened or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the memory of traced calls `{path}`")]
pub struct RecordsError {
    path: PathBuf,
    #[source]
    source: rusqlite::Error,
}

type Shape = Arc<[Arc<Record>]>;

/// The traced calls of one store's children.
pub struct Records {
    path: PathBuf,
    database: Mutex<Connection>,
    known: Mutex<HashMap<Hash, Shape>>,
    /// Words of calls of which a scan of the sources does not find all inputs.
    undeclared: Mutex<HashMap<Hash, bool>>,
}

impl Records {
    /// Opens the memory in this file, making it if need be.
    pub fn open(path: &Path) -> Result<Self, RecordsError> {
        let error = |source| RecordsError {
            path: path.to_owned(),
            source,
        };
        let database = Connection::open(path).map_err(error)?;
        database
            .busy_timeout(std::time::Duration::from_secs(60))
            .map_err(error)?;
        database.execute_batch(SCHEMA).map_err(error)?;
        Ok(Self {
            path: path.to_owned(),
            database: Mutex::new(database),
            known: Mutex::default(),
            undeclared: Mutex::default(),
        })
    }

    fn error(&self, source: rusqlite::Error) -> RecordsError {
        RecordsError {
            path: self.path.clone(),
            source,
        }
    }

    /// The records of a shape, the last used first.
    pub fn get(&self, shape: &Hash) -> Result<Shape, RecordsError> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(records) = known.get(shape) {
            return Ok(records.clone());
        }
        drop(known);
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let rows: Vec<(String, Vec<u8>, Option<String>)> = database
            .prepare_cached(
                "select drv, queries, refused from Traced2 where shape = ? order by used desc",
            )
            .and_then(|mut query| {
                query
                    .query_map([key(shape)], |row| {
                        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                    })?
                    .collect()
            })
            .map_err(|source| self.error(source))?;
        drop(database);
        // A row that cannot be read is a row that is not there.
        let records: Shape = rows
            .into_iter()
            .filter_map(|(drv, queries, refused)| {
                Some(Arc::new(Record {
                    drv: StorePath::from_base_name(&drv).ok()?,
                    queries: decode(&queries)?,
                    refused,
                }))
            })
            .collect();
        self.remember(shape, records.clone());
        Ok(records)
    }

    fn remember(&self, shape: &Hash, records: Shape) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= SHAPES_MAX {
            known.clear();
        }
        known.insert(*shape, records);
    }

    /// Remembers a call, as the last used of its shape.
    pub fn put(&self, shape: &Hash, record: Record) -> Result<(), RecordsError> {
        let mut records = vec![Arc::new(record)];
        let others = self.get(shape)?;
        let is_other = |other: &&Arc<Record>| other.drv != records[0].drv;
        let others: Vec<Arc<Record>> = others.iter().filter(is_other).cloned().collect();
        records.extend(others);
        let forgotten = records.split_off(records.len().min(RECORDS_MAX));
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let write = |database: &mut Connection| {
            let transaction = database.transaction()?;
            transaction
                .prepare_cached(
                    "insert or replace into Traced2 (shape, drv, used, queries, refused)
                     select ?1, ?2, 1 + coalesce(max(used), 0), ?3, ?4
                     from Traced2 where shape = ?1",
                )?
                .execute(params![
                    key(shape),
                    records[0].drv.base_name(),
                    encode(&records[0].queries),
                    records[0].refused
                ])?;
            for record in &forgotten {
                transaction
                    .prepare_cached("delete from Traced2 where shape = ? and drv = ?")?
                    .execute(params![key(shape), record.drv.base_name()])?;
            }
            transaction.commit()
        };
        write(&mut database).map_err(|source| self.error(source))?;
        drop(database);
        self.remember(shape, records.into());
        Ok(())
    }

    /// Whether calls of these words have needed files that a scan does not find.
    pub fn is_undeclared(&self, words: &Hash) -> Result<bool, RecordsError> {
        let mut known = self
            .undeclared
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(words) {
            return Ok(*known);
        }
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let found = database
            .prepare_cached("select 1 from Undeclared2 where words = ?")
            .and_then(|mut query| query.exists([key(words)]))
            .map_err(|source| self.error(source))?;
        if known.len() >= SHAPES_MAX {
            known.clear();
        }
        known.insert(*words, found);
        Ok(found)
    }

    /// Remembers that a scan does not find all inputs of calls of these words.
    pub fn set_undeclared(&self, words: &Hash) -> Result<(), RecordsError> {
        let mut known = self
            .undeclared
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        database
            .execute(
                "insert or ignore into Undeclared2 (words) values (?)",
                [key(words)],
            )
            .map_err(|source| self.error(source))?;
        known.insert(*words, true);
        Ok(())
    }
}

fn key(shape: &Hash) -> String {
    shape.to_hex()
}

/// The row's form: for each query its kind, its length (u32, little-endian), its path.
fn encode(queries: &[Query]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for query in queries {
        let (kind, path) = match query {
            Query::Path(path) => (b'p', path),
            Query::List(path) => (b'l', path),
        };
        bytes.push(kind);
        bytes.extend_from_slice(&(path.len() as u32).to_le_bytes());
        bytes.extend_from_slice(path);
    }
    bytes
}

fn decode(mut bytes: &[u8]) -> Option<Vec<Query>> {
    let mut queries = Vec::new();
    while let Some((kind, rest)) = bytes.split_first() {
        let (len, rest) = rest.split_first_chunk()?;
        let (path, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        queries.push(match kind {
            b'p' => Query::Path(path.to_vec()),
            b'l' => Query::List(path.to_vec()),
            _ => return None,
        });
        bytes = rest;
    }
    Some(queries)
}

#[cfg(test)]
mod tests {
    use store_types::sha256;

    use super::*;

    fn record(n: usize) -> Record {
        let name = format!("0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-{n}.drv");
        Record {
            drv: StorePath::from_base_name(&name).unwrap(),
            queries: vec![
                Query::Path(b"/build/a.o".to_vec()),
                Query::List(b"/build/\xff".to_vec()),
            ],
            refused: (n.is_multiple_of(2)).then(|| "time-macro".to_owned()),
        }
    }

    #[test]
    fn queries_are_read_as_they_were_written_and_damaged_ones_are_not_read() {
        let bytes = encode(&record(1).queries);
        assert_eq!(decode(&bytes), Some(record(1).queries));
        assert_eq!(decode(&bytes[..bytes.len() - 1]), None);
        assert_eq!(decode(&bytes[..3]), None);
        assert_eq!(decode(b"x\0\0\0\0"), None);
    }

    #[test]
    fn the_next_process_finds_the_last_used_record_first_and_the_oldest_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("children.sqlite");
        let shape = sha256(b"cc -o prog");
        let records = Records::open(&file).unwrap();
        for n in 0..RECORDS_MAX + 2 {
            records.put(&shape, record(n)).unwrap();
        }
        records.put(&shape, record(3)).unwrap();
        for records in [&records, &Records::open(&file).unwrap()] {
            let found = records.get(&shape).unwrap();
            assert_eq!(*found[0], record(3));
            assert_eq!(*found[1], record(RECORDS_MAX + 1));
            assert_eq!(found.len(), RECORDS_MAX);
            assert!(!found.contains(&Arc::new(record(1))));
            assert!(records.get(&sha256(b"cc")).unwrap().is_empty());
        }
    }

    #[test]
    fn a_shape_with_undeclared_inputs_is_known_to_the_next_process() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("children.sqlite");
        let (shape, other) = (sha256(b"a"), sha256(b"b"));
        let records = Records::open(&file).unwrap();
        assert!(!records.is_undeclared(&shape).unwrap());
        records.set_undeclared(&shape).unwrap();
        assert!(records.is_undeclared(&shape).unwrap());
        let again = Records::open(&file).unwrap();
        assert!(again.is_undeclared(&shape).unwrap());
        assert!(!again.is_undeclared(&other).unwrap());
    }
}
