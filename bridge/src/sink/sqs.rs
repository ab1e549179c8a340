//! Amazon SQS: batches of ten, FIFO groups from a template.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde::Serialize;

use super::{Kind, Sent, Target};
use crate::config::Section;
use crate::event::Event;
use crate::metrics::FlowMetrics;
use crate::source::{SourceError, is_fifo};
use crate::sqs::Queue;
use crate::template::{Template, View};

/// Entries of one batch, attributes of one message: SQS takes no more.
const BATCH: usize = 10;

/// Settings of an SQS sink.
#[derive(Clone, Debug)]
struct Sqs {
    queue_url: String,
    endpoint: Option<String>,
    region: Option<String>,
    group: Option<Template>,
    deduplication: Option<Template>,
}

/// Reads the settings.
pub(super) fn read(section: &mut Section) -> Arc<dyn Kind> {
    let sink = Sqs {
        queue_url: section.required_text("queue_url"),
        endpoint: section.text("endpoint"),
        region: section.text("region"),
        group: section.template("group"),
        deduplication: section.template("deduplication"),
    };
    if is_fifo(&sink.queue_url) && sink.group.is_none() {
        section.problem(
            "group",
            "is missing: a FIFO queue needs a template for the group",
        );
    }
    Arc::new(sink)
}

impl Kind for Sqs {
    fn open(
        &self,
        _: String,
        _: Arc<FlowMetrics>,
    ) -> BoxFuture<'_, Result<Box<dyn Target>, SourceError>> {
        async move {
            let (endpoint, region) = (self.endpoint.as_deref(), self.region.as_deref());
            let queue = Queue::connect(&self.queue_url, endpoint, region).await?;
            let settings = self.clone();
            Ok(Box::new(Connected { queue, settings }) as Box<dyn Target>)
        }
        .boxed()
    }
}

struct Connected {
    queue: Queue,
    settings: Sqs,
}

/// An entry of `SendMessageBatch`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    id: String,
    message_body: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_group_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_deduplication_id: Option<String>,
    message_attributes: BTreeMap<String, Attribute>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Attribute {
    data_type: &'static str,
    string_value: String,
}

impl Target for Connected {
    fn max_batch(&self) -> usize {
        BATCH
    }

    fn send<'a>(&'a self, messages: &'a [Event]) -> BoxFuture<'a, Vec<Sent>> {
        async move {
            let mut results = vec![Sent::Accepted; messages.len()];
            let mut entries = Vec::new();
            for (index, message) in messages.iter().enumerate() {
                match self.entry(index, message) {
                    Ok(entry) => entries.push(entry),
                    Err(reason) => results[index] = Sent::Refused(reason),
                }
            }
            if entries.is_empty() {
                return results;
            }
            match self.queue.batch("SendMessageBatch", &entries).await {
                Ok(failed) => {
                    for failed in failed {
                        let sent = if failed.for_good {
                            Sent::Refused(failed.reason)
                        } else {
                            Sent::retry(failed.reason)
                        };
                        if let Some(result) = results.get_mut(failed.index) {
                            *result = sent;
                        }
                    }
                }
                Err(error) if error.is_too_large() && entries.len() == 1 => {
                    if let Some(alone) = results.iter_mut().find(|one| **one == Sent::Accepted) {
                        *alone = Sent::Refused(error.to_string());
                    }
                }
                Err(error) => {
                    let accepted = |result: &&mut Sent| **result == Sent::Accepted;
                    for result in results.iter_mut().filter(accepted) {
                        *result = Sent::failed(&error);
                    }
                }
            }
            results
        }
        .boxed()
    }
}

impl Connected {
    fn entry(&self, index: usize, message: &Event) -> Result<Entry, String> {
        let view = View::new(message, "", true);
        let fill = |template: &Option<Template>| {
            let filled = template.as_ref().map(|template| template.fill(&view));
            filled.transpose().map_err(|error| error.to_string())
        };
        let (body, encoding) = body(message);
        let topic = message.topic.as_deref().unwrap_or_default();
        let own = [
            ("topic", Some(topic)),
            ("content-type", message.content_type.as_deref()),
            ("content-encoding", encoding),
        ];
        let own = own
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)));
        let user = message
            .attributes
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let mut attributes = BTreeMap::new();
        // The last two say where it has been; they go first so that ten others do not crowd them out.
        for (name, value) in own.chain(user.rev()) {
            let fits = fits(name) && !value.is_empty() && !attributes.contains_key(name);
            if fits && attributes.len() < BATCH {
                let attribute = Attribute {
                    data_type: "String",
                    string_value: value.to_owned(),
                };
                attributes.insert(name.to_owned(), attribute);
            }
        }
        Ok(Entry {
            id: index.to_string(),
            message_body: body,
            message_group_id: fill(&self.settings.group)?,
            message_deduplication_id: fill(&self.settings.deduplication)?,
            message_attributes: attributes,
        })
    }
}

fn fits(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    (1..=256).contains(&name.len()) && name.chars().all(good)
}

/// A body is text of XML 1.0's characters and not empty; anything else goes as base64.
fn body(message: &Event) -> (String, Option<&'static str>) {
    let good = |c: char| matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    match std::str::from_utf8(&message.body) {
        Ok(text) if !text.is_empty() && text.chars().all(good) => (text.to_owned(), None),
        _ => (BASE64_STANDARD.encode(&message.body), Some("base64")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_goes_as_base64() {
        let body_of = |bytes: &'static [u8]| {
            body(&Event {
                body: bytes.into(),
                ..Event::default()
            })
        };
        assert_eq!(body_of("é\n".as_bytes()), ("é\n".to_owned(), None));
        assert_eq!(body_of(b"\xff"), ("/w==".to_owned(), Some("base64")));
        assert_eq!(body_of(b"a\0"), ("YQA=".to_owned(), Some("base64")));
    }
}
