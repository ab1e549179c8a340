//! How many publishes of QoS 1 the broker acknowledges in a second while the messages go to
//! durable sessions, away or connected. A window of 1 and one publisher shows the latency of one
//! promise; large windows and several publishers show how well many are kept together.

use super::meter::Meter;
use super::{Arena, Outcome, Scenario};
use crate::generator::client::Plan;
use crate::generator::clock;
use crate::generator::load::Load;
use crate::generator::publisher::{Publication, Publisher};
use crate::generator::swarm::{Deaf, Swarm};
use crate::measure::disk;
use crate::spec::{Key, Params, key};
use crate::wire::Wire;
use anyhow::Result;
use std::time::Duration;

/// The scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "durable-publish",
    about: "acknowledged QoS 1 publishes per second to durable sessions",
    keys: KEYS,
    durable: true,
    run,
};

const KEYS: &[Key] = &[
    key("sessions", "1", "durable sessions"),
    key(
        "fan",
        "all",
        "all: each message goes to all sessions; one: each publisher has its own",
    ),
    key("publishers", "1", "connections that publish"),
    key(
        "window",
        "64",
        "publishes that wait for an acknowledgement, each publisher",
    ),
    key(
        "receivers",
        "away",
        "away: the sessions are not connected; here: they are",
    ),
    key("qos", "1", "1 or 2"),
    key("size", "128", "bytes of payload"),
    key("secs", "5", "how long"),
    key("most", "1M", "messages after which it ends sooner"),
];

/// How long connections may stand still while they are set up.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);

fn run(arena: &mut Arena<'_>, params: &Params) -> Result<Outcome> {
    let url = arena.url(Wire::MQTT)?;
    let (sessions, publishers) = (params.count("sessions")?, params.count("publishers")?);
    let all = params.text("fan") == "all";
    let qos = params.qos()?;
    let topic = |number: usize| {
        if all {
            "bench/d".into()
        } else {
            format!("bench/d/{number}")
        }
    };
    let plan = |number: usize| {
        let topic = topic(number);
        Plan::new(format!("bench-session-{number}"))
            .subscribed(topic, qos)
            .durable()
    };
    let mut swarm = Swarm::new()?;
    let receivers = swarm.open(&url, (0..sessions).map(plan), 64, PATIENCE, &mut Deaf)?;
    if params.text("receivers") == "away" {
        receivers.clone().for_each(|index| swarm.end(index, true));
    }
    let senders = (0..publishers).map(|number| Plan::new(format!("bench-publisher-{number}")));
    let clients = swarm.open(&url, senders, 64, PATIENCE, &mut Deaf)?;
    let window = u16::try_from(params.number("window")?.min(60_000))?;
    let publisher = |(number, client): (usize, usize)| {
        let what = Publication {
            topic: &topic(number % sessions),
            topics: 1,
            qos,
            retain: false,
            payload_bytes: params.count("size").unwrap_or(128),
            window,
        };
        Publisher::new(number as u32, client, url.wire, &what)
    };
    let publishers = clients.enumerate().map(publisher).collect();
    let here = params.text("receivers") == "here";
    let fan = if all { sessions as u64 } else { 1 };
    let mut load = Load::new(publishers, receivers, if here { fan } else { 0 });
    measure(arena, params, &mut swarm, &mut load)
}

fn measure(
    arena: &mut Arena<'_>,
    params: &Params,
    swarm: &mut Swarm,
    load: &mut Load,
) -> Result<Outcome> {
    let on_disk = |arena: &Arena<'_>| arena.data.as_deref().map_or(0, disk::usage);
    let (before, disk_before) = (Meter::read(arena), on_disk(arena));
    let most = params.number("most")?;
    let end = clock::now() + clock::nanos(params.secs("secs")?);
    let stop = arena.stop.clone();
    let progress = &mut arena.progress;
    load.run_closed(swarm, u64::MAX / 4, |load| {
        progress.say(|| format!("{} acknowledged", load.acked));
        clock::now() >= end || load.acked >= most || stop.load(std::sync::atomic::Ordering::Relaxed)
    })?;
    let after = Meter::read(arena);
    let (acked, span) = (load.acked, after.since(&before));
    load.settle(swarm, PATIENCE)?;
    let mut outcome = Outcome::default();
    span.rates(&mut outcome, acked, "acks_per_sec", "acks_per_cpu_sec");
    for (key, quantile) in [
        ("ack_p50_us", 0.5),
        ("ack_p99_us", 0.99),
        ("ack_p999_us", 0.999),
    ] {
        outcome.set(key, load.ack_latency.micros(quantile));
    }
    if let Some(written) = span.written {
        outcome.set("written_bytes_per_message", written as f64 / acked as f64);
    }
    if arena.data.is_some() && load.fan == 0 {
        let grown = on_disk(arena).saturating_sub(disk_before);
        outcome.set("disk_bytes_per_message", grown as f64 / load.acked as f64);
    }
    if load.fan > 0 {
        outcome.verdict = Some(load.ledger.verdict());
    }
    Ok(outcome)
}
