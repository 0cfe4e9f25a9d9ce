//! A transaction is whole or nothing, and alone.

use std::sync::Arc;

use latchkey::store::{Store, StoreError};
use latchkey_core::model::directory::Mailbox;

use crate::{
    stores::rules,
    use_case::{Picture, STATEMENTS, prepare, run},
    world::{address, alice, change, device, mailbox, organization, proof, read, write},
};

rules!(
    a_dropped_transaction_leaves_nothing_whichever_statement_it_stopped_after,
    a_committed_transaction_is_there_as_a_whole,
    after_an_error_a_transaction_refuses_to_commit,
    a_reading_transaction_sees_one_moment,
    a_reading_transaction_can_not_write,
    changes_of_one_mailbox_follow_each_other,
    who_waits_too_long_for_a_mailbox_is_told_of_the_conflict,
    a_transaction_that_nobody_waits_for_any_more_leaves_nothing,
    a_look_that_nobody_waits_for_any_more_leaves_no_old_picture,
    who_holds_the_log_has_seen_all_that_is_in_it,
);

async fn a_dropped_transaction_leaves_nothing_whichever_statement_it_stopped_after(store: Arc<dyn Store>) {
    prepare(&store).await;
    let before = Picture::of(&store).await;
    for statements in 0..=STATEMENTS {
        let mut tx = write(&store).await;
        run(&mut tx, statements).await;
        drop(tx);
        assert_eq!(Picture::of(&store).await, before, "after {statements} statements");
    }
}

async fn a_committed_transaction_is_there_as_a_whole(store: Arc<dyn Store>) {
    prepare(&store).await;
    let mut tx = write(&store).await;
    run(&mut tx, STATEMENTS).await;
    tx.commit().await.expect("committed");
    Picture::of(&store).await.is_whole();
}

async fn after_an_error_a_transaction_refuses_to_commit(store: Arc<dyn Store>) {
    prepare(&store).await;
    let before = Picture::of(&store).await;
    let mut tx = write(&store).await;
    run(&mut tx, STATEMENTS).await;
    let taken = mailbox(2, "alice@example.com", "nowhere");
    tx.insert_mailbox(&taken).await.expect_err("there is no such mail service, and the address is taken");
    tx.commit().await.expect_err("it has failed");
    assert_eq!(Picture::of(&store).await, before);
}

async fn a_reading_transaction_sees_one_moment(store: Arc<dyn Store>) {
    prepare(&store).await;
    let alice = address("alice@example.com");
    let mut tx = read(&store).await;
    let seen = tx.mailbox(&alice).await.expect("read").expect("alice is there");
    let mut meanwhile = write(&store).await;
    run(&mut meanwhile, STATEMENTS).await;
    meanwhile.commit().await.expect("committed");
    // What a list shows is what its etag stands for.
    assert_eq!(tx.count_active_devices(seen.mailbox_id).await.expect("read"), 2);
    assert_eq!(tx.devices(seen.mailbox_id, None, 10, true).await.expect("read").len(), 2);
    assert_eq!(tx.mailbox(&alice).await.expect("read"), Some(seen));
    assert_eq!(tx.revision().await.expect("read").0, 0);
}

async fn a_reading_transaction_can_not_write(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    let refused = read(&store).await.put_organization(&organization("other")).await;
    assert!(matches!(refused, Err(StoreError::CannotWrite(_))), "{refused:?}");
    let refused = read(&store).await.lock_mailbox(&alice.address).await;
    assert!(matches!(refused, Err(StoreError::CannotWrite(_))), "{refused:?}");
}

/// Counting and then adding is safe under the lock: it holds the bound on a mailbox's devices.
async fn changes_of_one_mailbox_follow_each_other(store: Arc<dyn Store>) {
    const WRITERS: usize = 8;
    const MOST: usize = 5;
    let alice = alice(&store).await;
    let writers = (0..WRITERS).map(|number| {
        let (store, alice) = (Arc::clone(&store), alice.clone());
        tokio::spawn(async move {
            let mut tx = write(&store).await;
            let mailbox = tx.lock_mailbox(&alice.address).await.expect("locked").expect("alice is there");
            if tx.count_active_devices(mailbox.mailbox_id).await.expect("counted") < MOST {
                tx.insert_device(&device(number as u128 + 1, &mailbox), &proof(1)).await.expect("inserted");
            }
            tx.commit().await.expect("committed");
            mailbox.device_version
        })
    });
    let mut versions = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        versions.push(writer.await.expect("no panic"));
    }
    versions.sort_unstable();
    assert_eq!(versions, (2..2 + WRITERS as i64).collect::<Vec<_>>(), "each saw what the one before it left");
    assert_eq!(read(&store).await.count_active_devices(alice.mailbox_id).await.expect("counted"), MOST);
}

async fn who_waits_too_long_for_a_mailbox_is_told_of_the_conflict(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    let mut first = write(&store).await;
    first.lock_mailbox(&alice.address).await.expect("locked");
    first.update_mailbox(&Mailbox { suspended: true, ..alice.clone() }).await.expect("suspended");
    let second = async {
        let mut tx = store.begin("rule", latchkey::store::Mode::Write).await?;
        tx.lock_mailbox(&alice.address).await.map(drop)
    };
    let refused = second.await.expect_err("the first has it");
    assert!(matches!(refused, StoreError::Conflict(_)), "{refused}");
    first.commit().await.expect("the first was not disturbed");
    let mut third = write(&store).await;
    assert!(third.lock_mailbox(&alice.address).await.expect("free again").is_some_and(|mailbox| mailbox.suspended));
}

/// A handler whose caller hangs up is dropped in the middle of a statement, too.
async fn a_transaction_that_nobody_waits_for_any_more_leaves_nothing(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    for polls in 1..=20 {
        let work = async {
            let mut tx = write(&store).await;
            tx.put_organization(&organization("other")).await.expect("put");
            tx.append_change(&change(&alice, &[])).await.expect("appended");
            // Never commits.
            std::future::pending::<()>().await;
        };
        polled(work, polls).await;
        let mut tx = write(&store).await;
        let head = tx.revision().await.expect("read");
        assert_eq!((tx.organizations(None, 10).await.expect("read").len(), head.0), (1, 0), "after {polls} polls");
    }
}

/// A connection that goes back to the pool inside of a reading transaction would show a later login
/// a world of the past.
async fn a_look_that_nobody_waits_for_any_more_leaves_no_old_picture(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    for polls in 1..=12 {
        let look = async {
            let mut tx = store.begin("rule", latchkey::store::Mode::Read).await.expect("begun");
            tx.revision().await.expect("read");
            std::future::pending::<()>().await;
        };
        polled(look, polls).await;
        // On whichever connection.
        for _ in 0..3 {
            store.read_mailbox(&alice.address).await.expect("read");
        }
        let mut tx = write(&store).await;
        let revision = tx.append_change(&change(&alice, &[])).await.expect("appended");
        tx.commit().await.expect("committed");
        for _ in 0..24 {
            let read = store.read_mailbox(&alice.address).await.expect("read");
            assert_eq!(read.revision, revision, "after {polls} polls");
        }
    }
}

async fn who_holds_the_log_has_seen_all_that_is_in_it(store: Arc<dyn Store>) {
    let alice = alice(&store).await;
    let mut first = write(&store).await;
    first.append_change(&change(&alice, &[])).await.expect("appended");
    let second = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            let mut tx = write(&store).await;
            tx.lock_log().await.expect("locked");
            let seen = tx.revision().await.expect("read");
            tx.commit().await.expect("committed");
            seen
        }
    });
    tokio::task::yield_now().await;
    first.commit().await.expect("committed");
    assert_eq!(second.await.expect("no panic").0, 1);
    assert_eq!(store.head(latchkey_core::model::change::Revision(0)).await.expect("a head").revision.0, 1, "it took none itself");
}

/// Polls so many times, then drops.
async fn polled(work: impl Future<Output = ()>, polls: usize) {
    let mut work = Box::pin(work);
    let mut left = polls;
    std::future::poll_fn(|context| {
        if left == 0 {
            return std::task::Poll::Ready(());
        }
        left -= 1;
        let polled = work.as_mut().poll(context);
        // Polled again whether or not anything has happened: where it stops is up to the count.
        context.waker().wake_by_ref();
        if left == 0 { std::task::Poll::Ready(()) } else { polled }
    })
    .await;
}
