//! Connections that are there and do nothing: what each costs in memory, and what all cost in
//! processor time.

use super::meter::{Meter, mib};
use super::stage::{self, WIRE};
use super::{Arena, Outcome, Scenario};
use crate::generator::client::Plan;
use crate::generator::clock;
use crate::generator::swarm::{Deaf, Swarm};
use crate::spec::{Key, Params, key};
use anyhow::Result;
use std::time::Duration;

/// The scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "idle",
    about: "connections at rest: memory of each, CPU of all",
    keys: KEYS,
    durable: false,
    run,
};

const KEYS: &[Key] = &[
    key("connections", "15k", "connections"),
    key(
        "subscribed",
        "no",
        "yes: each has a subscription of its own",
    ),
    key("secs", "10", "how long the CPU is measured"),
    WIRE,
];

/// Time after connecting before anything is measured.
const REST: Duration = Duration::from_secs(2);

fn run(arena: &mut Arena<'_>, params: &Params) -> Result<Outcome> {
    let url = arena.wire(params)?;
    let (count, subscribed) = (params.count("connections")?, params.flag("subscribed")?);
    let mut swarm = Swarm::new()?;
    let empty = Meter::read(arena);
    let plan = |number: usize| {
        let plan = Plan::new(format!("bench-idle-{number}"));
        if subscribed {
            plan.subscribed(format!("bench/idle/{number}"), 0)
        } else {
            plan
        }
    };
    stage::receivers(&mut swarm, &url, (0..count).map(plan))?;
    wait(&mut swarm, REST)?;
    let before = Meter::read(arena);
    arena
        .progress
        .say(|| format!("{count} connections at rest"));
    wait(&mut swarm, params.secs("secs")?)?;
    let after = Meter::read(arena);
    let mut outcome = Outcome::default();
    let span = after.since(&before);
    span.costs(&mut outcome);
    if let Some(cpu) = span.cpu_secs {
        outcome.set("idle_cpu_percent", cpu / span.secs * 100.0);
    }
    if let (Some(empty), Some(full)) = (empty.resident(), after.resident()) {
        outcome.set("resident_mib", mib(full));
        outcome.set("bytes_per_connection", (full - empty) / count as f64);
    }
    if swarm.ready() < count {
        let why = swarm.failures().first().map_or("", |failure| &failure.1);
        outcome
            .notes
            .push(format!("only {} connections stayed: {why}", swarm.ready()));
    }
    Ok(outcome)
}

fn wait(swarm: &mut Swarm, duration: Duration) -> Result<()> {
    let end = clock::now() + clock::nanos(duration);
    while clock::now() < end {
        swarm.turn(Duration::from_millis(200), &mut Deaf)?;
    }
    Ok(())
}
