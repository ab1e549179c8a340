//! What is on its way to the broker: packet identifiers, acknowledgements, and what to send again.
//!
//! No I/O and no clock. [`super::connection`] feeds it what the broker says and asks what to write
//! next. Each publication leaves with exactly one verdict, in whatever order the broker
//! acknowledges, or comes out again when the connection is lost, in the order it came in.
//!
//! ```text
//!         push            next                 PUBACK / PUBCOMP
//! queue ───────▶ waiting ───────▶ open ─────────────────────────▶ verdict
//!   ▲               │               │
//!   └───── lost ────┴───────────────┘
//! ```

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish};

use crate::numbered::Numbered;

/// What became of a publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The broker has taken it over.
    Accepted,
    /// It has not.
    Refused {
        /// Whether trying again can help.
        refusal: Refusal,
        /// In words.
        reason: String,
    },
}

/// Whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The broker has too much to do: it will, later.
    Busy,
    /// Nobody knows: it may.
    Unclear,
    /// The message itself is at fault: it will not.
    Final,
}

/// What came of asking for the next one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<T> {
    /// It was written and has its verdict later.
    Written,
    /// It has its verdict.
    Done(T, Verdict),
    /// Nothing waits, or the broker takes no more just now.
    Nothing,
}

/// A publication on its way. The packet is boxed: the item is handed on many times.
#[derive(Debug)]
pub(super) struct Item<T> {
    packet: Box<Packet>,
    qos: QoS,
    ticket: T,
}

#[derive(Debug)]
struct Open<T> {
    item: Item<T>,
    /// PUBREL was sent: the identifier stays taken until PUBCOMP.
    released: bool,
}

/// Publications of one connection. `T` is given back with the verdict.
#[derive(Debug)]
pub(super) struct Window<T> {
    waiting: VecDeque<Item<T>>,
    /// In the order in which they were written.
    open: Numbered<Open<T>>,
    /// Where the one with a packet identifier is among them.
    numbers: HashMap<u16, u64, RandomState>,
    last_id: u16,
    /// The broker's Receive Maximum `[MQTT-3.3.4-9]`.
    max_open: usize,
}

impl<T> Item<T> {
    /// A PUBLISH, for its first time.
    pub(super) fn new(publish: Publish, ticket: T) -> Self {
        Self {
            qos: publish.qos,
            packet: Box::new(Packet::Publish(publish)),
            ticket,
        }
    }

    /// Its quality of service.
    pub(super) fn qos(&self) -> QoS {
        self.qos
    }

    #[cfg(test)]
    pub(super) fn into_parts(self) -> (Publish, T) {
        match *self.packet {
            Packet::Publish(publish) => (publish, self.ticket),
            other => panic!("{other:?} is not a PUBLISH"),
        }
    }

    #[cfg(test)]
    pub(super) fn topic(&self) -> &str {
        match &*self.packet {
            Packet::Publish(publish) => super::packets::topic(publish),
            _ => "",
        }
    }
}

impl<T> Default for Window<T> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            open: Numbered::default(),
            numbers: HashMap::default(),
            last_id: 0,
            max_open: usize::from(u16::MAX),
        }
    }
}

impl<T> Window<T> {
    /// Takes a publication in.
    pub(super) fn push(&mut self, item: Item<T>) {
        self.waiting.push_back(item);
    }

    /// How many more may be taken in, so that all can be written at once.
    #[must_use]
    pub(super) fn room(&self) -> usize {
        self.max_open
            .saturating_sub(self.open.len() + self.waiting.len())
    }

    /// Whether everything has its verdict.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.open.is_empty()
    }

    /// A connection is there; the broker takes so many QoS 1 and 2 messages at a time.
    pub(super) fn connected(&mut self, receive_maximum: u16) {
        debug_assert!(self.is_empty(), "the last connection was lost first");
        self.max_open = usize::from(receive_maximum.max(1));
    }

    /// The connection is gone: whatever has no verdict comes out, in its order.
    pub(super) fn lost(&mut self) -> impl DoubleEndedIterator<Item = Item<T>> + use<T> {
        self.numbers.clear();
        let open = self.open.take().map(|open| open.item);
        open.chain(std::mem::take(&mut self.waiting))
    }

    /// Hands out the packet to write next through `write`, which says whether it could be written.
    /// What could not, and what has QoS 0, has its verdict at once.
    pub(super) fn next(&mut self, write: impl FnOnce(&Packet) -> Result<(), String>) -> Next<T> {
        let Some(qos) = self.waiting.front().map(|item| item.qos) else {
            return Next::Nothing;
        };
        if qos != QoS::AtMostOnce && self.open.len() >= self.max_open {
            return Next::Nothing;
        }
        let Some(mut item) = self.waiting.pop_front() else {
            return Next::Nothing;
        };
        let packet_id = (qos != QoS::AtMostOnce).then(|| self.free_id());
        if let Packet::Publish(publish) = &mut *item.packet {
            publish.pkid = packet_id.unwrap_or(0);
        }
        if let Err(reason) = write(&item.packet) {
            let refusal = Refusal::Final;
            return Next::Done(item.ticket, Verdict::Refused { refusal, reason });
        }
        let Some(packet_id) = packet_id else {
            return Next::Done(item.ticket, Verdict::Accepted);
        };
        self.last_id = packet_id;
        let released = false;
        let number = self.open.push(Open { item, released });
        self.numbers.insert(packet_id, number);
        Next::Written
    }

    /// PUBACK, PUBCOMP, or a PUBREC that refuses. None if there is no such publication: the broker
    /// is confused, and the connection should end.
    pub(super) fn finish(&mut self, packet_id: u16, verdict: Verdict) -> Option<(T, Verdict)> {
        let number = self.numbers.remove(&packet_id)?;
        let open = self.open.remove(number)?;
        Some((open.item.ticket, verdict))
    }

    /// A PUBREC that accepts: whether PUBREL is to be written `[MQTT-4.3.3-4]`.
    pub(super) fn received(&mut self, packet_id: u16) -> bool {
        let number = self.numbers.get(&packet_id);
        match number.and_then(|number| self.open.get_mut(*number)) {
            Some(open) if open.item.qos == QoS::ExactlyOnce => {
                open.released = true;
                true
            }
            _ => false,
        }
    }

    /// Whether PUBREL was written for an identifier.
    #[must_use]
    pub(super) fn is_released(&self, packet_id: u16) -> bool {
        let number = self.numbers.get(&packet_id);
        number
            .and_then(|number| self.open.get(*number))
            .is_some_and(|open| open.released)
    }

    /// The next identifier that is not taken. There is one: `max_open` is below their number.
    fn free_id(&self) -> u16 {
        let mut id = self.last_id;
        loop {
            id = id.checked_add(1).unwrap_or(1);
            if !self.numbers.contains_key(&id) {
                return id;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn item(name: u32, qos: QoS) -> Item<u32> {
        Item::new(Publish::new(name.to_string(), qos, "x", None), name)
    }

    /// Writes all that can be written; identifiers and names in their order.
    fn write(window: &mut Window<u32>) -> Vec<(u16, u32)> {
        let mut written = Vec::new();
        while window.next(|packet| {
            let Packet::Publish(publish) = packet else {
                panic!("{packet:?}");
            };
            let name = std::str::from_utf8(&publish.topic).unwrap();
            written.push((publish.pkid, name.parse().unwrap()));
            Ok(())
        }) != Next::Nothing
        {}
        written
    }

    fn with(names: std::ops::Range<u32>, qos: QoS) -> Window<u32> {
        let mut window = Window::default();
        for name in names {
            window.push(item(name, qos));
        }
        window
    }

    /// The connection ends, and the next one takes what had no verdict.
    fn reconnect(window: &mut Window<u32>, receive_maximum: u16) {
        let items: Vec<_> = window.lost().collect();
        window.connected(receive_maximum);
        for item in items {
            window.push(item);
        }
    }

    fn connected(names: std::ops::Range<u32>, qos: QoS, receive_maximum: u16) -> Window<u32> {
        let mut window = with(names, qos);
        reconnect(&mut window, receive_maximum);
        window
    }

    #[test]
    fn each_acknowledgement_finds_its_publish() {
        let mut window = connected(0..4, QoS::AtLeastOnce, 10);
        assert_eq!(write(&mut window), [(1, 0), (2, 1), (3, 2), (4, 3)]);
        for (id, name) in [(3, 2), (1, 0), (4, 3), (2, 1)] {
            assert_eq!(
                window.finish(id, Verdict::Accepted),
                Some((name, Verdict::Accepted))
            );
            assert_eq!(window.finish(id, Verdict::Accepted), None, "twice");
        }
        assert!(window.is_empty());
    }

    /// [MQTT-3.3.4-9]
    #[test]
    fn no_more_are_open_than_the_broker_takes() {
        let mut window = with(0..4, QoS::AtLeastOnce);
        window.push(item(9, QoS::AtMostOnce));
        reconnect(&mut window, 2);
        assert_eq!(window.room(), 0);
        assert_eq!(write(&mut window), [(1, 0), (2, 1)]);
        window.finish(2, Verdict::Accepted);
        assert_eq!(write(&mut window), [(3, 2)]);
        window.finish(1, Verdict::Accepted);
        window.finish(3, Verdict::Accepted);
        assert_eq!(write(&mut window), [(4, 3), (0, 9)]);
    }

    #[test]
    fn after_a_loss_everything_unacknowledged_goes_again_in_order() {
        let mut window = connected(0..5, QoS::AtLeastOnce, 3);
        write(&mut window);
        window.finish(2, Verdict::Accepted);
        reconnect(&mut window, 10);
        let names: Vec<_> = write(&mut window)
            .into_iter()
            .map(|(_, name)| name)
            .collect();
        assert_eq!(names, [0, 2, 3, 4]);
        assert_eq!(
            window.finish(1, Verdict::Accepted),
            None,
            "of the connection before"
        );
    }

    /// [MQTT-2.2.1-2]: an identifier is taken until PUBCOMP.
    #[test]
    fn an_identifier_is_not_given_twice() {
        let mut window = connected(0..1, QoS::ExactlyOnce, u16::MAX);
        write(&mut window);
        assert!(window.received(1));
        assert!(window.is_released(1));
        for round in 0..70_000_u32 {
            window.push(item(round, QoS::AtLeastOnce));
            let written = write(&mut window);
            assert_ne!(written[0].0, 1);
            assert_ne!(written[0].0, 0);
            assert!(window.finish(written[0].0, Verdict::Accepted).is_some());
        }
        assert_eq!(
            window.finish(1, Verdict::Accepted),
            Some((0, Verdict::Accepted))
        );
    }

    #[test]
    fn what_cannot_be_written_is_refused_alone() {
        let mut window = connected(0..2, QoS::AtLeastOnce, 10);
        let refused = window.next(|_| Err("too large".into()));
        let expected = Verdict::Refused {
            refusal: Refusal::Final,
            reason: "too large".into(),
        };
        assert_eq!(refused, Next::Done(0, expected));
        assert_eq!(write(&mut window), [(1, 1)]);
    }

    #[test]
    fn pubrec_of_something_else_is_not_answered() {
        let mut window = connected(0..1, QoS::AtLeastOnce, 10);
        write(&mut window);
        assert!(!window.received(1), "QoS 1");
        assert!(!window.received(7), "unknown");
    }

    proptest! {
        /// Whatever the broker acknowledges and however often the connection ends: each gets
        /// exactly one verdict, and the first time of each is in order.
        #[test]
        fn everything_gets_one_verdict(
            acks in proptest::collection::vec((0..8_usize, proptest::bool::weighted(0.1)), 1..200),
        ) {
            let mut window = connected(0..50, QoS::AtLeastOnce, 8);
            let mut open = write(&mut window);
            let mut first: Vec<u32> = open.iter().map(|(_, name)| *name).collect();
            let mut verdicts = Vec::new();
            for (pick, lost) in acks {
                if lost {
                    reconnect(&mut window, 8);
                    open = write(&mut window);
                } else if !open.is_empty() {
                    let (id, name) = open.remove(pick % open.len());
                    let verdict = window.finish(id, Verdict::Accepted);
                    prop_assert_eq!(verdict, Some((name, Verdict::Accepted)));
                    verdicts.push(name);
                    let more = write(&mut window);
                    first.extend(more.iter().map(|(_, name)| *name));
                    open.extend(more);
                }
            }
            let mut seen = Vec::new();
            for name in first {
                if !seen.contains(&name) {
                    seen.push(name);
                }
            }
            prop_assert!(seen.is_sorted());
            let count = verdicts.len();
            verdicts.sort_unstable();
            verdicts.dedup();
            prop_assert_eq!(verdicts.len(), count);
            prop_assert_eq!(window.lost().count() + count, 50);
        }
    }
}
