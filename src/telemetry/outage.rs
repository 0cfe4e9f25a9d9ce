//! Says that an exporter fails. OpenTelemetry's SDK drops what it cannot send without a word.

use std::{fmt, sync::Mutex, time::Duration};

use latchkey_core::model::clock::{BootTime, SharedClock};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    metrics::{Temporality, data::ResourceMetrics, exporter::PushMetricExporter},
    trace::{SpanData, SpanExporter},
};
use tracing::{info, warn};

/// While an exporter fails, between two warnings.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// An exporter whose failures are logged.
pub(super) struct Reported<E> {
    exporter: E,
    signal: &'static str,
    clock: SharedClock,
    outage: Mutex<Outage>,
}

/// Since when an exporter fails.
#[derive(Default, Debug)]
struct Outage {
    last_warning: Option<BootTime>,
}

#[derive(PartialEq, Eq, Debug)]
enum Report {
    Fails,
    WorksAgain,
}

impl Outage {
    /// What to log of an export that failed or succeeded.
    fn note(&mut self, failed: bool, now: BootTime) -> Option<Report> {
        if !failed {
            return self.last_warning.take().map(|_| Report::WorksAgain);
        }
        let is_due = self.last_warning.is_none_or(|last| now - last >= WARNING_INTERVAL);
        is_due.then(|| {
            self.last_warning = Some(now);
            Report::Fails
        })
    }
}

impl<E> Reported<E> {
    pub(super) fn new(exporter: E, signal: &'static str, clock: SharedClock) -> Self {
        Self { exporter, signal, clock, outage: Mutex::default() }
    }

    fn note(&self, outcome: &OTelSdkResult) {
        let report = {
            let mut outage = self.outage.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            outage.note(outcome.is_err(), self.clock.boot())
        };
        match (report, outcome) {
            (Some(Report::Fails), Err(error)) => {
                warn!(signal = self.signal, %error, "cannot export telemetry over OTLP: it is dropped");
            }
            (Some(Report::WorksAgain), _) => info!(signal = self.signal, "telemetry is exported again"),
            _ => (),
        }
    }
}

impl<E> fmt::Debug for Reported<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reported").field("signal", &self.signal).finish_non_exhaustive()
    }
}

impl<E: SpanExporter> SpanExporter for Reported<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let outcome = self.exporter.export(batch).await;
        self.note(&outcome);
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E: PushMetricExporter> PushMetricExporter for Reported<E> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let outcome = self.exporter.export(metrics).await;
        self.note(&outcome);
        outcome
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_reported_once_a_minute_and_so_is_its_end() {
        let at = |seconds: u64| BootTime(seconds * 1_000_000_000);
        let mut outage = Outage::default();
        assert_eq!(outage.note(false, at(1)), None, "nothing has failed");
        assert_eq!(outage.note(true, at(2)), Some(Report::Fails));
        assert_eq!(outage.note(true, at(7)), None, "reported already");
        assert_eq!(outage.note(true, at(62)), Some(Report::Fails), "a minute later");
        assert_eq!(outage.note(false, at(63)), Some(Report::WorksAgain));
        assert_eq!(outage.note(false, at(64)), None);
        assert_eq!(outage.note(true, at(65)), Some(Report::Fails), "another outage");
    }
}
