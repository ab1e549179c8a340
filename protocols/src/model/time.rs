//! The one notion of time below the network layer.

use std::ops::Add;
use std::time::Duration;

/// Milliseconds since the Unix epoch, given by the caller, never read from a clock here.
///
/// The broker derives it from a monotonic clock anchored to the wall clock at start, so it never
/// runs backwards within a process and deadlines stay meaningful across a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// No time: later than all.
    pub const NEVER: Self = Self(u64::MAX);

    /// The time, unless it is [`Timestamp::NEVER`].
    #[inline]
    pub fn known(self) -> Option<Self> {
        (self != Self::NEVER).then_some(self)
    }

    /// Time passed since `earlier`; zero if `earlier` lies ahead.
    #[inline]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// This moment plus whole seconds, saturating.
    #[inline]
    #[must_use]
    pub const fn plus_secs(self, secs: u32) -> Self {
        Self(self.0.saturating_add(secs as u64 * 1000))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    #[inline]
    fn add(self, span: Duration) -> Self {
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }
}
