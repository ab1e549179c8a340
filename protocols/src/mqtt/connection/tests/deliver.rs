//! PUBLISH to the client and what it answers.

use super::*;
use crate::connection::Settle;
use crate::model::{PayloadFormat, Properties};
use crate::outbox::SHARE_BYTES;

fn settle(story: &mut Story) -> Settle {
    match story.commands().pop() {
        Some(Command::Settle {
            token: None,
            settle,
        }) => settle,
        other => panic!("no settle: {other:?}"),
    }
}

fn send_one(story: &mut Story, qos: QoS, position: Position) {
    let message = message("a", "x");
    let delivered = story.deliver(&delivery(&message, qos, Some(position)));
    assert_eq!(delivered, Delivered::Written);
    story.written();
}

#[test]
fn qos_0_is_encoded_once_for_all_receivers() {
    let message = message("a/b", "x");
    let mut first = Story::v311(|_| {});
    let mut second = Story::v311(|_| {});
    let mut fifth = Story::v5(|_| {}, &[]);
    let mut one = delivery(&message, QoS::AtMostOnce, None);
    assert_eq!(first.deliver(&one), Delivered::Written);
    assert_eq!(first.written(), publish_v311(0x30, "a/b", &[], b"x"));
    one.retain = true;
    assert_eq!(second.deliver(&one), Delivered::Written);
    assert_eq!(second.written(), publish_v311(0x31, "a/b", &[], b"x"));
    assert_eq!(fifth.deliver(&one), Delivered::Written);
    assert_eq!(fifth.written(), publish_v5(0x31, "a/b", &[], &[], b"x"));
    let encoding = crate::model::Encoding("mqtt 3.1.1 packet");
    let shared = message.encoded(encoding, |_| panic!("it was not kept"));
    assert_eq!(shared[..], publish_v311(0x30, "a/b", &[], b"x"));
}

/// The bytes are the same, but nothing is kept for others.
#[test]
fn qos_0_for_one_receiver_is_written_for_it_alone() {
    for retain in [false, true] {
        for (mut story, bytes) in [
            (
                Story::v311(|_| {}),
                publish_v311(0x30 | u8::from(retain), "a/b", &[], b"x"),
            ),
            (
                Story::v5(|_| {}, &[]),
                publish_v5(0x30 | u8::from(retain), "a/b", &[], &[], b"x"),
            ),
        ] {
            let message = message("a/b", "x");
            message.set_for_one();
            let mut one = delivery(&message, QoS::AtMostOnce, None);
            one.retain = retain;
            assert_eq!(story.deliver(&one), Delivered::Written);
            assert_eq!(story.written(), bytes);
            for name in ["mqtt 3.1.1 packet", "mqtt 5 packet"] {
                let again = message.encoded(crate::model::Encoding(name), |_| "new".into());
                assert_eq!(again, "new", "nothing was kept");
            }
        }
    }
}

#[test]
fn a_large_payload_is_shared() {
    let body = "x".repeat(SHARE_BYTES);
    let message = message("a/b", &body);
    for mut story in [Story::v311(|_| {}), Story::v5(|_| {}, &[])] {
        for (qos, position) in [(QoS::AtMostOnce, None), (QoS::AtLeastOnce, Some(0))] {
            assert_eq!(
                story.deliver(&delivery(&message, qos, position)),
                Delivered::Written
            );
            let pieces = story.outbox.take();
            assert_eq!(pieces[1].as_ptr(), message.payload.as_ptr());
            assert!(pieces[0].len() < 16);
        }
    }
}

/// `[MQTT-3.3.1-3]`: DUP is the delivery's own. The identifier is a function of the position.
#[test]
fn qos_1_and_2_have_identifier_and_dup() {
    let message = message("a/b", "x");
    for mut story in [Story::v311(|_| {}), Story::v5(|_| {}, &[])] {
        let properties: &[u8] = if story.client.version == super::super::Version::V5 {
            &[0]
        } else {
            &[]
        };
        for (qos, position, attempts, first, id) in [
            (QoS::AtLeastOnce, 0, 0, 0x32, [0, 1]),
            (QoS::ExactlyOnce, 65_534, 0, 0x34, [255, 255]),
            (QoS::AtLeastOnce, 65_535, 2, 0x3a, [0, 1]),
        ] {
            let mut one = delivery(&message, qos, Some(position));
            one.attempts = attempts;
            assert_eq!(story.deliver(&one), Delivered::Written);
            let expected = packet(first, &[&field("a/b"), &id, properties, b"x"]);
            assert_eq!(story.written(), expected);
        }
    }
}

#[test]
fn dup_is_never_set_at_qos_0() {
    let message = message("a/b", "x");
    let mut story = Story::v311(|_| {});
    let mut one = delivery(&message, QoS::AtMostOnce, None);
    one.attempts = 3;
    assert_eq!(story.deliver(&one), Delivered::Written);
    // [MQTT-3.3.1-2]
    assert_eq!(story.written()[0], 0x30);
}

/// `[MQTT-3.3.4-3]` to `[MQTT-3.3.4-5]`, `[MQTT-3.3.2-6]`
#[test]
fn identifiers_and_lifetime_are_the_receivers_own() {
    let mut message = Message::new(
        Topic::parse("a/b".into(), 64, 8).unwrap(),
        Bytes::from_static(b"x"),
        QoS::AtLeastOnce,
        false,
    );
    message.expires_at = Some(START.plus_secs(10));
    let message = Arc::new(message);
    let mut story = Story::v5(|_| {}, &[]);
    story.now = START.plus_secs(4);
    let identifier = |number| Matched {
        id: SubscriptionId(number),
        identifier: std::num::NonZeroU32::new(number),
    };
    let matched = [identifier(1), identifier(0), identifier(200)];
    let mut one = delivery(&message, QoS::AtMostOnce, None);
    one.matched = &matched;
    assert_eq!(story.deliver(&one), Delivered::Written);
    let properties = [2, 0, 0, 0, 6, 0x0b, 1, 0x0b, 0xc8, 1];
    assert_eq!(
        story.written(),
        publish_v5(0x30, "a/b", &[], &properties, b"x")
    );
    one.matched = &[];
    assert_eq!(story.deliver(&one), Delivered::Written);
    assert_eq!(
        story.written(),
        publish_v5(0x30, "a/b", &[], &[2, 0, 0, 0, 6], b"x")
    );
    // 3.1.1 has neither.
    let mut story = Story::v311(|_| {});
    assert_eq!(story.deliver(&one), Delivered::Written);
    assert_eq!(story.written(), publish_v311(0x30, "a/b", &[], b"x"));
}

/// `[MQTT-3.3.2-4]` `[MQTT-3.3.2-15]` `[MQTT-3.3.2-16]` `[MQTT-3.3.2-17]` `[MQTT-3.3.2-20]`
#[test]
fn properties_arrive_as_they_were_published() {
    let mut message = message("a/b", "x").copy();
    message.payload_format = Some(PayloadFormat::Utf8);
    message.properties = Some(Box::new(Properties {
        content_type: Some("t".into()),
        reply_to: Some("r".into()),
        correlation: Some(Bytes::from_static(b"c")),
        user: vec![("k".into(), "1".into()), ("k".into(), "2".into())],
    }));
    let message = Arc::new(message);
    let properties = [
        &[1, 1, 8][..],
        &field("r"),
        &[9],
        &field("c"),
        &[3],
        &field("t"),
        &[0x26],
        &field("k"),
        &field("1"),
        &[0x26],
        &field("k"),
        &field("2"),
    ]
    .concat();
    let mut story = Story::v5(|_| {}, &[]);
    for (qos, first, id) in [
        (QoS::AtMostOnce, 0x30, &[][..]),
        (QoS::ExactlyOnce, 0x34, &[0, 8]),
    ] {
        let one = delivery(&message, qos, Some(7));
        assert_eq!(story.deliver(&one), Delivered::Written);
        assert_eq!(
            story.written(),
            publish_v5(first, "a/b", id, &properties, b"x")
        );
    }
}

/// `[MQTT-3.3.2-8]`, `[MQTT-3.1.2-26]` `[MQTT-3.1.2-27]`
#[test]
fn topics_are_sent_by_number_to_clients_that_allow_it() {
    let message = message("long/topic", "x");
    let mut story = Story::v5(|_| {}, &[0x22, 0, 1]);
    let one = delivery(&message, QoS::AtMostOnce, None);
    let alias = [0x23, 0, 1];
    for topic in ["long/topic", "", ""] {
        assert_eq!(story.deliver(&one), Delivered::Written);
        assert_eq!(story.written(), publish_v5(0x30, topic, &[], &alias, b"x"));
    }
    let acknowledged = delivery(&message, QoS::AtLeastOnce, Some(0));
    assert_eq!(story.deliver(&acknowledged), Delivered::Written);
    assert_eq!(story.written(), publish_v5(0x32, "", &[0, 1], &alias, b"x"));
}

#[test]
fn a_number_is_not_taken_by_a_packet_that_is_too_large_with_it() {
    let large = message("long/topic", &"x".repeat(20));
    let small = message("long/topic", "x");
    // 35 bytes by name, 38 with a number.
    let mut story = Story::v5(|_| {}, &[0x22, 0, 1, 0x27, 0, 0, 0, 36]);
    assert_eq!(
        story.deliver(&delivery(&large, QoS::AtMostOnce, None)),
        Delivered::Written
    );
    assert_eq!(
        story.written(),
        publish_v5(0x30, "long/topic", &[], &[], large.payload.as_ref())
    );
    assert_eq!(
        story.deliver(&delivery(&small, QoS::AtMostOnce, None)),
        Delivered::Written
    );
    assert_eq!(
        story.written(),
        publish_v5(0x30, "long/topic", &[], &[0x23, 0, 1], b"x")
    );
}

/// `[MQTT-3.1.2-24]` `[MQTT-3.1.2-25]`
#[test]
fn a_message_too_large_for_the_client_is_not_sent() {
    let fits = message("a/b", &"x".repeat(22));
    let large = message("a/b", &"x".repeat(23));
    // 30 bytes: 2 of fixed header, 5 of topic, 1 of properties.
    let mut story = Story::v5(|_| {}, &[0x27, 0, 0, 0, 30]);
    for (message, expected) in [(&fits, Delivered::Written), (&large, Delivered::TooLarge)] {
        assert_eq!(
            story.deliver(&delivery(message, QoS::AtMostOnce, None)),
            expected
        );
    }
    assert_eq!(story.written().len(), 30);
    assert_eq!(
        story.deliver(&delivery(&fits, QoS::AtLeastOnce, Some(0))),
        Delivered::TooLarge
    );
    assert_eq!(story.written(), [0_u8; 0]);
}

/// `[MQTT-4.3.2-3]`
#[test]
fn puback_settles() {
    let mut story = Story::v311(|_| {});
    send_one(&mut story, QoS::AtLeastOnce, 4);
    story.send(&[0x40, 2, 0, 5]);
    assert_eq!(settle(&mut story), Settle::Done(4));
}

/// An identifier that was never sent is no position of the future.
#[test]
fn an_ack_for_nothing_is_ignored() {
    let mut story = Story::v5(|_| {}, &[]);
    story.send(&[0x40, 2, 0, 1, 0x70, 2, 0, 1]);
    assert!(story.commands().is_empty());
    send_one(&mut story, QoS::AtLeastOnce, 4);
    story.send(&[0x40, 2, 0, 6, 0x40, 2, 255, 255]);
    assert!(story.commands().is_empty() && story.close.is_none());
    // PUBREL says so with 0x92 [MQTT-3.6.2-1]; 3.1.1 has no code for it.
    story.send(&[0x50, 2, 0, 6]);
    assert_eq!(story.written(), [0x62, 3, 0, 6, 0x92]);
    let mut story = Story::v311(|_| {});
    story.send(&[0x50, 2, 0, 6]);
    assert_eq!(story.written(), [0x62, 2, 0, 6]);
}

/// `[MQTT-4.3.3-4]` to `[MQTT-4.3.3-6]`
#[test]
fn qos_2_goes_out_in_two_steps() {
    let mut story = Story::v5(|_| {}, &[]);
    send_one(&mut story, QoS::ExactlyOnce, 0);
    story.send(&[0x50, 2, 0, 1]);
    assert_eq!(settle(&mut story), Settle::Received(0));
    assert_eq!(story.written(), [0_u8; 0], "not before it is on record");
    story.reply(Reply::Received {
        position: 0,
        found: true,
    });
    assert_eq!(story.written(), [0x62, 2, 0, 1]);
    story.send(&[0x70, 2, 0, 1]);
    assert_eq!(settle(&mut story), Settle::Done(0));
    // PUBREC once more, when all is over [MQTT-3.6.2-1].
    story.send(&[0x50, 2, 0, 1]);
    assert_eq!(settle(&mut story), Settle::Received(0));
    story.reply(Reply::Received {
        position: 0,
        found: false,
    });
    assert_eq!(story.written(), [0x62, 3, 0, 1, 0x92]);
}

/// `[MQTT-4.4.0-1]`: after a resume PUBREL comes in place of the message.
#[test]
fn a_resumed_exchange_goes_on_with_pubrel() {
    let mut story = Story::v311(|_| {});
    story.reply(Reply::Received {
        position: 70_000,
        found: true,
    });
    assert_eq!(story.written(), [0x62, 2, 0x11, 0x72]);
    story.send(&[0x70, 2, 0x11, 0x72]);
    assert_eq!(settle(&mut story), Settle::Done(70_000));
}

/// `[MQTT-4.3.3-4]`: an error ends the exchange.
#[test]
fn a_client_may_refuse_a_message() {
    let mut story = Story::v5(|_| {}, &[]);
    let rejected = |position| Settle::Rejected {
        position,
        requeue: false,
    };
    send_one(&mut story, QoS::ExactlyOnce, 0);
    story.send(&[0x50, 3, 0, 1, 0x97]);
    assert_eq!(settle(&mut story), rejected(0));
    send_one(&mut story, QoS::AtLeastOnce, 1);
    story.send(&[0x40, 3, 0, 2, 0x83]);
    assert_eq!(settle(&mut story), rejected(1));
    send_one(&mut story, QoS::AtLeastOnce, 2);
    story.send(&[0x40, 3, 0, 3, 0x10]);
    assert_eq!(settle(&mut story), Settle::Done(2));
    send_one(&mut story, QoS::ExactlyOnce, 3);
    story.send(&[0x70, 3, 0, 4, 0x92]);
    assert_eq!(settle(&mut story), Settle::Done(3));
    assert_eq!(story.written(), [0_u8; 0]);
}

#[test]
fn nothing_is_delivered_before_or_after() {
    let message = message("a", "x");
    let one = delivery(&message, QoS::AtMostOnce, None);
    let mut story = Story::new();
    assert_eq!(story.deliver(&one), Delivered::NotSubscribed);
    let mut story = Story::v311(|_| {});
    story.send(&[0xe0, 0]);
    assert_eq!(story.deliver(&one), Delivered::NotSubscribed);
    assert_eq!(story.written(), [0_u8; 0]);
}

/// What other protocols let through and MQTT has no form for is left out, the rest arrives (S18).
#[test]
fn properties_without_a_form_are_left_out() {
    let mut message = message("a", "x").copy();
    message.properties = Some(Box::new(Properties {
        reply_to: Some("a/+".into()),
        user: vec![("k\0".into(), "1".into()), ("k".into(), "2".into())],
        ..Properties::default()
    }));
    let message = Arc::new(message);
    let mut story = Story::v5(|_| {}, &[]);
    assert_eq!(
        story.deliver(&delivery(&message, QoS::AtMostOnce, None)),
        Delivered::Written
    );
    let properties = [&[0x26][..], &field("k"), &field("2")].concat();
    assert_eq!(
        story.written(),
        publish_v5(0x30, "a", &[], &properties, b"x")
    );
}
