//! Floor 2: the history of logins, written behind: counted in memory, and added to the store once a
//! second. A crash loses a second of it. While the store does not answer, what does not fit into
//! memory is dropped and counted. A login never waits for it.

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hashbrown::{HashMap, hash_map::EntryRef};
use tracing::{info, warn};

use crate::store::Store;
use latchkey_core::model::{
    clock::Timestamp,
    event::{LoginCount, LoginKey},
    id::MailboxId,
    protocol::Protocol,
    verdict::{Reason, Verdict},
};

const SHARDS: usize = 32;
/// Different logins (by [`LoginKey`]) kept for the next write, in all; what is more is dropped, and
/// counted.
const MAX_PENDING: usize = 1 << 18;
/// Addresses that wrong guesses at one mailbox come from, kept apart within an hour; further ones
/// are counted together.
const MAX_GUESSERS: usize = 16;
/// Mailboxes whose guessers are kept apart, in all.
const MAX_GUESSED_AT: usize = 1 << 16;
/// Written in one transaction.
const BATCH: usize = 2_000;
pub const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
/// How often denials are said in the log: once a minute.
const FLUSHES_PER_LINE: u64 = 60;

type Pending = HashMap<LoginKey, Counted>;

/// See the module.
pub struct LoginLog {
    shards: Box<[Mutex<Shard>]>,
    dropped: AtomicU64,
    /// By reason: since they were last said in the log.
    denials: [AtomicU64; Reason::ALL.len()],
}

#[derive(Default)]
struct Shard {
    pending: Pending,
    guessers: Guessers,
}

/// The addresses that wrong guesses came from within an hour.
#[derive(Default)]
struct Guessers {
    hour: i64,
    by_mailbox: HashMap<MailboxId, Vec<IpAddr>>,
}

impl Guessers {
    /// Whether guesses from this address are counted apart from others'. Guesses come from
    /// everywhere, so there is a bound.
    fn are_apart(&mut self, mailbox: MailboxId, address: IpAddr, hour: i64) -> bool {
        if hour > self.hour {
            self.hour = hour;
            self.by_mailbox.clear();
        }
        let is_full = self.by_mailbox.len() >= MAX_GUESSED_AT / SHARDS;
        if hour < self.hour || (is_full && !self.by_mailbox.contains_key(&mailbox)) {
            return false;
        }
        let known = self.by_mailbox.entry(mailbox).or_default();
        let has_room = known.len() < MAX_GUESSERS;
        if !known.contains(&address) && has_room {
            known.push(address);
        }
        has_room || known.contains(&address)
    }
}

/// A login as the history sees it.
#[derive(Clone, Copy, Debug)]
pub struct Noted<'a> {
    pub mailbox_id: MailboxId,
    pub protocol: Protocol,
    pub client_ip: Option<IpAddr>,
    pub frontend: &'a str,
    pub verdict: &'a Verdict,
    /// Of logins that were alike: the last one's.
    pub time: Timestamp,
    /// How many.
    pub count: u32,
}

struct Counted {
    last_client_ip: Option<IpAddr>,
    frontend: Box<str>,
    count: u64,
    first_time: Timestamp,
    last_time: Timestamp,
}

impl LoginLog {
    #[expect(clippy::new_without_default, reason = "one a process; it is not a plain value")]
    pub fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), dropped: AtomicU64::new(0), denials: Default::default() }
    }

    /// Counts a login. On every login's way: a short lock, and no allocation once its like was
    /// counted in this second.
    pub fn note(&self, noted: Noted<'_>) {
        let device_id = noted.verdict.password.map(|password| password.device_id);
        let hour = noted.time.unix_seconds().div_euclid(3_600);
        let shard = usize::from(device_id.map_or(noted.mailbox_id.0, |id| id.0).as_bytes()[15]) % SHARDS;
        let mut shard = self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
        let Shard { pending, guessers } = &mut *shard;
        let client_ip =
            noted.client_ip.filter(|address| device_id.is_some() || guessers.are_apart(noted.mailbox_id, *address, hour));
        let (reason, protocol) = (noted.verdict.reason, noted.protocol);
        let key = LoginKey { mailbox_id: noted.mailbox_id, device_id, reason, protocol, client_ip, hour };
        let full = pending.len() >= MAX_PENDING / SHARDS;
        match pending.entry_ref(&key) {
            EntryRef::Occupied(mut counted) => {
                let counted = counted.get_mut();
                counted.count += u64::from(noted.count);
                counted.last_time = counted.last_time.max(noted.time);
                counted.last_client_ip = noted.client_ip;
                if &*counted.frontend != noted.frontend {
                    counted.frontend = noted.frontend.into();
                }
            }
            EntryRef::Vacant(_) if full => {
                self.dropped.fetch_add(noted.count.into(), Ordering::Relaxed);
            }
            EntryRef::Vacant(free) => {
                free.insert(Counted {
                    last_client_ip: noted.client_ip,
                    frontend: noted.frontend.into(),
                    count: noted.count.into(),
                    first_time: noted.time,
                    last_time: noted.time,
                });
            }
        }
    }

    /// Counts a denial for the log's line.
    pub fn count_denial(&self, reason: Reason) {
        if let Some(at) = Reason::ALL.iter().position(|known| *known == reason) {
            self.denials[at].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Says how many logins were denied since the last time, and why.
    fn say_denials(&self) {
        let counts =
            Reason::ALL.iter().zip(&self.denials).map(|(reason, count)| (reason.label(), count.swap(0, Ordering::Relaxed)));
        let counts: Vec<_> = counts.filter(|(_, count)| *count > 0).collect();
        if !counts.is_empty() {
            let denied: u64 = counts.iter().map(|(_, count)| count).sum();
            let reasons: Vec<_> = counts.iter().map(|(reason, count)| format!("{reason}: {count}")).collect();
            info!(denied, reasons = reasons.join(", "), "logins were denied");
        }
    }

    /// Logins that went uncounted, since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Writes what has come together. What the store does not take is put back.
    pub async fn flush(&self, store: &dyn Store) {
        for shard in &self.shards {
            let taken = std::mem::take(&mut shard.lock().unwrap_or_else(PoisonError::into_inner).pending);
            let logins: Vec<_> = taken.into_iter().map(|(key, counted)| counted.into_login(key)).collect();
            for batch in logins.chunks(BATCH) {
                if let Err(error) = store.add_logins(batch).await {
                    warn!(%error, logins = batch.len(), "the history of logins was not written; it is tried again");
                    put_back(shard, batch, &self.dropped);
                }
            }
        }
    }

    /// Writes for ever, once a second.
    pub async fn run(self: Arc<Self>, store: Arc<dyn Store>) {
        for flushes in 1_u64.. {
            tokio::time::sleep(FLUSH_INTERVAL).await;
            self.flush(&*store).await;
            if flushes % FLUSHES_PER_LINE == 0 {
                self.say_denials();
            }
        }
    }
}

impl Counted {
    fn into_login(self, key: LoginKey) -> LoginCount {
        let Self { last_client_ip, frontend, count, first_time, last_time } = self;
        LoginCount { key, last_client_ip, frontend, count, first_time, last_time }
    }
}

fn put_back(shard: &Mutex<Shard>, logins: &[LoginCount], dropped: &AtomicU64) {
    let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
    let pending = &mut shard.pending;
    for login in logins {
        if let Some(counted) = pending.get_mut(&login.key) {
            counted.count += login.count;
            counted.first_time = counted.first_time.min(login.first_time);
        } else if pending.len() >= MAX_PENDING / SHARDS {
            dropped.fetch_add(login.count, Ordering::Relaxed);
        } else {
            let LoginCount { key, last_client_ip, frontend, count, first_time, last_time } = login.clone();
            pending.insert(key, Counted { last_client_ip, frontend, count, first_time, last_time });
        }
    }
}

impl fmt::Debug for LoginLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoginLog").field("dropped", &self.dropped()).finish_non_exhaustive()
    }
}
