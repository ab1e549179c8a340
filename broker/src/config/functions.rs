//! The section `functions`: which functions there are, and which connections and messages are given
//! to them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _};
use serde_json::Value;

use super::access::json;
use super::auth::FileName;
use super::protection::{Names, Networks};
use super::section::section;
use super::setting::Bounds::{Count, Size, Time, Type};
use super::setting::{Bounds, GIB, KIB, MIB, Raw, Setting, quote};

const SECOND: u64 = 1000;
const HOUR: u64 = 3600 * SECOND;
const DAY: u64 = 24 * HOUR;

/// Tables in one list, at most.
const LIST_MAX: usize = 1000;

section! {
    /// Functions that connections and messages are given to, in the shape of API Gateway's
    /// WebSocket APIs: AWS Lambda, whatever speaks its Invoke API, and plain webhooks.
    /// docs/functions.md says more.
    pub struct Functions in "functions" {
        /// What can be called, written as tables [[functions.targets]]. Each has a `name` and
        /// either `lambda`, a function's name or ARN (with `endpoint`, `region`, `qualifier`,
        /// `invocation`, `access_key`, `secret_key`, `session_token`), or `url`. For both there are
        /// `timeout`, `attempts`, `envelope` (event, cloudevents-binary or
        /// cloudevents-structured), `headers`, and `hmac`, the key that requests are signed with.
        /// Secrets are written as `env:VARIABLE` or `file:PATH`.
        targets: List<TargetEntry> = List::default(), Type, Restart;
        /// Which target a route of WebSocket clients goes to, written as tables
        /// [[functions.routes]] with `key` ($connect, $disconnect, $default or a name), `target`,
        /// and `response = true` if the function's answer goes back to the client. With routes,
        /// WebSocket clients that offer no subprotocol are the functions'.
        routes: List<RouteEntry> = List::default(), Type, Restart;
        /// What is done with a message's content to find its route: as API Gateway writes it, with
        /// `$request.body.NAME`.
        route_selection: Text = Text("$request.body.action".to_owned()), Type, Restart;
        /// Subprotocols whose clients are the functions' too. The function of $connect chooses one.
        subprotocols: Names = Names::default(), Type, Restart;
        /// Messages that are given to functions, whatever protocol they came by, written as tables
        /// [[functions.topics]] with `name`, `filter` and `target`, and optionally `qos` (1 keeps
        /// messages until the function has them) and `in_flight` (calls at once).
        topics: List<RuleEntry> = List::default(), Type, Restart;
        /// The target that says who may connect, before $connect is called (an authorizer of the
        /// type REQUEST).
        authorizer: Text = Text::default(), Type, Restart;
        /// What the authorizer needs to be asked at all: `route.request.header.NAME` or
        /// `route.request.querystring.NAME`. Who brings less is refused with 401.
        identity_sources: Names = Names::default(), Type, Restart;
        /// The target that is told of every client that comes and goes, whatever its protocol.
        lifecycle: Text = Text::default(), Type, Restart;
        /// How long a client may be away without its going and coming being told.
        reconnect_grace: Duration = Duration::from_secs(0), Time(0, HOUR), Restart;
        /// The stage in events; handlers call back at `https://DOMAIN/STAGE/@connections`.
        stage: Text = Text("prod".to_owned()), Type, Restart;
        /// The host, with its port if that is not the usual one, at which functions reach this
        /// broker. Left empty it is what the client connected to.
        domain: Text = Text::default(), Type, Restart;
        /// Authorities that targets are trusted by, beside those of the system (PEM).
        ca_file: FileName = FileName::default(), Type, Restart;
        /// Private addresses that targets may have; public ones need not be listed. Loopback,
        /// link-local and other special addresses count as private.
        private_networks: Networks = Networks::default(), Type, Restart;
        /// Calls at once.
        concurrency: usize = 256, Count(1, 100_000), Restart;
        /// Messages of one client that may wait for its function; others are refused.
        queue_messages: usize = 64, Count(1, 100_000), Restart;
        /// Their size together.
        queue_size: usize = 1024 * 1024, Size(KIB, GIB), Restart;
        /// Size of a function's answer.
        answer_size: usize = 6 * 1024 * 1024, Size(KIB, 256 * MIB), Restart;
        /// How long a target that cannot be reached is tried for an event that must not be lost.
        retry_for: Duration = Duration::from_hours(6), Time(0, 30 * DAY), Restart;
        /// Waiting time after the first failure; it doubles with each, and the wait is drawn from
        /// between nothing and that.
        retry_base: Duration = Duration::from_millis(200), Time(1, HOUR), Restart;
        /// Longest waiting time between two attempts.
        retry_max: Duration = Duration::from_secs(30), Time(1, DAY), Restart;
        /// Longest time that a target may ask for with `Retry-After` (answers 429 and 503). What
        /// waits for it is held back until then, and no longer than this; 0 ignores the header.
        retry_after_max: Duration = Duration::from_mins(5), Time(0, DAY), Restart;
        /// Failures in a row after which a target is left alone.
        breaker_failures: usize = 10, Count(1, 1_000_000), Restart;
        /// For how long it is left alone, until one call tries again.
        breaker_time: Duration = Duration::from_secs(5), Time(1, HOUR), Restart;
        /// Topic to which events are published that no function took, with the reason; empty for
        /// none. They are written to `functions/dead-letters.jsonl` of the data directory as well.
        dead_letters: Text = Text("$dead/functions".to_owned()), Type, Restart;
        /// Size of the file of dead letters; the one before it is kept.
        dead_letters_size: usize = 64 * 1024 * 1024, Size(4 * KIB, 64 * GIB), Restart;
        /// Size of what waits on disk for one target. When it is full, clients that come are not
        /// told of; it is counted.
        backlog_size: usize = 256 * 1024 * 1024, Size(4 * KIB, 64 * GIB), Restart;
    }
}

/// What can be called.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct TargetEntry {
    /// Its name in routes, metrics and logs.
    pub name: String,
    /// A Lambda function's name or ARN.
    pub lambda: Option<String>,
    /// Where the Invoke API is, if not at AWS.
    pub endpoint: Option<String>,
    /// The region; `AWS_REGION` or us-east-1 otherwise.
    pub region: Option<String>,
    /// A version or an alias.
    pub qualifier: Option<String>,
    /// Whether the function's end is waited for.
    #[serde(default)]
    pub invocation: Invocation,
    /// The access key's identifier; `AWS_ACCESS_KEY_ID` otherwise.
    pub access_key: Option<String>,
    /// Where its secret is; `AWS_SECRET_ACCESS_KEY` otherwise.
    pub secret_key: Option<String>,
    /// Where the token of temporary credentials is.
    pub session_token: Option<String>,
    /// A webhook's address.
    pub url: Option<String>,
    /// Headers of each request.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// How long an answer is waited for.
    #[serde(default = "timeout", deserialize_with = "duration")]
    pub timeout: Duration,
    /// How often an event that must not be lost is given to a function that fails with it.
    #[serde(default = "attempts")]
    pub attempts: u32,
    /// What events look like.
    #[serde(default)]
    pub envelope: Envelope,
    /// Where the key is that requests are signed with.
    pub hmac: Option<String>,
}

/// Whether Lambda waits for the function's end.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub enum Invocation {
    /// It does, and the answer is the function's.
    #[default]
    RequestResponse,
    /// It takes the event into a queue of its own.
    Event,
}

/// What events look like.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Envelope {
    /// As API Gateway gives them to a function.
    #[default]
    Event,
    /// CloudEvents 1.0 with its attributes in headers.
    CloudeventsBinary,
    /// CloudEvents 1.0 as one JSON object.
    CloudeventsStructured,
}

/// Where a route goes.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct RouteEntry {
    /// `$connect`, `$disconnect`, `$default`, or what the selection expression gives.
    pub key: String,
    /// The target's name.
    pub target: String,
    /// Whether the answer goes back to the client.
    #[serde(default)]
    pub response: bool,
}

/// Messages that a function gets.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct RuleEntry {
    /// Its name: what waits for it is kept under it.
    pub name: String,
    /// A topic filter, which may begin with `$queue/` or `$share/`.
    pub filter: String,
    /// The target's name.
    pub target: String,
    /// 0: at most once; 1: at least once.
    #[serde(default = "one")]
    pub qos: u8,
    /// Calls at once.
    #[serde(default = "in_flight")]
    pub in_flight: u16,
}

fn timeout() -> Duration {
    Duration::from_secs(29)
}

fn attempts() -> u32 {
    3
}

fn one() -> u8 {
    1
}

fn in_flight() -> u16 {
    16
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let mut duration = Duration::ZERO;
    let read = duration.read(&Raw::Text(text), Time(50, 900 * SECOND));
    read.map_err(D::Error::custom)?;
    Ok(duration)
}

/// A text, which may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text(pub String);

impl Setting for Text {
    fn read(&mut self, raw: &Raw, _bounds: Bounds) -> Result<(), String> {
        raw.text()?.clone_into(&mut self.0);
        Ok(())
    }

    fn literal(&self, _bounds: Bounds) -> String {
        quote(&self.0)
    }

    fn allowed(&self, _bounds: Bounds) -> String {
        "a text".to_owned()
    }
}

/// A list of tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List<T> {
    entries: Vec<T>,
    written: Vec<Value>,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            written: Vec::new(),
        }
    }
}

impl<T> List<T> {
    /// The entries in their order.
    pub fn entries(&self) -> &[T] {
        &self.entries
    }
}

impl<T: DeserializeOwned> Setting for List<T> {
    fn read(&mut self, raw: &Raw, _bounds: Bounds) -> Result<(), String> {
        let value = match raw {
            Raw::Bare(text) if text.is_empty() => Value::Array(Vec::new()),
            Raw::Bare(text) => serde_json::from_str(text)
                .map_err(|error| format!("in a variable it is a list in JSON: {error}"))?,
            other => json(other)?,
        };
        let Value::Array(written) = value else {
            return Err("a list of tables is needed".to_owned());
        };
        if written.len() > LIST_MAX {
            return Err(format!("there are more than {LIST_MAX} tables"));
        }
        let entries = written.iter().enumerate().map(|(at, value)| {
            T::deserialize(value).map_err(|wrong| format!("table {}: {wrong}", at + 1))
        });
        self.entries = entries.collect::<Result<_, _>>()?;
        self.written = written;
        Ok(())
    }

    fn literal(&self, _bounds: Bounds) -> String {
        let tables: Vec<_> = self.written.iter().map(inline).collect();
        format!("[{}]", tables.join(", "))
    }

    fn allowed(&self, _bounds: Bounds) -> String {
        "a list of tables; in a variable the same as JSON".to_owned()
    }
}

/// A JSON value as TOML writes it in one line.
fn inline(value: &Value) -> String {
    match value {
        Value::Object(entries) => {
            let mut text = String::from("{");
            for (at, (name, value)) in entries.iter().enumerate() {
                let comma = if at == 0 { " " } else { ", " };
                let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
                let name = if !name.is_empty() && name.chars().all(plain) {
                    name.clone()
                } else {
                    quote(name)
                };
                // Writing into a string does not fail.
                let _ = write!(text, "{comma}{name} = {}", inline(value));
            }
            text + " }"
        }
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(inline).collect();
            format!("[{}]", items.join(", "))
        }
        Value::String(text) => quote(text),
        other => other.to_string(),
    }
}

/// What does not fit together, each with the key.
pub(super) fn problems(config: &Functions) -> Vec<(&'static str, String, String)> {
    let mut found = Vec::new();
    let targets = config.targets.entries();
    let mut wrong = |key, what: String| found.push((key, what, String::new()));
    for (at, target) in targets.iter().enumerate() {
        let name = &target.name;
        if let Some(problem) = target_problem(target) {
            wrong("functions.targets", format!("target {name:?}: {problem}"));
        }
        if targets[..at].iter().any(|other| other.name == *name) {
            wrong(
                "functions.targets",
                format!("there are two targets {name:?}"),
            );
        }
    }
    let is_known = |name: &str| targets.iter().any(|target| target.name == name);
    let unknown = |name: &str| format!("there is no target {name:?} in functions.targets");
    let routes = config.routes.entries();
    for (at, route) in routes.iter().enumerate() {
        let key = &route.key;
        if !is_known(&route.target) {
            wrong("functions.routes", unknown(&route.target));
        }
        let reserved = ["$connect", "$disconnect", "$default"];
        if key.is_empty() || key.starts_with('$') && !reserved.contains(&key.as_str()) {
            let what =
                format!("{key:?} is no route: one that begins with $ is one of {reserved:?}");
            wrong("functions.routes", what);
        }
        if routes[..at].iter().any(|other| other.key == *key) {
            wrong("functions.routes", format!("there are two routes {key:?}"));
        }
    }
    let rules = config.topics.entries();
    for (at, rule) in rules.iter().enumerate() {
        let name = &rule.name;
        if !is_known(&rule.target) {
            wrong("functions.topics", unknown(&rule.target));
        }
        if let Err(problem) = rule_filter(&rule.filter) {
            wrong("functions.topics", format!("rule {name:?}: {problem}"));
        }
        if name.is_empty() || rule.qos > 1 || rule.in_flight == 0 {
            let what =
                format!("rule {name:?} needs a name, a qos of 0 or 1, and in_flight above 0");
            wrong("functions.topics", what);
        }
        if rules[..at].iter().any(|other| other.name == *name) {
            wrong("functions.topics", format!("there are two rules {name:?}"));
        }
    }
    for (key, Text(name)) in [
        ("functions.authorizer", &config.authorizer),
        ("functions.lifecycle", &config.lifecycle),
    ] {
        if !name.is_empty() && !is_known(name) {
            wrong(key, unknown(name));
        }
    }
    found
}

fn rule_filter(text: &str) -> Result<(), String> {
    let any = usize::from(u16::MAX);
    let read = protocols::model::SubscriptionFilter::parse(text.into(), any, any);
    read.map(|_| ())
        .map_err(|error| format!("{text:?} is no topic filter: {error}"))
}

fn target_problem(target: &TargetEntry) -> Option<&'static str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if target.name.is_empty() || !target.name.chars().all(plain) || target.name.starts_with('.') {
        return Some("a name has letters, digits, `-`, `_` and `.`");
    }
    let address = match (&target.lambda, &target.url) {
        (Some(_), None) => target.endpoint.as_deref(),
        (None, Some(url)) => Some(url.as_str()),
        _ => return Some("it has either `lambda` or `url`"),
    };
    if target.url.is_some() && (target.endpoint.is_some() || target.secret_key.is_some()) {
        return Some("`endpoint` and `secret_key` belong to `lambda`");
    }
    let is_web = |text: &str| {
        url::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https"))
    };
    if address.is_some_and(|text| !is_web(text)) {
        return Some("its address is not http://HOST… or https://HOST…");
    }
    if target.attempts == 0 {
        return Some("`attempts` is 1 or more");
    }
    let sources = [&target.secret_key, &target.session_token, &target.hmac];
    let is_source = |text: &String| text.starts_with("env:") || text.starts_with("file:");
    if sources.into_iter().flatten().any(|text| !is_source(text)) {
        return Some("a secret is written as env:VARIABLE or file:PATH");
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn read<T: DeserializeOwned>(text: &str) -> Result<List<T>, String> {
        let mut list = List::default();
        list.read(&Raw::Bare(text.to_owned()), Type).map(|()| list)
    }

    #[test]
    fn targets_have_what_they_need_by_default() {
        let list = read::<TargetEntry>(
            r#"[{"name":"a","lambda":"f","timeout":"3s"},{"name":"b","url":"https://h/x"}]"#,
        );
        let list = list.unwrap();
        let [a, b] = list.entries() else { panic!() };
        assert_eq!((a.timeout, b.timeout), (Duration::from_secs(3), timeout()));
        assert_eq!((b.attempts, b.envelope), (3, Envelope::Event));
        assert_eq!(
            list.literal(Type),
            r#"[{ lambda = "f", name = "a", timeout = "3s" }, { name = "b", url = "https://h/x" }]"#
        );
    }

    #[test]
    fn mistakes_are_named() {
        for text in [
            r#"[{"lambda":"f"}]"#,
            r#"[{"name":"a","lamda":"f"}]"#,
            r#"[{"name":"a","url":"http://h","timeout":"3"}]"#,
            r#"[{"name":"a","url":"http://h","envelope":"x"}]"#,
            "[",
            "{}",
        ] {
            assert!(read::<TargetEntry>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_together_is_named() {
        let with = |targets: &str, routes: &str, topics: &str| {
            let config = Functions {
                targets: read(targets).unwrap(),
                routes: read(routes).unwrap(),
                topics: read(topics).unwrap(),
                ..Functions::default()
            };
            problems(&config).len()
        };
        let good = r#"[{"name":"a","url":"http://h"}]"#;
        let topic = r#"[{"name":"r","filter":"a/#","target":"a"}]"#;
        assert_eq!(with(good, r#"[{"key":"$connect","target":"a"}]"#, topic), 0);
        for targets in [
            r#"[{"name":"a/b","url":"http://h"}]"#,
            r#"[{"name":"a"}]"#,
            r#"[{"name":"a","url":"http://h","lambda":"f"}]"#,
            r#"[{"name":"a","url":"ftp://h"}]"#,
            r#"[{"name":"a","url":"http://h","hmac":"secret"}]"#,
            r#"[{"name":"a","url":"http://h","attempts":0}]"#,
            r#"[{"name":"a","url":"http://h"},{"name":"a","url":"http://h"}]"#,
        ] {
            assert_eq!(with(targets, "", ""), 1, "{targets}");
        }
        for routes in [
            r#"[{"key":"$connect","target":"b"}]"#,
            r#"[{"key":"$other","target":"a"}]"#,
            r#"[{"key":"x","target":"a"},{"key":"x","target":"a"}]"#,
        ] {
            assert_eq!(with(good, routes, ""), 1, "{routes}");
        }
        for topics in [
            r#"[{"name":"r","filter":"a/#/b","target":"a"}]"#,
            r#"[{"name":"r","filter":"a","target":"b"}]"#,
            r#"[{"name":"r","filter":"a","target":"a","qos":2}]"#,
        ] {
            assert_eq!(with(good, "", topics), 1, "{topics}");
        }
    }
}
