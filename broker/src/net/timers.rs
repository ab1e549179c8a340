//! One timer wheel for all connections.
//!
//! An idle connection has no timer of its own: it leaves its waker here, in the slot of its
//! deadline, and is woken when that slot comes round. Activity does not touch the wheel: a
//! connection that is woken looks at its own deadline, and if that has moved, comes back here.
//! One task turns the wheel ([`Timers::turn`]).

use std::task::Waker;
use std::time::Duration;

use parking_lot::Mutex;
use protocols::model::Timestamp;

/// How often the wheel turns by one slot; deadlines are met within it.
pub const TICK: Duration = Duration::from_millis(100);

/// Slots. A deadline further away than one turn waits for the next one.
const SLOTS: usize = 1024;

/// Names an armed timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerId {
    slot: u32,
    key: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Timers {
    wheel: Mutex<Wheel>,
}

#[derive(Debug)]
struct Wheel {
    slots: Vec<Vec<Armed>>,
    /// The tick up to which all was fired.
    turned: u64,
    next_key: u64,
}

#[derive(Debug)]
struct Armed {
    key: u64,
    tick: u64,
    waker: Waker,
}

impl Timers {
    /// A wheel that begins at `now`.
    pub fn new(now: Timestamp) -> Self {
        let slots = (0..SLOTS).map(|_| Vec::new()).collect();
        Self {
            wheel: Mutex::new(Wheel {
                slots,
                turned: tick(now),
                next_key: 0,
            }),
        }
    }

    /// Wakes the waker once `at` has come.
    pub fn arm(&self, at: Timestamp, waker: &Waker) -> TimerId {
        let mut wheel = self.wheel.lock();
        // Rounded up, so that a connection woken by it finds its deadline passed.
        let tick = (tick(at) + 1).max(wheel.turned + 1);
        let slot = slot(tick);
        let key = wheel.next_key;
        wheel.next_key += 1;
        wheel.slots[slot].push(Armed {
            key,
            tick,
            waker: waker.clone(),
        });
        TimerId {
            slot: u32::try_from(slot).unwrap_or(0),
            key,
        }
    }

    /// Forgets a timer that is no longer wanted. Does nothing if it has fired.
    pub fn disarm(&self, id: TimerId) {
        let mut wheel = self.wheel.lock();
        let Some(slot) = wheel.slots.get_mut(id.slot as usize) else {
            return;
        };
        if let Some(at) = slot.iter().position(|armed| armed.key == id.key) {
            slot.swap_remove(at);
        }
        shrink(slot);
    }

    /// Turns the wheel to `now` and wakes all whose time has come.
    pub fn turn(&self, now: Timestamp) {
        let mut due = Vec::new();
        {
            let mut wheel = self.wheel.lock();
            let (from, to) = (wheel.turned + 1, tick(now));
            if from > to {
                return;
            }
            // After a long pause one round visits every slot.
            for at in from..=to.min(from + SLOTS as u64 - 1) {
                let slot = &mut wheel.slots[slot(at)];
                due.extend(slot.extract_if(.., |armed| armed.tick <= to));
                shrink(slot);
            }
            wheel.turned = to;
        }
        for armed in due {
            armed.waker.wake();
        }
    }

    /// Timers that are armed.
    pub fn len(&self) -> usize {
        self.wheel.lock().slots.iter().map(Vec::len).sum()
    }

    /// Whether none is armed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn tick(at: Timestamp) -> u64 {
    at.0 / u64::try_from(TICK.as_millis()).unwrap_or(1)
}

fn slot(tick: u64) -> usize {
    usize::try_from(tick % SLOTS as u64).unwrap_or(0)
}

fn shrink(slot: &mut Vec<Armed>) {
    if slot.capacity() > 64 && slot.len() < slot.capacity() / 4 {
        slot.shrink_to(slot.len() * 2);
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
    fn waits_further_rounds() {
        let timers = Timers::new(Timestamp(0));
        let (count, waker) = counter();
        let at = Timestamp(100 * SLOTS as u64 * 2 + 50);
        timers.arm(at, &waker);
        timers.turn(Timestamp(at.0 - 200));
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
        timers.turn(Timestamp(at.0 + 200));
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
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
}
