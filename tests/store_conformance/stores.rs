//! The stores that the rules are run on, each fresh for its test.

use std::{path::PathBuf, sync::Arc};

use latchkey::store::{
    Store,
    postgres::{PostgresSettings, PostgresStore},
    sqlite::SqliteStore,
};
use tempfile::TempDir;
use tokio_postgres::NoTls;

use crate::support::postgres::{TestDatabase, fresh_database};

/// More than the writers of any rule, so that none waits for a connection instead of a lock.
const CONNECTIONS: usize = 12;

/// Runs rules on each store, or on one alone.
macro_rules! rules {
    ($($rule:ident),* $(,)?) => {
        mod sqlite {
            crate::stores::rules!(@ sqlite $($rule)*);
        }
        mod postgres {
            crate::stores::rules!(@ postgres $($rule)*);
        }
    };
    (@ $store:ident $($rule:ident)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $rule() {
            let fresh = crate::stores::Fresh::$store().await;
            super::$rule(fresh.open().await).await;
        })*
    };
}
pub(crate) use rules;

/// Where a fresh store is; opened as often as a test likes, one after the other.
pub struct Fresh {
    pub place: Place,
    _folder: Option<TempDir>,
}

/// How to find a store, in a word that another process can be told.
pub enum Place {
    Sqlite(PathBuf),
    Postgres(String),
}

impl Fresh {
    pub async fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { place: Place::Sqlite(folder.path().to_owned()), _folder: Some(folder) }
    }

    /// A database of a language whose order is not that of bytes: no rule may come to depend on it.
    pub async fn postgres() -> Self {
        let TestDatabase { url, name } = fresh_database().await;
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.expect("the server runs");
        tokio::spawn(connection);
        let create = format!("CREATE DATABASE {name}_en TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'");
        client.batch_execute(&create).await.expect("a database is made");
        Self { place: Place::Postgres(url.replace(&format!("/{name}?"), &format!("/{name}_en?"))), _folder: None }
    }

    pub async fn open(&self) -> Arc<dyn Store> {
        self.place.open().await
    }
}

impl Place {
    pub async fn open(&self) -> Arc<dyn Store> {
        match self {
            Self::Sqlite(folder) => Arc::new(SqliteStore::open(folder).expect("the store opens")),
            Self::Postgres(url) => {
                let settings = PostgresSettings { url: url.clone(), ca: None, connections: CONNECTIONS };
                Arc::new(PostgresStore::open(&settings).await.expect("the store opens"))
            }
        }
    }

    pub fn to_word(&self) -> String {
        match self {
            Self::Sqlite(folder) => folder.to_str().expect("UTF-8").to_owned(),
            Self::Postgres(url) => url.clone(),
        }
    }

    pub fn from_word(word: &str) -> Self {
        if word.starts_with("postgres://") { Self::Postgres(word.to_owned()) } else { Self::Sqlite(word.into()) }
    }
}
