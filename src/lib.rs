//! Latchkey: mail passwords, one for each device, whose revocation holds everywhere at once. See
//! ARCHITECTURE.md.

pub mod agent;
pub mod authority;
pub mod cli;
pub mod clock;
pub mod closing;
pub mod config;
pub mod dovecot;
mod exit;
pub mod grpc;
pub mod hashing;
pub mod http;
pub mod lifecycle;
pub mod login;
pub mod login_log;
pub mod manage;
pub mod passwords;
pub mod policy;
pub mod random;
pub mod replication;
pub mod serve;
pub mod sessions;
pub mod smtp_logins;
pub mod sockets;
pub mod store;
pub mod telemetry;
pub mod throttle;
mod tls;
pub mod upstream;

/// The contract, generated from `proto/`.
#[allow(
    missing_debug_implementations,
    unused_qualifications,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated code; messages that hold passwords get their Debug in grpc::redacted"
)]
pub mod proto {
    tonic::include_proto!("latchkey.v1");

    /// The same contract as a descriptor set, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}
