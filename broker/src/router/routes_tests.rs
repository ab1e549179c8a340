use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::thread;

use proptest::prelude::*;

use super::super::samples::{filter, filters, topic, topics};
use super::*;

fn router() -> Router<u32, u32> {
    Router::new(CacheLimits::default())
}

fn sorted(routes: &Routes<Vec<u32>>) -> Vec<u32> {
    let mut list = routes.to_vec();
    list.sort_unstable();
    list
}

#[test]
fn a_list_is_computed_once_and_then_shared() {
    let router = router();
    router.insert(&filter("a/+"), 1, 10);
    router.insert(&filter("a/b"), 2, 20);
    let (first, second) = (router.routes(&topic("a/b")), router.routes(&topic("a/b")));
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!((sorted(&first), first.filters()), (vec![10, 20], 2));
    let stats = router.stats();
    assert_eq!((stats.hits, stats.misses, stats.cached_topics), (1, 1, 1));
}

#[test]
fn a_topic_without_subscribers_is_cached_too() {
    let router = router();
    assert!(router.routes(&topic("a")).is_empty());
    assert!(router.routes(&topic("a")).is_empty());
    assert_eq!((router.stats().hits, router.stats().misses), (1, 1));
    router.insert(&filter("a"), 1, 1);
    assert_eq!(router.routes(&topic("a")).to_vec(), [1]);
}

#[test]
fn an_exact_change_touches_only_its_topic() {
    let router = router();
    let (a, b) = (router.routes(&topic("a")), router.routes(&topic("b")));
    router.insert(&filter("a"), 1, 1);
    assert!(!router.is_current(&a) && router.is_current(&b));
    assert!(Arc::ptr_eq(&b, &router.routes(&topic("b"))));
    let a = router.routes(&topic("a"));
    router.remove(&filter("a"), 2);
    assert!(router.is_current(&a), "nothing was removed");
    router.remove(&filter("a"), 1);
    assert!(!router.is_current(&a));
}

#[test]
fn a_wildcard_change_leaves_other_topics_lists() {
    let router = router();
    let (a, b) = (router.routes(&topic("a/x")), router.routes(&topic("b/x")));
    router.insert(&filter("a/+"), 1, 1);
    assert!(Arc::ptr_eq(&b, &router.routes(&topic("b/x"))));
    assert!(router.is_current(&b) && !router.is_current(&a));
    assert_eq!(router.routes(&topic("a/x")).to_vec(), [1]);
    let stats = router.stats();
    assert_eq!((stats.rechecked, stats.misses), (1, 3));
}

#[test]
fn a_long_list_outlives_more_unrelated_changes_than_a_short_one() {
    let router = router();
    for key in 0..4000 {
        router.insert(&filter("all"), key, key);
    }
    let (long, short) = (router.routes(&topic("all")), router.routes(&topic("b")));
    for key in 0..500 {
        router.insert(&filter("c/+"), key, key);
    }
    assert!(Arc::ptr_eq(&long, &router.routes(&topic("all"))));
    assert!(!Arc::ptr_eq(&short, &router.routes(&topic("b"))));
}

#[test]
fn lists_of_before_the_log_are_dropped() {
    let router = router();
    let value = Arc::new(());
    let router_of_arcs: Router<_, _> = Router::new(CacheLimits::default());
    router_of_arcs.insert(&filter("a/+"), 1, Arc::clone(&value));
    for n in 0..40 {
        router_of_arcs.routes(&topic(&format!("a/{n}")));
    }
    router_of_arcs.remove(&filter("a/+"), 1);
    assert_eq!(Arc::strong_count(&value), 41);
    for key in 0..2 * u32::try_from(LOGGED).unwrap() {
        router_of_arcs.insert(&filter("b/+"), key, Arc::new(()));
        router.insert(&filter("b/+"), key, key);
    }
    assert_eq!(Arc::strong_count(&value), 1);

    // A publisher's own list is not mistaken for a current one afterwards.
    let kept = router.routes(&topic("c"));
    for key in 0..3 * u32::try_from(LOGGED).unwrap() {
        router.remove(&filter("b/+"), key);
    }
    assert!(!router.is_current(&kept));
}

#[test]
fn sweeping_lets_go_of_removed_subscribers() {
    let router: Router<_, _> = Router::new(CacheLimits::default());
    let value = Arc::new(());
    router.insert(&filter("#"), 1, Arc::clone(&value));
    router.routes(&topic("a"));
    router.remove(&filter("#"), 1);
    let current = router.routes(&topic("b"));
    router.sweep();
    assert_eq!(Arc::strong_count(&value), 1);
    assert!(router.is_current(&current));
}

#[test]
fn values_that_come_back_to_the_router_when_dropped_find_it_unlocked() {
    type Value = Option<Arc<Leaving>>;
    struct Leaving(Arc<Router<u32, Value>>);
    impl Drop for Leaving {
        fn drop(&mut self) {
            self.0.insert(&filter("left/+"), 0, None);
            self.0.remove(&filter("a/b"), 0);
        }
    }
    let router = Arc::new(Router::new(CacheLimits {
        topics: 16,
        bytes: 8192,
    }));
    for key in 0..3000 {
        let text = if key % 2 == 0 { "a/+" } else { "a/b" };
        let value = Arc::new(Leaving(Arc::clone(&router)));
        router.insert(&filter(text), 1, Some(value));
        router.routes(&topic("a/b"));
        router.routes(&topic(&format!("a/{key}")));
    }
    router.remove(&filter("a/+"), 1);
    router.remove(&filter("a/b"), 1);
    router.sweep();
    assert_eq!(Arc::strong_count(&router), 1);
}

#[derive(Clone, Debug)]
enum Step {
    Insert(Filter, u32),
    Remove(Filter, u32),
    Publish(Topic),
    Sweep,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (filters(), 0..3_u32).prop_map(|(filter, key)| Step::Insert(filter, key)),
        2 => (filters(), 0..3_u32).prop_map(|(filter, key)| Step::Remove(filter, key)),
        8 => topics().prop_map(Step::Publish),
        1 => Just(Step::Sweep),
    ];
    prop::collection::vec(step, 0..200)
}

proptest! {
    #[test]
    fn every_list_is_that_of_the_moment(steps in steps(), bytes in prop::sample::select(vec![0, 2000, 1 << 20])) {
        let router: Router<_, _> = Router::new(CacheLimits { topics: 32, bytes });
        let mut model = BTreeMap::new();
        for (value, step) in (0_u32..).zip(steps) {
            match step {
                Step::Insert(filter, key) => {
                    prop_assert_eq!(router.insert(&filter, key, value), model.insert((filter, key), value));
                }
                Step::Remove(filter, key) => {
                    prop_assert_eq!(router.remove(&filter, key), model.remove(&(filter, key)));
                }
                Step::Publish(topic) => {
                    let matching = model.iter().filter(|((filter, _), _)| filter.matches(&topic));
                    let mut expected: Vec<_> = matching.map(|(_, value)| *value).collect();
                    expected.sort_unstable();
                    prop_assert_eq!(sorted(&router.routes(&topic)), expected);
                }
                Step::Sweep => router.sweep(),
            }
            prop_assert!(router.stats().cached_bytes <= bytes);
        }
    }
}

/// Counts a thread out, also when it panics.
struct Busy<'a>(&'a AtomicUsize);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

#[test]
fn a_change_is_seen_by_all_who_come_after_it() {
    const WRITERS: u32 = 3;
    const ROUNDS: usize = 1500;
    // More topics than the cache has room for.
    let router: &Router<_, _> = &Router::new(CacheLimits {
        topics: 32,
        ..CacheLimits::default()
    });
    let writing = &AtomicUsize::new(WRITERS as usize);
    let names: Vec<_> = (0..40).map(|n| topic(&format!("t/{n}"))).collect();
    let names = &names;
    thread::scope(|scope| {
        for key in 0..WRITERS {
            scope.spawn(move || {
                let _busy = Busy(writing);
                for round in 0..ROUNDS {
                    let on = &names[round * 7 % names.len()];
                    let wanted = match round % 3 {
                        0 => Filter::exactly(on),
                        1 => filter("t/+"),
                        _ => filter("#"),
                    };
                    router.insert(&wanted, key, key);
                    let held = router.routes(on);
                    assert!(held.contains(&key), "{wanted} not seen on {on}");
                    router.remove(&wanted, key);
                    assert!(!router.is_current(&held));
                    assert!(!router.routes(on).contains(&key), "{wanted} still on {on}");
                }
            });
        }
        for reader in 0..2_usize {
            scope.spawn(move || {
                let mut at = reader;
                while writing.load(Ordering::Acquire) > 0 {
                    router.routes(&names[at % names.len()]);
                    at += 1;
                }
            });
        }
    });
    assert!(names.iter().all(|on| router.routes(on).is_empty()));
    assert_eq!(router.stats().index.subscriptions, 0);
}

/// A value that takes long to clone: who wants to change the index waits meanwhile, and goes on
/// at the very moment at which the list is complete.
#[derive(Debug, PartialEq)]
struct Slow(u32);

impl Clone for Slow {
    fn clone(&self) -> Self {
        thread::yield_now();
        Self(self.0)
    }
}

/// A list of before a change that is stored after it would stay: nothing else touches the topic.
#[test]
fn a_list_of_before_an_exact_change_is_never_stored_after_it() {
    const WRITERS: u32 = 2;
    const ROUNDS: u32 = 100;
    let router: &Router<_, _> = &Router::new(CacheLimits::default());
    let writing = &AtomicUsize::new(WRITERS as usize);
    let names: Vec<_> = (0..WRITERS).map(|n| topic(&n.to_string())).collect();
    let names = &names;
    thread::scope(|scope| {
        for (key, on) in (0_u32..).zip(names) {
            scope.spawn(move || {
                let _busy = Busy(writing);
                let wanted = Filter::exactly(on);
                for round in 0..ROUNDS {
                    router.insert(&wanted, key, Slow(round));
                    // Time for a list of before to be stored.
                    thread::yield_now();
                    assert_eq!(router.routes(on).to_vec(), [Slow(round)]);
                }
            });
        }
        for _ in 0..3 {
            scope.spawn(|| {
                while writing.load(Ordering::Acquire) > 0 {
                    for on in names {
                        router.routes(on);
                    }
                }
            });
        }
    });
}
