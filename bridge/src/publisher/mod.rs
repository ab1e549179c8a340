//! The MQTT 5 publisher: one connection, and a verdict for each publication.
//!
//! The packets are rumqttc's; its event loop is not used. It keeps its own idea of what is in flight
//! and gives no verdict of a single publish, writes and flushes each packet alone, hands out
//! a QoS 2 identifier again before PUBCOMP, and never gives back the place of a refused PUBREC. Here
//! [`window::Window`] keeps the account and [`connection`] the socket: what was not acknowledged
//! when a connection ended is published again on the next one, in order.

mod client;
mod connection;
mod packets;
mod window;

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

pub use client::{Client, ConnectError, Stream};
pub use packets::{connect, verdict_of_puback};
pub use window::{Refusal, Verdict};

use crate::config::Broker;
use crate::mapping::Publication;
use crate::metrics::BrokerMetrics;
use window::Window;

/// Publishes; clones share the connection.
#[derive(Clone, Debug)]
pub struct Publisher {
    /// What waits here is bounded by the budgets of the sources and the windows of the sinks.
    jobs: mpsc::UnboundedSender<Vec<Job>>,
    connected: watch::Receiver<bool>,
}

/// The connection's task. It ends when all publishers are gone and everything has its verdict.
pub type Task = JoinHandle<()>;

#[derive(Debug)]
struct Job {
    publication: Publication,
    answer: Answer,
}

/// Who wants to know the verdict.
#[derive(Debug)]
enum Answer {
    /// Somebody who waits for this one.
    One(oneshot::Sender<Verdict>),
    /// Somebody who waits for many, and has numbered them.
    Numbered(u64, mpsc::UnboundedSender<(u64, Verdict)>),
}

impl Answer {
    /// Whoever does not wait any more need not know.
    fn tell(self, verdict: Verdict) {
        match self {
            Self::One(waiting) => drop(waiting.send(verdict)),
            Self::Numbered(number, waiting) => drop(waiting.send((number, verdict))),
        }
    }
}

/// The publisher's connection has ended for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bridge is stopping")]
pub struct Stopped;

impl Publisher {
    /// Starts the connection's task.
    #[must_use]
    pub fn start(broker: Arc<Broker>, metrics: Arc<BrokerMetrics>) -> (Self, Task) {
        let (jobs, queue) = mpsc::unbounded_channel();
        let (state, connected) = watch::channel(false);
        let task = tokio::spawn(connection::run(broker, queue, state, metrics));
        (Self { jobs, connected }, task)
    }

    /// Publishes and waits for the broker's acknowledgement, over as many connections as it takes.
    pub async fn publish(&self, publication: Publication) -> Result<Verdict, Stopped> {
        let (answer, verdict) = oneshot::channel();
        let job = Job {
            publication,
            answer: Answer::One(answer),
        };
        self.jobs.send(vec![job]).map_err(|_| Stopped)?;
        verdict.await.map_err(|_| Stopped)
    }

    /// Publishes many in this order; the verdict on each comes with its number. The caller bounds
    /// how many wait. After [`Stopped`] no verdicts come.
    pub fn publish_all(
        &self,
        publications: Vec<(u64, Publication)>,
        verdicts: &mpsc::UnboundedSender<(u64, Verdict)>,
    ) {
        let jobs = publications.into_iter().map(|(number, publication)| Job {
            publication,
            answer: Answer::Numbered(number, verdicts.clone()),
        });
        // There is nobody only when the bridge has stopped.
        let _ = self.jobs.send(jobs.collect());
    }

    /// Whether there is a connection just now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        *self.connected.borrow()
    }

    /// Comes back when there is a connection, or never will be.
    pub async fn connected(&self) {
        let mut connected = self.connected.clone();
        let _ = connected.wait_for(|connected| *connected).await;
    }
}

/// The broker's side of a publisher, for tests: what is published comes out here.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct TestBroker {
    jobs: mpsc::UnboundedReceiver<Vec<Job>>,
    taken: std::collections::VecDeque<Job>,
    _connected: watch::Sender<bool>,
}

/// Answers one publication.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct TestAnswer(Answer);

#[cfg(test)]
impl TestAnswer {
    pub(crate) fn say(self, verdict: Verdict) {
        self.0.tell(verdict);
    }
}

#[cfg(test)]
impl TestBroker {
    pub(crate) fn new() -> (Publisher, Self) {
        let (sender, jobs) = mpsc::unbounded_channel();
        let (state, connected) = watch::channel(true);
        let publisher = Publisher {
            jobs: sender,
            connected,
        };
        let broker = Self {
            jobs,
            taken: std::collections::VecDeque::new(),
            _connected: state,
        };
        (publisher, broker)
    }

    pub(crate) async fn next(&mut self) -> (Publication, TestAnswer) {
        while self.taken.is_empty() {
            let jobs = self.jobs.recv().await.expect("the publisher is there");
            self.taken.extend(jobs);
        }
        let job = self.taken.pop_front().expect("there is one");
        (job.publication, TestAnswer(job.answer))
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.jobs.is_empty() && self.taken.is_empty()
    }
}
