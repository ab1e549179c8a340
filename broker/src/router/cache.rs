//! Topic → route list, bounded.
//!
//! A hash table in shards, each behind a lock that a publish holds for a look-up only. What must
//! go is chosen by the clock algorithm: a list that was used since the hand last came by is
//! spared once, so a spray of new topics evicts itself and not the topics in use.
//! The cache knows nothing of the index: the [`Router`](super::Router) decides when a list may
//! be stored and when it must go. Lists that leave are handed to the caller, so that dropping
//! the last reference to a subscriber never happens under a lock.

use std::collections::BinaryHeap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use parking_lot::RwLock;
use smallvec::SmallVec;

use super::routes::Routes;

/// Parts of the cache; publishers of different topics seldom meet in one.
const SHARDS: usize = 64;

/// Bounds of the route cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    /// Topics with a cached route list, rounded up to a multiple of 64.
    pub topics: usize,
    /// Bytes of all cached lists and topic names. A list that alone takes more than half of it is
    /// not cached.
    pub bytes: usize,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self {
            topics: 16_384,
            bytes: 64 * 1024 * 1024,
        }
    }
}

/// Entries that left the cache, for the caller to drop when it holds no lock.
pub(super) type Retired<V> = SmallVec<[Slot<V>; 2]>;

/// Route lists by topic.
pub(super) struct RouteCache<V> {
    seed: RandomState,
    shards: Box<[Shard<V>]>,
    topics_per_shard: usize,
    max_bytes: usize,
    bytes: AtomicUsize,
    /// The shard that gives way next when there are too many bytes.
    hand: AtomicUsize,
    evictions: AtomicU64,
}

/// What the cache holds and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CacheStats {
    pub(super) topics: usize,
    pub(super) bytes: usize,
    pub(super) hits: u64,
    pub(super) evictions: u64,
}

/// One part of the topics, on cache lines of its own.
#[repr(align(128))]
struct Shard<V> {
    slots: RwLock<Slots<V>>,
    hits: AtomicU64,
}

struct Slots<V> {
    by_topic: HashTable<usize>,
    list: Vec<Slot<V>>,
    /// The slot that the clock looks at next.
    hand: usize,
}

/// A cached list.
pub(super) struct Slot<V> {
    hash: u64,
    routes: Arc<Routes<V>>,
    used: AtomicBool,
}

impl<V> RouteCache<V> {
    pub(super) fn new(limits: CacheLimits) -> Self {
        let shard = || Shard {
            slots: RwLock::new(Slots {
                by_topic: HashTable::new(),
                list: Vec::new(),
                hand: 0,
            }),
            hits: AtomicU64::new(0),
        };
        Self {
            seed: RandomState::default(),
            shards: std::iter::repeat_with(shard).take(SHARDS).collect(),
            topics_per_shard: limits.topics.div_ceil(SHARDS).max(1),
            max_bytes: limits.bytes,
            bytes: AtomicUsize::new(0),
            hand: AtomicUsize::new(0),
            evictions: AtomicU64::new(0),
        }
    }

    /// The topic's hash, for the other calls.
    #[inline]
    pub(super) fn hash(&self, topic: &str) -> u64 {
        self.seed.hash_one(topic)
    }

    /// The topic's list, if there is one that `is_current`. This is the hot path.
    #[inline]
    pub(super) fn lookup(
        &self,
        hash: u64,
        topic: &str,
        is_current: impl FnOnce(&Routes<V>) -> bool,
    ) -> Option<Arc<Routes<V>>> {
        let shard = self.shard(hash);
        let slots = shard.slots.read();
        let slot = &slots.list[slots.position(hash, topic)?];
        if !is_current(&slot.routes) {
            return None;
        }
        // Written only when it changes: the line stays shared between the readers.
        if !slot.used.load(Ordering::Relaxed) {
            slot.used.store(true, Ordering::Relaxed);
        }
        shard.hits.fetch_add(1, Ordering::Relaxed);
        Some(Arc::clone(&slot.routes))
    }

    /// The topic's list, current or not.
    pub(super) fn peek(&self, hash: u64, topic: &str) -> Option<Arc<Routes<V>>> {
        let slots = self.shard(hash).slots.read();
        let at = slots.position(hash, topic)?;
        Some(Arc::clone(&slots.list[at].routes))
    }

    /// Stores a list and returns what made place for it. A list too large to be stored is
    /// retired at once.
    pub(super) fn store(&self, hash: u64, routes: &Arc<Routes<V>>) -> Retired<V> {
        let topic = routes.topic();
        let slot = Slot {
            hash,
            routes: Arc::clone(routes),
            used: AtomicBool::new(false),
        };
        if slot.bytes() > self.max_bytes / 2 {
            routes.retire();
            return self.forget(hash, topic);
        }
        let mut retired = Retired::new();
        self.bytes.fetch_add(slot.bytes(), Ordering::Relaxed);
        let mut slots = self.shard(hash).slots.write();
        if let Some(at) = slots.position(hash, topic) {
            retired.push(slots.take(at));
        } else if slots.list.len() >= self.topics_per_shard {
            retired.extend(slots.evict());
            self.evictions.fetch_add(1, Ordering::Relaxed);
        }
        slots.push(slot);
        drop(slots);
        self.discount(&retired);
        self.make_room(&mut retired);
        retired
    }

    /// Takes the topic's list out.
    pub(super) fn forget(&self, hash: u64, topic: &str) -> Retired<V> {
        let mut retired = Retired::new();
        let mut slots = self.shard(hash).slots.write();
        if let Some(at) = slots.position(hash, topic) {
            retired.push(slots.take(at));
        }
        drop(slots);
        self.discount(&retired);
        retired
    }

    /// Takes all lists out that are not worth keeping.
    pub(super) fn sweep(&self, keep: impl Fn(&Routes<V>) -> bool) -> Retired<V> {
        let mut retired = Retired::new();
        for shard in &self.shards {
            let mut slots = shard.slots.write();
            let mut at = 0;
            while let Some(slot) = slots.list.get(at) {
                if keep(&slot.routes) {
                    at += 1;
                } else {
                    retired.push(slots.take(at));
                }
            }
        }
        self.discount(&retired);
        retired
    }

    /// At most `limit` of its topics behind `after`, in the order of their texts. One part is locked
    /// at a time.
    pub(super) fn topics(&self, after: &str, limit: usize) -> Vec<Box<str>> {
        let mut first: BinaryHeap<Box<str>> = BinaryHeap::new();
        for shard in &self.shards {
            let slots = shard.slots.read();
            for slot in &slots.list {
                let topic = slot.routes.topic();
                let has_room = first.len() < limit;
                let is_before = || first.peek().is_some_and(|last| topic < &**last);
                if topic > after && (has_room || is_before()) {
                    first.push(topic.into());
                    if !has_room {
                        first.pop();
                    }
                }
            }
        }
        first.into_sorted_vec()
    }

    /// What it holds and has done.
    pub(super) fn stats(&self) -> CacheStats {
        let mut stats = CacheStats {
            bytes: self.bytes.load(Ordering::Relaxed),
            evictions: self.evictions.load(Ordering::Relaxed),
            ..CacheStats::default()
        };
        for shard in &self.shards {
            stats.topics += shard.slots.read().list.len();
            stats.hits += shard.hits.load(Ordering::Relaxed);
        }
        stats
    }

    #[inline]
    fn shard(&self, hash: u64) -> &Shard<V> {
        // The table uses the lowest and the highest bits: these are others.
        let at = usize::from(hash.to_le_bytes()[4]) % self.shards.len();
        &self.shards[at]
    }

    fn discount(&self, retired: &[Slot<V>]) {
        let bytes = retired.iter().map(Slot::bytes).sum();
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Evicts from one shard after the other until the bytes fit.
    fn make_room(&self, retired: &mut Retired<V>) {
        while self.bytes.load(Ordering::Relaxed) > self.max_bytes {
            let at = self.hand.fetch_add(1, Ordering::Relaxed) % self.shards.len();
            if let Some(slot) = self.shards[at].slots.write().evict() {
                self.evictions.fetch_add(1, Ordering::Relaxed);
                self.discount(std::slice::from_ref(&slot));
                retired.push(slot);
            }
        }
    }
}

impl<V> Slots<V> {
    #[inline]
    fn position(&self, hash: u64, topic: &str) -> Option<usize> {
        let found = self.by_topic.find(hash, |&at| {
            let slot = &self.list[at];
            slot.hash == hash && slot.routes.topic() == topic
        });
        found.copied()
    }

    fn push(&mut self, slot: Slot<V>) {
        let at = self.list.len();
        let hash = slot.hash;
        self.list.push(slot);
        let list = &self.list;
        self.by_topic.insert_unique(hash, at, |&at| list[at].hash);
    }

    /// Takes a slot out, and moves the last one into its place.
    fn take(&mut self, at: usize) -> Slot<V> {
        let last = self.list.len() - 1;
        let moved = self.list[last].hash;
        let found = self
            .by_topic
            .find_entry(self.list[at].hash, |&found| found == at);
        if let Ok(entry) = found {
            entry.remove();
        }
        if let Some(found) = self.by_topic.find_mut(moved, |&found| found == last) {
            *found = at;
        }
        let slot = self.list.swap_remove(at);
        slot.routes.retire();
        slot
    }

    /// Takes the first slot out that was not used since the hand last came by.
    fn evict(&mut self) -> Option<Slot<V>> {
        // After one round all marks are gone, so the second finds one.
        for _ in 0..=self.list.len() {
            if self.hand >= self.list.len() {
                self.hand = 0;
            }
            let slot = self.list.get_mut(self.hand)?;
            if std::mem::take(slot.used.get_mut()) {
                self.hand += 1;
            } else {
                return Some(self.take(self.hand));
            }
        }
        None
    }
}

impl<V> Slot<V> {
    fn bytes(&self) -> usize {
        // A slot has two words in the table.
        size_of::<Self>() + 2 * size_of::<usize>() + self.routes.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(topic: &str, values: &[u32]) -> Arc<Routes<Vec<u32>>> {
        Arc::new(Routes::new(topic, values.to_vec(), 1, 0))
    }

    fn put(cache: &RouteCache<Vec<u32>>, list: &Arc<Routes<Vec<u32>>>) {
        drop(cache.store(cache.hash(list.topic()), list));
    }

    fn is_cached(cache: &RouteCache<Vec<u32>>, topic: &str) -> bool {
        cache.lookup(cache.hash(topic), topic, |_| true).is_some()
    }

    fn limits(topics: usize, bytes: usize) -> CacheLimits {
        CacheLimits { topics, bytes }
    }

    #[test]
    fn a_spray_of_topics_leaves_those_in_use() {
        let cache = RouteCache::new(limits(1024, 1 << 20));
        put(&cache, &routes("hot", &[1]));
        for n in 0..100_000 {
            put(&cache, &routes(&format!("spray/{n}"), &[]));
            // More often than once in a round of the smallest shard.
            if n % 16 == 0 {
                assert!(is_cached(&cache, "hot"), "after {n}");
            }
        }
        let stats = cache.stats();
        assert_eq!(stats.topics, 1024);
        assert!(stats.evictions >= 100_001 - 1024 && stats.bytes <= 1 << 20);
    }

    #[test]
    fn bytes_are_bounded_and_counted() {
        let cache = RouteCache::new(limits(1024, 16 * 1024));
        for n in 0..200 {
            put(&cache, &routes(&format!("topic/{n}"), &[0; 250]));
            let stats = cache.stats();
            assert!(stats.bytes <= 16 * 1024 && stats.topics > 0, "{stats:?}");
        }
        let retired = cache.sweep(|_| false);
        assert_eq!(
            retired.len(),
            retired
                .iter()
                .filter(|slot| slot.routes.is_retired())
                .count()
        );
        assert_eq!((cache.stats().topics, cache.stats().bytes), (0, 0));
    }

    #[test]
    fn a_list_that_is_too_large_is_not_kept_and_replaces_the_old_one() {
        let cache = RouteCache::new(limits(16, 4096));
        let (small, large) = (routes("a", &[1]), routes("a", &[1; 1000]));
        put(&cache, &small);
        assert!(is_cached(&cache, "a") && !small.is_retired());
        put(&cache, &large);
        assert!(!is_cached(&cache, "a") && small.is_retired() && large.is_retired());
    }

    #[test]
    fn what_leaves_is_retired() {
        let cache = RouteCache::new(limits(16, 4096));
        let (first, second) = (routes("a", &[1]), routes("a", &[2]));
        put(&cache, &first);
        put(&cache, &second);
        assert!(first.is_retired() && !second.is_retired());
        assert_eq!(cache.forget(cache.hash("a"), "a").len(), 1);
        assert!(second.is_retired() && !is_cached(&cache, "a"));
        assert_eq!(cache.forget(cache.hash("a"), "a").len(), 0);
    }
}
