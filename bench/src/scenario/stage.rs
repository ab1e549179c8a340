//! What the scenarios of publishers and receivers have in common: their parameters, setting up the
//! connections, and the two ways to measure, as fast as the broker can or at a fixed rate.

use super::meter::{Meter, mib};
use super::{Arena, Outcome};
use crate::generator::client::Plan;
use crate::generator::clock;
use crate::generator::load::Load;
use crate::generator::publisher::{Publication, Publisher};
use crate::generator::swarm::{Deaf, Swarm};
use crate::measure::schedule::Burst;
use crate::spec::{Key, Params, key};
use crate::wire::url::Url;
use anyhow::Result;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Parameters of all of these scenarios.
pub const WIRE: Key = key("wire", "mqtt", "mqtt, mqtt+ws, stomp, stomp+ws or json+ws");
/// See [`WIRE`].
pub const QOS: Key = key("qos", "0", "0, 1 or 2, of publishers and receivers");
/// See [`WIRE`].
pub const SIZE: Key = key("size", "128", "bytes of payload, at least 16");
/// See [`WIRE`].
pub const SECS: Key = key("secs", "3", "how long is measured");
/// See [`WIRE`].
pub const WARM: Key = key("warm", "0.5", "seconds of the same load before");
/// See [`WIRE`].
pub const RATE: Key = key(
    "rate",
    "0",
    "messages published per second; 0 is as fast as the broker can",
);
/// See [`WIRE`].
pub const AHEAD: Key = key(
    "ahead",
    "0",
    "deliveries under way at a time; 0 chooses by the number of receivers",
);
/// See [`WIRE`].
pub const WINDOW: Key = key(
    "window",
    "100",
    "publishes that wait for an acknowledgement, each publisher",
);

/// How long connections may stand still while they are set up.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Connections that are being set up at a time.
pub const AT_ONCE: usize = 100;

/// Bytes that may be under way at a time, unless fewer than two messages for each receiver.
const BYTES_AHEAD: u64 = 8 << 20;

/// Connects clients that receive.
pub fn receivers(
    swarm: &mut Swarm,
    url: &Url,
    plans: impl ExactSizeIterator<Item = Plan>,
) -> Result<Range<usize>> {
    swarm.open(url, plans, AT_ONCE, PATIENCE, &mut Deaf)
}

/// Connects clients that publish, each to its own topic.
pub fn publishers(
    swarm: &mut Swarm,
    url: &Url,
    params: &Params,
    topics: &[String],
) -> Result<Vec<Publisher>> {
    let plan = |number: usize| Plan::new(format!("bench-publisher-{number}"));
    let clients = swarm.open(
        url,
        (0..topics.len()).map(plan),
        AT_ONCE,
        PATIENCE,
        &mut Deaf,
    )?;
    let (qos, payload_bytes) = (params.qos()?, params.count("size")?);
    let window = u16::try_from(params.number("window")?.min(60_000))?;
    let publisher = |(number, client): (usize, usize)| {
        let what = Publication {
            topic: &topics[number],
            topics: 1,
            qos,
            retain: false,
            payload_bytes,
            window,
        };
        Publisher::new(number as u32, client, url.wire, &what)
    };
    Ok(clients.enumerate().map(publisher).collect())
}

/// Measures a load, as the parameter `rate` says.
pub fn measure(
    arena: &mut Arena<'_>,
    params: &Params,
    swarm: &mut Swarm,
    load: &mut Load,
) -> Result<Outcome> {
    let before = Meter::read(arena);
    let rate = params.number("rate")?;
    let mut outcome = match rate {
        0 => saturate(arena, params, swarm, load)?,
        rate => pace(arena, params, swarm, load, rate as f64)?,
    };
    if let (Some(before), Some(after)) = (before.resident(), Meter::read(arena).resident()) {
        outcome.set("resident_mib", mib(after));
        outcome.set("resident_growth_mib", mib(after - before));
    }
    outcome.verdict = Some(load.ledger.verdict());
    if let Some((_, why)) = swarm.failures().first() {
        let count = swarm.failures().len();
        outcome
            .notes
            .push(format!("{count} connections ended: {why}"));
    }
    if outcome
        .figures
        .get("generator_cpu_percent")
        .is_some_and(|percent| *percent > 90.0)
    {
        outcome
            .notes
            .push("the generator was the bottleneck".into());
    }
    Ok(outcome)
}

fn saturate(
    arena: &mut Arena<'_>,
    params: &Params,
    swarm: &mut Swarm,
    load: &mut Load,
) -> Result<Outcome> {
    let ahead = match params.number("ahead")? {
        0 => deliveries_ahead(load),
        given => given,
    };
    let stop = arena.stop.clone();
    let until = |end: u64| {
        let stop = stop.clone();
        move |_: &Load| clock::now() >= end || stop.load(Ordering::Relaxed)
    };
    let burst = Burst::begin(arena.realtime, arena.process);
    let warm = clock::now() + clock::nanos(params.secs("warm")?);
    load.run_closed(swarm, ahead, until(warm))?;
    let (before, received) = (Meter::read(arena), load.received);
    let end = clock::now() + clock::nanos(params.secs("secs")?);
    load.run_closed(swarm, ahead, until(end))?;
    let (after, received) = (Meter::read(arena), load.received - received);
    drop(burst);
    load.settle(swarm, Duration::from_secs(3))?;
    let mut outcome = Outcome::default();
    let span = after.since(&before);
    span.rates(
        &mut outcome,
        received,
        "deliveries_per_sec",
        "deliveries_per_cpu_sec",
    );
    Ok(outcome)
}

/// Enough that the broker always has work, and not so much that it has to buffer what would not be
/// buffered in real life.
fn deliveries_ahead(load: &Load) -> u64 {
    let frame = load.publishers.first().map_or(1, Publisher::frame_bytes) as u64;
    let by_bytes = (BYTES_AHEAD / frame).max(load.fan * 2);
    (load.fan * 32).max(4096).min(by_bytes)
}

fn pace(
    arena: &mut Arena<'_>,
    params: &Params,
    swarm: &mut Swarm,
    load: &mut Load,
    rate: f64,
) -> Result<Outcome> {
    let stop = arena.stop.clone();
    let before = Meter::read(arena);
    let secs = params.secs("secs")?;
    load.run_paced(swarm, rate, secs, || stop.load(Ordering::Relaxed))?;
    let span = Meter::read(arena).since(&before);
    let mut outcome = Outcome::default();
    let received = load.received;
    span.rates(
        &mut outcome,
        received,
        "deliveries_per_sec",
        "deliveries_per_cpu_sec",
    );
    latencies(&mut outcome, load);
    Ok(outcome)
}

/// Adds what the load knows of latencies.
pub fn latencies(outcome: &mut Outcome, load: &Load) {
    let quantiles = [
        ("latency_p50_us", 0.5),
        ("latency_p99_us", 0.99),
        ("latency_p999_us", 0.999),
    ];
    for (key, quantile) in quantiles {
        outcome.set(key, load.latency.micros(quantile));
    }
    outcome.set("latency_max_us", load.latency.max_micros());
}
