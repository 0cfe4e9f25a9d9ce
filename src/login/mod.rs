//! Floor 3: a login, from the question to the answer: whose password it is (`proof.rs`), and
//! whether it may log in (`judge.rs`).

mod answer;
mod judge;
mod proof;
mod session;
mod upgrade;

pub use self::{
    answer::{Cacheable, CachedLogins, Judged, NoAnswer},
    judge::{Cold, Login},
    upgrade::Upgrades,
};
