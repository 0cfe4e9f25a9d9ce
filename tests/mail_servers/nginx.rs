//! nginx's mail proxy with the configuration of `deploy/nginx`, in front of backends that take
//! every login and say whose it was.

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    agent::{Agent, free_port, log_in},
    server::StoreKind,
    world::{ADDRESS, World},
};

const DEADLINE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(10);
const CONFIGURATION: &str = include_str!("../../deploy/nginx/latchkey-mail.conf");
const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// How nginx is reached: the ports of the configuration.
const DOORS: [(&str, u16, &str); 5] =
    [("imap", 993, "tls"), ("imap", 143, "starttls"), ("pop3", 995, "tls"), ("smtp", 465, "tls"), ("smtp", 587, "starttls")];

/// nginx, the agent, a replica and the backends.
struct Host {
    world: World,
    agent: Agent,
    nginx: Child,
    /// Ours, in the order of [`DOORS`].
    ports: [u16; 5],
    /// Who logged in at a backend, and with which password.
    seen: Arc<Mutex<Vec<(String, String)>>>,
    folder: TempDir,
}

impl Host {
    async fn start() -> Self {
        let world = World::new(StoreKind::Sqlite).await;
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("secret"), format!("{SECRET}\n")).unwrap();
        let seen: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
        let http = format!("127.0.0.1:{}", free_port());
        let mut arguments = vec!["--http-listen".to_owned(), http.clone(), "--http-secret-file".to_owned(), path("secret")];
        for protocol in ["imap", "pop3", "smtp"] {
            let backend = start_backend(protocol, Arc::clone(&seen)).await;
            arguments.extend(["--nginx-backend".to_owned(), format!("{protocol}={backend}")]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let agent = Agent::start(&world.server.url(), folder.path(), &arguments);

        let certified = rcgen::generate_simple_self_signed(["mail.example.com".to_owned()]).unwrap();
        std::fs::write(path("certificate.pem"), certified.cert.pem()).unwrap();
        std::fs::write(path("key.pem"), certified.signing_key.serialize_pem()).unwrap();
        let ports = std::array::from_fn(|_| free_port());
        let mut configuration = CONFIGURATION.to_owned();
        let mut put = |old: &str, new: &str| {
            assert!(configuration.contains(old), "deploy/nginx has no {old:?}");
            configuration = configuration.replace(old, new);
        };
        put("127.0.0.1:9000/nginx;", &format!("{http}/nginx;"));
        put("change this", SECRET);
        put("/etc/ssl/certs/mail.example.com.pem", &path("certificate.pem"));
        put("/etc/ssl/private/mail.example.com.key", &path("key.pem"));
        for ((_, usual, tls), port) in DOORS.iter().zip(ports) {
            let ssl = if *tls == "tls" { " ssl" } else { "" };
            put(&format!("listen {usual}{ssl};"), &format!("listen 127.0.0.1:{port}{ssl};"));
        }
        let head = format!(
            "load_module /usr/lib/nginx/modules/ngx_mail_module.so;\npid {};\nerror_log {};\nevents {{}}\n",
            path("pid"),
            path("error.log")
        );
        std::fs::write(path("nginx.conf"), format!("{head}{configuration}")).unwrap();
        let mut command = Command::new("/usr/sbin/nginx");
        command.args(["-p", folder.path().to_str().unwrap(), "-c", &path("nginx.conf"), "-g", "daemon off; master_process off;"]);
        let nginx = command.stdin(Stdio::null()).spawn().expect("nginx is installed");
        let host = Self { world, agent, nginx, ports, seen, folder };
        host.wait_for_nginx().await;
        host
    }

    async fn wait_for_nginx(&self) {
        let deadline = Instant::now() + DEADLINE;
        for port in self.ports {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                assert!(Instant::now() < deadline, "nginx does not listen: {}", self.log());
                sleep(LOOK).await;
            }
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("error.log")).unwrap_or_default()
    }

    /// What mail programs meet at each of [`DOORS`].
    fn log_in_everywhere(&self, user: &str, password: &str) -> [String; 5] {
        let mut doors = DOORS.iter().zip(self.ports);
        std::array::from_fn(|_| {
            let ((protocol, _, tls), port) = doors.next().unwrap();
            log_in(protocol, port, tls, user, password)
        })
    }

    /// A connection over TLS to the first door, for what no mail program would send.
    async fn raw_imap(&self) -> BufReader<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        let certificates = CertificateDer::pem_file_iter(self.folder.path().join("certificate.pem")).unwrap();
        roots.add_parsable_certificates(certificates.map(Result::unwrap));
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(("127.0.0.1", self.ports[0])).await.unwrap();
        let name = "mail.example.com".try_into().unwrap();
        let mut stream = BufReader::new(TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap());
        assert!(line(&mut stream).await.starts_with("* OK"));
        stream
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.nginx.kill();
        let _ = self.nginx.wait();
    }
}

async fn line(stream: &mut (impl AsyncBufReadExt + Unpin)) -> String {
    let mut line = String::new();
    timeout(DEADLINE, stream.read_line(&mut line)).await.expect("a line in time").unwrap();
    line.trim_end().to_owned()
}

async fn start_backend(protocol: &'static str, seen: Arc<Mutex<Vec<(String, String)>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let _ = serve_backend(protocol, BufReader::new(stream), seen).await;
            });
        }
    });
    address
}

/// Takes nginx's login, and then answers whatever the client sends with the protocol's "done".
async fn serve_backend(
    protocol: &str,
    mut stream: BufReader<TcpStream>,
    seen: Arc<Mutex<Vec<(String, String)>>>,
) -> std::io::Result<()> {
    let greeting: &[u8] = match protocol {
        "imap" => b"* OK backend\r\n",
        "pop3" => b"+OK backend\r\n",
        _ => b"220 backend\r\n",
    };
    stream.write_all(greeting).await?;
    let mut user = String::new();
    loop {
        let command = line(&mut stream).await;
        if command.is_empty() {
            return Ok(());
        }
        let tag = command.split(' ').next().unwrap_or_default().to_owned();
        let answer = if protocol == "imap" && command.contains(" LOGIN {") {
            stream.write_all(b"+ go on\r\n").await?;
            let with_size = line(&mut stream).await;
            let user = with_size.rsplit_once(" {").unwrap().0.to_owned();
            stream.write_all(b"+ go on\r\n").await?;
            let password = line(&mut stream).await;
            seen.lock().unwrap().push((user, password));
            format!("{tag} OK done\r\n")
        } else if let Some(name) = command.strip_prefix("USER ") {
            name.clone_into(&mut user);
            "+OK\r\n".to_owned()
        } else if let Some(password) = command.strip_prefix("PASS ") {
            seen.lock().unwrap().push((user.clone(), password.to_owned()));
            "+OK\r\n".to_owned()
        } else if let Some(message) = command.strip_prefix("AUTH PLAIN ") {
            let message = BASE64_STANDARD.decode(message).unwrap();
            let parts: Vec<_> = message.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
            seen.lock().unwrap().push((parts[1].to_string(), parts[2].to_string()));
            "235 2.7.0 done\r\n".to_owned()
        } else {
            match protocol {
                "imap" => format!("{tag} OK done\r\n"),
                "pop3" => "+OK\r\n".to_owned(),
                _ => "250 AUTH PLAIN LOGIN\r\n".to_owned(),
            }
        };
        stream.write_all(answer.as_bytes()).await?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_lets_a_device_in_until_it_is_disconnected_in_each_protocols_own_words() {
    let mut host = Host::start().await;
    let (device, password) = host.world.add("Phone").await;
    assert_eq!(host.log_in_everywhere("ALICE@Example.com", &password), ["OK"; 5], "{}\n{}", host.log(), host.agent.log());
    let seen = std::mem::take(&mut *host.seen.lock().unwrap());
    assert_eq!(seen, vec![(ADDRESS.to_owned(), password.clone()); 5], "each backend is logged in at as the canonical user");

    host.world.disconnect(&device).await;
    let refused = host.log_in_everywhere(ADDRESS, &password);
    for (said, words) in refused.iter().zip([
        "REFUSED b'[AUTHENTICATIONFAILED] ",
        "REFUSED b'[AUTHENTICATIONFAILED] ",
        "REFUSED b'-ERR [AUTH] ",
        "REFUSED 535 5.7.8 ",
        "REFUSED 535 5.7.8 ",
    ]) {
        assert!(said.starts_with(words), "{refused:?}");
    }
    assert_eq!(*host.seen.lock().unwrap(), [], "no backend hears of a denied login");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_latchkey_down_each_client_is_told_to_try_later_and_with_the_agent_down_too() {
    let mut host = Host::start().await;
    let (_, password) = host.world.add("Phone").await;
    // Never seen before, so that no cache has it. The replica is gone for good.
    host.world.server.signal(rustix::process::Signal::KILL);
    let refused = host.log_in_everywhere(ADDRESS, &password);
    for (said, words) in refused.iter().zip([
        "REFUSED b'[UNAVAILABLE] ",
        "REFUSED b'[UNAVAILABLE] ",
        "REFUSED b'-ERR [SYS/TEMP] ",
        "REFUSED 454 4.7.0 ",
        "REFUSED 454 4.7.0 ",
    ]) {
        assert!(said.starts_with(words), "{refused:?}\n{}", host.agent.log());
    }
    host.agent.kill();
    let refused = host.log_in_everywhere(ADDRESS, &password);
    // These words are nginx's own: an internal error, after which it closes the connection.
    for said in refused {
        let is_permanent = ["AUTHENTICATIONFAILED", "[AUTH]", " 535"].iter().any(|words| said.contains(words));
        assert!(said != "OK" && !is_permanent, "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_name_cannot_put_a_word_into_the_answer_and_a_guesser_is_slowed_and_cut_off() {
    let mut host = Host::start().await;
    let (_, password) = host.world.add("Phone").await;
    let names = [
        "x@example.com\r\nAuth-Status: OK\r\nAuth-Server: 127.0.0.1",
        "alice@example.com%0d%0aAuth-Status:%20OK",
        "\"alice@example.com\" {3}",
        "a\tb \0@example.com",
        "ål\u{20ac}@example.com",
    ];
    let mut stream = host.raw_imap().await;
    for (attempt, name) in names.iter().enumerate() {
        let begun = Instant::now();
        stream.write_all(format!("a LOGIN {{{}}}\r\n", name.len()).as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        assert!(line(&mut stream).await.starts_with('+'));
        stream.write_all(format!("{name} {password}\r\n").as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        let said = line(&mut stream).await;
        assert_eq!(said, "a NO [AUTHENTICATIONFAILED] Authentication failed.", "attempt {attempt}: {name:?}");
        if attempt < 4 {
            assert!(begun.elapsed() >= Duration::from_secs(2), "attempt {attempt}");
        }
    }
    let mut rest = Vec::new();
    let _ = timeout(DEADLINE, stream.read_to_end(&mut rest)).await.expect("nginx closes the connection after the fifth");
    assert_eq!(*host.seen.lock().unwrap(), []);
}
