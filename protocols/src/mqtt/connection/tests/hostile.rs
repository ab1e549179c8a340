//! What attackers send, with its exact answer.

use super::*;

/// S1 `[MQTT-3.1.0-1]`
#[test]
fn any_packet_before_connect_ends_without_a_word() {
    for bytes in [
        &[0xc0, 0][..],
        &[0x30, 3, 0, 1, b'a'],
        &[0x82, 6, 0, 1, 0, 1, b'a', 0],
        &[0xe0, 0],
        &[0x00, 0],
        b"GET / HTTP/1.1\r\n",
        &[0x11, 12],
    ] {
        let mut story = Story::new();
        story.send(bytes);
        story.ended_silently(Cause::ProtocolError);
        assert!(story.commands().is_empty());
    }
}

/// S2: a body that was only claimed is not waited for.
#[test]
fn a_claimed_length_before_the_login_is_refused_at_once() {
    let mut story = Story::new();
    story.send(&[0x30]);
    story.ended_silently(Cause::ProtocolError);
    let mut story = Story::new();
    story.send(&[0x10, 0xff, 0xff, 0xff, 0x7f]);
    story.ended_silently(Cause::TooLarge);
    // The version is there to be answered in.
    let mut story = Story::new();
    story.send(&[&[0x10, 0xff, 0xff, 0x7f][..], &field("MQTT"), &[5]].concat());
    let written = story.written();
    assert_eq!((written[0], written[3]), (0x20, 0x95));
    assert_eq!(story.cause(), Some(Cause::TooLarge));
}

/// The limit after the login `[MQTT-3.2.2-15]`.
#[test]
fn a_packet_over_the_limit_ends_the_connection() {
    let limits = |limits: &mut Limits| limits.packet_bytes = 100;
    let mut story = Story::v5(limits, &[]);
    story.send(&[0x30, 99]).ended(0x95);
    assert_eq!(story.cause(), Some(Cause::TooLarge));
    let mut story = Story::v5(limits, &[]);
    story.send(&publish_v5(0x30, "a", &[], &[], &[0; 94]));
    assert_eq!(story.publish().message.payload.len(), 94);
    let mut story = Story::v311(limits);
    story.send(&[0x30, 99]);
    story.ended_silently(Cause::TooLarge);
}

/// S3 `[MQTT-1.5.5-1]`
#[test]
fn a_length_of_five_bytes_is_malformed() {
    let mut story = Story::new();
    story.send(&[0x10, 0xff, 0xff, 0xff, 0xff, 0x7f]);
    story.ended_silently(Cause::Malformed);
    let mut story = Story::v5(|_| {}, &[]);
    story
        .send(&[0x30, 0xff, 0xff, 0xff, 0xff, 0x7f])
        .ended(0x81);
    let mut story = Story::v5(|_| {}, &[]);
    story
        .send(&packet(0x30, &[&field("a"), &[0x80, 0x80, 0x80, 0x80, 1]]))
        .ended(0x81);
    let mut story = Story::v311(|_| {});
    story.send(&[0x30, 0xff, 0xff, 0xff, 0xff, 0x7f]);
    story.ended_silently(Cause::Malformed);
}

/// S4, S5: lengths beyond the packet, packets cut at any byte.
#[test]
fn a_packet_cut_short_is_malformed() {
    let whole = [
        publish_v5(0x32, "a", &[0, 1], &[], b""),
        packet(0x82, &[&[0, 1, 0], &field("a"), &[0]]),
        packet(0xa2, &[&[0, 1, 0], &field("a")]),
        packet(0x62, &[&[0, 1]]),
        packet(0x40, &[&[0, 1]]),
    ];
    for whole in whole {
        for length in 0..whole.len() - 2 {
            let mut story = Story::v5(|_| {}, &[]);
            let mut cut = whole[..length + 2].to_vec();
            cut[1] = u8::try_from(length).unwrap();
            story.send(&cut);
            let written = story.written();
            assert_eq!(written[0], 0xe0, "{cut:02x?} {written:02x?}");
            assert!(
                matches!(written[2], 0x81 | 0x82),
                "{cut:02x?} {written:02x?}"
            );
            assert!(story.commands().is_empty());
        }
    }
}

/// S6 `[MQTT-4.7.3-1]`
#[test]
fn an_empty_topic_ends_the_connection() {
    let mut story = Story::v311(|_| {});
    story.send(&[0x30, 2, 0, 0]);
    assert_eq!(story.written(), [0_u8; 0]);
    assert!(story.close.is_some() && story.commands().is_empty());
    let mut story = Story::v5(|_| {}, &[]);
    story.send(&[0x30, 3, 0, 0, 0]).ended(0x82);
}

/// S7
#[test]
fn packets_that_only_a_server_sends_end_the_connection() {
    for bytes in [
        &[0x20, 2, 0, 0][..],
        &[0x90, 3, 0, 1, 0],
        &[0xb0, 2, 0, 1],
        &[0xd0, 0],
    ] {
        let mut story = Story::v5(|_| {}, &[]);
        story.send(bytes).ended(0x82);
        let mut story = Story::v311(|_| {});
        story.send(bytes);
        story.ended_silently(Cause::ProtocolError);
    }
}

/// S9: properties without end, twice or unknown.
#[test]
fn a_connect_with_bad_properties_is_refused() {
    let user = [&[0x26][..], &field(""), &field("")].concat();
    for (properties, code) in [
        (user.repeat(2000), 0x97),
        (vec![0x11, 0, 0, 0, 1, 0x11, 0, 0, 0, 1], 0x82),
        (vec![0x7f, 0], 0x81),
        (vec![0x21, 0, 0], 0x82),
        (vec![0x27, 0, 0, 0, 0], 0x82),
    ] {
        let mut story = Story::new();
        story.send(&connect_v5(2, 60, &properties, &field("c")));
        let written = story.written();
        assert_eq!((written[0], written[3]), (0x20, code));
        assert!(story.close.is_some() && story.commands().is_empty());
    }
}

/// S10: a refused CONNECT leaves nothing behind, its will neither.
#[test]
fn a_will_of_a_refused_connect_is_gone() {
    let mut story = Story::new();
    let payload = [
        &field("c")[..],
        &section(&[0x18, 0, 0, 0, 1, 0x18, 0, 0, 0, 1]),
        &field("w"),
        &field("x"),
    ]
    .concat();
    story.send(&connect_v5(0b110, 60, &[], &payload));
    let written = story.written();
    assert_eq!((written[0], written[3]), (0x20, 0x82));
    assert!(story.commands().is_empty());
}

/// `[MQTT-3.1.0-2]`
#[test]
fn a_second_connect_ends_the_connection() {
    let mut story = Story::v5(|_| {}, &[]);
    story.send(&connect_v5(2, 60, &[], &field("c"))).ended(0x82);
    assert!(story.commands().is_empty());
    let mut story = Story::v311(|_| {});
    story.send(&connect_v311(2, 60, &field("c")));
    story.ended_silently(Cause::ProtocolError);
}

/// `[MQTT-4.12.0-6]`
#[test]
fn auth_without_a_method_ends_the_connection() {
    let mut story = Story::v5(|_| {}, &[]);
    let properties = [&[0x15][..], &field("x")].concat();
    story
        .send(&packet(0xf0, &[&[0x18], &section(&properties)]))
        .ended(0x82);
    let mut story = Story::v311(|_| {});
    story.send(&[0xf0, 0]);
    assert!(story.written().is_empty() && story.close.is_some());
}

/// `[MQTT-2.2.1-3]`, `[MQTT-3.3.1-4]`, `[MQTT-3.8.1-1]`
#[test]
fn reserved_values_are_malformed() {
    for bytes in [
        &[0x36, 5, 0, 1, b'a', 0, 1][..],
        &[0x80, 6, 0, 1, 0, 0, 1, b'a'],
        &[0x60, 2, 0, 1],
    ] {
        let mut story = Story::v5(|_| {}, &[]);
        story.send(bytes).ended(0x81);
    }
    let mut story = Story::v5(|_| {}, &[]);
    story.send(&publish_v5(0x32, "a", &[0, 0], &[], b""));
    assert!(matches!(story.written()[2], 0x81 | 0x82));
}

/// What came before the fault is carried out, what comes behind it is not.
#[test]
fn a_fault_does_not_undo_what_came_before() {
    let mut story = Story::v5(|_| {}, &[]);
    let publish = publish_v5(0x30, "a", &[], &[], b"x");
    story.send(&[&publish[..], &[0xd0, 0], &publish].concat());
    assert_eq!(story.commands().len(), 1);
    story.ended(0x82);
}

/// The same bytes in any pieces are the same packets.
#[test]
fn packets_may_come_in_pieces() {
    let bytes = [
        publish_v311(0x32, "a/b", &[0, 1], b"payload"),
        vec![0xc0, 0],
        packet(0x82, &[&[0, 2], &field("a"), &[1]]),
        publish_v311(0x30, "c", &[], b""),
    ]
    .concat();
    for size in 1..bytes.len() {
        let mut story = Story::v311(|_| {});
        for piece in bytes.chunks(size) {
            story.send(piece);
        }
        // The ping is answered behind what came before it.
        assert_eq!(story.commands().len(), 4, "{size}");
        assert_eq!(story.written(), [0_u8; 0]);
        assert!(story.input.is_empty());
    }
}

/// No bytes at all make it panic.
#[test]
fn bytes_without_sense_end_it_or_wait() {
    let mut seed = 7_u64;
    for round in 0..2000_u32 {
        let mut story = match round % 3 {
            0 => Story::new(),
            1 => Story::v311(|_| {}),
            _ => Story::v5(|_| {}, &[0x22, 0, 4]),
        };
        let bytes: Vec<u8> = (0..64)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                u8::try_from(seed >> 56).unwrap()
            })
            .collect();
        story.send(&bytes);
    }
}
