//! Says in the log that callers were refused: which and why, at most once in a while, since anybody
//! can be refused as often as they like.

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tracing::warn;

use crate::clock::SystemClock;
use latchkey_core::model::clock::{BootTime, Clock};

/// Between two lines.
const INTERVAL: Duration = Duration::from_secs(10);

/// The refusals of a process.
static REFUSALS: Mutex<Refusals> = Mutex::new(Refusals { last: None, unsaid: 0 });

struct Refusals {
    last: Option<BootTime>,
    /// Since the last line.
    unsaid: u64,
}

impl Refusals {
    /// How many went unsaid before this one, if it is to be said.
    fn note(&mut self, now: BootTime) -> Option<u64> {
        if self.last.is_some_and(|last| now - last < INTERVAL) {
            self.unsaid += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

/// A caller was refused. `caller`: its name, if it is known.
pub(super) fn note(reason: &'static str, caller: Option<&str>, peer: Option<SocketAddr>) {
    let due = REFUSALS.lock().unwrap_or_else(PoisonError::into_inner).note(SystemClock.boot());
    if let Some(unsaid) = due {
        let peer = peer.map(tracing::field::display);
        warn!(reason, caller, peer, others_since_the_last_line = unsaid, "a caller was refused");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_said_once_in_a_while_with_how_many_were_not() {
        let mut refusals = Refusals { last: None, unsaid: 0 };
        let at = |seconds: u64| BootTime(seconds * 1_000_000_000);
        assert_eq!(refusals.note(at(1)), Some(0));
        assert_eq!((refusals.note(at(2)), refusals.note(at(10))), (None, None));
        assert_eq!(refusals.note(at(11)), Some(2));
        assert_eq!(refusals.note(at(12)), None);
    }
}
