//! A store for tests of export and import.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::Waker;

use bytestring::ByteString;
use parking_lot::Mutex;
use protocols::connection::{Position, SubscriptionId};
use protocols::model::{Message, Timestamp};

use super::export::{Exported, export};
use crate::store::{
    Full, GroupRecord, Load, Loaded, LoadedEntry, Op, QueueId, Receiver, Recovered, RecoveredGroup,
    RecoveredQueue, RecoveredSession, Seq, SessionRecord, Store, SubscriptionRecord, Unit, Urgency,
};

/// Keeps what it is given, and shows it as a store does that is opened again.
#[derive(Debug, Default)]
pub(super) struct Kept(pub(super) Mutex<Contents>);

#[derive(Debug, Default)]
pub(super) struct Contents {
    sessions: BTreeMap<u64, SessionRecord>,
    subscriptions: BTreeMap<(u64, SubscriptionId), SubscriptionRecord>,
    accepted: BTreeSet<(u64, u16)>,
    groups: BTreeMap<u64, GroupRecord>,
    retained: Vec<Arc<Message>>,
    keys: Vec<(Timestamp, ByteString, u32)>,
    queues: BTreeMap<QueueId, BTreeMap<Position, LoadedEntry>>,
    last_number: u64,
    units: Seq,
    /// Whether there is no room.
    pub(super) full: bool,
}

impl Contents {
    fn apply(&mut self, op: Op) {
        match op {
            Op::Session(record) => {
                self.saw(record.number);
                self.sessions.insert(record.number, *record);
            }
            Op::SessionEnd { number } => self.saw(number),
            Op::Subscription { number, record } => {
                self.subscriptions.insert((number, record.id), *record);
            }
            Op::Accepted { number, packet_id } => {
                self.accepted.insert((number, packet_id));
            }
            Op::Group { number, record } => {
                self.saw(number);
                self.groups.insert(number, record);
            }
            Op::Retain { message } => self.retained.push(message),
            Op::Key { key, answer, until } => self.keys.push((until, key, answer)),
            Op::Message { message, receivers } => {
                for receiver in receivers {
                    let entry = entry(&message, &receiver);
                    let queue = self.queues.entry(receiver.queue).or_default();
                    queue.insert(receiver.position, entry);
                }
            }
            Op::Received { queue, position } => {
                let queue = self.queues.get_mut(&queue).unwrap();
                queue.get_mut(&position).unwrap().received = true;
            }
            op => panic!("an import writes no {op:?}"),
        }
    }

    fn saw(&mut self, number: u64) {
        self.last_number = self.last_number.max(number);
    }

    fn queue(&self, id: QueueId) -> RecoveredQueue {
        RecoveredQueue {
            lane: id.lane,
            messages: self.queues.get(&id).map_or(0, BTreeMap::len),
            ..RecoveredQueue::default()
        }
    }
}

fn entry(message: &Arc<Message>, receiver: &Receiver) -> LoadedEntry {
    LoadedEntry {
        position: receiver.position,
        message: Arc::clone(message),
        qos: receiver.qos,
        retain: receiver.retain,
        attempts: receiver.attempts,
        received: false,
        matched: receiver.matched.clone(),
        group: receiver.group,
    }
}

impl Kept {
    pub(super) fn with(ops: Vec<Op>) -> Self {
        let kept = Self::default();
        for op in ops {
            kept.0.lock().apply(op);
        }
        kept
    }

    pub(super) fn recovered(&self) -> Recovered {
        let kept = self.0.lock();
        let subscriptions = |number| {
            let all = kept.subscriptions.iter();
            all.filter(move |((session, _), _)| *session == number)
        };
        let sessions = kept.sessions.values().map(|record| RecoveredSession {
            record: record.clone(),
            subscriptions: subscriptions(record.number)
                .map(|(_, record)| record.clone())
                .collect(),
            accepted: kept
                .accepted
                .range((record.number, 0)..=(record.number, u16::MAX))
                .map(|(_, packet_id)| *packet_id)
                .collect(),
            queues: kept
                .queues
                .keys()
                .filter(|id| id.owner == record.number)
                .map(|id| kept.queue(*id))
                .collect(),
        });
        let groups = kept.groups.iter().map(|(number, record)| RecoveredGroup {
            number: *number,
            record: record.clone(),
            queue: kept.queue(QueueId {
                owner: *number,
                lane: 0,
            }),
        });
        Recovered {
            sessions: sessions.collect(),
            groups: groups.collect(),
            retained: kept.retained.clone(),
            keys: kept.keys.clone(),
            next_number: kept.last_number + 1,
        }
    }

    pub(super) fn exported(&self) -> String {
        let mut out = Vec::new();
        let done = export(self, &self.recovered(), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines = text.lines().count() as u64;
        assert_eq!(done, Exported { lines, lost: 0 });
        text
    }
}

impl Store for Kept {
    fn append(&self, unit: Unit, _: Urgency) -> Seq {
        let mut kept = self.0.lock();
        for op in unit.ops {
            kept.apply(op);
        }
        kept.units += 1;
        kept.units
    }

    fn taken(&self) -> Seq {
        self.0.lock().units
    }

    fn durable(&self) -> Seq {
        self.0.lock().units
    }

    fn wake_at(&self, _: Seq, waker: &Waker) {
        waker.wake_by_ref();
    }

    fn is_pressed(&self) -> bool {
        true
    }

    fn room(&self) -> Result<(), Full> {
        if self.0.lock().full {
            return Err(Full::Disk);
        }
        Ok(())
    }

    fn load(&self, load: Load) {
        let kept = self.0.lock();
        let queue = kept.queues.get(&load.queue).into_iter().flatten();
        let mut entries = queue
            .filter(|(position, _)| load.after.is_none_or(|after| **position > after))
            .map(|(_, entry)| entry.clone());
        // Small pages, so that there are several.
        let page = entries.by_ref().take(2).collect();
        let more = entries.next().is_some();
        (load.then)(Loaded {
            entries: page,
            more,
            lost: 0,
        });
    }

    fn drop_first(&self, _: QueueId, _: Option<Position>) -> Option<(Position, usize)> {
        None
    }

    fn close(&self) {}
}
