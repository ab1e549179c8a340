//! Writing packets, and reason codes.

use std::num::NonZeroU16;

use protocols::model::QoS;
use protocols::mqtt::Version::{V5, V311};
use protocols::mqtt::list::List;
use protocols::mqtt::packet::{Ack, Auth, ConnAck, Disconnect, Packet, Publish, SubAck, Subscribe};
use protocols::mqtt::properties::{
    AckProperties, AuthProperties, ConnAckProperties, PublishProperties, SubscribeProperties,
};
use protocols::mqtt::{EncodeError, ReasonCode as R, Version, encode};

use crate::support::encode_one;

#[test]
fn reason_codes() {
    assert_eq!(R::ALL.len(), 43);
    for code in R::ALL {
        assert_eq!(R::from_u8(code.as_u8()), Some(*code));
        assert!(!code.text().is_empty());
        assert_eq!(code.is_error(), code.as_u8() >= 0x80);
    }
    for code in 0..6 {
        assert_eq!(R::from_connack_v3(code).unwrap().connack_v3(), Some(code));
    }
    assert_eq!(R::from_connack_v3(6), None);
    assert_eq!(R::NotAuthorized.connack_v3(), Some(5));
    assert_eq!(R::ServerBusy.connack_v3(), Some(3));
    assert_eq!(R::MalformedPacket.connack_v3(), None);
    assert_eq!(R::KeepAliveTimeout.connack_v3(), None);
    assert_eq!(R::TopicFilterInvalid.suback_v3(), 0x80);
    assert_eq!(R::from(QoS::ExactlyOnce).suback_v3(), 2);
}

fn publish(topic: &str) -> Publish<'_> {
    Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic,
        packet_id: None,
        properties: PublishProperties::default(),
        payload: b"",
    }
}

#[track_caller]
fn not_written(packet: &Packet<'_>, version: Version) -> EncodeError {
    let mut out = b"before".to_vec();
    let error = encode(packet, version, &mut out).unwrap_err();
    assert_eq!(out, b"before", "nothing is written with an error");
    error
}

#[test]
fn what_cannot_be_written() {
    let id = NonZeroU16::new(1);
    let long = "x".repeat(65_536);
    let bad = [
        (publish("a\0"), EncodeError::Nul),
        (publish(&long), EncodeError::FieldTooLong),
        (
            publish("+"),
            EncodeError::Invalid("a topic name contains a wildcard"),
        ),
        (
            publish(""),
            EncodeError::Invalid("neither topic name nor topic alias"),
        ),
    ];
    for (publish, error) in bad {
        assert_eq!(not_written(&Packet::Publish(publish.clone()), V311), error);
        assert_eq!(not_written(&Packet::Publish(publish), V5), error);
    }
    let with_id = Publish {
        packet_id: id,
        ..publish("a")
    };
    let without_id = Publish {
        qos: QoS::AtLeastOnce,
        ..publish("a")
    };
    let dup = Publish {
        dup: true,
        ..publish("a")
    };
    for publish in [with_id, without_id, dup] {
        not_written(&Packet::Publish(publish), V5);
    }
    let ack = Ack::new(id.unwrap(), R::Banned);
    not_written(&Packet::PubAck(ack), V5);
    let connack = ConnAck {
        session_present: true,
        reason: R::NotAuthorized,
        properties: ConnAckProperties::default(),
    };
    not_written(&Packet::ConnAck(Box::new(connack)), V5);
    let auth = Auth {
        reason: R::ContinueAuthentication,
        properties: AuthProperties::default(),
    };
    not_written(&Packet::Auth(auth.clone()), V5);
    not_written(&Packet::Auth(auth), V311);
    let subscribe = Subscribe {
        packet_id: id.unwrap(),
        properties: SubscribeProperties::default(),
        filters: List::default(),
    };
    not_written(&Packet::Subscribe(subscribe), V311);
    let huge = vec![0; 268_435_456];
    let huge = Publish {
        payload: &huge,
        ..publish("a")
    };
    assert_eq!(
        not_written(&Packet::Publish(huge), V311),
        EncodeError::TooLarge
    );
    let mut small = [0; 1];
    let error = encode(&Packet::PingReq, V5, &mut &mut small[..]).unwrap_err();
    assert_eq!(error, EncodeError::TooLarge);
}

#[test]
fn short_forms() {
    let id = NonZeroU16::new(258).unwrap();
    let ack = |reason| encode_one(&Packet::PubAck(Ack::new(id, reason)), V5);
    assert_eq!(ack(R::Success), [0x40, 2, 1, 2]);
    assert_eq!(ack(R::NotAuthorized), [0x40, 3, 1, 2, 0x87]);
    let explained = Ack::new(id, R::NotAuthorized).with_reason_string("no");
    let explained = Packet::PubAck(explained);
    assert_eq!(
        encode_one(&explained, V5),
        [0x40, 9, 1, 2, 0x87, 5, 0x1f, 0, 2, b'n', b'o']
    );
    // 3.1.1 has no words for it.
    assert_eq!(encode_one(&explained, V311), [0x40, 2, 1, 2]);
    let pubrel = Packet::PubRel(Ack::new(id, R::Success));
    assert_eq!(encode_one(&pubrel, V5), [0x62, 2, 1, 2]);
    let bye = |reason| Packet::Disconnect(Disconnect::new(reason));
    assert_eq!(encode_one(&bye(R::Success), V5), [0xe0, 0]);
    assert_eq!(encode_one(&bye(R::ServerShuttingDown), V5), [0xe0, 1, 0x8b]);
    assert_eq!(encode_one(&bye(R::ServerShuttingDown), V311), [0xe0, 0]);
}

#[test]
fn answers_to_3_1_1_clients() {
    let id = NonZeroU16::new(1).unwrap();
    let codes = [R::GrantedQoS1, R::TopicFilterInvalid, R::NotAuthorized];
    let suback = SubAck {
        packet_id: id,
        properties: AckProperties::default(),
        codes: List::new(&codes),
    };
    assert_eq!(
        encode_one(&Packet::SubAck(suback.clone()), V311),
        [0x90, 5, 0, 1, 1, 0x80, 0x80]
    );
    assert_eq!(encode_one(&Packet::UnsubAck(suback), V311), [0xb0, 2, 0, 1]);
    let connack = |reason| {
        Packet::ConnAck(Box::new(ConnAck {
            session_present: false,
            reason,
            properties: ConnAckProperties::default(),
        }))
    };
    assert_eq!(
        encode_one(&connack(R::UnsupportedProtocolVersion), V311),
        [0x20, 2, 0, 1]
    );
    not_written(&connack(R::MalformedPacket), V311);
}
