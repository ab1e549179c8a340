//! Packets written by hand, and what is expected of them.

use protocols::mqtt::packet::{Packet, PacketType};
use protocols::mqtt::{DecodeError, Decoded, ReasonCode, Side, Version, decode, encode};

/// No bound on the packet's size.
pub(crate) const ANY_SIZE: usize = usize::MAX;

/// A packet from its first byte and the parts of its body, the remaining length filled in.
pub(crate) fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [&[first][..], &varint(body.len()), &body].concat()
}

/// A variable byte integer.
pub(crate) fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let byte = u8::try_from(value % 128).unwrap();
        value /= 128;
        if value == 0 {
            bytes.push(byte);
            return bytes;
        }
        bytes.push(byte | 0x80);
    }
}

/// A string or binary field with its length.
pub(crate) fn field(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let length = u16::try_from(bytes.len()).unwrap();
    [&length.to_be_bytes()[..], bytes].concat()
}

/// Properties with their length.
pub(crate) fn properties(parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [varint(body.len()), body].concat()
}

/// Decodes bytes that must be exactly one packet.
pub(crate) fn decode_one(
    bytes: &[u8],
    version: Version,
    side: Side,
) -> Result<Packet<'_>, DecodeError> {
    match decode(bytes, version, side, ANY_SIZE)? {
        Decoded::Packet { packet, consumed } => {
            assert_eq!(consumed, bytes.len());
            Ok(packet)
        }
        Decoded::NeedMore { at_least } => panic!("{} of {at_least} bytes", bytes.len()),
    }
}

/// The bytes of a packet that can be written.
pub(crate) fn encode_one(packet: &Packet<'_>, version: Version) -> Vec<u8> {
    let mut bytes = Vec::new();
    let length = encode(packet, version, &mut bytes).unwrap();
    assert_eq!(length, bytes.len());
    bytes
}

/// Who may receive such a packet.
pub(crate) fn receiver(packet: &Packet<'_>) -> Side {
    match packet {
        Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
            Side::Client
        }
        Packet::Publish(publish) if !publish.properties.subscription_ids.is_empty() => Side::Client,
        Packet::Disconnect(it) if !it.reason.is_received(PacketType::Disconnect, Side::Server) => {
            Side::Client
        }
        Packet::Auth(auth) if auth.reason == ReasonCode::Success => Side::Client,
        _ => Side::Server,
    }
}

/// What the code of the refusal must be.
#[track_caller]
pub(crate) fn refused(bytes: &[u8], version: Version, side: Side, reason: ReasonCode) {
    match decode(bytes, version, side, ANY_SIZE) {
        Err(error) => assert_eq!(error.reason(), reason, "{bytes:02x?}: {error}"),
        Ok(decoded) => panic!("{bytes:02x?} was taken as {decoded:?}"),
    }
}

/// Both versions refuse, for the same reason.
#[track_caller]
pub(crate) fn refused_in_both(bytes: &[u8], side: Side, reason: ReasonCode) {
    refused(bytes, Version::V311, side, reason);
    refused(bytes, Version::V5, side, reason);
}

/// The one packet that the bytes are.
#[track_caller]
pub(crate) fn accepted(bytes: &[u8], version: Version, side: Side) -> Packet<'_> {
    decode_one(bytes, version, side).unwrap_or_else(|error| panic!("{bytes:02x?}: {error}"))
}

/// A CONNECT with keep alive 60, of any level; `rest` is what follows it.
pub(crate) fn connect(level: u8, flags: u8, rest: &[&[u8]]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = vec![b"\0\x04MQTT"];
    let fixed = [level, flags, 0, 60];
    parts.push(&fixed);
    parts.extend(rest);
    packet(0x10, &parts)
}

pub(crate) fn connect_v3(flags: u8, rest: &[&[u8]]) -> Vec<u8> {
    connect(4, flags, rest)
}

pub(crate) fn connect_v5(flags: u8, properties: &[u8], rest: &[&[u8]]) -> Vec<u8> {
    let mut parts = vec![properties];
    parts.extend(rest);
    connect(5, flags, &parts)
}
