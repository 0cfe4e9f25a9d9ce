//! Beside the stairs: how a process ends. The first signal drains it: what is under way is
//! answered, streams end, then it stops. The second ends it at once.

use std::os::{
    linux::net::SocketAddrExt,
    unix::{
        ffi::OsStrExt,
        net::{SocketAddr, UnixDatagram},
    },
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};
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

/// Completes `first` at the first SIGTERM or SIGINT, and ends the process at the second. SIGHUP is
/// ignored, with a line in the log: settings are read once, at start.
pub async fn stop_on_signals(first: oneshot::Sender<()>) {
    if let Err(cause) = try_stop_on_signals(first).await {
        error!(%cause, "cannot receive signals");
    }
}

async fn try_stop_on_signals(first: oneshot::Sender<()>) -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = signal(SignalKind::hangup())?;
    let mut first = Some(first);
    loop {
        tokio::select! {
            _ = terminate.recv() => (),
            _ = interrupt.recv() => (),
            _ = hangup.recv() => {
                info!("SIGHUP is ignored: settings are read at start, so restart the process to change them");
                continue;
            }
        }
        let Some(first) = first.take() else {
            info!("ended by a second signal");
            std::process::exit(130)
        };
        info!("draining: answering what is under way; a second signal ends this at once");
        notify_service_manager("STOPPING=1");
        // The replica may have ended by itself.
        let _ = first.send(());
    }
}

/// Tells systemd the state of this process, as sd_notify(3) does: `READY=1` or `STOPPING=1`. Does
/// nothing without `NOTIFY_SOCKET`.
pub fn notify_service_manager(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&socket),
    };
    let sent = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(cause) = sent {
        error!(%cause, state, "cannot notify the service manager over NOTIFY_SOCKET");
    }
}

/// Runs a task that must never end: if it does, by a panic too, the process stops, since half of it
/// is worse than none.
pub fn run_for_ever(name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(async move {
        let ended = tokio::spawn(task).await;
        error!(task = name, panicked = ended.is_err(), "a task that must not end has ended; the process stops");
        std::process::exit(70)
    });
}
