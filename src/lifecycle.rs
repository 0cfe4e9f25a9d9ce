//! Beside the stairs: how a process ends. The first signal drains it: what is under way is answered, streams end, then it stops. The second ends it at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

/// Tells whoever holds a stream open, or waits for more work, that the process is to stop.
#[derive(Clone, Debug, Default)]
pub struct Drain(CancellationToken);

impl Drain {
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns when it has started.
    pub async fn started(&self) {
        self.0.cancelled().await;
    }

    pub fn has_started(&self) -> bool {
        self.0.is_cancelled()
    }

    pub fn start(&self) {
        self.0.cancel();
    }
}

/// Starts the drain at the first SIGTERM or SIGINT, and ends the process at the second.
pub async fn drain_on_signals(drain: Drain) -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => (),
        _ = interrupt.recv() => (),
    }
    info!("draining: answering what is under way; a second signal ends this at once");
    drain.start();
    tokio::select! {
        _ = terminate.recv() => (),
        _ = interrupt.recv() => (),
    }
    info!("ended by a second signal");
    std::process::exit(130)
}

/// Runs a task that must never end: if it does, by a panic too, the process stops, since half of it is worse than none.
pub fn run_for_ever(name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(async move {
        let ended = tokio::spawn(task).await;
        error!(task = name, panicked = ended.is_err(), "a task that must not end has ended; the process stops");
        std::process::exit(70)
    });
}
