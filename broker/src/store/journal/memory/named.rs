//! What is kept by name: sessions, groups, subscriptions, packet identifiers, retained messages and
//! idempotency keys. The latest record of each is live.

use protocols::model::Timestamp;

use super::super::super::{Op, QueueId};
use super::super::queue::{Place, Queue};
use super::{Latest, Memory, Name, Owner};

impl Memory {
    pub(super) fn hold_latest(&mut self, latest: Latest) {
        let bytes = u64::from(latest.bytes);
        self.segments.hold(latest.place.segment, bytes);
    }

    pub(super) fn drop_latest(&mut self, latest: Option<Latest>) {
        if let Some(latest) = latest {
            let bytes = u64::from(latest.bytes);
            self.segments.let_go(latest.place.segment, bytes);
        }
    }

    pub(super) fn named(&mut self, number: u64, is_group: bool, latest: Latest) {
        self.saw_number(number);
        let owner = self.owners.entry(number).or_default();
        owner.is_group = is_group;
        let old = owner.record.replace(latest);
        self.hold_latest(latest);
        self.drop_latest(old);
    }

    pub(super) fn end(&mut self, number: u64) {
        self.saw_number(number);
        if let Some(owner) = self.owners.remove(&number) {
            self.drop_owner(number, owner);
        }
    }

    pub(super) fn drop_owner(&mut self, number: u64, owner: Owner) {
        self.drop_latest(owner.record);
        self.drop_queue(number, 0, &owner.queue);
        for lane in owner.lanes {
            self.drop_latest(lane.subscription);
            self.drop_queue(number, lane.id, &lane.queue);
        }
        for (_, accepted) in owner.accepted {
            self.drop_latest(Some(accepted));
        }
    }

    pub(super) fn drop_queue(&mut self, owner: u64, lane: u32, queue: &Queue) {
        for slot in queue.all() {
            self.let_go(QueueId { owner, lane }, slot);
        }
    }

    /// The session or group that something belongs to, as [`Memory::queue_for`] has it.
    pub(super) fn owner_for(&mut self, number: u64) -> Option<&mut Owner> {
        self.saw_number(number);
        if self.replaying {
            return Some(self.owners.entry(number).or_default());
        }
        self.owners.get_mut(&number)
    }

    pub(super) fn subscription(&mut self, number: u64, id: u32, latest: Latest) {
        let Some(owner) = self.owner_for(number) else {
            return;
        };
        let old = owner.lane_mut(id).subscription.replace(latest);
        self.hold_latest(latest);
        self.drop_latest(old);
    }

    pub(super) fn end_subscription(&mut self, number: u64, id: u32) {
        let Some(owner) = self.owners.get_mut(&number) else {
            return;
        };
        if let Ok(at) = owner.lane(id) {
            let lane = owner.lanes.remove(at);
            self.drop_latest(lane.subscription);
            self.drop_queue(number, id, &lane.queue);
        }
    }

    pub(super) fn accepted(&mut self, number: u64, packet_id: u16, latest: Latest) {
        let Some(owner) = self.owner_for(number) else {
            return;
        };
        let old = match owner.accepted(packet_id) {
            Ok(at) => Some(std::mem::replace(&mut owner.accepted[at].1, latest)),
            Err(at) => {
                owner.accepted.insert(at, (packet_id, latest));
                None
            }
        };
        self.hold_latest(latest);
        self.drop_latest(old);
    }

    pub(super) fn released(&mut self, number: u64, packet_id: u16) {
        let Some(owner) = self.owners.get_mut(&number) else {
            return;
        };
        if let Ok(at) = owner.accepted(packet_id) {
            let (_, old) = owner.accepted.remove(at);
            self.drop_latest(Some(old));
        }
    }

    pub(super) fn name(&self, text: &str) -> Name {
        self.namer.name(text)
    }

    /// A topic's retained message.
    pub(in super::super) fn retain(
        &mut self,
        topic: &str,
        expires_at: Option<Timestamp>,
        latest: Latest,
    ) {
        let name = self.name(topic);
        let old = self.retained.insert(name, (latest, expires_at));
        self.hold_latest(latest);
        self.drop_latest(old.map(|(old, _)| old));
    }

    pub(super) fn unretain(&mut self, name: Name) {
        let old = self.retained.remove(&name);
        self.drop_latest(old.map(|(old, _)| old));
    }

    pub(super) fn key(&mut self, key: &str, until: Timestamp, latest: Latest) {
        let name = self.name(key);
        let old = match self.keys.get_mut(&name) {
            Some((old, at)) if *at == until => Some(std::mem::replace(old, latest)),
            _ => self.keys.push(name, (latest, until)).map(|(old, _)| old),
        };
        self.hold_latest(latest);
        self.drop_latest(old);
        if !self.replaying {
            self.bound_keys();
        }
    }

    /// Forgets idempotency keys whose time is over. Those that came out of order go a bit later.
    pub(in super::super) fn expire_keys(&mut self, now: Timestamp) {
        while self.keys.oldest().is_some_and(|(_, until)| *until <= now) {
            self.forget_oldest_key();
        }
    }

    /// Whether any idempotency key is remembered.
    pub(in super::super) fn has_keys(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Forgets the oldest keys beyond the bound. A replay does so at its end: copies of old keys come
    /// behind new ones.
    pub(super) fn bound_keys(&mut self) {
        while self.keys.len() > self.max_keys {
            self.forget_oldest_key();
        }
    }

    fn forget_oldest_key(&mut self) {
        let old = self.keys.pop_oldest();
        self.drop_latest(old.map(|(old, _)| old));
    }

    /// Whether a record is the latest that says something about what it names.
    pub(in super::super) fn is_latest(&self, op: &Op, place: Place) -> bool {
        let owner = |number: &u64| self.owners.get(number);
        let latest = match op {
            Op::Session(record) => owner(&record.number).and_then(|owner| owner.record),
            Op::Group { number, .. } => owner(number).and_then(|owner| owner.record),
            Op::Subscription { number, record } => owner(number).and_then(|owner| {
                let at = owner.lane(record.id.0).ok()?;
                owner.lanes[at].subscription
            }),
            Op::Accepted { number, packet_id } => owner(number).and_then(|owner| {
                let at = owner.accepted(*packet_id).ok()?;
                Some(owner.accepted[at].1)
            }),
            Op::Key { key, .. } => return self.is_key(key, place),
            _ => None,
        };
        latest.is_some_and(|latest| latest.place == place)
    }

    /// Whether a record is the latest of an idempotency key.
    pub(in super::super) fn is_key(&self, key: &str, place: Place) -> bool {
        let known = self.keys.get(&self.name(key));
        known.is_some_and(|(latest, _)| latest.place == place)
    }

    /// Whether a topic's retained message is the one in this record. One that expired is forgotten.
    pub(in super::super) fn is_retained(
        &mut self,
        topic: &str,
        place: Place,
        now: Timestamp,
    ) -> bool {
        let name = self.name(topic);
        match self.retained.get(&name) {
            Some((latest, _)) if latest.place != place => false,
            Some((_, Some(at))) if *at <= now => {
                self.unretain(name);
                false
            }
            found => found.is_some(),
        }
    }
}
