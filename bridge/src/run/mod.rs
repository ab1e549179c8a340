//! The run loop, written once for all sources.
//!
//! ```text
//! source ─▶ budget ─▶ lanes ─▶ unwrap, filter, map ─▶ publisher ─▶ outcome ─▶ source
//!           (bounds)  (order)                         (PUBACK)    (dead letters)
//! ```
//!
//! A source is asked for more only while its [`budget`] has room: a broker that is slow or away
//! fills it, and what is not asked for stays in the queue it came from. Events of one group go one
//! after another, different groups side by side ([`lanes`]); they travel in batches, and only one that
//! cannot just be published gets a task of its own.

mod budget;
mod carry;
mod lanes;
mod seen;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::config::SourceConfig;
use crate::dead_letters::Folder;
use crate::http::Routes;
use crate::metrics::FlowMetrics;
use crate::publisher::Publisher;
use crate::retry::Backoff;
use crate::source::{Context, Source};
use budget::Budget;
pub(crate) use carry::{Plan, now_ms, plan};
use lanes::Lanes;
use seen::Seen;

/// Verdicts that are heard at a time, and events of a call of a source that has no workers.
const BATCH: usize = 500;

/// Pauses while a source fails.
const SOURCE_PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// How far a stop has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// None was asked for.
    #[default]
    Running,
    /// Nothing new is taken; what is in flight is finished.
    Draining,
    /// What is still in flight is given back.
    Releasing,
}

/// What the sources share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The bridge's name.
    pub bridge: Arc<str>,
    /// The way to the broker.
    pub publisher: Publisher,
    /// The folder of dead letters, if there is one.
    pub dead_letters: Option<Arc<Folder>>,
    /// The HTTP port's paths.
    pub routes: Arc<Routes>,
    /// How far a stop has come.
    pub phase: watch::Receiver<Phase>,
}

/// A source that runs.
#[derive(Debug)]
pub(crate) struct Flow {
    config: SourceConfig,
    shared: Shared,
    metrics: Arc<FlowMetrics>,
    seen: Seen,
}

/// Runs a source until the phase says otherwise and everything is settled.
pub async fn run(config: SourceConfig, shared: Shared, metrics: Arc<FlowMetrics>) {
    let flow = Arc::new(Flow {
        seen: Seen::new(config.limits.remembered_keys),
        config,
        shared,
        metrics,
    });
    let Some(workers) = open(&flow).await else {
        return;
    };
    let limits = &flow.config.limits;
    let batches = workers.iter().map(|worker| worker.batch());
    let budget = Budget::new(
        limits.max_in_flight,
        limits.max_in_flight_bytes,
        batches.max().unwrap_or(BATCH),
    );
    let (lanes, verdicts) = Lanes::new(Arc::clone(&flow), Arc::clone(&budget));
    let mut helpers = JoinSet::new();
    helpers.spawn(lanes::hear(Arc::clone(&lanes), verdicts));
    helpers.spawn(release(Arc::clone(&flow), Arc::clone(&lanes)));
    let mut pulling = JoinSet::new();
    for worker in workers {
        pulling.spawn(pull(worker, Arc::clone(&flow), Arc::clone(&lanes)));
    }
    let mut workers = Vec::new();
    while let Some(ended) = pulling.join_next().await {
        match ended {
            Ok(worker) => workers.push(worker),
            Err(error) => error!(source = flow.config.name, %error, "a worker ended"),
        }
    }
    budget.emptied().await;
    helpers.shutdown().await;
    for worker in workers {
        worker.close().await;
    }
    info!(source = flow.config.name, "stopped");
}

impl Flow {
    /// Waits until nothing new is to be taken.
    async fn draining(&self) {
        self.reached(Phase::Draining).await;
    }

    /// Waits until what is in flight is to be given back.
    async fn releasing(&self) {
        self.reached(Phase::Releasing).await;
    }

    async fn reached(&self, wanted: Phase) {
        let mut phase = self.shared.phase.clone();
        // The sender is gone only when the process ends.
        let _ = phase.wait_for(|phase| *phase >= wanted).await;
    }
}

/// Connects the source, for as long as it takes.
async fn open(flow: &Flow) -> Option<Vec<Box<dyn Source>>> {
    let mut backoff = Backoff::new(SOURCE_PAUSES.0, SOURCE_PAUSES.1);
    loop {
        let context = Context {
            name: flow.config.name.clone(),
            routes: Arc::clone(&flow.shared.routes),
            metrics: Arc::clone(&flow.metrics),
            publisher: flow.shared.publisher.clone(),
        };
        let opened = tokio::select! {
            opened = flow.config.kind.open(context) => opened,
            () = flow.draining() => return None,
        };
        match opened {
            Ok(workers) => {
                info!(source = flow.config.name, "open");
                return Some(workers);
            }
            Err(error) => {
                flow.metrics.errors.add(1);
                let pause = backoff.pause();
                warn!(source = flow.config.name, %error, retry_in = ?pause, "cannot open");
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = flow.draining() => return None,
                }
            }
        }
    }
}

/// Gives back what is in flight when it is time to.
async fn release(flow: Arc<Flow>, lanes: Arc<Lanes>) {
    flow.releasing().await;
    lanes.release();
}

/// Asks one worker for events while there is room for them.
async fn pull(mut worker: Box<dyn Source>, flow: Arc<Flow>, lanes: Arc<Lanes>) -> Box<dyn Source> {
    let mut backoff = Backoff::new(SOURCE_PAUSES.0, SOURCE_PAUSES.1);
    loop {
        let room = tokio::select! {
            biased;
            () = flow.draining() => return worker,
            room = lanes.budget().reserve() => room,
        };
        let patience = worker.patience();
        let enough = async {
            flow.draining().await;
            if !patience.is_zero() {
                tokio::time::sleep(patience).await;
            }
        };
        let received = tokio::select! {
            biased;
            () = enough => return worker,
            received = worker.receive(room.events()) => received,
        };
        match received {
            Ok(deliveries) => {
                backoff.reset();
                lanes.enter(deliveries);
            }
            Err(error) => {
                flow.metrics.errors.add(1);
                let pause = backoff.pause();
                warn!(source = flow.config.name, %error, retry_in = ?pause, "cannot receive");
                drop(room);
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = flow.draining() => return worker,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
