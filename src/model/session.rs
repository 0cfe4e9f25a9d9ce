//! A session that a mail program has open at a frontend.

use std::net::IpAddr;

use super::{clock::Timestamp, protocol::Protocol, verdict::ProvenPassword};

/// Opened with one password: it is to be closed when that ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenSession {
    pub password: ProvenPassword,
    pub protocol: Protocol,
    pub client_ip: Option<IpAddr>,
    pub open_time: Timestamp,
    /// Of the frontend, for people.
    pub frontend: String,
}
