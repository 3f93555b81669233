//! What outputs turned out to be, by the path of their resolved derivation: the table
//! `BuildTraceV3` of Nix since 2.35.
//!
//! Nix never moves entries from one form of this table to the next, so that each version has
//! one of its own, beside the others' (`Realisations` up to 2.34). So it is here: where there is
//! this table, entries are read from it and written to it, too. It is made for what a client says
//! that knows no other form, as Nix makes it, which takes it over.
//!
//! Entries stay when their paths are collected as garbage, and may name such as are not valid.
//!
//! Source: nix 2.35 `src/libstore/ca-specific-schema.sql`, `local-store.cc`.

use rusqlite::{Connection, OptionalExtension, params};
use store_types::{BuildTraceEntry, BuildTraceKey, Signature};

use crate::db::DbError;
use crate::store::{check_signatures, path_id};
use crate::{LocalError, LocalStore};

/// Nix's, word for word as to what is in it.
const TABLE: &str = "
    create table if not exists BuildTraceV3 (
        id integer primary key autoincrement not null,
        drvPath text not null,
        outputName text not null,
        outputPath text not null,
        signatures text
    );
    create index if not exists IndexBuildTraceV3 on BuildTraceV3(drvPath, outputName);
";

/// Whether there is the table; Nix may have made it since the database was opened.
fn has_table(connection: &Connection) -> Result<bool, DbError> {
    let exists = connection
        .prepare_cached(
            "select 1 from sqlite_master where type = 'table' and name = 'BuildTraceV3'",
        )?
        .exists([])?;
    Ok(exists)
}

/// Whether its signatures are some.
pub(crate) fn check_entry(entry: &BuildTraceEntry) -> Result<(), LocalError> {
    let texts: Vec<String> = entry.signatures.iter().map(Signature::to_string).collect();
    check_signatures(&texts)
}

impl LocalStore {
    /// Keeps what an output turned out to be; whether there is a table to keep it in. The same
    /// again gains signatures. Another path for an output is an error, unless the one that is
    /// known is not valid any more: then the new one takes its place.
    pub fn register_build_trace(&self, entry: &BuildTraceEntry) -> Result<bool, LocalError> {
        self.write_build_trace(entry, false)
    }

    /// The same, and a table is made if there is none.
    pub fn keep_build_trace(&self, entry: &BuildTraceEntry) -> Result<(), LocalError> {
        self.write_build_trace(entry, true).map(drop)
    }

    fn write_build_trace(
        &self,
        entry: &BuildTraceEntry,
        make_table: bool,
    ) -> Result<bool, LocalError> {
        check_entry(entry)?;
        const REGISTER: &str = "register a build trace entry";
        if !make_table && !self.db().read_one(REGISTER, has_table)? {
            return Ok(false);
        }
        self.db().write(REGISTER, |tx| {
            if make_table {
                tx.execute_batch(TABLE)?;
            }
            self.insert_build_trace(tx, entry)
        })
    }

    /// Whether there is a table to keep it in.
    pub(crate) fn insert_build_trace(
        &self,
        tx: &Connection,
        entry: &BuildTraceEntry,
    ) -> Result<bool, DbError> {
        if !has_table(tx)? {
            return Ok(false);
        }
        let key = &entry.key;
        let path = self.dir.display(&entry.out_path);
        let mut signatures = entry.signatures.clone();
        if let Some(present) = self.build_trace_entry(tx, key)? {
            if present.out_path == entry.out_path {
                signatures.extend(present.signatures);
            } else if path_id(tx, &self.dir.display(&present.out_path))?.is_some() {
                return Err(LocalError::OtherRealisation {
                    id: key.to_string(),
                    present: present.out_path,
                    wanted: entry.out_path.clone(),
                }
                .into());
            }
        }
        // The table allows for several.
        tx.prepare_cached("delete from BuildTraceV3 where drvPath = ?1 and outputName = ?2")?
            .execute(params![key.drv_path.base_name(), key.output_name])?;
        let signatures: Vec<String> = signatures.iter().map(Signature::to_string).collect();
        tx.prepare_cached(
            "insert into BuildTraceV3 (drvPath, outputName, outputPath, signatures)
             values (?1, ?2, ?3, ?4)",
        )?
        .execute(params![
            key.drv_path.base_name(),
            key.output_name,
            path,
            // Nix stops at a null here.
            signatures.join(" ")
        ])?;
        Ok(true)
    }

    /// What an output turned out to be, if that is known. Its path need not be valid.
    pub fn query_build_trace(
        &self,
        key: &BuildTraceKey,
    ) -> Result<Option<BuildTraceEntry>, LocalError> {
        self.db().read("query a build trace entry", |connection| {
            match has_table(connection)? {
                true => self.build_trace_entry(connection, key),
                false => Ok(None),
            }
        })
    }

    fn build_trace_entry(
        &self,
        connection: &Connection,
        key: &BuildTraceKey,
    ) -> Result<Option<BuildTraceEntry>, DbError> {
        let row = connection
            .prepare_cached(
                "select outputPath, signatures from BuildTraceV3
                 where drvPath = ?1 and outputName = ?2 order by id limit 1",
            )?
            .query_row(params![key.drv_path.base_name(), key.output_name], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, Option<String>>(1)?))
            })
            .optional()?;
        let Some((path, signatures)) = row else {
            return Ok(None);
        };
        let mut entry = BuildTraceEntry {
            key: key.clone(),
            out_path: self.parse(&path)?,
            signatures: Default::default(),
        };
        for text in signatures
            .iter()
            .flat_map(|text| text.split_ascii_whitespace())
        {
            entry.signatures.extend(text.parse::<Signature>());
        }
        Ok(Some(entry))
    }
}
