//! SEND to [`Message`], and that to the part of a MESSAGE that all its receivers share.
//!
//! Headers with a meaning of their own become fields of the message; all others are user
//! properties, repeats kept, in order. A user property whose name has a meaning in STOMP is
//! written with `user-` before it, so that it cannot pass for what the broker says; a SEND with
//! that prefix means the property again. A property without a name, which STOMP cannot write, is
//! `user-` alone.

use std::borrow::Cow;
use std::cell::OnceCell;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use bytestring::ByteString;

use super::Version;
use super::destination::{self, Style};
use super::encode::{put_content_length, put_header, put_number};
use super::frame::{Buffer, Escaping, Frame, buffer};
use crate::model::{Encoding, Message, Properties, QoS};
use crate::outbox::FrameType;

/// Headers of SEND that say something to the broker and are not user properties.
fn is_consumed(name: &str) -> bool {
    matches!(
        name,
        "destination"
            | "content-type"
            | "content-length"
            | "transaction"
            | "receipt"
            | "correlation-id"
            | "reply-to"
            | "expires"
            | "retain"
            | "qos"
            | "persistent"
            | "idempotency-key"
    )
}

/// Other headers of MESSAGE that only the broker writes.
fn is_written(name: &str) -> bool {
    matches!(
        name,
        "message-id"
            | "subscription"
            | "ack"
            | "retained"
            | "redelivered"
            | "delivery-count"
            | "receipt-id"
    )
}

/// Stands before a user property's name that has a meaning in STOMP.
const USER: &str = "user-";

/// Stands before a correlation that is not text.
const BASE64_PREFIX: &str = "base64:";

fn is_reserved(name: &str) -> bool {
    name.is_empty() || is_consumed(name) || is_written(name)
}

/// Whether a name needs the prefix, or has it: `content-type`, `user-content-type`, …
fn is_reserved_or_prefixed(mut name: &str) -> bool {
    while let Some(rest) = name.strip_prefix(USER) {
        name = rest;
    }
    is_reserved(name)
}

/// A frame's bytes, copied once and only if a string of it is kept; all strings of its message are
/// slices of them.
pub(super) struct Copied<'a> {
    raw: &'a [u8],
    bytes: OnceCell<Bytes>,
}

impl<'a> Copied<'a> {
    pub(super) fn new(frame: &Frame<'a>) -> Self {
        Self {
            raw: frame.raw(),
            bytes: OnceCell::new(),
        }
    }

    fn slice(&self, part: &[u8]) -> Bytes {
        let start = (part.as_ptr() as usize).checked_sub(self.raw.as_ptr() as usize);
        match start {
            Some(start) if start + part.len() <= self.raw.len() => {
                let bytes = self.bytes.get_or_init(|| Bytes::copy_from_slice(self.raw));
                bytes.slice(start..start + part.len())
            }
            _ => Bytes::copy_from_slice(part),
        }
    }

    pub(super) fn text(&self, text: Cow<'_, str>) -> ByteString {
        match text {
            Cow::Borrowed(text) => {
                ByteString::try_from(self.slice(text.as_bytes())).unwrap_or_default()
            }
            Cow::Owned(text) => text.into(),
        }
    }

    /// To be asked for last, since it is copied alone if no string is kept.
    pub(super) fn body(&self, frame: &Frame<'a>) -> Bytes {
        match self.bytes.get() {
            Some(_) => self.slice(frame.body()),
            None => Bytes::copy_from_slice(frame.body()),
        }
    }
}

/// Whether a header of SEND becomes a property of its message, or may.
pub(super) fn is_property(name: &str) -> bool {
    !is_consumed(name) || matches!(name, "content-type" | "correlation-id" | "reply-to")
}

/// The user properties of a SEND.
pub(super) fn user_properties(
    frame: &Frame<'_>,
    copied: &Copied<'_>,
) -> Vec<(ByteString, ByteString)> {
    frame
        .headers()
        .filter(|(name, _)| !is_consumed(name))
        .map(|(name, value)| (copied.text(without_prefix(name)), copied.text(value)))
        .collect()
}

fn without_prefix(name: Cow<'_, str>) -> Cow<'_, str> {
    let shortened = |name: &str| {
        name.strip_prefix(USER)
            .filter(|rest| is_reserved_or_prefixed(rest))
            .map(str::len)
    };
    match (shortened(&name), name) {
        (None, name) => name,
        (Some(length), Cow::Borrowed(name)) => Cow::Borrowed(&name[name.len() - length..]),
        (Some(length), Cow::Owned(name)) => Cow::Owned(name[name.len() - length..].to_owned()),
    }
}

/// The correlation that a `correlation-id` stands for. Text is itself; bytes that are not text
/// are written `base64:…`, so that a client that gives back what it got gives back the bytes.
pub(super) fn correlation(value: ByteString) -> Bytes {
    match value.strip_prefix(BASE64_PREFIX) {
        Some(coded) => match BASE64.decode(coded) {
            Ok(bytes) => bytes.into(),
            Err(_) => value.into_bytes(),
        },
        None => value.into_bytes(),
    }
}

fn correlation_text(correlation: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(correlation) {
        // Text that would read as coded is coded itself.
        Ok(text) if !text.starts_with(BASE64_PREFIX) && !text.contains('\0') => text.into(),
        _ => format!("{BASE64_PREFIX}{}", BASE64.encode(correlation)).into(),
    }
}

/// What all receivers of one version share: the headers that follow the destination, and the
/// blank line. The body and its NUL come behind it.
pub(super) struct Tail<'a> {
    /// Whether the frame is UTF-8, its body included.
    pub(super) kind: FrameType,
    /// The bytes.
    pub(super) bytes: &'a [u8],
}

/// First byte of an encoded tail that says whether the body is UTF-8.
const TEXT: u8 = b'T';
const BINARY: u8 = b'B';

/// The shared part of a MESSAGE, made once for each version.
pub(super) fn tail(message: &Message, version: Version) -> Tail<'_> {
    let encoding = match version {
        Version::V1_0 => Encoding("stomp/1.0"),
        Version::V1_1 => Encoding("stomp/1.1"),
        Version::V1_2 => Encoding("stomp/1.2"),
    };
    let escaping = Escaping::of("MESSAGE", Some(version));
    match &message.encoded(encoding, |message| encode_tail(message, escaping))[..] {
        [TEXT, bytes @ ..] => Tail {
            kind: FrameType::Text,
            bytes,
        },
        other => Tail {
            kind: FrameType::Binary,
            bytes: other.get(1..).unwrap_or_default(),
        },
    }
}

fn encode_tail(message: &Message, escaping: Escaping) -> Bytes {
    let mut buffer = buffer();
    buffer.push(match kind(message) {
        FrameType::Text => TEXT,
        FrameType::Binary => BINARY,
    });
    put_tail(message, escaping, &mut buffer);
    Bytes::copy_from_slice(&buffer)
}

/// Whether a MESSAGE of it is UTF-8, its body included.
pub(super) fn kind(message: &Message) -> FrameType {
    match simdutf8::basic::from_utf8(&message.payload) {
        Ok(_) => FrameType::Text,
        Err(_) => FrameType::Binary,
    }
}

/// Writes what [`tail`] gives, for a message that only one client receives.
pub(super) fn put_tail(message: &Message, escaping: Escaping, buffer: &mut Buffer) {
    if let Some(properties) = &message.properties {
        put_properties(properties, escaping, buffer);
    }
    if let Some(at) = message.expires_at {
        buffer.extend_from_slice(b"expires:");
        put_number(buffer, at.0);
        buffer.push(b'\n');
    }
    if message.qos > QoS::AtMostOnce {
        buffer.extend_from_slice(b"persistent:true\n");
    }
    put_user(message, escaping, buffer);
    put_content_length(buffer, message.payload.len());
}

fn put_properties(properties: &Properties, escaping: Escaping, buffer: &mut Buffer) {
    if let Some(content_type) = &properties.content_type {
        put_header(buffer, escaping, "content-type", content_type);
    }
    if let Some(correlation) = &properties.correlation {
        let text = correlation_text(correlation);
        put_header(buffer, escaping, "correlation-id", &text);
    }
    if let Some(reply_to) = &properties.reply_to {
        buffer.extend_from_slice(b"reply-to:");
        destination::put(reply_to, Style::Prefixed, escaping, buffer);
        buffer.push(b'\n');
    }
}

fn put_user(message: &Message, escaping: Escaping, buffer: &mut Buffer) {
    let user = message.properties.iter().flat_map(|all| &all.user);
    for (name, value) in user {
        // The name as it will be read is what must not be reserved.
        let mut written = Buffer::with_capacity(name.len());
        escaping.put_name(name, &mut written);
        let reserved = std::str::from_utf8(&written).is_ok_and(is_reserved_or_prefixed);
        if reserved {
            buffer.extend_from_slice(USER.as_bytes());
        }
        buffer.extend_from_slice(&written);
        buffer.push(b':');
        escaping.put_value(value, buffer);
        buffer.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Timestamp, Topic};

    fn message(properties: Properties, payload: &'static [u8]) -> Message {
        let topic = Topic::parse("a/b".into(), 64, 8).unwrap();
        let mut message = Message::new(topic, Bytes::from_static(payload), QoS::AtMostOnce, false);
        message.properties = Some(Box::new(properties));
        message
    }

    fn text(message: &Message, version: Version) -> String {
        String::from_utf8(tail(message, version).bytes.to_vec()).unwrap()
    }

    #[test]
    fn properties_become_headers() {
        let mut message = message(
            Properties {
                content_type: Some("text/plain".into()),
                reply_to: Some("$queue/temp/c1/x".into()),
                correlation: Some(Bytes::from_static(b"7")),
                user: vec![("k".into(), "1".into()), ("k".into(), "2".into())],
            },
            b"hi",
        );
        message.expires_at = Some(Timestamp(5000));
        message.qos = QoS::AtLeastOnce;
        assert_eq!(
            text(&message, Version::V1_2),
            "content-type:text/plain\ncorrelation-id:7\nreply-to:/queue/temp/c1/x\nexpires:5000\n\
             persistent:true\nk:1\nk:2\ncontent-length:2\n\n"
        );
    }

    #[test]
    fn no_property_passes_for_the_brokers_word() {
        let user = vec![
            ("redelivered".into(), "true".into()),
            ("user-ack".into(), "1".into()),
            ("user-agent".into(), "x".into()),
            (ByteString::new(), "nameless".into()),
            ("a\nsubscription".into(), "1\n\nbody\0".into()),
        ];
        let properties = Properties {
            user,
            ..Properties::default()
        };
        let message = message(properties, b"");
        assert_eq!(
            text(&message, Version::V1_2),
            "user-redelivered:true\nuser-user-ack:1\nuser-agent:x\nuser-:nameless\na\\nsubscription:1\\n\\nbody \n\
             content-length:0\n\n"
        );
        assert_eq!(
            text(&message, Version::V1_0),
            "user-redelivered:true\nuser-user-ack:1\nuser-agent:x\nuser-:nameless\na_subscription:1  body \n\
             content-length:0\n\n"
        );
    }

    #[test]
    fn prefixed_names_are_the_properties_again() {
        for (header, property) in [
            ("user-redelivered", "redelivered"),
            ("user-user-ack", "user-ack"),
            ("user-agent", "user-agent"),
            ("user-", ""),
            ("user-user-", "user-"),
            ("ack", "ack"),
        ] {
            assert_eq!(without_prefix(Cow::Borrowed(header)), property);
            assert_eq!(without_prefix(Cow::Owned(header.to_owned())), property);
        }
    }

    #[test]
    fn any_correlation_comes_back() {
        for bytes in [&b"text"[..], b"\xff\x00", b"base64:AAAA", b"", b"a\0b"] {
            let text = correlation_text(bytes).into_owned();
            assert_eq!(correlation(text.into()), bytes);
        }
        assert_eq!(correlation("base64:?".into()), "base64:?");
    }

    #[test]
    fn the_kind_follows_the_body() {
        let properties = Properties::default();
        let text = message(properties.clone(), "hé".as_bytes());
        assert_eq!(tail(&text, Version::V1_1).kind, FrameType::Text);
        let binary = message(properties, b"\xff");
        assert_eq!(tail(&binary, Version::V1_1).kind, FrameType::Binary);
    }
}
