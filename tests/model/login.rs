//! A login at a replica, as `login/mod.rs` judges it. One that finds record, lease and memo at once
//! is no process here: whether it is allowed can be seen from the state
//! (`State::is_warm_somewhere`).

use latchkey_core::model::change::Revision;

use super::{
    replica::Feed,
    rules::Rule,
    world::{State, World},
};

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Login {
    Idle,
    /// The store has answered a read for it; it is not told yet.
    Read {
        is_overtaken: bool,
        who: Asker,
    },
    /// Has a record, and proves its password by it.
    Held {
        is_own: bool,
        is_current: bool,
        who: Asker,
    },
    /// Without a lease: waits for a sync.
    Waiting {
        is_shared: bool,
        is_current: bool,
        who: Asker,
    },
    /// Only with a rule taken out: authority was judged, argon2 still runs.
    Judged {
        who: Asker,
    },
}

/// Who wants to know.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Asker {
    /// It began after EFFECTIVE was answered.
    pub(crate) is_late: bool,
    pub(crate) is_watcher: bool,
    /// What the record that it is judged by was read at.
    pub(crate) revision: Revision,
}

impl Login {
    /// A change was applied to the mailbox, or the cache emptied.
    pub(crate) fn overtake(&mut self, is_of_before: impl Fn(Revision) -> bool) {
        if let Self::Read { is_overtaken, .. } = self {
            *is_overtaken = true;
        }
        self.end_held(is_of_before);
    }

    /// The record in its hands is not current any more.
    pub(crate) fn end_held(&mut self, is_of_before: impl Fn(Revision) -> bool) {
        if let Self::Held { is_current, who, .. } | Self::Waiting { is_current, who, .. } = self
            && is_of_before(who.revision)
        {
            *is_current = false;
        }
    }

    pub(crate) fn is_shared_by_cached(&self) -> bool {
        matches!(self, Self::Waiting { is_shared: true, is_current: true, .. })
    }

    pub(crate) fn share_sync(&mut self) {
        if let Self::Waiting { is_shared, .. } = self {
            *is_shared = true;
        }
    }
}

impl World {
    /// Whether a login would do anything that is not seen from the state alone.
    pub(crate) fn can_begin(&self, state: &State, it: usize, is_watcher: bool) -> bool {
        let replica = &state.replicas[it];
        let is_idle = replica.login == Login::Idle && replica.feed != Feed::Down;
        let is_told_more = is_watcher || self.hashed || state.is_effective();
        is_idle && if replica.cache.is_some() { is_told_more } else { !state.store.is_revoked() }
    }

    /// Takes the record from the cache, or reads it: what matters is the moment at which the store
    /// answers.
    pub(crate) fn begin_login(&self, state: &mut State, it: usize, is_watcher: bool) {
        let is_late = state.is_effective();
        let revision = state.store.revision();
        match state.replicas[it].cache {
            Some(revision) => self.hold(state, it, false, true, Asker { is_late, is_watcher, revision }),
            None => {
                let who = Asker { is_late, is_watcher, revision };
                state.replicas[it].login = Login::Read { is_overtaken: false, who };
            }
        }
    }

    /// The answer comes, and goes into the cache, unless the fence holds it off.
    pub(crate) fn finish_read(&self, state: &mut State, it: usize) {
        let replica = &mut state.replicas[it];
        if let Login::Read { is_overtaken, who } = replica.login {
            let is_current = !(is_overtaken && self.holds(Rule::Fence)) && who.revision >= replica.floor;
            if is_current {
                replica.cache = Some(who.revision);
            }
            self.hold(state, it, true, is_current, who);
        }
    }

    fn hold(&self, state: &mut State, it: usize, is_own: bool, is_current: bool, who: Asker) {
        let may_use = is_current && (is_own || state.has_lease(it));
        state.replicas[it].login = if self.hashed && !self.holds(Rule::AuthorityLast) && may_use {
            Login::Judged { who }
        } else {
            Login::Held { is_own, is_current, who }
        };
    }

    /// Its password is proven. Now authority: its own read is as new as the login, unless argon2
    /// ran since; any other needs a lease or a sync.
    pub(crate) fn judge(&self, state: &mut State, it: usize) {
        match state.replicas[it].login {
            Login::Held { is_own, is_current, who } => {
                if (is_own && !self.hashed) || state.has_lease(it) {
                    self.answer(state, it, is_current, who);
                } else {
                    let is_under_way =
                        matches!(state.replicas[it].feed, Feed::Asked { .. } | Feed::Answered { .. } | Feed::Applying { .. });
                    let is_shared = is_under_way && !self.holds(Rule::SyncBegunAfterTheLogin);
                    state.replicas[it].login = Login::Waiting { is_shared, is_current, who };
                }
            }
            Login::Judged { who } => self.answer(state, it, true, who),
            _ => (),
        }
    }

    /// The sync that it shared has worked.
    pub(crate) fn sync_done(&self, state: &mut State, it: usize) {
        if let Login::Waiting { is_shared: true, is_current, who, .. } = state.replicas[it].login {
            self.answer(state, it, is_current, who);
        }
    }

    /// It has not: an RPC error.
    pub(crate) fn sync_failed(&self, state: &mut State, it: usize) {
        if let Login::Waiting { is_shared: true, who, .. } = state.replicas[it].login {
            self.answer(state, it, false, who);
        }
    }

    /// Not allowed means here that it begins again, as another login, or gets no answer.
    fn answer(&self, state: &mut State, it: usize, is_allowed: bool, who: Asker) {
        state.replicas[it].login = Login::Idle;
        // Authority is judged last: what argon2 held up is not allowed after EFFECTIVE either,
        // whenever it began.
        if is_allowed && state.is_effective() && (who.is_late || self.hashed) {
            state.is_broken = true;
        }
        if who.is_watcher
            && let Some(watcher) = &mut state.watcher
        {
            watcher.hear_answer(is_allowed.then_some(who.revision));
        }
    }

    /// The replica dies, and its answer with it.
    pub(crate) fn forget_asked(&self, state: &mut State, it: usize) {
        let who = match state.replicas[it].login {
            Login::Idle => return,
            Login::Read { who, .. } | Login::Held { who, .. } | Login::Waiting { who, .. } | Login::Judged { who } => who,
        };
        if who.is_watcher
            && let Some(watcher) = &mut state.watcher
        {
            watcher.hear_answer(None);
        }
    }
}
