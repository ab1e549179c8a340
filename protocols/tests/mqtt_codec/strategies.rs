//! Any packet that can be.
//!
//! Packets borrow, so what they borrow is leaked: a test run is short.

use std::num::{NonZeroU16, NonZeroU32};

use proptest::option;
use proptest::prelude::*;
use protocols::connection::RetainHandling;
use protocols::model::{PayloadFormat, QoS};
use protocols::mqtt::list::{List, UserProperty};
use protocols::mqtt::packet::{
    Ack, Auth, ConnAck, Connect, Disconnect, Packet, PacketType, Publish, SubAck, Subscribe,
    Subscription, Unsubscribe, Will,
};
use protocols::mqtt::properties::{
    AckProperties, AuthProperties, ConnAckProperties, ConnectProperties, DisconnectProperties,
    PublishProperties, SubscribeProperties, UnsubscribeProperties, WillProperties,
};
use protocols::mqtt::{ReasonCode, Side, Version};

fn leak<T>(items: Vec<T>) -> &'static [T] {
    Vec::leak(items)
}

fn text() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        "[a-z/$ +#]{0,8}",
        "[^\u{0}]{0,6}",
        "[a-zäß雪\u{1}\u{7f}\u{feff}\u{ffff}🌡]{0,300}",
    ]
    .prop_map(|text| &*text.leak())
}

fn topic() -> impl Strategy<Value = &'static str> {
    prop_oneof!["[a-z/$]{1,12}", "[a-zäß雪/]{1,200}"].prop_map(|text| &*text.leak())
}

fn binary() -> impl Strategy<Value = &'static [u8]> {
    prop::collection::vec(any::<u8>(), 0..40).prop_map(leak)
}

fn user() -> impl Strategy<Value = List<'static, UserProperty<'static>>> {
    prop::collection::vec((text(), text()), 0..4).prop_map(|pairs| List::new(leak(pairs)))
}

fn qos() -> impl Strategy<Value = QoS> {
    (0u8..3).prop_map(|level| QoS::from_u8(level).unwrap())
}

fn id() -> impl Strategy<Value = NonZeroU16> {
    (1u16..).prop_map(|id| NonZeroU16::new(id).unwrap())
}

fn subscription_id() -> impl Strategy<Value = NonZeroU32> {
    prop_oneof![1u32..300, 1u32..=268_435_455].prop_map(|id| NonZeroU32::new(id).unwrap())
}

fn size() -> impl Strategy<Value = NonZeroU32> {
    (1u32..).prop_map(|size| NonZeroU32::new(size).unwrap())
}

fn payload_format() -> impl Strategy<Value = PayloadFormat> {
    prop_oneof![Just(PayloadFormat::Bytes), Just(PayloadFormat::Utf8)]
}

fn reason(packet: PacketType) -> impl Strategy<Value = ReasonCode> {
    let codes: Vec<ReasonCode> = ReasonCode::ALL
        .iter()
        .copied()
        .filter(|code| code.is_in(packet))
        .collect();
    prop::sample::select(codes)
}

/// Any packet that version 5 can say.
pub(crate) fn packet_v5() -> BoxedStrategy<Packet<'static>> {
    prop_oneof![
        connect_v5(),
        connack_v5(),
        publish_v5(),
        publish_v5(),
        ack_v5(),
        subscribe_v5(),
        suback_v5(),
        unsubscribe_v5(),
        Just(Packet::PingReq),
        Just(Packet::PingResp),
        disconnect_v5(),
        auth_v5(),
    ]
    .boxed()
}

/// Any packet that 3.1.1 can say.
pub(crate) fn packet_v3() -> BoxedStrategy<Packet<'static>> {
    prop_oneof![
        connect_v3(),
        connack_v3(),
        publish_v3(),
        publish_v3(),
        (id(), 0usize..4).prop_map(|(id, kind)| ack(kind, Ack::new(id, ReasonCode::Success))),
        subscribe_v3(),
        suback_v3(),
        (id(), filters()).prop_map(|(packet_id, filters)| Packet::Unsubscribe(Unsubscribe {
            packet_id,
            properties: UnsubscribeProperties::default(),
            filters,
        })),
        Just(Packet::PingReq),
        Just(Packet::PingResp),
        Just(Packet::Disconnect(Disconnect::new(ReasonCode::Success))),
    ]
    .boxed()
}

/// Any version and a packet of it.
pub(crate) fn versioned() -> impl Strategy<Value = (Version, Packet<'static>)> {
    prop_oneof![
        packet_v3().prop_map(|packet| (Version::V311, packet)),
        packet_v5().prop_map(|packet| (Version::V5, packet)),
    ]
}

fn connect_v5() -> BoxedStrategy<Packet<'static>> {
    let properties = (
        option::of(any::<u32>()),
        option::of(id()),
        option::of(size()),
        option::of(any::<u16>()),
        option::of(any::<bool>()),
        option::of(any::<bool>()),
        option::of((text(), option::of(binary()))),
        user(),
    )
        .prop_map(|it| ConnectProperties {
            session_expiry_secs: it.0,
            receive_maximum: it.1,
            maximum_packet_size: it.2,
            topic_alias_maximum: it.3,
            request_response_information: it.4,
            request_problem_information: it.5,
            authentication_method: it.6.map(|auth| auth.0),
            authentication_data: it.6.and_then(|auth| auth.1),
            user: it.7,
        });
    let will_properties = (
        option::of(any::<u32>()),
        option::of(payload_format()),
        option::of(any::<u32>()),
        option::of(text()),
        option::of(topic()),
        option::of(binary()),
        user(),
    )
        .prop_map(|it| WillProperties {
            delay_secs: it.0,
            payload_format: it.1,
            message_expiry_secs: it.2,
            content_type: it.3,
            response_topic: it.4,
            correlation_data: it.5,
            user: it.6,
        });
    (
        any::<bool>(),
        any::<u16>(),
        text(),
        option::of(will(will_properties.boxed())),
        option::of(text()),
        option::of(binary()),
        properties,
    )
        .prop_map(|it| {
            Packet::Connect(Box::new(Connect {
                version: Version::V5,
                clean_start: it.0,
                keep_alive_secs: it.1,
                client_id: it.2,
                will: it.3,
                username: it.4,
                password: it.5,
                properties: it.6,
            }))
        })
        .boxed()
}

fn will(properties: BoxedStrategy<WillProperties<'static>>) -> BoxedStrategy<Will<'static>> {
    (topic(), binary(), qos(), any::<bool>(), properties)
        .prop_map(|it| Will {
            topic: it.0,
            payload: it.1,
            qos: it.2,
            retain: it.3,
            properties: it.4,
        })
        .boxed()
}

fn connect_v3() -> BoxedStrategy<Packet<'static>> {
    (
        any::<bool>(),
        any::<u16>(),
        text(),
        option::of(will(Just(WillProperties::default()).boxed())),
        option::of((text(), option::of(binary()))),
    )
        .prop_map(|it| {
            Packet::Connect(Box::new(Connect {
                version: Version::V311,
                clean_start: it.0 || it.2.is_empty(),
                keep_alive_secs: it.1,
                client_id: it.2,
                will: it.3,
                username: it.4.map(|login| login.0),
                password: it.4.and_then(|login| login.1),
                properties: ConnectProperties::default(),
            }))
        })
        .boxed()
}

fn connack_v5() -> BoxedStrategy<Packet<'static>> {
    let numbers = (
        option::of(any::<u32>()),
        option::of(id()),
        option::of(size()),
        option::of(any::<u16>()),
        option::of(any::<u16>()),
    );
    let flags = (
        option::of(prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce)]),
        option::of(any::<bool>()),
        option::of(any::<bool>()),
        option::of(any::<bool>()),
        option::of(any::<bool>()),
    );
    let texts = (
        option::of(text()),
        option::of(text()),
        option::of(text()),
        option::of(text()),
        option::of((text(), option::of(binary()))),
    );
    let properties = (numbers, flags, texts, user()).prop_map(|(numbers, flags, texts, user)| {
        ConnAckProperties {
            session_expiry_secs: numbers.0,
            receive_maximum: numbers.1,
            maximum_packet_size: numbers.2,
            topic_alias_maximum: numbers.3,
            server_keep_alive_secs: numbers.4,
            maximum_qos: flags.0,
            retain_available: flags.1,
            wildcard_subscription_available: flags.2,
            subscription_identifier_available: flags.3,
            shared_subscription_available: flags.4,
            assigned_client_identifier: texts.0,
            reason_string: texts.1,
            response_information: texts.2,
            server_reference: texts.3,
            authentication_method: texts.4.map(|auth| auth.0),
            authentication_data: texts.4.and_then(|auth| auth.1),
            user,
        }
    });
    (any::<bool>(), reason(PacketType::ConnAck), properties)
        .prop_map(|(present, reason, properties)| connack(present, reason, properties))
        .boxed()
}

fn connack(
    present: bool,
    reason: ReasonCode,
    properties: ConnAckProperties<'static>,
) -> Packet<'static> {
    Packet::ConnAck(Box::new(ConnAck {
        session_present: present && !reason.is_error(),
        reason,
        properties,
    }))
}

fn connack_v3() -> BoxedStrategy<Packet<'static>> {
    (any::<bool>(), 0u8..6)
        .prop_map(|(present, code)| {
            let reason = ReasonCode::from_connack_v3(code).unwrap();
            connack(present, reason, ConnAckProperties::default())
        })
        .boxed()
}

fn publish_v5() -> BoxedStrategy<Packet<'static>> {
    let properties = (
        option::of(payload_format()),
        option::of(any::<u32>()),
        option::of(id()),
        option::of(topic()),
        option::of(binary()),
        option::of(text()),
        user(),
        prop::collection::vec(subscription_id(), 0..3),
    )
        .prop_map(|it| PublishProperties {
            payload_format: it.0,
            message_expiry_secs: it.1,
            topic_alias: it.2,
            response_topic: it.3,
            correlation_data: it.4,
            content_type: it.5,
            user: it.6,
            subscription_ids: List::new(leak(it.7)),
        });
    (publish_v3(), properties, any::<bool>())
        .prop_map(|(packet, properties, use_alias)| {
            let Packet::Publish(mut publish) = packet else {
                unreachable!()
            };
            if use_alias && properties.topic_alias.is_some() {
                publish.topic = "";
            }
            publish.properties = properties;
            Packet::Publish(publish)
        })
        .boxed()
}

fn publish_v3() -> BoxedStrategy<Packet<'static>> {
    let payload = prop_oneof![
        binary(),
        prop::collection::vec(any::<u8>(), 100..400).prop_map(leak)
    ];
    (any::<bool>(), qos(), any::<bool>(), topic(), id(), payload)
        .prop_map(|(dup, qos, retain, topic, id, payload)| {
            Packet::Publish(Publish {
                dup: dup && qos != QoS::AtMostOnce,
                qos,
                retain,
                topic,
                packet_id: (qos != QoS::AtMostOnce).then_some(id),
                properties: PublishProperties::default(),
                payload,
            })
        })
        .boxed()
}

fn ack(kind: usize, ack: Ack<'static>) -> Packet<'static> {
    match kind {
        0 => Packet::PubAck(ack),
        1 => Packet::PubRec(ack),
        2 => Packet::PubRel(ack),
        _ => Packet::PubComp(ack),
    }
}

fn ack_properties() -> impl Strategy<Value = AckProperties<'static>> {
    (option::of(text()), user()).prop_map(|(reason_string, user)| AckProperties {
        reason_string,
        user,
    })
}

fn ack_v5() -> BoxedStrategy<Packet<'static>> {
    let first = (0usize..2, reason(PacketType::PubAck));
    let second = (2usize..4, reason(PacketType::PubRel));
    (id(), prop_oneof![first, second], ack_properties())
        .prop_map(|(packet_id, (kind, reason), properties)| {
            ack(
                kind,
                Ack {
                    packet_id,
                    reason,
                    properties,
                },
            )
        })
        .boxed()
}

fn subscription(v5: bool) -> impl Strategy<Value = Subscription<'static>> {
    let handling = prop::sample::select(vec![
        RetainHandling::Send,
        RetainHandling::SendIfNew,
        RetainHandling::DoNotSend,
    ]);
    let filter = prop_oneof![
        text(),
        topic().prop_map(|topic| format!("$share/g/{topic}").leak() as &str)
    ];
    (filter, qos(), any::<bool>(), any::<bool>(), handling).prop_map(move |it| {
        let plain = Subscription::new(it.0, it.1);
        if !v5 {
            return plain;
        }
        Subscription {
            no_local: it.2 && !plain.is_shared(),
            retain_as_published: it.3,
            retain_handling: it.4,
            ..plain
        }
    })
}

fn subscribe_v5() -> BoxedStrategy<Packet<'static>> {
    let properties = (option::of(subscription_id()), user()).prop_map(|(subscription_id, user)| {
        SubscribeProperties {
            subscription_id,
            user,
        }
    });
    (
        id(),
        properties,
        prop::collection::vec(subscription(true), 1..4),
    )
        .prop_map(|(packet_id, properties, filters)| {
            Packet::Subscribe(Subscribe {
                packet_id,
                properties,
                filters: List::new(leak(filters)),
            })
        })
        .boxed()
}

fn subscribe_v3() -> BoxedStrategy<Packet<'static>> {
    (id(), prop::collection::vec(subscription(false), 1..4))
        .prop_map(|(packet_id, filters)| {
            Packet::Subscribe(Subscribe {
                packet_id,
                properties: SubscribeProperties::default(),
                filters: List::new(leak(filters)),
            })
        })
        .boxed()
}

fn suback_v5() -> BoxedStrategy<Packet<'static>> {
    let sub = prop::collection::vec(reason(PacketType::SubAck), 1..4).prop_map(|it| (true, it));
    let unsub =
        prop::collection::vec(reason(PacketType::UnsubAck), 1..4).prop_map(|it| (false, it));
    (id(), ack_properties(), prop_oneof![sub, unsub])
        .prop_map(|(packet_id, properties, (is_sub, codes))| {
            let suback = SubAck {
                packet_id,
                properties,
                codes: List::new(leak(codes)),
            };
            if is_sub {
                Packet::SubAck(suback)
            } else {
                Packet::UnsubAck(suback)
            }
        })
        .boxed()
}

fn suback_v3() -> BoxedStrategy<Packet<'static>> {
    let codes = prop::sample::select(vec![
        ReasonCode::Success,
        ReasonCode::GrantedQoS1,
        ReasonCode::GrantedQoS2,
        ReasonCode::UnspecifiedError,
    ]);
    (id(), prop::collection::vec(codes, 0..4))
        .prop_map(|(packet_id, codes)| {
            let is_empty = codes.is_empty();
            let suback = SubAck {
                packet_id,
                properties: AckProperties::default(),
                codes: List::new(leak(codes)),
            };
            if is_empty {
                Packet::UnsubAck(suback)
            } else {
                Packet::SubAck(suback)
            }
        })
        .boxed()
}

fn filters() -> impl Strategy<Value = List<'static, &'static str>> {
    prop::collection::vec(text(), 1..4).prop_map(|filters| List::new(leak(filters)))
}

fn unsubscribe_v5() -> BoxedStrategy<Packet<'static>> {
    (id(), user(), filters())
        .prop_map(|(packet_id, user, filters)| {
            Packet::Unsubscribe(Unsubscribe {
                packet_id,
                properties: UnsubscribeProperties { user },
                filters,
            })
        })
        .boxed()
}

fn disconnect_v5() -> BoxedStrategy<Packet<'static>> {
    (
        reason(PacketType::Disconnect),
        option::of(any::<u32>()),
        option::of(text()),
        option::of(text()),
        user(),
    )
        .prop_map(|(reason, expiry, reason_string, server_reference, user)| {
            // Only a client gives an expiry.
            let from_client = reason.is_received(PacketType::Disconnect, Side::Server);
            Packet::Disconnect(Disconnect {
                reason,
                properties: DisconnectProperties {
                    session_expiry_secs: expiry.filter(|_| from_client),
                    reason_string,
                    server_reference,
                    user,
                },
            })
        })
        .boxed()
}

fn auth_v5() -> BoxedStrategy<Packet<'static>> {
    let full = (
        reason(PacketType::Auth),
        text(),
        option::of(binary()),
        option::of(text()),
        user(),
    )
        .prop_map(|(reason, method, data, reason_string, user)| {
            Packet::Auth(Auth {
                reason,
                properties: AuthProperties {
                    authentication_method: Some(method),
                    authentication_data: data,
                    reason_string,
                    user,
                },
            })
        });
    let empty = Just(Packet::Auth(Auth {
        reason: ReasonCode::Success,
        properties: AuthProperties::default(),
    }));
    prop_oneof![9 => full, 1 => empty].boxed()
}
