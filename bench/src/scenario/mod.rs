//! What is measured: one file for each subject. A scenario gets an [`Arena`], the broker as it can
//! reach it, and gives an [`Outcome`]. It does not know which broker it is.

pub mod cross;
pub mod durable_drain;
pub mod durable_publish;
pub mod durable_start;
pub mod fan_in;
pub mod fan_out;
pub mod http;
pub mod idle;
pub mod matching;
pub mod meter;
pub mod pairs;
pub mod ping_pong;
pub mod retained;
pub mod stage;
pub mod storm;

use crate::brokers::running::Running;
use crate::generator::ledger::Verdict;
use crate::measure::process::Process;
use crate::report::figure;
use crate::spec::{Key, Params};
use crate::wire::Wire;
use crate::wire::http::Door;
use crate::wire::url::Url;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A scenario.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it measures.
    pub about: &'static str,
    /// Its parameters.
    pub keys: &'static [Key],
    /// Whether brokers are to be configured for durable sessions.
    pub durable: bool,
    /// Runs it.
    pub run: fn(&mut Arena<'_>, &Params) -> Result<Outcome>,
}

/// All scenarios.
pub const SCENARIOS: &[Scenario] = &[
    fan_out::SCENARIO,
    fan_in::SCENARIO,
    pairs::SCENARIO,
    ping_pong::SCENARIO,
    cross::SCENARIO,
    matching::SCENARIO,
    storm::SCENARIO,
    idle::SCENARIO,
    retained::SCENARIO,
    durable_drain::OFFLINE,
    durable_publish::SCENARIO,
    durable_drain::SCENARIO,
    durable_start::SCENARIO,
    http::SCENARIO,
    http::DURABLE,
];

/// Names that stand for several measurements.
pub const SUITES: &[(&str, &[&str])] = &[
    (
        "speed",
        &[
            "fan-out:receivers=1000,qos=0/1/2",
            "fan-out:receivers=100",
            "fan-in:qos=0/1/2",
            "pairs:qos=0/1/2",
            "ping-pong:qos=0/1/2",
        ],
    ),
    (
        "latency",
        &[
            "fan-out:receivers=100,rate=500",
            "fan-in:publishers=100,rate=10000",
            "pairs:rate=10000,qos=0/1",
        ],
    ),
    (
        "protocols",
        &[
            "fan-out:receivers=1000,wire=mqtt/mqtt+ws/stomp/stomp+ws/json+ws",
            "pairs:wire=mqtt/mqtt+ws/stomp/stomp+ws/json+ws",
            "ping-pong:wire=mqtt/mqtt+ws/stomp/stomp+ws/json+ws",
            "cross",
            "fan-out:receivers=100,size=1024,wire=mqtt+ws/json+ws,deflate=no/yes",
        ],
    ),
    (
        "payload",
        &[
            "pairs:size=16/256/4096/65536",
            "fan-out:receivers=100,size=16/256/4096/65536",
        ],
    ),
    (
        "tls",
        &[
            "fan-out:receivers=1000,wire=mqtt/mqtts",
            "pairs:wire=mqtt/mqtts,qos=0/1",
            "storm:wire=mqtts",
            "idle:wire=mqtts",
        ],
    ),
    ("matching", &["matching:filters=1k/10k/100k/1M"]),
    (
        "slow",
        &[
            "fan-out:receivers=999,slow=0/1",
            "fan-out:receivers=999,slow=0/1,rate=100",
        ],
    ),
    (
        "scale",
        &[
            "storm:wire=mqtt/mqtt+ws",
            "idle:wire=mqtt/mqtt+ws",
            "retained",
            "offline-queue:messages=100k",
        ],
    ),
    (
        "durable",
        &[
            "durable-publish:sessions=1/100,window=1",
            "durable-publish:sessions=1/100,window=64,publishers=16",
            "durable-publish:sessions=1/100,window=1000",
            "durable-drain",
            "durable-start",
        ],
    ),
    (
        "http",
        &[
            "http:connections=1/64",
            "http:connections=64,batch=100",
            "http-durable:connections=1/64",
            "http-durable:connections=64,batch=100",
        ],
    ),
];

/// The scenario with this name.
pub fn by_name(name: &str) -> Result<&'static Scenario> {
    let known = || SCENARIOS.iter().map(|scenario| scenario.name);
    SCENARIOS
        .iter()
        .find(|scenario| scenario.name == name)
        .with_context(|| {
            let known: Vec<&str> = known().chain(SUITES.iter().map(|suite| suite.0)).collect();
            format!("{name}: no such scenario; there are {}", known.join(", "))
        })
}

/// The broker as a scenario can reach it.
#[derive(Debug)]
pub struct Arena<'a> {
    /// Where it listens.
    pub urls: Vec<Url>,
    /// How it is published to by HTTP, if it can be.
    pub http: Option<Door>,
    /// The broker, if it was started for this measurement and may be restarted.
    pub running: Option<&'a mut Running>,
    /// Its process, if it is on this machine.
    pub process: Option<Process>,
    /// The folder with its data.
    pub data: Option<PathBuf>,
    /// Whether it compresses WebSocket messages.
    pub deflate: bool,
    /// Whether broker and generator are to be scheduled in real time while they are measured.
    pub realtime: bool,
    /// Set when the user wants to stop.
    pub stop: Arc<AtomicBool>,
    /// Where progress is shown.
    pub progress: Progress,
}

impl Arena<'_> {
    /// Where the broker speaks this.
    pub fn url(&self, wire: Wire) -> Result<Url> {
        let url = self.urls.iter().find(|url| url.wire == wire);
        url.cloned().with_context(|| Unsupported(wire.to_string()))
    }

    /// The URL for the parameter `wire`.
    pub fn wire(&self, params: &Params) -> Result<Url> {
        let name = params.text("wire");
        let wire = Wire::from_name(name).with_context(|| format!("wire={name}: unknown"))?;
        self.url(wire)
    }

    /// Whether the user wants to stop.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// The broker does not speak this; its place in the table stays empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported(pub String);

impl std::fmt::Display for Unsupported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no {}", self.0)
    }
}

impl std::error::Error for Unsupported {}

/// What a scenario found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Figures by their keys in [`figure::FIGURES`].
    pub figures: BTreeMap<&'static str, f64>,
    /// What became of the messages.
    pub verdict: Option<Verdict>,
    /// What a reader has to know.
    pub notes: Vec<String>,
}

impl Outcome {
    /// Adds a figure. Figures that are no numbers (divisions by a time too short to be measured)
    /// are left out.
    pub fn set(&mut self, key: &'static str, value: f64) {
        debug_assert!(figure::by_key(key).is_some(), "{key} has no title");
        if value.is_finite() {
            self.figures.insert(key, value);
        }
    }
}

/// One line on the terminal that says how far it is.
#[derive(Debug)]
pub struct Progress {
    what: String,
    shown: Instant,
    terminal: bool,
}

impl Progress {
    /// How often something is shown when nobody looks: a line in a log.
    const LOG_EVERY: Duration = Duration::from_secs(10);
    const TERMINAL_EVERY: Duration = Duration::from_millis(250);

    /// Progress of this measurement.
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            shown: Instant::now(),
            terminal: std::io::stderr().is_terminal(),
        }
    }

    /// Says how far it is, if it was not said just now.
    pub fn say(&mut self, how_far: impl FnOnce() -> String) {
        let every = if self.terminal {
            Self::TERMINAL_EVERY
        } else {
            Self::LOG_EVERY
        };
        if self.shown.elapsed() < every {
            return;
        }
        self.shown = Instant::now();
        let line = format!("{}: {}", self.what, how_far());
        // Progress that cannot be shown is no reason to stop.
        let _ = if self.terminal {
            write!(std::io::stderr(), "\r\x1b[2K{line}")
        } else {
            writeln!(std::io::stderr(), "{line}")
        };
    }

    /// Takes the line away.
    pub fn clear(&self) {
        if self.terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[2K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Spec;

    #[test]
    fn suites_name_scenarios_and_parameters_that_exist() {
        for (suite, texts) in SUITES {
            for spec in texts.iter().flat_map(|text| Spec::parse(text).unwrap()) {
                let scenario = by_name(&spec.name).unwrap();
                spec.params(scenario.keys).expect(suite);
            }
        }
    }

    #[test]
    fn unknown_scenarios_are_refused_with_the_known_ones() {
        let error = by_name("fast").err().unwrap().to_string();
        assert!(error.contains("durable-drain"), "{error}");
    }
}
