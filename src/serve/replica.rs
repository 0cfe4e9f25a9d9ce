//! The parts of a replica, put together over a store.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    grpc::{authorization::AuthorizationService, device_credentials::DeviceCredentialsService, directory::DirectoryService},
    hashing::HashingPool,
    lifecycle::Drain,
    login::{Login, Upgrades},
    login_log::LoginLog,
    manage::{devices::Devices, directory::Directory},
    passwords::{pepper::Pepper, tag::Tagger},
    replication::{Feed, FeedSettings},
    store::Store,
    throttle::Throttle,
};
use latchkey_core::{
    cache::{mailboxes::MailboxCache, memos::Memos},
    model::clock::SharedClock,
};

/// What a replica is told, besides its store and its pepper.
#[derive(Clone, Debug)]
pub struct ReplicaSettings {
    pub feed: FeedSettings,
    /// Mailboxes cached, at most.
    pub cache_mailboxes: usize,
    /// Memos of chosen and generic passwords kept, at most.
    pub cache_memos: usize,
    /// Active devices that a mailbox may have.
    pub max_devices: usize,
    /// See [`Login::denial_delay`].
    pub denial_delay: Duration,
}

/// A replica's use cases, and the mechanisms that run beside them.
pub struct Replica {
    pub store: Arc<dyn Store>,
    pub cache: Arc<MailboxCache>,
    pub memos: Arc<Memos>,
    pub feed: Arc<Feed>,
    pub login_log: Arc<LoginLog>,
    pub hashing: Arc<HashingPool>,
    pub login: Arc<Login>,
    pub devices: Arc<Devices>,
    pub directory: Arc<Directory>,
    pub clock: SharedClock,
}

impl Replica {
    pub fn assemble(
        store: Arc<dyn Store>,
        pepper: &Pepper,
        hashing: Arc<HashingPool>,
        clock: SharedClock,
        settings: ReplicaSettings,
    ) -> Self {
        let tagger = Arc::new(Tagger::new(pepper));
        let cache = Arc::new(MailboxCache::with_capacity(settings.cache_mailboxes));
        let memos = Arc::new(Memos::with_capacity(settings.cache_memos, &crate::random::bytes()));
        let feed = Arc::new(Feed::new(Arc::clone(&store), Arc::clone(&cache), Arc::clone(&clock), settings.feed));
        let login_log = Arc::new(LoginLog::new());
        let login = Arc::new(Login {
            store: Arc::clone(&store),
            cache: Arc::clone(&cache),
            memos: Arc::clone(&memos),
            feed: Arc::clone(&feed),
            tagger: Arc::clone(&tagger),
            hashing: Arc::clone(&hashing),
            throttle: Throttle::new(),
            login_log: Arc::clone(&login_log),
            upgrades: Upgrades::new(
                Arc::clone(&store),
                Arc::clone(&feed),
                Arc::clone(&tagger),
                Arc::clone(&hashing),
                Arc::clone(&clock),
            ),
            clock: Arc::clone(&clock),
            denial_delay: settings.denial_delay,
        });
        let devices = Arc::new(Devices {
            store: Arc::clone(&store),
            feed: Arc::clone(&feed),
            tagger,
            hashing: Arc::clone(&hashing),
            clock: Arc::clone(&clock),
            max_devices: settings.max_devices,
        });
        let directory = Arc::new(Directory { store: Arc::clone(&store), feed: Arc::clone(&feed), clock: Arc::clone(&clock) });
        Self { store, cache, memos, feed, login_log, hashing, login, devices, directory, clock }
    }

    /// What the gauges show.
    pub fn readings(&self) -> impl Fn() -> Vec<(&'static str, u64)> + Send + Sync + 'static {
        let (cache, memos, feed) = (Arc::clone(&self.cache), Arc::clone(&self.memos), Arc::clone(&self.feed));
        let (login_log, hashing) = (Arc::clone(&self.login_log), Arc::clone(&self.hashing));
        move || {
            let hashes = hashing.counts();
            let (watchers, sessions) = feed.watchers().counts();
            vec![
                ("latchkey.cache.mailboxes", cache.len() as u64),
                ("latchkey.cache.proofs", memos.len() as u64),
                ("latchkey.lease.held", u64::from(feed.has_lease())),
                ("latchkey.feed.revision", feed.applied().0),
                ("latchkey.feed.acknowledged", feed.acknowledged().0),
                ("latchkey.feed.lost_histories", feed.lost_histories()),
                ("latchkey.watchers", watchers as u64),
                ("latchkey.sessions", sessions as u64),
                ("latchkey.hashing.runs", hashes.runs),
                ("latchkey.hashing.refused", hashes.refused),
                ("latchkey.hashing.queued", hashes.queued as u64),
                ("latchkey.history.dropped", login_log.dropped()),
            ]
        }
    }

    pub fn authorization(&self, drain: &Drain) -> AuthorizationService {
        AuthorizationService { login: Arc::clone(&self.login), feed: Arc::clone(&self.feed), drain: drain.clone() }
    }

    pub fn device_credentials(&self) -> DeviceCredentialsService {
        DeviceCredentialsService(Arc::clone(&self.devices))
    }

    pub fn directory(&self, drain: &Drain) -> DirectoryService {
        DirectoryService { directory: Arc::clone(&self.directory), drain: drain.clone() }
    }
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").field("feed", &self.feed).finish_non_exhaustive()
    }
}
