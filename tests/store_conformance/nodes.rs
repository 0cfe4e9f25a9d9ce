//! The processes that cache. SQLite serves one, and waits for none: its `sync` reads the head
//! alone, and whoever joins ousts the row of a dead one.

use std::{sync::Arc, time::Duration};

use latchkey::store::Store;
use latchkey_core::{
    confirmation::Node,
    model::{
        change::{Position, Revision},
        id::NodeId,
    },
};
use uuid::Uuid;

use crate::{
    stores::rules,
    world::{alice, change, write},
};

rules!(a_row_is_there_from_joining_to_leaving, a_row_that_moved_is_not_removed, a_sync_tells_the_head);

mod of_several {
    crate::stores::rules!(@ postgres
        a_sync_writes_what_was_applied_and_counts
        a_sync_with_another_count_or_without_a_row_is_told_so
        many_processes_have_a_row_each
        an_acknowledgement_of_another_history_is_not_written
    );
}

fn node(number: u128) -> Node {
    Node {
        node_id: NodeId(Uuid::from_u128(number)),
        name: format!("replica-{number}"),
        lease: Duration::from_millis(2_500),
        applied: Revision(0),
        renewals: 0,
    }
}

async fn a_row_is_there_from_joining_to_leaving(store: Arc<dyn Store>) {
    let node = node(1);
    store.join(&node).await.expect("joined");
    assert_eq!(store.nodes().await.expect("nodes"), std::slice::from_ref(&node));
    store.leave(node.node_id).await.expect("left");
    assert_eq!(store.nodes().await.expect("nodes"), []);
    store.leave(node.node_id).await.expect("leaving twice is no error");
}

async fn a_row_that_moved_is_not_removed(store: Arc<dyn Store>) {
    let node = Node { renewals: 7, ..node(1) };
    store.join(&node).await.expect("joined");
    assert!(!store.remove_node(node.node_id, 6).await.expect("asked"), "it has moved since");
    assert_eq!(store.nodes().await.expect("nodes").len(), 1);
    assert!(store.remove_node(node.node_id, 7).await.expect("asked"));
    assert!(!store.remove_node(node.node_id, 7).await.expect("asked"), "it is gone");
}

async fn a_sync_tells_the_head(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    let node = node(1);
    store.join(&node).await.expect("joined");
    let appended = change(&alice, &[]);
    let mut tx = write(&store).await;
    tx.append_change(&appended).await.expect("appended");
    tx.commit().await.expect("committed");
    let head = store.sync(node.node_id, 0, Revision(1), at(1, appended.nonce)).await.expect("synced").expect("the row is there");
    assert_eq!(head, store.head(Revision(1)).await.expect("a head"));
    assert_eq!((head.revision, head.applied_nonce), (Revision(1), Some(appended.nonce)));
}

async fn a_sync_writes_what_was_applied_and_counts(store: Arc<dyn Store>) {
    let node = node(1);
    store.join(&node).await.expect("joined");
    for renewals in 0..3 {
        store
            .sync(node.node_id, renewals, Revision(renewals + 10), Position::default())
            .await
            .expect("synced")
            .expect("the row is there");
    }
    assert_eq!(store.nodes().await.expect("nodes"), [Node { applied: Revision(12), renewals: 3, ..node }]);
}

async fn a_sync_with_another_count_or_without_a_row_is_told_so(store: Arc<dyn Store>) {
    let node = node(1);
    assert_eq!(store.sync(node.node_id, 0, Revision(0), Position::default()).await.expect("asked"), None, "there is no row");
    store.join(&node).await.expect("joined");
    assert_eq!(store.sync(node.node_id, 1, Revision(5), Position::default()).await.expect("asked"), None, "another count");
    assert_eq!(store.nodes().await.expect("nodes"), std::slice::from_ref(&node), "nothing was written");
    assert!(store.remove_node(node.node_id, 0).await.expect("asked"));
    assert_eq!(store.sync(node.node_id, 0, Revision(5), Position::default()).await.expect("asked"), None, "it was removed");
}

async fn an_acknowledgement_of_another_history_is_not_written(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    let node = node(1);
    store.join(&node).await.expect("joined");
    let appended = change(&alice, &[]);
    let mut tx = write(&store).await;
    tx.append_change(&appended).await.expect("appended");
    tx.commit().await.expect("committed");
    for (applied, why) in [(at(1, appended.nonce + 1), "another row under the same revision"), (at(2, 7), "ahead of the log")] {
        assert_eq!(store.sync(node.node_id, 0, applied.revision, applied).await.expect("asked"), None, "{why}");
        assert_eq!(store.nodes().await.expect("nodes"), std::slice::from_ref(&node), "{why}: nothing was written");
    }
    let head = store.sync(node.node_id, 0, Revision(1), at(1, appended.nonce)).await.expect("asked").expect("its own history");
    assert_eq!((head.revision, head.nonce), (Revision(1), appended.nonce));
}

fn at(revision: u64, nonce: i64) -> Position {
    Position { revision: Revision(revision), nonce }
}

async fn many_processes_have_a_row_each(store: Arc<dyn Store>) {
    let nodes = [node(1), node(2), node(3)];
    for node in &nodes {
        store.join(node).await.expect("joined");
    }
    store.leave(nodes[1].node_id).await.expect("left");
    assert_eq!(store.nodes().await.expect("nodes"), [nodes[0].clone(), nodes[2].clone()]);
    let again = Node { renewals: 3, ..nodes[0].clone() };
    store.join(&again).await.expect("whoever does not know whether it has joined joins once more");
    assert_eq!(store.nodes().await.expect("nodes"), [again, nodes[2].clone()]);
}
