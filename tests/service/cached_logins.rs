//! Logins that a watcher answered from its cache: its reports of them reach last use, events and
//! metrics.

use latchkey::proto::{
    self, Reason,
    watch_request::{self, Message, cached_logins::Count},
    watch_response::Message as Response,
};
use opentelemetry_proto::tonic::{
    common::v1::any_value::Value,
    metrics::v1::{Metric, metric::Data, number_data_point},
};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::UnboundedReceiverStream};
use tonic::Code;

use crate::{
    server::{Ground, Server, StoreKind},
    telemetry::{PATIENCE, Receiver},
    world::{ADDRESS, World, on_each_store, reason_of},
};

on_each_store!(
    logins_that_a_watcher_answered_reach_last_use_events_and_metrics,
    a_report_of_a_device_that_the_mailbox_does_not_have_is_not_counted,
    sessions_are_refused_for_a_change_only,
);

/// A `Watch` stream that is welcome.
struct Watcher {
    requests: mpsc::UnboundedSender<proto::WatchRequest>,
    responses: tonic::Streaming<proto::WatchResponse>,
}

impl Watcher {
    async fn connect(world: &World) -> Self {
        let (requests, sent) = mpsc::unbounded_channel();
        let hello = watch_request::Hello {
            protocol_version: 1,
            name: "imap1".into(),
            watcher_id: uuid::Uuid::from_bytes(latchkey::random::bytes()).to_string(),
            ..Default::default()
        };
        requests.send(proto::WatchRequest { message: Some(Message::Hello(hello)) }).expect("open");
        let watched = world.logins.clone().watch(UnboundedReceiverStream::new(sent)).await;
        let mut responses = watched.expect("connected").into_inner();
        let welcome = responses.next().await.expect("a message").expect("no error").message;
        assert!(matches!(welcome, Some(Response::Welcome(_))), "{welcome:?}");
        Self { requests, responses }
    }

    fn send(&self, message: Message) {
        self.requests.send(proto::WatchRequest { message: Some(message) }).expect("the stream is open");
    }

    fn report(&self, counts: Vec<Count>) {
        self.send(Message::CachedLogins(watch_request::CachedLogins { counts }));
    }

    /// Waits until what was sent before has been handled.
    async fn is_handled(&mut self) {
        self.send(Message::Renew(watch_request::Renew { number: 1 }));
        let granted = async {
            while !matches!(self.responses.next().await.expect("open").expect("no error").message, Some(Response::Grant(_))) {}
        };
        tokio::time::timeout(PATIENCE, granted).await.expect("a grant");
    }

    async fn end(mut self) -> tonic::Status {
        let ended = async {
            loop {
                if let Err(status) = self.responses.next().await.expect("an error ends it") {
                    return status;
                }
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("it is refused")
    }
}

/// Logins of alice's that were answered over POP3, a protocol that the server itself answered none
/// of.
fn count(session: &[u8], reason: Reason, count: u32) -> Count {
    Count {
        session: session.to_vec(),
        protocol: proto::Protocol::Pop3.into(),
        client_ip: "192.0.2.77".into(),
        frontend: "pop1".into(),
        reason: reason.into(),
        count,
        last_time: None,
    }
}

/// The events of a device's logins over POP3, by reason and count, once there are `wanted`.
async fn pop3_logins(world: &mut World, wanted: usize) -> Vec<(Reason, u64, String)> {
    let all = async {
        loop {
            let request = proto::ListEventsRequest {
                scope: Some(proto::list_events_request::Scope::Address(ADDRESS.into())),
                ..Default::default()
            };
            let events = world.devices.list_events(request).await.expect("listed").into_inner().events;
            let mut logins: Vec<_> = events
                .into_iter()
                .filter_map(|event| event.logins)
                .filter(|logins| logins.protocol() == proto::Protocol::Pop3)
                .map(|logins| (logins.reason(), logins.count, logins.frontend))
                .collect();
            if logins.len() >= wanted {
                logins.sort_by_key(|(reason, ..)| *reason as i32);
                return logins;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("they are written")
}

async fn logins_that_a_watcher_answered_reach_last_use_events_and_metrics(store: StoreKind) {
    let (endpoint, mut received) = Receiver::start().await;
    let ground = Ground::new(store).await;
    let mut command = ground.command(&[]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint).env("OTEL_METRIC_EXPORT_INTERVAL", "100");
    let server = Server::start(command).expect("it starts");
    let mut world = World::on(ground, server).await;
    let (phone, password) = world.add("Phone").await;
    let session = world.login(&password).await.session;
    let mut watcher = Watcher::connect(&world).await;
    watcher.report(vec![count(&session, Reason::Ok, 40), count(&session, Reason::ProtocolNotAllowed, 3)]);
    watcher.report(vec![count(&session, Reason::Ok, 2)]);
    watcher.is_handled().await;

    let logins = pop3_logins(&mut world, 2).await;
    assert_eq!(logins, [(Reason::Ok, 42, "pop1".to_owned()), (Reason::ProtocolNotAllowed, 3, "pop1".to_owned())]);
    let device = world.list().await.devices.into_iter().find(|device| device.device_id == phone.device_id);
    let last_use = device.and_then(|device| device.last_use).expect("used");
    assert_eq!((last_use.protocol(), last_use.client_ip.as_str()), (proto::Protocol::Pop3, "192.0.2.77"));

    // One login that the server answered itself, and those of the watcher.
    let counted = async {
        loop {
            let metric = received.metrics.recv().await.expect("the receiver runs");
            if (logins_by_reason(&metric, "ok"), logins_by_reason(&metric, "protocol_not_allowed")) == (43, 3) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, counted).await.expect("latchkey.logins counts them");
}

/// What `latchkey.logins` says of a reason.
fn logins_by_reason(metric: &Metric, reason: &str) -> i64 {
    let Some(Data::Sum(sum)) = metric.data.as_ref().filter(|_| metric.name == "latchkey.logins") else {
        return 0;
    };
    let is_of_reason = |point: &&opentelemetry_proto::tonic::metrics::v1::NumberDataPoint| {
        point.attributes.iter().any(|attribute| {
            let value = attribute.value.as_ref().and_then(|value| value.value.as_ref());
            matches!(value, Some(Value::StringValue(value)) if value == reason)
        })
    };
    let points = sum.data_points.iter().filter(is_of_reason);
    let values = points.map(|point| match point.value {
        Some(number_data_point::Value::AsInt(value)) => value,
        _ => 0,
    });
    values.sum()
}

async fn a_report_of_a_device_that_the_mailbox_does_not_have_is_not_counted(store: StoreKind) {
    let mut world = World::new(store).await;
    let (phone, password) = world.add("Phone").await;
    let session = world.login(&password).await.session;
    // The handle of a device that nobody made: one byte of the device's id is another.
    let mut forged = session.clone();
    forged[2 + 16] ^= 1;
    let mut watcher = Watcher::connect(&world).await;
    watcher.report(vec![count(&forged, Reason::Ok, 7)]);
    watcher.report(vec![count(&session, Reason::Ok, 1)]);
    watcher.is_handled().await;
    assert_eq!(pop3_logins(&mut world, 1).await, [(Reason::Ok, 1, "pop1".to_owned())]);

    // An ended one is remembered: its last logins count.
    world.disconnect(&phone).await;
    world.login(&password).await;
    watcher.report(vec![count(&session, Reason::DeviceExpired, 2)]);
    watcher.is_handled().await;
    assert_eq!(pop3_logins(&mut world, 2).await[1], (Reason::DeviceExpired, 2, "pop1".to_owned()));
}

async fn sessions_are_refused_for_a_change_only(store: StoreKind) {
    let mut world = World::new(store).await;
    let (_, password) = world.add("Phone").await;
    let session = world.login(&password).await.session;
    let watcher = Watcher::connect(&world).await;
    let opened = watch_request::sessions_opened::Opened {
        number: 1,
        session,
        protocol: proto::Protocol::Imap.into(),
        ..Default::default()
    };
    watcher.send(Message::SessionsOpened(watch_request::SessionsOpened { sessions: vec![opened] }));
    watcher.send(Message::SessionsRefused(watch_request::SessionsRefused { numbers: vec![1], revision: 0 }));
    let status = watcher.end().await;
    assert_eq!((status.code(), reason_of(&status).as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
    assert!(status.message().contains("revision"), "{status}");
}
