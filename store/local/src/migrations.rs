//! Databases of older Nixes, brought up to date as Nix does it on opening them.
//!
//! Source: nix 2.34 and 2.8, `src/libstore/local-store.cc`; 2.8 for what 2.4 to 2.7 made of
//! realisations.

use rusqlite::{Connection, Transaction, TransactionBehavior};

/// The oldest schema that Nix 2 upgrades: the first one in SQLite.
const OLDEST: u32 = 6;

/// Whether a database with this number in the file `schema` can be brought up to date.
pub(crate) fn is_upgradable(schema: u32) -> bool {
    (OLDEST..crate::schema::SCHEMA).contains(&schema)
}

/// Brings the tables of paths from this schema to today's. Each step is left out that a process
/// which died before it wrote the number has done already.
pub(crate) fn upgrade(connection: &mut Connection, schema: u32) -> Result<(), rusqlite::Error> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Exclusive)?;
    if schema < 8 {
        add_column(&tx, "ultimate", "integer")?;
        add_column(&tx, "sigs", "text")?;
    }
    if schema < 9 {
        tx.execute_batch("drop table if exists FailedPaths")?;
    }
    if schema < 10 {
        add_column(&tx, "ca", "text")?;
    }
    tx.commit()
}

fn add_column(tx: &Transaction<'_>, name: &str, kind: &str) -> Result<(), rusqlite::Error> {
    if !has_column(tx, "ValidPaths", name)? {
        tx.execute_batch(&format!("alter table ValidPaths add column {name} {kind}"))?;
    }
    Ok(())
}

fn has_column(connection: &Connection, table: &str, column: &str) -> Result<bool, rusqlite::Error> {
    connection.query_row(
        "select count(*) > 0 from pragma_table_info(?1) where name = ?2",
        [table, column],
        |row| row.get(0),
    )
}

/// Whether realisations are as Nix 2.4 kept them: without numbers by which others refer to them.
pub(crate) fn has_unnumbered_realisations(
    connection: &Connection,
) -> Result<bool, rusqlite::Error> {
    Ok(has_column(connection, "Realisations", "drvPath")?
        && !has_column(connection, "Realisations", "id")?)
}

/// Gives those numbers. The tables that go with them are made by whoever makes missing tables.
pub(crate) fn number_realisations(tx: &Transaction<'_>) -> Result<(), rusqlite::Error> {
    tx.execute_batch(
        "create table Realisations2 (
            id integer primary key autoincrement not null,
            drvPath text not null,
            outputName text not null,
            outputPath integer not null,
            signatures text,
            foreign key (outputPath) references ValidPaths(id) on delete cascade
        );
        insert into Realisations2 (drvPath, outputName, outputPath, signatures)
            select drvPath, outputName, outputPath, coalesce(signatures, '') from Realisations;
        drop table Realisations;
        alter table Realisations2 rename to Realisations;",
    )
}
