//! PUBLISH in parts, for messages that go to many receivers.
//!
//! ```text
//! before │ topic │ after: identifier, property length, the receiver's properties │ shared │ payload
//! ```
//!
//! Topic, shared properties and payload are the same bytes for all; [`head`] makes the few that
//! differ, without allocating.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use smallvec::SmallVec;

use super::Version;
use super::codec::{Measure, Sink, VARINT_MAX, Writer, varint_bytes};
use super::encode::publish_flags;
use super::error::EncodeError;
use super::list::List;
use super::packet::{PacketId, PacketType};
use super::properties::{PropertyId, PublishProperties};
use crate::model::{Encoding, Message, PayloadFormat, Properties, QoS};

/// Names [`shared_properties`] for [`Message::encoded`].
pub const SHARED_PROPERTIES: Encoding = Encoding("mqtt5 properties");

/// What differs between the receivers of a message.
#[derive(Clone, Copy, Debug)]
pub struct Fields {
    /// The receiver's version. 3.1.1 has no alias, expiry and subscription identifiers: they are
    /// not written.
    pub version: Version,
    /// Whether it may have been sent before; not at QoS 0.
    pub dup: bool,
    /// The QoS that it is delivered with.
    pub qos: QoS,
    /// The retain flag to show.
    pub retain: bool,
    /// There exactly at QoS 1 and 2.
    pub packet_id: Option<PacketId>,
    /// The alias to set (with a topic) or to use (without).
    pub topic_alias: Option<NonZeroU16>,
    /// Seconds that the message has left.
    pub message_expiry_secs: Option<u32>,
}

/// The bytes around the topic. The packet is `before`, topic, `after`, shared properties,
/// payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Fixed header and the topic's length.
    pub before: SmallVec<[u8; 8]>,
    /// Packet identifier, property length and the receiver's own properties.
    pub after: SmallVec<[u8; 24]>,
    /// Bytes of the whole packet, to be held against the receiver's maximum packet size.
    pub packet_bytes: usize,
}

/// A few bytes on the stack; what is written to it always fits.
struct Fixed<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Fixed<N> {
    const fn new() -> Self {
        Self {
            bytes: [0; N],
            length: 0,
        }
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl<const N: usize> Sink for Fixed<N> {
    #[inline]
    fn slice(&mut self, bytes: &[u8]) {
        if let Some(room) = self.bytes.get_mut(self.length..self.length + bytes.len()) {
            room.copy_from_slice(bytes);
            self.length += bytes.len();
        } else {
            debug_assert!(false, "more than {N} bytes");
        }
    }
}

impl<const N: usize> From<Fixed<N>> for SmallVec<[u8; N]> {
    #[inline]
    fn from(fixed: Fixed<N>) -> Self {
        Self::from_buf_and_len(fixed.bytes, fixed.length)
    }
}

/// Writes what is a receiver's own of a PUBLISH.
///
/// `topic` is empty if the alias stands for it; otherwise it is a valid topic name.
/// `shared_bytes` is the length of [`shared_properties`], 0 for 3.1.1.
pub fn head(
    fields: &Fields,
    subscription_ids: impl IntoIterator<Item = NonZeroU32>,
    topic: &str,
    shared_bytes: usize,
    payload_bytes: usize,
) -> Result<Head, EncodeError> {
    check(fields, topic)?;
    // Identifier 2, length 4, expiry 5, alias 3: 14 bytes at most, then the identifiers of
    // subscriptions.
    let mut after = Fixed::<24>::new();
    if let Some(id) = fields.packet_id {
        after.u16(id.get());
    }
    let mut rest = SmallVec::<[u8; 24]>::new();
    let mut shared = 0;
    if fields.version == Version::V5 {
        shared = shared_bytes;
        rest = write_subscription_ids(subscription_ids)?;
        let expiry = fields.message_expiry_secs.map_or(0, |_| 5);
        let alias = fields.topic_alias.map_or(0, |_| 3);
        after.varint(checked_length(expiry + alias + rest.len() + shared)?);
        write_own(fields, &mut after);
    }
    let mut after = SmallVec::from(after);
    after.extend_from_slice(&rest);

    let topic_bytes = u16::try_from(topic.len()).map_err(|_| EncodeError::FieldTooLong)?;
    let remaining = checked_length(2 + topic.len() + after.len() + shared + payload_bytes)?;
    let mut before = Fixed::<8>::new();
    let flags = publish_flags(fields.dup, fields.qos, fields.retain);
    before.byte((PacketType::Publish as u8) << 4 | flags);
    before.varint(remaining);
    before.u16(topic_bytes);
    Ok(Head {
        packet_bytes: before.length - 2 + remaining as usize,
        before: before.into(),
        after,
    })
}

fn check(fields: &Fields, topic: &str) -> Result<(), EncodeError> {
    if fields.packet_id.is_some() != (fields.qos != QoS::AtMostOnce) {
        return Err(EncodeError::Invalid(
            "a packet identifier belongs to QoS 1 and 2 exactly",
        ));
    }
    if fields.dup && fields.qos == QoS::AtMostOnce {
        return Err(EncodeError::Invalid("DUP is set at QoS 0"));
    }
    if topic.is_empty() && (fields.version == Version::V311 || fields.topic_alias.is_none()) {
        return Err(EncodeError::Invalid("neither topic name nor topic alias"));
    }
    Ok(())
}

/// What is around topic and payload of a PUBLISH without properties.
pub(super) struct BareHead {
    before: Fixed<7>,
    after: Fixed<3>,
    /// Bytes of the whole packet.
    pub(super) packet_bytes: usize,
}

impl BareHead {
    /// Fixed header and the topic's length.
    #[inline]
    pub(super) fn before(&self) -> &[u8] {
        self.before.bytes()
    }

    /// Packet identifier and, in version 5, the length of no properties.
    #[inline]
    pub(super) fn after(&self) -> &[u8] {
        self.after.bytes()
    }
}

/// Like [`head`], for a packet without properties and with a valid topic of `lengths.0` bytes;
/// `None` if MQTT has no packet of this size.
#[inline]
pub(super) fn bare_head(
    version: Version,
    flags: u8,
    packet_id: Option<PacketId>,
    (topic, payload): (usize, usize),
) -> Option<BareHead> {
    let mut after = Fixed::new();
    if let Some(id) = packet_id {
        after.u16(id.get());
    }
    if version == Version::V5 {
        after.byte(0);
    }
    let remaining = checked_length(2 + topic + after.length + payload).ok()?;
    let mut before = Fixed::new();
    before.byte((PacketType::Publish as u8) << 4 | flags);
    before.varint(remaining);
    let packet_bytes = before.length + remaining as usize;
    before.u16(u16::try_from(topic).ok()?);
    Some(BareHead {
        before,
        after,
        packet_bytes,
    })
}

fn write_own(fields: &Fields, sink: &mut impl Sink) {
    if let Some(secs) = fields.message_expiry_secs {
        sink.byte(PropertyId::MessageExpiryInterval as u8);
        sink.u32(secs);
    }
    if let Some(alias) = fields.topic_alias {
        sink.byte(PropertyId::TopicAlias as u8);
        sink.u16(alias.get());
    }
}

fn write_subscription_ids(
    ids: impl IntoIterator<Item = NonZeroU32>,
) -> Result<SmallVec<[u8; 24]>, EncodeError> {
    let mut bytes = SmallVec::new();
    for id in ids {
        if id.get() > VARINT_MAX {
            return Err(EncodeError::Invalid(
                "a subscription identifier is too large",
            ));
        }
        let (varint, length) = varint_bytes(id.get());
        bytes.push(PropertyId::SubscriptionIdentifier as u8);
        bytes.extend_from_slice(&varint[..length]);
    }
    Ok(bytes)
}

fn checked_length(bytes: usize) -> Result<u32, EncodeError> {
    u32::try_from(bytes)
        .ok()
        .filter(|&length| length <= VARINT_MAX)
        .ok_or(EncodeError::TooLarge)
}

/// The properties that are the same for all receivers of version 5, without their length; empty
/// if there are none.
///
/// What MQTT cannot carry (a text with NUL or of more than 65,535 bytes, a response topic with
/// wildcards) can come from other protocols: that property is left out.
pub fn shared_properties(message: &Message) -> Bytes {
    let mut out = Vec::new();
    if let Some(properties) = &message.properties {
        out.reserve(properties.size());
        write_shared(message.payload_format, properties, &mut out);
    } else if message.payload_format.is_some() {
        write_shared(message.payload_format, &Properties::default(), &mut out);
    }
    out.into()
}

fn write_shared(format: Option<PayloadFormat>, properties: &Properties, out: &mut Vec<u8>) {
    // One by one, so that one that cannot be written takes no other with it.
    let mut each = |property: PublishProperties<'_>| {
        let mut measure = Measure::default();
        property.write_each(&mut measure);
        if measure.error.is_none() {
            property.write_each(&mut Writer(&mut *out));
        }
    };
    each(PublishProperties {
        payload_format: format,
        ..PublishProperties::default()
    });
    each(PublishProperties {
        response_topic: properties.reply_to.as_deref(),
        ..PublishProperties::default()
    });
    each(PublishProperties {
        correlation_data: properties.correlation.as_deref(),
        ..PublishProperties::default()
    });
    each(PublishProperties {
        content_type: properties.content_type.as_deref(),
        ..PublishProperties::default()
    });
    for (name, value) in &properties.user {
        each(PublishProperties {
            user: List::new(&[(name, value)]),
            ..PublishProperties::default()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PayloadFormat, Topic};
    use crate::mqtt::packet::{Packet, Publish};
    use crate::mqtt::{Decoded, Side, decode};

    fn fields(version: Version, qos: QoS) -> Fields {
        Fields {
            version,
            dup: false,
            qos,
            retain: false,
            packet_id: (qos != QoS::AtMostOnce).then(|| PacketId::new(258).unwrap()),
            topic_alias: None,
            message_expiry_secs: None,
        }
    }

    fn ids(ids: &[u32]) -> Vec<NonZeroU32> {
        ids.iter().map(|&id| NonZeroU32::new(id).unwrap()).collect()
    }

    fn whole(fields: &Fields, own: &[u32], topic: &str, shared: &[u8], payload: &[u8]) -> Vec<u8> {
        let head = head(fields, ids(own), topic, shared.len(), payload.len()).unwrap();
        let shared = if fields.version == Version::V5 {
            shared
        } else {
            b""
        };
        let parts = [&head.before, topic.as_bytes(), &head.after, shared, payload];
        let bytes = parts.concat();
        assert_eq!(bytes.len(), head.packet_bytes);
        bytes
    }

    fn read(bytes: &[u8], version: Version) -> Publish<'_> {
        match decode(bytes, version, Side::Client, usize::MAX) {
            Ok(Decoded::Packet {
                packet: Packet::Publish(publish),
                consumed,
            }) if consumed == bytes.len() => publish,
            other => panic!("{other:?}"),
        }
    }

    fn message(properties: Properties) -> Message {
        let topic = Topic::parse("a/b".into(), 64, 8).unwrap();
        let mut message = Message::new(topic, Bytes::new(), QoS::AtMostOnce, false);
        message.properties = Some(Box::new(properties));
        message
    }

    #[test]
    fn v3_has_only_the_identifier() {
        let mut fields = fields(Version::V311, QoS::AtLeastOnce);
        fields.topic_alias = NonZeroU16::new(7);
        fields.message_expiry_secs = Some(1);
        let bytes = whole(&fields, &[1], "a/b", b"ignored", b"body");
        assert_eq!(bytes, b"\x32\x0b\0\x03a/b\x01\x02body");
        let fields = Fields {
            dup: true,
            retain: true,
            ..fields
        };
        assert_eq!(whole(&fields, &[], "a", b"", b"")[0], 0x3b);
    }

    #[test]
    fn v5_parts_are_one_packet() {
        let mut message = message(Properties {
            content_type: Some("text/plain".into()),
            reply_to: Some("re".into()),
            correlation: Some(Bytes::from_static(&[0, 1])),
            user: vec![("k".into(), "1".into()), ("k".into(), "2".into())],
        });
        message.payload_format = Some(PayloadFormat::Utf8);
        let shared = shared_properties(&message);
        let mut fields = fields(Version::V5, QoS::ExactlyOnce);
        fields.topic_alias = NonZeroU16::new(7);
        fields.message_expiry_secs = Some(9);
        let payload = vec![b'x'; 20_000];
        let own = [1, 268_435_455];
        let bytes = whole(&fields, &own, "a/b", &shared, &payload);
        let own = ids(&own);
        let publish = read(&bytes, Version::V5);
        assert_eq!(publish.topic, "a/b");
        assert_eq!(publish.qos, QoS::ExactlyOnce);
        assert_eq!(publish.packet_id, fields.packet_id);
        assert_eq!(publish.payload, payload);
        let expected = PublishProperties {
            payload_format: Some(PayloadFormat::Utf8),
            message_expiry_secs: Some(9),
            topic_alias: fields.topic_alias,
            response_topic: Some("re"),
            correlation_data: Some(&[0, 1]),
            content_type: Some("text/plain"),
            user: List::new(&[("k", "1"), ("k", "2")]),
            subscription_ids: List::new(&own),
        };
        assert_eq!(publish.properties, expected);
    }

    #[test]
    fn an_alias_stands_for_the_topic() {
        let mut fields = fields(Version::V5, QoS::AtMostOnce);
        assert!(head(&fields, [], "", 0, 0).is_err());
        fields.topic_alias = NonZeroU16::new(1);
        let bytes = whole(&fields, &[], "", b"", b"x");
        assert_eq!(bytes, b"\x30\x07\0\0\x03\x23\0\x01x");
        fields.version = Version::V311;
        assert!(head(&fields, [], "", 0, 0).is_err());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let plain = fields(Version::V5, QoS::AtMostOnce);
        assert_eq!(
            head(&plain, [], "a", 0, 268_435_455),
            Err(EncodeError::TooLarge)
        );
        assert!(head(&plain, [], "a", 0, 268_435_455 - 4).is_ok());
        assert_eq!(
            head(&plain, ids(&[268_435_456]), "a", 0, 0),
            Err(EncodeError::Invalid(
                "a subscription identifier is too large"
            ))
        );
        let dup = Fields { dup: true, ..plain };
        assert!(head(&dup, [], "a", 0, 0).is_err());
        let without_id = Fields {
            qos: QoS::AtLeastOnce,
            ..plain
        };
        assert!(head(&without_id, [], "a", 0, 0).is_err());
    }

    #[test]
    fn properties_that_mqtt_cannot_carry_are_left_out() {
        let long = "x".repeat(65_536);
        let shared = shared_properties(&message(Properties {
            content_type: Some("a\0b".into()),
            reply_to: Some("a/+".into()),
            correlation: Some(Bytes::from(vec![0; 65_536])),
            user: vec![
                ("a".into(), "\0".into()),
                (long.into(), "b".into()),
                ("c".into(), "line\nbreak".into()),
            ],
        }));
        let fields = fields(Version::V5, QoS::AtMostOnce);
        let bytes = whole(&fields, &[], "t", &shared, b"");
        let expected = PublishProperties {
            user: List::new(&[("c", "line\nbreak")]),
            ..PublishProperties::default()
        };
        assert_eq!(read(&bytes, Version::V5).properties, expected);
        assert!(shared_properties(&message(Properties::default())).is_empty());
    }

    #[test]
    fn a_bare_head_is_the_head_without_properties() {
        for version in [Version::V311, Version::V5] {
            for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                for payload in [0, 1, 121, 122, 127, 200, 16_380, 3_000_000] {
                    let fields = Fields {
                        retain: payload % 2 == 1,
                        dup: qos != QoS::AtMostOnce && payload > 127,
                        ..fields(version, qos)
                    };
                    let expected = head(&fields, [], "a/b", 0, payload).unwrap();
                    let flags = publish_flags(fields.dup, qos, fields.retain);
                    let bare = bare_head(version, flags, fields.packet_id, (3, payload)).unwrap();
                    assert_eq!(bare.before(), &expected.before[..]);
                    assert_eq!(bare.after(), &expected.after[..]);
                    assert_eq!(bare.packet_bytes, expected.packet_bytes);
                }
            }
        }
        assert!(bare_head(Version::V5, 0, None, (1, 268_435_455)).is_none());
    }
}
