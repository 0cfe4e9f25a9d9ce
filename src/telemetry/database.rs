//! Watches the store: a span and a duration for each of its operations and each statement of a
//! transaction, by OpenTelemetry's semantic conventions for database calls. Never a statement,
//! never a parameter.

use std::sync::Arc;

use async_trait::async_trait;
use opentelemetry::{
    KeyValue, global,
    metrics::{Counter, Histogram},
    trace::{FutureExt, SpanKind, Status, TraceContextExt, Tracer},
};

use crate::store::{
    Finding, Hint, Mode, NewChange, NewMailbox, Origin, Result, Retention, Store, Transaction,
    sql::{self, Row, Session, Value},
};
use latchkey_core::{
    confirmation::Node,
    log::Head,
    model::{
        address::Address,
        change::{Change, Position, Revision},
        clock::SharedClock,
        device::{Generation, KeyId, PasswordHash, StoredPassword},
        event::LoginCount,
        id::{DeviceId, NodeId},
        record::MailboxRead,
        session::{Closing, LiveSession, SessionKey},
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

            async fn begin(&self, name: &'static str, mode: Mode) -> Result<Transaction> {
                let transaction = self.observer.watch(format!("{name}.begin"), self.store.begin(name, mode)).await?;
                Ok(transaction.through(|session| ObservedSession { session, name, observer: self.observer.clone() }))
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

/// One transaction's session: what passes there is named by the transaction and by the method that
/// it serves.
struct ObservedSession {
    session: Box<dyn Session>,
    name: &'static str,
    observer: Observer,
}

#[async_trait]
impl Session for ObservedSession {
    async fn query(&mut self, sql: &'static str, parameters: &[Value]) -> Result<Vec<Row>> {
        let operation = format!("{}.{}", self.name, sql::method(sql));
        self.observer.watch(operation, self.session.query(sql, parameters)).await
    }

    async fn execute(&mut self, sql: &'static str, parameters: &[Value]) -> Result<u64> {
        let operation = format!("{}.{}", self.name, sql::method(sql));
        self.observer.watch(operation, self.session.execute(sql, parameters)).await
    }

    fn has_change(&mut self) {
        self.session.has_change();
    }

    async fn commit(&mut self) -> Result<()> {
        self.observer.watch(format!("{}.commit", self.name), self.session.commit()).await
    }
}
