//! Devices as the Manager sees them.

use latchkey::proto::{self, Reason, revocation::State};
use tonic::Code;

use crate::{
    server::StoreKind,
    world::{ADDRESS, World, on_each_store, reason_of},
};

on_each_store!(
    a_disconnected_device_is_refused_from_then_on,
    a_changed_password_takes_the_place_of_the_old_one,
    a_device_can_be_renamed_and_limited,
    all_devices_go_only_as_the_person_saw_them,
    a_repeated_request_has_no_second_effect,
    a_mailbox_has_at_most_as_many_devices_as_set,
    pages_show_each_device_once,
    the_trail_tells_who_did_what_and_each_devices_logins,
    a_mailbox_remembers_its_past_passwords,
);

async fn a_disconnected_device_is_refused_from_then_on(store: StoreKind) {
    let mut world = World::new(store).await;
    let (phone, phone_password) = world.add("Phone").await;
    let (_, laptop_password) = world.add("Laptop").await;
    assert_eq!(world.reason(&phone_password).await, Reason::Ok);

    let first = world.disconnect(&phone).await;
    assert_eq!(first.state(), State::Effective);
    assert_eq!(world.reason(&phone_password).await, Reason::DeviceDisconnected);
    assert_eq!(world.reason(&laptop_password).await, Reason::Ok, "the other one is left alone");
    assert_eq!(world.names().await, ["Laptop"]);

    let again = world.disconnect(&phone).await;
    assert_eq!((again.revision, again.state()), (first.revision, State::Effective), "said again: the first revocation");
    let never = proto::Device { device_id: "0192f0c0-0000-7000-8000-000000000000".into(), ..phone };
    let request = proto::DisconnectDeviceRequest { address: ADDRESS.into(), device_id: never.device_id, ..Default::default() };
    let status = world.devices.disconnect_device(request).await.expect_err("never existed");
    assert_eq!((status.code(), reason_of(&status).as_str()), (Code::NotFound, "DEVICE_NOT_FOUND"));
}

async fn a_changed_password_takes_the_place_of_the_old_one(store: StoreKind) {
    let mut world = World::new(store).await;
    let (phone, old) = world.add("Phone").await;
    assert_eq!(world.reason(&old).await, Reason::Ok);
    let request =
        proto::ChangePasswordRequest { address: ADDRESS.into(), device_id: phone.device_id.clone(), ..Default::default() };
    let changed = world.devices.change_password(request).await.expect("changed").into_inner();
    assert_eq!(changed.revocation.expect("a revocation").state(), State::Effective);
    let device = changed.device.expect("a device");
    assert_eq!((device.device_id, device.display_name, device.generation), (phone.device_id, phone.display_name, 2));
    assert_eq!(world.reason(&old).await, Reason::PasswordChanged);
    assert_eq!(world.reason(&changed.password).await, Reason::Ok);
}

async fn a_device_can_be_renamed_and_limited(store: StoreKind) {
    let mut world = World::new(store).await;
    let (phone, password) = world.add("Phone").await;
    let request = proto::UpdateDeviceRequest {
        address: ADDRESS.into(),
        device_id: phone.device_id.clone(),
        display_name: "Old phone".into(),
        allowed_protocols: vec![proto::Protocol::Smtp.into()],
        user_id: "not in the mask".into(),
        update_mask: Some(prost_types::FieldMask { paths: vec!["display_name".into(), "allowed_protocols".into()] }),
        ..Default::default()
    };
    let updated = world.devices.update_device(request).await.expect("updated").into_inner();
    let device = updated.device.expect("a device");
    assert_eq!((device.display_name.as_str(), device.user_id.as_str()), ("Old phone", ""));
    assert_eq!(world.reason(&password).await, Reason::ProtocolNotAllowed, "the limit holds at once");
    let request = proto::GetDeviceRequest { address: ADDRESS.into(), device_id: phone.device_id };
    let got = world.devices.get_device(request).await.expect("it is there").into_inner().device;
    assert_eq!(got.expect("a device").allowed_protocols, [proto::Protocol::Smtp as i32]);
}

async fn all_devices_go_only_as_the_person_saw_them(store: StoreKind) {
    let mut world = World::new(store).await;
    let (_, phone) = world.add("Phone").await;
    let seen = world.list().await.etag;
    let (_, laptop) = world.add("Laptop").await;
    let request = |etag: &str, validate_only| proto::DisconnectAllDevicesRequest {
        address: ADDRESS.into(),
        etag: etag.into(),
        validate_only,
        ..Default::default()
    };
    let status = world.devices.disconnect_all_devices(request(&seen, false)).await.expect_err("the list has changed");
    assert_eq!((status.code(), reason_of(&status).as_str()), (Code::Aborted, "ETAG_MISMATCH"));
    assert_eq!(world.reason(&phone).await, Reason::Ok, "nothing was done");

    let etag = world.list().await.etag;
    let shown = world.devices.disconnect_all_devices(request(&etag, true)).await.expect("shown").into_inner();
    assert_eq!((shown.devices.len(), shown.revocation), (2, None));
    assert_eq!(world.reason(&laptop).await, Reason::Ok, "only shown");

    let gone = world.devices.disconnect_all_devices(request(&etag, false)).await.expect("gone").into_inner();
    let revocation = gone.revocation.expect("a revocation");
    assert_eq!((gone.devices.len(), revocation.state(), revocation.ended_devices), (2, State::Effective, 2));
    for password in [&phone, &laptop] {
        assert_eq!(world.reason(password).await, Reason::DeviceDisconnected);
    }
    assert!(world.names().await.is_empty());
}

async fn a_repeated_request_has_no_second_effect(store: StoreKind) {
    let mut world = World::new(store).await;
    let request = proto::CreateDeviceRequest {
        address: ADDRESS.into(),
        display_name: "Phone".into(),
        request_id: "a-request".into(),
        ..Default::default()
    };
    let (phone, password) = world.add_with(request.clone()).await;
    let status = world.devices.create_device(request.clone()).await.expect_err("done before");
    assert_eq!((status.code(), reason_of(&status).as_str()), (Code::AlreadyExists, "REQUEST_ALREADY_DONE"));
    let info = tonic_types::StatusExt::get_details_error_info(&status).expect("ErrorInfo");
    assert_eq!(info.metadata.get("device_id"), Some(&phone.device_id));
    assert_eq!(world.names().await, ["Phone"]);
    assert_eq!(world.reason(&password).await, Reason::Ok);

    for other in [
        proto::CreateDeviceRequest { display_name: "Laptop".into(), ..request.clone() },
        proto::CreateDeviceRequest { allowed_protocols: vec![proto::Protocol::Imap.into()], ..request },
    ] {
        let status = world.devices.create_device(other).await.expect_err("another call");
        assert_eq!((status.code(), reason_of(&status).as_str()), (Code::InvalidArgument, "REQUEST_ID_REUSED"));
    }

    let change = proto::ChangePasswordRequest {
        address: ADDRESS.into(),
        device_id: phone.device_id.clone(),
        request_id: "a-change".into(),
        ..Default::default()
    };
    let changed = world.devices.change_password(change.clone()).await.expect("changed").into_inner();
    let status = world.devices.change_password(change).await.expect_err("done before");
    assert_eq!(reason_of(&status), "REQUEST_ALREADY_DONE");
    assert_eq!(world.reason(&changed.password).await, Reason::Ok, "the first change still holds");
}

async fn a_mailbox_has_at_most_as_many_devices_as_set(store: StoreKind) {
    let mut world = World::with(store, &["--max-devices", "2"]).await;
    let (phone, _) = world.add("Phone").await;
    world.add("Laptop").await;
    let request = proto::CreateDeviceRequest { address: ADDRESS.into(), display_name: "Third".into(), ..Default::default() };
    let status = world.devices.create_device(request.clone()).await.expect_err("one too many");
    assert_eq!((status.code(), reason_of(&status).as_str()), (Code::FailedPrecondition, "TOO_MANY_DEVICES"));
    assert!(status.message().contains('2'), "names the bound: {}", status.message());
    world.disconnect(&phone).await;
    world.add_with(request).await;
}

async fn pages_show_each_device_once(store: StoreKind) {
    let mut world = World::new(store).await;
    for n in 0..5 {
        world.add(&format!("Device {n}")).await;
    }
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = proto::ListDevicesRequest {
            address: ADDRESS.into(),
            page_size: 2,
            page_token: page_token.clone(),
            show_disconnected: false,
        };
        let page = world.devices.list_devices(request).await.expect("a page").into_inner();
        names.extend(page.devices.into_iter().map(|device| device.display_name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["Device 0", "Device 1", "Device 2", "Device 3", "Device 4"]);
}

async fn the_trail_tells_who_did_what_and_each_devices_logins(store: StoreKind) {
    use proto::event::Type;
    let mut world = World::new(store).await;
    world.put_member("ada", proto::Role::Administrator).await;
    let request = proto::CreateDeviceRequest { address: ADDRESS.into(), display_name: "Phone".into(), ..Default::default() };
    let created = world.devices.create_device(crate::world::acting_as("ada", request)).await.expect("created").into_inner();
    let device_id = created.device.expect("a device").device_id;
    for _ in 0..3 {
        assert_eq!(world.reason(&created.password).await, Reason::Ok);
    }
    // The history is written behind: asked for until it is there.
    let list = proto::ListEventsRequest {
        scope: Some(proto::list_events_request::Scope::Address(ADDRESS.into())),
        ..Default::default()
    };
    let events = loop {
        let events = world.devices.list_events(list.clone()).await.expect("events").into_inner().events;
        if events.iter().any(|event| event.r#type() == Type::Login) {
            break events;
        }
        tokio::task::yield_now().await;
    };
    let types: Vec<_> = events.iter().map(proto::Event::r#type).collect();
    assert_eq!(types, [Type::Login, Type::DeviceCreated, Type::MailboxCreated], "newest first");
    let [login, creation, _] = &events[..] else { panic!("three events") };
    assert_eq!((creation.actor_user_id.as_str(), creation.device_display_name.as_str()), ("ada", "Phone"));
    assert!(!creation.caller.is_empty() && creation.peer.starts_with("127.0.0.1") && creation.revision > 0);
    let logins = login.logins.as_ref().expect("logins");
    assert_eq!((login.device_id.as_str(), logins.client_ip.as_str()), (device_id.as_str(), "192.0.2.1"));
    assert_eq!((logins.decision(), logins.frontend.as_str()), (proto::Decision::Allow, "imap1"));
    let listed = world.list().await.devices.remove(0);
    assert_eq!(listed.last_use.expect("it was used").client_ip, "192.0.2.1");
}

async fn a_mailbox_remembers_its_past_passwords(store: StoreKind) {
    let mut world = World::new(store).await;
    let chosen = "violet-anchor-breeze-47";
    let request = |name: &str| proto::CreateDeviceRequest {
        address: ADDRESS.into(),
        display_name: name.into(),
        password: chosen.into(),
        ..Default::default()
    };
    let (scanner, shown) = world.add_with(request("Scanner")).await;
    assert_eq!((shown.as_str(), scanner.kind()), ("", proto::DeviceKind::Chosen));
    let status = world.devices.create_device(request("Copy")).await.expect_err("in use");
    assert_eq!((status.code(), reason_of(&status).as_str()), (Code::InvalidArgument, "PASSWORD_ALREADY_USED"));
    assert_eq!(world.reason(chosen).await, Reason::Ok);
    world.disconnect(&scanner).await;
    assert_eq!(world.reason(chosen).await, Reason::DeviceDisconnected);
    let status = world.devices.create_device(request("Copy")).await.expect_err("remembered");
    assert_eq!(reason_of(&status), "PASSWORD_ALREADY_USED");
    // A generated one typed as chosen is no new password either.
    let (_, generated) = world.add("Phone").await;
    let request = proto::CreateDeviceRequest { password: generated.to_uppercase(), ..request("Copy") };
    let status = world.devices.create_device(request).await.expect_err("the phone's");
    assert_eq!(reason_of(&status), "PASSWORD_ALREADY_USED");
}
