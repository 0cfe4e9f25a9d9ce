//! The world that the histories happen in: one PostgreSQL, three replicas with a proxy each, some
//! dozens of mailboxes.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use latchkey::{
    passwords::pepper::Pepper,
    proto::{
        self, authorization_client::AuthorizationClient, device_credentials_client::DeviceCredentialsClient,
        directory_client::DirectoryClient,
    },
};
use tempfile::TempDir;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    checker::LEASE,
    database::Database,
    history::{Book, Failure, now},
    server::{Ground, Server},
    support::postgres::TestDatabase,
    support::proxy::Proxy,
    watcher::words,
};

pub const REPLICAS: usize = 3;
const MAILBOXES: usize = 30;
/// For a new connection to a replica, which may be stopped.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

pub struct Replica {
    pub number: usize,
    pub proxy: Proxy,
    /// For logins and revocations: finds the replica again once it is back.
    pub channel: Channel,
    pub endpoint: Endpoint,
    /// `None` while it is dead. Locked by who does something to it.
    pub server: tokio::sync::Mutex<Option<Server>>,
    address: String,
    ground: Ground,
    pepper: PathBuf,
    /// What its processes have logged that are no more.
    past_log: Mutex<String>,
}

pub struct World {
    pub replicas: Vec<Replica>,
    pub database: tokio::sync::Mutex<Database>,
    pub mailboxes: Vec<String>,
    pub book: Book,
    /// The test's numbers of devices.
    devices: Mutex<HashMap<String, usize>>,
    /// How watchers' streams ended, and how often.
    pub stream_ends: Mutex<BTreeMap<String, usize>>,
    /// Holds the pepper, which all replicas share.
    _folder: TempDir,
}

impl World {
    pub async fn new() -> Self {
        let (database, direct) = Database::start().await;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let pepper = folder.path().join("pepper");
        Pepper::random().create(&pepper).expect("a pepper");
        let mut replicas = vec![];
        for number in 0..REPLICAS {
            let proxy = Proxy::start(database.address()).await;
            let url = direct.replace(&format!(":{}/", database.port()), &format!(":{}/", proxy.port));
            assert_ne!(url, direct);
            let ground = Ground {
                folder: tempfile::tempdir().expect("a temporary folder"),
                database: Some(TestDatabase { url, name: String::new() }),
            };
            replicas.push(Replica::start(number, proxy, ground, pepper.clone()).await);
        }
        let mailboxes = (0..MAILBOXES).map(|number| format!("user{number}@example.com")).collect();
        let world = Self {
            replicas,
            database: tokio::sync::Mutex::new(database),
            mailboxes,
            book: Book::default(),
            devices: Mutex::default(),
            stream_ends: Mutex::default(),
            _folder: folder,
        };
        world.provision().await;
        world
    }

    async fn provision(&self) {
        let mut directory = DirectoryClient::new(self.replicas[0].channel.clone());
        let organization = proto::PutOrganizationRequest { organization_id: "acme".into(), display_name: "Acme".into() };
        directory.put_organization(organization).await.expect("an organization is put");
        let mail_service_id = "mail".to_owned();
        let service = proto::PutMailServiceRequest {
            mail_service_id: mail_service_id.clone(),
            organization_id: "acme".into(),
            display_name: "Mail".into(),
        };
        directory.put_mail_service(service).await.expect("a mail service is put");
        for address in self.mailboxes.clone() {
            let mail_service_id = mail_service_id.clone();
            let mailbox =
                proto::PutMailboxRequest { address, mail_service_id, generic_password_hash: String::new(), max_wait: None };
            directory.put_mailbox(mailbox).await.expect("a mailbox is put");
        }
    }

    pub fn authorization(&self, replica: usize) -> AuthorizationClient<Channel> {
        AuthorizationClient::new(self.replicas[replica].channel.clone())
    }

    pub fn credentials(&self, replica: usize) -> DeviceCredentialsClient<Channel> {
        DeviceCredentialsClient::new(self.replicas[replica].channel.clone())
    }

    /// The replicas find another primary where the old one was: as behind an address that moves
    /// with it.
    pub fn lead_to(&self, primary: SocketAddr) {
        self.replicas.iter().for_each(|replica| replica.proxy.lead_to(primary));
    }

    /// Notes how a watcher's stream ended: what the watcher is blamed for, as a refusal.
    pub fn stream_ended(&self, watcher: usize, status: &Status) {
        let words = words(status);
        if status.code() == Code::InvalidArgument {
            let (now, what) = (now(), format!("the stream of watcher {watcher}: {words}"));
            self.book.write().failures.push(Failure { began: now, ended: now, what, is_refusal: true });
        }
        *self.stream_ends.lock().unwrap_or_else(PoisonError::into_inner).entry(words).or_default() += 1;
    }

    /// Gives a device its number.
    pub fn number(&self, device_id: &str) -> usize {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        let next = devices.len();
        *devices.entry(device_id.to_owned()).or_insert(next)
    }

    pub fn number_of(&self, device_id: &str) -> Option<usize> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner).get(device_id).copied()
    }
}

impl Replica {
    async fn start(number: usize, proxy: Proxy, ground: Ground, pepper: PathBuf) -> Self {
        let server = run(&ground, &pepper, number, "127.0.0.1:0").await.expect("it starts");
        let endpoint = Channel::from_shared(server.url()).expect("a good URL").connect_timeout(CONNECT_TIMEOUT);
        Self {
            number,
            proxy,
            channel: endpoint.connect_lazy(),
            endpoint,
            address: server.address.clone(),
            server: tokio::sync::Mutex::new(Some(server)),
            ground,
            pepper,
            past_log: Mutex::default(),
        }
    }

    /// Starts its process again, on its old port, as soon as the database lets it.
    pub async fn start_again(&self, server: &mut Option<Server>) {
        loop {
            match run(&self.ground, &self.pepper, self.number, &self.address).await {
                Ok(started) => break *server = Some(started),
                Err(why) => self.past_log().push_str(&why),
            }
        }
    }

    /// Ends its process: at once, or as a supervisor does that lets it drain.
    pub async fn end(&self, server: &mut Option<Server>, signal: rustix::process::Signal) {
        if let Some(server) = server.take() {
            self.past_log().push_str(&server.log());
            server.signal(signal);
            tokio::task::spawn_blocking(|| server.wait()).await.expect("no panic");
        }
    }

    /// All that its processes have logged.
    pub async fn log(&self) -> String {
        let server = self.server.lock().await;
        self.past_log().clone() + &server.as_ref().map(Server::log).unwrap_or_default()
    }

    fn past_log(&self) -> MutexGuard<'_, String> {
        self.past_log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn run(ground: &Ground, pepper: &Path, number: usize, listen: &str) -> Result<Server, String> {
    let lease = format!("{}ms", LEASE.as_millis());
    let name = format!("replica-{number}");
    let mut command = ground.command(&["--lease", &lease, "--listen", listen, "--node-name", &name, "--drain-timeout", "3s"]);
    command.env("LATCHKEY_PEPPER_FILE", pepper);
    // It reads the process's output until that says that it is ready.
    tokio::task::spawn_blocking(move || Server::start(command)).await.expect("no panic")
}
