//! What threads share memory by, under shuttle: the library's own source, compiled over shuttle's locks and atomics, with every interleaving that a random
//! scheduler finds. Each test is a small world of two or three threads.

#![expect(clippy::expect_used, reason = "a test that can't go on has failed")]

#[path = "../../src/model"]
#[expect(unreachable_pub, dead_code, reason = "the library's own source: what is public there is private here")]
mod model {
    pub(crate) use latchkey::model::*;

    pub mod lease;

    mod sync {
        pub(super) use shuttle::sync::atomic::{AtomicI64, AtomicU64, Ordering};
    }
}

#[path = "../../src/cache"]
#[expect(unreachable_pub, dead_code, reason = "the library's own source: what is public there is private here")]
mod cache {
    mod generations;
    pub mod mailboxes;

    mod sync {
        pub(super) use std::sync::PoisonError;

        pub(super) use shuttle::sync::{
            Arc, Mutex, MutexGuard,
            atomic::{AtomicBool, AtomicU64, Ordering},
        };
    }
}

#[path = "../../src/watchers"]
#[expect(unreachable_pub, dead_code, reason = "the library's own source, with its own tests")]
mod watchers {
    mod board;
    mod messages;
    pub(crate) mod recent;
    mod registry;
    mod sessions;
    pub mod told;

    use std::time::Duration;

    pub use self::{
        messages::{Acknowledged, CutOff, Hello, Message, Misstep, Opened, Watch},
        registry::Watchers,
    };

    mod sync {
        pub(super) use shuttle::sync::{Mutex, MutexGuard};
    }

    const QUEUE: usize = 1_024;
    pub const MAX_SESSIONS: usize = 200_000;
    pub const MAX_WATCHERS: usize = 10_000;
    const SESSIONS_WAIT: Duration = Duration::from_secs(1);
}

#[path = "../../src/feed"]
#[expect(unreachable_pub, dead_code, reason = "the library's own source: what is public there is private here")]
mod feed {
    pub mod coherence;

    mod sync {
        pub(super) use shuttle::sync::atomic::{AtomicU64, Ordering};
    }
}

mod explore;
mod feed_and_logins;
mod fence;
mod mail_host;
mod replica;
mod sessions;
mod watchers_and_changes;

use latchkey::store;

const RUNS: usize = 20_000;
