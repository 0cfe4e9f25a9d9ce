//! Watches the store: a span and a duration for each of its operations, by OpenTelemetry's semantic conventions for database calls. Never a
//! statement, never a parameter.

use std::sync::Arc;

use async_trait::async_trait;
use opentelemetry::{
    KeyValue, global,
    metrics::{Counter, Histogram},
    trace::{FutureExt, SpanKind, Status, TraceContextExt, Tracer},
};

use crate::store::{
    Finding, Hint, Mode, NewChange, NewMailbox, Origin, Request, Result, Retention, Store, Transaction, UserPlace,
};
use latchkey_core::{
    confirmation::Node,
    log::Head,
    model::{
        address::Address,
        change::{Change, Ended, Position, Revision},
        clock::{SharedClock, Timestamp},
        device::{Device, Generation, KeyId, PasswordHash, StoredPassword},
        directory::{MailService, Mailbox, Member, Organization, Right, Standing},
        event::{Event, EventScope, LoginCount, TimeRange},
        id::{DeviceId, EventId, MailServiceId, MailboxId, NodeId, OrganizationId, RequestId, UserId},
        record::MailboxRead,
        session::{Closing, LiveSession, OpenSession, SessionKey},
    },
};

pub(super) struct ObservedStore {
    store: Arc<dyn Store>,
    logins: Counter<u64>,
    observer: Observer,
}

impl ObservedStore {
    pub(super) fn new(store: Arc<dyn Store>, clock: SharedClock) -> Self {
        let durations = global::meter("latchkey")
            .f64_histogram("db.client.operation.duration")
            .with_unit("s")
            .with_description("Duration of database client operations")
            .with_boundaries(vec![0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0])
            .build();
        let logins =
            global::meter("latchkey").u64_counter("latchkey.logins").with_description("Logins answered, by reason").build();
        let observer = Observer { system: store.system(), durations, clock };
        Self { store, logins, observer }
    }
}

struct ObservedTransaction {
    transaction: Box<dyn Transaction>,
    name: &'static str,
    observer: Observer,
}

#[derive(Clone)]
struct Observer {
    system: &'static str,
    durations: Histogram<f64>,
    clock: SharedClock,
}

/// Counts logins as they are written behind: their own way pays nothing for it.
fn count_logins(counter: &Counter<u64>, logins: &[LoginCount]) {
    for login in logins {
        counter.add(login.count, &[KeyValue::new("latchkey.reason", login.key.reason.label())]);
    }
}

impl Observer {
    async fn watch<T>(&self, operation: String, run: impl Future<Output = Result<T>>) -> Result<T> {
        let attributes = [KeyValue::new("db.system.name", self.system), KeyValue::new("db.operation.name", operation.clone())];
        let tracer = global::tracer("latchkey");
        let span = tracer.span_builder(operation).with_kind(SpanKind::Client).with_attributes(attributes.clone());
        let context = opentelemetry::Context::current_with_span(span.start(&tracer));
        let begun = self.clock.boot();
        let outcome = run.with_context(context.clone()).await;
        if outcome.is_err() {
            context.span().set_status(Status::error("failed"));
        }
        context.span().end();
        self.durations.record((self.clock.boot() - begun).as_secs_f64(), &attributes);
        outcome
    }
}

macro_rules! observed_store {
    ($($method:ident($($name:ident: $argument:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl Store for ObservedStore {
            $(async fn $method(&self, $($name: $argument),*) -> Result<$answer> {
                self.observer.watch(stringify!($method).to_owned(), self.store.$method($($name),*)).await
            })*

            async fn begin(&self, name: &'static str, mode: Mode) -> Result<Box<dyn Transaction>> {
                let transaction = self.observer.watch(format!("{name}.begin"), self.store.begin(name, mode)).await?;
                Ok(Box::new(ObservedTransaction { transaction, name, observer: self.observer.clone() }))
            }

            async fn add_logins(&self, logins: &[LoginCount]) -> Result<()> {
                let added = self.observer.watch("add_logins".to_owned(), self.store.add_logins(logins)).await;
                if added.is_ok() {
                    count_logins(&self.logins, logins);
                }
                added
            }

            fn listen(&self, hint: Hint) {
                self.store.listen(hint);
            }

            fn system(&self) -> &'static str {
                self.store.system()
            }
        }
    };
}

observed_store! {
    read_mailbox(address: &Address) -> MailboxRead;
    read_hash(device_id: DeviceId, generation: Generation) -> Option<PasswordHash>;
    upgrade_password(device_id: DeviceId, generation: Generation, before: Option<&PasswordHash>, after: &StoredPassword, change: &NewChange) -> Option<Revision>;
    import(mailboxes: &[NewMailbox], origin: &Origin) -> Vec<bool>;
    join(node: &Node) -> ();
    leave(node_id: NodeId) -> ();
    sync(node_id: NodeId, renewals: u64, acknowledged: Revision, applied: Position) -> Option<Head>;
    acknowledge(node_id: NodeId, renewals: u64, acknowledged: Revision, applied: Position) -> bool;
    head(applied: Revision) -> Head;
    feed_head(applied: Revision) -> Head;
    changes(after: Revision, up_to: Revision, limit: usize) -> Vec<Change>;
    nodes() -> Vec<Node>;
    remove_node(node_id: NodeId, renewals: u64) -> bool;
    put_sessions(node_id: NodeId, opened: &[LiveSession], closed: &[SessionKey]) -> ();
    add_closings(node_id: NodeId, closings: &[Closing]) -> ();
    closings(revision: Revision) -> Vec<Closing>;
    trim(limits: &Retention) -> u64;
    pepper_checks() -> Vec<(KeyId, [u8; 32])>;
    add_pepper_check(key: KeyId, check: [u8; 32]) -> ();
    ping() -> ();
    examine() -> Vec<Finding>;
}

macro_rules! observed_transaction {
    ($($method:ident($($name:ident: $argument:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl Transaction for ObservedTransaction {
            $(async fn $method(&mut self, $($name: $argument),*) -> Result<$answer> {
                let operation = format!("{}.{}", self.name, stringify!($method));
                self.observer.watch(operation, self.transaction.$method($($name),*)).await
            })*

            async fn commit(self: Box<Self>) -> Result<()> {
                let Self { transaction, name, observer } = *self;
                observer.watch(format!("{name}.commit"), transaction.commit()).await
            }
        }
    };
}

observed_transaction! {
    organization(id: &OrganizationId) -> Option<Organization>;
    organizations(after: Option<&OrganizationId>, limit: usize) -> Vec<Organization>;
    put_organization(organization: &Organization) -> ();
    delete_organization(id: &OrganizationId) -> bool;
    member(organization: &OrganizationId, user: &UserId) -> Option<Member>;
    members(organization: &OrganizationId, after: Option<&UserId>, limit: usize) -> Vec<Member>;
    put_member(member: &Member) -> ();
    delete_member(organization: &OrganizationId, user: &UserId) -> bool;
    mail_service(id: &MailServiceId) -> Option<MailService>;
    mail_services(organization: &OrganizationId, after: Option<&MailServiceId>, limit: usize) -> Vec<MailService>;
    put_mail_service(service: &MailService) -> ();
    set_generic_login(id: &MailServiceId, enabled: bool) -> ();
    lock_organization(id: &OrganizationId) -> ();
    delete_mail_service(id: &MailServiceId) -> bool;
    right(service: &MailServiceId, user: &UserId) -> Option<Right>;
    rights(service: &MailServiceId, after: Option<&UserId>, limit: usize) -> Vec<Right>;
    put_right(right: &Right) -> ();
    delete_right(right: &Right) -> bool;
    delete_rights(organization: &OrganizationId, user: &UserId) -> u64;
    standing(user: &UserId, organization: &OrganizationId, service: Option<&MailServiceId>) -> Standing;
    mailbox(address: &Address) -> Option<Mailbox>;
    mailboxes(service: &MailServiceId, after: Option<&Address>, limit: usize) -> Vec<Mailbox>;
    lock_mailbox(address: &Address) -> Option<Mailbox>;
    insert_mailbox(mailbox: &Mailbox) -> ();
    update_mailbox(mailbox: &Mailbox) -> ();
    delete_mailbox(id: MailboxId) -> bool;
    device(mailbox: MailboxId, device: DeviceId) -> Option<Device>;
    devices(mailbox: MailboxId, after: Option<DeviceId>, limit: usize, disconnected_too: bool) -> Vec<Device>;
    count_active_devices(mailbox: MailboxId) -> usize;
    insert_device(device: &Device, password: &StoredPassword) -> ();
    update_device(device: &Device) -> ();
    replace_password(device: &Device, password: &StoredPassword, now: Timestamp) -> ();
    disconnect_device(device: DeviceId, now: Timestamp) -> bool;
    end_again(ended: Ended, now: Timestamp) -> Option<Device>;
    live_sessions(mailbox: MailboxId, limit: usize) -> Vec<OpenSession>;
    devices_of_user(user: &UserId, place: &UserPlace) -> Vec<(Address, Device)>;
    request(caller: &str, id: &RequestId) -> Option<Request>;
    insert_request(caller: &str, id: &RequestId, request: &Request) -> ();
    lock_log() -> ();
    append_change(change: &NewChange) -> Revision;
    add_events(events: &[Event]) -> ();
    events(scope: &EventScope, range: TimeRange, device: Option<DeviceId>, after: Option<(Timestamp, EventId)>, limit: usize) -> Vec<Event>;
    revision() -> Revision;
}
