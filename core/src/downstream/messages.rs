//! What goes to a watcher and what comes from it, as values.

use std::{sync::Arc, time::Duration};

use uuid::Uuid;

use super::{MAX_SESSIONS, MAX_WATCHERS};
use crate::model::{
    change::{Change, Position, Revision},
    verdict::{Reason, Session},
};

/// What goes to a watcher, in order.
#[derive(Clone, Debug)]
pub enum Message {
    Change(Arc<Change>),
    /// Changes were missed: drop everything, continue from here.
    StartEmpty(Position),
    Granted {
        number: u64,
        lease: Duration,
    },
    Close {
        numbers: Vec<u64>,
        reason: Reason,
    },
    /// Not sent to the watcher: its stream's handler judges these sessions again, and closes those that
    /// are not valid any more.
    Judge(Vec<(u64, Session)>),
    Acknowledged(Acknowledged),
    /// This process stops.
    Draining,
}

/// Somebody has acknowledged a change: for who observes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acknowledged {
    pub revision: Revision,
    pub name: String,
    pub is_replica: bool,
    pub took: Duration,
    pub closed: u32,
}

/// Why a watcher was cut off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CutOff {
    TooSlow,
    /// Another stream came with the same id.
    Replaced,
    /// It has to begin anew, and what it acknowledges on this stream could be taken for having done so.
    BeginsAnew,
}

/// A watcher broke the protocol, or a bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProtocolError {
    #[error("revision is not one that this watcher was told")]
    AcknowledgesTheFuture,
    #[error("revision is lower than one acknowledged before")]
    AcknowledgesBackwards,
    #[error("a session with this number is open")]
    SessionNumberTaken,
    #[error("no session with this number is open")]
    SessionNotOpen,
    #[error("more than {MAX_SESSIONS} sessions are open")]
    TooManySessions,
    #[error("more than {MAX_WATCHERS} watchers are connected to this replica")]
    TooManyWatchers,
    #[error("the watcher was cut off")]
    CutOff,
}

/// A watcher that says hello.
#[derive(Clone, Debug)]
pub struct Hello {
    pub name: String,
    pub id: Uuid,
    pub resume: Option<Position>,
    pub observes: bool,
}

/// How a stream begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Welcome {
    /// This process's number for the stream.
    pub number: u64,
    pub position: Position,
    /// The watcher has to begin with an empty cache.
    pub starts_empty: bool,
}

/// What became of a session that was reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opened {
    Good,
    /// Its password has ended: the watcher is told to close it.
    Closed,
    /// It is older than what this process remembers.
    Doubtful,
}
