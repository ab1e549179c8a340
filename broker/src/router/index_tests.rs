use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::samples::{filter, filters, topic, topics};
use super::super::shapes::MAX_SHAPES;
use super::*;

type Index = SubscriptionIndex<u32, u32>;

fn matching(index: &Index, on: &Topic) -> Vec<u32> {
    let mut found = Vec::new();
    index.matches(on, |value| found.push(*value));
    found.sort_unstable();
    found
}

/// A filter of ten levels with `+` where `mask` has a bit.
fn masked(mask: usize) -> Filter {
    let levels: Vec<_> = (0..10)
        .map(|level| if mask >> level & 1 == 1 { "+" } else { "x" })
        .collect();
    filter(&levels.join("/"))
}

#[test]
fn the_examples_of_the_standard() {
    for (on, expected) in [
        ("sport", vec!["#", "+", "sport/#"]),
        ("sport/", vec!["#", "+/+", "sport/#", "sport/+"]),
        (
            "sport/tennis",
            vec![
                "#",
                "+/+",
                "sport/#",
                "sport/+",
                "sport/tennis",
                "sport/tennis/#",
            ],
        ),
        ("/finance", vec!["#", "+/+", "/+"]),
        ("$SYS", vec!["$SYS/#"]),
        ("$SYS/monitor", vec!["$SYS/#", "$SYS/+"]),
        ("a/b/c", vec!["#", "+/+/c"]),
    ] {
        let mut index = SubscriptionIndex::new();
        for text in [
            "#",
            "+",
            "+/+",
            "/+",
            "sport/#",
            "sport/+",
            "sport/tennis",
            "sport/tennis/#",
            "$SYS/#",
            "$SYS/+",
            "+/+/c",
        ] {
            index.insert(&filter(text), 1, text.to_owned());
        }
        let mut found = Vec::new();
        index.matches(&topic(on), |text| found.push(text.clone()));
        found.sort_unstable();
        let mut expected = expected;
        expected.sort_unstable();
        assert_eq!(found, expected, "{on}");
    }
}

#[test]
fn the_same_filter_and_key_replace_the_value() {
    for text in ["a/b", "a/+", &["+"; 100].join("/")] {
        let (mut index, filter) = (Index::new(), filter(text));
        assert_eq!(index.insert(&filter, 1, 10), None);
        assert_eq!(index.insert(&filter, 2, 20), None);
        assert_eq!(index.insert(&filter, 1, 11), Some(10));
        assert_eq!(index.stats().subscriptions, 2);
        assert_eq!(index.remove(&filter, 3), None);
        assert_eq!(index.remove(&filter, 1), Some(11));
        assert_eq!(index.remove(&filter, 1), None);
        assert_eq!(index.remove(&filter, 2), Some(20));
        assert_eq!(index.stats(), IndexStats::default());
    }
}

#[test]
fn more_shapes_than_the_table_takes_overflow_and_come_back() {
    let (mut index, all) = (Index::new(), topic(&["x"; 10].join("/")));
    for mask in 1..1024 {
        index.insert(&masked(mask), 1, mask.try_into().unwrap());
    }
    let stats = index.stats();
    assert_eq!(
        (stats.shapes, stats.trie_filters),
        (MAX_SHAPES, 1023 - MAX_SHAPES)
    );
    assert_eq!(matching(&index, &all), (1..1024).collect::<Vec<_>>());

    // Shapes become free; a filter that overflowed is still the same filter.
    for mask in 1..=MAX_SHAPES {
        assert!(index.remove(&masked(mask), 1).is_some());
    }
    assert_eq!(index.stats().shapes, 0);
    assert_eq!(index.insert(&masked(1000), 1, 7), Some(1000));
    assert_eq!(index.insert(&masked(1000), 2, 8), None);
    assert_eq!(index.insert(&masked(1), 1, 1), None);
    let stats = index.stats();
    assert_eq!((stats.shapes, stats.trie_filters), (1, 1023 - MAX_SHAPES));
    assert_eq!(matching(&index, &all).len(), 1023 - MAX_SHAPES + 2);
    for mask in MAX_SHAPES + 1..1024 {
        assert!(index.remove(&masked(mask), 1).is_some());
    }
    assert_eq!(index.remove(&masked(1000), 2), Some(8));
    assert_eq!(matching(&index, &all), [1]);
}

#[test]
fn deep_topics_and_filters() {
    let mut index = Index::new();
    let deep = |levels: usize, last: &str| {
        let mut levels = vec!["a"; levels - 1];
        levels.push(last);
        levels.join("/")
    };
    // 64 levels and `#` are the most that has a shape.
    for (value, text) in [
        (1, deep(128, "+")),
        (2, deep(128, "#")),
        (3, deep(65, "#")),
        (4, deep(64, "+")),
        (5, deep(66, "#")),
        (6, deep(128, "a")),
        (7, "#".to_owned()),
        (8, ["+"; 128].join("/")),
        (9, deep(65, "+")),
    ] {
        index.insert(&filter(&text), 1, value);
    }
    let stats = index.stats();
    assert_eq!(
        (
            stats.exact_filters,
            stats.shaped_filters,
            stats.trie_filters
        ),
        (1, 3, 5)
    );
    for (levels, expected) in [
        (128, vec![1, 2, 3, 5, 6, 7, 8]),
        (127, vec![2, 3, 5, 7]),
        (65, vec![3, 5, 7, 9]),
        (64, vec![3, 4, 7]),
        (63, vec![7]),
    ] {
        assert_eq!(
            matching(&index, &topic(&deep(levels, "a"))),
            expected,
            "{levels}"
        );
    }
}

#[test]
fn a_hundred_thousand_subscribers_of_one_filter_come_and_go() {
    for text in ["news", "news/#"] {
        let (mut index, filter) = (Index::new(), filter(text));
        for key in 0..100_000 {
            index.insert(&filter, key, key);
        }
        for key in (0..100_000).rev().step_by(2) {
            assert_eq!(index.remove(&filter, key), Some(key));
        }
        let left: Vec<_> = (0..100_000).step_by(2).collect();
        assert_eq!(matching(&index, &topic("news")), left);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert(Filter, u32),
    Remove(Filter, u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (filters(), 0..3_u32, any::<bool>()).prop_map(|(filter, key, insert)| {
        if insert {
            Step::Insert(filter, key)
        } else {
            Step::Remove(filter, key)
        }
    });
    prop::collection::vec(step, 0..60)
}

/// Applies the steps to the index and to a plain map, comparing the answers.
fn follow(index: &mut Index, steps: Vec<Step>) -> BTreeMap<(Filter, u32), u32> {
    let mut model = BTreeMap::new();
    for (value, step) in (0_u32..).zip(steps) {
        match step {
            Step::Insert(filter, key) => {
                let before = index.insert(&filter, key, value);
                assert_eq!(before, model.insert((filter, key), value));
            }
            Step::Remove(filter, key) => {
                assert_eq!(index.remove(&filter, key), model.remove(&(filter, key)));
            }
        }
        assert_eq!(index.stats().subscriptions, model.len());
    }
    model
}

fn expected(model: &BTreeMap<(Filter, u32), u32>, on: &Topic) -> Vec<u32> {
    let matching = model.iter().filter(|((filter, _), _)| filter.matches(on));
    let mut values: Vec<_> = matching.map(|(_, value)| *value).collect();
    values.sort_unstable();
    values
}

proptest! {
    #[test]
    fn agrees_with_comparing_every_filter(
        steps in steps(),
        topics in prop::collection::vec(topics(), 1..10),
    ) {
        let mut index = Index::new();
        let model = follow(&mut index, steps);
        for on in topics {
            prop_assert_eq!(matching(&index, &on), expected(&model, &on), "{}", on);
        }
    }

    #[test]
    fn agrees_when_the_shapes_are_full(
        steps in steps(),
        topics in prop::collection::vec(topics(), 1..10),
    ) {
        let mut index = Index::new();
        for mask in 1..=MAX_SHAPES {
            index.insert(&masked(mask), u32::MAX, u32::MAX);
        }
        index.subscriptions = 0;
        let model = follow(&mut index, steps);
        prop_assert_eq!(index.stats().shaped_filters, MAX_SHAPES);
        for on in topics {
            prop_assert_eq!(matching(&index, &on), expected(&model, &on), "{}", on);
        }
    }
}
