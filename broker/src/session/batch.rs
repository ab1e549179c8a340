//! What a batch of work leaves behind for its end.
//!
//! A publisher's task delivers to many sessions while it works through what it has read. Waking
//! each receiver at its first message would cost a context switch and a write for every message;
//! so the wakers are kept here and used once, when the batch is over.

use std::sync::Arc;
use std::task::Waker;

use protocols::model::{QoS, Timestamp};

use smallvec::SmallVec;

use super::{Group, Session};
use crate::telemetry::{Drop as DropReason, Metrics, ProtocolMetrics};

const LEVELS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

/// Sessions whose pressure one batch remembers; more do not make it wait longer.
const PRESSED: usize = 4;

/// The effects of a batch that are put off until its end.
#[derive(Debug)]
pub struct Batch {
    /// The time of the whole batch.
    pub now: Timestamp,
    wakers: Vec<Waker>,
    /// Receivers that are slow but not given up: the publisher waits for one of them, a little.
    pressed: Vec<Arc<Session>>,
    /// Groups that have messages for a session that just got room.
    thirsty: Vec<Arc<Group>>,
    delivered: SmallVec<[Delivered; 2]>,
    received: [u64; 3],
    dropped: SmallVec<[(DropReason, u64); 2]>,
}

/// Messages written for clients of one protocol, by level.
#[derive(Debug)]
struct Delivered {
    protocol: Arc<ProtocolMetrics>,
    counts: [u64; 3],
}

impl Batch {
    /// A batch at a moment.
    pub fn new(now: Timestamp) -> Self {
        Self {
            now,
            wakers: Vec::new(),
            pressed: Vec::new(),
            thirsty: Vec::new(),
            delivered: SmallVec::new(),
            received: [0; 3],
            dropped: SmallVec::new(),
        }
    }

    /// Remembers to wake a connection's task.
    pub fn wake(&mut self, waker: Waker) {
        self.wakers.push(waker);
    }

    /// Remembers that a receiver is slow; `false` if that is known, or enough are.
    pub fn press(&mut self, session: &Arc<Session>) -> bool {
        let known = self.pressed.iter().any(|other| Arc::ptr_eq(other, session));
        if known || self.pressed.len() == PRESSED {
            return false;
        }
        self.pressed.push(Arc::clone(session));
        true
    }

    /// Remembers that a group may hand out more.
    pub fn thirst(&mut self, group: &Arc<Group>) {
        if !self.thirsty.iter().any(|other| Arc::ptr_eq(other, group)) {
            self.thirsty.push(Arc::clone(group));
        }
    }

    /// Counts a message that the batch's client published.
    pub fn count_received(&mut self, qos: QoS) {
        self.received[qos as usize] += 1;
    }

    /// Adds up what the batch's client published, if anything.
    pub fn settle_received(&mut self, protocol: &ProtocolMetrics) {
        for (level, count) in LEVELS.into_iter().zip(&mut self.received) {
            if *count > 0 {
                protocol.received(level).add(std::mem::take(count));
            }
        }
    }

    /// Counts a message that was written for a client.
    pub fn count_delivered(&mut self, protocol: &Arc<ProtocolMetrics>, qos: QoS) {
        let level = qos as usize;
        let mut known = self.delivered.iter_mut();
        if let Some(known) = known.find(|known| Arc::ptr_eq(&known.protocol, protocol)) {
            known.counts[level] += 1;
            return;
        }
        let mut counts = [0; 3];
        counts[level] = 1;
        self.delivered.push(Delivered {
            protocol: Arc::clone(protocol),
            counts,
        });
    }

    /// Counts messages that were not delivered.
    pub fn count_dropped(&mut self, reason: DropReason, count: u64) {
        match self.dropped.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, sum)) => *sum += count,
            None => self.dropped.push((reason, count)),
        }
    }

    /// Groups that may hand out more, once.
    pub fn take_thirsty(&mut self) -> Vec<Arc<Group>> {
        std::mem::take(&mut self.thirsty)
    }

    /// Slow receivers, once.
    pub fn take_pressed(&mut self) -> Vec<Arc<Session>> {
        std::mem::take(&mut self.pressed)
    }

    /// Ends the batch: counts, then wakes everyone who has something to write.
    pub fn finish(&mut self, metrics: &Metrics) {
        for Delivered { protocol, counts } in self.delivered.drain(..) {
            for (level, count) in LEVELS
                .into_iter()
                .zip(counts)
                .filter(|(_, count)| *count > 0)
            {
                protocol.delivered(level).add(count);
            }
        }
        for (reason, count) in self.dropped.drain(..) {
            metrics.dropped(reason).add(count);
        }
        self.wake_all();
    }

    fn wake_all(&mut self) {
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
    }
}

/// Whoever gave its waker away sleeps until it is used: it must be, even after a panic.
impl Drop for Batch {
    fn drop(&mut self) {
        self.wake_all();
    }
}
