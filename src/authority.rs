//! Floor 3: who judges logins and keeps count of sessions, as the agent's doors see it. The doors
//! know this trait alone, so that their tests can answer slowly, wrongly or not at all.

#[cfg(test)]
pub(crate) mod fake;

use std::{fmt, net::IpAddr, sync::Arc};

use async_trait::async_trait;
use tokio_util::task::TaskTracker;

use crate::{
    closing::Closers,
    lifecycle::Drain,
    upstream::{Opening, Upstream},
};
pub use crate::{
    closing::SessionNumber,
    upstream::{Admission, Answer, NoAnswer, Standing, TooManySessions},
};
use latchkey_core::model::{
    clock::{SharedClock, Timestamp},
    protocol::Protocol,
    verdict::Attempt,
};

/// See the module. An error is "no answer": the mail program is told to try later, never that it is
/// wrong.
#[async_trait]
pub trait Authority: Send + Sync + 'static {
    /// Judges a login. A denial has waited its fixed time already.
    async fn authenticate(&self, attempt: &Attempt) -> Result<Answer, NoAnswer>;

    /// Judges an admitted login a second time.
    async fn judge(&self, admission: &Admission) -> Result<Standing, NoAnswer>;

    /// The admission as text, which a mail server carries from the login to the session: ASCII
    /// without spaces, at most 700 bytes.
    fn encode(&self, admission: &Admission) -> String;

    /// `None`: no text of ours.
    fn decode(&self, text: &str) -> Option<Admission>;

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
    /// What the drain waits for: each door spawns its connections here, and each ends once the
    /// drain has started and what it was asked is answered.
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
impl Authority for Upstream {
    async fn authenticate(&self, attempt: &Attempt) -> Result<Answer, NoAnswer> {
        Self::authenticate(self, attempt).await
    }

    async fn judge(&self, admission: &Admission) -> Result<Standing, NoAnswer> {
        Self::judge(self, admission).await
    }

    fn encode(&self, admission: &Admission) -> String {
        admission.encode(self.id())
    }

    fn decode(&self, text: &str) -> Option<Admission> {
        Admission::decode(text, self.id())
    }

    fn opened(
        &self,
        admission: &Admission,
        protocol: Protocol,
        client_ip: Option<IpAddr>,
        open_time: Timestamp,
    ) -> Result<SessionNumber, TooManySessions> {
        Self::opened(self, Opening { session: admission.session.clone(), protocol, client_ip, open_time })
    }

    fn closed(&self, number: SessionNumber) {
        Self::closed(self, number);
    }

    fn refused(&self, number: SessionNumber) {
        Self::refused(self, number);
    }
}
