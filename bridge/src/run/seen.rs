//! Keys of events that were published: a source that delivers one again is answered at once.
//!
//! It saves work when a source could not be told in time; the promise that subscribers get an event
//! once is kept by the broker, which knows the key too and outlives the bridge.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
pub(super) use protocols::recent::Name as Key;
use protocols::recent::{Namer, Recent};

/// How long a key is remembered: as long as SQS and Polycast do by default. A key that comes later
/// may mean another event.
const REMEMBERED: Duration = Duration::from_mins(5);

/// A bounded memory of keys; the oldest goes first.
#[derive(Debug)]
pub(super) struct Seen {
    /// Since when each is known.
    keys: Mutex<Recent<Instant>>,
    namer: Namer,
    max: usize,
}

impl Seen {
    pub(super) fn new(max: usize) -> Self {
        Self {
            keys: Mutex::default(),
            namer: Namer::default(),
            max,
        }
    }

    /// What is remembered of a key.
    pub(super) fn key(&self, key: &str) -> Key {
        self.namer.name(key)
    }

    pub(super) fn contains(&self, key: Key, now: Instant) -> bool {
        let mut keys = self.keys.lock();
        self.forget(&mut keys, now);
        keys.get(&key).is_some()
    }

    pub(super) fn insert(&self, key: Key, now: Instant) {
        let mut keys = self.keys.lock();
        if keys.get(&key).is_none() {
            keys.push(key, now);
        }
        self.forget(&mut keys, now);
    }

    fn forget(&self, keys: &mut Recent<Instant>, now: Instant) {
        while let Some(since) = keys.oldest() {
            if keys.len() <= self.max && now.duration_since(*since) <= REMEMBERED {
                return;
            }
            keys.pop_oldest();
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
