//! Packet identifiers: which are open towards the broker, and which position an identifier
//! towards the client stands for.

use std::num::NonZeroU16;

use crate::connection::Position;
use crate::mqtt::PacketId;

/// How many identifiers there are.
const IDENTIFIERS: u64 = 65_535;

/// What the client has published and not yet been answered to the end
/// (its use of the receive maximum) `[MQTT-3.3.4-9]`.
#[derive(Debug, Default)]
pub(super) struct OpenIn {
    /// QoS 1 publishes without PUBACK.
    at_least_once: u16,
    /// Identifiers of QoS 2 publishes without PUBCOMP, sorted.
    exactly_once: Vec<u16>,
}

impl OpenIn {
    /// How many are open at QoS 1.
    pub(super) fn at_least_once(&self) -> usize {
        usize::from(self.at_least_once)
    }

    /// How many are open at QoS 2.
    pub(super) fn exactly_once(&self) -> usize {
        self.exactly_once.len()
    }

    /// Whether a QoS 2 publish with this identifier is open.
    pub(super) fn holds(&self, packet_id: PacketId) -> bool {
        self.exactly_once.binary_search(&packet_id.get()).is_ok()
    }

    /// A QoS 1 publish came in.
    pub(super) fn begin_once(&mut self) {
        self.at_least_once = self.at_least_once.saturating_add(1);
    }

    /// A QoS 1 publish was answered.
    pub(super) fn end_once(&mut self) {
        self.at_least_once = self.at_least_once.saturating_sub(1);
    }

    /// A QoS 2 publish came in, perhaps once more.
    pub(super) fn begin(&mut self, packet_id: PacketId) {
        if let Err(at) = self.exactly_once.binary_search(&packet_id.get()) {
            self.exactly_once.insert(at, packet_id.get());
        }
    }

    /// A QoS 2 publish was answered to the end. The identifier may belong to an earlier
    /// connection of the session and be unknown here.
    pub(super) fn end(&mut self, packet_id: u16) {
        if let Ok(at) = self.exactly_once.binary_search(&packet_id) {
            self.exactly_once.remove(at);
        }
        if self.exactly_once.is_empty() {
            // An idle connection owns no table.
            self.exactly_once = Vec::new();
        }
    }
}

/// The positions that were sent to the client, seen from their packet identifiers.
///
/// The identifier is 1 + position mod 65,535, so that a message has the same one after a crash.
/// The session keeps the positions that are open at the same time closer together than that.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// One more than the highest position that was sent on this connection.
    end: Position,
}

impl Sent {
    /// The identifier of a position.
    #[inline]
    pub(super) fn packet_id(position: Position) -> PacketId {
        // The remainder is below 65,535, so neither step can fail.
        u16::try_from(position % IDENTIFIERS)
            .ok()
            .and_then(|rest| NonZeroU16::MIN.checked_add(rest))
            .unwrap_or(NonZeroU16::MIN)
    }

    /// Takes note of a position that is being sent.
    #[inline]
    pub(super) fn note(&mut self, position: Position) {
        self.end = self.end.max(position.saturating_add(1));
    }

    /// The position that an identifier stands for: the latest that was sent with it. `None` if
    /// none can have been.
    pub(super) fn position(&self, packet_id: PacketId) -> Option<Position> {
        let last = self.end.checked_sub(1)?;
        let rest = u64::from(packet_id.get()) - 1;
        let back = (last % IDENTIFIERS + IDENTIFIERS - rest) % IDENTIFIERS;
        last.checked_sub(back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u16) -> PacketId {
        PacketId::new(number).unwrap()
    }

    #[test]
    fn identifiers_go_round_without_zero() {
        for (position, expected) in [
            (0, 1),
            (1, 2),
            (65_534, 65_535),
            (65_535, 1),
            (131_069, 65_535),
            (131_070, 1),
            (u64::MAX, 1),
        ] {
            assert_eq!(Sent::packet_id(position), id(expected), "{position}");
        }
    }

    #[test]
    fn an_identifier_is_the_latest_position_that_had_it() {
        let mut sent = Sent::default();
        assert_eq!(sent.position(id(1)), None, "nothing was sent");
        sent.note(2);
        assert_eq!(sent.position(id(3)), Some(2));
        assert_eq!(sent.position(id(1)), Some(0));
        assert_eq!(sent.position(id(4)), None, "not sent yet");
        assert_eq!(sent.position(id(65_535)), None);
        sent.note(65_536);
        assert_eq!(sent.position(id(2)), Some(65_536));
        assert_eq!(sent.position(id(3)), Some(2), "the next round has not come");
        assert_eq!(sent.position(id(65_535)), Some(65_534));
        sent.note(5);
        assert_eq!(
            sent.position(id(2)),
            Some(65_536),
            "a repeat changes nothing"
        );
    }

    #[test]
    fn every_position_finds_its_way_back() {
        let mut sent = Sent::default();
        for position in (0..200_000).step_by(7).chain([u64::MAX - 1]) {
            sent.note(position);
            assert_eq!(sent.position(Sent::packet_id(position)), Some(position));
        }
    }

    #[test]
    fn a_repeated_identifier_is_open_once() {
        let mut open = OpenIn::default();
        open.begin(id(7));
        open.begin(id(3));
        open.begin(id(7));
        assert_eq!(open.exactly_once(), 2);
        assert!(open.holds(id(3)));
        open.end(3);
        open.end(3);
        open.end(9);
        assert!(!open.holds(id(3)));
        open.end(7);
        assert_eq!(open.exactly_once.capacity(), 0);
        open.end_once();
        assert_eq!(open.at_least_once(), 0);
    }
}
