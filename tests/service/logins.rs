//! Logins as a mail server asks for them.

use std::time::Duration;

use latchkey::proto::{self, Decision, Protocol, Reason, authenticate_stream_response::Outcome};
use tokio_stream::StreamExt;
use tonic::Code;
use tonic_types::RpcStatusExt;

use crate::{
    server::StoreKind,
    world::{ADDRESS, World, attempt, on_each_store, reason_of},
};

on_each_store!(
    a_generated_password_may_be_typed_in_any_form,
    limits_are_judged_at_every_login,
    a_denial_tells_nothing_and_costs_no_error,
    a_stream_answers_each_request_by_its_id,
    a_session_ends_with_its_password,
    a_suspended_mailbox_denies_until_it_is_resumed,
    a_new_mailbox_lets_in_who_was_unknown_before,
    every_login_is_right_under_freshness_read,
    guesses_are_throttled_and_proven_passwords_are_not,
);

async fn a_generated_password_may_be_typed_in_any_form(store: StoreKind) {
    let mut world = World::new(store).await;
    let (_, password) = world.add("Phone").await;
    assert_eq!(password.len(), 29, "six groups of four: {password}");
    for typed in [
        password.clone(),
        password.replace('-', ""),
        password.replace('-', " "),
        password.to_uppercase(),
        format!(" {} ", password.to_uppercase().replace('-', "")),
    ] {
        assert_eq!(world.reason(&typed).await, Reason::Ok, "{typed:?}");
    }
    assert_eq!(world.reason(&password[1..]).await, Reason::WrongPassword);
    let upper_address = attempt(&ADDRESS.to_uppercase(), &password);
    assert_eq!(world.login_with(upper_address).await.reason(), Reason::Ok, "the address in any case, too");
}

async fn limits_are_judged_at_every_login(store: StoreKind) {
    let mut world = World::new(store).await;
    let in_an_hour = prost_types::Timestamp::from(std::time::SystemTime::UNIX_EPOCH + hour_from_now());
    let (_, password) = world
        .add_with(proto::CreateDeviceRequest {
            address: ADDRESS.into(),
            display_name: "Phone".into(),
            allowed_protocols: vec![Protocol::Imap.into()],
            allowed_networks: vec!["192.0.2.0/24".into(), "2001:db8::/32".into()],
            expire_time: Some(in_an_hour),
            ..Default::default()
        })
        .await;
    let good = attempt(ADDRESS, &password);
    let mut asked = async |request: proto::AuthenticateRequest| world.login_with(request).await.reason();
    assert_eq!(asked(good.clone()).await, Reason::Ok);
    let smtp = proto::AuthenticateRequest { protocol: Protocol::Smtp.into(), ..good.clone() };
    assert_eq!(asked(smtp).await, Reason::ProtocolNotAllowed, "also right after IMAP has let it in");
    for (from, reason) in [
        ("198.51.100.1", Reason::NetworkNotAllowed),
        ("", Reason::NetworkNotAllowed),
        ("2001:db8::1", Reason::Ok),
        ("::ffff:192.0.2.7", Reason::Ok),
    ] {
        let request = proto::AuthenticateRequest { client_ip: from.into(), ..good.clone() };
        assert_eq!(asked(request).await, reason, "from {from:?}");
    }
}

fn hour_from_now() -> Duration {
    use latchkey::clock::SystemClock;
    use latchkey_core::model::clock::Clock;
    let micros = u64::try_from(SystemClock.wall().0).expect("after 1970");
    Duration::from_micros(micros) + Duration::from_secs(3_600)
}

async fn a_denial_tells_nothing_and_costs_no_error(store: StoreKind) {
    let mut world = World::new(store).await;
    world.add("Phone").await;
    let wrong = world.login("wrong").await;
    assert_eq!((wrong.decision(), wrong.reason()), (Decision::Deny, Reason::WrongPassword));
    assert!(wrong.session.is_empty() && wrong.device_id.is_empty());
    let unknown = world.login_with(attempt("nobody@example.com", "wrong")).await;
    assert_eq!((unknown.decision(), unknown.reason()), (Decision::Deny, Reason::UnknownAddress));
    // Bytes that are not UTF-8 are a password like any other: a wrong one.
    let mut request = attempt(ADDRESS, "");
    request.password = vec![0xff, 0xfe, 0x00, 0xc3];
    assert_eq!(world.login_with(request).await.reason(), Reason::WrongPassword);
}

async fn a_stream_answers_each_request_by_its_id(store: StoreKind) {
    let mut world = World::new(store).await;
    let (_, password) = world.add("Phone").await;
    let logins = [
        (7, Some(attempt(ADDRESS, &password))),
        (8, Some(attempt(ADDRESS, "wrong"))),
        (9, Some(attempt("broken", "x"))),
        (10, None),
        (11, Some(attempt(ADDRESS, &password))),
    ];
    let requests = logins.map(|(request_id, login)| proto::AuthenticateStreamRequest { request_id, login });
    let mut answers = world.logins.authenticate_stream(tokio_stream::iter(requests)).await.expect("a stream").into_inner();
    let mut seen = std::collections::BTreeMap::new();
    while let Some(answer) = answers.next().await {
        let answer = answer.expect("no error ends the stream");
        let said = match answer.outcome.expect("an outcome") {
            Outcome::Answer(answer) => format!("{:?}", answer.reason()),
            Outcome::Error(error) => {
                format!("{} {}", error.code, error.get_details_error_info().map(|info| info.reason).unwrap_or_default())
            }
        };
        assert!(seen.insert(answer.request_id, said).is_none(), "answered once");
    }
    let seen: Vec<_> = seen.iter().map(|(id, said)| (*id, said.as_str())).collect();
    let invalid = format!("{} INVALID_FIELD", Code::InvalidArgument as i32);
    assert_eq!(seen, [(7, "Ok"), (8, "WrongPassword"), (9, &*invalid), (10, &*invalid), (11, "Ok")]);
}

async fn a_session_ends_with_its_password(store: StoreKind) {
    let mut world = World::new(store).await;
    let (phone, password) = world.add("Phone").await;
    let session = world.login(&password).await.session;
    let check = proto::CheckSessionRequest { session: session.clone() };
    let state = world.logins.check_session(check.clone()).await.expect("checked").into_inner();
    assert_eq!((state.valid, state.reason()), (true, Reason::Ok));
    world.disconnect(&phone).await;
    let state = world.logins.check_session(check).await.expect("checked").into_inner();
    assert_eq!((state.valid, state.reason()), (false, Reason::DeviceDisconnected));
    for broken in [vec![], vec![1, 2, 3], session[1..].to_vec(), vec![0; 600]] {
        let status = world.logins.check_session(proto::CheckSessionRequest { session: broken }).await.expect_err("broken");
        assert_eq!((status.code(), crate::world::field_of(&status).as_str()), (Code::InvalidArgument, "session"));
    }
}

async fn a_suspended_mailbox_denies_until_it_is_resumed(store: StoreKind) {
    let mut world = World::new(store).await;
    let (_, password) = world.add("Phone").await;
    assert_eq!(world.reason(&password).await, Reason::Ok);
    let mut directory = world.server.directory().await;
    let request = proto::SuspendMailboxRequest { address: ADDRESS.into(), max_wait: None };
    directory.suspend_mailbox(request).await.expect("suspended");
    assert_eq!(world.reason(&password).await, Reason::MailboxSuspended);
    let request = proto::ResumeMailboxRequest { address: ADDRESS.into() };
    directory.resume_mailbox(request).await.expect("resumed");
    assert_eq!(world.reason(&password).await, Reason::Ok);
    let request = proto::DeleteMailboxRequest { address: ADDRESS.into(), max_wait: None };
    directory.delete_mailbox(request).await.expect("deleted");
    assert_eq!(world.reason(&password).await, Reason::UnknownAddress);
}

async fn a_new_mailbox_lets_in_who_was_unknown_before(store: StoreKind) {
    let mut world = World::new(store).await;
    let address = "new@example.com";
    for _ in 0..2 {
        assert_eq!(world.login_with(attempt(address, "x")).await.reason(), Reason::UnknownAddress);
    }
    world.put_mailbox(address, "").await;
    let request = proto::CreateDeviceRequest { address: address.into(), display_name: "Phone".into(), ..Default::default() };
    let (_, password) = world.add_with(request).await;
    assert_eq!(world.login_with(attempt(address, &password)).await.reason(), Reason::Ok);
}

async fn every_login_is_right_under_freshness_read(store: StoreKind) {
    let mut world = World::with(store, &["--freshness", "read"]).await;
    let (phone, password) = world.add("Phone").await;
    for _ in 0..3 {
        assert_eq!(world.reason(&password).await, Reason::Ok);
    }
    world.disconnect(&phone).await;
    assert_eq!(world.reason(&password).await, Reason::DeviceDisconnected);
}

async fn guesses_are_throttled_and_proven_passwords_are_not(store: StoreKind) {
    let mut world = World::new(store).await;
    let chosen = "violet-anchor-breeze-47";
    let request = proto::CreateDeviceRequest {
        address: ADDRESS.into(),
        display_name: "Scanner".into(),
        password: chosen.into(),
        ..Default::default()
    };
    world.add_with(request).await;
    assert_eq!(world.reason(chosen).await, Reason::Ok, "proven once, before anybody guessed");
    let (_, generated) = world.add("Phone").await;
    let (_, other) = {
        let request = proto::CreateDeviceRequest {
            address: ADDRESS.into(),
            display_name: "Second scanner".into(),
            password: "marble-kettle-orbit-83".into(),
            ..Default::default()
        };
        world.add_with(request).await
    };
    assert_eq!(other, "");
    let mut guesses = tokio::task::JoinSet::new();
    for guess in 0..150 {
        let mut logins = world.logins.clone();
        guesses.spawn(async move { logins.authenticate(attempt(ADDRESS, &format!("guess number {guess}"))).await });
    }
    guesses.join_all().await;
    let began = tokio::time::Instant::now();
    let throttled = world.logins.authenticate(attempt(ADDRESS, "marble-kettle-orbit-83")).await.expect_err("no answer");
    assert_eq!(
        (throttled.code(), reason_of(&throttled).as_str()),
        (Code::ResourceExhausted, "THROTTLED"),
        "argon2 is not spent on who guesses"
    );
    let retry = |status: &tonic_types::Status| status.get_details_retry_info().and_then(|retry| retry.retry_delay);
    let in_the_call = <tonic_types::Status as prost::Message>::decode(throttled.details()).expect("a google.rpc.Status");
    assert!(retry(&in_the_call).is_some_and(|delay| delay >= Duration::from_secs(1)), "{throttled}");
    assert!(began.elapsed() >= Duration::from_millis(50), "as long as a denial takes");
    let login = Some(attempt(ADDRESS, "marble-kettle-orbit-83"));
    let asked = tokio_stream::iter([proto::AuthenticateStreamRequest { request_id: 1, login }]);
    let mut answers = world.logins.authenticate_stream(asked).await.expect("a stream").into_inner();
    let Outcome::Error(error) = answers.next().await.expect("one").expect("no error ends the stream").outcome.expect("one")
    else {
        panic!("it was answered")
    };
    let reason = error.get_details_error_info().map(|info| info.reason);
    assert_eq!((error.code, reason.as_deref()), (Code::ResourceExhausted as i32, Some("THROTTLED")));
    assert!(retry(&error).is_some());
    assert_eq!(world.reason(chosen).await, Reason::Ok, "a memo needs no argon2");
    assert_eq!(world.reason(&generated).await, Reason::Ok, "a generated one neither");
    let elsewhere = proto::AuthenticateRequest { client_ip: "198.51.100.1".into(), ..attempt(ADDRESS, "marble-kettle-orbit-83") };
    assert_eq!(world.login_with(elsewhere).await.reason(), Reason::Ok, "nobody else is locked out");
}
