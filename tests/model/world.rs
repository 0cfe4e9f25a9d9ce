//! What a world holds, and its state: one database, a few processes, and the messages between them.

use std::{collections::VecDeque, time::Duration};

use latchkey_core::model::{clock::BootTime, id::NodeId};

use super::{
    replica::Replica,
    revoker::{Kind, Phase, Revoker},
    rules::Rule,
    store::Store,
    watcher::Watcher,
};

/// The lease of every replica. Real time goes by in steps that are chosen next to this.
pub(crate) const LEASE: Duration = Duration::from_secs(10);

/// The moments of real time at which things happen, in milliseconds, after the beginning. Two steps
/// of these are a little more than the longest wait for a lease, so three tell what is before,
/// within and after it.
pub(crate) const COARSE: &[u32] = &[5_200, 10_400, 15_600];
/// The last millisecond of a lease on a clock that is as slow as may be, and the first after the
/// wait on one that is as fast as may be; twice.
pub(crate) const FINE: &[u32] = &[9_999, 10_250, 19_998, 20_500];

/// How fast each process's clock runs, in a thousand: the replicas', the watcher's, the revokers'.
pub(crate) type Clocks = [u16; 4];
/// Those who hold leases have slow clocks, those who wait for them fast ones.
pub(crate) const WORST: Clocks = [990, 990, 990, 1_010];

/// What can happen in a world, and how often. What is bounded here is explored to its end.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) replicas: usize,
    pub(crate) has_watcher: bool,
    pub(crate) clocks: Vec<Clocks>,
    pub(crate) moments: &'static [u32],
    /// Begins with everybody joined, with a lease, and with the password's record everywhere or
    /// nowhere; else with empty hands.
    pub(crate) is_warm: bool,
    /// Logins need argon2.
    pub(crate) hashed: bool,
    /// Logins at replicas.
    pub(crate) logins: bool,
    /// Logins at the watcher that it has to ask its replica about.
    pub(crate) asks: bool,
    /// `--freshness read`: replicas hold no lease, and read the head for each login.
    pub(crate) reads: bool,
    /// Syncs of each replica's row, at most.
    pub(crate) syncs: u64,
    pub(crate) joins: u8,
    pub(crate) revokers: &'static [Kind],
    /// The database's statements take time.
    pub(crate) slow_statements: bool,
    pub(crate) limits: Limits,
    pub(crate) without: Option<Rule>,
}

/// How often what seldom happens may happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Limits {
    /// Changes to other mailboxes.
    pub(crate) others: u8,
    pub(crate) crashes: u8,
    /// Syncs whose answer is waited for no longer: it, or the question, is lost, or late.
    pub(crate) given_up: u8,
    /// Leases that the watcher asks for.
    pub(crate) renewals: u8,
    /// Connections of the watcher that break.
    pub(crate) cuts: u8,
    /// The database goes on as its standby, which lacks the last changes.
    pub(crate) failovers: u8,
    pub(crate) trims: u8,
    /// The revoker's clock jumps ahead by less than the margin.
    pub(crate) jolts: u8,
}

/// What a revoker's clock jumps by.
pub(crate) const JOLT: Duration = Duration::from_millis(200);

/// Whose clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Who {
    Replica(usize),
    Watcher,
    Revoker,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct State {
    /// Real time, in milliseconds.
    pub(crate) now: u32,
    pub(crate) clocks: Clocks,
    pub(crate) store: Store,
    pub(crate) standby: Option<Store>,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) watcher: Option<Watcher>,
    pub(crate) revokers: Vec<Revoker>,
    pub(crate) ids: u8,
    pub(crate) nonces: i64,
    pub(crate) left: Limits,
    /// A login was allowed that must not be.
    pub(crate) is_broken: bool,
}

impl World {
    pub(crate) fn holds(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    /// The replicas' lease, by their rows.
    pub(crate) fn lease(&self) -> Duration {
        if self.reads { Duration::ZERO } else { LEASE }
    }

    pub(crate) fn without(&self, rule: Rule) -> Self {
        Self { without: Some(rule), ..self.clone() }
    }

    pub(crate) fn begin(&self, clocks: Clocks, has_records: bool) -> State {
        let mut state = State {
            now: 0,
            clocks,
            store: Store::begin(),
            standby: None,
            replicas: (0..self.replicas).map(|_| Replica::begin()).collect(),
            watcher: self.has_watcher.then(Watcher::begin),
            revokers: self.revokers.iter().map(|kind| Revoker { kind: *kind, phase: Phase::Idle }).collect(),
            ids: 0,
            nonces: 1,
            left: self.limits,
            is_broken: false,
        };
        if self.is_warm {
            for it in 0..self.replicas {
                self.begin_warm(&mut state, it);
            }
            self.begin_warm_watcher(&mut state);
        }
        if !has_records {
            state.replicas.iter_mut().for_each(|it| it.cache = None);
            state.watcher.iter_mut().for_each(|it| it.cache = None);
        }
        if self.limits.failovers > 0 {
            state.standby = Some(state.store.clone());
        }
        state
    }
}

impl State {
    /// Time goes by, for all. A lease that is over is one that never was.
    pub(crate) fn pass_to(&mut self, now: u32) {
        self.now = now;
        for it in 0..self.replicas.len() {
            if !self.has_lease(it) {
                self.replicas[it].lease_end = BootTime::default();
            }
        }
        let now = self.clock(Who::Watcher);
        if let Some(watcher) = self.watcher.as_mut().filter(|watcher| watcher.lease_end <= now) {
            watcher.lease_end = BootTime::default();
        }
    }

    /// What a process's own clock says. They have nothing to do with one another.
    pub(crate) fn clock(&self, who: Who) -> BootTime {
        let (at, jolts) = match who {
            Who::Replica(it) => (it, 0),
            Who::Watcher => (2, 0),
            Who::Revoker => (3, self.jolted()),
        };
        let began = (at as u64 + 1) * 1_000_000_000_000;
        BootTime(began + u64::from(self.now) * u64::from(self.clocks[at]) * 1_000) + JOLT * jolts
    }

    /// How often the revoker's clock has jumped. Only worlds of one jolt have any.
    fn jolted(&self) -> u32 {
        u32::from(self.revokers.iter().any(|it| it.is_jolted()))
    }

    /// Whether somebody was told that the password is ended everywhere.
    pub(crate) fn is_effective(&self) -> bool {
        self.revokers.iter().any(|it| it.kind != Kind::Other && it.phase == Phase::Done)
    }

    pub(crate) fn fresh_id(&mut self) -> NodeId {
        self.ids += 1;
        NodeId(uuid::Uuid::from_u128(u128::from(self.ids)))
    }

    pub(crate) fn fresh_nonce(&mut self) -> i64 {
        self.nonces += 1;
        self.nonces
    }

    /// Whether a login that begins now is allowed at once, from a cache.
    pub(crate) fn is_warm_somewhere(&self) -> bool {
        let at_replica = (0..self.replicas.len()).any(|it| self.replicas[it].cache.is_some() && self.has_lease(it));
        let at_watcher = self.watcher.as_ref().is_some_and(|it| it.cache.is_some() && self.clock(Who::Watcher) < it.lease_end);
        at_replica || at_watcher
    }

    pub(crate) fn has_lease(&self, it: usize) -> bool {
        self.clock(Who::Replica(it)) < self.replicas[it].lease_end
    }
}

/// Messages in their order.
pub(crate) type Queue<T> = VecDeque<T>;
