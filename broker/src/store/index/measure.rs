//! What the index costs.

use std::time::Instant;

use protocols::connection::{Lane, RetainHandling, SubscribeRequest, SubscriptionId};
use protocols::model::{QoS, SubscriptionFilter};

use super::super::{Op, RetainedProgress, SubscriptionRecord};
use super::tests::{folder, payload, queued, session};
use super::{Changes, Hints, Index, Place, Sealed};

/// Prints what the index costs: `cargo test --release -p broker -- --ignored --nocapture measure`.
#[test]
#[ignore = "a measurement"]
fn measure() {
    let folder = folder();
    let index = Index::open(folder.path()).unwrap();
    let timed = |what: &str, since: Instant, index: &Index| {
        let size = index.size_on_disk().unwrap() / 1024;
        println!(
            "{what}: {:?}, {size} KiB on disk, {}",
            since.elapsed(),
            resident()
        );
    };
    let since = Instant::now();
    let mut seq = 0;
    for numbers in (1..=100_000).collect::<Vec<u64>>().chunks(10_000) {
        let mut changes = Changes::default();
        for number in numbers {
            seq += 1;
            let subscription = Op::Subscription {
                number: *number,
                record: Box::new(subscription()),
            };
            let ops = [session(*number, "client-000000"), subscription];
            let place = Place {
                segment: 7,
                offset: seq * 100,
            };
            changes.unit(seq, place, &payload(&ops)).unwrap();
        }
        index.apply(&changes, 1).unwrap();
    }
    timed("100,000 sessions with a subscription each", since, &index);
    let since = Instant::now();
    let mut bytes = 0;
    for segment in 0..20 {
        let mut hints = Hints::default();
        for offset in 0..50_000 {
            seq += 1;
            let owner = seq.wrapping_mul(2_654_435_761) % 100_000;
            hints
                .unit(seq, offset * 160, &payload(&[queued(owner, seq)]))
                .unwrap();
        }
        bytes += hints.len();
        let (first, last) = (seq - 49_999, seq);
        let sealed = Sealed {
            segment,
            epoch: 1,
            first,
            last,
        };
        index.seal(sealed, &hints).unwrap();
    }
    timed("1,000,000 hints in 20 segments", since, &index);
    println!("{bytes} bytes of hints");
    let since = Instant::now();
    index.close().unwrap();
    println!("close: {:?}", since.elapsed());

    let since = Instant::now();
    let mut index = Index::open(folder.path()).unwrap();
    timed("open", since, &index);
    let since = Instant::now();
    let mut count = 0;
    index.load(|_| count += 1).unwrap();
    timed("load the state", since, &index);
    assert_eq!(count, 200_000);
    let since = Instant::now();
    for sealed in index.sealed().unwrap() {
        index.hints(sealed.segment, |_| count += 1).unwrap();
    }
    timed("read the hints", since, &index);
    assert_eq!(count, 1_200_000);
    let since = Instant::now();
    index.forget_before(20).unwrap();
    timed("forget the hints", since, &index);
    for round in 1..=5 {
        for segment in round * 40..round * 40 + 40 {
            let mut hints = Hints::default();
            for offset in 0..50_000 {
                seq += 1;
                hints
                    .unit(seq, offset * 160, &payload(&[queued(seq % 100_000, seq)]))
                    .unwrap();
            }
            let sealed = Sealed {
                segment,
                epoch: 1,
                first: seq - 49_999,
                last: seq,
            };
            index.seal(sealed, &hints).unwrap();
            index.forget_before(segment.saturating_sub(2)).unwrap();
            if index.is_wasteful().unwrap() {
                timed("wasteful", since, &index);
                index = index.rewrite().unwrap();
                timed("rewritten", since, &index);
            }
        }
        timed("2,000,000 more hints, of which 100,000 stay", since, &index);
    }
}

fn subscription() -> SubscriptionRecord {
    SubscriptionRecord {
        id: SubscriptionId(1),
        request: SubscribeRequest {
            key: "sensors/+/temperature".into(),
            filter: SubscriptionFilter::parse("sensors/+/temperature".into(), 64, 8).unwrap(),
            qos: QoS::AtLeastOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
            identifier: None,
            lane: Lane::Session,
            auto_settle: false,
            durable: true,
        },
        retained: RetainedProgress::Done,
    }
}

/// Memory of this process, now and at most, as Linux tells it.
fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let lines = status.lines();
    let lines: Vec<_> = lines
        .filter(|line| line.starts_with("VmRSS") || line.starts_with("VmHWM"))
        .collect();
    lines.join(", ").replace(['\t', ' '], "")
}
