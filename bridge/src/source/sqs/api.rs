//! The three calls that the source makes, and the official SDK behind them.

use std::time::Duration;

use aws_config::{BehaviorVersion, Region};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::error::DisplayErrorContext;
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry as VisibilityEntry,
    DeleteMessageBatchRequestEntry as DeleteEntry, MessageSystemAttributeName,
};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::message::Message;
use crate::source::SourceError;

/// An entry of a batch that did not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    /// Which, by its place in the batch.
    pub(super) index: usize,
    /// Whether it is the caller's fault: trying again does not help.
    pub(super) for_good: bool,
    pub(super) reason: String,
}

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

/// The queue by the official SDK.
#[derive(Debug)]
pub(super) struct Sdk {
    client: Client,
    queue_url: String,
}

impl Sdk {
    pub(super) async fn connect(
        queue_url: &str,
        endpoint: Option<&str>,
        region: Option<&str>,
    ) -> Self {
        let client = client(queue_url, endpoint, region).await;
        let queue_url = queue_url.to_owned();
        Self { client, queue_url }
    }
}

/// A client for a queue. Credentials come by AWS's usual chain: environment, profile, web identity,
/// container, instance.
pub(crate) async fn client(
    queue_url: &str,
    endpoint: Option<&str>,
    region: Option<&str>,
) -> Client {
    let loader = aws_config::defaults(BehaviorVersion::latest());
    let region = region.or_else(|| region_of(queue_url));
    let region = region.map(|name| Region::new(name.to_owned()));
    let loader = match (region, std::env::var_os("AWS_REGION").is_some()) {
        (Some(region), _) => loader.region(region),
        (None, false) if endpoint.is_some() => loader.region(Region::new("us-east-1")),
        (None, _) => loader,
    };
    let shared = loader.load().await;
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(5))
        .read_timeout(Duration::from_secs(30))
        .build();
    let mut config = aws_sdk_sqs::config::Builder::from(&shared).timeout_config(timeouts);
    if let Some(endpoint) = endpoint {
        config = config.endpoint_url(endpoint);
    }
    Client::from_conf(config.build())
}

/// `https://sqs.eu-west-1.amazonaws.com/…` is in `eu-west-1`.
fn region_of(queue_url: &str) -> Option<&str> {
    let (_, rest) = queue_url.split_once("://sqs.")?;
    let (region, rest) = rest.split_once('.')?;
    rest.starts_with("amazonaws.com").then_some(region)
}

impl Api for Sdk {
    fn receive(
        &self,
        max: usize,
        wait: Duration,
        visibility: Duration,
    ) -> BoxFuture<'_, Result<Vec<Message>, SourceError>> {
        async move {
            let received = self
                .client
                .receive_message()
                .queue_url(&self.queue_url)
                .max_number_of_messages(small(max as u64))
                .wait_time_seconds(small(wait.as_secs()))
                .visibility_timeout(small(visibility.as_secs()))
                .message_system_attribute_names(MessageSystemAttributeName::All)
                .message_attribute_names("All")
                .send()
                .await
                .map_err(|error| SourceError::new(DisplayErrorContext(error)))?;
            Ok(received
                .messages
                .unwrap_or_default()
                .into_iter()
                .map(message)
                .collect())
        }
        .boxed()
    }

    fn delete(&self, receipts: Vec<String>) -> BoxFuture<'_, Result<Vec<Failed>, SourceError>> {
        async move {
            let mut call = self
                .client
                .delete_message_batch()
                .queue_url(&self.queue_url);
            for (index, receipt) in receipts.into_iter().enumerate() {
                let entry = DeleteEntry::builder()
                    .id(index.to_string())
                    .receipt_handle(receipt);
                call = call.entries(entry.build().map_err(SourceError::new)?);
            }
            let answer = call.send().await;
            let answer = answer.map_err(|error| SourceError::new(DisplayErrorContext(error)))?;
            Ok(answer.failed.iter().map(failed).collect())
        }
        .boxed()
    }

    fn change_visibility(
        &self,
        entries: Vec<(String, u64)>,
    ) -> BoxFuture<'_, Result<Vec<Failed>, SourceError>> {
        async move {
            let call = self.client.change_message_visibility_batch();
            let mut call = call.queue_url(&self.queue_url);
            for (index, (receipt, secs)) in entries.into_iter().enumerate() {
                let entry = VisibilityEntry::builder()
                    .id(index.to_string())
                    .receipt_handle(receipt)
                    .visibility_timeout(small(secs));
                call = call.entries(entry.build().map_err(SourceError::new)?);
            }
            let answer = call.send().await;
            let answer = answer.map_err(|error| SourceError::new(DisplayErrorContext(error)))?;
            Ok(answer.failed.iter().map(failed).collect())
        }
        .boxed()
    }
}

/// Counts and seconds here are far below the bound.
fn small(number: u64) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn failed(entry: &BatchResultErrorEntry) -> Failed {
    Failed {
        index: entry.id().parse().unwrap_or(usize::MAX),
        for_good: entry.sender_fault(),
        reason: format!("{} {}", entry.code(), entry.message().unwrap_or_default()),
    }
}

fn message(message: aws_sdk_sqs::types::Message) -> Message {
    let system = message.attributes.unwrap_or_default().into_iter();
    let attributes = message.message_attributes.unwrap_or_default().into_iter();
    Message {
        id: message.message_id.unwrap_or_default(),
        receipt: message.receipt_handle.unwrap_or_default(),
        body: message.body.unwrap_or_default(),
        system: system
            .map(|(name, value)| (name.as_str().to_owned(), value))
            .collect(),
        attributes: attributes
            .filter_map(|(name, value)| {
                let binary = value.binary_value.map(|blob| BASE64_STANDARD.encode(blob));
                Some((name, value.string_value.or(binary)?))
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_is_in_the_url() {
        for (url, region) in [
            ("https://sqs.eu-west-1.amazonaws.com/1/q", Some("eu-west-1")),
            (
                "https://sqs.cn-north-1.amazonaws.com.cn/1/q",
                Some("cn-north-1"),
            ),
            ("http://127.0.0.1:5055/1/q", None),
            ("https://sqs.example.org/1/q", None),
        ] {
            assert_eq!(region_of(url), region, "{url}");
        }
    }
}
