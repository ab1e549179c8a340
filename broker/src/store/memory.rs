//! A store in memory, for tests: its disk is as fast as the test wants, and a crash is a call.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::Waker;

use parking_lot::Mutex;
use protocols::connection::Position;
use protocols::model::Message;

use super::{
    Full, GroupRecord, Load, Loaded, LoadedEntry, Op, QueueId, Receiver, Recovered, RecoveredGroup,
    RecoveredQueue, RecoveredSession, Seq, SessionRecord, Store, SubscriptionRecord, Unit, Urgency,
};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct MemoryStore {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    taken: Seq,
    durable: Seq,
    /// What is taken and not on the disk.
    pending: Vec<Taken>,
    loads: Vec<Load>,
    wakers: Vec<(Seq, Waker)>,
    disk: Disk,
    full: Option<Full>,
}

struct Taken {
    unit: Unit,
    urgency: Urgency,
}

/// What survives a crash.
#[derive(Clone, Debug, Default)]
struct Disk {
    sessions: BTreeMap<u64, SessionRecord>,
    subscriptions: BTreeMap<(u64, u32), SubscriptionRecord>,
    accepted: BTreeSet<(u64, u16)>,
    groups: BTreeMap<u64, GroupRecord>,
    queues: BTreeMap<QueueId, BTreeMap<Position, LoadedEntry>>,
    retained: BTreeMap<String, Arc<Message>>,
    keys: Vec<(protocols::model::Timestamp, bytestring::ByteString, u32)>,
    next_number: u64,
}

impl MemoryStore {
    /// The disk has everything that was taken so far; who waits for it is told.
    pub(crate) fn commit(&self) {
        let (taken, wakers, loads) = {
            let mut inner = self.inner.lock();
            let taken = std::mem::take(&mut inner.pending);
            for taken in &taken {
                for op in &taken.unit.ops {
                    inner.disk.apply(op);
                }
            }
            inner.durable = inner.taken;
            (
                taken,
                std::mem::take(&mut inner.wakers),
                std::mem::take(&mut inner.loads),
            )
        };
        for taken in &taken {
            taken.unit.ticket.written();
        }
        for taken in taken {
            for waiting in taken.unit.waiting {
                waiting.committed();
            }
        }
        for (_, waker) in wakers {
            waker.wake();
        }
        for load in loads {
            let loaded = self.inner.lock().disk.read(&load);
            (load.then)(loaded);
        }
    }

    /// Whether somebody waits for the disk.
    pub(crate) fn is_urgent(&self) -> bool {
        let inner = self.inner.lock();
        !inner.loads.is_empty()
            || inner
                .pending
                .iter()
                .any(|taken| taken.urgency == Urgency::Now)
    }

    /// What the units on the disk do not have yet.
    pub(crate) fn pending_ops(&self) -> Vec<Op> {
        let inner = self.inner.lock();
        let units = inner.pending.iter();
        units
            .flat_map(|taken| taken.unit.ops.iter().cloned())
            .collect()
    }

    /// Units that are not on the disk yet.
    pub(crate) fn pending_units(&self) -> usize {
        self.inner.lock().pending.len()
    }

    /// Refuses messages from now on, or takes them again.
    pub(crate) fn set_full(&self, full: Option<Full>) {
        self.inner.lock().full = full;
    }

    /// The power fails: what is on the disk is found by another store.
    pub(crate) fn crash(&self) -> (Arc<Self>, Recovered) {
        let disk = self.inner.lock().disk.clone();
        let recovered = disk.recovered();
        let inner = Inner {
            disk,
            ..Inner::default()
        };
        let store = Self {
            inner: Mutex::new(inner),
        };
        (Arc::new(store), recovered)
    }

    /// Messages in all queues on the disk.
    pub(crate) fn queued(&self) -> usize {
        let inner = self.inner.lock();
        inner.disk.queues.values().map(BTreeMap::len).sum()
    }
}

impl Store for MemoryStore {
    fn append(&self, unit: Unit, urgency: Urgency) -> Seq {
        let mut inner = self.inner.lock();
        inner.taken += 1;
        let seq = inner.taken;
        unit.ticket.taken(seq);
        inner.pending.push(Taken { unit, urgency });
        seq
    }

    fn taken(&self) -> Seq {
        self.inner.lock().taken
    }

    fn durable(&self) -> Seq {
        self.inner.lock().durable
    }

    fn wake_at(&self, seq: Seq, waker: &Waker) {
        let mut inner = self.inner.lock();
        if inner.durable >= seq {
            waker.wake_by_ref();
        } else {
            inner.wakers.push((seq, waker.clone()));
        }
    }

    fn is_pressed(&self) -> bool {
        false
    }

    fn room(&self) -> Result<(), Full> {
        self.inner.lock().full.clone().map_or(Ok(()), Err)
    }

    fn load(&self, load: Load) {
        self.inner.lock().loads.push(load);
    }

    fn drop_first(&self, queue: QueueId, after: Option<Position>) -> Option<(Position, usize)> {
        let mut inner = self.inner.lock();
        let entries = inner.disk.queues.get_mut(&queue)?;
        let start = after.map_or(0, |after| after + 1);
        let position = *entries.range(start..).next()?.0;
        let entry = entries.remove(&position)?;
        Some((position, entry.message.size()))
    }

    fn close(&self) {
        self.commit();
    }
}

impl Disk {
    fn apply(&mut self, op: &Op) {
        match op {
            Op::Message { message, receivers } => {
                for receiver in receivers {
                    self.put(message, receiver, false);
                }
            }
            Op::Done { queue, position } => {
                self.take(*queue, *position);
            }
            Op::Received { queue, position } => {
                let entries = self.queues.get_mut(queue);
                if let Some(entry) = entries.and_then(|entries| entries.get_mut(position)) {
                    entry.received = true;
                }
            }
            Op::Move { from, position, to } => {
                if let Some(entry) = self.take(*from, *position) {
                    self.put(&entry.message, to, entry.received);
                }
            }
            Op::Session(record) => {
                self.next_number = self.next_number.max(record.number + 1);
                self.sessions.insert(record.number, (**record).clone());
            }
            Op::SessionEnd { number } => {
                self.sessions.remove(number);
                self.subscriptions.retain(|(owner, _), _| owner != number);
                self.accepted.retain(|(owner, _)| owner != number);
                self.queues.retain(|queue, _| queue.owner != *number);
            }
            Op::Subscription { number, record } => {
                let key = (*number, record.id.0);
                self.subscriptions.insert(key, (**record).clone());
            }
            Op::SubscriptionEnd { number, id } => {
                self.subscriptions.remove(&(*number, id.0));
                self.queues.remove(&QueueId {
                    owner: *number,
                    lane: id.0,
                });
            }
            Op::Accepted { number, packet_id } => {
                self.accepted.insert((*number, *packet_id));
            }
            Op::Released { number, packet_id } => {
                self.accepted.remove(&(*number, *packet_id));
            }
            Op::Group { number, record } => {
                self.next_number = self.next_number.max(number + 1);
                self.groups.insert(*number, record.clone());
            }
            Op::GroupEnd { number } => {
                self.groups.remove(number);
                self.queues.retain(|queue, _| queue.owner != *number);
            }
            Op::Retain { message } => {
                let topic = message.topic.as_str().to_owned();
                self.retained.insert(topic, Arc::clone(message));
            }
            Op::Unretain { topic } => {
                self.retained.remove(&**topic);
            }
            Op::Key { key, answer, until } => self.keys.push((*until, key.clone(), *answer)),
        }
    }

    fn put(&mut self, message: &Arc<Message>, to: &Receiver, received: bool) {
        let queue = to.queue;
        let known = match queue.lane {
            0 => self.sessions.contains_key(&queue.owner) || self.groups.contains_key(&queue.owner),
            lane => self.subscriptions.contains_key(&(queue.owner, lane)),
        };
        assert!(
            known,
            "an entry for {queue:?}, which the store does not know"
        );
        let entry = LoadedEntry {
            position: to.position,
            message: Arc::clone(message),
            qos: to.qos,
            retain: to.retain,
            attempts: to.attempts,
            received,
            matched: to.matched.clone(),
            group: to.group,
        };
        let entries = self.queues.entry(queue).or_default();
        let old = entries.insert(to.position, entry);
        assert!(
            old.is_none(),
            "two entries of {queue:?} have the position {}",
            to.position
        );
    }

    fn take(&mut self, queue: QueueId, position: Position) -> Option<LoadedEntry> {
        self.queues.get_mut(&queue)?.remove(&position)
    }

    fn read(&self, load: &Load) -> Loaded {
        let start = load.after.map_or(0, |after| after + 1);
        let end = load.before.unwrap_or(Position::MAX);
        let Some(entries) = self.queues.get(&load.queue) else {
            return Loaded::default();
        };
        let mut found = entries.range(start..end.max(start));
        let mut loaded = Loaded::default();
        let mut bytes = 0;
        for (_, entry) in found.by_ref() {
            bytes += entry.message.size();
            loaded.entries.push(entry.clone());
            if loaded.entries.len() >= load.messages || bytes >= load.bytes {
                break;
            }
        }
        loaded.more = found.next().is_some();
        loaded
    }

    fn recovered(&self) -> Recovered {
        let sessions = self.sessions.values().map(|record| {
            let number = record.number;
            RecoveredSession {
                record: record.clone(),
                subscriptions: self
                    .subscriptions
                    .range((number, 0)..=(number, u32::MAX))
                    .map(|(_, record)| record.clone())
                    .collect(),
                accepted: self
                    .accepted
                    .range((number, 0)..=(number, u16::MAX))
                    .map(|(_, id)| *id)
                    .collect(),
                queues: self.queues_of(number),
            }
        });
        let groups = self.groups.iter().map(|(number, record)| RecoveredGroup {
            number: *number,
            record: record.clone(),
            queue: self.group_queue(*number),
        });
        Recovered {
            sessions: sessions.collect(),
            groups: groups.collect(),
            retained: self.retained.values().cloned().collect(),
            keys: self.keys.clone(),
            next_number: self.next_number,
        }
    }

    /// A group's queue; its last position may be one that a session has taken over.
    fn group_queue(&self, number: u64) -> RecoveredQueue {
        let mut queue = self.queues_of(number).pop().unwrap_or_default();
        let entries = self.queues.values().flat_map(BTreeMap::values);
        let taken = entries.filter_map(|entry| entry.group.filter(|(group, _)| *group == number));
        let last = taken.map(|(_, position)| position).max();
        queue.last_position = queue.last_position.max(last.unwrap_or_default());
        queue
    }

    fn queues_of(&self, owner: u64) -> Vec<RecoveredQueue> {
        let queues = self.queues.iter();
        let queues = queues.filter(|(id, entries)| id.owner == owner && !entries.is_empty());
        let recovered = queues.map(|(id, entries)| RecoveredQueue {
            lane: id.lane,
            messages: entries.len(),
            bytes: entries.values().map(|entry| entry.message.size()).sum(),
            last_position: entries.keys().next_back().copied().unwrap_or_default(),
            from_group: entries.values().any(|entry| entry.group.is_some()),
        });
        recovered.collect()
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("taken", &self.taken)
            .field("durable", &self.durable)
            .finish_non_exhaustive()
    }
}
