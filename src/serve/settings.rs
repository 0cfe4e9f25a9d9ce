//! The settings of `serve`, and of the commands that open the store themselves.

use std::{fs, net::SocketAddr, num::NonZeroUsize, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use clap::{ValueEnum, builder::BoolishValueParser};

use super::replica::ReplicaSettings;
use crate::{
    config::duration,
    grpc::server::{ServerSettings, TlsSettings},
    hashing::HashingSettings,
    passwords::hash::HashCost,
    replication::{FeedSettings, Freshness},
    store::{
        Store,
        postgres::{PostgresSettings, PostgresStore},
        sqlite::SqliteStore,
    },
    telemetry::{LogFormat, TelemetrySettings},
};
use latchkey_core::lease;

/// Run a replica: the gRPC services, on SQLite or on PostgreSQL
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  latchkey serve --demo
  latchkey serve --data-dir /var/lib/latchkey
  latchkey serve --database-url postgres://latchkey@db1,db2/latchkey --listen 0.0.0.0:50051 \\
    --callers-file /etc/latchkey/callers.toml --tls-certificate /etc/latchkey/server.pem --tls-key /etc/latchkey/server.key")]
pub struct Args {
    /// The address to listen on. Other than loopback needs --callers-file
    #[arg(long, value_name = "IP:PORT", env = "LATCHKEY_LISTEN", default_value = "127.0.0.1:50051")]
    pub listen: SocketAddr,
    #[command(flatten)]
    pub store: StoreSettings,
    /// How long a process may answer from its cache after it last asked the database. A revocation
    /// waits this long, at most, for a process that is dead
    #[arg(long, value_name = "DURATION", env = "LATCHKEY_LEASE", default_value = "10s", value_parser = duration(lease::SHORTEST..=lease::LONGEST))]
    pub lease: Duration,
    /// How a login verifies that the cache is fresh
    #[arg(long, env = "LATCHKEY_FRESHNESS", default_value = "lease")]
    pub freshness: FreshnessArg,
    /// Add example data, and print lines to paste
    #[arg(long, env = "LATCHKEY_DEMO", value_parser = BoolishValueParser::new())]
    pub demo: bool,
    /// This process's name, in answers and logs [default: the host name]
    #[arg(long, value_name = "NAME", env = "LATCHKEY_NODE_NAME")]
    pub node_name: Option<String>,
    /// A TOML file of callers: their names, roles, and tokens or certificates
    #[arg(long, value_name = "FILE", env = "LATCHKEY_CALLERS_FILE")]
    pub callers_file: Option<PathBuf>,
    /// The server's certificate chain, in PEM; with --tls-key
    #[arg(long, value_name = "FILE", env = "LATCHKEY_TLS_CERTIFICATE")]
    pub tls_certificate: Option<PathBuf>,
    /// The certificate's private key, in PEM
    #[arg(long, value_name = "FILE", env = "LATCHKEY_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// The CA that client certificates must come from, in PEM
    #[arg(long, value_name = "FILE", env = "LATCHKEY_TLS_CLIENT_CA")]
    pub tls_client_ca: Option<PathBuf>,
    /// The most active devices that a mailbox may have
    #[arg(long, value_name = "N", env = "LATCHKEY_MAX_DEVICES", default_value_t = 50, value_parser = at_most::<1, 1_000>)]
    pub max_devices: usize,
    /// The time that every denied login takes
    #[arg(long, value_name = "DURATION", env = "LATCHKEY_DENIAL_DELAY", default_value = "500ms",
        value_parser = duration(Duration::ZERO..=Duration::from_secs(10)))]
    pub denial_delay: Duration,
    /// The most mailboxes to keep in memory (about 200 bytes each)
    #[arg(long, value_name = "N", env = "LATCHKEY_CACHE_MAILBOXES", default_value_t = 4_000_000, value_parser = at_most::<1_000, 1_000_000_000>)]
    pub cache_mailboxes: usize,
    /// The most proofs of chosen and generic passwords to keep in memory (about 30 bytes each)
    #[arg(long, value_name = "N", env = "LATCHKEY_CACHE_PROOFS", default_value_t = 4_000_000, value_parser = at_most::<1_000, 1_000_000_000>)]
    pub cache_proofs: usize,
    /// Memory of one argon2 hash, in KiB. A raised value takes effect for each password at its next
    /// login
    #[arg(long, value_name = "KIB", env = "LATCHKEY_ARGON2_MEMORY_KIB", default_value_t = 19_456)]
    pub argon2_memory_kib: u32,
    /// Passes of one argon2 hash
    #[arg(long, value_name = "N", env = "LATCHKEY_ARGON2_PASSES", default_value_t = 2)]
    pub argon2_passes: u32,
    /// Lanes of one argon2 hash
    #[arg(long, value_name = "N", env = "LATCHKEY_ARGON2_LANES", default_value_t = 1)]
    pub argon2_lanes: u32,
    /// Threads that hash passwords [default: one for each core]
    #[arg(long, value_name = "N", env = "LATCHKEY_HASHING_THREADS")]
    pub hashing_threads: Option<NonZeroUsize>,
    /// The most passwords that may wait to be hashed. Further logins get "try later"
    #[arg(long, value_name = "N", env = "LATCHKEY_HASHING_QUEUE", default_value_t = 1_024, value_parser = at_most::<1, 1_000_000>)]
    pub hashing_queue: usize,
    /// How long a password may wait to be hashed
    #[arg(long, value_name = "DURATION", env = "LATCHKEY_HASHING_DEADLINE", default_value = "2s",
        value_parser = duration(Duration::from_millis(10)..=Duration::from_secs(60)))]
    pub hashing_deadline: Duration,
    /// The most calls at a time, without open streams. Further calls are refused
    #[arg(long, value_name = "N", env = "LATCHKEY_MAX_CALLS", default_value_t = 65_536, value_parser = at_most::<1, 10_000_000>)]
    pub max_calls: usize,
    /// The most calls at a time on one connection
    #[arg(long, value_name = "N", env = "LATCHKEY_MAX_STREAMS", default_value_t = 10_000)]
    pub max_streams: u32,
    /// How long a call without a deadline may take. Set it higher than every replica's --lease
    #[arg(long, value_name = "DURATION", env = "LATCHKEY_CALL_TIMEOUT", default_value = "90s",
        value_parser = duration(Duration::from_secs(1)..=Duration::from_secs(3_600)))]
    pub call_timeout: Duration,
    /// How long calls under way may take to finish after SIGTERM
    #[arg(long, value_name = "DURATION", env = "LATCHKEY_DRAIN_TIMEOUT", default_value = "30s",
        value_parser = duration(Duration::ZERO..=Duration::from_secs(3_600)))]
    pub drain_timeout: Duration,
    /// What to log: a level, or directives like `info,latchkey::replication=debug`
    #[arg(long, value_name = "FILTER", env = "LATCHKEY_LOG", default_value = "info")]
    pub log: String,
    /// The log's format. `auto` is text on a terminal, and JSON elsewhere
    #[arg(long, env = "LATCHKEY_LOG_FORMAT", default_value = "auto")]
    pub log_format: LogFormat,
}

/// Where data is stored.
#[derive(clap::Args, Debug)]
pub struct StoreSettings {
    /// The directory of the SQLite database and the pepper
    #[arg(long, value_name = "FOLDER", env = "LATCHKEY_DATA_DIR", default_value = "./latchkey-data")]
    pub data_dir: PathBuf,
    /// PostgreSQL instead of SQLite: postgres://user:password@host/database?sslmode=verify-full
    #[arg(long, value_name = "URL", env = "LATCHKEY_DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// The CA that PostgreSQL's certificate must come from, in PEM
    #[arg(long, value_name = "FILE", env = "LATCHKEY_DATABASE_CA")]
    pub database_ca: Option<PathBuf>,
    /// The most connections to PostgreSQL, besides two for the change feed
    #[arg(long, value_name = "N", env = "LATCHKEY_DATABASE_CONNECTIONS", default_value_t = 16, value_parser = at_most::<2, 1_000>)]
    pub database_connections: usize,
    /// The pepper file [default: `pepper` in the data directory]
    #[arg(long, value_name = "FILE", env = "LATCHKEY_PEPPER_FILE")]
    pub pepper_file: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum FreshnessArg {
    /// By a lease, without a round trip
    Lease,
    /// By asking the database; many logins share one question. Safe even where clocks stop
    Read,
}

impl StoreSettings {
    fn postgres(&self) -> Option<PostgresSettings> {
        let url = self.database_url.clone()?;
        Some(PostgresSettings { url, ca: self.database_ca.clone(), connections: self.database_connections })
    }

    /// Opens the store, for a server that listens on this address.
    pub(super) async fn open(&self, address: SocketAddr) -> anyhow::Result<Arc<dyn Store>> {
        Ok(match self.postgres() {
            None => {
                let store = SqliteStore::open(&self.data_dir)?;
                store.note_server(address)?;
                Arc::new(store)
            }
            Some(postgres) => Arc::new(PostgresStore::open(&postgres).await?),
        })
    }

    /// Whether the data directory of an embedded database is not there yet; nothing was ever stored
    /// then.
    pub fn is_new(&self) -> bool {
        self.postgres().is_none() && !self.data_dir.exists()
    }

    pub fn pepper_file(&self) -> PathBuf {
        self.pepper_file.clone().unwrap_or_else(|| self.data_dir.join("pepper"))
    }
}

/// The same, for who only looks: nothing is made, and no schema changed.
pub(crate) async fn open_store_as_it_is(settings: &StoreSettings) -> anyhow::Result<Arc<dyn Store>> {
    Ok(match settings.postgres() {
        None => Arc::new(SqliteStore::open_as_it_is(&settings.data_dir)?),
        Some(postgres) => Arc::new(PostgresStore::open_as_it_is(&postgres).await?),
    })
}

impl Args {
    pub(super) fn telemetry(&self) -> TelemetrySettings {
        TelemetrySettings { log: self.log.clone(), format: self.log_format }
    }

    pub(super) fn hash_cost(&self) -> HashCost {
        HashCost { memory_kib: self.argon2_memory_kib, passes: self.argon2_passes, lanes: self.argon2_lanes }
    }

    pub(super) fn hashing(&self) -> HashingSettings {
        HashingSettings { threads: self.hashing_threads, queue: self.hashing_queue, deadline: self.hashing_deadline }
    }

    pub(super) fn replica(&self) -> ReplicaSettings {
        let freshness = match self.freshness {
            FreshnessArg::Lease => Freshness::Lease,
            FreshnessArg::Read => Freshness::Read,
        };
        let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        ReplicaSettings {
            feed: FeedSettings { lease: self.lease, freshness, node_name: self.node_name.clone().unwrap_or_else(host) },
            cache_mailboxes: self.cache_mailboxes,
            cache_memos: self.cache_proofs,
            max_devices: self.max_devices,
            denial_delay: self.denial_delay,
        }
    }

    pub(super) fn server(&self) -> anyhow::Result<ServerSettings> {
        let read = |file: &PathBuf| fs::read(file).with_context(|| format!("cannot read {}", file.display()));
        // Checked here and not by clap, which sees flags and variables only, not the settings file.
        let tls = match (&self.tls_certificate, &self.tls_key) {
            (Some(_), None) => bail!("tls-certificate is set and tls-key is not: TLS needs both"),
            (None, Some(_)) => bail!("tls-key is set and tls-certificate is not: TLS needs both"),
            (None, None) if self.tls_client_ca.is_some() => {
                bail!("tls-client-ca is set without tls-certificate and tls-key: client certificates need TLS")
            }
            (Some(certificate), Some(key)) => Some(TlsSettings {
                certificate: read(certificate)?,
                key: read(key)?,
                client_ca: self.tls_client_ca.as_ref().map(read).transpose()?,
            }),
            (None, None) => None,
        };
        let Self { max_streams, max_calls, call_timeout, .. } = *self;
        Ok(ServerSettings { tls, max_streams, max_calls, call_timeout })
    }
}

/// A number within bounds, which the error names.
fn at_most<const MIN: usize, const MAX: usize>(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| (MIN..=MAX).contains(number)).ok_or_else(|| format!("must be a number from {MIN} to {MAX}"))
}
