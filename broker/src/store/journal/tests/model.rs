//! What a store should hold, in the simplest words, and scripts of operations that never end.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use protocols::connection::{Position, SubscriptionId};

use super::super::sim::Dice;
use super::{
    NOW, QueueId, Rig, deliver, done, group, queue, receiver, retained, session, subscription,
};
use crate::store::{Op, Receiver, Recovered};

/// An entry as it is delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    payload: Bytes,
    attempts: u32,
    received: bool,
    group: Option<(u64, Position)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Owner {
    /// The window of a session; tells its records apart. None for a group.
    window: Option<u16>,
    subscriptions: BTreeSet<u32>,
    accepted: BTreeSet<u16>,
}

/// See the module's documentation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Model {
    owners: BTreeMap<u64, Owner>,
    queues: BTreeMap<QueueId, BTreeMap<Position, Entry>>,
    retained: BTreeMap<String, Bytes>,
    keys: BTreeMap<String, u32>,
}

impl Model {
    /// What it is after these units.
    pub(super) fn after(units: &[Vec<Op>]) -> Self {
        let mut model = Self::default();
        for op in units.iter().flatten() {
            model.apply(op);
        }
        model
    }

    /// What a store that was just opened holds.
    pub(super) fn of(rig: &Rig, recovered: &Recovered) -> Self {
        let mut model = Self::default();
        let mut lanes = Vec::new();
        for found in &recovered.sessions {
            let number = found.record.number;
            let owner = Owner {
                window: Some(found.record.window),
                subscriptions: found.subscriptions.iter().map(|it| it.id.0).collect(),
                accepted: found.accepted.iter().copied().collect(),
            };
            model.owners.insert(number, owner);
            lanes.extend(found.queues.iter().map(|it| (number, *it)));
        }
        for found in &recovered.groups {
            model.owners.insert(found.number, Owner::default());
            if found.queue.messages > 0 {
                lanes.push((found.number, found.queue));
            }
        }
        for (owner, expected) in lanes {
            let lane = expected.lane;
            let id = QueueId { owner, lane };
            let loaded = rig.load(id, |_| {});
            assert_eq!((loaded.lost, loaded.more), (0, false));
            let bytes: usize = loaded.entries.iter().map(|it| it.message.size()).sum();
            assert_eq!(
                (loaded.entries.len(), bytes),
                (expected.messages, expected.bytes)
            );
            let from_group = loaded.entries.iter().any(|it| it.group.is_some());
            assert_eq!(from_group, expected.from_group);
            let last = loaded.entries.last().map(|it| it.position);
            assert_eq!(last, Some(expected.last_position));
            assert!(loaded.entries.is_sorted_by(|a, b| a.position < b.position));
            let entries = loaded.entries.into_iter().map(|it| {
                let entry = Entry {
                    payload: it.message.payload.clone(),
                    attempts: it.attempts,
                    received: it.received,
                    group: it.group,
                };
                (it.position, entry)
            });
            model.queues.insert(id, entries.collect());
        }
        for message in &recovered.retained {
            let topic = message.topic.as_str().to_owned();
            let twice = model.retained.insert(topic, message.payload.clone());
            assert_eq!(twice, None);
        }
        for (_, key, answer) in &recovered.keys {
            model.keys.insert(key.to_string(), *answer);
        }
        model
    }

    fn knows(&self, queue: QueueId) -> bool {
        let owner = self.owners.get(&queue.owner);
        owner.is_some_and(|it| queue.lane == 0 || it.subscriptions.contains(&queue.lane))
    }

    fn put(&mut self, receiver: &Receiver, payload: Bytes) {
        if self.knows(receiver.queue) {
            let entry = Entry {
                payload,
                attempts: receiver.attempts,
                received: false,
                group: receiver.group,
            };
            let queue = self.queues.entry(receiver.queue).or_default();
            queue.insert(receiver.position, entry);
        }
    }

    fn take(&mut self, queue: QueueId, position: Position) -> Option<Entry> {
        let entries = self.queues.get_mut(&queue)?;
        let entry = entries.remove(&position);
        if entries.is_empty() {
            self.queues.remove(&queue);
        }
        entry
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Message { message, receivers } => {
                for receiver in receivers {
                    self.put(receiver, message.payload.clone());
                }
            }
            Op::Done { queue, position } => {
                self.take(*queue, *position);
            }
            Op::Received { queue, position } => {
                if let Some(entries) = self.queues.get_mut(queue)
                    && let Some(entry) = entries.get_mut(position)
                {
                    entry.received = true;
                }
            }
            Op::Move { from, position, to } => {
                if let Some(entry) = self.take(*from, *position) {
                    self.put(to, entry.payload);
                }
            }
            Op::Session(record) => {
                let owner = self.owners.entry(record.number).or_default();
                owner.window = Some(record.window);
            }
            Op::Group { number, .. } => {
                self.owners.entry(*number).or_default();
            }
            Op::SessionEnd { number } | Op::GroupEnd { number } => {
                self.owners.remove(number);
                self.queues.retain(|queue, _| queue.owner != *number);
            }
            Op::Retain { message } => {
                let topic = message.topic.as_str().to_owned();
                self.retained.insert(topic, message.payload.clone());
            }
            Op::Unretain { topic } => {
                self.retained.remove(&topic[..]);
            }
            Op::Key { key, answer, .. } => {
                self.keys.insert(key.to_string(), *answer);
            }
            of_session => self.apply_to_session(of_session),
        }
    }

    fn apply_to_session(&mut self, op: &Op) {
        let (Op::Subscription { number, .. }
        | Op::SubscriptionEnd { number, .. }
        | Op::Accepted { number, .. }
        | Op::Released { number, .. }) = op
        else {
            return;
        };
        let Some(owner) = self.owners.get_mut(number) else {
            return;
        };
        match op {
            Op::Subscription { record, .. } => {
                owner.subscriptions.insert(record.id.0);
            }
            Op::SubscriptionEnd { number, id } => {
                owner.subscriptions.remove(&id.0);
                let (owner, lane) = (*number, id.0);
                self.queues.remove(&QueueId { owner, lane });
            }
            Op::Accepted { packet_id, .. } => {
                owner.accepted.insert(*packet_id);
            }
            Op::Released { packet_id, .. } => {
                owner.accepted.remove(packet_id);
            }
            _ => {}
        }
    }
}

/// Makes units that a broker could append.
pub(super) struct Script {
    pub(super) units: Vec<Vec<Op>>,
    dice: Dice,
    /// What is there after all units.
    model: Model,
    next: u64,
    next_subscription: u32,
}

impl Script {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            units: Vec::new(),
            dice: Dice::new(seed),
            model: Model::default(),
            next: 1,
            next_subscription: 1,
        }
    }

    /// Units that were never written are forgotten.
    pub(super) fn forget_behind(&mut self, units: usize) {
        self.units.truncate(units);
        self.model = Model::after(&self.units);
    }

    /// The next unit.
    pub(super) fn unit(&mut self) -> Vec<Op> {
        let mut ops = Vec::new();
        for _ in 0..=self.dice.below(3) {
            if let Some(op) = self.op() {
                self.model.apply(&op);
                ops.push(op);
            }
        }
        if ops.is_empty() {
            let op = self.message();
            self.model.apply(&op);
            ops.push(op);
        }
        self.units.push(ops.clone());
        ops
    }

    /// Ends all entries, such that nothing is left in queues.
    pub(super) fn drain(&mut self) -> Vec<Op> {
        let entries = self.model.queues.iter();
        let ops: Vec<Op> = entries
            .flat_map(|(queue, entries)| entries.keys().map(|position| done(*queue, *position)))
            .collect();
        for op in &ops {
            self.model.apply(op);
        }
        self.units.push(ops.clone());
        ops
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.dice.below(from.len())])
    }

    fn owner(&mut self, is_session: bool) -> Option<u64> {
        let owners = self.model.owners.iter();
        let fitting: Vec<u64> = owners
            .filter(|(_, owner)| owner.window.is_some() == is_session)
            .map(|(number, _)| *number)
            .collect();
        self.pick(&fitting)
    }

    /// A number that nobody has and nobody will have.
    fn gone(&mut self) -> u64 {
        let number = self.number();
        let earlier = self.dice.below(usize::try_from(number).unwrap_or(1)) as u64;
        if self.model.owners.contains_key(&earlier) {
            number
        } else {
            earlier
        }
    }

    /// An entry, one of the first of its queue.
    fn entry(&mut self, of: impl Fn(&Model, QueueId) -> bool) -> Option<(QueueId, Position)> {
        let queues = self.model.queues.keys().copied();
        let fitting: Vec<QueueId> = queues.filter(|queue| of(&self.model, *queue)).collect();
        let queue = self.pick(&fitting)?;
        let entries = &self.model.queues[&queue];
        let few = entries
            .len()
            .min(if self.dice.one_in(8) { 1000 } else { 2 });
        let at = self.dice.below(few);
        let position = *entries.keys().nth(at)?;
        Some((queue, position))
    }

    fn message(&mut self) -> Op {
        let mut to: Vec<(QueueId, Position)> = Vec::new();
        for _ in 0..=self.dice.below(4) {
            let is_session = !self.dice.one_in(3);
            let owner = match self.owner(is_session) {
                Some(owner) if !self.dice.one_in(20) => owner,
                // One that is gone, or never was.
                _ => self.gone(),
            };
            let lanes: Vec<u32> = self.model.owners.get(&owner).map_or(Vec::new(), |owner| {
                owner.subscriptions.iter().copied().collect()
            });
            let lane = match self.pick(&lanes) {
                Some(lane) if self.dice.one_in(2) => lane,
                _ => 0,
            };
            let position = self.number();
            to.push((QueueId { owner, lane }, position));
        }
        let id = self.number();
        let most = if self.dice.one_in(40) { 6_000 } else { 300 };
        let length = self.dice.below(most);
        let payload = format!("{id}:{}", "x".repeat(length));
        deliver(payload, &to)
    }

    fn op(&mut self) -> Option<Op> {
        Some(match self.dice.below(40) {
            0 if self.model.owners.len() < 12 => session(self.number()),
            1 if self.model.owners.len() < 12 => group(self.number()),
            2 => {
                let number = self.owner(true)?;
                let Op::Session(mut record) = session(number) else {
                    return None;
                };
                record.window = u16::try_from(self.dice.below(1000)).ok()?;
                Op::Session(record)
            }
            3 if self.dice.one_in(4) => Op::SessionEnd {
                number: self.owner(true)?,
            },
            4 if self.dice.one_in(4) => Op::GroupEnd {
                number: self.owner(false)?,
            },
            5 => {
                self.next_subscription += 1;
                subscription(self.owner(true)?, self.next_subscription)
            }
            6 if self.dice.one_in(2) => {
                let number = self.owner(true)?;
                let ids: Vec<u32> = self.model.owners[&number]
                    .subscriptions
                    .iter()
                    .copied()
                    .collect();
                let id = SubscriptionId(self.pick(&ids)?);
                Op::SubscriptionEnd { number, id }
            }
            7 => Op::Accepted {
                number: self.owner(true)?,
                packet_id: u16::try_from(self.dice.below(20)).ok()?,
            },
            8 => Op::Released {
                number: self.owner(true)?,
                packet_id: u16::try_from(self.dice.below(20)).ok()?,
            },
            9 => {
                let topic = format!("retained/{}", self.dice.below(6));
                retained(&topic, format!("{}", self.number()), None)
            }
            10 => Op::Unretain {
                topic: format!("retained/{}", self.dice.below(6)).into(),
            },
            11 => Op::Key {
                key: format!("key-{}", self.dice.below(30)).into(),
                answer: u32::try_from(self.dice.below(100)).ok()?,
                until: NOW.plus_secs(3600),
            },
            12..=14 => {
                let (queue, position) = self.entry(|_, _| true)?;
                Op::Received { queue, position }
            }
            15..=18 => self.hand_out()?,
            19..=20 => self.give_back()?,
            21..=30 => {
                let (queue, position) = self.entry(|_, _| true)?;
                done(queue, position)
            }
            _ => self.message(),
        })
    }

    fn hand_out(&mut self) -> Option<Op> {
        let is_group = |model: &Model, queue: QueueId| {
            model
                .owners
                .get(&queue.owner)
                .is_some_and(|it| it.window.is_none())
        };
        let (from, position) = self.entry(is_group)?;
        let session = self.owner(true)?;
        let mut to = receiver(queue(session), self.number());
        to.group = Some((from.owner, position));
        to.attempts = u32::try_from(self.dice.below(3)).ok()?;
        Some(Op::Move { from, position, to })
    }

    fn give_back(&mut self) -> Option<Op> {
        let has_any = |model: &Model, queue: QueueId| {
            model.queues[&queue]
                .values()
                .any(|entry| entry.group.is_some())
        };
        let (from, _) = self.entry(has_any)?;
        let mut entries = self.model.queues[&from].iter();
        let (position, (number, old)) =
            entries.find_map(|(position, entry)| Some((*position, entry.group?)))?;
        let mut to = receiver(queue(number), old);
        to.attempts = 7;
        Some(Op::Move { from, position, to })
    }
}
