//! The `Transaction` trait over a session of either store.

use async_trait::async_trait;

use super::{Row, Session, Value, changes, devices, directory, events, mailboxes, sessions};
use crate::store::{NewChange, Request, Result, StoreError, Transaction, UserPlace};
use latchkey_core::model::{
    address::Address,
    change::{Ended, Revision},
    clock::Timestamp,
    device::{Device, StoredPassword},
    directory::{MailService, Mailbox, Member, Organization, Right, Standing},
    event::{Event, EventScope, TimeRange},
    id::{DeviceId, EventId, MailServiceId, MailboxId, OrganizationId, RequestId, UserId},
    session::OpenSession,
};

/// One transaction; after an error it can only be dropped.
pub(in crate::store) struct SqlTransaction<S>(Checked<S>);

impl<S: Session> SqlTransaction<S> {
    pub(in crate::store) fn over(session: S) -> Self {
        Self(Checked { session, has_failed: false })
    }
}

/// Refuses to commit after an error: a store may take the commit of a failed transaction for a rollback, and say that it went well.
struct Checked<S> {
    session: S,
    has_failed: bool,
}

impl<S> Checked<S> {
    fn noted<T>(&mut self, outcome: Result<T>) -> Result<T> {
        self.has_failed |= outcome.is_err();
        outcome
    }
}

#[async_trait]
impl<S: Session> Session for Checked<S> {
    async fn query(&mut self, sql: &'static str, parameters: &[Value]) -> Result<Vec<Row>> {
        let outcome = self.session.query(sql, parameters).await;
        self.noted(outcome)
    }

    async fn execute(&mut self, sql: &'static str, parameters: &[Value]) -> Result<u64> {
        let outcome = self.session.execute(sql, parameters).await;
        self.noted(outcome)
    }

    fn has_change(&mut self) {
        self.session.has_change();
    }

    async fn commit(&mut self) -> Result<()> {
        if self.has_failed {
            return Err(StoreError::Conflict("the transaction has failed before".to_owned()));
        }
        self.session.commit().await
    }
}

macro_rules! delegated {
    ($($module:ident :: $method:ident ( $($name:ident : $type:ty),* ) -> $answer:ty;)*) => {
        #[async_trait]
        impl<S: Session + 'static> Transaction for SqlTransaction<S> {
            $(async fn $method(&mut self, $($name: $type),*) -> Result<$answer> {
                let outcome = $module::$method(&mut self.0, $($name),*).await;
                self.0.noted(outcome)
            })*

            async fn commit(mut self: Box<Self>) -> Result<()> {
                self.0.commit().await
            }
        }
    };
}

delegated! {
    directory::organization(id: &OrganizationId) -> Option<Organization>;
    directory::organizations(after: Option<&OrganizationId>, limit: usize) -> Vec<Organization>;
    directory::put_organization(organization: &Organization) -> ();
    directory::delete_organization(id: &OrganizationId) -> bool;
    directory::member(organization: &OrganizationId, user: &UserId) -> Option<Member>;
    directory::members(organization: &OrganizationId, after: Option<&UserId>, limit: usize) -> Vec<Member>;
    directory::put_member(member: &Member) -> ();
    directory::delete_member(organization: &OrganizationId, user: &UserId) -> bool;
    directory::mail_service(id: &MailServiceId) -> Option<MailService>;
    directory::mail_services(organization: &OrganizationId, after: Option<&MailServiceId>, limit: usize) -> Vec<MailService>;
    directory::put_mail_service(service: &MailService) -> ();
    directory::set_generic_login(id: &MailServiceId, enabled: bool) -> ();
    directory::lock_organization(id: &OrganizationId) -> ();
    directory::delete_mail_service(id: &MailServiceId) -> bool;
    directory::right(service: &MailServiceId, user: &UserId) -> Option<Right>;
    directory::rights(service: &MailServiceId, after: Option<&UserId>, limit: usize) -> Vec<Right>;
    directory::put_right(right: &Right) -> ();
    directory::delete_right(right: &Right) -> bool;
    directory::delete_rights(organization: &OrganizationId, user: &UserId) -> u64;
    directory::standing(user: &UserId, organization: &OrganizationId, service: Option<&MailServiceId>) -> Standing;
    mailboxes::mailbox(address: &Address) -> Option<Mailbox>;
    mailboxes::mailboxes(service: &MailServiceId, after: Option<&Address>, limit: usize) -> Vec<Mailbox>;
    mailboxes::lock_mailbox(address: &Address) -> Option<Mailbox>;
    mailboxes::insert_mailbox(mailbox: &Mailbox) -> ();
    mailboxes::update_mailbox(mailbox: &Mailbox) -> ();
    mailboxes::delete_mailbox(id: MailboxId) -> bool;
    devices::device(mailbox: MailboxId, device: DeviceId) -> Option<Device>;
    devices::devices(mailbox: MailboxId, after: Option<DeviceId>, limit: usize, disconnected_too: bool) -> Vec<Device>;
    devices::count_active_devices(mailbox: MailboxId) -> usize;
    devices::insert_device(device: &Device, password: &StoredPassword) -> ();
    devices::update_device(device: &Device) -> ();
    devices::replace_password(device: &Device, password: &StoredPassword, now: Timestamp) -> ();
    devices::disconnect_device(device: DeviceId, now: Timestamp) -> bool;
    devices::end_again(ended: Ended, now: Timestamp) -> Option<Device>;
    devices::devices_of_user(user: &UserId, place: &UserPlace) -> Vec<(Address, Device)>;
    sessions::live_sessions(mailbox: MailboxId, limit: usize) -> Vec<OpenSession>;
    changes::request(caller: &str, id: &RequestId) -> Option<Request>;
    changes::insert_request(caller: &str, id: &RequestId, request: &Request) -> ();
    changes::lock_log() -> ();
    changes::append_change(change: &NewChange) -> Revision;
    events::add_events(events: &[Event]) -> ();
    events::events(scope: &EventScope, range: TimeRange, device: Option<DeviceId>, after: Option<(Timestamp, EventId)>, limit: usize) -> Vec<Event>;
    changes::revision() -> Revision;
}
