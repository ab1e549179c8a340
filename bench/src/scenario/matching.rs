//! What it costs to find the receivers of a message among many wildcard filters. One publishes to
//! many topics in turn, so that no cache of routes holds them all; one receives it all; the
//! filters of the others come close and do not match.

use super::stage::{self, AHEAD, AT_ONCE, PATIENCE, QOS, RATE, SECS, SIZE, WARM, WINDOW};
use super::{Arena, Outcome, Scenario};
use crate::generator::client::Plan;
use crate::generator::load::Load;
use crate::generator::publisher::{PLACE, Publication, Publisher};
use crate::generator::swarm::{Deaf, Swarm};
use crate::spec::{Key, Params, key};
use crate::wire::Wire;
use anyhow::Result;

/// The scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "matching",
    about: "one publisher, one receiver, many wildcard filters of others",
    keys: KEYS,
    durable: false,
    run,
};

const KEYS: &[Key] = &[
    key("filters", "100k", "wildcard filters of others"),
    key("each", "500", "filters of one session"),
    key("topics", "1M", "topics that are published to"),
    QOS,
    SIZE,
    SECS,
    WARM,
    RATE,
    AHEAD,
    WINDOW,
];

fn run(arena: &mut Arena<'_>, params: &Params) -> Result<Outcome> {
    let url = arena.url(Wire::MQTT)?;
    let qos = params.qos()?;
    let (filters, each) = (params.number("filters")?, params.number("each")?.max(1));
    let mut swarm = Swarm::new()?;
    let plan = Plan::new("bench-receiver").subscribed("bench/m/#", qos);
    let receivers = stage::receivers(&mut swarm, &url, [plan].into_iter())?;
    let others = usize::try_from(filters.div_ceil(each))?;
    let plan = |session: usize| {
        let first = session as u64 * each;
        let mut plan = Plan::new(format!("bench-filters-{session}"));
        plan.filters = (first..filters.min(first + each)).map(filter).collect();
        plan
    };
    arena
        .progress
        .say(|| format!("subscribing {filters} filters"));
    swarm.open(&url, (0..others).map(plan), 8, PATIENCE, &mut Deaf)?;
    let plan = Plan::new("bench-publisher");
    let client = swarm
        .open(&url, [plan].into_iter(), AT_ONCE, PATIENCE, &mut Deaf)?
        .start;
    let topic = format!("bench/m/x/{PLACE}/y");
    let what = Publication {
        topic: &topic,
        topics: params.number("topics")?.max(1),
        qos,
        retain: false,
        payload_bytes: params.count("size")?,
        window: u16::try_from(params.number("window")?.min(60_000))?,
    };
    let publisher = Publisher::new(0, client, url.wire, &what);
    let mut load = Load::new(vec![publisher], receivers, 1);
    stage::measure(arena, params, &mut swarm, &mut load)
}

/// Two shapes of filters; both share all but the last level with a topic that is published to.
fn filter(number: u64) -> String {
    if number.is_multiple_of(2) {
        format!("bench/m/+/{number:08x}/z")
    } else {
        format!("bench/m/x/{number:08x}/+/z/#")
    }
}
