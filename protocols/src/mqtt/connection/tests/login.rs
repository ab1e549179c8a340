//! CONNECT and CONNACK.

use super::*;
use crate::connection::{Connect, Overlap};
use crate::model::PayloadFormat;

fn login(story: &mut Story) -> Connect {
    match story.commands().pop() {
        Some(Command::Connect(connect)) => *connect,
        other => panic!("no login: {other:?} {:?}", story.close),
    }
}

#[test]
fn a_3_1_1_client_is_let_in() {
    let mut story = Story::new();
    let credentials = [&field("c")[..], &field("u"), &field(b"\0p")].concat();
    story.send(&connect_v311(0xc0, 30, &credentials));
    let login = login(&mut story);
    assert_eq!(login.protocol, "mqtt 3.1.1");
    assert_eq!(login.client_id.as_deref(), Some("c"));
    assert_eq!(login.username.as_deref(), Some("u"));
    assert_eq!(login.password.as_deref(), Some(&b"\0p"[..]));
    assert!(!login.clean_start && login.will.is_none());
    assert_eq!(login.session_expiry_secs, 7200, "clean session 0");
    assert_eq!((login.keep_alive_secs, login.in_flight), (30, 256));
    assert!(login.overlap == Overlap::Merge && !login.auto_subscribe);
    story.reply(Reply::Connected(Connected {
        session_present: true,
        ..Connected::default()
    }));
    // [MQTT-3.2.2-2]
    assert_eq!(story.written(), [0x20, 2, 1, 0]);
}

/// `[MQTT-3.1.2-6]`: a clean session ends with its connection.
#[test]
fn a_clean_session_does_not_outlive_its_connection() {
    let mut story = Story::new();
    story.send(&connect_v311(2, 0, &field("c")));
    let login = login(&mut story);
    assert!(login.clean_start);
    assert_eq!(login.session_expiry_secs, 0);
}

/// `[MQTT-3.1.3-6]` `[MQTT-3.1.3-7]` `[MQTT-3.1.3-8]`, `[MQTT-3.2.2-16]` in version 5.
#[test]
fn a_client_without_a_name_gets_one_or_is_refused() {
    let mut story = Story::new();
    story.send(&connect_v311(0, 0, &field("")));
    assert_eq!(story.written(), [0x20, 2, 0, 2]);
    assert_eq!(story.cause(), Some(Cause::Refused));
    assert!(story.commands().is_empty());

    let mut story = Story::new();
    story.send(&connect_v311(2, 0, &field("")));
    assert_eq!(login(&mut story).client_id, None);

    let mut story = Story::new();
    story.send(&connect_v5(0, 60, &[], &field("")));
    assert_eq!(login(&mut story).client_id, None);
    story.reply(Reply::Connected(Connected {
        client_id: "auto-7".into(),
        assigned: true,
        ..Connected::default()
    }));
    let expected = packet(
        0x20,
        &[
            &[0, 0],
            &section(
                &[
                    &[0x21, 1, 0, 0x27, 0, 0x10, 0, 0, 0x12][..],
                    &field("auto-7"),
                    &[0x22, 0, 16],
                ]
                .concat(),
            ),
        ],
    );
    assert_eq!(story.written(), expected);
}

#[test]
fn a_name_that_is_too_long_is_refused() {
    let long = field("x".repeat(257));
    let mut story = Story::new();
    story.send(&connect_v311(2, 0, &long));
    assert_eq!(story.written(), [0x20, 2, 0, 2]);
    let mut story = Story::new();
    story.send(&connect_v5(2, 0, &[], &long));
    let written = story.written();
    assert_eq!(written[2..4], [0, 0x85]);
}

/// `[MQTT-3.1.2-2]`
#[test]
fn an_unknown_version_is_told_so_in_words_that_it_reads() {
    for (protocol, level, answer) in [
        ("MQIsdp", 3, vec![0x20, 2, 0, 1]),
        ("MQTT", 3, vec![0x20, 2, 0, 1]),
        ("MQTT", 0x84, vec![0x20, 2, 0, 1]),
    ] {
        let mut story = Story::new();
        let body = [&field(protocol)[..], &[level, 2, 0, 60], &field("c")].concat();
        story.send(&packet(0x10, &[&body]));
        assert_eq!(story.written(), answer, "{protocol} {level}");
        assert_eq!(story.cause(), Some(Cause::Refused));
    }
    let mut story = Story::new();
    story.send(&packet(
        0x10,
        &[&field("MQTT"), &[6, 2, 0, 60, 0], &field("c")],
    ));
    let written = story.written();
    assert_eq!((written[0], &written[2..4]), (0x20, &[0, 0x84][..]));

    let mut story = Story::new();
    story.send(&packet(
        0x10,
        &[&field("HTTP"), &[5, 2, 0, 60, 0], &field("c")],
    ));
    story.ended_silently(Cause::Malformed);
}

/// `[MQTT-3.1.2.5]`, `[MQTT-3.1.3.2]`
#[test]
fn a_will_keeps_all_its_properties() {
    let properties = [
        &[0x18, 0, 0, 0, 7, 0x01, 1, 0x02, 0, 0, 0, 9, 0x03][..],
        &field("text/plain"),
        &[8],
        &field("r"),
        &[9],
        &field(b"\x01"),
        &[0x26],
        &field("k"),
        &field("v"),
    ]
    .concat();
    let payload = [
        &field("c")[..],
        &section(&properties),
        &field("will/t"),
        &field("gone"),
    ]
    .concat();
    let mut story = Story::new();
    story.send(&connect_v5(0b0010_1110, 60, &[], &payload));
    let will = login(&mut story).will.expect("a will");
    assert_eq!((will.delay_secs, will.expiry_secs), (7, Some(9)));
    let message = &will.message;
    assert_eq!(message.topic.as_str(), "will/t");
    assert_eq!(message.payload, "gone");
    assert_eq!((message.qos, message.retain), (QoS::AtLeastOnce, true));
    assert_eq!(message.expires_at, None, "it starts with the publish");
    let carried = message.properties.as_deref().expect("properties");
    assert_eq!(carried.content_type.as_deref(), Some("text/plain"));
    assert_eq!(carried.reply_to.as_deref(), Some("r"));
    assert_eq!(carried.correlation.as_deref(), Some(&[1][..]));
    assert_eq!(message.payload_format, Some(PayloadFormat::Utf8));
    assert_eq!(carried.user, [("k".into(), "v".into())]);
}

/// `[MQTT-3.2.2-12]` `[MQTT-3.2.2-13]`
#[test]
fn a_will_that_cannot_be_published_is_refused() {
    let payload = |topic: &str, properties: &[u8], body: &[u8]| {
        [
            &field("c")[..],
            &section(properties),
            &field(topic),
            &field(body),
        ]
        .concat()
    };
    for (flags, payload, code) in [
        (0b0001_0110, payload("t", &[], b""), 0x9b),
        (0b0010_0110, payload("t", &[], b""), 0x9a),
        (0b0000_0110, payload(&"/".repeat(32), &[], b""), 0x90),
        (0b0000_0110, payload("t", &[1, 1], b"\xff"), 0x99),
    ] {
        let mut story = Story::with(|limits| {
            limits.maximum_qos = QoS::AtLeastOnce;
            limits.retain_available = false;
        });
        story.send(&connect_v5(flags, 60, &[], &payload));
        let written = story.written();
        assert_eq!((written[0], written[3]), (0x20, code));
        assert!(story.commands().is_empty());
    }
}

/// `[MQTT-4.12.0-1]`: there is one method.
#[test]
fn enhanced_authentication_is_refused() {
    let mut story = Story::new();
    let method = [&[0x15][..], &field("SCRAM-SHA-1")].concat();
    story.send(&connect_v5(2, 60, &method, &field("c")));
    let written = story.written();
    assert_eq!((written[0], written[3]), (0x20, 0x8c));
    assert_eq!(story.cause(), Some(Cause::Refused));
}

/// `[MQTT-3.2.2.3.2]` `[MQTT-3.1.2-21]`
#[test]
fn connack_announces_what_is_other_than_asked_for() {
    let mut story = Story::with(|limits| {
        limits.maximum_qos = QoS::AtLeastOnce;
        limits.retain_available = false;
        limits.topic_alias_maximum = 0;
        limits.receive_maximum = u16::MAX;
    });
    // For ever, and a keep alive of 65,535.
    story.send(&connect_v5(
        2,
        65_535,
        &[0x11, 255, 255, 255, 255],
        &field("c"),
    ));
    let login = login(&mut story);
    assert_eq!(login.session_expiry_secs, 604_800);
    assert_eq!(login.keep_alive_secs, 1200);
    story.reply(Reply::Connected(Connected::default()));
    let properties = [
        &[0x11][..],
        &604_800_u32.to_be_bytes(),
        &[0x24, 1, 0x25, 0, 0x27, 0, 0x10, 0, 0, 0x13],
        &1200_u16.to_be_bytes(),
    ]
    .concat();
    let expected = packet(0x20, &[&[0, 0], &section(&properties)]);
    assert_eq!(story.written(), expected);
}

#[test]
fn connack_says_no_more_than_needed() {
    let mut story = Story::new();
    story.send(&connect_v5(2, 60, &[0x11, 0, 0, 0, 60], &field("c")));
    assert_eq!(login(&mut story).session_expiry_secs, 60);
    story.reply(Reply::Connected(Connected::default()));
    let properties = [0x21, 1, 0, 0x27, 0, 0x10, 0, 0, 0x22, 0, 16];
    let expected = packet(0x20, &[&[0, 0], &section(&properties)]);
    assert_eq!(story.written(), expected);
}

/// `[MQTT-3.1.2-28]`
#[test]
fn response_information_is_given_to_those_who_ask() {
    let mut story = Story::new();
    story.send(&connect_v5(2, 60, &[0x19, 1], &field("c")));
    story.commands();
    story.reply(Reply::Connected(Connected {
        client_id: "c".into(),
        ..Connected::default()
    }));
    let information = [&[0x1a][..], &field("$reply/c")].concat();
    assert!(story.written().ends_with(&information));

    let mut story = Story::new();
    story.send(&connect_v5(2, 60, &[0x19, 1], &field("a/+")));
    story.commands();
    story.reply(Reply::Connected(Connected {
        client_id: "a/+".into(),
        ..Connected::default()
    }));
    assert!(!story.written().contains(&0x1a));
}

#[test]
fn the_window_towards_the_client_is_its_own_within_the_limits() {
    for (properties, window) in [
        (&[][..], 256),
        (&[0x21, 0, 5], 5),
        (&[0x21, 255, 255], 1024),
    ] {
        let mut story = Story::new();
        story.send(&connect_v5(2, 60, properties, &field("c")));
        assert_eq!(login(&mut story).in_flight, window);
    }
}

/// The broker's refusal in both versions `[MQTT-3.2.2-7]`.
#[test]
fn a_refusal_of_the_broker_is_written() {
    for (code, v311, v5) in [
        (RefusalCode::BadCredentials, 4, 0x86),
        (RefusalCode::NotAuthorized, 5, 0x87),
        (RefusalCode::Unavailable, 3, 0x88),
        (RefusalCode::ClientId, 2, 0x85),
        (RefusalCode::Banned, 5, 0x8a),
        (RefusalCode::Rate, 3, 0x9f),
    ] {
        let mut story = Story::new();
        story.send(&connect_v311(2, 60, &field("c")));
        story.reply(Reply::Refused(Refusal::new(code, "no")));
        assert_eq!(story.written(), [0x20, 2, 0, v311]);
        assert_eq!(story.cause(), Some(code.login_cause()));

        let mut story = Story::new();
        story.send(&connect_v5(2, 60, &[], &field("c")));
        story.reply(Reply::Refused(Refusal::new(code, "no")));
        let expected = [&[0x20, 8, 0, v5, 5, 0x1f][..], &field("no")].concat();
        assert_eq!(story.written(), expected);
    }
}

/// What comes behind CONNECT waits for CONNACK.
#[test]
fn nothing_is_read_between_connect_and_its_answer() {
    let mut story = Story::new();
    let ping = [0xc0, 0];
    story.send(&[&connect_v311(2, 60, &field("c"))[..], &ping].concat());
    assert_eq!(story.input, ping);
    story.send(&ping);
    assert_eq!(story.input.len(), 4);
    story.commands();
    story.reply(Reply::Connected(Connected::default()));
    assert_eq!(story.written(), [0x20, 2, 0, 0, 0xd0, 0, 0xd0, 0]);
    assert!(story.input.is_empty());
}

/// `[MQTT-3.1.2-24]`
#[test]
fn a_refusal_leaves_its_reason_out_for_a_small_client() {
    let mut story = Story::new();
    story.send(&connect_v5(2, 60, &[0x27, 0, 0, 0, 7], &field("c")));
    story.reply(Reply::Refused(Refusal::new(RefusalCode::Busy, "too long")));
    assert_eq!(story.written(), [0x20, 3, 0, 0x89, 0]);
    let mut story = Story::new();
    story.send(&connect_v5(2, 60, &[0x27, 0, 0, 0, 4], &field("c")));
    story.reply(Reply::Connected(Connected::default()));
    story.ended_silently(Cause::TooLarge);
}

/// `[MQTT-3.1.3-2]` joined and split at any byte, the CONNECT is the same.
#[test]
fn connect_may_come_in_pieces() {
    let mut story = Story::new();
    for byte in connect_v5(2, 60, &[], &field("piecemeal")) {
        assert!(story.commands.is_empty());
        story.send(&[byte]);
    }
    assert_eq!(login(&mut story).client_id.as_deref(), Some("piecemeal"));
}
