//! What a batch of work leaves behind for its end.
//!
//! A publisher's task delivers to many sessions while it works through what it has read. Waking
//! each receiver at its first message would cost a context switch and a write for every message;
//! so the wakers are kept here and used once, when the batch is over.

use std::sync::Arc;
use std::task::Waker;

use protocols::connection::Position;
use protocols::model::{Message, QoS, Timestamp};

use smallvec::SmallVec;

use super::{Group, Plan, Session, Wish};
use crate::router::Routes;
use crate::store::{Committed, Op, QueueId, Receiver, Seq, Ticket, Unit, Urgency, Waiting};
use crate::telemetry::{Drop as DropReason, Metrics, ProtocolMetrics, moment_us};

const LEVELS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

/// Sessions whose pressure one batch remembers; more do not make it wait longer.
const PRESSED: usize = 4;

/// The effects of a batch that are put off until its end.
#[derive(Debug)]
pub struct Batch {
    /// The time of the whole batch.
    pub now: Timestamp,
    /// The same for figures, see [`moment_us`].
    pub moment_us: u64,
    /// Who got the message before: the next one is often for the same topic.
    pub last_plan: Option<Arc<Routes<Plan>>>,
    wakers: Vec<Waker>,
    /// Receivers that are slow but not given up: the publisher waits for one of them, a little.
    pressed: Vec<Arc<Session>>,
    /// Groups that have messages for a session that just got room.
    thirsty: Vec<Arc<Group>>,
    /// Effects that are to be on disk, until the hub hands them to the store.
    unit: Unit,
    urgency: Urgency,
    in_transaction: bool,
    /// The last unit that an answer which is given now depends on.
    promised: Seq,
    /// Queues that come to the end of what is in memory.
    loads: Vec<(Queue, Wish)>,
    delivered: SmallVec<[Delivered; 2]>,
    received: [u64; 3],
    dropped: SmallVec<[(DropReason, u64); 2]>,
}

/// A queue that is to be read from the disk.
#[derive(Debug)]
pub enum Queue {
    /// A session's lane, by its number.
    Lane(Arc<Session>, u32),
    /// A group's.
    Group(Arc<Group>),
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
            moment_us: moment_us(),
            last_plan: None,
            wakers: Vec::new(),
            pressed: Vec::new(),
            thirsty: Vec::new(),
            unit: Unit::default(),
            urgency: Urgency::Later,
            in_transaction: false,
            promised: 0,
            loads: Vec::new(),
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

    /// Adds an effect to the unit that is handed to the store next. With [`Urgency::Now`]
    /// somebody waits for it.
    pub fn record(&mut self, op: Op, urgency: Urgency) {
        self.unit.ops.push(op);
        self.urgency = self.urgency.max(urgency);
    }

    /// Stores a message for a queue, and returns the ticket that says when it is there.
    pub fn keep(&mut self, message: &Arc<Message>, receiver: Receiver) -> Arc<Ticket> {
        self.unit.deliver(message, receiver);
        self.urgency = Urgency::Now;
        Arc::clone(&self.unit.ticket)
    }

    /// Moves an entry between queues of the store, and returns the ticket that says when it is
    /// there.
    pub fn relocate(&mut self, from: QueueId, position: Position, to: Receiver) -> Arc<Ticket> {
        let op = Op::Move { from, position, to };
        self.record(op, Urgency::Now);
        Arc::clone(&self.unit.ticket)
    }

    /// Somebody waits for what was recorded.
    pub fn hurry(&mut self) {
        self.urgency = Urgency::Now;
    }

    /// Somebody is told when the unit is on disk.
    pub fn tell<T: Committed + 'static>(&mut self, who: &Arc<T>) {
        let waiting = Arc::clone(who) as Arc<dyn Committed>;
        let known = self.unit.waiting.last();
        if known.is_none_or(|last| !Arc::ptr_eq(last, &waiting)) {
            self.unit.waiting.push(waiting);
        }
    }

    /// From now on everything belongs to one unit.
    pub fn begin_transaction(&mut self) {
        self.in_transaction = true;
    }

    /// The unit is complete.
    pub fn end_transaction(&mut self) {
        self.in_transaction = false;
    }

    /// Whether a transaction has begun and not ended.
    pub fn in_transaction(&self) -> bool {
        self.in_transaction
    }

    /// What is to be stored now, if anything.
    pub fn take_unit(&mut self) -> Option<(Unit, Urgency)> {
        if self.in_transaction {
            return None;
        }
        if self.unit.is_empty() {
            self.urgency = Urgency::Later;
            return None;
        }
        let urgency = std::mem::replace(&mut self.urgency, Urgency::Later);
        Some((std::mem::take(&mut self.unit), urgency))
    }

    /// Those who are to be told although nothing is to be stored for them.
    pub fn take_waiting(&mut self) -> Waiting {
        if self.in_transaction || !self.unit.is_empty() {
            return Waiting::new();
        }
        std::mem::take(&mut self.unit.waiting)
    }

    /// Whether nothing is left to be handed over, to anyone.
    #[inline]
    pub fn is_settled(&self) -> bool {
        self.unit.is_empty()
            && self.unit.waiting.is_empty()
            && self.thirsty.is_empty()
            && self.loads.is_empty()
    }

    /// The answer to what was asked last depends on a unit.
    pub fn promise(&mut self, seq: Seq) {
        self.promised = self.promised.max(seq);
    }

    /// The unit that the answer depends on, once; 0 for none.
    pub fn take_promised(&mut self) -> Seq {
        std::mem::take(&mut self.promised)
    }

    /// Remembers to read from the disk.
    pub fn load(&mut self, queue: Queue, wish: Wish) {
        self.loads.push((queue, wish));
    }

    /// What is to be read from the disk, once.
    pub fn take_loads(&mut self) -> Vec<(Queue, Wish)> {
        std::mem::take(&mut self.loads)
    }

    /// Counts a message that the batch's client published.
    pub fn count_received(&mut self, qos: QoS) {
        self.received[qos as usize] += 1;
    }

    /// Messages that the client has published in this batch.
    pub fn received(&self) -> u64 {
        self.received.iter().sum()
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
        debug_assert!(
            self.unit.is_empty(),
            "the hub has not stored: {:?}",
            self.unit
        );
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
