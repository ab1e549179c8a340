//! The source with a stream that does what the test says.

use std::collections::{BTreeMap, HashSet};

use super::api::{ApiError, Page, Position, Shard};
use super::checkpoints::Checkpoint;
use super::*;
use crate::config::Notes;
use crate::metrics::FlowMetrics;
use crate::source::Outcome;

/// Shards with numbered records; iterators are `SHARD NEXT`.
#[derive(Default)]
struct Fake {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    shards: Vec<Shard>,
    records: BTreeMap<String, Vec<String>>,
    /// Iterators that have expired.
    expired: HashSet<String>,
    throttle: usize,
    positions: Vec<(String, Position)>,
}

impl Fake {
    fn shard(&self, id: &str, parents: &[&str], keys: &[&str]) {
        let mut state = self.state.lock();
        state.shards.push(Shard {
            id: id.to_owned(),
            parents: parents.iter().map(ToString::to_string).collect(),
            closed: false,
        });
        let keys = keys.iter().map(ToString::to_string).collect();
        state.records.insert(id.to_owned(), keys);
    }

    fn close(&self, id: &str) {
        let mut state = self.state.lock();
        let shard = state.shards.iter_mut().find(|shard| shard.id == id);
        shard.unwrap().closed = true;
    }
}

impl Api for Arc<Fake> {
    fn shards(&self) -> BoxFuture<'_, Result<Vec<Shard>, ApiError>> {
        async { Ok(self.state.lock().shards.clone()) }.boxed()
    }

    fn iterator<'a>(
        &'a self,
        shard: &'a str,
        position: &'a Position,
    ) -> BoxFuture<'a, Result<String, ApiError>> {
        let mut state = self.state.lock();
        state.positions.push((shard.to_owned(), position.clone()));
        let next = match position {
            Position::Oldest | Position::Since(_) => 0,
            Position::After(sequence) => sequence.parse::<usize>().unwrap() + 1,
        };
        async move { Ok(format!("{shard} {next}")) }.boxed()
    }

    fn records<'a>(
        &'a self,
        iterator: &'a str,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, ApiError>> {
        async move {
            let mut state = self.state.lock();
            if state.throttle > 0 {
                state.throttle -= 1;
                return Err(ApiError::Throttled("slower".to_owned()));
            }
            if state.expired.remove(iterator) {
                return Err(ApiError::Expired);
            }
            let (id, from) = iterator.split_once(' ').unwrap();
            let from: usize = from.parse().unwrap();
            let keys = &state.records[id];
            let to = keys.len().min(from + limit);
            let records = (from..to).map(|number| Record {
                sequence: number.to_string(),
                partition_key: keys[number].clone(),
                data: format!("{id}{number}").into(),
                arrived_ms: Some(1),
            });
            let closed = state
                .shards
                .iter()
                .any(|shard| shard.id == id && shard.closed);
            Ok(Page {
                records: records.collect(),
                next: (!closed || to < keys.len()).then(|| format!("{id} {to}")),
                behind: Duration::from_millis((keys.len() - to) as u64),
            })
        }
        .boxed()
    }
}

fn settings(folder: &std::path::Path, more: &str) -> Kinesis {
    let notes = Notes::default();
    let text = format!("{more}\n");
    let mut section = Section::root(text.parse().unwrap(), notes.clone());
    let choose = section.choice("start", &STARTS, Start::Oldest);
    let batch = usize_of(section.count("batch", 10, 1..=100));
    assert!(notes.take().is_empty());
    Kinesis {
        stream: "s".to_owned(),
        service: aws::Settings::read(&mut section),
        checkpoints: folder.to_owned(),
        start: choose,
        order: Order::Key,
        pace: Pace {
            batch,
            poll: SECOND,
            discover: SECOND,
        },
    }
}

fn start(fake: &Arc<Fake>, settings: &Kinesis) -> Stream {
    let checkpoints = Checkpoints::open(&settings.checkpoints, "s").unwrap();
    let context = Context {
        name: "k".to_owned(),
        routes: Arc::default(),
        metrics: Arc::new(FlowMetrics::default()),
        publisher: crate::publisher::TestBroker::new().0,
    };
    Stream::start(settings, Arc::new(Arc::clone(fake)), checkpoints, &context)
}

/// Closes it, and waits until its tasks are gone too: they share the folder.
async fn close(stream: Stream) {
    Box::new(stream).close().await;
    tokio::time::sleep(SECOND).await;
}

async fn receive(stream: &mut Stream, max: usize) -> Vec<Delivery> {
    loop {
        let received = stream.receive(max).await.unwrap();
        if !received.is_empty() {
            return received;
        }
    }
}

fn bodies(deliveries: &[Delivery]) -> Vec<String> {
    let bodies = deliveries.iter();
    bodies
        .map(|delivery| String::from_utf8(delivery.event.body.to_vec()).unwrap())
        .collect()
}

fn settle(deliveries: Vec<Delivery>, outcome: &Outcome) {
    for delivery in deliveries {
        delivery.handle.settle(outcome.clone());
    }
}

#[tokio::test(start_paused = true)]
async fn children_are_read_when_the_last_record_of_their_parents_is_settled() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake::default());
    fake.shard("a", &[], &["k", "l"]);
    fake.shard("b", &[], &["m"]);
    fake.shard("c", &["a", "b"], &["k"]);
    fake.shard("old", &["gone"], &[]);
    fake.close("a");
    fake.close("b");
    let mut stream = start(&fake, &settings(folder.path(), ""));
    let mut first = receive(&mut stream, 10).await;
    first.extend(receive(&mut stream, 10).await);
    first.sort_by_key(|delivery| delivery.event.id.clone());
    assert_eq!(bodies(&first), ["a0", "a1", "b0"]);
    assert_eq!(first[0].event.group.as_deref(), Some("k"));
    assert_eq!(first[0].event.key.as_deref(), Some("a:0"));
    let last = first.split_off(2);
    settle(first, &Outcome::Done);
    let early = tokio::time::timeout(60 * SECOND, stream.receive(10)).await;
    assert!(early.is_err(), "b is not settled");
    settle(last, &Outcome::Done);
    let child = receive(&mut stream, 10).await;
    assert_eq!(bodies(&child), ["c0"]);
    settle(child, &Outcome::Done);
    close(stream).await;
    let checkpoints = Checkpoints::open(folder.path(), "s").unwrap();

    assert_eq!(checkpoints.of("a"), Some(Checkpoint::Finished));
    assert_eq!(checkpoints.of("c"), Some(Checkpoint::After("0".into())));
}

#[tokio::test(start_paused = true)]
async fn what_is_given_back_is_read_again_with_what_came_behind() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake::default());
    fake.shard("a", &[], &["k"; 5]);
    let mut stream = start(&fake, &settings(folder.path(), "batch = 5"));
    let mut three = receive(&mut stream, 3).await;
    assert_eq!(bodies(&three), ["a0", "a1", "a2"]);
    let retried = three.split_off(1);
    settle(three, &Outcome::Done);
    settle(retried, &Outcome::Retry { after: SECOND });
    assert!(
        stream.receive(10).await.unwrap().is_empty(),
        "the rest is void"
    );
    let again = receive(&mut stream, 10).await;
    assert_eq!(bodies(&again), ["a1", "a2", "a3", "a4"]);
    settle(again, &Outcome::Done);
    close(stream).await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_goes_on_behind_what_was_settled() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake::default());
    fake.shard("a", &[], &["k"; 4]);
    let settings = settings(folder.path(), "");
    let mut stream = start(&fake, &settings);
    let mut received = receive(&mut stream, 10).await;
    let last = received.pop().unwrap();
    settle(received, &Outcome::Done);
    last.handle.settle(Outcome::Released);
    close(stream).await;
    let mut stream = start(&fake, &settings);
    assert_eq!(bodies(&receive(&mut stream, 10).await), ["a3"]);
    close(stream).await;
}

#[tokio::test(start_paused = true)]
async fn iterators_expire_and_calls_are_throttled() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake::default());
    fake.shard("a", &[], &["k"; 4]);
    {
        let mut state = fake.state.lock();
        state.throttle = 3;
        state.expired.insert("a 2".to_owned());
    }
    let mut stream = start(&fake, &settings(folder.path(), "batch = 2"));
    let first = receive(&mut stream, 10).await;
    let second = receive(&mut stream, 10).await;
    assert_eq!(
        (bodies(&first), bodies(&second)),
        (
            vec!["a0".into(), "a1".into()],
            vec!["a2".into(), "a3".into()]
        )
    );
    let positions = fake.state.lock().positions.clone();
    let expected = [Position::Oldest, Position::After("1".into())];
    assert_eq!(
        positions,
        expected.map(|position| ("a".to_owned(), position))
    );
    drop((first, second));
    close(stream).await;
}

#[tokio::test(start_paused = true)]
async fn from_now_on_means_from_the_first_start() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake::default());
    fake.shard("closed", &[], &["k"]);
    fake.close("closed");
    fake.shard("open", &["closed"], &["k"]);
    let settings = settings(folder.path(), "start = \"now\"");
    for _ in 0..2 {
        let mut stream = start(&fake, &settings);
        let received = receive(&mut stream, 10).await;
        assert_eq!(bodies(&received), ["open0"]);
        drop(received);
        close(stream).await;
    }
    let positions = fake.state.lock().positions.clone();
    let since: HashSet<_> = positions
        .iter()
        .map(|(shard, position)| match position {
            Position::Since(ms) => (shard.as_str(), *ms),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(since.len(), 1, "the same moment each time: {positions:?}");
}

#[test]
fn samples_in_every_shape() {
    let given = br#"{"Records":[{"SequenceNumber":"7","PartitionKey":"p","Data":"aGk=","ApproximateArrivalTimestamp":1.5}]}"#;
    let called = br#"{"Records":[{"kinesis":{"sequenceNumber":"7","partitionKey":"p","data":"aGk=","approximateArrivalTimestamp":1.5}}]}"#;
    for file in [given.as_slice(), called] {
        let record = sample(file).remove(0);
        assert_eq!(
            (record.data.as_ref(), record.arrived_ms),
            (b"hi".as_slice(), Some(1500))
        );
    }
    assert_eq!(sample(b"{\"a\":1}")[0].data, "{\"a\":1}");
}
