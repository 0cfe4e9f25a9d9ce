//! What several test programs share.

#![allow(dead_code, unreachable_pub, clippy::expect_used, reason = "each test program uses a part of it, and fails by panicking")]

pub mod postgres;
pub mod proxy;
