//! A NATS message, and the event that it is.
//!
//! Headers are attributes, in the order of their names, repeats kept; `Nats-…` ones are the server's
//! own and `meta`. CloudEvents' `ce-…` lose the prefix, as its MQTT binding has none.

use async_nats::{HeaderMap, Message};
use bytes::Bytes;
use serde_json::Value;

use super::Order;
use crate::event::Event;
use crate::nats::topic_of;
use crate::source::SourceError;

/// The event of a message. The topic is the subject's.
pub(super) fn event(message: &Message, order: Order) -> Event {
    let subject = message.subject.as_str();
    let mut event = plain(subject, message.payload.clone());
    if let Some(headers) = &message.headers {
        add_headers(&mut event, headers);
    }
    event.group = match order {
        Order::Subject => Some(subject.to_owned()),
        Order::Stream => Some(String::new()),
        Order::None => None,
    };
    event
}

/// A message of a file: `{"subject":…,"headers":{…},"data":…}`, or the data alone.
pub(super) fn sample(file: &[u8], subject: &str) -> Result<Event, SourceError> {
    let value: Value = serde_json::from_slice(file).unwrap_or_default();
    let (Some(subject), Some(data)) = (value["subject"].as_str(), value["data"].as_str()) else {
        return Ok(plain(subject, Bytes::copy_from_slice(file)));
    };
    let mut headers = HeaderMap::new();
    for (name, value) in value["headers"].as_object().into_iter().flatten() {
        let value = value
            .as_str()
            .ok_or_else(|| SourceError::new("a header must be a text"))?;
        headers.append(name.as_str(), value);
    }
    let mut event = plain(subject, Bytes::copy_from_slice(data.as_bytes()));
    add_headers(&mut event, &headers);
    Ok(event)
}

fn plain(subject: &str, body: Bytes) -> Event {
    Event {
        topic: topic_of(subject).ok(),
        meta: vec![("subject".to_owned(), subject.to_owned())],
        body,
        ..Event::default()
    }
}

fn add_headers(event: &mut Event, headers: &HeaderMap) {
    let mut sorted: Vec<_> = headers.iter().collect();
    sorted.sort_by_key(|(name, _)| <_ as AsRef<str>>::as_ref(*name));
    for (name, values) in sorted {
        let name: &str = name.as_ref();
        for value in values {
            add_header(event, name, value.as_str());
        }
    }
}

fn add_header(event: &mut Event, name: &str, value: &str) {
    let lower = name.to_ascii_lowercase();
    match lower.as_str() {
        "content-type" | "ce-datacontenttype" => event.content_type = Some(value.to_owned()),
        "nats-msg-id" => {
            value.clone_into(&mut event.id);
            event.key = Some(value.to_owned());
        }
        _ if lower.starts_with("nats-") => event.meta.push((name.to_owned(), value.to_owned())),
        _ => {
            let name = lower.strip_prefix("ce-").unwrap_or(name);
            event.attributes.push((name.to_owned(), value.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_become_attributes() {
        let file =
            br#"{"subject":"orders.7","data":"x","headers":{"b":"2","Content-Type":"text/plain",
            "Nats-Msg-Id":"k1","Nats-Expected-Stream":"S","ce-type":"t"}}"#;
        let event = sample(file, "unused").unwrap();
        assert_eq!(event.topic.as_deref(), Some("orders/7"));
        assert_eq!(event.body, "x");
        assert_eq!(event.key.as_deref(), Some("k1"));
        assert_eq!(event.content_type.as_deref(), Some("text/plain"));
        let expected = [("b", "2"), ("type", "t")];
        assert_eq!(
            event.attributes,
            expected.map(|(name, value)| (name.into(), value.into()))
        );
        assert_eq!(event.meta("Nats-Expected-Stream"), Some("S"));
    }

    #[test]
    fn a_file_may_be_the_data_alone() {
        let event = sample(b"hi", "a.b").unwrap();
        assert_eq!(
            (event.topic.as_deref(), event.body.as_ref()),
            (Some("a/b"), b"hi".as_slice())
        );
    }
}
