//! Sources: where events come from.
//!
//! A source is one file here and one line in [`KINDS`]. It reads its own settings, connects, and
//! yields [`Delivery`]s; everything else (mapping, order, bounds, retries, dead letters, metrics,
//! shutdown) is [`crate::run`]'s, written once for all of them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::config::Section;
use crate::envelope::Envelope;
use crate::event::Event;
use crate::http::Routes;
use crate::metrics::FlowMetrics;
use crate::publisher::Publisher;

mod http;
mod kinesis;
mod nats;
mod sqs;

pub(crate) use sqs::is_fifo;

/// Every kind of source: its name in the configuration and what reads its settings.
const KINDS: [(&str, Read); 6] = [
    ("eventbridge", http::read_eventbridge),
    ("kinesis", kinesis::read),
    ("nats", nats::read),
    ("sns", http::read_sns),
    ("sqs", sqs::read),
    ("webhook", http::read_webhook),
];

type Read = fn(&mut Section) -> Arc<dyn Kind>;

/// A source's settings, and how to open it.
pub trait Kind: fmt::Debug + Send + Sync {
    /// Connects. The workers that come back are asked in parallel; one is usual.
    fn open(&self, context: Context) -> BoxFuture<'_, Result<Vec<Box<dyn Source>>, SourceError>>;

    /// The events of a file, as if the source had received it: for `explain`.
    fn sample(&self, file: &[u8]) -> Result<Vec<Event>, SourceError>;

    /// The envelope to expect unless the configuration names one.
    fn envelope(&self) -> Envelope {
        Envelope::Auto
    }

    /// Whether it can deal with an event that can never be published. If not, such events go to
    /// the folder or to a topic.
    fn takes_poison(&self) -> bool {
        true
    }

    /// The HTTP path that it is called at, if it is.
    fn path(&self) -> Option<&str> {
        None
    }
}

/// What a source may need of the bridge.
#[derive(Clone, Debug)]
pub struct Context {
    /// Its name.
    pub name: String,
    /// The HTTP port's paths.
    pub routes: Arc<Routes>,
    /// Its numbers.
    pub metrics: Arc<FlowMetrics>,
    /// Whether the broker is there.
    pub publisher: Publisher,
}

/// A connected source.
pub trait Source: Send {
    /// The next events, at most so many, in their order. Waits until there is at least one, or
    /// gives an empty list now and then. May be dropped while it waits.
    fn receive(&mut self, max: usize) -> BoxFuture<'_, Result<Vec<Delivery>, SourceError>>;

    /// Events that one call brings at most.
    fn batch(&self) -> usize {
        500
    }

    /// How long a stop waits for a call that is under way, because what it would bring is missed.
    fn patience(&self) -> Duration {
        Duration::ZERO
    }

    /// No more will be received and all is settled: what was not said to the server yet is.
    fn close(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// An event and the duty to say what became of it.
pub struct Delivery {
    /// The event.
    pub event: Event,
    /// Takes the outcome. Dropping it without is like [`Outcome::Released`].
    pub handle: Box<dyn Settle>,
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Delivery").field(&self.event.id).finish()
    }
}

/// Takes the outcome of one delivery. It does not wait: the source does in its own time what the
/// outcome asks for.
pub trait Settle: Send + Sync {
    /// Says what became of it.
    fn settle(self: Box<Self>, outcome: Outcome);
}

/// What became of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The broker has it (or had it before, or nobody wants it): the source may forget it.
    Done,
    /// It lies among the dead letters: the source may forget it.
    DeadLettered,
    /// It can be published, but not now.
    Retry {
        /// Not before.
        after: Duration,
    },
    /// It can never be published, and the source is to deal with it.
    Poison {
        /// Why.
        reason: String,
    },
    /// The bridge stops: somebody else may have it at once.
    Released,
}

/// A failure of a source.
#[derive(Debug, thiserror::Error)]
#[error("{words}")]
pub struct SourceError {
    words: String,
    after: Option<Duration>,
    too_large: bool,
}

impl SourceError {
    /// In words.
    pub fn new(what: impl fmt::Display) -> Self {
        let words = what.to_string();
        Self {
            words,
            after: None,
            too_large: false,
        }
    }

    /// Whoever failed asks to be left alone for so long.
    #[must_use]
    pub fn with_after(self, after: Option<Duration>) -> Self {
        Self { after, ..self }
    }

    /// What was asked is larger than the service takes.
    #[must_use]
    pub fn with_too_large(self, too_large: bool) -> Self {
        Self { too_large, ..self }
    }

    /// Whether what was asked is larger than the service takes: the same again will fail again.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        self.too_large
    }

    /// How long whoever failed asks to be left alone.
    #[must_use]
    pub fn after(&self) -> Option<Duration> {
        self.after
    }
}

/// Reads the settings of a source. None if its kind is not known.
pub fn read(section: &mut Section) -> Option<Arc<dyn Kind>> {
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
