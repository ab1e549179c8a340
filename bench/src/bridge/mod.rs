//! `bench bridge`: how fast the bridge carries events, beside what one would write without it.
//!
//! - SQS: beside a plain copier ([`copier`]) at the same guarantee, an event is deleted only after
//!   its PUBACK. Both talk to the same queue ([`queue`]), which answers after a given time: a real
//!   SQS takes 5 to 10 ms.
//! - JetStream: beside a consumer that acknowledges and does nothing else ([`stream`]), as `nats
//!   bench` does.
//!
//! A subscriber with a durable session is connected all the time, so that every PUBACK means that
//! the message is on the broker's disk.

mod copier;
mod link;
mod queue;
mod stream;

use crate::brokers::running::{Ending, Running};
use crate::brokers::{known, select};
use crate::measure::process::Process;
use anyhow::{Context, Result, bail};
use clap::Args;
use link::Link;
use queue::Queue;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a measurement may take.
const PATIENCE: Duration = Duration::from_mins(5);

/// How often it is looked whether it is over.
const LOOK: Duration = Duration::from_millis(1);

/// Where events go.
const TOPIC: &str = "bench/events";

/// Arguments of `bridge`.
#[derive(Debug, Args)]
pub struct Bridge {
    /// Events of a measurement; the plain copier carries a tenth of them.
    #[arg(long, default_value_t = 50_000)]
    pub events: u64,
    /// Bytes of an event.
    #[arg(long, default_value_t = 200)]
    pub size: usize,
    /// After how many milliseconds the queue answers a call. May be repeated.
    #[arg(long, value_delimiter = ',', default_value = "0,5")]
    pub round_trip: Vec<u64>,
    /// One source alone; without it: both.
    #[arg(long)]
    pub only: Option<Source>,
    /// How often each measurement is made; the medians are shown.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// One more line of the bridge's source, as `idempotency = "off"`. May be repeated.
    #[arg(long = "with", value_name = "LINE")]
    pub settings: Vec<String>,
    /// The bridge's program. Without it: the one next to this program.
    #[arg(long = "bridge")]
    pub program: Option<PathBuf>,
    /// Polycast's program. Without it: the one next to this program, or in PATH.
    #[arg(long)]
    pub polycast: Option<PathBuf>,
    /// Folder below which the broker and NATS keep their data. It decides which disk is measured.
    #[arg(long)]
    pub data_below: Option<PathBuf>,
}

/// Where events come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Source {
    /// A queue.
    Sqs,
    /// A stream.
    Jetstream,
}

/// How fast something carried events.
#[derive(Clone, Copy, Debug)]
struct Speed {
    events_per_sec: f64,
    cpu: Cpu,
}

/// Seconds of CPU per million events, as far as they are known: all together divide the machine,
/// and say who has used it up.
#[derive(Clone, Copy, Debug, Default)]
struct Cpu {
    bridge: f64,
    broker: f64,
    /// The server that the events are in.
    source: f64,
    /// The consumer alone, or the subscriber.
    consumer: f64,
}

impl std::fmt::Display for Cpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [
            ("source", self.source),
            ("bridge", self.bridge),
            ("broker", self.broker),
            ("consumer", self.consumer),
        ];
        let mut known = parts.into_iter().filter(|(_, secs)| *secs > 0.0);
        if let Some((name, secs)) = known.next() {
            write!(f, "{name} {secs:.1} s")?;
        }
        known.try_for_each(|(name, secs)| write!(f, ", {name} {secs:.1} s"))
    }
}

/// Seconds of CPU that a process has used, per million of `events`.
fn cpu_of(pid: u32, events: u64) -> Result<f64> {
    Ok(Process(pid).usage()?.cpu_secs * 1e6 / events as f64)
}

/// Measures and prints. Returns whether each event reached the subscriber once.
pub fn run(args: &Bridge) -> Result<bool> {
    let program = bridge_program(args)?;
    let mut exact = true;
    let is_wanted = |source| args.only.is_none_or(|only| only == source);
    let round_trips = is_wanted(Source::Sqs).then_some(&args.round_trip);
    for ms in round_trips.into_iter().flatten() {
        let round_trip = Duration::from_millis(*ms);
        let mut plain = Vec::new();
        let mut bridged = Vec::new();
        for _ in 0..args.rounds {
            plain.push(sqs_plain(args, round_trip, &mut exact)?);
            bridged.push(sqs_bridge(args, &program, round_trip, &mut exact)?);
        }
        let what = format!("SQS that answers in {ms} ms");
        show(&what, &[("plain copier", median(plain))], median(bridged));
    }
    if !is_wanted(Source::Jetstream) {
        return Ok(exact);
    }
    if which("nats-server").is_none() {
        println!("JetStream: nats-server is not on this machine");
        return Ok(exact);
    }
    let (mut nats_bench, mut wide, mut bridged) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..args.rounds {
        let measured = stream::measure(args, &program, &mut exact)?;
        nats_bench.push(measured.nats_bench);
        wide.push(measured.wide);
        bridged.push(measured.bridge);
    }
    let others = [
        ("consumer as nats bench's", median(nats_bench)),
        ("consumer with as much open as the bridge", median(wide)),
    ];
    show("JetStream", &others, median(bridged));
    Ok(exact)
}

/// The bridge beside each of the others.
fn show(what: &str, others: &[(&str, Speed)], bridge: Speed) {
    let b = bridge.events_per_sec;
    for (other, speed) in others {
        let a = speed.events_per_sec;
        println!(
            "{what}: {other} {a:.0} events/s, bridge {b:.0} events/s ({:.2}x)",
            b / a
        );
    }
    for (name, speed) in others.iter().chain([&("bridge", bridge)]) {
        println!("  CPU per million events: {name}: {}", speed.cpu);
    }
}

fn median(mut speeds: Vec<Speed>) -> Speed {
    speeds.sort_by(|a, b| a.events_per_sec.total_cmp(&b.events_per_sec));
    speeds[speeds.len() / 2]
}

fn bridge_program(args: &Bridge) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let beside = own.with_file_name("polycast-bridge");
    let program = args.program.clone().unwrap_or(beside);
    if !program.is_file() {
        bail!(
            "{} is missing: cargo build --release -p bridge",
            program.display()
        );
    }
    Ok(program)
}

fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let mut places = folders.map(|folder| folder.join(program));
    places.find(|place| place.is_file())
}

/// A broker with a subscriber that counts.
struct Arena {
    broker: Running,
    mqtt: String,
    arrived: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Arena {
    fn start(args: &Bridge) -> Result<Self> {
        let recipes = known(None)?;
        let chosen = select(&recipes, &["polycast".into()], args.polycast.as_deref())?;
        let (recipe, program) = chosen.first().context("polycast is missing")?;
        let broker = Running::start(recipe, program, true, args.data_below.as_deref())?;
        let mqtt = broker.urls[0].address()?.to_string();
        let mut reader = Link::connect(&mqtt, "reader", false)?;
        reader.subscribe("bench/#")?;
        let (arrived, over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (count, stop) = (Arc::clone(&arrived), Arc::clone(&over));
        thread::spawn(
            move || {
                while !stop.load(Ordering::Relaxed) && reader.take(&count).is_ok() {}
            },
        );
        Ok(Self {
            broker,
            mqtt,
            arrived,
            over,
        })
    }

    /// Waits until the source and the subscriber agree that all is there.
    fn wait(&self, events: u64, mut is_settled: impl FnMut() -> bool) -> Result<Duration> {
        let begun = Instant::now();
        while self.arrived.load(Ordering::Relaxed) < events || !is_settled() {
            if begun.elapsed() > PATIENCE {
                let arrived = self.arrived.load(Ordering::Relaxed);
                bail!("{arrived} of {events} events in {PATIENCE:?}");
            }
            sleep(LOOK);
        }
        Ok(begun.elapsed())
    }

    fn end(mut self, events: u64, exact: &mut bool) -> Result<()> {
        sleep(Duration::from_millis(200));
        let arrived = self.arrived.load(Ordering::Relaxed);
        if arrived != events {
            *exact = false;
            println!("{arrived} deliveries of {events} events");
        }
        self.over.store(true, Ordering::Relaxed);
        self.broker.end(Ending::Stop)
    }
}

fn sqs_plain(args: &Bridge, round_trip: Duration, exact: &mut bool) -> Result<Speed> {
    let events = (args.events / 10).max(1);
    let arena = Arena::start(args)?;
    let queue = Queue::start(events, args.size, round_trip)?;
    let begun = Instant::now();
    copier::copy(queue.address(), &arena.mqtt, TOPIC, events)?;
    let took = begun.elapsed();
    arena.wait(events, || queue.left() == 0)?;
    let broker = cpu_of(arena.broker.pid(), events)?;
    arena.end(events, exact)?;
    Ok(Speed {
        events_per_sec: events as f64 / took.as_secs_f64(),
        cpu: Cpu {
            broker,
            ..Cpu::default()
        },
    })
}

fn sqs_bridge(
    args: &Bridge,
    program: &Path,
    round_trip: Duration,
    exact: &mut bool,
) -> Result<Speed> {
    let arena = Arena::start(args)?;
    let queue = Queue::start(args.events, args.size, round_trip)?;
    let address = queue.address();
    let source = format!(
        "kind = \"sqs\"\nendpoint = \"http://{address}\"\nregion = \"us-east-1\"\n\
         queue_url = \"http://{address}/1/bench\"\ntopic = \"{TOPIC}\"\n{}\n",
        args.settings.join("\n")
    );
    let bridge = Program::start(program, &arena.mqtt, &source)?;
    // Its start is not the question: the first call begins the time.
    while queue.left() == args.events && !queue.was_asked() {
        sleep(LOOK);
    }
    let took = arena.wait(args.events, || queue.left() == 0)?;
    let speed = bridge.speed(args.events, took, &arena)?;
    drop(bridge);
    arena.end(args.events, exact)?;
    Ok(speed)
}

/// A running bridge; it is killed when dropped, and everything is settled by then.
struct Program {
    child: Child,
    _folder: TempDir,
}

impl Program {
    fn start(program: &Path, mqtt: &str, source: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("bridge.toml");
        let text =
            format!("log = \"warn\"\n[broker]\nurl = \"mqtt://{mqtt}\"\n[sources.s]\n{source}");
        fs::write(&config, text)?;
        let child = Command::new(program)
            .arg("--config")
            .arg(&config)
            .arg("run")
            .envs([
                ("AWS_ACCESS_KEY_ID", "bench"),
                ("AWS_SECRET_ACCESS_KEY", "bench"),
            ])
            .stdin(Stdio::null())
            .spawn()?;
        Ok(Self {
            child,
            _folder: folder,
        })
    }

    fn speed(&self, events: u64, took: Duration, arena: &Arena) -> Result<Speed> {
        let cpu = Cpu {
            bridge: cpu_of(self.child.id(), events)?,
            broker: cpu_of(arena.broker.pid(), events)?,
            ..Cpu::default()
        };
        Ok(Speed {
            events_per_sec: events as f64 / took.as_secs_f64(),
            cpu,
        })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
