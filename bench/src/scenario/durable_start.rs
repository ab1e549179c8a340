//! Many durable sessions over a restart: how fast they are made, what they cost in memory and on
//! the disk, how long the broker takes to start with them, and whether it kept them.

use super::durable_drain::restart;
use super::durable_publish::PATIENCE;
use super::meter::{Meter, mib};
use super::{Arena, Outcome, Scenario};
use crate::brokers::running::Ending;
use crate::generator::client::{Phase, Plan};
use crate::generator::clock;
use crate::generator::load::Load;
use crate::generator::publisher::{Publication, Publisher};
use crate::generator::swarm::{Deaf, Swarm};
use crate::measure::disk;
use crate::spec::{Key, Params, key};
use crate::wire::Wire;
use crate::wire::url::Url;
use anyhow::Result;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "durable-start",
    about: "start time and memory with many durable sessions",
    keys: KEYS,
    durable: true,
    run,
};

const KEYS: &[Key] = &[
    key(
        "sessions",
        "100k",
        "durable sessions, each with a subscription of its own",
    ),
    key("messages", "0", "messages in each session's queue"),
    key("size", "128", "bytes of payload"),
    key(
        "end",
        "stop",
        "how the broker ends: stop (SIGTERM) or kill (SIGKILL)",
    ),
    key(
        "sample",
        "1000",
        "sessions that come back after the restart",
    ),
    key(
        "limit",
        "300",
        "seconds after which making sessions is given up",
    ),
];

/// Sessions that are being made at a time.
const AT_ONCE: usize = 64;

fn run(arena: &mut Arena<'_>, params: &Params) -> Result<Outcome> {
    let url = arena.url(Wire::MQTT)?;
    let mut outcome = Outcome::default();
    let empty = Meter::read(arena);
    let disk_empty = arena.data.as_deref().map_or(0, disk::usage);
    let sessions = make(arena, params, &url, &mut outcome)?;
    let each = params.number("messages")?;
    if each > 0 {
        publish(arena, params, &url, sessions, each, &mut outcome)?;
    }
    let full = Meter::read(arena);
    if let (Some(before), Some(after)) = (empty.resident(), full.resident()) {
        outcome.set("resident_mib", mib(after));
        outcome.set("bytes_per_session", (after - before) / sessions as f64);
    }
    let ending = if params.text("end") == "kill" {
        Ending::Kill
    } else {
        Ending::Stop
    };
    restart(arena, ending, &mut outcome)?;
    if let Some(data) = arena.data.as_deref() {
        let grown = disk::usage(data).saturating_sub(disk_empty);
        outcome.set("disk_bytes_per_session", grown as f64 / sessions as f64);
    }
    come_back(params, &url, sessions, &mut outcome)?;
    Ok(outcome)
}

fn session(number: usize) -> String {
    format!("bench-session-{number}")
}

fn topic(number: usize) -> String {
    format!("bench/s/{}/{}", number / 1000, number % 1000)
}

/// Makes sessions, some at a time: each logs in, subscribes and goes away.
fn make(arena: &mut Arena<'_>, params: &Params, url: &Url, outcome: &mut Outcome) -> Result<usize> {
    let wanted = params.count("sessions")?;
    let address = url.address()?;
    let begun = clock::now();
    let end = begun + clock::nanos(params.secs("limit")?);
    let mut swarm = Swarm::new()?;
    let (mut made, mut oldest) = (0, 0);
    // Ends with a break when the broker refuses more.
    while made < wanted && clock::now() < end && !arena.stopped() {
        while swarm.len() < wanted && swarm.len() - made < AT_ONCE {
            let number = swarm.len();
            let plan = Plan::new(session(number))
                .subscribed(topic(number), 1)
                .durable();
            swarm.begin(url, address, plan)?;
        }
        swarm.turn(Duration::from_millis(100), &mut Deaf)?;
        if let Some((_, why)) = swarm.failures().first() {
            anyhow::ensure!(oldest > 0, "no session was made: {why}");
            outcome
                .notes
                .push(format!("{made} sessions were made, then: {why}"));
            break;
        }
        for index in oldest..swarm.len() {
            if swarm
                .client(index)
                .is_some_and(|client| client.phase() == Phase::Ready)
            {
                swarm.end(index, true);
                made += 1;
            }
        }
        while oldest < swarm.len() && swarm.client(oldest).is_none() {
            oldest += 1;
        }
        arena
            .progress
            .say(|| format!("{made} of {wanted} sessions made"));
    }
    if made < wanted {
        outcome.notes.push(format!(
            "only {made} of {wanted} sessions were made within the limit"
        ));
    }
    outcome.set("sessions", made as f64);
    outcome.set(
        "sessions_per_sec",
        made as f64 / clock::seconds(clock::now() - begun),
    );
    // Numbers below `oldest` are sessions for sure; those above may be half made.
    Ok(oldest.min(made).max(1))
}

/// Publishes to each session's topic in turn.
fn publish(
    arena: &mut Arena<'_>,
    params: &Params,
    url: &Url,
    sessions: usize,
    each: u64,
    outcome: &mut Outcome,
) -> Result<()> {
    let mut swarm = Swarm::new()?;
    let plan = Plan::new("bench-publisher");
    let client = swarm
        .open(url, [plan].into_iter(), 1, PATIENCE, &mut Deaf)?
        .start;
    let begun = clock::now();
    let end = begun + clock::nanos(params.secs("limit")?);
    let size = params.count("size")?;
    let mut done = 0;
    for number in 0..sessions {
        let topic = topic(number);
        let what = Publication {
            topic: &topic,
            topics: 1,
            qos: 1,
            retain: false,
            payload_bytes: size,
            window: u16::try_from(each.min(1000))?,
        };
        let publisher = Publisher::new(0, client, url.wire, &what);
        let mut load = Load::new(vec![publisher], 0..0, 0);
        load.stop_after(each);
        let stop = arena.stop.clone();
        load.run_closed(&mut swarm, u64::MAX / 4, |load| {
            load.acked >= each || stop.load(Ordering::Relaxed)
        })?;
        done += load.acked;
        arena.progress.say(|| format!("{done} messages queued"));
        if clock::now() > end || arena.stopped() {
            outcome
                .notes
                .push(format!("only {done} messages were queued within the limit"));
            break;
        }
    }
    outcome.set(
        "fill_per_sec",
        done as f64 / clock::seconds(clock::now() - begun),
    );
    Ok(())
}

/// Lets some of the sessions come back and counts those that the broker knows.
fn come_back(params: &Params, url: &Url, sessions: usize, outcome: &mut Outcome) -> Result<()> {
    let sample = params.count("sample")?.clamp(1, sessions);
    let step = sessions / sample;
    let mut swarm = Swarm::new()?;
    let plan = |number: usize| Plan::new(session(number * step)).durable();
    let back = swarm.open(url, (0..sample).map(plan), AT_ONCE, PATIENCE, &mut Deaf)?;
    let mut resumed = 0;
    for index in back {
        resumed += usize::from(swarm.client(index).is_some_and(|client| client.resumed()));
        swarm.end(index, true);
    }
    outcome.set("resumed_percent", 100.0 * resumed as f64 / sample as f64);
    Ok(())
}
