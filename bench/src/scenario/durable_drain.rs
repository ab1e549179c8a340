//! A durable session that is away while its queue fills, and that takes everything when it comes
//! back: how fast each goes, how much room the queue takes on the disk, and how much of it is given
//! back. In between the broker may be restarted or killed.

use super::durable_publish::PATIENCE;
use super::meter::{Meter, mib};
use super::{Arena, Outcome, Scenario};
use crate::brokers::running::Ending;
use crate::generator::client::Plan;
use crate::generator::clock;
use crate::generator::load::Load;
use crate::generator::publisher::{Publication, Publisher};
use crate::generator::swarm::{Deaf, Swarm};
use crate::measure::disk;
use crate::measure::process::Process;
use crate::spec::{Key, Params, key};
use crate::wire::Wire;
use crate::wire::url::Url;
use anyhow::{Context, Result};
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::Duration;

/// The scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "durable-drain",
    about: "a durable session's queue: filling, draining, room on disk before and after",
    keys: KEYS,
    durable: true,
    run,
};

/// The same where the broker need not keep anything over a restart.
pub const OFFLINE: Scenario = Scenario {
    name: "offline-queue",
    about: "a session's queue in memory: filling and draining",
    durable: false,
    ..SCENARIO
};

const KEYS: &[Key] = &[
    key("messages", "1M", "messages in the queue"),
    key(
        "window",
        "1000",
        "publishes that wait for an acknowledgement",
    ),
    key("size", "128", "bytes of payload"),
    key("qos", "1", "1 or 2"),
    key(
        "restart",
        "none",
        "between filling and draining: none, stop (SIGTERM) or kill (SIGKILL)",
    ),
    key(
        "settle",
        "10",
        "seconds after the drain until the disk is looked at again",
    ),
    key(
        "limit",
        "120",
        "seconds after which filling, and then draining, is given up",
    ),
];

const SESSION: &str = "bench-drain";
const TOPIC: &str = "bench/drain";

fn run(arena: &mut Arena<'_>, params: &Params) -> Result<Outcome> {
    let url = arena.url(Wire::MQTT)?;
    let mut outcome = Outcome::default();
    let mut load = fill(arena, params, &url, &mut outcome)?;
    match params.text("restart") {
        "none" => {}
        "stop" => restart(arena, Ending::Stop, &mut outcome)?,
        "kill" => restart(arena, Ending::Kill, &mut outcome)?,
        other => anyhow::bail!("restart={other}: none of none, stop, kill"),
    }
    drain(arena, params, &url, &mut load, &mut outcome)?;
    outcome.verdict = Some(load.ledger.verdict());
    Ok(outcome)
}

fn on_disk(arena: &Arena<'_>) -> Option<f64> {
    arena
        .data
        .as_deref()
        .map(|folder| disk::usage(folder) as f64)
}

fn fill(arena: &mut Arena<'_>, params: &Params, url: &Url, outcome: &mut Outcome) -> Result<Load> {
    let qos = params.qos()?;
    let mut swarm = Swarm::new()?;
    let session = Plan::new(SESSION).subscribed(TOPIC, qos).durable();
    let session = swarm.open(url, [session].into_iter(), 1, PATIENCE, &mut Deaf)?;
    swarm.end(session.start, true);
    let plan = Plan::new("bench-publisher");
    let client = swarm
        .open(url, [plan].into_iter(), 1, PATIENCE, &mut Deaf)?
        .start;
    let what = Publication {
        topic: TOPIC,
        topics: 1,
        qos,
        retain: false,
        payload_bytes: params.count("size")?,
        window: u16::try_from(params.number("window")?.min(60_000))?,
    };
    let publisher = Publisher::new(0, client, url.wire, &what);
    // The first connection of the swarm that will drain is the receiver.
    let mut load = Load::new(vec![publisher], 0..1, 0);
    let messages = params.number("messages")?;
    load.stop_after(messages);
    let (before, disk_before) = (Meter::read(arena), on_disk(arena));
    let end = clock::now() + clock::nanos(params.secs("limit")?);
    let stop = arena.stop.clone();
    let progress = &mut arena.progress;
    load.run_closed(&mut swarm, u64::MAX / 4, |load| {
        progress.say(|| format!("{} of {messages} queued", load.acked));
        load.acked >= messages || clock::now() >= end || stop.load(Ordering::Relaxed)
    })?;
    let after = Meter::read(arena);
    load.settle(&mut swarm, PATIENCE)?;
    swarm.end(client, true);
    load.ledger.expect(load.publishers[0].published());
    if load.acked < messages {
        let note = format!("only {} messages were queued within the limit", load.acked);
        outcome.notes.push(note);
    }
    outcome.set(
        "fill_per_sec",
        load.acked as f64 / after.since(&before).secs,
    );
    if let (Some(before), Some(after)) = (before.resident(), Meter::read(arena).resident()) {
        outcome.set("resident_growth_mib", mib(after - before));
    }
    if let (Some(before), Some(after)) = (disk_before, on_disk(arena)) {
        outcome.set("disk_full_mib", mib(after));
        outcome.set(
            "disk_bytes_per_message",
            (after - before) / load.acked as f64,
        );
    }
    Ok(load)
}

/// Restarts the broker and says how long it took.
pub(super) fn restart(arena: &mut Arena<'_>, ending: Ending, outcome: &mut Outcome) -> Result<()> {
    let running = arena.running.as_deref_mut();
    let running = running.context("a restart needs a broker that was started for it: compare")?;
    running.end(ending)?;
    running.set_patience(Duration::from_mins(10));
    let took = running.launch()?;
    let process = Process(running.pid());
    arena.process = Some(process);
    outcome.set("start_secs", took.as_secs_f64());
    if let Ok(usage) = process.usage() {
        outcome.set("start_cpu_secs", usage.cpu_secs);
        outcome.set("resident_after_start_mib", mib(usage.resident as f64));
    }
    Ok(())
}

fn drain(
    arena: &mut Arena<'_>,
    params: &Params,
    url: &Url,
    load: &mut Load,
    outcome: &mut Outcome,
) -> Result<()> {
    let mut swarm = Swarm::new()?;
    let before = Meter::read(arena);
    let end = clock::now() + clock::nanos(params.secs("limit")?);
    let plan = Plan::new(SESSION).durable();
    swarm.begin(url, url.address()?, plan)?;
    let begun = clock::now();
    load.last = begun;
    // A broker that was just restarted may take its time before the first message.
    while load.ledger.verdict().lost() > 0
        && clock::now() < end
        && clock::now() - load.last < clock::nanos(Duration::from_secs(15))
        && !arena.stopped()
    {
        swarm.turn(Duration::from_millis(100), load)?;
        arena.progress.say(|| format!("{} drained", load.received));
        if let Some((_, why)) = swarm.failures().first() {
            outcome.notes.push(format!("while draining: {why}"));
            break;
        }
    }
    let mut span = Meter::read(arena).since(&before);
    if load.received > 0 {
        // The silence after the last message is no part of the drain.
        span.secs = clock::seconds(load.last - begun);
        let (per_sec, per_cpu_sec) = ("drain_per_sec", "drain_per_cpu_sec");
        span.rates(outcome, load.received, per_sec, per_cpu_sec);
    }
    if let Some(bytes) = on_disk(arena) {
        outcome.set("disk_drained_mib", mib(bytes));
        sleep(params.secs("settle")?);
        outcome.set("disk_settled_mib", on_disk(arena).map_or(0.0, mib));
    }
    if !swarm.client(0).is_some_and(|client| client.resumed()) {
        outcome.notes.push("the session was not kept".into());
    }
    swarm.end(0, true);
    Ok(())
}
