//! Amazon SQS: long polls, and deletes exactly what the broker has acknowledged.
//!
//! While an event is under way its visibility is extended, so that a slow broker makes nobody
//! else receive it. Events of one `MessageGroupId` keep their order. Whatever speaks the SQS protocol
//! will do as `endpoint`.

mod api;
mod message;
mod receipts;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::{Context, Delivery, Kind, Source, SourceError};
use crate::config::{Section, usize_of};
use crate::event::Event;
use crate::sqs::Queue;
use api::Api;
use message::Message;
use receipts::Receipts;

/// Messages of one ReceiveMessage, and entries of one batch: SQS takes no more.
const BATCH: usize = 10;

const SECOND: Duration = Duration::from_secs(1);

/// Settings of an SQS source.
#[derive(Clone, Debug)]
struct Sqs {
    queue_urls: Vec<String>,
    endpoint: Option<String>,
    region: Option<String>,
    pollers: usize,
    wait_time: Duration,
    visibility_timeout: Duration,
}

/// Reads the settings.
pub(super) fn read(section: &mut Section) -> Arc<dyn Kind> {
    let one = section.text("queue_url");
    let mut queue_urls = section.texts("queue_urls").unwrap_or_default();
    queue_urls.extend(one);
    if queue_urls.is_empty() {
        section.problem("queue_url", "is missing (or queue_urls)");
    }
    for url in &queue_urls {
        if url
            .parse::<http::Uri>()
            .ok()
            .and_then(|url| url.host().map(str::len))
            .is_none()
        {
            section.problem("queue_url", format!("must be a URL, not \"{url}\""));
        }
    }
    // SQS hides the rest of a group from other pollers; not everything that speaks its protocol does.
    let default_pollers = if queue_urls.iter().any(|url| is_fifo(url)) {
        1
    } else {
        4
    };
    let twelve_hours = 43_200 * SECOND;
    Arc::new(Sqs {
        queue_urls,
        endpoint: section.text("endpoint"),
        region: section.text("region"),
        pollers: usize_of(section.count("pollers", default_pollers, 1..=64)),
        wait_time: section.duration("wait_time", 20 * SECOND, Duration::ZERO..=20 * SECOND),
        visibility_timeout: section.duration(
            "visibility_timeout",
            30 * SECOND,
            SECOND..=twelve_hours,
        ),
    })
}

impl Kind for Sqs {
    fn open(&self, context: Context) -> BoxFuture<'_, Result<Vec<Box<dyn Source>>, SourceError>> {
        async move {
            let mut workers: Vec<Box<dyn Source>> = Vec::new();
            for url in &self.queue_urls {
                let (endpoint, region) = (self.endpoint.as_deref(), self.region.as_deref());
                let queue = Queue::connect(url, endpoint, region).await?;
                let api: Arc<dyn Api> = Arc::new(queue);
                let (name, metrics) = (context.name.clone(), Arc::clone(&context.metrics));
                let receipts =
                    Receipts::start(Arc::clone(&api), self.visibility_timeout, name, metrics);
                for _ in 0..self.pollers {
                    workers.push(Box::new(Poller {
                        api: Arc::clone(&api),
                        receipts: Arc::clone(&receipts),
                        queue: queue_name(url).to_owned(),
                        wait: self.wait_time,
                        visibility: self.visibility_timeout,
                    }));
                }
            }
            Ok(workers)
        }
        .boxed()
    }

    fn sample(&self, file: &[u8]) -> Result<Vec<Event>, SourceError> {
        let queue = self.queue_urls.first().map_or("", |url| queue_name(url));
        let messages = Message::sample(file).into_iter();
        Ok(messages.map(|message| message.event(queue)).collect())
    }
}

/// Whether a queue keeps an order: its name says so.
pub(crate) fn is_fifo(queue_url: &str) -> bool {
    queue_url.strip_suffix(".fifo").is_some()
}

fn queue_name(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

/// One long poll at a time.
struct Poller {
    api: Arc<dyn Api>,
    receipts: Arc<Receipts>,
    queue: String,
    wait: Duration,
    visibility: Duration,
}

impl Source for Poller {
    fn batch(&self) -> usize {
        BATCH
    }

    fn receive(&mut self, max: usize) -> BoxFuture<'_, Result<Vec<Delivery>, SourceError>> {
        async move {
            let messages = self
                .api
                .receive(max.min(BATCH), self.wait, self.visibility)
                .await?;
            let deliveries = messages.into_iter().map(|message| {
                let handle = self.receipts.hold(message.receipt.clone());
                let event = message.event(&self.queue);
                Delivery { event, handle }
            });
            Ok(deliveries.collect())
        }
        .boxed()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        async move { self.receipts.settled().await }.boxed()
    }
}
