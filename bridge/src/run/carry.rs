//! What becomes of one event: what it is published as, and what is done when that does not work.
//!
//! Most events need no more than [`step`] and the broker's acknowledgement; [`carry`] sees to the
//! others, each in a task of its own.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tracing::{debug, warn};

use super::Flow;
use super::lanes::Passenger;
use super::seen::Key;
use crate::config::DeadPolicy;
use crate::dead_letters::DeadLetter;
use crate::envelope::Unwrapped;
use crate::event::Event;
use crate::mapping::{IDEMPOTENCY_PROPERTY, Publication, VIA_PROPERTY};
use crate::publisher::{Refusal, Verdict};
use crate::retry::Backoff;
use crate::source::Outcome;

/// What is to be done with an event.
#[derive(Debug)]
pub(crate) enum Plan {
    /// Publish it.
    Publish(Box<Publication>),
    /// Nothing, for this reason.
    Skip(&'static str),
}

/// What is to be done with an event that has come.
#[derive(Debug)]
pub(super) enum Step {
    /// Publish it, and remember it by its key.
    Publish(Box<Publication>, Option<Key>),
    /// Nothing more.
    Settled(Outcome),
    /// It needs [`carry`].
    Trouble(Trouble),
}

/// Why an event cannot just be published.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It has no publication, for this reason.
    Dead(String),
    /// The broker has refused it.
    Refused(Refusal, String),
}

/// Says what is to be done with an event.
pub(super) fn step(flow: &Flow, passenger: &Passenger, now: Instant) -> Step {
    let event = &passenger.delivery.event;
    let publication = match plan(&flow.config, event, &flow.shared.bridge) {
        Ok(Plan::Publish(publication)) => publication,
        Ok(Plan::Skip(why)) => {
            let source = &flow.config.name;
            debug!(source, id = event.id, why, "not published");
            flow.metrics.skipped.add(1);
            return Step::Settled(Outcome::Done);
        }
        Err(reason) => return Step::Trouble(Trouble::Dead(reason)),
    };
    let key = key_of(&publication).map(|key| flow.seen.key(key));
    if let Some(key) = key
        && flow.seen.contains(key, now)
    {
        flow.metrics.duplicates.add(1);
        return Step::Settled(Outcome::Done);
    }
    Step::Publish(publication, key)
}

/// The broker has taken an event over.
pub(super) fn note_published(flow: &Flow, passenger: &Passenger, key: Option<Key>, now: Instant) {
    flow.metrics.published.add(1);
    let took = now.duration_since(passenger.since);
    flow.metrics.time_to_publish.note(took);
    if let Some(key) = key {
        flow.seen.insert(key, now);
    }
}

/// Sees to an event that could not just be published, and says what became of it. Ends at the latest
/// when the bridge releases what is in flight.
pub(super) async fn carry(flow: &Flow, passenger: &Passenger, trouble: Trouble) -> Outcome {
    tokio::select! {
        biased;
        outcome = carry_on(flow, passenger, trouble) => outcome,
        () = flow.releasing() => Outcome::Released,
    }
}

/// What an event becomes, without publishing it.
pub(crate) fn plan(
    config: &crate::config::SourceConfig,
    event: &Event,
    bridge: &str,
) -> Result<Plan, String> {
    let event = match config.envelope.unwrap(event) {
        Ok(Unwrapped::Event(event)) => event,
        Ok(Unwrapped::Skip(why)) => return Ok(Plan::Skip(why)),
        Err(error) => return Err(error.to_string()),
    };
    let mut via = event
        .attributes
        .iter()
        .filter(|(name, _)| name == VIA_PROPERTY);
    if via.any(|(_, bridges)| bridges.split(',').any(|name| name.trim() == bridge)) {
        return Ok(Plan::Skip("it has been through this bridge"));
    }
    if let Some(filter) = &config.filter
        && !filter.matches_event(&event)
    {
        return Ok(Plan::Skip("the filter does not match"));
    }
    let publication = config.mapping.publication(&event, &config.name, bridge);
    match publication {
        Ok(publication) => Ok(Plan::Publish(Box::new(publication))),
        Err(error) => Err(error.to_string()),
    }
}

async fn carry_on(flow: &Flow, passenger: &Passenger, trouble: Trouble) -> Outcome {
    let event = &passenger.delivery.event;
    let (refusal, reason) = match trouble {
        Trouble::Dead(reason) => return dead(flow, event, reason).await,
        Trouble::Refused(refusal, reason) => (refusal, reason),
    };
    let publication = match step(flow, passenger, Instant::now()) {
        Step::Publish(publication, _) => publication,
        Step::Settled(outcome) => return outcome,
        Step::Trouble(Trouble::Dead(reason) | Trouble::Refused(_, reason)) => {
            return dead(flow, event, reason).await;
        }
    };
    let key = key_of(&publication).map(|key| flow.seen.key(key));
    let outcome = publish_again(flow, event, publication, (refusal, reason)).await;
    if outcome == Outcome::Done {
        note_published(flow, passenger, key, Instant::now());
    }
    outcome
}

/// Publishes what was refused, again and again where that can help.
async fn publish_again(
    flow: &Flow,
    event: &Event,
    publication: Box<Publication>,
    first: (Refusal, String),
) -> Outcome {
    let limits = &flow.config.limits;
    let mut backoff = Backoff::new(limits.retry_min, limits.retry_max);
    let mut unclear = 0;
    let (mut refusal, mut reason) = first;
    loop {
        match refusal {
            Refusal::Final => return dead(flow, event, reason).await,
            Refusal::Busy => {}
            Refusal::Unclear => unclear += 1,
        }
        let pause = backoff.pause();
        if unclear >= limits.max_attempts {
            return worn_out(flow, event, reason).await;
        }
        warn!(source = flow.config.name, id = event.id, reason, retry_in = ?pause, "refused");
        flow.metrics.retried.add(1);
        tokio::time::sleep(pause).await;
        match flow.shared.publisher.publish((*publication).clone()).await {
            Ok(Verdict::Accepted) => return Outcome::Done,
            Ok(Verdict::Refused {
                refusal: again,
                reason: why,
            }) => (refusal, reason) = (again, why),
            Err(_) => return Outcome::Released,
        }
    }
}

/// It was tried often enough: the source gets it back, unless that was often enough too.
async fn worn_out(flow: &Flow, event: &Event, reason: String) -> Outcome {
    let limits = &flow.config.limits;
    let most = limits.max_deliveries;
    if most > 0 && event.received.is_some_and(|received| received >= most) {
        return dead(flow, event, reason).await;
    }
    let after = limits.retry_max;
    Outcome::Retry { after }
}

/// Deals with an event that cannot be published, as the configuration says.
async fn dead(flow: &Flow, event: &Event, reason: String) -> Outcome {
    warn!(
        source = flow.config.name,
        id = event.id,
        reason,
        "cannot be published"
    );
    let stored = match (&flow.config.dead, &flow.shared.dead_letters) {
        (DeadPolicy::Folder, Some(folder)) => {
            let letter = DeadLetter::new(&flow.config.name, event, &reason, now_ms());
            folder
                .store(letter)
                .await
                .map_err(|error| error.to_string())
        }
        (DeadPolicy::Topic(topic), _) => publish_dead(flow, topic, event, &reason).await,
        _ => return Outcome::Poison { reason },
    };
    match stored {
        Ok(()) => Outcome::DeadLettered,
        Err(error) => {
            warn!(
                source = flow.config.name,
                id = event.id,
                error,
                "no dead letter"
            );
            let after = flow.config.limits.retry_max;
            Outcome::Retry { after }
        }
    }
}

async fn publish_dead(flow: &Flow, topic: &str, event: &Event, why: &str) -> Result<(), String> {
    let marks = [
        ("dead-letter-source", flow.config.name.as_str()),
        ("dead-letter-id", event.id.as_str()),
        ("dead-letter-reason", why),
    ];
    let mut publication = Publication::dead_letter(topic, event, marks);
    // What a packet cannot say may be the reason why it is dead.
    publication
        .user_properties
        .retain(|(name, value)| name.len().max(value.len()) <= 65_535);
    match flow.shared.publisher.publish(publication).await {
        Ok(Verdict::Accepted) => Ok(()),
        Ok(Verdict::Refused { reason, .. }) => Err(reason),
        Err(stopped) => Err(stopped.to_string()),
    }
}

fn key_of(publication: &Publication) -> Option<&str> {
    let mut properties = publication.user_properties.iter().rev();
    let found = properties.find(|(name, _)| name == IDEMPOTENCY_PROPERTY);
    found.map(|(_, key)| key.as_str())
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
