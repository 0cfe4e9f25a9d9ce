//! Whether a connection is a session: a pooler between may give each transaction another one.

use deadpool_postgres::Object;
use tokio_postgres::SimpleQueryMessage;

use super::{connection::Connections, errors, pooled::ANSWER_TIMEOUT};
use crate::store::OpenError;

/// Which process of the server answers. Over the simple protocol: prepared statements are among
/// what such a pooler breaks.
const WHO: &str = "SELECT pg_backend_pid()::TEXT";

/// An error unless a connection keeps its session between its transactions. Two are open: one whose
/// transaction has ended, and one in a transaction. Through a pooler that shares, the second is
/// likely to get what the first had; if not, the first gets another one the next time.
pub(super) async fn refuse_shared_sessions(connections: &Connections) -> Result<(), OpenError> {
    let get = async |pool: &deadpool_postgres::Pool| pool.get().await.map_err(|error| errors::open(&error));
    let first = get(&connections.shared).await?;
    let second = get(&connections.reserved).await?;
    let asked = async {
        let before = ask(&first, WHO).await?;
        ask(&second, "BEGIN").await?;
        let other = ask(&second, WHO).await?;
        // Not asked if it is clear already: a pooler may have no third session to give.
        let after = if before == other { None } else { ask(&first, WHO).await? };
        ask(&second, "ROLLBACK").await?;
        Ok(before != other && before == after)
    };
    let outcome = tokio::time::timeout(ANSWER_TIMEOUT, asked).await;
    if !matches!(outcome, Ok(Ok(_))) {
        // Nobody knows what they are doing.
        drop((Object::take(first), Object::take(second)));
    }
    match outcome {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Err(OpenError::SharedSessions),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(OpenError::Unreachable("it accepts connections and does not answer".to_owned())),
    }
}

async fn ask(client: &Object, sql: &str) -> Result<Option<String>, OpenError> {
    let answer = client.simple_query(sql).await.map_err(|error| match error.code() {
        // "transaction blocks not allowed in statement pooling mode"
        Some(_) if errors::words(&error).contains("pooling mode") => OpenError::SharedSessions,
        _ => OpenError::Unreachable(errors::words(&error)),
    })?;
    Ok(answer.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    }))
}
