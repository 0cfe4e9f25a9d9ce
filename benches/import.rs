//! Import: mailboxes a second with a generic password each, into PostgreSQL with fsync on: the use
//! case alone, and the whole of `latchkey import` against `latchkey serve`.
//!
//! `cargo bench --bench import`

#![allow(clippy::expect_used, clippy::cast_precision_loss, reason = "a benchmark fails by panicking, and counts in floats")]

mod common;
#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use latchkey::{
    manage::directory::ImportLine,
    passwords::{hash::HashCost, pepper::Pepper},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const MAILBOXES: u64 = 500_000;
const BATCH: u64 = 5_000;
const HASH: &str = "{SSHA512}g9R0tbGZWwWqqzzVx+a488uKwxqOkdTr2yTYiQdnMytFjxxsYLlcYVOy5VE7b4qG1P5+/aTjsnHlzOmThHZIsmxhdGNoa2V5";

#[tokio::main]
async fn main() {
    let cluster = support::postgres::Cluster::start(&["max_wal_size=4GB"]).await;
    println!("{MAILBOXES} mailboxes, {BATCH} a batch");
    use_case(&cluster.database().await.url).await;
    whole(&cluster.database().await.url).await;
}

async fn use_case(url: &str) {
    let cheap = HashCost { memory_kib: 64, passes: 1, lanes: 1 };
    let replica = common::replica(common::postgres(url).await, &Pepper::random(), cheap, common::settings()).await;
    let begun = common::now();
    for first in (0..MAILBOXES).step_by(BATCH as usize) {
        let lines: Vec<_> = (first..first + BATCH)
            .map(|number| ImportLine {
                number,
                address: format!("user{number}@example.com"),
                mail_service_id: common::SERVICE.to_owned(),
                generic_password_hash: HASH.to_owned(),
            })
            .collect();
        let imported = replica.directory.import(&common::who(), &lines, false).await.expect("imported");
        assert_eq!(imported.created as u64, BATCH);
    }
    report("the use case", begun);
}

async fn whole(url: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut text = String::new();
    for number in 0..MAILBOXES {
        let _ = writeln!(
            text,
            r#"{{"address":"user{number}@example.com","mail_service_id":"mail","generic_password_hash":"{HASH}"}}"#
        );
    }
    let file = folder.path().join("mailboxes.jsonl");
    std::fs::write(&file, text).expect("written");
    let latchkey = env!("CARGO_BIN_EXE_latchkey");
    let mut server = Command::new(latchkey)
        .args(["serve", "--listen", "127.0.0.1:0", "--log", "warn", "--database-url", url, "--data-dir"])
        .arg(folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut line = String::new();
    BufReader::new(server.stdout.take().expect("piped")).read_line(&mut line).expect("ready");
    let at = format!("http://{}", line.trim().rsplit(' ').next().expect("an address"));
    for arguments in [&["organization", "put", "acme"][..], &["service", "put", "mail", "--organization", "acme"]] {
        let put = Command::new(latchkey).args(arguments).args(["--server", &at]).status().expect("it runs");
        assert!(put.success(), "{arguments:?}");
    }
    let begun = common::now();
    let import = Command::new(latchkey).arg("import").arg(&file).args(["--server", &at]).status().expect("it runs");
    assert!(import.success());
    report("latchkey import, with its server", begun);
    server.kill().expect("it runs");
    server.wait().expect("it ends");
}

fn report(what: &str, begun: latchkey_core::model::clock::BootTime) {
    println!("{what:<44} {:>10.0} mailboxes a second", MAILBOXES as f64 / (common::now() - begun).as_secs_f64());
}
