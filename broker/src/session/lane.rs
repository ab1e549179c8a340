//! A queue of acknowledged messages with a window of open ones.
//!
//! A session has one lane for all its subscriptions (MQTT, JSON) or one for each (STOMP). The
//! entries at the front are *open*: sent and not settled yet; the others wait for room in the
//! window. Nothing here knows sockets or locks; [`super::State`] sends what [`Lane::due`] offers.

use std::collections::VecDeque;
use std::sync::Arc;

use protocols::connection::{Matched, Position, SubscriptionId};
use protocols::model::{Message, QoS};
use smallvec::SmallVec;

use super::Group;

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
    pub group: Option<Arc<Group>>,
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
        }
    }

    /// Messages in it, open and waiting.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many are sent and not settled.
    pub fn open(&self) -> usize {
        self.open
    }

    /// Whether a further message could be sent at once.
    pub fn has_room(&self) -> bool {
        self.entries.len() == self.open && self.open < usize::from(self.window)
    }

    /// Puts a message behind all others.
    pub fn push(&mut self, entry: Entry) {
        self.entries.push_back(entry);
    }

    /// The next message to send, if the window has room.
    pub fn due(&mut self) -> Option<&mut Entry> {
        if self.open >= usize::from(self.window) {
            return None;
        }
        let oldest = self.entries.front()?.position;
        let entry = self.entries.get_mut(self.open)?;
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
        self.open += 1;
    }

    /// Removes the message that [`Lane::due`] offered instead of sending it.
    pub fn drop_next(&mut self) -> Option<Entry> {
        self.entries.remove(self.open)
    }

    /// Marks an open message as received by the client. `false` if it is not open.
    pub fn receive(&mut self, position: Position) -> bool {
        match self.find(position) {
            Some(at) => {
                self.entries[at].received = true;
                true
            }
            None => false,
        }
    }

    /// Removes an open message.
    pub fn settle(&mut self, position: Position) -> Option<Entry> {
        let at = self.find(position)?;
        self.open -= 1;
        self.entries.remove(at)
    }

    /// Removes all open messages up to and including one, in the order they were sent.
    pub fn settle_through(&mut self, position: Position) -> Vec<Entry> {
        let Some(at) = self.find(position) else {
            return Vec::new();
        };
        self.open -= at + 1;
        self.entries.drain(..=at).collect()
    }

    /// Puts a message that was not taken first in the line of those that wait.
    pub fn requeue(&mut self, entry: Entry) {
        self.entries.insert(self.open, entry);
    }

    /// The connection is gone: all that was open waits again, in order.
    pub fn reset(&mut self) {
        self.open = 0;
    }

    /// Empties the lane.
    pub fn drain(&mut self) -> impl Iterator<Item = Entry> + '_ {
        self.open = 0;
        self.entries.drain(..)
    }

    fn find(&self, position: Position) -> Option<usize> {
        let open = self.entries.iter().take(self.open);
        open.into_iter()
            .position(|entry| entry.position == position)
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
        }
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
        lane.receive(1);
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
}
