//! The mail host's side of `Watch`: a process beside mail servers that answers logins from a cache
//! under a lease, and knows which of their sessions a change ends. Messages and time come in, what
//! to send and to close comes out; `src/upstream` carries it out, and the interleavings run it
//! under shuttle.

mod admission;
mod counts;
mod follower;
mod host;
mod logins;
mod messages;
mod sessions;

pub use self::{
    admission::{Admission, Answer, Reply},
    follower::{ANSWER_TIMEOUT, Follower, HangUp, Message, Step},
    host::{MailHost, Settings},
    logins::Question,
    messages::{CachedLogins, Close, Opening, Request, SessionNumber, Standing, Todo, TooManySessions, Welcome},
};
