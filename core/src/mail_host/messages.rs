//! What goes to and from a mail host, as values.

use std::{net::IpAddr, time::Duration};

use super::follower::HangUp;
use crate::{
    downstream::{MAX_SESSIONS, StreamKey},
    model::{
        change::{Position, Revision},
        clock::Timestamp,
        protocol::Protocol,
        verdict::{Reason, Session},
    },
};

/// This process's number for a session. Never used twice.
pub type SessionNumber = u64;

/// A session that opens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opening {
    pub session: Session,
    pub protocol: Protocol,
    pub client_ip: Option<IpAddr>,
    pub open_time: Timestamp,
}

/// A session to close, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Close {
    pub number: SessionNumber,
    pub reason: Reason,
}

/// More sessions are open than a replica accepts from one host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("more than {MAX_SESSIONS} sessions are open on this host")]
pub struct TooManySessions;

/// Whether a session that was allowed may still open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    Valid,
    Ended(Reason),
}

/// Allowed logins of one device that were alike.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CachedLogins {
    pub session: Session,
    pub protocol: Protocol,
    pub client_ip: Option<IpAddr>,
    pub frontend: Box<str>,
    pub count: u32,
    pub last_time: Timestamp,
}

/// What goes to the replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    Renew { number: u64 },
    Acknowledge(Revision),
    SessionsOpened(Vec<(SessionNumber, Opening)>),
    SessionsClosed { numbers: Vec<SessionNumber>, cause: Revision },
    SessionsRefused { numbers: Vec<SessionNumber>, cause: Revision },
    CachedLogins(Vec<CachedLogins>),
    Surrender,
}

/// What is to be done, in this order.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Todo {
    pub requests: Vec<Request>,
    pub close: Vec<Close>,
    /// The stream is to end, after the requests were sent.
    pub hang_up: Option<HangUp>,
}

/// The beginning of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Welcome {
    pub position: Position,
    pub start_empty: bool,
    pub key: StreamKey,
    /// The longest lease that the replica grants; zero if it grants none.
    pub lease: Duration,
}
