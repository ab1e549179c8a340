//! A queue of acknowledged messages with a window of open ones.
//!
//! A session has one lane for all its subscriptions (MQTT, JSON) or one for each (STOMP). The
//! entries at the front are *open*: sent and not settled yet; the others wait for room in the
//! window. Nothing here knows sockets or locks; [`super::State`] sends what [`Lane::due`] offers.
//!
//! A *stored* lane has a queue in the store: each of its entries is on disk before it is sent, and
//! those that do not fit into memory are on disk only ([`Spill`]).

use std::collections::VecDeque;
use std::sync::Arc;

use protocols::connection::{Matched, Position, SubscriptionId};
use protocols::model::{Message, QoS};
use smallvec::SmallVec;

use super::{Bounds, Group, Session, Spare, Spill, Wish};
use crate::store::{Loaded, QueueId, Store, Ticket};

/// Packet identifiers are positions modulo this; two open messages are never that far apart.
const POSITIONS_PER_CYCLE: u64 = 65_535;

/// One message for one client.
#[derive(Debug)]
pub struct Entry {
    /// Its number in the session.
    pub position: Position,
    /// The message, shared with its other receivers.
    pub message: Arc<Message>,
    /// The level that it is delivered with: at least once or exactly once.
    pub qos: QoS,
    /// The retain flag to show.
    pub retain: bool,
    /// How often it was sent before.
    pub attempts: u32,
    /// Whether the client said that it has it (PUBREC): only PUBREL remains to be sent.
    pub received: bool,
    /// The subscriptions that it comes from.
    pub matched: SmallVec<[Matched; 1]>,
    /// The group that it was taken from, to which it returns if this session ends.
    pub group: Option<Share>,
    /// The number of the session's queue in the store that it is in, if it is in one.
    pub stored: Option<u32>,
    /// What must be on disk before it is sent; `None` once it is, or if it is not stored at all.
    pub ticket: Option<Arc<Ticket>>,
}

/// Where an entry came from.
#[derive(Clone, Debug)]
pub struct Share {
    /// The group.
    pub group: Arc<Group>,
    /// Its position there.
    pub position: Position,
}

/// What was taken out to make room.
#[derive(Debug)]
pub enum Dropped {
    /// An entry that was in memory.
    Entry(Entry),
    /// One that was on disk only.
    Spilled {
        /// Bytes of its message.
        size: usize,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Lane {
    /// The subscription that it belongs to; `None` for the session's own lane.
    pub owner: Option<SubscriptionId>,
    /// How many may be open.
    pub window: u16,
    /// Settled as soon as it is written, for subscriptions that never acknowledge.
    pub auto_settle: bool,
    entries: VecDeque<Entry>,
    open: usize,
    /// Bytes of the messages in memory.
    bytes: usize,
    /// The greatest position that was sent: what is sent again says so.
    sent: Option<Position>,
    /// What is on disk only, if the lane is stored.
    spill: Option<Box<Spill>>,
}

impl Entry {
    /// The queue of a session in the store that it is in, if it is in one.
    pub fn queue(&self, session: &Session) -> Option<QueueId> {
        self.stored.map(|lane| QueueId {
            owner: session.number,
            lane,
        })
    }
}

impl Lane {
    /// An empty lane.
    pub fn new(owner: Option<SubscriptionId>, window: u16, auto_settle: bool) -> Self {
        Self {
            owner,
            window,
            auto_settle,
            entries: VecDeque::new(),
            open: 0,
            bytes: 0,
            sent: None,
            spill: None,
        }
    }

    /// Makes it a stored lane.
    pub fn store(&mut self) {
        self.spill.get_or_insert_default();
    }

    /// Makes it a stored lane of which so much was found on disk.
    pub fn restore(&mut self, spill: Spill) {
        self.spill = Some(Box::new(spill));
    }

    /// Whether its entries are in the store's queue of the same name.
    pub fn is_stored(&self) -> bool {
        self.spill.is_some()
    }

    /// Its number in the store.
    pub fn number(&self) -> u32 {
        self.owner.map_or(0, |owner| owner.0)
    }

    /// Messages in it, open and waiting.
    pub fn len(&self) -> usize {
        self.entries.len() + self.spilled()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Messages that are on disk only.
    pub fn spilled(&self) -> usize {
        self.spill.as_ref().map_or(0, |spill| spill.len())
    }

    /// Their bytes, about.
    pub fn spilled_bytes(&self) -> usize {
        self.spill.as_ref().map_or(0, |spill| spill.bytes())
    }

    /// The greatest position that was sent.
    pub fn sent_through(&self) -> Option<Position> {
        self.sent
    }

    /// Up to where messages were sent before the broker started.
    pub fn recover_sent(&mut self, through: Option<Position>) {
        self.sent = through;
    }

    /// How many are sent and not settled.
    pub fn open(&self) -> usize {
        self.open
    }

    /// Whether a further message could be sent at once.
    pub fn has_room(&self) -> bool {
        self.len() == self.open && self.open < usize::from(self.window)
    }

    /// Whether the next message goes to disk only: something that is there already is before it,
    /// or as much is in memory as may be, with what can be borrowed.
    pub fn spills(&mut self, bounds: &Bounds, spare: &'static Spare) -> bool {
        let Some(spill) = &mut self.spill else {
            return false;
        };
        if !spill.is_empty() {
            return true;
        }
        let has_room = self.bytes < bounds.memory_bytes.saturating_add(spill.loan.bytes());
        !has_room && !self.entries.is_empty() && !spill.loan.more(spare, bounds.spare_bytes)
    }

    /// Puts a message behind all others.
    pub fn push(&mut self, entry: Entry) {
        self.bytes += entry.message.size();
        if let Some(spill) = &mut self.spill {
            spill.pass(entry.position);
        }
        self.entries.push_back(entry);
    }

    /// Counts a message behind all others that is on disk only.
    pub fn push_spilled(&mut self, position: Position, size: usize, ticket: Arc<Ticket>) {
        if let Some(spill) = &mut self.spill {
            spill.push(position, size, ticket);
        }
    }

    /// What to read from the disk, if the entries in memory come to an end. `end` is the session's
    /// next position.
    pub fn wish(&mut self, limit: usize, end: Position) -> Option<Wish> {
        let window = usize::from(self.window);
        let ahead = self.entries.len() - self.open;
        if ahead > window / 2 || (self.bytes >= limit && ahead > 0) {
            return None;
        }
        let spill = self.spill.as_mut()?;
        spill.wish(window.clamp(16, 256), limit, end)
    }

    /// Takes what was read from the disk. Returns how many messages turned out to be gone, `None`
    /// if they are not wanted any more.
    pub fn loaded(&mut self, wish: &Wish, loaded: &Loaded) -> Option<usize> {
        self.spill.as_mut()?.loaded(wish, loaded)
    }

    /// Puts an entry that was read from the disk behind those in memory.
    pub fn push_loaded(&mut self, mut entry: Entry) {
        if self.sent.is_some_and(|sent| entry.position <= sent) {
            entry.attempts = entry.attempts.max(1);
        }
        self.bytes += entry.message.size();
        self.entries.push_back(entry);
    }

    /// Takes the first message that waits out, to make room.
    pub fn drop_oldest(&mut self, store: Option<&dyn Store>, owner: u64) -> Option<Dropped> {
        if self.open < self.entries.len() {
            return self.drop_next().map(Dropped::Entry);
        }
        let queue = QueueId {
            owner,
            lane: self.number(),
        };
        let spill = self.spill.as_mut().filter(|spill| !spill.is_reading())?;
        let (position, size) = store?.drop_first(queue, spill.behind())?;
        spill.dropped_first(position, size);
        Some(Dropped::Spilled { size })
    }

    /// The next message to send, if the window has room and it is on disk as far as it must be.
    pub fn due(&mut self) -> Option<&mut Entry> {
        if self.open >= usize::from(self.window) {
            return None;
        }
        let oldest = self.entries.front()?.position;
        let entry = self.entries.get_mut(self.open)?;
        if let Some(ticket) = &entry.ticket {
            if !ticket.is_durable() {
                return None;
            }
            entry.ticket = None;
        }
        let apart = entry.position.abs_diff(oldest);
        (apart < POSITIONS_PER_CYCLE).then_some(entry)
    }

    /// The message that [`Lane::due`] offered was sent.
    pub fn sent(&mut self) {
        debug_assert!(
            self.open < self.entries.len(),
            "only an offered message can be sent"
        );
        let entry = &mut self.entries[self.open];
        entry.attempts = entry.attempts.saturating_add(1);
        self.sent = self.sent.max(Some(entry.position));
        self.open += 1;
    }

    /// Removes the message that [`Lane::due`] offered instead of sending it.
    pub fn drop_next(&mut self) -> Option<Entry> {
        self.remove(self.open)
    }

    /// Marks an open message as received by the client and returns it, if it is open.
    pub fn receive(&mut self, position: Position) -> Option<&Entry> {
        let at = self.find(position)?;
        self.entries[at].received = true;
        self.entries.get(at)
    }

    /// Takes those of the messages that wait out that are wanted.
    pub fn take_waiting(&mut self, wanted: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        let mut taken = Vec::new();
        let mut at = self.open;
        while let Some(entry) = self.entries.get(at) {
            if entry.received || !wanted(entry) {
                at += 1;
            } else {
                taken.extend(self.remove(at));
            }
        }
        taken
    }

    /// Removes an open message.
    pub fn settle(&mut self, position: Position) -> Option<Entry> {
        let at = self.find(position)?;
        self.open -= 1;
        self.remove(at)
    }

    /// Removes all open messages up to and including one, in the order they were sent.
    pub fn settle_through(&mut self, position: Position) -> Vec<Entry> {
        let Some(at) = self.find(position) else {
            return Vec::new();
        };
        self.open -= at + 1;
        let settled: Vec<_> = self.entries.drain(..=at).collect();
        for entry in &settled {
            self.bytes = self.bytes.saturating_sub(entry.message.size());
        }
        self.shrink();
        settled
    }

    /// Puts a message that was not taken first in the line of those that wait.
    pub fn requeue(&mut self, entry: Entry) {
        self.bytes += entry.message.size();
        self.entries.insert(self.open, entry);
    }

    /// The connection is gone: all that was open waits again, in order. A stored lane forgets
    /// what is in memory, unless it would have to give it back to a group one day.
    pub fn reset(&mut self) {
        self.open = 0;
        let from_group = self.entries.iter().any(|entry| entry.group.is_some());
        let Some(spill) = self.spill.as_mut().filter(|_| !from_group) else {
            return;
        };
        let entries = self.entries.iter();
        spill.take_back(entries.map(|entry| {
            let size = entry.message.size();
            (entry.position, size, entry.ticket.as_ref())
        }));
        self.entries = VecDeque::new();
        self.bytes = 0;
        self.shrink();
    }

    /// Empties the lane of what is in memory.
    pub fn drain(&mut self) -> impl Iterator<Item = Entry> + '_ {
        self.open = 0;
        self.bytes = 0;
        self.shrink();
        self.entries.drain(..)
    }

    /// Gives back what it need not borrow any more.
    #[inline]
    fn shrink(&mut self) {
        if let Some(spill) = &mut self.spill {
            spill.loan.shrink(self.bytes);
        }
    }

    #[inline]
    fn remove(&mut self, at: usize) -> Option<Entry> {
        let entry = self.entries.remove(at)?;
        self.bytes = self.bytes.saturating_sub(entry.message.size());
        self.shrink();
        Some(entry)
    }

    /// Where an open message is. Positions grow from one entry to the next, unless messages were
    /// sent again: it is where it would be if none were missing between, or a little before, or
    /// anywhere.
    fn find(&self, position: Position) -> Option<usize> {
        let first = self.entries.front()?.position;
        let is_it = |&at: &usize| {
            self.entries
                .get(at)
                .is_some_and(|it| it.position == position)
        };
        let ahead = position.checked_sub(first).map(usize::try_from);
        let guess = match ahead {
            Some(Ok(ahead)) => ahead.saturating_add(1).min(self.open),
            _ => 0,
        };
        let mut before = (0..guess).rev();
        before
            .find(is_it)
            .or_else(|| (guess..self.open).find(is_it))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use protocols::model::Topic;

    use super::*;

    fn entry(position: Position) -> Entry {
        let topic = Topic::parse("a".into(), 64, 8).unwrap();
        Entry {
            position,
            message: Arc::new(Message::new(topic, Bytes::new(), QoS::AtLeastOnce, false)),
            qos: QoS::AtLeastOnce,
            retain: false,
            attempts: 0,
            received: false,
            matched: SmallVec::new(),
            group: None,
            stored: None,
            ticket: None,
        }
    }

    #[test]
    fn a_burst_borrows_memory_before_it_goes_to_disk_only() {
        const STEP: usize = 64 * 1024;
        let size = entry(1).message.size();
        let mut bounds = Bounds {
            queue_messages: 100,
            queue_bytes: 1 << 20,
            drop_oldest: false,
            memory_bytes: size,
            spare_bytes: STEP,
            outbox_bytes: 1,
            outbox_hard_bytes: 1,
        };
        let spare: &'static Spare = Box::leak(Box::default());
        let mut lane = Lane::new(None, 10, false);
        lane.store();
        for position in 1..=3 {
            assert!(!lane.spills(&bounds, spare));
            lane.push(entry(position));
        }
        assert_eq!(spare.lent(), STEP);
        lane.reset();
        assert_eq!(spare.lent(), 0, "its client has gone");

        bounds.spare_bytes = STEP - 1;
        let mut lane = Lane::new(None, 10, false);
        lane.store();
        assert!(!lane.spills(&bounds, spare));
        lane.push(entry(1));
        assert!(lane.spills(&bounds, spare), "there is nothing to borrow");
        assert_eq!(send_all(&mut lane), [1]);
        lane.settle(1).unwrap();
        assert!(!lane.spills(&bounds, spare));
    }

    fn send_all(lane: &mut Lane) -> Vec<Position> {
        let mut sent = Vec::new();
        while let Some(entry) = lane.due() {
            sent.push(entry.position);
            lane.sent();
        }
        sent
    }

    fn lane(window: u16, count: u64) -> Lane {
        let mut lane = Lane::new(None, window, false);
        for position in 0..count {
            lane.push(entry(position));
        }
        lane
    }

    #[test]
    fn the_window_bounds_what_is_open() {
        let mut lane = lane(2, 4);
        assert_eq!(send_all(&mut lane), [0, 1]);
        assert!(
            lane.settle(2).is_none(),
            "what was not sent cannot be settled"
        );
        assert!(lane.settle(1).is_some());
        assert_eq!(send_all(&mut lane), [2]);
        assert_eq!(lane.open(), 2);
    }

    #[test]
    fn after_a_reset_all_comes_again_in_order_and_says_so() {
        let mut lane = lane(3, 3);
        send_all(&mut lane);
        assert!(lane.receive(1).is_some());
        lane.reset();
        let first = lane.due().unwrap();
        assert_eq!((first.position, first.attempts), (0, 1));
        assert_eq!(send_all(&mut lane), [0, 1, 2]);
    }

    #[test]
    fn cumulative_settlement_takes_all_before() {
        let mut lane = lane(8, 5);
        send_all(&mut lane);
        let settled: Vec<_> = lane
            .settle_through(2)
            .iter()
            .map(|entry| entry.position)
            .collect();
        assert_eq!(settled, [0, 1, 2]);
        assert_eq!(lane.open(), 2);
        assert!(
            lane.settle_through(1).is_empty(),
            "a second time it means nothing"
        );
    }

    #[test]
    fn two_open_messages_never_share_a_packet_identifier() {
        let mut lane = Lane::new(None, 10, false);
        lane.push(entry(0));
        lane.push(entry(65_534));
        lane.push(entry(65_535));
        assert_eq!(send_all(&mut lane), [0, 65_534]);
        lane.settle(0);
        assert_eq!(send_all(&mut lane), [65_535]);
    }

    #[test]
    fn what_is_not_taken_comes_next() {
        let mut lane = lane(2, 3);
        send_all(&mut lane);
        let entry = lane.settle(0).unwrap();
        lane.requeue(entry);
        let next = lane.due().unwrap();
        assert_eq!((next.position, next.attempts), (0, 1));
    }

    #[test]
    fn an_open_message_is_found_in_any_order() {
        let mut lane = lane(8, 8);
        send_all(&mut lane);
        for position in [0, 7, 3] {
            let entry = lane.settle(position).unwrap();
            assert_eq!(entry.position, position);
            assert!(lane.settle(position).is_none(), "{position} is found twice");
            lane.requeue(entry);
            send_all(&mut lane);
        }
        // Sent last, the oldest is behind the younger ones.
        for position in [3, 1, 6, 0, 7, 2, 5, 4] {
            assert_eq!(lane.settle(position).unwrap().position, position);
        }
        assert!(lane.is_empty());
    }
}
