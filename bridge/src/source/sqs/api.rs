//! The three calls that the source makes.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::message::Message;
use crate::source::SourceError;
pub(super) use crate::sqs::Failed;
use crate::sqs::Queue;

/// What the source needs of a queue. Batches have at most ten entries.
pub(super) trait Api: Send + Sync + std::fmt::Debug {
    fn receive(
        &self,
        max: usize,
        wait: Duration,
        visibility: Duration,
    ) -> BoxFuture<'_, Result<Vec<Message>, SourceError>>;

    fn delete(&self, receipts: Vec<String>) -> BoxFuture<'_, Result<Vec<Failed>, SourceError>>;

    /// Receipts, and the seconds from now on that nobody else sees the message.
    fn change_visibility(
        &self,
        entries: Vec<(String, u64)>,
    ) -> BoxFuture<'_, Result<Vec<Failed>, SourceError>>;
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Receive {
    max_number_of_messages: usize,
    wait_time_seconds: u64,
    visibility_timeout: u64,
    message_system_attribute_names: [&'static str; 1],
    message_attribute_names: [&'static str; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    id: String,
    receipt_handle: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    visibility_timeout: Option<u64>,
}

#[derive(Deserialize)]
struct Received {
    /// Absent if nothing came.
    #[serde(rename = "Messages", default)]
    messages: Option<Vec<Wire>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Wire {
    message_id: String,
    receipt_handle: String,
    #[serde(default)]
    body: String,
    #[serde(default)]
    attributes: Option<BTreeMap<String, String>>,
    #[serde(default)]
    message_attributes: Option<BTreeMap<String, Attribute>>,
}

/// Binary values are base64 already.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Attribute {
    #[serde(default)]
    string_value: Option<String>,
    #[serde(default)]
    binary_value: Option<String>,
}

impl Api for Queue {
    fn receive(
        &self,
        max: usize,
        wait: Duration,
        visibility: Duration,
    ) -> BoxFuture<'_, Result<Vec<Message>, SourceError>> {
        async move {
            let parameters = Receive {
                max_number_of_messages: max,
                wait_time_seconds: wait.as_secs(),
                visibility_timeout: visibility.as_secs(),
                message_system_attribute_names: ["All"],
                message_attribute_names: ["All"],
            };
            let answer = self.call("ReceiveMessage", &parameters).await?;
            messages(&answer)
        }
        .boxed()
    }

    fn delete(&self, receipts: Vec<String>) -> BoxFuture<'_, Result<Vec<Failed>, SourceError>> {
        async move {
            let entries = receipts.into_iter().map(|receipt| (receipt, None));
            self.batch("DeleteMessageBatch", &numbered(entries)).await
        }
        .boxed()
    }

    fn change_visibility(
        &self,
        entries: Vec<(String, u64)>,
    ) -> BoxFuture<'_, Result<Vec<Failed>, SourceError>> {
        async move {
            let entries = entries.into_iter();
            let entries = numbered(entries.map(|(receipt, secs)| (receipt, Some(secs))));
            self.batch("ChangeMessageVisibilityBatch", &entries).await
        }
        .boxed()
    }
}

fn numbered(entries: impl Iterator<Item = (String, Option<u64>)>) -> Vec<Entry> {
    let entries = entries.enumerate();
    let entries = entries.map(|(index, (receipt_handle, visibility_timeout))| Entry {
        id: index.to_string(),
        receipt_handle,
        visibility_timeout,
    });
    entries.collect()
}

fn messages(answer: &[u8]) -> Result<Vec<Message>, SourceError> {
    let received: Received = serde_json::from_slice(answer).map_err(SourceError::new)?;
    let messages = received.messages.unwrap_or_default().into_iter();
    Ok(messages.map(message).collect())
}

fn message(wire: Wire) -> Message {
    let attributes = wire.message_attributes.unwrap_or_default().into_iter();
    let attributes = attributes.filter_map(|(name, value)| {
        let value = value.string_value.or(value.binary_value)?;
        Some((name, value))
    });
    Message {
        id: wire.message_id,
        receipt: wire.receipt_handle,
        body: wire.body,
        system: wire.attributes.unwrap_or_default(),
        attributes: attributes.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_with_everything_it_says() {
        let answer = br#"{"Messages":[{"MessageId":"m","ReceiptHandle":"r","MD5OfBody":"x","Body":"hi \u00e9",
            "Attributes":{"SentTimestamp":"5"},"MessageAttributes":{"a":{"DataType":"String","StringValue":"1"},
            "b":{"DataType":"Binary","BinaryValue":"AA=="}}},{"MessageId":"n","ReceiptHandle":"s","Body":""}]}"#;
        let found = messages(answer).unwrap();
        assert_eq!(
            (found[0].id.as_str(), found[0].receipt.as_str()),
            ("m", "r")
        );
        assert_eq!(found[0].body, "hi é");
        assert_eq!(found[0].system["SentTimestamp"], "5");
        assert_eq!(found[0].attributes["a"], "1");
        assert_eq!(found[0].attributes["b"], "AA==");
        assert_eq!(found[1].body, "");
        for empty in ["{}", r#"{"Messages":[]}"#, r#"{"Messages":null}"#] {
            assert_eq!(messages(empty.as_bytes()).unwrap(), []);
        }
        assert!(
            messages(b"<html>").is_err(),
            "nothing may look empty that is not"
        );
    }

    #[test]
    fn entries_are_told_by_their_places() {
        let entries = [("r".to_owned(), None), ("s".to_owned(), Some(5))];
        let entries = serde_json::to_string(&numbered(entries.into_iter())).unwrap();
        let expected = r#"[{"Id":"0","ReceiptHandle":"r"},{"Id":"1","ReceiptHandle":"s","VisibilityTimeout":5}]"#;
        assert_eq!(entries, expected);
    }
}
