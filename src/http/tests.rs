//! The HTTP interface over a socket, as mail servers use it: with an authority that answers by the
//! user's name.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Duration, timeout},
};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::{Settings, form, run};
use crate::{
    authority::{Admission, Answer, Authority, Host, NoAnswer, SessionNumber, Standing, TooManySessions},
    clock::SystemClock,
    lifecycle::Drain,
};
use latchkey_core::model::{
    address::Address,
    change::Revision,
    clock::Timestamp,
    id::{DeviceId, MailboxId},
    protocol::Protocol,
    secret::Secret,
    verdict::{Attempt, ProvenPassword, Reason, Session},
};

const DEADLINE: Duration = Duration::from_secs(20);
const SECRET: &str = "between nginx and us";

/// `good…` is let in, `later…` gets no answer, everybody else is denied.
#[derive(Default)]
struct Scripted {
    asked: Mutex<Vec<Attempt>>,
}

fn admission() -> Admission {
    let password = ProvenPassword {
        mailbox_id: MailboxId(Uuid::from_bytes([3; 16])),
        device_id: DeviceId(Uuid::from_bytes([7; 16])),
        generation: 1,
    };
    let address = Address::parse("address", "good@example.com").unwrap();
    Admission { session: Session { password, revision: Revision(1), address }, epoch: None }
}

#[async_trait]
impl Authority for Scripted {
    async fn authenticate(&self, attempt: &Attempt) -> Result<Answer, NoAnswer> {
        self.asked.lock().unwrap().push(attempt.clone());
        let answer = |reason, admission| Ok(Answer { reason, admission, is_from_cache: false });
        match attempt.address.as_str() {
            name if name.starts_with("good") => answer(Reason::Ok, Some(admission())),
            name if name.starts_with("later") => Err(NoAnswer::NoReplica("scripted".to_owned())),
            _ => answer(Reason::WrongPassword, None),
        }
    }

    async fn judge(&self, admission: &Admission) -> Result<Standing, NoAnswer> {
        match admission.epoch {
            None => Ok(Standing::Valid),
            Some(1) => Ok(Standing::Ended(Reason::DeviceDisconnected)),
            Some(_) => Err(NoAnswer::NoReplica("scripted".to_owned())),
        }
    }

    fn encode(&self, _: &Admission) -> String {
        "L1-admission".to_owned()
    }

    fn decode(&self, text: &str) -> Option<Admission> {
        let epoch = match text {
            "L1-admission" => None,
            "ended" => Some(1),
            "unheard" => Some(2),
            _ => return None,
        };
        Some(Admission { epoch, ..admission() })
    }

    fn opened(&self, _: &Admission, _: Protocol, _: Option<IpAddr>, _: Timestamp) -> Result<SessionNumber, TooManySessions> {
        panic!("nobody opens a session over HTTP")
    }

    fn closed(&self, _: SessionNumber) {}

    fn refused(&self, _: SessionNumber) {}
}

struct Server {
    address: SocketAddr,
    authority: Arc<Scripted>,
    drain: Drain,
    connections: TaskTracker,
}

impl Server {
    async fn start(secret: Option<&str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let authority = Arc::new(Scripted::default());
        let asked = Arc::clone(&authority);
        let backends = [("imap", "127.0.0.1:10143"), ("pop3", "[::1]:10110"), ("smtp", "127.0.0.1:10025")];
        let settings = Settings {
            secret: secret.map(|secret| Secret::from(secret.to_owned())),
            backends: backends.into_iter().map(|(name, address)| (name, address.parse().unwrap())).collect(),
            frontend: "test".to_owned(),
            service: Box::new(|name| (name == "submission").then_some(Protocol::Smtp)),
            is_ready: Box::new(move || asked.asked.lock().unwrap().is_empty()),
        };
        let host = Host {
            authority: Arc::clone(&authority) as _,
            closers: Arc::default(),
            clock: SystemClock::shared(),
            drain: Drain::new(),
            connections: TaskTracker::new(),
            name: "test".into(),
        };
        let (drain, connections) = (host.drain.clone(), host.connections.clone());
        tokio::spawn(run(listener, settings, host));
        Self { address, authority, drain, connections }
    }

    /// Sends bytes, and reads until the server closes.
    async fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // It may refuse and close before all is sent.
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("an answer in time");
        String::from_utf8(answer).unwrap()
    }

    /// As nginx asks.
    async fn nginx(&self, headers: &[(&str, &str)]) -> String {
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        self.exchange(format!("GET /nginx HTTP/1.0\r\nHost: localhost\r\n{headers}\r\n").as_bytes()).await
    }

    async fn post(&self, path: &str, body: &str) -> String {
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        self.exchange(format!("{head}{body}").as_bytes()).await
    }

    fn asked(&self) -> Option<Attempt> {
        self.authority.asked.lock().unwrap().pop()
    }
}

fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let head = answer.split("\r\n\r\n").next()?;
    head.lines().skip(1).find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

const QUESTION: [(&str, &str); 5] = [
    ("Auth-Method", "plain"),
    ("Auth-Pass", "pass%20word%25%00+"),
    ("Auth-Protocol", "imap"),
    ("Auth-Login-Attempt", "1"),
    ("Client-IP", "192.0.2.7"),
];

fn with<'a>(changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let kept = QUESTION.into_iter().filter(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
    kept.chain(changes.iter().copied()).collect()
}

#[tokio::test]
async fn nginx_is_sent_to_the_backend_of_the_protocol_as_the_canonical_user() {
    let server = Server::start(None).await;
    let answer = server.nginx(&with(&[("Auth-User", "Good%40Example.com")])).await;
    let attempt = server.asked().unwrap();
    assert_eq!((attempt.password.expose(), attempt.protocol), (&b"pass word%\0+"[..], Protocol::Imap));
    assert_eq!(attempt.client_ip, Some("192.0.2.7".parse::<IpAddr>().unwrap()));
    for (name, value) in
        [("auth-status", "OK"), ("auth-server", "127.0.0.1"), ("auth-port", "10143"), ("auth-user", "good@example.com")]
    {
        assert_eq!(header(&answer, name), Some(value), "{answer}");
    }
    assert_eq!(header(&answer, "auth-wait"), None);
    let answer = server.nginx(&with(&[("Auth-User", "good@example.com"), ("Auth-Protocol", "pop3")])).await;
    assert_eq!(header(&answer, "auth-server"), Some("::1"), "an IP literal without brackets");
}

#[tokio::test]
async fn each_protocol_has_its_own_words_for_a_denial_and_for_try_later() {
    let server = Server::start(None).await;
    for (protocol, user, status, code) in [
        ("imap", "bad@example.com", "[AUTHENTICATIONFAILED] ", None),
        ("imap", "later@example.com", "[UNAVAILABLE] ", None),
        ("pop3", "bad@example.com", "[AUTH] ", None),
        ("pop3", "later@example.com", "[SYS/TEMP] ", None),
        ("smtp", "bad@example.com", "Authentication failed", Some("535 5.7.8")),
        ("smtp", "later@example.com", "Temporary authentication failure", Some("454 4.7.0")),
    ] {
        let answer = server.nginx(&with(&[("Auth-User", user), ("Auth-Protocol", protocol)])).await;
        assert!(header(&answer, "auth-status").unwrap().starts_with(status), "{protocol} {user}: {answer}");
        assert_eq!(header(&answer, "auth-error-code"), code, "{protocol} {user}: {answer}");
        assert_eq!(header(&answer, "auth-server"), None);
    }
}

#[tokio::test]
async fn a_refusal_holds_the_client_up_until_its_last_attempt_and_then_nginx_closes() {
    let server = Server::start(None).await;
    for (attempt, wait) in [("1", Some("2")), ("4", Some("2")), ("5", None), ("99999999999999999999", None), ("-1", None)] {
        let answer = server.nginx(&with(&[("Auth-User", "bad@example.com"), ("Auth-Login-Attempt", attempt)])).await;
        assert_eq!(header(&answer, "auth-wait"), wait, "attempt {attempt}: {answer}");
        let answer = server.nginx(&with(&[("Auth-User", "later@example.com"), ("Auth-Login-Attempt", attempt)])).await;
        assert_eq!(header(&answer, "auth-wait"), wait, "attempt {attempt}: {answer}");
    }
}

#[tokio::test]
async fn what_nginx_cannot_ask_is_never_let_in_and_never_a_wrong_password() {
    let server = Server::start(None).await;
    for (change, words) in [
        (("Auth-Method", "cram-md5"), "[CANNOT]"),
        (("Auth-Method", "none"), "[CANNOT]"),
        (("Auth-Protocol", "nntp"), "Temporary"),
        (("Auth-Pass", "%4"), "[UNAVAILABLE]"),
        (("Auth-Pass", ""), "[AUTHENTICATIONFAILED]"),
        (("Auth-User", "no address"), "[AUTHENTICATIONFAILED]"),
        (("Auth-User", "good%0d%0aAuth-Status:%20OK@example.com"), "[AUTHENTICATIONFAILED]"),
        (("Auth-User", "good%ff@example.com"), "[AUTHENTICATIONFAILED]"),
    ] {
        let answer = server
            .nginx(&with(
                &[&[change][..], if change.0 == "Auth-User" { &[] } else { &[("Auth-User", "good@example.com")] }].concat(),
            ))
            .await;
        let status = header(&answer, "auth-status").unwrap();
        assert!(status.starts_with(words), "{change:?}: {answer}");
        assert_eq!(server.asked().map(|attempt| attempt.address), None, "{change:?}");
    }
    // Mail without a login, where nginx is set up to ask for that too.
    let answer = server.nginx(&with(&[("Auth-User", ""), ("Auth-Protocol", "smtp"), ("Auth-Method", "none")])).await;
    assert_eq!(header(&answer, "auth-error-code"), Some("530 5.7.0"));
}

#[tokio::test]
async fn without_the_secret_nobody_is_let_in_and_nobody_is_denied() {
    let server = Server::start(Some(SECRET)).await;
    let user = ("Auth-User", "good@example.com");
    for key in ["", "between nginx and u", "Between nginx and us"] {
        let answer = server.nginx(&with(&[user, ("Latchkey-Key", key)])).await;
        assert!(header(&answer, "auth-status").unwrap().starts_with("[UNAVAILABLE]"), "{answer}");
    }
    for path in ["/login", "/check"] {
        let answer = server.post(path, "user=good@example.com&password=x&protocol=imap&admission=L1-admission").await;
        assert!(answer.starts_with("HTTP/1.1 403 ") && body(&answer).starts_with("result=later\n"), "{answer}");
    }
    assert!(server.asked().is_none());
    let answer = server.nginx(&with(&[user, ("Latchkey-Key", SECRET)])).await;
    assert_eq!(header(&answer, "auth-status"), Some("OK"));
}

#[tokio::test]
async fn a_login_by_form_answers_lines_that_a_script_can_split() {
    let server = Server::start(None).await;
    let answer = server
        .post(
            "/login",
            "user=Good%40Example.com&password=a%26b%3D%2B+c%00&protocol=submission&rip=2001%3Adb8%3A%3A1&session=x%2Fy",
        )
        .await;
    let lines = "result=ok\nuser=good@example.com\ndevice=07070707-0707-0707-0707-070707070707\nadmission=L1-admission\n";
    assert_eq!(body(&answer), lines, "{answer}");
    let attempt = server.asked().unwrap();
    assert_eq!((attempt.password.expose(), attempt.protocol), (&b"a&b=+ c\0"[..], Protocol::Smtp));
    assert_eq!(attempt.client_ip, Some("2001:db8::1".parse::<IpAddr>().unwrap()));

    let answer = server.post("/login", "user=bad%40example.com&password=x&protocol=imap").await;
    assert_eq!(body(&answer), "result=denied\nreason=wrong_password\n");
    let answer = server.post("/login", "user=later%40example.com&password=x&protocol=imap").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && body(&answer) == "result=later\n", "{answer}");
    assert!(
        server.post("/login", "user=no+address&password=x&protocol=imap").await.contains("result=denied\nreason=malformed\n")
    );
}

#[tokio::test]
async fn a_session_is_good_ended_or_not_known() {
    let server = Server::start(None).await;
    for (admission, answer) in
        [("L1-admission", "result=ok\n"), ("ended", "result=ended\nreason=device_disconnected\n"), ("unheard", "result=later\n")]
    {
        assert_eq!(body(&server.post("/check", &format!("admission={admission}")).await), answer);
    }
}

#[tokio::test]
async fn a_broken_request_is_told_to_try_later_and_what_is_wrong_with_it() {
    let server = Server::start(None).await;
    let too_long = format!("user={}", "a".repeat(16 << 10));
    let many = (0..65).map(|i| format!("f{i}=1&")).collect::<String>();
    for (request, status, problem) in [
        (("/login", "user=a%40b&password=x&protocol=gopher"), 400, "protocol: must be imap"),
        (("/login", "password=x&protocol=imap"), 400, "user and password"),
        (("/login", "user=a%40b&password=%zz&protocol=imap"), 400, "two hexadecimal digits"),
        (("/login", "user=a%40b&user=c&password=x&protocol=imap"), 400, "given twice"),
        (("/login", "user=a%40b&password=x&protocol=imap&rip=here"), 400, "rip: must be an IP address"),
        (("/login", &too_long), 413, "16,384 bytes"),
        (("/login", &many), 400, "64 fields"),
        (("/check", ""), 400, "admission: "),
        (("/check", "admission=somebody's"), 400, "unchanged"),
        (("/elsewhere", ""), 404, "/nginx"),
        (("/nginx", ""), 405, "another method"),
    ] {
        let answer = server.post(request.0, request.1).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
        assert!(body(&answer).starts_with("result=later\nerror=") && answer.contains(problem), "{request:?}: {answer}");
    }
    assert!(server.asked().is_none());
}

#[tokio::test]
async fn health_and_readiness_need_no_secret() {
    let server = Server::start(Some(SECRET)).await;
    let get = async |path: &str| server.exchange(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await;
    assert!(get("/health").await.contains(" 200 "));
    assert!(get("/ready").await.contains(" 200 "));
    server.nginx(&with(&[("Auth-User", "good@example.com"), ("Latchkey-Key", SECRET)])).await;
    assert!(get("/ready").await.contains(" 503 "), "the scripted authority is not ready once asked");
    assert!(get("/health").await.contains(" 200 "));
}

#[tokio::test]
async fn a_drain_ends_a_connection_that_waits_for_its_next_request() {
    let server = Server::start(None).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    timeout(DEADLINE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    server.drain.start();
    server.connections.close();
    timeout(DEADLINE, server.connections.wait()).await.expect("the connection ends");
    let mut rest = Vec::new();
    timeout(DEADLINE, stream.read_to_end(&mut rest)).await.expect("the connection ends").unwrap();
}

/// A small generator: the same bytes in every run.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, bound: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    /// `text` with some bytes changed, left out, doubled or put in.
    fn mutate(&mut self, text: &[u8]) -> Vec<u8> {
        let mut bytes = text.to_vec();
        for _ in 0..=self.below(6) {
            let at = self.below(bytes.len() + 1);
            let byte = [0, b'%', b'+', b'&', b'=', b'\r', b'\n', 0xff, self.below(256) as u8][self.below(9)];
            match self.below(4) {
                0 if at < bytes.len() => bytes[at] = byte,
                1 if at < bytes.len() => drop(bytes.remove(at)),
                2 => bytes.extend_from_within(at..),
                _ => bytes.insert(at, byte),
            }
        }
        bytes
    }
}

#[test]
fn any_bytes_are_decoded_to_what_they_encode_or_refused() {
    let mut seeded = Seeded(8);
    for _ in 0..50_000 {
        let length = seeded.below(40);
        let bytes: Vec<u8> = (0..length).map(|_| seeded.below(256) as u8).collect();
        let encoded: String = bytes.iter().map(|byte| format!("%{byte:02x}")).collect();
        assert_eq!(form::decode(encoded.as_bytes(), true).unwrap(), bytes);
        // Whatever it is: no panic, and never longer than what came in.
        if let Ok(decoded) = form::decode(&bytes, true) {
            assert!(decoded.len() <= bytes.len());
        }
        let mutated = seeded.mutate(b"user=a%40example.com&password=x%20y&protocol=imap");
        if let Ok(form) = form::Form::parse(&mutated) {
            assert!(!format!("{form:?}").contains("x y"), "a password is never printed");
        }
    }
}

#[tokio::test]
async fn no_request_whatever_its_bytes_breaks_the_server_or_adds_a_header() {
    let server = Server::start(None).await;
    let mut seeded = Seeded(88);
    let known = [
        "auth-status",
        "auth-server",
        "auth-port",
        "auth-user",
        "auth-wait",
        "auth-error-code",
        "content-type",
        "cache-control",
        "content-length",
        "date",
        "connection",
        "allow",
    ];
    for _ in 0..2_000 {
        let question = b"GET /nginx HTTP/1.0\r\nAuth-Method: plain\r\nAuth-User: good@example.com\r\nAuth-Pass: x%20y\r\nAuth-Protocol: smtp\r\nAuth-Login-Attempt: 1\r\n\r\n";
        let answer = server.exchange(&seeded.mutate(question)).await;
        let Some((head, _)) = answer.split_once("\r\n\r\n") else {
            assert!(answer.is_empty(), "half an answer: {answer:?}");
            continue;
        };
        for line in head.split("\r\n").skip(1) {
            let name = line.split(':').next().unwrap();
            assert!(known.contains(&name), "{line:?} in {answer:?}");
        }
    }
    assert_eq!(header(&server.nginx(&with(&[("Auth-User", "good@example.com")])).await, "auth-status"), Some("OK"));
}
