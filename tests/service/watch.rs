//! `Watch`: leases handed on, changes told, sessions shown and closed. With the crate's own
//! watcher, and with streams that do what none should.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use latchkey::{
    clock::SystemClock,
    proto::{
        self, Reason,
        authorization_client::AuthorizationClient,
        revocation::State,
        watch_request::{self, Message as Ask},
        watch_response::Message as Told,
    },
    upstream::{Answer, Credentials, Opening, SessionNumber, Settings, Upstream},
};
use latchkey_core::model::{address::Address, clock::Clock, protocol::Protocol, secret::Secret, verdict};
use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::UnboundedReceiverStream};
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::{
    server::{Ground, Server, StoreKind},
    world::{ADDRESS, World, attempt, on_each_store, reason_of},
};

on_each_store!(
    a_watcher_answers_from_its_cache_until_the_revocation_reaches_it,
    a_revocation_closes_the_sessions_of_its_device_and_generation_and_no_other,
    open_sessions_are_shown_with_their_device,
    a_session_that_opens_after_its_password_has_ended_is_closed,
    a_watcher_that_does_not_answer_is_waited_for_until_its_lease_is_over,
    what_a_watcher_missed_in_a_cut_it_is_told,
    a_watcher_that_misbehaves_is_told_why_its_stream_ends,
    who_watches_and_says_nothing_is_told_to_say_hello,
    two_watchers_with_one_name_are_two,
    a_drain_lets_watchers_go_first,
    a_watcher_that_is_cut_off_for_too_long_closes_its_sessions_if_it_is_told_to,
    limits_are_judged_on_the_mail_host_too,
    a_mail_host_that_has_stopped_is_waited_for_by_nobody,
    a_mail_host_that_is_never_idle_renews_its_lease,
);

/// A watcher, and the sessions that it was told to close.
pub(crate) struct Host {
    pub(crate) upstream: Arc<Upstream>,
    told_to_close: Arc<Mutex<Vec<(SessionNumber, verdict::Reason)>>>,
}

impl Host {
    pub(crate) async fn start(servers: &[&Server]) -> Self {
        Self::follow(servers.iter().map(|server| server.url()).collect(), None).await
    }

    async fn follow(urls: Vec<String>, close_when_cut_off_for: Option<Duration>) -> Self {
        let replicas = urls.into_iter().map(|url| Channel::from_shared(url).expect("a URL").connect_lazy()).collect();
        let settings = Settings {
            replicas,
            name: "imap1".to_owned(),
            credentials: Credentials::default(),
            cache_mailboxes: 10_000,
            close_when_cut_off_for,
        };
        let told_to_close: Arc<Mutex<Vec<_>>> = Arc::default();
        let closer = Arc::clone(&told_to_close);
        let (to_close, mut closing) = mpsc::unbounded_channel();
        let upstream = Upstream::new(
            settings,
            SystemClock::shared(),
            Arc::new(move |number, reason| {
                closer.lock().expect("not poisoned").push((number, reason));
                let _ = to_close.send(number);
            }),
        );
        let host = Self { upstream: Arc::new(upstream), told_to_close };
        tokio::spawn(Arc::clone(&host.upstream).run());
        let upstream = Arc::clone(&host.upstream);
        tokio::spawn(async move {
            while let Some(number) = closing.recv().await {
                upstream.closed(number);
            }
        });
        host.until(|host| host.upstream.has_lease()).await;
        host
    }

    pub(crate) async fn until(&self, mut holds: impl FnMut(&Self) -> bool) {
        while !holds(self) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(crate) async fn login(&self, password: &str) -> Answer {
        self.upstream.authenticate(&typed(password, Protocol::Imap)).await.expect("an answer")
    }

    /// Logs in until the cache answers.
    async fn warm(&self, password: &str) {
        while !self.login(password).await.is_from_cache {
            tokio::task::yield_now().await;
        }
    }

    pub(crate) fn told_to_close(&self) -> Vec<(SessionNumber, verdict::Reason)> {
        self.told_to_close.lock().expect("not poisoned").clone()
    }

    pub(crate) async fn open(&self, password: &str) -> SessionNumber {
        let session = self.login(password).await.admission.expect("allowed").session;
        self.upstream.opened(opening(session)).expect("there is room")
    }
}

fn opening(session: verdict::Session) -> Opening {
    let client_ip = Some([192, 0, 2, 1].into());
    Opening { session, protocol: Protocol::Imap, client_ip, open_time: SystemClock.wall() }
}

fn typed(password: &str, protocol: Protocol) -> verdict::Attempt {
    verdict::Attempt {
        address: Address::parse("address", ADDRESS).expect("good"),
        password: Secret::from(password.to_owned()),
        protocol,
        client_ip: Some([192, 0, 2, 1].into()),
        frontend: "imap1".into(),
    }
}

async fn a_watcher_answers_from_its_cache_until_the_revocation_reaches_it(store: StoreKind) {
    let mut world = World::new(store).await;
    let (phone, phone_password) = world.add("Phone").await;
    let (_, laptop_password) = world.add("Laptop").await;
    let host = Host::start(&[&world.server]).await;
    host.warm(&phone_password).await;
    host.warm(&laptop_password).await;
    host.warm(&phone_password).await;

    let revocation = world.disconnect(&phone).await;
    assert_eq!((revocation.state(), revocation.unconfirmed.len()), (State::Effective, 0));
    assert_eq!(host.upstream.applied().0, revocation.revision, "it has heard of it before");
    let answer = host.login(&phone_password).await;
    assert_eq!((answer.reason, answer.admission), (verdict::Reason::DeviceDisconnected, None));
    host.warm(&laptop_password).await;
    let wrong = host.login("wrong").await;
    assert_eq!((wrong.reason, wrong.is_from_cache), (verdict::Reason::WrongPassword, false));
}

async fn a_revocation_closes_the_sessions_of_its_device_and_generation_and_no_other(store: StoreKind) {
    let mut world = World::new(store).await;
    let (phone, phone_password) = world.add("Phone").await;
    let (_, laptop_password) = world.add("Laptop").await;
    let (first, second) = (Host::start(&[&world.server]).await, Host::start(&[&world.server]).await);
    let (on_first, laptop) = (first.open(&phone_password).await, first.open(&laptop_password).await);
    let on_second = second.open(&phone_password).await;
    wait_for_sessions(&mut world, 3).await;

    let change =
        proto::ChangePasswordRequest { address: ADDRESS.into(), device_id: phone.device_id.clone(), ..Default::default() };
    let changed = world.devices.change_password(change).await.expect("changed").into_inner();
    let revocation = changed.revocation.expect("a revocation");
    assert_eq!((revocation.closed_sessions, revocation.unconfirmed_sessions.len()), (2, 0));
    assert_eq!(first.told_to_close(), [(on_first, verdict::Reason::PasswordChanged)]);
    assert_eq!(second.told_to_close(), [(on_second, verdict::Reason::PasswordChanged)]);

    first.upstream.closed(on_first);
    second.upstream.closed(on_second);
    let again = first.open(&changed.password).await;
    wait_for_sessions(&mut world, 2).await;
    let gone = world.disconnect(&phone).await;
    assert_eq!(gone.closed_sessions, 1);
    assert_eq!(first.told_to_close().last(), Some(&(again, verdict::Reason::DeviceDisconnected)));
    assert!(!first.told_to_close().iter().any(|(number, _)| *number == laptop), "another device's stays");
}

async fn open_sessions_are_shown_with_their_device(store: StoreKind) {
    let mut world = World::new(store).await;
    let (phone, password) = world.add("Phone").await;
    world.add("Laptop").await;
    let host = Host::start(&[&world.server]).await;
    let numbers = [host.open(&password).await, host.open(&password).await];
    wait_for_sessions(&mut world, 2).await;
    let device = world.list().await.devices.into_iter().find(|device| device.device_id == phone.device_id).expect("listed");
    let shown = &device.sessions[0];
    assert_eq!((device.live_sessions, shown.client_ip.as_str(), shown.frontend.as_str()), (2, "192.0.2.1", "imap1"));
    assert_eq!(shown.protocol(), proto::Protocol::Imap);
    assert!(shown.open_time.is_some());
    numbers.into_iter().for_each(|number| host.upstream.closed(number));
    wait_for_sessions(&mut world, 0).await;
}

async fn a_session_that_opens_after_its_password_has_ended_is_closed(store: StoreKind) {
    let mut world = World::new(store).await;
    let (phone, password) = world.add("Phone").await;
    let host = Host::start(&[&world.server]).await;
    let session = host.login(&password).await.admission.expect("allowed").session;
    world.disconnect(&phone).await;
    let number = host.upstream.opened(opening(session.clone())).expect("there is room");
    assert_eq!(host.told_to_close(), [(number, verdict::Reason::DeviceDisconnected)], "the watcher knows by itself");

    // One that has only now come does not; the replica does.
    let late = Host::start(&[&world.server]).await;
    let number = late.upstream.opened(opening(session)).expect("there is room");
    late.until(|late| !late.told_to_close().is_empty()).await;
    assert_eq!(late.told_to_close(), [(number, verdict::Reason::DeviceDisconnected)]);
}

async fn a_watcher_that_does_not_answer_is_waited_for_until_its_lease_is_over(store: StoreKind) {
    let mut world = World::with(store, &["--lease", "1s"]).await;
    let (phone, password) = world.add("Phone").await;
    let login = world.login(&password).await;
    let mut deaf = Raw::hello(&world, "deaf").await;
    deaf.ask(Ask::Renew(watch_request::Renew { number: 7 }));
    deaf.ask(opened(1, login.session));
    let grant = deaf.told_until(|message| matches!(message, Told::Grant(_))).await;
    let Told::Grant(grant) = grant else { unreachable!("it was asked for") };
    let lease = Duration::try_from(grant.duration.expect("a duration")).expect("positive");
    assert!(grant.number == 7 && lease > Duration::ZERO && lease <= Duration::from_secs(1), "{lease:?}");

    let request = proto::DisconnectDeviceRequest {
        address: ADDRESS.into(),
        device_id: phone.device_id,
        max_wait: Some(prost_types::Duration::default()),
        ..Default::default()
    };
    let revoked = world.devices.disconnect_device(request.clone()).await.expect("revoked").into_inner().revocation.expect("one");
    assert_eq!((revoked.state(), revoked.unconfirmed.len()), (State::Pending, 1));
    assert!(revoked.effective_by.is_some());
    let again = world.devices.disconnect_device(request).await.expect("said again").into_inner().revocation.expect("one");
    assert_eq!((again.state(), again.revision), (State::Pending, revoked.revision), "gone is not yet effective");
    let awaited = proto::AwaitRevocationRequest { revocation_id: revoked.revocation_id, max_wait: None };
    let awaited = world.devices.await_revocation(awaited).await.expect("awaited").into_inner().revocation.expect("one");
    assert_eq!((awaited.state(), awaited.closed_sessions), (State::Effective, 0));
    assert_eq!(awaited.unconfirmed_sessions.first().map(|silent| (silent.host.as_str(), silent.sessions)), Some(("deaf", 1)));
}

async fn what_a_watcher_missed_in_a_cut_it_is_told(store: StoreKind) {
    let mut world = World::new(store).await;
    let (old, _) = world.add("Old phone").await;
    let (phone, password) = world.add("Phone").await;
    // Once this is effective, the replica has applied what was before it.
    world.disconnect(&old).await;
    let mut stream = Raw::hello(&world, "imap1").await;
    let position = stream.position;
    world.disconnect(&phone).await;
    let _ = stream.told_until(|message| matches!(message, Told::Change(_))).await;
    drop(stream);

    let mut back = Raw::hello_with(&world, "imap1", Some(position)).await.expect("welcome");
    assert!(!back.starts_empty);
    // The device's own making may have come after the position as well.
    let ends_a_password = |message: &Told| matches!(message, Told::Change(change) if !change.ended.is_empty());
    let Told::Change(change) = back.told_until(ends_a_password).await else { unreachable!() };
    assert!(change.position.is_some_and(|at| at.revision > position.revision), "{change:?}");
    assert_eq!(change.ended[0].device_id, phone.device_id);
    let other = proto::Position { nonce: position.nonce + 1, ..position };
    let lost = Raw::hello_with(&world, "imap1", Some(other)).await.expect("welcome");
    assert!(lost.starts_empty, "another history's");
    drop(password);
}

async fn a_watcher_that_misbehaves_is_told_why_its_stream_ends(store: StoreKind) {
    let mut world = World::new(store).await;
    let (_, password) = world.add("Phone").await;
    let session = world.login(&password).await.session;
    let acknowledge = |revision| Ask::Acknowledge(watch_request::Acknowledge { revision });
    let invalid = Code::InvalidArgument;
    for (said, code, reason) in [
        (vec![acknowledge(1_000_000)], invalid, "BAD_ACKNOWLEDGEMENT"),
        (vec![acknowledge(0)], invalid, "BAD_ACKNOWLEDGEMENT"),
        (vec![opened(1, session.clone()), opened(1, session.clone())], invalid, "SESSION_NUMBER_TAKEN"),
        (vec![Ask::SessionsClosed(watch_request::SessionsClosed { numbers: vec![1], revision: 0 })], invalid, "SESSION_NOT_OPEN"),
        (vec![opened(1, vec![1, 2, 3])], invalid, "INVALID_FIELD"),
        (vec![Ask::Hello(hello("imap1", None))], invalid, "INVALID_FIELD"),
        (
            vec![Ask::SessionsClosed(watch_request::SessionsClosed { numbers: vec![1; 1_001], revision: 0 })],
            invalid,
            "INVALID_FIELD",
        ),
    ] {
        let mut stream = Raw::hello(&world, "imap1").await;
        let what = format!("{:?}", said.last());
        said.into_iter().for_each(|message| stream.ask(message));
        let status = stream.end().await;
        assert_eq!((status.code(), reason_of(&status).as_str()), (code, reason), "{what}");
    }
    for first in [Ask::Renew(watch_request::Renew { number: 1 }), Ask::Hello(hello("", None)), Ask::Hello(hello("a\nb", None))] {
        let Err(status) = Raw::begin(&world, first).await else { panic!("it is no hello") };
        assert_eq!((status.code(), reason_of(&status).as_str()), (invalid, "INVALID_FIELD"));
    }
    // Two with one id: the later one stays.
    let id = watch_request::Hello { watcher_id: "0192f0c0-0000-7000-8000-000000000001".into(), ..hello("imap1", None) };
    let mut first = Raw::begin(&world, Ask::Hello(id.clone())).await.expect("welcome");
    let mut second = Raw::begin(&world, Ask::Hello(id)).await.expect("welcome");
    assert_eq!(reason_of(&first.end().await), "WATCHER_REPLACED");
    second.ask(Ask::Renew(watch_request::Renew { number: 1 }));
    let _ = second.told_until(|message| matches!(message, Told::Grant(_))).await;
}

async fn who_watches_and_says_nothing_is_told_to_say_hello(store: StoreKind) {
    let world = World::new(store).await;
    let (_silent, requests) = mpsc::unbounded_channel::<proto::WatchRequest>();
    let status = world.logins.clone().watch(UnboundedReceiverStream::new(requests)).await.expect_err("nobody is let in");
    assert_eq!((status.code(), reason_of(&status).as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
    assert!(status.message().contains("hello"), "{status}");
}

async fn two_watchers_with_one_name_are_two(store: StoreKind) {
    let mut world = World::new(store).await;
    let (device, password) = world.add("Phone").await;
    let hosts = [Host::start(&[&world.server]).await, Host::start(&[&world.server]).await];
    for host in &hosts {
        host.open(&password).await;
    }
    wait_for_sessions(&mut world, 2).await;
    let revocation = world.disconnect(&device).await;
    assert_eq!((revocation.state(), revocation.closed_sessions), (State::Effective, 2));
    assert!(hosts.iter().all(|host| host.told_to_close().len() == 1));
}

async fn a_drain_lets_watchers_go_first(store: StoreKind) {
    let world = World::with(store, &["--drain-timeout", "1h"]).await;
    let host = Host::start(&[&world.server]).await;
    let World { server, ground, .. } = world;
    server.signal(Signal::TERM);
    assert!(server.wait().success(), "it does not wait for a stream to end by itself");
    assert!(!host.upstream.has_lease(), "and nobody has to wait for its watchers");
    drop(ground);
}

async fn a_watcher_that_is_cut_off_for_too_long_closes_its_sessions_if_it_is_told_to(store: StoreKind) {
    // A replica that is stopped is silent; one that was killed refuses connections.
    for signal in [Signal::STOP, Signal::KILL] {
        let mut world = World::with(store, &["--lease", "500ms"]).await;
        let (_, password) = world.add("Phone").await;
        let patient = Host::start(&[&world.server]).await;
        let strict = Host::follow(vec![world.server.url()], Some(Duration::from_millis(200))).await;
        let session = strict.open(&password).await;
        patient.open(&password).await;
        world.server.signal(signal);
        strict.until(|host| !host.told_to_close().is_empty()).await;
        assert_eq!(strict.told_to_close(), [(session, verdict::Reason::DeviceDisconnected)]);
        assert!(!strict.upstream.has_lease(), "not while its lease ran");
        assert!(patient.told_to_close().is_empty());
        world.server.signal(Signal::CONT);
    }
}

async fn limits_are_judged_on_the_mail_host_too(store: StoreKind) {
    let mut world = World::new(store).await;
    let (_, password) = world
        .add_with(proto::CreateDeviceRequest {
            address: ADDRESS.into(),
            display_name: "Phone".into(),
            allowed_protocols: vec![proto::Protocol::Imap.into()],
            ..Default::default()
        })
        .await;
    let host = Host::start(&[&world.server]).await;
    host.warm(&password).await;
    let answer = host.upstream.authenticate(&typed(&password, Protocol::Smtp)).await.expect("an answer");
    assert_eq!(answer.reason, verdict::Reason::ProtocolNotAllowed);
    host.warm(&password).await;
}

async fn a_mail_host_that_has_stopped_is_waited_for_by_nobody(store: StoreKind) {
    let mut world = World::with(store, &["--lease", "60s"]).await;
    let (phone, password) = world.add("Phone").await;
    let host = Host::start(&[&world.server]).await;
    host.warm(&password).await;
    host.upstream.stop().await;
    assert!(!host.upstream.has_lease());
    let revoked = tokio::time::timeout(Duration::from_secs(20), world.disconnect(&phone)).await;
    assert_eq!(revoked.expect("nobody is waited for").state(), State::Effective);
}

async fn a_mail_host_that_is_never_idle_renews_its_lease(store: StoreKind) {
    let mut world = World::with(store, &["--lease", "2s"]).await;
    let (_, password) = world.add("Phone").await;
    let host = Host::start(&[&world.server]).await;
    let session = host.login(&password).await.admission.expect("allowed").session;
    let busy = async {
        let (mut renewals, mut granted) = (0, host.upstream.granted_from());
        while renewals < 3 {
            let number = host.upstream.opened(opening(session.clone())).expect("there is room");
            host.upstream.closed(number);
            let now = host.upstream.granted_from();
            renewals += usize::from(now != granted);
            granted = now;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), busy).await.expect("it renews its lease meanwhile");
}

/// Several replicas over one database: a revocation on one holds on all, and at their watchers.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_on_one_replica_holds_on_the_others_and_their_watchers() {
    let ground = Ground::new(StoreKind::Postgres).await;
    let server = ground.start_with(&["--node-name", "one"]);
    let others = [ground.start_with(&["--node-name", "two"]), ground.start_with(&["--node-name", "three"])];
    let mut world = World::on(ground, server).await;
    let hosts = [Host::start(&[&others[0]]).await, Host::start(&[&others[1]]).await];
    for round in 0..5 {
        let (device, password) = world.add(&format!("Phone {round}")).await;
        let mut sessions = vec![];
        for host in &hosts {
            host.warm(&password).await;
            sessions.push(host.open(&password).await);
        }
        for other in &others {
            let answer = other.authorization().await.authenticate(attempt(ADDRESS, &password)).await.expect("answered");
            assert_eq!(answer.into_inner().reason(), Reason::Ok);
        }
        wait_for_sessions(&mut world, 2).await;
        let revocation = world.disconnect(&device).await;
        assert_eq!((revocation.state(), revocation.closed_sessions), (State::Effective, 2));
        for (host, session) in hosts.iter().zip(sessions) {
            assert_eq!(host.login(&password).await.reason, verdict::Reason::DeviceDisconnected);
            assert_eq!(host.told_to_close().last(), Some(&(session, verdict::Reason::DeviceDisconnected)));
            host.upstream.closed(session);
        }
        for other in &others {
            let answer = other.authorization().await.authenticate(attempt(ADDRESS, &password)).await.expect("answered");
            assert_eq!(answer.into_inner().reason(), Reason::DeviceDisconnected);
        }
    }
}

/// The longest lease counts, whoever answers the revocation.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_dead_is_waited_for_once_and_as_long_as_its_own_lease() {
    let ground = Ground::new(StoreKind::Postgres).await;
    let server = ground.start_with(&["--lease", "500ms", "--node-name", "short"]);
    let other = ground.start_with(&["--lease", "1s", "--node-name", "long"]);
    assert!(other.log().contains("--lease settings differ"), "{}", other.log());
    let mut world = World::on(ground, server).await;
    let (phone, _) = world.add("Phone").await;
    let (laptop, _) = world.add("Laptop").await;
    other.kill();
    let request = proto::DisconnectDeviceRequest {
        address: ADDRESS.into(),
        device_id: phone.device_id.clone(),
        max_wait: Some(prost_types::Duration::default()),
        ..Default::default()
    };
    let pending = world.devices.disconnect_device(request).await.expect("revoked").into_inner().revocation.expect("one");
    assert_eq!(pending.state(), State::Pending);
    let late: Vec<&str> = pending.unconfirmed.iter().map(|late| late.display_name.as_str()).collect();
    assert!(late.contains(&"long"), "{late:?}");
    let now = SystemClock.wall();
    let left = pending.effective_by.expect("a time").seconds - now.unix_seconds();
    assert!((0..=2).contains(&left), "{left}");
    assert_eq!(world.disconnect(&phone).await.state(), State::Effective);
    // A moment after the answer: only then was it seen long enough.
    while !world.server.log().contains("its row was removed") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let request =
        proto::DisconnectDeviceRequest { address: ADDRESS.into(), device_id: laptop.device_id.clone(), ..Default::default() };
    let second = world.devices.disconnect_device(request).await.expect("revoked").into_inner().revocation.expect("one");
    assert_eq!(second.state(), State::Effective);
}

/// Among what a replica missed while it stood still may be the end of any session that its watchers
/// have open.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_end_its_replica_has_missed_is_closed_when_it_is_back() {
    let ground = Ground::new(StoreKind::Postgres).await;
    let server = ground.start_with(&["--lease", "500ms", "--node-name", "one"]);
    let other = ground.start_with(&["--lease", "500ms", "--node-name", "two"]);
    let mut world = World::on(ground, server).await;
    let (phone, password) = world.add("Phone").await;
    let (_, staying) = world.add("Laptop").await;
    let host = Host::start(&[&other]).await;
    let session = host.open(&password).await;
    host.open(&staying).await;
    wait_for_sessions(&mut world, 2).await;
    other.signal(Signal::STOP);
    let revocation = world.disconnect(&phone).await;
    assert_eq!((revocation.state(), revocation.closed_sessions), (State::Effective, 0));
    while !world.server.log().contains("its row was removed") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    other.signal(Signal::CONT);
    host.until(|host| !host.told_to_close().is_empty()).await;
    assert_eq!(host.told_to_close(), [(session, verdict::Reason::DeviceDisconnected)]);
    assert!(other.log().contains("joins anew"), "{}", other.log());
}

/// The change is made, all hear of it, and who was waited for in vain is waited for once.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_hangs_up_changes_nothing_about_its_revocation() {
    let ground = Ground::new(StoreKind::Postgres).await;
    let server = ground.start_with(&["--lease", "1s"]);
    let other = ground.start_with(&["--lease", "1s"]);
    let mut world = World::on(ground, server).await;
    let (phone, password) = world.add("Phone").await;
    other.signal(Signal::STOP);
    let (mut caller, device_id) = (world.devices.clone(), phone.device_id.clone());
    let call = tokio::spawn(async move {
        let request = proto::DisconnectDeviceRequest { address: ADDRESS.into(), device_id, ..Default::default() };
        caller.disconnect_device(request).await
    });
    while world.reason(&password).await == Reason::Ok {
        tokio::task::yield_now().await;
    }
    call.abort();
    assert!(call.await.expect_err("nobody was answered").is_cancelled());
    while !world.server.log().contains("its row was removed") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(world.disconnect(&phone).await.state(), State::Effective);
    other.signal(Signal::CONT);
    let mut logins = other.authorization().await;
    // Until it has joined anew there is no answer.
    let reason = loop {
        if let Ok(answer) = logins.authenticate(attempt(ADDRESS, &password)).await {
            break answer.into_inner().reason();
        }
    };
    assert_eq!(reason, Reason::DeviceDisconnected);
}

/// Whoever begins empty at one replica must not go on under the lease of another, which may be
/// ahead of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_has_to_begin_empty_gives_up_its_lease() {
    let ground = Ground::new(StoreKind::Postgres).await;
    let first = ground.start_with(&["--lease", "60s"]);
    let writer = ground.start_with(&["--freshness", "read"]);
    let mut world = World::on(ground, writer).await;
    let (phone, _) = world.add("Phone").await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
    let host = Host::follow(vec![first.url(), format!("http://{port}")], None).await;
    // It misses a change that the next replica does not know as one either: that begins after it.
    first.signal(Signal::STOP);
    let request = proto::DisconnectDeviceRequest {
        address: ADDRESS.into(),
        device_id: phone.device_id,
        max_wait: Some(prost_types::Duration::default()),
        ..Default::default()
    };
    let revocation = world.devices.disconnect_device(request).await.expect("revoked").into_inner().revocation.expect("one");
    let _next = world.ground.start_with(&["--freshness", "read", "--listen", &port.to_string()]);
    assert!(host.upstream.has_lease());
    first.kill();
    host.until(|host| host.upstream.applied().0 >= revocation.revision).await;
    assert!(!host.upstream.has_lease());
}

/// With the database's hints lost, changes are found by asking.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_missed_when_no_hint_arrives() {
    let ground = Ground::new(StoreKind::Postgres).await;
    let server = ground.start_with(&["--lease", "1s"]);
    let other = ground.start_with(&["--lease", "1s"]);
    let database = ground.database.as_ref().expect("PostgreSQL").url.clone();
    let mut world = World::on(ground, server).await;
    let (client, connection) = tokio_postgres::connect(&database, tokio_postgres::NoTls).await.expect("the server runs");
    tokio::spawn(connection);
    let (phone, password) = world.add("Phone").await;
    let mut logins = other.authorization().await;
    assert_eq!(logins.authenticate(attempt(ADDRESS, &password)).await.expect("answered").into_inner().reason(), Reason::Ok);
    // Whoever listens is cut off, again and again, while the revocation is on its way.
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() \
               AND pid <> pg_backend_pid() AND query LIKE '%LISTEN latchkey_change%'";
    assert!(client.query_one(cut, &[]).await.expect("cut").get::<_, i64>(0) >= 2, "both listened");
    let revocation = world.disconnect(&phone).await;
    client.query_one(cut, &[]).await.expect("cut");
    assert_eq!(revocation.state(), State::Effective);
    assert_eq!(
        logins.authenticate(attempt(ADDRESS, &password)).await.expect("answered").into_inner().reason(),
        Reason::DeviceDisconnected
    );
}

/// Until ListDevices shows so many; they are written behind.
pub(crate) async fn wait_for_sessions(world: &mut World, count: u32) {
    while world.list().await.devices.iter().map(|device| device.live_sessions).sum::<u32>() != count {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn hello(name: &str, resume: Option<proto::Position>) -> watch_request::Hello {
    let watcher_id = uuid::Uuid::from_bytes(latchkey::random::bytes()).to_string();
    watch_request::Hello { protocol_version: 1, name: name.into(), watcher_id, resume, observe: false }
}

pub(crate) fn opened(number: u64, session: Vec<u8>) -> Ask {
    let protocol = proto::Protocol::Imap.into();
    let session = watch_request::sessions_opened::Opened { number, session, protocol, ..Default::default() };
    Ask::SessionsOpened(watch_request::SessionsOpened { sessions: vec![session] })
}

/// A stream that says what it is told to say.
pub(crate) struct Raw {
    to_send: mpsc::UnboundedSender<proto::WatchRequest>,
    told: Streaming<proto::WatchResponse>,
    position: proto::Position,
    starts_empty: bool,
}

impl Raw {
    pub(crate) async fn hello(world: &World, name: &str) -> Self {
        Self::hello_with(world, name, None).await.expect("welcome")
    }

    async fn hello_with(world: &World, name: &str, resume: Option<proto::Position>) -> Result<Self, Status> {
        Self::begin(world, Ask::Hello(hello(name, resume))).await
    }

    async fn begin(world: &World, first: Ask) -> Result<Self, Status> {
        let (to_send, requests) = mpsc::unbounded_channel();
        to_send.send(proto::WatchRequest { message: Some(first) }).expect("open");
        let mut client: AuthorizationClient<Channel> = world.logins.clone();
        let mut told = client.watch(UnboundedReceiverStream::new(requests)).await?.into_inner();
        match told.next().await.expect("a word")?.message {
            Some(Told::Welcome(welcome)) => {
                let position = welcome.position.expect("a position");
                Ok(Self { to_send, told, position, starts_empty: welcome.start_empty })
            }
            other => panic!("no welcome but {other:?}"),
        }
    }

    pub(crate) fn ask(&self, message: Ask) {
        // It may have been ended already, which the test is about to see.
        let _ = self.to_send.send(proto::WatchRequest { message: Some(message) });
    }

    pub(crate) async fn told_until(&mut self, wanted: impl Fn(&Told) -> bool) -> Told {
        loop {
            let message = self.told.next().await.expect("the stream goes on").expect("no error").message.expect("set");
            if wanted(&message) {
                return message;
            }
        }
    }

    /// The error that it ends with.
    async fn end(&mut self) -> Status {
        loop {
            match self.told.next().await.expect("it ends with a word") {
                Ok(_) => (),
                Err(status) => return status,
            }
        }
    }
}
