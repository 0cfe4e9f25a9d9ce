//! The client's side of the operator commands: which server, on whose behalf, and how the answer is
//! shown.

use std::{fs, path::PathBuf, time::Duration};

use clap::Args;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use tonic_health::pb::health_client::HealthClient;

use super::{failure::Failure, output::Output};
use crate::{
    config,
    proto::{
        authorization_client::AuthorizationClient, device_credentials_client::DeviceCredentialsClient,
        directory_client::DirectoryClient,
    },
    random, tls,
};

/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(100);
const LONGEST_TIMEOUT: Duration = Duration::from_hours(1);
/// Certificates, keys and tokens are read up to this many bytes.
const MAX_CREDENTIAL_BYTES: u64 = 1 << 20;

/// What all operator commands take.
#[derive(Args, Debug, Clone)]
#[group(id = "client", multiple = true)]
#[command(next_help_heading = "Connection")]
pub(super) struct ClientArgs {
    /// The server's address, http:// or https://
    #[arg(long, global = true, value_name = "URL", env = "LATCHKEY_SERVER", default_value = "http://127.0.0.1:50051")]
    #[arg(hide_env_values = true, value_parser = server)]
    pub(super) server: String,
    /// CA certificates to trust for https, in PEM (default: the system's)
    #[arg(long, global = true, value_name = "FILE", env = "LATCHKEY_CA", hide_env_values = true)]
    ca: Option<PathBuf>,
    /// This client's certificate, in PEM; with --key
    #[arg(long, global = true, value_name = "FILE", env = "LATCHKEY_CERTIFICATE", hide_env_values = true)]
    certificate: Option<PathBuf>,
    /// The certificate's private key in PEM
    #[arg(long, global = true, value_name = "FILE", env = "LATCHKEY_KEY", hide_env_values = true)]
    key: Option<PathBuf>,
    /// A file with this client's bearer token
    #[arg(long, global = true, value_name = "FILE", env = "LATCHKEY_TOKEN_FILE", hide_env_values = true)]
    token_file: Option<PathBuf>,
    /// The person to act for: their rights apply, and the audit trail names them
    #[arg(long, global = true, value_name = "USER", env = "LATCHKEY_ACTOR", hide_env_values = true)]
    actor: Option<String>,
    /// How long to wait for an answer: 100ms to 1h
    #[arg(long, global = true, value_name = "DURATION", env = "LATCHKEY_TIMEOUT", default_value = "30s")]
    #[arg(hide_env_values = true, value_parser = config::duration(SHORTEST_TIMEOUT..=LONGEST_TIMEOUT))]
    timeout: Duration,
    /// Print answers as JSON, one object on each line, and errors as JSON on stderr
    #[arg(long, global = true, env = "LATCHKEY_JSON", hide_env_values = true)]
    #[arg(value_parser = clap::builder::BoolishValueParser::new())]
    pub(super) json: bool,
}

/// A server to ask, who asks, and how to show what it says.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) output: Output,
    pub(super) timeout: Duration,
    channel: Channel,
    credentials: Credentials,
}

pub(super) type Authorized = InterceptedService<Channel, Credentials>;

/// What every call carries to say who calls, and for whom.
#[derive(Clone)]
pub(super) struct Credentials {
    token: Option<MetadataValue<Ascii>>,
    actor: Option<MetadataValue<Ascii>>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("actor", &self.actor).finish_non_exhaustive()
    }
}

impl ClientArgs {
    /// Reads the credentials. The connection itself is made at the first call, so that a command
    /// which can't begin says why first.
    pub(super) fn connect(self) -> Result<Session, Failure> {
        let files = CredentialFiles {
            ca: self.ca.as_ref(),
            certificate: self.certificate.as_ref(),
            key: self.key.as_ref(),
            token: self.token_file.as_ref(),
        };
        let credentials = Credentials { token: files.token()?, actor: self.actor.as_deref().map(actor).transpose()? };
        let user_agent = concat!("latchkey-cli/", env!("CARGO_PKG_VERSION"));
        let mut endpoint = endpoint(&self.server, user_agent)?.connect_timeout(CONNECT_TIMEOUT.min(self.timeout));
        if let Some(tls) = files.tls(&[&self.server])? {
            endpoint = endpoint.tls_config(tls).map_err(|error| tls_failure(&error))?;
        }
        Ok(Session { output: Output::new(self.json), timeout: self.timeout, channel: endpoint.connect_lazy(), credentials })
    }
}

/// The files that say who calls, and whom to trust.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CredentialFiles<'a> {
    pub(crate) ca: Option<&'a PathBuf>,
    pub(crate) certificate: Option<&'a PathBuf>,
    pub(crate) key: Option<&'a PathBuf>,
    pub(crate) token: Option<&'a PathBuf>,
}

/// A server's endpoint, without TLS.
pub(crate) fn endpoint(server: &str, user_agent: &'static str) -> Result<Endpoint, Failure> {
    Endpoint::from_shared(server.to_owned())
        .map_err(|error| Failure::usage(format!("--server {server}: {error}")))?
        .tcp_nodelay(true)
        .user_agent(user_agent)
        .map_err(|error| Failure::usage(error.to_string()))
}

impl CredentialFiles<'_> {
    /// What https:// servers are called with; `None` if there are none among them.
    pub(crate) fn tls(&self, servers: &[&str]) -> Result<Option<ClientTlsConfig>, Failure> {
        if !servers.iter().any(|server| server.starts_with("https://")) {
            return if self.ca.is_some() || self.certificate.is_some() || self.key.is_some() {
                Err(Failure::usage("--ca, --certificate and --key want a --server that begins with https://".to_owned()))
            } else {
                Ok(None)
            };
        }
        let tls = match self.ca {
            Some(ca) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read("--ca", ca)?)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        match (self.certificate, self.key) {
            (None, None) => Ok(Some(tls)),
            (Some(certificate), Some(key)) => {
                Ok(Some(tls.identity(Identity::from_pem(read("--certificate", certificate)?, read("--key", key)?))))
            }
            _ => Err(Failure::usage("--certificate and --key go together".to_owned())),
        }
    }

    /// The `authorization` header.
    pub(crate) fn token(&self) -> Result<Option<MetadataValue<Ascii>>, Failure> {
        let Some(file) = self.token else { return Ok(None) };
        let token = read("--token-file", file)?;
        let token = String::from_utf8_lossy(&token);
        let mut value = MetadataValue::try_from(format!("Bearer {}", token.trim())).map_err(|_| {
            Failure::usage(format!("--token-file {}: a token is one line of visible ASCII characters", file.display()))
        })?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

fn tls_failure(error: &tonic::transport::Error) -> Failure {
    if tls::is_key_of_another(error) {
        return Failure::usage("the key in --key does not fit the certificate in --certificate");
    }
    Failure::usage(format!("--ca, --certificate or --key can't be used: {}", tls::root(error)))
}

impl Session {
    pub(super) fn devices(&self) -> DeviceCredentialsClient<Authorized> {
        DeviceCredentialsClient::with_interceptor(self.channel.clone(), self.credentials.clone())
    }

    pub(super) fn directory(&self) -> DirectoryClient<Authorized> {
        DirectoryClient::with_interceptor(self.channel.clone(), self.credentials.clone())
    }

    /// Of the server itself: it asks nobody who they are.
    pub(super) fn health(&self) -> HealthClient<Channel> {
        HealthClient::new(self.channel.clone())
    }

    pub(super) fn authorization(&self) -> AuthorizationClient<Authorized> {
        AuthorizationClient::with_interceptor(self.channel.clone(), self.credentials.clone())
    }

    /// A request with one answer, which has to come within `--timeout`.
    pub(super) fn request<M>(&self, message: M) -> Request<M> {
        self.request_that_waits(message, None)
    }

    /// As [`Self::request`], of a call that may wait `longest` by itself: the answer has that much
    /// more time.
    pub(super) fn request_that_waits<M>(&self, message: M, longest: Option<Duration>) -> Request<M> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout + longest.unwrap_or_default());
        request
    }
}

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        if let Some(actor) = &self.actor {
            request.metadata_mut().insert("latchkey-actor", actor.clone());
        }
        Ok(request)
    }
}

/// A fresh id for a changing call (RFC 9562 §5.4), so that a call which a proxy says again has no
/// second effect.
pub(super) fn request_id() -> String {
    uuid::Builder::from_random_bytes(random::bytes()).into_uuid().to_string()
}

pub(crate) fn server(text: &str) -> Result<String, String> {
    let has_host = ["http://", "https://"].iter().any(|scheme| text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()));
    has_host.then(|| text.to_owned()).ok_or_else(|| "must be like http://127.0.0.1:50051 or https://latchkey.example".to_owned())
}

fn actor(user: &str) -> Result<MetadataValue<Ascii>, Failure> {
    let value = MetadataValue::try_from(user).ok().filter(|_| !user.is_empty());
    value.ok_or_else(|| Failure::usage("--actor: a user's id is 1 to 128 visible ASCII characters".to_owned()))
}

fn read(flag: &str, file: &PathBuf) -> Result<Vec<u8>, Failure> {
    let unreadable = |cause| Failure::usage(format!("{flag} {}: can't be read: {cause}", file.display()));
    if fs::metadata(file).map_err(unreadable)?.len() > MAX_CREDENTIAL_BYTES {
        return Err(Failure::usage(format!("{flag} {}: longer than {MAX_CREDENTIAL_BYTES} bytes", file.display())));
    }
    fs::read(file).map_err(unreadable)
}
