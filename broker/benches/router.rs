//! What routing costs: `cargo bench -p broker --bench router`.
//!
//! Prints wall time per operation, the best of some rounds. A run without `--bench` (as by
//! `cargo test --all-targets`) only shows that it works, on a hundredth of the size.

use std::hint::black_box;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use broker::router::{CacheLimits, Retained, RetainedLimits, Router, SubscriptionIndex};
use bytes::Bytes;
use protocols::model::{Filter, Message, QoS, Timestamp, Topic};

const ROUNDS: usize = 5;

/// As large as a session and its options in a route list.
type Value = (Arc<()>, u64);

fn main() {
    let scale = if std::env::args().any(|argument| argument == "--bench") {
        100
    } else {
        1
    };
    index(10_000 * scale);
    matching(10_000 * scale);
    shapes_at_their_limit();
    one_filter(10_000 * scale);
    cache(1000 * scale);
    fan_out(1000 * scale);
    retained(1000 * scale);
}

fn index(filters: usize) {
    let value: Value = (Arc::new(()), 1);
    let mut index = SubscriptionIndex::new();
    let wild: Vec<_> = (0..filters).map(wild_filter).collect();
    let exact: Vec<_> = (0..filters)
        .map(|n| filter(&format!("site/{}/device/{n}/set", n % 100)))
        .collect();
    once("insert a wildcard filter", filters, || {
        for (key, filter) in wild.iter().enumerate() {
            index.insert(filter, key, value.clone());
        }
    });
    once("insert an exact filter", filters, || {
        for (key, filter) in exact.iter().enumerate() {
            index.insert(filter, key, value.clone());
        }
    });
    let topics: Vec<_> = (0..1000)
        .map(|n| n * 997 % filters)
        .map(|n| topic(&format!("site/{}/device/{n}/set", n % 100)))
        .collect();
    best("match among both, without the cache", topics.len(), || {
        for topic in &topics {
            index.matches(topic, |value| {
                black_box(value);
            });
        }
    });
    println!("    {:?}", index.stats());
    once("remove a wildcard filter", filters, || {
        for (key, filter) in wild.iter().enumerate() {
            index.remove(filter, key);
        }
    });
}

/// What a match costs as the filters become more: one of them matches each topic.
fn matching(most: usize) {
    for filters in [1000, 10_000, 100_000, 1_000_000] {
        if filters > most {
            break;
        }
        let mut index = SubscriptionIndex::new();
        for key in 0..filters {
            index.insert(&filter(&format!("bench/w/{key}/+/x")), key, key);
        }
        let topics: Vec<_> = (0..1000)
            .map(|n| topic(&format!("bench/w/{}/y/x", n * 997 % filters)))
            .collect();
        let what = format!("match one of {filters} wildcard filters");
        best(&what, topics.len(), || {
            for topic in &topics {
                index.matches(topic, |value| {
                    black_box(value);
                });
            }
        });
    }
}

/// Four shapes, as of devices of a site.
fn wild_filter(n: usize) -> Filter {
    filter(&match n % 4 {
        0 => format!("site/{}/device/{n}/+", n % 100),
        1 => format!("site/{}/device/{n}/#", n % 100),
        2 => format!("site/+/device/{n}/state"),
        _ => format!("+/{}/device/{n}/#", n % 100),
    })
}

fn shapes_at_their_limit() {
    let mut index = SubscriptionIndex::new();
    for mask in 0..4096_usize {
        let levels: Vec<_> = (0..12)
            .map(|level| if mask >> level & 1 == 1 { "+" } else { "x" })
            .collect();
        index.insert(&filter(&levels.join("/")), 0, 0);
    }
    let (hit, miss) = (topic(&["x"; 12].join("/")), topic(&["y"; 12].join("/")));
    best("4096 shapes, all match", 1, || {
        index.matches(&hit, |value| {
            black_box(value);
        });
    });
    best("4096 shapes, one matches", 1, || {
        index.matches(&miss, |value| {
            black_box(value);
        });
    });
}

fn one_filter(subscribers: usize) {
    let router: Router<_, _> = Router::new(CacheLimits::default());
    let (filter, value): (_, Value) = (filter("news"), (Arc::new(()), 1));
    once("subscribe to one filter", subscribers, || {
        for key in 0..subscribers {
            router.insert(&filter, key, value.clone());
        }
    });
    once("unsubscribe from it", subscribers, || {
        for key in 0..subscribers {
            router.remove(&filter, key);
        }
    });
}

fn cache(topics: usize) {
    let router: Router<_, _> = Router::new(CacheLimits::default());
    let value: Value = (Arc::new(()), 1);
    router.insert(&filter("t/#"), 0, value.clone());
    let names: Vec<_> = (0..topics.max(20_000))
        .map(|n| topic(&format!("t/device/{n}/state")))
        .collect();
    for (what, count) in [
        ("1 topic", 1),
        ("100 topics", 100),
        ("10,000 topics", 10_000),
    ] {
        let rounds = 100_000 / count;
        best(
            &format!("route list from the cache, {what}"),
            rounds * count,
            || {
                for _ in 0..rounds {
                    for name in &names[..count] {
                        black_box(router.routes(name));
                    }
                }
            },
        );
    }
    let kept = router.routes(&names[0]);
    best("ask whether a list is current", 1000, || {
        for _ in 0..1000 {
            black_box(router.is_current(black_box(&kept)));
        }
    });
    best("route list on 2 threads, 100 topics", 100_000, || {
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        for name in &names[..100] {
                            black_box(router.routes(name));
                        }
                    }
                });
            }
        });
    });
    best("route list of a new topic (spray)", names.len(), || {
        for name in &names {
            black_box(router.routes(name));
        }
    });
    let other = filter("other/+/state");
    best("wildcard change with a full cache", 10_000, || {
        for key in 0..5000 {
            router.insert(&other, key, value.clone());
            router.remove(&other, key);
        }
    });
    println!("    {:?}", router.stats());
}

fn fan_out(subscribers: usize) {
    let router: Router<_, _> = Router::new(CacheLimits::default());
    let value: Value = (Arc::new(()), 1);
    let (filter, topic) = (filter("all"), topic("all"));
    for key in 0..subscribers {
        router.insert(&filter, key, value.clone());
    }
    best(
        "a new list after a subscribe, each subscriber",
        subscribers,
        || {
            router.insert(&filter, 0, value.clone());
            black_box(router.routes(&topic));
        },
    );
}

fn retained(devices: usize) {
    let retained = Retained::new(RetainedLimits::default());
    once("set a retained message", devices * 10, || {
        for n in 0..devices * 10 {
            let topic = topic(&format!("site/{}/device/{}/{}", n % 7, n / 10, n % 10));
            let message = Message::new(topic, Bytes::from_static(b"1"), QoS::AtMostOnce, true);
            let _ = black_box(retained.set(Arc::new(message), Timestamp(0)));
        }
    });
    for text in ["#", "site/+/device/+/3", "site/3/#", "site/+/device/777/+"] {
        let mut count = 0;
        let took = time(|| count = all(&retained, &filter(text)));
        println!("{took:>12.3?}  {text} finds {count}");
    }
}

fn all(retained: &Retained, filter: &Filter) -> usize {
    let (mut count, mut after) = (0, None);
    loop {
        let batch = retained.matching(filter, after.as_ref(), 256, Timestamp(0));
        count += batch.messages.len();
        after = batch.next;
        if after.is_none() {
            return count;
        }
    }
}

fn topic(text: &str) -> Topic {
    Topic::parse(text.into(), 1024, 32).expect("a topic")
}

fn filter(text: &str) -> Filter {
    Filter::parse(text.into(), 1024, 32).expect("a filter")
}

fn time(run: impl FnOnce()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed()
}

fn once(what: &str, operations: usize, run: impl FnOnce()) {
    print(what, operations, time(run));
}

fn best(what: &str, operations: usize, mut run: impl FnMut()) {
    let took = (0..ROUNDS).map(|_| time(&mut run)).min();
    print(what, operations, took.unwrap_or_default());
}

fn print(what: &str, operations: usize, took: Duration) {
    let operations = u32::try_from(operations).map_or(f64::NAN, f64::from);
    let nanos = took.as_secs_f64() * 1e9 / operations;
    println!("{nanos:>9.1} ns  {what}");
}
