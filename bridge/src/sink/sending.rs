//! Messages on their way to a target: batches, retries, a target that wants to be left alone, dead
//! letters.
//!
//! `subscription.rs` puts messages in and hears which are done with; the connection to the
//! broker is its business. A stop begins nothing any more: what a call is under way for is
//! finished, the rest stays at the broker.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{Receiver, UnboundedSender};
use tokio::task::JoinSet;
use tracing::{error, warn};

use super::{Sent, SinkConfig, Target};
use crate::event::Event;
use crate::mapping::Publication;
use crate::metrics::FlowMetrics;
use crate::publisher::Verdict;
use crate::retry::Backoff;
use crate::retry_after::Hold;
use crate::run::{Phase, Shared};

/// A message on its way to the target.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) packet_id: u16,
    pub(super) event: Event,
    pub(super) since: Instant,
}

/// Sends to one target.
pub(super) struct Sender {
    pub(super) config: SinkConfig,
    pub(super) shared: Shared,
    pub(super) metrics: Arc<FlowMetrics>,
    target: Box<dyn Target>,
    hold: Hold,
}

impl Sender {
    pub(super) fn new(
        config: SinkConfig,
        shared: Shared,
        metrics: Arc<FlowMetrics>,
        target: Box<dyn Target>,
    ) -> Self {
        let hold = Hold::new(config.retry_after_max);
        Self {
            config,
            shared,
            metrics,
            target,
            hold,
        }
    }

    /// Makes batches and sends as many at a time as the settings say; tells the packet identifiers
    /// of what is done with. With one at a time the order is kept. Ends when the bridge stops and
    /// what was being sent has its answer.
    pub(super) async fn run(
        self: Arc<Self>,
        mut waiting: Receiver<Parcel>,
        done: UnboundedSender<Vec<u16>>,
    ) {
        let mut sending = JoinSet::new();
        loop {
            let batch = tokio::select! {
                biased;
                () = draining(&self.shared) => break,
                batch = self.next_batch(&mut waiting) => batch,
            };
            if batch.is_empty() {
                break;
            }
            while sending.len() >= self.config.concurrency {
                if let Some(Err(error)) = sending.join_next().await {
                    // What it had can only come again with another connection.
                    error!(sink = self.config.name, %error, "a task ended");
                    return;
                }
            }
            if self.stops() {
                break;
            }
            let (sender, done) = (Arc::clone(&self), done.clone());
            sending.spawn(async move { sender.deliver(batch, &done).await });
        }
        drop(waiting);
        while sending.join_next().await.is_some() {}
    }

    /// Whether the bridge stops.
    pub(super) fn stops(&self) -> bool {
        *self.shared.phase.borrow() >= Phase::Draining
    }

    /// What waits, as much as a call takes; nothing if no more will come.
    async fn next_batch(&self, waiting: &mut Receiver<Parcel>) -> Vec<Parcel> {
        let mut batch = Vec::from_iter(waiting.recv().await);
        let until = tokio::time::Instant::now() + self.config.linger;
        while !batch.is_empty() && batch.len() < self.target.max_batch() {
            match tokio::time::timeout_at(until, waiting.recv()).await {
                Ok(Some(parcel)) => batch.push(parcel),
                _ => break,
            }
        }
        batch
    }

    /// Sends a batch until the target has, or will never have, each of its messages, or the bridge
    /// stops. What fails as a whole is tried with half as many at a time: it may have been too much
    /// together. Who asks to be left alone has said what was too much, and gets no more calls by that.
    async fn deliver(&self, mut batch: Vec<Parcel>, done: &UnboundedSender<Vec<u16>>) {
        let mut backoff = self.backoff();
        let mut most = batch.len();
        while self.may_call().await {
            let rest = batch.split_off(most.min(batch.len()));
            let count = batch.len();
            let events: Vec<_> = batch.iter().map(|parcel| parcel.event.clone()).collect();
            let results = self.target.send(&events).await;
            debug_assert_eq!(results.len(), batch.len());
            let is_held = self.hold_on(&results);
            let mut finished = Vec::new();
            let mut again = Vec::new();
            for (parcel, sent) in batch.into_iter().zip(results) {
                let packet_id = parcel.packet_id;
                match self.judge(parcel, sent).await {
                    Some(parcel) => again.push(parcel),
                    None => finished.push(packet_id),
                }
            }
            // The connection may be gone: the broker sends it again then.
            let _ = done.send(finished);
            let failed = again.len();
            batch = again;
            batch.extend(rest);
            if batch.is_empty() {
                return;
            }
            most = if failed == count && !is_held {
                count.div_ceil(2)
            } else {
                batch.len()
            };
            if failed == 0 {
                backoff.reset();
                if self.stops() {
                    return;
                }
            } else if self.stops_within(backoff.pause()).await {
                return;
            }
        }
    }

    /// Waits while the target wants to be left alone. False if the bridge stops meanwhile.
    async fn may_call(&self) -> bool {
        while let Some(left) = self.hold.left() {
            // What waited together does not come back together.
            if self.stops_within(left + self.backoff().pause()).await {
                return false;
            }
        }
        true
    }

    /// Leaves the target alone if the answer to a call asks for that.
    fn hold_on(&self, results: &[Sent]) -> bool {
        let asked = results.iter().filter_map(|sent| match sent {
            Sent::Retry { after, .. } => *after,
            _ => None,
        });
        let Some(pause) = asked.max().and_then(|time| self.hold.ask(time)) else {
            return false;
        };
        warn!(
            sink = self.config.name,
            ?pause,
            "the target asks to be left alone"
        );
        self.metrics.retry_after.add(1);
        true
    }

    /// Does what a result asks for; the message comes back if it is to be sent again.
    async fn judge(&self, parcel: Parcel, sent: Sent) -> Option<Parcel> {
        match sent {
            Sent::Accepted => {
                self.metrics.published.add(1);
                self.metrics.time_to_publish.note(parcel.since.elapsed());
                None
            }
            Sent::Retry { reason, .. } => {
                let (sink, topic) = (&self.config.name, &parcel.event.topic);
                warn!(sink, topic, reason, "not sent");
                self.metrics.retried.add(1);
                Some(parcel)
            }
            Sent::Refused(reason) => {
                self.bury(&parcel.event, &reason).await;
                None
            }
        }
    }

    /// Publishes what the target refuses to the topic of dead letters; that is tried for ever.
    async fn bury(&self, event: &Event, reason: &str) {
        let (sink, topic) = (&self.config.name, &event.topic);
        error!(sink, topic, reason, "refused");
        self.metrics.dead_lettered.add(1);
        let publication = self.dead_letter(event, reason);
        let mut backoff = self.backoff();
        loop {
            match self.shared.publisher.publish(publication.clone()).await {
                Ok(Verdict::Accepted) => return,
                Ok(Verdict::Refused { reason, .. }) => {
                    error!(sink, reason, "no dead letter");
                }
                // The bridge stops: it must not look as if it had been buried.
                Err(_) => std::future::pending().await,
            }
            tokio::time::sleep(backoff.pause()).await;
        }
    }

    fn dead_letter(&self, event: &Event, reason: &str) -> Publication {
        let topic = event.topic.as_deref().unwrap_or_default();
        let marks = [
            ("dead-letter-sink", self.config.name.as_str()),
            ("dead-letter-topic", topic),
            ("dead-letter-reason", reason),
        ];
        Publication::dead_letter(&self.config.dead_letter_topic, event, marks)
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(self.config.retry_min, self.config.retry_max)
    }

    async fn stops_within(&self, pause: Duration) -> bool {
        pause_or_stop(pause, &self.shared).await
    }
}

/// Whether the bridge stops before the pause is over.
pub(super) async fn pause_or_stop(pause: Duration, shared: &Shared) -> bool {
    tokio::select! {
        biased;
        () = draining(shared) => true,
        () = tokio::time::sleep(pause) => false,
    }
}

/// Waits until nothing new is to be begun.
async fn draining(shared: &Shared) {
    reached(shared, Phase::Draining).await;
}

/// Waits until a stop has come that far.
pub(super) async fn reached(shared: &Shared, wanted: Phase) {
    let mut phase = shared.phase.clone();
    // The sender is gone only when the process ends.
    let _ = phase.wait_for(|phase| *phase >= wanted).await;
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use futures_util::FutureExt as _;
    use futures_util::future::BoxFuture;
    use parking_lot::Mutex;
    use tokio::sync::{Semaphore, mpsc, watch};
    use tokio::task::JoinHandle;

    use super::super::{Kind, read_sink};
    use super::*;
    use crate::config::{Notes, Section};
    use crate::publisher::TestBroker;
    use crate::source::SourceError;

    const SECOND: Duration = Duration::from_secs(1);

    /// A target that answers as the test says, well if it says nothing, and notes who was sent when.
    #[derive(Clone, Debug)]
    struct Fake {
        answers: Arc<Mutex<VecDeque<Sent>>>,
        calls: Arc<Mutex<Vec<(u64, String)>>>,
        since: tokio::time::Instant,
        batch: usize,
        /// Calls that may be answered.
        turns: Arc<Semaphore>,
    }

    impl Kind for Fake {
        fn open(
            &self,
            _: String,
            _: Arc<FlowMetrics>,
        ) -> BoxFuture<'_, Result<Box<dyn Target>, SourceError>> {
            async { Ok(Box::new(self.clone()) as Box<dyn Target>) }.boxed()
        }
    }

    impl Target for Fake {
        fn max_batch(&self) -> usize {
            self.batch
        }

        fn send<'a>(&'a self, messages: &'a [Event]) -> BoxFuture<'a, Vec<Sent>> {
            async move {
                let ids: String = messages.iter().map(|event| event.id.as_str()).collect();
                self.calls
                    .lock()
                    .push((self.since.elapsed().as_secs(), ids));
                self.turns.acquire().await.unwrap().forget();
                let mut answers = self.answers.lock();
                let answer = |_| answers.pop_front().unwrap_or(Sent::Accepted);
                messages.iter().map(answer).collect()
            }
            .boxed()
        }
    }

    fn busy(after: u64) -> Sent {
        let reason = "busy".to_owned();
        let after = Some(SECOND * u32::try_from(after).unwrap());
        Sent::Retry { reason, after }
    }

    struct World {
        target: Fake,
        parcels: mpsc::Sender<Parcel>,
        done: mpsc::UnboundedReceiver<Vec<u16>>,
        phase: watch::Sender<Phase>,
        metrics: Arc<FlowMetrics>,
        running: JoinHandle<()>,
        _broker: TestBroker,
    }

    fn start(batch: usize, settings: &str, answers: impl IntoIterator<Item = Sent>) -> World {
        let target = Fake {
            answers: Arc::new(Mutex::new(answers.into_iter().collect())),
            calls: Arc::default(),
            since: tokio::time::Instant::now(),
            batch,
            turns: Arc::new(Semaphore::new(1000)),
        };
        let table = format!("filters = [\"a\"]\n{settings}").parse().unwrap();
        let notes = Notes::default();
        let kind = Arc::new(target.clone());
        let config = read_sink("s".into(), kind, &mut Section::root(table, notes));
        let (publisher, broker) = TestBroker::new();
        let (phase, watched) = watch::channel(Phase::Running);
        let shared = Shared {
            bridge: "b".into(),
            publisher,
            dead_letters: None,
            routes: Arc::default(),
            phase: watched,
        };
        let metrics = Arc::new(FlowMetrics::default());
        let (parcels, waiting) = mpsc::channel(100);
        let (told, done) = mpsc::unbounded_channel();
        let numbers = Arc::clone(&metrics);
        let sender = Sender::new(config, shared, numbers, Box::new(target.clone()));
        let running = tokio::spawn(Arc::new(sender).run(waiting, told));
        World {
            target,
            parcels,
            done,
            phase,
            metrics,
            running,
            _broker: broker,
        }
    }

    impl World {
        fn put(&self, packet_ids: std::ops::RangeInclusive<u16>) {
            for packet_id in packet_ids {
                let id = packet_id.to_string();
                let event = Event {
                    id,
                    ..Event::default()
                };
                let since = Instant::now();
                let parcel = Parcel {
                    packet_id,
                    event,
                    since,
                };
                self.parcels.try_send(parcel).unwrap();
            }
        }

        async fn done(&mut self, count: usize) -> Vec<u16> {
            let mut done = Vec::new();
            while done.len() < count {
                done.extend(self.done.recv().await.unwrap());
            }
            done
        }

        fn calls(&self) -> Vec<(u64, String)> {
            self.target.calls.lock().clone()
        }
    }

    fn calls(expected: &[(u64, &str)]) -> Vec<(u64, String)> {
        let expected = expected.iter();
        expected
            .map(|(secs, ids)| (*secs, (*ids).to_owned()))
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_target_is_left_alone_and_the_order_stays() {
        let mut world = start(1, "", [busy(60), busy(7)]);
        world.put(1..=3);
        assert_eq!(world.done(3).await, [1, 2, 3]);
        assert_eq!(
            world.calls(),
            calls(&[(0, "1"), (60, "1"), (67, "1"), (67, "2"), (67, "3")])
        );
        assert_eq!(world.metrics.retry_after.value(), 2);
        assert_eq!(world.metrics.retried.value(), 2);
    }

    /// The others of the sink wait, too, those that come meanwhile and those side by side.
    #[tokio::test(start_paused = true)]
    async fn the_whole_sink_leaves_it_alone() {
        let mut world = start(1, "concurrency = 4", [busy(60)]);
        world.put(1..=1);
        while world.metrics.retry_after.value() == 0 {
            tokio::task::yield_now().await;
        }
        world.put(2..=9);
        world.done(9).await;
        let calls = world.calls();
        assert_eq!(calls.len(), 10);
        assert!(calls[1..].iter().all(|(secs, _)| *secs >= 60), "{calls:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_stops_a_sink_for_longer_than_allowed() {
        for (settings, asked, expected, obeyed) in [
            ("", 1_000_000, 300, 1),
            ("retry_after_max = \"20s\"", 1_000_000, 20, 1),
            ("retry_after_max = \"0s\"", 1_000_000, 0, 0),
        ] {
            let mut world = start(1, settings, [busy(asked)]);
            world.put(1..=1);
            world.done(1).await;
            assert_eq!(world.calls(), calls(&[(0, "1"), (expected, "1")]));
            assert_eq!(world.metrics.retry_after.value(), obeyed, "{settings}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_batch_has_done_does_not_wait_for_the_rest() {
        let answers = [Sent::Accepted, busy(60), Sent::Accepted];
        let mut world = start(3, "", answers);
        world.put(1..=3);
        assert_eq!(world.done(2).await, [1, 3]);
        assert_eq!(world.calls(), calls(&[(0, "123")]));
        assert_eq!(world.done(1).await, [2]);
        assert_eq!(world.calls(), calls(&[(0, "123"), (60, "2")]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_target_is_asked_again_with_the_whole_batch_and_counted_once() {
        let mut world = start(3, "", [busy(7), busy(60), busy(7)]);
        world.put(1..=3);
        assert_eq!(world.done(3).await, [1, 2, 3]);
        assert_eq!(world.calls(), calls(&[(0, "123"), (60, "123")]));
        assert_eq!(world.metrics.retry_after.value(), 1);
        assert_eq!(world.metrics.retried.value(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_together_is_tried_in_smaller_parts_in_order() {
        let failing = vec![Sent::retry("too much together"); 4 + 2];
        let mut world = start(4, "", failing);
        world.put(1..=4);
        assert_eq!(world.done(4).await, [1, 2, 3, 4]);
        let sent: Vec<_> = world.calls().into_iter().map(|(_, ids)| ids).collect();
        assert_eq!(sent, ["1234", "12", "1", "234"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_does_not_wait_for_a_busy_target() {
        let mut world = start(1, "", [busy(60)]);
        world.put(1..=2);
        while world.metrics.retry_after.value() == 0 {
            tokio::task::yield_now().await;
        }
        world.phase.send_replace(Phase::Draining);
        world.running.await.unwrap();
        assert_eq!(world.target.since.elapsed(), Duration::ZERO);
        while let Some(done) = world.done.recv().await {
            assert!(done.is_empty(), "nothing is done");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_waits_for_the_call_that_is_under_way_and_begins_no_other() {
        let mut world = start(1, "", []);
        world.target.turns.forget_permits(1000);
        world.put(1..=3);
        while world.calls().is_empty() {
            tokio::task::yield_now().await;
        }
        world.phase.send_replace(Phase::Draining);
        tokio::time::sleep(SECOND).await;
        assert!(!world.running.is_finished());
        world.target.turns.add_permits(1);
        assert_eq!(world.done(1).await, [1]);
        world.running.await.unwrap();
        assert_eq!(world.target.calls.lock().len(), 1);
    }
}
