//! The keys of the streams that are connected. Apart from the roster's lock, because
//! every login that is to be cached asks.

use std::sync::{PoisonError, RwLock};

use hashbrown::HashSet;

use super::messages::StreamKey;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct StreamKeys(RwLock<HashSet<StreamKey>>);

impl StreamKeys {
    pub(super) fn contains(&self, key: StreamKey) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(&key)
    }

    pub(super) fn insert(&self, key: StreamKey) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(key);
    }

    pub(super) fn remove(&self, key: StreamKey) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }
}
