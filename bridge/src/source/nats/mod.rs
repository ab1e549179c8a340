//! NATS: core subjects, and JetStream by a durable pull consumer.
//!
//! JetStream messages are acknowledged after the broker's acknowledgement, said to be in progress
//! while it takes long, and given back with a delay if it fails; they keep the order of their
//! subject. Core NATS has no acknowledgements: what it delivered and the bridge loses in a crash
//! is gone.

mod core;
mod jetstream;
mod message;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::{Context, Kind, Source, SourceError};
use crate::config::Section;
use crate::envelope::Envelope;
use crate::event::Event;
use crate::nats::Settings;
use jetstream::StreamSettings;

const SECOND: Duration = Duration::from_secs(1);

/// Settings of a NATS source.
#[derive(Clone, Debug)]
struct Nats {
    connection: Settings,
    subjects: Vec<String>,
    /// Members of one share core messages.
    queue_group: Option<String>,
    stream: Option<StreamSettings>,
    order: Order,
}

/// Which messages keep their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Subject,
    Stream,
    None,
}

const ORDERS: [(&str, Order); 3] = [
    ("subject", Order::Subject),
    ("stream", Order::Stream),
    ("none", Order::None),
];

/// Reads the settings.
pub(super) fn read(section: &mut Section) -> Arc<dyn Kind> {
    let stream = StreamSettings::read(section);
    let nats = Nats {
        connection: Settings::read(section),
        subjects: section.texts("subjects").unwrap_or_default(),
        queue_group: section.text("queue_group"),
        order: section.choice("order", &ORDERS, Order::Subject),
        stream,
    };
    if nats.stream.is_none() && nats.subjects.is_empty() {
        section.problem("subjects", "is missing (only with \"stream\" may it be)");
    }
    if nats.stream.is_some() && nats.queue_group.is_some() {
        section.problem(
            "queue_group",
            "is for core subjects; consumers of a stream share \"consumer\"",
        );
    }
    Arc::new(nats)
}

impl Kind for Nats {
    fn open(&self, context: Context) -> BoxFuture<'_, Result<Vec<Box<dyn Source>>, SourceError>> {
        async move {
            let metrics = Arc::clone(&context.metrics);
            let client = self.connection.connect(&context.name, metrics).await?;
            let source: Box<dyn Source> = match &self.stream {
                Some(stream) => Box::new(
                    jetstream::open(client, stream, &self.subjects, self.order, &context).await?,
                ),
                None => {
                    let group = self.queue_group.as_deref();
                    Box::new(core::open(client, &self.subjects, group, self.order).await?)
                }
            };
            Ok(vec![source])
        }
        .boxed()
    }

    fn sample(&self, file: &[u8]) -> Result<Vec<Event>, SourceError> {
        let subject = self.subjects.first().map_or("sample", String::as_str);
        message::sample(file, subject).map(|event| vec![event])
    }

    fn envelope(&self) -> Envelope {
        Envelope::Raw
    }
}
