//! The import: a batch at a time, whole or not at all.

use std::sync::Arc;

use latchkey::store::{NewMailbox, Origin, Store, StoreError};
use latchkey_core::model::{
    change::{Revision, Scope},
    device::{DeviceKind, KeyId, PasswordHash, Tag},
    event::{EventKind, EventScope, TimeRange},
    id::DeviceId,
};
use uuid::Uuid;

use crate::{
    stores::rules,
    world::{ALL, NOW, address, alice, device_id, mailbox_id, read, service_id, user},
};

rules!(
    an_imported_mailbox_has_its_generic_password,
    an_import_said_again_makes_nothing,
    an_import_skips_what_is_there_and_makes_the_rest,
    an_address_twice_in_a_batch_is_made_once,
    an_import_is_all_or_nothing,
    a_batch_is_one_row_of_the_log,
);

fn new(number: u128, with_password: bool) -> NewMailbox {
    let address = address(&format!("user{number}@example.com"));
    NewMailbox {
        mailbox_id: mailbox_id(number),
        key: address.key(),
        address,
        mail_service_id: service_id("mail"),
        generic: with_password.then(|| (DeviceId(Uuid::from_u128(number + 1_000)), PasswordHash(format!("{{SSHA}}{number}")))),
    }
}

fn origin() -> Origin {
    Origin { actor: "u1".to_owned(), caller: "operator".to_owned(), peer: "192.0.2.9".to_owned(), time: NOW, nonce: 77 }
}

async fn head(store: &Arc<dyn Store>) -> u64 {
    store.head(Revision(0)).await.expect("a head").revision.0
}

async fn an_imported_mailbox_has_its_generic_password(store: Arc<dyn Store>) {
    alice(&store).await;
    let (with, without) = (new(10, true), new(11, false));
    assert_eq!(store.import(&[with.clone(), without.clone()], &origin()).await.expect("imported"), [true, true]);
    let record = store.read_mailbox(&with.address).await.expect("read").mailbox.expect("it was made");
    let [credential] = &*record.active else { panic!("{record:?}") };
    assert_eq!((credential.device_id, credential.generation, credential.kind), (device_id(1_010), 1, DeviceKind::Generic));
    assert_eq!((credential.tag, credential.key), (Tag::Unknown, KeyId(0)));
    assert!(record.generic_login && !record.suspended && credential.limits.is_none());
    assert_eq!(store.read_hash(device_id(1_010), 1).await.expect("read"), Some(PasswordHash("{SSHA}10".to_owned())));
    let bare = store.read_mailbox(&without.address).await.expect("read").mailbox.expect("it was made");
    assert!(bare.active.is_empty());
    let mut tx = read(&store).await;
    let made = tx.mailbox(&with.address).await.expect("read").expect("it was made");
    assert_eq!((made.mailbox_id, made.device_version, made.create_time), (with.mailbox_id, 1, NOW));
    let device = &tx.devices(with.mailbox_id, None, ALL, true).await.expect("listed")[0];
    assert_eq!((device.name.as_str(), device.create_time), (latchkey::store::GENERIC_NAME, NOW));
    assert_ne!(device.user, Some(user("u1")));
    let events = tx.events(&EventScope::Mailbox(with.mailbox_id), TimeRange::default(), None, None, ALL).await.expect("read");
    let [event] = &events[..] else { panic!("{events:?}") };
    assert_eq!((event.kind, event.time, event.revision, event.device_id), (EventKind::MailboxImported, NOW, Revision(1), None));
    assert_eq!((&*event.actor, &*event.caller, &*event.peer), ("u1", "operator", "192.0.2.9"));
}

async fn an_import_said_again_makes_nothing(store: Arc<dyn Store>) {
    alice(&store).await;
    let batch: Vec<_> = (10..20).map(|number| new(number, true)).collect();
    store.import(&batch, &origin()).await.expect("imported");
    // Said again, the caller has made new ids.
    let again: Vec<_> =
        batch.iter().zip(100..).map(|(first, number)| NewMailbox { mailbox_id: mailbox_id(number), ..first.clone() }).collect();
    assert_eq!(store.import(&again, &origin()).await.expect("imported"), vec![false; 10]);
    assert_eq!(head(&store).await, 1, "and tells nobody");
    let mut tx = read(&store).await;
    let mailboxes = tx.mailboxes(&service_id("mail"), None, ALL).await.expect("listed");
    assert_eq!(mailboxes.len(), 11);
    assert!(mailboxes.iter().all(|mailbox| mailbox.mailbox_id.0.as_u128() < 100), "the first stay");
    assert_eq!(
        tx.events(&EventScope::Mailbox(mailbox_id(10)), TimeRange::default(), None, None, ALL).await.expect("read").len(),
        1
    );
    assert_eq!(store.import(&[], &origin()).await.expect("imported"), Vec::<bool>::new());
}

async fn an_import_skips_what_is_there_and_makes_the_rest(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    let taken = NewMailbox { address: alice.address.clone(), key: alice.address.key(), ..new(10, true) };
    assert_eq!(store.import(&[new(11, true), taken, new(12, false)], &origin()).await.expect("imported"), [true, false, true]);
    let record = store.read_mailbox(&alice.address).await.expect("read").mailbox.expect("alice is there");
    assert!(record.mailbox_id == alice.mailbox_id && record.active.is_empty(), "whoever was there stays as they were");
    assert_eq!(store.read_hash(device_id(1_010), 1).await.expect("read"), None);
}

async fn an_address_twice_in_a_batch_is_made_once(store: Arc<dyn Store>) {
    alice(&store).await;
    let twice = NewMailbox { address: new(10, true).address, key: new(10, true).key, ..new(11, true) };
    assert_eq!(store.import(&[new(10, true), twice], &origin()).await.expect("imported"), [true, false]);
    let record = store.read_mailbox(&new(10, true).address).await.expect("read").mailbox.expect("it was made");
    assert_eq!((record.mailbox_id, record.active.len()), (mailbox_id(10), 1));
}

async fn an_import_is_all_or_nothing(store: Arc<dyn Store>) {
    alice(&store).await;
    let broken = NewMailbox { mail_service_id: service_id("none"), ..new(12, true) };
    let refused = store.import(&[new(10, true), new(11, true), broken], &origin()).await;
    assert!(matches!(refused, Err(StoreError::Conflict(_))), "{refused:?}");
    // A device's id that is in use, found after the mailboxes were made.
    let same_device = NewMailbox { generic: new(10, true).generic, ..new(13, true) };
    let refused = store.import(&[new(10, true), same_device], &origin()).await;
    assert!(matches!(refused, Err(StoreError::Conflict(_))), "{refused:?}");
    assert_eq!(head(&store).await, 0);
    assert_eq!(read(&store).await.mailboxes(&service_id("mail"), None, ALL).await.expect("listed").len(), 1);
    assert_eq!(store.read_hash(device_id(1_010), 1).await.expect("read"), None);
}

async fn a_batch_is_one_row_of_the_log(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    let taken = NewMailbox { address: alice.address.clone(), key: alice.address.key(), ..new(10, true) };
    let batch: Vec<_> = (11..15).map(|number| new(number, number % 2 == 0)).chain([taken]).collect();
    store.import(&batch, &origin()).await.expect("imported");
    let rows = store.changes(Revision(0), Revision(9), ALL).await.expect("rows");
    let [row] = &rows[..] else { panic!("{rows:?}") };
    // "No such mailbox" may be cached: those that were made end that, and only those.
    assert_eq!(row.scope, Scope::Mailboxes(batch[..4].iter().map(|new| new.key).collect()));
    assert_eq!((row.nonce, row.ended.len()), (77, 0));
}
