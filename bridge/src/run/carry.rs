//! One event from its source to the broker's acknowledgement.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use protocols::model::QoS;
use tracing::{debug, warn};

use super::Flow;
use super::lanes::Passenger;
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

/// Carries an event and says what became of it. Ends at the latest when the bridge releases what is
/// in flight.
pub(super) async fn carry(flow: &Flow, passenger: &Passenger) -> Outcome {
    tokio::select! {
        biased;
        outcome = carry_on(flow, passenger) => outcome,
        () = flow.releasing() => Outcome::Released,
    }
}

/// What an event becomes, without publishing it.
pub(crate) fn plan(
    config: &crate::config::SourceConfig,
    event: Event,
    bridge: &str,
) -> Result<Plan, String> {
    let event = match config.envelope.unwrap(event) {
        Ok(Unwrapped::Event(event)) => *event,
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

async fn carry_on(flow: &Flow, passenger: &Passenger) -> Outcome {
    let event = &passenger.delivery.event;
    note_lag(flow, event);
    let publication = match plan(&flow.config, event.clone(), &flow.shared.bridge) {
        Ok(Plan::Publish(publication)) => *publication,
        Ok(Plan::Skip(why)) => {
            debug!(
                source = flow.config.name,
                id = event.id,
                why,
                "not published"
            );
            flow.metrics.skipped.add(1);
            return Outcome::Done;
        }
        Err(reason) => return dead(flow, event, reason).await,
    };
    let key = key_of(&publication).map(str::to_owned);
    if key
        .as_deref()
        .is_some_and(|key| flow.seen.contains(key, Instant::now()))
    {
        flow.metrics.duplicates.add(1);
        return Outcome::Done;
    }
    let outcome = publish(flow, event, publication).await;
    if outcome == Outcome::Done {
        flow.metrics.published.add(1);
        flow.metrics.time_to_publish.note(passenger.since.elapsed());
        if let Some(key) = key {
            flow.seen.insert(key, Instant::now());
        }
    }
    outcome
}

/// Publishes, again and again where that can help.
async fn publish(flow: &Flow, event: &Event, publication: Publication) -> Outcome {
    let limits = &flow.config.limits;
    let mut backoff = Backoff::new(limits.retry_min, limits.retry_max);
    let mut unclear = 0;
    loop {
        let verdict = flow.shared.publisher.publish(publication.clone()).await;
        let (refusal, reason) = match verdict {
            Ok(Verdict::Accepted) => return Outcome::Done,
            Ok(Verdict::Refused { refusal, reason }) => (refusal, reason),
            Err(_) => return Outcome::Released,
        };
        match refusal {
            Refusal::Final => return dead(flow, event, reason).await,
            Refusal::Busy => {}
            Refusal::Unclear => unclear += 1,
        }
        let pause = backoff.pause();
        if unclear >= limits.max_attempts {
            let after = limits.retry_max;
            let worn_out = limits.max_deliveries > 0
                && event
                    .received
                    .is_some_and(|received| received >= limits.max_deliveries);
            return if worn_out {
                dead(flow, event, reason).await
            } else {
                Outcome::Retry { after }
            };
        }
        warn!(source = flow.config.name, id = event.id, reason, retry_in = ?pause, "refused");
        flow.metrics.retried.add(1);
        tokio::time::sleep(pause).await;
    }
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
    let mut user_properties = event.attributes.clone();
    for (name, value) in [
        ("dead-letter-source", flow.config.name.as_str()),
        ("dead-letter-id", event.id.as_str()),
        ("dead-letter-reason", why),
    ] {
        user_properties.push((name.to_owned(), value.to_owned()));
    }
    // What a packet cannot say may be the reason why it is dead.
    user_properties.retain(|(name, value)| name.len().max(value.len()) <= 65_535);
    let publication = Publication {
        topic: topic.to_owned(),
        payload: event.body.clone(),
        qos: QoS::AtLeastOnce,
        retain: false,
        expiry_secs: None,
        content_type: event.content_type.clone(),
        response_topic: None,
        correlation: None,
        user_properties,
    };
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

fn note_lag(flow: &Flow, event: &Event) {
    if let Some(accepted) = event.accepted_ms {
        flow.metrics.lag_ms.set(now_ms().saturating_sub(accepted));
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
