//! Floor 4: the agent's HTTP interface, for mail servers that ask over HTTP. docs/mail-servers.md
//! has it for administrators.
//!
//! | request | from | answer |
//! | --- | --- | --- |
//! | `GET /nginx` | nginx's mail proxy (`auth_http`) | headers, see [`nginx`] |
//! | `POST /login` | Dovecot's Lua passdb, Haraka | lines, see [`form`] |
//! | `POST /check` | Haraka, Exim: is the session still good? | lines |
//! | `GET /health` | a service manager | 200 while the process runs |
//! | `GET /ready` | a load balancer | 200 if logins can be answered, else 503 |
//!
//! **`POST /login`**: the body is `name=value` pairs joined by `&`, percent-encoded
//! (application/x-www-form-urlencoded, so a `+` is a space). `user`, `password` and `protocol` are
//! required (`imap`, `pop3`, `smtp`, `submission`, `sieve`, `caldav` …); `rip` is the client's
//! address; `session` is the mail server's own name for the session, for our log; unknown names are
//! ignored. The status is 200 and the body is lines `name=value`, each ended by LF, with values as
//! they are (they hold no control characters). `result` comes first:
//! - `result=ok`, then `user=` (the canonical address), `device=` (the device's id) and
//!   `admission=` (what names this login to `/check` and to the agent: Dovecot hands it back as
//!   `userdb_latchkey_session`; at most 1,024 bytes of letters, digits, `-` and `_`).
//! - `result=denied`, then `reason=` (a word for the server's log, never for the mail client).
//! - `result=later`: no answer. Whatever else comes back (another status, no `result`) means the
//!   same.
//!
//! **`POST /check`**: `admission` is required, `rip` and `protocol` are as at the login.
//! `result=ok`, `result=ended` with `reason=`, or `result=later`.
//!
//! Every request but `/health` and `/ready` carries the secret in the header `Latchkey-Key` if the
//! agent has one.

pub mod form;
mod handler;
mod nginx;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, net::SocketAddr, sync::Arc, time::Duration};

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::lifecycle::Drain;
use latchkey_core::model::{
    address::Address,
    id::DeviceId,
    protocol::Protocol,
    secret::Secret,
    verdict::{Attempt, Reason},
};

/// Connections at a time; more wait in the listener's queue.
const MAX_CONNECTIONS: usize = 4_096;
/// For a request's head, from the connection's first byte or the last answer's end.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Of a request's head. nginx sends up to 2 KiB of user name and password, percent-encoded.
const MAX_HEAD_BYTES: usize = 32 << 10;
const MAX_HEADERS: usize = 64;
/// After a failure to accept: out of file descriptors, for instance.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// For connections under way, once the process drains.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// How the interface is set up.
#[derive(Clone, Default)]
pub struct Settings {
    /// What a request has to carry in `Latchkey-Key`; `None`: nothing.
    pub secret: Option<Secret>,
    /// Where nginx sends a client that may log in, by protocol. nginx takes IP addresses only, no
    /// names.
    pub backends: BTreeMap<&'static str, SocketAddr>,
    /// What the login log calls this host's frontends.
    pub frontend: String,
}

/// Whom the interface asks: the agent's cache, and the replica behind it.
pub trait Authority: Send + Sync + 'static {
    fn log_in(&self, attempt: &Attempt) -> impl Future<Output = Login> + Send;
    /// Whether a session opened with this admission may go on.
    fn check(&self, session: &SessionCheck) -> impl Future<Output = Standing> + Send;
    /// Whether logins can be answered just now.
    fn is_ready(&self) -> bool;
}

/// The answer to a login.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Login {
    Allowed {
        user: Address,
        device_id: DeviceId,
        /// Names the login to [`Authority::check`]. Letters, digits, `-` and `_`.
        admission: String,
    },
    Denied(Reason),
    /// No answer: the client is told to try later, never that its password is wrong.
    TryLater,
}

/// A question about a session that is open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionCheck {
    pub admission: String,
}

/// Whether a session may go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    Good,
    Ended(Reason),
    Unknown,
}

/// Serves until the process drains; then answers what is under way, and returns.
pub async fn run(listener: TcpListener, settings: Settings, authority: Arc<impl Authority>, drain: Drain) {
    let settings = Arc::new(settings);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = drain.started() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let Some((stream, peer, place)) = accepted else { continue };
        let (settings, authority, drain) = (Arc::clone(&settings), Arc::clone(&authority), drain.clone());
        connections.spawn(async move {
            if let Err(error) = serve(stream, &settings, &authority, &drain).await {
                debug!(%peer, %error, "an HTTP connection has ended");
            }
            drop(place);
        });
    }
    connections.close();
    if timeout(DRAIN_TIMEOUT, connections.wait()).await.is_err() {
        warn!(connections = connections.len(), "HTTP connections are cut off: they did not end in time");
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    // The semaphore is never closed.
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => {
            let _ = stream.set_nodelay(true);
            Some((stream, peer, place))
        }
        Err(error) => {
            warn!(%error, "no HTTP connection can be accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

async fn serve(
    stream: TcpStream,
    settings: &Arc<Settings>,
    authority: &Arc<impl Authority>,
    drain: &Drain,
) -> Result<(), hyper::Error> {
    let service = hyper::service::service_fn(|request| {
        let (settings, authority) = (Arc::clone(settings), Arc::clone(authority));
        async move { Ok::<_, std::convert::Infallible>(handler::answer(request, &settings, &*authority).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = drain.started() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

/// A protocol by its own name, or by the name that a mail server has for the service.
fn protocol(name: &str) -> Option<Protocol> {
    match name {
        "submission" | "submissions" => Some(Protocol::Smtp),
        "managesieve" => Some(Protocol::Sieve),
        _ => Protocol::parse("protocol", name).ok(),
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("backends", &self.backends).field("frontend", &self.frontend).finish_non_exhaustive()
    }
}
