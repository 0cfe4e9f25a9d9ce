//! A process that dies at any point of a transaction leaves it whole or undone. It dies for real:
//! another process runs the transaction and is killed.

use std::{
    env,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use crate::{
    stores::{Fresh, Place},
    use_case::{Picture, STATEMENTS, prepare, run},
    world::write,
};

/// For the process that is to die: where the store is, and after how many statements it stops. One
/// more than there are: after the commit.
const STORE: &str = "LATCHKEY_TEST_CRASH_STORE";
const POINT: &str = "LATCHKEY_TEST_CRASH_POINT";
const STOPPED: &str = "stopped";

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_anywhere_leaves_the_change_whole_or_undone_on_sqlite() {
    killed_anywhere(&Fresh::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_anywhere_leaves_the_change_whole_or_undone_on_postgres() {
    killed_anywhere(&Fresh::postgres().await).await;
}

async fn killed_anywhere(fresh: &Fresh) {
    let store = fresh.open().await;
    prepare(&store).await;
    let before = Picture::of(&store).await;
    drop(store);
    for statements in 0..=STATEMENTS {
        kill_after(&fresh.place, statements);
        assert_eq!(Picture::of(&fresh.open().await).await, before, "killed after {statements} statements");
    }
    kill_after(&fresh.place, STATEMENTS + 1);
    Picture::of(&fresh.open().await).await.is_whole();
}

fn kill_after(place: &Place, point: usize) {
    let mut child = Command::new(env::current_exe().expect("this test program"))
        .args(["--exact", "crashes::dies_where_it_is_told_to", "--nocapture"])
        .env(STORE, place.to_word())
        .env(POINT, point.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let has_stopped = lines.map_while(Result::ok).any(|line| line.ends_with(STOPPED));
    assert!(has_stopped, "it came to point {point}");
    child.kill().expect("SIGKILL");
    child.wait().expect("it is dead");
}

/// What runs in the process that is to die; as a test of its own it does nothing.
#[tokio::test(flavor = "multi_thread")]
async fn dies_where_it_is_told_to() {
    let (Ok(word), Ok(point)) = (env::var(STORE), env::var(POINT)) else {
        return;
    };
    let point: usize = point.parse().expect("a number");
    let store = Place::from_word(&word).open().await;
    let mut tx = write(&store).await;
    run(&mut tx, point.min(STATEMENTS)).await;
    let _open = if point > STATEMENTS {
        tx.commit().await.expect("committed");
        None
    } else {
        Some(tx)
    };
    println!("\n{STOPPED}");
    std::future::pending::<()>().await;
}
