//! A transaction over a session of either store. Its methods stand beside their SQL, in the other
//! files of this folder.

use async_trait::async_trait;

use super::{Row, Session, Value, columns::corrupt};
use crate::store::{Result, StoreError};

/// One transaction. Dropped before its commit, it leaves nothing. After an error it can only be
/// dropped. Lists are in the order of their key, after `after`.
pub struct Transaction {
    checked: Checked,
    after_commit: Vec<AfterCommit>,
}

type AfterCommit = Box<dyn FnOnce() + Send>;

impl Transaction {
    pub(in crate::store) fn over(session: impl Session + 'static) -> Self {
        Self { checked: Checked { session: Box::new(session), has_failed: false }, after_commit: vec![] }
    }

    /// Puts something around its session, which sees all that passes: each statement, and the
    /// commit.
    pub fn through<S: Session + 'static>(self, around: impl FnOnce(Box<dyn Session>) -> S) -> Self {
        let Self { checked: Checked { session, has_failed }, after_commit } = self;
        Self { checked: Checked { session: Box::new(around(session)), has_failed }, after_commit }
    }

    /// Its end is checked: `Ok` means that all of it is there, and stays.
    pub async fn commit(mut self) -> Result<()> {
        self.checked.commit().await?;
        self.after_commit.into_iter().for_each(|then| then());
        Ok(())
    }

    /// Runs `then` once the commit was seen. Not if it fails, or nobody commits.
    pub fn after_commit(&mut self, then: impl FnOnce() + Send + 'static) {
        self.after_commit.push(Box::new(then));
    }

    /// How many rows it changed.
    pub(super) async fn execute(&mut self, sql: &'static str, parameters: &[Value]) -> Result<u64> {
        self.checked.execute(sql, parameters).await
    }

    pub(super) async fn all<T>(
        &mut self,
        sql: &'static str,
        parameters: &[Value],
        read: impl Fn(Row) -> Result<T>,
    ) -> Result<Vec<T>> {
        let rows = self.checked.query(sql, parameters).await?;
        self.checked.noted(rows.into_iter().map(read).collect())
    }

    pub(super) async fn first<T>(
        &mut self,
        sql: &'static str,
        parameters: &[Value],
        read: impl Fn(Row) -> Result<T>,
    ) -> Result<Option<T>> {
        let rows = self.checked.query(sql, parameters).await?;
        self.checked.noted(rows.into_iter().next().map(read).transpose())
    }

    /// Of a statement that always answers a row.
    pub(super) async fn one<T>(&mut self, sql: &'static str, parameters: &[Value], read: impl Fn(Row) -> Result<T>) -> Result<T> {
        let first = self.first(sql, parameters, read).await?;
        self.checked.noted(first.ok_or_else(|| corrupt("a row")))
    }

    /// Ends it with an error that no statement gave.
    pub(super) fn fail<T>(&mut self, error: StoreError) -> Result<T> {
        self.checked.noted(Err(error))
    }

    /// For statements that other sessions make, too.
    pub(super) fn statements(&mut self) -> &mut dyn Session {
        &mut self.checked
    }
}

/// Refuses to commit after an error: a store may take the commit of a failed transaction for a
/// rollback, and say that it went well.
struct Checked {
    session: Box<dyn Session>,
    has_failed: bool,
}

impl Checked {
    fn noted<T>(&mut self, outcome: Result<T>) -> Result<T> {
        self.has_failed |= outcome.is_err();
        outcome
    }
}

#[async_trait]
impl Session for Checked {
    async fn query(&mut self, sql: &'static str, parameters: &[Value]) -> Result<Vec<Row>> {
        let outcome = self.session.query(sql, parameters).await;
        self.noted(outcome)
    }

    async fn execute(&mut self, sql: &'static str, parameters: &[Value]) -> Result<u64> {
        let outcome = self.session.execute(sql, parameters).await;
        self.noted(outcome)
    }

    fn has_change(&mut self) {
        self.session.has_change();
    }

    async fn commit(&mut self) -> Result<()> {
        if self.has_failed {
            return Err(StoreError::Conflict("the transaction has failed before".to_owned()));
        }
        self.session.commit().await
    }
}

impl std::fmt::Debug for Transaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transaction").field("has_failed", &self.checked.has_failed).finish_non_exhaustive()
    }
}
