//! What is refused at the door, with the field and its bound. Nothing is done by halves.

use latchkey::proto::{self, Protocol};
use tonic::{Code, Status};

use crate::{
    server::StoreKind,
    world::{ADDRESS, SERVICE, World, attempt, field_of, on_each_store},
};

on_each_store!(every_field_is_held_to_its_bound,);

fn refused(what: &str, status: &Status, field: &str) {
    assert_eq!((status.code(), field_of(status).as_str()), (Code::InvalidArgument, field), "{what}: {status:?}");
    assert!(!status.message().is_empty());
}

async fn every_field_is_held_to_its_bound(store: StoreKind) {
    let mut world = World::new(store).await;
    logins(&mut world).await;
    devices(&mut world).await;
    provisioning(&mut world).await;
    assert!(world.names().await.is_empty(), "nothing was done");
}

async fn logins(world: &mut World) {
    let good = attempt(ADDRESS, "x");
    let long = format!("{}@example.com", "a".repeat(250));
    for address in ["", "alice", "a@b@c", "@example.com", "alice@", "a b@example.com", "a\u{0}b@example.com", &long] {
        let request = proto::AuthenticateRequest { address: address.into(), ..good.clone() };
        refused(address, &world.logins.authenticate(request).await.expect_err(address), "address");
    }
    for password in [vec![], vec![b'a'; 1_025]] {
        let request = proto::AuthenticateRequest { password, ..good.clone() };
        refused("password", &world.logins.authenticate(request).await.expect_err("password"), "password");
    }
    for protocol in [0, 99, -1] {
        let request = proto::AuthenticateRequest { protocol, ..good.clone() };
        refused("protocol", &world.logins.authenticate(request).await.expect_err("protocol"), "protocol");
    }
    for client_ip in ["nowhere", "192.0.2.1:143", "192.0.2.0/24"] {
        let request = proto::AuthenticateRequest { client_ip: client_ip.into(), ..good.clone() };
        refused("client_ip", &world.logins.authenticate(request).await.expect_err(client_ip), "client_ip");
    }
    let request = proto::AuthenticateRequest { frontend: "f".repeat(65), ..good };
    refused("frontend", &world.logins.authenticate(request).await.expect_err("frontend"), "frontend");
}

async fn devices(world: &mut World) {
    let good = proto::CreateDeviceRequest { address: ADDRESS.into(), display_name: "Phone".into(), ..Default::default() };
    let long_name = "ü".repeat(65);
    let cases: Vec<(proto::CreateDeviceRequest, &str)> = vec![
        (proto::CreateDeviceRequest { display_name: "  ".into(), ..good.clone() }, "display_name"),
        (proto::CreateDeviceRequest { display_name: long_name, ..good.clone() }, "display_name"),
        (proto::CreateDeviceRequest { display_name: "a\nb".into(), ..good.clone() }, "display_name"),
        (proto::CreateDeviceRequest { user_id: "white space".into(), ..good.clone() }, "user_id"),
        (proto::CreateDeviceRequest { user_id: "u".repeat(129), ..good.clone() }, "user_id"),
        (proto::CreateDeviceRequest { allowed_protocols: vec![Protocol::Imap.into(), 77], ..good.clone() }, "allowed_protocols"),
        (proto::CreateDeviceRequest { allowed_networks: vec!["10.0.0.0/33".into()], ..good.clone() }, "allowed_networks"),
        (proto::CreateDeviceRequest { allowed_networks: vec!["10.0.0.1".into(); 33], ..good.clone() }, "allowed_networks"),
        (
            proto::CreateDeviceRequest { expire_time: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }), ..good.clone() },
            "expire_time",
        ),
        (
            proto::CreateDeviceRequest {
                expire_time: Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 }),
                ..good.clone()
            },
            "expire_time",
        ),
        (proto::CreateDeviceRequest { request_id: "r".repeat(65), ..good.clone() }, "request_id"),
        (proto::CreateDeviceRequest { address: String::new(), ..good.clone() }, "address"),
    ];
    for (request, field) in cases {
        let what = format!("{request:?}");
        refused(&what, &world.devices.create_device(request).await.expect_err(&what), field);
    }
    let list = proto::ListDevicesRequest { address: ADDRESS.into(), ..Default::default() };
    for page_size in [-1, 1_001] {
        let request = proto::ListDevicesRequest { page_size, ..list.clone() };
        refused("page_size", &world.devices.list_devices(request).await.expect_err("page_size"), "page_size");
    }
    let request = proto::ListDevicesRequest { page_token: "made up".into(), ..list };
    refused("page_token", &world.devices.list_devices(request).await.expect_err("page_token"), "page_token");
    let request = proto::DisconnectAllDevicesRequest { address: ADDRESS.into(), etag: "made up".into(), ..Default::default() };
    refused("etag", &world.devices.disconnect_all_devices(request).await.expect_err("etag"), "etag");
    for device_id in ["", "7", "not-a-uuid"] {
        let request = proto::GetDeviceRequest { address: ADDRESS.into(), device_id: device_id.into() };
        refused("device_id", &world.devices.get_device(request).await.expect_err("device_id"), "device_id");
    }
    let request = proto::UpdateDeviceRequest {
        address: ADDRESS.into(),
        device_id: "0192f0c0-0000-7000-8000-000000000000".into(),
        update_mask: Some(prost_types::FieldMask { paths: vec!["kind".into()] }),
        ..Default::default()
    };
    refused("update_mask", &world.devices.update_device(request).await.expect_err("update_mask"), "update_mask");
    let request = proto::DisconnectUserDevicesRequest { user_id: "u".into(), ..Default::default() };
    refused("scope", &world.devices.disconnect_user_devices(request).await.expect_err("scope"), "scope");
    for revocation_id in ["", "made up", "0000000000000000", "00000000000000000000000000000000"] {
        let request = proto::AwaitRevocationRequest { revocation_id: revocation_id.into(), max_wait: None };
        let refusal = world.devices.await_revocation(request).await.expect_err(revocation_id);
        refused(revocation_id, &refusal, "revocation_id");
    }
    for max_wait in [prost_types::Duration { seconds: -1, nanos: 0 }, prost_types::Duration { seconds: 601, nanos: 0 }] {
        let request = proto::DisconnectDeviceRequest {
            address: ADDRESS.into(),
            device_id: "0192f0c0-0000-7000-8000-000000000000".into(),
            max_wait: Some(max_wait),
            ..Default::default()
        };
        refused("max_wait", &world.devices.disconnect_device(request).await.expect_err("max_wait"), "max_wait");
    }
}

async fn provisioning(world: &mut World) {
    let mut directory = world.server.directory().await;
    let request = proto::PutMemberRequest { organization_id: "acme".into(), user_id: "u".into(), role: 9, ..Default::default() };
    refused("role", &directory.put_member(request).await.expect_err("role"), "role");
    let request = proto::PutOrganizationRequest { organization_id: "a b".into(), display_name: String::new() };
    refused("organization_id", &directory.put_organization(request).await.expect_err("id"), "organization_id");
    let request = proto::PutOrganizationRequest { organization_id: "a".into(), display_name: "n".repeat(129) };
    refused("display_name", &directory.put_organization(request).await.expect_err("name"), "display_name");
    for hash in ["plain", "{MD5}abc", "$1$salt$hash", "{SSHA}!", "$6$rounds=99999999$a$b", "$2y$31$short", &"x".repeat(600)] {
        let request = proto::PutMailboxRequest {
            address: "other@example.com".into(),
            mail_service_id: SERVICE.into(),
            generic_password_hash: hash.into(),
            max_wait: None,
        };
        let status = directory.put_mailbox(request).await.expect_err(hash);
        refused(hash, &status, "generic_password_hash");
    }
}
