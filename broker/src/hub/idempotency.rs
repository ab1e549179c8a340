//! Idempotency keys: the same publish twice is accepted once.

use protocols::model::Timestamp;
use protocols::recent::{Namer, Recent};

/// Remembers keys for a time, with the answer that was given.
#[derive(Debug)]
pub(super) struct Window {
    /// With the time at which each was given.
    answers: Recent<(u32, Timestamp)>,
    namer: Namer,
    max_keys: usize,
    max_age_ms: u64,
}

impl Window {
    /// A window of at most so many keys, each for so long. The oldest goes first.
    pub(super) fn new(max_keys: usize, max_age_ms: u64) -> Self {
        Self {
            answers: Recent::default(),
            namer: Namer::default(),
            max_keys,
            max_age_ms,
        }
    }

    /// Keys that are remembered.
    pub(super) fn len(&self) -> usize {
        self.answers.len()
    }

    /// The answer that was given for a key, if it is remembered.
    pub(super) fn answer(&mut self, key: &str, now: Timestamp) -> Option<u32> {
        self.forget(now);
        let known = self.answers.get(&self.namer.name(key));
        known.map(|(answer, _)| *answer)
    }

    /// Remembers an answer.
    pub(super) fn remember(&mut self, key: &str, answer: u32, now: Timestamp) {
        let name = self.namer.name(key);
        match self.answers.get_mut(&name) {
            Some((known, _)) => *known = answer,
            None => drop(self.answers.push(name, (answer, now))),
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
        while let Some((_, since)) = self.answers.oldest() {
            let old = now.0.saturating_sub(since.0) > self.max_age_ms;
            if !old && self.answers.len() <= self.max_keys {
                return;
            }
            self.answers.pop_oldest();
        }
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
