//! Clients that connect, log in and leave again, a number of them at a time.

use super::meter::Meter;
use super::stage::{SECS, WIRE};
use super::{Arena, Outcome, Scenario};
use crate::generator::client::{Phase, Plan};
use crate::generator::clock;
use crate::generator::swarm::{Deaf, Swarm};
use crate::measure::schedule::Burst;
use crate::spec::{Key, Params, key};
use anyhow::Result;
use std::time::Duration;

/// The scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "storm",
    about: "connections that come and go",
    keys: KEYS,
    durable: false,
    run,
};

const KEYS: &[Key] = &[
    key("at-once", "50", "connections being set up at a time"),
    key(
        "most",
        "20k",
        "connections after which it ends sooner: ports are used up for a minute",
    ),
    WIRE,
    SECS,
];

fn run(arena: &mut Arena<'_>, params: &Params) -> Result<Outcome> {
    let url = arena.wire(params)?;
    let address = url.address()?;
    let (at_once, most) = (params.count("at-once")?, params.count("most")?);
    let mut swarm = Swarm::new()?;
    let burst = Burst::begin(arena.realtime, arena.process);
    let before = Meter::read(arena);
    let end = clock::now() + clock::nanos(params.secs("secs")?);
    let (mut done, mut oldest) = (0usize, 0);
    while clock::now() < end && done < most && !arena.stopped() {
        while swarm.len() - done < at_once {
            let plan = Plan::new(format!("bench-storm-{}", swarm.len()));
            swarm.begin(&url, address, plan)?;
        }
        swarm.turn(Duration::from_millis(100), &mut Deaf)?;
        if let Some((_, why)) = swarm.failures().first() {
            anyhow::bail!("{done} connections stood, then: {why}");
        }
        for index in oldest..swarm.len() {
            if swarm
                .client(index)
                .is_some_and(|client| client.phase() == Phase::Ready)
            {
                swarm.end(index, true);
                done += 1;
            }
        }
        while oldest < swarm.len() && swarm.client(oldest).is_none() {
            oldest += 1;
        }
    }
    let span = Meter::read(arena).since(&before);
    drop(burst);
    let mut outcome = Outcome::default();
    span.rates(
        &mut outcome,
        done as u64,
        "connects_per_sec",
        "connects_per_cpu_sec",
    );
    if let Some(cpu) = span.cpu_secs {
        outcome.set("connect_cpu_ms", cpu * 1000.0 / done as f64);
    }
    Ok(outcome)
}
