//! Operations of every shape, for tests.

use std::num::NonZeroU32;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use protocols::connection::{Lane, Overlap, RetainHandling, SubscribeRequest, SubscriptionId};
use protocols::model::{
    Filter, Message, PayloadFormat, Properties, QoS, SubscriptionFilter, Timestamp, Topic,
};

use super::super::{
    GroupRecord, Op, QueueId, Receiver, RetainedProgress, SessionRecord, SubscriptionRecord,
    WillRecord,
};

/// Any text.
pub(crate) fn text() -> impl Strategy<Value = ByteString> {
    prop_oneof![Just(String::new()), "[a-z]{1,8}", "\\PC{0,20}"].prop_map(ByteString::from)
}

fn topic() -> impl Strategy<Value = Topic> {
    prop_oneof!["[a-z/]{1,12}", "\\$[A-Z]{1,4}/[ä-ü/]{0,6}", "/{1,80}"]
        .prop_map(|text| Topic::parse(text.into(), usize::MAX, usize::MAX).unwrap())
}

fn qos() -> impl Strategy<Value = QoS> {
    (0..3_u8).prop_map(|level| QoS::from_u8(level).unwrap())
}

fn bytes() -> impl Strategy<Value = Bytes> {
    prop_oneof![vec(any::<u8>(), 0..40), vec(any::<u8>(), 100..400)].prop_map(Bytes::from)
}

/// Numbers of every length.
fn number() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0..64_u32).prop_map(|(number, shift)| number >> shift)
}

fn timestamp() -> impl Strategy<Value = Timestamp> {
    number().prop_map(Timestamp)
}

fn properties() -> impl Strategy<Value = Properties> {
    (
        option::of(text()),
        option::of(text()),
        option::of(bytes()),
        vec((text(), text()), 0..4),
    )
        .prop_map(|(content_type, reply_to, correlation, user)| Properties {
            content_type,
            reply_to,
            correlation,
            user,
        })
}

/// Any message.
pub(crate) fn a_message() -> impl Strategy<Value = Arc<Message>> {
    let format = prop_oneof![Just(PayloadFormat::Bytes), Just(PayloadFormat::Utf8)];
    (
        (topic(), bytes(), qos(), any::<bool>()),
        (option::of(format), option::of(properties())),
        option::of(timestamp()),
        (number(), option::of(text()), timestamp()),
    )
        .prop_map(
            |(
                (topic, payload, qos, retain),
                (format, properties),
                expires_at,
                (publisher, source, at),
            )| {
                let mut message = Message::new(topic, payload, qos, retain);
                message.payload_format = format;
                // None is kept as none: what has nothing in it is not made.
                message.properties = properties
                    .filter(|properties| !properties.is_empty())
                    .map(Box::new);
                message.expires_at = expires_at;
                message.publisher = publisher;
                message.source = source.as_deref().map(Arc::from);
                message.retained_at = at;
                Arc::new(message)
            },
        )
}

fn a_queue() -> impl Strategy<Value = QueueId> {
    (number(), any::<u32>()).prop_map(|(owner, lane)| QueueId { owner, lane })
}

/// Any receiver.
pub(crate) fn a_receiver() -> impl Strategy<Value = Receiver> {
    (
        (a_queue(), number()),
        (qos(), any::<bool>()),
        prop_oneof![Just(0), any::<u32>()],
        vec(any::<u32>().prop_map(SubscriptionId), 0..4),
        option::of((number(), number())),
    )
        .prop_map(
            |((queue, position), (qos, retain), attempts, matched, group)| Receiver {
                queue,
                position,
                qos,
                retain,
                attempts,
                matched: matched.into(),
                group,
            },
        )
}

/// Any session.
pub(crate) fn a_session() -> impl Strategy<Value = SessionRecord> {
    let will = (a_message(), any::<u32>(), option::of(any::<u32>())).prop_map(
        |(message, delay_secs, expiry_secs)| WillRecord {
            message,
            delay_secs,
            expiry_secs,
        },
    );
    let overlap = prop_oneof![Just(Overlap::Merge), Just(Overlap::Each)];
    (
        (number(), text(), option::of(text()), any::<u32>()),
        (any::<bool>(), option::of(timestamp())),
        (option::of(timestamp()), option::of(will)),
        (overlap, any::<u16>(), number(), any::<u32>()),
        (vec((any::<u32>(), number()), 0..4), option::of(text())),
    )
        .prop_map(
            |(
                (number, client_id, user, expiry_secs),
                (connected, ends_at),
                (will_at, will),
                (overlap, window, next_position, next_subscription),
                (sent, who),
            )| SessionRecord {
                number,
                client_id,
                user,
                expiry_secs,
                connected,
                ends_at,
                will_at,
                will,
                overlap,
                window,
                next_position,
                next_subscription,
                sent,
                who,
            },
        )
}

/// Some filters.
pub(crate) fn filter() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        Just("a/+/#"),
        Just("$share/g/a/#"),
        Just("$queue/jobs"),
        Just("+"),
        Just("a"),
        Just("$SYS/#"),
    ]
}

fn request() -> impl Strategy<Value = SubscribeRequest> {
    let handling = prop_oneof![
        Just(RetainHandling::Send),
        Just(RetainHandling::SendIfNew),
        Just(RetainHandling::DoNotSend),
    ];
    let lane = prop_oneof![
        Just(Lane::Session),
        any::<u16>().prop_map(|in_flight| Lane::Own { in_flight }),
    ];
    (
        (text(), filter(), qos()),
        any::<[bool; 4]>(),
        handling,
        any::<u32>().prop_map(NonZeroU32::new),
        lane,
    )
        .prop_map(
            |((key, filter, qos), flags, retain_handling, identifier, lane)| SubscribeRequest {
                key,
                filter: SubscriptionFilter::parse(filter.into(), 64, 8).unwrap(),
                qos,
                no_local: flags[0],
                retain_as_published: flags[1],
                retain_handling,
                identifier,
                lane,
                auto_settle: flags[2],
                durable: flags[3],
            },
        )
}

/// Any subscription.
pub(crate) fn a_subscription() -> impl Strategy<Value = SubscriptionRecord> {
    let retained = prop_oneof![
        Just(RetainedProgress::Done),
        Just(RetainedProgress::Wanted),
        topic().prop_map(RetainedProgress::Behind),
    ];
    (any::<u32>(), request(), retained).prop_map(|(id, request, retained)| SubscriptionRecord {
        id: SubscriptionId(id),
        request,
        retained,
    })
}

/// Any operation.
pub(crate) fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (a_message(), vec(a_receiver(), 1..4))
            .prop_map(|(message, receivers)| Op::Message { message, receivers }),
        (a_queue(), number()).prop_map(|(queue, position)| Op::Done { queue, position }),
        (a_queue(), number()).prop_map(|(queue, position)| Op::Received { queue, position }),
        (a_queue(), number(), a_receiver()).prop_map(|(from, position, to)| Op::Move {
            from,
            position,
            to
        }),
        a_session().prop_map(|record| Op::Session(Box::new(record))),
        number().prop_map(|number| Op::SessionEnd { number }),
        (number(), a_subscription()).prop_map(|(number, record)| Op::Subscription {
            number,
            record: Box::new(record)
        }),
        (number(), any::<u32>()).prop_map(|(number, id)| Op::SubscriptionEnd {
            number,
            id: SubscriptionId(id)
        }),
        (number(), any::<u16>()).prop_map(|(number, packet_id)| Op::Accepted { number, packet_id }),
        (number(), any::<u16>()).prop_map(|(number, packet_id)| Op::Released { number, packet_id }),
        (number(), option::of(text()), filter()).prop_map(|(number, share, filter)| Op::Group {
            number,
            record: GroupRecord {
                share,
                filter: Filter::parse(filter.into(), 64, 8).unwrap()
            }
        }),
        number().prop_map(|number| Op::GroupEnd { number }),
        a_message().prop_map(|message| Op::Retain { message }),
        text().prop_map(|topic| Op::Unretain { topic }),
        (text(), any::<u32>(), timestamp()).prop_map(|(key, answer, until)| Op::Key {
            key,
            answer,
            until
        }),
    ]
}
