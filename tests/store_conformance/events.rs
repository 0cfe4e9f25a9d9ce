//! The audit trail and the history of logins, merged in an order that doesn't move under who pages through it.

use std::{net::IpAddr, sync::Arc};

use latchkey::store::Store;
use latchkey_core::model::{
    device::LastUse,
    directory::Mailbox,
    event::{Event, EventKind, LoginCount, LoginKey},
    protocol::Protocol,
    verdict::Reason,
};

use crate::{
    stores::rules,
    world::{ALL, add, alice, at, change, device, device_id, event, mailbox, proof, read, write},
};

rules!(
    an_event_is_read_as_it_was_written,
    events_and_logins_are_merged_newest_first_and_page_stably,
    logins_of_one_hour_are_counted_together,
    an_older_batch_turns_nothing_back,
    the_last_use_is_the_last_login_that_was_allowed,
    a_devices_events_are_its_own,
    a_mailboxs_events_are_its_own,
);

/// An allowed login over IMAP.
pub fn login(mailbox: &Mailbox, device: Option<u128>, second: i64) -> LoginCount {
    let time = at(second);
    let client_ip: Option<IpAddr> = Some([192, 0, 2, 1].into());
    LoginCount {
        key: LoginKey {
            mailbox_id: mailbox.mailbox_id,
            device_id: device.map(device_id),
            reason: if device.is_some() { Reason::Ok } else { Reason::WrongPassword },
            protocol: Protocol::Imap,
            client_ip: device.and(client_ip),
            hour: time.unix_seconds().div_euclid(3_600),
        },
        last_client_ip: client_ip,
        frontend: "imap1".into(),
        count: 1,
        first_time: time,
        last_time: time,
    }
}

async fn append(store: &Arc<dyn Store>, mailbox: &Mailbox, events: Vec<Event>) {
    let mut tx = write(store).await;
    let mut change = change(mailbox, &[]);
    change.events = events;
    tx.append_change(&change).await.expect("appended");
    tx.commit().await.expect("committed");
}

async fn trail(store: &Arc<dyn Store>, mailbox: &Mailbox) -> Vec<Event> {
    read(store).await.events(mailbox.mailbox_id, None, None, ALL).await.expect("read")
}

async fn an_event_is_read_as_it_was_written(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    let kinds = EventKind::ALL.into_iter().filter(|kind| *kind != EventKind::Login);
    let mut events: Vec<Event> = (1..)
        .zip(kinds)
        .map(|(number, kind)| Event {
            kind,
            device_id: (number % 2 == 0).then(|| device_id(number)),
            detail: "the \"reason\", in français".to_owned(),
            ..event(number, &alice, at(i64::try_from(number).expect("small")))
        })
        .collect();
    append(&store, &alice, events.clone()).await;
    events.reverse();
    for event in &mut events {
        event.revision.0 = 1;
    }
    assert_eq!(trail(&store, &alice).await, events);
}

async fn events_and_logins_are_merged_newest_first_and_page_stably(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    // Several of one moment: their ids settle the order.
    append(
        &store,
        &alice,
        (1..=9).map(|number| event(number, &alice, at(i64::try_from(number / 3).expect("small") * 10))).collect(),
    )
    .await;
    let logins: Vec<_> =
        [0, 10, 10, 20, 30].into_iter().zip(1..).map(|(second, device)| login(&alice, Some(device), second)).collect();
    store.add_logins(&logins).await.expect("added");
    let all = trail(&store, &alice).await;
    assert_eq!(all.len(), 14);
    assert!(all.windows(2).all(|pair| (pair[0].time, pair[0].event_id) > (pair[1].time, pair[1].event_id)), "{all:?}");
    let mut paged: Vec<Event> = Vec::new();
    loop {
        let after = paged.last().map(|event| (event.time, event.event_id));
        let page = read(&store).await.events(alice.mailbox_id, None, after, 4).await.expect("read");
        if page.is_empty() {
            break;
        }
        paged.extend(page);
        // What comes in between moves nothing: new ones are before the page, and a login counted on stays where it is.
        append(&store, &alice, vec![event(100 + paged.len() as u128, &alice, at(100))]).await;
        store.add_logins(&logins).await.expect("added");
    }
    let places = |events: &[Event]| events.iter().map(|event| (event.time, event.event_id)).collect::<Vec<_>>();
    assert_eq!(places(&paged), places(&all));
}

async fn logins_of_one_hour_are_counted_together(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    let first = LoginCount { count: 3, last_time: at(5), ..login(&alice, Some(1), 1) };
    store.add_logins(&[first]).await.expect("added");
    let before = trail(&store, &alice).await;
    let last_ip: IpAddr = "2001:db8::7".parse().expect("an address");
    let second = LoginCount { count: 2, last_client_ip: Some(last_ip), frontend: "imap2".into(), ..login(&alice, Some(1), 60) };
    let wrong = login(&alice, None, 61);
    let next_hour = login(&alice, Some(1), 7_200);
    store.add_logins(&[second, wrong, next_hour]).await.expect("added");
    let trail = trail(&store, &alice).await;
    let counted: Vec<_> = trail
        .iter()
        .map(|event| (event.time, event.device_id, event.logins.as_ref().map(|logins| (logins.count, logins.reason))))
        .collect();
    let one = Some(device_id(1));
    assert_eq!(
        counted,
        [
            (at(7_200), one, Some((1, Reason::Ok))),
            (at(61), None, Some((1, Reason::WrongPassword))),
            (at(1), one, Some((5, Reason::Ok)))
        ]
    );
    assert_eq!(trail[2].event_id, before[0].event_id, "it stays the same entry");
    let logins = trail[2].logins.as_ref().expect("logins");
    assert_eq!((logins.last_time, logins.client_ip, &*logins.frontend), (at(60), Some(last_ip), "imap2"));
    assert_eq!((trail[2].kind, trail[2].revision.0, logins.protocol), (EventKind::Login, 0, Protocol::Imap));
}

/// Two replicas write behind: the later write may tell of the earlier login.
async fn an_older_batch_turns_nothing_back(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    add(&store, &device(1, &alice), &proof(1)).await;
    let newer = LoginCount { frontend: "newer".into(), ..login(&alice, Some(1), 60) };
    let older =
        LoginCount { frontend: "older".into(), last_client_ip: Some([198, 51, 100, 1].into()), ..login(&alice, Some(1), 30) };
    store.add_logins(std::slice::from_ref(&newer)).await.expect("added");
    store.add_logins(&[older]).await.expect("added");
    let trail = trail(&store, &alice).await;
    let logins = trail[0].logins.as_ref().expect("logins");
    assert_eq!(logins.count, 2);
    assert_eq!((logins.last_time, &*logins.frontend, logins.client_ip), (at(60), "newer", newer.last_client_ip));
    let device = read(&store).await.device(alice.mailbox_id, device_id(1)).await.expect("read").expect("it is there");
    assert_eq!(device.last_use.map(|used| used.time), Some(at(60)));
}

async fn the_last_use_is_the_last_login_that_was_allowed(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    add(&store, &device(1, &alice), &proof(1)).await;
    let last_use = async || {
        read(&store).await.device(alice.mailbox_id, device_id(1)).await.expect("read").and_then(|device| device.last_use)
    };
    assert_eq!(last_use().await, None);
    let denied = login(&alice, Some(1), 9);
    let denied = LoginCount { key: LoginKey { reason: Reason::ProtocolNotAllowed, ..denied.key.clone() }, ..denied };
    let mut allowed = login(&alice, Some(1), 5);
    allowed.key.protocol = Protocol::Smtp;
    store.add_logins(&[allowed, denied]).await.expect("added");
    let expected = LastUse { time: at(5), client_ip: Some([192, 0, 2, 1].into()), protocol: Protocol::Smtp };
    assert_eq!(last_use().await, Some(expected));
    let unknown = LoginCount { last_client_ip: None, ..login(&alice, Some(1), 6) };
    store.add_logins(&[unknown]).await.expect("added");
    assert_eq!(last_use().await, Some(LastUse { time: at(6), client_ip: None, protocol: Protocol::Imap }));
}

async fn a_devices_events_are_its_own(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    let of = |number, device| Event { device_id: device, ..event(number, &alice, at(1)) };
    append(&store, &alice, vec![of(1, Some(device_id(1))), of(2, Some(device_id(2))), of(3, None)]).await;
    store.add_logins(&[login(&alice, Some(1), 2), login(&alice, Some(2), 3), login(&alice, None, 4)]).await.expect("added");
    let found = read(&store).await.events(alice.mailbox_id, Some(device_id(1)), None, ALL).await.expect("read");
    let kinds: Vec<_> = found.iter().map(|event| (event.device_id, event.kind)).collect();
    assert_eq!(kinds, [(Some(device_id(1)), EventKind::Login), (Some(device_id(1)), EventKind::DeviceUpdated)]);
}

async fn a_mailboxs_events_are_its_own(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    let bob = mailbox(2, "bob@example.com", "mail");
    append(&store, &alice, vec![event(1, &alice, at(1)), event(2, &bob, at(1))]).await;
    store.add_logins(&[login(&bob, None, 1)]).await.expect("added");
    assert_eq!((trail(&store, &alice).await.len(), trail(&store, &bob).await.len()), (1, 2));
}
