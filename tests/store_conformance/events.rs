//! The audit trail and the history of logins, merged in an order that doesn't move under who pages
//! through it.

use std::{net::IpAddr, sync::Arc};

use latchkey::store::Store;
use latchkey_core::model::{
    device::LastUse,
    directory::Mailbox,
    event::{Event, EventKind, EventScope, LoginCount, LoginKey, TimeRange},
    protocol::Protocol,
    verdict::Reason,
};

use crate::{
    stores::rules,
    world::{
        ALL, add, alice, at, change, device, device_id, event, event_id, mail_service, mailbox, organization, organization_id,
        proof, read, service_id, user, write,
    },
};

rules!(
    an_event_is_read_as_it_was_written,
    events_and_logins_are_merged_newest_first_and_page_stably,
    logins_of_one_hour_are_counted_together,
    an_older_batch_turns_nothing_back,
    the_last_use_is_the_last_login_that_was_allowed,
    a_devices_events_are_its_own,
    a_mailboxs_events_are_its_own,
    events_are_listed_by_mail_service_and_organization,
    events_are_listed_within_a_time_range,
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
    read(store).await.events(&EventScope::Mailbox(mailbox.mailbox_id), TimeRange::default(), None, None, ALL).await.expect("read")
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
        let page = read(&store)
            .await
            .events(&EventScope::Mailbox(alice.mailbox_id), TimeRange::default(), None, after, 4)
            .await
            .expect("read");
        if page.is_empty() {
            break;
        }
        paged.extend(page);
        // What comes in between moves nothing: new ones are before the page, and a login counted on
        // stays where it is.
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
    let found = read(&store)
        .await
        .events(&EventScope::Mailbox(alice.mailbox_id), TimeRange::default(), Some(device_id(1)), None, ALL)
        .await
        .expect("read");
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

/// Of a mail service or an organization, all: `(scope, range)` is what is asked for.
async fn numbers(store: &Arc<dyn Store>, scope: EventScope, range: TimeRange) -> Vec<u128> {
    let found = read(store).await.events(&scope, range, None, None, ALL).await.expect("read");
    found.into_iter().map(|event| event.event_id.0.as_u128()).collect()
}

async fn events_are_listed_by_mail_service_and_organization(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    let mut tx = write(&store).await;
    tx.put_organization(&organization("other")).await.expect("an organization");
    tx.put_mail_service(&mail_service("second", "acme")).await.expect("a mail service");
    let of_none =
        |number: u128| Event { mailbox_id: None, mail_service_id: None, organization_id: None, ..event(number, &alice, at(1)) };
    let (first, acme) = (alice.mail_service_id.clone(), alice.organization_id.clone());
    let kind = EventKind::MemberAdded;
    tx.add_events(&[
        // What is left out is filled in from the mailbox, and from the mail service.
        Event { mailbox_id: Some(alice.mailbox_id), ..of_none(1) },
        Event { mail_service_id: Some(first.clone()), kind: EventKind::GenericLoginSwitchedOff, ..of_none(2) },
        Event {
            mail_service_id: Some(service_id("second")),
            kind: EventKind::RightGranted,
            user: Some(user("u2")),
            ..of_none(3)
        },
        Event { organization_id: Some(acme.clone()), kind, user: Some(user("u3")), ..of_none(4) },
        Event { organization_id: Some(organization_id("other")), kind, ..of_none(5) },
    ])
    .await
    .expect("written");
    tx.commit().await.expect("committed");
    store.add_logins(&[login(&alice, Some(1), 1)]).await.expect("added");

    let all = TimeRange::default();
    assert_eq!(numbers(&store, EventScope::Service(first.clone()), all).await, [2, 1]);
    assert_eq!(numbers(&store, EventScope::Service(service_id("second")), all).await, [3]);
    assert_eq!(numbers(&store, EventScope::Organization(acme.clone()), all).await, [4, 3, 2, 1]);
    let mut tx = write(&store).await;
    tx.delete_mailbox(alice.mailbox_id).await.expect("deleted");
    tx.commit().await.expect("committed");
    assert_eq!(numbers(&store, EventScope::Mailbox(alice.mailbox_id), all).await, [1], "its changes outlive it");
    assert_eq!(numbers(&store, EventScope::Service(first), all).await, [2, 1]);
    let found = read(&store).await.events(&EventScope::Organization(acme), all, None, None, ALL).await.expect("read");
    let place = |event: &Event| (event.mailbox_id, event.mail_service_id.clone(), event.user.clone());
    assert_eq!(place(&found[0]), (None, None, Some(user("u3"))));
    assert_eq!(place(&found[1]), (None, Some(service_id("second")), Some(user("u2"))));
    assert_eq!(place(&found[3]), (Some(alice.mailbox_id), Some(alice.mail_service_id), None));
    assert_eq!(found[3].organization_id, Some(alice.organization_id));
}

async fn events_are_listed_within_a_time_range(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    append(&store, &alice, (1..=5).map(|number| event(number, &alice, at(i64::try_from(number).expect("small")))).collect())
        .await;
    let between = |start: Option<i64>, end: Option<i64>| TimeRange { start: start.map(at), end: end.map(at) };
    let scopes = [
        EventScope::Mailbox(alice.mailbox_id),
        EventScope::Service(alice.mail_service_id.clone()),
        EventScope::Organization(alice.organization_id.clone()),
    ];
    for scope in scopes {
        assert_eq!(
            numbers(&store, scope.clone(), between(Some(2), Some(4))).await,
            [3, 2],
            "{scope:?}: from the start, to before the end"
        );
        assert_eq!(numbers(&store, scope.clone(), between(Some(4), None)).await, [5, 4], "{scope:?}");
        assert_eq!(numbers(&store, scope.clone(), between(None, Some(2))).await, [1], "{scope:?}");
        // A page begins after the last one's end, wherever the range ends.
        let mut tx = read(&store).await;
        let after = Some((at(3), event_id(3)));
        let page = tx.events(&scope, between(Some(2), Some(5)), None, after, 9).await.expect("read");
        assert_eq!(page.iter().map(|event| event.event_id).collect::<Vec<_>>(), [event_id(2)], "{scope:?}");
    }
}
