//! The codec against two that others wrote: the same bytes are accepted or refused, and mean the
//! same, or the tables here say by the standard why not.

use bytes::BytesMut;
use mqtt_protocol_core::mqtt::packet::{v3_1_1, v5_0};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestRunner;
use protocols::model::PayloadFormat;
use protocols::mqtt::{DecodeError, Packet, ReasonCode, Side, Version};
use tokio_util::codec::{Decoder, Encoder};

use crate::strategies::versioned;
use crate::support::{connect_v3, connect_v5, decode_one, encode_one, field, packet, properties};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Oracle {
    /// mqtt-protocol-core
    Core,
    /// rmqtt-codec
    Rmqtt,
}

use Oracle::{Core, Rmqtt};
use Version::{V5, V311};

/// What an oracle accepts and the standard forbids.
pub(crate) struct Laxer {
    /// Part of our refusal.
    refusal: &'static str,
    /// Those that accept it.
    oracles: &'static [Oracle],
    /// Bytes that show it.
    pub(crate) example: (Version, Vec<u8>),
    /// The clause.
    because: &'static str,
}

pub(crate) fn laxer() -> Vec<Laxer> {
    let row = |refusal, oracles, example, because| Laxer {
        refusal,
        oracles,
        example,
        because,
    };
    let will_topic: &[&[u8]] = &[&field("c"), &field("a/#"), &field("")];
    let both: &[Oracle] = &[Core, Rmqtt];
    let reply_to_wildcard = properties(&[&[0x08], &field("+")]);
    let padded_id = properties(&[&[0x0b, 0x81, 0x00]]);
    vec![
        row(
            "reserved flags of the fixed header",
            &[Core],
            (V5, vec![0xc8, 0]),
            "[MQTT-2.1.3-1]",
        ),
        row(
            "is not supported",
            &[Rmqtt],
            (
                V311,
                packet(0x10, &[&field("MQTT"), &[3, 2, 0, 0], &field("c")]),
            ),
            "level 3 is MQTT 3.1, which is not spoken here [MQTT-3.1.2-2]",
        ),
        row(
            "the reserved connect flag",
            &[Core],
            (V311, connect_v3(3, &[&field("c")])),
            "[MQTT-3.1.2-3]",
        ),
        row(
            "will flags without a will",
            both,
            (V5, connect_v5(0x0a, &[0], &[&field("c")])),
            "[MQTT-3.1.2-11] [MQTT-3.1.2-13]",
        ),
        row(
            "a password without a user name",
            &[Rmqtt],
            (V311, connect_v3(0x42, &[&field("c"), &field("p")])),
            "3.1.1: [MQTT-3.1.2-22]",
        ),
        row(
            "client identifier: empty",
            &[Core],
            (V311, connect_v3(0, &[&field("")])),
            "3.1.1: [MQTT-3.1.3-7]",
        ),
        row(
            "it contains a wildcard",
            both,
            (V311, connect_v3(6, will_topic)),
            "[MQTT-3.3.2-2]",
        ),
        row(
            "response topic contains a wildcard",
            both,
            (V5, packet(0x30, &[&field("t"), &reply_to_wildcard])),
            "[MQTT-3.3.2-14]",
        ),
        row(
            "the response topic is empty",
            both,
            (V5, packet(0x30, &[&field("t"), &[3, 0x08, 0, 0]])),
            "[MQTT-4.7.3-1]",
        ),
        row(
            "the will topic is empty",
            both,
            (V311, connect_v3(6, &[&field("c"), &field(""), &field("")])),
            "[MQTT-4.7.3-1]",
        ),
        row(
            "contains the NUL character",
            both,
            (V311, packet(0x30, &[&field("a\0")])),
            "[MQTT-1.5.4-2]",
        ),
        row(
            "neither topic name nor topic alias",
            both,
            (V5, packet(0x30, &[&field(""), &[0]])),
            "section 3.3.2.1, 3.1.1: [MQTT-4.7.3-1]",
        ),
        row(
            "DUP is set at QoS 0",
            both,
            (V311, packet(0x38, &[&field("t")])),
            "[MQTT-3.3.1-2]",
        ),
        row(
            "reserved CONNACK flags",
            &[Core],
            (V311, vec![0x20, 2, 2, 0]),
            "[MQTT-3.2.2-1]",
        ),
        row(
            "session present with a refusal",
            both,
            (V311, vec![0x20, 2, 1, 4]),
            "[MQTT-3.2.2-6], 3.1.1: [MQTT-3.2.2-4]",
        ),
        row(
            "unknown return code",
            &[Rmqtt],
            (V311, vec![0x20, 2, 0, 6]),
            "3.1.1: table 3.1, reserved",
        ),
        row(
            "reserved bits of the subscription options",
            both,
            (V311, packet(0x82, &[&[0, 1], &field("a"), &[4]])),
            "3.1.1: [MQTT-3-8.3-4]",
        ),
        row(
            "wrong number of reason codes",
            &[Rmqtt],
            (V311, vec![0x90, 2, 0, 1]),
            "[MQTT-3.9.3-1]",
        ),
        row(
            "longer than needed",
            both,
            (V5, packet(0x82, &[&[0, 1], &padded_id, &field("a"), &[0]])),
            "[MQTT-1.5.5-1]",
        ),
        row(
            "a field is longer than its packet",
            &[Core],
            (V5, packet(0x30, &[&field("t")])),
            "section 3.3.2.3.1: PUBLISH has a property length",
        ),
        row(
            "a field is longer than its packet",
            both,
            (V5, vec![0xf0, 1, 0]),
            "section 3.15.2.1: reason code and property length are left out together",
        ),
        row(
            "AUTH without a method",
            &[Rmqtt],
            (V5, packet(0xf0, &[&[0], &properties(&[&[0x16, 0, 0]])])),
            "section 3.15.2.2.2",
        ),
        row(
            "bytes behind the last field",
            &[Rmqtt],
            (V311, vec![0xc0, 1, 0]),
            "3.1.1: section 3.12.3, PINGREQ has no payload",
        ),
    ]
}

/// What an oracle refuses and the standard allows.
pub(crate) struct Stricter {
    oracle: Oracle,
    version: Version,
    /// Whether a packet is of this kind.
    applies: fn(&Packet<'_>) -> bool,
    /// Bytes that show it.
    pub(crate) example: Vec<u8>,
    /// The clause.
    because: &'static str,
}

pub(crate) fn stricter() -> Vec<Stricter> {
    let row = |oracle, version, applies, example, because| Stricter {
        oracle,
        version,
        applies,
        example,
        because,
    };
    vec![
        row(
            Core,
            V5,
            |it| matches!(it, Packet::Connect(it) if it.username.is_none()),
            connect_v5(0x42, &[0], &[&field("c"), &field("p")]),
            "section 3.1.2.9: 5 allows a password without a user name",
        ),
        row(
            Core,
            V5,
            |it| matches!(it, Packet::Subscribe(it) if it.filters.iter().any(|it| it.is_shared())),
            packet(0x82, &[&[0, 1, 0], &field("$share/g+/a"), &[0]]),
            "[MQTT-4.8.2-2]: a bad filter is refused alone, in SUBACK with 0x8F",
        ),
        row(
            Core,
            V5,
            |it| {
                let code = ReasonCode::BadAuthenticationMethod;
                matches!(it, Packet::Disconnect(it) if it.reason == code)
            },
            vec![0xe0, 1, 0x8c],
            "section 2.4 names DISCONNECT for 0x8C",
        ),
        row(
            Rmqtt,
            V5,
            |it| matches!(it, Packet::Connect(it) if it.client_id.is_empty()),
            connect_v5(0, &[0], &[&field("")]),
            "[MQTT-3.1.3-6]: 5 has no such rule for a clean start of 0",
        ),
        row(
            Rmqtt,
            V311,
            |it| match it {
                Packet::Subscribe(it) => it.filters.iter().any(|it| it.filter.is_empty()),
                Packet::Unsubscribe(it) => it.filters.iter().any(str::is_empty),
                _ => false,
            },
            packet(0x82, &[&[0, 1], &field(""), &[0]]),
            "[MQTT-4.7.3-1]: a bad filter is refused alone, in SUBACK with 0x80",
        ),
    ]
}

fn ask(oracle: Oracle, bytes: &[u8], version: Version) -> Result<Vec<u8>, String> {
    // Some bytes make an oracle panic; that is a refusal too.
    let answer = std::panic::catch_unwind(|| match oracle {
        Core => core(bytes, version),
        Rmqtt => rmqtt(bytes, version),
    });
    answer.unwrap_or_else(|_| Err("panicked".to_owned()))
}

/// Whether we take it, on whichever side takes it: the oracles do not look at the direction.
fn ours(bytes: &[u8], version: Version) -> Result<Packet<'_>, DecodeError> {
    let error = match decode_one(bytes, version, Side::Server) {
        Ok(packet) => return Ok(packet),
        Err(error) => error,
    };
    let text = error.to_string();
    let is_direction = [
        "may send this packet",
        "the reason code is not allowed",
        "must not send subscription identifiers",
    ]
    .iter()
    .any(|direction| text.contains(direction));
    if is_direction {
        decode_one(bytes, version, Side::Client)
    } else {
        Err(error)
    }
}

/// Both accept or both refuse and what was accepted means the same, or a table says why not.
fn compare(oracle: Oracle, bytes: &[u8], version: Version) -> Result<(), String> {
    match (ours(bytes, version), ask(oracle, bytes, version)) {
        (Ok(packet), Ok(again)) => match ours(&again, version) {
            Ok(same) if meaning(oracle, &same) == meaning(oracle, &packet) => Ok(()),
            // It writes an empty AUTH with a property length: section 3.15.2.1.
            Err(_) if oracle == Rmqtt && matches!(packet, Packet::Auth(_)) => Ok(()),
            other => Err(format!("{packet:?} came back as {other:?}")),
        },
        (Err(_), Err(_)) => Ok(()),
        (Ok(packet), Err(error)) => stricter()
            .iter()
            .any(|it| it.oracle == oracle && it.version == version && (it.applies)(&packet))
            .then_some(())
            .ok_or_else(|| format!("{oracle:?} refuses ({error}) {packet:?}")),
        (Err(error), Ok(_)) => laxer()
            .iter()
            .any(|it| it.oracles.contains(&oracle) && error.to_string().contains(it.refusal))
            .then_some(())
            .ok_or_else(|| format!("{oracle:?} accepts what is refused with: {error}")),
    }
}

#[test]
fn each_difference_is_real() {
    for row in laxer() {
        let (version, bytes) = &row.example;
        let error = ours(bytes, *version).expect_err(row.because).to_string();
        assert!(error.contains(row.refusal), "{}: {error}", row.because);
        for oracle in row.oracles {
            let answer = ask(*oracle, bytes, *version);
            assert!(answer.is_ok(), "{} {oracle:?}: {answer:?}", row.because);
        }
    }
    for row in stricter() {
        let packet = ours(&row.example, row.version).expect(row.because);
        assert!((row.applies)(&packet), "{}", row.because);
        assert!(
            ask(row.oracle, &row.example, row.version).is_err(),
            "{}",
            row.because
        );
    }
}

#[test]
fn all_packets_mean_the_same() {
    run(&versioned().prop_map(|(version, packet)| (version, encode_one(&packet, version))));
}

#[test]
fn changed_packets_are_judged_the_same() {
    let value = prop_oneof![
        prop::sample::select(&b"\x00\x01\x02\x03\x04\x08\x10\x11\x40\x7f\x80\x81\x84\xff+#"[..]),
        any::<u8>(),
    ];
    let changes = prop::collection::vec((any::<Index>(), any::<bool>(), value), 0..3);
    let cut = prop::option::weighted(0.3, any::<Index>());
    run(
        &(versioned(), cut, changes).prop_map(|((version, packet), cut, changes)| {
            (
                version,
                change(&encode_one(&packet, version), cut, &changes),
            )
        }),
    );
}

/// The same packets in every run; more of them with `PROPTEST_CASES`.
fn run(strategy: &impl Strategy<Value = (Version, Vec<u8>)>) {
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let rng = prop::test_runner::TestRng::deterministic_rng(config.rng_algorithm);
    let result = TestRunner::new_with_rng(config, rng).run(strategy, |(version, bytes)| {
        for oracle in [Core, Rmqtt] {
            if let Err(difference) = compare(oracle, &bytes, version) {
                return Err(TestCaseError::fail(format!("{bytes:02x?}: {difference}")));
            }
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// Cuts a body off and sets bytes of it, the first twelve more often, or flags. The remaining
/// length stays right.
fn change(bytes: &[u8], cut: Option<Index>, changes: &[(Index, bool, u8)]) -> Vec<u8> {
    let (mut first, mut body) = (bytes[0], body(bytes).to_vec());
    if let Some(cut) = cut {
        body.truncate(cut.index(body.len() + 1));
    }
    for (at, early, value) in changes {
        let choices = body.len() + 1;
        match at.index(if *early { choices.min(13) } else { choices }) {
            0 => first = first & 0xf0 | value & 0x0f,
            at => body[at - 1] = *value,
        }
    }
    packet(first, &[&body])
}

/// What is behind the fixed header.
fn body(bytes: &[u8]) -> &[u8] {
    let length = bytes[1..].iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
    &bytes[1 + length..]
}

/// A packet as text, without what an oracle does not keep.
fn meaning(oracle: Oracle, packet: &Packet<'_>) -> String {
    match oracle {
        Core => format!("{packet:?}"),
        Rmqtt => without_defaults(packet),
    }
}

/// Leaves out what says no more than its absence: rmqtt-codec keeps no difference.
fn without_defaults(packet: &Packet<'_>) -> String {
    let mut packet = packet.clone();
    match &mut packet {
        Packet::Connect(connect) => {
            let it = &mut connect.properties;
            it.session_expiry_secs = it.session_expiry_secs.filter(|&secs| secs != 0);
            it.topic_alias_maximum = it.topic_alias_maximum.filter(|&max| max != 0);
            it.request_problem_information = it.request_problem_information.filter(|&on| !on);
            it.request_response_information = it.request_response_information.filter(|&on| on);
            if let Some(will) = &mut connect.will {
                will.properties.payload_format = will
                    .properties
                    .payload_format
                    .filter(|it| *it != PayloadFormat::Bytes);
            }
        }
        Packet::ConnAck(connack) => {
            let it = &mut connack.properties;
            it.receive_maximum = it.receive_maximum.filter(|max| max.get() != u16::MAX);
            it.topic_alias_maximum = it.topic_alias_maximum.filter(|&max| max != 0);
            it.retain_available = it.retain_available.filter(|&on| !on);
            for flag in [
                &mut it.wildcard_subscription_available,
                &mut it.subscription_identifier_available,
                &mut it.shared_subscription_available,
            ] {
                *flag = flag.filter(|&on| !on);
            }
        }
        Packet::Publish(publish) => {
            let it = &mut publish.properties;
            it.payload_format = it.payload_format.filter(|it| *it != PayloadFormat::Bytes);
        }
        _ => {}
    }
    format!("{packet:?}")
}

/// Reads the packet with mqtt-protocol-core and writes it again. It reads bodies: the fixed header
/// is ours.
fn core(bytes: &[u8], version: Version) -> Result<Vec<u8>, String> {
    let (flags, body) = (bytes[0] & 0x0f, body(bytes));
    macro_rules! parse {
        ($packet:ty) => {
            <$packet>::parse(body)
                .map_err(|error| format!("{error:?}"))
                .and_then(|(packet, consumed)| {
                    if consumed == body.len() {
                        Ok(packet.to_continuous_buffer())
                    } else {
                        Err("bytes left".into())
                    }
                })
        };
    }
    macro_rules! publish {
        ($packet:ty) => {
            <$packet>::parse(flags, body.into())
                .map_err(|error| format!("{error:?}"))
                .map(|(packet, _)| packet.to_continuous_buffer())
        };
    }
    match (version, bytes[0] >> 4) {
        (Version::V311, 1) => parse!(v3_1_1::Connect),
        (Version::V311, 2) => parse!(v3_1_1::Connack),
        (Version::V311, 3) => publish!(v3_1_1::Publish),
        (Version::V311, 4) => parse!(v3_1_1::Puback),
        (Version::V311, 5) => parse!(v3_1_1::Pubrec),
        (Version::V311, 6) => parse!(v3_1_1::Pubrel),
        (Version::V311, 7) => parse!(v3_1_1::Pubcomp),
        (Version::V311, 8) => parse!(v3_1_1::Subscribe),
        (Version::V311, 9) => parse!(v3_1_1::Suback),
        (Version::V311, 10) => parse!(v3_1_1::Unsubscribe),
        (Version::V311, 11) => parse!(v3_1_1::Unsuback),
        (Version::V311, 12) => parse!(v3_1_1::Pingreq),
        (Version::V311, 13) => parse!(v3_1_1::Pingresp),
        (Version::V311, 14) => parse!(v3_1_1::Disconnect),
        (Version::V5, 1) => parse!(v5_0::Connect),
        (Version::V5, 2) => parse!(v5_0::Connack),
        (Version::V5, 3) => publish!(v5_0::Publish),
        (Version::V5, 4) => parse!(v5_0::Puback),
        (Version::V5, 5) => parse!(v5_0::Pubrec),
        (Version::V5, 6) => parse!(v5_0::Pubrel),
        (Version::V5, 7) => parse!(v5_0::Pubcomp),
        (Version::V5, 8) => parse!(v5_0::Subscribe),
        (Version::V5, 9) => parse!(v5_0::Suback),
        (Version::V5, 10) => parse!(v5_0::Unsubscribe),
        (Version::V5, 11) => parse!(v5_0::Unsuback),
        (Version::V5, 12) => parse!(v5_0::Pingreq),
        (Version::V5, 13) => parse!(v5_0::Pingresp),
        (Version::V5, 14) => parse!(v5_0::Disconnect),
        (Version::V5, 15) => parse!(v5_0::Auth),
        _ => Err("no such packet type".into()),
    }
}

/// Reads the packet with rmqtt-codec and writes it again.
fn rmqtt(bytes: &[u8], version: Version) -> Result<Vec<u8>, String> {
    macro_rules! run {
        ($codec:expr) => {{
            let mut codec = $codec;
            let mut buffer = BytesMut::from(bytes);
            let packet = codec
                .decode(&mut buffer)
                .map_err(|error| format!("{error:?}"))?;
            let (packet, _) = packet.ok_or("incomplete")?;
            let mut out = BytesMut::new();
            codec
                .encode(packet, &mut out)
                .map_err(|error| format!("encode {error:?}"))?;
            Ok(out.to_vec())
        }};
    }
    match version {
        Version::V311 => run!(rmqtt_codec::v3::Codec::default()),
        Version::V5 => run!(rmqtt_codec::v5::Codec::default()),
    }
}
