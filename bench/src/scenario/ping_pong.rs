//! One message at a time: the next one is published when the one before has arrived. What is left
//! of the latency when nothing queues anywhere.

use super::meter::Meter;
use super::stage::{self, QOS, SECS, SIZE, WINDOW, WIRE, latencies};
use super::{Arena, Outcome, Scenario};
use crate::generator::client::Plan;
use crate::generator::clock;
use crate::generator::load::Load;
use crate::generator::swarm::Swarm;
use crate::measure::schedule::Burst;
use crate::spec::{Key, Params};
use anyhow::Result;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "ping-pong",
    about: "latency of one message at a time",
    keys: KEYS,
    durable: false,
    run,
};

const KEYS: &[Key] = &[WIRE, QOS, SIZE, SECS, WINDOW];

fn run(arena: &mut Arena<'_>, params: &Params) -> Result<Outcome> {
    let url = arena.wire(params)?;
    let mut swarm = Swarm::new()?;
    let plan = Plan::new("bench-receiver").subscribed("bench/ping", params.qos()?);
    let receivers = stage::receivers(&mut swarm, &url, [plan].into_iter())?;
    let topics = ["bench/ping".to_owned()];
    let publishers = stage::publishers(&mut swarm, &url, params, &topics)?;
    let mut load = Load::new(publishers, receivers, 1);
    load.time_each();
    let stop = arena.stop.clone();
    let burst = Burst::begin(arena.realtime, arena.process);
    let before = Meter::read(arena);
    let end = clock::now() + clock::nanos(params.secs("secs")?);
    load.run_closed(&mut swarm, 1, |_| {
        clock::now() >= end || stop.load(Ordering::Relaxed)
    })?;
    let span = Meter::read(arena).since(&before);
    drop(burst);
    let received = load.received;
    load.settle(&mut swarm, Duration::from_secs(3))?;
    let mut outcome = Outcome::default();
    latencies(&mut outcome, &load);
    span.rates(
        &mut outcome,
        received,
        "round_trips_per_sec",
        "deliveries_per_cpu_sec",
    );
    outcome.verdict = Some(load.ledger.verdict());
    Ok(outcome)
}
