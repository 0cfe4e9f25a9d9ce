//! PostgreSQL, started for real: one cluster a test process, one database a test. A guard process
//! stops it and removes it when the test process ends, however that is.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use tempfile::TempDir;
use tokio::sync::OnceCell;
use tokio_postgres::NoTls;

/// A database of a test's own. Removed with its cluster.
pub struct TestDatabase {
    pub url: String,
    pub name: String,
}

static SHARED: OnceCell<Cluster> = OnceCell::const_new();
static NEXT: AtomicU32 = AtomicU32::new(1);

/// A new database in the cluster that this test process shares.
pub async fn fresh_database() -> TestDatabase {
    let cluster = SHARED.get_or_init(|| async { Cluster::start(&["fsync=off", "synchronous_commit=off"]).await }).await;
    cluster.database().await
}

/// A database in the shared cluster with all that another one holds just now: what a standby had
/// got that is promoted. Whoever is connected to the first is cut.
pub async fn copy_of(database: &TestDatabase) -> TestDatabase {
    let cluster = SHARED.get().expect("it was made by `fresh_database`");
    let client = cluster.client("postgres").await;
    let (from, name) = (&database.name, format!("{}_copy", database.name));
    for step in [
        format!("ALTER DATABASE {from} ALLOW_CONNECTIONS false"),
        format!("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{from}'"),
        format!("CREATE DATABASE {name} TEMPLATE {from}"),
        format!("ALTER DATABASE {from} ALLOW_CONNECTIONS true"),
    ] {
        client.batch_execute(&step).await.expect("a copy is made");
    }
    TestDatabase { url: cluster.url(&name), name }
}

/// A connection of the test's own.
pub async fn client(database: &TestDatabase) -> tokio_postgres::Client {
    connect(&database.url).await.expect("the server runs")
}

/// A cluster.
pub struct Cluster {
    folder: TempDir,
    port: u16,
    /// Stops the server when its standard input closes.
    guard: Option<Child>,
    settings: Vec<String>,
}

impl Cluster {
    /// A cluster with these settings (`name=value`), durable unless they say otherwise.
    pub async fn start(settings: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("latchkey-postgres-").tempdir_in("/tmp").expect("a folder in /tmp");
        let data = folder.path().join("data");
        std::fs::create_dir(&data).expect("a folder");
        if is_root() {
            for path in [folder.path(), &data] {
                run(Command::new("chown").arg("postgres").arg(path));
            }
        }
        let mut initdb = as_postgres(&binary("initdb"));
        initdb.args(["--auth=trust", "--username=latchkey", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--pgdata"]);
        run(initdb.arg(&data));
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let mut cluster = Self { folder, port: free_port(), guard: None, settings };
        cluster.resume().await;
        cluster
    }

    /// A copy of this cluster as it is now, which does not run yet: a standby that follows it once
    /// it does, or else what a standby had got by now.
    pub async fn copy(&self, follows: bool, settings: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("latchkey-postgres-").tempdir_in("/tmp").expect("a folder in /tmp");
        if is_root() {
            run(Command::new("chown").arg("postgres").arg(folder.path()));
        }
        let mut backup = as_postgres(&binary("pg_basebackup"));
        backup.args(["--checkpoint=fast", "--wal-method=stream", "--no-sync", "--host=127.0.0.1", "--username=latchkey"]);
        backup.arg(format!("--port={}", self.port)).arg("--pgdata").arg(folder.path().join("data"));
        if follows {
            backup.arg("--write-recovery-conf");
        }
        run(&mut backup);
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        Self { folder, port: free_port(), guard: None, settings }
    }

    /// Reads its settings anew.
    pub fn reload(&self) {
        run(as_postgres(&binary("pg_ctl")).arg("reload").arg("--silent").arg("--pgdata").arg(self.data()));
    }

    /// Makes a standby the primary.
    pub async fn promote(&self) {
        let client = self.client("postgres").await;
        client.batch_execute("SELECT pg_promote(true, 60)").await.expect("promoted");
    }

    /// Ends the server as a power failure does.
    pub fn kill(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            let pid = std::fs::read_to_string(self.data().join("postmaster.pid")).expect("it runs");
            let pid = pid.lines().next().and_then(|line| line.parse().ok()).expect("a process");
            // Its children see that it is gone, and end; the guard waits for it.
            rustix::process::kill_process(rustix::process::Pid::from_raw(pid).expect("a process"), rustix::process::Signal::KILL)
                .expect("it runs");
            writeln!(guard.stdin.take().expect("piped"), "keep").expect("it listens");
            guard.wait().expect("it ends");
        }
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://latchkey@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection of the test's own.
    pub async fn client(&self, database: &str) -> tokio_postgres::Client {
        connect(&self.url(database)).await.expect("the server runs")
    }

    pub async fn database(&self) -> TestDatabase {
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let client = self.client("postgres").await;
        client.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("a database is made");
        TestDatabase { url: self.url(&name), name }
    }

    /// Starts the server again after [`Self::stop`].
    pub async fn resume(&mut self) {
        assert!(self.guard.is_none(), "it runs");
        let mut server = vec![
            format!("listen_addresses=127.0.0.1"),
            format!("port={}", self.port),
            format!("unix_socket_directories={}", self.folder.path().display()),
            "shared_buffers=64MB".to_owned(),
            "max_connections=200".to_owned(),
            "max_wal_senders=10".to_owned(),
        ];
        server.extend(self.settings.iter().cloned());
        let settings: Vec<String> = server.into_iter().map(|setting| format!("-c{setting}")).collect();
        // The guard waits for its standard input to close, which the end of the test process does;
        // then nobody needs the folder any more.
        let script = r#"data=$1; shift; "$@" >>"$data/server.log" 2>&1 & server=$!; echo $server; read -r keep; kill -INT $server 2>/dev/null; wait $server; [ "$keep" ] || rm -rf "${data%/data}""#;
        let mut guard = as_postgres(Path::new("/bin/sh"));
        guard.args(["-c", script, "guard"]).arg(self.data()).arg(binary("postgres")).arg("-D").arg(self.data()).args(settings);
        let mut guard = guard.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell");
        let mut line = String::new();
        BufReader::new(guard.stdout.take().expect("piped")).read_line(&mut line).expect("it says which process it has started");
        self.guard = Some(guard);
        let stat = PathBuf::from(format!("/proc/{}/stat", line.trim()));
        while connect(&self.url("postgres")).await.is_err() {
            // Its parent has not asked yet how it ended: it is a zombie then.
            let runs = std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
            assert!(
                runs,
                "PostgreSQL did not start: {}",
                std::fs::read_to_string(self.data().join("server.log")).unwrap_or_default()
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Stops the server, as `pg_ctl stop -m fast` does.
    pub fn stop(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            writeln!(guard.stdin.take().expect("piped"), "keep").expect("it listens");
            guard.wait().expect("it ends");
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Below those that the kernel gives to connections as they come: one that is free now stays so
/// until the server takes it.
fn free_port() -> u16 {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    loop {
        let at = std::process::id().wrapping_mul(61).wrapping_add(TRIED.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(20_000 + at % 12_000).expect("small");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

async fn connect(url: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// One of the server's programs, from Debian's package: not from the PATH, where another build may
/// stand.
fn binary(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed (scripts/test does it)");
    let found = versions.flatten().map(|version| version.path().join("bin").join(name)).filter(|path| path.exists()).max();
    found.expect("PostgreSQL's server is installed")
}

/// PostgreSQL does not run as root.
fn as_postgres(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
    command.current_dir("/");
    command
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn run(command: &mut Command) {
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
