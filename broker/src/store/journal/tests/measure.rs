//! What the journal costs:
//! `cargo test --release -p broker --lib -- --ignored --nocapture journal::tests::measure`.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::{NOW, deliver, done, queue, session};
use crate::store::journal::{Durability, Journal, JournalConfig};
use crate::store::{Load, Loaded, QueueId, Store, Unit, Urgency};

const SESSIONS: u64 = 1_000;
const MESSAGES: u64 = 1_000_000;

/// Processor time of all threads of this process.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split(' ').collect();
    let ticks = |at: usize| -> u64 { fields.get(at).and_then(|it| it.parse().ok()).unwrap_or(0) };
    Duration::from_millis((ticks(12) + ticks(13)) * 10)
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or(0)
}

fn say(what: &str, count: u64, start: Instant, processor: Duration) {
    let wall = start.elapsed();
    let used = processor_time().saturating_sub(processor);
    let each = |time: Duration| time.as_nanos() / u128::from(count.max(1));
    println!(
        "{what}: {wall:.2?}, {} ns each, processor {used:.2?}, {} ns each, resident {} MiB",
        each(wall),
        each(used),
        resident_kib() / 1024
    );
}

fn load(store: &Journal, queue: QueueId, after: Option<u64>, messages: usize) -> Loaded {
    let (sender, receiver) = mpsc::channel();
    store.load(Load {
        queue,
        after,
        before: None,
        messages,
        bytes: usize::MAX,
        settled: false,
        then: Box::new(move |loaded| sender.send(loaded).unwrap()),
    });
    receiver.recv().unwrap()
}

fn settle(store: &Journal) {
    while store.durable() < store.taken() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
#[ignore = "a measurement"]
fn measure() {
    let root = tempfile::tempdir_in(std::env::var("MEASURE_DIR").unwrap_or("/tmp".into())).unwrap();
    let config = JournalConfig::new(root.path());
    let (store, _) = Journal::open(config.clone(), NOW).unwrap();
    for number in 1..=SESSIONS {
        store.append(unit(session(number)), Urgency::Later);
    }
    settle(&store);
    let before = resident_kib();
    let (start, processor) = (Instant::now(), processor_time());
    for position in 1..=MESSAGES {
        let to = (queue(1 + position % SESSIONS), position);
        while store.is_pressed() {
            std::thread::sleep(Duration::from_micros(200));
        }
        store.append(unit(deliver(vec![b'x'; 128], &[to])), Urgency::Now);
    }
    settle(&store);
    say(
        "append 1M messages of 128 bytes",
        MESSAGES,
        start,
        processor,
    );
    let stats = store.stats();
    println!(
        "flushes {}, mean {:?}, bytes per message {}, memory per message {} bytes",
        stats.flushes,
        stats.flush_time / u32::try_from(stats.flushes).unwrap(),
        stats.journal_bytes / MESSAGES,
        (resident_kib() - before) * 1024 / MESSAGES
    );
    store.close();
    drop(store);

    let (start, processor) = (Instant::now(), processor_time());
    let (store, recovered) = Journal::open(config.clone(), NOW).unwrap();
    say("open", MESSAGES, start, processor);
    assert_eq!(recovered.sessions.len() as u64, SESSIONS);

    let (start, processor) = (Instant::now(), processor_time());
    for owner in 1..=SESSIONS {
        let mut after = None;
        loop {
            let loaded = load(&store, queue(owner), after, 100);
            for entry in &loaded.entries {
                let op = done(queue(owner), entry.position);
                store.append(unit(op), Urgency::Later);
            }
            after = loaded.entries.last().map(|entry| entry.position);
            if !loaded.more {
                break;
            }
        }
    }
    settle(&store);
    say("drain 1M messages", MESSAGES, start, processor);
    let stats = store.stats();
    println!(
        "journal {} MiB, copied {}",
        stats.journal_bytes >> 20,
        stats.copied_bytes
    );
    store.close();

    one_by_one(JournalConfig {
        durability: Durability::Fsync,
        ..config
    });
}

/// One publisher that waits for each message.
fn one_by_one(config: JournalConfig) {
    const COUNT: u64 = 2_000;
    let (store, _) = Journal::open(config, NOW).unwrap();
    store.append(unit(session(1)), Urgency::Now);
    let (start, processor) = (Instant::now(), processor_time());
    let thread = std::thread::current();
    let waker = std::task::Waker::from(std::sync::Arc::new(Unpark(thread)));
    for position in 1..=COUNT {
        let to = (queue(1), MESSAGES + position);
        let seq = store.append(unit(deliver(vec![b'x'; 128], &[to])), Urgency::Now);
        store.wake_at(seq, &waker);
        while store.durable() < seq {
            std::thread::park();
        }
    }
    say("publish and wait, one by one", COUNT, start, processor);
    println!("flush times {:?}", store.stats().flush_buckets);
}

struct Unpark(std::thread::Thread);

impl std::task::Wake for Unpark {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.unpark();
    }
}

fn unit(op: crate::store::Op) -> Unit {
    let mut unit = Unit::default();
    unit.ops.push(op);
    unit
}
