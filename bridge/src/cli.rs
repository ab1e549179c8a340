//! The command line: `run`, `check-config`, `explain`, `dead-letters`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

use crate::config::{Config, SourceConfig};
use crate::dead_letters::{DeadLetter, Folder};
use crate::http::{Health, Limits, Routes, Server};
use crate::mapping::Publication;
use crate::metrics::Metrics;
use crate::publisher::{Publisher, Verdict};
use crate::run::{self, Phase, Plan, Shared};
use crate::sink;

/// What the bridge was asked to do.
#[derive(Debug, Parser)]
#[command(
    name = "polycast-bridge",
    version,
    about = "Events from SQS, EventBridge, Kinesis, NATS and HTTP to MQTT topics, and back"
)]
struct CommandLine {
    /// The configuration file
    #[arg(
        long,
        short,
        global = true,
        default_value = "bridge.toml",
        env = "POLYCAST_BRIDGE_CONFIG"
    )]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the bridge until SIGTERM or SIGINT
    Run,
    /// Say what is wrong with the configuration, all of it
    CheckConfig,
    /// Print what would be published for a message, without publishing it
    Explain {
        /// The source's name in the configuration
        #[arg(long)]
        source: String,
        /// The message as its source gives it, or its body alone
        #[arg(long)]
        message: PathBuf,
    },
    /// Look at dead letters, publish them again
    DeadLetters {
        #[command(subcommand)]
        command: DeadLetters,
    },
}

#[derive(Debug, Subcommand)]
enum DeadLetters {
    /// One line each: name, source, reason
    List,
    /// Print one whole
    Show {
        /// Its name, as `list` says it
        name: String,
    },
    /// Publish by the present configuration, and remove what the broker has acknowledged
    Replay {
        /// Names, as `list` says them
        #[arg(required_unless_present = "all")]
        names: Vec<String>,
        /// All of them
        #[arg(long, conflicts_with = "names")]
        all: bool,
    },
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // There is one provider; a second call finds it there.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let arguments = CommandLine::parse();
    match run_command(&arguments) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "polycast-bridge: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_command(arguments: &CommandLine) -> anyhow::Result<ExitCode> {
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(problems) => {
            writeln!(std::io::stderr(), "{problems}")?;
            return Ok(ExitCode::from(2));
        }
    };
    match &arguments.command {
        Command::CheckConfig => {
            let (sources, sinks) = (config.sources.len(), config.sinks.len());
            let file = arguments.config.display();
            print(&format!("{file}: good ({sources} sources, {sinks} sinks)"))?;
        }
        Command::Run => runtime(config.worker_threads)?.block_on(serve(config))?,
        Command::Explain { source, message } => explain(&config, source, message)?,
        Command::DeadLetters { command } => return dead_letters(&config, command),
    }
    Ok(ExitCode::SUCCESS)
}

fn runtime(worker_threads: usize) -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(worker_threads)
        .enable_all()
        .build()
}

fn print(text: &str) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{text}")
}

/// Runs everything until a signal comes and what is in flight is finished or given back.
async fn serve(mut config: Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log).context("the setting \"log\"")?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let metrics = Arc::new(Metrics::default());
    let (phase, watched) = watch::channel(Phase::Running);
    let (close_http, http_closed) = watch::channel(false);
    let mut servers = JoinSet::new();
    if let Some(address) = config.admin {
        let limits = Limits {
            max_body_bytes: 1024,
            max_requests: 16,
        };
        let routes = Health::routes(Arc::clone(&metrics));
        let server = Server::bind(address, None, limits, routes).await;
        let server = server.with_context(|| format!("admin.listen {address}"))?;
        info!(address = %server.address()?, "metrics and health");
        servers.spawn(server.run(http_closed.clone()));
    }
    let routes = Arc::new(Routes::default());
    for path in config
        .sources
        .iter()
        .filter_map(|source| source.kind.path())
    {
        routes.close(path);
    }
    if let Some(http) = &config.http {
        let limits = Limits {
            max_body_bytes: http.max_body_bytes,
            max_requests: http.max_requests,
        };
        let server = Server::bind(http.listen, http.tls.clone(), limits, Arc::clone(&routes)).await;
        let server = server.with_context(|| format!("http.listen {}", http.listen))?;
        info!(address = %server.address()?, "events by HTTP");
        servers.spawn(server.run(http_closed));
    }
    let (publisher, connection) =
        Publisher::start(Arc::clone(&config.broker), Arc::clone(&metrics.broker));
    let shared = Shared {
        bridge: config.name.as_str().into(),
        publisher,
        dead_letters: open_folder(&config)?,
        routes,
        phase: watched,
    };
    let mut flows = JoinSet::new();
    for source in std::mem::take(&mut config.sources) {
        let numbers = metrics.flow("source", &source.name);
        flows.spawn(run::run(source, shared.clone(), numbers));
    }
    for sink in std::mem::take(&mut config.sinks) {
        let numbers = metrics.flow("sink", &sink.name);
        flows.spawn(sink::run(
            sink,
            Arc::clone(&config.broker),
            shared.clone(),
            numbers,
        ));
    }
    drop(shared);
    stop_signal().await?;
    info!("stopping");
    phase.send_replace(Phase::Draining);
    if tokio::time::timeout(config.stop_grace, all(&mut flows))
        .await
        .is_err()
    {
        info!("giving back what is in flight");
        phase.send_replace(Phase::Releasing);
        // Sources tell their servers now; one that does not answer may not hold up the stop.
        let _ = tokio::time::timeout(config.stop_grace, all(&mut flows)).await;
    }
    flows.shutdown().await;
    close_http.send_replace(true);
    let _ = tokio::time::timeout(config.stop_grace, all(&mut servers)).await;
    connection.abort();
    info!("stopped");
    Ok(())
}

async fn all(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            error!(%error, "a task ended");
        }
    }
}

async fn stop_signal() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn open_folder(config: &Config) -> anyhow::Result<Option<Arc<Folder>>> {
    let Some(folder) = &config.dead_letters else {
        return Ok(None);
    };
    let opened = Folder::open(folder);
    let opened =
        opened.with_context(|| format!("dead_letters.folder {}", folder.folder.display()))?;
    Ok(Some(opened))
}

fn find<'a>(config: &'a Config, name: &str) -> anyhow::Result<&'a SourceConfig> {
    let found = config.sources.iter().find(|source| source.name == name);
    found.with_context(|| format!("no source is named \"{name}\""))
}

fn explain(config: &Config, source: &str, message: &Path) -> anyhow::Result<()> {
    let source = find(config, source)?;
    let file = std::fs::read(message).with_context(|| message.display().to_string())?;
    for event in source.kind.sample(&file)? {
        let shown = match run::plan(source, &event, &config.name) {
            Ok(Plan::Publish(publication)) => shown(&publication),
            Ok(Plan::Skip(why)) => json!({ "skipped": why }),
            Err(why) => json!({ "deadLetter": why }),
        };
        print(&serde_json::to_string_pretty(&shown)?)?;
    }
    Ok(())
}

fn shown(publication: &Publication) -> Value {
    let payload = String::from_utf8_lossy(&publication.payload);
    let properties = publication.user_properties.iter();
    let correlation = publication
        .correlation
        .as_deref()
        .map(String::from_utf8_lossy);
    json!({
        "topic": publication.topic,
        "qos": publication.qos as u8,
        "retain": publication.retain,
        "expirySeconds": publication.expiry_secs,
        "contentType": publication.content_type,
        "responseTopic": publication.response_topic,
        "correlationData": correlation,
        "userProperties": properties.map(|(name, value)| json!([name, value])).collect::<Vec<_>>(),
        "payload": payload,
    })
}

fn dead_letters(config: &Config, command: &DeadLetters) -> anyhow::Result<ExitCode> {
    let folder = open_folder(config)?.context("there is no [dead_letters] in the configuration")?;
    match command {
        DeadLetters::List => {
            for name in folder.names()? {
                let letter = folder.read(&name)?;
                print(&format!(
                    "{name}\t{}\t{}\t{}",
                    letter.source,
                    letter.id(),
                    letter.reason
                ))?;
            }
        }
        DeadLetters::Show { name } => {
            print(&serde_json::to_string_pretty(&folder.read(name)?)?)?;
        }
        DeadLetters::Replay { names, all } => {
            let names = if *all { folder.names()? } else { names.clone() };
            return runtime(config.worker_threads)?.block_on(replay(config, &folder, &names));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Publishes dead letters one after another. What cannot be published stays.
async fn replay(config: &Config, folder: &Folder, names: &[String]) -> anyhow::Result<ExitCode> {
    let metrics = Metrics::default();
    let (publisher, connection) =
        Publisher::start(Arc::clone(&config.broker), Arc::clone(&metrics.broker));
    let connected = tokio::time::timeout(config.broker.connect_timeout, publisher.connected());
    if connected.await.is_err() {
        bail!("cannot connect to {}", config.broker.url);
    }
    let mut code = ExitCode::SUCCESS;
    for name in names {
        match replay_one(config, folder, &publisher, name).await {
            Ok(what) => print(&format!("{name}: {what}"))?,
            Err(error) => {
                print(&format!("{name}: {error:#}"))?;
                code = ExitCode::FAILURE;
            }
        }
    }
    drop(publisher);
    connection.await?;
    Ok(code)
}

async fn replay_one(
    config: &Config,
    folder: &Folder,
    publisher: &Publisher,
    name: &str,
) -> anyhow::Result<String> {
    let letter: DeadLetter = folder.read(name)?;
    let source = find(config, &letter.source)?;
    let plan = run::plan(source, &letter.event()?, &config.name).map_err(anyhow::Error::msg)?;
    let said = match plan {
        Plan::Skip(why) => format!("removed: {why}"),
        Plan::Publish(publication) => {
            let topic = publication.topic.clone();
            match publisher.publish(*publication).await? {
                Verdict::Accepted => format!("published to {topic}"),
                Verdict::Refused { reason, .. } => bail!(reason),
            }
        }
    };
    folder.remove(name)?;
    Ok(said)
}
