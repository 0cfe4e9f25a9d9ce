//! What PostgreSQL alone can do to its clients: commits that no standby has, answers that do not
//! come, connections that are all taken, and locks that two replicas take in turns.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use latchkey::store::{
    Mode, NewMailbox, Origin, Retention, Store, StoreError,
    postgres::{PostgresSettings, PostgresStore},
};
use latchkey_core::{
    confirmation::Node,
    model::{
        change::{Position, Revision},
        device::KeyId,
        event::LoginCount,
        id::NodeId,
        protocol::Protocol,
        verdict::Reason,
    },
};
use uuid::Uuid;

use crate::{
    events::login,
    support::{
        postgres::{Cluster, fresh_database},
        proxy::{self, Proxy},
    },
    world::{NOW, add, address, alice, change, device, device_id, index, mailbox_id, proof, service_id},
};

/// Longer than any answer may take: the place in the pool, the connection, the answer.
const IN_TIME: Duration = Duration::from_secs(25);

async fn store(url: &str, connections: usize) -> Arc<PostgresStore> {
    let settings = PostgresSettings { url: url.to_owned(), ca: None, connections };
    Arc::new(PostgresStore::open(&settings).await.expect("the store opens"))
}

fn node(number: u128) -> Node {
    let node_id = NodeId(Uuid::from_u128(number));
    Node { node_id, name: "one".to_owned(), lease: Duration::from_secs(2), applied: Revision(0), renewals: 0 }
}

fn import() -> (NewMailbox, Origin) {
    let address = address("new@example.com");
    let (key, mail_service_id) = (address.key(), service_id("mail"));
    let words = || String::new();
    let origin = Origin { actor: words(), caller: words(), peer: words(), time: NOW, nonce: 1 };
    (NewMailbox { mailbox_id: mailbox_id(77), address, key, mail_service_id, generic: None }, origin)
}

/// Cancels every wait for the standby, as an impatient operator does, until it is dropped.
struct Impatient(tokio::task::JoinHandle<()>);

impl Impatient {
    async fn at(cluster: &Cluster) -> Self {
        let operator = cluster.client("postgres").await;
        Self(tokio::spawn(async move {
            let cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
            while operator.batch_execute(cancel).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }))
    }
}

impl Drop for Impatient {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_no_standby_has_is_not_answered_as_done() {
    let cluster = Cluster::start(&[]).await;
    let store: Arc<dyn Store> = store(&cluster.database().await.url, 4).await;
    let alice = alice(&store).await;
    add(&store, &device(1, &alice), &index(1, "hash")).await;
    store.join(&node(1)).await.expect("joined");
    store.join(&node(2)).await.expect("joined");
    let head = store.head(Revision(0)).await.expect("read");
    let applied = Position { revision: head.revision, nonce: head.nonce };

    // From here on each commit waits for a standby, and none comes.
    let operator = cluster.client("postgres").await;
    operator.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await.expect("set");
    cluster.reload();
    while operator.query_one("SHOW synchronous_standby_names", &[]).await.expect("read").get::<_, String>(0).is_empty() {
        tokio::task::yield_now().await;
    }
    let _impatient = Impatient::at(&cluster).await;

    let id = node(1).node_id;
    // It waits for no standby: a failover that undoes it makes a revocation wait, and nothing else.
    assert!(store.acknowledge(id, 0, Revision(0), applied).await.expect("acknowledged"));
    let unknown = |outcome: Result<(), StoreError>, what: &str| {
        assert!(matches!(outcome, Err(StoreError::OutcomeUnknown(_))), "{what}: {outcome:?}");
    };
    unknown(store.sync(id, 1, Revision(0), applied).await.map(drop), "sync");
    unknown(store.join(&node(3)).await, "join");
    unknown(store.join(&node(3)).await, "join, once more");
    unknown(store.leave(id).await, "leave");
    unknown(store.remove_node(node(2).node_id, 0).await.map(drop), "remove_node");
    unknown(store.add_pepper_check(KeyId(9), [9; 32]).await, "add_pepper_check");
    let before = latchkey_core::model::device::PasswordHash("hash".to_owned());
    let upgraded = store.upgrade_password(device_id(1), 1, Some(&before), &proof(2), &change(&alice, &[])).await;
    unknown(upgraded.map(drop), "upgrade_password");
    let (new, origin) = import();
    unknown(store.import(&[new], &origin).await.map(drop), "import");
    let mut tx = store.begin("rule", Mode::Write).await.expect("a transaction");
    tx.lock_log().await.expect("locked");
    unknown(tx.commit().await, "commit");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_silent_delays_nobody_for_ever() {
    let database = fresh_database().await;
    let upstream = database.url.split(['@', '/']).nth(3).expect("host and port").parse::<SocketAddr>().expect("an address");
    let proxy = Proxy::start(upstream).await;
    let store: Arc<dyn Store> =
        store(&database.url.replace(&upstream.to_string(), &format!("127.0.0.1:{}", proxy.port)), 12).await;
    let alice = alice(&store).await;
    store.join(&node(1)).await.expect("joined");
    store.changes(Revision(0), Revision(1), 1).await.expect("a connection is open");
    proxy.set(proxy::Mode::Held);
    let (new, origin) = import();
    let limits = Retention::before(NOW, IN_TIME, IN_TIME, 1, IN_TIME, IN_TIME);
    let transaction = async {
        let mut tx = store.begin("rule", Mode::Write).await?;
        tx.lock_log().await
    };
    let answers = async {
        tokio::join!(
            async { store.changes(Revision(0), Revision(1), 1).await.map(drop) },
            async { store.import(&[new], &origin).await.map(drop) },
            async { store.sync(node(1).node_id, 0, Revision(0), Position::default()).await.map(drop) },
            async { store.nodes().await.map(drop) },
            async { store.read_mailbox(&alice.address).await.map(drop) },
            async { store.add_logins(&[]).await },
            async { store.trim(&limits).await.map(drop) },
            transaction,
        )
    };
    let answers = tokio::time::timeout(IN_TIME, answers).await.expect("each statement has its time");
    let answers: [Result<(), StoreError>; 8] = answers.into();
    assert!(answers.iter().all(Result::is_err), "{answers:?}");
    proxy.set(proxy::Mode::Open);
    while store.changes(Revision(0), Revision(1), 1).await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_that_take_all_connections_delay_no_renewal_of_a_lease() {
    let store: Arc<dyn Store> = store(&fresh_database().await.url, 1).await;
    // All that there are, held for as long as this test likes.
    let _held = store.begin("rule", Mode::Write).await.expect("a transaction");
    let feed = async {
        store.join(&node(1)).await?;
        let head = store.feed_head(Revision(0)).await?;
        let at = Position { revision: head.revision, nonce: head.nonce };
        assert!(store.sync(node(1).node_id, 0, Revision(0), at).await?.is_some());
        assert!(store.acknowledge(node(1).node_id, 1, Revision(0), at).await?);
        store.changes(Revision(0), Revision(9), 9).await?;
        store.leave(node(1).node_id).await
    };
    tokio::time::timeout(Duration::from_secs(2), feed).await.expect("nobody is in the way").expect("done");
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_write_the_same_logins_do_not_wait_for_each_other_in_a_circle() {
    let store: Arc<dyn Store> = store(&fresh_database().await.url, 12).await;
    let alice = alice(&store).await;
    // Rows that differ in any one column of their key, and two devices' last use among them.
    let logins: Vec<LoginCount> = (0..64_u8)
        .map(|number| {
            let mut login = login(&alice, Some(u128::from(number & 1)), i64::from(number & 2) * 3_600);
            login.key.client_ip = Some([192, 0, 2, number & 12].into());
            login.key.protocol = if number & 16 == 0 { Protocol::Imap } else { Protocol::Smtp };
            login.key.reason = if number & 32 == 0 { Reason::Ok } else { Reason::DeviceExpired };
            login
        })
        .collect();
    let writers = (0..8_usize).map(|writer| {
        let (store, mut logins) = (Arc::clone(&store), logins.clone());
        tokio::spawn(async move {
            for round in 0..20 {
                logins.rotate_left(7 * (writer + round) % 64);
                if (writer + round) % 2 == 0 {
                    logins.reverse();
                }
                store.add_logins(&logins[..40]).await?;
            }
            Ok::<_, StoreError>(())
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("no panic").expect("never in a circle");
    }
}
