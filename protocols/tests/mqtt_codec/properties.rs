//! Properties: where they belong, their ranges and lengths.

use protocols::mqtt::Side::{Client, Server};
use protocols::mqtt::Version::V5;
use protocols::mqtt::packet::Packet;
use protocols::mqtt::properties::PropertyId;
use protocols::mqtt::{DecodeError, ReasonCode as R, Side, decode};

use crate::support::{ANY_SIZE, accepted, connect_v5, field, packet, properties, refused};

#[test]
fn connect_properties() {
    use R::{MalformedPacket, ProtocolError};
    let cases: &[(&[u8], R)] = &[
        (&[0x21, 0, 0], ProtocolError),       // receive maximum 0
        (&[0x27, 0, 0, 0, 0], ProtocolError), // maximum packet size 0
        (&[0x17, 2], ProtocolError),          // neither 0 nor 1
        (&[0x19, 2], ProtocolError),          // neither 0 nor 1
        (&[0x11, 0, 0, 0, 1, 0x11, 0, 0, 0, 1], ProtocolError), // twice
        (&[0x16, 0, 1, b'x'], ProtocolError), // data without a method
        (&[0x23, 0, 1], MalformedPacket),     // topic alias is not for CONNECT
        (&[0x0b, 1], MalformedPacket),        // subscription identifier neither
        (&[0x00], MalformedPacket),           // no such property
        (&[0x7f], MalformedPacket),           // no such property
        (&[0xff, 0x01], MalformedPacket),     // no such property
        (&[0x91, 0x00, 0, 0, 0, 1], MalformedPacket), // identifier longer than needed
        (&[0x11, 0, 0, 0], MalformedPacket),  // cut off
        (&[0x15, 0, 9, b'x'], MalformedPacket), // longer than the properties
        (&[0x26, 0, 1, b'k'], MalformedPacket), // user property without a value
        (&[0x15, 0, 1, 0], MalformedPacket),  // NUL
        (&[0x15, 0, 1, 0xff], MalformedPacket), // not UTF-8
    ];
    for (bytes, reason) in cases {
        let bytes = connect_v5(2, &properties(&[bytes]), &[&field("c")]);
        refused(&bytes, V5, Server, *reason);
    }
}

/// `[MQTT-1.5.5-1]` and the bounds of property lengths.
#[test]
fn property_lengths() {
    for length in [
        &[0x80, 0x00][..],
        &[0x80, 0x80, 0x80, 0x00],
        &[0xff, 0xff, 0xff, 0xff, 0x7f],
        &[0x80, 0x80, 0x80, 0x80, 0x00],
        &[0x7f],
        &[0x05],
        &[0xff, 0xff, 0xff, 0x7f],
    ] {
        refused(
            &connect_v5(2, length, &[&field("c")]),
            V5,
            Server,
            R::MalformedPacket,
        );
    }
}

/// Hostile repetition costs nothing but its bytes.
#[test]
fn ten_thousand_user_properties() {
    let one = [&[0x26][..], &field("k"), &field("v")].concat();
    let many = properties(&[&one.repeat(10_000)]);
    let bytes = connect_v5(2, &many, &[&field("c")]);
    let Packet::Connect(connect) = accepted(&bytes, V5, Server) else {
        panic!("not a CONNECT");
    };
    assert_eq!(connect.properties.user.count(), 10_000);
}

/// Every property in every packet: accepted exactly where section 2.2.2.2 says so.
#[test]
fn properties_belong_to_their_packets() {
    // Identifier, a value, and the packets: C connect, w will, A connack, P publish, a acks,
    // S subscribe, s suback and unsuback, U unsubscribe, D disconnect, X auth.
    let table: &[(&[u8], &str)] = &[
        (&[0x01, 1], "Pw"),
        (&[0x02, 0, 0, 0, 1], "Pw"),
        (&[0x03, 0, 1, b'x'], "Pw"),
        (&[0x08, 0, 1, b'x'], "Pw"),
        (&[0x09, 0, 1, b'x'], "Pw"),
        (&[0x0b, 1], "PS"),
        (&[0x11, 0, 0, 0, 1], "CAD"),
        (&[0x12, 0, 1, b'x'], "A"),
        (&[0x13, 0, 1], "A"),
        (&[0x15, 0, 1, b'x'], "CAX"),
        (&[0x16, 0, 1, b'x'], "CAX"),
        (&[0x17, 1], "C"),
        (&[0x18, 0, 0, 0, 1], "w"),
        (&[0x19, 1], "C"),
        (&[0x1a, 0, 1, b'x'], "A"),
        (&[0x1c, 0, 1, b'x'], "AD"),
        (&[0x1f, 0, 1, b'x'], "AasDX"),
        (&[0x21, 0, 1], "CA"),
        (&[0x22, 0, 1], "CA"),
        (&[0x23, 0, 1], "P"),
        (&[0x24, 1], "A"),
        (&[0x25, 1], "A"),
        (&[0x26, 0, 1, b'k', 0, 1, b'v'], "CAPwasSUDX"),
        (&[0x27, 0, 0, 0, 1], "CA"),
        (&[0x28, 1], "A"),
        (&[0x29, 1], "A"),
        (&[0x2a, 1], "A"),
    ];
    assert_eq!(table.len(), 27);
    for (property, packets) in table {
        for place in "CwAPasSUDX".chars() {
            let (bytes, side) = packet_with(place, property);
            let result = decode(&bytes, V5, side, ANY_SIZE);
            let misplaced = matches!(result, Err(DecodeError::MisplacedProperty(_)));
            assert_eq!(
                misplaced,
                !packets.contains(place),
                "{property:02x?} in {place}"
            );
        }
    }
}

fn packet_with(place: char, property: &[u8]) -> (Vec<u8>, Side) {
    let own = properties(&[property]);
    match place {
        'C' => (connect_v5(2, &own, &[&field("c")]), Server),
        'w' => {
            let rest: &[&[u8]] = &[&field("c"), &own, &field("t"), &field("m")];
            (connect_v5(6, &[0], rest), Server)
        }
        'A' => (packet(0x20, &[&[0, 0], &own]), Client),
        'P' => (packet(0x30, &[&field("t"), &own]), Client),
        'a' => (packet(0x40, &[&[0, 1, 0], &own]), Client),
        's' => (packet(0x90, &[&[0, 1], &own, &[0]]), Client),
        'S' => (packet(0x82, &[&[0, 1], &own, &field("t"), &[0]]), Server),
        'U' => (packet(0xa2, &[&[0, 1], &own, &field("t")]), Server),
        'D' => (packet(0xe0, &[&[0], &own]), Server),
        _ => (packet(0xf0, &[&[0x18], &own]), Server),
    }
}

#[test]
fn refusals_name_the_property() {
    let twice = properties(&[&[0x23, 0, 1, 0x23, 0, 1]]);
    let error = decode(&packet(0x30, &[&field("t"), &twice]), V5, Server, ANY_SIZE).unwrap_err();
    assert_eq!(
        error,
        DecodeError::DuplicateProperty(PropertyId::TopicAlias)
    );
    assert_eq!(
        error.to_string(),
        "protocol error: property TopicAlias appears more than once"
    );
}
