//! Real mail servers behind the agent, with the configurations of `deploy/` as they stand.

#![expect(clippy::expect_used, reason = "a test that can't go on has failed")]
#![expect(unreachable_pub, reason = "a test program exports nothing")]

#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod agent;
mod chasquid;
mod dovecot;
mod exim;
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod haraka;
mod host;
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod nginx;
mod postfix;
mod radicale;
#[path = "../service/server.rs"]
#[allow(dead_code, reason = "the service's tests use more of it")]
mod server;
mod smtp;
#[path = "../support/mod.rs"]
mod support;
#[path = "../service/world.rs"]
#[allow(dead_code, unused_macros, unused_imports, reason = "the service's tests use more of it")]
mod world;
