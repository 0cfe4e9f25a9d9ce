//! Floor 3: who judges logins and keeps count of sessions, as the agent's doors see it. The doors know this trait
//! alone, so that their tests can answer slowly, wrongly or not at all.

use std::{fmt, net::IpAddr, sync::Arc};

use async_trait::async_trait;
use tokio_util::task::TaskTracker;

use crate::{closing::Closers, lifecycle::Drain, upstream::Watching};
pub use crate::{
    closing::SessionNumber,
    upstream::{Answer, NoAnswer},
};
/// What an allowed login leaves: whose password it was, and as of when that was judged.
pub use latchkey_core::model::verdict::Session as Admission;
use latchkey_core::model::{
    clock::{SharedClock, Timestamp},
    protocol::Protocol,
    secret::Secret,
    verdict::{Attempt, Reason},
};

/// What became of a login that was allowed before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    Valid,
    Ended(Reason),
}

/// This host has as many sessions open as it may.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("this host has as many sessions open as it may")]
pub struct TooManySessions;

/// See the module. An error is "no answer": the mail program is told to try later, never that it is wrong.
#[async_trait]
pub trait Authority: Send + Sync + 'static {
    /// Judges a login. A denial has waited its fixed time already.
    async fn authenticate(&self, attempt: &Attempt) -> Result<Answer, NoAnswer>;

    /// Judges an admitted login a second time.
    async fn judge(&self, admission: &Admission) -> Result<Standing, NoAnswer>;

    /// A session begins with an admitted login. Its close may be asked for before this returns.
    fn opened(
        &self,
        admission: &Admission,
        protocol: Protocol,
        client_ip: Option<IpAddr>,
        open_time: Timestamp,
    ) -> Result<SessionNumber, TooManySessions>;

    /// It has ended, by whomever.
    fn closed(&self, number: SessionNumber);

    /// It is still connected, and its next command is refused.
    fn refused(&self, number: SessionNumber);
}

/// The mail host: what all doors use.
#[derive(Clone)]
pub struct Host {
    pub authority: Arc<dyn Authority>,
    pub closers: Arc<Closers>,
    pub clock: SharedClock,
    pub drain: Drain,
    /// What the drain waits for: each door spawns its connections here, and each ends once the drain has started
    /// and what it was asked is answered.
    pub connections: TaskTracker,
    /// Of this mail host, for people.
    pub name: Arc<str>,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("name", &self.name).field("closers", &self.closers).finish_non_exhaustive()
    }
}

#[async_trait]
impl Authority for Watching {
    async fn authenticate(&self, attempt: &Attempt) -> Result<Answer, NoAnswer> {
        Self::authenticate(self, attempt).await
    }

    async fn judge(&self, _admission: &Admission) -> Result<Standing, NoAnswer> {
        Err(NoAnswer::NoReplica("no replica can judge an admitted login yet".to_owned()))
    }

    fn opened(
        &self,
        admission: &Admission,
        protocol: Protocol,
        client_ip: Option<IpAddr>,
        _open_time: Timestamp,
    ) -> Result<SessionNumber, TooManySessions> {
        let address = admission.address.clone();
        let attempt = Attempt { address, password: Secret::new(vec![]), protocol, client_ip, frontend: "".into() };
        Ok(Self::opened(self, admission.clone(), &attempt))
    }

    fn closed(&self, number: SessionNumber) {
        Self::closed(self, number);
    }

    fn refused(&self, _number: SessionNumber) {}
}
