//! What of a shard is under way, and how far everything before is settled.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::checkpoints::{Checkpoint, Checkpoints};
use crate::source::{Outcome, Settle};

/// One pass over a shard: it ends with the shard, or with a record that must come again.
pub(super) struct Progress {
    shard: Arc<str>,
    checkpoints: Arc<Checkpoints>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// Sequence numbers in their order, and whether each is settled for good.
    pending: VecDeque<(String, bool)>,
    /// The number of the first of them.
    first: u64,
    /// Holds that were not settled.
    open: usize,
    /// Something must be read again, not before this time has passed.
    again: Option<Duration>,
}

impl Progress {
    pub(super) fn new(shard: Arc<str>, checkpoints: Arc<Checkpoints>) -> Arc<Self> {
        Arc::new(Self {
            shard,
            checkpoints,
            state: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// A record is under way. To be called in the order of the shard.
    pub(super) fn hold(self: &Arc<Self>, sequence: String) -> Hold {
        let mut state = self.state.lock();
        let number = state.first + state.pending.len() as u64;
        state.pending.push_back((sequence, false));
        state.open += 1;
        Hold {
            progress: Arc::clone(self),
            number,
            settled: false,
        }
    }

    /// Whether something must be read again.
    pub(super) fn is_void(&self) -> bool {
        self.state.lock().again.is_some()
    }

    /// Waits until nothing is under way; says whether, and when, to read again.
    pub(super) async fn emptied(&self) -> Option<Duration> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let state = self.state.lock();
                if state.open == 0 {
                    return state.again;
                }
            }
            changed.await;
        }
    }

    /// Waits until something must be read again.
    pub(super) async fn voided(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.is_void() {
                return;
            }
            changed.await;
        }
    }

    fn settle(&self, number: u64, again: Option<Duration>) {
        let mut state = self.state.lock();
        state.open -= 1;
        if let Some(after) = again {
            let longest = state.again.unwrap_or_default().max(after);
            state.again = Some(longest);
        } else {
            let place = usize::try_from(number - state.first).unwrap_or(usize::MAX);
            if let Some((_, settled)) = state.pending.get_mut(place) {
                *settled = true;
            }
            let mut last = None;
            while let Some((_, true)) = state.pending.front() {
                last = state.pending.pop_front().map(|(sequence, _)| sequence);
                state.first += 1;
            }
            if let Some(last) = last {
                self.checkpoints.note(&self.shard, Checkpoint::After(last));
            }
        }
        drop(state);
        self.changed.notify_waiters();
    }
}

/// Stands for one record that is under way.
pub(super) struct Hold {
    progress: Arc<Progress>,
    number: u64,
    settled: bool,
}

impl Hold {
    /// Whether the record is read again anyway.
    pub(super) fn is_void(&self) -> bool {
        self.progress.is_void()
    }

    fn end(&mut self, again: Option<Duration>) {
        if !self.settled {
            self.settled = true;
            self.progress.settle(self.number, again);
        }
    }
}

impl Settle for Hold {
    fn settle(mut self: Box<Self>, outcome: Outcome) {
        self.end(match outcome {
            Outcome::Done | Outcome::DeadLettered => None,
            Outcome::Retry { after } => Some(after),
            // The configuration sees to it that there is none.
            Outcome::Poison { .. } => Some(Duration::from_secs(1)),
            Outcome::Released => Some(Duration::ZERO),
        });
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.end(Some(Duration::ZERO));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn settle(hold: Hold, outcome: Outcome) {
        Box::new(hold).settle(outcome);
    }

    #[tokio::test]
    async fn a_checkpoint_moves_only_behind_what_is_done() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(folder.path(), "s").unwrap();
        let progress = Progress::new("a".into(), Arc::clone(&checkpoints));
        let [one, two, three, four] = ["1", "2", "3", "4"].map(|n| progress.hold(n.into()));
        settle(two, Outcome::Done);
        assert_eq!(checkpoints.of("a"), None);
        settle(one, Outcome::DeadLettered);
        let second = Some(Checkpoint::After("2".into()));
        assert_eq!(checkpoints.of("a"), second);
        assert!(progress.emptied().now_or_never().is_none());
        let after = Duration::from_secs(7);
        settle(three, Outcome::Retry { after });
        assert!(four.is_void(), "what came behind is read again");
        settle(four, Outcome::Done);
        assert_eq!(checkpoints.of("a"), second, "the third is not done");
        assert_eq!(progress.emptied().await, Some(after));
        progress.voided().await;
    }

    #[tokio::test]
    async fn what_nobody_settles_comes_again() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(folder.path(), "s").unwrap();
        let progress = Progress::new("a".into(), Arc::clone(&checkpoints));
        drop(progress.hold("1".into()));
        assert_eq!(progress.emptied().await, Some(Duration::ZERO));
        assert_eq!(checkpoints.of("a"), None);
    }
}
