//! A session that a mail client has open at a frontend.

use std::net::IpAddr;

use super::{change::Revision, clock::Timestamp, protocol::Protocol, verdict::ProvenPassword};

/// Opened with one password: it is to be closed when that ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenSession {
    pub password: ProvenPassword,
    pub protocol: Protocol,
    pub client_ip: Option<IpAddr>,
    pub open_time: Timestamp,
    /// Of the frontend, for people.
    pub frontend: String,
}

/// A session as a process keeps it: whose watcher's, under that watcher's number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionKey {
    pub watcher: u64,
    pub number: u64,
}

/// A session that a watcher has open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LiveSession {
    pub key: SessionKey,
    pub session: OpenSession,
}

/// What a change did to the sessions at one process's watchers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Closing {
    pub revision: Revision,
    pub closed: u32,
    /// Still connected, and refused at their next command.
    pub refused: u32,
    /// The watchers that have not reported all of theirs.
    pub silent: Vec<SilentHost>,
}

/// A host that has not reported what became of its sessions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SilentHost {
    pub name: String,
    /// 0: not known.
    pub sessions: u32,
}
