//! Floor 2: who watches this process: what each watcher was told and has acknowledged, the leases handed on to it, and the sessions that it has open (DESIGN.md §6,
//! points 6 and 7). The doors move messages; what they mean stands here.
//!
//! One ordered queue leads to each watcher, bounded: who does not read it is cut off, and waited for until its lease has run out.

mod board;
mod messages;
pub(crate) mod recent;
mod registry;
mod sessions;
#[cfg(test)]
mod tests;
pub mod told;

use std::time::Duration;

pub use self::{
    messages::{Acknowledged, CutOff, Hello, Message, Misstep, Opened, Watch},
    registry::Watchers,
};

/// What threads share memory by. The interleaving tests compile this floor over shuttle's instead (`tests/interleavings`).
mod sync {
    pub(super) use std::sync::{Mutex, MutexGuard};
}

/// Messages that wait for one watcher to read them; also changes that it has not acknowledged.
const QUEUE: usize = 1_024;
/// Open sessions of one watcher.
pub const MAX_SESSIONS: usize = 200_000;
/// Watchers at a time.
pub const MAX_WATCHERS: usize = 10_000;
/// For how long a watcher without a lease is waited for that has sessions to close.
const SESSIONS_WAIT: Duration = Duration::from_secs(1);
