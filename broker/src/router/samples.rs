//! Topics and filters for the tests of the router.

use proptest::prelude::*;
use protocols::model::{Filter, Topic};

/// A topic of at most 128 levels.
pub(super) fn topic(text: &str) -> Topic {
    Topic::parse(text.into(), 65_535, 128).unwrap()
}

/// A filter of at most 128 levels.
pub(super) fn filter(text: &str) -> Filter {
    Filter::parse(text.into(), 65_535, 128).unwrap()
}

/// Topics of few words, so that filters meet them: empty levels, `$`, levels that begin alike,
/// and characters below `/`.
pub(super) fn topics() -> impl Strategy<Value = Topic> {
    let level = prop::sample::select(vec!["a", "b", "", "ab", "a!", "$", "\u{1}", "ä"]);
    prop::collection::vec(level, 1..5)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("a topic is not empty", |text| !text.is_empty())
        .prop_map(|text| topic(&text))
}

/// Filters for [`topics`].
pub(super) fn filters() -> impl Strategy<Value = Filter> {
    let level = prop::sample::select(vec!["a", "b", "+", "+", "", "ab", "a!", "$", "\u{1}", "ä"]);
    (prop::collection::vec(level, 0..5), any::<bool>())
        .prop_map(|(mut levels, tail)| {
            levels.extend(tail.then_some("#"));
            levels.join("/")
        })
        .prop_filter("a filter is not empty", |text| !text.is_empty())
        .prop_map(|text| filter(&text))
}
