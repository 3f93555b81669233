//! The memory of children: from a child's derivation to what it left.
//!
//! Only the executor writes here, and only what it has built itself, or what a derivation that
//! it has built gives for another one as well, so an entry needs no belief in anything a
//! build said. The key is the derivation's store path, which covers every byte of every input;
//! the value names the output and what a reply needs of it, so that a hit reads no directory.
//!
//! On disk: `var/droste/children.sqlite` beside Nix's own database. It can be lost
//! at any time; then children are built again.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, params};
use store_types::StorePath;

use super::outcome::{ChildFile, ChildResult};
use super::stand_in::verdict::Verdict;

/// How many notes of use are held in memory.
const USES_MAX: usize = 1000;

/// A change of the table's meaning changes its name.
const SCHEMA: &str = "
    pragma journal_mode = wal;
    pragma synchronous = normal;
    create table if not exists Children2 (
        drv text primary key not null,
        output text not null,
        result blob not null
    ) without rowid;
    create table if not exists Order1 (
        number integer primary key autoincrement,
        drv text unique not null
    );
    create table if not exists Uses1 (
        drv text primary key not null,
        used integer not null
    ) without rowid;
    create table if not exists Verdicts1 (
        drv text primary key not null,
        verdict text not null
    ) without rowid;
";

/// What is known of a child that was built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// The store path of its output.
    pub output: StorePath,
    /// What it left.
    pub result: ChildResult,
}

/// An index that cannot be opened or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the index of children `{path}`")]
pub struct IndexError {
    path: PathBuf,
    #[source]
    source: rusqlite::Error,
}

/// The index of one store's children.
pub struct Index {
    path: PathBuf,
    database: Mutex<Connection>,
    known: Mutex<HashMap<StorePath, Arc<Child>>>,
    verdicts: Mutex<HashMap<StorePath, Verdict>>,
    /// Children that were used since that was last written, and when.
    uses: Mutex<HashMap<StorePath, i64>>,
}

impl Index {
    /// Opens the index in this file, making it if need be.
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        let error = |source| IndexError {
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
            verdicts: Mutex::default(),
            uses: Mutex::default(),
        })
    }

    fn error(&self, source: rusqlite::Error) -> IndexError {
        IndexError {
            path: self.path.clone(),
            source,
        }
    }

    /// The child of this derivation, if it was built.
    pub fn get(&self, drv: &StorePath) -> Result<Option<Arc<Child>>, IndexError> {
        if let Some(child) = self
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(drv)
        {
            return Ok(Some(child.clone()));
        }
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let row: Option<(String, Vec<u8>)> = database
            .prepare_cached("select output, result from Children2 where drv = ?")
            .and_then(|mut query| {
                query
                    .query_row([drv.base_name()], |row| Ok((row.get(0)?, row.get(1)?)))
                    .optional()
            })
            .map_err(|source| self.error(source))?;
        drop(database);
        // A row that cannot be read is a row that is not there.
        let child = row.and_then(|(output, result)| {
            Some(Arc::new(Child {
                output: StorePath::from_base_name(&output).ok()?,
                result: decode(&result)?,
            }))
        });
        if let Some(child) = &child {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(drv.clone(), child.clone());
        }
        Ok(child)
    }

    /// Remembers a child whose output is valid.
    pub fn put(&self, drv: &StorePath, child: Arc<Child>) -> Result<(), IndexError> {
        self.note_use(drv);
        self.insert(drv, child, true)
    }

    /// Remembers a child by a derivation that gives the same and was not built, unless there is
    /// one of its own.
    pub fn put_beside(&self, drv: &StorePath, child: Arc<Child>) -> Result<(), IndexError> {
        self.insert(drv, child, false)
    }

    fn insert(
        &self,
        drv: &StorePath,
        child: Arc<Child>,
        is_in_order: bool,
    ) -> Result<(), IndexError> {
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let write = |change: &rusqlite::Transaction<'_>| {
            change
                .prepare_cached(match is_in_order {
                    true => {
                        "insert or replace into Children2 (drv, output, result) values (?, ?, ?)"
                    }
                    false => {
                        "insert or ignore into Children2 (drv, output, result) values (?, ?, ?)"
                    }
                })?
                .execute(params![
                    drv.base_name(),
                    child.output.base_name(),
                    encode(&child.result)
                ])?;
            if is_in_order {
                change
                    .prepare_cached("insert or replace into Order1 (drv) values (?)")?
                    .execute([drv.base_name()])?;
            }
            Ok::<(), rusqlite::Error>(())
        };
        database
            .transaction()
            .and_then(|change| {
                write(&change)?;
                change.commit()
            })
            .map_err(|source| self.error(source))?;
        drop(database);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if is_in_order {
            known.insert(drv.clone(), child);
        }
        Ok(())
    }

    /// Notes that a child is used now, which is written when there are many such notes, or the
    /// index is closed: a hit must not wait for a disk.
    pub fn note_use(&self, drv: &StorePath) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| {
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        });
        let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        uses.insert(drv.clone(), now);
        if uses.len() < USES_MAX {
            return;
        }
        let uses = std::mem::take(&mut *uses);
        // What is lost lets a child seem older than it is.
        let _ = self.write_uses(uses);
    }

    fn write_uses(&self, uses: HashMap<StorePath, i64>) -> Result<(), rusqlite::Error> {
        if uses.is_empty() {
            return Ok(());
        }
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let change = database.transaction()?;
        let mut insert =
            change.prepare_cached("insert or replace into Uses1 (drv, used) values (?, ?)")?;
        for (drv, used) in uses {
            insert.execute(params![drv.base_name(), used])?;
        }
        drop(insert);
        change.commit()
    }

    /// The outputs of all children, those used last first; of children that were never used
    /// again, and of those used in one second, the newest first.
    pub fn outputs_last_used_first(&self) -> Result<Vec<StorePath>, IndexError> {
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let mut query = database
            .prepare(
                "select output from Children2 left join Uses1 using (drv)
                 left join Order1 using (drv)
                 order by coalesce(used, 0) desc, coalesce(number, 0) desc",
            )
            .map_err(|source| self.error(source))?;
        let rows = query
            .query_map([], |row| row.get::<_, String>(0))
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|source| self.error(source))?;
        let mut seen = HashSet::new();
        Ok(rows
            .iter()
            .filter_map(|output| StorePath::from_base_name(output).ok())
            .filter(|output| seen.insert(output.clone()))
            .collect())
    }

    /// Takes a child out of the [order](Self::select): it is no call's own.
    pub fn set_aside(&self, drv: &StorePath) -> Result<(), IndexError> {
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        database
            .execute("delete from Order1 where drv = ?", [drv.base_name()])
            .map_err(|source| self.error(source))?;
        Ok(())
    }

    /// The children that calls have had built and that are `wanted`, the newest first.
    pub fn select(
        &self,
        wanted: impl Fn(&StorePath, &Child) -> bool,
    ) -> Result<Vec<(StorePath, Child)>, IndexError> {
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let error = |source| self.error(source);
        let mut query = database
            .prepare(
                "select drv, output, result from Order1 natural join Children2
                 order by number desc",
            )
            .map_err(error)?;
        let mut rows = query.query([]).map_err(error)?;
        let mut selected = Vec::new();
        while let Some(row) = rows.next().map_err(error)? {
            let drv: String = row.get(0).map_err(error)?;
            let output: String = row.get(1).map_err(error)?;
            let result: Vec<u8> = row.get(2).map_err(error)?;
            // A row that cannot be read is a row that is not there.
            let (Ok(drv), Ok(output), Some(result)) = (
                StorePath::from_base_name(&drv),
                StorePath::from_base_name(&output),
                decode(&result),
            ) else {
                continue;
            };
            let child = Child { output, result };
            if wanted(&drv, &child) {
                selected.push((drv, child));
            }
        }
        Ok(selected)
    }

    /// What is known of a child with stand-ins.
    pub fn verdict(&self, drv: &StorePath) -> Result<Option<Verdict>, IndexError> {
        let known = || self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(verdict) = known().get(drv) {
            return Ok(Some(verdict.clone()));
        }
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let row: Option<String> = database
            .prepare_cached("select verdict from Verdicts1 where drv = ?")
            .and_then(|mut query| {
                query
                    .query_row([drv.base_name()], |row| row.get(0))
                    .optional()
            })
            .map_err(|source| self.error(source))?;
        drop(database);
        let verdict = row.and_then(|line| Verdict::parse(&line));
        if let Some(verdict) = &verdict {
            known().insert(drv.clone(), verdict.clone());
        }
        Ok(verdict)
    }

    /// Remembers what is known of a child with stand-ins.
    pub fn put_verdict(&self, drv: &StorePath, verdict: &Verdict) -> Result<(), IndexError> {
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        database
            .prepare_cached("insert or replace into Verdicts1 (drv, verdict) values (?, ?)")
            .and_then(|mut insert| insert.execute([drv.base_name(), &verdict.print()]))
            .map_err(|source| self.error(source))?;
        drop(database);
        let mut known = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(drv.clone(), verdict.clone());
        Ok(())
    }

    /// Forgets a child whose output turned out to be gone.
    pub fn forget(&self, drv: &StorePath) -> Result<(), IndexError> {
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(drv);
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        database
            .execute("delete from Children2 where drv = ?", [drv.base_name()])
            .map_err(|source| self.error(source))?;
        Ok(())
    }

    /// How many children are remembered.
    pub fn count(&self) -> Result<u64, IndexError> {
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let count: i64 = database
            .query_row("select count(*) from Children2", [], |row| row.get(0))
            .map_err(|source| self.error(source))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// The children whose derivation or output path contains `part`, with their
    /// outputs, by derivation; at most `limit`.
    pub fn find(&self, part: &str, limit: u32) -> Result<Vec<(StorePath, StorePath)>, IndexError> {
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let mut query = database
            .prepare(
                "select drv, output from Children2
                 where instr(drv, ?1) or instr(output, ?1) order by drv limit ?2",
            )
            .map_err(|source| self.error(source))?;
        let rows = query
            .query_map(params![part, limit], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
            })
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|source| self.error(source))?;
        Ok(rows
            .into_iter()
            .filter_map(|(drv, output)| {
                Some((
                    StorePath::from_base_name(&drv).ok()?,
                    StorePath::from_base_name(&output).ok()?,
                ))
            })
            .collect())
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        let uses = self.uses.get_mut().unwrap_or_else(PoisonError::into_inner);
        let uses = std::mem::take(uses);
        let _ = self.write_uses(uses);
    }
}

/// The row's form: status (256 for none), the two lengths, then each file:
/// whether it is executable, its length, its path; integers are little-endian.
fn encode(result: &ChildResult) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&result.status.map_or(256, u16::from).to_le_bytes());
    bytes.extend_from_slice(&result.stdout_len.to_le_bytes());
    bytes.extend_from_slice(&result.stderr_len.to_le_bytes());
    for file in &result.files {
        bytes.push(u8::from(file.executable));
        bytes.extend_from_slice(&file.len.to_le_bytes());
        bytes.extend_from_slice(&(file.path.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&file.path);
    }
    bytes
}

fn decode(mut bytes: &[u8]) -> Option<ChildResult> {
    fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
        let (head, tail) = bytes.split_at_checked(len)?;
        *bytes = tail;
        Some(head)
    }
    let status = u16::from_le_bytes(take(&mut bytes, 2)?.try_into().ok()?);
    let stdout_len = u64::from_le_bytes(take(&mut bytes, 8)?.try_into().ok()?);
    let stderr_len = u64::from_le_bytes(take(&mut bytes, 8)?.try_into().ok()?);
    let mut files = Vec::new();
    while !bytes.is_empty() {
        let executable = match take(&mut bytes, 1)?[0] {
            0 => false,
            1 => true,
            _ => return None,
        };
        let len = u64::from_le_bytes(take(&mut bytes, 8)?.try_into().ok()?);
        let path_len = u32::from_le_bytes(take(&mut bytes, 4)?.try_into().ok()?);
        let path = take(&mut bytes, path_len as usize)?.to_vec();
        files.push(ChildFile {
            path,
            executable,
            len,
        });
    }
    let status = match status {
        256 => None,
        status => Some(u8::try_from(status).ok()?),
    };
    Some(ChildResult {
        status,
        stdout_len,
        stderr_len,
        files,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child() -> Child {
        let path = StorePath::from_base_name("0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-lapi.o");
        Child {
            output: path.expect("a valid store path"),
            result: ChildResult {
                status: Some(0),
                stdout_len: 0,
                stderr_len: 17,
                files: vec![ChildFile {
                    path: b"build/lua/lapi.o".to_vec(),
                    executable: false,
                    len: 4711,
                }],
            },
        }
    }

    #[test]
    fn a_result_is_read_as_it_was_written_and_a_damaged_one_is_not_read() {
        let mut result = child().result;
        assert_eq!(decode(&encode(&result)), Some(result.clone()));
        result.status = None;
        let bytes = encode(&result);
        assert_eq!(decode(&bytes), Some(result));
        assert_eq!(decode(&bytes[..bytes.len() - 1]), None);
        assert_eq!(decode(&bytes[..5]), None);
    }

    #[test]
    fn a_child_is_remembered_by_the_next_process_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("children.sqlite");
        let drv = StorePath::from_base_name("1mdqa9w1p6cmli6976v4wi0sw9r4p5pr-lapi.o.drv").unwrap();
        let index = Index::open(&file).unwrap();
        assert_eq!(index.get(&drv).unwrap(), None);
        index.put(&drv, Arc::new(child())).unwrap();
        let again = Index::open(&file).unwrap();
        assert_eq!(again.get(&drv).unwrap().as_deref(), Some(&child()));
        assert_eq!(
            again.find("lapi", 10).unwrap(),
            [(drv.clone(), child().output)]
        );
        let other =
            StorePath::from_base_name("2mdqa9w1p6cmli6976v4wi0sw9r4p5pr-lvm.o.drv").unwrap();
        again.put(&other, Arc::new(child())).unwrap();
        let order = |index: &Index| -> Vec<StorePath> {
            let all = index.select(|_, _| true).unwrap();
            all.into_iter().map(|(drv, _)| drv).collect()
        };
        assert_eq!(order(&again), [other.clone(), drv.clone()]);
        again.put(&drv, Arc::new(child())).unwrap();
        assert_eq!(order(&again), [drv.clone(), other.clone()]);
        again.set_aside(&other).unwrap();
        assert_eq!(order(&again), std::slice::from_ref(&drv));
        let older = Child {
            output: other.clone(),
            ..child()
        };
        again.put(&other, Arc::new(older)).unwrap();
        again.uses.lock().unwrap().insert(other.clone(), 1);
        drop(again);
        let again = Index::open(&file).unwrap();
        let outputs = [child().output, other.clone()];
        assert_eq!(again.outputs_last_used_first().unwrap(), outputs);
        again.forget(&drv).unwrap();
        assert_eq!(Index::open(&file).unwrap().get(&drv).unwrap(), None);
    }
}
