//! `latchkey probe`, against scripted mail servers: a file says that the password is revoked.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};
use tokio_rustls::TlsAcceptor;

use super::{Ran, latchkey, run};

const PASSWORD: &str = "correct horse battery";
/// How the scripted servers look for the file.
const LOOK: Duration = Duration::from_millis(2);

/// How a scripted server behaves.
#[derive(Clone, Default)]
struct Script {
    /// Logins are let in for so long after the revocation: a cache.
    cached_for: Duration,
    /// It never denies.
    is_deaf: bool,
    /// The session stays.
    keeps_session: bool,
    /// After the revocation it says try later.
    is_unsure: bool,
    /// Sends this together with the answer to STARTTLS.
    injects: &'static str,
    /// No login is ever let in.
    denies_all: bool,
}

#[derive(Clone)]
struct World {
    script: Script,
    revoked: PathBuf,
    tls: TlsAcceptor,
}

struct Server {
    address: SocketAddr,
    folder: TempDir,
    _runtime: Runtime,
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}
type Stream = BufReader<Box<dyn Io>>;

impl World {
    fn since_revoked(&self) -> Option<Duration> {
        std::fs::metadata(&self.revoked).ok().map(|file| file.modified().unwrap().elapsed().unwrap_or_default())
    }

    /// `Some(true)`: let in, `Some(false)`: denied.
    fn judge(&self, password: &str) -> Option<bool> {
        let is_revoked = self.since_revoked().is_some_and(|since| since >= self.script.cached_for);
        match is_revoked {
            true if self.script.is_unsure => None,
            true if !self.script.is_deaf => Some(false),
            _ => Some(password == PASSWORD && !self.script.denies_all),
        }
    }

    async fn session_ends(&self) {
        while self.script.keeps_session || self.since_revoked().is_none() {
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn encrypt(&self, stream: Stream) -> Stream {
        BufReader::new(Box::new(self.tls.accept(stream.into_inner()).await.unwrap()))
    }
}

impl Server {
    /// `protocol` as in a URL; with an `s` at its end, TLS comes first.
    fn start(protocol: &'static str, script: Script) -> Self {
        let folder = TempDir::new().unwrap();
        let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["mail.test".to_owned()]).unwrap();
        std::fs::write(folder.path().join("ca.pem"), cert.pem()).unwrap();
        std::fs::write(folder.path().join("password"), format!("{PASSWORD}\nsecond line")).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let world = World { script, revoked: folder.path().join("revoked"), tls: TlsAcceptor::from(Arc::new(tls)) };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let world = world.clone();
                tokio::spawn(async move {
                    // A client that leaves in the middle is no failure of the server.
                    let _ = serve(protocol, stream, world).await;
                });
            }
        });
        Self { address, folder, _runtime: runtime }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn probe(&self, scheme: &str, more: &[&str]) -> Ran {
        let revoked = self.path("revoked");
        self.probe_with(scheme, more, &["touch", &revoked])
    }

    fn probe_with(&self, scheme: &str, more: &[&str], command: &[&str]) -> Ran {
        let (url, ca, password) = (format!("{scheme}://{}", self.address), self.path("ca.pem"), self.path("password"));
        let arguments =
            ["probe", &url, "--user", "alice@example.com", "--password-file", &password, "--ca", &ca, "--tls-name", "mail.test"];
        let every: &[&str] = if more.contains(&"--every") { &[] } else { &["--every", "10ms"] };
        let quick = [every, &["--settle", "200ms"]].concat();
        let ran = run(latchkey(&[&arguments[..], &quick, more, &["--"], command].concat()), "");
        assert!(!ran.out.contains(PASSWORD) && !ran.err.contains(PASSWORD), "{ran:?}");
        ran
    }
}

async fn serve(protocol: &str, stream: TcpStream, world: World) -> std::io::Result<()> {
    let mut stream: Stream = BufReader::new(Box::new(stream));
    let is_implicit = protocol.ends_with('s');
    if is_implicit {
        stream = world.encrypt(stream).await;
    }
    match protocol.trim_end_matches('s') {
        "imap" => imap(stream, world, is_implicit).await,
        "pop3" => pop3(stream, world, is_implicit).await,
        _ => smtp(stream, world, is_implicit).await,
    }
}

async fn line(stream: &mut Stream) -> std::io::Result<String> {
    let mut line = String::new();
    match stream.read_line(&mut line).await? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim_end().to_owned()),
    }
}

async fn say(stream: &mut Stream, text: &str) -> std::io::Result<()> {
    stream.write_all(format!("{text}\r\n").as_bytes()).await?;
    stream.flush().await
}

/// The password of a message of SASL PLAIN.
fn password(message: &str) -> String {
    let message = BASE64_STANDARD.decode(message).unwrap();
    let parts: Vec<_> = message.split(|byte| *byte == 0).map(|part| String::from_utf8(part.to_vec()).unwrap()).collect();
    assert_eq!((parts[0].as_str(), parts[1].as_str()), ("", "alice@example.com"));
    parts[2].clone()
}

async fn imap(mut stream: Stream, world: World, mut is_secure: bool) -> std::io::Result<()> {
    say(&mut stream, "* OK hello").await?;
    loop {
        match line(&mut stream).await?.as_str() {
            "c CAPABILITY" if is_secure => say(&mut stream, "* CAPABILITY IMAP4rev1 IDLE AUTH=PLAIN\r\nc OK done").await?,
            "c CAPABILITY" => say(&mut stream, "* CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED\r\nc OK done").await?,
            "t STARTTLS" => {
                say(&mut stream, &format!("t OK go on{}", world.script.injects)).await?;
                stream = world.encrypt(stream).await;
                is_secure = true;
            }
            "a AUTHENTICATE PLAIN" => {
                say(&mut stream, "+ ").await?;
                let answer = match world.judge(&password(&line(&mut stream).await?)) {
                    Some(true) => "a OK [CAPABILITY IMAP4rev1 IDLE] Logged in",
                    Some(false) => "a NO [AUTHENTICATIONFAILED] Authentication failed.",
                    None => "a NO [UNAVAILABLE] Temporary authentication failure.",
                };
                say(&mut stream, answer).await?;
            }
            "i IDLE" => {
                say(&mut stream, "+ idling\r\n* 3 EXISTS").await?;
                world.session_ends().await;
                return say(&mut stream, "* BYE Server shutting down.").await;
            }
            "z LOGOUT" => return say(&mut stream, "* BYE so long\r\nz OK").await,
            other => panic!("{other}"),
        }
    }
}

async fn pop3(mut stream: Stream, world: World, mut is_secure: bool) -> std::io::Result<()> {
    say(&mut stream, "+OK hello").await?;
    loop {
        match line(&mut stream).await?.as_str() {
            "CAPA" if is_secure => say(&mut stream, "+OK\r\nUSER\r\nSASL LOGIN\r\n.").await?,
            "CAPA" => say(&mut stream, "+OK\r\nSTLS\r\n.").await?,
            "STLS" => {
                say(&mut stream, "+OK go on").await?;
                stream = world.encrypt(stream).await;
                is_secure = true;
            }
            "USER alice@example.com" => say(&mut stream, "+OK").await?,
            "NOOP" if !world.script.keeps_session && world.since_revoked().is_some() => return Ok(()),
            "NOOP" => say(&mut stream, "+OK").await?,
            "QUIT" => return say(&mut stream, "+OK").await,
            other => {
                let answer = match world.judge(other.strip_prefix("PASS ").unwrap()) {
                    Some(true) => "+OK Logged in.",
                    Some(false) => "-ERR [AUTH] Authentication failed.",
                    None => "-ERR [SYS/TEMP] Temporary authentication failure.",
                };
                say(&mut stream, answer).await?;
            }
        }
    }
}

async fn smtp(mut stream: Stream, world: World, mut is_secure: bool) -> std::io::Result<()> {
    say(&mut stream, "220-hello\r\n220 there").await?;
    loop {
        match line(&mut stream).await?.as_str() {
            "EHLO [127.0.0.1]" if is_secure => say(&mut stream, "250-mail.test\r\n250-AUTH LOGIN PLAIN\r\n250 8BITMIME").await?,
            "EHLO [127.0.0.1]" => say(&mut stream, "250-mail.test\r\n250 STARTTLS").await?,
            "STARTTLS" => {
                say(&mut stream, "220 go on").await?;
                stream = world.encrypt(stream).await;
                is_secure = true;
            }
            "MAIL FROM:<alice@example.com>" | "RSET" => say(&mut stream, "250 ok").await?,
            "RCPT TO:<alice@example.com>" if !world.script.keeps_session && world.since_revoked().is_some() => {
                return say(&mut stream, "421 4.7.0 Your password was revoked").await;
            }
            "RCPT TO:<alice@example.com>" => say(&mut stream, "250 ok").await?,
            "QUIT" => return say(&mut stream, "221 bye").await,
            other => {
                let answer = match world.judge(&password(other.strip_prefix("AUTH PLAIN ").unwrap())) {
                    Some(true) => "235 2.7.0 ok",
                    Some(false) => "535 5.7.8 no",
                    None => "454 4.7.0 later",
                };
                say(&mut stream, answer).await?;
            }
        }
    }
}

fn seconds(report: &Value, what: &str, field: &str) -> f64 {
    report[what][field].as_f64().unwrap_or_else(|| panic!("{what}.{field} in {report}"))
}

#[test]
fn each_protocol_is_probed_over_starttls_and_over_tls_until_logins_are_denied_and_the_session_has_ended() {
    for (protocol, held_by, words) in [
        ("imap", "IDLE", "* BYE Server shutting down."),
        ("imaps", "IDLE", "* BYE Server shutting down."),
        ("pop3", "NOOP", "the server closed the connection"),
        ("pop3s", "NOOP", "the server closed the connection"),
        ("smtp", "RCPT", "421 4.7.0 Your password was revoked"),
        ("smtps", "RCPT", "421 4.7.0 Your password was revoked"),
    ] {
        let server = Server::start(protocol, Script::default());
        let ran = server.probe(protocol, &["--json"]);
        assert_eq!(ran.code, 0, "{protocol}: {ran:?}");
        let report = ran.json();
        assert_eq!((report["verdict"].as_str(), report["held_by"].as_str()), (Some("revoked"), Some(held_by)), "{report}");
        assert_eq!(
            (report["session_ended"]["how"].as_str(), report["session_ended"]["words"].as_str()),
            (Some("closed"), Some(words))
        );
        // `touch` makes the file before it ends, so what came after it is denied.
        assert!(seconds(&report, "last_accepted", "begun_seconds") < 0.0, "{report}");
        assert!(
            seconds(&report, "first_denied", "begun_seconds") > seconds(&report, "last_accepted", "begun_seconds"),
            "{report}"
        );
        assert_eq!(report["logins_after"]["accepted"], 0, "{report}");
        assert!(report["logins_after"]["denied"].as_u64().unwrap() > 0, "{report}");
    }
}

#[test]
fn a_cache_shows_by_how_long_the_old_password_was_accepted_after_the_revocation() {
    let server = Server::start("imaps", Script { cached_for: Duration::from_millis(400), ..Script::default() });
    let ran = server.probe("imaps", &["--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let last = seconds(&ran.json(), "last_accepted", "begun_seconds");
    assert!((0.2..=0.4).contains(&last), "{ran:?}");
    let server = Server::start("imaps", Script { cached_for: Duration::from_millis(400), ..Script::default() });
    let ran = server.probe("imaps", &[]);
    assert!(
        ran.out.contains("Revoked: logins are denied, and the session has ended.") && ran.out.contains("Last login accepted"),
        "{ran:?}"
    );
}

#[test]
fn what_is_not_revoked_at_the_end_ends_1_and_what_nobody_answers_3() {
    for (script, verdict, code) in [
        (Script { is_deaf: true, ..Script::default() }, "still_accepted", 1),
        (Script { keeps_session: true, ..Script::default() }, "session_open", 1),
        (Script { is_unsure: true, ..Script::default() }, "unknown", 3),
    ] {
        for protocol in ["imaps", "pop3s", "smtps"] {
            let server = Server::start(protocol, script.clone());
            let ran = server.probe(protocol, &["--json", "--for", "500ms"]);
            assert_eq!((ran.code, ran.json()["verdict"].as_str()), (code, Some(verdict)), "{protocol}: {ran:?}");
        }
    }
}

#[test]
fn a_probe_that_cannot_begin_says_why_and_does_not_revoke() {
    let server = Server::start("imaps", Script { denies_all: true, ..Script::default() });
    let ran = server.probe("imaps", &[]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("before anything was revoked") && ran.err.contains("AUTHENTICATIONFAILED"), "{ran:?}");
    // Nobody is there, and somebody who is no mail server.
    let gone = TcpListener::bind("127.0.0.1:0");
    let gone = Runtime::new().unwrap().block_on(gone).unwrap().local_addr().unwrap();
    let arguments =
        |url: &str| ["probe".to_owned(), url.to_owned(), "--user".to_owned(), "a".to_owned(), "--password-stdin".to_owned()];
    let command = ["--".to_owned(), "touch".to_owned(), server.path("revoked")];
    for (url, words) in [(format!("imap://{gone}"), "no connection"), (format!("smtps://{}", server.address), "TLS")] {
        let ran = run(latchkey(&[&arguments(&url)[..], &command].concat().iter().map(String::as_str).collect::<Vec<_>>()), "x");
        assert!(ran.code == 3 && ran.err.contains(words), "{ran:?}");
    }
    assert!(!Path::new(&server.path("revoked")).exists());
}

#[test]
fn a_command_that_fails_is_no_revocation() {
    for (command, code, words) in [
        (&["false"][..], 3, "`false` failed"),
        (&["/no/such/program"], 2, "is not there"),
        (&["sleep", "60"], 3, "did not end within --command-timeout"),
    ] {
        let server = Server::start("imaps", Script::default());
        let ran = server.probe_with("imaps", &["--command-timeout", "300ms"], command);
        assert!(ran.code == code && ran.err.contains(words), "{command:?}: {ran:?}");
    }
}

#[test]
fn what_was_injected_before_tls_is_refused() {
    let server = Server::start("imap", Script { injects: "\r\na OK", ..Script::default() });
    let ran = server.probe("imap", &[]);
    assert!(ran.code == 3 && ran.err.contains("somebody may be in between"), "{ran:?}");
}

#[test]
fn logins_have_a_limit_and_arguments_have_bounds() {
    let server = Server::start("imaps", Script { is_deaf: true, ..Script::default() });
    let ran = server.probe("imaps", &["--max-logins", "5", "--json"]);
    assert_eq!(ran.json()["is_cut_short"], true, "{ran:?}");
    for (arguments, words) in [
        (&["--every", "0s"][..], "must be from 1ms to 1h"),
        (&["--for", "7h"], "to 6h"),
        (&["--max-logins", "1"], "2..=1000000"),
        (&["--password-stdin"], "cannot be used with"),
    ] {
        let ran = server.probe("imaps", arguments);
        assert!(ran.code == 2 && ran.err.contains(words), "{arguments:?}: {ran:?}");
    }
    let ran = run(latchkey(&["probe", "imaps://mail.test", "--user", "a\nb", "--password-stdin", "--", "true"]), "x");
    assert!(ran.code == 2 && ran.err.contains("--user"), "{ran:?}");
}
