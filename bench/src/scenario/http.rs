//! How many publishes by HTTP a broker takes in a second: keep-alive connections, each of which
//! sends a request and waits for its answer. Brokers without such a thing are measured at what is
//! nearest to it: as many MQTT connections, each with as many publishes of QoS 1 that wait for their
//! PUBACK as a request would have had messages.

use super::durable_publish::PATIENCE;
use super::meter::{Meter, Span};
use super::{Arena, Outcome, Scenario};
use crate::generator::callers::Callers;
use crate::generator::client::Plan;
use crate::generator::clock;
use crate::generator::load::Load;
use crate::generator::publisher::{Publication, Publisher};
use crate::generator::swarm::{Deaf, Swarm};
use crate::measure::latency::Latency;
use crate::measure::schedule::Burst;
use crate::spec::{Key, Params, key};
use crate::wire::Wire;
use crate::wire::http::Door;
use anyhow::{Context, Result};
use std::sync::atomic::Ordering;

/// Messages that nobody has subscribed to: what a request costs.
pub const SCENARIO: Scenario = Scenario {
    name: "http",
    about: "publishes by HTTP per second; MQTT where there is none",
    keys: KEYS,
    durable: false,
    run: |arena, params| run(arena, params, false),
};

/// The same to a durable session that is away.
pub const DURABLE: Scenario = Scenario {
    name: "http-durable",
    about: "publishes by HTTP per second to a durable session; MQTT where there is none",
    durable: true,
    run: |arena, params| run(arena, params, true),
    ..SCENARIO
};

const KEYS: &[Key] = &[
    key(
        "connections",
        "64",
        "connections, each with one request under way",
    ),
    key("batch", "1", "messages in a request"),
    key("over", "http", "http, or mqtt also where there is HTTP"),
    key("size", "128", "bytes of payload"),
    key("secs", "5", "how long is measured"),
    key("warm", "1", "seconds of the same load before"),
];

const TOPIC: &str = "bench/h";

fn run(arena: &mut Arena<'_>, params: &Params, durable: bool) -> Result<Outcome> {
    let mut swarm = Swarm::new()?;
    if durable {
        let session = Plan::new("bench-session").subscribed(TOPIC, 1).durable();
        let plans = [session].into_iter();
        let receivers = swarm.open(&arena.url(Wire::MQTT)?, plans, 1, PATIENCE, &mut Deaf)?;
        receivers.for_each(|index| swarm.end(index, true));
    }
    let door = arena.http.clone();
    match door.filter(|_| params.text("over") == "http") {
        Some(door) => by_http(arena, params, &door),
        None => by_mqtt(arena, params, &mut swarm),
    }
}

fn by_http(arena: &mut Arena<'_>, params: &Params, door: &Door) -> Result<Outcome> {
    let batch = params.count("batch")?;
    let request = door.request(batch, params.count("size")?)?;
    let request = request.with_context(|| super::Unsupported(format!("batches of {batch}")))?;
    let mut callers = Callers::open(request, params.count("connections")?)?;
    let burst = Burst::begin(arena.realtime, arena.process);
    callers.run(until(arena, params, "warm")?)?;
    callers.latency = Latency::default();
    let (before, answered) = (Meter::read(arena), callers.answered);
    callers.run(until(arena, params, "secs")?)?;
    let span = Meter::read(arena).since(&before);
    drop(burst);
    let answered = callers.answered - answered;
    let mut outcome = figures(&span, answered * batch as u64, &callers.latency);
    outcome.set("requests_per_sec", answered as f64 / span.secs);
    Ok(outcome)
}

fn by_mqtt(arena: &mut Arena<'_>, params: &Params, swarm: &mut Swarm) -> Result<Outcome> {
    let url = arena.url(Wire::MQTT)?;
    let count = params.count("connections")?;
    let plans = (0..count).map(|number| Plan::new(format!("bench-publisher-{number}")));
    let clients = swarm.open(&url, plans, 64, PATIENCE, &mut Deaf)?;
    let what = Publication {
        topic: TOPIC,
        topics: 1,
        qos: 1,
        retain: false,
        payload_bytes: params.count("size")?,
        window: u16::try_from(params.number("batch")?.min(60_000))?,
    };
    let publishers = clients
        .enumerate()
        .map(|(number, client)| Publisher::new(number as u32, client, url.wire, &what));
    let mut load = Load::new(publishers.collect(), 0..0, 0);
    let burst = Burst::begin(arena.realtime, arena.process);
    let warm = until(arena, params, "warm")?;
    load.run_closed(swarm, u64::MAX / 4, warm)?;
    load.ack_latency = Latency::default();
    let (before, acked) = (Meter::read(arena), load.acked);
    let secs = until(arena, params, "secs")?;
    load.run_closed(swarm, u64::MAX / 4, secs)?;
    let span = Meter::read(arena).since(&before);
    drop(burst);
    let mut outcome = figures(&span, load.acked - acked, &load.ack_latency);
    outcome
        .notes
        .push("over MQTT: a PUBLISH of QoS 1 and its PUBACK each".into());
    Ok(outcome)
}

/// Whether the time that a parameter says has passed, or the user wants to stop.
fn until<T>(arena: &Arena<'_>, params: &Params, name: &str) -> Result<impl FnMut(&T) -> bool> {
    let end = clock::now() + clock::nanos(params.secs(name)?);
    let stop = arena.stop.clone();
    Ok(move |_: &T| clock::now() >= end || stop.load(Ordering::Relaxed))
}

fn figures(span: &Span, published: u64, latency: &Latency) -> Outcome {
    let mut outcome = Outcome::default();
    span.rates(&mut outcome, published, "acks_per_sec", "acks_per_cpu_sec");
    for (key, quantile) in [
        ("ack_p50_us", 0.5),
        ("ack_p99_us", 0.99),
        ("ack_p999_us", 0.999),
    ] {
        outcome.set(key, latency.micros(quantile));
    }
    outcome
}
