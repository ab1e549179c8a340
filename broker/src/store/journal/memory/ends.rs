//! The end of a replay, what is found then, and forgetting what cannot be read.

use protocols::model::Timestamp;

use super::super::super::QueueId;
use super::super::queue::{FROM_GROUP, Place, Queue};
use super::{Latest, Memory, Name, QueueSummary};

impl Memory {
    /// Forgets all that is in a segment which cannot be read, and says how much that was.
    pub(in super::super) fn forget_segment(&mut self, segment: u32) -> u64 {
        let before = self.segments.live(segment);
        let mut gone = Vec::new();
        let is_there = |latest: &Latest| latest.place.segment == segment;
        let mut latest = Vec::new();
        for (number, owner) in &mut self.owners {
            let queues = std::iter::once((0, &mut owner.queue));
            let lanes = owner
                .lanes
                .iter_mut()
                .map(|lane| (lane.id, &mut lane.queue));
            for (lane, queue) in queues.chain(lanes) {
                let id = QueueId {
                    owner: *number,
                    lane,
                };
                let lost = queue.retain(|slot| slot.place.segment != segment);
                gone.extend(lost.into_iter().map(|slot| (id, slot)));
            }
            // A session stays, if only in memory: what else it has is not lost.
            latest.extend(owner.record.take_if(|record| is_there(record)));
            for lane in &mut owner.lanes {
                latest.extend(lane.subscription.take_if(|record| is_there(record)));
            }
            owner.accepted.retain(|(_, record)| {
                latest.extend(is_there(record).then_some(*record));
                !is_there(record)
            });
        }
        self.retained.retain(|_, (record, _)| {
            latest.extend(is_there(record).then_some(*record));
            !is_there(record)
        });
        self.keys.retain(|(record, _)| {
            latest.extend(is_there(record).then_some(*record));
            !is_there(record)
        });
        for (queue, slot) in gone {
            self.let_go(queue, &slot);
        }
        for record in latest {
            self.drop_latest(Some(record));
        }
        before
    }

    /// Ends a replay: what belongs to nobody goes, and queues are put in order.
    pub(in super::super) fn settle(&mut self, now: Timestamp) {
        let unknown: Vec<u64> = self
            .owners
            .iter()
            .filter_map(|(number, owner)| owner.record.is_none().then_some(*number))
            .collect();
        for number in unknown {
            self.end(number);
        }
        let mut unknown = Vec::new();
        for (number, owner) in &mut self.owners {
            owner.queue.settle();
            for lane in &mut owner.lanes {
                lane.queue.settle();
                if lane.subscription.is_none() {
                    unknown.push((*number, lane.id));
                }
            }
        }
        for (number, id) in unknown {
            self.end_subscription(number, id);
        }
        self.keys.sort_by_key(|(_, until)| *until);
        self.expire_keys(now);
        self.bound_keys();
        let expired = self
            .retained
            .iter()
            .filter(|(_, (_, at))| at.is_some_and(|at| at <= now));
        let expired: Vec<Name> = expired.map(|(name, _)| *name).collect();
        for name in expired {
            self.unretain(name);
        }
        self.replaying = false;
    }

    /// Where retained messages are, in the order of the journal.
    pub(in super::super) fn retained_places(&self) -> Vec<Place> {
        let mut places: Vec<Place> = self
            .retained
            .values()
            .map(|(latest, _)| latest.place)
            .collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    /// Whether a topic's retained message is the one in this record.
    pub(in super::super) fn has_retained(&self, topic: &str, place: Place) -> bool {
        self.retained
            .get(&self.name(topic))
            .is_some_and(|(latest, _)| latest.place == place)
    }

    /// Whether a key is remembered until this moment.
    pub(in super::super) fn has_key(&self, key: &str, until: Timestamp) -> bool {
        self.keys
            .get(&self.name(key))
            .is_some_and(|(_, at)| *at == until)
    }

    /// Packet identifiers of a session that were not released, in order.
    pub(in super::super) fn packet_ids(&self, number: u64) -> Vec<u16> {
        let accepted = self.owners.get(&number).map(|owner| &owner.accepted);
        accepted.map_or(Vec::new(), |accepted| {
            accepted.iter().map(|(packet_id, _)| *packet_id).collect()
        })
    }

    /// Queues of an owner that hold something, by lane.
    pub(in super::super) fn queues(&self, number: u64) -> Vec<QueueSummary> {
        let Some(owner) = self.owners.get(&number) else {
            return Vec::new();
        };
        let lanes = owner.lanes.iter().map(|lane| (lane.id, &lane.queue));
        std::iter::once((0, &owner.queue))
            .chain(lanes)
            .filter(|(_, queue)| !queue.is_empty())
            .map(|(lane, queue)| summary(lane, queue))
            .collect()
    }
}

fn summary(lane: u32, queue: &Queue) -> QueueSummary {
    let mut summary = QueueSummary {
        lane,
        messages: queue.len(),
        bytes: 0,
        last_position: 0,
        from_group: false,
    };
    for slot in queue.behind(None) {
        summary.bytes += slot.size as usize;
        summary.last_position = slot.position;
        summary.from_group |= slot.has(FROM_GROUP);
    }
    summary
}
