//! The database's tables.
//!
//! Source: what nix 2.34 makes with the feature `ca-derivations`; 2.8 makes the
//! same but for the last trigger, one index and `SchemaMigrations`, and works
//! with these.

/// The number in the file `schema`. Nix has had it since 2.0; what came later are
/// rows of `SchemaMigrations`.
pub(crate) const SCHEMA: u32 = 10;

/// The number in the file `ca-schema`, which Nix before 2.10 reads.
pub(crate) const CA_SCHEMA: u32 = 3;

/// Paths, references, outputs of derivations.
pub(crate) const TABLES: &str = "
    create table if not exists ValidPaths (
        id               integer primary key autoincrement not null,
        path             text unique not null,
        hash             text not null,
        registrationTime integer not null,
        deriver          text,
        narSize          integer,
        ultimate         integer,
        sigs             text,
        ca               text
    );
    create table if not exists Refs (
        referrer  integer not null,
        reference integer not null,
        primary key (referrer, reference),
        foreign key (referrer) references ValidPaths(id) on delete cascade,
        foreign key (reference) references ValidPaths(id) on delete restrict
    );
    create index if not exists IndexReferrer on Refs(referrer);
    create index if not exists IndexReference on Refs(reference);
    create trigger if not exists DeleteSelfRefs before delete on ValidPaths
      begin
        delete from Refs where referrer = old.id and reference = old.id;
      end;
    create table if not exists DerivationOutputs (
        drv  integer not null,
        id   text not null,
        path text not null,
        primary key (drv, id),
        foreign key (drv) references ValidPaths(id) on delete cascade
    );
    create index if not exists IndexDerivationOutputs on DerivationOutputs(path);
    create table if not exists SchemaMigrations (migration text primary key not null);
";

/// Realisations.
pub(crate) const CA_TABLES: &str = "
    create table if not exists SchemaMigrations (migration text primary key not null);
    create table if not exists Realisations (
        id integer primary key autoincrement not null,
        drvPath text not null,
        outputName text not null,
        outputPath integer not null,
        signatures text,
        foreign key (outputPath) references ValidPaths(id) on delete cascade
    );
    create index if not exists IndexRealisations on Realisations(drvPath, outputName);
    create table if not exists RealisationsRefs (
        referrer integer not null,
        realisationReference integer,
        foreign key (referrer) references Realisations(id) on delete cascade,
        foreign key (realisationReference) references Realisations(id) on delete restrict
    );
    create trigger if not exists DeleteSelfRefsViaRealisations before delete on ValidPaths
      begin
        delete from RealisationsRefs where realisationReference in (
          select id from Realisations where outputPath = old.id
        );
      end;
    create index if not exists IndexRealisationsRefsRealisationReference
      on RealisationsRefs(realisationReference);
    create index if not exists IndexRealisationsRefs on RealisationsRefs(referrer);
    create index if not exists IndexRealisationsRefsOnOutputPath on Realisations(outputPath);
    insert or ignore into SchemaMigrations values ('20220326-ca-derivations');
";

/// A statement that only a database with Nix's tables can prepare: each names the
/// columns that are used.
pub(crate) const PROBES: [(&str, &str); 3] = [
    (
        "ValidPaths",
        "select id, path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca
         from ValidPaths",
    ),
    ("Refs", "select referrer, reference from Refs"),
    (
        "DerivationOutputs",
        "select drv, id, path from DerivationOutputs",
    ),
];
