//! A replica: its feed as `feed/mod.rs` drives it, its cache of one record, and one login at a
//! time.

use latchkey_core::{
    downstream::delivery::Delivery,
    lease,
    log::{Head, Progress, Step},
    model::{
        change::{Change, Position, Revision, Scope},
        clock::BootTime,
        id::NodeId,
    },
};

use super::{
    login::Login,
    rules::Rule,
    store::{Request, Stage},
    world::{LEASE, State, Who, World},
};

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Replica {
    pub(crate) feed: Feed,
    pub(crate) progress: Option<Progress>,
    pub(crate) lease_end: BootTime,
    /// The record of the one mailbox: the revision that it was read at. It says that the password
    /// is good: others are of no use.
    pub(crate) cache: Option<Revision>,
    pub(crate) floor: Revision,
    /// Its syncs on their way: the last is the one that it waits for, if it waits.
    pub(crate) requests: Vec<Request>,
    pub(crate) login: Login,
    /// The watcher's, while it is connected here.
    pub(crate) told: Option<Delivery>,
    /// What was sent to it last.
    pub(crate) sent: Position,
    pub(crate) departed: Vec<Delivery>,
    /// It remembers all changes after this one.
    pub(crate) knows_from: Revision,
    /// Only with rules taken out: the cache is still to be told of a change, and what the feed says
    /// of itself.
    pub(crate) is_drop_due: bool,
    pub(crate) acknowledged: Revision,
}

/// Where the one task stands that syncs. It may rest at each place for any time.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Feed {
    Down,
    /// Is to join; its row of before is to go then.
    Start {
        before: Option<NodeId>,
    },
    /// Has read the head, and emptied its cache.
    Joining {
        before: Option<NodeId>,
        head: Position,
        from: BootTime,
    },
    Leaving {
        before: NodeId,
    },
    Idle,
    Asked {
        from: BootTime,
    },
    Answered {
        from: BootTime,
        head: Option<Head>,
    },
    Applying {
        from: BootTime,
        up_to: Revision,
    },
}

impl Replica {
    pub(crate) fn begin() -> Self {
        Self {
            feed: Feed::Start { before: None },
            progress: None,
            lease_end: BootTime::default(),
            cache: None,
            floor: Revision::default(),
            requests: vec![],
            login: Login::Idle,
            told: None,
            sent: Position::default(),
            departed: vec![],
            knows_from: Revision::default(),
            is_drop_due: false,
            acknowledged: Revision::default(),
        }
    }

    /// A change has ended the record, in the cache and in the hands of the login under way:
    /// `MailboxCache::apply`.
    fn end_record(&mut self, is_of_before: impl Fn(Revision) -> bool) {
        self.cache = self.cache.filter(|revision| !is_of_before(*revision));
        self.login.overtake(is_of_before);
    }

    /// `MailboxCache::clear`: all that is held ends, and what is being read does not get in, by its
    /// mark or by the floor.
    fn clear(&mut self, floor: Option<Revision>) {
        self.cache = None;
        match floor {
            Some(floor) => {
                self.floor = floor;
                self.login.overtake(|_| true);
            }
            None => self.login.end_held(|_| true),
        }
    }
}

impl World {
    /// Has joined, synced and read the record a moment ago.
    pub(crate) fn begin_warm(&self, state: &mut State, it: usize) {
        let progress = Progress::begin(state.fresh_id(), state.store.position());
        state.store.join(&progress, progress.applied.revision, self.lease());
        let now = state.clock(Who::Replica(it));
        let replica = &mut state.replicas[it];
        replica.progress = Some(progress);
        replica.feed = Feed::Idle;
        replica.knows_from = state.store.revision();
        replica.lease_end = now + lease::held(self.lease());
        replica.cache = Some(state.store.revision());
    }

    /// Reads the head, empties the cache, tells the watcher to begin anew.
    pub(crate) fn read_head_to_join(&self, state: &mut State, it: usize) {
        let from = state.clock(Who::Replica(it));
        let head = state.store.position();
        if let Feed::Start { before } = state.replicas[it].feed {
            state.replicas[it].feed = Feed::Joining { before, head, from };
            state.replicas[it].clear(self.holds(Rule::Floor).then_some(head.revision));
            self.tell_start_empty(state, it, head);
        }
    }

    /// Its row is committed.
    pub(crate) fn write_row(&self, state: &mut State, it: usize) {
        let Feed::Joining { before, head, from } = state.replicas[it].feed else {
            return;
        };
        let progress = Progress::begin(state.fresh_id(), head);
        let settled = self.settled(state, it, head.revision);
        state.store.join(&progress, settled, self.lease());
        let replica = &mut state.replicas[it];
        replica.progress = Some(progress);
        replica.feed = before.map_or(Feed::Idle, |before| Feed::Leaving { before });
        if !self.holds(Rule::RowBeforeLease) && !self.reads {
            replica.lease_end = from + lease::held(LEASE);
        }
    }

    /// Asks the store, with what it has acknowledged so far. All logins that wait by now share it.
    pub(crate) fn ask(&self, state: &mut State, it: usize) {
        let Some(progress) = state.replicas[it].progress.clone() else {
            return;
        };
        let acknowledged = self.settled(state, it, progress.applied.revision);
        let from = state.clock(Who::Replica(it));
        let replica = &mut state.replicas[it];
        if !self.holds(Rule::OwnHistory) {
            replica.acknowledged = acknowledged;
        }
        replica.feed = Feed::Asked { from };
        replica.login.share_sync();
        let Progress { node_id, renewals, applied } = progress;
        replica.requests.push(Request { node_id, renewals, acknowledged, applied, is_awaited: true, stage: Stage::Sent });
    }

    /// A time-out, or a broken connection: what became of the sync it does not know.
    pub(crate) fn give_up(&self, state: &mut State, it: usize) {
        let replica = &mut state.replicas[it];
        replica.requests.iter_mut().for_each(|request| request.is_awaited = false);
        replica.feed = Feed::Idle;
        self.sync_failed(state, it);
    }

    /// The store has done what was asked; the answer goes to who still waits for it.
    pub(crate) fn end_request(&self, state: &mut State, it: usize, at: usize, head: Option<Head>) {
        let request = state.replicas[it].requests.remove(at);
        if head.is_some() && !self.reads {
            let moved = (!self.holds(Rule::NoRowLooksExpired)).then_some(state.now);
            state.store.end_sync(&request, moved);
        }
        if request.is_awaited
            && let Feed::Asked { from } = state.replicas[it].feed
        {
            state.replicas[it].feed = Feed::Answered { from, head };
        }
    }

    /// The answer is judged.
    pub(crate) fn receive(&self, state: &mut State, it: usize) {
        let now = state.clock(Who::Replica(it));
        let replica = &mut state.replicas[it];
        let (Feed::Answered { from, head }, Some(progress)) = (replica.feed.clone(), replica.progress.as_mut()) else {
            return;
        };
        let from = if self.holds(Rule::LeaseFromBeforeTheSync) { from } else { now };
        let Some(mut head) = head else {
            return Self::begin_anew(replica);
        };
        progress.renewals += u64::from(!self.reads);
        if !self.holds(Rule::Nonce) && head.revision >= progress.applied.revision {
            head.applied_nonce = head.applied_nonce.map(|_| progress.applied.nonce);
        }
        match progress.judge(head) {
            Step::UpToDate => self.synced(state, it, from),
            Step::Read { up_to, .. } => {
                if !self.holds(Rule::ApplyBeforeLease) {
                    replica.lease_end = from + lease::held(self.lease());
                }
                replica.feed = Feed::Applying { from, up_to };
            }
            Step::Jump { to } => {
                replica.lease_end = BootTime::default();
                progress.jump(to);
                replica.clear(self.holds(Rule::Floor).then_some(to.revision));
                self.tell_start_empty(state, it, to);
                self.synced(state, it, from);
            }
            Step::Rewound => Self::begin_anew(replica),
        }
    }

    /// Its row is gone, or the log is of another history. (What it remembers of lost revocations it
    /// writes again; here none is lost that was seen committed.)
    fn begin_anew(replica: &mut Replica) {
        replica.lease_end = BootTime::default();
        replica.feed = Feed::Start { before: replica.progress.as_ref().map(|it| it.node_id) };
    }

    /// Reads the next row of the log and applies it; the last one ends the sync.
    pub(crate) fn apply_next(&self, state: &mut State, it: usize) {
        let Feed::Applying { from, up_to } = state.replicas[it].feed else {
            return;
        };
        let replica = &mut state.replicas[it];
        let Some(progress) = replica.progress.as_mut() else {
            return;
        };
        let next = Revision(progress.applied.revision.0 + 1);
        let Some(row) = state.store.row(next).cloned() else {
            // Trimmed meanwhile, or lost: the next sync tells.
            replica.feed = Feed::Idle;
            return self.sync_failed(state, it);
        };
        let follows = state.store.row(progress.applied.revision).is_some_and(|last| last.nonce == progress.applied.nonce);
        if !follows && self.holds(Rule::AppliedHistory) {
            replica.feed = Feed::Idle;
            return self.sync_failed(state, it);
        }
        let change = Change { revision: next, nonce: row.nonce, scope: Scope::Mailboxes(vec![]), ended: vec![] };
        if progress.advance(&change).is_err() {
            replica.feed = Feed::Idle;
            return self.sync_failed(state, it);
        }
        let applied = progress.applied;
        if row.ends && self.holds(Rule::ApplyBeforeAcknowledgement) {
            replica.end_record(|read| read < next || self.holds(Rule::AnyRevisionEnds));
        }
        replica.is_drop_due = row.ends && !self.holds(Rule::ApplyBeforeAcknowledgement);
        self.tell(state, it, applied, row.ends);
        if applied.revision < up_to {
            return;
        }
        if state.replicas[it].is_drop_due {
            state.replicas[it].feed = Feed::Idle;
        } else {
            self.synced(state, it, from);
        }
    }

    /// Only with a rule taken out: the cache hears of a change that is acknowledged already.
    pub(crate) fn drop_late(&self, state: &mut State, it: usize) {
        state.replicas[it].is_drop_due = false;
        state.replicas[it].end_record(|_| true);
    }

    fn synced(&self, state: &mut State, it: usize, from: BootTime) {
        let replica = &mut state.replicas[it];
        replica.feed = Feed::Idle;
        replica.lease_end = from + lease::held(self.lease());
        self.sync_done(state, it);
    }

    pub(crate) fn crash(&self, state: &mut State, it: usize) {
        let mut requests = std::mem::take(&mut state.replicas[it].requests);
        requests.iter_mut().for_each(|request| request.is_awaited = false);
        self.forget_asked(state, it);
        state.replicas[it] = Replica { feed: Feed::Down, requests, ..Replica::begin() };
        if let Some(watcher) = state.watcher.as_mut().filter(|watcher| watcher.connected == Some(it)) {
            watcher.hang_up();
        }
    }

    /// Up to where neither it nor a watcher of its uses anything from before.
    fn settled(&self, state: &mut State, it: usize, applied: Revision) -> Revision {
        let now = state.clock(Who::Replica(it));
        let replica = &mut state.replicas[it];
        let mut settled = applied;
        for told in replica.told.iter_mut().chain(&mut replica.departed) {
            told.expire(now);
            if told.unacknowledged() > 0 && self.holds(Rule::WaitForWatchers) {
                let by_it = told.settled(now);
                let holds_all_back = by_it == Revision::default() && !self.holds(Rule::StartEmptyHoldsAllBack);
                settled = settled.min(if holds_all_back { Revision(applied.0 - 1) } else { by_it });
            }
        }
        replica.departed.retain(|told| told.has_lease(now) || told.next_expiry().is_some());
        settled
    }

    fn tell(&self, state: &mut State, it: usize, at: Position, ends: bool) {
        let now = state.clock(Who::Replica(it));
        for told in state.replicas[it].departed.iter_mut().filter(|told| told.has_lease(now)) {
            told.send(at.revision, now);
        }
        if let Some(told) = &mut state.replicas[it].told {
            told.send(at.revision, now);
            self.send_change(state, it, at, ends);
        }
    }

    fn tell_start_empty(&self, state: &mut State, it: usize, at: Position) {
        let now = state.clock(Who::Replica(it));
        state.replicas[it].knows_from = at.revision;
        let is_ambiguous = state.replicas[it].told.as_ref().is_some_and(|told| told.restart_is_ambiguous(at.revision));
        if is_ambiguous && self.holds(Rule::NewHistoryNewStream) {
            self.cut(state);
        }
        for told in state.replicas[it].departed.iter_mut().filter(|told| told.has_lease(now)) {
            told.restart(at.revision);
        }
        if let Some(told) = &mut state.replicas[it].told {
            told.restart(at.revision);
            self.send_start_empty(state, it, at);
        }
    }
}
