//! A start whose database comes later than it: the server listens, says that it is not ready, and
//! tries again.

use std::{io, time::Duration};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::layer::util::Identity;
use tracing::{info, warn};

use super::settings::StoreSettings;
use crate::{
    grpc::server::{self, ServerSettings},
    lifecycle::notify_service_manager,
    store::{OpenError, Store},
};

/// Between two tries: at first, and at most.
const RETRY: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(5)];
/// For answers that are under way when the database is there.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(1);

/// Opens the store, and waits for a database that is out of reach. `None`: stopped before it came.
/// Any other problem is returned at once: it does not pass by itself.
pub(super) async fn open_store(
    settings: &StoreSettings,
    server: &ServerSettings,
    listener: &TcpListener,
    mut shutdown: impl Future<Output = ()> + Unpin,
) -> anyhow::Result<Option<std::sync::Arc<dyn Store>>> {
    let address = listener.local_addr()?;
    let mut problem = match settings.open(address).await {
        Err(problem) if passes(&problem) => problem,
        outcome => return outcome.map(Some),
    };
    let (routes, health) = server::waiting_routes();
    health.set_ready(false).await;
    let ended = CancellationToken::new();
    let serving = server::builder(server, Identity::new())?.add_routes(routes);
    let serving = serving.serve_with_incoming_shutdown(server::incoming(same(listener)?), ended.clone().cancelled_owned());
    let mut serving = tokio::spawn(serving);
    notify_service_manager("STATUS=Waiting for the database");

    let mut retry = RETRY[0];
    let store = loop {
        warn!(%problem, retry_milliseconds = retry.as_millis(), "waiting for the database; the server is not ready");
        tokio::select! {
            () = tokio::time::sleep(retry) => (),
            () = &mut shutdown => break None,
        }
        retry = (retry * 2).min(RETRY[1]);
        match settings.open(address).await {
            Ok(store) => break Some(store),
            Err(still) if passes(&still) => problem = still,
            Err(other) => return Err(other),
        }
    };
    // Streams of health end, so that their clients ask the server that comes now; idle connections
    // are closed.
    health.close().await;
    ended.cancel();
    if tokio::time::timeout(HANDOVER_TIMEOUT, &mut serving).await.is_err() {
        serving.abort();
    }
    match &store {
        Some(_) => {
            notify_service_manager("STATUS=");
            info!("the database is there");
        }
        None => info!("stopped while waiting for the database"),
    }
    Ok(store)
}

fn passes(problem: &anyhow::Error) -> bool {
    matches!(problem.downcast_ref(), Some(OpenError::Unreachable(_) | OpenError::BeingMigrated))
}

/// The same socket once more: what it holds back while nobody accepts goes to whoever accepts next.
fn same(listener: &TcpListener) -> io::Result<TcpListener> {
    use std::os::fd::AsFd;
    let socket = std::net::TcpListener::from(listener.as_fd().try_clone_to_owned()?);
    TcpListener::from_std(socket)
}
