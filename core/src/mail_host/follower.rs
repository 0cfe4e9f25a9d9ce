//! Where a mail host stands in the change log, and which leases it has asked for. A plain value, so
//! that the model can hold it: what it decides comes out as steps, to be carried out in their
//! order.

use std::{collections::VecDeque, time::Duration};

use crate::model::{
    change::{Position, Revision},
    clock::{BootTime, Timestamp},
};

/// A replica that answers nothing for so long is given up.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What comes from the replica and moves the position. `C` is a change.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Message<C> {
    Change {
        change: C,
        previous: Position,
        position: Position,
    },
    /// The replica cannot list what was missed.
    StartEmpty {
        position: Position,
    },
    Grant {
        number: u64,
        duration: Duration,
        previous: Position,
        position: Position,
    },
    /// The replica stops.
    Draining,
    /// Of a newer version of the protocol. It may take access away.
    Unknown,
}

/// What a message makes the mail host do.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Step<C> {
    EndLease,
    /// Empty the cache, and let nothing in that was read before the revision.
    Clear(Revision),
    /// End what the change concerns, in the cache and under way, and its sessions.
    Apply(C),
    /// The history of sessions begins anew here: the replica judges those that are open.
    BeginSessions(Position),
    Acknowledge(Revision),
    /// The lease runs for `left` from when it was asked for, unless it runs longer already.
    TakeLease {
        asked: BootTime,
        wall_asked: Timestamp,
        left: Duration,
    },
    /// Tell the replica that the cache is not used any more.
    Surrender,
    HangUp(HangUp),
}

/// Why a stream is to end.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum HangUp {
    #[error("the replica stops")]
    Draining,
    #[error("this host stops")]
    Stopping,
    #[error("a message was lost on the way")]
    MessageLost,
    #[error("the replica sent a message that this version does not know")]
    MessageUnknown,
    #[error("the replica does not answer")]
    Silent,
    #[error("the replica grants no lease")]
    NoLease,
}

/// A lease that was asked for, with the clocks from before.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Asked {
    number: u64,
    boot: BootTime,
    wall: Timestamp,
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Follower {
    /// The last change applied. `None` while nothing is known: then the next stream starts empty.
    position: Option<Position>,
    asked: VecDeque<Asked>,
    last_number: u64,
}

impl Follower {
    /// Where the next stream resumes.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// A stream begins, with the replica's welcome.
    pub fn welcomed<C>(&mut self, position: Position, start_empty: bool) -> Vec<Step<C>> {
        self.asked.clear();
        if start_empty || self.position.is_none() { self.start_empty(position) } else { vec![] }
    }

    /// Notes the clocks from before a lease is asked for. Answers the number to ask with.
    pub fn ask(&mut self, boot: BootTime, wall: Timestamp) -> u64 {
        self.last_number += 1;
        self.asked.push_back(Asked { number: self.last_number, boot, wall });
        self.last_number
    }

    /// Whether the replica leaves a lease unanswered for too long.
    pub fn is_silent(&self, now: BootTime) -> bool {
        self.asked.front().is_some_and(|asked| now - asked.boot > ANSWER_TIMEOUT)
    }

    /// Whether a lease was asked for that is not answered yet.
    pub fn is_asking(&self) -> bool {
        !self.asked.is_empty()
    }

    /// The stream is gone: nothing that was asked on it is answered any more.
    pub fn disconnected(&mut self) {
        self.asked.clear();
    }

    /// What a message of the stream makes the mail host do.
    pub fn hear<C>(&mut self, message: Message<C>) -> Vec<Step<C>> {
        match message {
            Message::Change { previous, .. } | Message::Grant { previous, .. } if self.position != Some(previous) => {
                self.forget(HangUp::MessageLost)
            }
            Message::Change { change, position, .. } => {
                self.position = Some(position);
                vec![Step::Apply(change), Step::Acknowledge(position.revision)]
            }
            Message::StartEmpty { position } => {
                let mut steps = self.start_empty(position);
                steps.push(Step::Acknowledge(position.revision));
                steps
            }
            Message::Grant { number, duration, position, .. } => {
                self.position = Some(position);
                let found = self.asked.iter().position(|asked| asked.number == number);
                let asked = found.and_then(|at| self.asked.drain(..=at).next_back());
                let take = asked.filter(|_| !duration.is_zero());
                take.map(|it| Step::TakeLease { asked: it.boot, wall_asked: it.wall, left: duration }).into_iter().collect()
            }
            // Nobody has to wait for this host any more.
            Message::Draining => vec![Step::EndLease, Step::Surrender, Step::HangUp(HangUp::Draining)],
            Message::Unknown => self.forget(HangUp::MessageUnknown),
        }
    }

    /// The lease may have been granted for a state that is ahead of this one, so it ends too.
    fn start_empty<C>(&mut self, at: Position) -> Vec<Step<C>> {
        self.position = Some(at);
        vec![Step::EndLease, Step::Clear(at.revision), Step::BeginSessions(at)]
    }

    /// Nothing that is held may be used. The next stream starts empty.
    fn forget<C>(&mut self, why: HangUp) -> Vec<Step<C>> {
        let floor = self.position.take().unwrap_or_default().revision;
        vec![Step::EndLease, Step::Clear(floor), Step::HangUp(why)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(revision: u64) -> Position {
        Position { revision: Revision(revision), nonce: i64::try_from(revision).unwrap() * 7 }
    }

    fn follower() -> Follower {
        let mut follower = Follower::default();
        follower.welcomed::<()>(at(4), false);
        follower
    }

    fn change(from: u64, to: u64) -> Message<&'static str> {
        Message::Change { change: "a change", previous: at(from), position: at(to) }
    }

    #[test]
    fn the_first_stream_starts_empty_and_a_later_one_only_if_it_is_told_to() {
        let mut follower = Follower::default();
        let empty = vec![Step::EndLease, Step::Clear(Revision(4)), Step::BeginSessions(at(4))];
        assert_eq!(follower.welcomed::<()>(at(4), false), empty);
        assert_eq!(follower.welcomed::<()>(at(4), false), vec![]);
        assert_eq!(follower.welcomed::<()>(at(4), true), empty);
    }

    #[test]
    fn a_change_is_applied_before_it_is_acknowledged() {
        let mut follower = follower();
        assert_eq!(follower.hear(change(4, 5)), vec![Step::Apply("a change"), Step::Acknowledge(Revision(5))]);
        assert_eq!(follower.position(), Some(at(5)));
    }

    #[test]
    fn a_message_that_does_not_follow_the_last_one_makes_it_forget_everything() {
        let grant = Message::Grant { number: 1, duration: Duration::from_secs(1), previous: at(3), position: at(5) };
        for message in [change(5, 6), change(3, 5), grant, Message::Unknown] {
            let why = if message == Message::Unknown { HangUp::MessageUnknown } else { HangUp::MessageLost };
            let mut follower = follower();
            assert_eq!(follower.hear(message), vec![Step::EndLease, Step::Clear(Revision(4)), Step::HangUp(why)]);
            assert_eq!(follower.position(), None, "the next stream starts empty");
        }
    }

    #[test]
    fn a_lease_counts_from_before_it_was_asked_for() {
        let mut follower = follower();
        let first = follower.ask(BootTime(10), Timestamp(1));
        let second = follower.ask(BootTime(20), Timestamp(2));
        let grant = |number| Message::<()>::Grant { number, duration: Duration::from_secs(1), previous: at(4), position: at(6) };
        let left = Duration::from_secs(1);
        assert_eq!(follower.hear(grant(second)), vec![Step::TakeLease { asked: BootTime(20), wall_asked: Timestamp(2), left }]);
        assert_eq!(follower.position(), Some(at(6)), "what lies between does not concern it");
        let late = Message::<()>::Grant { number: first, duration: left, previous: at(6), position: at(6) };
        assert_eq!(follower.hear(late), vec![], "one that a later one has overtaken");
        let unasked = Message::<()>::Grant { number: 9, duration: left, previous: at(6), position: at(6) };
        assert_eq!(follower.hear(unasked), vec![]);
    }

    #[test]
    fn a_replica_that_leaves_a_lease_unanswered_is_silent() {
        let mut follower = follower();
        assert!(!follower.is_silent(BootTime::default() + ANSWER_TIMEOUT * 2));
        follower.ask(BootTime::default(), Timestamp(0));
        assert!(!follower.is_silent(BootTime::default() + ANSWER_TIMEOUT));
        assert!(follower.is_silent(BootTime::default() + ANSWER_TIMEOUT * 2));
    }

    #[test]
    fn a_host_of_a_replica_that_stops_gives_its_lease_up_first() {
        let steps = follower().hear(Message::<()>::Draining);
        assert_eq!(steps, vec![Step::EndLease, Step::Surrender, Step::HangUp(HangUp::Draining)]);
    }
}
