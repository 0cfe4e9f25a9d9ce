//! Devices: a row for each password, the last generation being the device.

use std::sync::Arc;

use latchkey::store::{Store, StoreError, UserPlace};
use latchkey_core::model::{
    device::{Device, DeviceKind, DeviceName, Disconnection, Limits},
    directory::Mailbox,
    id::DeviceId,
    network::Networks,
    protocol::{Protocol, Protocols},
};

use crate::{
    stores::rules,
    world::{
        ALL, add, alice, at, device, device_id, disconnect, mail_service, mailbox, mailbox_id, organization, organization_id,
        proof, read, service_id, user, write,
    },
};

rules!(
    a_device_is_read_as_it_was_written,
    devices_are_listed_oldest_first_and_in_pages,
    a_changed_password_keeps_its_device,
    a_disconnected_device_is_gone_from_the_list_and_still_known,
    a_disconnected_device_gets_no_new_password,
    a_password_is_never_put_twice_in_one_generation,
    an_update_touches_name_user_and_limits_alone,
    the_devices_of_a_person_are_found_by_mailbox_service_and_organization,
);

async fn listed(store: &Arc<dyn Store>, mailbox: &Mailbox, disconnected_too: bool) -> Vec<Device> {
    read(store).await.devices(mailbox.mailbox_id, None, ALL, disconnected_too).await.expect("listed")
}

fn limited() -> Limits {
    Limits {
        protocols: Protocols::from_iter([Protocol::Pop3]),
        networks: Networks::parse("networks", &["2001:db8::1"]).expect("a good one"),
        expire_time: Some(at(9)),
    }
}

async fn a_device_is_read_as_it_was_written(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    let full = Device {
        name: DeviceName::from_store("Zoë's \"téléphone\"; DROP TABLE device; -- 📱".to_owned()),
        kind: DeviceKind::Chosen,
        user: Some(user("u1")),
        limits: limited(),
        ..device(1, &alice)
    };
    add(&store, &full, &proof(1)).await;
    let mut tx = read(&store).await;
    assert_eq!(tx.device(alice.mailbox_id, device_id(1)).await.expect("read"), Some(full));
    assert_eq!(tx.device(mailbox_id(9), device_id(1)).await.expect("read"), None, "another mailbox's");
    assert_eq!(tx.device(alice.mailbox_id, device_id(9)).await.expect("read"), None);
}

async fn devices_are_listed_oldest_first_and_in_pages(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    for number in [5, 3, 1, 4, 2] {
        add(&store, &device(number, &alice), &proof(1)).await;
    }
    let bob = mailbox(2, "bob@example.com", "mail");
    let mut tx = write(&store).await;
    tx.insert_mailbox(&bob).await.expect("put");
    tx.insert_device(&device(9, &bob), &proof(1)).await.expect("inserted");
    tx.commit().await.expect("committed");
    let mut tx = read(&store).await;
    let mut pages = Vec::new();
    let mut after: Option<DeviceId> = None;
    loop {
        let page = tx.devices(alice.mailbox_id, after, 2, false).await.expect("listed");
        let Some(last) = page.last() else { break };
        after = Some(last.device_id);
        pages.push(page.iter().map(|device| device.device_id).collect::<Vec<_>>());
    }
    assert_eq!(pages, [vec![device_id(1), device_id(2)], vec![device_id(3), device_id(4)], vec![device_id(5)]]);
    assert_eq!(tx.count_active_devices(alice.mailbox_id).await.expect("counted"), 5);
}

async fn a_changed_password_keeps_its_device(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    add(&store, &device(1, &alice), &proof(1)).await;
    let mut changed = device(1, &alice);
    for generation in 2..=4 {
        changed = Device { generation, kind: DeviceKind::Chosen, ..changed };
        let mut tx = write(&store).await;
        tx.replace_password(&changed, &proof(2), at(generation.into())).await.expect("replaced");
        tx.commit().await.expect("committed");
    }
    assert_eq!(listed(&store, &alice, false).await, [changed.clone()]);
    assert_eq!(listed(&store, &alice, true).await, [changed.clone()]);
    let mut tx = read(&store).await;
    assert_eq!(tx.device(alice.mailbox_id, device_id(1)).await.expect("read"), Some(changed));
    assert_eq!(tx.count_active_devices(alice.mailbox_id).await.expect("counted"), 1);
}

async fn a_disconnected_device_is_gone_from_the_list_and_still_known(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    for number in 1..=2 {
        add(&store, &device(number, &alice), &proof(1)).await;
    }
    let revision = disconnect(&store, &alice, device_id(1), 1, at(3)).await;
    let gone = Device { disconnection: Some(Disconnection { time: at(3), revision }), ..device(1, &alice) };
    assert_eq!(listed(&store, &alice, false).await, [device(2, &alice)]);
    assert_eq!(listed(&store, &alice, true).await, [gone.clone(), device(2, &alice)]);
    let mut tx = write(&store).await;
    assert!(!tx.disconnect_device(device_id(1), at(5)).await.expect("asked"), "it was no more");
    assert!(!tx.disconnect_device(device_id(9), at(5)).await.expect("asked"), "it never was");
    tx.commit().await.expect("committed");
    let mut tx = read(&store).await;
    assert_eq!(tx.device(alice.mailbox_id, device_id(1)).await.expect("read"), Some(gone), "as of the first time");
    assert_eq!(tx.count_active_devices(alice.mailbox_id).await.expect("counted"), 1);
}

async fn a_disconnected_device_gets_no_new_password(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    add(&store, &device(1, &alice), &proof(1)).await;
    disconnect(&store, &alice, device_id(1), 1, at(1)).await;
    let mut tx = write(&store).await;
    let refused = tx.replace_password(&Device { generation: 2, ..device(1, &alice) }, &proof(2), at(2)).await;
    assert!(matches!(refused, Err(StoreError::Conflict(_))), "{refused:?}");
    drop(tx);
    assert_eq!(listed(&store, &alice, false).await, []);
}

async fn a_password_is_never_put_twice_in_one_generation(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    add(&store, &device(1, &alice), &proof(1)).await;
    let mut tx = write(&store).await;
    let refused = tx.insert_device(&device(1, &alice), &proof(2)).await;
    assert!(matches!(refused, Err(StoreError::Conflict(_))), "{refused:?}");
    drop(tx);
    let mut tx = write(&store).await;
    let refused = tx.replace_password(&device(1, &alice), &proof(2), at(1)).await;
    assert!(matches!(refused, Err(StoreError::Conflict(_))), "{refused:?}");
}

async fn an_update_touches_name_user_and_limits_alone(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    for number in 1..=3 {
        add(&store, &device(number, &alice), &proof(1)).await;
    }
    disconnect(&store, &alice, device_id(3), 1, at(1)).await;
    let named = |number| Device {
        name: DeviceName::from_store("Tablet".to_owned()),
        user: Some(user("u1")),
        limits: limited(),
        ..device(number, &alice)
    };
    let mut tx = write(&store).await;
    for number in [1, 3] {
        let more = Device { kind: DeviceKind::Generic, create_time: at(50), ..named(number) };
        tx.update_device(&more).await.expect("updated");
    }
    tx.commit().await.expect("committed");
    assert_eq!(listed(&store, &alice, false).await, [named(1), device(2, &alice)]);
    let gone = &listed(&store, &alice, true).await[2];
    assert_eq!((gone.name.as_str(), &gone.user), ("Device 3", &None), "a disconnected one stays as it was");
    let mut tx = write(&store).await;
    tx.update_device(&device(1, &alice)).await.expect("updated");
    tx.commit().await.expect("committed");
    assert_eq!(listed(&store, &alice, false).await[0], device(1, &alice), "and back to nothing");
}

async fn the_devices_of_a_person_are_found_by_mailbox_service_and_organization(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    let bob = mailbox(2, "bob@example.com", "mail");
    let carol = mailbox(3, "carol@example.com", "second");
    let dave = mailbox(4, "dave@example.com", "foreign");
    let mut tx = write(&store).await;
    tx.put_mail_service(&mail_service("second", "acme")).await.expect("put");
    tx.put_organization(&organization("rival")).await.expect("put");
    tx.put_mail_service(&mail_service("foreign", "rival")).await.expect("put");
    for (number, mailbox) in (2..).zip([&bob, &carol, &dave]) {
        tx.insert_mailbox(mailbox).await.expect("put");
        tx.insert_device(&Device { user: Some(user("u1")), ..device(number, mailbox) }, &proof(1)).await.expect("inserted");
    }
    for (number, owner) in [(1, Some("u1")), (5, Some("u2")), (6, None), (7, Some("u1"))] {
        tx.insert_device(&Device { user: owner.map(user), ..device(number, &alice) }, &proof(1)).await.expect("inserted");
    }
    tx.commit().await.expect("committed");
    disconnect(&store, &alice, device_id(7), 1, at(1)).await;
    let found = async |place| {
        let found = read(&store).await.devices_of_user(&user("u1"), &place).await.expect("found");
        found.into_iter().map(|(address, device)| (address.to_string(), device.device_id)).collect::<Vec<_>>()
    };
    let of = |number: u128, name: &str| (format!("{name}@example.com"), device_id(number));
    assert_eq!(found(UserPlace::Mailbox(alice.mailbox_id)).await, [of(1, "alice")]);
    assert_eq!(found(UserPlace::Service(service_id("mail"))).await, [of(1, "alice"), of(2, "bob")]);
    assert_eq!(found(UserPlace::Organization(organization_id("acme"))).await, [of(1, "alice"), of(2, "bob"), of(3, "carol")]);
    assert_eq!(found(UserPlace::Organization(organization_id("none"))).await, []);
}
