//! What a login reads.

use std::sync::Arc;

use latchkey::store::Store;
use latchkey_core::model::{
    address::Address,
    change::{Revision, ServiceKey},
    device::{Device, DeviceKind, KeyId, Limits, PasswordHash, StoredPassword, Tag},
    directory::{Mailbox, Member, Role},
    network::Networks,
    protocol::{Protocol, Protocols},
    record::{EndReason, MailboxRecord},
};

use crate::{
    stores::rules,
    world::{
        add, address, alice, at, change, device, device_id, disconnect, index, mail_service, mailbox, organization,
        organization_id, proof, service_id, user, write,
    },
};

rules!(
    an_unknown_address_still_tells_the_head,
    a_record_is_what_a_login_needs,
    a_generic_password_needs_both_switches,
    passwords_are_in_the_order_that_they_are_tried,
    ended_passwords_are_remembered_newest_first_and_not_too_many,
    a_devices_limits_are_read_as_they_were_written,
    a_suspended_member_is_known_by_their_devices_in_their_organization_alone,
    a_hash_is_read_by_its_generation,
    a_better_form_takes_the_place_of_the_one_it_was_made_from_alone,
);

async fn record(store: &Arc<dyn Store>, address: &Address) -> MailboxRecord {
    store.read_mailbox(address).await.expect("read").mailbox.expect("the mailbox is there")
}

async fn an_unknown_address_still_tells_the_head(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    let mut tx = write(&store).await;
    tx.append_change(&change(&alice, &[])).await.expect("appended");
    tx.commit().await.expect("committed");
    let read = store.read_mailbox(&address("nobody@example.com")).await.expect("read");
    assert_eq!((read.revision, read.mailbox), (Revision(1), None));
}

async fn a_record_is_what_a_login_needs(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    let bare = record(&store, &alice.address).await;
    assert!(bare.active.is_empty() && bare.ended.is_empty());
    assert_eq!((bare.mailbox_id, bare.suspended, bare.generic_login), (alice.mailbox_id, false, true));
    assert_eq!(bare.service, ServiceKey::of(&service_id("mail")));
    add(&store, &Device { kind: DeviceKind::Chosen, ..device(1, &alice) }, &index(9, "hash")).await;
    let mut tx = write(&store).await;
    tx.update_mailbox(&Mailbox { suspended: true, ..alice.clone() }).await.expect("suspended");
    tx.commit().await.expect("committed");
    let record = record(&store, &alice.address).await;
    assert!(record.suspended);
    let [credential] = &*record.active else { panic!("{record:?}") };
    assert_eq!((credential.device_id, credential.generation, credential.kind), (device_id(1), 1, DeviceKind::Chosen));
    assert_eq!((credential.tag, credential.key), (Tag::Index { salt: 9, value: 7 }, KeyId(1)));
    assert!(credential.limits.is_none() && !credential.user_suspended);
}

async fn a_generic_password_needs_both_switches(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    for (of_service, of_mailbox) in [(true, false), (false, true), (false, false), (true, true)] {
        let mut tx = write(&store).await;
        tx.set_generic_login(&service_id("mail"), of_service).await.expect("switched");
        tx.update_mailbox(&Mailbox { generic_login: of_mailbox, ..alice.clone() }).await.expect("updated");
        tx.commit().await.expect("committed");
        assert_eq!(record(&store, &alice.address).await.generic_login, of_service && of_mailbox);
    }
}

/// By tag salt, highest first: see `passwords::tag`.
async fn passwords_are_in_the_order_that_they_are_tried(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    let unknown = StoredPassword { tag: Tag::Unknown, key: KeyId(0), hash: Some(PasswordHash("legacy".to_owned())) };
    add(&store, &device(1, &alice), &index(3, "low")).await;
    add(&store, &device(2, &alice), &unknown).await;
    add(&store, &device(3, &alice), &index(200, "high")).await;
    add(&store, &device(4, &alice), &proof(5)).await;
    add(&store, &device(5, &alice), &index(40, "middle")).await;
    let record = record(&store, &alice.address).await;
    let salts: Vec<u8> = record
        .active
        .iter()
        .filter_map(|device| if let Tag::Index { salt, .. } = device.tag { Some(salt) } else { None })
        .collect();
    assert_eq!((record.active.len(), salts), (5, vec![200, 40, 3]));
}

async fn ended_passwords_are_remembered_newest_first_and_not_too_many(store: Arc<dyn Store>) {
    const DEVICES: u32 = 25;
    let alice = alice(&store).await;
    for number in 1..=DEVICES {
        add(&store, &device(number.into(), &alice), &proof(1)).await;
        disconnect(&store, &alice, device_id(number.into()), 1, at(number.into())).await;
    }
    add(&store, &device(100, &alice), &proof(2)).await;
    let mut tx = write(&store).await;
    let changed = Device { generation: 2, ..device(100, &alice) };
    tx.replace_password(&changed, &proof(3), at(100)).await.expect("replaced");
    tx.commit().await.expect("committed");
    let record = record(&store, &alice.address).await;
    assert_eq!(
        record.active.iter().map(|device| (device.device_id, device.generation)).collect::<Vec<_>>(),
        [(device_id(100), 2)]
    );
    assert_eq!(record.ended.len(), 20);
    assert_eq!(
        (record.ended[0].device_id, record.ended[0].generation, record.ended[0].end),
        (device_id(100), 1, EndReason::Changed)
    );
    let rest: Vec<_> = record.ended[1..].iter().map(|password| (password.device_id, password.end)).collect();
    let expected = (7..=DEVICES).rev().map(|number| (device_id(number.into()), EndReason::Disconnected));
    assert_eq!(rest, expected.collect::<Vec<_>>());
}

async fn a_devices_limits_are_read_as_they_were_written(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    let limits = Limits {
        protocols: Protocols::from_iter([Protocol::Imap, Protocol::Sieve]),
        networks: Networks::parse("networks", &["192.0.2.0/24", "2001:db8::/32"]).expect("good ones"),
        expire_time: Some(at(60)),
    };
    add(&store, &Device { limits: limits.clone(), ..device(1, &alice) }, &proof(1)).await;
    assert_eq!(record(&store, &alice.address).await.active[0].limits.as_deref(), Some(&limits));
}

async fn a_suspended_member_is_known_by_their_devices_in_their_organization_alone(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    let bob = mailbox(2, "bob@example.com", "other");
    let mut tx = write(&store).await;
    tx.put_organization(&organization("rival")).await.expect("put");
    tx.put_mail_service(&mail_service("other", "rival")).await.expect("put");
    tx.insert_mailbox(&bob).await.expect("put");
    for (number, mailbox, owner) in [(1, &alice, Some("u1")), (2, &alice, Some("u2")), (3, &alice, None), (4, &bob, Some("u1"))] {
        tx.insert_device(&Device { user: owner.map(user), ..device(number, mailbox) }, &proof(1)).await.expect("inserted");
    }
    let member = Member { organization_id: organization_id("acme"), user: user("u1"), role: Role::Collaborator, suspended: true };
    tx.put_member(&member).await.expect("put");
    tx.put_member(&Member { user: user("u2"), suspended: false, ..member }).await.expect("put");
    tx.commit().await.expect("committed");
    let suspended = async |mailbox: &Mailbox| {
        let record = record(&store, &mailbox.address).await;
        record.active.iter().filter(|device| device.user_suspended).map(|device| device.device_id).collect::<Vec<_>>()
    };
    assert_eq!(suspended(&alice).await, [device_id(1)]);
    assert_eq!(suspended(&bob).await, []);
}

async fn a_hash_is_read_by_its_generation(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    add(&store, &device(1, &alice), &index(1, "first")).await;
    add(&store, &device(2, &alice), &proof(1)).await;
    let mut tx = write(&store).await;
    tx.replace_password(&Device { generation: 2, ..device(1, &alice) }, &index(1, "second"), at(1)).await.expect("replaced");
    tx.commit().await.expect("committed");
    let hash = async |device, generation| store.read_hash(device_id(device), generation).await.expect("read").map(|hash| hash.0);
    assert_eq!(hash(1, 1).await.as_deref(), Some("first"), "remembered");
    assert_eq!(hash(1, 2).await.as_deref(), Some("second"));
    assert_eq!(hash(1, 3).await, None, "there is none yet");
    assert_eq!(hash(2, 1).await, None, "a generated password has none");
}

async fn a_better_form_takes_the_place_of_the_one_it_was_made_from_alone(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    add(&store, &device(1, &alice), &index(1, "weak")).await;
    let upgraded = async |before: Option<&str>, after: &str| {
        let (before, after) = (before.map(|hash| PasswordHash(hash.to_owned())), index(2, after));
        store.upgrade_password(device_id(1), 1, before.as_ref(), &after, &change(&alice, &[])).await.expect("asked")
    };
    assert_eq!(upgraded(Some("other"), "strong").await, None, "it changed meanwhile");
    assert_eq!(upgraded(None, "strong").await, None, "there was one");
    assert_eq!(store.head(Revision(0)).await.expect("a head").revision, Revision(0), "nothing happened");
    assert_eq!(upgraded(Some("weak"), "strong").await, Some(Revision(1)));
    let read = store.read_mailbox(&alice.address).await.expect("read");
    assert_eq!(read.revision, Revision(1), "caches are told");
    assert_eq!(read.mailbox.expect("alice is there").active[0].tag, Tag::Index { salt: 2, value: 7 });
    assert_eq!(store.read_hash(device_id(1), 1).await.expect("read"), Some(PasswordHash("strong".to_owned())));
    disconnect(&store, &alice, device_id(1), 1, at(1)).await;
    assert_eq!(upgraded(Some("strong"), "stronger").await, None, "it has ended");
}
