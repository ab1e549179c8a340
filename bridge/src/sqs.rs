//! What the SQS source and the SQS sink share: signed calls of a queue by SQS's JSON protocol.
//!
//! A call carries ten messages at most, so what a call costs decides what an event costs: this is the
//! protocol and the signature, and nothing besides. Retries are the callers'.

use std::time::SystemTime;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::aws::{Service, Settings};
use crate::retry_after::asked_by_aws;
use crate::source::SourceError;

/// A queue that can be called.
#[derive(Debug)]
pub(crate) struct Queue {
    service: Service,
    url: String,
}

/// An entry of a batch that did not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    /// Which, by its place in the batch.
    pub(crate) index: usize,
    /// Whether it is the caller's fault: trying again does not help.
    pub(crate) for_good: bool,
    pub(crate) reason: String,
}

/// A call's parameters, beside the queue's URL.
#[derive(Serialize)]
struct Call<'a, T> {
    #[serde(rename = "QueueUrl")]
    queue_url: &'a str,
    #[serde(flatten)]
    rest: &'a T,
}

#[derive(Deserialize)]
struct BatchAnswer {
    #[serde(rename = "Failed", default)]
    failed: Option<Vec<FailedEntry>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct FailedEntry {
    id: String,
    #[serde(default)]
    sender_fault: bool,
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: Option<String>,
}

impl Queue {
    /// Finds the way to a queue. Credentials come by AWS's usual chain: environment, profile, web
    /// identity, container, instance. Without an endpoint the queue's own URL says where to.
    pub(crate) async fn connect(
        url: &str,
        endpoint: Option<&str>,
        region: Option<&str>,
    ) -> Result<Self, SourceError> {
        let endpoint = endpoint.map(str::to_owned).or_else(|| origin(url));
        let region = region.or_else(|| region_of(url)).map(str::to_owned);
        let service = Settings::of(endpoint, region).connect("sqs").await?;
        let url = url.to_owned();
        Ok(Self { service, url })
    }

    /// Makes a call; any answer but 200 is an error, with SQS's words.
    pub(crate) async fn call<T: Serialize>(
        &self,
        name: &str,
        parameters: &T,
    ) -> Result<Bytes, SourceError> {
        let body = Call {
            queue_url: &self.url,
            rest: parameters,
        };
        let body = serde_json::to_vec(&body).map_err(SourceError::new)?;
        let target = format!("AmazonSQS.{name}");
        let headers = [
            ("content-type", "application/x-amz-json-1.0"),
            ("x-amz-target", target.as_str()),
        ];
        let answer = self.service.post("/", &headers, body.into()).await?;
        if answer.status().is_success() {
            return Ok(answer.into_body());
        }
        let words = refusal(answer.body());
        let status = answer.status().as_u16();
        let after = asked_by_aws(answer.status(), answer.headers(), SystemTime::now());
        let error = SourceError::new(format!("{name}: {status} {words}"));
        Err(error.with_after(after).with_too_large(is_too_large(&words)))
    }

    /// Makes a call with entries of which each may fail.
    pub(crate) async fn batch<T: Serialize>(
        &self,
        name: &str,
        entries: &[T],
    ) -> Result<Vec<Failed>, SourceError> {
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Entries<'a, T> {
            entries: &'a [T],
        }
        let answer = self.call(name, &Entries { entries }).await?;
        read_failed(&answer)
    }
}

fn read_failed(answer: &[u8]) -> Result<Vec<Failed>, SourceError> {
    let answer: BatchAnswer = serde_json::from_slice(answer).map_err(SourceError::new)?;
    let failed = answer.failed.unwrap_or_default().into_iter();
    let failed = failed.map(|entry| Failed {
        index: entry.id.parse().unwrap_or(usize::MAX),
        for_good: entry.sender_fault,
        reason: format!("{} {}", entry.code, entry.message.unwrap_or_default()),
    });
    Ok(failed.collect())
}

/// Whether SQS says so of a batch, or of a message.
fn is_too_large(words: &str) -> bool {
    words.contains("BatchRequestTooLong") || words.contains("must be shorter than")
}

/// `{"__type":"com.amazonaws.sqs#QueueDoesNotExist","message":…}`
fn refusal(body: &[u8]) -> String {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let kind = value["__type"].as_str().unwrap_or_default();
    let kind = kind.rsplit('#').next().unwrap_or_default();
    let words = ["message", "Message"];
    let words = words.iter().find_map(|key| value[*key].as_str());
    format!("{kind} {}", words.unwrap_or_default())
}

/// `https://sqs.eu-west-1.amazonaws.com/…` is in `eu-west-1`.
fn region_of(queue_url: &str) -> Option<&str> {
    let (_, rest) = queue_url.split_once("://sqs.")?;
    let (region, rest) = rest.split_once('.')?;
    rest.starts_with("amazonaws.com").then_some(region)
}

/// Scheme, host and port of a URL.
fn origin(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let host = rest.split('/').next()?;
    Some(format!("{scheme}://{host}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_says_where_and_in_which_region() {
        for (url, region, place) in [
            (
                "https://sqs.eu-west-1.amazonaws.com/1/q",
                Some("eu-west-1"),
                "https://sqs.eu-west-1.amazonaws.com",
            ),
            (
                "https://sqs.cn-north-1.amazonaws.com.cn/1/q",
                Some("cn-north-1"),
                "https://sqs.cn-north-1.amazonaws.com.cn",
            ),
            ("http://127.0.0.1:5055/1/q", None, "http://127.0.0.1:5055"),
            (
                "https://sqs.example.org/1/q",
                None,
                "https://sqs.example.org",
            ),
        ] {
            assert_eq!(region_of(url), region, "{url}");
            assert_eq!(origin(url).as_deref(), Some(place));
        }
    }

    #[test]
    fn entries_fail_each_for_itself() {
        let answer = br#"{"Successful":[{"Id":"0"}],"Failed":[
            {"Id":"1","SenderFault":true,"Code":"ReceiptHandleIsInvalid","Message":"no"},
            {"Id":"2","SenderFault":false,"Code":"InternalError"}]}"#;
        let failed = read_failed(answer).unwrap();
        assert_eq!((failed[0].index, failed[0].for_good), (1, true));
        assert_eq!(failed[0].reason, "ReceiptHandleIsInvalid no");
        assert_eq!((failed[1].index, failed[1].for_good), (2, false));
        assert_eq!(read_failed(b"{}").unwrap(), []);
        assert_eq!(read_failed(br#"{"Failed":null}"#).unwrap(), []);
        assert!(read_failed(b"<html>").is_err());
    }

    #[test]
    fn a_refusal_is_said_in_its_words() {
        let body = br#"{"__type":"com.amazonaws.sqs#QueueDoesNotExist","message":"gone"}"#;
        assert_eq!(refusal(body), "QueueDoesNotExist gone");
        assert_eq!(refusal(b"<html>"), " ");
        let long = br#"{"__type":"com.amazonaws.sqs#BatchRequestTooLong","message":"no"}"#;
        assert!(is_too_large(&refusal(long)) && !is_too_large(&refusal(body)));
    }
}
