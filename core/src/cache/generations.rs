//! A bounded map that forgets what is used least, roughly, for no memory a value: two generations,
//! the older of which is dropped whole when the younger is full. Whatever is used in time is moved
//! to the younger.

use std::hash::Hash;

use hashbrown::HashMap;

#[derive(Debug)]
pub(super) struct Generations<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    /// At most twice as many values are kept.
    half: usize,
}

impl<K: Eq + Hash + Copy, V> Generations<K, V> {
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), half: (capacity / 2).max(1) }
    }

    /// The value, and those that had to go for keeping it young.
    pub(super) fn get(&mut self, key: &K) -> (Option<&V>, Forgotten<K, V>) {
        let mut forgotten = Forgotten::default();
        if !self.young.contains_key(key)
            && let Some(value) = self.old.remove(key)
        {
            forgotten = self.insert(*key, value);
        }
        (self.young.get(key), forgotten)
    }

    /// Puts a value in, and answers those that had to go for it.
    pub(super) fn insert(&mut self, key: K, value: V) -> Forgotten<K, V> {
        let mut forgotten = Forgotten::default();
        if self.young.len() >= self.half {
            forgotten.generation = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
        }
        // A key is in one generation at a time: else a value could go without anybody's notice.
        forgotten.replaced = self.old.remove(&key);
        forgotten.replaced = self.young.insert(key, value).or(forgotten.replaced);
        forgotten
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let old = self.old.remove(key);
        self.young.remove(key).or(old)
    }

    /// Takes out what `goes` picks.
    pub(super) fn extract(&mut self, mut goes: impl FnMut(&V) -> bool) -> Vec<V> {
        let young = self.young.extract_if(|_, value| goes(value)).map(|(_, value)| value).collect::<Vec<_>>();
        young.into_iter().chain(self.old.extract_if(|_, value| goes(value)).map(|(_, value)| value)).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

/// Values that are no longer in the map.
#[derive(Debug)]
pub(super) struct Forgotten<K, V> {
    generation: HashMap<K, V>,
    replaced: Option<V>,
}

impl<K, V> Default for Forgotten<K, V> {
    fn default() -> Self {
        Self { generation: HashMap::new(), replaced: None }
    }
}

impl<K, V> Forgotten<K, V> {
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.generation.values().chain(&self.replaced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_rest_goes_in_bounds() {
        let mut map = Generations::with_capacity(100);
        let mut forgotten = 0;
        for key in 0..1_000_u32 {
            forgotten += map.insert(key, key).values().count();
            let (kept, gone) = map.get(&0);
            assert_eq!(kept, Some(&0), "used at every step");
            forgotten += gone.values().count();
            assert!(map.len() <= 100);
        }
        assert_eq!(map.len() + forgotten, 1_000, "each value is in the map or was answered as forgotten");
    }

    #[test]
    fn a_value_that_is_put_again_as_the_generations_turn_is_answered_as_replaced() {
        let mut map = Generations::with_capacity(4);
        map.insert(1, "first");
        map.insert(2, "other");
        // The younger generation is full, and holds 1.
        let gone = map.insert(1, "second");
        assert_eq!(gone.values().collect::<Vec<_>>(), [&"first"]);
        assert_eq!((map.len(), map.remove(&1), map.remove(&1)), (2, Some("second"), None));
    }

    #[test]
    fn a_removed_value_is_gone_from_both_generations() {
        let mut map = Generations::with_capacity(2);
        map.insert(1, "old");
        map.insert(2, "young");
        assert_eq!(map.remove(&1), Some("old"));
        assert_eq!(map.remove(&2), Some("young"));
        assert_eq!(map.len(), 0);
    }
}
