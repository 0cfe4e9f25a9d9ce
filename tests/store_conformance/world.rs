//! What the rules act on: an organization with a mail service and alice's mailbox; and short words
//! for the rest.

use std::sync::Arc;

use latchkey::{
    random,
    store::{Mode, NewChange, Store, Transaction},
};
use latchkey_core::model::{
    address::Address,
    change::{Ended, Revision, Scope},
    clock::Timestamp,
    device::{Device, DeviceKind, DeviceName, KeyId, Limits, PasswordHash, StoredPassword, Tag},
    directory::{MailService, Mailbox, Organization},
    event::{Event, EventKind},
    id::{DeviceId, EventId, MailServiceId, MailboxId, OrganizationId, UserId},
    verdict::Reason,
};
use uuid::Uuid;

/// The rules' own now: no store looks at a clock.
pub const NOW: Timestamp = Timestamp(1_900_000_000_000_000);
/// No rule's list is longer.
pub const ALL: usize = 1_000;

pub fn at(seconds: i64) -> Timestamp {
    Timestamp(NOW.0 + seconds * 1_000_000)
}

pub fn address(text: &str) -> Address {
    Address::parse("address", text).expect("a good address")
}

pub fn organization_id(text: &str) -> OrganizationId {
    OrganizationId::from_store(text.to_owned())
}

pub fn service_id(text: &str) -> MailServiceId {
    MailServiceId::from_store(text.to_owned())
}

pub fn user(text: &str) -> UserId {
    UserId::from_store(text.to_owned())
}

pub fn mailbox_id(number: u128) -> MailboxId {
    MailboxId(Uuid::from_u128(number))
}

pub fn device_id(number: u128) -> DeviceId {
    DeviceId(Uuid::from_u128(number))
}

pub fn event_id(number: u128) -> EventId {
    EventId(Uuid::from_u128(number))
}

/// Makes `acme` with its mail service `mail`, and alice's mailbox in it.
pub async fn alice(store: &Arc<dyn Store>) -> Mailbox {
    let mut tx = write(store).await;
    tx.put_organization(&organization("acme")).await.expect("an organization");
    tx.put_mail_service(&mail_service("mail", "acme")).await.expect("a mail service");
    let alice = mailbox(1, "alice@example.com", "mail");
    tx.insert_mailbox(&alice).await.expect("a mailbox");
    tx.commit().await.expect("committed");
    alice
}

pub async fn write(store: &Arc<dyn Store>) -> Transaction {
    store.begin("rule", Mode::Write).await.expect("a transaction")
}

pub async fn read(store: &Arc<dyn Store>) -> Transaction {
    store.begin("rule", Mode::Read).await.expect("a transaction")
}

pub fn organization(id: &str) -> Organization {
    Organization { organization_id: organization_id(id), display_name: "Acme".to_owned(), create_time: NOW }
}

pub fn mail_service(id: &str, organization: &str) -> MailService {
    MailService {
        mail_service_id: service_id(id),
        organization_id: organization_id(organization),
        display_name: "Mail".to_owned(),
        generic_login: true,
        create_time: NOW,
    }
}

/// Of `acme`, as the rules' mail services are.
pub fn mailbox(number: u128, at_address: &str, service: &str) -> Mailbox {
    Mailbox {
        mailbox_id: mailbox_id(number),
        address: address(at_address),
        mail_service_id: service_id(service),
        organization_id: organization_id("acme"),
        suspended: false,
        generic_login: true,
        service_generic_login: true,
        device_version: 1,
        create_time: NOW,
    }
}

pub fn device(number: u128, mailbox: &Mailbox) -> Device {
    Device {
        device_id: device_id(number),
        mailbox_id: mailbox.mailbox_id,
        name: DeviceName::from_store(format!("Device {number}")),
        kind: DeviceKind::Generated,
        generation: 1,
        user: None,
        limits: Limits::default(),
        create_time: NOW,
        disconnection: None,
        last_use: None,
    }
}

pub fn proof(byte: u8) -> StoredPassword {
    StoredPassword { tag: Tag::Proof([byte; 16]), key: KeyId(1), hash: None }
}

pub fn index(salt: u8, hash: &str) -> StoredPassword {
    StoredPassword { tag: Tag::Index { salt, value: 7 }, key: KeyId(1), hash: Some(PasswordHash(hash.to_owned())) }
}

/// A change of one mailbox, without events.
pub fn change(mailbox: &Mailbox, ended: &[(DeviceId, u32)]) -> NewChange {
    let ended = ended
        .iter()
        .map(|&(device_id, generation)| Ended { device_id, generation, reason: Reason::DeviceDisconnected })
        .collect();
    let scope = Scope::Mailboxes(vec![mailbox.address.key()]);
    NewChange { nonce: random::nonce(), time: NOW, scope, ended, events: vec![], revocation: None }
}

pub fn event(number: u128, mailbox: &Mailbox, time: Timestamp) -> Event {
    Event {
        event_id: event_id(number),
        mailbox_id: Some(mailbox.mailbox_id),
        mail_service_id: Some(mailbox.mail_service_id.clone()),
        organization_id: Some(mailbox.organization_id.clone()),
        user: None,
        time,
        kind: EventKind::DeviceUpdated,
        device_id: None,
        device_name: "Phone".to_owned(),
        actor: "u1".to_owned(),
        caller: "manager".to_owned(),
        peer: "192.0.2.9".to_owned(),
        revision: Revision::default(),
        detail: String::new(),
        logins: None,
    }
}

/// Adds a device in a transaction of its own.
pub async fn add(store: &Arc<dyn Store>, device: &Device, password: &StoredPassword) {
    let mut tx = write(store).await;
    tx.insert_device(device, password).await.expect("a device");
    tx.commit().await.expect("committed");
}

/// Disconnects a device as a use case does: with its change.
pub async fn disconnect(
    store: &Arc<dyn Store>,
    mailbox: &Mailbox,
    device: DeviceId,
    generation: u32,
    time: Timestamp,
) -> Revision {
    let mut tx = write(store).await;
    assert!(tx.disconnect_device(device, time).await.expect("disconnected"), "it was active");
    let revision = tx.append_change(&change(mailbox, &[(device, generation)])).await.expect("a change");
    tx.commit().await.expect("committed");
    revision
}
