//! A stream, by a durable pull consumer: as many messages are asked for as there is room.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::{self, BatchConfig};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer};
use async_nats::jetstream::{self, AckKind, Context as JetStream};
use async_nats::{Client, Message, StatusCode, Subject, Subscriber};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tracing::debug;

use super::{Order, SECOND, message};
use crate::config::Section;
use crate::metrics::FlowMetrics;
use crate::numbered::Numbered;
use crate::source::{Context, Delivery, Outcome, Settle, Source, SourceError};

/// How long a call waits when there is nothing.
const WAIT: Duration = Duration::from_secs(1);

/// How long an answer is waited for. To give up early would let a slow server send messages to
/// nobody, and those come again behind newer ones.
const ANSWER: Duration = Duration::from_mins(1);

/// How often it is looked whether the connection is still the one that was asked: an answer to
/// another one never comes.
const LOOK: Duration = Duration::from_millis(100);

/// Messages of a call, at most.
const MOST: usize = 2000;

/// Messages that the stream is told of at a time.
const TOLD: usize = 500;

/// How long a stop waits for a call.
const PATIENCE: Duration = Duration::from_secs(4);

/// The stream and the consumer.
#[derive(Clone, Debug)]
pub(super) struct StreamSettings {
    stream: String,
    consumer: String,
    create_stream: bool,
    deliver: Deliver,
    ack_wait: Duration,
    max_ack_pending: i64,
}

#[derive(Clone, Copy, Debug)]
enum Deliver {
    All,
    New,
    Last,
}

const DELIVER: [(&str, Deliver); 3] = [
    ("all", Deliver::All),
    ("new", Deliver::New),
    ("last", Deliver::Last),
];

impl StreamSettings {
    /// Reads them; none if there is no stream.
    pub(super) fn read(section: &mut Section) -> Option<Self> {
        let stream = section.text("stream")?;
        let pending = section.count("max_ack_pending", 1000, 1..=1_000_000);
        Some(Self {
            stream,
            consumer: section
                .text("consumer")
                .unwrap_or_else(|| "polycast-bridge".to_owned()),
            create_stream: section.flag("create_stream", false),
            deliver: section.choice("deliver", &DELIVER, Deliver::All),
            ack_wait: section.duration("ack_wait", 30 * SECOND, SECOND..=3600 * SECOND),
            max_ack_pending: i64::try_from(pending).unwrap_or(i64::MAX),
        })
    }
}

/// A consumer of a stream.
pub(super) struct Stream {
    jetstream: JetStream,
    settings: StreamSettings,
    subjects: Vec<String>,
    consumer: Option<PullConsumer>,
    order: Order,
    open: Arc<Open>,
    metrics: Arc<FlowMetrics>,
}

pub(super) async fn open(
    client: Client,
    settings: &StreamSettings,
    subjects: &[String],
    order: Order,
    context: &Context,
) -> Result<Stream, SourceError> {
    let mut stream = Stream {
        jetstream: jetstream::new(client.clone()),
        settings: settings.clone(),
        subjects: subjects.to_vec(),
        consumer: None,
        order,
        open: Open::start(client.clone(), settings.ack_wait),
        metrics: Arc::clone(&context.metrics),
    };
    stream.consumer().await?;
    Ok(stream)
}

impl Stream {
    /// The consumer; looked up again after a failure, since it may have been removed.
    async fn consumer(&mut self) -> Result<PullConsumer, SourceError> {
        if let Some(consumer) = &self.consumer {
            return Ok(consumer.clone());
        }
        let settings = &self.settings;
        let stream = if settings.create_stream {
            let config = jetstream::stream::Config {
                name: settings.stream.clone(),
                subjects: self.subjects.clone(),
                ..Default::default()
            };
            let stream = self.jetstream.get_or_create_stream(config).await;
            stream.map_err(SourceError::new)?
        } else {
            let found = self.jetstream.get_stream(&settings.stream).await;
            found.map_err(SourceError::new)?
        };
        // Servers before 2.10 know one filter; the stream's subjects are the others.
        let filter = match self.subjects.as_slice() {
            [one] => one.clone(),
            _ => String::new(),
        };
        let config = pull::Config {
            durable_name: Some(settings.consumer.clone()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: settings.ack_wait,
            deliver_policy: match settings.deliver {
                Deliver::All => DeliverPolicy::All,
                Deliver::New => DeliverPolicy::New,
                Deliver::Last => DeliverPolicy::Last,
            },
            filter_subject: filter,
            max_ack_pending: settings.max_ack_pending,
            ..Default::default()
        };
        let created = stream
            .get_or_create_consumer(&settings.consumer, config)
            .await;
        let consumer = created.map_err(SourceError::new)?;
        self.consumer = Some(consumer.clone());
        Ok(consumer)
    }

    /// What is there, or else the next message, or nothing after a while.
    async fn fetch(&mut self, max: usize) -> Result<Vec<Delivery>, SourceError> {
        let there = BatchConfig {
            batch: max,
            no_wait: true,
            ..BatchConfig::default()
        };
        let deliveries = self.ask(there).await?;
        if !deliveries.is_empty() {
            return Ok(deliveries);
        }
        let next = BatchConfig {
            batch: 1,
            expires: Some(WAIT),
            ..BatchConfig::default()
        };
        self.ask(next).await
    }

    /// Asks for messages and takes them in. The client's own batches would do the same, but each of
    /// their messages carries a client of its own.
    async fn ask(&mut self, request: BatchConfig) -> Result<Vec<Delivery>, SourceError> {
        let consumer = self.consumer().await?;
        let connection = self.connection();
        let client = self.jetstream.client();
        let inbox = Subject::from(client.new_inbox());
        let answers = client.subscribe(inbox.clone()).await;
        let answers = answers.map_err(SourceError::new)?;
        let max = request.batch;
        let asked = consumer.request_batch(request, inbox).await;
        asked.map_err(SourceError::new)?;
        self.collect(answers, connection, max).await
    }

    /// Which connection it is: they are counted.
    fn connection(&self) -> u64 {
        self.jetstream.client().statistics().connects.load(Relaxed)
    }

    /// The messages of a batch. If it breaks off, those that came before are there all the same.
    async fn collect(
        &self,
        mut answers: Subscriber,
        connection: u64,
        max: usize,
    ) -> Result<Vec<Delivery>, SourceError> {
        let mut deliveries = Vec::with_capacity(max);
        let until = tokio::time::Instant::now() + ANSWER;
        let error = loop {
            if deliveries.len() == max {
                return Ok(deliveries);
            }
            // Messages come many at a time: a timer for each would cost more than the message.
            let next = match answers.next().now_or_never() {
                Some(next) => Ok(next),
                None => tokio::time::timeout(LOOK, answers.next()).await,
            };
            match next {
                Ok(Some(message)) => match message.status {
                    None | Some(StatusCode::OK) => deliveries.push(self.delivery(message)),
                    Some(StatusCode::IDLE_HEARTBEAT) => {}
                    // There are no more, or none came in time.
                    Some(StatusCode::NOT_FOUND | StatusCode::TIMEOUT) => return Ok(deliveries),
                    Some(status) => {
                        let why = message.description.unwrap_or_default();
                        break SourceError::new(format_args!("the server answers {status} {why}"));
                    }
                },
                Ok(None) => break SourceError::new("the subscription has ended"),
                Err(_) if self.connection() != connection => {
                    break SourceError::new("the connection was lost");
                }
                Err(_) if tokio::time::Instant::now() > until => {
                    break SourceError::new("the server does not answer");
                }
                Err(_) => {}
            }
        };
        if deliveries.is_empty() {
            Err(error)
        } else {
            Ok(deliveries)
        }
    }

    fn delivery(&self, message: Message) -> Delivery {
        let mut event = message::event(&message, self.order);
        if let Some(told) = message.reply.as_deref().and_then(Told::read) {
            let sequence = [told.stream, ":", told.sequence].concat();
            event.key.get_or_insert_with(|| sequence.clone());
            event.accepted_ms = told.stored_ns.parse().ok().map(|ns: u64| ns / 1_000_000);
            event.received = told.delivered.parse().ok();
            if let Ok(pending) = told.pending.parse() {
                self.metrics.backlog.set(pending);
            }
            event.id = sequence;
        }
        let handle = Box::new(self.open.hold(message.reply));
        Delivery { event, handle }
    }
}

/// What the server says of a message, in the subject of the acknowledgement:
/// `$JS.ACK.[DOMAIN.ACCOUNT.]STREAM.CONSUMER.DELIVERED.SEQUENCE.CONSUMER_SEQUENCE.TIME.PENDING[.TOKEN]`.
#[derive(Debug, PartialEq, Eq)]
struct Told<'a> {
    stream: &'a str,
    delivered: &'a str,
    sequence: &'a str,
    /// Nanoseconds since 1970.
    stored_ns: &'a str,
    pending: &'a str,
}

impl<'a> Told<'a> {
    /// None if it is not such a subject.
    fn read(subject: &'a str) -> Option<Self> {
        let rest = subject.strip_prefix("$JS.ACK.")?;
        let mut tokens = [""; 9];
        let (mut count, mut start) = (0, 0);
        let dots = rest.bytes().enumerate().filter(|(_, byte)| *byte == b'.');
        for end in dots.map(|(at, _)| at).chain([rest.len()]) {
            let Some(token) = tokens.get_mut(count) else {
                break;
            };
            *token = &rest[start..end];
            (count, start) = (count + 1, end + 1);
        }
        // Older servers say nothing of the domain and the account.
        let own = match count {
            7 => &tokens[..7],
            9 => &tokens[2..],
            _ => return None,
        };
        let &[stream, _, delivered, sequence, _, stored_ns, pending] = own else {
            return None;
        };
        Some(Self {
            stream,
            delivered,
            sequence,
            stored_ns,
            pending,
        })
    }
}

impl Source for Stream {
    fn receive(&mut self, max: usize) -> BoxFuture<'_, Result<Vec<Delivery>, SourceError>> {
        async move {
            match self.fetch(max).await {
                Ok(deliveries) => Ok(deliveries),
                Err(error) => {
                    self.consumer = None;
                    Err(error)
                }
            }
        }
        .boxed()
    }

    fn batch(&self) -> usize {
        // One call fetches while what the last one brought is published.
        let half = usize::try_from(self.settings.max_ack_pending / 2).unwrap_or(MOST);
        half.clamp(1, MOST)
    }

    fn patience(&self) -> Duration {
        // What comes to a call that nobody waits for any more comes again behind newer messages.
        PATIENCE
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        async move {
            self.open.settled().await;
            // What could not be said is delivered again.
            let _ = self.jetstream.client().flush().await;
        }
        .boxed()
    }
}

/// Messages that are under way, and what the server is still to be told.
struct Open {
    client: Client,
    held: Mutex<Held>,
    settled: Notify,
    orders: mpsc::UnboundedSender<(u64, AckKind)>,
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Debug, Default)]
struct Held {
    /// Where to say what becomes of each.
    replies: Numbered<Subject>,
    /// Some were taken out and are being told.
    is_telling: bool,
}

impl Held {
    fn is_settled(&self) -> bool {
        self.replies.is_empty() && !self.is_telling
    }
}

impl Open {
    fn start(client: Client, ack_wait: Duration) -> Arc<Self> {
        let (orders, waiting) = mpsc::unbounded_channel();
        let open = Arc::new(Self {
            client,
            held: Mutex::default(),
            settled: Notify::new(),
            orders,
            tasks: Mutex::default(),
        });
        let mut tasks = open.tasks.lock();
        tasks.spawn(tell(Arc::clone(&open), waiting));
        tasks.spawn(keep(Arc::clone(&open), ack_wait / 3));
        drop(tasks);
        open
    }

    /// A message of a stream has a reply subject; without one there is nobody to tell.
    fn hold(self: &Arc<Self>, reply: Option<Subject>) -> Handle {
        let number = reply.map(|reply| self.held.lock().replies.push(reply));
        Handle {
            number,
            open: Arc::clone(self),
            told: false,
        }
    }

    /// Waits until all is said, and ends the tasks.
    async fn settled(&self) {
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            if self.held.lock().is_settled() {
                break;
            }
            settled.await;
        }
        self.tasks.lock().abort_all();
    }

    /// Hands it to the connection, which writes many at a time; no answer is waited for. What is
    /// lost with the connection is delivered again.
    async fn say(&self, reply: Subject, kind: AckKind) {
        if let Err(error) = self.client.publish(reply, kind.into()).await {
            debug!(%error, "cannot tell the stream");
        }
    }
}

/// Says what became of messages, in the order in which it was decided.
async fn tell(open: Arc<Open>, mut waiting: mpsc::UnboundedReceiver<(u64, AckKind)>) {
    let mut decided = Vec::with_capacity(TOLD);
    let mut telling = Vec::with_capacity(TOLD);
    while waiting.recv_many(&mut decided, TOLD).await > 0 {
        {
            let mut held = open.held.lock();
            let found = decided.drain(..).filter_map(|(number, kind)| {
                let reply = held.replies.remove(number)?;
                Some((reply, kind))
            });
            telling.extend(found);
            held.is_telling = true;
        }
        for (reply, kind) in telling.drain(..) {
            open.say(reply, kind).await;
        }
        let mut held = open.held.lock();
        held.is_telling = false;
        if held.replies.is_empty() {
            open.settled.notify_waiters();
        }
    }
}

/// Says that messages are in progress, well before the server gives them to others.
async fn keep(open: Arc<Open>, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let replies: Vec<_> = open.held.lock().replies.iter().cloned().collect();
        for reply in replies {
            open.say(reply, AckKind::Progress).await;
        }
    }
}

/// Stands for one message.
struct Handle {
    number: Option<u64>,
    open: Arc<Open>,
    told: bool,
}

impl Handle {
    fn tell(&mut self, kind: AckKind) {
        self.told = true;
        if let Some(number) = self.number {
            // The task ends only when nothing is held any more.
            let _ = self.open.orders.send((number, kind));
        }
    }
}

impl Settle for Handle {
    fn settle(mut self: Box<Self>, outcome: Outcome) {
        self.tell(match outcome {
            Outcome::Done | Outcome::DeadLettered => AckKind::Ack,
            Outcome::Retry { after } => AckKind::Nak(Some(after)),
            // The server says so to whoever watches its advisories, and does not deliver it again.
            Outcome::Poison { .. } => AckKind::Term,
            Outcome::Released => AckKind::Nak(None),
        });
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.told {
            self.tell(AckKind::Nak(None));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_says_is_read_in_both_forms() {
        let told = Told {
            stream: "orders",
            delivered: "2",
            sequence: "1234",
            stored_ns: "1700000000123456789",
            pending: "17",
        };
        let old = "$JS.ACK.orders.polycast.2.1234.99.1700000000123456789.17";
        assert_eq!(Told::read(old).as_ref(), Some(&told));
        let new = "$JS.ACK._.hash.orders.polycast.2.1234.99.1700000000123456789.17";
        assert_eq!(Told::read(new).as_ref(), Some(&told));
        assert_eq!(Told::read(&format!("{new}.token")).as_ref(), Some(&told));
        for other in [
            "",
            "_INBOX.a",
            "$JS.ACK.a.b.1.2.3.4",
            "$JS.ACK.x.a.b.1.2.3.4.5",
        ] {
            assert_eq!(Told::read(other), None, "{other}");
        }
    }
}
