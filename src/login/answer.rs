//! What a login is answered with.

use std::{net::IpAddr, sync::Arc};

use super::proof::Place;
use latchkey_core::{
    cache::mailboxes::Entry,
    model::{
        change::ServiceKey,
        clock::Timestamp,
        device::{Generation, Limits},
        protocol::Protocol,
        verdict::{Reason, Session, Verdict},
    },
};

/// No answer: the mail program is told to try later. Never a denial.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NoAnswer {
    #[error("the database does not answer")]
    StoreUnavailable,
    #[error("too many logins wait to be hashed")]
    HashingOverloaded,
    #[error("the mailbox changes too fast to be judged")]
    TooManyChanges,
    #[error("the login could not be judged")]
    Internal,
}

/// A verdict, and the record that it was judged by.
#[derive(Clone, Debug)]
pub struct Judged {
    pub verdict: Verdict,
    pub(super) entry: Arc<Entry>,
    /// Where in the record the proven password is.
    pub(super) place: Option<Place>,
    /// The record was read for this very login, so it is as new as the login.
    pub(super) is_own_read: bool,
}

impl Judged {
    pub fn is_allowed(&self) -> bool {
        self.verdict.is_allowed()
    }

    /// What a watcher may cache, as of the verdict's revision: `None` unless the login was allowed.
    pub fn cacheable(&self) -> Option<Cacheable<'_>> {
        let (Some(mailbox), Some(Place::Active(at)), true) = (&self.entry.read.mailbox, self.place, self.is_allowed()) else {
            return None;
        };
        let device = &mailbox.active[at];
        Some(Cacheable { service: mailbox.service, generation: device.generation, limits: device.limits.as_deref() })
    }
}

/// What a watcher may cache of a login that was allowed.
#[derive(Clone, Copy, Debug)]
pub struct Cacheable<'a> {
    pub service: ServiceKey,
    pub generation: Generation,
    /// `None`: unlimited.
    pub limits: Option<&'a Limits>,
}

/// Logins of one device that were alike, and that a watcher answered from its cache.
#[derive(Clone, Debug)]
pub struct CachedLogins {
    pub session: Session,
    pub protocol: Protocol,
    pub client_ip: Option<IpAddr>,
    pub frontend: Box<str>,
    pub reason: Reason,
    pub count: u32,
    pub last_time: Timestamp,
}
