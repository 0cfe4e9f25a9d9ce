//! Hashes at rest: argon2id with the pepper as its secret input; and the verifying of those, and of
//! what was imported.

use std::{fmt, sync::Arc};

use argon2::{Algorithm, Argon2, ParamsBuilder, Version};
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use zeroize::Zeroizing;

pub use super::memory::Memory;
use super::{
    memory::blocks,
    pepper::Pepper,
    schemes::{Argon2Hash, Scheme, is_affordable},
};
use crate::random;
use latchkey_core::model::device::{KeyId, PasswordHash};

const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 32;

/// What a hash costs. OWASP's first recommendation for argon2id is the default.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HashCost {
    /// KiB: 8 to 1,048,576 for each lane.
    pub memory_kib: u32,
    /// 1 to 32.
    pub passes: u32,
    /// 1 to 64.
    pub lanes: u32,
}

impl Default for HashCost {
    fn default() -> Self {
        Self { memory_kib: 19_456, passes: 2, lanes: 1 }
    }
}

/// Hashes and verifies, under a pepper and at a cost.
#[derive(Clone)]
pub struct Hasher {
    cost: HashCost,
    active: KeyId,
    secrets: Arc<[(KeyId, Zeroizing<[u8; 32]>)]>,
}

/// Why a password could not be hashed or verified.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HashError {
    #[error(
        "the hash's cost is out of bounds (1 to 64 lanes, 1 to 32 passes, 8 KiB a lane to 256 MiB, 1 GiB in all passes): {0:?}"
    )]
    Cost(HashCost),
    #[error("the hash is under pepper key {}, which the pepper file does not have", .0.0)]
    UnknownKey(KeyId),
    #[error("the stored hash can't be read")]
    Unreadable,
    #[error("there is not enough memory to hash")]
    Memory,
}

impl Hasher {
    pub fn new(pepper: &Pepper, cost: HashCost) -> Result<Self, HashError> {
        let HashCost { memory_kib, passes, lanes } = cost;
        let is_known = lanes > 0 && passes > 0 && memory_kib >= lanes.saturating_mul(8);
        if !is_known || !is_affordable(memory_kib, passes, lanes) {
            return Err(HashError::Cost(cost));
        }
        let secrets = pepper.keys().map(|id| (id, pepper.derive(id, "latchkey argon2 v1"))).collect();
        Ok(Self { cost, active: pepper.active(), secrets })
    }

    /// A new hash, as a PHC string that names its cost and its pepper key.
    pub fn hash(&self, password: &[u8], memory: &mut Memory) -> Result<PasswordHash, HashError> {
        let HashCost { memory_kib, passes, lanes } = self.cost;
        let mut params = ParamsBuilder::new();
        params.m_cost(memory_kib).t_cost(passes).p_cost(lanes).output_len(HASH_BYTES);
        let params = params.build().map_err(|_| HashError::Cost(self.cost))?;
        let secret = self.secret(self.active)?;
        let context = Argon2::new_with_secret(secret, Algorithm::Argon2id, Version::V0x13, params)
            .map_err(|_| HashError::Cost(self.cost))?;
        let salt = random::bytes::<SALT_BYTES>();
        let mut hash = [0; HASH_BYTES];
        let blocks = blocks(memory, context.params().block_count());
        context.hash_password_into_with_memory(password, &salt, &mut hash, blocks).map_err(|_| HashError::Memory)?;
        let [key, salt, hash] =
            [&self.active.0.to_be_bytes()[..], &salt[..], &hash[..]].map(|bytes| STANDARD_NO_PAD.encode(bytes));
        Ok(PasswordHash(format!("$argon2id$v=19$m={memory_kib},t={passes},p={lanes},keyid={key}${salt}${hash}")))
    }

    pub fn verify(&self, password: &[u8], hash: &PasswordHash, memory: &mut Memory) -> Result<bool, HashError> {
        let scheme = Scheme::parse(&hash.0).map_err(|_| HashError::Unreadable)?;
        let secret = match &scheme {
            Scheme::Argon2(Argon2Hash { key: Some(key), .. }) => self.secret(KeyId(*key))?,
            _ => &[],
        };
        Ok(scheme.verify(password, secret, memory))
    }

    /// Whether a hash should be made anew at the next good login: another scheme, a lower cost,
    /// another pepper key.
    pub fn needs_upgrade(&self, hash: &PasswordHash) -> bool {
        match Scheme::parse(&hash.0) {
            Ok(Scheme::Argon2(hash)) => {
                hash.algorithm != Algorithm::Argon2id
                    || hash.key != Some(self.active.0)
                    || hash.memory_kib < self.cost.memory_kib
                    || hash.passes < self.cost.passes
                    || hash.lanes != self.cost.lanes
            }
            _ => true,
        }
    }

    fn secret(&self, key: KeyId) -> Result<&[u8], HashError> {
        let found = self.secrets.iter().find(|(id, _)| *id == key);
        found.map(|(_, secret)| secret.as_slice()).ok_or(HashError::UnknownKey(key))
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hasher").field("cost", &self.cost).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: HashCost = HashCost { memory_kib: 64, passes: 1, lanes: 1 };

    #[test]
    fn a_hash_is_of_one_password_under_one_pepper() {
        let pepper = Pepper::random();
        let (hasher, mut memory) = (Hasher::new(&pepper, CHEAP).unwrap(), Memory::new());
        let hash = hasher.hash(b"right", &mut memory).unwrap();
        assert!(hash.0.starts_with("$argon2id$v=19$m=64,t=1,p=1,keyid="));
        assert_eq!(hasher.verify(b"right", &hash, &mut memory), Ok(true));
        assert_eq!(hasher.verify(b"wrong", &hash, &mut memory), Ok(false));
        let stranger = Hasher::new(&Pepper::random(), CHEAP).unwrap();
        assert_eq!(stranger.verify(b"right", &hash, &mut memory), Ok(false), "another pepper");
        assert_ne!(hasher.hash(b"right", &mut memory).unwrap(), hash, "another salt");
    }

    #[test]
    fn a_raised_cost_asks_for_an_upgrade() {
        let pepper = Pepper::random();
        let (cheap, mut memory) = (Hasher::new(&pepper, CHEAP).unwrap(), Memory::new());
        let hash = cheap.hash(b"right", &mut memory).unwrap();
        assert!(!cheap.needs_upgrade(&hash));
        let raised = Hasher::new(&pepper, HashCost { passes: 2, ..CHEAP }).unwrap();
        assert!(raised.needs_upgrade(&hash));
        assert_eq!(raised.verify(b"right", &hash, &mut memory), Ok(true), "and it still works");
        assert!(cheap.needs_upgrade(&PasswordHash("{SSHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g0ZGZkZmFqc2Y=".to_owned())));
    }
}
