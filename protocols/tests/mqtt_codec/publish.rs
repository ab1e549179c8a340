//! PUBLISH, its acknowledgements, and texts wherever they are.

use std::num::NonZeroU16;

use protocols::model::{PayloadFormat, QoS};
use protocols::mqtt::ReasonCode as R;
use protocols::mqtt::Side::{Client, Server};
use protocols::mqtt::Version::{V5, V311};
use protocols::mqtt::list::List;
use protocols::mqtt::packet::Packet;

use crate::support::{
    accepted, connect_v3, connect_v5, field, packet, properties, refused, refused_in_both,
};

/// `[MQTT-1.5.4-1]` `[MQTT-1.5.4-2]` `[MQTT-1.5.4-3]`
#[test]
fn texts() {
    let bad: &[&[u8]] = &[
        b"a\0b",
        b"\0",
        b"\xff",
        b"\xc3",             // cut off
        b"\xc0\x80",         // NUL in two bytes
        b"\xed\xa0\x80",     // surrogate D800
        b"\xed\xbf\xbf",     // surrogate DFFF
        b"\xf4\x90\x80\x80", // above 10FFFF
        b"\xe0\x80\xaf",     // longer than needed
    ];
    for text in bad {
        refused(
            &connect_v3(2, &[&field(text)]),
            V311,
            Server,
            R::MalformedPacket,
        );
        refused(
            &connect_v5(2, &[0], &[&field(text)]),
            V5,
            Server,
            R::MalformedPacket,
        );
        refused_in_both(
            &packet(0x30, &[&field(text), &[0]]),
            Server,
            R::MalformedPacket,
        );
        refused(
            &packet(0x82, &[&[0, 1], &field(text), &[0]]),
            V311,
            Server,
            R::MalformedPacket,
        );
        refused(
            &packet(0xa2, &[&[0, 1, 0], &field(text)]),
            V5,
            Server,
            R::MalformedPacket,
        );
    }
    for text in [
        "\u{feff}",
        "\u{1}",
        "\u{7f}",
        "\u{ffff}",
        "\u{10ffff}",
        "雪",
    ] {
        let bytes = packet(0x30, &[&field(text), &[0]]);
        let Packet::Publish(publish) = accepted(&bytes, V5, Server) else {
            panic!("not a PUBLISH");
        };
        assert_eq!(publish.topic, text);
    }
}

#[test]
fn publish_is_borrowed() {
    let own = properties(&[&[0x01, 1], &[0x23, 0, 7], &[0x02, 0, 0, 0, 9]]);
    let bytes = packet(0x3b, &[&field("a/b"), &[0, 10], &own, b"body"]);
    let Packet::Publish(publish) = accepted(&bytes, V5, Server) else {
        panic!("not a PUBLISH");
    };
    assert_eq!(
        (publish.dup, publish.qos, publish.retain),
        (true, QoS::AtLeastOnce, true)
    );
    assert_eq!(publish.topic, "a/b");
    assert_eq!(publish.packet_id, NonZeroU16::new(10));
    assert_eq!(publish.properties.payload_format, Some(PayloadFormat::Utf8));
    assert_eq!(publish.properties.topic_alias, NonZeroU16::new(7));
    assert_eq!(publish.properties.message_expiry_secs, Some(9));
    assert_eq!(publish.payload, b"body");
    assert!(bytes.as_ptr_range().contains(&publish.payload.as_ptr()));
    assert!(bytes.as_ptr_range().contains(&publish.topic.as_ptr()));
}

/// `[MQTT-3.3.1-4]` `[MQTT-3.3.1-2]`: seen at the first byte.
#[test]
fn publish_flags() {
    refused_in_both(&[0x36], Server, R::MalformedPacket);
    refused_in_both(&[0x37], Client, R::MalformedPacket);
    refused_in_both(&[0x38], Server, R::MalformedPacket);
}

/// `[MQTT-2.2.1-3]`, 3.1.1: `[MQTT-2.3.1-1]`
#[test]
fn packet_identifier_zero() {
    refused_in_both(
        &packet(0x32, &[&field("t"), &[0, 0, 0]]),
        Server,
        R::ProtocolError,
    );
    refused_in_both(
        &packet(0x34, &[&field("t"), &[0, 0, 0]]),
        Client,
        R::ProtocolError,
    );
    for first in [0x40, 0x50, 0x62, 0x70] {
        refused_in_both(&[first, 2, 0, 0], Server, R::ProtocolError);
    }
    refused(
        &packet(0x82, &[&[0, 0], &field("t"), &[0]]),
        V311,
        Server,
        R::ProtocolError,
    );
    refused(
        &packet(0x82, &[&[0, 0, 0], &field("t"), &[0]]),
        V5,
        Server,
        R::ProtocolError,
    );
    refused(
        &packet(0xa2, &[&[0, 0], &field("t")]),
        V311,
        Server,
        R::ProtocolError,
    );
    refused(&[0x90, 3, 0, 0, 0], V311, Client, R::ProtocolError);
    refused(&[0xb0, 2, 0, 0], V311, Client, R::ProtocolError);
}

/// `[MQTT-3.3.2-2]`
#[test]
fn publish_topic_with_wildcards() {
    for topic in ["+", "#", "a/+/b", "a/#", "a+", "#b"] {
        refused_in_both(
            &packet(0x30, &[&field(topic), &[0]]),
            Server,
            R::TopicNameInvalid,
        );
    }
}

/// `[MQTT-4.7.3-1]`, 5: section 3.3.2.1
#[test]
fn publish_without_topic() {
    refused(&[0x30, 2, 0, 0], V311, Server, R::ProtocolError);
    refused(&[0x30, 3, 0, 0, 0], V5, Server, R::ProtocolError);
    let with_alias = packet(0x30, &[&field(""), &properties(&[&[0x23, 0, 1]])]);
    accepted(&with_alias, V5, Server);
}

#[test]
fn publish_properties() {
    use R::{MalformedPacket, ProtocolError};
    let cases: &[(&[u8], R)] = &[
        (&[0x23, 0, 0], R::TopicAliasInvalid),      // [MQTT-3.3.2-8]
        (&[0x23, 0, 1, 0x23, 0, 1], ProtocolError), // twice
        (&[0x01, 2], ProtocolError),                // neither 0 nor 1
        (&[0x01, 0, 0x01, 0], ProtocolError),       // twice
        (&[0x08, 0, 1, b'+'], R::TopicNameInvalid), // [MQTT-3.3.2-14]
        (&[0x08, 0, 3, b'a', b'/', b'#'], R::TopicNameInvalid), // [MQTT-3.3.2-14]
        (&[0x08, 0, 0], R::TopicNameInvalid),       // [MQTT-4.7.3-1]
        (&[0x03, 0, 0, 0x03, 0, 0], ProtocolError), // twice
        (&[0x09, 0, 0, 0x09, 0, 0], ProtocolError), // twice
        (&[0x02, 0, 0, 0, 0, 0x02, 0, 0, 0, 0], ProtocolError), // twice
        (&[0x0b, 0], ProtocolError),                // subscription identifier 0
        (&[0x0b, 0x81, 0x00], MalformedPacket),     // longer than needed
        (&[0x0b, 0xff, 0xff, 0xff, 0xff, 0x7f], MalformedPacket), // five bytes
        (&[0x11, 0, 0, 0, 1], MalformedPacket),     // session expiry is not for PUBLISH
        (&[0x18, 0, 0, 0, 1], MalformedPacket),     // will delay neither
        (&[0x1f, 0, 0], MalformedPacket),           // reason string neither
    ];
    for (bytes, reason) in cases {
        let bytes = packet(0x30, &[&field("t"), &properties(&[bytes])]);
        refused(&bytes, V5, Client, *reason);
    }
}

/// `[MQTT-3.3.4-6]`: from the server only, where it may repeat.
#[test]
fn subscription_identifiers_in_publish() {
    let own = properties(&[
        &[0x0b, 1],
        &[0x26],
        &field("k"),
        &field("v"),
        &[0x0b, 0x80, 0x01],
    ]);
    let bytes = packet(0x30, &[&field("t"), &own, b"x"]);
    refused(&bytes, V5, Server, R::ProtocolError);
    let Packet::Publish(publish) = accepted(&bytes, V5, Client) else {
        panic!("not a PUBLISH");
    };
    let ids: Vec<u32> = publish
        .properties
        .subscription_ids
        .iter()
        .map(Into::into)
        .collect();
    assert_eq!(ids, [1, 128]);
    assert_eq!(publish.properties.user, List::new(&[("k", "v")]));
}

#[test]
fn publish_cut_off() {
    refused_in_both(&[0x30, 0], Server, R::MalformedPacket);
    refused_in_both(&[0x30, 1, 0], Server, R::MalformedPacket);
    refused_in_both(&[0x30, 3, 0, 2, b't'], Server, R::MalformedPacket);
    refused_in_both(&[0x30, 2, 0xff, 0xff], Server, R::MalformedPacket);
    refused_in_both(&packet(0x32, &[&field("t")]), Server, R::MalformedPacket);
    refused_in_both(
        &packet(0x32, &[&field("t"), &[1]]),
        Server,
        R::MalformedPacket,
    );
    refused(
        &packet(0x30, &[&field("t")]),
        V5,
        Server,
        R::MalformedPacket,
    );
    refused(
        &packet(0x30, &[&field("t"), &[1]]),
        V5,
        Server,
        R::MalformedPacket,
    );
    refused(
        &packet(0x30, &[&field("t"), &[2, 1]]),
        V5,
        Server,
        R::MalformedPacket,
    );
}

#[test]
fn acks() {
    for first in [0x40, 0x50, 0x62, 0x70] {
        accepted(&[first, 2, 0, 1], V311, Server);
        accepted(&[first, 2, 0, 1], V5, Server);
        refused(&[first, 3, 0, 1, 0], V311, Server, R::MalformedPacket);
        accepted(&[first, 3, 0, 1, 0], V5, Server);
        accepted(&[first, 4, 0, 1, 0, 0], V5, Client);
        refused_in_both(&[first, 1, 0], Server, R::MalformedPacket);
        refused_in_both(&[first, 0], Server, R::MalformedPacket);
        // A code that does not exist, and one of another packet.
        refused(&[first, 3, 0, 1, 0x7f], V5, Server, R::MalformedPacket);
        refused(&[first, 3, 0, 1, 0x8d], V5, Server, R::ProtocolError);
        refused(&[first, 5, 0, 1, 0, 0, 0], V5, Server, R::MalformedPacket);
        let twice = properties(&[&[0x1f, 0, 0], &[0x1f, 0, 0]]);
        refused(
            &packet(first, &[&[0, 1, 0], &twice]),
            V5,
            Server,
            R::ProtocolError,
        );
    }
    // [MQTT-3.4.2-1] [MQTT-3.6.2-1]
    accepted(&[0x40, 3, 0, 1, 0x10], V5, Server);
    refused(&[0x62, 3, 0, 1, 0x10], V5, Server, R::ProtocolError);
    accepted(&[0x70, 3, 0, 1, 0x92], V5, Server);
    refused(&[0x40, 3, 0, 1, 0x92], V5, Server, R::ProtocolError);
}
