//! Warm logins over gRPC: `Authenticate` against an RPC with the same messages that does nothing,
//! and `AuthenticateStream` against a stream that only answers. Both servers are in this process,
//! on one worker thread each, behind the same layers; h2load (Debian's nghttp2-client) is the load
//! of the unary ones.
//!
//! `cargo bench --bench serving`

#![allow(clippy::expect_used, clippy::cast_precision_loss, reason = "a benchmark fails by panicking, and counts in floats")]

mod common;

use std::{io::Write, pin::Pin, process::Command, time::Duration};

use common::{address, attempt, median};
use futures_util::{Stream, StreamExt};
use latchkey::{
    grpc::{
        caller::CallerPolicy,
        server::{self, ServerSettings, Services},
    },
    lifecycle::Drain,
    passwords::{hash::HashCost, pepper::Pepper},
    proto::{
        self,
        authenticate_stream_response::Outcome,
        authorization_client::AuthorizationClient,
        authorization_server::{Authorization, AuthorizationServer},
    },
};
use prost::Message;
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, service::interceptor::InterceptedService};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 5;
const CALLS: usize = 200_000;
const CHECKS: usize = 1_000_000;

fn main() {
    let server = runtime();
    let folder = tempfile::tempdir().expect("a folder");
    let pepper = Pepper::random();
    let alice = address("alice@example.com");
    let (replica, passwords) = server.block_on(async {
        let cheap = HashCost { memory_kib: 64, passes: 1, lanes: 1 };
        let replica = common::replica(common::sqlite(folder.path()), &pepper, cheap, common::settings()).await;
        common::mailbox(&replica, &alice).await;
        let generated = common::device(&replica, &alice, "Phone", None).await;
        let chosen = common::device(&replica, &alice, "Scanner", Some("violet-anchor-breeze-47")).await;
        for password in [&generated, &chosen] {
            let verdict = replica.login.authenticate(&attempt(&alice, password)).await.expect("answered");
            assert!(verdict.is_allowed());
        }
        (replica, [generated, chosen])
    });
    let drain = Drain::new();
    let services = Services {
        authorization: replica.authorization(&drain),
        device_credentials: replica.device_credentials(),
        directory: replica.directory(&drain),
    };
    let routes = server::routes(services, &CallerPolicy::local()).expect("routes").0;
    let real = serve(&server, |builder| builder.add_routes(routes));
    let nothing = InterceptedService::new(AuthorizationServer::new(Nothing), CallerPolicy::local());
    let empty = serve(&server, |builder| builder.add_service(nothing));

    println!("one server thread; ratios of medians over {ROUNDS} rounds in turn\n");
    println!("{:<44} {:>12} {:>12} {:>7}", "", "ours /s", "nothing /s", "ratio");
    let body = unary_body(&alice, &passwords[0]);
    for streams in [10, 100] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            ours.push(h2load(real, body.path(), streams));
            theirs.push(h2load(empty, body.path(), streams));
        }
        row(&format!("Authenticate, GENERATED, 4 x {streams} streams"), median(&mut ours), median(&mut theirs));
    }
    for (kind, password) in ["GENERATED", "CHOSEN"].iter().zip(&passwords) {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            ours.push(stream(real, &alice.to_string(), password));
            theirs.push(stream(empty, &alice.to_string(), password));
        }
        row(&format!("AuthenticateStream, {kind}"), median(&mut ours), median(&mut theirs));
    }
}

fn row(what: &str, ours: f64, nothing: f64) {
    println!("{what:<44} {ours:>12.0} {nothing:>12.0} {:>7.2}", ours / nothing);
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

type Layers = server::Guarded<tower::layer::util::Identity>;

fn serve(
    runtime: &Runtime,
    add: impl FnOnce(&mut tonic::transport::Server<Layers>) -> tonic::transport::server::Router<Layers>,
) -> u16 {
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let settings = ServerSettings { tls: None, max_streams: 10_000, max_calls: 65_536, call_timeout: Duration::from_secs(60) };
    let mut builder = server::builder(&settings, tower::layer::util::Identity::new()).expect("a server");
    let router = add(&mut builder);
    runtime.spawn(router.serve_with_incoming(server::incoming(listener)));
    port
}

fn unary_body(address: &latchkey_core::model::address::Address, password: &str) -> tempfile::NamedTempFile {
    let message = message(&address.to_string(), password).encode_to_vec();
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(&[0]).expect("written");
    file.write_all(&u32::try_from(message.len()).expect("short").to_be_bytes()).expect("written");
    file.write_all(&message).expect("written");
    file
}

fn message(address: &str, password: &str) -> proto::AuthenticateRequest {
    proto::AuthenticateRequest {
        address: address.to_owned(),
        password: password.into(),
        protocol: proto::Protocol::Imap.into(),
        client_ip: "192.0.2.1".to_owned(),
        frontend: "imap1".to_owned(),
        ..Default::default()
    }
}

/// Calls a second.
fn h2load(port: u16, body: &std::path::Path, streams: usize) -> f64 {
    let output = Command::new("h2load")
        .args(["-n", &CALLS.to_string(), "-c", "4", "-m", &streams.to_string(), "-t", "1"])
        .args(["-H", "content-type: application/grpc", "-H", "te: trailers", "-d"])
        .arg(body)
        .arg(format!("http://127.0.0.1:{port}/latchkey.v1.Authorization/Authenticate"))
        .output()
        .expect("h2load is installed: apt-get install nghttp2-client");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(&format!("{CALLS} succeeded")), "{text}");
    let rate = text.split(", ").find_map(|part| part.strip_suffix(" req/s")).expect("a rate");
    rate.parse().expect("a number")
}

/// Checks a second, from a client with a thread of its own.
fn stream(port: u16, address: &str, password: &str) -> f64 {
    let request = message(address, password);
    runtime().block_on(async move {
        let mut client = AuthorizationClient::connect(format!("http://127.0.0.1:{port}")).await.expect("connected");
        let (requests, to_send) = tokio::sync::mpsc::channel(4_096);
        let begun = common::now();
        tokio::spawn(async move {
            for request_id in 0..CHECKS as u64 {
                let login = Some(request.clone());
                if requests.send(proto::AuthenticateStreamRequest { request_id, login }).await.is_err() {
                    return;
                }
            }
        });
        let mut answers = client.authenticate_stream(ReceiverStream::new(to_send)).await.expect("a stream").into_inner();
        let mut answered = 0;
        while let Some(answer) = answers.next().await {
            let Some(Outcome::Answer(answer)) = answer.expect("answered").outcome else { panic!("an answer") };
            assert_eq!(answer.decision(), proto::Decision::Allow);
            answered += 1;
        }
        assert_eq!(answered, CHECKS);
        CHECKS as f64 / (common::now() - begun).as_secs_f64()
    })
}

/// The same messages, and nothing done.
struct Nothing;

fn constant() -> proto::AuthenticateResponse {
    proto::AuthenticateResponse {
        decision: proto::Decision::Allow.into(),
        reason: proto::Reason::Ok.into(),
        device_id: "0192f0c0-0000-7000-8000-000000000000".to_owned(),
        session: vec![7; 63],
        revision: 7,
        cache: None,
    }
}

#[tonic::async_trait]
impl Authorization for Nothing {
    async fn authenticate(
        &self,
        _request: Request<proto::AuthenticateRequest>,
    ) -> Result<Response<proto::AuthenticateResponse>, Status> {
        Ok(Response::new(constant()))
    }

    type AuthenticateStreamStream = Pin<Box<dyn Stream<Item = Result<proto::AuthenticateStreamResponse, Status>> + Send>>;

    async fn authenticate_stream(
        &self,
        request: Request<Streaming<proto::AuthenticateStreamRequest>>,
    ) -> Result<Response<Self::AuthenticateStreamStream>, Status> {
        let answers = request.into_inner().map(|request| {
            let outcome = Some(Outcome::Answer(constant()));
            request.map(|request| proto::AuthenticateStreamResponse { request_id: request.request_id, outcome })
        });
        Ok(Response::new(Box::pin(answers)))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<proto::WatchResponse, Status>> + Send>>;

    async fn watch(&self, _request: Request<Streaming<proto::WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("nothing is watched here"))
    }

    async fn check_session(
        &self,
        _request: Request<proto::CheckSessionRequest>,
    ) -> Result<Response<proto::CheckSessionResponse>, Status> {
        Ok(Response::new(proto::CheckSessionResponse::default()))
    }
}
