//! CONNECT: the first packet of a client.

use protocols::model::{PayloadFormat, QoS};
use protocols::mqtt::Side::Server;
use protocols::mqtt::Version::{V5, V311};
use protocols::mqtt::list::List;
use protocols::mqtt::packet::Packet;
use protocols::mqtt::{
    DecodeError, Decoded, ReasonCode as R, decode, decode_connect, offered_version,
};

use crate::support::{
    ANY_SIZE, accepted, connect, connect_v3, connect_v5, field, packet, properties, refused,
};

/// `[MQTT-3.1.0-1]`
#[test]
fn first_packet_must_be_connect() {
    for first in [0x00, 0x20, 0x30, 0x3f, 0x82, 0xc0, 0xe0, 0xf0] {
        let error = decode_connect(&[first], 1000).unwrap_err();
        assert_eq!(error.reason(), R::ProtocolError, "{first:02x}");
    }
    let error = decode_connect(&[0x10, 0xff, 0xff, 0xff, 0x7f], 65_536).unwrap_err();
    assert_eq!(error.reason(), R::PacketTooLarge);
    let bytes = connect_v5(2, &[0], &[&field("c")]);
    let Ok(Decoded::Packet { packet, consumed }) = decode_connect(&bytes, 1000) else {
        panic!("a CONNECT was refused");
    };
    assert_eq!((packet.client_id, consumed), ("c", bytes.len()));
}

#[test]
fn connect_with_everything() {
    let will_properties = properties(&[
        &[0x18, 0, 0, 0, 5],
        &[0x01, 1],
        &[0x02, 0, 0, 0, 9],
        &[0x03],
        &field("text/plain"),
        &[0x08],
        &field("re"),
        &[0x09],
        &field([1, 2]),
    ]);
    let own = properties(&[
        &[0x11, 0, 0, 0, 10],
        &[0x21, 0, 20],
        &[0x27, 0, 0, 1, 0],
        &[0x22, 0, 5],
        &[0x19, 1],
        &[0x17, 0],
        &[0x26],
        &field("k"),
        &field("v"),
        &[0x26],
        &field("k"),
        &field(""),
        &[0x15],
        &field("SCRAM"),
        &[0x16],
        &field("x"),
    ]);
    let bytes = connect_v5(
        0b1111_0110,
        &own,
        &[
            &field("id"),
            &will_properties,
            &field("w/t"),
            &field("gone"),
            &field("user"),
            &field([0, 0xff]),
        ],
    );
    let Packet::Connect(connect) = accepted(&bytes, V5, Server) else {
        panic!("not a CONNECT");
    };
    assert_eq!(connect.version, V5);
    assert!(connect.clean_start);
    assert_eq!(connect.keep_alive_secs, 60);
    assert_eq!(connect.client_id, "id");
    assert_eq!(connect.username, Some("user"));
    assert_eq!(connect.password, Some(&[0, 0xff][..]));
    let it = &connect.properties;
    assert_eq!(it.session_expiry_secs, Some(10));
    assert_eq!(it.receive_maximum.unwrap().get(), 20);
    assert_eq!(it.maximum_packet_size.unwrap().get(), 256);
    assert_eq!(it.topic_alias_maximum, Some(5));
    assert_eq!(it.request_response_information, Some(true));
    assert_eq!(it.request_problem_information, Some(false));
    assert_eq!(it.authentication_method, Some("SCRAM"));
    assert_eq!(it.user, List::new(&[("k", "v"), ("k", "")]));
    let will = connect.will.unwrap();
    assert_eq!((will.topic, will.payload), ("w/t", &b"gone"[..]));
    assert_eq!((will.qos, will.retain), (QoS::ExactlyOnce, true));
    assert_eq!(will.properties.delay_secs, Some(5));
    assert_eq!(will.properties.payload_format, Some(PayloadFormat::Utf8));
    assert_eq!(will.properties.message_expiry_secs, Some(9));
    assert_eq!(will.properties.content_type, Some("text/plain"));
    assert_eq!(will.properties.response_topic, Some("re"));
    assert_eq!(will.properties.correlation_data, Some(&[1, 2][..]));
}

/// `[MQTT-3.1.2-1]` `[MQTT-3.1.2-2]`
#[test]
fn protocol_name_and_level() {
    let old = packet(0x10, &[b"\0\x06MQIsdp\x03\x02\0\x3c", &field("c")]);
    let error = decode_connect(&old, 1000).unwrap_err();
    assert_eq!(error, DecodeError::UnsupportedVersion { level: 3 });
    assert_eq!(error.answer_version(), Some(V311));
    assert_eq!(error.reason().connack_v3(), Some(1));
    for (level, answer) in [
        (0, V311),
        (3, V311),
        (0x84, V311),
        (6, V5),
        (0x85, V5),
        (0xff, V5),
    ] {
        let error = decode_connect(&connect(level, 2, &[&field("c")]), 1000).unwrap_err();
        assert_eq!(error.reason(), R::UnsupportedProtocolVersion);
        assert_eq!(error.answer_version(), Some(answer), "level {level}");
    }
    for name in ["", "mqtt", "MQTT ", "MQIsd", "HTTP"] {
        let bytes = packet(0x10, &[&field(name), &[4, 2, 0, 60], &field("c")]);
        assert_eq!(decode_connect(&bytes, 1000), Err(DecodeError::NotMqtt));
        assert_eq!(DecodeError::NotMqtt.answer_version(), None);
    }
}

#[test]
fn offered_version_is_seen_early() {
    let bytes = connect_v5(2, &[0], &[&field("c")]);
    assert_eq!(offered_version(&bytes[..9]), Some(V5));
    assert_eq!(offered_version(&bytes[..8]), None);
    assert_eq!(offered_version(&connect_v3(2, &[&field("c")])), Some(V311));
    assert_eq!(offered_version(&connect(6, 2, &[&field("c")])), None);
    assert_eq!(
        offered_version(&[0x30, 0x07, 0, 4, b'M', b'Q', b'T', b'T', 4]),
        None
    );
}

/// `[MQTT-3.1.2-3]`
#[test]
fn connect_reserved_flag() {
    refused(
        &connect_v3(3, &[&field("c")]),
        V311,
        Server,
        R::MalformedPacket,
    );
    refused(
        &connect_v5(3, &[0], &[&field("c")]),
        V5,
        Server,
        R::MalformedPacket,
    );
}

/// `[MQTT-3.1.2-11]` `[MQTT-3.1.2-12]` `[MQTT-3.1.2-13]`
#[test]
fn will_flags() {
    for flags in [0x0a, 0x12, 0x1a, 0x22, 0x2a] {
        refused(
            &connect_v3(flags, &[&field("c")]),
            V311,
            Server,
            R::MalformedPacket,
        );
        refused(
            &connect_v5(flags, &[0], &[&field("c")]),
            V5,
            Server,
            R::MalformedPacket,
        );
    }
    let will: &[&[u8]] = &[&field("c"), &field("t"), &field("m")];
    refused(&connect_v3(0x1e, will), V311, Server, R::MalformedPacket);
    accepted(&connect_v3(0x16, will), V311, Server);
    for topic in ["", "a/+", "#"] {
        let will: &[&[u8]] = &[&field("c"), &field(topic), &field("m")];
        refused(&connect_v3(0x06, will), V311, Server, R::TopicNameInvalid);
    }
}

/// 3.1.1: `[MQTT-3.1.2-22]`; 5 allows it (section 3.1.2.9).
#[test]
fn password_without_user_name() {
    let rest: &[&[u8]] = &[&field("c"), &field("secret")];
    refused(&connect_v3(0x42, rest), V311, Server, R::MalformedPacket);
    let bytes = connect_v5(0x42, &[0], rest);
    let Packet::Connect(connect) = accepted(&bytes, V5, Server) else {
        panic!("not a CONNECT");
    };
    assert_eq!(
        (connect.username, connect.password),
        (None, Some(&b"secret"[..]))
    );
}

/// 3.1.1: `[MQTT-3.1.3-7]` `[MQTT-3.1.3-8]`; 5: `[MQTT-3.1.3-6]`
#[test]
fn empty_client_identifier() {
    let empty = field("");
    let error = decode_connect(&connect_v3(0, &[&empty]), 1000).unwrap_err();
    assert_eq!(error.reason().connack_v3(), Some(2));
    accepted(&connect_v3(2, &[&empty]), V311, Server);
    accepted(&connect_v5(0, &[0], &[&empty]), V5, Server);
}

#[test]
fn all_of_connect_is_needed_and_no_more() {
    let whole = connect_v3(
        0xc6,
        &[
            &field("c"),
            &field("t"),
            &field("m"),
            &field("u"),
            &field("p"),
        ],
    );
    accepted(&whole, V311, Server);
    for length in 0..whole.len() - 2 {
        let cut = packet(0x10, &[&whole[2..2 + length]]);
        assert!(
            decode(&cut, V311, Server, ANY_SIZE).is_err(),
            "{length} bytes"
        );
    }
    refused(
        &packet(0x10, &[&whole[2..], b"x"]),
        V311,
        Server,
        R::MalformedPacket,
    );
}
