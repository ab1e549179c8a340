//! PUBLISH from the client and what it is answered: PUBACK at QoS 1; PUBREC, PUBREL and PUBCOMP at
//! QoS 2 `[MQTT-4.3]`. Counts what is open against the receive maximum.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;

use super::{Client, Fault, protocol_error, reason};
use crate::connection::{
    Command, Output, Publish as Request, Refusal, RefusalCode, Token, parse_topic,
};
use crate::limits::Limits;
use crate::model::{Message, PayloadFormat, Properties, QoS, Timestamp, Topic};
use crate::mqtt::decode::PlainPublish;
use crate::mqtt::list::UserProperty;
use crate::mqtt::packet::Publish;
use crate::mqtt::properties::PublishProperties;
use crate::mqtt::{PacketId, PacketType, ReasonCode, Version};

/// The user property of a PUBLISH with the idempotency key. It is for the broker and does not travel
/// with the message.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Longest idempotency key in bytes; a longer one, or an empty one, is none.
const IDEMPOTENCY_KEY_BYTES: usize = 256;

/// Keeps acknowledgements in the order of the publishes `[MQTT-4.6.0-2]` `[MQTT-4.6.0-3]`: one that
/// needs no question to the broker waits for those that were asked before it. Bounded by the
/// receive maximum.
#[derive(Debug, Default)]
pub(super) struct AnswerOrder {
    asked: u32,
    answered: u32,
    #[expect(
        clippy::box_collection,
        reason = "it is rare, and idle connections are little else than their fields"
    )]
    held: Option<Box<VecDeque<Held>>>,
}

#[derive(Debug)]
struct Held {
    /// [`AnswerOrder::asked`] when it came.
    after: u32,
    open: Open,
    refusal: Refusal,
}

/// A publish that is to be answered.
#[derive(Clone, Copy, Debug)]
struct Open {
    packet_id: u16,
    qos: QoS,
}

impl Open {
    const QOS_2: u64 = 1 << 16;

    fn token(self) -> Token {
        let qos = if self.qos == QoS::ExactlyOnce {
            Self::QOS_2
        } else {
            0
        };
        Token(u64::from(self.packet_id) | qos)
    }

    fn from_token(token: Token) -> Self {
        let [.., high, low] = token.0.to_be_bytes();
        Self {
            packet_id: u16::from_be_bytes([high, low]),
            qos: if token.0 & Self::QOS_2 == 0 {
                QoS::AtLeastOnce
            } else {
                QoS::ExactlyOnce
            },
        }
    }
}

impl Client {
    pub(super) fn handle_publish(
        &mut self,
        packet: &Publish<'_>,
        frame: &[u8],
        now: Timestamp,
        out: &mut Output<'_>,
    ) -> Result<(), Fault> {
        self.check_announced(packet.qos, packet.retain)?;
        let open = match packet.packet_id {
            Some(packet_id) => Some(self.begin_publish(packet_id, packet.qos)?),
            None => None,
        };
        let (message, key) = match self.message(packet, frame, now)? {
            Ok(found) => found,
            Err(refusal) => return self.refuse_publish(open, refusal, out),
        };
        self.ask_to_publish(open, key, Arc::new(message), out);
        Ok(())
    }

    /// A PUBLISH to the topic before, without properties.
    #[inline]
    pub(super) fn handle_plain_publish(
        &mut self,
        topic: Topic,
        packet: &PlainPublish<'_>,
        out: &mut Output<'_>,
    ) -> Result<(), Fault> {
        self.check_announced(packet.qos, packet.retain)?;
        let open = match packet.packet_id {
            Some(packet_id) => Some(self.begin_publish(packet_id, packet.qos)?),
            None => None,
        };
        let payload = Bytes::copy_from_slice(packet.payload);
        let message = Arc::new(Message::new(topic, payload, packet.qos, packet.retain));
        self.ask_to_publish(open, None, message, out);
        Ok(())
    }

    #[inline]
    fn ask_to_publish(
        &mut self,
        open: Option<Open>,
        idempotency_key: Option<ByteString>,
        message: Arc<Message>,
        out: &mut Output<'_>,
    ) {
        if open.is_some() {
            self.order.asked = self.order.asked.wrapping_add(1);
        }
        out.commands.push(Command::Publish(Request {
            token: open.map(Open::token),
            exactly_once: open
                .filter(|open| open.qos == QoS::ExactlyOnce)
                .map(|open| open.packet_id),
            idempotency_key,
            message,
        }));
    }

    /// What CONNACK said is not there.
    #[inline]
    fn check_announced(&self, qos: QoS, retain: bool) -> Result<(), Fault> {
        if qos > self.limits.maximum_qos {
            // [MQTT-3.2.2-11]
            return Err(Fault::new(
                ReasonCode::QoSNotSupported,
                "the QoS is above the maximum QoS",
            ));
        }
        if retain && !self.limits.retain_available {
            // [MQTT-3.2.2-14]
            return Err(Fault::new(
                ReasonCode::RetainNotSupported,
                "retained messages are not available",
            ));
        }
        Ok(())
    }

    /// Counts a publish against the receive maximum `[MQTT-3.3.4-7]`.
    ///
    /// 3.1.1 cannot announce one: only what costs memory is bounded there, and the number of
    /// identifiers.
    fn begin_publish(&mut self, packet_id: PacketId, qos: QoS) -> Result<Open, Fault> {
        let again = qos == QoS::ExactlyOnce && self.open.holds(packet_id);
        let full = match self.version {
            Version::V5 => {
                let open = self.open.at_least_once() + self.open.exactly_once();
                open >= usize::from(self.limits.receive_maximum)
            }
            Version::V311 if qos == QoS::ExactlyOnce => {
                self.open.exactly_once() >= usize::from(self.limits.receive_maximum_v3)
            }
            Version::V311 => self.open.at_least_once() >= usize::from(u16::MAX),
        };
        if full && !again {
            return Err(Fault::new(
                ReasonCode::ReceiveMaximumExceeded,
                "more QoS 1 and 2 messages are open than the receive maximum",
            ));
        }
        match qos {
            QoS::ExactlyOnce => self.open.begin(packet_id),
            _ => self.open.begin_once(),
        }
        Ok(Open {
            packet_id: packet_id.get(),
            qos,
        })
    }

    /// The message of a PUBLISH and its idempotency key. The outer error ends the connection, the
    /// inner one only refuses the message.
    fn message(
        &mut self,
        packet: &Publish<'_>,
        frame: &[u8],
        now: Timestamp,
    ) -> Result<Result<(Message, Option<ByteString>), Refusal>, Fault> {
        // Without properties the payload has bytes of its own: cheaper than a share in a copy.
        let region = if packet.properties.is_empty() {
            Region::apart()
        } else {
            Region::new(frame, packet.topic)
        };
        let topic = match self.topic(packet, &region)? {
            Ok(topic) => topic,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let properties = &packet.properties;
        if let Err(refusal) = check_payload(properties.payload_format, packet.payload) {
            return Ok(Err(refusal));
        }
        let mut message = Message::new(
            topic,
            region.bytes(packet.payload),
            packet.qos,
            packet.retain,
        );
        message.payload_format = properties.payload_format;
        message.expires_at = properties
            .message_expiry_secs
            .map(|secs| now.plus_secs(secs));
        match carried(properties, &region, &self.limits) {
            Ok((properties, key)) => {
                message.properties = properties;
                Ok(Ok((message, key)))
            }
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    /// The topic by its name or its alias `[MQTT-3.3.2-12]`.
    fn topic(
        &mut self,
        packet: &Publish<'_>,
        region: &Region<'_>,
    ) -> Result<Result<Topic, Refusal>, Fault> {
        let alias = packet.properties.topic_alias;
        if alias.is_some_and(|alias| alias.get() > self.limits.topic_alias_maximum) {
            // [MQTT-3.3.2-9]
            return Err(Fault::new(
                ReasonCode::TopicAliasInvalid,
                "the topic alias is above the topic alias maximum",
            ));
        }
        if packet.topic.is_empty() {
            let known = self.aliases.as_ref().map(|aliases| &aliases.incoming);
            let known = known.zip(alias);
            return match known.and_then(|(known, alias)| known.topic(alias.get())) {
                Some(topic) => Ok(Ok(topic.clone())),
                None => Err(protocol_error("the topic alias was not set")),
            };
        }
        if alias.is_none()
            && let Some(topic) = self.last_topic.get(packet.topic)
        {
            return Ok(Ok(topic));
        }
        let is_kept = alias.is_some() || self.last_topic.is_again(packet.topic);
        // What outlives the message must not hold on to the payload.
        let text = if is_kept {
            ByteString::from(packet.topic)
        } else {
            region.text(packet.topic)
        };
        let topic = match parse_topic(text, &self.limits) {
            Ok(topic) => topic,
            Err(error) => {
                let refusal = Refusal::new(RefusalCode::TopicInvalid, error.to_string());
                return Ok(Err(refusal));
            }
        };
        match alias {
            Some(alias) => {
                let aliases = self.aliases.get_or_insert_default();
                aliases.incoming.set(alias.get(), topic.clone());
            }
            None if is_kept => self.last_topic.keep(&topic),
            None => {}
        }
        Ok(Ok(topic))
    }

    /// Refuses a publish without asking the broker. At QoS 0 and in 3.1.1 there is no answer that
    /// could say so: the connection ends.
    fn refuse_publish(
        &mut self,
        open: Option<Open>,
        refusal: Refusal,
        out: &mut Output<'_>,
    ) -> Result<(), Fault> {
        let Some(open) = open.filter(|_| self.version == Version::V5) else {
            return Err(Fault::new(reason::publish(refusal.code), refusal.detail));
        };
        out.commands.push(Command::Refused {
            reason: refusal.code.as_str(),
        });
        if self.order.answered == self.order.asked {
            self.answer_publish(open, Err(refusal), out);
            return Ok(());
        }
        // A repeated identifier counts once, so the receive maximum alone is no bound here.
        let held = self.order.held.get_or_insert_default();
        if held.len() >= usize::from(self.limits.receive_maximum) {
            return Err(Fault::new(
                ReasonCode::ReceiveMaximumExceeded,
                "too many refused messages wait for their answer",
            ));
        }
        held.push_back(Held {
            after: self.order.asked,
            open,
            refusal,
        });
        Ok(())
    }

    pub(super) fn handle_published(
        &mut self,
        token: Token,
        result: Result<u32, Refusal>,
        out: &mut Output<'_>,
    ) {
        self.order.answered = self.order.answered.wrapping_add(1);
        self.answer_publish(Open::from_token(token), result, out);
        self.release_held(out);
    }

    fn release_held(&mut self, out: &mut Output<'_>) {
        let Some(mut held) = self.order.held.take() else {
            return;
        };
        let answered = self.order.answered;
        while let Some(first) = held.pop_front_if(|held| held.after == answered) {
            self.answer_publish(first.open, Err(first.refusal), out);
        }
        if !held.is_empty() {
            self.order.held = Some(held);
        }
    }

    /// Writes PUBACK or PUBREC `[MQTT-4.3.2-4]` `[MQTT-4.3.3-8]`.
    fn answer_publish(&mut self, open: Open, result: Result<u32, Refusal>, out: &mut Output<'_>) {
        let (code, detail) = match result {
            Ok(0) => (ReasonCode::NoMatchingSubscribers, Cow::Borrowed("")),
            Ok(_) => (ReasonCode::Success, Cow::Borrowed("")),
            Err(refusal) if self.version == Version::V311 && reason::is_passing(refusal.code) => {
                // No answer: the client sends it again after the next CONNECT.
                return self.fail(
                    Fault {
                        code: reason::publish(refusal.code),
                        cause: reason::cause(refusal.code),
                        detail: refusal.detail,
                    },
                    out,
                );
            }
            Err(refusal) => (reason::publish(refusal.code), refusal.detail),
        };
        let kind = if open.qos == QoS::ExactlyOnce {
            PacketType::PubRec
        } else {
            self.open.end_once();
            PacketType::PubAck
        };
        // In 3.1.1 the client takes the refusal for a success and goes on with PUBREL.
        if kind == PacketType::PubRec && code.is_error() && self.version == Version::V5 {
            self.open.end(open.packet_id);
        }
        self.put_ack(kind, open.packet_id, code, &detail, out.outbox);
    }

    /// PUBCOMP: the identifier is free `[MQTT-4.3.3-11]`.
    pub(super) fn handle_released(&mut self, packet_id: u16, found: bool, out: &mut Output<'_>) {
        self.open.end(packet_id);
        let code = if found {
            ReasonCode::Success
        } else {
            ReasonCode::PacketIdentifierNotFound
        };
        self.put_ack(PacketType::PubComp, packet_id, code, "", out.outbox);
    }
}

/// The part of a packet that a message keeps, copied once: its texts and its body are slices of
/// the copy.
pub(super) struct Region<'a> {
    source: &'a [u8],
    copy: Bytes,
}

impl<'a> Region<'a> {
    /// Of a PUBLISH: from its topic to its end.
    fn new(frame: &'a [u8], topic: &str) -> Self {
        let start = offset(frame, topic.as_bytes()).unwrap_or(0);
        let source = frame.get(start..).unwrap_or_default();
        Self {
            source,
            copy: Bytes::copy_from_slice(source),
        }
    }

    /// Of a packet whose parts are copied one by one.
    pub(super) fn apart() -> Self {
        Self {
            source: &[],
            copy: Bytes::new(),
        }
    }

    pub(super) fn bytes(&self, part: &[u8]) -> Bytes {
        if part.is_empty() {
            return Bytes::new();
        }
        match offset(self.source, part) {
            Some(at) => self.copy.slice(at..at + part.len()),
            None => Bytes::copy_from_slice(part),
        }
    }

    pub(super) fn text(&self, part: &str) -> ByteString {
        if self.source.is_empty() {
            return part.into();
        }
        ByteString::try_from(self.bytes(part.as_bytes())).unwrap_or_else(|_| part.into())
    }
}

/// Where `part` lies within `whole`, if it does.
fn offset(whole: &[u8], part: &[u8]) -> Option<usize> {
    let at = part.as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
    (at + part.len() <= whole.len()).then_some(at)
}

/// `[MQTT-3.3.2.3.2]`: a payload that says it is UTF-8 is UTF-8.
pub(super) fn check_payload(format: Option<PayloadFormat>, payload: &[u8]) -> Result<(), Refusal> {
    if format == Some(PayloadFormat::Utf8) && simdutf8::basic::from_utf8(payload).is_err() {
        return Err(Refusal::new(
            RefusalCode::PayloadFormat,
            "the payload format indicator says UTF-8, the payload is not",
        ));
    }
    Ok(())
}

/// What travels with the message, and its idempotency key, which does not.
fn carried(
    properties: &PublishProperties<'_>,
    region: &Region<'_>,
    limits: &Limits,
) -> Result<(Option<Box<Properties>>, Option<ByteString>), Refusal> {
    if properties.is_empty() {
        return Ok((None, None));
    }
    let (user, key) = user_and_key(properties, region, limits)?;
    let carried = Properties {
        content_type: properties.content_type.map(|text| region.text(text)),
        reply_to: properties.response_topic.map(|text| region.text(text)),
        correlation: properties.correlation_data.map(|data| region.bytes(data)),
        user,
    };
    let properties = (!carried.is_empty()).then(|| Box::new(carried));
    Ok((properties, key))
}

type UserProperties = Vec<(ByteString, ByteString)>;

/// User properties without keys, and the first key: they are read in one go, which is most of what
/// they cost.
fn user_and_key(
    properties: &PublishProperties<'_>,
    region: &Region<'_>,
    limits: &Limits,
) -> Result<(UserProperties, Option<ByteString>), Refusal> {
    let mut left = properties.user.count();
    let mut user = Vec::new();
    let mut bytes = 0;
    let mut key = None;
    for (name, value) in &properties.user {
        if name == IDEMPOTENCY_KEY {
            key.get_or_insert(value);
        } else {
            bytes += name.len() + value.len();
            check_user_property(user.len(), bytes, limits)?;
            if user.is_empty() {
                user.reserve_exact(left.min(limits.user_properties));
            }
            user.push((region.text(name), region.text(value)));
        }
        left -= 1;
    }
    let key = key.filter(|key| (1..=IDEMPOTENCY_KEY_BYTES).contains(&key.len()));
    Ok((user, key.map(ByteString::from)))
}

/// User properties in their order, repeats kept `[MQTT-3.3.2-18]`, within the limits.
pub(super) fn user_properties<'a>(
    pairs: impl Iterator<Item = UserProperty<'a>> + Clone,
    region: &Region<'_>,
    limits: &Limits,
) -> Result<Vec<(ByteString, ByteString)>, Refusal> {
    check_user_properties(pairs.clone(), limits)?;
    Ok(pairs
        .map(|(name, value)| (region.text(name), region.text(value)))
        .collect())
}

/// Whether user properties are within the limits in number and size.
pub(super) fn check_user_properties<'a>(
    pairs: impl Iterator<Item = UserProperty<'a>>,
    limits: &Limits,
) -> Result<(), Refusal> {
    let mut bytes = 0;
    for (at, (name, value)) in pairs.enumerate() {
        bytes += name.len() + value.len();
        check_user_property(at, bytes, limits)?;
    }
    Ok(())
}

/// Whether one more than `at` may be there, and so many bytes of all.
fn check_user_property(at: usize, bytes: usize, limits: &Limits) -> Result<(), Refusal> {
    if at >= limits.user_properties || bytes > limits.user_property_bytes {
        return Err(Refusal::new(RefusalCode::Quota, "too many user properties"));
    }
    Ok(())
}
