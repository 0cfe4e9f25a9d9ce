//! SQLite's folder and files: who may use them, and what is said when they can't be.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use latchkey::store::{OpenError, Store, sqlite::SqliteStore};
use tempfile::tempdir;

use crate::world::alice;

fn refused(folder: &Path) -> OpenError {
    match SqliteStore::open(folder) {
        Ok(_) => panic!("{} was opened", folder.display()),
        Err(error) => error,
    }
}

#[tokio::test]
async fn only_their_owner_reads_the_files() {
    let parent = tempdir().expect("a folder");
    let folder = parent.path().join("made/by us");
    let store: std::sync::Arc<dyn Store> = std::sync::Arc::new(SqliteStore::open(&folder).expect("opened"));
    alice(&store).await;
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    let files: Vec<_> = fs::read_dir(&folder).expect("readable").map(|file| file.expect("readable").path()).collect();
    assert!(files.len() >= 3, "the database, its log, the lock: {files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[tokio::test]
async fn what_was_committed_is_there_when_it_is_opened_again() {
    let folder = tempdir().expect("a folder");
    for times in 0..2 {
        let store: std::sync::Arc<dyn Store> = std::sync::Arc::new(SqliteStore::open(folder.path()).expect("opened"));
        let found = store.read_mailbox(&crate::world::address("alice@example.com")).await.expect("read").mailbox;
        assert_eq!(found.is_some(), times == 1);
        if times == 0 {
            alice(&store).await;
        }
    }
}

#[test]
fn a_second_process_is_refused_and_told_what_to_do() {
    let folder = tempdir().expect("a folder");
    let first = SqliteStore::open(folder.path()).expect("opened");
    let error = refused(folder.path());
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    assert!(error.to_string().contains("--database-url"), "{error}");
    drop(first);
    SqliteStore::open(folder.path()).expect("free again");
}

#[test]
fn a_newer_schema_is_refused_and_left_as_it_is() {
    let folder = tempdir().expect("a folder");
    drop(SqliteStore::open(folder.path()).expect("opened"));
    let file = folder.path().join("latchkey.db");
    let newer = rusqlite::Connection::open(&file).expect("opened");
    newer
        .execute("INSERT INTO refinery_schema_history SELECT 99, 'later', applied_on, checksum FROM refinery_schema_history WHERE version = 1", [])
        .expect("inserted");
    drop(newer);
    let before = fs::read(&file).expect("readable");
    let error = refused(folder.path());
    assert!(matches!(error, OpenError::NewerSchema { found: 99, known: 5 }), "{error}");
    assert_eq!(fs::read(&file).expect("readable"), before);
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_as_it_is() {
    let folder = tempdir().expect("a folder");
    let file = folder.path().join("latchkey.db");
    let letter = "Dear database, ".repeat(1_000);
    fs::write(&file, &letter).expect("written");
    let error = refused(folder.path());
    assert!(matches!(error, OpenError::NotOurs(_)), "{error}");
    assert!(error.to_string().contains("latchkey.db") && error.to_string().contains("backup"), "{error}");
    assert_eq!(fs::read_to_string(&file).expect("readable"), letter);
}

/// Nobody takes a database that can't be read for an empty one, nor puts tables into another
/// program's.
#[test]
fn a_damaged_database_and_another_programs_are_told_from_an_empty_one() {
    let folder = tempdir().expect("a folder");
    drop(SqliteStore::open(folder.path()).expect("opened"));
    let file = folder.path().join("latchkey.db");
    let mut bytes = fs::read(&file).expect("readable");
    // The first page's list of tables, behind the header that says that this is SQLite.
    bytes[100..4_096].fill(0x5a);
    fs::write(&file, &bytes).expect("written");
    for error in [refused(folder.path()), SqliteStore::open_as_it_is(folder.path()).expect_err("damaged")] {
        assert!(matches!(error, OpenError::NotOurs(_)) && error.to_string().contains("damaged"), "{error}");
    }
    assert_eq!(fs::read(&file).expect("readable"), bytes);

    let folder = tempdir().expect("a folder");
    let file = folder.path().join("latchkey.db");
    rusqlite::Connection::open(&file).expect("made").execute_batch("CREATE TABLE songs (title TEXT)").expect("made");
    let error = refused(folder.path());
    assert!(matches!(error, OpenError::NotOurs(_)) && error.to_string().contains("another program"), "{error}");
}

#[test]
fn a_folder_that_can_not_be_used_is_named() {
    let parent = tempdir().expect("a folder");
    let file = parent.path().join("file");
    fs::write(&file, "").expect("written");
    for folder in [file.clone(), file.join("below"), "/proc/latchkey".into()] {
        let error = refused(&folder);
        assert!(matches!(error, OpenError::DataDirectory { .. }), "{error}");
        assert!(
            error.to_string().contains(folder.to_str().expect("UTF-8")) && error.to_string().contains("--data-dir"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn an_operator_is_told_of_the_files_health() {
    let folder = tempdir().expect("a folder");
    let store = SqliteStore::open(folder.path()).expect("opened");
    let findings = store.examine().await.expect("examined");
    let found = |what| &findings.iter().find(|finding| finding.what == what).expect("looked at").found;
    assert_eq!((found("integrity").as_str(), found("journal mode").as_str()), ("ok", "wal"));
    assert!(found("free disk").contains("MiB"));
}
