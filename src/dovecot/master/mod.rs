//! Between Dovecot's mail processes and its authentication server. A mail process that takes over a
//! client asks here who that is (`imap -a PATH`); the question goes on to Dovecot's `auth-master`
//! socket, and its answer comes back. On the way the login is judged a second time, and the process
//! that asks is held, so that a revocation closes exactly this session.
//!
//! A login that is not ours (a master user, OAuth, another passdb) passes unchanged. A mail process
//! always gets an answer: without one Dovecot lets its client wait for a minute.

mod message;
#[cfg(test)]
mod tests;

use std::{io, path::PathBuf, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};
use tokio_util::either::Either;
use tracing::{debug, error, info, warn};

use self::message::{FromProcess, FromServer, Malformed, User, fail, from_process, from_server};
use super::{
    line::{LineTooLong, Lines},
    services::Services,
};
use crate::{
    authority::Host,
    sessions::{
        Opening, Refusal, Sessions,
        process::{NoProcess, Process},
    },
    sockets::{Listener, PeerProcess},
};

/// For Dovecot's authentication server to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// For Dovecot's authentication server to answer a request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// For the other end to take a line.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests under way on one connection. A mail process has one.
const MAX_REQUESTS: usize = 64;
const READ_BYTES: usize = 4_096;

/// What a mail client is told. Dovecot puts "try again later" in front, in each protocol's words.
const REVOKED: &str = "This login was revoked.";
const TRY_LATER: &str = "Temporary authentication failure, please try again later.";

/// Why a connection ends early.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    LineTooLong(#[from] LineTooLong),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("an answer to a request that was not made")]
    UnknownAnswer,
    #[error("more than {MAX_REQUESTS} requests at a time")]
    TooManyRequests,
    #[error("a request's number is in use")]
    NumberInUse,
    #[error("Dovecot's authentication server does not answer")]
    NoAnswer,
    #[error("Dovecot's authentication server has closed the connection")]
    ServerGone,
    #[error("the other end does not read")]
    NotRead,
}

/// What every connection needs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Dovecot's `auth-master` socket.
    pub auth_master: PathBuf,
    pub services: Services,
}

/// A connection, with what is under way on it.
struct Relay<'a> {
    host: &'a Host,
    sessions: &'a Sessions,
    services: &'a Services,
    process: UnixStream,
    peer: Option<PeerProcess>,
    requests: Vec<(u32, Option<u32>)>,
}

/// Serves mail processes for ever.
pub async fn run(listener: Listener, settings: Settings, host: Host, sessions: Sessions) {
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = host.drain.started() => return std::future::pending().await,
        };
        let Either::Left(process) = stream else { continue };
        let (settings, to_serve, sessions) = (settings.clone(), host.clone(), sessions.clone());
        host.connections.spawn(async move {
            let Settings { auth_master, services } = &settings;
            let mut relay = Relay { host: &to_serve, sessions: &sessions, services, process, peer, requests: Vec::new() };
            let outcome = match timeout(CONNECT_TIMEOUT, UnixStream::connect(auth_master)).await {
                Ok(Ok(server)) => relay.run(server).await,
                Ok(Err(cause)) => {
                    error!(socket = %auth_master.display(), %cause, "Dovecot's authentication server cannot be asked");
                    relay.greet().await
                }
                Err(_) => {
                    error!(socket = %auth_master.display(), "Dovecot's authentication server does not take a connection");
                    relay.greet().await
                }
            };
            if let Err(cause) = outcome {
                relay.end(&cause).await;
            }
        });
    }
}

impl Relay<'_> {
    /// Passes lines until either side closes, or the agent drains and nothing is under way.
    async fn run(&mut self, mut server: UnixStream) -> Result<(), Broken> {
        let (mut of_process, mut of_server) = (Lines::default(), Lines::default());
        let (mut from, mut to) = ([0; READ_BYTES], [0; READ_BYTES]);
        loop {
            let is_busy = !self.requests.is_empty();
            tokio::select! {
                read = self.process.read(&mut from) => match read? {
                    0 => return Ok(()),
                    read => {
                        of_process.push(&from[..read]);
                        while let Some(line) = of_process.next_line()? {
                            let line = self.ask(line)?;
                            write(&mut server, &line).await?;
                        }
                    }
                },
                read = server.read(&mut to) => match read? {
                    0 if is_busy => return Err(Broken::ServerGone),
                    // The process connects anew for its next client.
                    0 => return Ok(()),
                    read => {
                        of_server.push(&to[..read]);
                        while let Some(line) = of_server.next_line()? {
                            let answer = self.answer(line).await?;
                            write(&mut self.process, &answer).await?;
                        }
                    }
                },
                () = tokio::time::sleep(ANSWER_TIMEOUT), if is_busy => return Err(Broken::NoAnswer),
                () = self.host.drain.started(), if !is_busy => return Ok(()),
            }
        }
    }

    /// Takes what a process asks while Dovecot's authentication server is not there.
    async fn greet(&mut self) -> Result<(), Broken> {
        let handshake = format!("VERSION\t1\t1\nSPID\t{}", std::process::id());
        write(&mut self.process, handshake.as_bytes()).await?;
        let (mut lines, mut bytes) = (Lines::default(), [0; READ_BYTES]);
        loop {
            match timeout(ANSWER_TIMEOUT, self.process.read(&mut bytes)).await.map_err(|_| Broken::NoAnswer)?? {
                0 => return Ok(()),
                read => lines.push(&bytes[..read]),
            }
            while let Some(line) = lines.next_line()? {
                self.ask(line)?;
            }
            if !self.requests.is_empty() {
                return Err(Broken::ServerGone);
            }
        }
    }

    /// A line of the process, as it goes on.
    fn ask(&mut self, line: &[u8]) -> Result<Vec<u8>, Broken> {
        match from_process(line)? {
            FromProcess::Version => Ok(line.to_vec()),
            FromProcess::Cancel(id) => {
                self.requests.retain(|(open, _)| *open != id);
                Ok(line.to_vec())
            }
            FromProcess::Request(request) => {
                if self.requests.len() == MAX_REQUESTS {
                    return Err(Broken::TooManyRequests);
                }
                if self.requests.iter().any(|(open, _)| *open == request.id) {
                    return Err(Broken::NumberInUse);
                }
                if let Some(peer) = self.peer {
                    // It takes a new client: the one before has gone.
                    self.sessions.release(peer.pid);
                }
                self.requests.push((request.id, request.session_pid));
                Ok(request.forward)
            }
        }
    }

    /// A line of the server, or what the process is answered instead.
    async fn answer(&mut self, line: &[u8]) -> Result<Vec<u8>, Broken> {
        match from_server(line)? {
            FromServer::Other => Ok(line.to_vec()),
            FromServer::Refused(id) => {
                self.take(id)?;
                Ok(line.to_vec())
            }
            FromServer::User(user) => {
                let session_pid = self.request(user.id)?;
                let answer = self.begin(user, session_pid).await;
                Ok(match answer {
                    Ok(line) => line,
                    Err((id, reason)) => fail(id, reason),
                })
            }
        }
    }

    async fn begin(&mut self, user: User, session_pid: Option<u32>) -> Result<Vec<u8>, (u32, &'static str)> {
        let id = user.id;
        // Until the answer is known the request is under way: whatever happens, the process is
        // answered.
        let outcome = self.try_begin(&user, session_pid).await;
        self.requests.retain(|(open, _)| *open != id);
        outcome.map(|()| user.forward).map_err(|reason| (id, reason))
    }

    /// Opens the session of an answered request. An error is what the mail client is told.
    async fn try_begin(&self, user: &User, session_pid: Option<u32>) -> Result<(), &'static str> {
        let Some(session) = &user.session else { return Ok(()) };
        let process = self.process_of_session(session_pid).map_err(|cause| {
            error!(pid = session_pid, %cause, "a session does not begin, since its process could not be closed later");
            TRY_LATER
        })?;
        let protocol = self.services.protocol(&session.service).ok_or_else(|| {
            error!(service = session.service, "a session does not begin: its service stands for no protocol");
            TRY_LATER
        })?;
        let pid = process.id().pid;
        let opening = Opening { admission: session.admission.clone(), protocol, client_ip: session.client_ip };
        self.sessions.begin(process, opening).await.map_err(|refusal| match refusal {
            Refusal::Ended(reason) => {
                info!(pid, reason = reason.label(), "a login was revoked before its session began");
                REVOKED
            }
            Refusal::NoAnswer(_) | Refusal::TimedOut => {
                warn!(pid, %refusal, "a session does not begin");
                TRY_LATER
            }
            Refusal::NotAdmitted | Refusal::TooMany(_) | Refusal::NotRemembered(_) => {
                error!(pid, %refusal, "a session does not begin");
                TRY_LATER
            }
        })?;
        debug!(pid, service = session.service, "a session begins");
        Ok(())
    }

    /// The process at the other end, if it is the one whose session this is.
    fn process_of_session(&self, session_pid: Option<u32>) -> Result<Process, NoProcess> {
        let process = Process::of_peer(&self.process)?;
        match session_pid {
            Some(pid) if i64::from(pid) != i64::from(process.id().pid) => Err(NoProcess::OtherNumber(pid)),
            _ => Ok(process),
        }
    }

    fn request(&self, id: u32) -> Result<Option<u32>, Broken> {
        let found = self.requests.iter().find(|(open, _)| *open == id);
        found.map(|(_, session_pid)| *session_pid).ok_or(Broken::UnknownAnswer)
    }

    fn take(&mut self, id: u32) -> Result<(), Broken> {
        self.request(id)?;
        self.requests.retain(|(open, _)| *open != id);
        Ok(())
    }

    /// Answers what is under way, since nobody else will.
    async fn end(&mut self, cause: &Broken) {
        if self.requests.is_empty() {
            debug!(%cause, "a mail process's connection ends");
            return;
        }
        warn!(%cause, "a mail process is told to try later");
        for (id, _) in std::mem::take(&mut self.requests) {
            if write(&mut self.process, &fail(id, TRY_LATER)).await.is_err() {
                return;
            }
        }
    }
}

async fn write(stream: &mut UnixStream, line: &[u8]) -> Result<(), Broken> {
    let line = [line, b"\n"].concat();
    Ok(timeout(WRITE_TIMEOUT, stream.write_all(&line)).await.map_err(|_| Broken::NotRead)??)
}
