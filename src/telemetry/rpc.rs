//! Watches calls: a span and a duration each, by OpenTelemetry's semantic conventions for RPC.
//! Never a payload, never an address.

use std::{
    collections::HashSet,
    pin::Pin,
    sync::LazyLock,
    task::{Context, Poll},
};

use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use opentelemetry::{
    KeyValue, global,
    metrics::Histogram,
    propagation::Extractor,
    trace::{FutureExt, SpanKind, Status, TraceContextExt, Tracer},
};
use prost::Message;
use prost_types::{FileDescriptorSet, MethodDescriptorProto};
use tonic::{Code, body::Body};
use tower::{Layer, Service};

use crate::proto;
use latchkey_core::model::clock::{BootTime, SharedClock};

/// See the module.
#[derive(Clone, Debug)]
pub struct RpcLayer {
    durations: Histogram<f64>,
    clock: WithoutDebug,
}

/// See [`RpcLayer`].
#[derive(Clone, Debug)]
pub struct RpcService<S> {
    inner: S,
    layer: RpcLayer,
}

#[derive(Clone)]
struct WithoutDebug(SharedClock);

impl std::fmt::Debug for WithoutDebug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

impl RpcLayer {
    pub(super) fn new(clock: SharedClock) -> Self {
        let durations = global::meter("latchkey")
            .f64_histogram("rpc.server.call.duration")
            .with_unit("s")
            .with_description("Measures the duration of inbound remote procedure calls")
            .with_boundaries(vec![0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0])
            .build();
        Self { durations, clock: WithoutDebug(clock) }
    }
}

impl<S> Layer<S> for RpcLayer {
    type Service = RpcService<S>;

    fn layer(&self, inner: S) -> RpcService<S> {
        RpcService { inner, layer: self.clone() }
    }
}

impl<S> Service<Request<Body>> for RpcService<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let call = Call::begin(&self.layer, &request);
        let context = call.context.clone();
        let answer = self.inner.call(request).with_context(context);
        Box::pin(async move {
            let response = answer.await?;
            let (parts, body) = response.into_parts();
            let mut call = call;
            call.note_status(&parts.headers);
            Ok(Response::from_parts(parts, Body::new(Watched { body, call })))
        })
    }
}

/// A call under way: ended when its last part is sent, or when nobody wants it any more.
struct Call {
    layer: RpcLayer,
    method: &'static str,
    begun: BootTime,
    context: opentelemetry::Context,
    status: Option<Code>,
}

impl Call {
    fn begin(layer: &RpcLayer, request: &Request<Body>) -> Self {
        let parent = global::get_text_map_propagator(|propagator| propagator.extract(&Headers(request.headers())));
        let path = request.uri().path().trim_start_matches('/');
        let method = known_method(path).unwrap_or("_OTHER");
        let tracer = global::tracer("latchkey");
        let span = tracer
            .span_builder(method)
            .with_kind(SpanKind::Server)
            .with_attributes([KeyValue::new("rpc.system.name", "grpc"), KeyValue::new("rpc.method", method)])
            .start_with_context(&tracer, &parent);
        Self { layer: layer.clone(), method, begun: layer.clock.0.boot(), context: parent.with_span(span), status: None }
    }

    fn note_status(&mut self, headers: &HeaderMap) {
        if let Some(code) = headers.get("grpc-status") {
            self.status = Some(Code::from_bytes(code.as_bytes()));
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let code = self.status.unwrap_or(Code::Cancelled);
        let code_name = name(code);
        let span = self.context.span();
        span.set_attribute(KeyValue::new("rpc.response.status_code", code_name));
        // What the server is to blame for, by the conventions for gRPC.
        if matches!(
            code,
            Code::Unknown | Code::DeadlineExceeded | Code::Unimplemented | Code::Internal | Code::Unavailable | Code::DataLoss
        ) {
            span.set_status(Status::error(code_name));
        }
        span.end();
        let duration = self.layer.clock.0.boot() - self.begun;
        let attributes = [
            KeyValue::new("rpc.system.name", "grpc"),
            KeyValue::new("rpc.method", self.method),
            KeyValue::new("rpc.response.status_code", code_name),
        ];
        self.layer.durations.record(duration.as_secs_f64(), &attributes);
    }
}

/// A body that tells its call how it ended.
struct Watched {
    body: Body,
    call: Call,
}

impl http_body::Body for Watched {
    type Data = bytes::Bytes;
    type Error = tonic::Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(trailers) = frame.trailers_ref()
        {
            self.call.note_status(trailers);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// The contract's own methods: whatever else is asked for has one name, so that nobody can make
/// endless ones.
fn known_method(path: &str) -> Option<&'static str> {
    static METHODS: LazyLock<HashSet<String>> = LazyLock::new(|| {
        let descriptors = FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap_or_default();
        let mut methods = HashSet::from(["grpc.health.v1.Health/Check", "grpc.health.v1.Health/Watch"].map(str::to_owned));
        for file in &descriptors.file {
            for service in &file.service {
                let full = |method: &MethodDescriptorProto| format!("{}.{}/{}", file.package(), service.name(), method.name());
                methods.extend(service.method.iter().map(full));
            }
        }
        methods
    });
    METHODS.get(path).map(String::as_str)
}

fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
