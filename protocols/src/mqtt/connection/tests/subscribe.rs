//! SUBSCRIBE and UNSUBSCRIBE.

use super::*;
use crate::connection::{Granted, Lane, RetainHandling, Subscribe};
use crate::model::Kind;

fn subscribe(story: &mut Story) -> Subscribe {
    match story.commands().pop() {
        Some(Command::Subscribe(subscribe)) => *subscribe,
        other => panic!("no subscribe: {other:?} {:?}", story.close),
    }
}

fn granted(qos: QoS) -> Granted {
    Granted {
        id: SubscriptionId(1),
        qos,
    }
}

/// `[MQTT-3.8.4-6]` `[MQTT-3.9.3-1]`: one code for each filter, in their order.
#[test]
fn each_filter_is_answered_for_itself() {
    let filters = [
        &field("a/+")[..],
        &[2],
        &field("a/#/b"),
        &[1],
        &field("$share/g/x"),
        &[1],
        &field("$queue/q"),
        &[0],
    ]
    .concat();
    for (mut story, packet, answer) in [
        (
            Story::v311(|_| {}),
            packet(0x82, &[&[0, 5], &filters]),
            &[0x90, 6, 0, 5, 2, 0x80, 0x80, 0][..],
        ),
        (
            Story::v5(|_| {}, &[0x17, 0]),
            packet(0x82, &[&[0, 5, 0], &filters]),
            &[0x90, 7, 0, 5, 0, 2, 0x8f, 0x87, 0],
        ),
    ] {
        story.send(&packet);
        let asked = subscribe(&mut story);
        let keys: Vec<_> = asked
            .requests
            .iter()
            .map(|request| request.as_ref().map(|request| request.key.to_string()))
            .map(|key| key.map_err(|refusal| refusal.code))
            .collect();
        assert_eq!(
            keys,
            [
                Ok("a/+".into()),
                Err(RefusalCode::FilterInvalid),
                Ok("$share/g/x".into()),
                Ok("$queue/q".into())
            ]
        );
        let shared = asked.requests[2].as_ref().expect("a request");
        assert!(matches!(shared.filter.kind(), Kind::Shared { .. }));
        assert_eq!((shared.lane, shared.durable), (Lane::Session, true));
        let refused = asked.requests[1].clone().map(|_| unreachable!());
        story.reply(Reply::Subscribed {
            token: asked.token,
            results: [
                Ok(granted(QoS::ExactlyOnce)),
                refused,
                Err(Refusal::new(RefusalCode::NotAuthorized, "")),
                Ok(granted(QoS::AtMostOnce)),
            ]
            .into_iter()
            .collect(),
        });
        assert_eq!(story.written(), answer);
    }
}

/// `[MQTT-3.8.3.1]`
#[test]
fn options_reach_the_broker() {
    let mut story = Story::v5(|limits| limits.maximum_qos = QoS::AtLeastOnce, &[]);
    let filters = [&field("a")[..], &[0b0001_1110], &field("b"), &[0b0010_0000]].concat();
    story.send(&packet(0x82, &[&[0, 5, 3, 0x0b, 0x80, 0x01], &filters]));
    let asked = subscribe(&mut story);
    let [Ok(a), Ok(b)] = &asked.requests[..] else {
        panic!("{asked:?}");
    };
    // [MQTT-3.2.2-10]: a higher QoS is taken down.
    assert_eq!(a.qos, QoS::AtLeastOnce);
    assert!(a.no_local && a.retain_as_published);
    assert_eq!(a.retain_handling, RetainHandling::SendIfNew);
    assert!(!b.no_local && !b.retain_as_published);
    assert_eq!(b.retain_handling, RetainHandling::DoNotSend);
    for request in [a, b] {
        assert_eq!(request.identifier.map(std::num::NonZero::get), Some(128));
    }
}

#[test]
fn a_refused_filter_says_why() {
    let mut story = Story::v5(|_| {}, &[]);
    story.send(&packet(0x82, &[&[0, 5, 0], &field("a"), &[0]]));
    let token = subscribe(&mut story).token;
    story.reply(Reply::Subscribed {
        token,
        results: [Err(Refusal::new(RefusalCode::Quota, "no"))]
            .into_iter()
            .collect(),
    });
    let expected = [0x90, 9, 0, 5, 5, 0x1f, 0, 2, b'n', b'o', 0x97];
    assert_eq!(story.written(), expected);
}

/// `[MQTT-3.8.3-4]`
#[test]
fn no_local_on_a_shared_subscription_is_an_error() {
    let mut story = Story::v5(|_| {}, &[]);
    story.send(&packet(0x82, &[&[0, 5, 0], &field("$share/g/a"), &[0b100]]));
    story.ended(0x82);
    assert!(story.commands().is_empty());
}

/// Too many filters are all refused, at no cost for the broker.
#[test]
fn filters_of_one_packet_are_bounded() {
    let filter = [&field("a")[..], &[0]].concat();
    let limits = |limits: &mut Limits| limits.filters_per_subscribe = 2;
    let mut story = Story::v5(limits, &[0x17, 0]);
    story.send(&packet(0x82, &[&[0, 5, 0], &filter.repeat(3)]));
    assert_eq!(story.written(), [0x90, 6, 0, 5, 0, 0x97, 0x97, 0x97]);
    story.send(&packet(0xa2, &[&[0, 6, 0], &field("a").repeat(3)]));
    assert_eq!(story.written(), [0xb0, 6, 0, 6, 0, 0x83, 0x83, 0x83]);
    let [
        Command::Refused { reason: "quota" },
        Command::Refused { reason: "quota" },
    ] = story.commands()[..]
    else {
        panic!("both are counted, and the broker is asked nothing");
    };
    story.send(&packet(0x82, &[&[0, 7, 0], &filter.repeat(2)]));
    assert_eq!(subscribe(&mut story).requests.len(), 2);

    let mut story = Story::v311(limits);
    story.send(&packet(0x82, &[&[0, 5], &filter.repeat(3)]));
    assert_eq!(story.written(), [0x90, 5, 0, 5, 0x80, 0x80, 0x80]);
    story.send(&packet(0xa2, &[&[0, 6], &field("a").repeat(3)]));
    story.ended_silently(Cause::Quota);
}

/// S8: 65,535 levels cost no more than their length.
#[test]
fn a_filter_of_levels_only_is_refused() {
    let mut story = Story::v5(|_| {}, &[0x17, 0]);
    let filter = field("/".repeat(16_000));
    story.send(&packet(0x82, &[&[0, 5, 0], &filter, &[0]]));
    let asked = subscribe(&mut story);
    assert!(
        matches!(&asked.requests[..], [Err(refusal)] if refusal.code == RefusalCode::FilterInvalid)
    );
}

/// `[MQTT-3.10.4-4]` `[MQTT-3.11.3-1]`
#[test]
fn unsubscribing_is_answered_for_each_filter() {
    let filters = [field("a"), field("b/#")].concat();
    for (mut story, packet, answer) in [
        (
            Story::v311(|_| {}),
            packet(0xa2, &[&[0, 5], &filters]),
            &[0xb0, 2, 0, 5][..],
        ),
        (
            Story::v5(|_| {}, &[]),
            packet(0xa2, &[&[0, 5, 0], &filters]),
            &[0xb0, 5, 0, 5, 0, 0, 0x11],
        ),
    ] {
        story.send(&packet);
        let commands = story.commands();
        let [Command::Unsubscribe { token, keys }] = &commands[..] else {
            panic!("{commands:?}");
        };
        assert_eq!(keys[..], ["a", "b/#"]);
        story.reply(Reply::Unsubscribed {
            token: *token,
            existed: [true, false].into_iter().collect(),
        });
        assert_eq!(story.written(), answer);
    }
}

/// `[MQTT-3.1.2-24]`: an answer that must not be sent is no silence without end.
#[test]
fn an_answer_too_large_for_the_client_ends_the_connection() {
    let mut story = Story::v5(|_| {}, &[0x27, 0, 0, 0, 20]);
    let filter = [&field("a")[..], &[0]].concat();
    story.send(&packet(0x82, &[&[0, 5, 0], &filter.repeat(16)]));
    let asked = subscribe(&mut story);
    story.reply(Reply::Subscribed {
        token: asked.token,
        results: (0..16).map(|_| Ok(granted(QoS::AtMostOnce))).collect(),
    });
    assert_eq!(story.written(), [0xe0, 1, 0x95]);
}
