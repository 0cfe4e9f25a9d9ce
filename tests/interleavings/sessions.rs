//! A session that opens while the change that ends its password arrives: at the replica, and at the
//! mail host.

use shuttle::{sync::Arc, thread};
use uuid::Uuid;

use crate::{
    downstream::{Hello, Message, Opened, StreamKey, test_stream::Watch},
    explore::explore,
    host::{Host, NAME},
    model::{
        change::Revision,
        clock::Timestamp,
        protocol::Protocol,
        session::OpenSession,
        verdict::{Reason, Session},
    },
    replica::Replica,
};

const RUNS: usize = 3_000;
const NUMBER: u64 = 7;

#[test]
fn a_session_whose_password_ends_as_it_opens_is_closed_or_counted_by_the_change_and_never_missed() {
    explore(
        || {
            let replica = Replica::new();
            let hello =
                Hello { name: NAME.to_owned(), id: Uuid::from_u128(1), resume: None, observes: false, key: StreamKey([1; 16]) };
            let watch = Watch::open(replica.watchers(), hello).expect("there is room");
            let opening = {
                let replica = Arc::clone(&replica);
                thread::spawn(move || {
                    let password = replica.password;
                    let session = Session { password, revision: Revision(1), address: replica.address.clone() };
                    let shown = OpenSession {
                        password,
                        protocol: Protocol::Imap,
                        client_ip: None,
                        open_time: Timestamp(1),
                        frontend: NAME.to_owned(),
                    };
                    replica.watchers().session_opened(watch.number, NUMBER, session, shown).expect("a good report")
                })
            };
            let change = replica.commit();
            let revision = change.revision;
            replica.replica.apply(change);
            let opened = opening.join().expect("no panic");
            let messages: Vec<Message> = std::iter::from_fn(|| watch.messages.try_recv().ok()).collect();
            let is_told_to_close = messages.iter().any(|message| {
                matches!(message, Message::Close { numbers, reason: Reason::DeviceDisconnected, .. } if *numbers == [NUMBER])
            });
            assert_eq!(opened == Opened::Closed, is_told_to_close);
            // It reports nothing, so its session is counted as open, once, whoever noticed.
            assert_eq!(replica.watchers().settled(revision), revision);
            let closings = replica.watchers().take_closings(revision);
            let silent: Vec<_> = closings.iter().flat_map(|it| &it.silent).map(|it| (it.name.as_str(), it.sessions)).collect();
            assert_eq!(silent, [(NAME, 1)], "missed, or counted twice: {messages:?}");
        },
        RUNS,
    );
}

#[test]
fn a_session_that_opens_as_its_password_ends_is_closed_once_by_its_mail_host() {
    explore(
        || {
            let replica = Replica::new();
            let (host, stream) = Host::new(&replica);
            replica.replica.apply(replica.commit());
            let opening = {
                let host = Arc::clone(&host);
                thread::spawn(move || host.open_session())
            };
            let by_change = host.hear_change(&stream);
            let by_opening = opening.join().expect("no panic");
            assert_eq!(by_change.len() + usize::from(by_opening.is_some()), 1, "{by_change:?}, {by_opening:?}");
        },
        RUNS,
    );
}
