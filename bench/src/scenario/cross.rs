//! One publishes over MQTT; receivers of every protocol and transport that the broker speaks get
//! it, in equal parts.

use super::stage::{self, AHEAD, QOS, RATE, SECS, SIZE, WARM, WINDOW};
use super::{Arena, Outcome, Scenario};
use crate::generator::client::Plan;
use crate::generator::load::Load;
use crate::generator::swarm::Swarm;
use crate::spec::{Key, Params, key};
use crate::wire::{Protocol, Wire};
use anyhow::Result;

/// The scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "cross",
    about: "one MQTT publisher, receivers of all protocols and transports",
    keys: KEYS,
    durable: false,
    run,
};

const KEYS: &[Key] = &[
    key(
        "receivers",
        "300",
        "connections that receive, all protocols together",
    ),
    QOS,
    SIZE,
    SECS,
    WARM,
    RATE,
    AHEAD,
    WINDOW,
];

/// Without levels: other protocols divide them by other characters.
const TOPIC: &str = "bench-cross";

fn run(arena: &mut Arena<'_>, params: &Params) -> Result<Outcome> {
    let mqtt = arena.url(Wire::MQTT)?;
    let qos = params.qos()?;
    let mut swarm = Swarm::new()?;
    let urls = arena.urls.clone();
    let each = (params.count("receivers")? / urls.len()).max(1);
    for (index, url) in urls.iter().enumerate() {
        let limit = match url.wire.protocol {
            Protocol::Mqtt => 2,
            Protocol::Stomp | Protocol::Json => 1,
        };
        let plan = |number: usize| {
            Plan::new(format!("bench-{index}-{number}")).subscribed(TOPIC, qos.min(limit))
        };
        stage::receivers(&mut swarm, url, (0..each).map(plan))?;
    }
    let receivers = 0..swarm.len();
    let fan = receivers.len() as u64;
    let publishers = stage::publishers(&mut swarm, &mqtt, params, &[TOPIC.to_owned()])?;
    let mut load = Load::new(publishers, receivers, fan);
    let mut outcome = stage::measure(arena, params, &mut swarm, &mut load)?;
    let wires: Vec<String> = urls.iter().map(|url| url.wire.to_string()).collect();
    outcome
        .notes
        .push(format!("{each} receivers each over {}", wires.join(", ")));
    Ok(outcome)
}
