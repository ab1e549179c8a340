//! The command line.

use crate::bridge::Bridge;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Load generator for MQTT, STOMP and JSON brokers, and their comparison.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measures a broker that is running already.
    Run(Run),
    /// Starts brokers, measures them in turns and compares them.
    Compare(Compare),
    /// Measures the bridge beside a plain copier of a queue and a plain consumer of a stream.
    Bridge(Bridge),
    /// Measures what this machine allows: a bare write loop, a bare echo.
    Limit,
    /// Says which scenarios there are, and their parameters.
    List,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Scenarios, as in `fan-out:receivers=100,qos=1`, or the name of a suite.
    #[arg(required = true)]
    pub scenarios: Vec<String>,
    /// Where the broker listens, once for each protocol: mqtt://, mqtt+ws://, stomp://,
    /// stomp+ws://, json+ws://.
    #[arg(long, required = true)]
    pub url: Vec<String>,
    /// The broker's process, to measure its CPU time and memory.
    #[arg(long)]
    pub pid: Option<u32>,
    /// The folder with the broker's data, to measure its size.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Whether the broker compresses WebSocket messages.
    #[arg(long)]
    pub deflate: bool,
    /// What is measured, and how often.
    #[command(flatten)]
    pub common: Common,
}

/// Arguments of `compare`.
#[derive(Debug, Args)]
pub struct Compare {
    /// A scenario, as in `fan-out:receivers=100,qos=1`, or the name of a suite. May be repeated.
    #[arg(long)]
    pub scenario: Vec<String>,
    /// Which brokers; without it all that are found.
    #[arg(long, value_delimiter = ',')]
    pub brokers: Vec<String>,
    /// Polycast's program. Without it: the one next to this program, or in PATH.
    #[arg(long)]
    pub polycast: Option<PathBuf>,
    /// A TOML file with more brokers.
    #[arg(long)]
    pub brokers_file: Option<PathBuf>,
    /// Folder below which brokers keep their data. It decides which disk is measured.
    #[arg(long)]
    pub data_below: Option<PathBuf>,
    /// What is measured, and how often.
    #[command(flatten)]
    pub common: Common,
}

/// Arguments of both.
#[derive(Debug, Args)]
pub struct Common {
    /// How often each measurement is made. The medians are reported.
    #[arg(long, default_value_t = 1)]
    pub rounds: u32,
    /// Schedules broker and generator in real time while they are measured (chrt, needs the right
    /// to). Figures repeat better on a machine that others use too.
    #[arg(long)]
    pub realtime: bool,
    /// Folder for report.json, report.html, report.md and report.txt.
    #[arg(long)]
    pub out: Option<PathBuf>,
}
