//! The deadlines of all connections.
//!
//! An idle connection has no timer of its own: it leaves its waker here, under the tick of its
//! deadline, and is woken when that has come. Activity touches nothing here: a connection that is
//! woken looks at its own deadline, and if that has moved, comes back. One task meets the deadlines
//! ([`Timers::turn`]) and sleeps until the first of them ([`Timers::until_due`]), so that a broker
//! with nothing to do is not woken at all.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::task::Waker;
use std::time::Duration;

use parking_lot::Mutex;
use protocols::model::Timestamp;
use tokio::sync::Notify;

/// Deadlines are met within so many milliseconds: those of one tick are met together.
const TICK_MS: u64 = 100;

/// Names an armed timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerId {
    tick: u32,
    key: NonZeroU32,
}

/// See the module.
#[derive(Debug)]
pub struct Timers {
    ticks: Mutex<Ticks>,
    /// Ticks are counted from this one, so that they are small: each connection holds one. They last
    /// for 13 years.
    start: u64,
    /// Told when the first deadline is now an earlier one.
    earlier: Notify,
}

#[derive(Debug)]
struct Ticks {
    /// By the tick at which they are due; none is empty.
    armed: BTreeMap<u32, Vec<Armed>>,
    /// The tick up to which all was fired.
    turned: u32,
    /// Need be unique within a tick only, so that it may go round.
    next_key: NonZeroU32,
}

#[derive(Debug)]
struct Armed {
    key: NonZeroU32,
    waker: Waker,
}

impl Timers {
    /// No deadlines yet; all before `now` have passed.
    pub fn new(now: Timestamp) -> Self {
        Self {
            ticks: Mutex::new(Ticks {
                armed: BTreeMap::new(),
                turned: 0,
                next_key: NonZeroU32::MIN,
            }),
            start: now.0 / TICK_MS,
            earlier: Notify::new(),
        }
    }

    /// Wakes the waker once `at` has come.
    pub fn arm(&self, at: Timestamp, waker: &Waker) -> TimerId {
        let mut ticks = self.ticks.lock();
        let tick = self.tick_after(at).max(ticks.turned.saturating_add(1));
        let key = ticks.next_key;
        ticks.next_key = key.checked_add(1).unwrap_or(NonZeroU32::MIN);
        let is_first = ticks.armed.keys().next().is_none_or(|first| tick < *first);
        ticks.armed.entry(tick).or_default().push(Armed {
            key,
            waker: waker.clone(),
        });
        drop(ticks);
        if is_first {
            self.earlier.notify_one();
        }
        TimerId { tick, key }
    }

    /// Whether a timer fires no later than one that would be armed for `at`.
    pub fn is_in_time(&self, id: TimerId, at: Timestamp) -> bool {
        id.tick <= self.tick_after(at)
    }

    /// Whether a timer's time has come.
    pub fn is_due(&self, id: TimerId, now: Timestamp) -> bool {
        id.tick <= self.tick(now)
    }

    /// Forgets a timer that is no longer wanted. Does nothing if it has fired.
    pub fn disarm(&self, id: TimerId) {
        let mut ticks = self.ticks.lock();
        let Some(armed) = ticks.armed.get_mut(&id.tick) else {
            return;
        };
        if let Some(at) = armed.iter().position(|armed| armed.key == id.key) {
            armed.swap_remove(at);
        }
        if armed.is_empty() {
            ticks.armed.remove(&id.tick);
        } else if armed.capacity() > 64 && armed.len() < armed.capacity() / 4 {
            armed.shrink_to(armed.len() * 2);
        }
    }

    /// Wakes all whose time has come.
    pub fn turn(&self, now: Timestamp) {
        let due = {
            let mut ticks = self.ticks.lock();
            let turned = ticks.turned.max(self.tick(now));
            ticks.turned = turned;
            let later = ticks.armed.split_off(&turned.saturating_add(1));
            std::mem::replace(&mut ticks.armed, later)
        };
        for armed in due.into_values().flatten() {
            armed.waker.wake();
        }
    }

    /// How long it is from `now` until [`Timers::turn`] has something to do; `None` if nothing is
    /// armed.
    pub fn until_due(&self, now: Timestamp) -> Option<Duration> {
        let first = *self.ticks.lock().armed.keys().next()?;
        Some(Duration::from_millis(
            ((self.start + u64::from(first)) * TICK_MS).saturating_sub(now.0),
        ))
    }

    /// Waits until a deadline was armed that is before all others, since this was last awaited.
    pub async fn earlier(&self) {
        self.earlier.notified().await;
    }

    /// Timers that are armed.
    pub fn len(&self) -> usize {
        self.ticks.lock().armed.values().map(Vec::len).sum()
    }

    /// Whether none is armed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn tick(&self, at: Timestamp) -> u32 {
        let tick = (at.0 / TICK_MS).saturating_sub(self.start);
        u32::try_from(tick).unwrap_or(u32::MAX)
    }

    /// Rounded up, so that a connection woken by it finds its deadline passed.
    fn tick_after(&self, at: Timestamp) -> u32 {
        self.tick(at).saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn counter() -> (Arc<Count>, Waker) {
        let count = Arc::new(Count::default());
        (Arc::clone(&count), Waker::from(count))
    }

    #[test]
    fn fires_once_and_not_early() {
        let timers = Timers::new(Timestamp(1000));
        let (count, waker) = counter();
        timers.arm(Timestamp(1550), &waker);
        timers.turn(Timestamp(1550));
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
        timers.turn(Timestamp(1650));
        timers.turn(Timestamp(999_999_999));
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert!(timers.is_empty());
    }

    #[test]
    fn waits_for_a_distant_deadline() {
        let timers = Timers::new(Timestamp(0));
        let (count, waker) = counter();
        let at = Timestamp(204_850);
        timers.arm(at, &waker);
        timers.turn(Timestamp(at.0 - 200));
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
        timers.turn(Timestamp(at.0 + 200));
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_timer_knows_whether_it_is_due_and_early_enough() {
        let timers = Timers::new(Timestamp(1_234_567));
        let (_, waker) = counter();
        let id = timers.arm(Timestamp(1_240_000), &waker);
        assert!(!timers.is_due(id, Timestamp(1_240_000)));
        assert!(timers.is_due(id, Timestamp(1_240_100)));
        assert!(timers.is_in_time(id, Timestamp(1_240_050)));
        assert!(!timers.is_in_time(id, Timestamp(1_239_900)));
        let far = timers.arm(Timestamp(u64::MAX - 1), &waker);
        assert!(
            !timers.is_due(far, Timestamp(400_000_000_000)),
            "in 12 years"
        );
    }

    #[test]
    fn what_is_disarmed_stays_silent() {
        let timers = Timers::new(Timestamp(0));
        let (count, waker) = counter();
        let id = timers.arm(Timestamp(500), &waker);
        timers.disarm(id);
        timers.turn(Timestamp(10_000));
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_deadline_that_has_passed_fires_at_the_next_turn() {
        let timers = Timers::new(Timestamp(5000));
        let (count, waker) = counter();
        timers.arm(Timestamp(100), &waker);
        timers.turn(Timestamp(5100));
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn says_when_it_has_something_to_do() {
        let timers = Timers::new(Timestamp(1000));
        let (_, waker) = counter();
        let until = |now| {
            timers
                .until_due(Timestamp(now))
                .map(|span| span.as_millis())
        };
        assert_eq!(until(1000), None, "nothing is armed: nobody need be woken");
        let late = timers.arm(Timestamp(60_000), &waker);
        assert_eq!(until(1000), Some(59_100));
        let early = timers.arm(Timestamp(2040), &waker);
        timers.arm(Timestamp(2010), &waker);
        assert_eq!(
            until(1000),
            Some(1100),
            "deadlines of one tick are met together"
        );
        assert_eq!(until(5000), Some(0));
        timers.turn(Timestamp(2100));
        timers.disarm(early);
        assert_eq!(until(2100), Some(58_000));
        timers.disarm(late);
        assert_eq!(until(2100), None);
    }

    #[tokio::test]
    async fn an_earlier_deadline_rouses_who_sleeps_until_the_first() {
        use futures_util::FutureExt as _;

        let timers = Timers::new(Timestamp(0));
        let (_, waker) = counter();
        assert!(timers.earlier().now_or_never().is_none());
        timers.arm(Timestamp(9000), &waker);
        assert!(
            timers.earlier().now_or_never().is_some(),
            "the first of all"
        );
        timers.arm(Timestamp(9000), &waker);
        timers.arm(Timestamp(20_000), &waker);
        assert!(timers.earlier().now_or_never().is_none(), "later ones wait");
        timers.arm(Timestamp(500), &waker);
        assert!(timers.earlier().now_or_never().is_some());
    }
}
