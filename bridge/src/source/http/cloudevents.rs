//! CloudEvents 1.0 over HTTP: binary, structured and batched.
//!
//! What comes out is its MQTT binding: attributes without a prefix, the data as the body.

use ::http::HeaderMap;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value};

use crate::event::Event;

/// Why a body is not what its content type says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a CloudEvent: {0}")]
pub(super) struct CloudEventError(String);

/// The attributes that an event must have.
const REQUIRED: [&str; 4] = ["id", "source", "specversion", "type"];

/// The events of a request; one plain event if it is no CloudEvent.
pub(super) fn events(headers: &HeaderMap, body: Bytes) -> Result<Vec<Event>, CloudEventError> {
    let kind = headers
        .get("content-type")
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or("");
    let essence = kind
        .split(';')
        .next()
        .unwrap_or("")
        .trim()
        .to_ascii_lowercase();
    let wrong = |error: serde_json::Error| CloudEventError(error.to_string());
    match essence.as_str() {
        "application/cloudevents+json" => {
            let fields: Map<String, Value> = serde_json::from_slice(&body).map_err(wrong)?;
            Ok(vec![structured(fields)?])
        }
        "application/cloudevents-batch+json" => {
            let batch: Vec<Map<String, Value>> = serde_json::from_slice(&body).map_err(wrong)?;
            batch.into_iter().map(structured).collect()
        }
        _ => Ok(vec![binary(headers, kind, body)?]),
    }
}

fn structured(mut fields: Map<String, Value>) -> Result<Event, CloudEventError> {
    let body = match (fields.remove("data"), fields.remove("data_base64")) {
        (None, Some(Value::String(text))) => {
            let bytes = BASE64_STANDARD.decode(text);
            bytes
                .map_err(|error| CloudEventError(error.to_string()))?
                .into()
        }
        (Some(Value::String(text)), None) if !is_json(fields.get("datacontenttype")) => text.into(),
        (Some(data), None) => data.to_string().into(),
        (None, None) => Bytes::new(),
        _ => return Err(CloudEventError("data is there twice".to_owned())),
    };
    let mut event = Event {
        body,
        ..Event::default()
    };
    for (name, value) in fields {
        let value = match value {
            Value::String(text) => text,
            Value::Null => continue,
            other => other.to_string(),
        };
        add(&mut event, &name, value);
    }
    event
        .content_type
        .get_or_insert_with(|| "application/json".to_owned());
    checked(event)
}

/// Without a content type the data is JSON.
fn is_json(kind: Option<&Value>) -> bool {
    match kind.and_then(Value::as_str) {
        None => true,
        Some(kind) => {
            let essence = kind.split(';').next().unwrap_or("").trim();
            essence.ends_with("/json") || essence.ends_with("+json")
        }
    }
}

fn binary(headers: &HeaderMap, kind: &str, body: Bytes) -> Result<Event, CloudEventError> {
    let mut event = Event {
        content_type: (!kind.is_empty()).then(|| kind.to_owned()),
        body,
        ..Event::default()
    };
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        match name.as_str().strip_prefix("ce-") {
            Some(name) => add(&mut event, name, percent_decoded(&value)),
            // What the caller says of the message, as attributes of a queue would.
            None if MAPPED.contains(&name.as_str()) => {
                event
                    .attributes
                    .push((name.to_string(), value.into_owned()));
            }
            None => {}
        }
    }
    if headers.contains_key("ce-specversion") {
        checked(event)
    } else {
        Ok(event)
    }
}

/// Headers that the mapping knows.
const MAPPED: [&str; 8] = [
    "topic",
    "qos",
    "retain",
    "expiry",
    "response-topic",
    "correlation-data",
    "idempotency-key",
    "polycast-via",
];

fn add(event: &mut Event, name: &str, value: String) {
    match name {
        "datacontenttype" => event.content_type = Some(value),
        name => event.attributes.push((name.to_owned(), value)),
    }
}

fn checked(mut event: Event) -> Result<Event, CloudEventError> {
    for name in REQUIRED {
        if event.attribute(name).is_none_or(str::is_empty) {
            return Err(CloudEventError(format!("the attribute {name} is missing")));
        }
    }
    let id = event.attribute("id").unwrap_or_default().to_owned();
    // An identifier is unique within its source.
    let source = event.attribute("source").unwrap_or_default();
    event.key = Some(format!("{source} {id}"));
    event.id = id;
    Ok(event)
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digits = bytes
            .get(at + 1..at + 3)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(code) if byte == b'%' => {
                out.push(code);
                at += 3;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use ::http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_str(value).unwrap(),
            )
        });
        pairs.collect()
    }

    const ONE: &str =
        r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","n":5,"data":{"a":1}}"#;

    #[test]
    fn binary_structured_and_batch_say_the_same() {
        let binary = headers(&[
            ("ce-specversion", "1.0"),
            ("ce-id", "1"),
            ("ce-source", "/s"),
            ("ce-type", "t"),
            ("ce-n", "5"),
            ("content-type", "application/json"),
            ("x-other", "1"),
        ]);
        let structured = headers(&[(
            "content-type",
            "application/cloudevents+json; charset=utf-8",
        )]);
        let batch = headers(&[("content-type", "application/cloudevents-batch+json")]);
        let batched = format!("[{ONE},{ONE}]");
        let mut all = events(&binary, "{\"a\":1}".into()).unwrap();
        all.extend(events(&structured, ONE.into()).unwrap());
        all.extend(events(&batch, batched.into()).unwrap());
        assert_eq!(all.len(), 4);
        for mut event in all {
            event.attributes.sort();
            let expected = [
                ("id", "1"),
                ("n", "5"),
                ("source", "/s"),
                ("specversion", "1.0"),
                ("type", "t"),
            ];
            assert_eq!(
                event.attributes,
                expected.map(|(name, value)| (name.into(), value.into()))
            );
            assert_eq!(event.body, "{\"a\":1}");
            assert_eq!(event.key.as_deref(), Some("/s 1"));
            assert_eq!(event.content_type.as_deref(), Some("application/json"));
        }
    }

    #[test]
    fn data_of_every_kind() {
        let structured = headers(&[("content-type", "application/cloudevents+json")]);
        let body = |data: &str| {
            let text = ONE.replace(r#""data":{"a":1}"#, data);
            events(&structured, text.into()).map(|mut events| events.remove(0).body)
        };
        assert_eq!(
            body(r#""data_base64":"/wA=""#).unwrap(),
            b"\xff\0".as_slice()
        );
        assert_eq!(
            body(r#""datacontenttype":"text/plain","data":"hi""#).unwrap(),
            "hi"
        );
        assert_eq!(body(r#""data":"hi""#).unwrap(), "\"hi\"");
        assert_eq!(body(r#""x":"y""#).unwrap(), "");
        assert!(body(r#""data":1,"data_base64":"AA==""#).is_err());
    }

    #[test]
    fn what_is_no_cloudevent() {
        let structured = headers(&[("content-type", "application/cloudevents+json")]);
        for bad in ["", "[]", "{}", &ONE.replace("\"id\":\"1\",", "")] {
            assert!(events(&structured, bad.to_owned().into()).is_err(), "{bad}");
        }
        let half = headers(&[("ce-specversion", "1.0"), ("ce-id", "1")]);
        assert!(events(&half, Bytes::new()).is_err());
        let plain = headers(&[
            ("topic", "a/b"),
            ("content-type", "text/plain"),
            ("ce-x", "a%20b%"),
        ]);
        let event = events(&plain, "hi".into()).unwrap().remove(0);
        assert_eq!(event.attribute("topic"), Some("a/b"));
        assert_eq!(event.attribute("x"), Some("a b%"));
        assert_eq!(event.key, None);
    }
}
