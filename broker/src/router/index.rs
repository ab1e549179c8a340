//! Filter → subscribers, and for a topic the subscribers of every filter that matches.
//!
//! Three tables, by what a filter needs: exact filters in a hash map, wildcard filters in a hash
//! table by [shape](super::shapes), the rest in a [trie](super::trie). No locks here: the
//! [`Router`](super::Router) puts one around it, and a cache in front.

use std::hash::Hash;

use bytestring::ByteString;
use foldhash::quality::RandomState;
use hashbrown::HashMap;
use protocols::model::{Filter, Topic};

use super::shapes::{Shape, ShapeTable};
use super::subscribers::Subscribers;
use super::trie::EdgeTrie;

/// Capacity below which memory is not given back.
const KEPT: usize = 1024;

/// Subscriptions by filter.
///
/// `K` names a subscription; the same filter and key again replaces the value. `V` is what a
/// route list needs to know of it.
pub struct SubscriptionIndex<K, V> {
    /// Random for each index, so that nobody can choose topics or filters that collide.
    seed: RandomState,
    exact: HashMap<Box<str>, Subscribers<K, V>, RandomState>,
    shapes: ShapeTable<K, V>,
    trie: EdgeTrie<K, V>,
    subscriptions: usize,
}

/// What an index holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexStats {
    /// Subscriptions: pairs of filter and key.
    pub subscriptions: usize,
    /// Different filters without wildcards.
    pub exact_filters: usize,
    /// Different filters with wildcards that are found by shape.
    pub shaped_filters: usize,
    /// Shapes in use, at most 256.
    pub shapes: usize,
    /// Different filters that overflowed into the trie; many of them make a publish slower.
    pub trie_filters: usize,
}

impl<K: Copy + Eq + Hash, V> SubscriptionIndex<K, V> {
    /// An empty index with a random seed.
    pub fn new() -> Self {
        Self {
            seed: RandomState::default(),
            exact: HashMap::default(),
            shapes: ShapeTable::default(),
            trie: EdgeTrie::new(),
            subscriptions: 0,
        }
    }

    /// Puts a subscription: `None` if it is new, else the value that it had before.
    pub fn insert(&mut self, filter: &Filter, key: K, value: V) -> Option<V> {
        let seed = &self.seed;
        let before = if filter.is_wild() {
            match Shape::of(filter) {
                // One that overflowed when there were more shapes stays where it is.
                Some(shape) if self.shapes.admits(shape) && !self.trie.contains(seed, filter) => {
                    self.shapes.insert(seed, (filter, shape), key, value)
                }
                _ => self.trie.insert(seed, filter, key, value),
            }
        } else {
            let subscribers = self.exact.entry_ref(filter.as_str()).or_default();
            subscribers.insert(seed, key, value)
        };
        self.subscriptions += usize::from(before.is_none());
        before
    }

    /// Takes a subscription out: its value, or `None` if there was none.
    pub fn remove(&mut self, filter: &Filter, key: K) -> Option<V> {
        let removed = if filter.is_wild() {
            let shaped = Shape::of(filter)
                .and_then(|shape| self.shapes.remove(&self.seed, (filter, shape), key));
            shaped.or_else(|| self.trie.remove(&self.seed, filter, key))
        } else {
            self.remove_exact(filter, key)
        };
        self.subscriptions -= usize::from(removed.is_some());
        removed
    }

    /// Visits the value of every subscription whose filter matches, one filter after the other.
    ///
    /// Costs one probe per shape in use, however many filters there are, and allocates nothing
    /// for topics of up to 64 levels.
    pub fn matches(&self, topic: &Topic, mut visit: impl FnMut(&V)) {
        self.matching_filters(topic, |subscribers| {
            subscribers.values().for_each(&mut visit);
        });
    }

    /// What it holds.
    pub fn stats(&self) -> IndexStats {
        IndexStats {
            subscriptions: self.subscriptions,
            exact_filters: self.exact.len(),
            shaped_filters: self.shapes.len(),
            shapes: self.shapes.shapes(),
            trie_filters: self.trie.len(),
        }
    }

    /// Visits the subscribers of each filter that matches, one filter at a time.
    pub(super) fn matching_filters(
        &self,
        topic: &Topic,
        mut visit: impl FnMut(&Subscribers<K, V>),
    ) {
        if let Some(subscribers) = self.exact.get(topic.as_str()) {
            visit(subscribers);
        }
        self.shapes.matches(&self.seed, topic, &mut visit);
        self.trie.matches(&self.seed, topic, &mut visit);
    }

    fn remove_exact(&mut self, filter: &Filter, key: K) -> Option<V> {
        let subscribers = self.exact.get_mut(filter.as_str())?;
        let removed = subscribers.remove(&self.seed, key);
        if subscribers.is_empty() {
            self.exact.remove(filter.as_str());
            if self.exact.capacity() > KEPT && self.exact.len() < self.exact.capacity() / 8 {
                self.exact.shrink_to(self.exact.len() * 2);
            }
        }
        removed
    }
}

impl<K: Copy + Eq + Hash, V> Default for SubscriptionIndex<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

/// The same filter in memory of its own: a client's filter shares the bytes of the packet that
/// it came in, which would all be kept with it.
pub(super) fn detached(filter: &Filter) -> Filter {
    let text = ByteString::from(filter.as_str());
    Filter::parse(text, usize::MAX, usize::MAX).unwrap_or_else(|_| filter.clone())
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
