//! Time-outs, PINGREQ, DISCONNECT and the ends that the broker decides.

use super::*;
use crate::connection::Elsewhere;

fn disconnect(story: &mut Story) -> (bool, Option<u32>) {
    match story.commands().pop() {
        Some(Command::Disconnect {
            publish_will,
            session_expiry_secs,
        }) => (publish_will, session_expiry_secs),
        other => panic!("no good-bye: {other:?}"),
    }
}

/// `[MQTT-3.12.4-1]`
#[test]
fn a_ping_is_answered() {
    let mut story = Story::v311(|_| {});
    assert_eq!(story.send(&[0xc0, 0]).written(), [0xd0, 0]);
}

/// S23: the whole CONNECT within the time, not each byte of it.
#[test]
fn a_login_that_drips_is_too_late() {
    let mut story = Story::new();
    let bytes = connect_v311(2, 60, &field("c"));
    for byte in &bytes[..9] {
        story.send(&[*byte]).wait(1000);
        assert_eq!(story.close, None);
    }
    assert_eq!(story.client.next_timeout(), Some(START.plus_secs(10)));
    story.wait(1000);
    story.ended_silently(Cause::LoginTimeout);
    assert_eq!(story.client.next_timeout(), None);
}

#[test]
fn a_broker_that_does_not_answer_is_unavailable() {
    let mut story = Story::new();
    story.send(&connect_v311(2, 60, &field("c"))).wait(10_000);
    assert_eq!(story.written(), [0x20, 2, 0, 3]);
    assert_eq!(story.cause(), Some(Cause::LoginTimeout));
    story.reply(Reply::Connected(Connected::default()));
    assert_eq!(story.written(), [0_u8; 0], "too late");
}

/// `[MQTT-3.1.2-22]`
#[test]
fn silence_beyond_the_keep_alive_ends_the_connection() {
    let mut story = Story::v5(|_| {}, &[]);
    story.wait(80_000).send(&[0xc0, 0]);
    story.written();
    assert_eq!(story.client.next_timeout(), Some(story.now.plus_secs(90)));
    story.wait(89_999);
    assert_eq!(story.close, None, "an early call changes nothing");
    story.wait(1).ended(0x8d);
    assert_eq!(story.cause(), Some(Cause::KeepAliveTimeout));
    let mut story = Story::v311(|_| {});
    story.wait(90_000);
    story.ended_silently(Cause::KeepAliveTimeout);
}

/// S23: no keep alive, or a very long one, is the longest allowed.
#[test]
fn everyone_shows_a_sign_of_life() {
    for keep_alive in [0, 65_535] {
        let mut story = Story::new();
        story.send(&connect_v311(2, keep_alive, &field("c")));
        story.let_in();
        assert_eq!(story.client.next_timeout(), Some(START.plus_secs(1800)));
        story.wait(1_800_000);
        story.ended_silently(Cause::KeepAliveTimeout);
    }
    // The time that the login took does not count.
    let mut story = Story::new();
    story.send(&connect_v311(2, 2, &field("c"))).wait(9000);
    story.let_in();
    assert_eq!(story.client.next_timeout(), Some(START.plus_secs(12)));
    let mut story = Story::with(|limits| limits.keep_alive_max_secs = 0);
    story.send(&connect_v311(2, 0, &field("c")));
    story.let_in();
    assert_eq!(
        story.client.next_timeout(),
        None,
        "the limit is switched off"
    );
}

/// A large packet on a slow line is a sign of life, a drip is none.
#[test]
fn an_unfinished_packet_counts_by_the_kibibyte() {
    let mut story = Story::v311(|_| {});
    let bytes = publish_v311(0x30, "a", &[], &[0; 4000]);
    story.wait(60_000).send(&bytes[..1100]);
    story.wait(60_000).send(&bytes[1100..2200]);
    story.wait(60_000);
    assert_eq!(story.close, None);
    for at in 2200..2300 {
        story.wait(300).send(&bytes[at..=at]);
    }
    assert_eq!(story.cause(), Some(Cause::KeepAliveTimeout));
}

/// `[MQTT-3.14.4-3]` `[MQTT-3.1.2-10]`
#[test]
fn a_good_bye_takes_the_will_back() {
    let mut story = Story::v311(|_| {});
    story.send(&[0xe0, 0, 0xc0, 0]);
    assert_eq!(disconnect(&mut story), (false, None));
    story.ended_silently(Cause::Normal);
    for (bytes, expected) in [
        (&[0xe0, 0][..], false),
        (&[0xe0, 1, 0], false),
        (&[0xe0, 1, 4], true),
        (&[0xe0, 1, 0x81], true),
    ] {
        let mut story = Story::v5(|_| {}, &[]);
        story.send(bytes);
        assert_eq!(disconnect(&mut story).0, expected, "{bytes:02x?}");
        assert_eq!(story.cause(), Some(Cause::Normal));
    }
}

/// `[MQTT-3.14.2.2.2]`
#[test]
fn a_good_bye_may_change_the_expiry_but_not_from_zero() {
    let change = |secs: u32| {
        let properties = [&[0x11][..], &secs.to_be_bytes()].concat();
        packet(0xe0, &[&[0], &section(&properties)])
    };
    let mut story = Story::v5(|_| {}, &[0x11, 0, 0, 0, 9]);
    story.send(&change(u32::MAX));
    assert_eq!(disconnect(&mut story), (false, Some(604_800)));
    let mut story = Story::v5(|_| {}, &[]);
    story.send(&change(0));
    assert_eq!(disconnect(&mut story), (false, Some(0)));
    let mut story = Story::v5(|_| {}, &[]);
    story.send(&change(1));
    assert!(story.commands().is_empty(), "the will is published");
    story.ended(0x82);
}

/// `[MQTT-3.14.2-1]`
#[test]
fn an_end_by_the_broker_is_told_in_version_5() {
    for (cause, code) in [
        (Cause::TakenOver, 0x8e),
        (Cause::Shutdown, 0x8b),
        (Cause::Administrative, 0x98),
        (Cause::Expired, 0xA0),
        (Cause::Unauthorized, 0x87),
        (Cause::SlowConsumer, 0x97),
        (Cause::Quota, 0x97),
        (Cause::Rate, 0x96),
        (Cause::TooLarge, 0x95),
        (Cause::Internal, 0x80),
    ] {
        let mut story = Story::v5(|_| {}, &[]);
        story
            .client
            .close(&CloseReason::new(cause, "why"), &mut story.outbox);
        let expected = packet(0xe0, &[&[code, 6, 0x1f], &field("why")]);
        assert_eq!(story.written(), expected, "{cause:?}");
        story
            .client
            .close(&CloseReason::new(cause, "why"), &mut story.outbox);
        assert_eq!(story.send(&[0xc0, 0]).written(), [0_u8; 0]);
        let mut story = Story::v311(|_| {});
        story
            .client
            .close(&CloseReason::new(cause, "why"), &mut story.outbox);
        assert_eq!(story.written(), [0_u8; 0], "3.1.1 has no such packet");
    }
}

/// `[MQTT-3.14.2.2.5]`: 0x9C or 0x9D with the server reference.
#[test]
fn who_is_sent_to_another_server_is_told_which() {
    for (for_good, code) in [(false, 0x9c), (true, 0x9d)] {
        let mut reason = CloseReason::new(Cause::Shutdown, "why");
        reason.elsewhere = Some(Elsewhere {
            server: "b:1883".into(),
            for_good,
        });
        let mut story = Story::v5(|_| {}, &[]);
        story.client.close(&reason, &mut story.outbox);
        let expected = packet(0xe0, &[&[code, 9, 0x1c], &field("b:1883")]);
        assert_eq!(story.written(), expected);
        // A client that takes no packet so large is told at least that it is to go.
        let mut story = Story::v5(|_| {}, &[]);
        story.client.packet_max = 12;
        story.client.close(&reason, &mut story.outbox);
        let expected = packet(0xe0, &[&[code, 6, 0x1f], &field("why")]);
        assert_eq!(story.written(), expected);
        let mut story = Story::v311(|_| {});
        story.client.close(&reason, &mut story.outbox);
        assert_eq!(story.written(), [0_u8; 0]);
    }
}

#[test]
fn an_end_before_the_login_is_silent_or_a_refusal() {
    let shutdown = CloseReason::new(Cause::Shutdown, "");
    let mut story = Story::new();
    story.client.close(&shutdown, &mut story.outbox);
    assert_eq!(story.written(), [0_u8; 0]);
    let mut story = Story::new();
    story.send(&connect_v311(2, 60, &field("c")));
    story.client.close(&shutdown, &mut story.outbox);
    assert_eq!(story.written(), [0x20, 2, 0, 3]);
    let mut story = Story::new();
    story.send(&connect_v5(2, 60, &[], &field("c")));
    story.client.close(&shutdown, &mut story.outbox);
    assert_eq!(story.written(), [0x20, 3, 0, 0x88, 0]);
}

#[test]
fn a_lost_client_is_told_nothing() {
    let mut story = Story::v5(|_| {}, &[]);
    story
        .client
        .close(&CloseReason::new(Cause::Lost, ""), &mut story.outbox);
    assert_eq!(story.written(), [0_u8; 0]);
}
