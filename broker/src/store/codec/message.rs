//! Messages and their receivers.
//!
//! A message's body is what is stored once for all receivers:
//! `flags, topic, [publisher], [expires at], [properties], [source], [retained at], payload to the end`.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use protocols::connection::SubscriptionId;
use protocols::model::{Message, PayloadFormat, Properties, QoS, Timestamp, Topic};
use smallvec::SmallVec;

use super::super::{QueueId, Receiver};
use super::wire::{Malformed, Reader, put_bytes, put_len, put_optional, put_varint};

/// The two lowest bits of a message's and of a receiver's flags are the QoS.
const QOS: u8 = 0b11;
const RETAIN: u8 = 1 << 2;

const PUBLISHER: u8 = 1 << 3;
const EXPIRES: u8 = 1 << 4;
const PROPERTIES: u8 = 1 << 5;
const SOURCE: u8 = 1 << 6;
const RETAINED_AT: u8 = 1 << 7;

const CONTENT_TYPE: u8 = 1;
const REPLY_TO: u8 = 1 << 1;
const CORRELATION: u8 = 1 << 2;
const FORMAT_BYTES: u8 = 1 << 3;
const FORMAT_UTF8: u8 = 1 << 4;
const USER: u8 = 1 << 5;

const ATTEMPTS: u8 = 1 << 3;
const GROUP: u8 = 1 << 4;
const MATCHED_ONE: u8 = 1 << 5;
const MATCHED_MANY: u8 = 1 << 6;

/// The least that a receiver takes: owner, lane, position, flags.
const RECEIVER_LEAST: usize = 4;

/// Bytes that the body of a message will take, about: for reserving memory.
pub(super) fn body_estimate(message: &Message) -> usize {
    let properties = message.properties.as_ref().map_or(0, |p| p.size());
    let source = message.source.as_ref().map_or(0, |source| source.len());
    32 + message.topic.as_str().len() + message.payload.len() + properties + source
}

/// Writes a message's body with its length before it.
pub(super) fn put_body(out: &mut Vec<u8>, message: &Message) {
    let start = out.len();
    put_head(out, message);
    let head = out.len() - start;
    put_len(out, head + message.payload.len());
    let prefix = out.len() - start - head;
    // The length was written behind the head, since only then it is known.
    out[start..].rotate_right(prefix);
    out.extend_from_slice(&message.payload);
}

/// All of a body but the payload.
fn put_head(out: &mut Vec<u8>, message: &Message) {
    let mut flags = message.qos as u8;
    set(&mut flags, RETAIN, message.retain);
    set(&mut flags, PUBLISHER, message.publisher != 0);
    set(&mut flags, EXPIRES, message.expires_at.is_some());
    set(&mut flags, PROPERTIES, !message.is_bare());
    set(&mut flags, SOURCE, message.source.is_some());
    let retained_at = (message.retained_at.0 != 0).then_some(message.retained_at.0);
    set(&mut flags, RETAINED_AT, retained_at.is_some());
    out.push(flags);
    put_bytes(out, message.topic.as_str().as_bytes());
    put_optional(out, (message.publisher != 0).then_some(message.publisher));
    put_optional(out, message.expires_at.map(|at| at.0));
    if let Some(properties) = &message.properties {
        put_properties(out, message.payload_format, properties);
    } else if message.payload_format.is_some() {
        out.push(format_flag(message.payload_format));
    }
    if let Some(source) = &message.source {
        put_bytes(out, source.as_bytes());
    }
    put_optional(out, retained_at);
}

const fn format_flag(format: Option<PayloadFormat>) -> u8 {
    match format {
        None => 0,
        Some(PayloadFormat::Bytes) => FORMAT_BYTES,
        Some(PayloadFormat::Utf8) => FORMAT_UTF8,
    }
}

fn put_properties(out: &mut Vec<u8>, format: Option<PayloadFormat>, properties: &Properties) {
    let mut flags = format_flag(format);
    set(&mut flags, CONTENT_TYPE, properties.content_type.is_some());
    set(&mut flags, REPLY_TO, properties.reply_to.is_some());
    set(&mut flags, CORRELATION, properties.correlation.is_some());
    set(&mut flags, USER, !properties.user.is_empty());
    out.push(flags);
    if let Some(text) = &properties.content_type {
        put_bytes(out, text.as_bytes());
    }
    if let Some(text) = &properties.reply_to {
        put_bytes(out, text.as_bytes());
    }
    if let Some(bytes) = &properties.correlation {
        put_bytes(out, bytes);
    }
    if !properties.user.is_empty() {
        put_len(out, properties.user.len());
        for (name, value) in &properties.user {
            put_bytes(out, name.as_bytes());
            put_bytes(out, value.as_bytes());
        }
    }
}

/// A message's body, read through but not copied.
#[derive(Debug)]
pub(super) struct Body<'a> {
    reader: Reader<'a>,
    flags: u8,
    topic: &'a [u8],
    publisher: u64,
    /// When the message is of no more interest.
    pub(super) expires_at: Option<Timestamp>,
    payload_format: Option<PayloadFormat>,
    properties: Option<BodyProperties<'a>>,
    source: Option<&'a [u8]>,
    retained_at: Timestamp,
    payload: &'a [u8],
}

/// The properties in a body.
#[derive(Debug)]
struct BodyProperties<'a> {
    content_type: Option<&'a [u8]>,
    reply_to: Option<&'a [u8]>,
    correlation: Option<&'a [u8]>,
    /// A reader at the first of so many pairs.
    user: (Reader<'a>, usize),
    /// Bytes of all names and values.
    user_size: usize,
}

impl<'a> Body<'a> {
    /// Reads through a body. Texts are checked only when they are asked for.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new("a message", bytes);
        let known = QOS | RETAIN | PUBLISHER | EXPIRES | PROPERTIES | SOURCE | RETAINED_AT;
        let flags = reader.flags(known)?;
        let topic = reader.bytes()?;
        let publisher = reader.optional(flags & PUBLISHER != 0)?.unwrap_or(0);
        let expires_at = reader.optional(flags & EXPIRES != 0)?.map(Timestamp);
        let (payload_format, properties) = if flags & PROPERTIES == 0 {
            (None, None)
        } else {
            BodyProperties::parse(&mut reader)?
        };
        let source = (flags & SOURCE != 0).then(|| reader.bytes()).transpose()?;
        let retained_at = reader.optional(flags & RETAINED_AT != 0)?.unwrap_or(0);
        let payload = reader.rest();
        Ok(Self {
            reader,
            flags,
            topic,
            publisher,
            expires_at,
            payload_format,
            properties,
            source,
            retained_at: Timestamp(retained_at),
            payload,
        })
    }

    /// What [`Message::size`] says of the message.
    pub(super) fn size(&self) -> usize {
        let properties = self.properties.as_ref().map_or(0, BodyProperties::size);
        let source = self.source.map_or(0, <[u8]>::len);
        size_of::<Message>() + self.topic.len() + self.payload.len() + properties + source
    }

    /// The text of its topic.
    pub(super) fn topic(&self) -> Result<&'a str, Malformed> {
        self.reader.utf8(self.topic)
    }

    /// The message, which shares nothing with the bytes that it was read from.
    pub(super) fn message(&self) -> Result<Message, Malformed> {
        let topic = parse_topic(&self.reader, self.topic()?)?;
        let qos = qos(&self.reader, self.flags)?;
        let payload = Bytes::copy_from_slice(self.payload);
        let mut message = Message::new(topic, payload, qos, self.flags & RETAIN != 0);
        message.publisher = self.publisher;
        message.expires_at = self.expires_at;
        message.retained_at = self.retained_at;
        message.payload_format = self.payload_format;
        message.source = self
            .source
            .map(|source| self.reader.utf8(source).map(Arc::from))
            .transpose()?;
        message.properties = self
            .properties
            .as_ref()
            .map(|properties| properties.properties(&self.reader).map(Box::new))
            .transpose()?;
        Ok(message)
    }
}

impl<'a> BodyProperties<'a> {
    /// The payload format, and the properties if there are any beside it.
    fn parse(reader: &mut Reader<'a>) -> Result<(Option<PayloadFormat>, Option<Self>), Malformed> {
        let known = CONTENT_TYPE | REPLY_TO | CORRELATION | FORMAT_BYTES | FORMAT_UTF8 | USER;
        let flags = reader.flags(known)?;
        let mut field = |flag| (flags & flag != 0).then(|| reader.bytes()).transpose();
        let content_type = field(CONTENT_TYPE)?;
        let reply_to = field(REPLY_TO)?;
        let correlation = field(CORRELATION)?;
        let payload_format = match (flags & FORMAT_BYTES != 0, flags & FORMAT_UTF8 != 0) {
            (false, false) => None,
            (true, false) => Some(PayloadFormat::Bytes),
            (false, true) => Some(PayloadFormat::Utf8),
            (true, true) => return Err(reader.malformed("two payload formats")),
        };
        if payload_format.is_some() && flags & !(FORMAT_BYTES | FORMAT_UTF8) == 0 {
            return Ok((payload_format, None));
        }
        let pairs = if flags & USER == 0 {
            0
        } else {
            reader.count(2)?
        };
        let user = (reader.clone(), pairs);
        let mut user_size = 0;
        for _ in 0..pairs {
            user_size += reader.bytes()?.len() + reader.bytes()?.len();
        }
        let properties = Self {
            content_type,
            reply_to,
            correlation,
            user,
            user_size,
        };
        Ok((payload_format, Some(properties)))
    }

    fn size(&self) -> usize {
        let fields = [self.content_type, self.reply_to, self.correlation];
        let fields: usize = fields.iter().flatten().map(|bytes| bytes.len()).sum();
        size_of::<Properties>() + fields + self.user_size
    }

    fn properties(&self, reader: &Reader<'a>) -> Result<Properties, Malformed> {
        let text = |bytes| reader.utf8(bytes).map(ByteString::from);
        let (mut pairs, count) = self.user.clone();
        let mut user = Vec::with_capacity(count);
        for _ in 0..count {
            user.push((pairs.text()?, pairs.text()?));
        }
        Ok(Properties {
            content_type: self.content_type.map(text).transpose()?,
            reply_to: self.reply_to.map(text).transpose()?,
            correlation: self.correlation.map(Bytes::copy_from_slice),
            user,
        })
    }
}

/// Writes a list of receivers.
pub(in crate::store) fn put_receivers(out: &mut Vec<u8>, receivers: &[Receiver]) {
    put_len(out, receivers.len());
    for receiver in receivers {
        put_receiver(out, receiver);
    }
}

/// Reads a list of receivers.
pub(in crate::store) fn receivers(reader: &mut Reader<'_>) -> Result<Vec<Receiver>, Malformed> {
    let count = reader.count(RECEIVER_LEAST)?;
    let mut receivers = Vec::with_capacity(count);
    for _ in 0..count {
        receivers.push(receiver(reader)?);
    }
    Ok(receivers)
}

/// Writes a receiver.
pub(super) fn put_receiver(out: &mut Vec<u8>, receiver: &Receiver) {
    put_queue(out, receiver.queue);
    put_varint(out, receiver.position);
    let mut flags = receiver.qos as u8;
    set(&mut flags, RETAIN, receiver.retain);
    set(&mut flags, ATTEMPTS, receiver.attempts != 0);
    set(&mut flags, GROUP, receiver.group.is_some());
    set(&mut flags, MATCHED_ONE, receiver.matched.len() == 1);
    set(&mut flags, MATCHED_MANY, receiver.matched.len() > 1);
    out.push(flags);
    let attempts = u64::from(receiver.attempts);
    put_optional(out, (attempts != 0).then_some(attempts));
    if let Some((number, position)) = receiver.group {
        put_varint(out, number);
        put_varint(out, position);
    }
    if receiver.matched.len() > 1 {
        put_len(out, receiver.matched.len());
    }
    for id in &receiver.matched {
        put_varint(out, u64::from(id.0));
    }
}

/// Reads a receiver.
pub(super) fn receiver(reader: &mut Reader<'_>) -> Result<Receiver, Malformed> {
    let queue = queue(reader)?;
    let position = reader.varint()?;
    let flags = reader.flags(QOS | RETAIN | ATTEMPTS | GROUP | MATCHED_ONE | MATCHED_MANY)?;
    let attempts = match flags & ATTEMPTS {
        0 => 0,
        _ => reader.varint_u32()?,
    };
    let group = match flags & GROUP {
        0 => None,
        _ => Some((reader.varint()?, reader.varint()?)),
    };
    let matched = match flags & (MATCHED_ONE | MATCHED_MANY) {
        0 => 0,
        MATCHED_ONE => 1,
        MATCHED_MANY => reader.count(1)?,
        _ => return Err(reader.malformed("one subscription and many")),
    };
    Ok(Receiver {
        queue,
        position,
        qos: qos(reader, flags)?,
        retain: flags & RETAIN != 0,
        attempts,
        matched: (0..matched)
            .map(|_| reader.varint_u32().map(SubscriptionId))
            .collect::<Result<SmallVec<_>, _>>()?,
        group,
    })
}

/// Writes the name of a queue.
pub(super) fn put_queue(out: &mut Vec<u8>, queue: QueueId) {
    put_varint(out, queue.owner);
    put_varint(out, u64::from(queue.lane));
}

/// Reads the name of a queue.
pub(super) fn queue(reader: &mut Reader<'_>) -> Result<QueueId, Malformed> {
    Ok(QueueId {
        owner: reader.varint()?,
        lane: reader.varint_u32()?,
    })
}

/// Sets a flag if its condition holds.
pub(super) fn set(flags: &mut u8, flag: u8, condition: bool) {
    if condition {
        *flags |= flag;
    }
}

/// The level in the two lowest bits.
pub(super) fn qos(reader: &Reader<'_>, bits: u8) -> Result<QoS, Malformed> {
    QoS::from_u8(bits & QOS).ok_or_else(|| reader.malformed("an unknown QoS"))
}

/// A topic as the model takes it, without the limits of a connection: what was accepted once is
/// not refused because a setting changed.
pub(super) fn parse_topic(reader: &Reader<'_>, text: &str) -> Result<Topic, Malformed> {
    Topic::parse(text.into(), usize::MAX, usize::MAX)
        .map_err(|_| reader.malformed("a text that is no topic"))
}
