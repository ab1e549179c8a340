//! Time in nanoseconds since the program began: cheap to store for each message.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

static START: OnceLock<Instant> = OnceLock::new();

/// Nanoseconds since the first call.
#[inline]
pub fn now() -> u64 {
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// A duration in nanoseconds.
pub fn nanos(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

/// Nanoseconds as seconds.
pub fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}
