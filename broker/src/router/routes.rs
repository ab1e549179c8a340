//! Who wants a topic: the index behind its lock, and the cache in front of it.
//!
//! # Why a cached list is never out of date
//!
//! A list is computed and stored while the index is locked for reading, so no change comes
//! between the two. A change to an exact filter removes the list of its one topic before the lock
//! is released. A change to a wildcard filter advances a counter and is written to a short log: a
//! list that was last checked at another count is not served before the changes since have been
//! compared with its topic (those that do not match cost a comparison, not a new list), or, when
//! there are too many of them, before it is computed again. When the log is full, the lists that
//! were not checked since its beginning are dropped. So a wildcard change takes the same time
//! however many topics are cached.
//!
//! The price of a hit is a read lock of one of the cache's 64 parts and a look-up (about 20 ns); a
//! lock-free map was no faster on one thread, and cannot choose what to evict. A publisher that
//! stays with a topic avoids both by [`Router::is_current`].
//!
//! Lists are computed at the next publish, not at the change: a hundred thousand clients that
//! subscribe to one topic cost one new list for every publish between them, and none if there is
//! none.

use std::collections::VecDeque;
use std::hash::Hash;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::RwLock;
use protocols::model::{Filter, Topic};

use super::cache::{CacheLimits, Retired, RouteCache};
use super::index::{IndexStats, SubscriptionIndex, detached};

/// Wildcard changes that the log keeps.
const LOGGED: usize = 1024;

/// Changes that are compared with a topic rather than computing its list again, for a list of no
/// length; one more for every four subscribers.
const COMPARED: u64 = 32;

/// The subscribers of a topic at some moment, in the form that their user wants: `P` is made of
/// all values, each once for every matching filter (a subscriber with overlapping filters is there
/// several times, never if [`filters`](Self::filters) is 1). Derefs to `P`.
#[derive(Debug)]
pub struct Routes<P> {
    topic: Box<str>,
    plan: P,
    len: usize,
    bytes: usize,
    filters: usize,
    /// The count of wildcard changes that the list is known to have seen.
    checked: AtomicU64,
    /// Set when the cache no longer watches over it.
    retired: AtomicBool,
}

/// The subscription index with its route cache, for many threads.
///
/// After [`insert`](Self::insert) or [`remove`](Self::remove) has returned, every later
/// [`routes`](Self::routes) on any thread sees the change. Values are cloned into lists and may
/// outlive their removal there: until the topic's next publish, at most for the following 2048
/// wildcard changes, or until [`sweep`](Self::sweep). They are dropped without a lock, so a `Drop`
/// may call the router; they are cloned under one, so a `Clone` must not.
pub struct Router<K, V, P = Vec<V>> {
    index: RwLock<Index<K, V>>,
    wild_changes: AtomicU64,
    cache: RouteCache<P>,
    rebuilt: AtomicU64,
    rechecked: AtomicU64,
}

/// What a router holds and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouterStats {
    /// The index.
    pub index: IndexStats,
    /// Topics with a cached list.
    pub cached_topics: usize,
    /// Bytes of the cached lists and their topics.
    pub cached_bytes: usize,
    /// Look-ups that the cache answered.
    pub hits: u64,
    /// Lists kept after a comparison with the latest wildcard changes.
    pub rechecked: u64,
    /// Lists computed from the index.
    pub misses: u64,
    /// Lists that made place for others.
    pub evictions: u64,
}

struct Index<K, V> {
    subscriptions: SubscriptionIndex<K, V>,
    log: VecDeque<Filter>,
}

impl<K: Copy + Eq + Hash, V: Clone, P: FromIterator<V>> Router<K, V, P> {
    /// An empty router.
    pub fn new(limits: CacheLimits) -> Self {
        Self {
            index: RwLock::new(Index {
                subscriptions: SubscriptionIndex::new(),
                log: VecDeque::new(),
            }),
            wild_changes: AtomicU64::new(0),
            cache: RouteCache::new(limits),
            rebuilt: AtomicU64::new(0),
            rechecked: AtomicU64::new(0),
        }
    }

    /// Puts a subscription: `None` if it is new, else the value that it replaced.
    pub fn insert(&self, filter: &Filter, key: K, value: V) -> Option<V> {
        self.change(filter, |index| {
            let before = index.insert(filter, key, value);
            (before, true)
        })
    }

    /// Takes a subscription out: its value, or `None` if there was none.
    pub fn remove(&self, filter: &Filter, key: K) -> Option<V> {
        self.change(filter, |index| {
            let removed = index.remove(filter, key);
            let changed = removed.is_some();
            (removed, changed)
        })
    }

    /// The subscribers of the topic.
    #[inline]
    pub fn routes(&self, topic: &Topic) -> Arc<Routes<P>> {
        let hash = self.cache.hash(topic.as_str());
        self.cache
            .lookup(hash, topic.as_str(), |routes| self.is_current(routes))
            .unwrap_or_else(|| self.refresh(hash, topic))
    }

    /// The same, for a publisher that stays with a topic and has kept the last answer: two loads
    /// instead of a look-up, which the statistics do not count.
    #[inline]
    pub fn routes_again(&self, topic: &Topic, last: Option<Arc<Routes<P>>>) -> Arc<Routes<P>> {
        last.filter(|last| *last.topic == *topic.as_str() && self.is_current(last))
            .unwrap_or_else(|| self.routes(topic))
    }

    /// Whether [`routes`](Self::routes) would answer with this very list for its topic.
    #[inline]
    pub fn is_current(&self, routes: &Routes<P>) -> bool {
        !routes.is_retired()
            && routes.checked.load(Ordering::Acquire) == self.wild_changes.load(Ordering::Acquire)
    }

    /// Drops cached lists that a wildcard change may have outdated, and with them what they hold
    /// of subscribers that are gone. Worth calling after many clients left; never necessary.
    pub fn sweep(&self) {
        let index = self.index.read();
        let retired = self.cache.sweep(|routes| self.is_current(routes));
        drop(index);
        drop(retired);
    }

    /// At most `limit` topics behind `after` to which something was published lately, in the order
    /// of their texts.
    pub fn known_topics(&self, after: &str, limit: usize) -> Vec<Box<str>> {
        self.cache.topics(after, limit)
    }

    /// What it holds and has done.
    pub fn stats(&self) -> RouterStats {
        let cache = self.cache.stats();
        RouterStats {
            index: self.index.read().subscriptions.stats(),
            cached_topics: cache.topics,
            cached_bytes: cache.bytes,
            hits: cache.hits,
            rechecked: self.rechecked.load(Ordering::Relaxed),
            misses: self.rebuilt.load(Ordering::Relaxed),
            evictions: cache.evictions,
        }
    }

    /// Changes the index and invalidates what depends on the filter, as one step for everybody.
    fn change<T>(
        &self,
        filter: &Filter,
        apply: impl FnOnce(&mut SubscriptionIndex<K, V>) -> (T, bool),
    ) -> T {
        let mut index = self.index.write();
        let (result, changed) = apply(&mut index.subscriptions);
        let retired = match (changed, filter.is_wild()) {
            (false, _) => None,
            (true, false) => {
                let hash = self.cache.hash(filter.as_str());
                Some(self.cache.forget(hash, filter.as_str()))
            }
            (true, true) => self.log(&mut index, filter),
        };
        drop(index);
        // What the lists hold is dropped without a lock: it may well come back to the router.
        drop(retired);
        result
    }

    /// Writes a wildcard change to the log; when that is full, begins a new half of it and
    /// returns the lists that depended on the old one.
    fn log(&self, index: &mut Index<K, V>, filter: &Filter) -> Option<Retired<P>> {
        let mut retired = None;
        let latest = self.wild_changes.load(Ordering::Relaxed) + 1;
        if index.log.len() == LOGGED {
            index.log.drain(..LOGGED / 2);
            let first = latest - index.log.len() as u64 - 1;
            retired = Some(
                self.cache
                    .sweep(|routes| routes.checked.load(Ordering::Relaxed) >= first),
            );
        }
        index.log.push_back(detached(filter));
        self.wild_changes.store(latest, Ordering::Release);
        retired
    }

    /// The current list of a topic whose cached one is missing or has to be checked.
    #[cold]
    fn refresh(&self, hash: u64, topic: &Topic) -> Arc<Routes<P>> {
        let index = self.index.read();
        let latest = self.wild_changes.load(Ordering::Relaxed);
        let cached = self.cache.peek(hash, topic.as_str());
        if let Some(routes) = &cached
            && index.left_alone(routes, latest, topic)
        {
            self.rechecked.fetch_add(1, Ordering::Relaxed);
            routes.checked.store(latest, Ordering::Release);
            return Arc::clone(routes);
        }
        self.rebuilt.fetch_add(1, Ordering::Relaxed);
        let (routes, retired) = index.renew(&self.cache, hash, topic, latest);
        drop(index);
        drop((retired, cached));
        routes
    }
}

impl<K: Copy + Eq + Hash, V: Clone> Index<K, V> {
    /// Computes a list and stores it, with no change in between: who calls this has the index
    /// locked.
    fn renew<P: FromIterator<V>>(
        &self,
        cache: &RouteCache<P>,
        hash: u64,
        topic: &Topic,
        latest: u64,
    ) -> (Arc<Routes<P>>, Retired<P>) {
        let (mut list, mut filters) = (Vec::new(), 0);
        self.subscriptions.matching_filters(topic, |subscribers| {
            list.reserve(subscribers.len());
            list.extend(subscribers.values().cloned());
            filters += 1;
        });
        let routes = Arc::new(Routes::new(topic.as_str(), list, filters, latest));
        let retired = cache.store(hash, &routes);
        (routes, retired)
    }

    /// Whether it is known, at less cost than that of a new list, that no wildcard change since
    /// the list was checked concerns it.
    fn left_alone<P>(&self, routes: &Routes<P>, latest: u64, topic: &Topic) -> bool {
        let behind = latest - routes.checked.load(Ordering::Acquire);
        if behind > self.log.len() as u64 || behind > COMPARED + routes.len as u64 / 4 {
            return false;
        }
        let mut since = self
            .log
            .iter()
            .rev()
            .take(usize::try_from(behind).unwrap_or(0));
        !since.any(|filter| filter.matches(topic))
    }
}

impl<P> Routes<P> {
    pub(super) fn new<V>(topic: &str, list: Vec<V>, filters: usize, checked: u64) -> Self
    where
        P: FromIterator<V>,
    {
        let len = list.len();
        Self {
            topic: topic.into(),
            len,
            bytes: size_of::<Self>() + topic.len() + len * size_of::<V>(),
            plan: list.into_iter().collect(),
            filters,
            checked: AtomicU64::new(checked),
            retired: AtomicBool::new(false),
        }
    }

    /// Whose list it is.
    #[inline]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// How many filters contributed.
    #[inline]
    pub fn filters(&self) -> usize {
        self.filters
    }

    #[inline]
    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    /// Bytes that it holds in memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl<P> Deref for Routes<P> {
    type Target = P;

    #[inline]
    fn deref(&self) -> &P {
        &self.plan
    }
}

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;
