//! Kinesis data streams: every shard is polled, and its checkpoint moved only behind what the
//! broker has acknowledged.
//!
//! Records of one partition key keep their order, also across a split or a merge: the children of a
//! shard are read when the last record of all their parents is settled. Kinesis takes nothing back:
//! what is to come again is read again from the checkpoint. Checkpoints are the bridge's own, so one
//! bridge reads a stream.

mod api;
mod checkpoints;
mod progress;
mod reader;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Context, Delivery, Kind, Source, SourceError};
use crate::aws;
use crate::config::{Section, usize_of};
use crate::event::Event;
use api::{Api, Record, Signed};
use checkpoints::Checkpoints;
use progress::Hold;
use reader::Reader;

const SECOND: Duration = Duration::from_secs(1);

/// Pages that are read and not taken yet, of all shards together.
const PAGES: usize = 4;

/// Settings of a Kinesis source.
#[derive(Clone, Debug)]
struct Kinesis {
    stream: String,
    service: aws::Settings,
    checkpoints: PathBuf,
    start: Start,
    order: Order,
    pace: Pace,
}

/// How much and how often is read.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Records of one call.
    batch: usize,
    /// Between two calls of a shard that had no more.
    poll: Duration,
    /// Between two looks for new shards.
    discover: Duration,
}

/// Where a stream begins that was never read before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    Oldest,
    Now,
}

/// Which records keep their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Key,
    Shard,
    None,
}

const STARTS: [(&str, Start); 2] = [("oldest", Start::Oldest), ("now", Start::Now)];

const ORDERS: [(&str, Order); 3] = [
    ("key", Order::Key),
    ("shard", Order::Shard),
    ("none", Order::None),
];

/// Reads the settings.
pub(super) fn read(section: &mut Section) -> Arc<dyn Kind> {
    let pace = Pace {
        batch: usize_of(section.count("batch", 1000, 1..=10_000)),
        // Kinesis allows five calls of a shard in a second.
        poll: section.duration("poll_interval", SECOND, SECOND / 5..=60 * SECOND),
        discover: section.duration("discover_interval", 30 * SECOND, SECOND..=3600 * SECOND),
    };
    Arc::new(Kinesis {
        stream: section.required_text("stream"),
        service: aws::Settings::read(section),
        checkpoints: section.required_text("checkpoints").into(),
        start: section.choice("start", &STARTS, Start::Oldest),
        order: section.choice("order", &ORDERS, Order::Key),
        pace,
    })
}

impl Kind for Kinesis {
    fn open(&self, context: Context) -> BoxFuture<'_, Result<Vec<Box<dyn Source>>, SourceError>> {
        async move {
            let service = self.service.connect("kinesis").await?;
            let api: Arc<dyn Api> = Arc::new(Signed::new(service, self.stream.clone()));
            api.shards().await?;
            let folder = self.checkpoints.join(&context.name);
            let stream = self.stream.clone();
            let opening = move || Checkpoints::open(&folder, &stream);
            let opened = tokio::task::spawn_blocking(opening).await;
            let checkpoints = opened.map_err(SourceError::new)??;
            Ok(vec![
                Box::new(Stream::start(self, api, checkpoints, &context)) as Box<dyn Source>,
            ])
        }
        .boxed()
    }

    fn sample(&self, file: &[u8]) -> Result<Vec<Event>, SourceError> {
        let records = sample(file).into_iter();
        Ok(records
            .map(|record| self.order.event(record, &self.stream, "shard"))
            .collect())
    }

    fn takes_poison(&self) -> bool {
        false
    }
}

impl Order {
    fn event(self, record: Record, stream: &str, shard: &str) -> Event {
        let id = format!("{shard}:{}", record.sequence);
        Event {
            key: Some(id.clone()),
            id,
            group: match self {
                Self::Key => Some(record.partition_key.clone()),
                Self::Shard => Some(shard.to_owned()),
                Self::None => None,
            },
            body: record.data,
            accepted_ms: record.arrived_ms,
            ..Event::default()
        }
        .with_meta("stream", stream)
        .with_meta("shard", shard)
        .with_meta("partition-key", record.partition_key)
        .with_meta("sequence-number", record.sequence)
    }
}

/// A record that was read, and the place that it holds in its shard.
struct Read {
    shard: Arc<str>,
    record: Record,
    hold: Hold,
}

/// A stream that is being read.
struct Stream {
    name: String,
    order: Order,
    pages: mpsc::Receiver<Vec<Read>>,
    /// Of a page that was larger than what was asked for.
    rest: VecDeque<Read>,
    checkpoints: Arc<Checkpoints>,
    tasks: JoinSet<()>,
}

impl Stream {
    fn start(
        settings: &Kinesis,
        api: Arc<dyn Api>,
        checkpoints: Arc<Checkpoints>,
        context: &Context,
    ) -> Self {
        let (sender, pages) = mpsc::channel(PAGES);
        let reader = Reader {
            source: context.name.clone(),
            api,
            checkpoints: Arc::clone(&checkpoints),
            metrics: Arc::clone(&context.metrics),
            pages: sender,
            start: settings.start,
            pace: settings.pace,
            behind: Mutex::default(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&checkpoints).write_for_ever());
        tasks.spawn(Arc::new(reader).run());
        Self {
            name: settings.stream.clone(),
            order: settings.order,
            pages,
            rest: VecDeque::new(),
            checkpoints,
            tasks,
        }
    }

    /// What is read again anyway is left out.
    fn delivery(&self, read: Read) -> Option<Delivery> {
        if read.hold.is_void() {
            return None;
        }
        let event = self.order.event(read.record, &self.name, &read.shard);
        let handle = Box::new(read.hold);
        Some(Delivery { event, handle })
    }
}

impl Source for Stream {
    fn receive(&mut self, max: usize) -> BoxFuture<'_, Result<Vec<Delivery>, SourceError>> {
        async move {
            if self.rest.is_empty() {
                let page = self.pages.recv().await;
                let page = page.ok_or_else(|| SourceError::new("the readers have ended"))?;
                self.rest = page.into();
            }
            let mut deliveries = Vec::new();
            while deliveries.len() < max
                && let Some(read) = self.rest.pop_front()
            {
                deliveries.extend(self.delivery(read));
            }
            Ok(deliveries)
        }
        .boxed()
    }

    fn close(mut self: Box<Self>) -> BoxFuture<'static, ()> {
        async move {
            self.tasks.shutdown().await;
            self.checkpoints.write().await;
        }
        .boxed()
    }
}

/// The output of `aws kinesis get-records`, a function's event, or the data alone.
fn sample(file: &[u8]) -> Vec<Record> {
    let value: Value = serde_json::from_slice(file).unwrap_or_default();
    let records = value["Records"].as_array().into_iter().flatten();
    let records = records.map(|record| record.get("kinesis").unwrap_or(record));
    let found: Option<Vec<_>> = records.map(Record::from_json).collect();
    match found {
        Some(found) if !found.is_empty() => found,
        _ => vec![Record {
            sequence: "1".to_owned(),
            partition_key: "sample".to_owned(),
            data: Bytes::copy_from_slice(file),
            arrived_ms: None,
        }],
    }
}

impl Record {
    /// As `GetRecords` gives it, or as a function gets it.
    fn from_json(value: &Value) -> Option<Self> {
        let text = |names: [&str; 2]| names.iter().find_map(|name| value[*name].as_str());
        let arrived = ["ApproximateArrivalTimestamp", "approximateArrivalTimestamp"];
        let arrived = arrived.iter().find_map(|name| value[*name].as_f64());
        Some(Self {
            sequence: text(["SequenceNumber", "sequenceNumber"])?.to_owned(),
            partition_key: text(["PartitionKey", "partitionKey"])?.to_owned(),
            data: BASE64_STANDARD.decode(text(["Data", "data"])?).ok()?.into(),
            arrived_ms: arrived.map(api::millis),
        })
    }
}

#[cfg(test)]
mod tests;
