//! How many logins a mail host has answered from its cache since it last reported them.

use std::net::IpAddr;

use hashbrown::HashMap;

use super::messages::CachedLogins;
use crate::model::{
    clock::Timestamp,
    protocol::Protocol,
    verdict::{Attempt, ProvenPassword, Session},
};

/// Counts in one report, and kept at a time: logins beyond are reported without their address, and
/// beyond twice as many, not at all.
pub(super) const MAX_COUNTS: usize = 1_000;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Key {
    device: uuid::Uuid,
    generation: u32,
    protocol: Protocol,
    client_ip: Option<IpAddr>,
    frontend: Box<str>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Counts {
    by_key: HashMap<Key, CachedLogins>,
    uncounted: u64,
}

impl Counts {
    pub(super) fn add(&mut self, attempt: &Attempt, session: &Session, time: Timestamp) {
        let ProvenPassword { device_id, generation, .. } = session.password;
        let client_ip = attempt.client_ip.filter(|_| self.by_key.len() < MAX_COUNTS);
        let key =
            Key { device: device_id.0, generation, protocol: attempt.protocol, client_ip, frontend: attempt.frontend.clone() };
        if let Some(counted) = self.by_key.get_mut(&key) {
            counted.count = counted.count.saturating_add(1);
            counted.last_time = counted.last_time.max(time);
        } else if self.by_key.len() < 2 * MAX_COUNTS {
            let counted = CachedLogins {
                session: session.clone(),
                protocol: attempt.protocol,
                client_ip,
                frontend: attempt.frontend.clone(),
                count: 1,
                last_time: time,
            };
            self.by_key.insert(key, counted);
        } else {
            self.uncounted += 1;
        }
    }

    /// What is to be reported, in messages of the size that a replica accepts.
    pub(super) fn take(&mut self) -> Vec<Vec<CachedLogins>> {
        let counts: Vec<_> = self.by_key.drain().map(|(_, counted)| counted).collect();
        counts.chunks(MAX_COUNTS).map(<[_]>::to_vec).collect()
    }

    /// Logins that will not be reported, for lack of room.
    pub(super) fn uncounted(&self) -> u64 {
        self.uncounted
    }
}
