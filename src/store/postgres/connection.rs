//! The pool, and how its connections are made: with timeouts, TLS as the URL asks for it, and an
//! eye on the server's notices.

use std::{future::poll_fn, task::Poll, time::Duration};

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio::task::JoinHandle;
use tokio_postgres::{AsyncMessage, Client, Config, config::TargetSessionAttrs};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::{debug, warn};

use super::{errors, notify::Hints, pooled::Notices, settings::PostgresSettings, tls};
use crate::store::OpenError;

/// For one statement, and for one lock, by the server. Set once connected: a pooler takes no
/// options before.
const LIMITS: &str = "SET statement_timeout = 5000; SET lock_timeout = 2000; SET idle_in_transaction_session_timeout = 30000";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// For a place in the pool.
const WAIT_TIMEOUT: Duration = Duration::from_secs(3);
/// Until a peer that vanished is noticed.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections that logins cannot take: one for the feed, whose lease renewals must not wait behind
/// a stampede of logins, and one for its hints to the other replicas.
const RESERVED: usize = 2;

/// How the store reaches its server.
pub(super) struct Connections {
    pub(super) shared: Pool,
    /// See [`RESERVED`].
    pub(super) reserved: Pool,
    pub(super) notices: Notices,
    pub(super) hints: Hints,
}

pub(super) fn connections(settings: &PostgresSettings) -> Result<Connections, OpenError> {
    let (mut config, verify) = parse(&settings.url)?;
    config.application_name("latchkey");
    config.connect_timeout(CONNECT_TIMEOUT).tcp_user_timeout(TCP_USER_TIMEOUT);
    config.keepalives_idle(Duration::from_secs(30));
    // An old primary that has become a standby is none of ours.
    config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    let ca = settings.ca.clone().or(verify.ca);
    let tls = MakeRustlsConnect::new(tls::client_config(ca.as_deref(), verify.required).map_err(OpenError::Settings)?);
    let notices = Notices::default();
    let hints = Hints::new(config.clone(), tls.clone());
    let pool = |size: usize| {
        let connect = Connector { tls: tls.clone(), notices: notices.clone() };
        let manager = Manager::from_connect(config.clone(), connect, ManagerConfig { recycling_method: RecyclingMethod::Fast });
        Pool::builder(manager)
            .max_size(size)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(WAIT_TIMEOUT))
            .create_timeout(Some(CONNECT_TIMEOUT * 2))
            .build()
            .map_err(|error| OpenError::Settings(error.to_string()))
    };
    let (shared, reserved) = (pool(settings.connections)?, pool(RESERVED)?);
    Ok(Connections { shared, reserved, notices, hints })
}

/// What the URL says of the server's certificate.
#[derive(Default)]
struct Verify {
    required: bool,
    ca: Option<std::path::PathBuf>,
}

/// Parses the URL, and takes out what libpq knows and tokio-postgres does not:
/// `sslmode=verify-full` and `sslrootcert`.
fn parse(url: &str) -> Result<(Config, Verify), OpenError> {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let mut verify = Verify::default();
    let mut kept = Vec::new();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("sslmode", "verify-full" | "verify-ca")) => {
                verify.required = true;
                kept.push("sslmode=require");
            }
            Some(("sslrootcert", file)) => verify.ca = Some(file.into()),
            // Set by us in any case.
            Some(("target_session_attrs", _)) => (),
            _ => kept.push(parameter),
        }
    }
    let url = if kept.is_empty() { base.to_owned() } else { format!("{base}?{}", kept.join("&")) };
    // The parser's error may repeat what it could not read.
    let refused = |_| OpenError::Settings("must be like postgres://user:password@host:5432/database?sslmode=require".to_owned());
    let config: Config = url.parse().map_err(refused)?;
    if config.get_hosts().is_empty() {
        return Err(OpenError::Settings("must name a host".to_owned()));
    }
    Ok((config, verify))
}

struct Connector {
    tls: MakeRustlsConnect,
    notices: Notices,
}

impl deadpool_postgres::Connect for Connector {
    fn connect(
        &self,
        config: &Config,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), tokio_postgres::Error>> + Send + '_>> {
        let (config, tls, notices) = (config.clone(), self.tls.clone(), self.notices.clone());
        Box::pin(async move {
            let (client, connection) = config.connect(tls).await?;
            let driven = tokio::spawn(drive(connection, notices));
            client.batch_execute(LIMITS).await?;
            Ok((client, driven))
        })
    }
}

/// Runs a connection until it ends, and looks at what the server says beside its answers.
async fn drive<S, T>(mut connection: tokio_postgres::Connection<S, T>, notices: Notices)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    poll_fn(|context| {
        loop {
            match std::task::ready!(connection.poll_message(context)) {
                Some(Ok(AsyncMessage::Notice(notice))) if errors::is_uncertain_commit(&notice) => {
                    warn!("a commit was not waited for by its standby: {}", notice.message());
                    notices.add();
                }
                Some(Ok(_)) => (),
                Some(Err(error)) => {
                    debug!(%error, "a connection to the database ended");
                    return Poll::Ready(());
                }
                None => return Poll::Ready(()),
            }
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_may_say_how_the_server_is_verified() {
        let (config, verify) =
            parse("postgres://a:b@h1:1,h2:2/d?sslmode=verify-full&sslrootcert=/ca.pem&connect_timeout=9").unwrap();
        assert!(verify.required && verify.ca == Some("/ca.pem".into()));
        assert_eq!((config.get_hosts().len(), config.get_ports()), (2, &[1, 2][..]));
        assert!(!parse("postgres://a@h/d").unwrap().1.required);
    }

    #[test]
    fn a_broken_url_is_refused_without_its_password() {
        for broken in ["postgres://a:s3cret@h:port/d", "s3cret", "postgres://a:s3cret@h/d?sslmode=s3cret"] {
            let Err(error) = parse(broken) else { panic!("{broken} was taken") };
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }
}
