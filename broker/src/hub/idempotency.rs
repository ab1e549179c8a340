//! Idempotency keys: the same publish twice is accepted once.

use std::collections::VecDeque;
use std::hash::BuildHasher as _;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use protocols::model::Timestamp;

/// The hash of a key: two of 64 bits with secrets that nobody knows, as the store has them. A key
/// itself would hold on to the packet that it came in.
type Name = (u64, u64);

/// Remembers keys for a time, with the answer that was given.
#[derive(Debug)]
pub(super) struct Window {
    answers: HashMap<Name, u32, RandomState>,
    order: VecDeque<(Timestamp, Name)>,
    hashers: (RandomState, RandomState),
    max_keys: usize,
    max_age_ms: u64,
}

impl Window {
    /// A window of at most so many keys, each for so long. The oldest goes first.
    pub(super) fn new(max_keys: usize, max_age_ms: u64) -> Self {
        Self {
            answers: HashMap::default(),
            order: VecDeque::new(),
            hashers: (RandomState::default(), RandomState::default()),
            max_keys,
            max_age_ms,
        }
    }

    /// Keys that are remembered.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// The answer that was given for a key, if it is remembered.
    pub(super) fn answer(&mut self, key: &str, now: Timestamp) -> Option<u32> {
        self.forget(now);
        self.answers.get(&self.name(key)).copied()
    }

    /// Remembers an answer.
    pub(super) fn remember(&mut self, key: &str, answer: u32, now: Timestamp) {
        let name = self.name(key);
        if self.answers.insert(name, answer).is_none() {
            self.order.push_back((now, name));
        }
        self.forget(now);
    }

    /// Remembers an answer that was stored, until a time; the one that ends first comes first.
    pub(super) fn restore(&mut self, key: &str, answer: u32, until: Timestamp) {
        let since = Timestamp(until.0.saturating_sub(self.max_age_ms));
        self.remember(key, answer, since);
    }

    /// Until when a key is remembered that comes now.
    pub(super) fn until(&self, now: Timestamp) -> Timestamp {
        Timestamp(now.0.saturating_add(self.max_age_ms))
    }

    fn forget(&mut self, now: Timestamp) {
        while let Some((since, _)) = self.order.front() {
            let old = now.0.saturating_sub(since.0) > self.max_age_ms;
            if !old && self.order.len() <= self.max_keys {
                return;
            }
            if let Some((_, name)) = self.order.pop_front() {
                self.answers.remove(&name);
            }
        }
    }

    fn name(&self, key: &str) -> Name {
        (self.hashers.0.hash_one(key), self.hashers.1.hash_one(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_for_a_time_and_a_number() {
        let mut window = Window::new(2, 1000);
        window.remember("a", 1, Timestamp(0));
        assert_eq!(window.answer("a", Timestamp(1000)), Some(1));
        assert_eq!(window.answer("a", Timestamp(1001)), None);
        for (key, answer) in [("b", 2), ("c", 3), ("d", 4)] {
            window.remember(key, answer, Timestamp(2000));
        }
        assert_eq!(window.answer("b", Timestamp(2000)), None);
        assert_eq!(window.answer("d", Timestamp(2000)), Some(4));
    }
}
