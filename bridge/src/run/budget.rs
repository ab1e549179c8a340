//! How much of a source may be in flight: a number of events, and bytes of their bodies.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The budget of one source.
#[derive(Debug)]
pub(crate) struct Budget {
    used: Mutex<Used>,
    changed: Notify,
    max_events: usize,
    max_bytes: usize,
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
    pub(super) fn new(max_events: usize, max_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            used: Mutex::default(),
            changed: Notify::new(),
            max_events,
            max_bytes,
        })
    }

    /// Waits for room for at least one event; takes room for at most `max`.
    ///
    /// Bytes are known only afterwards: they are exceeded by at most what one call brings.
    pub(super) async fn reserve(self: &Arc<Self>, max: usize) -> Room {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(room) = self.try_reserve(max) {
                return room;
            }
            changed.await;
        }
    }

    fn try_reserve(self: &Arc<Self>, max: usize) -> Option<Room> {
        let mut used = self.used.lock();
        let free = self.max_events.saturating_sub(used.events + used.reserved);
        if free == 0 || used.bytes >= self.max_bytes {
            return None;
        }
        let events = free.min(max);
        used.reserved += events;
        let budget = Arc::clone(self);
        Some(Room { budget, events })
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
        self.budget.used.lock().reserved -= self.events;
        self.budget.changed.notify_waiters();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut used = self.budget.used.lock();
        used.events -= 1;
        used.bytes -= self.bytes;
        drop(used);
        self.budget.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn gives_room_only_for_what_is_free() {
        let budget = Budget::new(3, 100);
        let room = budget.reserve(2).now_or_never().unwrap();
        assert_eq!(room.events(), 2);
        let other = budget.reserve(2).now_or_never().unwrap();
        assert_eq!(other.events(), 1);
        assert!(
            budget.reserve(1).now_or_never().is_none(),
            "all is promised"
        );
        let place = budget.enter(1);
        drop((room, other));
        assert_eq!(budget.reserve(9).now_or_never().unwrap().events(), 2);
        assert!(budget.emptied().now_or_never().is_none());
        drop(place);
        assert!(budget.emptied().now_or_never().is_some());
    }

    #[test]
    fn bytes_close_it_too() {
        let budget = Budget::new(10, 100);
        let place = budget.enter(100);
        assert!(budget.reserve(1).now_or_never().is_none());
        drop(place);
        assert!(budget.reserve(1).now_or_never().is_some());
    }

    #[tokio::test]
    async fn wakes_who_waits() {
        let budget = Budget::new(1, 100);
        let place = budget.enter(1);
        let waiting = tokio::spawn({
            let budget = Arc::clone(&budget);
            async move { budget.reserve(1).await.events() }
        });
        tokio::task::yield_now().await;
        drop(place);
        assert_eq!(waiting.await.unwrap(), 1);
    }
}
