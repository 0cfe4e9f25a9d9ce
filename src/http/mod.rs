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
//!   `userdb_latchkey_session`; at most 1,024 bytes of letters, digits, `.`, `-` and `_`).
//! - `result=denied`, then `reason=` (a word for the server's log, never for the mail client).
//! - `result=later`: no answer. Whatever else comes back (another status, no `result`) means the
//!   same.
//!
//! **`POST /check`**: `admission` is required. The answer is `result=ok`, `result=ended` with
//! `reason=`, or `result=later`.
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
};
use tracing::{debug, warn};

use crate::authority::{Answer, Authority, Host};
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

/// Which protocol a service stands for.
pub type ServiceProtocol = dyn Fn(&str) -> Option<Protocol> + Send + Sync;

/// How the interface is set up.
pub struct Settings {
    /// What a request has to carry in `Latchkey-Key`; `None`: nothing.
    pub secret: Option<Secret>,
    /// Where nginx sends a client that may log in, by protocol. nginx takes IP addresses only, no
    /// names.
    pub backends: BTreeMap<&'static str, SocketAddr>,
    /// What the login log calls this host's frontends.
    pub frontend: String,
    /// Which protocol a mail server's service stands for, besides the protocols' own names.
    pub service: Box<ServiceProtocol>,
    /// Whether logins can be answered just now.
    pub is_ready: Box<dyn Fn() -> bool + Send + Sync>,
}

/// The answer to a login.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Login {
    Allowed {
        user: Address,
        device_id: DeviceId,
        admission: String,
    },
    Denied(Reason),
    /// No answer: the client is told to try later, never that its password is wrong.
    TryLater,
}

async fn log_in(authority: &dyn Authority, attempt: &Attempt) -> Login {
    match authority.authenticate(attempt).await {
        Ok(Answer { reason, admission: None, .. }) => Login::Denied(reason),
        Ok(Answer { admission: Some(admission), .. }) => Login::Allowed {
            user: admission.session.address.clone(),
            device_id: admission.session.password.device_id,
            admission: authority.encode(&admission),
        },
        Err(error) => {
            debug!(%error, address = %attempt.address, "a login gets no answer");
            Login::TryLater
        }
    }
}

/// Serves for ever. Once the process drains it takes no new connection, and answers what is under
/// way.
pub async fn run(listener: TcpListener, settings: Settings, host: Host) {
    let settings = Arc::new(settings);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = host.drain.started() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let Some((stream, peer, place)) = accepted else { continue };
        let (settings, connection) = (Arc::clone(&settings), host.clone());
        host.connections.spawn(async move {
            if let Err(error) = serve(stream, &settings, &connection).await {
                debug!(%peer, %error, "an HTTP connection has ended");
            }
            drop(place);
        });
    }
    // New connections are refused from here on.
    drop(listener);
    std::future::pending().await
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

async fn serve(stream: TcpStream, settings: &Arc<Settings>, host: &Host) -> Result<(), hyper::Error> {
    let service = hyper::service::service_fn(|request| {
        let (settings, authority) = (Arc::clone(settings), Arc::clone(&host.authority));
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
        () = host.drain.started() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("backends", &self.backends).field("frontend", &self.frontend).finish_non_exhaustive()
    }
}
