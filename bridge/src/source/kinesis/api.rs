//! The three calls that the source makes: JSON over HTTP, signed.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use crate::aws::Service;
use crate::source::SourceError;

/// Pages of a list of shards; a stream with more shards than these hold is refused.
const MAX_PAGES: usize = 100;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) sequence: String,
    pub(super) partition_key: String,
    pub(super) data: Bytes,
    pub(super) arrived_ms: Option<u64>,
}

/// A shard of the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shard {
    pub(super) id: String,
    /// One after a split, two after a merge.
    pub(super) parents: Vec<String>,
    /// Nothing more is written to it.
    pub(super) closed: bool,
}

/// Where reading begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// The oldest record that the stream still has.
    Oldest,
    /// What arrives from then on, in milliseconds since 1970.
    Since(u64),
    /// Behind the record of this sequence number.
    After(String),
}

/// What one call brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) records: Vec<Record>,
    /// None: the shard is closed and read to its end.
    pub(super) next: Option<String>,
    /// How far behind the newest record of the shard.
    pub(super) behind: Duration,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// The iterator is older than five minutes.
    #[error("the iterator has expired")]
    Expired,
    /// Too many calls, or too many bytes, of this shard.
    #[error("throttled: {0}")]
    Throttled(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl From<ApiError> for SourceError {
    fn from(error: ApiError) -> Self {
        Self::new(error)
    }
}

/// What the source needs of a stream.
pub(super) trait Api: Send + Sync {
    fn shards(&self) -> BoxFuture<'_, Result<Vec<Shard>, ApiError>>;

    fn iterator<'a>(
        &'a self,
        shard: &'a str,
        position: &'a Position,
    ) -> BoxFuture<'a, Result<String, ApiError>>;

    fn records<'a>(
        &'a self,
        iterator: &'a str,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, ApiError>>;
}

/// The stream itself.
pub(super) struct Signed {
    service: Service,
    stream: String,
}

impl Signed {
    pub(super) fn new(service: Service, stream: String) -> Self {
        Self { service, stream }
    }

    async fn call(&self, name: &str, body: Value) -> Result<Value, ApiError> {
        let target = format!("Kinesis_20131202.{name}");
        let headers = [
            ("content-type", "application/x-amz-json-1.1"),
            ("x-amz-target", target.as_str()),
        ];
        let body = Bytes::from(body.to_string());
        let answer = self.service.post("/", &headers, body).await;
        let answer = answer.map_err(|error| ApiError::Other(error.to_string()))?;
        if !answer.status().is_success() {
            return Err(refusal(answer.status().as_u16(), answer.body()));
        }
        serde_json::from_slice(answer.body()).map_err(|error| ApiError::Other(error.to_string()))
    }
}

/// `{"__type":"com.amazonaws.kinesis#ExpiredIteratorException","message":…}`
fn refusal(status: u16, body: &[u8]) -> ApiError {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let kind = value["__type"].as_str().unwrap_or_default();
    let kind = kind.rsplit('#').next().unwrap_or_default();
    let message = ["message", "Message"]
        .iter()
        .find_map(|key| value[*key].as_str());
    let message = message.unwrap_or_default();
    match kind {
        "ExpiredIteratorException" => ApiError::Expired,
        "ProvisionedThroughputExceededException"
        | "LimitExceededException"
        | "ThrottlingException"
        | "KMSThrottlingException" => ApiError::Throttled(format!("{kind} {message}")),
        _ => ApiError::Other(format!("{status} {kind} {message}")),
    }
}

impl Api for Signed {
    fn shards(&self) -> BoxFuture<'_, Result<Vec<Shard>, ApiError>> {
        async move {
            let mut shards = Vec::new();
            let mut body = json!({"StreamName": self.stream});
            for _ in 0..MAX_PAGES {
                let answer = self.call("ListShards", body).await?;
                let found = answer["Shards"].as_array().into_iter().flatten();
                shards.extend(found.filter_map(shard));
                match answer["NextToken"].as_str() {
                    Some(token) => body = json!({"NextToken": token}),
                    None => return Ok(shards),
                }
            }
            Err(ApiError::Other("too many shards".to_owned()))
        }
        .boxed()
    }

    fn iterator<'a>(
        &'a self,
        shard: &'a str,
        position: &'a Position,
    ) -> BoxFuture<'a, Result<String, ApiError>> {
        async move {
            let mut body = json!({"StreamName": self.stream, "ShardId": shard});
            match position {
                Position::Oldest => body["ShardIteratorType"] = json!("TRIM_HORIZON"),
                Position::Since(ms) => {
                    body["ShardIteratorType"] = json!("AT_TIMESTAMP");
                    body["Timestamp"] = json!(seconds(*ms));
                }
                Position::After(sequence) => {
                    body["ShardIteratorType"] = json!("AFTER_SEQUENCE_NUMBER");
                    body["StartingSequenceNumber"] = json!(sequence);
                }
            }
            let answer = self.call("GetShardIterator", body).await?;
            let iterator = answer["ShardIterator"].as_str().map(str::to_owned);
            iterator.ok_or_else(|| ApiError::Other("no iterator in the answer".to_owned()))
        }
        .boxed()
    }

    fn records<'a>(
        &'a self,
        iterator: &'a str,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, ApiError>> {
        async move {
            let body = json!({"ShardIterator": iterator, "Limit": limit});
            let answer = self.call("GetRecords", body).await?;
            let found = answer["Records"].as_array().into_iter().flatten();
            let records: Option<Vec<_>> = found.map(Record::from_json).collect();
            // To leave one out would be to lose it.
            let records = records
                .ok_or_else(|| ApiError::Other("a record that cannot be read".to_owned()))?;
            let behind = answer["MillisBehindLatest"].as_u64().unwrap_or(0);
            Ok(Page {
                records,
                next: answer["NextShardIterator"].as_str().map(str::to_owned),
                behind: Duration::from_millis(behind),
            })
        }
        .boxed()
    }
}

fn shard(value: &Value) -> Option<Shard> {
    let parents = ["ParentShardId", "AdjacentParentShardId"].into_iter();
    Some(Shard {
        id: value["ShardId"].as_str()?.to_owned(),
        parents: parents
            .filter_map(|name| value[name].as_str().map(str::to_owned))
            .collect(),
        closed: value["SequenceNumberRange"]["EndingSequenceNumber"].is_string(),
    })
}

/// Kinesis counts in seconds with a fraction.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "times since 1970 in milliseconds need 41 bits; what is no such time is bounded"
)]
pub(super) fn millis(seconds: f64) -> u64 {
    (seconds * 1000.0).round() as u64
}

#[allow(
    clippy::cast_precision_loss,
    reason = "times since 1970 in milliseconds need 41 bits"
)]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_apart() {
        let say = |kind: &str| refusal(400, format!("{{\"__type\":\"{kind}\"}}").as_bytes());
        assert!(matches!(say("ExpiredIteratorException"), ApiError::Expired));
        let full = "com.amazonaws.kinesis#ProvisionedThroughputExceededException";
        assert!(matches!(say(full), ApiError::Throttled(_)));
        assert!(matches!(
            say("InvalidArgumentException"),
            ApiError::Other(_)
        ));
        assert!(matches!(refusal(500, b"no JSON"), ApiError::Other(_)));
    }

    #[test]
    fn shards_name_their_parents() {
        let read = |text: &str| shard(&serde_json::from_str(text).unwrap()).unwrap();
        let merged = read(
            r#"{"ShardId":"c","ParentShardId":"a","AdjacentParentShardId":"b",
            "SequenceNumberRange":{"StartingSequenceNumber":"1","EndingSequenceNumber":"2"}}"#,
        );
        assert_eq!(merged.parents, ["a", "b"]);
        assert!(merged.closed);
        let open = read(r#"{"ShardId":"c","SequenceNumberRange":{"StartingSequenceNumber":"1"}}"#);
        assert!(!open.closed && open.parents.is_empty());
    }

    #[test]
    fn times_keep_their_milliseconds() {
        assert_eq!(millis(1_763_865_000.123), 1_763_865_000_123);
        assert_eq!(millis(seconds(1_763_865_000_001)), 1_763_865_000_001);
    }
}
