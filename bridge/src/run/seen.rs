//! Keys of events that were published: a source that delivers one again is answered at once.
//!
//! It saves work when a source could not be told in time; the promise that subscribers get an event
//! once is kept by the broker, which knows the key too and outlives the bridge.

use std::collections::{HashSet, VecDeque};
use std::hash::BuildHasher as _;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use parking_lot::Mutex;

/// How long a key is remembered: as long as SQS and Polycast do by default. A key that comes later
/// may mean another event.
const REMEMBERED: Duration = Duration::from_mins(5);

/// The hash of an idempotency key: two of 64 bits with secrets that nobody knows.
pub(super) type Key = (u64, u64);

/// A bounded memory of keys; the oldest goes first.
#[derive(Debug)]
pub(super) struct Seen {
    keys: Mutex<Keys>,
    hashers: (RandomState, RandomState),
    max: usize,
}

#[derive(Debug, Default)]
struct Keys {
    known: HashSet<Key, RandomState>,
    order: VecDeque<(Instant, Key)>,
}

impl Seen {
    pub(super) fn new(max: usize) -> Self {
        Self {
            keys: Mutex::default(),
            hashers: (RandomState::default(), RandomState::default()),
            max,
        }
    }

    /// What is remembered of a key.
    pub(super) fn key(&self, key: &str) -> Key {
        (self.hashers.0.hash_one(key), self.hashers.1.hash_one(key))
    }

    pub(super) fn contains(&self, key: Key, now: Instant) -> bool {
        let mut keys = self.keys.lock();
        keys.forget(self.max, now);
        keys.known.contains(&key)
    }

    pub(super) fn insert(&self, key: Key, now: Instant) {
        let mut keys = self.keys.lock();
        if keys.known.insert(key) {
            keys.order.push_back((now, key));
        }
        keys.forget(self.max, now);
    }
}

impl Keys {
    fn forget(&mut self, max: usize, now: Instant) {
        while let Some((since, _)) = self.order.front() {
            if self.order.len() <= max && now.duration_since(*since) <= REMEMBERED {
                return;
            }
            if let Some((_, key)) = self.order.pop_front() {
                self.known.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_so_many_for_so_long() {
        let now = Instant::now();
        let seen = Seen::new(2);
        let [a, b, c] = ["a", "b", "c"].map(|key| seen.key(key));
        for key in [a, b, b, c] {
            seen.insert(key, now);
        }
        assert!(!seen.contains(a, now));
        assert!(seen.contains(b, now) && seen.contains(c, now + REMEMBERED));
        assert!(!seen.contains(b, now + REMEMBERED + Duration::from_millis(1)));
        let none = Seen::new(0);
        none.insert(a, now);
        assert!(!none.contains(a, now));
    }
}
