//! What may happen next, and what becomes of it.

use latchkey_core::log::Head;
use stateright::{Model, Property};

use super::{
    login::Login,
    replica::{Feed, Replica},
    revoker::{Kind, Phase},
    rules::Rule,
    store::{Request, Row, Stage, Store},
    watcher::Asking,
    world::{State, World},
};

/// No login that began after EFFECTIVE was answered is allowed.
pub(crate) const PROMISE: &str = "no login that began after EFFECTIVE is allowed";
/// With a lease, or by a sync that it waits for.
pub(crate) const CACHED: &str = "a login is allowed from a cache";
pub(crate) const EFFECTIVE: &str = "EFFECTIVE is answered";
pub(crate) const DEAD: &str = "EFFECTIVE is answered although a replica is dead";

/// One step of one process, of the database, of the network, or of time. Any may come at any
/// moment, or never: a process that pauses, a message that is late or lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    TimePasses(u32),
    ReadHeadToJoin(usize),
    WriteRow(usize),
    RemoveFormerRow(usize),
    Ask(usize),
    GiveUp(usize),
    BeginRequest(usize, usize),
    EndRequest(usize, usize),
    /// Both at once, where the time in between is of no interest.
    DoRequest(usize, usize),
    Receive(usize),
    ApplyNext(usize),
    DropLate(usize),
    Crash(usize),
    Restart(usize),
    BeginLogin(usize),
    FinishRead(usize),
    Judge(usize),
    AskForLease,
    Hear,
    ReadMessage,
    AskAboutLogin(usize),
    InsertAnswer,
    Cut,
    ConnectAnew(usize),
    Resume(usize),
    ReadRowsFirst(usize),
    Commit(usize),
    Look(usize),
    RemoveRows(usize),
    Jolt(usize),
    ChangeAnother,
    Trim,
    FailOver,
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        self.clocks.iter().flat_map(|clocks| [true, false].map(|has_records| self.begin(*clocks, has_records))).collect()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend(self.moments.iter().find(|moment| **moment > state.now).map(|moment| Action::TimePasses(*moment)));
        for (it, replica) in state.replicas.iter().enumerate() {
            self.feed_actions(state, it, replica, actions);
            self.login_actions(state, it, replica, actions);
        }
        self.watcher_actions(state, actions);
        self.revoker_actions(state, actions);
        if state.left.others > 0 {
            actions.push(Action::ChangeAnother);
        }
        if state.left.trims > 0 && state.store.revision().0 > state.store.trimmed + 1 {
            actions.push(Action::Trim);
        }
        if state.left.failovers > 0 {
            actions.push(Action::FailOver);
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        self.take(&mut state, action);
        // What changes nothing is no step.
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(PROMISE, |_: &Self, state: &State| {
                let is_old_allowed = state.is_effective() && state.is_warm_somewhere();
                !state.is_broken && !is_old_allowed
            }),
            Property::sometimes(CACHED, |world: &Self, state: &State| {
                state.is_warm_somewhere() || world.reads && state.replicas.iter().any(|it| it.login.is_shared_by_cached())
            }),
            Property::sometimes(EFFECTIVE, |_, state: &State| state.is_effective()),
        ];
        if self.limits.crashes > 0 {
            properties.push(Property::sometimes(DEAD, |_, state: &State| {
                state.is_effective() && state.replicas.iter().any(|it| it.feed == Feed::Down)
            }));
        }
        properties
    }
}

impl World {
    fn feed_actions(&self, state: &State, it: usize, replica: &Replica, actions: &mut Vec<Action>) {
        let renewals = replica.progress.as_ref().map_or(0, |progress| progress.renewals);
        match replica.feed {
            Feed::Down if state.ids < self.joins => actions.push(Action::Restart(it)),
            Feed::Start { .. } if state.ids < self.joins => actions.push(Action::ReadHeadToJoin(it)),
            Feed::Joining { .. } => actions.push(Action::WriteRow(it)),
            Feed::Leaving { .. } => actions.push(Action::RemoveFormerRow(it)),
            Feed::Idle if renewals < self.syncs && replica.requests.len() < 2 => actions.push(Action::Ask(it)),
            Feed::Asked { .. } if state.left.given_up > 0 => actions.push(Action::GiveUp(it)),
            Feed::Answered { .. } => actions.push(Action::Receive(it)),
            Feed::Applying { .. } => actions.push(Action::ApplyNext(it)),
            _ => (),
        }
        for (at, request) in replica.requests.iter().enumerate() {
            let is_locked = replica.requests.iter().any(|it| it.stage != Stage::Sent && it.node_id == request.node_id);
            match request.stage {
                Stage::Begun(_) => actions.push(Action::EndRequest(it, at)),
                Stage::Sent if is_locked => (),
                Stage::Sent if self.slow_statements => actions.push(Action::BeginRequest(it, at)),
                Stage::Sent => actions.push(Action::DoRequest(it, at)),
            }
        }
        if replica.is_drop_due {
            actions.push(Action::DropLate(it));
        }
        if state.left.crashes > 0 && replica.feed != Feed::Down {
            actions.push(Action::Crash(it));
        }
    }

    fn login_actions(&self, state: &State, it: usize, replica: &Replica, actions: &mut Vec<Action>) {
        match replica.login {
            Login::Idle if self.logins && self.can_begin(state, it, false) => actions.push(Action::BeginLogin(it)),
            Login::Read { .. } => actions.push(Action::FinishRead(it)),
            Login::Held { .. } | Login::Judged { .. } => actions.push(Action::Judge(it)),
            _ => (),
        }
    }

    fn watcher_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let Some(watcher) = &state.watcher else {
            return;
        };
        if !watcher.down.is_empty() {
            actions.push(Action::ReadMessage);
        }
        if !watcher.up.is_empty() {
            actions.push(Action::Hear);
        }
        if matches!(watcher.login, Asking::Answered { .. }) {
            actions.push(Action::InsertAnswer);
        }
        let Some(it) = watcher.connected else {
            let up = (0..state.replicas.len()).filter(|it| state.replicas[*it].feed == Feed::Idle);
            for it in up {
                actions.push(Action::ConnectAnew(it));
                if self.can_resume(state, it) {
                    actions.push(Action::Resume(it));
                }
            }
            return;
        };
        if state.left.renewals > 0 && !watcher.follower.is_asking() && state.has_lease(it) {
            actions.push(Action::AskForLease);
        }
        let asked = if self.holds(Rule::AskWhomItWatches) { it } else { self.replicas - 1 - it };
        if self.asks && watcher.login == Asking::Nothing && watcher.cache.is_none() && self.can_begin(state, asked, true) {
            actions.push(Action::AskAboutLogin(asked));
        }
        if state.left.cuts > 0 {
            actions.push(Action::Cut);
        }
    }

    fn revoker_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (at, revoker) in state.revokers.iter().enumerate() {
            if self.can_commit(state, at) {
                actions.push(Action::Commit(at));
            }
            match &revoker.phase {
                Phase::Idle if revoker.kind == Kind::Revokes && !self.holds(Rule::RowsAfterCommit) => {
                    actions.push(Action::ReadRowsFirst(at));
                }
                Phase::Waiting { is_jolted, .. } => {
                    actions.push(Action::Look(at));
                    if self.limits.jolts > 0 && !is_jolted {
                        actions.push(Action::Jolt(at));
                    }
                }
                Phase::Removing(_) => actions.push(Action::RemoveRows(at)),
                _ => (),
            }
        }
    }

    fn take(&self, state: &mut State, action: Action) {
        match action {
            Action::TimePasses(moment) => state.pass_to(moment),
            Action::ReadHeadToJoin(it) => self.read_head_to_join(state, it),
            Action::WriteRow(it) => self.write_row(state, it),
            Action::RemoveFormerRow(it) => {
                if let Feed::Leaving { before } = state.replicas[it].feed {
                    state.store.leave(before);
                    state.replicas[it].feed = Feed::Idle;
                    self.sync_done(state, it);
                }
            }
            Action::Ask(it) => self.ask(state, it),
            Action::GiveUp(it) => {
                state.left.given_up -= 1;
                self.give_up(state, it);
            }
            Action::BeginRequest(it, at) => {
                let request = &state.replicas[it].requests[at];
                let head = self.answer_of_store(&state.store, request);
                state.replicas[it].requests[at].stage = Stage::Begun(head);
            }
            Action::EndRequest(it, at) => {
                if let Stage::Begun(head) = state.replicas[it].requests[at].stage {
                    self.end_request(state, it, at, head);
                }
            }
            Action::DoRequest(it, at) => {
                let request = &state.replicas[it].requests[at];
                let head = self.answer_of_store(&state.store, request);
                self.end_request(state, it, at, head);
            }
            Action::Receive(it) => self.receive(state, it),
            Action::ApplyNext(it) => self.apply_next(state, it),
            Action::DropLate(it) => self.drop_late(state, it),
            Action::Crash(it) => {
                state.left.crashes -= 1;
                self.crash(state, it);
            }
            Action::Restart(it) => state.replicas[it].feed = Feed::Start { before: None },
            Action::BeginLogin(it) => self.begin_login(state, it, false),
            Action::FinishRead(it) => self.finish_read(state, it),
            Action::Judge(it) => self.judge(state, it),
            Action::ReadMessage => self.read_message(state),
            Action::AskForLease => self.ask_for_lease(state),
            Action::InsertAnswer => self.insert_answer(state),
            Action::AskAboutLogin(it) => self.ask_about_login(state, it),
            Action::Hear => {
                if let Some(it) = state.watcher.as_ref().and_then(|watcher| watcher.connected) {
                    self.hear(state, it);
                }
            }
            Action::Cut => {
                state.left.cuts -= 1;
                self.cut(state);
            }
            Action::ConnectAnew(it) => self.connect_anew(state, it),
            Action::Resume(it) => self.resume(state, it),
            Action::ReadRowsFirst(at) => self.read_rows_first(state, at),
            Action::Commit(at) => self.commit(state, at),
            Action::Look(at) => self.look(state, at),
            Action::RemoveRows(at) => self.remove_rows(state, at),
            Action::Jolt(at) => self.jolt(state, at),
            Action::ChangeAnother => {
                state.left.others -= 1;
                let nonce = state.fresh_nonce();
                state.store.append(Row { nonce, ends: false });
            }
            Action::Trim => {
                state.left.trims -= 1;
                // The newest row always stays.
                state.store.trimmed = state.store.revision().0 - 1;
            }
            Action::FailOver => {
                state.left.failovers -= 1;
                self.fail_over(state);
            }
        }
    }

    fn answer_of_store(&self, store: &Store, request: &Request) -> Option<Head> {
        if self.reads {
            return Some(store.head(request.applied.revision));
        }
        store.begin_sync(request, !self.holds(Rule::Nonce) || !self.holds(Rule::AcknowledgedHistory))
    }

    /// The standby goes on: with every change that somebody was told is done, and perhaps not with
    /// others that replicas have seen. What the old primary had begun is lost.
    fn fail_over(&self, state: &mut State) {
        let Some(standby) = state.standby.take() else {
            return;
        };
        state.store = standby;
        for it in 0..state.replicas.len() {
            let lost = state.replicas[it].requests.iter().any(|request| request.stage != Stage::Sent && request.is_awaited);
            state.replicas[it].requests.retain(|request| request.stage == Stage::Sent);
            if lost {
                self.give_up(state, it);
            }
        }
    }
}
