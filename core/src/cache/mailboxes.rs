//! Mailboxes' records, as of a revision each, and the fence that keeps stale ones out.
//!
//! The rule: **whoever holds an [`Entry`] that says it is current has seen every change that was
//! applied.** So a change ends the entry in the cache, and it also marks every read under way,
//! whose answer may be from before it. An entry that leaves the cache for lack of room ends too,
//! since nothing could tell its holder of a change any more.

use hashbrown::HashMap;

use super::generations::{Forgotten, Generations};
use crate::model::{
    address::MailboxKey,
    change::{Change, Revision, Scope, ServiceKey},
    record::{MailboxRead, MailboxRecord},
};
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, MutexGuard, Ordering, PoisonError};

/// Keeps the time under one lock short when a generation is dropped: at most so many mailboxes a
/// shard, up to so many shards.
const SHARD_CAPACITY: usize = 1_024;
const MAX_SHARDS: usize = 256;
/// Of the capacity, what goes to addresses that have no mailbox: a flood of guessed ones pushes out
/// no other.
const ABSENT_SHARE: usize = 8;

/// An address's record as it was read at a revision: its mailbox, or that there is none.
#[derive(Debug)]
pub struct Entry {
    pub read: MailboxRead,
    current: AtomicBool,
}

impl Entry {
    /// Whether no change to the mailbox was applied since it was read.
    pub fn is_current(&self) -> bool {
        self.current.load(Ordering::Acquire)
    }

    fn end(&self) {
        self.current.store(false, Ordering::Release);
    }

    fn belongs_to(&self, service: ServiceKey) -> bool {
        self.read.mailbox.as_ref().is_some_and(|mailbox: &MailboxRecord| mailbox.service == service)
    }
}

/// See the module.
#[derive(Debug)]
pub struct MailboxCache {
    shards: Box<[Mutex<Shard>]>,
    /// Nothing that was read at an older revision gets in.
    floor: AtomicU64,
    next_load: AtomicU64,
}

#[derive(Debug)]
struct Shard {
    present: Generations<MailboxKey, Arc<Entry>>,
    absent: Generations<MailboxKey, Arc<Entry>>,
    /// Reads under way, and whether a change has overtaken them.
    loads: HashMap<u64, LoadUnderWay>,
}

#[derive(Debug)]
struct LoadUnderWay {
    key: MailboxKey,
    overtaken: bool,
}

/// A read under way: begun before the store is asked, finished with its answer.
#[derive(Debug)]
pub struct Load<'a> {
    cache: &'a MailboxCache,
    key: MailboxKey,
    number: u64,
}

impl MailboxCache {
    /// For about `capacity` mailboxes, at most.
    pub fn with_capacity(capacity: usize) -> Self {
        let shards = capacity.div_ceil(SHARD_CAPACITY).clamp(1, MAX_SHARDS);
        let each = capacity.div_ceil(shards);
        let shard = || Shard {
            present: Generations::with_capacity(each),
            absent: Generations::with_capacity(each / ABSENT_SHARE),
            loads: HashMap::new(),
        };
        Self {
            shards: (0..shards).map(|_| Mutex::new(shard())).collect(),
            floor: AtomicU64::new(0),
            next_load: AtomicU64::new(0),
        }
    }

    pub fn get(&self, key: MailboxKey) -> Option<Arc<Entry>> {
        let mut shard = self.shard(key);
        let shard = &mut *shard;
        for map in [&mut shard.present, &mut shard.absent] {
            let (entry, forgotten) = map.get(&key);
            let entry = entry.cloned();
            end_all(&forgotten);
            if entry.is_some() {
                return entry;
            }
        }
        None
    }

    /// Announces a read. Must come before the store is asked: changes applied from here on overtake
    /// it.
    pub fn begin_load(&self, key: MailboxKey) -> Load<'_> {
        let number = self.next_load.fetch_add(1, Ordering::Relaxed);
        self.shard(key).loads.insert(number, LoadUnderWay { key, overtaken: false });
        Load { cache: self, key, number }
    }

    /// Ends what the change concerns, in the cache and under way. When this returns, no entry from
    /// before it says that it is current.
    pub fn apply(&self, change: &Change) {
        match &change.scope {
            Scope::Mailboxes(keys) => keys.iter().for_each(|key| self.end_mailbox(*key)),
            Scope::Service(service) => self.end_where(|entry| entry.belongs_to(*service)),
        }
    }

    /// Empties the cache, and lets nothing in that was read before `floor`: for a process that has
    /// missed changes and jumps ahead.
    pub fn clear(&self, floor: Revision) {
        // The floor is set before the first shard is emptied, so that no insertion slips in
        // between. It may be lower than the last one: in another history.
        self.floor.store(floor.0, Ordering::Release);
        self.end_where(|_| true);
    }

    /// How many addresses are cached.
    pub fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| {
                let shard = lock(shard);
                shard.present.len() + shard.absent.len()
            })
            .sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn end_mailbox(&self, key: MailboxKey) {
        let mut shard = self.shard(key);
        let shard = &mut *shard;
        for map in [&mut shard.present, &mut shard.absent] {
            // Whatever revision it was read at: a higher one may be of a history that is lost.
            if let Some(entry) = map.remove(&key) {
                entry.end();
            }
        }
        shard.loads.values_mut().filter(|load| load.key == key).for_each(|load| load.overtaken = true);
    }

    fn end_where(&self, mut concerned: impl FnMut(&Entry) -> bool) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            for entry in shard.present.extract(|entry| concerned(entry)) {
                entry.end();
            }
            for entry in shard.absent.extract(|entry| concerned(entry)) {
                entry.end();
            }
            // What they will read is not known yet.
            shard.loads.values_mut().for_each(|load| load.overtaken = true);
        }
    }

    fn shard(&self, key: MailboxKey) -> MutexGuard<'_, Shard> {
        // The key is a digest, so its bytes spread evenly.
        lock(&self.shards[usize::from(key.0[0]) % self.shards.len()])
    }
}

impl Load<'_> {
    /// Puts the answer into the cache, unless a change has overtaken it or it is from before the
    /// floor: then the entry says that it is not current.
    pub fn finish(self, read: MailboxRead) -> Arc<Entry> {
        let mut shard = self.cache.shard(self.key);
        let overtaken = shard.loads.get(&self.number).is_none_or(|load| load.overtaken);
        let current = !overtaken && read.revision.0 >= self.cache.floor.load(Ordering::Acquire);
        let entry = Arc::new(Entry { read, current: AtomicBool::new(current) });
        if current {
            let shard = &mut *shard;
            let (map, other) = match entry.read.mailbox {
                Some(_) => (&mut shard.present, &mut shard.absent),
                None => (&mut shard.absent, &mut shard.present),
            };
            if let Some(before) = other.remove(&self.key) {
                before.end();
            }
            end_all(&map.insert(self.key, Arc::clone(&entry)));
        }
        entry
    }
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        self.cache.shard(self.key).loads.remove(&self.number);
    }
}

fn end_all(forgotten: &Forgotten<MailboxKey, Arc<Entry>>) {
    forgotten.values().for_each(|entry| entry.end());
}

/// A panic in a login can't leave a shard half changed, so a poisoned lock is as good as any.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
