//! A server that speaks the contract without knowing anything: it writes down what it is asked, and
//! answers what the test says.

use std::{
    collections::HashMap,
    future::{Ready, ready},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, LazyLock, Mutex},
    task::{Context, Poll},
};

use futures_util::{FutureExt, Stream, StreamExt};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor, SerializeOptions};
use serde_json::Value;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::{Grpc, NamedService, StreamingService},
    transport::ServerTlsConfig,
};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let mut pool = DescriptorPool::decode(latchkey::proto::DESCRIPTORS).unwrap();
    // What a google.rpc.Status holds.
    let mut details = prost_types::FileDescriptorSet::decode(tonic_types::pb::FILE_DESCRIPTOR_SET).unwrap();
    details.file.retain(|file| file.name() == "google/rpc/error_details.proto" || file.name() == "error_details.proto");
    assert_eq!(details.file.len(), 1);
    pool.add_file_descriptor_set(details).unwrap();
    pool
});

/// One message that came in.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) message: Value,
    pub(crate) actor: Option<String>,
    pub(crate) authorization: Option<String>,
}

type Answer = Box<dyn Fn(&Value) -> Result<Value, Status> + Send + Sync>;

#[derive(Default)]
struct Shared {
    asked: Mutex<Vec<Asked>>,
    answers: Mutex<HashMap<String, Answer>>,
}

pub(crate) struct Server {
    pub(crate) url: String,
    shared: Arc<Shared>,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with("http", tonic::transport::Server::builder())
    }

    /// A server of https, that asks for certificates or not.
    pub(crate) fn start_tls(tls: ServerTlsConfig) -> Self {
        Self::start_with("https", tonic::transport::Server::builder().tls_config(tls).unwrap())
    }

    fn start_with(scheme: &str, mut builder: tonic::transport::Server) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let shared = Arc::new(Shared::default());
        let listener = std::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let router = builder
            .add_service(Door::<0>(shared.clone()))
            .add_service(Door::<1>(shared.clone()))
            .add_service(Door::<2>(shared.clone()));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            router.serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)).await.unwrap();
        });
        Self { url, shared, _runtime: runtime }
    }

    /// From now on, `method` answers this, in proto3's JSON.
    pub(crate) fn answer(&self, method: &str, answer: Value) {
        self.answer_with(method, move |_| Ok(answer.clone()));
    }

    pub(crate) fn refuse(&self, method: &str, status: Status) {
        self.answer_with(method, move |_| Err(status.clone()));
    }

    /// From now on, each message to `method` is answered with what the function makes of it. An
    /// error ends the call.
    pub(crate) fn answer_with(&self, method: &str, answer: impl Fn(&Value) -> Result<Value, Status> + Send + Sync + 'static) {
        self.shared.answers.lock().unwrap().insert(method.to_owned(), Box::new(answer));
    }

    /// All messages since the last time, in their order.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.shared.asked.lock().unwrap())
    }
}

/// One of the three services.
#[derive(Clone)]
struct Door<const N: usize>(Arc<Shared>);

impl NamedService for Door<0> {
    const NAME: &'static str = "latchkey.v1.Authorization";
}
impl NamedService for Door<1> {
    const NAME: &'static str = "latchkey.v1.DeviceCredentials";
}
impl NamedService for Door<2> {
    const NAME: &'static str = "latchkey.v1.Directory";
}

impl<const N: usize> tower::Service<http::Request<Body>> for Door<N> {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let shared = self.0.clone();
        let path = request.uri().path().to_owned();
        async move {
            let name = path.rsplit('/').next().unwrap().to_owned();
            let method = POOL.services().flat_map(|service| service.methods().collect::<Vec<_>>()).find(|m| m.name() == name);
            let method = method.expect("a method of the contract");
            Ok(Grpc::new(Dynamic(method.clone())).streaming(Call { shared, method }, request).await)
        }
        .boxed()
    }
}

struct Call {
    shared: Arc<Shared>,
    method: MethodDescriptor,
}

impl StreamingService<DynamicMessage> for Call {
    type Response = DynamicMessage;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<DynamicMessage, Status>> + Send>>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<DynamicMessage>>) -> Self::Future {
        let metadata = |name: &str| request.metadata().get(name).map(|value| value.to_str().unwrap().to_owned());
        let (actor, authorization) = (metadata("latchkey-actor"), metadata("authorization"));
        let (shared, method) = (self.shared.clone(), self.method.clone());
        let answers = request.into_inner().map(move |message| {
            let message = to_json(&message?);
            let name = method.name().to_owned();
            let asked = Asked { method: name.clone(), message, actor: actor.clone(), authorization: authorization.clone() };
            shared.asked.lock().unwrap().push(asked.clone());
            match shared.answers.lock().unwrap().get(&name) {
                Some(answer) => answer(&asked.message).map(|answer| from_json(method.output(), answer)),
                None => Ok(DynamicMessage::new(method.output())),
            }
        });
        ready(Ok(Response::new(Box::pin(answers))))
    }
}

fn to_json(message: &DynamicMessage) -> Value {
    let options = SerializeOptions::new().use_proto_field_name(true);
    message.serialize_with_options(serde_json::value::Serializer, &options).unwrap()
}

fn from_json(descriptor: MessageDescriptor, value: Value) -> DynamicMessage {
    DynamicMessage::deserialize(descriptor, value).unwrap()
}

/// Messages by their descriptors.
#[derive(Clone)]
struct Dynamic(MethodDescriptor);

impl Codec for Dynamic {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        self.clone()
    }

    fn decoder(&mut self) -> Self {
        self.clone()
    }
}

impl Encoder for Dynamic {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, message: DynamicMessage, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for Dynamic {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        DynamicMessage::decode(self.0.input(), buffer).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
