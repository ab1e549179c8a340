//! One who publishes: a frame that was encoded once, the number of the next message, and the
//! identifiers that wait for an acknowledgement.

use crate::wire::payload::{Stamp, write_hex};
use crate::wire::websocket;
use crate::wire::{IdForm, Transport, Wire};
use memchr::memmem;

/// Stands in a topic for a number of eight hexadecimal digits.
pub const PLACE: &str = "########";

/// What and how one publishes.
#[derive(Clone, Debug)]
pub struct Publication<'a> {
    /// The topic. If it contains [`PLACE`], the number of one of `topics` topics stands there.
    pub topic: &'a str,
    /// Topics that messages go to in turn.
    pub topics: u64,
    /// The quality of service.
    pub qos: u8,
    /// Whether the broker is to retain it.
    pub retain: bool,
    /// Size of the payload in bytes, at least that of a stamp.
    pub payload_bytes: usize,
    /// Messages that may wait for an acknowledgement at a time, at QoS 1 and 2.
    pub window: u16,
}

/// A publisher.
#[derive(Debug)]
pub struct Publisher {
    /// The number of its connection.
    pub client: usize,
    number: u32,
    next: u64,
    frame: Vec<u8>,
    stamp_at: usize,
    id: Option<(usize, IdForm)>,
    /// Where the topic's number is, and how many topics there are.
    place: Option<(usize, u64)>,
    masked: bool,
    /// Where the payload of the WebSocket frame begins.
    masked_from: usize,
    free: Vec<u16>,
    sent_at: Vec<u64>,
    window: usize,
}

impl Publisher {
    /// A publisher with this number that publishes on this connection.
    pub fn new(number: u32, client: usize, wire: Wire, what: &Publication<'_>) -> Self {
        let draft = wire
            .protocol
            .publish(what.topic, what.qos, what.retain, what.payload_bytes);
        let mut publisher = Self {
            client,
            number,
            next: 0,
            frame: draft.bytes,
            stamp_at: draft.stamp_at,
            id: draft.id,
            place: None,
            masked: false,
            masked_from: 0,
            free: Vec::new(),
            sent_at: Vec::new(),
            window: 0,
        };
        let place = memmem::find(&publisher.frame, PLACE.as_bytes());
        publisher.place = place.map(|at| (at, what.topics.max(1)));
        if what.qos > 0 {
            publisher.window = usize::from(what.window.max(1));
            publisher.free = (1..=what.window.max(1)).rev().collect();
            publisher.sent_at = vec![0; publisher.window + 1];
        }
        if wire.transport == Transport::WebSocket {
            publisher.wrap(wire);
        }
        publisher
    }

    fn wrap(&mut self, wire: Wire) {
        let mut wrapped = Vec::with_capacity(self.frame.len() + 14);
        websocket::data(&mut wrapped, wire.protocol, &self.frame);
        let header = wrapped.len() - self.frame.len();
        self.frame = wrapped;
        self.masked = true;
        self.masked_from = header;
        self.stamp_at += header;
        if let Some((at, _)) = &mut self.id {
            *at += header;
        }
        if let Some((at, _)) = &mut self.place {
            *at += header;
        }
    }

    /// Writes into the frame, masked if need be.
    #[inline]
    fn patch(&mut self, at: usize, bytes: &[u8]) {
        let place = &mut self.frame[at..][..bytes.len()];
        place.copy_from_slice(bytes);
        if self.masked {
            websocket::mask(place, at - self.masked_from);
        }
    }

    /// Messages published so far, which is the sequence number of the next one.
    pub fn published(&self) -> u64 {
        self.next
    }

    /// Bytes of one frame.
    pub fn frame_bytes(&self) -> usize {
        self.frame.len()
    }

    /// Whether another message may be sent before an acknowledgement comes.
    #[inline]
    pub fn may_send(&self) -> bool {
        self.id.is_none() || !self.free.is_empty()
    }

    /// Messages that wait for an acknowledgement.
    pub fn unacknowledged(&self) -> usize {
        self.window - self.free.len()
    }

    /// Appends the next message. At QoS 1 and 2 only if [`Self::may_send`].
    #[inline]
    pub fn send(&mut self, out: &mut Vec<u8>, now: u64) {
        let stamp = Stamp {
            publisher: self.number,
            sequence: self.next,
        };
        self.patch(self.stamp_at, &stamp.encode());
        if let Some((at, topics)) = self.place {
            let mut digits = [0; PLACE.len()];
            write_hex(&mut digits, self.next % topics);
            self.patch(at, &digits);
        }
        if let Some((at, form)) = self.id {
            let id = self.free.pop().unwrap_or(1);
            self.sent_at[usize::from(id)] = now;
            self.write_id(at, form, id);
        }
        out.extend_from_slice(&self.frame);
        self.next += 1;
    }

    fn write_id(&mut self, at: usize, form: IdForm, id: u16) {
        match form {
            IdForm::Binary => self.patch(at, &id.to_be_bytes()),
            IdForm::Hex => {
                let mut digits = [0; 4];
                write_hex(&mut digits, u64::from(id));
                self.patch(at, &digits);
            }
        }
    }

    /// The broker acknowledged this identifier: when the message was sent, or `None` if the
    /// identifier was not in use.
    #[inline]
    pub fn acked(&mut self, id: u16) -> Option<u64> {
        let sent = self.sent_at.get_mut(usize::from(id))?;
        if *sent == 0 {
            return None;
        }
        self.free.push(id);
        Some(std::mem::take(sent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Answer, Incoming, Message, Protocol};

    fn publication(qos: u8) -> Publication<'static> {
        Publication {
            topic: "a/########/b",
            topics: 3,
            qos,
            retain: false,
            payload_bytes: 64,
            window: 2,
        }
    }

    #[test]
    fn messages_are_numbered_and_the_window_holds() {
        let mut publisher = Publisher::new(7, 0, Wire::MQTT, &publication(1));
        let mut out = Vec::new();
        publisher.send(&mut out, 5);
        publisher.send(&mut out, 6);
        assert!(!publisher.may_send());
        let (incoming, end) = Protocol::Mqtt.read(&out).unwrap().unwrap();
        assert_eq!(
            incoming,
            Incoming::Message(Message {
                stamp: Some(Stamp {
                    publisher: 7,
                    sequence: 0
                }),
                qos: 1,
                answer: Answer::Packet(1)
            })
        );
        assert!(matches!(
            Protocol::Mqtt.read(&out[end..]).unwrap().unwrap().0,
            Incoming::Message(Message { stamp: Some(stamp), .. }) if stamp.sequence == 1
        ));
        assert_eq!(publisher.acked(1), Some(5));
        assert_eq!(publisher.acked(1), None, "acknowledged twice");
        assert_eq!(publisher.acked(9), None, "never used");
        assert!(publisher.may_send());
        assert_eq!(publisher.unacknowledged(), 1);
    }

    #[test]
    fn masked_frames_unmask_to_the_same_message() {
        for (name, qos) in [
            ("mqtt+ws", 1),
            ("stomp+ws", 1),
            ("json+ws", 1),
            ("mqtt+ws", 0),
        ] {
            let wire = Wire::from_name(name).unwrap();
            let mut publisher = Publisher::new(7, 0, wire, &publication(qos));
            let mut out = Vec::new();
            publisher.send(&mut out, 1);
            out.clear();
            publisher.send(&mut out, 1);
            let header = if out[1] & 0x7F == 126 { 8 } else { 6 };
            let mut frame = out[header..].to_vec();
            websocket::mask(&mut frame, 0);
            let at = frame.iter().position(|byte| *byte == b'~').unwrap();
            let stamp = Stamp::decode(&frame[at..]).unwrap();
            assert_eq!((stamp.publisher, stamp.sequence), (7, 1), "{name}");
            let text = String::from_utf8_lossy(&frame);
            let topic = match wire.protocol {
                Protocol::Stomp => "a.00000001.b",
                _ => "a/00000001/b",
            };
            assert!(text.contains(topic), "{text}");
            if wire.protocol != Protocol::Mqtt {
                assert!(text.contains("0002"), "{text}");
            }
        }
    }
}
