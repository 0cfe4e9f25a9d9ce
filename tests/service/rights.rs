//! Who may do what, and what is lost with a right.

use latchkey::proto::{self, Permission, Reason, Role};
use tonic::Code;

use crate::{
    server::StoreKind,
    world::{ADDRESS, ORGANIZATION, SERVICE, World, acting_as, on_each_store, reason_of},
};

on_each_store!(
    only_who_may_manage_the_mail_service_sees_its_mailboxes,
    permissions_tell_beforehand,
    who_loses_access_loses_their_devices,
    a_suspension_on_the_way_saves_no_device_from_a_lost_role,
    a_suspended_member_is_denied_until_it_is_lifted,
    a_member_that_is_put_again_stays_suspended_unless_it_is_said,
    all_devices_of_a_person_go_at_once,
);

async fn people(world: &World) {
    world.put_member("ada", Role::Administrator).await;
    world.put_member("leo", Role::LegalRepresentative).await;
    world.put_member("cole", Role::Collaborator).await;
    world.put_member("maya", Role::Collaborator).await;
    let right = proto::PutRightRequest { mail_service_id: SERVICE.into(), user_id: "maya".into() };
    world.server.directory().await.put_right(right).await.expect("a right is put");
}

async fn only_who_may_manage_the_mail_service_sees_its_mailboxes(store: StoreKind) {
    let mut world = World::new(store).await;
    people(&world).await;
    world.add("Phone").await;
    let list = |address: &str| proto::ListDevicesRequest { address: address.into(), ..Default::default() };
    for actor in ["ada", "leo", "maya"] {
        let listed = world.devices.list_devices(acting_as(actor, list(ADDRESS))).await.expect("may").into_inner();
        assert_eq!(listed.devices.len(), 1, "{actor}");
    }
    for actor in ["cole", "stranger"] {
        let mut answers = Vec::new();
        for address in [ADDRESS, "nobody@example.com"] {
            let status = world.devices.list_devices(acting_as(actor, list(address))).await.expect_err("may not");
            assert_eq!((status.code(), reason_of(&status).as_str()), (Code::PermissionDenied, "ACTOR_NOT_PERMITTED"));
            answers.push((status.message().to_owned(), status.details().to_vec()));
        }
        assert_eq!(answers[0], answers[1], "nothing tells whether the mailbox exists");
        let create = proto::CreateDeviceRequest { address: ADDRESS.into(), display_name: "Mine".into(), ..Default::default() };
        let status = world.devices.create_device(acting_as(actor, create)).await.expect_err("may not");
        assert_eq!(status.code(), Code::PermissionDenied);
    }
    assert_eq!(world.names().await, ["Phone"]);
}

async fn permissions_tell_beforehand(store: StoreKind) {
    let mut world = World::new(store).await;
    people(&world).await;
    world.put_mailbox(ADDRESS, "{SSHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g0ZGZkZmFqc2Y=").await;
    let generic = world.list().await.devices.remove(0).device_id;
    let mut asked = async |actor: &str, address: &str, device_id: &str| {
        let request = proto::TestPermissionsRequest { address: address.into(), device_id: device_id.into() };
        let answer = world.devices.test_permissions(acting_as(actor, request)).await.expect("an answer").into_inner();
        answer.permissions().collect::<Vec<_>>()
    };
    assert!(asked("maya", ADDRESS, "").await.contains(&Permission::ChangePassword));
    let of_generic = asked("maya", ADDRESS, &generic).await;
    assert!(of_generic.contains(&Permission::DisconnectDevice) && !of_generic.contains(&Permission::ChangePassword));
    assert_eq!(asked("cole", ADDRESS, "").await, []);
    assert_eq!(asked("ada", "nobody@example.com", "").await, []);
}

async fn with_device_of(world: &mut World, user: &str) -> String {
    let request = proto::CreateDeviceRequest {
        address: ADDRESS.into(),
        display_name: format!("Phone of {user}"),
        user_id: user.into(),
        ..Default::default()
    };
    let (_, password) = world.add_with(request).await;
    assert_eq!(world.reason(&password).await, Reason::Ok);
    password
}

async fn who_loses_access_loses_their_devices(store: StoreKind) {
    let mut world = World::new(store).await;
    people(&world).await;
    let mut passwords = std::collections::BTreeMap::new();
    for user in ["ada", "leo", "maya", "cole"] {
        passwords.insert(user, with_device_of(&mut world, user).await);
    }
    let mut directory = world.server.directory().await;
    let right = proto::DeleteRightRequest { mail_service_id: SERVICE.into(), user_id: "maya".into(), max_wait: None };
    let lost = directory.delete_right(right).await.expect("deleted").into_inner().revocation.expect("a revocation");
    assert_eq!((lost.ended_devices, lost.state()), (1, proto::revocation::State::Effective));
    assert_eq!(world.reason(&passwords["maya"]).await, Reason::DeviceDisconnected);

    world.put_member("ada", Role::Collaborator).await;
    assert_eq!(world.reason(&passwords["ada"]).await, Reason::DeviceDisconnected, "a role that gives no access");

    let member = proto::DeleteMemberRequest { organization_id: ORGANIZATION.into(), user_id: "cole".into(), max_wait: None };
    directory.delete_member(member).await.expect("deleted");
    assert_eq!(world.reason(&passwords["cole"]).await, Reason::DeviceDisconnected, "who left");
    assert_eq!(world.reason(&passwords["leo"]).await, Reason::Ok, "nobody else's");
}

async fn a_suspension_on_the_way_saves_no_device_from_a_lost_role(store: StoreKind) {
    let mut world = World::new(store).await;
    people(&world).await;
    let password = with_device_of(&mut world, "ada").await;
    let mut directory = world.server.directory().await;
    for (role, suspended) in [(Role::Administrator, true), (Role::Collaborator, true), (Role::Collaborator, false)] {
        let member = proto::PutMemberRequest {
            organization_id: ORGANIZATION.into(),
            user_id: "ada".into(),
            role: role.into(),
            suspended: Some(suspended),
            max_wait: None,
        };
        directory.put_member(member).await.expect("put");
    }
    assert_eq!(world.reason(&password).await, Reason::DeviceDisconnected);
}

async fn a_suspended_member_is_denied_until_it_is_lifted(store: StoreKind) {
    let mut world = World::new(store).await;
    people(&world).await;
    let password = with_device_of(&mut world, "cole").await;
    let mut directory = world.server.directory().await;
    for (suspended, reason) in [(true, Reason::UserSuspended), (false, Reason::Ok)] {
        let member = proto::PutMemberRequest {
            organization_id: ORGANIZATION.into(),
            user_id: "cole".into(),
            role: Role::Collaborator.into(),
            suspended: Some(suspended),
            max_wait: None,
        };
        directory.put_member(member).await.expect("put");
        assert_eq!(world.reason(&password).await, reason);
    }
}

async fn all_devices_of_a_person_go_at_once(store: StoreKind) {
    use proto::disconnect_user_devices_request::Scope;
    let mut world = World::new(store).await;
    let cole = with_device_of(&mut world, "cole").await;
    let maya = with_device_of(&mut world, "maya").await;
    let seen = world.list().await.etag;
    let request = proto::DisconnectUserDevicesRequest {
        user_id: "cole".into(),
        scope: Some(Scope::MailServiceId(SERVICE.into())),
        ..Default::default()
    };
    let gone = world.devices.disconnect_user_devices(request).await.expect("gone").into_inner();
    assert_eq!(gone.revocation.expect("a revocation").ended_devices, 1);
    assert_eq!(world.reason(&cole).await, Reason::DeviceDisconnected);
    assert_eq!(world.reason(&maya).await, Reason::Ok);
    assert_ne!(world.list().await.etag, seen, "the list is another one now");
}

async fn a_member_that_is_put_again_stays_suspended_unless_it_is_said(store: StoreKind) {
    let mut world = World::new(store).await;
    people(&world).await;
    let password = with_device_of(&mut world, "cole").await;
    let mut directory = world.server.directory().await;
    let mut put = async |suspended| {
        let member = proto::PutMemberRequest {
            organization_id: ORGANIZATION.into(),
            user_id: "cole".into(),
            role: Role::Collaborator.into(),
            suspended,
            max_wait: None,
        };
        let put = directory.put_member(member).await.expect("put").into_inner();
        put.member.expect("a member").suspended
    };
    assert!(put(Some(true)).await);
    assert!(put(None).await, "unset keeps what is there");
    assert_eq!(world.reason(&password).await, Reason::UserSuspended);
    assert!(!put(Some(false)).await);
    assert!(!put(None).await);
    assert_eq!(world.reason(&password).await, Reason::Ok);
}
