//! The fixed header.

use protocols::mqtt::Side::{Client, Server};
use protocols::mqtt::Version::{V5, V311};
use protocols::mqtt::packet::Packet;
use protocols::mqtt::{DecodeError, Decoded, ReasonCode as R, decode};

use crate::support::{ANY_SIZE, accepted, connect_v5, field, packet, refused, refused_in_both};

#[test]
fn packet_types_that_do_not_exist() {
    refused_in_both(&[0x00, 0x00], Server, R::MalformedPacket);
    refused(&[0xf0, 0x00], V311, Server, R::MalformedPacket);
}

/// `[MQTT-2.1.3-1]`, 3.1.1: `[MQTT-2.2.2-2]`
#[test]
fn reserved_flags() {
    for kind in [4, 5, 6, 7, 8, 10, 12, 14] {
        for flags in 0..16 {
            let bytes = [kind << 4 | flags];
            let right = if matches!(kind, 6 | 8 | 10) { 2 } else { 0 };
            let header_only = decode(&bytes, V5, Server, ANY_SIZE);
            if flags == right {
                assert_eq!(header_only, Ok(Decoded::NeedMore { at_least: 2 }));
            } else {
                assert_eq!(
                    header_only.unwrap_err().reason(),
                    R::MalformedPacket,
                    "{bytes:02x?} is refused before anything else arrives"
                );
            }
        }
    }
    refused_in_both(&[0x11], Server, R::MalformedPacket);
    refused(&[0xf1], V5, Server, R::MalformedPacket);
    for first in [0x21, 0x91, 0xb1, 0xd1] {
        refused_in_both(&[first], Client, R::MalformedPacket);
    }
}

/// What only the other side may send is refused at its first byte.
#[test]
fn wrong_direction() {
    for bytes in [[0x20], [0x90], [0xb0], [0xd0]] {
        refused_in_both(&bytes, Server, R::ProtocolError);
    }
    for bytes in [[0x10], [0x82], [0xa2], [0xc0]] {
        refused_in_both(&bytes, Client, R::ProtocolError);
    }
    // A 3.1.1 server has no DISCONNECT.
    refused(&[0xe0, 0x00], V311, Client, R::ProtocolError);
    accepted(&[0xe0, 0x00], V5, Client);
}

#[test]
fn remaining_length_of_five_bytes() {
    refused_in_both(
        &[0x30, 0xff, 0xff, 0xff, 0xff, 0x7f],
        Server,
        R::MalformedPacket,
    );
    refused_in_both(&[0x30, 0x80, 0x80, 0x80, 0x80], Server, R::MalformedPacket);
    refused(
        &[0x10, 0xff, 0xff, 0xff, 0xff, 0x7f],
        V5,
        Server,
        R::MalformedPacket,
    );
}

/// `[MQTT-1.5.5-1]`: 5 wants the shortest form, 3.1.1 does not say so.
#[test]
fn padded_remaining_length() {
    for bytes in [&[0xc0, 0x80, 0x00][..], &[0xc0, 0x80, 0x80, 0x80, 0x00]] {
        assert_eq!(accepted(bytes, V311, Server), Packet::PingReq);
        refused(bytes, V5, Server, R::MalformedPacket);
    }
    let connect = connect_v5(0, &[0], &[&field("c")]);
    let padded = [&[connect[0], connect[1] | 0x80, 0], &connect[2..]].concat();
    refused(&padded, V5, Server, R::MalformedPacket);
}

#[test]
fn size_is_refused_before_the_body_arrives() {
    let claims_256_mib = [0x30, 0xff, 0xff, 0xff, 0x7f];
    let error = decode(&claims_256_mib, V5, Server, 1 << 20).unwrap_err();
    assert_eq!(
        error,
        DecodeError::TooLarge {
            bytes: 268_435_460,
            max: 1 << 20
        }
    );
    assert_eq!(error.reason(), R::PacketTooLarge);
    let ten = packet(0x30, &[&field("a"), b"12345"]);
    assert_eq!(ten.len(), 10);
    assert!(decode(&ten, V311, Server, 10).is_ok());
    assert!(decode(&ten[..2], V311, Server, 9).is_err());
    assert_eq!(
        decode(&ten[..2], V311, Server, 10),
        Ok(Decoded::NeedMore { at_least: 10 })
    );
    assert_eq!(
        decode(&[], V311, Server, 10),
        Ok(Decoded::NeedMore { at_least: 2 })
    );
    assert_eq!(
        decode(&[0x30, 0x80], V311, Server, 1000),
        Ok(Decoded::NeedMore { at_least: 3 })
    );
}
