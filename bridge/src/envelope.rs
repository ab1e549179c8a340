//! Envelopes: what services wrap around a message on its way into a queue.
//!
//! Unwrapping gives the inner content as the body, and the envelope's fields as attributes (what
//! the sender said) or `meta` (what the service says). `auto` looks at the body; whatever is not
//! an envelope stays as it is.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::event::Event;

/// Envelopes within envelopes that are opened: SNS around EventBridge is two.
const MAX_DEPTH: usize = 3;

/// Which envelope a source's bodies have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Envelope {
    /// None: the body is the message.
    Raw,
    /// Amazon SNS without raw delivery.
    Sns,
    /// An EventBridge rule's target.
    EventBridge,
    /// An S3 notification.
    S3,
    /// Whatever the body shows.
    #[default]
    Auto,
}

/// What came out.
#[allow(
    clippy::large_enum_variant,
    reason = "it lasts for a call, and an event is nearly always what comes out"
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unwrapped<'a> {
    /// An event to publish; the one that was given if there is no envelope around it.
    Event(Cow<'a, Event>),
    /// Nothing that anybody wants: a service's test message. It is acknowledged.
    Skip(&'static str),
}

/// Why an event cannot be unwrapped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body is not {0}")]
pub struct EnvelopeError(&'static str);

impl Envelope {
    /// All of them, by their names in the configuration.
    pub const NAMES: [(&'static str, Self); 5] = [
        ("auto", Self::Auto),
        ("raw", Self::Raw),
        ("sns", Self::Sns),
        ("eventbridge", Self::EventBridge),
        ("s3", Self::S3),
    ];

    /// Unwraps an event.
    pub fn unwrap(self, event: &Event) -> Result<Unwrapped<'_>, EnvelopeError> {
        let opened = match self {
            Self::Raw => return Ok(Unwrapped::Event(Cow::Borrowed(event))),
            // Each envelope is a JSON object.
            Self::Auto if !is_object(&event.body) => {
                return Ok(Unwrapped::Event(Cow::Borrowed(event)));
            }
            Self::Auto => open_whatever(event.clone()),
            Self::Sns => match open_sns(event.clone()) {
                Ok(inner) => open_whatever(inner),
                Err(_) => return Err(EnvelopeError("an SNS notification")),
            },
            Self::EventBridge => match open_eventbridge(event.clone()) {
                Ok(inner) => Opened::Event(Box::new(inner)),
                Err(_) => return Err(EnvelopeError("an EventBridge event")),
            },
            Self::S3 => open_s3(event.clone()).map_err(|_| EnvelopeError("an S3 notification"))?,
        };
        Ok(match opened {
            Opened::Event(event) => Unwrapped::Event(Cow::Owned(*event)),
            Opened::Skip(why) => Unwrapped::Skip(why),
        })
    }
}

enum Opened {
    Event(Box<Event>),
    Skip(&'static str),
}

fn is_object(body: &[u8]) -> bool {
    body.trim_ascii_start().first() == Some(&b'{')
}

/// Opens what is an envelope, gives back what is none.
fn open_whatever(mut event: Event) -> Opened {
    for _ in 0..MAX_DEPTH {
        event = match open_s3(event) {
            Ok(unwrapped) => return unwrapped,
            Err(event) => *event,
        };
        event = match open_sns(event).or_else(|event| open_eventbridge(*event)) {
            Ok(inner) => inner,
            Err(event) => return Opened::Event(event),
        };
    }
    Opened::Event(Box::new(event))
}

#[derive(Deserialize)]
struct Sns<'a> {
    #[serde(rename = "Type", borrow)]
    kind: Cow<'a, str>,
    #[serde(rename = "MessageId", borrow)]
    message_id: Cow<'a, str>,
    #[serde(rename = "TopicArn", borrow)]
    topic_arn: Cow<'a, str>,
    #[serde(rename = "Subject", default, borrow)]
    subject: Option<Cow<'a, str>>,
    #[serde(rename = "Message")]
    message: String,
    #[serde(rename = "Timestamp", default, borrow)]
    timestamp: Option<Cow<'a, str>>,
    #[serde(rename = "MessageAttributes", default)]
    attributes: Map<String, Value>,
}

fn open_sns(mut event: Event) -> Result<Event, Box<Event>> {
    let body = event.body.clone();
    let Ok(sns) = parse::<Sns<'_>>(&body) else {
        return Err(Box::new(event));
    };
    if sns.kind != "Notification" {
        return Err(Box::new(event));
    }
    for (name, value) in &sns.attributes {
        if let Some(value) = value.get("Value").and_then(Value::as_str) {
            event.attributes.push((name.clone(), value.to_owned()));
        }
    }
    note(&mut event, "sns-topic-arn", Some(&sns.topic_arn));
    note(&mut event, "sns-message-id", Some(&sns.message_id));
    note(&mut event, "sns-subject", sns.subject.as_deref());
    note(&mut event, "sns-timestamp", sns.timestamp.as_deref());
    event.key = Some(sns.message_id.into_owned());
    event.body = Bytes::from(sns.message);
    Ok(event)
}

#[derive(Deserialize)]
struct EventBridge<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(rename = "detail-type", borrow)]
    detail_type: Cow<'a, str>,
    #[serde(borrow)]
    source: Cow<'a, str>,
    #[serde(default, borrow)]
    account: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    time: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    region: Option<Cow<'a, str>>,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(borrow)]
    detail: &'a RawValue,
}

fn open_eventbridge(mut event: Event) -> Result<Event, Box<Event>> {
    let body = event.body.clone();
    let Ok(envelope) = parse::<EventBridge<'_>>(&body) else {
        return Err(Box::new(event));
    };
    if !envelope.detail.get().starts_with('{') {
        return Err(Box::new(event));
    }
    let mut attribute = |name: &str, value: Option<&str>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            event.attributes.push((name.to_owned(), value.to_owned()));
        }
    };
    attribute("id", Some(&envelope.id));
    attribute("source", Some(&envelope.source));
    attribute("detail-type", Some(&envelope.detail_type));
    attribute("account", envelope.account.as_deref());
    attribute("time", envelope.time.as_deref());
    attribute("region", envelope.region.as_deref());
    for resource in &envelope.resources {
        attribute("resource", Some(resource));
    }
    event.key = Some(envelope.id.into_owned());
    event.content_type = Some("application/json".to_owned());
    event.body = body.slice_ref(envelope.detail.get().as_bytes());
    Ok(event)
}

fn open_s3(mut event: Event) -> Result<Opened, Box<Event>> {
    if !event.body.starts_with(b"{") {
        return Err(Box::new(event));
    }
    let Ok(body) = serde_json::from_slice::<Value>(&event.body) else {
        return Err(Box::new(event));
    };
    if body["Event"] == "s3:TestEvent" {
        return Ok(Opened::Skip("S3's test message"));
    }
    let record = &body["Records"][0];
    if record["eventSource"] != "aws:s3" {
        return Err(Box::new(event));
    }
    let key = record["s3"]["object"]["key"].as_str().map(url_decoded);
    for (name, value) in [
        ("event-name", record["eventName"].as_str()),
        ("event-time", record["eventTime"].as_str()),
        ("bucket", record["s3"]["bucket"]["name"].as_str()),
        ("key", key.as_deref()),
    ] {
        if let Some(value) = value {
            event.attributes.push((name.to_owned(), value.to_owned()));
        }
    }
    event.content_type = Some("application/json".to_owned());
    Ok(Opened::Event(Box::new(event)))
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(body)
}

fn note(event: &mut Event, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        event.meta.push((name.to_owned(), value.to_owned()));
    }
}

/// Object keys are encoded as in a form: `+` is a space. What is no encoding stays.
fn url_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let code = bytes
            .get(at + 1..at + 3)
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (byte, code) {
            (b'%', Some(code)) => {
                out.push(code);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            _ => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_body(body: impl Into<Bytes>) -> Event {
        Event {
            id: "m1".into(),
            key: Some("m1".into()),
            body: body.into(),
            ..Event::default()
        }
    }

    fn unwrap(envelope: Envelope, body: &str) -> Event {
        match envelope.unwrap(&with_body(body.to_owned())) {
            Ok(Unwrapped::Event(event)) => event.into_owned(),
            other => panic!("{other:?}"),
        }
    }

    const EVENT: &str = r#"{"version":"0","id":"e-1","detail-type":"Order Placed","source":"shop",
        "account":"123","time":"2026-11-22T17:07:16Z","region":"eu","resources":["arn:1"],
        "detail": {"total": 12.50, "n":1e2}}"#;

    fn sns(message: &str) -> String {
        serde_json::json!({"Type":"Notification","MessageId":"s-1","TopicArn":"arn:t","Subject":"hi",
            "Message":message,"Timestamp":"2026-01-01T00:00:00Z",
            "MessageAttributes":{"topic":{"Type":"String","Value":"a/b"},"bad":{"Type":"String"}}})
        .to_string()
    }

    #[test]
    fn eventbridge_gives_the_detail_byte_for_byte() {
        for envelope in [Envelope::EventBridge, Envelope::Auto] {
            let event = unwrap(envelope, EVENT);
            assert_eq!(event.body, r#"{"total": 12.50, "n":1e2}"#);
            assert_eq!(event.key.as_deref(), Some("e-1"));
            assert_eq!(event.content_type.as_deref(), Some("application/json"));
            let expected = [
                ("id", "e-1"),
                ("source", "shop"),
                ("detail-type", "Order Placed"),
                ("account", "123"),
                ("time", "2026-11-22T17:07:16Z"),
                ("region", "eu"),
                ("resource", "arn:1"),
            ];
            let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
            assert_eq!(event.attributes, expected);
        }
    }

    #[test]
    fn sns_gives_the_message_and_its_attributes() {
        for envelope in [Envelope::Sns, Envelope::Auto] {
            let event = unwrap(envelope, &sns("hello \"you\""));
            assert_eq!(event.body, "hello \"you\"");
            assert_eq!(event.attribute("topic"), Some("a/b"));
            assert_eq!(event.attribute("bad"), None);
            assert_eq!(event.meta("sns-topic-arn"), Some("arn:t"));
            assert_eq!(event.key.as_deref(), Some("s-1"));
        }
    }

    #[test]
    fn an_envelope_within_an_envelope_is_opened() {
        let event = unwrap(Envelope::Auto, &sns(EVENT));
        assert_eq!(event.body, r#"{"total": 12.50, "n":1e2}"#);
        assert_eq!(event.key.as_deref(), Some("e-1"));
        assert_eq!(event.attribute("topic"), Some("a/b"));
    }

    #[test]
    fn s3_gives_bucket_and_key() {
        let body = r#"{"Records":[{"eventSource":"aws:s3","eventName":"ObjectCreated:Put",
            "s3":{"bucket":{"name":"b"},"object":{"key":"my+file%2F%C3%A9%zz","size":1}}}]}"#;
        for envelope in [Envelope::S3, Envelope::Auto] {
            let event = unwrap(envelope, body);
            assert_eq!(event.attribute("bucket"), Some("b"));
            assert_eq!(event.attribute("key"), Some("my file/é%zz"));
            assert_eq!(event.body, body);
        }
        let test = r#"{"Service":"Amazon S3","Event":"s3:TestEvent","Bucket":"b"}"#;
        for envelope in [Envelope::S3, Envelope::Auto] {
            let given = with_body(test);
            let unwrapped = envelope.unwrap(&given);
            assert_eq!(unwrapped, Ok(Unwrapped::Skip("S3's test message")));
        }
    }

    #[test]
    fn auto_leaves_alone_what_is_no_envelope() {
        for body in [
            "",
            "hi",
            "{}",
            "[1]",
            r#"{"Type":"Notification"}"#,
            r#"{"detail":{}}"#,
            r#"{"Records":[]}"#,
            "{\"a\":",
        ] {
            assert_eq!(
                unwrap(Envelope::Auto, body),
                with_body(body.to_owned()),
                "{body}"
            );
        }
        assert_eq!(unwrap(Envelope::Raw, EVENT), with_body(EVENT));
    }

    #[test]
    fn a_named_envelope_must_be_there() {
        for envelope in [Envelope::Sns, Envelope::EventBridge, Envelope::S3] {
            assert!(envelope.unwrap(&with_body("hi")).is_err(), "{envelope:?}");
        }
        let text_detail = EVENT.replace(r#"{"total": 12.50, "n":1e2}"#, "\"text\"");
        let given = with_body(text_detail);
        let unwrapped = Envelope::EventBridge.unwrap(&given);
        assert_eq!(unwrapped, Err(EnvelopeError("an EventBridge event")));
    }
}
