//! Many publish, each to its own topic; one receives it all.

use super::stage::{self, AHEAD, QOS, RATE, SECS, SIZE, WARM, WINDOW, WIRE};
use super::{Arena, Outcome, Scenario};
use crate::generator::client::Plan;
use crate::generator::load::Load;
use crate::generator::swarm::Swarm;
use crate::spec::{Key, Params, key};
use anyhow::Result;

/// The scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "fan-in",
    about: "many publishers, one receiver",
    keys: KEYS,
    durable: false,
    run,
};

const KEYS: &[Key] = &[
    key("publishers", "1000", "connections that publish"),
    WIRE,
    QOS,
    SIZE,
    SECS,
    WARM,
    RATE,
    AHEAD,
    WINDOW,
];

fn run(arena: &mut Arena<'_>, params: &Params) -> Result<Outcome> {
    let url = arena.wire(params)?;
    let qos = params.qos()?;
    let mut swarm = Swarm::new()?;
    let plan = Plan::new("bench-receiver").subscribed("bench/in/+", qos);
    let receivers = stage::receivers(&mut swarm, &url, [plan].into_iter())?;
    let topics: Vec<String> = (0..params.count("publishers")?)
        .map(|number| format!("bench/in/{number}"))
        .collect();
    let publishers = stage::publishers(&mut swarm, &url, params, &topics)?;
    let mut load = Load::new(publishers, receivers, 1);
    stage::measure(arena, params, &mut swarm, &mut load)
}
