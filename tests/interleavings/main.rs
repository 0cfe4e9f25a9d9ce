//! What threads share memory by, under shuttle: the library's own source, compiled over shuttle's
//! locks and atomics, with every interleaving that a random scheduler finds. Each test is a small
//! world of two or three threads.

#![expect(clippy::expect_used, reason = "a test that can't go on has failed")]

#[path = "../../core/src/lease.rs"]
#[expect(unreachable_pub, dead_code, reason = "the library's own source: what is public there is private here")]
mod lease;

#[path = "../../core/src/cache"]
#[expect(unreachable_pub, dead_code, reason = "the library's own source: what is public there is private here")]
mod cache {
    mod generations;
    pub mod mailboxes;
    pub mod memos;
}

#[path = "../../core/src/login"]
#[expect(unreachable_pub, dead_code, reason = "the library's own source: what is public there is private here")]
mod login {
    pub mod policy;
    pub mod proof;
}

#[path = "../../core/src/downstream"]
#[expect(unreachable_pub, dead_code, reason = "the library's own source: what is public there is private here")]
mod downstream {
    pub mod delivery;
    mod ending;
    mod keys;
    mod messages;
    pub mod recent;
    mod roster;
    mod sessions;
    pub mod test_stream;
    mod watchers;

    pub(crate) use latchkey_core::downstream::{MAX_SESSIONS, MAX_WATCHERS, QUEUE};

    pub(crate) use self::{
        messages::{
            Acknowledged, CutOff, Doubtful, End, Hello, Message, Opened, ProtocolError, SessionsEnded, StreamKey, Welcome,
        },
        watchers::{Outbox, Watchers},
    };
}

#[path = "../../core/src/replica.rs"]
#[expect(unreachable_pub, dead_code, reason = "the library's own source: what is public there is private here")]
mod replica_state;

#[path = "../../core/src/mail_host"]
#[expect(unreachable_pub, dead_code, reason = "the library's own source: what is public there is private here")]
mod mail_host {
    mod admission;
    mod counts;
    mod follower;
    mod host;
    mod logins;
    mod messages;
    mod sessions;

    pub(crate) use self::{
        admission::Reply,
        follower::Message,
        host::{MailHost, Settings},
        messages::{Close, Opening, Request, Todo, Welcome},
    };
}

mod model {
    pub(crate) use latchkey_core::model::*;
}

/// What threads share memory by, under shuttle.
mod sync {
    pub(crate) use std::sync::PoisonError;

    pub(crate) use shuttle::sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    };
}

mod explore;
mod feed_and_logins;
mod fence;
mod host;
mod replica;
mod sessions;
mod watchers_and_changes;

const RUNS: usize = 20_000;
