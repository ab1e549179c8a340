//! The broker's one clock.
//!
//! Everything below the network layer gets the time as an argument ([`Timestamp`]); this is where
//! it comes from. It is monotonic and anchored to the wall clock once, at start: a wall clock that
//! is set back or forth while the broker runs moves no deadline.

#[cfg(test)]
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use protocols::model::Timestamp;

/// A monotonic clock that counts from the Unix epoch.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
    epoch_ms: u64,
    /// The time of a clock that is set by hand.
    #[cfg(test)]
    pretended_ms: Option<&'static AtomicU64>,
}

impl Clock {
    /// A clock that is right now and stays monotonic.
    pub fn start() -> Self {
        let epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let epoch_ms = u64::try_from(epoch.as_millis()).unwrap_or(0);
        Self {
            started: Instant::now(),
            epoch_ms,
            #[cfg(test)]
            pretended_ms: None,
        }
    }

    /// A clock that stands still until [`Clock::advance`]; its copies show the same time.
    #[cfg(test)]
    pub(crate) fn pretended() -> Self {
        let clock = Self::start();
        Self {
            pretended_ms: Some(Box::leak(Box::new(AtomicU64::new(clock.epoch_ms)))),
            ..clock
        }
    }

    /// Lets time pass on a pretended clock.
    #[cfg(test)]
    pub(crate) fn advance(&self, span: std::time::Duration) {
        let pretended = self.pretended_ms.expect("a real clock cannot be advanced");
        let ms = u64::try_from(span.as_millis()).expect("a span of a test");
        pretended.fetch_add(ms, Ordering::SeqCst);
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        #[cfg(test)]
        if let Some(pretended) = self.pretended_ms {
            return Timestamp(pretended.load(Ordering::SeqCst));
        }
        let passed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Timestamp(self.epoch_ms.saturating_add(passed))
    }
}
