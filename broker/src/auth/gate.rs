//! A door that a bounded number may pass at a time, and before which a bounded number waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// See the module.
#[derive(Debug)]
pub(super) struct Gate {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    waiting_max: usize,
}

/// More wait already than may.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Gate {
    pub(super) fn new(at_a_time: usize, waiting_max: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(at_a_time.max(1))),
            waiting: AtomicUsize::new(0),
            waiting_max,
        }
    }

    /// Waits for a place, which is given back when the permit is dropped.
    pub(super) async fn enter(&self) -> Result<OwnedSemaphorePermit, Full> {
        if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(permit);
        }
        // Whoever gives up waiting is dropped here and leaves the count right.
        let place = Waiting::take(&self.waiting, self.waiting_max).ok_or(Full)?;
        let permit = Arc::clone(&self.places).acquire_owned().await;
        drop(place);
        // The semaphore is never closed.
        permit.map_err(|_| Full)
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn take(count: &'a AtomicUsize, max: usize) -> Option<Self> {
        let more = |now| (now < max).then_some(now + 1);
        let taken = count.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        // Made only if it was taken: dropping it gives the place back.
        taken.is_ok().then(|| Self(count))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn more_than_may_wait_are_sent_away() {
        let gate = Arc::new(Gate::new(1, 1));
        let inside = gate.enter().await.unwrap();
        let next = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.enter().await.map(drop) }
        });
        while gate.waiting.load(Ordering::Acquire) == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(gate.enter().await.map(drop), Err(Full));
        drop(inside);
        assert_eq!(next.await.unwrap(), Ok(()));
        assert!(gate.enter().await.is_ok());
        assert_eq!(gate.waiting.load(Ordering::Acquire), 0);
    }
}
