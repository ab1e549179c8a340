//! Token buckets without timers: a bucket is one moment, the one at which it will be full.

use std::hash::Hash;
use std::time::Duration;

use hashbrown::HashMap;
use protocols::model::Timestamp;

/// So many a second in the long run, and so many at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// In the long run; 0 for no limit.
    pub per_sec: u64,
    /// At once; 0 for as many as a second allows.
    pub burst: u64,
}

impl Rate {
    /// Microseconds that `count` of them take.
    fn cost(self, count: u64) -> u64 {
        u64::try_from(u128::from(count) * 1_000_000 / u128::from(self.per_sec.max(1)))
            .unwrap_or(u64::MAX)
    }

    fn burst(self) -> u64 {
        if self.burst == 0 {
            self.per_sec
        } else {
            self.burst
        }
    }

    /// Whether there is a limit.
    pub fn is_limited(self) -> bool {
        self.per_sec > 0
    }
}

/// One bucket. New ones are full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// When it is full again, in microseconds.
    full_at: u64,
}

fn micros(now: Timestamp) -> u64 {
    now.0.saturating_mul(1000)
}

impl Bucket {
    /// Takes one; `false`, and nothing taken, if the bucket is empty.
    pub fn take(&mut self, rate: Rate, now: Timestamp) -> bool {
        if !rate.is_limited() {
            return true;
        }
        let now = micros(now);
        let after = self.full_at.max(now).saturating_add(rate.cost(1));
        let fits = after - now <= rate.cost(rate.burst());
        if fits {
            self.full_at = after;
        }
        fits
    }

    /// Takes as many as were used already, whether they are there or not, and says how long to
    /// wait until the debt is paid.
    pub fn spend(&mut self, rate: Rate, count: u64, now: Timestamp) -> Duration {
        if !rate.is_limited() {
            return Duration::ZERO;
        }
        let now = micros(now);
        self.full_at = self.full_at.max(now).saturating_add(rate.cost(count));
        let ahead = self.full_at - now;
        Duration::from_micros(ahead.saturating_sub(rate.cost(rate.burst())))
    }

    fn is_full(self, now: Timestamp) -> bool {
        self.full_at <= micros(now)
    }
}

/// Buckets by key, no more than a bound: full ones are as good as none.
#[derive(Debug)]
pub(super) struct Buckets<K> {
    buckets: HashMap<K, Bucket>,
    /// Not swept again before this many were added.
    until_sweep: usize,
}

impl<K> Default for Buckets<K> {
    fn default() -> Self {
        Self {
            buckets: HashMap::new(),
            until_sweep: 0,
        }
    }
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    /// Takes one from the bucket of a key.
    pub(super) fn take(&mut self, key: K, rate: Rate, max: usize, now: Timestamp) -> bool {
        if !rate.is_limited() {
            return true;
        }
        if !self.buckets.contains_key(&key) {
            self.make_room(max, now);
        }
        self.buckets.entry(key).or_default().take(rate, now)
    }

    fn make_room(&mut self, max: usize, now: Timestamp) {
        if self.buckets.len() < max {
            return;
        }
        if self.until_sweep == 0 {
            self.buckets.retain(|_, bucket| !bucket.is_full(now));
            // A sweep that frees nothing is not tried for each newcomer.
            self.until_sweep = max / 16 + 1;
        }
        self.until_sweep -= 1;
        if self.buckets.len() >= max {
            // Anyone: the table is bounded whoever comes, and the map's order is random.
            let any = self.buckets.keys().next().cloned();
            any.and_then(|any| self.buckets.remove(&any));
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.buckets.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        per_sec: 10,
        burst: 3,
    };

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut bucket = Bucket::default();
        let now = Timestamp(1_000_000);
        assert_eq!(
            [(); 4].map(|()| bucket.take(RATE, now)),
            [true, true, true, false]
        );
        assert!(!bucket.take(RATE, Timestamp(now.0 + 99)));
        assert!(bucket.take(RATE, Timestamp(now.0 + 100)));
        assert!(!bucket.take(RATE, Timestamp(now.0 + 100)));
        assert!(bucket.is_full(Timestamp(now.0 + 400)));
    }

    #[test]
    fn what_was_spent_is_a_debt() {
        let mut bucket = Bucket::default();
        let now = Timestamp(5000);
        assert_eq!(bucket.spend(RATE, 3, now), Duration::ZERO);
        assert_eq!(bucket.spend(RATE, 5, now), Duration::from_millis(500));
        let later = Timestamp(now.0 + 500);
        assert_eq!(bucket.spend(RATE, 0, later), Duration::ZERO);
        let unlimited = Rate::default();
        assert_eq!(bucket.spend(unlimited, u64::MAX, later), Duration::ZERO);
        // Absurd numbers neither overflow nor wrap.
        assert!(bucket.spend(RATE, u64::MAX, later) > Duration::from_hours(1));
    }

    #[test]
    fn a_burst_of_zero_is_a_second_of_them() {
        let rate = Rate {
            per_sec: 2,
            burst: 0,
        };
        let mut bucket = Bucket::default();
        let now = Timestamp(0);
        assert_eq!(
            [(); 3].map(|()| bucket.take(rate, now)),
            [true, true, false]
        );
    }

    #[test]
    fn the_table_is_bounded() {
        let mut buckets = Buckets::default();
        for key in 0..1000u32 {
            assert!(buckets.take(key, RATE, 16, Timestamp(1)));
            assert!(buckets.len() <= 16);
        }
        // Those that were quiet are forgotten first.
        assert!(buckets.take(5000, RATE, 16, Timestamp(100_000)));
        assert!(buckets.len() <= 16);
    }
}
