//! The load: logins on replicas and through watchers, and revocations, at random by the seed. Each
//! is written down.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use latchkey::{
    clock::SystemClock,
    proto::{self, Decision, Protocol, revocation::State},
};
use latchkey_core::model::clock::{BootTime, Clock};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{
    dice::Dice,
    history::{Answer, By, Failure, How, Issued, Login, Outcome, Password, Revocation, now},
    mail_host::Client,
    watcher::{Judged, LOGIN_TIMEOUT, words},
    world::World,
};

/// Between two logins on one replica, and through one watcher.
const LOGIN_EVERY: [Duration; 2] = [Duration::from_millis(16), Duration::from_millis(10)];
/// Under way on one replica or watcher: what a stopped one has when it goes on.
const UNDER_WAY: usize = 400;
/// Devices alive at a time, in all.
const LIVING: usize = 90;
/// Of ended passwords, those that are tried most.
const RECENT: usize = 24;
const CALL_TIMEOUT: Duration = Duration::from_secs(8);
const TRIES: usize = 60;

/// A password that the load knows.
#[derive(Clone)]
struct Known {
    password: Password,
    mailbox: usize,
    device_id: String,
    text: String,
}

#[derive(Default)]
struct Passwords {
    living: Vec<Known>,
    /// Being revoked, or revoked: the newest last.
    ended: Vec<Known>,
}

pub struct Load {
    world: Arc<World>,
    watchers: Vec<Client>,
    passwords: Mutex<Passwords>,
    pub under_way: TaskTracker,
}

/// What an attempt is made with.
struct Attempt {
    mailbox: usize,
    password: Option<Password>,
    request: proto::AuthenticateRequest,
}

impl Load {
    /// With the devices that there are at the start.
    pub async fn new(world: Arc<World>, watchers: Vec<Client>, dice: &mut Dice) -> Arc<Self> {
        let load = Self { world, watchers, passwords: Mutex::default(), under_way: TaskTracker::new() };
        for _ in 0..LIVING {
            load.create(dice).await;
        }
        Arc::new(load)
    }

    /// Logins at one replica.
    pub async fn log_in_at(self: Arc<Self>, replica: usize, mut dice: Dice, until: BootTime) {
        let places = Arc::new(Semaphore::new(UNDER_WAY));
        let mut ticks = tokio::time::interval(LOGIN_EVERY[0]);
        while now() < until {
            ticks.tick().await;
            let (Ok(place), Some(attempt)) = (Arc::clone(&places).try_acquire_owned(), self.attempt(&mut dice)) else {
                continue;
            };
            let load = Arc::clone(&self);
            self.under_way.spawn(async move {
                load.ask(replica, attempt).await;
                drop(place);
            });
        }
    }

    /// Logins through one watcher.
    pub async fn log_in_through(self: Arc<Self>, watcher: usize, mut dice: Dice, until: BootTime) {
        let places = Arc::new(Semaphore::new(UNDER_WAY));
        let mut ticks = tokio::time::interval(LOGIN_EVERY[1]);
        while now() < until {
            ticks.tick().await;
            let (Ok(place), Some(attempt)) = (Arc::clone(&places).try_acquire_owned(), self.attempt(&mut dice)) else {
                continue;
            };
            let (load, dice) = (Arc::clone(&self), Dice::new(dice.next(), 0));
            self.under_way.spawn(async move {
                load.ask_watcher(watcher, attempt, dice).await;
                drop(place);
            });
        }
    }

    /// Creates devices, changes passwords, disconnects devices; one after the other.
    pub async fn revoke(self: Arc<Self>, mut dice: Dice, until: BootTime) {
        while now() < until {
            let chosen = {
                let mut passwords = self.passwords();
                let place = dice.below(passwords.living.len());
                let enough = passwords.living.len() >= LIVING * 9 / 10;
                enough.then(|| {
                    let known = passwords.living.swap_remove(place);
                    passwords.ended.push(known.clone());
                    known
                })
            };
            match chosen {
                Some(known) => self.end(&mut dice, known).await,
                None => self.create(&mut dice).await,
            }
            tokio::time::sleep(dice.millis(10, 250)).await;
        }
    }

    fn attempt(&self, dice: &mut Dice) -> Option<Attempt> {
        let passwords = self.passwords();
        let recent = &passwords.ended[passwords.ended.len().saturating_sub(RECENT)..];
        let known = match dice.below(100) {
            0..60 => dice.pick(&passwords.living),
            60..90 => dice.pick(recent),
            _ => dice.pick(&passwords.ended),
        };
        let known = known.or_else(|| dice.pick(&passwords.living))?;
        let (mailbox, password, text) = match dice.below(20) {
            0 => (known.mailbox, None, format!("wrong-{}", dice.next())),
            // Somebody else's password.
            1 => ((known.mailbox + 1) % self.world.mailboxes.len(), None, known.text.clone()),
            _ => (known.mailbox, Some(known.password), known.text.clone()),
        };
        // Guesses come from elsewhere, each from another address, so that none is throttled.
        let client_ip = match password {
            Some(_) => "192.0.2.1".to_owned(),
            None => format!("198.18.{}.{}", dice.below(256), dice.below(256)),
        };
        Some(self.attempt_with(mailbox, password, text, client_ip))
    }

    fn attempt_with(&self, mailbox: usize, password: Option<Password>, text: String, client_ip: String) -> Attempt {
        let request = proto::AuthenticateRequest {
            address: self.world.mailboxes[mailbox].clone(),
            password: text.into(),
            protocol: Protocol::Imap.into(),
            client_ip,
            frontend: "histories".to_owned(),
            stream_key: vec![],
        };
        Attempt { mailbox, password, request }
    }

    async fn ask(&self, replica: usize, Attempt { mailbox, password, request }: Attempt) {
        let began = now();
        let answer = match tokio::time::timeout(LOGIN_TIMEOUT, self.world.authorization(replica).authenticate(request)).await {
            Ok(Ok(answer)) => {
                let answer = answer.into_inner();
                match answer.decision() {
                    Decision::Allow => Answer::Allow { device: self.world.number_of(&answer.device_id) },
                    _ => Answer::Deny(answer.reason()),
                }
            }
            Ok(Err(status)) => Answer::None(words(&status)),
            Err(_) => Answer::None("no answer in time".to_owned()),
        };
        let by = By::Replica(replica);
        self.world.book.write().logins.push(Login { began, ended: now(), mailbox, password, by, answer });
    }

    async fn ask_watcher(&self, watcher: usize, Attempt { mailbox, password, request }: Attempt, mut dice: Dice) {
        let began = now();
        let Judged { by, answer, session } = self.watchers[watcher].login(&mut dice, request, password).await;
        self.world.book.write().logins.push(Login { began, ended: now(), mailbox, password, by, answer });
        if let Some(session) = session {
            // Few stay for long.
            let stays = if dice.percent(10) { dice.millis(2_000, 30_000) } else { dice.millis(10, 1_500) };
            let watcher = self.watchers[watcher].clone();
            tokio::spawn(async move {
                tokio::time::sleep(stays).await;
                watcher.hang_up(session);
            });
        }
    }

    /// A new device. An unsettled call is repeated; one that had been done has made a device whose
    /// password nobody knows, which goes.
    async fn create(&self, dice: &mut Dice) {
        let mailbox = dice.below(self.world.mailboxes.len());
        let chosen = dice.percent(25).then(|| format!("{:016x}-{:016x}", dice.next(), dice.next()));
        let request = proto::CreateDeviceRequest {
            address: self.world.mailboxes[mailbox].clone(),
            display_name: "Phone".to_owned(),
            password: chosen.clone().unwrap_or_default(),
            request_id: dice.uuid(),
            ..Default::default()
        };
        for _ in 0..TRIES {
            let began = now();
            let mut client = self.world.credentials(dice.below(self.world.replicas.len()));
            match in_time(client.create_device(request.clone())).await {
                Ok(created) => {
                    let device = created.device.expect("a device");
                    let password = Password { device: self.world.number(&device.device_id), generation: device.generation };
                    let text = chosen.unwrap_or(created.password);
                    self.world.book.write().issued.push(Issued { password, mailbox, began, good_from: now() });
                    self.passwords().living.push(Known { password, mailbox, device_id: device.device_id, text });
                    return;
                }
                Err(status) if status.code() == Code::AlreadyExists => {
                    let device_id = status.get_details_error_info().and_then(|mut info| info.metadata.remove("device_id"));
                    let device_id = device_id.expect("it names the device");
                    let password = Password { device: self.world.number(&device_id), generation: 1 };
                    self.world.book.write().issued.push(Issued { password, mailbox, began, good_from: now() });
                    let nobodys = Known { password, mailbox, device_id, text: String::new() };
                    self.settle(dice, nobodys, How::Disconnect).await;
                    return;
                }
                Err(status) => self.failed("CreateDevice", began, &status),
            }
            tokio::time::sleep(dice.millis(10, 200)).await;
        }
    }

    /// Ends a password, and tries it everywhere once that is said to hold.
    async fn end(&self, dice: &mut Dice, known: Known) {
        let how = if dice.percent(50) { How::Change } else { How::Disconnect };
        self.settle(dice, known.clone(), how).await;
        let attempt = || self.attempt_with(known.mailbox, Some(known.password), known.text.clone(), "192.0.2.1".to_owned());
        let at_replicas = (0..self.world.replicas.len()).map(|replica| self.ask(replica, attempt()));
        let through_watchers = (0..self.watchers.len()).map(|watcher| {
            let dice = Dice::new(dice.next(), 0);
            self.ask_watcher(watcher, attempt(), dice)
        });
        let through_watchers: Vec<_> = through_watchers.collect();
        futures_util::future::join(futures_util::future::join_all(at_replicas), futures_util::future::join_all(through_watchers))
            .await;
    }

    /// Repeats a revoking call, at any replica, until it is settled; then waits until it is
    /// EFFECTIVE.
    async fn settle(&self, dice: &mut Dice, mut known: Known, mut how: How) {
        let mut request_id = dice.uuid();
        let wait = dice.percent(25).then(prost_types::Duration::default);
        let mut pending: Option<String> = None;
        let mut made: Option<Known> = None;
        for _ in 0..TRIES {
            let replica = dice.below(self.world.replicas.len());
            let began = now();
            let answered = match (&pending, how) {
                (Some(id), _) => self.await_revocation(replica, id.clone()).await,
                (None, How::Change) => self.change(replica, &known, &request_id, wait, &mut made).await,
                _ => self.disconnect(replica, &known, &request_id, wait).await,
            };
            if answered.as_ref().is_err_and(|status| status.code() == Code::AlreadyExists) {
                // The change was done, and its password is lost: nobody's device, which goes.
                known.password.generation += 1;
                (how, request_id) = (How::Disconnect, dice.uuid());
                continue;
            }
            if answered.as_ref().is_err_and(|status| status.code() == Code::NotFound) {
                // It was made by a commit that is lost.
                return;
            }
            let outcome = match &answered {
                Err(status) => Outcome::None(words(status)),
                Ok(revocation) => match revocation.state() {
                    State::Effective => Outcome::Effective,
                    _ => Outcome::Pending { effective_by: to_boot(revocation) },
                },
            };
            let said = if pending.is_some() { How::Await } else { how };
            self.note(Revocation { began, ended: now(), how: said, password: known.password, replica, outcome: outcome.clone() });
            if let Some(new) = made.take() {
                let good_from = match &outcome {
                    Outcome::Pending { effective_by } => *effective_by,
                    _ => now(),
                };
                let Known { password, mailbox, .. } = new;
                self.world.book.write().issued.push(Issued { password, mailbox, began, good_from });
                self.passwords().living.push(new);
            }
            match (outcome, answered) {
                (Outcome::Effective, _) => {
                    let next = Password { generation: known.password.generation + 1, ..known.password };
                    self.world.book.is_good_now(next);
                    return;
                }
                (Outcome::Pending { .. }, Ok(revocation)) => pending = Some(revocation.revocation_id),
                _ => tokio::time::sleep(dice.millis(10, 200)).await,
            }
        }
    }

    async fn change(
        &self,
        replica: usize,
        known: &Known,
        request_id: &str,
        max_wait: Option<prost_types::Duration>,
        made: &mut Option<Known>,
    ) -> Result<proto::Revocation, Status> {
        let request = proto::ChangePasswordRequest {
            address: self.world.mailboxes[known.mailbox].clone(),
            device_id: known.device_id.clone(),
            password: String::new(),
            request_id: request_id.to_owned(),
            max_wait,
        };
        let changed = in_time(self.world.credentials(replica).change_password(request)).await?;
        let generation = changed.device.expect("a device").generation;
        assert_eq!(generation, known.password.generation + 1, "generations count up by one");
        let password = Password { generation, ..known.password };
        *made = Some(Known { password, text: changed.password, ..known.clone() });
        Ok(changed.revocation.expect("a revocation"))
    }

    async fn disconnect(
        &self,
        replica: usize,
        known: &Known,
        request_id: &str,
        max_wait: Option<prost_types::Duration>,
    ) -> Result<proto::Revocation, Status> {
        let request = proto::DisconnectDeviceRequest {
            address: self.world.mailboxes[known.mailbox].clone(),
            device_id: known.device_id.clone(),
            request_id: request_id.to_owned(),
            max_wait,
        };
        let answer = in_time(self.world.credentials(replica).disconnect_device(request)).await?;
        Ok(answer.revocation.expect("a revocation"))
    }

    async fn await_revocation(&self, replica: usize, revocation_id: String) -> Result<proto::Revocation, Status> {
        let request = proto::AwaitRevocationRequest { revocation_id, max_wait: None };
        let answer = in_time(self.world.credentials(replica).await_revocation(request)).await?;
        Ok(answer.revocation.expect("a revocation"))
    }

    fn note(&self, revocation: Revocation) {
        self.world.book.write().revocations.push(revocation);
    }

    fn failed(&self, what: &str, began: BootTime, status: &Status) {
        let failure = Failure { began, ended: now(), what: format!("{what}: {}", words(status)), is_refusal: false };
        self.world.book.write().failures.push(failure);
    }

    fn passwords(&self) -> MutexGuard<'_, Passwords> {
        self.passwords.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn in_time<T>(call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, Status> {
    let answer = tokio::time::timeout(CALL_TIMEOUT, call).await;
    answer.map_err(|_| Status::deadline_exceeded("no answer in time"))?.map(tonic::Response::into_inner)
}

/// The replica's wall clock is ours: it runs on the same machine.
fn to_boot(revocation: &proto::Revocation) -> BootTime {
    let by = revocation.effective_by.unwrap_or_default();
    let by = by.seconds * 1_000_000 + i64::from(by.nanos / 1_000);
    now() + Duration::from_micros(u64::try_from(by - SystemClock.wall().0).unwrap_or(0))
}
