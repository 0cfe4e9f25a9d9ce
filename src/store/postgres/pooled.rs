//! A connection of a pool, and what the server has said on any of them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use deadpool_postgres::{Object, Pool};
use tracing::warn;

use super::errors;
use crate::store::{Result, StoreError};

/// For one answer: longer than the server's own `statement_timeout`, which a server that hangs does
/// not keep.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(7);

/// Counts the server's warnings that a commit did not wait for its standby. A warning on any
/// connection makes all commits that are under way uncertain, which errs on the safe side.
#[derive(Clone, Default)]
pub(super) struct Notices(Arc<AtomicU64>);

impl Notices {
    /// To take before a commit, and to give to [`Self::verify`] after it.
    pub(super) fn uncertain_commits(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// A warning came.
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    /// An error if a commit since `before` may stand on the primary alone: a failover would lose
    /// it.
    pub(super) fn verify(&self, before: u64) -> Result<()> {
        if self.uncertain_commits() == before {
            return Ok(());
        }
        Err(StoreError::OutcomeUnknown("the wait for the standby was canceled".to_owned()))
    }
}

/// A connection of a pool. Each answer comes within [`ANSWER_TIMEOUT`], or the connection is
/// closed: nobody knows then what it is doing.
pub(super) struct Connection(Option<Object>);

impl Connection {
    pub(super) async fn get(pool: &Pool) -> Result<Self> {
        Ok(Self(Some(pool.get().await.map_err(|error| errors::pool(&error))?)))
    }

    pub(super) async fn run<T>(&mut self, ask: impl AsyncFnOnce(&Object) -> Result<T>) -> Result<T> {
        let client = self.0.as_ref().ok_or_else(|| StoreError::Unavailable("the connection was closed".to_owned()))?;
        match tokio::time::timeout(ANSWER_TIMEOUT, ask(client)).await {
            Ok(answer) => answer,
            Err(_) => {
                self.close();
                warn!("the database is silent: the connection is closed");
                Err(StoreError::Unavailable("no answer in time".to_owned()))
            }
        }
    }

    /// Whether it broke, or was closed.
    pub(super) fn is_closed(&self) -> bool {
        self.0.as_ref().is_none_or(|client| client.is_closed())
    }

    /// It does not go back to the pool.
    pub(super) fn close(&mut self) {
        if let Some(client) = self.0.take() {
            drop(Object::take(client));
        }
    }
}
