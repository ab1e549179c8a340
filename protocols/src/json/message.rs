//! The `message` frame.
//!
//! It is a short head for one receiver in front of a body for all: the body is written once per
//! message and shared.

use std::borrow::Cow;
use std::fmt::Write as _;

use bytes::Bytes;

use super::content::{Content, Data};
use super::frame::push_position;
use super::scan;
use super::write::{self, Object};
use crate::connection::{Delivery, topics};
use crate::model::{Encoding, Message, Properties, QoS, Timestamp};
use crate::outbox::{FrameType, Outbox, SHARE_BYTES};

/// Names the body among a message's encodings.
pub(super) const ENCODING: Encoding = Encoding("json");

/// The start of every `message` frame.
pub(super) const HEAD: &str = "{\"type\":\"message\",";

/// The content type of a payload that is a JSON value.
pub(super) const APPLICATION_JSON: &str = "application/json";

/// A JSON payload that is nested more deeply travels as text: readers have limits of their own.
const PAYLOAD_DEPTH: usize = 100;

/// Whether the frame for this receiver is [`HEAD`] and the body.
pub(super) fn is_plain(delivery: &Delivery<'_>) -> bool {
    delivery.position.is_none()
        && !delivery.retain
        && delivery.attempts == 0
        && delivery.message.expires_at.is_none()
}

/// What only this receiver gets to read, in front of the body.
pub(crate) fn head(delivery: &Delivery<'_>, now: Timestamp) -> String {
    let mut head = String::with_capacity(128);
    head.push_str(HEAD);
    // Writing into a string does not fail.
    if let Some(position) = delivery.position.filter(|_| delivery.qos > QoS::AtMostOnce) {
        head.push_str("\"qos\":1,\"ackId\":");
        push_position(&mut head, position);
        head.push(',');
    }
    if delivery.retain {
        head.push_str("\"retained\":true,");
    }
    if delivery.attempts > 0 {
        let count = u64::from(delivery.attempts) + 1;
        let _ = write!(head, "\"redelivered\":true,\"deliveryCount\":{count},");
    }
    if let Some(secs) = delivery.message.expires_in_secs(now) {
        let _ = write!(head, "\"expiresIn\":{secs},");
    }
    head
}

/// Puts a message frame with this head. What only one receiver gets is written where it is to go,
/// unless it is so long that it is shared.
pub(super) fn put(message: &Message, head: &[u8], outbox: &mut Outbox) {
    if !message.is_for_one() {
        let body = message.encoded(ENCODING, body);
        outbox.frame_of(message, FrameType::Text, &[head], body, b"");
    } else if message.payload.len() < SHARE_BYTES
        && let Some([name, topic, before, payload, after]) = plain_parts(message)
    {
        let parts = [head, name, topic, before, payload, after];
        outbox.frame(FrameType::Text, &parts);
    } else {
        outbox.frame_of(message, FrameType::Text, &[head], &body(message), b"");
    }
}

/// What all receivers read, up to the frame's end.
pub(crate) fn body(message: &Message) -> Bytes {
    let topic = message.topic.as_str();
    let mut object = Object::rest(topic.len() + message.payload.len() + 64);
    object.string("topic", topic);
    mark(&mut object, topic);
    content(message).write(&mut object);
    object.end().into()
}

/// The parts of [`body`] in order, for a message in which nothing is to be escaped and that has
/// nothing but a text or JSON: nothing has to be written before it is put into an outbox.
fn plain_parts(message: &Message) -> Option<[&[u8]; 5]> {
    let topic = message.topic.as_str();
    let content_type = match message.properties.as_deref() {
        None => None,
        Some(Properties {
            content_type,
            reply_to: None,
            correlation: None,
            user,
        }) if user.is_empty() => content_type.as_deref(),
        Some(_) => return None,
    };
    // What begins with `$` may have a mark.
    if topic.starts_with('$') || !write::is_plain(topic) {
        return None;
    }
    let (before, payload, after) = match (content_type, data(&message.payload, content_type)) {
        (None, Data::Text(Cow::Borrowed(text))) if write::is_plain(text) => (TEXT, text, "\"}"),
        (Some(APPLICATION_JSON), Data::Json(Cow::Borrowed(json))) => (JSON, json, JSON_END),
        _ => return None,
    };
    Some(["\"topic\":\"", topic, before, payload, after].map(str::as_bytes))
}

const TEXT: &str = "\",\"dataType\":\"text\",\"data\":\"";
const JSON: &str = "\",\"dataType\":\"json\",\"data\":";
const JSON_END: &str = ",\"contentType\":\"application/json\"}";

/// Says in a field of its own what the topic means: a group, a user, everyone.
fn mark(object: &mut Object, topic: &str) {
    if topic == topics::BROADCAST {
        object.flag("broadcast", true);
    } else if let Some(group) = topic.strip_prefix(topics::GROUP) {
        if !group.contains('/') {
            object.string("group", group);
        }
    } else if let Some(rest) = topic.strip_prefix(topics::USER) {
        let user = rest.split_once('/').map_or(rest, |(user, _)| user);
        object.string("user", user);
    }
}

fn content(message: &Message) -> Content<'_> {
    let properties = message.properties.as_deref();
    let content_type = properties.and_then(|properties| properties.content_type.as_deref());
    let mut content = Content::from(data(&message.payload, content_type));
    if let Some(properties) = properties {
        content.content_type = content_type.map(Cow::Borrowed);
        content.correlation = properties.correlation.as_deref().map(Cow::Borrowed);
        content.reply_to = properties.reply_to.as_deref().map(Cow::Borrowed);
        content.headers = properties
            .user
            .iter()
            .map(|(name, value)| (Cow::Borrowed(&**name), Cow::Borrowed(&**value)))
            .collect();
    }
    content
}

/// The payload as its content type and its bytes say: JSON only if it is declared and is JSON,
/// bytes if they are declared or are not UTF-8, otherwise text.
fn data<'a>(payload: &'a [u8], content_type: Option<&str>) -> Data<'a> {
    let media_type = content_type
        .and_then(|text| text.split(';').next())
        .unwrap_or_default()
        .trim();
    if media_type.eq_ignore_ascii_case("application/octet-stream") {
        return Data::Binary(Cow::Borrowed(payload));
    }
    let Ok(text) = simdutf8::basic::from_utf8(payload) else {
        return Data::Binary(Cow::Borrowed(payload));
    };
    if is_json(media_type)
        && let Ok(value) = scan::value(text, PAYLOAD_DEPTH)
    {
        return Data::Json(Cow::Borrowed(value.raw));
    }
    Data::Text(Cow::Borrowed(text))
}

fn is_json(media_type: &str) -> bool {
    let ends_in_json = media_type
        .len()
        .checked_sub("+json".len())
        .and_then(|at| media_type.get(at..))
        .is_some_and(|end| end.eq_ignore_ascii_case("+json"));
    ends_in_json || media_type.eq_ignore_ascii_case(APPLICATION_JSON)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::connection::WebSocketUse;
    use crate::model::Topic;

    fn written(message: &Message) -> Vec<u8> {
        let mut outbox = Outbox::web_socket(WebSocketUse::TextMessages);
        put(message, HEAD.as_bytes(), &mut outbox);
        outbox.take().into_iter().flatten().collect()
    }

    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-z/]{0,40}",
            ".{0,20}",
            "[ab\"\\\\\u{7f}\u{2028}€\n]{0,20}"
        ]
    }

    fn payload() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            text().prop_map(String::into_bytes),
            any::<i32>().prop_map(|number| format!(" {{\"a\":[{number}]}} ").into_bytes()),
            proptest::collection::vec(any::<u8>(), 0..20),
            Just(vec![b'x'; SHARE_BYTES]),
        ]
    }

    fn content_type() -> impl Strategy<Value = Option<&'static str>> {
        proptest::sample::select(&[
            None,
            Some(APPLICATION_JSON),
            Some("Application/JSON"),
            Some("application/octet-stream"),
            Some("text/plain"),
        ])
    }

    proptest! {
        #[test]
        fn one_receiver_reads_what_many_read(
            topic in text().prop_filter_map("a topic", |text| Topic::parse(text.into(), 200, 50).ok()),
            payload in payload(), content_type in content_type(), reply: bool,
        ) {
            let mut message = Message::new(topic, payload.into(), QoS::AtMostOnce, false);
            message.properties = content_type.map(|text| Box::new(Properties {
                content_type: Some(text.into()),
                reply_to: reply.then(|| "r".into()),
                ..Properties::default()
            }));
            let alone = message.copy();
            alone.set_for_one();
            prop_assert_eq!(written(&alone), written(&message));
        }
    }

    #[test]
    fn nothing_is_written_twice_for_one_receiver() {
        let topic = Topic::parse("a/b".into(), 64, 8).unwrap();
        let mut message = Message::new(topic, "x".into(), QoS::AtMostOnce, false);
        assert!(plain_parts(&message).is_some());
        message.payload = "\"".into();
        assert!(plain_parts(&message).is_none());
        message.payload = "[1]".into();
        message.properties = Some(Box::new(Properties {
            content_type: Some(APPLICATION_JSON.into()),
            ..Properties::default()
        }));
        assert!(plain_parts(&message).is_some());
        message.topic = Topic::parse("$group/g".into(), 64, 8).unwrap();
        assert!(plain_parts(&message).is_none());
    }
}
