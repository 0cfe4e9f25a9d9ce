//! The change log: commit order is revision order, and what it tells is what was written.

use std::sync::Arc;

use latchkey::store::{Api, MadeBy, NewChange, NewRevocation, Store};
use latchkey_core::{
    log::Head,
    model::{
        change::{Change, Ended, Position, Revision, Scope, ServiceKey},
        event::{EventScope, TimeRange},
        verdict::Reason,
    },
};

use crate::{
    stores::rules,
    world::{ALL, NOW, add, alice, at, change, device, device_id, disconnect, event, proof, read, service_id, write},
};

rules!(
    revisions_have_no_gaps_and_none_appears_late,
    a_change_that_was_dropped_takes_no_revision,
    the_log_tells_what_was_appended,
    the_log_is_read_in_order_and_in_parts,
    the_head_tells_the_nonce_of_what_was_applied,
    a_change_sets_its_revision_in_its_events_and_in_what_it_ended,
    the_log_tells_who_may_ask_for_a_revocation_and_what_it_ended,
);

async fn revisions_have_no_gaps_and_none_appears_late(store: Arc<dyn Store>) {
    const WRITERS: u64 = 8;
    const EACH: u64 = 12;
    let alice = alice(&store).await;
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (store, alice) = (Arc::clone(&store), alice.clone());
            tokio::spawn(async move {
                let mut last = Revision::default();
                for number in 0..EACH {
                    let mut tx = write(&store).await;
                    let mut change = change(&alice, &[]);
                    change.events = vec![event(u128::from(writer * EACH + number + 1), &alice, NOW)];
                    let revision = tx.append_change(&change).await.expect("appended");
                    // Some are given up, and leave no gap.
                    if (writer + number) % 4 == 0 {
                        drop(tx);
                        continue;
                    }
                    tx.commit().await.expect("committed");
                    assert!(revision > last, "revisions are in commit order");
                    last = revision;
                }
            })
        })
        .collect();
    // Who follows the log sees each row once it knows of a head past it.
    let mut seen = Vec::new();
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
        follow(&*store, &mut seen).await;
    }
    for writer in writers {
        writer.await.expect("no panic");
    }
    follow(&*store, &mut seen).await;
    assert_eq!(seen.len() as u64, WRITERS * EACH * 3 / 4);
}

async fn follow(store: &dyn Store, seen: &mut Vec<u64>) {
    let after = Revision(seen.len() as u64);
    let head = store.head(after).await.expect("a head");
    let rows = store.changes(after, head.revision, ALL).await.expect("rows");
    seen.extend(rows.iter().map(|row| row.revision.0));
    let all: Vec<u64> = (1..=head.revision.0).collect();
    assert_eq!(*seen, all, "every revision up to the head is there, in order");
}

async fn a_change_that_was_dropped_takes_no_revision(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    let mut tx = write(&store).await;
    assert_eq!(tx.append_change(&change(&alice, &[])).await.expect("appended"), Revision(1));
    drop(tx);
    let mut tx = write(&store).await;
    assert_eq!(tx.append_change(&change(&alice, &[])).await.expect("appended"), Revision(1));
    assert_eq!(tx.revision().await.expect("read"), Revision(1), "seen from within");
    assert_eq!(read_revision(&store).await, 0, "not from outside");
    tx.commit().await.expect("committed");
    assert_eq!(read_revision(&store).await, 1);
}

async fn read_revision(store: &Arc<dyn Store>) -> u64 {
    store.head(Revision(0)).await.expect("a head").revision.0
}

async fn the_log_tells_what_was_appended(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    let of_mailboxes = change(&alice, &[(device_id(1), 1), (device_id(2), u32::MAX)]);
    let key = ServiceKey(u64::MAX - 1);
    let of_service = NewChange { scope: Scope::Service(key), ended: vec![], nonce: i64::MAX, ..of_mailboxes.clone() };
    let of_none = NewChange { scope: Scope::Mailboxes(vec![]), ..of_service.clone() };
    for change in [&of_mailboxes, &of_service, &of_none] {
        let mut tx = write(&store).await;
        tx.append_change(change).await.expect("appended");
        tx.commit().await.expect("committed");
    }
    let told = |revision, NewChange { nonce, scope, ended, .. }| Change { revision: Revision(revision), nonce, scope, ended };
    let rows = store.changes(Revision(0), Revision(3), ALL).await.expect("rows");
    assert_eq!(rows, [told(1, of_mailboxes), told(2, of_service), told(3, of_none)]);
    assert_eq!(rows[0].ended[1], Ended { device_id: device_id(2), generation: u32::MAX, reason: Reason::DeviceDisconnected });
    assert_ne!(ServiceKey::of(&service_id("mail")), key);
}

async fn the_log_tells_who_may_ask_for_a_revocation_and_what_it_ended(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    let organization_id = Some(alice.organization_id.clone());
    let of_service = MadeBy {
        api: Api::DeviceCredentials,
        organization_id: organization_id.clone(),
        mail_service_id: Some(alice.mail_service_id.clone()),
    };
    let of_organization = MadeBy { api: Api::Directory, organization_id, mail_service_id: None };
    let of_nobody = MadeBy { api: Api::Directory, organization_id: None, mail_service_id: None };
    let ended = [(device_id(1), 1), (device_id(2), 1)];
    let made = [Some((of_service, 7)), Some((of_organization, 0)), Some((of_nobody, u32::MAX)), None];
    let mut changes = vec![];
    for made in made {
        let revocation = made.map(|(made_by, ended_devices)| NewRevocation { made_by, ended_devices });
        let change = NewChange { revocation, ..change(&alice, &ended) };
        let mut tx = write(&store).await;
        tx.append_change(&change).await.expect("appended");
        tx.commit().await.expect("committed");
        changes.push(change);
    }
    for (revision, NewChange { nonce, revocation, .. }) in (1..).map(Revision).zip(changes) {
        let logged = read(&store).await.logged(revision).await.expect("read").expect("it is there");
        assert_eq!(logged.position, Position { revision, nonce });
        let (made_by, ended_devices) =
            revocation.map_or((None, 2), |NewRevocation { made_by, ended_devices }| (Some(made_by), ended_devices));
        assert_eq!((logged.made_by, logged.ended_devices), (made_by, ended_devices));
    }
    assert_eq!(read(&store).await.logged(Revision(9)).await.expect("read"), None);
}

async fn the_log_is_read_in_order_and_in_parts(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    let mut tx = write(&store).await;
    for _ in 0..5 {
        tx.append_change(&change(&alice, &[])).await.expect("appended");
    }
    tx.commit().await.expect("committed");
    let revisions = async |after, up_to, limit| {
        let rows = store.changes(Revision(after), Revision(up_to), limit).await.expect("rows");
        rows.into_iter().map(|row| row.revision.0).collect::<Vec<_>>()
    };
    assert_eq!(revisions(0, 5, 3).await, [1, 2, 3]);
    assert_eq!(revisions(3, 5, 3).await, [4, 5]);
    assert_eq!(revisions(1, 3, ALL).await, [2, 3]);
    assert!(revisions(5, 9, ALL).await.is_empty());
}

async fn the_head_tells_the_nonce_of_what_was_applied(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    let nothing = Head { revision: Revision(0), nonce: 0, trimmed: Revision(0), applied_nonce: None };
    assert_eq!(store.head(Revision(0)).await.expect("a head"), nothing);
    let appended = change(&alice, &[]);
    let mut tx = write(&store).await;
    tx.append_change(&appended).await.expect("appended");
    tx.commit().await.expect("committed");
    let head = Head { revision: Revision(1), nonce: appended.nonce, ..nothing };
    assert_eq!(store.head(Revision(0)).await.expect("a head"), head, "there is no row 0");
    assert_eq!(store.head(Revision(1)).await.expect("a head"), Head { applied_nonce: Some(appended.nonce), ..head });
    assert_eq!(store.head(Revision(2)).await.expect("a head"), head, "another history's");
}

async fn a_change_sets_its_revision_in_its_events_and_in_what_it_ended(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    for number in 1..=2 {
        add(&store, &device(number, &alice), &proof(1)).await;
    }
    disconnect(&store, &alice, device_id(1), 1, NOW).await;
    let mut tx = write(&store).await;
    tx.disconnect_device(device_id(2), at(1)).await.expect("disconnected");
    let mut second = change(&alice, &[(device_id(2), 1)]);
    second.events = vec![event(1, &alice, NOW), event(2, &alice, NOW)];
    let revision = tx.append_change(&second).await.expect("appended");
    tx.commit().await.expect("committed");
    let mut tx = read(&store).await;
    let devices = tx.devices(alice.mailbox_id, None, ALL, true).await.expect("read");
    let ends: Vec<_> = devices.iter().filter_map(|device| device.disconnection).map(|end| end.revision).collect();
    assert_eq!(ends, [Revision(1), revision]);
    let events = tx.events(&EventScope::Mailbox(alice.mailbox_id), TimeRange::default(), None, None, ALL).await.expect("read");
    assert_eq!(events.iter().map(|event| event.revision).collect::<Vec<_>>(), [revision, revision]);
}
