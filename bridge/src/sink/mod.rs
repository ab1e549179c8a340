//! Sinks: where messages of topics go.
//!
//! A sink is one file here and one line in [`KINDS`]: it reads its settings and sends batches. The
//! rest is written once in [`subscription`]: a durable shared session at the broker, batches,
//! retries, and acknowledgements only for what the target has taken.

mod eventbridge;
mod lambda;
mod nats;
mod sending;
mod sqs;
mod subscription;
mod webhook;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use futures_util::future::BoxFuture;
use protocols::model::Filter;

use crate::config::{Section, check_name, usize_of};
use crate::event::Event;
use crate::metrics::FlowMetrics;
use crate::source::SourceError;

pub use subscription::run;

/// Every kind of sink: its name in the configuration and what reads its settings.
const KINDS: [(&str, Read); 5] = [
    ("eventbridge", eventbridge::read),
    ("lambda", lambda::read),
    ("nats", nats::read),
    ("sqs", sqs::read),
    ("webhook", webhook::read),
];

type Read = fn(&mut Section) -> Arc<dyn Kind>;

/// A sink's settings, and how to open it.
pub trait Kind: fmt::Debug + Send + Sync {
    /// Connects.
    fn open(
        &self,
        name: String,
        metrics: Arc<FlowMetrics>,
    ) -> BoxFuture<'_, Result<Box<dyn Target>, SourceError>>;
}

/// A connected sink. Messages are events: the topic is their `topic`, user properties are their
/// attributes.
pub trait Target: Send + Sync {
    /// How many messages one call takes.
    fn max_batch(&self) -> usize {
        1
    }

    /// Sends messages; one result for each, in their order.
    fn send<'a>(&'a self, messages: &'a [Event]) -> BoxFuture<'a, Vec<Sent>>;
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The target has it.
    Accepted,
    /// Perhaps the next time.
    Retry {
        /// Why not this time.
        reason: String,
        /// How long the target asks to be left alone.
        after: Option<Duration>,
    },
    /// Never.
    Refused(String),
}

impl Sent {
    /// Perhaps the next time, whenever that is.
    fn retry(reason: impl fmt::Display) -> Self {
        let reason = reason.to_string();
        let after = None;
        Self::Retry { reason, after }
    }

    /// The same of a call that failed, with what its answer asked for.
    fn failed(error: &SourceError) -> Self {
        let reason = error.to_string();
        let after = error.after();
        Self::Retry { reason, after }
    }
}

/// A sink of the configuration.
#[derive(Debug)]
pub struct SinkConfig {
    /// Its name: in metrics, logs, and the client identifier of its session.
    pub name: String,
    kind: Arc<dyn Kind>,
    filters: Vec<String>,
    share: String,
    session_expiry: Duration,
    max_in_flight: u16,
    concurrency: usize,
    linger: Duration,
    retry_min: Duration,
    retry_max: Duration,
    retry_after_max: Duration,
    dead_letter_topic: String,
}

/// Reads `[sinks]`.
pub fn read(root: &mut Section) -> Vec<SinkConfig> {
    let sinks = root.section("sinks").sections().into_iter();
    sinks
        .filter_map(|(name, mut section)| {
            check_name(&name, &section);
            let kind = read_kind(&mut section)?;
            Some(read_sink(name, kind, &mut section))
        })
        .collect()
}

fn read_kind(section: &mut Section) -> Option<Arc<dyn Kind>> {
    let kind = section.required_text("kind");
    let known = KINDS.iter().find(|(name, _)| *name == kind);
    if known.is_none() && !kind.is_empty() {
        let names: Vec<_> = KINDS.iter().map(|(name, _)| *name).collect();
        section.problem(
            "kind",
            format!("must be one of {}, not \"{kind}\"", names.join(", ")),
        );
    }
    let (_, read) = known?;
    Some(read(section))
}

fn read_sink(name: String, kind: Arc<dyn Kind>, section: &mut Section) -> SinkConfig {
    let ms = Duration::from_millis(1);
    let day = Duration::from_hours(24);
    let filters = section.texts("filters").unwrap_or_default();
    if filters.is_empty() {
        section.problem("filters", "is missing: the topics that go there");
    }
    for filter in &filters {
        if let Err(error) = Filter::parse(ByteString::from(filter.as_str()), 65_000, usize::MAX) {
            section.problem("filters", format!("\"{filter}\": {error}"));
        }
    }
    let in_flight = section.count("max_in_flight", 100, 1..=u64::from(u16::MAX));
    let share = section.text("share").unwrap_or_else(|| name.clone());
    if share.is_empty() || share.contains(['/', '+', '#']) {
        section.problem("share", "must be a name without /, + and #");
    }
    SinkConfig {
        kind,
        filters,
        share,
        session_expiry: section.duration("session_expiry", day, Duration::from_secs(1)..=365 * day),
        max_in_flight: u16::try_from(in_flight).unwrap_or(u16::MAX),
        concurrency: usize_of(section.count("concurrency", 1, 1..=1000)),
        linger: section.duration("linger", 5 * ms, Duration::ZERO..=10_000 * ms),
        retry_min: section.duration("retry_min", 100 * ms, ms..=day),
        retry_max: section.duration("retry_max", 30_000 * ms, ms..=day),
        retry_after_max: section.duration(
            "retry_after_max",
            Duration::from_mins(5),
            Duration::ZERO..=day,
        ),
        dead_letter_topic: section
            .text("dead_letter_topic")
            .unwrap_or_else(|| format!("dead-letters/{name}")),
        name,
    }
}
