//! PgBouncer, of Debian's packages, between the store and its database.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use latchkey::store::{
    OpenError, Store,
    postgres::{PostgresSettings, PostgresStore},
};
use tempfile::TempDir;

use crate::{
    support::postgres::{TestDatabase, fresh_database},
    world::alice,
};

const IN_TIME: Duration = Duration::from_secs(30);

/// Stopped when dropped.
struct Bouncer {
    child: Child,
    url: String,
    _folder: TempDir,
}

impl Bouncer {
    async fn before(database: &TestDatabase, mode: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("latchkey-pgbouncer-").tempdir_in("/tmp").expect("a folder");
        let port = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address").port();
        let address = database.url.split('@').nth(1).expect("a host").split('/').next().expect("a host");
        let server = address.rsplit(':').next().expect("a port");
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={server}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             auth_type = any\npool_mode = {mode}\nunix_socket_dir =\n[users]\n"
        );
        let settings = settings.replace("* = host", "* = user=latchkey host");
        let file = folder.path().join("pgbouncer.ini");
        std::fs::write(&file, settings).expect("written");
        let mut command = Command::new("pgbouncer");
        if rustix::process::geteuid().is_root() {
            // It refuses to run as root.
            for path in [folder.path(), &file] {
                Command::new("chown").arg("postgres").arg(path).status().expect("chown runs");
            }
            command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "pgbouncer"]);
        }
        let child = command.arg("--quiet").arg(&file).stderr(Stdio::null()).spawn().expect("pgbouncer is installed");
        let url = database.url.replace(address, &format!("127.0.0.1:{port}"));
        let bouncer = Self { child, url, _folder: folder };
        let listens = async {
            while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(IN_TIME, listens).await.expect("it listens");
        bouncer
    }

    async fn open(&self) -> Result<PostgresStore, OpenError> {
        PostgresStore::open(&PostgresSettings { url: self.url.clone(), ca: None, connections: 4 }).await
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_shares_sessions_is_refused() {
    for mode in ["transaction", "statement"] {
        let bouncer = Bouncer::before(&fresh_database().await, mode).await;
        let Err(error) = bouncer.open().await else { panic!("{mode} pooling was taken") };
        assert!(matches!(error, OpenError::SharedSessions), "{mode}: {error}");
        assert!(error.to_string().contains("pool_mode = session"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_gives_each_connection_its_session_is_supported() {
    let bouncer = Bouncer::before(&fresh_database().await, "session").await;
    let store: std::sync::Arc<dyn Store> = std::sync::Arc::new(bouncer.open().await.expect("opened"));
    let alice = alice(&store).await;
    assert!(store.read_mailbox(&alice.address).await.expect("read").mailbox.is_some());
}

/// A server that accepts connections and hangs.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_is_out_of_reach() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("postgres://latchkey@{}/latchkey", silent.local_addr().expect("an address"));
    let settings = PostgresSettings { url, ca: None, connections: 4 };
    let opened = tokio::time::timeout(IN_TIME, PostgresStore::open(&settings)).await.expect("it gives up");
    assert!(matches!(opened, Err(OpenError::Unreachable(_))), "{opened:?}");
}
