//! The exporters, as OpenTelemetry's environment variables ask for them.

use latchkey_core::model::clock::SharedClock;
use opentelemetry::{KeyValue, global};
use opentelemetry_otlp::{ExporterBuildError, MetricExporter, SpanExporter};
use opentelemetry_sdk::{Resource, metrics::SdkMeterProvider, propagation::TraceContextPropagator, trace::SdkTracerProvider};

use super::outage::Reported;
use crate::random;

#[derive(Debug)]
pub(super) struct Export {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
}

impl Export {
    /// `None` if no endpoint is named, or all is switched off.
    pub(super) fn from_environment(clock: &SharedClock) -> Result<Option<Self>, ExporterBuildError> {
        let is_set = |name: &str| std::env::var(name).is_ok_and(|value| !value.is_empty());
        let is_off = std::env::var("OTEL_SDK_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true"));
        let everything = is_set("OTEL_EXPORTER_OTLP_ENDPOINT");
        let traces = everything || is_set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
        let metrics = everything || is_set("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT");
        if is_off || !(traces || metrics) {
            return Ok(None);
        }
        let resource = resource();
        let traces = traces.then(|| start_traces(resource.clone(), clock)).transpose()?;
        let metrics = metrics.then(|| start_metrics(resource, clock)).transpose()?;
        Ok(Some(Self { traces, metrics }))
    }

    /// Sends what is not sent yet. Blocks.
    pub(super) fn shutdown(&self) {
        // Nothing is to be done about one that fails: the process ends.
        let _ = self.traces.as_ref().map(SdkTracerProvider::shutdown);
        let _ = self.metrics.as_ref().map(SdkMeterProvider::shutdown);
    }
}

fn start_traces(resource: Resource, clock: &SharedClock) -> Result<SdkTracerProvider, ExporterBuildError> {
    let exporter = SpanExporter::builder().with_tonic().build()?;
    let exporter = Reported::new(exporter, "traces", clock.clone());
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
    global::set_tracer_provider(provider.clone());
    global::set_text_map_propagator(TraceContextPropagator::new());
    Ok(provider)
}

fn start_metrics(resource: Resource, clock: &SharedClock) -> Result<SdkMeterProvider, ExporterBuildError> {
    let exporter = MetricExporter::builder().with_tonic().build()?;
    let exporter = Reported::new(exporter, "metrics", clock.clone());
    let provider = SdkMeterProvider::builder().with_periodic_exporter(exporter).with_resource(resource).build();
    global::set_meter_provider(provider.clone());
    Ok(provider)
}

/// What sends. Each process has an id of its own, so that the series of two replicas stay apart.
fn resource() -> Resource {
    let mut resource = Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name("latchkey");
    }
    let named = std::env::var("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    if !named.split(',').any(|attribute| attribute.trim_start().starts_with("service.instance.id=")) {
        let id = uuid::Builder::from_random_bytes(random::bytes()).into_uuid();
        resource = resource.with_attribute(KeyValue::new("service.instance.id", id.to_string()));
    }
    resource.build()
}
