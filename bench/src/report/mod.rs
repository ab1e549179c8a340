//! What was measured, as a table for people, a JSON file for programs and an HTML page with
//! charts. All three are made from the same [`Report`].

pub mod figure;
pub mod html;
pub mod summary;
pub mod table;

use crate::generator::ledger::Verdict;
use crate::scenario::Outcome;
use anyhow::{Context, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Everything that one run of the program measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Seconds since 1970.
    pub made_at: u64,
    /// Processors, kernel.
    pub machine: String,
    /// The brokers, in the order of the tables.
    pub brokers: Vec<BrokerInfo>,
    /// Every single measurement.
    pub records: Vec<Record>,
}

/// A broker that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct BrokerInfo {
    /// How it is called.
    pub name: String,
    /// The first line of what it says to `--version`.
    pub version: String,
    /// What its acknowledgements mean in the durable scenarios.
    pub promise: String,
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// The scenario with its parameters.
    pub scenario: String,
    /// The broker's name.
    pub broker: String,
    /// Rounds are counted from 1.
    pub round: u32,
    /// The figures, by their keys.
    pub figures: BTreeMap<&'static str, f64>,
    /// What became of the messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// What a reader has to know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Why there are no figures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Record {
    /// The record of a measurement.
    pub fn new(scenario: &str, broker: &str, round: u32, result: Result<Outcome>) -> Self {
        let (outcome, error) = match result {
            Ok(outcome) => (outcome, None),
            Err(error) => (Outcome::default(), Some(format!("{error:#}"))),
        };
        Self {
            scenario: scenario.to_owned(),
            broker: broker.to_owned(),
            round,
            figures: outcome.figures,
            verdict: outcome.verdict,
            notes: outcome.notes,
            error,
        }
    }
}

impl Report {
    /// A report without measurements.
    pub fn new(brokers: Vec<BrokerInfo>) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            made_at: now.map_or(0, |since| since.as_secs()),
            machine: machine(),
            brokers,
            records: Vec::new(),
        }
    }

    /// The scenarios, in the order in which they were measured.
    pub fn scenarios(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for record in &self.records {
            if !names.contains(&record.scenario.as_str()) {
                names.push(&record.scenario);
            }
        }
        names
    }

    /// Writes `report.json`, `report.html`, `report.md` and `report.txt` into a folder.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let put = |name: &str, text: String| {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| path.display().to_string())
        };
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        put("report.json", serde_json::to_string_pretty(self)? + "\n")?;
        put("report.html", html::page(self))?;
        put("report.md", table::markdown(self))?;
        put("report.txt", table::text(self))
    }
}

fn machine() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, model)| model.trim());
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{count} x {model}, Linux {}", kernel.trim())
}
