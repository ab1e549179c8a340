//! PUBLISH from the client and its answers.

use super::*;
use crate::model::PayloadFormat;

fn release(story: &mut Story, packet_id: u16) {
    match story.commands().pop() {
        Some(Command::Release { packet_id: id }) => assert_eq!(id, packet_id),
        other => panic!("no release: {other:?}"),
    }
}

fn released(story: &mut Story, packet_id: u16, found: bool) -> Vec<u8> {
    story.reply(Reply::Released { packet_id, found });
    story.written()
}

#[test]
fn qos_0_is_not_answered() {
    let mut story = Story::v311(|_| {});
    story.send(&publish_v311(0x31, "a/b", &[], b"\xff\x00"));
    let publish = story.publish();
    assert!(publish.token.is_none() && publish.exactly_once.is_none());
    let message = publish.message;
    assert_eq!(
        (message.topic.as_str(), &message.payload[..]),
        ("a/b", &b"\xff\x00"[..])
    );
    assert!(message.retain && message.properties.is_none() && message.expires_at.is_none());
    assert_eq!(message.qos, QoS::AtMostOnce);
}

/// A device says the same topic again and again: from the second time on all its messages share it.
#[test]
fn a_topic_that_comes_again_is_shared() {
    let mut story = Story::v311(|_| {});
    let mut publish = |topic| {
        story.send(&publish_v311(0x30, topic, &[], b"payload"));
        let message = story.publish().message;
        assert_eq!(message.topic.as_str(), topic);
        assert!(message.payload.is_unique(), "it holds on to nothing else");
        message
    };
    let address = |message: &Message| message.topic.as_str().as_ptr();
    let (first, second, third) = (publish("a/b"), publish("a/b"), publish("a/b"));
    assert_ne!(address(&first), address(&second));
    assert_eq!(address(&second), address(&third));
    for topic in ["a/c", "a/b/", "b", "a/c"] {
        publish(topic);
    }
    let again = publish("a/b");
    assert_eq!(address(&again), address(&second), "others came only once");
    let (other, kept) = (publish("x"), publish("x"));
    assert_ne!(address(&other), address(&kept));
    assert_eq!(address(&publish("x")), address(&kept));
}

/// With properties one allocation holds all of it.
#[test]
fn properties_topic_and_payload_are_one_copy() {
    let mut story = Story::v5(|_| {}, &[]);
    story.send(&publish_v5(0x30, "a/b", &[], b"\x03\x00\x01t", b"payload"));
    let message = story.publish().message;
    let topic = message.topic.as_str().as_ptr().addr();
    assert_eq!(message.payload.as_ptr().addr(), topic + 3 + 5);
}

/// `[MQTT-4.3.2-4]` `[MQTT-3.4.2-1]`
#[test]
fn qos_1_is_answered_when_the_broker_has_it() {
    let mut story = Story::v311(|_| {});
    story.send(&publish_v311(0x32, "a", &[1, 2], b"x"));
    let token = story.publish().token;
    assert_eq!(story.written(), [0_u8; 0]);
    story.published(token, Ok(0));
    assert_eq!(story.written(), [0x40, 2, 1, 2], "3.1.1 knows no 0x10");

    let mut story = Story::v5(|_| {}, &[]);
    for (result, expected) in [
        (Ok(3), &[0x40, 2, 0, 7][..]),
        (Ok(0), &[0x40, 3, 0, 7, 0x10]),
        (Err(RefusalCode::NotAuthorized), &[0x40, 3, 0, 7, 0x87]),
        (Err(RefusalCode::Quota), &[0x40, 3, 0, 7, 0x97]),
        (Err(RefusalCode::TopicInvalid), &[0x40, 3, 0, 7, 0x90]),
        (Err(RefusalCode::Unavailable), &[0x40, 3, 0, 7, 0x83]),
    ] {
        story.send(&publish_v5(0x32, "a", &[0, 7], &[], b"x"));
        let token = story.publish().token;
        story.published(token, result);
        assert_eq!(story.written(), expected);
    }
}

/// `[MQTT-3.1.2-29]`
#[test]
fn a_refusal_says_why_to_those_who_want_it() {
    let refusal = || Refusal::new(RefusalCode::NotAuthorized, "no");
    for (properties, expected) in [
        (
            &[][..],
            &[0x40, 9, 0, 7, 0x87, 5, 0x1f, 0, 2, b'n', b'o'][..],
        ),
        (&[0x17, 0], &[0x40, 3, 0, 7, 0x87]),
        (
            &[0x27, 0, 0, 0, 26],
            &[0x40, 9, 0, 7, 0x87, 5, 0x1f, 0, 2, b'n', b'o'],
        ),
    ] {
        let mut story = Story::v5(|_| {}, properties);
        story.send(&publish_v5(0x32, "a", &[0, 7], &[], b"x"));
        let token = story.publish().token.expect("a token");
        story.reply(Reply::Published {
            token,
            result: Err(refusal()),
        });
        assert_eq!(story.written(), expected);
    }
}

/// `[MQTT-4.3.3-8]` to `[MQTT-4.3.3-12]`
#[test]
fn qos_2_is_published_once() {
    let mut story = Story::v311(|_| {});
    story.send(&publish_v311(0x34, "a", &[0, 9], b"x"));
    let publish = story.publish();
    assert_eq!(publish.exactly_once, Some(9));
    story.published(publish.token, Ok(1));
    assert_eq!(story.written(), [0x50, 2, 0, 9]);
    // Once more, marked as a repeat: the broker knows the identifier.
    story.send(&publish_v311(0x3c, "a", &[0, 9], b"x"));
    let publish = story.publish();
    assert_eq!(publish.exactly_once, Some(9));
    story.published(publish.token, Ok(1));
    assert_eq!(story.written(), [0x50, 2, 0, 9]);
    story.send(&[0x62, 2, 0, 9]);
    release(&mut story, 9);
    assert_eq!(released(&mut story, 9, true), [0x70, 2, 0, 9]);
    assert_eq!(story.client.open.exactly_once(), 0);
}

/// `[MQTT-3.7.2-1]`
#[test]
fn a_pubrel_for_nothing_is_answered() {
    let mut story = Story::v5(|_| {}, &[]);
    story.send(&[0x62, 2, 0, 9]);
    release(&mut story, 9);
    assert_eq!(released(&mut story, 9, false), [0x70, 3, 0, 9, 0x92]);
    let mut story = Story::v311(|_| {});
    story.send(&[0x62, 2, 0, 9]);
    assert_eq!(released(&mut story, 9, false), [0x70, 2, 0, 9]);
}

/// S11 `[MQTT-3.3.4-7]` `[MQTT-3.3.4-9]`
#[test]
fn more_than_the_receive_maximum_ends_the_connection() {
    let mut story = Story::v5(|limits| limits.receive_maximum = 2, &[]);
    story.send(&publish_v5(0x32, "a", &[0, 1], &[], b""));
    let first = story.publish().token;
    story.send(&publish_v5(0x34, "a", &[0, 2], &[], b""));
    let second = story.publish().token;
    // The same identifier again is the same message, 20,000 times if need be.
    for _ in 0..20_000 {
        story.send(&publish_v5(0x3c, "a", &[0, 2], &[], b""));
        assert_eq!(story.commands().len(), 1);
    }
    story.published(first, Ok(1)).published(second, Ok(1));
    assert_eq!(story.written(), [0x40, 2, 0, 1, 0x50, 2, 0, 2]);
    story.send(&publish_v5(0x32, "a", &[0, 3], &[], b""));
    assert_eq!(story.commands().len(), 1, "PUBACK has made room");
    story.send(&publish_v5(0x32, "a", &[0, 4], &[], b""));
    story.ended(0x93);
    assert_eq!(story.cause(), Some(Cause::ReceiveMaximum));
    assert!(story.commands().is_empty());
}

/// `[MQTT-4.3.3-9]`: PUBREC with an error ends the exchange.
#[test]
fn a_refused_qos_2_publish_makes_room() {
    let mut story = Story::v5(|limits| limits.receive_maximum = 1, &[]);
    for _ in 0..3 {
        story.send(&publish_v5(0x34, "a", &[0, 1], &[], b""));
        let token = story.publish().token;
        story.published(token, Err(RefusalCode::Quota));
        assert_eq!(story.written(), [0x50, 3, 0, 1, 0x97]);
    }
}

/// 3.1.1 has no receive maximum; the table of open identifiers is bounded all the same.
#[test]
fn open_identifiers_of_3_1_1_are_bounded() {
    let mut story = Story::v311(|limits| limits.receive_maximum_v3 = 3);
    for id in 1..=3 {
        story.send(&publish_v311(0x34, "a", &[0, id], b""));
    }
    for id in 4..=200 {
        story.send(&publish_v311(0x32, "a", &[0, id], b""));
    }
    assert_eq!(story.close, None, "QoS 1 holds no memory here");
    story.send(&publish_v311(0x34, "a", &[1, 1], b""));
    story.ended_silently(Cause::ReceiveMaximum);
}

/// `[MQTT-3.3.5-2]`: what may be accepted later is not acknowledged, what never will be is.
#[test]
fn a_refusal_in_3_1_1_is_an_ack_or_the_end() {
    for code in [
        RefusalCode::NotAuthorized,
        RefusalCode::TopicInvalid,
        RefusalCode::TooLarge,
    ] {
        let mut story = Story::v311(|_| {});
        story.send(&publish_v311(0x32, "a", &[0, 1], b""));
        let token = story.publish().token;
        story.published(token, Err(code));
        assert_eq!(story.written(), [0x40, 2, 0, 1], "{code:?}");
    }
    for (code, cause) in [
        (RefusalCode::Quota, Cause::Quota),
        (RefusalCode::Unavailable, Cause::Internal),
        (RefusalCode::Rate, Cause::Rate),
    ] {
        let mut story = Story::v311(|_| {});
        story.send(&publish_v311(0x34, "a", &[0, 1], b""));
        let token = story.publish().token;
        story.published(token, Err(code));
        story.ended_silently(cause);
    }
}

/// `[MQTT-3.2.2-11]` `[MQTT-3.2.2-14]`
#[test]
fn what_connack_ruled_out_ends_the_connection() {
    let limits = |limits: &mut Limits| {
        limits.maximum_qos = QoS::AtMostOnce;
        limits.retain_available = false;
    };
    let mut story = Story::v5(limits, &[]);
    story
        .send(&publish_v5(0x32, "a", &[0, 1], &[], b""))
        .ended(0x9b);
    let mut story = Story::v5(limits, &[]);
    story
        .send(&publish_v5(0x31, "a", &[], &[], b""))
        .ended(0x9a);
    let mut story = Story::v311(limits);
    story.send(&publish_v311(0x34, "a", &[0, 1], b""));
    story.ended_silently(Cause::ProtocolError);
}

/// `[MQTT-3.3.2-7]` to `[MQTT-3.3.2-12]`
#[test]
fn a_topic_alias_stands_for_its_topic() {
    let mut story = Story::v5(|_| {}, &[]);
    story.send(&publish_v5(0x30, "long/topic", &[], &[0x23, 0, 16], b"1"));
    let first = story.publish().message;
    assert!(
        first.payload.is_unique(),
        "the alias does not hold on to it"
    );
    story.send(&publish_v5(0x30, "", &[], &[0x23, 0, 16], b"2"));
    let second = story.publish().message;
    assert_eq!(second.topic.as_str(), "long/topic");
    assert_eq!(second.payload, "2");
    let address = |message: &Message| message.topic.as_str().as_ptr();
    assert_eq!(address(&first), address(&second), "shared");
    story.send(&publish_v5(0x30, "other", &[], &[0x23, 0, 16], b"3"));
    story.commands();
    story.send(&publish_v5(0x30, "", &[], &[0x23, 0, 16], b"4"));
    assert_eq!(story.publish().message.topic.as_str(), "other");
}

#[test]
fn a_wrong_topic_alias_ends_the_connection() {
    for (topic, alias, code) in [
        ("a", [0x23, 0, 0], 0x94),
        ("a", [0x23, 0, 17], 0x94),
        ("", [0x23, 0, 17], 0x94),
        ("", [0x23, 0, 3], 0x82),
    ] {
        let mut story = Story::v5(|_| {}, &[]);
        story
            .send(&publish_v5(0x30, topic, &[], &alias, b""))
            .ended(code);
        assert!(story.commands().is_empty());
    }
}

/// Topics beyond the limits, S8.
#[test]
fn a_topic_beyond_the_limits_is_refused() {
    let deep = "/".repeat(32);
    let mut story = Story::v5(|_| {}, &[0x17, 0]);
    story.send(&publish_v5(0x32, &deep, &[0, 1], &[], b""));
    assert_eq!(story.written(), [0x40, 3, 0, 1, 0x90]);
    story.send(&publish_v5(0x34, &deep, &[0, 1], &[], b""));
    assert_eq!(story.written(), [0x50, 3, 0, 1, 0x90]);
    assert_eq!(
        (
            story.client.open.at_least_once(),
            story.client.open.exactly_once()
        ),
        (0, 0)
    );
    story
        .send(&publish_v5(0x30, &deep, &[], &[], b""))
        .ended(0x90);
    let mut story = Story::v311(|_| {});
    story.send(&publish_v311(0x32, &deep, &[0, 1], b""));
    story.ended_silently(Cause::ProtocolError);
}

/// `[MQTT-4.6.0-2]`: an answer that needs no question waits for its turn.
#[test]
fn answers_keep_the_order_of_the_publishes() {
    let mut story = Story::v5(|_| {}, &[0x17, 0]);
    let deep = "/".repeat(32);
    story.send(&publish_v5(0x32, "a", &[0, 1], &[], b""));
    let first = story.publish().token;
    story.send(&publish_v5(0x32, &deep, &[0, 2], &[], b""));
    story.send(&publish_v5(0x32, "a", &[0, 3], &[], b""));
    let third = story.publish().token;
    story.send(&publish_v5(0x32, &deep, &[0, 4], &[], b""));
    assert_eq!(story.written(), [0_u8; 0]);
    story.published(first, Ok(1));
    assert_eq!(story.written(), [0x40, 2, 0, 1, 0x40, 3, 0, 2, 0x90]);
    story.published(third, Ok(1));
    assert_eq!(story.written(), [0x40, 2, 0, 3, 0x40, 3, 0, 4, 0x90]);
}

#[test]
fn refusals_that_wait_are_bounded() {
    let mut story = Story::v5(|limits| limits.receive_maximum = 4, &[]);
    let deep = "/".repeat(32);
    story.send(&publish_v5(0x34, "a", &[0, 1], &[], b""));
    for _ in 0..5 {
        story.send(&publish_v5(0x34, &deep, &[0, 1], &[], b""));
    }
    story.ended(0x93);
}

/// `[MQTT-3.3.2.3.2]`
#[test]
fn a_payload_that_claims_to_be_text_is_checked() {
    let mut story = Story::v5(|_| {}, &[0x17, 0]);
    story.send(&publish_v5(0x32, "a", &[0, 1], &[1, 1], b"\xff"));
    assert_eq!(story.written(), [0x40, 3, 0, 1, 0x99]);
    story.send(&publish_v5(0x32, "a", &[0, 1], &[1, 1], "ä".as_bytes()));
    let message = story.publish().message;
    assert_eq!(message.payload_format, Some(PayloadFormat::Utf8));
    assert_eq!(message.properties, None, "it is no property of its own");
    story
        .send(&publish_v5(0x30, "a", &[], &[1, 1], b"\xff"))
        .ended(0x99);
}

/// `[MQTT-3.3.2-5]`, `[MQTT-3.3.2-18]`
#[test]
fn properties_travel_with_the_message() {
    let properties = [
        &[2, 0, 0, 0, 10, 3][..],
        &field("t/x"),
        &[8],
        &field("re/ply"),
        &[9],
        &field(b"\0"),
        &[0x26],
        &field("b"),
        &field("1"),
        &[0x26],
        &field("a"),
        &field(""),
        &[0x26],
        &field("b"),
        &field("2"),
    ]
    .concat();
    let mut story = Story::v5(|_| {}, &[]);
    story.send(&publish_v5(0x30, "a", &[], &properties, b"x"));
    let message = story.publish().message;
    assert_eq!(message.expires_at, Some(START.plus_secs(10)));
    let carried = message.properties.clone().expect("properties");
    assert_eq!(carried.content_type.as_deref(), Some("t/x"));
    assert_eq!(carried.reply_to.as_deref(), Some("re/ply"));
    assert_eq!(carried.correlation.as_deref(), Some(&[0][..]));
    assert_eq!(
        carried.user,
        [
            ("b".into(), "1".into()),
            ("a".into(), "".into()),
            ("b".into(), "2".into())
        ]
    );
}

#[test]
fn the_idempotency_key_is_the_brokers_and_does_not_travel() {
    let user = |name: &str, value: &str| [&[0x26][..], &field(name), &field(value)].concat();
    let mut story = Story::v5(|_| {}, &[]);
    let properties = [
        user("a", "1"),
        user("idempotency-key", "k"),
        user("b", "2"),
        user("idempotency-key", "later"),
    ]
    .concat();
    story.send(&publish_v5(0x30, "a", &[], &properties, b"x"));
    let request = story.publish();
    assert_eq!(request.idempotency_key.as_deref(), Some("k"));
    let carried = request.message.properties.clone().expect("properties").user;
    assert_eq!(
        carried,
        [("a".into(), "1".into()), ("b".into(), "2".into())]
    );
    for none in ["", &"x".repeat(257)] {
        let properties = user("idempotency-key", none);
        story.send(&publish_v5(0x30, "a", &[], &properties, b"x"));
        assert_eq!(story.publish().idempotency_key, None);
    }
}

/// S9
#[test]
fn user_properties_are_bounded() {
    let user = [&[0x26][..], &field("k"), &field("v")].concat();
    let mut story = Story::v5(|_| {}, &[0x17, 0]);
    story.send(&publish_v5(0x32, "a", &[0, 1], &user.repeat(64), b""));
    assert_eq!(story.commands().len(), 1);
    story.send(&publish_v5(0x32, "a", &[0, 2], &user.repeat(65), b""));
    story.published(Some(Token(1)), Ok(1));
    assert_eq!(story.written(), [0x40, 2, 0, 1, 0x40, 3, 0, 2, 0x97]);
}

/// S12: what a `$` topic means is the broker's; here it is a topic like any other.
#[test]
fn dollar_topics_are_the_brokers() {
    let mut story = Story::v5(|_| {}, &[]);
    for topic in ["$SYS/x", "$share/g/a", "$", "$CONTROL/dynamic-security/v1"] {
        story.send(&publish_v5(0x32, topic, &[0, 1], &[], b""));
        let publish = story.publish();
        assert_eq!(publish.message.topic.as_str(), topic);
        story.published(publish.token, Err(RefusalCode::NotAuthorized));
        assert_eq!(story.written(), [0x40, 3, 0, 1, 0x87]);
    }
}
