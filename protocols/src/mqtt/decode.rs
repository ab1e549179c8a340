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
