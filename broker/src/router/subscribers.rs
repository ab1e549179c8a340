//! The subscribers of one filter.
//!
//! Nearly all filters have one subscriber, a few have a million that come and go: a short list
//! is searched, a long one gets a table of positions beside it, so that insert and remove take
//! constant time at any size. The order is that of insertion until the first removal, which
//! moves the last one into the gap.

use std::hash::{BuildHasher, Hash};

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use smallvec::SmallVec;

/// Longest list that is searched from end to end.
const SEARCHED: usize = 16;

/// Capacity below which memory is not given back.
const KEPT: usize = 64;

/// Values by subscriber key, for one filter.
pub(super) struct Subscribers<K, V> {
    list: SmallVec<[(K, V); 1]>,
    /// Position in `list` by key; kept while the list is longer than [`SEARCHED`].
    positions: Option<Box<HashTable<usize>>>,
}

impl<K, V> Default for Subscribers<K, V> {
    fn default() -> Self {
        Self {
            list: SmallVec::new(),
            positions: None,
        }
    }
}

impl<K: Copy + Eq + Hash, V> Subscribers<K, V> {
    /// Puts a value, and returns the one that the key had before.
    pub(super) fn insert(&mut self, seed: &RandomState, key: K, value: V) -> Option<V> {
        if let Some(at) = self.position(seed, key) {
            return Some(std::mem::replace(&mut self.list[at].1, value));
        }
        let at = self.list.len();
        self.list.push((key, value));
        let list = &self.list;
        match &mut self.positions {
            Some(positions) => {
                positions.insert_unique(seed.hash_one(key), at, |&at| seed.hash_one(list[at].0));
            }
            None if at >= SEARCHED => self.index_positions(seed),
            None => {}
        }
        None
    }

    /// Takes the key's value out.
    pub(super) fn remove(&mut self, seed: &RandomState, key: K) -> Option<V> {
        let at = self.position(seed, key)?;
        let last = self.list.len() - 1;
        let moved = self.list[last].0;
        if let Some(positions) = &mut self.positions {
            if let Ok(entry) = positions.find_entry(seed.hash_one(key), |&found| found == at) {
                entry.remove();
            }
            if let Some(found) = positions.find_mut(seed.hash_one(moved), |&found| found == last) {
                *found = at;
            }
        }
        let (_, value) = self.list.swap_remove(at);
        self.shrink(seed);
        Some(value)
    }

    /// Whether nobody is left.
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// The values.
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.list.iter().map(|(_, value)| value)
    }

    fn position(&self, seed: &RandomState, key: K) -> Option<usize> {
        match &self.positions {
            Some(positions) => positions
                .find(seed.hash_one(key), |&at| self.list[at].0 == key)
                .copied(),
            None => self.list.iter().position(|(known, _)| *known == key),
        }
    }

    fn index_positions(&mut self, seed: &RandomState) {
        let hash_at = |&at: &usize| seed.hash_one(self.list[at].0);
        let mut positions = HashTable::with_capacity(self.list.len());
        for at in 0..self.list.len() {
            positions.insert_unique(hash_at(&at), at, hash_at);
        }
        self.positions = Some(Box::new(positions));
    }

    /// Gives memory back once three quarters are unused, which keeps the cost of a removal
    /// constant on average.
    fn shrink(&mut self, seed: &RandomState) {
        if self.list.len() <= SEARCHED / 2 {
            self.positions = None;
        }
        if self.list.capacity() > KEPT && self.list.len() < self.list.capacity() / 4 {
            self.list.shrink_to_fit();
            let list = &self.list;
            if let Some(positions) = &mut self.positions {
                positions.shrink_to(list.len() * 2, |&at| seed.hash_one(list[at].0));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_map(steps in prop::collection::vec((any::<bool>(), 0_u16..60), 0..400)) {
            let seed = RandomState::default();
            let (mut real, mut model) = (Subscribers::default(), BTreeMap::new());
            for (step, (insert, key)) in steps.into_iter().enumerate() {
                if insert {
                    prop_assert_eq!(real.insert(&seed, key, step), model.insert(key, step));
                } else {
                    prop_assert_eq!(real.remove(&seed, key), model.remove(&key));
                }
                prop_assert_eq!(real.len(), model.len());
            }
            let mut values: Vec<_> = real.values().copied().collect();
            let mut expected: Vec<_> = model.values().copied().collect();
            values.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(values, expected);
        }
    }

    #[test]
    fn gives_memory_back() {
        let seed = RandomState::default();
        let mut subscribers = Subscribers::default();
        for key in 0..10_000_u32 {
            subscribers.insert(&seed, key, ());
        }
        assert!(subscribers.positions.is_some());
        for key in 0..9_999_u32 {
            assert_eq!(subscribers.remove(&seed, key), Some(()));
        }
        assert!(subscribers.positions.is_none());
        assert!(subscribers.list.capacity() <= KEPT);
        assert_eq!(subscribers.remove(&seed, 9_999), Some(()));
        assert!(subscribers.is_empty());
    }
}
