//! The MQTT 5 publisher: as many connections as are of use, and a verdict for each publication.
//!
//! The packets are rumqttc's; its event loop is not used. It keeps its own idea of what is in flight
//! and gives no verdict of a single publish, writes and flushes each packet alone, hands out
//! a QoS 2 identifier again before PUBCOMP, and never gives back the place of a refused PUBREC. Here
//! [`window::Window`] keeps the account and [`connection`] the socket: what was not acknowledged
//! when a connection ended goes back to the [`queue`] and is published again, before all else.
//! What must keep its order is not published before the verdict on what is before it.

mod client;
mod connection;
mod packets;
mod queue;
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
use queue::Queue;
use window::{Item, Window};

/// Publishes; clones share the connections.
#[derive(Clone, Debug)]
pub struct Publisher {
    entrance: Arc<Entrance>,
    connected: watch::Receiver<bool>,
}

/// The way into the queue; what waits there is bounded by the budgets of the sources and the windows
/// of the sinks. When nobody has it any more, all is over once the queue is empty.
#[derive(Debug)]
struct Entrance(Arc<Queue>);

impl Drop for Entrance {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The connections' task. It ends when all publishers are gone and everything has its verdict.
pub type Task = JoinHandle<()>;

/// A publication, and who wants to know what becomes of it.
type Job = Item<Answer>;

/// Who wants to know the verdict.
#[derive(Debug)]
enum Answer {
    /// Somebody who waits for this one.
    One(oneshot::Sender<Verdict>),
    /// Somebody who waits for many, and has numbered them.
    Numbered(u64, Verdicts),
}

/// Where verdicts on numbered publications go: those that come together, together.
pub type Verdicts = Arc<mpsc::UnboundedSender<Vec<(u64, Verdict)>>>;

/// Verdicts on their way to those who wait for them; all have gone when this is dropped. Whoever
/// does not wait any more need not know.
#[derive(Debug, Default)]
struct Telling {
    /// Verdicts that were told or will be.
    count: usize,
    together: Vec<(u64, Verdict)>,
    to: Option<Verdicts>,
}

impl Telling {
    fn tell(&mut self, answer: Answer, verdict: Verdict) {
        self.count += 1;
        match answer {
            Answer::One(waiting) => drop(waiting.send(verdict)),
            Answer::Numbered(number, to) => {
                if !self.to.as_ref().is_some_and(|it| Arc::ptr_eq(it, &to)) {
                    self.send();
                    self.to = Some(to);
                }
                self.together.push((number, verdict));
            }
        }
    }

    fn send(&mut self) {
        if let Some(to) = self.to.take() {
            let _ = to.send(std::mem::take(&mut self.together));
        }
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.send();
    }
}

/// The publisher's connection has ended for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bridge is stopping")]
pub struct Stopped;

impl Publisher {
    /// Starts the connections' task.
    #[must_use]
    pub fn start(broker: Arc<Broker>, metrics: Arc<BrokerMetrics>) -> (Self, Task) {
        let (more, asked) = mpsc::channel(1);
        let (state, connected) = watch::channel(false);
        let queue = Arc::new(Queue::new(more));
        let entrance = Arc::new(Entrance(Arc::clone(&queue)));
        let connections = connection::run(broker, queue, asked, state, metrics);
        let publisher = Self {
            entrance,
            connected,
        };
        (publisher, tokio::spawn(connections))
    }

    /// Publishes and waits for the broker's acknowledgement, over as many connections as it takes.
    pub async fn publish(&self, publication: Publication) -> Result<Verdict, Stopped> {
        let (answer, verdict) = oneshot::channel();
        let publish = packets::publish(publication);
        self.entrance
            .0
            .push([Job::new(publish, Answer::One(answer))]);
        verdict.await.map_err(|_| Stopped)
    }

    /// Publishes many in this order; the verdict on each comes with its number. The caller bounds
    /// how many wait. After [`Stopped`] no verdicts come.
    pub fn publish_all(&self, publications: Vec<(u64, Box<Publication>)>, verdicts: &Verdicts) {
        let jobs = publications.into_iter().map(|(number, publication)| {
            let answer = Answer::Numbered(number, Arc::clone(verdicts));
            Job::new(packets::publish(*publication), answer)
        });
        self.entrance.0.push(jobs);
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
    queue: Arc<Queue>,
    _connected: watch::Sender<bool>,
}

/// Answers one publication.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct TestAnswer(Answer);

#[cfg(test)]
impl TestAnswer {
    pub(crate) fn say(self, verdict: Verdict) {
        Telling::default().tell(self.0, verdict);
    }
}

#[cfg(test)]
impl TestBroker {
    pub(crate) fn new() -> (Publisher, Self) {
        let (state, connected) = watch::channel(true);
        let queue = Arc::new(Queue::new(mpsc::channel(1).0));
        let publisher = Publisher {
            entrance: Arc::new(Entrance(Arc::clone(&queue))),
            connected,
        };
        let broker = Self {
            queue,
            _connected: state,
        };
        (publisher, broker)
    }

    pub(crate) async fn next(&mut self) -> (Publication, TestAnswer) {
        let (publish, answer) = self.queue.next().await.into_parts();
        (packets::publication(publish), TestAnswer(answer))
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_idle()
    }
}

#[cfg(test)]
mod tests;
