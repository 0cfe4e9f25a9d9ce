//! The sessions that changes ended, until their watchers report what became of them. Apart from the acknowledgements: those say that nothing is allowed from before a change,
//! and must not wait for a slow session.

use std::{collections::BTreeMap, time::Duration};

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
    sessions: HashSet<u64>,
}

/// A report that was counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Counted {
    /// The change that ended the session.
    pub revision: Revision,
    pub took: Duration,
}

impl Endings {
    /// A change has ended these sessions. `name`: of a watcher.
    pub(super) fn begin(
        &mut self,
        revision: Revision,
        sessions: &[SessionKey],
        now: BootTime,
        name: impl Fn(u64) -> Option<String>,
    ) {
        if sessions.is_empty() {
            return;
        }
        let mut hosts: HashMap<u64, Host> = HashMap::new();
        for key in sessions {
            let host = hosts
                .entry(key.watcher)
                .or_insert_with(|| Host { name: name(key.watcher).unwrap_or_default(), sessions: HashSet::new() });
            host.sessions.insert(key.number);
        }
        self.by_change.insert(revision, Ending { applied: now, closed: 0, refused: HashSet::new(), hosts });
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
        let begin = || Ending { applied: now, closed: 0, refused: HashSet::new(), hosts: HashMap::new() };
        let ending = self.by_change.entry(revision).or_insert_with(begin);
        let host = ending.hosts.entry(key.watcher).or_insert_with(|| Host { name: name.to_owned(), sessions: HashSet::new() });
        host.sessions.insert(key.number);
    }

    /// Counts what became of a session, if a change has ended it and it was not counted before.
    pub(super) fn report(&mut self, key: SessionKey, end: End, now: BootTime) -> Option<Counted> {
        let mut counted = None;
        // The first change that ended it is the cause; for later ones it is no session of theirs any more.
        for (revision, ending) in &mut self.by_change {
            let was_silent = ending.hosts.get_mut(&key.watcher).is_some_and(|host| host.sessions.remove(&key.number));
            if ending.hosts.get(&key.watcher).is_some_and(|host| host.sessions.is_empty()) {
                ending.hosts.remove(&key.watcher);
            }
            let is_news = was_silent || (end == End::Closed && ending.refused.remove(&key));
            if is_news && counted.is_none() {
                match end {
                    End::Closed => ending.closed = ending.closed.saturating_add(1),
                    End::Refused => drop(ending.refused.insert(key)),
                }
                counted = Some(Counted { revision: *revision, took: now - ending.applied });
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
            .map(|host| SilentHost { name: host.name.clone(), sessions: u32::try_from(host.sessions.len()).unwrap_or(u32::MAX) });
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
