//! The schema's versions. Each is a file of SQL that runs once, in a transaction with its row in
//! the table of those that have run.

use latchkey_core::model::clock::Clock;

use crate::clock::SystemClock;

/// Named after the library that kept it first: databases from then go on.
pub(super) const HISTORY: &str = "refinery_schema_history";
pub(super) const MAKE_HISTORY: &str = "CREATE TABLE IF NOT EXISTS refinery_schema_history (version INTEGER PRIMARY KEY, \
    name VARCHAR(255), applied_on VARCHAR(255), checksum VARCHAR(255))";
/// The newest version that has run; 0 before the first.
pub(super) const VERSION: &str = "SELECT CAST(COALESCE(max(version), 0) AS BIGINT) FROM refinery_schema_history";

/// One version of the schema. Once landed it is never edited.
pub(super) struct Migration {
    pub(super) version: i64,
    pub(super) name: &'static str,
    sql: &'static str,
}

impl Migration {
    pub(super) const fn new(version: i64, name: &'static str, sql: &'static str) -> Self {
        Self { version, name, sql }
    }

    /// All of it: to run in a transaction.
    pub(super) fn statements(&self) -> String {
        let now = jiff::Timestamp::from_microsecond(SystemClock.wall().0).unwrap_or_default();
        let Self { version, name, sql } = self;
        format!("{sql}\n;INSERT INTO {HISTORY} (version, name, applied_on, checksum) VALUES ({version}, '{name}', '{now}', '0');")
    }
}

/// The versions in a folder, in their order.
macro_rules! migrations {
    ($folder:literal: $($version:literal $name:literal),* $(,)?) => {
        [$($crate::store::migrations::Migration::new(
            $version,
            $name,
            include_str!(concat!($folder, "/V", $version, "__", $name, ".sql")),
        )),*]
    };
}
pub(super) use migrations;

/// The version that this program makes.
pub(super) fn known(migrations: &[Migration]) -> i64 {
    migrations.last().map_or(0, |migration| migration.version)
}

/// Panics unless each file of the folder is a version, in order, and none is left out.
#[cfg(test)]
pub(super) fn verify_files(store: &str, migrations: &[Migration]) {
    let folder = format!("{}/src/store/{store}/migrations", env!("CARGO_MANIFEST_DIR"));
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let files: std::collections::BTreeSet<String> = files.collect();
    let listed = migrations.iter().map(|Migration { version, name, .. }| format!("V{version}__{name}.sql")).collect();
    assert_eq!(files, listed);
    assert!(migrations.iter().zip(1..).all(|(migration, version)| migration.version == version));
}
