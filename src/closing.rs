//! Floor 2: which code closes which session. The upstream says "close number 7"; the code that
//! opened session 7 knows how. One table ties them, whichever of the two comes first.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use hashbrown::HashMap;

use latchkey_core::model::verdict::Reason;

/// This process's number for a session.
pub type SessionNumber = u64;

/// Closes one session. Called at most once, possibly under a lock of the upstream: it must not
/// wait, and must not call back into the upstream from the same call.
pub type Close = Box<dyn FnOnce(Reason) + Send>;

/// See the module.
#[derive(Default)]
pub struct Closers(Mutex<HashMap<SessionNumber, Entry>>);

enum Entry {
    /// Open, with how to close it.
    Open(Close),
    /// To be closed; whoever opens it has not said yet how.
    Told(Reason),
    /// Its close was called; it is forgotten once the session has ended.
    Called,
}

impl Closers {
    /// Says how to close a session that was just opened. If it is to be closed already, `close` is
    /// called here.
    pub fn on_close(&self, number: SessionNumber, close: Close) {
        let told = {
            let mut entries = self.lock();
            match entries.get(&number) {
                Some(Entry::Told(reason)) => {
                    let reason = *reason;
                    entries.insert(number, Entry::Called);
                    reason
                }
                _ => {
                    entries.insert(number, Entry::Open(close));
                    return;
                }
            }
        };
        close(told);
    }

    /// The session has ended: nothing is left to close. Said after the upstream was told that it
    /// has ended, which from then on does not ask for its close any more.
    pub fn forget(&self, number: SessionNumber) {
        self.lock().remove(&number);
    }

    /// Closes a session, now or as soon as it is known how. What the upstream's `CloseSession`
    /// calls.
    pub fn close(&self, number: SessionNumber, reason: Reason) {
        let close = {
            let mut entries = self.lock();
            match entries.remove(&number) {
                None | Some(Entry::Told(_)) => {
                    entries.insert(number, Entry::Told(reason));
                    return;
                }
                Some(Entry::Called) => {
                    entries.insert(number, Entry::Called);
                    return;
                }
                Some(Entry::Open(close)) => {
                    entries.insert(number, Entry::Called);
                    close
                }
            }
        };
        close(reason);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionNumber, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Closers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Closers").field("sessions", &self.lock().len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A close that writes down that it was called.
    fn noting(calls: &Arc<Mutex<Vec<Reason>>>) -> Close {
        let calls = Arc::clone(calls);
        Box::new(move |reason| calls.lock().unwrap().push(reason))
    }

    #[test]
    fn a_session_is_closed_once_whichever_of_opening_and_closing_is_said_first() {
        for is_opened_first in [true, false] {
            let (closers, calls) = (Closers::default(), Arc::default());
            if is_opened_first {
                closers.on_close(7, noting(&calls));
                closers.close(7, Reason::DeviceDisconnected);
            } else {
                closers.close(7, Reason::DeviceDisconnected);
                closers.on_close(7, noting(&calls));
            }
            closers.close(7, Reason::PasswordChanged);
            assert_eq!(*calls.lock().unwrap(), [Reason::DeviceDisconnected]);
            closers.forget(7);
            assert_eq!(closers.lock().len(), 0);
        }
    }

    #[test]
    fn a_session_that_has_ended_is_not_closed() {
        let (closers, calls) = (Closers::default(), Arc::default());
        closers.on_close(7, noting(&calls));
        closers.on_close(8, noting(&calls));
        closers.forget(7);
        closers.close(8, Reason::DeviceDisconnected);
        assert_eq!(calls.lock().unwrap().len(), 1);
    }
}
