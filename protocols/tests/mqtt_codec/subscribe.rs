//! SUBSCRIBE, UNSUBSCRIBE and their answers.

use protocols::connection::RetainHandling;
use protocols::model::QoS;
use protocols::mqtt::Side::{Client, Server};
use protocols::mqtt::Version::{V5, V311};
use protocols::mqtt::list::List;
use protocols::mqtt::packet::{Packet, Subscription};
use protocols::mqtt::{ReasonCode as R, decode};

use crate::support::{ANY_SIZE, accepted, field, packet, properties, refused, refused_in_both};

#[test]
fn subscribe_options() {
    let bytes = packet(
        0x82,
        &[
            &[0, 1],
            &properties(&[&[0x0b, 5]]),
            &field("a"),
            &[0b10_1110],
        ],
    );
    let Packet::Subscribe(subscribe) = accepted(&bytes, V5, Server) else {
        panic!("not a SUBSCRIBE");
    };
    assert_eq!(subscribe.properties.subscription_id.unwrap().get(), 5);
    let expected = Subscription {
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
        ..Subscription::new("a", QoS::ExactlyOnce)
    };
    assert_eq!(subscribe.filters, List::new(&[expected]));
    let with = |options: u8| packet(0x82, &[&[0, 1, 0], &field("a"), &[options]]);
    for options in [3, 0x30] {
        refused(&with(options), V5, Server, R::ProtocolError);
    }
    for options in [0x40, 0x80, 0xc0] {
        refused(&with(options), V5, Server, R::MalformedPacket); // [MQTT-3.8.3-5]
    }
    // 3.1.1: [MQTT-3-8.3-4]
    for options in [3, 4, 8, 0x10, 0x80] {
        let bytes = packet(0x82, &[&[0, 1], &field("a"), &[options]]);
        assert!(decode(&bytes, V311, Server, ANY_SIZE).is_err(), "{options}");
    }
}

/// `[MQTT-3.8.3-4]`
#[test]
fn no_local_on_a_shared_subscription() {
    let bytes = packet(0x82, &[&[0, 1, 0], &field("$share/g/a"), &[4]]);
    refused(&bytes, V5, Server, R::ProtocolError);
    accepted(
        &packet(0x82, &[&[0, 1, 0], &field("$shared/g/a"), &[4]]),
        V5,
        Server,
    );
    accepted(
        &packet(0x82, &[&[0, 1, 0], &field("$share/g/a"), &[8]]),
        V5,
        Server,
    );
}

/// `[MQTT-3.8.3-2]` `[MQTT-3.10.3-2]`
#[test]
fn no_filters() {
    refused(&[0x82, 2, 0, 1], V311, Server, R::ProtocolError);
    refused(&[0x82, 3, 0, 1, 0], V5, Server, R::ProtocolError);
    refused(&[0xa2, 2, 0, 1], V311, Server, R::ProtocolError);
    refused(&[0xa2, 3, 0, 1, 0], V5, Server, R::ProtocolError);
}

/// A filter that is no filter is refused alone, in SUBACK: here it is only a text.
#[test]
fn bad_filters_are_passed_on() {
    let texts = ["", "a/#/b", "a+", "$share", "$share//a", "$share/g+/a"];
    for text in texts {
        let bytes = packet(0x82, &[&[0, 1], &field("good"), &[1], &field(text), &[0]]);
        let Packet::Subscribe(subscribe) = accepted(&bytes, V311, Server) else {
            panic!("not a SUBSCRIBE");
        };
        let filters: Vec<&str> = subscribe.filters.iter().map(|it| it.filter).collect();
        assert_eq!(filters, ["good", text]);
        let bytes = packet(0xa2, &[&[0, 1, 0], &field(text)]);
        let Packet::Unsubscribe(unsubscribe) = accepted(&bytes, V5, Server) else {
            panic!("not an UNSUBSCRIBE");
        };
        assert_eq!(unsubscribe.filters, List::new(&[text]));
    }
    // As long and deep as a text can be.
    let slashes = "/".repeat(65_535);
    accepted(
        &packet(0x82, &[&[0, 1], &field(&slashes), &[0]]),
        V311,
        Server,
    );
}

#[test]
fn subscribe_cut_off() {
    refused_in_both(&packet(0x82, &[&[0]]), Server, R::MalformedPacket);
    // Without an options byte.
    refused(
        &packet(0x82, &[&[0, 1], &field("a")]),
        V311,
        Server,
        R::MalformedPacket,
    );
    refused(
        &packet(0x82, &[&[0, 1, 0], &field("a")]),
        V5,
        Server,
        R::MalformedPacket,
    );
    refused(
        &packet(0x82, &[&[0, 1, 0, 0, 9], b"a"]),
        V5,
        Server,
        R::MalformedPacket,
    );
    refused(
        &packet(0xa2, &[&[0, 1], &[0, 9], b"a"]),
        V311,
        Server,
        R::MalformedPacket,
    );
    refused(
        &packet(0xa2, &[&[0, 1], &field("a"), &[0]]),
        V311,
        Server,
        R::MalformedPacket,
    );
    refused(
        &packet(0x82, &[&[0, 1], &properties(&[&[0x0b, 0]])]),
        V5,
        Server,
        R::ProtocolError,
    );
    let twice = properties(&[&[0x0b, 1, 0x0b, 1]]);
    refused(
        &packet(0x82, &[&[0, 1], &twice]),
        V5,
        Server,
        R::ProtocolError,
    );
    let misplaced = properties(&[&[0x0b, 1]]);
    refused(
        &packet(0xa2, &[&[0, 1], &misplaced, &field("a")]),
        V5,
        Server,
        R::MalformedPacket,
    );
}

#[test]
fn suback_codes() {
    let Packet::SubAck(suback) = accepted(&[0x90, 6, 0, 1, 0, 1, 2, 0x80], V311, Client) else {
        panic!("not a SUBACK");
    };
    let expected = [
        R::Success,
        R::GrantedQoS1,
        R::GrantedQoS2,
        R::UnspecifiedError,
    ];
    assert_eq!(suback.codes, List::new(&expected));
    // 3.1.1: [MQTT-3.9.3-2]
    for code in [3, 0x7f, 0x81, 0x87, 0xff] {
        refused(&[0x90, 3, 0, 1, code], V311, Client, R::MalformedPacket);
    }
    accepted(&[0x90, 5, 0, 1, 0, 0x87, 0x8f], V5, Client);
    refused(&[0x90, 4, 0, 1, 0, 0x11], V5, Client, R::ProtocolError);
    refused(&[0x90, 4, 0, 1, 0, 3], V5, Client, R::MalformedPacket);
    accepted(&[0xb0, 5, 0, 1, 0, 0x11, 0x00], V5, Client);
    refused(&[0xb0, 4, 0, 1, 0, 0x01], V5, Client, R::ProtocolError);
    // [MQTT-3.9.3-1] [MQTT-3.11.3-1]; a 3.1.1 UNSUBACK has no codes.
    refused(&[0x90, 2, 0, 1], V311, Client, R::MalformedPacket);
    refused(&[0x90, 3, 0, 1, 0], V5, Client, R::MalformedPacket);
    refused(&[0xb0, 3, 0, 1, 0], V5, Client, R::MalformedPacket);
    accepted(&[0xb0, 2, 0, 1], V311, Client);
    refused(&[0xb0, 3, 0, 1, 0], V311, Client, R::MalformedPacket);
}
