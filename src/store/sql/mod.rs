//! The SQL that both stores share. They speak nearly the same language; what differs (the
//! connection, the sync, the bulk import) stays in `sqlite/` and `postgres/`.
//!
//! Columns have types that both know: ids BLOB/BYTEA, times BIGINT microseconds since 1970, numbers
//! BIGINT, switches BOOLEAN, the rest TEXT. Parameters are `$1`, `$2`, …; each statement starts
//! with a comment that names the method it serves.

pub(super) mod changes;
pub(super) mod columns;
mod devices;
mod directory;
pub(super) mod events;
pub(super) mod housekeeping;
mod mailboxes;
pub(super) mod reads;
pub(super) mod sessions;
mod transaction;

use async_trait::async_trait;

pub(super) use self::columns::Columns;
pub use self::transaction::Transaction;
use super::Result;

/// A parameter, or a column of a row.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    Null,
    Int(i64),
    Bool(bool),
    Text(String),
    Bytes(Vec<u8>),
}

/// A row, its columns in the statement's order.
pub type Row = Vec<Value>;

/// One open transaction on one connection: what a database has to be able to do. Dropped before
/// `commit`, it is rolled back; after an error too.
#[async_trait]
pub trait Session: Send {
    async fn query(&mut self, sql: &'static str, parameters: &[Value]) -> Result<Vec<Row>>;
    /// How many rows it changed.
    async fn execute(&mut self, sql: &'static str, parameters: &[Value]) -> Result<u64>;
    /// Told by who writes to the change log.
    fn has_change(&mut self) {}
    /// Its end is checked: `Ok` means that the change is there, and stays.
    async fn commit(&mut self) -> Result<()>;
}

/// The method that a statement serves: the comment that it begins with.
pub fn method(sql: &'static str) -> &'static str {
    sql.strip_prefix("/* ").and_then(|rest| rest.split_once(" */")).map_or("statement", |(method, _)| method)
}

#[cfg(test)]
mod tests {
    use super::method;

    #[test]
    fn a_statement_is_named_by_the_method_that_it_serves() {
        assert_eq!(method("/* lock_log */ UPDATE change_head"), "lock_log");
        assert_eq!(method("SELECT 1"), "statement");
    }
}
