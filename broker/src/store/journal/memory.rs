//! What the store holds, as memory knows it: all that is live, and where the journal has it.
//!
//! It is changed by records and by nothing else, in their order: the same code runs on what was
//! just written and on what is read back when the journal is opened, so both agree. For each
//! segment it counts what is live in it, which decides when the segment may go.

mod ends;
mod named;

use std::collections::HashMap;

use foldhash::fast::RandomState;
use protocols::connection::Position;
use protocols::model::{Message, Timestamp};
use protocols::recent::{Name, Namer, Recent};

use super::super::codec::{self, Malformed, Scanned};
use super::super::{Op, QueueId, Receiver};
use super::queue::{FROM_GROUP, MOVED, Place, Queue, RECEIVED, SHARED, Slot};
use super::segments::Segments;

/// A record that is kept by name: the latest is live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Latest {
    pub(super) place: Place,
    pub(super) bytes: u32,
}

/// A session or group.
#[derive(Debug, Default)]
struct Owner {
    /// The latest record; none while a replay knows only what belongs to it.
    record: Option<Latest>,
    is_group: bool,
    /// Lane 0.
    queue: Queue,
    /// Subscriptions and their lanes, sorted by number.
    lanes: Vec<Lane>,
    /// Packet identifiers, sorted.
    accepted: Vec<(u16, Latest)>,
}

#[derive(Debug)]
struct Lane {
    id: u32,
    subscription: Option<Latest>,
    queue: Queue,
}

/// An entry that is in its record under another name.
#[derive(Debug)]
struct Moved {
    origin: (QueueId, Position),
    terms: Receiver,
}

/// What entries share in one record.
#[derive(Debug, Default)]
struct SharedBody {
    entries: u32,
    bytes: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Memory {
    owners: HashMap<u64, Owner, RandomState>,
    moved: HashMap<(QueueId, Position), Moved, RandomState>,
    /// Where the entries that a record holds under other names are now.
    moved_from: HashMap<(Place, QueueId, Position), (QueueId, Position), RandomState>,
    shared: HashMap<Place, SharedBody, RandomState>,
    retained: HashMap<Name, (Latest, Option<Timestamp>), RandomState>,
    /// Idempotency keys, and when they end: about in that order.
    keys: Recent<(Latest, Timestamp)>,
    max_keys: usize,
    namer: Namer,
    /// Segments and what is live in them.
    pub(super) segments: Segments,
    entries: u64,
    next_number: u64,
    replaying: bool,
}

/// An entry, with what is needed to read and deliver it.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) slot: Slot,
    /// Its name in its record.
    pub(super) origin: (QueueId, Position),
    /// How it is delivered, if that is not in the record.
    pub(super) terms: Option<Receiver>,
}

/// A queue that is not empty.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueSummary {
    pub(super) lane: u32,
    pub(super) messages: usize,
    pub(super) bytes: usize,
    pub(super) last_position: Position,
    pub(super) from_group: bool,
}

/// Bytes that a message with one receiver takes in the journal, about; from its size in memory, so
/// that what is added is taken away again to the byte.
fn bytes_on_disk(size: u32) -> u64 {
    u64::from(size).saturating_sub(size_of::<Message>() as u64) + 40
}

impl Memory {
    /// Empty, and ready to replay. Of keys it keeps the latest `max_keys`.
    pub(super) fn new(max_keys: usize) -> Self {
        Self {
            owners: HashMap::default(),
            moved: HashMap::default(),
            moved_from: HashMap::default(),
            shared: HashMap::default(),
            retained: HashMap::default(),
            keys: Recent::default(),
            max_keys,
            namer: Namer::default(),
            segments: Segments::default(),
            entries: 0,
            next_number: 1,
            replaying: true,
        }
    }

    /// Entries in all queues.
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    /// A number above all that sessions and groups ever had.
    pub(super) fn next_number(&self) -> u64 {
        self.next_number
    }

    /// Numbers below this one are taken.
    pub(super) fn skip_numbers(&mut self, next: u64) {
        self.next_number = self.next_number.max(next);
    }

    fn saw_number(&mut self, number: u64) {
        self.next_number = self.next_number.max(number.saturating_add(1));
    }

    /// Lets a record have its effect. Operations that are kept by name are handed over too.
    ///
    /// A copy changes only where entries are; while replaying it is what brings them.
    pub(super) fn apply(
        &mut self,
        payload: &[u8],
        place: Place,
        is_copy: bool,
        mut seen: impl FnMut(Scanned<'_>),
    ) -> Result<(), Malformed> {
        for record in codec::scan(payload) {
            let record = record?;
            // A payload has less than 2^30 bytes.
            let bytes = u32::try_from(record.range.len()).unwrap_or(u32::MAX);
            match record.what {
                Scanned::Message {
                    receivers, size, ..
                } => self.message(&receivers, size, bytes, place, is_copy),
                Scanned::Retain {
                    topic, expires_at, ..
                } => self.retain(topic, expires_at, Latest { place, bytes }),
                Scanned::Key { key, until, .. } => {
                    self.key(key, until, Latest { place, bytes });
                    seen(record.what);
                }
                Scanned::Other(ref op) => {
                    self.other(op, Latest { place, bytes });
                    seen(record.what);
                }
            }
        }
        Ok(())
    }

    /// A message for some queues, in a record of so many bytes.
    pub(super) fn message(
        &mut self,
        receivers: &[Receiver],
        size: usize,
        bytes: u32,
        place: Place,
        is_copy: bool,
    ) {
        let only_known = is_copy && !self.replaying;
        let slot = Slot {
            position: 0,
            place,
            size: u32::try_from(size).unwrap_or(u32::MAX),
            flags: if receivers.len() > 1 { SHARED } else { 0 },
        };
        let mut bytes = u64::from(bytes);
        for receiver in receivers {
            if only_known && self.find(receiver.queue, receiver.position).is_none() {
                // It was dropped while the copy was written.
                continue;
            }
            let slot = Slot {
                position: receiver.position,
                flags: slot.flags | from_group(receiver),
                ..slot
            };
            if self.put(receiver.queue, slot, bytes) {
                bytes = 0;
            }
        }
    }

    /// Any other operation but a retained message.
    pub(super) fn other(&mut self, op: &Op, latest: Latest) {
        match op {
            Op::Done { queue, position } => {
                self.take(*queue, *position);
            }
            Op::Received { queue, position } => {
                if let Some(slot) = self.find_mut(*queue, *position) {
                    slot.flags |= RECEIVED;
                }
            }
            Op::Move { from, position, to } => self.relocate(*from, *position, to),
            Op::Session(record) => self.named(record.number, false, latest),
            Op::Group { number, .. } => self.named(*number, true, latest),
            Op::SessionEnd { number } | Op::GroupEnd { number } => self.end(*number),
            Op::Subscription { number, record } => {
                self.subscription(*number, record.id.0, latest);
            }
            Op::SubscriptionEnd { number, id } => self.end_subscription(*number, id.0),
            Op::Accepted { number, packet_id } => self.accepted(*number, *packet_id, latest),
            Op::Released { number, packet_id } => self.released(*number, *packet_id),
            Op::Unretain { topic } => {
                let name = self.name(topic);
                self.unretain(name);
            }
            Op::Key { key, until, .. } => self.key(key, *until, latest),
            // These have their own ways.
            Op::Message { .. } | Op::Retain { .. } => {}
        }
    }

    // Entries.

    /// Says whether the queue is known; an entry for nobody is dead on arrival.
    fn put(&mut self, queue: QueueId, slot: Slot, bytes: u64) -> bool {
        let replaying = self.replaying;
        self.saw_number(queue.owner);
        let Some(target) = self.queue_for(queue) else {
            return false;
        };
        let old = target.put(slot, replaying);
        self.hold(&slot, bytes);
        if let Some(old) = old {
            self.let_go(queue, &old);
        }
        true
    }

    /// Takes an entry out of its queue.
    pub(super) fn take(&mut self, queue: QueueId, position: Position) -> Option<Slot> {
        let slot = self.queue_mut(queue)?.take(position)?;
        self.let_go(queue, &slot);
        Some(slot)
    }

    fn relocate(&mut self, from: QueueId, position: Position, to: &Receiver) {
        self.saw_number(to.queue.owner);
        let Some(slot) = self.queue_mut(from).and_then(|queue| queue.take(position)) else {
            return;
        };
        let origin = if slot.has(MOVED) {
            self.forget_moved(from, &slot)
        } else {
            None
        };
        let origin = origin.unwrap_or((from, position));
        let moved = Slot {
            position: to.position,
            flags: (slot.flags & SHARED) | MOVED | from_group(to),
            ..slot
        };
        let replaying = self.replaying;
        let Some(queue) = self.queue_for(to.queue) else {
            // Its receiver is gone.
            let plain = Slot {
                flags: slot.flags & !MOVED,
                ..slot
            };
            self.let_go(from, &plain);
            return;
        };
        if let Some(old) = queue.put(moved, replaying) {
            self.let_go(to.queue, &old);
        }
        let name = (to.queue, to.position);
        self.moved_from
            .insert((slot.place, origin.0, origin.1), name);
        let terms = to.clone();
        self.moved.insert(name, Moved { origin, terms });
    }

    fn forget_moved(&mut self, queue: QueueId, slot: &Slot) -> Option<(QueueId, Position)> {
        let origin = self.moved.remove(&(queue, slot.position))?.origin;
        self.moved_from.remove(&(slot.place, origin.0, origin.1));
        Some(origin)
    }

    /// Counts an entry that came; `bytes` are those of what it shares, with the first that does.
    fn hold(&mut self, slot: &Slot, bytes: u64) {
        self.entries += 1;
        let live = if slot.has(SHARED) {
            let shared = self.shared.entry(slot.place).or_default();
            shared.entries += 1;
            shared.bytes += bytes;
            bytes
        } else {
            bytes_on_disk(slot.size)
        };
        self.segments.hold(slot.place.segment, live);
    }

    /// Counts an entry that went.
    fn let_go(&mut self, queue: QueueId, slot: &Slot) {
        if slot.has(MOVED) {
            self.forget_moved(queue, slot);
        }
        self.entries -= 1;
        let mut live = 0;
        if !slot.has(SHARED) {
            live = bytes_on_disk(slot.size);
        } else if let Some(shared) = self.shared.get_mut(&slot.place) {
            shared.entries -= 1;
            if shared.entries == 0 {
                live = shared.bytes;
                self.shared.remove(&slot.place);
            }
        }
        self.segments.let_go(slot.place.segment, live);
    }

    fn queue(&self, id: QueueId) -> Option<&Queue> {
        let owner = self.owners.get(&id.owner)?;
        if id.lane == 0 {
            return Some(&owner.queue);
        }
        owner.lane(id.lane).ok().map(|at| &owner.lanes[at].queue)
    }

    fn queue_mut(&mut self, id: QueueId) -> Option<&mut Queue> {
        let owner = self.owners.get_mut(&id.owner)?;
        if id.lane == 0 {
            return Some(&mut owner.queue);
        }
        let at = owner.lane(id.lane).ok()?;
        Some(&mut owner.lanes[at].queue)
    }

    /// The queue to put something in. At run time one whose owner is not known gets nothing; while
    /// replaying that is decided at the end, since what says who there is may be a late copy.
    fn queue_for(&mut self, id: QueueId) -> Option<&mut Queue> {
        if !self.replaying {
            return self.queue_mut(id);
        }
        let owner = self.owners.entry(id.owner).or_default();
        if id.lane == 0 {
            return Some(&mut owner.queue);
        }
        Some(&mut owner.lane_mut(id.lane).queue)
    }

    /// An entry.
    pub(super) fn find(&self, queue: QueueId, position: Position) -> Option<&Slot> {
        self.queue(queue)?.find(position)
    }

    fn find_mut(&mut self, queue: QueueId, position: Position) -> Option<&mut Slot> {
        self.queue_mut(queue)?.find_mut(position)
    }

    /// Entries of a queue behind `after` and below `before`, in order.
    pub(super) fn wanted(
        &self,
        queue: QueueId,
        after: Option<Position>,
        before: Option<Position>,
    ) -> impl Iterator<Item = Wanted> {
        self.queue(queue)
            .into_iter()
            .flat_map(move |entries| entries.behind(after))
            .take_while(move |slot| before.is_none_or(|before| slot.position < before))
            .map(move |slot| self.want(queue, slot))
    }

    fn want(&self, queue: QueueId, slot: &Slot) -> Wanted {
        let name = (queue, slot.position);
        let moved = slot.has(MOVED).then(|| self.moved.get(&name)).flatten();
        Wanted {
            slot: *slot,
            origin: moved.map_or(name, |moved| moved.origin),
            terms: moved.map(|moved| moved.terms.clone()),
        }
    }

    // Copies of what is live.

    /// Who of a record's receivers still waits for its message: each with the name and terms that it
    /// has now, and whether it was received already.
    pub(super) fn live_receivers(
        &self,
        receivers: Vec<Receiver>,
        place: Place,
    ) -> Vec<(Receiver, bool)> {
        let mut live = Vec::new();
        for receiver in receivers {
            let name = (receiver.queue, receiver.position);
            if let Some(moved) = self
                .moved_from
                .get(&(place, name.0, name.1))
                .and_then(|name| self.moved.get(name))
            {
                let now = &moved.terms;
                let received = self.is_received(now.queue, now.position);
                live.push((now.clone(), received));
            } else if let Some(slot) = self.find(name.0, name.1)
                && slot.place == place
                && !slot.has(MOVED)
            {
                live.push((receiver, slot.has(RECEIVED)));
            }
        }
        live
    }

    fn is_received(&self, queue: QueueId, position: Position) -> bool {
        self.find(queue, position)
            .is_some_and(|slot| slot.has(RECEIVED))
    }
}

impl Owner {
    fn lane(&self, id: u32) -> Result<usize, usize> {
        self.lanes.binary_search_by_key(&id, |lane| lane.id)
    }

    fn lane_mut(&mut self, id: u32) -> &mut Lane {
        let at = match self.lane(id) {
            Ok(at) => at,
            Err(at) => {
                if self.lanes.len() == self.lanes.capacity() && self.lanes.len() < 4 {
                    // Most sessions have one.
                    self.lanes.reserve_exact(1);
                }
                let lane = Lane {
                    id,
                    subscription: None,
                    queue: Queue::default(),
                };
                self.lanes.insert(at, lane);
                at
            }
        };
        &mut self.lanes[at]
    }

    fn accepted(&self, packet_id: u16) -> Result<usize, usize> {
        self.accepted
            .binary_search_by_key(&packet_id, |(id, _)| *id)
    }
}

fn from_group(receiver: &Receiver) -> u8 {
    if receiver.group.is_some() {
        FROM_GROUP
    } else {
        0
    }
}
