//! The configuration: one TOML file, read whole, all its problems reported at once.
//!
//! Every default stands here or in the `read` function of the source, sink or mapping that it
//! belongs to. [`section`] is how a table is read.

mod section;

use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use section::{Notes, Problem, Secret, Section, parse_duration};

use crate::envelope::Envelope;
use crate::mapping::Mapping;
use crate::pattern::Pattern;
use crate::sink::{self, SinkConfig};
use crate::source::{self, Kind};
use crate::tls;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// Everything that can be set.
#[derive(Debug)]
pub struct Config {
    /// This bridge, to others: the loop guard knows it by this name.
    pub name: String,
    /// What is logged, as `RUST_LOG` says it.
    pub log: String,
    /// How long a stop may take before what is in flight is given back to its source.
    pub stop_grace: Duration,
    /// Threads that the bridge works with.
    pub worker_threads: usize,
    /// Where events go.
    pub broker: Arc<Broker>,
    /// Metrics and health.
    pub admin: Option<SocketAddr>,
    /// Ways in by HTTP.
    pub http: Option<Http>,
    /// Where dead letters are kept.
    pub dead_letters: Option<DeadLetterFolder>,
    /// Where events come from.
    pub sources: Vec<SourceConfig>,
    /// Where messages go to.
    pub sinks: Vec<SinkConfig>,
}

/// The connection to the broker.
#[derive(Debug)]
pub struct Broker {
    /// As it was written.
    pub url: String,
    /// Host.
    pub host: String,
    /// Port.
    pub port: u16,
    /// TLS, if the scheme is `mqtts`.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Client identifier; further connections add their number.
    pub client_id: String,
    /// Connections to publish by, at most: there are as many as the broker's Receive Maximum makes
    /// useful.
    pub connections: usize,
    /// User.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
    /// Keep alive.
    pub keep_alive: Duration,
    /// From the socket to CONNACK.
    pub connect_timeout: Duration,
    /// The first pause between two tries to connect.
    pub reconnect_min: Duration,
    /// The longest.
    pub reconnect_max: Duration,
}

/// The HTTP port for events.
#[derive(Debug)]
pub struct Http {
    /// Where it listens.
    pub listen: SocketAddr,
    /// TLS, if a certificate is set.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Bytes of a request's body.
    pub max_body_bytes: usize,
    /// Requests at a time.
    pub max_requests: usize,
}

/// A folder with dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterFolder {
    /// Where.
    pub folder: PathBuf,
    /// How many it may hold; beyond it, events are given back to their source.
    pub max: usize,
}

/// What happens to an event that cannot be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeadPolicy {
    /// It is left to the source: a queue's redrive policy, an error to a request.
    Source,
    /// It is written to the folder of dead letters.
    Folder,
    /// It is published to a topic.
    Topic(String),
}

/// A source.
#[derive(Debug)]
pub struct SourceConfig {
    /// Its name: in metrics, logs, dead letters and idempotency keys.
    pub name: String,
    /// What it is and where it connects.
    pub kind: Arc<dyn Kind>,
    /// What is wrapped around its messages.
    pub envelope: Envelope,
    /// Events that do not match are acknowledged and not published.
    pub filter: Option<Pattern>,
    /// What its events become.
    pub mapping: Mapping,
    /// What happens to those that become nothing.
    pub dead: DeadPolicy,
    /// Its bounds.
    pub limits: Limits,
}

/// The bounds of a source.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Events that are received and not settled.
    pub max_in_flight: usize,
    /// Bytes of their bodies.
    pub max_in_flight_bytes: usize,
    /// Tries of one delivery before it is given back.
    pub max_attempts: u32,
    /// Deliveries after which an event is dead; 0 is never.
    pub max_deliveries: u64,
    /// The first pause between two tries.
    pub retry_min: Duration,
    /// The longest.
    pub retry_max: Duration,
    /// Keys of published events that are remembered.
    pub remembered_keys: usize,
}

/// All problems of a configuration.
#[derive(Debug)]
pub struct Problems {
    file: PathBuf,
    list: Vec<Problem>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}: {problem}", self.file.display())?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl Config {
    /// Reads a file.
    pub fn load(file: &Path) -> Result<Self, Problems> {
        let notes = Notes::default();
        let config = match std::fs::read_to_string(file) {
            Ok(text) => read(&text, &notes),
            Err(error) => {
                notes.add("", error.to_string());
                None
            }
        };
        let list = notes.take();
        match config {
            Some(config) if list.is_empty() => Ok(config),
            _ => Err(Problems {
                file: file.to_owned(),
                list,
            }),
        }
    }
}

fn read(text: &str, notes: &Notes) -> Option<Config> {
    let table = match text.parse::<toml::Table>() {
        Ok(table) => table,
        Err(error) => {
            notes.add("", error.to_string());
            return None;
        }
    };
    let mut root = Section::root(table, notes.clone());
    let name = root
        .text("name")
        .unwrap_or_else(|| "polycast-bridge".to_owned());
    let dead_letters = read_dead_letters(&mut root);
    let threads = root.count("worker_threads", default_threads(), 1..=1024);
    let config = Config {
        log: root.text("log").unwrap_or_else(|| "info".to_owned()),
        stop_grace: root.duration("stop_grace", 10 * SECOND, Duration::ZERO..=HOUR),
        worker_threads: usize::try_from(threads).unwrap_or(1),
        broker: Arc::new(read_broker(&mut root, &name)?),
        admin: address(&mut root.section("admin"), "listen"),
        http: read_http(&mut root),
        sources: read_sources(&mut root, dead_letters.is_some()),
        sinks: sink::read(&mut root),
        dead_letters,
        name,
    };
    if config.sources.is_empty() && config.sinks.is_empty() {
        notes.add("sources", "there is neither a source nor a sink");
    }
    check_http(&config, notes);
    Some(config)
}

/// Half of the processors: an event goes through many hands, and is dearer where each of them may be
/// another thread's. The other half is for those whom the bridge keeps busy.
fn default_threads() -> u64 {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    (processors as u64 / 2).clamp(1, 1024)
}

fn read_broker(root: &mut Section, name: &str) -> Option<Broker> {
    let mut section = root.section("broker");
    let url = section
        .text("url")
        .unwrap_or_else(|| "mqtt://127.0.0.1:1883".to_owned());
    let place = parse_broker_url(&url);
    if place.is_none() {
        section.problem(
            "url",
            format!("must be mqtt://HOST:PORT or mqtts://HOST:PORT, not \"{url}\""),
        );
    }
    let ca_file = section.path("ca_file");
    let client = (section.path("cert_file"), section.path("key_file"));
    let tls = match &place {
        Some((true, ..)) => tls::client(ca_file.as_deref(), &client)
            .map_err(|error| section.problem("url", error.to_string()))
            .ok(),
        _ => None,
    };
    let broker = Broker {
        client_id: section.text("client_id").unwrap_or_else(|| name.to_owned()),
        username: section.text("username"),
        password: section.secret("password"),
        keep_alive: section.duration("keep_alive", 30 * SECOND, SECOND..=18 * HOUR),
        connections: usize_of(section.count("connections", 32, 1..=256)),
        connect_timeout: section.duration("connect_timeout", 10 * SECOND, 10 * MS..=HOUR),
        reconnect_min: section.duration("reconnect_min", 100 * MS, MS..=HOUR),
        reconnect_max: section.duration("reconnect_max", 15 * SECOND, MS..=HOUR),
        host: String::new(),
        port: 0,
        url,
        tls,
    };
    let (_, host, port) = place?;
    Some(Broker {
        host,
        port,
        ..broker
    })
}

/// Whether it is TLS, the host and the port.
fn parse_broker_url(url: &str) -> Option<(bool, String, u16)> {
    let (tls, rest) = match url.split_once("://")? {
        ("mqtt", rest) => (false, rest),
        ("mqtts", rest) => (true, rest),
        _ => return None,
    };
    let authority: http::uri::Authority = rest.trim_end_matches('/').parse().ok()?;
    if authority.as_str().contains('@') {
        return None;
    }
    let port = match authority.port_u16() {
        Some(port) => port,
        None if authority.as_str() == authority.host() => {
            if tls {
                8883
            } else {
                1883
            }
        }
        None => return None,
    };
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    (!host.is_empty()).then_some((tls, host, port))
}

fn address(section: &mut Section, key: &str) -> Option<SocketAddr> {
    let text = section.text(key)?;
    match text.parse() {
        Ok(address) => Some(address),
        Err(_) => {
            section.problem(key, format!("must be ADDRESS:PORT, not \"{text}\""));
            None
        }
    }
}

fn read_http(root: &mut Section) -> Option<Http> {
    if !root.has("http") {
        return None;
    }
    let mut section = root.section("http");
    if !section.has("listen") {
        section.problem("listen", "is missing");
    }
    let tls = match (section.path("cert_file"), section.path("key_file")) {
        (None, None) => None,
        (Some(cert), Some(key)) => tls::server(&cert, &key)
            .map_err(|error| section.problem("cert_file", error.to_string()))
            .ok(),
        _ => {
            section.problem("cert_file", "cert_file and key_file belong together");
            None
        }
    };
    Some(Http {
        listen: address(&mut section, "listen")?,
        tls,
        max_body_bytes: usize_of(section.count("max_body_bytes", 1 << 20, 1024..=1 << 28)),
        max_requests: usize_of(section.count("max_requests", 1000, 1..=1_000_000)),
    })
}

fn read_dead_letters(root: &mut Section) -> Option<DeadLetterFolder> {
    if !root.has("dead_letters") {
        return None;
    }
    let mut section = root.section("dead_letters");
    let folder = section.required_text("folder");
    Some(DeadLetterFolder {
        folder: folder.into(),
        max: usize_of(section.count("max", 100_000, 1..=10_000_000)),
    })
}

fn read_sources(root: &mut Section, has_folder: bool) -> Vec<SourceConfig> {
    let sources = root.section("sources").sections().into_iter();
    let sources = sources.filter_map(|(name, mut section)| {
        check_name(&name, &section);
        let kind = source::read(&mut section)?;
        let names = Envelope::NAMES;
        Some(SourceConfig {
            envelope: section.choice("envelope", &names, kind.envelope()),
            filter: Pattern::read(&mut section, "filter"),
            mapping: Mapping::read(&mut section),
            dead: read_dead_policy(&mut section, &name, has_folder, kind.takes_poison()),
            limits: read_limits(&mut section),
            kind,
            name,
        })
    });
    sources.collect()
}

/// Names stand in metrics, topics and file names.
pub(crate) fn check_name(name: &str, section: &Section) {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if name.is_empty() || name.len() > 64 || !name.chars().all(fits) {
        section.problem("", "a name has 1 to 64 letters, digits, - and _");
    }
}

fn read_dead_policy(
    section: &mut Section,
    name: &str,
    has_folder: bool,
    takes_poison: bool,
) -> DeadPolicy {
    let topic = section.text("dead_letter_topic");
    let default = match (has_folder, takes_poison) {
        (true, _) => "folder",
        (false, true) => "source",
        (false, false) => "topic",
    };
    let names = [
        ("source", "source"),
        ("folder", "folder"),
        ("topic", "topic"),
    ];
    match section.choice("dead_letter", &names, default) {
        "topic" => DeadPolicy::Topic(topic.unwrap_or_else(|| format!("dead-letters/{name}"))),
        "folder" if !has_folder => {
            section.problem("dead_letter", "needs the folder that [dead_letters] names");
            DeadPolicy::Source
        }
        "folder" => DeadPolicy::Folder,
        _ if !takes_poison => {
            section.problem(
                "dead_letter",
                "must be folder or topic: this source takes nothing back",
            );
            DeadPolicy::Source
        }
        _ => DeadPolicy::Source,
    }
}

fn read_limits(section: &mut Section) -> Limits {
    let max_attempts = section.count("max_attempts", 10, 1..=1_000_000);
    Limits {
        max_in_flight: usize_of(section.count("max_in_flight", 1000, 1..=1_000_000)),
        max_in_flight_bytes: usize_of(section.count("max_in_flight_bytes", 64 << 20, 1..=1 << 40)),
        max_attempts: u32::try_from(max_attempts).unwrap_or(u32::MAX),
        max_deliveries: section.count("max_deliveries", 0, 0..=u64::MAX),
        retry_min: section.duration("retry_min", 100 * MS, MS..=HOUR),
        retry_max: section.duration("retry_max", 30 * SECOND, MS..=DAY),
        remembered_keys: usize_of(section.count("remembered_keys", 10_000, 0..=10_000_000)),
    }
}

/// Sources that are called need the port that they are called at, each a path of its own.
fn check_http(config: &Config, notes: &Notes) {
    let mut paths = HashSet::new();
    for source in &config.sources {
        let Some(path) = source.kind.path() else {
            continue;
        };
        let key = format!("sources.{}.path", source.name);
        if config.http.is_none() {
            notes.add(&*key, "needs [http] with the address to listen at");
        }
        if !path.starts_with('/') {
            notes.add(&*key, format!("must begin with /, not \"{path}\""));
        }
        if !paths.insert(path.to_owned()) {
            notes.add(key, format!("\"{path}\" belongs to another source too"));
        }
    }
}

/// Bounds are far below what an address can hold.
pub(crate) fn usize_of(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let notes = Notes::default();
        read(text, &notes);
        notes.take().iter().map(Problem::to_string).collect()
    }

    #[test]
    fn broker_urls() {
        let parse = parse_broker_url;
        assert_eq!(parse("mqtt://h"), Some((false, "h".into(), 1883)));
        assert_eq!(parse("mqtts://h/"), Some((true, "h".into(), 8883)));
        assert_eq!(parse("mqtt://[::1]:7"), Some((false, "::1".into(), 7)));
        for bad in [
            "h:1883",
            "http://h",
            "mqtt://",
            "mqtt://h:99999",
            "mqtt://u:p@h",
            "mqtt://h:x",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let text = r#"
            nonsense = 1
            worker_threads = 0
            [broker]
            url = "tcp://x"
            keep_alive = "3"
            [sources.orders]
            kind = "sqs"
            qos = 3
            [sources."a b"]
            kind = "nothing"
        "#;
        let found = problems(text);
        for part in [
            "nonsense: is not known",
            "worker_threads: must be",
            "broker.url: must be mqtt://HOST:PORT",
            "broker.keep_alive: must be a duration",
        ] {
            assert!(
                found.iter().any(|problem| problem.starts_with(part)),
                "{part}: {found:?}"
            );
        }
    }

    #[test]
    fn there_is_always_a_thread_to_work_with() {
        let sink = "[sinks.out]\nkind = \"webhook\"\nfilters = [\"a\"]\nurl = \"http://h\"\n";
        let threads = |text: &str| {
            let config = read(&[text, sink].concat(), &Notes::default());
            config.map(|config| config.worker_threads)
        };
        assert!(threads("").is_some_and(|threads| threads >= 1));
        assert_eq!(threads("worker_threads = 3\n"), Some(3));
    }

    #[test]
    fn a_bridge_without_a_source_says_so() {
        assert_eq!(
            problems(""),
            ["sources: there is neither a source nor a sink"]
        );
        assert!(
            problems("name = ")
                .iter()
                .any(|problem| problem.contains("TOML"))
        );
    }
}
