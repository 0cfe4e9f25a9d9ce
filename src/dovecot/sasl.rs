//! The server of the Dovecot authentication protocol, for mail servers that log clients in by PLAIN
//! and LOGIN.
//!
//! Whatever comes in, the outcome is a refusal or the end of that one connection; never a crash, a
//! wait without end, or one client's answer to another.
//!
//! | input | outcome |
//! | --- | --- |
//! | a line over 16,384 bytes, an unknown command, a number that is none, a missing field, a bad escape | the connection ends |
//! | another major version; VERSION or CPID missing, twice or out of order | the connection ends |
//! | an id that is still open | the connection ends: no answer could be told from the other's |
//! | half a line | the connection ends after [`Timeouts::half_line`] |
//! | no handshake | the connection ends after [`Timeouts::handshake`] |
//! | base64 that is none, a response that is malformed, an unknown mechanism, no valid address | `FAIL` |
//! | a response without its question | "try later" |
//! | a question that is never answered | "try later" after [`Timeouts::question`] |
//! | `CANCEL`, of an id that is open or not | no answer comes any more |
//! | no answer to a login within [`Timeouts::answer`] | "try later" |
//! | more than [`MAX_OPEN`] requests open on a connection | "try later" |
//! | a service that no table names | "try later", and a warning: the settings are wrong, not the password |
//! | a client that does not read | the connection ends after [`Timeouts::write`] |
//! | more than [`MAX_CONNECTIONS`] connections | they wait to be accepted |
//!
//! "Try later" depends on who asks ([`ClientKind`]): Postfix and Exim take every `FAIL` for a wrong
//! password, so their connection is closed instead. Dovecot's login processes ask for many clients
//! at once and read `code=temp_fail`.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use hashbrown::HashMap;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Semaphore,
    time::{Instant, sleep_until, timeout},
};
use tracing::{debug, info, warn};
use zeroize::{Zeroize, Zeroizing};

pub use super::timeouts::Timeouts;
use super::{
    ClientKind,
    command::{AuthRequest, Command, CommandError, Response},
    handshake::{ClientHandshake, HandshakeError, ServerHandshake},
    line::{LineTooLong, Lines},
    mechanism::{Credentials, Exchange, Step},
    services::Services,
};
use crate::{
    authority::{Admission, Host},
    random,
    smtp_logins::{Process, SmtpLogins},
    sockets::{Listener, PeerProcess, Stream},
};
use latchkey_core::model::{
    address::Address,
    protocol::Protocol,
    verdict::{Attempt, Reason},
};

/// Connections at a time, at one socket.
const MAX_CONNECTIONS: usize = 4_096;
/// Open requests at a time, on one connection. One login process of Dovecot serves up to 1,000
/// clients.
const MAX_OPEN: usize = 1_024;
/// Of one read.
const READ_BYTES: usize = 16 << 10;

/// One socket's settings.
#[derive(Clone, Debug)]
pub struct Sasl {
    pub kind: ClientKind,
    pub services: Services,
    /// Where a login is remembered by its process; `None` where nobody asks about sessions.
    pub logins: Option<Arc<SmtpLogins>>,
    pub counts: Arc<Counts>,
    pub timeouts: Timeouts,
}

/// What was answered, for the gauges.
#[derive(Debug, Default)]
pub struct Counts {
    pub connections: AtomicU64,
    pub allowed: AtomicU64,
    pub denied: AtomicU64,
    pub try_later: AtomicU64,
    /// Connections that ended because the client broke the protocol.
    pub protocol_errors: AtomicU64,
}

/// Serves until the process drains; never returns.
pub async fn run(listener: Listener, sasl: Sasl, host: Host) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = host.drain.started() => break,
            place = Arc::clone(&places).acquire_owned() => match place {
                Ok(place) => (place, listener.accept().await),
                // It is never closed.
                Err(_) => break,
            },
        };
        let (place, (stream, peer)) = accepted;
        let (sasl, of_host) = (sasl.clone(), host.clone());
        host.connections.spawn(async move {
            sasl.counts.connections.fetch_add(1, Relaxed);
            let mut connection = Connection::new(sasl, of_host, peer);
            if let Err(end) = connection.serve(stream).await {
                connection.log(&end);
            }
            drop(place);
        });
    }
    drop(listener);
    std::future::pending().await
}

/// Why a connection ended, other than by the client.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    Line(#[from] LineTooLong),
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("request {0} is open already")]
    DuplicateId(u32),
    #[error("the rest of a line did not come in time")]
    HalfLine,
    #[error("VERSION and CPID did not come in time")]
    NoHandshake,
    #[error("the client does not read")]
    SlowReader,
    #[error("hung up, so that the mail server says \"try later\"")]
    TryLater,
    #[error(transparent)]
    Socket(#[from] std::io::Error),
}

/// An open request.
#[derive(Debug)]
enum Open {
    /// The client is to answer a question.
    Asked { request: Box<AuthRequest>, exchange: Exchange },
    /// It is being judged, as the n-th of this connection: an id may be used again after CANCEL.
    Judged { turn: u64 },
}

/// How a judgment ended.
struct Judged {
    id: u32,
    turn: u64,
    outcome: Outcome,
}

enum Outcome {
    Allowed { admission: Admission, attempt: Box<Attempt> },
    Denied(Address),
    TryLater,
}

struct Connection {
    sasl: Sasl,
    host: Host,
    number: u64,
    peer: Option<Arc<Process>>,
    client: ClientHandshake,
    lines: Lines,
    open: HashMap<u32, Open>,
    turns: u64,
    judging: FuturesUnordered<BoxFuture<'static, Judged>>,
    /// When each question is given up, in order. Some are answered already.
    questions: VecDeque<(Instant, u32)>,
    half_line_since: Option<Instant>,
    began: Instant,
    out: Vec<u8>,
    /// What is in `out` goes out, and then the connection ends.
    is_ending: bool,
}

impl Connection {
    fn new(sasl: Sasl, host: Host, peer: Option<PeerProcess>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let tracked = sasl.logins.is_some() && matches!(sasl.kind, ClientKind::Postfix | ClientKind::Exim);
        let peer = peer.filter(|_| tracked).and_then(|peer| match Process::hold(peer) {
            Ok(process) => Some(Arc::new(process)),
            Err(cause) => {
                warn!(pid = peer.pid, %cause, "the mail server's process cannot be held: its sessions cannot be asked about");
                None
            }
        });
        Self {
            sasl,
            host,
            number: NEXT.fetch_add(1, Relaxed),
            peer,
            client: ClientHandshake::default(),
            lines: Lines::default(),
            open: HashMap::new(),
            turns: 0,
            judging: FuturesUnordered::new(),
            questions: VecDeque::new(),
            half_line_since: None,
            began: Instant::now(),
            out: Vec::new(),
            is_ending: false,
        }
    }

    async fn serve(&mut self, mut stream: Stream) -> Result<(), End> {
        let handshake = ServerHandshake { process: std::process::id(), connection: self.number, cookie: random::bytes() };
        self.out.extend(handshake.text().into_bytes());
        let mut bytes = Zeroizing::new(vec![0; READ_BYTES]);
        let drain = self.host.drain.clone();
        let mut is_draining = false;
        loop {
            if !self.out.is_empty() {
                timeout(self.sasl.timeouts.write, stream.write_all(&self.out)).await.map_err(|_| End::SlowReader)??;
                self.out.clear();
            }
            if self.is_ending {
                return Err(End::TryLater);
            }
            if is_draining && self.judging.is_empty() {
                return Ok(());
            }
            let deadline = self.deadline();
            tokio::select! {
                // Answers first: whoever asks much does not hold up those that are ready.
                biased;
                Some(judged) = self.judging.next(), if !self.judging.is_empty() => self.finish(judged),
                read = stream.read(&mut bytes), if !is_draining => {
                    let read = read?;
                    if read == 0 {
                        return Ok(());
                    }
                    let taken = self.take(&bytes[..read]);
                    bytes[..read].zeroize();
                    taken?;
                }
                () = drain.started(), if !is_draining => {
                    is_draining = true;
                    // Nobody will take the answers to these questions.
                    self.give_up_questions(None);
                }
                () = sleep_until(deadline.unwrap_or(self.began)), if deadline.is_some() => self.overdue()?,
            }
            // Whatever memory answers goes out in the same write.
            while let Some(Some(judged)) = self.judging.next().now_or_never() {
                self.finish(judged);
            }
        }
    }

    /// When something is overdue next.
    fn deadline(&self) -> Option<Instant> {
        let handshake = (!self.client.is_complete()).then(|| self.began + self.sasl.timeouts.handshake);
        let half_line = self.half_line_since.map(|since| since + self.sasl.timeouts.half_line);
        let question = self.questions.front().map(|(deadline, _)| *deadline);
        [handshake, half_line, question].into_iter().flatten().min()
    }

    fn overdue(&mut self) -> Result<(), End> {
        let now = Instant::now();
        if !self.client.is_complete() && now >= self.began + self.sasl.timeouts.handshake {
            return Err(End::NoHandshake);
        }
        if self.half_line_since.is_some_and(|since| now >= since + self.sasl.timeouts.half_line) {
            return Err(End::HalfLine);
        }
        self.give_up_questions(Some(now));
        Ok(())
    }

    /// Gives up the questions that were due by then, or all.
    fn give_up_questions(&mut self, due: Option<Instant>) {
        while let Some((deadline, id)) = self.questions.front().copied()
            && due.is_none_or(|due| deadline <= due)
        {
            self.questions.pop_front();
            if matches!(self.open.get(&id), Some(Open::Asked { .. })) {
                self.open.remove(&id);
                self.try_later(id);
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), End> {
        self.lines.push(bytes);
        while let Some(line) = self.lines.next_line()? {
            let command = Command::parse(line)?;
            self.obey(command)?;
        }
        self.half_line_since = self.lines.has_half_a_line().then(|| self.half_line_since.unwrap_or_else(Instant::now));
        Ok(())
    }

    fn obey(&mut self, command: Command) -> Result<(), End> {
        match command {
            Command::Version { major } => self.client.version(major)?,
            Command::Process(process) => self.client.process(process)?,
            Command::Auth(request) => {
                self.client.check_complete()?;
                self.begin(request)?;
            }
            Command::Continue { id, response } => {
                self.client.check_complete()?;
                self.go_on(id, &response);
            }
            Command::Cancel { id } => {
                self.client.check_complete()?;
                self.open.remove(&id);
            }
        }
        Ok(())
    }

    fn begin(&mut self, mut request: Box<AuthRequest>) -> Result<(), End> {
        if self.open.contains_key(&request.id) {
            return Err(End::DuplicateId(request.id));
        }
        if self.open.len() >= MAX_OPEN || self.judging.len() >= MAX_OPEN {
            warn!(open = self.open.len(), client = self.sasl.kind.name(), "too many requests are open on one connection");
            self.try_later(request.id);
            return Ok(());
        }
        let step = Exchange::begin(&request.mechanism, request.initial.take());
        self.advance(request, step);
        Ok(())
    }

    fn go_on(&mut self, id: u32, response: &Response) {
        match self.open.remove(&id) {
            Some(Open::Asked { request, exchange }) => self.advance(request, exchange.answered(response)),
            // It was given up, or is judged already: the client has lost count.
            Some(Open::Judged { .. }) | None => self.try_later(id),
        }
    }

    fn advance(&mut self, request: Box<AuthRequest>, step: Step) {
        let id = request.id;
        match step {
            Step::Ask(exchange, question) => {
                self.open.insert(id, Open::Asked { request, exchange });
                self.questions.push_back((Instant::now() + self.sasl.timeouts.question, id));
                self.answer(&["CONT", &id.to_string(), question]);
            }
            Step::Refuse(refusal) => {
                debug!(client = self.sasl.kind.name(), service = request.service, %refusal, "a login is refused");
                self.fail(id, None);
            }
            Step::Credentials(credentials) => self.judge(&request, credentials),
        }
    }

    fn judge(&mut self, request: &AuthRequest, Credentials { user, password }: Credentials) {
        let id = request.id;
        let Some(protocol) = self.sasl.services.protocol(&request.service) else {
            warn!(
                service = request.service,
                "no protocol is known for this service: name it with --service-protocol {}=PROTOCOL", request.service
            );
            return self.try_later(id);
        };
        let address = match Address::parse("user", &user) {
            Ok(address) => address,
            // No mailbox can have it.
            Err(invalid) => {
                debug!(client = self.sasl.kind.name(), %invalid, "a login is refused");
                return self.fail(id, None);
            }
        };
        let attempt = Box::new(Attempt {
            address,
            password,
            protocol,
            client_ip: request.client_ip,
            frontend: format!("{} on {}", self.sasl.kind.name(), self.host.name).chars().take(MAX_FRONTEND).collect(),
        });
        self.turns += 1;
        let turn = self.turns;
        self.open.insert(id, Open::Judged { turn });
        let authority = Arc::clone(&self.host.authority);
        let (session, limit) = (request.session.clone(), self.sasl.timeouts.answer);
        self.judging.push(Box::pin(async move {
            let answer = timeout(limit, authority.authenticate(&attempt)).await;
            let log = |outcome: &'static str, cause: &dyn fmt::Display| {
                let Attempt { address, protocol, client_ip, .. } = &*attempt;
                let client_ip = client_ip.map(tracing::field::display);
                info!(user = %address, protocol = protocol.name(), client_ip, session, outcome, %cause, "login");
            };
            let outcome = match answer {
                Ok(Ok(answer)) => match (answer.reason, answer.admission) {
                    (Reason::Ok, Some(admission)) => Outcome::Allowed { admission, attempt },
                    (Reason::Ok | Reason::Throttled, _) => {
                        log("try later", &answer.reason.label());
                        Outcome::TryLater
                    }
                    (reason, _) => {
                        log("denied", &reason.label());
                        Outcome::Denied(attempt.address.clone())
                    }
                },
                Ok(Err(cause)) => {
                    log("try later", &cause);
                    Outcome::TryLater
                }
                Err(_) => {
                    log("try later", &"no answer in time");
                    Outcome::TryLater
                }
            };
            Judged { id, turn, outcome }
        }));
    }

    /// Answers a request that was judged, unless it was canceled.
    fn finish(&mut self, Judged { id, turn, outcome }: Judged) {
        if !matches!(self.open.get(&id), Some(Open::Judged { turn: its }) if *its == turn) {
            return;
        }
        self.open.remove(&id);
        match outcome {
            Outcome::Denied(address) => self.fail(id, Some(&address)),
            Outcome::TryLater => self.try_later(id),
            Outcome::Allowed { admission, attempt } => {
                // Before the answer: the next question may follow at once.
                if let Err(problem) = self.remember(&admission, &attempt) {
                    warn!(user = %attempt.address, %problem, "no session can begin: the client is told to try later");
                    return self.try_later(id);
                }
                self.sasl.counts.allowed.fetch_add(1, Relaxed);
                // First, since Exim reads nothing else. An address holds nothing that needs an
                // escape.
                let user = format!("user={}", attempt.address);
                self.answer(&["OK", &id.to_string(), &user]);
            }
        }
    }

    fn remember(&self, admission: &Admission, attempt: &Attempt) -> Result<(), crate::smtp_logins::NotOpened> {
        match (&self.sasl.logins, &self.peer) {
            (Some(logins), Some(process)) if attempt.protocol == Protocol::Smtp => logins.admitted(process, admission, attempt),
            _ => Ok(()),
        }
    }

    fn fail(&mut self, id: u32, address: Option<&Address>) {
        self.sasl.counts.denied.fetch_add(1, Relaxed);
        match address {
            Some(address) => self.answer(&["FAIL", &id.to_string(), &format!("user={address}")]),
            None => self.answer(&["FAIL", &id.to_string()]),
        }
    }

    fn try_later(&mut self, id: u32) {
        self.sasl.counts.try_later.fetch_add(1, Relaxed);
        match self.sasl.kind {
            ClientKind::Dovecot => self.answer(&["FAIL", &id.to_string(), "code=temp_fail"]),
            ClientKind::Postfix | ClientKind::Exim | ClientKind::Chasquid | ClientKind::Radicale => self.is_ending = true,
        }
    }

    fn answer(&mut self, fields: &[&str]) {
        if !self.is_ending {
            self.out.extend(fields.join("\t").into_bytes());
            self.out.push(b'\n');
        }
    }

    fn log(&self, end: &End) {
        let (client, connection) = (self.sasl.kind.name(), self.number);
        match end {
            End::TryLater => debug!(client, connection, %end, "a connection ends"),
            // The mail server was restarted, for instance.
            End::Socket(_) => debug!(client, connection, %end, "a connection ends"),
            _ => {
                self.sasl.counts.protocol_errors.fetch_add(1, Relaxed);
                warn!(client, connection, %end, "a connection ends");
            }
        }
    }
}

/// As `Authenticate` takes it.
const MAX_FRONTEND: usize = 64;
