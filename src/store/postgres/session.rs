//! Statements on a connection, and one transaction.

use async_trait::async_trait;
use bytes::BytesMut;
use deadpool_postgres::{Object, Pool};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use super::{
    errors,
    notify::Hints,
    pooled::{Connection, Notices},
};
use crate::store::{
    Mode, Result, StoreError,
    sql::{Row, Session, Value},
};

/// One transaction. Dropped before its commit, it is rolled back in the background; the connection
/// goes back to the pool only then, or is closed.
pub(super) struct PostgresSession {
    connection: Option<Connection>,
    notices: Notices,
    hints: Hints,
    /// Whether it writes to the change log: then the others are to hear of it.
    has_change: bool,
}

impl PostgresSession {
    pub(super) async fn begin(pool: &Pool, notices: Notices, hints: Hints, mode: Mode) -> Result<Self> {
        let begin = match mode {
            Mode::Read => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            // Under a lock that was waited for, a statement has to see what the one before left.
            Mode::Write => "BEGIN ISOLATION LEVEL READ COMMITTED",
        };
        let connection = Some(Connection::get(pool).await?);
        // Before it is begun: a caller that hangs up meanwhile leaves no open transaction in the
        // pool, where a later read would see an old snapshot.
        let mut session = Self { connection, notices, hints, has_change: false };
        session.run(async |client| client.batch_execute(begin).await.map_err(|error| errors::store(&error))).await?;
        Ok(session)
    }

    /// In time, or the connection is closed.
    pub(super) async fn run<T>(&mut self, ask: impl AsyncFnOnce(&Object) -> Result<T>) -> Result<T> {
        match &mut self.connection {
            Some(connection) => connection.run(ask).await,
            None => Err(StoreError::Unavailable("the transaction has ended".to_owned())),
        }
    }
}

#[async_trait]
impl Session for PostgresSession {
    async fn query(&mut self, sql: &'static str, parameters: &[Value]) -> Result<Vec<Row>> {
        self.run(async |client| query(client, sql, parameters).await).await
    }

    async fn execute(&mut self, sql: &'static str, parameters: &[Value]) -> Result<u64> {
        self.run(async |client| execute(client, sql, parameters).await).await
    }

    fn has_change(&mut self) {
        self.has_change = true;
    }

    /// A COMMIT that the server answers with ROLLBACK looks like success to the driver, and so does
    /// one whose wait for a standby was cancelled. So the transaction's own status is asked for
    /// afterwards, and the server's warnings are counted.
    async fn commit(&mut self) -> Result<()> {
        let warnings = self.notices.uncertain_commits();
        let sql = "/* commit */ SELECT pg_current_xact_id_if_assigned()::TEXT";
        let transaction = self.query(sql, &[]).await?.pop().and_then(|mut row| row.pop());
        let committed = self.run(async |client| Ok(client.batch_execute("COMMIT").await)).await;
        let in_doubt = |_| StoreError::OutcomeUnknown("the commit was not answered in time".to_owned());
        committed.map_err(in_doubt)?.map_err(|error| errors::commit(&error))?;
        if let Some(Value::Text(transaction)) = transaction {
            let sql = "/* commit */ SELECT pg_xact_status($1::TEXT::xid8)";
            let unknown = |_| StoreError::OutcomeUnknown("the commit's end could not be read".to_owned());
            let status = self.query(sql, &[Value::Text(transaction)]).await.map_err(unknown)?;
            match status.into_iter().next().and_then(|row| row.into_iter().next()) {
                Some(Value::Text(status)) if status == "committed" => (),
                Some(Value::Text(status)) if status == "aborted" => {
                    return Err(StoreError::Conflict("the database rolled the transaction back".to_owned()));
                }
                _ => return Err(StoreError::OutcomeUnknown("the commit's end is not known".to_owned())),
            }
        }
        self.notices.verify(warnings)?;
        // Back to the pool.
        self.connection = None;
        if std::mem::take(&mut self.has_change) {
            self.hints.send();
        }
        Ok(())
    }
}

impl Drop for PostgresSession {
    fn drop(&mut self) {
        // Its commit may be under way: whoever called has hung up, or does not know how it ended.
        // The others are to look, once it has.
        let hints = self.has_change.then(|| self.hints.clone());
        let Some(mut connection) = self.connection.take() else {
            if let Some(hints) = hints {
                hints.send();
            }
            return;
        };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            // Closing it rolls back too.
            connection.close();
            return;
        };
        runtime.spawn(async move {
            let rolled_back = connection.run(async |client| Ok(client.batch_execute("ROLLBACK").await.is_ok())).await;
            if !rolled_back.unwrap_or(false) {
                connection.close();
            }
            if let Some(hints) = hints {
                hints.send();
            }
        });
    }
}

/// Statements where a session is asked for; each commits by itself. Enough for reading: READ
/// COMMITTED gives each its own snapshot in a transaction, too.
pub(super) struct Single(pub(super) Connection);

#[async_trait]
impl Session for Single {
    async fn query(&mut self, sql: &'static str, parameters: &[Value]) -> Result<Vec<Row>> {
        self.0.run(async |client| query(client, sql, parameters).await).await
    }

    async fn execute(&mut self, sql: &'static str, parameters: &[Value]) -> Result<u64> {
        self.0.run(async |client| execute(client, sql, parameters).await).await
    }

    async fn commit(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A statement that writes and commits by itself: as its commit, it may have been made although
/// nobody answers so.
pub(super) async fn write(
    connection: &mut Connection,
    notices: &Notices,
    sql: &'static str,
    parameters: &[Value],
) -> Result<Vec<Row>> {
    let warnings = notices.uncertain_commits();
    let unknown = |_| StoreError::OutcomeUnknown("the write was not answered in time".to_owned());
    let written = connection.run(async |client| Ok(ask(client, sql, parameters).await)).await.map_err(unknown)?;
    let rows = written.map_err(|error| errors::write(&error))?;
    notices.verify(warnings)?;
    to_rows(&rows)
}

pub(super) async fn query(client: &Object, sql: &'static str, parameters: &[Value]) -> Result<Vec<Row>> {
    to_rows(&ask(client, sql, parameters).await.map_err(|error| errors::store(&error))?)
}

/// Up to the server's last word, which follows its warnings about the commit.
async fn ask(
    client: &Object,
    sql: &'static str,
    parameters: &[Value],
) -> Result<Vec<tokio_postgres::Row>, tokio_postgres::Error> {
    let statement = client.prepare_cached(sql).await?;
    client.query(&statement, &references(parameters)).await
}

fn to_rows(rows: &[tokio_postgres::Row]) -> Result<Vec<Row>> {
    let to_row = |row: &tokio_postgres::Row| (0..row.len()).map(|column| row.try_get(column)).collect::<Result<Row, _>>();
    rows.iter().map(|row| to_row(row).map_err(|error| StoreError::Corrupt(errors::words(&error)))).collect()
}

pub(super) async fn execute(client: &Object, sql: &'static str, parameters: &[Value]) -> Result<u64> {
    let statement = client.prepare_cached(sql).await.map_err(|error| errors::store(&error))?;
    client.execute(&statement, &references(parameters)).await.map_err(|error| errors::store(&error))
}

fn references(parameters: &[Value]) -> Vec<&(dyn ToSql + Sync)> {
    parameters.iter().map(|parameter| parameter as &(dyn ToSql + Sync)).collect()
}

type Foreign = Box<dyn std::error::Error + Sync + Send>;

impl ToSql for Value {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Foreign> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Int(number) if *ty == Type::INT4 => i32::try_from(*number)?.to_sql(ty, out),
            Self::Int(number) => number.to_sql(ty, out),
            Self::Bool(switch) => switch.to_sql(ty, out),
            Self::Text(text) => text.to_sql(ty, out),
            Self::Bytes(bytes) => bytes.to_sql(ty, out),
        }
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::INT8 | Type::INT4 | Type::BOOL | Type::TEXT | Type::VARCHAR | Type::BYTEA)
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Value {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Foreign> {
        Ok(match *ty {
            Type::INT8 => Self::Int(i64::from_sql(ty, raw)?),
            Type::INT4 => Self::Int(i32::from_sql(ty, raw)?.into()),
            Type::BOOL => Self::Bool(bool::from_sql(ty, raw)?),
            Type::BYTEA => Self::Bytes(<&[u8]>::from_sql(ty, raw)?.to_vec()),
            _ => Self::Text(<&str>::from_sql(ty, raw)?.to_owned()),
        })
    }

    fn from_sql_null(_: &Type) -> Result<Self, Foreign> {
        Ok(Self::Null)
    }

    fn accepts(ty: &Type) -> bool {
        <Self as ToSql>::accepts(ty)
    }
}
