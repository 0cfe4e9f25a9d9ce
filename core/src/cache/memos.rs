//! Memos: "this password is that device's", so that argon2 runs once for it. True for ever, since a
//! device's generation never gets another password; so nothing ever ends one, and a memo says
//! nothing about whether the device may still log in.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::generations::Generations;
use crate::model::{device::Generation, id::DeviceId};

const SHARDS: usize = 64;

/// A keyed digest of a device, its generation and a password. Its being in the set is the whole
/// statement.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Memo([u8; 32]);

impl Memo {
    /// What identical logins under way share one argon2 by.
    pub fn job(self) -> [u8; 32] {
        self.0
    }

    fn kept(self) -> [u8; 16] {
        let mut kept = [0; 16];
        kept.copy_from_slice(&self.0[..16]);
        kept
    }
}

impl fmt::Debug for Memo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

type Shard = Mutex<Generations<[u8; 16], ()>>;

/// A bounded set of memos, under a key made at start: a copy of it is of no use after the process
/// has ended, nor without the process's memory.
pub struct Memos {
    key: Hmac<Sha256>,
    shards: Box<[Shard]>,
}

impl Memos {
    /// `key`: random, made at start.
    pub fn with_capacity(capacity: usize, key: &[u8; 32]) -> Self {
        #[expect(clippy::expect_used, reason = "HMAC takes a key of any length (RFC 2104 §3)")]
        let key = Hmac::new_from_slice(key).expect("any key is good");
        let shard = || Mutex::new(Generations::with_capacity(capacity.div_ceil(SHARDS)));
        Self { key, shards: (0..SHARDS).map(|_| shard()).collect() }
    }

    pub fn of(&self, device_id: DeviceId, generation: Generation, password: &[u8]) -> Memo {
        let mut mac = self.key.clone();
        mac.update(device_id.0.as_bytes());
        mac.update(&generation.to_be_bytes());
        mac.update(password);
        Memo(mac.finalize().into_bytes().into())
    }

    pub fn contains(&self, memo: Memo) -> bool {
        let mut shard = self.shard(memo).lock().unwrap_or_else(PoisonError::into_inner);
        shard.get(&memo.kept()).0.is_some()
    }

    pub fn insert(&self, memo: Memo) {
        let mut shard = self.shard(memo).lock().unwrap_or_else(PoisonError::into_inner);
        shard.insert(memo.kept(), ());
    }

    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, memo: Memo) -> &Shard {
        &self.shards[usize::from(memo.0[31]) % SHARDS]
    }
}

impl fmt::Debug for Memos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memos").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::clock::Timestamp;

    #[test]
    fn a_memo_speaks_of_one_device_one_generation_and_one_password() {
        let memos = Memos::with_capacity(100, &[7; 32]);
        let device = DeviceId::from_parts(Timestamp(1), [4; 10]);
        memos.insert(memos.of(device, 1, b"right"));
        assert!(memos.contains(memos.of(device, 1, b"right")));
        assert!(!memos.contains(memos.of(device, 1, b"wrong")));
        assert!(!memos.contains(memos.of(device, 2, b"right")));
        assert!(!memos.contains(memos.of(DeviceId::from_parts(Timestamp(2), [5; 10]), 1, b"right")));
    }
}
