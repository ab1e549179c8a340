//! Bytes to packets.
//!
//! A packet is looked at as soon as its fixed header is there: a wrong type, wrong flags or a
//! packet that is too large is refused before its body arrives, and nothing is ever allocated
//! from a claimed length.

mod message;
mod session;

use std::num::NonZeroU16;

use memchr::memchr3;

use super::codec::{Reader, Varint};
use super::error::DecodeError;
use super::packet::{Connect, Packet, PacketId, PacketType};
use super::reason::ReasonCode;
use super::{Side, Version};
use crate::model::QoS;

/// What comes of bytes that may be a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded<P> {
    /// The packet is not all there; nothing was consumed.
    NeedMore {
        /// Bytes that are needed in all, counted from the packet's first; more than there are,
        /// and never more than the largest packet allowed.
        at_least: usize,
    },
    /// A packet at the front of the bytes.
    Packet {
        /// The packet, borrowing from the bytes.
        packet: P,
        /// How many bytes it has.
        consumed: usize,
    },
}

/// Decodes the packet at the front of `bytes`, received by `side` on a connection of `version`.
///
/// `max_bytes` bounds the whole packet with its fixed header. CONNECT says its own version;
/// whether it may come now is for the caller to know. After an error the connection is over:
/// where the next packet would begin is unknown.
#[inline]
pub fn decode(
    bytes: &[u8],
    version: Version,
    side: Side,
    max_bytes: usize,
) -> Result<Decoded<Packet<'_>>, DecodeError> {
    let frame = frame(bytes, max_bytes, |first| check_first(first, version, side))?;
    let (frame, consumed) = match frame {
        Decoded::NeedMore { at_least } => return Ok(Decoded::NeedMore { at_least }),
        Decoded::Packet { packet, consumed } => (packet, consumed),
    };
    if version == Version::V5 && frame.packet_type != PacketType::Connect {
        frame.check_minimal()?;
    }
    let packet = body(&frame, version, side)?;
    Ok(Decoded::Packet { packet, consumed })
}

/// Decodes the first packet of a client, which must be CONNECT `[MQTT-3.1.0-1]`.
///
/// Any other packet is refused at its first byte.
pub fn decode_connect(
    bytes: &[u8],
    max_bytes: usize,
) -> Result<Decoded<Box<Connect<'_>>>, DecodeError> {
    let frame = frame(bytes, max_bytes, |first| match first >> 4 {
        1 => check_first(first, Version::V5, Side::Server),
        _ => Err(DecodeError::Protocol("the first packet must be CONNECT")),
    })?;
    Ok(match frame {
        Decoded::NeedMore { at_least } => Decoded::NeedMore { at_least },
        Decoded::Packet {
            packet: frame,
            consumed,
        } => Decoded::Packet {
            packet: Box::new(session::connect(&frame)?),
            consumed,
        },
    })
}

/// A PUBLISH as most are: to a topic that is known already, and without properties.
pub(super) struct PlainPublish<'a> {
    pub(super) qos: QoS,
    pub(super) retain: bool,
    /// There exactly at QoS 1 and 2.
    pub(super) packet_id: Option<PacketId>,
    pub(super) payload: &'a [u8],
    /// Bytes of the packet.
    pub(super) consumed: usize,
}

/// The packet at the front of `bytes`, received by a server, if it is a whole and valid PUBLISH to
/// `topic` without properties. `None` says nothing: then [`decode`] knows what it is.
#[inline]
pub(super) fn plain_publish<'a>(
    bytes: &'a [u8],
    version: Version,
    max_bytes: usize,
    topic: &str,
) -> Option<PlainPublish<'a>> {
    let (&first, rest) = bytes.split_first()?;
    if first >> 4 != PacketType::Publish as u8 || check_publish_flags(first & 0x0f).is_err() {
        return None;
    }
    let Varint::Value {
        value,
        bytes: length,
        padded: false,
    } = Varint::parse(rest)
    else {
        return None;
    };
    let remaining = value as usize;
    let consumed = 1 + length + remaining;
    if consumed > max_bytes {
        return None;
    }
    let mut reader = Reader::new(rest.get(length..length + remaining)?);
    if reader.binary().ok()? != topic.as_bytes() {
        return None;
    }
    let qos = QoS::from_u8((first >> 1) & 0b11)?;
    let packet_id = match qos {
        QoS::AtMostOnce => None,
        _ => Some(NonZeroU16::new(reader.u16().ok()?)?),
    };
    if version == Version::V5 && reader.byte().ok()? != 0 {
        return None;
    }
    Some(PlainPublish {
        qos,
        retain: first & 1 != 0,
        packet_id,
        payload: reader.rest(),
        consumed,
    })
}

/// Bytes of a packet that [`plain_ack`] reads.
pub(super) const PLAIN_ACK_BYTES: usize = 4;

/// The packet at the front of `bytes` if it is a PUBACK, PUBREC, PUBREL or PUBCOMP in its shortest
/// form, the same in all versions: success. `None` says nothing, as with [`plain_publish`].
#[inline]
pub(super) fn plain_ack(bytes: &[u8]) -> Option<(PacketType, PacketId)> {
    let &[first, 2, high, low] = bytes.first_chunk::<PLAIN_ACK_BYTES>()? else {
        return None;
    };
    let packet_type = match first {
        0x40 => PacketType::PubAck,
        0x50 => PacketType::PubRec,
        0x62 => PacketType::PubRel,
        0x70 => PacketType::PubComp,
        _ => return None,
    };
    let packet_id = NonZeroU16::new(u16::from_be_bytes([high, low]))?;
    Some((packet_type, packet_id))
}

/// The version that a CONNECT at the front of `bytes` asks for, complete or not, valid or not: in
/// its form a refusal can be answered. `None` if that cannot be seen or is no version spoken.
pub fn offered_version(bytes: &[u8]) -> Option<Version> {
    let (&first, rest) = bytes.split_first()?;
    let Varint::Value { bytes: length, .. } = Varint::parse(rest) else {
        return None;
    };
    let mut reader = Reader::new(&rest[length..]);
    let is_mqtt = first >> 4 == 1 && reader.binary().ok()? == b"MQTT";
    match reader.byte().ok()? {
        4 if is_mqtt => Some(Version::V311),
        5 if is_mqtt => Some(Version::V5),
        _ => None,
    }
}

/// A packet taken apart by its fixed header `[MQTT-2.1]`.
#[derive(Clone, Copy)]
struct Frame<'a> {
    first: u8,
    packet_type: PacketType,
    body: &'a [u8],
    /// The remaining length took more bytes than needed.
    padded: bool,
}

impl Frame<'_> {
    /// 5 wants the remaining length in as few bytes as possible, 3.1.1 does not
    /// `[MQTT-1.5.5-1]`.
    #[inline]
    fn check_minimal(&self) -> Result<(), DecodeError> {
        if self.padded {
            return Err(DecodeError::Malformed(
                "the remaining length is longer than needed",
            ));
        }
        Ok(())
    }
}

#[inline]
fn frame(
    bytes: &[u8],
    max_bytes: usize,
    check_first: impl FnOnce(u8) -> Result<PacketType, DecodeError>,
) -> Result<Decoded<Frame<'_>>, DecodeError> {
    let Some((&first, rest)) = bytes.split_first() else {
        return Ok(Decoded::NeedMore { at_least: 2 });
    };
    let packet_type = check_first(first)?;
    let (remaining, length, padded) = match Varint::parse(rest) {
        Varint::Value {
            value,
            bytes,
            padded,
        } => (value as usize, bytes, padded),
        Varint::TooLong => {
            return Err(DecodeError::Malformed(
                "the remaining length has more than four bytes",
            ));
        }
        Varint::Incomplete => {
            return Ok(Decoded::NeedMore {
                at_least: bytes.len() + 1,
            });
        }
    };
    let total = 1 + length + remaining;
    if total > max_bytes {
        return Err(DecodeError::TooLarge {
            bytes: total,
            max: max_bytes,
        });
    }
    let Some(body) = bytes.get(1 + length..total) else {
        return Ok(Decoded::NeedMore { at_least: total });
    };
    let packet = Frame {
        first,
        packet_type,
        body,
        padded,
    };
    Ok(Decoded::Packet {
        packet,
        consumed: total,
    })
}

/// What the first byte alone can show: type, direction and flags.
#[inline]
fn check_first(first: u8, version: Version, side: Side) -> Result<PacketType, DecodeError> {
    let packet_type = PacketType::from_u8(first >> 4)
        .filter(|&it| it != PacketType::Auth || version == Version::V5)
        .ok_or(DecodeError::Malformed("the packet type is reserved"))?;
    check_direction(packet_type, version, side)?;
    let flags = first & 0x0f;
    match packet_type {
        PacketType::Publish => check_publish_flags(flags)?,
        // [MQTT-3.6.1-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1]
        PacketType::PubRel | PacketType::Subscribe | PacketType::Unsubscribe if flags == 2 => {}
        _ if flags == 0 && !matches!(first >> 4, 6 | 8 | 10) => {}
        // [MQTT-2.1.3-1], 3.1.1: [MQTT-2.2.2-1] [MQTT-2.2.2-2]
        _ => {
            return Err(DecodeError::Malformed(
                "reserved flags of the fixed header are wrong",
            ));
        }
    }
    Ok(packet_type)
}

#[inline]
fn check_direction(
    packet_type: PacketType,
    version: Version,
    side: Side,
) -> Result<(), DecodeError> {
    use PacketType as P;
    let from_client = matches!(
        packet_type,
        P::Connect | P::Subscribe | P::Unsubscribe | P::PingReq
    );
    let from_server = matches!(
        packet_type,
        P::ConnAck | P::SubAck | P::UnsubAck | P::PingResp
    );
    match side {
        Side::Server if from_server => {
            Err(DecodeError::Protocol("only a server may send this packet"))
        }
        Side::Client
            if from_client || (packet_type == P::Disconnect && version == Version::V311) =>
        {
            Err(DecodeError::Protocol("only a client may send this packet"))
        }
        _ => Ok(()),
    }
}

#[inline]
fn check_publish_flags(flags: u8) -> Result<(), DecodeError> {
    match (flags >> 1) & 0b11 {
        // [MQTT-3.3.1-4]
        3 => Err(DecodeError::Malformed("QoS 3 does not exist")),
        // [MQTT-3.3.1-2]
        0 if flags & 0b1000 != 0 => Err(DecodeError::Malformed("DUP is set at QoS 0")),
        _ => Ok(()),
    }
}

#[inline]
fn body<'a>(frame: &Frame<'a>, version: Version, side: Side) -> Result<Packet<'a>, DecodeError> {
    let kind = frame.packet_type;
    Ok(match kind {
        PacketType::Publish => Packet::Publish(message::publish(frame, version, side)?),
        PacketType::PubAck => Packet::PubAck(message::ack(frame, version)?),
        PacketType::PubRec => Packet::PubRec(message::ack(frame, version)?),
        PacketType::PubRel => Packet::PubRel(message::ack(frame, version)?),
        PacketType::PubComp => Packet::PubComp(message::ack(frame, version)?),
        PacketType::Connect => Packet::Connect(Box::new(session::connect(frame)?)),
        PacketType::ConnAck => Packet::ConnAck(Box::new(session::connack(frame, version)?)),
        PacketType::Subscribe => Packet::Subscribe(message::subscribe(frame, version)?),
        PacketType::SubAck => Packet::SubAck(message::suback(frame, version)?),
        PacketType::Unsubscribe => Packet::Unsubscribe(message::unsubscribe(frame, version)?),
        PacketType::UnsubAck => Packet::UnsubAck(message::suback(frame, version)?),
        PacketType::PingReq => {
            Reader::new(frame.body).finish()?;
            Packet::PingReq
        }
        PacketType::PingResp => {
            Reader::new(frame.body).finish()?;
            Packet::PingResp
        }
        PacketType::Disconnect => Packet::Disconnect(session::disconnect(frame, version, side)?),
        PacketType::Auth => Packet::Auth(session::auth(frame, side)?),
    })
}

/// A packet identifier, never 0 `[MQTT-2.2.1-3]` `[MQTT-2.2.1-4]`, 3.1.1: `[MQTT-2.3.1-1]`.
#[inline]
fn packet_id(reader: &mut Reader<'_>) -> Result<PacketId, DecodeError> {
    NonZeroU16::new(reader.u16()?).ok_or(DecodeError::Protocol("packet identifier 0"))
}

/// A reason code that may be in this packet. (`[MQTT-3.4.2-1]` and its like in the others)
fn reason_code(code: u8, packet: PacketType, side: Side) -> Result<ReasonCode, DecodeError> {
    let code = ReasonCode::from_u8(code).ok_or(DecodeError::Malformed("unknown reason code"))?;
    if !code.is_received(packet, side) {
        return Err(DecodeError::Protocol(
            "the reason code is not allowed in this packet",
        ));
    }
    Ok(code)
}

/// The text of a topic to publish to: no wildcards `[MQTT-3.3.2-2]`, no NUL `[MQTT-4.7.3-2]`. May
/// be empty.
#[inline]
fn topic<'a>(reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    let bytes = reader.binary()?;
    if let Some(at) = memchr3(b'+', b'#', 0, bytes) {
        return Err(if bytes[at] == 0 {
            DecodeError::Malformed("a text contains the NUL character")
        } else {
            DecodeError::TopicName("it contains a wildcard")
        });
    }
    simdutf8::basic::from_utf8(bytes)
        .map_err(|_| DecodeError::Malformed("a text is not valid UTF-8"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TOPIC: &str = "ab/\u{e4}";
    const MAX: usize = 40;

    /// Packets, whole and cut, right and wrong.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let first = prop_oneof![
            0x30_u8..=0x3f,
            Just(0x40),
            Just(0x50),
            Just(0x62),
            any::<u8>()
        ];
        let topic = prop_oneof![
            4 => Just(TOPIC.as_bytes().to_vec()),
            1 => Just(b"ab".to_vec()),
            1 => Just(Vec::new()),
        ];
        let rest = proptest::collection::vec(prop_oneof![2 => Just(0_u8), 1 => any::<u8>()], 0..40);
        let parts = (first, topic, rest, any::<bool>(), -2_i8..3);
        parts.prop_map(|(first, topic, rest, is_padded, wrong_by)| {
            let mut body = rest;
            if first >> 4 == 3 {
                body.splice(0..0, topic.iter().copied());
                body.splice(0..0, [0, u8::try_from(topic.len()).unwrap()]);
            }
            let length = u8::try_from(body.len()).unwrap();
            let length = length.saturating_add_signed(wrong_by.min(0));
            let mut bytes = vec![first];
            if is_padded {
                bytes.extend([length | 0x80, 0]);
            } else {
                bytes.push(length);
            }
            bytes.extend(body);
            bytes
        })
    }

    fn version() -> impl Strategy<Value = Version> {
        prop_oneof![Just(Version::V311), Just(Version::V5)]
    }

    proptest! {
        /// The short way takes nothing that the long way would not take, and takes it alike.
        #[test]
        fn plain_packets_are_what_the_decoder_says(bytes in bytes(), version in version()) {
            let decoded = decode(&bytes, version, Side::Server, MAX);
            if let Some((packet_type, packet_id)) = plain_ack(&bytes) {
                let ack = crate::mqtt::packet::Ack::new(packet_id, ReasonCode::Success);
                let packet = match packet_type {
                    PacketType::PubAck => Packet::PubAck(ack),
                    PacketType::PubRec => Packet::PubRec(ack),
                    PacketType::PubRel => Packet::PubRel(ack),
                    _ => Packet::PubComp(ack),
                };
                let consumed = PLAIN_ACK_BYTES;
                prop_assert_eq!(&decoded, &Ok(Decoded::Packet { packet, consumed }));
            }
            let plain = plain_publish(&bytes, version, MAX, TOPIC);
            match (decoded, plain) {
                (Ok(Decoded::Packet { packet: Packet::Publish(packet), consumed }), Some(plain)) => {
                    prop_assert_eq!(packet.topic, TOPIC);
                    prop_assert!(packet.properties.is_empty());
                    prop_assert_eq!(packet.qos, plain.qos);
                    prop_assert_eq!(packet.retain, plain.retain);
                    prop_assert_eq!(packet.packet_id, plain.packet_id);
                    prop_assert_eq!(packet.payload, plain.payload);
                    prop_assert_eq!(consumed, plain.consumed);
                }
                (Ok(Decoded::Packet { packet: Packet::Publish(packet), .. }), None) => {
                    let is_padded = bytes[1] & 0x80 != 0;
                    let is_plain = packet.topic == TOPIC && packet.properties.is_empty();
                    prop_assert!(is_padded || !is_plain, "a plain packet went the long way");
                }
                (other, plain) => prop_assert!(plain.is_none(), "{:?}", other),
            }
        }
    }
}
