//! Receipts against a queue that does what the test says.

use std::collections::VecDeque;

use futures_util::FutureExt as _;

use super::super::message::Message;
use super::*;

#[derive(Debug, Default)]
struct Fake {
    deletes: Mutex<Vec<Vec<String>>>,
    visible: Mutex<Vec<Vec<(String, u64)>>>,
    /// What the next calls answer; afterwards all is well.
    answers: Mutex<VecDeque<Result<Vec<Failed>, SourceError>>>,
}

impl Api for Fake {
    fn receive(
        &self,
        _: usize,
        _: Duration,
        _: Duration,
    ) -> BoxFuture<'_, Result<Vec<Message>, SourceError>> {
        async { Ok(Vec::new()) }.boxed()
    }

    fn delete(&self, receipts: Vec<String>) -> BoxFuture<'_, Result<Vec<Failed>, SourceError>> {
        self.deletes.lock().push(receipts);
        let answer = self.answers.lock().pop_front();
        async { answer.unwrap_or(Ok(Vec::new())) }.boxed()
    }

    fn change_visibility(
        &self,
        entries: Vec<(String, u64)>,
    ) -> BoxFuture<'_, Result<Vec<Failed>, SourceError>> {
        self.visible.lock().push(entries);
        async { Ok(Vec::new()) }.boxed()
    }
}

fn start(visibility_secs: u64) -> (Arc<Fake>, Arc<Receipts>) {
    let fake = Arc::new(Fake::default());
    let api: Arc<dyn Api> = Arc::clone(&fake) as Arc<dyn Api>;
    let visibility = Duration::from_secs(visibility_secs);
    let receipts = Receipts::start(api, visibility, "s".into(), Arc::default());
    (fake, receipts)
}

fn failed(index: usize, for_good: bool) -> Failed {
    let reason = "because".to_owned();
    Failed {
        index,
        for_good,
        reason,
    }
}

#[tokio::test(start_paused = true)]
async fn deletes_in_batches_of_ten_what_is_done_and_nothing_else() {
    let (fake, receipts) = start(30);
    let handles: Vec<_> = (0..25).map(|n| receipts.hold(format!("r{n}"))).collect();
    for (n, handle) in handles.into_iter().enumerate() {
        handle.settle(if n == 7 {
            Outcome::Released
        } else {
            Outcome::Done
        });
    }
    receipts.settled().await;
    let deletes = fake.deletes.lock();
    assert!(deletes.iter().all(|batch| batch.len() <= 10));
    let mut gone: Vec<_> = deletes.iter().flatten().cloned().collect();
    gone.sort();
    let mut expected: Vec<_> = (0..25)
        .filter(|n| *n != 7)
        .map(|n| format!("r{n}"))
        .collect();
    expected.sort();
    assert_eq!(gone, expected);
    assert!(deletes.len() <= 4, "{deletes:?}");
    assert_eq!(*fake.visible.lock(), [[("r7".to_owned(), 0)]]);
}

#[tokio::test(start_paused = true)]
async fn entries_that_failed_are_deleted_again_alone() {
    let (fake, receipts) = start(30);
    fake.answers.lock().extend([
        Err(SourceError::new("away")),
        Ok(vec![failed(1, false), failed(2, true)]),
    ]);
    let handles: Vec<_> = (0..3).map(|n| receipts.hold(format!("r{n}"))).collect();
    for handle in handles {
        handle.settle(Outcome::DeadLettered);
    }
    receipts.settled().await;
    let all = ["r0", "r1", "r2"].map(str::to_owned).to_vec();
    assert_eq!(
        *fake.deletes.lock(),
        [all.clone(), all, vec!["r1".to_owned()]]
    );
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_never_answers_does_not_hold_up_a_stop_for_ever() {
    let (fake, receipts) = start(30);
    let away = || Err(SourceError::new("away"));
    fake.answers
        .lock()
        .extend(std::iter::repeat_with(away).take(100));
    receipts.hold("r".into()).settle(Outcome::Done);
    receipts.settled().await;
    assert_eq!(fake.deletes.lock().len(), TRIES as usize);
}

#[tokio::test(start_paused = true)]
async fn visibility_is_extended_while_an_event_is_under_way() {
    let (fake, receipts) = start(30);
    let handle = receipts.hold("r".into());
    tokio::time::sleep(Duration::from_mins(5)).await;
    let beats = fake.visible.lock().len();
    assert!((20..=60).contains(&beats), "{beats}");
    assert!(
        fake.visible
            .lock()
            .iter()
            .all(|batch| *batch == [("r".to_owned(), 30)])
    );
    handle.settle(Outcome::Retry {
        after: Duration::from_secs(7),
    });
    receipts.settled().await;
    assert_eq!(fake.visible.lock().last().unwrap(), &[("r".to_owned(), 7)]);
    let told = fake.visible.lock().len();
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(fake.visible.lock().len(), told, "not any more");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_extended_beyond_what_sqs_allows() {
    let (fake, receipts) = start(43_200);
    let _handle = receipts.hold("r".into());
    tokio::time::sleep(Duration::from_secs(40_000)).await;
    assert!(fake.visible.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_handle_that_is_dropped_gives_its_message_back() {
    let (fake, receipts) = start(30);
    drop(receipts.hold("r".into()));
    receipts.settled().await;
    assert_eq!(*fake.visible.lock(), [[("r".to_owned(), 0)]]);
    let poison = Outcome::Poison { reason: "x".into() };
    receipts.hold("p".into()).settle(poison);
}
