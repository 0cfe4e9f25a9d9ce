//! What takes logins away without ending a device: the sessions concerned are closed and counted
//! like those of a disconnected device.

use latchkey::proto::{self, Role, revocation::State, set_generic_login_request::Scope, watch_response::Message as Told};
use latchkey_core::model::verdict::Reason;

use crate::{
    passwords::{GENERIC, GENERIC_HASH},
    server::StoreKind,
    watch::{Host, Raw, opened, wait_for_sessions},
    world::{ADDRESS, ORGANIZATION, SERVICE, World, on_each_store},
};

on_each_store!(
    a_suspended_members_sessions_are_closed_when_it_is_effective,
    a_mail_services_generic_sessions_are_closed_when_it_is_effective,
    a_generic_session_whose_host_is_silent_is_named,
    a_generic_session_that_opens_after_the_switch_is_closed,
    a_mailbox_that_moves_to_where_generic_logins_are_off_loses_its_generic_sessions,
);

async fn switch_off(world: &mut World, scope: Scope) -> proto::Revocation {
    let request = proto::SetGenericLoginRequest { scope: Some(scope), enabled: false, ..Default::default() };
    world.devices.set_generic_login(request).await.expect("switched off").into_inner().revocation.expect("one")
}

async fn a_suspended_members_sessions_are_closed_when_it_is_effective(store: StoreKind) {
    let mut world = World::new(store).await;
    world.put_member("cole", Role::Collaborator).await;
    let device = proto::CreateDeviceRequest {
        address: ADDRESS.into(),
        display_name: "Phone".into(),
        user_id: "cole".into(),
        ..Default::default()
    };
    let (_, password) = world.add_with(device).await;
    let (_, other) = world.add("Laptop").await;
    let host = Host::start(&[&world.server]).await;
    let session = host.open(&password).await;
    host.open(&other).await;
    wait_for_sessions(&mut world, 2).await;

    let member = proto::PutMemberRequest {
        organization_id: ORGANIZATION.into(),
        user_id: "cole".into(),
        role: Role::Collaborator.into(),
        suspended: Some(true),
        max_wait: None,
    };
    let put = world.server.directory().await.put_member(member).await.expect("put").into_inner();
    let revocation = put.revocation.expect("one");
    assert_eq!((revocation.state(), revocation.ended_devices, revocation.closed_sessions), (State::Effective, 1, 1));
    assert_eq!(revocation.unconfirmed_sessions, []);
    assert_eq!(host.told_to_close(), [(session, Reason::UserSuspended)]);
}

async fn a_mail_services_generic_sessions_are_closed_when_it_is_effective(store: StoreKind) {
    let mut world = World::new(store).await;
    world.put_mailbox(ADDRESS, GENERIC_HASH).await;
    let (_, other) = world.add("Laptop").await;
    let host = Host::start(&[&world.server]).await;
    let session = host.open(GENERIC).await;
    host.open(&other).await;
    wait_for_sessions(&mut world, 2).await;

    let revocation = switch_off(&mut world, Scope::MailServiceId(SERVICE.into())).await;
    assert_eq!((revocation.state(), revocation.ended_devices, revocation.closed_sessions), (State::Effective, 1, 1));
    assert_eq!(revocation.unconfirmed_sessions, [], "the other session was judged, and stays");
    assert_eq!(host.told_to_close(), [(session, Reason::GenericLoginOff)]);

    let of_mailbox = switch_off(&mut world, Scope::Address(ADDRESS.into())).await;
    assert_eq!((of_mailbox.state(), of_mailbox.ended_devices), (State::Effective, 1));
}

async fn a_generic_session_whose_host_is_silent_is_named(store: StoreKind) {
    let mut world = World::new(store).await;
    world.put_mailbox(ADDRESS, GENERIC_HASH).await;
    let login = world.login(GENERIC).await;
    let mut deaf = Raw::hello(&world, "deaf").await;
    deaf.ask(opened(1, login.session));
    wait_for_sessions(&mut world, 1).await;

    let revocation = switch_off(&mut world, Scope::MailServiceId(SERVICE.into())).await;
    assert_eq!((revocation.state(), revocation.closed_sessions), (State::Effective, 0));
    let silent: Vec<_> = revocation.unconfirmed_sessions.iter().map(|it| (it.host.as_str(), it.sessions)).collect();
    assert_eq!(silent, [("deaf", 1)]);
    let Told::CloseSessions(close) = deaf.told_until(|it| matches!(it, Told::CloseSessions(_))).await else { unreachable!() };
    assert_eq!((close.numbers, close.revision), (vec![1], revocation.revision), "with the change that was the cause");
}

async fn a_generic_session_that_opens_after_the_switch_is_closed(store: StoreKind) {
    let mut world = World::new(store).await;
    world.put_mailbox(ADDRESS, GENERIC_HASH).await;
    let login = world.login(GENERIC).await;
    let mut slow = Raw::hello(&world, "slow").await;
    let revocation = switch_off(&mut world, Scope::MailServiceId(SERVICE.into())).await;
    slow.ask(opened(1, login.session));
    let Told::CloseSessions(close) = slow.told_until(|it| matches!(it, Told::CloseSessions(_))).await else { unreachable!() };
    assert_eq!((close.numbers, close.reason), (vec![1], proto::Reason::GenericLoginOff as i32));
    assert!(close.revision >= revocation.revision, "it, or one after it: the login may have upgraded the hash");
}

async fn a_mailbox_that_moves_to_where_generic_logins_are_off_loses_its_generic_sessions(store: StoreKind) {
    let mut world = World::new(store).await;
    world.put_mailbox(ADDRESS, GENERIC_HASH).await;
    let mut directory = world.server.directory().await;
    let strict = proto::PutMailServiceRequest {
        mail_service_id: "strict".into(),
        organization_id: ORGANIZATION.into(),
        display_name: String::new(),
    };
    directory.put_mail_service(strict).await.expect("put");
    switch_off(&mut world, Scope::MailServiceId("strict".into())).await;
    let host = Host::start(&[&world.server]).await;
    let session = host.open(GENERIC).await;
    wait_for_sessions(&mut world, 1).await;

    let moved = proto::PutMailboxRequest { address: ADDRESS.into(), mail_service_id: "strict".into(), ..Default::default() };
    let revocation = directory.put_mailbox(moved).await.expect("moved").into_inner().revocation.expect("one");
    assert_eq!((revocation.ended_devices, revocation.closed_sessions), (1, 1));
    assert_eq!(host.told_to_close(), [(session, Reason::GenericLoginOff)]);
}
