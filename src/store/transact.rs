//! A transaction from its begin to its commit: named, tried again while another one is in its way,
//! and committed only if what runs in it says so.

use std::time::Duration;

use super::{Mode, Store, StoreError, Transaction};

/// A transaction that another one was in the way of is tried again so many times.
const MAX_TRIES: usize = 5;
/// Between two tries, at most: at random, since those who met each other should not meet again at
/// once.
const MAX_PAUSE_MILLIS: u64 = 16;

/// How a transaction ends that did not fail.
#[derive(Debug)]
pub enum Finish<T> {
    Commit(T, Transaction),
    /// Nothing is to be changed after all.
    Leave(T),
}

impl<T> Finish<T> {
    pub fn map<U>(self, to: impl FnOnce(T) -> U) -> Finish<U> {
        match self {
            Self::Commit(value, tx) => Finish::Commit(to(value), tx),
            Self::Leave(value) => Finish::Leave(to(value)),
        }
    }
}

/// An error that may be of another transaction's making.
pub trait MayConflict: From<StoreError> {
    /// Whether nothing was changed, and the same again may work.
    fn is_conflict(&self) -> bool;
}

impl MayConflict for StoreError {
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict(_))
    }
}

/// Runs a transaction that may change something, and again while another one is in its way.
pub async fn write<T, E, Run, Running>(store: &dyn Store, name: &'static str, run: Run) -> Result<T, E>
where
    E: MayConflict,
    Run: Fn(Transaction) -> Running,
    Running: Future<Output = Result<Finish<T>, E>>,
{
    retried(|| write_once(store, name, &run)).await
}

/// As [`write`], once: for one that is a part of what is tried again.
pub async fn write_once<T, E, Run, Running>(store: &dyn Store, name: &'static str, run: Run) -> Result<T, E>
where
    E: MayConflict,
    Run: FnOnce(Transaction) -> Running,
    Running: Future<Output = Result<Finish<T>, E>>,
{
    let tx = store.begin(name, Mode::Write).await?;
    match run(tx).await? {
        Finish::Leave(value) => Ok(value),
        Finish::Commit(value, tx) => {
            tx.commit().await?;
            Ok(value)
        }
    }
}

/// Runs one that sees a single moment, and changes nothing.
pub async fn read<T, E, Run, Running>(store: &dyn Store, name: &'static str, run: Run) -> Result<T, E>
where
    E: MayConflict,
    Run: FnOnce(Transaction) -> Running,
    Running: Future<Output = Result<T, E>>,
{
    let tx = store.begin(name, Mode::Read).await?;
    run(tx).await
}

/// Runs something, and again while another transaction is in its way.
pub async fn retried<T, E, Run, Running>(run: Run) -> Result<T, E>
where
    E: MayConflict,
    Run: Fn() -> Running,
    Running: Future<Output = Result<T, E>>,
{
    let mut tries = 1;
    loop {
        match run().await {
            Err(error) if error.is_conflict() && tries < MAX_TRIES => {
                let pause = u64::from(crate::random::bytes::<1>()[0]) % MAX_PAUSE_MILLIS + 1;
                tokio::time::sleep(Duration::from_millis(pause)).await;
                tries += 1;
            }
            outcome => return outcome,
        }
    }
}
