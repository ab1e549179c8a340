//! Tells those who wait that their units are on disk, from a thread of its own: what they do
//! must not keep the next flush waiting.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;

use foldhash::fast::RandomState;
use parking_lot::{Condvar, Mutex};

use super::super::{Committed, Seq};

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Herald {
    durable: AtomicU64,
    news: Mutex<News>,
    wake: Condvar,
}

#[derive(Default)]
struct News {
    waiting: Vec<Arc<dyn Committed>>,
    wakers: BTreeMap<Seq, Vec<Waker>>,
    closing: bool,
}

impl Herald {
    pub(super) fn new(durable: Seq) -> Self {
        Self {
            durable: AtomicU64::new(durable),
            ..Self::default()
        }
    }

    /// All units up to this one are on disk.
    pub(super) fn durable(&self) -> Seq {
        self.durable.load(Ordering::Acquire)
    }

    /// Wakes a task when a unit is on disk.
    pub(super) fn wake_at(&self, seq: Seq, waker: &Waker) {
        let mut news = self.news.lock();
        if self.durable() >= seq {
            drop(news);
            waker.wake_by_ref();
            return;
        }
        let wakers = news.wakers.entry(seq).or_default();
        if !wakers.iter().any(|other| other.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }

    /// Units up to this one are on disk now, and these wait for them.
    pub(super) fn publish(&self, durable: Seq, waiting: &mut Vec<Arc<dyn Committed>>) {
        let mut news = self.news.lock();
        self.durable.store(durable, Ordering::Release);
        news.waiting.append(waiting);
        let due = news.wakers.first_key_value();
        let due = due.is_some_and(|(seq, _)| *seq <= durable);
        if due || !news.waiting.is_empty() {
            drop(news);
            self.wake.notify_one();
        }
    }

    /// Tells all that there is to tell now.
    #[cfg(test)]
    pub(super) fn tell(&self) {
        let due = self.due(&mut self.news.lock());
        due.announce();
    }

    fn due(&self, news: &mut News) -> Due {
        let later = news.wakers.split_off(&(self.durable() + 1));
        Due {
            waiting: std::mem::take(&mut news.waiting),
            wakers: std::mem::replace(&mut news.wakers, later),
        }
    }

    /// The thread.
    pub(super) fn run(&self) {
        loop {
            let mut news = self.news.lock();
            let due = self.due(&mut news);
            if due.waiting.is_empty() && due.wakers.is_empty() {
                if news.closing {
                    return;
                }
                self.wake.wait(&mut news);
                continue;
            }
            drop(news);
            due.announce();
        }
    }

    /// Ends the thread when all is told.
    pub(super) fn close(&self) {
        self.news.lock().closing = true;
        self.wake.notify_all();
    }
}

/// Who is to be told.
struct Due {
    waiting: Vec<Arc<dyn Committed>>,
    wakers: BTreeMap<Seq, Vec<Waker>>,
}

impl Due {
    fn announce(self) {
        // Somebody who waits for many units is told once.
        let mut told = HashSet::with_hasher(RandomState::default());
        for committed in self.waiting {
            if told.insert(Arc::as_ptr(&committed).cast::<()>()) {
                committed.committed();
            }
        }
        for waker in self.wakers.into_values().flatten() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Counter {
        fn count(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }
    }

    impl Committed for Counter {
        fn committed(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.committed();
        }
    }

    #[test]
    fn who_waits_for_many_units_is_told_once() {
        let herald = Herald::new(0);
        let counter = Arc::new(Counter::default());
        let mut waiting: Vec<Arc<dyn Committed>> = vec![counter.clone(), counter.clone()];
        herald.publish(2, &mut waiting);
        assert!(waiting.is_empty());
        herald.tell();
        assert_eq!(counter.count(), 1);
        herald.tell();
        assert_eq!(counter.count(), 1);
    }

    #[test]
    fn tasks_are_woken_when_their_unit_is_on_disk() {
        let herald = Herald::new(0);
        let [early, late, now] = [(); 3].map(|()| Arc::new(Counter::default()));
        herald.wake_at(3, &late.clone().into());
        let waker = early.clone().into();
        herald.wake_at(2, &waker);
        herald.wake_at(2, &waker);
        herald.publish(2, &mut Vec::new());
        herald.tell();
        assert_eq!((early.count(), late.count()), (1, 0));
        herald.wake_at(2, &now.clone().into());
        assert_eq!(now.count(), 1);
        herald.publish(3, &mut Vec::new());
        herald.tell();
        assert_eq!((early.count(), late.count()), (1, 1));
    }
}
