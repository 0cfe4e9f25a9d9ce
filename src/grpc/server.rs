//! The server under the services: its limits, its TLS, who calls, health, reflection, and how it
//! drains.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, Stream, TryStreamExt};
use http::Response;
use tokio::{net::TcpListener, sync::Semaphore};
use tonic::{
    body::Body,
    service::{Routes, interceptor::InterceptedService},
    transport::{Certificate, Identity, Server, ServerTlsConfig, server::TcpIncoming},
};
use tower::{
    Layer, Service,
    layer::{self, util::Stack},
};
use tracing::error;

use super::{
    authorization::AuthorizationService, caller::CallerPolicy, connection::Connection,
    device_credentials::DeviceCredentialsService, directory::DirectoryService, status,
};
use crate::proto::{
    self, authorization_server::AuthorizationServer, device_credentials_server::DeviceCredentialsServer,
    directory_server::DirectoryServer,
};

/// A message to `Authorization` or `DeviceCredentials`: a login is under 2 KiB.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// A batch of an import.
const MAX_IMPORT_BYTES: usize = 16 * 1024 * 1024;
/// Metadata of one call.
const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// Whether the other side is still there.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub struct ServerSettings {
    pub tls: Option<TlsSettings>,
    /// At a time, on one connection. A denial holds its place until its time is up, so this bounds
    /// how many wrong guesses a second one connection can make.
    pub max_streams: u32,
    /// At a time, in all; more are refused at once.
    pub max_calls: usize,
    /// For a call without a deadline. A shorter deadline of the caller's applies. Streams go on.
    pub call_timeout: Duration,
}

/// In PEM.
#[derive(Clone)]
pub struct TlsSettings {
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
    /// Whoever shows a certificate must have it from this one.
    pub client_ca: Option<Vec<u8>>,
}

impl std::fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsSettings").field("client_ca", &self.client_ca.is_some()).finish_non_exhaustive()
    }
}

/// What is served.
#[derive(Debug)]
pub struct Services {
    pub authorization: AuthorizationService,
    pub device_credentials: DeviceCredentialsService,
    pub directory: DirectoryService,
}

const SERVICES: [&str; 4] = ["", "latchkey.v1.Authorization", "latchkey.v1.DeviceCredentials", "latchkey.v1.Directory"];

/// Tells `grpc.health.v1` whether the server is ready, for `""` and each service.
#[derive(Clone, Debug)]
pub struct Health(tonic_health::server::HealthReporter);

impl Health {
    pub async fn set_ready(&self, ready: bool) {
        use tonic_health::ServingStatus;
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in SERVICES {
            self.0.set_service_status(service, status).await;
        }
    }

    /// Ends the streams of those who watch it.
    pub async fn close(mut self) {
        for service in SERVICES {
            self.0.clear_service_status(service).await;
        }
    }
}

/// What is served before there are services: health, and for any other call that it is to come
/// later.
pub fn waiting_routes() -> (Routes, Health) {
    let (reporter, health) = tonic_health::server::health_reporter();
    (Routes::new(health).into_axum_router().fallback_service(Later).into(), Health(reporter))
}

/// Answers every call that the database can't be reached.
#[derive(Clone, Copy, Debug)]
struct Later;

impl<Request> Service<Request> for Later {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Request) -> Self::Future {
        ready(Ok(status::no_database().into_http()))
    }
}

/// All services behind the callers' policy; health and reflection are for anybody.
pub fn routes(services: Services, policy: &CallerPolicy) -> Result<(Routes, Health), tonic_reflection::server::Error> {
    let Services { authorization, device_credentials, directory } = services;
    let (reporter, health) = tonic_health::server::health_reporter();
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let mut routes = Routes::builder();
    routes.add_service(InterceptedService::new(
        AuthorizationServer::new(authorization).max_decoding_message_size(MAX_MESSAGE_BYTES),
        policy.clone(),
    ));
    routes.add_service(InterceptedService::new(
        DeviceCredentialsServer::new(device_credentials).max_decoding_message_size(MAX_MESSAGE_BYTES),
        policy.clone(),
    ));
    routes.add_service(InterceptedService::new(
        DirectoryServer::new(directory).max_decoding_message_size(MAX_IMPORT_BYTES),
        policy.clone(),
    ));
    routes.add_service(health);
    routes.add_service(reflection().build_v1()?);
    // What grpcurl asks for before version 1.9.
    routes.add_service(reflection().build_v1alpha()?);
    Ok((routes.routes(), Health(reporter)))
}

/// The guard, inside of what watches.
pub type Guarded<L> = Stack<GuardLayer, Stack<L, layer::util::Identity>>;

/// Connections as they come, for a [`builder`]'s server. Without delay: a small message would wait
/// for the other side's acknowledgement, which takes 40 ms. The builder's own settings of this are
/// for sockets that it opens itself.
pub fn incoming(listener: TcpListener) -> impl Stream<Item = io::Result<Connection>> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true)).with_keepalive(Some(KEEPALIVE_INTERVAL));
    incoming.map_ok(Connection::new)
}

/// A server with its limits, for [`routes`]. `watch` sees each call, also those that the limits
/// refuse.
pub fn builder<L>(settings: &ServerSettings, watch: L) -> Result<Server<Guarded<L>>, tonic::transport::Error> {
    let mut server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .max_concurrent_streams(settings.max_streams)
        .timeout(settings.call_timeout);
    if let Some(TlsSettings { certificate, key, client_ca }) = &settings.tls {
        let mut tls = ServerTlsConfig::new().identity(Identity::from_pem(certificate, key));
        if let Some(ca) = client_ca {
            // Optional, since a caller may come with a token instead.
            tls = tls.client_ca_root(Certificate::from_pem(ca)).client_auth_optional(true);
        }
        server = server.tls_config(tls)?;
    }
    Ok(server.layer(watch).layer(GuardLayer { places: Arc::new(Semaphore::new(settings.max_calls)) }))
}

/// Bounds the calls at a time, and makes a panic cost the one call.
#[derive(Clone, Debug)]
pub struct GuardLayer {
    places: Arc<Semaphore>,
}

/// See [`GuardLayer`].
#[derive(Clone, Debug)]
pub struct Guard<S> {
    inner: S,
    places: Arc<Semaphore>,
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard { inner, places: Arc::clone(&self.places) }
    }
}

impl<S, Request> Service<Request> for Guard<S>
where
    S: Service<Request, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Box::pin(ready(Ok(status::overloaded().into_http())));
        };
        // What runs before the first await may panic as well.
        let call = catch_unwind(AssertUnwindSafe(|| self.inner.call(request)));
        Box::pin(async move {
            let outcome = match call {
                Ok(call) => AssertUnwindSafe(call).catch_unwind().await,
                Err(panic) => Err(panic),
            };
            drop(place);
            outcome.unwrap_or_else(|_| {
                error!("a call panicked; the others go on");
                Ok(status::internal().into_http())
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use tower::{ServiceExt, service_fn};

    use super::*;

    #[tokio::test]
    async fn a_panic_costs_one_call() {
        let service = service_fn(|panics_at: &'static str| {
            assert_ne!(panics_at, "once", "as tested");
            async move {
                tokio::task::yield_now().await;
                assert_ne!(panics_at, "later", "as tested");
                Ok::<_, Infallible>(Response::new(Body::empty()))
            }
        });
        let guard = GuardLayer { places: Arc::new(Semaphore::new(1)) }.layer(service);
        for panics_at in ["once", "later", "never", "once", "never"] {
            let answer = guard.clone().oneshot(panics_at).await.unwrap();
            let code = answer.headers().get("grpc-status").map(|code| code.as_bytes().to_vec());
            assert_eq!(code, (panics_at != "never").then(|| b"13".to_vec()), "{panics_at}");
        }
    }
}
