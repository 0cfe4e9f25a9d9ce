//! An authority for tests: it knows what the test says, and writes down what it is told.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::{Admission, Answer, Authority, Host, NoAnswer, SessionNumber, Standing, TooManySessions};
use crate::{clock::SystemClock, closing::Closers, lifecycle::Drain};
use latchkey_core::model::{
    address::Address,
    change::Revision,
    clock::Timestamp,
    id::{DeviceId, MailboxId},
    protocol::Protocol,
    verdict::{Attempt, ProvenPassword, Reason, Session},
};

/// What is to come of a login: after how long, and what. `None`: no answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planned(pub(crate) Duration, pub(crate) Option<Reason>);

/// What an authority was told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Told {
    Opened(SessionNumber, String, Option<IpAddr>),
    Closed(SessionNumber),
    Refused(SessionNumber),
}

#[derive(Default)]
pub(crate) struct Fake {
    /// By password. Others are wrong.
    pub(crate) logins: Mutex<HashMap<String, Planned>>,
    /// Of every admitted login; `None`: no answer.
    pub(crate) standing: Mutex<Option<Standing>>,
    pub(crate) told: Mutex<Vec<Told>>,
    pub(crate) asked: Mutex<Vec<Attempt>>,
    pub(crate) is_full: Mutex<bool>,
    next: Mutex<SessionNumber>,
}

impl Fake {
    /// With the password `good`.
    pub(crate) fn new() -> Arc<Self> {
        let fake = Self { standing: Mutex::new(Some(Standing::Valid)), ..Self::default() };
        fake.plan("good", Planned(Duration::ZERO, Some(Reason::Ok)));
        Arc::new(fake)
    }

    pub(crate) fn plan(&self, password: &str, planned: Planned) {
        self.logins.lock().unwrap().insert(password.to_owned(), planned);
    }

    pub(crate) fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap().clone()
    }

    pub(crate) fn host(self: &Arc<Self>) -> Host {
        Host {
            authority: Arc::clone(self) as _,
            closers: Arc::new(Closers::default()),
            clock: SystemClock::shared(),
            drain: Drain::new(),
            connections: TaskTracker::new(),
            name: "host".into(),
        }
    }
}

/// An admission of this address.
pub(crate) fn admission(address: &Address) -> Admission {
    let password = ProvenPassword { mailbox_id: MailboxId(Uuid::nil()), device_id: DeviceId(Uuid::nil()), generation: 1 };
    Admission { session: Session { password, revision: Revision(1), address: address.clone() }, epoch: Some(1) }
}

#[async_trait]
impl Authority for Fake {
    async fn authenticate(&self, attempt: &Attempt) -> Result<Answer, NoAnswer> {
        self.asked.lock().unwrap().push(attempt.clone());
        let password = attempt.password.expose_text().unwrap_or_default();
        let planned = self.logins.lock().unwrap().get(password).copied();
        let Planned(delay, reason) = planned.unwrap_or(Planned(Duration::ZERO, Some(Reason::WrongPassword)));
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let reason = reason.ok_or_else(|| NoAnswer::NoReplica("it is planned so".to_owned()))?;
        let admission = (reason == Reason::Ok).then(|| admission(&attempt.address));
        Ok(Answer { reason, admission, is_from_cache: true })
    }

    async fn judge(&self, _admission: &Admission) -> Result<Standing, NoAnswer> {
        self.standing.lock().unwrap().ok_or_else(|| NoAnswer::NoReplica("it is planned so".to_owned()))
    }

    fn encode(&self, admission: &Admission) -> String {
        admission.encode(Uuid::nil())
    }

    fn decode(&self, text: &str) -> Option<Admission> {
        Admission::decode(text, Uuid::nil())
    }

    fn opened(
        &self,
        admission: &Admission,
        _protocol: Protocol,
        client_ip: Option<IpAddr>,
        _open_time: Timestamp,
    ) -> Result<SessionNumber, TooManySessions> {
        if *self.is_full.lock().unwrap() {
            return Err(TooManySessions);
        }
        let mut next = self.next.lock().unwrap();
        *next += 1;
        self.told.lock().unwrap().push(Told::Opened(*next, admission.session.address.to_string(), client_ip));
        Ok(*next)
    }

    fn closed(&self, number: SessionNumber) {
        self.told.lock().unwrap().push(Told::Closed(number));
    }

    fn refused(&self, number: SessionNumber) {
        self.told.lock().unwrap().push(Told::Refused(number));
    }
}
