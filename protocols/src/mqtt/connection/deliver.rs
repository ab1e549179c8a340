//! PUBLISH to the client.
//!
//! What all receivers have in common is encoded once and kept with the message: the whole packet
//! at QoS 0, the block of properties otherwise. The rest (packet identifier, subscription
//! identifiers, lifetime left, topic alias) is written around it. Large payloads are shared.

use std::num::NonZeroU16;

use bytes::Bytes;

use super::Client;
use super::alias::{Alias, AliasesOut};
use super::window::Sent;
use crate::connection::{Delivered, Delivery};
use crate::model::{Encoding, Message, QoS, Timestamp};
use crate::mqtt::encode::publish_flags;
use crate::mqtt::publish::{Fields, Head, SHARED_PROPERTIES, bare_head, head, shared_properties};
use crate::mqtt::{EncodeError, PacketId, Version};
use crate::outbox::{FrameType, Outbox, SHARE_BYTES};

/// A QoS 0 packet of 3.1.1, without its payload if that is large.
const PACKET_V311: Encoding = Encoding("mqtt 3.1.1 packet");
/// A QoS 0 packet of version 5 with no property of its receiver's own, likewise.
const PACKET_V5: Encoding = Encoding("mqtt 5 packet");

/// Bytes that a topic alias may add: the property and one more in each of the two lengths.
const ALIAS_BYTES: usize = 3 + 2;

impl Client {
    pub(super) fn write_publish(
        &mut self,
        delivery: &Delivery<'_>,
        now: Timestamp,
        outbox: &mut Outbox,
    ) -> Delivered {
        // Without a position there is nothing that could be acknowledged.
        let position = match delivery.qos {
            QoS::AtMostOnce => None,
            _ => delivery.position,
        };
        let Some(position) = position else {
            let is_plain = self.is_plain(delivery);
            if is_plain && !delivery.message.is_for_one() {
                return self.write_shared(delivery.message, delivery.retain, outbox);
            }
            if is_plain && self.is_bare(delivery.message) {
                return self.write_bare(None, delivery, outbox);
            }
            return self.write_own(&self.fields(delivery, now), delivery, outbox);
        };
        if self.is_plain(delivery) && self.is_bare(delivery.message) {
            let delivered = self.write_bare(Some(Sent::packet_id(position)), delivery, outbox);
            if delivered == Delivered::Written {
                self.sent.note(position);
            }
            return delivered;
        }
        let mut fields = self.fields(delivery, now);
        fields.qos = delivery.qos;
        // [MQTT-3.3.1-3]: this delivery's own, not the publisher's.
        fields.dup = delivery.attempts > 0;
        fields.packet_id = Some(Sent::packet_id(position));
        let delivered = self.write_own(&fields, delivery, outbox);
        if delivered == Delivered::Written {
            self.sent.note(position);
        }
        delivered
    }

    /// Whether nothing in the packet is this receiver's own, but for the retain flag.
    fn is_plain(&self, delivery: &Delivery<'_>) -> bool {
        self.version == Version::V311
            || (self.aliases_out().is_none()
                && delivery.message.expires_at.is_none()
                && delivery.matched.iter().all(|one| one.identifier.is_none()))
    }

    fn aliases_out(&self) -> Option<&AliasesOut> {
        self.aliases.as_ref()?.outgoing.as_ref()
    }

    /// Whether no properties travel with the message to this client.
    fn is_bare(&self, message: &Message) -> bool {
        self.version == Version::V311 || message.is_bare()
    }

    /// A packet with nothing but identifier, topic and payload.
    fn write_bare(
        &self,
        packet_id: Option<PacketId>,
        delivery: &Delivery<'_>,
        outbox: &mut Outbox,
    ) -> Delivered {
        let message = delivery.message;
        let topic = message.topic.as_str();
        let qos = match packet_id {
            Some(_) => delivery.qos,
            None => QoS::AtMostOnce,
        };
        // [MQTT-3.3.1-3]: this delivery's own, not the publisher's.
        let dup = packet_id.is_some() && delivery.attempts > 0;
        let flags = publish_flags(dup, qos, delivery.retain);
        let lengths = (topic.len(), message.payload.len());
        let Some(head) = bare_head(self.version, flags, packet_id, lengths) else {
            return Delivered::TooLarge;
        };
        // [MQTT-3.1.2-24] [MQTT-3.1.2-25]
        if head.packet_bytes > self.packet_bytes_max() {
            return Delivered::TooLarge;
        }
        let parts: [&[u8]; 3] = [head.before(), topic.as_bytes(), head.after()];
        // At QoS 0 in 3.1.1 nothing is between topic and payload.
        let parts = &parts[..2 + usize::from(!head.after().is_empty())];
        outbox.frame_of(message, FrameType::Binary, parts, &message.payload, &[]);
        Delivered::Written
    }

    /// What a QoS 0 packet has of its own.
    fn fields(&self, delivery: &Delivery<'_>, now: Timestamp) -> Fields {
        Fields {
            retain: delivery.retain,
            // [MQTT-3.3.2-6]
            message_expiry_secs: delivery.message.expires_in_secs(now),
            ..plain(self.version)
        }
    }

    /// A QoS 0 packet that is the same for all.
    fn write_shared(&self, message: &Message, retain: bool, outbox: &mut Outbox) -> Delivered {
        let encoding = match self.version {
            Version::V311 => PACKET_V311,
            Version::V5 => PACKET_V5,
        };
        let version = self.version;
        let encoded = message.encoded(encoding, |message| packet(message, version));
        let Some((first, rest)) = encoded.split_first() else {
            return Delivered::TooLarge;
        };
        let first = first | u8::from(retain);
        let apart = message.payload.len() >= SHARE_BYTES;
        let payload = if apart { message.payload.len() } else { 0 };
        // [MQTT-3.1.2-24] [MQTT-3.1.2-25]
        if encoded.len() + payload > self.packet_bytes_max() {
            return Delivered::TooLarge;
        }
        if apart {
            outbox.frame_of(
                message,
                FrameType::Binary,
                &[&[first], rest],
                &message.payload,
                &[],
            );
        } else if retain {
            outbox.frame(FrameType::Binary, &[&[first], rest]);
        } else {
            outbox.frame_of(message, FrameType::Binary, &[], encoded, &[]);
        }
        Delivered::Written
    }

    /// A packet for this client alone, with a topic alias if that helps.
    fn write_own(
        &mut self,
        fields: &Fields,
        delivery: &Delivery<'_>,
        outbox: &mut Outbox,
    ) -> Delivered {
        let topic = delivery.message.topic.as_str();
        let Ok(head) = self.head(fields, delivery, topic) else {
            return Delivered::TooLarge;
        };
        // A number is taken only if the packet is sure to be sent with it.
        let room = self.packet_bytes_max().saturating_sub(ALIAS_BYTES);
        let alias = match self
            .aliases
            .as_mut()
            .and_then(|held| held.outgoing.as_mut())
        {
            Some(aliases) if head.packet_bytes <= room => aliases.choose(&delivery.message.topic),
            _ => Alias::None,
        };
        let (topic, number) = match alias {
            Alias::None => return self.write_parts(&head, topic, delivery, outbox),
            Alias::New(number) => (topic, number),
            Alias::Known(number) => ("", number),
        };
        let fields = Fields {
            topic_alias: NonZeroU16::new(number),
            ..*fields
        };
        match self.head(&fields, delivery, topic) {
            Ok(head) => self.write_parts(&head, topic, delivery, outbox),
            Err(_) => Delivered::TooLarge,
        }
    }

    /// With the identifiers of all subscriptions that matched `[MQTT-3.3.4-4]`.
    fn head(
        &self,
        fields: &Fields,
        delivery: &Delivery<'_>,
        topic: &str,
    ) -> Result<Head, EncodeError> {
        let identifiers = delivery.matched.iter().filter_map(|one| one.identifier);
        let shared = self.shared(delivery.message).len();
        head(
            fields,
            identifiers,
            topic,
            shared,
            delivery.message.payload.len(),
        )
    }

    fn write_parts(
        &self,
        head: &Head,
        topic: &str,
        delivery: &Delivery<'_>,
        outbox: &mut Outbox,
    ) -> Delivered {
        // [MQTT-3.1.2-24] [MQTT-3.1.2-25]
        if head.packet_bytes > self.packet_bytes_max() {
            return Delivered::TooLarge;
        }
        let message = delivery.message;
        let shared = self.shared(message);
        let parts: [&[u8]; 4] = [&head.before, topic.as_bytes(), &head.after, shared];
        outbox.frame_of(message, FrameType::Binary, &parts, &message.payload, &[]);
        Delivered::Written
    }

    /// The message's own properties, which 3.1.1 does not have.
    fn shared<'a>(&self, message: &'a Message) -> &'a [u8] {
        if self.version == Version::V311 || message.is_bare() {
            return &[];
        }
        message.encoded(SHARED_PROPERTIES, shared_properties)
    }
}

const fn plain(version: Version) -> Fields {
    Fields {
        version,
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        packet_id: None,
        topic_alias: None,
        message_expiry_secs: None,
    }
}

/// A whole QoS 0 packet, but for a payload that is shared. Empty if MQTT has none of its size.
fn packet(message: &Message, version: Version) -> Bytes {
    let shared = match version {
        Version::V311 => Bytes::new(),
        Version::V5 => shared_properties(message),
    };
    let topic = message.topic.as_str();
    let length = message.payload.len();
    let Ok(head) = head(&plain(version), [], topic, shared.len(), length) else {
        return Bytes::new();
    };
    let payload = if length < SHARE_BYTES {
        &message.payload[..]
    } else {
        &[]
    };
    let parts: [&[u8]; 5] = [
        &head.before,
        topic.as_bytes(),
        &head.after,
        &shared,
        payload,
    ];
    parts.concat().into()
}
