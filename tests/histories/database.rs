//! The database: a primary, and a standby that each commit waits for.

use std::{net::SocketAddr, time::Duration};

use latchkey_core::model::clock::BootTime;
use tokio_postgres::Client;

use crate::{
    history::now,
    support::postgres::{Cluster, TestDatabase},
};

const SETTINGS: [&str; 1] = ["fsync=off"];

pub struct Database {
    primary: Cluster,
    standby: Cluster,
    name: String,
}

impl Database {
    /// With a URL that leads to the first primary.
    pub async fn start() -> (Self, String) {
        let primary = Cluster::start(&SETTINGS).await;
        let TestDatabase { url, name } = primary.database().await;
        let standby = follow(&primary).await;
        (Self { primary, standby, name }, url)
    }

    pub fn port(&self) -> u16 {
        self.primary.port()
    }

    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port()).into()
    }

    /// Ends the sessions that wait for hints.
    pub async fn end_listeners(&self) {
        let ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                     WHERE query LIKE '%LISTEN latchkey_change' AND pid <> pg_backend_pid()";
        self.client().await.execute(ended, &[]).await.expect("sessions are ended");
    }

    /// Stops the primary, and starts it again.
    pub async fn restart(&mut self, downtime: Duration) -> (BootTime, BootTime) {
        tokio::task::block_in_place(|| self.primary.stop());
        let from = now();
        tokio::time::sleep(downtime).await;
        let outage = (from, now());
        self.primary.resume().await;
        outage
    }

    /// The standby is away, and commits that wait for it are cancelled: they stand on the primary
    /// alone, for all to see.
    pub async fn cancel_commits(&mut self, time: Duration) {
        tokio::task::block_in_place(|| self.standby.stop());
        let ends = now() + time;
        let client = self.client().await;
        let cancelled = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        while now() < ends {
            client.execute(cancelled, &[]).await.expect("commits are cancelled");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The standby comes back, and gets what it lacks.
    pub async fn reunite(&mut self) {
        self.standby.resume().await;
        until_synchronous(&self.client().await).await;
    }

    /// The primary is lost; the standby takes its place, and gets one of its own.
    pub async fn fail_over(&mut self, standby_runs: bool) {
        self.primary.kill();
        if !standby_runs {
            self.standby.resume().await;
        }
        self.standby.promote().await;
        std::mem::swap(&mut self.primary, &mut self.standby);
    }

    pub async fn follow(&mut self) {
        self.standby = follow(&self.primary).await;
    }

    async fn client(&self) -> Client {
        self.primary.client(&self.name).await
    }
}

/// A new standby, without which nothing is committed any more.
async fn follow(primary: &Cluster) -> Cluster {
    let mut standby = primary.copy(true, &SETTINGS).await;
    standby.resume().await;
    let client = primary.client("postgres").await;
    client.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await.expect("set");
    primary.reload();
    until_synchronous(&client).await;
    standby
}

async fn until_synchronous(client: &Client) {
    let synchronous = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
    while client.query_one(synchronous, &[]).await.expect("asked").get::<_, i64>(0) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
