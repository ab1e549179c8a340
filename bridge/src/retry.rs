//! How long to wait before the next try.

use std::time::Duration;

/// Exponential back-off with full jitter: the n-th pause is anything up to `first * 2^n`, at most
/// `max`. The jitter keeps many that failed together from coming back together.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// Pauses between these.
    #[must_use]
    pub fn new(first: Duration, max: Duration) -> Self {
        let failures = 0;
        Self {
            first,
            max,
            failures,
        }
    }

    /// The next pause.
    pub fn pause(&mut self) -> Duration {
        self.next_with(fastrand::f64())
    }

    /// It went well: the next failure is a first one.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures since the last success.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// `chance` is from 0 to 1. A tenth of the bound is always waited, so that luck makes no
    /// busy loop.
    fn next_with(&mut self, chance: f64) -> Duration {
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        let bound = self.first.saturating_mul(factor).min(self.max);
        self.failures = self.failures.saturating_add(1);
        bound.mul_f64(0.1 + 0.9 * chance.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_bound_and_begins_again() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let pauses: Vec<_> = (0..6).map(|_| backoff.next_with(1.0).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000]);
        backoff.reset();
        assert_eq!(backoff.next_with(1.0), Duration::from_millis(100));
        assert_eq!(backoff.next_with(0.0), Duration::from_millis(20));
    }

    #[test]
    fn never_overflows() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(1));
        for _ in 0..100 {
            assert!(backoff.pause() <= Duration::from_mins(1));
        }
    }
}
