//! The real binary, from outside, on each store: what the README and the proto promise.

#![expect(clippy::expect_used, reason = "a test that can't go on has failed")]
#![expect(unreachable_pub, reason = "a test program exports nothing")]

mod answers;
mod cached_logins;
mod callers;
mod devices;
mod directory;
mod doctor;
mod events;
mod faults;
mod import;
mod inputs;
mod logins;
mod operator;
mod passwords;
mod readme;
mod revocations;
mod rights;
mod server;
mod service_manager;
#[path = "../support/mod.rs"]
mod support;
mod suspensions;
mod telemetry;
mod waiting;
mod watch;
mod watch_command;
mod world;
