//! Many retained messages, and then someone who subscribes to all of them.

use super::meter::{Meter, mib};
use super::stage::{AT_ONCE, PATIENCE, SIZE};
use super::{Arena, Outcome, Scenario};
use crate::generator::client::Plan;
use crate::generator::clock;
use crate::generator::load::Load;
use crate::generator::publisher::{PLACE, Publication, Publisher};
use crate::generator::swarm::{Deaf, Swarm};
use crate::spec::{Key, Params, key};
use crate::wire::Wire;
use anyhow::Result;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "retained",
    about: "many retained messages, then a subscription to all",
    keys: KEYS,
    durable: false,
    run,
};

const KEYS: &[Key] = &[
    key("topics", "100k", "topics with a retained message"),
    key("limit", "60", "seconds after which publishing is given up"),
    SIZE,
];

fn run(arena: &mut Arena<'_>, params: &Params) -> Result<Outcome> {
    let url = arena.url(Wire::MQTT)?;
    let mut swarm = Swarm::new()?;
    let topics = params.number("topics")?;
    let plan = Plan::new("bench-publisher");
    let client = swarm
        .open(&url, [plan].into_iter(), AT_ONCE, PATIENCE, &mut Deaf)?
        .start;
    let topic = format!("bench/retained/{PLACE}");
    let what = Publication {
        topic: &topic,
        topics,
        // Acknowledged, so that it is known when all are there.
        qos: 1,
        retain: true,
        payload_bytes: params.count("size")?,
        window: 1000,
    };
    let publisher = Publisher::new(0, client, url.wire, &what);
    let mut load = Load::new(vec![publisher], 1..2, 0);
    load.stop_after(topics);
    let empty = Meter::read(arena);
    let stop = arena.stop.clone();
    let end = clock::now() + clock::nanos(params.secs("limit")?);
    let progress = &mut arena.progress;
    load.run_closed(&mut swarm, u64::MAX / 4, |load| {
        progress.say(|| format!("{} of {topics} retained", load.acked));
        load.acked >= topics || clock::now() >= end || stop.load(Ordering::Relaxed)
    })?;
    load.settle(&mut swarm, PATIENCE)?;
    let full = Meter::read(arena);
    let mut outcome = Outcome::default();
    outcome.set("fill_per_sec", load.acked as f64 / full.since(&empty).secs);
    if let (Some(empty), Some(full)) = (empty.resident(), full.resident()) {
        outcome.set("resident_growth_mib", mib(full - empty));
    }
    subscribe(arena, &mut swarm, &mut load, &url, &mut outcome)?;
    Ok(outcome)
}

fn subscribe(
    arena: &mut Arena<'_>,
    swarm: &mut Swarm,
    load: &mut Load,
    url: &crate::wire::url::Url,
    outcome: &mut Outcome,
) -> Result<()> {
    load.ledger.expect(load.publishers[0].published());
    let (before, begun) = (Meter::read(arena), clock::now());
    let plan = Plan::new("bench-receiver").subscribed("bench/retained/#", 0);
    swarm.begin(url, url.address()?, plan)?;
    load.settle(swarm, Duration::from_secs(5))?;
    let mut span = Meter::read(arena).since(&before);
    // A silence after the last message is no part of it.
    span.secs = clock::seconds(load.last.saturating_sub(begun));
    let received = load.received;
    span.rates(
        outcome,
        received,
        "deliveries_per_sec",
        "deliveries_per_cpu_sec",
    );
    let mut verdict = load.ledger.verdict();
    // Retained messages of different topics have no order among each other.
    verdict.out_of_order = 0;
    outcome.verdict = Some(verdict);
    Ok(())
}
