//! Mailboxes.

use std::sync::Arc;

use latchkey::store::{Store, StoreError};
use latchkey_core::model::{
    device::{Device, DeviceKind},
    directory::Mailbox,
    event::{EventKind, EventScope, TimeRange},
};

use crate::{
    events::login,
    stores::rules,
    world::{
        ALL, NOW, add, address, alice, change, device, event, mail_service, mailbox, mailbox_id, organization, organization_id,
        proof, read, service_id, write,
    },
};

rules!(
    a_mailbox_is_read_with_its_services_organization_and_switch,
    an_address_is_taken_once,
    a_mailbox_needs_its_mail_service,
    mailboxes_are_listed_by_address_and_in_pages,
    a_lock_counts_the_version_up,
    a_mailbox_moves_with_all_it_has,
    a_deleted_mailbox_leaves_its_events_alone,
    it_is_known_where_a_mailbox_was,
    generic_passwords_of_a_mail_service_are_counted_up_to_a_limit,
);

async fn a_mailbox_is_read_with_its_services_organization_and_switch(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    assert_eq!(read(&store).await.mailbox(&alice.address).await.expect("read"), Some(alice.clone()));
    let mut tx = write(&store).await;
    tx.put_organization(&organization("rival")).await.expect("put");
    tx.put_mail_service(&mail_service("mail", "rival")).await.expect("put");
    tx.set_generic_login(&service_id("mail"), false).await.expect("switched");
    tx.commit().await.expect("committed");
    let moved = Mailbox { organization_id: organization_id("rival"), service_generic_login: false, ..alice.clone() };
    assert_eq!(read(&store).await.mailbox(&alice.address).await.expect("read"), Some(moved));
    assert_eq!(read(&store).await.mailbox(&address("nobody@example.com")).await.expect("read"), None);
}

async fn it_is_known_where_a_mailbox_was(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    let place = async |id| read(&store).await.last_place_of_mailbox(id).await.expect("read");
    let was = Some(Some((organization_id("acme"), service_id("mail"))));
    assert_eq!(place(alice.mailbox_id).await, was);
    let mut tx = write(&store).await;
    let mut change = change(&alice, &[]);
    change.events = vec![event(1, &alice, NOW)];
    assert!(tx.delete_mailbox(alice.mailbox_id).await.expect("deleted"));
    tx.append_change(&change).await.expect("appended");
    tx.commit().await.expect("committed");
    assert_eq!(place(alice.mailbox_id).await, was, "by its last event");
    assert_eq!(place(mailbox_id(9)).await, None);
}

async fn generic_passwords_of_a_mail_service_are_counted_up_to_a_limit(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    let mut tx = write(&store).await;
    tx.put_mail_service(&mail_service("other", "acme")).await.expect("put");
    let bob = mailbox(2, "bob@example.com", "mail");
    let barred = Mailbox { generic_login: false, ..mailbox(3, "barred@example.com", "mail") };
    let elsewhere = mailbox(4, "elsewhere@example.com", "other");
    for mailbox in [&bob, &barred, &elsewhere] {
        tx.insert_mailbox(mailbox).await.expect("inserted");
    }
    for (number, mailbox) in (1..).zip([&alice, &bob, &barred, &elsewhere]) {
        let generic = Device { kind: DeviceKind::Generic, ..device(number, mailbox) };
        tx.insert_device(&generic, &proof(1)).await.expect("inserted");
        tx.insert_device(&device(number + 10, mailbox), &proof(2)).await.expect("inserted");
    }
    tx.commit().await.expect("committed");
    let count = async |limit| read(&store).await.count_generic_devices(&service_id("mail"), limit).await.expect("counted");
    assert_eq!((count(10).await, count(1).await), (2, 1));
}

async fn an_address_is_taken_once(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    let mut tx = write(&store).await;
    let refused = tx.insert_mailbox(&mailbox(2, "alice@example.com", "mail")).await;
    assert!(matches!(refused, Err(StoreError::Conflict(_))), "{refused:?}");
    drop(tx);
    assert_eq!(read(&store).await.mailbox(&alice.address).await.expect("read"), Some(alice));
}

async fn a_mailbox_needs_its_mail_service(store: Arc<dyn Store>) {
    alice(&store).await;
    let mut tx = write(&store).await;
    let refused = tx.insert_mailbox(&mailbox(2, "bob@example.com", "none")).await;
    assert!(matches!(refused, Err(StoreError::Conflict(_))), "{refused:?}");
    drop(tx);
    let refused = write(&store).await.delete_mail_service(&service_id("mail")).await;
    assert!(matches!(refused, Err(StoreError::Conflict(_))), "{refused:?}");
}

async fn mailboxes_are_listed_by_address_and_in_pages(store: Arc<dyn Store>) {
    alice(&store).await;
    let mut tx = write(&store).await;
    tx.put_mail_service(&mail_service("second", "acme")).await.expect("put");
    // By their bytes, whatever the database's language: the order that pages are cut in must not
    // depend on it.
    let addresses =
        ["zoe@example.com", "b-c@example.com", "ba@example.com", "b.d@example.com", "zoë@example.com", "zof@example.com"];
    for (number, at_address) in (2..).zip(addresses) {
        tx.insert_mailbox(&mailbox(number, at_address, "mail")).await.expect("put");
    }
    tx.insert_mailbox(&mailbox(20, "elsewhere@example.com", "second")).await.expect("put");
    tx.commit().await.expect("committed");
    let mut expected: Vec<String> = addresses.iter().map(ToString::to_string).chain(["alice@example.com".to_owned()]).collect();
    expected.sort();
    let mut tx = read(&store).await;
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let page = tx.mailboxes(&service_id("mail"), after.as_ref(), 2).await.expect("listed");
        let Some(last) = page.last() else { break };
        after = Some(last.address.clone());
        found.extend(page.iter().map(|mailbox| mailbox.address.to_string()));
    }
    assert_eq!(found, expected);
}

async fn a_lock_counts_the_version_up(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    for version in 2..=3 {
        let mut tx = write(&store).await;
        let locked = tx.lock_mailbox(&alice.address).await.expect("locked");
        assert_eq!(locked, Some(Mailbox { device_version: version, ..alice.clone() }));
        tx.commit().await.expect("committed");
    }
    let mut tx = write(&store).await;
    assert_eq!(tx.lock_mailbox(&address("nobody@example.com")).await.expect("asked"), None);
    tx.lock_mailbox(&alice.address).await.expect("locked");
    drop(tx);
    let seen = read(&store).await.mailbox(&alice.address).await.expect("read").expect("alice is there");
    assert_eq!(seen.device_version, 3, "what was given up counts nothing");
}

async fn a_mailbox_moves_with_all_it_has(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    add(&store, &device(1, &alice), &proof(1)).await;
    let mut tx = write(&store).await;
    tx.put_mail_service(&mail_service("second", "acme")).await.expect("put");
    let moved = Mailbox { mail_service_id: service_id("second"), suspended: true, generic_login: false, ..alice.clone() };
    // Not what an update writes.
    tx.update_mailbox(&Mailbox { device_version: 70, create_time: latchkey_core::model::clock::Timestamp(1), ..moved.clone() })
        .await
        .expect("updated");
    tx.commit().await.expect("committed");
    let mut tx = read(&store).await;
    assert_eq!(tx.mailbox(&alice.address).await.expect("read"), Some(moved.clone()));
    assert_eq!(tx.mailboxes(&service_id("mail"), None, ALL).await.expect("listed"), []);
    assert_eq!(tx.mailboxes(&service_id("second"), None, ALL).await.expect("listed"), [moved]);
    assert_eq!(tx.count_active_devices(alice.mailbox_id).await.expect("counted"), 1);
}

async fn a_deleted_mailbox_leaves_its_events_alone(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    add(&store, &device(1, &alice), &proof(1)).await;
    store.add_logins(&[login(&alice, Some(1), 1)]).await.expect("added");
    let mut tx = write(&store).await;
    assert!(tx.delete_mailbox(alice.mailbox_id).await.expect("deleted"));
    assert!(!tx.delete_mailbox(alice.mailbox_id).await.expect("asked"), "it is gone");
    assert!(!tx.delete_mailbox(mailbox_id(9)).await.expect("asked"), "it never was");
    let mut gone = change(&alice, &[]);
    gone.events = vec![event(1, &alice, NOW)];
    tx.append_change(&gone).await.expect("appended");
    // Made again under the same address: another mailbox, with nothing of the first.
    let again = mailbox(2, "alice@example.com", "mail");
    tx.insert_mailbox(&again).await.expect("the address is free");
    tx.commit().await.expect("committed");
    let record = store.read_mailbox(&alice.address).await.expect("read").mailbox.expect("it is there again");
    assert!(record.mailbox_id == again.mailbox_id && record.active.is_empty() && record.ended.is_empty());
    let mut tx = read(&store).await;
    let events = tx.events(&EventScope::Mailbox(alice.mailbox_id), TimeRange::default(), None, None, ALL).await.expect("read");
    assert_eq!(events.iter().map(|event| event.kind).collect::<Vec<_>>(), [EventKind::DeviceUpdated], "the logins are gone");
    assert_eq!(tx.events(&EventScope::Mailbox(again.mailbox_id), TimeRange::default(), None, None, ALL).await.expect("read"), []);
    assert_eq!(
        tx.device(alice.mailbox_id, latchkey_core::model::id::DeviceId(uuid::Uuid::from_u128(1))).await.expect("read"),
        None
    );
}
