//! NOTIFY and LISTEN: how processes hear of a change at once. Only hints: what they miss, the next
//! sync finds.

use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

use deadpool_postgres::Pool;
use tokio::sync::Notify;
use tokio_postgres::{AsyncMessage, Config, Connection};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::pooled::{ANSWER_TIMEOUT, Connection as Pooled};
use crate::store::Hint;

/// Waits for no disk: a hint that is lost is found by asking.
const NOTIFY: &str = "/* hint */ SELECT set_config('synchronous_commit', 'off', true), pg_notify('latchkey_change', '')";
const LISTEN: &str = "/* hint */ LISTEN latchkey_change";
/// After a connection that broke: at first, and at most.
const RETRY: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(2)];

/// Both ends of the hints. Their tasks end with the store.
#[derive(Clone)]
pub(super) struct Hints {
    config: Config,
    tls: MakeRustlsConnect,
    changed: Arc<Notify>,
    closed: CancellationToken,
}

impl Hints {
    pub(super) fn new(config: Config, tls: MakeRustlsConnect) -> Self {
        Self { config, tls, changed: Arc::default(), closed: CancellationToken::new() }
    }

    /// After a commit: the others are to hear of it.
    pub(super) fn send(&self) {
        self.changed.notify_one();
    }

    pub(super) fn close(&self) {
        self.closed.cancel();
    }

    /// Sends for ever: one for all that were asked for since the last.
    pub(super) async fn run_sender(self, pool: Pool) {
        let send = async {
            loop {
                self.changed.notified().await;
                let Ok(mut connection) = Pooled::get(&pool).await else {
                    continue;
                };
                if let Ok(Err(error)) = connection.run(async |client| Ok(client.batch_execute(NOTIFY).await)).await {
                    debug!(%error, "the other replicas were not notified of a change; they find it at their next sync");
                }
            }
        };
        tokio::select! {
            () = send => (),
            () = self.closed.cancelled() => (),
        }
    }

    /// Listens for ever, over a connection of its own.
    pub(super) async fn run_listener(self, hint: Hint) {
        let listen = async {
            let mut retry = RETRY[0];
            loop {
                match self.listen(&hint).await {
                    Ok(()) => retry = RETRY[0],
                    Err(error) => debug!(error, "changes elsewhere can't be listened for; they are found by asking"),
                }
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(RETRY[1]);
            }
        };
        tokio::select! {
            () = listen => (),
            () = self.closed.cancelled() => (),
        }
    }

    /// Until the connection ends.
    async fn listen(&self, hint: &Hint) -> Result<(), String> {
        let late = |_| "no answer in time".to_owned();
        let connected = tokio::time::timeout(ANSWER_TIMEOUT, self.config.connect(self.tls.clone())).await;
        let (client, connection) = connected.map_err(late)?.map_err(|error| error.to_string())?;
        let driven = tokio::spawn(drive(connection, Arc::clone(hint)));
        let ended = driven.abort_handle();
        // Aborted with us, so that nobody goes on listening for a store that is closed.
        let _guard = Aborted(ended);
        let listening = tokio::time::timeout(ANSWER_TIMEOUT, client.batch_execute(LISTEN)).await;
        listening.map_err(late)?.map_err(|error| error.to_string())?;
        // What came while nobody listened.
        hint();
        let _ = driven.await;
        Ok(())
    }
}

struct Aborted(tokio::task::AbortHandle);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn drive<S, T>(mut connection: Connection<S, T>, hint: Hint)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    poll_fn(|context| {
        loop {
            match std::task::ready!(connection.poll_message(context)) {
                Some(Ok(AsyncMessage::Notification(_))) => hint(),
                Some(Ok(_)) => (),
                Some(Err(_)) | None => return Poll::Ready(()),
            }
        }
    })
    .await;
}
