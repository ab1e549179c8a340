//! A message of SQS, and the event that it is.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::Value;

use crate::event::Event;

/// What ReceiveMessage gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) id: String,
    pub(super) receipt: String,
    pub(super) body: String,
    /// SQS's own: `SentTimestamp`, `MessageGroupId`, …
    pub(super) system: BTreeMap<String, String>,
    /// The sender's; binary ones as base64.
    pub(super) attributes: BTreeMap<String, String>,
}

impl Message {
    /// The event. Its key is the `MessageId`, not the `MessageDeduplicationId`: SQS keeps that one
    /// for five minutes, and the same text later on is another event.
    pub(super) fn event(self, queue: &str) -> Event {
        let number = |name: &str| self.system.get(name).and_then(|text| text.parse().ok());
        let mut event = Event {
            key: Some(self.id.clone()),
            group: self.system.get("MessageGroupId").cloned(),
            accepted_ms: number("SentTimestamp"),
            received: number("ApproximateReceiveCount"),
            body: Bytes::from(self.body),
            ..Event::default()
        };
        event.meta.push(("queue".to_owned(), queue.to_owned()));
        event.meta.push(("MessageId".to_owned(), self.id.clone()));
        event.meta.extend(self.system);
        event.attributes.extend(self.attributes);
        event.id = self.id;
        event
    }

    /// Messages of a file: what `aws sqs receive-message` prints, one message of it, what
    /// a function gets, or a body alone.
    pub(super) fn sample(file: &[u8]) -> Vec<Self> {
        let value: Value = serde_json::from_slice(file).unwrap_or_default();
        let messages = match (&value["Messages"], &value["Records"]) {
            (Value::Array(messages), _) => messages.as_slice(),
            (_, Value::Array(records)) if !records.is_empty() => records.as_slice(),
            _ => std::slice::from_ref(&value),
        };
        let parsed: Option<Vec<_>> = messages.iter().map(Self::from_json).collect();
        parsed.unwrap_or_else(|| {
            vec![Self {
                id: "sample".to_owned(),
                body: String::from_utf8_lossy(file).into_owned(),
                ..Self::default()
            }]
        })
    }

    fn from_json(value: &Value) -> Option<Self> {
        let text = |names: [&str; 2]| names.iter().find_map(|name| value[*name].as_str());
        let id = text(["MessageId", "messageId"]).unwrap_or("sample");
        let body = text(["Body", "body"])?;
        let system = ["Attributes", "attributes"];
        let own = ["MessageAttributes", "messageAttributes"];
        let objects = |names: [&'static str; 2]| {
            names
                .into_iter()
                .filter_map(|name| value[name].as_object())
                .flatten()
        };
        let system = objects(system)
            .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
        let values = ["StringValue", "stringValue", "BinaryValue", "binaryValue"];
        let attributes = objects(own).filter_map(|(name, value)| {
            let found = values.iter().find_map(|key| value[*key].as_str());
            Some((name.clone(), found?.to_owned()))
        });
        Some(Self {
            id: id.to_owned(),
            receipt: String::new(),
            body: body.to_owned(),
            system: system.collect(),
            attributes: attributes.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"{"MessageId":"m","ReceiptHandle":"r","Body":"hi",
        "Attributes":{"SentTimestamp":"5","ApproximateReceiveCount":"2","MessageGroupId":"g"},
        "MessageAttributes":{"topic":{"DataType":"String","StringValue":"a/b"},
            "bin":{"DataType":"Binary","BinaryValue":"AA=="}}}"#;

    #[test]
    fn an_event_says_everything_that_the_message_does() {
        let message = Message::sample(ONE.as_bytes()).remove(0);
        let event = message.event("orders");
        assert_eq!(event.id, "m");
        assert_eq!(event.key.as_deref(), Some("m"));
        assert_eq!(event.group.as_deref(), Some("g"));
        assert_eq!((event.accepted_ms, event.received), (Some(5), Some(2)));
        assert_eq!(event.body, "hi");
        assert_eq!(event.attribute("topic"), Some("a/b"));
        assert_eq!(event.attribute("bin"), Some("AA=="));
        assert_eq!(event.meta("queue"), Some("orders"));
        assert_eq!(event.meta("MessageGroupId"), Some("g"));
    }

    #[test]
    fn samples_in_every_shape() {
        let many = format!("{{\"Messages\":[{ONE},{ONE}]}}");
        assert_eq!(Message::sample(many.as_bytes()).len(), 2);
        let record = r#"{"Records":[{"messageId":"m","body":"hi","attributes":{"SentTimestamp":"5"},
            "messageAttributes":{"a":{"stringValue":"1","dataType":"String"}}}]}"#;
        let message = Message::sample(record.as_bytes()).remove(0);
        assert_eq!(message.event("q").attribute("a"), Some("1"));
        for body in [
            "plain",
            "{\"a\":1}",
            r#"{"Records":[{"eventSource":"aws:s3"}]}"#,
            "",
        ] {
            let messages = Message::sample(body.as_bytes());
            assert_eq!(messages.len(), 1);
            assert_eq!(messages[0].body, body);
        }
    }
}
