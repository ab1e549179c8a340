//! How often something happened within a time.

use std::hash::Hash;

use hashbrown::HashMap;
use protocols::model::Timestamp;

use super::Threshold;

/// Counts by key in a window that begins with the first event.
#[derive(Debug)]
pub(super) struct Watch<K> {
    seen: HashMap<K, Seen>,
    until_sweep: usize,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    since: Timestamp,
    count: u32,
}

impl<K> Default for Watch<K> {
    fn default() -> Self {
        Self {
            seen: HashMap::new(),
            until_sweep: 0,
        }
    }
}

impl<K: Hash + Eq + Clone> Watch<K> {
    /// Counts an event; `true` if it is the one that comes to the threshold. Then it counts anew.
    pub(super) fn count(
        &mut self,
        key: &K,
        threshold: Threshold,
        max: usize,
        now: Timestamp,
    ) -> bool {
        if threshold.count == 0 {
            return false;
        }
        if !self.seen.contains_key(key) {
            self.make_room(threshold, max, now);
        }
        let fresh = Seen {
            since: now,
            count: 0,
        };
        let seen = self.seen.entry(key.clone()).or_insert(fresh);
        if seen.since + threshold.window <= now {
            *seen = fresh;
        }
        seen.count += 1;
        let reached = seen.count >= threshold.count;
        if reached {
            self.seen.remove(key);
        }
        reached
    }

    fn make_room(&mut self, threshold: Threshold, max: usize, now: Timestamp) {
        if self.seen.len() < max {
            return;
        }
        if self.until_sweep == 0 {
            self.seen
                .retain(|_, seen| now < seen.since + threshold.window);
            // A sweep that frees nothing is not tried for each newcomer.
            self.until_sweep = max / 16 + 1;
        }
        self.until_sweep -= 1;
        if self.seen.len() >= max {
            let any = self.seen.keys().next().cloned();
            any.and_then(|any| self.seen.remove(&any));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const THREE: Threshold = Threshold {
        count: 3,
        window: Duration::from_secs(10),
        ban: Duration::from_mins(1),
    };

    #[test]
    fn the_third_within_the_window_counts() {
        let mut watch = Watch::default();
        let mut count = |key: &'static str, at| watch.count(&key, THREE, 100, Timestamp(at));
        assert!(!count("a", 0));
        assert!(!count("a", 5000));
        assert!(!count("b", 9000));
        assert!(count("a", 9999));
        assert!(!count("a", 9999), "then anew");
        assert!(!count("b", 19_000), "the window of the first is over");
        assert!(!count("b", 19_001));
        assert!(count("b", 19_002));
    }

    #[test]
    fn the_table_is_bounded() {
        let mut watch = Watch::default();
        for key in 0..1000u32 {
            watch.count(&key, THREE, 16, Timestamp(1));
            assert!(watch.seen.len() <= 16);
        }
    }
}
