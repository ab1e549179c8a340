//! A circuit breaker: leaves a target alone that fails again and again, and tries it with one call
//! from time to time.
//!
//! ```text
//!          failures in a row            time is over: one call may try
//!  closed ───────────────────▶ open ───────────────────────────────────▶ open for as long again
//!     ▲                                                                        │
//!     └───────────────────────────── a success, at any time ◀──────────────────┘
//! ```

use std::time::Duration;

use parking_lot::Mutex;
use protocols::model::Timestamp;

/// See the module.
#[derive(Debug)]
pub(super) struct Breaker {
    failures_max: usize,
    rest: Duration,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    failures: usize,
    /// Until when nobody calls, if it is open.
    until: Option<Timestamp>,
}

impl Breaker {
    /// A closed one, which opens for `rest` after so many failures in a row.
    pub(super) fn new(failures_max: usize, rest: Duration) -> Self {
        Self {
            failures_max,
            rest,
            state: Mutex::default(),
        }
    }

    /// Whether a call may be made now, or when it is worth asking again. Who is let through while
    /// it is open is the only one for that time.
    pub(super) fn enter(&self, now: Timestamp) -> Result<(), Timestamp> {
        let mut state = self.state.lock();
        match state.until {
            Some(until) if now < until => Err(until),
            Some(_) => {
                state.until = Some(now + self.rest);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// A call was answered.
    pub(super) fn succeeded(&self) {
        *self.state.lock() = State::default();
    }

    /// A call was not answered. `true` if that opened it.
    pub(super) fn failed(&self, now: Timestamp) -> bool {
        let mut state = self.state.lock();
        state.failures += 1;
        if state.failures < self.failures_max {
            return false;
        }
        let was_open = state.until.is_some();
        state.until = Some(now + self.rest);
        !was_open
    }

    /// Whether it is open.
    pub(super) fn is_open(&self) -> bool {
        self.state.lock().until.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_after_failures_in_a_row_and_lets_one_try() {
        let breaker = Breaker::new(2, Duration::from_secs(5));
        let at = |ms: u64| Timestamp(1_000_000 + ms);
        assert!(!breaker.failed(at(0)));
        breaker.succeeded();
        assert!(!breaker.failed(at(0)), "only those in a row count");
        assert!(breaker.failed(at(0)));
        assert_eq!(breaker.enter(at(1)), Err(at(5000)));
        assert_eq!(breaker.enter(at(5000)), Ok(()));
        assert_eq!(breaker.enter(at(5000)), Err(at(10_000)), "one tries");
        assert!(!breaker.failed(at(6000)), "it was open already");
        assert_eq!(breaker.enter(at(10_999)), Err(at(11_000)));
        assert_eq!(breaker.enter(at(11_000)), Ok(()));
        breaker.succeeded();
        assert!(!breaker.is_open());
        assert_eq!(breaker.enter(at(11_000)), Ok(()));
    }
}
