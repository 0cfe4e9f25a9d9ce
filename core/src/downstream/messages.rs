//! What goes to a watcher and what comes from it, as values.

use std::{fmt, sync::Arc, time::Duration};

use uuid::Uuid;

use super::{MAX_SESSIONS, MAX_WATCHERS};
use crate::model::{
    change::{Change, Position, Revision},
    verdict::{Reason, Session},
};

/// What goes to a watcher, in order.
#[derive(Clone, Debug)]
pub enum Message {
    Change {
        change: Arc<Change>,
        /// Where the watcher must be when it reads this.
        previous: Position,
    },
    /// Changes were missed: drop everything, continue from here.
    StartEmpty(Position),
    Granted {
        number: u64,
        lease: Duration,
        /// Where the watcher must be when it reads this, and is afterwards.
        previous: Position,
        position: Position,
    },
    Close {
        numbers: Vec<u64>,
        reason: Reason,
        /// The change that was the cause; or, if that is not known, as of which the session was
        /// judged.
        revision: Revision,
    },
    /// Not sent to the watcher: its stream's handler judges these sessions again, and says what it
    /// found.
    Judge(Vec<Doubtful>),
    Acknowledged(Acknowledged),
    SessionsEnded(SessionsEnded),
    /// This process stops.
    Draining,
}

/// An open session that may not be valid any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Doubtful {
    pub number: u64,
    pub session: Session,
    /// The change that may have ended it. `None`: it is not known which.
    pub cause: Option<Revision>,
}

/// Somebody has acknowledged a change: for who observes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acknowledged {
    pub revision: Revision,
    pub name: String,
    pub is_replica: bool,
    pub took: Duration,
}

/// A watcher has reported sessions that a change ended: for who observes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionsEnded {
    pub revision: Revision,
    pub name: String,
    pub took: Duration,
    pub closed: u32,
    pub refused: u32,
}

/// What became of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// It has ended.
    Closed,
    /// It is still connected, and every further command in it is refused.
    Refused,
}

/// Names a watcher's stream: what is asked with it can be cached by that watcher.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamKey(pub [u8; 16]);

impl fmt::Debug for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Why a watcher was cut off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CutOff {
    TooSlow,
    /// Another stream came with the same id.
    Replaced,
    /// It has to begin anew, and what it acknowledges on this stream could be taken for having done
    /// so.
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

/// A watcher's hello.
#[derive(Clone, Debug)]
pub struct Hello {
    pub name: String,
    pub id: Uuid,
    pub resume: Option<Position>,
    pub observes: bool,
    /// Random.
    pub key: StreamKey,
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
    /// A change since its login may have ended it, or this process does not remember all of them:
    /// it is to be judged.
    Doubtful {
        cause: Option<Revision>,
    },
}
