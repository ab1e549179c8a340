//! The run loop with a source and a broker that do what the test says.

use std::collections::VecDeque;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::*;
use crate::config::{DeadLetterFolder, DeadPolicy, Limits, Notes, Section};
use crate::envelope::Envelope;
use crate::event::Event;
use crate::mapping::Mapping;
use crate::publisher::{Refusal, TestBroker, Verdict};
use crate::source::{Delivery, Kind, Outcome, Settle, SourceError};

/// A source that gives what the test put in.
#[derive(Clone, Debug, Default)]
struct Fake {
    events: Arc<Mutex<VecDeque<Event>>>,
    arrived: Arc<tokio::sync::Notify>,
    outcomes: Arc<Mutex<Vec<(String, Outcome)>>>,
    asked: Arc<Mutex<Vec<usize>>>,
    closed: Arc<Mutex<bool>>,
}

impl Kind for Fake {
    fn open(&self, _: Context) -> BoxFuture<'_, Result<Vec<Box<dyn Source>>, SourceError>> {
        async { Ok(vec![Box::new(self.clone()) as Box<dyn Source>]) }.boxed()
    }

    fn sample(&self, _: &[u8]) -> Result<Vec<Event>, SourceError> {
        Ok(Vec::new())
    }
}

impl Source for Fake {
    fn receive(&mut self, max: usize) -> BoxFuture<'_, Result<Vec<Delivery>, SourceError>> {
        async move {
            loop {
                let arrived = self.arrived.notified();
                let taken = self.take(max);
                if !taken.is_empty() {
                    return Ok(taken);
                }
                arrived.await;
            }
        }
        .boxed()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        *self.closed.lock() = true;
        async {}.boxed()
    }
}

impl Fake {
    fn take(&self, max: usize) -> Vec<Delivery> {
        let mut events = self.events.lock();
        let count = max.min(events.len());
        self.asked.lock().push(count);
        events
            .drain(..count)
            .map(|event| self.delivery(event))
            .collect()
    }

    fn delivery(&self, event: Event) -> Delivery {
        let handle = Box::new(FakeHandle {
            id: event.id.clone(),
            outcomes: Arc::clone(&self.outcomes),
        });
        Delivery { event, handle }
    }

    fn put(&self, event: Event) {
        self.events.lock().push_back(event);
        self.arrived.notify_one();
    }
}

struct FakeHandle {
    id: String,
    outcomes: Arc<Mutex<Vec<(String, Outcome)>>>,
}

impl Settle for FakeHandle {
    fn settle(self: Box<Self>, outcome: Outcome) {
        self.outcomes.lock().push((self.id.clone(), outcome));
    }
}

/// A running source, the broker's side, and the way to stop.
struct World {
    source: Fake,
    broker: TestBroker,
    phase: watch::Sender<Phase>,
    metrics: Arc<FlowMetrics>,
    running: tokio::task::JoinHandle<()>,
}

fn event(id: &str, group: Option<&str>) -> Event {
    Event {
        id: id.into(),
        key: Some(format!("key-{id}")),
        group: group.map(Into::into),
        body: id.to_owned().into(),
        ..Event::default()
    }
}

fn limits(max_in_flight: usize) -> Limits {
    Limits {
        max_in_flight,
        max_in_flight_bytes: 1 << 20,
        max_attempts: 3,
        max_deliveries: 0,
        retry_min: Duration::from_millis(1),
        retry_max: Duration::from_millis(2),
        remembered_keys: 100,
    }
}

fn start(limits: Limits, dead: DeadPolicy, folder: Option<Arc<Folder>>) -> World {
    let source = Fake::default();
    let table = "topic = \"t/${id}\"".parse().unwrap();
    let config = SourceConfig {
        name: "s".into(),
        kind: Arc::new(source.clone()),
        envelope: Envelope::Auto,
        filter: None,
        mapping: Mapping::read(&mut Section::root(table, Notes::default())),
        dead,
        limits,
    };
    let (publisher, broker) = TestBroker::new();
    let (phase, watched) = watch::channel(Phase::Running);
    let shared = Shared {
        bridge: "b".into(),
        publisher,
        dead_letters: folder,
        routes: Arc::default(),
        phase: watched,
    };
    let metrics = Arc::new(FlowMetrics::default());
    let running = tokio::spawn(run(config, shared, Arc::clone(&metrics)));
    World {
        source,
        broker,
        phase,
        metrics,
        running,
    }
}

fn plain(max_in_flight: usize) -> World {
    start(limits(max_in_flight), DeadPolicy::Source, None)
}

impl World {
    /// Lets everything that can go on go on.
    async fn calm(&self) {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    /// Waits for so many outcomes.
    async fn outcomes(&self, count: usize) -> Vec<(String, Outcome)> {
        while self.source.outcomes.lock().len() < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.source.outcomes.lock().clone()
    }

    async fn stop(self) {
        self.phase.send_replace(Phase::Draining);
        self.running.await.unwrap();
        assert!(*self.source.closed.lock());
    }
}

fn refused(refusal: Refusal) -> Verdict {
    let reason = "because".to_owned();
    Verdict::Refused { refusal, reason }
}

#[tokio::test]
async fn an_event_is_done_only_after_its_acknowledgement() {
    let mut world = plain(10);
    world.source.put(event("1", None));
    let (publication, answer) = world.broker.next().await;
    assert_eq!(publication.topic, "t/1");
    world.calm().await;
    assert!(world.source.outcomes.lock().is_empty());
    answer.say(Verdict::Accepted);
    assert_eq!(world.outcomes(1).await, [("1".to_owned(), Outcome::Done)]);
    assert_eq!(world.metrics.published.value(), 1);
    world.stop().await;
}

#[tokio::test]
async fn a_full_window_stops_asking_the_source() {
    let mut world = plain(2);
    for id in ["1", "2", "3", "4"] {
        world.source.put(event(id, None));
    }
    let first = world.broker.next().await;
    let second = world.broker.next().await;
    world.calm().await;
    assert_eq!(
        world.source.events.lock().len(),
        2,
        "two are still in the source"
    );
    assert!(world.broker.is_idle());
    first.1.say(Verdict::Accepted);
    world.broker.next().await.1.say(Verdict::Accepted);
    second.1.say(Verdict::Accepted);
    world.broker.next().await.1.say(Verdict::Accepted);
    world.outcomes(4).await;
    assert!(world.source.asked.lock().iter().all(|asked| *asked <= 2));
    world.stop().await;
}

#[tokio::test]
async fn a_group_keeps_its_order_and_holds_up_no_other() {
    let mut world = plain(10);
    for (id, group) in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("a3", "a")] {
        world.source.put(event(id, Some(group)));
    }
    let mut open = [world.broker.next().await, world.broker.next().await];
    open.sort_by(|a, b| a.0.topic.cmp(&b.0.topic));
    let [a1, b1] = open;
    assert_eq!((a1.0.topic.as_str(), b1.0.topic.as_str()), ("t/a1", "t/b1"));
    world.calm().await;
    assert!(world.broker.is_idle(), "a2 waits for a1");
    b1.1.say(Verdict::Accepted);
    a1.1.say(Verdict::Accepted);
    for id in ["t/a2", "t/a3"] {
        let (publication, answer) = world.broker.next().await;
        assert_eq!(publication.topic, id);
        answer.say(Verdict::Accepted);
    }
    world.outcomes(4).await;
    world.stop().await;
}

#[tokio::test]
async fn a_busy_broker_is_asked_again_for_ever_and_an_unclear_one_so_many_times() {
    let mut world = plain(10);
    world.source.put(event("1", None));
    for _ in 0..20 {
        world.broker.next().await.1.say(refused(Refusal::Busy));
    }
    world.broker.next().await.1.say(Verdict::Accepted);
    assert_eq!(world.outcomes(1).await[0].1, Outcome::Done);
    world.source.put(event("2", None));
    for _ in 0..3 {
        world.broker.next().await.1.say(refused(Refusal::Unclear));
    }
    let after = Duration::from_millis(2);
    assert_eq!(world.outcomes(2).await[1].1, Outcome::Retry { after });
    world.stop().await;
}

#[tokio::test]
async fn who_is_given_back_takes_along_who_is_behind() {
    let mut world = plain(10);
    for id in ["1", "2", "3"] {
        world.source.put(event(id, Some("g")));
    }
    world.broker.next().await.1.say(Verdict::Accepted);
    for _ in 0..3 {
        world.broker.next().await.1.say(refused(Refusal::Unclear));
    }
    let outcomes = world.outcomes(3).await;
    let retry = Outcome::Retry {
        after: Duration::from_millis(2),
    };
    let expected = [("1", Outcome::Done), ("2", retry.clone()), ("3", retry)];
    assert_eq!(
        outcomes,
        expected.map(|(id, outcome)| (id.to_owned(), outcome))
    );
    assert!(world.broker.is_idle(), "3 is not published before 2");
    world.source.put(event("2", Some("g")));
    assert_eq!(world.broker.next().await.0.topic, "t/2");
    world.phase.send_replace(Phase::Releasing);
    world.running.await.unwrap();
}

#[tokio::test]
async fn what_was_delivered_often_enough_is_dead() {
    let limits = Limits {
        max_deliveries: 2,
        ..limits(10)
    };
    let mut world = start(limits, DeadPolicy::Source, None);
    for (id, received) in [("1", 1), ("2", 2)] {
        world.source.put(Event {
            received: Some(received),
            ..event(id, None)
        });
        for _ in 0..3 {
            let (_, answer) = world.broker.next().await;
            answer.say(refused(Refusal::Unclear));
        }
        world.outcomes(usize::try_from(received).unwrap()).await;
    }
    let outcomes = world.outcomes(2).await;
    assert!(matches!(outcomes[0].1, Outcome::Retry { .. }), "once more");
    assert!(matches!(outcomes[1].1, Outcome::Poison { .. }));
    assert_eq!(world.metrics.dead_lettered.value(), 1);
    world.stop().await;
}

/// Verdicts may come in any order; what comes together is published together and in its order.
#[tokio::test]
async fn many_are_under_way_at_a_time_each_with_its_own_verdict() {
    let mut world = plain(100);
    {
        let mut events = world.source.events.lock();
        events.extend((0..50).map(|number| event(&number.to_string(), None)));
    }
    world.source.arrived.notify_one();
    let mut open = Vec::new();
    for number in 0..50 {
        let (publication, answer) = world.broker.next().await;
        assert_eq!(publication.topic, format!("t/{number}"));
        open.push(answer);
    }
    assert_eq!(world.metrics.in_flight.value(), 50);
    let last = open.swap_remove(7);
    for answer in open.into_iter().rev() {
        answer.say(Verdict::Accepted);
    }
    let done = world.outcomes(49).await;
    assert!(done.iter().all(|(id, _)| id != "7"));
    last.say(Verdict::Accepted);
    world.outcomes(50).await;
    world.stop().await;
}

#[tokio::test]
async fn an_event_that_comes_again_is_not_published_again() {
    let mut world = plain(10);
    world.source.put(event("1", None));
    world.broker.next().await.1.say(Verdict::Accepted);
    world.outcomes(1).await;
    world.source.put(event("1", None));
    assert_eq!(world.outcomes(2).await[1], ("1".to_owned(), Outcome::Done));
    assert!(world.broker.is_idle());
    assert_eq!(world.metrics.duplicates.value(), 1);
    world.stop().await;
}

#[tokio::test]
async fn what_cannot_be_published_is_left_to_the_source_or_kept() {
    let world = plain(10);
    let poison = || Event {
        attributes: vec![("qos".into(), "9".into())],
        ..event("1", None)
    };
    world.source.put(poison());
    assert!(matches!(
        world.outcomes(1).await[0].1,
        Outcome::Poison { .. }
    ));
    world.stop().await;

    let place = tempfile::tempdir().unwrap();
    let config = DeadLetterFolder {
        folder: place.path().into(),
        max: 1,
    };
    let folder = Folder::open(&config).unwrap();
    let world = start(limits(10), DeadPolicy::Folder, Some(Arc::clone(&folder)));
    world.source.put(poison());
    assert_eq!(world.outcomes(1).await[0].1, Outcome::DeadLettered);
    let names = folder.names().unwrap();
    let event = folder.read(&names[0]).unwrap().event().unwrap();
    assert_eq!(
        event,
        Event {
            received: None,
            ..poison()
        }
    );
    world.source.put(poison());
    assert!(
        matches!(world.outcomes(2).await[1].1, Outcome::Retry { .. }),
        "the folder is full"
    );
    world.stop().await;
}

#[tokio::test]
async fn what_cannot_be_published_goes_to_a_topic() {
    let mut world = start(limits(10), DeadPolicy::Topic("dead".into()), None);
    world.source.put(event("1", None));
    world.broker.next().await.1.say(refused(Refusal::Final));
    let (publication, answer) = world.broker.next().await;
    assert_eq!(publication.topic, "dead");
    let reason = ("dead-letter-reason".to_owned(), "because".to_owned());
    assert!(publication.user_properties.contains(&reason));
    world.calm().await;
    assert!(world.source.outcomes.lock().is_empty());
    answer.say(Verdict::Accepted);
    assert_eq!(world.outcomes(1).await[0].1, Outcome::DeadLettered);
    world.stop().await;
}

#[tokio::test]
async fn a_message_of_this_bridge_does_not_go_round() {
    let world = plain(10);
    let attributes = vec![(crate::mapping::VIA_PROPERTY.to_owned(), "b".to_owned())];
    world.source.put(Event {
        attributes,
        ..event("1", None)
    });
    assert_eq!(world.outcomes(1).await[0].1, Outcome::Done);
    assert_eq!(world.metrics.skipped.value(), 1);
    world.stop().await;
}

#[tokio::test]
async fn a_stop_finishes_what_is_in_flight_or_gives_it_back() {
    let mut world = plain(10);
    world.source.put(event("1", None));
    world.source.put(event("2", Some("g")));
    world.source.put(event("3", Some("g")));
    let first = world.broker.next().await;
    let _second = world.broker.next().await;
    world.phase.send_replace(Phase::Draining);
    world.calm().await;
    assert!(!world.running.is_finished());
    world.source.put(event("4", None));
    first.1.say(Verdict::Accepted);
    world.outcomes(1).await;
    world.phase.send_replace(Phase::Releasing);
    world.running.await.unwrap();
    let mut outcomes = world.source.outcomes.lock().split_off(1);
    outcomes.sort_by(|a, b| a.0.cmp(&b.0));
    let released = ["2", "3"].map(|id| (id.to_owned(), Outcome::Released));
    assert_eq!(outcomes, released);
    assert_eq!(world.source.events.lock().len(), 1, "nothing new was taken");
}
