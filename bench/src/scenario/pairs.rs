//! Pairs of one who publishes and one who receives, each pair on its own topic.

use super::stage::{self, AHEAD, QOS, RATE, SECS, SIZE, WARM, WINDOW, WIRE};
use super::{Arena, Outcome, Scenario};
use crate::generator::client::Plan;
use crate::generator::load::Load;
use crate::generator::swarm::Swarm;
use crate::spec::{Key, Params, key};
use anyhow::Result;

/// The scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "pairs",
    about: "pairs of publisher and receiver, each on its own topic",
    keys: KEYS,
    durable: false,
    run,
};

const KEYS: &[Key] = &[
    key("pairs", "100", "pairs"),
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
    let topics: Vec<String> = (0..params.count("pairs")?)
        .map(|number| format!("bench/pair/{number}"))
        .collect();
    let plan = |(number, topic): (usize, &String)| {
        Plan::new(format!("bench-receiver-{number}")).subscribed(topic, qos)
    };
    let mut swarm = Swarm::new()?;
    let plans: Vec<Plan> = topics.iter().enumerate().map(plan).collect();
    let receivers = stage::receivers(&mut swarm, &url, plans.into_iter())?;
    let publishers = stage::publishers(&mut swarm, &url, params, &topics)?;
    let mut load = Load::new(publishers, receivers, 1);
    stage::measure(arena, params, &mut swarm, &mut load)
}
