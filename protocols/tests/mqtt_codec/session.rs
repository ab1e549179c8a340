//! CONNACK, DISCONNECT, AUTH and pings.

use protocols::mqtt::Side::{Client, Server};
use protocols::mqtt::Version::{V5, V311};
use protocols::mqtt::packet::PacketType;
use protocols::mqtt::{ReasonCode as R, decode};

use crate::support::{ANY_SIZE, accepted, field, packet, properties, refused, refused_in_both};

#[test]
fn connack() {
    accepted(&[0x20, 2, 1, 0], V311, Client);
    accepted(&[0x20, 3, 1, 0, 0], V5, Client);
    refused_in_both(&[0x20, 3, 2, 0, 0], Client, R::MalformedPacket); // [MQTT-3.2.2-1]
    refused(&[0x20, 2, 1, 5], V311, Client, R::ProtocolError); // [MQTT-3.2.2-4]
    refused(&[0x20, 3, 1, 0x87, 0], V5, Client, R::ProtocolError); // [MQTT-3.2.2-6]
    for code in 0..=255 {
        let v3 = decode(&[0x20, 2, 0, code], V311, Client, ANY_SIZE).is_ok();
        assert_eq!(v3, code <= 5, "{code}");
        let v5 = decode(&[0x20, 3, 0, code, 0], V5, Client, ANY_SIZE).is_ok();
        let allowed = R::from_u8(code).is_some_and(|code| code.is_in(PacketType::ConnAck));
        assert_eq!(v5, allowed, "{code}");
    }
    refused(&[0x20, 3, 0, 0, 0], V311, Client, R::MalformedPacket);
    refused(&[0x20, 2, 0, 0], V5, Client, R::MalformedPacket);
    for bytes in [
        &[0x24, 2][..],
        &[0x25, 2],
        &[0x28, 2],
        &[0x29, 2],
        &[0x2a, 2],
        &[0x21, 0, 0],
    ] {
        let bytes = packet(0x20, &[&[0, 0], &properties(&[bytes])]);
        refused(&bytes, V5, Client, R::ProtocolError);
    }
}

#[test]
fn disconnect() {
    for side in [Server, Client] {
        accepted(&[0xe0, 0], V5, side);
        accepted(&[0xe0, 1, 0], V5, side);
        accepted(&[0xe0, 2, 0, 0], V5, side);
        refused(&[0xe0, 1, 0x7f], V5, side, R::MalformedPacket);
        refused(&[0xe0, 1, 0x84], V5, side, R::ProtocolError);
        refused(&[0xe0, 3, 0, 0, 0], V5, side, R::MalformedPacket);
    }
    refused(&[0xe0, 1, 0], V311, Server, R::MalformedPacket);
    // Section 3.14.2.1, "sent by".
    accepted(&[0xe0, 1, 4], V5, Server);
    refused(&[0xe0, 1, 4], V5, Client, R::ProtocolError);
    accepted(&[0xe0, 1, 0x8b], V5, Client);
    refused(&[0xe0, 1, 0x8b], V5, Server, R::ProtocolError);
    // [MQTT-3.14.2-2]
    let expiry = packet(0xe0, &[&[0], &properties(&[&[0x11, 0, 0, 0, 1]])]);
    accepted(&expiry, V5, Server);
    refused(&expiry, V5, Client, R::ProtocolError);
}

#[test]
fn auth() {
    let method = properties(&[&[0x15], &field("m"), &[0x16], &field("d")]);
    accepted(&packet(0xf0, &[&[0x18], &method]), V5, Server);
    accepted(&packet(0xf0, &[&[0x19], &method]), V5, Server);
    accepted(&packet(0xf0, &[&[0x00], &method]), V5, Client);
    accepted(&[0xf0, 0], V5, Client);
    // [MQTT-3.15.2-1] and who sends what.
    refused(
        &packet(0xf0, &[&[0x00], &method]),
        V5,
        Server,
        R::ProtocolError,
    );
    refused(
        &packet(0xf0, &[&[0x19], &method]),
        V5,
        Client,
        R::ProtocolError,
    );
    refused(
        &packet(0xf0, &[&[0x87], &method]),
        V5,
        Client,
        R::ProtocolError,
    );
    // Section 3.15.2.2.2: the method is not optional.
    refused(&[0xf0, 2, 0x18, 0], V5, Server, R::ProtocolError);
    refused(&[0xf0, 1, 0x18], V5, Server, R::MalformedPacket);
}

#[test]
fn pings() {
    accepted(&[0xc0, 0], V311, Server);
    accepted(&[0xd0, 0], V5, Client);
    refused_in_both(&[0xc0, 1, 0], Server, R::MalformedPacket);
    refused_in_both(&[0xd0, 1, 0], Client, R::MalformedPacket);
}
