//! Functions: WebSocket clients and messages are given to AWS Lambda or webhooks, in the shape of API
//! Gateway's WebSocket APIs.
//!
//! - [`guest`]: a WebSocket client whose messages go to functions, one at a time and in order;
//!   [`connect`] lets it in, [`authorizer`] reads policies.
//! - [`target`]: what is called; [`answer`], [`client`], [`sign`], [`breaker`] and [`retry_after`]
//!   are its parts.
//! - [`rules`]: messages on topics that go to functions.
//! - [`presence`]: clients that come and go; [`queue`] keeps on disk what functions must be told.
//! - [`letters`]: events that no function took.
//!
//! `net` opens its clients and asks it whether they may come in; it publishes through the `hub`.

mod answer;
mod authorizer;
mod backoff;
mod breaker;
mod client;
mod connect;
mod event;
mod expression;
mod guest;
mod letters;
mod presence;
mod queue;
mod retry_after;
mod rules;
mod sign;
mod target;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use bytestring::ByteString;
use protocols::connection::CloseReason;
use protocols::model::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

pub use connect::{Admitted, Asking, Rejected, Visit};
pub use event::{Caller, Upgrade};
pub use guest::{GATEWAY, Guest};
use presence::{Arrived, Presence};

use crate::clock::Clock;
use crate::config::{self, Config, Persistence};
use crate::hub::Hub;
use crate::net::Net;
use crate::session::Session;
use answer::{Answer, Failure};
use client::Means;
use event::Event;
use expression::Expression;
use letters::Letters;
use queue::Queue;
use target::Target;

/// The folder in the data directory.
const FOLDER: &str = "functions";

/// All that is known of functions; there is none if none are configured.
pub struct Functions {
    hub: Arc<Hub>,
    clock: Clock,
    config: config::Functions,
    targets: BTreeMap<String, Arc<Target>>,
    routes: BTreeMap<String, Route>,
    selection: Expression,
    authorizer: Option<Arc<Target>>,
    /// Calls that may be made at once.
    calls: Semaphore,
    letters: Letters,
    /// What targets must be told, by their name.
    queues: BTreeMap<String, Arc<Queue>>,
    presence: Option<Presence>,
    runtime: Handle,
}

/// Where messages of a route go.
struct Route {
    target: Arc<Target>,
    /// Whether the answer goes back to the client.
    response: bool,
}

impl Functions {
    /// Reads the configuration and what waits on disk. `None` without targets. Called within the
    /// runtime.
    pub fn open(
        config: &Config,
        hub: &Arc<Hub>,
        clock: Clock,
    ) -> anyhow::Result<Option<Arc<Self>>> {
        let all = &config.functions;
        if all.targets.entries().is_empty() {
            return Ok(None);
        }
        let folder = config.data_dir.join(FOLDER);
        let folder = (config.store.persistence != Persistence::None).then_some(folder.as_path());
        if let Some(folder) = folder {
            std::fs::create_dir_all(folder)?;
        }
        let targets = targets(all, clock)?;
        let target = |name: &str| targets.get(name).cloned();
        let mut routes = BTreeMap::new();
        for route in all.routes.entries() {
            let found = target(&route.target).context("a route without its target")?;
            let response = route.response;
            routes.insert(
                route.key.clone(),
                Route {
                    target: found,
                    response,
                },
            );
        }
        let lifecycle = target(&all.lifecycle.0);
        let told = routes.get("$disconnect").map(|route| &route.target);
        let queues = queues(all, folder, told.into_iter().chain(&lifecycle))?;
        let presence = lifecycle.and_then(|target| queues.get(&target.name).cloned());
        let presence = presence.map(|queue| Presence::new(queue, all.reconnect_grace, clock.now()));
        let selection = Expression::parse(&all.route_selection.0);
        Ok(Some(Arc::new(Self {
            hub: Arc::clone(hub),
            clock,
            routes,
            selection: selection
                .map_err(anyhow::Error::msg)
                .context("functions.route_selection")?,
            authorizer: target(&all.authorizer.0),
            calls: Semaphore::new(all.concurrency),
            letters: Letters::new(all, folder),
            queues,
            presence,
            runtime: Handle::current(),
            config: all.clone(),
            targets,
        })))
    }

    /// Begins to give functions what waits for them.
    pub fn start(self: &Arc<Self>, net: &Arc<Net>) {
        let now = self.clock.now();
        for (name, queue) in &self.queues {
            let Some(target) = self.targets.get(name) else {
                continue;
            };
            let keeps_presence = self.presence.as_ref().is_some_and(|held| held.is_of(queue));
            if !keeps_presence {
                // Their connections ended with the broker.
                queue.close_all(now);
            }
            let (functions, queue, target) =
                (Arc::clone(self), Arc::clone(queue), Arc::clone(target));
            self.runtime
                .spawn(async move { queue::run(&functions, &queue, &target).await });
        }
        rules::forget_others(net, self.config.topics.entries());
        for rule in self.config.topics.entries() {
            if let Some(target) = self.targets.get(&rule.target) {
                rules::start(self, net, rule, target);
            }
        }
    }

    /// Whether WebSocket clients without a subprotocol are its.
    pub fn has_routes(&self) -> bool {
        !self.routes.is_empty()
    }

    /// Whether a subprotocol is one of its.
    pub fn speaks(&self, subprotocol: &str) -> bool {
        let mut known = self.config.subprotocols.as_slice().iter();
        known.any(|known| known == subprotocol)
    }

    /// Where functions reach this broker, for a client that has connected to `host`.
    pub fn domain(&self, host: &str) -> String {
        match self.config.domain.0.as_str() {
            "" => host.to_owned(),
            domain => domain.to_owned(),
        }
    }

    /// The stage.
    pub fn stage(&self) -> &str {
        &self.config.stage.0
    }

    /// A client was let in.
    pub(crate) fn arrived(&self, session: &Session, link: u64) {
        let Some(presence) = &self.presence else {
            return;
        };
        let found = session.with_link(link, |link| (link.connection_id(), link.origin.clone()));
        let Some((connection_id, origin)) = found else {
            return;
        };
        let arrived = Arrived {
            client_id: &session.client_id,
            user: session.user_name(),
            link,
            connection_id: &connection_id,
            origin: &origin,
        };
        presence.arrived(&arrived, self.clock.now());
    }

    /// A client's connection is over.
    pub(crate) fn left(&self, client_id: &ByteString, link: u64, reason: &CloseReason) {
        if let Some(presence) = &self.presence {
            presence.left(client_id, link, reason, self.clock.now());
        }
    }

    /// The broker stops.
    pub fn stop(&self) {
        if let Some(presence) = &self.presence {
            presence.stop(self.clock.now());
        }
    }

    /// How long it is until [`Functions::tick`] has something to do; `None` if nothing will be due.
    pub fn until_due(&self, now: Timestamp) -> Option<Duration> {
        self.presence.as_ref()?.until_due(now)
    }

    /// Does what is due.
    pub fn tick(&self, now: Timestamp) {
        if let Some(presence) = &self.presence {
            presence.tick(now);
        }
    }

    /// Gives a target an event once.
    async fn call(&self, target: &Target, event: &Event) -> Result<Answer, Failure> {
        // The semaphore is never closed; without a permit nothing is lost but a bound.
        let _permit = self.calls.acquire().await.ok();
        target.call(event).await
    }

    /// Gives a target an event at most once, and not while it wants to be left alone.
    async fn offer(&self, target: &Target, event: &Event) -> Result<Answer, Failure> {
        let now = self.clock.now();
        if let Some(left) = target.hold.left(now) {
            target.counts.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Failure::Open(now + left));
        }
        let result = self.call(target, event).await;
        self.heed(target, result.as_ref().err());
        result
    }

    /// Gives a target an event that must not be lost: again after failures, and as a dead letter
    /// in the end.
    async fn deliver(&self, target: &Target, event: &Event) {
        let end = self.clock.now() + self.config.retry_for;
        let (mut failures, mut waits) = (0_u32, 0_u32);
        loop {
            self.hold_back(target, end).await;
            let failure = match self.call(target, event).await {
                Ok(answer) if !answer.is_failure() => return,
                Ok(answer) => Failure::Function(format!(
                    "statusCode {} {}",
                    answer.status.unwrap_or_default(),
                    answer.body.unwrap_or_default()
                )),
                Err(failure) => failure,
            };
            self.heed(target, Some(&failure));
            let now = self.clock.now();
            let is_over = match &failure {
                Failure::Function(_) => {
                    failures += 1;
                    failures >= target.attempts
                }
                _ => end <= now,
            };
            if is_over {
                target.counts.dead.fetch_add(1, Ordering::Relaxed);
                let reason = failure.to_string();
                self.letters
                    .put(&self.hub, &target.name, event, &reason, now);
                return;
            }
            let wait = match failure {
                Failure::Open(until) => Duration::from_millis(until.0.saturating_sub(now.0) + 1),
                _ => {
                    target.counts.retries.fetch_add(1, Ordering::Relaxed);
                    backoff::pause(self.config.retry_base, self.config.retry_max, waits)
                }
            };
            waits += 1;
            tokio::time::sleep(wait).await;
        }
    }

    /// Does what an answer asks for.
    fn heed(&self, target: &Target, failure: Option<&Failure>) {
        if let Some(&Failure::Unavailable {
            after: Some(time), ..
        }) = failure
        {
            target.hold.ask(time, self.clock.now());
        }
    }

    /// Waits while a target wants to be left alone, though not once `end` is over: others may keep
    /// it busy for as long as they like. What waited together does not come back together.
    async fn hold_back(&self, target: &Target, end: Timestamp) {
        loop {
            let now = self.clock.now();
            let Some(left) = target.hold.left(now).filter(|_| now < end) else {
                return;
            };
            let apart = backoff::pause(self.config.retry_base, self.config.retry_max, 0);
            tokio::time::sleep(left + apart).await;
        }
    }

    /// Its metrics, in Prometheus' form.
    pub(crate) fn metrics(&self) -> String {
        let mut text = String::new();
        let mut family = |name: &str, kind: &str, help: &str, rows: &[(String, String)]| {
            // Writing into a string does not fail.
            let _ = writeln!(text, "# HELP polycast_function_{name} {help}");
            let _ = writeln!(text, "# TYPE polycast_function_{name} {kind}");
            for (labels, value) in rows {
                let _ = writeln!(text, "polycast_function_{name}{{{labels}}} {value}");
            }
        };
        let rows = |value: &dyn Fn(&Target) -> String| -> Vec<(String, String)> {
            let targets = self.targets.values();
            targets
                .map(|target| (format!("target=\"{}\"", target.name), value(target)))
                .collect()
        };
        let mut calls = Vec::new();
        for target in self.targets.values() {
            let counts = &target.counts;
            for (result, count) in [
                ("answered", &counts.answered),
                ("failed", &counts.failed),
                ("unavailable", &counts.unavailable),
                ("refused", &counts.refused),
            ] {
                let labels = format!("target=\"{}\",result=\"{result}\"", target.name);
                calls.push((labels, count.load(Ordering::Relaxed).to_string()));
            }
        }
        family(
            "calls_total",
            "counter",
            "Calls of functions, by what became of them.",
            &calls,
        );
        let running = rows(&|target| {
            target
                .counts
                .in_progress
                .load(Ordering::Relaxed)
                .to_string()
        });
        family(
            "calls_in_progress",
            "gauge",
            "Calls that are waited for.",
            &running,
        );
        let retries = rows(&|target| target.counts.retries.load(Ordering::Relaxed).to_string());
        family(
            "retries_total",
            "counter",
            "Attempts after a failure.",
            &retries,
        );
        let held = rows(&|target| target.hold.obeyed().to_string());
        family(
            "retry_after_total",
            "counter",
            "Answers that said when to come again, and were obeyed.",
            &held,
        );
        let dead = rows(&|target| target.counts.dead.load(Ordering::Relaxed).to_string());
        family(
            "dead_letters_total",
            "counter",
            "Events that were given up.",
            &dead,
        );
        let open = rows(&|target| u8::from(target.breaker.is_open()).to_string());
        family(
            "breaker_open",
            "gauge",
            "Whether a target is left alone.",
            &open,
        );
        let queues = |value: &dyn Fn(&Queue) -> u64| -> Vec<(String, String)> {
            let queues = self.queues.iter();
            queues
                .map(|(name, queue)| (format!("target=\"{name}\""), value(queue).to_string()))
                .collect()
        };
        let waiting = queues(&Queue::waiting);
        family(
            "backlog_bytes",
            "gauge",
            "What waits on disk for a target.",
            &waiting,
        );
        let untold = queues(&Queue::untold);
        family(
            "untold_total",
            "counter",
            "Connections that were not told of, as the backlog was full.",
            &untold,
        );
        family(
            "call_seconds",
            "histogram",
            "Time that calls of functions took.",
            &[],
        );
        for target in self.targets.values() {
            let label = ("target", target.name.as_str());
            text += &target.counts.took.text("function_call_seconds", label);
        }
        text
    }
}

fn targets(all: &config::Functions, clock: Clock) -> anyhow::Result<BTreeMap<String, Arc<Target>>> {
    let means = Means::new(
        all.ca_file.0.as_deref(),
        all.private_networks.as_slice(),
        all.answer_size,
    )
    .context("functions.ca_file")?;
    let mut targets = BTreeMap::new();
    for entry in all.targets.entries() {
        let target = Target::new(entry, all, means.clone(), clock);
        let target = target.with_context(|| format!("functions.targets: {}", entry.name))?;
        targets.insert(entry.name.clone(), Arc::new(target));
    }
    Ok(targets)
}

fn queues<'a>(
    all: &config::Functions,
    folder: Option<&Path>,
    told: impl Iterator<Item = &'a Arc<Target>>,
) -> anyhow::Result<BTreeMap<String, Arc<Queue>>> {
    let mut queues = BTreeMap::new();
    for target in told {
        let path = folder.map(|folder| folder.join(&target.name));
        let max = u64::try_from(all.backlog_size).unwrap_or(u64::MAX);
        let queue = Queue::open(path.as_deref(), max);
        let queue = queue.with_context(|| format!("what waits for {}", target.name))?;
        queues.insert(target.name.clone(), Arc::new(queue));
    }
    Ok(queues)
}
