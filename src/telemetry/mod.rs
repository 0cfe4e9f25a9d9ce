//! Beside the stairs: logs, and OpenTelemetry over OTLP when the usual `OTEL_…` variables name an
//! endpoint. Without one nothing of it is on a call's way.

mod database;
mod export;
mod outage;
mod rpc;

use std::{io::IsTerminal, sync::Arc, time::Duration};

use clap::ValueEnum;
use tower::util::{Either, option_layer};
use tracing_subscriber::EnvFilter;

use self::{export::Export, rpc::RpcLayer};
use crate::store::Store;
use latchkey_core::model::clock::SharedClock;

/// For what is not sent yet when the process stops.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Numbers of now, by name: what the gauges show.
pub type Readings = Vec<(&'static str, u64)>;

/// How to log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum LogFormat {
    /// For people on a terminal, as JSON elsewhere
    Auto,
    /// For people
    Text,
    /// A JSON object a line
    Json,
}

#[derive(Clone, Debug)]
pub struct TelemetrySettings {
    /// A level or directives, as tracing's EnvFilter takes them.
    pub log: String,
    pub format: LogFormat,
}

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("--log must be a level or directives like `info,latchkey::feed=debug`: {0}")]
    Filter(String),
    #[error("the OTEL_… variables ask for an export that can't be set up: {0}")]
    Export(String),
}

/// What libraries log by default. Their lower levels print whole headers, a token among them, so
/// `--log trace` does not reach them: name one to get it.
const QUIET: &str = "h2=warn,hyper=warn,tonic=warn,tower=warn,rustls=warn";

/// What runs for logs and exports.
pub struct Telemetry {
    export: Option<Arc<Export>>,
    clock: SharedClock,
}

impl Telemetry {
    /// Must be called within the runtime, which the exporters send on.
    pub fn start(settings: &TelemetrySettings, clock: SharedClock) -> Result<Self, TelemetryError> {
        let filter =
            EnvFilter::try_new(format!("{QUIET},{}", settings.log)).map_err(|error| TelemetryError::Filter(error.to_string()))?;
        let is_text = match settings.format {
            LogFormat::Auto => std::io::stderr().is_terminal(),
            LogFormat::Text => true,
            LogFormat::Json => false,
        };
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        if is_text {
            log.with_ansi(std::io::stderr().is_terminal()).init();
        } else {
            log.json().flatten_event(true).init();
        }
        let export = Export::from_environment(&clock).map_err(|error| TelemetryError::Export(error.to_string()))?;
        Ok(Self { export: export.map(Arc::new), clock })
    }

    /// The store, watched if anything is exported.
    pub fn observe(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        match &self.export {
            Some(_) => Arc::new(database::ObservedStore::new(store, Arc::clone(&self.clock))),
            None => store,
        }
    }

    /// Watches calls, if anything is exported.
    pub fn rpc_layer(&self) -> Either<RpcLayer, tower::layer::util::Identity> {
        option_layer(self.export.as_ref().map(|_| RpcLayer::new(Arc::clone(&self.clock))))
    }

    /// Shows what `read` says as gauges, if anything is exported.
    pub fn gauges(&self, read: impl Fn() -> Readings + Send + Sync + 'static) {
        if self.export.is_none() {
            return;
        }
        let read = Arc::new(read);
        for (name, _) in read() {
            let read = Arc::clone(&read);
            let meter = opentelemetry::global::meter("latchkey");
            let gauge = meter.u64_observable_gauge(name).with_callback(move |gauge| {
                if let Some((_, value)) = read().into_iter().find(|(other, _)| *other == name) {
                    gauge.observe(value, &[]);
                }
            });
            gauge.build();
        }
    }

    /// Sends what is not sent yet.
    pub async fn shutdown(self) {
        if let Some(export) = self.export {
            let flushed = tokio::task::spawn_blocking(move || export.shutdown());
            // Who does not take it in time goes without.
            let _ = tokio::time::timeout(FLUSH_TIMEOUT, flushed).await;
        }
    }
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telemetry").field("export", &self.export).finish_non_exhaustive()
    }
}
