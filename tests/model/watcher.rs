//! A watcher and its stream. What it decides is the library's own (`mail_host::Follower`), over a
//! cache of one answer.

use std::time::Duration;

use latchkey_core::{
    downstream::delivery::Delivery,
    lease::{self, DRIFT_PER_MILLE},
    mail_host::{Follower, Message, Step},
    model::{
        change::{Position, Revision},
        clock::{BootTime, Timestamp},
    },
};

use super::{
    rules::Rule,
    world::{LEASE, Queue, State, Who, World},
};

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Watcher {
    pub(crate) connected: Option<usize>,
    pub(crate) lease_end: BootTime,
    pub(crate) follower: Follower,
    /// The revision that the cached answer was judged at.
    pub(crate) cache: Option<Revision>,
    pub(crate) login: Asking,
    /// From its replica.
    pub(crate) down: Queue<Message<bool>>,
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
pub(crate) enum Up {
    Renew(u64),
    Acknowledge(Revision),
}

impl Watcher {
    pub(crate) fn begin() -> Self {
        Self {
            connected: None,
            lease_end: BootTime::default(),
            follower: Follower::default(),
            cache: None,
            login: Asking::Nothing,
            down: Queue::new(),
            up: Queue::new(),
        }
    }

    /// The stream is gone, with all that was on its way. Lease and cache stay.
    pub(crate) fn hang_up(&mut self) {
        *self = Self { connected: None, down: Queue::new(), up: Queue::new(), ..self.clone() };
        self.follower.disconnected();
    }

    pub(crate) fn hear_answer(&mut self, allowed: Option<Revision>) {
        self.login = match (allowed, self.login) {
            (Some(revision), Asking::Asked { overtaken }) => Asking::Answered { revision, overtaken },
            _ => Asking::Nothing,
        };
    }

    /// Does what the follower decided. Whether the stream is to end.
    fn carry_out(&mut self, steps: Vec<Step<bool>>) -> bool {
        let mut hangs_up = false;
        for step in steps {
            match step {
                Step::EndLease => self.lease_end = BootTime::default(),
                Step::Clear(_) => self.overtake(Revision(u64::MAX)),
                Step::Apply(ends) => {
                    if ends && let Some(position) = self.follower.position() {
                        self.overtake(position.revision);
                    }
                }
                Step::Acknowledge(revision) => self.up.push_back(Up::Acknowledge(revision)),
                Step::TakeLease { asked, left, .. } => self.lease_end = self.lease_end.max(asked + left),
                Step::HangUp(_) => hangs_up = true,
                // Sessions are not in this model, and no replica drains.
                Step::BeginSessions(_) | Step::Surrender => (),
            }
        }
        hangs_up
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
        let position = state.store.position();
        let left = state.replicas[0].lease_end - there;
        if let Some(watcher) = &mut state.watcher {
            watcher.connected = Some(0);
            watcher.lease_end = here + left;
            watcher.follower.welcomed::<bool>(position, false);
            watcher.cache = Some(position.revision);
            let mut told = Delivery::begin(position.revision);
            self.grant(&mut told, there, left);
            state.replicas[0].told = Some(told);
            state.replicas[0].sent = position;
        }
    }

    /// A change that was put into the told ones is sent, with its link to the last one.
    pub(crate) fn send_change(&self, state: &mut State, it: usize, position: Position, ends: bool) {
        let previous = std::mem::replace(&mut state.replicas[it].sent, position);
        if let Some(watcher) = &mut state.watcher {
            watcher.down.push_back(Message::Change { change: ends, previous, position });
        }
    }

    pub(crate) fn send_start_empty(&self, state: &mut State, it: usize, position: Position) {
        state.replicas[it].sent = position;
        if let Some(watcher) = &mut state.watcher {
            watcher.down.push_back(Message::StartEmpty { position });
        }
    }

    /// Notes its clock and asks for a lease.
    pub(crate) fn ask_for_lease(&self, state: &mut State) {
        let now = state.clock(Who::Watcher);
        state.left.renewals -= 1;
        if let Some(watcher) = &mut state.watcher {
            let number = watcher.follower.ask(now, Timestamp::default());
            watcher.up.push_back(Up::Renew(number));
        }
    }

    /// The replica reads the watcher's next message.
    pub(crate) fn hear(&self, state: &mut State, it: usize) {
        let now = state.clock(Who::Replica(it));
        let mut left = state.replicas[it].lease_end - now;
        let sent = state.replicas[it].sent;
        let (Some(watcher), Some(told)) = (&mut state.watcher, &mut state.replicas[it].told) else {
            return;
        };
        match watcher.up.pop_front() {
            Some(Up::Renew(number)) => {
                if !left.is_zero() && !self.holds(Rule::LeaseHandedOn) {
                    left = lease::held(LEASE);
                }
                self.grant(told, now, left);
                watcher.down.push_back(Message::Grant { number, duration: left, previous: sent, position: sent });
            }
            Some(Up::Acknowledge(revision)) => {
                // One from before it was told to begin anew is refused as backwards or future by a
                // real replica, which then cuts it off.
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
        let Some(message) = watcher.down.pop_front() else {
            return;
        };
        let steps = watcher.follower.hear(message);
        if watcher.carry_out(steps) {
            self.cut(state);
        }
    }

    /// Asks a replica about a login.
    pub(crate) fn ask_about_login(&self, state: &mut State, it: usize) {
        if let Some(watcher) = &mut state.watcher {
            watcher.login = Asking::Asked { overtaken: None };
        }
        self.begin_login(state, it, true);
    }

    /// Puts the answer into its cache, unless a change came in between that the answer does not
    /// know.
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
        let Some(at) = state.replicas[it].progress.as_ref().map(|progress| progress.applied) else {
            return;
        };
        state.replicas[it].told = Some(Delivery::begin(at.revision));
        state.replicas[it].sent = at;
        if let Some(watcher) = &mut state.watcher {
            watcher.connected = Some(it);
            let steps = watcher.follower.welcomed(at, true);
            watcher.carry_out(steps);
        }
    }

    /// Whether a replica can tell all that the watcher has missed. (Not asked for where histories
    /// differ: there it can't.)
    pub(crate) fn can_resume(&self, state: &State, it: usize) -> bool {
        let known =
            state.replicas[it].knows_from..=state.replicas[it].progress.as_ref().map_or(Revision(0), |it| it.applied.revision);
        self.limits.failovers == 0 && self.position_of_watcher(state).is_some_and(|at| known.contains(&at.revision))
    }

    /// Comes back with what it has, and is told what it missed. If it had been at this replica,
    /// what it has not acknowledged there it is waited for here.
    pub(crate) fn resume(&self, state: &mut State, it: usize) {
        let now = state.clock(Who::Replica(it));
        let Some(at) = self.position_of_watcher(state) else {
            return;
        };
        let replica = &mut state.replicas[it];
        let departed = if replica.departed.is_empty() { None } else { Some(replica.departed.remove(0)) };
        let told = departed
            .filter(|_| self.holds(Rule::ResumedIsWaitedFor))
            .map_or_else(|| Delivery::begin(at.revision), |departed| departed.resumed(at.revision));
        let up_to = replica.progress.as_ref().map_or(at.revision, |progress| progress.applied.revision);
        replica.told = Some(told);
        replica.sent = at;
        if let Some(watcher) = &mut state.watcher {
            watcher.connected = Some(it);
            let steps = watcher.follower.welcomed(at, false);
            watcher.carry_out(steps);
        }
        for revision in at.revision.0 + 1..=up_to.0 {
            let row = &state.store.log[revision as usize - 1];
            let (position, ends) = (Position { revision: Revision(revision), nonce: row.nonce }, row.ends);
            if let Some(told) = &mut state.replicas[it].told {
                told.send(position.revision, now);
            }
            self.send_change(state, it, position, ends);
        }
    }

    fn position_of_watcher(&self, state: &State) -> Option<Position> {
        state.watcher.as_ref().and_then(|watcher| watcher.follower.position())
    }
}
