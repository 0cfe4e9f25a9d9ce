//! A use case that touches all that one can, a statement at a time; and all that can be seen of it
//! from outside.

use std::sync::Arc;

use latchkey::store::{Request, Store, Transaction};
use latchkey_core::model::{
    change::{Change, Revision},
    device::Device,
    directory::Mailbox,
    event::{Event, EventScope, TimeRange},
    id::RequestId,
    record::MailboxRead,
};

use crate::world::{ALL, NOW, add, address, alice, at, change, device, device_id, event, proof, read};

/// Statements of [`run`].
pub const STATEMENTS: usize = 7;

/// Alice's mailbox with two devices.
pub async fn prepare(store: &Arc<dyn Store>) {
    let alice = alice(store).await;
    add(store, &device(1, &alice), &proof(1)).await;
    add(store, &device(2, &alice), &proof(2)).await;
}

/// The first so many statements: disconnects one device, changes another's password, adds a third,
/// suspends the mailbox, and writes it down.
pub async fn run(tx: &mut Transaction, statements: usize) {
    let alice = crate::world::mailbox(1, "alice@example.com", "mail");
    for statement in 1..=statements {
        match statement {
            1 => assert!(tx.lock_mailbox(&alice.address).await.expect("locked").is_some()),
            2 => assert!(tx.disconnect_device(device_id(1), at(1)).await.expect("disconnected")),
            3 => {
                let changed = Device { generation: 2, ..device(2, &alice) };
                tx.replace_password(&changed, &proof(4), at(1)).await.expect("replaced");
            }
            4 => tx.insert_device(&device(3, &alice), &proof(3)).await.expect("inserted"),
            5 => tx.update_mailbox(&Mailbox { suspended: true, ..alice.clone() }).await.expect("suspended"),
            6 => {
                let mut change = change(&alice, &[(device_id(1), 1), (device_id(2), 1)]);
                change.events = vec![event(1, &alice, at(1)), event(2, &alice, at(1))];
                tx.append_change(&change).await.map(drop).expect("appended");
            }
            STATEMENTS => tx.insert_request("manager", &request_id(), &request()).await.expect("remembered"),
            _ => unreachable!("there are {STATEMENTS}"),
        }
    }
}

/// All that it touches.
#[derive(PartialEq, Debug)]
pub struct Picture {
    read: MailboxRead,
    mailbox: Option<Mailbox>,
    pub devices: Vec<Device>,
    events: Vec<Event>,
    changes: Vec<Change>,
    request: Option<Request>,
}

impl Picture {
    pub async fn of(store: &Arc<dyn Store>) -> Self {
        let alice = address("alice@example.com");
        let mut tx = read(store).await;
        let mailbox = tx.mailbox(&alice).await.expect("read");
        let id = mailbox.as_ref().expect("alice is there").mailbox_id;
        let devices = tx.devices(id, None, ALL, true).await.expect("read");
        let events = tx.events(&EventScope::Mailbox(id), TimeRange::default(), None, None, ALL).await.expect("read");
        let request = tx.request("manager", &request_id()).await.expect("read");
        drop(tx);
        let changes = store.changes(Revision(0), Revision(u64::MAX >> 1), ALL).await.expect("read");
        Self { read: store.read_mailbox(&alice).await.expect("read"), mailbox, devices, events, changes, request }
    }

    /// Panics unless it shows the whole of [`run`].
    pub fn is_whole(&self) {
        let Self { read, mailbox, devices, events, changes, request } = self;
        let record = read.mailbox.as_ref().expect("alice is there");
        assert!(record.suspended && mailbox.as_ref().is_some_and(|mailbox| mailbox.suspended && mailbox.device_version == 2));
        let active: Vec<_> = record.active.iter().map(|device| (device.device_id, device.generation)).collect();
        assert_eq!(active, [(device_id(2), 2), (device_id(3), 1)]);
        assert_eq!(record.ended.len(), 2);
        let disconnected: Vec<_> = devices.iter().filter_map(|device| device.disconnection).collect();
        assert_eq!(disconnected.iter().map(|end| (end.time, end.revision)).collect::<Vec<_>>(), [(at(1), read.revision)]);
        assert_eq!((devices.len(), events.len(), changes.len()), (3, 2, 1));
        assert!(changes[0].revision == read.revision && events.iter().all(|event| event.revision == read.revision));
        assert_eq!(request.as_ref(), Some(&self::request()));
    }
}

fn request_id() -> RequestId {
    RequestId::from_store("r1".to_owned())
}

fn request() -> Request {
    Request { fingerprint: [3; 16], device_id: Some(device_id(3)), revision: Revision(1), count: 2, time: NOW }
}
