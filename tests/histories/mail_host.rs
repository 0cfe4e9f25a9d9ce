//! A mail host in the histories: the library's own, beside the watcher that was written from the
//! proto's comments.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use latchkey::{
    clock::SystemClock,
    proto::{self, Reason},
    upstream::{Credentials, NoAnswer, Opening, SessionNumber, Settings, Upstream},
};
use latchkey_core::model::{
    address::Address,
    clock::Clock,
    protocol::Protocol,
    secret::Secret,
    verdict::{self, Attempt},
};
use tokio::sync::mpsc;

use crate::{
    history::{Answer, By, Grant, Password, now},
    watcher::{Judged, LOGIN_TIMEOUT},
    world::World,
};

/// How often it is looked whether a lease was granted.
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub struct MailHost {
    number: usize,
    world: Arc<World>,
    upstream: Arc<Upstream>,
    /// The places of open sessions in the history.
    places: Mutex<HashMap<SessionNumber, usize>>,
    to_close: Mutex<Option<mpsc::UnboundedReceiver<SessionNumber>>>,
}

impl MailHost {
    pub fn new(number: usize, world: Arc<World>) -> Arc<Self> {
        let settings = Settings {
            replicas: world.replicas.iter().map(|replica| replica.endpoint.connect_lazy()).collect(),
            name: format!("host-{number}"),
            credentials: Credentials::default(),
            cache_mailboxes: 10_000,
            close_when_cut_off_for: None,
        };
        let (close, to_close) = mpsc::unbounded_channel();
        let closer = Arc::new(move |session, _: verdict::Reason| {
            // It is closed by the task of `run`, which lives as long as the test.
            let _ = close.send(session);
        });
        let upstream = Arc::new(Upstream::new(settings, SystemClock::shared(), closer));
        Arc::new(Self { number, world, upstream, places: Mutex::default(), to_close: Mutex::new(Some(to_close)) })
    }

    /// Follows replicas, closes sessions, and writes down the leases, for ever.
    pub async fn run(self: Arc<Self>) {
        let to_close = self.to_close.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut to_close = to_close.expect("it runs once");
        tokio::spawn(Arc::clone(&self.upstream).run());
        let mut granted = None;
        let mut looks = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                Some(session) = to_close.recv() => self.hang_up(session),
                _ = looks.tick() => {
                    if let Some(asked) = self.upstream.granted_from().filter(|asked| granted != Some(*asked)) {
                        granted = Some(asked);
                        self.world.book.write().grants.push(Grant { watcher: self.number, stream: 0, asked, heard: now() });
                    }
                }
            }
        }
    }

    pub async fn login(&self, login: proto::AuthenticateRequest, password: Option<Password>) -> Judged {
        let by = By::Host(self.number);
        let attempt = Attempt {
            address: Address::parse("address", &login.address).expect("a good address"),
            password: Secret::new(login.password.clone()),
            protocol: Protocol::from_number(login.protocol.into()).expect("a protocol"),
            client_ip: login.client_ip.parse().ok(),
            frontend: login.frontend.as_str().into(),
        };
        let answer = match tokio::time::timeout(LOGIN_TIMEOUT * 2, self.upstream.authenticate(&attempt)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(NoAnswer::Throttled)) => return Judged { by, answer: Answer::Deny(Reason::Throttled), session: None },
            Ok(Err(why)) => return Judged { by, answer: Answer::None(why.to_string()), session: None },
            Err(_) => return Judged { by, answer: Answer::None("no answer in time".to_owned()), session: None },
        };
        let by = if answer.is_from_cache { By::Cache(self.number) } else { by };
        let Some(admission) = answer.admission else {
            let reason = Reason::try_from(answer.reason as i32).expect("a reason of the contract");
            return Judged { by, answer: Answer::Deny(reason), session: None };
        };
        let device = self.world.number_of(&admission.session.password.device_id.to_string());
        let opened = password.map(|password| {
            let opening = Opening {
                session: admission.session.clone(),
                protocol: attempt.protocol,
                client_ip: attempt.client_ip,
                open_time: SystemClock.wall(),
            };
            // Held until the place is known: the session may be to close at once.
            let mut places = self.places();
            let session = self.upstream.opened(opening).expect("there is room");
            places.insert(session, self.world.book.opened(self.number, password, now()));
            session
        });
        Judged { by, answer: Answer::Allow { device }, session: opened }
    }

    /// The session has ended, by whomever.
    pub fn hang_up(&self, session: SessionNumber) {
        if let Some(place) = self.places().remove(&session) {
            self.world.book.closed(place);
            self.upstream.closed(session);
        }
    }

    fn places(&self) -> MutexGuard<'_, HashMap<SessionNumber, usize>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Either kind.
#[derive(Clone)]
pub enum Client {
    Watcher(Arc<crate::watcher::Watcher>),
    Host(Arc<MailHost>),
}

impl Client {
    pub async fn login(
        &self,
        dice: &mut crate::dice::Dice,
        login: proto::AuthenticateRequest,
        password: Option<Password>,
    ) -> Judged {
        match self {
            Self::Watcher(watcher) => watcher.login(dice, login, password).await,
            Self::Host(host) => host.login(login, password).await,
        }
    }

    pub fn hang_up(&self, session: u64) {
        match self {
            Self::Watcher(watcher) => watcher.hang_up(session),
            Self::Host(host) => host.hang_up(session),
        }
    }
}
