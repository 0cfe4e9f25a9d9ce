//! The sessions that changes ended, or may have ended, until it is known what became of them. Apart
//! from the acknowledgements: those say that nothing is allowed from before a change, and must not
//! wait for a slow session.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use hashbrown::{HashMap, HashSet};

use super::messages::End;
use crate::model::{
    change::Revision,
    clock::BootTime,
    session::{Closing, SessionKey, SilentHost},
};

/// Reports are counted for this long after the change.
const COUNTED_FOR: Duration = Duration::from_secs(60);
/// Changes of which reports are counted; then the oldest is counted no more.
const MAX_CHANGES: usize = 4_096;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Endings {
    by_change: BTreeMap<Revision, Ending>,
    /// The newest that is counted no more.
    forgotten: Revision,
    /// The changes of which something is to be written.
    pub(super) unwritten: BTreeSet<Revision>,
}

#[derive(Debug)]
struct Ending {
    applied: BootTime,
    closed: u32,
    /// Still connected.
    refused: HashSet<SessionKey>,
    /// Not reported yet, by watcher.
    hosts: HashMap<u64, Host>,
}

#[derive(Debug)]
struct Host {
    name: String,
    /// Told to close.
    sessions: HashSet<u64>,
    /// Not judged yet: the change may have ended them, or not.
    doubtful: HashSet<u64>,
    /// Told to close once they were judged. If several changes were in doubt about a session,
    /// nobody knows which of them it was: it counts for each.
    suspects: HashSet<u64>,
}

impl Host {
    fn named(name: String) -> Self {
        Self { name, sessions: HashSet::new(), doubtful: HashSet::new(), suspects: HashSet::new() }
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len(&self) -> usize {
        self.sessions.len() + self.doubtful.len() + self.suspects.len()
    }
}

impl Ending {
    fn begin(now: BootTime) -> Self {
        Self { applied: now, closed: 0, refused: HashSet::new(), hosts: HashMap::new() }
    }

    /// Whether the session was in doubt. It is no more.
    fn take_doubt(&mut self, key: SessionKey) -> bool {
        let Some(host) = self.hosts.get_mut(&key.watcher) else {
            return false;
        };
        let was_doubtful = host.doubtful.remove(&key.number);
        if host.is_empty() {
            self.hosts.remove(&key.watcher);
        }
        was_doubtful
    }

    fn has_doubts(&self) -> bool {
        self.hosts.values().any(|host| !host.doubtful.is_empty())
    }
}

/// A report that was counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Counted {
    /// The change that ended the session.
    pub revision: Revision,
    pub took: Duration,
}

impl Endings {
    /// A change has ended the sessions `ended`, and perhaps those in `doubtful`. `name`: of a
    /// watcher.
    pub(super) fn begin(
        &mut self,
        revision: Revision,
        ended: &[SessionKey],
        doubtful: &[SessionKey],
        now: BootTime,
        name: impl Fn(u64) -> Option<String>,
    ) {
        if ended.is_empty() && doubtful.is_empty() {
            return;
        }
        let mut hosts: HashMap<u64, Host> = HashMap::new();
        let host = |watcher| Host::named(name(watcher).unwrap_or_default());
        for key in ended {
            hosts.entry(key.watcher).or_insert_with(|| host(key.watcher)).sessions.insert(key.number);
        }
        for key in doubtful {
            hosts.entry(key.watcher).or_insert_with(|| host(key.watcher)).doubtful.insert(key.number);
        }
        self.by_change.insert(revision, Ending { hosts, ..Ending::begin(now) });
        while self.by_change.len() > MAX_CHANGES || self.oldest().is_some_and(|oldest| now - oldest > COUNTED_FOR) {
            if let Some((revision, _)) = self.by_change.pop_first() {
                self.forgotten = revision;
            }
        }
    }

    /// A session has opened after the change that ended its password: it is among those.
    pub(super) fn add(&mut self, revision: Revision, key: SessionKey, name: &str, now: BootTime) {
        if revision <= self.forgotten {
            return;
        }
        let ending = self.by_change.entry(revision).or_insert_with(|| Ending::begin(now));
        let host = ending.hosts.entry(key.watcher).or_insert_with(|| Host::named(name.to_owned()));
        host.sessions.insert(key.number);
        self.unwritten.insert(revision);
    }

    /// A session has opened after a change that may have ended it, and is to be judged.
    pub(super) fn doubt(&mut self, revision: Revision, key: SessionKey, name: &str) {
        if let Some(ending) = self.by_change.get_mut(&revision) {
            let host = ending.hosts.entry(key.watcher).or_insert_with(|| Host::named(name.to_owned()));
            host.doubtful.insert(key.number);
            self.unwritten.insert(revision);
        }
    }

    /// A session was judged after the changes up to `cause`, and none of them has ended it. Whether
    /// that was the last doubt about one of them.
    pub(super) fn clear_doubts(&mut self, cause: Revision, key: SessionKey) -> bool {
        let mut was_last = false;
        for (revision, ending) in self.by_change.range_mut(..=cause) {
            if ending.take_doubt(key) {
                self.unwritten.insert(*revision);
                was_last |= !ending.has_doubts();
            }
        }
        was_last
    }

    /// A session was judged because of `cause`, and is not valid any more.
    pub(super) fn blame(&mut self, cause: Revision, key: SessionKey, name: &str, now: BootTime) {
        let mut is_counted = false;
        for ending in self.by_change.values_mut() {
            if let Some(host) = ending.hosts.get_mut(&key.watcher)
                && host.doubtful.remove(&key.number)
            {
                host.suspects.insert(key.number);
                is_counted = true;
            }
        }
        if !is_counted {
            self.add(cause, key, name, now);
        }
    }

    /// Counts what became of a session, if a change has ended it and it was not counted before.
    pub(super) fn report(&mut self, key: SessionKey, end: End, now: BootTime) -> Option<Counted> {
        let mut counted = None;
        // The first change that ended it is the cause; for later ones it is no session of theirs
        // any more.
        for (revision, ending) in &mut self.by_change {
            let host = ending.hosts.get_mut(&key.watcher);
            let (was_suspect, was_told) =
                host.map_or((false, false), |host| (host.suspects.remove(&key.number), host.sessions.remove(&key.number)));
            let was_silent = was_suspect || was_told;
            // One that ended by itself was ended by no change.
            let was_doubtful = end == End::Closed && ending.take_doubt(key);
            if ending.hosts.get(&key.watcher).is_some_and(Host::is_empty) {
                ending.hosts.remove(&key.watcher);
            }
            let is_news = was_silent || (end == End::Closed && ending.refused.remove(&key));
            if is_news || was_doubtful {
                self.unwritten.insert(*revision);
            }
            if is_news && (was_suspect || counted.is_none()) {
                match end {
                    End::Closed => ending.closed = ending.closed.saturating_add(1),
                    End::Refused => drop(ending.refused.insert(key)),
                }
                counted.get_or_insert(Counted { revision: *revision, took: now - ending.applied });
            }
        }
        counted
    }

    /// What is to be written of a change, if it ended any session.
    pub(super) fn closing(&self, revision: Revision) -> Option<Closing> {
        let ending = self.by_change.get(&revision)?;
        let silent = ending
            .hosts
            .values()
            .map(|host| SilentHost { name: host.name.clone(), sessions: u32::try_from(host.len()).unwrap_or(u32::MAX) });
        Some(Closing {
            revision,
            closed: ending.closed,
            refused: u32::try_from(ending.refused.len()).unwrap_or(u32::MAX),
            silent: silent.collect(),
        })
    }

    /// A watcher has come back on another stream, and reports on that, under the same numbers.
    pub(super) fn rename(&mut self, before: u64, after: u64) {
        for ending in self.by_change.values_mut() {
            if let Some(host) = ending.hosts.remove(&before) {
                ending.hosts.insert(after, host);
            }
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn oldest(&self) -> Option<BootTime> {
        self.by_change.values().next().map(|ending| ending.applied)
    }
}
