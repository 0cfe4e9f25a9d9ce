//! A watcher, as the proto's comments tell how to write one, and its stream.

use std::time::Duration;

use latchkey_core::{
    downstream::delivery::Delivery,
    lease::{self, DRIFT_PER_MILLE},
    model::{change::Revision, clock::BootTime},
};

use super::{
    rules::Rule,
    world::{LEASE, Queue, State, Who, World},
};

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Watcher {
    pub(crate) connected: Option<usize>,
    pub(crate) lease_end: BootTime,
    /// The last change applied, where it matters: in a world in which it is cut off.
    pub(crate) applied: Revision,
    /// The revision that the cached answer was judged at.
    pub(crate) cache: Option<Revision>,
    /// When it asked for the lease that it waits for.
    pub(crate) asked: Option<BootTime>,
    pub(crate) login: Asking,
    /// From its replica.
    pub(crate) down: Queue<Down>,
    pub(crate) up: Queue<Up>,
}

/// Its own question to a replica whether a login is allowed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Asking {
    Nothing,
    Asked { overtaken: Option<Revision> },
    Answered { revision: Revision, overtaken: Option<Revision> },
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Down {
    Change { revision: Revision, ends: bool },
    StartEmpty(Revision),
    Granted(Duration),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Up {
    Renew,
    Acknowledge(Revision),
}

impl Watcher {
    pub(crate) fn begin() -> Self {
        Self {
            connected: None,
            lease_end: BootTime::default(),
            applied: Revision::default(),
            cache: None,
            asked: None,
            login: Asking::Nothing,
            down: Queue::new(),
            up: Queue::new(),
        }
    }

    /// The stream is gone, with all that was on its way. Lease and cache stay.
    pub(crate) fn hang_up(&mut self) {
        *self = Self { connected: None, asked: None, down: Queue::new(), up: Queue::new(), ..self.clone() };
    }

    pub(crate) fn hear_answer(&mut self, allowed: Option<Revision>) {
        self.login = match (allowed, self.login) {
            (Some(revision), Asking::Asked { overtaken }) => Asking::Answered { revision, overtaken },
            _ => Asking::Nothing,
        };
    }

    fn overtake(&mut self, by: Revision) {
        if let Asking::Asked { overtaken } | Asking::Answered { overtaken, .. } = &mut self.login {
            *overtaken = Some(by);
        }
        self.cache = None;
    }
}

impl World {
    /// Has a lease, handed on a moment ago, and the password.
    pub(crate) fn begin_warm_watcher(&self, state: &mut State) {
        let (here, there) = (state.clock(Who::Watcher), state.clock(Who::Replica(0)));
        let revision = state.store.revision();
        let left = state.replicas[0].lease_end - there;
        if let Some(watcher) = &mut state.watcher {
            watcher.connected = Some(0);
            watcher.lease_end = here + left;
            watcher.cache = Some(revision);
            watcher.applied = revision;
            let mut told = Delivery::begin(revision);
            self.grant(&mut told, there, left);
            state.replicas[0].told = Some(told);
        }
    }

    pub(crate) fn send(&self, state: &mut State, message: Down) {
        if let Some(watcher) = &mut state.watcher {
            watcher.down.push_back(message);
        }
    }

    /// Notes its clock and asks for a lease.
    pub(crate) fn ask_for_lease(&self, state: &mut State) {
        let now = state.clock(Who::Watcher);
        state.left.renewals -= 1;
        if let Some(watcher) = &mut state.watcher {
            watcher.asked = Some(now);
            watcher.up.push_back(Up::Renew);
        }
    }

    /// The replica reads the watcher's next message.
    pub(crate) fn hear(&self, state: &mut State, it: usize) {
        let now = state.clock(Who::Replica(it));
        let mut left = state.replicas[it].lease_end - now;
        let (Some(watcher), Some(told)) = (&mut state.watcher, &mut state.replicas[it].told) else {
            return;
        };
        match watcher.up.pop_front() {
            Some(Up::Renew) => {
                if !left.is_zero() && !self.holds(Rule::LeaseHandedOn) {
                    left = lease::held(LEASE);
                }
                self.grant(told, now, left);
                watcher.down.push_back(Down::Granted(left));
            }
            Some(Up::Acknowledge(revision)) => {
                // One from before it was told to begin anew is refused as backwards or future by a real replica, which then cuts it off.
                let _ = told.acknowledge(revision);
            }
            None => (),
        }
    }

    fn grant(&self, told: &mut Delivery, now: BootTime, left: Duration) {
        let left =
            if self.holds(Rule::WatcherDrift) { left } else { left * (1_000 - DRIFT_PER_MILLE) / (1_000 + DRIFT_PER_MILLE) };
        told.grant(now, left);
    }

    /// The watcher reads its replica's next message, and does what it says.
    pub(crate) fn read_message(&self, state: &mut State) {
        let Some(watcher) = &mut state.watcher else {
            return;
        };
        match watcher.down.pop_front() {
            Some(Down::Change { revision, ends }) => {
                if ends {
                    watcher.overtake(revision);
                }
                watcher.applied = revision;
                watcher.up.push_back(Up::Acknowledge(revision));
            }
            Some(Down::StartEmpty(revision)) => {
                watcher.overtake(Revision(u64::MAX));
                watcher.applied = revision;
                watcher.up.push_back(Up::Acknowledge(revision));
            }
            Some(Down::Granted(left)) => {
                if let Some(asked) = watcher.asked.take() {
                    watcher.lease_end = watcher.lease_end.max(asked + left);
                }
            }
            None => (),
        }
    }

    /// Asks a replica about a login.
    pub(crate) fn ask_about_login(&self, state: &mut State, it: usize) {
        if let Some(watcher) = &mut state.watcher {
            watcher.login = Asking::Asked { overtaken: None };
        }
        self.begin_login(state, it, true);
    }

    /// Puts the answer into its cache, unless a change came in between that the answer does not know.
    pub(crate) fn insert_answer(&self, state: &mut State) {
        if let Some(watcher) = &mut state.watcher
            && let Asking::Answered { revision, overtaken } = watcher.login
        {
            let knows = |by| by <= revision && !self.holds(Rule::AnyRevisionEnds);
            if overtaken.is_none_or(knows) || !self.holds(Rule::WatcherFence) {
                watcher.cache = Some(revision);
            }
            watcher.login = Asking::Nothing;
        }
    }

    /// The connection breaks. The replica waits for it until its lease has run out.
    pub(crate) fn cut(&self, state: &mut State) {
        if let Some(watcher) = &mut state.watcher
            && let Some(it) = watcher.connected
        {
            watcher.hang_up();
            let told = state.replicas[it].told.take();
            state.replicas[it].departed.extend(told.filter(|_| self.holds(Rule::DepartedIsWaitedFor)));
        }
    }

    /// Comes to a replica that can't tell what it has missed, so it begins empty.
    pub(crate) fn connect_anew(&self, state: &mut State, it: usize) {
        let Some(at) = state.replicas[it].progress.as_ref().map(|progress| progress.applied.revision) else {
            return;
        };
        state.replicas[it].told = Some(Delivery::begin(at));
        if let Some(watcher) = &mut state.watcher {
            watcher.connected = Some(it);
            watcher.applied = at;
            watcher.overtake(Revision(u64::MAX));
        }
    }

    /// Whether a replica can tell all that the watcher has missed. (Not asked for where histories differ: there it can't.)
    pub(crate) fn can_resume(&self, state: &State, it: usize) -> bool {
        let known =
            state.replicas[it].knows_from..=state.replicas[it].progress.as_ref().map_or(Revision(0), |it| it.applied.revision);
        self.limits.failovers == 0 && state.watcher.as_ref().is_some_and(|watcher| known.contains(&watcher.applied))
    }

    /// Comes back with what it has, and is told what it missed. If it had been at this replica, what it has not acknowledged there it is waited for here.
    pub(crate) fn resume(&self, state: &mut State, it: usize) {
        let now = state.clock(Who::Replica(it));
        let (Some(watcher), replica) = (&mut state.watcher, &mut state.replicas[it]) else {
            return;
        };
        let at = watcher.applied;
        watcher.connected = Some(it);
        let departed = if replica.departed.is_empty() { None } else { Some(replica.departed.remove(0)) };
        let mut told = departed
            .filter(|_| self.holds(Rule::ResumedIsWaitedFor))
            .map_or_else(|| Delivery::begin(at), |departed| departed.resumed(at));
        let up_to = replica.progress.as_ref().map_or(at, |progress| progress.applied.revision);
        for revision in at.0 + 1..=up_to.0 {
            let ends = state.store.log[revision as usize - 1].ends;
            told.tell(Revision(revision), now);
            watcher.down.push_back(Down::Change { revision: Revision(revision), ends });
        }
        replica.told = Some(told);
    }
}
