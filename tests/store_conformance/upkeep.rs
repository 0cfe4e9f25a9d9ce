//! What is forgotten in time, what is remembered, and what an operator is told.

use std::sync::Arc;

use latchkey::store::{Request, Retention, Store, StoreError};
use latchkey_core::model::{
    change::Revision,
    clock::Timestamp,
    device::{Device, KeyId},
    event::{EventScope, TimeRange},
    id::RequestId,
};

use crate::{
    events::login,
    stores::{Fresh, Place, rules},
    world::{ALL, NOW, add, alice, at, change, device, device_id, disconnect, index, read, write},
};

rules!(
    the_log_is_trimmed_up_to_its_newest_row,
    remembered_passwords_are_forgotten_by_age,
    remembered_passwords_are_forgotten_beyond_the_newest_of_a_mailbox,
    each_trim_finds_the_passwords_that_ended_since_the_last,
    passwords_that_ended_together_are_not_all_forgotten,
    old_requests_and_logins_are_forgotten,
    much_is_forgotten_in_one_trim,
    a_request_is_remembered_for_its_caller,
    a_pepper_keys_check_value_is_put_once,
    an_operator_is_told_of_the_database,
);

/// Nothing is past its time.
const KEEP_ALL: Retention = Retention {
    changes_before: Timestamp(0),
    passwords_before: Timestamp(0),
    passwords_per_mailbox: 20,
    requests_before: Timestamp(0),
    logins_before: Timestamp(0),
};

async fn the_log_is_trimmed_up_to_its_newest_row(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    let nothing = Retention { changes_before: at(100), ..KEEP_ALL };
    assert_eq!(store.trim(&nothing).await.expect("trimmed"), 0, "an empty log");
    for second in 1..=5 {
        let mut tx = write(&store).await;
        tx.append_change(&latchkey::store::NewChange { time: at(second), ..change(&alice, &[]) }).await.expect("appended");
        tx.commit().await.expect("committed");
    }
    let left = async || {
        store.changes(Revision(0), Revision(9), ALL).await.expect("rows").iter().map(|row| row.revision.0).collect::<Vec<_>>()
    };
    assert_eq!(store.trim(&KEEP_ALL).await.expect("trimmed"), 0);
    assert_eq!(left().await, [1, 2, 3, 4, 5]);
    assert_eq!(store.trim(&Retention { changes_before: at(3), ..KEEP_ALL }).await.expect("trimmed"), 2);
    assert_eq!((left().await, store.head(Revision(3)).await.expect("a head").trimmed), (vec![3, 4, 5], Revision(2)));
    // The newest tells one history from another: it is never too old.
    assert_eq!(store.trim(&nothing).await.expect("trimmed"), 2);
    let head = store.head(Revision(5)).await.expect("a head");
    assert_eq!((left().await, head.trimmed, head.revision), (vec![5], Revision(4), Revision(5)));
    assert!(head.applied_nonce.is_some());
}

async fn remembered_passwords_are_forgotten_by_age(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    for number in 1..=3 {
        add(&store, &device(number, &alice), &index(1, "secret")).await;
    }
    disconnect(&store, &alice, device_id(1), 1, at(1)).await;
    disconnect(&store, &alice, device_id(2), 1, at(2)).await;
    let mut tx = write(&store).await;
    tx.replace_password(&Device { generation: 2, ..device(3, &alice) }, &index(1, "new secret"), at(1)).await.expect("replaced");
    tx.commit().await.expect("committed");
    assert_eq!(store.trim(&Retention { passwords_before: at(2), ..KEEP_ALL }).await.expect("trimmed"), 2);
    let record = store.read_mailbox(&alice.address).await.expect("read").mailbox.expect("alice is there");
    assert_eq!(record.active.len(), 1, "the living stay");
    assert_eq!(record.ended.iter().map(|password| password.device_id).collect::<Vec<_>>(), [device_id(2)]);
    let hash = async |device, generation| store.read_hash(device_id(device), generation).await.expect("read").is_some();
    assert_eq!((hash(1, 1).await, hash(2, 1).await, hash(3, 1).await, hash(3, 2).await), (false, true, false, true));
    let devices = read(&store).await.devices(alice.mailbox_id, None, ALL, true).await.expect("listed");
    assert_eq!(devices.len(), 3, "that there was such a device is still known");
    assert_eq!(store.trim(&Retention { passwords_before: at(2), ..KEEP_ALL }).await.expect("trimmed"), 0, "once");
}

async fn remembered_passwords_are_forgotten_beyond_the_newest_of_a_mailbox(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    let bob = crate::world::mailbox(2, "bob@example.com", "mail");
    let mut tx = write(&store).await;
    tx.insert_mailbox(&bob).await.expect("put");
    tx.commit().await.expect("committed");
    for (mailbox, numbers) in [(&alice, 1..=5), (&bob, 11..=12)] {
        for number in numbers {
            add(&store, &device(number, mailbox), &index(1, "secret")).await;
            disconnect(&store, mailbox, device_id(number), 1, at(i64::try_from(number).expect("small"))).await;
        }
    }
    assert_eq!(store.trim(&Retention { passwords_per_mailbox: 3, ..KEEP_ALL }).await.expect("trimmed"), 2);
    let remembered = async |address| {
        let record = store.read_mailbox(address).await.expect("read").mailbox.expect("it is there");
        record.ended.iter().map(|password| password.device_id).collect::<Vec<_>>()
    };
    assert_eq!(remembered(&alice.address).await, [device_id(5), device_id(4), device_id(3)]);
    assert_eq!(remembered(&bob.address).await, [device_id(12), device_id(11)], "each mailbox has its own");
}

async fn each_trim_finds_the_passwords_that_ended_since_the_last(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    let limits = Retention { passwords_per_mailbox: 2, ..KEEP_ALL };
    let remembered = async || {
        let record = store.read_mailbox(&alice.address).await.expect("read").mailbox.expect("it is there");
        record.ended.iter().map(|password| password.device_id).collect::<Vec<_>>()
    };
    let end = async |number: u128, second| {
        add(&store, &device(number, &alice), &index(1, "secret")).await;
        disconnect(&store, &alice, device_id(number), 1, at(second)).await;
    };
    end(1, 10_000).await;
    end(2, 10_001).await;
    assert_eq!(store.trim(&limits).await.expect("trimmed"), 0);
    end(3, 20_000).await;
    assert_eq!(store.trim(&limits).await.expect("trimmed"), 1);
    assert_eq!(remembered().await, [device_id(3), device_id(2)]);
    // Committed by a replica whose clock is behind.
    end(4, 19_500).await;
    assert_eq!(store.trim(&limits).await.expect("trimmed"), 1);
    assert_eq!(remembered().await, [device_id(3), device_id(4)]);
    assert_eq!(store.trim(&limits).await.expect("trimmed"), 0);
}

async fn passwords_that_ended_together_are_not_all_forgotten(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    let mut tx = write(&store).await;
    for number in 1..=6 {
        tx.insert_device(&device(number, &alice), &index(1, "secret")).await.expect("inserted");
        assert!(tx.disconnect_device(device_id(number), at(1)).await.expect("disconnected"));
    }
    tx.commit().await.expect("committed");
    assert_eq!(store.trim(&Retention { passwords_per_mailbox: 4, ..KEEP_ALL }).await.expect("trimmed"), 2);
    let record = store.read_mailbox(&alice.address).await.expect("read").mailbox.expect("it is there");
    assert_eq!(record.ended.len(), 4);
}

/// The log's trim fails, and what comes after it is forgotten all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_trim_that_fails_stops_no_other() {
    for fresh in [Fresh::sqlite().await, Fresh::postgres().await] {
        let store = fresh.open().await;
        let alice = alice(&store).await;
        let mut tx = write(&store).await;
        for second in 1..=2 {
            tx.append_change(&latchkey::store::NewChange { time: at(second), ..change(&alice, &[]) }).await.expect("appended");
        }
        tx.insert_request("manager", &request_id("old"), &Request { time: at(-7_200), ..request() }).await.expect("remembered");
        tx.commit().await.expect("committed");
        let broken = "ALTER TABLE session_closing RENAME TO gone";
        match &fresh.place {
            Place::Sqlite(folder) => {
                let file = rusqlite::Connection::open(folder.join("latchkey.db")).expect("it opens");
                file.execute_batch(broken).expect("renamed");
            }
            Place::Postgres(url) => {
                let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("it runs");
                tokio::spawn(connection);
                client.batch_execute(broken).await.expect("renamed");
            }
        }
        store
            .trim(&Retention { changes_before: at(9), requests_before: at(-60), ..KEEP_ALL })
            .await
            .expect_err("the log's fails");
        assert_eq!(read(&store).await.request("manager", &request_id("old")).await.expect("read"), None, "{}", store.system());
    }
}

async fn old_requests_and_logins_are_forgotten(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    let mut tx = write(&store).await;
    for (id, time) in [("old", at(-7_200)), ("new", NOW)] {
        tx.insert_request("manager", &request_id(id), &Request { time, ..request() }).await.expect("remembered");
    }
    tx.commit().await.expect("committed");
    store.add_logins(&[login(&alice, Some(1), -7_200), login(&alice, Some(1), 0)]).await.expect("added");
    let limits = Retention { requests_before: at(-60), logins_before: at(-60), ..KEEP_ALL };
    assert_eq!(store.trim(&limits).await.expect("trimmed"), 2);
    let mut tx = read(&store).await;
    assert_eq!(tx.request("manager", &request_id("old")).await.expect("read"), None);
    assert!(tx.request("manager", &request_id("new")).await.expect("read").is_some());
    let events = tx.events(&EventScope::Mailbox(alice.mailbox_id), TimeRange::default(), None, None, ALL).await.expect("read");
    assert_eq!(events.iter().map(|event| event.time).collect::<Vec<_>>(), [NOW]);
}

/// More than goes in one transaction, which must not hold others up for long.
async fn much_is_forgotten_in_one_trim(store: Arc<dyn Store>) {
    const MANY: u64 = 6_000;
    let mut tx = write(&store).await;
    for number in 0..MANY {
        tx.insert_request("manager", &request_id(&number.to_string()), &request()).await.expect("remembered");
    }
    tx.commit().await.expect("committed");
    let limits = Retention { requests_before: at(1), ..KEEP_ALL };
    assert_eq!(store.trim(&limits).await.expect("trimmed"), MANY);
}

async fn a_request_is_remembered_for_its_caller(store: Arc<dyn Store>) {
    let full = Request { device_id: Some(device_id(1)), count: u32::MAX, ..request() };
    let mut tx = write(&store).await;
    tx.insert_request("manager", &request_id("r1"), &full).await.expect("remembered");
    tx.insert_request("operator", &request_id("r1"), &request()).await.expect("another caller's");
    tx.commit().await.expect("committed");
    let mut tx = write(&store).await;
    assert_eq!(tx.request("manager", &request_id("r1")).await.expect("read"), Some(full));
    assert_eq!(tx.request("operator", &request_id("r1")).await.expect("read"), Some(request()));
    assert_eq!(tx.request("manager", &request_id("r2")).await.expect("read"), None);
    let refused = tx.insert_request("manager", &request_id("r1"), &request()).await;
    assert!(matches!(refused, Err(StoreError::Conflict(_))), "{refused:?}");
}

fn request() -> Request {
    Request { fingerprint: [9; 16], device_id: None, revision: Revision(4), count: 0, time: NOW }
}

fn request_id(id: &str) -> RequestId {
    RequestId::from_store(id.to_owned())
}

async fn a_pepper_keys_check_value_is_put_once(store: Arc<dyn Store>) {
    store.add_pepper_check(KeyId(2), [2; 32]).await.expect("put");
    store.add_pepper_check(KeyId(u16::MAX), [1; 32]).await.expect("put");
    let refused = store.add_pepper_check(KeyId(2), [3; 32]).await;
    assert!(matches!(refused, Err(StoreError::Conflict(_))), "{refused:?}");
    assert_eq!(store.pepper_checks().await.expect("read"), [(KeyId(2), [2; 32]), (KeyId(u16::MAX), [1; 32])]);
}

async fn an_operator_is_told_of_the_database(store: Arc<dyn Store>) {
    store.ping().await.expect("it answers");
    let findings = store.examine().await.expect("examined");
    let database = findings.iter().find(|finding| finding.what == "database").expect("which it is");
    assert!(database.found.to_lowercase().contains(store.system()) && database.advice.is_none(), "{database:?}");
}
