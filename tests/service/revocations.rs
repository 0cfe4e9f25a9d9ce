//! Revocations by their ids: who may ask for one, what a repeated call answers, and which calls do
//! not wait.

use std::time::Duration;

use latchkey::proto::{self, Role, revocation::State};
use sha2::{Digest, Sha256};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::{
    passwords::GENERIC_HASH,
    server::{Ground, Server, StoreKind},
    world::{ADDRESS, ORGANIZATION, SERVICE, World, acting_as, field_of, on_each_store, reason_of},
};

on_each_store!(
    a_repeated_call_answers_the_first_revocation_and_awaiting_it_the_same_figures,
    what_is_gone_already_is_refused_with_how_far_that_has_come,
    only_who_might_have_made_a_revocation_may_await_it,
);

/// Far below the lease of these tests, and far above what a slow machine needs.
const AT_ONCE: Duration = Duration::from_secs(20);

fn now() -> Option<prost_types::Duration> {
    Some(prost_types::Duration::default())
}

async fn awaited(world: &World, revocation: &proto::Revocation, actor: Option<&str>) -> Result<proto::Revocation, Status> {
    let message = proto::AwaitRevocationRequest { revocation_id: revocation.revocation_id.clone(), max_wait: None };
    let request = actor.map_or_else(|| Request::new(message.clone()), |actor| acting_as(actor, message.clone()));
    let answer = world.devices.clone().await_revocation(request).await?.into_inner();
    Ok(answer.revocation.expect("one"))
}

async fn a_repeated_call_answers_the_first_revocation_and_awaiting_it_the_same_figures(store: StoreKind) {
    let mut world = World::new(store).await;
    let (phone, _) = world.add("Phone").await;
    let first = world.disconnect(&phone).await;
    let again = world.disconnect(&phone).await;
    assert_eq!((again.revocation_id.as_str(), again.ended_devices), (first.revocation_id.as_str(), 1));
    assert_eq!(first.revocation_id.len(), 32, "it names the history, too");
    let awaited_first = awaited(&world, &first, None).await.expect("awaited");
    assert_eq!((awaited_first.state(), awaited_first.ended_devices), (State::Effective, 1));

    // There is nothing to end: the call's own id stands for all before it.
    let request = proto::DisconnectUserDevicesRequest {
        user_id: "nobody".into(),
        scope: Some(proto::disconnect_user_devices_request::Scope::Address(ADDRESS.into())),
        ..Default::default()
    };
    let nothing = world.devices.disconnect_user_devices(request).await.expect("gone").into_inner().revocation.expect("one");
    assert_eq!((nothing.state(), nothing.ended_devices, nothing.revocation_id.len()), (State::Effective, 0, 32));
    assert!(nothing.revision > first.revision);
    assert_eq!(awaited(&world, &nothing, None).await.expect("awaited").state(), State::Effective);

    // A mail service's passwords are counted, and the count is kept.
    world.put_mailbox(ADDRESS, GENERIC_HASH).await;
    let request = proto::SetGenericLoginRequest {
        scope: Some(proto::set_generic_login_request::Scope::MailServiceId(SERVICE.into())),
        ..Default::default()
    };
    let off = world.devices.set_generic_login(request).await.expect("off").into_inner().revocation.expect("one");
    assert_eq!((off.ended_devices, awaited(&world, &off, None).await.expect("awaited").ended_devices), (1, 1));
}

async fn what_is_gone_already_is_refused_with_how_far_that_has_come(store: StoreKind) {
    let world = World::new(store).await;
    let mut directory = world.server.directory().await;
    let mailbox = proto::DeleteMailboxRequest { address: ADDRESS.into(), max_wait: now() };
    directory.delete_mailbox(mailbox.clone()).await.expect("deleted");
    let status = directory.delete_mailbox(proto::DeleteMailboxRequest { max_wait: None, ..mailbox }).await.expect_err("gone");
    assert_eq!((status.code(), reason_of(&status).as_str()), (Code::NotFound, "MAILBOX_NOT_FOUND"));
    let info = status.get_details_error_info().expect("ErrorInfo");
    assert_eq!(info.metadata["state"], "STATE_EFFECTIVE");
    let revocation = proto::Revocation { revocation_id: info.metadata["revocation_id"].clone(), ..Default::default() };
    assert_eq!(awaited(&world, &revocation, None).await.expect("awaited").state(), State::Effective);
}

async fn only_who_might_have_made_a_revocation_may_await_it(store: StoreKind) {
    let mut world = World::new(store).await;
    for (user, role) in [("ada", Role::Administrator), ("maya", Role::Collaborator), ("cole", Role::Collaborator)] {
        world.put_member(user, role).await;
    }
    let right = proto::PutRightRequest { mail_service_id: SERVICE.into(), user_id: "maya".into() };
    world.server.directory().await.put_right(right).await.expect("granted");
    let (phone, _) = world.add("Phone").await;
    let of_device = world.disconnect(&phone).await;
    let of_member = world.put_member("cole", Role::Collaborator).await.revocation.expect("one");
    let denied = |outcome: Result<proto::Revocation, Status>| {
        let status = outcome.expect_err("not theirs");
        assert_eq!((status.code(), reason_of(&status).as_str()), (Code::PermissionDenied, "ACTOR_NOT_PERMITTED"));
    };
    for actor in ["ada", "maya"] {
        awaited(&world, &of_device, Some(actor)).await.expect(actor);
    }
    for actor in ["cole", "stranger"] {
        denied(awaited(&world, &of_device, Some(actor)).await);
        denied(awaited(&world, &of_member, Some(actor)).await);
    }
    awaited(&world, &of_member, Some("ada")).await.expect("administers");
    denied(awaited(&world, &of_member, Some("maya")).await);
}

fn caller<T>(token: &str, actor: Option<&str>, message: T) -> Request<T> {
    let mut request = match actor {
        Some(actor) => acting_as(actor, message),
        None => Request::new(message),
    };
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("ASCII"));
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_is_awaited_with_the_role_that_made_it() {
    let ground = Ground::new(StoreKind::Sqlite).await;
    let entry = |role: &str| {
        let digest: String = Sha256::digest(role).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("[[caller]]\nname = '{role}'\nroles = ['{role}']\ntoken_sha256 = '{digest}'\n")
    };
    let file = ground.folder.path().join("callers.toml");
    let callers: String = ["frontend", "manager", "provisioner", "operator"].map(entry).concat();
    // Made before anybody has to say who calls.
    let server = ground.start();
    let mut world = World::on(ground, server).await;
    world.put_member("ada", Role::Administrator).await;
    let (phone, _) = world.add("Phone").await;
    let of_device = world.disconnect(&phone).await;
    let of_member = world.put_member("cole", Role::Collaborator).await.revocation.expect("one");
    let World { server, ground, .. } = world;
    server.signal(rustix::process::Signal::TERM);
    assert!(server.wait().success());
    std::fs::write(&file, callers).expect("written");
    let server: Server = ground.start_with(&["--callers-file", file.to_str().expect("UTF-8")]);
    let mut devices = server.devices().await;
    let mut ask = async |role: &str, actor: Option<&str>, revocation: &proto::Revocation| {
        let message = proto::AwaitRevocationRequest { revocation_id: revocation.revocation_id.clone(), max_wait: None };
        let answer = devices.await_revocation(caller(role, actor, message)).await;
        answer.map_or_else(|status| reason_of(&status), |_| "OK".to_owned())
    };
    for (role, actor, device, member) in [
        ("operator", None, "OK", "OK"),
        ("manager", Some("ada"), "OK", "ROLE_MISSING"),
        ("manager", None, "INVALID_FIELD", "INVALID_FIELD"),
        ("provisioner", None, "ROLE_MISSING", "OK"),
        ("provisioner", Some("cole"), "ROLE_MISSING", "ACTOR_NOT_PERMITTED"),
        ("frontend", None, "ROLE_MISSING", "ROLE_MISSING"),
    ] {
        assert_eq!(ask(role, actor, &of_device).await, device, "{role} {actor:?}");
        assert_eq!(ask(role, actor, &of_member).await, member, "{role} {actor:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_revokes_nothing_is_effective_at_once_though_a_replica_is_dead() {
    let mut world = World::with(StoreKind::Postgres, &["--lease", "60s"]).await;
    let (phone, _) = world.add("Phone").await;
    world.ground.start_with(&["--lease", "60s"]).kill();
    let mut directory = world.server.directory().await;
    let calls = async {
        let mut revocations = vec![world.put_mailbox("new@example.com", "").await.revocation.expect("one")];
        let resume = proto::ResumeMailboxRequest { address: ADDRESS.into() };
        directory.resume_mailbox(resume).await.expect("resumed");
        let on = proto::SetGenericLoginRequest {
            scope: Some(proto::set_generic_login_request::Scope::Address(ADDRESS.into())),
            enabled: true,
            ..Default::default()
        };
        let on = world.devices.set_generic_login(on).await.expect("on").into_inner();
        let rename = proto::UpdateDeviceRequest {
            address: ADDRESS.into(),
            device_id: phone.device_id.clone(),
            display_name: "Old phone".into(),
            update_mask: Some(prost_types::FieldMask { paths: vec!["display_name".into()] }),
            ..Default::default()
        };
        let renamed = world.devices.update_device(rename).await.expect("renamed").into_inner();
        let member = world.put_member("ada", Role::Administrator).await;
        revocations.extend([on.revocation, renamed.revocation, member.revocation].map(|one| one.expect("one")));
        for revocation in revocations {
            assert_eq!((revocation.state(), revocation.revocation_id.len()), (State::Effective, 32));
        }
    };
    tokio::time::timeout(AT_ONCE, calls).await.expect("nobody has to be waited for");
    // What may revoke, or may have revoked, waits as long as it is asked to.
    let member = proto::DeleteMemberRequest { organization_id: ORGANIZATION.into(), user_id: "nobody".into(), max_wait: now() };
    let refused = tokio::time::timeout(AT_ONCE, directory.delete_member(member)).await.expect("it need not wait");
    let status = refused.expect_err("no such member");
    let info = status.get_details_error_info().expect("ErrorInfo");
    assert_eq!((info.reason.as_str(), info.metadata["state"].as_str()), ("MEMBER_NOT_FOUND", "STATE_PENDING"));
    let await_it = proto::AwaitRevocationRequest { revocation_id: info.metadata["revocation_id"].clone(), max_wait: now() };
    let pending = world.devices.await_revocation(await_it).await.expect("awaited").into_inner().revocation.expect("one");
    assert_eq!(pending.state(), State::Pending);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_without_its_history_is_no_revocation() {
    let mut world = World::new(StoreKind::Sqlite).await;
    let (phone, _) = world.add("Phone").await;
    let revocation = world.disconnect(&phone).await;
    let ask = |id: &str| {
        let message = proto::AwaitRevocationRequest { revocation_id: id.to_owned(), max_wait: None };
        let mut devices = world.devices.clone();
        async move { devices.await_revocation(message).await.expect_err("none") }
    };
    let status = ask(&revocation.revocation_id[..16]).await;
    assert_eq!((reason_of(&status).as_str(), field_of(&status).as_str()), ("INVALID_FIELD", "revocation_id"));
    // Another history's: that change is lost here.
    let other = format!("{}{:016x}", &revocation.revocation_id[..16], 1);
    assert_eq!(reason_of(&ask(&other).await), "CHANGE_LOST");
    let above = format!("{:016x}{:016x}", revocation.revision + 1_000, 1);
    let status = ask(&above).await;
    assert_eq!((status.code(), reason_of(&status).as_str()), (Code::Aborted, "CHANGE_LOST"));
}
