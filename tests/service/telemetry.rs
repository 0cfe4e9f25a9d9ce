//! OpenTelemetry, received by a real OTLP receiver over gRPC.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use latchkey::proto::Reason;
use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::any_value::Value,
    metrics::v1::Metric,
    resource::v1::Resource,
    trace::v1::{Span, span::SpanKind},
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport};

use crate::{
    server::{Ground, Server, StoreKind},
    world::{ADDRESS, World, attempt, on_each_store},
};

on_each_store!(spans_and_metrics_go_to_who_receives_them,);

/// So long for both to arrive: far longer than they take.
pub const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone)]
pub struct Receiver {
    spans: mpsc::UnboundedSender<Span>,
    metrics: mpsc::UnboundedSender<Metric>,
    /// `service.instance.id` of each export.
    instances: mpsc::UnboundedSender<(&'static str, Option<String>)>,
}

/// What a receiver has received.
pub struct Received {
    pub spans: mpsc::UnboundedReceiver<Span>,
    pub metrics: mpsc::UnboundedReceiver<Metric>,
    pub instances: mpsc::UnboundedReceiver<(&'static str, Option<String>)>,
}

impl Receiver {
    /// Listens on a free port: answers the endpoint, and what arrives there.
    pub async fn start() -> (String, Received) {
        let (spans, spans_received) = mpsc::unbounded_channel();
        let (metrics, metrics_received) = mpsc::unbounded_channel();
        let (instances, instances_received) = mpsc::unbounded_channel();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let receiver = Self { spans, metrics, instances };
        let serving = transport::Server::builder()
            .add_service(TraceServiceServer::new(receiver.clone()))
            .add_service(MetricsServiceServer::new(receiver))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serving);
        (endpoint, Received { spans: spans_received, metrics: metrics_received, instances: instances_received })
    }

    fn note_instance(&self, signal: &'static str, resource: Option<&Resource>) {
        let attributes = resource.map(|resource| resource.attributes.as_slice()).unwrap_or_default();
        let value = attributes.iter().find(|attribute| attribute.key == "service.instance.id").and_then(|id| id.value.as_ref());
        let id = match value.and_then(|value| value.value.as_ref()) {
            Some(Value::StringValue(id)) => Some(id.clone()),
            _ => None,
        };
        let _ = self.instances.send((signal, id));
    }
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans;
        resources.iter().for_each(|spans| self.note_instance("traces", spans.resource.as_ref()));
        let scopes = resources.into_iter().flat_map(|resource| resource.scope_spans);
        for span in scopes.flat_map(|scope| scope.spans) {
            let _ = self.spans.send(span);
        }
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let resources = request.into_inner().resource_metrics;
        resources.iter().for_each(|metrics| self.note_instance("metrics", metrics.resource.as_ref()));
        let scopes = resources.into_iter().flat_map(|resource| resource.scope_metrics);
        for metric in scopes.flat_map(|scope| scope.metrics) {
            let _ = self.metrics.send(metric);
        }
        Ok(Response::new(Default::default()))
    }
}

async fn spans_and_metrics_go_to_who_receives_them(store: StoreKind) {
    let (endpoint, received) = Receiver::start().await;
    let Received { spans: mut spans_received, metrics: mut metrics_received, instances: mut instances_received } = received;
    let ground = Ground::new(store).await;
    let mut command = ground.command(&[]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
    command.env("OTEL_BSP_SCHEDULE_DELAY", "50").env("OTEL_METRIC_EXPORT_INTERVAL", "100");
    let server = Server::start(command).expect("it starts");
    let mut world = World::on(ground, server).await;
    let (_, password) = world.add("Phone").await;
    let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let mut request = Request::new(attempt(ADDRESS, &password));
    request.metadata_mut().insert("traceparent", format!("00-{trace}-{parent}-01").parse().expect("ASCII"));
    let answer = world.logins.authenticate(request).await.expect("answered").into_inner();
    assert_eq!(answer.reason(), Reason::Ok);

    let mut names = HashSet::new();
    let mut wanted = async |name: &str, spans: &mut mpsc::UnboundedReceiver<Span>| loop {
        let span = spans.recv().await.expect("the receiver runs");
        names.insert(span.name.clone());
        if span.name == name
            && span.trace_id
                == (0..16).map(|i| u8::from_str_radix(&trace[2 * i..2 * i + 2], 16).expect("hex")).collect::<Vec<_>>()
        {
            break span;
        }
    };
    // The cold read is a child of the call, and ends before it.
    let read = tokio::time::timeout(PATIENCE, wanted("read_mailbox", &mut spans_received)).await.expect("the read's span");
    let call = tokio::time::timeout(PATIENCE, wanted("latchkey.v1.Authorization/Authenticate", &mut spans_received));
    let call = call.await.expect("the call's span");
    assert_eq!((call.kind(), read.kind()), (SpanKind::Server, SpanKind::Client));
    assert_eq!(read.parent_span_id, call.span_id);
    // A transaction's statements are seen one by one, under its name.
    for name in ["create_device.begin", "create_device.lock_mailbox", "create_device.insert_device", "create_device.commit"] {
        assert!(names.contains(name), "{name} is not among {names:?}");
    }
    let text = format!("{call:?}{read:?}");
    assert!(text.contains("rpc.response.status_code") && text.contains("db.system.name"), "{text}");
    assert!(!text.contains(ADDRESS) && !text.contains(&password), "no address and no password: {text}");

    let mut missing = vec!["rpc.server.call.duration", "db.client.operation.duration", "latchkey.lease.held", "latchkey.logins"];
    let all = async {
        while !missing.is_empty() {
            let metric = metrics_received.recv().await.expect("the receiver runs");
            missing.retain(|name| *name != metric.name);
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("all metrics");

    // One id for all that this process sends, so that two replicas' series do not collide.
    let mut ids = HashMap::new();
    let both = async {
        while ids.len() < 2 {
            let (signal, id) = instances_received.recv().await.expect("the receiver runs");
            ids.insert(signal, uuid::Uuid::parse_str(&id.expect("a service.instance.id")).expect("a UUID"));
        }
    };
    tokio::time::timeout(PATIENCE, both).await.expect("both signals");
    assert_eq!(ids["traces"], ids["metrics"]);
}
