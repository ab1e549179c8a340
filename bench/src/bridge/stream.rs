//! JetStream: consumers that only acknowledge, and then the bridge, each over the same stream.

use super::{Arena, Bridge, Cpu, Program, Speed, TOPIC, cpu_of, which};
use crate::measure::process::own_cpu_secs;
use anyhow::{Context, Result};
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::{self, Context as JetStream, stream};
use futures_util::StreamExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// Publications that wait for the stream's answer.
const WINDOW: usize = 500;

/// Messages that the bridge may have without having acknowledged them.
const PENDING: i64 = 5000;

/// A consumer that acknowledges each message by itself and does nothing else.
struct Alone {
    name: &'static str,
    /// Messages that it asks for at a time.
    batch: usize,
    /// Messages that it may have without having acknowledged them.
    pending: i64,
}

/// What `nats bench js consume` does with one client unless it is told otherwise.
const NATS_BENCH: Alone = Alone {
    name: "nats-bench",
    batch: 500,
    pending: 500,
};

/// With as much open as the bridge may have.
const WIDE: Alone = Alone {
    name: "wide",
    batch: 1000,
    pending: PENDING,
};

/// Whoever reads the stream first finds a server that has just written it: this one is not counted.
const FIRST: Alone = Alone {
    name: "first",
    ..WIDE
};

/// How fast each of them was over the same stream.
pub(super) struct Measured {
    pub(super) nats_bench: Speed,
    pub(super) wide: Speed,
    pub(super) bridge: Speed,
}

const STREAM: &str = "bench";

/// The consumers alone, and the bridge.
pub(super) fn measure(args: &Bridge, program: &Path, exact: &mut bool) -> Result<Measured> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let server = Server::start(args)?;
    let jetstream = runtime.block_on(server.connect())?;
    runtime.block_on(fill(&jetstream, args))?;
    let with_cpu = |run: &mut dyn FnMut() -> Result<Speed>| {
        let (before, own) = (server.cpu(args)?, own_cpu(args));
        let mut speed = run()?;
        speed.cpu.source = server.cpu(args)? - before;
        speed.cpu.consumer = own_cpu(args) - own;
        anyhow::Ok(speed)
    };
    let alone = |how| with_cpu(&mut || runtime.block_on(consume(&jetstream, args.events, how)));
    alone(&FIRST)?;
    Ok(Measured {
        nats_bench: alone(&NATS_BENCH)?,
        wide: alone(&WIDE)?,
        bridge: with_cpu(&mut || carry(args, program, &server, &runtime, &jetstream, exact))?,
    })
}

/// What this program has used, per million events: it is the consumers, and the subscriber.
fn own_cpu(args: &Bridge) -> f64 {
    own_cpu_secs() * 1e6 / args.events as f64
}

async fn fill(jetstream: &JetStream, args: &Bridge) -> Result<()> {
    let config = stream::Config {
        name: STREAM.to_owned(),
        subjects: vec!["bench.>".to_owned()],
        ..Default::default()
    };
    jetstream.create_stream(config).await?;
    let payload = bytes::Bytes::from(vec![b'x'; args.size]);
    let mut waiting = std::collections::VecDeque::new();
    for _ in 0..args.events {
        let published = jetstream.publish("bench.events", payload.clone()).await?;
        waiting.push_back(published);
        if waiting.len() >= WINDOW
            && let Some(first) = waiting.pop_front()
        {
            first.await?;
        }
    }
    for rest in waiting {
        rest.await?;
    }
    Ok(())
}

/// Until the server knows that each was acknowledged.
async fn consume(jetstream: &JetStream, events: u64, how: &Alone) -> Result<Speed> {
    let stream = jetstream.get_stream(STREAM).await?;
    let config = pull::Config {
        durable_name: Some(how.name.to_owned()),
        ack_policy: AckPolicy::Explicit,
        max_ack_pending: how.pending,
        ..Default::default()
    };
    let mut consumer = stream.create_consumer(config).await?;
    let begun = Instant::now();
    let mut messages = consumer
        .stream()
        .max_messages_per_batch(how.batch)
        .messages()
        .await?;
    for _ in 0..events {
        let message = messages.next().await.context("the consumer has ended")??;
        message.ack().await.map_err(anyhow::Error::from_boxed)?;
    }
    while consumer.info().await?.ack_floor.stream_sequence < events {}
    Ok(Speed {
        events_per_sec: events as f64 / begun.elapsed().as_secs_f64(),
        cpu: Cpu::default(),
    })
}

fn carry(
    args: &Bridge,
    program: &Path,
    server: &Server,
    runtime: &Runtime,
    jetstream: &JetStream,
    exact: &mut bool,
) -> Result<Speed> {
    let arena = Arena::start(args)?;
    let source = format!(
        "kind = \"nats\"\nservers = [\"nats://127.0.0.1:{}\"]\nstream = \"{STREAM}\"\n\
         topic = \"{TOPIC}\"\norder = \"none\"\nmax_in_flight = {PENDING}\nmax_ack_pending = {PENDING}\n{}\n",
        server.port,
        args.settings.join("\n")
    );
    let bridge = Program::start(program, &arena.mqtt, &source)?;
    let floor = || {
        let found = runtime.block_on(async {
            let stream = jetstream.get_stream(STREAM).await.ok()?;
            let info = stream.consumer_info("polycast-bridge").await.ok()?;
            Some((
                info.delivered.stream_sequence,
                info.ack_floor.stream_sequence,
            ))
        });
        found.unwrap_or_default()
    };
    while floor().0 == 0 {}
    let took = arena.wait(args.events, || floor().1 >= args.events)?;
    let speed = bridge.speed(args.events, took, &arena)?;
    drop(bridge);
    arena.end(args.events, exact)?;
    Ok(speed)
}

/// A NATS server in a folder of its own.
struct Server {
    child: Child,
    port: u16,
    _folder: TempDir,
}

impl Server {
    fn start(args: &Bridge) -> Result<Self> {
        let folder = tempfile::Builder::new();
        let folder = match &args.data_below {
            Some(below) => folder.tempdir_in(below)?,
            None => folder.tempdir()?,
        };
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let program = which("nats-server").context("nats-server is missing")?;
        let child = Command::new(program)
            .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self {
            child,
            port,
            _folder: folder,
        })
    }

    /// What it has used, per million events.
    fn cpu(&self, args: &Bridge) -> Result<f64> {
        cpu_of(self.child.id(), args.events)
    }

    async fn connect(&self) -> Result<JetStream> {
        let begun = Instant::now();
        loop {
            match async_nats::connect(format!("127.0.0.1:{}", self.port)).await {
                Ok(client) => return Ok(jetstream::new(client)),
                Err(error) if begun.elapsed() > Duration::from_secs(20) => return Err(error.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
