//! The settings of `latchkey agent`.

use std::{fs::File, io::Read, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use tonic::transport::Channel;

use crate::{
    cli::client::{CredentialFiles, endpoint},
    config::duration,
    dovecot::ClientKind,
    sockets::{Place, Spec},
    telemetry::{LogFormat, TelemetrySettings},
    upstream::Credentials,
};
use latchkey_core::model::{protocol::Protocol, secret::Secret};

/// For a connection to a replica.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The file with the secret of the HTTP interface is read up to here.
const MAX_SECRET_FILE_BYTES: u64 = 4_096;
const MIN_SECRET_BYTES: usize = 16;
/// How often a silent connection is tried, and how long its answer may take.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Run the agent of a mail host: it speaks the mail servers' own protocols, caches, and closes
/// sessions
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Several values of one variable are separated by spaces.

Examples:
  latchkey agent --server http://127.0.0.1:50051 --sasl-listen unix:/var/spool/postfix/latchkey/sasl,client=postfix \\
    --policy-listen unix:/var/spool/postfix/latchkey/policy
  latchkey agent --config /etc/latchkey/agent.toml")]
pub struct Args {
    /// A replica to follow, http:// or https://. Several times: the next one is followed when one
    /// is gone
    #[arg(long, value_name = "URL", env = "LATCHKEY_SERVER", value_delimiter = ' ', default_value = "http://127.0.0.1:50051")]
    #[arg(hide_env_values = true, value_parser = crate::cli::client::server)]
    pub server: Vec<String>,
    /// Whom to trust for https: certificates in PEM [default: the system's]
    #[arg(long, value_name = "FILE", env = "LATCHKEY_CA", hide_env_values = true)]
    pub ca: Option<PathBuf>,
    /// Our own certificate in PEM, with --key, where the server asks for one
    #[arg(long, value_name = "FILE", env = "LATCHKEY_CERTIFICATE", hide_env_values = true)]
    pub certificate: Option<PathBuf>,
    /// The certificate's private key in PEM
    #[arg(long, value_name = "FILE", env = "LATCHKEY_KEY", hide_env_values = true)]
    pub key: Option<PathBuf>,
    /// A file with the token that names us, where the server asks for one
    #[arg(long, value_name = "FILE", env = "LATCHKEY_TOKEN_FILE", hide_env_values = true)]
    pub token_file: Option<PathBuf>,
    /// What people call this mail host, in answers, logs and audit events [default: the host's
    /// name]
    #[arg(long, value_name = "NAME", env = "LATCHKEY_AGENT_NAME")]
    pub name: Option<String>,
    /// Answer SASL logins by the Dovecot authentication protocol: unix:/PATH or tcp:HOST:PORT, then
    /// ,client=postfix, exim, chasquid, radicale or dovecot, and for a Unix socket ,mode=0660.
    /// Several times
    #[arg(long, value_name = "SOCKET", env = "LATCHKEY_SASL_LISTEN", value_delimiter = ' ', value_parser = sasl_listen)]
    pub sasl_listen: Vec<SaslListen>,
    /// Refused: Dovecot keeps its own authentication server, which asks the agent by --http-listen
    /// (see deploy/dovecot)
    #[arg(long, value_name = "PATH", env = "LATCHKEY_DOVECOT_LOGIN_LISTEN")]
    pub dovecot_login_listen: Option<PathBuf>,
    /// Stand between Dovecot's mail processes and its authentication server, at this Unix socket,
    /// to close sessions exactly
    #[arg(long, value_name = "PATH", env = "LATCHKEY_DOVECOT_MASTER_LISTEN")]
    pub dovecot_master_listen: Option<PathBuf>,
    /// Where Dovecot's authentication server answers its mail processes
    #[arg(long, value_name = "PATH", env = "LATCHKEY_DOVECOT_AUTH_MASTER", default_value = "/run/dovecot/auth-master")]
    pub dovecot_auth_master: PathBuf,
    /// How long a mail process may take to end by itself when its session is closed, before it is
    /// killed
    #[arg(long, value_name = "DURATION", env = "LATCHKEY_KILL_AFTER", default_value = "2s",
        value_parser = duration(Duration::from_millis(100)..=Duration::from_secs(60)))]
    pub kill_after: Duration,
    /// Answer over HTTP: nginx's auth_http, Dovecot's Lua passdb, Haraka, /ready
    #[arg(long, value_name = "IP:PORT", env = "LATCHKEY_HTTP_LISTEN")]
    pub http_listen: Option<SocketAddr>,
    /// A file with the secret that HTTP requests have to carry in the header Latchkey-Key. Other
    /// than on loopback, --http-listen needs it
    #[arg(long, value_name = "FILE", env = "LATCHKEY_HTTP_SECRET_FILE", hide_env_values = true)]
    pub http_secret_file: Option<PathBuf>,
    /// Where nginx sends a client that may log in: imap, pop3 or smtp, then =IP:PORT. Several times
    #[arg(long, value_name = "PROTOCOL=IP:PORT", env = "LATCHKEY_NGINX_BACKEND")]
    #[arg(value_delimiter = ' ', value_parser = nginx_backend)]
    pub nginx_backend: Vec<(Protocol, SocketAddr)>,
    /// Answer Postfix's policy questions, and Exim's: is the login of this SMTP session still good?
    /// unix:/PATH[,mode=0660]. Several times
    #[arg(long, value_name = "SOCKET", env = "LATCHKEY_POLICY_LISTEN", value_delimiter = ' ', value_parser = policy_listen)]
    pub policy_listen: Vec<Place>,
    /// Which protocol a mail server's service stands for, besides imap, pop3, smtp, submission,
    /// sieve and radicale: SERVICE=PROTOCOL. Several times
    #[arg(long, value_name = "SERVICE=PROTOCOL", env = "LATCHKEY_SERVICE_PROTOCOL", value_delimiter = ' ', value_parser = service_protocol)]
    pub service_protocol: Vec<(String, Protocol)>,
    /// Where open sessions are remembered, so that a restart of the agent loses none
    #[arg(long, value_name = "FOLDER", env = "LATCHKEY_RUNTIME_DIR", default_value = "/run/latchkey")]
    pub runtime_dir: PathBuf,
    /// Mailboxes kept in memory, at most (about 200 bytes each)
    #[arg(long, value_name = "N", env = "LATCHKEY_AGENT_CACHE_MAILBOXES", default_value_t = 1_000_000,
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1_000..=1_000_000_000))]
    pub cache_mailboxes: usize,
    /// Close all sessions after so long without any replica [default: they stay open]
    #[arg(long, value_name = "DURATION", env = "LATCHKEY_CLOSE_WHEN_CUT_OFF_FOR",
        value_parser = duration(Duration::from_secs(1)..=Duration::from_secs(30 * 86_400)))]
    pub close_when_cut_off_for: Option<Duration>,
    /// How long what is under way may take when the agent is told to stop
    #[arg(long, value_name = "DURATION", env = "LATCHKEY_DRAIN_TIMEOUT", default_value = "10s",
        value_parser = duration(Duration::ZERO..=Duration::from_secs(3_600)))]
    pub drain_timeout: Duration,
    /// What to log: a level, or directives like `info,latchkey::dovecot=debug`
    #[arg(long, value_name = "FILTER", env = "LATCHKEY_LOG", default_value = "info")]
    pub log: String,
    /// How to log: for people on a terminal, as JSON elsewhere, or one of the two
    #[arg(long, env = "LATCHKEY_LOG_FORMAT", default_value = "auto")]
    pub log_format: LogFormat,
}

/// A socket for SASL logins, and who asks there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SaslListen {
    pub place: Place,
    pub client: ClientKind,
}

impl Args {
    pub(super) fn telemetry(&self) -> TelemetrySettings {
        TelemetrySettings { log: self.log.clone(), format: self.log_format }
    }

    /// The replicas, as channels that connect by themselves, and what every call carries to say who
    /// calls.
    pub(super) fn replicas(&self) -> anyhow::Result<(Vec<Channel>, Credentials)> {
        let files = CredentialFiles {
            ca: self.ca.as_ref(),
            certificate: self.certificate.as_ref(),
            key: self.key.as_ref(),
            token: self.token_file.as_ref(),
        };
        let servers: Vec<&str> = self.server.iter().map(String::as_str).collect();
        let tls = files.tls(&servers)?;
        let channels = servers.iter().map(|server| {
            let endpoint = endpoint(server, concat!("latchkey-agent/", env!("CARGO_PKG_VERSION")))?
                .connect_timeout(CONNECT_TIMEOUT)
                // A replica that is cut off without a word is noticed by this, not by TCP's own
                // time of minutes.
                .http2_keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(KEEP_ALIVE)
                .keep_alive_while_idle(true);
            let tls = tls.clone().filter(|_| server.starts_with("https://"));
            let endpoint = tls.map_or(Ok(endpoint.clone()), |tls| endpoint.tls_config(tls)).context("TLS")?;
            Ok(endpoint.connect_lazy())
        });
        let channels = channels.collect::<anyhow::Result<Vec<_>>>()?;
        let token = files.token()?;
        Ok((channels, Credentials(token)))
    }

    /// What HTTP requests have to carry, if they have to.
    pub(super) fn http_secret(&self) -> anyhow::Result<Option<Secret>> {
        let Some(file) = &self.http_secret_file else {
            let listens_beyond = self.http_listen.filter(|address| !address.ip().is_loopback());
            if let Some(address) = listens_beyond {
                bail!("--http-listen {address}: is not a loopback address, so --http-secret-file is needed");
            }
            return Ok(None);
        };
        let mut text = String::new();
        File::open(file)
            .and_then(|opened| opened.take(MAX_SECRET_FILE_BYTES).read_to_string(&mut text))
            .with_context(|| format!("--http-secret-file {}", file.display()))?;
        let secret = text.lines().next().unwrap_or_default().trim();
        if secret.len() < MIN_SECRET_BYTES || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
            bail!(
                "--http-secret-file {}: the first line must hold at least {MIN_SECRET_BYTES} ASCII characters, without spaces",
                file.display()
            );
        }
        Ok(Some(Secret::from(secret.to_owned())))
    }

    /// The name of this mail host.
    pub(super) fn host_name(&self) -> String {
        self.name.clone().unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned())
    }
}

fn sasl_listen(text: &str) -> Result<SaslListen, String> {
    let spec = Spec::parse(text)?;
    let mut client = None;
    for (name, value) in &spec.options {
        if name != "client" {
            return Err(format!("option `{name}`: must be client or mode"));
        }
        let found = ClientKind::ALL.into_iter().find(|kind| kind.name() == value);
        client = Some(found.ok_or("client must be one of postfix, exim, chasquid, radicale, dovecot")?);
    }
    let client = client.ok_or("must say who asks, as ,client=postfix: mail servers understand \"try later\" differently")?;
    Ok(SaslListen { place: spec.place, client })
}

fn policy_listen(text: &str) -> Result<Place, String> {
    let spec = Spec::parse(text)?;
    if let Some((name, _)) = spec.options.first() {
        return Err(format!("option `{name}`: must be mode"));
    }
    match spec.place {
        Place::Unix { .. } => Ok(spec.place),
        Place::Tcp(_) => {
            Err("must be a Unix socket: over TCP nobody says which process asks, which ties a question to its login".to_owned())
        }
    }
}

fn nginx_backend(text: &str) -> Result<(Protocol, SocketAddr), String> {
    let (protocol, address) = text.split_once('=').ok_or("must be like imap=127.0.0.1:10143")?;
    let protocol = Protocol::parse("protocol", protocol).map_err(|invalid| invalid.to_string())?;
    if !matches!(protocol, Protocol::Imap | Protocol::Pop3 | Protocol::Smtp) {
        return Err("the protocol must be imap, pop3 or smtp: nginx proxies no other".to_owned());
    }
    let address = address.parse().map_err(|_| "the backend must be an IP address with a port: nginx takes no names")?;
    Ok((protocol, address))
}

fn service_protocol(text: &str) -> Result<(String, Protocol), String> {
    let (service, protocol) =
        text.split_once('=').filter(|(service, _)| !service.is_empty()).ok_or("must be like radicale=caldav")?;
    let protocol = Protocol::parse("protocol", protocol).map_err(|invalid| invalid.to_string())?;
    Ok((service.to_owned(), protocol))
}
