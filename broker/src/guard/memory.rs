//! The alarm of memory: what is held back before the system ends the process.
//!
//! [`Memory`] is told now and then how much is in use ([`Memory::observe`]); whoever takes something
//! in asks it. It knows neither clocks nor the system.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use protocols::connection::{Refusal, RefusalCode};

/// How long a client that publishes is not read from while memory is scarce, after each batch.
const PAUSE: Duration = Duration::from_secs(1);

/// What is in use must fall so far below a threshold, in percent of it, before the alarm is over.
const CLEAR_PERCENT: u64 = 95;

/// How scarce memory is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Scarcity {
    /// There is enough.
    #[default]
    None,
    /// Publishers are slowed down.
    High,
    /// Nobody is let in, and what has to be kept is refused.
    Critical,
}

/// From where on memory is scarce, in bytes; 0 for never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryBounds {
    /// Publishers are slowed down.
    pub high: u64,
    /// Nobody is let in.
    pub max: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Memory {
    scarcity: AtomicU8,
    /// Whether nobody looks until something comes in.
    rests: AtomicBool,
}

impl Memory {
    /// Nothing has to be looked at until something comes in.
    pub fn rest(&self) {
        self.rests.store(true, Ordering::Relaxed);
    }

    /// Whether that is so.
    pub fn rests(&self) -> bool {
        self.rests.load(Ordering::Relaxed)
    }

    /// Something has come in; `true` if whoever looks has to be woken.
    #[inline]
    pub fn stir(&self) -> bool {
        // Read first: usually somebody looks, and the cache line stays shared.
        self.rests() && self.rests.swap(false, Ordering::Relaxed)
    }

    /// How scarce memory is.
    #[inline]
    pub fn scarcity(&self) -> Scarcity {
        match self.scarcity.load(Ordering::Relaxed) {
            0 => Scarcity::None,
            1 => Scarcity::High,
            _ => Scarcity::Critical,
        }
    }

    /// So much is in use. Returns how scarce memory is, if that has changed.
    pub fn observe(&self, used: u64, bounds: MemoryBounds) -> Option<Scarcity> {
        let was = self.scarcity();
        let is = [
            (Scarcity::Critical, bounds.max),
            (Scarcity::High, bounds.high),
        ]
        .into_iter()
        .find(|(scarcity, bound)| {
            let cleared = if was >= *scarcity { CLEAR_PERCENT } else { 100 };
            *bound > 0 && used >= bound.saturating_mul(cleared) / 100
        })
        .map_or(Scarcity::None, |(scarcity, _)| scarcity);
        self.scarcity.store(is as u8, Ordering::Relaxed);
        (is != was).then_some(is)
    }

    /// How long one who has just published is not read from; `None` while there is enough.
    #[inline]
    pub fn pause(&self) -> Option<Duration> {
        (self.scarcity() != Scarcity::None).then_some(PAUSE)
    }

    /// Whether there is room for more to keep: another client, a message that may have to wait.
    #[inline]
    pub fn check(&self) -> Result<(), Refusal> {
        if self.scarcity() < Scarcity::Critical {
            return Ok(());
        }
        Err(Refusal::new(
            RefusalCode::Quota,
            "the broker is short of memory (limits.memory_max)",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_rests_is_woken_once() {
        let memory = Memory::default();
        assert!(!memory.stir(), "nobody rests");
        memory.rest();
        assert!(memory.stir());
        assert!(!memory.stir() && !memory.rests());
    }

    const BOUNDS: MemoryBounds = MemoryBounds {
        high: 700,
        max: 850,
    };

    #[test]
    fn the_alarm_rises_at_its_bounds_and_clears_below_them() {
        let memory = Memory::default();
        assert_eq!(memory.observe(699, BOUNDS), None);
        assert!(memory.pause().is_none());
        assert_eq!(memory.observe(700, BOUNDS), Some(Scarcity::High));
        assert!(memory.pause().is_some() && memory.check().is_ok());
        assert_eq!(memory.observe(850, BOUNDS), Some(Scarcity::Critical));
        assert_eq!(memory.check().unwrap_err().code, RefusalCode::Quota);
        assert_eq!(memory.observe(810, BOUNDS), None, "not far enough below");
        assert_eq!(memory.observe(806, BOUNDS), Some(Scarcity::High));
        assert_eq!(memory.observe(670, BOUNDS), None);
        assert_eq!(memory.observe(664, BOUNDS), Some(Scarcity::None));
        assert!(memory.pause().is_none());
    }

    #[test]
    fn without_bounds_there_is_no_alarm() {
        let memory = Memory::default();
        assert_eq!(memory.observe(u64::MAX, MemoryBounds::default()), None);
    }
}
