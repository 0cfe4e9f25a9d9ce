//! What decides in Latchkey. No I/O, no clock and no randomness of its own: time, messages and
//! random bytes come in, decisions go out as values. The service, the mail host, the model, the
//! interleavings and the histories run this same code. See ARCHITECTURE.md.

pub mod cache;
pub mod confirmation;
pub mod downstream;
pub mod lease;
#[cfg(test)]
mod lease_tests;
pub mod log;
pub mod login;
pub mod mail_host;
pub mod model;
pub mod replica;

/// What threads share memory by. The interleaving tests compile this crate's sources over shuttle's
/// instead (`tests/interleavings`).
mod sync {
    pub(crate) use std::sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    };
}
