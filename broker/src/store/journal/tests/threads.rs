//! The store with its threads, on the real disk.

use std::sync::Arc;
use std::sync::mpsc;
use std::task::{Wake, Waker};

use protocols::connection::Position;

use super::{NOW, deliver, done, queue, session};
use crate::store::journal::{Journal, JournalConfig, OpenError};
use crate::store::{Committed, Load, Loaded, Op, QueueId, Store, Unit, Urgency};

fn open(path: &std::path::Path) -> Arc<Journal> {
    Journal::open(JournalConfig::new(path), NOW).unwrap().0
}

fn unit(ops: impl IntoIterator<Item = Op>) -> Unit {
    Unit {
        ops: ops.into_iter().collect(),
        ..Unit::default()
    }
}

fn load(store: &dyn Store, queue: QueueId, settled: bool) -> Loaded {
    let (sender, receiver) = mpsc::channel();
    store.load(Load {
        queue,
        after: None,
        before: None,
        messages: 1_000_000,
        bytes: usize::MAX,
        settled,
        then: Box::new(move |loaded| sender.send(loaded).unwrap()),
    });
    receiver.recv().unwrap()
}

fn positions(loaded: &Loaded) -> Vec<Position> {
    loaded.entries.iter().map(|entry| entry.position).collect()
}

struct Bell(mpsc::Sender<()>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        let _ = self.0.send(());
    }
}

impl Committed for Bell {
    fn committed(self: Arc<Self>) {
        let _ = self.0.send(());
    }
}

#[test]
fn units_are_written_told_and_there_again() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let (sender, receiver) = mpsc::channel();
    let bell = Arc::new(Bell(sender));
    let mut first = unit([session(1), deliver("one", &[(queue(1), 1)])]);
    first.waiting.push(Arc::clone(&bell) as Arc<dyn Committed>);
    let ticket = Arc::clone(&first.ticket);
    assert_eq!(store.append(first, Urgency::Now), 1);
    receiver.recv().unwrap();
    assert!(ticket.is_durable());
    assert_eq!((store.taken(), store.durable()), (1, 1));

    // One that may wait is written in time all the same.
    let seq = store.append(unit([deliver("two", &[(queue(1), 2)])]), Urgency::Later);
    store.wake_at(seq, &Waker::from(Arc::clone(&bell)));
    receiver.recv().unwrap();
    assert!(store.durable() >= seq);
    store.append(unit([done(queue(1), 1)]), Urgency::Later);
    assert_eq!(positions(&load(store.as_ref(), queue(1), true)), [2]);
    assert_eq!(store.room(), Ok(()));
    assert!(!store.is_pressed());
    let stats = store.stats();
    assert_eq!((stats.units, stats.stored_messages), (3, 1));
    assert!(stats.flushes >= 1 && stats.bytes > 0);

    store.append(unit([deliver("three", &[(queue(1), 3)])]), Urgency::Later);
    store.close();
    store.close();
    drop(store);
    let store = open(root.path());
    assert_eq!(positions(&load(store.as_ref(), queue(1), false)), [2, 3]);
    assert_eq!(store.taken(), 4);
}

#[test]
fn many_threads_append_at_once() {
    const EACH: u64 = 2_000;
    let root = tempfile::tempdir().unwrap();
    let mut config = JournalConfig::new(root.path());
    config.segment_bytes = 64 * 1024;
    let (store, _) = Journal::open(config.clone(), NOW).unwrap();
    store.append(unit((1..=4).map(session)), Urgency::Later);
    std::thread::scope(|scope| {
        for owner in 1..=4 {
            let store = &store;
            scope.spawn(move || {
                for position in 1..=EACH {
                    let ops = [deliver("x".repeat(50), &[(queue(owner), position)])];
                    store.append(unit(ops), Urgency::Now);
                    if position > 100 {
                        store.append(unit([done(queue(owner), position - 100)]), Urgency::Later);
                    }
                }
            });
        }
    });
    for owner in 1..=4 {
        let expected: Vec<Position> = (EACH - 99..=EACH).collect();
        assert_eq!(
            positions(&load(store.as_ref(), queue(owner), true)),
            expected
        );
    }
    store.close();
    let taken = store.taken();
    drop(store);
    let (store, recovered) = Journal::open(config, NOW).unwrap();
    assert_eq!(store.taken(), taken);
    assert_eq!(recovered.sessions.len(), 4);
    assert!(
        recovered
            .sessions
            .iter()
            .all(|it| it.queues[0].messages == 100)
    );
}

#[test]
fn a_second_store_on_the_same_directory_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let second = Journal::open(JournalConfig::new(root.path()), NOW);
    assert!(matches!(second, Err(OpenError::InUse { .. })));
    store.close();
    open(root.path());
}

#[test]
fn files_are_for_the_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("data");
    open(&path).append(unit([session(1)]), Urgency::Now);
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&path.join("journal"))), (0o700, 0o700));
    assert_eq!(mode(&path.join("format")), 0o600);
    for segment in std::fs::read_dir(path.join("journal")).unwrap() {
        assert_eq!(mode(&segment.unwrap().path()), 0o600);
    }
}
