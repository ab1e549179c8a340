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

/// Publications handed over and not yet taken by the connection; more wait in their callers.
const QUEUE: usize = 256;

/// Publishes; clones share the connection.
#[derive(Clone, Debug)]
pub struct Publisher {
    jobs: mpsc::Sender<Job>,
    connected: watch::Receiver<bool>,
}

/// The connection's task. It ends when all publishers are gone and everything has its verdict.
pub type Task = JoinHandle<()>;

#[derive(Debug)]
struct Job {
    publication: Publication,
    answer: oneshot::Sender<Verdict>,
}

/// The publisher's connection has ended for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bridge is stopping")]
pub struct Stopped;

impl Publisher {
    /// Starts the connection's task.
    #[must_use]
    pub fn start(broker: Arc<Broker>, metrics: Arc<BrokerMetrics>) -> (Self, Task) {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (state, connected) = watch::channel(false);
        let task = tokio::spawn(connection::run(broker, queue, state, metrics));
        (Self { jobs, connected }, task)
    }

    /// Publishes and waits for the broker's acknowledgement, over as many connections as it takes.
    pub async fn publish(&self, publication: Publication) -> Result<Verdict, Stopped> {
        let (answer, verdict) = oneshot::channel();
        let job = Job {
            publication,
            answer,
        };
        self.jobs.send(job).await.map_err(|_| Stopped)?;
        verdict.await.map_err(|_| Stopped)
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
    jobs: mpsc::Receiver<Job>,
    _connected: watch::Sender<bool>,
}

#[cfg(test)]
impl TestBroker {
    pub(crate) fn new() -> (Publisher, Self) {
        let (sender, jobs) = mpsc::channel(QUEUE);
        let (state, connected) = watch::channel(true);
        let publisher = Publisher {
            jobs: sender,
            connected,
        };
        let broker = Self {
            jobs,
            _connected: state,
        };
        (publisher, broker)
    }

    pub(crate) async fn next(&mut self) -> (Publication, oneshot::Sender<Verdict>) {
        let job = self.jobs.recv().await.expect("the publisher is there");
        (job.publication, job.answer)
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.jobs.is_empty()
    }
}
