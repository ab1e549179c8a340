//! How much of a source may be in flight: a number of events, and bytes of their bodies.
//!
//! A call of a source costs about as much for one event as for many. So whoever asks for room waits
//! a little until there is enough for a whole call, and is not woken by every event that goes.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// How long room for less than a whole call waits to become more.
const LINGER: Duration = Duration::from_millis(5);

/// The budget of one source.
#[derive(Debug)]
pub(crate) struct Budget {
    used: Mutex<Used>,
    changed: Notify,
    max_events: usize,
    max_bytes: usize,
    /// Events of a whole call.
    batch: usize,
}

#[derive(Debug, Default)]
struct Used {
    /// In flight.
    events: usize,
    bytes: usize,
    /// Room that was promised to a call which has not come back.
    reserved: usize,
}

/// Room for a call of the source; what the call does not use is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Room {
    budget: Arc<Budget>,
    events: usize,
}

/// An event in flight; its place is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    /// For calls that bring at most `batch` events.
    pub(super) fn new(max_events: usize, max_bytes: usize, batch: usize) -> Arc<Self> {
        Arc::new(Self {
            used: Mutex::default(),
            changed: Notify::new(),
            max_events,
            max_bytes,
            batch: batch.clamp(1, max_events.max(1)),
        })
    }

    /// Waits for room for a call: for a whole one, or after a while for at least one event.
    ///
    /// Bytes are known only afterwards: they are exceeded by at most what one call brings.
    pub(super) async fn reserve(self: &Arc<Self>) -> Room {
        self.wait_until(|free| free > 0).await;
        let whole = self.wait_until(|free| free >= self.batch);
        // If it does not become more, less will do.
        let _ = tokio::time::timeout(LINGER, whole).await;
        loop {
            if let Some(room) = self.try_reserve() {
                return room;
            }
            self.wait_until(|free| free > 0).await;
        }
    }

    fn try_reserve(self: &Arc<Self>) -> Option<Room> {
        let mut used = self.used.lock();
        let events = self.free(&used).min(self.batch);
        if events == 0 {
            return None;
        }
        used.reserved += events;
        let budget = Arc::clone(self);
        Some(Room { budget, events })
    }

    /// Events that may come.
    fn free(&self, used: &Used) -> usize {
        if used.bytes >= self.max_bytes {
            return 0;
        }
        self.max_events.saturating_sub(used.events + used.reserved)
    }

    async fn wait_until(&self, is_enough: impl Fn(usize) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if is_enough(self.free(&self.used.lock())) {
                return;
            }
            changed.await;
        }
    }

    /// Takes something away, and wakes those for whom that makes a difference.
    fn lessen(&self, take: impl FnOnce(&mut Used)) {
        let mut used = self.used.lock();
        let before = self.free(&used);
        take(&mut used);
        let after = self.free(&used);
        let passed = |bound: usize| before < bound && after >= bound;
        let is_empty = used.events == 0;
        drop(used);
        if passed(1) || passed(self.batch) || is_empty {
            self.changed.notify_waiters();
        }
    }

    /// An event has come.
    pub(super) fn enter(self: &Arc<Self>, bytes: usize) -> Place {
        let mut used = self.used.lock();
        used.events += 1;
        used.bytes += bytes;
        let budget = Arc::clone(self);
        Place { budget, bytes }
    }

    /// Events in flight.
    pub(super) fn events(&self) -> usize {
        self.used.lock().events
    }

    /// Waits until nothing is in flight.
    pub(super) async fn emptied(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.events() == 0 {
                return;
            }
            changed.await;
        }
    }
}

impl Room {
    /// For how many.
    pub(super) fn events(&self) -> usize {
        self.events
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.budget.lessen(|used| used.reserved -= self.events);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.budget.lessen(|used| {
            used.events -= 1;
            used.bytes -= self.bytes;
        });
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn gives_room_only_for_what_is_free() {
        let budget = Budget::new(3, 100, 2);
        let room = budget.reserve().await;
        assert_eq!(room.events(), 2);
        let other = budget.reserve().await;
        assert_eq!(other.events(), 1);
        assert!(is_full(&budget).await, "all is promised");
        let place = budget.enter(1);
        drop((room, other));
        assert_eq!(budget.reserve().await.events(), 2);
        assert!(budget.emptied().now_or_never().is_none());
        drop(place);
        assert!(budget.emptied().now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_close_it_too() {
        let budget = Budget::new(10, 100, 1);
        let place = budget.enter(100);
        assert!(is_full(&budget).await);
        drop(place);
        assert_eq!(budget.reserve().await.events(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn waits_a_little_for_a_whole_call() {
        let budget = Budget::new(4, 100, 3);
        let mut places: Vec<_> = (0..4).map(|_| budget.enter(1)).collect();
        let waiting = tokio::spawn({
            let budget = Arc::clone(&budget);
            async move { budget.reserve().await.events() }
        });
        for _ in 0..3 {
            tokio::time::sleep(LINGER / 10).await;
            assert!(!waiting.is_finished());
            places.pop();
        }
        assert_eq!(waiting.await.unwrap(), 3);
        let begun = tokio::time::Instant::now();
        places.push(budget.enter(1));
        assert_eq!(budget.reserve().await.events(), 2, "it becomes no more");
        assert!(begun.elapsed() >= LINGER);
    }

    async fn is_full(budget: &Arc<Budget>) -> bool {
        let room = tokio::time::timeout(LINGER * 100, budget.reserve());
        room.await.is_err()
    }
}
