//! One publishes, many receive. With `slow` some of the receivers stop reading: what the others
//! get is counted, and must be the same. With `deflate` WebSocket messages are compressed.

use super::stage::{self, AHEAD, QOS, RATE, SECS, SIZE, WARM, WINDOW, WIRE};
use super::{Arena, Outcome, Scenario, Unsupported};
use crate::generator::client::Plan;
use crate::generator::load::Load;
use crate::generator::swarm::{Deaf, Swarm};
use crate::spec::{Key, Params, key};
use anyhow::{Result, bail};

/// The scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "fan-out",
    about: "one publisher, many receivers",
    keys: KEYS,
    durable: false,
    run,
};

const KEYS: &[Key] = &[
    key("receivers", "1000", "connections that receive"),
    key(
        "slow",
        "0",
        "more connections that subscribe and then read nothing",
    ),
    key("deflate", "no", "yes: WebSocket messages are compressed"),
    WIRE,
    QOS,
    SIZE,
    SECS,
    WARM,
    RATE,
    AHEAD,
    WINDOW,
];

const TOPIC: &str = "bench/out";

fn run(arena: &mut Arena<'_>, params: &Params) -> Result<Outcome> {
    let url = arena.wire(params)?;
    let (count, slow) = (params.count("receivers")?, params.count("slow")?);
    let (qos, deflate) = (params.qos()?, params.flag("deflate")?);
    if deflate && !arena.deflate {
        bail!(Unsupported("permessage-deflate".into()));
    }
    let plan = |number: usize| {
        let mut plan = Plan::new(format!("bench-receiver-{number}")).subscribed(TOPIC, qos);
        plan.deflate = deflate;
        plan
    };
    let mut swarm = Swarm::new()?;
    let receivers = stage::receivers(&mut swarm, &url, (0..count).map(plan))?;
    let slow = stage::receivers(&mut swarm, &url, (count..count + slow).map(plan))?;
    for index in slow {
        swarm.pause(index, true, &mut Deaf);
    }
    let publishers = stage::publishers(&mut swarm, &url, params, &[TOPIC.to_owned()])?;
    let mut load = Load::new(publishers, receivers, count as u64);
    stage::measure(arena, params, &mut swarm, &mut load)
}
