//! Who watches this process: what was delivered to each watcher and what it has acknowledged, the
//! leases handed on to it, and the sessions that it has open (docs/design.md, "A revocation").
//!
//! One ordered, bounded queue leads to each watcher. A watcher that does not read its queue is cut
//! off, and is waited for until its lease has expired.

pub mod delivery;
mod ending;
mod keys;
mod messages;
pub mod recent;
mod roster;
mod sessions;
#[cfg(test)]
mod test_stream;
#[cfg(test)]
mod tests;
mod watchers;

pub use self::{
    messages::{Acknowledged, CutOff, Doubtful, End, Hello, Message, Opened, ProtocolError, SessionsEnded, StreamKey, Welcome},
    roster::{Action, Roster},
    watchers::{Outbox, Watchers},
};

/// Messages that may wait for one watcher to read them; also changes that it may leave
/// unacknowledged.
pub const QUEUE: usize = 1_024;
/// Open sessions of one watcher.
pub const MAX_SESSIONS: usize = 200_000;
/// Watchers connected at a time.
pub const MAX_WATCHERS: usize = 10_000;
